"""The command line: compose, check, run the task.

A config error prints one message and exits with code 2, before any folder is created; a failed run exits with 1.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from ganexp.cli import checks, config, jobs, sweeps
from ganexp.cli.hydra_internals import get_args_parser
from ganexp.cli.messages import ConfigError, format_message, printable
from ganexp.cli.overrides import check_length, sweep_axes, sweep_jobs, with_colours, with_home, with_paths
from ganexp.runtime.screen import screens
from ganexp.runtime.slurm import check_torchrun, describe_as_torchrun


def main() -> None:
    """Entry point of the command line."""
    with screens():
        sys.exit(code_of_command_line())


def code_of_command_line() -> int:
    """Returns the exit code."""
    try:
        here = os.getcwd()
    except OSError:
        print("ganexp: the current folder was deleted; change to another one", file=sys.stderr)
        return 2
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: a config may name the user's modules
    # Before torch loads OpenMP, whose idle threads spin for milliseconds and starve other processes. Two runs at a time on two
    # cores take 12 s with this and 146 s without; a single run takes 9 s and 8 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # unsupported operations run on the CPU with a warning
    os.environ["GANEXP_COMMAND"] = shlex.join(["ganexp", *sys.argv[1:]])  # for run.json, in every process of the run
    logging.raiseExceptions = False  # a log on a full disk would print tracebacks; what needs the disk fails and says so
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # argparse would print the whole usage
    try:
        describe_as_torchrun()
        check_torchrun()
        check_length(sys.argv[1:])
        sys.argv[1:] = with_colours(with_paths(with_home(sys.argv[1:])))
        return answer(parser.parse_args())
    except ConfigError as mistake:
        print(f"ganexp: {printable(str(mistake))}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"ganexp: {printable(format_message(error))} (HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ganexp: interrupted", file=sys.stderr)
        return 130


def refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; see --help and --hydra-help")


def answer(args: Namespace) -> int:
    """Returns the exit code. Raises ConfigError."""
    for flag in ("config_path", "experimental_rerun"):
        if getattr(args, flag, None):
            raise ConfigError(f"--{flag.replace('_', '-')}: is not supported; put your own options into a --config-dir")
    if args.hydra_help or args.shell_completion:
        return sweeps.hydra_main()
    about_config = args.help or args.cfg or args.info
    if args.multirun and about_config:
        raise ConfigError("-m: starts a sweep; remove it to show the help or the config of one job")
    name = args.config_name or "config"
    with config.config_tree(args.config_dir):
        if about_config:
            checks.check_spelling(args.overrides, name)
        else:
            if not args.multirun:
                return jobs.compose_and_run(config.with_base(args.overrides), name)
            claimed: set[Path] = set()
            bar = tqdm(sweep_jobs(args.overrides), desc="checking the jobs", delay=2, leave=False, disable=None)
            first, *_ = [sweeps.checked(job, name, claimed) for job in bar]
            sweeps.refuse_multirun(first)
            size = math.prod(len(axis) for axis in sweep_axes(args.overrides))
            sweeps.check_subfolders(args.overrides, size)
    if about_config:
        return sweeps.hydra_main()
    flags = [*(["--config-dir", args.config_dir] if args.config_dir else []), "--config-name", name]
    return sweeps.sweep(first, args.overrides, flags, size)
