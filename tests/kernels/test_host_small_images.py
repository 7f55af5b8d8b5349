"""Images much of whose windows lies in the padding: against loops, between canaries."""

from __future__ import annotations

import numpy as np
import pytest
from guards import guarded, words

from gpuconv.geometry import ConvGeometry
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import direct, direct_cut, few_channels_gradient
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads


@pytest.fixture(autouse=True)
def _usual_threads():
    yield
    set_threads(None)


@pytest.mark.parametrize("batch", [4, 8, 13])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_small_images_place_by_place(batch: int, stride: tuple[int, int]) -> None:
    """Tiles of several images' pixels, whose taps in the padding are left out."""
    pads = ((2, 2), (3, 1))
    g = ConvGeometry(batch, 33, 70, (7, 6), (5, 5), stride, (1, 1), pads, 1)
    assert direct_cut.cut(g, "float32", Host(64, 32), 2, True).images == batch
    for phase in g.backward_input_phases if stride == (1, 1) else ():
        assert direct_cut.cut(phase.geometry, "float32", Host(64, 32), 2, True).images == batch
    assert not few_channels_gradient.pays(g, "float32")
    rng = generator(f"places-{batch}")
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    numbers = [small_integers(rng, shape, "float32") for shape in shapes]
    (x, w, bias, dy), memories = zip(*map(guarded, numbers), strict=True)
    before = [memory.copy() for memory in memories]
    for threads in (1, 3):
        set_threads(threads)
        for packed in (None, direct.pack_weights(w, 1)):
            y, memory = guarded(np.full(g.y_shape, np.nan, "float32"))
            direct.conv_forward(x, w, bias, y, g, packed=packed)
            assert_exact(y, reference.conv(x, w, bias, **words(g)))
            assert np.isnan(memory[:64]).all()
            assert np.isnan(memory[-64:]).all()
        dx, memory = guarded(np.full(g.x_shape, np.nan, "float32"))
        direct.conv_backward_input(dy, w, dx, g)
        assert_exact(dx, reference.conv_backward_input(dy, w, g.x_shape, **words(g)))
        assert np.isnan(memory[:64]).all()
        assert np.isnan(memory[-64:]).all()
    for memory, earlier in zip(memories, before, strict=True):
        np.testing.assert_array_equal(memory, earlier)
