"""python -m ganexp: compose, check, run the task.

A mistake ends with one message and exit code 2, before any folder is made; a run that failed ends with 1.
"""

from __future__ import annotations

import os
import sys

from hydra._internal.utils import get_args_parser

from ganexp import config, jobs


def main() -> None:
    """The command line."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a config may name the user's own modules
    sys.argv[1:] = config.with_home(sys.argv[1:])
    args = get_args_parser().parse_args()
    try:
        sys.exit(answer(args.help or args.cfg or args.info, args.hydra_help or args.shell_completion, args))
    except config.Mistake as mistake:
        print(f"ganexp: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("ganexp: interrupted", file=sys.stderr)
        sys.exit(130)


def answer(about_config: bool, about_hydra: bool, args: object) -> int:
    """The exit code. Raises Mistake."""
    overrides: list[str] = args.overrides  # type: ignore[attr-defined]
    name: str = args.config_name or "config"  # type: ignore[attr-defined]
    for flag in ("config_path", "experimental_rerun"):
        if getattr(args, flag, None):
            raise config.Mistake(f"--{flag.replace('_', '-')}: is not for ganexp; your own options go into a --config-dir")
    if about_hydra:
        return jobs.hydra_main()
    with config.config_tree(args.config_dir):  # type: ignore[attr-defined]
        checked = [
            config.compose_checked(job, name)
            for job in (config.sweep_jobs(overrides) if args.multirun else [overrides])  # type: ignore[attr-defined]
        ]
        if not (about_config or args.multirun):  # type: ignore[attr-defined]
            return jobs.run(checked[0])
    if about_config:
        return jobs.hydra_main()
    return jobs.sweep(checked[0])


if __name__ == "__main__":
    main()
