"""A network as a scikit-learn classifier; needs ``python -m pip install "gpuconv[sklearn]"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuconv import layers, losses, optimizers
from gpuconv.errors import InvalidArgumentError, MissingDependencyError, ShapeError, shown
from gpuconv.geometry import as_extents, as_int
from gpuconv.layers.arguments import as_number
from gpuconv.models.model import Model
from gpuconv.models.sequential import Sequential
from gpuconv.random import seeds_unchanged, set_seed

try:
    from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
    from sklearn.utils import check_random_state  # type: ignore[import-untyped]
    from sklearn.utils.multiclass import (  # type: ignore[import-untyped]
        check_classification_targets,
    )
    from sklearn.utils.validation import (  # type: ignore[import-untyped]
        check_is_fitted,
        validate_data,
    )
except ImportError as error:
    raise MissingDependencyError(
        "gpuconv.sklearn needs scikit-learn 1.6 or later: "
        f'python -m pip install "gpuconv[sklearn]". Received: {error}'
    ) from error

Numbers = np.ndarray[Any, Any]
Network = Model | Callable[[tuple[int, ...], int], Model]


class CNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that trains a network, with scikit-learn's words.

    It can be cloned, pickled (if the network's own parts can), put into a Pipeline and searched by
    GridSearchCV. Every ``fit`` begins with a new network.

    Args:
        network: a function ``network(input_shape, classes)`` that returns a model; or a model,
            whose configuration is used and which itself is not trained; None: two convolutions
            and two dense layers for images, one hidden dense layer for features.
        input_shape: shape of one sample, such as ``(28, 28, 1)``, for X whose rows are flattened
            images; None: what X has.
        epochs: default 10.
        batch_size: default 32.
        optimizer: name or optimizer; default ``"adam"``. Each fit begins with a fresh one.
        validation_fraction: part of the samples, of each class alike, that is held out; how the
            network does on them is in ``history_``. Default 0: none.
        random_state: seed of initial weights, order and dropout: an int, a ``RandomState``, or
            None for NumPy's global one.
        verbose: as in ``Model.fit``; default 0.

    Attributes:
        classes_: the labels, sorted.
        model_: the trained network. It ends in a softmax, or gives logits.
        history_: name -> one number an epoch.
        input_shape_: shape of one sample as the network gets it.
        n_features_in_: number of columns of X.

    X is (N, features) or, for images, (N, H, W, C). A network for images computes in float32,
    the one for features in float64; neither scales features: put a ``StandardScaler`` before it.
    """

    def __init__(
        self,
        network: Network | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        epochs: int = 10,
        batch_size: int = 32,
        optimizer: Any = "adam",
        validation_fraction: float = 0.0,
        random_state: Any = None,
        verbose: Any = 0,
    ) -> None:
        self.network = network
        self.input_shape = input_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> CNNClassifier:
        """Train a new network.

        Args:
            X: (N, features) or (N, H, W, C), finite.
            y: (N,) labels of any kind, of at least two classes.

        Raises:
            ValueError: from scikit-learn: X or y are not what a classifier takes.
            InvalidArgumentError: an impossible setting, one class only, or a network with
                another number of outputs.
            ShapeError: X does not fit ``input_shape``.
        """
        X, y = validate_data(self, X, y, allow_nd=True)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InvalidArgumentError(
                f"a classifier needs samples of at least two classes. "
                f"Received: {len(X)} samples of one class"
            )
        fraction = as_number(self.validation_fraction, "validation_fraction", 0.0, 1.0)
        optimizer = optimizers.get(optimizers.serialize(optimizers.get(self.optimizer)))
        shape = self._sample_shape(X)
        samples = X.reshape(len(X), *shape)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        with seeds_unchanged():
            set_seed(int(seed))
            model = self._new_network(shape, len(classes), samples)
            loss = losses.SparseCategoricalCrossentropy(from_logits=_gives_logits(model))
            model.compile(optimizer, loss, ["accuracy"])
            training, validation = (samples, codes), None
            if fraction > 0:
                training, validation = _held_out(samples, codes, fraction, int(seed))
            history = model.fit(
                *training,
                batch_size=as_int(self.batch_size, "batch_size", 1),
                epochs=as_int(self.epochs, "epochs", 1),
                verbose=self.verbose,
                validation_data=validation,
            )
        self.classes_ = classes
        self.input_shape_ = shape
        self.model_ = model
        self.history_ = history.history
        return self

    def predict_proba(self, X: Any) -> Numbers:
        """Return the probabilities (N, classes), in the order of ``classes_``.

        Raises:
            NotFittedError: ``fit`` was not called.
            ValueError: X is not what the classifier was trained on.
            ShapeError: samples of another shape.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, allow_nd=True)
        shape = self._sample_shape(X)
        if shape != self.input_shape_:
            raise ShapeError(
                f"expected samples of shape {self.input_shape_}, as in fit. Received: {shape}"
            )
        outputs = self.model_.predict(X.reshape(len(X), *shape), self.batch_size, verbose=0)
        if _gives_logits(self.model_):
            powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs = powers / powers.sum(axis=1, keepdims=True)
        return np.asarray(outputs)

    def predict(self, X: Any) -> Numbers:
        """Return the label (N,) with the highest probability for each sample.

        Raises:
            NotFittedError, ValueError, ShapeError: as :meth:`predict_proba`.
        """
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def _sample_shape(self, X: Numbers) -> tuple[int, ...]:
        """Shape of one sample for the network.

        Raises:
            ShapeError: rows of X do not have as many numbers as ``input_shape``.
        """
        if self.input_shape is None:
            return tuple(X.shape[1:])
        shape = as_extents(self.input_shape, "input_shape")
        if X[:1].size != np.prod(shape):
            raise ShapeError(
                f"expected samples of shape {shape}, or with as many numbers. "
                f"Received: X of shape {X.shape}"
            )
        return shape

    def _new_network(self, shape: tuple[int, ...], classes: int, samples: Numbers) -> Model:
        if self.network is None:
            return _default_network(shape, classes, samples)
        if isinstance(self.network, Model):
            model = type(self.network).from_config(self.network.get_config())
        else:
            model = self.network(shape, classes)
        if not isinstance(model, Model):
            raise InvalidArgumentError(
                f"network must be a model, or return one. Received: {shown(model)}"
            )
        outputs = tuple(model.compute_output_shape(model.accept([(1, *shape)])))[1:]
        if outputs != (classes,):
            raise InvalidArgumentError(
                f"network must have one output for each of {classes} classes. "
                f"Received: {model.name} with outputs of shape {outputs}"
            )
        return model

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")


def _default_network(shape: tuple[int, ...], classes: int, samples: Numbers) -> Model:
    if len(shape) != 3:
        return Sequential(
            [
                *([layers.Flatten(dtype="float64")] if len(shape) > 1 else []),
                layers.Dense(64, activation="relu", dtype="float64"),
                layers.Dense(classes, activation="softmax", dtype="float64"),
            ]
        )
    normalization = layers.Normalization(axis=None)
    normalization.adapt(samples)
    pooling = [layers.MaxPooling2D(2)] if min(shape[:2]) >= 2 else []
    again = [layers.MaxPooling2D(2)] if min(shape[:2]) >= 4 else []
    return Sequential(
        [
            normalization,
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            *pooling,
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            *again,
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def _gives_logits(model: Model) -> bool:
    return model.without_softmax() is None


def _held_out(
    samples: Numbers, codes: Numbers, fraction: float, seed: int
) -> tuple[tuple[Numbers, Numbers], tuple[Numbers, Numbers]]:
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    parts = train_test_split(samples, codes, test_size=fraction, stratify=codes, random_state=seed)
    return (parts[0], parts[2]), (parts[1], parts[3])
