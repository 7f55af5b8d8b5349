"""Processes that are killed outright, while they train and while they save, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuconv
import gpuconv_kernels

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")

PROGRAM = """
import os, signal, sys
import numpy as np
import gpuconv as gc
from gpuconv.io import atomic, model_file

folder, where, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def killing(function, after):
    def call(*arguments, **more):
        global calls
        if os.path.isdir(arguments[0]):  # it is flushed too
            return function(*arguments, **more)
        calls += 1
        if calls != number:
            return function(*arguments, **more)
        if after == "half":
            data = open(arguments[0], "rb").read()
            open(arguments[0], "wb").write(data[: len(data) // 2])
        elif after:
            function(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)
    return call

if where == "before the rename":
    os.replace = killing(os.replace, False)
if where == "after the rename":
    os.replace = killing(os.replace, True)
if where == "in the middle of writing":
    atomic._flush = killing(atomic._flush, "half")

gc.set_seed(3)
rng = np.random.default_rng(5)
x, y = rng.random((40, 6, 6, 1), "float32"), rng.integers(0, 3, 40)
layers = gc.layers
model = gc.Sequential([
    gc.Input((6, 6, 1)), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(),
    layers.Flatten(), layers.Dropout(0.3), layers.Dense(3, activation="softmax"),
])
model.compile(gc.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
callbacks = [gc.callbacks.BackupAndRestore(folder, save_freq=2)]
if where == "between two batches":
    step = [0]
    def end(batch, logs):
        step[0] += 1
        if step[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
    callbacks.append(gc.callbacks.LambdaCallback(on_train_batch_end=end))
model.fit(x, y, epochs=4, batch_size=8, verbose=0, callbacks=callbacks)
np.savez(folder + ".npz", *model.get_weights())
"""


def start(folder: Path, where: str = "nowhere", number: int = 0) -> int:
    """Run the program; return its exit status."""
    paths = [str(Path(p.__path__[0]).parent) for p in (gpuconv, gpuconv_kernels)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "GPUCONV_BACKEND": "cpu:numpy",  # whose start is quick
    }
    arguments = [sys.executable, "-c", PROGRAM, str(folder), where, str(number)]
    return subprocess.run(arguments, env=environment, check=False).returncode


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The weights of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(folder) == 0
    with np.load(f"{folder}.npz") as weights:
        return list(weights.values())


@pytest.mark.parametrize(
    "where",
    [
        "before the rename",
        "after the rename",
        "in the middle of writing",
        "between two batches",
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    where: str, tmp_path: Path, expected: list[np.ndarray]
) -> None:
    folder = tmp_path / "run"
    assert start(folder, where, 3) == -signal.SIGKILL
    assert start(folder, where, 2) == -signal.SIGKILL
    assert start(folder) == 0
    with np.load(f"{folder}.npz") as weights:
        for ours, theirs in zip(weights.values(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not folder.exists()  # the backup of a run that is complete, and what was left of others
