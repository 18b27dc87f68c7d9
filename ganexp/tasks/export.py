"""task=export: export a trained model as a folder that can be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganexp import pictures
from ganexp.export import folder as exporting
from ganexp.export import hub
from ganexp.model import load
from ganexp.runtime.console import display_path, quiet
from ganexp.runtime.trainer import device


class Export:
    """Writes the averaged generator of config["run"], and everything it needs to sample, to a folder that ganexp.load opens.

    The folder has model.safetensors, config.yaml, README.md, and samples.png with `num` samples of config["seed"]. It is written
    completely or not at all, and read back to check it. `format`: `onnx` adds model.onnx, `torch` adds model.pt2. `folder`: a new
    folder; null: `model` in the run folder of this task. `push_to`: USER/NAME on the Hugging Face Hub. Raises ValueError for
    invalid arguments, and for a network that the format does not support.
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
            raise ValueError(f"num: must be at least 1, got {num}")
        self.folder = run_dir / "model" if folder is None else Path(folder).expanduser()
        if self.folder.resolve() == run_dir.resolve():
            raise ValueError("folder: is the folder of this task's log, hydra.run.dir; choose another one")
        exporting.check_empty(self.folder)
        if push_to is not None:
            hub.check_name(push_to, "push_to")
        self.config, self.format, self.num, self.data_license = config, format, num, data_license
        self.push_to, self.private = push_to, private

    def setup(self) -> None:
        """Load the model."""
        quiet()
        self.model = load(self.config["run"], device(self.config["hardware"]), self.config["trust"])
        pictures.check_pixels("num", self.num, self.model.shape)

    def run(self) -> None:
        """Write the folder, and push it to the Hub if `push_to` is set."""
        model = self.model
        exporting.export(model, self.folder, self.format, self.data_license, self.num, self.config["seed"])
        print(f"  checkpoint {display_path(model.checkpoint)}, step {model.step:,}")
        for name, size in exporting.files_of(self.folder):
            print(f"  {size:>12,} bytes  {display_path(self.folder / name)}")
        if self.push_to is not None:
            print(f"  sent: {hub.push_to_hub(self.folder, self.push_to, self.private)}", flush=True)
