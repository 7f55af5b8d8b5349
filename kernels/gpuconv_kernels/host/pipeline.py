"""How Numba is told to compile kernels: without what they have no need of, and nothing twice.

Most of the time before a first step is spent here, half of it in Numba and half in LLVM.

- Numba infers types by asking for each operation what it returns, again and again until nothing
  changes. Kernels compute with integers in hundreds of places: the answers are remembered.
- Kernels contain no closures, array expressions or generators: the passes that look for these are
  left out.
- What kernels call by name disappears in them: LLVM sees it there, and not before by itself.
- Kernels of long formulas say how their loops are to become vectors.
- LLVM is usually run over each function and then over all of them together. For what calls a
  micro-kernel in its inner loops, the second alone is enough; those loops themselves take 3 %
  longer without the first.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from llvmlite import binding, ir
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NopythonTypeInference

_NEEDLESS = (
    "with_lifting",
    "inline_closure_likes",
    "inline_inlinables",
    "inline_overloads",
    "nopython_rewrites",
    "find_literally",
    "literal_unroll",
)
"""Passes, by Numba's names of them; those that a version does not have are not missed."""

_OPERATORS: dict[Any, Any] = {}
"""What operators return for numbers, whatever function they stand in."""


class _TypingContext:
    """A typing context that remembers what functions return for numbers."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._answers: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, arguments: Any, keywords: Any) -> Any:
        """Return the signature of a call."""
        if keywords or not isinstance(function, types.Function):
            return self._context.resolve_function_type(function, arguments, keywords)
        if not all(isinstance(kind, types.Number | types.Boolean) for kind in arguments):
            return self._context.resolve_function_type(function, arguments, keywords)
        is_operator = getattr(function.typing_key, "__module__", None) == "_operator"
        answers = _OPERATORS if is_operator else self._answers
        key = function, tuple(arguments)
        if key not in answers:
            answers[key] = self._context.resolve_function_type(function, arguments, keywords)
        return answers[key]


@register_pass(mutates_CFG=True, analysis_only=False)
class _TypeInference(NopythonTypeInference):  # type: ignore[misc]
    _name = "gpuconv_type_inference"

    def run_pass(self, state: Any) -> bool:
        context = state.typingctx
        state.typingctx = _TypingContext(context)
        try:
            return bool(super().run_pass(state))
        finally:
            state.typingctx = context


_LOOPS = "gpuconv-loops"
_PLACE = re.compile(r"B(\d+)")


def shape_loops(function: ir.Function, lanes: int, vectors: int) -> None:
    """Ask that a function's innermost loops run over so many vectors of so many numbers at a time.

    By itself LLVM takes half of what CPUs with vectors of 64 bytes have, and one vector at a time.
    The steps of a long formula wait for each other; those of other vectors fill these pauses.
    """
    # llvmlite's own ``add`` knows only plain words.
    set.add(function.attributes, f'"{_LOOPS}"="{lanes},{vectors}"')


def _mark_loops(function: ir.Function, lanes: int, vectors: int) -> None:
    # Numba calls blocks by where they stand in the source: a jump back to where one begins closes
    # a loop.
    loops = []
    for block in function.blocks:
        here = _PLACE.match(block.name)
        for target in block.terminator.operands if here else ():
            there = _PLACE.fullmatch(getattr(target, "name", ""))
            if here and there and int(there[1]) <= int(here[1]):
                loops.append((int(there[1]), int(here[1]), block.terminator))
    for start, end, jump in loops:
        if any(start <= a and b <= end for a, b, other in loops if other is not jump):
            continue  # there is one in it
        module = function.module
        wishes = [
            module.add_metadata([f"llvm.loop.{what}", ir.Constant(ir.IntType(32), number)])
            for what, number in (("vectorize.width", lanes), ("interleave.count", vectors))
        ]
        loop = ir.values.MDValue(module, wishes, str(len(module.metadata)))
        loop.operands = (loop, *wishes)  # it contains itself, and so is equal to no other loop's
        jump.set_metadata("llvm.loop", loop)


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """A kernel's code, which LLVM optimises once, when all that it calls has been linked to it."""

    def add_ir_module(self, ir_module: Any) -> None:
        """Add code, with what :func:`shape_loops` asks for."""
        for function in ir_module.functions:
            for attribute in function.attributes:
                name, _, value = attribute.replace('"', "").partition("=")
                if name == _LOOPS:
                    lanes, vectors = map(int, value.split(","))
                    _mark_loops(function, lanes, vectors)
        super().add_ir_module(ir_module)

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout


class _Inlined(_Library):
    """The code of what disappears in kernels: optimised there, and made machine code there."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        # Numba asks for no code, only for the variables that it fills.
        variables = self._final_module.global_variables
        filled = [v.name for v in variables if v.linkage == binding.Linkage.common]
        module = "\n".join(f'@"{name}" = common global i64 0' for name in filled)
        self._codegen._add_module(binding.parse_assembly(module))
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):  # type: ignore[misc]
    _name = "gpuconv_lowering"

    def run_pass(self, state: Any) -> bool:
        if state.library is None:
            library = _Inlined if state.flags.forceinline else _Library
            state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
            state.library.enable_object_caching()
        return bool(super().run_pass(state))


class EntryCompiler(CompilerBase):  # type: ignore[misc]
    """For ``pipeline_class`` of :func:`numba.njit`."""

    _changed: ClassVar[dict[type, type]] = {NopythonTypeInference: _TypeInference}

    def define_pipelines(self) -> list[Any]:
        """Numba's own pipeline, changed."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (self._changed.get(kind, kind), what)
            for kind, what in manager.passes
            if kind._name not in _NEEDLESS
        ]
        manager.finalize()
        return [manager]


class KernelCompiler(EntryCompiler):
    """The same for what is optimised once, as a whole."""

    _changed: ClassVar[dict[type, type]] = {**EntryCompiler._changed, NativeLowering: _Lowering}
