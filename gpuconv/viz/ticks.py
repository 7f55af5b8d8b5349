"""Where the ticks of an axis stand and what they are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """The range of an axis and its ticks, as ``(value, label)`` in ascending order.

    Attributes:
        low: value at the start of the axis.
        high: value at its end, above ``low``.
        ticks: values between the two, with their labels.
        logarithmic: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def fraction(self, value: float) -> float:
        """Return where ``value`` lies, from 0 at ``low`` to 1 at ``high``."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(values: Sequence[float], count: int = 7, margin: float = 0.06) -> Axis:
    """Return an axis that shows all finite ``values``, with about ``count`` round ticks.

    Values that are all between 0 and 1, as accuracies are, get no ticks outside.
    """
    low, high = min(values), max(values)
    spread = high - low
    if spread <= 1e-9 * max(abs(low), abs(high)):  # one value: give it room to stand in
        spread = 0.2 * abs(high) or 1.0
        low, high = low - spread / 2, high + spread / 2
    proportion = min(values) >= 0 and max(values) <= 1
    low, high = low - margin * spread, high + margin * spread
    step = _round_step((high - low) / count)
    first, last = math.ceil(low / step), math.floor(high / step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [i * step for i in range(first, last + 1)]
    if proportion:
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 1 + 1e-9]
    return Axis(low, high, tuple((tick, _label(tick, step, digits)) for tick in ticks))


def logarithmic_axis(values: Sequence[float], count: int = 8, margin: float = 0.05) -> Axis:
    """Return a logarithmic axis for positive values, the largest at least twice the smallest."""
    spread = math.log10(max(values) / min(values))
    low = min(values) * 10 ** (-margin * spread)
    high = max(values) * 10 ** (margin * spread)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in (range(1, 10), (1, 2, 5), (1,)):
        ticks = [m * 10.0**d for d in decades for m in mantissas if low <= m * 10.0**d <= high]
        if len(ticks) <= count:
            break
    every = math.ceil(len(ticks) / count)
    return Axis(low, high, tuple((t, f"{t:.4g}") for t in ticks[::every]), logarithmic=True)


def epoch_axis(epochs: int, count: int = 8) -> Axis:
    """Return an axis of epochs counted from 1; the ticks are whole epochs, the first included."""
    if epochs == 1:
        return Axis(0.5, 1.5, ((1.0, "1"),))
    step = max(1, round(_round_step((epochs - 1) / count)))
    ticks = [1, *range(step if step > 1 else 2, epochs + 1, step)]
    return Axis(1.0, float(epochs), tuple((float(tick), str(tick)) for tick in ticks))


def _round_step(step: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _label(value: float, step: float, digits: int) -> str:
    if digits > 6 or step >= 1e5:
        return f"{value:.3g}"
    text = f"{value:.{digits}f}"
    return text.replace("-", "") if float(text) == 0 else text
