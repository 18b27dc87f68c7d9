"""The config tree: its typed top level, its location, and how to compose a config from a command line.

Nothing here imports torch, so a misspelled key is reported in a fraction of a second.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, version
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ganexp.cli.hydra_internals import Hydra, create_config_search_path, loader_of, set_keys, unresolved
from ganexp.cli.messages import ConfigError, explain, groups, options, printable
from ganexp.files import check_yaml

HERE = Path(__file__).resolve().parents[1]
CONF_DIR = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # in a wheel, in a clone


@dataclass
class Training:
    """Length and intervals of training in steps: one step = one batch = one update of D."""

    max_steps: int = MISSING
    log_every: int = MISSING
    samples_every: int = MISSING
    metrics_every: int = MISSING
    checkpoint_every: int = MISSING
    log_window: int = MISSING
    num_samples: int = MISSING


@dataclass
class Optimizers:
    generator: dict[str, Any] = MISSING
    discriminator: dict[str, Any] = MISSING


@dataclass
class Config:
    """The top level. Any other key is an error."""

    name: str = MISSING
    seed: int = MISSING
    task: dict[str, Any] = MISSING
    study: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    regularizer: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    constraint: dict[str, Any] = field(default_factory=dict)
    anneal: dict[str, Any] = field(default_factory=dict)
    optimizer: Optimizers = field(default_factory=Optimizers)
    schedule: dict[str, Any] = MISSING
    metrics: dict[str, Any] = field(default_factory=dict)
    extractor: dict[str, Any] = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = MISSING
    trainer: Training = field(default_factory=Training)
    run: str | None = None
    start_from: str | None = None
    resume: str | None = None
    trust: list[str] = field(default_factory=list)


PICK_ANY = ("regularizer", "augment", "constraint", "anneal", "metrics", "callbacks", "logger")
TYPED: dict[str, Any] = {"": Config, "trainer": Training, "optimizer": Optimizers}
CALL_KEYS = ("task", "study", "run", "resume", "trust")  # keys of the command line that are not part of a run's config
# Keys of a task node that are not arguments of the task:
# needs: top-level keys and config groups that the task gets. Only these may be set on its command line; none may be null.
# optional: further ones. A group is null unless the command line chooses it.
# in_run_folder: true if the task works in the folder of run=… instead of a new one. Its constructor also gets `override_keys`,
#   the full keys that the command line sets.
# leaves_nothing: true if the task works in a temporary folder, which is deleted at its end. Its constructor also gets
#   `override_keys`, the `destination` that a run of this command line would have, and the `notes` on what has no effect.
# starts_runs: true if the task starts runs. Its constructor also gets the `overrides` that they share, and the `config_name` and
#   the `config_dir` of the command line.
# after_sweep: a function that is called with the folder of a sweep at its end.
TASK_KEYS = ("_target_", "needs", "optional", "in_run_folder", "leaves_nothing", "starts_runs", "after_sweep")
COMPOSING_KEYS = ("hydra.searchpath", "hydra.job.")  # Hydra uses these while it composes
ConfigStore.instance().store(name="schema", node=Config)


def fields(path: str) -> list[str]:
    """Returns the full keys of a typed mapping."""
    return [f"{path}.{key}".lstrip(".") for key in TYPED[path].__dataclass_fields__] if path in TYPED else []


def scaled(size: int | Sequence[int], factor: float) -> Any:
    """`${scaled:64,${model.width_multiplier}}`: one or several sizes times a factor, at least 1. Raises ConfigError."""
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < math.inf:
        raise ConfigError(f"model.width_multiplier: must be a factor above 0, got {factor}")
    if isinstance(size, Sequence):
        return OmegaConf.create([scaled(each, factor) for each in size])
    return max(1, round(size * factor))


OmegaConf.register_new_resolver("scaled", scaled, replace=True)
OmegaConf.register_new_resolver("packed", lambda shape, n: [n * shape[0], *shape[1:]], replace=True)
OmegaConf.register_new_resolver("combinations", lambda names: 2 ** len(names) if names else 0, replace=True)
OmegaConf.register_new_resolver(
    "run_name", lambda task, model, data: f"{model}_{data}" if task in ("train", "resume", "check") else task, replace=True
)
OmegaConf.register_new_resolver("plus", lambda a, b: (a or 0) + b, replace=True)


# -- composing -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def own_loader() -> ConfigLoader:
    """Returns the loader of our config tree alone. The jobs of a study share it, and with it what they compose."""
    return loader_of(create_config_search_path(str(CONF_DIR)))


@contextmanager
def config_tree(config_dir: str | None = None) -> Iterator[None]:
    """Initialize Hydra with our config tree and the user's (`--config-dir`). Raises ConfigError if that is not a folder."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir: there is no folder {config_dir}")
    loader = own_loader()
    if config_dir is not None:
        for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml"):
            for file in sorted(Path(config_dir).glob(pattern)):
                try:
                    check_yaml(file)
                except ValueError as error:
                    raise ConfigError(f"{printable(str(file))}: {error}") from error
        search_path = create_config_search_path(str(CONF_DIR))
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}", anchor="schema")
        loader = loader_of(search_path)
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(Hydra("ganexp", loader))
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def drop_leftovers(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Drop settings of an experiment for options that are no longer chosen. Returns a note for each.

    In a pick-any group, drops mappings without a `_target_` whose name is an option; in other groups, keys that the chosen option
    does not have but another option has. Other unknown keys remain and become errors.
    """
    notes = []
    with read_write(cfg), open_dict(cfg):
        for group in PICK_ANY:
            available = options(group)
            for name, node in list(cfg[group].items()):
                overridden = any(text.lstrip("+~").startswith(f"{group}.{name}") for text in overrides)
                if not OmegaConf.is_dict(node) or "_target_" in node or overridden:
                    continue
                if name not in available and not any(name in option_node(group, option) for option in available):
                    continue
                del cfg[group][name]
                notes.append(f"{group}.{name} of the experiment is dropped: {group}={name} is not chosen")
        if not any(text.startswith("experiment=") for text in overrides):
            return notes
        named = {text.partition("=")[0] for text in overrides}
        choices = HydraConfig.get().runtime.choices
        pick_one = [g for g in groups() if g in choices and g not in (*PICK_ANY, "experiment", "task")]
        for group in [g for g in pick_one if g in named or g == "loss"]:
            own = option_node(group, choices[group])
            path = group.replace("/", ".")
            node = OmegaConf.select(cfg, path)
            if not has_more_keys(node, own):  # saves composing all options
                continue
            others = [option_node(group, other) for other in options(group) if other != choices[group]]
            dropped = drop_keys(node, own, others)
            if group in named:
                notes += [
                    f"{path}.{key} of the experiment is dropped: {group}={choices[group]} has no such key" for key in dropped
                ]
    return notes


def option_node(group: str, option: str) -> DictConfig:
    """Returns the node of one option, composed alone."""
    return _option_node(GlobalHydra.instance().config_loader(), group, option)


@lru_cache(maxsize=256)
def _option_node(loader: ConfigLoader, group: str, option: str) -> DictConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cfg = compose(f"{group}/{option}")
        except ConfigCompositionException:  # it overrides another group, which only the whole config has
            cfg = compose("config", overrides=[f"{group}={option}"])
        return OmegaConf.select(cfg, group.replace("/", "."))


def has_more_keys(node: Any, own: Any) -> bool:
    """Whether `node` has a key that `own` does not have."""
    if not OmegaConf.is_dict(node) or not OmegaConf.is_dict(own):
        return False
    return any(key not in set(own) or has_more_keys(unresolved(node, key), unresolved(own, key)) for key in node)


def drop_keys(node: Any, own: Any, others: Sequence[Any]) -> list[str]:
    """Delete the keys from `node` that `own` does not have but one of `others` has. Returns their paths."""
    if not OmegaConf.is_dict(node) or not OmegaConf.is_dict(own):
        return []
    dropped = []
    others = [other for other in others if OmegaConf.is_dict(other)]
    for key in list(node):
        children = [unresolved(other, key) for other in others if key in set(other)]  # `key in other` is False for ???
        if key in set(own):
            child = unresolved(node, key)
            dropped += [f"{key}.{path}" for path in drop_keys(child, unresolved(own, key), children)]
        elif children:
            del node[key]
            dropped.append(str(key))
    return dropped


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Returns the config without Hydra's part as plain containers. Raises ConfigError for an interpolation of a missing key."""
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        container = OmegaConf.to_container(job, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, ConfigError):  # raised by a resolver
            raise error.__cause__ from error
        raise ConfigError(explain(error, fields)) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def recipe(experiment: str | None) -> dict[str, Any]:
    """Returns the config of an experiment, of the default for None, with interpolations unresolved. Raises ConfigError if there
    is no such experiment. Leaves the current job's HydraConfig as it is, and uses its config tree, if there is one."""
    try:
        with nullcontext() if GlobalHydra.instance().is_initialized() else config_tree():
            cfg = compose("config", overrides=[f"experiment={experiment}"] if experiment else [])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(explain(error, fields)) from error
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def with_base(overrides: Sequence[str]) -> list[str]:
    """Returns a command line behind the `base` of its study, without what it sets itself."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("study=")]
    if not chosen or chosen[-1] not in options("study"):
        return list(overrides)
    base = OmegaConf.to_container(option_node("study", chosen[-1]).base)
    assert isinstance(base, list)
    own = {word.partition("=")[0] for word in overrides}
    return [*(word for word in map(str, base) if word.partition("=")[0] not in own), *overrides]


def make_resume(cfg: DictConfig, folder: Path) -> None:
    """Turn the config of a run into that of task=resume with resume=auto in its folder."""
    with read_write(cfg), open_dict(cfg):
        cfg.task, cfg.run, cfg.resume = option_node("task", "resume"), str(folder), "auto"


def config_dir_of(cfg: DictConfig) -> str | None:
    """Returns the folder of --config-dir."""
    sources = [source.path for source in cfg.hydra.runtime.config_sources if source.provider == "command-line"]
    return str(sources[0]).removeprefix("file://") if sources else None


def is_group(override: Override) -> bool:
    return override.key_or_group in (*groups(), "experiment") or override.key_or_group.startswith("hydra/")


def composed(overrides: Sequence[str], config_name: str) -> DictConfig:
    """Returns Hydra's `compose`. That takes 0.2 s, setting keys in a copy a twentieth, and a command line is composed with and
    without its keys, a sweep once for every job."""
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
    if any(o.is_sweep_override() or o.key_or_group.startswith(COMPOSING_KEYS) for o in parsed):
        return compose(config_name, overrides=list(overrides), return_hydra_config=True)
    chosen = tuple(str(override.input_line) for override in parsed if is_group(override))
    cfg = copy.deepcopy(compose_options(loader, chosen, config_name))
    set_keys(cfg, [override for override in parsed if not is_group(override)], parsed)
    return cfg


@lru_cache(maxsize=64)
def compose_options(loader: ConfigLoader, chosen: tuple[str, ...], config_name: str) -> DictConfig:
    """`loader`: the current one, Hydra's global."""
    return compose(config_name, overrides=list(chosen), return_hydra_config=True)


def compose_config(overrides: Sequence[str], config_name: str) -> DictConfig:
    """Returns the config of a command line, including Hydra's part. Raises ConfigError if it cannot be composed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*is not available", category=UserWarning)  # hydra.searchpath
            cfg = composed(overrides, config_name)
    except UserWarning as error:
        raise ConfigError(f"hydra.searchpath: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, fields)
        for recipe in (o.removeprefix("experiment=") for o in overrides if o.startswith("experiment=")):
            message = re.sub("^config.yaml:", f"experiment/{recipe}.yaml:", message)  # Hydra names the including file
        raise ConfigError(message) from error
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"a config file is not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    except (
        AssertionError,
        TypeError,
        AttributeError,
        LookupError,
        RecursionError,
    ) as error:  # Hydra, for malformed nodes and keys
        raise ConfigError(
            f"the config cannot be composed: {' '.join(str(error).split()) or 'a file or a key is malformed'}"
        ) from error
    HydraConfig.instance().set_config(cfg)  # for ${hydra:…} interpolations
    return cfg
