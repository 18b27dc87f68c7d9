"""The return value of a discriminator."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """A discriminator's output for N rows.

    `logits` [N, K]: adversarial logits; several scales or patches are columns. `classes`: logits of an auxiliary classifier,
    [N, classes], or [N, classes + 1] if the last class means "generated". `features`: hidden maps [N, …], for terms that compare
    them. A discriminator may also return a bare tensor, the logits.
    """

    logits: Tensor
    classes: Tensor | None = None
    features: tuple[Tensor, ...] = ()


def as_output(output: Tensor | Output) -> Output:
    """Converts a discriminator's return value to an Output with logits and classes in float32."""
    logits, classes, features = Output(output) if isinstance(output, Tensor) else output
    return Output(logits.float(), None if classes is None else classes.float(), features)
