"""How good the samples of finished runs are, by the measures of the README's table.

    python benchmarks/published.py sine RUN…                      sliced Wasserstein-1 to the true curve
    python benchmarks/published.py mnist --root ../shared/data RUN…    what a classifier reads
    python benchmarks/published.py faces RUN…                     diversity, sharpness and distances of images
    python benchmarks/published.py faces --figure celeba.png RUN… the same, with their grids, in one figure

RUN is a run's folder; its last.ckpt is measured (`--checkpoint best.ckpt`: another). The classifier learns from MNIST's training
set and is tested on its test set, never on samples; it is kept in outputs/classifier.pt. 5,000 samples of sine, 10,000 of MNIST,
2,000 faces.
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
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets

from ganexp import pictures
from ganexp.callbacks.metrics import evaluate
from ganexp.callbacks.samples import fixed_samples
from ganexp.data.toy import Sine
from ganexp.files import replace
from ganexp.losses import MMD as Discrepancy
from ganexp.metrics.diversity import Diversity
from ganexp.metrics.features import Pixels, Random
from ganexp.metrics.fid import FID
from ganexp.metrics.mmd import MMD
from ganexp.metrics.sharpness import Sharpness
from ganexp.metrics.swd import SlicedWasserstein
from ganexp.systems.vae import VAE
from ganexp.tasks.checkpoint import restore, restore_data

KEPT = Path("outputs/classifier.pt")


def sine(checkpoints: list[Path]) -> None:
    true = Sine([2], 0, batch_size=32, seed=0, points=5000, points_seed=0)
    true.prepare()
    distances = []
    for file in checkpoints:
        system, _, step = restore(file, [])
        (distance,) = evaluate([SlicedWasserstein(Pixels(), 256)], system, true.real(5000), 5000).values()
        distances.append(distance)
        print(f"{file}  step {step:,}  sliced Wasserstein-1 {distance:.4f}")
    print(f"median {statistics.median(distances):.4f}")


def mnist(checkpoints: list[Path], root: str) -> None:
    reader = classifier(root)
    for file in checkpoints:
        system, _, step = restore(file, [])
        samples = fixed_samples(system, 10_000)
        with torch.no_grad():
            read = torch.cat([reader(part).argmax(1) for part in samples.split(500)])
        said = f"{file}  step {step:,}"
        if system.classes:
            said += f"  reads the wanted digit in {(read == torch.arange(10_000) % 10).float().mean():.4f}"
        shares = torch.bincount(read, minlength=10) / 100
        print(f"{said}  shares of the digits in %: {' '.join(f'{share:.1f}' for share in shares)}")


def classifier(root: str) -> nn.Module:
    """A small CNN that reads MNIST digits in [-1, 1]; kept, with its accuracy on the test set."""
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(64),
        nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.4),
        nn.Linear(128 * 25, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    if KEPT.is_file():
        kept = torch.load(KEPT, weights_only=True)
        network.load_state_dict(kept["weights"])
        accuracy = kept["accuracy"]
    else:
        accuracy = learn(network, *images(root, train=True), *images(root, train=False))
        replace(KEPT, lambda file: torch.save({"weights": network.state_dict(), "accuracy": accuracy}, file))
    print(f"the classifier reads {accuracy:.4f} of the test set")
    return network.eval()


def images(root: str, train: bool) -> tuple[Tensor, Tensor]:
    data = datasets.MNIST(root, train=train)
    return data.data[:, None].float() / 127.5 - 1, data.targets


def learn(network: nn.Module, x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, epochs: int = 4) -> float:
    torch.manual_seed(0)
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        i = torch.randint(len(x), (128,))
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(x[i]).float(), y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"classifier, step {step} of {steps}: {loss.item():.4f}", flush=True)
    network.eval()
    with torch.no_grad():
        return float(torch.cat([network(part).argmax(1) for part in test_x.split(500)]).eq(test_y).float().mean())


def faces(checkpoints: list[Path], figure: Path | None) -> None:
    grids: dict[str, Tensor] = {}
    for file in checkpoints:
        system, config, step = restore(file, [])
        data = restore_data(config, [])
        data.prepare()
        metrics = [
            Diversity(Pixels()),
            Sharpness(),
            FID(Random()),
            SlicedWasserstein(Pixels(), 256),
            MMD(Pixels(), Discrepancy()),
        ]
        values = evaluate(metrics, system, data.real(2000), 2000)
        print(f"{file}  step {step:,}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
        told = [f"{name} {value:.3g}" for name, value in values.items()]
        said = "\n".join("  ".join(told[i : i + 2]) for i in range(0, len(told), 2))
        grids.setdefault("real images", data.real(36))
        grids[f"{config['name']}, {step:,} steps\n{said}"] = fixed_samples(system, 36)
        if isinstance(system, VAE):
            grids[f"{config['name']}: the real ones, reconstructed"] = system.reconstruct(*data.labelled(36))
    if figure is not None:
        beside(grids, figure)


def beside(grids: dict[str, Tensor], path: Path) -> None:
    """Grids of 6×6 images, with their titles, in one picture."""
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
    parser.add_argument("--root", default="data", help="the folder that holds MNIST/raw")
    parser.add_argument("--checkpoint", default="last.ckpt")
    parser.add_argument("--figure", type=Path, help="where the grids of faces go, .png or .jpg")
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
