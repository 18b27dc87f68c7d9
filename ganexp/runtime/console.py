"""Console output of a run."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from ganexp.callbacks.checkpoint import Checkpoint, find
from ganexp.callbacks.metrics import Metrics
from ganexp.cli.messages import format_message, printable
from ganexp.data.module import DataModule
from ganexp.records import read_record
from ganexp.systems.base import System

log = logging.getLogger(__name__)


def announcement(
    config: dict[str, Any], system: System, data: DataModule, trainer: pl.Trainer, precision_reason: str, run_dir: Path
) -> str:
    """Returns the description printed before training. `precision_reason`: why the trainer has its precision, or empty."""
    sizes = {name: f"{count(network):,}" for name, network in system.networks().items()}
    model = config["model"]
    nodes = [model.get("loss"), *model.get("regularizers", {}).values(), *model.get("augment", {}).values()]
    parts = [type(system).__name__, *[node["_target_"].rpartition(".")[2] for node in nodes if node]]
    kind = "images" if len(data.shape) == 3 else "points"
    root = trainer.strategy.root_device
    device = torch.cuda.get_device_name(root) if root.type == "cuda" else root.type
    processes = f"{trainer.world_size} × " if trainer.world_size > 1 else ""
    precision = f"{trainer.precision} ({precision_reason})" if precision_reason else trainer.precision
    rows = {
        "model": f"{config['name']}: " + ", ".join(f"{name} {size} parameters" for name, size in sizes.items()),
        "game": " + ".join(parts),
        "data": f"{type(data).__name__}, {len(data.x):,} {kind} {'×'.join(map(str, data.shape))}",
        "steps": f"{trainer.max_steps:,} of {data.batch_size} {kind}",
        "device": f"{processes}{device}, {precision}, {torch.get_num_threads()} threads",
        "run folder": display_path(run_dir),
    }
    return "\n".join(f"  {key:<11} {printable(value)}" for key, value in rows.items())


def final_summary(trainer: pl.Trainer, run_dir: Path) -> str:
    """Returns the text printed after training: final metrics, and where the results are."""
    checkpoint = find(trainer.callbacks, Checkpoint)  # type: ignore[attr-defined]
    pictures = sorted((run_dir / "samples").glob("*.png"))
    rows = {"run folder": display_path(run_dir)}
    if trainer.global_step < trainer.max_steps:
        rows["stopped"] = (
            f"at step {trainer.global_step:,}; to continue: python -m ganexp task=resume run={display_path(run_dir)}"
        )
    if checkpoint:
        own = checkpoint.folder == run_dir / "checkpoints"
        rows["sampling"] = f"python -m ganexp task=sample run={display_path(run_dir if own else checkpoint.folder / 'last.ckpt')}"
    if checkpoint and checkpoint.best:
        rows["best.ckpt"] = "of step {step:,}, by {metric}".format(**checkpoint.best)
    metrics = find(trainer.callbacks, Metrics)  # type: ignore[attr-defined]
    for name, value in (metrics.summary() if metrics else {}).items():
        best = f"best {value['best']:.4g}, " if "best" in value else ""
        rows[name] = f"{best}last {value['last']:.4g}, mean of the last five {value['mean_of_last_5']:.4g}"
    for i, sentence in enumerate(read_record(run_dir).get("standings", [])):
        rows["compared" if i == 0 else " " * i] = sentence
    if pictures:
        rows["samples"] = display_path(pictures[-1])
    if (run_dir / "training.gif").is_file():
        rows["animation"] = display_path(run_dir / "training.gif")
    if (run_dir / "report.html").is_file():
        rows["report"] = display_path(run_dir / "report.html")
    if list(run_dir.glob("events.out.tfevents.*")):
        rows["TensorBoard"] = f"tensorboard --logdir {display_path(run_dir)}"
    width = max(map(len, rows))
    return "\n".join(f"  {key:<{width}} {printable(value)}" for key, value in rows.items())


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def display_path(path: Path) -> str:
    """Returns the path relative to the current folder if it is below it, otherwise as it is."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format a table: the first column left-aligned, the others right-aligned."""
    header, *rows = [[printable(cell, 200) for cell in row] for row in (header, *rows)]  # names from files are among them
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in (header, *rows)]  # fmt: skip
    return "\n".join("  " + "  ".join(line).rstrip() for line in lines)


def on_thread_error(args: threading.ExceptHookArgs) -> None:
    """Replace the traceback of a thread by one line. TensorBoard's writer raises its error again at the next logged value."""
    if isinstance(args.exc_value, OSError):
        log.warning("TensorBoard: cannot write events: %s", args.exc_value)
    elif args.exc_value is not None:
        thread = type(args.thread).__name__ if args.thread else "a thread"
        log.warning("%s has failed: %s", thread, format_message(args.exc_value))
        log.debug("its traceback", exc_info=args.exc_value)


def quiet() -> None:
    """Silence Lightning's warnings that do not apply: data is in memory, the loop has no epochs, the progress bar is our own."""
    threading.excepthook = on_thread_error
    for library in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*`IterableDataset` has `__len__` defined.*",
        ".*is not a `DataLoader`.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*hyperparameters.*",
        ".*Experiment logs directory.*",
        ".*find_unused_parameters=True was specified.*",
        ".*LeafSpec.*",
        ".*`broadcast_buffers` is deprecated.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", text)
