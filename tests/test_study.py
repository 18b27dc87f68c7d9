"""Studies: every setting with every seed; what was killed goes on, what is finished is never repeated."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import NARROW, TINY, Answer

from ganexp.cli import config
from ganexp.cli.messages import ConfigError
from ganexp.runtime.lock import FolderLock
from ganexp.study import launchers, plan, progress, worker
from ganexp.tasks.study import write_leaderboard

SMALL = ["model=mlp", "data=sine", *TINY, *NARROW["mlp"], "callbacks=[metrics,samples,checkpoint]", "logger=[csv]"]
AXES = "study.axes={loss:[bce,hinge]}"


def node(**changes: Any) -> dict[str, Any]:
    return {"search": "grid", "axes": None, "seeds": 2, "trials": 3, "search_seed": 0} | changes


def make(overrides: tuple[str, ...] = (), **changes: Any) -> plan.Plan:
    return plan.make_plan(node(**changes), overrides)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the run.json of every job, by its number."""
    files = sorted(folder.glob("*/run.json"), key=lambda file: int(file.parent.name.partition("_")[0]))
    return {file.parent.name.partition("_")[0]: json.loads(file.read_text()) for file in files}


def run_of(folder: Path, number: int) -> Path:
    (found,) = folder.glob(f"{number}_*")
    return found


# -- plans -----------------------------------------------------------------------------------------------------------


def test_jobs_are_settings_times_seeds() -> None:
    study = make(("data=sine",), axes={"loss": ["bce", "hinge"], "regularizer": [[], ["r1"]], "loss.weight": [0.5, 1e-4]})
    jobs = study.jobs()
    assert [job.number for job in jobs] == list(range(16)) and [job.seed for job in jobs] == [0] * 8 + [1] * 8
    assert jobs[-1].overrides == ["data=sine", "loss=hinge", "regularizer=[r1]", "loss.weight=0.0001", "seed=1"]
    assert jobs[-1].setting == {"loss": "hinge", "regularizer": "[r1]", "loss.weight": "0.0001"}
    samples = [word for _, setting in study.samples() for word in study.overrides_of(setting, 0)]
    assert set(samples) == {word for job in jobs for word in job.overrides} - {"seed=1"}


def test_folders_are_named_by_number_and_values() -> None:
    axes = {"model/generator": ["mlp"], "regularizer": [[], ["r1", "r2"]], "optimizer.generator.lr": [2e-4], "t": ["a b:/../ü"]}
    names = [job.name for job in make(axes=axes, seeds=[3]).jobs()]
    assert names == [
        "0_generator-mlp_regularizer-none_lr-0.0002_t-a-b_seed-3",
        "1_generator-mlp_regularizer-r1-r2_lr-0.0002_t-a-b_seed-3",
    ]
    long = [job.name for job in make(axes={"x": ["a" * 300, "a" * 301]}).jobs()]
    assert max(map(len, long)) <= 80 and len(set(long)) == 4


def test_named_values_set_several_keys() -> None:
    study = make(axes={"penalty": {"none": [], "weak": ["regularizer=[r1]", "regularizer.r1.weight=0.1"]}}, seeds=[7])
    assert [job.overrides for job in study.jobs()] == [["seed=7"], ["regularizer=[r1]", "regularizer.r1.weight=0.1", "seed=7"]]


@pytest.mark.parametrize(
    "value, text",
    [(None, "null"), (True, "true"), ("a b", "'a b'"), ("it's", "'it\\'s'"), ({"a": [1, "x"]}, "{a:[1,x]}"), ("1", "'1'")],
)
def test_values_become_text_that_hydra_reads_back(value: Any, text: str) -> None:
    from ganexp.cli.overrides import parse

    assert plan.to_text(value) == text
    with config.config_tree():
        assert parse([f"+key={text}"])[0].value() == value


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": 0}, "study.seeds: must be a number of seeds"),
        ({"seeds": []}, "study.seeds: must be"),
        ({"seeds": -1}, "study.seeds: must be"),
        ({"seeds": [-1]}, "study.seeds: must be"),
        ({"search": "grib"}, "study.search: 'grib' is not a valid choice; did you mean grid?"),
        ({"seeds": [1, 1]}, "study.seeds: a seed is listed twice"),
        ({"seeds": 10**9}, "study.seeds: must be"),
        ({"axes": [1]}, "study.axes: must be a mapping"),
        ({"axes": {"loss": []}}, "study.axes.loss: must be a list of values"),
        ({"axes": {"loss": "bce"}}, "study.axes.loss: must be a list of values"),
        ({"axes": {"loss": ["bce", "bce"]}}, "study.axes.loss: a value is listed twice"),
        ({"search": "random", "trials": 0, "axes": {"loss": ["bce"]}}, "study.trials: must be at least 1"),
        ({"search": "random"}, "study.axes: a search requires axes"),
        ({"axes": {"seed": [1]}}, "study.axes.seed: the seeds of a study are study.seeds"),
        ({"axes": {"penalty": {"none": ["regularizer"]}}}, "study.axes.penalty: must be"),
        ({"axes": {"data": ["ring", "grid"]}}, "study.axes.data: data is also set for all runs"),
        ({"axes": {"a": list(range(1000)), "b": list(range(1000))}}, "study.axes: 2,000,000 runs"),
    ],
)
def test_plan_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(("data=sine",), **changes)
    assert str(error.value).startswith(message)


RANGE = {"optimizer.generator.lr": {"low": 1e-5, "high": 1e-2, "log": True}, "loss": ["bce", "hinge"]}


def test_random_search_draws_within_its_ranges_and_always_the_same() -> None:
    study = make(search="random", axes=RANGE, trials=200, seeds=1)
    rates = [float(setting["optimizer.generator.lr"]) for setting in study.settings]
    assert len(rates) == 200 and all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 70 < sum(rate < 10**-3.5 for rate in rates) < 130 and {s["loss"] for s in study.settings} == {"bce", "hinge"}
    assert make(search="random", axes=RANGE, trials=5, seeds=1).settings == study.settings[:5]
    widths = [int(s["data.batch_size"]) for s in make(search="random", axes={"data.batch_size": {"low": 1, "high": 3}}).settings]
    assert set(widths) <= {1, 2, 3}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"low": 1}, "study.axes.lr.high: a range needs both ends"),
        ({"low": 1, "high": float("inf")}, "study.axes.lr.high: a range needs both ends"),
        ({"low": 2, "high": 1}, "study.axes.lr: low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "study.axes.lr.low: must be above 0"),
        ({"low": 0, "high": 1, "step": 1}, "study.axes.lr.step: a range has low, high and log only"),
    ],
)
def test_range_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(search="random", axes={"lr": values})
    assert str(error.value).startswith(message)


def test_grid_has_no_ranges() -> None:
    with pytest.raises(ConfigError, match=r"^study.axes.lr: a range has no end in a grid"):
        make(axes={"lr": {"low": 1, "high": 2}})


def test_folder_keeps_its_study_and_takes_more_seeds(tmp_path: Path) -> None:
    make(axes={"loss": ["bce"]}).save(tmp_path)
    make(axes={"loss": ["bce"]}, seeds=3).save(tmp_path)
    assert len(plan.read(tmp_path).jobs()) == 3  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"^study.seeds: the study in .* has \[0, 1, 2\]; more can be added"):
        make(axes={"loss": ["bce"]}, seeds=2).save(tmp_path)
    with pytest.raises(ConfigError, match=r"^hydra.run.dir: .* has another study: its axes differ"):
        make(axes={"loss": ["hinge"]}, seeds=3).save(tmp_path)


def test_damaged_study_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make().save(tmp_path)
    content = json.loads((tmp_path / plan.FILE).read_text())
    for damaged in ({}, content | {"search": {"name": "grid"}}, content | {"search": None}, content | {"more": 1}):
        (tmp_path / plan.FILE).write_text(json.dumps(damaged))
        with pytest.raises(ConfigError, match=r"study.json is damaged, or from another version of ganexp"):
            plan.read(tmp_path)
    (tmp_path / plan.FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"study.json is damaged: Expecting property name"):
        plan.read(tmp_path)
    assert not caplog.messages, "one message"


# -- the command line ------------------------------------------------------------------------------------------------


def test_study_runs_every_job_once_and_goes_on(cli: Callable[..., Answer]) -> None:
    arguments = ["task=study", *SMALL, "study.seeds=1", "hydra.run.dir=S"]
    answer = cli(*arguments, "study.axes={loss:[bce,hinge],model.d_steps:[1,0]}")
    assert answer.code == 1, answer.err
    folder = answer.folder / "S"
    found = records(folder)
    assert {name: r["status"] for name, r in found.items()} == {"0": "finished", "1": "failed", "2": "finished", "3": "failed"}
    assert found["1"]["error"].startswith("model.d_steps: must be at least 1") and found["1"]["error"] in answer.out
    assert found["2"]["setting"] == {"loss": "hinge", "model.d_steps": "1"} and "loss=hinge" in found["2"]["overrides"]
    assert "2 of 4 jobs done, 0 running, 2 failed" in answer.err and "2 of 4 jobs failed" in answer.out

    before = (run_of(folder, 0) / "metrics.csv").stat().st_mtime_ns
    file = run_of(folder, 2) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running"}))  # killed just before its end
    again = cli(*arguments, "study.axes={loss:[bce,hinge],model.d_steps:[1,0]}")
    assert again.code == 1 and records(folder)["2"]["status"] == "finished"
    assert (run_of(folder, 0) / "metrics.csv").stat().st_mtime_ns == before
    assert cli(*arguments, AXES).err.startswith("ganexp: hydra.run.dir: ")


def test_processes_that_end_together_write_the_leaderboard_one_after_the_other(cli: Callable[..., Answer]) -> None:
    arguments = [*SMALL, "task=study", "trainer.max_steps=1", "study.seeds=1", "hydra.run.dir=S"]
    folder = cli(*arguments).folder / "S"
    (folder / "leaderboard.md").unlink()
    with ThreadPoolExecutor(1) as pool:
        with plan.locked(folder):
            ended = pool.submit(write_leaderboard, folder)
            time.sleep(0.3)
            assert not (folder / "leaderboard.md").exists()
        ended.result()
    assert (folder / "leaderboard.md").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["study.axes={loss:[bce,hing]}"], "study.axes.loss: loss=hing: there is no such option; did you mean hinge?"),
        (["study.axes={losss:[bce]}"], "study.axes.losss: there is no such key; did you mean loss?"),
        (["study.axes={model.d_step:[1,2]}"], "study.axes.model.d_step: there is no such key; did you mean model.d_steps?"),
        (["study.axes={p:{none:[],weak:['regularizer=[r0]']}}"], "study.axes.p: regularizer=r0: there is no such option"),
        (["study.axes={loss:[bce]}", "data=mnist", "model=dcgan", "data.root=nowhere"], "data.root: put train-images-idx3-ubyte"),
        (["study=ring_losses", "study.axes={loss:[bce]}"], "study.axes: a list cannot take the place of a mapping"),
        (["study.axes={seed:[1]}"], "study.axes.seed: the seeds of a study are study.seeds=[1,2,3]"),
        (["study.axes={model.d_steps:{low:1}}"], "study.axes.model.d_steps.high: a range needs both ends"),
        (["study.axes={loss:[bce]}", "los=bce"], "los: there is no such key; did you mean loss?"),
        (["study.seeds=0"], "study.seeds: must be a number of seeds, from 1 to 100,000, or a list of seeds, got 0"),
        (["study.seeds=-3"], "study.seeds: must be a number of seeds, from 1 to 100,000, or a list of seeds, got -3"),
        (["study.threads=0"], "study.threads: must be at least 1, got 0"),
        (["study.launcher=slurm"], "study.launcher: 'slurm' is not a valid choice"),
        (["study.launcher=joblib", "study.n_jobs=0"], "study.n_jobs: must be at least 1, got 0"),
        (["study.n_jobs=2"], "study.n_jobs: 2 processes require study.launcher=joblib"),
        (["study.sedes=2"], "study.sedes: there is no such key; did you mean study.seeds?"),
        (["-m"], "-m: starts several runs, but task=study is one study"),
        (
            ["callbacks.samples.gif=/tmp/a.gif"],
            "callbacks.samples.gif: several jobs would write /tmp/a.gif; choose a place in {run",
        ),
        (
            ["study.axes={loss:[bce,hinge]}", "study.seeds=1", "logger.csv.save_dir=/tmp/x"],
            "logger.csv.save_dir: several jobs would",
        ),
    ],
)
def test_study_refuses(cli: Callable[..., Answer], arguments: list[str], message: str) -> None:
    answer = cli("task=study", "model=mlp", "data=sine", *arguments)
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}"), answer.err
    assert not (answer.folder / "outputs").exists()


def test_jobs_with_places_of_their_own_may_write_them(cli: Callable[..., Answer], tmp_path: Path) -> None:
    words = ["callbacks.samples.gif=films/${seed}.gif", "trainer.max_steps=1"]
    answer = cli("task=study", *SMALL, *words, "study.seeds=2", "hydra.run.dir=S")
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "films").iterdir())) == 2


def test_base_of_a_study_file_holds_for_all_runs(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "mine" / "study").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "two.yaml").write_text("defaults: [grid]\nbase: [model=mlp, data=sine, seed=3]\nseeds: [4]\n")
    answer = cli("--config-dir", "mine", "task=study", "study=two", *SMALL[2:], "trainer.max_steps=2", "hydra.run.dir=S")
    assert answer.code == 0, answer.err
    assert json.loads((run_of(tmp_path / "S", 0) / "run.json").read_text())["seed"] == 4


# -- clusters --------------------------------------------------------------------------------------------------------


def stand_in(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program in front of the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_slurm_gets_the_parameters_of_the_jobs_and_the_signal_that_requeues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", "srun", "", monkeypatch)
    stand_in(tmp_path / "bin", "sbatch", f'cp "$1" {tmp_path}/batch; echo Submitted batch job 4711', monkeypatch)
    given = {"cluster": "slurm", "timeout_min": 90, "gpus_per_node": 2, "slurm_partition": "gpu", "cpus_per_task": 8}
    executor = launchers.make_executor(tmp_path / "S", given)
    with executor.batch():
        workers = [executor.submit(worker.begin_on_cluster, tmp_path, None) for _ in range(3)]
    assert [each.job_id for each in workers] == ["4711_0", "4711_1", "4711_2"]
    lines = (tmp_path / "batch").read_text().splitlines()
    for flag in ("partition=gpu", "time=90", "gpus-per-node=2", "cpus-per-task=8", "signal=USR1@120", "requeue", "array=0-2%3"):
        assert f"#SBATCH --{flag}" in lines


@pytest.mark.parametrize(
    "parameters, message",
    [
        ("{cluster:slurm}", 'study.submitit: Could not detect "srun"'),
        ("{cluster:slum}", "study.submitit.cluster: 'slum' is not a valid choice; did you mean slurm?"),
        ("{cluster:local,slurm_partion:gpu}", "study.submitit: Unknown argument 'partion' for executor 'slurm'"),
        ("{cluster:local,timeout_min:long}", 'study.submitit: Parameter "timeout_min" expected type'),
    ],
)
def test_cluster_refuses(cli: Callable[..., Answer], parameters: str, message: str) -> None:
    answer = cli("task=study", "model=mlp", "data=sine", "study.launcher=submitit", f"study.submitit={parameters}")
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}") and len(answer.err.splitlines()) == 1, answer.err
    assert not (answer.folder / "outputs").exists()


def test_launcher_without_submitit_says_what_to_install(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    answer = cli("task=study", "model=mlp", "data=sine", "study.launcher=submitit")
    assert answer.code == 2 and 'submitit needs submitit: pip install "ganexp[slurm]"' in answer.err


@pytest.mark.skipif(worker.REQUEUE is None, reason="Windows has no SIGUSR1")
def test_worker_that_gets_slurms_signal_between_two_runs_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", "scontrol", f"echo $@ >> {tmp_path}/requeued", monkeypatch)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    make(axes={"loss": ["bce", "hinge"]}, seeds=1).save(tmp_path)
    before = signal.getsignal(signal.SIGUSR1)

    def run(study: plan.Plan, job: plan.Job, folder: Path) -> int:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
        raise AssertionError

    monkeypatch.setattr(worker, "run", run)
    with pytest.raises(SystemExit) as ended:  # no result, which submitit would take for the end of the job
        worker.begin_on_cluster(tmp_path, None)
    assert ended.value.code == 128 + signal.SIGUSR1 and (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert signal.getsignal(signal.SIGUSR1) is before
    assert not list((tmp_path / worker.CLAIMS).rglob(".lock"))


# -- workers ---------------------------------------------------------------------------------------------------------


def test_worker_leaves_a_claimed_job_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(axes={"loss": ["bce", "hinge"]}, seeds=1).save(tmp_path)
    done: list[int] = []
    monkeypatch.setattr(worker, "run", lambda study, job, folder: done.append(job.number) or 0)
    (tmp_path / worker.CLAIMS / "0").mkdir(parents=True)
    with FolderLock(tmp_path / worker.CLAIMS / "0"):
        assert worker.work(tmp_path) == 0
    assert done == [1]


def test_failed_jobs_are_run_once_more_by_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, done = make(axes={"loss": ["bce", "hinge"]}, seeds=1), []
    study.save(tmp_path)
    worker.note({"status": "failed", "error": "no space"}, study.jobs()[0], tmp_path)
    worker.note({"status": "finished"}, study.jobs()[1], tmp_path)

    def fail_again(study: plan.Plan, job: plan.Job, folder: Path) -> int:
        done.append(job.number)
        worker.note({"status": "failed", "error": "again"}, job, folder)
        return 0

    monkeypatch.setattr(worker, "run", fail_again)
    assert worker.work(tmp_path) == 0 and done == []
    worker.reopen_failed(study, tmp_path)
    assert records(tmp_path)["0"]["status"] == "waiting" and "error" not in records(tmp_path)["0"]
    assert worker.work(tmp_path) == worker.work(tmp_path) == 0 and done == [0]
    assert records(tmp_path)["0"]["error"] == "again"


def values(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


LONG = [*SMALL, "trainer.max_steps=400", "trainer.checkpoint_every=20", "trainer.metrics_every=100", "trainer.log_every=10"]


@pytest.mark.slow
def test_killed_study_goes_on_and_equals_single_runs(tmp_path: Path) -> None:
    """Two processes are killed with SIGKILL; a second start finishes. Every job equals the run of a fresh process."""
    command = [sys.executable, "-m", "ganexp"]
    study = [*command, "task=study", *LONG, "study.seeds=2", AXES, "study.launcher=joblib", "study.n_jobs=2", "study.threads=1",
             "hydra.run.dir=S"]  # fmt: skip
    started = subprocess.Popen(study, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("S/*/checkpoints/step-*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert list(tmp_path.glob("S/*/checkpoints/step-*.ckpt"))
    subprocess.run(study, cwd=tmp_path, check=True, timeout=400)
    found = records(tmp_path / "S")
    assert [r["status"] for r in found.values()] == ["finished"] * 4 and any("resumed_at" in r for r in found.values())
    for name, record in found.items():
        words = [word for word in record["overrides"] if not word.startswith("hydra.")]
        subprocess.run([*command, *words, f"hydra.run.dir=R{name}"], cwd=tmp_path, check=True, timeout=200)
        assert values(tmp_path / f"R{name}" / "metrics.csv") == values(run_of(tmp_path / "S", int(name)) / "metrics.csv"), name


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """No job is run twice, and each gives what the study in one process gives."""
    study = [sys.executable, "-m", "ganexp", "task=study", *LONG, "study.seeds=3", AXES, "hydra.run.dir=S"]
    processes = [subprocess.Popen(study, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.wait(timeout=400) == 0, process.stderr.read()  # type: ignore[union-attr]
    found = records(tmp_path / "S")
    assert [r["status"] for r in found.values()] == ["finished"] * 6
    subprocess.run([*study[:-1], "hydra.run.dir=T"], cwd=tmp_path, check=True, timeout=400)
    for job in range(6):
        one, other = (run_of(tmp_path / folder, job) for folder in "ST")
        assert values(one / "metrics.csv") == values(other / "metrics.csv"), job
        assert "resumed_at" not in found[str(job)]


@pytest.mark.slow
def test_cluster_runs_every_job_once(tmp_path: Path) -> None:
    """By submitit's local executor. A second start finds nothing left to do."""
    study = [sys.executable, "-m", "ganexp", "task=study", *LONG, "study.seeds=2", AXES, "hydra.run.dir=S", "study.threads=1",
             "study.launcher=submitit", "study.n_jobs=2", "study.submitit={cluster:local,timeout_min:10}"]  # fmt: skip
    done = subprocess.run(study, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "launcher    local: " in done.stdout and "loss=hinge" in done.stdout
    found = records(tmp_path / "S")
    assert [r["status"] for r in found.values()] == ["finished"] * 4 and not any("resumed_at" in r for r in found.values())
    logs = sorted((tmp_path / "S" / "submitit").glob("*_log.out"))
    again = subprocess.run(study, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0 and sorted((tmp_path / "S" / "submitit").glob("*_log.out")) == logs


@pytest.mark.slow
@pytest.mark.skipif(worker.REQUEUE is None, reason="Windows has no SIGUSR1")
def test_run_on_a_cluster_is_saved_and_requeued_and_equals_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", "scontrol", f"echo $@ >> {tmp_path}/requeued", monkeypatch)
    study = [sys.executable, "-m", "ganexp", "task=study", *LONG, "study.seeds=1", AXES, "study.threads=1",
             "study.launcher=submitit", "study.submitit={cluster:local,timeout_min:10}"]  # fmt: skip
    subprocess.run([*study, "hydra.run.dir=T"], cwd=tmp_path, check=True, timeout=400)
    code = "from pathlib import Path; from ganexp.study.worker import begin_on_cluster; begin_on_cluster(Path('S'), 1)"
    (tmp_path / "S").mkdir()
    (tmp_path / "S" / plan.FILE).write_bytes((tmp_path / "T" / plan.FILE).read_bytes())
    job = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "SLURM_JOB_ID": "4711"})
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("S/*/checkpoints/step-*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=100) == 128 + signal.SIGUSR1 and (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert records(tmp_path / "S")["0"]["status"] == "interrupted"
    subprocess.run([*study, "hydra.run.dir=S"], cwd=tmp_path, check=True, timeout=400)
    assert "resumed_at" in records(tmp_path / "S")["0"]
    for number in (0, 1):
        one, other = (run_of(tmp_path / folder, number) for folder in "ST")
        assert values(one / "metrics.csv") == values(other / "metrics.csv"), number


LAUNCHERS = {
    "serial": [],
    "joblib": ["study.n_jobs=2", "study.threads=1"],
    "submitit": ["study.submitit={cluster:local,timeout_min:10}", "study.threads=1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_job_may_use_several_devices(launcher: str, tmp_path: Path) -> None:
    devices = ["hardware=ddp_cpu", "hardware.devices=2", f"study.launcher={launcher}", *LAUNCHERS[launcher]]
    study = [sys.executable, "-m", "ganexp", "task=study", *LONG, *devices, "trainer.max_steps=20", "study.seeds=1", AXES,
             "hydra.run.dir=S"]  # fmt: skip
    done = subprocess.run(study, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr + done.stdout
    found = records(tmp_path / "S")
    assert [(r["status"], r["hardware"]["devices"]) for r in found.values()] == [("finished", 2)] * 2


def test_time_left_is_not_estimated_from_the_start_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"steps": 0, "seconds": 0.0}
    job = SimpleNamespace(number=0, record=lambda folder: {"status": "running", "steps": now["steps"]})
    monkeypatch.setattr(progress.plan, "read", lambda folder: SimpleNamespace(jobs=lambda: [job], size=1, seeds=[0]))
    monkeypatch.setattr(progress.time, "monotonic", lambda: now["seconds"])
    shown = progress.Progress(tmp_path, 1000)
    left = []
    for steps, seconds in ((0, 0.0), (10, 8.0), (50, 10.0), (500, 19.0)):
        now.update(steps=steps, seconds=seconds)
        left.append(shown.look()[2])
    assert left == [None, None, pytest.approx(190), pytest.approx(19)]
