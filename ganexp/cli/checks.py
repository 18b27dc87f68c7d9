"""Check a command line and its config before anything is built: every group, option, key and number.

Nothing here imports torch, so errors appear quickly.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ganexp.cli.config import (
    CALL_KEYS,
    PICK_ANY,
    TASK_KEYS,
    TYPED,
    Config,
    compose_config,
    drop_leftovers,
    fields,
    is_group,
    option_node,
    resolved,
)
from ganexp.cli.messages import ConfigError, groups, nearest, options
from ganexp.cli.overrides import parse

GAME = (
    "loss", "regularizer", "augment", "constraint", "anneal", "schedule",
    "optimizer", "optimizer.generator", "optimizer.discriminator",
)  # fmt: skip
RUN_FOLDER = "run=outputs/NAME/TIME, or run=latest"
RUN = "run=outputs/NAME/TIME, run=latest, or run=FILE.ckpt"
PICK_ONE = ("model", "data", "loss", "schedule", "extractor", "hardware")


def compose_checked(overrides: Sequence[str], config_name: str = "config", notes: list[str] | None = None) -> DictConfig:
    """Returns the config of one job, including Hydra's part. Raises ConfigError for any error that shows before building.

    `notes`: a line is appended for every setting of an experiment that has no effect.
    """
    parsed = check_spelling(overrides, config_name)
    cfg = compose_config(overrides, config_name)
    unused = drop_leftovers(cfg, overrides)
    config = resolved(cfg)
    check_task(config)
    check_nodes(config)
    start = config["start_from"]
    if not (start in (None, "latest") or config["resume"] or Path(start).expanduser().exists()):
        raise ConfigError(f"start_from: there is no file or folder {start}")
    unused += check_needs(parsed, cfg)
    if notes is not None:
        notes += unused
    return cfg


def check_spelling(overrides: Sequence[str], config_name: str) -> list[Override]:
    """Returns the parsed overrides. Raises ConfigError for an unknown group, option or key."""
    parsed = parse(overrides)
    for override in parsed:
        check_option(override)
    check_keys(parsed, config_name)
    return parsed


def values_of(override: Override) -> list[str | None]:
    """Returns the options that an override of a group chooses."""
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator() if not str(v).startswith("[")]
    value = override.value()
    return [None if v is None else str(v) for v in (value if isinstance(value, list) else [value])]


def check_option(override: Override) -> None:
    """Raises ConfigError for an unknown group or option."""
    group = override.key_or_group
    known = groups()
    if "/" in group and group not in known and not options(group):
        raise ConfigError(f"{group}: there is no such group{nearest(group, known)}")
    if not (group in known or group == "experiment" or group.startswith("hydra/")) or override.is_delete():
        return
    available = options(group)
    values = values_of(override)
    if group not in PICK_ANY and not override.is_sweep_override() and isinstance(override.value(), list):
        raise ConfigError(f"{group}: takes one option, not a list; to try several, separate them by commas and add -m")
    for value in values:
        if value is None:
            raise ConfigError(f"{group}: must not be null{'; for none set ' + group + '=[]' if group in PICK_ANY else ''}")
        if value is not None and value not in available:
            raise ConfigError(f"{group}={value}: there is no such option{nearest(value, available)}")


def check_keys(parsed: Sequence[Override], config_name: str) -> None:
    """Raises ConfigError for a key that the chosen options do not have."""
    chosen = [o for o in parsed if is_group(o)]
    fixed = [str(o.input_line) for o in chosen if not o.is_sweep_override()]
    cfg = compose_config(fixed, config_name)
    drop_leftovers(cfg, fixed)
    for override in parsed:
        task_key = override.key_or_group.startswith("task.")  # + cannot add these: the option lists all of them
        if is_group(override) or ((override.is_add() or override.is_force_add()) and not task_key):
            continue
        node: Any = cfg
        parts = override.key_or_group.split(".")
        for i, part in enumerate(parts):
            if OmegaConf.is_list(node) and part.isdigit():
                break
            if not OmegaConf.is_dict(node) or part not in list(node):
                path, parent = ".".join(parts[: i + 1]), ".".join(parts[:i])
                known = siblings(cfg, node, parent)
                hint = nearest(path, known)
                if parent == "task" and not known:
                    hint = "; this task has no options"
                elif parent in PICK_ANY and part in options(parent):
                    hint = f"; to choose it, add {parent}=[{part}]"
                raise ConfigError(f"{path}: there is no such key{hint}")
            node = None if i + 1 == len(parts) or OmegaConf.is_missing(node, part) else node[part]


def siblings(cfg: DictConfig, node: Any, path: str) -> list[str]:
    """Returns the full keys of a node; at the top level without Hydra's, followed by those of the task."""
    if not OmegaConf.is_dict(node):
        return []
    skipped = TASK_KEYS if path == "task" else ("_target_", "hydra")
    found = [f"{path}.{key}".lstrip(".") for key in node if key not in skipped]
    return found if path or not OmegaConf.is_dict(cfg.task) else [*found, *siblings(cfg, cfg.task, "task")]


def check_nodes(config: dict[str, Any]) -> None:
    """Raises ConfigError for missing or unknown keys, nodes without a `_target_`, NaN, and numbers out of range.

    `config`: of a command line, or of a run, which has no CALL_KEYS.
    """
    for path, kind in TYPED.items():
        node = config[path] if path else config
        for key in sorted(kind.__dataclass_fields__.keys() - node.keys() - set(CALL_KEYS)):
            raise ConfigError(f"{f'{path}.{key}'.lstrip('.')}: is required")
        for key in node.keys() - kind.__dataclass_fields__.keys() - {"experiment"}:
            full = f"{path}.{key}".lstrip(".")
            raise ConfigError(f"{full}: there is no such key{nearest(full, fields(path))}")
    nodes = {key: config[key] for key in PICK_ONE}
    for group in PICK_ANY:
        nodes |= {f"{group}.{name}": node for name, node in config[group].items()}
    for key, node in nodes.items():
        if not isinstance(node, dict) or "_target_" not in node:
            group = key.split(".")[0]
            raise ConfigError(
                f"{key}: must be a mapping with a _target_; choose an option of the group: {', '.join(options(group))}"
            )
    for key, value in sorted(
        leaves(config), key=lambda leaf: leaf[0].startswith((".model", ".callbacks", ".metrics"))
    ):  # refer to others
        if any(isinstance(number, float) and math.isnan(number) for number in (value if isinstance(value, list) else [value])):
            raise ConfigError(f"{key.lstrip('.')}: must be a number, got {value}")
    for key, value in {"seed": config["seed"], **{f"trainer.{key}": value for key, value in config["trainer"].items()}}.items():
        if type(value) is not int:  # in a file; the command line's are typed
            raise ConfigError(f"{key}: must be a whole number, got {value!r}")
    for key, value in config["trainer"].items():
        if not 1 <= value < 2**31:
            raise ConfigError(f"trainer.{key}: must be {'at least 1' if value < 1 else 'below 2**31'}, got {value}")
    name = Path(config["name"])
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise ConfigError(f"name: must be a folder below outputs/, got {config['name']!r}")
    if any(len(part.encode()) > 200 for part in name.parts):
        raise ConfigError(f"name: must have at most 200 bytes, got {len(config['name'].encode())}")
    if config.get("resume") not in (None, "auto"):
        raise ConfigError(f"resume: must be auto or null, got {config['resume']!r}; to continue one run: task=resume run=FOLDER")
    if not 0 <= config["seed"] < 2**32:
        raise ConfigError(f"seed: must be from 0 to {2**32 - 1}, got {config['seed']}")
    if "LOCAL_WORLD_SIZE" not in os.environ and HydraConfig.get().runtime.choices.get("hardware") == "multinode":
        raise ConfigError(
            "hardware=multinode: requires srun with several tasks, or torchrun, started once on every node: torchrun --nnodes=2 "
            "--nproc-per-node=8 --node-rank=0 --master-addr=HOST --master-port=29500 -m ganexp hardware=multinode …"
        )


def with_written_key(cfg: DictConfig, message: str) -> str:
    """Returns a message with the key that the user wrote: `model.loss` only refers to `loss`."""
    for part in ("model", "callbacks", "metrics"):  # in this order: callbacks refer to metrics, metrics to the extractor
        for key, value in leaves(OmegaConf.to_container(cfg[part], resolve=False)):
            if isinstance(value, str) and (reference := re.fullmatch(r"\$\{([a-z_.]+)\}", value)):
                message = re.sub(rf"^{part}{re.escape(key)}(?=[.:])", reference.group(1), message)
    return message


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields path and value of everything in nested mappings, such as `.optimizer.generator`."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, node


def refers(references: str, part: str) -> bool:
    """Whether the model refers to this group, or to a key in it."""
    return f"${{{part}" in references or f"${{{part.partition('.')[0]}}}" in references


def check_game(parsed: Sequence[Override], cfg: DictConfig) -> list[str]:
    """Raises ConfigError for a group on the command line that the model does not use. Returns a note for each one of an
    experiment."""
    references, choices = str(OmegaConf.to_container(cfg.model, resolve=False)), HydraConfig.get().runtime.choices
    for override in parsed:
        key = override.key_or_group
        part = ".".join(key.split(".")[:2]) if key.startswith("optimizer.") else key.split(".")[0]
        if part in GAME and not refers(references, part):
            hint = "; its loss is model.loss" if part == "loss" else ""
            raise ConfigError(f"{key}: not used by model={choices['model']}{hint}")
    chosen = {part: bool(cfg[part]) for part in ("regularizer", "augment", "constraint")}
    chosen["loss"] = cfg.loss != option_node("loss", "bce")
    unused = [part for part in chosen if chosen[part] and f"${{{part}" not in references]
    return [f"model={choices['model']} does not use the experiment's {part}" for part in unused]


def check_task(config: dict[str, Any]) -> None:
    """Raises ConfigError for an invalid task node, see TASK_KEYS."""
    for key in sorted(set(CALL_KEYS) - config.keys()):
        raise ConfigError(f"{key}: is required")
    node = config["task"]
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"task: must be a mapping with a _target_; choose an option of the group: {', '.join(options('task'))}")
    known = sorted({*Config.__dataclass_fields__, "experiment"} - {"task"})
    for key in ("needs", "optional"):
        names = node.get(key, [])
        if not isinstance(names, list):
            raise ConfigError(f"task.{key}: must be a list of top-level keys, got {names!r}")
        for name in names:
            if name not in known:
                raise ConfigError(f"task.{key}: {name!r} is not a top-level key{nearest(str(name), known)}")
    in_run_folder = node.get("in_run_folder", False)
    if not isinstance(in_run_folder, bool) or (in_run_folder and "run" not in node.get("needs", [])):
        raise ConfigError(f"task.in_run_folder: must be false, or true with needs: [run, …], got {in_run_folder!r}")
    leaves_nothing = node.get("leaves_nothing", False)
    if not isinstance(leaves_nothing, bool) or (leaves_nothing and in_run_folder):
        raise ConfigError(f"task.leaves_nothing: must be false, or true without in_run_folder, got {leaves_nothing!r}")
    if not isinstance(node.get("starts_runs", False), bool):
        raise ConfigError(f"task.starts_runs: must be true or false, got {node['starts_runs']!r}")
    if not isinstance(after := node.get("after_sweep", ""), str):
        raise ConfigError(f"task.after_sweep: must be the path of a function, got {after!r}")


def check_needs(parsed: Sequence[Override], cfg: DictConfig) -> list[str]:
    """Raises ConfigError for a key that the task does not use, and for a required key that is null. Returns the notes of
    check_game."""
    task, needs = HydraConfig.get().runtime.choices["task"], cfg.task.get("needs") or []
    used = list(dict.fromkeys(["name", *needs, *(cfg.task.get("optional") or [])]))
    own = [f"task.{key}" for key in cfg.task if key not in TASK_KEYS]
    for override in parsed:
        key = re.split(r"[./]", override.key_or_group)[0]
        if key == "task" and override.key_or_group.partition(".")[2].split(".")[0] in TASK_KEYS:
            raise ConfigError(f"{override.key_or_group}: cannot be set; it is part of the option task={task}")
        if key not in ("task", "hydra", *used):
            raise ConfigError(f"{override.key_or_group}: not used by task={task} (it uses: {', '.join([*own, *used])})")
    notes = check_game(parsed, cfg) if "model" in used else []
    for key in needs:
        if key in cfg and cfg[key] is None:
            examples = RUN if key == "run" and not cfg.task.get("in_run_folder") else RUN_FOLDER if key == "run" else f"{key}=…"
            raise ConfigError(f"{key}: required by task={task}: {examples}")
    if not cfg.task.get("in_run_folder"):  # such a task accepts single keys
        check_optional(parsed, task, cfg.task.get("optional") or [])
    return notes


def check_optional(parsed: Sequence[Override], task: str, optional: Sequence[str]) -> None:
    """Raises ConfigError for a key of a group that the command line does not choose: the task would ignore it."""
    chosen = {o.key_or_group for o in parsed}
    for key in chosen:
        group = key.split(".")[0]
        if "." in key and group in optional and group not in chosen:
            raise ConfigError(f"{group}: task={task} uses the run's {group}; to set {key}, choose {group} too: {group}=… {key}=…")
