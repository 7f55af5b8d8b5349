"""What holds for every test."""

from __future__ import annotations

import pytest

from gpuconv.backends import selection


@pytest.fixture(autouse=True)
def _look_for_devices_anew():
    """A test that plays with drivers and packages leaves nothing behind."""
    yield
    selection.forget_devices()
