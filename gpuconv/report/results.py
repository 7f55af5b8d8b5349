"""The sections of what the network does on the test data: confusion matrix and mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.containers import unwrap
from gpuconv.report import rasters
from gpuconv.report.images import UnseenImages, unseen_images
from gpuconv.report.page import Html, Section, escaped, paragraph, picture, table, together
from gpuconv.report.run import Run
from gpuconv.viz import confusion_counts
from gpuconv.viz.figures import as_pictures
from gpuconv.viz.outputs import sample_shape

Numbers = np.ndarray[Any, Any]

_MOST_CLASSES = 30
_MOST_MISTAKES = 24


@dataclass(frozen=True)
class Tested:
    """The test images and what the network says about them.

    Attributes:
        images: images and labels.
        scores: (N, K).
    """

    images: UnseenImages
    scores: Numbers

    @property
    def predicted(self) -> Numbers:
        """The class with the highest score, (N,)."""
        return np.asarray(self.scores.argmax(axis=1))


def tested(run: Run) -> Tested | str:
    """Let the model classify the test images; or return, in words, why it cannot."""
    if run.model.several_inputs:
        return "The network has several inputs"
    images = unseen_images(run)
    if isinstance(images, str):
        return images
    wanted, found = sample_shape(run.model), images.x.shape[1:]
    if wanted is None or tuple(wanted) != found:
        return f"The network takes inputs of shape {wanted}, the test images have {found}"
    scores = run.model.predict(images.x, verbose=0)
    if isinstance(scores, (list, tuple)):
        return "The network has several outputs"
    scores = to_numpy(unwrap(scores)[0])
    classes = int(images.y.max()) + 1
    if scores.ndim != 2 or scores.shape[1] < classes:
        return (
            f"The network gives outputs of shape {scores.shape[1:]}, not a score for each of the "
            f"{classes} classes"
        )
    return Tested(images, scores)


def confusion_section(found: Tested | str) -> Section:
    """Return the confusion matrix as a table."""
    if isinstance(found, str):
        content = [paragraph(f"{found}; so the confusion matrix is left out.", "note")]
    else:
        content = _confusion(found)
    return Section("confusion", "Confusion matrix", content)


def mistakes_section(found: Tested | str) -> Section:
    """Return the images that were taken for another class, the surest mistakes first."""
    if isinstance(found, str):
        content = [paragraph(f"{found}; so the misclassified images are left out.", "note")]
    else:
        content = _mistakes(found)
    return Section("mistakes", "Misclassified images", content)


def _confusion(found: Tested) -> list[Html]:
    counts = confusion_counts(found.images.y, found.predicted)
    right, total = int(np.trace(counts)), int(counts.sum())
    words = paragraph(
        f"{right} of {total} test images are classified rightly ({right / total:.1%}). "
        "A row holds the images of one class, a column those that were taken for it."
    )
    if len(counts) > _MOST_CLASSES:
        return [words, paragraph(f"{len(counts)} classes are too many for a table.", "note")]
    rows = []
    for number, row in enumerate(counts):
        images = int(row.sum())
        cells = [_cell(int(count), count / max(images, 1)) for count in row]
        recall = f"{row[number] / images:.0%}" if images else "no images"
        rows.append([found.images.name(number), *cells, Html(f"<td>{escaped(recall)}</td>")])
    names = [found.images.name(number) for number in range(len(counts))]
    header = ["true", *names, "right"]
    kind = "confusion" + " upright" * (max(map(len, names)) > 3)
    return [
        words,
        table("The true class by row, the predicted one by column", header, rows, kind=kind),
    ]


def _cell(count: int, part: float) -> Html:
    if count == 0:
        return Html('<td class="none">0</td>')
    # At least so dark that a single image is seen, and white figures from where they are read.
    shade = 0.12 + 0.88 * part
    strong = ' class="strong"' if shade > 0.6 else ""
    return Html(f'<td{strong} style="--part:{shade:.2f}">{count}</td>')


def _mistakes(found: Tested) -> list[Html]:
    predicted, images = found.predicted, found.images
    wrong = np.flatnonzero(predicted != images.y)
    if len(wrong) == 0:
        return [paragraph(f"None of the {len(images.y)} test images is misclassified.")]
    sure = found.scores[wrong, predicted[wrong]]
    shown = wrong[np.argsort(-sure, kind="stable")][:_MOST_MISTAKES]
    some = "All of them" if len(shown) == len(wrong) else f"The {len(shown)} surest mistakes"
    tiles = []
    for number, levels in zip(shown, as_pictures(images.x[shown]), strict=True):
        true, taken = images.name(images.y[number]), images.name(predicted[number])
        pixels = rasters.gray(levels)
        caption = f"{true} seen as {taken} ({found.scores[number].max():.2f})"
        alt = f"Test image {number}: {true}, seen as {taken}"
        tiles.append(picture(rasters.png(pixels), alt, pixels.shape[1::-1], caption))
    return [
        paragraph(
            f"{len(wrong)} of {len(images.y)} test images are misclassified. {some}, with the "
            "score of the class that was given:"
        ),
        together(tiles, "tiles"),
    ]
