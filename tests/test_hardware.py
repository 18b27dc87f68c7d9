"""Several processes: the same weights everywhere, other latents, and torchrun's nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NARROW, TINY, Answer

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
        weights = dict(system.named_parameters())
        torch.save({"weights": weights, "z": self.z, "x": self.x}, f"rank{trainer.global_rank}.pt")
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
    )


def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def check_two_ranks(folder: Path) -> None:
    """Same parameters, average included; other latents; and the two shares of one batch."""
    a, b = ranks(folder)
    assert a["weights"].keys() == b["weights"].keys()
    assert all(a["weights"][name].equal(b["weights"][name]) for name in a["weights"])
    assert not any(torch.equal(z, other) for z, other in zip(a["z"], b["z"], strict=True))
    assert all(len(x) == 4 for x in a["x"] + b["x"])
    assert not any(torch.equal(x, other) for x, other in zip(a["x"], b["x"], strict=True))


@pytest.mark.parametrize("model", ["cdcgan", "mlp"])
def test_two_processes(model: str, tmp_path: Path) -> None:
    process = start(tmp_path, "ganexp", "hardware=ddp_cpu", f"model={model}", *OVERRIDES, *NARROW[model])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    check_two_ranks(tmp_path)
    answer = Answer(0, out, "", tmp_path)
    assert answer.record["status"] == "finished" and answer.record["hardware"]["devices"] == 2
    assert answer.record["steps"] == 3 and answer.record["images_seen"] == 24


def test_two_nodes_under_torchrun(tmp_path: Path) -> None:
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


def test_a_rank_that_dies_ends_the_run(tmp_path: Path) -> None:
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


def test_bf16_on_the_cpu(tmp_path: Path) -> None:
    process = start(tmp_path, "ganexp", "hardware=cpu", "hardware.precision=bf16-mixed", *OVERRIDES, *NARROW["cdcgan"])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    record = Answer(0, out, "", tmp_path).record
    assert record["hardware"]["precision"] == "bf16-mixed"
    weights = torch.load(tmp_path / "rank0.pt", weights_only=False)["weights"]
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())
