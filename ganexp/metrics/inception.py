"""The network of published FIDs, as a feature extractor."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ganexp.images import to_uint8
from ganexp.metrics.features import Data, Extractor


class Inception(Extractor):
    """The network of published FIDs: Inception v3 with TensorFlow's weights of 2015-12-05, from torch-fidelity, resized like in
    TensorFlow 1. `features` [N, 2048], `logits` [N, 1008] without bias (for the Inception score).

    `weights`: file; null uses torch's cache, and downloads the file if it is missing. `sha256`: prefix of the file's hash. Grey
    images are repeated to three channels. Raises ValueError for a file with another hash, and FileNotFoundError, with the file's
    URL and its place, if the download fails.
    """

    name = "inception"
    resize = "bilinear to 299×299 as TensorFlow 1"
    url = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"

    def __init__(self, weights: str | None = None, sha256: str = "6726825d"):
        super().__init__()
        self.weights, self.sha256 = weights, sha256
        self.network: nn.Module | None = None

    def setup(self, data: Data) -> None:
        if len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise ValueError(f"inception needs images [1 or 3, H, W], got shape {list(data.shape)}")
        if self.network is not None:
            return
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ValueError("extractor=inception needs torch-fidelity: pip install 'ganexp[inception]'") from error
        file = self.file()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not digest.startswith(self.sha256):
            raise ValueError(f"weights: {file} is damaged or wrong: its SHA-256 begins with {digest[:8]}, not {self.sha256}")
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(file))
        except Exception as error:  # a file of another network, whose hash was given as `sha256`
            raise ValueError(f"weights: {file} does not hold this network: {type(error).__name__}") from error
        self.network, self.digest = network.eval(), digest

    def file(self) -> Path:
        if self.weights is not None:
            file = Path(self.weights).expanduser()
            if not file.is_file():
                raise FileNotFoundError(f"weights: there is no file {file}")
            return file
        file = Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]
        if not file.is_file():
            try:
                if not self.may_download:
                    raise OSError("the config of a file downloads nothing")
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(self.url, str(file), hash_prefix=self.sha256)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(
                    f"weights: put {file.name} (91 MB, from {self.url}) into {file.parent}, or set "
                    f"extractor.weights=FILE; the download failed: {error}"
                ) from error
        return file

    @property
    def fingerprint(self) -> str:
        return self.digest[:16]

    @torch.no_grad()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert self.network is not None
        features, logits = self.network(to_uint8(x).expand(-1, 3, -1, -1))
        return {"features": features, "logits": logits}
