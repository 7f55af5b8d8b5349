"""Every method of every engine of a GPU, and every layer, beside the CPU's results.

    python -m gpuconv.benchmarks.gpu_engines operations --seconds 60
    python -m gpuconv.benchmarks.gpu_engines layers --seconds 120
    python -m gpuconv.benchmarks.gpu_engines layers --simulated --case Dense

Operations call the engines' own methods with small integers, where sums are exact, and with real
numbers. Layers go forward and backward in float32 and float64, channels last and first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.backends import registry
from gpuconv.backends.arrays import is_array, to_device, to_numpy
from gpuconv.backends.base import Engine
from gpuconv.backends.functions import FROM_INPUT, FROM_OUTPUT, Activation
from gpuconv.benchmarks import gpu_environment, gpu_shares
from gpuconv.benchmarks.gpu_shares import Message, Share, say
from gpuconv.geometry import ConvGeometry, PoolGeometry
from gpuconv.testing.tolerances import assert_close, assert_exact

ENGINES = ("cuda:numba", "cuda:cupy")
DTYPES = ("float32", "float64")
LAYOUTS = ("channels_last", "channels_first")
_LIMIT = 1 << 24
_LENGTH = 100_000
"""Products of a sum as long as any here: what a layer's rounding errors are allowed to be."""

Call = tuple[str, tuple[Any, ...], bool]
"""A method, its arguments, and whether the result must have the same bits."""


# --- operations -----------------------------------------------------------------------------


def calls(dtype: str) -> Iterator[Call]:
    """Yield calls of every method that returns something."""
    rng = np.random.default_rng(3)

    def whole(*shape: int) -> Any:
        return rng.integers(-3, 4, shape).astype(dtype)

    def real(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    for g in _convolutions():
        x, w, dy = whole(*g.x_shape), whole(*g.w_shape), whole(*g.y_shape)
        bias = whole(g.out_channels)
        yield "conv_forward", (x, w, bias, g, _LIMIT, Activation("relu")), True
        yield "conv_forward", (x, w, None, g, _LIMIT), True
        yield "conv_backward_input", (dy, w, g, _LIMIT), True
        yield "conv_backward_weight", (dy, x, g, _LIMIT), True
        yield "sum_channels", (dy,), True
    for mode in ("zeros", "reflect", "replicate", "circular"):
        yield "pad", (whole(2, 3, 4, 5), ((1, 2), (2, 0)), mode), True
        yield "pad_backward", (whole(2, 6, 6, 5), ((1, 2), (2, 0)), mode), True
    for window, stride in (((2, 2), (2, 2)), ((3, 2), (1, 2)), ((5, 6), (1, 1))):
        pads = ((0, 0), (0, 0)) if window == (5, 6) else ((1, 0), (0, 1))
        pool = PoolGeometry(2, 7, (5, 6), window, stride, (1, 1), pads)
        x, dy = whole(*pool.x_shape), whole(*pool.y_shape)
        yield "max_pool", (x, pool, True), True
        yield "max_pool", (x, pool, False), True
        yield "max_pool_backward", (dy, _first_maxima(x, pool), pool), True
        yield "avg_pool", (x, pool), False
        yield "avg_pool_backward", (dy, pool), False
    yield "dense", (whole(9, 13), whole(13, 7), whole(7), Activation("relu")), True
    yield "gemm", (whole(9, 13), whole(13, 7)), True
    for kind in sorted(FROM_OUTPUT | FROM_INPUT):
        function, x, dy = Activation(kind, 0.3), real(3, 11), real(3, 11)
        yield "activation", (x, function), False
        y = _cpu().activation(x, function)
        z = (None, y) if kind in FROM_OUTPUT else (x, None)
        yield "activation_backward", (dy, *z, function), False
    x, dy = real(5, 11), real(5, 11)
    probabilities = _cpu().softmax(x)
    yield "softmax", (x,), False
    yield "softmax_backward", (dy, probabilities), False
    for targets in (rng.integers(0, 11, 5), _cpu().softmax(dy)):
        yield "softmax_cross_entropy", (x, targets), False
        yield "softmax_cross_entropy_backward", (probabilities, targets, real(5)), False
    for shape, axes, parameters, over in _NORMALIZATIONS:
        x, dy, scale, offset = real(*shape), real(*shape), real(*parameters), real(*parameters)
        mean, variance = _cpu().moments(x, axes)
        yield "moments", (x, axes), False
        yield "normalize", (x, mean, variance, scale, offset, 1e-3), False
        yield "normalize", (x, mean, variance, None, None, 1e-3), False
        for flags in ((True, True), (False, True), (True, False)):
            given = (dy, x, mean, variance, scale, 1e-3, axes, over, *flags)
            yield "normalize_backward", given, False
    yield "dropout_mask", ((3, 7), 0.4, (12, 3), dtype), True


UPDATES: dict[str, tuple[int, tuple[Any, ...]]] = {
    "sgd_update": (1, (0.1, 0.9, True, False, False)),
    "adam_update": (2, (0.1, 0.9, 0.99, 1e-7, 3, False)),
    "rmsprop_update": (3, (0.1, 0.9, 0.5, 1e-7, True)),
    "adagrad_update": (1, (0.1, 1e-7, True)),
}
"""Methods that work in place: how many arrays beside value and gradient, and their numbers."""

_NORMALIZATIONS = (
    ((4, 3, 3, 5), (0, 1, 2), (1, 1, 1, 5), (0, 1, 2)),
    ((4, 3, 6), (2,), (1, 1, 6), (0, 1)),
    ((3, 2, 4, 5), (1, 2), (1, 1, 1, 5), (0, 1, 2)),
    ((2, 3, 2, 2, 3), (1, 2, 4), (1, 1, 1, 2, 3), (0, 1, 2)),
    ((3, 5, 2, 4), (0, 2, 3), (1, 5, 1, 1), (0, 2, 3)),
)


def _convolutions() -> Iterator[ConvGeometry]:
    yield ConvGeometry(2, 3, 5, (5, 6), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    yield ConvGeometry(1, 12, 20, (5, 4), (3, 2), (2, 1), (1, 2), ((1, 0), (2, 1)))
    yield ConvGeometry(1, 6, 12, (6, 5), (3, 3), (2, 2), (1, 1), ((0, 1), (1, 1)), 6)
    yield ConvGeometry(1, 20, 24, (4, 3), (2, 2), (1, 1), (1, 1), ((0, 0), (0, 0)), 2)
    yield ConvGeometry(1, 9, 4, (3, 4, 3), (2, 1, 3), (1, 2, 1), (1, 1, 1), ((1, 0),) * 3)
    yield ConvGeometry(2, 9, 8, (9,), (3,), (2,), (1,), ((1, 1),))
    yield ConvGeometry(2, 16, 12, (3, 3), (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))
    yield ConvGeometry(2, 37, 41, (13, 11), (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))


def _cpu() -> Engine:
    return registry.engine("cpu:numpy")


def _first_maxima(x: Any, geometry: PoolGeometry) -> Any:
    return _cpu().max_pool(x, geometry, True)[1]


def check_operations(name: str, dtype: str, wanted: str) -> None:
    """Call every method of an engine, and say how its results compare."""
    engine, device = registry.engine(name), name.partition(":")[0]
    for method, arguments, exact in calls(dtype):
        if wanted in method:
            _tell(f"{name} {method} {dtype}", _call, engine, device, method, arguments, exact)
    for method in UPDATES:
        if wanted in method:
            _tell(f"{name} {method} {dtype}", _update, engine, device, method, dtype)


def _call(
    engine: Engine, device: str, method: str, arguments: tuple[Any, ...], exact: bool
) -> None:
    expected = getattr(_cpu(), method)(*arguments)
    moved = [to_device(a, device) if is_array(a) else a for a in arguments]
    got = getattr(engine, method)(*moved)
    for a, b in zip(_several(got), _several(expected), strict=True):
        assert (a is None) == (b is None), "a result where there should be none, or none"
        if b is None:
            continue
        assert a.dtype == b.dtype, f"a result of dtype {a.dtype} instead of {b.dtype}"
        if exact:
            assert_exact(to_numpy(a), b)
        else:
            assert_close(to_numpy(a), b, 4096)


def _update(engine: Engine, device: str, method: str, dtype: str) -> None:
    slots, numbers = UPDATES[method]
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((7, 9)).astype(dtype) for _ in range(2)]
    arrays += [rng.uniform(0.5, 1, (7, 9)).astype(dtype) for _ in range(slots)]
    moved = [to_device(array, device) for array in arrays]
    getattr(engine, method)(*moved, *numbers)
    getattr(_cpu(), method)(*arrays, *numbers)
    for a, b in zip(moved, arrays, strict=True):
        assert_close(to_numpy(a), b, 64)


# --- layers ---------------------------------------------------------------------------------


def check_layers(name: str, dtype: str, layout: str, wanted: str) -> None:
    """Run every layer forward and backward on an engine, and say how it compares."""
    from gpuconv.testing.cases.layers import LAYER_CASES

    for case in LAYER_CASES:
        if wanted not in str(case) or (layout == "channels_first" and not case.has_data_format):
            continue
        _tell(f"{name} {case} {dtype} {layout}", _layer, name, case, dtype, layout)


def _layer(name: str, case: Any, dtype: str, layout: str) -> None:
    from gpuconv.testing.cases.layers import randomize

    words: dict[str, Any] = {"dtype": dtype}
    if layout == "channels_first":
        words["data_format"] = layout
    x = [array.astype(dtype) for array in _several(case.input())]
    if layout == "channels_first":
        x = [np.ascontiguousarray(np.moveaxis(array, -1, 1)) for array in x]
    on_cpu, there = case.make(**words), case.make(**words)
    on_cpu.to("cpu:numpy")
    there.to(name)
    device = name.partition(":")[0]
    moved = [to_device(array, device) for array in x]
    for layer, inputs in ((on_cpu, x), (there, moved)):
        layer(inputs if case.several else inputs[0])
        randomize(layer)
        for stream in layer.random_streams().values():
            stream.state = (7, 0)
    y, backward = on_cpu.forward(x if case.several else x[0], training=True)
    y_there, backward_there = there.forward(moved if case.several else moved[0], training=True)
    assert_close(to_numpy(y_there), y, _LENGTH)
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(y.dtype)
    dx, dx_there = backward(dy), backward_there(to_device(dy, device))
    for a, b in zip(_several(dx_there), _several(dx), strict=True):
        assert_close(to_numpy(a), b, _LENGTH)
    for p, q in zip(there.parameters, on_cpu.parameters, strict=True):
        assert (p.grad is None) == (q.grad is None), f"a gradient of {p} on one of two alone"
        if q.grad is not None:
            assert_close(to_numpy(p.grad), q.grad, _LENGTH)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _tell(name: str, check: Callable[..., None], *arguments: Any) -> None:
    say(begin=name)
    try:
        check(*arguments)
    except Exception as error:
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
        place = traceback.extract_tb(error.__traceback__)[-1]
        say(bad=name, why=f"{lines[0]} ({place.filename.rpartition('/')[2]}:{place.lineno})")
    else:
        say(good=name)


# --- the process that starts the others -----------------------------------------------------


def run_shares(what: str, engines: Sequence[str], seconds: float, wanted: str) -> dict[str, Any]:
    """Check engines, dtypes and layouts in processes of their own; return the facts."""
    layouts = LAYOUTS if what == "layers" else LAYOUTS[:1]
    good: dict[str, int] = dict.fromkeys(engines, 0)
    bad: dict[str, str] = {}
    text: list[str] = []
    shares = []
    for engine, dtype, layout in itertools.product(engines, DTYPES, layouts):
        running: list[str] = []

        def hear(message: Message, engine: str = engine, running: list[str] = running) -> None:
            if "begin" in message:
                running[:] = [message["begin"]]
            elif "good" in message:
                good[engine] += 1
                running.clear()
            elif "bad" in message:
                bad[message["bad"]] = message["why"]
                running.clear()
            elif str(message.get("text", "")).strip():
                text.append(str(message["text"]))

        def again(status: int, running: list[str] = running) -> bool:
            if status and running:
                bad[running[0]] = f"the process ended with status {status}"
            return False

        words = [what, "--share", f"{engine},{dtype},{layout}", "--case", wanted]
        command = [sys.executable, "-m", "gpuconv.benchmarks.gpu_engines", *words]
        shares.append(Share(lambda count, command=command: command, hear, again))  # type: ignore[misc]
    gpu_shares.run_all(shares, seconds)
    facts: dict[str, Any] = {"right": good, "wrong ones": bad}
    if bad:
        facts["wrong"] = f"{len(bad)} differ from the CPU"
    elif any(share.ended not in ("done", "time") for share in shares):
        facts["wrong"] = "a process failed: " + " | ".join(text[-3:])
    elif not any(good.values()):
        facts["wrong"] = "nothing was compared" if engines else "no engine can run"
    elif any(share.ended == "time" for share in shares):
        facts["unfinished"] = "the time was up"
    return facts


def available(engines: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return which engines can run here, and why the others cannot."""
    reasons = {name: why_not(name) for name in engines}
    found = [name for name, reason in reasons.items() if not reason]
    return found, {name: reason for name, reason in reasons.items() if reason}


def why_not(name: str) -> str:
    """Why an engine cannot run here, or nothing."""
    probe = registry.probe(name) if ":" in name else registry.probe_device(name)
    return "" if probe.available else str(probe.reason)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check operations or layers; returns 1 if a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("operations", "layers"))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--case", default="", help="only names with this part")
    parser.add_argument("--simulated", action="store_true", help="in Numba's simulator")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    gpu_environment.mend()
    if options.share:
        gpu_shares.end_with_parent()
        engine, dtype, layout = options.share.split(",")
        if options.what == "operations":
            check_operations(engine, dtype, options.case)
        else:
            check_layers(engine, dtype, layout, options.case)
        return 0
    engines, reasons = available(("cuda-sim:numba",) if options.simulated else ENGINES)
    facts = run_shares(options.what, engines, options.seconds, options.case)
    if reasons:
        facts["not run"] = reasons
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
