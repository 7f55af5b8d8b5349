"""The simulator's arrays keep CuPy's rules, so that what works on them works on a GPU."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from gpuconv.backends import arrays
from gpuconv.backends.simulated import SimulatedArray, numpy_on_device, to_simulated
from gpuconv.backends.transfers import count_transfers
from gpuconv.errors import InvalidArgumentError
from gpuconv.tensors import Tensor

HOST = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.fixture
def x():
    return to_simulated(HOST)


def test_it_is_a_copy_in_its_own_memory(x):
    assert not isinstance(x, np.ndarray)
    assert not np.shares_memory(x.host, HOST)
    assert (x.shape, x.dtype, x.ndim, x.size, x.nbytes) == ((2, 3), np.float32, 2, 6, 24)
    assert arrays.device_of(x) == "cuda-sim"
    assert arrays.is_array(x)
    assert arrays.array_module(x) is numpy_on_device


def test_operations_stay_on_the_device(x):
    several = [
        (x * 2 + x, HOST * 2 + HOST),
        (x.sum(axis=0), HOST.sum(axis=0)),
        (x.reshape(-1)[1:4], HOST.reshape(-1)[1:4]),
        (x.T, HOST.T),
        (numpy_on_device.exp(x), np.exp(HOST)),
        (np.exp(x), np.exp(HOST)),
        (numpy_on_device.where(x > 2, x, 0), np.where(HOST > 2, HOST, 0)),
        (np.concatenate([x, x]), np.concatenate([HOST, HOST])),
        (numpy_on_device.zeros(3), np.zeros(3)),
        (x[x[0].astype("int64") % 2], HOST[HOST[0].astype("int64") % 2]),
        (x @ x.T, HOST @ HOST.T),
        (numpy_on_device.asarray(HOST), HOST),
        (copy.deepcopy(x), HOST),
        (pickle.loads(pickle.dumps(x)), HOST),
    ]
    for got, expected in several:
        assert isinstance(got, SimulatedArray)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got.get(), expected)


def test_a_reduction_is_an_array_of_no_axes(x):
    for total in (x.sum(), numpy_on_device.max(x), x[0, 0]):
        assert isinstance(total, SimulatedArray)
        assert total.shape == ()


def test_in_place_changes_reach_views(x):
    view = x[:, 1]
    x *= 10
    x[0, 1] = 5
    np.testing.assert_array_equal(view.get(), [5, 40])
    with pytest.raises(TypeError, match="does not mix"):
        x[0] = HOST[0]


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + HOST,
        lambda x: HOST + x,
        lambda x: np.add(HOST, HOST, out=x),
        lambda x: np.add(x, x, out=HOST.copy()),
        lambda x: np.concatenate([x, HOST]),
        lambda x: numpy_on_device.where(x > 0, x, HOST),
        np.asarray,
        np.array,
    ],
)
def test_host_arrays_do_not_mix(x, mix):
    with pytest.raises(TypeError, match=r"does not mix|not converted to NumPy implicitly"):
        mix(x)


def test_every_way_to_the_host_is_counted(x):
    reads = [
        lambda: x.get(),
        lambda: float(x[0, 0]),
        lambda: int(x[0, 0]),
        lambda: bool(x[0, 0]),
        lambda: x.tolist(),
        lambda: x[0, 0].item(),
        lambda: range(3)[x.astype("int64")[0, 1]],
        lambda: arrays.to_numpy(x),
        lambda: Tensor(x).numpy(),
    ]
    for read in reads:
        with count_transfers() as counted:
            read()
        assert (counted.to_host, counted.to_device) == (1, 0)
    with count_transfers() as outer:
        with count_transfers() as inner:
            arrays.to_device(HOST, "cuda-sim")
            numpy_on_device.asarray(HOST)
            numpy_on_device.asarray(x)
        arrays.to_device(x, "cpu")
        arrays.to_device(x, "cuda-sim")
    assert (inner.to_device, inner.to_host) == (2, 0)
    assert (outer.to_device, outer.to_host) == (2, 1)


def test_constants_travel_once(x):
    with count_transfers() as counted:
        for _ in range(3):
            kept = arrays.constant(np.array([1.5, 2.5]), x)
    assert counted.to_device <= 1
    assert kept.dtype == x.dtype
    np.testing.assert_array_equal(kept.get(), [1.5, 2.5])
    assert isinstance(arrays.constant(np.ones(2), HOST), np.ndarray)


def test_a_tensor_names_its_device(x):
    tensor = Tensor(x)
    assert tensor.backend == "cuda-sim"
    assert isinstance((tensor + 1).array, SimulatedArray)
    np.testing.assert_array_equal(tensor.numpy(), HOST)
    with pytest.raises(InvalidArgumentError, match="'cpu' and 'cuda-sim'"):
        _ = tensor + HOST


def test_the_shape_can_be_set(x):
    x.shape = (3, -1)
    np.testing.assert_array_equal(x.get(), HOST.reshape(3, 2))
    view = x.reshape(6)
    view.shape = (2, 3)
    view[0, 0] = 7  # still the same memory
    assert float(x[0, 0]) == 7
    with pytest.raises(AttributeError, match="needs a copy"):
        x.T.shape = (6,)
    with pytest.raises(ValueError, match="cannot reshape"):
        x.shape = (4,)
    with pytest.raises(AttributeError, match="'dtype'"):
        x.dtype = "int32"
    nothing = x[:0]
    nothing.shape = (2, 0)
    assert nothing.shape == (2, 0)


def test_unknown_attributes(x):
    with pytest.raises(AttributeError, match="has no attribute 'tofile'"):
        x.tofile("f")
