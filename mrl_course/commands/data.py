"""The command ``mrl-course data``: say what is in use, or fetch a copy for a class offline."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mrl_course.errors import DataSourceError
from mrl_course.files import check_writable

if TYPE_CHECKING:
    from mrl_course.data import DataSet


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``data`` to a parser made with ``add_subparsers``."""
    parser = subparsers.add_parser(
        "data",
        help="say which data is in use, or download it for offline use",
        description="Say which sentences the course uses and why, with rows and columns; "
        "or download the real AllNLI and STS benchmark into a folder.",
    )
    parser.add_argument(
        "--source",
        help="auto, hub, mini or a folder; without it, the variable MRL_COURSE_DATA, else auto",
    )
    parser.add_argument(
        "--download",
        metavar="DIR",
        type=Path,
        help="fetch both data sets from the hub into DIR, for MRL_COURSE_DATA=DIR",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 0.

    Raises:
        DataSourceError: as :func:`report` and :func:`download`.
    """
    if args.download is not None:
        download(args.download)
    else:
        report(args.source)
    return 0


def report(source: str | None = None) -> None:
    """Print which source is in use and why, and the rows and columns of each split."""
    from mrl_course import data

    if data.resolve_source(source) != "auto":  # auto announces itself when it loads
        print(f"Data: {data.describe_source(source)}.")
    for data_set, load in ((data.ALLNLI, data.load_allnli), (data.STSB, data.load_stsb)):
        rows = {split: load(split, source=source).num_rows for split in data_set.splits}
        print(f"{data_set.name}: {_count(rows)}; columns {', '.join(data_set.schema.names)}")


def download(target: Path) -> None:
    """Fetch the pinned snapshots of both data sets into ``target``, checked, or nothing.

    A data set appears under ``target`` only when all its files are there and right. One that
    is there already is kept: a right copy is not fetched again, another one is never replaced.

    Raises:
        DataSourceError: the hub cannot be reached, the folder cannot be written, what came is
            not what the hub describes, or ``target`` holds other data of that name.
    """
    from mrl_course import data

    problem = data.probe_hub(data.ALLNLI)
    if problem:
        raise DataSourceError(f"Cannot download: {problem}. Connect and try again.")
    try:  # before the download, not after it
        target = check_writable(target).resolve()
    except OSError as error:
        raise DataSourceError(f"Cannot download: {error}.") from error
    for data_set in data.DATA_SETS:
        try:
            rows = _download_one(data_set, target)
        except DataSourceError:
            raise
        except Exception as error:  # the hub client raises a wide family
            raise DataSourceError(
                f"Downloading {data_set.repo} into {target} failed ({data.first_line(error)}). "
                "What was there before is unchanged. Try again."
            ) from error
        print(f"{data.show_path(target / data_set.name)}: {_count(rows)}")
    print(_how_to_use(target))


def _download_one(data_set: DataSet, target: Path) -> dict[str, int]:
    from mrl_course import data

    place = target / data_set.name
    expected = _hub_files(data_set)
    if place.exists():
        wrong = _wrong_files(place, expected)
        if wrong:
            raise DataSourceError(
                f"{place} exists, but {wrong[0]} is not the file of the pinned revision. "
                "It is left as it is: move it away, or name another folder."
            )
        return _rows(place, data_set)
    # Beside its place, so that the last step is one rename and cannot stop half-way.
    with tempfile.TemporaryDirectory(prefix=f".{data_set.name}-", dir=target) as temporary:
        folder = Path(temporary) / data_set.name
        data.fetch_snapshot(data_set, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's bookkeeping
        wrong = _wrong_files(folder, expected)
        if wrong:
            raise DataSourceError(
                f"{wrong[0]} of {data_set.repo} arrived damaged: its hash is not the hub's. "
                "Nothing was kept; try again."
            )
        rows = _rows(folder, data_set)
        folder.rename(place)
    return rows


def _hub_files(data_set: DataSet) -> list:
    """What the hub says about the files that the loaders read: name, size and hash of each."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    info = HfApi().dataset_info(
        data_set.repo, revision=data_set.revision, files_metadata=True, timeout=30
    )
    files = info.siblings or []
    return list(
        filter_repo_objects(
            files, allow_patterns=data_set.patterns, key=lambda file: file.rfilename
        )
    )


def _wrong_files(folder: Path, expected: Iterable) -> list[str]:
    """Names of the files that are missing from a folder or whose hash is not the hub's."""
    wrong = []
    for file in expected:
        path = folder / file.rfilename
        if not path.is_file():
            wrong.append(file.rfilename)
            continue
        content = path.read_bytes()
        if file.lfs is not None:
            right = hashlib.sha256(content).hexdigest() == file.lfs.sha256
        else:  # small text files lie in git itself, under the hash that git gives them
            blob = b"blob %d\0" % len(content) + content
            right = hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.blob_id
        if not right:
            wrong.append(file.rfilename)
    return wrong


def _rows(folder: Path, data_set: DataSet) -> dict[str, int]:
    """Rows per split; reading them also checks columns and values."""
    from mrl_course.data import read_split

    return {split: read_split(folder, data_set, split).num_rows for split in data_set.splits}


def _count(rows: dict[str, int]) -> str:
    return ", ".join(f"{split} {number:,} rows" for split, number in rows.items())


def _how_to_use(folder: Path) -> str:
    return (
        "To use this copy, type in the terminal from which you start Jupyter:\n"
        f"  Linux, macOS        export MRL_COURSE_DATA={shlex.quote(str(folder))}\n"
        f'  Windows PowerShell  $env:MRL_COURSE_DATA = "{folder}"\n'
        f"  Windows cmd         set MRL_COURSE_DATA={folder}\n"
        f"or in a notebook, before the first load:\n"
        f"  %env MRL_COURSE_DATA={folder}"
    )
