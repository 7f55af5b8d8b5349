"""Augmentation layers against loops over pixels, fixed points, statistics and adjoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import (
    Cutout,
    Layer,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)

Images = np.ndarray[Any, Any]
Place = Callable[[int, int], tuple[float, float]]

FILL_MODES = ("reflect", "wrap", "constant", "nearest")
EVERY: dict[str, Callable[..., Layer]] = {
    "flip": lambda **k: RandomFlip(**k),
    "crop": lambda **k: RandomCrop(5, 4, **k),
    "crop-larger": lambda **k: RandomCrop(9, 8, **k),
    "crop-middle": lambda **k: RandomCrop(6, 9, **k),
    "rotation": lambda **k: RandomRotation(0.3, **k),
    "rotation-constant": lambda **k: RandomRotation(0.3, "constant", fill_value=2.0, **k),
    "rotation-nearest": lambda **k: RandomRotation(0.3, "wrap", "nearest", **k),
    "translation": lambda **k: RandomTranslation(0.8, 0.6, **k),
    "translation-constant": lambda **k: RandomTranslation(0.8, 0.6, "constant", **k),
    "zoom": lambda **k: RandomZoom(0.6, **k),
    "zoom-nearest": lambda **k: RandomZoom((-0.5, 1.0), 0.3, "nearest", **k),
    "contrast": lambda **k: RandomContrast(0.5, (-math.inf, math.inf), **k),
    "cutout": lambda **k: Cutout((3, 4), 1.5, **k),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())
changing = pytest.mark.parametrize(
    "make", [make for name, make in EVERY.items() if "crop" not in name]
)


def images(n: int = 3, height: int = 7, width: int = 6, channels: int = 2) -> Images:
    return np.random.default_rng(0).standard_normal((n, height, width, channels))


def train(layer: Layer, x: Images) -> Images:
    return np.asarray(layer.forward(x, training=True)[0])


def double(cls: Any, *arguments: Any, **options: Any) -> Any:
    return cls(*arguments, dtype="float64", **options)


# --- against loops ----------------------------------------------------------------------------


def read(image: Images, place: Place, fill_mode: str, interpolation: str, fill: float) -> Images:
    """The image at other places, pixel by pixel, from a copy that was padded far enough."""
    margin = 4 * max(image.shape)
    mode: Any = {"reflect": "symmetric", "nearest": "edge"}.get(fill_mode, fill_mode)
    more = {"constant_values": fill} if mode == "constant" else {}
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode, **more)
    out = np.empty_like(image)
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            y, x = (p + margin for p in place(r, c))
            if interpolation == "nearest":
                out[r, c] = wide[round(y), round(x)]
                continue
            top, left = math.floor(y), math.floor(x)
            down, right = y - top, x - left
            out[r, c] = (
                (1 - down) * (1 - right) * wide[top, left]
                + (1 - down) * right * wide[top, left + 1]
                + down * (1 - right) * wide[top + 1, left]
                + down * right * wide[top + 1, left + 1]
            )
    return out


def turned(turns: float, height: int, width: int) -> Place:
    """Counter-clockwise, in the complex plane with the imaginary axis upwards."""

    def place(r: int, c: int) -> tuple[float, float]:
        z = complex(c - (width - 1) / 2, (height - 1) / 2 - r)
        z *= complex(math.cos(2 * math.pi * turns), -math.sin(2 * math.pi * turns))
        return (height - 1) / 2 - z.imag, z.real + (width - 1) / 2

    return place


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_resampling_against_a_loop(fill_mode: str, interpolation: str) -> None:
    x = images(2)
    height, width = x.shape[1:3]
    options = {"fill_mode": fill_mode, "interpolation": interpolation, "fill_value": 1.5}
    cases: list[tuple[Layer, Place]] = [
        (double(RandomRotation, (0.13, 0.13), **options), turned(0.13, height, width)),
        (double(RandomRotation, (-0.41, -0.41), **options), turned(-0.41, height, width)),
        (
            double(RandomTranslation, (0.33, 0.33), (-0.93, -0.93), **options),
            lambda r, c: (r - 0.33 * height, c + 0.93 * width),
        ),
        (
            double(RandomZoom, (-0.37, -0.37), (0.71, 0.71), **options),
            lambda r, c: (3 + (r - 3) * 0.63, 2.5 + (c - 2.5) * 1.71),
        ),
        (
            double(RandomZoom, (0.71, 0.71), **options),
            lambda r, c: (3 + (r - 3) * 1.71, 2.5 + (c - 2.5) * 1.71),
        ),
    ]
    for layer, place in cases:
        expected = [read(image, place, fill_mode, interpolation, 1.5) for image in x]
        np.testing.assert_allclose(train(layer, x), expected, atol=1e-8)


def test_contrast_against_a_loop() -> None:
    x = 20 * images()
    y = train(double(RandomContrast, (0.5, 0.9), (-30.0, 25.0), seed=4), x)
    factors = 0.5 + 1.4 * gc.random.generator_for((4, 0)).random(3)
    for i, factor in enumerate(factors):
        for c in range(2):
            mean = x[i, :, :, c].mean()
            expected = np.clip((x[i, :, :, c] - mean) * factor + mean, -30, 25)
            np.testing.assert_allclose(y[i, :, :, c], expected, atol=1e-12)


def test_clipped_pixels_have_no_gradient() -> None:
    x = np.array([[[[-5.0], [1.0], [3.0], [9.0]]]])
    layer = double(RandomContrast, 0.4, (0.0, 6.0), seed=0)
    y, backward = layer.forward(x, training=True)
    np.testing.assert_array_equal((y == 0) | (y == 6), [[[[True], [False], [False], [True]]]])
    dy = np.array([[[[7.0], [0.0], [0.0], [-3.0]]]])
    assert not backward(dy).any()
    # A pixel inside pulls at all of them, through the mean.
    dx = backward(np.array([[[[0.0], [1.0], [0.0], [0.0]]]]))
    factor = (y[0, 0, 1, 0] - 2.0) / (1.0 - 2.0)
    rest = (1 - factor) / 4
    np.testing.assert_allclose(dx.ravel(), [rest, factor + rest, rest, rest], atol=1e-12)


# --- fixed points -----------------------------------------------------------------------------


@changing
def test_identity_in_inference(make: Callable[..., Layer]) -> None:
    x = images()
    layer = make(dtype="float64")
    y, backward = layer.forward(x, training=False)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(backward(y), x)
    assert backward(y, input_gradient=False) is None


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_nothing_changes_by_factors_of_zero(fill_mode: str, interpolation: str) -> None:
    x = images()
    how = (fill_mode, interpolation)
    for layer in (
        double(RandomRotation, 0, *how),
        double(RandomTranslation, 0.0, 0.0, *how),
        double(RandomZoom, 0.0, None, *how),
    ):
        np.testing.assert_array_equal(train(layer, x), x)
    contrast = double(RandomContrast, 0.0, (-9, 9))
    np.testing.assert_allclose(train(contrast, x), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(2, 5, 5, 3), (2, 6, 6, 1), (2, 200, 200, 1), (40, 32, 32, 1)])
@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns(shape: tuple[int, ...], quarters: int) -> None:
    x = images(*shape)
    for fill_mode in FILL_MODES if shape[1] < 10 else ("reflect",):
        layer = double(RandomRotation, (quarters / 4,) * 2, fill_mode)
        np.testing.assert_array_equal(train(layer, x), np.rot90(x, quarters, axes=(1, 2)))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_whole_pixels_shift_slices(interpolation: str) -> None:
    x = images()
    down, left = 2, 1  # of 7 and of 6
    factors = (down / 7,) * 2, (-left / 6,) * 2

    def shifted(fill_mode: str) -> Images:
        return train(double(RandomTranslation, *factors, fill_mode, interpolation), x)

    inside = x[:, :-down, left:]
    for fill_mode in FILL_MODES:
        np.testing.assert_array_equal(shifted(fill_mode)[:, down:, :-left], inside)
    constant, nearest = shifted("constant"), shifted("nearest")
    assert not constant[:, :down].any()
    assert not constant[:, :, -left:].any()
    np.testing.assert_array_equal(nearest[:, 0], nearest[:, down])
    np.testing.assert_array_equal(nearest[:, 1], nearest[:, down])
    np.testing.assert_array_equal(nearest[:, down:, -1], x[:, :-down, -1])
    np.testing.assert_array_equal(shifted("wrap"), np.roll(x, (down, -left), (1, 2)))
    reflected = shifted("reflect")
    np.testing.assert_array_equal(reflected[:, 1], reflected[:, 2])
    np.testing.assert_array_equal(reflected[:, 0], reflected[:, 3])


def test_zoom_by_two() -> None:
    x = images(2, 5, 5)
    out = train(double(RandomZoom, (1.0, 1.0), None, "constant", fill_value=9.0), x)
    np.testing.assert_array_equal(out[:, 1:4, 1:4], x[:, ::2, ::2])
    assert (out[:, 0] == 9).all()
    assert (out[:, :, -1] == 9).all()
    nearer = train(double(RandomZoom, (-0.5, -0.5), (0.0, 0.0)), x)
    np.testing.assert_allclose(nearer[:, ::2], x[:, 1:4], atol=1e-15)


# --- what is drawn ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["horizontal", "vertical", "horizontal_and_vertical"])
def test_half_of_the_images_are_flipped(mode: str) -> None:
    x = np.arange(4.0).reshape(1, 2, 2, 1).repeat(10_000, axis=0)
    y = train(RandomFlip(mode, seed=1), x)[..., 0]
    expected = {
        "horizontal": [[1, 0], [3, 2]],
        "vertical": [[2, 3], [0, 1]],
        "horizontal_and_vertical": [[3, 2], [1, 0]],
    }[mode]
    flipped = (y == np.array(expected)).all(axis=(1, 2))
    as_before = (y == x[..., 0]).all(axis=(1, 2))
    assert (flipped | as_before).all()
    assert abs(flipped.mean() - 0.5) < 0.025  # five standard deviations


def test_crops_come_from_everywhere() -> None:
    x = np.arange(35.0).reshape(1, 7, 5, 1).repeat(2000, axis=0)
    y = train(RandomCrop(5, 4, seed=1), x)[..., 0]
    assert y.shape == (2000, 5, 4)
    top, left = np.divmod(y[:, 0, 0].astype(int), 5)
    for i in range(2000):
        np.testing.assert_array_equal(y[i], x[i, top[i] : top[i] + 5, left[i] : left[i] + 4, 0])
    counts = np.zeros((3, 2))
    np.add.at(counts, (top, left), 1)
    # 2000 images, six places: five standard deviations of 16.7.
    assert np.abs(counts - 2000 / 6).max() < 84


def test_cutouts_are_everywhere() -> None:
    x = np.ones((3000, 6, 5, 2))
    y = train(Cutout((3, 2), seed=1), x)
    np.testing.assert_array_equal(y[..., 0], y[..., 1])
    gone = y[..., 0] == 0
    found = set()
    for mask in gone:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns)  # a rectangle
        found.add((rows[0], rows[-1], columns[0], columns[-1]))
    expected = {
        (max(r - 1, 0), min(r + 1, 5), max(c - 1, 0), c) for r in range(6) for c in range(5)
    }
    assert found == expected
    y = train(Cutout(100, fill_value=4.0), x[:2])
    assert (y == 4).all()


def test_drawn_numbers_have_the_ranges_that_were_asked_for() -> None:
    """Read off slanted planes, which every map leaves planes."""
    n = 400
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(9.0), indexing="ij")
    plane = np.stack([rows, columns], axis=-1)[None].repeat(n, axis=0)

    def slopes(layer: Layer) -> tuple[Images, Images, Images]:
        """The middle, and the steps downwards and to the right there."""
        y = train(layer, plane)
        return y[:, 4, 4], y[:, 5, 4] - y[:, 4, 4], y[:, 4, 5] - y[:, 4, 4]

    def spread_over(values: Images, low: float, high: float) -> None:
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.1 * (high - low)

    _, down, _ = slopes(double(RandomRotation, 0.1, seed=1))
    spread_over(np.arctan2(-down[:, 1], down[:, 0]) / (2 * math.pi), -0.1, 0.1)
    _, down, _ = slopes(double(RandomRotation, (0.2, -0.05), seed=1))
    spread_over(np.arctan2(-down[:, 1], down[:, 0]) / (2 * math.pi), -0.05, 0.2)
    middle, _, _ = slopes(double(RandomTranslation, 0.3, (0.0, 0.2), seed=1))
    spread_over((4 - middle[:, 0]) / 9, -0.3, 0.3)
    spread_over((4 - middle[:, 1]) / 9, 0.0, 0.2)
    _, down, right = slopes(double(RandomZoom, 0.3, (-0.5, -0.1), seed=1))
    spread_over(down[:, 0], 0.7, 1.3)
    spread_over(right[:, 1], 0.5, 0.9)
    _, down, right = slopes(double(RandomZoom, 0.3, seed=1))
    spread_over(down[:, 0], 0.7, 1.3)
    np.testing.assert_allclose(down[:, 0], right[:, 1], atol=1e-8)
    _, down, _ = slopes(double(RandomContrast, 0.3, (-99, 99), seed=1))
    spread_over(down[:, 0], 0.7, 1.3)
    _, down, _ = slopes(double(RandomContrast, (0.9, 0.2), (-99, 99), seed=1))
    spread_over(down[:, 0], 0.1, 1.2)


# --- gradients --------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_backward_is_the_adjoint(make: Callable[..., Layer], data_format: str) -> None:
    layer = make(dtype="float64", data_format=data_format, seed=2)
    x = images()
    x = np.moveaxis(x, -1, 1) if data_format == "channels_first" else x
    for batch in range(3):
        layer.random_streams()["seed_stream"].state = (2, batch)
        y, backward = layer.forward(x, training=True)
        layer.random_streams()["seed_stream"].state = (2, batch)
        linear = y - train(layer, np.zeros_like(x))
        g = np.random.default_rng(batch).standard_normal(y.shape)
        dx = backward(g)
        assert dx.shape == x.shape
        assert np.sum(linear * g) == pytest.approx(np.sum(x * dx), rel=1e-10, abs=1e-10)
        assert backward(g, input_gradient=False) is None
        np.testing.assert_array_equal(backward(g), dx)


def test_adjoint_of_resizing_in_inference() -> None:
    x = images(2, 8, 5)
    y, backward = double(RandomCrop, 3, 3).forward(x)
    g = np.random.default_rng(1).standard_normal(y.shape)
    assert np.sum(y * g) == pytest.approx(np.sum(x * backward(g)), rel=1e-12)


# --- cropping without chance --------------------------------------------------------------------


def test_inference_crops_the_largest_window_and_resizes_it() -> None:
    x = images(2, 8, 10)
    np.testing.assert_array_equal(double(RandomCrop, 8, 6)(x), x[:, :, 2:8])
    np.testing.assert_array_equal(double(RandomCrop, 8, 10)(x), x)
    halved = x[:, :, 1:9].reshape(2, 4, 2, 4, 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(double(RandomCrop, 4, 4)(x), halved, atol=1e-14)


def test_images_smaller_than_the_window_are_resized_in_training() -> None:
    x = images(2, 3, 4)
    layer = double(RandomCrop, 6, 8)
    y = train(layer, x)
    np.testing.assert_array_equal(y, layer(x))
    doubled = gc.layers.UpSampling2D(2, interpolation="bilinear", dtype="float64")(x)
    np.testing.assert_allclose(y, doubled, atol=1e-14)
    assert train(double(RandomCrop, 2, 5), x).shape == (2, 2, 5, 2)


# --- random streams ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flip", "crop", "rotation", "translation", "zoom", "contrast"])
def test_seeds_and_states(name: str) -> None:
    make, x = EVERY[name], images(8)
    a, b, c = make(seed=3), make(seed=3), make(seed=4)
    first, second = train(a, x), train(a, x)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, train(b, x))
    assert not np.array_equal(first, train(c, x))
    c.random_streams()["seed_stream"].state = (3, 1)
    np.testing.assert_array_equal(train(c, x), second)
    found = []
    for seed in (1, 1, 2):
        gc.random.set_seed(seed)
        found.append(train(make(), x))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@every
def test_every_image_has_numbers_of_its_own(make: Callable[..., Layer]) -> None:
    x = images(1).repeat(8, axis=0)
    y = train(make(seed=0), x)
    same = all(np.array_equal(y[0], other) for other in y[1:])
    assert same == (y.shape[1] > 7 or y.shape[2] > 6)  # resizing is not random


def test_dtypes_draw_the_same() -> None:
    x = images()
    for make in EVERY.values():
        np.testing.assert_allclose(
            train(make(seed=1), x), train(make(seed=1, dtype="float64"), x), atol=1e-5
        )


def test_a_saved_model_continues_the_streams(tmp_path: Path) -> None:
    x = images(4, 8, 8, 3)
    model = gc.Sequential(
        [
            RandomFlip(input_shape=(8, 8, 3)),
            RandomRotation(0.2),
            RandomCrop(6, 6),
            Cutout(2),
        ]
    )
    model.compile(optimizer="sgd", loss="mse")
    model.forward(x, training=True)
    model.save(tmp_path / "model.gcv")
    again = gc.load_model(tmp_path / "model.gcv")
    for _ in range(2):
        np.testing.assert_array_equal(
            again.forward(x, training=True)[0], model.forward(x, training=True)[0]
        )
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_network_trains_with_augmentation_in_front() -> None:
    def weights() -> list[Images]:
        gc.random.set_seed(5)
        model = gc.Sequential(
            [
                RandomFlip("horizontal", input_shape=(8, 8, 1)),
                RandomTranslation(0.2, 0.2, "nearest"),
                RandomZoom(0.2),
                RandomContrast(0.2),
                gc.layers.Conv2D(2, 3),
                gc.layers.Flatten(),
                gc.layers.Dense(1),
            ]
        )
        model.compile(optimizer="sgd", loss="mse")
        model.fit(images(8, 8, 8, 1), np.zeros((8, 1)), batch_size=4, epochs=2, verbose=0)
        return model.get_weights()

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomFlip("sideways"), "mode must be one of"),
        (lambda: RandomCrop(0, 3), "height must be an integer of at least 1"),
        (lambda: RandomCrop(3, 2.5), "width must be an integer of at least 1"),
        (lambda: RandomRotation(1.5), "factor must be a number from -1 to 1"),
        (lambda: RandomRotation((0.1, 0.2, 0.3)), "factor must be a number or a pair"),
        (lambda: RandomRotation("0.1"), "factor must be a number"),
        (lambda: RandomRotation(0.1, "edge"), "fill_mode must be one of"),
        (lambda: RandomRotation(0.1, interpolation="bicubic"), "interpolation must be one of"),
        (lambda: RandomRotation(0.1, fill_value=None), "fill_value must be a number"),
        (lambda: RandomTranslation(0.1, (0.1, 2)), "width_factor must be a number from -1 to 1"),
        (lambda: RandomZoom(-1.0), "height_factor must be above -1"),
        (lambda: RandomZoom(0.1, (-1, 0)), "width_factor must be above -1"),
        (lambda: RandomContrast(-0.1), "factor must be a number from 0 to 1"),
        (lambda: RandomContrast(0.1, (1, 0)), "value_range must be two numbers"),
        (lambda: RandomContrast(0.1, 255), "value_range must be two numbers"),
        (lambda: Cutout(0), "size must be an integer"),
        (lambda: Cutout((1, 2, 3)), "size must be an integer"),
        (lambda: Cutout(2, fill_value="0"), "fill_value must be a number"),
        (lambda: Cutout(2, seed=-1), "seed must be an integer"),
    ],
)
def test_refused_arguments(make: Callable[[], Layer], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{words}.*Received"):
        make()


def test_refused_inputs() -> None:
    for layer in (RandomFlip(), RandomCrop(2, 2), RandomRotation(0.1), Cutout(1)):
        with pytest.raises(ShapeError, match="expected an input of 4 dimensions"):
            layer(np.zeros((3, 4, 5)))
        with pytest.raises(ShapeError, match="at least one pixel"):
            layer(np.zeros((3, 0, 5, 1)))
