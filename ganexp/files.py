"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """What is kept between runs, by its content: `~/.cache/ganexp`, or `$XDG_CACHE_HOME/ganexp`. Safe to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ganexp"


def replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write under a temporary name beside `path`, sync, rename: the old file stays if `write` raises or the power fails.

    One process writes a file. What it leaves when it is killed, `.NAME.part`, is overwritten by the next.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which becomes `folder` by renaming at the end; deleted if anything is raised.

    Raises FileExistsError where `folder` is there and not empty.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_folder(temporary)
        with suppress(FileNotFoundError):
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in `folder` outlive a power failure, where the system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(content: dict[str, Any], path: Path) -> None:
    """JSON as the standard has it: what is not finite is null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode(errors="backslashreplace")))  # of a file's name that is not UTF-8


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """The file's mapping; an empty one where there is no file, or none that can be read, which is said."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, no mapping")
    except (ValueError, RecursionError) as error:
        log.warning("%s is damaged and begun anew: %s", path, error)
        return {}
    return content
