"""Many picture files, read once into one file that is mapped into memory ever after.

The array lies in the cache folder under a hash of the files' names and contents and of how they are decoded. A second, smaller
hash, of their names, sizes and times, says without reading them that they are still the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from ganexp.data.decoding import UNREADABLE
from ganexp.data.sources import Source
from ganexp.files import cache_folder, read_json, replace, write_json

log = logging.getLogger(__name__)
HEADER = 128  # bytes of a .npy file before its pixels
AT_ONCE = 2**25  # bytes of pixels between two notes of how far it has come
Decode = Callable[[str], np.ndarray]  # of a file's name: uint8 [H, W, C]


class Pictures:
    """What has been read: `pixels` uint8 [N, H, W, C], mapped; the files' `names`; `left_out`, why each of the others is not
    there; `hash`, of the pixels."""

    def __init__(self, folder: Path, names: Sequence[str]):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.hash: str = about["hash"]
        self.left_out: dict[str, str] = about["left_out"]
        self.names = [name for name in names if name not in self.left_out]
        # Copy on write: torch would warn of an array that it may not write to.
        self.pixels: np.ndarray = np.load(folder / "pixels.npy", mmap_mode="c")
        if len(self.pixels) != len(self.names):
            raise ValueError(f"it holds {len(self.pixels)} pictures of {len(self.names)}")


def read_once(
    source: Source,
    names: Sequence[str],
    shape: Sequence[int],
    recipe: Mapping[str, Any],
    decode: Decode,
    beside: Mapping[str, str] = {},
    allowed: float = 0.01,
) -> Pictures:
    """The pictures of these names, each [height, width, channels], from the cache or read into it.

    `recipe`: all that `decode` depends on but the files. `beside`: for some names another file whose content it depends on too.
    `allowed`: the greatest share of unreadable files. Interrupted, it goes on where it was; of two processes one reads and the
    other waits. Raises ValueError for too many unreadable files, OSError for a disk that is too small.
    """
    folder = cache_folder() / "images"
    stamp = digest(recipe, ((name, source.stamp(name)) for name in [*names, *beside.values()]))
    pointer = folder / "stamps" / stamp
    if pointer.is_file():
        made = folder / pointer.read_text().strip()
        if made.is_dir():
            try:
                return Pictures(made, names)
            except (OSError, ValueError, KeyError) as error:
                log.warning("%s is damaged and made anew: %s", made, error)
                shutil.rmtree(made)
    contents = in_parallel(lambda name: hashlib.blake2b(source.read(name), digest_size=16).digest(), [*names, *beside.values()])
    bar = tqdm(contents, total=len(names) + len(beside), desc="comparing with what is known", leave=False, disable=None)
    made = folder / digest(recipe, zip([*names, *beside.values()], bar, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{made}.lock")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        print(f"  another process is reading {source.root}; waiting for it", flush=True)
        lock.acquire()
    try:
        if not made.is_dir():
            Reading(source, names, shape, decode, allowed, made).run()
    finally:
        lock.release()
    replace(pointer, lambda file: file.write(made.name.encode()))
    return Pictures(made, names)


class Reading:
    """Pictures on their way into `made`: NAME.part holds the pixels so far, and a note of how many files they are of."""

    def __init__(self, source: Source, names: Sequence[str], shape: Sequence[int], decode: Decode, allowed: float, made: Path):
        self.source, self.names, self.shape, self.decode = source, names, tuple(shape), decode
        self.allowed, self.made = allowed, made
        self.row = int(np.prod(shape))
        self.part = made.with_name(f"{made.name}.part")
        self.left_out: dict[str, str] = {}

    def run(self) -> None:
        start, rows = self.so_far()
        self.check_room(rows)
        with open(self.part / "pixels.npy", "r+b" if rows else "wb") as file:
            file.truncate(HEADER + rows * self.row)
            file.seek(HEADER + rows * self.row)
            step = max(64, AT_ONCE // self.row)
            bar = tqdm(total=len(self.names), initial=start, desc="reading images", leave=False, disable=None)
            for first in range(start, len(self.names), step):
                chunk = self.names[first : first + step]
                for name, pixels in zip(chunk, in_parallel(self.decoded, chunk), strict=True):
                    bar.update()
                    if isinstance(pixels, str):
                        self.left_out[name] = pixels
                    else:
                        file.write(pixels.tobytes())
                        rows += 1
                file.flush()
                os.fsync(file.fileno())
                note = {"files": first + len(chunk), "rows": rows, "left_out": self.left_out}
                write_json(note, self.part / "so_far.json")
                self.check_share()
            bar.close()
            self.finish(file, rows)

    def so_far(self) -> tuple[int, int]:
        """Files and rows that an earlier, interrupted reading has come to."""
        note = read_json(self.part / "so_far.json")
        if not note or not (self.part / "pixels.npy").is_file():
            self.part.mkdir(exist_ok=True)
            return 0, 0
        self.left_out = note["left_out"]
        if 0 < note["files"] < len(self.names):
            print(f"  going on after {note['files']:,} of {len(self.names):,} images", flush=True)
        return note["files"], note["rows"]

    def check_room(self, rows: int) -> None:
        needed = (len(self.names) - rows) * self.row
        print(
            f"  reading {len(self.names):,} images of {self.source.root} into {self.made.parent}: {readable(needed)}",
            flush=True,
        )
        free = shutil.disk_usage(self.part).free
        if needed + HEADER > free:
            raise ValueError(
                f"{readable(needed)} are needed in {self.made.parent}, but {readable(free)} are free; "
                "make room, or set XDG_CACHE_HOME to a larger disk"
            )

    def decoded(self, name: str) -> np.ndarray | str:
        """The picture, or why there is none."""
        try:
            pixels = self.decode(name)
        except UNREADABLE as error:
            return re.sub(r" ?<_io\.BytesIO.*?>", "", str(error)) or type(error).__name__
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise TypeError(f"{name}: {pixels.dtype} {list(pixels.shape)}, not uint8 {list(self.shape)}")
        return pixels

    def check_share(self) -> None:
        if len(self.left_out) > self.allowed * len(self.names):
            name, why = next(iter(self.left_out.items()))
            raise ValueError(
                f"{len(self.left_out):,} of {len(self.names):,} images in {self.source.root} cannot be used, more than "
                f"{self.allowed:.2%}: {self.source.root / name}: {why}{', …' if len(self.left_out) > 1 else ''}"
            )

    def finish(self, file: Any, rows: int) -> None:
        """Header and hash, then its name."""
        if not rows:
            raise ValueError(f"not one image in {self.source.root} can be used")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (rows, *self.shape)})
        assert header.tell() == HEADER
        file.seek(0)
        file.write(header.getvalue())
        file.flush()
        os.fsync(file.fileno())
        write_json({"hash": hash_of_file(self.part / "pixels.npy"), "left_out": self.left_out}, self.part / "about.json")
        (self.part / "so_far.json").unlink()
        os.replace(self.part, self.made)


def in_parallel(work: Callable[[str], Any], names: Sequence[str]) -> Iterator[Any]:
    """The results in order, some ahead of the one that is asked for: Pillow and hashing leave the interpreter to others."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(work, name) for name in names[: 8 * workers]]
        for i in range(len(names)):
            result = ahead[i % len(ahead)].result()
            if i + len(ahead) < len(names):
                ahead[i % len(ahead)] = pool.submit(work, names[i + len(ahead)])
            yield result


def digest(recipe: Mapping[str, Any], parts: Any) -> str:
    found = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16)
    for name, content in parts:
        found.update(f"{name}\0".encode())
        found.update(content if isinstance(content, bytes) else f"{content}\0".encode())
    return found.hexdigest()


def hash_of_file(file: Path) -> str:
    """Of a .npy file's pixels."""
    found = hashlib.blake2b(digest_size=16)
    with open(file, "rb") as opened:
        opened.seek(HEADER)
        while block := opened.read(2**22):
            found.update(block)
    return found.hexdigest()


def readable(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
