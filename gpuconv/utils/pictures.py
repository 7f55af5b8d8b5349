"""The picture of a network, under Keras's name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gpuconv.errors import InvalidArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_model(
    model: Any,
    to_file: str | os.PathLike[str] = "model.png",
    show_shapes: bool = True,
    show_layer_names: bool = True,
) -> Figure:
    """Draw a network and write the picture, as ``keras.utils.plot_model``.

    Args:
        model: a model that has seen an input shape.
        to_file: PNG, SVG or PDF, by its ending.
        show_shapes, show_layer_names: only True: ``gpuconv.viz.diagram`` always shows them.

    Returns:
        The matplotlib figure.

    Raises:
        InvalidArgumentError: shapes or names are not wanted, or another ending.
        MissingDependencyError: matplotlib is not installed.
        NotBuiltError: the model has seen no input shape.
    """
    from gpuconv.viz import diagram

    if not (show_shapes and show_layer_names):
        raise InvalidArgumentError(
            f"diagrams show shapes and names. Received: show_shapes={show_shapes!r}, "
            f"show_layer_names={show_layer_names!r}"
        )
    return diagram(model, to_file)
