"""The cache that all runs share. Whatever is in it can be made again: what is damaged is, and a run can do without."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from filelock import FileLock

from ganexp.files import replace

log = logging.getLogger(__name__)
Content = TypeVar("Content")


def cache_folder() -> Path:
    """The cache shared by all runs: `~/.cache/ganexp`, or `$XDG_CACHE_HOME/ganexp`. Entries are named by content hashes. Safe to
    delete. Creates it. Raises OSError, saying what to set, if it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ganexp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("it is read-only")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"the cache {folder} cannot be written ({reason}); set XDG_CACHE_HOME to a folder that can be") from error
    return folder


def cached(
    name: str, read: Callable[[Path], Content], make: Callable[[], Content], write: Callable[[Content, IO[bytes]], object]
) -> Content:
    """Returns what the file `name` of the cache holds. If it is missing, or `read` raises anything, which is said once, `make`
    makes it and `write` writes it. Other processes that need the same file wait meanwhile. Where the cache cannot be written,
    it is made every time, with a warning."""
    try:
        file = cache_folder() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_suffix(".lock"))
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        log.warning("%s is not cached: %s", name, error)
        return make()
    try:
        if file.exists():
            try:
                found = read(file)
                log.info("read from the cache: %s", file)
                return found
            except Exception as error:  # the libraries may raise anything for damaged bytes
                log.warning("%s is damaged, and is made again: %s", file, " ".join(str(error).split()) or type(error).__name__)
                shutil.rmtree(file, ignore_errors=True)  # if it is a folder
        made = make()
        try:
            replace(file, lambda opened: write(made, opened))
            log.info("written to the cache: %s", file)
        except OSError as error:
            log.warning("%s is not cached: %s", name, error.strerror or error)
        return made
    finally:
        lock.release()


def check_archive(file: Path) -> None:
    """Raises ValueError or zipfile.BadZipFile unless all entries of a zip archive match their checksums, which torch.load does
    not verify."""
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"its entry {damaged} does not match its checksum")
