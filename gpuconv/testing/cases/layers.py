# ruff: noqa: E501  (one case a line reads best)
"""Every layer with arguments and an input to try it on, as data."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gpuconv import layers
from gpuconv.configurable import arguments_of
from gpuconv.layers import Layer


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One layer; ``shape`` is its input's, batch and channels-last, or a list of shapes."""

    id: str
    cls: type[Layer]
    shape: tuple[int, ...] | list[tuple[int, ...]]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.id

    @property
    def several(self) -> bool:
        """Whether the layer takes a list of inputs."""
        return isinstance(self.shape, list)

    @property
    def has_data_format(self) -> bool:
        """Whether the layer has a channels-first form that computes the same."""
        return "data_format" in arguments_of(self.cls) and self.cls is not layers.Flatten

    def make(self, **more: Any) -> Layer:
        """Build the layer, in float64 unless ``dtype`` says otherwise."""
        return self.cls(**{"dtype": "float64", **copy.deepcopy(self.arguments), **more})

    def input(self, seed: int = 0, batch: int | None = None) -> Any:
        """Normal random float64 numbers of the shape, with another batch size if given."""
        rng = np.random.default_rng(seed)
        shapes = self.shape if isinstance(self.shape, list) else [self.shape]
        arrays = [
            rng.standard_normal((n if batch is None else batch, *extents)) for n, *extents in shapes
        ]
        return arrays if self.several else arrays[0]


def randomize(layer: Layer, seed: int = 1) -> None:
    """Give a built layer weights that are neither 0 nor 1, positive where they are variances."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [
            rng.integers(1, 5, a.shape) if a.dtype.kind == "i"
            else rng.uniform(0.5, 1.5, a.shape) if "variance" in name
            else rng.standard_normal(a.shape)
            for name, a in layer.state().items()
        ]
    )  # fmt: skip


def _case(
    name: str, of: tuple[int, ...] | list[tuple[int, ...]], what: str = "", **arguments: Any
) -> LayerCase:
    identifier = f"{name}-{what}" if what else name
    return LayerCase(id=identifier, cls=getattr(layers, name), shape=of, arguments=arguments)


_1D, _2D, _3D = (3, 7, 4), (3, 7, 6, 4), (2, 5, 4, 5, 4)

# fmt: off
LAYER_CASES: Final = (
    # convolution
    _case("Conv1D", _1D, filters=6, kernel_size=3),
    _case("Conv1D", _1D, "causal-gelu", filters=6, kernel_size=2, padding="causal", dilation_rate=2, activation="gelu"),
    _case("Conv2D", _2D, filters=6, kernel_size=3),
    _case("Conv2D", _2D, "same-strided", filters=6, kernel_size=(3, 2), padding="same", strides=2, activation="tanh"),
    _case("Conv2D", _2D, "groups-pads", filters=6, kernel_size=3, groups=2, padding=((1, 0), (2, 1)), use_bias=False),
    _case("Conv2D", _2D, "reflect-softmax", filters=5, kernel_size=3, padding=1, padding_mode="reflect", activation="softmax"),
    _case("Conv3D", _3D, filters=3, kernel_size=2, strides=(1, 2, 1)),
    _case("Conv1DTranspose", _1D, filters=3, kernel_size=3, strides=2),
    _case("Conv2DTranspose", _2D, filters=3, kernel_size=3, strides=2, padding="same"),
    _case("Conv2DTranspose", _2D, "output-padding", filters=3, kernel_size=3, strides=2, padding=1, output_padding=1, activation="silu"),
    _case("Conv3DTranspose", (2, 3, 2, 3, 4), filters=2, kernel_size=2),
    _case("DepthwiseConv1D", _1D, kernel_size=3, depth_multiplier=2),
    _case("DepthwiseConv2D", _2D, kernel_size=3, padding="same", activation="sigmoid"),
    _case("DepthwiseConv2D", _2D, "multiplier", kernel_size=(2, 3), depth_multiplier=2, strides=2),
    _case("SeparableConv1D", _1D, filters=5, kernel_size=3),
    _case("SeparableConv2D", _2D, filters=5, kernel_size=3, depth_multiplier=2, padding="same"),
    # pooling
    _case("MaxPooling1D", _1D),
    _case("MaxPooling2D", _2D),
    _case("MaxPooling2D", _2D, "same-overlap", pool_size=3, strides=2, padding="same"),
    _case("MaxPooling3D", _3D),
    _case("AveragePooling1D", _1D),
    _case("AveragePooling2D", _2D),
    _case("AveragePooling2D", _2D, "same-overlap", pool_size=(3, 2), strides=2, padding="same"),
    _case("AveragePooling3D", _3D),
    *(_case(f"Global{kind}Pooling{rank}D", shape) for kind in ("Max", "Average") for rank, shape in ((1, _1D), (2, _2D), (3, _3D))),
    _case("GlobalAveragePooling2D", _2D, "keepdims", keepdims=True),
    *(_case(f"Adaptive{kind}Pooling{rank}D", shape, output_size=3) for kind in ("Max", "Average") for rank, shape in ((1, _1D), (2, _2D), (3, _3D))),
    # shapes
    _case("ZeroPadding1D", _1D, padding=(1, 2)),
    _case("ZeroPadding2D", _2D, padding=((1, 2), (0, 3))),
    _case("ZeroPadding3D", _3D, padding=1),
    _case("Cropping1D", _1D, cropping=(1, 2)),
    _case("Cropping2D", _2D, cropping=((1, 2), (0, 3))),
    _case("Cropping3D", _3D),
    _case("Resizing", _2D, height=4, width=9),
    _case("Resizing", _2D, "nearest", height=10, width=3, interpolation="nearest"),
    _case("CenterCrop", _2D, height=4, width=3),
    _case("CenterCrop", _2D, "larger", height=9, width=4),
    _case("RepeatVector", (3, 4), n=5),
    _case("Identity", _2D),
    _case("TimeDistributed", (2, 3, 5, 4, 2), layer=layers.Conv2D(3, 2, dtype="float64")),
    _case("UpSampling1D", _1D, size=3),
    _case("UpSampling2D", _2D, size=(2, 3)),
    _case("UpSampling2D", _2D, "bilinear", size=(2, 3), interpolation="bilinear"),
    _case("UpSampling3D", _3D),
    _case("Flatten", _2D),
    _case("Flatten", _2D, "channels-first", data_format="channels_first"),
    _case("Flatten", _3D, "dims", start_dim=2, end_dim=-2),
    _case("Reshape", _2D, target_shape=(4, -1, 6)),
    _case("Permute", _2D, dims=(2, 3, 1)),
    # dense and activations
    _case("Dense", (3, 5), units=4),
    _case("Dense", (3, 2, 5), "regularized", units=4, activation="relu", kernel_regularizer="l2", bias_initializer="ones"),
    _case("Activation", _1D, activation="mish"),
    _case("Activation", _1D, "softmax", activation="softmax"),
    _case("Activation", _1D, "log-softmax", activation="log_softmax"),
    _case("Activation", _1D, "linear", activation=None),
    _case("ReLU", _2D),
    _case("ReLU", _2D, "limited", max_value=0.9, negative_slope=0.1, threshold=0.2),
    _case("LeakyReLU", _2D),
    _case("ELU", _2D, alpha=0.7),
    _case("GELU", _2D),
    _case("GELU", _2D, "tanh", approximate=True),
    _case("Sigmoid", _2D),
    _case("Tanh", _2D),
    _case("SiLU", _2D),
    _case("PReLU", _2D, alpha_initializer="ones"),
    _case("PReLU", _2D, "shared", shared_axes=[1, 2]),
    _case("Softmax", _2D),
    _case("Softmax", _2D, "axis", axis=1),
    _case("Softmax", _2D, "axes", axis=(1, 2)),
    # normalisation
    _case("BatchNormalization", _2D),
    _case("BatchNormalization", (6, 4), "features"),
    _case("BatchNormalization", _3D, "axis-1", axis=1, center=False),
    _case("BatchNormalization", _1D, "cumulative", momentum=None, unbiased_moving_variance=True, scale=False),
    _case("BatchNormalization", _1D, "untracked", track_moving_statistics=False),
    _case("LayerNormalization", _2D),
    _case("LayerNormalization", _2D, "axes", axis=(-1, 1), scale=False),
    _case("GroupNormalization", _2D, groups=2),
    _case("GroupNormalization", _2D, "instance-axis-1", groups=-1, axis=1),
    _case("GroupNormalization", (3, 6), "features", groups=3, center=False),
    # regularisation
    _case("Dropout", _2D, rate=0.4, seed=5),
    _case("Dropout", _2D, "noise-shape", rate=0.4, noise_shape=(None, 1, 1, None), seed=5),
    _case("SpatialDropout1D", _1D, rate=0.4, seed=5),
    _case("SpatialDropout2D", _2D, rate=0.4, seed=5),
    _case("SpatialDropout3D", _3D, rate=0.4, seed=5),
    _case("GaussianNoise", _2D, stddev=0.4, seed=5),
    _case("GaussianDropout", _2D, rate=0.4, seed=5),
    # augmentation
    _case("RandomFlip", _2D, seed=5),
    _case("RandomFlip", _2D, "horizontal", mode="horizontal", seed=5),
    _case("RandomCrop", _2D, height=5, width=4, seed=5),
    _case("RandomCrop", _2D, "larger", height=9, width=4, seed=5),
    _case("RandomRotation", _2D, factor=0.2, seed=5),
    _case("RandomRotation", _2D, "constant", factor=(0.05, 0.3), fill_mode="constant", fill_value=1.5, seed=5),
    _case("RandomTranslation", _2D, height_factor=0.4, width_factor=(0.1, 0.3), fill_mode="wrap", seed=5),
    _case("RandomTranslation", _2D, "nearest", height_factor=0.4, width_factor=0.0, interpolation="nearest", fill_mode="nearest", seed=5),
    _case("RandomZoom", _2D, height_factor=0.5, seed=5),
    _case("RandomZoom", _2D, "constant", height_factor=(-0.5, -0.1), width_factor=(0.1, 0.7), fill_mode="constant", seed=5),
    _case("RandomContrast", _2D, factor=0.5, value_range=(-2.0, 2.0), seed=5),
    _case("RandomBrightness", _2D, factor=(-0.3, 0.5), value_range=(-2.0, 2.0), seed=5),
    _case("Cutout", _2D, size=(3, 2), fill_value=0.5, seed=5),
    # several inputs
    *(_case(name, [_1D] * 3) for name in ("Add", "Multiply", "Average", "Maximum", "Minimum")),
    _case("Subtract", [_1D] * 2),
    _case("Concatenate", [(2, 3, 4), (2, 3, 1), (2, 3, 2)]),
    _case("Concatenate", [(2, 3, 4), (2, 1, 4)], "axis", axis=1),
    # preprocessing
    _case("InputLayer", _2D, shape=[7, 6, 4]),
    _case("Rescaling", _2D, scale=0.5, offset=-1.0),
    _case("Rescaling", _2D, "channels", scale=[1.0, 2.0, 3.0, 4.0], offset=[0.0, 1.0, 0.0, -1.0]),
    _case("Normalization", _2D),
    _case("Normalization", _2D, "given-invert", axis=(1, -1), mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 3.0, 2.0, 1.0], invert=True),
)
# fmt: on
"""At least one for each layer of ``gpuconv.layers``."""
