"""The one data module: a data set as one array, in memory or mapped, a batch as one gather, scaling on the device."""

from __future__ import annotations

import hashlib
import itertools
import mmap
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ganexp.data.resizing import described, resized
from ganexp.images import to_float

RELEASED_AFTER = 2**22  # bytes taken from a mapped array; the system maps some five times as many, those around them


class Batches:
    """Endless batches of indices [batch_size / ranks]: every epoch a new permutation, the incomplete last batch left out.

    `replacement`: every index is drawn anew from all instead. The k-th batch depends on (seed, k) alone: the ranks of a run share
    one order and each takes its own part of a batch.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, ranks: int, start: int, replacement: bool = False):
        self.size, self.batch_size, self.seed, self.replacement = size, batch_size, seed, replacement
        self.rank, self.ranks, self.start = rank, ranks, start

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.drawn() if self.replacement else self.permuted():
            yield batch[self.rank :: self.ranks]

    def drawn(self) -> Iterator[Tensor]:
        for k in itertools.count(self.start):
            yield torch.from_numpy(np.random.default_rng((self.seed, k)).integers(self.size, size=self.batch_size))

    def permuted(self) -> Iterator[Tensor]:
        per_epoch = self.size // self.batch_size
        epoch, first = divmod(self.start, per_epoch)
        while True:
            order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(self.size))
            for k in range(first, per_epoch):
                yield order[k * self.batch_size : (k + 1) * self.batch_size]
            epoch, first = epoch + 1, 0


class Gather:
    """Endless batches (x, y): one gather each from the two arrays."""

    def __init__(self, data: DataModule, indices: Batches):
        self.data, self.indices = data, indices

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in self.indices:
            yield self.data.take(i), self.data.y[i]


class DataModule(pl.LightningDataModule):
    """A data set is a subclass with `load`, and an option with the facts that the networks are built from.

    `shape`: of one sample, [C, H, W] or [D]. `classes`: number of labels, 0 if unlabelled. `batch_size`: of the whole run,
    split evenly over its devices. `seed`: of the order. `replacement`: samples are drawn with it, not epoch by epoch. Batches are
    x float32 [N, *shape], images in [-1, 1] and points in their own units, and y int64 [N]. `notes`: what `load` left out, if
    anything; it is logged and kept in run.json. `split`, `resize`: which part of the published set `load` gives, and how it
    changed its images' size; `labels_by_channel`: whether a label is a number with a digit for each channel. `native_shape`:
    of the images that `load` gives, grey or RGB, where `shape` may be another; they are then resized.
    `left_out`: files that cannot be used, and why. `pixels_hash`: of the images, where `load` knows it.
    """

    split = "train"
    resize = "none"
    labels_by_channel = False
    native_shape: tuple[int, int, int] | None = None
    pixels_hash: str | None = None

    def __init__(self, shape: Sequence[int], classes: int, batch_size: int = 64, seed: int = 0, replacement: bool = False):
        super().__init__()
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise ValueError(f"shape: positive sizes [C, H, W] of images or [D] of points, not {list(shape)}")
        if batch_size < 2:
            raise ValueError(f"batch_size: at least 2, not {batch_size}")
        if classes < 0 or seed < 0:
            raise ValueError(f"{'classes' if classes < 0 else 'seed'}: at least 0, not {min(classes, seed)}")
        self.shape, self.classes = tuple(shape), classes
        if self.native_shape is not None:
            self.resize = described(self.native_shape, self.shape, self.native_shape[:1] if self.labels_by_channel else (1, 3))
        self.batch_size, self.seed, self.replacement = batch_size, seed, replacement
        self.x, self.y = torch.empty(0), torch.empty(0, dtype=torch.int64)
        self.notes: list[str] = []
        self.left_out: dict[str, str] = {}
        self.mapped: mmap.mmap | None = None  # the file that x is in, where the system can be asked to let go of it
        self.taken = 0  # bytes since it was last let go of

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """x, images as uint8 [N, C, H, W] or points as float32 [N, D], and y int64 [N], zeros where there are no labels.

        Raises FileNotFoundError or ValueError, saying which file belongs where.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Load the data, or map it, and check it against the facts; only once. Raises ValueError, or what `load` does."""
        if len(self.x):
            return
        x, y = self.load()
        native = self.native_shape or self.shape
        if np.shape(x)[1:] != native:
            raise ValueError(f"shape: the data has samples of shape {list(np.shape(x)[1:])}, not {list(native)}")
        wanted = np.uint8 if len(self.shape) == 3 else np.float32
        if not isinstance(x, np.ndarray) or x.dtype != wanted:
            given = getattr(x, "dtype", type(x).__name__)
            raise ValueError(f"load() must give samples of shape {list(self.shape)} as {wanted.__name__}, not {given}")
        if not isinstance(y, np.ndarray) or y.dtype != np.int64:
            raise ValueError(f"load() must give labels as an array of int64, not {getattr(y, 'dtype', type(y).__name__)}")
        if len(x) != len(y):
            raise ValueError(f"the data has {len(x)} samples and {len(y)} labels")
        if len(x) < self.batch_size:
            raise ValueError(f"batch_size: {self.batch_size}, but the data has only {len(x)} samples")
        if len(y) and not 0 <= y.min() <= y.max() < max(self.classes, 1):
            raise ValueError(f"classes: {self.classes}, but the data has labels from {y.min()} to {y.max()}")
        if native != self.shape:
            x = resized(x, self.shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not writable.*")  # a mapped file; nobody writes to the data
            self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        if self.x.ndim == 4:
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.mapped = getattr(x, "_mmap", None) if hasattr(mmap, "MADV_DONTNEED") else None  # Windows has no madvise

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all samples and labels: whether two runs, or a run and its rest, saw the same data."""
        return content_hash(self.x, self.y, self.pixels_hash)

    def train_dataloader(self) -> Gather:
        trainer = self.trainer
        rank, ranks, start = (trainer.global_rank, trainer.world_size, trainer.global_step) if trainer else (0, 1, 0)
        order = Batches(len(self.x), self.batch_size, self.seed, rank, ranks, start, self.replacement)
        return Gather(self, order)

    def take(self, i: Tensor) -> Tensor:
        """The samples of these numbers [n], as they are kept: uint8 images, or points."""
        rows = in_memory(self.x).numpy()[i.numpy()]  # numpy copies whole rows, torch number by number: up to twenty times slower
        self.taken += rows.nbytes
        if self.taken > RELEASED_AFTER and self.mapped is not None:
            self.mapped.madvise(mmap.MADV_DONTNEED)  # what was read stays in the system's cache, but is ours no more
            self.taken = 0
        x = torch.from_numpy(rows)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        x, y = batch
        return to_float(x), y

    def label_counts(self) -> Tensor:
        """How many samples each class has, int64 [max(classes, 1)]; without labels one class has all. Call `prepare` first."""
        return self.y.bincount(minlength=max(self.classes, 1))

    def real(self, n: int) -> Tensor:
        """n real samples as a system draws them, [-1, 1] float32: all where there are no more, else the first n of a
        fixed permutation."""
        return self.labelled(n)[0]

    def labelled(self, n: int) -> tuple[Tensor, Tensor]:
        """The n samples of `real` and their labels [n]."""
        order = self.order(n)
        return to_float(self.take(order)), self.y[order]

    def order(self, n: int) -> Tensor:
        """The indices of `real`."""
        return torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(self.x))[:n]))


def content_hash(x: Tensor, y: Tensor, pixels_hash: str | None = None) -> str:
    """Of samples and their labels. `pixels_hash`: of the samples, where it is known."""
    pixels = in_memory(x)
    if pixels_hash is None:
        pixels_hash = hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=16).hexdigest()
    digest = hashlib.blake2b(f"{tuple(pixels.shape)} {pixels_hash}".encode(), digest_size=16)
    digest.update(y.contiguous().numpy().data)
    return digest.hexdigest()


def in_memory(x: Tensor) -> Tensor:
    """Samples as they lie in memory: images with their channels last."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x
