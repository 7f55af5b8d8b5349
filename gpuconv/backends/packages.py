"""Which packages are installed, found without importing them."""

from __future__ import annotations


def installed_version(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    import importlib.metadata  # costs as much as all of gpuconv, and is rarely needed

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
