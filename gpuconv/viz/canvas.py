"""A surface for lines and words, and what they look like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from gpuconv.io.atomic import atomic_path

Color = tuple[int, int, int]
Point = tuple[float, float]

PAPER: Final[Color] = (255, 255, 255)
INK: Final[Color] = (31, 41, 55)
MUTED: Final[Color] = (107, 114, 128)
GRID: Final[Color] = (229, 231, 235)
PALETTE: Final[tuple[Color, ...]] = (
    (37, 99, 176),  # blue
    (201, 95, 34),  # orange
    (38, 134, 96),  # green
    (128, 76, 158),  # purple
    (176, 43, 78),  # red
    (94, 100, 40),  # olive
)


def tint(color: Color, amount: float) -> Color:
    """Mix ``color`` with the paper: 0 leaves it, 1 gives white."""
    r, g, b = (round(c + (p - c) * amount) for c, p in zip(color, PAPER, strict=True))
    return (r, g, b)


def text_width(text: str, size: float) -> float:
    """Width of one line of text in pixels."""
    return float(_font(size).getlength(text))


def fit_text(text: str, size: float, width: float) -> str:
    """Return ``text``, cut and ended with dots where it would be wider than ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        cut = text[:length].rstrip() + "..."
        if text_width(cut, size) <= width:
            return cut
    return ""


class Canvas:
    """A white picture; coordinates are pixels from the top left corner.

    Args:
        width: pixels.
        height: pixels.
        oversampling: lines and dots are drawn so many times too large and then shrunk, which
            makes their edges smooth; words and images are put on at their final size.
    """

    def __init__(self, width: int, height: int, oversampling: int = 4) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self._scale = oversampling
        self._large = Image.new("RGB", (width * oversampling, height * oversampling), PAPER)
        self._draw = ImageDraw.Draw(self._large)
        self._texts: list[tuple[Point, str, float, Color, str]] = []
        self._images: list[tuple[Any, tuple[int, int]]] = []

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        """Draw a line with round corners and ends through at least one point."""
        large = [self._enlarge(point) for point in points]
        if len(large) > 1:
            self._draw.line(large, color, round(width * self._scale), joint="curve")
        for point in (points[0], points[-1]):
            self.dot(point, width / 2, color)

    def rule(self, start: Point, end: Point, color: Color, width: float = 1.0) -> None:
        """Draw a straight line with square ends, as axes and grids have."""
        self._draw.line(
            [self._enlarge(start), self._enlarge(end)], color, round(width * self._scale)
        )

    def dot(self, center: Point, radius: float, color: Color) -> None:
        """Draw a filled circle."""
        x, y = self._enlarge(center)
        r = radius * self._scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def text(
        self, at: Point, text: str, size: float, color: Color = INK, anchor: str = "ls"
    ) -> None:
        """Write one line; ``anchor`` is Pillow's: horizontal l, m, r, then vertical a, m, s."""
        self._texts.append((at, text, size, color, anchor))

    def image(self, image: Any, at: tuple[int, int]) -> None:
        """Put a Pillow image with its top left corner at ``at``, pixel by pixel."""
        self._images.append((image, at))

    def render(self) -> Any:
        """Return the picture as a Pillow image."""
        from PIL import ImageDraw

        result = self._large.reduce(self._scale)
        for image, corner in self._images:
            result.paste(image, corner)
        draw = ImageDraw.Draw(result)
        for at, text, size, color, anchor in self._texts:
            draw.text(at, text, fill=color, font=_font(size), anchor=anchor)
        return result

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG file, atomically.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        with atomic_path(path) as temporary:
            self.render().save(temporary, format="PNG", optimize=True)

    def _enlarge(self, point: Point) -> Point:
        return (point[0] * self._scale, point[1] * self._scale)


def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
