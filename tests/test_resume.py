"""A resumed run equals the run that never stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Answer
from helpers import SHORT, kill_after, rows, same, state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ganexp.callbacks.checkpoint import Checkpoint
from ganexp.cli.messages import ConfigError
from ganexp.tasks.resume import refuse_changes

NOISY = ["loss.real=[0.8,1]", "loss.generator=[0.8,1]"]  # labels drawn for every sample
STATEFUL = [  # averages in terms, probabilities in an augmentation, vectors in a constraint
    "regularizer=[lecam,path_length]", "regularizer.lecam.start=3", "augment=[ada]", "constraint=[spectral_norm]",
]  # fmt: skip


@pytest.mark.parametrize(
    "choices",
    [
        ["model=cdcgan", "regularizer=[r1,wgan_gp]", "regularizer.r1.every=4", "augment=[flip]", "model.d_steps=5"],
        *(
            pytest.param(choices, marks=pytest.mark.slow)
            for choices in (
                ["model=dcgan", *STATEFUL],
                ["model=mlp", "data=sine"],
                ["model=acgan", *NOISY, "model.separate=true", "model.g_steps=2", "data.replacement=true"],
                ["model=vae", "schedule=cosine", "optimizer=rmsprop"],
                ["model=gmmn", "hardware.precision=bf16-mixed"],
            )
        ),
    ],
    ids=lambda c: c[0],
)
def test_resumed_run_equals_the_whole_one(choices: list[str], cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Stopped in the middle of an epoch of three batches."""
    whole, parts = tmp_path / "outputs" / "whole", tmp_path / "parts"
    assert cli(*choices, *SHORT, "trainer.max_steps=12", "callbacks.checkpoint.keep=9", f"hydra.run.dir={whole}").code == 0
    shutil.copytree(whole, parts)  # wherever a run is, it continues there
    kill_after(6, parts)
    for picture in (parts / "samples").glob("*-0000001*.png"):
        picture.unlink()
    answer = cli("task=resume", f"run={parts}")
    assert answer.code == 0, answer.err
    assert "resumed at step 6" in answer.out
    assert same(state(whole), state(parts))
    assert rows(whole) == rows(parts)
    pictures = sorted(file.name for file in (whole / "samples").iterdir())
    assert pictures == sorted(file.name for file in (parts / "samples").iterdir()) and len(pictures) > 3
    for picture in (whole / "samples").iterdir():
        assert picture.read_bytes() == (parts / "samples" / picture.name).read_bytes(), picture.name
    record = json.loads((parts / "run.json").read_text())
    assert record["status"] == "finished" and record["resumed_at"] == [6] and record["steps"] == 12


ENDS = [
    ["model=mlp", "data=sine", "trainer.metrics_every=5", "trainer.samples_every=5", "trainer.checkpoint_every=5"],
    ["model=mlp", "data=sine", "trainer.log_every=5", "trainer.log_window=9", "trainer.metrics_every=6",
     "trainer.samples_every=9", "trainer.checkpoint_every=10"],
    ["model=cdcgan", "regularizer=[r1,lecam]", "augment=[ada]", "model.d_steps=3", "data.batch_size=64", "trainer.log_every=5",
     "trainer.metrics_every=5", "trainer.samples_every=8", "trainer.checkpoint_every=5", "extractor=random"],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("choices", ENDS)
def test_run_made_longer_twice_equals_one_of_the_full_length(
    choices: list[str], cli: Callable[..., Answer], tmp_path: Path
) -> None:
    """Neither end is a multiple of all intervals: nothing of them stays."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli(*SHORT, *choices, "trainer.max_steps=20", f"hydra.run.dir={whole}").code == 0
    assert cli(*SHORT, *choices, "trainer.max_steps=8", f"hydra.run.dir={parts}").code == 0
    assert (parts / "samples" / "step-00000008.png").is_file()
    for steps in (13, 20):
        assert cli("task=resume", f"run={parts}", f"trainer.max_steps={steps}").code == 0
    assert same(state(whole), state(parts)) and rows(whole) == rows(parts)
    for folder in ("samples", "checkpoints"):
        assert {file.name for file in (whole / folder).iterdir()} == {file.name for file in (parts / folder).iterdir()}
    assert all(file.read_bytes() == (parts / "samples" / file.name).read_bytes() for file in (whole / "samples").iterdir())
    best = [torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"] for run in (whole, parts)]
    records = [json.loads((run / "run.json").read_text()) for run in (whole, parts)]
    assert same(*best) and all(records[0][key] == records[1][key] for key in ("metrics", "best", "remarks", "standings"))
    assert curves(whole) == curves(parts)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every scalar in TensorBoard."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_end_that_improves_nothing_or_was_killed_leaves_the_best_checkpoint(tmp_path: Path) -> None:
    """The former best.ckpt comes back, also if the end was killed before it wrote last.ckpt."""
    (tmp_path / "best.ckpt").write_text("of the end")
    (tmp_path / "best.before").write_text("of step 30")
    callback, trainer = Checkpoint(str(tmp_path), every=30), SimpleNamespace(global_step=30, is_global_zero=True)
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert (tmp_path / "best.ckpt").read_text() == "of step 30" and not (tmp_path / "best.before").exists()
    callback.load_state_dict({"best": {"step": 37}, "former": {"best": {"step": 30}}})
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert callback.best == {"step": 30} and (tmp_path / "best.ckpt").read_text() == "of step 30"
    callback.load_state_dict({"best": {"step": 37}, "former": {"best": None}})
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert callback.best is None and not (tmp_path / "best.ckpt").exists()


def test_resumed_run_continues_the_tensorboard_curve(short_run: Path, cli: Callable[..., Answer]) -> None:
    kill_after(2, short_run)
    assert cli("task=resume", f"run={short_run}").code == 0
    events = EventAccumulator(str(short_run))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/generator")] == [1, 2, 3, 4]


def test_damaged_checkpoint_is_skipped(short_run: Path, cli: Callable[..., Answer]) -> None:
    run = short_run
    for file in ("last.ckpt", "step-00000004.ckpt"):
        whole = (run / "checkpoints" / file).read_bytes()
        (run / "checkpoints" / file).unlink()
        (run / "checkpoints" / file).write_bytes(whole[: len(whole) // 2])
    answer = cli("task=resume", f"run={run}")
    assert answer.code == 0, answer.err
    assert "skipped last.ckpt" in answer.out and "resumed at step 2" in answer.out


def test_resume_refuses_a_run_at_its_last_step(short_run: Path, cli: Callable[..., Answer]) -> None:
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and "is at its last step, 4; to continue, add trainer.max_steps=8" in answer.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["task=resume"], "run: required by task=resume: run=outputs/NAME/TIME, or run=latest"),
        (["task=resume", "run=nowhere"], "run: there is no folder nowhere"),
        (["task=resume", "run=."], "has no config.yaml; pass the folder of a run"),
        (["task=resume", "run=.", "task.num=3"], "task.num: there is no such key"),
        (["run=outputs"], "run: not used by task=train"),
    ],
)
def test_resume_refuses_bad_arguments_in_one_message(arguments: list[str], message: str, cli: Callable[..., Answer]) -> None:
    answer = cli(*arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
    assert not list(answer.folder.iterdir())


@pytest.fixture
def short_run(run_of: Callable[..., Path], tmp_path: Path) -> Path:
    run = run_of("model=mlp", "data=sine", "schedule=linear", *SHORT, "trainer.max_steps=4")
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize(
    "override, message",
    [
        ("trainer.max_steps=9", "trainer.max_steps: 9, but the schedule, LinearLR, ends at step 4"),
        (
            "loss=hinge",
            "loss._target_ is ganexp.losses.BCE, not ganexp.losses.Hinge (these may change: trainer,",
        ),
        ("seed=6", "a resumed run keeps its config: seed is 5, not 6 (these may change"),
        (
            "experiment=mnist_mlp",
            "data._target_ is ganexp.data.toy.Sine, not ",
        ),
        ("hardware.strategy.x=1", "there is no such key"),
        ("+hardware.precison=3", "hardware.precison: pytorch_lightning.Trainer has no such argument"),
    ],
)
def test_resume_refuses_options_that_cannot_change(
    override: str, message: str, short_run: Path, cli: Callable[..., Answer]
) -> None:
    kill_after(2, short_run)
    before = {path: path.read_bytes() for path in short_run.rglob("*") if path.is_file()}
    answer = cli("task=resume", f"run={short_run}", override)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err
    assert all(path.read_bytes() == before[path] for path in short_run.rglob("*") if path.is_file())


def test_keys_that_follow_another_one_are_counted() -> None:
    shapes, rates = ([1, 8, 8], [3, 8, 8]), (1, 2)
    changes = {"callbacks.x.shape": shapes, "data.shape": shapes, "model.generator.shape": shapes, "seed": rates}
    message = r"^run: data\.shape is \[1, 8, 8\], not \[3, 8, 8\] \(2 more keys too\); seed is 1, not 2 \(these may change"
    with pytest.raises(ConfigError, match=message):
        refuse_changes(changes, "run")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("\nseed: 5\n", "\nseed: 1.5\n", "seed: must be a whole number, got 1.5"),
        ("max_steps: 4\n", "max_steps: true\n", "trainer.max_steps: must be a whole number, got True"),
        ("max_steps: 4\n", "max_steps: 4.0\n", "trainer.max_steps: must be a whole number, got 4.0"),
    ],
)
def test_resume_refuses_numbers_of_another_kind(
    old: str, new: str, message: str, short_run: Path, cli: Callable[..., Answer]
) -> None:
    file = short_run / "config.yaml"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and answer.err.endswith(f"is damaged or from another version of ganexp: {message}\n"), answer.err


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "config.yaml is damaged or from another version of ganexp: it has no"),
        ("{", "config.yaml is damaged"),
        ("name: x\nseed: 1\n", "config.yaml is damaged or from another version of ganexp: it has no"),
    ],
)
def test_resume_refuses_a_damaged_config(content: str, message: str, short_run: Path, cli: Callable[..., Answer]) -> None:
    (short_run / "config.yaml").write_text(content)
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err


def test_resume_refuses_other_classes_in_an_edited_config(short_run: Path, cli: Callable[..., Answer]) -> None:
    (short_run / "checkpoints" / "last.ckpt").unlink()
    (short_run / "checkpoints" / "step-00000004.ckpt").unlink()
    text = (short_run / "config.yaml").read_text()
    (short_run / "config.yaml").write_text(text.replace("ganexp.callbacks.progress.Progress", "os.system"))
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and "callbacks.progress._target_ is ganexp.callbacks.progress.Progress, not os.system" in answer.err
    shutil.rmtree(short_run / "checkpoints")  # nothing to compare with
    for file in (short_run / "run.json", short_run / "metrics.csv"):  # nothing is lost
        file.unlink()
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and "callbacks.progress._target_: the file asks to run os.system" in answer.err
    (short_run / "config.yaml").write_text(text.replace("pytorch_lightning.Trainer", "os.system"))
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and "hardware._target_: the file asks to run os.system" in answer.err


def test_resume_may_change_intervals_and_loggers(short_run: Path, cli: Callable[..., Answer]) -> None:
    kept = torch.load(short_run / "checkpoints" / "last.ckpt", weights_only=True)["config"]
    kill_after(2, short_run)
    (short_run / "samples" / "step-00000004.png").unlink()
    answer = cli("task=resume", f"run={short_run}", "trainer.samples_every=3", "logger=[csv]", "loss=bce", "hardware.devices=1")
    assert answer.code == 0, answer.err
    assert "trainer.samples_every from 2 to 3" in answer.out and "callbacks.samples.every from 2 to 3" in answer.out
    assert "logger.tensorboard._target_ from" in answer.out and "loss" not in answer.out.split("resumed")[1].split("model")[0]
    assert (short_run / "samples" / "step-00000003.png").is_file()
    now = torch.load(short_run / "checkpoints" / "last.ckpt", weights_only=True)["config"]
    assert now["logger"].keys() == {"csv"} and kept["logger"].keys() == {"csv", "tensorboard"}


def test_resume_may_change_the_interval_of_one_callback(short_run: Path, cli: Callable[..., Answer]) -> None:
    """It wins over the trainer's."""
    for more in (["callbacks.samples.every=3"], ["trainer.samples_every=2", "callbacks.samples.every=3"]):
        kill_after(2, short_run)
        (short_run / "samples" / "step-00000003.png").unlink(missing_ok=True)
        answer = cli("task=resume", f"run={short_run}", *more)
        assert answer.code == 0 and ("callbacks.samples.every from 2 to 3" in answer.out), answer.err
        assert (short_run / "samples" / "step-00000003.png").is_file()


def test_resume_refuses_a_config_that_differs_from_the_checkpoint(short_run: Path, cli: Callable[..., Answer]) -> None:
    file = short_run / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("seed: 5", "seed: 6", 1).replace("hidden:\n    - ", "hidden:\n    - 1", 1))
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and "config.yaml differs from the checkpoint's config: " in answer.err
    assert "seed is 5, not 6" in answer.err
    file.write_text(text.replace("max_steps: 4", "max_steps: 3"))
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 2 and "is at its last step, 4" in answer.err


def test_resume_refuses_missing_and_changed_data(cli: Callable[..., Answer], data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "pictures", tmp_path / "pictures")
    folder = ["model=dcgan", "data=folder", f"data.root={tmp_path}/pictures", "data.shape=[3,16,16]", "metrics=[]"]
    assert cli(*folder, *SHORT, "data.batch_size=8", "trainer.max_steps=2", "hydra.run.dir=run").code == 0
    shutil.move(tmp_path / "pictures", tmp_path / "moved")
    answer = cli("task=resume", "run=run", "trainer.max_steps=3")
    assert answer.code == 2 and f"there is no folder or zip archive {tmp_path}/pictures" in answer.err
    assert cli("task=resume", "run=run", "trainer.max_steps=3", "data.root=moved").code == 0
    (tmp_path / "moved" / "000.jpg").unlink()
    answer = cli("task=resume", "run=run", "trainer.max_steps=4")
    assert answer.code == 2 and "differs from the data that the run was trained on" in answer.err


def test_run_killed_before_its_first_checkpoint_starts_again(short_run: Path, cli: Callable[..., Answer]) -> None:
    whole, metrics = state(short_run), (short_run / "metrics.csv").read_bytes()
    shutil.rmtree(short_run / "checkpoints")
    refused = cli("task=resume", f"run={short_run}")
    assert refused.code == 2 and "was at step 4, but" in refused.err and "has no checkpoint" in refused.err
    assert (short_run / "metrics.csv").read_bytes() == metrics
    record = json.loads((short_run / "run.json").read_text())
    (short_run / "run.json").write_text(json.dumps(record | {"status": "running", "steps": 1}))
    refused = cli("task=resume", f"run={short_run}")
    assert refused.code == 2 and "was at step 4, but" in refused.err  # by metrics.csv
    (short_run / "metrics.csv").write_text("".join(metrics.decode().splitlines(keepends=True)[:3]))
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 0 and "no checkpoint yet: starts at the first step" in answer.out
    assert same(state(short_run), whole) and (short_run / "metrics.csv").read_bytes() == metrics
    events = EventAccumulator(str(short_run))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/generator")] == [1, 2, 3, 4]


def test_incomplete_last_row_is_left_out_with_a_warning(short_run: Path, cli: Callable[..., Answer]) -> None:
    file = short_run / "metrics.csv"
    kill_after(2, short_run)
    file.write_bytes(file.read_bytes()[:-2])
    answer = cli("task=resume", f"run={short_run}")
    assert answer.code == 0
    assert (short_run / "log.txt").read_text().count(f"{file}: its last row is incomplete, and is left out") == 1


@pytest.mark.parametrize("name, said", [("samples", "is not a folder"), ("metrics.csv", "is a folder, not a file")])
def test_resume_refuses_a_folder_in_place_of_a_file(name: str, said: str, short_run: Path, cli: Callable[..., Answer]) -> None:
    path = short_run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.write_text("") if name == "samples" else path.mkdir()
    answer = cli("task=resume", f"run={short_run}", "trainer.max_steps=4")
    assert answer.code == 2 and f"{name} {said}" in answer.err


def test_resume_continues_a_log_in_its_own_folder(cli: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("model=mlp", "data=sine", *SHORT, "trainer.max_steps=4", "logger.csv.name=mine", f"hydra.run.dir={run}").code == 0
    before = (run / "mine" / "metrics.csv").read_text().splitlines()
    assert cli("task=resume", f"run={run}", "trainer.max_steps=6").code == 0
    after = (run / "mine" / "metrics.csv").read_text().splitlines()
    assert after[: len(before)] == before and len(after) > len(before)
