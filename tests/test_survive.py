"""What a run survives: being killed at any moment, a full disk, a read-only folder, many steps, and other runs."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer, data_overrides
from helpers import MODELS, REGULARIZERS, SHORT, kill_after, rows, same, state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ganexp.callbacks.log import Log
from ganexp.cli.messages import format_message
from ganexp.files import replace
from ganexp.runtime.restoring import read

CSV_STEP = re.compile(r"step-(\d+)\.ckpt")


# -- running ---------------------------------------------------------------------------------------------------------


class Run:
    """`python -m ganexp` in a process and a session of its own; stdout and stderr go to files beside its folder."""

    all: list[Run] = []  # noqa: RUF012

    def __init__(self, folder: Path, *arguments: str, setup: Callable[[], None] | None = None, **environment: str):
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ganexp", *arguments], cwd=folder, stdout=out, stderr=err, start_new_session=True,
                preexec_fn=setup, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )  # fmt: skip

        self.all.append(self)

    def until(self, happened: Callable[[], bool], pause: float = 0.002) -> bool:
        """Wait for something; False if the run ended before it."""
        deadline = time.monotonic() + 300
        while not happened():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline
            time.sleep(pause)
        return True

    def kill(self, number: int) -> int:
        """The exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)

    def hears(self) -> bool:
        """Whether the first signal was answered."""
        return "again stops at once" in self.err.read_text()

    def end(self, seconds: float = 580) -> int:
        return self.process.wait(seconds)

    def said(self) -> list[str]:
        """The lines of stderr, without the progress bar."""
        lines = re.split(r"[\r\n]+", self.err.read_text())
        return [line for line in lines if line.strip() and "/s=" not in line]


@pytest.fixture(autouse=True)
def none_stays() -> Iterator[None]:
    """A test that fails in the middle leaves no run behind."""
    yield
    while Run.all:
        Run.all.pop().process.kill()


def logged(run: Path) -> int:
    """The last step in metrics.csv, 0 where there is none."""
    file = run / "metrics.csv"
    try:
        header, *lines = file.read_text().splitlines(keepends=True)
    except (FileNotFoundError, ValueError):  # not there, or empty
        return 0
    whole = [line for line in lines if line.endswith("\n")]
    return int(whole[-1].split(",")[header.strip().split(",").index("step")]) if whole else 0


def saved(run: Path) -> int:
    """The step of the last checkpoint under its final name, 0 where there is none."""
    steps = [int(CSV_STEP.match(file.name)[1]) for file in (run / "checkpoints").glob("step-*.ckpt")]  # type: ignore[index]
    return max(steps, default=0)


def check_whole(run: Path) -> None:
    """Every checkpoint under a final name can be read, and says the step that its name says."""
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = read(file)
        if named := CSV_STEP.match(file.name):
            assert content["global_step"] == int(named[1])


def check_equal(parts: Path, whole: Path, steps: int | None = None) -> None:
    """Bit for bit: weights, averages, optimizers, random states, every row and picture; one TensorBoard curve up to `steps`."""
    mine, theirs = state(parts), state(whole)
    for key in theirs:
        assert same(mine[key], theirs[key]), key
    assert rows(parts) == rows(whole)
    pictures = {file.name: file.read_bytes() for file in (parts / "samples").iterdir()}
    assert pictures == {file.name: file.read_bytes() for file in (whole / "samples").iterdir()}
    if steps:
        events = EventAccumulator(str(parts), size_guidance={"scalars": 0})
        events.Reload()
        assert [event.step for event in events.Scalars("loss/generator")] == list(range(1, steps + 1))


def litter(run: Path) -> list[str]:
    """Files that only a write under way has."""
    names = re.compile(r".*\.(part|tmp|new|before)")
    return [str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and names.fullmatch(file.name)]


# -- killed ----------------------------------------------------------------------------------------------------------

STEPS = 1500  # more than the kills leave
LONG = [  # the default run, small, with a checkpoint every 20 steps
    "data=digits", "data.batch_size=16", "model=cdcgan", "model.width_multiplier=0.05", "hardware=cpu",
    "hardware.precision=32-true", "regularizer=[r1]", "regularizer.r1.every=4",
    "augment=[flip]", f"trainer.max_steps={STEPS}", "trainer.log_every=1", "trainer.samples_every=500",
    "trainer.metrics_every=500", "trainer.checkpoint_every=20", "callbacks.metrics.num=200",
]  # fmt: skip


def go_on(folder: Path, run: Path, arguments: list[str]) -> Run:
    """Resume; a run that was killed before its config was written starts anew."""
    if (run / "config.yaml").is_file():
        return Run(folder, "task=resume", f"run={run}")
    shutil.rmtree(run, ignore_errors=True)
    return Run(folder, *arguments, f"hydra.run.dir={run}")


class Before:
    """What lay in a run folder before it went on: what follows is then seen to be new."""

    def __init__(self, run: Path):
        self.run, self.step = run, saved(run)
        self.csv, self.names = self.inode(), self.checkpoints()

    def inode(self) -> int:
        file = self.run / "metrics.csv"
        try:
            return file.stat().st_ino
        except FileNotFoundError:  # a run that resumes moves it aside for a moment
            return 0

    def checkpoints(self) -> set[str]:
        folder = self.run / "checkpoints"
        return set(os.listdir(folder)) if folder.is_dir() else set()

    def logs(self, steps: int) -> bool:
        """Whether so many steps after the last checkpoint are logged."""
        return self.inode() not in (0, self.csv) and logged(self.run) >= self.step + steps

    def writes(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(not name.endswith(".ckpt") for name in self.checkpoints() - self.names)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_run_killed_26_times_equals_the_whole_one(seed: int, tmp_path: Path) -> None:
    """SIGKILL while it starts, while it writes a checkpoint, and in between."""
    whole, parts, chance = tmp_path / "whole", tmp_path / "parts", random.Random(seed)
    begun = time.monotonic()
    run = Run(tmp_path, *LONG, f"hydra.run.dir={whole}")
    assert run.until(lambda: logged(whole) > 0), run.said()
    starts_in = time.monotonic() - begun
    assert run.end(3000) == 0, run.said()

    moments = ["starting", "between"] * 8 + ["writing"] * 10
    chance.shuffle(moments)
    killed: dict[str, list[int]] = {moment: [] for moment in ("starting", "writing", "between")}
    for moment in moments:
        before = Before(parts)
        run = go_on(tmp_path, parts, LONG)
        if moment == "starting":
            at = time.monotonic() + chance.uniform(0, 1.1 * starts_in)
            run.until(lambda at=at, before=before: time.monotonic() > at or before.logs(25))  # type: ignore[misc]
        elif moment == "writing":
            run.until(partial(before.logs, chance.randint(1, 20)))
            run.until(before.writes, 0.0002)
            time.sleep(chance.uniform(0, 0.03))
        else:
            run.until(partial(before.logs, chance.randint(1, 25)))
            time.sleep(chance.uniform(0, 0.02))
        assert run.kill(signal.SIGKILL) == -signal.SIGKILL, (moment, killed, run.said())
        killed[moment].append(logged(parts))
        check_whole(parts)
    assert saved(parts) < STEPS
    run = go_on(tmp_path, parts, LONG)
    assert run.end(3000) == 0, run.said()
    resumed = json.loads((parts / "run.json").read_text())["resumed_at"]
    minutes = (time.monotonic() - begun) / 60
    print(f"{sum(map(len, killed.values()))} kills in {minutes:.0f} min, at the steps {killed}; trained on at {resumed}")
    check_equal(parts, whole, STEPS)
    assert not litter(parts)


HEAVY = [
    "data=digits", "data.batch_size=512", "model=cdcgan", "model.width_multiplier=0.5", "hardware=cpu",
    "hardware.precision=32-true",
    "regularizer=[r1]",
    "trainer.max_steps=40", "trainer.log_every=1", "trainer.samples_every=10", "trainer.metrics_every=10",
    "trainer.checkpoint_every=4", "callbacks.metrics.num=64",
]  # fmt: skip


@pytest.mark.slow
def test_run_stopped_by_every_signal_continues(tmp_path: Path) -> None:
    """SIGTERM, SIGINT, and SIGINT twice within a step, which stops at once without a checkpoint."""
    whole, parts, chance = tmp_path / "whole", tmp_path / "parts", random.Random(1)
    run = Run(tmp_path, *HEAVY, f"hydra.run.dir={whole}")
    assert run.end() == 0, run.said()
    at = []
    for number, times in [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 1)]:
        before = Before(parts)
        run = go_on(tmp_path, parts, HEAVY)
        assert run.until(partial(before.logs, chance.randint(1, 6))), run.said()
        time.sleep(0.02)  # a step takes longer
        if times == 2:
            run.process.send_signal(number)
            assert run.until(run.hears)
        code = run.kill(number)
        at.append((number.name, times, logged(parts), saved(parts)))
        assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number], (at, run.said())
        assert not any("Traceback" in line for line in run.said())
        check_whole(parts)
        status = json.loads((parts / "run.json").read_text())["status"]
        assert status == ("running" if number == signal.SIGKILL else "interrupted")
        if times == 1 and number != signal.SIGKILL:
            assert saved(parts) == logged(parts), at
    run = go_on(tmp_path, parts, HEAVY)
    assert run.end() == 0, run.said()
    print(f"stopped: {at}")
    check_equal(parts, whole, 40)


# -- no room, no right ------------------------------------------------------------------------------------------------

SINE = [
    "model=mlp", "data=sine", "hardware=cpu", "hardware.precision=32-true",
    "trainer.log_every=1", "trainer.samples_every=20", "trainer.metrics_every=20",
    "trainer.checkpoint_every=10", "callbacks.metrics.num=32", "model.width_multiplier=0.05", "trainer.max_steps=80",
]  # fmt: skip


FILES = ("checkpoints/", "samples/", "metrics.csv", "events.out.tfevents")  # the animation is only made at the end


@pytest.fixture
def uninterrupted(cli: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory, whole: list[Path] = []) -> Path:  # noqa: B006
    """The run that never stopped; made once."""
    if not whole:
        folder = tmp_path_factory.mktemp("uninterrupted") / "whole"
        answer = cli(*SINE, f"hydra.run.dir={folder}")
        assert answer.code == 0, answer.err
        whole.append(folder)
    return whole[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def meanwhile(run: Run, folder: Path, act: Callable[[], object]) -> None:
    """Do something to a run in the middle, after its first checkpoint; then let it come to its end."""
    assert run.until(lambda: logged(folder) > 12), run.said()
    run.process.send_signal(signal.SIGSTOP)
    act()
    run.process.send_signal(signal.SIGCONT)
    run.end()


def check_failed(run: Run, folder: Path, *suspects: str) -> None:
    """Exit code 1, one line that names what could not be written, nothing half-written, what was saved before is whole."""
    said = run.said()
    print("\n".join(said))
    assert run.process.returncode == 1 and saved(folder) > 0
    check_whole(folder)
    assert not litter(folder)
    assert len(said) == 1 and said[0].startswith("ganexp: "), said
    message = said[0].partition(" (traceback")[0]
    assert any(name in message for name in suspects), f"it does not say what could not be written: {message}"


def check_goes_on(cli: Callable[..., Answer], folder: Path, uninterrupted: Path, curve: bool = True) -> None:
    """Resumed, it ends as the run that never stopped."""
    answer = cli("task=resume", f"run={folder}")
    assert answer.code == 0, answer.err
    check_equal(folder, uninterrupted, 80 if curve else None)


def test_run_whose_checkpoint_does_not_fit_fails_and_continues(
    cli: Callable[..., Answer], uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which may write files of 50 KB from step 13 on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    step = Log.on_train_batch_end

    def limited(self: Log, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 13:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        step(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "on_train_batch_end", limited)
        try:
            answer = cli(*SINE, "logger=[csv]", "hydra.run.dir=run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run = tmp_path / "run"
    said = [line for line in answer.err.splitlines() if "/s=" not in line]
    assert answer.code == 1 and len(said) == 1 and said[0].startswith("ganexp: ") and "checkpoints/" in said[0], said
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed" and "checkpoints/" in record["error"]
    assert saved(run) == 10 and not litter(run)
    check_whole(run)
    check_goes_on(cli, run, uninterrupted, curve=False)


class Full(io.BytesIO):
    """A file on a disk with room for one write."""

    def write(self, content: Any) -> int:
        if self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_error_of_a_full_disk_is_not_hidden(tmp_path: Path) -> None:
    """torch.save raises its own in its place; joblib wraps it."""
    with pytest.raises(OSError, match="No space left on device") as full:
        replace(tmp_path / "x.ckpt", lambda _: torch.save({"a": torch.zeros(10_000)}, Full()))
    wrapped = RuntimeError("a job failed")
    wrapped.__cause__ = full.value
    full.value.__cause__ = RuntimeError("remote traceback")
    assert format_message(wrapped) == f"{tmp_path / 'x.ckpt'}: No space left on device"


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit, logger, suspect",
    [
        (50_000, "csv", "checkpoints/"),
        (40_000, "tensorboard,csv", "events.out.tfevents"),
        (5_000, "csv", "metrics.csv"),
    ],
)
def test_run_that_cannot_grow_a_file_fails_and_continues(
    limit: int, logger: str, suspect: str, cli: Callable[..., Answer], uninterrupted: Path, tmp_path: Path
) -> None:
    """As at the end of a quota: a checkpoint, the event file or the next row does not fit. The record says so."""
    folder = tmp_path / "run"
    run = Run(tmp_path, *SINE, f"logger=[{logger}]", f"hydra.run.dir={folder}")
    meanwhile(run, folder, lambda: resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (limit, limit)))
    record = json.loads((folder / "run.json").read_text())
    copy = shutil.copytree(folder, tmp_path / "copy")
    check_goes_on(cli, copy, uninterrupted, "tensorboard" in logger)
    check_failed(run, folder, suspect)
    assert record["status"] == "failed" and suspect in record["error"]


@pytest.mark.slow
def test_run_on_a_full_disk_fails_and_continues(
    disk: Path, cli: Callable[..., Answer], uninterrupted: Path, tmp_path: Path
) -> None:
    folder, filler = disk / "run", disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass

    run = Run(tmp_path, *SINE, f"hydra.run.dir={folder}")
    meanwhile(run, folder, fill)
    filler.unlink()
    copy = shutil.copytree(folder, tmp_path / "copy")
    check_goes_on(cli, copy, uninterrupted)
    check_failed(run, folder, *FILES)


def bound_by_rights() -> None:
    """Let root be refused what the permissions refuse: without CAP_DAC_OVERRIDE from the next exec on."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP; another user has no such capability


def allow(folder: Path, writing: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200 if writing else path.stat().st_mode & ~0o222)


@pytest.mark.slow
def test_run_whose_folder_turns_read_only_continues(cli: Callable[..., Answer], uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = Run(tmp_path, *SINE, f"hydra.run.dir={folder}", setup=bound_by_rights)
    meanwhile(run, folder, lambda: allow(folder, writing=False))
    allow(folder, writing=True)
    copy = shutil.copytree(folder, tmp_path / "copy")
    check_goes_on(cli, copy, uninterrupted)
    check_failed(run, folder, *FILES)


# -- long, and many --------------------------------------------------------------------------------------------------

WATCH = """
import gc, json, os, threading
from pathlib import Path
from pytorch_lightning import Callback


class Watch(Callback):
    def __init__(self, file, every=1000):
        self.file, self.every = file, every

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx):
        if trainer.global_step % self.every == 0:
            gc.collect()  # what waits for the collector is no leak: a drawing of points is 1 MB of cycles
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            with open(self.file, "a") as file:
                print(json.dumps({
                    "step": trainer.global_step, "rss": pages * os.sysconf("SC_PAGESIZE"),
                    "files": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task")),
                    "python_threads": threading.active_count(),
                }), file=file)
"""


def watched(folder: Path, every: int) -> list[str]:
    """The overrides of a callback of the test's own that writes what the process holds to watch.jsonl."""
    (folder / "watch.py").write_text(WATCH)
    return [
        "+callbacks.watch._target_=watch.Watch",
        f"+callbacks.watch.file={folder}/watch.jsonl",
        f"+callbacks.watch.every={every}",
    ]


def notes(folder: Path, name: str) -> np.ndarray:
    return np.array([json.loads(line)[name] for line in (folder / "watch.jsonl").read_text().splitlines()])


def check_constant(counts: np.ndarray) -> None:
    """All the same, but for the event file, which TensorBoard's thread opens for a moment to append to it."""
    assert set(counts) <= {counts.min(), counts.min() + 1} and np.median(counts[:5]) == np.median(counts[-5:]), counts


@pytest.mark.slow
def test_long_run_leaks_no_memory_files_or_threads(tmp_path: Path) -> None:
    """20,000 steps: as many as after the first 5,000."""
    run = Run(
        tmp_path, "model=mlp", "data=sine", "hardware=cpu", "hardware.precision=32-true",
    "model.width_multiplier=0.25",
        "trainer.max_steps=20000", "trainer.log_every=50",
        "trainer.samples_every=500", "trainer.metrics_every=500", "trainer.checkpoint_every=500", "callbacks.metrics.num=500",
        *watched(tmp_path, 1000), f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert run.end() == 0, run.said()
    steps, rss, files, threads = (notes(tmp_path, name) for name in ("step", "rss", "files", "threads"))
    warm = steps > 5000
    slope = np.polyfit(steps[warm], rss[warm], 1)[0]
    print(
        f"memory {slope:.1f} bytes a step, {rss[warm][0] / 2**20:.0f} to {rss[-1] / 2**20:.0f} MiB, "
        f"files {files}, threads {threads}"
    )
    print(rss.tolist())
    assert slope < 100
    check_constant(files[warm])
    check_constant(threads[warm])


def in_session(session: int) -> list[str]:
    """The processes of a session that are still there."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = file.read_text().rpartition(")")[2].split()
        except OSError:  # just gone
            continue
        if int(rest[3]) == session and rest[0] != "Z":
            found.append(file.parent.name)
    return found


@pytest.mark.slow
def test_hundred_jobs_leave_nothing_behind(tmp_path: Path) -> None:
    """No process, no temporary file, no shared memory, no open file or thread: only the sweep's folder."""
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    shared = set(os.listdir("/dev/shm"))
    run = Run(
        work, "-m", "seed=range(0,100)", "model=mlp", "data=sine", "hardware=cpu", "hardware.precision=32-true",
    "model.width_multiplier=0.05",
        "trainer.max_steps=2",
        "trainer.num_samples=4", "callbacks.metrics.num=32", *watched(work, 2), TMPDIR=str(temporary),
    )  # fmt: skip
    assert run.end() == 0, run.said()
    assert "all 100 jobs finished" in run.out.read_text()
    files, threads, rss = (notes(work, name) for name in ("files", "threads", "rss"))
    slope = np.polyfit(np.arange(50, 100), rss[50:], 1)[0]
    print(f"files {files[::20]}, threads {threads[::20]}, memory {slope / 1024:.0f} KiB a job, {rss[::20] // 2**20} MiB")
    assert not in_session(run.process.pid)
    assert not list(temporary.rglob("*")) and set(os.listdir("/dev/shm")) <= shared
    assert {path.name for path in work.iterdir()} <= {"outputs", "out.txt", "err.txt", "watch.py", "watch.jsonl", "__pycache__"}
    assert [path.name for path in (work / "outputs").iterdir()] == ["sweep"]
    (sweep,) = (work / "outputs" / "sweep").iterdir()
    assert len([path for path in sweep.iterdir() if path.is_dir()]) == 100
    check_constant(files[1:])
    check_constant(threads[1:])
    assert slope < 500 * 1024  # 223 to 251 KiB were seen: Hydra's sweeper keeps the composed config of every job until the last


# -- every model and regularizer ---------------------------------------------------------------------------------------


def data_for(model: str, root: Path) -> list[str]:
    """Three batches an epoch of what the model is made for."""
    if model.startswith("mlp_sine"):
        return ["data=sine", "data.points=96", "data.batch_size=32"]
    if model.startswith("dcgan_") or model == "fastgan":
        return ["data=folder", *data_overrides("folder", root), "data.shape=[3,32,32]", "data.batch_size=5"]
    return ["data=digits", "data.batch_size=512"]


ONE_PLAYER = ("gmmn", "vae")
MATRIX = [
    *((model, "", steps) for model in MODELS for steps in ((1, 5) if model not in ONE_PLAYER else (1,))),
    *(
        (model, regularizer, steps)
        for model in ("cdcgan", "mlp")
        for regularizer in REGULARIZERS
        if regularizer
        for steps in (1, 5)
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("model, regularizer, d_steps", MATRIX)
def test_resumed_run_equals_the_whole_one(
    model: str, regularizer: str, d_steps: int, data_root: Path, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    """Stopped in the middle of an epoch, and between two updates of G."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    choices = [f"model={model}", *SHORT, *data_for(model, data_root), "trainer.max_steps=8", "callbacks.checkpoint.keep=9"]
    if model not in ONE_PLAYER:
        choices += [f"model.d_steps={d_steps}", f"regularizer=[{regularizer}]", "augment=[flip]" if "sine" not in model else ""]
    answer = cli(*filter(None, choices), f"hydra.run.dir={whole}")
    assert answer.code == 0, answer.err
    shutil.copytree(whole, parts)
    kill_after(4, parts)
    for picture in (parts / "samples").glob("*0[68].png"):
        picture.unlink()
    answer = cli("task=resume", f"run={parts}")
    assert answer.code == 0, answer.err
    assert "resumed at step 4" in answer.out
    check_equal(parts, whole)


@pytest.mark.slow
def test_run_of_two_processes_resumes_on_two_and_on_one(tmp_path: Path) -> None:
    """Bit for bit on two; going from one to two is not, and the run says so."""
    choices = ["model=cdcgan", "regularizer=[r1]", *SHORT, "trainer.max_steps=8", "callbacks.checkpoint.keep=9"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run = Run(tmp_path, *choices, "hardware=ddp_cpu", f"hydra.run.dir={whole}")
    assert run.end() == 0, run.said()
    shutil.copytree(whole, parts)
    kill_after(4, parts)
    run = Run(tmp_path, "task=resume", f"run={parts}")
    assert run.end() == 0, run.said()
    assert "resumed at step 4" in run.out.read_text() and "bitwise" not in run.out.read_text()
    check_equal(parts, whole)

    alone = tmp_path / "alone"
    run = Run(tmp_path, *choices, f"hydra.run.dir={alone}")
    assert run.end() == 0, run.said()
    kill_after(4, alone)
    run = Run(tmp_path, "task=resume", f"run={alone}", "hardware=ddp_cpu")
    assert run.end() == 0, run.said()
    assert "on 2 devices instead of 1: not bitwise reproducible" in run.out.read_text()
    content: dict[str, Any] = read(alone / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 8 and len(content["random"]) == 2
