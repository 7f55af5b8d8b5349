"""Transfer learning on real digits: what a network knows of 0 to 4 helps to tell 5 to 9 apart.

A small network learns the digits 0 to 4 of the bundled set. Its convolutions are then frozen, a new
head learns 5 to 9 from a few images a class, and at last the upper convolution is set free and
learns on with a low rate. Beside that, the same network learns the same images from nothing. Every
number is the share of right answers on images that none of them has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpuconv as gc
from gpuconv.io import atomic_path

METHODS = ("from scratch", "new head", "head, then fine-tuned")
_FEATURES = "features"
"""The layer that gives them: what the convolutions see, as one row for each image."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Digits:
    """Images (N, 8, 8, 1) and labels, for training and for testing."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array

    def only(self, low: int, high: int) -> Digits:
        """The digits from ``low`` to ``high``, with labels that begin at 0."""
        kept = (self.y >= low) & (self.y <= high)
        tested = (self.y_test >= low) & (self.y_test <= high)
        return Digits(
            self.x[kept], self.y[kept] - low, self.x_test[tested], self.y_test[tested] - low
        )

    def few(self, each: int, seed: int) -> tuple[Array, Array]:
        """``each`` images of every class."""
        rng = np.random.default_rng(seed)
        chosen = np.concatenate(
            [
                rng.choice(np.flatnonzero(self.y == label), each, replace=False)
                for label in np.unique(self.y)
            ]
        )
        return self.x[chosen], self.y[chosen]


def network() -> gc.Sequential:
    """Return the layers up to the features, and a softmax over 5 classes."""
    layers = gc.layers
    return gc.Sequential(
        [
            gc.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2"),
            layers.Flatten(name=_FEATURES),
            layers.Dense(64, activation="relu"),
            layers.Dense(5, activation="softmax", name="head"),
        ],
        backend="cpu",
    )


def teach(model: gc.Model, x: Array, y: Array, epochs: int, rate: float = 1e-3) -> None:
    """Train with Adam."""
    model.compile(gc.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)


def accuracy(model: gc.Model, digits: Digits) -> float:
    """The share of right answers on the images for testing."""
    return float(model.evaluate(digits.x_test, digits.y_test, verbose=0, batch_size=256)[1])


def compare(source: Digits, target: Digits, each: int, seed: int, epochs: int) -> list[float]:
    """Return the accuracies of ``METHODS`` for ``each`` images a class."""
    gc.set_seed(seed)
    x, y = target.few(each, seed)
    scratch = network()
    teach(scratch, x, y, epochs)

    teacher = network()
    teach(teacher, source.x, source.y, 15)
    base = gc.Model(teacher.inputs, teacher.get_layer(_FEATURES).output)
    base.trainable = False
    learner = gc.Sequential([base, gc.layers.Dense(5, activation="softmax")])
    teach(learner, x, y, epochs, 1e-2)
    with_head = accuracy(learner, target)

    base.get_layer("conv2").trainable = True
    teach(learner, x, y, epochs // 2, 1e-4)
    return [accuracy(scratch, target), with_head, accuracy(learner, target)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; print a table, and draw it with ``--out``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1, 3, 10], help="of each class")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions; default 5")
    parser.add_argument("--epochs", type=int, default=60, help="on the few images; default 60")
    parser.add_argument("--out", type=Path, help="file for a picture (needs matplotlib)")
    options = parser.parse_args(arguments)
    (x, y), (x_test, y_test) = gc.data.load_digits()
    digits = Digits(x, y, x_test, y_test)
    source, target = digits.only(0, 4), digits.only(5, 9)
    print(
        f"taught 0 to 4 on {len(source.x)} images, tested 5 to 9 on {len(target.x_test)}; ", end=""
    )
    print(f"right answers, mean and spread of {options.seeds} repetitions")
    print(f"{'images a class':16}" + "".join(f"{method:>24}" for method in METHODS))
    results = []
    for each in options.images:
        runs = [
            compare(source, target, each, seed, options.epochs) for seed in range(options.seeds)
        ]
        results.append(np.array(runs))
        cells = [
            f"{m:.1%} +- {s:.1%}"
            for m, s in zip(results[-1].mean(0), results[-1].std(0), strict=True)
        ]
        print(f"{each:<16}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    if options.out is not None:
        draw(options.images, results, options.out)
        print(f"picture: {options.out}")
    return 0


def draw(images: Sequence[int], results: Sequence[Array], path: Path) -> None:
    """Draw the accuracies over the number of images a class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, method in enumerate(METHODS):
        means = [100 * runs[:, number].mean() for runs in results]
        spreads = [100 * runs[:, number].std() for runs in results]
        axes.errorbar(range(len(images)), means, spreads, marker="o", capsize=4, label=method)
    axes.set_xticks(range(len(images)), [str(each) for each in images])
    axes.set_xlabel("images of each of the digits 5 to 9")
    axes.set_ylabel("right answers, %")
    axes.set_title("Digits 5 to 9, by a network that knows 0 to 4")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
