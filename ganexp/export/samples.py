"""Samples as files that other tools read, written while the network makes the next ones; memory holds a few batches at a time."""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from torch import Tensor

from ganexp.files import replace
from ganexp.images import to_uint8

Batches = Iterable[tuple[Tensor, Tensor | None]]  # images [n, C, H, W] in [-1, 1], and their labels [n]
AHEAD = 4  # batches, each of sampling.CHUNK images, that wait to be written


def write_npz(file: Path, batches: Batches, num: int, shape: Sequence[int]) -> None:
    """`arr_0` uint8 [num, H, W, 3], and for labelled images `arr_1` int64 [num]: the layout of guided-diffusion's evaluator
    (Dhariwal & Nichol 2021, arXiv:2105.05233) and of tools like it. Uncompressed; grey becomes RGB, alpha is left out.

    Raises ValueError for images that are not finite; nothing is left then.
    """

    def write(opened: IO[bytes]) -> None:
        labels: list[np.ndarray] = []
        with zipfile.ZipFile(opened, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|u1", "fortran_order": False, "shape": (num, *shape[1:], 3)}
                )
                with Writer(1) as writer:
                    for x, y in on_cpu(batches):
                        writer.do(write_rgb, member, x)
                        if y is not None:
                            labels.append(y)
            if labels:
                with archive.open("arr_1.npy", "w") as member:
                    np.lib.format.write_array(member, np.concatenate(labels))

    replace(file, write)


def write_pictures(folder: Path, batches: Batches, num: int) -> None:
    """00000.png, 00001.png, …, and for labelled images labels.csv: `file,label`, a row for each.

    labels.csv appears last. Raises ValueError for images that are not finite.
    """
    digits, start, labels = max(5, len(str(num - 1))), 0, []
    name = f"{{:0{digits}d}}.png".format
    with Writer(os.cpu_count() or 1) as writer:
        for x, y in on_cpu(batches):
            writer.do(save_all, x, folder, list(map(name, range(start, start + len(x)))))
            start += len(x)
            if y is not None:
                labels.append(y)
    if labels:
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["file", "label"])
        rows.writerows(zip(map(name, range(num)), np.concatenate(labels).tolist(), strict=True))
        replace(folder / "labels.csv", lambda file: file.write(text.getvalue().encode()))


def on_cpu(batches: Batches) -> Iterator[tuple[Tensor, np.ndarray | None]]:
    """Images as uint8 [n, C, H, W], labels as int64. Raises ValueError for images that are not finite."""
    for x, y in batches:
        if not x.isfinite().all():
            raise ValueError("the weights give NaN or infinite samples: the training diverged")
        yield to_uint8(x).cpu(), None if y is None else y.cpu().numpy().astype(np.int64)


def rgb(x: Tensor) -> np.ndarray:
    """uint8 [n, C, H, W] of 1 to 4 channels as [n, H, W, 3]."""
    colours = x[:, :3] if x.shape[1] > 2 else x[:, :1].expand(-1, 3, -1, -1)
    return np.ascontiguousarray(colours.permute(0, 2, 3, 1).numpy())


def write_rgb(file: IO[bytes], x: Tensor) -> None:
    file.write(rgb(x).data)


def save_all(x: Tensor, folder: Path, names: Sequence[str]) -> None:
    """Each file appears by renaming; none is synced alone, which would take longer than everything else. Of Pillow's settings
    these take the least time without larger files: 0.35 ms for a face of 64 px."""
    for image, name in zip(x, names, strict=True):
        temporary = folder / f".{name}.part"
        try:
            picture(image).save(temporary, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
            os.replace(temporary, folder / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            error.filename = str(folder / name)
            raise


def picture(image: Tensor) -> Image.Image:
    """uint8 [C, H, W]; 1 to 4 channels are grey, grey and alpha, RGB, RGBA."""
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


class Writer:
    """Threads that work off what they are given, at most AHEAD behind; an error is raised at a later call, or at the end."""

    def __init__(self, threads: int):
        self.pool, self.waiting = ThreadPoolExecutor(threads), deque[Future[object]]()
        self.ahead = max(AHEAD, threads)

    def __enter__(self) -> Writer:
        return self

    def do(self, work: Callable[..., object], *arguments: object) -> None:
        self.waiting.append(self.pool.submit(work, *arguments))
        while len(self.waiting) > self.ahead:
            self.waiting.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self.waiting:
                future.result()
