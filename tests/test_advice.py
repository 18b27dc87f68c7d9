"""Advice in messages, such as `extractor=classifier`, can be typed: every KEY=VALUE in a message composes."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from ganexp.cli import checks, config
from ganexp.cli.messages import ConfigError

ROOT = Path(__file__).parent.parent / "ganexp"
VALUE = r"\[[^\]]*\]|\{[^}]*\}|\$\{[^}]*\}|[^\s;,:)\"'\[\]{}]+"
ADVICE = re.compile(rf"(?<![\w/{{.@])([a-z_]+(?:[./][a-z_0-9@.]+)*)=({VALUE})")
KEYS = {*config.Config.__dataclass_fields__, "experiment", "hydra"}  # the first words of keys
NEEDS = {  # what a key belongs to
    "model.discriminator": ["model=dcgan"],
    "model.generator.mixing": ["model=stylegan2"],
    "extractor.weights": ["extractor=inception"],
    "task.grid": ["task=sample"],
    "task.npz": ["task=sample"],
    "task.real": ["task=evaluate"],
    "task.fake": ["task=evaluate"],
    "task.runs": ["task=compare"],
    "regularizer.r1": ["regularizer=[r1]"],
    "study": ["task=study"],
    "run": ["task=sample"],
}
USERS = r"run: required by|task\.source: is required|hardware=multinode: requires"  # what only a user can give


def messages(file: Path) -> list[str]:
    """All strings in a file that are not docstrings; what an f-string computes is a `?`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    documented = [n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(n)]
    skip = {id(n.body[0].value) for n in documented if isinstance(n.body[0], ast.Expr)}
    skip |= {id(part) for n in nodes if isinstance(n, ast.JoinedStr) for part in n.values}
    plain = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in skip]
    joined = [
        "".join(str(p.value) if isinstance(p, ast.Constant) else "?" for p in n.values)
        for n in nodes
        if isinstance(n, ast.JoinedStr)
    ]
    return plain + joined


@cache
def advice() -> list[str]:
    found = set()
    for file in ROOT.rglob("*.py"):
        for text in messages(file):
            for key, value in ADVICE.findall(text):
                if re.split(r"[./@]", key)[0] in KEYS and not re.search(r"[?…(\\]", value):
                    found.add(f"{key}={value}")
    return sorted(found)


def test_advice_is_found_in_messages() -> None:
    assert len(advice()) > 25 and {"metrics=[fid,swd]", "model.discriminator.norm=false"} <= set(advice())


@pytest.mark.parametrize("text", advice())
def test_every_advice_in_a_message_composes(text: str) -> None:
    """Alone, or with the option whose key it sets; it may lack a run, a folder or torchrun, which only a user has."""
    others = next((options for key, options in NEEDS.items() if re.match(rf"{key}[.=]", text)), [])
    with config.config_tree():
        try:
            checks.compose_checked([*others, text])
        except ConfigError as error:
            assert re.match(USERS, str(error)), error
