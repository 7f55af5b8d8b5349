"""Whole programs as they are written for Keras, with nothing but their imports changed.

They are compact forms of what tutorials and study notes hold; data are small and made up, or the
bundled digits. What is asserted is what their authors would look at.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as keras
from gpuconv import layers, models
from gpuconv.callbacks import (
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from gpuconv.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
)
from gpuconv.models import Model, Sequential, load_model
from gpuconv.optimizers import SGD, Adam
from gpuconv.regularizers import l2
from gpuconv.utils import to_categorical


def digits() -> Any:
    (x_train, y_train), (x_test, y_test) = keras.data.load_digits()
    return (x_train[:600] / 16.0, y_train[:600]), (x_test[:200] / 16.0, y_test[:200])


def images(count: int, side: int, classes: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, 3)).astype("uint8"), rng.integers(
        0, classes, (count, 1)
    )


def test_digits_with_one_hot_labels(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = digits()
    y_train, y_test = to_categorical(y_train, 10), to_categorical(y_test, 10)

    model = Sequential()
    model.add(Conv2D(16, kernel_size=(3, 3), activation="relu", input_shape=(8, 8, 1)))
    model.add(Conv2D(32, (3, 3), activation="relu", kernel_initializer="he_uniform"))
    model.add(MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Dropout(0.1))
    model.add(Flatten())
    model.add(Dense(64, activation=keras.activations.relu, kernel_regularizer=l2(1e-4)))
    model.add(Dense(10, activation="softmax"))
    model.compile(
        loss=keras.losses.categorical_crossentropy,
        optimizer=Adam(learning_rate=0.003),
        metrics=["accuracy", keras.metrics.F1Score(average="macro")],
    )
    history = model.fit(
        x_train, y_train, batch_size=32, epochs=6, verbose=0, validation_data=(x_test, y_test)
    )
    score = model.evaluate(x_test, y_test, verbose=0)
    assert score[1] > 0.85
    assert score[2] == pytest.approx(score[1], abs=0.06)
    assert set(history.history) == {
        f"{part}{name}" for part in ("", "val_") for name in ("loss", "accuracy", "f1_score")
    }
    assert history.history["loss"][-1] < history.history["loss"][0] / 2

    model.save(tmp_path / "my_model.keras")
    same = load_model(tmp_path / "my_model.keras")
    predicted = np.argmax(same.predict(x_test, verbose=0), axis=1)
    assert np.mean(predicted == np.argmax(y_test, axis=1)) == pytest.approx(score[1])


def test_residual_network_with_a_schedule() -> None:
    def residual_block(x: Any, filters: int, stride: int = 1) -> Any:
        shortcut = x
        x = Conv2D(filters, 3, strides=stride, padding="same", kernel_initializer="he_normal")(x)
        x = BatchNormalization(momentum=0.9)(x)
        x = Activation("relu")(x)
        x = Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = BatchNormalization(axis=3)(x)
        if stride != 1 or shortcut.shape[-1] != filters:
            shortcut = Conv2D(filters, (1, 1), strides=stride, padding="same")(shortcut)
        return Activation("relu")(Add()([x, shortcut]))

    inputs = Input(shape=(16, 16, 3), name="img")
    x = layers.Rescaling(1.0 / 255)(inputs)
    x = layers.RandomFlip("horizontal")(x)
    x = layers.ZeroPadding2D((1, 1))(x)
    x = Conv2D(8, 3, name="conv1")(x)
    x = residual_block(x, 8)
    x = residual_block(x, 16, stride=2)
    x = GlobalAveragePooling2D(name="avg_pool")(x)
    outputs = Dense(4, activation="softmax")(x)
    model = Model(inputs=inputs, outputs=outputs, name="resnet_small")

    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9, staircase=True)
    model.compile(
        SGD(rate, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy", ["acc"]
    )
    x_train, y_train = images(32, 16, 4)
    history = model.fit(x_train, y_train, epochs=6, batch_size=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert model.optimizer is not None
    assert model.optimizer.learning_rate == pytest.approx(0.1 * 0.9**2)
    assert model.get_layer("avg_pool").output.shape == (None, 16)
    assert model.output_shape == (None, 4)

    extractor = Model(inputs=model.inputs, outputs=[layer.output for layer in model.layers[3:5]])
    maps = extractor.predict(x_train[:2], verbose=0)
    assert [m.shape for m in maps] == [(2, 18, 18, 3), (2, 16, 16, 8)]


def test_transfer_learning_and_fine_tuning() -> None:
    base_model = keras.zoo.mobilenet_v2(input_shape=(32, 32, 3), include_top=False)
    base_model.trainable = False
    inputs = keras.Input(shape=(32, 32, 3))
    x = layers.Rescaling(scale=1 / 127.5, offset=-1)(inputs)
    x = base_model(x, training=False)
    x = layers.Dropout(0.2)(x)
    outputs = layers.Dense(1)(x)
    model = keras.Model(inputs, outputs)
    assert len(model.trainable_weights) == 2
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy()],
    )
    x_train, y_train = images(8, 32, 2)
    frozen = base_model.get_weights()
    model.fit(x_train, y_train, epochs=1, verbose=0, class_weight={0: 1.0, 1: 2.0})
    for before, after in zip(frozen, base_model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)

    base_model.trainable = True
    for layer in base_model.layers[:-10]:
        layer.trainable = False
    model.compile(
        optimizer=keras.optimizers.Adam(1e-5),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    model.fit(x_train, y_train, epochs=1, verbose=0)
    changed = [
        weight.name
        for weight, before in zip(base_model.weights, frozen, strict=True)
        if not np.array_equal(weight.numpy(), before)
    ]
    assert changed
    assert not [name for name in changed if name.startswith("moving")]  # training=False


def test_callbacks(tmp_path: Path) -> None:
    class AccuracyLogger(keras.callbacks.Callback):
        seen: list[float] = []  # noqa: RUF012
        batches = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seen.append(logs["val_accuracy"])

        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            self.batches += 1

    def scheduler(epoch: int, lr: float) -> float:
        return lr if epoch < 2 else lr * math.exp(-0.1)

    (x_train, y_train), _ = digits()
    model = models.Sequential(
        [
            layers.InputLayer(shape=(8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu", padding="same"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="rmsprop",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    logger = AccuracyLogger()
    history = model.fit(
        x_train, y_train, validation_split=0.2, epochs=4, verbose=0,
        callbacks=[
            EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True),
            ModelCheckpoint(
                str(tmp_path / "cp-{epoch:02d}.weights.h5"), save_weights_only=True, verbose=0
            ),
            ModelCheckpoint(tmp_path / "best.keras", monitor="val_accuracy", save_best_only=True),
            ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=3, min_lr=1e-5),
            LearningRateScheduler(scheduler),
            logger,
        ],
    )  # fmt: skip
    assert logger.seen == history.history["val_accuracy"]
    assert logger.batches == 4 * 15
    assert history.history["learning_rate"][-1] == pytest.approx(1e-3 * math.exp(-0.2))
    last = model.predict(x_train[:20], verbose=0)
    model.load_weights(tmp_path / "cp-01.weights.h5")
    assert not np.array_equal(model.predict(x_train[:20], verbose=0), last)
    assert keras.models.load_model(tmp_path / "best.keras").count_params() == model.count_params()
    probabilities = keras.Sequential([model, layers.Softmax()]).predict(x_train[:20], verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_segmentation_and_an_autoencoder() -> None:
    inputs = layers.Input((20, 20, 3))
    c1 = Conv2D(8, 3, activation="relu")(inputs)
    c2 = Conv2D(8, 3, activation="relu")(MaxPooling2D()(c1))
    up = layers.UpSampling2D(size=(2, 2), interpolation="bilinear")(c2)
    merged = layers.concatenate([up, layers.Cropping2D(((2, 2), (2, 2)))(c1)], axis=3)
    unet = keras.Model(inputs, Conv2D(2, 1, activation="softmax")(merged))
    assert unet.output_shape == (None, 14, 14, 2)
    x, _ = images(6, 20, 2)
    masks = (x[:, 3:17, 3:17, :1] > 127).astype("uint8")
    unet.compile("adam", "sparse_categorical_crossentropy", [keras.metrics.MeanIoU(num_classes=2)])
    history = unet.fit(x / 255.0, masks, epochs=3, batch_size=2, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert 0 < history.history["mean_io_u"][-1] <= 1

    (x_train, _), _ = digits()
    autoencoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.GaussianNoise(0.1),
            layers.Conv2D(8, 3, strides=2, padding="same"),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Conv2DTranspose(8, 3, strides=2, activation="relu", padding="same"),
            layers.Conv2D(1, 3, activation="sigmoid", padding="same"),
        ]
    )
    autoencoder.compile(optimizer=keras.optimizers.Nadam(0.01), loss="binary_crossentropy")
    history = autoencoder.fit(
        x=x_train, y=x_train, epochs=2, batch_size=50, shuffle=True, verbose=0,
        validation_data=(x_train[:50], x_train[:50]),
    )  # fmt: skip
    assert history.history["val_loss"][-1] < 0.6
    assert autoencoder.predict(x_train[:3], verbose=0).shape == (3, 8, 8, 1)


@pytest.mark.parametrize("word", ["build", "call"])
def test_layers_of_keras_own_form_are_refused_with_a_hint(word: str) -> None:
    with pytest.raises(TypeError, match=r"add_parameters|run"):
        type("Linear", (keras.layers.Layer,), {word: lambda self, x: x})
    with pytest.raises(TypeError, match="run"):
        type("Net", (keras.Model,), {"call": lambda self, x: x})
