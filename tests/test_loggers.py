"""Loggers: TensorBoard's events by its own reader; the others with their libraries, offline."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import NARROW, TINY
from helpers import call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

RING = ["model=mlp", "data=ring", "data.points=600", *NARROW["mlp"], *TINY, "metrics=[modes,swd]", "callbacks.metrics.num=2000"]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("tensorboard")
    assert call(folder, *RING, "hydra.run.dir=run") == 0
    return EventAccumulator(str(folder / "run")).Reload()


def layout(events: EventAccumulator) -> layout_pb2.Layout:
    tensor = events.Tensors("custom_scalars__config__")[0].tensor_proto
    return layout_pb2.Layout.FromString(tensor.string_val[0])


def test_scalars_page_begins_with_what_matters(events: EventAccumulator) -> None:
    tags = sorted(events.Tags()["scalars"])
    behind = [tag for tag in tags if tag.startswith("training/")]
    assert tags[-len(behind) :] == behind and {"training/images_seen", "training/gradient_norm/generator"} <= set(behind)
    assert {"loss/discriminator", "score/D_x", "modes/pixels", "swd/pixels"} <= set(tags)


def test_custom_scalars_have_both_losses_in_one_chart_and_the_bands_of_references(events: EventAccumulator) -> None:
    game, metrics, rest = layout(events).category
    assert list(game.chart[0].multiline.tag) == ["^loss/discriminator$", "^loss/generator$"]
    assert game.chart[1].title == "D(x) and D(G(z))" and len(game.chart[1].multiline.tag) == 3
    tags = [tag for chart in (*game.chart, *rest.chart) for tag in chart.multiline.tag]
    assert "^score/D_G_z_before$" in tags and not any("(" in tag for tag in tags), "TensorBoard draws no line of score/D(x)"
    charts = {chart.title: chart for chart in metrics.chart}
    assert list(charts["swd/pixels"].multiline.tag) == ["^swd/pixels$"]
    (series,) = charts["high_quality/pixels"].margin.series
    steps = {name: [e.step for e in events.Scalars(name)] for name in (series.value, series.lower, series.upper)}
    assert steps[series.value] == steps[series.lower] == steps[series.upper] == [0, 2, 3]
    assert rest.chart[0].title == "parts of the losses"


def test_hparams_compare_runs_by_last_and_best_values(events: EventAccumulator) -> None:
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    names = [info.name.tag for info in experiment.metric_infos]
    assert {"swd/pixels", "summary/swd/pixels/best"} <= set(names)
    assert "optimizer.generator.lr" in [info.name for info in experiment.hparam_infos]
    assert min(e.value for e in events.Scalars("swd/pixels")) == events.Scalars("summary/swd/pixels/best")[0].value


def test_pictures_of_samples_are_in_tensorboard(events: EventAccumulator) -> None:
    assert [event.step for event in events.Images("samples")] == [0, 2, 3]


def test_run_says_where_it_is_to_the_references(events: EventAccumulator) -> None:
    run = Path(events.path)
    sentences = json.loads((run / "run.json").read_text())["standings"]
    assert any(text.startswith("modes/pixels ") and "behind experiment=ring, seeds 1 to 5" in text for text in sentences)


def stored(folder: Path, logger: str) -> str:
    """The name of the run in a logger's store."""
    return str(json.loads((folder / "run" / "run.json").read_text())["loggers"][logger])


@pytest.mark.slow
def test_check_leaves_the_stores_of_loggers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    loggers = ["csv", *(name for name in ("wandb", "mlflow", "trackio") if find_spec(name))]  # without the extras, csv alone
    online = ["logger.wandb.offline=false"] if "wandb" in loggers else []
    assert call(tmp_path, *RING, "task=check", f"logger=[{','.join(loggers)}]", *online) == 0
    assert not list(tmp_path.iterdir())


def needs(library: str) -> Any:
    return pytest.mark.skipif(find_spec(library) is None, reason=f'needs pip install "ganexp[{library}]"')


@pytest.mark.slow
@needs("wandb")
def test_wandb_gets_scalars_pictures_config_and_final_metrics_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert call(tmp_path, *RING, "logger=[csv,wandb]", "hydra.run.dir=run") == 0
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for text in (b"score/D(x)", b"optimizer.generator.lr", b"summary/swd/pixels/best", b"modes/pixels"):
        assert text in content
    assert len(list(file.parent.glob("files/media/images/samples_*.png"))) == 3
    assert call(tmp_path, "task=resume", "run=run", "trainer.max_steps=5") == 0
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # the id of the run
    assert stored(tmp_path, "wandb") in file.name


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_gets_scalars_pictures_config_and_final_metrics_in_a_file(tmp_path: Path) -> None:
    import mlflow

    assert call(tmp_path, *RING, "logger=[csv,mlflow]", "hydra.run.dir=run") == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("ganexp").experiment_id])
    assert {"score/D_x", "swd/pixels", "summary/swd/pixels/best"} <= run.data.metrics.keys()
    assert run.data.params["optimizer.generator.lr"] and run.info.status == "FINISHED"
    assert len(list((tmp_path / "outputs" / "mlflow").rglob("samples/*.png"))) == 3
    again = ["task=resume", "run=run", "logger=[csv,mlflow]"]
    assert call(tmp_path, *again, "trainer.max_steps=5") == 0
    (run,) = client.search_runs([run.info.experiment_id])
    assert run.info.run_id == stored(tmp_path, "mlflow") and run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "score/D_x")][-1] == 5
    assert run.data.params["trainer.max_steps"] == "3" and run.data.tags["resumed with trainer.max_steps"] == "5"
    assert call(tmp_path, *again, "trainer.max_steps=7", "logger.mlflow.tracking_uri=sqlite:///other.db") == 0
    assert "starting a new run" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
@needs("trackio")
def test_trackio_gets_scalars_pictures_config_and_final_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trackio.utils

    folder = Path(trackio.utils.TRACKIO_DIR)
    project = f"ganexp_test_{tmp_path.name}"
    assert call(tmp_path, *RING, "logger=[csv,trackio]", f"logger.trackio.project={project}", "hydra.run.dir=run") == 0
    with sqlite3.connect(folder / f"{project}.db") as database:
        text = "".join(str(row) for table in ("metrics", "configs") for row in database.execute(f"SELECT * FROM {table}"))
    for name in ("score/D(x)", "optimizer.generator.lr", "summary/swd/pixels/best", "samples"):
        assert name in text
    assert (
        call(
            tmp_path, "task=resume", "run=run", "logger=[csv,trackio]", f"logger.trackio.project={project}", "trainer.max_steps=5"
        )
        == 0
    )
    with sqlite3.connect(folder / f"{project}.db") as database:
        assert database.execute("SELECT DISTINCT run_name FROM metrics").fetchall() == [(stored(tmp_path, "trackio"),)]
    trackio.delete_project(project, force=True)
