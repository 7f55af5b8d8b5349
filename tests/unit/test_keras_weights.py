"""Weight files of Keras 3, written by hand with h5py."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

import gpuconv as gc  # noqa: E402
from gpuconv import layers as L  # noqa: E402
from gpuconv.errors import (  # noqa: E402
    DTypeError,
    FileFormatError,
    InvalidArgumentError,
    MissingDependencyError,
    NotBuiltError,
)
from gpuconv.io import load_keras_weights, save_keras_weights  # noqa: E402

Floats = np.ndarray[Any, Any]


def network() -> gc.Sequential:
    return gc.Sequential(
        [
            L.Conv2D(2, 3, input_shape=(6, 6, 1)),
            L.BatchNormalization(),
            L.Dropout(0.5),
            L.Conv2D(3, 3),
            L.Flatten(),
            L.Dense(4),
        ]
    )


SHAPES = {
    "layers/conv2d/vars/0": (3, 3, 1, 2),
    "layers/conv2d/vars/1": (2,),
    "layers/batch_normalization/vars/0": (2,),
    "layers/batch_normalization/vars/1": (2,),
    "layers/batch_normalization/vars/2": (2,),
    "layers/batch_normalization/vars/3": (2,),
    "layers/conv2d_1/vars/0": (3, 3, 2, 3),
    "layers/conv2d_1/vars/1": (3,),
    "layers/dense/vars/0": (12, 4),
    "layers/dense/vars/1": (4,),
}


def arrays() -> dict[str, Floats]:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in SHAPES.items()}


def written(
    path: Any, contents: dict[str, Any], names: dict[str, str] | None = None, **attributes: Any
) -> Any:
    with h5py.File(path, "w") as file:
        for name, array in contents.items():
            file[name] = array
        for group, name in (names or {}).items():
            file.require_group(group).attrs["name"] = name
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.weights.h5"


def test_layers_by_class_and_number(path: Path) -> None:
    model = network()
    report = load_keras_weights(model, written(path, arrays()))
    assert report.complete
    assert report.loaded == list(model.state())
    for ours, theirs in zip(model.get_weights(), arrays().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_names_of_the_layers_do_not_matter(path: Path) -> None:
    """As in a process that has made other models before."""
    groups = {name.rpartition("/")[0] for name in SHAPES}
    names = {group: f"{group.split('/')[1]}_77" for group in groups}
    load_keras_weights(model := network(), written(path, arrays(), names))
    np.testing.assert_array_equal(model.get_weights()[-1], arrays()["layers/dense/vars/1"])


def test_the_same_names_decide(path: Path) -> None:
    """Keras may count the branches of a graph in another order."""
    x = gc.Input((3,))
    a, b = L.Dense(3, name="left")(x), L.Dense(3, name="right")(x)
    model = gc.Model(x, L.Add()([a, b]))
    contents = {
        f"layers/dense{n}/vars/0": np.full((3, 3), i, "f4") for i, n in enumerate(["", "_1"])
    }
    contents |= {f"layers/dense{n}/vars/1": np.full(3, i, "f4") for i, n in enumerate(["", "_1"])}
    names = {"layers/dense/vars": "right", "layers/dense_1/vars": "left"}
    names["layers/input_layer/vars"] = "input_layer"
    load_keras_weights(model, written(path, contents, names))
    assert model.get_layer("right").bias.value[0] == 0
    assert model.get_layer("left").bias.value[0] == 1


def test_models_inside_models(path: Path) -> None:
    inner = gc.Sequential([L.Dense(2), L.Dense(2)])
    model = gc.Sequential([L.Dense(2, input_shape=(2,)), inner, L.Dense(2)])
    places = [
        "layers/dense",
        "layers/sequential/layers/dense",
        "layers/sequential/layers/dense_1",
        "layers/dense_1",
    ]
    contents = {f"{place}/vars/0": np.full((2, 2), n, "f4") for n, place in enumerate(places)}
    contents |= {f"{place}/vars/1": np.full(2, n, "f4") for n, place in enumerate(places)}
    report = load_keras_weights(model, written(path, contents))
    assert report.loaded[2] == "sequential/dense/kernel"
    assert [float(array.flat[0]) for array in model.get_weights()[::2]] == [0, 1, 2, 3]


def test_a_keras_archive(tmp_path: Path) -> None:
    memory = io.BytesIO()
    written(memory, arrays())
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", memory.getvalue())
    load_keras_weights(model := network(), tmp_path / "net.keras")
    np.testing.assert_array_equal(model.get_weights()[0], arrays()["layers/conv2d/vars/0"])


def test_what_belongs_to_no_layer_is_left_alone(path: Path) -> None:
    others = {
        "optimizer/vars/0": np.zeros(3),
        "layers/dropout/seed_generator/vars/0": np.zeros(2, "u4"),
    }
    assert load_keras_weights(network(), written(path, arrays() | others)).complete


def test_normalization_has_a_count_in_files(path: Path) -> None:
    model = gc.Sequential([L.Normalization(input_shape=(2,)), L.Dense(1)])
    contents = {
        "layers/normalization/vars/0": np.array([1, 2], "f4"),
        "layers/normalization/vars/1": np.array([3, 4], "f4"),
        "layers/normalization/vars/2": np.array(9, "i4"),
        "layers/dense/vars/0": np.zeros((2, 1), "f4"),
        "layers/dense/vars/1": np.zeros(1, "f4"),
    }
    assert load_keras_weights(model, written(path, contents)).complete
    np.testing.assert_array_equal(model.layers[0].variance, [3, 4])
    save_keras_weights(model, path)
    with h5py.File(path) as file:
        assert file["layers/normalization/vars/2"][()] == 0
    assert load_keras_weights(model, path).complete


def test_all_mismatches_are_listed_and_nothing_changes(path: Path) -> None:
    contents = arrays()
    del contents["layers/conv2d/vars/1"]
    contents["layers/dense/vars/0"] = np.zeros((12, 9), "f4")
    contents["layers/dense_1/vars/0"] = np.zeros((4, 2), "f4")
    written(path, contents)
    model = network()
    before = model.get_weights()
    with pytest.raises(FileFormatError) as caught:
        load_keras_weights(model, path)
    for line in (
        "conv2d/bias (2,) is missing",
        "layers/dense_1/vars/0 (4, 2) has no place in the model",
        "layers/dense/vars/0 (dense/kernel) has the shape (12, 9), the model needs (12, 4)",
    ):
        assert line in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    report = load_keras_weights(model, path, partial=True)
    assert len(report.loaded) == 8
    assert len(report.lines()) == 3
    np.testing.assert_array_equal(model.layers[0].kernel.value, contents["layers/conv2d/vars/0"])
    np.testing.assert_array_equal(model.layers[-1].kernel.value, before[-2])


def test_integers_are_no_weights(path: Path) -> None:
    written(path, arrays() | {"layers/dense/vars/0": np.zeros((12, 4), "i1")})
    with pytest.raises(DTypeError, match=r"layers/dense/vars/0: .*dense/kernel.*int8"):
        load_keras_weights(network(), path)


def test_there_and_back(path: Path) -> None:
    model = network()
    save_keras_weights(model, path)
    with h5py.File(path) as file:
        found: list[str] = []
        file.visit(found.append)
        assert {name for name in found if isinstance(file[name], h5py.Dataset)} == set(SHAPES)
        assert file["layers/conv2d_1/vars"].attrs["name"] == "conv2d_1"
    again = network()
    load_keras_weights(again, path)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_shared_layer_is_kept_once(path: Path) -> None:
    x = gc.Input((2,))
    shared = L.Dense(2)
    model = gc.Model(x, shared(shared(x)))
    save_keras_weights(model, path)
    with h5py.File(path) as file:
        assert list(file["layers"]) == ["dense"]
    assert load_keras_weights(model, path).complete


# --- files that are refused -----------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    model = network()
    before = model.get_weights()
    with pytest.raises(FileFormatError, match=rf"(?s)(?:{words}).*Received: .*{path.name}"):
        load_keras_weights(model, path, partial=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_truncated_and_foreign_files(path: Path, tmp_path: Path) -> None:
    whole = written(path, arrays()).read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:length])
        refused(path, "something else or a damaged file")
    path.write_bytes(b"PK\x03\x04 and nothing")
    refused(path, r"a \.keras file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refused(path, r"has no model\.weights\.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", whole[:100])
    refused(path, "damaged file")
    written(path, {"dense/dense/kernel:0": np.zeros(2)}, layer_names=["dense"])
    refused(path, "a file of Keras 2")
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_keras_weights(network(), tmp_path / "nowhere.weights.h5")
    with pytest.raises(FileFormatError, match="a folder"):
        load_keras_weights(network(), tmp_path)


def test_links_and_bombs(path: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.h5", {"secret": np.zeros((12, 4), "f4")})
    with h5py.File(written(path, arrays()), "a") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(other, "secret")
    with pytest.raises(FileFormatError, match=r"dense/kernel \(12, 4\) is missing"):
        load_keras_weights(network(), path)
    contents = arrays()
    del contents["layers/dense/vars/0"]
    with h5py.File(written(path, contents), "a") as file:
        outside = [(str(tmp_path / "raw"), 0, 192)]
        (tmp_path / "raw").write_bytes(bytes(192))
        file.create_dataset("layers/dense/vars/0", (12, 4), "f4", external=outside)
    refused(path, "lies in another file")
    with h5py.File(written(path, contents), "a") as file:
        layout = h5py.VirtualLayout((12, 4), "f4")
        layout[...] = h5py.VirtualSource(other, "secret", (12, 4))
        file.create_virtual_dataset("layers/dense/vars/0", layout)
    refused(path, "lies in another file")
    with h5py.File(written(path, contents), "a") as file:
        file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 14), "f4", chunks=(1024, 1024))
    refused(path, "claims 68719476736 bytes")
    written(path, contents | {"layers/dense/vars/0": b"text"})
    refused(path, "is not read here")


def test_a_wrong_call(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match=r"ends in \.weights\.h5"):
        save_keras_weights(network(), tmp_path / "net.h5")
    with pytest.raises(NotBuiltError, match="has no weights yet"):
        save_keras_weights(gc.Sequential([L.Dense(2)]), path)
    assert not list(tmp_path.iterdir())
    written(path, arrays())
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    for function in (save_keras_weights, load_keras_weights):
        with pytest.raises(MissingDependencyError, match=r'"gpuconv\[h5\]"'):
            function(network(), path)
