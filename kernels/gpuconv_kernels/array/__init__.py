"""Kernels written with whole NumPy arrays: no compilation, BLAS does the heavy work."""
