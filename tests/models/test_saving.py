"""A model in a file: what comes back, what goes on as before, and every file that is refused."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_makers import (
    assert_same_weights,
    images,
    labels,
    set_uniform_weights,
    small_cnn,
    snapshot,
)
from safetensors.numpy import load_file, save_file

import gpuconv as gc
from gpuconv import Sequential, layers
from gpuconv.errors import (
    BackendUnavailableError,
    FileFormatError,
    InvalidArgumentError,
    NotBuiltError,
)
from gpuconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPooling2D,
    ReLU,
)
from gpuconv.optimizers import SGD, Adam, AdamW, RMSprop
from gpuconv.optimizers.schedules import CosineDecay

SPARSE = "sparse_categorical_crossentropy"
X, Y = images(20), labels(20, 3, 4)


def rich_model(optimizer: Any = "adam") -> Sequential:
    """Convolution, moving statistics, a model inside, dropout, regularizers."""
    model = Sequential(
        [
            Conv2D(4, 3, padding="same", use_bias=False, input_shape=(6, 6, 2)),
            BatchNormalization(),
            ReLU(),
            Sequential([MaxPooling2D(2), Conv2D(3, 2, kernel_regularizer="l2")], name="inside"),
            Flatten(),
            Dropout(0.3, seed=11),
            Dense(3, activation="softmax", name="top"),
        ]
    )
    set_uniform_weights(model, 90)
    model.compile(optimizer, SPARSE, ["accuracy"])
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# --- round trips ------------------------------------------------------------------------------


def test_predictions_are_bit_identical(path: Path) -> None:
    model = rich_model()
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(path)
    loaded: Any = gc.load_model(path)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    assert loaded.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
    assert loaded.get_config() == model.get_config()
    assert list(loaded.state()) == list(model.state())
    assert loaded.name == model.name
    assert [p.path for p in loaded.parameters] == [p.path for p in model.parameters]
    assert loaded.backend == model.backend


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes(dtype: str, path: Path) -> None:
    model = small_cnn(dtype)
    model.save(path)
    loaded = gc.load_model(path)
    assert {w.dtype.name for w in loaded.get_weights()} == {dtype}
    assert_same_weights(loaded, snapshot(model))


OPTIMIZERS = {
    "sgd": lambda: SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: Adam(0.01),
    "adamw": lambda: AdamW(0.01, weight_decay=0.01, global_clipnorm=1.0),
    "rmsprop": lambda: RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: "adagrad",
    "schedule": lambda: Adam(CosineDecay(0.02, decay_steps=20)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(name: str, path: Path) -> None:
    """Four epochs, or two, a file, another process's worth of seeds, and two more."""
    gc.set_seed(3)
    whole = rich_model(OPTIMIZERS[name]())
    expected = whole.fit(X, Y, batch_size=6, epochs=4, validation_split=0.2, verbose=0).history
    gc.set_seed(3)
    first = rich_model(OPTIMIZERS[name]())
    started = first.fit(X, Y, batch_size=6, epochs=2, validation_split=0.2, verbose=0).history
    first.save(path)
    gc.set_seed(999)
    second = gc.load_model(path)
    went_on = second.fit(
        X, Y, batch_size=6, initial_epoch=2, epochs=4, validation_split=0.2, verbose=0
    ).history
    for key, values in expected.items():
        assert values == started[key] + went_on[key], key
    assert_same_weights(second, snapshot(whole))
    assert second.optimizer is not None
    assert whole.optimizer is not None
    assert second.optimizer.iterations == whole.optimizer.iterations == 12


def test_restoring_into_a_model_of_another_name(path: Path) -> None:
    model = small_cnn()
    model.compile("adam", SPARSE)
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(path, progress={"epoch": 2, "best": np.arange(3.0)})
    other = small_cnn(key=300)
    other.compile("adam", SPARSE)
    assert other.name != model.name
    progress = other.restore(path)
    assert progress["epoch"] == 2
    np.testing.assert_array_equal(progress["best"], [0.0, 1.0, 2.0])
    for each in (model, other):
        each.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    assert_same_weights(other, snapshot(model))


def test_layers_that_stand_in_a_second_model_are_saved_with_the_first(path: Path) -> None:
    model = small_cnn()
    model.compile("adam", SPARSE)
    model.fit(X, Y, verbose=0)
    Sequential(model.layers[:-1]).predict(X, verbose=0)
    Sequential([model, Dense(2)]).predict(X, verbose=0)
    model.save(path)
    loaded = gc.load_model(path)
    for each in (model, loaded):
        each.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    assert_same_weights(loaded, snapshot(model))


def test_a_model_that_was_not_compiled(path: Path) -> None:
    model = small_cnn()
    model.save(path)
    loaded = gc.load_model(path)
    assert (loaded.optimizer, loaded.loss, loaded.metrics) == (None, None, [])
    assert_same_weights(loaded, snapshot(model))
    with pytest.raises(NotBuiltError, match="call compile"):
        loaded.fit(X, Y)


def test_without_the_optimizer(path: Path) -> None:
    model = rich_model()
    model.fit(X, Y, verbose=0)
    model.save(path, include_optimizer=False)
    assert not any(name.startswith("optimizer/") for name in load_file(path))
    loaded = gc.load_model(path)
    assert loaded.optimizer is None
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_model_that_the_first_data_built(path: Path) -> None:
    model = Sequential([Flatten(), Dense(3)])
    expected = model(X)
    model.save(path)
    np.testing.assert_array_equal(gc.load_model(path)(X), expected)


def test_a_loaded_model_can_be_changed_and_saved_again(path: Path, tmp_path: Path) -> None:
    small_cnn().save(path)
    model: Any = gc.load_model(path)
    model.pop()
    model.add(Dense(5))
    assert [layer.name for layer in model.layers][-1] == "dense"
    model.save(tmp_path / "again.safetensors")
    again = gc.load_model(tmp_path / "again.safetensors")
    np.testing.assert_array_equal(again(X), model(X))


def test_the_weights_are_there_for_other_programs(path: Path) -> None:
    model = rich_model()
    model.save(path)
    stored = load_file(path)
    for name, array in model.state().items():
        np.testing.assert_array_equal(stored[f"weights/{name}"], array)


def test_loading_leaves_the_users_randomness_reproducible(path: Path) -> None:
    small_cnn().save(path)
    results = []
    for _ in range(2):
        gc.set_seed(4)
        gc.load_model(path)
        results.append(Dense(3, input_shape=(2,))(np.eye(2)))
    np.testing.assert_array_equal(*results)


# --- layers of the user's own -----------------------------------------------------------------


class Doubled(Layer):
    """Twice the input, and a weight that is added."""

    def __init__(self, start: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start

    def add_parameters(self, input_shape: Any) -> None:
        self.offset = self.add_parameter(
            "offset", (input_shape[-1],), gc.initializers.Constant(self.start)
        )

    def run(self, x: Any, training: bool) -> Any:
        def backward(dy: Any, input_gradient: bool = True) -> Any:
            if self.offset.trainable:
                self.offset.add_gradient(dy.reshape(-1, dy.shape[-1]).sum(axis=0))
            return dy * 2 if input_gradient else None

        return x * 2 + self.offset.value, backward


def test_a_registered_layer(path: Path) -> None:
    model = Sequential([Flatten(input_shape=(6, 6, 2)), Doubled(start=0.25), Dense(3)])
    with pytest.raises(InvalidArgumentError, match="call register"):
        model.save(path)
    assert not path.exists()
    layers.register(Doubled)
    model.save(path)
    loaded: Any = gc.load_model(path)
    assert loaded.layers[1].start == 0.25
    np.testing.assert_array_equal(loaded(X), model(X))
    changed = path.read_bytes().replace(b"Doubled", b"Tripled")
    path.write_bytes(changed)
    with pytest.raises(FileFormatError, match="damaged"):
        gc.load_model(path)


def test_a_layer_that_is_not_known_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuconv.layers import registry

    class Unknown(Doubled):
        pass

    layers.register(Unknown)
    Sequential([Unknown(input_shape=(3,))]).save(path)
    monkeypatch.delitem(registry._registry._makers, "Unknown")
    with pytest.raises(FileFormatError, match=r"no layer has this name.*Received: .*model"):
        gc.load_model(path)


# --- files that are refused -------------------------------------------------------------------


def good_bytes(tmp_path: Path) -> bytes:
    model = small_cnn()
    model.compile("adam", SPARSE)
    model.save(tmp_path / "good")
    return (tmp_path / "good").read_bytes()


@pytest.mark.parametrize("kept", [0, 5, 8, 300, 0.5, -1])
def test_truncated_files(kept: float, path: Path, tmp_path: Path) -> None:
    content = good_bytes(tmp_path)
    end = int(len(content) * kept) if 0 < kept < 1 else int(kept)
    path.write_bytes(content[:end])
    for read in (gc.load_model, small_cnn().restore):
        with pytest.raises(FileFormatError, match=r"Received: .*model\.safetensors"):
            read(path)


@pytest.mark.parametrize("place", [9, 400, -1, -200])
def test_one_damaged_byte(place: int, path: Path, tmp_path: Path) -> None:
    content = bytearray(good_bytes(tmp_path))
    content[place] ^= 0x15
    path.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match="Received:"):
        gc.load_model(path)


@pytest.mark.parametrize("kind", ["pickle", "zip", "npz", "hdf5", "text", "weights", "json"])
def test_foreign_files(kind: str, path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path) + ".ran",)

    if kind == "pickle":
        path.write_bytes(pickle.dumps(Harmful(), protocol=4))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.ones(3))
    elif kind == "hdf5":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    elif kind == "text":
        path.write_text("this is no model\n" * 10)
    elif kind == "weights":
        save_file({"conv1.weight": np.ones((2, 2), np.float32)}, path)
    else:
        path.write_text('{"class_name": "Sequential"}')
    found = {
        "pickle": "a pickle",
        "zip": "a zip archive",
        "npz": "a zip archive",
        "hdf5": "an HDF5 file",
        "text": "something else",
        "weights": "no gpuconv metadata",
        "json": "something else",
    }[kind]
    with pytest.raises(FileFormatError, match=found) as raised:
        gc.load_model(path)
    assert str(raised.value).endswith(f"Received: {path}")
    assert not Path(f"{path}.ran").exists()


def test_a_model_file_that_does_not_describe_a_model(path: Path) -> None:
    from gpuconv.io import write_model_file

    dense: dict[str, Any] = {"class_name": "Dense", "config": {"units": 3}}
    for configuration in (
        {},
        {"model": None, "input_shape": [None, 3], "compiled": None},
        {"model": dense, "input_shape": [None, 3], "compiled": None},
        {"model": {"class_name": "Sequential", "config": {}}, "input_shape": [], "compiled": None},
        {
            "model": {"class_name": "Sequential", "config": {"layers": [dense]}},
            "input_shape": [None],
            "compiled": None,
        },
        {
            "model": {"class_name": "Sequential", "config": {"layers": [dense]}},
            "input_shape": [None, 3],
            "compiled": {"optimizer": "adm", "loss": None, "metrics": []},
        },
    ):
        write_model_file(path, {}, configuration)
        with pytest.raises(FileFormatError, match="does not describe a model"):
            gc.load_model(path)


@pytest.mark.parametrize(
    "streams", [None, 3, {"shuffle": 1}, {"shuffle": [1]}, {"shuffle": [1, -1]}, {"shuffle": "ab"}]
)
def test_states_of_random_streams_that_are_none(streams: Any, path: Path) -> None:
    from gpuconv.io import read_model_file, write_model_file

    small_cnn().save(path)
    configuration, tensors = read_model_file(path)
    tensors = {name: array + 1 for name, array in tensors.items()}
    write_model_file(path, tensors, {**configuration, "streams": streams})
    with pytest.raises(FileFormatError, match="two integers each"):
        gc.load_model(path)
    model = small_cnn()
    before = snapshot(model)
    with pytest.raises(FileFormatError, match="two integers each"):
        model.restore(path)
    assert_same_weights(model, before)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found nothing"):
        gc.load_model(tmp_path / "none.safetensors")
    with pytest.raises(FileFormatError, match="found a folder"):
        gc.load_model(tmp_path)


def test_loading_for_a_backend_that_is_missing(path: Path) -> None:
    from gpuconv.backends import registry

    small_cnn().save(path)
    assert gc.load_model(path, backend="cpu").backend == "cpu"
    with pytest.raises(InvalidArgumentError, match="unknown backend"):
        gc.load_model(path, backend="gpu")
    found = registry.probe_device("cuda")
    if not found.available:
        with pytest.raises(BackendUnavailableError) as raised:
            gc.load_model(path, backend="cuda")
        assert found.reason in str(raised.value)


# --- writing ----------------------------------------------------------------------------------


def test_a_model_without_weights(path: Path) -> None:
    with pytest.raises(NotBuiltError, match="no weights to save"):
        Sequential([Dense(3)]).save(path)
    assert not path.exists()


def test_overwrite(path: Path) -> None:
    model = small_cnn()
    model.save(path)
    before = path.read_bytes()
    other = small_cnn(key=300)
    with pytest.raises(FileExistsError, match="there is one already"):
        other.save(path, overwrite=False)
    assert path.read_bytes() == before
    other.save(path)
    assert_same_weights(gc.load_model(path), snapshot(other))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_or_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    model = small_cnn()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model.save(tmp_path / "none" / "m.safetensors")
    with pytest.raises(IsADirectoryError):
        model.save(tmp_path)


def test_a_failure_while_writing_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_cnn()
    model.save(path)
    before = path.read_bytes()

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        small_cnn(key=300).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_folder_that_cannot_be_written(path: Path) -> None:
    small_cnn().save(path)
    before = path.read_bytes()
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(PermissionError):
            small_cnn(key=300).save(path)
    finally:
        path.parent.chmod(stat.S_IRWXU)
    assert path.read_bytes() == before


def test_a_path_as_text(path: Path) -> None:
    small_cnn().save(str(path))
    assert gc.load_model(str(path)).count_params() == 127


# --- restoring into another model -------------------------------------------------------------


def test_the_wrong_model_is_named_and_stays_as_it_was(path: Path) -> None:
    rich_model().save(path)
    model = small_cnn()
    model.compile("adam", SPARSE)
    model.fit(X, Y, verbose=0)
    before, steps = snapshot(model), model.optimizer.iterations  # type: ignore[union-attr]
    with pytest.raises(FileFormatError) as raised:
        model.restore(path)
    message = str(raised.value)
    for words in (
        "conv2d/bias is missing",
        "dense/kernel is missing",
        "batch_normalization/gamma is not in the model",
        f"Received: {path}",
    ):
        assert words in message
    assert_same_weights(model, before)
    assert model.optimizer is not None
    assert model.optimizer.iterations == steps


def test_another_shape_is_named(path: Path) -> None:
    Sequential([Flatten(input_shape=(6, 6, 2)), Dense(4)]).save(path)
    model = Sequential([Flatten(input_shape=(6, 6, 2)), Dense(3)])
    before = snapshot(model)
    with pytest.raises(
        FileFormatError, match=r"has the shape \(72, 4\), the model needs \(72, 3\)"
    ):
        model.restore(path)
    assert_same_weights(model, before)


def test_another_optimizer_changes_nothing(path: Path) -> None:
    model = small_cnn()
    model.compile("adam", SPARSE)
    model.fit(X, Y, verbose=0)
    model.save(path)
    other = small_cnn(key=300)
    other.compile("rmsprop", SPARSE)
    before = snapshot(other)
    with pytest.raises(FileFormatError, match="state of the optimizer does not belong"):
        other.restore(path)
    assert_same_weights(other, before)
    plain = small_cnn(key=300)  # without an optimizer the weights can be taken
    plain.restore(path)
    assert_same_weights(plain, snapshot(model))


def test_restoring_builds_a_model_that_waits_for_its_shape(path: Path) -> None:
    source = Sequential([Flatten(), Dense(3)])
    expected = source(X)
    source.save(path)
    model = Sequential([Flatten(), Dense(3)])
    assert model.restore(path) == {}
    np.testing.assert_array_equal(model(X), expected)
    wrong = Sequential([Conv2D(2, 9)])
    with pytest.raises(FileFormatError, match="a model with other inputs"):
        wrong.restore(path)
    assert not wrong.built


# --- copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_train_on_as_the_original_would(copied: Any) -> None:
    """The optimizer's state and the random streams go with them, and nothing is shared."""
    gc.set_seed(1)
    model = Sequential([Flatten(), Dropout(0.3), Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = images(12), labels(12, 3, 5)
    model.fit(x, y, batch_size=4, verbose=0)
    twin = copied(model)
    before = snapshot(model)
    twin.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert_same_weights(model, before)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert_same_weights(model, snapshot(twin))
