"""Pictures in folders, a folder for each class."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from gpuconv.data import Dataset, image_folder
from gpuconv.errors import FileFormatError, InvalidArgumentError

Image = pytest.importorskip("PIL.Image")

COLOURS = {"ant": (255, 0, 0), "bee": (0, 255, 0), "Cat": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of each class, of different sizes, and what else lies around."""
    for name, colour in COLOURS.items():
        (tmp_path / name / "deeper").mkdir(parents=True)
        for number, place in enumerate(["1.png", "2.BMP", "deeper/3.gif"]):
            Image.new("RGB", (10 + number, 7), colour).save(tmp_path / name / place)
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "ant" / ".hidden.png").write_text("no picture")
    (tmp_path / ".git").mkdir()
    (tmp_path / "readme.png").write_text("in no class")
    return tmp_path


def picture(array: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "PNG")
    return file.getvalue()


def one(tmp_path: Path, content: bytes, **options: object) -> np.ndarray:
    """The only picture of a folder."""
    (tmp_path / "class").mkdir(exist_ok=True)
    (tmp_path / "class" / "x.png").write_bytes(content)
    size = options.pop("size", (4, 6))
    x, _ = image_folder(tmp_path, size, **options).arrays()  # type: ignore[arg-type]
    return x[0]


def test_classes_are_sorted_and_pictures_resized(folder: Path) -> None:
    data = image_folder(folder, (5, 6), batch_size=4)
    assert isinstance(data, Dataset)
    assert data.class_names == ["Cat", "ant", "bee"]
    assert (data.samples, data.steps, len(data)) == (9, 3, 3)
    batches = list(data)
    assert [x.shape for x, _ in batches] == [(4, 5, 6, 3), (4, 5, 6, 3), (1, 5, 6, 3)]
    assert {x.dtype for x, _ in batches} == {np.dtype(np.uint8)}
    labels = np.concatenate([y for _, y in batches])
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    x = np.concatenate([x for x, _ in batches])
    for image, label in zip(x, labels, strict=True):
        assert (image == COLOURS[data.class_names[label]]).all()
    assert data.files is not None
    assert [str(f.relative_to(folder)) for f in data.files[:3]] == [
        str(Path("Cat", "1.png")), str(Path("Cat", "2.BMP")), str(Path("Cat", "deeper", "3.gif")),
    ]  # fmt: skip


def test_shuffled_pictures_keep_their_labels(folder: Path) -> None:
    data = image_folder(folder, (2, 2), batch_size=2, shuffle=True, seed=1)
    orders = []
    for _ in range(2):
        labels = []
        for x, y in data:
            for image, label in zip(x, y, strict=True):
                assert (image == COLOURS[data.class_names[label]]).all()  # type: ignore[index]
            labels += y.tolist()
        assert sorted(labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        orders.append(labels)
    assert orders[0] != orders[1]


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    np.testing.assert_array_equal(one(tmp_path, picture(array)), array)


def test_making_it_smaller_averages(tmp_path: Path) -> None:
    array = np.zeros((8, 8), np.uint8)
    array[::2, ::2] = array[1::2, 1::2] = 255  # a chessboard
    small = one(tmp_path, picture(array), size=(2, 2), channels=1)
    assert np.abs(small.astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    ("mode", "channels", "expected"),
    [
        ("L", 3, (102, 102, 102)),
        ("RGB", 1, (102,)),
        ("RGBA", 3, (102, 102, 102)),
        ("P", 3, (102, 102, 102)),
        ("RGB", 4, (102, 102, 102, 255)),
        ("LA", 1, (102,)),
    ],
)
def test_modes(tmp_path: Path, mode: str, channels: int, expected: tuple[int, ...]) -> None:
    array = np.full((4, 6, 3), 102, np.uint8)
    image = one(tmp_path, picture(array, mode), channels=channels)
    assert image.shape == (4, 6, channels)
    assert (image == expected).all()


def test_sixteen_bits(tmp_path: Path) -> None:
    image = one(tmp_path, picture(np.full((4, 6), 0x5AFF, np.uint16)), channels=1)
    assert (image == 0x5A).all()


def test_cropping_keeps_the_ratio(tmp_path: Path) -> None:
    array = np.zeros((4, 12), np.uint8)
    array[:, 4:8] = 200
    square = one(tmp_path, picture(array), size=(4, 4), channels=1, crop_to_aspect_ratio=True)
    assert (square == 200).all()
    assert not (one(tmp_path, picture(array), size=(4, 4), channels=1) == 200).all()


# --- broken files -----------------------------------------------------------------------------


def broken_files() -> dict[str, bytes]:
    whole = picture(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file, "JPEG")
    return {
        "empty": b"",
        "text": b"<html>",
        "half a png": whole[: len(whole) // 2],
        "half a jpeg": file.getvalue()[:300],
        "header": whole[:30],
        "huge": whole[:16] + b"\x00\xff\xff\xff" * 2 + whole[24:],
    }


@pytest.mark.parametrize("kind", broken_files())
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_broken_picture_is_named(folder: Path, kind: str, prefetch: int) -> None:
    (folder / "bee" / "broken.png").write_bytes(broken_files()[kind])
    data = image_folder(folder, (2, 2), prefetch=prefetch)
    with pytest.raises(FileFormatError, match=r"broken\.png cannot be read.*Received: "):
        list(data)


def test_broken_pictures_are_skipped_and_collected(folder: Path) -> None:
    for name, content in broken_files().items():
        (folder / "bee" / f"0 {name}.png").write_bytes(content)
    data = image_folder(folder, (2, 2), batch_size=3, skip_broken=True)
    assert data.samples == 15
    for _ in range(2):
        labels = [y.tolist() for _, y in data]
        assert labels == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]  # two batches had nothing else
        assert sorted(f.name for f in data.broken) == sorted(f"0 {n}.png" for n in broken_files())


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Received: no folder in it"):
        image_folder(tmp_path, (2, 2))
    (tmp_path / "class").mkdir()
    with pytest.raises(InvalidArgumentError, match="Received: 1 folders and no picture in it"):
        image_folder(tmp_path, (2, 2))
    with pytest.raises(InvalidArgumentError, match=r"Received: '.*nowhere'"):
        image_folder(tmp_path / "nowhere", (2, 2))


@pytest.mark.parametrize("size", [5, (5,), (5, 0), (5, 2.0), (True, 1), None, "ab"])
def test_impossible_sizes(folder: Path, size: object) -> None:
    with pytest.raises(InvalidArgumentError, match="size must be"):
        image_folder(folder, size)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [0, 2, True, "RGB"])
def test_impossible_channels(folder: Path, channels: object) -> None:
    with pytest.raises(InvalidArgumentError, match="channels must be"):
        image_folder(folder, (2, 2), channels=channels)  # type: ignore[arg-type]
