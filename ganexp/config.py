"""The config tree: its typed top level, where it lies, and how a command line becomes a checked config.

Everything here answers without importing torch: a misspelled key costs a fraction of a second.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganexp.mistakes import Mistake, explain, groups, nearest, options

HERE = Path(__file__).resolve().parent
CONF_DIR = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, in a clone
PICK_ANY = ("regularizer", "augment", "metrics", "callbacks", "logger")
GAME = ("loss", "regularizer", "augment", "schedule", "optimizer", "optimizer.generator", "optimizer.discriminator")
PICK_ONE = ("model", "data", "loss", "schedule", "hardware")


@dataclass
class Task:
    """What to do, and the top-level keys it reads: the others may not be set on its command line."""

    _target_: str = MISSING
    reads: list[str] = MISSING


@dataclass
class Training:
    """How long, how often and how much, in steps: one step = one batch = one update of D."""

    max_steps: int = MISSING
    log_every: int = MISSING
    samples_every: int = MISSING
    metrics_every: int = MISSING
    checkpoint_every: int = MISSING
    log_mean: int = MISSING
    num_samples: int = MISSING


@dataclass
class Optimizers:
    generator: dict[str, Any] = MISSING
    discriminator: dict[str, Any] = MISSING


@dataclass
class Config:
    """The top level. A key that is not here is refused, wherever it was written."""

    name: str = MISSING
    seed: int = MISSING
    task: Task = field(default_factory=Task)
    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    regularizer: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    optimizer: Optimizers = field(default_factory=Optimizers)
    schedule: dict[str, Any] = MISSING
    metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = MISSING
    trainer: Training = field(default_factory=Training)
    run: str | None = None
    checkpoint: str | None = None
    num: int = MISSING
    label: int | None = None
    grid: bool = MISSING
    num_images: int = MISSING
    trust: list[str] = field(default_factory=list)


TYPED: dict[str, Any] = {"": Config, "trainer": Training, "optimizer": Optimizers, "task": Task}
ConfigStore.instance().store(name="schema", node=Config)


def scaled(size: int | Sequence[int], factor: float) -> Any:
    """`${scaled:64,${model.width}}`: a layer's size, or several layers', times a factor; at least 1. Raises Mistake."""
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < math.inf:
        raise Mistake(f"model.width: a factor above 0, not {factor}")
    if isinstance(size, Sequence):
        return OmegaConf.create([scaled(each, factor) for each in size])
    return max(1, round(size * factor))


OmegaConf.register_new_resolver("scaled", scaled, replace=True)
OmegaConf.register_new_resolver("plus", lambda a, b: (a or 0) + b, replace=True)


# -- composing -------------------------------------------------------------------------------------------------------


@contextmanager
def config_tree(config_dir: str | None = None) -> Iterator[None]:
    """Hydra on our config tree, and on the user's own (`--config-dir`) after it. Raises Mistake if that is not a folder."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise Mistake(f"--config-dir: there is no folder {config_dir}")
    search_path = create_config_search_path(str(CONF_DIR))
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}", anchor="schema")
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("ganexp", search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def compose_checked(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """The config of one job, Hydra's own part included. Raises Mistake for anything that composing can see."""
    parsed = check_spelling(overrides, config_name)
    cfg = composed(overrides, config_name)
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


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config without Hydra's part, as plain containers. Raises Mistake for an interpolation that leads nowhere."""
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        container = OmegaConf.to_container(job, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, Mistake):  # of a resolver
            raise error.__cause__ from error
        raise Mistake(explain(error, fields)) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def sweep_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """A first job with the first value of every sweep, then one for every other value: enough to see each value once."""
    axes = sweep_axes(overrides)
    first = [axis[0] for axis in axes]
    return [first] + [[*first[:i], value, *first[i + 1 :]] for i, axis in enumerate(axes) for value in axis[1:]]


def sweep_axes(overrides: Sequence[str]) -> list[list[str]]:
    """For every override the values it takes in turn; other sweepers than Hydra's own choose what lies in an interval.

    Raises Mistake for an interval that nobody can sweep.
    """
    own = not any(text.startswith("hydra/sweeper=") for text in overrides)
    axes = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        if not override.is_sweep_override():
            axes.append([text])
        elif override.is_discrete_sweep():
            axes.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        elif own:
            raise Mistake(f"{override.key_or_group}: {text} has no end; name the values, or use range(start,stop,step)")
    return axes


def as_typed(overrides: Any) -> list[str]:
    """Hydra's record of a command line's overrides, interpolations left as they are."""
    return [str(override) for override in cast(list[Any], OmegaConf.to_container(overrides, resolve=False))]


def with_home(words: Sequence[str]) -> list[str]:
    """`data.root=~/photos` with the home folder in place: neither the shell nor Hydra's grammar puts it there."""
    return [word.replace("=~/", f"={Path.home()}/", 1) for word in words]


def parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except HydraException as error:
        raise Mistake(f"the command line cannot be read: {' '.join(str(error).split())}") from error


def composed(overrides: Sequence[str], config_name: str) -> DictConfig:
    try:
        cfg = compose(config_name, overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, fields)
        for recipe in (o.removeprefix("experiment=") for o in overrides if o.startswith("experiment=")):
            message = re.sub("^config.yaml:", f"experiment/{recipe}.yaml:", message)  # Hydra blames who included it
        raise Mistake(message) from error
    except ValueError as error:
        raise Mistake(" ".join(str(error).split())) from error
    except yaml.YAMLError as error:
        raise Mistake(f"a config file is not YAML: {' '.join(str(error).split())}") from error
    except (AssertionError, TypeError, AttributeError, LookupError, RecursionError) as error:  # of Hydra, on odd nodes and keys
        raise Mistake(
            f"the config cannot be composed: {' '.join(str(error).split()) or 'a file or a key is malformed'}"
        ) from error
    HydraConfig.instance().set_config(cfg)  # for the interpolations that ask Hydra
    return cfg


# -- checking --------------------------------------------------------------------------------------------------------


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
    cfg = composed([str(o.input_line) for o in chosen if not o.is_sweep_override()], config_name)
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


def fields(path: str) -> list[str]:
    """The full keys of a typed mapping."""
    return [f"{path}.{key}".lstrip(".") for key in TYPED[path].__dataclass_fields__] if path in TYPED else []


def as_written(cfg: DictConfig, message: str) -> str:
    """A message with its key where the user wrote it: `model.loss` only refers to `loss`."""
    references = OmegaConf.to_container(cfg.model, resolve=False)
    assert isinstance(references, dict)
    for key, value in references.items():
        if isinstance(value, str) and (whole := re.fullmatch(r"\$\{([a-z_.]+)\}", value)):
            message = re.sub(rf"^model\.{key!s}(?=[.:])", whole.group(1), message)
    return message


def check_game(parsed: Sequence[Override], cfg: DictConfig) -> None:
    """Raises Mistake for a part of the game that the model does not refer to; says so where an experiment chose it."""
    references, choices = str(OmegaConf.to_container(cfg.model, resolve=False)), HydraConfig.get().runtime.choices
    for override in parsed:
        key = override.key_or_group
        part = ".".join(key.split(".")[:2]) if key.startswith("optimizer.") else key.split(".")[0]
        if part in GAME and f"${{{part}" not in references:
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
    if "checkpoint" in reads and cfg.checkpoint is None:
        raise Mistake(f"checkpoint: task={task} needs one: checkpoint=outputs/NAME/TIME/checkpoints/best.ckpt")
    if "run" in reads and cfg.run is None:
        raise Mistake(f"run: task={task} needs the folder of one: run=outputs/NAME/TIME")
    whole = any(o.key_or_group == "data" for o in parsed)
    if "checkpoint" in reads and not whole and any(o.key_or_group.startswith("data.") for o in parsed):
        raise Mistake(f"data: task={task} takes the checkpoint's data; to change it, name it whole: data=mnist data.root=…")
