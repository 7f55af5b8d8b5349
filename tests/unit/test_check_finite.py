"""Looking for NaN and infinity without copying the data."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from gpuconv.data import ArrayBatches, check_finite, checks
from gpuconv.errors import InvalidArgumentError


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_the_first_bad_value_is_found_in_every_block(
    dtype: Any, value: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_BLOCK_BYTES", block)
    for row in (0, 7, 19):
        x = np.zeros((20, 2, 3), dtype)
        x[row, 1, 2] = value
        x[19, 1, 2] = np.nan if row < 19 else value
        with pytest.raises(InvalidArgumentError, match=rf"Received: {value} at x\[{row}, 1, 2\]"):
            check_finite(x)


@pytest.mark.parametrize(
    "x",
    [
        np.full((4, 3), np.finfo(np.float32).max, np.float32),  # a sum would overflow
        np.full(4, np.finfo(np.float16).max, np.float16),
        np.arange(4),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        [1.5, 2.5],
    ],
)
def test_finite_data_passes(x: Any) -> None:
    check_finite(x)


def test_views_and_read_only_data() -> None:
    x = np.zeros((10, 4))
    x[3, 2] = np.nan
    x.flags.writeable = False
    check_finite(x[:, ::3])
    with pytest.raises(InvalidArgumentError, match=r"x\[6, 1\]"):
        check_finite(x[::-1, 1::1])


def test_the_name_and_the_input_are_said() -> None:
    bad = np.array([[np.nan]])
    with pytest.raises(InvalidArgumentError, match=r"^y must.*at y\[0, 0\]"):
        check_finite(bad, "y")
    with pytest.raises(InvalidArgumentError, match=r"x\[1\]\[0, 0\]"):
        check_finite([np.zeros((2, 2)), bad])


@pytest.mark.parametrize("which", ["x", "y", "sample_weight"])
def test_batches_check_all_three(which: str) -> None:
    parts: dict[str, Any] = {"x": np.zeros((4, 2)), "y": np.zeros(4), "sample_weight": np.ones(4)}
    ArrayBatches(**parts).check_finite()
    parts[which].reshape(-1)[-1] = np.inf
    with pytest.raises(InvalidArgumentError, match=f"^{which} must hold finite"):
        ArrayBatches(**parts).check_finite()


def test_a_block_is_all_the_memory_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_BLOCK_BYTES", 2**16)
    x = np.zeros((4096, 512), np.float32)  # 8 MiB
    tracemalloc.start()
    check_finite(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**18
