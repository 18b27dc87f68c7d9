"""What the tabs show: pictures of a model, each with a caption and the lines of Python that make it again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ganexp import pictures
from ganexp.explorer.opened import Opened
from ganexp.images import to_float
from ganexp.latent_space import drawing
from ganexp.latent_space.attributes import Attribute
from ganexp.latent_space.codes import check_number, from_prior, from_seeds, render
from ganexp.latent_space.directions import Method, moved
from ganexp.latent_space.film import check_film, frames, write_film
from ganexp.latent_space.interpolation import chosen_curve, code_path, interpolation, keyframes, loop
from ganexp.latent_space.projection import Target
from ganexp.latent_space.real import read_picture

MOST_SAMPLES = 100  # of one grid
STRIP = 8  # samples of a path
FRAMES, FPS = 24, 12  # of a film, from one end to the other
CHOICES, COLUMNS = 40, 10  # of training samples to choose from
NEAREST = 7  # training samples


class View(NamedTuple):
    picture: Image.Image
    caption: str
    code: str


class Towards(NamedTuple):
    """A class of the data, and the direction towards it."""

    number: int
    found: Attribute


class Grid(NamedTuple):
    """The samples of the seeds from `seed` on: `n` in rows of `columns`, of the class `label`, or of all classes in turn."""

    seed: int
    n: int
    columns: int
    label: int | None

    def picked(self, opened: Opened, point: Sequence[float]) -> tuple[int, int | None]:
        """The seed and the class of the sample at a point (x, y) of the picture."""
        if not opened.images:
            raise ValueError("Only pictures are picked by a click; type a seed to pick a point.")
        number = pictures.number_at(point, self.n, self.columns, opened.model.shape)
        classes = opened.model.classes
        return self.seed + number, number % classes if classes and self.label is None else self.label


# -- samples -------------------------------------------------------------------------------------------------------------


def grid_of(opened: Opened, seed: int, num: int, label: int | None) -> Grid:
    """About `num` samples in whole rows; a multiple of the classes in a row, if all of up to 20 come in turn."""
    check_number("samples", num, 1, MOST_SAMPLES)
    classes = opened.model.classes if label is None else None
    columns = pictures.columns_for(num, classes if classes and classes <= 20 else None)
    rows = max(1, min(round(num / columns), MOST_SAMPLES // columns))
    return Grid(seed, rows * columns, columns, label)


def samples(opened: Opened, grid: Grid, truncation: float) -> View:
    seeds, labels = range(grid.seed, grid.seed + grid.n), labels_of(grid.label)
    x = render(opened.model, from_seeds(opened.model, seeds, labels, truncation=truncation))
    made = f"x = model.truncate({seeds}, labels={labels}, psi=[{truncation}])[:, 0]  # {shape_text(x)}"
    picture = sheet(opened, x.unflatten(0, (-1, grid.columns))) if opened.images else scatter(opened, x)
    return View(picture, f"seeds {seeds[0]} to {seeds[-1]}", lines(opened, made, columns=grid.columns))


def sample(opened: Opened, seed: int, label: int | None, truncation: float) -> View:
    """One sample, enlarged."""
    x = render(opened.model, from_seeds(opened.model, [seed], labels_of(label), truncation=truncation))
    made = f"x = model.sample(1, label={label}, seed={seed}, truncation={truncation})"
    return View(single(opened, x), name_of(seed, label), lines(opened, made, None))


def neighbours(opened: Opened, seed: int, label: int | None, truncation: float) -> View:
    """The sample, and its nearest training samples."""
    x = render(opened.apart, from_seeds(opened.apart, [seed], labels_of(label), truncation=truncation))
    found = opened.real_features.neighbours(x, min(NEAREST, len(opened.real_features.order) - 1))
    nearest = to_float(opened.data.take(found.numbers[0]))
    distance, typical = float(found.distances[0, 0]), float(found.real_distances.median())
    closer = float((found.real_distances < distance).float().mean())
    caption = (
        f"First the sample, then its nearest training samples in the features of {found.extractor}. The nearest has the distance "
    )
    caption += f"{distance:.3g}. Of the training samples, half have another one within {typical:.3g}, and {closer:.0%} within "
    caption += f"{distance:.3g}: near 0 % the sample may be a copy."
    body = f"x = model.sample(1, label={label}, seed={seed}, truncation={truncation})\n"
    data = f"training_data(model{trusting(opened)})"
    body += f"found = model.neighbours(samples=x, k={len(nearest)}, data={data})\n"
    body += f"x = torch.cat([x, to_float({data}.take(found.numbers[0]))])"
    more = ["from ganexp.images import to_float", "from ganexp.latent_space.real import training_data"]
    picture = sheet(opened, torch.cat([x, nearest])[None])
    return View(picture, caption, lines(opened, body, columns=1 + len(nearest), imports=more, torch=True))


# -- morphs --------------------------------------------------------------------------------------------------------------


def morph(opened: Opened, ends: Sequence[tuple[int, int | None]], t: float, truncation: float) -> View:
    """The sample at t in [0, 1] of the path from one (seed, class) to another."""
    check_number("position", t, 0, 1)
    seeds, labels = seeds_and_labels(ends)
    keys = keyframes(opened.model, seeds, labels, None, truncation)
    curve = chosen_curve(opened.model, keys.space, None)
    codes = code_path(keys, torch.tensor([t], dtype=torch.float64), curve, False, opened.model.classes)
    body = f"ends = from_seeds(model, {seeds}, {labels}, truncation={truncation})\n"
    body += f'x = render(model, code_path(ends, torch.tensor([{t}]).double(), "{curve}", False, model.classes))'
    more = [
        "from ganexp.latent_space.codes import from_seeds, render",
        "from ganexp.latent_space.interpolation import code_path",
    ]
    picture = single(opened, render(opened.model, codes))
    return View(picture, f"{t:.0%} of the way", lines(opened, body, None, imports=more, torch=True))


def strip(opened: Opened, ends: Sequence[tuple[int, int | None]], truncation: float) -> View:
    """The whole path in eight samples."""
    seeds, labels = seeds_and_labels(ends)
    x = render(opened.model, interpolation(opened.model, seeds, labels, STRIP, truncation=truncation))
    made = f"x = model.interpolate({seeds}, {labels}, steps={STRIP}, truncation={truncation})[0]  # {shape_text(x)}"
    return View(sheet(opened, x[None]), "the whole way", lines(opened, made, columns=STRIP))


def film(opened: Opened, ends: Sequence[tuple[int, int | None]], truncation: float, file: Path) -> tuple[str, str]:
    """Writes a WebP that goes there and back, and repeats; its caption, and its code. Raises ValueError for points."""
    check_film(opened.model, "webp", FPS)
    seeds, labels = seeds_and_labels(ends)
    write_film(frames(opened.apart, loop(opened.apart, seeds, labels, FRAMES, truncation=truncation)), file, FPS)
    body = f"codes = loop(model, {seeds}, {labels}, frames={FRAMES}, truncation={truncation})\n"
    body += f'write_film(frames(model, codes), Path("picture.webp"), fps={FPS})'
    more = ["from ganexp.latent_space.film import frames, write_film", "from ganexp.latent_space.interpolation import loop"]
    code = "\n".join(["from pathlib import Path", "", "import ganexp", *more, "", load_line(opened), body])
    return f"there and back, {2 * FRAMES} pictures", code


def seeds_and_labels(ends: Sequence[tuple[int, int | None]]) -> tuple[list[int], list[int] | None]:
    """The arguments of `keyframes`; the ends of an unconditional model have no labels."""
    labels = [label for _, label in ends if label is not None]
    return [seed for seed, _ in ends], labels or None


# -- directions ----------------------------------------------------------------------------------------------------------


def along(
    opened: Opened, method: Method, amounts: Sequence[float], seed: int, label: int | None, truncation: float,
    towards: Towards | None = None, amount: float = 0.0,
) -> View:  # fmt: skip
    """A sample moved along the first directions at once, and by `amount` towards a class of the data; `amounts`: how far along
    each, in its units."""
    found = opened.directions(method)
    n = min(len(amounts), len(found.vectors))
    direction = torch.tensor(amounts[:n]) * found.units[:n] @ found.vectors[:n]
    if towards is not None:
        direction += amount * towards.found.unit * towards.found.direction
    codes = from_seeds(opened.model, [seed], labels_of(label), found.space, truncation)
    x = render(opened.model, moved(codes, direction, torch.ones(1)))
    body = f'found = model.directions("{method}", num={n})\n'
    body += f"direction = torch.tensor({list(amounts[:n])}) * found.units @ found.vectors\n"
    more = ["from ganexp.latent_space.codes import from_seeds, render", "from ganexp.latent_space.directions import moved"]
    if towards is not None:
        more += ["from ganexp.latent_space.real import training_data"]
        body += f"towards = model.attribute({towards.number}, data=training_data(model{trusting(opened)}))\n"
        body += f"direction += {amount} * towards.unit * towards.direction\n"
    body += f"codes = from_seeds(model, [{seed}], {labels_of(label)}, found.space, {truncation})\n"
    body += "x = render(model, moved(codes, direction, torch.ones(1)))"
    return View(single(opened, x), name_of(seed, label), lines(opened, body, None, imports=more, torch=True))


def towards(opened: Opened, number: int) -> Towards:
    """The direction towards a class of the data. Raises ValueError for one that there is not."""
    return Towards(number, opened.apart.attribute(number, data=opened.data))


# -- projection ----------------------------------------------------------------------------------------------------------


def choices(opened: Opened) -> tuple[Image.Image, list[int]]:
    """Some of the training pictures in rows, the same ones each time; and their numbers."""
    order = opened.data.order(CHOICES)
    return pictures.grid(to_float(opened.data.take(order)), COLUMNS), order.tolist()


def chosen(opened: Opened, numbers: Sequence[int], point: Sequence[float]) -> int:
    """The number of the training sample at a point (x, y) of the picture of `choices`."""
    return numbers[pictures.number_at(point, len(numbers), COLUMNS, opened.model.shape)]


def project(
    opened: Opened, file: str | None, number: int, label: int | None, space: Target | None, steps: int
) -> tuple[View, Image.Image]:
    """The target, a picture's file or the training sample `number`, beside the result; and the search: the target, then some of
    its stages. Raises ValueError for a file that cannot be read or is too large."""
    check_number("steps", steps, 1, 1000)
    model = opened.apart
    wanted = None if file is None else read_picture(file, model.shape, "the picture")
    found = model.project(wanted, label, space, steps, extractor=opened.make_extractor(), data=opened.data, number=number)
    both = torch.cat([found.target[None], found.picture[None]])
    caption = f"Left the picture, right the nearest sample that was found in {found.space}. The mean square difference fell from "
    caption += f"{found.start_mse:.3g} to {found.mse:.3g} in {len(found.distances)} steps."
    body = "" if file is None else f"target = read_picture({Path(file).name!r}, model.shape)\n"
    body += f"found = model.project({'None' if file is None else 'target'}, {label}, {space!r}, {steps}"
    body += f", number={number}" if file is None else ""
    body += ")\nx = torch.cat([found.target[None], found.picture[None]])  # found.code is the latent"
    more = ["from ganexp.latent_space.real import read_picture"] if file is not None else []
    search = sheet(opened, torch.cat([found.target[None], found.stages])[None])
    return View(sheet(opened, both[None]), caption, lines(opened, body, 2, imports=more, torch=True)), search


# -- real or generated ---------------------------------------------------------------------------------------------------


def question(opened: Opened) -> tuple[Image.Image, bool]:
    """A training picture or a sample, by chance, and whether it is real. Raises ValueError for points."""
    if not opened.images:
        raise ValueError("The quiz shows pictures; this model makes points.")
    real = bool(random.getrandbits(1))
    if real:
        x = to_float(opened.data.take(torch.tensor([random.randrange(len(opened.data.x))])))
    else:
        label = None if opened.model.classes is None else [random.randrange(opened.model.classes)]
        x = render(opened.model, from_prior(opened.model, 1, random.getrandbits(31), label))
    return single(opened, x), real


def verdict(real: bool, answer: bool, right: int, asked: int) -> str:
    """What is said after an answer; `right` of `asked` with this one."""
    said = "Right" if real == answer else "Wrong"
    return f"{said}: it is {'real' if real else 'generated'}. {right} of {asked} right; guessing gives half."


# -- pictures and lines ----------------------------------------------------------------------------------------------------


def single(opened: Opened, x: Tensor) -> Image.Image:
    """One sample [1, *shape]; a point over the real ones."""
    return pictures.enlarged(x[0]) if opened.images else sheet(opened, x[None])


def sheet(opened: Opened, x: Tensor) -> Image.Image:
    """Samples [rows, columns, *shape] as a grid, points over the real ones. Raises ValueError for points not in a plane."""
    real = None if opened.images else opened.data.real(2000)
    picture = drawing.sheet(x, real, f"step {opened.model.step:,}")
    if picture is None:
        raise ValueError(f"Points of {opened.model.shape[0]} coordinates cannot be drawn, only those of 2.")
    return picture


def scatter(opened: Opened, x: Tensor) -> Image.Image:
    """Points [N, 2] over the real ones. Raises ValueError for points of another dimension."""
    return pictures.render(x, 1, opened.data.real(2000), f"step {opened.model.step:,}")


def lines(opened: Opened, body: str, columns: int | None, imports: Sequence[str] = (), torch: bool = False) -> str:
    """Python that makes samples x by `body` and writes their picture: `columns` of them, or the one that there is."""
    head = ["from pathlib import Path", ""] if opened.images else []
    head += ["import torch", ""] if torch else []
    head += ["import ganexp"]
    head += ["from ganexp import pictures"] if opened.images else []
    head += list(imports)
    text = "\n".join([*head, "", load_line(opened), body])
    drawn = "enlarged(x[0])" if columns is None else f"grid(x, {columns})"
    return text + (f'\npictures.save(pictures.{drawn}, Path("picture.png"))' if opened.images else "")


def load_line(opened: Opened) -> str:
    return f"model = ganexp.load({str(opened.model.checkpoint)!r}{trusting(opened)})"


def trusting(opened: Opened) -> str:
    return f", trust={list(opened.trust)}" if opened.trust else ""


def labels_of(label: int | None) -> list[int] | None:
    return None if label is None else [label]


def name_of(seed: int, label: int | None) -> str:
    return f"seed {seed}" + ("" if label is None else f", class {label}")


def shape_text(x: Tensor) -> str:
    return f"[{', '.join(map(str, x.shape))}]"
