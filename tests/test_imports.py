"""The import layers of docs/explanation/design.md, read from the source."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ganexp"
GAME = {"networks", "losses", "round", "regularizers", "augment", "constraints", "controls", "scalars", "latents", "ema"}
LEAVES = {
    "networks",
    "losses",
    "controls",
    "scalars",
    "latents",
    "ema",
    "files",
    "images",
    "markdown",
    "progress",
    "quantities",
    "references",
}
CALLBACKS = {
    "callbacks",
    "loggers",
    "references",
    "systems",
    "metrics",
    "data",
    "evaluation",
    "sampling",
    "pictures",
    "progress",
    "quantities",
    "files",
    "records",
    "cli",
}
LATENT_SPACE = {
    "latents",
    "sampling",
    "systems",
    "images",
    "files",
    "pictures",
    "data",
    "metrics",
    "evaluation",
    "progress",
    "records",
    "runtime",
    "cli",
}
EVERYTHING = {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in ROOT.rglob("*.py")} | {""}
MAY = {leaf: {leaf} for leaf in LEAVES} | {
    "lightning_internals": {"files"},
    "cache": {"files"},
    "records": {"files"},
    "loggers": {"references", "lightning_internals"},
    "data": {"cache", "files", "images", "progress"},
    "augment": {"networks"},
    "constraints": {"networks"},
    "round": {"networks"},
    "regularizers": {"round", "augment", "networks"},
    "systems": GAME | {"lightning_internals"},
    "metrics": {"cache", "files", "images", "networks", "progress"},
    "sampling": {"systems"},
    "evaluation": {"metrics", "data", "systems", "sampling", "cache", "images", "progress"},
    "pictures": {"files", "images"},
    "callbacks": CALLBACKS | {""},
    "runs": {"files", "records", "cli"},
    "runtime": CALLBACKS | {"runs", "lightning_internals"},
    "latent_space": LATENT_SPACE,
    "export": {
        "systems",
        "markdown",
        "quantities",
        "sampling",
        "pictures",
        "images",
        "files",
        "records",
        "runs",
        "cli",
        "runtime",
    },
    "report": CALLBACKS | {"images", "model", "latent_space", "runtime"},
    "model": {"latents", "sampling", "systems", "runtime", "runs", "cli", "export", "latent_space"},
    "explorer": LATENT_SPACE | {"markdown", "latent_space", "model", "runs", "export", "report"},
    "study": CALLBACKS | {"runtime", "runs"},
    "leaderboard": {"quantities", "study", "report", "pictures", "files", "records", "cli", ""},
    "cli": {"files", "records", "runs", "runtime"},
    "tasks": EVERYTHING - {"__main__"},
    "__main__": {"cli"},
    "__init__": {"model", "cli", "export"},
}


def imported(file: Path) -> set[str]:
    """The modules of ganexp that a file imports, wherever it does, `losses`, `data.module`, …; the bare package is ''."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ganexp":
            module = ".".join((node.module or "").split(".")[1:])
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if (ROOT / f"{inner.replace('.', '/')}.py").is_file() else module)
        elif isinstance(node, ast.Import):
            found |= {".".join(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "ganexp"}
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_module_imports_only_layers_below_it(file: Path) -> None:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    assert {module.split(".")[0] for module in imported(file)} <= MAY[part] | {part}


def test_modules_have_no_import_cycle() -> None:
    """Imports inside functions count too. `ganexp/__init__.py`, which imports lazily, is left out."""
    files = [file for file in ROOT.rglob("*.py") if file != ROOT / "__init__.py"]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    graph = {name: {m for m in imported(file) if m in names and m != name} for name, file in names.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


PARSERS = ("config", "overrides", "checks", "folders", "jobs", "sweeps", "hydra_internals")


@pytest.mark.parametrize(
    "library, files",
    [
        ("omegaconf", {f"cli/{name}.py" for name in PARSERS}),
        ("hydra", {f"cli/{name}.py" for name in (*PARSERS, "messages", "build")}),
    ],
)
def test_only_the_command_line_imports(library: str, files: set[str]) -> None:
    """Everything else gets plain values. callbacks/record.py records Hydra's version."""
    knows = set()
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == library for name in names):
                knows.add(file.relative_to(ROOT).as_posix())
    assert knows - {"callbacks/record.py"} == files
