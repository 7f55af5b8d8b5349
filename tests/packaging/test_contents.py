"""What is shipped, and how it is written: packages, data, docstrings, sizes, syntax, README."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import gpuconv
import gpuconv_kernels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"gpuconv": ROOT / "gpuconv", "gpuconv_kernels": ROOT / "kernels" / "gpuconv_kernels"}
LONGEST = 600

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="needs the source tree"
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python_files(*folders: str) -> list[Path]:
    found = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


SHIPPED = python_files("gpuconv", "kernels")
EVERYTHING = python_files("gpuconv", "kernels", "tests", "benchmarks")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- the distribution -------------------------------------------------------------------------


def test_every_folder_with_modules_is_a_package() -> None:
    """Else setuptools would leave it out of the wheel."""
    for file in SHIPPED:
        assert (file.parent / "__init__.py").exists(), name_of(file)


def test_setuptools_finds_exactly_these_packages() -> None:
    setuptools = pytest.importorskip("setuptools")
    options = project()["tool"]["setuptools"]["packages"]["find"]
    found = [
        package
        for where in options["where"]
        for package in setuptools.find_packages(str(ROOT / where), include=options["include"])
    ]
    expected = {
        ".".join([name, *file.parent.relative_to(folder).parts])
        for name, folder in SOURCES.items()
        for file in folder.rglob("__init__.py")
    }
    assert sorted(found) == sorted(expected)


def test_every_file_that_is_not_a_module_is_package_data() -> None:
    globs = project()["tool"]["setuptools"]["package-data"]
    for name, folder in SOURCES.items():
        data = [
            file
            for file in folder.rglob("*")
            if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
        ]
        for file in data:
            path = file.relative_to(folder).as_posix()
            assert any(fnmatch.fnmatch(path, glob) for glob in globs[name]), path
        for glob in globs[name]:
            assert list(folder.glob(glob)), f"{name}: {glob} matches nothing"
    assert (SOURCES["gpuconv"] / "py.typed").exists()
    assert (SOURCES["gpuconv_kernels"] / "py.typed").exists()


def test_licences_and_attribution_are_shipped() -> None:
    for glob in project()["project"]["license-files"]:
        assert list(ROOT.glob(glob)), glob
    assert "CC-BY-4.0" in project()["project"]["license"]
    assert "CC BY 4.0" in gpuconv.data.digits_notice()


def test_one_version() -> None:
    assert project()["project"]["version"] == gpuconv.__version__
    assert gpuconv.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_command_exists() -> None:
    for target in project()["project"]["scripts"].values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_what_is_imported_is_declared() -> None:
    modules = {"pillow": "PIL"}
    words = [re.split(r"[^\w-]", entry)[0] for entry in project()["project"]["dependencies"]]
    declared = {modules.get(word, word) for word in words}
    needed: set[str] = set()
    for file in SHIPPED:
        needed |= set(imported_packages(file))
    foreign = needed - set(sys.stdlib_module_names) - set(SOURCES)
    # The extras, and PyTorch, only where they are there; llvmlite comes with Numba.
    extras = {"cupy", "cupy_backends", "matplotlib", "h5py", "sklearn"}
    where_installed = {*extras, "torch", "llvmlite"}
    assert foreign - where_installed <= declared


# --- how it is written ------------------------------------------------------------------------


def test_no_file_is_too_long() -> None:
    lines = {name_of(file): file.read_text(encoding="utf-8").count("\n") for file in EVERYTHING}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_nothing_is_left_open_and_no_machine_is_named() -> None:
    marks = r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|/(home|root|Users|work)/|raise Not" r"Implemented"
    texts = {name_of(file): file.read_text(encoding="utf-8") for file in EVERYTHING}
    found = {name: re.findall(marks, text) for name, text in texts.items()}
    assert {name: hits for name, hits in found.items() if hits} == {}


NEWER = {
    "typing": {"Self", "Never", "LiteralString", "Unpack", "TypeVarTuple", "assert_never",
               "assert_type", "override", "reveal_type", "NotRequired", "Required"},
    "enum": {"StrEnum", "verify"},
    "datetime": {"UTC"},
    "contextlib": {"chdir"},
    "itertools": {"batched"},
}  # fmt: skip
"""Names of the standard library that came after Python 3.10."""


def newer_than_3_10(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text, feature_version=(3, 10))):
        if isinstance(node, ast.ImportFrom):
            words = {alias.name for alias in node.names} & NEWER.get(node.module or "", set())
            yield from (f"line {node.lineno}: {word}" for word in words)
        elif isinstance(node, ast.Subscript):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if not any(isinstance(part, ast.Starred) for part in parts):
                continue
            source = ast.get_source_segment(text, node.slice) or ""
            if not source.startswith("("):  # x[a, *b] came with 3.11, x[(a, *b)] was always there
                yield f"line {node.lineno}: {source}"
        elif type(node).__name__ == "TryStar":
            yield f"line {node.lineno}: except*"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="its own parser refuses it")
def test_the_scan_finds_what_is_newer() -> None:
    text = "from typing import Self\nx[a, *b]\nx[(a, *b)]\nx[a, b]\n"
    assert list(newer_than_3_10(text)) == ["line 1: Self", "line 2: a, *b"]


def test_everything_is_python_3_10() -> None:
    found = {name_of(f): list(newer_than_3_10(f.read_text(encoding="utf-8"))) for f in EVERYTHING}
    assert {name: hits for name, hits in found.items() if hits} == {}


def modules() -> list[str]:
    return [
        "gpuconv",
        "gpuconv_kernels",
        *(
            module.name
            for package in (gpuconv, gpuconv_kernels)
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
            if module.name != "gpuconv.__main__"
        ),
    ]


def undocumented(module: Any) -> Iterator[str]:
    if not module.__doc__:
        yield module.__name__
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if (inspect.isfunction(value) or inspect.isclass(value)) and not value.__doc__:
            yield f"{module.__name__}.{name}"
        for method, what in vars(value).items() if inspect.isclass(value) else ():
            is_method = inspect.isfunction(what) or isinstance(what, (classmethod, staticmethod))
            if not is_method or method.startswith("_"):
                continue
            if not inspect.getdoc(getattr(value, method)):  # an override may inherit it
                yield f"{module.__name__}.{name}.{method}"


def test_every_public_callable_has_a_docstring() -> None:
    # One module subclasses what an extra brings.
    here = [name for name in modules() if name != "gpuconv.sklearn" or find_spec("sklearn")]
    found = [word for name in here for word in undocumented(importlib.import_module(name))]
    assert found == []


# --- the README -------------------------------------------------------------------------------


def test_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (
        "python -m pip install . && gpuconv train",
        'python -m pip install ".[test]" && python -m pytest',
    ):
        assert command in text


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks, one after another as a reader would type them, with one epoch instead of five."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.chdir(tmp_path)
    program = re.sub(r"epochs=\d+", "epochs=1", "\n".join(blocks))
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "digits.safetensors").exists()
    assert "Total params" in capsys.readouterr().out


def test_every_path_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`([\w.-]+/[\w./-]*\w)`", text):
        if path.split("/")[0] in ("gpuconv", "kernels", "tests", "benchmarks", ".ci"):
            assert (ROOT / path).exists(), path
