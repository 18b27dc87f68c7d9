"""Sweeps: all combinations of a command line's values, each in its own folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ganexp.cli import config
from ganexp.cli.checks import compose_checked
from ganexp.cli.config import CONF_DIR
from ganexp.cli.folders import check_empty, free_folder, in_run_folder, is_set, leaves_nothing, starts_runs
from ganexp.cli.hydra_internals import errors_raised
from ganexp.cli.jobs import announce, build_task, exit_code, record, report
from ganexp.cli.messages import ConfigError, format_message
from ganexp.cli.overrides import as_typed, quoted
from ganexp.files import read_json, write_json
from ganexp.records import read_record
from ganexp.runs import objective_of
from ganexp.runtime.lock import FolderLock
from ganexp.runtime.places import claim

SWEEP = "sweep.json"  # in the folder of a sweep


def hydra_main() -> int:
    """Let Hydra handle sys.argv: help, --cfg, --info, sweeps. Returns the exit code: 1 if its output could not be written."""
    try:
        with errors_raised():
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(sweep_job)()
    except SystemExit as ended:
        if ended.code:
            raise
    sys.stdout.flush()
    return int(getattr(sys.stdout, "lost", False))


def checked(overrides: Sequence[str], config_name: str, claimed: set[Path]) -> DictConfig:
    """Returns the config of one job. Raises ConfigError for any error that shows before building, and for a place outside of its
    folder that is one of `claimed`, those of the jobs before."""
    cfg = compose_checked(overrides, config_name)
    claim({group: OmegaConf.to_container(cfg[group], resolve=True) for group in ("callbacks", "logger")}, claimed)  # type: ignore[misc]
    return cfg


def refuse_multirun(cfg: DictConfig) -> None:
    """Raises ConfigError if a sweep is not possible for this task."""
    if in_run_folder(cfg):
        raise ConfigError("-m: starts new runs, but this task works in the folder of run=…")
    if starts_runs(cfg):
        raise ConfigError("-m: starts several runs, but task=study is one study; its axes are study.axes={loss:[bce,hinge]}")
    if leaves_nothing(cfg):
        raise ConfigError("-m: starts several runs, but task=check tries one command line")
    if cfg.get("resume"):
        raise ConfigError("-m: starts several runs, but resume=auto continues the run of one command line")


def check_subfolders(overrides: Sequence[str], jobs: int) -> None:
    """Raises ConfigError if all jobs of a sweep would have the same folder."""
    for override in overrides:
        if jobs > 1 and override.startswith("hydra.sweep.subdir=") and "${" not in override:
            raise ConfigError("hydra.sweep.subdir: all jobs would have this folder; its name needs ${hydra.job.num}")


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
    this = {"overrides": others, "flags": flags}
    if before and before != this:
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
    sys.argv[1:] = ["--multirun", *flags, *others, f"hydra.sweep.dir={quoted(folder)}"]
    with FolderLock(folder, "hydra.sweep.dir"):
        if not before:
            check_empty(folder, cfg, "sweep")
            write_json(this, folder / SWEEP)
        try:
            hydra_main()
        finally:
            lines, failed = summary(folder, jobs)
            print("\n".join(lines), flush=True)
        if after := cfg.task.get("after_sweep"):
            hydra.utils.get_method(after)(folder)
    return 1 if failed else 0


def sweep_job(cfg: DictConfig) -> float:
    """Run one job in the folder that Hydra has created. Errors are printed and recorded there; the other jobs continue. Returns
    the objective for Hydra's sweeper, see objective_of; NaN if there is none."""
    folder, number = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().job.num
    code = 0
    try:
        with FolderLock(folder, "hydra.sweep.dir"):
            if read_record(folder).get("status") != "finished":
                code = run_job_of_sweep(cfg, folder, number)
    except (ConfigError, OSError) as error:  # the job itself catches its own
        print(f"ganexp: job {number} failed: {format_message(error)}", file=sys.stderr)
        return math.nan
    if code:  # ends the sweep too
        raise KeyboardInterrupt
    objective = objective_of(read_record(folder))
    return math.nan if objective is None else objective


def run_job_of_sweep(cfg: DictConfig, folder: Path, number: int) -> int:
    """Run one job in its folder, which this process owns; if it is a run that was stopped, resume it. Returns the exit code."""
    outcome: dict[str, Any] = {"status": "finished"}
    code, notes = 0, []
    try:
        notes = config.drop_leftovers(cfg, as_typed(HydraConfig.get().overrides.task))
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
    job = {"job": number, "overrides": as_typed(HydraConfig.get().overrides.task)}
    write_json({**read_record(folder), **outcome, **job}, folder / "run.json")
    return code


def summary(folder: Path, expected: int) -> tuple[list[str], int]:
    """Returns a line per job, with the overrides that differ between jobs, and the number of failed or missing jobs."""
    records = [read_record(file.parent) for file in folder.rglob("run.json")]
    jobs = sorted((r for r in records if {"job", "overrides", "status"} <= r.keys()), key=lambda r: r["job"])
    shared = set.intersection(*(set(r["overrides"]) for r in jobs)) if len(jobs) > 1 else set()
    expected = max(expected, len(jobs))
    lines = [f"sweep {folder}"]
    for job in jobs:
        overrides = " ".join(text for text in job["overrides"] if text not in shared)
        result = job.get("error") or " ".join(
            f"{name} {value['last']:.4g}" for name, value in job.get("metrics", {}).items() if value.get("last") is not None
        )
        lines.append(f"  {job['job']:>3}  {job['status']:<11} {overrides}   {result}")
    failed = expected - sum(record["status"] == "finished" for record in jobs)
    if len(jobs) < expected:
        lines.append(f"  {expected - len(jobs)} jobs have no result")
    return [*lines, f"  {failed} of {expected} jobs failed" if failed else f"  all {expected} jobs finished"], failed
