"""The reference poolings against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv.testing import reference
from gpuconv.testing.cases import (
    AVG_POOL_CASES,
    MAX_POOL_CASES,
    AvgPoolCase,
    MaxPoolCase,
    generator,
    small_integers,
)

NAN, INF = math.nan, math.inf


def line(*values: float) -> np.ndarray:
    """One sample, one channel, one dimension."""
    return np.array(values).reshape(1, -1, 1)


def max_line(values: tuple[float, ...], **options: object) -> tuple[list[float], list[int]]:
    y, indices = reference.max_pool(line(*values), **options)  # type: ignore[arg-type]
    return y.ravel().tolist(), indices.ravel().tolist()


def test_max_pool_by_hand() -> None:
    assert max_line((1, 3, 2, 5, 4), kernel_size=2) == ([3, 5], [1, 3])
    assert max_line((1, 3, 2, 5, 4), kernel_size=3, stride=1) == ([3, 5, 5], [1, 3, 3])
    assert max_line((1, 3, 2, 5, 4), kernel_size=2, ceil_mode=True) == ([3, 5, 4], [1, 3, 4])
    assert max_line((1, 3, 2, 5, 4), kernel_size=2, stride=1, dilation=3) == ([5, 4], [3, 4])
    assert max_line((-1, -3), kernel_size=2, padding=1) == ([-1, -3], [0, 1])


def test_max_pool_index_counts_in_the_plane() -> None:
    x = np.array([[1, 2, 3], [4, 0, 0], [0, 0, 9]], dtype=float).reshape(1, 3, 3, 1)
    y, indices = reference.max_pool(x, 2, stride=1)
    assert y.ravel().tolist() == [4, 3, 4, 9]
    assert indices.ravel().tolist() == [3, 2, 3, 8]


def test_max_pool_first_of_ties_first_nan_and_infinities() -> None:
    x = np.array([[0, 7], [7, 7]], dtype=float).reshape(1, 2, 2, 1)
    assert reference.max_pool(x, 2)[1].item() == 1
    assert max_line((0, 0, 0, 0), kernel_size=2) == ([0, 0], [0, 2])
    assert max_line((-INF, -INF), kernel_size=2) == ([-INF], [0])
    y, indices = max_line((9, NAN, INF, NAN), kernel_size=4)
    assert math.isnan(y[0])
    assert indices == [1]


def test_max_pool_backward_adds_up() -> None:
    x = line(1, 5, 2, 5)
    _, indices = reference.max_pool(x, 3, stride=1)
    assert indices.ravel().tolist() == [1, 1]
    dx = reference.max_pool_backward(line(10, 100), indices, x.shape)
    assert dx.ravel().tolist() == [0, 110, 0, 0]


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "pads", "expected"),
    [
        (5, 2, 2, (0, 0), 3),  # the last window hangs over
        (3, 2, 2, (1, 1), 2),  # a third window would start in the right padding
        (4, 2, 2, (1, 1), 3),
        (2, 3, 2, (0, 0), 1),  # larger than the input, yet it hangs over by less than a stride
        (6, 3, 2, (1, 1), 4),
    ],
)
def test_ceil_mode_extents(
    extent: int, kernel: int, stride: int, pads: tuple[int, int], expected: int
) -> None:
    assert reference.pool_extent(extent, kernel, stride, 1, *pads, ceil_mode=True) == expected


def test_window_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        reference.max_pool(line(1, 2), 3)


def test_avg_pool_divisors() -> None:
    x = line(1, 2, 3, 4)

    def pool(**options: object) -> list[float]:
        y = reference.avg_pool(x, 3, stride=2, padding=1, **options)  # type: ignore[arg-type]
        return y.ravel().tolist()

    assert pool() == [3 / 3, 9 / 3]
    assert pool(count_include_pad=False) == [3 / 2, 9 / 3]
    assert pool(divisor_override=2) == [3 / 2, 9 / 2]
    # The third window covers 4, one padding, and one position beyond the padded area.
    assert pool(ceil_mode=True) == [3 / 3, 9 / 3, 4 / 2]
    assert pool(ceil_mode=True, count_include_pad=False) == [3 / 2, 9 / 3, 4 / 1]


def test_avg_pool_same_divides_by_real_elements() -> None:
    y = reference.avg_pool(line(1, 2, 3), 2, stride=1, padding="same", count_include_pad=False)
    assert y.ravel().tolist() == [1.5, 2.5, 3]


@pytest.mark.parametrize("case", AVG_POOL_CASES, ids=str)
def test_avg_pool_backward_is_the_adjoint(case: AvgPoolCase) -> None:
    rng = generator(case.id)
    x = rng.standard_normal(case.x_shape)
    y = reference.avg_pool(x, **case.options)
    dy = rng.standard_normal(y.shape)
    dx = reference.avg_pool_backward(dy, x.shape, **case.options)
    assert np.vdot(dx, x) == pytest.approx(np.vdot(dy, y), abs=1e-12)


@pytest.mark.parametrize("case", MAX_POOL_CASES, ids=str)
def test_max_pool_values_and_indices_agree(case: MaxPoolCase) -> None:
    rng = generator(case.id)
    x = small_integers(rng, case.x_shape, np.float64, 0, 1 if case.ties else 1000)
    y, indices = reference.max_pool(x, **case.options)
    flat = x.reshape(case.batch, math.prod(case.input), case.channels)
    rows = indices.reshape(case.batch, math.prod(y.shape[1:-1]), case.channels)
    picked = np.take_along_axis(flat, rows, axis=1)
    np.testing.assert_array_equal(picked.reshape(y.shape), y)
    dy = small_integers(rng, y.shape, np.float64)
    dx = reference.max_pool_backward(dy, indices, x.shape)
    assert np.vdot(dx, x) == np.vdot(dy, y)


def test_adaptive_windows_overlap() -> None:
    x = line(1, 2, 3, 6, 4)
    # Five elements onto three windows: 0-1, 1-3, 3-4.
    assert reference.adaptive_avg_pool(x, 3).ravel().tolist() == pytest.approx([1.5, 11 / 3, 5])
    y, indices = reference.adaptive_max_pool(x, 3)
    assert y.ravel().tolist() == [2, 6, 6]
    assert indices.ravel().tolist() == [1, 3, 3]
    assert reference.adaptive_avg_pool(x, 10).ravel().tolist() == np.repeat(x, 2).tolist()
