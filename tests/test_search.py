"""Searches: Optuna's trials and the study's runs agree after every kind of stop; no finished run is repeated."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import NARROW, TINY, Answer
from optuna.samplers import TPESampler

from ganexp.cli import config
from ganexp.cli.messages import ConfigError
from ganexp.files import write_json
from ganexp.study import plan, search, worker
from ganexp.study.plan import Job, Plan
from ganexp.study.prune import Prune
from ganexp.tasks.study import watched

AXES = {"x": {"low": 0.01, "high": 100.0, "log": True}, "n": {"low": 1, "high": 4}, "loss": ["bce", "hinge"]}
STEPS = [20, 40]


def make(trials: int = 12, seeds: Any = 1, axes: dict[str, Any] = AXES, prune_from: int | None = None, **changes: Any) -> Plan:
    node = {"search": "optuna", "axes": axes, "seeds": seeds, "trials": trials, "search_seed": 0, "sampler": "tpe"} | changes
    target = {"metric": "fid", "higher_is_better": False, "max_steps": STEPS[-1], "prune_from": prune_from}
    return plan.make_plan(node, [], watched=target)


def objective(job: Job) -> float:
    return math.log10(float(job.setting["x"])) ** 2 + (job.setting.get("loss") == "hinge") + 0.01 * job.seed


class Runs:
    """Stands in for the command line of a run: writes the run.json of one, and reports to the search as a run does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None):
        self.folder, self.stop_at, self.numbers = folder, stop_at, list[int]()
        monkeypatch.setattr(worker.jobs, "run_command_line", self)
        monkeypatch.setattr(worker, "release_memory", lambda: None)  # it takes longer than all else

    def __call__(self, words: Sequence[str], name: str, config_dir: str | None, callbacks: Sequence[Prune]) -> int:
        job = callbacks[0].job
        self.numbers.append(job.number)
        assert f"x={job.setting['x']}" in words and f"seed={job.seed}" in words
        if len(self.numbers) == self.stop_at:
            raise KeyboardInterrupt
        status = "finished"
        for step in STEPS:
            if search.report(self.folder, job, step, objective(job) + 100 / step):
                status = "interrupted"
                break
        value = objective(job)
        best = {"best": {"metric": "fid/a", "value": value, "step": step}, "metrics": {"fid/a": {"last": value}}}
        write_json({"status": status, "steps": step, **best}, self.folder / job.name / "run.json")
        return 0


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, study: Plan, stop_at: int | None = None) -> list[int]:
    """Returns the numbers of the jobs that were run."""
    folder.mkdir(exist_ok=True)
    runs = Runs(folder, monkeypatch, stop_at)
    study.save(folder)
    assert worker.work(folder) == (0 if stop_at is None else 130)
    return runs.numbers


def read(folder: Path) -> Plan:
    study = plan.read(folder)
    assert study is not None
    return study


def trials(folder: Path) -> list[Any]:
    import optuna

    url = f"sqlite:///{folder / search.FILE}"
    return optuna.load_study(study_name=search.NAME, storage=url).trials


@pytest.mark.slow
def test_search_finds_better_settings_than_its_random_ones_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path / "a", monkeypatch, make(trials=18)) == list(range(18))
    found, told = read(tmp_path / "a"), trials(tmp_path / "a")
    values = [objective(job) for job in found.jobs()]
    assert [trial.value for trial in told] == values and {trial.state.name for trial in told} == {"COMPLETE"}
    assert sum(values[10:]) / 8 < sum(values[:10]) / 10 / 2
    assert all(0.01 <= float(s["x"]) <= 100 and s["n"] in "1234" for s in found.settings)
    (tmp_path / "b").mkdir()
    make(trials=3, search_seed=1).save(tmp_path / "b")
    assert search.extend(tmp_path / "b") and read(tmp_path / "b").settings != found.settings[:1]


@pytest.mark.slow
def test_stopped_search_continues_as_if_it_had_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"x": AXES["x"]}
    monkeypatch.setattr(search, "make_sampler", lambda name, seed, trial: TPESampler(seed=trial, n_startup_trials=2))
    run(tmp_path / "whole", monkeypatch, make(4, 2, axes))
    first = run(tmp_path / "stopped", monkeypatch, make(4, 2, axes), stop_at=6)
    rest = run(tmp_path / "stopped", monkeypatch, make(4, 2, axes))
    assert first == [0, 1, 2, 3, 4, 5] and rest == [5, 6, 7], "only the job that was stopped is run again"
    assert read(tmp_path / "stopped").settings == read(tmp_path / "whole").settings
    assert [t.value for t in trials(tmp_path / "stopped")] == [t.value for t in trials(tmp_path / "whole")]
    assert run(tmp_path / "stopped", monkeypatch, make(4, 2, axes)) == []
    assert run(tmp_path / "stopped", monkeypatch, make(5, 2, axes)) == [8, 9], "more trials"


def test_trial_that_was_asked_for_just_before_a_kill_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", monkeypatch, make(trials=3))
    monkeypatch.setattr(Plan, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    study = make(trials=3)
    (tmp_path / "killed").mkdir()
    write_json(plan.asdict(study), tmp_path / "killed" / plan.FILE)
    with pytest.raises(KeyboardInterrupt):
        search.extend(tmp_path / "killed")
    monkeypatch.undo()
    assert run(tmp_path / "killed", monkeypatch, study) == [0, 1, 2] and len(trials(tmp_path / "killed")) == 3
    assert read(tmp_path / "killed").settings == read(tmp_path / "whole").settings


@pytest.mark.slow
def test_hopeless_runs_are_stopped_and_count_as_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(trials=10, seeds=2, prune_from=20)
    numbers = run(tmp_path, monkeypatch, study)
    jobs = read(tmp_path).jobs()
    records = [job.record(tmp_path) for job in jobs]
    pruned = {job.number // 2 for job, record in zip(jobs, records, strict=True) if record["status"] == "pruned"}
    states = [trial.state.name for trial in trials(tmp_path)]
    assert 1 <= len(pruned) <= 7 and [i for i, state in enumerate(states) if state == "PRUNED"] == sorted(pruned)
    assert all(i >= search.STARTUP for i in pruned)
    for job, record in zip(jobs, records, strict=True):
        if job.number // 2 in pruned:
            assert record["status"] == "pruned" and record["setting"] == job.setting
            ran = job.number in numbers
            assert ran == (job.seed == 0) and (not ran or record["steps"] == 20), "no further seeds of a bad setting"
    assert run(tmp_path, monkeypatch, study) == []


def test_failed_run_keeps_the_sampler_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(trials=2)
    study.save(tmp_path)

    def fail(words: Sequence[str], name: str, config_dir: str | None, callbacks: Sequence[Prune]) -> int:
        raise ConfigError("step 3: loss is nan")

    monkeypatch.setattr(worker.jobs, "run_command_line", fail)
    assert worker.work(tmp_path) == 0
    assert [job.status(tmp_path) for job in read(tmp_path).jobs()] == ["failed"] * 2
    assert [trial.state.name for trial in trials(tmp_path)] == ["PRUNED"] * 2


@pytest.mark.parametrize("damage", [b"\0" * 5000, "cut", b"", None])
def test_damaged_database_is_refused_and_left_alone(tmp_path: Path, damage: Any) -> None:
    make().save(tmp_path)
    assert search.extend(tmp_path)
    file, before = tmp_path / search.FILE, (tmp_path / plan.FILE).read_bytes()
    content = file.read_bytes()[:20_000] if damage == "cut" else damage
    file.unlink() if damage is None else file.write_bytes(content)
    with pytest.raises(ConfigError, match="its runs are not affected") as error:
        search.check(tmp_path, read(tmp_path))
    assert str(error.value).startswith(f"hydra.run.dir: {file}") and len(str(error.value).splitlines()) == 1
    assert (tmp_path / plan.FILE).read_bytes() == before
    assert not file.exists() if damage is None else file.read_bytes() == content


def test_study_with_a_damaged_database_ends_with_one_message(cli: Callable[..., Answer], tmp_path: Path) -> None:
    make().save(tmp_path / "S")
    (tmp_path / "S" / search.FILE).write_bytes(b"x" * 5000)
    answer = cli(*SMALL, "study=optuna", "hydra.run.dir=S")
    assert answer.code == 2 and answer.err.startswith(
        f"ganexp: hydra.run.dir: {tmp_path / 'S' / search.FILE} is damaged: file is"
    )
    assert len(answer.err.splitlines()) == 1 and (tmp_path / "S" / search.FILE).read_bytes() == b"x" * 5000


def test_search_without_optuna_says_what_to_install(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    answer = cli(*SMALL, "study=optuna")
    assert answer.code == 2 and answer.err.splitlines() == [
        'ganexp: study.search: optuna needs Optuna: pip install "ganexp[search]"'
    ]


SMALL = ["task=study", "model=mlp", "data=sine", *TINY, *NARROW["mlp"], "callbacks=[metrics,samples,checkpoint]", "logger=[csv]",
         "study.axes={optimizer.generator.lr:{low:1e-5,high:1e-1,log:true}}"]  # fmt: skip


@pytest.mark.parametrize(
    "words, message",
    [
        (["study.trials=0"], "study.trials: must be at least 1"),
        (["study.search_seed=-1"], "study.search_seed: must be from 0 to"),
        (["study.sampler=tpee"], "study.sampler: 'tpee' is not a valid choice; did you mean tpe?"),
        (["study.prune_after=1"], "study.prune_after: must be a part of the run"),
        (["callbacks=[metrics,samples]"], "study.search: optuna optimizes the metric that picks best.ckpt"),
        (["study.axes={optimizer.generator.lr:{low:1,high:-1}}"], "study.axes.optimizer.generator.lr: low must be below high"),
        (["study.axes={data.batch_size:{low:-1,high:8}}"], "study.axes.data.batch_size: "),
        (["study.axes=null"], "study.axes: a search requires axes"),
    ],
)
def test_search_refuses(cli: Callable[..., Answer], words: list[str], message: str) -> None:
    answer = cli(*SMALL, "study=optuna", *words)
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}"), answer.err
    assert not (answer.folder / "outputs").exists()


def test_folder_of_a_search_keeps_it(tmp_path: Path) -> None:
    make(trials=5).save(tmp_path)
    with pytest.raises(ConfigError, match=r"^study.trials: the search in .* has 5 with the seeds \[0\]"):
        make(trials=4).save(tmp_path)
    with pytest.raises(ConfigError, match=r"^hydra.run.dir: .* has another study: its search differ"):
        make(trials=5, search_seed=3).save(tmp_path)


REAL = ["task=study", "model=mlp", "data=sine", "hardware=cpu", *NARROW["mlp"], "callbacks=[metrics,checkpoint]", "metrics=[swd]",
        "trainer.max_steps=120", "trainer.metrics_every=20", "trainer.checkpoint_every=20", "callbacks.metrics.num=200",
        "logger=[csv]", "study=optuna", "study.seeds=1", "study.trials=14", "study.launcher=joblib", "study.n_jobs=2",
        "study.axes={loss:[bce,hinge],optimizer.generator.lr:{low:1e-6,high:1e-1,log:true}}", "study.threads=1",
        "hydra.run.dir=S"]  # fmt: skip


@pytest.mark.slow
def test_real_runs_are_pruned_resumed_and_never_repeated(tmp_path: Path) -> None:
    """Two processes are killed while they work; the next start finishes the search."""
    command = [
        sys.executable,
        "-m",
        "ganexp",
        *REAL,
        "study.trials=14",
        "study.launcher=joblib",
        "study.n_jobs=2",
        "study.threads=1",
    ]
    started = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 200

    def finished() -> list[Path]:
        return [file for file in tmp_path.glob("S/*/run.json") if '"status": "finished"' in file.read_text()]

    while len(finished()) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    before = {file: file.read_bytes() for file in finished()}
    assert len(before) >= 3
    subprocess.run(command, cwd=tmp_path, check=True, timeout=500)
    study = read(tmp_path / "S")
    records = [job.record(tmp_path / "S") for job in study.jobs()]
    assert len(records) == 14 and {record["status"] for record in records} == {"finished", "pruned"}
    assert {file: file.read_bytes() for file in before} == before
    states = {trial.number: trial.state.name for trial in trials(tmp_path / "S")}
    for job, record in zip(study.jobs(), records, strict=True):
        assert states[job.number] == {"finished": "COMPLETE", "pruned": "PRUNED"}[record["status"]]
        assert (record["steps"] == 120) == (record["status"] == "finished") and record["steps"] >= 40
        assert (tmp_path / "S" / job.name / "checkpoints" / "last.ckpt").is_file()
    assert json.loads((tmp_path / "S" / "leaderboard.json").read_text())["settings"]


def test_search_optimizes_the_metric_that_picks_best_ckpt() -> None:
    """Of the default experiment, whose extractor is chosen by the data."""
    with config.config_tree():
        cfg = config.compose_config(["task=study", "study=optuna"], "config")
        found = watched(config.resolved(cfg))
    assert found == {"metric": "fid", "higher_is_better": False, "max_steps": 3000, "prune_from": 750}
