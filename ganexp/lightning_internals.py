"""All private names of Lightning that ganexp uses. pyproject.toml bounds the versions; tests/test_internals.py names the version
that breaks them."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers import TensorBoardLogger


def swap_step_hooks(optimizer: LightningOptimizer, hooks: tuple[Any, Any]) -> tuple[Any, Any]:
    """Set the two hooks that Lightning calls around each optimizer step to count the global step. Returns the previous ones."""
    before = optimizer._on_before_step, optimizer._on_after_step
    optimizer._on_before_step, optimizer._on_after_step = hooks
    return before


def purge_events(logger: TensorBoardLogger, step: int) -> None:
    """Make TensorBoard drop an interrupted run's events from `step` on. Call before the logger's first event."""
    logger._kwargs["purge_step"] = step
