"""Pictures on disk: every file type, labels, archives, the published face sets, and the cached array."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer, write_cifar, write_images
from helpers import RANKS
from PIL import Image
from torchvision import datasets

from ganexp.data import array, parallel
from ganexp.data import folder as folders
from ganexp.data.alignment import face_by_eyes, parse_annotation
from ganexp.data.cifar import CIFAR10
from ganexp.data.faces import FILES, Cats, CelebA
from ganexp.data.folder import Folder
from ganexp.data.module import content_hash

Cli = Callable[..., Answer]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ganexp" / "images"


def folder(root: Path, shape: tuple[int, ...] = (3, 8, 8), classes: int = 0, **more: Any) -> Folder:
    data = Folder(str(root), shape, classes, 2, 0, **more)
    data.prepare()
    return data


def arrays(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/pixels.npy"))


# -- what a file may be -------------------------------------------------------------------------------------------------


def test_transparent_pixels_show_the_background(tmp_path: Path) -> None:
    half = Image.new("RGBA", (8, 8), (200, 100, 0, 255))
    half.paste((200, 100, 0, 0), (0, 0, 4, 8))
    half.save(tmp_path / "a.png")
    half.save(tmp_path / "b.webp", lossless=True)
    half.convert("P").save(tmp_path / "c.gif", transparency=half.convert("P").getpixel((0, 0)))
    for colour, seen in (("black", [0, 0, 0]), ("white", [255, 255, 255]), ("#0a141e", [10, 20, 30])):
        x = folder(tmp_path, background=colour).x
        assert x[:2, :, 4, 1].tolist() == [seen] * 2 and x[:2, :, 4, 6].tolist() == [[200, 100, 0]] * 2
        assert x[2, :, 4, 1].tolist() == seen


def test_palette_cmyk_and_grey_pictures_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    red.convert("P").save(tmp_path / "a.png")
    red.convert("CMYK").save(tmp_path / "b.jpg", quality=100)
    Image.new("1", (8, 8), 1).save(tmp_path / "c.bmp")
    x = folder(tmp_path).x[:, :, 4, 4].int()
    assert (x[:2] - torch.tensor([250, 10, 10])).abs().max() < 12
    assert x[2].tolist() == [255, 255, 255]


def test_padding_has_the_background_colour(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 10), (1, 2, 3)).save(tmp_path / "b.png")
    x = folder(tmp_path, (3, 20, 20), fit="pad", background="white").x
    assert (x[0, :, :4] == 255).all() and x[0, :, 10, 10].tolist() == [1, 2, 3]


@pytest.mark.parametrize("size", [(3000, 10), (10, 3000), (2000, 1)])
def test_thin_padded_picture_keeps_one_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    for name in "ab":
        Image.new("RGB", size, (1, 200, 3)).save(tmp_path / f"{name}.png")
    x = folder(tmp_path, (3, 64, 64), fit="pad").x[0].permute(1, 2, 0)
    line = x if size[0] > size[1] else x.transpose(0, 1)
    assert line[32].unique(dim=0).tolist() == [[1, 200, 3]] and int((line != 0).any(2).any(1).sum()) == 1


def test_unknown_colour_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^background: .*'blakc'"):
        folder(tmp_path, background="blakc")


@pytest.mark.parametrize(
    "task, text",
    [
        *(("prepare", text) for text in ("#00ff7f", "00ff7f", "springgreen", "'#00ff7f'", "#0f8", "112233", "000000", "1e1000")),
        ("inspect", "#00ff7f"),
        ("inspect", "112233"),
    ],
)
def test_colours_need_no_quotes_on_the_command_line(task: str, text: str, cli: Cli, tmp_path: Path) -> None:
    """Hydra parses # as the start of a comment, 112233 as a whole number, 1e1000 as infinite."""
    Image.new("RGB", (20, 10), "white").save(tmp_path / "a.png")
    key = "data" if task == "inspect" else "task"
    inspect = ["data=folder", "data.root=.", "data.shape=[3,20,20]"]
    prepare = ["task.source=a", "task.target=set", "task.size=20", "task.min_size=0", "task.workers=1"]
    words = [*(inspect if task == "inspect" else prepare), f"{key}.background={text}", f"{key}.fit=pad"]
    (tmp_path / "a").mkdir()
    Image.new("RGB", (20, 10), "white").save(tmp_path / "a" / "a.png")
    answer = cli(f"task={task}", *words)
    assert answer.code == 0, answer.err
    seen = Image.open(tmp_path / "set" / "a.png" if task == "prepare" else max(tmp_path.glob("outputs/*/*/thumbnails.png")))
    colours = {"#0f8": (0, 255, 136), "112233": (17, 34, 51), "000000": (0, 0, 0), "1e1000": (30, 16, 0)}
    assert colours.get(text, (0, 255, 127)) in [colour for _, colour in seen.convert("RGB").getcolors(10**6) or []]


@pytest.mark.slow
def test_colours_work_in_a_sweep(cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "p", count=4)
    answer = cli("-m", "task=inspect", "data=folder", "data.root=p", "data.background=#00ffff,112233,white")
    assert answer.code == 0 and "all 3 jobs finished" in answer.out, answer.err


@pytest.mark.parametrize(
    "text, message",
    [
        ("#00fff", "data.background: must be a colour name or #rrggbb, got '#00fff'"),
        ("Whiet", "data.background: must be a colour name or #rrggbb, got 'Whiet'; did you mean white?"),
        ("12345", "data.background: 12345 is not of type str; quote text: data.background=\"'rrggbb'\" on the command line"),
        ("null", "data.background: None is not of type str; # starts a comment in YAML: quote the colour, '#rrggbb'"),
    ],
)
def test_invalid_colours_are_refused_on_the_command_line(text: str, message: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("task=inspect", "data=folder", "data.root=.", f"data.background={text}")
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}"), answer.err


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path, count=4)
    for name in (".thumbs/a.png", "__MACOSX/._000.jpg", "._001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    assert len(folder(tmp_path).x) == 4


def test_zip_archive_is_read_in_place(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "pictures", count=10)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "pictures")
    data = folder(tmp_path / "packed.zip")
    assert torch.equal(data.x, folder(tmp_path / "pictures").x)
    assert not [path for path in tmp_path.glob("packed*") if path.is_dir()]


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", count=4)
    file = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "pictures"))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"packed\.zip is not a zip archive, or is truncated"):
        folder(file)


# -- labels -------------------------------------------------------------------------------------------------------------


def test_folder_names_are_classes(tmp_path: Path) -> None:
    for value, name in enumerate(("dog/a", "cat/a", "cat/deeper/b", "bird/a")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), value).save(path)
    Image.new("L", (8, 8), 9).save(tmp_path / "none.png")
    data = folder(tmp_path, (1, 8, 8), classes=3)
    assert dict(zip(data.x[:, 0, 0, 0].tolist(), data.y.tolist(), strict=True)) == {0: 2, 1: 1, 2: 1, 3: 0}
    assert data.notes == ["classes, from its folders: 0 bird, 1 cat, 2 dog", "1 of 5 images have no label and are left out"]
    with pytest.raises(ValueError, match=r"^classes: 2, but its folders in .* have 3: bird, cat, dog"):
        folder(tmp_path, classes=2)


def test_labels_csv_wins_over_folder_names(tmp_path: Path) -> None:
    write_images(tmp_path, count=6)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{name},{i % 3}\n" for i, name in enumerate(names)))
    data = folder(tmp_path, classes=10)
    assert data.y.tolist() == [i % 3 for i in range(6)]
    (tmp_path / "labels.csv").write_text("picture,label\n")
    with pytest.raises(ValueError, match=r"labels\.csv: its first line must name the columns file and label"):
        folder(tmp_path, classes=10)


def test_changed_labels_need_no_second_reading(tmp_path: Path, cache: Path) -> None:
    """The pictures are not read again, and yet the fingerprint of the data changes."""
    write_images(tmp_path / "p", count=4)
    fingerprints = []
    for labels in ("0011", "0110"):
        names = sorted(p.relative_to(tmp_path / "p").as_posix() for p in (tmp_path / "p").rglob("*.[jp][pn]g"))
        rows = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
        (tmp_path / "p" / "labels.csv").write_text("file,label\n" + "".join(rows))
        fingerprints.append(folder(tmp_path / "p", classes=2).fingerprint)
    assert len(arrays(cache)) == 1 and len(set(fingerprints)) == 2


# -- read once ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded."""
    seen: list[str] = []
    real = folders.whole_picture
    monkeypatch.setattr(parallel, "FEW", 1000)  # no other process, where nobody would see it
    monkeypatch.setattr(folders, "whole_picture", lambda *arguments: (seen.append(arguments[-1]), real(*arguments))[1])
    return seen


def test_pictures_are_read_once(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    write_images(tmp_path / "p", count=8)
    first = folder(tmp_path / "p")
    assert len(reads) == 8 and len(arrays(cache)) == 1
    again = folder(tmp_path / "p")
    assert len(reads) == 8 and torch.equal(first.x, again.x) and first.fingerprint == again.fingerprint
    assert np.load(arrays(cache)[0]).shape == (8, 8, 8, 3)
    moved = shutil.copytree(tmp_path / "p", tmp_path / "q")
    for file in moved.rglob("*.*"):
        os.utime(file, (1, 1))  # other times, the same content
    assert torch.equal(folder(moved).x, first.x) and len(reads) == 8


def test_cached_hash_equals_the_hash_of_the_pixels(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=8)
    data = folder(tmp_path / "p")
    assert data.pixels_hash is not None and data.fingerprint == content_hash(data.x.clone(), data.y)


@pytest.mark.parametrize("change", ["content", "name", "one more", "shape", "fit", "background"])
def test_changed_pictures_and_options_are_read_again(change: str, tmp_path: Path, cache: Path, reads: list[str]) -> None:
    write_images(tmp_path / "p", count=8)
    folder(tmp_path / "p")
    options: dict[str, Any] = {"shape": {"shape": (3, 4, 8)}, "fit": {"fit": "pad"}, "background": {"background": "red"}}
    file = tmp_path / "p" / "000.jpg"
    if change == "content":
        stat = file.stat()
        content = bytearray(file.read_bytes())
        content[-30] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "name":
        file.rename(tmp_path / "p" / "001b.jpg")
    elif change == "one more":
        shutil.copy(file, tmp_path / "p" / "zzz.jpg")
    folder(tmp_path / "p", **options.get(change, {}))
    assert len(arrays(cache)) == 2 and len(reads) >= 16


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "about"])
def test_damaged_cached_array_is_built_again(damage: str, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "p", count=8)
    first = folder(tmp_path / "p").x.clone()
    (file,) = arrays(cache)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    else:
        (file.parent / "about.json").write_text("{")
    assert torch.equal(folder(tmp_path / "p").x, first)
    assert "is damaged; reading the images again" in caplog.text


def test_interrupted_reading_continues(
    tmp_path: Path, cache: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "p", count=200, size=(9, 9))
    monkeypatch.setattr(array, "SAVE_EVERY", 1)  # after every 64 files
    whole = folders.whole_picture

    def interrupted(*arguments: Any) -> np.ndarray:
        if len(reads) > 150:
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as now:
        now.setattr(folders, "whole_picture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder(tmp_path / "p")
    assert not arrays(cache) or arrays(cache)[0].parent.suffix == ".part"
    (part,) = cache.glob("*.part")
    with open(part / "pixels.npy", "ab") as file:
        file.write(b"half a row")
    before = len(reads)
    data = folder(tmp_path / "p")
    assert "continuing after 128 of 200 images" in capsys.readouterr().out
    assert len(reads) - before == 72 and len(data.x) == 200
    shutil.rmtree(cache)
    assert torch.equal(folder(tmp_path / "p").x, data.x)


def test_reading_refuses_a_disk_that_is_too_small(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "p", count=8)
    monkeypatch.setattr(array.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 500, 500))
    with pytest.raises(
        ValueError, match=r"MiB are required in .*images, but only 0\.0 MiB are free; free some space, or set XDG_CACHE_HOME"
    ):
        folder(tmp_path / "p")
    assert not arrays(cache)


def read_it(root: str) -> str:
    return folder(Path(root)).fingerprint


def test_two_processes_read_a_folder_without_colliding(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=200, size=(60, 60))
    with get_context(RANKS).Pool(2) as pool:
        first, second = pool.map(read_it, [str(tmp_path / "p")] * 2, chunksize=1)
    assert first == second and len(arrays(cache)) == 1 and not list(cache.glob("*.part"))


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_parallel_reading_equals_reading_in_one_process(
    kind: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the random state of the run unchanged."""
    root = tmp_path / "p"
    write_images(root, count=200, size=(9, 9))
    (root / "bad.png").write_text("no picture")
    if kind == "archive":
        root = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    random = torch.get_rng_state()
    together = folder(root)
    assert torch.equal(torch.get_rng_state(), random) and together.left_out.keys() == {"bad.png"}
    x = together.x.clone()
    shutil.rmtree(cache)
    monkeypatch.setattr(parallel, "FEW", 1000)
    assert torch.equal(folder(root).x, x)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_reader_state_can_be_pickled(kind: str, tmp_path: Path) -> None:
    """For processes that are not forked."""
    write_images(tmp_path / "p", count=4)
    shutil.make_archive(str(tmp_path / "p"), "zip", tmp_path / "p")
    data = Folder(str(tmp_path / ("p" if kind == "folder" else "p.zip")), [3, 8, 8], 0, 2, 0)
    source = data.open()
    there, decode = pickle.loads(pickle.dumps((source, data.decoder())))
    assert np.array_equal(decode(there, "000.jpg"), data.decoder()(source, "000.jpg"))


def test_abandoned_partial_readings_are_removed(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "p", count=4)
    for name, days in (("old", 8), ("new", 6)):
        (cache / f"{name}.part").mkdir(parents=True)
        (cache / f"{name}.part" / "pixels.npy").write_bytes(b"")
        for path in (cache / f"{name}.part" / "pixels.npy", cache / f"{name}.part"):
            os.utime(path, (time.time() - days * 86400,) * 2)
    folder(tmp_path / "p")
    assert [path.name for path in cache.glob("*.part")] == [
        "new.part"
    ] and "old.part, which was interrupted over a week ago" in caplog.text


def test_mapped_array_releases_its_memory(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "p", count=16)
    data = folder(tmp_path / "p")
    monkeypatch.setattr("ganexp.data.module.RELEASED_AFTER", 500)
    assert data.mapped is not None
    for i in (torch.tensor([3, 1]), torch.tensor([0, 15, 3])):
        x = data.take(i)
        assert torch.equal(x, data.x[i]) and x.is_contiguous(memory_format=torch.channels_last)
    assert data.bytes_read == 0  # 2 + 3 pictures of 192 bytes


def test_unreadable_files_are_listed(cli: Cli, tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=20)
    (tmp_path / "p" / "x.png").write_bytes(b"nothing")
    command = ["data=folder", "data.root=p", "data.shape=[3,8,8]", "data.batch_size=4", "model=mlp", "trainer.max_steps=1"]
    command += ["metrics=[]", "callbacks=[checkpoint]"]
    answer = cli(*command)
    assert answer.code == 2 and "1 of 21 images in p are unreadable, more than 1.00%: p/x.png" in answer.err.replace(
        f"{tmp_path}/", ""
    )
    answer = cli(*command, "data.max_unreadable=0.1")
    assert answer.code == 0, answer.err
    assert (answer.run / "left_out.txt").read_text() == "x.png: cannot identify image file\n"
    assert answer.record["data"]["notes"] == ["1 of 21 images are unreadable and are left out"]


def test_mapped_array_works_without_madvise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has neither the call nor the constant."""
    write_images(tmp_path / "p", count=8)
    monkeypatch.delattr("mmap.MADV_DONTNEED")
    monkeypatch.setattr("ganexp.data.module.RELEASED_AFTER", 1)
    data = folder(tmp_path / "p")
    assert data.take(torch.arange(8)).shape == (8, 3, 8, 8)


# -- published sets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve faces in CelebA's layout; grey level k of the k-th. The lists are of the first ten."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    for k in range(1, 13):
        Image.new("L", (178, 218), 10 * k).convert("RGB").save(root / "img_align_celeba" / f"{k:06d}.png")
    rows = [f"{k:06d}.png {['-1', '1'][k % 2]:>2} {'1' if k > 5 else '-1':>2}  1" for k in range(1, 11)]
    (root / "list_attr_celeba.txt").write_text("10\nSmiling Male Young\n" + "\n".join(rows) + "\n")
    splits = [f"{k:06d}.png {0 if k < 7 else 1 if k < 9 else 2}" for k in range(1, 11)]
    (root / "list_eval_partition.txt").write_text("\n".join(splits) + "\n")
    return tmp_path


def faces(root: Path, attributes: list[str] = [], split: str = "all") -> CelebA:  # noqa: B006
    data = CelebA(str(root), [3, 8, 8], 2 ** len(attributes) if attributes else 0, 2, 0, attributes, split)
    data.prepare()
    return data


def numbers(data: CelebA) -> list[int]:
    return [round(x / 10) for x in data.x[:, 0, 4, 4].tolist()]


def test_celeba_attributes_become_labels(celeba: Path) -> None:
    data = faces(celeba, ["Smiling"])
    assert numbers(data) == list(range(1, 11)) and data.y.tolist() == [k % 2 for k in range(1, 11)]
    assert "2 of 12 images have no attributes and are left out" in data.notes
    assert "12 of CelebA's 202,599 images (all)" in data.notes and "classes: 0 none of them, 1 Smiling" in data.notes
    both = faces(celeba, ["Male", "Smiling"])
    assert "classes: 0 none of them, 1 Smiling, 2 Male, 3 Male + Smiling" in both.notes
    assert both.y.tolist() == [2 * (k > 5) + k % 2 for k in range(1, 11)]
    with pytest.raises(
        ValueError,
        match=r"^attributes: Smilling is not one of CelebA's; did you mean Smiling\? \(there are: Smiling, Male, Young",
    ):
        faces(celeba, ["Smilling"])


def test_celeba_splits_are_the_published_ones(celeba: Path) -> None:
    assert numbers(faces(celeba, split="train")) == [1, 2, 3, 4, 5, 6]
    assert numbers(faces(celeba, ["Smiling"], split="valid")) == [7, 8]
    assert numbers(faces(celeba, split="test")) == [9, 10]
    (celeba / "celeba" / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"put list_eval_partition.txt \(2,836,386 bytes\) beside .*img_align_celeba"):
        faces(celeba, split="test")


def test_celeba_refuses_two_pictures_of_the_same_name(celeba: Path) -> None:
    pictures = celeba / "celeba" / "img_align_celeba"
    (pictures / "copy").mkdir()
    shutil.copy(pictures / "000003.png", pictures / "copy" / "000003.png")
    with pytest.raises(ValueError, match=r"^root: .* has two pictures of the same name: 000003\.png, copy/000003\.png"):
        faces(celeba)


def test_celeba_inspect_counts_images_per_person(celeba: Path) -> None:
    (celeba / "celeba" / "identity_CelebA.txt").write_text("".join(f"{k:06d}.png {k % 4}\n" for k in range(1, 13)))
    assert faces(celeba).survey()["person"] == {"0": 3, "1": 3, "2": 3, "3": 3}


def test_celeba_is_read_from_an_archive(celeba: Path) -> None:
    whole = faces(celeba, ["Smiling"])
    shutil.make_archive(str(celeba / "celeba" / "img_align_celeba"), "zip", celeba / "celeba", "img_align_celeba")
    shutil.rmtree(celeba / "celeba" / "img_align_celeba")
    for root in (celeba, celeba / "celeba", celeba / "celeba" / "img_align_celeba.zip"):
        packed = faces(root, ["Smiling"])
        assert torch.equal(packed.x, whole.x) and torch.equal(packed.y, whole.y)


def test_failed_celeba_download_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quota(self: Any) -> None:
        Path(self.root, "celeba").mkdir(parents=True)
        raise RuntimeError("Too many users have viewed or downloaded this file recently.")

    monkeypatch.setattr(datasets.CelebA, "download", quota)
    with pytest.raises(FileNotFoundError) as caught:
        faces(tmp_path / "new")
    assert all(f"{name} ({size:,} bytes)" in str(caught.value) for name, size in FILES.items())
    assert f"into {tmp_path}/new/celeba" in str(caught.value) and "Too many users" in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_celeba_attributes_work_on_the_command_line(cli: Cli, celeba: Path) -> None:
    answer = cli("data=celeba", f"data.root={celeba}", "data.shape=[3,16,16]", "data.attributes=[Smiling,Young]", "model=cdcgan",
                 "data.batch_size=4", "trainer.max_steps=1", "metrics=[]", "model.width_multiplier=0.1", "name=c")  # fmt: skip
    assert answer.code == 0, answer.err


def test_faces_are_rotated_until_the_eyes_are_level(tmp_path: Path) -> None:
    """A photograph with a turned face, eyes red, mouth blue: they end where they are in every other face."""
    photograph = np.full((400, 500, 3), 128, np.uint8)
    left, right, mouth = (180.0, 150.0), (260.0, 210.0), (175.0, 240.0)
    for (x, y), colour in ((left, (255, 0, 0)), (right, (255, 0, 0)), (mouth, (0, 0, 255))):
        photograph[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8] = colour
    face = face_by_eyes(left, right, mouth)
    assert face.side == pytest.approx(300)
    cut = np.asarray(face.crop(Image.fromarray(photograph))).astype(int)
    assert cut.shape == (300, 300, 3)
    rows, columns = np.nonzero((cut[..., 0] > 200) & (cut[..., 2] < 60))
    assert abs(rows[columns < 150].mean() - rows[columns > 150].mean()) < 2  # level
    assert columns[columns > 150].mean() - columns[columns < 150].mean() == pytest.approx(100, abs=2)
    assert np.nonzero((cut[..., 2] > 200) & (cut[..., 0] < 60))[0].mean() > rows.mean() + 50  # the mouth below


@pytest.mark.parametrize("degrees", [0, 45, 170, -135])
def test_rotated_face_becomes_upright(degrees: float) -> None:
    turn = np.exp(1j * np.deg2rad(degrees))
    points = [complex(x, y) * turn for x, y in ((-50, 0), (50, 0), (0, 60))]
    left, right, mouth = ((p.real + 300, p.imag + 300) for p in points)
    for eyes in ((left, right), (right, left)):
        assert np.exp(1j * face_by_eyes(*eyes, mouth).angle) == pytest.approx(turn)


def test_folder_requires_a_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^root: is required"):
        folder("")  # type: ignore[arg-type]


def test_cat_data_set_is_cropped_by_the_eyes(tmp_path: Path) -> None:
    root = tmp_path / "CAT_00"
    root.mkdir()
    for k, scale in enumerate((1.0, 1.0, 0.3)):
        Image.new("RGB", (300, 300), (50 * k, 0, 0)).save(root / f"{k}.jpg")
        points = [100, 100, 150, 100, 125, 140, *([0] * 12)]
        (root / f"{k}.jpg.cat").write_text(f"9 {' '.join(str(int(scale * p)) for p in points)} \n")
    data = Cats(str(tmp_path), [3, 16, 16], 0, 2, 0)
    data.prepare()
    assert len(data.x) == 2 and data.notes == ["2 faces are cropped by their annotations; 1 faces below 128 px are left out"]
    with pytest.raises(ValueError, match="not an annotation of points"):
        parse_annotation("9 1 2 3")


def test_pictures_in_the_root_itself_are_noted(tmp_path: Path) -> None:
    """One may be there by mistake, beside the folders of other data sets."""
    write_images(tmp_path / "data" / "anime", count=4)
    Image.new("RGB", (40, 30)).save(tmp_path / "data" / "stray.png")
    data = Cats(str(tmp_path / "data"), [3, 8, 8], 0, 2, 0)
    data.prepare()
    data.survey()
    assert data.notes == [f"{tmp_path}/data has no folder cats; using all pictures in it"] and len(data.x) == 5
    shutil.copytree(tmp_path / "data" / "anime", tmp_path / "data" / "cats")
    data = Cats(str(tmp_path / "data"), [3, 8, 8], 0, 2, 0)
    data.prepare()
    assert data.notes == [] and len(data.x) == 4


def test_annotated_points_ignore_exif_orientation(tmp_path: Path) -> None:
    """They refer to the stored pixels."""
    photograph = np.zeros((300, 400, 3), np.uint8)
    photograph[:, :200] = (0, 200, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, how in (("plain", {}), ("turned", {"exif": exif})):
        Image.fromarray(photograph).save(tmp_path / f"{name}.png", **how)
        (tmp_path / f"{name}.png.cat").write_text("9 150 100 250 100 200 160 " + "0 " * 12)
    data = Cats(str(tmp_path), [3, 16, 16], 0, 2, 0)
    data.prepare()
    assert torch.equal(data.x[0], data.x[1]) and data.x[0, 1, 8, 2] == 200 and data.x[0, 1, 8, 13] == 0


def test_cifar10_has_the_content_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train_list", "test_list", "meta"):
        monkeypatch.setattr(datasets.CIFAR10, name, getattr(datasets.CIFAR10, name))
    write_cifar(tmp_path)
    data = CIFAR10(str(tmp_path), [3, 32, 32], 10, 8, 0)
    data.prepare()
    assert data.x.shape == (80, 3, 32, 32) and data.y.tolist() == [i % 10 for i in range(16)] * 5
    first = np.random.default_rng(0).integers(0, 256, (16, 3072), np.uint8)
    assert np.array_equal(data.x[0].flatten(), first[0])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(FileNotFoundError, match=rf"^root: put cifar-10-python.tar.gz \(170,498,071 bytes\) into {tmp_path}/b"):
        CIFAR10(str(tmp_path / "b"), [3, 32, 32], 10, 8, 0).prepare()
    assert not (tmp_path / "b").exists()
    data = CIFAR10(str(tmp_path / "b"), [3, 32, 32], 10, 8, 0)
    data.may_download = False
    with pytest.raises(FileNotFoundError, match=r"^root: put the content of cifar-10-python\.tar\.gz into .* unpacks nothing"):
        data.prepare()


# -- task=inspect -------------------------------------------------------------------------------------------------------


def test_inspect_draws_no_points_in_space(cli: Callable[..., Answer]) -> None:
    ring = ["data=ring", "data.centres=[[0,0,0],[1,1,1]]", "data.classes=2", "data.shape=[3]", "data.points=1000"]
    answer = cli("task=inspect", *ring)
    assert answer.code == 0, answer.err
    assert answer.out.rstrip().endswith("inspection.json") and not list(answer.run.glob("*.png"))


def test_inspect_reports_on_a_folder(cli: Cli, tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / "p" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10 + k // 3), (51 * (k // 2), 0, 255)).save(tmp_path / "p" / "ab"[k % 2] / f"{k}.png")
    (tmp_path / "p" / "a" / "bad.jpg").write_text("no picture")
    answer = cli("task=inspect", "data=folder", "data.root=p", "data.classes=2", "data.shape=[3,8,8]", "data.batch_size=2")
    assert answer.code == 0, answer.err
    (file,) = tmp_path.glob("outputs/inspect/*/inspection.json")
    facts = json.loads(file.read_text())
    assert facts["samples"] == 6 and facts["duplicates"] == 3 and facts["classes"] == {"0": 3, "1": 3}
    assert facts["files"] == {"size": {"20×10": 3, "20×11": 3}, "file": {"PNG": 6}, "mode": {"RGB": 6}}
    assert facts["left_out"] == {"a/bad.jpg": "cannot identify image file"}
    red = np.array([0, 0, 51, 51, 102, 102]) / 127.5 - 1
    assert facts["mean"] == pytest.approx([red.mean(), -1, 1]) and facts["deviation"] == pytest.approx([red.std(), 0, 0])
    assert Image.open(file.parent / "thumbnails.png").width > 60
    for said in ("20×10 3, 20×11 3", "2, of 3 to 3 samples", "0 a, 1 b"):
        assert said in answer.out


@pytest.mark.parametrize("data, picture", [("digits", "thumbnails.png"), ("ring", "scatter.png")])
def test_inspect_draws_images_and_points(data: str, picture: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("task=inspect", f"data={data}")
    assert answer.code == 0, answer.err
    assert len(list(tmp_path.glob(f"outputs/inspect/*/{picture}"))) == 1


@pytest.mark.parametrize("task", ["inspect", pytest.param("train", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "words, message",
    [
        ("data=folder data.max_unreadable=7", "data.max_unreadable: must be from 0 to 1, got 7"),
        ("data=folder data.batch_size=1", "data.batch_size: must be at least 2, got 1"),
        ("data=folder data.batch_size=many", "data.batch_size: 'many' is not of type int"),
        ("data=cats data.min_face_size=-1", "data.min_face_size: must be at least 0, got -1"),
        ("data=sine data.points=0", "data.points: must be at least 1, got 0"),
        ("data=sine data.points_seed=-1", "data.points_seed: must be at least 0, got -1"),
        ("data=ring data.points=-1", "data.points: must be at least 1, got -1"),
        ("data=ring data.sigma=inf", "data.sigma: must be above 0 and finite, got inf"),
        ("data=ring data.points_seed=-1", "data.points_seed: must be at least 0, got -1"),
        ("data=stacked_mnist data.images_seed=-1", "data.images_seed: must be at least 0, got -1"),
    ],
)
def test_inspect_checks_ranges_as_train_does(task: str, words: str, message: str, cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "p", count=4)
    root = ["data.root=p"] if words.startswith(("data=folder", "data=cats", "data=stacked")) else []
    answer = cli(f"task={task}", *words.split(), *root)
    assert answer.code == 2 and answer.err == f"ganexp: {message}\n" and not (tmp_path / "outputs").exists()


def test_inspect_refuses_options_it_does_not_use(cli: Cli) -> None:
    answer = cli("task=inspect", "model=mlp")
    assert answer.code == 2 and "model: not used by task=inspect" in answer.err


# -- what a reviewer found ----------------------------------------------------------------------------------------------


def test_folders_with_equal_names_sizes_and_times_are_told_apart(tmp_path: Path, cache: Path) -> None:
    for value, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for file in (tmp_path / name / "0.bmp", tmp_path / name / "1.bmp"):
            Image.new("RGB", (8, 8), (value, 0, 0)).save(file)
            os.utime(file, (1e9, 1e9))
        assert folder(tmp_path / name).x[0, 0, 0, 0] == value


def test_too_many_unreadable_files_stop_every_run(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=10)
    (tmp_path / "p" / "x.png").write_text("no picture")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1 of 11 images .* more than 1\.00%"):
            folder(tmp_path / "p")
    assert len(folder(tmp_path / "p", max_unreadable=1.0).x) == 10
    with pytest.raises(ValueError, match=r"1 of 11 images .* more than 1\.00%"):
        folder(tmp_path / "p")


def test_broken_links_and_damaged_archive_members_count_as_unreadable(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=8)
    (tmp_path / "p" / "link.png").symlink_to("nowhere")
    assert folder(tmp_path / "p", max_unreadable=0.5).left_out.keys() == {"link.png"}
    (tmp_path / "p" / "link.png").unlink()
    file = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "p"))
    content = bytearray(file.read_bytes())
    content[200] ^= 255
    file.write_bytes(content)
    assert len(folder(file, max_unreadable=0.5).left_out) == 1


def test_linked_folders_are_read_once_and_other_files_are_noted(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=4)
    write_images(tmp_path / "q", count=4)
    (tmp_path / "p" / "link").symlink_to(tmp_path / "q")
    (tmp_path / "q" / "back").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "scan.tif").write_bytes(b"")
    data = folder(tmp_path / "p")
    assert len(data.x) == 8 and data.notes == ["files of other types are left out: 1 .tif"]


def test_file_name_that_is_not_utf8_is_handled(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "p", count=4)
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "p" / name).write_text("no picture")
    for _ in range(2):
        assert folder(tmp_path / "p", max_unreadable=0.5).left_out.keys() == {name}


def test_mistyped_label_gets_a_suggestion(tmp_path: Path) -> None:
    write_images(tmp_path, count=8)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    rows = [
        f"{name},{kind}\n" for name, kind in zip(names, ["cat", "dog", "cat", "dog", "Cat", "bird", "dog", "bird"], strict=True)
    ]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(rows))
    with pytest.raises(
        ValueError, match=r"classes: 3, but labels\.csv .* have 4: Cat, bird, .*; line 6, .*: 'Cat'; did you mean cat\?"
    ):
        folder(tmp_path, classes=3)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "data=folder data.fit=Crop",
            "data.fit: 'Crop' is not a valid choice; did you mean crop? (there are: crop, pad, squash)",
        ),
        ("data=folder data.fit=SQUASH", "data.fit: 'SQUASH' is not a valid choice; did you mean squash?"),
        (
            "data=celeba data.split=Train",
            "data.split: 'Train' is not a valid choice; did you mean train? (there are: all, test, train, valid)",
        ),
        (
            "task=prepare task.source=p task.target=set task.detect=Cat_face",
            "task.detect: 'Cat_face' is not a valid choice; did you mean cat_face?",
        ),
        ("callbacks.watchdog.on_nan=Stop", "callbacks.watchdog.on_nan: 'Stop' is not a valid choice; did you mean stop?"),
        ("data=Digits", "data=Digits: there is no such option; did you mean digits?"),
        ("data=DIGITS", "data=DIGITS: there is no such option; did you mean digits?"),
    ],
)
def test_choices_in_the_wrong_case_are_refused_with_advice(words: str, message: str, cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "p", count=4)
    answer = cli(*words.split(), *(["data.root=p"] if words.startswith(("data=folder", "data=celeba")) else []))
    assert answer.code == 2 and answer.err.startswith(f"ganexp: {message}") and answer.err.count("\n") == 1, answer.err


def test_invalid_label_files_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, count=4)
    for content, message in (
        ("file,label\n000.jpg,1\n000.jpg,2\n", "line 3 has a second label for 000.jpg"),
        ("file,label\n000.jpg,\n", "labels.csv: line 2, 000.jpg: has no label"),
        ("file,label\n000.jpg,1\n002.png,  \n", "labels.csv: line 3, 002.png: has no label"),
        ("file,label\n000.jpg\n", "labels.csv: line 2, 000.jpg: has no label"),
        ("file,label\n,1\n", "labels.csv: line 2 has no file; a line must be FILE,LABEL"),
        ("", "its first line must name the columns file and label; it is empty"),
        (",label\n", "columns file and label, got '', 'label'"),
        ("flie,label\n", "columns file and label, got 'flie', 'label'; did you mean file by 'flie'?"),
        ("file,Label\n", "got 'file', 'Label'; did you mean label by 'Label'?"),
        ("file;label\n", "got 'file;label'; the separator must be a comma"),
        ("file,label\n000.jpg,0\n002.png,12\n", "have 2: 0, 12; line 3, 002.png: 12 is not from 0 to 4"),
        ("file,label\n000.jpg,caf\xe9\n", "cannot be read"),
        ("file,label\n000.jpg,1\n002.png,01\n", "spell the same number differently"),
    ):
        (tmp_path / "labels.csv").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=r"^classes: ") as caught:
            folder(tmp_path, classes=5)
        assert message in str(caught.value)


def test_numeric_class_names_are_sorted_as_numbers(tmp_path: Path) -> None:
    for value in range(1, 12):
        (tmp_path / str(value)).mkdir()
        Image.new("L", (8, 8), value).save(tmp_path / str(value) / "a.png")
    data = folder(tmp_path, (1, 8, 8), classes=11)
    assert (data.x[:, 0, 0, 0].int() - 1).tolist() == data.y.tolist()


@pytest.mark.parametrize("row", ["000001.png 1 1", "000001.png 1 1 -", "000001.png 1 1 2"])
def test_damaged_attribute_list_is_refused(row: str, celeba: Path) -> None:
    (celeba / "celeba" / "list_attr_celeba.txt").write_text(f"1\nSmiling Male Young\n{row}\n")
    with pytest.raises(ValueError, match=r"^attributes: list_attr_celeba.txt is damaged: line 3"):
        faces(celeba, ["Smiling"])


def test_inspect_finds_pictures_in_deeper_folders(cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "anime" / "train", count=6)
    answer = cli("task=inspect", "data=anime")
    assert answer.code == 0 and "40×30 6" in answer.out, answer.err
