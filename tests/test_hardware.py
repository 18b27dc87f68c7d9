"""Several processes: equal weights, different latents, torchrun's nodes; precision and compilation."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BARE, NARROW, TINY, Answer
from helpers import RANKS, compose
from torch import nn
from torch.multiprocessing import start_processes

from ganexp.cli.build import build
from ganexp.runtime import processes
from ganexp.runtime.trainer import choose_precision, synchronize_batch_norm
from ganexp.systems.contexts import mark_step
from ganexp.systems.gan import GAN
from ganexp.tasks.train import seed_all

# Notes on every rank what it drew and was given, and where its weights ended.
SPY = """
import torch
from pytorch_lightning import Callback


class Spy(Callback):
    def on_train_start(self, trainer, system):
        self.z, self.x, draw = [], [], system.latent.sample
        def remember(n, device):
            self.z.append(draw(n, device))
            return self.z[-1]
        system.latent.sample = remember

    def on_train_batch_start(self, trainer, system, batch, batch_idx):
        self.x.append(batch[0].clone())

    def on_train_end(self, trainer, system):
        torch.save({"weights": system.state_dict(), "z": self.z, "x": self.x}, f"rank{trainer.global_rank}.pt")
"""
SHAPED = [*TINY, "callbacks=[progress,checkpoint]", "+callbacks.spy._target_=spy.Spy"]
OVERRIDES = [o for o in SHAPED if not o.startswith(("callbacks.metrics.", "callbacks.samples.", "hardware="))]


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    (folder / "spy.py").write_text(SPY)
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def check_two_ranks(folder: Path) -> None:
    """Same weights and statistics, the average's included; other latents; and the two shares of one batch."""
    a, b = ranks(folder)
    assert a["weights"].keys() == b["weights"].keys()
    assert all(a["weights"][name].equal(b["weights"][name]) for name in a["weights"])
    assert not any(torch.equal(z, other) for z, other in zip(a["z"], b["z"], strict=True))
    assert all(len(x) == 4 for x in a["x"] + b["x"])
    assert not any(torch.equal(x, other) for x, other in zip(a["x"], b["x"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cdcgan", "mlp"])
def test_two_processes_train_with_equal_weights(model: str, tmp_path: Path) -> None:
    process = start(tmp_path, "ganexp", "hardware=ddp_cpu", f"model={model}", *OVERRIDES, *NARROW[model])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    check_two_ranks(tmp_path)
    answer = Answer(0, out, "", tmp_path)
    assert answer.record["status"] == "finished" and answer.record["hardware"]["devices"] == 2
    assert answer.record["steps"] == 3 and answer.record["images_seen"] == 24


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_two_processes_listen_on_the_loopback_interface_only(tmp_path: Path) -> None:
    process = start(tmp_path, "ganexp", "hardware=ddp_cpu", "model=mlp", *OVERRIDES, *NARROW["mlp"], "trainer.max_steps=100000")
    try:
        seen: set[str] = set()
        deadline = time.monotonic() + 200
        while len(seen) < 2 or not list(tmp_path.rglob("metrics.csv")):  # each rank listens for the other
            assert process.poll() is None and time.monotonic() < deadline
            below = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
            ).stdout.split()
            lines = subprocess.run(["ss", "-Hlntup"], capture_output=True, text=True, check=True).stdout.splitlines()
            seen |= {line.split()[4] for line in lines if any(f"pid={pid}," in line for pid in [str(process.pid), *below])}
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert all(place.rpartition(":")[0] in ("127.0.0.1", "[::1]") for place in seen), seen


def test_two_processes_equal_plain_torch_on_the_joined_batch(
    cli: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both ranks' batches and latents together; R1 and G at every second step."""
    changes = [
        "model=mlp", "model.discriminator.dropout=0.0", "regularizer=[r1]", "regularizer.r1.every=2", "model.d_steps=2",
        "~optimizer.generator.fused", "~optimizer.generator.betas", "optimizer.generator._target_=torch.optim.SGD",
        "~optimizer.discriminator.fused", "~optimizer.discriminator.betas", "optimizer.discriminator._target_=torch.optim.SGD",
        "optimizer.generator.lr=0.1", "optimizer.discriminator.lr=0.2", "trainer.max_steps=4", "model.ema_half_life=null",
        "model.accumulate=2",
    ]  # fmt: skip
    (tmp_path / "spy.py").write_text(SPY)
    monkeypatch.setattr(processes, "spawn_processes", partial(start_processes, start_method=RANKS))
    answer = cli("hardware=ddp_cpu", *OVERRIDES, *NARROW["mlp"], *changes)
    assert answer.code == 0, answer.err
    a, b = ranks(tmp_path)

    config = yaml.safe_load((answer.run / "config.yaml").read_text())
    seed_all(config["seed"])
    system = build(config["model"], "model")
    g, d = system.generator, system.discriminator
    sgd_g, sgd_d = torch.optim.SGD(g.parameters(), 0.1), torch.optim.SGD(d.parameters(), 0.2)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    drawn = len(a["z"]) - 4  # the pictures and metrics before are not there, but a check may have drawn
    for k in range(4):
        x, z = torch.cat([a["x"][k], b["x"][k]]), torch.cat([a["z"][drawn + k], b["z"][drawn + k]])
        x, y, ones = x.float(), torch.zeros(8, dtype=torch.long), torch.ones(8, 1)
        fake = g(z, y)
        loss = bce(d(x, y).logits, ones) + bce(d(fake.detach(), y).logits, 0 * ones)
        if k % 2 == 0:
            leaf = x.clone().requires_grad_()
            slope = torch.autograd.grad(d(leaf, y).logits.sum(), leaf, create_graph=True)[0]
            loss = loss + 2 * 0.5 * slope.flatten(1).square().sum(1).mean()
        sgd_d.zero_grad()
        loss.backward()
        sgd_d.step()
        if k % 2:
            sgd_g.zero_grad()
            bce(d(fake, y).logits, ones).backward()
            sgd_g.step()
    for name, weights in system.state_dict().items():
        torch.testing.assert_close(a["weights"][name], weights, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_torchrun_without_multinode_is_refused(tmp_path: Path) -> None:
    process = start(
        tmp_path, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ganexp", "hardware=cpu", *OVERRIDES
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "under torchrun choose hardware=multinode" in out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_two_nodes_train_under_torchrun(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        start(
            tmp_path, "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
            "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "ganexp", "hardware=multinode", *OVERRIDES, *NARROW["mlp"],
            "model=mlp",
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outs
    check_two_ranks(tmp_path)
    answer = Answer(0, outs[0], "", tmp_path)  # one run folder, though each node has its own clock
    assert answer.record["hardware"]["nodes"] == 2 and answer.record["steps"] == 3


@pytest.mark.slow
def test_dead_rank_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os\nfrom pytorch_lightning import Callback\n\n\nclass Dies(Callback):\n"
        "    def on_train_batch_end(self, trainer, *rest):\n        if trainer.global_rank == 1:\n            os._exit(3)\n"
    )
    process = start(
        tmp_path, "ganexp", "hardware=ddp_cpu", "model=mlp", *OVERRIDES, *NARROW["mlp"], "+callbacks.dies._target_=dies.Dies"
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "exit code 3" in out


@pytest.mark.slow
def test_bf16_trains_on_the_cpu_with_float32_weights(tmp_path: Path) -> None:
    process = start(tmp_path, "ganexp", "hardware=cpu", *OVERRIDES, *NARROW["cdcgan"], "hardware.precision=bf16-mixed")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    record = Answer(0, out, "", tmp_path).record
    assert record["hardware"]["precision"] == "bf16-mixed"
    weights = torch.load(tmp_path / "rank0.pt", weights_only=False)["weights"]
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values() if w.is_floating_point())


# -- precision ---------------------------------------------------------------------------------------------------------

CPU = {"accelerator": "cpu", "precision": "auto"}


@pytest.mark.parametrize("amx, avx, native", [(True, False, True), (False, True, True), (False, False, False)])
def test_auto_precision_is_bf16_for_images_on_a_cpu_with_native_bf16(
    amx: bool, avx: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    assert choose_precision(CPU, [3, 64, 64])[0] == ("bf16-mixed" if native else "32-true")
    assert choose_precision(CPU, [2]) == ("32-true", "auto: for points")
    assert choose_precision({**CPU, "precision": "32-true"}, [3, 64, 64]) == ("32-true", "")
    assert choose_precision({**CPU, "precision": "bf16-mixed"}, [3, 64, 64]) == ("bf16-mixed", "")


def test_auto_precision_is_float32_if_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_precision(CPU, [3, 64, 64]) == ("32-true", "auto: no native bfloat16 here")


def test_float32_is_not_tf32(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert cli(*BARE, *NARROW["cdcgan"]).code == 0
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("native", [True, False])
def test_precision_is_announced_and_a_changed_one_is_noted(native: bool, cli: Callable[..., Answer], monkeypatch: Any) -> None:
    monkeypatch.setattr("ganexp.runtime.trainer.has_bf16", lambda node: native)
    answer = cli(*BARE, *NARROW["cdcgan"], "hardware.precision=auto")
    precision = "bf16-mixed" if native else "32-true"
    assert answer.record["hardware"]["precision"] == precision and f"{precision} (auto: " in answer.out
    monkeypatch.setattr("ganexp.runtime.trainer.has_bf16", lambda node: not native)
    answer = cli("task=resume", f"run={answer.run}", "trainer.max_steps=4")
    assert answer.code == 0 and f"instead of {precision}: not bitwise reproducible" in answer.out


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bf16_is_warned_of(native: bool, cli: Callable[..., Answer], monkeypatch: Any) -> None:
    monkeypatch.setattr("ganexp.tasks.train.has_bf16", lambda node: native)
    answer = cli(*BARE, *NARROW["cdcgan"], "hardware.precision=bf16-mixed")
    warning = "hardware.precision: bf16-mixed is emulated here, several times slower than 32-true; choose auto"
    assert answer.code == 0 and (warning in answer.out + answer.err) is not native
    assert (warning in answer.record.get("notes", [])) is not native


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_other_precisions_are_refused(precision: str, cli: Callable[..., Answer]) -> None:
    answer = cli(*BARE, *NARROW["cdcgan"], f"hardware.precision={precision}")
    message = f"ganexp: hardware.precision: must be one of auto, 32-true, bf16-mixed, 16-mixed, got {precision}\n"
    assert answer.code == 2 and answer.err == message


@pytest.mark.parametrize("choices, left", [
    ([], []), (["regularizer=[r1]"], ["discriminator"]), (["regularizer=[path_length]"], ["generator"]),
    (["regularizer=[r1,path_length]"], ["discriminator", "generator"]),
])  # fmt: skip
def test_batch_norm_is_synchronized_unless_it_is_differentiated_twice(choices: list[str], left: list[str]) -> None:
    """torch cannot differentiate SyncBatchNorm twice."""
    system = build(compose("model=dcgan", *TINY, *NARROW["dcgan"], *choices)["model"], "model")
    notes = synchronize_batch_norm(system)
    assert [note.split(":")[0] for note in notes] == [f"model.{name}" for name in left]
    for name, network in system.networks().items():
        kinds = {type(module) for module in network.modules()} & {nn.BatchNorm2d, nn.SyncBatchNorm}
        assert kinds == {nn.BatchNorm2d if name in left else nn.SyncBatchNorm}


def test_sync_batchnorm_is_refused(cli: Callable[..., Answer]) -> None:
    answer = cli(*BARE, "+hardware.sync_batchnorm=true")
    assert answer.code == 2 and "hardware.sync_batchnorm: leave it out; on several GPUs" in answer.err


def test_gradient_norm_differentiates_d_twice() -> None:
    composed = compose("model=dcgan", *TINY, *NARROW["dcgan"], "constraint=[gradient_norm]", "model.discriminator.norm=false")
    assert build(composed["model"], "model").differentiated_twice() == {"discriminator"}


def test_run_of_one_process_leaves_no_variables_of_several(cli: Callable[..., Answer]) -> None:
    """Otherwise the next run of this process would take Lightning's variables for torchrun's."""
    for _ in range(2):
        answer = cli(*TINY, "hardware=ddp_cpu", "hardware.devices=1", "metrics=[swd]")
        assert answer.code == 0, answer.err
        assert "LOCAL_RANK" not in os.environ and "WORLD_SIZE" not in os.environ


def test_operation_without_deterministic_kernel_is_named(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: GAN, batch: Any, batch_idx: int) -> None:
        raise RuntimeError("grid_sampler does not have a deterministic implementation, but you set 'torch.use_…'")

    monkeypatch.setattr(GAN, "training_step", step)
    answer = cli(*TINY, "metrics=[swd]")
    assert answer.code == 1 and answer.err.endswith(
        "ganexp: hardware.deterministic: grid_sampler has no deterministic kernel on this device; with warn instead of "
        "true the run goes on without one there, and says so\n"
    )


# -- torch.compile ------------------------------------------------------------------------------------------------------


def test_unknown_compile_mode_is_refused(cli: Callable[..., Answer]) -> None:
    answer = cli(*TINY, "hardware.compile=fast")
    assert answer.code == 2
    assert "hardware.compile: must be null or one of default, reduce-overhead, max-autotune, got fast" in answer.err


def test_compile_without_a_compiler_says_what_is_missing(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    answer = cli(*TINY, "hardware.compile=default")
    assert answer.code == 2 and "hardware.compile: torch.compile needs a C++ compiler" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("term", ["r1", "wgan_gp", "dragan", "path_length"])
def test_compiled_networks_train_like_eager_ones(term: str, cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Rounding differs, so the weights are close, not equal. Each term is differentiated twice, at every second step."""
    ends = []
    for mode in ("null", "default"):
        run = tmp_path / mode
        options = [*TINY, "trainer.max_steps=6", f"regularizer=[{term}]", f"regularizer.{term}.every=2"]
        answer = cli(*options, f"hardware.compile={mode}", f"hydra.run.dir={run}")
        assert answer.code == 0, answer.err
        ends.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert all(torch.allclose(ends[0][name].float(), ends[1][name].float(), atol=2e-3) for name in ends[0])


@pytest.mark.slow
def test_compiled_networks_with_spectral_norm_train(cli: Callable[..., Answer]) -> None:
    """One of its layers has three inputs."""
    narrow = ["data.shape=[3,32,32]", "model.width_multiplier=0.05", "metrics=[]"]
    answer = cli(*TINY, "model=resnet", *narrow, "hardware.compile=default")
    assert answer.code == 0, answer.err


def test_networks_that_are_not_compiled_import_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes more than a second."""
    monkeypatch.delitem(sys.modules, "torch._inductor.cudagraph_trees", raising=False)
    mark_step()
    assert "torch._inductor.cudagraph_trees" not in sys.modules
