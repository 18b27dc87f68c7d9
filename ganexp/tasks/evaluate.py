"""task=evaluate: measure a trained model, or one folder of images against another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ganexp.build import build, located
from ganexp.data.folder import Exact
from ganexp.data.module import DataModule
from ganexp.evaluation import Evaluation, images_of, samples_of
from ganexp.files import write_json
from ganexp.mistakes import Mistake
from ganexp.runs import find_checkpoint
from ganexp.systems.base import System
from ganexp.tasks.checkpoint import restore, restore_data
from ganexp.tasks.hardware import device
from ganexp.tasks.screen import shown, table
from ganexp.tasks.train import prepare_metrics, quiet

log = logging.getLogger(__name__)


class Evaluate:
    """The chosen metrics of `num_images` samples of a trained model, config["run"], against as many real ones: of config["data"]
    if given, otherwise of the model's own data. Or of the images in the folder `fake` against those in `real`, all of one size.

    The values go to the screen and to evaluation.json, each with its protocol and the short hash of that. Raises Mistake or
    ValueError for what cannot be compared, before anything is written; run() raises ValueError for samples that a metric cannot
    measure.
    """

    def __init__(
        self, config: dict[str, Any], run_dir: Path, num_images: int = 10_000, real: str | None = None, fake: str | None = None
    ):
        run = config.get("run")
        check_sides(run, real, fake)
        if real is not None and config.get("data") is not None:
            raise Mistake("data: the real images are those of task.real; leave one out")
        if num_images < 2:
            raise ValueError(f"num_images: at least 2, not {num_images}")
        self.config, self.run_dir = config, run_dir
        quiet()
        if not config["metrics"]:
            raise Mistake("metrics: none chosen; for example metrics=[fid,swd]")
        self.device = device(config["hardware"])
        self.system: System | None = None
        self.fake: DataModule | None = None
        self.of: dict[str, Any] = {}
        if real is None or fake is None:
            assert run is not None
            data = self.of_checkpoint(find_checkpoint(run))
        else:
            data, self.fake = load(Exact(real), "task.real"), load(Exact(fake), "task.fake")
            if data.shape != self.fake.shape:
                raise ValueError(
                    f"fake: its images are {size(self.fake)}, those of real are {size(data)}; resize one of the folders"
                )
            self.of = {"real": str(Path(real).resolve()), "fake": str(Path(fake).resolve())}
            num_images = min(num_images, len(self.fake.x))
        metrics = [build(metric, f"metrics.{name}") for name, metric in config["metrics"].items()]
        self.evaluation = Evaluation(metrics, data, num_images, bool(self.system and self.system.classes))
        prepare_metrics(self.evaluation.prepare)

    def of_checkpoint(self, file: Path) -> DataModule:
        """Restore the system, and its data or the given."""
        self.system, trained, step = restore(file, self.config["trust"])
        self.of = {"checkpoint": str(file.resolve()), "step": step}
        if self.config.get("data") is not None:
            data = build(self.config["data"], "data")
        else:
            data = restore_data(trained, self.config["trust"])
        drawn = list(self.system.sample(2).shape[1:])
        if list(data.shape) != drawn:
            raise Mistake(f"data.shape: {list(data.shape)}, but the model generates {drawn}")
        self.system.to(self.device)
        return load(data, "data")

    def run(self) -> None:
        """Measure, print, and write into the run folder."""
        evaluation = self.evaluation
        draw = samples_of(self.system) if self.system is not None else images_of(self.fake, self.device)  # type: ignore[arg-type]
        values, failed = evaluation.measure(draw, self.device, show="measuring")
        if failed:
            raise ValueError("; ".join(failed.values()))
        protocols = evaluation.protocols(self.system.ema is not None if self.system is not None else None)
        real = len(evaluation.order)
        for metric in evaluation.metrics:
            if min(real, evaluation.num) < metric.biased_below:
                log.warning("%s: with %s images it is biased upwards: compare it only with values of as many", metric.name,
                            f"{min(real, evaluation.num):,}")  # fmt: skip
        result = {
            **self.of,
            "data": type(evaluation.data).__name__,
            "values": {name: {"value": value, "print": protocols[name]["print"]} for name, value in values.items()},
            "protocols": protocols,
        }
        write_json(result, self.run_dir / "evaluation.json")
        if self.system is not None:
            print(f"  checkpoint {shown(Path(self.of['checkpoint']))}, step {self.of['step']:,}")
            print(f"  {evaluation.num:,} samples against {real:,} real ones of {result['data']}")
        else:
            print(f"  {evaluation.num:,} images of {self.of['fake']} against {real:,} real ones of {self.of['real']}")
        rows = [[name, f"{value:.6g}", protocols[name]["print"]] for name, value in values.items()]
        print(table(["metric", "value", "protocol"], rows))
        print(f"  written to {shown(self.run_dir / 'evaluation.json')}")


def check_sides(run: str | None, real: str | None, fake: str | None) -> None:
    """Raises an error unless there is either a run or two folders."""
    if real is None and fake is None and run is None:
        raise Mistake(
            "run: required by task=evaluate: run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt; "
            "or two folders of images: task.real=FOLDER task.fake=FOLDER"
        )
    if (real is None) != (fake is None):
        raise ValueError(f"{'fake' if real is None else 'real'}: two folders are compared: task.real=FOLDER task.fake=FOLDER")
    if real is not None and run is not None:
        raise ValueError("real: compares two folders of images, without run=…; leave one out")


def load(data: DataModule, key: str) -> Any:
    try:
        data.prepare()
    except Exception as error:  # a data set of the user's own may raise anything
        raise located(error, key) from error
    return data


def size(data: DataModule) -> str:
    channels, height, width = data.shape
    return f"{height}×{width} px in {channels} channels"
