"""task=study: run a study."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganexp.cli import checks
from ganexp.cli.messages import ConfigError, nearest
from ganexp.runtime.console import display_path
from ganexp.study import launchers, plan, worker
from ganexp.study.progress import Progress, shown
from ganexp.tasks.leaderboard import write_for

log = logging.getLogger(__name__)
LAUNCHERS = ("serial", "joblib")


class Study:
    """Runs every setting of config["study"] with every seed. Each job is an ordinary run in its own folder, `run_dir`/NUMBER.

    In a folder that has this study already, finished jobs are kept, half-done ones resume, and the rest start. Several processes
    may work in one folder. `overrides`: the command line, which all runs share. `config_name`, `config_dir`: where the config is
    from. Raises ConfigError for a study that cannot run, and for a folder with another one.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path, overrides: Sequence[str], config_name: str, config_dir: str | None):
        node = config["study"]
        self.run_dir, self.node, self.max_steps = run_dir, node, config["trainer"]["max_steps"]
        self.plan = plan.make_plan(node, [*overrides], config_name, config_dir)
        if node["launcher"] not in LAUNCHERS:
            raise ConfigError(
                f"study.launcher: {node['launcher']!r} is not a valid choice{nearest(str(node['launcher']), LAUNCHERS)}"
            )
        for key in ("n_jobs", "threads"):
            if node[key] is not None and (not isinstance(node[key], int) or node[key] < 1):
                raise ConfigError(f"study.{key}: must be at least 1, got {node[key]!r}")
        if node["launcher"] == "serial" and node["n_jobs"] not in (None, 1):
            raise ConfigError(f"study.n_jobs: {node['n_jobs']} processes require study.launcher=joblib")
        if not isinstance(node["retry"], bool):
            raise ConfigError(f"study.retry: must be true or false, got {node['retry']!r}")

    def setup(self) -> None:
        """Check every value of every axis, unless the folder has this study already."""
        if plan.read(self.run_dir) is None:
            for overrides in self.plan.samples():
                try:
                    checks.compose_checked(overrides, self.plan.config_name)
                except ConfigError as mistake:
                    raise ConfigError(f"study: {mistake} (of {' '.join(overrides)})") from mistake

    def run(self) -> int:
        """Returns the exit code: 1 if a job has failed, 130 if the study was interrupted."""
        self.plan.save(self.run_dir)
        jobs, where = len(self.plan.jobs()), display_path(self.run_dir)
        print(f"  study       {len(self.plan.settings)} settings × {len(self.plan.seeds)} seeds: {jobs} jobs")
        print(f"  folder      {where}", flush=True)
        progress = Progress(self.run_dir, self.max_steps)
        threads = self.node["threads"]
        if self.node["retry"]:
            worker.reopen_failed(self.plan, self.run_dir)
        with shown(progress, self.run_dir / "log.txt"):
            try:
                if self.node["launcher"] == "joblib":
                    whole = launchers.run_joblib(self.run_dir, threads, self.node["n_jobs"])
                else:
                    whole = launchers.run_serial(self.run_dir, threads)
            except KeyboardInterrupt:
                whole = False
        if not whole:
            print(f"ganexp: interrupted; to go on, repeat the command with hydra.run.dir={where}")
            return 130
        write_for(self.run_dir)
        failed = [job for job in self.plan.jobs() if worker.status_of(self.run_dir, job) == "failed"]
        for job in failed[:10]:
            print(f"  job {job.number} failed: {worker.error_of(self.run_dir, job)}")
        if failed:
            print(f"  {len(failed)} of {jobs} jobs failed; to run them again, add study.retry=true hydra.run.dir={where}")
        return 1 if failed else 0
