"""The data module: a data set is one array, in memory or memory-mapped; a batch is one gather; scaling runs on the device."""

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

from ganexp.data.resizing import describe_resize, resize_images
from ganexp.images import to_float

NO_DOWNLOAD = "the config of a checkpoint downloads and unpacks nothing"
RELEASED_AFTER = 2**22  # bytes read from a mapped array; read-ahead makes the system map about five times as many


class Batches:
    """Infinite batches of indices [batch_size / ranks]: a new permutation per epoch, without the incomplete last batch.

    `replacement`: sample the indices with replacement instead. The k-th batch depends on (seed, k) alone, so all ranks have the
    same order; each takes its part of a batch.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, ranks: int, start: int, replacement: bool = False):
        self.size, self.batch_size, self.seed, self.replacement = size, batch_size, seed, replacement
        self.rank, self.ranks, self.start = rank, ranks, start

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.with_replacement() if self.replacement else self.permutations():
            yield batch[self.rank :: self.ranks]

    def with_replacement(self) -> Iterator[Tensor]:
        for k in itertools.count(self.start):
            yield torch.from_numpy(np.random.default_rng((self.seed, k)).integers(self.size, size=self.batch_size))

    def permutations(self) -> Iterator[Tensor]:
        per_epoch = self.size // self.batch_size
        epoch, first = divmod(self.start, per_epoch)
        while True:
            order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(self.size))
            for k in range(first, per_epoch):
                yield order[k * self.batch_size : (k + 1) * self.batch_size]
            epoch, first = epoch + 1, 0


class Gather:
    """Infinite batches (x, y), one gather from each array."""

    def __init__(self, data: DataModule, indices: Batches):
        self.data, self.indices = data, indices

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in self.indices:
            yield self.data.take(i), self.data.y[i]


class DataModule(pl.LightningDataModule):
    """A data set: a subclass implements `load`; its option states the shape and classes that the networks are built for.

    `shape`: of one sample, [C, H, W] or [D]. `classes`: number of classes, 0 if unlabelled. `batch_size`: real images in a step,
    split evenly over all devices. `seed`: seed of the order. `replacement`: sample with replacement, not epoch by epoch. Batches
    are x float32 [N, *shape], images in [-1, 1], points unscaled, and y int64 [N].

    Attributes: `notes`: what `load` left out; logged and written to run.json. `split`: the part of the published data set that
    `load` returns. `resize`: how `load` resizes images. `labels_by_channel`: whether a label has one digit per channel.
    `native_shape`: shape of the images from `load`, grey or RGB, if `shape` may differ; they are then resized. `left_out`:
    unreadable files, and why. `pixels_hash`: hash of the images, if `load` knows it.
    """

    split = "train"
    resize = "none"
    labels_by_channel = False
    native_shape: tuple[int, int, int] | None = None
    pixels_hash: str | None = None

    def __init__(self, shape: Sequence[int], classes: int, batch_size: int = 64, seed: int = 0, replacement: bool = False):
        super().__init__()
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise ValueError(f"shape: must be positive sizes, [C, H, W] for images or [D] for points, got {list(shape)}")
        if batch_size < 2:
            raise ValueError(f"batch_size: must be at least 2, got {batch_size}")
        if classes < 0 or seed < 0:
            raise ValueError(f"{'classes' if classes < 0 else 'seed'}: must be at least 0, got {min(classes, seed)}")
        self.shape, self.classes = tuple(shape), classes
        self.may_download = True  # False for a config that was read from a checkpoint
        if self.native_shape is not None:
            channels = self.native_shape[:1] if self.labels_by_channel else (1, 3)
            self.resize = describe_resize(self.native_shape, self.shape, channels)
        self.batch_size, self.seed, self.replacement = batch_size, seed, replacement
        self.x, self.y = torch.empty(0), torch.empty(0, dtype=torch.int64)
        self.notes: list[str] = []
        self.left_out: dict[str, str] = {}
        self.mapped: mmap.mmap | None = None  # the file behind x, if the system can release its pages
        self.bytes_read = 0  # since the last release

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x, images as uint8 [N, C, H, W] or points as float32 [N, D], and y int64 [N], zeros if unlabelled.

        Raises FileNotFoundError or ValueError, naming the file and its folder.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Load or memory-map the data once, and check its shape, classes and size. Raises ValueError, or what `load` raises."""
        if len(self.x):
            return
        x, y = self.load()
        native = self.native_shape or self.shape
        if np.shape(x)[1:] != native:
            raise ValueError(f"shape: {list(native)}, but the data has samples of shape {list(np.shape(x)[1:])}")
        expected = np.uint8 if len(self.shape) == 3 else np.float32
        if not isinstance(x, np.ndarray) or x.dtype != expected:
            got = getattr(x, "dtype", type(x).__name__)
            raise ValueError(f"load() must return samples of shape {list(self.shape)} as {expected.__name__}, got {got}")
        if not isinstance(y, np.ndarray) or y.dtype != np.int64:
            raise ValueError(f"load() must return labels as an int64 array, got {getattr(y, 'dtype', type(y).__name__)}")
        if len(x) != len(y):
            raise ValueError(f"load() must return one label per sample, got {len(x)} samples and {len(y)} labels")
        if len(x) < 2:
            raise ValueError(f"the data has only {len(x)} samples; at least 2 are required")
        if len(y) and not 0 <= y.min() <= y.max() < max(self.classes, 1):
            raise ValueError(f"classes: {self.classes}, but the data has labels from {y.min()} to {y.max()}")
        if native != self.shape:
            x = resize_images(x, self.shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not writable.*")  # mapped read-only; ganexp never writes to it
            self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        if self.x.ndim == 4:
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.mapped = getattr(x, "_mmap", None) if hasattr(mmap, "MADV_DONTNEED") else None  # Windows has no madvise

    def check_batch_size(self) -> None:
        """Raises ValueError if there are fewer samples than in a batch. Only training needs batches."""
        if len(self.x) < self.batch_size:
            raise ValueError(f"batch_size: {self.batch_size}, but the data has only {len(self.x)} samples")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all samples and labels, to check that a resumed run has the same data."""
        return content_hash(self.x, self.y, self.pixels_hash)

    @property
    def class_probabilities(self) -> Tensor:
        """Of the labels, float64 [classes]. Each class counts one image more than it has, so that none has probability 0."""
        counts = self.y.bincount(minlength=self.classes) + 1
        return counts.double() / counts.sum()

    def train_dataloader(self) -> Gather:
        self.check_batch_size()
        trainer = self.trainer
        rank, ranks, start = (trainer.global_rank, trainer.world_size, trainer.global_step) if trainer else (0, 1, 0)
        order = Batches(len(self.x), self.batch_size, self.seed, rank, ranks, start, self.replacement)
        return Gather(self, order)

    def take(self, i: Tensor) -> Tensor:
        """Returns the samples at these indices [n], unscaled: uint8 images, or points."""
        rows = channels_last(self.x).numpy()[i.numpy()]  # numpy copies whole rows, up to 20 times faster than torch's indexing
        self.bytes_read += rows.nbytes
        if self.bytes_read > RELEASED_AFTER and self.mapped is not None:
            self.mapped.madvise(mmap.MADV_DONTNEED)  # frees our pages; the system's page cache keeps the file
            self.bytes_read = 0
        x = torch.from_numpy(rows)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def on_before_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        if self.trainer is None or self.trainer.strategy.root_device.type != "cuda":
            return batch
        x, y = batch  # a copy from other memory would wait until the GPU has finished all work before it
        return x.pin_memory(), y.pin_memory()

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        x, y = batch
        return to_float(x), y

    def label_counts(self) -> Tensor:
        """Returns the number of samples per class, int64 [max(classes, 1)]; unlabelled data is one class. Call `prepare`
        first."""
        return self.y.bincount(minlength=max(self.classes, 1))

    def real(self, n: int) -> Tensor:
        """Returns n real samples, float32, images in [-1, 1]: a fixed random subset, or all if there are no more."""
        return self.real_and_labels(n)[0]

    def real_and_labels(self, n: int) -> tuple[Tensor, Tensor]:
        """Returns the samples of `real` and their labels [n]."""
        order = self.order(n)
        return to_float(self.take(order)), self.y[order]

    def order(self, n: int) -> Tensor:
        """Returns the indices of `real`, sorted."""
        return torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(self.x))[:n]))


def content_hash(x: Tensor, y: Tensor, pixels_hash: str | None = None) -> str:
    """Hash of samples and labels. `pixels_hash`: hash of the samples, if known."""
    pixels = channels_last(x)
    if pixels_hash is None:
        pixels_hash = hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=16).hexdigest()
    digest = hashlib.blake2b(f"{tuple(pixels.shape)} {pixels_hash}".encode(), digest_size=16)
    digest.update(y.contiguous().numpy().data)
    return digest.hexdigest()


def channels_last(x: Tensor) -> Tensor:
    """Returns a view in the order of the memory: images as [N, H, W, C]."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x
