"""Published and re-measured values to compare runs with: `*.yaml` of this folder, one file per data set or experiment.

Each entry of a file has a `metric` as in the log (`modes/pixels`), a `label`, a `source`, and either a `value` (the end of a
training) or `steps`, `low` and `high` (the smallest and the largest of several seeds by step). `data`: class of the data that
the values are about. `higher_is_better`. `fingerprint`: of the protocol; an entry without one was measured otherwise, as its
`protocol` says, and is shown without a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml


@dataclass(frozen=True)
class Reference:
    """One entry; see the module."""

    data: str
    metric: str
    label: str
    source: str
    higher_is_better: bool
    protocol: str
    fingerprint: str | None = None
    value: float | None = None
    steps: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    classes: int | None = None  # of the data, where one class makes several data sets: ring and grid are both Gaussians

    def band(self, step: float) -> tuple[float, float]:
        """The smallest and the largest value at a step, linear in between; after the last step those of the last. A single
        value at any step."""
        if self.value is not None:
            return self.value, self.value
        return float(np.interp(step, self.steps, self.low)), float(np.interp(step, self.steps, self.high))

    def verdict(self, step: float, value: float) -> str:
        """Returns whether a value is `ahead of`, `on a level with` or `behind` the band at a step."""
        low, high = self.band(step)
        if low <= value <= high:
            return "on a level with"
        return "ahead of" if (value > high) == self.higher_is_better else "behind"

    def sentence(self, step: int, value: float) -> str:
        """Returns how a value at a step compares with the band, in words."""
        low, high = self.band(step)
        band = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return f"{self.metric} {value:.4g} at step {step:,}: {self.verdict(step, value)} {self.label} ({band})"


@cache
def entries() -> tuple[Reference, ...]:
    found = []
    for file in sorted(Path(__file__).parent.glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        shared = {key: value for key, value in content.items() if key != "values"}
        for entry in content["values"]:
            lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
            found.append(Reference(**{**shared, **entry, **lists}))
    return tuple(found)


def references(data: Mapping[str, Any], protocols: Mapping[str, Mapping[str, Any]]) -> list[Reference]:
    """The references for a run: of its data and of a value it measures. `data`: its node of the config. `protocols`: by value.

    An entry with a fingerprint is left out where the run's protocol has another.
    """
    return [
        entry
        for entry in entries()
        if entry.data == data.get("_target_")
        and entry.metric in protocols
        and entry.fingerprint in (None, protocols[entry.metric].get("fingerprint"))
        and (not entry.classes or entry.classes == data.get("classes"))
    ]


def standings(known: Iterable[Reference], step: int, values: Mapping[str, float]) -> list[str]:
    """For each reference of the same protocol that begins before this step: where the value is to it, in words."""
    return [
        reference.sentence(step, values[reference.metric])
        for reference in known
        if reference.fingerprint is not None and reference.metric in values and step >= min(reference.steps, default=0)
    ]
