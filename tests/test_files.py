"""Files are whole or as they were, and what cannot be written is known before the work."""

import os
import sys
from pathlib import Path

import pytest

from mrl_course import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_bytes_and_functions_are_written_into_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    assert files.write_whole(path, "é\n") == path
    assert path.read_bytes() == "é\n".encode()
    files.write_whole(str(path), b"\0")
    assert path.read_bytes() == b"\0"
    files.write_whole(path, lambda place: place.write_text(place.suffix, encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == ".txt"
    assert names(path.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyError("a bug"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old", encoding="utf-8")

    def half(place):
        place.write_text("half", encoding="utf-8")
        raise error

    with pytest.raises(type(error)) as caught:
        files.write_whole(path, half)
    if isinstance(error, OSError):
        assert f"cannot write {path}: disk full; close it where it is open" in str(caught.value)
    assert names(tmp_path) == ["x"] and path.read_text(encoding="utf-8") == "old"


def test_a_long_name_is_no_obstacle(tmp_path):
    assert files.write_whole(tmp_path / ("n" * 250), b"x").read_bytes() == b"x"


@pytest.mark.parametrize("check", [files.check_target, lambda path: files.write_whole(path, b"x")])
def test_what_cannot_be_written_is_named(tmp_path, check):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="folder: it is a folder, and a file name is needed"):
        check(tmp_path / "folder")
    with pytest.raises(OSError, match="file.*choose another"):
        check(tmp_path / "file" / "x")
    with pytest.raises(OSError, match="NUL"):
        check(tmp_path / "a\0b")
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == []


def test_a_locked_file_is_found_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    assert files.check_target(path) == path and not path.exists()
    path.write_text("old", encoding="utf-8")
    assert files.check_target(path) == path and path.read_text(encoding="utf-8") == "old"

    def locked(*args):
        raise PermissionError(13, "it is used by another process")

    monkeypatch.setattr(os, "replace", locked)
    with pytest.raises(OSError, match="used by another process; close it where it is open"):
        files.check_target(path)


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is a POSIX variable")
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert files.write_whole("~/x", b"1") == tmp_path / "me" / "x"
    assert files.check_target("~/y") == tmp_path / "me" / "y"
    assert files.check_writable("~/z") == tmp_path / "me" / "z"
    monkeypatch.setenv("MRL_COURSE_CACHE", "~/cache")
    assert files.cache_folder() == tmp_path / "me" / "cache"
    assert names(tmp_path) == ["me"]


def test_without_a_home_folder_only_a_tilde_is_an_error(monkeypatch, tmp_path):
    def nowhere(*args):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(Path, "expanduser", lambda self: nowhere() if "~" in str(self) else self)
    monkeypatch.delenv("MRL_COURSE_CACHE", raising=False)
    assert files.home_folder() is None and files.cache_folder().name == "mrl_course"
    with pytest.raises(
        OSError, match="begins with ~ and this process has no home folder; set HOME"
    ):
        files.write_whole("~/x", b"1")
    monkeypatch.setenv("MRL_COURSE_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
