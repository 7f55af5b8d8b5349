"""Fetching files over HTTP, from a server that answers well, badly, or not to the end."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuconv.data import DownloadError, fetch_file
from gpuconv.errors import FileFormatError, InvalidArgumentError

CONTENT = np.random.default_rng(0).bytes(700_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves ``/file.bin``; the server's attributes say how well."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        site: Any = self.server
        site.asked.append({k: self.headers.get(k) for k in ("Range", "If-Range")})
        if self.path != "/file.bin":
            self.send_error(404)
            return
        start, status = 0, 200
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", site.tag) == site.tag
        if match and site.ranges and same:
            start, status = int(match[1]), 206
            if start >= len(site.content):
                self.send_error(416)
                return
        self.send_response(status)
        if site.tag:
            self.send_header("ETag", site.tag)
        if status == 206:
            last = len(site.content) - 1
            shown = start + site.wrong_range
            self.send_header("Content-Range", f"bytes {shown}-{last}/{last + 1}")
        if site.length:
            self.send_header("Content-Length", str(len(site.content) - start))
        self.end_headers()
        stop = site.stops.pop(0) if site.stops else len(site.content)
        self.wfile.write(site.content[start:stop])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.tag, server.ranges, server.length = CONTENT, '"one"', True, True
    server.stops, server.asked, server.wrong_range = [], [], 0
    server.url = f"http://127.0.0.1:{server.server_port}/file.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".lock")


def interrupted(site: Any, folder: Path, checksum: str | None = None) -> None:
    """Leave the first 300,000 bytes behind: the connection breaks, and again at once."""
    site.stops[:] = [300_000, 0]
    with pytest.raises(DownloadError, match=r"300000 bytes are kept.*Received: IncompleteRead"):
        fetch_file(site.url, folder, checksum=checksum, progress=False)
    assert names(folder) == [".file.bin.part", ".file.bin.part.json"]
    assert (folder / ".file.bin.part").read_bytes() == CONTENT[:300_000]
    site.stops.clear()
    site.asked.clear()


# --- whole files ------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [SHA256, MD5, MD5.upper().replace("MD5", "md5"), None])
def test_a_file_is_fetched_once(site: Any, tmp_path: Path, checksum: str | None) -> None:
    folder = tmp_path / "new" / "folder"
    path = fetch_file(site.url, folder, checksum=checksum, progress=False)
    assert path == folder / "file.bin"
    assert path.read_bytes() == CONTENT
    assert names(folder) == ["file.bin"]
    assert fetch_file(site.url, folder, checksum=checksum, progress=False) == path
    assert site.asked == [{"Range": None, "If-Range": None}]


def test_the_cache_folder_and_a_name(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUCONV_CACHE", str(tmp_path))
    path = fetch_file(site.url, name="mine.bin", progress=False)
    assert path == tmp_path / "data" / "mine.bin"
    assert path.read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_fetched_again(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1] + b"?")
    path = fetch_file(site.url, tmp_path, checksum=SHA256, progress=False)
    assert path.read_bytes() == CONTENT


def test_a_server_that_does_not_tell_the_length(site: Any, tmp_path: Path) -> None:
    site.length = False
    heard: list[Any] = []
    path = fetch_file(
        site.url, tmp_path, checksum=SHA256, progress=lambda got, total: heard.append((got, total))
    )
    assert path.read_bytes() == CONTENT
    assert heard[0] == (0, None)
    assert heard[-1] == (len(CONTENT), None)


def test_several_at_once_fetch_it_once(site: Any, tmp_path: Path) -> None:
    def fetch() -> None:
        fetch_file(site.url, tmp_path, checksum=SHA256, progress=False)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(site.asked) == 1


# --- parts ------------------------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_again(site: Any, tmp_path: Path) -> None:
    site.stops[:] = [200_000, 500_000]
    heard: list[int] = []
    path = fetch_file(
        site.url, tmp_path, checksum=SHA256, progress=lambda got, _: heard.append(got)
    )
    assert path.read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == [None, "bytes=200000-", "bytes=500000-"]
    assert heard == sorted(heard)


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_the_next_call_goes_on(site: Any, tmp_path: Path, checksum: str | None) -> None:
    interrupted(site, tmp_path, checksum)
    path = fetch_file(site.url, tmp_path, checksum=checksum, progress=False)
    assert path.read_bytes() == CONTENT
    assert site.asked == [{"Range": "bytes=300000-", "If-Range": '"one"'}]
    assert names(tmp_path) == ["file.bin"]


def test_a_server_without_ranges_gives_the_whole_file(site: Any, tmp_path: Path) -> None:
    interrupted(site, tmp_path)
    site.ranges = False
    path = fetch_file(site.url, tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_a_file_that_changed_is_fetched_whole(site: Any, tmp_path: Path) -> None:
    interrupted(site, tmp_path)
    site.content, site.tag = CONTENT[::-1], '"two"'
    path = fetch_file(site.url, tmp_path, progress=False)
    assert path.read_bytes() == CONTENT[::-1]
    assert site.asked == [{"Range": "bytes=300000-", "If-Range": '"one"'}]


def test_the_checksum_tells_where_the_server_does_not(site: Any, tmp_path: Path) -> None:
    site.tag = ""
    interrupted(site, tmp_path, SHA256)
    part = tmp_path / ".file.bin.part"
    part.write_bytes(CONTENT[1:300_001])  # of an older file
    path = fetch_file(site.url, tmp_path, checksum=SHA256, progress=False)
    assert path.read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == ["bytes=300000-", None]


def test_nothing_is_continued_that_nobody_can_check(site: Any, tmp_path: Path) -> None:
    site.tag = ""
    site.stops[:] = [300_000]
    with pytest.raises(DownloadError, match="Received: IncompleteRead"):
        fetch_file(site.url, tmp_path, progress=False)
    assert fetch_file(site.url, tmp_path, progress=False).read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == [None, None]


@pytest.mark.parametrize("notes", ["", "{", "[]", '{"url": "http://elsewhere/"}'])
def test_notes_that_say_nothing(site: Any, tmp_path: Path, notes: str) -> None:
    (tmp_path / ".file.bin.part").write_bytes(b"?" * 1000)
    (tmp_path / ".file.bin.part.json").write_text(notes)
    path = fetch_file(site.url, tmp_path, checksum=SHA256, progress=False)
    assert path.read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == [None]


def test_a_part_that_is_longer_than_the_file(site: Any, tmp_path: Path) -> None:
    interrupted(site, tmp_path)
    (tmp_path / ".file.bin.part").write_bytes(CONTENT + b"more")
    assert fetch_file(site.url, tmp_path, progress=False).read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_part_that_is_the_whole_file(site: Any, tmp_path: Path) -> None:
    interrupted(site, tmp_path)
    (tmp_path / ".file.bin.part").write_bytes(CONTENT)
    assert fetch_file(site.url, tmp_path, checksum=MD5, progress=False).read_bytes() == CONTENT
    assert site.asked == []
    assert names(tmp_path) == ["file.bin"]


def test_a_part_from_another_place(site: Any, tmp_path: Path) -> None:
    interrupted(site, tmp_path)
    site.wrong_range = 5
    assert fetch_file(site.url, tmp_path, progress=False).read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == ["bytes=300000-", None]


# --- errors -----------------------------------------------------------------------------------


def test_a_wrong_checksum(site: Any, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(FileFormatError) as caught:
        fetch_file(site.url, tmp_path, checksum=wrong, progress=False)
    text = str(caught.value)
    assert site.url in text
    assert "0" * 64 in text
    assert f"Received: 700000 bytes with {SHA256[7:]}" in text
    assert names(tmp_path) == []


def test_a_wrong_checksum_after_a_part_is_fetched_once_more(site: Any, tmp_path: Path) -> None:
    wrong = "md5:" + "0" * 32
    interrupted(site, tmp_path, wrong)
    with pytest.raises(FileFormatError, match="checksum"):
        fetch_file(site.url, tmp_path, checksum=wrong, progress=False)
    assert [asked["Range"] for asked in site.asked] == ["bytes=300000-", None]
    assert names(tmp_path) == []


def test_a_file_that_the_server_does_not_have(site: Any, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"other\.bin.*Received: HTTP 404"):
        fetch_file(site.url.replace("file", "other"), tmp_path, progress=False)
    assert names(tmp_path) == []


def test_no_server(site: Any, tmp_path: Path) -> None:
    nobody = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = nobody.server_port
    nobody.server_close()
    with pytest.raises(DownloadError, match=r"is there a network\? Received: URLError"):
        fetch_file(f"http://127.0.0.1:{port}/file.bin", tmp_path, progress=False)
    assert names(tmp_path) == []


def test_a_server_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.bin"
        with pytest.raises(DownloadError, match="timed out"):
            fetch_file(url, tmp_path, progress=False, timeout=0.05)


def test_ctrl_c_leaves_a_part(site: Any, tmp_path: Path) -> None:
    def stop(received: int, total: int | None) -> None:
        if received > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_file(site.url, tmp_path, checksum=SHA256, progress=stop)
    assert names(tmp_path) == [".file.bin.part", ".file.bin.part.json"]
    site.asked.clear()
    assert fetch_file(site.url, tmp_path, checksum=SHA256, progress=False).read_bytes() == CONTENT
    assert site.asked[0]["Range"] is not None


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("file:///etc/hosts", {}),
        ("ftp://host/file", {}),
        ("http:///file", {}),
        ("http://[::1/file", {}),
        ("http://host/", {}),
        ("http://host/%2e%2e", {}),
        ("http://host/a%2Fb/..%5cfile", {}),
        ("http://host/file", {"name": "../file"}),
        ("http://host/file", {"name": ""}),
        ("http://host/file", {"checksum": "00"}),
        ("http://host/file", {"checksum": "sha1:" + "0" * 40}),
        ("http://host/file", {"checksum": "md5:" + "0" * 31}),
        ("http://host/file", {"checksum": "md5:" + "g" * 32}),
        ("http://host/file", {"timeout": 0}),
        ("http://host/file", {"timeout": float("nan")}),
    ],
)
def test_impossible_arguments(tmp_path: Path, url: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="Received"):
        fetch_file(url, tmp_path / "folder", **options)
    assert not (tmp_path / "folder").exists()


# --- progress ---------------------------------------------------------------------------------


def test_a_bar(site: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    fetch_file(site.url, tmp_path, progress=True)
    shown = capsys.readouterr().out
    assert "file.bin" in shown
    assert "700.0/700.0 kB" in shown


def test_one_line_elsewhere(site: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_file(site.url, tmp_path)
    assert capsys.readouterr().out == f"Fetching file.bin from {site.url}\n"
    fetch_file(site.url, tmp_path)
    assert capsys.readouterr().out == ""


def test_another_progress(site: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="progress"):
        fetch_file(site.url, tmp_path, progress="yes")  # type: ignore[arg-type]
