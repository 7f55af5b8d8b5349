"""Pictures and folders of pictures in the words of keras.utils; data sets in those of Keras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv import utils
from gpuconv.errors import FileFormatError, InvalidArgumentError, ShapeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten grey pictures in two classes; each has its number as its only value."""
    for number in range(10):
        place = tmp_path / ("odd" if number % 2 else "even")
        place.mkdir(exist_ok=True)
        Image.new("L", (6, 4), number).save(place / f"{number}.png")
    return tmp_path


def test_a_picture_and_back(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype("uint8")
    utils.save_img(tmp_path / "x.png", x, scale=False)
    read = utils.load_img(tmp_path / "x.png")
    array = utils.img_to_array(read)
    assert (array.shape, array.dtype) == ((4, 6, 3), np.float32)
    np.testing.assert_array_equal(array, x)
    small = utils.load_img(tmp_path / "x.png", "grayscale", target_size=(2, 3))
    assert utils.img_to_array(small).shape == (2, 3, 1)
    stretched = utils.img_to_array(utils.array_to_img(np.array([[[-1.0], [0.0], [1.0]]])))
    np.testing.assert_array_equal(stretched.ravel(), [0, 127, 255])
    with pytest.raises(FileNotFoundError):
        utils.load_img(tmp_path / "y.png")
    (tmp_path / "z.png").write_bytes(b"no picture")
    with pytest.raises(FileFormatError):
        utils.load_img(tmp_path / "z.png")
    with pytest.raises(ShapeError):
        utils.array_to_img(np.zeros((2, 2)))


def numbers(dataset: gc.data.Dataset) -> list[int]:
    return [int(x[0, 0, 0]) for batch in dataset for x in batch[0]]


def test_the_parts_of_a_folder(folder: Path) -> None:
    def part(subset: str | None, **more: object) -> gc.data.Dataset:
        split = 0.3 if subset else None
        made = utils.image_dataset_from_directory(
            folder, image_size=(4, 6), batch_size=4, seed=7, validation_split=split, subset=subset,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(made, gc.data.Dataset)
        return made

    training, validation = part("training"), part("validation", shuffle=False)
    assert training.class_names == ["even", "odd"]
    held_out = numbers(validation)
    assert len(held_out) == 3
    assert sorted(numbers(training) + held_out) == list(range(10))
    assert [int(Path(file).stem) for file in validation.files or []] == held_out
    assert sorted(numbers(part(None))) == list(range(10))
    for x, y in part("training", label_mode="categorical"):
        np.testing.assert_array_equal(y.argmax(-1), x[:, 0, 0, 0] % 2)
    for x, y in part(None, label_mode="binary", color_mode="grayscale"):
        assert x.shape[1:] == (4, 6, 1)
        np.testing.assert_array_equal(y, x[:, 0, 0] % 2)
    both = utils.image_dataset_from_directory(
        folder, image_size=(4, 6), seed=7, validation_split=0.3, subset="both"
    )
    assert [len(numbers(one)) for one in both] == [7, 3]


@pytest.mark.parametrize(
    "arguments",
    [
        {"validation_split": 0.2},
        {"validation_split": 0.2, "subset": "training"},
        {"validation_split": 0.01, "subset": "training", "seed": 1},
        {"validation_split": 1.5, "subset": "training", "seed": 1},
        {"label_mode": "numbers"},
        {"color_mode": "cmyk"},
    ],
    ids=str,
)
def test_impossible_folders(folder: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        utils.image_dataset_from_directory(folder, **arguments)  # type: ignore[arg-type]


def test_batches_by_number() -> None:
    class Batches(utils.PyDataset):
        ends = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
            return np.full((2, 1), index, "float32"), np.zeros((2, 1))

        def on_epoch_end(self) -> None:
            self.ends += 1

    batches = Batches()
    model = gc.Sequential([gc.layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse")
    model.fit(batches, epochs=2, verbose=0)
    assert batches.ends == 2
    assert model.predict(batches, verbose=0).shape == (6, 1)
    with pytest.raises(TypeError, match="__len__"):
        len(utils.PyDataset())


def test_normalize() -> None:
    np.testing.assert_allclose(utils.normalize([[3.0, 4.0], [0.0, 0.0]]), [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(utils.normalize([[1.0, 1.0]], order=1), [[0.5, 0.5]])
    with pytest.raises(InvalidArgumentError):
        utils.normalize([1.0], axis=3)


def test_data_sets_are_those_of_gpuconv_data() -> None:
    from gpuconv.datasets import cifar10, cifar100, fashion_mnist, mnist

    for module, function in (
        (mnist, gc.data.load_mnist),
        (fashion_mnist, gc.data.load_fashion_mnist),
        (cifar10, gc.data.load_cifar10),
        (cifar100, gc.data.load_cifar100),
    ):
        assert module.load_data is function


def test_a_diagram(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    utils.plot_model(gc.zoo.digits_network(), tmp_path / "m.png", show_shapes=True)
    assert (tmp_path / "m.png").stat().st_size > 1000
    with pytest.raises(InvalidArgumentError):
        utils.plot_model(gc.zoo.digits_network(), tmp_path / "m.png", show_shapes=False)
