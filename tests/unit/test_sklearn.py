"""The scikit-learn classifier: its conventions, pipelines, searches, and what it learns."""

from __future__ import annotations

import pickle
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.errors import InvalidArgumentError, MissingDependencyError, ShapeError
from gpuconv.layers import Conv2D, Dense, Flatten

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from gpuconv.sklearn import CNNClassifier  # noqa: E402

RNG = np.random.default_rng(11)


def blobs(count: int = 60) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Three groups of points in a plane, with words as labels."""
    centers = np.array([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])
    codes = np.arange(count) % 3
    X = centers[codes] + RNG.normal(scale=0.4, size=(count, 2))
    return X, np.array(["green", "red", "blue"])[codes]


def small(epochs: int = 8, **options: Any) -> CNNClassifier:
    options = {"optimizer": gc.optimizers.Adam(0.03), "random_state": 0, **options}
    return CNNClassifier(epochs=epochs, **options)


def bars(count: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images with a bright row or a bright column."""
    X, y = RNG.normal(scale=0.1, size=(count, 6, 6, 1)), np.arange(count) % 2
    for image, label, place in zip(X, y, RNG.integers(0, 6, count), strict=True):
        image[(place, slice(None)) if label else (slice(None), place)] += 1
    return X, y


def test_scikit_learns_own_checks() -> None:
    results = check_estimator(small(epochs=12), on_skip=None)
    assert len(results) > 40
    assert {result["status"] for result in results} <= {"passed", "skipped"}


def test_it_learns_words_and_their_probabilities() -> None:
    X, y = blobs()
    classifier = small().fit(X, y)
    assert classifier.score(X, y) == 1.0
    assert list(classifier.classes_) == ["blue", "green", "red"]
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(
        classifier.predict(X), classifier.classes_[probabilities.argmax(axis=1)]
    )
    assert len(classifier.history_["loss"]) == 8


def test_the_same_seed_gives_the_same_network_and_leaves_the_global_one_alone() -> None:
    X, y = blobs()
    gc.set_seed(3)
    expected = Dense(2)(X)
    gc.set_seed(3)
    first, second = small().fit(X, y), small().fit(X, y)
    np.testing.assert_array_equal(Dense(2)(X), expected)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    other = small(random_state=np.random.RandomState(1)).fit(X, y)
    assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))


def test_clones_and_pickles() -> None:
    X, y = blobs()
    classifier = small().fit(X, y)
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(X), classifier.predict_proba(X))
    fresh = clone(classifier)
    assert fresh.get_params().keys() == classifier.get_params().keys()
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    optimizer = classifier.get_params()["optimizer"]
    # The fit used one of its own.
    assert optimizer.state_dict(classifier.model_.parameters) == {"iterations": 0}


def test_in_a_pipeline_and_a_search() -> None:
    X, y = blobs()
    X = X * 1000 + 5000  # of no use without the scaler
    pipeline = make_pipeline(StandardScaler(), small())
    grid = {"cnnclassifier__optimizer": [gc.optimizers.SGD(1e-9), gc.optimizers.Adam(0.03)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert isinstance(search.best_params_["cnnclassifier__optimizer"], gc.optimizers.Adam)
    assert search.score(X, y) == 1.0


def test_images_and_flattened_images() -> None:
    X, y = bars()
    of_images = small(epochs=6).fit(X, y)
    assert of_images.score(X, y) > 0.9
    assert [type(layer).__name__ for layer in of_images.model_.layers].count("Conv2D") == 2
    flat = small(epochs=6, input_shape=(6, 6, 1)).fit(X.reshape(40, -1), y)
    np.testing.assert_array_equal(flat.predict_proba(X.reshape(40, -1)), of_images.predict_proba(X))
    assert flat.input_shape_ == (6, 6, 1)
    with pytest.raises(ShapeError, match=r"\(6, 6, 1\).*Received: X of shape \(40, 35\)"):
        small(input_shape=(6, 6, 1)).fit(X.reshape(40, -1)[:, :35], y)
    with pytest.raises(ShapeError, match="as in fit"):
        of_images.predict(X[:, :, :5])


def look(input_shape: tuple[int, ...], classes: int, filters: int = 3) -> gc.Sequential:
    return gc.Sequential(
        [Conv2D(filters, 3, activation="relu", input_shape=input_shape), Flatten(), Dense(classes)]
    )


def test_networks_of_ones_own() -> None:
    X, y = bars()
    model = look((6, 6, 1), 2)
    before = model.get_weights()
    for network in (look, partial(look, filters=5), model):
        classifier = small(epochs=12, network=network).fit(X, y)
        assert classifier.score(X, y) > 0.9
        # It gives logits, of which probabilities are made.
        outputs = classifier.model_.predict(X, verbose=0)
        powers = np.exp(outputs)
        expected = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    search = GridSearchCV(small(epochs=2), {"network": [look, model]}, cv=2).fit(X, y)
    assert search.best_params_["network"] is not None


def test_networks_that_do_not_fit() -> None:
    X, y = bars()
    with pytest.raises(InvalidArgumentError, match=r"each of 2 classes.*shape \(3,\)"):
        small(network=look((6, 6, 1), 3)).fit(X, y)
    with pytest.raises(InvalidArgumentError, match=r"must be a model, or return one\. Received: 7"):
        small(network=lambda shape, classes: 7).fit(X, y)
    with pytest.raises(InvalidArgumentError, match="two classes"):
        small().fit(X, np.zeros(40))


def test_a_part_of_each_class_is_held_out() -> None:
    X, y = blobs()
    seen: list[int] = []

    def network(shape: tuple[int, ...], classes: int) -> gc.Sequential:
        return gc.Sequential([Dense(classes, activation="softmax", input_shape=shape)])

    classifier = small(epochs=3, network=network, validation_fraction=0.25, batch_size=100)
    fit = gc.models.Model.fit

    def counted(self: Any, x: Any, labels: Any, **options: Any) -> Any:
        seen.extend(np.bincount(labels))
        return fit(self, x, labels, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc.models.Model, "fit", counted)
        classifier.fit(X, y)
    assert seen == [15, 15, 15]
    assert len(classifier.history_["val_accuracy"]) == 3
    with pytest.raises(InvalidArgumentError, match="validation_fraction"):
        small(validation_fraction=1.5).fit(X, y)


def test_without_scikit_learn_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "gpuconv.sklearn")
    with pytest.raises(MissingDependencyError, match=r'pip install "gpuconv\[sklearn\]"'):
        __import__("gpuconv.sklearn")
