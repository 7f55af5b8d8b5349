"""How the Winograd convolution is cut into tasks: what is kept in memory, and what made again.

Three things lie in memory between the transforms, for each of the ``t * t`` elements of a tile::

    V: tiles x channels         U: channels x filters           products: tiles x filters
    a group's, for one thread   a block of filters, some        a group's, for one thread;
                                channels: for all threads       or, where the sum has several
                                                                spans, those of some groups

What is not there when it is needed again is transformed again: patches for every block of filters,
filters for every set of groups. Each way of cutting has its memory and, estimated, its time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from gpuconv_kernels.host.microkernel import rows_for, vectors_for
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, second_level_cache
from gpuconv_kernels.host.winograd_filters import packed_bytes, transformed_bytes
from gpuconv_kernels.host.winograd_tiles import apart, offsets_of, up
from gpuconv_kernels.host.winograd_transforms import passes_of

_CHUNK_BYTES = 24 * 1024
"""Filters of one element and one chunk: should stay in the L1 cache while tiles stream by."""
_PRODUCT_BYTES = 224 * 1024
"""Products of a group and of the filters of a micro-kernel: a part of the L2 cache."""
_LEAST_GROUP = 20
"""Tiles that filters are read for, where there is memory for all filters."""
_TASKS_A_THREAD = 4
_PIECE = 64
"""Channels whose filters are transformed as one task, if there are tasks enough."""

# What things take, in the time of multiply-adds of one thread.
_NUMBER, _PASS = 6, 5
"""A number of a transformed patch, or of the products that are transformed; and what is added for
each pass but the first over their elements."""
_FILTER_NUMBER = 15
"""A number of a transformed filter,"""
_ELSEWHERE = 25
"""more if another thread may need it: it comes from that one's cache."""
_PACKED = 15
"""A weight, where filters are transposed before they are transformed, in each pass."""
_START = 13
"""Multiply-adds lost for each result of a call of the micro-kernel."""
_READ, _READ_NEAR = 3, 1
"""To read a number of a transformed filter, from farther away or from the L2 cache."""
_OUTSIDE = 0.15
"""of a multiply-add, more where a task's patches and products are too many for its L2 cache."""
_BROADCAST = 0.5
"""more for a number of a patch, which the vectors that are computed together share."""
_MEETING = 80_000
"""Threads wait for each other."""
_BEYOND = 2
"""Times that a plan has to be faster for needing more memory than it should."""


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        vectors: of filters that are computed together.
        group, groups: tiles of a group, a multiple of the micro-kernel's rows; how many groups.
        together: groups that are computed before filters are transformed again.
        block: filters of a block, a multiple of the vectors' lanes.
        part, parts: filters of a task; how many parts of a block.
        span: channels whose filters are in memory at once. Less than all: products stay in memory.
        chunk: channels of a chunk of the sum, a multiple of a vector's lanes.
        held: channels whose transformed patches are in memory at once: a chunk, or all.
        own: whether every task transforms the filters of its chunks itself.
        passes: how many parts the elements of tiles are computed in, one after the other.
    """

    vectors: int
    group: int
    groups: int
    together: int
    block: int
    part: int
    parts: int
    span: int
    chunk: int
    held: int
    own: bool = False
    passes: int = 1

    def elements(self, m: int) -> int:
        """That are computed at a time."""
        return (m + 2) ** 2 // self.passes


@dataclass(frozen=True)
class Layer:
    """What the cut depends on.

    Attributes:
        tiles, channels, filters: how many there are.
        m: extent of a tile.
        kept: whether the filters come transformed.
        transposed: whether their channels lie next to each other in memory: backward_input's.
        dtype: of the numbers.
        of: the vectors of the CPU.
        count: of threads.
        passes: how many parts elements are computed in; None: what is better.
    """

    tiles: int
    channels: int
    filters: int
    m: int
    kept: bool
    transposed: bool
    dtype: str
    of: Host
    count: int
    passes: int | None = None


@dataclass(frozen=True)
class Plan:
    """A cut and its memory.

    Attributes:
        cut: how the work is cut.
        slots: threads that there is memory for.
        v_row: bytes from tile to tile of transformed patches.
        filters_at: where the transformed filters end and products that stay begin, in bytes.
        shared: bytes of both.
        offsets: where a thread's parts of its memory begin; at last its size.
        piece: channels, and vectors of filters, that are transformed as one task.
        tickets: tasks of a phase that transforms filters, and of one that computes products.
        workspace: bytes of all.
        time: estimated, in multiply-adds.
    """

    cut: Cut
    slots: int
    v_row: int
    filters_at: int
    shared: int
    offsets: tuple[int, ...]
    piece: tuple[int, int]
    tickets: tuple[int, int]
    workspace: int
    time: float


@functools.lru_cache(maxsize=1024)
def best(of: Layer, limit: int | None) -> Plan:
    """Return the plan that is expected to be the fastest.

    Memory beyond ``limit`` bytes, None for no limit, counts as time: any doubles it, and each more
    limit is a quarter more.
    """

    found: tuple[float, int, Plan] | None = None
    for c in dict.fromkeys(_cuts(of)):
        time = _time(of, c)
        if found and time > found[0]:
            continue  # whatever it needs: memory only adds to the time
        plan = _plan(of, c, time)
        cost = worth(time, plan.workspace, limit), plan.workspace
        if found is None or cost < found[:2]:
            found = *cost, plan
    assert found is not None
    return found[2]


def worth(time: float, workspace: int, limit: int | None) -> float:
    """A time, and what memory beyond a limit counts as time."""
    if limit is None or workspace <= limit:
        return time
    return time * (_BEYOND + (workspace - limit) / (4 * max(limit, 1)))


def _cuts(of: Layer) -> Iterator[Cut]:
    for passes in passes_of(of.m) if of.passes is None else (of.passes,):
        yield from _cuts_of(of, passes)


def _cuts_of(of: Layer, passes: int) -> Iterator[Cut]:
    lanes, itemsize = of.of.lanes(of.dtype), ITEMSIZE[of.dtype]
    channels = up(of.channels, lanes)
    usual = vectors_for(of.filters, of.dtype, of.of)
    for vectors in {usual} if of.kept else {usual, min(usual, 2)}:
        width, rows = vectors * lanes, rows_for(vectors, of.of)
        widths = -(-of.filters // width)
        tile_bytes = (of.m + 2) ** 2 // passes * width * itemsize
        most = max(lanes, _CHUNK_BYTES // (width * itemsize) // lanes * lanes)

        def chunks(span: int, most: int = most) -> int:
            return up(-(-span // -(-span // most)), lanes)

        usual_group = max(_LEAST_GROUP, _PRODUCT_BYTES // tile_bytes)
        groups = max(1, round(of.tiles / usual_group))
        sizes = {up(-(-of.tiles // groups), rows)}
        sizes |= {min(rows * k, s) for s in tuple(sizes) for k in (1, 2, 3, 4)}
        # All channels at once: a task has its products to itself.
        for across in {widths} if of.kept else {-(-widths // n) for n in (1, 2, 4, 8)}:
            for group in sizes:
                groups = -(-of.tiles // group)
                parts = min(across, -(-_TASKS_A_THREAD * of.count // groups))
                part = -(-across // parts)
                parts = -(-across // part)
                for most_channels in {most, 2 * lanes, lanes}:
                    chunk = chunks(channels, most_channels)
                    for held in {chunk, channels} if part > 1 else {chunk}:
                        yield Cut(
                            vectors, group, groups, groups, across * width, part * width, parts,
                            channels, chunk, held, False, passes,
                        )  # fmt: skip
        if of.kept:
            continue
        # Filters of a chunk in every task: where there are few tiles, reading from the cache of
        # another core what it has transformed takes longer than to transform it.
        for chunk in (n * lanes for n in (1, 2, 4)):
            for groups in range(1, 5):
                group = up(-(-of.tiles // groups), rows)
                yield Cut(
                    vectors, group, -(-of.tiles // group), -(-of.tiles // group), widths * width,
                    width, widths, channels, min(chunk, channels), min(chunk, channels), True,
                    passes,
                )  # fmt: skip
        # Some channels at once: products of some groups stay until all have been added.
        for span in (n * lanes for n in (1, 2, 4, 6, 12, 24)):
            if span >= channels:
                break
            for across in {1, min(2, widths)}:
                for sets in (1, 2, 3, 4, 6):
                    group = up(-(-of.tiles // (sets * of.count)), rows)
                    groups = -(-of.tiles // group)
                    chunk = chunks(span)
                    yield Cut(
                        vectors, group, groups, min(groups, of.count), across * width,
                        across * width, 1, span, chunk, span if across > 1 else chunk, False,
                        passes,
                    )  # fmt: skip


def _plan(of: Layer, c: Cut, time: float) -> Plan:
    itemsize, lanes = ITEMSIZE[of.dtype], of.of.lanes(of.dtype)
    elements, pixels = c.elements(of.m), (of.m + 2) ** 2
    width = c.vectors * lanes
    v_row = c.held * itemsize
    v_row += LINE if v_row % (8 * LINE) == 0 else 0
    stay = c.span < of.channels
    products = c.group * elements * width * itemsize
    offsets = offsets_of(
        [
            c.group * elements * v_row,
            0 if stay else products,
            c.group * pixels * 8,
            c.group * of.m * of.m * 8,
            c.group * 8,
            c.group * 8,
            pixels * lanes * itemsize,
            pixels * 8,
            of.m * of.m * lanes * itemsize,
            of.m * of.m * 8,
            up(of.filters, width) * itemsize,
            width * itemsize,
            0 if of.kept else packed_bytes(c.vectors, of.dtype, of.of),
            elements * apart(c.chunk * width * itemsize) if c.own else 0,
        ]
    )
    filters_at = 0
    if not of.kept and not c.own:
        filters_at = transformed_bytes(c.span, c.block, of.m, of.dtype, of.of, c.vectors, c.passes)
    shared = filters_at + (c.together * c.block // width * products if stay else 0)
    vectors = c.block // lanes
    for piece in ((_PIECE, c.vectors), (lanes, c.vectors), (lanes, 1)):
        tasks = vectors // piece[1] * -(-c.span // piece[0])
        if tasks >= 2 * of.count:
            break
    pieces = 0 if of.kept or c.own else tasks
    units = c.together * c.parts
    slots = min(of.count, max(pieces, units))
    workspace = slots * offsets[-1] + shared
    return Plan(
        c,
        slots,
        v_row,
        filters_at,
        shared,
        offsets,
        piece,
        (pieces, units),
        workspace,
        time,
    )


def _time(of: Layer, c: Cut) -> float:
    """Multiply-adds of one thread in whose time the work is done, empty lanes and rows included."""
    lanes, itemsize, pixels = of.of.lanes(of.dtype), ITEMSIZE[of.dtype], (of.m + 2) ** 2
    width, rows = c.vectors * lanes, rows_for(c.vectors, of.of)
    sets, blocks = -(-c.groups // c.together), -(-of.filters // c.block)
    spans = -(-of.channels // c.span)
    calls = spans * -(-min(c.span, of.channels) // c.chunk)
    filters = up(of.filters, width)
    pairs = of.channels * filters
    times = blocks * c.parts if c.held >= c.span else filters // width
    last = of.tiles - (c.groups - 1) * c.group
    tiles = (c.groups - 1) * c.group + up(last, rows)
    numbers = c.held + width if c.span >= of.channels else c.held + c.part
    scale = c.elements(of.m) * itemsize
    task, room = c.group * numbers * scale, second_level_cache()
    step = 1 + (0 if task <= room else _OUTSIDE) + _BROADCAST / c.vectors
    near = not c.own and task + c.block * c.span * scale <= room * 3 // 4
    work = step * tiles * pairs + _START * tiles * filters * calls
    work += (_READ_NEAR if near else _READ) * c.groups * pairs
    transforms = tiles * _written(of.channels, lanes) * times + of.tiles * _written(
        of.filters, lanes
    )
    work += (_NUMBER + _PASS * (c.passes - 1)) * transforms
    # A phase ends when its last task does.
    units = c.together * c.parts
    work *= -(-units // of.count) * of.count / units / of.count
    phases = sets * blocks * spans * c.passes
    packed = 9 * _PACKED * c.passes / pixels if of.transposed else 0
    filter_time = (_FILTER_NUMBER + packed) * pairs
    if c.own:
        work += filter_time * c.groups / min(of.count, units)
    elif not of.kept:
        work += (filter_time + _ELSEWHERE * pairs) * sets / of.count
    return pixels * work + (0 if of.kept or c.own else phases * _MEETING)


def _written(count: int, lanes: int) -> int:
    """Numbers of so many channels whose transform takes as long: a vector that is not full is
    copied number by number."""
    return up(count, lanes) + (lanes if count % lanes else 0)
