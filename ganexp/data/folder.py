"""Any folder of images, or zip archive of them."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ganexp.data.array import Decode, read_once
from ganexp.data.decoding import MODES, UNREADABLE, Fit, as_array, checked_colour, fitted, picture, reason
from ganexp.data.module import DataModule
from ganexp.data.parallel import in_parallel
from ganexp.data.sources import Source, is_picture, pictures_in

BESIDE = {".csv", ".txt", ".cat", ".json", ".jsonl", ".md", ".db", ".ini"}  # files that are expected beside pictures


class Folder(DataModule):
    """All images below `root`, a folder or a zip archive, in the order of their paths, as uint8 [N, *shape].

    `shape`: [channels, height, width]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA. `fit`: how another aspect becomes
    this one: `crop` the middle, `pad` with the background, or `squash`. `background`: the colour behind transparent parts, by its
    name or as #rrggbb. Pictures are resized with antialiasing, once: they are kept in the cache folder, see array.py.
    `classes`: 0 for no labels; else they are those of a `labels.csv` in the folder (columns `file` and `label`, a number or a
    name), or the names of the folders directly below. `max_unreadable`: the share of the files that may be unreadable; they are
    left out and noted.
    Raises FileNotFoundError for a folder that is not there or holds no image, ValueError where more are unreadable, for another
    number of classes, or for a shape that is no image's.
    """

    split = "all"

    def __init__(
        self,
        root: str,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        fit: Fit = "crop",
        background: str = "black",
        max_unreadable: float = 0.01,
        replacement: bool = False,
    ):
        super().__init__(shape, classes, batch_size, seed, replacement)
        if len(shape) != 3 or shape[0] not in MODES:
            raise ValueError(f"shape: images are [1-4 channels, height, width], not {list(shape)}")
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f"max_unreadable: a fraction from 0 to 1, not {max_unreadable}")
        if not root:
            raise ValueError("root: must be given: the folder of the pictures, or an archive of them")
        self.root, self.fit, self.max_unreadable = Path(root).expanduser(), fit, max_unreadable
        self.background = checked_colour(background)
        self.resize = f"bicubic to {shape[1]}×{shape[2]}, {fit}"

    def open(self) -> Source:
        """The files. Raises FileNotFoundError."""
        try:
            return pictures_in(self.root)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"root: {error}") from error

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        source = self.open()
        chosen = self.chosen(source)
        channels, height, width = self.shape
        version = 3 if self.fit == "pad" else 2
        recipe = {"version": version, "shape": self.shape, "fit": self.fit, "background": self.background}
        read = read_once(
            source,
            list(chosen),
            (height, width, channels),
            recipe,
            self.decode(),
            self.beside(source, list(chosen)),
            self.max_unreadable,
        )
        self.left_out, self.pixels_hash = read.left_out, read.hash
        others = Counter(os.path.splitext(name)[1].lower() for name in source.names if not is_picture(name))
        if left := {kind: n for kind, n in others.items() if kind not in BESIDE}:
            kinds = ", ".join(f"{n:,} {kind or 'without extension'}" for kind, n in left.items())
            self.notes.append(f"files of other kinds are left out: {kinds}")
        if read.left_out:
            self.notes.append(f"{len(read.left_out):,} of {len(chosen):,} images cannot be used and are left out")
        return read.pixels.transpose(0, 3, 1, 2), np.array([chosen[name] for name in read.names], np.int64)

    def chosen(self, source: Source) -> dict[str, int]:
        """The names of the pictures to read, and their labels."""
        names = list(filter(is_picture, source.names))
        if not self.classes:
            return dict.fromkeys(names, 0)
        if "labels.csv" in source.names:
            labels, where = labels_of_csv(source), "labels.csv"
            if strangers := labels.keys() - set(names):
                self.notes.append(f"labels.csv names {len(strangers):,} pictures that are not there: {min(strangers)}, …")
        else:
            labels, where = {name: name.split("/")[0] for name in names if "/" in name}, "its folders"
        labels = {name: labels[name] for name in names if name in labels}
        try:
            numbers = self.numbered(set(labels.values()), where)
        except ValueError as error:
            lines = lines_of_csv(source) if where == "labels.csv" else {}
            raise ValueError(f"{error}{self.stray(labels, lines)}") from error
        self.notes.append(f"classes, from {where}: " + ", ".join(f"{i} {kind}" for kind, i in list(numbers.items())[:20]))
        if len(labels) < len(names):
            self.notes.append(f"{len(names) - len(labels):,} of {len(names):,} images have no label and are left out")
        return {name: numbers[kind] for name, kind in labels.items()}

    def numbered(self, kinds: set[str], where: str) -> dict[str, int]:
        """Numbers stay as they are, where all are below `classes`; else the kinds are numbered in the order of their names."""
        by_value = all(kind.isdecimal() for kind in kinds)
        if by_value and len(set(map(int, kinds))) < len(kinds):
            raise ValueError(f"classes: {where} in {self.root} spell one number in two ways: {', '.join(sorted(kinds)[:8])}")
        if kinds and by_value and max(map(int, kinds)) < self.classes:
            return {kind: int(kind) for kind in sorted(kinds, key=int)}
        if len(kinds) != self.classes:
            few = ", ".join(sorted(kinds)[:8]) + (", …" if len(kinds) > 8 else "")
            raise ValueError(f"classes: {self.classes}, but {where} in {self.root} name {len(kinds)}{': ' * bool(few)}{few}")
        return {kind: i for i, kind in enumerate(sorted(kinds, key=int if by_value else str))}

    def stray(self, labels: dict[str, str], lines: dict[str, int]) -> str:
        """A hint at the first picture whose label can be none of the classes, or is nearly another label."""
        count = Counter(labels.values())
        for name, kind in labels.items():
            picture = f"; line {lines[name]}, {name}" if name in lines else f"; {name}"
            if all(map(str.isdecimal, count)):
                if int(kind) >= self.classes:
                    return f"{picture}: {kind} is not from 0 to {self.classes - 1}"
                continue
            others = {other.lower(): other for other in count if other != kind and count[other] >= count[kind]}
            if len(count) > self.classes and (close := difflib.get_close_matches(kind.lower(), others, 1, 0.6)):
                return f"{picture}: {kind!r}; did you mean {others[close[0]]}?"
        return ""

    def beside(self, source: Source, names: Sequence[str]) -> dict[str, str]:
        """For some pictures another file that they depend on."""
        return {}

    def decode(self) -> Decode:
        """How one picture becomes uint8 [H, W, C]; for other processes, so without this module."""
        return partial(whole_picture, self.shape, self.fit, self.background)

    def survey(self) -> dict[str, Counter[str]]:
        """What the files are, without decoding them: sizes, kinds, modes. Unreadable ones are not among them."""
        notes = list(self.notes)
        source = self.open()
        found: dict[str, Counter[str]] = {"size": Counter(), "file": Counter(), "mode": Counter()}
        for name in self.chosen(source):
            try:
                with Image.open(io.BytesIO(source.read(name))) as image:
                    found["size"][f"{image.width}×{image.height}"] += 1
                    found["file"][str(image.format)] += 1
                    found["mode"][image.mode] += 1
            except UNREADABLE:
                continue  # counted where it is decoded
        self.notes = notes  # `load` has taken them
        return found


def whole_picture(shape: Sequence[int], fit: Fit, background: str, source: Source, name: str) -> np.ndarray:
    """uint8 [H, W, C] of a file, `shape` [C, H, W]. Raises one of UNREADABLE."""
    channels, height, width = shape
    enough = 2 * max(width, height)  # either way up
    image = picture(source.read(name), MODES[channels], background, enough)
    return as_array(fitted(image, height, width, fit, background))


def labels_of_csv(source: Source) -> dict[str, str]:
    """Raises ValueError for a file that is not as Folder says."""
    file = f"classes: {source.root}/labels.csv"
    try:
        rows = csv.DictReader(io.StringIO(source.read("labels.csv").decode("utf-8-sig")))
        if not {"file", "label"} <= set(rows.fieldnames or []):
            raise ValueError(f"{file}: its first line must name the columns file and label{other_columns(rows.fieldnames or [])}")
        labels: dict[str, str] = {}
        for row in rows:
            if not (row["file"] or "").strip():
                raise ValueError(f"{file}: line {rows.line_num} names no file; a line is FILE,LABEL")
            if not (row["label"] or "").strip():
                raise ValueError(
                    f"{file}: line {rows.line_num}, {row['file']}: has no label; leave the line out, and the picture is left out"
                )
            if labels.setdefault(row["file"], row["label"].strip()) != row["label"].strip():
                raise ValueError(f"{file}: line {rows.line_num} gives {row['file']} a second label")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    return labels


def other_columns(names: Sequence[str]) -> str:
    """What is there instead, and what was meant."""
    if not names:
        return "; it is empty"
    said = f", not {', '.join(map(repr, names))}"
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        return f"{said}; they are separated by commas"
    for right in sorted({"file", "label"} - set(names)):
        if close := difflib.get_close_matches(right, [name.lower() for name in names], 1, 0.6):
            said += f"; did you mean {right} by {next(name for name in names if name.lower() == close[0])!r}?"
    return said


def lines_of_csv(source: Source) -> dict[str, int]:
    """The numbers of the files' lines, in a labels.csv that can be read."""
    rows = csv.DictReader(io.StringIO(source.read("labels.csv").decode("utf-8-sig")))
    lines: dict[str, int] = {}
    for row in rows:
        lines.setdefault(row["file"], rows.line_num)
    return lines


class UnresizedFolder(DataModule):
    """All images below `root` as they are, for measuring: all of one size, grey or in colour, as uint8 [N, 1 or 3, H, W].

    Raises FileNotFoundError for a folder that is not there or holds no image, ValueError for a file that cannot be read, for
    pictures of different sizes, and where all are of one colour each.
    """

    split = "all"

    def __init__(self, root: str):
        super().__init__([3, 1, 1], 0, batch_size=2)
        self.root = Path(root).expanduser()

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        source = pictures_in(self.root)
        names = list(filter(is_picture, source.names))
        if len(names) < 2:
            raise ValueError(f"{self.root} holds a single image; at least 2 are measured")
        headers = list(in_parallel(partial(size_and_mode, source), names))
        for name, header in zip(names, headers, strict=True):
            if isinstance(header, str):
                raise ValueError(f"{self.root / name} cannot be read: {header}")
        sizes, modes = zip(*headers, strict=True)
        for name, size in zip(names, sizes, strict=True):
            if size != sizes[0]:
                (w, h), (width, height) = size, sizes[0]
                raise ValueError(
                    f"{self.root / name} has {w}×{h} px, {self.root / names[0]} {width}×{height}: bring all to one size"
                )
        channels = 1 if all(mode in ("1", "L") or mode.startswith("I;16") for mode in modes) else 3
        shape, mode = (sizes[0][1], sizes[0][0], channels), MODES[channels]

        read = read_once(source, names, shape, {"version": 1, "exact": mode}, partial(as_it_is, mode), allowed=0)
        self.pixels_hash, self.shape = read.hash, (channels, *shape[:2])
        if all((p.min((0, 1)) == p.max((0, 1))).all() for p in read.pixels):
            raise ValueError(f"every image in {self.root} is of a single colour")
        return read.pixels.transpose(0, 3, 1, 2), np.zeros(len(read.pixels), np.int64)


def as_it_is(mode: str, source: Source, name: str) -> np.ndarray:
    """uint8 [H, W, C] of a file. Raises one of UNREADABLE."""
    return as_array(picture(source.read(name), mode))


def size_and_mode(source: Source, name: str) -> tuple[tuple[int, int], str] | str:
    """Width and height of a picture held upright, and Pillow's mode, from its header; or why it cannot be read."""
    try:
        with Image.open(io.BytesIO(source.read(name))) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.size[::-1] if turned else image.size), image.mode
    except UNREADABLE as error:
        return reason(error)


ORIENTATION = 0x0112  # EXIF; from 5 on the picture lies on its side
