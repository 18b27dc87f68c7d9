"""task=study: run a study."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganexp.callbacks.metrics import Metrics
from ganexp.cli import checks
from ganexp.cli.build import build, to_config_error
from ganexp.cli.config import resolved
from ganexp.cli.messages import ConfigError, nearest, printable
from ganexp.data.module import DataModule
from ganexp.runtime.console import display_path
from ganexp.runtime.places import claim
from ganexp.study import launchers, plan, search, worker
from ganexp.study.progress import Progress, shown
from ganexp.tasks.leaderboard import write_for

log = logging.getLogger(__name__)
LAUNCHERS = ("serial", "joblib", "submitit")


class Study:
    """Runs every setting of config["study"] with every seed. Each job is an ordinary run in its own folder below `run_dir`.

    In a folder that has this study already, finished jobs are kept, half-done ones resume, and the rest start. Several processes
    may work in one folder. `overrides`: the command line, which all runs share. `config_name`, `config_dir`: where the config is
    from. Raises ConfigError for a study that cannot run, and for a folder with another one.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path, overrides: Sequence[str], config_name: str, config_dir: str | None):
        node = config["study"]
        self.run_dir, self.node, self.max_steps = run_dir, node, config["trainer"]["max_steps"]
        if node["search"] == "optuna":
            search.check_installed()
        target = watched(config) if node["search"] == "optuna" else None
        self.plan = plan.make_plan(node, [*overrides], config_name, config_dir, target)
        if node["launcher"] not in LAUNCHERS:
            raise ConfigError(
                f"study.launcher: {node['launcher']!r} is not a valid choice{nearest(str(node['launcher']), LAUNCHERS)}"
            )
        for key in ("n_jobs", "threads"):
            if node[key] is not None and (not isinstance(node[key], int) or node[key] < 1):
                raise ConfigError(f"study.{key}: must be at least 1, got {node[key]!r}")
        if node["launcher"] == "serial" and node["n_jobs"] not in (None, 1):
            raise ConfigError(f"study.n_jobs: {node['n_jobs']} processes require study.launcher=joblib or submitit")
        if not isinstance(node["submitit"], dict | None):
            raise ConfigError(f"study.submitit: must be a mapping such as {{timeout_min:240}}, got {node['submitit']!r}")
        if node["launcher"] == "submitit":
            launchers.check_submitit(node["submitit"] or {})
        if not isinstance(node["retry"], bool):
            raise ConfigError(f"study.retry: must be true or false, got {node['retry']!r}")

    def setup(self) -> None:
        """Check every value of every axis and load the data, or check the database if the folder has this study already."""
        before = plan.read(self.run_dir)
        if before is not None and before.adaptive:
            search.check(self.run_dir, before)
        if before is None:
            configs = [check_setting(self.plan, axis, setting) for axis, setting in self.plan.samples()]
            self.claim_places(configs)
            nodes = [config["data"] for config in configs]
            for node in [node for i, node in enumerate(nodes) if node not in nodes[:i]]:
                load(node)

    def claim_places(self, configs: Sequence[Mapping[str, Any]]) -> None:
        """Raises ConfigError if two jobs would write one place outside of their folders. `configs`: those of the first seed."""
        claimed: set[Path] = set()
        first = next(self.plan.samples())[1]
        for config in [*configs, *(config_of(self.plan, first, seed) for seed in self.plan.seeds[1:2])]:
            claim({group: config[group] for group in ("callbacks", "logger")}, claimed)

    def run(self) -> int:
        """Returns the exit code: 1 if a job has failed, 130 if the study was interrupted."""
        self.plan.save(self.run_dir)
        where, node = display_path(self.run_dir), self.node
        settings, seeds = self.plan.size, len(self.plan.seeds)
        print(f"  study       {counted(settings, 'setting')} × {counted(seeds, 'seed')}: {counted(settings * seeds, 'job')}")
        if self.plan.adaptive:
            aim = "highest" if self.plan.search["higher_is_better"] else "lowest"
            print(f"  search      {self.plan.search['sampler']}, for the {aim} {self.plan.search['metric']}")
        print(f"  folder      {where}", flush=True)
        progress = Progress(self.run_dir, self.max_steps)
        if node["retry"]:
            worker.reopen_failed(plan.read(self.run_dir) or self.plan, self.run_dir)
        with shown(progress, self.run_dir / "log.txt"):
            try:
                whole = plan.is_over(self.run_dir) or self.launch()
            except KeyboardInterrupt:
                whole = False
        if not whole:
            print(f"ganexp: interrupted; to go on, repeat the command with hydra.run.dir={where}")
            return 130
        write_leaderboard(self.run_dir)
        jobs = (plan.read(self.run_dir) or self.plan).jobs()
        failed = [job for job in jobs if job.status(self.run_dir) == "failed"]
        for job in failed[:10]:
            print(f"  {job.name} failed: {printable(str(job.record(self.run_dir).get('error', '')))}")
        if failed:
            print(f"  {len(failed)} of {len(jobs)} jobs failed; to run them again, add study.retry=true hydra.run.dir={where}")
        return 1 if failed else 0

    def launch(self) -> bool:
        """Run the jobs. Returns False if a signal has ended the work."""
        launcher, threads, n_jobs = (self.node[key] for key in ("launcher", "threads", "n_jobs"))
        if launcher == "joblib":
            return launchers.run_joblib(self.run_dir, threads, n_jobs)
        if launcher == "submitit":
            return launchers.run_submitit(self.run_dir, threads, n_jobs, self.node["submitit"] or {})
        return launchers.run_serial(self.run_dir, threads)


def write_leaderboard(folder: Path) -> None:
    """Print and write the leaderboard, one process of the study after the other: several may end at the same moment."""
    with plan.locked(folder):
        write_for(folder)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def config_of(study: plan.Plan, setting: Mapping[str, str], seed: int) -> dict[str, Any]:
    return resolved(checks.compose_checked(study.overrides_of(setting, seed), study.config_name))


def check_setting(study: plan.Plan, axis: str, setting: Mapping[str, str]) -> dict[str, Any]:
    """Returns the config of the setting. Raises ConfigError, naming the axis, for one that is wrong. `axis`: the one whose value
    is new."""
    try:
        return config_of(study, setting, study.seeds[0])
    except ConfigError as mistake:
        text = str(mistake)
        key = text.partition(":")[0].partition("=")[0]
        blamed = study.axis_of(key, setting) or axis
        if not blamed:
            raise
        where = f"study.axes.{blamed}"
        raise ConfigError(f"{where}{text[len(key) :]}" if text.startswith(f"{blamed}: ") else f"{where}: {text}") from mistake


def load(node: Any) -> None:
    """Load the data of a node, and drop them. Raises ConfigError if that fails: all jobs would fail in the same way."""
    data: DataModule = build(node, "data")
    try:
        data.prepare()
    except Exception as error:  # a user's DataModule may raise anything
        raise to_config_error(error, "data") from error


def watched(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an adaptive search optimizes, see make_plan: the metric that picks best.ckpt. Raises ConfigError without
    one."""
    callbacks, prune_after = config["callbacks"], config["study"]["prune_after"]
    if prune_after is not None and (
        not isinstance(prune_after, int | float) or isinstance(prune_after, bool) or not 0 <= prune_after < 1
    ):
        raise ConfigError(f"study.prune_after: must be a part of the run, from 0 to below 1, or null, got {prune_after!r}")
    metrics: Metrics | None = build(callbacks["metrics"], "callbacks.metrics") if "metrics" in callbacks else None
    checkpoint = callbacks.get("checkpoint")
    monitor = str((checkpoint or {}).get("monitor") or "").partition("/")[0]
    ranking = [m for m in metrics.ranking(None) if monitor in ("", m.names[0])] if metrics and checkpoint else []
    if not ranking:
        raise ConfigError(
            "study.search: optuna optimizes the metric that picks best.ckpt, and the runs have none; callbacks must have metrics "
            "and checkpoint, and metrics one that has a better side, such as fid"
        )
    steps = config["trainer"]["max_steps"]
    return {
        "metric": ranking[0].names[0],
        "higher_is_better": ranking[0].higher_is_better,
        "max_steps": steps,
        "prune_from": None if prune_after is None else math.ceil(prune_after * steps),
    }
