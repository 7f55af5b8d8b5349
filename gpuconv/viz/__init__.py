"""Pictures of training runs and of what networks do.

:func:`draw_history` and :func:`draw_images` need nothing but Pillow. All others return a
matplotlib ``Figure`` and write it if they are given a path; matplotlib comes with
``python -m pip install "gpuconv[plot]"``. The numbers behind them are in
:func:`activations`, :func:`class_activation`, :func:`input_gradient` and :func:`confusion_counts`.
"""

from gpuconv.viz.attribution import (
    ClassActivation,
    InputGradient,
    class_activation,
    input_gradient,
)
from gpuconv.viz.classes import confusion_counts, confusion_matrix, misclassified
from gpuconv.viz.explained import grad_cam, saliency
from gpuconv.viz.history import draw_history
from gpuconv.viz.images import draw_images
from gpuconv.viz.insides import feature_maps, filters
from gpuconv.viz.learning import learning_curves
from gpuconv.viz.network import diagram
from gpuconv.viz.outputs import activations

__all__ = [
    "ClassActivation",
    "InputGradient",
    "activations",
    "class_activation",
    "confusion_counts",
    "confusion_matrix",
    "diagram",
    "draw_history",
    "draw_images",
    "feature_maps",
    "filters",
    "grad_cam",
    "input_gradient",
    "learning_curves",
    "misclassified",
    "saliency",
]
