"""What ``gpuconv.tensor`` takes in, what it shares, and what it refuses."""

from __future__ import annotations

import array
import re
import sys
from types import ModuleType

import numpy as np
import pytest

import gpuconv
from gpuconv.backends import cuda_probe, registry
from gpuconv.backends.base import Probe
from gpuconv.errors import (
    BackendUnavailableError,
    DTypeError,
    GpuconvError,
    InvalidArgumentError,
    ShapeError,
)
from gpuconv.tensors import Tensor, as_array, tensor


def without_addresses(value: object) -> str:
    """The same name in every process."""
    return re.sub(r" at 0x\w+", "", repr(value))


class Exporter:
    """An array of another library, with one of the protocols."""

    def __init__(self, values, device=1):
        self.values = values
        self.device = device

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return (self.device, 0)


class ArrayLike:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class OnDevice:
    __cuda_array_interface__ = {"shape": (2,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


@pytest.fixture(autouse=True)
def _cpu(monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "cpu")


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy: arrays of their own class, on the host."""

    class DeviceArray(np.ndarray):
        def get(self):
            return np.array(self)

    def asarray(values, dtype=None):
        if isinstance(values, DeviceArray):
            return values
        return np.array(values, dtype).view(DeviceArray)

    module = ModuleType("cupy")
    module.ndarray, module.asarray = DeviceArray, asarray
    module.from_dlpack = lambda exporter: asarray(exporter.values)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(cuda_probe, "probe_cupy", lambda: Probe(True, "stand-in"))
    monkeypatch.setattr(registry, "probe_device", lambda device: Probe(True, "stand-in"))
    return module


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, "float32"),
        (3, "int64"),
        (True, "bool"),
        ([], "float32"),
        ([0.5, 2], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        (((1, 2.5), (3, 4)), "float32"),
        ([True, False], "bool"),
        (range(3), "int64"),
        (np.float64(1.5), "float64"),
        ([np.float64(1.5), 2], "float64"),
        ([np.zeros(2), np.ones(2)], "float64"),
        (np.float16([1.5]), "float16"),
        (array.array("d", [1.5]), "float64"),
        (memoryview(np.uint8([1, 2])), "uint8"),
        (ArrayLike(np.zeros(3)), "float64"),
        (Exporter(np.zeros(3)), "float64"),
        (np.arange(3, dtype=">f4"), "float32"),
        (Tensor(np.zeros(3)), "float64"),
    ],
    ids=without_addresses,
)
def test_dtypes(value, dtype):
    result = tensor(value)
    assert isinstance(result, Tensor)
    assert result.dtype == np.dtype(dtype)
    assert result.dtype.isnative
    expected = value.values if hasattr(value, "values") else value
    np.testing.assert_array_equal(result, np.asarray(expected))
    np.testing.assert_array_equal(as_array(value), result.numpy())


def test_memory_is_shared():
    values = np.arange(6, dtype="float32").reshape(2, 3)
    for value in (values, values.T, values[:, ::2], Tensor(values), Exporter(values)):
        assert np.shares_memory(tensor(value).array, values)
        assert np.shares_memory(tensor(value, backend="cpu", dtype="float32").array, values)
        assert not np.shares_memory(tensor(value, dtype="float64").array, values)
    assert as_array(values) is values
    assert as_array(Tensor(values)) is values


def test_read_only_arrays_stay_read_only():
    values = np.zeros(3)
    values.flags.writeable = False
    assert not tensor(values).array.flags.writeable


def test_a_dtype_is_applied_to_the_numbers_themselves():
    assert tensor([0.1], dtype="float64").item() == 0.1
    assert tensor([2**24 + 1], dtype="float32").item() == 2**24
    assert tensor([1, 0], dtype=bool).tolist() == [True, False]
    assert tensor(Tensor(np.zeros(2)), dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([[1, 2], [3]], ShapeError),
        ([1, [2]], ShapeError),
        ([np.zeros(2), np.zeros(3)], ShapeError),
        ("abc", DTypeError),
        (b"abc", DTypeError),
        (["a", "b"], DTypeError),
        ([1, "a"], DTypeError),
        (None, DTypeError),
        ([None, 1.0], DTypeError),
        ({1, 2}, DTypeError),
        ({"a": 1}, DTypeError),
        ((i for i in range(3)), DTypeError),
        (object(), DTypeError),
        (1j, DTypeError),
        (np.zeros(2, "complex64"), DTypeError),
        (np.array([object()]), DTypeError),
        (np.zeros(2, "datetime64[s]"), DTypeError),
        (2**70, DTypeError),
    ],
    ids=without_addresses,
)
def test_what_is_no_array_of_numbers(value, error):
    for function in (tensor, as_array):
        with pytest.raises(error, match="Received") as caught:
            function(value)
        assert isinstance(caught.value, GpuconvError)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", ["flot32", "complex64", "S3", object, int | None])
def test_unknown_dtypes(dtype):
    with pytest.raises(DTypeError, match="Received"):
        tensor([1.0], dtype=dtype)


def test_numbers_out_of_range():
    with pytest.raises(InvalidArgumentError, match="Received: list"):
        tensor([300], dtype="uint8")


def test_dlpack_that_refuses():
    class Refuses(Exporter):
        def __dlpack__(self, **options):
            raise BufferError("needs detach()")

    with pytest.raises(InvalidArgumentError, match=r"needs detach\(\).*Received"):
        tensor(Refuses(np.zeros(2)))
    with pytest.raises(InvalidArgumentError, match="DLPack device type 10"):
        tensor(Exporter(np.zeros(2), device=10))


@pytest.mark.parametrize("value", [OnDevice(), Exporter(np.zeros(2), device=2)])
def test_memory_of_a_gpu_needs_cupy(value, monkeypatch):
    missing = Probe(False, "the package cupy is not installed", "Install it.")
    monkeypatch.setattr(cuda_probe, "probe_cupy", lambda: missing)
    with pytest.raises(BackendUnavailableError, match=r"cupy is not installed\. Install it"):
        as_array(value)


def test_a_named_backend_that_is_not_there(monkeypatch):
    missing = Probe(False, "no NVIDIA driver", "Install the driver.")
    monkeypatch.setattr(cuda_probe, "probe_cuda", lambda: missing)
    for function in (lambda: tensor([1.0], backend="cuda"), lambda: tensor([1.0]).to("cuda")):
        with pytest.raises(BackendUnavailableError, match=r"no NVIDIA driver\. Install the driver"):
            function()
    with pytest.raises(InvalidArgumentError, match="Did you mean 'cpu'"):
        tensor([1.0], backend="cpuu")


def test_an_engine_stands_for_its_device():
    assert tensor([1.0], backend="cpu:numpy").backend == "cpu"


# --- two devices ---------------------------------------------------------------------


def test_arrays_stay_where_they_lie(cupy):
    on_gpu = cupy.asarray([1.0, 2.0])
    assert tensor(on_gpu).backend == "cuda"
    assert tensor(on_gpu).array is on_gpu
    assert tensor(Tensor(on_gpu)).backend == "cuda"
    assert tensor(Exporter(np.zeros(2), device=2)).backend == "cuda"
    assert tensor(Tensor(np.zeros(2))).backend == "cpu"
    assert tensor(np.zeros(2)).backend == "cpu"


def test_new_data_goes_to_the_backend_in_force(cupy, monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "cuda")
    assert tensor([1.0]).backend == "cuda"
    assert tensor(np.zeros(2)).backend == "cuda"
    assert tensor(Tensor(np.zeros(2))).backend == "cpu"
    assert tensor([1.0], backend="cpu").backend == "cpu"


def test_moving(cupy):
    here = tensor(np.float32([1, 2]))
    there = here.to("cuda")
    assert (there.backend, there.to("cuda")) == ("cuda", there)
    assert isinstance(there.array, cupy.ndarray)
    assert repr(there) == "Tensor(shape=(2,), dtype=float32, backend='cuda',\n[1., 2.])"
    back = there.to("cpu")
    assert (back.backend, type(back.array)) == ("cpu", np.ndarray)
    with pytest.raises(ValueError, match="without a copy"):
        there.__array__(copy=False)


@pytest.mark.parametrize(
    "expression",
    [
        lambda a, b: a + b,
        lambda a, b: a + b.array,
        lambda a, b: a.array + b,
        lambda a, b: a @ b,
        lambda a, b: np.concatenate([a, b]),
        lambda a, b: np.add(a, 1, out=b),
        lambda a, b: a.__iadd__(b),
        lambda a, b: a.__setitem__(slice(None), b),
        lambda a, b: a[b > 0],
    ],
)
def test_devices_do_not_mix(cupy, expression):
    a, b = Tensor(np.float32([1, 2])), Tensor(cupy.asarray(np.float32([1, 2])))
    for left, right in ((a, b), (b, a)):
        with pytest.raises(InvalidArgumentError, match=r"\.to\(\).*'cpu' and 'cuda'"):
            expression(left, right)


def test_numbers_and_lists_join_any_device(cupy):
    there = Tensor(cupy.asarray(np.float32([1, 2])))
    for result in (there + 1, 2 * there, there - [1.0, 2.0], there + np.float32(1), there[:1]):
        assert result.backend == "cuda"
        assert result.dtype == np.float32


# --- NumPy's subclasses -----------------------------------------------------------------------


def test_results_of_subclasses_are_plain_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(1, 2, 2, 1))
    for values in (mapped, mapped.view(np.recarray)):
        assert type(tensor(values).array) is np.ndarray
        assert type(gpuconv.ops.max_pool2d(values, 2)) is np.ndarray
    assert np.shares_memory(tensor(mapped).array, mapped)


def test_masked_elements_have_no_value():
    values = np.ma.array(np.ones((1, 2, 2, 1), np.float32))
    assert type(tensor(values).array) is np.ndarray
    values[0, 1, 0, 0] = np.ma.masked
    for take in (tensor, as_array, lambda v: gpuconv.ops.max_pool2d(v, 2)):
        with pytest.raises(InvalidArgumentError, match=r"numpy\.ma\.filled.*Received: "):
            take(values)


def test_a_class_is_no_array():
    with pytest.raises(DTypeError, match=r"expected numbers\. Received: the class ndarray"):
        tensor(np.ndarray)
