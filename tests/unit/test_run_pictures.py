"""Pictures of a training run: what is drawn where, found again in the pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.viz import draw_history, draw_images
from gpuconv.viz.canvas import PALETTE, PAPER, Canvas, fit_text, text_width, tint

BLUE, ORANGE, RED = PALETTE[0], PALETTE[1], PALETTE[4]


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def _places(pixels: np.ndarray[Any, Any], color: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Rows and columns of exactly this colour, shape (n, 2)."""
    return np.argwhere((pixels == color).all(axis=-1))


def _history(epochs: int) -> dict[str, list[float]]:
    loss = [2.0 / (epoch + 1) for epoch in range(epochs)]
    return {
        "loss": loss,
        "accuracy": [1 - value / 4 for value in loss],
        "val_loss": [value + 0.3 for value in loss],
        "val_accuracy": [0.9 - value / 4 for value in loss],
    }


def test_loss_and_accuracy_have_a_panel_each_and_both_curves(tmp_path: Path) -> None:
    draw_history(_history(10), tmp_path / "h.png", title="A run")
    pixels = _pixels(tmp_path / "h.png")
    assert pixels.shape[1] > 1200
    assert pixels.shape[0] >= 500
    for columns in (slice(0, 660), slice(660, None)):
        assert len(_places(pixels[:, columns], BLUE)) > 500
        assert len(_places(pixels[:, columns], ORANGE)) > 500
    assert tuple(pixels[0, 0]) == PAPER


def test_a_falling_loss_falls_in_the_picture_and_validation_lies_above(tmp_path: Path) -> None:
    epochs = 20
    history = {"loss": [2 - 0.05 * e for e in range(epochs)], "val_loss": [3.0] * epochs}
    draw_history(history, tmp_path / "h.png")
    pixels = _pixels(tmp_path / "h.png")[110:]  # below the headings
    training = _places(pixels[:, :500], ORANGE)
    rows = [training[training[:, 1] == column, 0].mean() for column in (100, 200, 300, 400)]
    assert rows == sorted(rows)
    assert np.ptp(np.diff(rows)) < 1.5  # a straight line stays straight
    validation = _places(pixels[:, :500], BLUE)
    assert np.ptp(validation[:, 0]) <= 4  # a constant is level
    assert validation[:, 0].max() < min(rows)


def test_panels_follow_the_metrics(tmp_path: Path) -> None:
    draw_history({"loss": [1.0, 0.5]}, tmp_path / "one.png")
    one = _pixels(tmp_path / "one.png")
    history = _history(4) | {
        "precision": [0.1] * 4,
        "mean_absolute_error": [3.0, 2.0, 1.5, 1.2],
        "learning_rate": [1e-3] * 4,
    }
    draw_history(history, tmp_path / "four.png")
    four = _pixels(tmp_path / "four.png")
    assert four.shape[1] == one.shape[1] + 660
    assert four.shape[0] == one.shape[0] + 430
    assert len(_places(four[:490, 660:], tint(BLUE, 0.5)))  # training is pale beside others
    assert len(_places(four[490:, :660], BLUE))


@pytest.mark.parametrize(
    "history",
    [
        _history(1),
        {"loss": [0.0, 0.0, 0.0]},
        {"loss": [1e-8, 1e-8]},
        {"loss": [1e30, 1.0, 1e-30]},
        {"loss": [-1.0, 3.0]},
        {"loss": [5e299, -5e299]},
        {"accuracy": [1.0, 1.0]},
        {"loss": [1.0] * 500, "val_loss": [2.0] * 250},
        {"a_very_long_name_of_a_metric_that_does_not_fit_anywhere_" * 3: [0.5, 0.6]},
        {f"metric_{i}": [0.1 * i, 0.2] for i in range(9)},
        {"loss": np.array([1.0, 0.5], np.float32)},
    ],
)
def test_unusual_histories_are_drawn(history: dict[str, Any], tmp_path: Path) -> None:
    draw_history(history, tmp_path / "h.png")
    pixels = _pixels(tmp_path / "h.png")
    assert len(_places(pixels, BLUE)) > 20


def test_values_that_are_not_finite_leave_a_gap_and_a_note(tmp_path: Path) -> None:
    values = [1.0] * 11
    draw_history({"loss": values}, tmp_path / "whole.png")
    draw_history({"loss": [*values[:4], math.nan, math.inf, *values[6:]]}, tmp_path / "gap.png")
    whole, gap = _pixels(tmp_path / "whole.png"), _pixels(tmp_path / "gap.png")
    missing = (len(_places(whole, BLUE)) - len(_places(gap, BLUE))) / len(_places(whole, BLUE))
    assert 0.1 < missing < 0.4
    assert not len(_places(whole, RED))
    assert len(_places(gap, RED)) > 20


def test_nothing_finite_at_all(tmp_path: Path) -> None:
    history: dict[str, Any] = {"loss": [math.nan, math.inf], "accuracy": [None, 0.5]}
    draw_history(history, tmp_path / "h.png")
    pixels = _pixels(tmp_path / "h.png")
    assert not len(_places(pixels[:, :660], BLUE))
    assert len(_places(pixels[:, 660:], BLUE))  # an isolated value is a dot


def test_rarer_validation_stands_at_its_own_epochs(tmp_path: Path) -> None:
    draw_history({"loss": [2.0] * 10, "val_loss": [1.0] * 2}, tmp_path / "rare.png")
    draw_history({"loss": [2.0] * 10, "val_loss": [1.0] * 10}, tmp_path / "full.png")
    first = [
        _places(_pixels(tmp_path / name)[110:], BLUE)[:, 1].min()
        for name in ("rare.png", "full.png")
    ]
    last = _places(_pixels(tmp_path / "rare.png")[110:, :560], ORANGE)[:, 1].max()
    assert math.isclose((first[0] - first[1]) / (last - first[1]), 4 / 9, abs_tol=0.03)


@pytest.mark.parametrize("history", [{}, {"loss": []}, {"loss": ["a"]}, {"loss": 3.0}, [1.0], None])
def test_what_is_no_history(history: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"history.* must .*Received: "):
        draw_history(history, tmp_path / "h.png")
    assert list(tmp_path.iterdir()) == []


def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_history(_history(5), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# --- sheets of images -------------------------------------------------------------------


def test_every_pixel_becomes_a_square(tmp_path: Path) -> None:
    image = np.array([[0, 16], [8, 4]], np.uint8)[..., None]
    draw_images([image], ["5 -> 6 (0.71)"], tmp_path / "s.png")
    pixels = _pixels(tmp_path / "s.png")
    inside = pixels[69 : 69 + 112, 29 : 29 + 112]
    expected = np.kron([[0, 255], [128, 64]], np.ones((56, 56)))[..., None] * np.ones(3)
    np.testing.assert_allclose(inside, expected, atol=1)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.uint8, 0, 16),
        (np.float32, -1, 1),
        (np.float64, 0, 1e-3),
        (bool, 0, 1),
        (np.int64, 5, 900),
    ],
)
def test_any_range_is_stretched_to_black_and_white(
    dtype: Any, low: float, high: float, tmp_path: Path
) -> None:
    images = np.full((2, 8, 8, 1), low).astype(dtype)
    images[1] = high
    draw_images(images, ["a", "b"], tmp_path / "s.png")
    pixels = _pixels(tmp_path / "s.png")
    assert pixels[100, 60].tolist() == [0, 0, 0]
    assert pixels[100, 190].tolist() == [255, 255, 255]


def test_colors_are_kept(tmp_path: Path) -> None:
    color = np.array([200, 30, 90], np.uint8)
    image = np.broadcast_to(color, (1, 32, 32, 3))
    draw_images(image, ["photo"], tmp_path / "bytes.png")
    draw_images(image / 255, ["photo"], tmp_path / "floats.png")
    for name in ("bytes.png", "floats.png"):
        assert _pixels(tmp_path / name)[100, 60].tolist() == [200, 30, 90]


def test_rows_and_columns(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 8), np.uint8)
    images[:, 4] = 9
    draw_images(images, list("abcde"), tmp_path / "wide.png", columns=5)
    draw_images(images, list("abcde"), tmp_path / "high.png", columns=1)
    wide, high = _pixels(tmp_path / "wide.png"), _pixels(tmp_path / "high.png")
    assert wide.shape[1] > 5 * 112 > high.shape[1]
    assert high.shape[0] > 5 * 112 > wide.shape[0]


def test_none_misclassified(tmp_path: Path) -> None:
    draw_images([], [], tmp_path / "s.png")
    pixels = _pixels(tmp_path / "s.png")
    assert (pixels[100:140, 220:420] < 200).any()


def test_large_unequal_and_not_finite_images(tmp_path: Path) -> None:
    images = [np.zeros((500, 300, 3)), np.ones((4, 9)), np.full((8, 8, 1), np.nan)]
    draw_images(images, ["large", "flat", "x" * 300], tmp_path / "s.png")
    height, width, _ = _pixels(tmp_path / "s.png").shape
    assert width < 900
    assert height < 700


@pytest.mark.parametrize("shape", [(8,), (8, 8, 2), (8, 8, 4), (0, 8), (2, 8, 8, 1)])
def test_what_is_no_image(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="an image must have shape"):
        draw_images([np.zeros(shape)], ["a"], tmp_path / "s.png")


def test_captions_and_columns_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="2 images, 1 captions"):
        draw_images(np.zeros((2, 8, 8)), ["a"], tmp_path / "s.png")
    with pytest.raises(InvalidArgumentError, match="columns must be at least 1"):
        draw_images(np.zeros((1, 8, 8)), ["a"], tmp_path / "s.png", columns=0)


# --- the canvas -------------------------------------------------------------------------


def test_edges_are_smooth() -> None:
    canvas = Canvas(40, 40)
    canvas.line([(5, 5), (35, 20)], BLUE, 3)
    pixels = np.asarray(canvas.render())
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5


def test_long_texts_are_cut() -> None:
    assert fit_text("short", 14, 200) == "short"
    cut = fit_text("a rather long text" * 5, 14, 100)
    assert cut.endswith("...")
    assert text_width(cut, 14) <= 100
    assert fit_text("abc", 14, 1) == ""


def test_an_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        draw_history(_history(2), tmp_path / "none" / "h.png")
    assert list(tmp_path.iterdir()) == []
