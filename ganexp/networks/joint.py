"""Several discriminators as one, such as a plain one and one pretrained on ImageNet (Kumari et al. 2022, arXiv:2112.09130)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ganexp.networks.output import Output, as_output
from ganexp.networks.projected import equal_columns


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with the logits of all `members`, repeated to equally many columns, and their features.

    Raises ValueError if there are no members.
    """

    def __init__(self, members: Mapping[str, nn.Module]):
        super().__init__()
        if not members:
            raise ValueError("members: at least one discriminator is required")
        self.members = nn.ModuleDict(members)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        outputs = [as_output(member(x, y)) for member in self.members.values()]
        return Output(equal_columns([o.logits for o in outputs]), None, tuple(f for o in outputs for f in o.features))
