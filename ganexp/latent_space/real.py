"""The real side: the data that a model was trained on, their features, and pictures from outside."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ganexp.cli.build import to_config_error
from ganexp.cli.messages import ConfigError
from ganexp.data.decoding import MODES, UNREADABLE, as_array, decode_image, pillow_without_limit, reason, resize_image
from ganexp.data.module import DataModule
from ganexp.evaluation import Evaluation, chunks
from ganexp.images import to_float
from ganexp.latent_space.codes import TrainedModel
from ganexp.metrics.auto import AutoExtractor
from ganexp.metrics.features import Extractor
from ganexp.runtime.restoring import restore_data
from ganexp.systems.contexts import seeded

MOST_PIXELS = 40_000_000  # of a picture from outside
MOST_BYTES = 64 * 2**20  # of its file


def training_data(model: TrainedModel, trust: Sequence[str] = ()) -> DataModule:
    """The data of the model's config, loaded. Raises ConfigError for a config that names classes other than ganexp's and
    `trust`'s, and for data that cannot be loaded."""
    return prepared(restore_data(model.config, trust), model)


def prepared(data: DataModule, model: TrainedModel) -> DataModule:
    """The data, loaded. Raises ConfigError if the model's samples have another shape, and if it cannot be loaded."""
    if tuple(data.shape) != tuple(model.shape):
        raise ConfigError(f"data.shape: {list(data.shape)}, but the model generates {list(model.shape)}")
    try:
        data.prepare()
    except Exception as error:  # a user's DataModule may raise anything
        raise to_config_error(error, "data") from error
    return data


def ready(extractor: Extractor | None, data: DataModule, device: torch.device) -> Extractor:
    """The extractor, or the one of extractor=auto, set up for the data. The random state is left as it is."""
    extractor = AutoExtractor() if extractor is None else extractor
    with seeded(0, device):  # building a network draws numbers, also where weights from a file replace them
        extractor.setup(data)
    return extractor.to(device)


def real_features(data: DataModule, extractor: Extractor, num: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The features [M, dim], on the CPU, of at most `num` real samples, and their numbers in the data [M]. Costly ones are kept
    in the cache folder, where metrics look for them too."""
    evaluation = Evaluation([], data, num, False)
    evaluation.setup()
    parts = chunks(len(evaluation.order))
    if extractor.costly:
        return torch.from_numpy(evaluation.cached_features(extractor, "features", device, parts)), evaluation.order
    seen = [extractor(evaluation.real(part, device))["features"].cpu() for part in parts]
    return torch.cat(seen), evaluation.order


def read_picture(file: str | Path, shape: Sequence[int], key: str = "picture") -> Tensor:
    """A picture file as [1, *shape] in [-1, 1], the middle of it, resized with antialiasing.

    Only its header is read before its size is known. Raises ValueError for a file that is not there, larger than 64 MiB or 40
    megapixels, unreadable, or of other channels than 1, 3 and those of `shape`.
    """
    path = Path(file).expanduser()
    if len(shape) != 3 or shape[0] not in MODES:
        raise ValueError(f"{key}: this model generates samples of shape {list(shape)}, which no picture has")
    if not path.is_file():
        raise ValueError(f"{key}: there is no file {path}")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{key}: {path} has {path.stat().st_size / 2**20:,.0f} MiB; the limit is {MOST_BYTES // 2**20}")
    content = path.read_bytes()
    try:
        with pillow_without_limit(), Image.open(io.BytesIO(content)) as image:
            pixels, bands, clear = image.width * image.height, len(image.getbands()), image.has_transparency_data
    except UNREADABLE as error:
        raise ValueError(f"{key}: {path} cannot be read as a picture: {reason(error)}") from error
    if pixels > MOST_PIXELS:
        raise ValueError(f"{key}: {path} has {pixels / 1e6:,.0f} megapixels; the limit is {MOST_PIXELS // 10**6}")
    if (clear or bands not in (1, 3)) and bands != shape[0]:
        found = f"{bands} channels" + (", one of them transparency" if clear and bands > 1 else "")
        raise ValueError(f"{key}: {path} has {found}; save it as grey or RGB")
    try:
        pixels_of = resize_image(decode_image(content, MODES[shape[0]]), shape[1], shape[2], "crop")
    except UNREADABLE as error:
        raise ValueError(f"{key}: {path} cannot be read as a picture: {reason(error)}") from error
    return to_float(torch.from_numpy(as_array(pixels_of).copy()).permute(2, 0, 1)[None])
