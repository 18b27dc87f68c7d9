"""From a checked config to objects: the one call of Hydra's instantiate, and what only importing can check."""

from __future__ import annotations

import inspect
import logging
import os
import pathlib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from ganexp.cli.messages import ConfigError, nearest

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it says each error again that we explain
PARTS = ("systems", "networks", "losses", "regularizers", "augment", "constraints", "controls", "latents", "data")
OURS = (*(f"ganexp.{part}." for part in PARTS), "torch.optim.")  # whose classes a checkpoint may name
HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def build(node: Mapping[str, Any], path: str, allowed: Sequence[str] | None = None) -> Any:
    """The object a node describes. `path`: its full key in the config, for messages.

    `allowed`: for a config read from a file, prefixes of the classes it may name. Raises ConfigError for an unknown or
    missing argument, a value of a wrong type, a target that is not there or not allowed, and for whatever the constructor
    itself refuses.
    """
    if allowed is not None:
        refuse_interpolations(node, path)
    check(node, path, allowed)
    try:
        return instantiate(dict(node), _convert_="all")
    except (InstantiationException, TypeError) as error:
        inner = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else ""
        raise located(error.__cause__ or error, f"{path}.{inner}" if inner else path) from error


def build_task(
    node: Mapping[str, Any], config: dict[str, Any], run_dir: pathlib.Path, chosen: Sequence[str] | None = None
) -> Any:
    """The task of a node, which holds the task's own arguments: `Task(config=config, run_dir=run_dir, **arguments)`, after its
    `setup()` if it has one.

    `chosen`: the keys that the command line sets, for a task that works in a run's folder: one argument more. Raises
    ConfigError for an unknown, missing or reserved argument, for whatever constructor and setup raise (HYDRA_FULL_ERROR=1 shows
    the traceback instead), and for an object without run().
    """
    given = {"config": config, "run_dir": run_dir} | ({} if chosen is None else {"chosen": list(chosen)})
    target = node["_target_"]
    for key in sorted(given.keys() & node.keys()):
        raise ConfigError(f"task.{key}: is set by ganexp itself")
    make = build({**node, "_partial_": True}, "task")
    parameters = signature(get_object(target))
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in given.keys() - parameters.keys():
            raise ConfigError(f"task._target_: the constructor of {target} must take {key}; a task takes {', '.join(given)}")
    for name, p in parameters.items():
        required = p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if required and name not in {*node, *given}:
            raise ConfigError(f"task.{name}: {target} needs this argument")
    with errors_of_task():
        task = make(**given)
    if not callable(getattr(task, "run", None)):
        raise ConfigError(f"task._target_: {target} has no method run()")
    with errors_of_task():
        getattr(task, "setup", lambda: None)()
    return task


@contextmanager
def errors_of_task() -> Iterator[None]:
    """Whatever is raised inside becomes a ConfigError; with HYDRA_FULL_ERROR=1 it stays as it is, with its traceback."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        if isinstance(error, ValueError | TypeError | OSError):
            raise located(error, "task") from error
        raise ConfigError(f"task: {type(error).__name__}: {one_line(error)}") from error


def located(error: BaseException, path: str) -> ConfigError:
    """The error of a node at `path` as a ConfigError. Errors that begin with an argument's name, `shape: …`, get its full key."""
    return ConfigError(f"{path}{'.' if re.match(r'[a-z0-9_.]+: ', str(error)) else ': '}{one_line(error)}")


def one_line(error: BaseException) -> str:
    text = re.split(r"Exception raised from|frame #", str(error))[0]  # torch adds the stack below Python's
    return " ".join(text.split()) or type(error).__name__


def refuse_interpolations(value: Any, path: str) -> None:
    """Raises ConfigError for one in a config that a file holds: it could ask for the environment."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_interpolations(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            refuse_interpolations(item, f"{path}[{i}]")
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{path}: the file holds an interpolation, {value}; a resolved config has none")


def check(value: Any, path: str, allowed: Sequence[str] | None) -> None:
    """Check every node in `value` against the signature of what it builds. Raises ConfigError, naming the full key."""
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check(item, f"{path}[{i}]", allowed)
    if not isinstance(value, Mapping):
        return
    if "_target_" in value:
        check_arguments(value, path, allowed)
    for key, item in value.items():
        check(item, f"{path}.{key}", allowed)


def check_arguments(node: Mapping[str, Any], path: str, allowed: Sequence[str] | None) -> None:
    target = str(node["_target_"])
    refused = ConfigError(
        f"{path}._target_: the file asks to run {target}, which is not one of ganexp's own classes; "
        f"if you trust the file, add trust=[{target.split('.')[0]}]"
    )
    if allowed is not None and not target.startswith(tuple(allowed)):
        raise refused
    try:
        made = get_object(target)
    except Exception as error:
        raise ConfigError(f"{path}._target_: {target} cannot be imported: {one_line(error)}") from error
    if allowed is not None and not (inspect.isclass(made) and f"{made.__module__}.".startswith(tuple(allowed))):
        raise refused  # a module reaches others: ganexp.data.module.torch.os.system
    if not callable(made):
        raise ConfigError(f"{path}._target_: {target} is not a class or a function")
    parameters = signature(made)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in set() if anything else node.keys() - HYDRA_KEYS - set(known):
        raise ConfigError(f"{path}.{key}: {target} has no such argument{nearest(key, known)}")
    required = {n for n in known if parameters[n].default is inspect.Parameter.empty}
    for key in sorted(required - node.keys()):
        if not node.get("_partial_"):
            raise ConfigError(f"{path}.{key}: {target} needs this argument")
    hints = type_hints(made)
    for key in node.keys() & hints.keys():
        if not fits(node[key], hints[key]) and not (node[key] is None and parameters[key].default is None):
            if choices := choices_of(hints[key]):
                raise ConfigError(f"{path}.{key}: {node[key]!r} is no choice{nearest(str(node[key]), choices)}")
            hint = quoted(f"{path}.{key}", node[key], hints[key])
            raise ConfigError(f"{path}.{key}: {node[key]!r} is not of type {spelled(hints[key])}{hint}")


def choices_of(hint: Any) -> list[str]:
    """The words of a Literal, perhaps beside null; none for other types."""
    found: list[str] = []
    for each in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]:
        if typing.get_origin(each) is typing.Literal:
            found += ["null" if value is None else str(value) for value in typing.get_args(each)]
        elif each is type(None):
            found.append("null")
        else:
            return []
    return found


def quoted(key: str, value: Any, hint: Any) -> str:
    """How to write text that YAML and Hydra take for a number, or a colour that YAML takes for a comment."""
    if hint is not str or isinstance(value, Mapping | list | tuple):
        return ""
    if value is None:
        return "; in YAML, # begins a comment: write '#rrggbb' in quotes" if key.endswith("background") else ""
    text = "rrggbb" if key.endswith("background") and not re.fullmatch(r"[1-9]\d{5}", str(value)) else str(value)
    return f"; text in quotes: {key}=\"'{text}'\" on the command line, '{text}' in YAML"


def spelled(hint: Any) -> str:
    """A type as one writes it, without the modules."""
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else re.sub(r"\b(\w+\.)+(?=\w)", "", str(hint))


def signature(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(made).parameters
    except ValueError:  # a builtin without one
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def type_hints(made: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError, AttributeError):  # names known to type checkers only
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value can be of this type; nodes and unknown types are left to the constructor."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar) or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if value is None or hint is None or hint is type(None):
        return value is None and (hint is None or hint is type(None))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    container = origin or hint
    if inspect.isclass(container) and issubclass(container, Sequence) and container is not str:
        if not isinstance(value, list | tuple):
            return False
        each = [a for a in arguments if a is not Ellipsis]
        if container is tuple and Ellipsis not in arguments and len(value) != len(each):
            return False
        return not each or all(any(fits(item, a) for a in each) for item in value)
    if inspect.isclass(container) and issubclass(container, Mapping):
        return isinstance(value, Mapping)
    # A module, an optimizer, a path …: a bare number, text or list is not one of them.
    plain = isinstance(value, int | float | str | list)
    return not plain or not inspect.isclass(container) or container in (object, pathlib.Path)
