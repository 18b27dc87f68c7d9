"""What every system is: something that trains by steps, logs scalars, and draws samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ganexp.ema import EMA
from ganexp.systems.ranks import Ranks, average, share


class Latent(Protocol):
    """A prior over z."""

    dim: int

    def sample(self, n: int, device: torch.device) -> Tensor: ...


CHUNK = 256  # samples drawn at a time where many are asked for


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, no parameter of `network` collects a gradient. Put it around the forward, not only the backward."""
    learning = [p for p in network.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, `network` is in eval mode and nothing is differentiated; every module's own mode is restored."""
    with in_eval_mode(network), torch.no_grad():
        yield


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Inside, `network` is in eval mode; every module's own mode is restored."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's random numbers are those of `seed`; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class System(pl.LightningModule):
    """A generator, its prior and its average; subclasses add how it learns.

    `classes`: number of classes the networks are conditioned on; null is unconditional. Raises ValueError for 0.
    `ema_half_life`: images after which an old weight of the averaged generator counts half; null keeps no average.
    `width`: factor on the channels of all networks, whose options refer to it. `accumulate`: parts in which a batch is gone
    through, one after another, for less memory; the update is that of the whole batch (batch norm apart, which sees the parts).
    One optimizer step is one global step: see `uncounted`.
    """

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        classes: int | None,
        ema_half_life: float | None,
        width: float = 1.0,
        accumulate: int = 1,
    ):
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"accumulate: at least 1 part, not {accumulate}")
        if width <= 0:
            raise ValueError(f"width: a factor above 0, not {width}")
        if classes == 0:
            raise ValueError(
                "classes: this model is conditional, and the data has no classes; set data.classes, or choose model=dcgan"
            )
        if ema_half_life is not None and ema_half_life <= 0:
            raise ValueError(f"ema_half_life: a number of images, or null for no average, not {ema_half_life}")
        self.automatic_optimization = False
        self.latent, self.generator, self.classes = latent, generator, classes
        self.ema = EMA(generator, ema_half_life) if ema_half_life else None
        self.accumulate, self.images_seen = accumulate, 0
        self.rates: dict[str, float] = {}  # the learning rates of the last step
        self.scalars: dict[str, Tensor] = {}  # of the last step, under their names in the log; not yet reduced over ranks
        self.noted: dict[str, list[Tensor]] = {}  # those of this step alone, one for each part of the batch and each update
        self.recent: deque[dict[str, Tensor]] = deque(maxlen=1)  # those of the last steps, of which the log holds the mean
        self.measuring = False  # whether this step's scalars are logged: gradient norms cost a pass over all weights

    # -- sampling ----------------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> nn.Module:
        """The generator that draws samples: the average where there is one."""
        return self.ema.average if self.ema is not None else self.generator

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """n samples [n, *shape], float32. `y` [n] asks for classes; without it a conditional model draws them evenly."""
        y = self.draw_labels(n) if y is None else y.to(self.device)
        return self.generate(self.latent.sample(n, self.device), y, truncation)

    def generate(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> Tensor:
        """x [N, *shape], float32, of latents z [N, dim] times `truncation` and labels y [N]; differentiable."""
        with in_eval_mode(self.sampler):
            return self.sampler(z * truncation, y).float()

    def draw_labels(self, n: int) -> Tensor:
        """Labels [n], uniform over the classes; zeros for an unconditional model."""
        return torch.randint(self.classes or 1, (n,), device=self.device)

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        """Run the networks once on two samples. Raises ValueError where they do not fit the data's shape or each other."""
        drawn = tuple(self.sample(2).shape[1:])
        if drawn != shape:
            raise ValueError(f"the generator draws samples of shape {list(drawn)}, the data's is {list(shape)}")

    # -- learning ----------------------------------------------------------------------------------------------------

    @staticmethod
    @contextmanager
    def uncounted(optimizer: Any) -> Iterator[None]:
        """Inside, steps of `optimizer` stay out of Lightning's global step, which counts every optimizer's.

        Lightning hangs its counters on these two hooks (no public way: a test reads the event file).
        """
        hooks = optimizer._on_before_step, optimizer._on_after_step
        optimizer._on_before_step = optimizer._on_after_step = lambda: None
        try:
            yield
        finally:
            optimizer._on_before_step, optimizer._on_after_step = hooks

    def networks(self) -> dict[str, nn.Module]:
        """The networks that learn, by the name their optimizer has in the log."""
        raise NotImplementedError

    def parts(self, *batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The `accumulate` parts of some tensors [N, …]."""
        return zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True)

    def descend(self, optimizer: Any, losses: Iterable[Tensor], clip: float | None, *names: str) -> None:
        """One update down the mean of the losses, of the networks of these names.

        `losses`: one for each part of the batch, each made when the one before has been differentiated. `clip`: the greatest
        norm that the gradient may have; null clips nothing.
        """
        optimizer.zero_grad()
        for loss in losses:
            self.manual_backward(loss / self.accumulate)
        learning = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if isinstance(self.trainer.strategy, Ranks):  # else there is one rank, or DDP's wrapper has averaged them
            average([p.grad for p in learning])
        if self.measuring:
            networks = self.networks()
            self.note({f"gradient_norm/{name}": self.gradient_norm(networks[name].parameters()) for name in names})
        if clip is not None:
            nn.utils.clip_grads_with_norm_(learning, clip, self.gradient_norm(learning))
        optimizer.step()

    def count_step(self, batch: int, of_g: int = 1) -> None:
        """What ends every step, before callbacks look at it: images seen, average, schedules, one state on all ranks, the log.

        `batch`: this rank's images. `of_g`: steps since G last learned; 0 where it did not.
        """
        images = batch * self.trainer.world_size
        self.images_seen += images
        if self.ema is not None and of_g:
            self.ema.update(self.generator, images * of_g, self.images_seen)
        # One optimizer for all networks has the first one's name.
        self.rates = {n: o.param_groups[0]["lr"] for n, o in zip(self.networks(), self.trainer.optimizers, strict=False)}
        schedulers = self.lr_schedulers()
        for scheduler in cast(list[LRScheduler], schedulers if isinstance(schedulers, list) else [schedulers]):
            scheduler.step()
        if self.trainer.world_size > 1 and (buffers := [b for b in self.buffers() if b.is_floating_point()]):
            share(buffers)  # batch-norm statistics: each rank has seen only its own part of the batch
        noted = {name: values[0] if len(values) == 1 else torch.stack(values).mean() for name, values in self.noted.items()}
        self.scalars |= noted
        self.recent.append(noted)
        self.noted = {}
        if self.due(self.log_every, self.global_step):
            self.write_scalars()

    def note(self, scalars: dict[str, Tensor]) -> None:
        """For the log, which shows the mean of what a step notes under a name."""
        for name, value in scalars.items():
            self.noted.setdefault(name, []).append(value.detach())

    @property
    def log_every(self) -> int:
        return self.trainer.log_every_n_steps  # type: ignore[attr-defined]

    def due(self, every: int, step: int) -> bool:
        """Whether `step` is the first, the last or a multiple of `every`."""
        return step == 1 or step % every == 0 or step == self.trainer.max_steps

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """L2 norm of the gradients, without the loss scale of 16-bit training: a scalar."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm / (scaler.get_scale() if scaler is not None else 1.0)

    def write_scalars(self) -> None:
        """The scalars of the `recent` steps, means over steps and ranks, to every logger, at the global step."""
        names = sorted(self.scalars)
        of_late = {name: [s[name].float() for s in self.recent if name in s] for name in names}
        means = [torch.stack(of_late[name] or [self.scalars[name].float()]).mean() for name in names]
        values = self.trainer.strategy.reduce(torch.stack(means), reduce_op="mean")
        scalars = dict(zip(names, values.tolist(), strict=True)) | {"images_seen": self.images_seen}
        scalars |= {f"lr/{name}": rate for name, rate in self.rates.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars, step=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]

    def remember(self) -> list[dict[str, float]]:
        """This rank's scalars, the last step's behind those of the recent steps: plain values."""
        return [{name: value.item() for name, value in scalars.items()} for scalars in [*self.recent, self.scalars]]

    def recall(self, scalars: list[dict[str, float]]) -> None:
        """What `remember` gave."""
        *recent, self.scalars = [{name: torch.tensor(v, device=self.device) for name, v in s.items()} for s in scalars]
        self.recent.extend(recent)


def checked_clip(norm: float | None, name: str) -> float | None:
    if norm is not None and norm <= 0:
        raise ValueError(f"{name}: a norm above 0, or null to clip nothing, not {norm}")
    return norm


MakeOptimizer = Callable[[Any], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]
