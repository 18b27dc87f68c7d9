"""Run a checked config: alone, or as the jobs of a sweep."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ganexp.cli import checks, config
from ganexp.cli.config import CONF_DIR
from ganexp.cli.hydra_internals import Callbacks, result_of
from ganexp.cli.messages import ConfigError, Diverged, format_message, printable
from ganexp.files import read_json, write_json
from ganexp.runs import find_run
from ganexp.runtime.lock import LOCK_FILES, FolderLock

log = logging.getLogger(__name__)
STUDY, SWEEP = "study.json", "sweep.json"  # in the folder of a study, of a sweep
EARLY = {".hydra", "log.txt", "error.txt", "run.json", ".config.yaml.part"}  # files of a run folder before its config.yaml


def build_task(cfg: DictConfig, folder: Path, further: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Build and set up the task, without running it. Raises ConfigError; writes nothing. `further`: further arguments."""
    from ganexp.cli.build import build_task as build  # imports torch

    whole = config.resolved(cfg)
    override_keys = config.keys_of(config.as_typed(HydraConfig.get().overrides.task))
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


def in_run_folder(cfg: DictConfig) -> bool:
    """Whether the task works in the folder of run=…"""
    return bool(cfg.task.get("in_run_folder"))


def leaves_nothing(cfg: DictConfig) -> bool:
    """Whether the task works in a temporary folder."""
    return bool(cfg.task.get("leaves_nothing"))


def starts_runs(cfg: DictConfig) -> bool:
    """Whether the task starts runs."""
    return bool(cfg.task.get("starts_runs"))


def destination(cfg: DictConfig) -> Path:
    """Returns the folder that a run of this command line would have, for a task that leaves nothing. Raises ConfigError if that
    folder cannot be used."""
    folder = Path(str(cfg.hydra.run.dir)).resolve()
    continues = cfg.get("resume") and is_set(cfg, "run") and (folder / "config.yaml").is_file()
    return folder if continues else free_folder(cfg, "run")


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
        """Write the records to the log file."""
        for record in self.records:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.handle(record)


def announce(notes: Sequence[str]) -> None:
    """Print and log the notes."""
    for note in notes:
        print(f"ganexp: {note}", file=sys.stderr)
        log.info(note)


def record(notes: Sequence[str], folder: Path) -> None:
    """Add the notes to run.json if the task has written one."""
    file = folder / "run.json"
    if notes and (content := read_json(file)):
        write_json({**content, "notes": [*notes, *content.get("notes", [])]}, file)


def run(cfg: DictConfig, notes: Sequence[str] = ()) -> int:
    """Build the task, then create the run folder, then run. Returns the exit code. `notes`: printed and logged first."""
    if starts_runs(cfg):
        return run_study(cfg)
    if not leaves_nothing(cfg):
        return build_and_run(cfg, notes)
    with tempfile.TemporaryDirectory(prefix="ganexp-", ignore_cleanup_errors=True) as folder:  # one for each rank
        return build_and_run(cfg, notes, destination(cfg), Path(folder) / "run")


def build_and_run(cfg: DictConfig, notes: Sequence[str], target: Path | None = None, temporary: Path | None = None) -> int:
    """`target`, `temporary`: the destination and the folder of a task that leaves nothing."""
    with ExitStack() as held:
        while True:
            folder, early = choose_folder(cfg, temporary), EarlyRecords()
            lock = FolderLock(folder, "run" if in_run_folder(cfg) else "hydra.run.dir", waits=bool(cfg.get("resume")))
            is_first = not under_torchrun() or os.environ["RANK"] == "0"  # only rank 0 creates and locks the folder
            if in_run_folder(cfg) and is_first and (folder / "config.yaml").is_file():  # otherwise it is refused, and left alone
                held.enter_context(lock)
            with early.listening():
                task = build_task(cfg, folder, {"destination": target, "notes": list(notes)} if temporary else {})
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

    try:
        result = result_of(run_job(run_task, cfg, "hydra.run.dir", None, context))
    except (KeyboardInterrupt, SystemExit):  # Lightning turns KeyboardInterrupt into SystemExit
        results = "" if leaves_nothing(cfg) else f"; results so far are in {folder}"
        print(f"ganexp: interrupted{results}", file=sys.stderr)
        return 130
    finally:
        record(notes, folder)
    if isinstance(result, Exception):
        print(f"ganexp: {printable(report(result, folder))}", file=sys.stderr)
        return 1
    return exit_code(result)


def run_command_line(overrides: Sequence[str], config_name: str, config_dir: str | None) -> int:
    """Run the task of a command line, as a process of its own would. Returns the exit code. Raises ConfigError."""
    with config.config_tree(config_dir):
        return compose_and_run(overrides, config_name)


def compose_and_run(overrides: Sequence[str], config_name: str) -> int:
    """Run the task of a command line, in the config tree that is there. Returns the exit code. Raises ConfigError."""
    notes: list[str] = []
    cfg = checks.compose_checked(overrides, config_name, notes)
    if (again := to_continue(cfg, overrides)) is not None:
        cfg, notes = checks.compose_checked(again, config_name), []  # its run.json has the notes
    return run(cfg, notes)


def run_study(cfg: DictConfig) -> int:
    """Run a task that starts runs. It works in a new folder, or goes on in the one that the command line sets, perhaps together
    with other processes; each job has a lock. Returns the exit code."""
    if under_torchrun():
        raise ConfigError("task=study: starts its processes itself; start it without torchrun")
    folder = Path(str(cfg.hydra.run.dir)).resolve()
    if not (is_set(cfg, "run") and (folder / STUDY).is_file()):
        folder = free_folder(cfg, "run")
    own = config.as_typed(cfg.hydra.overrides.task)
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


def under_torchrun() -> bool:
    return "LOCAL_WORLD_SIZE" in os.environ


def choose_folder(cfg: DictConfig, temporary: Path | None = None) -> Path:
    """Returns the absolute run folder, and sets it in Hydra's part of the config, for interpolations.

    The folder is new, except for a task that works in the folder of run=…. Raises ConfigError if that does not exist.
    `temporary`: the folder of a task that leaves nothing.
    """
    if in_run_folder(cfg):
        if is_set(cfg, "run"):
            raise ConfigError("hydra.run.dir: cannot be set: a run resumes in the folder of run=…")
        folder = find_run(cfg.run).resolve()
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"run: the folder {folder} is not writable")
    else:
        folder = temporary or free_folder(cfg, "run")
    if under_torchrun():
        from ganexp.runtime.processes import broadcast_text

        folder = temporary or Path(broadcast_text(str(folder)))
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.run.dir = str(folder)
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    return folder


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
    return [*others, "task=resume", f"run={config.quoted(folder)}"] if exists else None


def is_set(cfg: DictConfig, mode: str) -> bool:
    """Whether the command line sets the folder of a `run` or a `sweep`."""
    return any(override.startswith(f"hydra.{mode}.dir=") for override in config.as_typed(cfg.hydra.overrides.hydra))


def free_folder(cfg: DictConfig, mode: str) -> Path:
    """Returns the folder of a `run` or a `sweep`, with a number appended if it exists. Raises ConfigError if the command line
    sets one that is not empty, see check_empty."""
    default = Path(str(cfg.hydra[mode].dir)).resolve()
    if is_set(cfg, mode):
        check_empty(default, cfg, mode)
        return default
    folder, n = default, 1
    while folder.exists():
        n += 1
        folder = default.with_name(f"{default.name}_{n}")
    return folder


def check_empty(folder: Path, cfg: DictConfig, mode: str) -> None:
    """Raises ConfigError if the folder of a `run` or a `sweep` is a file, or contains anything but a lock. With resume=auto it
    may also contain the files of a start that was killed before it wrote its config."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"hydra.{mode}.dir: {folder} is a file, not a folder")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found - LOCK_FILES - (EARLY if cfg.get("resume") else set()):
        raise ConfigError(f"hydra.{mode}.dir: {folder} is not empty; every {mode} needs a new folder")


def report(error: BaseException, folder: Path) -> str:
    """Returns the error in one line, and writes the traceback to `folder`/error.txt if possible."""
    where = "" if isinstance(error, ConfigError | Diverged) else f" (traceback: {folder / 'error.txt'})"
    try:
        (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:  # a full disk may be the error itself
        where = ""
    return format_message(error) + where


# -- sweeps ----------------------------------------------------------------------------------------------------------


def hydra_main() -> int:
    """Let Hydra handle sys.argv: help, --cfg, --info, sweeps."""
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(sweep_job)()
    return 0


def refuse_multirun(cfg: DictConfig) -> None:
    """Raises ConfigError if a sweep is not possible for this task."""
    if in_run_folder(cfg):
        raise ConfigError("-m: starts new runs, but task=resume continues one")
    if starts_runs(cfg):
        raise ConfigError("-m: starts several runs, but task=study is one study; its axes are study.axes={loss:[bce,hinge]}")
    if leaves_nothing(cfg):
        raise ConfigError("-m: starts several runs, but task=check tries one command line")
    if cfg.get("resume"):
        raise ConfigError("-m: starts several runs, but resume=auto continues the run of one command line")


def sweep(cfg: DictConfig, overrides: list[str], flags: list[str], jobs: int) -> int:
    """Run all jobs, each in its own folder, and print a summary. In the folder of the same command, finished jobs are kept and
    others resume. Returns 1 if any failed or is missing, otherwise 0.

    `cfg`: config of the first job. `jobs`: smallest number of jobs. Raises ConfigError if the sweep's folder cannot be created,
    or has another sweep.
    """
    if OmegaConf.select(cfg, "hydra.launcher.n_jobs") == 0:
        raise ConfigError("hydra.launcher.n_jobs: must not be 0; a number of processes, or -1 for all cores")
    others = [word for word in overrides if not word.startswith("hydra.sweep.dir=")]
    default = Path(str(cfg.hydra.sweep.dir)).resolve()
    before = read_json(default / SWEEP) if is_set(cfg, "sweep") else {}
    if before and before.get("overrides") != others:
        raise ConfigError(f"hydra.sweep.dir: {default} has another sweep; repeat its command, or choose another folder")
    while True:
        folder = default if before else free_folder(cfg, "sweep")
        try:
            folder.mkdir(parents=True, exist_ok=is_set(cfg, "sweep"))
            break
        except FileExistsError:  # another sweep started in the same second
            continue
        except OSError as error:
            raise ConfigError(f"hydra.sweep.dir: cannot create {folder}: {error.strerror}") from error
    sys.argv[1:] = ["--multirun", *flags, *others, f"hydra.sweep.dir={config.quoted(folder)}"]
    with FolderLock(folder, "hydra.sweep.dir"):
        if not before:
            check_empty(folder, cfg, "sweep")
            write_json({"overrides": others}, folder / SWEEP)
        try:
            hydra_main()
        finally:
            lines, failed = summary(folder, jobs)
            print("\n".join(lines), flush=True)
    return 1 if failed else 0


def sweep_job(cfg: DictConfig) -> float:
    """Run one job in the folder that Hydra has created. Errors are printed and recorded there; the other jobs continue. Returns
    the objective for Hydra's sweeper, see objective_of."""
    folder, number = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().job.num
    code = 0
    try:
        with FolderLock(folder, "hydra.sweep.dir"):
            if read_json(folder / "run.json").get("status") != "finished":
                code = run_job_of_sweep(cfg, folder, number)
    except ConfigError as mistake:  # the job itself catches its own
        print(f"ganexp: job {number} failed: {mistake}", file=sys.stderr)
        return math.nan
    if code:  # ends the sweep too
        raise KeyboardInterrupt
    return objective_of(folder)


def objective_of(folder: Path) -> float:
    """Returns the last value of the metric that picks best.ckpt; NaN if the run has none, or has failed."""
    record = read_json(folder / "run.json")
    name = (record.get("best") or {}).get("metric")
    value = record.get("metrics", {}).get(name, {}).get("last")
    return float(value) if value is not None and record.get("status") == "finished" else math.nan


def run_job_of_sweep(cfg: DictConfig, folder: Path, number: int) -> int:
    """Run one job in its folder, which this process owns; if it is a run that was stopped, resume it. Returns the exit code."""
    outcome: dict[str, Any] = {"status": "finished"}
    code, notes = 0, []
    try:
        notes = config.drop_leftovers(cfg, config.as_typed(HydraConfig.get().overrides.task))
        if (folder / "config.yaml").is_file():
            notes = []  # its run.json has them
            config.make_resume(cfg, folder)
        task = build_task(cfg, folder)
        announce(notes)
        code = exit_code(task.run())
        outcome = {"status": "interrupted"} if code else outcome
    except Exception as error:
        outcome = {"status": "failed", "error": report(error, folder)}
        print(f"ganexp: job {number} failed: {outcome['error']}", file=sys.stderr)
    record(notes, folder)
    job = {"job": number, "overrides": config.as_typed(HydraConfig.get().overrides.task)}
    write_json({**read_json(folder / "run.json"), **outcome, **job}, folder / "run.json")
    return code


def summary(folder: Path, expected: int) -> tuple[list[str], int]:
    """Returns a line per job, with the overrides that differ between jobs, and the number of failed or missing jobs."""
    jobs = sorted((r for r in map(read_json, folder.rglob("run.json")) if "job" in r), key=lambda r: r["job"])
    shared = set.intersection(*(set(r["overrides"]) for r in jobs)) if len(jobs) > 1 else set()
    expected = max(expected, len(jobs))
    lines = [f"sweep {folder}"]
    for record in jobs:
        overrides = " ".join(text for text in record["overrides"] if text not in shared)
        result = record.get("error") or " ".join(
            f"{name} {value['last']:.4g}" for name, value in record.get("metrics", {}).items() if value["last"] is not None
        )
        lines.append(f"  {record['job']:>3}  {record['status']:<11} {overrides}   {result}")
    failed = expected - sum(record["status"] == "finished" for record in jobs)
    if len(jobs) < expected:
        lines.append(f"  {expected - len(jobs)} jobs have no result")
    return [*lines, f"  {failed} of {expected} jobs failed" if failed else f"  all {expected} jobs finished"], failed
