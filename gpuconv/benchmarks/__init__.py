"""Measuring speed: ``gpuconv bench``, and the scripts in ``benchmarks/`` that call the same code.

Nothing of gpuconv imports this package but the command line; PyTorch is timed beside gpuconv where
it is installed.
"""
