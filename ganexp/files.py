"""Atomic writes, and JSON."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import FileLock

MAX_NODES = 100_000
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The cache shared by all runs: `~/.cache/ganexp`, or `$XDG_CACHE_HOME/ganexp`. Entries are named by content hashes. Safe to
    delete. Creates it. Raises OSError, saying what to set, if it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ganexp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("it is read-only")
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"the cache {folder} cannot be written ({reason}); set XDG_CACHE_HOME to a folder that can be") from error
    return folder


def check_yaml(file: Path) -> None:
    """Raises ValueError with the end of a sentence, `is not UTF-8: …`, for a YAML file in another encoding, or one whose aliases
    would make it far longer than it is written. Other errors are left to whoever reads it."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from error
    except (yaml.YAMLError, OSError, RecursionError):
        return
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 0  # an alias inside of itself
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            sizes[id(node)] = 1 + sum(size(part) for part in itertools.chain.from_iterable(
                part if isinstance(part, tuple) else (part,) for part in parts
            ))  # fmt: skip
        return sizes[id(node)]

    if size(root) > MAX_NODES:
        raise ValueError(f"has more than {MAX_NODES:,} values when its aliases are written out")


def replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write atomically: to a temporary file beside `path`, then sync and rename. The old file stays if `write` raises or the
    power fails.

    Only one process may write a file. A killed process leaves `.NAME.part`, which the next write overwrites.
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
        error.filename = str(path)  # the error of a full disk has no file name
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def made_once(file: Path) -> Iterator[None]:
    """Processes that need the same cached file wait here for the first one, which makes it: parallel runs begin together."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        yield


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `folder`, which is renamed to `folder` at the end, or deleted after an exception.

    Raises FileExistsError if `folder` exists and is not empty.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
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
    """Sync the folder's entries to disk, so that a rename survives a power failure, where the system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write standard JSON: NaN and infinite numbers become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode(errors="backslashreplace")))  # file names may not be valid UTF-8


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Returns the file's mapping; an empty one if the file is missing, or, with a warning, if it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected a mapping, got {type(content).__name__}")
    except FileNotFoundError:  # deleted since
        return {}
    except (ValueError, RecursionError) as error:
        log.warning("%s is damaged and is ignored: %s", path, error)
        return {}
    return content
