"""Logs of a run that continues: rows and events that it will log again are dropped, and so are those of its former end."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from google.protobuf.message import DecodeError
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event

from ganexp.callbacks.checkpoint import find
from ganexp.callbacks.metrics import Metrics
from ganexp.files import LARGEST_CSV, replace
from ganexp.lightning_internals import use_writer
from ganexp.loggers import FINAL, REFERENCE, plain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """What stays of a log when a run continues from a checkpoint: all before `step`, and of that step what is not in `withdrawn`:
    `log` (scalars), `metrics` or `samples` (pictures), see withdrawn_at. `names`: those of the metrics."""

    step: int
    withdrawn: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def keeps(self, step: int, kind: str) -> bool:
        return step < self.step or (step == self.step and kind not in self.withdrawn)

    def keeps_row(self, row: Mapping[str, str]) -> bool:
        """Whether a row of metrics.csv stays. Raises ValueError, TypeError or KeyError for a row without a step."""
        return self.keeps(int(row["step"]), "metrics" if any(row.get(name) for name in self.names) else "log")

    def keeps_event(self, event: Event) -> bool:
        """Whether an event of TensorBoard stays. The final values of a run are those of an end."""
        for value in event.summary.value:
            if value.tag.startswith(f"{FINAL}/"):
                return False
            is_metric = value.tag.startswith(f"{REFERENCE}/") or value.tag in map(plain, self.names)
            is_picture = value.HasField("image") or value.metadata.plugin_data.plugin_name == "images"
            return self.keeps(event.step, "samples" if is_picture else "metrics" if is_metric else "log")
        return event.step <= self.step


def continue_logs(trainer: pl.Trainer, checkpoint: Path | None) -> None:
    """Make the loggers of metrics.csv and TensorBoard append to what they have logged up to a checkpoint; None: to nothing."""
    past = Past(-1)
    if checkpoint is not None:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        metrics = find(trainer.callbacks, Metrics)  # type: ignore[attr-defined]
        names = metrics.names() if metrics else []
        past = Past(content["global_step"], withdrawn_at(content["global_step"], content["config"]), frozenset(names))
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            truncate_metrics(logger, past)
        elif isinstance(logger, TensorBoardLogger):
            for file in Path(logger.log_dir).glob("events.out.tfevents.*"):
                truncate_events(file, past)


def withdrawn_at(step: int, config: dict[str, Any]) -> frozenset[str]:
    """Returns what a run with this config did at this step only because it ended there: `log`, `metrics`, `samples`."""
    if step != config["trainer"]["max_steps"]:
        return frozenset()
    every = {"log": config["trainer"]["log_every"]}
    every |= {name: config["callbacks"].get(name, {}).get("every") for name in ("metrics", "samples")}
    numbers = {kind: n for kind, n in every.items() if isinstance(n, int) and n > 0}  # the file may be damaged
    return frozenset(kind for kind, n in numbers.items() if step % n and (step, kind) != (1, "log"))


def truncate_metrics(logger: CSVLogger, past: Past) -> None:
    """Make the logger append to the complete rows of its metrics.csv that stay. By default it starts an empty file."""
    file = Path(logger.log_dir) / "metrics.csv"
    backup = file.with_suffix(".before")
    if file.is_file():
        os.replace(file, backup)  # a new writer would delete it
    writer = use_writer(logger)
    if not backup.is_file():
        return
    try:
        columns, rows = read_rows(backup)
        if not backup.read_bytes().endswith(b"\n"):
            log.warning("%s: its last row is incomplete, and is left out", file)
        rows = [row for row in rows if past.keeps_row(row)]
    except (ValueError, TypeError, KeyError, csv.Error):
        os.replace(backup, file.with_suffix(".damaged.csv"))
        log.warning("%s is damaged: starting a new one; the old one is now metrics.damaged.csv", file)
        return
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    writer.metrics_keys = columns
    replace(file, lambda new: new.write(text.getvalue().encode()))
    backup.unlink()


def read_rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns and the complete rows of a metrics.csv: a killed run may leave an incomplete one. Raises ValueError or
    csv.Error for a damaged file."""
    if (length := file.stat().st_size) > LARGEST_CSV:
        raise ValueError(f"it has {length:,} bytes")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    reader = csv.DictReader(line for line in lines if line.endswith("\n"))
    rows = list(reader)
    return list(reader.fieldnames or []), rows


def last_logged(run_dir: Path) -> int:
    """Returns the last step in the metrics.csv of a run, 0 if there is none or it is damaged."""
    steps = [0]
    for file in [*run_dir.rglob("metrics.csv"), *run_dir.rglob("metrics.before")]:
        with suppress(OSError, ValueError, TypeError, KeyError, csv.Error):
            steps += [int(row["step"]) for row in read_rows(file)[1]]
    return max(steps)


def truncate_events(file: Path, past: Past) -> None:
    """Drop the events that do not stay, and an incomplete last one, from a file of TensorBoard."""
    content = file.read_bytes()
    try:
        kept = b"".join(record for record, event in events_in(content) if past.keeps_event(event))
    except DecodeError:
        log.warning("%s is damaged: its curves may overlap with new ones", file)
        return
    if kept != content:
        replace(file, lambda new: new.write(kept))


def events_in(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """Yields the records of an event file: the length of the event in 8 bytes, a checksum in 4, the event, a checksum in 4."""
    start = 0
    while start + 12 <= len(content):
        end = start + 16 + int.from_bytes(content[start : start + 8], "little")
        if end > len(content):
            return
        yield content[start:end], Event.FromString(content[start + 12 : end - 4])
        start = end
