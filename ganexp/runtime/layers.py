"""The layers of networks: their names in papers, output shapes and parameter counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

ROWS = 32  # most rows of one network; a deeper one is listed by its blocks
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
BELONGS = (  # listed with the layer before
    nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Dropout, nn.Dropout2d,
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.GLU, nn.Tanh, nn.Sigmoid,
)  # fmt: skip
NAMES = {
    nn.Linear: "fully connected",
    nn.ReLU: "ReLU",
    nn.GLU: "GLU",
    nn.SiLU: "SiLU",
    nn.GELU: "GELU",
    nn.ELU: "ELU",
    nn.PReLU: "PReLU",
    nn.BatchNorm1d: "batch norm",
    nn.BatchNorm2d: "batch norm",
    nn.SyncBatchNorm: "batch norm",
    nn.InstanceNorm2d: "instance norm",
    nn.Unflatten: "reshape",
    nn.AvgPool2d: "average pooling",
    nn.AdaptiveAvgPool2d: "average pooling",
    nn.ReflectionPad2d: "reflection padding",
    nn.Sequential: "block",
}


@dataclass
class Layer:
    """`name`: in the network, such as `blocks.0.conv`. `kind`: its name in papers. `shape`: of its output for one sample."""

    name: str
    kind: str
    shape: list[int]
    parameters: int


def layers_of(networks: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, list[Layer]]:
    """Returns the layers of each network by name, in the order of their first calls in `run`."""
    calls: dict[nn.Module, list[int]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        calls.setdefault(module, shape_of(output))

    modules = {module: None for network in networks.values() for module in network.modules()}
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: rows(network, calls) for name, network in networks.items()}


def shape_of(output: Any) -> list[int]:
    """Returns the shape, without the batch, of the first tensor in an output."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return list(output.shape[1:]) if isinstance(output, Tensor) else []


def rows(network: nn.Module, calls: Mapping[nn.Module, list[int]]) -> list[Layer]:
    """Returns the network's layers, or its blocks if it has more than ROWS layers. Parameters outside of them come last."""
    names = {module: name for name, module in network.named_modules()}
    layers_inside = tuple(f"{name}." for module, name in names.items() if name and is_layer(module))
    called = [m for m in calls if names.get(m) and not names[m].startswith(layers_inside) and not isinstance(m, nn.Identity)]
    deepest = max((names[module].count(".") for module in called), default=0)
    for depth in range(deepest, -1, -1):
        layers: list[Layer] = []
        for module in called:
            below = names[module].count(".")
            if below > depth or (below < depth and not is_layer(module)):
                continue
            count = sum(p.numel() for p in module.parameters())
            if isinstance(module, BELONGS) and layers and layers[-1].shape == calls[module]:
                layers[-1].kind += f" + {kind(module)}"
                layers[-1].parameters += count
            else:
                layers.append(Layer(names[module], kind(module), calls[module], count))
        if len(layers) <= ROWS:
            break
    rest = sum(p.numel() for p in network.parameters()) - sum(layer.parameters for layer in layers)
    return layers + ([Layer("", "other parameters", [], rest)] if rest > 0 else [])


def is_layer(module: nn.Module) -> bool:
    """Whether a module has its own weights, or no submodules. (A modulated convolution has weights and submodules.)"""
    return is_parametrized(module) or not list(module.children()) or bool(list(module.parameters(recurse=False)))


def kind(module: nn.Module) -> str:
    """Returns a module's name in papers, such as `conv 4×4, stride 2`."""
    normal = ", spectral norm" if is_parametrized(module, "weight") else ""
    # torch creates a class for each parametrized module
    cls = type(module).__mro__[1] if is_parametrized(module) else type(module)
    if isinstance(module, CONVOLUTIONS):
        size = "×".join(map(str, module.kernel_size))
        stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
        transposed = "transposed " if module.transposed else ""
        grouped = f", {module.groups} groups" if module.groups > 1 else ""
        return f"{transposed}conv {size}{stride}{grouped}{normal}"
    if isinstance(module, nn.LeakyReLU):
        return f"leaky ReLU {module.negative_slope:g}"
    if isinstance(module, nn.Upsample):
        return f"upsampling ×{module.scale_factor:g}" if isinstance(module.scale_factor, int | float) else "upsampling"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", re.sub(r"[12]d$", "", cls.__name__))
    return NAMES.get(cls, {"Linear": NAMES[nn.Linear]}.get(words, words.lower())) + normal
