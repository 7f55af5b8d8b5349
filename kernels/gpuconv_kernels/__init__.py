"""The kernels of gpuconv: plain arrays in, plain arrays out, nothing of gpuconv imported.

``array``: whole-array NumPy code (im2col + BLAS, pooling, normalisation, updates).
``device``: CUDA kernels in Python, compiled by Numba, each beside its launcher.
``raw``: CUDA C++ kernels, compiled by NVRTC, each file with a launcher.
"""
