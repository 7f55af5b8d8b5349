"""How well the outlines of classes agree, for segmentation."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.metrics.confusion import ConfusionMatrix


class MeanIoU(ConfusionMatrix):
    """Mean over the classes of intersection by union: ``hits / (labels + outputs - hits)``.

    Classes that neither labels nor outputs have do not count, as in Keras 3.15.

    Args:
        num_classes: K, at least 2.
        name: key in logs.

    Shapes: as in :class:`~gpuconv.metrics.ConfusionMatrix`: outputs are scores (N, ..., K), of
    which the largest counts, or class numbers. (Keras wants to be told: ``sparse_y_pred``.)
    """

    def result(self) -> float:  # type: ignore[override]
        """Return the mean; 0 before the first batch."""
        counts = super().result().astype(np.float64)
        hits = np.diag(counts)
        union: np.ndarray[Any, Any] = counts.sum(axis=0) + counts.sum(axis=1) - hits
        present = union > 0
        return float((hits[present] / union[present]).mean()) if present.any() else 0.0
