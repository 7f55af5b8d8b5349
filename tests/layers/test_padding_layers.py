"""ZeroPadding1D, ZeroPadding2D, ZeroPadding3D."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.layers import ZeroPadding1D, ZeroPadding2D, ZeroPadding3D
from gpuconv.testing import assert_exact
from gpuconv.testing.cases import small_integers

CASES = [
    (1, 2, ((2, 2),)),
    (1, (1, 3), ((1, 3),)),
    (2, 1, ((1, 1), (1, 1))),
    (2, (1, 2), ((1, 1), (2, 2))),
    (2, ((1, 0), (2, 3)), ((1, 0), (2, 3))),
    (2, [[1, 0], 2], ((1, 0), (2, 2))),
    (2, 0, ((0, 0), (0, 0))),
    (3, 1, ((1, 1),) * 3),
    (3, (0, 1, 2), ((0, 0), (1, 1), (2, 2))),
    (3, ((1, 2), (0, 3), (2, 0)), ((1, 2), (0, 3), (2, 0))),
]


@pytest.mark.parametrize(("rank", "padding", "pads"), CASES, ids=str)
def test_values_and_gradient_in_both_formats(rank: int, padding: Any, pads: Any) -> None:
    x = small_integers(np.random.default_rng(0), (2, *(3, 4, 2)[:rank], 3))
    out = [n + lo + hi for n, (lo, hi) in zip(x.shape[1:-1], pads, strict=True)]
    inside = tuple(slice(lo, lo + n) for n, (lo, _) in zip(x.shape[1:-1], pads, strict=True))
    want = np.zeros((2, *out, 3))
    want[(slice(None), *inside)] = x
    cls = getattr(layers, f"ZeroPadding{rank}D")
    last, first = cls(padding), cls(padding, data_format="channels_first")
    y, backward = last.forward(x, training=True)
    assert_exact(y, want)
    assert last.compute_output_shape((None, *x.shape[1:])) == (None, *y.shape[1:])
    dy = small_integers(np.random.default_rng(1), y.shape)
    dx = dy[(slice(None), *inside)]
    assert_exact(backward(dy), dx)
    assert backward(dy, input_gradient=False) is None
    y, backward = first.forward(np.moveaxis(x, -1, 1), training=True)
    assert_exact(y, np.moveaxis(want, -1, 1))
    assert_exact(backward(np.moveaxis(dy, -1, 1)), np.moveaxis(dx, -1, 1))
    twin = cls.from_config(last.get_config())
    assert twin.get_config() == last.get_config()
    assert_exact(twin(x), want)


def test_the_result_is_never_the_input_itself() -> None:
    x = np.ones((1, 3, 3, 1), np.float32)
    assert not np.shares_memory(ZeroPadding2D(0)(x), x)


@pytest.mark.parametrize(
    ("cls", "padding"),
    [
        (ZeroPadding1D, (1, 2, 3)),
        (ZeroPadding1D, -1),
        (ZeroPadding1D, "same"),
        (ZeroPadding2D, (1, 2, 3)),
        (ZeroPadding2D, ((1, 2), (3, -1))),
        (ZeroPadding2D, ((1, 2, 3), (1, 2))),
        (ZeroPadding2D, 1.5),
        (ZeroPadding2D, None),
        (ZeroPadding2D, ("1", "2")),
        (ZeroPadding3D, (1, 2)),
        (ZeroPadding3D, ((1, 1), (1, 1))),
    ],
    ids=str,
)
def test_bad_padding(cls: Any, padding: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"padding.*Received"):
        cls(padding)


def test_bad_inputs() -> None:
    with pytest.raises(ShapeError, match="4 dimensions"):
        ZeroPadding2D(1)(np.zeros((3, 4, 1), np.float32))
    with pytest.raises(InvalidArgumentError, match="data_format"):
        ZeroPadding2D(1, data_format="NCHW")
