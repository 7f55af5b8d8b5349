"""The tensors of a file that PyTorch wrote, without PyTorch and without running the file.

``torch.save`` writes a zip archive: ``data.pkl``, a pickle that says how the tensors lie in the
storages, and one file ``data/<key>`` for each storage.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.errors import FileFormatError
from gpuconv.io.model_file import Tensors, read_tensors
from gpuconv.io.plain_pickle import read_pickle

_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_SAFETENSORS = {
    "BF16": "<u2",
    "BOOL": "?",
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
}
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(ValueError, RuntimeError, TypeError, KeyError, OverflowError),
)
_MOST_DIMENSIONS = 32
_CHUNK = 1 << 24
_USUAL_KEYS = ("state_dict", "model_state_dict", "model")


def read_torch_file(path: str | os.PathLike[str]) -> Tensors:
    """Return the tensors of a ``.safetensors`` file, or of a state_dict that ``torch.save`` wrote.

    The content decides, not the name. A pickle is never run: what is read are tensors, and the
    dicts around them; anything else that the file names is an error. In a checkpoint the state_dict
    may lie under ``"state_dict"``, ``"model_state_dict"`` or ``"model"``, or be the only one.

    Returns:
        Arrays by PyTorch's names, in the file's order. float16 stays, bfloat16 becomes float32.
        Tensors that share memory in the file share it here.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: damaged or truncated, PyTorch's format of before 1.6, a whole pickled
            module instead of a state_dict, or a file that would run code.
    """
    found = Path(path)
    if found.is_dir():
        raise FileFormatError(f"expected a file with tensors, found a folder. Received: {path}")
    if not found.exists():
        raise FileNotFoundError(f"expected a file with tensors, found nothing. Received: {path}")
    with found.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK"):
        return _read_archive(found)
    if start.startswith(_LEGACY):
        raise FileFormatError(
            "this file has PyTorch's format of before version 1.6, which is not read; write it "
            f"anew there: torch.save(torch.load(path, weights_only=True), path). Received: {path}"
        )
    return _read_safetensors(found)


# --- safetensors ----------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Tensors:
    """Read tensors of all types that NumPy has, and bfloat16 as float32."""
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, framework="np") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError):
        types = set()
    if "BF16" not in types:
        return read_tensors(path)  # it also says what is wrong with a file
    tensors: Tensors = {}
    for name, entry in deserialize(path.read_bytes()):
        if entry["dtype"] not in _SAFETENSORS:
            raise FileFormatError(
                f"tensor {name!r} is stored as {entry['dtype']}, which is not read here; save it "
                f"as F32 instead. Received: {path}"
            )
        numbers = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]])
        wide = bfloat16_to_float32(numbers) if entry["dtype"] == "BF16" else numbers
        tensors[name] = wide.reshape(entry["shape"])
    return tensors


def bfloat16_to_float32(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the float32 numbers whose upper halves are these 16-bit words."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


# --- zip archives ---------------------------------------------------------------------------------


def _read_archive(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            return _state_dict(_Archive(archive, path.stat().st_size).content())
    except _DAMAGE as error:
        raise FileFormatError(
            f"expected a state_dict that torch.save wrote: {error}. Received: {path}"
        ) from error


@dataclass(frozen=True)
class _Kind:
    """A class of storages that the pickle names; it is not callable."""

    dtype: str


@dataclass(frozen=True)
class _Storage:
    """The numbers that tensors are views of."""

    numbers: np.ndarray[Any, Any]


class _Archive:
    """The zip archive of ``torch.save``: the pickle, and the storages that it refers to."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self._members = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in self._members if _is_pickle(name)]
        if len(roots) != 1:
            raise FileFormatError("it is a zip archive without a data.pkl")
        if sum(info.file_size for info in self._members.values()) > size:
            raise FileFormatError("its members are compressed or overlap")
        self._root = roots[0]
        if f"{self._root}constants.pkl" in self._members:
            raise FileFormatError(
                "it is a TorchScript program; save the model's state_dict() instead"
            )
        self._storages: dict[str, _Storage] = {}
        order = self._bytes("byteorder") if f"{self._root}byteorder" in self._members else b""
        self._big_endian = order.strip() == b"big"

    def _bytes(self, name: str) -> bytes:
        return self._archive.read(self._members[self._root + name])

    def content(self) -> Any:
        """What was saved, with NumPy arrays for tensors."""
        known: dict[str, Any] = {f"torch.{name}": _Kind(dtype) for name, dtype in _DTYPES.items()}
        known["collections.OrderedDict"] = _empty_dict
        known["torch._utils._rebuild_tensor_v2"] = _tensor
        known["torch._utils._rebuild_parameter"] = _parameter
        return read_pickle(self._bytes("data.pkl"), known, self._storage)

    def _storage(self, identity: Any) -> _Storage:
        """Read the storage that an identifier of the pickle stands for; each is read once."""
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise FileFormatError("it refers to something that is not a storage")
        _, kind, key, _, count = identity
        if not isinstance(kind, _Kind) or type(key) is not str or type(count) is not int:
            raise FileFormatError("it refers to a storage of an unknown kind")
        if key not in self._storages:
            self._storages[key] = self._read_storage(kind, key)
        storage = self._storages[key]
        if storage.numbers.size != count:
            raise FileFormatError(
                f"storage {key[:20]!r} should hold {count} numbers and holds {storage.numbers.size}"
            )
        return storage

    def _read_storage(self, kind: _Kind, key: str) -> _Storage:
        info = self._members.get(f"{self._root}data/{key}")
        if info is None:
            raise FileFormatError(f"storage {key[:20]!r} is missing")
        stored = np.dtype("uint16" if kind.dtype == "bfloat16" else kind.dtype)
        if info.file_size % stored.itemsize:
            raise FileFormatError(f"storage {key[:20]!r} does not hold whole numbers")
        in_file = stored.newbyteorder(">" if self._big_endian else "<")
        numbers = np.empty(info.file_size // stored.itemsize, in_file)
        target = numbers.view(np.uint8).data
        with self._archive.open(info) as file:
            position = 0
            while position < len(target):
                count = file.readinto(target[position : position + _CHUNK])  # type: ignore[attr-defined]
                if not count:
                    raise FileFormatError(f"storage {key[:20]!r} is truncated")
                position += count
            file.read(1)  # the end of the member, where its checksum is compared
        native = numbers.astype(stored, copy=False)
        return _Storage(bfloat16_to_float32(native) if kind.dtype == "bfloat16" else native)


def _empty_dict() -> dict[Any, Any]:
    return {}


def _is_pickle(name: str) -> bool:
    return name.count("/") <= 1 and name.rpartition("/")[2] == "data.pkl"


def _tensor(
    storage: Any,
    offset: Any,
    extents: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> np.ndarray[Any, Any]:
    """Return a view of a storage, after checking that it stays inside."""
    integers = [offset, *extents, *strides]
    if (
        not isinstance(storage, _Storage)
        or any(type(n) is not int or n < 0 for n in integers)
        or not len(extents) == len(strides) <= _MOST_DIMENSIONS
    ):
        raise FileFormatError("it describes a tensor with impossible extents or strides")
    if metadata:
        raise FileFormatError("a tensor is marked as negated or conjugated")
    numbers = storage.numbers
    count = math.prod(extents)
    if count > numbers.size:
        raise FileFormatError(
            f"a tensor of {count} numbers has a storage of {numbers.size}: it repeats or overlaps"
        )
    if count == 0:
        return np.zeros(tuple(extents), numbers.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(extents, strides, strict=True))
    if last >= numbers.size:
        raise FileFormatError(f"a tensor reaches to place {last} of {numbers.size} in its storage")
    # The stride of an extent of 1 means nothing, and may be any number.
    steps = [
        step * numbers.itemsize if n > 1 else 0 for n, step in zip(extents, strides, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(numbers[offset:], tuple(extents), steps)


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None) -> Any:
    return data


def _state_dict(content: Any) -> Tensors:
    """Find the tensors by name in what was saved.

    Raises:
        FileFormatError: there are none, or several dicts of them.
    """
    if _holds_tensors(content):
        return dict(content)
    entries = content if isinstance(content, dict) else {}
    found = {key: value for key, value in entries.items() if _holds_tensors(value)}
    for key in _USUAL_KEYS:
        if key in found:
            return dict(found[key])
    if len(found) == 1:
        return dict(next(iter(found.values())))
    listed = ", ".join(str(key)[:40] for key in list(entries)[:10])
    raise FileFormatError(
        f"it holds {f'the entries {listed}' if entries else f'a {type(content).__name__}'}, of "
        f"which {'several could be' if found else 'none is'} a dict of names and tensors"
    )


def _holds_tensors(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in value.items())
    )
