"""Folders, files and names from somebody else; what is lost, damaged or without end."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import NARROW, TINY, Answer, write_images
from PIL import Image

from ganexp import cache, pictures
from ganexp.cli.build import advice, build
from ganexp.cli.jobs import keep_to_itself
from ganexp.cli.messages import ConfigError, printable
from ganexp.cli.overrides import quoted, with_paths
from ganexp.data import array, sources
from ganexp.data.array import HEADER, Pictures, Reader, check_blocks, checksums
from ganexp.data.decoding import pillow_without_limit
from ganexp.data.sources import FolderSource, Limits
from ganexp.export.folder import check_empty
from ganexp.files import replace, staged
from ganexp.records import read_record
from ganexp.runtime import restoring
from ganexp.runtime.places import check_free, check_places, is_inside
from ganexp.runtime.screen import screens
from ganexp.runtime.slurm import NUMBERS, TORCHRUN
from ganexp.study import plan
from ganexp.tasks.resume import ALLOWED, check_nothing_lost, check_paths

OURS = {
    "callbacks": {"samples": {"_target_": "ganexp.callbacks.samples.Samples", "folder": "{run_dir}/s", "gif": "{run_dir}/a.gif"}},
    "logger": {"csv": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "{run_dir}", "name": "", "version": ""}},
    "hardware": {"_target_": "pytorch_lightning.Trainer"},
}
WANDB = {"_target_": "ganexp.loggers.WandB", "save_dir": "{run_dir}", "offline": True, "project": "x", "name": "y"}


@pytest.mark.parametrize(
    "group, name, change, message",
    [
        ("callbacks", "samples", {"gif": "/home/me/thesis.gif"}, r"callbacks.samples.gif: /home/me/thesis.gif is not inside"),
        ("callbacks", "samples", {"folder": "{run_dir}/../x"}, "callbacks.samples.folder: "),
        ("callbacks", "samples", {"folder": "x"}, "callbacks.samples.folder: "),
        ("logger", "csv", {"name": "../../x"}, "logger.csv.name: "),
        ("logger", "csv", {"version": "/x"}, "logger.csv.version: "),
        ("logger", "csv", {"_target_": "pytorch_lightning.loggers.MLFlowLogger"}, "logger.csv: may write outside"),
        ("logger", "csv", {"_target_": "ganexp.loggers.MLflow"}, "logger.csv: may write outside"),
        ("logger", "csv", {"_target_": "ganexp.loggers.WandB", "offline": False}, "logger.csv: may write outside"),  # type: ignore
        ("callbacks", "more", {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint"}, "callbacks.more: may write outside"),
        ("callbacks", "samples", {"num": {"_target_": "pytorch_lightning.Trainer"}}, "callbacks.samples.num: may write outside"),
        ("callbacks", "samples", {"x": [{"_target_": "ganexp.loggers.Trackio"}]}, "callbacks.samples.x: may write outside"),
        ("callbacks", "samples", {"_args_": ["/x"]}, "callbacks.samples._args_: may write outside"),
        ("callbacks", "samples", {"gif": "{run_dir}/$ESC/a.gif"}, "callbacks.samples.gif: "),
        ("logger", "csv", {"save_dir": "{run_dir}/$ESC"}, "logger.csv.save_dir: "),
        ("logger", "csv", {"save_dir": None}, "logger.csv.save_dir: is missing"),
        ("logger", "w", {**WANDB, "mode": "online"}, "logger.w.mode: may write outside"),
        ("logger", "w", {**WANDB, "settings": {"_target_": "x"}}, "logger.w.settings: may write outside"),
        ("logger", "w", {**WANDB, "save_dir": None}, "logger.w.save_dir: is missing"),
    ],
)
def test_resumed_run_writes_only_into_its_folder(
    group: str, name: str, change: dict[str, str], message: str, tmp_path: Path
) -> None:
    check_places(OURS, tmp_path, [], [])
    config = {**OURS, group: {**OURS[group], name: {**OURS[group].get(name, {}), **change}}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=message):
        check_places(config, tmp_path, [], [])
    check_places(config, tmp_path, [], [config[group][name]["_target_"]])
    check_places(config, tmp_path, [group], [])  # chosen on the command line


@pytest.mark.parametrize(
    "group, name, change, message",
    [
        ("callbacks", "samples", {"gif": "{run_dir}/../thesis.gif"}, "exists, and would be overwritten"),
        ("callbacks", "samples", {"gif": "new/../thesis.gif"}, "exists, and would be overwritten"),
        ("callbacks", "samples", {"gif": "link.gif"}, "exists, and would be overwritten"),
        ("callbacks", "samples", {"folder": "other"}, "exists, and would be overwritten"),
        ("callbacks", "samples", {"gif": "{run_dir}/config.yaml"}, "is a place of the run's other files"),
        ("callbacks", "samples", {"gif": "{run_dir}"}, "is a place of the run's other files"),
        ("callbacks", "samples", {"gif": "{run_dir}/s"}, "is a place of the run's other files"),
        ("callbacks", "samples", {"folder": "{run_dir}/log.txt/x"}, "is a place of the run's other files"),
        ("callbacks", "samples", {"gif": "thesis.gif/a.gif"}, "is a file, not a folder"),
        ("callbacks", "samples", {"gif": "~/a.gif"}, "write the whole path"),
        ("callbacks", "samples", {"gif": "{other}/a.gif"}, "write the whole path"),
        ("callbacks", "samples", {"gif": "/proc/a.gif"}, "cannot write"),
        ("callbacks", "samples", {"gif": "x" * 300}, "File name too long"),
        ("logger", "csv", {"name": "../other"}, "exists, and would be overwritten"),
        ("logger", "csv", {"save_dir": "$HOME/x"}, "write the whole path"),
    ],
)
def test_new_run_overwrites_nothing(
    group: str, name: str, change: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for file in ("thesis.gif", "other/metrics.csv"):
        (tmp_path / file).write_text("mine")
    (tmp_path / "link.gif").symlink_to("nowhere")
    groups = {key: OURS[key] for key in ("callbacks", "logger")}
    check_free(groups, tmp_path / "run")
    groups = groups | {group: {name: {**groups[group][name], **change}}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=f"^{group}.{name}.*{message}"):
        check_free(groups, tmp_path / "run")
    assert sorted(os.listdir()) == ["link.gif", "other", "thesis.gif"]


def test_resumed_run_writes_no_profile_and_follows_no_link_out_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hardware\.profiler: writes outside"):
        check_places({**OURS, "hardware": {"profiler": "simple"}}, tmp_path, [], [])
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    (run / "checkpoints").symlink_to(other)
    with pytest.raises(ConfigError, match=r"checkpoints is a link to .*other, outside of the run folder"):
        check_places(OURS, run, [], [])
    check_places(OURS, run, [], [str(other)])
    assert not is_inside("~/x", False) and is_inside("version_1", False)


@pytest.mark.parametrize(
    "record, logged, every, step, message",
    [
        ({"steps": 60, "status": "finished"}, 60, 500, 0, "was at step 60, but .*checkpoints has no checkpoint; put the"),
        ({"steps": 60, "status": "running"}, 60, 500, 0, None),  # killed before the first one
        ({"steps": 60, "status": "running"}, 60, 60, 0, None),  # killed while it was written
        ({"steps": 60, "status": "running"}, 61, 60, 0, "was at step 61"),
        ({}, 61, 60, 0, "was at step 61"),  # metrics.csv alone
        ({"steps": 61}, 0, 60, 0, "was at step 61"),  # run.json alone
        ({"steps": 130, "status": "running"}, 170, 60, 120, None),
        ({"steps": 130, "status": "running"}, 170, 60, 60, "newest checkpoint in .*checkpoints is of step 60; put the"),
        ({"steps": 130, "status": "finished"}, 130, 60, 120, "newest checkpoint in .* is of step 120"),
        ({"steps": 130, "rollbacks": [{"to": 60}]}, 170, 60, 60, None),
        ({"steps": 9, "status": "running"}, 9, 0, 0, "is at step 9 and writes no checkpoints"),
        ({"steps": "x", "rollbacks": "y", "status": 3}, 0, 60, 0, None),
    ],
)
def test_resume_refuses_a_run_whose_checkpoints_are_lost(
    record: dict[str, Any], logged: int, every: int, step: int, message: str | None, tmp_path: Path
) -> None:
    (tmp_path / "metrics.csv").write_text("step,x\n" + "".join(f"{i},1\n" for i in range(1, logged + 1)) + "9999,1")
    refused = pytest.raises(ConfigError, match=message) if message else nullcontext()
    with refused:
        check_nothing_lost(tmp_path, record, tmp_path / "checkpoints", every, step, restarts=False)


def test_resume_starts_no_run_without_checkpoints_again(cli: Callable[..., Answer], tmp_path: Path) -> None:
    """Its logs would be lost; the command that started it may, unless it has ended."""
    command = [
        "model=mlp", "data=sine", "callbacks=[]", "metrics=[]", "logger=[csv]", "trainer.log_every=1", "trainer.max_steps=3",
        "hardware=cpu", f"hydra.run.dir={tmp_path}/run", "resume=auto",
    ]  # fmt: skip
    assert cli(*command).code == 0
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    answer = cli("task=resume", f"run={tmp_path}/run", "trainer.max_steps=6")
    assert answer.code == 2 and "is at step 3 and writes no checkpoints" in answer.err
    answer = cli(*command)
    assert answer.code == 0 and "is at its last step, 3: nothing to do" in answer.out
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    (tmp_path / "run" / "run.json").write_text(json.dumps({"status": "running", "steps": 3}))
    answer = cli(*command)
    assert answer.code == 0 and "no checkpoint yet: starts at the first step" in answer.out


@pytest.mark.parametrize("kind", ["fifo", "socket", "link"])
def test_resume_reads_no_pipe_and_writes_through_no_link_in_a_folder_below(kind: str, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "thesis.txt"
    (run / "samples").mkdir(parents=True)
    other.write_text("thesis")
    path = run / "samples" / ".step-00000004.png.part"
    if kind == "link":
        path.symlink_to(other)
        check_paths(run)
        with pytest.raises(ConfigError, match=r"png.part is a link to .*thesis.txt, outside of the run folder"):
            check_places(OURS, run, [], [])
        replace(run / "samples" / "step-00000004.png", lambda file: file.write(b"picture"))
        assert other.read_text() == "thesis" and not path.exists()
        return
    os.mkfifo(path) if kind == "fifo" else os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(ConfigError, match=r"png.part is neither a file nor a folder"):
        check_paths(run)


def test_log_with_several_names_is_copied_before_it_is_appended_to(tmp_path: Path) -> None:
    """A backup may be of hard links."""
    (tmp_path / "log.txt").write_text("first")
    os.link(tmp_path / "log.txt", tmp_path / "backup")
    keep_to_itself(tmp_path / "log.txt")
    with (tmp_path / "log.txt").open("a") as file:
        file.write(", second")
    assert (tmp_path / "backup").read_text() == "first" and (tmp_path / "log.txt").read_text() == "first, second"


@pytest.mark.parametrize("target", ["pytorch_lightning.cli.LightningCLI", "ganexp.data.sources.FolderSource", "logging.Handler"])
def test_config_of_a_run_names_only_classes_without_side_effects(target: str) -> None:
    with pytest.raises(ConfigError, match="the file asks to run"):
        build({"_target_": target}, "callbacks.x", ALLOWED)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": [1]}, {"steps": "many"}, {"remarks": [{}]}, {"rollbacks": "x"}, {"protocols": {"a": 3}}, {"job": 1e400},
        {"overrides": [3]}, {"metrics": {"a": {"last": "x"}}}, {"best": {"metric": 3}}, {"steps": True},
    ],
)  # fmt: skip
def test_values_of_another_type_in_run_json_are_left_out(
    wrong: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = {"status": "running", "metrics": {"a": {"last": None, "best": 2}}, "best": None, "steps": 3}
    (tmp_path / "run.json").write_text(json.dumps(right | wrong))
    (key,) = wrong
    assert read_record(tmp_path) == {name: value for name, value in right.items() if name != key}
    read_record(tmp_path)
    assert caplog.text.count("run.json is damaged") == 1 and key in caplog.text


def test_study_of_other_content_is_named(tmp_path: Path) -> None:
    whole = {
        "overrides": [], "axes": {"loss": {"bce": ["loss=bce"]}}, "settings": [{"loss": "bce"}], "seeds": [0],
        "search": {"name": "grid", "ranges": {}}, "config_name": "config", "config_dir": None,
    }  # fmt: skip
    for change in (
        {},
        {"seeds": 5},
        {"settings": [1]},
        {"seeds": [*range(100_001)]},
        {"axes": []},
        {"more": 1},
        {"search": None},
    ):
        (tmp_path / "study.json").write_text(json.dumps(whole | change))
        with pytest.raises(ConfigError, match=r"study.json is damaged") if change else nullcontext():
            plan.read(tmp_path)


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_output_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", None)  # closed when Python started
    with screens():
        print("lost")
        print("lost", file=sys.stderr, flush=True)
        assert sys.stdout.lost  # type: ignore[attr-defined]
    assert isinstance(sys.stdout, Broken) and sys.stderr is None


def test_trust_is_advised_only_for_modules_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_parts.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert advice("my_own_parts.Net") == "; if you trust the file, add trust=[my_own_parts]"
    for target in (
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "numpy.load",
        "not_there.X",
        "ganexp.files.replace",
        "a-b.c",
        "",
    ):
        assert "trust" not in advice(target), target


def test_names_from_a_file_do_not_control_the_terminal() -> None:
    with pytest.raises(ConfigError) as refused:
        build({"_target_": "evil\x1b[2J\u202e" + "x" * 1000}, "model", ["ganexp."])
    text = str(refused.value)
    assert r"evil\x1b[2J\u202e" in text and "\x1b" not in text and len(text) < 300
    assert printable("a\rb\x07") == r"a\rb\x07" and printable("größe, 猫") == "größe, 猫"


@pytest.mark.parametrize("name", ["Bücher und mehr", "a (1)", "a=b", "a&b", "a#b", "it's", "a,b", "[x]"])
def test_existing_path_needs_no_quoting(name: str, tmp_path: Path, cli: Callable[..., Answer]) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert with_paths([f"data.root={folder}", "seed=1"]) == [f"data.root={quoted(folder)}", "seed=1"]
    answer = cli("task=inspect", "data=folder", f"data.root={folder}")
    assert answer.code == 2 and f"{folder} contains no image" in answer.err
    answer = cli("task=inspect", "data=folder", f"data.root={folder}_")
    assert answer.code == 2 and f"there is no folder or zip archive {folder}_" in answer.err


@pytest.mark.parametrize(
    "name", ["${x}", *(pytest.param(name, marks=pytest.mark.slow) for name in (r"a\${x}", "${oc.env:HOME}"))]
)
def test_existing_path_may_look_like_an_interpolation(name: str, tmp_path: Path, cli: Callable[..., Answer]) -> None:
    write_images(tmp_path / name)
    options = ["model=dcgan", *NARROW["dcgan"], *TINY, "data=folder", f"data.root={tmp_path / name}", "data.shape=[3,16,16]"]
    answer = cli(*options, "metrics=[]", "hydra.run.dir=run")
    assert answer.code == 0, answer.err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["root"] == str(tmp_path / name)
    shutil.move(tmp_path / "run", tmp_path / name / "run")
    answer = cli("task=sample", f"run={tmp_path / name / 'run'}", "task.num=4", "hydra.run.dir=samples")
    assert answer.code == 0 and (tmp_path / "samples" / "grid.png").is_file(), answer.err


@pytest.mark.parametrize("folder", ["2024", "1e3", "backup~"])
def test_folder_that_is_named_like_a_number_or_with_a_tilde_is_text(
    folder: str, tmp_path: Path, cli: Callable[..., Answer]
) -> None:
    (tmp_path / folder).mkdir()
    answer = cli("task=inspect", "data=folder", f"data.root={folder}")
    assert answer.code == 2 and f"data.root: {folder} contains no image" in answer.err
    assert with_paths(["run=null", "run=latest", "-m", "run=a,b"]) == ["run=null", "run=latest", "-m", "run=a,b"]


@pytest.mark.parametrize("word", ["name=größe (1)", "task.target=it's new", "hydra.run.dir=a&b#c"])
def test_new_name_or_folder_needs_no_quoting(word: str, cli: Callable[..., Answer]) -> None:
    key, _, value = word.partition("=")
    assert with_paths([word]) == [f"{key}={quoted(value)}"]
    answer = cli("task=prepare", "task.source=nowhere", "task.target=x", word)
    assert answer.code == 2 and "source: there is no folder or zip archive nowhere" in answer.err


@pytest.mark.parametrize(
    "values, message",
    [("range(1,100000)", "has more than 10,000 values"), ("range(1,5,0)", "is not a list of values"), ("range(5,1)", "no value"),
     ("range(0,nan)", "seed=range(0,nan) is not a list of values")],
)  # fmt: skip
def test_a_sweep_without_end_or_start_is_refused(values: str, message: str, cli: Callable[..., Answer]) -> None:
    answer = cli("-m", f"seed={values}")
    assert answer.code == 2 and answer.err.startswith("ganexp: seed: ") and message in answer.err


def test_a_sweep_of_too_many_combinations_and_an_endless_word_are_refused(cli: Callable[..., Answer]) -> None:
    answer = cli("-m", "seed=range(1,1000)", "trainer.max_steps=range(1,1000)")
    assert answer.code == 2 and "-m: these values have 998,001 combinations; a sweep may have 10,000 jobs" in answer.err
    answer = cli(f"data.shape=[{'1,' * 10_000}1]")
    assert answer.code == 2 and "data.shape: has 20,014 characters, more than 10,000" in answer.err


@pytest.mark.parametrize(
    "value", ["optimizer.generator.lr=nan", "callbacks.watchdog.saturation=nan", "optimizer.generator.betas=[.nan,0.9]"]
)
def test_nan_is_no_number(value: str, cli: Callable[..., Answer]) -> None:
    answer = cli(value.replace(".nan", "nan"))
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {value.partition('=')[0]}: must be a number, got ")


@pytest.mark.parametrize("model", [{"hidden": [1] * 10_001}, {"hidden": [1] * 5_001}])
def test_model_of_too_many_layers_is_refused(model: dict[str, Any]) -> None:
    node = {"_target_": "ganexp.networks.mlp.Generator", "shape": [2], "latent_dim": 1, **model}
    with pytest.raises(
        ConfigError, match=r"^model.hidden: has 10,001 values, more than|the networks have more than 5,000 layers"
    ):
        build(node, "model")


def test_pipe_or_device_as_a_config_file_is_not_read(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "zero.yaml").symlink_to("/dev/zero")
    answer = cli("--config-dir", str(tmp_path), "loss=zero")
    assert answer.code == 2 and "zero.yaml: is not a regular file" in answer.err


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a: &a [*a]\n", "has an alias inside of what it stands for"),
        (b"# @package _global_\nname: gr\xfc\n", "is not UTF-8: invalid start byte at byte 28"),
        (b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (i + 1, i + 1, b",".join([b"*%c" % i] * 10))
            for i in range(97, 104)), "has more than 100,000 values when its aliases are written out"),
    ],
)  # fmt: skip
def test_a_config_file_of_another_encoding_or_with_an_alias_bomb_is_named(
    content: bytes, message: str, cli: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_bytes(content)
    answer = cli("--config-dir", str(tmp_path), "experiment=x")
    assert answer.code == 2 and f"x.yaml: {message}" in answer.err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    answer = cli("task=resume", f"run={tmp_path / 'run'}")
    assert answer.code == 2 and f"config.yaml is damaged: {message}" in answer.err


def test_no_job_at_a_time_is_refused(cli: Callable[..., Answer]) -> None:
    answer = cli("-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    assert answer.code == 2 and answer.err.startswith("ganexp: hydra.launcher.n_jobs: must not be 0")


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot be written .Not a directory.; set XDG_CACHE_HOME"):
        cache.cache_folder()


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(content: bytes, file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cached("kind/name.bin", Path.read_bytes, lambda: b"made", full_disk) == b"made"
    assert "kind/name.bin is not cached: No space left on device" in caplog.text
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.part"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache.cached("kind/name.bin", Path.read_bytes, lambda: b"made", full_disk) == b"made"
    assert "cannot be written (Not a directory); set XDG_CACHE_HOME" in caplog.text


# -- pictures and their cache ----------------------------------------------------------------------------------------


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(b"x" * 100)
    limits = Limits(max_bytes=99)
    source = FolderSource(tmp_path, limits)
    with pytest.raises(OSError, match="not a regular file"):
        source.read("pipe.png")
    with pytest.raises(OSError, match="100 bytes, more than max_bytes=99"):
        source.read("large.png")
    shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path, ".")
    archive = sources.ZipSource(tmp_path / "z.zip", limits)
    with pytest.raises(OSError, match="100 bytes"):
        archive.read("large.png")


@pytest.mark.parametrize("key, value, why", [
    ("max_bytes", 200, "bytes, more than max_bytes=200"), ("max_pixels", 99, "has 20×20 px, more than max_pixels=99"),
])  # fmt: skip
def test_limits_of_pictures_are_settings_and_name_the_file(key: str, value: int, why: str, tmp_path: Path, cli: Any) -> None:
    random, folder = np.random.default_rng(0), tmp_path / "p"
    folder.mkdir()
    for name, side in (("a.png", 4), ("b.png", 4), ("large.png", 20)):
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(folder / name)
    words = ["task=inspect", "data=folder", f"data.root={folder}", "data.shape=[3,4,4]"]
    answer = cli(*words, f"data.{key}={value}")
    (report,) = tmp_path.rglob("inspection.json")
    assert answer.code == 0 and why in json.loads(report.read_text())["left_out"]["large.png"]
    answer = cli("model=dcgan", "data=folder", f"data.root={folder}", "data.batch_size=2", f"data.{key}={value}")
    assert answer.code == 2 and f"{folder}/large.png: has " in answer.err and why in answer.err
    answer = cli(*words, f"data.{key}=0", "hydra.run.dir=x")
    assert answer.code == 2 and f"data.{key}: must be at least 1, got 0" in answer.err


def decode(source: sources.Source, name: str) -> np.ndarray:
    return np.full((2, 2, 1), int(name.removesuffix(".png")), np.uint8)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Pictures]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.new("L", (2, 2), i).save(tmp_path / "pictures" / f"{i}.png")
    source = FolderSource(tmp_path / "pictures")
    return lambda: array.read_once(source, source.names, (2, 2, 1), {}, decode)


@pytest.mark.parametrize("damage", ["pixels", "about", "pointer"])
def test_damaged_cache_is_built_again(
    damage: str, cached: Callable[[], Pictures], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = np.array(cached().pixels)
    (pixels,) = (tmp_path / "cache").rglob("pixels.npy")
    if damage == "pixels":
        content = bytearray(pixels.read_bytes())
        content[HEADER + 5] ^= 1
        pixels.write_bytes(content)
    elif damage == "about":
        (pixels.parent / "about.json").write_text("[]")
    else:
        for pointer in (tmp_path / "cache").rglob("stamps/*"):
            if pointer.is_file() and pointer.suffix != ".lock":
                pointer.write_bytes(b"\xff\0")
    assert (cached().pixels == right).all()
    assert damage == "pointer" or "is damaged; reading the images again" in caplog.text


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK: is missing in the environment"),
        ({"LOCAL_WORLD_SIZE": "1"}, "RANK: is missing in the environment"),
        (
            {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
            "RANK: must be a number in the environment",
        ),
        ({"SLURM_STEP_NUM_TASKS": "two"}, "SLURM_"),
        ({"SLURM_STEP_NUM_TASKS": "2", **dict.fromkeys(NUMBERS, "2")}, "SLURM_STEP_"),
        (
            {**dict.fromkeys(NUMBERS, "2"), "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NODELIST": "a"},
            "srun: every node must have the same number of tasks",
        ),
    ],
)
def test_odd_environment_gives_one_message(
    environment: dict[str, str], message: str, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (*NUMBERS, *TORCHRUN):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    answer = cli("model=mlp", "data=sine")
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}") and answer.err.count("\n") == 1, answer.err
    assert not list(answer.folder.iterdir())


@pytest.mark.parametrize(
    "setting", [{"+callbacks.x": "{_target_: a}"}, {"loss": "other"}, {"lr": "1"}, {"loss": "bce", "lr": "9"}, {}]
)
def test_setting_that_no_axis_has_is_refused(setting: dict[str, str], tmp_path: Path) -> None:
    """A setting is overrides of a command line: others than those of the axes would set any key."""
    node = {"seeds": 1, "axes": {"loss": ["bce"], "lr": {"low": 0, "high": 1}}, "search": "random", "trials": 1, "search_seed": 0}
    made = plan.make_plan(node, [])
    made.save(tmp_path)
    assert plan.read(tmp_path) == made
    file = tmp_path / plan.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"settings": [setting]}))
    with pytest.raises(ConfigError, match=r"study.json is damaged"):
        plan.read(tmp_path)


def test_drawn_settings_are_within_ranges_with_many_digits(tmp_path: Path) -> None:
    ends = {"low": 0.123456781, "high": 0.123456789}  # six digits lie beyond the high end
    node = {"seeds": 1, "axes": {"lr": ends}, "search": "random", "trials": 5, "search_seed": 0}
    made = plan.make_plan(node, [])
    made.save(tmp_path)
    assert plan.read(tmp_path) == made and made.settings


def test_export_leaves_other_folders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "mine").touch()
    with staged(tmp_path / "model") as part:
        (part / "new").touch()
    assert (tmp_path / ".model.part" / "mine").exists() and [file.name for file in (tmp_path / "model").iterdir()] == ["new"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is the current folder"):
        check_empty(Path())
    for place in ("model/new/x", "/proc/x"):
        with pytest.raises(OSError, match=r"not a folder|No such file|Permission"):
            check_empty(Path(place))


def test_a_million_points_are_enough_for_a_picture() -> None:
    pictures.check_pixels("num", 1_000_000, (2,))
    with pytest.raises(ValueError, match=r"^num: one picture shows at most 1,000,000 points"):
        pictures.check_pixels("num", 1_000_001, (2,))


def test_double_names_in_an_archive_are_noted(tmp_path: Path, cli: Any) -> None:
    write_images(tmp_path / "p", count=6)
    names = ("a.jpg", "a.jpg", "b.jpg", "e.jpg", "./c.jpg", r"..\d.jpg")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for file, member in zip((tmp_path / "p").rglob("*.*"), names, strict=True):
            archive.write(file, member)
            archive.infolist()[-1].filename = member
    answer = cli("task=inspect", "data=folder", f"data.root={tmp_path / 'p.zip'}", "data.shape=[3,8,8]")
    assert "3 files with names that lead out of the archive or occur twice are left out: ./c.jpg" in answer.out + answer.err
    assert "reading 2 images" in answer.out


def test_names_that_lead_out_of_an_archive_are_noted(tmp_path: Path, cli: Any) -> None:
    write_images(tmp_path / "p", count=4)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for file, member in zip((tmp_path / "p").rglob("*.*"), ("a.jpg", "b.jpg", "../c.jpg", "/d.jpg"), strict=True):
            archive.write(file, member)
            archive.infolist()[-1].filename = member
    answer = cli("task=inspect", "data=folder", f"data.root={tmp_path / 'p.zip'}", "data.shape=[3,8,8]")
    assert (
        answer.code == 0 and "2 files with names that lead out of the archive or occur twice are left out: ../c.jpg" in answer.out
    ), answer.out


def test_inspect_checks_every_block_of_the_cache(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(array, "BLOCK", 4)
    random = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    for i in range(100):
        Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).save(tmp_path / "p" / f"{i}.png")
    words = ["task=inspect", "data=folder", f"data.root={tmp_path / 'p'}", "data.shape=[3,4,4]"]
    assert cli(*words).code == 0
    (pixels,) = (tmp_path / "cache").rglob("pixels.npy")
    right = pixels.read_bytes()
    for place in (HEADER, -1):
        content = bytearray(right)
        content[place] ^= 1
        pixels.write_bytes(content)
        answer = cli(*words)
        assert answer.code == 0 and "is damaged; reading the images again" in answer.err and pixels.read_bytes() == right


@pytest.mark.parametrize("change", [{"rows": 7}, {"files": 9, "rows": 9}, {"rows": "x"}, {"blocks": [1]}, {"left_out": 3}])
def test_wrong_progress_of_a_reading_is_discarded(
    change: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = tmp_path / "a.part"
    part.mkdir()
    (part / "pixels.npy").write_bytes(bytes(HEADER + 12))
    true = {"files": 3, "rows": 3, "left_out": {}, "blocks": checksums(part / "pixels.npy")}
    reader = Reader(None, [f"{i}.png" for i in range(8)], (2, 2, 1), decode, 0.0, tmp_path / "a")  # type: ignore[arg-type]
    (part / "so_far.json").write_text(json.dumps(true))
    assert reader.load_progress() == (3, 3)
    (part / "so_far.json").write_text(json.dumps(true | change))
    assert reader.load_progress() == (0, 0) and "is damaged" in caplog.text


def test_file_in_place_of_a_cached_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    source, folder = FolderSource(tmp_path / "images"), tmp_path / "cache" / "x"
    folder.parent.mkdir()
    for place in (folder, folder.with_name("x.part")):
        shutil.rmtree(folder, ignore_errors=True)
        place.write_text("")
        assert array.load_cached(folder, source.names) is None
        Reader(source, source.names, (2, 2, 1), decode, 0.0, folder).run()
        assert len(Pictures(folder, source.names).pixels) == 2


def test_sampled_block_checks_find_damage_in_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "BLOCK", 4)
    file = tmp_path / "pixels.npy"
    file.write_bytes(bytes(HEADER + 40))
    sums = checksums(file)
    check_blocks(file, sums, sample=2)
    file.write_bytes(bytes(HEADER + 39) + b"x")
    with pytest.raises(ValueError, match="block 9 of its pixels"):
        for _ in range(500):
            check_blocks(file, sums, sample=2)


def test_checkpoint_of_too_many_tensors_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.ckpt"
    torch.save({str(i): torch.zeros(1) for i in range(20)}, file)
    entries = len(zipfile.ZipFile(file).namelist())
    monkeypatch.setattr(restoring, "MOST_ENTRIES", entries)
    with pytest.raises(ValueError, match="contains no config"):
        restoring.read(file)
    monkeypatch.setattr(restoring, "MOST_ENTRIES", entries - 1)
    with pytest.raises(ValueError, match=rf"has {entries} entries, more than {entries - 1}"):
        restoring.read(file)


def test_limit_of_pillow_comes_back_when_several_threads_lift_it() -> None:
    before, second = Image.MAX_IMAGE_PIXELS, threading.Event()

    def lift() -> None:
        with pillow_without_limit():
            second.set()

    with pillow_without_limit():
        thread = threading.Thread(target=lift)
        thread.start()
        assert not second.wait(0.2), "two threads lifted it at once"
    thread.join()
    assert second.is_set() and before == Image.MAX_IMAGE_PIXELS
