"""The private names of Lightning that ganexp uses, all of them; pyproject.toml bounds the versions, and tests/test_internals.py
says which one broke them."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers import TensorBoardLogger


def swap_step_hooks(optimizer: LightningOptimizer, hooks: tuple[Any, Any]) -> tuple[Any, Any]:
    """Set the two functions that Lightning calls around each step of an optimizer, by which it counts the global step, and
    return those before."""
    before = optimizer._on_before_step, optimizer._on_after_step
    optimizer._on_before_step, optimizer._on_after_step = hooks
    return before


def purge_events(logger: TensorBoardLogger, step: int) -> None:
    """Let TensorBoard drop the events from `step` on, which an interrupted run has logged; before the logger's first event."""
    logger._kwargs["purge_step"] = step
