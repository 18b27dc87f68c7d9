"""Exported folders, programs, the Hub, samples as files; and hostile files."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import BARE, NARROW, TINY, Answer
from helpers import MODELS, call, compose, make_gan, narrow
from hub_server import Hub, running
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ganexp
from ganexp import pictures, sampling
from ganexp.cli.build import build
from ganexp.export import card, folder, programs, samples
from ganexp.images import to_uint8
from ganexp.latent_space.real import training_data
from ganexp.runtime import exported
from ganexp.systems.base import System

Cli = Callable[..., Answer]


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


ONNX, HUB = needs("onnx", "onnxscript", "onnxruntime"), needs("huggingface_hub")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a few steps, and the folders exported from them."""
    at = tmp_path_factory.mktemp("made")
    more = ["optimizer.generator.lr=0.05"]
    assert call(at, "model=cdcgan", *NARROW["cdcgan"], *TINY, *more, "hydra.run.dir=images") == 0
    assert call(at, "model=mlp", "data=sine", *NARROW["mlp"], *TINY, *more, "hydra.run.dir=points") == 0
    for name in ("images", "points"):
        words = [f"run={name}", f"task.folder=given_{name}", "task.num=20", "task.data_license=CC-BY-4.0"]
        assert call(at, "task=export", *words, f"hydra.run.dir=task_{name}") == 0
    return at


@pytest.fixture
def given(made: Path, tmp_path: Path) -> Path:
    """A copy of an exported folder, to be damaged."""
    shutil.copytree(made / "given_images", tmp_path / "given")
    return tmp_path / "given"


# -- the folder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images", "points"])
def test_exported_folder_samples_bit_for_bit(name: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ganexp.load(made / name)
    assert {file.name for file in (made / f"given_{name}").iterdir()} == {
        "model.safetensors", "config.yaml", "README.md", "samples.png",
    }  # fmt: skip

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle")

    monkeypatch.setattr("pickle.Unpickler", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("torch.load", refuse)
    after = ganexp.load(made / f"given_{name}")
    assert torch.equal(after.sample(300, seed=3), before.sample(300, seed=3))
    torch.manual_seed(1)
    first = before.system.sample(20)  # with labels as in the training data
    torch.manual_seed(1)
    assert torch.equal(after.system.sample(20), first)
    assert (after.step, after.classes, after.shape) == (before.step, before.classes, before.shape)
    assert after.config["model"]["discriminator"] == before.config["model"]["discriminator"]


def test_exported_vae_encodes_bit_for_bit(tmp_path: Path) -> None:
    words = ["model=vae", "model.width_multiplier=0.05", "optimizer.generator.lr=0.05", *BARE]
    assert call(tmp_path, *words, "hydra.run.dir=vae") == 0
    before = ganexp.load(tmp_path / "vae")
    after = ganexp.load(before.export(tmp_path / "given"))
    x, _ = training_data(before).real_and_labels(20)
    assert torch.equal(after.encode(x), before.encode(x)) and torch.equal(after.sample(9, seed=1), before.sample(9, seed=1))
    assert torch.equal(after.reconstruct(5).reconstructed, before.reconstruct(5).reconstructed)
    again = ganexp.load(after.export(tmp_path / "again"))
    assert torch.equal(again.encode(x), before.encode(x))
    with_config(tmp_path / "given" / "config.yaml", lambda c: c["model"]["encoder"].update(outputs=7))
    with pytest.raises(ganexp.ConfigError, match=r"^run: \S+: encoder\.\S+ is \[.*\] float32 in the file, .* by the config$"):
        ganexp.load(tmp_path / "given")
    with_config(tmp_path / "given" / "config.yaml", lambda c: c["model"].update(encoder={"_target_": "ganexp.latents.Normal"}))
    with pytest.raises(ganexp.ConfigError, match=r"encoder: must be a network, got Normal$"):
        ganexp.load(tmp_path / "given")
    with_config(tmp_path / "given" / "config.yaml", lambda c: c["model"].update(encoder=c["model"]["generator"]))
    with pytest.raises(ganexp.ConfigError, match=r"^run: [^\n]*$"):
        ganexp.load(tmp_path / "given")


def test_export_from_python_equals_the_task(made: Path, tmp_path: Path) -> None:
    """And an exported model can be exported again, with what its card said."""
    model = ganexp.load(made / "images")
    assert model.export(tmp_path / "a", data_license="CC-BY-4.0", num=20) == tmp_path / "a"
    ganexp.load(tmp_path / "a").export(tmp_path / "b", num=20)
    for name in ("model.safetensors", "config.yaml", "README.md", "samples.png"):
        files = [at / name for at in (made / "given_images", tmp_path / "a", tmp_path / "b")]
        assert len({file.read_bytes() for file in files}) == 1, name


def test_sample_takes_an_exported_folder(made: Path, cli: Cli) -> None:
    answer = cli("task=sample", f"run={made}/given_points", "seed=5", "task.num=3", "hydra.run.dir=o")
    assert answer.code == 0 and "given_points/model.safetensors, step " in answer.out, answer.err
    found = np.load(answer.folder / "o" / "samples.npy")
    assert np.array_equal(found, ganexp.load(made / "points").sample(3, seed=5).numpy())


def test_latest_ignores_exported_folders(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "points", tmp_path / "outputs" / "mlp" / "1")
    shutil.copytree(made / "given_images", tmp_path / "outputs" / "export" / "2" / "model")
    assert ganexp.load("latest").checkpoint == Path("outputs/mlp/1/checkpoints/best.ckpt")


FEW = ("cdcgan",)
EVERY = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("model", EVERY)
def test_every_model_rebuilds_its_sampler_from_an_export(model: str) -> None:
    composed = compose(f"model={model}", "data=cifar10", *narrow(model))
    system = build(composed["model"], "model").eval()
    state = folder.weights_of(system)
    again = exported.build_sampler(composed, state, [])
    again.load_state_dict(state)
    assert torch.equal(sampling.sample(again.eval(), 4, seed=1), sampling.sample(system, 4, seed=1))


def test_exported_picture_shows_the_samples(made: Path) -> None:
    wanted = pictures.grid(ganexp.load(made / "images").sample(20, seed=0), 10)
    assert Image.open(made / "given_images" / "samples.png").tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "words, message",
    [
        (["task.format=tflite"], "task.format: must be one of safetensors, onnx, torch, got tflite"),
        (["task.num=0"], "task.num: must be at least 1, got 0"),
        (["task.folder=full"], "task.folder: full is not empty; choose a new folder"),
        (["task.push_to=ann"], "task.push_to: must be USER/NAME of a model on the Hub, got 'ann'"),
        (["task.push_to=../ann"], "task.push_to: must be USER/NAME of a model on the Hub, got '../ann'"),
    ],
)
def test_export_refuses_bad_input_in_one_line(words: list[str], message: str, made: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    answer = cli("task=export", f"run={made}/images", *words)
    assert (answer.code, answer.err) == (2, f"ganexp: {message}\n")
    assert not (tmp_path / "outputs").exists() and [file.name for file in (tmp_path / "full").iterdir()] == ["x"]


@ONNX
def test_missing_extra_is_named(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(programs, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ValueError, match=r'^format: onnx needs onnxscript: pip install "ganexp\[onnx\]"$'):
        ganexp.load(made / "images").export(tmp_path / "new", format="onnx")
    assert not list(tmp_path.iterdir())


def test_failed_export_leaves_nothing_behind(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "save", full)
    with pytest.raises(OSError, match="No space left"):
        ganexp.load(made / "images").export(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_system_that_samples_differently(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ganexp.load(made / "images")
    monkeypatch.setattr(model.system, "generate", lambda z, y, t=1.0: System.generate(model.system, z, y, t) + 1e-6)
    with pytest.raises(ValueError, match=r"^GAN does not sample by its generator and latent alone"):
        model.export(tmp_path / "new")
    assert not list(tmp_path.iterdir())


# -- the card ------------------------------------------------------------------------------------------------------------


def test_card_states_the_facts_of_the_run(made: Path) -> None:
    text = (made / "given_images" / "README.md").read_text()
    record = json.loads((made / "images" / "run.json").read_text())
    content = torch.load(made / "images" / "checkpoints" / "best.ckpt", weights_only=True)
    step = content["global_step"]
    assert f"| fingerprint | {content['data']} |" in text and "| licence | CC-BY-4.0 |" in text
    assert f"| steps | {step} |" in text and f"| images seen | {8 * step} |" in text
    assert "accelerator cpu" in text and " for 3 steps |" in text and "dcgan.Generator" in text
    with (made / "images" / "metrics.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["step"] == str(step) and row["swd/pixels"]]
    for name in ("swd/pixels", "fid/classifier"):
        value, fingerprint = float(row[name]), record["protocols"][name]["fingerprint"]
        assert f"| {name} | {value:.6g} | {fingerprint} |" in text
    assert "generated 32" in text and "![samples](samples.png)" in text and "## Limits" in text


def test_code_on_the_card_runs(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made / "given_images")
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["x"].shape == (16, 1, 8, 8)


def test_checkpoint_without_a_run_gets_a_card(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "images" / "checkpoints" / "best.ckpt", tmp_path / "x.ckpt")
    ganexp.load(tmp_path / "x.ckpt").export(tmp_path / "new")
    text = (tmp_path / "new" / "README.md").read_text()
    assert "| swd/pixels | " in text and "| not known |" in text and "| licence | not stated |" in text
    assert "hardware" not in text


def test_export_removes_local_paths(made: Path) -> None:
    value = {"a": "/home/ann/photos", "b": ["C:\\Users\\ann\\photos", "~/photos"], "c": {"d": "a/b", "e": 1}}
    assert folder.without_paths(value) == {"a": "photos", "b": ["photos", "photos"], "c": {"d": "a/b", "e": 1}}
    for file in (made / "given_points").iterdir():
        assert str(made).encode() not in file.read_bytes()


HOSTILE = "<script>alert(1)</script> | `x` ![p](http://e.org/p.png) **b**\n# head\u202e [l](javascript:1) www.e.org"


def test_card_escapes_markup(made: Path) -> None:
    text = card.escaped(HOSTILE)
    assert "\n" not in text and "\u202e" not in text
    assert not re.search(r"(?<!\\)[<>`*|\[\]!_#]", text) and "http://" not in text and "www.e" not in text


def test_card_escapes_markup_from_the_run(made: Path, tmp_path: Path) -> None:
    """In names, settings, metrics and the licence, as somebody else may have written them."""
    shutil.copytree(made / "images", tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["config"]["name"] = content["config"]["data"]["root"] = content["data"] = HOSTILE
    file.unlink()
    torch.save(content, file)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record |= {"hardware": {HOSTILE: HOSTILE}, "versions": [HOSTILE], "seconds": HOSTILE, "started": HOSTILE}
    record["protocols"]["swd/pixels"] |= {"fingerprint": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    ganexp.load(tmp_path / "run").export(tmp_path / "new", data_license=HOSTILE)
    text = (tmp_path / "new" / "README.md").read_text()
    assert text.count("script") >= 8
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\((?!samples\.png\))|http://|\u202e|^# head", text, re.M)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3, 4}  # no cell makes another
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"linkify": False}).enable("table")
    page = markdown.render(text.partition("---\n\n")[2])
    assert "<script" not in page and "<a " not in page and page.count("<img") == 1 and page.count("<h1") == 1


# -- programs ------------------------------------------------------------------------------------------------------------


def alive(model: str) -> System:
    """An untrained system, its parameters moved so that the samples are not nearly zero."""
    torch.manual_seed(0)
    system: System = build(compose(f"model={model}", "data=cifar10", *narrow(model))["model"], "model").eval()
    with torch.no_grad():
        for p in system.parameters():
            p.add_((0.01 if model == "fastgan" else 0.1) * torch.randn_like(p))  # moved by 0.1, FastGAN's tanh is saturated
    return system


@ONNX
@pytest.mark.parametrize("model", EVERY)
def test_onnx_program_reproduces_the_samples(model: str) -> None:
    """Inputs by name, any number of samples, within 1e-4; checked here, not by the check inside export."""
    import onnx
    import onnxruntime

    system = alive(model)
    content = programs.program(system, "onnx")
    onnx.checker.check_model(onnx.load_from_string(content))
    assert onnx.load_from_string(content).opset_import[0].version >= 18
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["z", "label"][: 2 if system.classes else 1]
    for n in (1, 11):
        z, y = torch.randn(n, system.latent.dim), torch.arange(n) % (system.classes or 1)
        wanted = system.generate(z, y).detach().numpy()
        values = {"z": z.numpy()} | ({"label": y.numpy()} if system.classes else {})
        (found,) = session.run(["samples"], values)
        assert wanted.std() > 1e-3 and found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("model", EVERY)
def test_torch_program_reproduces_the_samples(model: str) -> None:
    import io

    system = alive(model)
    run = torch.export.load(io.BytesIO(programs.program(system, "torch"))).module()
    z, y = torch.randn(11, system.latent.dim), torch.arange(11) % (system.classes or 1)
    with torch.no_grad():
        wanted = system.generate(z, y)
        assert torch.allclose(run(*(z, y)[: 2 if system.classes else 1]), wanted, atol=1e-5)


def test_export_task_adds_the_program(made: Path, cli: Cli) -> None:
    answer = cli("task=export", f"run={made}/points", "task.format=torch", "hydra.run.dir=o")
    assert answer.code == 0, answer.err
    new = answer.folder / "o" / "model"
    assert (new / "model.pt2").is_file() and ganexp.load(new).step
    assert "`model.pt2`: inputs z float32 [N, 100]" in (new / "README.md").read_text()


class Moody(nn.Module):
    """No exporter can take it: what it computes depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return z * self.weight if float(z.sum()) > 0 else z


@pytest.mark.parametrize("format", ["torch", pytest.param("onnx", marks=ONNX)])
def test_export_refuses_a_network_its_format_cannot_take(format: str) -> None:
    with pytest.raises(ValueError, match=rf"^format: the network test_export\.Moody cannot be exported as {format}: [^\n]*$"):
        programs.program(make_gan(generator=Moody()), format)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x + 2e-4, r"format: samples of the torch program differ from the model's by more than 0\.0001"),
        (lambda x: x[:1], "format: samples of the torch program differ"),
        (lambda x: x / 0, "format: samples of the torch program differ"),
        (lambda x: x.nothing, "format: the torch program fails on 1 samples"),
    ],
)
def test_export_refuses_a_program_with_other_outputs(
    change: Callable[[Tensor], Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = programs.to_torch

    def wrong(network: programs.Program, inputs: tuple[Tensor, ...]) -> tuple[bytes, programs.Run]:
        content, run = export(network, inputs)
        return content, lambda *values: change(run(*values))

    monkeypatch.setattr(programs, "to_torch", wrong)
    with pytest.raises(ValueError, match=f"^{message}"):
        programs.program(make_gan(), "torch")


# -- what arrives from elsewhere -----------------------------------------------------------------------------------------


def header_of(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def with_header(file: Path, change: Callable[[dict[str, Any]], object], length: int | None = None) -> None:
    content = file.read_bytes()
    (old,) = struct.unpack("<Q", content[:8])
    header = header_of(file)
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content[8 + old :])


def with_metadata(file: Path, text: str) -> None:
    with_header(file, lambda header: header.update(__metadata__={"ganexp": text}))


def with_tensors(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    metadata, tensors = header_of(file)["__metadata__"], {k: v.clone() for k, v in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata)


def first(header: dict[str, Any]) -> dict[str, Any]:
    return header[sorted(key for key in header if key.startswith("generator."))[0]]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: with_header(f, lambda h: first(h).update(shape=[2**40, 2**40])), "is damaged, or is not a safetensors file"),
        (lambda f: with_header(f, lambda h: first(h).update(shape=[10**30])), "is damaged, or is not a safetensors file"),
        (lambda f: with_header(f, lambda h: first(h).update(shape=[-1])), "is damaged, or is not a safetensors file"),
        (
            lambda f: with_header(f, lambda h: first(h).update(data_offsets=[0, 2**40])),
            "is damaged, or is not a safetensors file",
        ),
        (lambda f: with_header(f, lambda h: None, length=2**62), "is damaged, or is not a safetensors file"),
        (lambda f: with_header(f, lambda h: None, length=5), "is damaged, or is not a safetensors file"),
        (lambda f: with_header(f, lambda h: h.pop("__metadata__")), "was not written by ganexp"),
        (lambda f: with_metadata(f, '{"format": 2, "step": 1, "facts": {}}'), r"has another format \(2\)"),
        (lambda f: with_metadata(f, '{"format": 1, "step": "many", "facts": {}}'), "is damaged: its metadata has no step"),
        (lambda f: with_metadata(f, "x"), "is damaged: its metadata cannot be read"),
        (lambda f: with_metadata(f, "[" * 10**5), "is damaged: its metadata cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is damaged, or is not a safetensors file"),
        (lambda f: f.write_bytes(b"\x80\x04}."), "is damaged, or is not a safetensors file"),
        (
            lambda f: with_tensors(f, lambda t: t.update(label_counts=torch.ones(11))),
            r": label_counts is \[11\] float32 in the file",
        ),
        (
            lambda f: with_tensors(f, lambda t: t.update(label_counts=torch.ones(10).double())),
            r": label_counts is \[10\] float64",
        ),
        (lambda f: with_tensors(f, lambda t: t.update(more=torch.ones(1))), ": more is in the file only"),
        (lambda f: with_tensors(f, lambda t: t.pop("label_counts")), ": label_counts is in the config only"),
    ],
)
def test_load_refuses_hostile_weights(change: Callable[[Path], object], message: str, given: Path) -> None:
    change(given / "model.safetensors")
    with pytest.raises(ganexp.ConfigError, match=rf"^run: \S*model\.safetensors:? ?{message}[^\n]*$"):
        ganexp.load(given)


def with_config(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = yaml.safe_load(file.read_text())
    change(config)
    file.write_text(yaml.safe_dump(config))


def generator(**values: Any) -> Callable[[Path], None]:
    return lambda file: with_config(file, lambda config: config["model"]["generator"].update(values))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
DEEP = {"_target_": "ganexp.networks.mlp.Generator", "shape": [1, 8, 8], "latent_dim": 100, "hidden": [1] * 10**5, "classes": 10}


def test_export_builds_no_class_that_a_checkpoint_names_as_its_data(made: Path, cli: Cli, tmp_path: Path) -> None:
    """Its constructor may do anything: only modules in `trust` are built from a file."""
    content = torch.load(made / "points" / "checkpoints" / "last.ckpt", weights_only=True)
    content["config"]["data"] = {"_target_": "logging.FileHandler", "filename": str(tmp_path / "written"), "mode": "w"}
    torch.save(content, tmp_path / "x.ckpt")
    answer = cli("task=export", "run=x.ckpt")
    assert answer.code == 0 and "logging.FileHandler" in answer.out + answer.err
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (generator(_target_="os.system"), r": model\.generator\._target_: the file asks to run os\.system"),
        (generator(_target_="ganexp.data.module.torch.hub.load"), r": model\.generator\._target_: the file asks to run"),
        (generator(_target_="ganexp.latents.Normal"), r": model\.generator\.\S+: ganexp\.latents\.Normal has no such argument"),
        (
            lambda f: with_config(f, lambda c: c["model"].update(generator={"_target_": "ganexp.latents.Normal"})),
            ": model: generator: must be a network, got Normal|: model.generator: must be a network, got Normal",
        ),
        (generator(shape="${oc.env:HOME}"), r": model\.generator\.shape: '\$\{oc\.env:HOME\}' is not of type"),
        (generator(width=10**9), ".*the config asks for more parameters than the file holds"),
        (generator(width=3), r": \S+ is \[\S+( \d+,?\]?)* .*in the file, .* by the config"),
        (lambda f: with_config(f, lambda c: c["model"].update(generator=DEEP)), " cannot be loaded: config.yaml has "),
        (lambda f: with_config(f, lambda c: c["model"].update(classes=10**15)), r": label_counts is \[10\]"),
        (
            lambda f: with_config(f, lambda c: c["model"]["latent"].update(dim=10**15)),
            r": model\.latent\.dim: 1,000,000,000,000,000",
        ),
        (lambda f: with_config(f, lambda c: c["model"]["latent"].update(dim=99)), " do not fit its config: "),
        (lambda f: with_config(f, lambda c: c.update(model=3)), ": model: must be a mapping"),
        (lambda f: f.write_text(BOMB), " cannot be loaded: config.yaml has more than 100,000 values"),
        (lambda f: f.write_text("x: " + "y" * 2**17), " cannot be loaded: config.yaml has 131,075 bytes, more than the 131,072"),
        (
            lambda f: f.write_text("a: !!python/object/apply:os.system ['true']"),
            " cannot be loaded: config.yaml cannot be read: could not det",
        ),
        (lambda f: f.write_text("[" * 10**4), " cannot be loaded: config.yaml is nested more than 50 deep"),
        (lambda f: f.write_bytes(b"\xff\xfe\x00"), " cannot be loaded: config.yaml is not UTF-8"),
        (lambda f: f.write_text("- 1"), " cannot be loaded: config.yaml is not a mapping"),
        (lambda f: f.unlink(), " cannot be loaded: config.yaml cannot be read"),
    ],
)
def test_load_refuses_hostile_configs(change: Callable[[Path], object], message: str, given: Path) -> None:
    """In one line, and before it costs much."""
    change(given / "config.yaml")
    start = time.process_time()
    with pytest.raises(ganexp.ConfigError, match=rf"^run: (the weights in )?\S*model\.safetensors({message})[^\n]*$"):
        ganexp.load(given)
    assert time.process_time() - start < 30


def test_command_line_refuses_hostile_configs(given: Path, cli: Cli) -> None:
    generator(_target_="os.system")(given / "config.yaml")
    answer = cli("task=sample", f"run={given}")
    assert answer.code == 2 and answer.err.count("\n") == 1 and "asks to run os.system" in answer.err


def test_exported_model_with_an_own_class_requires_trust(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_prior.py").write_text("from ganexp.latents import Normal\n\n\nclass Wide(Normal):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = ganexp.load(given).sample(3, seed=0)
    with_config(given / "config.yaml", lambda c: c["model"]["latent"].update(_target_="my_prior.Wide"))
    with pytest.raises(ganexp.ConfigError, match=r"add trust=\[my_prior\]"):
        ganexp.load(given)
    model = ganexp.load(given, trust=["my_prior"])
    assert torch.equal(model.sample(3, seed=0), wanted)
    model.export(tmp_path / "again")  # which reads it again
    assert (tmp_path / "again" / "model.safetensors").is_file()


# -- the Hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants", reason='needs the extra: pip install "ganexp[hub]"')
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has the older protocol for large files
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@HUB
def test_hub_round_trip_keeps_the_samples(hub: Hub, made: Path) -> None:
    address = ganexp.push_to_hub(made / "given_images", "ann/digits", private=True, token="hf_secret", endpoint=hub.endpoint)
    assert address.startswith(f"{hub.endpoint}/ann/digits/commit/") and hub.private["ann/digits"]
    sent = {file.name: file.read_bytes() for file in (made / "given_images").iterdir()}
    assert hub.repos["ann/digits"] == sent and "Bearer hf_secret" in hub.tokens
    model = ganexp.from_hub("ann/digits", endpoint=hub.endpoint)
    assert torch.equal(model.sample(20, seed=2), ganexp.load(made / "images").sample(20, seed=2))
    assert not any(request.endswith(("README.md", "samples.png")) for request in hub.requests)  # only what it needs


@HUB
def test_export_task_pushes_to_the_hub(hub: Hub, made: Path, cli: Cli) -> None:
    answer = cli("task=export", f"run={made}/points", "task.push_to=ann/sine", "hydra.run.dir=o")
    assert answer.code == 0 and f"sent: {hub.endpoint}/ann/sine/commit/" in answer.out, answer.err
    assert set(hub.repos["ann/sine"]) == {file.name for file in (answer.folder / "o" / "model").iterdir()}
    assert hub.private["ann/sine"] is False


@HUB
def test_export_offline_says_what_it_would_have_sent(made: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as opened:  # a port where nobody listens
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    answer = cli("task=export", f"run={made}/points", "task.push_to=ann/sine", "hydra.run.dir=o")
    new = answer.folder / "o" / "model"
    assert answer.code == 1 and answer.err.count("\n") == 1
    assert answer.err.startswith(f"ganexp: push_to: ann/sine was not sent to http://127.0.0.1:{port}: ConnectError")
    for file in new.iterdir():
        assert f"{file.name} ({file.stat().st_size:,} bytes)" in answer.err
    assert ganexp.load(new).step  # the export itself is whole


@HUB
def test_hub_functions_refuse_bad_input(hub: Hub, made: Path, tmp_path: Path) -> None:
    with pytest.raises(ganexp.ConfigError, match=r"^from_hub: ann/nothing cannot be fetched: RepositoryNotFoundError: [^\n]*$"):
        ganexp.from_hub("ann/nothing", endpoint=hub.endpoint)
    with pytest.raises(ValueError, match=r"^repo: must be USER/NAME of a model on the Hub, got 'https://x/y'"):
        ganexp.from_hub("https://x/y")
    with pytest.raises(ValueError, match=r"^folder: \S+ has no model\.safetensors"):
        ganexp.push_to_hub(made / "images", "ann/digits", endpoint=hub.endpoint)
    assert not hub.repos


# -- samples as files ----------------------------------------------------------------------------------------------------


def test_sample_writes_pictures_with_a_label_list(made: Path, cli: Cli) -> None:
    answer = cli("task=sample", f"run={made}/images", "task.num=300", "task.grid=false", "seed=4", "hydra.run.dir=o")
    assert answer.code == 0, answer.err
    with (answer.folder / "o" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [str(i % 10) for i in range(300)]
    assert [row["file"] for row in rows] == sorted(file.name for file in (answer.folder / "o").glob("*.png"))
    assert not list((answer.folder / "o").glob(".*.part"))
    for image, row in zip(ganexp.load(made / "images").sample(300, seed=4), rows, strict=True):
        assert Image.open(answer.folder / "o" / row["file"]).tobytes() == pictures.single(image).tobytes()


def test_npz_has_the_layout_fid_tools_read(made: Path, cli: Cli) -> None:
    answer = cli("task=sample", f"run={made}/images", "task.num=300", "task.npz=true", "seed=4", "hydra.run.dir=o")
    assert answer.code == 0, answer.err
    found = np.load(answer.folder / "o" / "samples.npz", allow_pickle=False)
    assert found["arr_0"].shape == (300, 8, 8, 3) and found["arr_0"].dtype == np.uint8
    assert np.array_equal(found["arr_1"], np.arange(300) % 10) and found["arr_1"].dtype == np.int64
    x = ganexp.load(made / "images").sample(300, seed=4)
    wanted = ((x + 1) * 127.5).round().clamp(0, 255).numpy()[:, 0]
    for channel in range(3):  # grey as RGB
        assert np.array_equal(found["arr_0"][..., channel], wanted)
    assert not (answer.folder / "o" / "grid.png").exists()


def test_sample_refuses_npz_of_points(made: Path, cli: Cli) -> None:
    answer = cli("task=sample", f"run={made}/points", "task.npz=true")
    assert (
        answer.code == 2
        and answer.err.startswith("ganexp: task.npz: this model generates points")
        and answer.err.count("\n") == 1
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_samples_are_written_with_1_to_4_channels(channels: int, tmp_path: Path) -> None:
    x = torch.rand(5, channels, 4, 6) * 2 - 1
    samples.write_npz(tmp_path / "x.npz", [(x[:3], None), (x[3:], None)], 5, x.shape[1:])
    found = np.load(tmp_path / "x.npz")
    assert found.files == ["arr_0"] and found["arr_0"].shape == (5, 4, 6, 3)
    samples.write_pictures(tmp_path, [(x, None)], 5)
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    assert Image.open(tmp_path / "00004.png").mode == modes[channels] and not (tmp_path / "labels.csv").exists()
    for i, image in enumerate(to_uint8(x).permute(0, 2, 3, 1).squeeze(3).numpy()):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"0000{i}.png")), image)
    colours = np.asarray(Image.open(tmp_path / "00004.png").convert("RGB"))
    assert np.array_equal(found["arr_0"][4], colours)


def test_writer_holds_only_a_few_batches_in_memory(tmp_path: Path) -> None:
    """However slowly they are written."""
    taken, written = 0, 0

    def batches() -> Iterator[tuple[Tensor, None]]:
        nonlocal taken
        for _ in range(40):
            taken += 1
            assert taken - written <= samples.AHEAD + 2
            yield torch.zeros(2, 1, 4, 4), None

    rgb = samples.rgb

    def slow(x: Tensor) -> np.ndarray:
        nonlocal written
        time.sleep(0.005)
        written += 1
        return rgb(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "rgb", slow)
        samples.write_npz(tmp_path / "x.npz", batches(), 80, (1, 4, 4))
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (80, 4, 4, 3)


def test_writers_refuse_samples_that_are_not_finite(tmp_path: Path) -> None:
    x = torch.zeros(2, 1, 4, 4)
    bad = [(x, None), (x / 0, None)]
    with pytest.raises(ValueError, match="the training diverged"):
        samples.write_npz(tmp_path / "x.npz", bad, 4, (1, 4, 4))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the training diverged"):
        samples.write_pictures(tmp_path, bad, 4)


def test_full_disk_is_reported_by_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a writing thread is not lost."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: '\S*\.png'"):
        samples.write_pictures(tmp_path, [(torch.zeros(2, 1, 4, 4), None)] * 20, 40)
    assert not list(tmp_path.iterdir())
