"""The words of a command line: how people type them, Hydra's grammar, and the values of a sweep."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ganexp.cli.messages import ConfigError

MAX_JOBS = 10_000  # of a sweep
LONGEST = 10_000  # characters of one word of the command line
PATHS = (
    "data.root", "run", "start_from", "name", "hydra.run.dir", "hydra.sweep.dir", "task.source", "task.target", "task.real",
    "task.fake", "task.picture", "task.folder", "task.json", "extractor.weights", "callbacks.checkpoint.folder",
    "callbacks.samples.folder", "callbacks.samples.gif",
)  # fmt: skip
PATH_KEYS = tuple(f"{key}=" for key in PATHS)
PLAIN = r"[\w./:-]*"  # paths that need no quotes, except for numbers


def as_typed(overrides: Any) -> list[str]:
    """Returns the overrides of the command line from Hydra's record, with interpolations unresolved."""
    return [str(override) for override in cast(list[Any], OmegaConf.to_container(overrides, resolve=False))]


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Returns the full keys that a command line sets: `model.generator` for `+model/generator=mlp`."""
    return [override.partition("=")[0].strip("+~").replace("/", ".") for override in overrides]


def check_length(words: Sequence[str]) -> None:
    """Raises ConfigError for a word that Hydra would parse for a minute: its time grows with the square of the length."""
    for word in words:
        if len(word) > LONGEST:
            key = word.partition("=")[0][:100]
            raise ConfigError(f"{key}: has {len(word):,} characters, more than {LONGEST:,}; write it into a file of --config-dir")


def with_colours(words: Sequence[str]) -> list[str]:
    """Quote colours for Hydra's grammar: `data.background=#00ffff`, `=00ffff`, or several separated by commas. Hydra does not
    accept #, and parses 112233 as an integer and 1e1000 as infinity."""
    return [
        re.sub(r"(?<=[=,])(#[^\s,'\"]*|[0-9a-fA-F]{6})(?=,|$)", r"'\1'", word)
        if re.match(r"[\w.+]*\bbackground=", word)
        else word
        for word in words
    ]


def with_home(words: Sequence[str]) -> list[str]:
    """Expand `data.root=~/photos`, which neither the shell nor Hydra does. Raises ConfigError for the home of an unknown user."""
    for key, _, path in (word.partition("=") for word in words if word.startswith(PATH_KEYS)):
        user = path.partition("/")[0]
        if len(user) > 1 and user[0] == "~" and os.path.expanduser(user) == user and not os.path.exists(user):
            raise ConfigError(f"{key}: there is no user {user[1:]}; for a folder of that name write ./{user}")
    return [re.sub("=~(?=/|$)", lambda _: f"={Path.home().as_posix()}", word, count=1) for word in words]


def with_paths(words: Sequence[str]) -> list[str]:
    """Quote the path in `data.root=`, `run=` and others for Hydra's grammar, if it is there as it was typed or would not be read
    as text otherwise: with spaces, commas, parentheses, apostrophes, `=`, `&`, `#` or letters with accents, or a number."""
    several = not {"-m", "--multirun"}.isdisjoint(words)
    result = []
    for word in words:
        key, _, path = word.partition("=")
        special = word.startswith(PATH_KEYS) and path[:1] not in ("", "'", '"')
        there = not re.fullmatch(PLAIN, path, re.ASCII) and os.path.exists(os.path.expanduser(path))
        result.append(f"{key}={quoted(path)}" if special and (there or not is_text(word, several)) else word)
    return result


def is_text(word: str, several: bool) -> bool:
    """Whether Hydra reads the value of an override as text or null. `several`: or as several values, which a comma separates."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        return False
    return several if override.is_sweep_override() else isinstance(override.value(), str | None)


def quoted(path: str | Path) -> str:
    """Returns a path in the grammar of Hydra's command line: backslashes count only before a quote and before `${`."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), literal(str(path)))
    return f"'{escaped}'"


def literal(text: str) -> str:
    """Returns a text that OmegaConf resolves to this one: its `${` starts no interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(f"the command line cannot be parsed: {' '.join(str(error).split())}") from error


def sweep_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Returns jobs that contain every value once: one with the first value of every axis, then one for each other value."""
    axes = sweep_axes(overrides)
    first = [axis[0] for axis in axes]
    return [first] + [[*first[:i], value, *first[i + 1 :]] for i, axis in enumerate(axes) for value in axis[1:]]


def sweep_axes(overrides: Sequence[str]) -> list[list[str]]:
    """Returns the values of every override. An interval is allowed for other sweepers than Hydra's basic one.

    Raises ConfigError for an interval without such a sweeper, and for more than MAX_JOBS combinations.
    """
    basic = not any(text.startswith("hydra/sweeper=") for text in overrides)
    axes = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        if not override.is_sweep_override():
            axes.append([text])
        elif override.is_discrete_sweep():
            try:
                values = [str(value) for value in itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1)]
            except (ValueError, TypeError, HydraException) as error:
                raise ConfigError(f"{override.key_or_group}: {text} is not a list of values: {error}") from error
            except ArithmeticError as error:  # of decimals
                raise ConfigError(f"{override.key_or_group}: {text} is not a list of values") from error
            if not values or len(values) > MAX_JOBS:
                wrong = f"more than {MAX_JOBS:,} values" if values else "no value"
                raise ConfigError(f"{override.key_or_group}: {text} has {wrong}")
            axes.append([f"{override.get_key_element()}={value}" for value in values])
        elif basic:
            raise ConfigError(
                f"{override.key_or_group}: {text} is not a list of values; list them, or use range(start,stop,step)"
            )
    if (jobs := math.prod(map(len, axes))) > MAX_JOBS:
        raise ConfigError(f"-m: these values have {jobs:,} combinations; a sweep may have {MAX_JOBS:,} jobs")
    return axes
