"""Vector instructions for kernels: small words in which a loop over channels is emitted.

A row of channels is computed some vectors at a time. Where the channels are no multiple of that,
the last step is moved back and computes some of them again, so there is no code for a rest::

    37 channels, vectors of 16        |-- 0 .. 15 --|-- 16 .. 31 --|
                                               |-- 21 .. 36 --|        the last one, moved back

:func:`width_for` chooses vectors that are no wider than the row. LLVM cuts vectors that the CPU
does not have into ones that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from gpuconv_kernels.host.target import INT, ITEMSIZE, LINE, REAL, Host

State = list[ir.Value]
"""What a loop carries from one index to the next."""
SHORT = ir.IntType(32)
"""What lanes are counted in, and what LLVM's intrinsics take."""


class Width(NamedTuple):
    """Channels that are computed together: ``vectors`` of ``lanes`` numbers."""

    lanes: int
    vectors: int

    @property
    def channels(self) -> int:
        """Channels of a step."""
        return self.lanes * self.vectors


class Mix(NamedTuple):
    """What the filters of small groups read: ``channels`` of a group for each of its ``filters``.

    The filters of a vector belong to some whole groups, or to a part of one. All channels of these
    are loaded together, and for the sums over a group moved to the filters that read them::

        2 channels, 2 filters       x       [ a0 a1 | b0 b1 | c0 c1 | d0 d1 ]
                                    first   [ a0 a0 | b0 b0 | c0 c0 | d0 d0 ]   times weights
                                    second  [ a1 a1 | b1 b1 | c1 c1 | d1 d1 ]   times others
    """

    channels: int
    filters: int

    @classmethod
    def of(cls, geometry: Any) -> Mix:
        """The mix of a ``ConvGeometry``, whose results are filters."""
        g = geometry
        return cls(g.in_channels // g.groups, g.out_channels // g.groups)

    def first(self, filter: int) -> int:
        """The channel with which the group of a filter begins."""
        return filter // self.filters * self.channels

    def read(self, lanes: int) -> int:
        """How many channels a vector of filters reads."""
        return max(lanes // self.filters, 1) * self.channels

    def lanes_that_read(self, number: int, lanes: int) -> list[int]:
        """Which of the channels read goes to each lane, as the ``number``-th of its group."""
        return [self.first(lane) + number for lane in range(lanes)]


DEPTHWISE = Mix(1, 1)


def width_for(channels: int, dtype: str, of: Host, vectors: int) -> Width:
    """Return the widest step for rows of ``channels``, up to ``vectors`` vectors of the CPU.

    Fewer vectors are taken where the last step would compute too much once more.
    """
    lanes = of.lanes(dtype)
    while lanes > channels:
        lanes //= 2
    full = -(-channels // lanes)
    while vectors > 1 and (vectors * lanes > channels or -full % vectors * 4 > full):
        vectors //= 2
    return Width(lanes, vectors)


def mixed_width(filters: int, dtype: str, of: Host, mix: Mix, vectors: int) -> Width:
    """Return the step for rows of ``filters`` of small groups.

    Depthwise it is up to so many ``vectors``. Else it is one, which holds whole groups or divides
    one, and reads no more than two vectors of channels.
    """
    if mix == DEPTHWISE:
        return width_for(filters, dtype, of, vectors)
    lanes = min(of.lanes(dtype), filters)
    if mix.filters > lanes:
        return Width(max(n for n in range(1, lanes + 1) if mix.filters % n == 0), 1)
    groups = max(1, min(lanes // mix.filters, 2 * of.lanes(dtype) // mix.channels))
    return Width(groups * mix.filters, 1)


def even(extent: int, most: int) -> tuple[int, int]:
    """Cut an extent into equal parts of at most ``most``; return their size and number."""
    size = max(1, -(-extent // max(1, -(-extent // most))))
    return size, -(-extent // size)


def fetch_line(
    builder: ir.IRBuilder, address: ir.Value, nearness: int, write: bool = False
) -> None:
    """Ask for a line of the cache; where there is no such memory, nothing happens.

    ``nearness`` is 3 for the nearest cache, 2 for the next.
    """
    byte, module = ir.IntType(8).as_pointer(), builder.module
    name = "llvm.prefetch.p0i8"
    kind = ir.FunctionType(ir.VoidType(), [byte, SHORT, SHORT, SHORT])
    function = module.globals.get(name) or ir.Function(module, kind, name)
    # whether it will be written; which cache; data, not instructions
    words = [ir.Constant(SHORT, value) for value in (int(write), nearness, 1)]
    builder.call(function, [builder.inttoptr(address, byte), *words])


def loop(
    builder: ir.IRBuilder,
    count: ir.Value,
    state: State,
    body: Callable[[ir.Value, State], State],
) -> State:
    """Emit a loop: ``body(index, state)`` for each index below ``count``; return the last state.

    The state is values of any types, which ``body`` returns as they are for the next index.
    """
    before = builder.block
    head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT)
    index.add_incoming(ir.Constant(INT, 0), before)
    phis = [builder.phi(value.type) for value in state]
    for phi, value in zip(phis, state, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    values = body(index, list(phis))
    index.add_incoming(builder.add(index, ir.Constant(INT, 1)), builder.block)
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return list(phis)


class Emitter:
    """Emits vector code for numbers of one type where a builder stands.

    Addresses and counts are 64-bit integers; distances are in bytes.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: str, width: Width) -> None:
        self.builder = builder
        self.lanes, self.vectors = width
        self.itemsize = ITEMSIZE[dtype]
        self.number = REAL[dtype]
        self.vector = ir.VectorType(self.number, self.lanes)
        self._suffix = f"v{self.lanes}f{8 * self.itemsize}"

    # --- integers --------------------------------------------------------------------

    def integer(self, value: int) -> ir.Constant:
        """A constant of 64 bits."""
        return ir.Constant(INT, value)

    def add(self, *values: ir.Value | int) -> ir.Value:
        """The sum of integers."""
        total, *others = (self.integer(v) if isinstance(v, int) else v for v in values)
        for other in others:
            total = self.builder.add(total, other)
        return total

    def times(self, value: ir.Value, factor: int) -> ir.Value:
        """The product of integers."""
        return self.builder.mul(value, self.integer(factor))

    def word(self, address: ir.Value) -> ir.Value:
        """The integer at an address."""
        return self.builder.load(self.builder.inttoptr(address, INT.as_pointer()))

    def is_set(self, flag: ir.Value) -> ir.Value:
        """Whether an integer is not 0."""
        return self.builder.icmp_signed("!=", flag, self.integer(0))

    # --- vectors ---------------------------------------------------------------------

    def load(self, address: ir.Value, n: int = 0) -> ir.Value:
        """The ``n``-th vector at an address."""
        at = self.add(address, n * self.lanes * self.itemsize)
        pointer = self.builder.inttoptr(at, self.vector.as_pointer())
        return self.builder.load(pointer, align=1)

    def load_integers(self, address: ir.Value, n: int = 0) -> ir.Value:
        """The ``n``-th vector of 64-bit integers at an address."""
        kind = ir.VectorType(INT, self.lanes)
        at = self.add(address, n * self.lanes * 8)
        return self.builder.load(self.builder.inttoptr(at, kind.as_pointer()), align=1)

    def load_groups(self, address: ir.Value, n: int, mix: Mix) -> ir.Value:
        """All channels that the filters of the ``n``-th vector read: any vector."""
        count = mix.read(self.lanes)
        at = self.add(address, n * count * self.itemsize)
        kind = ir.VectorType(self.number, count)
        return self.builder.load(self.builder.inttoptr(at, kind.as_pointer()), align=1)

    def of_groups(self, channels: ir.Value, number: int, mix: Mix) -> ir.Value:
        """Of what ``load_groups`` returned, for each filter the ``number``-th of its group."""
        if mix == DEPTHWISE:
            return channels
        places = mix.lanes_that_read(number, self.lanes)
        return self.builder.shuffle_vector(
            channels,
            ir.Constant(channels.type, ir.Undefined),
            ir.Constant(ir.VectorType(SHORT, self.lanes), places),
        )

    def store(self, value: ir.Value, address: ir.Value, n: int = 0) -> None:
        """Store any vector as the ``n``-th of its kind."""
        kind = value.type
        size = 8 if kind.element == INT else 4 if kind.element == SHORT else self.itemsize
        at = self.add(address, n * self.lanes * size)
        self.builder.store(value, self.builder.inttoptr(at, kind.as_pointer()), align=1)

    def fetch(self, address: ir.Value, write: bool = False) -> None:
        """Ask for as many lines of the cache as the vectors of a step are long.

        Where there is no such memory, nothing happens.
        """
        for line in range(0, self.vectors * self.lanes * self.itemsize, LINE):
            fetch_line(self.builder, self.add(address, line), 3, write)

    def broadcast(self, address: ir.Value) -> ir.Value:
        """A vector of the one number at an address."""
        return self.splat(self._number(address))

    def splat(self, value: ir.Value) -> ir.Value:
        """A vector of one number or integer."""
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(SHORT, 0))
        lanes = ir.Constant(ir.VectorType(SHORT, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def constant(self, value: float) -> ir.Constant:
        """A vector of one constant."""
        return ir.Constant(self.vector, [value] * self.lanes)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, rounded once where the CPU can."""
        name = f"llvm.fmuladd.{self._suffix}"
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )
        return self.builder.call(function, [a, b, c])

    # --- loops -----------------------------------------------------------------------

    def loop(
        self, count: ir.Value, state: State, body: Callable[[ir.Value, State], State]
    ) -> State:
        """Call ``body(index, state)`` for each index below ``count``; return the last state."""
        return loop(self.builder, count, state, body)

    def choose(self, which: ir.Value, cases: Sequence[Callable[[], None]]) -> None:
        """Run the case of a number; all others are the last one's."""
        b = self.builder
        after = b.append_basic_block("chosen")
        blocks = [b.append_basic_block("case") for _ in cases]
        switch = b.switch(which, blocks[-1])
        for number, (block, case) in enumerate(zip(blocks, cases, strict=True)):
            switch.add_case(self.integer(number), block)
            b.position_at_end(block)
            case()
            b.branch(after)
        b.position_at_end(after)

    # --- small words -----------------------------------------------------------------

    def _number(self, address: ir.Value) -> ir.Value:
        pointer = self.builder.inttoptr(address, self.number.as_pointer())
        return self.builder.load(pointer, align=1)
