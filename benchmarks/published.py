"""Measures the samples of finished runs for docs/reference/published-systems.md.

    python benchmarks/published.py sine RUN…                      sliced Wasserstein-1 distance to the true curve
    python benchmarks/published.py mnist --root data RUN…         accuracy of a classifier
    python benchmarks/published.py faces RUN…                     diversity, sharpness and distances of images
    python benchmarks/published.py faces --figure celeba.png RUN… the same, and a figure with grids of samples

RUN is a run folder; its last.ckpt is measured, or another one with `--checkpoint best.ckpt`. The classifier is trained on MNIST's
training set, tested on its test set, and cached. Sample sizes are 5,000 for sine, 10,000 for MNIST and 2,000 for faces.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision import datasets

from ganexp import pictures, sampling
from ganexp.data.mnist import MNIST
from ganexp.data.module import DataModule
from ganexp.data.toy import Sine
from ganexp.evaluation import Evaluation, samples_of
from ganexp.files import replace
from ganexp.images import to_float
from ganexp.losses import MMD as Discrepancy
from ganexp.metrics.classifier import Classifier
from ganexp.metrics.diversity import Diversity
from ganexp.metrics.features import Laplacian, Pixels, Random
from ganexp.metrics.fid import FID
from ganexp.metrics.metric import FeatureMetric
from ganexp.metrics.mmd import MMD
from ganexp.metrics.sharpness import Sharpness
from ganexp.metrics.swd import SlicedWasserstein
from ganexp.runtime.restoring import restore, restore_data
from ganexp.systems.base import System
from ganexp.systems.vae import VAE


def measure(metrics: list[FeatureMetric], system: System, data: DataModule, num: int) -> dict[str, float]:
    evaluation = Evaluation(metrics, data, num, bool(system.classes))
    evaluation.setup()
    values, failed = evaluation.measure(samples_of(system), system.device)
    if failed:
        raise ValueError("; ".join(failed.values()))
    return values


def sine(checkpoints: list[Path]) -> None:
    curve = Sine([2], 0, batch_size=32, seed=0, points=5000, points_seed=0)
    curve.prepare()
    distances = []
    for file in checkpoints:
        system, _, step = restore(file, [])
        (distance,) = measure([SlicedWasserstein(Pixels(), 256)], system, curve, 5000).values()
        distances.append(distance)
        print(f"{file}  step {step:,}  sliced Wasserstein-1 {distance:.4f}")
    print(f"median {statistics.median(distances):.4f}")


def mnist(checkpoints: list[Path], root: str) -> None:
    data = MNIST(root, [1, 28, 28], 10, batch_size=64, seed=0)
    data.prepare()
    classifier = fit_classifier(data, root)
    for file in checkpoints:
        system, _, step = restore(file, [])
        samples = sampling.sample(system, 10_000, seed=0)
        predicted = predict(classifier, samples)
        text = f"{file}  step {step:,}"
        if system.classes:
            text += f"  accuracy {(predicted == torch.arange(10_000) % 10).float().mean():.4f}"
        percentages = torch.bincount(predicted, minlength=10) / 100
        print(f"{text}  percentages of the digits: {' '.join(f'{p:.1f}' for p in percentages)}")


def fit_classifier(data: MNIST, root: str) -> Classifier:
    """Returns a classifier trained on MNIST's training set, and prints its accuracy on the test set."""
    classifier = Classifier()
    classifier.setup(data)
    test = datasets.MNIST(root, train=False)
    predicted = predict(classifier, to_float(test.data[:, None]))
    print(f"accuracy of the classifier on the test set: {(predicted == test.targets).float().mean():.4f}")
    return classifier


def predict(classifier: Classifier, x: Tensor) -> Tensor:
    return torch.cat([classifier(batch)["logits"].argmax(1) for batch in x.split(500)])


def faces(checkpoints: list[Path], figure: Path | None) -> None:
    grids: dict[str, Tensor] = {}
    for file in checkpoints:
        system, config, step = restore(file, [])
        data = restore_data(config, [])
        data.prepare()
        metrics = [
            Diversity(Pixels()),
            Sharpness(Laplacian()),
            FID(Random()),
            SlicedWasserstein(Pixels(), 256),
            MMD(Pixels(), Discrepancy()),
        ]
        values = measure(metrics, system, data, 2000)
        print(f"{file}  step {step:,}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
        texts = [f"{name} {value:.3g}" for name, value in values.items()]
        caption = "\n".join("  ".join(texts[i : i + 2]) for i in range(0, len(texts), 2))
        grids.setdefault("real images", data.real(36))
        grids[f"{config['name']}, {step:,} steps\n{caption}"] = sampling.sample(system, 36, seed=0)
        if isinstance(system, VAE):
            grids[f"{config['name']}: reconstructions of the real images"] = system.reconstruct(*data.real_and_labels(36))
    if figure is not None:
        plot_grids(grids, figure)


def plot_grids(grids: dict[str, Tensor], path: Path) -> None:
    """Plots grids of 6×6 images, by title, in one figure."""
    columns = math.ceil(len(grids) / 2)
    sheet = Figure(figsize=(3.6 * columns, 9), dpi=100)
    sheet.subplots_adjust(0.01, 0.01, 0.99, 0.92, 0.03, 0.2)
    canvas = FigureCanvasAgg(sheet)
    axes = sheet.subplots(2, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, (title, images) in zip(axes, grids.items(), strict=False):
        axis.imshow(pictures.grid(images, 6))
        axis.set_title(title, fontsize=7, family="monospace")
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    replace(path, lambda file: picture.save(file, format="JPEG" if path.suffix == ".jpg" else "PNG", quality=88))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["sine", "mnist", "faces"])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--root", default="data", help="folder that contains MNIST/raw")
    parser.add_argument("--checkpoint", default="last.ckpt")
    parser.add_argument("--figure", type=Path, help="file for the grids of faces, .png or .jpg")
    arguments = parser.parse_args()
    checkpoints = [run / "checkpoints" / arguments.checkpoint for run in arguments.runs]
    if arguments.measure == "sine":
        sine(checkpoints)
    elif arguments.measure == "mnist":
        mnist(checkpoints, arguments.root)
    else:
        faces(checkpoints, arguments.figure)


if __name__ == "__main__":
    main()
