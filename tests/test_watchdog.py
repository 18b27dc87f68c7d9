"""The watchdog detects each kind of failure, provoked here, and takes the chosen action."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Answer
from helpers import kill_after, rows

from ganexp.callbacks.watchdog import Watchdog, adversarial_loss

RUN = [
    "model=mlp", "data=sine", "model.width_multiplier=0.1", "hardware=cpu", "data.batch_size=64", "trainer.max_steps=12",
    "trainer.log_every=1", "trainer.samples_every=6", "trainer.metrics_every=2", "trainer.checkpoint_every=3",
    "callbacks.metrics.num=64", "callbacks.checkpoint.keep=9", "hydra.run.dir=run",
    "callbacks=[metrics,checkpoint,watchdog]", "logger=[csv]",
]  # fmt: skip

# Spoils the generator once, or as often as it comes by `at`.
SPOIL = """
import torch
from pytorch_lightning import Callback

TIMES = []


class Spoil(Callback):
    def __init__(self, at: int, value: str, times: int = 1, rank: int = 0):  # a text, since NaN is refused as a number
        self.at, self.value, self.times, self.rank = at, float(value), times, rank

    def on_train_batch_start(self, trainer, system, batch, batch_idx):
        if trainer.global_step + 1 >= self.at and len(TIMES) < self.times and trainer.global_rank == self.rank:
            TIMES.append(trainer.global_step + 1)
            for network in (system.generator, system.sampler):
                last = list(network.parameters())[-2:]
                for p in last if self.value == 0 else last[:1]:
                    p.data.fill_(self.value)
"""


@pytest.fixture
def spoiled(cli: Callable[..., Answer], tmp_path: Path) -> Callable[..., Answer]:
    """A run whose generator's last weights are filled with `value` before step `at`, `times` times."""
    (tmp_path / "spoil.py").write_text(SPOIL)
    sys.modules.pop("spoil", None)

    def call(at: int, value: float, times: int, *overrides: str) -> Answer:
        node = f"{{_target_:spoil.Spoil,at:{at},value:'{value}',times:{times}}}"
        return cli(*RUN, f"+callbacks.spoil={node}", *overrides)

    return call


def record(answer: Answer) -> dict:
    return json.loads((answer.folder / "run" / "run.json").read_text())


def steps(answer: Answer) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (answer.folder / "run" / "checkpoints").glob("step-*.ckpt"))


def test_nan_weights_stop_the_run(spoiled: Callable[..., Answer]) -> None:
    answer = spoiled(8, float("nan"), 1)
    assert answer.code == 1 and "Traceback" not in answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("ganexp:")]
    assert line.startswith("ganexp: step 8: ") and "loss/discriminator/fake is nan" in line
    assert "the weights generator.hidden.0.weight are nan" in line
    assert line.endswith("the last good checkpoint is run/checkpoints/step-00000006.ckpt, of step 6")
    assert record(answer)["status"] == "failed" and steps(answer) == [3, 6]
    for file in (answer.folder / "run" / "checkpoints").iterdir():
        weights = torch.load(file, weights_only=True)["state_dict"].values()
        assert all(w.isfinite().all() for w in weights if w.is_floating_point())


def test_exploding_numbers_stop_the_run(cli: Callable[..., Answer]) -> None:
    """A learning rate that no training survives; nothing was saved before."""
    answer = cli(*RUN, "optimizer.discriminator.lr=1e30", "trainer.checkpoint_every=12")
    assert answer.code == 1 and "ganexp: step 1: " in answer.err and "there is no earlier checkpoint" in answer.err
    assert not (answer.folder / "run" / "checkpoints" / "last.ckpt").exists()


def test_nan_gradients_stop_the_run(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "roots.py").write_text(
        "from ganexp.losses import BCE\n\n\nclass Roots(BCE):\n    def generator(self, fake, real):\n"
        "        return super().generator(fake, real) + (0 * fake).sqrt().mean()\n"
    )
    answer = cli(*RUN, "loss._target_=roots.Roots")
    assert answer.code == 1 and "ganexp: step 1: gradient_norm/generator is nan" in answer.err
    assert "loss/generator" not in answer.err  # which was finite


def test_rollback_continues_with_lower_learning_rates(spoiled: Callable[..., Answer]) -> None:
    answer = spoiled(8, float("nan"), 1, "callbacks.watchdog.on_nan=rollback", "schedule=linear")
    assert answer.code == 0, answer.err
    assert "rolling back to step 6, with lower learning rates" in (answer.folder / "run" / "log.txt").read_text() + answer.err
    (back,) = record(answer)["rollbacks"]
    assert back["to"] == 6 and back["because"].startswith("step 8: ")
    assert record(answer)["status"] == "finished" and record(answer)["steps"] == 12
    with (answer.folder / "run" / "metrics.csv").open(newline="") as file:
        rates = {int(row["step"]): float(row["lr/generator"]) for row in csv.DictReader(file) if row["lr/generator"]}
    assert list(rates) == list(range(1, 13))
    for step, rate in rates.items():
        assert rate == pytest.approx(2e-4 * (1 - (step - 1) / 12) * (0.5 if step > 6 else 1))


def test_rollback_finds_checkpoints_in_another_folder(spoiled: Callable[..., Answer]) -> None:
    answer = spoiled(8, float("nan"), 1, "callbacks.watchdog.on_nan=rollback", "callbacks.checkpoint.folder=elsewhere")
    assert answer.code == 0 and record(answer)["rollbacks"][0]["to"] == 6, answer.err
    assert "task=sample run=elsewhere/last.ckpt" in answer.out


def test_rollbacks_are_limited(spoiled: Callable[..., Answer]) -> None:
    answer = spoiled(8, float("nan"), 9, "callbacks.watchdog.on_nan=rollback", "callbacks.watchdog.max_rollbacks=2")
    assert answer.code == 1 and "the last good checkpoint is run/checkpoints/step-00000006.ckpt" in answer.err
    assert len(record(answer)["rollbacks"]) == 2


def test_lowered_learning_rates_survive_a_resume(spoiled: Callable[..., Answer], cli: Callable[..., Answer]) -> None:
    """They are in the checkpoints."""
    answer = spoiled(5, float("nan"), 1, "callbacks.watchdog.on_nan=rollback")
    assert answer.code == 0 and record(answer)["rollbacks"][0]["to"] == 4
    whole = (answer.folder / "run" / "metrics.csv").read_bytes()
    kill_after(9, answer.folder / "run")
    resumed = cli("task=resume", "run=run", "trust=[spoil]")
    assert resumed.code == 0 and "resumed at step 9" in resumed.out, resumed.err
    assert (answer.folder / "run" / "metrics.csv").read_bytes() == whole


def test_collapsed_samples_are_reported_or_stop_the_run(spoiled: Callable[..., Answer]) -> None:
    """The generator's last layer is always 0: the samples are one point."""
    below = "callbacks.watchdog.collapse=0.002"  # so small a generator begins with almost nothing
    answer = spoiled(4, 0.0, 99, below)
    assert answer.code == 0 and "watchdog: step 8: mode collapse" in answer.out
    assert answer.out.count("mode collapse") == 1
    answer = spoiled(4, 0.0, 99, below, "callbacks.watchdog.on_collapse=stop", "hydra.run.dir=again")
    assert answer.code == 1 and "ganexp: step 8: mode collapse" in answer.err
    assert "the last good checkpoint is again/checkpoints/best.ckpt, of step 2" in answer.err


def test_low_loss_of_d_stops_the_run(cli: Callable[..., Answer]) -> None:
    """D learns and G does not. The loss is smoothed, and the third check in a row counts."""
    won = ["optimizer.generator.lr=0", "optimizer.discriminator.lr=0.05", "trainer.max_steps=60", "trainer.metrics_every=5"]
    answer = cli(*RUN, *won, "callbacks.watchdog.on_saturation=stop", "callbacks.watchdog.saturation=1.0")
    losses = [float(loss) for row in rows(answer.folder / "run") if (loss := row["loss/discriminator"])]
    smoothed = list(accumulate(losses, lambda mean, loss: 0.98 * mean + 0.02 * loss))
    low = [step for step in range(5, len(losses) + 1, 5) if smoothed[step - 1] <= 1]
    assert low[0] > 5 and len(low) == 3 and answer.code == 1
    assert f"ganexp: step {low[2]}: D's loss is saturated at {smoothed[low[2] - 1]:.2g}: G learns nothing" in answer.err


@pytest.mark.slow
def test_saturated_discriminator_stops_the_run(cli: Callable[..., Answer]) -> None:
    """D learns and G does not."""
    won = [
        "optimizer.generator.lr=0", "optimizer.discriminator.lr=0.01", "trainer.max_steps=400", "trainer.metrics_every=50",
        "trainer.checkpoint_every=100", "data=digits", "trainer.log_every=50", "model=dcgan",
    ]  # fmt: skip
    answer = cli(*RUN, *won, "callbacks.watchdog.on_saturation=stop")
    assert answer.code == 1 and "D's loss is saturated at 0.0" in answer.err, answer.err


def test_rebounding_metric_rolls_back(spoiled: Callable[..., Answer]) -> None:
    answer = spoiled(
        7,
        50.0,
        99,
        "callbacks.watchdog.on_rebound=rollback",
        "callbacks.watchdog.max_rollbacks=1",
        "callbacks.watchdog.patience=1",
    )
    assert answer.code == 1 and "swd/pixels is " in answer.err and "at step 6" in answer.err
    assert record(answer)["rollbacks"][0]["to"] == 6


def test_a_measurement_is_checked_for_a_rebound_once(spoiled: Callable[..., Answer]) -> None:
    """Checked at every step, with a measurement at every fourth: those of the steps 8 and 12 are bad."""
    often = ["callbacks.watchdog.every=1", "trainer.metrics_every=4", "trainer.max_steps=14"]
    answer = spoiled(7, 50.0, 99, "callbacks.watchdog.on_rebound=stop", "callbacks.watchdog.patience=3", *often)
    assert answer.code == 0, answer.err


def test_terms_do_not_hide_that_d_has_won() -> None:
    """A penalty stays above 0 when G gets no gradient any more."""
    named = {"real": 0.0, "fake": 0.001, "r1": 0.5, "": 0.501}
    scalars = {f"loss/discriminator/{name}".rstrip("/"): torch.tensor(value) for name, value in named.items()}
    system = SimpleNamespace(d_loss="loss/discriminator", terms={"r1": None}, scalars=SimpleNamespace(recent=[scalars]))
    assert adversarial_loss(system) == pytest.approx(0.001)


def test_a_measurement_is_checked_once_also_if_the_run_was_killed() -> None:
    watchdog, resumed = (Watchdog(None) for _ in range(2))  # type: ignore[arg-type]
    watchdog.measured = 500
    resumed.load_state_dict(watchdog.state_dict())
    assert resumed.measured == 500


def test_loss_without_parts_is_checked_as_it_is() -> None:
    scalars = {"loss/critic": torch.tensor(0.001)}
    system = SimpleNamespace(d_loss="loss/critic", scalars=SimpleNamespace(recent=[scalars]))
    assert adversarial_loss(system) == pytest.approx(0.001)
    system.d_loss = None
    assert adversarial_loss(system) is None


@pytest.mark.slow
def test_nan_on_one_rank_ends_both(tmp_path: Path) -> None:
    """Rank 1 sees the NaN first; no rank waits for the other."""
    (tmp_path / "spoil.py").write_text(SPOIL)
    node = "{_target_:spoil.Spoil,at:5,value:'nan',rank:1}"
    done = subprocess.run(
        [sys.executable, "-m", "ganexp", *RUN, "hardware=ddp_cpu", f"+callbacks.spoil={node}"], cwd=tmp_path, text=True,
        capture_output=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1 and "\nganexp: step 5: " in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "the last good checkpoint is run/checkpoints/best.ckpt, of step 4" in done.stderr


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("on_nan", "retry", "callbacks.watchdog.on_nan: 'retry' is not a valid choice"),
        ("patience", "0", "callbacks.watchdog.patience: must be at least 1, got 0"),
        ("lr_factor", "2.0", "callbacks.watchdog.lr_factor: must be above 0 and at most 1, got 2.0"),
        ("rebound", "1.0", "callbacks.watchdog.rebound: must be above 1, got 1.0"),
    ],
)
def test_invalid_watchdog_options_are_refused(key: str, value: str, message: str, cli: Callable[..., Answer]) -> None:
    answer = cli(*RUN, f"callbacks.watchdog.{key}={value}")
    assert answer.code == 2 and message in answer.err and not (answer.folder / "run").exists()


def test_watchdog_can_be_switched_off(spoiled: Callable[..., Answer]) -> None:
    off = [f"callbacks.watchdog.on_{sign}=null" for sign in ("nan", "saturation", "collapse", "rebound")]
    answer = spoiled(8, float("nan"), 1, *off, "metrics=[]")
    assert answer.code == 0 and "watchdog" not in answer.out
