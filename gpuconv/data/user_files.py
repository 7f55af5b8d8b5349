"""Reading the files of a data set from a folder or an archive, into memory and never to the disk.

The files may be damaged or made to do harm. Nothing is allocated because a header says so: what
is read grows with what is really there, up to a limit that the reader of the format sets. Archive
members are found by the last part of their names and read in memory; links are not followed.
"""

from __future__ import annotations

import gzip
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

from gpuconv.errors import FileFormatError, InvalidArgumentError

HEAD: Final = 16
"""Bytes that the limit of a file is decided from."""
_CHUNK: Final = 1024 * 1024
_MOST_IN_ARCHIVE: Final = 512 * 1024**2
"""Bytes of an unpacked tar archive; the largest of the official ones has 184 million."""
_ARCHIVE: Final = ".zip, .tar or .tar.gz archive"
_DEPTH: Final = 3
"""How many folders deep a file is looked for."""

_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError,
    ArithmeticError, LookupError, RuntimeError,
)  # fmt: skip
"""What the standard library raises on damaged archives; RuntimeError: encrypted, or not built."""

Limit = Callable[[bytes, str], int]
"""From a file's first bytes and its name for messages to the most bytes that it may have."""


def read_files(
    path: str | os.PathLike[str], wanted: Mapping[str, Limit], archive: str | None = None
) -> dict[str, tuple[bytearray, str]]:
    """Return the content of files, unpacked, and their names for messages.

    Args:
        path: a folder (the files may lie some folders deeper), or a ``.zip``, ``.tar`` or
            ``.tar.gz`` archive. Each file may be plain or ``.gz``.
        wanted: for each file name, without ``.gz``, how long the file may be. One byte more is
            read of a file that is longer, so that its length shows it.
        archive: name of an archive that may lie in the folder instead of the files.

    Raises:
        InvalidArgumentError: there is nothing at ``path``, or several sets of files are in it.
        FileFormatError: a file is missing or damaged; the message names it.
    """
    place = Path(path)
    if place.is_dir():
        return _from_folder(place, wanted, archive)
    if not place.is_file():
        raise InvalidArgumentError(
            f"path must be a folder or an archive that exists. Received: {str(path)!r}"
        )
    with _named(str(place), _ARCHIVE):
        zipped = zipfile.is_zipfile(place)
    found = _from_zip(place, wanted) if zipped else _from_tar(place, wanted)
    _check_complete(wanted, found, f"the archive {place}")
    return found


def _from_folder(
    folder: Path, wanted: Mapping[str, Limit], archive: str | None
) -> dict[str, tuple[bytearray, str]]:
    places = _places(folder, wanted)
    if archive is not None and not places:
        for parent in chain.from_iterable(_levels(folder)):
            if (parent / archive).is_file():
                return read_files(parent / archive, wanted)
    found = {}
    for name, place in places.items():
        with _named(str(place)), open(place, "rb") as file:
            packed = place.suffix == ".gz"
            found[name] = _unpacked(file, packed, wanted[name], str(place)), str(place)
    _check_complete(wanted, found, f"the folder {folder}")
    return found


def _places(folder: Path, wanted: Mapping[str, Limit]) -> dict[str, Path]:
    """Where the files lie: in the nearest folder that has them all, else wherever they are."""
    complete: list[Path] = []
    places: dict[str, Path] = {}
    for level in _levels(folder):
        for parent in level:
            files = [file for file in sorted(parent.iterdir()) if file.is_file()]
            # The plain file comes before the packed one, and is taken.
            here = {_plain(file.name): file for file in reversed(files)}
            places = {name: here[name] for name in wanted if name in here} | places
            if all(name in here for name in wanted):
                complete.append(parent)
                places = {name: here[name] for name in wanted}
        if len(complete) > 1:  # such as MNIST and Fashion-MNIST, whose files have the same names
            raise InvalidArgumentError(
                f"path must lead to one data set; give one of {', '.join(map(str, complete))}. "
                f"Received: {str(folder)!r}"
            )
        if complete:
            break
    return places


def _levels(folder: Path) -> Iterator[list[Path]]:
    """The folder, the folders in it, those in them, and so on."""
    level = [folder]
    for _ in range(_DEPTH + 1):
        yield level
        level = [
            child
            for parent in level
            for child in sorted(parent.iterdir())
            if child.is_dir() and not child.is_symlink()
        ]


def _from_zip(place: Path, wanted: Mapping[str, Limit]) -> dict[str, tuple[bytearray, str]]:
    found: dict[str, tuple[bytearray, str]] = {}
    with _named(str(place), _ARCHIVE), zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            name = _plain(_last(member.filename))
            if name in wanted and name not in found and not member.is_dir():
                title = f"{place}: {member.filename}"
                with _named(title), archive.open(member) as file:
                    packed = member.filename.endswith(".gz")
                    found[name] = _unpacked(file, packed, wanted[name], title), title
    return found


def _from_tar(place: Path, wanted: Mapping[str, Limit]) -> dict[str, tuple[bytearray, str]]:
    found: dict[str, tuple[bytearray, str]] = {}
    with _named(str(place), _ARCHIVE), open(place, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        bounded: Any = _Bounded(stream, place)
        # As a stream: no going back, so that an archive is unpacked once and bounded as a whole.
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                name = _plain(_last(member.name))
                if name not in wanted or name in found or member.isdir():
                    continue
                title = f"{place}: {member.name}"
                plain = member.isreg() and not member.issparse()
                file = archive.extractfile(member) if plain else None
                if file is None:
                    raise FileFormatError(
                        f"{title} should be a plain file. Received: a link or a special file"
                    )
                with _named(title):
                    inner = member.name.endswith(".gz")
                    found[name] = _unpacked(file, inner, wanted[name], title), title
        while bounded.read(_CHUNK):  # to the checksum at its end
            continue
    return found


class _Bounded:
    """A stream that ends in an error when an archive unpacks to more than any data set has."""

    def __init__(self, stream: Any, place: Path) -> None:
        self.stream = stream
        self.place = place
        self.left = _MOST_IN_ARCHIVE

    def read(self, size: int) -> bytes:
        """Read on."""
        chunk: bytes = self.stream.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            raise FileFormatError(
                f"{self.place} should unpack to the files of a data set. "
                f"Received: more than {_MOST_IN_ARCHIVE} bytes"
            )
        return chunk


def _unpacked(file: Any, packed: bool, limit: Limit, title: str) -> bytearray:
    """Read a file, one byte above its limit at most; it has its limit from its first bytes."""
    stream = gzip.GzipFile(fileobj=file) if packed else file
    content = bytearray(_exactly(stream, HEAD))
    most = limit(bytes(content), title)
    while len(content) <= most:
        chunk = stream.read(min(_CHUNK, most + 1 - len(content)))
        if not chunk:
            break
        content += chunk
    return content


def _exactly(stream: Any, size: int) -> bytes:
    """Read ``size`` bytes, fewer only at the end."""
    content = b""
    while len(content) < size and (chunk := stream.read(size - len(content))):
        content += chunk
    return content


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _plain(name: str) -> str:
    """The official name of a file: unpacked, and with the dash that unpackers make a dot."""
    return name.removesuffix(".gz").replace(".idx", "-idx")


def _check_complete(wanted: Mapping[str, Limit], found: Mapping[str, Any], where: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise FileFormatError(
            f"{where} should hold {', '.join(wanted)}, plain or .gz. "
            f"Received: one without {', '.join(missing)}"
        )


@contextmanager
def _named(title: str, kind: str = "file") -> Iterator[None]:
    """Tell which file is damaged."""
    try:
        yield
    except (FileFormatError, PermissionError):
        raise
    except _DAMAGE as error:
        raise FileFormatError(
            f"{title} should be a whole {kind}. Received: {type(error).__name__}: {error}"
        ) from error
