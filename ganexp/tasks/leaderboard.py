"""task=leaderboard: the settings of a study or a sweep, ranked over their seeds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp import pictures
from ganexp.cli.messages import ConfigError, printable
from ganexp.files import replace, write_json
from ganexp.leaderboard import plots
from ganexp.leaderboard.board import Leaderboard, make_leaderboard, read_runs
from ganexp.report.run import write_study_report
from ganexp.runtime.console import display_path, table

log = logging.getLogger(__name__)


class MakeLeaderboard:
    """Ranks the settings of studies, sweeps and runs by the mean of a metric over their seeds.

    `runs`: their folders. `metric`: null, the first that can rank. `statistic`: of each run. `threshold`: a value of the metric;
    the images and the time to reach it are measured. `k`: of the expected best of k trials. Writes leaderboard.md, .csv and
    .json, curves.png, with axes parallel.png and importance.png, and all of it as report.html.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, runs: Sequence[str], metric: str | None = None, statistic: str = "last",
        threshold: float | None = None, k: int = 5,
    ):  # fmt: skip
        self.run_dir = run_dir
        if not runs:
            raise ValueError("runs: at least one folder is required: task.runs=[outputs/NAME/TIME]")
        if k < 1:
            raise ValueError(f"k: must be at least 1, got {k}")
        self.board = make_leaderboard(read_runs([Path(run).expanduser() for run in runs]), metric, statistic, threshold, k)

    def run(self) -> None:
        """Print the leaderboard, and write it into the run folder."""
        show(self.board)
        names = write(self.board, self.run_dir)
        print(f"  written to {display_path(self.run_dir)}: {', '.join(names)}")


def show(board: Leaderboard) -> None:
    """Print a leaderboard and its notes."""
    print(f"  {printable(board.title())}")
    for part in board.tables():
        if part.title:
            print(f"\n  {part.title}")
        print(table(part.header, part.cells))
    for note in board.notes:
        print(f"  {printable(note)}")


def write(board: Leaderboard, folder: Path) -> list[str]:
    """Write a leaderboard's files into a folder. Returns their names."""
    replace(folder / "leaderboard.md", lambda file: file.write(board.markdown().encode()))
    replace(folder / "leaderboard.csv", lambda file: file.write(board.to_csv().encode()))
    write_json(board.to_json(), folder / "leaderboard.json")
    drawn = {"curves.png": ("Curves over the seeds", plots.plot_curves(board))}
    if plots.axes_of(board):
        drawn["parallel.png"] = ("Parallel coordinates", plots.plot_parallel(board))
        drawn["importance.png"] = ("Importance of the axes", plots.plot_importance(board))
    for name, (_, picture) in drawn.items():
        pictures.save(picture, folder / name)
    shown = dict(drawn.values())
    tables = [(part.title, part.header, part.cells) for part in board.tables()]
    write_study_report(folder, board.title(), tables, board.notes, shown, len(board.runs))
    return ["leaderboard.md", "leaderboard.csv", "leaderboard.json", *drawn, "report.html"]


def write_for(folder: Path) -> None:
    """Print and write the leaderboard of a study or a sweep into its own folder, if its runs have a metric that can rank."""
    try:
        board = make_leaderboard(read_runs([folder]))
    except ConfigError as mistake:
        print(f"  no leaderboard: {mistake}")
        return
    show(board)
    write(board, folder)
