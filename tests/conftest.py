"""What holds for every test."""

from __future__ import annotations

import signal

import pytest

from gpuconv.backends import selection

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background deaf to Ctrl-C, which some tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _look_for_devices_anew():
    """A test that plays with drivers, packages and variables leaves nothing behind."""
    selection.environment.cache_clear()
    yield
    selection.forget_devices()
    selection.environment.cache_clear()
