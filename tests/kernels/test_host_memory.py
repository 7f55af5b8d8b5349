"""Arrays for results: where their memory begins."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.backends import registry
from gpuconv.geometry import ConvGeometry
from gpuconv_kernels.host.memory import address, empty
from gpuconv_kernels.host.target import LINE


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float64"), np.int64])
@pytest.mark.parametrize("shape", [(2, 200, 300), (0, 3), (), (40,), (33000,)])
def test_an_array_for_results(shape, dtype):
    array = empty(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.size < 32768 or address(array) % LINE == 0
    array.fill(7)
    assert (array == 7).all()


def test_results_of_layers_begin_with_a_line():
    engine = registry.engine("cpu:jit")
    g = ConvGeometry(2, 8, 8, (50, 60), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 8)
    x, w = np.ones(g.x_shape, np.float32), np.ones(g.w_shape, np.float32)
    y = engine.conv_forward(x, w, None, g, 1 << 28)
    assert address(y) % LINE == 0
    assert address(engine.conv_backward_input(y, w, g, 1 << 28)) % LINE == 0
