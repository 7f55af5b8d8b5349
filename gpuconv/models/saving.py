"""A model as one safetensors file: configuration, weights, optimizer state, random streams.

The file holds arrays and JSON, nothing that is executed when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv import layers, optimizers
from gpuconv.backends.arrays import overwrite, to_numpy
from gpuconv.errors import FileFormatError, GpuconvError, InvalidArgumentError, NotBuiltError
from gpuconv.io import pack, read_model_file, unpack, write_model_file
from gpuconv.models.model import Model
from gpuconv.random import SeedStream, check_seed

_WEIGHTS, _OPTIMIZER, _PROGRESS = "weights/", "optimizer/", "progress/"


def save_model(
    model: Model,
    path: str | os.PathLike[str],
    overwrite: bool = True,
    progress: Mapping[str, Any] | None = None,
    include_optimizer: bool = True,
) -> None:
    """Write a model; see ``Model.save``.

    Args:
        model: a built model.
        path: the file.
        overwrite: whether a file of this name may be replaced.
        progress: plain data and NumPy arrays to be kept with it, such as the epoch.
        include_optimizer: whether optimizer, its state, loss and metrics are kept too.

    Raises:
        NotBuiltError: the model has no weights yet.
        FileExistsError: the file is there and ``overwrite`` is False.
    """
    if not model.built:
        raise NotBuiltError(f"{model.name} has no weights to save: build it or call it first")
    if not overwrite and Path(path).exists():
        raise FileExistsError(
            f"expected to write a new file; there is one already. Received: {path}"
        )
    tensors = {_WEIGHTS + name: to_numpy(array) for name, array in model.state().items()}
    compiled = None
    if model.optimizer is not None and include_optimizer:
        prefix = _own_paths(model)
        state = model.optimizer.state_dict(model.parameters)
        tensors.update({_OPTIMIZER + k.removeprefix(prefix): to_numpy(a) for k, a in state.items()})
        compiled = {
            "optimizer": optimizers.serialize(model.optimizer),
            **({} if model.objectives is None else model.objectives.get_config()),
        }
    kept, arrays = pack(progress, _PROGRESS)
    tensors.update(arrays)
    configuration = {
        "model": layers.serialize(model),
        "input_shape": model.built_shape,
        "compiled": compiled,
        "streams": {name: list(stream.state) for name, stream in _streams(model).items()},
        "progress": kept,
    }
    write_model_file(path, tensors, configuration)


def load_model(path: str | os.PathLike[str], backend: str | None = None) -> Model:
    """Read a model that ``model.save`` wrote; it predicts, evaluates and trains on as before.

    Args:
        path: the file.
        backend: device or engine for it; None: what is in force.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: damaged, truncated, foreign, or with a layer that is not known here
            (register your own with ``gpuconv.layers.register`` first).
        BackendUnavailableError: the backend that was named cannot run here.
    """
    from gpuconv.backends.selection import resolve_device

    device = resolve_device(backend)[0]
    configuration, tensors = read_model_file(path)
    try:
        model = layers.deserialize(configuration["model"])
        if not isinstance(model, Model):
            raise TypeError(f"a {type(model).__name__} is a layer, not a model")
        model.to(device if backend in (None, "auto") else backend)
        model.build(_shape_of(configuration["input_shape"]))
        compiled = configuration["compiled"]
        if compiled is not None:
            model.compile(
                compiled["optimizer"],
                compiled["loss"],
                compiled["metrics"],
                compiled.get("loss_weights"),  # files of before do not have it
            )
    except (GpuconvError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileFormatError(
            f"the configuration in the file does not describe a model: {error}. Received: {path}"
        ) from error
    _restore(model, configuration, tensors, path)
    return model


def restore_model(model: Model, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Put weights, optimizer state and random streams from a file into an existing model.

    Returns:
        The progress that was saved with it, or an empty dict.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: damaged or foreign, or of a model with other layers; the model is then
            unchanged.
    """
    configuration, tensors = read_model_file(path)
    try:
        model.build(_shape_of(configuration["input_shape"]))
    except (GpuconvError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"the file was saved from a model with other inputs: {error}. Received: {path}"
        ) from error
    _restore(model, configuration, tensors, path)
    progress: dict[str, Any] = unpack(configuration.get("progress") or {}, tensors)
    return progress


def read_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """Put the weights of a file that ``save`` or ``save_weights`` wrote into an existing model.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: damaged or foreign, or of a model with other layers; the model is then
            unchanged.
    """
    if not model.built:
        raise NotBuiltError(f"{model.name} has no weights yet: build it or call it first")
    _restore(model, {}, read_model_file(path)[1], path)


def _restore(
    model: Model,
    configuration: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    path: str | os.PathLike[str],
) -> None:
    """Check everything, then overwrite."""
    streams = _checked_streams(configuration.get("streams", {}), path)
    stored = _below(tensors, _WEIGHTS)
    targets = model.state()
    wrong = [f"{name} is missing" for name in targets if name not in stored]
    wrong += [f"{name} is not in the model" for name in stored if name not in targets]
    wrong += [
        f"{name} has the shape {stored[name].shape}, the model needs {tuple(target.shape)}"
        for name, target in targets.items()
        if name in stored and tuple(stored[name].shape) != tuple(target.shape)
    ]
    if wrong:
        raise FileFormatError(
            f"the weights do not belong to this model: {'; '.join(wrong[:5])}"
            f"{' ...' if len(wrong) > 5 else ''}. Received: {path}"
        )
    if model.optimizer is not None and configuration.get("compiled") is not None:
        prefix = _own_paths(model)
        slots = {
            prefix + name if "/" in name else name: array  # the number of steps has no path
            for name, array in _below(tensors, _OPTIMIZER).items()
        }
        try:
            model.optimizer.load_state_dict(slots, model.parameters)
        except InvalidArgumentError as error:
            raise FileFormatError(
                f"the state of the optimizer does not belong to this model: {error}. "
                f"Received: {path}"
            ) from error
    for name, target in targets.items():
        overwrite(target, stored[name])
    if "shuffle" in streams and model.shuffle_stream is None:
        model.shuffle_stream = SeedStream(0)
    for name, stream in _streams(model).items():
        if name in streams:
            stream.state = streams[name]


def _shape_of(stored: Any) -> Any:
    """A shape as the model has it: of one input a tuple, of several a list of tuples."""
    several = any(isinstance(part, list) for part in stored)
    return [tuple(part) for part in stored] if several else tuple(stored)


def _checked_streams(streams: Any, path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """Return the random streams' states by name, as two integers each."""
    try:
        return {
            name: (check_seed(seed), check_seed(count)) for name, (seed, count) in streams.items()
        }
    except (GpuconvError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(
            f"the states of the random streams should be two integers each: {error}. "
            f"Received: {path}"
        ) from error


def _own_paths(model: Model) -> str:
    """Give the parameters their paths in this model; return what these begin with.

    Layers may stand in other models too, under other paths. The file has none of the model's own
    name, so that a model of the same layers and another name can take its content.
    """
    model.name_parameters(model.name)
    return f"{model.name}/"


def _below(
    tensors: Mapping[str, np.ndarray[Any, Any]], prefix: str
) -> dict[str, np.ndarray[Any, Any]]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _streams(model: Model) -> dict[str, SeedStream]:
    """The random streams of the model by name: the shuffle's and each dropout's."""
    streams: dict[str, SeedStream] = {}
    if model.shuffle_stream is not None:
        streams["shuffle"] = model.shuffle_stream
    streams.update({f"layers/{k}": s for k, s in model.random_streams().items()})
    return streams
