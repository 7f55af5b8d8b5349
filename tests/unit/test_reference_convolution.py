"""The reference convolutions against NumPy's, numbers worked out by hand, and identities."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.testing import check_inner_product, reference
from gpuconv.testing.cases import (
    CONV_CASES,
    CONV_TRANSPOSE_CASES,
    ConvCase,
    ConvTransposeCase,
    generator,
    small_integers,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ramp(*shape: int) -> np.ndarray:
    """1, 2, 3, ... in the given shape."""
    return np.arange(1.0, np.prod(shape) + 1).reshape(shape)


def test_one_dimension_is_numpys_correlation(rng: np.random.Generator) -> None:
    signal, taps = rng.standard_normal(11), rng.standard_normal(4)
    x, w = signal.reshape(1, 11, 1), taps.reshape(4, 1, 1)
    assert reference.conv(x, w).ravel() == pytest.approx(np.correlate(signal, taps, "valid"))
    full = reference.conv(x, w, padding=3).ravel()
    assert full == pytest.approx(np.convolve(signal, taps[::-1], "full"))


def test_two_dimensions_by_hand() -> None:
    x = ramp(1, 3, 3, 1)  # 1 2 3 / 4 5 6 / 7 8 9
    w = np.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
    assert reference.conv(x, w).ravel().tolist() == [1 - 5, 2 - 6, 4 - 8, 5 - 9]
    # Padded by one and stride 2, each window shows one corner of the image.
    y = reference.conv(x, w, stride=2, padding=1)
    assert y[0, ..., 0].tolist() == [[-1, -3], [-7, 5 - 9]]
    # Pads (1 above, 0 below; 0 left, 2 right), stride (1, 3).
    y = reference.conv(x, w, stride=(1, 3), padding=((1, 0), (0, 2)))
    assert y[0, ..., 0].tolist() == [[-2, 0], [1 - 5, 0], [4 - 8, 0]]


def test_channels_filters_and_bias() -> None:
    x = np.array([10.0, 100.0]).reshape(1, 1, 1, 2)
    w = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reshape(1, 1, 2, 3)
    y = reference.conv(x, w, np.array([0.5, 0.25, 0.0]))
    assert y.ravel().tolist() == [410.5, 520.25, 630.0]


def test_groups_are_separate_convolutions(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((2, 5, 5, 6)), rng.standard_normal((3, 3, 2, 9))
    y = reference.conv(x, w, groups=3, stride=2)
    parts = [
        reference.conv(x[..., 2 * g : 2 * g + 2], w[..., 3 * g : 3 * g + 3], stride=2)
        for g in range(3)
    ]
    np.testing.assert_array_equal(y, np.concatenate(parts, axis=-1))


def test_dilation_is_a_kernel_with_holes(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 9, 8, 2)), rng.standard_normal((3, 2, 2, 3))
    holes = np.zeros((5, 4, 2, 3))
    holes[::2, ::3] = w
    y = reference.conv(x, w, dilation=(2, 3))
    np.testing.assert_allclose(y, reference.conv(x, holes), rtol=1e-12)


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "pads"),
    [(32, 3, 2, (0, 1)), (224, 7, 2, (2, 3)), (5, 2, 1, (0, 1)), (28, 5, 1, (2, 2))],
)
def test_same_padding(extent: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert reference.resolve_pads("same", [extent], [kernel], [stride], [1]) == [pads]
    assert reference.conv_extent(extent, kernel, stride, 1, *pads) == -(-extent // stride)


def test_causal_output_never_sees_the_future(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 8, 2)), rng.standard_normal((3, 2, 2))
    y = reference.conv(x, w, padding="causal", dilation=2)
    x[:, 5:] = 0
    np.testing.assert_array_equal(
        reference.conv(x, w, padding="causal", dilation=2)[:, :5], y[:, :5]
    )
    assert y.shape == (1, 8, 2)


@pytest.mark.parametrize(
    ("mode", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]
)
def test_padding_modes_are_numpys(mode: str, numpy_mode: str, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((3, 3, 3, 2))
    pads = ((3, 1), (0, 2))
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), mode=numpy_mode)  # type: ignore[call-overload]
    np.testing.assert_array_equal(reference.pad(x, pads, mode), padded)
    np.testing.assert_array_equal(
        reference.conv(x, w, padding=pads, padding_mode=mode), reference.conv(padded, w)
    )


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_pad_backward_is_the_adjoint(mode: str, rng: np.random.Generator) -> None:
    pads = ((2, 1), (0, 3))
    x = small_integers(rng, (2, 3, 4, 2), np.float64)
    y = reference.pad(x, pads, mode)
    dy = small_integers(rng, y.shape, np.float64)
    assert np.vdot(y, dy) == np.vdot(x, reference.pad_backward(dy, pads, mode))


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_convolution_gradients(case: ConvCase) -> None:
    rng = generator(case.id)
    x, w = small_integers(rng, case.x_shape), small_integers(rng, case.w_shape)
    dy = small_integers(rng, reference.conv(x, w, **case.options).shape)
    check_inner_product(
        lambda x, w: reference.conv(x, w, **case.options),
        lambda dy, w: reference.conv_backward_input(dy, w, x.shape, **case.options),
        lambda dy, x: reference.conv_backward_weight(dy, x, w.shape, **case.options),
        x,
        w,
        dy,
        exact=True,
    )


def test_bias_gradient() -> None:
    assert reference.sum_channels(ramp(2, 2, 3)).tolist() == [22.0, 26.0, 30.0]


def test_transposed_stamps_the_kernel() -> None:
    w = ramp(2, 2, 1, 1)  # 1 2 / 3 4
    x = np.array([[1.0, 10.0]]).reshape(1, 1, 2, 1)
    y = reference.conv_transpose(x, w)[0, ..., 0]
    assert y.tolist() == [[1, 2 + 10, 20], [3, 4 + 30, 40]]
    y = reference.conv_transpose(x, w, stride=3, output_padding=(0, 1))[0, ..., 0]
    assert y.tolist() == [[1, 2, 0, 10, 20, 0], [3, 4, 0, 30, 40, 0]]
    y = reference.conv_transpose(x, w, padding=((0, 1), (1, 0)), bias=np.array([0.5]))
    assert y[0, ..., 0].tolist() == [[12.5, 20.5]]


@pytest.mark.parametrize("case", CONV_TRANSPOSE_CASES, ids=str)
def test_transposed_gradients(case: ConvTransposeCase) -> None:
    rng = generator(case.id)
    x, w = small_integers(rng, case.x_shape), small_integers(rng, case.w_shape)
    dy = small_integers(rng, reference.conv_transpose(x, w, **case.options).shape)
    check_inner_product(
        lambda x, w: reference.conv_transpose(x, w, **case.options),
        lambda dy, w: reference.conv_transpose_backward_input(dy, w, x.shape, **case.options),
        lambda dy, x: reference.conv_transpose_backward_weight(dy, x, w.shape, **case.options),
        x,
        w,
        dy,
        exact=True,
    )


@pytest.mark.parametrize("case", CONV_TRANSPOSE_CASES, ids=str)
def test_transposed_is_the_input_gradient_of_a_convolution(case: ConvTransposeCase) -> None:
    rng = generator(case.id)
    x, w = small_integers(rng, case.x_shape), small_integers(rng, case.w_shape)
    y = reference.conv_transpose(x, w, **case.options)
    options = {k: v for k, v in case.options.items() if k != "output_padding"}
    # An output_padding of a stride or more makes room for windows that no input element has.
    dy = np.zeros_like(reference.conv(y, w, **options))
    dy[tuple(slice(n) for n in x.shape)] = x
    np.testing.assert_array_equal(y, reference.conv_backward_input(dy, w, y.shape, **options))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: reference.conv(ramp(1, 2, 1), ramp(4, 1, 1), padding=((0, 1),)), "does not fit"),
        (lambda: reference.conv(ramp(1, 2, 1), ramp(1, 1, 1), stride=(1, 1)), "expected one int"),
        (lambda: reference.pad(ramp(1, 3, 1), [(3, 0)], "reflect"), "reflect padding reaches"),
        (lambda: reference.pad(ramp(1, 3, 1), [(0, 4)], "circular"), "circular padding reaches"),
        (lambda: reference.conv_transpose(ramp(1, 1, 1), ramp(2, 1, 1), padding=1), "leaves"),
    ],
)
def test_impossible_sizes_are_refused(function: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function()  # type: ignore[operator]
