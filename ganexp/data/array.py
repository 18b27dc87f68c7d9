"""Many picture files, read once into one file that is mapped into memory ever after.

The array lies in the cache folder under a hash of the files' names and contents and of how they are decoded. A second, smaller
hash, of their place, names, sizes and times, says without reading them that they are still the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from ganexp.data.decoding import UNREADABLE, reason
from ganexp.data.parallel import in_parallel
from ganexp.data.sources import Source
from ganexp.files import cache_folder, read_json, replace, write_json

log = logging.getLogger(__name__)
HEADER = 128  # bytes of a .npy file before its pixels
GIVEN_UP = 7 * 24 * 3600  # seconds
AT_ONCE = 2**25  # bytes of pixels between two notes of how far it has come
Decode = Callable[[Source, str], np.ndarray]  # of a file: uint8 [H, W, C]; can be pickled


class Pictures:
    """What has been read: `pixels` uint8 [N, H, W, C], mapped; the files' `names`; `left_out`, why each of the others is not
    there; `hash`, of the pixels."""

    def __init__(self, folder: Path, names: Sequence[str]):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.hash: str = about["hash"]
        self.left_out: dict[str, str] = about["left_out"]
        self.names = [name for name in names if name not in self.left_out]
        self.pixels: np.ndarray = np.load(folder / "pixels.npy", mmap_mode="r")
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
    files = [*names, *beside.values()]
    stamp = stamped(source, files, recipe)
    pointer = folder / "stamps" / stamp
    made = folder / pointer.read_text() if pointer.is_file() else None
    if made is None or not re.fullmatch("[0-9a-f]{32}", made.name):
        bar = tqdm(files, desc="comparing with what is known", leave=False, disable=None)
        made = folder / digest(recipe, ((name, content_of(source, name)) for name in bar))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(made, source.root):
        found = known(made, names)
        if found is None:
            Reading(source, names, shape, decode, allowed, made).run()
            if stamped(source, files, recipe) != stamp:
                shutil.rmtree(made)
                raise ValueError(f"{source.root} has changed while it was read; wait until it is complete")
            found = Pictures(made, names)
        if not pointer.is_file():
            with locked(pointer, source.root):
                replace(pointer, lambda file: file.write(made.name.encode()))
    check_unreadable(found.left_out, len(names), allowed, source, made / "about.json")
    return found


@contextmanager
def locked(path: Path, root: Path) -> Iterator[None]:
    """Only one process at a time; the others wait, and say so."""
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


def known(made: Path, names: Sequence[str]) -> Pictures | None:
    """What an earlier run has read; a damaged one is removed."""
    if not made.is_dir():
        return None
    try:
        return Pictures(made, names)
    except (ValueError, KeyError, TypeError, EOFError, FileNotFoundError) as error:
        log.warning("%s is damaged and made anew: %s", made, error)
        shutil.rmtree(made)
        return None


def stamped(source: Source, files: Sequence[str], recipe: Mapping[str, Any]) -> str:
    place = {"root": os.fsencode(source.root.resolve()).hex(), **recipe}
    return digest(place, ((name, source.stamp(name)) for name in files))


def content_of(source: Source, name: str) -> bytes:
    try:
        return hashlib.blake2b(source.read(name), digest_size=16).digest()
    except OSError:
        return b"unreadable"


def check_unreadable(left_out: Mapping[str, str], total: int, allowed: float, source: Source, listed: Path) -> None:
    """Raises ValueError for more unreadable files than are allowed."""
    if len(left_out) > allowed * total:
        name, why = next(iter(left_out.items()))
        others = f", …; all are listed in {listed}" if len(left_out) > 1 else ""
        raise ValueError(
            f"{len(left_out):,} of {total:,} images in {source.root} cannot be used, more than {allowed:.2%}: "
            f"{source.root / name}: {why}{others}"
        )


class Reading:
    """Pictures on their way into `made`: NAME.part holds the pixels so far, and a note of how many files they are of."""

    def __init__(self, source: Source, names: Sequence[str], shape: Sequence[int], decode: Decode, allowed: float, made: Path):
        self.source, self.names, self.shape, self.decode = source, names, tuple(shape), decode
        self.allowed, self.made = allowed, made
        self.row = int(np.prod(shape))
        self.part = made.with_name(f"{made.name}.part")
        self.left_out: dict[str, str] = {}

    def run(self) -> None:
        self.drop_given_up()
        start, rows = self.so_far()
        self.check_room(start)
        with open(self.part / "pixels.npy", "r+b" if rows else "wb") as file:
            file.truncate(HEADER + rows * self.row)
            file.seek(HEADER + rows * self.row)
            step = max(64, AT_ONCE // self.row)
            bar = tqdm(total=len(self.names), initial=start, desc="reading images", leave=False, disable=None)
            todo = self.names[start:]
            work = partial(decoded, self.decode, self.source, self.shape)
            for done, (name, pixels) in enumerate(zip(todo, in_parallel(work, todo), strict=True), start + 1):
                bar.update()
                if isinstance(pixels, str):
                    self.left_out[name] = pixels
                else:
                    file.write(pixels.tobytes())
                    rows += 1
                if done % step == 0 or done == len(self.names):
                    self.note(file, done, rows)
            bar.close()
            self.finish(file, rows)
        os.replace(self.part, self.made)  # the file is closed: Windows renames no folder with an open one

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

    def drop_given_up(self) -> None:
        """Other readings, of which nobody has read on for a week."""
        for part in self.made.parent.glob("*.part"):
            latest = max(file.stat().st_mtime for file in (part, *part.iterdir()))
            if part != self.part and time.time() - latest > GIVEN_UP:
                log.warning("%s, a reading that was interrupted over a week ago, is removed", part)
                shutil.rmtree(part)

    def check_room(self, start: int) -> None:
        needed = (len(self.names) - start) * self.row
        print(
            f"  reading {len(self.names) - start:,} images of {self.source.root} into {self.made.parent}: {readable(needed)}",
            flush=True,
        )
        free = shutil.disk_usage(self.part).free
        if needed + HEADER > free:
            raise ValueError(
                f"{readable(needed)} are needed in {self.made.parent}, but {readable(free)} are free; "
                "make room, or set XDG_CACHE_HOME to a larger disk"
            )

    def note(self, file: Any, done: int, rows: int) -> None:
        """How far it has come. Raises ValueError where too many files are unreadable."""
        file.flush()
        os.fsync(file.fileno())
        write_json({"files": done, "rows": rows, "left_out": self.left_out}, self.part / "so_far.json")
        check_unreadable(self.left_out, len(self.names), self.allowed, self.source, self.part / "so_far.json")

    def finish(self, file: Any, rows: int) -> None:
        """Header and hash."""
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


def decoded(decode: Decode, source: Source, shape: Sequence[int], name: str) -> np.ndarray | str:
    """The picture, or why there is none."""
    try:
        pixels = decode(source, name)
    except UNREADABLE as error:
        return reason(error)
    if pixels.shape != tuple(shape) or pixels.dtype != np.uint8:
        raise TypeError(f"{name}: {pixels.dtype} {list(pixels.shape)}, not uint8 {list(shape)}")
    return pixels


def digest(recipe: Mapping[str, Any], parts: Any) -> str:
    found = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16)
    for name, content in parts:
        found.update(os.fsencode(name) + b"\0")
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
