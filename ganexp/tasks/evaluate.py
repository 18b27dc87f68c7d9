"""task=evaluate: measure a checkpoint, or one folder of images against another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from ganexp.build import build, located
from ganexp.config import as_typed
from ganexp.data.folder import Exact
from ganexp.data.module import DataModule
from ganexp.evaluation import Evaluation, images_of, samples_of
from ganexp.files import write_json
from ganexp.metrics.fid import FID
from ganexp.mistakes import Mistake
from ganexp.systems.base import System
from ganexp.tasks.checkpoint import restore, restore_data
from ganexp.tasks.hardware import device
from ganexp.tasks.screen import shown, table
from ganexp.tasks.train import prepare_metrics, quiet

log = logging.getLogger(__name__)


class Evaluate:
    """The chosen metrics of `num_images` samples of a `checkpoint` against as many real ones, the checkpoint's own data or
    `data=…` if given; or of the images in the folder `fake` against those in `real`, all of one size.

    The values go to the screen and to evaluation.json, each with its protocol and the short hash of that. Raises Mistake for
    what cannot be compared, before anything is written; ValueError for samples that a metric cannot be of.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        self.config, self.run_dir = config, run_dir
        quiet()
        if not config["metrics"]:
            raise Mistake("metrics: none chosen; for example metrics=[fid,swd]")
        self.device = device(config["hardware"])
        self.system: System | None = None
        self.fake: DataModule | None = None
        self.of: dict[str, Any] = {}
        num = config["num_images"]
        if config["checkpoint"] is not None:
            real = self.of_checkpoint(Path(config["checkpoint"]))
        else:
            real, self.fake = (load(Exact(config[side]), side) for side in ("real", "fake"))
            if real.shape != self.fake.shape:
                raise Mistake(f"fake: its images are {size(self.fake)}, those of real are {size(real)}; bring both to one size")
            self.of = {side: str(Path(config[side]).resolve()) for side in ("real", "fake")}
            num = min(num, len(self.fake.x))
        metrics = [build(metric, f"metrics.{name}") for name, metric in config["metrics"].items()]
        self.evaluation = Evaluation(metrics, real, num, bool(self.system and self.system.classes))
        prepare_metrics(self.evaluation.prepare)

    def of_checkpoint(self, file: Path) -> DataModule:
        """Restore the system, and its data or the given."""
        self.system, trained, step = restore(file, self.config["trust"])
        self.of = {"checkpoint": str(file.resolve()), "step": step}
        if any(override.startswith("data=") for override in as_typed(HydraConfig.get().overrides.task)):
            data = build(self.config["data"], "data")
        else:
            data = restore_data(trained, self.config["trust"])
        drawn = list(self.system.sample(2).shape[1:])
        if list(data.shape) != drawn:
            raise Mistake(f"data.shape: {list(data.shape)}, but the model draws {drawn}")
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
            if isinstance(metric, FID) and min(real, evaluation.num) < max(metric.dim, 2048):
                log.warning("%s: with %s images it is biased upwards: compare it only with values of as many", metric.name,
                            f"{min(real, evaluation.num):,}")  # fmt: skip
        result = {
            **self.of,
            "data": type(evaluation.data).__name__,
            "values": {name: {"value": value, "print": protocols[name]["print"]} for name, value in values.items()},
            "protocols": protocols,
        }
        write_json(result, self.run_dir / "evaluation.json")
        samples = f"samples of step {self.of['step']:,}" if self.system is not None else f"images of {self.config['fake']}"
        print(f"  {evaluation.num:,} {samples} against {real:,} real ones of {self.config['real'] or result['data']}")
        rows = [[name, f"{value:.6g}", protocols[name]["print"]] for name, value in values.items()]
        print(table(["metric", "value", "protocol"], rows))
        print(f"  written to {shown(self.run_dir / 'evaluation.json')}")


def load(data: DataModule, key: str) -> Any:
    try:
        data.prepare()
    except Exception as error:  # a data set of the user's own may raise anything
        raise located(error, key) from error
    return data


def size(data: DataModule) -> str:
    channels, height, width = data.shape
    return f"{height}×{width} px in {channels} channels"
