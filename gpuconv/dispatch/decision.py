"""What the dispatcher decided, and how it looks when it is printed."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from gpuconv.backends.base import Plan, Refusal
from gpuconv.backends.units import in_bytes, in_seconds
from gpuconv.geometry import ConvGeometry, PoolGeometry

_WIDTH = 96


@dataclass(frozen=True, slots=True)
class Candidate:
    """One engine's answer: its plan, or why it refused.

    Attributes:
        engine: name, such as ``"cuda:numba"``.
        answer: its plan or refusal.
        measured: seconds that it took when it was timed, or None.
        note: why it could not be chosen in spite of its plan; empty if it could.
    """

    engine: str
    answer: Plan | Refusal
    measured: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which engine carries out an operation; ``print`` shows it with all candidates.

    Attributes:
        engine: name, such as ``"cpu:numpy"``.
        algorithm: method within the engine, such as ``"im2col+gemm"``.
        workspace_bytes: memory beyond inputs and outputs.
        reason: why, in words.
        candidates: what every engine of the device answered.
        op, geometry, dtype, device: what was decided about.
        workspace_limit: bytes that the workspace could have had.
    """

    engine: str
    algorithm: str
    workspace_bytes: int
    reason: str
    candidates: tuple[Candidate, ...] = ()
    op: str = ""
    geometry: ConvGeometry | PoolGeometry | None = None
    dtype: str = ""
    device: str = ""
    workspace_limit: int | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the engine was chosen by times that were measured."""
        return any(c.engine == self.engine and c.measured is not None for c in self.candidates)

    def __str__(self) -> str:
        lines = [f"{self.op} in {self.dtype} on {self.device}"] if self.op else []
        if self.geometry is not None:
            lines.append(f"  {shapes(self.geometry)}")
        lines += ["", *self._table(), ""]
        lines += textwrap.wrap(self.reason, _WIDTH)
        if self.workspace_limit is not None:
            lines.append(f"The workspace may have {in_bytes(self.workspace_limit)}.")
        return "\n".join(lines).strip("\n")

    def _table(self) -> list[str]:
        rows: list[tuple[str, ...]] = []
        rows.append(("", "engine", "algorithm", "predicted", "measured", "workspace"))
        words = [""]
        for candidate in self.candidates:
            rows.append(_row(candidate, candidate.engine == self.engine))
            others = "; ".join(filter(None, (candidate.note, candidate.answer.reason)))
            words.append("" if candidate.engine == self.engine else others)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row, reason in zip(rows, words, strict=True):
            cells = [
                cell.ljust(w) if i < 3 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
            lines += textwrap.wrap(
                reason, _WIDTH, initial_indent=" " * 7, subsequent_indent=" " * 7
            )
        return lines


def _row(candidate: Candidate, chosen: bool) -> tuple[str, ...]:
    mark = "->" if chosen else ""
    plan = candidate.answer
    if isinstance(plan, Refusal):
        return (mark, candidate.engine, "refused", "", "", "")
    return (
        mark,
        candidate.engine,
        plan.algorithm,
        "-" if plan.seconds is None else in_seconds(plan.seconds),
        "-" if candidate.measured is None else in_seconds(candidate.measured),
        in_bytes(plan.workspace_bytes) if plan.workspace_bytes else "none",
    )


def shapes(geometry: ConvGeometry | PoolGeometry) -> str:
    """Return the shapes of the arrays: ``x (2, 8, 8, 3), w (3, 3, 3, 4) -> y (2, 6, 6, 4)``."""
    if isinstance(geometry, PoolGeometry):
        of = f"window {geometry.window}"
    else:
        of = f"w {geometry.w_shape}"
    return f"x {geometry.x_shape}, {of} -> y {geometry.y_shape}"
