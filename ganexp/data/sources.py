"""Sources of picture files: a folder tree or a zip archive, read in place."""

from __future__ import annotations

import lzma
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

EXPECTED = {".csv", ".txt", ".cat", ".json", ".jsonl", ".md", ".db", ".ini"}  # other files that are not worth a note
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
MAX_BYTES = 2**28
MAX_PIXELS = 178_956_970  # Pillow's own limit

# The last two: encrypted, unknown compression
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Limits:
    """What is too large for a picture: a file of more than `max_bytes`, a picture of more than `max_pixels`."""

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")


USUAL = Limits()


class Source(Protocol):
    """Files by name: paths relative to `root`, with `/` as separator, sorted folder by folder.

    `read` raises OSError if a file cannot be read, or is larger than the limit. `outside`: names that lead out of an archive,
    or occur more than once in it, and are left out."""

    root: Path
    names: list[str]
    outside: list[str]
    limits: Limits

    def read(self, name: str) -> bytes: ...
    def stamp(self, name: str) -> str:
        """Returns a text that changes when the file is written or replaced."""


class FolderSource:
    """All files below a folder, symbolic links followed, hidden files left out. Raises OSError if a folder cannot be listed."""

    def __init__(self, root: Path, limits: Limits = USUAL):
        self.root, self.limits = root, limits
        names, seen = [], set()
        for folder, subfolders, files in os.walk(root, followlinks=True, onerror=raise_error):
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:  # a link to a parent folder
                subfolders.clear()
                continue
            seen.add((found.st_dev, found.st_ino))
            subfolders[:] = [name for name in subfolders if is_visible(name)]
            inside = Path(folder).relative_to(root).as_posix()
            names += [name if inside == "." else f"{inside}/{name}" for name in files if is_visible(name)]
        self.names = sort_by_folder(names)
        self.outside: list[str] = []

    def read(self, name: str) -> bytes:
        found = os.stat(self.root / name)
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
            raise OSError("is not a regular file")
        check_size(found.st_size, self.limits)
        return (self.root / name).read_bytes()

    def stamp(self, name: str) -> str:
        try:
            found = os.stat(self.root / name)
        except OSError as error:
            return str(error.strerror)
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


class ZipSource:
    """All files in a zip archive, without the one top-level folder if there is only one. Raises ValueError if the file is not a
    zip archive."""

    def __init__(self, root: Path, limits: Limits = USUAL):
        self.root, self.limits = root, limits
        self.open()
        files = [e for e in self.zip.infolist() if not e.is_dir()]
        counts = Counter(e.filename for e in files)
        once = [e for e in files if counts[e.filename] == 1]
        inside = {e.filename: e for e in once if all(map(is_visible, e.filename.split("/")))}
        leads_out = [name for name in counts if name.startswith(("/", "\\")) or {".", ".."} & {*re.split(r"[/\\]", name)}]
        self.outside = [*leads_out, *(name for name, count in counts.items() if count > 1)]
        while inside and len({name.split("/")[0] for name in inside}) == 1 and all("/" in name for name in inside):
            inside = {name.split("/", 1)[1]: entry for name, entry in inside.items()}
        self.entries = inside
        self.names = sort_by_folder(list(inside))

    def open(self) -> None:
        """Open the archive in this process: processes must not share a file position."""
        try:
            self.zip, self.process = zipfile.ZipFile(self.root), os.getpid()
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{self.root} is not a zip archive, or is truncated: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "zip": None, "process": None}

    def read(self, name: str) -> bytes:
        if self.process != os.getpid():
            self.open()
        check_size(self.entries[name].file_size, self.limits)
        try:
            return self.zip.read(self.entries[name])
        except DAMAGED as error:
            raise OSError(str(error)) from error

    def stamp(self, name: str) -> str:
        return f"{self.entries[name].file_size} {self.entries[name].CRC}"


def check_size(size: int, limits: Limits) -> None:
    """Raises OSError for a file that is too large to be read as a picture."""
    if size > limits.max_bytes:
        raise OSError(f"has {size:,} bytes, more than max_bytes={limits.max_bytes}")


def raise_error(error: OSError) -> None:
    raise error


def is_visible(name: str) -> bool:
    """Macs add a `__MACOSX/._NAME` to archives for every picture; `..` and a leading `/` would lead out of an archive."""
    return name != "" and not name.startswith(".") and name != "__MACOSX"


def sort_by_folder(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name.replace("/", "\0"))  # \0 sorts before all characters and is in no name


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def other_types(names: Sequence[str]) -> str:
    """Returns how many files of other types there are, such as "300 .heic, 2 .tif"; an empty text if there are none."""
    kinds = Counter(os.path.splitext(name)[1].lower() for name in names if not is_picture(name))
    return ", ".join(f"{n:,} {kind or 'without extension'}" for kind, n in kinds.most_common() if kind not in EXPECTED)


def open_source(root: Path, limits: Limits = USUAL) -> Source:
    """Returns the source for a folder or a zip archive. Raises FileNotFoundError if it does not exist or has no pictures."""
    if root.is_dir():
        source: Source = FolderSource(root, limits)
    elif root.is_file():
        source = ZipSource(root, limits)
    else:
        raise FileNotFoundError(f"there is no folder or zip archive {root}")
    if not any(map(is_picture, source.names)):
        others = f", but {found}" if (found := other_types(source.names)) else ""
        raise FileNotFoundError(f"{root} contains no image ({' '.join(sorted(EXTENSIONS))}){others}")
    return source
