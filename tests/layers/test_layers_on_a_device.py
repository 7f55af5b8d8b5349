"""Every layer on arrays that keep a device's rules: the numbers of the CPU, and no copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuconv.backends.simulated import SimulatedArray, to_simulated
from gpuconv.backends.transfers import count_transfers
from gpuconv.layers.augmentation import Augmentation
from gpuconv.layers.noise import Noisy
from gpuconv.testing.cases.layers import LAYER_CASES, LayerCase, randomize
from gpuconv.testing.device_stand_in import stand_in_device


@pytest.fixture(autouse=True)
def _device():
    with stand_in_device():
        yield


def parts(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list) else [x]


def there(x: Any) -> Any:
    return [to_simulated(part) for part in x] if isinstance(x, list) else to_simulated(x)


@pytest.mark.parametrize("case", LAYER_CASES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_as_on_the_cpu_without_copies(case: LayerCase, training: bool) -> None:
    x = case.input()
    seed = {"seed": 3} if "seed" in case.cls.__init__.__code__.co_varnames else {}
    on_cpu, on_device = case.make(**seed), case.make(**seed)
    on_cpu.to("cpu:numpy")  # the arithmetic of the stand-in: the same bits
    on_device.to("cuda-sim")
    on_cpu(x)
    on_device(x)
    randomize(on_cpu)
    randomize(on_device)
    for layer in (on_cpu, on_device):
        for stream in layer.random_streams().values():
            stream.state = (7, 0)

    y, backward = on_cpu.forward(x, training=training)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    dx = backward(dy)
    arrays = there(x)
    with count_transfers() as counted:
        y_there, backward_there = on_device.forward(arrays, training=training)
    gradient = to_simulated(dy)
    with count_transfers() as counted_backward:
        dx_there = backward_there(gradient)
    # Augmentation and noise draw on the host: the numbers go over at once, and nothing waits.
    drawn = int(training and isinstance(on_device, (Augmentation, Noisy)))
    assert (counted.to_host, counted_backward.to_host) == (0, 0)
    assert counted.to_device <= drawn
    assert counted_backward.to_device == 0

    assert isinstance(y_there, SimulatedArray)
    np.testing.assert_array_equal(y_there.get(), y)
    for a, b in zip(parts(dx_there), parts(dx), strict=True):
        np.testing.assert_array_equal(a.get(), b)
    for p, q in zip(on_device.parameters, on_cpu.parameters, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if q.grad is not None:
            np.testing.assert_array_equal(p.grad.get(), q.grad)
