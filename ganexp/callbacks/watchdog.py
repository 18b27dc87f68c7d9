"""See that a game has gone wrong, and say so, stop, or go back."""

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
    """Looks at every step for NaN and Inf, and at every `every`-th for three slower signs that a game has gone wrong.

    What to do about each is `warn`, `stop`, `rollback` (go on from the last checkpoint before the sign, with all learning rates
    times `lr_factor`; after `max_rollbacks` of these, stop), or null, not to look:
    `on_nan`: losses, gradients (where their norms are logged) or weights that are not finite. No checkpoint is written of such
    weights. On one CPU this is seen at the very step, elsewhere within `every` steps.
    `on_saturation`: D's loss, smoothed over about 50 steps, lies between 0 and `saturation`: G is learning nothing. (The loss of
    a Wasserstein critic is below.)
    `on_collapse`: `diversity`, of 64 samples, is below `collapse`.
    `on_rebound`: the metric that picks best.ckpt has become `rebound` times worse than its best.
    The last three are signs when seen `patience` looks in a row. Raises ValueError for numbers that make no sense; Diverged for a
    run that ends or goes back.
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
                raise ValueError(f"{name}: at least 1, not {value}")
        if not 0 < lr_factor <= 1:
            raise ValueError(f"lr_factor: a factor above 0, at most 1, not {lr_factor}")
        if rebound <= 1:
            raise ValueError(f"rebound: a factor above 1, not {rebound}")
        self.every, self.patience, self.lr_factor, self.max_rollbacks = every, patience, lr_factor, max_rollbacks
        self.on_nan = on_nan
        self.actions = {"saturation": on_saturation, "collapse": on_collapse, "rebound": on_rebound}
        self.saturation, self.collapse, self.rebound = saturation, collapse, rebound
        self.seen = dict.fromkeys(self.actions, 0)  # looks in a row
        self.good = dict.fromkeys(["nan", *self.actions], 0)  # the last step without the sign
        self.smoothed: Tensor | None = None  # D's loss
        self.nan_since: Tensor | None = None  # the first step with one; 0 for none
        self.diversity = diversity
        self.evaluation: Evaluation | None = None
        self.lowered, self.rollbacks = 0, 0  # how often the learning rates were lowered, and are to be
        self.warned: list[str] = []

    # -- every step --------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if self.on_nan is not None and system.scalars.recent[-1]:
            self.notice_nan(trainer, system, step)
        if (loss := system.scalars.recent[-1].get(system.d_loss)) is not None:
            self.smoothed = loss.clone() if self.smoothed is None else self.smoothed.to(loss.device).lerp_(loss, 0.02)
        if step % self.every == 0:
            self.look(trainer, system, step)

    def notice_nan(self, trainer: pl.Trainer, system: System, step: int) -> None:
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None  # then a gradient that overflows is skipped
        noted = {n: v for n, v in system.scalars.recent[-1].items() if not (scaled and n.startswith("gradient_norm/"))}
        bad = ~torch.stack([value.float() for value in noted.values()]).isfinite().all()
        if self.nan_since is None:
            self.nan_since = torch.zeros((), dtype=torch.int64, device=bad.device)
        self.nan_since = torch.where((self.nan_since == 0) & bad, step, self.nan_since)
        at_once = system.device.type == "cpu" and trainer.world_size == 1  # elsewhere that would wait for the device
        if not ((at_once and self.nan_since) or step % self.every == 0):
            return
        since = int(trainer.strategy.reduce(self.nan_since, reduce_op="max"))
        found = [*scalars_not_finite(noted, system.d_loss), *weights_not_finite(system)]
        if since or found:
            self.good["nan"] = (since or step) - 1
            self.act(self.on_nan, trainer, "nan", "; ".join(found) or "a loss is not finite", since or step)
            self.nan_since.zero_()

    def on_save_checkpoint(self, trainer: pl.Trainer, system: Any, checkpoint: dict[str, Any]) -> None:
        if self.on_nan in ("stop", "rollback") and (weights := weights_not_finite(system)):
            self.good["nan"] = trainer.global_step - 1
            self.act(self.on_nan, trainer, "nan", "; ".join(weights), trainer.global_step)

    # -- slower signs ------------------------------------------------------------------------------------------------

    def look(self, trainer: pl.Trainer, system: System, step: int) -> None:
        for sign, (there, said) in {
            "saturation": self.is_saturated(trainer),
            "collapse": self.is_collapsed(trainer, system),
            "rebound": self.has_rebounded(trainer),
        }.items():
            self.seen[sign] = self.seen[sign] + 1 if there else 0
            if not there:
                self.good[sign] = step
                self.warned = [warned for warned in self.warned if warned != sign]
            elif self.seen[sign] >= self.patience:
                self.act(self.actions[sign], trainer, sign, said, step)

    def is_saturated(self, trainer: pl.Trainer) -> tuple[bool, str]:
        if self.smoothed is None or self.actions["saturation"] is None:
            return False, ""
        loss = float(trainer.strategy.reduce(self.smoothed.clone(), reduce_op="mean"))
        return 0 <= loss <= self.saturation, f"D has won, its loss is {loss:.2g}: G learns nothing from it"

    def is_collapsed(self, trainer: pl.Trainer, system: System) -> tuple[bool, str]:
        if self.actions["collapse"] is None:
            return False, ""
        if self.evaluation is None:
            self.evaluation = Evaluation([self.diversity], trainer.datamodule, 64, bool(system.classes))  # type: ignore[attr-defined]
            self.evaluation.setup()
        values, _ = self.evaluation.measure(samples_of(system), system.device, trainer.global_rank, trainer.world_size)
        if not values:  # the real ones are all alike, or the samples not finite
            return False, ""
        (ratio,) = values.values()
        return ratio < self.collapse, f"the samples have collapsed, their distances are {ratio:.2g} of the real ones'"

    def has_rebounded(self, trainer: pl.Trainer) -> tuple[bool, str]:
        checkpoint = find(trainer.callbacks, Checkpoint)  # type: ignore[attr-defined]
        metrics = find(trainer.callbacks, Metrics)  # type: ignore[attr-defined]
        if self.actions["rebound"] is None or checkpoint is None or metrics is None or not checkpoint.best:
            return False, ""
        name, best, now = checkpoint.best["metric"], checkpoint.best["value"], metrics.history[-1][1]
        if name not in now:
            return False, ""
        (metric,) = [m for m in metrics.metrics if str(m.name) == name]
        worse = now[name] * self.rebound < best if metric.higher_is_better else now[name] > best * self.rebound
        if worse:
            self.good["rebound"] = checkpoint.best["step"]
        return best > 0 and worse, f"{name} is {now[name]:.4g}, after {best:.4g} at step {checkpoint.best['step']:,}"

    # -- what follows ------------------------------------------------------------------------------------------------

    def act(self, action: Action | None, trainer: pl.Trainer, sign: str, said: str, step: int) -> None:
        """Warn once, until the sign is gone; or raise Diverged."""
        if action in ("stop", "rollback"):
            raise Diverged(
                f"step {step:,}: {said}", self.good[sign], action == "rollback" and self.rollbacks < self.max_rollbacks
            )
        if action == "warn" and sign not in self.warned:
            self.warned.append(sign)
            if trainer.is_global_zero:
                log.warning("watchdog: step %s: %s", f"{step:,}", said)

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        factor = self.lr_factor ** (self.rollbacks - self.lowered)
        self.lowered = self.rollbacks
        for config in trainer.lr_scheduler_configs:  # each computes its rates from these, or from the last ones
            config.scheduler.base_lrs = [rate * factor for rate in config.scheduler.base_lrs]
        for group in [group for optimizer in trainer.optimizers for group in optimizer.param_groups]:
            group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        smoothed = None if self.smoothed is None else float(self.smoothed)
        return {"seen": self.seen, "good": self.good, "smoothed": smoothed, "lowered": self.lowered, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.good = dict(state_dict["seen"]), dict(state_dict["good"])
        self.lowered, self.warned = state_dict["lowered"], list(state_dict["warned"])
        self.smoothed = None if state_dict["smoothed"] is None else torch.tensor(state_dict["smoothed"])


def scalars_not_finite(scalars: dict[str, Tensor], total: str | None) -> list[str]:
    """The first three with NaN or Inf, in words: terms of losses before what follows from them, such as their `total`."""
    bad = [name for name, value in scalars.items() if not value.isfinite() and name != total]
    bad.sort(key=lambda name: (not name.startswith(("loss/", "gradient_norm/")), name))
    return [f"{name} is {scalars[name].item()}" for name in bad[:3]]


def weights_not_finite(system: System) -> list[str]:
    """The first weight with NaN or Inf in it, said, if there is one."""
    named = [(name, p) for name, p in system.named_parameters() if p.is_floating_point()]
    finite = torch.stack([p.detach().isfinite().all() for _, p in named])
    if finite.all():
        return []
    name, weight = named[int((~finite).nonzero()[0])]
    return [f"the weights {name} are {'nan' if weight.isnan().any() else 'inf'}"]
