"""Zeros where no tap reaches: kernels that are smaller than their stride."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import direct, unreached
from gpuconv_kernels.threads import set_threads

GEOMETRIES = {
    "line": ConvGeometry(2, 9, 10, (17,), (1,), (3,), (1,), ((0, 0),), 1),
    "odd": ConvGeometry(2, 12, 20, (9, 7), (1, 1), (2, 2), (1, 1), ((0, 0), (0, 0)), 1),
    "padded": ConvGeometry(1, 9, 5, (8, 11), (2, 1), (3, 4), (1, 1), ((1, 0), (1, 3)), 1),
    "dilated": ConvGeometry(1, 10, 6, (9, 10), (2, 2), (4, 2), (2, 2), ((0, 0), (0, 0)), 1),
    "lines only": ConvGeometry(1, 9, 8, (10, 6), (1, 3), (2, 1), (1, 1), ((0, 0), (1, 1)), 1),
    "depth": ConvGeometry(
        1, 9, 4, (5, 4, 6), (1, 2, 1), (2, 1, 3), (1, 1, 1), ((0, 0), (1, 0), (0, 0)), 1
    ),
    "an extent below the stride": ConvGeometry(
        1, 9, 4, (2, 3), (1, 1), (5, 2), (1, 1), ((0, 0), (0, 0)), 1
    ),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_all_of_the_gradient_is_written(g: ConvGeometry, threads: int) -> None:
    rng = generator(f"unreached-{g.input}")
    dy, w = (small_integers(rng, shape, "float32") for shape in (g.y_shape, g.w_shape))
    set_threads(threads)
    wide = np.full((g.batch, *(2 * n for n in g.input), g.in_channels + 3), np.nan, "float32")
    inside = (slice(None), *(slice(None, None, 2),) * g.rank, slice(1, 1 + g.in_channels))
    contiguous = np.full(g.x_shape, np.nan, "float32")
    try:
        for dx in (contiguous, wide[inside]):
            direct.conv_backward_input(dy, w, dx, g)
            words = {"stride": g.stride, "padding": g.pads, "dilation": g.dilation}
            assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, groups=1, **words))
    finally:
        set_threads(None)
    wide[inside] = np.nan
    assert np.isnan(wide).all()


def test_nothing_is_cleared_where_taps_reach_everything() -> None:
    g = ConvGeometry(1, 9, 4, (6, 6), (3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), 1)
    dx = np.ones(g.x_shape, "float32")
    unreached.fill(dx, g)
    assert (dx == 1).all()
