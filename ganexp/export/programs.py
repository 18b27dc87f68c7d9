"""A generator as a program that needs no ganexp: ONNX, or torch.export. Each is run again and compared before it is kept."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ganexp.cli.build import one_line
from ganexp.systems.base import System
from ganexp.systems.contexts import seeded

OPSET = 18
TOLERANCE = 1e-4  # greatest difference of a sample's values; images are in [-1, 1]
BATCHES = (1, 2, 5)  # on which a program is compared; it is traced with 3
FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
Run = Callable[..., Tensor]


class Program(nn.Module):
    """z [N, dim], label [N] -> samples [N, *shape], float32; without `classes` of z alone."""

    def __init__(self, system: System):
        super().__init__()
        self.generator = copy.deepcopy(system.sampler).cpu().eval().requires_grad_(False)
        self.classes = system.classes

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        samples: Tensor = self.generator(z, torch.zeros_like(z[:, 0], dtype=torch.int64) if label is None else label)
        return samples.float()


def program(system: System, format: str) -> bytes:
    """The file of a system's generator in a format of FILES. Raises ValueError where the exporter cannot take the network, or
    what it makes gives other samples."""
    network = Program(system)
    export = {"onnx": to_onnx, "torch": to_torch}[format]
    with seeded(0, torch.device("cpu")), torch.no_grad():
        inputs = [example(system, n) for n in (3, *BATCHES)]
        try:
            with quietly():
                content, run = export(network, inputs[0])
        except Exception as error:  # exporters raise whatever the network leads them to
            name = f"{type(system.sampler).__module__}.{type(system.sampler).__name__}"
            raise ValueError(f"format: the network {name} cannot be exported as {format}: {one_line(error)[:200]}") from error
        check(network, run, inputs[1:], format)
    return content


def example(system: System, n: int) -> tuple[Tensor, ...]:
    z = system.latent.sample(n, torch.device("cpu"))
    return (z, torch.arange(n) % system.classes) if system.classes else (z,)


def to_onnx(network: Program, inputs: tuple[Tensor, ...]) -> tuple[bytes, Run]:
    import onnxruntime

    names = ["z", "label"][: len(inputs)]
    made = torch.onnx.export(
        network, inputs, dynamo=True, opset_version=OPSET, input_names=names, output_names=["samples"],
        dynamic_shapes=dynamic(inputs), verbose=False,
    )  # fmt: skip
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*values: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["samples"], {k: v.numpy() for k, v in zip(names, values, strict=True)})[0])

    return content, run


def to_torch(network: Program, inputs: tuple[Tensor, ...]) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(torch.export.export(network, inputs, dynamic_shapes=dynamic(inputs)), file)
    content = file.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()


def dynamic(inputs: Sequence[Tensor]) -> tuple[dict[int, object], ...]:
    """Any number of samples."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def check(network: Program, run: Run, batches: Sequence[tuple[Tensor, ...]], format: str) -> None:
    """Raises ValueError unless a program gives the network's samples."""
    for values in batches:
        wanted = network(*values)
        try:
            found = run(*values)
        except Exception as error:
            raise ValueError(f"format: the {format} program fails on {len(wanted)} samples: {one_line(error)[:200]}") from error
        if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=0, atol=TOLERANCE):
            raise ValueError(f"format: samples of the {format} program differ from the model's by more than {TOLERANCE}")


def check_installed(format: str) -> None:
    """Raises ValueError for a package that an export needs and that is not there."""
    needed = {"onnx": ["onnx", "onnxscript", "onnxruntime"]}.get(format, [])
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ValueError(f'format: {format} needs {", ".join(missing)}: pip install "ganexp[onnx]"')


@contextmanager
def quietly() -> Iterator[None]:
    """The exporters' progress is not ours."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
