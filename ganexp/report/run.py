"""The report of one run, from the files in its folder."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ganexp import pictures
from ganexp.cli.checks import leaves
from ganexp.cli.config import recipe
from ganexp.cli.messages import ConfigError
from ganexp.files import check_yaml, replace
from ganexp.quantities import duration, grouped
from ganexp.records import read_record
from ganexp.references import Reference, references
from ganexp.report.charts import Curve, chart, read_curves

log = logging.getLogger(__name__)
FILE = "report.html"
FILM, FRAMES = 480, 24  # px; maximum number of pictures in the film
LONGEST = 1000  # maximum number of characters of one value
FIRST = {  # charts of curves, in front of the metrics
    "losses": {"loss/discriminator": "D", "loss/generator": "G", "loss": "loss"},
    "scores of D": {"score/D(x)": "D(x)", "score/D(G(z))_before": "D(G(z)) before", "score/D(G(z))_after": "D(G(z)) after"},
}


@dataclass
class Neighbours:
    """A picture with a row for each sample, the sample followed by its nearest training samples; and its caption."""

    picture: Image.Image
    caption: str


def write_report(run_dir: Path, neighbours: Neighbours | str) -> Path:
    """Write report.html into a run's folder, from run.json, metrics.csv, samples and Hydra's record, leaving out what is missing.
    `neighbours`: the picture, or why there is none. Returns the file. Raises OSError if it cannot be written."""
    text = rendered("run.html", contents(run_dir, neighbours))
    replace(run_dir / FILE, lambda file: file.write(text.encode(errors="backslashreplace")))
    return run_dir / FILE


def write_study_report(
    folder: Path,
    ranking: str,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    notes: Sequence[str],
    plots: Mapping[str, Image.Image],
    runs: int,
) -> None:
    """Write report.html of a study into its folder: the tables of the leaderboard, what they say, and plots by their titles.

    `ranking`: the metric and its direction. `tables`: title, header and cells of each. `runs`: their number. Raises OSError if it
    cannot be written.
    """
    content = {"name": folder.resolve().name, "ranking": ranking, "tables": tables, "notes": notes, "runs": runs}
    text = rendered("study.html", content | {"pictures": [(title, encoded(plot)) for title, plot in plots.items()]})
    replace(folder / FILE, lambda file: file.write(text.encode(errors="backslashreplace")))


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """Fill in a template of this folder. All values are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("ganexp", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(content)


def contents(run_dir: Path, neighbours: Neighbours | str) -> dict[str, Any]:
    """Returns the variables of the template."""
    run, config = read_record(run_dir), read_yaml(run_dir / "config.yaml")
    curves = read_curves(run_dir / "metrics.csv")
    protocols = {name: mapping(value) for name, value in mapping(run.get("protocols")).items()}
    known = references(mapping(config.get("data")), protocols)
    frames = [file for file in sorted((run_dir / "samples").glob("step-*.png")) if file.stem[5:].isdecimal()]
    remarks = [remark for remark in map(mapping, listed(run.get("remarks"))) if isinstance(remark.get("step"), int)]
    experiment, changes = config_changes(run_dir)
    weights = "averaged weights" if mapping(config.get("model")).get("ema_half_life") else "weights of this step"
    return {
        "name": shown(run.get("name") or run_dir.resolve().name),
        "status": shown(run.get("status", "unknown")),
        "error": shown(run["error"]) if run.get("error") else None,
        "folder": run_dir.resolve().name,
        "headline": headline(run),
        "film": film(frames) if len(frames) > 1 else None,
        "samples": picture(frames[-1]) if frames else None,
        "samples_caption": f"Step {int(frames[-1].stem.removeprefix('step-')):,}, {weights}, fixed latents, not selected."
        if frames
        else "The run has no pictures of samples.",
        "neighbours": encoded(neighbours.picture) if isinstance(neighbours, Neighbours) else None,
        "neighbours_caption": neighbours.caption if isinstance(neighbours, Neighbours) else f"Not shown: {neighbours}.",
        "remarks": [*((f"{r['step']:,}", shown(r.get("message"))) for r in remarks), *rollbacks(run)],
        **charts(curves, run, known, [remark["step"] for remark in remarks]),
        "standings": [shown(sentence) for sentence in listed(run.get("standings"))],
        "metrics": metric_rows(run, protocols),
        "protocols": [(name, sorted(flat(protocol).items())) for name, protocol in protocols.items()],
        "references": [(r.metric, r.label, r.protocol, r.source) for r in known],
        "experiment": experiment,
        "changes": changes,
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        "system": system_rows(run),
        "notes": [shown(note) for note in [*listed(run.get("notes")), *listed(mapping(run.get("data")).get("notes"))]],
    }


# -- parts -------------------------------------------------------------------------------------------------------------


def headline(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the run in a few numbers."""
    kind = "images" if len(listed(mapping(run.get("data")).get("shape"))) == 3 else "points"
    found = [("steps", grouped(run.get("steps"))), (f"{kind} seen", grouped(run.get("images_seen")))]
    found += [("time", duration(run.get("seconds"))), (f"{kind}/s", grouped(run.get("images_per_second")))]
    for name, value in list(mapping(run.get("metrics")).items())[:2]:
        found.append((name, significant(mapping(value).get("last"))))
    return [(name, value) for name, value in found if value]


def charts(
    curves: Mapping[str, Curve], run: Mapping[str, Any], known: Sequence[Reference], marks: Sequence[int]
) -> dict[str, list[tuple[str, str]]]:
    """`charts`: losses, D's scores and metrics; `details`: everything else, a chart for each first part of the names."""
    measured = mapping(run.get("metrics"))
    first, rest = [], []
    for title, names in FIRST.items():
        if lines := {label: curves[name] for name, label in names.items() if name in curves}:
            first.append((title, chart(title, lines, marks)))
    for name in [name for name in measured if name in curves]:
        value = mapping(measured[name])
        best = (
            (value["best_step"], value["best"]) if {"best", "best_step"} <= value.keys() and value["best"] is not None else None
        )
        shown_references = [reference for reference in known if reference.metric == name]
        first.append((name, chart(name, {name: curves[name]}, marks, shown_references, best, logarithmic=True)))
    used = {name for names in FIRST.values() for name in names} | measured.keys() | {"images_seen"}
    groups: dict[str, dict[str, Curve]] = {}
    for name in [name for name in curves if name not in used]:
        group, _, label = name.partition("/")
        groups.setdefault(group, {})[label or name] = curves[name]
    for group, lines in groups.items():
        rest.append((group, chart(group, lines, marks)))
    return {"charts": first, "details": rest}


def rollbacks(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = map(mapping, listed(run.get("rollbacks")))
    return [(grouped(entry.get("to")), f"rolled back to here: {shown(entry.get('because'))}") for entry in found]


def metric_rows(run: Mapping[str, Any], protocols: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Returns for every value its name, last value, mean of the last five, best, step of the best and the protocol's
    fingerprint."""
    rows = []
    for name, value in mapping(run.get("metrics")).items():
        numbers = [significant(mapping(value).get(key)) for key in ("last", "mean_of_last_5", "best")]
        step = grouped(mapping(value).get("best_step"))
        rows.append([name, *numbers, step, shown(protocols.get(name, {}).get("fingerprint", ""))])
    return rows


def config_changes(run_dir: Path) -> tuple[str, list[tuple[str, str, str]] | None]:
    """Returns the name of the run's experiment, and the key, the experiment's value and the run's value of every difference; None
    if there is no record of the command line, or the experiment cannot be composed here."""
    config, hydra = read_yaml(run_dir / ".hydra" / "config.yaml"), read_yaml(run_dir / ".hydra" / "hydra.yaml")
    choices = mapping(mapping(mapping(hydra.get("hydra")).get("runtime")).get("choices"))
    experiment = choices.get("experiment")
    title = f"experiment={experiment}" if experiment else "the default"
    if not config:
        return title, None
    try:
        before = dict(leaves(recipe(experiment)))
    except ConfigError as error:  # of a --config-dir that is not given now, or of another version
        log.info("report: %s: %s", title, error)
        return title, None
    after = dict(leaves(config))
    keys = [
        key for key in [*before, *(key for key in after if key not in before)] if not key.startswith((".task", ".run", ".trust"))
    ]
    changed = [key for key in keys if repr(before.get(key)) != repr(after.get(key))]
    return title, [(key[1:], plain(before, key), plain(after, key)) for key in changed if not key.startswith((".task", ".run"))]


def system_rows(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    hardware, versions, data = mapping(run.get("hardware")), mapping(run.get("versions")), mapping(run.get("data"))
    rows = [
        ("command", run.get("command")),
        ("started", run.get("started")),
        ("time", duration(run.get("seconds"))),
        ("resumed at step", ", ".join(map(grouped, listed(run.get("resumed_at"))))),
        ("seed", run.get("seed")),
        (
            "data",
            f"{grouped(data.get('samples'))} samples of shape {'×'.join(map(str, listed(data.get('shape'))))}" if data else "",
        ),
        ("parameters", ", ".join(f"{name} {grouped(size)}" for name, size in mapping(run.get("parameters")).items())),
        ("hardware", ", ".join(f"{key} {value}" for key, value in hardware.items())),
        ("versions", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ("commit of ganexp", run.get("git_commit")),
    ]
    return [(name, shown(value)) for name, value in rows if value not in (None, "")]


# -- pictures ----------------------------------------------------------------------------------------------------------


def film(frames: Sequence[Path]) -> str | None:
    """Evenly spaced ones of the pictures as an animated WebP."""
    last = len(frames) - 1
    chosen = [frames[round(i * last / (FRAMES - 1))] for i in range(FRAMES)] if last >= FRAMES else frames
    images = [image for image in map(opened, chosen) if image is not None]
    if not images:
        return None
    images = [resized(image, FILM).resize(resized(images[0], FILM).size) for image in images]
    durations = [max(80, 5000 // len(images))] * (len(images) - 1) + [2000]
    file = io.BytesIO()
    images[0].save(file, "WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, quality=50, method=0)
    return uri(file.getvalue())


def picture(path: Path) -> str | None:
    image = opened(path)
    return None if image is None else encoded(image)


def encoded(image: Image.Image) -> str:
    """As WebP of at most 1,000 px, on average 50 to 150 kB."""
    file = io.BytesIO()
    resized(image, 1000).save(file, "WEBP", quality=85, method=2)
    return uri(file.getvalue())


def uri(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode()


def opened(path: Path) -> Image.Image | None:
    try:
        return pictures.read(path)
    except pictures.UNREADABLE as error:
        log.info("report: %s cannot be read: %s", path, error)
        return None


def resized(image: Image.Image, width: int) -> Image.Image:
    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BICUBIC)


# -- values of files, which anybody may have written ---------------------------------------------------------------------


def read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        check_yaml(file)
        return mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.info("report: %s is left out: %s", file, error)
        return {}


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def flat(node: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in node.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": shown(value)}
    return found


def plain(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "–"


def shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def significant(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"
