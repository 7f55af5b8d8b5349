"""Weights of a model in files, without the model: ``save_weights`` and ``load_weights``."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

from gpuconv.layers.base import Layer

_HDF5 = b"\x89HDF\r\n\x1a\n"
_KERAS_MEMBER = "model.weights.h5"


class WeightFiles(Layer):
    """What a model does with files of weights."""

    def save_weights(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights, as ``save(path, include_optimizer=False)``.

        The file is a safetensors file whatever its name; ``gpuconv.io.save_keras_weights`` writes
        one for Keras.

        Args:
            path: file to write.
            overwrite: False refuses to replace a file.

        Raises:
            NotBuiltError: the model has no weights yet.
            FileExistsError: the file is there and ``overwrite`` is False.
        """
        model: Any = self
        model.save(path, overwrite, include_optimizer=False)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take the weights from a file for a model of the same layers; optimizer state stays.

        Args:
            path: what :meth:`save_weights` or ``save`` wrote; or, told by its content and not by
                its name, a ``.weights.h5`` or ``.keras`` file of Keras 3 (needs h5py). PyTorch's
                files: ``gpuconv.io.load_torch_state``.

        Raises:
            NotBuiltError: the model has no weights yet.
            FileNotFoundError: there is no such file.
            FileFormatError: damaged, foreign, or of a model with other layers; this one is then
                unchanged.
            MissingDependencyError: a file of Keras, and h5py is not installed.
        """
        from gpuconv.io import load_keras_weights
        from gpuconv.models.saving import read_weights

        if _is_of_keras(Path(path)):
            load_keras_weights(self, path)
        else:
            model: Any = self
            read_weights(model, path)


def _is_of_keras(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_HDF5)) == _HDF5:
            return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _KERAS_MEMBER in archive.namelist()
    except zipfile.BadZipFile:
        return False
