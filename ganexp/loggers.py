"""Loggers that get scalars, pictures, the config and the final metrics through one interface, RunLogger.

Each is Lightning's logger, or one over the library's own functions, and requires that library when it is built.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from secrets import token_hex
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from ganexp.lightning_internals import forget_run
from ganexp.references import Reference

log = logging.getLogger(__name__)
REST = "training"  # in front of the tags that matter less; TensorBoard sorts tags by name
GROUPS = ("loss", "score")  # first parts of names that matter, besides the metrics
FINAL = "summary"  # in front of the final values
REFERENCE = f"{REST}/reference"  # in front of the band of a reference


class RunLogger(Logger):
    """A logger of scalars, `log_metrics`, and of what else a run has. Only rank 0 calls it.

    `identity`: the argument of the constructor by which a resumed run continues its run in the library's store; None if it needs
    no such argument.
    """

    identity: str | None = None

    def name_in_store(self) -> str:
        """Returns the value of that argument, which run.json keeps."""
        raise NotImplementedError

    def begin(self, config: Mapping[str, Any], metrics: Sequence[str], references: Sequence[Reference]) -> None:
        """Before the first step: the settings by full key, names of the metrics, and what to compare them with."""
        self.log_hyperparams(dict(config))

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        raise NotImplementedError

    def end(self, final: Mapping[str, float]) -> None:
        """After the last step, also of a run that failed: the final metrics, such as `fid/classifier/best`."""
        raise NotImplementedError


class TensorBoard(RunLogger, TensorBoardLogger):
    """Names as in metrics.csv, without parentheses (`score/D_x`); what matters less has `training/` in front and comes last.

    The custom scalars show both losses in one chart, D's scores, the metrics with the band of a reference, and the rest. The
    HParams tab has the last and the best value of every metric.
    """

    @property
    def log_dir(self) -> str:
        """Lightning's would take `$` and `~` in the run folder's path for variables."""
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return os.path.join(self.root_dir, version, self.sub_dir or "")

    def begin(self, config: Mapping[str, Any], metrics: Sequence[str], references: Sequence[Reference]) -> None:
        self.metrics, self.laid_out = list(metrics), False
        self.references = {r.metric: r for r in reversed(references) if r.fingerprint is not None}
        self.hparams.update(config)  # for hparams.yaml
        names = [*metrics, *(f"{FINAL}/{name}/best" for name in metrics)] or [f"{REST}/images_seen"]
        for summary in hparams(dict(config), dict.fromkeys(names, 0.0)):
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {self.tag(name): value for name, value in metrics.items()}
        for name, reference in self.references.items():
            if name in metrics:
                low, high = reference.band(step or 0)
                values |= {f"{REFERENCE}/{name}/low": low, f"{REFERENCE}/{name}/high": high}
        super().log_metrics(values, step)
        if not self.laid_out and any(name.startswith("loss") for name in metrics):
            self.experiment.add_custom_scalars(self.layout([*metrics]))
            self.laid_out = True

    def tag(self, name: str) -> str:
        matters = name in self.metrics or name.partition("/")[0] in (*GROUPS, FINAL)
        return plain(name) if matters else f"{REST}/{plain(name)}"

    def layout(self, names: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
        """The custom scalars of a run that logs these names: categories of charts, in order."""

        def lines(*prefixes: str) -> list[Any]:
            return ["Multiline", [f"^{re.escape(self.tag(name))}$" for name in names if name.startswith(prefixes)]]

        losses = [name for name in ("loss", "loss/discriminator", "loss/generator") if name in names]
        game: dict[str, list[Any]] = {"losses": ["Multiline", [f"^{re.escape(name)}$" for name in losses]]}
        if any(name.startswith("score/") for name in names):
            game["D(x) and D(G(z))"] = lines("score/")
        measured: dict[str, list[Any]] = {}
        for name in self.metrics:
            band = [f"{REFERENCE}/{name}/low", f"{REFERENCE}/{name}/high"]
            measured[name] = ["Margin", [name, *band]] if name in self.references else ["Multiline", [f"^{re.escape(name)}$"]]
        others = dict.fromkeys(name.partition("/")[0] for name in names if self.tag(name).startswith(REST) and "/" in name)
        rest = {"parts of the losses": lines("loss/")} | {group: lines(f"{group}/") for group in others}
        categories = {"the game": game, "metrics": measured, "the rest": rest}
        return {title: charts for title, charts in categories.items() if charts}

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        self.experiment.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def end(self, final: Mapping[str, float]) -> None:
        for name, value in final.items():
            self.experiment.add_scalar(f"{FINAL}/{name}", value)
        self.experiment.flush()


class WandB(RunLogger, WandbLogger):
    """Weights & Biases; with `offline: true` only files in `save_dir`, which `wandb sync` sends if you want. A resumed run writes
    further files with the same id."""

    identity = "id"

    def name_in_store(self) -> str:
        return str(self.experiment.id)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        self.log_image(name, [picture], step)

    def end(self, final: Mapping[str, float]) -> None:
        self.experiment.summary.update({f"{FINAL}/{name}": value for name, value in final.items()})
        self.experiment.finish()  # another run of this process gets its own


class MLflow(RunLogger, MLFlowLogger):
    """MLflow, in a database file of this machine; names without parentheses, `score/D_x`. If the store does not have the run to
    continue, a new one is started. Settings that a resumed run changes are tags, since MLflow changes no parameter."""

    identity = "run_id"

    def name_in_store(self) -> str:
        return str(self.run_id)

    @property
    def experiment(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return super().experiment
        except MlflowException as error:
            if not forget_run(self):
                raise
            log.warning("MLflow: %s; starting a new run", " ".join(str(error).split()))
            return super().experiment

    def begin(self, config: Mapping[str, Any], metrics: Sequence[str], references: Sequence[Reference]) -> None:
        client = self.experiment
        client.update_run(self.run_id, status="RUNNING")  # it may have ended before
        before = client.get_run(self.run_id).data.params
        self.log_hyperparams({key: value for key, value in config.items() if key not in before})
        for key, value in config.items():
            if key in before and before[key] != str(value):
                client.set_tag(self.run_id, f"resumed with {key}", str(value))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({plain(name): value for name, value in metrics.items()}, step)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        self.experiment.log_image(self.run_id, picture, artifact_file=f"{name}/{step:08d}.png")

    def end(self, final: Mapping[str, float]) -> None:
        self.log_metrics({f"{FINAL}/{name}": value for name, value in final.items()})


class Trackio(RunLogger):
    """Trackio, on this machine: in the folder `TRACKIO_DIR`, by default in the cache of Hugging Face. Runs are known by name;
    `name` gets a random end. `run_name`: that of a run to continue."""

    identity = "run_name"

    def __init__(self, project: str, name: str, run_name: str | None = None):
        super().__init__()
        if find_spec("trackio") is None:
            raise ModuleNotFoundError("trackio is not installed")
        self.project, self.run_name = project, run_name or f"{name}-{token_hex(4)}"
        self.run: Any = None

    def name_in_store(self) -> str:
        return self.run_name

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self.run_name

    @property
    def experiment(self) -> Any:
        """The run of trackio, made at the first use."""
        if self.run is None:
            import trackio

            self.run = trackio.init(
                self.project, self.run_name, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
            )
        return self.run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        self.experiment.config.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        import trackio

        self.experiment.log({name: trackio.Image(picture)}, step=step)

    def end(self, final: Mapping[str, float]) -> None:
        self.experiment.log({f"{FINAL}/{name}": value for name, value in final.items()})
        self.experiment.finish()


def continuing(node: Mapping[str, Any], identity: str | None) -> dict[str, Any]:
    """Returns the node of a logger that continues the run with this identity, see RunLogger."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in RunLogger.__subclasses__()}
    kind = kinds.get(node["_target_"])
    return {**node, kind.identity: identity} if kind and kind.identity and identity else {**node}


def plain(name: str) -> str:
    """A name without parentheses: MLflow refuses them, and TensorBoard's custom scalars draw no line with them."""
    return re.sub(r"_+", "_", re.sub(r"[^\w/. -]+", "_", name)).rstrip("_")
