"""task=export: a trained model as a folder to give away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganexp.export import folder as exporting
from ganexp.export import hub
from ganexp.model import load
from ganexp.runtime.console import display_path, quiet
from ganexp.runtime.trainer import device


class Export:
    """The averaged generator of config["run"] with all that it needs to sample, in a folder that ganexp.load opens.

    Written whole or not at all, and read again for comparison: model.safetensors, config.yaml, README.md, and samples.png of
    `num` samples of config["seed"]. `format`: `onnx` adds model.onnx, `torch` adds model.pt2. `folder`: a new one; null is
    `model` in the task's own. `push_to`: USER/NAME on the Hugging Face Hub. Raises ValueError for arguments that cannot be and
    for a network that the format cannot take.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        format: str = "safetensors",
        folder: str | None = None,
        num: int = 64,
        data_license: str | None = None,
        push_to: str | None = None,
        private: bool = False,
    ):
        exporting.check_format(format)
        if num < 1:
            raise ValueError(f"num: at least 1 sample, not {num}")
        self.folder = run_dir / "model" if folder is None else Path(folder).expanduser()
        exporting.check_empty(self.folder)
        if push_to is not None:
            hub.check_name(push_to, "push_to")
        self.config, self.format, self.num, self.data_license = config, format, num, data_license
        self.push_to, self.private = push_to, private

    def setup(self) -> None:
        """Load the model."""
        quiet()
        self.model = load(self.config["run"], device(self.config["hardware"]), self.config["trust"])

    def run(self) -> None:
        """Write the folder, and send it to the Hub where that is asked for."""
        model = self.model
        exporting.export(model, self.folder, self.format, self.data_license, self.num, self.config["seed"])
        print(f"  checkpoint {display_path(model.checkpoint)}, step {model.step:,}")
        for name, size in exporting.files_of(self.folder):
            print(f"  {size:>12,} bytes  {display_path(self.folder / name)}")
        if self.push_to is not None:
            print(f"  sent: {hub.push_to_hub(self.folder, self.push_to, self.private)}", flush=True)
