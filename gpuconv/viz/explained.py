"""Pictures of why a network says what it says: Grad-CAM and saliency over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuconv.backends.arrays import to_numpy
from gpuconv.layers.base import Layer
from gpuconv.models.model import Model
from gpuconv.ops.layouts import channels_last
from gpuconv.viz.attribution import class_activation, input_gradient
from gpuconv.viz.figures import (
    PathLike,
    as_pictures,
    class_name,
    finish,
    grid_of_axes,
    new_figure,
    show_picture,
)
from gpuconv.viz.outputs import Numbers, image_batch, is_channels_first

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grad_cam(
    model: Model,
    image: Any,
    layer: Layer | str | None = None,
    label: int | None = None,
    classes: Sequence[str] | None = None,
    path: PathLike | None = None,
) -> Figure:
    """Draw an image, and over it where a layer sees a class (Grad-CAM).

    Args:
        model, image, layer, label: as in :func:`gpuconv.viz.class_activation`, which
            computes the map: by default the class that the network predicts, seen by its last
            convolution.
        classes: names of the classes for the heading.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.

    Raises:
        InvalidArgumentError: no such layer or class, or an unknown suffix.
        ShapeError: the image does not fit, or the layer has no spatial extents.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    found = class_activation(model, image, layer, label)
    picture = _picture(model, image)
    figure = new_figure(7.2, 3.8, path)
    left, right = grid_of_axes(figure, 2, 2)
    show_picture(left, picture)
    left.set_title("image")
    show_picture(right, picture)
    height, width = picture.shape[:2]
    # The map has fewer pixels than the image; stretched over it, they keep their places.
    heat = right.imshow(
        found.map,
        cmap="jet",
        alpha=0.5,
        interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        vmin=0,
        vmax=float(found.map.max()) or 1.0,
    )
    right.set_title(f"seen by {found.layer}")
    figure.colorbar(heat, ax=right, shrink=0.8)
    name = class_name(found.label, classes)
    figure.suptitle(f"Grad-CAM of class {name}, score {found.score:.3g}")
    return finish(figure, path)


def saliency(
    model: Model,
    image: Any,
    label: int | None = None,
    classes: Sequence[str] | None = None,
    path: PathLike | None = None,
) -> Figure:
    """Draw an image and, beside it, how much the score of a class depends on each pixel.

    Args:
        model, image, label: as in :func:`gpuconv.viz.input_gradient`, whose largest
            absolute value over the channels is shown.
        classes: names of the classes for the heading.
        path: file to write, by its suffix PNG, SVG or PDF; None writes none.

    Raises:
        InvalidArgumentError: no such class, or an unknown suffix.
        ShapeError: the image does not fit, or the model is not one of images.
        MissingDependencyError: matplotlib is not installed.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    found = input_gradient(model, image, label)
    figure = new_figure(7.2, 3.8, path)
    left, right = grid_of_axes(figure, 2, 2)
    show_picture(left, _picture(model, image))
    left.set_title("image")
    shown = right.imshow(found.saliency, cmap="magma", vmin=0)
    right.set_title("saliency")
    figure.colorbar(shown, ax=right, shrink=0.8)
    name = class_name(found.label, classes)
    figure.suptitle(f"Saliency of class {name}, score {found.score:.3g}")
    return finish(figure, path)


def _picture(model: Model, image: Any) -> Numbers:
    """The image as it is shown, (H, W) or (H, W, 3)."""
    batch = to_numpy(channels_last(image_batch(model, image), is_channels_first(model)))
    return as_pictures(batch.astype("uint8") if getattr(image, "dtype", "") == "uint8" else batch)[
        0
    ]
