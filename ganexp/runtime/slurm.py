"""The environment of processes that srun or torchrun has started, and requeueing SLURM's jobs."""

from __future__ import annotations

import logging
import os
import re
import subprocess

from ganexp.cli.messages import ConfigError

log = logging.getLogger(__name__)
NUMBERS = tuple(
    f"SLURM_{name}" for name in ("JOB_ID", "STEP_ID", "STEP_NUM_TASKS", "STEP_NUM_NODES", "PROCID", "LOCALID", "NODEID")
)
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def describe_as_torchrun() -> None:
    """Set torchrun's environment variables for a process that srun started as one of several, so that the rest of the code needs
    to know only torchrun.

    Does nothing without srun, in a job's batch script, and under torchrun. Raises ConfigError if the nodes have different numbers
    of tasks, and if a variable that srun sets is missing or not a number.
    """
    env = os.environ
    if env.get("SLURM_STEP_NUM_TASKS", "1") == "1" or "LOCAL_RANK" in env:
        return
    for key in NUMBERS:
        check_number(key)
    for key in {"SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST"} - env.keys():
        raise ConfigError(f"{key}: srun sets it, but it is missing")
    per_node = env["SLURM_STEP_TASKS_PER_NODE"]  # 8(x2): eight on each of two nodes; 2,1: two and one
    tasks = re.fullmatch(r"(\d+)(\(x\d+\))?", per_node)
    if tasks is None:
        raise ConfigError(f"srun: every node must have the same number of tasks, got {per_node}; set --ntasks-per-node")
    node = first_node(env["SLURM_STEP_NODELIST"])
    job, step = env["SLURM_JOB_ID"], env["SLURM_STEP_ID"]
    defaults = {"MASTER_ADDR": node, "MASTER_PORT": str(15000 + (int(job) + int(step)) % 10000)}
    os.environ |= {
        "TORCHELASTIC_RUN_ID": f"{job}.{step}",
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks[1],
        "GROUP_RANK": env["SLURM_NODEID"],
        "GROUP_WORLD_SIZE": env["SLURM_STEP_NUM_NODES"],
        **{key: env.get(key, value) for key, value in defaults.items()},
    }


def check_torchrun() -> None:
    """Raises ConfigError if only some of torchrun's variables are set, or one is not a number: a process that is told of others
    would wait for them, or write over their files."""
    if any(key in os.environ for key in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        for key in TORCHRUN:
            check_number(key)


def check_number(key: str) -> None:
    value = os.environ.get(key)
    if value is None:
        raise ConfigError(
            f"{key}: is missing in the environment, where other variables of torchrun or srun are set; set all or none"
        )
    if not value.isascii() or not value.isdigit():
        raise ConfigError(f"{key}: must be a number in the environment, got {value!r}")


def first_node(nodes: str) -> str:
    """Returns the first host of a node list in SLURM's notation: `gpu03` for `gpu[03-05,09],login1`."""
    parts = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    assert parts is not None  # it may match nothing
    return "".join(part or "" for part in parts.groups())


def requeue(continues: bool) -> None:
    """Put this job back into the queue; SLURM starts it again under the same number. Does nothing outside of SLURM, nor for a
    command that would not continue its run."""
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    if not continues:
        log.warning("SLURM: job %s is not requeued: without resume=auto its command would start a new run", job)
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True)
        log.warning("SLURM: job %s is requeued%s", job, f": {done.stdout.strip()}" if done.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("SLURM: job %s cannot be requeued; submit it again: %s", job, str(reason).strip())
