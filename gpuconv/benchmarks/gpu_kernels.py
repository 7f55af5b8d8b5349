"""Which device kernels are launched, one by one, and arrays that show what a kernel spoils.

A launch is recognised by what was compiled: the function, all that its closure holds, and the
types of its arguments. So each belongs to an entry of the catalogue (gpuconv.testing.catalogue), or
is another form of a kernel that the catalogue has no entry for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]
Array = Any

ROOM = 512
"""Bytes of canaries on each side of an array; a multiple of 16, so that none is misaligned."""
CANARY = 0xFF
"""Eight of these are NaN, or -1: read by mistake, they spoil the result."""

Start = Callable[[], None]
Tell = Callable[[str, Any, tuple[Any, ...], Start], None]
"""Told of each launch: its name, the kernel, the arguments, and how to start it."""


# --- which kernel ---------------------------------------------------------------------------


def names(shared_memory_only: bool = False) -> list[str]:
    """The names of the catalogue, in its order; of all kernels, or of those with shared memory."""
    chosen = _specs()
    if shared_memory_only:
        chosen = [spec for spec in chosen if uses_shared_memory(spec.function)]
    return [spec.name for spec in chosen]


def problem() -> str:
    """Why Numba's kernels cannot even be imported; empty if they can."""
    try:
        _specs()
    except Exception as error:  # a target of Numba's that does not fit NumPy fails in many ways
        return f"the kernels of cuda:numba cannot be imported: {type(error).__name__}: {error}"
    return ""


@functools.cache
def _specs() -> list[Any]:
    from gpuconv.testing import catalogue  # imports Numba

    return [spec for specs in catalogue.catalogues().values() for spec in specs]


def uses_shared_memory(kernel: Any) -> bool:
    """Whether the threads of a kernel exchange numbers."""
    return "shared" in _function_of(kernel).__code__.co_names


@contextlib.contextmanager
def watching(tell: Tell) -> Iterator[None]:
    """Hand every launch of the device kernels to ``tell``, which starts it or does not."""
    from gpuconv.testing import catalogue
    from gpuconv_kernels.device import launch as launching

    original = launching.launch

    def launch(kernel: Any, grid: Any, block: Any, *arguments: Any, **options: Any) -> None:
        def start() -> None:
            original(kernel, grid, block, *arguments, **options)

        tell(name_of(kernel, arguments), kernel, arguments, start)

    modules = [importlib.import_module(name) for name in catalogue.module_names()]
    holders = [m for m in modules if getattr(m, "launch", None) is original]
    try:
        for module in holders:
            vars(module)["launch"] = launch
        yield
    finally:
        for module in holders:
            vars(module)["launch"] = original


def name_of(kernel: Any, arguments: tuple[Any, ...]) -> str:
    """The kernel's name in the catalogue; else that of its function and the types it was given."""
    described = tuple(map(_argument, arguments))
    found = _by_form().get((_form(kernel), described))
    if found is not None:
        return found
    function = _function_of(kernel)
    return f"{function.__name__} (a form without an entry; {_number_type(described)})"


def has_entry(name: str) -> bool:
    """Whether :func:`name_of` found an entry of the catalogue."""
    return not name.endswith(")")


def weight_of(kernel: Any) -> int:
    """How long a kernel takes to compile, compared with others: the length of its code."""
    return len(_function_of(kernel).__code__.co_code)


@functools.cache
def _by_form() -> dict[tuple[Any, tuple[str, ...]], str]:
    return {(_form(spec.function), tuple(map(str, spec.signature))): spec.name for spec in _specs()}


def _function_of(kernel: Any) -> Any:
    """The Python function of a kernel or device function, on a device and in the simulator."""
    return getattr(kernel, "py_func", None) or getattr(kernel, "fn", None) or kernel


def _form(value: Any) -> Any:
    """What two functions share that compile to the same code."""
    function = _function_of(value)
    if isinstance(function, types.FunctionType):
        code = function.__code__
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        place = (function.__module__, function.__qualname__, code.co_firstlineno)
        return (*place, tuple(zip(code.co_freevars, map(_form, held), strict=True)))
    if isinstance(value, (tuple, list)):
        return tuple(map(_form, value))
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(value).__name__} {value!r}")


def _argument(value: Any) -> str:
    """The name that Numba gives the type with which ``launch`` passes an argument."""
    if isinstance(value, tuple):
        return f"UniTuple({_argument(value[0])} x {len(value)})"
    if hasattr(value, "dtype") and not isinstance(value, np.generic):
        return f"array({np.dtype(value.dtype).name}, 1d, C)"
    return "int32" if type(value) is int else str(np.dtype(type(value)).name)


def _number_type(described: tuple[str, ...]) -> str:
    arrays = [re.findall(r"array\((\w+)", text) for text in described]
    return next((found[0] for found in arrays if found), "no array")


# --- arrays ----------------------------------------------------------------------------------


class Memory:
    """Makes the arrays of a case, and says afterwards what is wrong with them.

    Args:
        to_device: copies a NumPy array to where the kernels run.
        to_host: copies one back.
        guarded: whether each array lies between canaries. Otherwise each has memory of its own,
            in which a memory checker sees the first byte beside it.
    """

    def __init__(
        self,
        to_device: Callable[[NDArray], Array],
        to_host: Callable[[Array], NDArray],
        guarded: bool,
    ) -> None:
        self._to_device, self._to_host, self.guarded = to_device, to_host, guarded
        self._held: list[tuple[str, Array, NDArray]] = []
        self._expected: list[Array] = []

    def put(self, array: Any) -> Array:
        """An input: must be the same afterwards."""
        return self._make("an input", np.ascontiguousarray(array))

    def inout(self, array: Any) -> Array:
        """What is read and written: must hold no NaN afterwards."""
        return self._make("an array that is updated", np.ascontiguousarray(array))

    def output(self, shape: Any, dtype: Any) -> Array:
        """A result, full of poison: none of it may be left."""
        return self._make("a result", np.full(shape, poison(dtype), dtype))

    def scratch(self, count: int, dtype: Any) -> Array | None:
        """A flat workspace, full of poison, of which some may be left; None for no elements."""
        return self.workspace(np.full(count, poison(dtype), dtype)) if count else None

    def workspace(self, array: Any) -> Array:
        """What may hold anything afterwards."""
        return self._make("a workspace", np.ascontiguousarray(array))

    def expect(self, array: Array) -> None:
        """Look for NaN in an array too that was made elsewhere, or for something else."""
        self._expected.append(array)

    def problems(self) -> list[str]:
        """What is wrong with the arrays made so far, in words; forgets them."""
        found = []
        for number, (role, whole, before) in enumerate(self._held):
            after = self._to_host(whole)
            told = f"array {number}, {role} of {before.shape} {before.dtype}"
            if self.guarded:
                sides = np.concatenate([after[:ROOM], after[len(after) - ROOM :]])
                if (sides != CANARY).any():
                    found.append(f"{told}: something was written beside it")
                after = after[ROOM : len(after) - ROOM].view(before.dtype).reshape(before.shape)
            if role == "an input" and after.tobytes() != before.tobytes():
                found.append(f"{told}: it was changed")
            if role in ("a result", "an array that is updated"):
                spoiled = _spoiled(after)
                if spoiled:
                    found.append(
                        f"{told}: {spoiled} of its numbers were not written, or come from NaN "
                        f"outside of the inputs"
                    )
        for array in self._expected:
            spoiled = _spoiled(self._to_host(array))
            if spoiled:
                found.append(f"a result of {array.shape}: {spoiled} of its numbers are NaN")
        self.forget()
        return found

    def forget(self) -> None:
        """Let go of the arrays made so far."""
        self._held.clear()
        self._expected.clear()

    def _make(self, role: str, array: NDArray) -> Array:
        if not self.guarded:
            made = self._to_device(array)
            self._held.append((role, made, array))
            return made
        memory = np.full(array.nbytes + 2 * ROOM, CANARY, np.uint8)
        memory[ROOM : ROOM + array.nbytes] = array.reshape(-1).view(np.uint8)
        whole = self._to_device(memory)
        self._held.append((role, whole, array))
        return whole[ROOM : ROOM + array.nbytes].view(array.dtype).reshape(array.shape)


def poison(dtype: Any) -> Any:
    """NaN, or the largest integer."""
    return np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max


def _spoiled(array: NDArray) -> int:
    if array.dtype.kind == "f":
        return int(np.isnan(array).sum())
    return int((array == poison(array.dtype)).sum())


def host_memory(guarded: bool = True) -> Memory:
    """NumPy arrays, for the simulator, and for launches that are not started."""
    return Memory(np.array, np.array, guarded)


def device_memory(guarded: bool) -> Memory:
    """CuPy arrays, each with an allocation of the driver's to itself if not ``guarded``.

    CuPy's pool hands out pieces of larger blocks, and of what is read or written beside a piece a
    memory checker sees nothing.
    """
    import cupy

    if not guarded:
        cupy.cuda.set_allocator(None)
    return Memory(cupy.asarray, cupy.asnumpy, guarded)
