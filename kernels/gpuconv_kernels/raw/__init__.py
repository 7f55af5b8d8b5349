"""GPU kernels in CUDA C++ (``*.cu``) and their launchers, written over any array module.

A launcher owns the grid and the arguments. It takes a
:class:`~gpuconv_kernels.raw.runtime.Runtime`, which knows where arrays live and how a kernel is
started: on a GPU through CuPy and NVRTC, in tests compiled for the CPU. Nothing here imports CuPy.
"""
