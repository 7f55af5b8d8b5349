"""Configurations from constructors, unknown arguments, and objects by name."""

from __future__ import annotations

from typing import Any

import pytest

from gpuconv.configurable import Configurable, Registry, arguments_of, snake_case
from gpuconv.errors import GpuconvError, InvalidArgumentError, UnknownArgumentError


class Shape(Configurable):
    def __init__(self, sides: int = 3, name: str | None = None) -> None:
        self.sides = sides
        self.name = name


class Square(Shape):
    def __init__(self, length: float, **common: Any) -> None:
        super().__init__(4, **common)
        self.length = length


class Plain(Configurable):
    pass


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Dense", "dense"),
        ("Conv2D", "conv2d"),
        ("Conv2DTranspose", "conv2d_transpose"),
        ("MaxPooling2D", "max_pooling2d"),
        ("BatchNormalization", "batch_normalization"),
        ("LeakyReLU", "leaky_re_lu"),
        ("GlorotUniform", "glorot_uniform"),
        ("TopKCategoricalAccuracy", "top_k_categorical_accuracy"),
    ],
)
def test_snake_case_is_that_of_keras(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_arguments_follow_double_stars_to_the_base_classes() -> None:
    assert arguments_of(Square) == ("length", "sides", "name")
    assert arguments_of(Shape) == ("sides", "name")
    assert arguments_of(Plain) == ()


def test_configuration_and_back() -> None:
    square = Square(2.0, name="field")
    assert Shape(5).get_config() == {"sides": 5, "name": None}
    assert square.get_config() == {"length": 2.0, "sides": 4, "name": "field"}
    assert repr(square) == "Square(length=2.0, sides=4, name='field')"
    again = Shape.from_config(Shape(7, "heptagon").get_config())
    assert (again.sides, again.name) == (7, "heptagon")


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (
            Shape,
            {"side": 3},
            "Shape has no argument 'side'.*Did you mean 'sides'.*Received: side=3",
        ),
        (Square, {"length": 1, "nmae": "x"}, "Did you mean 'name'"),
        (Plain, {"x": 1}, "Plain has no argument 'x'; it has none. Received: x=1"),
    ],
)
def test_unknown_arguments_are_refused_with_a_suggestion(
    cls: type, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnknownArgumentError, match=message) as caught:
        cls(**arguments)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, GpuconvError)


def registry() -> Registry[Shape]:
    made: Registry[Shape] = Registry("shape", Shape)
    made.register(Shape, "shape", "form")
    return made


def test_registry_finds_names_classes_configurations_and_instances() -> None:
    shapes = registry()
    shape = Shape(9)
    assert shapes.get(shape) is shape
    for identifier in ("shape", "form", "Shape", Shape, {"class_name": "Shape"}):
        assert shapes.get(identifier).sides == 3
    again = shapes.get(shapes.serialize(shape))
    assert again is not shape
    assert again.sides == 9


@pytest.mark.parametrize(
    "identifier",
    [None, 3, {"config": {}}, {"class_name": "Shape", "config": "x"}, object(), int, print],
)
def test_registry_refuses_other_things(identifier: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a shape: .*Received: "):
        registry().get(identifier)


def test_registry_suggests_names() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"no shape has this name.*Did you mean 'shape'.*'shap'"
    ):
        registry().get("shap")


def test_only_registered_classes_have_a_configuration() -> None:
    shapes = registry()
    with pytest.raises(InvalidArgumentError, match="register"):
        shapes.serialize(Square(1.0))
    with pytest.raises(InvalidArgumentError, match="subclass of Shape"):
        shapes.register(Plain)  # type: ignore[arg-type]
    shapes.register(Square, "square", class_name="geometry.Square")
    assert shapes.serialize(Square(1.0))["class_name"] == "geometry.Square"
