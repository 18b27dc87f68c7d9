"""Errors in one line: where (full config key or file), what is wrong, and the nearest correct spelling."""

from __future__ import annotations

import difflib
import errno
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from ganexp.cli.hydra_internals import groups_below, options_of

DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class ConfigError(Exception):
    """A mistake of the user, in one line. The command line prints it without a traceback and exits with code 2; ganexp.load
    raises it."""


class Diverged(Exception):
    """A run has diverged; the message names the step and the reason. `last_good_step`: the last step before. `rollback`: whether
    to continue from there."""

    def __init__(self, message: str, last_good_step: int = 0, rollback: bool = False):
        super().__init__(message)
        self.last_good_step, self.rollback = last_good_step, rollback


def format_message(error: BaseException) -> str:
    """Describe the error that ended a run in one line. That of a file or a disk is described even if it has caused others."""
    if isinstance(error, ConfigError | Diverged):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause.errno in DISK_ERRORS or cause.filename):
            name = cause.filename.decode(errors="replace") if isinstance(cause.filename, bytes) else cause.filename
            return f"{name or 'a log, metrics.csv or events.out.tfevents'}: {cause.strerror}"
        cause = cause.__cause__
    last = (str(error).strip().splitlines() or [""])[-1]
    return f"{type(error).__name__}: {last}"


def printable(text: str, length: int = 2000) -> str:
    """Returns text from a file without characters that control a terminal, cut to a length."""
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= length else f"{text[:length]} …"


class Formatter(logging.Formatter):
    """Of log messages: names of files and texts from them are in them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), 10_000)


def groups() -> list[str]:
    """Returns all config groups except Hydra's, nested ones as `model/generator`."""
    return _groups(GlobalHydra.instance().config_loader())


@lru_cache(maxsize=1)
def _groups(loader: ConfigLoader) -> list[str]:
    return [group for group in groups_below(loader, "") if group.split("/")[0] != "hydra"]


def options(group: str) -> list[str]:
    return _options(GlobalHydra.instance().config_loader(), group)


@lru_cache(maxsize=64)
def _options(loader: ConfigLoader, group: str) -> list[str]:
    return options_of(loader, group)


RENAMED = {"checkpoint": "run"}  # too different for a search by spelling


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint: the nearest known word, if one is similar, and all known words if they are few."""
    known = sorted(known)
    close = [k for k in known if k == RENAMED.get(word) or k == f"task.{word}" or k.lower() == word.lower()]
    close = close or difflib.get_close_matches(word, known, 1, 0.6) or difflib.get_close_matches(word.lower(), known, 1, 0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    return hint + (f" (there are: {', '.join(known)})" if known and len(known) <= 40 else "")


def explain(error: Exception, fields: Callable[[str], list[str]]) -> str:
    """Turn the multi-line errors of Hydra and OmegaConf into one line: the file, the full key, what is wrong, what would be
    right.

    `fields`: returns the full keys of a typed mapping.
    """
    text = "\n".join(str(e) for e in (error, error.__cause__) if e)
    if missing := re.search(r"(?:In '([^']+)': )?Could not find '([^']+?)/([^'/]+)'", text):
        where, group, name = missing.groups()
        return f"{f'{where}.yaml: ' if where else ''}{group}={name}: there is no such option{nearest(name, options(group))}"
    key = re.search(r"full_key: (\S+)", text)
    file = re.search(r"In '([^']+)'", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [
        line
        for line in lines
        if not line.startswith(("full_key", "object_type", "In '", "reference_type", "Error merging", "Set the env"))
    ]
    reason = reasons[0] if reasons else lines[0]
    if unknown := re.search(r"Key '(\S+)' (?:not in|is not in struct)", reason):
        path = key.group(1) if key else unknown.group(1)
        reason = f"there is no such key{nearest(path, fields(path.rpartition('.')[0]))}"
    if "Cannot merge" in reason:  # DictConfig with ListConfig, or the reverse
        reason = "a list cannot take the place of a mapping, nor a mapping that of a list; set the keys below it one by one"
    if unknown := re.search(r"Interpolation key '(.+)' not found", reason):
        reason = f"${{{unknown.group(1)}}} stands for a key, and there is no such key; in a path or a text, ${{ is written \\${{"
    if "Missing mandatory value" in reason and key:
        reason = f"is required: {key.group(1)}=…"
    where = f"{file.group(1)}.yaml: " if file else ""
    return f"{where}{key.group(1) + ': ' if key else ''}{reason}"
