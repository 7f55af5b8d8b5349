"""Weights from Keras 3 and back: ``.weights.h5`` files, and those inside ``.keras`` files."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.errors import FileFormatError, InvalidArgumentError, MissingDependencyError
from gpuconv.io.atomic import atomic_path
from gpuconv.io.keras_order import in_keras_order, is_automatic, names_of
from gpuconv.io.loading import (
    Assignment,
    LoadReport,
    check_kind,
    finish,
    own_state,
    require_built,
)
from gpuconv.layers.base import Layer
from gpuconv.layers.preprocessing import Normalization

_SUFFIX = ".weights.h5"
_MEMBER = "model.weights.h5"
_MOST_EXPANSION = 1000
"""A data set or member that claims to unpack to more than this many times its size is refused."""

_HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError)
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError)

Stored = dict[str, np.ndarray[Any, Any]]


def load_keras_weights(
    model: Layer, path: str | os.PathLike[str], partial: bool = False
) -> LoadReport:
    """Put the weights of a Keras 3 model into a model of the same layers.

    Keras's files name layers by class and number (``layers/conv2d_1/vars/0``), in the order of the
    model; so they are matched, in models inside the model too. Where all layers of a model were
    given names, the same in the file and here, these decide. The optimizer's state in the file is
    left alone.

    Args:
        model: a built model; it may lie on any device.
        path: a ``.weights.h5`` file (``save_weights``) or a ``.keras`` file (``save``).
        partial: load what fits and leave the rest, on both sides.

    Returns:
        What was loaded and what was left; nothing is left unless ``partial`` is True.

    Raises:
        MissingDependencyError: h5py is not installed (``pip install "gpuconv[h5]"``).
        FileNotFoundError: there is no such file.
        FileFormatError: the file cannot be read or is of Keras 2; or something is missing,
            unexpected or of the wrong shape: all of it is listed, and the model is as it was.
        DTypeError: weights that are not floating-point numbers, as those of quantized models.
        NotBuiltError: the model has no weights yet.
    """
    stored, names = _read(path)
    report = LoadReport()
    assignments: list[Assignment] = []
    for place, own, layer in _places(model, names):
        targets = list(own_state(layer).items())
        paths = [f"{own}/{name}" if own else name for name, _ in targets]
        for number, ((_, target), ours) in enumerate(zip(targets, paths, strict=True)):
            array = stored.pop(f"{place}vars/{number}", None)
            shape = tuple(target.shape)
            if array is None:
                report.missing[ours] = shape
            elif tuple(array.shape) != shape:
                report.mismatched[f"{place}vars/{number} ({ours})"] = (tuple(array.shape), shape)
            else:
                check_kind(f"{place}vars/{number}", array, ours, target)
                report.loaded.append(ours)
                assignments.append((target, array))
        if isinstance(layer, Normalization):
            stored.pop(f"{place}vars/{len(targets)}", None)  # a count that nothing uses
    report.unexpected.update({name: tuple(array.shape) for name, array in stored.items()})
    return finish(report, assignments, partial, "", str(path))


def save_keras_weights(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write a model's weights as Keras 3 does, for ``load_weights`` there; atomically.

    Args:
        model: a built model.
        path: a name that ends in ``.weights.h5``, as Keras wants it.

    Raises:
        MissingDependencyError: h5py is not installed (``pip install "gpuconv[h5]"``).
        InvalidArgumentError: another ending.
        NotBuiltError: the model has no weights yet.
        FileNotFoundError: the folder does not exist.
    """
    h5py = _h5py()
    if not str(os.fspath(path)).endswith(_SUFFIX):
        raise InvalidArgumentError(
            f"expected a path that ends in {_SUFFIX}, as Keras wants it. Received: {path}"
        )
    places = list(_places(model, {}))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for place, _, layer in places:
            group = file.create_group(f"{place}vars")
            group.attrs["name"] = layer.name
            arrays = [to_numpy(array) for array in own_state(layer).values()]
            if isinstance(layer, Normalization) and arrays:
                arrays.append(np.zeros((), np.int32))  # its count of batches, which nothing uses
            for number, array in enumerate(arrays):
                group[str(number)] = array


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            f'files of Keras need h5py: python -m pip install "gpuconv[h5]". Received: {error}'
        ) from error
    return h5py


# --- places ---------------------------------------------------------------------------------------


def _places(
    layer: Layer, names: dict[str, dict[str, str]], place: str = "", path: str = ""
) -> Iterator[tuple[str, str, Layer]]:
    """Yield where Keras keeps each layer, such as ``"layers/conv2d/"``, its path, and the layer.

    Args:
        layer: a model or layer.
        names: for each group of the file, the groups in it by the names of their layers.
        place, path: of ``layer``.

    Raises:
        NotBuiltError: a layer has no weights yet.
    """
    seen: set[int] = set()
    for found in _every_place(layer, names, place, path):
        if id(found[2]) not in seen:  # Keras writes a layer that stands in two places once
            seen.add(id(found[2]))
            yield found


def _every_place(
    layer: Layer, names: dict[str, dict[str, str]], place: str, path: str
) -> Iterator[tuple[str, str, Layer]]:
    require_built(layer)
    if own_state(layer):
        yield place, path, layer
    children = in_keras_order(layer)
    keys = names_of(children)
    holding = [child for child in children if child.state()]
    by_name = names.get(f"{place}layers", {})
    given = all(not is_automatic(child) for child in holding)
    if given and holding and {child.name for child in holding} == set(by_name):
        keys = {id(child): by_name[child.name] for child in holding}
    for child in children:
        if id(child) in keys:
            inner = f"{path}/{child.name}" if path else child.name
            yield from _every_place(child, names, f"{place}layers/{keys[id(child)]}/", inner)


# --- reading --------------------------------------------------------------------------------------


def _read(path: str | os.PathLike[str]) -> tuple[Stored, dict[str, dict[str, str]]]:
    """Return the layers' arrays by their places, and the groups by the names of their layers."""
    found = Path(path)
    if found.is_dir():
        raise FileFormatError(f"expected a file of Keras, found a folder. Received: {path}")
    if not found.exists():
        raise FileNotFoundError(f"expected a file of Keras, found nothing. Received: {path}")
    h5py = _h5py()
    with _content(found) as content:
        try:
            with h5py.File(content, "r") as file:
                return _arrays(h5py, file)
        except FileFormatError as error:
            raise FileFormatError(f"{error} Received: {path}") from error
        except _HDF5_ERRORS as error:
            raise FileFormatError(
                "expected weights that Keras wrote, found something else or a damaged file. "
                f"Received: {path}"
            ) from error


@contextmanager
def _content(path: Path) -> Iterator[Any]:
    """Give the path of an HDF5 file, or the one inside a ``.keras`` archive, in memory."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        yield path
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            info = members.get(_MEMBER)
            if info is None:
                raise FileFormatError(f"it has no {_MEMBER}")
            if info.file_size > _MOST_EXPANSION * max(info.compress_size, 1):
                raise FileFormatError(f"its {_MEMBER} claims to unpack to {info.file_size} bytes")
            data = archive.read(info)
    except _ZIP_ERRORS as error:
        raise FileFormatError(f"expected a .keras file: {error}. Received: {path}") from error
    with io.BytesIO(data) as memory:
        yield memory


def _arrays(h5py: Any, file: Any) -> tuple[Stored, dict[str, dict[str, str]]]:
    if "layer_names" in file.attrs or "model_weights" in file:
        raise FileFormatError(
            "this is a file of Keras 2, which names layers otherwise; write it anew with Keras 3."
        )
    stored: Stored = {}
    names: dict[str, dict[str, str]] = {}

    def visit(name: str, entry: Any) -> None:
        parts = name.split("/")
        if parts[0] not in ("layers", "vars") or "seed_generator" in parts:
            return
        if isinstance(entry, h5py.Dataset):
            stored[name] = _dataset(name, entry)
        elif parts[-1] == "vars" and len(parts) >= 3 and "name" in entry.attrs:
            container, key = "/".join(parts[:-2]), parts[-2]
            names.setdefault(container, {})[str(entry.attrs["name"])] = key

    file.visititems(visit)  # visits each object once, and follows no link out of the file
    held = {"/".join(parts) for name in stored for parts in _beginnings(name)}
    return stored, {
        container: {name: key for name, key in keys.items() if f"{container}/{key}" in held}
        for container, keys in names.items()
    }


def _beginnings(name: str) -> list[list[str]]:
    parts = name.split("/")
    return [parts[:count] for count in range(1, len(parts))]


def _dataset(name: str, entry: Any) -> np.ndarray[Any, Any]:
    """Read a data set, but none that lies elsewhere or claims far more than is there."""
    if entry.external or entry.is_virtual:
        raise FileFormatError(f"{name} lies in another file, which is not read.")
    if entry.dtype.kind not in "fiub":
        raise FileFormatError(f"{name} holds {entry.dtype}, which is not read here.")
    claimed = math.prod(entry.shape) * entry.dtype.itemsize
    if claimed > _MOST_EXPANSION * max(entry.id.get_storage_size(), 4096):
        raise FileFormatError(f"{name} claims {claimed} bytes and has far fewer.")
    return np.asarray(entry[()])
