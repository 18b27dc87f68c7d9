"""What is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where extractors and features are kept between runs: `~/.cache/ganexp`, or `$XDG_CACHE_HOME/ganexp`. Safe to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ganexp"
