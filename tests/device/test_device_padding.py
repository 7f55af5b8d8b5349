"""Padding and its gradient against an index map."""

from __future__ import annotations

import inspect
import re
import textwrap

import numpy as np
import pytest

from gpuconv.geometry import resolve_padding
from gpuconv.testing import reference
from gpuconv.testing.cases import CONV_CASES, small_integers
from gpuconv.testing.tolerances import assert_exact
from gpuconv_kernels.device import padding
from gpuconv_kernels.device.target import SIMULATED

CASES = [case for case in CONV_CASES if case.padding_mode != "zeros"]


def check_forward(memory, rng, shape, pads, mode, dtype="float32"):
    x = small_integers(rng, shape, dtype, 1, 99)
    expected = reference.pad(x, pads, mode)
    y = memory.empty(expected.shape, dtype)
    padding.pad(memory.put(x), y, pads, mode)
    assert_exact(memory.get(y), expected)


def check_backward(memory, rng, shape, pads, mode, dtype="float32"):
    n, *extents, c = shape
    padded = (n, *(e + lo + hi for e, (lo, hi) in zip(extents, pads, strict=True)), c)
    dy = small_integers(rng, padded, dtype, 1, 99)
    dx = memory.empty(shape, dtype)
    padding.pad_backward(memory.put(dy), dx, pads, mode)
    assert_exact(memory.get(dx), reference.pad_backward(dy, pads, mode))


def check(*arguments):
    check_forward(*arguments)
    check_backward(*arguments)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(memory, rng, case):
    pads = resolve_padding(
        case.padding, case.input, case.kernel, (1,) * case.rank, (1,) * case.rank
    )
    check(memory, rng, case.x_shape, pads, case.padding_mode)


@pytest.mark.parametrize("mode", padding.MODES)
@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        ((2, 4, 3), ((3, 1),)),
        ((1, 5, 17), ((0, 4),)),
        ((2, 3, 4, 2), ((2, 0), (1, 3))),
        ((1, 3, 2, 4, 3), ((1, 2), (1, 0), (3, 2))),
        ((2, 3, 3, 1), ((0, 0), (0, 0))),
        ((0, 3, 4, 2), ((1, 1), (2, 1))),
    ],
    ids=str,
)
def test_every_mode(memory, rng, mode, shape, pads):
    check(memory, rng, shape, pads, mode, "float64" if len(shape) == 4 else "float32")


@pytest.mark.parametrize("mode", ["zeros", "replicate", "circular"])
def test_an_extent_of_one(memory, rng, mode):
    check(memory, rng, (1, 1, 2, 3), ((1, 1), (2, 1)), mode)


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_pads_wider_than_the_input(memory, rng, mode):
    check(memory, rng, (1, 2, 3, 1), ((5, 0), (4, 7)), mode)


def test_circular_pads_as_wide_as_the_input(memory, rng):
    check(memory, rng, (1, 3, 2, 2), ((3, 3), (2, 2)), "circular")


def test_zeros_are_not_products():
    """NaN and infinity at the edge stay where they are."""
    x = np.full((1, 2, 1), np.inf, "float32")
    y = np.full((1, 4, 1), 7, "float32")
    if SIMULATED:
        padding.pad(x, y, ((1, 1),), "zeros")
        assert y.reshape(-1).tolist() == [0, np.inf, np.inf, 0]


# --- broken copies ---------------------------------------------------------------------

BREAKS = {
    "the row begins one position late": (
        "_pad_function",
        check_forward,
        r"centre = int32\(before\[2\] \* channels\)",
        "centre = int32((before[2] + 1) * channels)",
    ),
    "the last copy is left out": (
        "_pad_backward_function",
        check_backward,
        r"range\(first_w, last_w \+ 1\)",
        "range(first_w, last_w + (last_w == 0))",
    ),
    "rows of another sample": (
        "_pad_backward_function",
        check_backward,
        r"at_d \* padded\[1\]",
        "at_d * extents[1]",
    ),
}


@pytest.mark.skipif(not SIMULATED, reason="a broken kernel may harm a device")
@pytest.mark.parametrize("name", BREAKS)
def test_broken_kernels_are_caught(memory, rng, monkeypatch, name):
    function, check_one, pattern, replacement = BREAKS[name]
    source = textwrap.dedent(inspect.getsource(getattr(padding, function)))
    changed, count = re.subn(pattern, replacement, source)
    assert count == 1
    names = dict(vars(padding))
    exec("from __future__ import annotations\n" + changed, names)
    monkeypatch.setattr(padding, function, names[function])
    clear()
    try:
        with pytest.raises((AssertionError, IndexError)):
            check_one(memory, rng, (2, 3, 4, 2), ((2, 1), (1, 2)), "reflect")
    finally:
        clear()


def clear():
    padding._pad_kernel.cache_clear()
    padding._pad_backward_kernel.cache_clear()
