"""Where a run may write: into its folder, and into what its callbacks and loggers are given outside of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganexp.cli.messages import ConfigError, printable
from ganexp.files import check_writable

if TYPE_CHECKING:
    from ganexp.data.module import DataModule

PLACES = ("folder", "gif", "save_dir")  # arguments of callbacks and loggers that are paths
OWN_FILES = (  # loggers whose files in save_dir/name/version always have the same names
    "pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.loggers.TensorBoardLogger", "ganexp.loggers.TensorBoard",
)  # fmt: skip
COMMON = ("_target_", "save_dir", "name", "version", "prefix")
ARGUMENTS = {  # of the loggers that write below save_dir; W&B's unless it is online. None of them names a server
    "pytorch_lightning.loggers.CSVLogger": (*COMMON, "flush_logs_every_n_steps"),
    "pytorch_lightning.loggers.TensorBoardLogger": (*COMMON, "sub_dir", "default_hp_metric"),
    "ganexp.loggers.TensorBoard": (*COMMON, "sub_dir", "default_hp_metric"),
    "ganexp.loggers.WandB": (*COMMON, "project", "entity", "group", "job_type", "offline", "id", "tags", "notes"),
}
RESERVED = (  # files of the run folder that are not a callback's or a logger's to choose
    "config.yaml", "run.json", "hparams.yaml", "metrics.csv", "log.txt", "error.txt", "report.html", ".hydra",
)  # fmt: skip
WANDB_LINK = "wandb/*/logs/debug-core.log"  # W&B makes it, and writes each start into a folder of its own


def in_folder(value: Any, run_dir: Path) -> Any:
    """Replace `{run_dir}` in a node. The config itself stays free of the run folder's path, so a run can be moved."""
    if isinstance(value, dict):
        return {key: in_folder(item, run_dir) for key, item in value.items()}
    return value.replace("{run_dir}", str(run_dir)) if isinstance(value, str) else value


def within(nodes: dict[str, Any]) -> dict[str, Any]:
    """Returns the nodes of callbacks or loggers with all places in the run folder."""
    moved = {}
    for name, node in nodes.items():
        outside = [key for key in node.keys() & PLACES if "{run_dir}" not in str(node[key])]
        parts = node.keys() & {"name", "version"} if node["_target_"] in OWN_FILES else ()  # of the logger's folder
        moved[name] = node | {key: f"{{run_dir}}/{key}" for key in outside} | dict.fromkeys(parts, "")
    return moved


def check_apart(folder: Path, data: DataModule) -> None:
    """Raises ConfigError for the folder of a run inside the folder of its pictures: its samples would be pictures too."""
    from ganexp.data.folder import Folder  # imports torch, which the check of a sweep does without

    if isinstance(data, Folder) and (pictures := data.place()) and folder.resolve().is_relative_to(pictures.resolve()):
        raise ConfigError(
            f"hydra.run.dir: {folder} is inside of data.root, whose pictures it would join; choose a folder outside"
        )


def places(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns the files and folders that must be new to a run, by their full keys, with `{run_dir}`. `groups`: callbacks and
    loggers. Raises ConfigError for a path with `~`, `$` or other braces, which libraries understand differently."""
    found = {}
    for group, nodes in groups.items():
        for name, node in nodes.items():
            for key in PLACES if group != "logger" or node["_target_"] in OWN_FILES else ():
                if node.get(key) is None:
                    continue
                place, full = str(node[key]), f"{group}.{name}.{key}"
                rest = place.replace("{run_dir}", "")
                if rest.startswith("~") or re.search(r"[${}]", rest):
                    raise ConfigError(f"{full}: {place}: write the whole path; only {{run_dir}} is replaced")
                if group == "logger":
                    place = os.path.join(place, *(str(node.get(part) or "") for part in ("name", "version")))
                found[full] = place
    return found


def claim(groups: Mapping[str, Mapping[str, Any]], claimed: set[Path]) -> None:
    """Add the places of a job outside of its folder to those of the jobs before. Raises ConfigError if two have the same."""
    for key, place in places(groups).items():
        if "{run_dir}" in place:
            continue
        path = Path(place).resolve()
        if path in claimed:
            raise ConfigError(f"{key}: several jobs would write {path}; choose a place in {{run_dir}}")
        claimed.add(path)


def check_free(groups: Mapping[str, Mapping[str, Any]], run_dir: Path) -> None:
    """Raises ConfigError if a callback or a logger would write over the run's own files, or outside of the run folder where
    something is already, or where nothing can be written."""
    run_dir = run_dir.resolve()
    paths = {key: Path(in_folder(place, run_dir)).absolute() for key, place in places(groups).items()}
    for key, link in paths.items():
        try:
            path, is_gif = link.resolve(), key.endswith(".gif")
            inside = path.relative_to(run_dir).parts if path.is_relative_to(run_dir) else None
            others = [other.resolve() for name, other in paths.items() if name != key]
            if (inside and inside[0] in RESERVED) or (is_gif and any(p.is_relative_to(path) for p in (run_dir, *others))):
                raise ConfigError(f"{key}: {path}: is a place of the run's other files; choose a new place")
            if inside is not None:
                continue
            is_empty = not is_gif and path.is_dir() and not any(path.iterdir())
            if (path.exists() and not is_empty) or (is_gif and link.is_symlink()):
                raise ConfigError(f"{key}: {link}: exists, and would be overwritten; choose a new place, or one in {{run_dir}}")
            check_writable(path if is_empty else path.parent)
        except OSError as error:
            where = printable(str(link), 120)
            raise ConfigError(
                f"{key}: cannot write {where}: {error.strerror}; choose a new place, or one in {{run_dir}}"
            ) from error


def check_places(config: dict[str, Any], run_dir: Path, override_keys: Sequence[str], trust: Sequence[str]) -> None:
    """Raises ConfigError if a run's config makes a callback, a logger or the Trainer write outside of the run folder, or to a
    server. Classes below a prefix in `trust` and groups that the command line chooses are the user's."""
    for group in ("callbacks", "logger"):
        for name, node in config[group].items() if group not in override_keys else ():
            if not is_below(str(node["_target_"]), trust):
                check_node(f"{group}.{name}", node, override_keys, trust)
    for key in ("default_root_dir", "profiler") if "hardware" not in override_keys else ():
        if config["hardware"].get(key) is not None and f"hardware.{key}" not in override_keys:
            raise ConfigError(f"hardware.{key}: writes outside of the run folder; if the run is yours, set it again")
    links = (path for path in run_dir.rglob("*") if not path.relative_to(run_dir).match(WANDB_LINK))
    for path in links:
        place = path.resolve()
        if path.is_symlink() and not place.is_relative_to(run_dir.resolve()) and str(place) not in trust:
            raise ConfigError(f"run: {path} is a link to {place}, outside of the run folder; if you made it, add trust=[{place}]")


def check_node(full: str, node: Mapping[str, Any], override_keys: Sequence[str], trust: Sequence[str]) -> None:
    """Raises ConfigError unless a callback or a logger of a config writes into the run folder only. `full`: its full key."""
    target, is_logger = str(node["_target_"]), full.startswith("logger.")
    yours = f"; if the run is yours, name {printable(target, 120)} in trust=[…]"
    refused = f"may write outside of the run folder, or send values to a server{yours}"
    if is_logger and target == "ganexp.loggers.WandB" and node.get("offline") is not True:
        raise ConfigError(f"{full}: {refused}")
    if not target.startswith(("ganexp.", "pytorch_lightning.")):
        return  # refused when it is built
    if target not in ARGUMENTS if is_logger else not target.startswith("ganexp.callbacks."):
        raise ConfigError(f"{full}: {refused}")
    if is_logger and node.get("save_dir") is None:
        raise ConfigError(f"{full}.save_dir: is missing, and would be the current folder; add logger={full.partition('.')[2]}")
    for key, value in node.items():
        unknown = key not in ARGUMENTS[target] if is_logger else key == "_args_"
        nested = [child for child in targets_below(value) if not is_below(child, ("ganexp.metrics", *trust))]
        if f"{full}.{key}" not in override_keys and (
            unknown or nested or (is_logger and isinstance(value, dict | list) and key != "tags")
        ):
            raise ConfigError(f"{full}.{printable(str(key), 60)}: {refused}")
        is_place = key in PLACES
        checked = is_place or (is_logger and isinstance(value, str) and key != "_target_")
        if checked and f"{full}.{key}" not in override_keys and not is_inside(str(value), is_place):
            raise ConfigError(f"{full}.{key}: {printable(str(value), 120)} is not inside the run folder, {{run_dir}}{yours}")


def targets_below(value: Any) -> Iterator[str]:
    """Yields the classes that are named in a value."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from targets_below(item)


def is_inside(place: str, must_start: bool) -> bool:
    """Whether a path of a config lies in the run folder. `must_start`: with `{run_dir}/`, otherwise it may be a plain name."""
    parts = re.split(r"[/\\]", place)
    is_name = len(parts) == 1 and "{run_dir}" not in place and not place.startswith("~")
    return ".." not in parts and "$" not in place and (parts[0] == "{run_dir}" or (not must_start and is_name))


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether `key` is one of `keys`, or inside one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)
