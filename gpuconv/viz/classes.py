"""Pictures of what a classifier confuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.arrays import to_numpy
from gpuconv.containers import unwrap
from gpuconv.errors import InvalidArgumentError, ShapeError
from gpuconv.geometry import as_int
from gpuconv.metrics import ConfusionMatrix
from gpuconv.viz.figures import (
    MUTED_COLOR,
    PathLike,
    as_pictures,
    class_name,
    columns_for,
    finish,
    grid_of_axes,
    new_figure,
    show_picture,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = np.ndarray[Any, Any]

_MOST_NUMBERS = 30


def confusion_counts(y_true: Any, y_pred: Any, classes: int | None = None) -> Numbers:
    """Count pairs of true and predicted classes.

    Args:
        y_true: class numbers (N,) or (N, 1), or one-hot (N, K).
        y_pred: class numbers, or scores (N, K), of which the largest counts; or probabilities
            (N, 1) of class 1.
        classes: K; None: as many as there are scores, or as the largest number says, at least 2.

    Returns:
        (K, K), the true class by row and the predicted one by column.

    Raises:
        ShapeError: not one prediction for each label.
        InvalidArgumentError: numbers that are not classes.
    """
    truth, predicted = _labels(y_true, y_pred)
    largest = max(int(truth.max(initial=0)), int(predicted.max(initial=0)))
    scores = tuple(unwrap(y_pred)[0].shape)[1:]
    count = classes or max(largest + 1, 2, scores[0] if len(scores) == 1 else 0)
    metric = ConfusionMatrix(count)
    metric.update_state(truth, predicted)
    return metric.result()


def confusion_matrix(
    y_true: Any,
    y_pred: Any,
    classes: Sequence[str] | None = None,
    path: PathLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how often each class was taken for each other: rows are true, columns predicted.

    The colour is the part of the row, the number the count (up to 30 classes).

    Args:
        y_true, y_pred: as in :func:`confusion_counts`.
        classes: names of the classes; None: their numbers.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.
        title: heading; None: how many of how many are right.

    Raises:
        ShapeError: not one prediction for each label.
        InvalidArgumentError: numbers that are not classes, or an unknown suffix.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    counts = confusion_counts(y_true, y_pred, None if classes is None else len(classes))
    size, total = len(counts), int(counts.sum())
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.4 + 0.42 * size, 4.2, 14))
    figure = new_figure(side + 0.9, side, path)
    axis = figure.subplots()
    shown = axis.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axis, shrink=0.8, label="part of the true class")
    names = [class_name(number, classes) for number in range(size)]
    step = 1 if size <= _MOST_NUMBERS else -(-size // 20)
    long = max(map(len, names)) > 3
    axis.set_xticks(range(0, size, step), names[::step], rotation=90 if long else 0, fontsize=8)
    axis.set_yticks(range(0, size, step), names[::step], fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if size <= _MOST_NUMBERS:
        for row, column in np.argwhere(counts):
            axis.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if parts[row, column] > 0.5 else "black",
            )
    right = int(np.trace(counts))
    axis.set_title(title or f"{right} of {total} right ({right / max(total, 1):.1%})", fontsize=11)
    return finish(figure, path)


def misclassified(
    x: Any,
    y_true: Any,
    y_pred: Any,
    count: int = 16,
    classes: Sequence[str] | None = None,
    path: PathLike | None = None,
) -> Figure:
    """Draw images that were taken for another class, the surest mistakes first.

    Args:
        x: images (N, H, W), (N, H, W, 1) or (N, H, W, 3).
        y_true, y_pred: as in :func:`confusion_counts`. With scores the images are ordered by the
            score of the predicted class; without, they stay in their order.
        count: show at most so many.
        classes: names of the classes; None: their numbers.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.

    Raises:
        ShapeError: not images, or not one prediction and one label for each.
        InvalidArgumentError: numbers that are not classes, or an unknown suffix.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    images = to_numpy(unwrap(x)[0])
    truth, predicted = _labels(y_true, y_pred)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise ShapeError(
            f"x must be images (N, H, W), (N, H, W, 1) or (N, H, W, 3). Received: {images.shape}"
        )
    if len(images) != len(truth):
        raise ShapeError(
            f"x must have an image for each label. Received: {len(images)} images, "
            f"{len(truth)} labels"
        )
    wrong = np.flatnonzero(truth != predicted)
    scores = _scores(y_pred, predicted)
    if scores is not None:
        wrong = wrong[np.argsort(-scores[wrong], kind="stable")]
    shown = wrong[: as_int(count, "count", 1)]
    columns = columns_for(len(shown))
    figure = new_figure(
        max(4.0, 1.5 * columns), 1.0 + 1.75 * max(1, -(-len(shown) // columns)), path
    )
    if len(shown) == 0:
        figure.text(0.5, 0.45, "none misclassified", ha="center", color=MUTED_COLOR, fontsize=13)
    pictures = as_pictures(images[shown])
    axes = grid_of_axes(figure, len(shown), columns) if len(shown) else []
    for axis, number, picture in zip(axes, shown, pictures, strict=True):
        show_picture(axis, picture)
        caption = f"{class_name(truth[number], classes)} → {class_name(predicted[number], classes)}"
        if scores is not None:
            caption += f"\n{scores[number]:.2f}"
        axis.set_title(caption, fontsize=8, pad=3)
    figure.suptitle(f"{len(shown)} of {len(wrong)} misclassified (true → predicted)", fontsize=10)
    return finish(figure, path)


def _labels(y_true: Any, y_pred: Any) -> tuple[Numbers, Numbers]:
    """Return both as class numbers (N,)."""
    outputs, labels = to_numpy(unwrap(y_pred)[0]), to_numpy(unwrap(y_true)[0])
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(axis=1)
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        outputs = outputs.argmax(axis=1)
    elif outputs.dtype.kind == "f":
        outputs = outputs > 0.5
    truth, predicted = labels.reshape(-1), outputs.reshape(-1).astype(np.int64)
    if labels.size != len(labels) or outputs.size != len(outputs) or len(truth) != len(predicted):
        raise ShapeError(
            f"expected one prediction for each label. Received: labels of shape {labels.shape}, "
            f"predictions of shape {outputs.shape}"
        )
    if truth.dtype.kind not in "biu" and not np.array_equal(truth, np.round(truth)):
        raise InvalidArgumentError(f"y_true must hold class numbers. Received: {truth.dtype}")
    return truth.astype(np.int64), predicted


def _scores(y_pred: Any, predicted: Numbers) -> Numbers | None:
    """The scores of the predicted classes, where there are scores."""
    outputs = to_numpy(unwrap(y_pred)[0])
    if outputs.dtype.kind != "f":
        return None
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return np.asarray(outputs.max(axis=1))
    one = outputs.reshape(-1)
    return np.where(predicted == 1, one, 1 - one)
