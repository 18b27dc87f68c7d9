"""Samples as pictures, pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ganexp import pictures

POINTS = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.2]])


# n, columns, side -> width, height: cells with 1 px between small images and 2 px between others, enlarged to about 640 px
@pytest.mark.parametrize(
    "n, columns, side, size",
    [
        (16, 4, 8, (37 * 17, 37 * 17)),
        (6, 4, 8, (37 * 17, 19 * 17)),
        (16, 4, 23, (97 * 7, 97 * 7)),
        (16, 4, 24, (106 * 6, 106 * 6)),
        (64, 8, 28, (242 * 3, 242 * 3)),
        (8, 4, 256, (1034, 518)),
    ],
)
def test_grid_has_the_expected_size(n: int, columns: int, side: int, size: tuple[int, int]) -> None:
    assert pictures.grid(torch.zeros(n, 1, side, side), columns).size == size


def test_grid_is_filled_row_by_row() -> None:
    """Six plain images of known grey in two rows of three: the middle of each cell."""
    greys = torch.tensor([-1, -0.6, -0.2, 0.2, 0.6, 1.0])
    picture = pictures.grid(greys.view(6, 1, 1, 1).expand(6, 1, 8, 8), 3)
    factor = picture.width // 28
    assert picture.size == (28 * factor, 19 * factor)
    middles = [picture.getpixel(((c * 9 + 5) * factor, (r * 9 + 5) * factor)) for r in range(2) for c in range(3)]
    assert middles == [(v, v, v) for v in (0, 51, 102, 153, 204, 255)]


@pytest.mark.parametrize("channels, mode", [(1, "RGB"), (2, "RGB"), (3, "RGB"), (4, "RGBA")])
def test_grid_of_large_images_keeps_pixels(channels: int, mode: str) -> None:
    images = torch.rand(4, channels, 320, 320, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2  # beyond the range too
    picture = pictures.grid(images, 2)
    assert picture.mode == mode and picture.size == (646, 646)
    found = np.array(picture).astype(int)[2 + 322 : 322 + 322, 2 : 2 + 320]  # the third
    shown = images[2].clamp(-1, 1).permute(1, 2, 0).numpy()
    expected = (shown[..., :1] if channels == 2 else shown) * 127.5 + 127.5
    assert np.abs(found - expected).max() <= 0.51


def test_grid_takes_a_single_image() -> None:
    assert pictures.grid(torch.ones(1, 1, 8, 8), 1).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_single_keeps_pixels_and_channels(channels: int, mode: str) -> None:
    values = torch.arange(channels * 2 * 3).view(channels, 2, 3) * 10
    picture = pictures.single(values.float() / 127.5 - 1)
    assert picture.mode == mode and picture.size == (3, 2)
    found = np.array(picture).reshape(2, 3, channels)
    assert np.array_equal(found, values.permute(1, 2, 0).numpy())


def test_single_rounds_and_clamps() -> None:
    image = torch.tensor([[[-2.0, -1.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.0, 3.0]]])
    assert np.array(pictures.single(image)).tolist() == [[0, 0, 1, 0, 255, 255]]


def test_every_grey_level_survives_a_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert np.array_equal(np.array(pictures.single(levels.float() / 127.5 - 1)), levels[0].numpy())


def red(picture: Image.Image) -> int:
    """Pixels in the colour of generated points."""
    return int((np.array(picture) == (0xD1, 0x49, 0x5B)).all(-1).sum())


def test_scatter_draws_points_and_title() -> None:
    picture = pictures.scatter(POINTS, POINTS, "step 3")
    assert picture.mode == "RGB" and picture.size == (640, 480)
    assert red(picture) > red(pictures.scatter(POINTS + 100, POINTS, "step 3"))  # there only the legend is red
    assert np.array(picture).tolist() != np.array(pictures.scatter(POINTS, POINTS, "step 4")).tolist()


def test_scatter_axes_follow_the_real_points() -> None:
    near, far = (np.array(pictures.scatter(POINTS + shift, POINTS, "")) for shift in (100, 1e6))
    assert np.array_equal(near, far)
    assert not np.array_equal(near, np.array(pictures.scatter(POINTS + 100, POINTS * 2, "")))


def test_render_tells_images_from_points() -> None:
    images = torch.rand(4, 1, 8, 8)
    assert np.array_equal(np.array(pictures.render(images, 2, images, "")), np.array(pictures.grid(images, 2)))
    scatter = pictures.render(POINTS, 2, POINTS, "title")
    assert np.array_equal(np.array(scatter), np.array(pictures.scatter(POINTS, POINTS, "title")))
    for shape in ((4, 3), (4, 1), (4,)):
        with pytest.raises(ValueError, match="no picture"):
            pictures.render(torch.zeros(shape), 2, torch.zeros(shape), "")


@pytest.mark.parametrize("n, columns", [(1, 1), (2, 2), (4, 2), (5, 3), (64, 8), (65, 9)])
def test_columns_make_a_nearly_square_grid(n: int, columns: int) -> None:
    assert pictures.columns_for(n) == columns


@pytest.mark.parametrize("n, classes, columns", [(100, 10, 10), (100, 2, 10), (100, 3, 9), (64, 40, 40), (4, 2, 2)])
def test_columns_hold_one_class_each(n: int, classes: int, columns: int) -> None:
    assert pictures.columns_for(n, classes) == columns


def test_save_writes_a_png_and_creates_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    pictures.save(Image.new("RGB", (3, 2), (1, 2, 3)), path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.getpixel((0, 0)) == (1, 2, 3)
    assert list(path.parent.iterdir()) == [path]


def test_replace_keeps_the_old_file_when_the_writer_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        pictures.replace(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_replace_shows_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.txt", []
    path.write_text("old")

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_text())

    pictures.replace(path, write)
    assert seen == ["old"] and path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def frames(folder: Path, n: int) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 6), (i * 20, 0, 255 - i * 20)).save(path)
    return paths


def test_animate_writes_all_frames_and_a_pause(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.gif"
    pictures.animate(frames(tmp_path, 4), path, seconds=2.0)
    with Image.open(path) as gif:
        assert gif.format == "GIF" and gif.size == (8, 6) and gif.n_frames == 4 and gif.info["loop"] == 0
        durations, colours = [], []
        for i in range(4):
            gif.seek(i)
            durations.append(gif.info["duration"])
            colours.append(gif.convert("RGB").getpixel((0, 0)))
    assert durations == [500, 500, 500, 2000]
    assert colours == [(i * 20, 0, 255 - i * 20) for i in range(4)]
    assert list(path.parent.iterdir()) == [path]


def test_animate_is_no_faster_than_browsers_play(tmp_path: Path) -> None:
    pictures.animate(frames(tmp_path, 8), tmp_path / "a.gif", seconds=0.1)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 8 and gif.info["duration"] == 40


def test_animate_takes_one_frame_or_none(tmp_path: Path) -> None:
    pictures.animate(frames(tmp_path, 1), tmp_path / "one.gif")
    with Image.open(tmp_path / "one.gif") as gif:
        assert gif.n_frames == 1
    pictures.animate([], tmp_path / "none.gif")
    assert not (tmp_path / "none.gif").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_animate_shows_all_of_frames_of_two_sizes(order: int, tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, size, colour in zip(files, ((8, 6), (16, 12)), ("red", "blue"), strict=True):
        Image.new("RGB", size, colour).save(file)
    pictures.animate(files[::order], tmp_path / "a.gif")
    corners = []
    with Image.open(tmp_path / "a.gif") as gif:
        for frame in ImageSequence.Iterator(gif):
            corners.append([frame.convert("RGB").getpixel(point) for point in ((0, 0), (15, 11))])
    assert corners[::order] == [[(255, 0, 0), (0, 0, 0)], [(0, 0, 255), (0, 0, 255)]]


def test_animate_skips_a_damaged_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = frames(tmp_path, 4)
    files[1].write_bytes(b"no picture")
    pictures.animate(files, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3
    assert str(files[1]) in caplog.text
    for file in files:
        file.write_bytes(b"no picture")
    pictures.animate(files, tmp_path / "none.gif")
    assert not (tmp_path / "none.gif").exists()
