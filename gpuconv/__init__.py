"""gpuconv: convolutional networks with hand-written gradients, on the GPU and on any CPU.

Names are loaded when they are first used, so that ``import gpuconv`` costs little more than
``import numpy``::

    import gpuconv as gc

    y = gc.ops.conv2d(x, w, padding="same")                 # your own arrays
    model = gc.Sequential([gc.layers.Conv2D(8, 3), ...])     # layers in Keras's words
    net = gc.nn.Conv2d(3, 8, kernel_size=3)                  # the same layers in PyTorch's
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "Input": "gpuconv.layers",
    "Model": "gpuconv.models",
    "Parameter": "gpuconv.parameter",
    "Sequential": "gpuconv.models",
    "Tensor": "gpuconv.tensors",
    "config": "gpuconv.settings",
    "doctor": "gpuconv.diagnosis",
    "explain": "gpuconv.ops.explaining",
    "load_model": "gpuconv.models",
    "set_backend": "gpuconv.backends.selection",
    "set_seed": "gpuconv.random",
    "tensor": "gpuconv.tensors",
    "use_backend": "gpuconv.backends.selection",
    "warmup": "gpuconv.warming",
}

__all__ = [
    "Input",
    "Model",
    "Parameter",
    "Sequential",
    "Tensor",
    "__version__",
    "activations",
    "callbacks",
    "config",
    "data",
    "datasets",
    "doctor",
    "errors",
    "explain",
    "geometry",
    "initializers",
    "io",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "nn",
    "ops",
    "optimizers",
    "regularizers",
    "set_backend",
    "set_seed",
    "tensor",
    "use_backend",
    "utils",
    "viz",
    "warmup",
    "zoo",
]

if TYPE_CHECKING:
    from gpuconv import (
        activations,
        callbacks,
        data,
        datasets,
        errors,
        geometry,
        initializers,
        io,
        layers,
        losses,
        metrics,
        models,
        nn,
        ops,
        optimizers,
        regularizers,
        utils,
        viz,
        zoo,
    )
    from gpuconv.backends.selection import set_backend, use_backend
    from gpuconv.diagnosis import doctor
    from gpuconv.layers import Input
    from gpuconv.models import Model, Sequential, load_model
    from gpuconv.ops.explaining import explain
    from gpuconv.parameter import Parameter
    from gpuconv.random import set_seed
    from gpuconv.settings import config
    from gpuconv.tensors import Tensor, tensor
    from gpuconv.warming import warmup


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"gpuconv.{name}")
    else:
        raise AttributeError(f"module 'gpuconv' has no attribute {name!r}")
    globals()[name] = value  # later uses do not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
