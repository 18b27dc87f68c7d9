"""Feature extractors: what a metric sees of a sample. An extractor's name stands in the log, behind the metric's."""

from __future__ import annotations

import hashlib
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ganexp.files import replace

log = logging.getLogger(__name__)
RECIPE = 2  # of the classifier: another one makes those in the cache stale


class Data(Protocol):
    """What an extractor may need of a data module: uint8 images [N, C, H, W] or points, labels, and their hash."""

    x: Tensor
    y: Tensor
    shape: tuple[int, ...]
    classes: int
    labels_by_channel: bool

    @property
    def fingerprint(self) -> str: ...


def cache_folder() -> Path:
    """Where extractors and features are kept between runs: `~/.cache/ganexp`, or `$XDG_CACHE_HOME/ganexp`. Safe to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ganexp"


class Extractor(nn.Module):
    """Samples [N, *shape] in [-1, 1] to named outputs [N, …], float32: at least `features` [N, dim].

    `prepare` makes it ready for a data set; `resize` says how it changes an image's size before the network; `costly` that its
    features of real images are worth keeping.
    """

    name: str
    resize = "none"
    costly = True

    def prepare(self, data: Data) -> None:
        """Raises ValueError where it cannot be of such data, FileNotFoundError for weights that are not there."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that its outputs depend on."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


class Pixels(Extractor):
    """The sample itself: flattened as `features`, as it is as `images`; also for points."""

    name = "pixels"
    costly = False
    fingerprint = "pixels"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x.flatten(1), "images": x}


class Laplacian(Extractor):
    """The variance of the Laplacian of the grey image, [N, 1]: the measure of sharpness of Pech-Pacheco et al. 2000."""

    name = "laplacian"
    costly = False
    fingerprint = "laplacian"

    def prepare(self, data: Data) -> None:
        if len(data.shape) != 3 or min(data.shape[1:]) < 4:
            raise ValueError(f"sharpness is of images [C, H, W] of 4 px and more, not of shape {list(data.shape)}")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kernel = x.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        edges = F.conv2d(x.mean(1, keepdim=True), kernel[None, None])
        return {"features": edges.flatten(1).var(1)[:, None]}


class Random(Extractor):
    """A fixed, seeded, untrained CNN: for images where no trained network is at hand.

    Four 3×3 convolutions of doubling width with average pooling between them; the features are the mean and the standard
    deviation of every map of every level, 2 · 15 · width of them. Random features order images by how far they are
    distorted (Naeem et al. 2020, arXiv:2002.09797, section 3), but values compare only with values of the same network.
    """

    name = "random"

    def __init__(self, width: int = 16, seed: int = 0):
        super().__init__()
        self.width, self.seed = width, seed
        self.levels = nn.ModuleList()

    def prepare(self, data: Data) -> None:
        if len(data.shape) != 3:
            raise ValueError(f"random features are of images [C, H, W], not of points of shape {list(data.shape)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            widths = [data.shape[0], *(self.width * 2**i for i in range(4))]
            levels = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
            for level in levels:
                nn.init.kaiming_normal_(level.weight)
        self.levels = nn.ModuleList(levels)
        self.requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        return hash_of(self.levels)

    @torch.no_grad()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = []
        for level in self.levels:
            x = F.relu(level(x))
            features += [x.mean((2, 3)), x.flatten(2).std(2)]
            if min(x.shape[2:]) >= 4:
                x = F.avg_pool2d(x, 2)
        return {"features": torch.cat(features, 1)}


class Classifier(Extractor):
    """A small CNN that has learned the data's own labels: the last hidden layer [N, 128] as `features`, `logits` [N, classes].

    Of images that stack several in their channels it reads each channel alone: features [N, 128 · channels], logits [N, channels,
    classes of one]. It is trained the first time a data set is measured, on nine tenths of it, and tested on the last; kept by
    the content of the data in the cache folder. `steps`: of 128 samples at most; 30 passes
    through the data are enough. Training leaves the random state as it was.
    """

    name = "classifier"
    by_channel = False

    def __init__(self, steps: int = 1500):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: at least 1, not {steps}")
        self.steps = steps
        self.trunk, self.head = nn.Sequential(), nn.Sequential()
        self.accuracy = 0.0  # on the tenth that it has not seen

    def build(self, channels: int, classes: int) -> None:
        def block(n_in: int, n_out: int) -> list[nn.Module]:
            return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]

        self.trunk = nn.Sequential(
            *block(channels, 32), nn.AvgPool2d(2),
            *block(32, 64), *block(64, 64), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 128), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(128, classes))

    def prepare(self, data: Data) -> None:
        if len(data.shape) != 3 or min(data.shape[1:]) < 4:
            raise ValueError(f"a classifier is of images [C, H, W] of 4 px and more, not of shape {list(data.shape)}")
        if data.classes < 2:
            raise ValueError("a classifier needs data with labels; for others take extractor=random or extractor=inception")
        self.by_channel = data.labels_by_channel
        x, y = lessons(data) if self.by_channel else (data.x, data.y)
        file = cache_folder() / "classifiers" / f"{hash_of(RECIPE, self.steps, data.fingerprint)}.pt"
        kept = read_kept(file)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build(x.shape[1], int(y.max()) + 1)
            if kept is None:
                self.accuracy = self.learn(x, y)
        if kept is None:
            kept = {"weights": self.state_dict(), "accuracy": self.accuracy}
            replace(file, lambda opened: torch.save(kept, opened))
            log.warning(
                "%s: trained on the data's labels, reads %.2f %% of those it has not seen; kept in %s",
                self.name, 100 * self.accuracy, file,
            )  # fmt: skip
        self.load_state_dict(kept["weights"])
        self.accuracy = kept["accuracy"]
        self.eval().requires_grad_(False)

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Train, and return the share read rightly of what was held out."""
        unseen, seen = torch.randperm(len(x)).tensor_split([-(-len(x) // 10)])
        steps = max(1, min(self.steps, 30 * len(seen) // 128))
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        self.train()
        with torch.enable_grad():
            for _ in tqdm(range(steps), desc="training the classifier", leave=False, disable=None):
                i = seen[torch.randint(len(seen), (128,))]
                loss = F.cross_entropy(self.logits(as_floats(x[i])), y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.eval()
        with torch.no_grad():
            read = torch.cat([self.logits(as_floats(x[i])).argmax(1) for i in unseen.split(500)])
        return float((read == y[unseen]).float().mean())

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))

    @property
    def fingerprint(self) -> str:
        return hash_of(self)

    @torch.no_grad()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x.flatten(0, 1)[:, None] if self.by_channel else x)
        logits = self.head(features)
        if self.by_channel:
            return {"features": features.view(len(x), -1), "logits": logits.view(len(x), x.shape[1], -1)}
        return {"features": features, "logits": logits}


class Inception(Extractor):
    """The network of the published FIDs: Inception v3 with TensorFlow's weights of 2015-12-05, through torch-fidelity, which
    resizes as TensorFlow 1 did. `features` [N, 2048], `logits` [N, 1008] without the bias (for the Inception score).

    `weights`: its file; null takes the one torch keeps, downloading it if missing. `sha256`: how the file's hash must begin. Grey
    images are seen as three equal channels. Raises ValueError for a file with another hash, FileNotFoundError, saying which file
    belongs where, if it can be had nowhere.
    """

    name = "inception"
    resize = "bilinear to 299×299 as TensorFlow 1"
    url = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"

    def __init__(self, weights: str | None = None, sha256: str = "6726825d"):
        super().__init__()
        self.weights, self.sha256 = weights, sha256
        self.network: nn.Module | None = None

    def prepare(self, data: Data) -> None:
        if len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise ValueError(f"Inception is of grey or colour images [1 or 3, H, W], not of shape {list(data.shape)}")
        if self.network is not None:
            return
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ValueError("extractor=inception needs torch-fidelity: pip install 'ganexp[inception]'") from error
        file = self.file()
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if not found.startswith(self.sha256):
            raise ValueError(
                f"weights: {file} is damaged or another file: its SHA-256 begins with {found[:8]}, not {self.sha256}"
            )
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(file))
        except Exception as error:  # of a file with the hash that was asked for, but other content
            raise ValueError(f"weights: {file} does not hold this network: {type(error).__name__}") from error
        self.network, self.found = network.eval(), found

    def file(self) -> Path:
        if self.weights is not None:
            file = Path(self.weights).expanduser()
            if not file.is_file():
                raise FileNotFoundError(f"weights: there is no file {file}")
            return file
        file = Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]
        if not file.is_file():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(self.url, str(file), hash_prefix=self.sha256)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(
                    f"weights: put {file.name} (91 MB, from {self.url}) into {file.parent}, or name its place with "
                    f"extractor.weights=FILE; the download failed: {error}"
                ) from error
        return file

    @property
    def fingerprint(self) -> str:
        return self.found[:16]

    @torch.no_grad()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert self.network is not None
        features, logits = self.network(as_bytes(x).expand(-1, 3, -1, -1))
        return {"features": features, "logits": logits}


class Fitting(Extractor):
    """The one that a data set can be measured with anywhere, without a download: a Classifier where there are labels, Random for
    other images, Pixels for points. Its name in the log is theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: Extractor = Pixels()

    def prepare(self, data: Data) -> None:
        if len(data.shape) != 3:
            self.chosen = Pixels()
        else:
            self.chosen = Classifier() if data.classes > 1 and min(data.shape[1:]) >= 4 else Random()
        self.chosen.prepare(data)
        self.name, self.resize, self.costly = self.chosen.name, self.chosen.resize, self.chosen.costly

    @property
    def fingerprint(self) -> str:
        return self.chosen.fingerprint

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.chosen(x)


def lessons(data: Data) -> tuple[Tensor, Tensor]:
    """The channels as images of their own, and their labels: an image's label is a number with a digit for each channel, the
    first channel's the most significant. Of three stacked MNIST digits 7, 0, 1 it is 701."""
    channels = data.shape[0]
    each = round(data.classes ** (1 / channels))
    if each**channels != data.classes:
        raise ValueError(f"classes: {data.classes} are not the combinations of {channels} channels' labels")
    digits = [data.y // each**place % each for place in reversed(range(channels))]
    return data.x.flatten(0, 1)[:, None], torch.stack(digits, 1).flatten()


def as_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as they would be saved: uint8."""
    return x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def as_floats(x: Tensor) -> Tensor:
    """uint8 images in [-1, 1]."""
    return x.float().div(127.5).sub(1)


def hash_of(*parts: Any) -> str:
    """A hash of plain values, and of a module's weights."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, nn.Module):
            for name, value in part.state_dict().items():
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        else:
            digest.update(f"{part!r};".encode())
    return digest.hexdigest()


def read_kept(file: Path) -> dict[str, Any] | None:
    """What the cache holds in a file, null if nothing whole."""
    if not file.is_file():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes lead it to
        log.warning("%s is damaged and made anew: %s", file, type(error).__name__)
        return None
