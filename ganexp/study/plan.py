"""What a study runs: settings from axes, times seeds."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ganexp.cli.messages import ConfigError, nearest
from ganexp.files import parse_json, write_json
from ganexp.records import ANY, TEXT, fits, read_record
from ganexp.runtime.lock import FolderLock
from ganexp.study.axes import check_axes, check_range, draw, is_range, is_within, key_of, to_text, values_of_axis

FILE = "study.json"
LIMIT = 100_000  # jobs
LONGEST = 80  # characters of a folder's name
SEARCHES = ("grid", "random", "optuna")
SAMPLERS = ("tpe", "random")  # of Optuna
OVER = ("finished", "failed", "pruned")  # status of a job that is not run again
KINDS: dict[str, Any] = {
    "overrides": [str], "axes": {str: {str: [str]}}, "settings": [{str: str}], "seeds": [int], "config_name": str,
    "config_dir": TEXT, "search": {str: ANY},
}  # fmt: skip


@dataclass
class Job:
    """One run. `setting`: the label of its value on every axis. `overrides`: its command line."""

    number: int
    setting: dict[str, str]
    seed: int
    overrides: list[str]

    @property
    def name(self) -> str:
        """The name of its folder: its number, which makes it unique, and its values, `3_loss-hinge_lr-0.0002_seed-1`."""
        values = {axis.replace("/", ".").rpartition(".")[2]: label for axis, label in self.setting.items()}
        safe = {axis: re.sub(r"[^\w.]+", "-", label, flags=re.ASCII).strip("-.") for axis, label in values.items()}
        words = [f"{axis}-{label or 'none'}" for axis, label in safe.items()]
        return "_".join([str(self.number), *words, f"seed-{self.seed}"])[:LONGEST].rstrip("-_.")

    def record(self, folder: Path) -> dict[str, Any]:
        """Returns its run.json in the folder of the study, empty if it has not begun."""
        return read_record(folder / self.name)

    def status(self, folder: Path) -> str:
        return str(self.record(folder).get("status", ""))


@dataclass
class Plan:
    """`overrides`: the command line that all runs share. `axes`: for each axis the overrides of every value by the value's label.
    `settings`: a label for every axis; the label of a range is the value itself. `config_name`, `config_dir`: where the config is
    from. `search`: how settings are found: its `name`, the `ranges` of axes without a list of values, and more.

    Jobs are numbered seed by seed, so that more seeds only add jobs; in an adaptive search setting by setting, so that more
    trials do.
    """

    overrides: list[str]
    axes: dict[str, dict[str, list[str]]]
    settings: list[dict[str, str]]
    seeds: list[int]
    search: dict[str, Any]
    config_name: str = "config"
    config_dir: str | None = None

    @property
    def adaptive(self) -> bool:
        """Whether settings are chosen one after another, by the results of earlier ones."""
        return self.search["name"] == "optuna"

    @property
    def size(self) -> int:
        """The number of settings, those that are not chosen yet included."""
        return int(self.search["trials"]) if self.adaptive else len(self.settings)

    def jobs(self) -> list[Job]:
        pairs = [(setting, seed) for seed, setting in product(self.seeds, self.settings)]
        if self.adaptive:
            pairs = list(product(self.settings, self.seeds))
        return [Job(number, setting, seed, self.overrides_of(setting, seed)) for number, (setting, seed) in enumerate(pairs)]

    def jobs_of(self, setting: int) -> list[Job]:
        """Returns the jobs of one setting of an adaptive search."""
        return self.jobs()[setting * len(self.seeds) : (setting + 1) * len(self.seeds)]

    def overrides_of(self, setting: Mapping[str, str], seed: int) -> list[str]:
        chosen = [override for axis, label in setting.items() for override in self.overrides_at(axis, label)]
        return [*self.overrides, *chosen, f"seed={seed}"]

    def overrides_at(self, axis: str, label: str) -> list[str]:
        return self.axes[axis][label] if axis in self.axes else [f"{axis}={label}"]

    def samples(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields settings that have every listed value of every axis and both ends of every range, each with the axis whose value
        it is the first to have; an empty name for the first one."""
        ends = {axis: [to_text(ends["low"]), to_text(ends["high"])] for axis, ends in self.search["ranges"].items()}
        values = {axis: list(labels) for axis, labels in self.axes.items()} | ends
        first = {axis: labels[0] for axis, labels in values.items()}
        yield "", first
        for axis, labels in values.items():
            yield from ((axis, {**first, axis: label}) for label in labels[1:])

    def allows(self, setting: Mapping[str, str]) -> bool:
        """Whether a setting has exactly one of the values of every axis: others in a file would be overrides of any key."""
        ranges = self.search["ranges"]
        return setting.keys() == self.axes.keys() | ranges.keys() and all(
            label in self.axes[axis] if axis in self.axes else is_within(label, ranges[axis]) for axis, label in setting.items()
        )

    def axis_of(self, key: str, setting: Mapping[str, str]) -> str:
        """Returns the axis that sets a key in a setting, or the empty string."""
        return next((a for a, label in setting.items() if key in map(key_of, self.overrides_at(a, label))), "")

    def save(self, folder: Path) -> None:
        """Write the study's file. Raises ConfigError if the folder has another study. More seeds may be added, or to an adaptive
        search more trials."""
        with locked(folder):
            if (before := read(folder)) is not None:
                if before.adaptive and self.adaptive:
                    self.settings = before.settings
                for key, value in asdict(self).items():
                    if key != "seeds" and fixed(value) != fixed(getattr(before, key)):
                        raise ConfigError(
                            f"hydra.run.dir: {folder} has another study: its {key} differ; repeat its command, or choose another "
                            "folder"
                        )
                if self.adaptive and (self.seeds != before.seeds or self.size < before.size):
                    raise ConfigError(
                        f"study.trials: the search in {folder} has {before.size} with the seeds {before.seeds}; more trials can "
                        "be added, but no seeds"
                    )
                if self.seeds[: len(before.seeds)] != before.seeds:
                    raise ConfigError(f"study.seeds: the study in {folder} has {before.seeds}; more can be added, at the end")
            self.write(folder)

    def write(self, folder: Path) -> None:
        write_json(asdict(self), folder / FILE)


def fixed(value: Any) -> Any:
    """Returns what must not change of a plan's value: all but the number of trials of an adaptive search."""
    if isinstance(value, dict) and value.get("name") == "optuna":
        return {key: item for key, item in value.items() if key != "trials"}
    return value


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the study's file."""
    lock = FolderLock(folder, "hydra.run.dir")
    while not lock.try_acquire():
        time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def read(folder: Path) -> Plan | None:
    """Returns the study of a folder, None if it has none. Raises ConfigError if its file is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        content = parse_json(file)
    except ValueError as error:
        raise ConfigError(f"{file} is damaged: {error}") from error
    if content.keys() == KINDS.keys() and fits(content, KINDS) and {"name", "ranges"} <= content["search"].keys():
        found = Plan(**content)
        if len(found.seeds) * len(found.settings) <= LIMIT and all(map(found.allows, found.settings)):
            return found
    raise ConfigError(f"{file} is damaged, or from another version of ganexp")


def is_over(folder: Path) -> bool:
    """Whether the study of a folder has no job left to run."""
    study = read(folder)
    return study is not None and len(study.settings) == study.size and all(job.status(folder) in OVER for job in study.jobs())


def make_plan(
    node: Mapping[str, Any],
    overrides: Sequence[str],
    config_name: str = "config",
    config_dir: str | None = None,
    watched: Mapping[str, Any] | None = None,
) -> Plan:
    """Returns the plan of a config's `study`. `overrides`: the command line without the study's own keys. `watched`: what an
    adaptive search optimizes, `metric` and `higher_is_better`, and `prune_from`, the first step at which a run may be stopped or
    None. Raises ConfigError for wrong axes, seeds and numbers of trials."""
    seeds, given = check_seeds(node["seeds"]), check_axes(node["axes"])
    ranges = {name: check_range(name, values) for name, values in given.items() if is_range(values)}
    axes = {name: values_of_axis(name, values) for name, values in given.items() if name not in ranges}
    search: dict[str, Any] = {"name": node["search"], "ranges": ranges}
    settings: list[dict[str, str]] = []
    if node["search"] == "grid":
        for name in ranges:
            raise ConfigError(f"study.axes.{name}: a range has no end in a grid; list values, or choose study=random")
        size = len(seeds) * math.prod(len(values) for values in axes.values())
        if size > LIMIT:
            raise ConfigError(f"study.axes: {size:,} runs; a study has at most {LIMIT:,}")
        settings = [dict(zip(axes, labels, strict=True)) for labels in product(*axes.values())]
    elif node["search"] in ("random", "optuna"):
        trials, seed = check_trials(node["trials"], len(seeds)), check_search_seed(node["search_seed"])
        if not given:
            raise ConfigError(
                "study.axes: a search requires axes, such as {optimizer.generator.lr:{low:1e-5,high:1e-2,log:true}}"
            )
        search |= {"trials": trials, "seed": seed}
        if node["search"] == "optuna":
            if node["sampler"] not in SAMPLERS:
                raise ConfigError(f"study.sampler: {node['sampler']!r} is not a valid choice{nearest(node['sampler'], SAMPLERS)}")
            search |= {"sampler": node["sampler"], **(watched or {})}
        else:
            drawn = {name: draw(name, [*axes[name]] if name in axes else ranges[name], trials, seed) for name in given}
            rows = (tuple(zip(drawn, labels, strict=True)) for labels in zip(*drawn.values(), strict=True))
            settings = [dict(row) for row in dict.fromkeys(rows)]  # each once
    else:
        raise ConfigError(f"study.search: {node['search']!r} is not a valid choice{nearest(str(node['search']), SEARCHES)}")
    taken = {key_of(override) for override in overrides}
    own = {name: {key_of(override) for value in values.values() for override in value} for name, values in axes.items()}
    for name, keys in {**own, **{name: {name} for name in ranges}}.items():
        for key in sorted(keys & taken):
            raise ConfigError(f"study.axes.{name}: {key} is also set for all runs; remove one of the two")
    return Plan(list(overrides), axes, settings, seeds, search, config_name, config_dir)


def check_trials(trials: Any, seeds: int) -> int:
    if not isinstance(trials, int) or isinstance(trials, bool) or not 1 <= trials * seeds <= LIMIT:
        raise ConfigError(f"study.trials: must be at least 1, with at most {LIMIT:,} runs in all, got {trials!r}")
    return trials


def check_search_seed(seed: Any) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigError(f"study.search_seed: must be from 0 to {2**32 - 1}, got {seed!r}")
    return seed


def check_seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds <= LIMIT:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds):
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"study.seeds: a seed is listed twice: {seeds}")
        return seeds
    raise ConfigError(f"study.seeds: must be a number of seeds, from 1 to {LIMIT:,}, or a list of seeds, got {seeds!r}")
