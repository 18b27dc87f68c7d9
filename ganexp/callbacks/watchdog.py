"""Detect failed training, and warn, stop or roll back."""

from __future__ import annotations

import logging
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from ganexp.callbacks.checkpoint import Checkpoint, find
from ganexp.callbacks.metrics import Metrics
from ganexp.cli.messages import Diverged
from ganexp.evaluation import Evaluation, samples_of
from ganexp.metrics.metric import FeatureMetric
from ganexp.systems.base import System

log = logging.getLogger(__name__)
Action = Literal["warn", "stop", "rollback"]


class Watchdog(pl.Callback):
    """Checks for NaN and Inf at every step, and for three slower failures every `every` steps.

    The action for each failure is `warn`, `stop`, `rollback` (continue from the last checkpoint before the failure, with all
    learning rates multiplied by `lr_factor`; stop after `max_rollbacks`), or null for no check:
    `on_nan`: losses, gradients (if their norms are logged) or weights are not finite. No checkpoint of such weights is written.
    Detected at the same step on one CPU, otherwise within `every` steps.
    `on_saturation`: D's loss without its terms, smoothed over about 50 steps, is between 0 and `saturation`, so G learns nothing.
    (A Wasserstein critic's loss is negative.)
    `on_collapse`: `diversity`, of 64 samples, is below `collapse`.
    `on_rebound`: the metric that picks best.ckpt is `rebound` times worse than its best. No measurement counts twice.
    The last three count after `patience` checks in a row. Raises ValueError for invalid numbers, Diverged if the run must stop or
    roll back.
    """

    def __init__(
        self,
        diversity: FeatureMetric,
        every: int = 500,
        on_nan: Action | None = "stop",
        on_saturation: Action | None = "warn",
        on_collapse: Action | None = "warn",
        on_rebound: Action | None = "warn",
        saturation: float = 0.01,
        collapse: float = 0.1,
        rebound: float = 3.0,
        patience: int = 3,
        lr_factor: float = 0.5,
        max_rollbacks: int = 3,
    ):
        for name, value in (("every", every), ("patience", patience), ("max_rollbacks", max_rollbacks)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        if not 0 < lr_factor <= 1:
            raise ValueError(f"lr_factor: must be above 0 and at most 1, got {lr_factor}")
        if rebound <= 1:
            raise ValueError(f"rebound: must be above 1, got {rebound}")
        self.every, self.patience, self.lr_factor, self.max_rollbacks = every, patience, lr_factor, max_rollbacks
        self.on_nan = on_nan
        self.actions = {"saturation": on_saturation, "collapse": on_collapse, "rebound": on_rebound}
        self.saturation, self.collapse, self.rebound = saturation, collapse, rebound
        self.counts = dict.fromkeys(self.actions, 0)  # positive checks in a row
        self.last_good = dict.fromkeys(["nan", *self.actions], 0)  # the last step without the failure
        self.smoothed: Tensor | None = None  # D's loss
        self.measured = 0  # the step of the last measurement that was checked for a rebound
        self.nan_since: Tensor | None = None  # the first step with NaN or Inf; 0 for none
        self.diversity = diversity
        self.evaluation: Evaluation | None = None
        self.lowered, self.rollbacks = 0, 0  # rollbacks for which the learning rates are lowered already; all rollbacks
        self.warned: list[str] = []
        self.remarks: list[dict[str, Any]] = []  # step and message of every warning, for run.json

    # -- every step --------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if self.on_nan is not None and system.scalars.recent[-1]:
            self.check_finite(trainer, system, step)
        if (loss := adversarial_loss(system)) is not None:
            self.smoothed = loss.clone() if self.smoothed is None else self.smoothed.to(loss.device).lerp_(loss, 0.02)
        if step % self.every == 0:
            self.check_failures(trainer, system, step)

    def check_finite(self, trainer: pl.Trainer, system: System, step: int) -> None:
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None  # GradScaler skips gradients that overflow
        scalars = {n: v for n, v in system.scalars.recent[-1].items() if not (scaled and n.startswith("gradient_norm/"))}
        bad = ~torch.stack([value.float() for value in scalars.values()]).isfinite().all()
        if self.nan_since is None:
            self.nan_since = torch.zeros((), dtype=torch.int64, device=bad.device)
        self.nan_since = torch.where((self.nan_since == 0) & bad, step, self.nan_since)
        at_once = system.device.type == "cpu" and trainer.world_size == 1  # elsewhere reading the value would synchronize
        if not ((at_once and self.nan_since) or step % self.every == 0):
            return
        since = int(trainer.strategy.reduce(self.nan_since, reduce_op="max"))
        found = [*scalars_not_finite(scalars, system.d_loss), *weights_not_finite(system)]
        if since or found:
            self.last_good["nan"] = (since or step) - 1
            self.act(self.on_nan, trainer, "nan", "; ".join(found) or "a loss is not finite", since or step)
            self.nan_since.zero_()

    def on_save_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        if self.on_nan in ("stop", "rollback") and (weights := weights_not_finite(system)):
            self.last_good["nan"] = trainer.global_step - 1
            self.act(self.on_nan, trainer, "nan", "; ".join(weights), trainer.global_step)

    # -- slower failures ---------------------------------------------------------------------------------------------

    def check_failures(self, trainer: pl.Trainer, system: System, step: int) -> None:
        checks = {"saturation": self.is_saturated(trainer), "collapse": self.is_collapsed(trainer, system)}
        metrics = find(trainer.callbacks, Metrics)  # type: ignore[attr-defined]
        if metrics is not None and metrics.history and metrics.history[-1][0] != self.measured:
            self.measured = metrics.history[-1][0]
            checks["rebound"] = self.has_rebounded(trainer, metrics)
        for failure, (found, message) in checks.items():
            self.counts[failure] = self.counts[failure] + 1 if found else 0
            if not found:
                self.last_good[failure] = step
                self.warned = [warned for warned in self.warned if warned != failure]
            elif self.counts[failure] >= self.patience:
                self.act(self.actions[failure], trainer, failure, message, step)

    def is_saturated(self, trainer: pl.Trainer) -> tuple[bool, str]:
        if self.smoothed is None or self.actions["saturation"] is None:
            return False, ""
        loss = float(trainer.strategy.reduce(self.smoothed.clone(), reduce_op="mean"))
        return 0 <= loss <= self.saturation, f"D's loss is saturated at {loss:.2g}: G learns nothing"

    def is_collapsed(self, trainer: pl.Trainer, system: System) -> tuple[bool, str]:
        if self.actions["collapse"] is None:
            return False, ""
        if self.evaluation is None:
            self.evaluation = Evaluation([self.diversity], trainer.datamodule, 64, bool(system.classes))  # type: ignore[attr-defined]
            self.evaluation.setup()
        values, _ = self.evaluation.measure(samples_of(system), system.device, trainer.global_rank, trainer.world_size)
        if not values:  # all real samples are equal, or the generated ones not finite
            return False, ""
        (ratio,) = values.values()
        return ratio < self.collapse, f"mode collapse: distances between samples are {ratio:.2g} times those of real samples"

    def has_rebounded(self, trainer: pl.Trainer, metrics: Metrics) -> tuple[bool, str]:
        checkpoint = find(trainer.callbacks, Checkpoint)  # type: ignore[attr-defined]
        if self.actions["rebound"] is None or checkpoint is None or not checkpoint.best:
            return False, ""
        name, best, now = checkpoint.best["metric"], checkpoint.best["value"], metrics.history[-1][1]
        if name not in now:
            return False, ""
        (metric,) = [m for m in metrics.metrics if str(m.name) == name]
        worse = now[name] * self.rebound < best if metric.higher_is_better else now[name] > best * self.rebound
        if worse:
            self.last_good["rebound"] = checkpoint.best["step"]
        return best > 0 and worse, f"{name} is {now[name]:.4g}, after {best:.4g} at step {checkpoint.best['step']:,}"

    # -- actions -----------------------------------------------------------------------------------------------------

    def act(self, action: Action | None, trainer: pl.Trainer, failure: str, message: str, step: int) -> None:
        """Warn once until the failure is gone, or raise Diverged."""
        if action in ("stop", "rollback"):
            rollback = action == "rollback" and self.rollbacks < self.max_rollbacks
            raise Diverged(f"step {step:,}: {message}", self.last_good[failure], rollback)
        if action == "warn" and failure not in self.warned:
            self.warned.append(failure)
            self.remarks.append({"step": step, "message": message})
            if trainer.is_global_zero:
                log.warning("watchdog: step %s: %s", f"{step:,}", message)

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        factor = self.lr_factor ** (self.rollbacks - self.lowered)
        self.lowered = self.rollbacks
        for config in trainer.lr_scheduler_configs:  # schedulers compute from base_lrs or from the current rates
            config.scheduler.base_lrs = [rate * factor for rate in config.scheduler.base_lrs]
        for group in [group for optimizer in trainer.optimizers for group in optimizer.param_groups]:
            group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        smoothed = None if self.smoothed is None else float(self.smoothed)
        counted = {"seen": self.counts, "good": self.last_good, "smoothed": smoothed, "measured": self.measured}
        return counted | {"lowered": self.lowered, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts, self.last_good = dict(state_dict["seen"]), dict(state_dict["good"])
        self.measured = state_dict.get("measured", 0)
        self.lowered, self.warned = state_dict["lowered"], list(state_dict["warned"])
        self.smoothed = None if state_dict["smoothed"] is None else torch.tensor(state_dict["smoothed"])


def adversarial_loss(system: Any) -> Tensor | None:
    """Returns D's loss of the last step without its terms, which stay above 0 when G gets no gradient any more."""
    scalars, prefix, terms = system.scalars.recent[-1], f"{system.d_loss}/", getattr(system, "terms", {})
    parts = [x for name, x in scalars.items() if name.startswith(prefix) and name.removeprefix(prefix) not in terms]
    return torch.stack(parts).sum() if parts else scalars.get(system.d_loss)


def scalars_not_finite(scalars: dict[str, Tensor], total: str | None) -> list[str]:
    """Describe the first three scalars with NaN or Inf, terms of losses first; leave out their `total`."""
    bad = [name for name, value in scalars.items() if not value.isfinite() and name != total]
    bad.sort(key=lambda name: (not name.startswith(("loss/", "gradient_norm/")), name))
    return [f"{name} is {scalars[name].item()}" for name in bad[:3]]


def weights_not_finite(system: System) -> list[str]:
    """Describe the first weight with NaN or Inf, if there is one."""
    named = [(name, p) for name, p in system.named_parameters() if p.is_floating_point()]
    finite = torch.stack([p.detach().isfinite().all() for _, p in named])
    if finite.all():
        return []
    name, weight = named[int((~finite).nonzero()[0])]
    return [f"the weights {name} are {'nan' if weight.isnan().any() else 'inf'}"]
