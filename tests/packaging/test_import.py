"""``import gpuconv``: what it costs, what it loads, and that every public name is there."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gpuconv
import gpuconv_kernels

HEAVY = ("numba", "rich", "matplotlib", "PIL", "safetensors", "cupy", "torch", "keras", "llvmlite")
NOT_FOR_EVERYONE = (
    "gpuconv.__main__",  # runs the command
    *(() if find_spec("sklearn") else ("gpuconv.sklearn",)),  # subclasses what an extra brings
)


def run(program: str) -> str:
    """Run a program in a fresh interpreter that finds the same packages; return what it prints."""
    paths = [str(Path(p.__path__[0]).parent) for p in (gpuconv, gpuconv_kernels)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("GPUCONV_BACKEND", None)
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def modules() -> list[str]:
    return [
        module.name
        for package in (gpuconv, gpuconv_kernels)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if module.name not in NOT_FOR_EVERYONE
    ]


def test_it_takes_at_most_twice_as_long_as_numpy() -> None:
    """The least of several turns, taken one after the other so that both meet the same load."""
    program = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    best = {"numpy": float("inf"), "gpuconv": float("inf")}
    for _ in range(5):
        for name in best:
            best[name] = min(best[name], float(run(program.format(name))))
    assert best["gpuconv"] <= 2 * best["numpy"]


def test_importing_loads_nothing_heavy() -> None:
    loaded = f"import sys, gpuconv; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    assert run(loaded) == "[]"


def test_using_any_public_name_loads_nothing_heavy_either() -> None:
    program = (
        "import sys, gpuconv as gc\n"
        "for name in gc.__all__: getattr(gc, name)\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    assert run(program) == "[]"


def test_training_loads_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys, numpy as np, gpuconv as gc\n"
        "m = gc.Sequential([gc.layers.Dense(2, input_shape=(3,))])\n"
        "m.compile('sgd', 'mse')\n"
        "m.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=2)\n"
        "print(sorted(set(sys.modules) & {'matplotlib', 'PIL', 'safetensors', 'torch', 'rich'}))"
    )
    assert run(program).splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", gpuconv.__all__)
def test_public_names(name: str) -> None:
    assert getattr(gpuconv, name) is getattr(gpuconv, name)
    assert name in dir(gpuconv)


def test_there_is_no_other_name() -> None:
    assert len(set(gpuconv.__all__)) == len(gpuconv.__all__)
    with pytest.raises(AttributeError, match="module 'gpuconv' has no attribute 'Sequental'"):
        gpuconv.Sequental  # noqa: B018
    assert not hasattr(gpuconv, "submodule_that_is_not_there")


def test_names_are_what_is_documented_after_everything_was_imported() -> None:
    """A submodule of the same name would take the place of a function."""
    program = (
        "import importlib, types, gpuconv as gc\n"
        f"for name in {modules()!r}: importlib.import_module(name)\n"
        "from gpuconv import diagnosis, settings, tensors, random\n"
        "from gpuconv.backends import selection\n"
        "from gpuconv.ops import explaining\n"
        "assert gc.config is settings.config\n"
        "assert gc.tensor is tensors.tensor and gc.Tensor is tensors.Tensor\n"
        "assert gc.doctor is diagnosis.doctor\n"
        "assert gc.explain is explaining.explain\n"
        "assert gc.set_seed is random.set_seed\n"
        "assert gc.set_backend is selection.set_backend\n"
        "assert gc.use_backend is selection.use_backend\n"
        "assert gc.Sequential is gc.models.Sequential and gc.load_model is gc.models.load_model\n"
        "print(sorted(n for n in gc.__all__ if isinstance(getattr(gc, n), types.ModuleType)))"
    )
    expected = [
        name
        for name in sorted(gpuconv.__all__)
        if name != "__version__" and find_spec(f"gpuconv.{name}")
    ]
    assert run(program) == str(expected)
    assert "config" not in expected


def test_every_public_module_can_be_the_first() -> None:
    """None of them depends on another one having been imported before it."""
    program = (
        "import importlib, sys, numpy\n"
        f"for name in {[name for name in modules() if name.count('.') == 1]!r}:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0].startswith('gpuconv')]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
        "print('all')"
    )
    assert run(program) == "all"


def test_without_an_accelerator_or_its_packages() -> None:
    """CuPy and PyTorch that cannot be imported do not matter on the CPU."""
    program = (
        "import sys\n"
        "for name in ('cupy', 'torch', 'keras', 'matplotlib', 'h5py'): sys.modules[name] = None\n"
        "import numpy as np, gpuconv as gc\n"
        "y = gc.ops.conv2d(np.ones((1, 4, 4, 1), 'f4'), np.ones((3, 3, 1, 1), 'f4'))\n"
        "print(float(y.sum()), gc.Sequential(backend='cpu').backend)"
    )
    assert run(program) == "36.0 cpu"
