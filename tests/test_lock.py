"""The lock of a folder alone, and with several runs for the same folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer
from helpers import SHORT, rows

from ganexp.cli.messages import ConfigError
from ganexp.files import write_json
from ganexp.runtime import lock
from ganexp.runtime.lock import FolderLock

HOLD = "import sys, time, pathlib\nfrom ganexp.runtime.lock import FolderLock\n" \
    "FolderLock(pathlib.Path(sys.argv[1])).acquire()\nprint('held', flush=True)\ntime.sleep(100)\n"  # fmt: skip


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "GANEXP_COMMAND": "ganexp seed=8"},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def elsewhere(**changes: Any) -> dict[str, Any]:
    """The record of a process on another machine."""
    return lock.this_process() | {"host": "elsewhere", "boot": "another", "process": 7, "command": "ganexp seed=3"} | changes


def test_second_process_is_refused_and_a_killed_owner_is_succeeded(tmp_path: Path) -> None:
    owner = hold(tmp_path)
    with pytest.raises(ConfigError, match=rf"^run: .* in use by process {owner.pid} on .* since 20.* \(ganexp seed=8\); wait"):
        FolderLock(tmp_path).acquire()
    assert not FolderLock(tmp_path).try_acquire()
    owner.kill()
    owner.communicate()
    with FolderLock(tmp_path) as mine:
        assert f"from process {owner.pid} on" in mine.note and "ended without releasing it" in mine.note
        assert not FolderLock(tmp_path).try_acquire()  # nor a second time in this process
    with FolderLock(tmp_path) as mine:
        assert mine.note == ""


def test_lock_of_another_machine_is_valid_until_its_heartbeat_stops(tmp_path: Path) -> None:
    write_json(elsewhere(), tmp_path / ".owner.json")
    with pytest.raises(ConfigError, match=r"process 7 on elsewhere since .* \(ganexp seed=3\); its last heartbeat was \d s ago"):
        FolderLock(tmp_path).acquire()
    past = time.time() - lock.PATIENCE - 5
    os.utime(tmp_path / ".owner.json", (past, past))
    with FolderLock(tmp_path) as mine:
        assert "elsewhere" in mine.note


def test_lock_that_waits_takes_over_from_a_dead_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 1.5)
    write_json(elsewhere(), tmp_path / ".owner.json")
    with FolderLock(tmp_path, waits=True) as mine:
        assert "elsewhere" in mine.note


def test_lock_that_waits_is_refused_at_the_next_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, past = tmp_path / ".owner.json", time.time() - 60
    write_json(elsewhere(), record)
    os.utime(record, (past, past))
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.utime(record))
    with pytest.raises(ConfigError, match="is in use by process 7 on elsewhere"):
        FolderLock(tmp_path, waits=True).acquire()


def test_lock_of_a_lost_machine_kept_by_a_file_server_is_ignored(tmp_path: Path) -> None:
    owner = hold(tmp_path)
    write_json(elsewhere(), tmp_path / ".owner.json")
    assert not FolderLock(tmp_path).try_acquire()
    past = time.time() - lock.PATIENCE - 5
    os.utime(tmp_path / ".owner.json", (past, past))
    with FolderLock(tmp_path) as mine:
        assert "elsewhere" in mine.note
    owner.kill()
    owner.communicate()


def test_owner_has_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with FolderLock(tmp_path):
        os.utime(tmp_path / ".owner.json", (1, 1))
        deadline = time.monotonic() + 5
        while (tmp_path / ".owner.json").stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"run: cannot lock .*: Permission denied"):
        FolderLock(tmp_path).acquire()
    tmp_path.chmod(0o700)


def test_resume_refuses_a_folder_in_use(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    owner = hold(tmp_path)
    answer: Answer = cli("task=resume", f"run={tmp_path}")
    assert answer.code == 2 and f"is in use by process {owner.pid}" in answer.err
    owner.kill()
    owner.communicate()
    assert cli(f"hydra.run.dir={__file__}").code == 2


CONTEND = """
import os, sys, time
from pathlib import Path
from ganexp.runtime.lock import FolderLock
folder, held, end = Path(sys.argv[1]), 0, time.monotonic() + 4
while time.monotonic() < end:
    lock = FolderLock(folder)
    if lock.try_acquire():
        os.close(os.open(folder / "busy", os.O_CREAT | os.O_EXCL))  # raises if another process is here
        time.sleep(0.0005)
        os.unlink(folder / "busy")
        held += 1
        lock.release()
print(held)
"""


@pytest.mark.slow
def test_lock_never_has_two_owners(tmp_path: Path) -> None:
    several = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=100) for process in several]
    assert not any(error for _, error in ended), ended
    assert sum(int(held) for held, _ in ended) > 20 and not list(tmp_path.iterdir())


# -- real runs -------------------------------------------------------------------------------------------------------


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ganexp", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def ends(*processes: subprocess.Popen[str]) -> tuple[list[int], list[str]]:
    """Exit codes and stderr, by exit code."""
    errors = [process.communicate(timeout=500)[1] for process in processes]
    ordered = sorted(zip([p.returncode for p in processes], errors, strict=True))
    return [code for code, _ in ordered], [error for _, error in ordered]


POINTS = ["model=mlp", "data=ring", "metrics=[]", "callbacks=[checkpoint]", *SHORT[:3], "trainer.log_every=1"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["hydra.run.dir=run"], ["-m", "hydra.sweep.dir=run"]])
def test_one_of_two_runs_in_one_folder_trains(arguments: list[str], tmp_path: Path) -> None:
    both = [start(tmp_path, *arguments, *POINTS, f"seed={seed}", "trainer.max_steps=60") for seed in (1, 2)]
    codes, errors = ends(*both)
    refusals = ("is in use by", "is not empty", "has another sweep")  # while the other runs, and before it has begun
    assert codes == [0, 2] and any(refusal in errors[1] for refusal in refusals), errors
    (csv,) = tmp_path.rglob("metrics.csv")
    assert [row["step"] for row in rows(csv.parent)] == [str(step) for step in range(1, 61)]


@pytest.mark.slow
def test_one_of_two_resumes_trains_and_none_during_the_run(tmp_path: Path) -> None:
    run = start(tmp_path, *POINTS, "trainer.max_steps=20000", "trainer.checkpoint_every=20", "hydra.run.dir=run")
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file():
        assert run.poll() is None
        time.sleep(0.01)
    codes, errors = ends(start(tmp_path, "task=resume", "run=run"))
    assert codes == [2] and f"in use by process {run.pid}" in errors[0]
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    step = json.loads((tmp_path / "run" / "run.json").read_text())["steps"] + 200
    codes, errors = ends(*[start(tmp_path, "task=resume", "run=run", f"trainer.max_steps={step}") for _ in range(2)])
    assert codes == [0, 2] and "in use by" in errors[1], errors
    assert "took over" in (tmp_path / "run" / "log.txt").read_text()
    assert [row["step"] for row in rows(tmp_path / "run")] == [str(n) for n in range(1, step + 1)]


@pytest.mark.slow
def test_two_sweeps_started_in_one_second_have_their_own_folders(tmp_path: Path) -> None:
    both = [start(tmp_path, "-m", *POINTS, f"seed={seed}", "trainer.max_steps=3") for seed in (1, 2)]
    codes, errors = ends(*both)
    assert codes == [0, 0], errors
    assert len(list((tmp_path / "outputs" / "sweep").iterdir())) == 2
