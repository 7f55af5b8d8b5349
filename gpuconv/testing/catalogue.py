"""Finding every device kernel: the catalogues of the kernel modules, and what they leave out."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from gpuconv_kernels.device.target import KernelSpec

PACKAGE = "gpuconv_kernels.device"


@functools.cache
def catalogues(package: str = PACKAGE) -> dict[str, tuple[KernelSpec, ...]]:
    """Return the kernels by module, of every module of a package that has a ``catalogue()``.

    Raises:
        ValueError: two kernels have one name.
    """
    found: dict[str, tuple[KernelSpec, ...]] = {}
    owner: dict[str, str] = {}
    for name in module_names(package):
        make = getattr(importlib.import_module(name), "catalogue", None)
        if make is None:
            continue
        found[name] = tuple(make())
        for spec in found[name]:
            if spec.name in owner:
                raise ValueError(
                    f"each kernel needs a name of its own; {name} and {owner[spec.name]} both have "
                    f"one. Received: {spec.name!r}"
                )
            owner[spec.name] = name
    return found


def module_names(package: str = PACKAGE) -> list[str]:
    """Return the full names of a package's modules, sorted."""
    folder = importlib.import_module(package).__path__
    return sorted(f"{package}.{module.name}" for module in pkgutil.iter_modules(folder))


def kernel(module: str, name: str, package: str = PACKAGE) -> KernelSpec:
    """Return one kernel of a module's catalogue.

    Raises:
        KeyError: there is none of that name.
    """
    for spec in catalogues(package).get(module, ()):
        if spec.name == name:
            return spec
    raise KeyError(f"{module} has no kernel {name!r} in its catalogue")


def source_digests(package: str = PACKAGE) -> dict[str, str]:
    """Return, for each module with a catalogue, a digest of all source that its kernels come from.

    That is the module and what it imports of its own top-level package, directly or not. The same
    digest and the same compiler give the same machine code.
    """
    return {name: _digest(name) for name in catalogues(package)}


def _digest(module: str) -> str:
    waiting, sources = [module], dict[str, str]()
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        origin = _origin(name)
        if origin is None:
            continue
        sources[name] = origin.read_text(encoding="utf-8")
        waiting += _imports(sources[name], module.partition(".")[0])
    text = "\0".join(f"{name}\0{sources[name]}" for name in sorted(sources))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _origin(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a name inside a module that is no package
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _imports(source: str, top: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.partition(".")[0] == top)


def uncatalogued(package: str = PACKAGE) -> list[str]:
    """Return, as ``"module: function"``, what is compiled as a kernel and stands in no catalogue.

    Reads the source: the function that each call ``compiled(function, ...)`` is given, or that the
    maker function returns whose result it is given.
    """
    listed = {
        (spec.function.__code__.co_filename, spec.function.__code__.co_name)
        for specs in catalogues(package).values()
        for spec in specs
    }
    missing = []
    for name in module_names(package):
        path = importlib.import_module(name).__file__
        assert path is not None
        for function in compiled_functions(Path(path).read_text(encoding="utf-8")):
            if (path, function) not in listed:
                missing.append(f"{name}: {function}")
    return missing


def compiled_functions(source: str) -> list[str]:
    """Return the names of the functions that a module passes to ``compiled``, sorted.

    What cannot be traced to a function of the same file is returned as its expression.
    """
    tree = ast.parse(source)
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    names: set[str] = set()
    for scope, call in _calls(tree, "compiled"):
        first = call.args[0] if call.args else call
        names.update(_trace(first, scope, functions))
    return sorted(names)


def _calls(tree: ast.Module, name: str) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Yield the calls of a function and the innermost function around each."""

    def walk(node: ast.AST, scope: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call) and ast.unparse(child.func).split(".")[-1] == name:
                yield scope, child
            yield from walk(child, child if isinstance(child, ast.FunctionDef) else scope)

    return walk(tree, tree)


def _trace(value: ast.expr, scope: ast.AST, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    if isinstance(value, ast.IfExp):
        yield from _trace(value.body, scope, functions)
        yield from _trace(value.orelse, scope, functions)
        return
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        maker = functions.get(value.func.id)
        if maker is not None:
            for expression in _returned(maker):
                yield from _trace(expression, maker, functions)
            return
    if isinstance(value, ast.Name):
        assigned = [
            node.value
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == value.id for t in node.targets)
        ]
        for expression in assigned:
            yield from _trace(expression, scope, functions)
        if assigned:
            return
        if value.id in functions:
            yield value.id
            return
    yield ast.unparse(value)


def _returned(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a function returns, without what the functions inside it return."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return) and child.value is not None:
            yield child.value
        elif not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield from _returned(child)
