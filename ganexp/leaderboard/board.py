"""Read the runs of studies and sweeps, and compare their settings."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ganexp.cli.messages import ConfigError, nearest
from ganexp.leaderboard.statistics import expected_best, probability_of_beating, seeds_needed, summarize
from ganexp.quantities import duration
from ganexp.records import read_record
from ganexp.report.charts import Curve, read_curves
from ganexp.study import plan

STATISTICS = ("last", "mean_of_last_5", "best")
MARKS = "†‡§¶"
MOST_PAIRS = 10  # settings in the table of pairs; the files have all pairs


@dataclass
class Run:
    """One job. `setting`: its value on every axis. `record`: its run.json, empty if it has not begun. `curves`: by metric."""

    folder: Path
    setting: dict[str, str]
    record: dict[str, Any]
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return str(self.record.get("status", "waiting"))

    @property
    def diverged(self) -> bool:
        """Whether the watchdog has ended it: its messages begin with the step."""
        return self.status == "failed" and bool(re.match(r"step [\d,]+: ", str(self.record.get("error", ""))))

    @property
    def collapsed(self) -> bool:
        said = [str(remark.get("message", "")) for remark in self.record.get("remarks", [])] + [str(self.record.get("error", ""))]
        return any("mode collapse" in text for text in said)

    def value(self, metric: str, statistic: str) -> float | None:
        value = self.record.get("metrics", {}).get(metric, {}).get(statistic)
        return float(value) if value is not None else None

    def fingerprint(self, metric: str) -> str:
        return str(self.record.get("protocols", {}).get(metric, {}).get("fingerprint", ""))

    def reached(self, metric: str, threshold: float, higher_is_better: bool) -> dict[str, float] | None:
        """Returns `images` and `seconds` until the metric first reached the threshold, by the run's mean speed; None if it did
        not."""
        steps, values = self.curves.get(metric, (np.empty(0), np.empty(0)))
        good = steps[values >= threshold if higher_is_better else values <= threshold]
        total = self.record.get("steps") or 0
        if not len(good) or not total:
            return None
        part = float(good[0]) / total
        return {"images": part * self.record.get("images_seen", 0), "seconds": part * self.record.get("seconds", 0.0)}


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Returns the runs of studies, sweeps and single runs. Raises ConfigError for a folder with none."""
    runs: list[Run] = []
    for folder in folders:
        study = plan.read(folder)
        if study is not None:
            found = [Run(folder / job.name, job.setting, job.record(folder)) for job in study.jobs()]
        else:
            files = sorted(folder.rglob("run.json")) if folder.is_dir() else []
            records = [(file.parent, read_record(file.parent)) for file in files]
            found = [Run(path, {}, record) for path, record in records]
            set_settings(found)
        if not found:
            raise ConfigError(f"task.runs: {folder} has no runs: it is neither a study nor a sweep nor a run")
        runs += found
    for folder, times in Counter(run.folder.resolve() for run in runs).items():
        if times > 1:
            raise ConfigError(f"task.runs: {folder} is named more than once; a run counts once")
    for run in runs:
        run.curves = read_curves(run.folder / "metrics.csv")
    return runs


def set_settings(runs: Sequence[Run]) -> None:
    """Set the settings of a sweep's runs: the overrides in which they differ, without the seed."""
    chosen = [dict(text.partition("=")[::2] for text in run.record.get("overrides", []) if "=" in text) for run in runs]
    keys = dict.fromkeys(key for words in chosen for key in words if key != "seed" and not key.startswith("hydra"))
    differing = [key for key in keys if len({words.get(key) for words in chosen}) > 1]
    for run, words in zip(runs, chosen, strict=True):
        run.setting = {key: words.get(key, "–") for key in differing}
        if not run.record.get("overrides"):
            run.setting = {"run": str(run.record.get("name", run.folder.name))}


def metrics_of(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.record.get("metrics", {})))


def higher_is_better(runs: Sequence[Run], metric: str) -> bool | None:
    """Returns the direction of a metric as the runs recorded it; None if it has no better side."""
    return next((bool(known[metric]) for run in runs if metric in (known := run.record.get("higher_is_better", {}))), None)


@dataclass
class Row:
    """One setting measured under one protocol. `values`: of its runs, by statistic. `mark`: set where the fingerprint is not the
    commonest of the metric."""

    setting: dict[str, str]
    fingerprint: str
    mark: str
    runs: list[Run]
    values: dict[str, list[float]]
    reached: list[dict[str, float]]

    @property
    def label(self) -> str:
        return (", ".join(f"{axis}={label}" for axis, label in self.setting.items()) or "all") + self.mark


@dataclass
class Table:
    """`title`: a sentence about it, or empty."""

    title: str
    header: list[str]
    cells: list[list[str]]


@dataclass
class Leaderboard:
    """The settings ranked by the mean of `statistic` of `metric`; those of another protocol than the commonest come last,
    marked."""

    metric: str
    statistic: str
    higher_is_better: bool
    threshold: float | None
    k: int
    rows: list[Row]
    runs: list[Run]
    notes: list[str]

    # -- for the screen and for Markdown -----------------------------------------------------------------------------

    def title(self) -> str:
        return f"{self.metric}: {'higher' if self.higher_is_better else 'lower'} is better"

    def tables(self) -> list[Table]:
        """Returns the ranking; mean, median and interval of every statistic; and, of two or more settings, the pairs."""
        tables = [Table("", self.header(), self.cells()), self.all_statistics()]
        return [*tables, self.all_pairs()] if len(self.comparable()) > 1 else tables

    def header(self) -> list[str]:
        reached = [f"images to {self.threshold:g}", "time"] if self.threshold is not None else []
        return ["setting", "runs", "failed", "diverged", "collapsed", self.statistic.replace("_", " "), "median",
                "95 % interval", f"best of {self.k}", *reached, "first beats it", "seeds needed"]  # fmt: skip

    def cells(self) -> list[list[str]]:
        return [self.cells_of(row) for row in self.rows]

    def cells_of(self, row: Row) -> list[str]:
        facts = self.facts_of(row)
        counts = [str(facts[key]) for key in ("runs", "failed", "diverged", "collapsed")]
        reached = []
        if self.threshold is not None:
            times = facts["reached"]
            reached = [f"{number(times['images'])} ({times['runs']} of {facts['runs']})", duration(times["seconds"]) or "–"]
        against = facts["first_beats_it"]
        comparison = ["–", "–"] if against is None else [number(against["probability"]), str(against["seeds_needed"] or "–")]
        main = described(facts["statistics"][self.statistic])
        return [row.label, *counts, *main, number(facts["expected_best"]), *reached, *comparison]

    def all_statistics(self) -> Table:
        parts = ("{}", "median", "95 % interval")
        header = ["setting", *(part.format(statistic.replace("_", " ")) for statistic in STATISTICS for part in parts)]
        cells = [[row.label, *(cell for s in STATISTICS for cell in described(summarize(row.values[s])))] for row in self.rows]
        return Table("The last value of each run, the mean of its last five, and its best:", header, cells)

    def all_pairs(self) -> Table:
        rows = self.comparable()[:MOST_PAIRS]
        cells = [[f"{i} {row.label}", *["·"] * len(rows)] for i, row in enumerate(rows, 1)]
        for pair in self.pairs(rows):
            i, j = pair["first"], pair["second"]
            cells[i][j + 1], cells[j][i + 1] = number(pair["probability"]), str(pair["seeds_needed"] or "–")
        those = f" of the first {MOST_PAIRS} settings" if len(self.comparable()) > MOST_PAIRS else ""
        title = (
            f"Every two settings{those}: above the diagonal how probable it is that a run of the row beats one of the column, "
        )
        title += "below it how many seeds a difference as large as theirs needs:"
        return Table(title, ["setting", *(str(i + 1) for i in range(len(rows)))], cells)

    def markdown(self) -> str:
        parts = [self.title()]
        for table in self.tables():
            rows = [table.header, ["---"] * len(table.header), *table.cells]
            parts += [table.title] if table.title else []
            parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows))
        return "\n\n".join([*parts, *self.notes]) + "\n"

    # -- for programs ------------------------------------------------------------------------------------------------

    def comparable(self) -> list[Row]:
        """Returns the rows with values of the first one's protocol, in order."""
        rows = [row for row in self.rows if row.values[self.statistic]]
        return [row for row in rows if row.fingerprint == rows[0].fingerprint]

    def compare(self, a: Row, b: Row) -> dict[str, Any]:
        """Returns the `probability` that a run of a beats one of b, its interval, and `seeds_needed`."""
        x, y = a.values[self.statistic], b.values[self.statistic]
        return {**probability_of_beating(x, y, self.higher_is_better), "seeds_needed": seeds_needed(x, y)}

    def pairs(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Returns the comparison of every two of these rows, `first` and `second`: their places from 0 on."""
        return [{"first": i, "second": j, **self.compare(rows[i], rows[j])} for i, j in combinations(range(len(rows)), 2)]

    def facts_of(self, row: Row) -> dict[str, Any]:
        rows = self.comparable()
        against = self.compare(rows[0], row) if any(row is other for other in rows[1:]) else None
        means = {key: float(np.mean([r[key] for r in row.reached])) if row.reached else None for key in ("images", "seconds")}
        return {
            "setting": row.setting,
            "fingerprint": row.fingerprint,
            "marked": bool(row.mark),
            "runs": len(row.runs),
            "finished": sum(run.status == "finished" for run in row.runs),
            "failed": sum(run.status == "failed" for run in row.runs),
            "diverged": sum(run.diverged for run in row.runs),
            "collapsed": sum(run.collapsed for run in row.runs),
            "statistics": {statistic: summarize(values) for statistic, values in row.values.items()},
            "values": row.values,
            "reached": {"runs": len(row.reached), **means},
            "expected_best": expected_best(row.values[self.statistic], self.k, self.higher_is_better),
            "first_beats_it": against,
        }

    def to_json(self) -> dict[str, Any]:
        facts = ("metric", "statistic", "higher_is_better", "threshold", "k", "notes")
        settings = [self.facts_of(row) for row in self.rows]  # those of comparable() come first
        return {key: getattr(self, key) for key in facts} | {"settings": settings, "pairs": self.pairs(self.comparable())}

    def to_csv(self) -> str:
        """Returns a line for each setting and statistic."""
        axes = list(dict.fromkeys(axis for row in self.rows for axis in row.setting))
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        counts = ("runs", "finished", "failed", "diverged", "collapsed")
        writer.writerow([*axes, "metric", "fingerprint", *counts, "statistic", "n", "mean", "sd", "median", "low", "high"])
        for row in self.rows:
            facts = self.facts_of(row)
            for statistic, values in facts["statistics"].items():
                labels = [row.setting.get(axis, "") for axis in axes]
                writer.writerow([*labels, self.metric, row.fingerprint, *(facts[c] for c in counts), statistic, *values.values()])
        return text.getvalue()


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def described(summary: dict[str, Any]) -> list[str]:
    """Returns mean and standard deviation, median, and interval."""
    mean = number(summary["mean"]) + (f" ± {summary['sd']:.2g}" if summary["sd"] is not None else "")
    interval = f"{summary['low']:.4g} to {summary['high']:.4g}" if summary["low"] is not None else "–"
    return [mean, number(summary["median"]), interval]


def make_leaderboard(
    runs: Sequence[Run], metric: str | None = None, statistic: str = "last", threshold: float | None = None, k: int = 5
) -> Leaderboard:
    """Compare the settings of runs. `metric`: null, the first that can rank. `statistic`: last, mean_of_last_5 or best, of each
    run. `threshold`: a value whose first time is measured. `k`: of the expected best of k trials.

    Raises ConfigError if there are no metrics, or not this one, or if it has no better side.
    """
    names = metrics_of(runs)
    ranking = [name for name in names if higher_is_better(runs, name) is not None]
    if metric is not None and metric not in names:
        raise ConfigError(f"task.metric: the runs have no {metric}{nearest(metric, names)}")
    if metric is None and not ranking:
        raise ConfigError("task.runs: no run has a metric that can rank")
    metric = metric or ranking[0]
    higher = higher_is_better(runs, metric)
    if higher is None:
        raise ConfigError(f"task.metric: {metric} cannot rank: it has no better side (these can: {', '.join(ranking) or 'none'})")
    if statistic not in STATISTICS:
        raise ConfigError(f"task.statistic: {statistic!r} is not a valid choice{nearest(statistic, STATISTICS)}")
    common = Counter(fingerprint for run in runs if (fingerprint := run.fingerprint(metric))).most_common()
    marks = {fingerprint: "" if i == 0 else f" {MARKS[(i - 1) % len(MARKS)]}" for i, (fingerprint, _) in enumerate(common)}
    usual = common[0][0] if common else ""
    known = {repr(sorted(run.setting.items())): fingerprint for run in runs if (fingerprint := run.fingerprint(metric))}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        setting = repr(sorted(run.setting.items()))
        fingerprint = run.fingerprint(metric) or known.get(setting, usual)  # a job that has not begun has none
        groups.setdefault((setting, fingerprint), []).append(run)
    rows = []
    for (_, fingerprint), members in groups.items():
        done = [run for run in members if run.status == "finished"]
        values = {s: [v for run in done if (v := run.value(metric, s)) is not None] for s in STATISTICS}
        reached = [r for run in members if threshold is not None and (r := run.reached(metric, threshold, higher)) is not None]
        rows.append(Row(members[0].setting, fingerprint, marks.get(fingerprint, ""), members, values, reached))
    sign = -1 if higher else 1
    rows.sort(key=lambda row: (bool(row.mark), not row.values[statistic], sign * float(np.mean(row.values[statistic] or [0]))))
    return Leaderboard(metric, statistic, higher, threshold, k, rows, list(runs), notes_on(runs, metric, marks))


def notes_on(runs: Sequence[Run], metric: str, marks: dict[str, str]) -> list[str]:
    """Returns what a reader of the table must know: other protocols, runs that are missing."""
    notes = []
    protocols = {run.fingerprint(metric): run.record.get("protocols", {}).get(metric, {}) for run in runs}
    usual = next((fingerprint for fingerprint, mark in marks.items() if not mark), "")
    for fingerprint, mark in marks.items():
        if mark:
            one, other = protocols.get(usual, {}), protocols.get(fingerprint, {})
            keys = [key for key in {**one, **other} if key != "fingerprint" and one.get(key) != other.get(key)]
            notes.append(f"{mark.strip()} measured under another protocol ({', '.join(keys)}): do not compare with the others")
    counts = Counter(run.status for run in runs)
    if others := {status: n for status, n in counts.items() if status != "finished"}:
        listed = ", ".join(f"{n} {status}" for status, n in others.items())
        notes.append(f"Of {len(runs)} runs {counts['finished']} are finished ({listed}); the values are those of finished runs.")
    return notes
