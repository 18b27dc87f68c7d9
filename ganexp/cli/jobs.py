"""Run a checked config: alone, or as the jobs of a sweep."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from ganexp.cli import checks, config
from ganexp.cli.config import CONF_DIR
from ganexp.cli.hydra_internals import Callbacks, result_of
from ganexp.cli.messages import ConfigError, Diverged, format_message
from ganexp.files import read_json, write_json
from ganexp.runs import find_run

log = logging.getLogger(__name__)


def build_task(cfg: DictConfig, folder: Path) -> Any:
    """The task, built and checked but not run. Raises ConfigError; writes nothing."""
    from ganexp.cli.build import build_task as build  # torch: only now

    whole = config.resolved(cfg)
    chosen = config.keys_of(config.as_typed(HydraConfig.get().overrides.task))
    arguments = {key: value for key, value in whole["task"].items() if key == "_target_" or key not in config.TASK_KEYS}
    try:
        return build(arguments, config_of_task(whole, chosen), folder, chosen if in_run_folder(cfg) else None)
    except ConfigError as mistake:
        raise ConfigError(checks.as_written(cfg, str(mistake))) from mistake


def config_of_task(whole: dict[str, Any], chosen: list[str]) -> dict[str, Any]:
    """What a task gets of the config: see TASK_KEYS. An experiment chooses from all groups."""
    task, top = whole["task"], {key.split(".")[0] for key in chosen}
    mine = {key: whole[key] for key in task.get("needs", []) if key in whole}
    for key in task.get("optional", []):
        if key in whole:
            mine[key] = whole[key] if top & {key, "experiment"} or not isinstance(whole[key], dict) else None
    return mine


def in_run_folder(cfg: DictConfig) -> bool:
    """Whether the task works in the folder of run=…"""
    return bool(cfg.task.get("in_run_folder"))


def exit_code(result: Any) -> int:
    """What a task's run() returns, if that is a number."""
    return result if type(result) is int else 0


class Early(logging.Handler):
    """What is logged while a task is built, before its folder and with it the log is there: warnings are shown at once, all of it
    is kept for the log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if record.levelno >= logging.WARNING:
            print(record.getMessage(), file=sys.stderr, flush=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        root = logging.getLogger()
        level = root.level
        root.addHandler(self)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(self)
            root.setLevel(level)

    def write(self) -> None:
        """Into the log."""
        for record in self.records:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.handle(record)


def announce(notes: Sequence[str]) -> None:
    """On the screen and in the log."""
    for note in notes:
        print(f"ganexp: {note}", file=sys.stderr)
        log.info(note)


def record(notes: Sequence[str], folder: Path) -> None:
    """In the run's record, if the task has left one."""
    file = folder / "run.json"
    if notes and (content := read_json(file)):
        write_json({**content, "notes": [*notes, *content.get("notes", [])]}, file)


def run(cfg: DictConfig, notes: Sequence[str] = ()) -> int:
    """One run: build, which may refuse; then make the folder; then go. The exit code. `notes`: said when it begins."""
    while True:
        folder, early = settle_folder(cfg), Early()
        with early.listening():
            task = build_task(cfg, folder)
        if under_torchrun() and os.environ["RANK"] != "0":  # only the first process makes the folder
            task.run()
            return 0
        if in_run_folder(cfg):
            break
        try:
            folder.mkdir(parents=True, exist_ok=chosen(cfg, "run"))
            break
        except FileExistsError:  # another run took the same second
            if under_torchrun():
                raise ConfigError(f"hydra.run.dir: {folder} was taken by another run just now; start again") from None
        except OSError as error:
            raise ConfigError(f"hydra.run.dir: the run folder {folder} cannot be made: {error.strerror}") from error
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(cfg))

    def announced(_: DictConfig) -> Any:
        early.write()  # the log is open only now
        announce(notes)
        return task.run()

    try:
        result = result_of(run_job(announced, cfg, "hydra.run.dir", None, context))
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one the other
        print(f"ganexp: interrupted; what was saved so far is in {folder}", file=sys.stderr)
        return 130
    finally:
        record(notes, folder)
    if isinstance(result, Exception):
        print(f"ganexp: {report(result, folder)}", file=sys.stderr)
        return 1
    return exit_code(result)


def under_torchrun() -> bool:
    return "LOCAL_WORLD_SIZE" in os.environ


def settle_folder(cfg: DictConfig) -> Path:
    """The run folder, absolute; written into Hydra's part of the config for interpolations to see.

    A new one, except for a task that works in the run's own. Raises ConfigError where that does not exist.
    """
    if in_run_folder(cfg):
        if chosen(cfg, "run"):
            raise ConfigError("hydra.run.dir: a run resumes in its own folder, run=…")
        folder = find_run(cfg.run).resolve()
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run: the folder {folder} cannot be written to")
    else:
        folder = free_folder(cfg, "run")
    if under_torchrun():
        from ganexp.runtime.processes import broadcast_text

        folder = Path(broadcast_text(str(folder)))
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.run.dir = str(folder)
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    return folder


def chosen(cfg: DictConfig, mode: str) -> bool:
    """Whether the user named the folder."""
    return any(override.startswith(f"hydra.{mode}.dir=") for override in config.as_typed(cfg.hydra.overrides.hydra))


def free_folder(cfg: DictConfig, mode: str) -> Path:
    """The folder of a `run` or a `sweep`: with another number where one is there. Raises ConfigError if the user named one
    that is not empty."""
    wanted = Path(str(cfg.hydra[mode].dir)).resolve()
    if chosen(cfg, mode):
        if wanted.is_dir() and any(wanted.iterdir()):
            raise ConfigError(f"hydra.{mode}.dir: {wanted} is there and not empty; every {mode} has a folder of its own")
        return wanted
    folder, n = wanted, 1
    while folder.exists():
        n += 1
        folder = wanted.with_name(f"{wanted.name}_{n}")
    return folder


def report(error: BaseException, folder: Path) -> str:
    """The error in one line; the whole trace goes to `folder`/error.txt, where there is room for it."""
    where = "" if isinstance(error, ConfigError | Diverged) else f" (the whole trace: {folder / 'error.txt'})"
    try:
        (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:  # a full disk may be the error itself
        where = ""
    return format_message(error) + where


# -- sweeps ----------------------------------------------------------------------------------------------------------


def hydra_main() -> int:
    """Hand sys.argv to Hydra: help, --cfg, --info, sweeps."""
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(sweep_job)()
    return 0


def sweep(cfg: DictConfig, overrides: list[str], flags: list[str], jobs: int) -> int:
    """Run all jobs, each in its own folder, then say how each ended. 1 if any failed or is missing.

    `cfg`: of the first job. `jobs`: how many there are at least. Raises ConfigError if the sweep's folder cannot be made.
    """
    folder = free_folder(cfg, "sweep")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir: {folder} cannot be made: {error.strerror}") from error
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    mine = [word for word in overrides if not word.startswith("hydra.sweep.dir=")]
    sys.argv[1:] = ["--multirun", *flags, *mine, f"hydra.sweep.dir='{quoted}'"]
    try:
        hydra_main()
    finally:
        lines, failed = summary(folder, jobs)
        print("\n".join(lines), flush=True)
    return 1 if failed else 0


def sweep_job(cfg: DictConfig) -> None:
    """One job, in the folder that Hydra made for it. An error is kept there and said; the other jobs go on."""
    folder, file = Path(HydraConfig.get().runtime.output_dir), Path(HydraConfig.get().runtime.output_dir) / "run.json"
    outcome: dict[str, Any] = {"status": "finished"}
    code, notes = 0, []
    try:
        notes = config.drop_leftovers(cfg, config.as_typed(HydraConfig.get().overrides.task))
        task = build_task(cfg, folder)
        announce(notes)
        code = exit_code(task.run())
        outcome = {"status": "interrupted"} if code else outcome
    except Exception as error:
        outcome = {"status": "failed", "error": report(error, folder)}
        print(f"ganexp: job {HydraConfig.get().job.num} failed: {outcome['error']}", file=sys.stderr)
    record(notes, folder)
    job = {"job": HydraConfig.get().job.num, "overrides": config.as_typed(HydraConfig.get().overrides.task)}
    write_json({**read_json(file), **outcome, **job}, file)
    if code:  # and with it the sweep
        raise KeyboardInterrupt


def summary(folder: Path, expected: int) -> tuple[list[str], int]:
    """A line for every job of a sweep, with what it does not share with all the others, and how many failed or are missing."""
    jobs = sorted((r for r in map(read_json, folder.rglob("run.json")) if "job" in r), key=lambda r: r["job"])
    shared = set.intersection(*(set(r["overrides"]) for r in jobs)) if len(jobs) > 1 else set()
    expected = max(expected, len(jobs))
    lines = [f"sweep {folder}"]
    for record in jobs:
        overrides = " ".join(text for text in record["overrides"] if text not in shared)
        said = record.get("error") or " ".join(
            f"{name} {value['last']:.4g}" for name, value in record.get("metrics", {}).items() if value["last"] is not None
        )
        lines.append(f"  {record['job']:>3}  {record['status']:<11} {overrides}   {said}")
    failed = expected - sum(record["status"] == "finished" for record in jobs)
    if len(jobs) < expected:
        lines.append(f"  {expected - len(jobs)} jobs never ended")
    return [*lines, f"  {failed} of {expected} jobs failed" if failed else f"  all {expected} jobs finished"], failed
