"""task=prepare: make a training set from raw pictures."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from ganexp import pictures
from ganexp.cli.messages import ConfigError
from ganexp.data.decoding import UNREADABLE, Fit, decode_image, parse_colour, resize_image
from ganexp.data.parallel import in_parallel
from ganexp.data.preparing import Detector, Prepared, Settings, detector, perceptual_hash, prepare
from ganexp.data.sources import MAX_BYTES, MAX_PIXELS, FolderSource, Limits, Source, is_picture, open_source, other_types
from ganexp.files import replace, write_json
from ganexp.progress import bar
from ganexp.runtime.console import display_path, table

REPORT, JOURNAL = "report.json", "prepare.jsonl"
SHEET, SIDE = 64, 96  # thumbnails in a sheet, px of a thumbnail's side
FLAT = "flat "  # prefix of a flat picture's content hash in the journal


class Prepare:
    """Prepares the pictures of the folder or zip archive `source` with preparing.py and writes them as PNG into the folder
    `target`, under the same relative names, so that folders remain classes.

    `duplicates`: drop a picture whose perceptual hash differs from an earlier one's in at most this many of 64 bits; flat
    pictures, whose hashes are meaningless, only if all pixels are equal; None keeps all. An interrupted call continues where it
    stopped, and prepares pictures again that have changed in `source`. `report.json` in the run folder gives the reason for every
    dropped picture; a sheet shows the kept pictures, and one sheet per reason the dropped ones. The other arguments: see
    Settings, and conf/task/prepare.yaml for the meaning of null. Raises ValueError for invalid settings, a missing library, and a
    target with other contents.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        source: str,
        target: str,
        size: int | Sequence[int] = 128,
        detect: Detector = "none",
        margin: float = 0.2,
        align: bool = True,
        min_size: int | None = None,
        colour_only: bool = False,
        min_sharpness: float = 0,
        duplicates: int | None = None,
        fit: Fit = "crop",
        background: str = "black",
        workers: int | None = None,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        self.root, self.target, self.run_dir = Path(source), Path(target), run_dir
        sides = [size] * 2 if isinstance(size, int) else list(size)
        if len(sides) != 2 or not all(type(px) is int and px > 0 for px in sides):
            raise ValueError(f"size: must be px or [height, width], got {size!r}")
        min_size = min(sides) if min_size is None else min_size
        background = parse_colour(background)
        self.settings = Settings(
            detect, margin, align, min_size, colour_only, min_sharpness, (sides[0], sides[1]), fit, background,
            Limits(max_bytes, max_pixels),
        )  # fmt: skip
        self.duplicates = duplicates
        self.workers = workers if workers is not None else os.cpu_count() or 1
        if self.duplicates is not None and not 0 <= self.duplicates <= 64:
            raise ValueError(f"duplicates: must be from 0 to 64 bits, or null to keep all, got {self.duplicates}")
        if self.workers < 1:
            raise ValueError(f"workers: must be at least 1, got {self.workers}")

    def setup(self) -> None:
        """Find the pictures, the libraries to detect and compare them, and the results of an earlier call."""
        try:
            self.source = open_source(self.root, self.settings.limits)
        except FileNotFoundError as error:
            raise ValueError(f"source: {error}") from error
        try:
            if self.settings.detect != "none":
                detector(self.settings.detect)
            if self.duplicates is not None:
                perceptual_hash(Image.new("RGB", (8, 8)))
        except ImportError as error:
            key, extra = ("detect", "anime" if self.settings.detect == "anime_face" else "prepare")
            key = "duplicates" if "imagehash" in str(error) else key
            raise ValueError(f'{key}: {error}; pip install "ganexp[{"prepare" if key == "duplicates" else extra}]"') from error
        self.names = [name for name in self.source.names if is_picture(name)]
        files = set(self.source.names)
        self.annotations = {name: f"{name}.cat" if f"{name}.cat" in files else None for name in self.names}
        self.header = {"source": str(self.root.resolve()), **asdict(self.settings), "duplicates": self.duplicates}
        self.stale: set[str] = set()  # outputs of pictures that were changed or deleted
        self.done = self.load_journal()

    def load_journal(self) -> dict[str, dict[str, Any]]:
        """Returns the rows of an interrupted call by the pictures' names, without pictures that have changed since."""
        journal = self.target / JOURNAL
        existing = next(path for path in (self.target, *self.target.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise ValueError(f"target: {existing} is not a writable folder")
        if self.root.resolve() in (self.target.resolve(), *self.target.resolve().parents):
            raise ValueError(f"target: {self.target} is inside source; choose a folder outside")
        if not journal.is_file():
            if self.target.exists() and any(file.name != ".lock" for file in self.target.iterdir()):  # left by a failed call
                raise ValueError(f"target: {self.target} has other contents; choose a new folder")
            return {}
        lines = journal.read_bytes().split(b"\n")[:-1]  # an interrupted write leaves an incomplete last line
        try:
            header, *rows = [json.loads(line) for line in lines]
            done = {row["name"]: row for row in rows if {"stamp", "dropped", "hash", "output"} <= row.keys()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"target: {journal} is damaged; choose a new folder") from error
        expected = json.loads(json.dumps(self.header))
        if header != expected:
            changed = [key for key in expected if not isinstance(header, dict) or header.get(key) != expected[key]]
            before = ", ".join(f"{key}={header.get(key)}" for key in changed) if isinstance(header, dict) else "?"
            raise ValueError(f"target: {self.target} was prepared with other settings ({before}); choose a new folder")
        names = set(self.names)
        unchanged = {
            name: row
            for name, row in done.items()
            if name in names
            and row["stamp"] == self.stamp(name)
            and (row["output"] is None or (self.target / row["output"]).is_file())
        }
        self.stale = {row["output"] for name, row in done.items() if name not in unchanged and row["output"]}
        gone = {f"duplicate of {name}" for name in done.keys() - unchanged.keys()}
        return {name: row for name, row in unchanged.items() if row["dropped"] not in gone}

    def stamp(self, name: str) -> str:
        """Returns a text that changes when the picture or its annotation does."""
        files = [name, *([annotation] if (annotation := self.annotations[name]) else [])]
        return " ".join(map(self.source.stamp, files))

    def run(self) -> None:
        """Prepare the pictures, and write the report and the sheets into the run folder."""
        self.target.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.target / ".lock", timeout=0):
                self.report(self.prepare())
        except Timeout as error:
            raise ConfigError(f"task.target: another process is preparing {self.target}") from error
        except (KeyboardInterrupt, SystemExit):
            print(f"  {len(self.done):,} of {len(self.names):,} pictures are done; run the same command to continue")
            raise

    def prepare(self) -> list[str]:
        """Returns the names of the pictures that are kept."""
        journal = self.target / JOURNAL
        if self.done:
            print(f"  continuing after {len(self.done):,} of {len(self.names):,} pictures")
        lines = [json.dumps(row) for row in (self.header, *self.done.values())]
        replace(journal, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
        kept = [name for name, row in self.done.items() if row["dropped"] is None]
        hash_texts = {name: self.done[name]["hash"] for name in kept if self.done[name]["hash"]}
        flat = {text: name for name, text in hash_texts.items() if text.startswith(FLAT)}
        hashed = [name for name, text in hash_texts.items() if not text.startswith(FLAT)]
        hashes = [int(hash_texts[name], 16) for name in hashed]
        taken = {self.done[name]["output"] for name in kept}
        for stale in self.stale - taken:
            (self.target / stale).unlink(missing_ok=True)
        todo = [name for name in self.names if name not in self.done]
        with open(journal, "ab") as file:
            for name, result in zip(todo, self.prepared(todo), strict=True):
                if (bits := result.hash) is not None and self.duplicates is not None:
                    if (match := nearest(bits, hashes)) is not None and match[1] <= self.duplicates:
                        result = Prepared(dropped=f"duplicate of {hashed[match[0]]}")
                    else:
                        hashes.append(bits)
                        hashed.append(name)
                elif result.content is not None and flat.setdefault(f"{FLAT}{result.content}", name) != name:
                    result = Prepared(dropped=f"duplicate of {flat[f'{FLAT}{result.content}']}")
                output: str | None = None
                if result.png is not None:
                    kept.append(name)
                    output, png = output_name(name, taken), result.png
                    taken.add(output)
                    replace(self.target / output, lambda file, png=png: file.write(png))  # type: ignore[misc]
                hash_text = (
                    f"{result.hash:x}" if result.hash is not None else f"{FLAT}{result.content}" if result.content else None
                )
                row = {
                    "name": name,
                    "stamp": self.stamp(name),
                    "dropped": result.dropped,
                    "hash": hash_text,
                    "output": output,
                }
                file.write((json.dumps(row) + "\n").encode())
                file.flush()
                self.done[name] = row
        return kept

    def prepared(self, names: list[str]) -> Iterable[Prepared]:
        """Prepare in parallel; yields the results in order."""
        hashed = self.duplicates is not None
        work = partial(prepared, self.root, self.annotations, self.settings, hashed)
        results = in_parallel(work, names, self.workers, batch_size=1)
        return bar(results, "preparing", len(self.names), initial=len(self.done))

    def report(self, kept: list[str]) -> None:
        dropped = {name: self.done[name]["dropped"] for name in self.names if self.done[name]["dropped"] is not None}
        reasons = Counter(category(reason) for reason in dropped.values())
        counts = {"pictures": len(self.names), "kept": len(kept), "dropped": dict(reasons.most_common())}
        write_json({"settings": self.header, **counts, "why": dropped}, self.run_dir / REPORT)
        sheets = ["kept.png"] if kept else []
        if kept:
            outputs = FolderSource(self.target)
            pictures.save(sheet(outputs, [self.done[name]["output"] for name in kept[:SHEET]]), self.run_dir / "kept.png")
        for reason in reasons:
            names = [name for name, why in dropped.items() if category(why) == reason][:SHEET]
            sheets.append(f"{reason.replace(' ', '_')}.png")
            pictures.save(sheet(self.source, names), self.run_dir / sheets[-1])
        print(table(["", "pictures"], [["kept", f"{len(kept):,}"], *([why, f"{n:,}"] for why, n in reasons.most_common())]))
        size = "×".join(map(str, self.settings.size))
        print(f"  {display_path(self.target)}: {len(kept):,} of {len(self.names):,} pictures, {size}")
        if others := other_types(self.source.names):
            print(f"  files of other types are left out: {others}")
        if "labels.csv" in self.source.names:
            print("  labels.csv is not copied: the pictures are now called NAME.png; write a new one")
        print(f"  written to {display_path(self.run_dir)}: {REPORT}, {', '.join(sheets)}")


def prepared(root: Path, annotations: Mapping[str, str | None], settings: Settings, hashed: bool, name: str) -> Prepared:
    return prepare(root, name, annotations[name], settings, hashed)


def sheet(source: Source, names: list[str]) -> Image.Image:
    """Render a contact sheet of pictures; an unreadable one is a red square."""
    columns = min(8, len(names))
    image = Image.new("RGB", (columns * SIDE, -(-len(names) // columns) * SIDE))
    for i, name in enumerate(names):
        try:
            picture = decode_image(source.read(name), "RGB", max_pixels=source.limits.max_pixels)
            thumbnail = resize_image(picture, SIDE - 2, SIDE - 2, "pad")
        except UNREADABLE:
            thumbnail = Image.new("RGB", (SIDE - 2, SIDE - 2), "darkred")
        image.paste(thumbnail, (i % columns * SIDE + 1, i // columns * SIDE + 1))
    return image


def output_name(name: str, taken: set[str]) -> str:
    """Returns `a/b.png` for `a/b.jpg`, or `a/b.jpg.png` if that is taken."""
    output = f"{os.path.splitext(name)[0]}.png"
    while output in taken:
        output = f"{name}.png"
        name = f"{name}_"
    return output


def nearest(query: int, hashes: list[int]) -> tuple[int, int] | None:
    """Returns the index of the nearest hash, and in how many bits it differs; None if there are no hashes."""
    if not hashes:
        return None
    distances = np.unpackbits((np.array(hashes, np.uint64) ^ np.uint64(query)).view(np.uint8)).reshape(-1, 64).sum(1)
    return int(distances.argmin()), int(distances.min())


def category(reason: str) -> str:
    """Returns `unreadable` for `unreadable: …`, and `duplicate` for `duplicate of …`."""
    return reason.split(":")[0].split(" of ")[0]
