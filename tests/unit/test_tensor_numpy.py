"""NumPy's functions take Tensors: the array protocols in both directions."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from gpuconv.tensors import Tensor

A = np.arange(12, dtype="float32").reshape(3, 4)
FUNCTIONS = {
    "sum": lambda a: np.sum(a, axis=0),
    "mean": lambda a: np.mean(a),
    "max": lambda a: np.max(a, axis=-1, keepdims=True),
    "median": lambda a: np.median(a, axis=1),
    "argsort": lambda a: np.argsort(-a, axis=1),
    "concatenate": lambda a: np.concatenate([a, a], axis=1),
    "stack": lambda a: np.stack((a, a)),
    "where": lambda a: np.where(a > 3, a, 0),
    "clip": lambda a: np.clip(a, 2, 5),
    "pad": lambda a: np.pad(a, 1),
    "einsum": lambda a: np.einsum("ij,kj->ik", a, a),
    "take": lambda a: np.take(a, a[0].astype("int64"), axis=1),
    "exp": lambda a: np.exp(a),
    "maximum": lambda a: np.maximum(a, 4),
    "logaddexp": lambda a: np.logaddexp(a, a),
    "isnan": lambda a: np.isnan(a),
    "reduce": lambda a: np.add.reduce(a, axis=1),
    "accumulate": lambda a: np.add.accumulate(a, axis=1),
    "outer": lambda a: np.multiply.outer(a[0], a[1]),
    "where option": lambda a: np.add(a, 1, where=a > 3, out=np.zeros((3, 4), "float32")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_compute_the_same(name):
    expected, result = FUNCTIONS[name](A), FUNCTIONS[name](Tensor(A))
    assert isinstance(result, np.ndarray if name == "where option" else Tensor)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == expected.dtype


def test_several_results():
    quotient, rest = divmod(Tensor(A), 5)
    np.testing.assert_array_equal(quotient, A // 5)
    np.testing.assert_array_equal(rest, A % 5)
    parts = np.split(Tensor(A), 2, axis=1)
    assert [type(part) for part in parts] == [Tensor, Tensor]
    np.testing.assert_array_equal(Tensor(A)[np.nonzero(Tensor(A))], A[np.nonzero(A)])
    left, _, right = np.linalg.svd(Tensor(A), full_matrices=False)
    assert (left.shape, right.shape) == ((3, 3), (3, 4))


def test_results_that_are_no_arrays_stay_as_they_are():
    assert np.allclose(Tensor(A), A) is True
    assert np.shape(Tensor(A)) == (3, 4)
    assert np.result_type(Tensor(A), np.float64) == np.float64
    assert isinstance(np.fft.fft(Tensor(A)), np.ndarray)  # complex: not for a Tensor


def test_out_is_written_and_returned():
    out = Tensor(np.zeros_like(A))
    assert np.add(Tensor(A), 1, out=out) is out
    np.testing.assert_array_equal(out, A + 1)
    assert np.multiply(A, A, out=out) is out
    np.testing.assert_array_equal(out, A * A)
    total = Tensor(np.zeros(4, "float32"))
    np.add.at(total, [0, 0, 3], 1)
    np.testing.assert_array_equal(total, [2, 0, 0, 1])


def test_tensors_in_a_container_that_only_numpy_opens():
    with pytest.raises(TypeError, match="no implementation found"):
        np.concatenate(deque([Tensor(A), Tensor(A)]))


def test_conversion_shares_memory():
    tensor = Tensor(A.copy())
    assert np.asarray(tensor) is tensor.array
    assert np.shares_memory(np.asarray(tensor, dtype="float32"), tensor.array)
    assert not np.shares_memory(np.array(tensor), tensor.array)
    assert np.asarray(tensor, dtype="int32").dtype == np.int32
    assert np.asarray([tensor, tensor]).shape == (2, 3, 4)


def test_the_array_protocol_with_copy():
    tensor = Tensor(A.copy())
    assert tensor.__array__(copy=False) is tensor.array
    assert not np.shares_memory(tensor.__array__(copy=True), tensor.array)
    with pytest.raises(ValueError, match="without a copy"):
        tensor.__array__("float64", copy=False)


def test_dlpack_shares_memory():
    tensor = Tensor(A.copy())
    assert tensor.__dlpack_device__() == tensor.array.__dlpack_device__()
    view = np.from_dlpack(tensor)
    assert np.shares_memory(view, tensor.array)
    np.testing.assert_array_equal(view, A)


def test_the_cuda_interface_is_absent_on_the_cpu():
    assert not hasattr(Tensor(A), "__cuda_array_interface__")
