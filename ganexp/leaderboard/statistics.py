"""Statistics of few runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95  # of intervals
Z = 1.959964 + 0.841621  # for a two-sided test at 5 % with a power of 80 %


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Returns `n`, `mean`, `sd` (n - 1 in the denominator), `median`, and `low` and `high` of the mean's 95 % bootstrap interval
    (percentiles, always the same resamples). `sd` and interval are None for a single value, all but `n` for none."""
    n = len(values)
    if n == 0:
        return {"n": 0, **dict.fromkeys(("mean", "sd", "median", "low", "high"))}
    array = np.asarray(values, float)
    summary: dict[str, Any] = {"n": n, "mean": float(array.mean()), "sd": None, "median": float(np.median(array))}
    if n == 1:
        return summary | {"low": None, "high": None}
    means = array[np.random.default_rng(0).integers(0, n, (RESAMPLES, n))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return summary | {"sd": float(array.std(ddof=1)), "low": float(low), "high": float(high)}


def probability_of_beating(a: Sequence[float], b: Sequence[float], higher_is_better: bool) -> dict[str, float | None]:
    """Returns the `probability` that a run of setting a beats one of setting b, with the 95 % bootstrap interval `low` to `high`;
    ties count half (Bouthillier et al. 2021, arXiv:2103.03098, section 4). None without values."""
    if not len(a) or not len(b):
        return {"probability": None, "low": None, "high": None}
    sign = 1 if higher_is_better else -1
    wins = 0.5 * (1 + np.sign(sign * (np.asarray(a, float)[:, None] - np.asarray(b, float)[None, :])))
    if min(len(a), len(b)) == 1:
        return {"probability": float(wins.mean()), "low": None, "high": None}
    rows, columns = resamples(len(a), len(b))
    means = ((rows @ wins) * columns).sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"probability": float(wins.mean()), "low": float(low), "high": float(high)}


@cache
def resamples(*sizes: int) -> list[np.ndarray]:
    """Returns how often each of so many values is drawn, as a fraction: [RESAMPLES, size] for every size."""
    random = np.random.default_rng(0)
    return [random.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in sizes]


def seeds_needed(a: Sequence[float], b: Sequence[float]) -> int | None:
    """Returns the seeds for each setting with which a difference of means as large as the one observed is found in 80 % of
    studies, by a two-sided test at 5 %: 2 (1.96 + 0.84)² (s / d)², at least 2. None where it cannot be said: fewer than two
    values of one, or equal means."""
    if min(len(a), len(b)) < 2:
        return None
    difference = abs(float(np.mean(a)) - float(np.mean(b)))
    variance = (float(np.var(a, ddof=1)) + float(np.var(b, ddof=1))) / 2
    if difference == 0 or difference**2 < variance * 1e-9:
        return None
    return max(2, math.ceil(2 * Z**2 * variance / difference**2))


def expected_best(values: Sequence[float], k: int, higher_is_better: bool) -> float | None:
    """Returns the expected best of `k` trials that are drawn from `values` with replacement (Dodge et al. 2019,
    arXiv:1909.03004, equation 1). None without values."""
    if not len(values):
        return None
    worst_first = np.sort(np.asarray(values, float))
    if not higher_is_better:
        worst_first = worst_first[::-1]
    cumulative = (np.arange(len(values) + 1) / len(values)) ** k
    return float((worst_first * np.diff(cumulative)).sum())
