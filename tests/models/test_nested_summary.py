"""Summaries that show the layers of models inside, and what is trainable."""

from __future__ import annotations

import re

import pytest

import gpuconv as gc
from gpuconv.layers import Add, BatchNormalization, Conv2D, Dense, Dropout, Flatten, ReLU

STYLES = ("table", "classic")


def text_of(model: gc.Model, style: str = "table", width: int = 80, **more: bool) -> str:
    said: list[str] = []
    model.summary(width, style, said.append, **more)
    (text,) = said
    return text


def nested() -> gc.Sequential:
    """A stack with a stack with a stack inside: 6 + 8 + 12 + 5 parameters."""
    innermost = gc.Sequential([Dense(2, name="c", input_shape=(3,))], name="innermost")
    inner = gc.Sequential([Dense(3, name="a", input_shape=(1,)), innermost, ReLU(name="r")])
    inner.add(Dense(4, name="d"))
    return gc.Sequential([inner, Dense(1, name="last")], name="m")


def test_the_golden_table() -> None:
    assert text_of(nested(), expand_nested=True).split("\n") == [
        'Model: "m"',
        "┌─────────────────────────────┬──────────────┬────────┐",
        "│ Layer (type)                │ Output shape │ Params │",
        "├─────────────────────────────┼──────────────┼────────┤",
        "│ sequential (Sequential)     │ (None, 4)    │     26 │",
        "│    └ a (Dense)              │ (None, 3)    │      6 │",
        "│    └ innermost (Sequential) │ (None, 2)    │      8 │",
        "│       └ c (Dense)           │ (None, 2)    │      8 │",
        "│    └ r (ReLU)               │ (None, 2)    │      0 │",
        "│    └ d (Dense)              │ (None, 4)    │     12 │",
        "│ last (Dense)                │ (None, 1)    │      5 │",
        "└─────────────────────────────┴──────────────┴────────┘",
        " Total params: 31 (124.00 B)",
        " Trainable params: 31 (124.00 B)",
        " Non-trainable params: 0 (0.00 B)",
    ]


def test_the_golden_lines() -> None:
    assert text_of(nested(), "classic", 65, expand_nested=True).split("\n") == [
        'Model: "m"',
        "_" * 65,
        "Layer (type)                Output Shape             Param #",
        "=" * 65,
        "sequential (Sequential)     (None, 4)                26",
        "|" + "¯" * 63 + "|",
        "| a (Dense)                 (None, 3)                6" + " " * 10 + "|",
        "|" + " " * 63 + "|",
        "| innermost (Sequential)    (None, 2)                8" + " " * 10 + "|",
        "||" + "¯" * 61 + "||",
        "|| c (Dense)                (None, 2)                8" + " " * 9 + "||",
        "|" + "¯" * 63 + "|",
        "|" + " " * 63 + "|",
        "| r (ReLU)                  (None, 2)                0" + " " * 10 + "|",
        "|" + " " * 63 + "|",
        "| d (Dense)                 (None, 4)                12" + " " * 9 + "|",
        "¯" * 65,
        "",
        "last (Dense)                (None, 1)                5",
        "=" * 65,
        "Total params: 31 (124.00 B)",
        "Trainable params: 31 (124.00 B)",
        "Non-trainable params: 0 (0.00 B)",
        "_" * 65,
    ]


def test_boxes_that_end_together() -> None:
    model = gc.Sequential([Dense(1, name="first", input_shape=(1,)), nested()])
    deep = gc.Sequential([model], name="deep")
    lines = text_of(deep, "classic", 65, expand_nested=True).split("\n")
    assert max(map(len, lines)) == 65
    end = lines.index("=" * 65, lines.index("=" * 65) + 1)
    assert lines[end - 1] == "¯" * 65
    assert lines[end - 2] == "|" + "¯" * 63 + "|"
    assert lines[end - 3].startswith("|| last (Dense)")


@pytest.mark.parametrize("style", STYLES)
def test_totals_and_lines_are_unchanged(style: str) -> None:
    plain, expanded = text_of(nested(), style), text_of(nested(), style, expand_nested=True)
    totals = re.compile(r"params: .*")
    assert totals.findall(plain) == totals.findall(expanded)
    assert len(totals.findall(plain)) == 3
    assert "a (Dense)" not in plain
    flat = gc.Sequential([Dense(2, input_shape=(3,))])
    assert text_of(flat, style) == text_of(flat, style, expand_nested=True)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("width", [30, 44, 60, 100])
@pytest.mark.parametrize("trainable", [False, True])
def test_any_width(width: int, style: str, trainable: bool) -> None:
    text = text_of(nested(), style, width, expand_nested=True, show_trainable=trainable)
    assert max(map(len, text.split("\n"))) <= width
    letters = re.sub(r"[^a-z]", "", text)
    for name in ("innermost", "last"):
        if width >= 60:
            assert name in letters


def shared() -> gc.Model:
    """A model that is called twice, behind a layer of its own for each."""
    inner = gc.Sequential([Dense(4, activation="relu"), Dense(3)], name="shared")
    a, b = gc.Input((3,), name="a"), gc.Input((3,), name="b")
    merged = Add(name="sum")([inner(Dense(3, name="of_a")(a)), inner(b)])
    return gc.Model([a, b], merged, name="siamese")


def test_large_numbers_stay_in_one_piece_beside_branches() -> None:
    inputs = gc.Input((3000,), name="image")
    block = gc.Model(inputs, Add()([Dense(3000, name="wide")(inputs), inputs]), name="block")
    model = gc.Sequential([gc.Sequential([block], name="outer")])
    for width in (65, 80, 100):
        text = text_of(model, "classic", width, expand_nested=True)
        assert max(map(len, text.split("\n"))) == width
        assert len(re.findall(r"\b9003000\b", text)) == 3  # outer, block, wide


@pytest.mark.parametrize("style", STYLES)
def test_a_shared_model_counts_once_and_is_shown_once(style: str) -> None:
    text = text_of(shared(), style, 120, expand_nested=True)
    assert len(re.findall(r"shared \(Sequential\)", text)) == 2
    assert len(re.findall(r"dense \(Dense\)", text)) == 1
    assert len(re.findall(r"dense_1 \(Dense\)", text)) == 1
    assert "Total params: 43 (172.00 B)" in text  # 12 + (16 + 15)


def test_layers_before_are_shown_inside_too() -> None:
    inputs = gc.Input((6, 6, 2), name="image")
    x = Conv2D(2, 3, padding="same", name="conv")(inputs)
    block = gc.Model(inputs, Add(name="sum")([x, inputs]), name="block")
    model = gc.Sequential([block, Flatten(name="flat"), Dense(2, name="head")])
    text = text_of(model, "table", 100, expand_nested=True)
    assert re.search(r"│    └ image \(InputLayer\) +│ \(None, 6, 6, 2\) │ +0 │ +│", text)
    assert re.search(r"│    └ sum \(Add\) +│ \(None, 6, 6, 2\) │ +0 │ conv, image +│", text)
    assert "Connected to" not in text_of(model, "table", 100)
    classic = text_of(model, "classic", 100, expand_nested=True)
    assert re.search(r"\| sum \(Add\) +\(None, 6, 6, 2\) +0 +conv, image +\|", classic)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_trainable(style: str) -> None:
    frozen = gc.Sequential([Dense(2, name="cold", input_shape=(3,))], name="base")
    frozen.trainable = False
    model = gc.Sequential(
        [frozen, BatchNormalization(name="norm"), Dropout(0.5, name="drop"), Dense(1, name="warm")]
    )
    text = text_of(model, style, 100, expand_nested=True, show_trainable=True)
    letters = {
        name: re.search(rf"\b{name} \(.*?\b(Y|N)\b|\b{name} \(.* -[ │|]*$", text, re.MULTILINE)
        for name in ("base", "cold", "norm", "drop", "warm")
    }
    found = {name: match and (match.group(1) or "-") for name, match in letters.items()}
    assert found == {"base": "N", "cold": "N", "norm": "Y", "drop": "-", "warm": "Y"}
    assert "Trainable" in text.split("\n")[2]
    assert "Non-trainable params: 12 (48.00 B)" in text  # 8, and the moving statistics
    assert not re.search(r"\bTrainable\b(?! params)", text_of(model, style, 100))
