"""The base class of all systems: it generates samples and provides the parts of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ganexp.controls import Anneal, apply_anneal
from ganexp.ema import EMA
from ganexp.latents import Latent
from ganexp.scalars import Scalars
from ganexp.systems.arguments import check_named, with_path
from ganexp.systems.contexts import evaluating, mark_step
from ganexp.systems.ranks import Ranks, average, broadcast

MakeOptimizer = Callable[[Any], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]


class System(pl.LightningModule):
    """A generator with its prior and EMA. Subclasses implement the training step.

    `generator(z, y) -> x`. A generator with an intermediate latent space also has `map(z, y) -> w`, `synthesize(w) -> x` and the
    mean `w_mean`. `optimizer`: one for each key of `networks_by_optimizer`. `schedule`: of all learning rates. `anneal`: other
    annealed numbers, by log name. `classes`: number of classes the networks are conditioned on; null is unconditional.
    `ema_half_life`: images after which an old weight counts half in the EMA of the generator; null disables the EMA. If it is
    annealed, the EMA has no ramp. `width_multiplier`: factor on the channels of all networks, whose options refer to it.
    `accumulate`: number of micro-batches that a batch is split into to save memory; only what compares the samples of a batch,
    such as batch norm, sees a difference. One step is one step of the first optimizer: see `uncounted`. Raises ValueError for
    numbers out of range.
    """

    progress: ClassVar[dict[str, str]] = {}  # the progress bar: from short names to log names
    label_counts: Tensor
    d_loss: ClassVar[str | None] = None  # log name of D's loss: near 0, G gets no gradient

    def __init__(
        self,
        latent: Latent,
        generator: nn.Module,
        optimizer: Mapping[str, MakeOptimizer],
        schedule: MakeSchedule,
        classes: int | None,
        ema_half_life: float | None,
        width_multiplier: float = 1.0,
        accumulate: int = 1,
        anneal: Mapping[str, Anneal] | None = None,
    ):
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"accumulate: must be at least 1, got {accumulate}")
        if width_multiplier <= 0:
            raise ValueError(f"width_multiplier: must be above 0, got {width_multiplier}")
        if classes == 0:
            raise ValueError("classes: this model is conditional, but the data has no classes; choose another: model=dcgan")
        if ema_half_life is not None and ema_half_life <= 0:
            raise ValueError(f"ema_half_life: must be above 0, got {ema_half_life}; null disables the EMA")
        self.automatic_optimization = False
        self.latent, self.generator, self.classes = latent, generator, classes
        self.optimizer, self.schedule, self.anneal = dict(optimizer), schedule, check_named(anneal or {}, Anneal, "anneal")
        self.ema = EMA(generator, ema_half_life) if ema_half_life else None
        if self.ema is not None and any(control.key == "model.ema_half_life" for control in self.anneal.values()):
            self.ema.ramp = None
        self.accumulate, self.images_seen, self.scalars = accumulate, 0, Scalars()
        self.register_buffer("label_counts", torch.ones(classes or 1))  # of the training data, set before training

    # -- sampling ----------------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> nn.Module:
        """The network that generates samples: the EMA if there is one, else the generator."""
        return self.ema.average if self.ema is not None else self.generator

    def generate(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> Tensor:
        """z [n, dim], y [n] -> samples [n, *shape], float32, in evaluation mode; differentiable in z.

        `truncation`: moves w (or z, if the generator has no w) towards its mean; 1 has no effect, smaller values give less
        diverse samples (Karras et al. 2019, arXiv:1812.04948, appendix B).
        """
        generator: Any = self.sampler
        with evaluating(generator):
            if hasattr(generator, "synthesize"):
                w = generator.map(z, y)
                return generator.synthesize(w if truncation == 1 else generator.w_mean.lerp(w, truncation)).float()
            return generator(z * truncation, y).float()

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Returns n samples [n, *shape], float32. `y` [n]: their classes; default: `sample_labels(n)`."""
        y = self.sample_labels(n) if y is None else y.to(self.device)
        return self.generate(self.latent.sample(n, self.device), y, truncation)

    def sample_labels(self, n: int) -> Tensor:
        """Returns labels [n], distributed as in the training data; zeros for an unconditional model."""
        if self.classes is None:
            return torch.zeros(n, dtype=torch.int64, device=self.device)
        return self.label_counts.multinomial(n, replacement=True)

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        """Runs the networks once on a few samples. Raises ValueError if they do not fit the data's shape or each other."""
        generated = tuple(self.sample(2).shape[1:])
        if generated != shape:
            raise ValueError(f"the generator returns samples of shape {list(generated)}, but the data has shape {list(shape)}")

    # -- training ----------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """Returns the trained networks by log name."""
        raise NotImplementedError

    def networks_by_optimizer(self) -> dict[str, list[nn.Module]]:
        """Returns, for the name of each optimizer, the networks it updates."""
        return {name: [network] for name, network in self.networks().items()}

    def differentiated_twice(self) -> set[str]:
        """Returns the names of the networks whose passes a penalty differentiates twice."""
        return set()

    def period(self) -> int:
        """Returns the number of steps after which the work of a step repeats: some steps update G, some have lazy terms."""
        return 1

    def make_optimizers(self) -> tuple[dict[str, Optimizer], list[LRScheduler]]:
        """Returns the optimizers by name, and their schedules. Raises ValueError if one of them rejects its arguments."""
        optimizers, schedulers = {}, []
        for name, networks in self.networks_by_optimizer().items():
            try:
                optimizers[name] = self.optimizer[name]([p for n in networks for p in n.parameters() if p.requires_grad])
            except (ValueError, TypeError, RuntimeError) as error:
                raise with_path(error, f"optimizer.{name}") from error
            try:
                schedulers.append(self.schedule(optimizers[name]))
            except (ValueError, TypeError, ZeroDivisionError, AttributeError) as error:
                raise with_path(error, "schedule") from error
        self.anneal_numbers(optimizers)
        return optimizers, schedulers

    def configure_optimizers(self) -> Any:
        self.optimizers_by_name, schedulers = self.make_optimizers()
        return list(self.optimizers_by_name.values()), schedulers

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        mark_step()
        self.anneal_numbers(self.optimizers_by_name)

    def anneal_numbers(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Sets every annealed number for the current `images_seen`. Raises ValueError for a key that names no number."""
        roots = self.anneal_roots() | {"optimizer": {name: o.param_groups[0] for name, o in optimizers.items()}}
        self.scalars.numbers |= apply_anneal(self.anneal, roots, self.images_seen)

    def anneal_roots(self) -> dict[str, Any]:
        """Returns, for the first word of a config key, the object that the rest of the key is looked up in."""
        return {"model": self}

    @property
    def ema_half_life(self) -> float | None:
        return self.ema.half_life if self.ema is not None else None

    @ema_half_life.setter
    def ema_half_life(self, images: float) -> None:
        assert self.ema is not None  # else annealing it has raised ValueError
        self.ema.half_life = images

    def micro_batches(self, *batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Splits tensors [N, …] into `accumulate` micro-batches."""
        return zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True)

    def optimize(self, optimizer: Any, losses: Iterable[Tensor], clip: float | None, *names: str) -> None:
        """Takes one optimizer step on the mean of the losses.

        `losses`: one per micro-batch, computed lazily, so that one graph at a time is in memory. `clip`: maximum gradient norm;
        null disables clipping. `names`: the updated networks, whose gradient norms are logged.
        """
        optimizer.zero_grad()
        for loss in losses:
            self.manual_backward(loss / self.accumulate)
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if isinstance(self.trainer.strategy, Ranks):  # otherwise there is one rank, or DDP's wrapper averages
            average([p.grad for p in trained])
        if self.scalars.measuring:
            networks = self.networks()
            self.scalars.add({f"gradient_norm/{name}": self.gradient_norm(networks[name].parameters()) for name in names})
        if clip is not None:
            nn.utils.clip_grads_with_norm_(trained, clip, self.gradient_norm(trained))
        optimizer.step()

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Returns the L2 norm of the gradients, a scalar, without the loss scale of 16-bit training."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm / (scaler.get_scale() if scaler is not None else 1.0)

    def end_step(self, batch: int, g_interval: int = 1) -> None:
        """Ends a step: counts images, updates the EMA and the schedules, and synchronizes buffers across ranks.

        `batch`: local batch size. `g_interval`: steps since the last update of the generator; 0 if this step had none.
        """
        images = batch * self.trainer.world_size
        self.images_seen += images
        if self.ema is not None and g_interval:
            self.ema.update(self.generator, images * g_interval, self.images_seen)
        rates = {f"lr/{name}": o.param_groups[0]["lr"] for name, o in self.optimizers_by_name.items()}
        self.scalars.numbers |= rates | {"images_seen": self.images_seen}
        schedulers = self.lr_schedulers()
        for scheduler in cast(list[LRScheduler], schedulers if isinstance(schedulers, list) else [schedulers]):
            scheduler.step()
        if self.trainer.world_size > 1 and (buffers := [b for b in self.buffers() if b.is_floating_point()]):
            broadcast(buffers)  # batch-norm statistics are of the local batch
        self.scalars.end_step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
