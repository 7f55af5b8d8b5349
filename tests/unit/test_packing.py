"""Nested data with arrays, NaN and infinity through strict JSON and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from gpuconv.io import pack, unpack


def through_json(value: Any, prefix: str = "") -> tuple[Any, dict[str, Any]]:
    plain, tensors = pack(value, prefix)
    return unpack(json.loads(json.dumps(plain, allow_nan=False)), tensors), tensors


def test_plain_data_stays() -> None:
    value = {"a": [1, 2.5, "x", True, None, []], "b": {"c": {}}}
    assert through_json(value) == (value, {})


def test_numbers_that_json_lacks() -> None:
    back, _ = through_json([math.nan, math.inf, {"low": -math.inf}, np.float32("nan"), 0.1])
    assert math.isnan(back[0])
    assert math.isnan(back[3])
    assert back[1:3] == [math.inf, {"low": -math.inf}]
    assert back[4] == 0.1


def test_tuples_become_lists_and_scalars_python_numbers() -> None:
    back, _ = through_json((np.int64(3), np.float64(0.1), np.bool_(True)))
    assert back == [3, 0.1, True]
    assert [type(part) for part in back] == [int, float, bool]


def test_arrays_get_names_and_come_back_whole() -> None:
    arrays = [np.arange(6, dtype="int8").reshape(2, 3), np.array(2.5, "float32")]
    back, tensors = through_json({"list": arrays, "one": np.zeros((0, 2))}, "state/")
    assert list(tensors) == ["state/0", "state/1", "state/2"]
    for ours, theirs in zip([*back["list"], back["one"]], [*arrays, np.zeros((0, 2))], strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_a_missing_array_is_an_error() -> None:
    with pytest.raises(KeyError, match="state/0"):
        unpack(pack([np.zeros(1)], "state/")[0], {})
