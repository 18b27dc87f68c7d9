"""The face sets of the published systems, as folders of images that a person has fetched."""

from __future__ import annotations

import numpy as np

from ganexp.data.folder import EXTENSIONS, Folder


class Faces(Folder):
    """A set with a folder of its own: `root` is one that holds that folder, or the pictures themselves. Otherwise as Folder.

    Raises FileNotFoundError saying which pictures belong where.
    """

    folder = ""  # below root
    source = ""  # what to fetch, and from whom

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        parts = self.folder.split("/")
        places = [self.root.joinpath(*parts[i:]) for i in range(len(parts))]
        if self.root.is_dir() and any(file.suffix.lower() in EXTENSIONS for file in self.root.iterdir()):
            places.append(self.root)
        found = [place for place in places if place.is_dir()]
        if not found:
            raise FileNotFoundError(f"root: no folder {places[0]}; put {self.source} there, or set data.root to its place")
        self.root = found[0]
        return super().load()


class CelebA(Faces):
    """Aligned faces of 178×218 px, or any part of them (Liu et al. 2015, arXiv:1411.7766); in `root/celeba/img_align_celeba`."""

    folder = "celeba/img_align_celeba"
    source = "the pictures of img_align_celeba.zip (CelebA's project page, Align&Cropped Images)"


class Cats(Faces):
    """Faces of cats, cropped; in `root/cats`."""

    folder = "cats"
    source = "cropped cat faces (of the CAT data set, Zhang et al. 2008, or of AFHQ)"


class Anime(Faces):
    """Faces of anime figures, cropped; in `root/anime`."""

    folder = "anime"
    source = "cropped anime faces"
