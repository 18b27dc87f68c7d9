"""The losses of ACGAN, VAE and moment matching, and how updates of D and G alternate."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Watch, adam, constant, fit, fit_data, labelled, make_gan, make_vae
from torch import Tensor, nn
from torch.nn import functional as F

from ganexp import latents, losses, regularizers
from ganexp.data.digits import Digits
from ganexp.networks import mlp
from ganexp.networks.output import Output
from ganexp.round import Round
from ganexp.systems.base import System
from ganexp.systems.gan import GAN
from ganexp.systems.gmmn import GMMN


def sgd(rate: float) -> Any:
    return lambda p: torch.optim.SGD(p, rate)


class Known:
    """A prior whose draws are kept."""

    dim = 2

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def sample(self, n: int, device: torch.device) -> Tensor:
        self.drawn.append(torch.randn(n, 2))
        return self.drawn[-1]


def vector(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


# -- turns -----------------------------------------------------------------------------------------------------------


def test_separate_updates_equal_two_steps_by_hand() -> None:
    """A step on the real batch, then one on the fakes, which D scores again; counted as one."""
    latent, watch = Known(), Watch()
    system = make_gan(latent=latent, separate=True)
    assert fit(system, 1, watch).global_step == 1
    hand = make_gan()
    g, d = hand.generator, hand.discriminator
    optimizer = torch.optim.SGD(d.parameters(), 0.2)
    data = fit_data()
    x, y = next(iter(data.train_dataloader()))
    for batch, target in ((x, 1.0), (g(latent.drawn[-1], y).detach(), 0.0)):
        optimizer.zero_grad()
        logits = d(batch, y).logits
        F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target)).backward()
        optimizer.step()
    torch.testing.assert_close(vector(d), watch.d[0])


def test_separate_loss_is_the_sum_of_both_updates() -> None:
    system = make_gan(separate=True)
    fit(system, 1)
    seen = system.scalars.latest
    both = seen["loss/discriminator/real"] + seen["loss/discriminator/fake"]
    torch.testing.assert_close(seen["loss/discriminator"], both)


def test_separate_updates_add_the_penalty_to_the_real_batch() -> None:
    calls: list[int] = []

    class Count(regularizers.R1):
        def forward(self, round: Round) -> Tensor:
            calls.append(len(round.real))
            return super().forward(round)

    fit(make_gan(separate=True, regularizers={"r1": Count()}), 3)
    assert calls == [16] * 3


@pytest.mark.parametrize("g_steps", [1, 3])
def test_g_steps_updates_g_on_new_fakes(g_steps: int) -> None:
    """Each on its own fakes; still one step."""
    latent, updates = Known(), []

    class Count(losses.BCE):
        def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
            updates.append(fake.detach().clone())
            return super().generator(fake, real)

    system = make_gan(latent=latent, loss=Count(), g_steps=g_steps)
    assert fit(system, 2).global_step == 2
    assert len(updates) == 2 * g_steps == len(latent.drawn)
    assert len({tuple(u.flatten().tolist()) for u in updates}) == 2 * g_steps


def test_gan_refuses_incompatible_losses_and_steps() -> None:
    with pytest.raises(ValueError, match=r"^separate: Relativistic compares"):
        make_gan(loss=losses.Relativistic(), separate=True)
    with pytest.raises(ValueError, match=r"^loss: MMD is not an adversarial loss"):
        make_gan(loss=losses.MMD())
    with pytest.raises(ValueError, match=r"^g_steps: must be at least 1, got 0"):
        make_gan(g_steps=0)
    with pytest.raises(ValueError, match=r"^width_multiplier: "):
        make_gan(width_multiplier=0.0)
    make_gan(discriminator=mlp.Discriminator([2], [8], outputs=3)).check_shapes((2,))  # all adversarial
    for shape in ([4], [4, 0], [4, 1, 1], [3, 1]):
        with pytest.raises(ValueError, match=r"^the discriminator must return logits \[N, K\], got "):
            make_gan(discriminator=Constant(shape)).check_shapes((2,))


class Constant(nn.Module):
    """Logits of one shape, whatever it is shown."""

    def __init__(self, shape: list[int]):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.logits + 0 * x.sum()


# -- ACGAN -----------------------------------------------------------------------------------------------------------


def make_acgan(named: int, **changes: Any) -> GAN:
    """Three classes, of which D names so many."""
    torch.manual_seed(0)
    terms = {f"class_{player[0]}": regularizers.AuxiliaryClassifier(player, 3) for player in ("discriminator", "generator")}
    parts: dict[str, Any] = {
        "generator": mlp.Generator([2], 2, [8], classes=3),
        "discriminator": mlp.Discriminator([2], [8], dropout=0.0, auxiliary=named),
        "loss": losses.BCE(weight=0.5),
        "terms": terms,
        "classes": 3,
    }
    return make_gan(**(parts | changes))


LOGITS = torch.tensor([[0.3, 1.0, -1.0, 0.0, 2.0], [-0.2, 0.5, 0.5, -3.0, 0.1]])  # adversarial, three classes, "generated"
LABELS = torch.tensor([2, 0])


def cross_entropy(logits: Tensor, labels: list[int]) -> float:
    return -torch.stack([row.log_softmax(0)[k] for row, k in zip(logits, labels, strict=True)]).mean().item()


class Answers(nn.Module):
    """A discriminator that gives for real, and for fake, what it is told to."""

    def __init__(self, real: Tensor, fake: Tensor):
        super().__init__()
        self.answers = {1.0: real, 0.0: fake}

    def forward(self, x: Tensor, y: Tensor) -> Output:
        answer = self.answers[x.mean().item()]
        return Output(answer[:, :1], answer[:, 1:])


def class_round(real: Tensor, fake: Tensor) -> Round:
    ones, none = torch.ones(2, 2), torch.zeros(2, 2)
    return Round(nn.Identity(), Answers(real, fake), [], ones, none, torch.zeros(2, 2), LABELS)


def test_class_d_wants_real_classes_and_generated_for_fakes() -> None:
    round = class_round(LOGITS, LOGITS.flip(0))
    term = make_acgan(4).terms["class_d"](round)
    expected = (cross_entropy(LOGITS[:, 1:], [2, 0]) + cross_entropy(LOGITS.flip(0)[:, 1:], [3, 3])) / 2
    assert term.item() == pytest.approx(expected)
    # 4 logits of the first row: 1, -1, 0, 2: "generated" wins; the second row's 0.5 is its label's.
    assert round.scalars == {"accuracy/real": 0.5, "accuracy/fake": 0.5}


def test_class_d_without_a_generated_class_wants_the_label_of_the_fake() -> None:
    term = make_acgan(3).terms["class_d"](class_round(LOGITS[:, :4], LOGITS[:, :4].flip(0)))
    expected = (cross_entropy(LOGITS[:, 1:4], [2, 0]) + cross_entropy(LOGITS.flip(0)[:, 1:4], [2, 0])) / 2
    assert term.item() == pytest.approx(expected)


@pytest.mark.parametrize("outputs", [4, 5])
def test_class_g_wants_the_label_of_the_fake(outputs: int) -> None:
    answer = LOGITS[:, :outputs]
    term = make_acgan(outputs - 1).terms["class_g"](class_round(LOGITS.flip(0)[:, :outputs], answer))
    assert term.item() == pytest.approx(cross_entropy(answer[:, 1:], [2, 0]))


def test_auxiliary_classifier_scales_with_its_weight() -> None:
    round = class_round(LOGITS, LOGITS)
    for player in ("discriminator", "generator"):
        once, thrice = (regularizers.AuxiliaryClassifier(player, 3, weight=weight)(round) for weight in (1.0, 3.0))
        torch.testing.assert_close(thrice, 3 * once)


def test_acgan_step_equals_plain_torch() -> None:
    """One update of D and one of G on the adversarial loss and both terms."""
    latent, watch = Known(), Watch()
    fit(make_acgan(4, latent=latent), 1, watch, data=labelled())
    hand = make_acgan(4)
    g, d = hand.generator, hand.discriminator
    x, y = next(iter(labelled().train_dataloader()))
    sgd_d, sgd_g = torch.optim.SGD(d.parameters(), 0.2), torch.optim.SGD(g.parameters(), 0.1)
    fake = g(latent.drawn[-1], y)
    real_out, fake_out = d(x, y), d(fake.detach(), y)
    bce = F.binary_cross_entropy_with_logits
    adversarial = (bce(real_out.logits, torch.ones(16, 1)) + bce(fake_out.logits, torch.zeros(16, 1))) / 2
    (adversarial + (F.cross_entropy(real_out.classes, y) + F.cross_entropy(fake_out.classes, 0 * y + 3)) / 2).backward()
    sgd_d.step()
    torch.testing.assert_close(vector(d), watch.d[0])
    out = d(fake, y)
    sgd_g.zero_grad()
    (bce(out.logits, torch.ones(16, 1)) + F.cross_entropy(out.classes, y)).backward()
    sgd_g.step()
    torch.testing.assert_close(vector(g), watch.g[0])


@pytest.mark.parametrize("named", [0, 2, 5])
def test_acgan_refuses_a_class_head_of_another_size(named: int) -> None:
    expected = rf"^regularizers\.class_d: the discriminator has {named} class logits; .*auxiliary to 3,\s+or to 4 to add a class"
    with pytest.raises(ValueError, match=expected):
        make_acgan(named).check_shapes((2,))
    make_acgan(3).check_shapes((2,))
    make_acgan(4).check_shapes((2,))


@pytest.mark.parametrize("classes", [None, 0])
def test_acgan_refuses_unlabelled_data(classes: int | None) -> None:
    with pytest.raises(ValueError, match=r"^classes: an auxiliary classifier needs data with classes"):
        regularizers.AuxiliaryClassifier("discriminator", classes)


# -- VAE and moment matching -----------------------------------------------------------------------------------------


def train(system: System, steps: int) -> pl.Trainer:
    data = Digits([1, 8, 8], 10, batch_size=64, seed=0)
    data.prepare()
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(system, datamodule=data)
    return trainer


def test_vae_learns_to_reconstruct() -> None:
    data = Digits([1, 8, 8], 10, batch_size=64, seed=0)
    data.prepare()
    x, y = data.real_and_labels(200)
    system = make_vae()
    before = (system.reconstruct(x, y) - x).square().mean()
    assert train(system, 300).global_step == 300
    after = (system.reconstruct(x, y) - x).square().mean()
    assert after < 0.5 * before and after < x.var(0).mean()  # better than the mean image
    assert system.sample(3).shape == (3, 1, 8, 8)
    loss = system.scalars.latest
    torch.testing.assert_close(loss["loss"], loss["loss/reconstruction"] + loss["loss/divergence"])


def test_vae_trains_encoder_and_decoder() -> None:
    system = make_vae()
    before = {name: vector(network) for name, network in system.networks().items()}
    train(system, 1)
    assert all(not vector(network).equal(before[name]) for name, network in system.networks().items())
    assert set(system.optimizers_by_name) == {"generator"}  # one optimizer for both


def test_vae_refuses_incompatible_parts() -> None:
    with pytest.raises(ValueError, match=r"^latent: must be normal for a VAE"):
        make_vae(latent=latents.Uniform(2))
    with pytest.raises(ValueError, match=r"^loss: BCE needs a discriminator"):
        make_vae(loss=losses.BCE())
    with pytest.raises(ValueError, match=r"^encoder\.outputs: must be 4, mean and log variance of 2 latents, got 3"):
        make_vae(encoder=mlp.Discriminator([1, 8, 8], [8], outputs=3)).check_shapes((1, 8, 8))


def test_moment_matching_learns_the_points() -> None:
    """No discriminator: after 500 steps the samples are closer than their spread, from a distant start."""
    torch.manual_seed(0)
    system = GMMN(latents.Normal(2), mlp.Generator([2], 2, [32, 32]), losses.MMD(), {"generator": adam}, constant)
    data = fit_data()
    data.batch_size = 128
    mmd = losses.MMD()
    before = mmd(system.sample(500), data.x[:500])
    trainer = pl.Trainer(
        max_steps=500, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(system, datamodule=data)
    assert trainer.global_step == 500
    assert mmd(system.sample(500), data.x[:500]) < 0.05 * before


def test_moment_matching_refuses_incompatible_parts() -> None:
    parts: Any = (latents.Normal(2), mlp.Generator([2], 2, [8]))
    with pytest.raises(ValueError, match=r"^classes: must be null, got 3; moment matching is unconditional"):
        GMMN(*parts, losses.MMD(), {"generator": sgd(0.1)}, constant, classes=3)
    with pytest.raises(ValueError, match=r"^loss: Hinge needs a discriminator"):
        GMMN(*parts, losses.Hinge(), {"generator": sgd(0.1)}, constant)
