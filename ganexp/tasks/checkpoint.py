"""A checkpoint back into a system: the file alone is enough."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ganexp.build import OURS, build, one_line
from ganexp.config import Mistake
from ganexp.systems.base import System


def restore(file: Path, trust: Sequence[str]) -> tuple[System, dict[str, Any], int]:
    """The system of a checkpoint, its run's config and its step. Runs no code from the file.

    `trust`: module prefixes that the config in it may name beside ganexp's own. Raises Mistake for a file that is not
    there, not a whole checkpoint of ours, or names anything else.
    """
    if not file.is_file():
        raise Mistake(f"checkpoint: there is no file {file}")
    if not zipfile.is_zipfile(file):
        raise Mistake(f"checkpoint: {file} cannot be read, it is damaged or no checkpoint")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Mistake(f"checkpoint: {file} holds more than tensors and plain values, and may run code: refused") from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise Mistake(f"checkpoint: {file} cannot be read, it is damaged or no checkpoint ({one_line(error)})") from error
    if not isinstance(content, dict) or not {"config", "state_dict", "global_step"} <= content.keys():
        raise Mistake(f"checkpoint: {file} is not one of ganexp's: it holds no config")
    config = content["config"]
    allowed = [*OURS, *(prefix.rstrip(".") + "." for prefix in trust)]
    try:
        system = build(config["model"], "model", allowed)
        system.load_state_dict(content["state_dict"])
    except Mistake as mistake:
        raise Mistake(f"checkpoint: {file}: {mistake}") from mistake
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise Mistake(f"checkpoint: {file} does not fit its own config: {one_line(error)[:300]}") from error
    return system.eval(), config, content["global_step"]
