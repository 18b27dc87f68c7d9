"""Private names of Lightning, Hydra and OmegaConf: used in one file per library, present, and working as assumed."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import hydra
import omegaconf
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.utils import JobReturn, JobStatus
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers import CSVLogger
from torch.optim import SGD

from ganexp import lightning_internals

ROOT = Path(__file__).parent.parent / "ganexp"
OWN = {
    "_target_",
    "_partial_",
    "_groups",
    "_mmap",
    "_replace",
    "_apply",
    "_foreach_copy_",
    "_foreach_lerp_",
    "_exit",
}  # or torch's, numpy's, os's


def test_private_names_are_used_in_one_file_each() -> None:
    for file in ROOT.rglob("*.py"):
        if file.name in ("hydra_internals.py", "lightning_internals.py"):
            continue
        text = file.read_text(encoding="utf-8")
        assert "_internal import" not in text.replace("_internals import", "") and "hydra._internal" not in text, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and node.attr not in OWN:
                assert isinstance(node.value, ast.Name) and node.value.id == "self", f"{file}:{node.lineno}: {node.attr}"


def test_hydra_has_the_private_names_in_use() -> None:
    try:
        from ganexp.cli import hydra_internals
    except ImportError as error:
        pytest.fail(f"Hydra {hydra.__version__} and OmegaConf {omegaconf.__version__} have moved what ganexp uses: {error}")
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = error = ValueError("x")
    assert hydra_internals.result_of(failed) is error
    node = omegaconf.OmegaConf.create({"a": 1, "b": "${a}"})
    with hydra_internals.errors_raised(), pytest.raises(OSError, match="full"):
        hydra._internal.utils.run_and_report(lambda: (_ for _ in ()).throw(OSError("full")))
    assert hydra_internals.unresolved(node, "b")._value() == "${a}", f"OmegaConf {omegaconf.__version__}"


def test_files_of_a_config_tree_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganexp.cli import config, messages

    lines = [
        ["experiment=photos"],
        ["model=cdcgan", "data=mnist"],
        ["experiment=photos", "loss=hinge"],
        ["model=mlp", "data=ring"],
    ]
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "other.yaml").write_text("in: another folder")

    def composed(line: list[str]) -> Any:
        config.compose_options.cache_clear()
        with config.config_tree():
            return omegaconf.OmegaConf.to_container(config.compose_config(line, "config"), resolve=False)

    expected = []
    for line in lines:
        config.own_loader.cache_clear()  # nothing is read yet
        expected.append(composed(line))
    config.own_loader.cache_clear()
    read: list[str] = []
    load = omegaconf.OmegaConf.load
    monkeypatch.setattr(omegaconf.OmegaConf, "load", lambda file: read.append(str(file.name)) or load(file))
    assert [composed(line) for line in lines] == expected
    assert [composed(line) for line in reversed(lines)] == expected[::-1] and len(set(read)) == len(read) > 20
    assert composed(["loss=other", f"hydra.searchpath=[{tmp_path}]"])["loss"] == {"in": "another folder"}
    with pytest.raises(messages.ConfigError, match="loss=other: there is no such option"):
        composed(["loss=other"])


def test_lightning_has_the_private_names_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = f"pytorch-lightning {pl.__version__}"
    assert {"_on_before_step", "_on_after_step"} <= vars(LightningOptimizer(SGD([torch.zeros(1)]))).keys(), version
    logger = CSVLogger(tmp_path, name="", version="")
    writer = lightning_internals.use_writer(logger)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()

    def full_disk(*arguments: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(lightning_internals, "replace", full_disk)
        logger.log_metrics({"a": 1.0, "b": 2.0}, step=1)  # a new column
        logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "a,step\n1.0,0\n", f"{version} writes a new header in place"
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "a,b,step\n1.0,,0\n1.0,2.0,1\n" and writer is logger.experiment, version
