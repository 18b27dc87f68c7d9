"""Build objects from a checked config with Hydra's instantiate; checks that need imports are here."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import pathlib
import re
import site
import sys
import sysconfig
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from ganexp.cli.messages import ConfigError, nearest, printable
from ganexp.cli.overrides import literal

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it would repeat our error messages
PARTS = ("systems", "networks", "losses", "regularizers", "augment", "constraints", "controls", "latents", "data")
OWN_CLASSES = (*(f"ganexp.{part}." for part in PARTS), "torch.optim.")  # prefixes of the classes that a checkpoint may name
MOST_VALUES, MOST_LAYERS = 10_000, 5_000  # of one list; modules of a model
HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def build(node: Mapping[str, Any], path: str, allowed: Sequence[str] | None = None) -> Any:
    """Build the object of a node. `path`: its full key in the config, for messages.

    `allowed`: for a config read from a file, prefixes of the classes it may name. Raises ConfigError for an unknown or missing
    argument, a value of the wrong type, a target that does not exist or is not allowed, and any error of the constructor.
    """
    check(node, path, allowed)
    try:
        with at_most_layers() if path == "model" else nullcontext():
            return instantiate(escaped(node), _convert_="all")
    except (InstantiationException, TypeError) as error:
        inner = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else ""
        raise to_config_error(error.__cause__ or error, f"{path}.{inner}" if inner else path) from error


@contextmanager
def at_most_layers() -> Iterator[None]:
    """Raises ValueError if networks that are built inside have more than MOST_LAYERS modules, which would take minutes."""
    from torch.nn.modules.module import register_module_module_registration_hook

    layers = 0

    def count(*_: Any) -> None:
        nonlocal layers
        layers += 1
        if layers > MOST_LAYERS:
            raise ValueError(f"the networks have more than {MOST_LAYERS:,} layers")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def build_task(
    node: Mapping[str, Any], config: dict[str, Any], run_dir: pathlib.Path, further: Mapping[str, Any] | None = None
) -> Any:
    """Build a task, `Task(config=config, run_dir=run_dir, **arguments)`, and call its `setup()` if it has one. `node`: `_target_`
    and the arguments.

    `further`: more arguments that the command line gives to some tasks, see TASK_KEYS. Raises
    ConfigError for an unknown, missing or reserved argument, for any error of constructor and setup (HYDRA_FULL_ERROR=1 shows the
    traceback instead), and for an object without run().
    """
    given = {"config": config, "run_dir": run_dir, **(further or {})}
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
            raise ConfigError(f"task.{name}: {target} requires this argument")
    with errors_of_task():
        task = make(**given)
    if not callable(getattr(task, "run", None)):
        raise ConfigError(f"task._target_: {target} has no method run()")
    with errors_of_task():
        getattr(task, "setup", lambda: None)()
    return task


@contextmanager
def errors_of_task() -> Iterator[None]:
    """Turn any exception into a ConfigError; with HYDRA_FULL_ERROR=1 leave it unchanged, with its traceback."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        if isinstance(error, OSError) and error.filename:
            raise ConfigError(one_line(error)) from error
        if isinstance(error, ValueError | TypeError | OSError):
            raise to_config_error(error, "task") from error
        raise ConfigError(f"task: {type(error).__name__}: {one_line(error)}") from error


def to_config_error(error: BaseException, path: str) -> ConfigError:
    """Convert an error of the node at `path` to a ConfigError. If it starts with an argument's name, `shape: …`, adds its full
    key."""
    return ConfigError(f"{path}{'.' if re.match(r'[a-z0-9_.]+: ', str(error)) else ': '}{one_line(error)}")


def one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:  # instead of `[Errno 13] …: 'FILE'`
        text = f"{os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename}: {error.strerror}"
    text = re.split(r"Exception raised from|frame #", text)[0]  # torch appends the C++ stack
    return " ".join(text.split()) or type(error).__name__


def escaped(value: Any) -> Any:
    """Returns a resolved value for `instantiate`, which resolves it twice more. A `${` in it is part of a folder's name, or of a
    file from a stranger, who may want an environment variable."""
    if isinstance(value, Mapping):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escaped(item) for item in value]
    return literal(literal(value)) if isinstance(value, str) else value


def check(value: Any, path: str, allowed: Sequence[str] | None) -> None:
    """Check every node in `value` against the signature of its target. Raises ConfigError with the full key."""
    if isinstance(value, list | tuple):
        if len(value) > MOST_VALUES:
            raise ConfigError(f"{path}: has {len(value):,} values, more than {MOST_VALUES:,}")
        for i, item in enumerate(value):
            check(item, f"{path}[{i}]", allowed)
    if not isinstance(value, Mapping):
        return
    if "_target_" in value:
        check_arguments(value, path, allowed)
    for key, item in value.items():
        check(item, f"{path}.{key}", allowed)


def check_arguments(node: Mapping[str, Any], path: str, allowed: Sequence[str] | None) -> None:
    target, shown = str(node["_target_"]), printable(str(node["_target_"]), 120)
    not_allowed = ConfigError(
        f"{path}._target_: the file asks to run {shown}, which is not one of ganexp's own classes{advice(target)}"
    )
    if allowed is not None and not target.startswith(tuple(allowed)):
        raise not_allowed
    try:
        made = get_object(target)
    except Exception as error:
        raise ConfigError(f"{path}._target_: {shown} cannot be imported: {one_line(error)}") from error
    if allowed is not None and not (inspect.isclass(made) and f"{made.__module__}.".startswith(tuple(allowed))):
        raise not_allowed  # a path can lead out of a module: ganexp.data.module.torch.os.system
    if allowed is not None and made.__module__.startswith("ganexp.data.") and not hasattr(made, "prepare_data"):
        raise not_allowed  # other classes of these modules read files when they are built
    if not callable(made):
        raise ConfigError(f"{path}._target_: {shown} is not a class or a function")
    parameters = signature(made)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in [] if takes_any else sorted(node.keys() - HYDRA_KEYS - set(known)):
        raise ConfigError(f"{path}.{key}: {target} has no such argument{nearest(key, known)}")
    required = {n for n in known if parameters[n].default is inspect.Parameter.empty}
    for key in sorted(required - node.keys()):
        if not node.get("_partial_"):
            raise ConfigError(f"{path}.{key}: {target} requires this argument")
    hints = type_hints(made)
    for key in node.keys() & hints.keys():
        if not matches(node[key], hints[key]) and not (node[key] is None and parameters[key].default is None):
            if choices := choices_of(hints[key]):
                raise ConfigError(f"{path}.{key}: {node[key]!r} is not a valid choice{nearest(str(node[key]), choices)}")
            hint = quoting_hint(f"{path}.{key}", node[key], hints[key])
            raise ConfigError(f"{path}.{key}: {node[key]!r} is not of type {type_name(hints[key])}{hint}")


def advice(target: str) -> str:
    """Returns how to trust the module of a class, if it is the user's own: one that lies neither in Python nor in a library."""
    module = target.split(".")[0]
    if not module.isidentifier() or module in sys.stdlib_module_names or module == "ganexp":
        return "; do not use the file unless you know why"
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    places = [pathlib.Path(place).resolve() for place in {*sysconfig.get_paths().values(), *site.getsitepackages()}]
    origin = pathlib.Path(found.origin).resolve() if found and found.origin and found.has_location else None
    if origin is None or any(origin.is_relative_to(place) for place in places):
        return "; do not use the file unless you know why"
    return f"; if you trust the file, add trust=[{module}]"


def choices_of(hint: Any) -> list[str]:
    """Returns the choices of a Literal or an optional Literal; empty for other types."""
    choices: list[str] = []
    for each in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]:
        if typing.get_origin(each) is typing.Literal:
            choices += ["null" if value is None else str(value) for value in typing.get_args(each)]
        elif each is type(None):
            choices.append("null")
        else:
            return []
    return choices


def quoting_hint(key: str, value: Any, hint: Any) -> str:
    """Returns how to quote text that YAML and Hydra parse as a number, or a colour that YAML parses as a comment."""
    if hint is not str or isinstance(value, Mapping | list | tuple):
        return ""
    if value is None:
        return "; # starts a comment in YAML: quote the colour, '#rrggbb'" if key.endswith("background") else ""
    text = "rrggbb" if key.endswith("background") and not re.fullmatch(r"[1-9]\d{5}", str(value)) else str(value)
    return f"; quote text: {key}=\"'{text}'\" on the command line, '{text}' in YAML"


def type_name(hint: Any) -> str:
    """Returns the name of a type without modules."""
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else re.sub(r"\b(\w+\.)+(?=\w)", "", str(hint))


def signature(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(made).parameters
    except ValueError:  # builtins may have no signature
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def type_hints(made: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except (NameError, TypeError, AttributeError):  # names that are imported for type checkers only
        return {}


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain config value can have this type; True for nodes and unknown types, which the constructor checks."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar) or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is typing.Annotated:
        return matches(value, arguments[0])
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
        return not each or all(any(matches(item, a) for a in each) for item in value)
    if inspect.isclass(container) and issubclass(container, Mapping):
        return isinstance(value, Mapping)
    # Other classes, such as modules and optimizers, are never a bare number, text or list.
    plain = isinstance(value, int | float | str | list)
    return not plain or not inspect.isclass(container) or container in (object, pathlib.Path)
