"""task=evaluate: measure a trained model, or compare two folders of images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ganexp.cli.build import build, to_config_error
from ganexp.cli.messages import ConfigError
from ganexp.data.folder import UnresizedFolder
from ganexp.data.module import DataModule
from ganexp.evaluation import MOST, Evaluation, images_of, samples_of
from ganexp.files import write_json
from ganexp.runs import find_checkpoint
from ganexp.runtime.console import display_path, quiet, table
from ganexp.runtime.restoring import restore, restore_data
from ganexp.runtime.trainer import device
from ganexp.systems.base import System
from ganexp.tasks.train import setup_metrics

log = logging.getLogger(__name__)


class Evaluate:
    """Measures the metrics of `num_images` samples of the trained model config["run"] against the same number of real images,
    from config["data"] if set, otherwise from the model's own data. Or compares the folder `fake` with the folder `real`; all
    images must have one size.

    The values are printed and written to evaluation.json with their protocols and fingerprints. The constructor and setup() raise
    ConfigError or ValueError if the two sides cannot be compared; run() raises ValueError if a metric has no value.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, num_images: int = 10_000, real: str | None = None, fake: str | None = None
    ):
        run = config.get("run")
        check_sides(run, real, fake)
        if real is not None and config.get("data") is not None:
            raise ConfigError("data: cannot be combined with task.real, which has the real images; remove one of them")
        if not 2 <= num_images <= MOST:
            raise ValueError(f"num_images: must be at {'least 2' if num_images < 2 else f'most {MOST}'}, got {num_images}")
        if not config["metrics"]:
            raise ConfigError("metrics: at least one is required, for example metrics=[fid,swd]")
        self.config, self.run_dir, self.num_images, self.folders = config, run_dir, num_images, (real, fake)
        self.system: System | None = None  # of a trained model
        self.fake: DataModule | None = None  # of a folder
        self.subject: dict[str, Any] = {}  # for evaluation.json: what is measured

    def setup(self) -> None:
        """Load both sides, and set up the metrics."""
        quiet()
        self.device = device(self.config["hardware"])
        real, fake = self.folders
        if real is None or fake is None:
            data = self.restore(find_checkpoint(self.config["run"]))
        else:
            data, self.fake = load(UnresizedFolder(real), "task.real"), load(UnresizedFolder(fake), "task.fake")
            for note in dict.fromkeys([*data.notes, *self.fake.notes]):
                log.warning("%s", note)
            if data.shape != self.fake.shape:
                raise ValueError(f"fake: has images of {size(self.fake)}, but real has {size(data)}; resize one of the folders")
            self.subject = {"real": str(Path(real).resolve()), "fake": str(Path(fake).resolve())}
            self.num_images = min(self.num_images, len(self.fake.x))
        metrics = [build(metric, f"metrics.{name}") for name, metric in self.config["metrics"].items()]
        self.evaluation = Evaluation(metrics, data, self.num_images, bool(self.system and self.system.classes))
        setup_metrics(self.evaluation.setup)

    def restore(self, file: Path) -> DataModule:
        """Restore the system. Returns the data of the command line, or the system's own."""
        self.system, trained, step = restore(file, self.config["trust"])
        self.subject = {"checkpoint": str(file.resolve()), "step": step}
        if self.config.get("data") is not None:
            data = build(self.config["data"], "data")
        else:
            data = restore_data(trained, self.config["trust"])
        generated = list(self.system.sample(2).shape[1:])
        if list(data.shape) != generated:
            raise ConfigError(f"data.shape: {list(data.shape)}, but the model generates {generated}")
        self.system.to(self.device)
        return load(data, "data")

    def run(self) -> None:
        """Measure and print, and write evaluation.json into the run folder."""
        evaluation = self.evaluation
        sampler = samples_of(self.system) if self.system is not None else images_of(self.fake, self.device)  # type: ignore[arg-type]
        values, failed = evaluation.measure(sampler, self.device, show="measuring")
        if failed:
            raise ValueError("; ".join(failed.values()))
        protocols = evaluation.protocols(self.system.ema is not None if self.system is not None else None)
        real = len(evaluation.order)
        for metric in evaluation.metrics:
            if min(real, evaluation.num) < metric.biased_below:
                log.warning("%s: biased upwards with %s images: compare it only with values for the same number", metric.name,
                            f"{min(real, evaluation.num):,}")  # fmt: skip
        result = {
            **self.subject,
            "data": type(evaluation.data).__name__,
            "values": {name: {"value": value, "fingerprint": protocols[name]["fingerprint"]} for name, value in values.items()},
            "protocols": protocols,
        }
        write_json(result, self.run_dir / "evaluation.json")
        if self.system is not None:
            print(f"  checkpoint {display_path(Path(self.subject['checkpoint']))}, step {self.subject['step']:,}")
            print(f"  {evaluation.num:,} samples against {real:,} real ones of {result['data']}")
        else:
            print(f"  {evaluation.num:,} images of {self.subject['fake']} against {real:,} real ones of {self.subject['real']}")
        rows = [[name, f"{value:.6g}", protocols[name]["fingerprint"]] for name, value in values.items()]
        print(table(["metric", "value", "protocol"], rows))
        print(f"  written to {display_path(self.run_dir / 'evaluation.json')}")


def check_sides(run: str | None, real: str | None, fake: str | None) -> None:
    """Raises ConfigError or ValueError unless there is either a run or two folders."""
    if real is None and fake is None and run is None:
        raise ConfigError(
            "run: required by task=evaluate: run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt; "
            "or two folders of images: task.real=FOLDER task.fake=FOLDER"
        )
    if (real is None) != (fake is None):
        raise ValueError(f"{'fake' if real is None else 'real'}: two folders are required: task.real=FOLDER task.fake=FOLDER")
    if real is not None and run is not None:
        raise ValueError("real: cannot be combined with run=…; remove one of them")


def load(data: DataModule, key: str) -> Any:
    try:
        data.prepare()
    except Exception as error:  # a user's DataModule may raise anything
        raise to_config_error(error, key) from error
    return data


def size(data: DataModule) -> str:
    channels, height, width = data.shape
    return f"{height}×{width} px in {channels} channels"
