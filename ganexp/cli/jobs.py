"""Run a checked config: alone, or as the jobs of a sweep."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig

from ganexp.cli import checks, config
from ganexp.cli.folders import (
    check_empty,
    choose_folder,
    destination,
    free_folder,
    in_run_folder,
    is_set,
    leaves_nothing,
    starts_runs,
    under_torchrun,
)
from ganexp.cli.hydra_internals import Callbacks, result_of
from ganexp.cli.messages import ConfigError, Diverged, format_message, printable
from ganexp.cli.overrides import as_typed, keys_of, quoted
from ganexp.files import replace, write_json
from ganexp.records import read_record
from ganexp.runtime.lock import FolderLock

log = logging.getLogger(__name__)
STUDY = "study.json"  # in the folder of a study


def build_task(cfg: DictConfig, folder: Path, further: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Build and set up the task, without running it. Raises ConfigError; writes nothing. `further`: further arguments."""
    from ganexp.cli.build import build_task as build  # imports torch

    whole = config.resolved(cfg)
    override_keys = keys_of(as_typed(HydraConfig.get().overrides.task))
    override_keys += ["resume"] if whole["resume"] and "resume" not in override_keys else []  # a job of a sweep that continues
    arguments = {key: value for key, value in whole["task"].items() if key == "_target_" or key not in config.TASK_KEYS}
    try:
        task_config = config_of_task(whole, override_keys)
        keys = {"override_keys": override_keys} if in_run_folder(cfg) or leaves_nothing(cfg) else {}
        return build(arguments, task_config, folder, {**keys, **further})
    except ConfigError as mistake:
        raise ConfigError(checks.with_written_key(cfg, str(mistake))) from mistake


def config_of_task(whole: dict[str, Any], override_keys: list[str]) -> dict[str, Any]:
    """Returns the part of the config that a task gets, see TASK_KEYS. An experiment chooses options of all groups; resume=auto
    compares all."""
    task, top = whole["task"], {key.split(".")[0] for key in override_keys}
    part = {key: whole[key] for key in task.get("needs", []) if key in whole}
    for key in task.get("optional", []):
        if key in whole:
            part[key] = whole[key] if top & {key, "experiment", "resume"} or not isinstance(whole[key], dict) else None
    return part


def exit_code(result: Any) -> int:
    """Returns the result of a task's run() if it is a number, otherwise 0."""
    return result if type(result) is int else 0


class EarlyRecords(logging.Handler):
    """Buffers log records while a task is built, before its folder and log file exist. Prints warnings at once."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if record.levelno >= logging.WARNING:
            print(printable(record.getMessage()), file=sys.stderr, flush=True)

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
        """Write the records to the log file."""
        for record in self.records:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.handle(record)


def announce(notes: Sequence[str]) -> None:
    """Print and log the notes."""
    for note in notes:
        print(f"ganexp: {printable(note)}", file=sys.stderr)
        log.info(note)


def record(notes: Sequence[str], folder: Path) -> None:
    """Add the notes to run.json if the task has written one."""
    file = folder / "run.json"
    if notes and (content := read_record(folder)):
        write_json({**content, "notes": [*notes, *content.get("notes", [])]}, file)


def run(cfg: DictConfig, notes: Sequence[str] = (), further: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Build the task, then create the run folder, then run. Returns the exit code. `notes`: printed and logged first. `further`:
    further arguments of the task."""
    if starts_runs(cfg):
        return run_study(cfg)
    if not leaves_nothing(cfg):
        return build_and_run(cfg, notes, further)
    with tempfile.TemporaryDirectory(prefix="ganexp-", ignore_cleanup_errors=True) as folder:  # one for each rank
        target = {"destination": destination(cfg), "notes": list(notes)}
        return build_and_run(cfg, notes, target, Path(folder) / "run")


def build_and_run(cfg: DictConfig, notes: Sequence[str], further: Mapping[str, Any], temporary: Path | None = None) -> int:
    """`temporary`: the folder of a task that leaves nothing."""
    with ExitStack() as held:
        while True:
            folder, early = choose_folder(cfg, temporary), EarlyRecords()
            lock = FolderLock(folder, "run" if in_run_folder(cfg) else "hydra.run.dir", waits=bool(cfg.get("resume")))
            is_first = not under_torchrun() or os.environ["RANK"] == "0"  # only rank 0 creates and locks the folder
            if in_run_folder(cfg) and is_first and (folder / "config.yaml").is_file():  # otherwise it is refused, and left alone
                held.enter_context(lock)
            with early.listening():
                task = build_task(cfg, folder, further)
            if not is_first:
                return exit_code(task.run())
            if in_run_folder(cfg):
                break
            try:
                folder.mkdir(parents=True, exist_ok=is_set(cfg, "run") and not temporary)
            except FileExistsError:  # another run started in the same second
                if under_torchrun():
                    raise ConfigError(f"hydra.run.dir: another run has just created {folder}; start again") from None
                continue
            except OSError as error:
                raise ConfigError(f"hydra.run.dir: cannot create the run folder {folder}: {error.strerror}") from error
            held.enter_context(lock)
            check_empty(folder, cfg, "run")
            break
        return run_locked(task, cfg, folder, early, [*notes, *([lock.note] if lock.note else [])])


def run_locked(task: Any, cfg: DictConfig, folder: Path, early: EarlyRecords, notes: Sequence[str]) -> int:
    """Run the task in its folder, which this process owns. Returns the exit code."""
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(cfg))

    def run_task(_: DictConfig) -> Any:
        early.write()  # the log file exists now
        announce(notes)
        return task.run()

    for name in ("log.txt", "hparams.yaml"):
        keep_to_itself(folder / name)
    try:
        result = result_of(run_job(run_task, cfg, "hydra.run.dir", None, context))
    except (KeyboardInterrupt, SystemExit):  # Lightning turns KeyboardInterrupt into SystemExit
        results = "" if leaves_nothing(cfg) else f"; results so far are in {folder}"
        print(f"ganexp: interrupted{results}", file=sys.stderr)
        return 130
    finally:
        record(notes, folder)
    if isinstance(result, Exception):
        print(f"ganexp: {printable(report(result, folder, leaves_nothing(cfg)))}", file=sys.stderr)
        return 1
    return exit_code(result)


def keep_to_itself(file: Path) -> None:
    """Make a file with several names, such as one in a backup of hard links, a file of its own: what is appended to it is not
    appended to them."""
    if file.is_file() and file.stat().st_nlink > 1:
        content = file.read_bytes()
        replace(file, lambda new: new.write(content))


def run_command_line(overrides: Sequence[str], config_name: str, config_dir: str | None, callbacks: Sequence[Any] = ()) -> int:
    """Run the task of a command line, as a process of its own would. Returns the exit code. Raises ConfigError. `callbacks`:
    further ones of the Trainer."""
    with config.config_tree(config_dir):
        return compose_and_run(overrides, config_name, {"callbacks": callbacks} if callbacks else {})


def compose_and_run(overrides: Sequence[str], config_name: str, further: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Run the task of a command line, in the config tree that is there. Returns the exit code. Raises ConfigError. `further`:
    further arguments of the task."""
    notes: list[str] = []
    cfg = checks.compose_checked(overrides, config_name, notes)
    if (again := to_continue(cfg, overrides)) is not None:
        cfg, notes = checks.compose_checked(again, config_name), []  # its run.json has the notes
    return run(cfg, notes, further)


def run_study(cfg: DictConfig) -> int:
    """Run a task that starts runs. It works in a new folder, or goes on in the one that the command line sets, perhaps together
    with other processes; each job has a lock. Returns the exit code."""
    if under_torchrun():
        raise ConfigError("task=study: starts its processes itself; start it without torchrun")
    folder = Path(str(cfg.hydra.run.dir)).resolve()
    if not (is_set(cfg, "run") and (folder / STUDY).is_file()):
        folder = free_folder(cfg, "run")
    own = as_typed(cfg.hydra.overrides.task)
    shared = [word for word in own if not word.lstrip("+~").startswith(("task=", "study=", "study."))]
    further = {
        "overrides": shared,
        "config_name": str(cfg.hydra.job.config_name),
        "config_dir": config.config_dir_of(cfg),
    }
    task = build_task(cfg, folder, further)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"hydra.run.dir: cannot create {folder}: {error.strerror}") from error
    return exit_code(task.run())


def to_continue(cfg: DictConfig, overrides: Sequence[str]) -> list[str] | None:
    """Returns, for resume=auto, the command line that continues the run in `hydra.run.dir`; None if there is none yet.

    Under torchrun rank 0 decides, since it may create the folder before the others look for it. Raises ConfigError if the command
    line names no folder.
    """
    if not cfg.get("resume") or leaves_nothing(cfg):
        return None
    if not is_set(cfg, "run"):
        raise ConfigError("resume: auto requires the run's folder, the same at every start: hydra.run.dir=FOLDER")
    folder = Path(str(cfg.hydra.run.dir)).resolve()
    exists = (folder / "config.yaml").is_file()
    if under_torchrun():
        from ganexp.runtime.processes import broadcast_text

        exists = broadcast_text(str(exists)) == str(True)
    others = [word for word in overrides if not word.startswith(("hydra.run.dir=", "task="))]
    return [*others, "task=resume", f"run={quoted(folder)}"] if exists else None


def report(error: BaseException, folder: Path, temporary: bool = False) -> str:
    """Returns the error in one line, and writes the traceback to `folder`/error.txt if possible. `temporary`: the folder is
    deleted at the end."""
    where = "" if isinstance(error, ConfigError | Diverged) or temporary else f" (traceback: {folder / 'error.txt'})"
    try:
        text = "".join(traceback.format_exception(error))
        replace(folder / "error.txt", lambda file: file.write(text.encode(errors="backslashreplace")))
    except OSError:  # a full disk may be the error itself
        where = ""
    return format_message(error) + where
