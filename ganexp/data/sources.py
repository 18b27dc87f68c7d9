"""Where pictures lie: a folder with folders in it, or a zip archive, read in place."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}


DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)  # or encrypted, or compressed in an unknown way


class Source(Protocol):
    """Files by their names, relative to `root` and with `/` between the folders, in the order of their folders.

    `read` raises OSError for a file that cannot be read."""

    root: Path
    names: list[str]

    def read(self, name: str) -> bytes: ...
    def stamp(self, name: str) -> str:
        """Changes when somebody writes the file, or puts another in its place."""


class Tree:
    """All files below a folder, those behind links too; hidden ones are left out. Raises OSError for a folder that may not be
    looked into."""

    def __init__(self, root: Path):
        self.root = root
        names, seen = [], set()
        for folder, below, files in os.walk(root, followlinks=True, onerror=refuse):
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen:  # a link to a folder above it
                below.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            below[:] = [name for name in below if wanted(name)]
            inside = Path(folder).relative_to(root).as_posix()
            names += [name if inside == "." else f"{inside}/{name}" for name in files if wanted(name)]
        self.names = in_order(names)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def stamp(self, name: str) -> str:
        try:
            stat = os.stat(self.root / name)
        except OSError as error:
            return str(error.strerror)
        return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


class Archive:
    """All files in a zip archive, without the one folder that all may lie in. Raises ValueError for a file that is none."""

    def __init__(self, root: Path):
        self.root = root
        self.open()
        inside = {e.filename: e for e in self.zip.infolist() if not e.is_dir() and all(map(wanted, e.filename.split("/")))}
        while inside and len({name.split("/")[0] for name in inside}) == 1 and all("/" in name for name in inside):
            inside = {name.split("/", 1)[1]: entry for name, entry in inside.items()}
        self.entries = inside
        self.names = in_order(list(inside))

    def open(self) -> None:
        """In this process: one that two shared would be read by both at one place."""
        try:
            self.zip, self.process = zipfile.ZipFile(self.root), os.getpid()
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{self.root} is no zip archive, or only a part of one: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "zip": None, "process": None}

    def read(self, name: str) -> bytes:
        if self.process != os.getpid():
            self.open()
        try:
            return self.zip.read(self.entries[name])
        except DAMAGED as error:
            raise OSError(str(error)) from error

    def stamp(self, name: str) -> str:
        return f"{self.entries[name].file_size} {self.entries[name].CRC}"


def refuse(error: OSError) -> None:
    raise error


def wanted(name: str) -> bool:
    """Archives made on a Mac hold a `__MACOSX/._NAME` beside every picture; `..` and a leading `/` lead out of an archive."""
    return name != "" and not name.startswith(".") and name != "__MACOSX"


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name.replace("/", "\0"))  # folder by folder: no name holds what is before every letter


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def pictures_in(root: Path) -> Source:
    """A folder, or a zip archive, and its pictures. Raises FileNotFoundError where it is not there or has none."""
    if root.is_dir():
        source: Source = Tree(root)
    elif root.is_file():
        source = Archive(root)
    else:
        raise FileNotFoundError(f"there is no folder {root}, nor a zip archive")
    if not any(map(is_picture, source.names)):
        raise FileNotFoundError(f"{root} holds no image ({' '.join(sorted(EXTENSIONS))})")
    return source
