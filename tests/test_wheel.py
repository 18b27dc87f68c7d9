"""The wheel has its config tree and runs in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NARROW, TINY

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("ganexp-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize("command", [[sys.executable, "-m", "ganexp"], ["bin/ganexp"]], ids=["module", "script"])
def test_installed_wheel_runs_outside_the_checkout(command: list[str], installed: Path, tmp_path: Path) -> None:
    words = [str(installed / word) if word.startswith("bin/") else word for word in command]
    where = "import ganexp.cli.config as c; print(c.CONF_DIR)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(installed / "ganexp" / "conf")
    done = subprocess.run(
        [*words, *TINY, *NARROW["cdcgan"]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/cdcgan_digits/*/checkpoints/last.ckpt"))) == 1
