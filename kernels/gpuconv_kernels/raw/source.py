"""The CUDA C++ sources: what each file contains, and the arguments that each kernel takes.

Kernels are found by reading their declarations, so Python and C++ cannot disagree about them: an
argument becomes what the kernel declares, and an array of another dtype is refused.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

Array = Any

FOLDER: Final = pathlib.Path(__file__).parent

FILES: Final = (
    "activations.cu",
    "depthwise.cu",
    "im2col.cu",
    "normalization.cu",
    "padding.cu",
    "pooling.cu",
    "random.cu",
    "softmax.cu",
    "sums.cu",
    "updates.cu",
)
"""Each is compiled once for float and once for double."""

REALS: Final = {"float32": "float", "float64": "double"}
"""What ``REAL`` stands for, by the dtype of the arrays."""

_REAL_NAMES: Final = {np.dtype(name): name for name in REALS}

WINDOW: Final = np.dtype(
    [(n, np.int32, 3) for n in ("input", "output", "kernel", "stride", "dilation", "lo", "hi")]
)
"""``struct Window`` of window.cuh."""

NEST: Final = np.dtype(
    [("count", np.int64), *((n, np.int64, 3) for n in ("extent", "x", "mean", "scale"))]
)
"""``struct Nest`` of nest.cuh."""

_TYPES: Final[dict[str, Any]] = {
    "int": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint64": np.dtype(np.uint64),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "REAL": None,
    "Window": WINDOW,
    "Nest": NEST,
}

_KERNEL = re.compile(
    r'extern "C" __global__ void __launch_bounds__\((\d+), \d+\)\s+(\w+)\(([^)]*)\)', re.DOTALL
)
_PARAMETER = re.compile(r"(const )?(\w+)(\*)?(?: __restrict__)? (\w+)")


class Parameter(NamedTuple):
    """One parameter of a kernel; ``dtype`` None stands for ``REAL``."""

    name: str
    dtype: Any
    is_array: bool
    is_const: bool


class Kernel(NamedTuple):
    """A kernel as it is declared."""

    name: str
    file: str
    threads: int
    parameters: tuple[Parameter, ...]


@cache
def text(file: str) -> str:
    """The source of a file with what it includes from this folder written out."""
    source = (FOLDER / file).read_text(encoding="utf-8")
    return re.sub(r'#include "(\w+\.cuh)"', lambda found: text(found[1]), source)


@cache
def kernels() -> dict[str, Kernel]:
    """Every kernel by its name."""
    return {k.name: k for file in FILES for k in declared(text(file), file)}


def declared(code: str, file: str) -> list[Kernel]:
    """The kernels that a source declares.

    Raises:
        ValueError: a parameter of a type that is not in the table above.
    """
    plain = re.sub(r"//[^\n]*", "", code)
    return [
        Kernel(name, file, int(threads), tuple(_parameter(p, name) for p in listed.split(",")))
        for threads, name, listed in _KERNEL.findall(plain)
    ]


def _parameter(declared: str, kernel: str) -> Parameter:
    matched = _PARAMETER.fullmatch(" ".join(declared.split()))
    if matched is None or matched[2] not in _TYPES:
        raise ValueError(f"parameter of the kernel {kernel!r} not understood: {declared!r}")
    return Parameter(matched[4], _TYPES[matched[2]], matched[3] == "*", matched[1] is not None)


def prepare(name: str, arguments: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the dtype that ``REAL`` stands for and the arguments as the kernel declares them.

    Arrays stay as they are (None: a null pointer); numbers become NumPy scalars; structures are
    NumPy arrays of one element.

    Raises:
        TypeError: a wrong number of arguments, an array of another dtype, or one with gaps.
        OverflowError: an integer that does not fit.
    """
    converters = _converters(name)
    if len(arguments) != len(converters):
        raise TypeError(f"{name} takes {len(converters)} arguments. Received: {len(arguments)}")
    real = next(
        a.dtype
        for (p, _), a in zip(converters, arguments, strict=True)
        if p.is_array and p.dtype is None and a is not None
    )
    if real not in _REAL_NAMES:
        raise TypeError(f"{name} computes in float32 or float64. Received: {real}")
    pairs = zip(converters, arguments, strict=True)
    return _REAL_NAMES[real], [_converted(name, p, limits, a, real) for (p, limits), a in pairs]


@cache
def _converters(name: str) -> list[tuple[Parameter, tuple[int, int] | None]]:
    """The parameters of a kernel and, for integers, their limits."""
    found: list[tuple[Parameter, tuple[int, int] | None]] = []
    for parameter in kernels()[name].parameters:
        limits = None
        if parameter.dtype is not None and parameter.dtype.kind in "iu":
            about = np.iinfo(parameter.dtype)
            limits = (int(about.min), int(about.max))
        found.append((parameter, limits))
    return found


def _converted(
    name: str, parameter: Parameter, limits: tuple[int, int] | None, value: Any, real: Any
) -> Any:
    dtype = real if parameter.dtype is None else parameter.dtype
    if parameter.is_array:
        if value is not None and (value.dtype != dtype or not value.flags.c_contiguous):
            raise TypeError(
                f"{parameter.name} of {name} is a C-contiguous array of {dtype}. "
                f"Received: {value.dtype}, strides {value.strides}"
            )
        return value
    if dtype.kind == "V":
        if value.dtype != dtype or value.size != 1:
            raise TypeError(f"{parameter.name} of {name} is a {dtype}. Received: {value!r}")
        return value
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise OverflowError(f"{parameter.name} of {name} must fit into {dtype}. Received: {value}")
    return dtype.type(value)
