"""What a study runs: settings from axes, times seeds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from ganexp.cli.messages import ConfigError
from ganexp.files import read_json, write_json

FILE = "study.json"
LIMIT = 100_000  # jobs


@dataclass
class Job:
    """One run. `setting`: the label of its value on every axis. `overrides`: its command line."""

    number: int
    setting: dict[str, str]
    seed: int
    overrides: list[str]


@dataclass
class Plan:
    """`overrides`: the command line that all runs share. `axes`: for each axis the overrides of every value by the value's label.
    `settings`: a label for every axis. `config_name`, `config_dir`: where the config is from.

    Jobs are numbered seed by seed, so that more seeds only add jobs.
    """

    overrides: list[str]
    axes: dict[str, dict[str, list[str]]]
    settings: list[dict[str, str]]
    seeds: list[int]
    config_name: str = "config"
    config_dir: str | None = None
    search: dict[str, Any] = field(default_factory=lambda: {"name": "grid"})

    def jobs(self) -> list[Job]:
        return [
            Job(number, setting, seed, self.overrides_of(setting, seed))
            for number, (seed, setting) in enumerate(product(self.seeds, self.settings))
        ]

    def overrides_of(self, setting: Mapping[str, str], seed: int) -> list[str]:
        chosen = [override for axis, label in setting.items() for override in self.axes[axis][label]]
        return [*self.overrides, *chosen, f"seed={seed}"]

    def samples(self) -> list[list[str]]:
        """Returns the overrides of jobs that have every listed value of every axis at least once, and one of each range."""
        first = self.settings[0]
        listed = {axis: values for axis, values in self.axes.items() if axis not in self.search.get("ranges", {})}
        others = [{**first, axis: label} for axis, values in listed.items() for label in values if label != first[axis]]
        return [self.overrides_of(setting, self.seeds[0]) for setting in [first, *others]]

    def save(self, folder: Path) -> None:
        """Write the study's file. Raises ConfigError if the folder has another study; more seeds may be added."""
        if (before := read(folder)) is not None:
            same = {key: value for key, value in asdict(before).items() if key != "seeds"}
            now = {key: value for key, value in asdict(self).items() if key != "seeds"}
            for key in (key for key in now if now[key] != same[key]):
                raise ConfigError(
                    f"hydra.run.dir: {folder} has another study: its {key} differ; repeat its command, or choose another folder"
                )
            if self.seeds[: len(before.seeds)] != before.seeds:
                raise ConfigError(f"study.seeds: the study in {folder} has {before.seeds}; more can be added, at the end")
        write_json(asdict(self), folder / FILE)


def read(folder: Path) -> Plan | None:
    """Returns the study of a folder, None if it has none. Raises ConfigError if its file is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        return Plan(**read_json(file))
    except TypeError as error:
        raise ConfigError(f"{file} is damaged, or from another version of ganexp") from error


def make_plan(node: Mapping[str, Any], overrides: Sequence[str], config_name: str, config_dir: str | None) -> Plan:
    """Returns the plan of a config's `study`. `overrides`: the command line without the study's own keys. Raises ConfigError for
    wrong axes, seeds and numbers of trials."""
    seeds, given = check_seeds(node["seeds"]), check_axes(node["axes"])
    if node["search"] == "random":
        ranges = {str(name): values for name, values in given.items() if is_range(values)}
        trials = check_trials(node["trials"], len(seeds))
        search: dict[str, Any] = {"name": "random", "trials": trials, "seed": node["search_seed"], "ranges": ranges}
        drawn = draw(given, trials, node["search_seed"])
        axes = {name: {label: value for values in labels for label, value in values.items()} for name, labels in drawn.items()}
        rows = zip(*drawn.values(), strict=True)
        settings = [dict(zip(axes, (next(iter(value)) for value in row), strict=True)) for row in rows]
        settings = [dict(pairs) for pairs in dict.fromkeys(tuple(setting.items()) for setting in settings)]  # each once
    else:
        search = {"name": "grid"}
        for name in (name for name, values in given.items() if is_range(values)):
            raise ConfigError(f"study.axes.{name}: a range has no end in a grid; list values, or choose study=random")
        axes = {str(name): values_of_axis(str(name), values) for name, values in given.items()}
        size = len(seeds) * math.prod(len(values) for values in axes.values())
        if size > LIMIT:
            raise ConfigError(f"study.axes: {size:,} runs; a study has at most {LIMIT:,}")
        settings = [dict(zip(axes, labels, strict=True)) for labels in product(*axes.values())]
    taken = {key_of(override) for override in overrides}
    for name, values in axes.items():
        for key in sorted({key_of(override) for value in values.values() for override in value} & taken):
            raise ConfigError(f"study.axes.{name}: {key} is also set for all runs; remove one of the two")
    return Plan(list(overrides), axes, settings, seeds, config_name, config_dir, search)


def check_trials(trials: Any, seeds: int) -> int:
    if not isinstance(trials, int) or isinstance(trials, bool) or not 1 <= trials * seeds <= LIMIT:
        raise ConfigError(f"study.trials: must be at least 1, with at most {LIMIT:,} runs in all, got {trials!r}")
    return trials


def is_range(values: Any) -> bool:
    return isinstance(values, dict) and bool({"low", "high"} & values.keys()) and not is_list_of_overrides([*values.values()])


def draw(axes: Mapping[str, Any], trials: int, seed: int) -> dict[str, list[dict[str, list[str]]]]:
    """Returns for every axis the overrides of one value for each trial, by label: a value of its list, or one of its range.

    Each axis has a generator of its own: another axis, or more trials, changes nothing that was drawn before."""
    drawn = {}
    for name, values in axes.items():
        random = Random(f"{seed} {name}")
        if is_range(values):
            texts = [to_text(sample(name, values, random)) for _ in range(trials)]
            drawn[str(name)] = [{text: [f"{name}={text}"]} for text in texts]
        else:
            known = values_of_axis(str(name), values)
            labels = [random.choice(list(known)) for _ in range(trials)]
            drawn[str(name)] = [{label: known[label]} for label in labels]
    if not drawn:
        raise ConfigError(
            "study.axes: a random search requires axes, such as {optimizer.generator.lr:{low:1e-5,high:1e-2,log:true}}"
        )
    return drawn


def sample(name: str, values: Mapping[str, Any], random: Random) -> int | float:
    """Returns a value of a range {low, high, log}: uniform, or of a uniform logarithm; an integer if both ends are
    (included). Raises ConfigError for a range without ends."""
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
    value = math.exp(random.uniform(math.log(low), math.log(high))) if log else random.uniform(low, high)
    if isinstance(low, int) and isinstance(high, int):
        return min(high, max(low, round(value))) if log else random.randint(low, high)
    return float(f"{value:.6g}")


def check_axes(axes: Any) -> dict[str, Any]:
    if axes is None:
        return {}
    if not isinstance(axes, dict):
        raise ConfigError(f"study.axes: must be a mapping such as {{loss:[bce,hinge],regularizer:[[],[r1]]}}, got {axes!r}")
    if "seed" in axes:
        raise ConfigError("study.axes.seed: the seeds of a study are study.seeds=[1,2,3]")
    return axes


def check_seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds <= LIMIT:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds):
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"study.seeds: a seed is listed twice: {seeds}")
        return seeds
    raise ConfigError(f"study.seeds: must be a number of seeds, at least 1, or a list of seeds, got {seeds!r}")


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
