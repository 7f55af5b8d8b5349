"""Helpers of Keras programs."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.errors import DTypeError, InvalidArgumentError


def test_one_hot_rows() -> None:
    np.testing.assert_array_equal(gc.utils.to_categorical([[2], [0]]), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(gc.utils.to_categorical([1.0, 0.0], 2), [[0, 1], [1, 0]])
    assert gc.utils.to_categorical(np.zeros((2, 3), np.uint8), 4).shape == (2, 3, 4)
    assert gc.utils.to_categorical(np.zeros((0,), int), 4).shape == (0, 4)


def test_what_is_no_class_number() -> None:
    with pytest.raises(InvalidArgumentError, match=r"from 0 to 2\. Received: 0 to 3"):
        gc.utils.to_categorical([0, 3], 3)
    with pytest.raises(InvalidArgumentError, match="Received: -1"):
        gc.utils.to_categorical([-1, 0])
    with pytest.raises(DTypeError):
        gc.utils.to_categorical([0.5])
    with pytest.raises(DTypeError):
        gc.utils.to_categorical(["a"])


def test_trainable_weights_are_counted_as_in_keras() -> None:
    model = gc.zoo.seed_network()
    assert len(model.trainable_weights) == 10
    model.layers[0].trainable = False
    assert len(model.trainable_weights) == 8
