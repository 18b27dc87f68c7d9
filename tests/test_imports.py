"""Who may import whom (see the README's table of the code): read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ganexp"
LEAVES = {"networks", "losses", "controls", "scalars", "latents", "data", "ema", "files"}
MAY = {leaf: {leaf} for leaf in LEAVES} | {
    "data": {"data", "files"},
    "augment": {"augment", "networks"},
    "constraints": {"networks"},
    "round": {"networks"},
    "regularizers": {"round", "augment", "networks"},
    "systems": {
        "systems",
        "networks",
        "losses",
        "round",
        "regularizers",
        "augment",
        "constraints",
        "controls",
        "scalars",
        "latents",
        "ema",
    },
    "metrics": {"metrics", "files", "networks"},
    "evaluation": {"metrics", "data", "systems", "files"},
    "pictures": {"files"},
    "callbacks": {"callbacks", "systems", "metrics", "data", "evaluation", "pictures", "files", "mistakes", ""},
    "mistakes": set(),
    "config": {"mistakes"},
    "checks": {"config", "mistakes"},
    "build": {"mistakes"},
    "runs": {"files", "mistakes"},
    "model": {"latents", "build", "runs", "systems", "tasks", "mistakes"},
    "jobs": {"config", "checks", "build", "tasks", "runs", "files", "mistakes", ""},
    "__main__": {"config", "checks", "jobs", "mistakes", ""},
    "tasks": {
        "tasks",
        "systems",
        "callbacks",
        "data",
        "metrics",
        "evaluation",
        "pictures",
        "files",
        "build",
        "model",
        "runs",
        "config",
        "checks",
        "mistakes",
        "",
    },
    "__init__": {"model", "mistakes"},
}


def imported(file: Path) -> set[str]:
    """The parts of ganexp a file imports: `losses`, `data`, …; the bare package is ''."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ganexp":
            parts = (node.module or "").split(".")[1:2]
            found |= set(parts) if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {[*a.name.split("."), ""][1] for a in node.names if a.name.split(".")[0] == "ganexp"}
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_layers(file: Path) -> None:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    assert imported(file) <= MAY[part] | {part}


def test_only_the_config_and_its_checks_and_jobs_know_omegaconf() -> None:
    """Everything else gets plain values."""
    knows = {f.name for f in ROOT.rglob("*.py") if "omegaconf" in f.read_text(encoding="utf-8")}
    assert knows == {"config.py", "checks.py", "jobs.py"}
