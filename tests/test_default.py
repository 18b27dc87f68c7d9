"""The whole default run: `pytest -m slow tests/test_default.py`, about two minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Answer
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from ganexp import sampling
from ganexp.runtime.restoring import restore


@pytest.mark.slow
def test_default_run_generates_the_digits_asked_for(tmp_path: Path) -> None:
    """A classifier that never saw a sample assigns at least nine in ten of them to the class they were generated for."""
    done = subprocess.run([sys.executable, "-m", "ganexp"], cwd=tmp_path, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    answer = Answer(done.returncode, done.stdout, done.stderr, tmp_path)
    assert answer.record["steps"] == 3000

    digits = load_digits()
    reader = SVC(gamma=0.001).fit(digits.data[:1400], digits.target[:1400])
    assert reader.score(digits.data[1400:], digits.target[1400:]) > 0.95

    system, _, _ = restore(answer.run / "checkpoints" / "best.ckpt", [])
    samples = sampling.sample(system, 2000, seed=0)
    wanted = (torch.arange(2000) % 10).numpy()
    read = reader.predict(((samples + 1) * 8).flatten(1).numpy())
    accuracy = np.mean(read == wanted)
    print(f"conditional accuracy {accuracy:.4f}, {answer.record['seconds']} s, {answer.record['best']}")
    assert accuracy > 0.9
    pairs = torch.pdist(samples.flatten(1)[:500]).mean()
    real = torch.pdist(torch.from_numpy(digits.data[:500]).float() / 8 - 1).mean()
    assert pairs > 0.8 * real, "the samples are too much alike"
