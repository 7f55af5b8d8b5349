"""The doctor reports everything, on a terminal and in a pipe, and never fails."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from gpuconv.backends import cpu_probe, cuda_probe, registry, selection
from gpuconv.backends.base import Probe
from gpuconv.diagnosis import Report, collect, doctor
from gpuconv.settings import config


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _cpu_only(monkeypatch):
    missing = Probe(False, "no NVIDIA driver", "Install the driver.")
    monkeypatch.delenv("GPUCONV_BACKEND", raising=False)
    monkeypatch.setattr(selection, "_process", None)
    monkeypatch.setattr(cuda_probe, "probe_driver", lambda: missing)
    selection.forget_devices()
    yield
    selection.forget_devices()


def test_every_probe_is_there():
    report = collect()
    expected = ("python", "gpuconv", "numpy", "blas", "numba", "cpu", "memory", "cuda driver")
    assert tuple(report)[: len(expected)] == expected
    engines = [name for name in registry.backend_names() if ":" in name]
    assert {*engines, "cupy", "numba-cuda", "cuda devices", "backend", "workspace"} <= set(report)
    for name, probe in report.items():
        assert isinstance(probe, Probe), name
        assert probe.reason, name
    assert report["cpu:numpy"].available


def test_plain_lines_in_a_pipe():
    stream = io.StringIO()
    report = doctor(stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(report)
    for line, (name, probe) in zip(lines, report.items(), strict=True):
        state = "ok" if probe.available else "not available"
        explanation = f"{probe.reason}. {probe.hint}" if probe.hint else probe.reason
        assert line.split() == f"{name} {state} {explanation}".split()
    assert "\x1b" not in stream.getvalue()
    assert "no NVIDIA driver. Install the driver." in stream.getvalue()


def test_a_table_on_a_terminal(monkeypatch):
    long = "a reason with [bold]brackets[/bold] and /a/very/long/path" + "/folder" * 30
    monkeypatch.setattr(cpu_probe, "probe_blas", lambda: Probe(True, long))
    stream = Terminal()
    report = doctor(stream)
    text = "".join(stream.getvalue().split())
    assert "[bold]brackets[/bold]" in text
    assert text.count("/folder") == 30
    for name in report:
        assert name.replace(" ", "") in text


def test_standard_output_is_the_default(capsys):
    report = doctor()
    assert len(capsys.readouterr().out.splitlines()) == len(report)


def test_the_report_is_quiet_in_an_interpreter():
    report = Report(a=Probe(True, "found"), b=Probe(False, "lost"))
    assert repr(report) == "<gpuconv report: 1 of 2 available>"


def test_the_backend_in_force_with_its_reason(monkeypatch):
    assert collect()["backend"].reason == (
        "cpu (automatic: CUDA is not available (no NVIDIA driver))"
    )
    monkeypatch.setenv("GPUCONV_BACKEND", "cpu:numpy")
    selection.environment.cache_clear()
    assert collect()["backend"].reason == "cpu ('cpu:numpy' was asked for by GPUCONV_BACKEND)"
    with selection.use_backend("cpu"):
        assert collect()["backend"].reason == "cpu ('cpu' was asked for by use_backend)"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gpu", "GPUCONV_BACKEND: unknown backend"), ("cuda", "no NVIDIA driver. Install the driver")],
)
def test_a_wrong_variable_is_reported(monkeypatch, name, reason):
    monkeypatch.setenv("GPUCONV_BACKEND", name)
    stream = io.StringIO()
    report = doctor(stream)
    assert not report["backend"].available
    assert reason in report["backend"].reason
    assert reason in stream.getvalue()


def test_what_breaks_is_reported(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("half installed")

    monkeypatch.setattr(cpu_probe, "probe_blas", broken)
    monkeypatch.setattr(registry, "probe", broken)
    report = doctor(io.StringIO())
    assert report["blas"] == Probe(False, "RuntimeError: half installed")
    assert report["cpu:numpy"] == Probe(False, "RuntimeError: half installed")


def test_the_workspace_limit_is_the_one_in_force():
    config.workspace_limit = 3 * 2**20
    try:
        assert "3.0 MiB" in collect()["workspace"].reason
    finally:
        config.workspace_limit = None


def test_nothing_heavy_is_imported():
    """But for Numba: whether it compiles is seen by loading it."""
    code = (
        "import io, sys; from gpuconv.diagnosis import doctor; doctor(io.StringIO()); "
        "print(sorted({'rich', 'cupy', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.strip() == "[]"
