"""ganexp: composable GAN experiments. Train with `python -m ganexp`, sample with `ganexp.load("latest").sample(16)`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganexp.cli.messages import ConfigError as ConfigError
    from ganexp.model import Model as Model
    from ganexp.model import load as load

__version__ = "0.1.0"
__all__ = ["ConfigError", "Model", "load"]
LAZY = {
    "load": "ganexp.model",
    "Model": "ganexp.model",
    "ConfigError": "ganexp.cli.messages",
}  # `import ganexp` must not import torch


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'ganexp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *LAZY]
