"""The figures: how many images, which titles and values, and files that appear whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import viz
from gpuconv.errors import InvalidArgumentError, MissingDependencyError, ShapeError
from gpuconv.layers import Add, Conv1D, Conv2D, Dense, DepthwiseConv2D, Flatten, MaxPooling2D

matplotlib = pytest.importorskip("matplotlib")

RNG = np.random.default_rng(4)


def network(channels: int = 3) -> gc.Sequential:
    gc.set_seed(7)
    return gc.Sequential(
        [
            Conv2D(5, 3, activation="relu", input_shape=(8, 7, channels), name="first"),
            MaxPooling2D(2),
            Conv2D(6, 2, activation="relu", name="second"),
            Flatten(),
            Dense(4, activation="softmax", name="scores"),
        ],
        name="small",
    )


def images_in(figure: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(image.get_array()) for axis in figure.axes for image in axis.images]


def heading(figure: Any) -> str:
    return str(figure.get_suptitle())


# --- learning curves ----------------------------------------------------------------------------


def test_learning_curves_have_a_panel_for_each_kind_of_number() -> None:
    history = {
        "loss": [3.0, 2.0, math.nan, 1.0],
        "val_loss": [3.5, 2.5],
        "accuracy": [0.1, 0.5, 0.6, 0.9],
        "learning_rate": [0.1] * 4,
    }
    figure = viz.learning_curves(history)
    loss, accuracy, rate = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["loss", "accuracy", "learning rate"]
    training, validation = loss.lines
    np.testing.assert_array_equal(training.get_xdata()[:2], [1, 2])
    np.testing.assert_array_equal(training.get_ydata()[:2], [3, 2])
    assert np.isnan(training.get_ydata()[2])  # the gap
    np.testing.assert_array_equal(validation.get_xdata()[:2], [2, 4])  # every second epoch
    assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")
    words = [text.get_text() for text in loss.get_legend().get_texts()]
    assert words == ["training: 1", "validation: 2.5"]
    assert [len(axis.lines) for axis in (accuracy, rate)] == [1, 1]
    assert loss.get_yscale() == "linear"


def test_a_loss_that_falls_far_gets_a_logarithmic_axis_and_a_history_is_taken() -> None:
    history = gc.callbacks.History()
    history.history = {"loss": [10.0, 1.0, 0.1]}
    (axis,) = viz.learning_curves(history).axes
    assert axis.get_yscale() == "log"
    with pytest.raises(InvalidArgumentError, match="history must be"):
        viz.learning_curves([1, 2])
    with pytest.raises(InvalidArgumentError, match="at least one epoch"):
        viz.learning_curves({})


# --- filters and feature maps -------------------------------------------------------------------


def test_filters_over_three_channels_are_in_colour() -> None:
    model = network()
    figure = viz.filters(model)
    shown = images_in(figure)
    assert len(shown) == 5
    kernel = model.layers[0].get_weights()[0]
    for number, image in enumerate(shown):
        own = kernel[..., number]
        np.testing.assert_allclose(image, (own - own.min()) / np.ptp(own), rtol=1e-5, atol=1e-6)
    assert heading(figure) == "first: 5 filters of 3 x 3 over 3 channels"


def test_filters_over_one_channel_share_a_scale_around_zero() -> None:
    layer = DepthwiseConv2D(3)
    layer.build((None, 8, 8, 4))
    figure = viz.filters(layer, count=2)
    assert heading(figure).endswith("2 of 4 filters of 3 x 3 over 1 channel")
    limit = np.abs(layer.get_weights()[0]).max()
    for number, axis in enumerate(figure.axes):
        (image,) = axis.images
        assert image.get_clim() == pytest.approx((-limit, limit))
        np.testing.assert_array_equal(image.get_array(), layer.get_weights()[0][..., number, 0])


def test_other_filters_make_a_table() -> None:
    model = network()
    figure = viz.filters(model, "second")
    table = images_in(figure)[0]
    assert table.shape == (6 * 3 - 1, 5 * 3 - 1)
    kernel = model.get_layer("second").get_weights()[0]
    np.testing.assert_array_equal(table[3:5, 6:8], kernel[:, :, 2, 1])  # filter 1, channel 2
    assert np.isnan(np.ma.filled(table.astype(float), np.nan)[2]).all()
    assert figure.axes[0].get_ylabel() == "filter"


def test_feature_maps_of_layers_with_and_without_extents() -> None:
    model, image = network(), RNG.random((8, 7, 3))
    maps = viz.activations(model, image, "first")
    figure = viz.feature_maps(model, image, "first", count=4)
    assert heading(figure) == "first: 4 of 5 channels of 6 x 5"
    for number, shown in enumerate(images_in(figure)):
        np.testing.assert_array_equal(shown, maps[..., number])
    assert len(figure.axes) == 4
    (axis,) = viz.feature_maps(model, image, "scores").axes
    heights = [bar.get_height() for bar in axis.patches]
    np.testing.assert_allclose(heights, viz.activations(model, image, "scores"))
    lines = gc.Sequential([Conv1D(3, 2, input_shape=(9, 2), name="lines")])
    (axis,) = viz.feature_maps(lines, RNG.random((9, 2)), "lines").axes
    assert [len(line.get_ydata()) for line in axis.lines] == [8, 8, 8]


# --- explanations -------------------------------------------------------------------------------


def test_grad_cam_lies_over_the_image() -> None:
    model, image = network(), RNG.random((8, 7, 3))
    figure = viz.grad_cam(model, image, label=2, classes=list("abcd"))
    found = viz.class_activation(model, image, label=2)
    assert heading(figure) == f"Grad-CAM of class c, score {found.score:.3g}"
    left, right = figure.axes[:2]
    np.testing.assert_allclose(left.images[0].get_array(), image, rtol=1e-6)
    below, heat = right.images
    np.testing.assert_array_equal(heat.get_array(), found.map)
    assert list(heat.get_extent()) == list(below.get_extent()) == [-0.5, 6.5, 7.5, -0.5]
    assert right.get_title() == "seen by second"


def test_saliency_beside_the_image() -> None:
    model = network(channels=1)
    image = RNG.integers(0, 17, (8, 7, 1)).astype("uint8")
    figure = viz.saliency(model, image)
    found = viz.input_gradient(model, image)
    shown = images_in(figure)
    span = float(np.ptp(image))
    np.testing.assert_allclose(shown[0], (image[..., 0] - image.min()) / span, rtol=1e-6)
    np.testing.assert_array_equal(shown[1], found.saliency)
    assert heading(figure).startswith(f"Saliency of class {found.label}, score")


# --- classes ------------------------------------------------------------------------------------


def test_confusion_matrix_has_counts_and_names() -> None:
    figure = viz.confusion_matrix([0, 0, 1, 2], [0, 1, 1, 2], classes=["ant", "bee", "cow"])
    axis = figure.axes[0]
    np.testing.assert_allclose(images_in(figure)[0], [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    assert axis.get_title() == "3 of 4 right (75.0%)"
    counts = {text.get_position(): text.get_text() for text in axis.texts}
    assert counts == {(0, 0): "1", (1, 0): "1", (1, 1): "1", (2, 2): "1"}  # column, row
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ant", "bee", "cow"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")


def test_many_classes_have_no_numbers() -> None:
    axis = viz.confusion_matrix(np.arange(100), np.arange(100)).axes[0]
    assert not axis.texts
    assert len(axis.get_xticks()) == 20


def test_the_surest_mistakes_come_first() -> None:
    images = RNG.random((4, 3, 3, 3))
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    figure = viz.misclassified(images, [1, 1, 1, 0], scores, count=2)
    assert [axis.get_title() for axis in figure.axes] == ["1 → 0\n0.90", "0 → 1\n0.70"]
    np.testing.assert_allclose(images_in(figure), images[[0, 3]])
    assert heading(figure).startswith("2 of 3 misclassified")
    plain = viz.misclassified(images, [1, 1, 1, 0], [0, 0, 1, 1], classes=["no", "yes"])
    assert [axis.get_title() for axis in plain.axes] == ["yes → no", "yes → no", "no → yes"]


def test_no_mistakes_and_what_does_not_fit() -> None:
    figure = viz.misclassified(np.zeros((2, 3, 3)), [0, 1], [0, 1])
    assert not figure.axes
    assert "none misclassified" in [text.get_text() for text in figure.texts]
    with pytest.raises(ShapeError, match="images"):
        viz.misclassified(np.zeros((2, 3)), [0, 1], [0, 1])
    with pytest.raises(ShapeError, match="2 images, 3 labels"):
        viz.misclassified(np.zeros((2, 3, 3)), [0, 1, 1], [0, 1, 1])


# --- the diagram --------------------------------------------------------------------------------


def test_the_diagram_names_shapes_and_parameters() -> None:
    figure = viz.diagram(network())
    (axis,) = figure.axes
    words = [text.get_text() for text in axis.texts if text.get_text()]
    assert words[:4] == ["input", "8 x 7 x 3", "first (Conv2D)", "6 x 5 x 5 · 140 parameters"]
    assert words[-1] == f"small: {network().count_params():,} parameters"
    assert len(axis.patches) == 6
    arrows = [text for text in axis.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 5


def test_the_diagram_of_a_graph_leads_arrows_past_boxes() -> None:
    image = gc.Input((8, 8, 4))
    x = Conv2D(4, 3, padding="same")(image)
    model = gc.Model(image, Add()([Conv2D(4, 3, padding="same")(x), image]))
    (axis,) = viz.diagram(model).axes
    assert len(axis.patches) == 4
    assert len(axis.lines) == 1
    right_of_boxes = max(patch.get_window_extent().x1 for patch in axis.patches)
    assert axis.lines[0].get_window_extent().x1 > right_of_boxes


# --- files --------------------------------------------------------------------------------------


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.png"
    figure = viz.diagram(network(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    size = tuple(int(value) for value in figure.get_size_inches() * 100)
    assert np.allclose(matplotlib.image.imread(path).shape[1::-1], size, atol=1)
    viz.diagram(network(), tmp_path / "network.svg")
    assert "</svg>" in (tmp_path / "network.svg").read_text(encoding="utf-8")
    before = path.read_bytes()

    def interrupted(self: Any, target: Path, **options: Any) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        viz.diagram(network(), path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.png", "network.svg"]


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"png.*Received: .*network\.doc"):
        viz.diagram(network(), tmp_path / "network.doc")
    with pytest.raises(FileNotFoundError):
        viz.diagram(network(), tmp_path / "none" / "network.png")
    assert not list(tmp_path.iterdir())


def test_no_figure_is_left_in_pyplot() -> None:
    from matplotlib import pyplot

    viz.diagram(network())
    viz.learning_curves({"loss": [1.0]})
    assert pyplot.get_fignums() == []


def test_without_matplotlib_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "gpuconv\[plot\]"'):
        viz.learning_curves({"loss": [1.0]})
