"""Truncation and style mixing: tables of samples whose rows and columns differ in one thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganexp.latent_space.codes import (
    MOST,
    Codes,
    TrainedModel,
    check_number,
    check_seeds,
    chosen_space,
    from_seeds,
    has_w,
    render,
    to_space,
)


def truncate(
    model: TrainedModel,
    seeds: Sequence[int] = (0, 1, 2, 3),
    labels: Sequence[int] | None = None,
    psi: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> Tensor:
    """Samples [seeds, psi, *shape]: a row a seed, a column a truncation ψ.

    1 is the sample itself and 0 the mean: of w (Karras et al. 2019, arXiv:1812.04948, appendix B), or z = 0 where there is no
    w. Between them samples become better and less diverse; above 1 the other way round. Raises ValueError for ψ beyond ±10.
    """
    if not 1 <= len(psi) * len(seeds) <= MOST:
        raise ValueError(f"psi: must ask for 1 to {MOST:,} samples, got {len(psi)} for each of {len(seeds)} seeds")
    for value in psi:
        check_number("psi", value, -10, 10)
    z, space = from_seeds(model, seeds, labels, "z"), chosen_space(model, None)
    with torch.no_grad():
        columns = [to_space(model, z.x, z.y, space, value).x for value in psi]
    y = z.y.repeat_interleave(len(psi))
    return render(model, Codes(torch.stack(columns, 1).flatten(0, 1), y, space)).unflatten(0, (-1, len(psi)))


def style_layers(model: TrainedModel, layers: Sequence[int] | None) -> list[int]:
    """The chosen layers of w; null: the first half, which is the coarse one.

    Raises ValueError for a generator without styles and for layers that it does not have.
    """
    if not has_w(model):
        raise ValueError("this generator has no styles; style mixing requires them (model=stylegan2)")
    generator: Any = model.system.sampler
    count: int = generator.layers
    for layer in layers or ():
        if not 0 <= layer < count:
            raise ValueError(f"layers: must be from 0 to {count - 1} for this generator, got {layer}")
    return list(range(count // 2)) if layers is None else list(layers)


def style_mix(
    model: TrainedModel,
    rows: Sequence[int] = (0, 1, 2, 3),
    columns: Sequence[int] = (4, 5, 6, 7),
    layers: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """Samples [1 + rows, 1 + columns, *shape]: in the first row those of the seeds `columns`, in the first column those of the
    seeds `rows`, between them the row's sample with the styles of the column's in some layers; the corner is the mean w.

    Style mixing (Karras et al. 2019, arXiv:1812.04948, section 3.1). `layers`: numbers of layers of w, the first are coarse;
    null: the first half. `labels`: of the rows and of the columns, in turn. Raises ValueError where there are no styles.
    """
    chosen = style_layers(model, layers)
    check_seeds(rows, "rows")
    check_seeds(columns, "columns")
    check_number("columns", (1 + len(rows)) * (1 + len(columns)), 4, MOST)
    down = from_seeds(model, rows, labels, "w", truncation).x
    across = from_seeds(model, columns, labels, "w", truncation).x
    mean: Tensor = model.system.sampler.w_mean  # type: ignore[assignment]
    table = [torch.cat([mean.expand_as(across[:1]), across])]
    for w in down:
        mixed = w.expand_as(across).clone()
        mixed[:, chosen] = across[:, chosen]
        table.append(torch.cat([w[None], mixed]))
    w = torch.cat(table)
    y = torch.zeros(len(w), dtype=torch.int64, device=w.device)  # it is in w
    return render(model, Codes(w, y, "w")).unflatten(0, (-1, 1 + len(columns)))
