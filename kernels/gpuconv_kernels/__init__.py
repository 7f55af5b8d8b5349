"""The kernels of gpuconv: plain arrays in, plain arrays out, nothing of gpuconv imported.

``array``: whole-array NumPy code (im2col + BLAS, pooling, normalisation, updates).
"""
