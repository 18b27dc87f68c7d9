"""What Windows, macOS and Apple's GPUs lack, simulated here."""

from __future__ import annotations

import io
import logging
import mmap
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import write_images

from ganexp import evaluation
from ganexp.callbacks import state
from ganexp.cli import config, main
from ganexp.cli.overrides import with_home
from ganexp.data import array, parallel
from ganexp.data.digits import Digits
from ganexp.data.folder import Folder
from ganexp.data.parallel import in_parallel
from ganexp.evaluation import Evaluation, images_of
from ganexp.metrics.features import Pixels
from ganexp.metrics.fid import FID
from ganexp.metrics.kid import KID
from ganexp.metrics.sharpness import Sharpness
from ganexp.runtime import processes
from ganexp.systems.contexts import seeded

MPS = torch.device("mps")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "p", count=8)
    return Folder(str(tmp_path / "p"), (3, 8, 8), 0, 2, 0)


def test_mapped_array_works_without_madvise(pictures: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED")
    monkeypatch.setattr("ganexp.data.module.RELEASED_AFTER", 1)
    pictures.prepare()
    assert pictures.take(torch.arange(8)).shape == (8, 3, 8, 8) and pictures.mapped is None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nobody says which files are open")
def test_folder_is_renamed_with_no_file_in_it_open(pictures: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to rename otherwise."""
    opened, real = [], os.replace

    def replaced(old: Path, new: Path) -> None:
        if Path(old).is_dir():
            files = [
                os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
            ]
            opened.append([file for file in files if file.startswith(str(old))])
        real(old, new)

    monkeypatch.setattr(array.os, "replace", replaced)
    pictures.prepare()
    assert opened == [[]]


def test_in_parallel_works_without_cpu_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(parallel, "FEW", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert list(in_parallel(str.upper, ["a", "b"])) == ["A", "B"]


@pytest.mark.parametrize("platform, sent", [("win32", []), ("linux", [(7, signal.SIGTERM), (8, signal.SIGTERM)])])
def test_workers_are_not_killed_by_signal_on_windows(
    platform: str, sent: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.kill ends a process there; the console's Ctrl-C reaches every process."""
    killed: list[Any] = []
    joined = iter([False, True])

    def join() -> bool:
        signal.raise_signal(signal.SIGINT)
        return next(joined)

    workers = SimpleNamespace(pids=lambda: [7, 8], join=lambda: next(joined) if killed or received else join())
    received: list[int] = []
    real = signal.raise_signal
    monkeypatch.setattr(signal, "raise_signal", lambda number: (received.append(number), real(number)))
    monkeypatch.setattr(processes, "spawn_processes", lambda *arguments, **named: workers)
    monkeypatch.setattr(processes.os, "kill", lambda *arguments: killed.append(arguments))
    monkeypatch.setattr(processes.sys, "platform", platform)
    assert processes.launch(print, 2, {}, tmp_path) == 130
    assert killed == sent


def test_home_with_backslashes_expands_to_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.Path, "home", lambda: SimpleNamespace(as_posix=lambda: "C:/Users/me"))
    assert with_home(["data.root=~/p"]) == ["data.root=C:/Users/me/p"]


def test_log_file_is_utf8() -> None:
    """Elsewhere Windows uses its code page, which has no ≥."""
    assert "encoding: utf-8" in (config.CONF_DIR / "config.yaml").read_text(encoding="utf-8").split("file: {")[1].split("\n")[0]


def test_messages_print_on_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe on Windows, and a file name that is not UTF-8 anywhere."""
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["ganexp", "sead=1"])
    with pytest.raises(SystemExit):
        main.main()
    print("≥ caf\udce9", flush=True)
    assert stream.buffer.getvalue().rstrip() == rb"\u2265 caf\udce9"  # type: ignore[attr-defined]


# -- Apple's GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that go to the device mps stay here; those in float64 are refused, as they are there."""
    real = torch.Tensor.to

    def to(x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        places = [a for a in (*arguments, *named.values()) if isinstance(a, torch.device)]
        if MPS not in places:
            return real(x, *arguments, **named)
        if x.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return x

    monkeypatch.setattr(torch.Tensor, "to", to)
    evaluation.metric_device.cache_clear()


def test_float64_metrics_move_to_the_cpu_on_mps(apple: None, caplog: pytest.LogCaptureFixture) -> None:
    data = Digits((1, 8, 8), 10, 2, 0)
    data.prepare()
    metrics = [FID(Pixels()), KID(Pixels(), 5, 50), Sharpness(Pixels())]
    measured = Evaluation(metrics, data, 100, False)
    measured.setup()
    with caplog.at_level(logging.WARNING):
        first, second = (measured.measure(images_of(data, MPS), MPS)[0] for _ in range(2))
    assert first == second == measured.measure(images_of(data, torch.device("cpu")), torch.device("cpu"))[0]
    assert caplog.text.count("metrics: computed on the CPU, because they need float64, which mps does not support") == 1


def test_filters_work_on_mps_without_float64(apple: None) -> None:
    from ganexp.augment.transforms import bands, filters

    assert filters.__wrapped__(8, torch.float32, MPS)[0].dtype == torch.float32
    assert bands.__wrapped__(8, torch.float32, MPS).dtype == torch.float32


def test_seeded_restores_the_random_state_of_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """fork_rng does not restore it, and a checkpoint holds it."""
    mine = [torch.tensor([1])]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: mine[-1].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", mine.append)
    with seeded(3, MPS):
        mine.append(torch.tensor([2]))
    assert mine[-1].item() == 1
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        kept = state.random_state()
        mine.append(torch.tensor([3]))
        state.set_random_state(kept)
    assert mine[-1].item() == 1
    state.set_random_state({key: value for key, value in kept.items() if key != "mps"})  # of an older checkpoint
