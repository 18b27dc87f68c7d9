"""The scripts in benchmarks/ run. What they measure on a busy machine says nothing, so only their tables are looked at."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Answer, write_images
from omegaconf import OmegaConf
from test_explorer import browser_test

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(folder: Path, script: str, *arguments: object) -> str:
    """Runs a benchmark in `folder` and returns what it prints."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    write_images(folder, 70)
    return folder


def test_speed(tmp_path: Path) -> None:
    table = run(tmp_path, "speed.py", "mlp", "--rounds", 1, "--steps", 2, "--batch-size", 4)
    assert "plain loop" in table and "ratio" in table


@pytest.mark.slow
def test_ranks(tmp_path: Path) -> None:
    assert "ratio" in run(tmp_path, "ranks.py", "--rounds", 1)


@pytest.mark.slow
def test_reading(tmp_path: Path, pictures: Path) -> None:
    assert "images/s" in run(tmp_path, "reading.py", pictures, "--size", 16, "--batch", 8, "--rounds", 1)


@pytest.mark.slow
def test_sampling(tmp_path: Path) -> None:
    arguments = ["--side", 32, "--num", 64, "--rounds", 1, "--set", "model.width_multiplier=0.1"]
    assert "samples/s" in run(tmp_path, "sampling.py", *arguments)


@pytest.mark.slow
def test_distortions(tmp_path: Path, pictures: Path) -> None:
    assert "| blur" in run(tmp_path, "distortions.py", pictures, "--num", 30, "--size", 32)


@pytest.mark.slow
def test_estimates(tmp_path: Path) -> None:
    assert "| ring |" in run(tmp_path, "estimates.py", "ring", "--hardware", "cpu", "--seconds", 1)


@pytest.mark.slow
def test_published(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli(*TINY, "experiment=sine_mlp", "metrics=[swd]")
    assert answer.code == 0, answer.err
    assert "sliced Wasserstein-1" in run(tmp_path, "published.py", "sine", answer.run)


@pytest.mark.slow
def test_studies(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    study = ["task=study", "study.axes={loss:[bce,hinge],regularizer:[[],[r1]]}", "study.seeds=2", "logger=[csv]"]
    answer = cli(*TINY, *study, "experiment=ring", "metrics=[swd]", f"hydra.run.dir={tmp_path}/study")
    assert answer.code == 0, answer.err
    for table, words in (("cells", "hinge"), ("effects", "hinge"), ("seeds", "mean of the last values")):
        assert words in run(tmp_path, "studies.py", table, tmp_path / "study", "swd/pixels")


@pytest.mark.slow
@browser_test
def test_explorer(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    answer = cli(*TINY, "metrics=[swd]")
    assert answer.code == 0, answer.err
    assert " ms" in run(tmp_path, "explorer.py", answer.run, "--moves", 2)


@pytest.mark.slow
def test_players(tmp_path: Path, pictures: Path) -> None:
    recipe = ["--root", pictures, "--data", "folder", "--side", 32, "--only", "projected", "--out", "out",
              "--set", "augment=[flip]"]  # fmt: skip
    steps = []
    for minutes in (0.01, 0.02, 0.02):  # the second call goes on with the run, the third finds nothing left to train
        run(tmp_path, "players.py", *recipe, "--minutes", minutes, "--samples", 60)
        with open(tmp_path / "out" / "folder" / "players.csv") as file:
            (row,) = csv.DictReader(file)
        assert row["recipe"] == "projected-s0"
        steps.append(float(row["steps"]))
    record = json.loads((tmp_path / "out" / "folder" / "projected-s0" / "run.json").read_text())
    assert 0 < steps[0] < steps[1] == steps[2] and record["resumed_at"] == [steps[0]]
    assert list(OmegaConf.load(tmp_path / "out" / "folder" / "projected-s0" / "config.yaml")["augment"]) == ["flip"]
