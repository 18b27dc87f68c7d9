"""All private names of Hydra and OmegaConf that ganexp uses. pyproject.toml bounds the versions; tests/test_internals.py names
the version that breaks them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal import utils
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

__all__ = [
    "Callbacks",
    "Hydra",
    "create_config_search_path",
    "errors_raised",
    "get_args_parser",
    "groups_below",
    "loader_of",
    "options_of",
    "result_of",
    "set_keys",
    "unresolved",
]


class ReadOnce(ConfigRepository):
    """The files of a config tree, each of which is read once. Hydra reads them anew for every composition, which takes as long as
    all the rest of it."""

    def __init__(self, search_path: ConfigSearchPath):
        self.results: dict[str, ConfigResult | None] = {}
        super().__init__(search_path)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.results = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.results:
            self.results[config_path] = super().load_config(config_path)
        return copy.deepcopy(self.results[config_path])  # composing changes it

    def __deepcopy__(self, memo: Any) -> ReadOnce:
        """Hydra copies the repository for every composition. The copy shares what was read until it gets sources of its own."""
        return copy.copy(self)


def loader_of(search_path: ConfigSearchPath) -> ConfigLoaderImpl:
    loader = ConfigLoaderImpl(search_path)
    loader.repository = ReadOnce(search_path)
    return loader


def groups_below(loader: Any, parent: str) -> list[str]:
    """Returns all groups below one, including nested ones. The loader's `list_groups` would copy every config it has read."""
    names = loader.repository.get_group_options(parent, ObjectType.GROUP)
    paths = [f"{parent}/{name}".lstrip("/") for name in names]
    return [group for path in paths for group in [path, *groups_below(loader, path)]]


def options_of(loader: Any, group: str) -> list[str]:
    """Returns the names of a group's options, sorted."""
    return sorted(loader.repository.get_group_options(group, ObjectType.CONFIG))


def result_of(job: JobReturn) -> Any:
    """Returns a job's result, or the exception that ended it, which the public `return_value` would raise."""
    return job._return_value


@contextmanager
def errors_raised() -> Iterator[None]:
    """Let errors leave `hydra.main`, which would print their tracebacks and end the process."""
    before, utils.run_and_report = utils.run_and_report, lambda func: func()
    try:
        yield
    finally:
        utils.run_and_report = before


def unresolved(node: DictConfig, key: Any) -> Any:
    """Returns the node at a key without resolving interpolations."""
    return node._get_node(key)


def set_keys(cfg: DictConfig, keys: Sequence[Override], parsed: Sequence[Override]) -> None:
    """Set keys in a config that was composed of the other overrides of a command line, as the end of Hydra's `compose` does."""
    ConfigLoaderImpl._apply_overrides_to_config(list(keys), cfg)
    task = [override for override in parsed if not override.is_hydra_override()]
    cfg.hydra.overrides.task = [override.input_line for override in task]
    cfg.hydra.overrides.hydra = [override.input_line for override in parsed if override.is_hydra_override()]
    form = cfg.hydra.job.config.override_dirname
    cfg.hydra.job.override_dirname = get_overrides_dirname(task, form.exclude_keys, form.item_sep, form.kv_sep)
    cfg.hydra.runtime.cwd = os.getcwd()
