"""Where a run may write: into its folder, and into what its callbacks and loggers are given outside of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganexp.cli.messages import ConfigError, printable

if TYPE_CHECKING:
    from ganexp.data.module import DataModule

PLACES = ("folder", "gif", "save_dir")  # arguments of callbacks and loggers that are paths
OWN_FILES = (  # loggers whose files in save_dir always have the same names
    "pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.loggers.TensorBoardLogger", "ganexp.loggers.TensorBoard",
)  # fmt: skip
OWN_FOLDER = (*OWN_FILES, "ganexp.loggers.WandB")  # loggers that write below save_dir; W&B's unless it is online
WANDB_LINK = "wandb/*/logs/debug-core.log"  # W&B makes it, and writes each start into a folder of its own


def in_folder(value: Any, run_dir: Path) -> Any:
    """Replace `{run_dir}` in a node. The config itself stays free of the run folder's path, so a run can be moved."""
    if isinstance(value, dict):
        return {key: in_folder(item, run_dir) for key, item in value.items()}
    return value.replace("{run_dir}", str(run_dir)) if isinstance(value, str) else value


def within(nodes: dict[str, Any]) -> dict[str, Any]:
    """Returns the nodes of callbacks or loggers with all places in the run folder."""
    inside = {key: f"{{run_dir}}/{key}" for key in PLACES}
    return {
        name: {key: inside[key] if key in PLACES and "{run_dir}" not in str(value) else value for key, value in node.items()}
        for name, node in nodes.items()
    }


def check_apart(folder: Path, data: DataModule) -> None:
    """Raises ConfigError for the folder of a run inside the folder of its pictures: its samples would be pictures too."""
    from ganexp.data.folder import Folder  # imports torch, which the check of a sweep does without

    if type(data) is Folder and folder.resolve().is_relative_to(data.root.resolve()):
        raise ConfigError(
            f"hydra.run.dir: {folder} is inside of data.root, whose pictures it would join; choose a folder outside"
        )


def places(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Path]:
    """Returns the files and folders that must be new to a run, by their full keys. `groups`: callbacks and loggers."""
    return {
        f"{group}.{name}.{key}": Path(str(node[key])).absolute()
        for group, nodes in groups.items()
        for name, node in nodes.items()
        if group != "logger" or node["_target_"] in OWN_FILES
        for key in node.keys() & PLACES
    }


def claim(groups: Mapping[str, Mapping[str, Any]], claimed: set[Path]) -> None:
    """Add the places of a job outside of its folder to those of the jobs before. Raises ConfigError if two have the same."""
    for key, path in places(groups).items():
        if "{run_dir}" not in str(path):
            if path in claimed:
                raise ConfigError(f"{key}: several jobs would write {path}; choose a place in {{run_dir}}")
            claimed.add(path)


def check_free(groups: Mapping[str, Mapping[str, Any]], run_dir: Path) -> None:
    """Raises ConfigError if a callback or a logger would write outside of the run folder, where something is already."""
    for key, path in places(groups).items():
        there = next(place for place in (path, *path.parents) if place.exists())
        if path.is_relative_to(run_dir) or (there != path and there.is_dir()):
            continue
        if there == path and not key.endswith(".gif") and path.is_dir() and not any(path.iterdir()):
            continue
        what = "exists, and would be overwritten" if there == path else f"{there} is a file, not a folder"
        raise ConfigError(f"{key}: {path}: {what}; choose a new place, or one in {{run_dir}}")


def check_places(config: dict[str, Any], run_dir: Path, override_keys: Sequence[str], trust: Sequence[str]) -> None:
    """Raises ConfigError if a run's config makes a callback, a logger or the Trainer write outside of the run folder, or to a
    server. Classes below a prefix in `trust` and groups that the command line chooses are the user's."""
    for group in ("callbacks", "logger"):
        for name, node in config[group].items() if group not in override_keys else ():
            target = str(node["_target_"])
            if is_below(target, trust):
                continue
            yours = f"; if the run is yours, name {printable(target, 120)} in trust=[…]"
            sends = target == "ganexp.loggers.WandB" and node.get("offline") is not True
            if target.startswith(("pytorch_lightning.", "ganexp.loggers.")) and (sends or target not in OWN_FOLDER):
                raise ConfigError(f"{group}.{name}: may write outside of the run folder, or send values to a server{yours}")
            for key, value in node.items():
                full, is_place = f"{group}.{name}.{key}", key in PLACES
                checked = is_place or (group == "logger" and isinstance(value, str) and key != "_target_")
                if checked and full not in override_keys and not is_inside(str(value), is_place):
                    raise ConfigError(f"{full}: {printable(str(value), 120)} is not inside the run folder, {{run_dir}}{yours}")
    for key in ("default_root_dir", "profiler") if "hardware" not in override_keys else ():
        if config["hardware"].get(key) is not None and f"hardware.{key}" not in override_keys:
            raise ConfigError(f"hardware.{key}: writes outside of the run folder; if the run is yours, set it again")
    links = (path for path in run_dir.rglob("*") if not path.relative_to(run_dir).match(WANDB_LINK))
    for path in links:
        place = path.resolve()
        if path.is_symlink() and not place.is_relative_to(run_dir.resolve()) and str(place) not in trust:
            raise ConfigError(f"run: {path} is a link to {place}, outside of the run folder; if you made it, add trust=[{place}]")


def is_inside(place: str, must_start: bool) -> bool:
    """Whether a path of a config lies in the run folder. `must_start`: with `{run_dir}/`, otherwise it may be a plain name."""
    parts = re.split(r"[/\\]", place)
    is_name = len(parts) == 1 and "{run_dir}" not in place and not place.startswith("~")
    return ".." not in parts and (parts[0] == "{run_dir}" or (not must_start and is_name))


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether `key` is one of `keys`, or inside one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)
