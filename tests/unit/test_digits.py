"""The bundled digits: what they hold, how they are parted, and what happens when damaged."""

from __future__ import annotations

import hashlib
import io
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from gpuconv.data import digits, digits_notice, load_digits
from gpuconv.errors import FileFormatError

CLASS_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of UCI's optdigits.tes
TEST_PART = "717791916724437983ae62d4580c848adfcd542a86c2c243c1ac36948ae12bb9"


def _stored() -> dict[str, np.ndarray[Any, Any]]:
    content = (files("gpuconv.data") / "files" / "digits.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def test_shapes_dtypes_and_range() -> None:
    (x_train, y_train), (x_test, y_test) = load_digits()
    assert x_train.shape == (1438, 8, 8, 1)
    assert x_test.shape == (359, 8, 8, 1)
    assert y_train.shape == (1438,)
    assert y_test.shape == (359,)
    assert x_train.dtype == x_test.dtype == np.uint8
    assert y_train.dtype == y_test.dtype == np.int64
    assert (int(x_train.min()), int(x_train.max())) == (0, 16)


def test_both_parts_together_are_the_whole_set_and_share_no_image() -> None:
    (x_train, y_train), (x_test, y_test) = load_digits()
    whole = _stored()
    rows = [
        bytes(image) + bytes([label])
        for images, labels in ((x_train, y_train), (x_test, y_test))
        for image, label in zip(images, labels, strict=True)
    ]
    expected = [
        bytes(i) + bytes([n]) for i, n in zip(whole["images"], whole["labels"], strict=True)
    ]
    assert sorted(rows) == sorted(expected)
    assert not set(rows[:1438]) & set(rows[1438:])


def test_every_class_has_a_fifth_in_the_test_part() -> None:
    (_, y_train), (_, y_test) = load_digits()
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == CLASS_COUNTS
    assert np.bincount(y_test).tolist() == [round(count / 5) for count in CLASS_COUNTS]


def test_the_split_is_the_documented_one() -> None:
    whole = _stored()
    labels = whole["labels"].tolist()
    words = np.random.Philox(key=1998).random_raw(1797).tolist()
    order = sorted(range(1797), key=lambda i: words[i])
    left = [CLASS_COUNTS[c] - round(CLASS_COUNTS[c] / 5) for c in range(10)]
    train, test = [], []
    for i in order:
        if left[labels[i]] > 0:
            left[labels[i]] -= 1
            train.append(i)
        else:
            test.append(i)
    (x_train, y_train), (x_test, y_test) = load_digits()
    np.testing.assert_array_equal(x_train[..., 0], whole["images"][train])
    np.testing.assert_array_equal(y_test, whole["labels"][test])
    np.testing.assert_array_equal(x_test[..., 0], whole["images"][test])
    np.testing.assert_array_equal(y_train, whole["labels"][train])


def test_the_split_is_the_same_on_every_machine() -> None:
    _, (x_test, y_test) = load_digits()
    content = x_test.tobytes() + y_test.astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest() == TEST_PART


def test_the_first_image_of_the_file_is_a_zero() -> None:
    whole = _stored()
    assert whole["labels"][:10].tolist() == list(range(10))
    assert whole["images"][0, :3].tolist() == [
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
        [0, 3, 15, 2, 0, 11, 8, 0],
    ]


def test_each_call_gives_arrays_of_its_own() -> None:
    (x, _), _ = load_digits()
    x[:] = 7
    (again, _), _ = load_digits()
    assert int(again.min()) == 0


def test_notice_attributes_the_creators_and_names_the_licence() -> None:
    notice = digits_notice()
    for words in ("Alpaydin", "Kaynak", "UCI Machine Learning Repository", "1998", "CC BY 4.0"):
        assert words in notice
    assert "What was changed" in notice


@pytest.mark.parametrize("damage", ["byte", "truncated", "empty"])
def test_a_damaged_file_is_refused(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((files("gpuconv.data") / "files" / "digits.npz").read_bytes())
    if damage == "byte":
        content[20_000] ^= 1
    else:
        del content[0 if damage == "empty" else 40_000 :]
    monkeypatch.setattr(digits, "_resource", lambda _: bytes(content))
    with pytest.raises(FileFormatError, match=rf"damaged.*Received: {len(content)} bytes"):
        load_digits()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileFormatError, match="files/no-such-file; install gpuconv again"):
        digits._resource("no-such-file")


def test_the_file_is_small_and_needs_no_pickle() -> None:
    assert len((files("gpuconv.data") / "files" / "digits.npz").read_bytes()) < 64 * 1024
    stored = _stored()
    assert sorted(stored) == ["images", "labels"]
    assert stored["images"].dtype == stored["labels"].dtype == np.uint8
