"""Checks of what a system is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn


def checked_clip(norm: float | None, name: str) -> float | None:
    if norm is not None and norm <= 0:
        raise ValueError(f"{name}: a norm above 0, or null to clip nothing, not {norm}")
    return norm


def located(error: Exception, path: str) -> ValueError:
    """The error with its place: `regularizers.r1.weight: …` of one at regularizers.r1 that begins with `weight: …`."""
    return ValueError(f"{path}{'.' if re.match(r'[a-z0-9_.]+: ', str(error)) else ': '}{error}")


def checked(parts: Mapping[str, Any], kind: type, name: str, taken: Iterable[str] = ()) -> dict[str, Any]:
    """The parts, which are of one kind, and whose names are free."""
    for key, part in parts.items():
        if not isinstance(part, kind):
            raise ValueError(f"{name}.{key}: {type(part).__name__} is not a {kind.__module__}.{kind.__name__}")
        if key in taken:
            raise ValueError(f"{name}.{key}: the model or its loss has a term of this name")
        if not key or "." in key or hasattr(nn.ModuleDict(), key):
            raise ValueError(f"{name}.{key}: cannot be a name; choose another")
    return dict(parts)
