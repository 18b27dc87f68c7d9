"""Several discriminators as one, such as a plain one and one pretrained on ImageNet (Kumari et al. 2022, arXiv:2112.09130)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ganexp.networks.output import Output, as_output
from ganexp.networks.projected import equal_columns


class Discriminator(nn.Module):
    """image [N, *shape], y [N] -> Output with the logits of all `members`, repeated to equally many columns, the mean of the
    class logits of those that have any, and all their features.

    Raises ValueError if there are no members; `forward`, if their class logits are not equally many.
    """

    def __init__(self, members: Mapping[str, nn.Module]):
        super().__init__()
        if not members:
            raise ValueError("members: at least one discriminator is required")
        self.members = nn.ModuleDict(members)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        outputs = [as_output(member(x, y)) for member in self.members.values()]
        classes = [o.classes for o in outputs if o.classes is not None]
        if len(counts := {each.shape[1] for each in classes}) > 1:
            raise ValueError(f"members: their class logits must be equally many, got {sorted(counts)}; set the same auxiliary")
        features = tuple(f for o in outputs for f in o.features)
        return Output(equal_columns([o.logits for o in outputs]), torch.stack(classes).mean(0) if classes else None, features)
