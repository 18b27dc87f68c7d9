"""Run the jobs of a study one after another. Any number of workers, on several machines, share one folder."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganexp.cli import jobs
from ganexp.cli.messages import ConfigError
from ganexp.cli.overrides import quoted
from ganexp.files import read_json, write_json
from ganexp.runtime.lock import FolderLock
from ganexp.study import plan
from ganexp.study.plan import Job

CLAIMS = ".jobs"  # the folder of the locks by which a worker claims a job; the run has a lock of its own


def work(folder: Path) -> bool:
    """Run the study's jobs that are not over and that nobody is running, with exactly the results of one process for each job.
    Returns False if a signal has ended the work."""
    study = plan.read(folder)
    assert study is not None
    with signals():
        try:
            return run_all(study, folder)
        except KeyboardInterrupt:  # between two jobs
            return False


def run_all(study: plan.Plan, folder: Path) -> bool:
    for job in study.jobs():
        if is_over(folder, job):
            continue
        claim = folder / CLAIMS / str(job.number)
        claim.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(claim, "study")
        if not lock.try_acquire():
            continue
        try:
            if not is_over(folder, job) and not run(study, job, folder):
                return False
        finally:
            lock.release()
    return True


def is_over(folder: Path, job: Job) -> bool:
    return status_of(folder, job) in ("finished", "failed")


def reopen_failed(study: plan.Plan, folder: Path) -> None:
    """Let jobs that have failed wait again: each is then run once more, by whichever worker comes first."""
    for job in study.jobs():
        if status_of(folder, job) == "failed":
            note({"status": "waiting"}, job, folder / str(job.number))


def status_of(folder: Path, job: Job) -> str:
    """Returns the status in the job's run.json, empty if it has not begun."""
    return str(read_json(folder / str(job.number) / "run.json").get("status", ""))


def error_of(folder: Path, job: Job) -> str:
    return str(read_json(folder / str(job.number) / "run.json").get("error", ""))


def run(study: plan.Plan, job: Job, folder: Path) -> bool:
    """Run one job as its command line with hydra.run.dir and resume=auto. Returns False if a signal has ended it."""
    run_dir, said = folder / str(job.number), io.StringIO()
    words = [*job.overrides, f"hydra.run.dir={quoted(run_dir)}", "resume=auto"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = jobs.run_command_line(words, study.config_name, study.config_dir)
            outcome: dict[str, Any] = {"status": "finished"}
            if code == 1:
                outcome = {"status": "failed", "error": last_message(said.getvalue())}
        except ConfigError as mistake:
            code, outcome = 2, {"status": "failed", "error": str(mistake)}
        except KeyboardInterrupt:
            code = 130
    if code in (0, 1, 2):
        note(outcome, job, run_dir)
    release_memory()
    return code in (0, 1, 2)


def note(outcome: dict[str, Any], job: Job, run_dir: Path) -> None:
    """Write how a job ended into its run.json, unless another process runs there."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(run_dir, "study")
    if not lock.try_acquire():
        return
    try:
        record = read_json(run_dir / "run.json")
        record.pop("error", None)
        job_facts = {"job": job.number, "overrides": job.overrides, "setting": job.setting, "seed": job.seed}
        write_json({**record, **job_facts, **outcome}, run_dir / "run.json")
    finally:
        lock.release()


def last_message(text: str) -> str:
    lines = [line.removeprefix("ganexp: ") for line in text.splitlines() if line.startswith("ganexp: ")]
    return lines[-1] if lines else "failed without a message"


@contextmanager
def signals() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt; during training the run's Stop callback handles it."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def release_memory() -> None:
    """Free what the last job held, on the GPU too."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def begin(folder: Path, threads: int, pids: Path) -> bool:
    """`work` in a process of its own. `pids`: a folder in which it leaves its process's number, for signals."""
    (pids / str(os.getpid())).touch()
    import torch

    torch.set_num_threads(threads)
    return work(folder)
