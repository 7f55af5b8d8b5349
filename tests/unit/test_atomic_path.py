"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gpuconv.io import atomic_path

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and links")


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_paths_may_be_strings(tmp_path: Path) -> None:
    with atomic_path(str(tmp_path / "a")) as temporary:
        temporary.write_bytes(b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_temporary_file_that_vanished_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


def test_folders_are_refused_before_the_block(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="not of a folder"), atomic_path(tmp_path):
        pytest.fail("the block must not run")
    missing = tmp_path / "none" / "a"
    with pytest.raises(FileNotFoundError, match="does not exist"), atomic_path(missing):
        pytest.fail("the block must not run")


@posix
@pytest.mark.parametrize("writer_mode", [0o600, 0o644])
def test_a_new_file_has_the_usual_permissions(writer_mode: int, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    with atomic_path(tmp_path / "a") as temporary:
        temporary.chmod(writer_mode)
    assert _mode(tmp_path / "a") == _mode(usual)


@posix
def test_permissions_of_an_old_file_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.touch()
    target.chmod(0o640)
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert _mode(target) == 0o640


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "a", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
