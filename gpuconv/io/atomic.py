"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of ``path`` when the block ends.

    The temporary file lies in the same folder and has the same suffix. When the block ends
    it is flushed to the disk and renamed, so a reader sees the old file or the new one,
    never a part. When the block raises, Ctrl-C included, the old file stays as it was and the
    temporary one is removed. A symbolic link is followed; permissions of an old file are kept.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: ``path`` is a folder.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"expected the path of a file, not of a folder. Received: {path}")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(target.parent)!r} does not exist. Received: {path}"
        )
    token = secrets.token_hex(6)
    temporary = target.with_name(f".{target.stem}.{token}.tmp{target.suffix}")
    temporary.touch(mode=0o666, exist_ok=False)
    # Some writers make their files private; the result should have the usual permissions.
    mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(mode)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if os.name == "posix":
        _flush(target.parent)  # makes the new name survive a power failure


def _flush(path: Path) -> None:
    # Windows flushes only through a descriptor that may write; folders open read-only.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
