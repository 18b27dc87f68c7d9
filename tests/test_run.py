"""What a run writes, and what its numbers count."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import NARROW, TINY, Answer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ganexp import pictures, progress, sampling
from ganexp.cli import checks, config, folders
from ganexp.losses import BCE
from ganexp.runtime.restoring import restore

LONGER = [*TINY, "trainer.max_steps=10", "trainer.samples_every=5", "trainer.metrics_every=5", "trainer.checkpoint_every=5"]


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """One run of ten steps for all tests here, G learning at every second."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("run")
    patch.chdir(folder)
    done = subprocess.run(
        [sys.executable, "-m", "ganexp", *LONGER, *NARROW["cdcgan"], "model.d_steps=2", "schedule=linear", "regularizer=[r1]"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    patch.undo()
    return Answer(done.returncode, done.stdout, done.stderr, folder)


def events(answer: Answer) -> EventAccumulator:
    return EventAccumulator(str(answer.run), size_guidance={"images": 0, "scalars": 0}).Reload()


def test_run_finishes_without_warnings(answer: Answer) -> None:
    assert answer.code == 0, answer.err
    assert "Warning" not in answer.err, answer.err


def test_event_file_counts_steps(answer: Answer) -> None:
    """Two optimizers, one axis: Lightning alone would count 15."""
    read = events(answer)
    assert [e.step for e in read.Scalars("loss/discriminator")] == list(range(1, 11))
    assert [e.step for e in read.Images("samples")] == [0, 5, 10]
    for metric in ("fid/classifier", "swd/pixels"):
        assert [e.step for e in read.Scalars(metric)] == [0, 5, 10]
    assert [e.value for e in read.Scalars("training/images_seen")] == [8 * step for step in range(1, 11)]
    rates = [e.value for e in read.Scalars("training/lr/generator")]
    assert rates == pytest.approx([2e-4 * (1 - step / 10) for step in range(10)], abs=1e-9)


def test_event_file_holds_every_documented_scalar(answer: Answer) -> None:
    scalars = set(events(answer).Tags()["scalars"])
    terms = {"loss/discriminator/real", "loss/discriminator/fake", "loss/discriminator/r1", "loss/generator"}
    games = {
        "score/D_x",
        "score/D_G_z_before",
        "score/D_G_z_after",
        "training/gradient_norm/generator",
        "training/gradient_norm/discriminator",
    }
    assert terms | games | {"training/lr/discriminator", "training/images_seen"} <= scalars


def test_hyper_parameters_reach_tensorboard(answer: Answer) -> None:
    contents = events(answer).summary_metadata
    assert any("hparams" in tag for tag in contents), list(contents)
    assert "optimizer.generator.lr: 0.0002" in (answer.run / "hparams.yaml").read_text()


def test_run_writes_last_best_and_step_checkpoints(answer: Answer) -> None:
    folder = answer.run / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {"best.ckpt", "last.ckpt", "step-00000005.ckpt", "step-00000010.ckpt"}
    last = torch.load(folder / "last.ckpt", weights_only=True)
    assert last["global_step"] == 10 and last["images_seen"] == 80
    assert last["config"]["data"]["shape"] == [1, 8, 8]
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["global_step"] == answer.record["best"]["step"]


def test_best_checkpoint_has_the_smallest_value(answer: Answer) -> None:
    with open(answer.run / "metrics.csv") as file:
        values = {int(row["step"]): float(row["fid/classifier"]) for row in csv.DictReader(file) if row["fid/classifier"]}
    assert set(values) == {0, 5, 10}
    step = min((5, 10), key=lambda s: values[s])
    best = answer.record["best"]
    assert best["metric"] == "fid/classifier" and best["step"] == step
    assert best["value"] == pytest.approx(values[step])


def test_run_writes_sample_grids_and_an_animation(answer: Answer) -> None:
    names = sorted(p.name for p in (answer.run / "samples").iterdir())
    assert names == ["step-00000000.png", "step-00000005.png", "step-00000010.png"]
    last = Image.open(answer.run / "samples" / names[-1]).convert("RGB")
    samples = sampling.sample(restore(answer.run / "checkpoints" / "last.ckpt", [])[0], 4, seed=0)
    assert np.array_equal(last, pictures.grid(samples, pictures.columns_for(4, 10)).convert("RGB"))
    gif = Image.open(answer.run / "training.gif")
    assert gif.n_frames == 3 and gif.size == last.size


def test_run_json_records_the_facts_of_the_run(answer: Answer) -> None:
    record = answer.record
    assert record["status"] == "finished" and record["steps"] == 10 and record["images_seen"] == 80 and record["seed"] == 0
    # by hand, width 2: G 110·(4·4) + BN 2·4 + 4·2·16 + BN 2·2 + 2·1·16 + 1; D 1·2·16 + 2 + 2·4·16 + BN 2·4 + (16 + 1) + 10·16
    assert record["parameters"] == {"discriminator": 347, "generator": 1933}
    assert record["hardware"]["accelerator"] == "cpu" and record["hardware"]["precision"] == "32-true"
    assert {"torch", "pytorch_lightning", "ganexp", "python"} <= record["versions"].keys()
    assert record["images_per_second"] > 0 and "git_commit" in record and "trainer.max_steps=10" in record["command"]


def test_run_writes_its_resolved_config(answer: Answer) -> None:
    config = yaml.safe_load((answer.run / "config.yaml").read_text())
    assert "${" not in (answer.run / "config.yaml").read_text()
    assert config["model"]["generator"]["shape"] == [1, 8, 8] and config["trainer"]["max_steps"] == 10
    assert (answer.run / ".hydra" / "overrides.yaml").is_file()


def test_run_prints_its_plan_progress_and_result(answer: Answer) -> None:
    before, after = answer.out.split("run folder", 1)
    for word in ("cdcgan", "parameters", "1,797 images", "steps", "device", "BCE + R1"):
        assert word in before
    for word in ("best", "swd/pixels", "tensorboard --logdir outputs/", "python -m ganexp task=sample run=outputs/"):
        assert word in after
    for word in ("D(x)=", "D(G(z))=", "images/s=", "10/10"):
        assert word in answer.err


def test_progress_in_a_file_and_in_the_log_is_lines_at_times_of_their_own(
    cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for last, shown in ((0.0, ["1/7", "2/7", "3/7", "4/7", "5/7", "6/7", "7/7"]), (300.0, ["7/7"])):
        monkeypatch.setattr(progress, "LAST", last)
        answer = cli(*TINY, *NARROW["cdcgan"], "trainer.max_steps=7", f"hydra.run.dir={len(shown)}")
        lines = [line for line in answer.err.splitlines() if "images/s=" in line]
        assert [line.split()[1] for line in lines] == shown and "\r" not in answer.err
        assert re.match(r"100% 7/7 \[\d\d:\d\d<\d\d:\d\d, .*D\(x\)=0\.\d\d\d, .*images/s=[\d,]+\]$", lines[-1]), lines[-1]
        log = (answer.folder / f"{len(shown)}" / "log.txt").read_text().splitlines()
        assert [line for line in log if "images/s=" in line] == lines


def test_lines_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = 0.0, []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    cadence = progress.Cadence()
    for now in range(86_400):
        lines += [now] if cadence.due() else []
    assert lines[:6] == [5, 10, 15, 20, 25, 32] and lines[-1] - lines[-2] == 300
    assert sum(line <= 240 for line in lines) == 14 and len(lines) < 320


def test_long_work_writes_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert list(progress.bar(range(3), "counting")) == [0, 1, 2] and capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "LAST", 0.0)
    for _ in progress.bar(range(3), "counting"):
        time.sleep(1.1)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"counting:  33% 1/3 \[00:01<00:02\]", lines[1]) and lines == caplog.messages


def test_progress_on_a_terminal_is_a_bar(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    answer = cli(*TINY, *NARROW["cdcgan"])
    assert "\r100% |" in answer.err and "3/3 [" in answer.err


def test_same_seed_gives_the_same_weights(cli: Callable[..., Answer], answer: Answer) -> None:
    again = cli(*LONGER, *NARROW["cdcgan"], "model.d_steps=2", "schedule=linear", "regularizer=[r1]", "trainer.metrics_every=3")
    weights = [torch.load(a.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for a in (answer, again)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_another_seed_gives_other_weights(cli: Callable[..., Answer], answer: Answer) -> None:
    again = cli(*LONGER, *NARROW["cdcgan"], "model.d_steps=2", "schedule=linear", "regularizer=[r1]", "seed=1")
    weights = [torch.load(a.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for a in (answer, again)]
    assert not weights[0]["generator.project.weight"].equal(weights[1]["generator.project.weight"])


def test_samples_of_points_are_drawn_as_a_scatter(cli: Callable[..., Answer]) -> None:
    answer = cli("model=mlp", "data=sine", *TINY, *NARROW["mlp"])
    assert answer.code == 0, answer.err
    colors = Image.open(answer.run / "samples" / "step-00000003.png").convert("RGB").getcolors(1 << 20)
    assert colors is not None and {(187, 187, 187), (209, 73, 91)} <= {color for _, color in colors}


def test_two_runs_in_one_second_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with config.config_tree():
        cfg = checks.compose_checked([])
        first = folders.free_folder(cfg, "run")
        first.mkdir(parents=True)
        assert folders.free_folder(cfg, "run").name == first.name + "_2"


def test_best_checkpoint_does_not_depend_on_the_order_of_callbacks(cli: Callable[..., Answer]) -> None:
    answer = cli(*TINY[:-3], "callbacks.metrics.num=32", "data.batch_size=8", *NARROW["cdcgan"], "callbacks=[checkpoint,metrics]")
    assert answer.code == 0, answer.err
    assert answer.record["best"] is not None and (answer.run / "checkpoints" / "best.ckpt").is_file()


def test_checkpoint_holds_the_schedule_of_its_step(answer: Answer) -> None:
    content = torch.load(answer.run / "checkpoints" / "step-00000005.ckpt", weights_only=True)
    assert [s["last_epoch"] for s in content["lr_schedulers"]] == [5, 5]


def test_hyper_parameters_reach_tensorboard_without_metrics(cli: Callable[..., Answer]) -> None:
    answer = cli(*TINY, *NARROW["cdcgan"], "metrics=[]")
    assert answer.code == 0, answer.err
    assert any("hparams" in tag for tag in events(answer).summary_metadata)
    assert answer.record["images_per_second"] > 0


def test_metrics_csv_is_written_during_the_run(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("stopped")

    monkeypatch.setattr("ganexp.callbacks.checkpoint.Checkpoint.on_train_batch_end", fail)
    answer = cli(*TINY, *NARROW["cdcgan"])
    assert answer.code == 1
    with open(answer.run / "metrics.csv") as file:
        assert {row["step"] for row in csv.DictReader(file)} >= {"0", "1"}
    assert (answer.run / "training.gif").is_file()


def test_failed_run_says_so_in_one_message_and_record(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(BCE, "generator", fail)
    answer = cli(*TINY, *NARROW["cdcgan"])
    assert answer.code == 1 and "out of luck" in answer.err and "Traceback" not in answer.err
    assert answer.record["status"] == "failed" and "out of luck" in answer.record["error"]
    assert "Traceback" in (answer.run / "error.txt").read_text()


def test_run_fails_if_no_checkpoint_is_written(cli: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", lambda *_: None)
    answer = cli(*TINY, *NARROW["cdcgan"])
    assert answer.code == 1 and "no checkpoint was written" in answer.err
