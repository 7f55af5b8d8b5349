"""The table of a model: its numbers, both styles, every width."""

from __future__ import annotations

import re
from typing import Any

import pytest
from model_makers import small_cnn

import gpuconv as gc
from gpuconv import Sequential
from gpuconv.errors import InvalidArgumentError, NotBuiltError
from gpuconv.layers import BatchNormalization, Dense, Dropout, Flatten
from gpuconv.models.summary import size_words

ROWS = [
    ("conv2d", "Conv2D", "(None, 30, 30, 32)", 896),
    ("max_pooling2d", "MaxPooling2D", "(None, 15, 15, 32)", 0),
    ("conv2d_1", "Conv2D", "(None, 13, 13, 64)", 18496),
    ("max_pooling2d_1", "MaxPooling2D", "(None, 6, 6, 64)", 0),
    ("conv2d_2", "Conv2D", "(None, 4, 4, 64)", 36928),
    ("flatten", "Flatten", "(None, 1024)", 0),
    ("dense", "Dense", "(None, 64)", 65600),
    ("dense_1", "Dense", "(None, 10)", 650),
]
TOTALS = [
    "Total params: 122,570 (478.79 KB)",
    "Trainable params: 122,570 (478.79 KB)",
    "Non-trainable params: 0 (0.00 B)",
]
STYLES = ("table", "classic")


def text_of(model: Sequential, style: str = "table", width: int | None = None) -> str:
    said: list[str] = []
    model.summary(line_length=width, style=style, print_fn=said.append)
    (text,) = said
    return text


def cells(text: str) -> list[tuple[str, ...]]:
    """The rows of a table: cells that go on in the next line are put together."""
    rows: list[list[str]] = []
    for line in text.split("\n"):
        if line.startswith("├"):
            rows = []  # what came before was the heading
        if not line.startswith("│"):
            continue
        parts = [part.strip() for part in line.strip("│").split("│")]
        if rows and not parts[2]:
            rows[-1] = [a + b for a, b in zip(rows[-1], parts, strict=True)]
        else:
            rows.append(parts)
    return [tuple(re.sub(r"\s", "", cell) for cell in row) for row in rows]


def expected_cells() -> list[tuple[str, ...]]:
    return [
        (f"{name}({kind})", shape.replace(" ", ""), f"{count:,}")
        for name, kind, shape, count in ROWS
    ]


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_the_rows_of_the_seed_network_at_any_width(width: int) -> None:
    text = text_of(gc.zoo.seed_network(), "table", width)
    assert cells(text) == expected_cells()
    assert max(map(len, text.split("\n"))) <= width
    squeezed = re.sub(r"\s", "", text)
    for total in TOTALS:
        assert total.replace(" ", "") in squeezed


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_the_older_table_at_any_width(width: int) -> None:
    text = text_of(gc.zoo.seed_network(), "classic", width)
    lines = text.split("\n")
    assert max(map(len, lines)) == width
    squeezed = re.sub(r"\s", "", text)
    for total in TOTALS:
        assert total.replace(" ", "") in squeezed
    # Each number stands in one piece, at one column, in its row's first line.
    body = lines[lines.index("=" * width) + 1 :]
    body = body[: body.index("=" * width)]
    column = lines[2].index("Param #")
    assert [line[column:] for line in body if line[column:]] == [str(count) for *_, count in ROWS]
    if width >= 80:
        for name, kind, shape, count in ROWS:
            pattern = rf"^{re.escape(f'{name} ({kind})')} +{re.escape(shape)} +{count}$"
            assert any(re.match(pattern, line) for line in lines), name


def test_the_golden_table() -> None:
    model = Sequential([Flatten(input_shape=(2, 3)), Dense(2)], name="m")
    assert text_of(model, "table", 80).split("\n") == [
        'Model: "m"',
        "┌───────────────────┬──────────────┬────────┐",
        "│ Layer (type)      │ Output shape │ Params │",
        "├───────────────────┼──────────────┼────────┤",
        "│ flatten (Flatten) │ (None, 6)    │      0 │",
        "│ dense (Dense)     │ (None, 2)    │     14 │",
        "└───────────────────┴──────────────┴────────┘",
        " Total params: 14 (56.00 B)",
        " Trainable params: 14 (56.00 B)",
        " Non-trainable params: 0 (0.00 B)",
    ]
    assert text_of(model, "classic", 65).split("\n") == [
        'Model: "m"',
        "_" * 65,
        "Layer (type)                 Output Shape              Param #",
        "=" * 65,
        "flatten (Flatten)            (None, 6)                 0",
        "",
        "dense (Dense)                (None, 2)                 14",
        "=" * 65,
        "Total params: 14 (56.00 B)",
        "Trainable params: 14 (56.00 B)",
        "Non-trainable params: 0 (0.00 B)",
        "_" * 65,
    ]


@pytest.mark.parametrize("style", STYLES)
def test_frozen_layers_count_as_not_trainable(style: str) -> None:
    model = gc.zoo.seed_network()
    model.layers[0].trainable = False
    text = text_of(model, style, 80)
    assert TOTALS[0] in text
    assert f"Trainable params: {122570 - 896:,} (475.29 KB)" in text
    assert "Non-trainable params: 896 (3.50 KB)" in text
    model.trainable = False
    assert "Trainable params: 0 (0.00 B)" in text_of(model, style, 80)
    model.trainable = True
    assert TOTALS[1] in text_of(model, style, 80)


def test_moving_statistics_are_not_trainable() -> None:
    model = Sequential([BatchNormalization(input_shape=(5,)), Dropout(0.5)])
    text = text_of(model)
    assert "Total params: 20 (80.00 B)" in text
    assert "Trainable params: 10 (40.00 B)" in text
    assert "Non-trainable params: 10 (40.00 B)" in text


@pytest.mark.parametrize("style", STYLES)
def test_a_nested_model_is_one_row(style: str) -> None:
    inner = small_cnn()
    model = Sequential([inner, Dense(2)], name="outer")
    text = text_of(model, style, 100)
    assert re.search(r"sequential \(Sequential\)[ │]+\(None, 3\)[ │]+127", text)
    assert "Total params: 135 (540.00 B)" in text
    assert "conv2d" not in text
    inner.trainable = False
    assert "Non-trainable params: 127 (508.00 B)" in text_of(model, style, 100)


def test_float64_takes_twice_the_memory() -> None:
    model = Sequential([Dense(2, dtype="float64", input_shape=(6,))])
    assert "Total params: 14 (112.00 B)" in text_of(model)


def test_a_shared_model_without_shapes_says_what_to_do() -> None:
    with pytest.raises(NotBuiltError, match="give the first layer an input_shape"):
        Sequential([Dense(2)]).summary()


def test_unknown_styles() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'table', 'classic'\. Received: 'old'"):
        small_cnn().summary(style="old")


def test_it_prints_to_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert small_cnn().summary() is None
    said = capsys.readouterr().out
    assert "conv2d (Conv2D)" in said
    assert "\x1b" not in said


def test_the_terminals_width_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for style in STYLES:
        gc.zoo.seed_network().summary(style=style)
        lines = capsys.readouterr().out.split("\n")
        assert 36 <= max(map(len, lines)) <= 40


@pytest.mark.parametrize("length", [0, -1, 60.0, "60", True])
def test_lengths_that_make_no_sense(length: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="line_length must be an integer of at least 1"):
        gc.zoo.seed_network().summary(line_length=length)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0.00 B"),
        (1023, "1023.00 B"),
        (1024, "1.00 KB"),
        (490_280, "478.79 KB"),
        (1024**2, "1.00 MB"),
        (3 * 1024**3, "3.00 GB"),
        (5 * 1024**5, "5120.00 TB"),
    ],
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert size_words(count) == words
