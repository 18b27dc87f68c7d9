"""README.md of an exported model: its model card (Mitchell et al. 2019, arXiv:1810.03993), in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ganexp.markdown import escaped, table
from ganexp.quantities import duration, grouped

LIMITS = """\
- The samples are generated; they show no real object, person or place, but may resemble training images closely.
- The model repeats what is frequent in its training data, and the biases of that data.
- The metrics compare samples with the training data. Compare values only if their fingerprints are equal.
- The discriminator and the optimizers were not exported: the model cannot be trained further."""


@dataclass
class Facts:
    """What a card is written from; what is not known is empty. `run`: run.json. `metrics`: of the exported weights, by name."""

    config: Mapping[str, Any]
    step: int
    system: str
    shape: Sequence[int]
    classes: int | None
    parameters: int
    latent_dim: int
    images_seen: int | None
    data_fingerprint: str | None
    metrics: Mapping[str, Any]
    run: Mapping[str, Any]
    data_license: str | None


def filled(rows: Sequence[Sequence[object]]) -> list[Sequence[object]]:
    """Returns the rows that have a last cell."""
    return [row for row in rows if row[-1] not in (None, "")]


def card(facts: Facts, picture: str | None, programs: Sequence[str]) -> str:
    """`picture`: the file of samples in the folder. `programs`: further files of the folder, `model.onnx`."""
    name = escaped(facts.config.get("name", "A model"))
    kind = "images" if len(facts.shape) == 3 else "points"
    head = {"library_name": "ganexp", "tags": ["gan", *(["image-generation"] if kind == "images" else [])]}
    data = short(mapping(facts.config.get("data")).get("_target_"))
    sentence = f"{facts.system} trained on {data}: {kind} {'×'.join(map(str, facts.shape))}, "
    sentence += f"{facts.classes} classes" if facts.classes else "unconditional"
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name}\n\n{escaped(sentence)}. Step {facts.step:,}.",
        f"![samples]({picture})\n\nSamples of the exported weights, not selected." if picture else "",
        f"## Use\n\n{usage(facts, programs)}",
        f"## Data\n\n{table(['', ''], filled(data_rows(facts)))}",
        f"## Training\n\n{table(['', ''], filled(training_rows(facts)))}",
        f"## Recipe\n\nWhole: config.yaml.\n\n{table(['part', 'settings'], recipe(facts.config.get('model'), 'model'))}",
        f"## Metrics\n\n{metrics(facts)}",
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def usage(facts: Facts, programs: Sequence[str]) -> str:
    shape = ", ".join(map(str, facts.shape))
    label = ", label=0" if facts.classes else ""
    scale = " in [-1, 1]" if len(facts.shape) == 3 else ""
    text = (
        f'```python\nimport ganexp\n\nmodel = ganexp.load(".")  # this folder; nothing in it runs code\n'
        f"x = model.sample(16{label}, seed=0)  # [16, {shape}]{scale}\n```"
    )
    prior = short(mapping(mapping(facts.config.get("model")).get("latent")).get("_target_"))
    inputs = f"z float32 [N, {facts.latent_dim}], sampled from {escaped(prior)}"
    inputs += f", and label int64 [N] from 0 to {facts.classes - 1}" if facts.classes else ""
    for program in programs:
        text += f"\n\n`{program}`: inputs {inputs}; output samples float32 [N, {shape}]{scale}."
    return text


def data_rows(facts: Facts) -> list[tuple[str, object]]:
    data, run = mapping(facts.config.get("data")), mapping(facts.run.get("data"))
    return [
        ("data set", short(data.get("_target_"))),
        ("samples", grouped(run.get("samples"))),
        ("settings", settings(data)),
        ("fingerprint", facts.data_fingerprint or "not known"),
        ("licence", facts.data_license or "not stated"),
    ]


def training_rows(facts: Facts) -> list[tuple[str, object]]:
    run, config = facts.run, facts.config
    hardware, versions, time = mapping(run.get("hardware")), mapping(run.get("versions")), duration(run.get("seconds"))
    return [
        ("steps", f"{facts.step:,}"),
        ("images seen", grouped(facts.images_seen)),
        ("batch", grouped(mapping(config.get("data")).get("batch_size"))),
        ("seed", config.get("seed")),
        ("parameters of the generator", f"{facts.parameters:,}"),
        ("averaged weights", half_life(mapping(config.get("model")).get("ema_half_life"))),
        ("hardware", ", ".join(f"{key} {value}" for key, value in hardware.items())),
        ("time", f"{time} for {grouped(run.get('steps'))} steps" if time else ""),  # the run may have gone beyond this step
        ("images per second", run.get("images_per_second")),
        ("started", run.get("started")),
        ("software", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ("commit of ganexp", run.get("git_commit")),
    ]


def metrics(facts: Facts) -> str:
    """The values of the exported weights, then the protocol of each."""
    if not facts.metrics:
        return "These weights were not measured (task=evaluate)."
    protocols = {name: mapping(mapping(facts.run.get("protocols")).get(name)) for name in facts.metrics}
    rows = [
        (name, f"{value:.6g}" if isinstance(value, int | float) else value, protocols[name].get("fingerprint", "not known"))
        for name, value in facts.metrics.items()
    ]
    text = table(["metric", "value", "fingerprint of the protocol"], rows)
    lines = [f"- {escaped(name)}: " + escaped(settings(flat(protocol))) for name, protocol in protocols.items() if protocol]
    return text + ("\n\nProtocols:\n\n" + "\n".join(lines) if lines else "")


def recipe(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every part of a nested config: its key, its class and its own settings."""
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        yield path, f"{short(node['_target_'])} {settings(node)}".strip()
    for key, value in node.items():
        yield from recipe(value, f"{path}.{key}")


def settings(node: Mapping[str, Any]) -> str:
    own = {key: value for key, value in node.items() if not str(key).startswith("_") and not isinstance(value, Mapping)}
    return ", ".join(f"{key} {plain(value)}" for key, value in own.items())


def flat(node: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A nested mapping as {"real.images": value}."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return found


def short(target: object) -> str:
    """`dcgan.Generator` for its whole path."""
    return ".".join(str(target).split(".")[-2:]) if target else "unknown"


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def mapping(value: object) -> Mapping[str, Any]:
    """run.json and configs may be damaged, or written by anybody."""
    return value if isinstance(value, Mapping) else {}


def half_life(images: object) -> str:
    return f"half-life {grouped(images)} images" if images else "none"
