"""Integers only: extents, pads, phases and divisors, counted a second time position by position."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import (
    PADDING_MODES,
    ConvGeometry,
    PoolGeometry,
    as_extents,
    as_int,
    as_open_shape,
    as_tuple,
    entries_of,
    resolve_padding,
    same_pads,
)
from gpuconv.geometry.padding import explicit_pads, torch_same_pads
from gpuconv.geometry.transposed import (
    check_output_padding,
    check_transposed_padding,
    transposed_extents,
)

extent, small, pad = st.integers(1, 12), st.integers(1, 4), st.integers(0, 4)


def conv(**changes: Any) -> ConvGeometry:
    values: dict[str, Any] = {
        "batch": 2,
        "in_channels": 3,
        "out_channels": 4,
        "input": (7, 5),
        "kernel": (3, 2),
        "stride": (2, 1),
        "dilation": (1, 2),
        "pads": ((1, 0), (0, 2)),
        **changes,
    }
    return ConvGeometry(**values)


def pool(**changes: Any) -> PoolGeometry:
    values: dict[str, Any] = {
        "batch": 2,
        "channels": 3,
        "input": (7, 5),
        "window": (3, 2),
        "stride": (2, 2),
        "dilation": (1, 1),
        "pads": ((0, 0), (0, 0)),
        **changes,
    }
    return PoolGeometry(**values)


def line(
    input: int, kernel: int, stride: int, dilation: int, lo: int, hi: int
) -> ConvGeometry | None:
    """A convolution of one dimension, or None if the kernel does not fit."""
    try:
        return ConvGeometry(1, 1, 1, (input,), (kernel,), (stride,), (dilation,), ((lo, hi),))
    except ShapeError:
        return None


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers(value: Any) -> None:
    found = as_int(value, "n", 1)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize(
    "value", [True, False, 3.0, "3", None, [3], np.array([3, 4]), np.bool_(True), 1j, math.nan]
)
def test_what_is_no_integer(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"n must be an integer.*Received"):
        as_int(value, "n")


def test_integers_below_the_least() -> None:
    assert as_int(0, "n", 0) == 0
    assert as_int(-5, "n") == -5
    with pytest.raises(InvalidArgumentError, match=r"n must be an integer of at least 1. Received"):
        as_int(0, "n", 1)


@pytest.mark.parametrize(
    ("value", "rank", "expected"),
    [
        (2, 1, (2,)),
        (2, 3, (2, 2, 2)),
        ((2, 3), 2, (2, 3)),
        ([2, np.int32(3)], 2, (2, 3)),
        (np.array([4, 5]), 2, (4, 5)),
        ((7,), 1, (7,)),
        (np.array(2), 1, (2,)),
    ],
)
def test_tuples(value: Any, rank: int, expected: tuple[int, ...]) -> None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        with pytest.raises(InvalidArgumentError, match="Received"):
            as_tuple(value, rank, "n", 1)
        return
    assert as_tuple(value, rank, "n", 1) == expected


@pytest.mark.parametrize(
    ("value", "rank"),
    [
        ((2,), 2),  # more likely a slip than a wish
        ((2, 3), 1),
        ((2, 3, 4), 2),
        ((), 2),
        ("33", 2),
        (2.0, 2),
        ((2, 2.5), 2),
        ((2, None), 2),
        (None, 2),
        ((2, 0), 2),
        (0, 1),
        (True, 2),
        ({2: 3}, 2),
    ],
)
def test_what_is_no_tuple_of_integers(value: Any, rank: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"n must be an integer.*Received"):
        as_tuple(value, rank, "n", 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [((2, 3), (2, 3)), ([], ()), ([0, np.int64(4)], (0, 4)), (np.array([5, 6]), (5, 6))],
)
def test_extents(value: Any, expected: tuple[int, ...]) -> None:
    assert as_extents(value, "shape") == expected
    assert as_open_shape(value, "shape") == expected


@pytest.mark.parametrize(
    "value", [3, None, "23", b"23", (2, -1), (2, 1.5), (2, True), np.ones((2, 2)), object()]
)
def test_what_is_no_shape(value: Any) -> None:
    for check in (as_extents, as_open_shape):
        with pytest.raises(InvalidArgumentError, match=r"shape must be a.*Received"):
            check(value, "shape")


def test_shapes_with_unknown_extents() -> None:
    assert as_open_shape((None, 3), "shape") == (None, 3)
    with pytest.raises(InvalidArgumentError, match="shape must be an integer of at least 0"):
        as_extents((None, 3), "shape")
    with pytest.raises(InvalidArgumentError, match=r"Did you mean \(5,\)\? Received: 5"):
        as_open_shape(5, "shape")


def test_entries() -> None:
    assert entries_of((1, "a")) == [1, "a"]
    assert entries_of(iter([1, 2])) == [1, 2]
    for nothing in (3, "abc", b"abc", None, memoryview(np.ones((2, 2)))):
        assert entries_of(nothing) is None


# --- padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input", "kernel", "stride", "expected"),
    [(32, 3, 2, (0, 1)), (224, 7, 2, (2, 3)), (5, 2, 1, (0, 1)), (28, 5, 1, (2, 2))],
)
def test_golden_same_pads(input: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_pads(input, kernel, stride) == expected


@given(extent, small, small, small)
def test_same_gives_the_input_by_the_stride_rounded_up(
    input: int, kernel: int, stride: int, dilation: int
) -> None:
    lo, hi = same_pads(input, kernel, stride, dilation)
    assert lo <= hi <= lo + 1
    made = line(input, kernel, stride, dilation, lo, hi)
    assert made is not None
    assert made.output == (-(-input // stride),)
    if lo + hi > 0:  # not one element more than needed
        fewer = line(input, kernel, stride, dilation, lo, hi - 1) if hi > 0 else None
        assert fewer is None or fewer.output < made.output


@given(extent, small, small)
def test_torch_same_keeps_the_extent(input: int, kernel: int, dilation: int) -> None:
    lo, hi = torch_same_pads(kernel, dilation)
    assert lo <= hi <= lo + 1
    made = line(input, kernel, 1, dilation, lo, hi)
    assert made is not None
    assert made.output == (input,)


@given(extent, small, small, small)
def test_causal_sees_no_later_element(input: int, kernel: int, stride: int, dilation: int) -> None:
    ((lo, hi),) = resolve_padding("causal", (input,), (kernel,), (stride,), (dilation,))
    assert (lo, hi) == (dilation * (kernel - 1), 0)
    made = line(input, kernel, stride, dilation, lo, hi)
    assert made is not None
    for position in range(made.output[0]):
        assert position * stride - lo + dilation * (kernel - 1) == position * stride


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ([[0, 1], (2, 3)], ((0, 1), (2, 3))),
        (np.array([1, 2]), ((1, 1), (2, 2))),
        ("valid", ((0, 0), (0, 0))),
        ("VALID", ((0, 0), (0, 0))),
        ("Same", ((0, 1), (0, 1))),
    ],
)
def test_paddings(padding: Any, expected: Any) -> None:
    assert resolve_padding(padding, (32, 5), (3, 2), (2, 1), (1, 1)) == expected


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ("sane", "Did you mean 'same'"),
        ("full", "padding must be"),
        ("causal", "one spatial dimension only"),
        (-1, "padding must be an integer"),
        ((1, -1), "padding must be an integer"),
        ((1, 2, 3), "padding must be an integer"),
        ((1,), "padding must be an integer"),
        (1.5, "padding must be an integer"),
        (None, "padding must be an integer"),
        (True, "padding must be an integer"),
        (((0, 1), 2), "one .lo, hi. pair for each of 2"),
        (((0, 1),), "one .lo, hi. pair for each of 2"),
        (((0, 1), (2, 3), (4, 5)), "one .lo, hi. pair for each of 2"),
        (((0, 1), (2, 3, 4)), "one .lo, hi. pair for each of 2"),
        (((0, -1), (2, 3)), "padding must be an integer"),
        (((0, 1.5), (2, 3)), "padding must be an integer"),
        (("a", "b"), "Received"),
    ],
)
def test_paddings_that_make_no_sense(padding: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as raised:
        resolve_padding(padding, (32, 5), (3, 2), (2, 1), (1, 1))
    assert "Received:" in str(raised.value)


def test_pooling_has_no_causal_form() -> None:
    with pytest.raises(InvalidArgumentError, match="one of"):
        resolve_padding("causal", (8,), (2,), (1,), (1,), allow_causal=False)


def test_padding_modes_are_pytorchs() -> None:
    assert PADDING_MODES == ("zeros", "reflect", "replicate", "circular")


# --- convolution ------------------------------------------------------------------------------


@given(extent, small, small, small, pad, pad)
def test_the_output_counts_the_windows_that_fit(
    input: int, kernel: int, stride: int, dilation: int, lo: int, hi: int
) -> None:
    last = dilation * (kernel - 1)
    starts = [p for p in range(-lo, input + hi, stride) if p + last < input + hi]
    made = line(input, kernel, stride, dilation, lo, hi)
    if made is None:
        assert starts == []
    else:
        assert made.output == (len(starts),)


def test_shapes_and_counts() -> None:
    g = conv(groups=1)
    assert (g.rank, g.taps, g.reduction) == (2, 6, 18)
    assert g.output == (3, 5)
    assert g.x_shape == (2, 7, 5, 3)
    assert g.w_shape == (3, 2, 3, 4)
    assert g.y_shape == (2, 3, 5, 4)
    assert g.flops == 2 * (2 * 3 * 5 * 4) * 18
    depthwise = conv(in_channels=4, out_channels=8, groups=4)
    assert depthwise.w_shape == (3, 2, 1, 8)
    assert depthwise.reduction == 6
    assert depthwise.is_depthwise
    assert not conv(in_channels=4, groups=2).is_depthwise
    assert not conv(in_channels=1).is_depthwise
    assert conv(batch=0).y_shape == (0, 3, 5, 4)


def test_pointwise() -> None:
    plain: dict[str, Any] = {
        "kernel": (1, 1),
        "stride": (1, 1),
        "dilation": (3, 1),
        "pads": ((0, 0), (0, 0)),
    }
    assert conv(**plain).is_pointwise
    for change in ({"stride": (1, 2)}, {"pads": ((0, 0), (0, 1))}, {"kernel": (1, 2)}):
        assert not conv(**{**plain, **change}).is_pointwise


def test_a_geometry_is_a_key_and_does_not_change() -> None:
    assert conv() == conv()
    assert len({conv(), conv(), conv(batch=3)}) == 2
    assert len({pool(), pool(), pool(ceil_mode=True)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        conv().batch = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kernel": (0, 2)}, InvalidArgumentError, "kernel must be at least 1"),
        ({"stride": (0, 1)}, InvalidArgumentError, "stride must be at least 1"),
        ({"dilation": (1, 0)}, InvalidArgumentError, "dilation must be at least 1"),
        ({"groups": 0}, InvalidArgumentError, "groups must be at least 1"),
        ({"groups": 2}, ShapeError, "multiple of groups 2. Received: 3"),
        ({"groups": 3}, ShapeError, "multiple of groups 3. Received: 4"),
        ({"in_channels": 0}, ShapeError, "input channels"),
        ({"out_channels": 0}, ShapeError, "filters"),
        (
            {"input": (1, 5)},
            ShapeError,
            r"kernel must fit.*input \(1, 5\), kernel \(3, 2\).*padding \(\(1, 0\), \(0, 2\)\)",
        ),
        ({"input": (0, 5)}, ShapeError, "kernel must fit"),
        ({"dilation": (9, 1)}, ShapeError, "kernel must fit"),
    ],
)
def test_convolutions_that_make_no_sense(changes: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        conv(**changes)


@settings(max_examples=300)
@given(extent, st.integers(1, 6), st.integers(1, 6), small, pad, pad)
def test_the_phases_hold_every_pair_of_output_and_tap_once(
    input: int, kernel: int, stride: int, dilation: int, lo: int, hi: int
) -> None:
    """dx[p] is the sum of dy[q] * w[t] over all q*s - lo + t*d == p: the phases find the same."""
    made = line(input, kernel, stride, dilation, lo, hi)
    if made is None:
        return
    (outputs,) = made.output
    expected: dict[int, set[tuple[int, int]]] = {p: set() for p in range(input)}
    for q in range(outputs):
        for t in range(kernel):
            if 0 <= (p := q * stride - lo + t * dilation) < input:
                expected[p].add((q, t))
    found: dict[int, list[tuple[int, int]]] = {}
    for phase in made.backward_input_phases:
        positions = range(phase.offset[0], input, stride)
        if phase.geometry is None:
            found.update({p: [] for p in positions})
            continue
        g = phase.geometry
        assert g.input == made.output
        assert g.stride == (1,)
        assert g.output == (len(positions),)
        for j, p in enumerate(positions):
            places = [j - g.pads[0][0] + n * g.dilation[0] for n in range(g.kernel[0])]
            pairs = zip(places, phase.taps[0], strict=True)
            found[p] = [(q, t) for q, t in pairs if 0 <= q < outputs]
    assert found.keys() == expected.keys()
    for p, pairs_of_p in found.items():
        assert len(pairs_of_p) == len(set(pairs_of_p))
        assert set(pairs_of_p) == expected[p]


def test_phases_of_two_dimensions() -> None:
    g = conv(stride=(2, 3), kernel=(3, 2), dilation=(1, 1), pads=((0, 0), (0, 0)))
    phases = g.backward_input_phases
    assert [phase.offset for phase in phases] == [(i, j) for i in (0, 1) for j in (0, 1, 2)]
    assert [phase.geometry is None for phase in phases] == [False, False, True] * 2
    assert phases[0].taps == ((2, 0), (0,))
    inner = phases[0].geometry
    assert inner is not None
    assert (inner.in_channels, inner.out_channels) == (4, 3)
    stride_one = conv(stride=(1, 1)).backward_input_phases
    assert len(stride_one) == 1
    assert stride_one[0].taps == ((2, 1, 0), (1, 0))


# --- pooling ----------------------------------------------------------------------------------


@settings(max_examples=300)
@given(extent, small, small, small, pad, pad, st.booleans())
def test_the_output_of_a_pooling(
    input: int, window: int, stride: int, dilation: int, lo: int, hi: int, ceil_mode: bool
) -> None:
    reach = dilation * (window - 1) + 1
    expected = 0
    if reach <= input + lo + hi:
        expected = 1
        # Another window: it fits, or with ceil_mode its start lies before the right padding and
        # the one before did not reach the end.
        while True:
            start = expected * stride - lo
            fits = start + reach <= input + hi
            hangs = ceil_mode and start < input and start - stride + reach < input + hi
            if not (fits or hangs):
                break
            expected += 1
    try:
        made = PoolGeometry(
            1, 1, (input,), (window,), (stride,), (dilation,), ((lo, hi),), ceil_mode
        )
    except ShapeError:
        assert expected == 0
        return
    if expected == 0:
        # Rounding up may make room for one window that is larger than the padded input.
        assert ceil_mode
        assert made.output == (1,)
    elif ceil_mode and made.output[0] < expected:
        # Even a window that fits is dropped when it starts in the right padding.
        assert made.output[0] * stride - lo >= input
    else:
        assert made.output == (expected,)


def test_the_ceil_mode_of_pytorch() -> None:
    assert pool(input=(6, 5), window=(3, 2), ceil_mode=True).output == (3, 3)
    assert pool(input=(6, 5), window=(3, 2)).output == (2, 2)
    # The last window would start in the right padding.
    g = pool(input=(1, 1), window=(1, 1), pads=((0, 1), (0, 1)), ceil_mode=True)
    assert g.output == (1, 1)


@settings(max_examples=300)
@given(extent, small, small, pad, pad, st.booleans(), st.booleans())
def test_the_divisors_count_elements(
    input: int, window: int, stride: int, lo: int, hi: int, ceil_mode: bool, include: bool
) -> None:
    try:
        made = PoolGeometry(
            1, 1, (input,), (window,), (stride,), (1,), ((lo, hi),), ceil_mode, include
        )
    except ShapeError:
        return
    first, last = (-lo, input + hi) if include else (0, input)
    expected = [
        sum(first <= p * stride - lo + t < last for t in range(window))
        for p in range(made.output[0])
    ]
    assert list(made.divisors[0]) == expected


def test_pooling_shapes() -> None:
    g = pool()
    assert (g.rank, g.taps) == (2, 6)
    assert g.x_shape == (2, 7, 5, 3)
    assert g.y_shape == (2, 3, 2, 3)
    assert not g.is_global
    assert pool(window=(7, 5), stride=(1, 1)).is_global
    assert not pool(window=(7, 5), stride=(1, 1), pads=((0, 0), (0, 1))).is_global


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"window": (0, 2)}, InvalidArgumentError, "window must be at least 1"),
        ({"stride": (2, 0)}, InvalidArgumentError, "stride must be at least 1"),
        ({"dilation": (0, 1)}, InvalidArgumentError, "dilation must be at least 1"),
        ({"channels": 0}, ShapeError, "at least one channel"),
        ({"window": (8, 2)}, ShapeError, r"window must fit.*input \(7, 5\), window \(8, 2\)"),
        ({"dilation": (4, 1)}, ShapeError, "window must fit"),
        ({"input": (0, 5)}, ShapeError, "window must fit"),
    ],
)
def test_poolings_that_make_no_sense(changes: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        pool(**changes)


# --- transposed convolution -------------------------------------------------------------------


@settings(max_examples=300)
@given(extent, small, small, small, st.data())
def test_a_transposed_convolution_leads_back(
    small_extent: int, kernel: int, stride: int, dilation: int, data: Any
) -> None:
    """The convolution with the returned pads makes the small extent of the large one."""
    padding = data.draw(st.sampled_from(["valid", "same", 0, 1, ((0, 2),)]))
    room = max(stride, dilation) - 1
    extra = data.draw(st.none() | st.integers(0, room))
    reach = dilation * (kernel - 1) + 1
    try:
        (large,), ((lo, hi),) = transposed_extents(
            (small_extent,), (kernel,), (stride,), padding, extra, (dilation,)
        )
    except ShapeError:
        assert padding not in ("valid", None)
        return
    span = (small_extent - 1) * stride + reach
    if isinstance(padding, int):
        assert large == span - 2 * padding + (extra or 0)
    elif isinstance(padding, tuple):
        assert large == span - 2 + (extra or 0)
    elif extra is None:
        wanted = (small_extent - 1) * stride + max(reach, stride)
        assert large == (wanted if padding == "valid" else small_extent * stride)
    elif padding == "valid":
        assert large == span + extra
    else:
        assert large == (small_extent - 1) * stride + reach % 2 + extra
    # Window q of the small side lies at q*stride - lo of the large one.
    assert lo >= 0
    assert lo + large + hi == span
    if hi >= 0:
        back = line(large, kernel, stride, dilation, lo, hi)
        assert back is not None
        assert back.output == (small_extent,)


def test_transposed_words() -> None:
    assert check_transposed_padding("SAME", 2) == "same"
    assert check_transposed_padding(1, 2) == ((1, 1), (1, 1))
    for word in ("sume", "causal"):
        with pytest.raises(InvalidArgumentError, match="'valid', 'same' or numbers"):
            check_transposed_padding(word, 2)
    assert check_output_padding(None, (2, 2), (1, 1)) is None
    assert check_output_padding((1, 0), (2, 2), (1, 1)) == (1, 0)
    assert check_output_padding(2, (1, 1), (3, 3)) == (2, 2)
    for extra in (2, -1, (0, 2), 1.5):
        with pytest.raises(InvalidArgumentError, match="output_padding must be"):
            check_output_padding(extra, (2, 2), (1, 1))
    with pytest.raises(ShapeError, match="must leave something of the output"):
        transposed_extents((1,), (2,), (1,), 1, None, (1,))


# --- whatever a user writes -------------------------------------------------------------------

anything = st.one_of(
    st.integers(-3, 5),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text("acdefilmsuv", max_size=6),
    st.lists(st.integers(-2, 4), max_size=4),
    st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=3),
)


@settings(max_examples=300)
@given(anything)
def test_any_padding_is_understood_or_refused(padding: Any) -> None:
    try:
        pads = resolve_padding(padding, (9, 8), (3, 2), (1, 1), (1, 1))
    except InvalidArgumentError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "Received:" in refused
        return
    assert len(pads) == 2
    assert all(type(side) is int and side >= 0 for pair in pads for side in pair)
    assert explicit_pads(pads, 2) == pads
