"""Sweeps: each job has its own folder, a failed job does not stop the others, and a summary is printed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import BARE, NARROW, TINY, Answer
from helpers import kill_after

from ganexp.runs import objective_of


def sweep_folder(folder: Path) -> Path:
    (sweep,) = (folder / "outputs" / "sweep").iterdir()
    return sweep


def test_sweep_runs_every_combination_and_counts_failures(cli: Callable[..., Answer]) -> None:
    answer = cli(
        "-m",
        "model=mlp,dcgan",
        "data=sine",
        "seed=1,2",
        *BARE,
        "metrics=[swd]",
        "callbacks=[metrics,checkpoint]",
        "callbacks.metrics.num=32",
        "trainer.max_steps=2",
    )
    assert answer.code == 1
    sweep = sweep_folder(answer.folder)
    records = {job.name: json.loads((job / "run.json").read_text()) for job in sweep.iterdir() if job.is_dir()}
    assert {name: r["status"] for name, r in records.items()} == {"0": "finished", "1": "finished", "2": "failed", "3": "failed"}
    board = json.loads((sweep / "leaderboard.json").read_text())
    assert [(row["runs"], row["finished"]) for row in board["settings"]] == [(2, 2), (2, 0)] and "model=mlp" in answer.out
    assert [records[name]["seed"] for name in "01"] == [1, 2]
    assert "DCGAN needs images" in records["2"]["error"]
    assert "2 of 4 jobs failed" in answer.out and "model=mlp seed=2" in answer.out and "swd/pixels" in answer.out
    overrides = yaml.safe_load((sweep / "3" / ".hydra" / "overrides.yaml").read_text())
    assert {"model=dcgan", "seed=2"} <= set(overrides)


def test_jobs_that_would_write_one_place_are_refused(cli: Callable[..., Answer]) -> None:
    answer = cli("-m", "model=mlp", "data=sine", "seed=1,2", "callbacks.checkpoint.folder=there")
    message = (
        f"ganexp: callbacks.checkpoint.folder: several jobs would write {answer.folder}/there; choose a place in {{run_dir}}\n"
    )
    assert answer.code == 2 and answer.err == message and not list(answer.folder.iterdir())


@pytest.mark.slow
def test_sweep_over_seeds_gives_different_values(cli: Callable[..., Answer]) -> None:
    answer = cli("-m", "model=mlp", "data=sine", "seed=1,2", *TINY, *NARROW["mlp"])
    assert answer.code == 0, answer.err
    values = [
        json.loads(file.read_text())["metrics"]["swd/pixels"]["last"] for file in sweep_folder(answer.folder).glob("*/run.json")
    ]
    assert len(set(values)) == 2 and "all 2 jobs finished" in answer.out


def test_sweep_takes_flags_and_overrides_in_any_order(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    answer = cli("model=mlp", "data=sine", "seed=1,2", *BARE, *NARROW["mlp"], "hydra.sweep.subdir=a/${hydra.job.num}",
                 "hydra.sweep.dir='it\\'s'", "--config-dir", "mine", "-m")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "all 2 jobs finished" in answer.out
    record = json.loads((tmp_path / "it's" / "a" / "1" / "run.json").read_text())
    assert record["job"] == 1 and "seed=2" in record["overrides"] and record["command"].endswith("--config-dir mine -m")


@pytest.mark.slow
def test_sweep_counts_a_failure_in_a_nested_folder(cli: Callable[..., Answer]) -> None:
    answer = cli("-m", "model=dcgan,mlp", "data=sine", *TINY, "hydra.sweep.subdir=a/${hydra.job.num}", "hydra.output_subdir=null")
    assert answer.code == 1 and "1 of 2 jobs failed" in answer.out


@pytest.mark.slow
def test_sweep_runs_jobs_in_parallel(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ganexp", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=mlp", "data=sine",
         "seed=1,2", *TINY, *NARROW["mlp"]],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all 2 jobs finished" in done.stdout
    assert len(list(sweep_folder(tmp_path).glob("*/checkpoints/last.ckpt"))) == 2


@pytest.mark.slow
def test_killed_sweep_goes_on(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Job 0 is finished and kept, job 1 was killed after its second step and resumes, job 2 starts."""
    command = ["-m", "model=mlp", "data=sine", "seed=1,2,3", *TINY, *NARROW["mlp"], "hydra.sweep.dir=S"]
    assert cli(*command).code == 0
    record = json.loads((tmp_path / "S" / "1" / "run.json").read_text())
    rows = (tmp_path / "S" / "1" / "metrics.csv").read_text()
    kill_after(2, tmp_path / "S" / "1")
    shutil.rmtree(tmp_path / "S" / "2")
    before = (tmp_path / "S" / "0" / "metrics.csv").stat().st_mtime_ns
    answer = cli(*command)
    assert answer.code == 0 and "all 3 jobs finished" in answer.out, answer.err
    assert (tmp_path / "S" / "0" / "metrics.csv").stat().st_mtime_ns == before
    again = json.loads((tmp_path / "S" / "1" / "run.json").read_text())
    assert again["resumed_at"] == [2] and again["metrics"] == record["metrics"]
    assert (tmp_path / "S" / "1" / "metrics.csv").read_text() == rows
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.yaml").write_text("defaults: [config, _self_]\n")
    for change in (["trainer.log_every=2"], ["--config-dir", "mine", "--config-name", "other"]):
        other = cli("-m", *change, *command[1:])
        assert other.code == 2 and "has another sweep" in other.err, other.err


def test_objective_is_the_last_value_of_the_metric_that_picks_best() -> None:
    record = {"status": "finished", "best": {"metric": "fid/a"}, "metrics": {"swd/a": {"last": 1}, "fid/a": {"last": 3.5}}}
    assert objective_of(record) == 3.5
    assert objective_of(record | {"status": "failed"}) is None and objective_of({}) is None
