"""Reading and writing files: whole or not at all, and without running code from them."""

from gpuconv.io.atomic import atomic_path
from gpuconv.io.model_file import read_model_file, read_tensors, write_model_file

__all__ = ["atomic_path", "read_model_file", "read_tensors", "write_model_file"]
