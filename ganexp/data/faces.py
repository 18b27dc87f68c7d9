"""The face sets of the published systems, as folders or archives of images that a person has fetched."""

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

from ganexp.data.alignment import annotated, face_by_eyes
from ganexp.data.array import Decode
from ganexp.data.decoding import MODES, Fit, as_array, fitted, picture
from ganexp.data.folder import Folder, whole_picture
from ganexp.data.sources import Source, is_picture, pictures_in


class Faces(Folder):
    """A set with a folder of its own, or a zip archive: `root` is one that holds it, or the pictures themselves. Otherwise as
    Folder.

    Raises FileNotFoundError saying which pictures belong where.
    """

    folder = ""  # below root
    source = ""  # what to fetch, and from whom
    pictures: Path  # where they were found

    def open(self) -> Source:
        if (place := self.place()) is None:
            raise self.missing()
        self.pictures = place
        if place == self.root and self.root_has_pictures():
            self.notes.append(f"{self.root} has no folder {self.folder.split('/')[-1]}; all pictures in it are taken")
        try:
            return pictures_in(place)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"root: {error}") from error

    def place(self) -> Path | None:
        """Where the pictures are: a folder, or an archive; null where they are not."""
        parts = self.folder.split("/")
        places = [self.root.joinpath(*parts[i:]) for i in range(len(parts))]
        for place in places:
            for there in (place, place.with_name(f"{place.name}.zip")):
                if there.is_dir() or there.is_file():
                    return there
        return self.root if self.root.is_file() or self.root_has_pictures() else None

    def root_has_pictures(self) -> bool:
        return self.root.is_dir() and any(is_picture(file.name) for file in self.root.iterdir())

    def missing(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"root: no folder {self.root / self.folder}, nor {self.folder.split('/')[-1]}.zip; put {self.source} there, or set "
            "data.root to its place"
        )


class CelebA(Faces):
    """Aligned faces of 178×218 px, or any part of them (Liu et al. 2015, arXiv:1411.7766): `root/celeba/img_align_celeba`, as a
    folder or a zip archive; beside it `list_attr_celeba.txt`, `list_eval_partition.txt` and, for task=inspect,
    `identity_CelebA.txt`, as published.

    `attributes`: names from the list, as labels: one gives the classes 0 (without) and 1 (with), several a class for each
    combination, read as a binary number, the first attribute its highest digit. `split`: `train` (162,770 images), `valid`
    (19,867), `test` (19,962) or `all`. Where nothing is there, torchvision is asked to download it all.
    Raises FileNotFoundError naming the files, their sizes and their place; ValueError for an attribute that is not in the list.
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
    ):
        super().__init__(root, shape, classes, batch_size, seed, fit, background, max_unreadable, replacement)
        if len(set(attributes)) < len(attributes):
            raise ValueError(f"attributes: each once, not {list(attributes)}")
        if classes != (2 ** len(attributes) if attributes else 0):
            raise ValueError(
                f"classes: {len(attributes)} attributes make {2 ** len(attributes) if attributes else 0}, not {classes}"
            )
        self.attributes, self.split = list(attributes), split

    def open(self) -> Source:
        if self.place() is None:
            self.download()
        return super().open()

    def download(self) -> None:
        """Through torchvision. Raises FileNotFoundError where that fails, as it does once many have asked on the same day."""
        made = [path for path in (self.root / "celeba", self.root, *self.root.parents) if not path.exists()]
        try:
            datasets.CelebA(str(self.root), download=True)
        except Exception as error:  # of the network, of its library, or of a page that came in the file's place
            for path in made:  # the failed download's empty folders
                with suppress(OSError):
                    path.rmdir()
            files = ", ".join(f"{name} ({size:,} bytes)" for name, size in FILES.items())
            raise FileNotFoundError(
                f"root: put {files} into {self.root / 'celeba'}; the archive need not be unpacked, and without attributes and "
                "splits it is enough. They are on CelebA's project page, in the Google Drive, under Img and Anno. The download "
                f"through torchvision failed: {' '.join(str(error).split())[:200]}"
            ) from error

    def chosen(self, source: Source) -> dict[str, int]:
        names: dict[str, str] = {}
        for name in filter(is_picture, source.names):
            if (other := names.setdefault(name.split("/")[-1], name)) != name:
                raise ValueError(f"root: the lists know pictures by their names, and {source.root} holds two: {other}, {name}")
        if self.split != "all":
            part = {"train": "0", "valid": "1", "test": "2"}[self.split]
            rows = [line.split() for line in self.lines("list_eval_partition.txt")]
            if any(len(cells) != 2 or cells[1] not in "012" for cells in rows):
                raise ValueError("split: list_eval_partition.txt is damaged: a line is not a file and 0, 1 or 2")
            inside = {short for short, number in rows if number == part}
            names = {short: name for short, name in names.items() if short in inside}
        if len(names) < COUNTS[self.split]:
            self.notes.append(f"{len(names):,} of CelebA's {COUNTS[self.split]:,} images ({self.split})")
        if not self.attributes:
            return dict.fromkeys(names.values(), 0)
        listed, rows = self.listed_attributes()
        for attribute in self.attributes:
            if attribute not in listed:
                close = difflib.get_close_matches(attribute.lower(), [name.lower() for name in listed], 1, 0.6)
                meant = next((f"; did you mean {name}?" for name in listed if name.lower() in close), "")
                raise ValueError(f"attributes: {attribute} is none of CelebA's{meant} (there are: {', '.join(listed)})")
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

    def listed_attributes(self) -> tuple[list[str], list[list[str]]]:
        """Their names, and the rows: a file's name, and 1 or -1 for each. Raises ValueError for a damaged list."""
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
            shown = [name.split("/")[-1] for name in self.chosen(self.open())]
            self.notes = notes
            found["person"] = Counter(people[name] for name in shown if name in people)
        return found

    def lines(self, file: str) -> list[str]:
        """Of one of the published lists, without empty ones. Raises FileNotFoundError."""
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
    """Faces of cats: in `root/cats`, cropped; or the CAT data set as published (Zhang et al. 2008), whole photographs with
    `NAME.jpg.cat` beside each: then the face is turned so that its eyes are level, and cut out.

    `min_face_size`: px of a cut-out face; smaller ones are left out, and noted.
    """

    folder = "cats"
    source = "cropped cat faces (AFHQ, or what task=prepare made), or the folders CAT_00 to CAT_06 of the CAT data set"

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
    ):
        super().__init__(root, shape, classes, batch_size, seed, fit, background, max_unreadable, replacement)
        if min_face_size < 0:
            raise ValueError(f"min_face_size: at least 0 px, not {min_face_size}")
        self.min_face_size = min_face_size
        self.annotations: dict[str, str] = {}

    def place(self) -> Path | None:
        if (self.root / "CAT_00").is_dir():
            return self.root
        return super().place()

    def beside(self, source: Source, names: Sequence[str]) -> dict[str, str]:
        there = set(source.names)
        return {name: f"{name}.cat" for name in names if f"{name}.cat" in there}

    def chosen(self, source: Source) -> dict[str, int]:
        chosen = super().chosen(source)
        annotations = self.annotations = self.beside(source, list(chosen))
        small = {name for name, file in annotations.items() if self.side(source, file) < self.min_face_size}
        if annotations:
            cut = f"{len(annotations) - len(small):,} faces are cut out by the eyes"
            self.notes.append(f"{cut}; {len(small):,} of less than {self.min_face_size} px are left out")
        return {name: label for name, label in chosen.items() if name not in small}

    @staticmethod
    def side(source: Source, file: str) -> float:
        """Of the square around a face, px; of a damaged annotation, which is found again when it is cut, without end."""
        try:
            return face_by_eyes(*annotated(source.read(file).decode())).side
        except ValueError:
            return math.inf

    def decode(self) -> Decode:
        return partial(face_or_picture, frozenset(self.annotations), self.shape, self.fit, self.background)


def face_or_picture(
    annotations: frozenset[str], shape: Sequence[int], fit: Fit, background: str, source: Source, name: str
) -> np.ndarray:
    """uint8 [H, W, C]: what is cut out by the eyes, where they are known, else the whole picture. Raises one of UNREADABLE."""
    if name not in annotations:
        return whole_picture(shape, fit, background, source, name)
    channels, height, width = shape
    image = picture(source.read(name), MODES[channels], background, upright=False)  # the points are of the pixels as they lie
    face = face_by_eyes(*annotated(source.read(f"{name}.cat").decode())).cut(image)
    return as_array(fitted(face, height, width, fit, background))


class Anime(Faces):
    """Faces of anime figures, cropped; in `root/anime`."""

    folder = "anime"
    source = "cropped anime faces"
