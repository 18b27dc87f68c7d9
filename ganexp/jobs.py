"""Run a checked config: alone, or as the jobs of a sweep."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ganexp import config
from ganexp.config import CONF_DIR, Mistake


def build_task(cfg: DictConfig, folder: Path) -> Any:
    """The task, built and checked but not run. Raises Mistake; writes nothing."""
    from ganexp.build import build  # torch: only now

    try:
        return build({"_target_": cfg.task._target_, "_partial_": True}, "task")(config.resolved(cfg), folder)
    except Mistake as mistake:
        raise Mistake(config.as_written(cfg, str(mistake))) from mistake


def run(cfg: DictConfig) -> int:
    """One run: build, which may refuse; then make the folder; then go. The exit code."""
    while True:
        folder = settle_folder(cfg)
        task = build_task(cfg, folder)
        if os.environ.get("RANK", "0") != "0":  # of torchrun's processes only the first makes the folder
            task.run()
            return 0
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue  # another run took the same second
        except OSError as error:
            raise Mistake(f"hydra.run.dir: the run folder {folder} cannot be made: {error.strerror}") from error
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(cfg))
    try:
        result = run_job(lambda _: task.run(), cfg, "hydra.run.dir", None, context)._return_value
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one the other
        print(f"ganexp: interrupted; what was saved so far is in {folder}", file=sys.stderr)
        return 130
    if isinstance(result, Mistake):
        raise result
    if isinstance(result, Exception):
        print(f"ganexp: {report(result, folder)}", file=sys.stderr)
        return 1
    return 0


def settle_folder(cfg: DictConfig) -> Path:
    """The run folder, absolute, one that is not there yet; written into Hydra's part of the config for interpolations to see."""
    wanted = Path(str(cfg.hydra.run.dir)).resolve()
    folder, n = wanted, 1
    while folder.exists():
        n += 1
        folder = wanted.with_name(f"{wanted.name}_{n}")
    if "LOCAL_WORLD_SIZE" in os.environ:
        from ganexp.tasks.processes import agree

        folder = Path(agree(str(folder)))
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.run.dir = str(folder)
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    return folder


def report(error: BaseException, folder: Path) -> str:
    """The error in one line; the whole trace goes to `folder`/error.txt."""
    (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    if isinstance(error, Mistake):
        return str(error)
    last = (str(error).strip().splitlines() or [""])[-1]
    return f"{type(error).__name__}: {last} (the whole trace: {folder / 'error.txt'})"


# -- sweeps ----------------------------------------------------------------------------------------------------------


def hydra_main() -> int:
    """Hand sys.argv to Hydra: help, --cfg, --info, sweeps."""
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(sweep_job)()
    return 0


def sweep(cfg: DictConfig) -> int:
    """Run all jobs of sys.argv, each in its own folder, then say how each ended. 1 if any failed."""
    folder = Path(str(cfg.hydra.sweep.dir)).resolve()
    sys.argv.append(f"hydra.sweep.dir='{folder}'")
    try:
        hydra_main()
    finally:
        lines, failed = summary(folder)
        print("\n".join(lines), flush=True)
    return 1 if failed else 0


def sweep_job(cfg: DictConfig) -> None:
    """One job, in the folder that Hydra made for it. An error is kept there and said; the other jobs go on."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        build_task(cfg, folder).run()
    except Exception as error:
        message = report(error, folder)
        print(f"ganexp: job {folder.name} failed: {message}", file=sys.stderr)
        file = folder / "run.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        file.write_text(json.dumps({**record, "status": "failed", "error": message}, indent=2) + "\n", encoding="utf-8")


def summary(folder: Path) -> tuple[list[str], int]:
    """A line for every job of a sweep, with what it does not share with all the others, and how many failed."""
    lines, failed = [f"sweep {folder}"], 0
    jobs = {file.parent.parent: list(OmegaConf.load(file)) for file in folder.glob("*/.hydra/overrides.yaml")}
    shared = set.intersection(*map(set, jobs.values())) if len(jobs) > 1 else set()
    for job in sorted(jobs, key=lambda path: (len(path.name), path.name)):
        overrides = " ".join(text for text in jobs[job] if text not in shared)
        file = job / "run.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        status = record.get("status", "finished" if not (job / "error.txt").is_file() else "failed")
        failed += status != "finished"
        said = record.get("error") or " ".join(f"{k} {v:.4g}" for k, v in (record.get("last") or {}).items())
        lines.append(f"  {job.name:>3}  {status:<11} {overrides}   {said}")
    return [*lines, f"  {failed} of {len(lines) - 1} jobs failed" if failed else f"  all {len(lines) - 1} jobs finished"], failed
