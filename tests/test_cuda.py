"""Tests that need an NVIDIA GPU: `python -m pytest -m slow tests/test_cuda.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, Answer
from helpers import SHORT, kill_after, rows, same, state

import ganexp
from ganexp.data.digits import Digits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ON_GPU = [o for o in TINY if not o.startswith("hardware")]


def test_default_trains_on_gpu_in_bf16_and_samples_there(cli: Callable[..., Answer]) -> None:
    answer = cli(*ON_GPU)
    assert answer.code == 0, answer.err
    assert "bf16-mixed (auto: native here)" in answer.out and torch.cuda.get_device_name() in answer.out
    assert answer.record["status"] == "finished" and "fid/classifier" in answer.record["metrics"]
    assert cli("task=sample", "run=latest", "task.num=4").code == 0


@pytest.mark.parametrize(
    "choices",
    [
        ["model=cdcgan", "regularizer=[r1]", "augment=[flip,diffaugment]"],
        ["model=dcgan", "data.shape=[1,32,32]", "hardware.precision=32-true"],
        ["model=stylegan2", "data.shape=[1,32,32]", "model.generator.channel_base=128", "regularizer=[path_length]"],
    ],
    ids=["cdcgan", "dcgan_float32", "stylegan2"],
)
def test_resumed_run_equals_the_whole_one_on_gpu(choices: list[str], cli: Callable[..., Answer], tmp_path: Path) -> None:
    """With torch's deterministic kernels; its fastest ones add in any order."""
    choices = [*choices, "+hardware.deterministic=true"]
    short = [o for o in SHORT if not o.startswith("hardware")]
    whole, parts = tmp_path / "outputs" / "whole", tmp_path / "outputs" / "parts"
    assert cli(*choices, *short, "trainer.max_steps=12", f"hydra.run.dir={whole}").code == 0
    kept = "callbacks.checkpoint.keep=9"
    assert cli(*choices, *short, "trainer.max_steps=12", kept, f"hydra.run.dir={parts}").code == 0
    kill_after(6, parts)
    answer = cli("task=resume", f"run={parts}")
    assert answer.code == 0, answer.err
    assert same(state(whole), state(parts))
    assert rows(whole) == rows(parts)


def test_operations_that_are_never_deterministic_are_named(cli: Callable[..., Answer]) -> None:
    ada = ["model=dcgan", "augment=[ada]", "augment.ada.target=null", "augment.ada.p=0.9", "+hardware.deterministic=true"]
    answer = cli(*ON_GPU, *ada)
    assert answer.code == 1 and "hardware.deterministic: grid_sampler_2d_backward_cuda has no deterministic" in answer.err


def test_batches_are_copied_from_pinned_memory(cli: Callable[..., Answer]) -> None:
    """From other memory the copy waits until the GPU has finished all work before it."""
    data = Digits([1, 32, 32], 10)
    data.prepare()
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))
    batch = data.take(torch.arange(4)), data.y[:4]
    for before, after in zip(batch, data.on_before_batch_transfer(batch, 0), strict=True):
        assert after.is_pinned() and not before.is_pinned()
        assert torch.equal(after, before) and after.stride() == before.stride()


def test_float16_trains_with_penalties(cli: Callable[..., Answer]) -> None:
    answer = cli(*ON_GPU, "hardware=gpu", "hardware.precision=16-mixed", "regularizer=[r1,r2]", "trainer.max_steps=20")
    assert answer.code == 0, answer.err
    assert answer.record["status"] == "finished"


def test_one_gpu_with_processes_trains(cli: Callable[..., Answer]) -> None:
    assert cli(*ON_GPU, "hardware=ddp").code == 0


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("regularizers", ["[]", "[r1]"])
def test_compiled_networks_train_like_eager_ones(
    mode: str, regularizers: str, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    """Rounding differs, so after ten steps the weights are close, not equal."""
    ends = []
    for compiled in ("null", mode):
        run = tmp_path / compiled
        options = [*ON_GPU, "hardware.precision=32-true", "trainer.max_steps=10", f"regularizer={regularizers}"]
        answer = cli(*options, f"hardware.compile={compiled}", f"hydra.run.dir={run}")
        assert answer.code == 0, answer.err
        ends.append(ganexp.load(run).sample(16, seed=0).float().cpu())
    assert (ends[0] - ends[1]).abs().mean() < 0.05


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_networks_with_spectral_norm_train(mode: str, cli: Callable[..., Answer]) -> None:
    narrow = ["model=resnet", "data.shape=[3,32,32]", "model.width_multiplier=0.1", "trainer.max_steps=6", "metrics=[]"]
    answer = cli(*ON_GPU, *narrow, f"hardware.compile={mode}")
    assert answer.code == 0, answer.err


def test_metrics_on_gpu_equal_those_on_cpu(cli: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "run"
    assert cli(*ON_GPU, f"hydra.run.dir={run}").code == 0
    folders = [tmp_path / "first", tmp_path / "second"]
    for seed, folder in enumerate(folders):
        answer = cli("task=sample", f"run={run}", f"seed={seed}", "task.num=64", "task.grid=false", f"hydra.run.dir={folder}")
        assert answer.code == 0, answer.err
    values = []
    for hardware in ("gpu", "cpu"):
        compared = [f"task.real={folders[0]}", f"task.fake={folders[1]}", f"hydra.run.dir={tmp_path / hardware}"]
        answer = cli("task=evaluate", *compared, f"hardware={hardware}", "metrics=[fid,swd]", "extractor=random")
        assert answer.code == 0, answer.err
        values.append(
            {k: v["value"] for k, v in json.loads((tmp_path / hardware / "evaluation.json").read_text())["values"].items()}
        )
    assert values[0] == pytest.approx(values[1], rel=0.01)


@pytest.mark.parametrize("model", ["resnet", "biggan", "stylegan2", "r3gan", "fastgan", "projected", "joint"])
def test_every_modern_network_trains_on_gpu(model: str, cli: Callable[..., Answer]) -> None:
    size = ["data=digits", "data.shape=[3,64,64]", "model.width_multiplier=0.25"]
    answer = cli(*ON_GPU, f"model={model}", *size, "metrics=[swd]")
    assert answer.code == 0, answer.err
