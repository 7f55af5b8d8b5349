"""Weights packed or transformed beforehand: the same bits as when kernels do it in the call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpuconv.backends import registry
from gpuconv.backends.functions import Activation
from gpuconv.geometry import ConvGeometry, resolve_padding
from gpuconv.settings import config
from gpuconv.testing import assert_exact, reference
from gpuconv.testing.cases import CONV_CASES, ConvCase, generator, small_integers
from gpuconv_kernels.host import direct, direct_cut, target
from gpuconv_kernels.host.target import Host
from gpuconv_kernels.threads import set_threads

CASES = [case for case in CONV_CASES if case.padding_mode == "zeros"]
PLENTY = 2**28


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    return rng.standard_normal(shape).astype(dtype)


@pytest.fixture(autouse=True)
def _settings_as_they_were() -> Iterator[None]:
    yield
    config.winograd = "auto"
    set_threads(None)
    direct_cut.cut.cache_clear()


def geometry_of(case: ConvCase) -> ConvGeometry:
    def each(value: Any) -> tuple[int, ...]:
        return (value,) * case.rank if isinstance(value, int) else tuple(value)

    stride, dilation = each(case.stride), each(case.dilation)
    return ConvGeometry(
        batch=case.batch,
        in_channels=case.channels,
        out_channels=case.filters,
        input=case.input,
        kernel=case.kernel,
        stride=stride,
        dilation=dilation,
        pads=resolve_padding(case.padding, case.input, case.kernel, stride, dilation),
        groups=case.groups,
    )


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


def both(g: ConvGeometry, name: str, dtype: str = "float32") -> tuple[Any, Any]:
    """Direct convolution of normal numbers, with weights as they are and packed."""
    rng = generator(name)
    x, w, bias = (normal(rng, s, dtype) for s in (g.x_shape, g.w_shape, (g.out_channels,)))
    plain, packed = np.full((2, *g.y_shape), np.nan, dtype)
    direct.conv_forward(x, w, bias, plain, g, Activation("relu"))
    unreadable = np.full_like(w, np.nan)
    kept = direct.pack_weights(w, g.groups)
    direct.conv_forward(x, unreadable, bias, packed, g, Activation("relu"), kept)
    return plain, packed


@pytest.mark.parametrize("case", CASES, ids=str)
def test_direct_convolution_has_the_same_bits(case: ConvCase) -> None:
    np.testing.assert_array_equal(*both(geometry_of(case), case.id))


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_packed_weights_give_what_the_definition_says(case: ConvCase) -> None:
    g, rng = geometry_of(case), generator(case.id)
    x, w = (small_integers(rng, shape, "float64") for shape in (g.x_shape, g.w_shape))
    y = np.full(g.y_shape, np.nan)
    direct.conv_forward(x, w, None, y, g, packed=direct.pack_weights(w, g.groups))
    options = {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}
    assert_exact(y, reference.conv(x, w, None, **options))


@pytest.mark.parametrize("chunk", [2**10, 2**14])
@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_of_any_size_read_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, chunk: int, threads: int
) -> None:
    """Chunks of some channels of a tap, of some taps, and of some filters."""
    monkeypatch.setattr(direct_cut, "chunk_bytes", lambda: chunk)
    direct_cut.cut.cache_clear()
    set_threads(threads)
    for g in (
        square(1, 70, 6, 150, 3),
        square(1, 24, 8, 100, 3, groups=2),
        square(2, 3, 9, 20, 5),
        square(1, 2, 9, 77, 3),
    ):
        np.testing.assert_array_equal(*both(g, f"chunks-{g.in_channels}"))


def test_narrow_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "host", lambda: Host(16, 16))
    direct_cut.cut.cache_clear()
    np.testing.assert_array_equal(*both(square(1, 20, 6, 37, 3), "narrow"))


def test_packed_weights_take_no_more_memory_than_the_weights() -> None:
    w = np.zeros((3, 3, 16, 128), "float32")
    packed = direct.pack_weights(w, 1)
    assert packed.nbytes == w.nbytes
    assert packed.ctypes.data % target.LINE == 0


@pytest.mark.parametrize("setting", ["off", 2, 4, 6])
@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("elu", 0.5)])
def test_the_engine_gives_the_same_bits_for_prepared_weights(
    setting: Any, activation: Activation | None
) -> None:
    engine = registry.engine("cpu:jit")
    config.winograd = setting
    for batch in (1, 3):  # filters transformed where they are needed, and ahead
        g = square(batch, 24, 13, 40, 3)
        rng = generator(f"engine-{batch}")
        shapes = (g.x_shape, g.w_shape, (g.out_channels,))
        x, w, bias = (normal(rng, s) for s in shapes)
        plain = engine.conv_forward(x, w, bias, g, PLENTY, activation)
        prepared = engine.prepare_weights(w)
        for _ in range(2):
            y = engine.conv_forward(x, prepared, bias, g, PLENTY, activation)
            np.testing.assert_array_equal(y, plain)


def test_depthwise_convolution_takes_prepared_weights_too() -> None:
    engine = registry.engine("cpu:jit")
    g = square(2, 5, 7, 5, 3, groups=5)
    rng = generator("depthwise")
    x, w = (normal(rng, shape) for shape in (g.x_shape, g.w_shape))
    plain = engine.conv_forward(x, w, None, g, PLENTY)
    assert_exact(engine.conv_forward(x, engine.prepare_weights(w), None, g, PLENTY), plain)


@pytest.mark.parametrize("shape", [(1, 700, 500), (300, 40, 70), (2, 3, 4)])
def test_dense_gives_the_same_bits_for_prepared_weights(shape: tuple[int, int, int]) -> None:
    engine = registry.engine("cpu:jit")
    rows, inner, columns = shape
    rng = generator("dense")
    x, w = (normal(rng, s) for s in ((rows, inner), (inner, columns)))
    bias = normal(rng, (columns,))
    plain = engine.dense(x, w, bias, Activation("relu"))
    assert_exact(engine.dense(x, engine.prepare_weights(w), bias, Activation("relu")), plain)


def test_large_transformed_filters_are_not_kept() -> None:
    """Four times as many numbers come from memory no faster than they are transformed."""
    large, small = np.zeros((3, 3, 320, 320), "float32"), np.zeros((3, 3, 64, 64), "float32")
    engine: Any = registry.engine("cpu:jit")
    assert engine.prepare_weights(small).transformed(4) is not None
    assert engine.prepare_weights(large).transformed(2) is not None
    assert engine.prepare_weights(large).transformed(4) is None


def test_other_engines_take_the_weights_themselves() -> None:
    w = np.zeros((3, 3, 2, 2), "float32")
    assert registry.engine("cpu:numpy").prepare_weights(w) is w
