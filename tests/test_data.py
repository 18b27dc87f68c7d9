"""Data: reading, checks and batches."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW, TINY, Answer, data_overrides, write_cifar, write_idx, write_images
from PIL import Image
from torchvision import datasets

from ganexp.data.cifar import CIFAR10
from ganexp.data.decoding import decode_image
from ganexp.data.digits import Digits
from ganexp.data.faces import Anime, Cats, CelebA
from ganexp.data.folder import Folder
from ganexp.data.mnist import FILES, MNIST, FashionMNIST
from ganexp.data.module import Batches, DataModule
from ganexp.data.stacked import StackedMNIST
from ganexp.data.toy import Sine

# -- batches -------------------------------------------------------------------------------------------------------------


def batches(
    k: int, size: int = 20, batch: int = 6, seed: int = 0, rank: int = 0, ranks: int = 1, start: int = 0
) -> list[list[int]]:
    return [b.tolist() for b in islice(Batches(size, batch, seed, rank, ranks, start), k)]


def test_every_sample_comes_once_an_epoch() -> None:
    found = batches(8, size=20, batch=5)
    first, second = ([i for batch in part for i in batch] for part in (found[:4], found[4:]))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != sorted(first)


def test_incomplete_last_batch_is_left_out() -> None:
    found = batches(9)  # three batches of 6 from 20
    assert all(len(b) == 6 for b in found)
    for epoch in range(3):
        assert len({i for b in found[3 * epoch : 3 * epoch + 3] for i in b}) == 18


def test_no_sample_is_always_left_out() -> None:
    assert {i for b in batches(60) for i in b} == set(range(20))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_split_a_batch(ranks: int) -> None:
    parts = [batches(7, rank=rank, ranks=ranks) for rank in range(ranks)]
    for whole, *shares in zip(batches(7), *parts, strict=True):
        assert all(len(share) == 6 // ranks for share in shares)
        assert sorted(i for share in shares for i in share) == sorted(whole)  # disjoint and together all of it


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 9, 10])
def test_batches_continue_from_any_start(start: int) -> None:
    assert batches(5, start=start) == batches(15)[start : start + 5]


def test_order_depends_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = batches(3)
    torch.manual_seed(1)
    np.random.seed(1)
    assert batches(3) == first
    assert batches(3, seed=1) != first


# -- the module ----------------------------------------------------------------------------------------------------------


class Given(DataModule):
    """What the test hands over."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], classes: int = 0, batch_size: int = 2, seed: int = 0
    ):
        super().__init__(shape, classes, batch_size, seed)
        self.given, self.loads = (x, y), 0

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        self.loads += 1
        return self.given


IMAGES = np.arange(6 * 3 * 2 * 4, dtype=np.uint8).reshape(6, 3, 2, 4)
LABELS = np.arange(6)
NONE = np.zeros(6, np.int64)


def test_prepare_loads_once() -> None:
    data = Given(IMAGES, LABELS, (3, 2, 4), classes=6)
    data.prepare()
    data.prepare()
    assert data.loads == 1
    assert torch.equal(data.x, torch.from_numpy(IMAGES)) and torch.equal(data.y, torch.from_numpy(LABELS))


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"shape": (3, 4, 2), "classes": 6}, r"^shape: \[3, 4, 2\], but .*\[3, 2, 4\]"),
        ({"shape": (2,), "classes": 6}, r"^shape: \[2\], but .*\[3, 2, 4\]"),
        ({"shape": (3, 2, 4), "classes": 6, "batch_size": 7}, "^batch_size: 7, .*only 6"),
        ({"shape": (3, 2, 4), "classes": 5}, "^classes: 5, .*from 0 to 5"),
        ({"shape": (3, 2, 4), "classes": 0}, "^classes: 0, .*from 0 to 5"),
    ],
)
def test_training_refuses_data_that_differs_from_the_config(facts: dict[str, object], message: str) -> None:
    data = Given(IMAGES, LABELS, **facts)
    with pytest.raises(ValueError, match=message):
        data.prepare()
        data.train_dataloader()


def test_only_training_needs_as_many_samples_as_a_batch() -> None:
    data = Given(IMAGES, LABELS, (3, 2, 4), classes=6, batch_size=7)
    data.prepare()
    assert len(data.real(6)) == 6
    with pytest.raises(ValueError, match="only 1 samples"):
        Given(IMAGES[:1], LABELS[:1], (3, 2, 4), classes=6).prepare()


def test_prepare_refuses_negative_labels() -> None:
    with pytest.raises(ValueError, match=r"^classes: 6, .*from -1 to 4"):
        Given(IMAGES, LABELS - 1, (3, 2, 4), classes=6).prepare()


def test_batch_may_be_the_whole_data_set() -> None:
    data = Given(IMAGES, NONE, (3, 2, 4), batch_size=6)
    data.prepare()
    x, _ = next(iter(data.train_dataloader()))
    assert x.shape == IMAGES.shape


@pytest.mark.parametrize("shape", [(), (2, 2), (1, 2, 3, 4), (0,), (3, 0, 8), (3, -1, 8)])
def test_data_refuses_shapes_of_neither_images_nor_points(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^shape: "):
        Given(IMAGES, NONE, shape)


@pytest.mark.parametrize("batch_size", [1, 0, -4])
def test_data_refuses_a_batch_of_fewer_than_two(batch_size: int) -> None:
    with pytest.raises(ValueError, match=r"^batch_size: "):
        Given(IMAGES, NONE, (3, 2, 4), batch_size=batch_size)


def test_images_and_labels_stay_together() -> None:
    data = Given(IMAGES, LABELS, (3, 2, 4), classes=6, seed=3)
    data.prepare()
    seen = []
    for (x, y), i in zip(islice(data.train_dataloader(), 3), Batches(6, 2, 3, 0, 1, 0), strict=False):
        assert torch.equal(x, torch.from_numpy(IMAGES)[y]) and torch.equal(y, i)
        seen += y.tolist()
    assert sorted(seen) == list(range(6))


def test_images_are_scaled_after_the_transfer() -> None:
    data = Given(IMAGES, LABELS, (3, 2, 4), classes=6)
    x, y = data.on_after_batch_transfer((torch.tensor([0, 255, 51], dtype=torch.uint8), torch.tensor([4])), 0)
    assert x.dtype == torch.float32 and x[0] == -1 and x[1] == 1 and x[2].item() == pytest.approx(-0.6)
    assert y.tolist() == [4]


def test_points_keep_their_units() -> None:
    points = torch.tensor([[5.0, -7.0]])
    x, _ = Given(IMAGES, LABELS, (2,)).on_after_batch_transfer((points, torch.tensor([0])), 0)
    assert torch.equal(x, points)


@pytest.mark.parametrize("classes, counts", [(0, [6]), (1, [6]), (2, [6, 0])])
def test_label_counts_without_labels(classes: int, counts: list[int]) -> None:
    data = Given(IMAGES, NONE, (3, 2, 4), classes)
    data.prepare()
    assert data.label_counts().tolist() == counts and data.label_counts().dtype == torch.int64


def test_label_counts_hold_a_number_for_each_class() -> None:
    data = Given(IMAGES, np.array([3, 0, 3, 3, 1, 0]), (3, 2, 4), classes=5)
    data.prepare()
    assert data.label_counts().tolist() == [2, 1, 0, 3, 0] and data.label_counts().dtype == torch.int64


def test_real_samples_do_not_depend_on_the_seed() -> None:
    modules = [Given(IMAGES, LABELS, (3, 2, 4), classes=6, seed=seed) for seed in (0, 1)]
    for data in modules:
        data.prepare()
    few, same = (data.real(4) for data in modules)
    assert torch.equal(few, same) and few.shape == (4, 3, 2, 4)
    everything = torch.from_numpy(IMAGES).float() / 127.5 - 1
    for n in (6, 100):
        torch.testing.assert_close(modules[0].real(n), everything)
    found = [(everything == x).flatten(1).all(1).nonzero().item() for x in few]
    assert len(set(found)) == 4


# -- what ships ----------------------------------------------------------------------------------------------------------


def test_digits_have_the_documented_content() -> None:
    data = Digits((1, 8, 8), 10)
    data.prepare()
    assert data.x.shape == (1797, 1, 8, 8) and data.x.dtype == torch.uint8
    assert (int(data.x.min()), int(data.x.max())) == (0, 255) and len(data.x.unique()) == 17
    assert data.y.dtype == torch.int64 and data.y[:10].tolist() == list(range(10))
    assert data.y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as scikit-learn documents
    # The hole of the first digit, a zero, is empty; its left stroke is not.
    assert data.x[0, 0, 4, 4] == 0 and data.x[0, 0, 4, 2] > 100


def test_sine_points_are_on_the_curve() -> None:
    data = Sine((2,), 0, 32, seed=0, points=500)
    data.prepare()
    t, s = data.x.double().T
    assert data.x.shape == (500, 2) and data.x.dtype == torch.float32 and not data.y.any() and len(data.y) == 500
    torch.testing.assert_close(s, t.sin(), atol=1e-6, rtol=0)
    assert 0 <= t.min() < 0.1 and 6.18 < t.max() <= 2 * np.pi
    assert t.mean().item() == pytest.approx(np.pi, abs=0.3)


def test_sine_points_depend_on_points_seed_alone() -> None:
    x = [Sine((2,), 0, 32, seed=seed, points=50, points_seed=p).load()[0] for seed, p in ((0, 111), (1, 111), (0, 112))]
    assert np.array_equal(x[0], x[1]) and not np.array_equal(x[0], x[2])


# -- MNIST ---------------------------------------------------------------------------------------------------------------

MNISTS = pytest.mark.parametrize("make", [MNIST, FashionMNIST])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (MNIST, FashionMNIST):
        monkeypatch.setattr(make.dataset, "mirrors", [])

    def no_network(self: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr(datasets.CelebA, "download", no_network)


def mnist(make: type[MNIST], root: Path) -> MNIST:
    return make(str(root), (1, 28, 28), 10, 8, 0)


def check_content(data: MNIST, raw: Path) -> None:
    data.prepare()
    assert data.x.shape == (64, 1, 28, 28) and data.x.dtype == torch.uint8
    assert data.y.tolist() == [i % 10 for i in range(64)]
    content = (raw / FILES[0]).read_bytes()[16:]
    assert data.x.contiguous().numpy().tobytes() == content  # of the training part


@MNISTS
def test_mnist_reads_plain_files(make: type[MNIST], tmp_path: Path) -> None:
    raw = tmp_path / make.dataset.__name__ / "raw"
    write_idx(raw)
    check_content(mnist(make, tmp_path), raw)


@MNISTS
def test_mnist_reads_compressed_files(make: type[MNIST], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / make.dataset.__name__ / "raw"
    write_idx(raw, compress=True)
    # torchvision unpacks only what has the published checksum; these are ours. The mirror is never asked.
    sums = [(f"{name}.gz", hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest()) for name in FILES]
    monkeypatch.setattr(make.dataset, "resources", sums)
    monkeypatch.setattr(make.dataset, "mirrors", ["http://127.0.0.1:9/"])
    check_content(mnist(make, tmp_path), raw)


@MNISTS
def test_mnist_names_missing_files(make: type[MNIST], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        mnist(make, tmp_path).prepare()
    message = str(caught.value)
    assert all(name in message for name in FILES) and str(tmp_path / make.dataset.__name__ / "raw") in message


@MNISTS
def test_mnist_names_only_the_missing_files(make: type[MNIST], tmp_path: Path) -> None:
    raw = tmp_path / make.dataset.__name__ / "raw"
    write_idx(raw)
    (raw / FILES[2]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist(make, tmp_path).prepare()
    asked, _ = str(caught.value).split("(plain or .gz)")  # after it stands what torchvision said
    assert [name in asked for name in FILES] == [False, False, True, False]


@MNISTS
def test_mnist_of_a_checkpoint_needs_unpacked_files(make: type[MNIST], tmp_path: Path) -> None:
    raw = tmp_path / make.dataset.__name__ / "raw"
    write_idx(raw, compress=True)
    data = mnist(make, tmp_path)
    data.may_download = False
    with pytest.raises(FileNotFoundError, match=rf"^root: put {', '.join(FILES)} \(plain\) into {raw}, .* unpacks nothing$"):
        data.prepare()


def test_failed_download_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mnist(MNIST, tmp_path / "new").prepare()
    assert not list(tmp_path.iterdir())


def cut(content: bytes) -> bytes:
    return content[:-100]


def nothing(content: bytes) -> bytes:
    return b""


def a_page(content: bytes) -> bytes:
    return b"<!DOCTYPE html><html>Not found</html>"


def header_only(content: bytes) -> bytes:
    return content[:6]


@pytest.mark.parametrize("damage", [cut, nothing, a_page, header_only])
@pytest.mark.parametrize("file", FILES[:2])
def test_damaged_mnist_file_is_reported_as_damaged(damage: Callable[[bytes], bytes], file: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, images=200)
    (raw / file).write_bytes(damage((raw / file).read_bytes()))
    with pytest.raises(ValueError, match="damaged") as caught:
        mnist(MNIST, tmp_path).prepare()
    assert str(raw) in str(caught.value)


# -- another size ----------------------------------------------------------------------------------------------------------


def published(name: str, root: Path, shape: tuple[int, ...]) -> DataModule:
    """Of 64 digits or 80 photographs, written if they are not there."""
    if name == "digits":
        return Digits(shape, 10, 8, 0)
    if not any(root.iterdir()):
        write_cifar(root) if name == "cifar10" else write_idx(root / "MNIST" / "raw")
    if name == "stacked_mnist":
        return StackedMNIST(str(root), shape, 1000, 8, 0, images=40)
    return {"mnist": MNIST, "cifar10": CIFAR10}[name](str(root), shape, 10, 8, 0)


@pytest.mark.parametrize(
    "name, native, shape, mode",
    [
        ("mnist", (1, 28, 28), (1, 64, 64), "L"),
        ("mnist", (1, 28, 28), (3, 32, 32), "RGB"),
        ("mnist", (1, 28, 28), (1, 14, 40), "L"),
        ("mnist", (1, 28, 28), (3, 28, 28), "RGB"),
        ("cifar10", (3, 32, 32), (3, 64, 64), "RGB"),
        ("cifar10", (3, 32, 32), (1, 32, 32), "L"),
        ("cifar10", (3, 32, 32), (1, 8, 8), "L"),
        ("stacked_mnist", (3, 28, 28), (3, 64, 64), "RGB"),
        ("digits", (1, 8, 8), (3, 32, 32), "RGB"),
        ("digits", (1, 8, 8), (1, 1, 1), "L"),
    ],
)
def test_published_data_is_resized_to_the_shape(
    name: str, native: tuple[int, ...], shape: tuple[int, ...], mode: str, tmp_path: Path
) -> None:
    """As Pillow resizes each image; the labels are unchanged."""
    before, data = published(name, tmp_path, native), published(name, tmp_path, shape)
    before.prepare()
    data.prepare()
    assert data.x.shape == (len(before.x), *shape) and data.x.dtype == torch.uint8 and torch.equal(data.y, before.y)
    assert data.x.is_contiguous(memory_format=torch.channels_last)
    for i in (0, 1, 7, 39):
        picture = Image.fromarray(before.x[i].permute(1, 2, 0).numpy().squeeze()).convert(mode)
        picture = picture.resize((shape[2], shape[1]), Image.Resampling.BICUBIC)
        assert data.x[i].permute(1, 2, 0).contiguous().numpy().tobytes() == picture.tobytes()
    assert before.resize == "none"
    assert data.resize == ("none" if native[1:] == shape[1:] else f"bicubic to {shape[1]}×{shape[2]}, squash")
    assert data.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "name, shape, channels",
    [
        ("mnist", (2, 28, 28), "1 or 3"),
        ("mnist", (784,), "1 or 3"),
        ("cifar10", (4, 32, 32), "1 or 3"),
        ("digits", (5, 8, 8), "1 or 3"),
        ("stacked_mnist", (1, 28, 28), "3"),
        ("stacked_mnist", (4, 28, 28), "3"),
    ],
)
def test_data_refuses_impossible_channel_counts(name: str, shape: tuple[int, ...], channels: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^shape: must be \[{channels} channels, height, width\], got \[{shape[0]}[],]"):
        published(name, tmp_path, shape)


def test_data_refuses_a_size_that_does_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^shape: 64 images of \[1, 900000, 900000\] take 48,279.\d GiB of memory, more than "):
        published("mnist", tmp_path, (1, 900_000, 900_000)).prepare()
    monkeypatch.delattr("os.sysconf")  # as on Windows
    with pytest.raises(ValueError, match=r"^shape: 64 images of .* GiB of memory, more than half of this machine's 8.0 GiB"):
        published("mnist", tmp_path, (1, 10_000, 10_000)).prepare()


@pytest.mark.slow
@pytest.mark.parametrize("data, metrics", [("mnist", "fid"), ("stacked_mnist", "fid,class_modes")])
def test_run_on_resized_data_states_it_in_the_protocol(
    data: str, metrics: str, cli: Callable[..., Answer], data_root: Path
) -> None:
    """The classifier learns the resized images."""
    options = [f"metrics=[{metrics}]", "extractor=classifier", "extractor.steps=5", "data.shape=[3,32,32]"]
    answer = cli("model=dcgan", f"data={data}", *data_overrides(data, data_root), *options, *NARROW["dcgan"], *TINY)
    assert answer.code == 0, answer.err
    protocol = answer.record["protocols"]["fid/classifier"]
    assert protocol["real"]["resize"] == "bicubic to 32×32, squash" and protocol["real"]["shape"] == [3, 32, 32]


def test_data_of_fixed_size_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"^shape: \[3, 4, 4\], but the data has samples of shape \[3, 2, 4\]"):
        Given(IMAGES, NONE, (3, 4, 4)).prepare()


def test_class_probabilities_are_the_labels_frequencies(tmp_path: Path) -> None:
    data = Given(IMAGES[:4], np.array([0, 0, 2, 0]), (3, 2, 4), classes=4)
    data.prepare()
    assert data.class_probabilities.tolist() == [4 / 8, 1 / 8, 2 / 8, 1 / 8]
    write_idx(tmp_path / "MNIST" / "raw")
    digits = np.bincount(mnist(MNIST, tmp_path).load()[1], minlength=10) / 64
    stacked = StackedMNIST(str(tmp_path), (3, 28, 28), 1000, 8, 0, images=50_000)
    stacked.prepare()
    exact = [digits[label // 100] * digits[label // 10 % 10] * digits[label % 10] for label in range(1000)]
    assert stacked.class_probabilities.numpy() == pytest.approx(np.array(exact), rel=0.1)  # counts of 50 images vary more


# -- a folder of images --------------------------------------------------------------------------------------------------


def folder(root: Path, shape: tuple[int, ...] = (3, 8, 8), fit: str = "crop", batch_size: int = 2) -> Folder:
    return Folder(str(root), shape, 0, batch_size, 0, fit)


def plain(path: Path, value: int | tuple[int, ...], size: tuple[int, int] = (8, 8), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_folder_is_read_recursively_in_the_order_of_paths(tmp_path: Path) -> None:
    for value, name in enumerate(["a.png", "b/a.png", "b/c/a.PNG", "c.bmp", "d.webp", "e.gif", "f.jpeg", "g.jpg"]):
        plain(tmp_path / name, value * 10)
    (tmp_path / "notes.txt").write_text("not an image")
    data = folder(tmp_path, (1, 8, 8))
    data.prepare()
    assert data.x.shape == (8, 1, 8, 8) and data.x.dtype == torch.uint8
    assert data.x[:, 0, 4, 4].tolist() == [0, 10, 20, 30, 40, 50, 60, 70]
    assert data.y.tolist() == [0] * 8 and data.notes == []


def test_folder_order_does_not_depend_on_creation(tmp_path: Path) -> None:
    for value, name in ((30, "c.png"), (10, "a.png"), (20, "b.png")):
        plain(tmp_path / name, value)
    data = folder(tmp_path, (1, 8, 8))
    data.prepare()
    assert data.x[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_folder_converts_pictures_to_1_to_4_channels(tmp_path: Path) -> None:
    plain(tmp_path / "a.png", 100)
    plain(tmp_path / "b.png", (200, 100, 50), mode="RGB")
    plain(tmp_path / "c.png", (10, 20, 30, 40), mode="RGBA")
    found = {}
    for channels in (1, 2, 3, 4):
        data = folder(tmp_path, (channels, 8, 8))
        data.prepare()
        assert data.x.shape == (3, channels, 8, 8)
        found[channels] = data.x[:, :, 3, 3].tolist()
    # Grey is 0.299 R + 0.587 G + 0.114 B; what is transparent and has no alpha channel lies on black.
    assert found[1] == [[100], [124], [3]]
    assert found[2] == [[100, 255], [124, 255], [18, 40]]
    assert found[3] == [[100, 100, 100], [200, 100, 50], [2, 3, 5]]
    assert found[4] == [[100, 100, 100, 255], [200, 100, 50, 255], [10, 20, 30, 40]]


def test_height_comes_before_width(tmp_path: Path) -> None:
    picture = np.zeros((6, 12), np.uint8)
    picture[1, 9] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    data = folder(tmp_path, (1, 6, 12))
    assert np.array_equal(data.load()[0][0, 0], picture)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation_is_applied(suffix: str, tmp_path: Path) -> None:
    picture = Image.new("L", (32, 16))
    picture.paste(255, (0, 0, 16, 16))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned clockwise: the left edge comes up
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    x = folder(tmp_path, (1, 32, 16)).load()[0][0, 0]
    assert (x[:14] > 250).all() and (x[18:] < 5).all()


def test_rotated_picture_with_an_odd_tag_is_read(tmp_path: Path) -> None:
    """YCbCrPositioning as text, as some programs write it. Pillow cannot write this EXIF again."""
    tags = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x0213, 2, 2, b"1\0\0\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 0)
    Image.new("L", (32, 16)).save(tmp_path / "a.jpg")
    plain = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    assert decode_image((tmp_path / "a.jpg").read_bytes(), "L").size == (16, 32)


def test_fit_crops_pads_or_squashes(tmp_path: Path) -> None:
    """White, grey, white from left to right in 40×20 px, into a square."""
    picture = Image.new("L", (40, 20), 255)
    picture.paste(100, (10, 0, 30, 20))
    picture.save(tmp_path / "a.png")
    crop, pad, squash = (folder(tmp_path, (1, 20, 20), fit).load()[0][0, 0].astype(int) for fit in ("crop", "pad", "squash"))
    assert (crop == 100).all()
    assert not pad[:5].any() and not pad[15:].any()  # black above and below
    assert (pad[6:14, [0, 1, 18, 19]] > 250).all() and (abs(pad[6:14, 8:12] - 100) < 3).all()
    assert (squash[:, [0, 1, 18, 19]] > 250).all() and (abs(squash[:, 8:12] - 100) < 3).all()


def test_large_pictures_are_antialiased(tmp_path: Path) -> None:
    """A fine chequerboard becomes grey; without antialiasing it would be black and white."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    for suffix in ("png", "jpg"):
        Image.fromarray(board).save(tmp_path / f"a.{suffix}", quality=100)
    x = folder(tmp_path, (1, 16, 16)).load()[0]
    assert (abs(x.astype(int) - 127) < 10).all()


def test_picture_with_exif_rotation_keeps_its_detail(tmp_path: Path) -> None:
    """Stripes 4 px high, 512×128 px after rotation, to 64 px: a JPEG decoded at a quarter of its size would be all grey."""
    picture = Image.fromarray(((np.arange(2, 130) // 4 % 2) * 255).astype(np.uint8)[None].repeat(512, 0))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert folder(tmp_path, (1, 64, 16)).load()[0].std() > 100


def test_sixteen_bit_grey_is_scaled_to_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x4000], [0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    for channels in (1, 3):
        x = folder(tmp_path, (channels, 2, 2)).load()[0][0].astype(int)
        assert np.abs(x - np.array([[0, 64], [128, 255]])).max() <= 1


def test_rare_unreadable_file_is_noted(tmp_path: Path) -> None:
    for i in range(99):
        plain(tmp_path / f"{i:02d}.png", i, (2, 2))
    (tmp_path / "50x.png").write_text("not an image")
    data = folder(tmp_path, (1, 2, 2))
    data.prepare()
    assert data.x[:, 0, 0, 0].tolist() == list(range(99))
    assert data.notes == ["1 of 100 images are unreadable and are left out"]
    assert data.left_out == {"50x.png": "cannot identify image file"}
    (tmp_path / "98.png").unlink()  # 1 in 99 is more than 1 in 100
    with pytest.raises(ValueError, match=r"1 of 99 .*50x\.png"):
        folder(tmp_path, (1, 2, 2)).prepare()


def test_truncated_file_is_unreadable(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for suffix in ("png", "jpg"):
        noise.save(tmp_path / f"a.{suffix}")
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for _ in range(2):  # the second finds what the first has read
            message = rf"1 of 1 images in .* are unreadable, more than 1.00%: .*/a.{suffix}: .*truncated"
            with pytest.raises(ValueError, match=message):
                folder(tmp_path).load()
        path.unlink()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^root: .*nowhere"):
        folder(tmp_path / "nowhere").prepare()


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(FileNotFoundError, match=r"contains no image \(.bmp .* .webp\)$"):
        folder(tmp_path).prepare()
    for name in ("a.heic", "b.HEIC", "c.tif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"contains no image \(.*\), but 2 .heic, 1 .tif$"):
        folder(tmp_path).prepare()


@pytest.mark.parametrize("shape", [(2,), (5, 8, 8)])
def test_folder_refuses_shapes_that_are_not_images(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^shape: "):
        folder(tmp_path, shape)


# -- with replacement, and the sets of faces -----------------------------------------------------------------------------


def test_replacement_repeats_some_samples_and_omits_others() -> None:
    """Of 1,000 samples from 1,000 about 1/e never come."""
    batches = Batches(1000, 50, 0, 0, 1, 0, replacement=True)
    drawn = torch.cat(list(islice(batches, 20)))
    assert len(drawn) == 1000 and 600 < len(drawn.unique()) < 665
    again = Batches(1000, 50, 0, 0, 1, 0, replacement=True)
    assert torch.equal(torch.cat(list(islice(again, 20))), drawn)


def test_replacement_continues_from_a_start_and_splits_across_ranks() -> None:
    whole = list(islice(Batches(100, 8, 3, 0, 1, 0, replacement=True), 9))
    assert torch.equal(next(iter(Batches(100, 8, 3, 0, 1, 5, replacement=True))), whole[5])
    parts = [next(iter(Batches(100, 8, 3, rank, 2, 5, replacement=True))) for rank in (0, 1)]
    assert sorted(torch.cat(parts).tolist()) == sorted(whole[5].tolist())


@pytest.mark.parametrize("make, folder", [(CelebA, "celeba/img_align_celeba"), (Cats, "cats"), (Anime, "anime")])
def test_face_data_is_found_in_its_folder_or_above(make: type[Folder], folder: str, tmp_path: Path) -> None:
    write_images(tmp_path / folder, count=8)
    write_images(tmp_path / "others", count=8)
    for root in {tmp_path, tmp_path / folder, (tmp_path / folder).parent}:
        data = make(str(root), [3, 8, 8], 0, 4, 0)
        data.prepare()
        assert len(data.x) == 8, root


@pytest.mark.parametrize("make, folder", [(CelebA, "celeba/img_align_celeba"), (Cats, "cats"), (Anime, "anime")])
def test_missing_face_data_names_the_folder(make: type[Folder], folder: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^root: .*{tmp_path}/{folder.split('/')[0]}"):
        make(str(tmp_path), [3, 8, 8], 0, 4, 0).prepare()


def test_labelled_real_samples_are_the_real_samples() -> None:
    data = Digits([1, 8, 8], 10, 64, 0)
    data.prepare()
    x, y = data.real_and_labels(100)
    assert torch.equal(x, data.real(100))
    where = [int((data.x.float() / 127.5 - 1 == image).flatten(1).all(1).nonzero()[0]) for image in x[:10]]
    assert torch.equal(data.y[where], y[:10])
