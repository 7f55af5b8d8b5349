"""Kernels for the CPU, compiled by Numba for the machine on which they run."""
