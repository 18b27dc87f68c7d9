"""task=report: write report.html of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganexp.cli.build import build
from ganexp.cli.messages import ConfigError
from ganexp.model import load
from ganexp.records import read_record
from ganexp.report.neighbours import find_neighbours
from ganexp.report.run import Neighbours, write_report
from ganexp.runtime.console import display_path, quiet
from ganexp.runtime.restoring import restore_data
from ganexp.runtime.trainer import device


class Report:
    """report.html in the folder of config["run"], from what is there: also of a run that was killed.

    `num_real`: training samples to look for the nearest ones among, at most 5,000; 0 leaves them out, and then neither model nor
    data are loaded. They are of last.ckpt, by the features of config["extractor"]. Raises ConfigError for a folder without a
    run, ValueError for a negative number.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path, override_keys: list[str], num_real: int = 2000):
        if num_real < 0:
            raise ValueError(f"num_real: must be at least 0, got {num_real}")
        if not read_record(run_dir):
            raise ConfigError(f"run: {run_dir} has no run.json, or a damaged one; a report is of a run: run=outputs/NAME/TIME")
        self.config, self.run_dir, self.num_real = config, run_dir, num_real

    def run(self) -> None:
        """Find the neighbours, and write."""
        quiet()
        print(f"  written: {display_path(write_report(self.run_dir, self.neighbours()))}")

    def neighbours(self) -> Neighbours | str:
        checkpoint = self.run_dir / "checkpoints" / "last.ckpt"
        if self.num_real == 0 or not checkpoint.is_file():
            return "task.num_real is 0" if self.num_real == 0 else "the run has no last.ckpt"
        try:
            model = load(checkpoint, device(self.config["hardware"]), self.config["trust"])
            data = restore_data(model.config, self.config["trust"])
            data.prepare()
        except (ConfigError, ValueError, OSError) as error:  # data that are not on this machine, for example
            return str(error)
        return find_neighbours(model, data, build(self.config["extractor"], "extractor"), self.num_real)
