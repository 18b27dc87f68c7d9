"""Start the workers of a study: in this process, in several, or in jobs of a cluster."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ganexp.cli.messages import ConfigError, nearest
from ganexp.runtime.console import display_path
from ganexp.study.worker import begin, begin_on_cluster, work

CLUSTERS = ("slurm", "local")  # local: processes of this machine, to try it
DEFAULTS = {"cluster": "slurm", "name": "ganexp", "timeout_min": 240, "slurm_signal_delay_s": 120}


def run_serial(folder: Path, threads: int | None) -> bool:
    """Run the jobs in this process. Returns False if a signal has ended the work."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return work(folder) == 0


def run_joblib(folder: Path, threads: int | None, n_jobs: int) -> bool:
    """Run the jobs in `n_jobs` processes of this machine. A process imports torch once and runs one job after another. Returns
    False if a signal has ended the work."""
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    threads = threads or max(1, (os.cpu_count() or 1) // n_jobs)
    processes = parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=threads)
    with tempfile.TemporaryDirectory() as pids, forwarded(Path(pids)), processes:
        workers = (delayed(begin)(folder, threads, Path(pids)) for _ in range(n_jobs))
        try:
            return not any(Parallel(batch_size=1)(workers))
        except TerminatedWorkerError:
            print("ganexp: a process of the study was killed, perhaps for lack of memory", file=sys.stderr)
            return False


def run_submitit(folder: Path, threads: int | None, n_jobs: int, parameters: Mapping[str, Any]) -> bool:
    """Run the jobs in `n_jobs` jobs of a cluster, and wait for them. A job that is preempted or reaches its time limit saves its
    run and is requeued. Returns False if a signal has ended one of them, or the waiting."""
    executor = make_executor(folder, parameters)
    try:
        with executor.batch():
            workers = [executor.submit(begin_on_cluster, folder, threads) for _ in range(n_jobs)]
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"study.launcher: submitit cannot submit: {' '.join(str(error).split())}") from error
    where = display_path(executor.folder)
    print(f"  launcher    {executor.cluster}: {', '.join(worker.job_id for worker in workers)}; logs in {where}", flush=True)
    try:
        while not all(worker.done() for worker in workers):
            time.sleep(1)
    except KeyboardInterrupt:
        print(
            f"ganexp: the jobs of the cluster work on; scancel {workers[0].job_id.partition('_')[0]} ends them", file=sys.stderr
        )
        return False
    whole = True
    for worker in workers:
        failure = worker.exception()
        if failure is not None:
            print(f"ganexp: a job of the cluster failed: {str(failure).strip().splitlines()[-1]}; see {where}", file=sys.stderr)
        whole &= failure is None and worker.result() == 0
    return whole


def check_submitit(parameters: Mapping[str, Any]) -> None:
    """Raises ConfigError if there can be no executor with these parameters."""
    with tempfile.TemporaryDirectory() as folder:
        make_executor(Path(folder), parameters)


def make_executor(folder: Path, parameters: Mapping[str, Any]) -> Any:
    """Returns submitit's executor, which works in `folder`. `parameters`: `cluster`, and those of the executor. Raises
    ConfigError without submitit or SLURM, and for unknown parameters."""
    if find_spec("submitit") is None:
        raise ConfigError('study.launcher: submitit needs submitit: pip install "ganexp[slurm]"')
    # The signal after which a run is saved and requeued, see callbacks/stop.py; submitit reads this when it is imported.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    import submitit

    given = {**DEFAULTS, **parameters}
    cluster = given.pop("cluster")
    if cluster not in CLUSTERS:
        raise ConfigError(f"study.submitit.cluster: {cluster!r} is not a valid choice{nearest(str(cluster), CLUSTERS)}")
    given["slurm_additional_parameters"] = {"requeue": True, **given.get("slurm_additional_parameters", {})}
    try:
        executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
        executor.update_parameters(**given)
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        raise ConfigError(f"study.submitit: {str(error).splitlines()[0]}") from error
    return executor


@contextmanager
def forwarded(pids: Path) -> Iterator[None]:
    """Send SIGINT and SIGTERM on to the workers as SIGTERM: each ends its job after the current step. A second SIGINT ends all at
    once."""
    received = 0

    def forward(number: int, frame: Any) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = number
        for file in pids.iterdir() if sys.platform != "win32" else []:  # there os.kill would kill them
            with suppress(ProcessLookupError):
                os.kill(int(file.name), signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
