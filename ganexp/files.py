"""Atomic writes, and JSON."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

import yaml

MAX_NODES = 100_000
LARGEST_JSON, LARGEST_CSV = 2**26, 2**28  # bytes
LARGEST_YAML = 2**17  # bytes; a run's config has a few thousand
DEEPEST_YAML = 50  # nested mappings and lists
log = logging.getLogger(__name__)


def check_yaml(file: Path) -> None:
    """Raises ValueError with the end of a sentence, `is not UTF-8: …`, for a YAML file that is too long or nested too deep, in
    another encoding, a pipe or a device, that has a key of null, or whose aliases would make it far longer than it is written.
    Other errors are left to whoever reads it."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # reading a pipe or a device may never end
            raise ValueError("is not a regular file")
        if (length := file.stat().st_size) > LARGEST_YAML:
            raise ValueError(f"has {length:,} bytes, more than the {LARGEST_YAML:,} of a config")
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):  # as it is read, since deep nesting takes the square of its depth
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_YAML:
                raise ValueError(f"is nested more than {DEEPEST_YAML} deep")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from error
    except (yaml.YAMLError, OSError):
        return
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if sizes.get(id(node)) == 0:
            raise ValueError("has an alias inside of what it stands for")
        if id(node) not in sizes:
            sizes[id(node)] = 0  # until it is known
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if key.tag == "tag:yaml.org,2002:null":
                    raise ValueError(f"has null as a key, in line {key.start_mark.line + 1}; write it in quotes if it is a name")
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
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # not through a link that somebody has put there
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        found = error if isinstance(error, OSError) else error.__context__  # torch.save hides the error of a full disk
        if not isinstance(found, OSError):
            raise
        found.filename = str(path)  # the error of a full disk has no file name
        raise found from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def check_writable(folder: Path) -> None:
    """Raises OSError if nothing can be created in a folder, which need not exist yet, or below it."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file, not a folder", str(folder))
    with tempfile.TemporaryFile(dir=there):
        pass


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `folder`, which is renamed to `folder` at the end, or deleted after an exception.

    Raises FileExistsError if `folder` exists and is not empty. A killed process leaves `.NAME.….part`.
    """
    temporary = folder.with_name(f".{folder.name}.{token_hex(4)}.part")
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
        return parse_json(path)
    except FileNotFoundError:  # deleted since
        return {}
    except ValueError as error:
        log.warning("%s is damaged and is ignored: %s", path, error)
        return {}


def parse_json(path: Path) -> dict[str, Any]:
    """Returns the file's mapping. Raises OSError if it cannot be read, ValueError if it is damaged."""
    if (length := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"it has {length:,} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)  # NaN is not JSON
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping, got {type(content).__name__}")
    return content
