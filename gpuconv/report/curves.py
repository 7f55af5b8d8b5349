"""The section of the learning curves."""

from __future__ import annotations

import io
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.errors import MissingDependencyError
from gpuconv.report.page import Html, Section, folded, paragraph, picture, table, together
from gpuconv.report.run import Run
from gpuconv.viz import draw_history, learning_curves
from gpuconv.viz.history import panels_of

if TYPE_CHECKING:
    from PIL.Image import Image


def curves_section(run: Run) -> Section:
    """Return the curves, and below them their numbers."""
    return Section("curves", "Learning curves", _content(run))


def _content(run: Run) -> list[Html]:
    if not run.epochs or not run.history:
        return [paragraph("The run has no history: it did not come to the end of an epoch.")]
    named = {_drawable(name): values for name, values in run.history.items()}
    pictures = []
    for heading, names in panels_of(named):
        png, size = _picture({name: named[name] for name in names})
        ends = "; ".join(f"{name} {_number(named[name][-1])} at the end" for name in names)
        alt = f"Curves of {heading} over {len(run.epochs)} epochs: {ends}"
        pictures.append(picture(png, alt, size, kind="paper"))
    rows = [
        [epoch + 1, *(_number(values[n]) for values in run.history.values())]
        for n, epoch in enumerate(run.epochs)
    ]
    numbers = table(
        "Metrics after each epoch", ["epoch", *run.history], rows, range(len(run.history) + 1)
    )
    return [
        paragraph(
            "After each epoch, on the images that the network learns from and, for validation, on "
            "a part of them that it is only watched on."
        ),
        together(pictures, "pair"),
        folded("The numbers", numbers),
    ]


def _picture(series: Mapping[str, Sequence[float]]) -> tuple[bytes, tuple[int, int]]:
    """Draw one panel: by matplotlib, or by Pillow where that is not installed."""
    try:
        figure = learning_curves(series, title="")
    except MissingDependencyError:
        from PIL.Image import open as open_image

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "curves.png"
            draw_history(series, file, title="")
            return _trimmed(open_image(file))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    width, height = (round(inches * 100) for inches in figure.get_size_inches())
    return buffer.getvalue(), (width, height)


def _trimmed(image: Image) -> tuple[bytes, tuple[int, int]]:
    """Cut off the empty margins, so that the words are larger on a small screen."""
    from PIL import ImageOps

    colours = image.convert("RGB")
    left, top, right, bottom = ImageOps.invert(colours).getbbox() or (0, 0, *colours.size)
    inside = (max(left - 8, 0), max(top - 8, 0), right + 8, bottom + 8)
    cut = colours.crop((*inside[:2], min(inside[2], image.width), min(inside[3], image.height)))
    buffer = io.BytesIO()
    cut.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), cut.size


def _drawable(name: str) -> str:
    """Return a name with all that a font may lack, or take for a formula, replaced."""
    return re.sub(r"[^\w .:/%+-]", "?", name, flags=re.ASCII) or "?"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
