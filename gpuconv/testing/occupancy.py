"""How many blocks of a kernel a multiprocessor holds at once, and what keeps it from holding more.

The limits are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability"; how registers and shared memory are rounded up is taken from ``cuda_occupancy.h`` of
CUDA 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WARP: Final = 32
_SUB_PARTITIONS: Final = 4
"""Each holds a quarter of the registers and of the warps."""
_REGISTER_UNIT: Final = 256
"""Registers are given to a warp in multiples of this."""
_LARGEST_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What one multiprocessor has to share out.

    Attributes:
        threads, blocks: that it holds at most.
        registers: of 32 bits.
        shared_bytes: for all its blocks.
        reserved_bytes: of a block's shared memory, taken by the driver.
        shared_unit: shared memory is given to a block in multiples of this.
    """

    threads: int
    blocks: int
    registers: int
    shared_bytes: int
    reserved_bytes: int
    shared_unit: int


MULTIPROCESSORS: Final = {
    "sm_75": Multiprocessor(1024, 16, 65536, 64 * 1024, 0, 256),
    "sm_80": Multiprocessor(2048, 32, 65536, 164 * 1024, 1024, 128),
    "sm_90": Multiprocessor(2048, 32, 65536, 228 * 1024, 1024, 128),
    "sm_100": Multiprocessor(2048, 32, 65536, 228 * 1024, 1024, 128),
}


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Blocks and warps that a multiprocessor holds, and what limits them.

    ``limited_by`` is "registers", "shared memory", "threads" or "blocks": the first in this order
    of those that allow the fewest. Zero blocks cannot be launched.
    """

    blocks: int
    warps: int
    limited_by: str


def occupancy(architecture: str, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Return what a multiprocessor holds of a kernel.

    Args:
        architecture: a key of ``MULTIPROCESSORS``.
        threads: of a block.
        registers: of a thread.
        shared_bytes: of a block, those of fixed size and those given at launch.

    Raises:
        KeyError: an architecture that is not in the table.
    """
    has = MULTIPROCESSORS[architecture]
    warps = -(-threads // WARP)
    a_warp = _round_up(registers * WARP, _REGISTER_UNIT)
    a_block = _round_up(shared_bytes + has.reserved_bytes, has.shared_unit)
    # The hardware checks the registers of a block as if each sub-partition had as many warps.
    fits = a_warp * _round_up(warps, _SUB_PARTITIONS) <= has.registers
    held = has.registers // _SUB_PARTITIONS // a_warp * _SUB_PARTITIONS if a_warp else 10**9
    limits = {
        "registers": held // warps if fits else 0,
        "shared memory": has.shared_bytes // a_block if a_block else 10**9,
        "threads": has.threads // WARP // warps if threads <= _LARGEST_BLOCK else 0,
        "blocks": has.blocks,
    }
    limited_by = min(limits, key=lambda what: limits[what])
    blocks = limits[limited_by]
    return Occupancy(blocks, blocks * warps, limited_by)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
