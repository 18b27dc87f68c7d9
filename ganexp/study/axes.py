"""The axes of a study: lists of values, named lists of overrides, and ranges to draw from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from random import Random
from typing import Any

from ganexp.cli.messages import ConfigError

NO_AXES = ("task", "study", "run", "resume", "name", "hydra")  # keys that choose what a job does, or its folder


def check_axes(axes: Any) -> dict[str, Any]:
    if axes is None:
        return {}
    if not isinstance(axes, dict):
        raise ConfigError(f"study.axes: must be a mapping such as {{loss:[bce,hinge],regularizer:[[],[r1]]}}, got {axes!r}")
    if "seed" in axes:
        raise ConfigError("study.axes.seed: the seeds of a study are study.seeds=[1,2,3]")
    for name in map(str, axes):
        if name.partition(".")[0] in NO_AXES:
            raise ConfigError(f"study.axes.{name}: cannot be an axis: the jobs of a study are runs in folders of its own")
    return {str(name): values for name, values in axes.items()}


def values_of_axis(name: str, values: Any) -> dict[str, list[str]]:
    """Returns the overrides of each value of an axis, by the value's label."""
    if isinstance(values, list) and values:
        made = {to_text(value): [f"{name}={to_text(value)}"] for value in values}
        if len(made) < len(values):
            raise ConfigError(f"study.axes.{name}: a value is listed twice")
        return made
    if isinstance(values, dict) and values and all(is_list_of_overrides(value) for value in values.values()):
        return {str(label): list(value) for label, value in values.items()}
    raise ConfigError(
        f"study.axes.{name}: must be a list of values, or a mapping of names to lists of overrides such as "
        f"{{none:[],weak:[regularizer=[r1],regularizer.r1.weight=0.1]}}, got {values!r}"
    )


def is_list_of_overrides(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and "=" in text for text in value)


def is_range(values: Any) -> bool:
    return isinstance(values, dict) and bool({"low", "high"} & values.keys()) and not is_list_of_overrides([*values.values()])


def check_range(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `low`, `high` and `log` of a range. Raises ConfigError for a range without ends."""
    low: Any = values.get("low")
    high: Any = values.get("high")
    log = values.get("log", False)
    for key in sorted(values.keys() - {"low", "high", "log"}):
        raise ConfigError(f"study.axes.{name}.{key}: a range has low, high and log only")
    for key, end in (("low", low), ("high", high)):
        if not isinstance(end, int | float) or isinstance(end, bool) or not math.isfinite(end):
            raise ConfigError(f"study.axes.{name}.{key}: a range needs both ends, as finite numbers, got {end!r}")
    if low >= high:
        raise ConfigError(f"study.axes.{name}: low must be below high, got {low} and {high}")
    if not isinstance(log, bool):
        raise ConfigError(f"study.axes.{name}.log: must be true or false, got {log!r}")
    if log and low <= 0:
        raise ConfigError(f"study.axes.{name}.low: must be above 0 for a logarithmic range, got {low}")
    return {"low": low, "high": high, "log": log}


def is_within(label: str, ends: Any) -> bool:
    """Whether a label is a number between the ends of a range."""
    try:
        return bool(ends["low"] <= float(label) <= ends["high"])
    except (ValueError, TypeError, KeyError):
        return False


def draw(name: str, values: Any, trials: int, seed: int) -> list[str]:
    """Returns a label for each trial: one of a list, or a value of a range.

    Each axis has a generator of its own: another axis, or more trials, changes nothing that was drawn before."""
    random = Random(f"{seed} {name}")
    if isinstance(values, list):
        return [random.choice(values) for _ in range(trials)]
    return [to_text(sample(values, random)) for _ in range(trials)]


def sample(ends: Mapping[str, Any], random: Random) -> int | float:
    """Returns a value of a range {low, high, log}: uniform, or of a uniform logarithm; an integer if both ends are (included)."""
    low, high = ends["low"], ends["high"]
    value = math.exp(random.uniform(math.log(low), math.log(high))) if ends["log"] else random.uniform(low, high)
    if isinstance(low, int) and isinstance(high, int):
        return min(high, max(low, round(value))) if ends["log"] else random.randint(low, high)
    return rounded(value, low, high)


def rounded(value: float, low: float, high: float) -> float:
    """Returns a value of a range with six digits, or the end that it would lie beyond."""
    return min(high, max(low, float(f"{value:.6g}")))


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def to_text(value: Any) -> str:
    """Returns a value in the grammar of Hydra's command line."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{','.join(map(to_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{to_text(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if isinstance(value, int | float) or re.fullmatch(r"[A-Za-z_][\w./-]*", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
