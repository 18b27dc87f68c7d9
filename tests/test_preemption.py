"""The same command continues its run: after a signal, a kill, torchrun's restarts and SLURM's requeueing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Answer
from helpers import SHORT, kill_after, rows, same, state

from ganexp.cli.messages import ConfigError
from ganexp.runtime import slurm

SINE = ["model=mlp", "data=sine", *SHORT]
AUTO = [*SINE, "trainer.max_steps=6", "resume=auto", "hydra.run.dir=run"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_command_continues_its_run(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Started, killed, started, and once more after its end."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert cli(*SINE, "trainer.max_steps=6", f"hydra.run.dir={whole}").code == 0
    assert cli(*AUTO, "callbacks.checkpoint.keep=9").code == 0
    kill_after(4, run)
    answer = cli(*AUTO, "callbacks.checkpoint.keep=9")
    assert answer.code == 0 and "resumed at step 4" in answer.out, answer.err
    assert same(state(run)["state_dict"], state(whole)["state_dict"]) and rows(run) == rows(whole)
    before = contents(run)
    del before[run / "log.txt"]
    answer = cli(*AUTO, "callbacks.checkpoint.keep=9")
    assert answer.code == 0 and "is at its last step, 6: nothing to do" in answer.out
    assert before.items() <= contents(run).items()
    assert cli(*AUTO, "callbacks.checkpoint.keep=9", "trainer.max_steps=8").code == 0  # a longer one
    assert state(run)["images_seen"] == 8 * 512


def test_resume_auto_starts_in_a_folder_with_only_a_log(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / "log.txt").write_text("killed here\n")
    assert cli(*AUTO).code == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "run" / "log.txt").read_text().startswith("killed here\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["resume=auto"], "resume: auto requires the run's folder, the same at every start: hydra.run.dir=FOLDER"),
        (["resume=always"], "resume: must be auto or null, got 'always'; to continue one run: task=resume run=FOLDER"),
        (["-m", "seed=1,2", "resume=auto"], "-m: starts several runs, but resume=auto continues the run of one command line"),
        (["task=inspect", "resume=auto"], "resume: not used by task=inspect"),
        (["resume=auto", "hydra.run.dir=notes.txt"], "notes.txt is a file, not a folder"),
        (["hydra.run.dir=notes.txt"], "notes.txt is a file, not a folder"),
        (["resume=auto", "hydra.run.dir=."], "is not empty; every run needs a new folder"),
    ],
)
def test_resume_auto_refuses_other_folders_and_sweeps(
    arguments: list[str], message: str, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    answer = cli(*arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err
    assert contents(tmp_path) == {tmp_path / "notes.txt": b"mine"}


def test_resume_auto_refuses_another_command(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Settings changed, added and left out; the run is unchanged."""
    assert cli(*AUTO, "loss=hinge").code == 0
    before = contents(tmp_path / "run")
    for other, message in [
        (["loss=lsgan"], "loss._target_ is ganexp.losses.Hinge, not ganexp.losses.LeastSquares"),
        (["loss=hinge", "seed=6"], "seed is 5, not 6"),
        ([], "loss._target_ is ganexp.losses.Hinge, not ganexp.losses.BCE"),
    ]:
        answer = cli(*AUTO, *other)
        assert answer.code == 2 and message in answer.err, answer.err
        assert contents(tmp_path / "run") == before


# -- SLURM -----------------------------------------------------------------------------------------------------------


def of_srun(rank: int, tasks: int = 2, nodes: int = 1, per_node: str = "2", node_list: str = "localhost") -> dict[str, str]:
    """The environment that srun gives a task."""
    local = tasks // nodes
    return {
        "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_STEP_NODELIST": node_list,
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % local), "SLURM_NODEID": str(rank // local),
        "SLURM_NTASKS_PER_NODE": str(local), "SLURM_NNODES": str(nodes), "SLURM_JOB_NAME": "train",
    }  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", env)
    return env


def test_srun_sets_the_variables_of_torchrun(environment: dict[str, str]) -> None:
    environment |= of_srun(11, tasks=16, nodes=2, per_node="8(x2)", node_list="gpu[07-08]")
    slurm.describe_as_torchrun()
    expected = {
        "RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07", "MASTER_PORT": "19711",
    }  # fmt: skip
    assert expected.items() <= environment.items()


def test_srun_keeps_a_given_master_address(environment: dict[str, str]) -> None:
    environment |= {**of_srun(1), "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    slurm.describe_as_torchrun()
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.7", "29500")


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # in a batch script
        {**of_srun(0), "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"},
        {**of_srun(0), "LOCAL_RANK": "1", "RANK": "1"},  # torchrun, started by srun
    ],
)
def test_processes_without_srun_keep_their_environment(env: dict[str, str], environment: dict[str, str]) -> None:
    environment |= env
    before = dict(environment)
    slurm.describe_as_torchrun()
    assert environment == before


def test_nodes_with_unequal_tasks_are_refused(environment: dict[str, str]) -> None:
    environment |= of_srun(0, tasks=3, nodes=2, per_node="2,1")
    with pytest.raises(ConfigError, match="every node must have the same number of tasks, got 2,1"):
        slurm.describe_as_torchrun()


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("gpu07", "gpu07"),
        ("a,b", "a"),
        ("gpu[03-05,09]", "gpu03"),
        ("gpu[3]", "gpu3"),
        ("a[01,05]-ib,b", "a01-ib"),
        ("x,gpu[1-2]", "x"),
    ],
)
def test_first_node_is_parsed_from_a_node_list(nodes: str, first: str) -> None:
    assert slurm.first_node(nodes) == first


@pytest.mark.parametrize("continues", [True, False])
def test_only_a_command_that_continues_its_run_is_requeued(
    continues: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for key, value in {**BATCH, **fake_scontrol(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    slurm.requeue(continues)
    assert (tmp_path / "called").is_file() == continues
    assert ("is requeued" if continues else "is not requeued: without resume=auto") in caplog.text


# -- real processes --------------------------------------------------------------------------------------------------

LONG = [
    "model=mlp", "data=sine", "hardware.precision=32-true", "trainer.log_every=1", "trainer.samples_every=100",
    "trainer.metrics_every=100", "trainer.checkpoint_every=100", "callbacks.metrics.num=32", "model.width_multiplier=0.05",
    "data.batch_size=512", "trainer.max_steps=400", "resume=auto",
]  # fmt: skip
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().kill()


def start(folder: Path, *command: str, **env: str) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **env},
    )  # fmt: skip
    STARTED.append(process)
    return process


def wait_for_rows(run: Path, count: int, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not (run / "metrics.csv").is_file() or len((run / "metrics.csv").read_text().splitlines()) < count:
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fake_scontrol(folder: Path, code: int = 0) -> dict[str, str]:
    """A program of this name that notes its arguments, and what was saved when it was called."""
    program = folder / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> "{folder}/called"\nls "{folder}/run/checkpoints" >> "{folder}/saved"\nexit {code}\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def same_run(a: Path, b: Path) -> None:
    mine, theirs = state(a), state(b)
    for key in theirs:
        assert same(mine[key], theirs[key]), key
    assert rows(a) == rows(b)


BATCH = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}  # in a batch script


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, env, called",
    [
        (signal.SIGUSR1, BATCH, "requeue 4711\n"),
        (signal.SIGUSR1, {**BATCH, "SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "3"}, "requeue 4700_3\n"),
        (signal.SIGUSR1, {}, None),
        (signal.SIGTERM, BATCH, None),  # scancel and preemption, which requeues by itself
    ],
    ids=["job", "array", "no SLURM", "SIGTERM"],
)
def test_signal_saves_and_requeues(number: signal.Signals, env: dict[str, str], called: str | None, tmp_path: Path) -> None:
    command = ["ganexp", "hardware=cpu", *LONG, "hydra.run.dir=run"]
    run, env = tmp_path / "run", {**env, **fake_scontrol(tmp_path)}
    process = start(tmp_path, *command, **env)
    wait_for_rows(run, 150, process)
    process.send_signal(number)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number and "Traceback" not in out, out
    step = json.loads((run / "run.json").read_text())["steps"]
    assert 140 <= step < 400 and (run / "checkpoints" / f"step-{step:08d}.ckpt").is_file()
    requests = tmp_path / "called"
    assert (requests.read_text() if requests.is_file() else None) == called
    if called:
        assert f"step-{step:08d}.ckpt" in (tmp_path / "saved").read_text() and "is requeued" in (run / "log.txt").read_text()
    out = start(tmp_path, *command, **env).communicate(timeout=240)[0]
    assert f"resumed at step {step}" in out
    start(tmp_path, "ganexp", "hardware=cpu", *LONG, "hydra.run.dir=whole").communicate(timeout=240)
    same_run(run, tmp_path / "whole")


@pytest.mark.slow
def test_job_that_cannot_be_requeued_is_saved(tmp_path: Path) -> None:
    process = start(tmp_path, "ganexp", "hardware=cpu", *LONG, "hydra.run.dir=run", **BATCH, **fake_scontrol(tmp_path, 1))
    wait_for_rows(tmp_path / "run", 20, process)
    process.send_signal(signal.SIGUSR1)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 138 and "job 4711 cannot be requeued; submit it again" in out, out
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_two_srun_tasks_train_without_torchrun(tmp_path: Path, free_port: int) -> None:
    """SLURM's variables alone connect them; the signal to both requeues the job once; the next start continues."""
    run, scontrol = tmp_path / "run", fake_scontrol(tmp_path)
    command = ["ganexp", "hardware=multinode", "hardware.accelerator=cpu", *LONG]

    def tasks(folder: str) -> list[subprocess.Popen[str]]:
        env = {**scontrol, "MASTER_PORT": str(free_port)}
        return [start(tmp_path, *command, f"hydra.run.dir={folder}", **of_srun(rank), **env) for rank in (0, 1)]

    first = tasks("run")
    wait_for_rows(run, 50, *first)
    for process in first:
        process.send_signal(signal.SIGUSR1)
    outs = [process.communicate(timeout=120)[0] for process in first]
    assert [process.returncode for process in first] == [138, 138], outs
    assert (tmp_path / "called").read_text() == "requeue 4711\n"
    step = json.loads((run / "run.json").read_text())["steps"]
    assert step % 10 == 0 and 0 < step < 400
    second = tasks("run")
    outs = [process.communicate(timeout=240)[0] for process in second]
    assert [process.returncode for process in second] == [0, 0] and f"resumed at step {step}" in outs[0], outs
    whole = tasks("whole")
    outs = [process.communicate(timeout=240)[0] for process in whole]
    assert [process.returncode for process in whole] == [0, 0], outs
    same_run(run, tmp_path / "whole")
    assert json.loads((run / "run.json").read_text())["hardware"]["devices"] == 2


DIES = """
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Dies(Callback):
    def on_train_batch_end(self, trainer, *rest):
        died = Path("died")
        if trainer.global_rank == 1 and trainer.global_step == 250 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_torchrun_restarts_after_a_killed_rank(tmp_path: Path) -> None:
    """The second rank dies between two checkpoints and the agent starts both again; the result equals the run that never
    stopped."""
    (tmp_path / "dies.py").write_text(DIES)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2", "-m", "ganexp"]
    command = ["hardware=multinode", "hardware.accelerator=cpu", *LONG, "+callbacks.dies._target_=dies.Dies"]
    process = start(tmp_path, *torchrun, *command, "hydra.run.dir=run")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    assert (tmp_path / "died").is_file() and "resumed at step 200" in out, out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["resumed_at"] == [200] and record["status"] == "finished" and record["hardware"]["devices"] == 2
    process = start(tmp_path, *torchrun, *command, "hydra.run.dir=whole")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    same_run(tmp_path / "run", tmp_path / "whole")
