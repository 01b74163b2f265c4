"""Where the course's own files lie, and how a file is written: whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def write_whole(path: str | Path, write: Callable[[Path], object] | bytes | str) -> Path:
    """Write a file so that no reader, no second process and no interruption sees half of it.

    The content goes to a new name in the same folder, is flushed to the disk, and takes the
    place of ``path`` in one step. If anything fails, the old file is as it was.

    Args:
        path: the file; its folder is made if needed, and ``~`` is the home folder.
        write: the content, or a function that writes it to the path that it is given (which has
            the suffix of ``path``, for libraries that look at it).

    Returns:
        The path, with ``~`` expanded.

    Raises:
        OSError: it cannot be written; the message names the file and what to do.
    """
    path = user_path(path)
    temporary = None
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder, and a file name is needed")
        path.parent.mkdir(parents=True, exist_ok=True)
        own = f".{path.stem[:40]}-{os.getpid()}-{secrets.token_hex(4)}-partial{path.suffix}"
        temporary = path.parent / own
        if callable(write):
            write(temporary)
        else:
            temporary.write_bytes(write.encode("utf-8") if isinstance(write, str) else write)
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; close it where it is open, or "
            "choose another file"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def check_target(path: str | Path) -> Path:
    """Prove that :func:`write_whole` will be able to write a file, before the slow work is done.

    The folder is made if needed. A file that is there is kept as it is.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        OSError: it is a folder, its folder cannot be written, or another program holds it open
            and locked (on Windows); the message names it and what to do.
    """
    path = user_path(path)
    check_writable(path.parent)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder, and a file name is needed")
        if path.exists():
            os.replace(path, path)  # changes nothing, and fails where a program has locked it
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; close it where it is open, or "
            "choose another file"
        ) from error
    return path


def check_writable(folder: str | Path) -> Path:
    """Make ``folder`` if needed and prove that a file can be written there.

    Returns:
        The folder, with ``~`` expanded.

    Raises:
        OSError: it cannot; the message names the folder and what to do.
    """
    folder = user_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write into {folder}: {error.strerror or error}; choose another folder"
        ) from error
    return folder


def check_writable_file(path: str | Path) -> Path:
    """Prove before the work that :func:`write_whole` can write this file after it.

    Returns:
        The path, with ``~`` expanded. Its folder is made if needed.

    Raises:
        OSError: it cannot; the message names the file or its folder and what to do.
    """
    path = user_path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"cannot write {path}: it is a folder, and a file name is needed; choose another file"
        )
    check_writable(path.parent)
    return path


def user_path(path: str | Path) -> Path:
    """A path as a person means it: ``~`` is the home folder, where there is one.

    Raises:
        OSError: ``~`` without a home folder to put in its place.
    """
    if "\0" in str(path):
        raise OSError(f"{str(path)!r} holds a NUL character, and no file can be called that")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise OSError(
            f"{path} begins with ~ and this process has no home folder; set HOME, or give the "
            "whole path"
        ) from None


def home_folder() -> Path | None:
    """The home folder, or None in a container that gives its user none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folder() -> Path:
    """Where slow work is kept: ``MRL_COURSE_CACHE``, else ``~/.cache/mrl_course``.

    Without a home folder it is one in the folder for temporary files.

    Raises:
        OSError: the variable begins with ``~`` and there is no home folder.
    """
    if named := os.environ.get("MRL_COURSE_CACHE"):
        return user_path(named)
    home = home_folder()
    return home / ".cache" / "mrl_course" if home else Path(tempfile.gettempdir()) / "mrl_course"


def in_checkout() -> bool:
    """Tell whether the package runs from a checkout of the repository."""
    return (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "notebooks").is_dir()


def data_folder() -> Path:
    """Folder of what the course ships: ``data/`` of a checkout, else the installed copy."""
    packaged = PACKAGE / "_data"
    return packaged if packaged.is_dir() else PACKAGE.parent / "data"


def miniature_folder() -> Path:
    """Folder of the embedded miniature."""
    return data_folder() / "miniature"


def results_folder() -> Path:
    """Folder of the recorded runs."""
    return data_folder() / "results"


def notebook_folder() -> Path:
    """Folder of the lessons: the checkout's, else the installed package's copy."""
    return PACKAGE.parent / "notebooks" if in_checkout() else PACKAGE / "_notebooks"
