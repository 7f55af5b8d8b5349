"""Weights from PyTorch and back: names, layouts, and who gets what."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.containers import unwrap
from gpuconv.errors import InvalidArgumentError, shown, suggestion
from gpuconv.io.atomic import atomic_path
from gpuconv.io.loading import Assignment, LoadReport, check_kind, finish
from gpuconv.io.matching import by_position, is_chain
from gpuconv.io.model_file import Tensors
from gpuconv.io.torch_file import read_torch_file
from gpuconv.io.torch_layout import Slot, torch_modules
from gpuconv.layers.base import Layer

Rename = Mapping[str, str | None] | Callable[[str], str | None]

_COUNTER = "num_batches_tracked"


def load_torch_state(
    model: Layer,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    partial: bool = False,
    rename: Rename | None = None,
) -> LoadReport:
    """Put the weights of a PyTorch network into a model.

    Which module's weights a layer takes: with ``rename`` the one that it says; else the one of its
    own name, where ``/`` between nested layers counts as ``.``; else, if not a single name is the
    same and the model is a chain of layers, the next one whose arrays have its shapes. Where the
    source keeps no order (safetensors files, and dicts sorted by name), the numbers in the modules'
    names tell which is next.

    Layouts are converted: kernels, depthwise kernels, Linear weights; behind the flattening of
    channels-last data the features change places, for PyTorch flattens (c, h, w); the other way,
    features that a Reshape makes a picture of, is not followed. A SeparableConv takes the modules
    ``<name>.depthwise`` and ``<name>.pointwise``. ``num_batches_tracked`` counts only for layers
    that keep it.

    Args:
        model: a built model, or a layer; it may lie on any device.
        source: a file, see :func:`read_torch_file`, or a dict of arrays with PyTorch's names.
        partial: load what fits and leave the rest, on both sides.
        rename: from PyTorch's module names, without ``.weight``, to the layers' names: a dict,
            whose keys may also be the beginnings of names (``{"backbone": "base"}``,
            ``{"module": ""}``; ``{"": "base"}`` puts it before all others), or a function. None as
            a new name leaves the module out.

    Returns:
        What was loaded and what was left; nothing is left unless ``partial`` is True.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file cannot be read; or something is missing, unexpected or of the
            wrong shape: all of it is listed, and the model is as it was.
        DTypeError: weights that are not floating-point numbers.
        InvalidArgumentError: ``rename`` names what is not there, two modules for one layer, or a
            file without order where names do not tell who comes first.
        NotBuiltError: the model has no weights yet.
    """
    modules = torch_modules(model)
    tensors, ordered = _tensors(source)
    given = _by_module(tensors)
    names = {module.name for module in modules}
    if rename is not None:
        wanted = _renamed(given, rename)
    elif names.intersection(given) or not is_chain(model):
        wanted = {name: name for name in given}
    else:
        wanted = by_position([m for m in modules if not m.optional], given, ordered)
    sources = {ours: theirs for theirs, ours in wanted.items() if ours is not None}
    report, assignments = LoadReport(), []
    for module in modules:
        theirs = sources.get(module.name)
        if theirs is None and module.optional:
            continue
        entries = {} if theirs is None else given[theirs]
        for key, slot in module.slots.items():
            name = f"{theirs}.{key}" if theirs else key
            assignments += _assigned(report, slot, name, entries.get(key))
    _note_unexpected(report, given, wanted, {m.name: set(m.slots) for m in modules})
    hint = "rename={...} says which module belongs to which layer." if rename is None else ""
    return finish(report, assignments, partial, hint, _described(source))


def torch_state(model: Layer, *, rename: Rename | None = None) -> Tensors:
    """Return copies of a model's weights with PyTorch's names and layouts.

    Args:
        model: a built model, or a layer.
        rename: from the layers' names to PyTorch's module names, as in
            :func:`load_torch_state` the other way round; None as a new name leaves a layer out.
            By default the layers' names with ``.`` for ``/``.

    Returns:
        Arrays that ``load_state_dict`` takes once they are tensors.

    Raises:
        NotBuiltError: the model has no weights yet.
        InvalidArgumentError: two layers would have one name.
    """
    modules = torch_modules(model)
    names = {module.name: module.name for module in modules}
    new = names if rename is None else _renamed(names, rename)
    state: Tensors = {}
    for module in modules:
        name = new[module.name]
        if name is None:
            continue
        for key, slot in module.slots.items():
            array = slot.layout.theirs(to_numpy(slot.target))
            state[f"{name}.{key}" if name else key] = np.array(array, order="C")
    return state


def save_torch_state(
    model: Layer, path: str | os.PathLike[str], *, rename: Rename | None = None
) -> None:
    """Write :func:`torch_state` as a safetensors file, atomically.

    In PyTorch: ``net.load_state_dict(safetensors.torch.load_file(path))``.

    Raises:
        NotBuiltError, InvalidArgumentError: as :func:`torch_state`.
        FileNotFoundError: the folder does not exist.
    """
    from safetensors.numpy import save_file

    state = torch_state(model, rename=rename)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


# --- names ----------------------------------------------------------------------------------------


def _tensors(source: Any) -> tuple[Tensors, bool]:
    """Return arrays by name, and whether their order is that of the network."""
    if isinstance(source, Mapping):
        tensors: Tensors = {}
        for name, value in source.items():
            if not isinstance(name, str):
                raise InvalidArgumentError(
                    f"expected a dict with PyTorch's names. Received: the key {shown(name)}"
                )
            detached = value.detach() if hasattr(value, "detach") else value
            tensors[name] = to_numpy(unwrap(detached, name)[0])
    elif isinstance(source, (str, os.PathLike)):
        tensors = read_torch_file(source)
    else:
        raise InvalidArgumentError(
            f"expected a file or a dict of arrays with PyTorch's names. Received: {shown(source)}"
        )
    names = list(tensors)
    return tensors, names != sorted(names) and not _is_safetensors(source)


def _is_safetensors(source: Any) -> bool:
    if isinstance(source, Mapping):
        return False
    with Path(source).open("rb") as file:
        return not file.read(2).startswith(b"PK")


def _by_module(tensors: Tensors) -> dict[str, Tensors]:
    """Return ``{"conv1": {"weight": ..., "bias": ...}}``."""
    found: dict[str, Tensors] = {}
    for name, array in tensors.items():
        module, _, key = name.rpartition(".")
        found.setdefault(module, {})[key] = array
    return found


def _renamed(given: Mapping[str, Any], rename: Rename) -> dict[str, str | None]:
    """Return the new name of each module.

    Raises:
        InvalidArgumentError: a name in ``rename`` that is not there, or two of one new name.
    """
    if callable(rename):
        wanted = {name: rename(name) for name in given}
    elif isinstance(rename, Mapping):
        beginnings = {old.replace("/", "."): new for old, new in rename.items()}
        wanted = {name: _rename_one(name, beginnings) for name in given}
        for old in beginnings:
            if old and not any(name == old or name.startswith(f"{old}.") for name in given):
                raise InvalidArgumentError(
                    f"rename names a module that is not there.{suggestion(old, given)} "
                    f"Received: {old!r}"
                )
    else:
        raise InvalidArgumentError(
            f"rename must be a dict or a function of a name. Received: {shown(rename)}"
        )
    seen: dict[str, str] = {}
    for old, new in wanted.items():
        if new is None:
            continue
        if not isinstance(new, str):
            raise InvalidArgumentError(
                f"rename must give a name, or None, for {old!r}. Received: {shown(new)}"
            )
        wanted[old] = plain = new.replace("/", ".")
        if plain in seen:
            raise InvalidArgumentError(
                f"rename gives two modules one name. Received: {seen[plain]!r} and {old!r} for "
                f"{plain!r}"
            )
        seen[plain] = old
    return wanted


def _rename_one(name: str, beginnings: Mapping[str, str | None]) -> str | None:
    """Replace the longest beginning of a name that is known."""
    parts = name.split(".")
    for count in range(len(parts), -1, -1):
        old = ".".join(parts[:count])
        if old in beginnings:
            new = beginnings[old]
            return None if new is None else ".".join([*([new] if new else []), *parts[count:]])
    return name


# --- arrays ---------------------------------------------------------------------------------------


def _assigned(
    report: LoadReport, slot: Slot, name: str, array: np.ndarray[Any, Any] | None
) -> list[Assignment]:
    """Note what becomes of an array of the model; return what is to be set."""
    if array is None:
        report.missing[slot.path] = tuple(slot.target.shape)
        return []
    if tuple(array.shape) != slot.shape:
        report.mismatched[name] = (tuple(array.shape), slot.shape)
        return []
    check_kind(name, array, slot.path, slot.target)
    report.loaded.append(slot.path)
    return [(slot.target, slot.layout.ours(array))]


def _note_unexpected(
    report: LoadReport,
    given: Mapping[str, Tensors],
    wanted: Mapping[str, str | None],
    known: Mapping[str, set[str]],
) -> None:
    for theirs, entries in given.items():
        ours = wanted[theirs]
        if ours is None:
            continue  # left out on purpose
        for key, array in entries.items():
            if key != _COUNTER and key not in known.get(ours, ()):
                report.unexpected[f"{theirs}.{key}" if theirs else key] = tuple(array.shape)


def _described(source: Any) -> str:
    if isinstance(source, Mapping):
        return f"a dict of {len(source)} tensors"
    return str(source)
