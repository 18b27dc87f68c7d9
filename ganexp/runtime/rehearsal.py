"""Rehearse a run: time three steps with every callback, then steps alone, and estimate the time and disk of the whole run."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ganexp.callbacks.checkpoint import Checkpoint, find, link_or_copy
from ganexp.callbacks.metrics import Metrics
from ganexp.callbacks.samples import Samples
from ganexp.runtime.memory import peak_memory

STEPS = 3  # the callbacks act at the last of these
LOGGED = 5  # steps with logging
SECONDS = 10.0  # for the steps alone
NEVER = 2**31 - 1
AT_THE_END = (Samples, Metrics, Checkpoint)  # they act at the last step too
FRAMES = 120  # maximum in training.gif, see pictures.animate


class Lap(pl.Callback):
    """Runs after the callback `of`, and tells the clock that it is done; if `of` is None, that the step is."""

    def __init__(self, clock: Clock, of: str | None):
        self.clock, self.of = clock, of

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        self.clock.lap(trainer, "start", self.of)

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.lap(trainer, "step", self.of)

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        self.clock.lap(trainer, "end", self.of)


class Clock(pl.Callback):
    """Times STEPS steps, at the last of which all callbacks act, LOGGED steps with logging, and then steps alone for about
    SECONDS. Then stops the run.

    `started`: start of the process, in seconds since 1970. `period`: steps after which the work repeats; at least so many are
    timed.
    `pictures`: number of pictures of the whole run; the animation at the end has copies of the first two.
    """

    def __init__(self, started: float, period: int, pictures: int):
        self.started, self.period, self.pictures = started, period, pictures
        # Seconds of ("start" | "step" | "end", callback)
        self.laps: dict[tuple[str, str | None], list[float]] = defaultdict(list)
        self.startup, self.last, self.before_alone, self.until = 0.0, 0.0, 0.0, NEVER

    def setup(self, trainer: pl.Trainer, system: Any, stage: str) -> None:
        others: list[Any] = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        self.timed = {type(callback).__name__: callback for callback in others}
        self.every = {name: callback.every for name, callback in self.timed.items() if hasattr(callback, "every")}
        self.set_intervals(trainer, STEPS, STEPS)
        pairs = [[callback, Lap(self, name)] for name, callback in self.timed.items()]
        trainer.callbacks = [Lap(self, None), *(callback for pair in pairs for callback in pair), self]  # type: ignore[attr-defined]

    def set_intervals(self, trainer: pl.Trainer, every: int, log_every: int) -> None:
        trainer.log_every_n_steps = log_every  # type: ignore[attr-defined]
        for name in self.every:
            self.timed[name].every = every

    def lap(self, trainer: pl.Trainer, when: str, of: str | None) -> None:
        alone = self.before_alone > 0 and when == "step"
        if not alone:  # in the steps alone, kernels may run behind Python, as in training
            synchronize(trainer)
        now = time.perf_counter()
        if when == "start" and of is None:
            self.startup = time.time() - self.started
        elif not (when == "end" and of is None):  # the last step ended long before
            self.laps["alone" if alone else when, of].append(now - self.last)
        self.last = now

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, alone_from = trainer.global_step, STEPS + LOGGED
        if step == STEPS:
            self.set_intervals(trainer, NEVER, 1)
        elif step == alone_from:
            self.set_intervals(trainer, NEVER, NEVER)
            synchronize(trainer)
            per_step = sum(sum(laps[-LOGGED:]) for (when, _), laps in self.laps.items() if when == "step") / LOGGED
            most = trainer.strategy.reduce(torch.tensor(per_step, device=system.device), reduce_op="max")
            self.until = alone_from + self.period * max(1, math.ceil(SECONDS / float(most) / self.period))
            self.before_alone = time.perf_counter()
        elif step == self.until:
            synchronize(trainer)
            self.alone = (time.perf_counter() - self.before_alone) / (self.until - alone_from)
            trainer.should_stop = True
            self.copy_pictures(trainer)
        self.last = time.perf_counter()

    def copy_pictures(self, trainer: pl.Trainer) -> None:
        samples = find(trainer.callbacks, Samples)  # type: ignore[attr-defined]
        made = sorted(samples.folder.glob("step-*.png")) if samples and trainer.is_global_zero else []
        for k in range(len(made), min(self.pictures, FRAMES) if made else 0):
            link_or_copy(made[k % len(made)], made[0].with_name(f"step-{STEPS + k:08d}.png"))

    def measured(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Returns the measurements, in seconds and bytes, as plain values."""
        step, device = self.laps["step", None], trainer.strategy.root_device
        names = [name for name in self.timed if name != "Record"]
        logged = sum(mean(self.laps["step", name][-LOGGED:]) - mean(self.laps["alone", name]) for name in names)
        if device.type == "cpu":  # on other devices single steps are not timed
            logged += max(0.0, median(step[-LOGGED:]) - median(self.laps["alone", None]))
        return {
            "startup": self.startup,
            "start": {name: self.laps["start", name][0] for name in self.timed},
            "step": self.alone,
            "steps_timed": self.until - STEPS - LOGGED,
            "log": max(0.0, logged),
            "record": self.laps["step", "Record"][0],
            "acts": {
                name: {
                    "every": every,
                    "at_the_end": isinstance(self.timed[name], AT_THE_END),
                    "seconds": self.laps["step", name][STEPS - 1],
                }
                for name, every in self.every.items()
            },
            "end": {name: laps[0] for (when, name), laps in self.laps.items() if when == "end" and name},
            "memory": peak_memory(),
            "gpu_memory": torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        }


def synchronize(trainer: pl.Trainer) -> None:
    """Wait until the device has finished its work."""
    kind = trainer.strategy.root_device.type
    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def times_in(first: int, last: int, every: int, at_the_end: bool) -> int:
    """Returns how often something happens after step `first` and up to `last`: at each multiple of `every`, and perhaps at the
    last step."""
    return last // every - first // every + (at_the_end and last % every > 0)


def parts_of_time(measured: dict[str, Any], trainer: dict[str, int], first_step: int) -> dict[str, dict[str, float]]:
    """Returns how many `times` a run from `first_step` on does each of its parts, and the `seconds` of each time. `trainer`: that
    node of its config."""
    last = trainer["max_steps"]
    times = partial(times_in, first_step, last)
    acts = {name: times(act["every"], act["at_the_end"]) for name, act in measured["acts"].items()}
    measuring = measured["acts"].get("Metrics", {}).get("every")
    if "Checkpoint" in acts and measuring:  # best.ckpt may be written at each measurement that has no other checkpoint
        every = measured["acts"]["Checkpoint"]["every"]
        acts["Checkpoint"] += acts["Metrics"] - times(math.lcm(every, measuring), True)
    return {
        "start": {"times": 1, "seconds": measured["startup"] + sum(measured["start"].values())},
        "steps": {"times": last - first_step, "seconds": measured["step"]},
        "log": {"times": times(trainer["log_every"], True), "seconds": measured["log"]},
        **{name.lower(): {"times": acts[name], "seconds": act["seconds"]} for name, act in measured["acts"].items()},
        "record": {"times": times(10 * trainer["log_every"], True), "seconds": measured["record"]},
        "end": {"times": 1, "seconds": sum(measured["end"].values()) + measured["exit"]},
    }


def parts_of_disk(sizes: dict[str, int], parts: dict[str, dict[str, float]], keep: int) -> dict[str, dict[str, float]]:
    """Returns how many `times` a run writes each kind of file, and the `bytes` of each. `sizes`: see `sizes_of`. `keep`: the
    number of checkpoints that are kept."""
    pictures = parts.get("samples", {}).get("times", -1) + 1
    return {
        "checkpoints": {"times": keep + 1 if "checkpoint" in parts else 0, "bytes": sizes["checkpoint"]},
        "pictures": {"times": pictures, "bytes": sizes["picture"]},
        "animation": {"times": min(FRAMES, pictures), "bytes": sizes["frame"]},
        "log": {"times": parts["log"]["times"], "bytes": sizes["row"]},
    }


def sizes_of(folder: Path) -> dict[str, int]:
    """Returns the bytes of one `checkpoint`, of one `picture` with its copy for TensorBoard, of one `frame` of the animation, and
    of one `row` of all logs, in the folder of a rehearsal."""
    checkpoint, gif = folder / "checkpoints" / "last.ckpt", folder / "training.gif"
    pictures = [file.stat().st_size for file in (folder / "samples").glob("*.png")]
    events = [file.stat().st_size for file in folder.glob("events.out.tfevents.*")]
    logs = sum(events) + sum(file.stat().st_size for file in folder.glob("metrics.csv"))
    return {
        "checkpoint": checkpoint.stat().st_size if checkpoint.is_file() else 0,
        "picture": round(mean(pictures)) * (2 if events else 1),
        "frame": gif.stat().st_size // min(FRAMES, len(pictures)) if gif.is_file() else 0,
        "row": max(0, logs - (2 * round(mean(pictures)) if events else 0)) // (2 + LOGGED),
    }
