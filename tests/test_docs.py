"""README.md and docs/: commands compose, Python blocks run, links resolve, option tables match conf/."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import NARROW, TINY
from PIL import Image

from ganexp import pictures
from ganexp.cli import checks, config
from ganexp.cli.main import main
from ganexp.cli.overrides import sweep_jobs, with_home

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
OWN = DOCS / "how-to" / "add-your-own.md"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", TEXTS[page], re.M | re.S)


def commands_of(page: Path) -> list[list[str]]:
    """Every `python -m ganexp …` line of a page, without `python -m ganexp`."""
    lines = [line for block in blocks(page, "sh", "bash") for line in block.splitlines()]
    lines = [line.removeprefix("pip install -e . && ") for line in lines]
    for line in lines:
        assert not re.search(r"\{.*,.*\}", re.sub(r"'[^']*'|#.*", "", line)), f"{page}: bash expands the braces: {line}"
    return [shlex.split(line, comments=True)[3:] for line in lines if line.startswith("python -m ganexp")]


COMMANDS = {tuple(words): page for page in reversed(PAGES) for words in commands_of(page)}  # each once


def write_files(folder: Path) -> None:
    """The files of the worked examples, as they would be pasted: each block names its own in a comment."""
    for page in PAGES:
        for block in blocks(page, "python", "yaml"):
            if names := re.findall(r"^# (\S+\.(?:py|yaml))$", block, re.M):
                path = folder / names[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block, encoding="utf-8")


def call(*arguments: str) -> None:
    """`python -m ganexp ARGUMENTS` in the current folder; it must succeed."""
    out, argv = StringIO(), sys.argv
    sys.argv = ["ganexp", *arguments]
    try:
        with pytest.raises(SystemExit) as ended, redirect_stdout(out), redirect_stderr(out):
            main()
    finally:
        sys.argv = argv
    assert not ended.value.code, f"{shlex.join(arguments)}\n{out.getvalue()}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny run of the default and the files of the worked examples; the current one."""
    folder = tmp_path_factory.mktemp("docs")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        call(*TINY, *NARROW["cdcgan"])
        yield folder


# -- commands and Python ---------------------------------------------------------------------------------------------


READ_FIRST = [ROOT / "README.md", *(DOCS / "tutorials").glob("*.md")]  # the commands of the other pages are slow


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, marks=() if page in READ_FIRST else pytest.mark.slow) for words, page in COMMANDS.items()],
    ids=lambda words: f"{name_of(COMMANDS[words])}: {shlex.join(words)}",
)
def test_every_command_composes(words: tuple[str, ...], tmp_path: Path) -> None:
    own = None
    if "--config-dir" in words:
        write_files(tmp_path)
        own = str(tmp_path / "mine")
    overrides = [word for word in words if word not in ("-m", "--config-dir", "mine", "--cfg", "job")]
    with config.config_tree(own):
        for job in sweep_jobs(with_home(overrides)):
            checks.compose_checked(job)


def test_docs_contain_commands() -> None:
    assert len(COMMANDS) >= 40 and any("-m" in words for words in COMMANDS)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_every_block_of_python_runs(page: Path, trained: Path) -> None:
    found: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(block, found)
    if "images" in found:  # what the comments say
        assert found["images"].shape == (16, 1, 8, 8) and found["z"].grad.abs().sum() > 0


def test_python_example_gives_the_samples_of_its_command(trained: Path) -> None:
    page = DOCS / "how-to" / "use-a-trained-model.md"
    (sample,) = [words for words in commands_of(page) if "task.num=16" in words]
    call(*sample, "task.grid=false")
    (folder,) = (trained / "outputs").glob("sample/*")
    found: dict[str, Any] = {}
    exec(blocks(page, "python")[0], found)
    for i, image in enumerate(found["images"]):
        assert pictures.single(image).tobytes() == Image.open(folder / f"{i:05d}.png").tobytes()


@pytest.mark.slow
def test_worked_examples_train(trained: Path) -> None:
    """From outside the package, as they are written, only shorter."""
    (default,) = (trained / "outputs" / "cdcgan_digits").iterdir()
    for words in commands_of(OWN):
        if any(word.startswith("task=") for word in words):
            call(*[f"run={default}" if word == "run=latest" else word for word in words])
            continue
        points = any("moons" in word for word in words)
        narrow = [
            word
            for word in NARROW["mlp" if points else "dcgan"]
            if "model/generator=linear" not in words or "generator" not in word
        ]
        call(*words, "trainer.max_steps=2", "hardware=cpu", "callbacks=[checkpoint]", "logger=[]", "metrics=[]", *narrow)
        if "name=moons" in words:
            (made,) = (trained / "outputs" / "moons").iterdir()
            made.rename(made.with_name("TIME"))
    assert list((trained / "outputs" / "sample").glob("*/scatter.png"))
    (picture,) = (trained / "outputs" / "strip").glob("*/strip.png")
    assert Image.open(picture).width > 10 * Image.open(picture).height


# -- the first page --------------------------------------------------------------------------------------------------


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    readme = ROOT / "README.md"
    assert 700 <= len(TEXTS[readme].split()) <= 900
    two = "pip install -e . && python -m ganexp\n" + 'pip install -e ".[test]" && python -m pytest\n'
    assert blocks(readme, "bash")[0] == two  # .ci/run runs them


# -- links and pictures ----------------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def links(page: Path) -> list[str]:
    """Local targets of links and pictures."""
    text = without_code(TEXTS[page])
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.M | re.S)
    headings = [re.sub(r"[`*\\]|\[|\]\(.*?\)", "", heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_local_link_resolves(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file() and file.is_relative_to(ROOT.resolve()), target
        if anchor:
            assert anchor in anchors(ROOT / file.relative_to(ROOT.resolve())), target


def test_every_picture_is_shown_somewhere() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    there = {
        file.resolve()
        for kind in ("png", "jpg", "gif", "svg", "webp")
        for file in DOCS.rglob(f"*.{kind}")
        if "_build" not in file.parts
    }
    assert there <= shown


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (DOCS / "contents.rst").read_text(encoding="utf-8")
    for page in PAGES:
        if page.is_relative_to(DOCS) and page.parent != DOCS / "reference" / "options":
            assert f"   {page.relative_to(DOCS).with_suffix('').as_posix()}\n" in contents


# -- the reference ---------------------------------------------------------------------------------------------------


@cache
def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_option_tables_match_conf() -> None:
    """If not: python docs/options.py"""
    made = script("options").pages()
    assert set(made) == set((DOCS / "reference" / "options").glob("*.md"))
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{name_of(path)}: run python docs/options.py"


@cache
def glossary_names() -> list[str]:
    names: list[str] = []
    for code in re.findall(r"`([^`]+)`", TEXTS[DOCS / "glossary.md"]):
        names.append(f"{names[-1].rpartition('/')[0]}{code}" if code.startswith("/") else code)
    return names


def test_glossary_has_every_group_option_and_key() -> None:
    """Left out: experiments, which have a page of their own, Hydra's own keys, and the names that a study gives to its axes."""
    words = {part.rpartition(".")[2] for name in glossary_names() for part in name.split("=")}

    def keys(node: Any) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            if not key.startswith("_") and key not in ("defaults", "hydra"):
                yield key
                yield from keys(value) if key != "axes" else ()

    options = script("options")
    for group in options.list_groups():
        assert {group} <= {*words, *glossary_names()}
        for name in options.option_names(group) if group != "experiment" else ():
            content = yaml.safe_load((config.CONF_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))
            missing = {word.rpartition(".")[2] for word in (name, *keys(content))} - words
            assert not missing, f"{group}={name}: docs/glossary.md lacks {missing}"


def test_glossary_has_every_log_name(trained: Path) -> None:
    patterns = [re.sub(r"NETWORK|NAME|METRIC|EXTRACTOR", "[a-z0-9_]+", re.escape(name)) for name in glossary_names()]
    (file, *_) = (trained / "outputs" / "cdcgan_digits").glob("*/metrics.csv")
    with file.open(newline="") as opened:
        columns = csv.DictReader(opened).fieldnames or []
    assert [name for name in columns if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


def test_api_reference_has_every_part_that_configs_name() -> None:
    modules = re.findall(r"^\.\. automodule:: (\S+)", (DOCS / "reference" / "api.rst").read_text(encoding="utf-8"), re.M)
    assert len(modules) > 40
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "conf").rglob("*.yaml")]
    parts = {part for text in texts for part in re.findall(r"_target_: (ganexp[\w.]+)\.\w+", text)}
    assert [part for part in sorted(parts) if part not in modules and not part.startswith("ganexp.tasks.")] == []


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
