"""The Trainer that a hardware option asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ganexp.cli.build import build, one_line
from ganexp.cli.messages import ConfigError
from ganexp.systems.ranks import Ranks

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # the weights stay in float32: penalties need it
MANUAL = {
    "gradient_clip_val": "each network has its own: model.clip_g, model.clip_d",
    "gradient_clip_algorithm": "by norm, model.clip_g and model.clip_d",
    **dict.fromkeys(
        ("fast_dev_run", "limit_train_batches", "overfit_batches", "barebones", "max_time"),
        "for a short run set trainer.max_steps",
    ),
    "accumulate_grad_batches": "both networks go through a batch in parts with model.accumulate",
}
ALWAYS = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def make_trainer(node: dict[str, Any], arguments: dict[str, Any], allowed: Sequence[str] | None = None) -> pl.Trainer:
    """The node's Trainer, with our arguments added. Raises ConfigError for a device or a precision that this machine lacks.

    `allowed`: for a node read from a file, see build.
    """
    for key in node.keys() & (arguments.keys() | ALWAYS.keys() | MANUAL.keys()):
        raise ConfigError(f"hardware.{key}: {MANUAL.get(key, 'is set by ganexp itself: steps and cadences are keys of trainer')}")
    precision = node.get("precision", "32-true")
    if precision not in PRECISIONS:
        raise ConfigError(f"hardware.precision: {precision}; choose one of {', '.join(PRECISIONS)}")
    if node.get("accelerator") in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ConfigError(
            "hardware.accelerator: this machine has no GPU that torch can use (torch.cuda.is_available() is False): "
            "it lacks the card, its driver, or a torch built for it; hardware=cpu runs here"
        )
    if precision == "16-mixed" and (node.get("accelerator") == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("hardware.precision: 16-mixed needs a GPU; on the CPU choose bf16-mixed")
    try:
        # Batch norm on GPUs sees the whole batch, however many share it; on CPUs torch cannot.
        on_gpu = torch.cuda.is_available() and node.get("accelerator") != "cpu"
        trainer: pl.Trainer = build(node, "hardware", allowed)(**arguments, **ALWAYS, sync_batchnorm=on_gpu)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(f"hardware: {one_line(error)}") from error
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy, Ranks):
        name = type(trainer.strategy).__name__
        raise ConfigError(f"hardware.strategy: {name} is not for two networks that learn in turn; choose hardware=ddp")
    if not torch.cuda.is_available():
        # Lightning has torch look for a GPU in its driver's library, which every optimizer step asks for: 0.1 ms twice a step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return trainer


def device(node: dict[str, Any]) -> torch.device:
    """The first device the node asks for. Raises ConfigError under torchrun: drawing and measuring take one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("hardware: this task runs in one process; start it without torchrun")
    return make_trainer(node, {"logger": False}).strategy.root_device
