"""Engines: who computes. One contract (:mod:`base`), one file an engine, a registry that probes.

An engine is added as one file with a subclass of :class:`~gpuconv.backends.base.Engine` and one
line in :mod:`~gpuconv.backends.registry`.
"""
