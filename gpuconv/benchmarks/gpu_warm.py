"""Compile every kernel before it is needed, in as many processes as there are cores.

python -m gpuconv.benchmarks.gpu_warm --seconds 90

Numba and CuPy keep machine code on the disk, so that no later part spends its time on compiling.
The cases of gpu_kernel_cases say which kernels there are, with which types; nothing is launched.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from gpuconv.benchmarks import gpu_environment, gpu_kernels, gpu_shares
from gpuconv.benchmarks.gpu_shares import Message, Share, say


def kernels_by_weight() -> list[tuple[str, Any, tuple[Any, ...]]]:
    """Return each kernel once: name, kernel, arguments; those that compile longest first."""
    from gpuconv.benchmarks import gpu_kernel_cases

    found: dict[str, tuple[str, Any, tuple[Any, ...]]] = {}

    def tell(name: str, kernel: Any, arguments: tuple[Any, ...], start: Any) -> None:
        key = name if gpu_kernels.has_entry(name) else f"{name} {id(kernel)}"
        found.setdefault(key, (name, kernel, arguments))

    with gpu_kernels.watching(tell):
        for _, run in gpu_kernel_cases.cases():
            run(gpu_kernels.host_memory(guarded=False))
    return sorted(found.values(), key=lambda each: -gpu_kernels.weight_of(each[1]))


def types_of(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Numba's types of what a launch passes: those that it looks for when it is launched."""
    import numba
    import numpy as np
    from numba import types

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return types.UniTuple(one(value[0]), len(value))
        if type(value) is int:
            return types.int32
        if isinstance(value, np.generic):
            return numba.from_dtype(value.dtype)
        return types.Array(numba.from_dtype(np.dtype(value.dtype)), 1, "C")

    return tuple(map(one, arguments))


def compile_share(number: int, of: int) -> int:
    """Compile every n-th kernel of Numba's, and in the first share CuPy's too."""
    if number == 0:
        for name in _compile_for_cupy():
            say(compiled=name)
    broken = gpu_kernels.problem()
    if broken:
        say(failed="kernels of cuda:numba", why=broken)
        return 0
    for name, kernel, arguments in kernels_by_weight()[number::of]:
        started = time.perf_counter()
        try:
            kernel.compile(types_of(arguments))
        except Exception as error:
            say(failed=name, why=f"{type(error).__name__}: {error}"[:600])
        else:
            say(compiled=name, seconds=round(time.perf_counter() - started, 3))
    return 0


def _compile_for_cupy() -> list[str]:
    """Compile the sources of gpuconv_kernels.raw for both dtypes; return what was compiled."""
    from gpuconv.backends.cupy_runtime import OPTIONS
    from gpuconv_kernels.raw import source

    try:
        import cupy
    except ImportError:
        return []
    done = []
    for file in source.FILES:
        for dtype, real in source.REALS.items():
            try:
                options = (*OPTIONS, f"-DREAL={real}")
                cupy.RawModule(code=source.text(file), options=options).compile()
            except Exception as error:
                say(failed=f"{file} {dtype}", why=f"{type(error).__name__}: {error}"[:600])
            else:
                done.append(f"{file} {dtype}")
    return done


def warm(seconds: float, at_once: int) -> dict[str, Any]:
    """Compile in some processes; return the facts, with ``wrong`` if something did not compile."""
    compiled: dict[str, float] = {}
    failed: dict[str, str] = {}
    text: list[str] = []

    def hear(message: Message) -> None:
        if "compiled" in message:
            compiled[message["compiled"]] = float(message.get("seconds", 0.0))
        elif "failed" in message:
            failed[message["failed"]] = message["why"]
        elif "text" in message and message["text"].strip():
            text.append(message["text"])

    def command(number: int) -> list[str]:
        words = ["--share", f"{number}/{at_once}"]
        return [sys.executable, "-m", "gpuconv.benchmarks.gpu_warm", *words]

    shares = [
        Share(lambda count, number=number: command(number), hear, lambda status: False)  # type: ignore[misc]
        for number in range(at_once)
    ]
    gpu_shares.run_all(shares, seconds)
    slowest = sorted(compiled, key=lambda name: -compiled[name])[:5]
    facts: dict[str, Any] = {
        "compiled": len(compiled),
        "processes": at_once,
        "slowest, in seconds": {name: compiled[name] for name in slowest},
        "ended": [share.ended for share in shares],
        "text": text[-10:],
    }
    if failed:
        facts["wrong"] = f"{len(failed)} kernels did not compile"
        facts["failed"] = dict(list(failed.items())[:20])
    elif not compiled:
        facts["wrong"] = "nothing was compiled"
    elif any(share.ended != "done" for share in shares):
        facts["unfinished"] = "the time was up; the rest is compiled when it is needed"
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all, or one share; returns 1 if something did not compile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--processes", type=int, default=None, help="default: by cores and memory")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    gpu_environment.mend()
    if options.share:
        gpu_shares.end_with_parent()
        number, of = map(int, options.share.split("/"))
        return compile_share(number, of)
    alone = 1 if not gpu_environment.can_share_caches() else None
    facts = warm(options.seconds, options.processes or alone or gpu_shares.processes(1.0))
    print(json.dumps(facts))
    return int("wrong" in facts)


if __name__ == "__main__":
    sys.exit(main())
