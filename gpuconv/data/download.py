"""Fetching files over HTTP into the cache: whole, checked, and resumed where they stopped."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from gpuconv.data.download_progress import Report, reporting
from gpuconv.errors import FileFormatError, GpuconvError, InvalidArgumentError
from gpuconv.settings import cache_folder

_CHUNK: Final = 256 * 1024
_ATTEMPTS: Final = 3
"""How often a connection that broke is taken up again within one call."""
_OF_THE_DISK: Final = (errno.ENOSPC, errno.EROFS)
_DIGITS: Final = {"md5": 32, "sha256": 64}


class DownloadError(GpuconvError, OSError):
    """A file could not be fetched: no network, no such file, or the connection broke."""


class _Part(NamedTuple):
    """An unfinished file, and the notes on where it came from."""

    file: Path
    notes: Path

    def length(self) -> int:
        """Bytes that are there."""
        return self.file.stat().st_size if self.file.is_file() else 0

    def remove(self) -> None:
        """Forget what is there."""
        self.file.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def fetch_file(
    url: str,
    folder: str | os.PathLike[str] | None = None,
    name: str | None = None,
    checksum: str | None = None,
    progress: Callable[[int, int | None], None] | bool | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch one file into a folder, unless it is there already, and return its path.

    The file appears under its name only when it is whole and its checksum is right. What came
    before a broken connection is kept in ``.NAME.part``; the next call asks the server for the
    rest (RFC 9110: ``Range`` with ``If-Range``) and starts anew where the server does not give
    parts or the file has changed. Processes that share the folder wait for each other.

    Args:
        url: an ``http`` or ``https`` address.
        folder: where the file goes; it is created. Default: ``data`` in the cache folder
            (``GPUCONV_CACHE``).
        name: of the file. Default: the last part of the address.
        checksum: ``"sha256:..."`` or ``"md5:..."`` in hexadecimal digits. A file that is there
            is checked too, and fetched again if it is damaged.
        progress: False shows nothing, True a bar; None a bar on a terminal and one line
            elsewhere. A function is called with the bytes received and those expected (or None).
        timeout: seconds without any answer before giving up.

    Raises:
        InvalidArgumentError: an impossible address, name, checksum or timeout.
        DownloadError: no network, an error of the server, or a connection that broke.
        FileFormatError: the checksum is wrong; the file is removed.
    """
    name = _file_name(url, name)
    check = None if checksum is None else _parse_checksum(checksum)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise InvalidArgumentError(
            f"timeout must be a positive number of seconds. Received: {timeout!r}"
        )
    place = cache_folder() / "data" if folder is None else Path(folder)
    target = place / name
    part = _Part(place / f".{name}.part", place / f".{name}.part.json")
    if _is_whole(target, check):
        return target  # without writing anything: the folder may be for reading only
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        if _is_whole(target, check):  # another process was faster
            return target
        with reporting(name, url, progress) as report:
            _fetch(url, part, check, report, float(timeout))
        _flush(part.file)
        os.replace(part.file, target)
        part.notes.unlink(missing_ok=True)
    return target


def _fetch(
    url: str,
    part: _Part,
    check: tuple[str, str] | None,
    report: Report,
    timeout: float,
    anew: bool = False,
) -> None:
    """Bring the unfinished file to its end and check it; ``anew`` tells the second time."""
    if check is not None and _is_whole(part.file, check):
        return  # a process was killed just before the end
    _can_resume(part, url, check)
    resumed = False
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.length()
        try:
            resumed = _receive(url, part, report, timeout)
            break
        except urllib.error.HTTPError as error:
            error.close()
            raise DownloadError(
                f"the server did not give {url}. Received: HTTP {error.code} {error.reason}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, DownloadError) or getattr(error, "errno", 0) in _OF_THE_DISK:
                raise
            kept = part.length()
            if attempt < _ATTEMPTS and kept > before and _can_resume(part, url, check):
                continue
            reason = getattr(error, "reason", error)
            rest = f" {kept} bytes are kept, and the next call goes on there." if kept else ""
            raise DownloadError(
                f"could not fetch {url}; is there a network?{rest} "
                f"Received: {type(error).__name__}: {reason}"
            ) from error
    if check is None or _is_whole(part.file, check):
        return
    length, received = part.length(), _digest(part.file, check[0])
    part.remove()
    if resumed and not anew:  # the first bytes may be of an older file
        _fetch(url, part, check, report, timeout, anew=True)
        return
    raise FileFormatError(
        f"{url} is not the file that was expected, and was removed: the {check[0]} checksum "
        f"should be {check[1]}. Received: {length} bytes with {received}"
    )


def _receive(url: str, part: _Part, report: Report, timeout: float) -> bool:
    """Ask once for what is missing and write it; returns whether the server gave a part."""
    start = part.length()
    headers = {"Accept-Encoding": "identity", "User-Agent": "gpuconv"}
    if start:
        headers["Range"] = f"bytes={start}-"
        validator = _notes(part).get("validator")
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        part.remove()  # it is longer than the file, or as long
        return _receive(url, part, report, timeout)
    with answer:
        begins, total = _span(answer, start)
        if begins not in (start, 0):
            part.remove()
            if start:  # no part that is of use: the whole file then
                return _receive(url, part, report, timeout)
            raise DownloadError(
                f"the server should give {url} from its first byte. "
                f"Received: Content-Range {answer.headers.get('Content-Range')!r}"
            )
        part.notes.write_text(
            json.dumps({"url": url, "validator": _validator(answer.headers)}), encoding="utf-8"
        )
        with open(part.file, "ab" if begins else "wb") as file:
            received = begins
            report(received, total)
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                report(received, total)
    if total is not None and received != total:
        raise http.client.IncompleteRead(b"", total - received)
    return begins > 0


def _span(answer: Any, start: int) -> tuple[int, int | None]:
    """First byte of the answer's body within the file, and the length of the whole file."""
    length = answer.headers.get("Content-Length")
    whole = int(length) if length is not None and length.isdigit() else None
    if answer.status != 206:
        return 0, whole
    match = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
    )
    if match is None:
        return -1, None
    total = None if match[3] == "*" else int(match[3])
    return int(match[1]), total if total is not None else int(match[2]) + 1


def _validator(headers: Any) -> str | None:
    """What ``If-Range`` may carry: a strong entity tag, else the date of the last change."""
    tag = headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return headers.get("Last-Modified")  # type: ignore[no-any-return]


def _notes(part: _Part) -> dict[str, Any]:
    try:
        notes = json.loads(part.notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or cut short when the machine stopped
        return {}
    return notes if isinstance(notes, dict) else {}


def _can_resume(part: _Part, url: str, check: tuple[str, str] | None) -> bool:
    """Whether the first bytes can be trusted or will be checked; else they are removed."""
    notes = _notes(part)
    sure = isinstance(notes.get("validator"), str) or check is not None
    if part.length() and notes.get("url") == url and sure:
        return True
    part.remove()
    return False


def _file_name(url: str, name: str | None) -> str:
    try:
        parts = urllib.parse.urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgumentError(f"expected an http or https address. Received: {url!r}")
    chosen = urllib.parse.unquote(parts.path).rsplit("/", 1)[-1] if name is None else name
    if not chosen or chosen in (".", "..") or re.search(r'[\\/:\0<>|?*"]', chosen):
        raise InvalidArgumentError(f"expected the plain name of a file. Received: {chosen!r}")
    return chosen


def _parse_checksum(checksum: str) -> tuple[str, str]:
    kind, _, digits = str(checksum).lower().partition(":")
    if kind in _DIGITS and re.fullmatch(r"[0-9a-f]+", digits) and len(digits) == _DIGITS[kind]:
        return kind, digits
    raise InvalidArgumentError(
        "checksum must be 'sha256:' and 64 or 'md5:' and 32 hexadecimal digits. "
        f"Received: {checksum!r}"
    )


def _digest(path: Path, kind: str) -> str:
    # Against damage, not against forgers: that is all that an official MD5 can do.
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
    return digest.hexdigest()


def _is_whole(path: Path, check: tuple[str, str] | None) -> bool:
    return path.is_file() and (check is None or _digest(path, check[0]) == check[1])


def _flush(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process after the other work in the folder."""
    with open(folder / ".lock", "ab") as file:
        # A file system without locks: checksums still tell what went wrong.
        with suppress(OSError):
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            else:
                import fcntl

                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield
