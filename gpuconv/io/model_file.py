"""One safetensors file that holds a whole model: its configuration and its tensors.

The file is an ordinary safetensors file (https://github.com/huggingface/safetensors), so
other programs can read the tensors, and reading it never runs code, as a pickle would. The
metadata has one key, ``"gpuconv"``, with strict JSON::

    {"format": 1, "checksum": "crc32:0a1b2c3d", "configuration": {...}}
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from gpuconv.errors import DTypeError, FileFormatError, InvalidArgumentError
from gpuconv.io.atomic import atomic_path

FORMAT: Final = 1
"""Version of the layout that this module writes; it reads versions up to this one."""

_KEY = "gpuconv"
_TYPES = {
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, as .keras, .npz and PyTorch's .pt files are"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as .h5 files of Keras are"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    *((b"\x80" + bytes([protocol]), "a pickle") for protocol in range(2, 6)),
)

Tensors = dict[str, np.ndarray[Any, Any]]


def write_model_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    configuration: Mapping[str, Any],
) -> None:
    """Write named arrays and a JSON-like configuration as one file, atomically.

    Args:
        path: the file; its folder must exist.
        tensors: NumPy arrays of booleans, integers or floats, of any strides.
        configuration: dicts with string keys, lists, strings, finite numbers, booleans and
            None, nested as you like. Tuples become lists, NumPy scalars Python numbers.

    Raises:
        InvalidArgumentError: the configuration holds something that JSON cannot (NaN too), or
            a tensor has no usable name.
        DTypeError: a tensor's dtype cannot be stored.
        FileNotFoundError: the folder does not exist.
    """
    from safetensors.numpy import save_file

    stored = {name: _storable(name, array) for name, array in tensors.items()}
    plain = _plain(dict(configuration), "configuration")
    header = {"format": FORMAT, "checksum": _checksum(stored, plain), "configuration": plain}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={_KEY: json.dumps(header, allow_nan=False)})


def read_model_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tensors]:
    """Return ``(configuration, tensors)`` as :func:`write_model_file` was given them.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, truncated, foreign, or written by a newer version.
    """
    metadata, tensors = _read(path)
    if _KEY not in metadata:
        raise FileFormatError(
            f"expected a model saved by gpuconv; this safetensors file holds {len(tensors)} "
            f"tensors but no gpuconv metadata, so only its weights can be used. Received: {path}"
        )
    header = _parse(metadata[_KEY], path)
    configuration: dict[str, Any] = header["configuration"]
    if _checksum(tensors, configuration) != header.get("checksum"):
        raise FileFormatError(
            "the model file is damaged: its content does not match the checksum that was saved "
            f"with it. Received: {path}"
        )
    return configuration, tensors


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Return the arrays of any safetensors file, whoever wrote it; metadata is left out.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: not a whole safetensors file, or a tensor of a type that NumPy lacks
            (such as BF16) or complex numbers.
    """
    return _read(path)[1]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], Tensors]:
    from safetensors import SafetensorError, safe_open

    found = Path(path)
    if found.is_dir():
        raise FileFormatError(f"expected a safetensors file, found a folder. Received: {path}")
    if not found.exists():
        raise FileNotFoundError(f"expected a safetensors file, found nothing. Received: {path}")
    tensors: Tensors = {}
    try:
        with safe_open(found, framework="np") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (the reader is not a dict)
                stored = file.get_slice(name).get_dtype()
                if stored not in _TYPES.values():
                    raise FileFormatError(
                        f"tensor {name!r} is stored as {stored}, which is not read here; save it "
                        f"as F32 instead. Received: {path}"
                    )
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"expected a safetensors file, found {_describe(found)}. Received: {path}"
        ) from error
    return metadata, tensors


def _describe(path: Path) -> str:
    """Say in words what a file is that the safetensors reader refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        if not start:
            return "an empty file"
        for magic, words in _FOREIGN:
            if start.startswith(magic):
                return words
        header_size = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{":
            return f"{size} bytes of something else"
        if 8 + header_size > size:
            return f"a truncated one: {size} bytes, of which the header alone should be more"
        file.seek(8)
        header = file.read(header_size)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        expected = 8 + header_size + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "one with a damaged header"
    if size < expected:
        return f"a truncated one: {size} of {expected} bytes"
    return f"a damaged one: {size} bytes instead of {expected}, or a header that contradicts itself"


def _parse(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        header = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise FileFormatError(
            f"the gpuconv metadata is not valid JSON ({error}). Received: {path}"
        ) from error
    found: dict[str, Any] = header if isinstance(header, dict) else {}
    version = found.get("format")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FileFormatError(
            f"the gpuconv metadata should name a format version, 1 or more, but says {version!r}. "
            f"Received: {path}"
        )
    if version > FORMAT:
        raise FileFormatError(
            f"a newer version of gpuconv wrote this file: it has format {version}, this version "
            f"reads up to {FORMAT}; install a newer gpuconv. Received: {path}"
        )
    if not isinstance(found.get("configuration"), dict):
        raise FileFormatError(f"the gpuconv metadata has no configuration. Received: {path}")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _storable(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array C-contiguous and in the byte order of the file."""
    if not isinstance(name, str) or not name or name == "__metadata__":
        raise InvalidArgumentError(f"a tensor needs a name other than this. Received: {name!r}")
    if not isinstance(array, np.ndarray) or array.dtype.name not in _TYPES:
        raise DTypeError(
            f"tensor {name!r} must be a NumPy array of {', '.join(_TYPES)}. "
            f"Received: {getattr(array, 'dtype', type(array).__name__)}"
        )
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _checksum(tensors: Mapping[str, np.ndarray[Any, Any]], configuration: Mapping[str, Any]) -> str:
    value = zlib.crc32(json.dumps(configuration).encode())
    for name in sorted(tensors):
        array = tensors[name]
        value = zlib.crc32(f"{name}|{array.dtype.name}|{array.shape}|".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return f"crc32:{value:08x}"


def _plain(value: Any, where: str) -> Any:
    """Return ``value`` in the types of JSON, or raise and say where it cannot be."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise InvalidArgumentError(
        f"{where} must be a finite number, string, boolean, None, list, or dict with string keys, "
        f"to be written into a file. Received: {value!r}"
    )
