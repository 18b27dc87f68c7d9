"""run.json: what a run writes about itself, and reads again. It may be damaged, or somebody else's."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from ganexp.files import read_json

log = logging.getLogger(__name__)
FILE = "run.json"
LARGEST = 1e300  # of numbers: larger integers are no floats
ANY, NOTHING = object, type(None)
NUMBER, TEXT = (int, float, NOTHING), (str, NOTHING)  # NaN is null
# For each key the type of its value: a class, (one of several), [of the items], {str: of the values}, or {key: of its value, …}.
KINDS: dict[str, Any] = {
    "status": str,
    "error": str,
    "name": str,
    "started": str,
    "seed": int,
    "command": TEXT,
    "notes": [str],
    "parameters": {str: int},
    "data": {str: ANY},
    "git_commit": TEXT,
    "versions": {str: ANY},
    "hardware": {str: ANY},
    "steps": int,
    "images_seen": int,
    "images_per_second": NUMBER,
    "seconds": NUMBER,
    "best": ({"metric": str, "value": NUMBER, "step": int}, NOTHING),
    "metrics": {str: {str: NUMBER}},
    "higher_is_better": {str: bool},
    "protocols": {str: {str: ANY}},
    "standings": [str],
    "remarks": [{"step": int, "message": str}],
    "resumed_at": [int],
    "rollbacks": [{"to": int, "because": str}],
    "job": int,
    "overrides": [str],
    "setting": {str: str},
    "loggers": {str: str},
}


def read_record(run_dir: Path) -> dict[str, Any]:
    """Returns the run.json of a run; an empty mapping if there is none. Values of another type than ganexp writes are left out,
    with one warning."""
    content = read_json(run_dir / FILE)
    wrong = [key for key, kind in KINDS.items() if key in content and not fits(content[key], kind)]
    if wrong:
        warn_once(run_dir / FILE, ", ".join(wrong))
    return {key: value for key, value in content.items() if key not in wrong}


@lru_cache(maxsize=1000)
def warn_once(file: Path, keys: str) -> None:
    log.warning("%s is damaged: these values are ignored: %s", file, keys)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON file has a type, written as in KINDS."""
    if isinstance(kind, tuple):
        return any(fits(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if isinstance(kind, dict) and str in kind:
        return isinstance(value, dict) and all(fits(item, kind[str]) for item in value.values())
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in kind.items())
    if isinstance(value, bool):
        return kind in (bool, ANY)
    return isinstance(value, kind) and (not isinstance(value, int | float) or abs(value) < LARGEST)
