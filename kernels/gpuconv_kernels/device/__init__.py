"""GPU kernels in Python, compiled by Numba: each file holds kernels and their launchers."""
