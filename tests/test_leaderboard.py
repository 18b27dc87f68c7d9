"""The leaderboard: statistics in closed form, values of other protocols marked, studies and sweeps read alike."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer
from PIL import Image

from ganexp.cli.messages import ConfigError
from ganexp.leaderboard import plots
from ganexp.leaderboard.board import make_leaderboard, read_runs
from ganexp.leaderboard.statistics import expected_best, probability_of_beating, seeds_needed, summarize

METRIC = "fid/pixels"


def write_run(folder: Path, overrides: list[str], curve: list[float], fingerprint: str = "aaaa", **changes: Any) -> None:
    """A finished run of 10 steps and 100 images for each value of its curve."""
    folder.mkdir(parents=True)
    steps = [10 * i for i in range(len(curve))]
    rows = "".join(f"{step},{value}\n" for step, value in zip(steps, curve, strict=True))
    (folder / "metrics.csv").write_text(f"step,{METRIC}\n{rows}")
    summary = {"last": curve[-1], "mean_of_last_5": float(np.mean(curve[-5:])), "best": min(curve), "best_step": 0}
    facts = {"status": "finished", "steps": steps[-1], "images_seen": 10 * steps[-1], "seconds": 2.0 * steps[-1], "job": 0}
    protocols = {METRIC: {"num": len(fingerprint), "fingerprint": fingerprint}}
    record = facts | {
        "overrides": overrides,
        "metrics": {METRIC: summary},
        "protocols": protocols,
        "higher_is_better": {METRIC: False},
    }
    (folder / "run.json").write_text(json.dumps(record | changes))


def write_sweep(folder: Path) -> None:
    for seed in range(3):
        write_run(folder / f"{seed}", ["loss=bce", f"seed={seed}", "trainer.max_steps=20"], [9, 5, 4 + seed])
        write_run(folder / f"{3 + seed}", ["loss=hinge", f"seed={seed}", "trainer.max_steps=20"], [9, 2, 1 + seed])


# -- statistics ------------------------------------------------------------------------------------------------------


def test_summary_of_few_values() -> None:
    summary = summarize([1.0, 2.0, 3.0, 6.0])
    assert summary["mean"] == 3 and summary["median"] == 2.5 and summary["sd"] == pytest.approx(np.sqrt(14 / 3))
    assert 1 <= summary["low"] < 3 < summary["high"] <= 6 and summarize([1.0, 2.0, 3.0, 6.0]) == summary
    assert summarize([4.0]) == {"n": 1, "mean": 4.0, "sd": None, "median": 4.0, "low": None, "high": None}
    assert summarize([])["mean"] is None


def test_probability_counts_pairs_and_half_of_ties() -> None:
    assert probability_of_beating([1, 2], [2, 3], higher_is_better=False)["probability"] == 3.5 / 4
    assert probability_of_beating([1, 2], [2, 3], higher_is_better=True)["probability"] == 0.5 / 4
    sure = probability_of_beating([1, 1.5], [8, 9], higher_is_better=False)
    assert sure == {"probability": 1.0, "low": 1.0, "high": 1.0}
    assert probability_of_beating([], [1], False)["probability"] is None


def test_seeds_needed_grow_with_the_square_of_the_noise() -> None:
    values = np.array([-1.0, 1.0])  # variance 2
    assert seeds_needed(values, values + 1) == 32  # 2 (1.96 + 0.84)² 2 = 31.4
    assert seeds_needed(2 * values, 2 * values + 1) == 126
    assert seeds_needed(values, values + 100) == 2 and seeds_needed(values, values) is None and seeds_needed([1], values) is None


def test_expected_best_of_k() -> None:
    assert expected_best([1, 2, 3], 1, higher_is_better=True) == pytest.approx(2)
    assert expected_best([1, 2], 2, higher_is_better=True) == pytest.approx(1.75)
    assert expected_best([1, 2], 2, higher_is_better=False) == pytest.approx(1.25)
    assert expected_best([], 2, True) is None


# -- boards ----------------------------------------------------------------------------------------------------------


def test_settings_of_a_sweep_are_ranked_over_their_seeds(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    board = make_leaderboard(read_runs([tmp_path]), threshold=2.0, k=1)
    assert [row.setting for row in board.rows] == [{"loss": "hinge"}, {"loss": "bce"}] and not board.higher_is_better
    first, second = (board.facts_of(row) for row in board.rows)
    assert first["values"] == {"last": [1, 2, 3], "mean_of_last_5": pytest.approx([4, 13 / 3, 14 / 3]), "best": [1, 2, 2]}
    assert first["reached"] == {"runs": 3, "images": 100.0, "seconds": 20.0} and first["first_beats_it"] is None
    assert second["reached"]["runs"] == 0 and second["expected_best"] == pytest.approx(5)
    assert second["first_beats_it"] == {"probability": 1.0, "low": 1.0, "high": 1.0, "seeds_needed": 2}
    rows = list(csv.DictReader(io.StringIO(board.to_csv())))
    assert len(rows) == 6 and rows[0]["loss"] == "hinge" and float(rows[0]["mean"]) == 2


def test_every_two_settings_are_compared_and_every_statistic_has_an_interval(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    write_run(tmp_path / "6", ["loss=lsgan", "seed=0", "trainer.max_steps=20"], [9, 3, 3])
    write_run(tmp_path / "7", ["loss=lsgan", "seed=1", "trainer.max_steps=20"], [9, 4, 4])
    board = make_leaderboard(read_runs([tmp_path]))
    assert [row.setting["loss"] for row in board.rows] == ["hinge", "lsgan", "bce"]
    pairs = {(pair["first"], pair["second"]): pair for pair in board.to_json()["pairs"]}
    assert pairs.keys() == {(0, 1), (0, 2), (1, 2)}
    assert pairs[0, 1]["probability"] == pytest.approx(5.5 / 6) and pairs[1, 2]["probability"] == pytest.approx(5.5 / 6)
    _, statistics, compared = board.tables()
    assert compared.cells[0][1:] == ["·", "0.9167", "1"] and compared.cells[2][1] == "2" and compared.cells[2][3] == "·"
    columns = dict(zip(statistics.header, statistics.cells[0], strict=False))
    assert columns["last"] == "2 ± 1" and columns["best"] == "1.667 ± 0.58"
    assert sum(" to " in cell for cell in statistics.cells[0]) == 3
    assert "| 1 loss=hinge | · | 0.9167 | 1 |" in board.markdown()


def test_values_of_another_protocol_are_marked_and_never_averaged(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    write_run(tmp_path / "6", ["loss=hinge", "seed=3", "trainer.max_steps=20"], [9, 1, 0.5], fingerprint="bb")
    board = make_leaderboard(read_runs([tmp_path]))
    assert [row.label for row in board.rows] == ["loss=hinge", "loss=bce", "loss=hinge †"]
    assert [len(row.values["last"]) for row in board.rows] == [3, 3, 1]
    assert board.notes == ["† measured under another protocol (num): do not compare with the others"]
    assert board.facts_of(board.rows[2])["first_beats_it"] is None and "†" in board.markdown()


def test_failed_diverged_and_collapsed_runs_are_counted(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    said = [{"step": 3, "message": "mode collapse: distances between samples are 0.01 times those of real samples"}]
    write_run(
        tmp_path / "6", ["loss=bce", "seed=3", "trainer.max_steps=20"], [9, 99], status="failed", error="step 20: loss is nan"
    )
    write_run(tmp_path / "7", ["loss=bce", "seed=4", "trainer.max_steps=20"], [9, 99], status="failed", error="No space left")
    write_run(tmp_path / "8", ["loss=hinge", "seed=4", "trainer.max_steps=20"], [9, 3, 3], remarks=said)
    board = make_leaderboard(read_runs([tmp_path]))
    first, second = (board.facts_of(row) for row in board.rows)
    assert (first["runs"], first["failed"], first["diverged"], first["collapsed"]) == (4, 0, 0, 1)
    assert (second["runs"], second["failed"], second["diverged"], second["collapsed"]) == (5, 2, 1, 0)
    assert second["values"]["last"] == [4, 5, 6] and "Of 9 runs 7 are finished (2 failed)" in board.notes[0]


def test_single_run_is_drawn_without_a_warning(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    board = make_leaderboard(read_runs([tmp_path])[:1])
    assert len(board.runs) == 1 and plots.axes_of(board)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(plots.plot_parallel(board)).std() > 1


def test_importance_is_the_explained_variance(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    parts = plots.importance(make_leaderboard(read_runs([tmp_path])))
    assert parts == pytest.approx({"loss": 13.5 / 17.5, "seed and rest": 4 / 17.5})


def test_numbers_drawn_from_a_range_explain_no_more_than_their_quarters(tmp_path: Path) -> None:
    for i, value in enumerate([1, 9, 1, 9, 1, 9, 1, 9]):  # has nothing to do with the axis
        write_run(tmp_path / f"{i}", [f"lr={10 + i}e-5", "seed=0"], [20, value])
    board = make_leaderboard(read_runs([tmp_path]))
    assert plots.importance(board)["lr"] == pytest.approx(0)
    assert plots.in_order(["1e-2", "3", "0.5", "3"]) == ["1e-2", "0.5", "3"] and plots.in_order(["b", "2", "a"]) == [
        "b",
        "2",
        "a",
    ]


@pytest.mark.parametrize("higher", [True, False])
def test_direction_is_the_one_that_the_runs_recorded(tmp_path: Path, higher: bool) -> None:
    write_sweep(tmp_path)
    for file in tmp_path.glob("*/run.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"higher_is_better": {METRIC: higher}}))
    board = make_leaderboard(read_runs([tmp_path]))
    assert [row.setting["loss"] for row in board.rows] == (["bce", "hinge"] if higher else ["hinge", "bce"])
    assert board.title() == f"{METRIC}: {'higher' if higher else 'lower'} is better" and board.title() in board.markdown()


def test_runs_without_values_are_counted_with_those_of_their_setting(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    write_run(tmp_path / "6", ["loss=other", "seed=0", "trainer.max_steps=20"], [9, 3], fingerprint="bb")
    write_run(tmp_path / "7", ["loss=other", "seed=1", "trainer.max_steps=20"], [9, 3], status="failed", metrics={}, protocols={})
    board = make_leaderboard(read_runs([tmp_path]))
    assert [(row.label, len(row.runs)) for row in board.rows] == [("loss=hinge", 3), ("loss=bce", 3), ("loss=other †", 2)]


def test_curves_have_a_band_over_the_seeds(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    images, values = plots.common_curve(METRIC, make_leaderboard(read_runs([tmp_path])).rows[0])
    assert images.tolist() == [100, 200] and values.tolist() == [[2, 1], [2, 2], [2, 3]]  # not of the untrained networks
    write_run(tmp_path / "6", ["loss=hinge", "seed=3", "trainer.max_steps=20"], [9, 99], status="failed")
    images, values = plots.common_curve(METRIC, make_leaderboard(read_runs([tmp_path])).rows[0])
    assert images.tolist() == [100, 200] and len(values) == 3, "a failed run shortens no curve"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metric": "fid/pixel"}, "task.metric: the runs have no fid/pixel; did you mean fid/pixels?"),
        ({"statistic": "first"}, "task.statistic: 'first' is not a valid choice"),
    ],
)
def test_leaderboard_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_sweep(tmp_path)
    with pytest.raises(ConfigError) as error:
        make_leaderboard(read_runs([tmp_path]), **changes)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("twice", [["sweep", "sweep"], ["sweep", "sweep/../sweep"], ["sweep", "sweep/3"]])
def test_run_that_is_named_twice_is_refused(twice: list[str], tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep")
    with pytest.raises(ConfigError, match=r"^task\.runs: \S+ is named more than once; a run counts once$"):
        read_runs([tmp_path / name for name in twice])


def test_task_writes_table_and_plots(cli: Callable[..., Answer], tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep")
    answer = cli("task=leaderboard", "task.runs=[sweep]", "task.threshold=2", "hydra.run.dir=board")
    assert answer.code == 0, answer.err
    assert f"{METRIC}: lower is better" in answer.out and "loss=hinge" in answer.out and "images to 2" in answer.out
    assert "mean of last 5" in answer.out and re.search(r"1 loss=hinge +· +1\n", answer.out)
    assert json.loads((tmp_path / "board" / "leaderboard.json").read_text())["settings"][0]["setting"] == {"loss": "hinge"}
    for name in ("curves.png", "parallel.png", "importance.png"):
        assert np.asarray(Image.open(tmp_path / "board" / name)).std() > 1
    page = (tmp_path / "board" / "report.html").read_text(encoding="utf-8")
    assert "loss=hinge" in page and f"{METRIC}: lower is better" in page
    assert "task.runs: empty has no runs" in cli("task=leaderboard", "task.runs=[empty]").err
