"""The command line: compose, check, run the task.

A mistake ends with one message and exit code 2, before any folder is made; a run that failed ends with 1.
"""

from __future__ import annotations

import io
import math
import os
import shlex
import sys
from argparse import Namespace
from typing import NoReturn

from ganexp.cli import checks, config, jobs
from ganexp.cli.hydra_internals import get_args_parser
from ganexp.cli.messages import ConfigError


def main() -> None:
    """The command line."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a config may name the user's own modules
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows has no ×, and no file's name need be UTF-8
            stream.reconfigure(errors="backslashreplace")
    # Before torch brings its OpenMP: idle threads that spin for milliseconds starve whatever else runs. Two runs at a time on two
    # cores took 146 s so and 12 s with this; one alone, 8 s and 9 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPU cannot do, torch does on the CPU, and says so
    os.environ["GANEXP_COMMAND"] = shlex.join(["ganexp", *sys.argv[1:]])  # for run.json, in every process of the run
    sys.argv[1:] = config.with_colours(config.with_home(sys.argv[1:]))
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # argparse would print the whole usage
    try:
        sys.exit(answer(parser.parse_args()))
    except ConfigError as mistake:
        print(f"ganexp: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("ganexp: interrupted", file=sys.stderr)
        sys.exit(130)


def refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; --help and --hydra-help show what there is")


def answer(args: Namespace) -> int:
    """The exit code. Raises ConfigError."""
    for flag in ("config_path", "experimental_rerun"):
        if getattr(args, flag, None):
            raise ConfigError(f"--{flag.replace('_', '-')}: is not for ganexp; your own options go into a --config-dir")
    if args.hydra_help or args.shell_completion:
        return jobs.hydra_main()
    about_config = args.help or args.cfg or args.info
    if args.multirun and about_config:
        raise ConfigError("-m: runs a sweep; leave it out to see help or the config of one job")
    name = args.config_name or "config"
    with config.config_tree(args.config_dir):
        if about_config:
            checks.check_spelling(args.overrides, name)
        else:
            todo = config.sweep_jobs(args.overrides) if args.multirun else [args.overrides]
            notes: list[str] = []
            checked = [checks.compose_checked(job, name, notes) for job in todo]
            if not args.multirun:
                return jobs.run(checked[0], notes)
            if jobs.in_run_folder(checked[0]):
                raise ConfigError("-m: starts new runs; task=resume continues one")
            size = math.prod(len(axis) for axis in config.sweep_axes(args.overrides))
    if about_config:
        return jobs.hydra_main()
    flags = [*(["--config-dir", args.config_dir] if args.config_dir else []), "--config-name", name]
    return jobs.sweep(checked[0], args.overrides, flags, size)
