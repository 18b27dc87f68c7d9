"""Run the jobs of a study one after another. Any number of workers, on several machines, share one folder."""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ganexp.callbacks.stop import REQUEUE, SIGNALS
from ganexp.cli import jobs
from ganexp.cli.messages import ConfigError
from ganexp.cli.overrides import quoted
from ganexp.files import write_json
from ganexp.runtime import slurm
from ganexp.runtime.lock import FolderLock
from ganexp.study import plan, search
from ganexp.study.plan import OVER, Job
from ganexp.study.prune import Prune

CLAIMS = ".jobs"  # the folder of the locks by which a worker claims a job; the run has a lock of its own


def work(folder: Path) -> int:
    """Run the study's jobs that are not over and that nobody is running, with exactly the results of one process for each job.
    Returns the exit code: 0, or 128 plus the signal that has ended the work."""
    study = plan.read(folder)
    assert study is not None
    with Signals() as signals:
        try:
            code = run_all(study, folder)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
    if signals.received:  # outside of a training, which requeues by itself
        code = 128 + signals.received
        if signals.received == REQUEUE:
            slurm.requeue(True)
    return code


def run_all(study: plan.Plan, folder: Path) -> int:
    while True:
        for job in study.jobs():
            if code := claim_and_run(study, job, folder):
                return code
        if not study.adaptive or not search.extend(folder):
            return 0
        study = plan.read(folder) or study


def claim_and_run(study: plan.Plan, job: Job, folder: Path) -> int:
    """Run a job, unless it is over or another process runs it. Returns 0, or 128 plus the signal that has ended it."""
    if job.status(folder) in OVER:
        return 0
    claim = folder / CLAIMS / str(job.number)
    claim.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(claim, "study")
    if not lock.try_acquire():
        return 0
    try:
        return 0 if job.status(folder) in OVER else run(study, job, folder)
    finally:
        lock.release()


def reopen_failed(study: plan.Plan, folder: Path) -> None:
    """Let jobs that have failed wait again: each is then run once more, by whichever worker comes first. A search that has been
    told of the failure does not learn of the new result."""
    for job in study.jobs():
        if job.status(folder) == "failed":
            note({"status": "waiting"}, job, folder)


def run(study: plan.Plan, job: Job, folder: Path) -> int:
    """Run one job as its command line with hydra.run.dir and resume=auto. Returns 0, or 128 plus the signal that has ended it."""
    callbacks = []
    if study.adaptive:
        if search.is_pruned(folder, study, job):  # with another seed, or just before this process was killed
            note({"status": "pruned"}, job, folder)
            return 0
        callbacks = [Prune(folder, job)]
    said = io.StringIO()
    words = [*job.overrides, f"hydra.run.dir={quoted(folder / job.name)}", "resume=auto"]
    outcome: dict[str, Any] = {"status": "finished"}
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = jobs.run_command_line(words, study.config_name, study.config_dir, callbacks)
        except ConfigError as mistake:
            code, outcome = 2, {"status": "failed", "error": str(mistake)}
    if code == 1:
        outcome = {"status": "failed", "error": last_message(said.getvalue())}
    if code == 0 and study.adaptive and search.is_pruned(folder, study, job) and job.status(folder) == "interrupted":
        outcome = {"status": "pruned"}
    release_memory()
    if code not in (0, 1, 2):
        return code
    note(outcome, job, folder)
    return 0


def note(outcome: dict[str, Any], job: Job, folder: Path) -> None:
    """Write how a job ended into its run.json, unless another process runs there."""
    run_dir = folder / job.name
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(run_dir, "study")
    if not lock.try_acquire():
        return
    try:
        record = job.record(folder)
        record.pop("error", None)
        job_facts = {"job": job.number, "overrides": job.overrides, "setting": job.setting, "seed": job.seed}
        write_json({**record, **job_facts, **outcome}, run_dir / "run.json")
    finally:
        lock.release()


def last_message(text: str) -> str:
    lines = [line.removeprefix("ganexp: ") for line in text.splitlines() if line.startswith("ganexp: ")]
    return lines[-1] if lines else "failed without a message"


class Signals:
    """Turns SIGTERM and SLURM's SIGUSR1 into KeyboardInterrupt; during training the run's Stop callback handles them. `received`:
    the signal, 0 for none of these."""

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, Any] = {}

    def receive(self, number: int, frame: Any) -> None:
        self.received = number
        raise KeyboardInterrupt

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self.before = {number: signal.signal(number, self.receive) for number in SIGNALS if number != signal.SIGINT}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def release_memory() -> None:
    """Free what the last job held, on the GPU too."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def begin(folder: Path, threads: int, pids: Path) -> int:
    """`work` in a process of its own. `pids`: a folder in which it leaves its process's number, for signals."""
    (pids / str(os.getpid())).touch()
    # A run on several devices starts processes; Python tells them the start method of this one, and they know none of joblib's.
    multiprocessing.set_start_method("spawn", force=True)
    import torch

    torch.set_num_threads(threads)
    return work(folder)


def begin_on_cluster(folder: Path, threads: int | None) -> int:
    """`work` in a job of a cluster. Leaves no result if the job is requeued."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    code = work(folder)
    if REQUEUE is not None and code == 128 + REQUEUE:
        sys.exit(code)
    return code
