"""A residual added as a convolution stores: against the sum in passes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpuconv.backends import registry
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry
from gpuconv.settings import config
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import generator, small_integers
from gpuconv_kernels.host import direct, direct_cut
from gpuconv_kernels.threads import set_threads

PLENTY = 2**28


@pytest.fixture(autouse=True)
def _settings_as_they_were() -> Iterator[None]:
    yield
    config.winograd = "auto"
    set_threads(None)
    direct_cut.cut.cache_clear()


def square(batch: int, channels: int, extent: int, filters: int, kernel: int, groups: int = 1):
    pad = kernel // 2
    return ConvGeometry(
        batch=batch,
        in_channels=channels,
        out_channels=filters,
        input=(extent, extent),
        kernel=(kernel, kernel),
        stride=(1, 1),
        dilation=(1, 1),
        pads=((pad, pad), (pad, pad)),
        groups=groups,
    )


GEOMETRIES = [
    square(1, 16, 6, 64, 1),  # whole tiles
    square(1, 16, 7, 64, 1),  # and one with a pixel
    square(2, 9, 5, 83, 3),  # filters beside the vectors
    square(2, 6, 5, 10, 3, groups=2),
    square(1, 3, 9, 20, 5),  # taps as channels
    square(1, 5, 6, 5, 3, groups=5),  # depthwise
]


def numbers(g: ConvGeometry, dtype: str) -> list[Any]:
    rng = generator(f"residual-{g.in_channels}")
    shapes = (g.x_shape, g.w_shape, (g.out_channels,), g.y_shape)
    return [small_integers(rng, shape, dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [None, "relu", "relu6"])
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.in_channels}-{g.out_channels}")
def test_small_integers_are_exact(g: ConvGeometry, kind: str | None, dtype: str) -> None:
    x, w, bias, residual = numbers(g, dtype)
    options = {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}
    expected = reference.conv(x, w, bias, **options) + residual
    if kind is not None:
        expected = np.clip(expected, 0, 6 if kind == "relu6" else None)
    config.winograd = "off"
    activation = None if kind is None else Activation(kind)
    guarded = np.full(residual.size + 128, np.nan, dtype)  # what lies beside is not read
    inside = guarded[64:-64].reshape(residual.shape)
    inside[...] = residual
    before = guarded.copy()
    for name in ("cpu:jit", "cpu:numpy"):
        engine = registry.engine(name)
        for weights in (w, engine.prepare_weights(w)):
            y = engine.conv_add_forward(x, weights, bias, inside, g, PLENTY, activation)
            assert_exact(y, expected)
    np.testing.assert_array_equal(guarded, before)


@pytest.mark.parametrize("threads", [1, 2])
def test_where_results_wait_for_the_last_chunk(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """The residual is added once, by the last chunk of taps and channels."""
    monkeypatch.setattr(direct_cut, "chunk_bytes", lambda: 2**12)
    direct_cut.cut.cache_clear()
    set_threads(threads)
    g = square(1, 70, 7, 150, 3)
    x, w, bias, residual = numbers(g, "float32")
    y = np.full(g.y_shape, np.nan, "float32")
    direct.conv_forward(x, w, bias, y, g, Activation("relu"), residual=residual)
    plain = reference.conv(x, w, bias, padding=g.pads)
    assert_exact(y, np.maximum(plain + residual, 0))


@pytest.mark.parametrize("kind", [None, "relu", "elu"])
def test_winograd_adds_as_it_stores(kind: str | None) -> None:
    engine = registry.engine("cpu:jit")
    g = square(2, 24, 13, 40, 3)
    x, w, bias, residual = numbers(g, "float32")
    config.winograd = 4
    activation = None if kind is None else Activation(kind)
    separate = engine.conv_forward(x, w, bias, g, PLENTY) + residual
    if activation is not None:
        separate = engine.activation(separate, activation)
    wide = np.repeat(residual, 2, axis=3)[..., ::2]
    for weights in (w, engine.prepare_weights(w)):
        for view in (residual, wide):
            y = engine.conv_add_forward(x, weights, bias, view, g, PLENTY, activation)
            np.testing.assert_array_equal(y, separate)


def test_residuals_of_any_strides() -> None:
    engine = registry.engine("cpu:jit")
    g = square(2, 16, 6, 64, 1)
    x, w, bias, residual = numbers(g, "float32")
    expected = engine.conv_add_forward(x, w, bias, residual, g, PLENTY)
    wide = np.repeat(residual, 2, axis=3)[..., ::2]
    memory = np.zeros(residual.nbytes + 1, np.uint8)
    unaligned = memory[1:].view("float32").reshape(residual.shape)
    unaligned[...] = residual
    for view in (wide, np.asfortranarray(residual), unaligned):
        assert_exact(engine.conv_add_forward(x, w, bias, view, g, PLENTY), expected)
