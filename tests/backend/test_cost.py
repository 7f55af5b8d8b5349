"""Predicted times: against hand-computed ones, never below the roofline, rising with the work."""

from __future__ import annotations

import dataclasses
import math

import pytest
from devices import H200, RTX_4090, T4, square

from gpuconv.backends import cost
from gpuconv.backends.device_profile import SIMULATOR, DeviceProfile
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.ops import conv, pooling
from gpuconv.testing.cases import CONV_CASES, MAX_POOL_CASES

OPS = ("conv_forward", "conv_backward_input", "conv_backward_weight")
TILE = (128, 64, 8)
# Ten multiprocessors of 1 GFLOP/s each, memory that is never the limit, launches for nothing.
PLAIN = DeviceProfile("plain", (7, 5), 10, 1e10, 5e9, 1e18, 2**20, 2**30, launch_seconds=0.0)


def pixels(count: int, channels: int = 64, filters: int = 64) -> ConvGeometry:
    """A 1x1 convolution of so many pixels: a matrix product (count, channels) @ (., filters)."""
    return ConvGeometry(1, channels, filters, (1, count), (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))


def gemm_seconds(g: ConvGeometry, tile=TILE, dtype="float32", profile=PLAIN, **options) -> float:
    return cost.implicit_gemm(profile, "conv_forward", g, dtype, tile, **options).seconds


# --- the matrix products behind an operation --------------------------------------------------


def test_forward_multiplies_pixels_and_weights():
    g = square(2, 8, 12, 9, 3, stride=2, groups=4)
    assert cost.products("conv_forward", g) == (cost.Product(2 * 25, 3, 9 * 2, 2, 4),)


def test_backward_weight_reduces_over_the_pixels():
    g = square(2, 8, 12, 9, 3, stride=2, groups=4)
    assert cost.products("conv_backward_weight", g) == (cost.Product(9 * 2, 3, 50, 50, 4),)


def test_backward_input_is_a_product_for_each_phase():
    g = square(2, 8, 12, 9, 3, stride=2)
    # Padded by 1, even positions of dx are reached by one tap a dimension, odd ones by two.
    expected = {(2 * 25, 1), (2 * 20, 2), (2 * 16, 4)}
    found = cost.products("conv_backward_input", g)
    assert len(found) == 4
    assert {(p.rows, p.depth // 12) for p in found} == expected
    assert {(p.columns, p.run, p.groups) for p in found} == {(8, 12, 1)}


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_weight"])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_products_do_all_the_arithmetic(op, case):
    g = conv.problem_of(case.rank, case.x_shape, case.w_shape, **case.options).geometry
    total = sum(2 * p.rows * p.columns * p.depth * p.groups for p in cost.products(op, g))
    assert total == g.flops


def test_the_size_of_the_columns():
    g = square(32, 64, 64, 56, 3)
    for op in OPS:
        assert cost.column_bytes(op, g, "float32") == 32 * 56 * 56 * 9 * 64 * 4
    assert cost.column_bytes("conv_forward", g, "float64") == 32 * 56 * 56 * 9 * 64 * 8


# --- tiles ------------------------------------------------------------------------------------


def test_the_time_of_full_rounds_by_hand():
    # 10 tiles of 128x64 on 10 multiprocessors: each does 2*128*64*64 operations at 0.5 GFLOP/s.
    once = gemm_seconds(pixels(1280), efficiency=0.5)
    assert once == pytest.approx(2 * 128 * 64 * 64 / (1e9 * 0.5))
    assert gemm_seconds(pixels(1281), efficiency=0.5) == pytest.approx(2 * once)
    assert gemm_seconds(pixels(2560), efficiency=0.5) == pytest.approx(2 * once)
    assert gemm_seconds(pixels(2561), efficiency=0.5) == pytest.approx(3 * once)
    # A tile that is hardly used costs as much as a full one.
    assert gemm_seconds(pixels(1), efficiency=0.5) == pytest.approx(once)


@pytest.mark.parametrize(("channels", "steps"), [(64, 64), (65, 72), (71, 72), (72, 72), (73, 80)])
def test_a_step_that_is_not_full_is_padded(channels, steps):
    full = gemm_seconds(pixels(1280), efficiency=1.0, aligned=True)
    taken = gemm_seconds(pixels(1280, channels), efficiency=1.0, aligned=True)
    assert taken / full == pytest.approx(steps / 64)


def test_padding_happens_in_every_tap():
    g = square(1, 3, 64, 128, 3)
    few = gemm_seconds(g, aligned=True)
    eight = gemm_seconds(dataclasses.replace(g, in_channels=8), aligned=True)
    assert few == pytest.approx(eight)


def test_channels_decide_about_alignment():
    for op, channels, filters, dtype, aligned in [
        ("conv_forward", 64, 64, "float32", True),
        ("conv_forward", 62, 64, "float32", False),
        ("conv_forward", 62, 64, "float64", True),
        ("conv_forward", 64, 62, "float32", False),
        ("conv_backward_weight", 63, 64, "float32", False),
        ("conv_backward_input", 62, 64, "float32", False),
    ]:
        g = square(4, channels, filters, 14, 3)
        found, yes, no = (
            cost.implicit_gemm(T4, op, g, dtype, TILE, aligned=a) for a in (None, True, False)
        )
        assert found == (yes if aligned else no)
        assert yes.seconds < no.seconds
        assert "16-byte loads" in yes.words
        assert "loads one by one" in no.words


def test_larger_tiles_are_faster_where_they_fill_the_device():
    big, small = square(64, 128, 128, 56, 3), square(1, 128, 128, 7, 3)
    tiles = [(128, 128, 8), (64, 64, 8), (32, 32, 8)]
    times = [gemm_seconds(big, tile, profile=H200) for tile in tiles]
    assert times == sorted(times)
    times = [gemm_seconds(small, tile, profile=H200) for tile in tiles]
    assert times == sorted(times, reverse=True)


def test_splitting_a_long_reduction_fills_the_device():
    g = square(32, 64, 64, 56, 3)
    times = [
        cost.implicit_gemm(H200, "conv_backward_weight", g, "float32", TILE, splits).seconds
        for splits in (1, 4, 16)
    ]
    assert times == sorted(times, reverse=True)
    assert times[2] < times[0] / 8


def test_each_phase_is_launched():
    g = square(1, 8, 8, 8, 2, stride=2, pad=0)
    several, one = (
        cost.implicit_gemm(H200, "conv_backward_input", g, "float32", TILE, launches=launches)
        for launches in (None, 1)
    )
    assert several.seconds - one.seconds == pytest.approx(3 * H200.launch_seconds)


# --- against each other -----------------------------------------------------------------------


def test_float64_is_slow_where_the_device_is():
    g = square(32, 64, 64, 56, 3)
    ratio = gemm_seconds(g, dtype="float64", profile=T4) / gemm_seconds(g, profile=T4)
    assert ratio == pytest.approx(8.1 / 0.254, rel=0.05)
    ratio = gemm_seconds(g, dtype="float64", profile=H200) / gemm_seconds(g, profile=H200)
    assert 1.5 < ratio < 2.5


def test_chunks_cost_launches():
    g = square(8, 64, 64, 28, 3)
    times = [cost.im2col_gemm(H200, "conv_forward", g, "float32", n).seconds for n in (1, 8, 64)]
    assert times == sorted(times)
    assert times[2] - times[0] >= 2 * 63 * H200.launch_seconds * 0.9


def test_the_columns_cost_more_than_their_product_is_worth():
    g = square(32, 64, 64, 56, 3)
    columns = 32 * 56 * 56 * 576 * 4
    for profile in (H200, T4, RTX_4090):
        with_columns = cost.im2col_gemm(profile, "conv_forward", g, "float32").seconds
        alone = cost.pointwise_gemm(profile, "conv_forward", g, "float32").seconds
        assert with_columns - alone >= columns / profile.bandwidth


def test_depthwise_is_for_the_direct_kernel():
    g = square(32, 128, 128, 56, 3, groups=128)
    for profile in (H200, T4, RTX_4090):
        direct = cost.direct(profile, "conv_forward", g, "float32", (8, 16)).seconds
        assert direct < cost.im2col_gemm(profile, "conv_forward", g, "float32").seconds / 4
        assert direct < gemm_seconds(g, profile=profile) / 4


def test_the_halo_by_hand():
    # Tiles of 8x8 read 10x10: seven of them a dimension for 56.
    g = square(1, 4, 4, 56, 3)
    words = cost.direct(H200, "conv_forward", g, "float32", (8, 8)).words
    assert f"read the input {(70 / 56) ** 2:.2f} times" in words
    whole = cost.direct(H200, "conv_forward", g, "float32", (56, 56)).words
    assert f"read the input {(58 / 56) ** 2:.2f} times" in whole


def test_pooling_is_memory_traffic():
    g = PoolGeometry(32, 64, (112, 112), (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)))
    x, y = 32 * 64 * 112 * 112 * 4, 32 * 64 * 56 * 56 * 4
    seconds, words = cost.pooling(H200, "avg_pool", g, "float32")
    assert seconds == pytest.approx((x + y) / 4.8e12 / 0.85 + H200.launch_seconds)
    assert "2x2 window, stride 2x2, 64 channels: 122.5 MiB of memory traffic" in words
    assert "do not overlap" in words
    indices = cost.pooling(H200, "max_pool", g, "float32").seconds - seconds
    assert indices == pytest.approx(2 * y / 4.8e12 / 0.85)
    overlapping = dataclasses.replace(g, window=(3, 3), pads=((1, 1), (1, 1)))
    tiled = cost.pooling(H200, "max_pool", overlapping, "float32", tile=(8, 8))
    cached = cost.pooling(H200, "max_pool", overlapping, "float32")
    assert tiled.seconds < cached.seconds
    assert "read from a tile in shared memory" in tiled.words
    assert "2.2 times through the caches" in cached.words


# --- everywhere -------------------------------------------------------------------------------


def estimates(profile, op, g, dtype):
    yield cost.implicit_gemm(profile, op, g, dtype, TILE)
    yield cost.implicit_gemm(profile, op, g, dtype, (32, 32, 4), splits=4, launches=1)
    yield cost.direct(profile, op, g, dtype, (4,) * g.rank)
    yield cost.im2col_gemm(profile, op, g, dtype)
    yield cost.im2col_gemm(profile, op, g, dtype, chunks=3)
    yield cost.pointwise_gemm(profile, op, g, dtype)
    if op == "conv_backward_input":
        yield cost.col2im(profile, g, dtype, chunks=2)


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_every_convolution_has_a_finite_time(case):
    g = conv.problem_of(case.rank, case.x_shape, case.w_shape, **case.options).geometry
    for profile in (H200, T4, SIMULATOR):
        for op in OPS:
            for dtype in ("float32", "float64"):
                for seconds, words in estimates(profile, op, g, dtype):
                    assert math.isfinite(seconds)
                    assert seconds >= profile.launch_seconds
                    assert words


@pytest.mark.parametrize("case", MAX_POOL_CASES, ids=str)
def test_every_pooling_has_a_finite_time(case):
    g = pooling.geometry_of(case.rank, case.x_shape, **case.options)
    for op in ("max_pool", "max_pool_backward"):
        seconds, words = cost.pooling(H200, op, g, "float32")
        assert H200.launch_seconds <= seconds < math.inf
        assert words


@pytest.mark.parametrize("profile", [H200, T4, RTX_4090], ids=lambda p: p.name)
@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_weight"])
def test_nothing_is_faster_than_the_device(profile, op):
    for g in (square(32, 64, 64, 56, 3), square(1, 512, 512, 7, 3), square(32, 3, 64, 224, 7, 2)):
        for dtype in ("float32", "float64"):
            size = 8 if dtype == "float64" else 4
            moved = size * (math.prod(g.x_shape) + math.prod(g.y_shape) + math.prod(g.w_shape))
            for seconds, _ in estimates(profile, op, g, dtype):
                assert seconds > g.flops / profile.gemm_flops(dtype)
                assert seconds > moved / profile.bandwidth


def test_an_empty_batch_costs_its_launches():
    g = square(0, 8, 8, 9, 3)
    assert gemm_seconds(g, profile=H200) < 2 * H200.launch_seconds


# --- words ------------------------------------------------------------------------------------


def test_the_reasons_in_words():
    g = square(32, 64, 64, 56, 3)
    assert cost.implicit_gemm(H200, "conv_forward", g, "float32", TILE).words == (
        "implicit GEMM: 3x3, 64 channels (a multiple of 4: 16-byte loads), 784 tiles of 128x64 "
        "fill 132 multiprocessors 5.9 times; im2col would write 220.5 MiB of columns"
    )
    assert cost.im2col_gemm(H200, "conv_forward", g, "float32", 3).words == (
        "im2col and GEMM: 3x3, 220.5 MiB of columns written and read in 3 chunks, "
        "product (33451, 576) @ (576, 64)"
    )
    assert cost.col2im(H200, g, "float32").words == (
        "GEMM and col2im: 3x3, 220.5 MiB of columns written and gathered at once, "
        "product (100352, 64) @ (64, 576)"
    )
    pointwise = square(32, 256, 64, 56, 1)
    assert cost.pointwise_gemm(H200, "conv_forward", pointwise, "float32").words == (
        "GEMM: 1x1, the pixels are the column matrix already, product (100352, 256) @ (256, 64)"
    )
    words = cost.implicit_gemm(H200, "conv_forward", pointwise, "float32", TILE).words
    assert "im2col" not in words
    stem = square(32, 3, 64, 224, 7, stride=2)
    assert cost.direct(H200, "conv_forward", stem, "float32", (8, 16)).words == (
        "direct: 7x7 stride 2x2, 3 input channels: too few for a matrix product; tiles of 8x16 "
        "with their halo in shared memory read the input 1.52 times"
    )
    assert cost.implicit_gemm(H200, "conv_backward_input", stem, "float64", TILE).words == (
        "implicit GEMM: 7x7 stride 2x2 in 4 sub-pixel phases, 64 channels (loads one by one), "
        "12544 tiles of 128x64 fill 132 multiprocessors 95.0 times; im2col would write 9.4 GiB of "
        "columns"
    )
    odd = square(1, 6, 4, 9, 3, dilation=2, groups=2)
    assert cost.implicit_gemm(H200, "conv_forward", odd, "float32", TILE).words == (
        "implicit GEMM: 3x3 dilation 2x2, 2 groups, 3 channels a group (not a multiple of 4: loads "
        "one by one; 5 of 8 steps a tap are padding), 2 tiles of 128x64 for 132 multiprocessors; "
        "im2col would write 10.3 KiB of columns"
    )
    weights = cost.implicit_gemm(H200, "conv_backward_weight", g, "float32", TILE, splits=8).words
    assert "40 tiles of 128x64, the reduction in 8 parts, for 132 multiprocessors" in weights
    depthwise = square(2, 8, 8, 9, 3, groups=8)
    words = cost.direct(H200, "conv_forward", depthwise, "float32", (9, 9)).words
    assert words.startswith("direct: 3x3, depthwise, 8 channels: one input channel a filter")
