"""What a discriminator returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """A discriminator's answer for N rows.

    `logits` [N, K]: all adversarial; several scales or patches are columns. `classes` [N, classes], or [N, classes + 1] where the
    last class means "generated": logits of an auxiliary classifier. `features`: maps [N, …] from inside the network, for terms
    that compare them. A discriminator may return a bare tensor: the logits.
    """

    logits: Tensor
    classes: Tensor | None = None
    features: tuple[Tensor, ...] = ()


def as_output(answer: Tensor | Output) -> Output:
    """What a discriminator returned, its logits and classes in float32."""
    logits, classes, features = Output(answer) if isinstance(answer, Tensor) else answer
    return Output(logits.float(), None if classes is None else classes.float(), features)
