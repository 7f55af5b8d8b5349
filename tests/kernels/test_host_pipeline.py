"""Kernels are compiled with remembered types and fewer passes: what must not change by that."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from numba.core.compiler import DefaultPassBuilder, Flags

from gpuconv_kernels.host import pipeline, target
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, number_at, put_at
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call, part


def test_answers_are_those_for_the_same_types():
    number, put, word = number_at("float64"), put_at("float64"), number_at("int64")

    def kernel(counter, tasks, integers, floats, factor, results):  # type: ignore[no-untyped-def]
        if take(counter) >= tasks:
            return
        whole, real = word(integers, 0), number(floats, 0)
        put(results, 0, (whole + whole) // 2 * 1.0)
        put(results, 1, real + real)
        put(results, 2, whole + real)
        put(results, 3, whole / 2)
        put(results, 4, (whole > real) + (whole > 1) + factor)
        put(results, 5, min(real, 2.5) + max(whole, 9))

    integers, floats, results = np.array([7]), np.array([0.5]), np.zeros(6)
    arrays = address(integers), address(floats), address(results)
    run(Kernel(kernel, "types"), 1, *arrays[:2], 0.25, arrays[2])
    assert results.tolist() == [7, 1, 7.5, 3.5, 2.25, 9.5]


def test_a_part_is_called_by_its_address():
    put = put_at("int64")

    def write(to, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11):  # type: ignore[no-untyped-def]
        put(to, n1, n1 + n2 + n3 + n4 + n5 + n6 + n7 + n8 + n9 + n10 + n11)

    def kernel(counter, tasks, code, to):  # type: ignore[no-untyped-def]
        task = take(counter)
        while task < tasks:
            call(code, to, task, 10, 20, 0, 0, 0, 0, 0, 0, 0, 700)
            task = take(counter)

    results = np.zeros(5, np.int64)
    run(Kernel(kernel, "part"), 5, part(write, "sum"), address(results))
    assert results.tolist() == [730, 731, 732, 733, 734]


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_as_before(collecting):
    def kernel(counter, tasks, nothing):  # type: ignore[no-untyped-def]
        take(counter)

    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        run(Kernel(kernel, "garbage"), 1, 0)
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
    assert after is collecting


def test_what_is_left_out_and_replaced():
    names = [
        kind._name for kind, _ in pipeline.KernelCompiler.define_pipelines(_compiler())[0].passes
    ]
    usual = DefaultPassBuilder.define_nopython_pipeline(_compiler().state).passes
    usual = [kind._name for kind, _ in usual]
    changed = {"nopython_type_inference", "native_lowering"}
    assert changed <= set(usual)
    assert [n for n in usual if n not in changed and n not in pipeline._NEEDLESS] == [
        n for n in names if not n.startswith("gpuconv")
    ]
    assert [n for n in names if n.startswith("gpuconv")] == [
        "gpuconv_type_inference",
        "gpuconv_lowering",
    ]
    # Branches on what a factory chose are cut before their types are inferred.
    assert "dead_branch_prune" in names


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_innermost_loops_are_made_wide(dtype, monkeypatch):
    monkeypatch.setattr(target, "_folder", None)  # what is loaded from disk cannot be read
    number, put, widen = number_at(dtype), put_at(dtype), target.wide_loops(dtype)

    def kernel(counter, tasks, source, to, rows, count):  # type: ignore[no-untyped-def]
        widen()
        if take(counter) < tasks:
            for row in range(rows):
                for i in range(count):
                    x = number(source, i)
                    put(to, row * count + i, x * x * x)

    source, to = np.arange(150).astype(dtype), np.zeros((3, 150), dtype)
    run(Kernel(kernel, "wide", dtype), 1, address(source), address(to), 3, 150)
    np.testing.assert_array_equal(to, np.tile(source**3, (3, 1)))
    results = [r for entry in target._entries for r in entry.overloads.values()]
    wide = [r for r in results if "test_innermost_loops" in r.fndesc.qualname]
    text = wide[-1].library.get_llvm_str()
    vectors = f"fmul <{target.host().lanes(dtype)} x {target.REAL[dtype]}>"
    assert text.count(vectors) == 2 * (4 if target.host().registers >= 32 else 2)


def _compiler():
    dispatcher = target._njit(**target._NATIVE)(lambda: None)
    description = dispatcher.targetdescr
    flags = Flags()
    flags.enable_ssa = True
    return pipeline.KernelCompiler(
        description.typing_context, description.target_context, None, (), None, flags, {}
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_numbers_by_address(dtype):
    number, put = number_at(dtype), put_at(dtype)

    def kernel(counter, tasks, source, to, count):  # type: ignore[no-untyped-def]
        if take(counter) < tasks:
            for i in range(count):
                put(to, count - 1 - i, number(source, i))

    source = np.arange(11).astype(dtype)
    to = np.zeros(13, dtype)
    run(Kernel(kernel, "numbers", dtype), 1, address(source), address(to[1:]), 11)
    np.testing.assert_array_equal(to, [0, *source[::-1], 0])
