"""How long the algorithms should take on a GPU, and why: predictions for the dispatcher.

Pure functions of a device's profile, a geometry and the sizes of tiles; nothing is run. Each is a
roofline (Williams et al. 2009, "Roofline: an insightful visual performance model"): the slower
one of arithmetic and memory, plus launches. Arithmetic counts in whole tiles, and tiles in whole
rounds over the multiprocessors, since that is what decides for small problems::

    seconds = launches + max(arithmetic of the fullest multiprocessor, L2 traffic, memory traffic)

The constants below are estimates for hand-written and vendor kernels in general. They decide
between algorithms that are far apart; what is close is what ``gpuconv.config.autotune`` is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpuconv.backends.device_profile import DeviceProfile
from gpuconv.backends.units import in_bytes
from gpuconv.geometry import ConvGeometry, PoolGeometry

_TILED, _VENDOR = 0.85, 0.95
"""Fractions of the peak that an endless tile would reach in a kernel of ours, in cuBLAS."""
_STAGING = 8.0
"""How much reading a step's operands from shared memory weighs against its multiply-adds."""
_SCALAR_LOADS = 0.75
"""What is left of the rate where numbers are loaded one by one instead of 16 bytes at a time."""
_DIRECT, _DEPTHWISE = 0.35, 0.25
"""Fractions of the peak of kernels that keep few results a thread in registers."""
_STREAMING = 0.85
"""Fraction of the memory's bandwidth that a kernel reaches that only reads and writes."""
_L2_SPEED = 2.5
"""Bandwidth of the L2 cache over that of the memory."""
_VENDOR_TILES = ((128, 128, 8), (128, 64, 8), (64, 64, 8), (32, 32, 8))
_VENDOR_SPLITS = (1, 2, 4, 8, 16)
_LEAST_DEPTH = 128
"""Steps along the reduction below which nobody splits it further."""


class Estimate(NamedTuple):
    """Predicted seconds, and the reasons in words."""

    seconds: float
    words: str


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product (rows, depth) @ (depth, columns), ``groups`` times.

    Attributes:
        run: length of the pieces of ``depth`` that are contiguous; a tile's step stays within one.
    """

    rows: int
    columns: int
    depth: int
    run: int
    groups: int


def products(op: str, g: ConvGeometry) -> tuple[Product, ...]:
    """Return the matrix products that an operation amounts to, one for each sub-pixel phase.

    Forward multiplies pixels (N*out, taps*C/g) and weights (taps*C/g, F/g); backward_input is a
    forward of ``dy`` for each phase; backward_weight multiplies (taps*C/g, N*out) and (N*out, F/g).
    """
    if op == "conv_backward_input":
        inner = (phase.geometry for phase in g.backward_input_phases)
        return tuple(p for phase in inner if phase for p in products("conv_forward", phase))
    pixels = g.batch * math.prod(g.output)
    per_group = g.in_channels // g.groups
    filters = g.out_channels // g.groups
    if op == "conv_backward_weight":
        return (Product(g.reduction, filters, pixels, max(pixels, 1), g.groups),)
    return (Product(pixels, filters, g.reduction, per_group, g.groups),)


def column_bytes(op: str, g: ConvGeometry, dtype: str) -> int:
    """Return the size of the whole column matrix of im2col, (positions, taps * channels)."""
    if op == "conv_backward_weight":
        op = "conv_forward"
    return sum(p.rows * p.depth * p.groups for p in products(op, g)) * itemsize(dtype)


def itemsize(dtype: str) -> int:
    """Bytes of a number of ``"float32"`` or ``"float64"``."""
    return 8 if dtype == "float64" else 4


# --- convolution ----------------------------------------------------------------------


def implicit_gemm(
    profile: DeviceProfile,
    op: str,
    g: ConvGeometry,
    dtype: str,
    tile: tuple[int, int, int],
    splits: int = 1,
    aligned: bool | None = None,
    launches: int | None = None,
    efficiency: float | None = None,
) -> Estimate:
    """A tiled matrix product that gathers its operands from the tensors themselves.

    Args:
        profile: of the device.
        op: ``"conv_forward"``, ``"conv_backward_input"`` or ``"conv_backward_weight"``.
        g: the convolution.
        dtype: ``"float32"`` or ``"float64"``.
        tile: rows, columns and step along the reduction of one block.
        splits: parts of the reduction that are summed by blocks of their own, and then together.
        aligned: whether operands are loaded 16 bytes at a time; None: if the channels allow it.
        launches: of the product; None: one for each sub-pixel phase.
        efficiency: fraction of the peak that a full grid of such tiles reaches with 16-byte
            loads; None: estimated from the tile's shape.
    """
    work = products(op, g)
    if aligned is None:
        aligned = all(_is_vector(p, op, dtype) for p in work)
    rate = _tile_rate(_TILED, tile) if efficiency is None else efficiency
    rate *= 1.0 if aligned else _SCALAR_LOADS
    seconds, tiles = _tiled(profile, dtype, work, tile, splits, rate, profile.flops(dtype))
    seconds = max(seconds, _streaming(profile, _tensor_bytes(g, dtype)))
    count = max(len(work), 1) if launches is None else launches
    if splits > 1:
        partial = sum(p.rows * p.columns * p.groups for p in work) * splits * itemsize(dtype)
        seconds += 2 * _streaming(profile, partial)
        count += 1
    parts = [
        f"implicit GEMM: {_described(op, g)}",
        _channel_words(op, g, dtype, aligned, tile[2]),
        _filling(profile, tiles, f"{tile[0]}x{tile[1]}", splits),
    ]
    if not g.is_pointwise:
        columns = in_bytes(column_bytes(op, g, dtype))
        parts[-1] += f"; im2col would write {columns} of columns"
    return Estimate(seconds + count * profile.launch_seconds, ", ".join(parts))


def direct(
    profile: DeviceProfile,
    op: str,
    g: ConvGeometry,
    dtype: str,
    tile: Sequence[int],
    launches: int = 1,
) -> Estimate:
    """A convolution as it is written, from a tile of the input and its halo in shared memory.

    Args:
        profile, op, g, dtype: as for :func:`implicit_gemm`.
        tile: extents of a block's output positions, one for each spatial dimension.
        launches: of kernels.
    """
    halo = _halo(g, tile)
    blocks = g.batch * _tile_count(g.output, tile)
    busy = min(1.0, blocks / profile.multiprocessors) if blocks else 1.0
    rate = _DEPTHWISE if g.is_depthwise else _DIRECT
    arithmetic = g.flops / (profile.flops(dtype) * rate * busy)
    x, w, y = _sizes(g, dtype)
    memory = _streaming(profile, x * halo + w + y) / max(busy, 0.1)
    seconds = max(arithmetic, memory) + launches * profile.launch_seconds
    if g.is_depthwise:
        why = f"depthwise, {g.in_channels} channels: one input channel a filter, nothing to share"
    else:
        channels = g.in_channels // g.groups
        number = "1 input channel" if channels == 1 else f"{channels} input channels"
        a_group = " a group" if g.groups > 1 else ""
        why = f"{number}{a_group}: too few for a matrix product"
    shape = "x".join(map(str, tile))
    return Estimate(
        seconds,
        f"direct: {_described(op, g)}, {why}; tiles of {shape} with their halo in shared memory "
        f"read the input {halo:.2f} times",
    )


def im2col_gemm(
    profile: DeviceProfile, op: str, g: ConvGeometry, dtype: str, chunks: int = 1
) -> Estimate:
    """Windows copied side by side into a column matrix, and the vendor's matrix product.

    Args:
        profile, op, g, dtype: as for :func:`implicit_gemm`.
        chunks: parts in which the column matrix is made, each with two launches.
    """
    work = [_part(p, chunks, op) for p in products(op, g)]
    columns = column_bytes(op, g, dtype)
    product = chunks * sum(_vendor(profile, dtype, p) for p in work)
    # A chunk that fits into the L2 is read back from there.
    fits = 0 < columns / chunks <= profile.l2_bytes / 2
    reading = _streaming(profile, columns) / (_L2_SPEED if fits else 1.0)
    seconds = _streaming(profile, _sizes(g, dtype)[0]) + _streaming(profile, columns)
    seconds += max(product, reading) + 2 * chunks * max(len(work), 1) * profile.launch_seconds
    parts = "at once" if chunks == 1 else f"in {chunks} chunks"
    batched = f" as a batch of {g.groups}" if g.groups > 1 else ""
    return Estimate(
        seconds,
        f"im2col and GEMM: {_described(op, g)}, {in_bytes(columns)} of columns written and read "
        f"{parts}, {_product_words(work)}{batched}",
    )


def pointwise_gemm(profile: DeviceProfile, op: str, g: ConvGeometry, dtype: str) -> Estimate:
    """1x1 without stride: the vendor's matrix product of the pixels as they lie."""
    work = products(op, g)
    seconds = sum(_vendor(profile, dtype, p) for p in work)
    seconds = max(seconds, _streaming(profile, _tensor_bytes(g, dtype)))
    return Estimate(
        seconds + profile.launch_seconds,
        f"GEMM: {_described(op, g)}, the pixels are the column matrix already, "
        f"{_product_words(work)}",
    )


def col2im(profile: DeviceProfile, g: ConvGeometry, dtype: str, chunks: int = 1) -> Estimate:
    """backward_input as ``dy @ w^T`` into columns, which each input element then gathers.

    Args:
        profile, g, dtype: as for :func:`implicit_gemm`.
        chunks: parts in which the column matrix is made, each with two launches.
    """
    pixels = g.batch * math.prod(g.output)
    filters = g.out_channels // g.groups
    whole = Product(pixels, g.reduction, filters, filters, g.groups)
    part = _part(whole, chunks, "conv_forward")
    columns = pixels * g.reduction * g.groups * itemsize(dtype)
    # The product writes the columns; the gather reads them, from the L2 if a chunk fits there.
    fits = 0 < columns / chunks <= profile.l2_bytes / 2
    seconds = chunks * _vendor(profile, dtype, part) + 2 * chunks * profile.launch_seconds
    seconds += _streaming(profile, columns) / (_L2_SPEED if fits else 1.0)
    seconds += _streaming(profile, _sizes(g, dtype)[0])
    parts = "at once" if chunks == 1 else f"in {chunks} chunks"
    return Estimate(
        seconds,
        f"GEMM and col2im: {_described('conv_backward_input', g)}, {in_bytes(columns)} of columns "
        f"written and gathered {parts}, {_product_words([part])}",
    )


# --- pooling --------------------------------------------------------------------------


def pooling(
    profile: DeviceProfile,
    op: str,
    g: PoolGeometry,
    dtype: str,
    tile: Sequence[int] | None = None,
    index_bytes: int = 8,
    passes: int = 1,
) -> Estimate:
    """Any pooling or its gradient: what it reads and writes.

    Args:
        profile, dtype: as for :func:`implicit_gemm`.
        op: ``"max_pool"``, ``"max_pool_backward"``, ``"avg_pool"``, ``"avg_pool_backward"``.
        g: the pooling.
        tile: extents of a block's output positions, where windows are read from shared memory;
            None: windows that overlap read the caches again.
        index_bytes: bytes of an index of a maximum; 0 where none is written.
        passes: kernels one after another, each of which reads and writes everything.
    """
    size = itemsize(dtype)
    x = math.prod(g.x_shape) * size
    y = math.prod(g.y_shape) * (size + (index_bytes if op.startswith("max") else 0))
    pairs = zip(g.window, g.stride, strict=True)
    overlap = 1.0 if g.is_global else math.prod(max(1.0, k / s) for k, s in pairs)
    once = tile is not None or overlap == 1
    # Repeated reads come from the L2: of the input when pooling, of dy in the gradients.
    again = 0.0 if once else (overlap - 1) * (y if op.endswith("backward") else x) / _L2_SPEED
    seconds = passes * (_streaming(profile, x + y + again) + profile.launch_seconds)
    window = "x".join(map(str, g.window))
    if g.is_global:
        how = "one window covers the whole input"
    elif overlap == 1:
        how = "windows do not overlap"
    elif once:
        how = "windows overlap and are read from a tile in shared memory"
    else:
        how = f"windows overlap and read each element {overlap:.1f} times through the caches"
    stride = "x".join(map(str, g.stride))
    return Estimate(
        seconds,
        f"{window} window, stride {stride}, {g.channels} channels: {in_bytes(passes * (x + y))} "
        f"of memory traffic; {how}",
    )


# --- parts ----------------------------------------------------------------------------


def _tiled(
    profile: DeviceProfile,
    dtype: str,
    work: Iterable[Product],
    tile: tuple[int, int, int],
    splits: int,
    rate: float,
    peak: float,
) -> tuple[float, int]:
    """Seconds of tiled products one after another, and the number of their tiles."""
    rows, columns, step = tile
    seconds, total = 0.0, 0
    for p in work:
        tiles = _up(p.rows, rows) * _up(p.columns, columns) * p.groups * splits
        # The last step of every run is padded with zeros.
        depth = _up(_up(p.run, step) * (p.depth // max(p.run, 1)), splits) * step
        rounds = _up(tiles, profile.multiprocessors)
        # Small tiles leave a multiprocessor idle unless it holds several.
        hidden = min(1.0, math.sqrt(rows * columns * min(max(rounds, 1), 4) / 4096))
        flops = 2.0 * rows * columns * depth * rounds
        arithmetic = flops / (peak / profile.multiprocessors * rate * hidden)
        staged = tiles * (rows + columns) * depth * itemsize(dtype)
        seconds += max(arithmetic, staged / (_L2_SPEED * profile.bandwidth))
        total += tiles
    return seconds, total


def _tile_rate(endless: float, tile: tuple[int, int, int]) -> float:
    """Fraction of the peak that tiles reach: the larger, the fewer reads for each multiply-add."""
    intensity = tile[0] * tile[1] / (tile[0] + tile[1])
    return endless * intensity / (intensity + _STAGING)


def _vendor(profile: DeviceProfile, dtype: str, p: Product) -> float:
    """Seconds of the vendor's product, which picks its tile and splits the reduction itself."""
    size = itemsize(dtype)
    result = p.rows * p.columns * p.groups * size
    best = math.inf
    for tile in _VENDOR_TILES:
        for splits in _VENDOR_SPLITS:
            if splits > 1 and p.depth < splits * _LEAST_DEPTH:
                break
            whole = Product(p.rows, p.columns, p.depth, max(p.depth, 1), p.groups)
            rate, peak = _tile_rate(_VENDOR, tile), profile.gemm_flops(dtype)
            seconds, _ = _tiled(profile, dtype, [whole], tile, splits, rate, peak)
            if splits > 1:
                seconds += 2 * _streaming(profile, splits * result) + profile.launch_seconds
            best = min(best, seconds)
    operands = (p.rows + p.columns) * p.depth * p.groups * size
    return max(best, _streaming(profile, operands + result))


def _part(p: Product, chunks: int, op: str) -> Product:
    """One chunk of a product: some of the pixels, which are rows, or the depth for the weights."""
    if op == "conv_backward_weight":
        depth = _up(p.depth, chunks)
        return Product(p.rows, p.columns, depth, max(depth, 1), p.groups)
    return Product(_up(p.rows, chunks), p.columns, p.depth, p.run, p.groups)


def _streaming(profile: DeviceProfile, count: float) -> float:
    return count / (profile.bandwidth * _STREAMING)


def _sizes(g: ConvGeometry, dtype: str) -> tuple[int, int, int]:
    size = itemsize(dtype)
    return (
        math.prod(g.x_shape) * size,
        math.prod(g.w_shape) * size,
        math.prod(g.y_shape) * size,
    )


def _tensor_bytes(g: ConvGeometry, dtype: str) -> int:
    return sum(_sizes(g, dtype))


def _is_vector(p: Product, op: str, dtype: str) -> bool:
    """Whether both operands can be loaded 16 bytes at a time."""
    lanes = 16 // itemsize(dtype)
    along = p.rows if op == "conv_backward_weight" else p.run  # the contiguous axis of the left one
    return along % lanes == 0 and p.columns % lanes == 0


def _halo(g: ConvGeometry, tile: Sequence[int]) -> float:
    """How often an input element is read, by the tiles whose halos hold it."""
    times = 1.0
    for t, k, s, d, i, o in zip(
        tile, g.kernel, g.stride, g.dilation, g.input, g.output, strict=True
    ):
        t = min(t, o)
        read = _up(o, t) * ((t - 1) * s + d * (k - 1) + 1)
        times *= max(read / max(i, 1), 1.0)
    return times


def _tile_count(extents: Sequence[int], tile: Sequence[int]) -> int:
    return math.prod(_up(e, t) for e, t in zip(extents, tile, strict=True))


def _up(a: int, b: int) -> int:
    return -(-a // b)


# --- words ----------------------------------------------------------------------------


def _described(op: str, g: ConvGeometry) -> str:
    words = "x".join(map(str, g.kernel))
    if max(g.stride) > 1:
        words += f" stride {'x'.join(map(str, g.stride))}"
        phases = len(products(op, g)) if op == "conv_backward_input" else 0
        if phases > 1:
            words += f" in {phases} sub-pixel phases"
    if max(g.dilation) > 1:
        words += f" dilation {'x'.join(map(str, g.dilation))}"
    if g.groups > 1 and not g.is_depthwise:
        words += f", {g.groups} groups"
    return words


def _channel_words(op: str, g: ConvGeometry, dtype: str, aligned: bool, step: int) -> str:
    """Say which channels are read along the reduction, and whether they can be as vectors."""
    channels = g.out_channels if op == "conv_backward_input" else g.in_channels
    channels //= g.groups
    lanes = 16 // itemsize(dtype)
    a_group = " a group" if g.groups > 1 else ""
    if aligned:
        words = f"a multiple of {lanes}: 16-byte loads"
    elif channels % lanes:
        words = f"not a multiple of {lanes}: loads one by one"
    else:
        words = "loads one by one"
    rest = channels % step
    if rest and op != "conv_backward_weight":
        words += f"; {step - rest} of {_up(channels, step) * step} steps a tap are padding"
    return f"{channels} channels{a_group} ({words})"


def _filling(profile: DeviceProfile, tiles: int, shape: str, splits: int) -> str:
    several = profile.multiprocessors
    split = f", the reduction in {splits} parts," if splits > 1 else ""
    if tiles < several:
        number = "1 tile" if tiles == 1 else f"{tiles} tiles"
        return f"{number} of {shape}{split} for {several} multiprocessors"
    times = f"{tiles / several:.1f} times"
    return f"{tiles} tiles of {shape}{split} fill {several} multiprocessors {times}"


def _product_words(work: Sequence[Product]) -> str:
    if not work:
        return "no product"
    first = work[0]
    more = f" and {len(work) - 1} more" if len(work) > 1 else ""
    return f"product ({first.rows}, {first.depth}) @ ({first.depth}, {first.columns}){more}"
