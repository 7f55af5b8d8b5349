"""Starting kernels: flat views of arrays that another library owns, its stream, sizes of grids.

A launcher (the function beside each kernel) owns the grid, the shared memory and the checks, and
calls :func:`launch`. Its arrays are C-contiguous: on a device anything with
``__cuda_array_interface__``, in the simulator NumPy arrays. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuconv_kernels.device.target import SIMULATED, cuda

Array = Any

_INT32 = 2**31 - 1
_SIMULATED_THREADS = 64
"""Threads of one simulated launch of an element-wise kernel; a thread costs 1 to 2 ms."""


def launch(
    kernel: Any,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    *arguments: Any,
    shared_bytes: int = 0,
) -> None:
    """Start a kernel on the stream on which its arrays are used.

    In the simulator an array may also be an object that holds a NumPy array as ``host``.

    Args:
        kernel: made by ``target.compiled``.
        grid, block: numbers of blocks, and of threads in a block, in up to three dimensions.
        arguments: arrays, passed flat; Python integers, passed as int32; NumPy scalars, passed in
            their own dtype.
        shared_bytes: dynamic shared memory of a block.

    Raises:
        ValueError: an array is not contiguous, or an integer does not fit into int32.
    """
    if SIMULATED:
        passed = [_flat_numpy(a) if isinstance(_host(a), np.ndarray) else a for a in arguments]
        kernel[grid, block, 0, shared_bytes](*passed)
        return
    stream = 0
    passed = []
    for argument in arguments:
        interface = getattr(argument, "__cuda_array_interface__", None)
        if interface is not None:
            stream = interface.get("stream") or stream
            passed.append(_flat_device(interface, argument))
        elif type(argument) is int:
            passed.append(_as_int32(argument))
        else:
            passed.append(argument)
    kernel[grid, block, _stream(stream), shared_bytes](*passed)


def elementwise_grid(count: int, threads: int = 256, blocks: int = 4096) -> tuple[int, int]:
    """Return ``(grid, block)`` for a kernel that strides over ``count`` elements by its grid.

    The simulator gets few threads, each with more to do.
    """
    if SIMULATED:
        threads, blocks = 32, _SIMULATED_THREADS // 32
    return max(1, min(-(-count // threads), blocks)), threads


def is_aligned(*arrays: Array) -> bool:
    """Whether every array begins on a multiple of 16 bytes, as ``copy16`` needs."""
    return all(_address(a) % 16 == 0 for a in arrays)


def ceil_div(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def _address(array: Array) -> int:
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return int(interface["data"][0])
    return int(_host(array).ctypes.data)


def _host(array: Array) -> Any:
    return getattr(array, "host", array)


def _flat_numpy(array: Array) -> Any:
    array = _host(array)
    if not array.flags.c_contiguous:
        raise ValueError(f"a kernel takes contiguous arrays. Received: strides {array.strides}")
    flat = array.reshape(-1)
    if not flat.flags.writeable:  # the simulator copies every array back
        flat = flat.copy()
    return flat


def _flat_device(interface: dict[str, Any], owner: Any) -> Any:
    if interface.get("strides") is not None:
        raise ValueError(
            f"a kernel takes contiguous arrays. Received: strides {interface['strides']}"
        )
    count = 1
    for extent in interface["shape"]:
        count *= extent
    described = {
        "shape": (count,),
        "strides": None,
        "typestr": interface["typestr"],
        "data": (interface["data"][0], False),
        "version": 3,
    }
    # sync=False: the kernel goes to the stream of the array's owner: nothing to wait for.
    return cuda.from_cuda_array_interface(described, owner=owner, sync=False)


def _as_int32(value: int) -> np.int32:
    if not -_INT32 <= value <= _INT32:
        raise ValueError(f"a kernel's integers are 32 bits wide. Received: {value}")
    return np.int32(value)


@functools.lru_cache(maxsize=64)
def _stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else 0
