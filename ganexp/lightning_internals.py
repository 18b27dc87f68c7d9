"""All private names of Lightning that ganexp uses. pyproject.toml bounds the versions; tests/test_internals.py names the version
that breaks them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from ganexp.files import replace


def swap_step_hooks(optimizer: LightningOptimizer, hooks: tuple[Any, Any]) -> tuple[Any, Any]:
    """Set the two hooks that Lightning calls around each optimizer step to count the global step. Returns the previous ones."""
    before = optimizer._on_before_step, optimizer._on_after_step
    optimizer._on_before_step, optimizer._on_after_step = hooks
    return before


def forget_run(logger: MLFlowLogger) -> bool:
    """Make the logger start a new run. Returns whether it had one."""
    before, logger._run_id = logger._run_id, None
    return before is not None


class Writer(ExperimentWriter):
    """Writes metrics.csv. Lightning's empties the file before it writes it with more columns; a kill or a full disk at that
    moment would lose all rows."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames)
        writer.writeheader()
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            writer.writerows(rows)
        try:
            replace(Path(self.metrics_file_path), lambda new: new.write(text.getvalue().encode()))
        except OSError:
            self.metrics_keys = list(rows.fieldnames or [])
            raise


def use_writer(logger: CSVLogger) -> Writer:
    """Make the logger use a Writer, which deletes an existing metrics.csv. Returns it."""
    logger._experiment = writer = Writer(logger.log_dir)
    return writer
