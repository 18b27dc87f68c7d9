"""Decode many picture files once into one array in the cache, and memory-map it.

The array is cached under a hash of the files' names and contents and of how they are decoded. A second hash, of their paths,
sizes and times, detects without reading the files that nothing has changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ganexp.cache import cache_folder
from ganexp.data.decoding import UNREADABLE, reason
from ganexp.data.parallel import in_parallel
from ganexp.data.sources import Source
from ganexp.files import read_json, replace, write_json
from ganexp.progress import bar

log = logging.getLogger(__name__)
HEADER = 128  # bytes of a .npy file before its pixels
ABANDONED_AFTER = 7 * 24 * 3600  # seconds
BLOCK = 2**23  # bytes of pixels with one checksum
SAMPLE = 64  # blocks that are checked whenever a larger array is opened
SAVE_EVERY = 2**25  # bytes of pixels between two saves of the progress
Decode = Callable[[Source, str], np.ndarray]  # (source, name) -> uint8 [H, W, C]; must be picklable


class Pictures:
    """The cached array: `pixels` uint8 [N, H, W, C], memory-mapped; `names` of its files; `left_out`, the unreadable files and
    why; `hash` of the pixels. `sample`: see check_blocks. Raises ValueError if it is damaged."""

    def __init__(self, folder: Path, names: Sequence[str], sample: int | None = SAMPLE):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.hash: str = about["hash"]
        self.left_out: dict[str, str] = about["left_out"]
        self.names = [name for name in names if name not in self.left_out]
        self.pixels: np.ndarray = np.load(folder / "pixels.npy", mmap_mode="r")
        if len(self.pixels) != len(self.names):
            raise ValueError(f"it has {len(self.pixels)} pictures instead of {len(self.names)}")
        check_blocks(folder / "pixels.npy", about["blocks"], sample)


def read_once(
    source: Source,
    names: Sequence[str],
    shape: Sequence[int],
    recipe: Mapping[str, Any],
    decode: Decode,
    annotations: Mapping[str, str] = {},
    max_unreadable: float = 0.01,
    sample: int | None = SAMPLE,
) -> Pictures:
    """Returns the pictures of these names, each of `shape` [height, width, channels]; decodes them unless they are cached.

    `recipe`: all that `decode` depends on besides the files. `annotations`: for some names, another file that `decode` reads too.
    `max_unreadable`: largest fraction of unreadable files. `sample`: how many blocks of a cached array are checked, None for
    all; a damaged one is made again. An interrupted call continues where it stopped; of several processes one decodes and the
    others wait. Raises ValueError for too many unreadable files or too little disk space.
    """
    cache = cache_folder() / "images"
    files = [*names, *annotations.values()]
    stamp = stamp_of(source, files, recipe)
    pointer = cache / "stamps" / stamp
    if pointer.is_dir():
        shutil.rmtree(pointer)
    folder = cache / pointer.read_text(errors="replace") if pointer.is_file() else None
    if folder is None or not re.fullmatch("[0-9a-f]{32}", folder.name):
        shown = bar(files, "hashing files")
        folder = cache / digest(recipe, ((name, content_of(source, name)) for name in shown))
    cache.mkdir(parents=True, exist_ok=True)
    with locked(folder, source.root):
        pictures = load_cached(folder, names, sample)
        if pictures is None:
            Reader(source, names, shape, decode, max_unreadable, folder).run()
            if stamp_of(source, files, recipe) != stamp:
                shutil.rmtree(folder)
                raise ValueError(f"{source.root} changed while it was read; wait until it is complete")
            pictures = Pictures(folder, names)
        if not pointer.is_file():
            with locked(pointer, source.root):
                replace(pointer, lambda file: file.write(folder.name.encode()))
    check_unreadable(pictures.left_out, len(names), max_unreadable, source, folder / "about.json")
    return pictures


@contextmanager
def locked(path: Path, root: Path) -> Iterator[None]:
    """Lock `path` for one process. The others print that they wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"  another process is reading {root}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def load_cached(folder: Path, names: Sequence[str], sample: int | None = SAMPLE) -> Pictures | None:
    """Returns the array of an earlier run, or None. Deletes a damaged one."""
    if not folder.is_dir():
        folder.unlink(missing_ok=True)  # if it is a file
        return None
    try:
        return Pictures(folder, names, sample)
    except PermissionError:
        raise
    except Exception as error:  # NumPy may raise anything for damaged bytes
        log.warning("%s is damaged; reading the images again: %s", folder, reason(error))
        shutil.rmtree(folder)
        return None


def stamp_of(source: Source, files: Sequence[str], recipe: Mapping[str, Any]) -> str:
    place = {"root": os.fsencode(source.root.resolve()).hex(), **recipe}
    return digest(place, ((name, source.stamp(name)) for name in files))


def content_of(source: Source, name: str) -> bytes:
    try:
        return hashlib.blake2b(source.read(name), digest_size=16).digest()
    except OSError:
        return b"unreadable"


def check_unreadable(left_out: Mapping[str, str], total: int, max_unreadable: float, source: Source, listed: Path) -> None:
    """Raises ValueError if more files are unreadable than allowed."""
    if len(left_out) > max_unreadable * total:
        name, why = next(iter(left_out.items()))
        others = f", …; all are listed in {listed}" if len(left_out) > 1 else ""
        raise ValueError(
            f"{len(left_out):,} of {total:,} images in {source.root} are unreadable, more than {max_unreadable:.2%}: "
            f"{source.root / name}: {why}{others}"
        )


class Reader:
    """Decodes pictures into `folder`. Until it is complete, FOLDER.part holds the pixels so far and so_far.json the progress."""

    def __init__(
        self, source: Source, names: Sequence[str], shape: Sequence[int], decode: Decode, max_unreadable: float, folder: Path
    ):
        self.source, self.names, self.shape, self.decode = source, names, tuple(shape), decode
        self.max_unreadable, self.folder = max_unreadable, folder
        self.row = int(np.prod(shape))
        self.part = folder.with_name(f"{folder.name}.part")
        self.left_out: dict[str, str] = {}
        self.blocks: list[int] = []

    def run(self) -> None:
        if self.part.is_file():
            self.part.unlink()
        self.remove_abandoned()
        start, rows = self.load_progress()
        self.check_unreadable()
        self.check_disk_space(start)
        with open(self.part / "pixels.npy", "r+b" if rows else "wb") as file:
            file.truncate(HEADER + rows * self.row)
            file.seek(HEADER + rows * self.row)
            step = max(64, SAVE_EVERY // self.row)
            shown = bar(None, "reading images", len(self.names), initial=start)
            todo = self.names[start:]
            work = partial(decode_or_reason, self.decode, self.source, self.shape)
            for done, (name, pixels) in enumerate(zip(todo, in_parallel(work, todo), strict=True), start + 1):
                shown.update()
                if isinstance(pixels, str):
                    self.left_out[name] = pixels
                else:
                    file.write(pixels.tobytes())
                    rows += 1
                if done % step == 0 or done == len(self.names):
                    self.save_progress(file, done, rows)
            shown.close()
            self.finish(file, rows)
        os.replace(self.part, self.folder)  # after closing the file: Windows cannot rename a folder with an open file

    def load_progress(self) -> tuple[int, int]:
        """Returns the numbers of files and rows that an interrupted call has finished."""
        progress, pixels = read_json(self.part / "so_far.json"), self.part / "pixels.npy"
        if not progress or not pixels.is_file():
            self.part.mkdir(exist_ok=True)
            return 0, 0
        try:
            files, rows, self.left_out = progress["files"], progress["rows"], dict(progress["left_out"])
            if rows + len(self.left_out) != files or files > len(self.names):
                raise ValueError(f"{rows} pictures of {files} files")
            with open(pixels, "r+b") as file:
                if os.path.getsize(pixels) < HEADER + rows * self.row:
                    raise ValueError(f"{rows} pictures, but the file is shorter")
                file.truncate(HEADER + rows * self.row)
            check_blocks(pixels, progress["blocks"], sample=None)
            self.blocks = list(progress["blocks"])
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged; reading the images again: %s", self.part, error)
            self.left_out = {}
            return 0, 0
        if 0 < progress["files"] < len(self.names):
            print(f"  continuing after {progress['files']:,} of {len(self.names):,} images", flush=True)
        return progress["files"], progress["rows"]

    def remove_abandoned(self) -> None:
        """Delete the parts of other calls that were interrupted over a week ago."""
        for part in self.folder.parent.glob("*.part"):
            with suppress(FileNotFoundError, NotADirectoryError):  # another process has just finished it; not one of ours
                latest = max(file.stat().st_mtime for file in (part, *part.iterdir()))
                if part != self.part and time.time() - latest > ABANDONED_AFTER:
                    log.warning("removing %s, which was interrupted over a week ago", part)
                    shutil.rmtree(part)

    def check_disk_space(self, start: int) -> None:
        needed = (len(self.names) - start) * self.row
        todo = len(self.names) - start
        print(f"  reading {todo:,} images of {self.source.root} into {self.folder.parent}: {format_size(needed)}", flush=True)
        free = shutil.disk_usage(self.part).free
        if needed + HEADER > free:
            raise ValueError(
                f"{format_size(needed)} are required in {self.folder.parent}, but only {format_size(free)} are free; "
                "free some space, or set XDG_CACHE_HOME to a larger disk"
            )

    def save_progress(self, file: Any, done: int, rows: int) -> None:
        """Raises ValueError if too many files are unreadable."""
        file.flush()
        os.fsync(file.fileno())
        last = max(0, len(self.blocks) - 1)  # it may not have been full
        self.blocks[last:] = checksums(self.part / "pixels.npy", last)
        progress = {"files": done, "rows": rows, "left_out": self.left_out, "blocks": self.blocks}
        write_json(progress, self.part / "so_far.json")
        self.check_unreadable()

    def check_unreadable(self) -> None:
        check_unreadable(self.left_out, len(self.names), self.max_unreadable, self.source, self.part / "so_far.json")

    def finish(self, file: Any, rows: int) -> None:
        """Write the header of the array and about.json."""
        if not rows:
            raise ValueError(f"all images in {self.source.root} are unreadable")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (rows, *self.shape)})
        assert header.tell() == HEADER
        file.seek(0)
        file.write(header.getvalue())
        file.flush()
        os.fsync(file.fileno())
        about = {"hash": hash_of_file(self.part / "pixels.npy"), "blocks": self.blocks, "left_out": self.left_out}
        write_json(about, self.part / "about.json")
        (self.part / "so_far.json").unlink()


def decode_or_reason(decode: Decode, source: Source, shape: Sequence[int], name: str) -> np.ndarray | str:
    """Returns the picture, or why it is unreadable."""
    try:
        pixels = decode(source, name)
    except UNREADABLE as error:
        return reason(error)
    if pixels.shape != tuple(shape) or pixels.dtype != np.uint8:
        raise TypeError(f"{name}: decoded to {pixels.dtype} {list(pixels.shape)}, expected uint8 {list(shape)}")
    return pixels


def digest(recipe: Mapping[str, Any], parts: Any) -> str:
    digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16)
    for name, content in parts:
        digest.update(os.fsencode(name) + b"\0")
        digest.update(content if isinstance(content, bytes) else f"{content}\0".encode())
    return digest.hexdigest()


def hash_of_file(file: Path) -> str:
    """Hash of the pixels of a .npy file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(file, "rb") as opened:
        opened.seek(HEADER)
        while block := opened.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def checksums(file: Path, start: int = 0) -> list[int]:
    """Returns a CRC-32 of each block of the pixels of a .npy file, from block `start` on."""
    found = []
    with open(file, "rb") as opened:
        opened.seek(HEADER + start * BLOCK)
        while block := opened.read(BLOCK):
            found.append(zlib.crc32(block))
    return found


def check_blocks(file: Path, expected: Sequence[int], sample: int | None = SAMPLE) -> None:
    """Compare the checksums of the pixels of a .npy file: of all blocks, or of a random `sample` if there are more. Raises
    ValueError if one differs."""
    count = -(-(os.path.getsize(file) - HEADER) // BLOCK)
    if count != len(expected):
        raise ValueError(f"it has {count} blocks instead of {len(expected)}")
    chosen = range(count) if sample is None or count <= sample else sorted(random.SystemRandom().sample(range(count), sample))
    with open(file, "rb") as opened:
        for i in chosen:
            opened.seek(HEADER + i * BLOCK)
            if zlib.crc32(opened.read(BLOCK)) != expected[i]:
                raise ValueError(f"block {i} of its pixels does not match its checksum")


def format_size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
