"""A stopped run ends after its step with a checkpoint; resumed, it equals the run that never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Answer
from helpers import rows, same, state

RUN = [
    "model=mlp", "data=sine", "hardware=cpu", "trainer.max_steps=3000", "trainer.log_every=1", "trainer.samples_every=1000",
    "trainer.metrics_every=1000", "trainer.checkpoint_every=1000", "callbacks.metrics.num=32", "model.width_multiplier=0.05",
]  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ganexp", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_steps(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").is_file() or len((run / "metrics.csv").read_text().splitlines()) < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


SIGNAL = """
import signal
from pytorch_lightning import Callback


class Signal(Callback):
    def on_train_batch_start(self, trainer, system, batch, batch_idx):
        if trainer.global_step == 6:
            signal.raise_signal(signal.SIGINT)
"""


def test_run_stops_after_the_step_of_the_signal(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """And continues from there as if it had not stopped."""
    (tmp_path / "own_signal.py").write_text(SIGNAL)
    handler = signal.getsignal(signal.SIGINT)
    answer = cli(*RUN, "hydra.run.dir=parts", "+callbacks.signal._target_=own_signal.Signal")
    assert answer.code == 130 and "ganexp: stopping after this step" in answer.err and "Traceback" not in answer.err
    assert "at step 7; to continue: python -m ganexp task=resume run=parts" in answer.out
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["steps"] == 7 and signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "parts" / "samples" / "step-00000007.png").is_file()
    assert cli("task=resume", "run=parts", "trainer.max_steps=9", "trust=[own_signal]").code == 0
    assert cli(*RUN, "trainer.max_steps=9", "hydra.run.dir=whole").code == 0
    assert same(state(tmp_path / "parts")["state_dict"], state(tmp_path / "whole")["state_dict"])
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    one, other = ({file.name for file in (tmp_path / run / "samples").iterdir()} for run in ("parts", "whole"))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_a_process_stops_its_run(number: signal.Signals, cli: Callable[..., Answer], tmp_path: Path) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    process = start(tmp_path, *RUN, f"hydra.run.dir={parts}")
    wait_for_steps(parts, process)
    process.send_signal(number)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, out
    record = json.loads((parts / "run.json").read_text())
    step = record["steps"]
    assert record["status"] == "interrupted" and 0 < step < 3000
    assert f"at step {step:,}; to continue: python -m ganexp task=resume run=parts" in out and "Traceback" not in out
    end = f"trainer.max_steps={step + 5}"
    assert cli("task=resume", f"run={parts}", end).code == 0
    assert cli(*RUN, end, f"hydra.run.dir={whole}").code == 0
    assert same(state(parts)["state_dict"], state(whole)["state_dict"])
    assert rows(parts) == rows(whole)


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path: Path) -> None:
    process = start(tmp_path, *[o for o in RUN if o != "hardware=cpu"], "hardware=ddp_cpu", "hydra.run.dir=run")
    wait_for_steps(tmp_path / "run", process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 130, out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["steps"] % 10 == 0
    assert (tmp_path / "run" / "checkpoints" / f"step-{record['steps']:08d}.ckpt").is_file()


@pytest.mark.slow
def test_stopped_job_ends_the_sweep(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", "seed=1,2", *RUN, "hydra.sweep.dir=sweep")
    wait_for_steps(tmp_path / "sweep" / "0", process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode != 0, out
    assert json.loads((tmp_path / "sweep" / "0" / "run.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "sweep" / "1" / "checkpoints").exists()
