"""Checks of a system's arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn


def check_clip(norm: float | None, name: str) -> float | None:
    if norm is not None and norm <= 0:
        raise ValueError(f"{name}: must be above 0, got {norm}; null disables clipping")
    return norm


def with_path(error: Exception, path: str) -> ValueError:
    """Returns the error prefixed with a config path: `weight: …` at regularizers.r1 becomes `regularizers.r1.weight: …`."""
    return ValueError(f"{path}{'.' if re.match(r'[a-z0-9_.]+: ', str(error)) else ': '}{error}")


def check_named(modules: Mapping[str, Any], cls: type, group: str, reserved: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the modules as a dict. Raises ValueError for one of another class and for a reserved or invalid name."""
    for name, module in modules.items():
        if not isinstance(module, cls):
            raise ValueError(f"{group}.{name}: {type(module).__name__} is not a {cls.__module__}.{cls.__name__}")
        if name in reserved:
            raise ValueError(f"{group}.{name}: the model or its loss already has a term of this name")
        if not name or "." in name or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"{group}.{name}: is not a valid name; choose another")
    return dict(modules)
