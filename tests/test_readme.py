"""What the README says is so."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from conftest import NARROW, TINY, Answer

from ganexp import checks, config, mistakes

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
        path = folder / re.findall(r"^# (\S+\.(?:py|yaml))$", block, re.M)[0]
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
        groups = [g for g in mistakes.groups() if g != "experiment"]
        there = {group: set(mistakes.options(group)) - {"gan"} for group in groups}
    assert {group: table[group] for group in there} == there


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parent.parent / path).is_file(), path
