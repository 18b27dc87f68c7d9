"""Whether a command line and its config make sense: every group, option, key and number, before anything is built.

Like composing, it answers without importing torch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ganexp.config import PICK_ANY, TYPED, composed, drop_leftovers, fields, parse, resolved
from ganexp.mistakes import Mistake, groups, nearest, options

GAME = (
    "loss",
    "regularizer",
    "augment",
    "constraint",
    "anneal",
    "schedule",
    "optimizer",
    "optimizer.generator",
    "optimizer.discriminator",
)
PICK_ONE = ("model", "data", "loss", "schedule", "extractor", "hardware")


def compose_checked(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """The config of one job, Hydra's own part included. Raises Mistake for anything that composing can see."""
    parsed = check_spelling(overrides, config_name)
    cfg = composed(overrides, config_name)
    for note in drop_leftovers(cfg, overrides):
        print(f"ganexp: {note}", file=sys.stderr)
    check_nodes(resolved(cfg))
    check_reads(parsed, cfg)
    return cfg


def check_spelling(overrides: Sequence[str], config_name: str) -> list[Override]:
    """The parsed overrides. Raises Mistake for a group, an option or a key that is not there."""
    parsed = parse(overrides)
    for override in parsed:
        check_option(override)
    check_keys(parsed, config_name)
    return parsed


def values_of(override: Override) -> list[str | None]:
    """The option names that an override of a group asks for."""
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator() if not str(v).startswith("[")]
    value = override.value()
    return [None if v is None else str(v) for v in (value if isinstance(value, list) else [value])]


def check_option(override: Override) -> None:
    """Raises Mistake for an option that its group does not have, and for a group that is not there."""
    group = override.key_or_group
    known = groups()
    if "/" in group and group not in known and not options(group):
        raise Mistake(f"{group}: there is no such group{nearest(group, known)}")
    if not (group in known or group == "experiment" or group.startswith("hydra/")) or override.is_delete():
        return
    offered = options(group)
    values = values_of(override)
    if group not in PICK_ANY and not override.is_sweep_override() and isinstance(override.value(), list):
        raise Mistake(f"{group}: takes one option, not a list; to try several, separate them by commas and add -m")
    for value in values:
        if value is None:
            raise Mistake(f"{group}: cannot be null{'; for none write ' + group + '=[]' if group in PICK_ANY else ''}")
        if value is not None and value not in offered:
            raise Mistake(f"{group}={value}: there is no such option{nearest(value, offered)}")


def check_keys(parsed: Sequence[Override], config_name: str) -> None:
    """Raises Mistake for a key that the chosen options do not have."""
    chosen = [o for o in parsed if is_group(o)]
    fixed = [str(o.input_line) for o in chosen if not o.is_sweep_override()]
    cfg = composed(fixed, config_name)
    drop_leftovers(cfg, fixed)
    for override in parsed:
        if is_group(override) or override.is_add() or override.is_force_add():
            continue
        node: Any = cfg
        parts = override.key_or_group.split(".")
        for i, part in enumerate(parts):
            if OmegaConf.is_list(node) and part.isdigit():
                break
            if not OmegaConf.is_dict(node) or part not in list(node):
                path, inside = ".".join(parts[: i + 1]), ".".join(parts[:i])
                siblings = [f"{inside}.{key}" if inside else str(key) for key in (node if OmegaConf.is_dict(node) else [])]
                raise Mistake(f"{path}: there is no such key{nearest(path, [s for s in siblings if '_target_' not in s])}")
            node = None if i + 1 == len(parts) or OmegaConf.is_missing(node, part) else node[part]


def is_group(override: Override) -> bool:
    return override.key_or_group in (*groups(), "experiment") or override.key_or_group.startswith("hydra/")


def check_nodes(config: dict[str, Any]) -> None:
    """Raises Mistake for a mapping that is neither a typed field nor has a `_target_`, and for impossible numbers."""
    for path, kind in TYPED.items():
        node = config[path] if path else config
        for key in sorted(kind.__dataclass_fields__.keys() - node.keys()):
            raise Mistake(f"{f'{path}.{key}'.lstrip('.')}: cannot be taken away")
        for key in node.keys() - kind.__dataclass_fields__.keys() - {"experiment"}:
            full = f"{path}.{key}".lstrip(".")
            raise Mistake(f"{full}: there is no such key{nearest(full, fields(path))}")
    nodes = {key: config[key] for key in PICK_ONE}
    for group in PICK_ANY:
        nodes |= {f"{group}.{name}": node for name, node in config[group].items()}
    for key, node in nodes.items():
        if not isinstance(node, dict) or "_target_" not in node:
            group = key.split(".")[0]
            raise Mistake(f"{key}: must be a mapping with a _target_; choose an option of the group: {', '.join(options(group))}")
    for key, value in config["trainer"].items():
        if not 1 <= value < 2**31:
            raise Mistake(f"trainer.{key}: {'at least 1' if value < 1 else 'below 2**31'}, not {value}")
    name = Path(config["name"])
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise Mistake(f"name: a folder below outputs/, not {config['name']!r}")
    if any(len(part.encode()) > 200 for part in name.parts):
        raise Mistake(f"name: at most 200 bytes, not {len(config['name'].encode())}")
    if not 0 <= config["seed"] < 2**32:
        raise Mistake(f"seed: from 0 to {2**32 - 1}, not {config['seed']}")
    if config["num"] < 1 or config["num_images"] < 2:
        raise Mistake("num, num_images: at least 1 sample to draw and 2 to measure")
    if "LOCAL_WORLD_SIZE" not in os.environ and HydraConfig.get().runtime.choices.get("hardware") == "multinode":
        raise Mistake(
            "hardware=multinode: is started by torchrun, once on every node: torchrun --nnodes=2 --nproc-per-node=8 "
            "--node-rank=0 --master-addr=HOST --master-port=29500 -m ganexp hardware=multinode …"
        )


def as_written(cfg: DictConfig, message: str) -> str:
    """A message with its key where the user wrote it: `model.loss` only refers to `loss`."""
    for key, value in leaves(OmegaConf.to_container(cfg.model, resolve=False)):
        if isinstance(value, str) and (whole := re.fullmatch(r"\$\{([a-z_.]+)\}", value)):
            message = re.sub(rf"^model{re.escape(key)}(?=[.:])", whole.group(1), message)
    return message


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a mapping that is none itself, by its path: `.optimizer.generator`."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, node


def refers(references: str, part: str) -> bool:
    """Whether the model takes this part of the game, alone or with all that it belongs to."""
    return f"${{{part}" in references or f"${{{part.partition('.')[0]}}}" in references


def check_game(parsed: Sequence[Override], cfg: DictConfig) -> None:
    """Raises Mistake for a part of the game that the model does not refer to; says so where an experiment chose it."""
    references, choices = str(OmegaConf.to_container(cfg.model, resolve=False)), HydraConfig.get().runtime.choices
    for override in parsed:
        key = override.key_or_group
        part = ".".join(key.split(".")[:2]) if key.startswith("optimizer.") else key.split(".")[0]
        if part in GAME and not refers(references, part):
            hint = "; its loss is model.loss" if part == "loss" else ""
            raise Mistake(f"{key}: model={choices['model']} has no use for it{hint}")
    chosen = {"loss": choices["loss"] != "bce", "regularizer": bool(cfg.regularizer), "augment": bool(cfg.augment)}
    for part in chosen:
        if chosen[part] and f"${{{part}" not in references:
            print(f"ganexp: model={choices['model']} has no use for the experiment's {part}", file=sys.stderr)


def check_reads(parsed: Sequence[Override], cfg: DictConfig) -> None:
    """Raises Mistake for a key that the chosen task would ignore, and for a task that lacks its checkpoint."""
    task, reads = HydraConfig.get().runtime.choices["task"], cfg.task.reads or []
    for override in parsed:
        key = re.split(r"[./]", override.key_or_group)[0]
        if override.key_or_group.startswith("task."):
            raise Mistake(f"{override.key_or_group}: belongs to the option; choose another task")
        if key not in ("task", "hydra", *reads):
            raise Mistake(f"{override.key_or_group}: task={task} does not read it, only {', '.join(reads)}")
    if "model" in reads:
        check_game(parsed, cfg)
    if "run" in reads and cfg.run is None:
        raise Mistake(f"run: task={task} needs the folder of one: run=outputs/NAME/TIME")
    if "checkpoint" in reads:
        check_checkpoint(parsed, cfg, task, reads)


def check_checkpoint(parsed: Sequence[Override], cfg: DictConfig, task: str, reads: Sequence[str]) -> None:
    """Raises Mistake for a task that has no checkpoint, nor two folders in its place, and for data that neither takes."""
    folders = [key for key in ("real", "fake") if cfg[key] is not None]
    if "real" in reads and len(folders) == 1:
        raise Mistake(f"{folders[0]}: two folders are compared: real=FOLDER fake=FOLDER")
    if folders and cfg.checkpoint is not None:
        raise Mistake(f"{folders[0]}: compares two folders of images, with no checkpoint; leave one out")
    if folders and any(o.key_or_group.split(".")[0] == "data" for o in parsed):
        raise Mistake(f"data: {' and '.join(folders)} are the data here")
    if cfg.checkpoint is None and not folders:
        folders_too = ", or two folders of images: real=… fake=…" if "real" in reads else ""
        raise Mistake(f"checkpoint: task={task} needs one: checkpoint=outputs/NAME/TIME/checkpoints/best.ckpt{folders_too}")
    whole = any(o.key_or_group == "data" for o in parsed)
    if not whole and any(o.key_or_group.startswith("data.") for o in parsed):
        raise Mistake(f"data: task={task} takes the checkpoint's data; to change it, name it whole: data=mnist data.root=…")
