"""What every system is: something that trains by steps and generates samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ganexp.controls import Anneal, apply
from ganexp.ema import EMA
from ganexp.latents import Latent
from ganexp.scalars import Scalars
from ganexp.systems.arguments import checked, located
from ganexp.systems.contexts import evaluating
from ganexp.systems.ranks import Ranks, average, broadcast

MakeOptimizer = Callable[[Any], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]


class System(pl.LightningModule):
    """A generator, its prior and its average; subclasses add how it learns.

    `generator(z, y) -> x`; one with a second latent space also has `map(z, y) -> w`, `synthesize(w) -> x` and the mean `w_mean`.
    `optimizer`: by the names of `learners`. `schedule`: of all learning rates. `anneal`: other numbers that change, by their name
    in the log. `classes`: number of classes the networks are conditioned on; null is unconditional. `ema_half_life`: images after
    which an old weight of the averaged generator counts half; null keeps no average. `width_multiplier`: factor on the channels
    of all networks, whose options refer to it. `accumulate`: parts in which a batch is processed, one after another, to save
    memory; the update is that of the whole batch, except that batch norm sees the parts. Raises ValueError for numbers out of
    range. One step is one optimizer step of the first learner: see `uncounted`.
    """

    progress: ClassVar[dict[str, str]] = {}  # what the progress bar shows: a short name, and the scalar's name in the log
    label_counts: Tensor
    vanishing: ClassVar[str | None] = None  # the loss near 0 of which the generator learns nothing

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
            raise ValueError(f"accumulate: at least 1 part, not {accumulate}")
        if width_multiplier <= 0:
            raise ValueError(f"width_multiplier: a factor above 0, not {width_multiplier}")
        if classes == 0:
            raise ValueError("classes: this model is conditional, the data has no classes; set data.classes, or take model=dcgan")
        if ema_half_life is not None and ema_half_life <= 0:
            raise ValueError(f"ema_half_life: a number of images, or null for no average, not {ema_half_life}")
        self.automatic_optimization = False
        self.latent, self.generator, self.classes = latent, generator, classes
        self.optimizer, self.schedule, self.anneal = dict(optimizer), schedule, checked(anneal or {}, Anneal, "anneal")
        self.ema = EMA(generator, ema_half_life) if ema_half_life else None
        self.accumulate, self.images_seen, self.scalars = accumulate, 0, Scalars()
        self.register_buffer("label_counts", torch.ones(classes or 1))  # of the training data; labels are sampled like them

    # -- sampling ----------------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> nn.Module:
        """The generator that samples: the average where there is one."""
        return self.ema.average if self.ema is not None else self.generator

    def generate(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> Tensor:
        """z [n, dim], y [n] -> samples [n, *shape], float32, in evaluation mode; differentiable in z.

        `truncation`: 1 changes nothing; below, samples are nearer the mean of w, or of z where the generator has no w, and
        so less diverse (Karras et al. 2019, arXiv:1812.04948, appendix B).
        """
        generator: Any = self.sampler
        with evaluating(generator):
            if hasattr(generator, "synthesize"):
                w = generator.map(z, y)
                return generator.synthesize(w if truncation == 1 else generator.w_mean.lerp(w, truncation)).float()
            return generator(z * truncation, y).float()

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """n samples [n, *shape], float32. `y` [n]: their classes; without it, labels as `sample_labels` gives."""
        y = self.sample_labels(n) if y is None else y.to(self.device)
        return self.generate(self.latent.sample(n, self.device), y, truncation)

    def sample_labels(self, n: int) -> Tensor:
        """Labels [n] with the frequencies of the training data; zeros for an unconditional model."""
        if self.classes is None:
            return torch.zeros(n, dtype=torch.int64, device=self.device)
        return self.label_counts.multinomial(n, replacement=True)

    def check_shapes(self, shape: tuple[int, ...]) -> None:
        """Run the networks once on a few samples. Raises ValueError where they do not fit the data's shape or each other."""
        found = tuple(self.sample(2).shape[1:])
        if found != shape:
            raise ValueError(f"the generator makes samples of shape {list(found)}, the data's is {list(shape)}")

    # -- learning ----------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """The networks that learn, by their name in the log."""
        raise NotImplementedError

    def learners(self) -> dict[str, list[nn.Module]]:
        """By the name of each optimizer the networks that it updates."""
        return {name: [network] for name, network in self.networks().items()}

    def make_optimizers(self) -> tuple[dict[str, Optimizer], list[LRScheduler]]:
        """Of what is trainable, each with its schedule. Raises ValueError where one of them refuses its numbers."""
        optimizers, schedulers = {}, []
        for name, networks in self.learners().items():
            try:
                optimizers[name] = self.optimizer[name]([p for n in networks for p in n.parameters() if p.requires_grad])
            except (ValueError, TypeError, RuntimeError) as error:
                raise located(error, f"optimizer.{name}") from error
            try:
                schedulers.append(self.schedule(optimizers[name]))
            except (ValueError, TypeError, ZeroDivisionError, AttributeError) as error:
                raise located(error, "schedule") from error
        self.set_numbers(optimizers)
        return optimizers, schedulers

    def configure_optimizers(self) -> Any:
        self.optimizers_by_name, schedulers = self.make_optimizers()
        return list(self.optimizers_by_name.values()), schedulers

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.set_numbers(self.optimizers_by_name)

    def set_numbers(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Give every annealed number its value at the images seen. Raises ValueError for a key that names no number."""
        roots = self.annealed_roots() | {"optimizer": {name: o.param_groups[0] for name, o in optimizers.items()}}
        self.scalars.numbers |= apply(self.anneal, roots, self.images_seen)

    def annealed_roots(self) -> dict[str, Any]:
        """By the first word of a config key, what the rest of it leads through."""
        return {"model": self}

    @property
    def ema_half_life(self) -> float | None:
        return self.ema.half_life if self.ema is not None else None

    @ema_half_life.setter
    def ema_half_life(self, images: float) -> None:
        assert self.ema is not None  # without one the key names no number
        self.ema.half_life = images

    def parts(self, *batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The `accumulate` parts of some tensors [N, …]."""
        return zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True)

    def optimize(self, optimizer: Any, losses: Iterable[Tensor], clip: float | None, *names: str) -> None:
        """One update down the mean of the losses, of the networks of these names.

        `losses`: one for each part of the batch, each made when the one before has been differentiated. `clip`: the greatest
        norm that the gradient may have; null clips nothing.
        """
        optimizer.zero_grad()
        for loss in losses:
            self.manual_backward(loss / self.accumulate)
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if isinstance(self.trainer.strategy, Ranks):  # else there is one rank, or DDP's wrapper has averaged them
            average([p.grad for p in trained])
        if self.scalars.measuring:
            networks = self.networks()
            self.scalars.add({f"gradient_norm/{name}": self.gradient_norm(networks[name].parameters()) for name in names})
        if clip is not None:
            nn.utils.clip_grads_with_norm_(trained, clip, self.gradient_norm(trained))
        optimizer.step()

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """L2 norm of the gradients, without the loss scale of 16-bit training: a scalar."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm / (scaler.get_scale() if scaler is not None else 1.0)

    def end_step(self, batch: int, g_interval: int = 1) -> None:
        """What ends every step, before callbacks look at it: images seen, average, schedules, one state on all ranks.

        `batch`: this rank's images. `g_interval`: steps since the generator last learned; 0 where it did not.
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
            broadcast(buffers)  # batch-norm statistics: each rank has seen only its own part of the batch
        self.scalars.end_step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
