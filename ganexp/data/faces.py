"""Published data sets of faces, as folders or archives of images that the user has downloaded."""

from __future__ import annotations

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torchvision import datasets

from ganexp.data.alignment import face_by_eyes, parse_annotation
from ganexp.data.array import Decode
from ganexp.data.decoding import MODES, Fit, as_array, decode_image, resize_image
from ganexp.data.folder import Folder, whole_picture
from ganexp.data.sources import MAX_BYTES, MAX_PIXELS, Source, is_picture, open_source


class Faces(Folder):
    """A Folder whose pictures are in a subfolder or zip archive `folder` of `root`, or in `root` itself.

    Raises FileNotFoundError, naming the pictures and their folder.
    """

    folder = ""  # below root
    source = ""  # what to download, and from where
    pictures: Path  # where they were found

    def open(self) -> Source:
        if (path := self.place()) is None:
            raise self.missing()
        self.pictures = path
        if path == self.root and self.root_has_pictures():
            self.notes.append(f"{self.root} has no folder {self.folder.split('/')[-1]}; using all pictures in it")
        try:
            return open_source(path, self.limits)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"root: {error}") from error

    def place(self) -> Path | None:
        """Returns the folder or archive of the pictures; None if there is none."""
        parts = self.folder.split("/")
        for path in [self.root.joinpath(*parts[i:]) for i in range(len(parts))]:
            for candidate in (path, path.with_name(f"{path.name}.zip")):
                if candidate.is_dir() or candidate.is_file():
                    return candidate
        return self.root if self.root.is_file() or self.root_has_pictures() else None

    def root_has_pictures(self) -> bool:
        return self.root.is_dir() and any(is_picture(file.name) for file in self.root.iterdir())

    def missing(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"root: there is no folder {self.root / self.folder} or {self.folder.split('/')[-1]}.zip; put {self.source} there, "
            "or set data.root"
        )


class CelebA(Faces):
    """Aligned faces of 178×218 px, or any subset (Liu et al. 2015, arXiv:1411.7766), in `root/celeba/img_align_celeba`, a folder
    or a zip archive. The published `list_attr_celeba.txt`, `list_eval_partition.txt` and, for task=inspect,
    `identity_CelebA.txt` belong beside it.

    `attributes`: names from the list, used as labels. One gives the classes 0 (without) and 1 (with); several give a class for
    each combination, read as a binary number, the first attribute its most significant bit. `split`: `train` (162,770 images),
    `valid` (19,867), `test` (19,962) or `all`. If there are no pictures, torchvision downloads everything.
    Raises FileNotFoundError, naming the files, their sizes and their folder; ValueError for an unknown attribute.
    """

    folder = "celeba/img_align_celeba"
    source = "the pictures of img_align_celeba.zip (CelebA's project page, Align&Cropped Images)"

    def __init__(
        self,
        root: str,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        attributes: Sequence[str] = (),
        split: Literal["train", "valid", "test", "all"] = "all",
        fit: Fit = "squash",
        background: str = "black",
        max_unreadable: float = 0.01,
        replacement: bool = False,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        super().__init__(
            root, shape, classes, batch_size, seed, fit, background, max_unreadable, replacement, max_bytes, max_pixels
        )
        if len(set(attributes)) < len(attributes):
            raise ValueError(f"attributes: must not repeat, got {list(attributes)}")
        if classes != (2 ** len(attributes) if attributes else 0):
            raise ValueError(
                f"classes: must be {2 ** len(attributes) if attributes else 0} for {len(attributes)} attributes, got {classes}"
            )
        self.attributes, self.split = list(attributes), split

    def open(self) -> Source:
        if self.place() is None and self.may_download:
            self.download()
        return super().open()

    def download(self) -> None:
        """Download through torchvision. Raises FileNotFoundError if that fails, for example by Google Drive's daily quota."""
        missing = [path for path in (self.root / "celeba", self.root, *self.root.parents) if not path.exists()]
        try:
            datasets.CelebA(str(self.root), download=True)
        except Exception as error:  # from the network, gdown, or an HTML page in place of the file
            for path in missing:  # torchvision leaves empty folders when the download fails
                with suppress(OSError):
                    path.rmdir()
            files = ", ".join(f"{name} ({size:,} bytes)" for name, size in FILES.items())
            raise FileNotFoundError(
                f"root: put {files} into {self.root / 'celeba'}; the archive need not be unpacked, and it is enough without "
                "attributes and splits. They are in the Google Drive of CelebA's project page, under Img and Anno. The download "
                f"through torchvision failed: {' '.join(str(error).split())[:200]}"
            ) from error

    def labels(self, source: Source) -> dict[str, int]:
        names: dict[str, str] = {}
        for name in filter(is_picture, source.names):
            if (other := names.setdefault(name.split("/")[-1], name)) != name:
                raise ValueError(f"root: {source.root} has two pictures of the same name: {other}, {name}; names must be unique")
        if self.split != "all":
            part = {"train": "0", "valid": "1", "test": "2"}[self.split]
            rows = [line.split() for line in self.lines("list_eval_partition.txt")]
            if any(len(cells) != 2 or cells[1] not in "012" for cells in rows):
                raise ValueError("split: list_eval_partition.txt is damaged: a line is not a file and 0, 1 or 2")
            in_split = {short for short, number in rows if number == part}
            names = {short: name for short, name in names.items() if short in in_split}
        if len(names) < COUNTS[self.split]:
            self.notes.append(f"{len(names):,} of CelebA's {COUNTS[self.split]:,} images ({self.split})")
        if not self.attributes:
            return dict.fromkeys(names.values(), 0)
        listed, rows = self.read_attributes()
        for attribute in self.attributes:
            if attribute not in listed:
                close = difflib.get_close_matches(attribute.lower(), [name.lower() for name in listed], 1, 0.6)
                hint = next((f"; did you mean {name}?" for name in listed if name.lower() in close), "")
                raise ValueError(f"attributes: {attribute} is not one of CelebA's{hint} (there are: {', '.join(listed)})")
        columns = [1 + listed.index(attribute) for attribute in self.attributes]
        digits = list(itertools.product("01", repeat=len(columns)))[:16]
        kinds = [" + ".join(name for name, digit in zip(self.attributes, code, strict=True) if digit == "1") for code in digits]
        self.notes.append("classes: " + ", ".join(f"{i} {kind or 'none of them'}" for i, kind in enumerate(kinds)))
        labels = {}
        for cells in rows:
            if cells[0] in names:
                labels[names[cells[0]]] = int("".join("1" if cells[column] == "1" else "0" for column in columns), 2)
        if len(labels) < len(names):
            self.notes.append(f"{len(names) - len(labels):,} of {len(names):,} images have no attributes and are left out")
        return {name: labels[name] for name in names.values() if name in labels}

    def read_attributes(self) -> tuple[list[str], list[list[str]]]:
        """Returns the attributes' names, and rows of a file name and 1 or -1 for each. Raises ValueError for a damaged list."""
        lines = self.lines("list_attr_celeba.txt")
        listed = lines[1].split() if len(lines) > 1 else []
        rows = [line.split() for line in lines[2:]]
        for number, cells in enumerate(rows, 3):
            if len(cells) != 1 + len(listed) or not set(cells[1:]) <= {"1", "-1"}:
                raise ValueError(
                    f"attributes: list_attr_celeba.txt is damaged: line {number} is not a file and {len(listed)} of 1 or -1"
                )
        if not rows:
            raise ValueError("attributes: list_attr_celeba.txt is damaged: it has no rows")
        return listed, rows

    def survey(self) -> dict[str, Counter[str]]:
        found = super().survey()
        with suppress(FileNotFoundError):
            people = {cells[0]: cells[-1] for cells in map(str.split, self.lines("identity_CelebA.txt"))}
            notes = list(self.notes)
            names = [name.split("/")[-1] for name in self.labels(self.open())]
            self.notes = notes
            found["person"] = Counter(people[name] for name in names if name in people)
        return found

    def lines(self, file: str) -> list[str]:
        """Returns the non-empty lines of a published list. Raises FileNotFoundError."""
        for folder in (self.pictures.parent, self.pictures, self.pictures.parent.parent):
            if (folder / file).is_file():
                return [line for line in (folder / file).read_text().splitlines() if line.strip()]
        raise FileNotFoundError(f"root: put {file} ({FILES[file]:,} bytes) beside {self.pictures}")


FILES = {
    "img_align_celeba.zip": 1_443_490_838,
    "list_attr_celeba.txt": 26_721_026,
    "list_eval_partition.txt": 2_836_386,
    "identity_CelebA.txt": 3_424_458,
}
COUNTS = {"all": 202_599, "train": 162_770, "valid": 19_867, "test": 19_962}


class Cats(Faces):
    """Faces of cats: cropped ones in `root/cats`, or the CAT data set as published (Zhang et al. 2008), photographs with a
    `NAME.jpg.cat` beside each. Annotated faces are rotated until the eyes are level, then cropped.

    `min_face_size`: smallest side of a face crop in px; smaller faces are left out with a note.
    """

    folder = "cats"
    source = "cropped cat faces (AFHQ, or the output of task=prepare), or the folders CAT_00 to CAT_06 of the CAT data set"

    def __init__(
        self,
        root: str,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        seed: int,
        min_face_size: int = 128,
        fit: Fit = "crop",
        background: str = "black",
        max_unreadable: float = 0.01,
        replacement: bool = False,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        super().__init__(
            root, shape, classes, batch_size, seed, fit, background, max_unreadable, replacement, max_bytes, max_pixels
        )
        if min_face_size < 0:
            raise ValueError(f"min_face_size: must be at least 0, got {min_face_size}")
        self.min_face_size = min_face_size
        self.annotations: dict[str, str] = {}

    def place(self) -> Path | None:
        if (self.root / "CAT_00").is_dir():
            return self.root
        return super().place()

    def annotation_files(self, source: Source, names: Sequence[str]) -> dict[str, str]:
        files = set(source.names)
        return {name: f"{name}.cat" for name in names if f"{name}.cat" in files}

    def labels(self, source: Source) -> dict[str, int]:
        labels = super().labels(source)
        annotations = self.annotations = self.annotation_files(source, list(labels))
        small = {name for name, file in annotations.items() if self.side(source, file) < self.min_face_size}
        if annotations:
            cropped = f"{len(annotations) - len(small):,} faces are cropped by their annotations"
            self.notes.append(f"{cropped}; {len(small):,} faces below {self.min_face_size} px are left out")
        return {name: label for name, label in labels.items() if name not in small}

    @staticmethod
    def side(source: Source, file: str) -> float:
        """Returns the side of the face in px; infinity for a damaged annotation, which is reported when the face is cropped."""
        try:
            return face_by_eyes(*parse_annotation(source.read(file).decode())).side
        except (ValueError, OSError):
            return math.inf

    def decoder(self) -> Decode:
        return partial(face_or_picture, frozenset(self.annotations), self.shape, self.fit, self.background)


def face_or_picture(
    annotations: frozenset[str], shape: Sequence[int], fit: Fit, background: str, source: Source, name: str
) -> np.ndarray:
    """Decode to uint8 [H, W, C]: the face if it is annotated, otherwise the whole picture. Raises one of UNREADABLE."""
    if name not in annotations:
        return whole_picture(shape, fit, background, source, name)
    channels, height, width = shape
    pixels = source.limits.max_pixels
    image = decode_image(source.read(name), MODES[channels], background, upright=False, max_pixels=pixels)  # ignores EXIF
    face = face_by_eyes(*parse_annotation(source.read(f"{name}.cat").decode())).crop(image)
    return as_array(resize_image(face, height, width, fit, background))


class Anime(Faces):
    """Cropped faces of anime characters in `root/anime`."""

    folder = "anime"
    source = "cropped anime faces"
