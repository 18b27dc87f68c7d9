"""task=evaluate: measure a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from ganexp.build import build, located
from ganexp.callbacks.metrics import evaluate
from ganexp.config import as_typed
from ganexp.files import write_json
from ganexp.mistakes import Mistake
from ganexp.tasks.checkpoint import restore, restore_data
from ganexp.tasks.hardware import device
from ganexp.tasks.screen import shown
from ganexp.tasks.train import quiet


class Evaluate:
    """The chosen metrics of `num_images` samples against as many real ones: the checkpoint's own data, or `data=…` if given.

    The values go to the screen and to evaluation.json, with what they depend on.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        self.config, self.run_dir = config, run_dir
        quiet()
        if not config["metrics"]:
            raise Mistake("metrics: none chosen; for example metrics=[fid,swd]")
        self.file = Path(config["checkpoint"])
        self.system, trained, self.step = restore(self.file, config["trust"])
        if any(override.startswith("data=") for override in as_typed(HydraConfig.get().overrides.task)):
            self.data = build(config["data"], "data")
        else:
            self.data = restore_data(trained, config["trust"])
        drawn = list(self.system.sample(2).shape[1:])
        if list(self.data.shape) != drawn:
            raise Mistake(f"data.shape: {list(self.data.shape)}, but the model draws {drawn}")
        self.metrics = [build(metric, f"metrics.{name}") for name, metric in config["metrics"].items()]
        self.system.to(device(config["hardware"]))
        try:
            self.data.prepare()
        except Exception as error:  # a data set of the user's own may raise anything
            raise located(error, "data") from error

    def run(self) -> None:
        """Measure, print, and write into the run folder."""
        num = self.config["num_images"]
        real = self.data.real(num)
        try:
            values = evaluate(self.metrics, self.system, real, num, show="measuring")
        except ValueError as error:
            raise located(error, "metrics") from error
        result = {
            "checkpoint": str(self.file.resolve()),
            "step": self.step,
            "values": values,
            "generated": num,
            "real": len(real),
            "data": type(self.data).__name__,
            "ema": self.system.ema is not None,
        }
        write_json(result, self.run_dir / "evaluation.json")
        print(f"  {num:,} samples of step {self.step:,} against {len(real):,} real ones of {result['data']}")
        for name, value in values.items():
            print(f"  {name:<14} {value:.6g}")
        print(f"  written to {shown(self.run_dir / 'evaluation.json')}")
