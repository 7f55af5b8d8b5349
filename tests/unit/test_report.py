"""The page of a run: whole, by itself, right in its numbers, and safe whatever the files say."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv.backends import selection
from gpuconv.cli import main
from gpuconv.errors import FileFormatError, InvalidArgumentError, ShapeError
from gpuconv.layers import Add, Conv2D, Dense, Flatten, MaxPooling2D, Permute, Rescaling
from gpuconv.report import write_report
from gpuconv.report.made_up import made_up_inputs

SECTIONS = {
    "curves": "Learning curves",
    "confusion": "Confusion matrix",
    "mistakes": "Misclassified images",
    "filters": "Filters",
    "maps": "Feature maps",
    "layers": "Layers",
    "decisions": "Who computes what, and why",
    "timings": "Time of each layer",
}
EMPTY = {"meta", "img", "br", "link", "hr", "input"}
HOSTILE = "<script>alert('1')</script>\"><img src=http://example.com/x>&\x00\x1b[31m$\\frac{$"


class Page(HTMLParser):
    """What is in a page; tags that do not fit each other fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.section = ""
        self.texts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, found))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "section":
            self.section = str(found["id"])
        if tag == "tr":
            self.tables.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.tables[self.section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if "td" in self.open or "th" in self.open:
            self.tables[self.section][-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]

    def pictures(self) -> list[Image.Image]:
        start = "data:image/png;base64,"
        sources = [str(found["src"]) for found in self.named("img")]
        assert all(source.startswith(start) for source in sources)
        return [
            Image.open(io.BytesIO(base64.b64decode(source[len(start) :], validate=True)))
            for source in sources
        ]


def check_alone(page: Page) -> None:
    """Nothing outside of the page is used, and nothing is run."""
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "nav", "main", "footer"}
    allowed |= {"h1", "h2", "h3", "p", "ul", "li", "a", "dl", "div", "dt", "dd", "section", "img"}
    allowed |= {"figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    allowed |= {"span", "details", "summary"}
    assert {tag for tag, _ in page.tags} <= allowed
    for _, found in page.tags:
        assert not any(name.startswith("on") for name in found)
        for name in ("src", "href", "srcset", "action", "data"):
            value = found.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), value
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in (
        page.named("meta")
    )
    assert page.named("html") == [{"lang": "en"}]
    assert all(found.get("alt") for found in page.named("img"))


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.VARIABLE, "cpu:numpy")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs, not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["--epochs", "2", "--batch-size", "128", "--backend", "cpu:numpy"]
    assert main(["train", "--out", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def first_page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "run.html"
    with gc.use_backend("cpu:numpy"):
        assert write_report(finished, path) == path
    return Page(path)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def small(name: str = "small", shape: tuple[int, ...] = (8, 8, 1)) -> gc.Sequential:
    gc.set_seed(3)
    return gc.Sequential(
        [Rescaling(1 / 16, input_shape=shape), Conv2D(2, 3), Flatten(), Dense(10, "softmax")],
        name=name,
    )


def by_hand(folder: Path, model: gc.Model, settings: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    model.save(folder / "model.safetensors")
    (folder / "run.json").write_text(json.dumps({"settings": settings}))
    return folder


# --- what is there ------------------------------------------------------------------------------


def test_every_section_is_there_and_linked(first_page: Page) -> None:
    assert [found["id"] for found in first_page.named("section")] == list(SECTIONS)
    links = [str(found["href"]) for found in first_page.named("a")]
    assert links == [f"#{name}" for name in SECTIONS]
    for name, words in SECTIONS.items():
        assert first_page.texts[name].strip().startswith(words)
        assert "left out" not in first_page.texts[name]
    headings = [tag for tag, _ in first_page.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_it_needs_nothing_else(first_page: Page) -> None:
    check_alone(first_page)
    assert "default-src 'none'" in str(first_page.named("meta"))


def test_the_head_tells_model_data_and_metrics(first_page: Page, finished: Path) -> None:
    said = first_page.texts[""]
    record = json.loads((finished / "run.json").read_text())
    assert "Training run first" in said
    assert "The network digits (45,258 parameters), trained on digits." in said
    assert f"test accuracy{record['test']['accuracy']:.4f}" in said
    assert f"test loss{record['test']['loss']:.4f}" in said
    assert "epochs2 of 2" in said
    assert "batch size128" in said
    assert "'cpu:numpy' was asked for by use_backend" in said


def test_the_pictures_are_whole(first_page: Page) -> None:
    pictures = first_page.pictures()
    assert len(pictures) > 10
    for picture, found in zip(pictures, first_page.named("img"), strict=True):
        picture.load()
        width, height = int(str(found["width"])), int(str(found["height"]))
        assert picture.width / picture.height == pytest.approx(width / height, rel=0.02)


def test_the_numbers_of_the_curves(first_page: Page, finished: Path) -> None:
    rows = first_page.tables["curves"]
    lines = (finished / "history.csv").read_text().splitlines()
    assert rows[0] == lines[0].split(",")
    for number, (row, line) in enumerate(zip(rows[1:], lines[1:], strict=True)):
        assert row[0] == str(number + 1)
        assert row[1:] == [f"{float(value):.4g}" for value in line.split(",")[1:]]


def test_the_confusion_matrix_counts_the_test_images(first_page: Page, finished: Path) -> None:
    _, (x, y) = gc.data.load_digits()
    with gc.use_backend("cpu:numpy"):
        predicted = gc.load_model(finished / "model.safetensors").predict(x, verbose=0).argmax(1)
    header, *rows = first_page.tables["confusion"]
    assert header == ["true", *"0123456789", "right"]
    for label, row in enumerate(rows):
        counts = [int(np.sum((y == label) & (predicted == other))) for other in range(10)]
        assert row[:-1] == [str(label), *map(str, counts)]
        assert row[-1] == f"{counts[label] / sum(counts):.0%}"
    wrong = np.flatnonzero(predicted != y)
    assert f"{359 - len(wrong)} of 359 test images" in first_page.texts["confusion"]
    assert f"{len(wrong)} of 359 test images" in first_page.texts["mistakes"]
    assert first_page.texts["mistakes"].count(" seen as ") == min(len(wrong), 24)


def test_the_surest_mistake_comes_first_and_is_its_image(first_page: Page, finished: Path) -> None:
    _, (x, y) = gc.data.load_digits()
    with gc.use_backend("cpu:numpy"):
        scores = gc.load_model(finished / "model.safetensors").predict(x, verbose=0)
    sure = np.where(scores.argmax(1) != y, scores.max(1), 0)
    number = int(sure.argmax())
    alts = [str(found["alt"]) for found in first_page.named("img")]
    alt = f"Test image {number}: {y[number]}, seen as {scores[number].argmax()}"
    (place,) = (n for n, words in enumerate(alts) if words == alt)
    assert not any(words.startswith("Test image") for words in alts[:place])
    pixels = np.asarray(first_page.pictures()[place])[..., 0] / 255
    np.testing.assert_allclose(pixels, x[number, ..., 0] / x.max(), atol=0.005)


def test_layers_decisions_and_times(first_page: Page, finished: Path) -> None:
    model = gc.load_model(finished / "model.safetensors")
    names = [layer.name for layer in model.layers]
    assert first_page.tables["layers"][1:] == [
        [layer.name, type(layer).__name__, str(shape), f"{layer.count_params():,}"]
        for layer, shape, _ in model.rows()
    ]
    decisions = first_page.tables["decisions"][1:]
    convolutions = [name for name in names if name.startswith("conv")]
    for name in convolutions:
        operations = [row[1] for row in decisions if row[0] == name]
        assert operations == ["conv_forward", "conv_backward_input", "conv_backward_weight"]
    assert all(row[2] == "cpu:numpy" and row[-1] for row in decisions)
    times = first_page.tables["timings"][1:]
    assert [row[0] for row in times] == names
    assert sum(float(row[-1].rstrip("%")) for row in times) == pytest.approx(100, abs=1)
    assert "One training step on 128 images" in first_page.texts["timings"]


def test_filters_and_maps_of_the_layers(first_page: Page) -> None:
    for name in ("conv2d (Conv2D)", "conv2d_1 (Conv2D)", "conv2d_2 (Conv2D)"):
        assert name in first_page.texts["filters"]
    assert "32 filters of 3 x 3 over 1 channel" in first_page.texts["filters"]
    assert "32 maps of 8 x 8" in first_page.texts["maps"]


def test_the_usual_place_and_a_second_time(run: Path) -> None:
    assert write_report(str(run)) == run / "report.html"
    assert write_report(run) == run / "report.html"
    assert not list(run.glob(".*"))


def test_the_model_is_the_same_afterwards(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    write_report(run)
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix != ".html"}
    assert before == after


def test_without_matplotlib(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules, "matplotlib"]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(write_report(run))
    check_alone(page)
    assert [found["id"] for found in page.named("section")] == list(SECTIONS)
    alts = [str(found["alt"]) for found in page.named("img")]
    curves = {alt.split(" over ")[0] for alt in alts if alt.startswith("Curves of ")}
    assert curves == {"Curves of accuracy", "Curves of loss"}
    assert all(picture.format == "PNG" for picture in page.pictures())


# --- what is not there --------------------------------------------------------------------------


def test_a_run_that_was_killed(run: Path) -> None:
    (run / "run.json").unlink()
    page = Page(write_report(run))
    assert "The run has not come to its end" in page.texts[""]
    assert "trained on digits" in page.texts[""]  # the model file knows
    assert "test images are classified rightly" in page.texts["confusion"]


def test_a_run_that_was_stopped_before_its_first_epoch(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["interrupted"] = True
    record["test"] = {"loss": None, "accuracy": 0.5}
    (run / "run.json").write_text(json.dumps(record))
    (run / "history.csv").unlink()
    page = Page(write_report(run))
    assert "The run was stopped before its last epoch" in page.texts[""]
    assert "test lossnot finite" in page.texts[""]
    assert "it did not come to the end of an epoch" in page.texts["curves"]


def test_losses_that_are_not_finite(run: Path) -> None:
    (run / "history.csv").write_text("epoch,loss,val_loss\n0,nan,inf\n1,2.5,\n")
    page = Page(write_report(run))
    assert page.tables["curves"][1:] == [
        ["1", "not finite", "not finite"],
        ["2", "2.5", "not finite"],
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": "stars"}, "The data set 'stars' is not known here"),
        ({}, "The run does not say which data it learned from"),
        ({"data": ["digits"]}, "The run does not say which data it learned from"),
        ({"data": "mnist", "data_path": "no/where"}, "no longer on this machine (no/where)"),
    ],
)
def test_data_that_are_not_here(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    page = Page(write_report(by_hand(tmp_path / "run", small(), settings)))
    check_alone(page)
    for name in ("confusion", "mistakes", "maps"):
        assert words in page.texts[name]
    assert "conv2d (Conv2D)" in page.texts["filters"]
    assert "conv_forward" in page.texts["decisions"]
    assert "One training step on 32 images" in page.texts["timings"]


def test_a_model_that_the_data_do_not_fit(tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "run", small(shape=(6, 6, 1)), {"data": "digits"})
    said = Page(write_report(folder)).texts["confusion"]
    assert "takes inputs of shape (6, 6, 1), the test images have (8, 8, 1)" in said
    model = gc.Sequential([Flatten(input_shape=(8, 8, 1)), Dense(3)])
    page = Page(write_report(by_hand(tmp_path / "other", model, {"data": "digits"})))
    assert "not a score for each of the 10 classes" in page.texts["confusion"]
    assert "has no convolutions" in page.texts["filters"]
    assert "No layer leaves a choice" in page.texts["decisions"]


def test_a_graph_of_several_inputs(tmp_path: Path) -> None:
    left, right = gc.Input((6, 6, 2)), gc.Input((6, 6, 2))
    shared = Conv2D(2, 3, name="shared")
    joined = Add()([shared(left), shared(right)])
    model = gc.Model([left, right], Dense(2)(Flatten()(MaxPooling2D(2)(joined))))
    page = Page(write_report(by_hand(tmp_path / "run", model, {"data": "digits"})))
    assert "The network has several inputs" in page.texts["confusion"]
    assert page.tables["layers"][0][-1] == "connected to"
    assert [row[0] for row in page.tables["timings"]].count("shared") == 2


def test_a_model_inside_the_model(tmp_path: Path) -> None:
    """Its layers have rows and pictures under their paths, in either order of the axes."""
    inner = gc.Sequential(
        [Conv2D(3, 3, data_format="channels_first", input_shape=(1, 8, 8)), Flatten(), Dense(10)],
        name="inner",
    )
    model = gc.Sequential([Permute((3, 1, 2), input_shape=(8, 8, 1)), inner])
    page = Page(write_report(by_hand(tmp_path / "run", model, {"data": "digits"})))
    convolution = inner.layers[0].name
    paths = [f"inner/{layer.name}" for layer in inner.layers]
    assert [row[0] for row in page.tables["layers"][2:]] == ["inner", *paths]
    assert [row[0] for row in page.tables["timings"][2:]] == paths
    assert f"inner/{convolution} (Conv2D)" in page.texts["filters"]
    assert "3 maps of 6 x 6" in page.texts["maps"]


def test_filters_over_three_channels_are_in_colour(tmp_path: Path) -> None:
    model = small(shape=(8, 8, 3))
    kernel = np.zeros((3, 3, 3, 2), "float32")
    kernel[0, 0] = [[1, 0], [2, 0], [4, -1]]
    model.layers[1].kernel.assign(kernel)
    page = Page(write_report(by_hand(tmp_path / "run", model, {})))
    assert "2 filters of 3 x 3 over 3 channels. Colours are" in page.texts["filters"]
    (number,) = (
        n for n, f in enumerate(page.named("img")) if str(f["alt"]).startswith("Filters of conv2d")
    )
    pixels = np.asarray(page.pictures()[number])
    assert pixels[0, 0].tolist() == [64, 128, 255, 255]  # from 0, black, to 4, white
    assert pixels[0, -1].tolist() == [255, 255, 255, 255]
    assert (pixels[..., 3] == 0).any()  # the gap


def test_an_official_data_set_from_its_files(tmp_path: Path) -> None:
    """Read from where the run had it, with the names of its classes."""
    numbers = np.random.default_rng(1)
    files = tmp_path / "files"
    files.mkdir()
    for part, count in (("train", 4), ("t10k", 12)):
        images = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (files / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        labels = np.arange(count, dtype=np.uint8) % 10
        head = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        (files / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    settings = {"data": "fashion_mnist", "data_path": str(files)}
    folder = by_hand(tmp_path / "run", small(shape=(28, 28, 1)), settings)
    page = Page(write_report(folder))
    table = next(found for found in page.named("table") if found)
    assert table["class"] == "confusion upright"
    assert page.tables["confusion"][0][1:-1] == list(gc.data.FASHION_MNIST_NAMES)
    assert "of 12 test images" in page.texts["confusion"]
    (files / "t10k-labels-idx1-ubyte").write_bytes(b"nothing")
    assert "cannot be read" in Page(write_report(folder)).texts["confusion"]


# --- what files may say -------------------------------------------------------------------------


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "|")  # which layers refuse
    model = small(name)
    model.layers[1].name = name
    settings = {"model": HOSTILE, "data": HOSTILE, HOSTILE: HOSTILE, "batch_size": 10**12}
    folder = by_hand(tmp_path / "<b>run", model, settings)
    record = {
        "settings": settings,
        "backend": {"device": HOSTILE, "reason": HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "test": {HOSTILE: HOSTILE, "loss": [1]},
        "seconds": float("nan"),
        "interrupted": HOSTILE,
    }
    (folder / "run.json").write_text(json.dumps(record))
    quoted = HOSTILE.replace('"', '""').replace("\x00", "")
    (folder / "history.csv").write_text(f'epoch,"{quoted}","val_{quoted}"\n0,1.5,3\n')
    page = Page(write_report(folder))
    check_alone(page)
    shown = "<script>alert('1')</script>\"><img src=http://example.com/x>&"
    for section in ("", "curves"):
        assert shown in page.texts[section], section
    assert repr(HOSTILE) in page.texts["confusion"]
    for section in ("filters", "layers", "decisions", "timings"):
        assert shown.replace("/", "|") in page.texts[section], section
    assert not {"\x00", "\x1b"} & set(page.source)
    assert "<script" not in page.source
    assert "Training run <b>run" in page.texts[""]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", b"{", "expected JSON"),
        ("run.json", b"\xff\xfe", "expected JSON"),
        ("run.json", b"[" * 100_000, "expected JSON"),
        ("run.json", b"[]", "expected a JSON object, found a list"),
        ("history.csv", b"", "the first line should be"),
        ("history.csv", b"loss\n1\n", "the first line should be"),
        ("history.csv", b"epoch,loss\n0\n", "every line should have 2 entries"),
        ("history.csv", b"epoch,loss\n0,many\n", "could not convert string to float"),
        ("history.csv", b"epoch,loss\n0,1\xff\n", "expected a table"),
        ("model.safetensors", b"", "an empty file"),
        ("model.safetensors", None, "a truncated one"),
    ],
)
def test_damaged_files(name: str, content: bytes | None, words: str, run: Path) -> None:
    (run / "report.html").write_text("an older one")
    path = run / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(FileFormatError, match=words) as caught:
        write_report(run)
    assert str(caught.value).endswith(f"Received: {path}")
    assert (run / "report.html").read_text() == "an older one"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "found nothing"),
        (lambda path: path.write_text("x"), "found a file"),
        (lambda path: path.mkdir(), "there is no model.safetensors"),
    ],
)
def test_no_run(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match=words):
        write_report(tmp_path / "run", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_place_where_nothing_can_be_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_report(run, tmp_path / "no" / "page.html")
    with pytest.raises(IsADirectoryError):
        write_report(run, tmp_path)


def test_made_up_inputs() -> None:
    x = made_up_inputs(small(), 3)
    assert (x.shape, x.dtype) == ((3, 8, 8, 1), np.float32)
    model = gc.Model([a := gc.Input((4,)), b := gc.Input((4,))], Add()([a, b]))
    assert [one.shape for one in made_up_inputs(model, 2)] == [(2, 4), (2, 4)]
    with pytest.raises(ShapeError, match="a fixed shape"):
        made_up_inputs(gc.Sequential([Dense(2)]), 2)
