"""task=prepare: what is kept, what is dropped, and why."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image

from ganexp.data import preparing
from ganexp.data.preparing import detector, is_grey, sharpness, shrink, square_around
from ganexp.tasks import prepare
from ganexp.tasks.prepare import nearest, output_name

Cli = Callable[..., Answer]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Parts of the two photographs that ship with scikit-learn, and what is wrong with pictures."""
    folder = tmp_path / "raw"
    (folder / "more").mkdir(parents=True)
    china, flower = (Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower"))
    china.crop((0, 0, 300, 200)).save(folder / "a.jpg")
    china.crop((300, 200, 600, 400)).save(folder / "b.png")
    flower.crop((150, 100, 450, 300)).save(folder / "more" / "c.jpg")
    china.crop((0, 0, 300, 200)).resize((280, 190)).save(folder / "more" / "twin.jpg", quality=60)
    flower.convert("L").save(folder / "grey.jpg")
    flower.filter(ImageFilter.GaussianBlur(20)).save(folder / "blurred.png")
    china.resize((40, 30)).save(folder / "small.png")
    (folder / "zz.jpg").write_bytes((folder / "a.jpg").read_bytes()[:500])
    return folder


SETTINGS = ["source=raw", "target=set", "size=64", "duplicates=6", "colour_only=true", "min_sharpness=20", "workers=1"]
ALL = ["task=prepare", *[f"task.{setting}" for setting in SETTINGS]]
WHY = {
    "blurred.png": "blurred",
    "grey.jpg": "grey",
    "more/twin.jpg": "duplicate of a.jpg",
    "small.png": "too small",
}


def report(answer: Answer) -> dict[str, Any]:
    return json.loads(max(answer.folder.glob("outputs/prepare/*/report.json")).read_text())


def test_prepare_reports_what_is_kept_and_why_not(cli: Cli, photographs: Path) -> None:
    answer = cli(*ALL)
    assert answer.code == 0, answer.err
    found = report(answer)
    unreadable = found["why"].pop("zz.jpg")
    assert found["why"] == WHY and unreadable.startswith("unreadable: ")
    assert found["kept"] == 3 and found["pictures"] == 8
    made = sorted(p.relative_to(answer.folder / "set").as_posix() for p in (answer.folder / "set").rglob("*.png"))
    assert made == ["a.png", "b.png", "more/c.png"]
    assert all(Image.open(answer.folder / "set" / name).size == (64, 64) for name in made)
    sheets = {p.name for p in max(answer.folder.glob("outputs/prepare/*")).glob("*.png")}
    assert sheets == {"kept.png", "blurred.png", "grey.png", "duplicate.png", "too_small.png", "unreadable.png"}


def test_files_of_other_types_are_named(cli: Cli, photographs: Path) -> None:
    (photographs / "IMG_1.HEIC").write_bytes(b"")
    answer = cli(*ALL)
    assert answer.code == 0 and "files of other types are left out: 1 .heic" in answer.out, answer.err


def test_prepare_works_in_several_processes(cli: Cli, photographs: Path) -> None:
    answer = cli(*[word for word in ALL if word != "task.workers=1"], "task.workers=2", "task.size=[32,64]")
    assert answer.code == 0, answer.err
    assert report(answer)["kept"] == 3 and Image.open(answer.folder / "set" / "a.png").size == (64, 32)


def test_interrupted_preparation_continues(cli: Cli, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = preparing.prepare, []

    def stopped(root: Path, name: str, *rest: Any) -> Any:
        seen.append(name)
        if len(seen) == 4:
            raise OSError("the power fails")
        return whole(root, name, *rest)

    with monkeypatch.context() as now:
        now.setattr(prepare, "prepare", stopped)
        assert cli(*ALL).code != 0
    journal = photographs.parent / "set" / "prepare.jsonl"
    done = journal.read_text().splitlines()
    assert [json.loads(line)["name"] for line in done[1:]] == ["a.jpg", "b.png", "blurred.png"]
    journal.write_text("\n".join(done) + '\n{"name": "gre')
    monkeypatch.setattr(prepare, "prepare", lambda root, name, *rest: (seen.append(name), whole(root, name, *rest))[1])
    answer = cli(*ALL)
    assert answer.code == 0 and "continuing after 3 of 8 pictures" in answer.out
    assert seen[4:] == ["grey.jpg", "more/c.jpg", "more/twin.jpg", "small.png", "zz.jpg"]
    found = report(answer)
    assert {name: found["why"][name] for name in WHY} == WHY and found["kept"] == 3
    seen.clear()
    assert cli(*ALL).code == 0 and not seen
    (photographs.parent / "set" / "b.png").unlink()  # by hand
    assert cli(*ALL).code == 0 and seen == ["b.png"] and (photographs.parent / "set" / "b.png").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (["source=nowhere", "target=set"], "source: there is no folder or zip archive nowhere"),
        (["source=raw"], "target: is required: task.target=…"),
        (["source=raw", "target=raw"], "target: raw is inside source; choose a folder outside"),
        (
            ["source=raw", "target=set", "detect=dog"],
            "detect: 'dog' is not a valid choice (there are: anime_face, cat_face, human_face, none)",
        ),
        (["source=raw", "target=set", "size=0"], "size: must be px or [height, width], got 0"),
        (["source=raw", "target=set", "size=abc"], "size: 'abc' is not of type int | Sequence[int]"),
        (["source=raw", "target=set", "size=12.5"], "size: 12.5 is not of type int | Sequence[int]"),
        (["source=raw", "target=set", "margin=null"], "margin: None is not of type float"),
        (["source=raw", "target=raw/a.jpg/set"], "target: "),
        (["source=raw", "target=set", "margin=-1"], "margin: must be at least 0, got -1"),
        (["source=raw", "target=set", "fit=stretch"], "fit: 'stretch' is not a valid choice (there are: crop, pad, squash)"),
        (["source=raw", "target=set", "duplicates=65"], "duplicates: must be from 0 to 64 bits"),
        (["source=raw", "target=set", "background=blakc"], "background: must be a colour name or #rrggbb"),
        (["source=raw", "target=set", "workers=0"], "workers: must be at least 1, got 0"),
    ],
)
def test_invalid_options_are_refused_in_one_line(words: list[str], message: str, cli: Cli, photographs: Path) -> None:
    answer = cli("task=prepare", *[f"task.{word}" for word in words])
    assert answer.code == 2 and f"ganexp: task.{message}" in answer.err and answer.err.count("\n") == 1, answer.err
    assert not (photographs.parent / "set").exists()


def test_other_settings_need_another_folder(cli: Cli, photographs: Path) -> None:
    assert cli("task=prepare", "task.source=raw", "task.target=set", "task.size=16", "task.workers=1").code == 0
    answer = cli("task=prepare", "task.source=raw", "task.target=set", "task.size=32", "task.workers=1")
    assert answer.code == 2 and "set was prepared with other settings (min_size=16, size=[16, 16])" in answer.err


def test_missing_library_is_named(cli: Cli, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    answer = cli("task=prepare", "task.source=raw", "task.target=set", "task.duplicates=3")
    assert answer.code == 2 and "duplicates: " in answer.err and 'pip install "ganexp[prepare]"' in answer.err


def test_annotated_eyes_need_no_detector(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    flower.save(tmp_path / "raw" / "a.jpg")
    (tmp_path / "raw" / "a.jpg.cat").write_text("9 250 150 350 150 300 220 " + "0 " * 12)
    answer = cli("task=prepare", "task.source=raw", "task.target=set", "task.size=50", "task.workers=1")
    assert answer.code == 0, answer.err
    wanted = flower.crop((150, 21, 450, 321)).resize((50, 50), Image.Resampling.BICUBIC)
    found = np.asarray(Image.open(tmp_path / "set" / "a.png")).astype(int)
    assert np.abs(found - np.asarray(wanted).astype(int)).mean() < 4
    # Another annotation is another picture; one that cannot be read leaves its picture out.
    (tmp_path / "raw" / "a.jpg.cat").write_text("9 50 50 150 50 100 120 " + "0 " * 12)
    flower.save(tmp_path / "raw" / "b.jpg")
    (tmp_path / "raw" / "b.jpg.cat").symlink_to(tmp_path / "nowhere")
    answer = cli("task=prepare", "task.source=raw", "task.target=set", "task.size=50", "task.workers=1")
    assert answer.code == 0, answer.err
    again = np.asarray(Image.open(tmp_path / "set" / "a.png")).astype(int)
    assert np.abs(again - found).mean() > 10 and "unreadable annotation" in report(answer)["why"]["b.jpg"]


# -- parts --------------------------------------------------------------------------------------------------------------


def test_cascades_load_and_find_nothing_in_grey() -> None:
    for kind in ("cat_face", "human_face"):
        assert detector(kind)(Image.new("RGB", (300, 200), "grey")) == []


def test_human_face_detector_finds_a_drawn_face() -> None:
    """Light skin, dark eyes and brows, the shadow of a nose, a mouth: what the cascade looks for."""
    grey = Image.new("L", (240, 240), 150)
    pixels = np.asarray(grey).copy().astype(float)
    y, x = np.mgrid[0:240, 0:240]
    pixels[((x - 120) / 60) ** 2 + ((y - 120) / 80) ** 2 < 1] = 215
    for cx in (95, 145):
        pixels[((x - cx) / 16) ** 2 + ((y - 100) / 8) ** 2 < 1] = 60
        pixels[(abs(x - cx) < 18) & (abs(y - 84) < 4)] = 80
    pixels[(abs(x - 120) < 10) & (abs(y - 138) < 4)] = 150
    pixels[((x - 120) / 24) ** 2 + ((y - 165) / 6) ** 2 < 1] = 100
    image = Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(2)).convert("RGB")
    (left, upper, width, height), *_ = detector("human_face")(image)
    assert left < 95 < 145 < left + width and upper < 84 < 165 < upper + height


def test_face_with_its_margin_stays_in_the_picture() -> None:
    assert square_around((40, 40, 20, 20), 0.5, (100, 100)) == (30, 30, 70, 70)
    assert square_around((0, 90, 20, 10), 0.5, (100, 100)) == (0, 60, 40, 100)
    assert square_around((10, 10, 80, 80), 1.0, (100, 90)) == (5, 0, 95, 90)


def test_shrink_limits_the_larger_side() -> None:
    small, scale = shrink(Image.new("L", (1000, 500)), 250)
    assert small.size == (250, 125) and scale == 4
    assert shrink(Image.new("L", (100, 50)), 250)[1] == 1


def test_is_grey_and_sharpness_tell_pictures_apart() -> None:
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    assert not is_grey(flower) and is_grey(flower.convert("L").convert("RGB"))
    assert sharpness(flower) > 3 * sharpness(flower.filter(ImageFilter.GaussianBlur(10)))
    assert sharpness(Image.new("RGB", (50, 50))) == 0


def test_nearest_hash_and_output_names_are_as_computed_by_hand() -> None:
    assert nearest(0b1111, [0, 0b1011, 0b0011]) == (1, 1) and nearest(5, []) is None
    assert nearest(2**64 - 1, [2**64 - 4]) == (0, 2)
    taken: set[str] = set()
    for name, wanted in {"a.jpg": "a.png", "a.png": "a.png.png", "a.jpg.gif": "a.jpg.png", "b/c.jpeg": "b/c.png"}.items():
        assert output_name(name, taken) == wanted
        taken.add(wanted)
    assert output_name("a.jpg", taken) not in taken


def test_flat_pictures_are_duplicates_only_if_equal(cli: Cli, tmp_path: Path) -> None:
    """Their perceptual hashes are equal, or those of the noise. A preparation that was interrupted still finds them."""
    (tmp_path / "raw").mkdir()
    for name, colour in {"a_red": "red", "b_blue": "blue", "c_red_again": "red", "d_black": "black", "e_white": "white"}.items():
        Image.new("RGB", (80, 80), colour).save(tmp_path / "raw" / f"{name}.png")
    nearly = np.full((80, 80, 3), 128, np.uint8)
    nearly[:40] += 1
    Image.fromarray(nearly).save(tmp_path / "raw" / "f_nearly.png")
    Image.fromarray(nearly[::-1]).save(tmp_path / "raw" / "g_nearly.png")
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    flower.save(tmp_path / "raw" / "h.png")
    flower.resize((300, 200)).save(tmp_path / "raw" / "i.jpg", quality=70)
    words = ["task=prepare", *[f"task.{word}" for word in ("source=raw", "target=set", "size=64", "duplicates=4", "workers=1")]]
    assert cli(*words).code == 0
    wanted = {"c_red_again.png": "duplicate of a_red.png", "i.jpg": "duplicate of h.png"}
    answer = cli(*words)
    assert answer.code == 0 and "continuing after 9 of 9" in answer.out and report(answer)["why"] == wanted
    for name in ("j_blue_again", "k_green"):
        Image.new("RGB", (80, 80), name.split("_")[1]).save(tmp_path / "raw" / f"{name}.png")
    assert cli(*words).code == 0
    flower.resize((320, 213)).save(tmp_path / "raw" / "l.png")
    answer = cli(*words)
    assert report(answer)["why"] == wanted | {"j_blue_again.png": "duplicate of b_blue.png", "l.png": "duplicate of h.png"}
    (tmp_path / "raw" / "h.png").unlink()  # then one of its duplicates is kept
    answer = cli(*words)
    assert report(answer)["why"]["l.png"] == "duplicate of i.jpg" and (tmp_path / "set" / "i.png").is_file()


def test_thin_padded_picture_keeps_one_pixel(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    Image.new("RGB", (3000, 10), (1, 200, 3)).save(tmp_path / "raw" / "a.png")
    words = ["source=raw", "target=set", "size=64", "fit=pad", "min_size=0", "workers=1"]
    answer = cli("task=prepare", *[f"task.{word}" for word in words])
    assert answer.code == 0, answer.err
    pixels = np.asarray(Image.open(tmp_path / "set" / "a.png"))
    assert (pixels[32] == [1, 200, 3]).all() and (pixels != 0).any(2).sum() == 64


def test_changed_pictures_are_prepared_again(cli: Cli, photographs: Path) -> None:
    assert cli(*ALL).code == 0
    made = photographs.parent / "set" / "a.png"
    before = made.read_bytes()
    Image.open(photographs / "more" / "c.jpg").rotate(90).save(photographs / "a.jpg")
    (photographs / "b.png").unlink()
    mine = photographs.parent / "set" / "mine.png"
    mine.write_bytes(b"not of this task")
    answer = cli(*ALL)
    assert mine.exists()
    assert answer.code == 0 and "continuing after 5 of 7 pictures" in answer.out, answer.err
    assert made.read_bytes() != before and not (photographs.parent / "set" / "b.png").exists()


def test_nothing_is_written_outside_the_target(cli: Cli, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(load_sample_image("flower.jpg")).save(file, "PNG")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for name in ("a/a.png", f"{tmp_path}/evil.png", "../evil.png"):
            archive.writestr(name, file.getvalue())
    answer = cli("task=prepare", "task.source=raw.zip", "task.target=set", "task.size=16", "task.workers=1")
    assert answer.code == 0, answer.err
    assert not list(tmp_path.glob("evil*")) and not list(tmp_path.parent.glob("evil*"))
    assert [p.name for p in (tmp_path / "set").rglob("*.png")] == ["a.png"]


def test_odd_pictures_do_not_stop_the_preparation(cli: Cli, photographs: Path) -> None:
    Image.new("RGB", (1, 2000)).save(photographs / "line.png")
    (photographs / "gone.png").symlink_to("nowhere")
    (photographs / "b.png.cat").write_text("9 inf 1 2 3 4 5 " + "0 " * 12)
    answer = cli("task=prepare", "task.source=raw", "task.target=set", "task.size=16", "task.detect=human_face", "task.workers=1")
    assert answer.code == 0, answer.err
    why = report(answer)["why"]
    assert why["line.png"] == "no face" and why["gone.png"].startswith("unreadable")
    assert why["b.png"].startswith("unreadable annotation")
