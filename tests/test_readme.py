"""What the README says is so."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import NARROW, TINY, Answer
from PIL import Image

from ganexp import pictures
from ganexp.cli import checks, config, messages

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[list[str]]:
    """Every `python -m ganexp …` line, without `python -m ganexp`."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("python -m ganexp")]
    return [shlex.split(line, comments=True)[3:] for line in lines]


def write_files(folder: Path) -> None:
    """The files of the worked example, as they would be pasted: each block names its own in a comment."""
    for block in [*blocks("python"), *blocks("yaml")]:
        names = re.findall(r"^# (\S+\.(?:py|yaml))$", block, re.M)
        if not names:  # lines for the prompt
            continue
        path = folder / names[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)


def test_the_worked_example(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """From outside the package: the class, the option, the run and the sampling as they are written, only shorter."""
    write_files(tmp_path)
    train, sample = [c for c in commands() if "moons" in " ".join(c)]
    answer = cli(*train, *TINY, *NARROW["mlp"])
    assert answer.code == 0, answer.err
    assert answer.record["data"] == {"samples": 2000, "shape": [2], "notes": []}
    shutil.move(answer.run, answer.run.parent / "TIME")
    answer = cli(*sample)
    assert answer.code == 0, answer.err
    assert list((tmp_path / "outputs" / "sample").glob("*/scatter.png"))


def test_the_task_of_ones_own(cli: Callable[..., Answer], tmp_path: Path) -> None:
    write_files(tmp_path)
    assert cli(*TINY, *NARROW["cdcgan"]).code == 0
    (walk,) = [c for c in commands() if "task=walk" in c]
    answer = cli(*walk)
    assert answer.code == 0, answer.err
    (picture,) = (tmp_path / "outputs" / "walk").glob("*/walk.png")
    assert Image.open(picture).width > 10 * Image.open(picture).height
    for word, message in {
        "task.stpes=3": "task.stpes: there is no such key; did you mean task.steps? (there are: task.label, task.steps)",
        "task.steps=x": "task.steps: 'x' is not of type int",
        "task.steps=1": "task.steps: at least 2, not 1",
        "run=nowhere": "run: there is no file or folder nowhere",
        "model=mlp": "model: not used by task=walk (it uses: task.steps, task.label, name, run, trust, seed)",
    }.items():
        answer = cli("--config-dir", "mine", "task=walk", "run=latest", word)
        assert answer.code == 2 and answer.err == f"ganexp: {message}\n"
    assert len(list((tmp_path / "outputs" / "walk").iterdir())) == 1


def test_the_lines_of_python(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Those of the prompt, after a run, give what their comments say and what the command above them gives."""
    assert cli(*TINY, *NARROW["cdcgan"]).code == 0
    (sample,) = [c for c in commands() if "task=sample" in c and "task.num=16" in c]
    assert cli(*sample, "task.grid=false").code == 0
    (lines,) = [block for block in blocks("python") if not block.startswith("#")]
    found: dict[str, Any] = {}
    exec(lines, found)
    assert found["images"].shape == (16, 1, 8, 8) and found["z"].grad.abs().sum() > 0
    for i, image in enumerate(found["images"]):
        (file,) = (tmp_path / "outputs" / "sample").glob(f"*/{i:05d}.png")
        assert pictures.single(image).tobytes() == Image.open(file).tobytes()


def test_the_recipe_of_ones_own(cli: Callable[..., Answer], tmp_path: Path) -> None:
    write_files(tmp_path)
    answer = cli("--config-dir", "mine", "experiment=moons_wgan", *TINY, *NARROW["mlp"])
    assert answer.code == 0, answer.err
    assert "Wasserstein + WGANGP" in answer.out and answer.record["name"] == "moons_wgan"


def test_every_command_composes(tmp_path: Path) -> None:
    write_files(tmp_path)
    found = commands()
    assert len(found) >= 11
    for words in found:
        words = [word for word in words if word not in ("-m", "--config-dir", "mine")]
        with config.config_tree(str(tmp_path / "mine")):
            for job in config.sweep_jobs(config.with_home(words)):
                checks.compose_checked(job)


def test_the_table_of_groups() -> None:
    """Every option of every group, and none that is not there."""
    rows = re.findall(r"^\| ((?:`[a-z_/]+`(?:, )?)+) \| (.*?) \|", README, re.M)
    table = {group: set(re.findall(r"`([a-z0-9_]+)`", told)) for groups, told in rows for group in re.findall(r"`(.+?)`", groups)}
    with config.config_tree():
        groups = [g for g in messages.groups() if g != "experiment"]
        there = {group: set(messages.options(group)) - {"gan"} for group in groups}
    assert {group: table[group] for group in there} == there


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parent.parent / path).is_file(), path
