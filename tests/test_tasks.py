"""Tasks are plain Python, own their options, and may come from outside the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BARE, NARROW, Answer
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from ganexp.cli import checks, config
from ganexp.cli.messages import ConfigError, options
from ganexp.cli.overrides import keys_of
from ganexp.tasks.evaluate import Evaluate
from ganexp.tasks.sample import Sample

Cli = Callable[..., Answer]
ROOT = Path(__file__).parent.parent


def test_tasks_run_without_hydra(cli: Cli, run_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sample and evaluate where Hydra composes nothing; the samples equal those of the command line."""
    run = run_of("model=mlp", "data=sine", *BARE, *NARROW["mlp"])
    assert cli("task=sample", f"run={run}", "task.num=5", "seed=3", "hydra.run.dir=cli").code == 0
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    hardware = {"_target_": "pytorch_lightning.Trainer", "_partial_": True, "accelerator": "cpu", "devices": 1}
    given = {"run": str(run), "trust": [], "seed": 3, "hardware": hardware}
    swd = {"_target_": "ganexp.metrics.swd.SlicedWasserstein", "features": {"_target_": "ganexp.metrics.features.Pixels"}}
    sine = {"_target_": "ganexp.data.toy.Sine", "shape": [2], "classes": 0, "batch_size": 8, "seed": 1, "points_seed": 1}
    measures = given | {"metrics": {"swd": swd}}
    tasks = [
        Sample(given, tmp_path / "samples", num=5),
        Evaluate(measures, tmp_path / "own", num_images=32),
        Evaluate(measures | {"data": sine}, tmp_path / "other", num_images=32),
    ]
    for task in tasks:
        task.setup()
        assert not task.run()
    assert not GlobalHydra.instance().is_initialized() and not HydraConfig.initialized()
    assert (tmp_path / "samples" / "samples.npy").read_bytes() == (tmp_path / "cli" / "samples.npy").read_bytes()
    values = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("own", "other")]
    assert values[0]["values"]["swd/pixels"]["value"] != values[1]["values"]["swd/pixels"]["value"]

    no = tmp_path / "no"
    refused: dict[str, Callable[[], object]] = {
        "num: must be at least 1, got 0": lambda: Sample(given, no, num=0),
        "label: this model is unconditional": lambda: Sample(given, no, label=1).setup(),
        "metrics: at least one is required": lambda: Evaluate(given | {"metrics": {}}, no),
        "run: required by task=evaluate": lambda: Evaluate(measures | {"run": None}, no),
    }
    for message, make in refused.items():
        with pytest.raises((ConfigError, ValueError), match=f"^{message}"):
            make()
    assert not no.exists()


def test_tasks_do_not_use_hydra() -> None:
    texts = {file.name: file.read_text() for file in (ROOT / "ganexp" / "tasks").glob("*.py")}
    assert len(texts) >= 8 and not [name for name, text in texts.items() if "HydraConfig" in text or "GlobalHydra" in text]


def test_every_task_option_has_a_comment_and_its_default() -> None:
    """Each key has a comment beside it, and is an argument of its class with the same default."""
    import inspect

    from hydra.utils import get_object

    with config.config_tree():
        names = options("task")
    tools = {"interpolate", "walk", "truncate", "style_mix", "neighbours", "directions", "attributes", "project", "spectrum"}
    tools |= {"reconstruct", "export", "explore"}
    assert {
        "train",
        "check",
        "resume",
        "sample",
        "evaluate",
        "compare",
        "prepare",
        "inspect",
        "report",
        "leaderboard",
        "study",
    } | tools == set(names)
    for name in names:
        text = (config.CONF_DIR / "task" / f"{name}.yaml").read_text()
        node = yaml.safe_load(text)
        node = node.get("task", node)
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        for key, value in node.items():
            if key in config.TASK_KEYS:
                continue
            default = parameters[key].default
            default = list(default) if isinstance(default, tuple) else default
            assert value == ("???" if default is inspect.Parameter.empty else default) or (key, value) == ("runs", []), (
                name,
                key,
            )
            line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
            assert "  # " in line, (name, key)


def test_task_gets_only_the_groups_it_needs(tmp_path: Path) -> None:
    from ganexp.cli.jobs import config_of_task

    def of(*words: str) -> dict[str, Any]:
        with config.config_tree():
            cfg = checks.compose_checked(words)
            return config_of_task(config.resolved(cfg), keys_of(words))

    assert of("task=sample", "run=x").keys() == {"run", "trust", "seed", "hardware"}
    evaluate = of("task=evaluate", "run=x")
    assert evaluate.keys() == {"trust", "metrics", "extractor", "hardware", "run", "data"} and evaluate["data"] is None
    assert of("task=evaluate", "run=x", "data=sine")["data"]["_target_"] == "ganexp.data.toy.Sine"
    train = of()
    assert not train.keys() & {"task", "run", "trust"} and {"model", "data", "trainer", "name"} <= train.keys()
    resume = of("task=resume", "run=x", "trainer.max_steps=7")
    assert resume["trainer"]["max_steps"] == 7 and resume["model"] is None


def test_config_of_a_run_has_no_keys_of_other_tasks(cli: Cli) -> None:
    answer = cli("model=mlp", "data=sine", *BARE, *NARROW["mlp"])
    kept = yaml.safe_load((answer.run / "config.yaml").read_text())
    assert kept.keys() == {*config.Config.__dataclass_fields__} - {"task", "run", "trust", "study"}


# -- from outside the package ----------------------------------------------------------------------------------------------

MINE = """
class Count:
    def __init__(self, config, run_dir, to, step: int = 1):
        if to < 0:
            raise ValueError(f"to: at least 0, not {to}")
        if to == 13:
            raise KeyError("bad luck")
        self.config, self.run_dir, self.to, self.step = config, run_dir, to, step

    def run(self):
        print("count", list(range(0, self.to, self.step)), sorted(self.config), self.config["seed"])
        (self.run_dir / "counted").write_text("")
        return "not an exit code"


class Fails(Count):
    def run(self):
        raise RuntimeError("in the middle")


class Without:
    def __init__(self, config, run_dir):
        pass


class Narrow:
    def __init__(self, folder):
        pass

    def run(self):
        pass
"""


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], None]:
    (tmp_path / "my_count.py").write_text(MINE)
    (tmp_path / "mine" / "task").mkdir(parents=True)
    return lambda text: (tmp_path / "mine" / "task" / "count.yaml").write_text(text) and None


WHOLE = "_target_: my_count.Count\nneeds: [seed]\nto: 3\nstep: 1\n"


def test_own_task_runs_from_outside_the_package(cli: Cli, mine: Callable[[str], None], tmp_path: Path) -> None:
    mine(WHOLE)
    answer = cli("--config-dir", "mine", "task=count", "task.to=5", "task.step=2", "seed=4")
    assert answer.code == 0, answer.err
    assert "count [0, 2, 4] ['seed'] 4" in answer.out
    assert len(list((tmp_path / "outputs" / "count").glob("*/counted"))) == 1  # the folder has the task's name
    answer = cli("--config-dir", "mine", "-m", "task=count", "task.to=1,2")
    assert answer.code == 0 and "all 2 jobs finished" in answer.out, answer.err


@pytest.mark.parametrize(
    "text, words, message",
    [
        (WHOLE, ["task.ot=3"], "task.ot: there is no such key; did you mean task.to? (there are: task.step, task.to)"),
        (WHOLE, ["to=3"], "to: there is no such key; did you mean task.to?"),
        (WHOLE, ["data=sine"], "data: not used by task=count (it uses: task.to, task.step, name, seed)"),
        (WHOLE, ["task.step=x"], "task.step: 'x' is not of type int"),
        (WHOLE, ["task.to=-1"], "task.to: at least 0, not -1"),
        (WHOLE, ["task.to=13"], "task: KeyError: 'bad luck'"),
        (WHOLE + "odd: 1\n", [], "task.odd: my_count.Count has no such argument"),
        (WHOLE + "config: 1\n", [], "task.config: is set by ganexp itself"),
        (WHOLE.replace("to: 3\n", ""), [], "task.to: my_count.Count requires this argument"),
        (WHOLE.replace("to: 3", "to: ???"), [], "task.to: is required: task.to=…"),
        (WHOLE.replace("Count", "Cuont"), [], "task._target_: my_count.Cuont cannot be imported"),
        (WHOLE.replace("my_count", "your_count"), [], "task._target_: your_count.Count cannot be imported"),
        (WHOLE.replace("[seed]", "[sead]"), [], "task.needs: 'sead' is not a top-level key; did you mean seed?"),
        (WHOLE.replace("[seed]", "seed"), [], "task.needs: must be a list of top-level keys, got 'seed'"),
        (
            WHOLE.replace("[seed]", "[run]"),
            [],
            "run: required by task=count: run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt",
        ),
        (WHOLE + "in_run_folder: true\n", [], "task.in_run_folder: must be false, or true with needs: [run, …]"),
        ("needs: [seed]\n", [], "task: must be a mapping with a _target_; choose an option of the group:"),
        ("_target_: my_count.Without\n", [], "task._target_: my_count.Without has no method run()"),
        ("_target_: my_count.Narrow\n", [], "task._target_: the constructor of my_count.Narrow must take"),
        ("_target_: my_count\n", [], "task._target_: my_count is not a class or a function"),
    ],
)
def test_mistakes_in_an_own_task_give_one_message(
    text: str, words: list[str], message: str, cli: Cli, mine: Callable[[str], None], tmp_path: Path
) -> None:
    mine(text)
    answer = cli("--config-dir", "mine", "task=count", *words)
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}") and answer.err.count("\n") == 1, answer.err
    assert not (tmp_path / "outputs").exists()


def test_failing_task_exits_with_1_and_one_message(cli: Cli, mine: Callable[[str], None]) -> None:
    mine(WHOLE.replace("Count", "Fails"))
    answer = cli("--config-dir", "mine", "task=count")
    assert answer.code == 1 and "RuntimeError: in the middle" in answer.err and "Traceback" not in answer.err


def test_full_error_shows_the_traceback(cli: Cli, mine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mine(WHOLE)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["ganexp", "--config-dir", "mine", "task=count", "task.to=13"])
    from ganexp.cli.main import main

    with pytest.raises(KeyError):
        main()


def test_own_task_may_work_in_the_folder_of_a_run(cli: Cli, mine: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "my_in_place.py").write_text(
        "class Count:\n"
        "    def __init__(self, config, run_dir, override_keys):\n"
        "        self.run_dir, self.override_keys = run_dir, override_keys\n\n"
        "    def run(self):\n"
        "        (self.run_dir / 'counted').write_text(' '.join(self.override_keys))\n"
    )
    mine("_target_: my_in_place.Count\nneeds: [run, seed]\nin_run_folder: true\n")
    (tmp_path / "run").mkdir()
    assert cli("--config-dir", "mine", "task=count", "run=run", "seed=3", "hydra.output_subdir=null").code == 0
    assert (tmp_path / "run" / "counted").read_text() == "task run seed"


def test_unlike_keys_are_not_suggested() -> None:
    with config.config_tree(), pytest.raises(ConfigError, match="alignn: there is no such key") as refused:
        checks.compose_checked(["alignn=true"])
    assert "background" not in str(refused.value) and "colour_only" not in str(refused.value)
