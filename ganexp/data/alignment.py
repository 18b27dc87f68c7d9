"""Face crops aligned by the eyes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Point = tuple[float, float]


@dataclass
class Face:
    """A square in a photograph: `centre` and `side` in px, `angle` of its upper edge in radians."""

    centre: Point
    side: float
    angle: float = 0.0

    def crop(self, image: Image.Image) -> Image.Image:
        """Returns the square, upright; black outside the photograph."""
        size = max(1, round(self.side))
        cos, sin = math.cos(self.angle) * self.side / size, math.sin(self.angle) * self.side / size
        x = self.centre[0] - (cos - sin) * size / 2
        y = self.centre[1] - (sin + cos) * size / 2
        return image.transform((size, size), Image.Transform.AFFINE, (cos, -sin, x, sin, cos, y), Image.Resampling.BICUBIC)


def face_by_eyes(left: Point, right: Point, mouth: Point) -> Face:
    """Returns the square around a cat's or a person's face: three eye distances wide, the eyes level, the mouth below them.

    `left`, `right`: the eyes, as seen in the picture. Raises ValueError if they are less than 1 px or at least 10,000 px apart.
    """
    if left[0] > right[0]:
        left, right = right, left
    dx, dy = right[0] - left[0], right[1] - left[1]
    distance = math.hypot(dx, dy)
    if not 1 <= distance < 10_000:  # also False for NaN
        raise ValueError(f"the eyes are {distance:g} px apart")
    eyes = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    centre = (0.7 * eyes[0] + 0.3 * mouth[0], 0.7 * eyes[1] + 0.3 * mouth[1])
    upside_down = dx * (mouth[1] - eyes[1]) < dy * (mouth[0] - eyes[0])  # the mouth lies above the line of the eyes
    return Face(centre, 3 * distance, math.atan2(dy, dx) + math.pi * upside_down)


def parse_annotation(text: str) -> tuple[Point, Point, Point]:
    """Returns left eye, right eye and mouth from a `.cat` file of the CAT data set: the number of points, nine, then x and y of
    each, these three first. Raises ValueError for any other text."""
    numbers = [float(word) for word in text.split()]
    if len(numbers) < 7 or len(numbers) != 1 + 2 * numbers[0]:
        raise ValueError(f"not an annotation of points: {text[:40]!r}")
    return (numbers[1], numbers[2]), (numbers[3], numbers[4]), (numbers[5], numbers[6])
