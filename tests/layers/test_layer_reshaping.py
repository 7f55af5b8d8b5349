"""Flatten, Reshape and Permute: where each number goes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import Flatten, Permute, Reshape


def counting(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_flatten_is_row_major() -> None:
    x = counting(2, 2, 3, 2)
    y = Flatten()(x)
    assert y.tolist() == [list(range(12)), list(range(12, 24))]


def test_flatten_channels_first_goes_through_channels_last() -> None:
    # Sample (C=2, W=3): channel 0 is 0, 1, 2 and channel 1 is 3, 4, 5.
    y = Flatten(data_format="channels_first")(counting(1, 2, 3))
    assert y.tolist() == [[0, 3, 1, 4, 2, 5]]
    assert Flatten("channels_first")(counting(1, 4)).tolist() == [[0, 1, 2, 3]]


def test_flatten_backward_undoes_it() -> None:
    for layer in (Flatten(), Flatten("channels_first"), Flatten(start_dim=2, end_dim=3)):
        x = counting(2, 3, 2, 4, 2)
        y, backward = layer.forward(x)
        np.testing.assert_array_equal(backward(y), x)


def test_flatten_of_the_batch_alone() -> None:
    assert Flatten()(counting(3)).shape == (3, 1)
    assert Flatten().compute_output_shape((None,)) == (None, 1)


@pytest.mark.parametrize(
    ("start", "end", "shape"),
    [
        (1, -1, (2, 24)),
        (0, -1, (48,)),
        (2, -1, (2, 3, 8)),
        (1, 2, (2, 6, 4)),
        (-2, -1, (2, 3, 8)),
        (2, 2, (2, 3, 2, 4)),
    ],
)
def test_flatten_dims(start: int, end: int, shape: tuple[int, ...]) -> None:
    layer = Flatten(start_dim=start, end_dim=end)
    x = counting(2, 3, 2, 4)
    y = layer(x)
    np.testing.assert_array_equal(y, x.reshape(shape))
    assert layer.compute_output_shape(x.shape) == shape


def test_flatten_unknown_extents() -> None:
    assert Flatten().compute_output_shape((None, None, 3)) == (None, None)
    assert Flatten(start_dim=2).compute_output_shape((None, None, 3, 2)) == (None, None, 6)


def test_flatten_refuses() -> None:
    with pytest.raises(ShapeError, match=r"axes 2 to -1.*Received: an input of 2 dimensions"):
        Flatten(start_dim=2)(counting(2, 3))
    with pytest.raises(ShapeError, match="in this order"):
        Flatten(start_dim=3, end_dim=1)(counting(2, 3, 4, 5))
    with pytest.raises(InvalidArgumentError, match="start_dim=2"):
        Flatten("channels_first", start_dim=2)
    with pytest.raises(InvalidArgumentError, match="Did you mean 'channels_last'"):
        Flatten("channels_lasst")


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ((6, 4), (2, 6, 4)),
        ((-1,), (2, 24)),
        ((2, -1, 3), (2, 2, 4, 3)),
        ((24, 1, 1), (2, 24, 1, 1)),
    ],
)
def test_reshape(target: tuple[int, ...], shape: tuple[int, ...]) -> None:
    layer = Reshape(target)
    x = counting(2, 2, 3, 4)
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, x.reshape(shape))
    assert layer.compute_output_shape((None, 2, 3, 4)) == (None, *shape[1:])
    np.testing.assert_array_equal(backward(y), x)


def test_reshape_infers_with_an_empty_batch() -> None:
    assert Reshape((-1, 2))(counting(0, 3, 4)).shape == (0, 6, 2)


def test_reshape_unknown_extents() -> None:
    assert Reshape((-1, 2)).compute_output_shape((None, None, 4)) == (None, None, 2)


def test_reshape_refuses() -> None:
    for target in ((5, 5), (5, -1), (0, -1), ()):
        with pytest.raises(ShapeError, match=r"Received: shape \(None, 2, 3, 4\)"):
            Reshape(target)(counting(2, 2, 3, 4))
    with pytest.raises(InvalidArgumentError, match="only once"):
        Reshape((-1, -1))
    with pytest.raises(InvalidArgumentError, match="at least -1"):
        Reshape((-2, 3))
    with pytest.raises(InvalidArgumentError, match="tuple of integers"):
        Reshape(24)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"Received: 2.5"):
        Reshape((2.5, 2))  # type: ignore[arg-type]


def test_permute() -> None:
    x = counting(2, 3, 4, 5)
    layer = Permute((3, 1, 2))
    y, backward = layer.forward(x)
    assert y.shape == (2, 5, 3, 4)
    assert y[1, 4, 2, 3] == x[1, 2, 3, 4]
    assert layer.compute_output_shape((None, 3, 4, 5)) == (None, 5, 3, 4)
    np.testing.assert_array_equal(backward(y), x)


def test_permute_refuses() -> None:
    for dims in ((1, 1), (2, 3), (0, 1), "21", 2.5, (1.0, 2.0)):
        with pytest.raises(InvalidArgumentError, match="dims"):
            Permute(dims)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="3 dimensions"):
        Permute((2, 1))(counting(2, 3, 4, 5))
