"""The distances by each extractor for eight distortions of real images, each in four strengths, against other real images.

    python benchmarks/distortions.py FOLDER [--num 1000] [--size 64]

prints a table in Markdown: Fréchet distances of lite0 and random features, and the sliced Wasserstein distance of pixels. `<`:
the stronger distortion has the larger distance; `≥`: it does not. `≤ none`: the weakest has no
larger distance than undistorted images.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.cluster import KMeans
from torch import Tensor

from ganexp.data.folder import Folder
from ganexp.evaluation import Evaluation
from ganexp.images import to_float
from ganexp.metrics.features import Pixels, Random
from ganexp.metrics.fid import FID
from ganexp.metrics.lite0 import Lite0
from ganexp.metrics.swd import SlicedWasserstein

CLUSTERS = 16
rng = np.random.default_rng(0)


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    """A change of one image, for a batch uint8 [N, H, W, 3]."""
    return lambda x: np.stack([np.asarray(change(Image.fromarray(image))) for image in x])


def blur(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return each(lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))


def noise(deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (x + rng.normal(0, deviation, x.shape)).round().clip(0, 255).astype(np.uint8)


def jpeg(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return each(change)


def shift(fraction: float) -> Callable[[np.ndarray], np.ndarray]:
    """Shift to the right, repeating the border."""

    def change(x: np.ndarray) -> np.ndarray:
        px = round(fraction * x.shape[2])
        return np.pad(x, ((0, 0), (0, 0), (px, 0), (0, 0)), "edge")[:, :, : x.shape[2]]

    return change


def erase(side: float) -> Callable[[np.ndarray], np.ndarray]:
    """A grey square at a random position, whose side is this fraction of the image's."""

    def change(x: np.ndarray) -> np.ndarray:
        x, px = x.copy(), round(side * x.shape[1])
        for image in x:
            top, left = rng.integers(0, x.shape[1] - px + 1, 2)
            image[top : top + px, left : left + px] = 127
        return x

    return change


def swap_colours(fraction: float) -> Callable[[np.ndarray], np.ndarray]:
    """Swap red and blue in this fraction of the images."""

    def change(x: np.ndarray) -> np.ndarray:
        x, n = x.copy(), round(fraction * len(x))
        x[:n] = x[:n, :, :, ::-1]
        return x

    return change


def fewer_classes(kept: int) -> Callable[[np.ndarray], np.ndarray]:
    """Keep images of the first of 16 clusters, by k-means on 8×8 px, repeated to the same number of images."""

    def change(x: np.ndarray) -> np.ndarray:
        small = np.stack([np.asarray(Image.fromarray(image).resize((8, 8))) for image in x]).reshape(len(x), -1)
        clusters = KMeans(CLUSTERS, random_state=0, n_init=1).fit_predict(small.astype(np.float32))
        return x[rng.choice(np.flatnonzero(clusters < kept), len(x))]

    return change


def lose_modes(distinct: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keep this fraction of the images, each repeated."""
    return lambda x: x[np.arange(len(x)) % max(2, round(distinct * len(x)))]


DISTORTIONS = {
    "blur, px": (blur, [0.5, 1.0, 2.0, 4.0]),
    "noise, of 255": (noise, [5, 15, 30, 60]),
    "JPEG, quality": (jpeg, [80, 40, 15, 5]),
    "shift, of the width": (shift, [0.03, 0.1, 0.2, 0.35]),
    "erased square, of the side": (erase, [0.125, 0.25, 0.4, 0.6]),
    "fewer clusters, of 16 (k-means on 8×8 px)": (fewer_classes, [12, 8, 4, 1]),
    "red and blue swapped, of the images": (swap_colours, [0.1, 0.3, 0.6, 1.0]),
    "mode loss, fraction of distinct images": (lose_modes, [0.5, 0.1, 0.02, 0.005]),
}


class Half:
    """Images uint8 [N, H, W, 3] as one side of an evaluation, real or generated."""

    split, resize, labels_by_channel, left_out = "all", "none", False, {}

    def __init__(self, x: np.ndarray):
        self.x, self.y = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), torch.zeros(len(x), dtype=torch.int64)
        self.shape, self.classes, self.fingerprint = tuple(self.x.shape[1:]), 0, str(hash(x.tobytes()))

    def take(self, i: Tensor) -> Tensor:
        return self.x[i]

    def order(self, n: int) -> Tensor:
        return torch.arange(min(n, len(self.x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    data = Folder(str(args.folder), [3, args.size, args.size], 0, 2, 0)
    data.prepare()
    images = data.take(torch.from_numpy(np.random.default_rng(0).permutation(len(data.x))[: 2 * args.num])).permute(0, 2, 3, 1)
    real, other = images.numpy()[: args.num], images.numpy()[args.num :]
    metrics = [FID(Lite0()), FID(Random()), SlicedWasserstein(Pixels())]
    evaluation = Evaluation(metrics, Half(real), len(other), False)  # type: ignore[arg-type]
    evaluation.setup()

    def measure(x: np.ndarray) -> dict[str, float]:
        samples = Half(x)
        values, failed = evaluation.measure(lambda part: (to_float(samples.x[part]), None), torch.device("cpu"))
        assert not failed, failed
        return values

    none = measure(other)
    names = list(none)
    print(f"| {args.folder.name}, {args.num:,} images a side | strength | {' | '.join(names)} |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| none | | {' | '.join(f'{none[name]:.3g}' for name in names)} |", flush=True)
    for title, (make, strengths) in DISTORTIONS.items():
        rows = [none, *(measure(make(strength)(other)) for strength in strengths)]
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            text = f"{values[1]:.3g}"
            for before, after in pairwise(values[1:]):
                text += f" {'<' if before < after else '≥'} {after:.3g}"
            cells.append(("" if values[0] < values[1] else "≤ none: ") + text)
        print(f"| {title} | {', '.join(map(str, strengths))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
