"""Build the Trainer of a hardware option."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ganexp.cli.build import build, one_line
from ganexp.cli.messages import ConfigError
from ganexp.systems.base import System
from ganexp.systems.ranks import Ranks

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")  # weights stay in float32, which gradient penalties need
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MANUAL = {
    "gradient_clip_val": "gradients are clipped per network: set model.clip_g, model.clip_d",
    "gradient_clip_algorithm": "gradients are clipped by norm: set model.clip_g, model.clip_d",
    **dict.fromkeys(
        ("fast_dev_run", "limit_train_batches", "overfit_batches", "barebones", "max_time"),
        "for a short run set trainer.max_steps",
    ),
    "accumulate_grad_batches": "set model.accumulate, which splits the batch for both networks",
    "sync_batchnorm": "leave it out; on several GPUs batch norm sees the whole batch wherever torch can",
}
ALWAYS = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def make_trainer(node: dict[str, Any], arguments: dict[str, Any], allowed: Sequence[str] | None = None) -> pl.Trainer:
    """Build the node's Trainer with `arguments` added. Raises ConfigError if this machine lacks the device or precision.

    `allowed`: for a node read from a file, see build.
    """
    for key in node.keys() & (arguments.keys() | ALWAYS.keys() | MANUAL.keys()):
        raise ConfigError(
            f"hardware.{key}: {MANUAL.get(key, 'is set by ganexp itself; steps and intervals are keys of trainer')}"
        )
    if node.get("compile") not in (None, *COMPILE_MODES):
        raise ConfigError(f"hardware.compile: must be null or one of {', '.join(COMPILE_MODES)}, got {node['compile']}")
    if isinstance(devices := node.get("devices"), int) and devices < 1 and devices != -1:
        raise ConfigError(f"hardware.devices: must be at least 1, or -1 for all, got {devices}")
    node = {key: value for key, value in node.items() if key != "compile"}
    precision = node.get("precision", "32-true")
    if precision not in PRECISIONS:
        raise ConfigError(f"hardware.precision: must be one of {', '.join(PRECISIONS)}, got {precision}")
    if precision == "auto":
        node = {**node, "precision": "32-true"}  # the task does not train
    if node.get("accelerator") in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ConfigError(
            "hardware.accelerator: this machine has no GPU that torch can use (torch.cuda.is_available() is False): "
            "it lacks the card, its driver, or a torch built for it; hardware=cpu runs here"
        )
    if precision == "16-mixed" and (node.get("accelerator") == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("hardware.precision: 16-mixed needs a GPU; on the CPU choose bf16-mixed")
    if "plugins" not in node and not torch.distributed.is_torchelastic_launched():
        # Otherwise Lightning takes SLURM's variables for its processes, which sbatch sets even where srun is not used.
        arguments = {**arguments, "plugins": [LightningEnvironment()]}
    try:
        trainer: pl.Trainer = build(node, "hardware", allowed)(**arguments, **ALWAYS)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise ConfigError(f"hardware: {one_line(error)}") from error
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy, Ranks):
        name = type(trainer.strategy).__name__
        raise ConfigError(f"hardware.strategy: {name} does not support two optimizers; choose hardware=ddp")
    # Lightning makes torch ask the driver's management library whether there are GPUs, so that processes may be forked later.
    # Ours are spawned, and optimizers ask twice in every step: 0.1 ms each without a GPU.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.backends.cudnn.allow_tf32 = False  # cuDNN's default rounds float32 to 10 bits: not what penalties and metrics claim
    return trainer


def synchronize_batch_norm(system: System) -> list[str]:
    """Make batch norm use the statistics of all processes' batches, on GPUs; torch has no SyncBatchNorm on CPUs, and cannot
    differentiate it twice. Returns a note for each network that is therefore left as it is."""
    notes = []
    for name, network in system.networks().items():
        if name not in system.differentiated_twice():
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        elif any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules()):
            notes.append(
                f"model.{name}: batch norm sees only each process's part of the batch, since a penalty differentiates it twice"
            )
    return notes


def compile_networks(system: System, mode: str) -> None:
    """Compile the networks with torch.compile, at their first pass. The EMA is not compiled, and neither are passes that are
    differentiated twice. Raises ConfigError if this machine has no C++ compiler."""
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    if not any(map(shutil.which, compilers)):
        raise ConfigError("hardware.compile: torch.compile needs a C++ compiler, such as g++; hardware.compile=null runs without")
    for network in system.networks().values():
        for layer in network.modules():
            vectors = [x for name, x in layer.named_buffers() if name.endswith("._v")] if is_parametrized(layer, "weight") else []
            if any(vector.numel() < 8 for vector in vectors):
                # The next pass would overwrite so short a vector of the power iteration before this one's backward pass reads it:
                # RuntimeError, seen with up to 4 numbers in torch 2.11 and 2.14. The method is bound, so that copies have theirs.
                layer.forward = MethodType(torch.compiler.disable(type(layer).forward), layer)
        network.compile(mode=mode)
    torch.compiler.cudagraph_mark_step_begin()  # so that the system marks its steps, see mark_step


def choose_precision(node: dict[str, Any], shape: Sequence[int]) -> tuple[str, str]:
    """Returns the precision to train in for samples of this shape, and a short reason.

    `auto` is bf16-mixed for images on hardware with native bfloat16, otherwise 32-true. Points need float32: near 1, bfloat16 has
    steps of 0.008.
    """
    precision = node.get("precision", "32-true")
    if precision != "auto":
        return precision, ""
    if len(shape) != 3:
        return "32-true", "auto: for points"
    return ("bf16-mixed", "auto: native here") if has_bf16(node) else ("32-true", "auto: no native bfloat16 here")


def has_bf16(node: dict[str, Any]) -> bool:
    """Whether the node's device has native bfloat16, not emulated."""
    if torch.cuda.is_available() and node.get("accelerator") != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() and node.get("accelerator") != "cpu":
        return False
    # torch has no public function for these two.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def device(node: dict[str, Any]) -> torch.device:
    """Returns the node's first device. Raises ConfigError under torchrun: sampling and evaluation run in one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("hardware: this task runs in one process; start it without torchrun")
    return make_trainer(node, {"logger": False}).strategy.root_device
