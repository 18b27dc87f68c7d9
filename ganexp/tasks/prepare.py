"""task=prepare: raw pictures to a training set."""

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
from tqdm import tqdm

from ganexp import pictures
from ganexp.cli.messages import ConfigError
from ganexp.data.decoding import UNREADABLE, Fit, checked_colour, fitted, picture
from ganexp.data.parallel import in_parallel
from ganexp.data.preparing import Detector, Prepared, Settings, detector, perceptual_hash, prepare
from ganexp.data.sources import Source, Tree, is_picture, pictures_in
from ganexp.files import replace, write_json
from ganexp.runtime.console import shown, table

PREPARED, JOURNAL, SHEET, SIDE = "report.json", "prepare.jsonl", 64, 96
FLAT = "flat "  # begins the hash of a flat picture's content, in the journal


class Prepare:
    """The pictures of the folder or zip archive `source`, each through preparing.py, into the folder `target` as PNG under their
    own names; so that folders stay classes.

    `duplicates`: the greatest number of the 64 bits of two perceptual hashes that may differ for the second picture to be left
    out; flat pictures, of which these hashes say nothing, are only where their pixels are equal; null keeps all.
    Interrupted, it goes on where it was, and what has changed in `source` since is prepared anew. The
    report, `report.json` in the run folder, says of every picture what became of it; a sheet shows those that were kept, and one
    for each reason those that were not. The other arguments: see Settings, and conf/task/prepare.yaml for what null means. Raises
    ValueError for settings that make no sense, a missing library, and a target that contains something else.
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
    ):
        self.root, self.target, self.run_dir = Path(source), Path(target), run_dir
        sides = [size] * 2 if isinstance(size, int) else list(size)
        if len(sides) != 2 or not all(type(px) is int and px > 0 for px in sides):
            raise ValueError(f"size: px, or [height, width], not {size!r}")
        min_size = min(sides) if min_size is None else min_size
        background = checked_colour(background)
        self.settings = Settings(
            detect, margin, align, min_size, colour_only, min_sharpness, (sides[0], sides[1]), fit, background
        )
        self.duplicates = duplicates
        self.workers = workers if workers is not None else os.cpu_count() or 1
        if self.duplicates is not None and not 0 <= self.duplicates <= 64:
            raise ValueError(f"duplicates: from 0 to 64 bits, or null to keep all, not {self.duplicates}")
        if self.workers < 1:
            raise ValueError(f"workers: at least 1, not {self.workers}")

    def setup(self) -> None:
        """Look for the pictures, for what is needed to detect and compare them, and for what an earlier call has made."""
        try:
            self.source = pictures_in(self.root)
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
        there = set(self.source.names)
        self.annotations = {name: f"{name}.cat" if f"{name}.cat" in there else None for name in self.names}
        self.header = {"source": str(self.root.resolve()), **asdict(self.settings), "duplicates": self.duplicates}
        self.stale: set[str] = set()  # what was made of pictures that have changed or gone
        self.done = self.so_far()

    def so_far(self) -> dict[str, dict[str, Any]]:
        """What an earlier, interrupted preparation has come to, by the pictures' names; without those that have changed since."""
        journal = self.target / JOURNAL
        place = next(path for path in (self.target, *self.target.absolute().parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise ValueError(f"target: {place} cannot be written to")
        if self.root.resolve() in (self.target.resolve(), *self.target.resolve().parents):
            raise ValueError(f"target: {self.target} is inside source, and would be prepared too; choose another folder")
        if not journal.is_file():
            if self.target.exists() and any(self.target.iterdir()):
                raise ValueError(f"target: {self.target} contains something else; choose a new folder")
            return {}
        lines = journal.read_bytes().split(b"\n")[:-1]  # what comes after the last end of line was cut off
        try:
            header, *rows = [json.loads(line) for line in lines]
            done = {row["name"]: row for row in rows if {"stamp", "dropped", "hash", "output"} <= row.keys()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"target: {journal} is damaged; choose a new folder") from error
        now = json.loads(json.dumps(self.header))
        if header != now:
            other = [key for key in now if not isinstance(header, dict) or header.get(key) != now[key]]
            was = ", ".join(f"{key}={header.get(key)}" for key in other) if isinstance(header, dict) else "?"
            raise ValueError(f"target: {self.target} was prepared with other settings ({was}); choose a new folder")
        there = set(self.names)
        same = {
            name: row
            for name, row in done.items()
            if name in there
            and row["stamp"] == self.source.stamp(name)
            and (row["output"] is None or (self.target / row["output"]).is_file())
        }
        self.stale = {row["output"] for name, row in done.items() if name not in same and row["output"]}
        return same

    def run(self) -> None:
        """Prepare into `target`, print, and write the report and the sheets into the run folder."""
        self.target.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.target / ".lock", timeout=0):
                self.report(self.prepare())
        except Timeout as error:
            raise ConfigError(f"task.target: another process is preparing {self.target}") from error
        except (KeyboardInterrupt, SystemExit):
            print(f"  {len(self.done):,} of {len(self.names):,} pictures are done; the same command goes on")
            raise

    def prepare(self) -> list[str]:
        """The names of the pictures that are kept."""
        journal = self.target / JOURNAL
        if self.done:
            print(f"  going on after {len(self.done):,} of {len(self.names):,} pictures")
        lines = [json.dumps(row) for row in (self.header, *self.done.values())]
        replace(journal, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
        kept = [name for name, row in self.done.items() if row["dropped"] is None]
        seen = {name: self.done[name]["hash"] for name in kept if self.done[name]["hash"]}
        flat = {text: name for name, text in seen.items() if text.startswith(FLAT)}
        hashed = [name for name, text in seen.items() if not text.startswith(FLAT)]
        hashes = [int(seen[name], 16) for name in hashed]
        taken = {self.done[name]["output"] for name in kept}
        for stale in self.stale - taken:
            (self.target / stale).unlink(missing_ok=True)
        todo = [name for name in self.names if name not in self.done]
        with open(journal, "ab") as file:
            for name, found in zip(todo, self.prepared(todo), strict=True):
                if (bits := found.hash) is not None and self.duplicates is not None:
                    if (twin := nearest(bits, hashes)) is not None and twin[1] <= self.duplicates:
                        found = Prepared(dropped=f"duplicate of {hashed[twin[0]]}")
                    else:
                        hashes.append(bits)
                        hashed.append(name)
                elif found.content is not None and flat.setdefault(f"{FLAT}{found.content}", name) != name:
                    found = Prepared(dropped=f"duplicate of {flat[f'{FLAT}{found.content}']}")
                output: str | None = None
                if found.png is not None:
                    kept.append(name)
                    output, png = output_name(name, taken), found.png
                    taken.add(output)
                    replace(self.target / output, lambda file, png=png: file.write(png))  # type: ignore[misc]
                bits_text = f"{found.hash:x}" if found.hash is not None else f"{FLAT}{found.content}" if found.content else None
                row = {
                    "name": name,
                    "stamp": self.source.stamp(name),
                    "dropped": found.dropped,
                    "hash": bits_text,
                    "output": output,
                }
                file.write((json.dumps(row) + "\n").encode())
                file.flush()
                self.done[name] = row
        return kept

    def prepared(self, names: list[str]) -> Iterable[Prepared]:
        """In order, in parallel."""
        hashed = self.duplicates is not None
        work = partial(prepared, self.root, self.annotations, self.settings, hashed)
        results = in_parallel(work, names, self.workers, together=1)
        return tqdm(results, total=len(self.names), initial=len(self.done), desc="preparing", leave=False, disable=None)

    def report(self, kept: list[str]) -> None:
        dropped = {name: self.done[name]["dropped"] for name in self.names if self.done[name]["dropped"] is not None}
        reasons = Counter(short(reason) for reason in dropped.values())
        counts = {"pictures": len(self.names), "kept": len(kept), "dropped": dict(reasons.most_common())}
        write_json({"settings": self.header, **counts, "why": dropped}, self.run_dir / PREPARED)
        sheets = ["kept.png"] if kept else []
        if kept:
            made = Tree(self.target)
            pictures.save(sheet(made, [self.done[name]["output"] for name in kept[:SHEET]]), self.run_dir / "kept.png")
        for reason in reasons:
            names = [name for name, why in dropped.items() if short(why) == reason][:SHEET]
            sheets.append(f"{reason.replace(' ', '_')}.png")
            pictures.save(sheet(self.source, names), self.run_dir / sheets[-1])
        print(table(["", "pictures"], [["kept", f"{len(kept):,}"], *([why, f"{n:,}"] for why, n in reasons.most_common())]))
        size = "×".join(map(str, self.settings.size))
        print(f"  {shown(self.target)}: {len(kept):,} of {len(self.names):,} pictures, {size}")
        if "labels.csv" in self.source.names:
            print("  labels.csv is not copied: the pictures have other names now, NAME.png; write it anew for them")
        print(f"  written to {shown(self.run_dir)}: {PREPARED}, {', '.join(sheets)}")


def prepared(root: Path, annotations: Mapping[str, str | None], settings: Settings, hashed: bool, name: str) -> Prepared:
    return prepare(root, name, annotations[name], settings, hashed)


def sheet(source: Source, names: list[str]) -> Image.Image:
    """Pictures side by side; an unreadable one is a red square."""
    columns = min(8, len(names))
    drawn = Image.new("RGB", (columns * SIDE, -(-len(names) // columns) * SIDE))
    for i, name in enumerate(names):
        try:
            thumbnail = fitted(picture(source.read(name), "RGB"), SIDE - 2, SIDE - 2, "pad")
        except UNREADABLE:
            thumbnail = Image.new("RGB", (SIDE - 2, SIDE - 2), "darkred")
        drawn.paste(thumbnail, (i % columns * SIDE + 1, i // columns * SIDE + 1))
    return drawn


def output_name(name: str, taken: set[str]) -> str:
    """`a/b.jpg` becomes `a/b.png`, or `a/b.jpg.png` where that is taken."""
    wanted = f"{os.path.splitext(name)[0]}.png"
    while wanted in taken:
        wanted = f"{name}.png"
        name = f"{name}_"
    return wanted


def nearest(wanted: int, hashes: list[int]) -> tuple[int, int] | None:
    """The index of the hash nearest to one, and the number of bits in which they differ."""
    if not hashes:
        return None
    differing = np.unpackbits((np.array(hashes, np.uint64) ^ np.uint64(wanted)).view(np.uint8)).reshape(-1, 64).sum(1)
    return int(differing.argmin()), int(differing.min())


def short(reason: str) -> str:
    """`unreadable: …` and `duplicate of …` without what is of one picture alone."""
    return reason.split(":")[0].split(" of ")[0]
