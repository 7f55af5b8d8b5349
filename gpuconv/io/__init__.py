"""Reading and writing files: whole or not at all, and without running code from them."""

from gpuconv.io.atomic import atomic_path
from gpuconv.io.keras_weights import load_keras_weights, save_keras_weights
from gpuconv.io.loading import LoadReport
from gpuconv.io.model_file import read_model_file, read_tensors, write_model_file
from gpuconv.io.packing import pack, unpack
from gpuconv.io.torch_file import read_torch_file
from gpuconv.io.torch_state import load_torch_state, save_torch_state, torch_state

__all__ = [
    "LoadReport",
    "atomic_path",
    "load_keras_weights",
    "load_torch_state",
    "pack",
    "read_model_file",
    "read_tensors",
    "read_torch_file",
    "save_keras_weights",
    "save_torch_state",
    "torch_state",
    "unpack",
    "write_model_file",
]
