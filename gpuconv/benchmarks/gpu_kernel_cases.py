"""Launches of every device kernel at awkward sizes: odd extents, strides, groups, ragged tiles.

Each case calls a launcher of gpuconv_kernels.device as the engine does. Results are not compared
here, but for NaN: that is what tests/device does. What counts is which memory a kernel touches.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from gpuconv.benchmarks.gpu_kernels import Memory
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv_kernels.array.functions import FORWARD
from gpuconv_kernels.device import (
    activations,
    avg_pooling,
    depthwise_gradient,
    direct,
    implicit_gemm,
    max_pooling,
    moments,
    normalization,
    normalization_backward,
    padding,
    random_numbers,
    reductions,
    softmax,
    spatial,
    tiles,
    transpose,
    updates,
    weight_gradient,
)
from gpuconv_kernels.device.target import SIMULATED

NDArray = np.ndarray[Any, Any]
Case = tuple[str, Callable[[Memory], None]]
DTYPES = ("float32", "float64")
_ODD = 1031
"""Elements: no whole number of vectors, of warps or of blocks."""


def cases(families: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the cases of some families, or of all: name, and the function that launches."""
    for dtype in DTYPES:
        for name, family in FAMILIES.items():
            if not families or name in families:
                yield from family(dtype)


def numbers(shape: Any, dtype: Any, low: float = -1.0, high: float = 1.0) -> NDArray:
    """Return numbers between two others, the same on each call."""
    rng = np.random.default_rng(7)
    return np.asarray(rng.uniform(low, high, shape)).astype(dtype)


# --- element-wise ---------------------------------------------------------------------------


def _activations(dtype: str) -> Iterator[Case]:
    def one(kind: str, memory: Memory) -> None:
        x, out = numbers(_ODD, dtype), memory.output(_ODD, dtype)
        activations.activation(memory.put(x), out, kind, 0.1)
        z, dx = numbers(_ODD, dtype, 0.1, 0.9), memory.output(_ODD, dtype)
        activations.activation_backward(memory.put(x), memory.put(z), dx, kind, 0.1)

    def with_bias(kind: str | None, channels: int, memory: Memory) -> None:
        y = memory.inout(numbers((5, 3, channels), dtype))
        activations.add_bias_activate(y, memory.put(numbers(channels, dtype)), kind, 0.1)

    for kind in FORWARD:
        yield f"activation {kind}, {dtype}", functools.partial(one, kind)
    for kind_or_none, channels in itertools.product((None, *FORWARD), (7, 12)):
        name = f"bias and {kind_or_none}, {channels} channels, {dtype}"
        yield name, functools.partial(with_bias, kind_or_none, channels)


def _updates(dtype: str) -> Iterator[Case]:
    def arrays(memory: Memory, moments_: int) -> list[Any]:
        positive = [memory.inout(numbers(_ODD, dtype, 0.1, 1.0)) for _ in range(moments_)]
        gradient = memory.put(numbers(_ODD, dtype))
        return [memory.inout(numbers(_ODD, dtype)), gradient, *positive]

    def sgd(memory: Memory) -> None:
        value, gradient = arrays(memory, 0)
        updates.sgd_update(value, gradient, None, 0.1, 0.0, False, False, False)

    def momentum(nesterov: bool, torch_form: bool, first: bool, memory: Memory) -> None:
        value, gradient, velocity = arrays(memory, 1)
        updates.sgd_update(value, gradient, velocity, 0.1, 0.9, nesterov, torch_form, first)

    def adam(after: bool, memory: Memory) -> None:
        value, gradient, first, second = arrays(memory, 2)
        numbers_ = (1e-3, 0.9, 0.999, 1e-7, 3, after)
        updates.adam_update(value, gradient, first, second, *numbers_)

    def rmsprop(centered: bool, moving: bool, inside: bool, memory: Memory) -> None:
        value, gradient, square, *rest = arrays(memory, 1 + centered + moving)
        centre = rest.pop() if centered else None
        speed = rest.pop() if moving else None
        numbers_ = (0.1, 0.9, 0.5, 1e-7, inside)
        updates.rmsprop_update(value, gradient, square, centre, speed, *numbers_)

    def adagrad(inside: bool, memory: Memory) -> None:
        value, gradient, squares = arrays(memory, 1)
        updates.adagrad_update(value, gradient, squares, 0.1, 1e-7, inside)

    both = (False, True)
    yield f"sgd, {dtype}", sgd
    for nesterov, (torch_form, first) in itertools.product(both, ((0, 0), (1, 0), (1, 1))):
        run = functools.partial(momentum, nesterov, bool(torch_form), bool(first))
        yield f"momentum {nesterov} {torch_form} {first}, {dtype}", run
    for inside in both:
        yield f"adam {inside}, {dtype}", functools.partial(adam, inside)
        yield f"adagrad {inside}, {dtype}", functools.partial(adagrad, inside)
    for flags in itertools.product(both, both, both):
        yield f"rmsprop {flags}, {dtype}", functools.partial(rmsprop, *flags)


def _random(dtype: str) -> Iterator[Case]:
    def mask(memory: Memory) -> None:
        random_numbers.dropout_mask(memory.output((_ODD,), dtype), 0.3, (5, 7))

    yield f"dropout, {dtype}", mask


# --- sums -----------------------------------------------------------------------------------


def _reductions(dtype: str) -> Iterator[Case]:
    def channels(shape: tuple[int, ...], memory: Memory) -> None:
        partial = memory.scratch(reductions.partial_elements(shape), dtype)
        out = memory.output(shape[-1:], dtype)
        reductions.sum_channels(memory.put(numbers(shape, dtype)), out, partial)

    for shape in ((3, 5), (3, 17, 29, 5), (7, 41)):
        yield f"sum over {shape}, {dtype}", functools.partial(channels, shape)


def _softmax(dtype: str) -> Iterator[Case]:
    def rows(shape: tuple[int, int], memory: Memory) -> None:
        x, y = memory.put(numbers(shape, dtype)), memory.output(shape, dtype)
        softmax.softmax(x, y)
        softmax.softmax_backward(x, x, memory.output(shape, dtype))

    def entropy(shape: tuple[int, int], by_number: bool, memory: Memory) -> None:
        x, scale = memory.put(numbers(shape, dtype)), memory.put(numbers(shape[:1], dtype))
        chosen = np.arange(shape[0]) % shape[1]
        targets = memory.put(chosen if by_number else numbers(shape, dtype, 0.0, 1.0))
        losses, probabilities = memory.output(shape[:1], dtype), memory.output(shape, dtype)
        softmax.softmax_cross_entropy(x, targets, losses, probabilities)
        gradient = memory.output(shape, dtype)
        softmax.softmax_cross_entropy_backward(x, targets, scale, gradient)

    for shape in ((37, 7), (3, 301)):
        yield f"softmax {shape}, {dtype}", functools.partial(rows, shape)
        for by_number in (True, False):
            name = f"cross-entropy {shape} {'numbers' if by_number else 'probabilities'}, {dtype}"
            yield name, functools.partial(entropy, shape, by_number)


_LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "batch": ((3, 17, 29, 5), (0, 1, 2), (0, 1, 2), (5,)),
    "layer": ((3, 5, 7, 37), (3,), (0, 1, 2), (37,)),
    "group": ((2, 25, 27, 3, 5), (1, 2, 4), (0, 1, 2), (3, 5)),
    "instance": ((3, 23, 29, 5), (1, 2), (0, 1, 2), (5,)),
}
"""Shape of x, axes of the moments and of the parameters' sums, shape of the parameters."""


def _normalization(dtype: str) -> Iterator[Case]:
    def means(name: str, memory: Memory) -> None:
        shape, axes, _, _ = _LAYERS[name]
        mean, variance = (memory.output(_without(shape, axes), dtype) for _ in range(2))
        partial = memory.scratch(moments.moments_elements(shape, axes), dtype)
        moments.moments(memory.put(numbers(shape, dtype)), mean, variance, axes, partial)

    def forward(name: str, scaled: bool, shifted: bool, memory: Memory) -> None:
        shape, axes, _, parameters = _LAYERS[name]
        x, mean, variance = _statistics(memory, shape, axes, dtype)
        scale, offset = (memory.put(numbers(parameters, dtype)) for _ in range(2))
        y = memory.output(shape, dtype)
        given = (scale if scaled else None, offset if shifted else None)
        normalization.normalize(x, y, mean, variance, *given, 1e-3)

    def without_parameters(name: str, memory: Memory) -> None:
        # The catalogue's form: with the index of a layer's parameters that are not there.
        shape, axes, over, _ = _LAYERS[name]
        x, mean, variance = _statistics(memory, shape, axes, dtype)
        y = memory.output(shape, dtype)
        axes_of = normalization.broadcast_axes

        def broadcast_axes(operand: Any, x: Any) -> tuple[int, ...]:
            return over if operand is None else axes_of(operand, x)

        with mock.patch.object(normalization, "broadcast_axes", broadcast_axes):
            normalization.normalize(x, y, mean, variance, None, None, 1e-3)

    def backward(name: str, scaled: bool, through: bool, memory: Memory) -> None:
        shape, axes, over, parameters = _LAYERS[name]
        x, mean, variance = _statistics(memory, shape, axes, dtype)
        dy, scale = memory.put(numbers(shape, dtype)), memory.put(numbers(parameters, dtype))
        dx = memory.output(shape, dtype)
        dscale, doffset = (memory.output(_without(shape, over), dtype) for _ in range(2))
        count = normalization_backward.normalize_backward_elements(shape, axes, over, through, True)
        normalization_backward.normalize_backward(
            dy, x, mean, variance, scale if scaled else None, dx, dscale, doffset, 1e-3, axes,
            over, through, memory.scratch(count, dtype),
        )  # fmt: skip

    both = (False, True)
    for name in _LAYERS:
        yield f"moments {name}, {dtype}", functools.partial(means, name)
        run = functools.partial(without_parameters, name)
        yield f"normalize {name} without parameters, {dtype}", run
        for flags in itertools.product(both, both):
            yield f"normalize {name} {flags}, {dtype}", functools.partial(forward, name, *flags)
            if name == "batch" or flags[1]:
                run = functools.partial(backward, name, *flags)
                yield f"normalize backward {name} {flags}, {dtype}", run


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))


def _statistics(memory: Memory, shape: Any, axes: Any, dtype: str) -> tuple[Any, Any, Any]:
    smaller = _without(shape, axes)
    mean, variance = numbers(smaller, dtype), numbers(smaller, dtype, 0.5, 1.0)
    return memory.put(numbers(shape, dtype)), memory.put(mean), memory.put(variance)


# --- windows --------------------------------------------------------------------------------


def _pooling(dtype: str) -> Iterator[Case]:
    def maxima(g: PoolGeometry, with_indices: bool, memory: Memory) -> None:
        y = memory.output(g.y_shape, dtype)
        indices = memory.output(g.y_shape, "int64") if with_indices else None
        max_pooling.max_pool(memory.put(numbers(g.x_shape, dtype)), y, indices, g)

    def max_backward(g: PoolGeometry, memory: Memory) -> None:
        # The first element of the plane is in the first window; the others pass nothing on.
        indices = memory.put(np.zeros(g.y_shape, "int64"))
        dx = memory.output(g.x_shape, dtype)
        max_pooling.max_pool_backward(memory.put(numbers(g.y_shape, dtype)), indices, dx, g)

    def averages(g: PoolGeometry, memory: Memory) -> None:
        x, y = memory.put(numbers(g.x_shape, dtype)), memory.output(g.y_shape, dtype)
        avg_pooling.avg_pool(x, y, g)
        dx = memory.output(g.x_shape, dtype)
        avg_pooling.avg_pool_backward(memory.put(numbers(g.y_shape, dtype)), dx, g)

    for g in _pools():
        name = f"{g.input} by {g.window}, stride {g.stride}, dilation {g.dilation}, {dtype}"
        for with_indices in (False, True):
            run = functools.partial(maxima, g, with_indices)
            yield f"max pool {name}, {'with' if with_indices else 'no'} indices", run
        yield f"max pool backward {name}", functools.partial(max_backward, g)
        if max(g.dilation) == 1:
            yield f"average pool {name}", functools.partial(averages, g)


def _pools() -> Iterator[PoolGeometry]:
    def pool(input: Any, window: Any, stride: Any, pads: Any = 0, dilation: Any = 1) -> Any:
        rank = len(input)
        lo_hi = ((pads, pads),) * rank
        return PoolGeometry(2, 5, input, window, stride, (dilation,) * rank, lo_hi, ceil_mode=True)

    yield pool((7, 9), (2, 2), (2, 2))  # windows beside each other: read straight from memory
    yield pool((7, 11), (3, 3), (2, 1), 1)  # windows that overlap: through shared memory
    yield pool((11, 13), (2, 3), (1, 2), 1, 2) if not SIMULATED else pool((5, 7), (2, 2), (1, 2))
    yield pool((3, 5, 7), (2, 3, 2), (1, 2, 1), 1)
    yield pool((5, 7), (5, 7), (1, 1))  # the whole plane


def _padding(dtype: str) -> Iterator[Case]:
    pads = ((1, 2), (3, 0))

    def pad(mode: str, memory: Memory) -> None:
        inner, outer = (2, 4, 5, 3), (2, 7, 8, 3)
        x, y = memory.put(numbers(inner, dtype)), memory.output(outer, dtype)
        padding.pad(x, y, pads, mode)
        dy, dx = memory.put(numbers(outer, dtype)), memory.output(inner, dtype)
        padding.pad_backward(dy, dx, pads, mode)

    for mode in padding.MODES:
        yield f"pad {mode}, {dtype}", functools.partial(pad, mode)


# --- convolution ----------------------------------------------------------------------------


def conv(
    input: tuple[int, ...],
    channels: int,
    kernel: tuple[int, ...],
    filters: int,
    stride: Any = 1,
    pads: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> ConvGeometry:
    """Return a convolution of two images."""
    rank = len(input)
    strides = (stride,) * rank if isinstance(stride, int) else stride
    padding_ = ((pads, pads),) * rank
    sizes = (2, channels, filters, input, kernel, strides, (dilation,) * rank)
    return ConvGeometry(*sizes, padding_, groups)


def _direct(dtype: str) -> Iterator[Case]:
    def forward(g: ConvGeometry, kind: str | None, memory: Memory) -> None:
        x, w = memory.put(numbers(g.x_shape, dtype)), memory.put(numbers(g.w_shape, dtype))
        bias = memory.put(numbers(g.out_channels, dtype))
        y = memory.output(g.y_shape, dtype)
        direct.conv_forward(x, w, bias, y, g, kind, 0.1)

    def backward(g: ConvGeometry, memory: Memory) -> None:
        dy, w = memory.put(numbers(g.y_shape, dtype)), memory.put(numbers(g.w_shape, dtype))
        direct.conv_backward_input(dy, w, memory.output(g.x_shape, dtype), g)

    taps = [(2, 1), *itertools.product((3, 5, 7), (1, 2))]
    # One filter a thread, 16 bytes of them (whole and ragged), and eight (whole and ragged).
    widths = ((5, 5, 5), (3, 6, 1), (3, 8, 1), (3, 19, 1), (2, 24, 1))
    for (size, stride), (channels, filters, groups) in itertools.product(taps, widths):
        g = conv((6, 9), channels, (2, size), filters, (1, stride), size // 2, groups=groups)
        name = f"direct 2x{size}/{stride}, {channels}-{filters}, {groups} groups, {dtype}"
        yield name, functools.partial(forward, g, None)
    for kind in direct._FUSED:
        g = conv((5, 9), 3, (3, 3), 19)
        yield f"direct 3x3 and {kind}, {dtype}", functools.partial(forward, g, kind)
    g = conv((5, 7), 2, (2, 2), 5, 3, 0)
    yield f"direct backward 2x2/3, {dtype}", functools.partial(backward, g)
    g = conv((3, 4, 7), 4, (2, 1, 3), 4, (1, 2, 2), 1, groups=4)
    yield f"direct backward 2x1x3, depthwise, {dtype}", functools.partial(backward, g)
    g = conv((9, 8), 4, (2, 3), 6, 1, 2, 2, groups=2)
    yield f"direct, dilated, 2 groups, {dtype}", functools.partial(forward, g, "relu")


def _depthwise_gradient(dtype: str) -> Iterator[Case]:
    def run(g: ConvGeometry, splits: int, memory: Memory) -> None:
        dy, x = memory.put(numbers(g.y_shape, dtype)), memory.put(numbers(g.x_shape, dtype))
        dw = memory.output(g.w_shape, dtype)
        partial = memory.scratch(splits * dw.size, dtype)
        depthwise_gradient.conv_backward_weight(dy, x, dw, g, partial, splits)

    for size, stride in ((2, 1), *itertools.product((3, 5, 7), (1, 2))):
        g = conv((6, 11), 5, (size, size), 5, (1, stride), size // 2, groups=5)
        name = f"depthwise gradient {size}x{size}/{stride}, {dtype}"
        yield name, functools.partial(run, g, 1 + (size == 3))
    g = conv((9, 11), 6, (3, 2), 9, 2, 2, 2, groups=3)
    yield f"depthwise gradient, 2 channels a group, {dtype}", functools.partial(run, g, 2)


def _tiles(dtype: str) -> tuple[Any, ...]:
    return (tiles.SIMULATED_TILE,) if SIMULATED else tiles.tiles(dtype)


@contextlib.contextmanager
def _wide_offsets(wide: bool) -> Iterator[None]:
    """Let launchers believe that the arrays are too large for offsets of 32 bits."""
    if not wide:
        yield
        return
    with mock.patch.object(spatial.Spatial, "is_wide", return_value=True):
        yield


def _implicit_gemm(dtype: str) -> Iterator[Case]:
    def forward(
        g: ConvGeometry, tile: Any, parts: int, kind: str | None, wide: bool, memory: Memory
    ) -> None:
        x, w = memory.put(numbers(g.x_shape, dtype)), memory.put(numbers(g.w_shape, dtype))
        bias, y = memory.put(numbers(g.out_channels, dtype)), memory.output(g.y_shape, dtype)
        partial = memory.scratch(parts * y.size if parts > 1 else 0, dtype)
        with _wide_offsets(wide):
            implicit_gemm.conv_forward(x, w, bias, y, g, kind, 0.1, tile, partial, parts)

    def backward(g: ConvGeometry, tile: Any, wide: bool, memory: Memory) -> None:
        dy, w = memory.put(numbers(g.y_shape, dtype)), memory.put(numbers(g.w_shape, dtype))
        packed = memory.scratch(transpose.packed_elements(g), dtype)
        dx = memory.output(g.x_shape, dtype)
        with _wide_offsets(wide):
            implicit_gemm.conv_backward_input(dy, w, dx, g, packed, tile, None, 1)

    def product(tile: Any, memory: Memory) -> None:
        a, b = memory.put(numbers((37, 11), dtype)), memory.put(numbers((11, 13), dtype))
        c = memory.output((37, 13), dtype)
        implicit_gemm.matrix_product(a, b, c, None, None, 0.0, tile, None, 1)

    vectors = conv((5, 7), 12, (3, 3), 20)
    scalars = conv((5, 7), 10, (3, 2), 14, (2, 1), 1, 2, groups=2)  # 5 channels to 7 filters
    for tile in _tiles(dtype):
        name = f"implicit GEMM {tile}, {dtype}"
        yield f"{name}, linear", functools.partial(forward, vectors, tile, 1, None, False)
        yield f"{name}, split", functools.partial(forward, vectors, tile, 3, "relu", False)
        yield f"{name}, scalar", functools.partial(forward, scalars, tile, 1, "tanh", False)
    tile = _tiles(dtype)[0]
    name = f"implicit GEMM {tile}, {dtype}"
    for kind in ("relu", "hard_sigmoid"):
        yield f"{name}, {kind}", functools.partial(forward, vectors, tile, 1, kind, False)
    one_by_one = conv((5, 7), 5, (1, 1), 8, 1, 0)
    yield f"{name}, scalar x", functools.partial(forward, one_by_one, tile, 1, None, False)
    odd_filters = conv((3, 4, 5), 8, (2, 1, 2), 7, (1, 2, 1))
    yield f"{name}, scalar w", functools.partial(forward, odd_filters, tile, 1, None, False)
    yield f"{name}, wide", functools.partial(forward, vectors, tile, 1, None, True)
    yield (
        f"{name}, split without a function",
        functools.partial(forward, vectors, tile, 2, None, False),
    )
    for g, words in ((conv((7, 5), 8, (2, 2), 12, 3, 0), "holes"), (scalars, "groups")):
        for wide in (False, True):
            run = functools.partial(backward, g, tile, wide)
            yield f"{name}, backward, {words}{', wide' * wide}", run
    yield f"{name}, product", functools.partial(product, tile)


def _weight_gradient(dtype: str) -> Iterator[Case]:
    def run(g: ConvGeometry, tile: Any, splits: int, wide: bool, memory: Memory) -> None:
        dy, x = memory.put(numbers(g.y_shape, dtype)), memory.put(numbers(g.x_shape, dtype))
        dw = memory.output(g.w_shape, dtype)
        partial = memory.scratch(splits * dw.size if splits > 1 else 0, dtype)
        with _wide_offsets(wide):
            weight_gradient.conv_backward_weight(dy, x, dw, g, partial, tile, splits)

    def product(tile: Any, memory: Memory) -> None:
        a, b = memory.put(numbers((11, 37), dtype)), memory.put(numbers((11, 13), dtype))
        weight_gradient.product_transposed(a, b, memory.output((37, 13), dtype), None, tile, 1)

    vectors = conv((5, 7), 12, (3, 3), 20)
    scalars = conv((5, 7), 10, (3, 2), 14, (2, 1), 1, 2, groups=2)
    for tile in _tiles(dtype):
        name = f"weight gradient {tile}, {dtype}"
        yield f"{name}, split", functools.partial(run, vectors, tile, 2, False)
        yield f"{name}, scalar", functools.partial(run, scalars, tile, 1, False)
    tile = _tiles(dtype)[0]
    name = f"weight gradient {tile}, {dtype}"
    scalar_x, scalar_dy = conv((5, 7), 5, (2, 2), 8), conv((3, 4, 5), 8, (2, 1, 2), 7, (1, 2, 1))
    yield f"{name}, scalar x", functools.partial(run, scalar_x, tile, 1, False)
    yield f"{name}, scalar dy", functools.partial(run, scalar_dy, tile, 1, False)
    yield f"{name}, wide", functools.partial(run, vectors, tile, 1, True)
    yield f"{name}, product", functools.partial(product, tile)


def _transpose(dtype: str) -> Iterator[Case]:
    def run(wide: bool, memory: Memory) -> None:
        a, out = memory.put(numbers((37, 45), dtype)), memory.output((45, 37), dtype)
        transpose.transpose(_SaidToBeLarge(a) if wide else a, out)

    for wide in (False, True):
        yield f"transpose{', wide' * wide}, {dtype}", functools.partial(run, wide)


class _SaidToBeLarge:
    """An array that says that it has more elements than it has."""

    size = 2**31

    def __init__(self, array: Any) -> None:
        self._array = array

    def __getattr__(self, name: str) -> Any:
        if name == "host":  # what the simulator's launcher asks for
            return self._array
        return getattr(self._array, name)


FAMILIES: dict[str, Callable[[str], Iterator[Case]]] = {
    "activations": _activations,
    "direct": _direct,
    "depthwise gradient": _depthwise_gradient,
    "implicit GEMM": _implicit_gemm,
    "weight gradient": _weight_gradient,
    "pooling": _pooling,
    "normalization": _normalization,
    "padding": _padding,
    "random numbers": _random,
    "reductions": _reductions,
    "softmax": _softmax,
    "transpose": _transpose,
    "updates": _updates,
}
"""By what they launch."""
