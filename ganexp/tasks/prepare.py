"""task=prepare: raw pictures to a training set."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from PIL import Image
from tqdm import tqdm

from ganexp import pictures
from ganexp.data.decoding import UNREADABLE, checked_colour, fitted, picture
from ganexp.data.preparing import Prepared, Settings, detector, perceptual_hash, prepare
from ganexp.data.sources import is_picture, pictures_in
from ganexp.files import replace, write_json
from ganexp.mistakes import Mistake
from ganexp.tasks.screen import shown, table

log = logging.getLogger(__name__)
PREPARED, JOURNAL, SHEET, SIDE = "report.json", "prepare.jsonl", 64, 96


class Prepare:
    """The pictures of the folder or zip archive `source`, each through preparing.py, into the folder `target` as PNG under their
    own names; so that folders stay classes.

    `duplicates`: the greatest number of the 64 bits of two perceptual hashes that may differ for the second picture to be left
    out; null keeps all. Interrupted, it goes on where it was. The report, `report.json`, says of every picture what became of
    it; a sheet shows those that were kept, and one for each reason those that were not. Raises Mistake for settings that make no
    sense, a missing library, and a target that holds something else.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path):
        for key in ("source", "target"):
            if config[key] is None:
                raise Mistake(f"{key}: must be given: {key}=FOLDER")
        self.root, self.target, self.run_dir = Path(config["source"]), Path(config["target"]), run_dir
        size = config["size"] if isinstance(config["size"], list) else [config["size"]] * 2
        least = min(size) if config["min_size"] is None else config["min_size"]
        names = ("detect", "margin", "align", "colour_only", "min_sharpness", "fit", "background")
        try:
            self.settings = Settings(**{name: config[name] for name in names}, size=tuple(size), min_size=least)
            checked_colour(config["background"])
            self.source = pictures_in(self.root)
        except FileNotFoundError as error:
            raise Mistake(f"source: {error}") from error
        except ValueError as error:
            raise Mistake(str(error)) from error
        self.duplicates, self.workers = (
            config["duplicates"],
            config["workers"] if config["workers"] is not None else os.cpu_count() or 1,
        )
        if self.duplicates is not None and not 0 <= self.duplicates <= 64:
            raise Mistake(f"duplicates: from 0 to 64 bits, or null to keep all, not {self.duplicates}")
        if self.workers < 1:
            raise Mistake(f"workers: at least 1, not {self.workers}")
        try:
            if self.settings.detect != "none":
                detector(self.settings.detect)
            if self.duplicates is not None:
                perceptual_hash(Image.new("RGB", (8, 8)))
        except ImportError as error:
            key, extra = ("detect", "anime" if self.settings.detect == "anime_face" else "prepare")
            key = "duplicates" if "imagehash" in str(error) else key
            raise Mistake(f'{key}: {error}; pip install "ganexp[{"prepare" if key == "duplicates" else extra}]"') from error
        self.names = [name for name in self.source.names if is_picture(name)]
        there = set(self.source.names)
        self.annotations = {name: f"{name}.cat" if f"{name}.cat" in there else None for name in self.names}
        self.outputs = output_names(self.names)
        self.header = {"source": str(self.root.resolve()), **asdict(self.settings), "duplicates": self.duplicates}
        self.done = self.so_far()

    def so_far(self) -> dict[str, dict[str, Any]]:
        """What an earlier, interrupted preparation has come to, by the pictures' names."""
        journal = self.target / JOURNAL
        if not journal.is_file():
            if self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir())):
                raise Mistake(f"target: {self.target} holds something else; choose a new folder")
            return {}
        lines = journal.read_bytes().split(b"\n")[:-1]  # what comes after the last end of line was cut off
        try:
            header, *rows = [json.loads(line) for line in lines]
        except ValueError as error:
            raise Mistake(f"target: {journal} is damaged; choose a new folder") from error
        now = json.loads(json.dumps(self.header))
        if header != now:
            other = [key for key in now if header.get(key) != now[key]]
            was = ", ".join(f"{key}={header.get(key)}" for key in other)
            raise Mistake(f"target: {self.target} was prepared otherwise ({was}); choose a new folder")
        return {row["name"]: row for row in rows}

    def run(self) -> None:
        """Prepare, print, and write into `target`; the report and the sheets into the run folder too."""
        if self.done:
            print(f"  going on after {len(self.done):,} of {len(self.names):,} pictures")
        self.target.mkdir(parents=True, exist_ok=True)
        hashes = [int(row["hash"], 16) for row in self.done.values() if row["dropped"] is None and row["hash"]]
        kept = [row["name"] for row in self.done.values() if row["dropped"] is None]
        todo = [name for name in self.names if name not in self.done]
        journal = self.target / JOURNAL
        if not self.done:
            replace(journal, lambda file: file.write((json.dumps(self.header) + "\n").encode()))
        with open(journal, "r+b") as file:
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.seek(whole)
            for name, found in zip(todo, self.prepared(todo), strict=True):
                if (bits := found.hash) is not None and self.duplicates is not None:
                    if (twin := nearest(bits, hashes)) is not None and twin[1] <= self.duplicates:
                        found = Prepared(dropped=f"duplicate of {kept[twin[0]]}")
                    else:
                        hashes.append(bits)
                if found.png is not None:
                    kept.append(name)
                    png = found.png
                    replace(self.target / self.outputs[name], lambda file, png=png: file.write(png))  # type: ignore[misc]
                row = {"name": name, "dropped": found.dropped, "hash": f"{found.hash:x}" if found.hash is not None else None}
                file.write((json.dumps(row) + "\n").encode())
                file.flush()
                self.done[name] = row
        self.report(kept)

    def prepared(self, names: list[str]) -> Iterable[Prepared]:
        """In order, in parallel."""
        hashed = self.duplicates is not None
        work = (delayed(prepare)(self.root, name, self.annotations[name], self.settings, hashed) for name in names)
        results = Parallel(n_jobs=min(self.workers, max(1, len(names))), return_as="generator")(work)
        return tqdm(results, total=len(self.names), initial=len(self.done), desc="preparing", leave=False, disable=None)

    def report(self, kept: list[str]) -> None:
        dropped = {name: self.done[name]["dropped"] for name in self.names if self.done[name]["dropped"] is not None}
        reasons = Counter(short(reason) for reason in dropped.values())
        counts = {"pictures": len(self.names), "kept": len(kept), "dropped": dict(reasons.most_common())}
        write_json({"settings": self.header, **counts, "why": dropped}, self.run_dir / PREPARED)
        sheets = ["kept.png"] if kept else []
        if kept:
            pictures.save(self.sheet([(self.target / self.outputs[name]).read_bytes() for name in kept[:SHEET]]),
                          self.run_dir / "kept.png")  # fmt: skip
        for reason in reasons:
            names = [name for name, why in dropped.items() if short(why) == reason][:SHEET]
            sheets.append(f"{reason.replace(' ', '_')}.png")
            pictures.save(self.sheet([self.source.read(name) for name in names]), self.run_dir / sheets[-1])
        print(table(["", "pictures"], [["kept", f"{len(kept):,}"], *([why, f"{n:,}"] for why, n in reasons.most_common())]))
        size = "×".join(map(str, self.settings.size))
        print(f"  {shown(self.target)}: {len(kept):,} of {len(self.names):,} pictures, {size}")
        print(f"  written to {shown(self.run_dir)}: {PREPARED}, {', '.join(sheets)}")

    @staticmethod
    def sheet(files: list[bytes]) -> Image.Image:
        """Pictures side by side; an unreadable one is a red square."""
        columns = min(8, len(files))
        sheet = Image.new("RGB", (columns * SIDE, -(-len(files) // columns) * SIDE))
        for i, content in enumerate(files):
            try:
                thumbnail = fitted(picture(content, "RGB"), SIDE - 2, SIDE - 2, "pad")
            except UNREADABLE:
                thumbnail = Image.new("RGB", (SIDE - 2, SIDE - 2), "darkred")
            sheet.paste(thumbnail, (i % columns * SIDE + 1, i // columns * SIDE + 1))
        return sheet


def output_names(names: list[str]) -> dict[str, str]:
    """`a/b.jpg` becomes `a/b.png`, or `a/b.jpg.png` where there is an `a/b.webp` too."""
    stems = Counter(os.path.splitext(name)[0] for name in names)
    return {name: f"{name if stems[os.path.splitext(name)[0]] > 1 else os.path.splitext(name)[0]}.png" for name in names}


def nearest(wanted: int, hashes: list[int]) -> tuple[int, int] | None:
    """The index of the hash nearest to one, and the number of bits in which they differ."""
    if not hashes:
        return None
    differing = np.bitwise_count(np.array(hashes, np.uint64) ^ np.uint64(wanted))
    return int(differing.argmin()), int(differing.min())


def short(reason: str) -> str:
    """`unreadable: …` and `duplicate of …` without what is of one picture alone."""
    return reason.split(":")[0].split(" of ")[0]
