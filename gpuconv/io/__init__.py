"""Reading and writing files: whole or not at all, and without running code from them."""

from gpuconv.io.atomic import atomic_path
from gpuconv.io.model_file import read_model_file, read_tensors, write_model_file
from gpuconv.io.packing import pack, unpack

__all__ = ["atomic_path", "pack", "read_model_file", "read_tensors", "unpack", "write_model_file"]
