"""ganexp: composable GAN experiments. Train with `python -m ganexp`, sample with `ganexp.load("latest").sample(16)`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganexp.cli.messages import ConfigError as ConfigError
    from ganexp.export.hub import push_to_hub as push_to_hub
    from ganexp.model import Model as Model
    from ganexp.model import from_hub as from_hub
    from ganexp.model import load as load

__version__ = "0.1.0"
__all__ = ["ConfigError", "Model", "from_hub", "load", "push_to_hub"]
LAZY = {
    "load": "ganexp.model",
    "Model": "ganexp.model",
    "from_hub": "ganexp.model",
    "push_to_hub": "ganexp.export.hub",
    "ConfigError": "ganexp.cli.messages",
}  # `import ganexp` must not import torch


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'ganexp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *LAZY]
