"""Any folder or zip archive of images."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ganexp.data.array import SAMPLE, Decode, read_once
from ganexp.data.decoding import MODES, UNREADABLE, Fit, as_array, decode_image, open_image, parse_colour, reason, resize_image
from ganexp.data.module import DataModule
from ganexp.data.parallel import in_parallel
from ganexp.data.sources import MAX_BYTES, MAX_PIXELS, USUAL, Limits, Source, is_picture, open_source, other_types


class Folder(DataModule):
    """All images below `root`, a folder or a zip archive, in the order of their paths, as uint8 [N, *shape].

    `shape`: [channels, height, width]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA. `fit`: how to change the aspect ratio:
    `crop` to the centre, `pad` with the background, or `squash`. `background`: the colour behind transparent parts, a name or
    #rrggbb. Pictures are resized with antialiasing, once, and cached, see array.py. `classes`: 0 for no labels; otherwise labels
    come from `labels.csv` in the folder (columns `file` and `label`, a number or a name), or from the names of the folders
    directly below `root`. `max_unreadable`: largest fraction of unreadable files, which are left out with a note. `max_bytes`,
    `max_pixels`: larger files and pictures count as unreadable.
    Raises FileNotFoundError if the folder does not exist or has no images, ValueError for too many unreadable files, another
    number of classes, or a shape that is not an image's.
    """

    split = "all"
    sample: int | None = SAMPLE  # how many blocks of the cached pixels are checked; None for all

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
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        super().__init__(shape, classes, batch_size, seed, replacement)
        self.limits = Limits(max_bytes, max_pixels)
        if len(shape) != 3 or shape[0] not in MODES:
            raise ValueError(f"shape: must be [1-4 channels, height, width], got {list(shape)}")
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f"max_unreadable: must be from 0 to 1, got {max_unreadable}")
        if not root:
            raise ValueError("root: is required: a folder or a zip archive of pictures")
        self.root, self.fit, self.max_unreadable = Path(root).expanduser(), fit, max_unreadable
        self.background = parse_colour(background)
        self.resize = f"bicubic to {shape[1]}×{shape[2]}, {fit}"

    def place(self) -> Path | None:
        """Returns the folder or archive of the pictures; None if there is none."""
        return self.root

    def open(self) -> Source:
        """Returns the files. Raises FileNotFoundError, or ValueError for a damaged archive."""
        try:
            return open_source(self.root, self.limits)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"root: {error}") from error

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        source = self.open()
        labels = self.labels(source)
        if not labels and any(map(is_picture, source.names)):
            raise ValueError("; ".join([f"root: no picture in {source.root} is used", *self.notes]))
        channels, height, width = self.shape
        version = 3 if self.fit == "pad" else 2
        recipe = {"version": version, "shape": self.shape, "fit": self.fit, "background": self.background}
        recipe |= {} if self.limits == USUAL else {"limits": list(vars(self.limits).values())}
        pictures = read_once(
            source,
            list(labels),
            (height, width, channels),
            recipe,
            self.decoder(),
            self.annotation_files(source, list(labels)),
            self.max_unreadable,
            self.sample,
        )
        self.left_out, self.pixels_hash = pictures.left_out, pictures.hash
        if others := other_types(source.names):
            self.notes.append(f"files of other types are left out: {others}")
        if source.outside:
            self.notes.append(
                f"{len(source.outside):,} files with names that lead out of the archive or occur twice are left out: "
                f"{source.outside[0]}"
            )
        if pictures.left_out:
            self.notes.append(f"{len(pictures.left_out):,} of {len(labels):,} images are unreadable and are left out")
        return pictures.pixels.transpose(0, 3, 1, 2), np.array([labels[name] for name in pictures.names], np.int64)

    def labels(self, source: Source) -> dict[str, int]:
        """Returns the label of every picture to read, by name."""
        names = list(filter(is_picture, source.names))
        if not self.classes:
            return dict.fromkeys(names, 0)
        if "labels.csv" in source.names:
            labels, where = labels_of_csv(source), "labels.csv"
            if missing := labels.keys() - set(names):
                self.notes.append(f"labels.csv names {len(missing):,} pictures that do not exist: {min(missing)}, …")
        else:
            labels, where = {name: name.split("/")[0] for name in names if "/" in name}, "its folders"
        labels = {name: labels[name] for name in names if name in labels}
        try:
            numbers = self.class_numbers(set(labels.values()), where)
        except ValueError as error:
            lines = lines_of_csv(source) if where == "labels.csv" else {}
            raise ValueError(f"{error}{self.wrong_label(labels, lines)}") from error
        self.notes.append(f"classes, from {where}: " + ", ".join(f"{i} {kind}" for kind, i in list(numbers.items())[:20]))
        if len(labels) < len(names):
            self.notes.append(f"{len(names) - len(labels):,} of {len(names):,} images have no label and are left out")
        return {name: numbers[kind] for name, kind in labels.items()}

    def class_numbers(self, kinds: set[str], where: str) -> dict[str, int]:
        """Returns the number of every class. Numbers below `classes` are used as they are; otherwise classes are numbered in
        sorted order."""
        by_value = all(kind.isdecimal() for kind in kinds)
        if by_value and len(set(map(int, kinds))) < len(kinds):
            raise ValueError(f"classes: {where} in {self.root} spell the same number differently: {', '.join(sorted(kinds)[:8])}")
        if kinds and by_value and max(map(int, kinds)) < self.classes:
            return {kind: int(kind) for kind in sorted(kinds, key=int)}
        if len(kinds) != self.classes:
            few = ", ".join(sorted(kinds)[:8]) + (", …" if len(kinds) > 8 else "")
            raise ValueError(f"classes: {self.classes}, but {where} in {self.root} have {len(kinds)}{': ' * bool(few)}{few}")
        return {kind: i for i, kind in enumerate(sorted(kinds, key=int if by_value else str))}

    def wrong_label(self, labels: dict[str, str], lines: dict[str, int]) -> str:
        """Returns a hint at the first picture whose label is out of range, or close to another label."""
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

    def annotation_files(self, source: Source, names: Sequence[str]) -> dict[str, str]:
        """Returns the annotation file of each picture that has one."""
        return {}

    def decoder(self) -> Decode:
        """Returns the function from a picture file to uint8 [H, W, C]. Worker processes get it pickled, without this module."""
        return partial(whole_picture, self.shape, self.fit, self.background)

    def survey(self) -> dict[str, Counter[str]]:
        """Count sizes, file types and modes from the headers of all readable pictures."""
        notes = list(self.notes)
        source = self.open()
        found: dict[str, Counter[str]] = {"size": Counter(), "file": Counter(), "mode": Counter()}
        for name in self.labels(source):
            try:
                with open_image(source.read(name), self.limits.max_pixels) as image:
                    found["size"][f"{image.width}×{image.height}"] += 1
                    found["file"][str(image.format)] += 1
                    found["mode"][image.mode] += 1
            except UNREADABLE:
                continue  # `load` counts them
        self.notes = notes  # `load` has added these notes already
        return found


def whole_picture(shape: Sequence[int], fit: Fit, background: str, source: Source, name: str) -> np.ndarray:
    """Decode a file to uint8 [H, W, C], `shape` [C, H, W]. Raises one of UNREADABLE."""
    channels, height, width = shape
    draft_size = 2 * max(width, height)  # EXIF may swap the sides
    image = decode_image(source.read(name), MODES[channels], background, draft_size, max_pixels=source.limits.max_pixels)
    return as_array(resize_image(image, height, width, fit, background))


def labels_of_csv(source: Source) -> dict[str, str]:
    """Returns the labels by file name. Raises ValueError if labels.csv does not have the format that Folder describes."""
    file = f"classes: {source.root}/labels.csv"
    try:
        rows = csv.DictReader(io.StringIO(source.read("labels.csv").decode("utf-8-sig")))
        if not {"file", "label"} <= set(rows.fieldnames or []):
            raise ValueError(f"{file}: its first line must name the columns file and label{other_columns(rows.fieldnames or [])}")
        labels: dict[str, str] = {}
        for row in rows:
            if not (row["file"] or "").strip():
                raise ValueError(f"{file}: line {rows.line_num} has no file; a line must be FILE,LABEL")
            if not (row["label"] or "").strip():
                raise ValueError(
                    f"{file}: line {rows.line_num}, {row['file']}: has no label; delete the line to leave the picture out"
                )
            if labels.setdefault(row["file"], row["label"].strip()) != row["label"].strip():
                raise ValueError(f"{file}: line {rows.line_num} has a second label for {row['file']}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    return labels


def other_columns(names: Sequence[str]) -> str:
    """Returns the second half of a message: the columns in the file, and those that look misspelled."""
    if not names:
        return "; it is empty"
    text = f", got {', '.join(map(repr, names))}"
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        return f"{text}; the separator must be a comma"
    for right in sorted({"file", "label"} - set(names)):
        if close := difflib.get_close_matches(right, [name.lower() for name in names], 1, 0.6):
            text += f"; did you mean {right} by {next(name for name in names if name.lower() == close[0])!r}?"
    return text


def lines_of_csv(source: Source) -> dict[str, int]:
    """Returns the line number of every file in a readable labels.csv."""
    rows = csv.DictReader(io.StringIO(source.read("labels.csv").decode("utf-8-sig")))
    lines: dict[str, int] = {}
    for row in rows:
        lines.setdefault(row["file"], rows.line_num)
    return lines


class UnresizedFolder(DataModule):
    """All images below `root` without resizing, for evaluation: all of one size, grey or RGB, as uint8 [N, 1 or 3, H, W].

    Raises FileNotFoundError if the folder does not exist or has no images, ValueError for an unreadable file, for images of
    different sizes, or if every image is of a single colour.
    """

    split = "all"

    def __init__(self, root: str):
        super().__init__([3, 1, 1], 0, batch_size=2)
        self.root = Path(root).expanduser()

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        source = open_source(self.root)
        names = list(filter(is_picture, source.names))
        if len(names) < 2:
            raise ValueError(f"{self.root} contains a single image; at least 2 are required")
        if others := other_types(source.names):
            self.notes.append(f"{self.root}: files of other types are left out: {others}")
        headers = list(in_parallel(partial(size_and_mode, source), names))
        for name, header in zip(names, headers, strict=True):
            if isinstance(header, str):
                raise ValueError(f"{self.root / name} cannot be read: {header}")
        sizes, modes = zip(*headers, strict=True)
        for name, size in zip(names, sizes, strict=True):
            if size != sizes[0]:
                (w, h), (width, height) = size, sizes[0]
                raise ValueError(
                    f"{self.root / name} has {w}×{h} px, {self.root / names[0]} {width}×{height}: resize all to one size"
                )
        channels = 1 if all(mode in ("1", "L") or mode.startswith("I;16") for mode in modes) else 3
        shape, mode = (sizes[0][1], sizes[0][0], channels), MODES[channels]

        recipe = {"version": 1, "exact": mode}
        pictures = read_once(source, names, shape, recipe, partial(unresized_picture, mode), max_unreadable=0)
        self.pixels_hash, self.shape = pictures.hash, (channels, *shape[:2])
        if all((p.min((0, 1)) == p.max((0, 1))).all() for p in pictures.pixels):
            raise ValueError(f"every image in {self.root} is of a single colour")
        return pictures.pixels.transpose(0, 3, 1, 2), np.zeros(len(pictures.pixels), np.int64)


def unresized_picture(mode: str, source: Source, name: str) -> np.ndarray:
    """Decode a file to uint8 [H, W, C]. Raises one of UNREADABLE."""
    return as_array(decode_image(source.read(name), mode))


def size_and_mode(source: Source, name: str) -> tuple[tuple[int, int], str] | str:
    """Returns width and height of the upright picture, and Pillow's mode, from its header; or why it is unreadable."""
    try:
        with open_image(source.read(name)) as image:
            rotated = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.size[::-1] if rotated else image.size), image.mode
    except UNREADABLE as error:
        return reason(error)


ORIENTATION = 0x0112  # EXIF tag; values from 5 on are rotated by 90°
