"""Shared fixtures: the command line in this process, tiny runs, and generated data in the real file layouts.

torch is imported where it is used: the process that only distributes the tests to workers starts five seconds earlier.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores; before torch is imported

import numpy as np
import pytest
from PIL import Image

from ganexp.cli.main import main

# Three steps of a shrunk model, in the same precision on every machine; a picture, a metric and a checkpoint in the middle and
# at the end.
TINY = [
    "hardware=cpu",
    "hardware.precision=32-true",
    "trainer.max_steps=3",
    "trainer.log_every=1",
    "trainer.samples_every=2",
    "trainer.metrics_every=2",
    "trainer.checkpoint_every=2",
    "callbacks.metrics.num=32",
    "callbacks.samples.num=4",
    "data.batch_size=8",
]
# The same, of which only a checkpoint stays.
BARE = [word for word in TINY if not word.startswith("callbacks.")] + ["callbacks=[checkpoint]", "logger=[]", "metrics=[]"]
NARROW = {
    "mlp": ["model.generator.hidden=[8]", "model.discriminator.hidden=[8]"],
    "dcgan": ["model.generator.width=2", "model.discriminator.width=2"],
    "cdcgan": ["model.generator.width=2", "model.discriminator.width=2"],
}  # the other models: NARROW_ALL
NARROW_ALL = ["model.width_multiplier=0.04"]


@dataclass
class Answer:
    """The result of a command line."""

    code: int
    out: str
    err: str
    folder: Path  # where it was called

    @property
    def run(self) -> Path:
        """The only run folder."""
        (folder,) = [path.parent for path in self.folder.glob("outputs/**/.hydra")]
        return folder

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.run / "run.json").read_text())


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps classifiers and features of tests out of the user's cache; the workers of a session share them."""
    base = tmp_path_factory.getbasetemp()  # of this worker, in the session's; without workers, the session's
    os.environ["XDG_CACHE_HOME"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    from ganexp.tasks.train import seed_all

    seed_all(0)


@pytest.fixture(autouse=True, scope="session")
def without_report() -> Iterator[None]:
    """Runs in this process write no report.html, which takes as long as a tiny run; tests/test_report.py has it."""
    from ganexp.tasks.train import Train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Train, "report", lambda self, without=None: None)
        yield


@pytest.fixture
def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`python -m ganexp ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["ganexp", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Answer(int(ended.value.code or 0), out, err, tmp_path)

    return call


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns the folder of a run with these overrides, trained once for all tests of a worker: copy it before you change it."""
    from helpers import call

    runs: dict[tuple[str, ...], Path] = {}

    def train(*overrides: str) -> Path:
        if overrides not in runs:
            folder = tmp_path_factory.mktemp("trained")
            assert call(folder, *overrides, "hydra.run.dir=run") == 0
            runs[overrides] = folder / "run"
        return runs[overrides]

    return train


def write_idx(folder: Path, images: int = 64, compress: bool = False) -> None:
    """MNIST's four files, with random content."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = random.integers(0, 256, (images, 28, 28), np.uint8)
        labels = (np.arange(images) % 10).astype(np.uint8)
        contents = {
            f"{part}-images-idx3-ubyte": struct.pack(">4i", 2051, images, 28, 28) + pixels.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">2i", 2049, images) + labels.tobytes(),
        }
        for name, content in contents.items():
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


def write_cifar(root: Path, images: int = 16) -> None:
    """Writes CIFAR-10's files with random content, and gives torchvision their checksums."""
    from torchvision import datasets

    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name: str) -> list[str]:
        pixels = random.integers(0, 256, (images, 3072), np.uint8)
        return write(name, {"data": pixels, "labels": [i % 10 for i in range(images)]})

    datasets.CIFAR10.train_list = [batch(f"data_batch_{i}") for i in range(1, 6)]
    datasets.CIFAR10.test_list = [batch("test_batch")]
    meta = write("batches.meta", {"label_names": [str(i) for i in range(10)]})
    datasets.CIFAR10.meta = datasets.CIFAR10.meta | {"md5": meta[1]}


def write_images(folder: Path, count: int = 16, size: tuple[int, int] = (40, 30)) -> None:
    """Coloured pictures, half of them in a folder below."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("more" if i % 2 else ".") / f"{i:03d}.{'png' if i % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MNIST, Fashion-MNIST and pictures."""
    root = tmp_path_factory.mktemp("data")
    write_idx(root / "MNIST" / "raw")
    write_idx(root / "FashionMNIST" / "raw")
    write_cifar(root)
    for folder in ("pictures", "celeba/img_align_celeba", "cats", "anime"):
        write_images(root / folder)
    return root


def data_overrides(name: str, root: Path) -> list[str]:
    """Returns the further overrides that each data option needs."""
    return {
        "mnist": [f"data.root={root}"],
        "fashion_mnist": [f"data.root={root}"],
        "cifar10": [f"data.root={root}"],
        "stacked_mnist": [f"data.root={root}", "data.images=64"],
        "folder": [f"data.root={root}/pictures", "data.shape=[3,16,16]"],
        "celeba": [f"data.root={root}", "data.shape=[3,32,32]"],
        "cats": [f"data.root={root}", "data.shape=[3,32,32]"],
        "anime": [f"data.root={root}", "data.shape=[3,32,32]"],
    }.get(name, [])
