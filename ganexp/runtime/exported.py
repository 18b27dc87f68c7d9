"""Load an exported folder, model.safetensors and config.yaml, as a system. No pickle is read, and no code from the files runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ganexp.cli.build import OWN_CLASSES, build, one_line
from ganexp.cli.messages import ConfigError
from ganexp.files import check_yaml
from ganexp.runs import CONFIG
from ganexp.systems.contexts import evaluating
from ganexp.systems.sampler import EncodingSampler, Sampler

FORMAT = 1  # version of the folder's format; increase it with every incompatible change
SLACK = 2**20  # parameters


def read(file: Path) -> dict[str, Any]:
    """Returns the content of model.safetensors and the config.yaml beside it: `config`, `state_dict`, `global_step`, and `facts`
    about the training for the model card. Raises ValueError for a damaged file."""
    try:
        with safe_open(file, "pt") as opened:  # checks that header, shapes and length agree; maps the file
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"is damaged, or is not a safetensors file: {one_line(error)[:200]}") from error
    about = read_metadata(metadata.get("ganexp"))
    return {"config": read_config(file.with_name(CONFIG)), "state_dict": state, "global_step": about["step"], **about}


def read_metadata(text: str | None) -> dict[str, Any]:
    """Returns `step` and `facts`. Raises ValueError for any other content, and for another format."""
    if text is None:
        raise ValueError("was not written by ganexp: export a run with task=export")
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: its metadata cannot be read: {one_line(error)[:200]}") from error
    if not isinstance(about, dict) or type(about.get("step")) is not int or not isinstance(about.get("facts"), dict):
        raise ValueError("is damaged: its metadata has no step or no facts")
    if about.get("format") != FORMAT:
        found = str(about.get("format"))[:20]
        raise ValueError(f"has another format ({found}) than this version of ganexp reads ({FORMAT}): update ganexp")
    return {"step": about["step"], "facts": about["facts"]}


def read_config(file: Path) -> dict[str, Any]:
    """Returns the mapping in an untrusted YAML file. Raises ValueError for a file that is missing, too large or not plain
    YAML."""
    try:
        check_yaml(file)
    except ValueError as error:
        raise ValueError(f"cannot be loaded: {file.name} {error}") from error
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot be loaded: {file.name} cannot be read: {one_line(error)[:200]}") from error
    if not isinstance(config, dict):
        raise ValueError(f"cannot be loaded: {file.name} is not a mapping")
    return config


def build_sampler(config: Mapping[str, Any], state: Mapping[str, Tensor], trust: Sequence[str]) -> Sampler:
    """Returns a system for the weights `state`, built from the model's node in a run's config; its weights are still random.

    It is first built on the meta device and compared with `state`, so that a config cannot ask for more memory than the file
    holds; not so with `trust`, since other classes may not support that. Raises ConfigError, naming the key or the tensor.
    """
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise ConfigError("model: must be a mapping with a _target_")
    parts = {key: model[key] for key in ("latent", "generator", "encoder", "classes") if key in model}
    kind = EncodingSampler if "encoder" in model else Sampler
    node = {"_target_": f"{kind.__module__}.{kind.__name__}", **parts}
    allowed = [*OWN_CLASSES, *(f"{prefix.rstrip('.')}." for prefix in trust)]
    if not trust:
        size = sum(tensor.numel() for tensor in state.values())
        with torch.device("meta"), at_most(4 * size + SLACK):  # spectral norm registers a weight twice
            draft = build(node, "model", allowed)
        check_state(draft.state_dict(), state)
        if draft.latent.dim > size:
            raise ConfigError(f"model.latent.dim: {draft.latent.dim:,}, but the file holds {size:,} numbers")
    system: Sampler = build(node, "model", allowed)
    y = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad(), evaluating(system):  # the prior fits the networks
        x = system.generate(torch.zeros(1, system.latent.dim), y)
        if isinstance(system, EncodingSampler) and system.encode(x, y)[0].shape != (1, system.latent.dim):
            raise ConfigError(f"model.encoder: must return mean and log variance of {system.latent.dim} latents")
    return system


def check_state(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raises ConfigError for the first tensor that differs in name, shape or type."""
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs or name not in ours:
            raise ConfigError(f"{name[:100]} is in {'the config' if name in ours else 'the file'} only")
        mine, other = ours[name], theirs[name]
        if (mine.shape, mine.dtype) != (other.shape, other.dtype):
            found = [f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in (other, mine)]
            raise ConfigError(f"{name} is {found[0]} in the file, {found[1]} by the config")


@contextmanager
def at_most(parameters: int) -> Iterator[None]:
    """Raises ConfigError if networks built inside have more parameters."""
    left = parameters

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= parameter.numel() if parameter is not None else 0
        if left < 0:
            raise ConfigError("the config asks for more parameters than the file holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
