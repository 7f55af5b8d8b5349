"""Integers and tuples: what a convolution or a pooling looks like, before any array exists.

User words (``padding="same"``, ``stride=2``) are turned once into a frozen geometry with
``(lo, hi)`` pads; kernels and engines see only that.
"""

from gpuconv.geometry.convolution import ConvGeometry, Phase
from gpuconv.geometry.padding import PADDING_MODES, resolve_padding, same_pads
from gpuconv.geometry.pooling import PoolGeometry
from gpuconv.geometry.unknown import Extents, where_known
from gpuconv.geometry.words import as_extents, as_int, as_open_shape, as_tuple, entries_of

__all__ = [
    "PADDING_MODES",
    "ConvGeometry",
    "Extents",
    "Phase",
    "PoolGeometry",
    "as_extents",
    "as_int",
    "as_open_shape",
    "as_tuple",
    "entries_of",
    "resolve_padding",
    "same_pads",
    "where_known",
]
