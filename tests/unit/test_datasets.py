"""The classic data sets from small files in the real formats, and from files that do harm."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuconv.data import load_cifar10, load_cifar100, load_fashion_mnist, load_mnist, official
from gpuconv.data import user_files as reading
from gpuconv.errors import FileFormatError, InvalidArgumentError

RNG = np.random.default_rng(0)
TRAIN, TEST = 7, 3
DIGITS = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (TRAIN, 28, 28), np.uint8),
    "train-labels-idx1-ubyte": np.arange(TRAIN, dtype=np.uint8),
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (TEST, 28, 28), np.uint8),
    "t10k-labels-idx1-ubyte": np.array([9, 0, 5], np.uint8),
}


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An array of bytes in the format of Y. LeCun's page."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


MNIST = {name: idx(array) for name, array in DIGITS.items()}
MNIST_GZ = {f"{name}.gz": gzip.compress(content) for name, content in MNIST.items()}


def cifar(labels: list[Any], images: np.ndarray[Any, Any]) -> bytes:
    """Records as on A. Krizhevsky's page: labels, then the red, green and blue planes."""
    content = b""
    for label, image in zip(labels, images, strict=True):
        content += bytes(np.atleast_1d(label).astype(np.uint8))
        for colour in range(3):
            content += image[:, :, colour].tobytes()
    return content


PHOTOS = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
CIFAR10 = {
    f"data_batch_{i + 1}.bin": cifar([i, 9 - i], PHOTOS[2 * i : 2 * i + 2]) for i in range(5)
} | {"test_batch.bin": cifar([3, 4], PHOTOS[10:])}
CIFAR100 = {
    "train.bin": cifar([(i, 99 - i) for i in range(9)], PHOTOS[:9]),
    "test.bin": cifar([(19, 0), (0, 99), (1, 2)], PHOTOS[9:]),
}


def write_folder(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: dict[str, bytes], mode: Any = "w:gz", inside: str = "in/") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(inside + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"in/{name}", content)
    return path


def unpacker_names(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name.replace("-idx", ".idx"): content for name, content in files.items()}


PLACES: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": lambda tmp, files: write_folder(tmp, files),
    "folder of gz": lambda tmp, files: write_folder(tmp, files, packed=True),
    "deep folder": lambda tmp, files: write_folder(tmp / "a" / "raw", files).parents[1],
    "tar.gz": lambda tmp, files: write_tar(tmp / "x.tar.gz", files),
    "tar": lambda tmp, files: write_tar(tmp / "x.tar", files, "w:"),
    "zip": lambda tmp, files: write_zip(tmp / "x.zip", files),
    "other names": lambda tmp, files: write_folder(tmp, unpacker_names(files)),
    "gz in tar": lambda tmp, files: write_tar(
        tmp / "x.tar", {f"{n}.gz": gzip.compress(c) for n, c in files.items()}, "w:"
    ),
    "with ..": lambda tmp, files: write_tar(tmp / "x.tar.gz", files, inside="../../"),
}


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("load", [load_mnist, load_fashion_mnist])
def test_mnist(tmp_path: Path, place: str, load: Callable[..., Any]) -> None:
    (x_train, y_train), (x_test, y_test) = load(PLACES[place](tmp_path, MNIST))
    for got, expected in zip((x_train, y_train, x_test, y_test), DIGITS.values(), strict=True):
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected)
    x_train[0] = 0  # they are the caller's own


@pytest.mark.parametrize("place", PLACES)
def test_cifar10(tmp_path: Path, place: str) -> None:
    (x_train, y_train), (x_test, y_test) = load_cifar10(PLACES[place](tmp_path, CIFAR10))
    np.testing.assert_array_equal(x_train, PHOTOS[:10])
    np.testing.assert_array_equal(x_test, PHOTOS[10:])
    assert y_train.tolist() == [[0], [9], [1], [8], [2], [7], [3], [6], [4], [5]]
    assert y_test.tolist() == [[3], [4]]
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert x_train.flags.c_contiguous


@pytest.mark.parametrize(
    ("mode", "train", "test"),
    [("fine", list(range(99, 90, -1)), [0, 99, 2]), ("coarse", list(range(9)), [19, 0, 1])],
)
def test_cifar100(tmp_path: Path, mode: str, train: list[int], test: list[int]) -> None:
    path = write_tar(tmp_path / "x.tar.gz", CIFAR100)
    (x_train, y_train), (x_test, y_test) = load_cifar100(path, mode)
    np.testing.assert_array_equal(x_train, PHOTOS[:9])
    np.testing.assert_array_equal(x_test, PHOTOS[9:])
    assert y_train.tolist() == [[label] for label in train]
    assert y_test.tolist() == [[label] for label in test]


def test_files_of_two_data_sets_are_not_mixed_up(tmp_path: Path) -> None:
    write_folder(tmp_path / "FashionMNIST" / "raw", MNIST)
    other = MNIST | {"t10k-labels-idx1-ubyte": idx(np.zeros(3, np.uint8))}
    write_folder(tmp_path / "MNIST" / "raw", other)
    with pytest.raises(InvalidArgumentError, match=r"one of .*FashionMNIST.raw, .*MNIST.raw\."):
        load_mnist(tmp_path)
    assert load_mnist(tmp_path / "MNIST")[1][1].tolist() == [0, 0, 0]
    assert load_fashion_mnist(tmp_path / "FashionMNIST")[1][1].tolist() == [9, 0, 5]
    write_folder(tmp_path, other)  # nearer than both
    assert load_mnist(tmp_path)[1][1].tolist() == [0, 0, 0]


def test_a_folder_for_each_file(tmp_path: Path) -> None:
    for name, content in MNIST.items():
        write_folder(tmp_path / name, {name: content})
    assert load_mnist(tmp_path)[1][1].tolist() == [9, 0, 5]


def test_the_plain_file_is_taken_where_there_are_both(tmp_path: Path) -> None:
    write_folder(tmp_path, dict.fromkeys(MNIST, b"old"), packed=True)
    write_folder(tmp_path, MNIST)
    assert load_mnist(tmp_path)[1][1].tolist() == [9, 0, 5]


def test_an_official_archive_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    write_tar(tmp_path / "downloads" / "cifar-100-binary.tar.gz", CIFAR100)
    assert load_cifar100(tmp_path)[0][0].shape == (9, 32, 32, 3)


def test_the_official_size_is_read_and_one_more_image_is_not(tmp_path: Path) -> None:
    write_folder(tmp_path, CIFAR100)
    (tmp_path / "test.bin").write_bytes(bytes(10_000 * 3074))
    _, (x_test, y_test) = load_cifar100(tmp_path)
    assert (x_test.shape, y_test.shape) == ((10_000, 32, 32, 3), (10_000, 1))
    (tmp_path / "test.bin").write_bytes(bytes(10_001 * 3074))
    with pytest.raises(FileFormatError, match=r"test\.bin.*Received: more than 30740000 bytes"):
        load_cifar100(tmp_path)


# --- what is fetched --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "load", "files"),
    [
        ("mnist", load_mnist, MNIST_GZ),
        ("fashion-mnist", load_fashion_mnist, MNIST_GZ),
        ("cifar-10", load_cifar10, {"cifar-10-binary.tar.gz": CIFAR10}),
        ("cifar-100", load_cifar100, {"cifar-100-binary.tar.gz": CIFAR100}),
    ],
)
def test_the_official_files_are_fetched_and_kept(
    name: str,
    load: Callable[..., Any],
    files: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for file, content in files.items():
        if isinstance(content, dict):
            write_tar(site / file, content)
        else:
            (site / file).write_bytes(content)
    assert set(official.SOURCES[name].files) == set(files)
    sums = {file: "md5:" + hashlib.md5((site / file).read_bytes()).hexdigest() for file in files}
    monkeypatch.setenv("GPUCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        base = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setitem(official.SOURCES, name, official.Source(base, sums))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            first = load(progress=False)
        finally:
            server.shutdown()
            thread.join()
    again = load(progress=False)  # without a server
    np.testing.assert_array_equal(first[0][0], again[0][0])
    assert first[0][0].shape[0] in (7, 9, 10)
    kept = {f.name for f in (tmp_path / "cache" / "data" / name).iterdir()} - {".lock"}
    assert kept == set(files)


def test_every_official_file_has_an_address_and_a_checksum() -> None:
    for source in official.SOURCES.values():
        assert source.base.startswith("http")
        assert source.base.endswith("/")
        for checksum in source.files.values():
            assert checksum.startswith("md5:")
            assert len(bytes.fromhex(checksum[4:])) == 16


# --- what is refused --------------------------------------------------------------------------

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
GOOD = MNIST[IMAGES]

BAD_IDX: dict[str, tuple[str, bytes]] = {
    "empty": (IMAGES, b""),
    "half a header": (IMAGES, GOOD[:9]),
    "wrong magic": (IMAGES, b"\x00\x00\x0d\x03" + GOOD[4:]),
    "labels for images": (IMAGES, MNIST[LABELS]),
    "images for labels": (LABELS, GOOD),
    "one byte short": (IMAGES, GOOD[:-1]),
    "one byte long": (IMAGES, GOOD + b"\0"),
    "header alone": (IMAGES, GOOD[:16]),
    "2**32 images": (IMAGES, GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:]),
    "no images": (IMAGES, GOOD[:4] + bytes(4) + GOOD[8:16]),
    "other sides": (IMAGES, idx(np.zeros((7, 32, 32), np.uint8))),
    "huge sides": (IMAGES, GOOD[:8] + b"\xff" * 8 + GOOD[16:]),
    "fewer labels": (LABELS, idx(np.zeros(6, np.uint8))),
    "label 10": (LABELS, idx(np.full(7, 10, np.uint8))),
    "text": (IMAGES, b"<!DOCTYPE html><html>not found</html>"),
}


@pytest.mark.parametrize("kind", BAD_IDX)
@pytest.mark.parametrize("place", ["folder", "folder of gz", "tar.gz", "zip"])
def test_malformed_idx_files(tmp_path: Path, kind: str, place: str) -> None:
    name, content = BAD_IDX[kind]
    with pytest.raises(FileFormatError, match=f"{name}.*Received: "):
        load_mnist(PLACES[place](tmp_path, MNIST | {name: content}))


BATCH = CIFAR10["data_batch_3.bin"]
BAD_CIFAR: dict[str, bytes] = {
    "empty": b"",
    "one byte short": BATCH[:-1],
    "one byte long": BATCH + b"\0",
    "one image short": BATCH[:3073],
    "label 10": b"\x0a" + BATCH[1:],
    "text": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("kind", BAD_CIFAR)
@pytest.mark.parametrize("place", ["folder", "folder of gz", "tar.gz", "zip"])
def test_malformed_cifar_files(tmp_path: Path, kind: str, place: str) -> None:
    path = PLACES[place](tmp_path, CIFAR10 | {"data_batch_3.bin": BAD_CIFAR[kind]})
    with pytest.raises(FileFormatError, match=r"data_batch_3\.bin.*Received: |Received: .*_3\.bin"):
        load_cifar10(path)


@pytest.mark.parametrize("content", [b"\x14\x00", b"\x00\x64"])
def test_cifar100_labels_out_of_range(tmp_path: Path, content: bytes) -> None:
    files = CIFAR100 | {"test.bin": content + CIFAR100["test.bin"][2:]}
    with pytest.raises(FileFormatError, match=r"test\.bin.*labels from 0 to"):
        load_cifar100(write_folder(tmp_path, files))


def test_missing_files(tmp_path: Path) -> None:
    files = {name: content for name, content in CIFAR10.items() if "4" not in name}
    for place in ("folder", "tar.gz", "zip"):
        (tmp_path / place).mkdir()
        with pytest.raises(FileFormatError, match=r"Received: one without data_batch_4\.bin$"):
            load_cifar10(PLACES[place](tmp_path / place, files))
    with pytest.raises(InvalidArgumentError, match=r"Received: '.*nowhere'"):
        load_mnist(tmp_path / "nowhere")
    with pytest.raises(InvalidArgumentError, match=r"label_mode.*Received: 'both'"):
        load_cifar100(tmp_path, "both")


def test_a_damaged_gz_file_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, MNIST, packed=True)
    file = tmp_path / f"{IMAGES}.gz"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    wrong_sum = whole[:-8] + b"\0\0\0\0" + whole[-4:]
    for content in (b"", whole[:10], whole[:-1], whole[: len(whole) // 2], flipped, wrong_sum):
        file.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"train-images-idx3-ubyte\.gz.*Received: "):
            load_mnist(tmp_path)


@pytest.mark.parametrize("place", ["tar.gz", "tar", "zip"])
def test_archives_that_are_cut_off(tmp_path: Path, place: str) -> None:
    path = PLACES[place](tmp_path, CIFAR10)
    whole = path.read_bytes()
    for length in (0, 1, 100, 511, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"x\.(tar|zip)"):
            load_cifar10(path)


def test_the_pickled_version_is_not_opened(tmp_path: Path) -> None:
    files = {f"data_batch_{i}": b"\x80\x02" for i in range(1, 6)} | {"test_batch": b"\x80\x02"}
    with pytest.raises(FileFormatError, match=r"without data_batch_1\.bin"):
        load_cifar10(write_tar(tmp_path / "cifar-10-python.tar.gz", files))


# --- what would do harm -----------------------------------------------------------------------


def peak_of(load: Callable[[], Any]) -> int:
    """The most memory that an attempt takes, which must fail."""
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError):
            load()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_gz_file_of_zeros_without_end_is_not_unpacked(tmp_path: Path) -> None:
    write_folder(tmp_path, MNIST)
    (tmp_path / IMAGES).unlink()
    bomb = gzip.compress(GOOD[:16] + bytes(30_000_000), 1)
    (tmp_path / f"{IMAGES}.gz").write_bytes(bomb)
    assert len(bomb) < 1_000_000
    assert peak_of(lambda: load_mnist(tmp_path)) < 5_000_000


@pytest.mark.parametrize("place", ["tar.gz", "zip"])
def test_a_bomb_in_an_archive(tmp_path: Path, place: str) -> None:
    files = MNIST | {IMAGES: GOOD[:16] + bytes(30_000_000)}
    path = PLACES[place](tmp_path, files)
    assert peak_of(lambda: load_mnist(path)) < 10_000_000


def test_a_header_that_claims_much_allocates_nothing(tmp_path: Path) -> None:
    claim = GOOD[:4] + struct.pack(">I", 60_000) + GOOD[8:]
    write_folder(tmp_path, MNIST | {IMAGES: claim})
    assert peak_of(lambda: load_mnist(tmp_path)) < 3_000_000


def test_an_archive_that_unpacks_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST_IN_ARCHIVE", 10_000_000)
    path = write_tar(tmp_path / "x.tar.gz", {"other": bytes(30_000_000)} | CIFAR10)
    with pytest.raises(FileFormatError, match=r"x\.tar\.gz.*more than 10000000 bytes"):
        load_cifar10(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_an_archive_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CIFAR100["test.bin"])
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("test.bin")
        member.type, member.linkname = kind, str(secret)
        archive.addfile(member)
    with pytest.raises(FileFormatError, match=r"test\.bin should be a plain file"):
        load_cifar100(tmp_path / "x.tar")


def test_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    load_cifar10(write_tar(folder / "x.tar.gz", CIFAR10, inside="../../"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "x.tar.gz"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), place=st.sampled_from(["folder of gz", "tar.gz", "tar", "zip", "folder"]))
def test_damage_anywhere_is_an_error_or_does_not_matter(
    tmp_path: Path, data: st.DataObject, place: str
) -> None:
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    path = PLACES[place](folder, CIFAR100)
    file = path if path.is_file() else sorted(path.iterdir())[0]
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    # Nothing but this error may come out; whether one does depends on the bytes that were hit.
    with suppress(FileFormatError):
        (x, y), _ = load_cifar100(path)
        assert x.shape[1:] == (32, 32, 3)
        assert y.shape == (len(x), 1)
        assert y.max() < 100
