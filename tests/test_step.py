"""The adversarial step: which network is updated when, on what, and how steps are counted."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Watch, fit, make_gan
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from ganexp import ema, losses, regularizers
from ganexp.callbacks.log import Log
from ganexp.data.toy import Sine
from ganexp.networks import mlp
from ganexp.networks.output import as_output
from ganexp.round import Round
from ganexp.systems.contexts import evaluating, frozen
from ganexp.systems.gan import GAN


def test_one_batch_is_one_step() -> None:
    assert fit(make_gan(), 7).global_step == 7


@pytest.mark.parametrize("d_steps", [1, 2, 3])
def test_g_is_updated_at_every_d_steps_th_batch(d_steps: int) -> None:
    watch = Watch()
    start = nn.utils.parameters_to_vector(make_gan().generator.parameters())
    fit(make_gan(d_steps=d_steps), 6, watch)
    g = [start, *watch.g]
    moved = [not a.equal(b) for a, b in pairwise(g)]
    assert moved == [(step + 1) % d_steps == 0 for step in range(6)]
    assert all(not a.equal(b) for a, b in pairwise(watch.d))


def test_step_equals_plain_torch() -> None:
    """Two steps by hand give the same weights."""
    system = make_gan()
    watch = Watch()
    z: list[Tensor] = []
    drawn = system.latent.sample

    class Remember:
        dim = 2

        def sample(self, n: int, device: torch.device) -> Tensor:
            z.append(drawn(n, device))
            return z[-1]

    system.latent = Remember()
    fit(system, 2, watch)

    hand = make_gan()
    g, d = hand.generator, hand.discriminator
    sgd_g, sgd_d = torch.optim.SGD(g.parameters(), 0.1), torch.optim.SGD(d.parameters(), 0.2)
    data = Sine([2], 0, batch_size=16, seed=0)
    data.prepare()
    batches = iter(data.train_dataloader())
    for k in range(2):
        x, y = next(batches)
        fake = g(z[-2 + k], y)
        sgd_d.zero_grad()
        (-torch.sigmoid(d(x, y).logits).log().mean() - (1 - torch.sigmoid(d(fake.detach(), y).logits)).log().mean()).backward()
        sgd_d.step()
        sgd_g.zero_grad()
        (-torch.sigmoid(d(fake, y).logits).log().mean()).backward()
        sgd_g.step()
        torch.testing.assert_close(nn.utils.parameters_to_vector(d.parameters()), watch.d[k])
        torch.testing.assert_close(nn.utils.parameters_to_vector(g.parameters()), watch.g[k])


def test_d_collects_no_gradient_while_g_is_updated() -> None:
    system = make_gan()
    seen = []

    class Spy(losses.BCE):
        def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
            seen.append([p.requires_grad for p in system.discriminator.parameters()])
            return super().generator(fake, real)

    system.loss = Spy()
    fit(system, 1)
    assert seen and not any(seen[0])
    assert all(p.requires_grad for p in system.discriminator.parameters())


def test_fresh_fakes_generates_a_second_batch() -> None:
    for fresh, draws in ((False, 1), (True, 2)):
        system = make_gan(fresh_fakes=fresh)
        calls: list[int] = []
        system.generator.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        fit(system, 3)
        assert len(calls) == 3 * draws


def test_lazy_regularizer_is_weighted_n_fold() -> None:
    penalties: list[int] = []

    class Count(regularizers.R1):
        def forward(self, round: Round) -> Tensor:
            if self.training:
                penalties.append(1)
            return super().forward(round)

    system = make_gan(regularizers={"r1": Count(1.0, every=4)})
    fit(system, 8)
    assert len(penalties) == 2
    eager = make_gan(regularizers={"r1": regularizers.R1(1.0, every=1)})
    fit(eager, 1)
    lazy = make_gan(regularizers={"r1": regularizers.R1(1.0, every=4)})
    fit(lazy, 1)
    torch.testing.assert_close(lazy.scalars.latest["loss/discriminator/r1"], 4 * eager.scalars.latest["loss/discriminator/r1"])


def test_relativistic_loss_of_g_uses_the_real_batch_of_d() -> None:
    compared: list[Tensor] = []

    class Spy(losses.Relativistic):
        def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
            assert real is not None
            compared.append(real.detach())
            return super().generator(fake, real)

    class Batches(pl.Callback):
        def on_train_batch_start(self, trainer: Any, system: Any, batch: Any, batch_idx: int) -> None:
            self.real, self.y = batch

    watch, batches, system = Watch(), Batches(), make_gan(loss=Spy())
    fit(system, 1, watch, batches)
    updated = make_gan().discriminator
    nn.utils.vector_to_parameters(watch.d[0], updated.parameters())
    torch.testing.assert_close(compared[-1], as_output(updated(batches.real, batches.y)).logits)


def test_average_follows_the_generator() -> None:
    system = make_gan(ema_half_life=16.0)
    watch = Watch()
    fit(system, 5, watch)
    by_hand = nn.utils.parameters_to_vector(make_gan().generator.parameters())
    for k, weights in enumerate(watch.g):
        decay = 0.5 ** (16 / min(16.0, 0.05 * 16 * (k + 1)))
        by_hand = decay * by_hand + (1 - decay) * weights
    assert isinstance(system.ema, ema.EMA) and system.sampler is system.ema.average
    torch.testing.assert_close(nn.utils.parameters_to_vector(system.ema.average.parameters()), by_hand)


def test_schedules_count_steps() -> None:
    system = make_gan(schedule=lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=10), d_steps=3)
    trainer = fit(system, 5)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([0.1, 0.05])


def test_schedule_is_created_once() -> None:
    """A second one would take its first factor from the rate that the first has lowered."""
    system = make_gan(schedule=lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, total_iters=10))
    system.make_optimizers()  # as the check before a run does
    trainer = fit(system, 1)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([0.2 * 0.19, 0.1 * 0.19])
    assert system.scalars.numbers["lr/discriminator"] == pytest.approx(0.02)


def test_images_seen_counts_real_images() -> None:
    system = make_gan()
    fit(system, 5)
    assert system.images_seen == 5 * 16


def test_sample_restores_training_modes() -> None:
    system = make_gan(generator=nn.Sequential())
    system.generator = mlp.Generator([2], 2, [8])
    system.generator.hidden.append(nn.Dropout())
    system.generator.hidden[0].eval()
    modes = [m.training for m in system.generator.modules()]
    assert system.sample(3).shape == (3, 2)
    assert [m.training for m in system.generator.modules()] == modes
    assert not system.sample(3).requires_grad


def test_frozen_and_evaluating_restore_after_an_error() -> None:
    net = nn.Linear(1, 1)
    net.bias.requires_grad_(False)
    for context in (frozen, evaluating):
        with pytest.raises(KeyError), context(net):
            raise KeyError
    assert net.weight.requires_grad and not net.bias.requires_grad and net.training


def test_penalties_run_in_float32_under_autocast() -> None:
    kinds = []

    class Spy(regularizers.R1):
        def forward(self, round: Round) -> Tensor:
            kinds.append((round.gradient("real").dtype, round.real.dtype, torch.is_autocast_enabled("cpu")))
            return super().forward(round)

    system = make_gan(regularizers={"r1": Spy()})
    passes: list[torch.dtype] = []  # of D's last layer: the side that is differentiated, the other, and G's turn
    system.discriminator.head.out.register_forward_hook(lambda _, __, out: passes.append(out.dtype))
    data = Sine([2], 0, batch_size=16, seed=0)
    data.prepare()
    pl.Trainer(
        max_steps=1, max_epochs=-1, accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(system, datamodule=data)  # fmt: skip
    assert kinds == [(torch.float32, torch.float32, False)]
    assert passes == [torch.float32, torch.bfloat16, torch.bfloat16]


class Norms(pl.Callback):
    """The largest norm of each optimizer's gradient when it was used."""

    def __init__(self) -> None:
        self.norms: list[list[float]] = [[], []]

    def on_before_optimizer_step(self, trainer: Any, system: Any, optimizer: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.norms[trainer.optimizers.index(optimizer)].append(float(nn.utils.get_total_norm(gradients)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"separate": True, "d_steps": 2},
        {"loss": losses.Relativistic(), "regularizers": {"r1": regularizers.R1(1.0, every=2)}},
        {"fresh_fakes": True, "clip_g": 0.01, "clip_d": 0.1},
    ],
)
def test_accumulated_parts_equal_the_whole_batch(changes: dict[str, Any]) -> None:
    whole, parts, draws = Watch(), Watch(), 5
    one = make_gan(**changes)
    fit(one, draws, whole)
    four = make_gan(accumulate=4, **changes)
    calls: list[int] = []
    four.generator.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    fit(four, draws, parts)
    assert 4 in calls and set(calls) <= {4, 16}
    torch.testing.assert_close(parts.d, whole.d, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(parts.g, whole.g, atol=1e-6, rtol=1e-6)
    assert four.scalars.latest.keys() == one.scalars.latest.keys()
    for name, value in one.scalars.latest.items():
        torch.testing.assert_close(four.scalars.latest[name], value, atol=1e-5, rtol=1e-5)


def test_each_network_is_clipped_by_its_own_norm() -> None:
    free, held = Norms(), Norms()
    fit(make_gan(), 4, free)
    assert min(free.norms[0]) > 0.05 and min(free.norms[1]) > 0.01  # else clipping below would not be seen
    system = make_gan(clip_d=0.05, clip_g=0.01)
    fit(system, 4, held)
    assert held.norms[0] == pytest.approx([0.05] * 4, rel=1e-3) and held.norms[1] == pytest.approx([0.01] * 4, rel=1e-3)
    assert system.scalars.latest["gradient_norm/discriminator"] > 0.05  # the log shows what it was before
    loose = Norms()
    fit(make_gan(clip_d=1e6, clip_g=1e6), 4, loose)
    assert loose.norms == free.norms


def test_gan_refuses_invalid_accumulate_and_clip() -> None:
    for changes, message in (({"accumulate": 0}, "accumulate: must be at least 1"), ({"clip_g": 0.0}, "clip_g: must be above 0")):
        with pytest.raises(ValueError, match=message):
            make_gan(**changes)


def test_gan_refuses_invalid_classes_and_d_steps() -> None:
    with pytest.raises(ValueError, match="classes"):
        make_gan(classes=0)
    with pytest.raises(ValueError, match="d_steps"):
        make_gan(d_steps=0)


# -- 16 bits -----------------------------------------------------------------------------------------------------------


def in_16_bits(scale: float, **changes: Any) -> tuple[GAN, Watch, torch.amp.GradScaler]:
    """One step in float16 with a gradient scaler, which torch has for the CPU too."""
    system, watch, scaler = make_gan(**changes), Watch(), torch.amp.GradScaler("cpu", init_scale=scale)
    data = Sine([2], 0, batch_size=16, seed=0)
    data.prepare()
    pl.Trainer(
        max_steps=1, max_epochs=-1, accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=[Log(), watch],
    ).fit(system, datamodule=data)  # fmt: skip
    return system, watch, scaler


@pytest.mark.parametrize("changes", [{}, {"clip_g": 0.01, "clip_d": 0.1}])
def test_loss_scale_changes_neither_update_nor_logged_norm(changes: dict[str, Any]) -> None:
    expected, plain = Watch(), make_gan(**changes)
    fit(plain, 1, expected)
    system, watch, _ = in_16_bits(1024.0, **changes)
    torch.testing.assert_close(watch.d[0], expected.d[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(watch.g[0], expected.g[0], rtol=2e-3, atol=2e-3)
    for name in ("gradient_norm/generator", "gradient_norm/discriminator"):
        torch.testing.assert_close(system.scalars.latest[name], plain.scalars.latest[name], rtol=0.02, atol=1e-3)


def test_overflowing_float16_gradient_is_skipped() -> None:
    system, watch, scaler = in_16_bits(2.0**126)
    before = make_gan()
    assert torch.equal(watch.d[0], nn.utils.parameters_to_vector(before.discriminator.parameters()))
    assert torch.equal(watch.g[0], nn.utils.parameters_to_vector(before.generator.parameters()))
    assert scaler.get_scale() < 2.0**126 and system.global_step == 1
