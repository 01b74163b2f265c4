"""Where the sentences come from: the hub, a folder, or the miniature that the course ships.

One environment variable, ``MRL_COURSE_DATA``, or the argument ``source=`` says which:

=================  ==============================================================================
unset or ``auto``  the hub if it answers within a few seconds or a cached copy is there, else
                   ``mini``; one printed line per process says which and why
``hub``            ``sentence-transformers/all-nli`` and ``sentence-transformers/stsb`` at pinned
                   revisions
``mini``           the embedded miniature
a folder           a copy of the hub's layout: ``FOLDER/all-nli/triplet/*.parquet`` and
                   ``FOLDER/stsb/data/*.parquet``
=================  ==============================================================================

Every source ends as a folder in the hub's layout, so all of them are read and checked by the
same code.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

with warnings.catch_warnings():  # tqdm.auto, which the next ones import, complains on stderr in
    warnings.filterwarnings("ignore", message="IProgress not found")  # every notebook that has no
    import tqdm.auto  # noqa: F401  # ipywidgets; the course shows no bars of that kind

import huggingface_hub
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset_builder
from huggingface_hub import constants as hub_constants

from mrl_course.arguments import check_count
from mrl_course.errors import DataSourceError, WrongValue
from mrl_course.files import miniature_folder, user_path

__all__ = [
    "DataSourceError",
    "Retrieval",
    "describe_source",
    "load_allnli",
    "load_docstrings",
    "load_retrieval",
    "load_stsb",
]

ENVIRONMENT_VARIABLE = "MRL_COURSE_DATA"
PROBE_SECONDS = 4.0  # that the hub may take to answer
STALL_SECONDS = 10.0  # until the first byte of a download; three times that between later ones
NEWS_SECONDS = 5.0  # of a download until a line says that it goes on; then at three times that, ...
WAYS_OUT = (
    f"connect to the internet, or set {ENVIRONMENT_VARIABLE}=mini, or name a folder that "
    "`mrl-course data --download FOLDER` made on a connected machine"
)


@dataclass(frozen=True)
class DataSet:
    """One of the two data sets of the course, as it lies on the hub."""

    name: str  # its folder inside a data folder
    repo: str
    revision: str  # a commit, so that every reader of the course gets the same rows
    config: str | None
    files_in: str  # the folder of the parquet files inside the snapshot
    splits: tuple[str, ...]
    schema: pa.Schema

    @property
    def patterns(self) -> list[str]:
        """The files of the snapshot that the loaders read."""
        return ["README.md", *(f"{self.files_in}/{split}-*.parquet" for split in self.splits)]


ALLNLI = DataSet(
    name="all-nli",
    repo="sentence-transformers/all-nli",
    revision="cc6c526380e29912b5c6fa03682da4daf773c013",
    config="triplet",
    files_in="triplet",
    splits=("train", "dev", "test"),
    schema=pa.schema([(name, pa.string()) for name in ("anchor", "positive", "negative")]),
)
STSB = DataSet(
    name="stsb",
    repo="sentence-transformers/stsb",
    revision="ab7a5ac0e35aa22088bdcf23e7fd99b220e53308",
    config=None,
    files_in="data",
    splits=("train", "validation", "test"),
    schema=pa.schema(
        [("sentence1", pa.string()), ("sentence2", pa.string()), ("score", pa.float64())]
    ),
)
DATA_SETS = (ALLNLI, STSB)


@dataclass(frozen=True)
class Retrieval:
    """A retrieval task: ``corpus[relevant[i]]`` is the one right answer to ``queries[i]``."""

    queries: list[str]
    corpus: list[str]
    relevant: list[int]


def load_allnli(
    split: str = "train", limit: int | None = None, source: str | Path | None = None
) -> Dataset:
    """Load AllNLI triplets: a premise, a sentence it entails, a sentence it contradicts.

    Args:
        split: ``train``, ``dev`` or ``test``.
        limit: keep the first ``limit`` rows only; more than there are keeps all of them.
        source: ``auto``, ``hub``, ``mini`` or a folder; ``None`` asks ``MRL_COURSE_DATA``.

    Returns:
        A data set with the string columns ``anchor``, ``positive`` and ``negative``, in the
        order of the file.

    Raises:
        DataSourceError: the source or split is unknown or cannot be had, a file is broken, a
            column is missing or wrongly typed, or a sentence is missing or blank. Nothing is
            dropped silently: the message names the file, the column and the first such row.
        TypeError, ValueError: ``limit`` is not a positive whole number.
    """
    return _load(ALLNLI, split, limit, source)


def load_stsb(split: str = "test", source: str | Path | None = None) -> Dataset:
    """Load the STS benchmark: pairs of sentences with a human similarity score.

    Args:
        split: ``train``, ``validation`` or ``test``.
        source: ``auto``, ``hub``, ``mini`` or a folder; ``None`` asks ``MRL_COURSE_DATA``.

    Returns:
        A data set with the string columns ``sentence1`` and ``sentence2`` and the float column
        ``score``, from 0 (unrelated) to 1 (same meaning).

    Raises:
        DataSourceError: as :func:`load_allnli`; also for a score that is missing, not a number
            or outside [0, 1].
    """
    return _load(STSB, split, None, source)


def load_retrieval(
    split: str = "test", corpus_size: int = 10_000, source: str | Path | None = None
) -> Retrieval:
    """Make a retrieval task from AllNLI: find the premise from a sentence that it entails.

    There is one query per distinct premise of ``split``: the ``positive`` of its first row. The
    corpus is the distinct premises of that split, then distinct premises of ``train`` that are
    not among them, in file order, until ``corpus_size`` (or until there are no more).

    Raises:
        DataSourceError: as :func:`load_allnli`.
        TypeError, ValueError: ``corpus_size`` is no positive whole number, or smaller than the
            number of premises in the split.
    """
    corpus_size = check_count("corpus_size", corpus_size)
    rows = load_allnli(split, source=source)
    answers: dict[str, str] = {}
    for premise, entailed in zip(rows["anchor"], rows["positive"], strict=True):
        answers.setdefault(premise, entailed)
    if corpus_size < len(answers):
        raise WrongValue(
            f"corpus_size={corpus_size} is too small: the {split} split has {len(answers)} "
            f"distinct premises, and all of them belong to the corpus. Use {len(answers)} or more."
        )
    corpus = dict.fromkeys(answers)  # a dict keeps the order, a set does not
    if len(corpus) < corpus_size:
        for premise in load_allnli("train", source=source)["anchor"]:
            corpus[premise] = None
            if len(corpus) == corpus_size:
                break
    return Retrieval(list(answers.values()), list(corpus), list(range(len(answers))))


def load_docstrings(packages: Iterable[str] | None = None) -> Dataset:
    """Load (summary, description) pairs from the documentation of installed libraries.

    Args:
        packages: names of importable packages or modules, ``"stdlib"`` for the standard library;
            ``None`` reads numpy, scipy, sklearn, torch, matplotlib, pandas and the standard
            library: about 8,000 pairs in a few seconds, without a download.

    Returns:
        A data set with the string columns ``name``, ``summary``, ``description``, ``library``
        and ``module``, sorted by name; details in :func:`mrl_course.docstrings.load_docstrings`.

    Raises:
        DataSourceError: a package cannot be imported, or nothing in it is documented.
    """
    from mrl_course import docstrings

    return docstrings.load_docstrings(packages)


def describe_source(source: str | Path | None = None) -> str:
    """Say in one line which data is in use and why. Prints nothing.

    Raises:
        DataSourceError: ``source`` (or ``MRL_COURSE_DATA``) names no source.
    """
    chosen = resolve_source(source)
    said_by = "source=" if source is not None else ENVIRONMENT_VARIABLE
    if isinstance(chosen, Path):
        return f"the folder {show_path(chosen)} ({said_by})"
    if chosen == "auto":
        return _auto().choice.text
    return f"{_NAMES[chosen]} ({said_by}{'' if source is not None else '='}{chosen})"


# --- which source ------------------------------------------------------------------------------

_NAMES = {"hub": "the hub", "mini": "the embedded miniature"}


@dataclass(frozen=True)
class _Choice:
    source: str  # "hub" or "mini"
    why: str

    @property
    def text(self) -> str:
        return f"{_NAMES[self.source]}, because {self.why}"


@dataclass
class _Auto:
    """What ``auto`` decided under some settings of the hub client, and whether it said so."""

    choice: _Choice
    announced: bool = False

    def announce(self) -> None:
        if not self.announced:
            print(f"Data: {self.choice.text} ({ENVIRONMENT_VARIABLE} changes this).", flush=True)
            self.announced = True

    def fall_back(self, why: str) -> None:
        """Take the miniature from now on, and say why."""
        self.choice, self.announced = _Choice("mini", why), False
        self.announce()


def _auto() -> _Auto:
    """The choice of ``auto``: made once in a process, as long as the hub's settings stay."""
    return _decide_auto(
        str(hub_constants.HF_HUB_CACHE), hub_constants.ENDPOINT, hub_constants.HF_HUB_OFFLINE
    )


@lru_cache(maxsize=8)
def _decide_auto(_cache: str, _endpoint: str, _offline: bool) -> _Auto:
    if all(_cached_snapshot(data_set) for data_set in DATA_SETS):
        return _Auto(_Choice("hub", "a copy of its pinned revisions is in the local cache"))
    problem = _no_cache() or probe_hub(ALLNLI)
    answers = f"{_host()} answers; the first load downloads a copy"
    return _Auto(_Choice("mini", problem) if problem else _Choice("hub", answers))


def resolve_source(source: str | Path | None) -> str | Path:
    """Turn an argument or the environment variable into auto, hub, mini or a folder."""
    value = os.environ.get(ENVIRONMENT_VARIABLE, "") if source is None else source
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in ("", "auto"):
            return "auto"
        if value.lower() in _NAMES:
            return value.lower()
    elif not isinstance(value, os.PathLike):
        raise DataSourceError(f"source must be auto, hub, mini or a folder, got {value!r}.")
    try:
        folder = user_path(value)
        there = folder.is_dir()
    except (OSError, ValueError) as error:  # ~ without a home folder; a name no system takes
        raise DataSourceError(f"No data source {str(value)!r}: {error}.") from error
    if not there:
        raise DataSourceError(
            f"No data source {str(value)!r}: it is not auto, hub or mini, and no folder of that "
            f"name exists. Correct source= or {ENVIRONMENT_VARIABLE}; "
            "`mrl-course data --download FOLDER` makes such a folder."
        )
    return folder


def _load(data_set: DataSet, split: str, limit: int | None, source: str | Path | None) -> Dataset:
    if split not in data_set.splits:
        raise DataSourceError(
            f"{data_set.name} has no split {split!r}; choose one of {', '.join(data_set.splits)}."
        )
    if limit is not None:
        limit = check_count("limit", limit)
    table = _read_source(data_set, split, resolve_source(source))
    return Dataset(table if limit is None else table.slice(0, limit))


def _read_source(data_set: DataSet, split: str, source: str | Path) -> pa.Table:
    if isinstance(source, Path):
        return read_split(source / data_set.name, data_set, split)
    if source == "auto":
        return _read_auto(data_set, split)
    folder = _hub_folder(data_set) if source == "hub" else _mini_folder() / data_set.name
    return read_split(folder, data_set, split)


def _read_auto(data_set: DataSet, split: str) -> pa.Table:
    auto = _auto()
    auto.announce()
    if auto.choice.source == "hub":
        try:
            return _read_source(data_set, split, "hub")
        except DataSourceError as error:
            auto.fall_back(f"the hub's {data_set.name} failed: {error}")
    return _read_source(data_set, split, "mini")


def _mini_folder() -> Path:
    folder = miniature_folder()
    if not folder.is_dir():
        raise DataSourceError(
            f"The embedded miniature is missing: {show_path(folder)} does not exist. "
            "Install mrl-course again."
        )
    return folder


# --- the hub -----------------------------------------------------------------------------------


def _host() -> str:
    return urlsplit(hub_constants.ENDPOINT).netloc or hub_constants.ENDPOINT


def _hub_folder(data_set: DataSet) -> Path:
    """The pinned snapshot in the local cache, fetched if it is not there yet.

    Not ``load_dataset("sentence-transformers/...")``: when the hub cannot be reached, that
    serves whatever revision it prepared last instead of the pinned one.
    """
    folder = _cached_snapshot(data_set)
    if folder is not None:
        return folder
    problem = _no_cache() or probe_hub(data_set)
    if problem:
        raise DataSourceError(
            f"{data_set.repo} is not in the local cache, and {problem}. To go on, {WAYS_OUT}."
        )
    try:
        return Path(_fetch_watched(data_set))
    except Exception as error:  # the hub client raises a wide family; none must reach a learner
        raise DataSourceError(
            f"Downloading {data_set.repo} from {_host()} failed ({first_line(error)}). "
            f"Try again, or {WAYS_OUT}."
        ) from error


def _no_cache() -> str | None:
    """Why nothing can be kept: a container without a home folder. None if all is well."""
    try:
        Path(hub_constants.HF_HUB_CACHE).expanduser()
    except RuntimeError:
        return "there is no home folder to keep a copy in (set HOME or HF_HOME)"
    return None


def _fetch_watched(data_set: DataSet) -> str:
    """Fetch a snapshot in a thread of its own, and give up when nothing arrives any longer.

    The client alone waits in silence: for minutes when the hub asks it to come back later, for
    ever when a server accepts a question and does not answer.
    """
    place = Path(hub_constants.HF_HUB_CACHE).expanduser()
    place = place / huggingface_hub.constants.REPO_ID_SEPARATOR.join(
        ["datasets", *data_set.repo.split("/")]
    )
    outcome: dict[str, Any] = {}

    def fetch() -> None:
        try:
            with _quiet_hub():
                outcome["folder"] = fetch_snapshot(data_set)
        except BaseException as error:  # raised again where the caller waits
            outcome["error"] = error

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    parts = Path(hub_constants.HF_XET_CACHE).expanduser()  # where large files come in pieces
    _wait_while_growing(thread, lambda: _bytes_below(place) + _bytes_below(parts), data_set.name)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["folder"]


def _wait_while_growing(thread: threading.Thread, size: Callable[[], int], name: str) -> None:
    """Wait for a thread; now and then say how far it is.

    Raises:
        TimeoutError: ``size()`` did not change for ``STALL_SECONDS``, or for three times as long
            in the middle of a download.
    """
    start = grown = time.monotonic()
    first = size()
    before, news, patience = first, NEWS_SECONDS, STALL_SECONDS
    while True:
        thread.join(min(0.25, STALL_SECONDS / 4))
        now, held = time.monotonic(), size()
        if not thread.is_alive():
            return
        if held != before:
            before, grown, patience = held, now, 3 * STALL_SECONDS
        if now - grown >= patience:
            raise TimeoutError(f"nothing arrived for {patience:g} s")
        if now - start >= news:
            arrived = f"{(held - first) / 1e6:.0f} MB after {now - start:.0f} s"
            print(f"Data: {name} from {_host()}: {arrived} ...", flush=True)
            news *= 3


def _bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder, half-written ones too; 0 if it is not there."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # finished and renamed just now
                total += os.stat(os.path.join(path, name), follow_symlinks=False).st_size
    return total


def fetch_snapshot(data_set: DataSet, **options: Any) -> str:
    """Call ``huggingface_hub.snapshot_download`` for the pinned files of a data set."""
    return huggingface_hub.snapshot_download(
        data_set.repo,
        repo_type="dataset",
        revision=data_set.revision,
        allow_patterns=data_set.patterns,
        **options,
    )


def _cached_snapshot(data_set: DataSet) -> Path | None:
    """The pinned snapshot if the local cache holds all its files; never uses the network."""
    try:
        folder = Path(fetch_snapshot(data_set, local_files_only=True))
    except (OSError, ValueError, RuntimeError):
        return None  # not cached, only partly cached, no cache folder, or no home to hold one
    parts = folder / data_set.files_in
    with contextlib.suppress(DataSourceError):  # a part is missing: it is fetched again
        whole = all(
            _whole_set(sorted(parts.glob(f"{split}[-.]*parquet")), split)
            for split in data_set.splits
        )
        return folder if whole and (folder / "README.md").exists() else None
    return None


def probe_hub(data_set: DataSet) -> str | None:
    """Ask the hub for one small file and for the list of files; None, or what is wrong.

    Both, because the hub limits them separately: files may come while the list answers "too many
    requests", which the client would wait out in silence. In a thread of its own: a name server
    that does not answer blocks for longer than any timeout of the HTTP client, and ``datasets``
    alone takes 25 s to give up.
    """
    if hub_constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            answers.append(_ask_hub(data_set))
        except Exception:  # of whichever HTTP library the hub client uses
            answers.append(f"{_host()} cannot be reached")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers[0] if answers else f"{_host()} cannot be reached"


def _ask_hub(data_set: DataSet) -> str | None:
    file = huggingface_hub.hf_hub_url(
        data_set.repo, "README.md", repo_type="dataset", revision=data_set.revision
    )
    listing = f"{hub_constants.ENDPOINT}/api/datasets/{data_set.repo}/tree/{data_set.revision}"
    # The hub client's own session: it knows the proxies and certificates of the user.
    session = huggingface_hub.get_session()
    headers = huggingface_hub.utils.build_hf_headers()
    for ask, url, follow in ((session.head, file, False), (session.get, listing, True)):
        response = ask(url, headers=headers, timeout=PROBE_SECONDS, follow_redirects=follow)
        if response.status_code >= 400:
            wait = " (too many requests)" if response.status_code == 429 else ""
            return f"{_host()} answers with HTTP {response.status_code}{wait}"
    return None


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """No progress bars and no hints on stderr: lessons store their outputs."""
    log = huggingface_hub.utils.logging
    verbosity = log.get_verbosity()
    had_bars = not huggingface_hub.utils.are_progress_bars_disabled()
    log.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if had_bars:
            huggingface_hub.utils.enable_progress_bars()


# --- one folder --------------------------------------------------------------------------------


def read_split(folder: Path, data_set: DataSet, split: str) -> pa.Table:
    """Read and check one split of one data set from a folder in the hub's layout.

    Reads the parquet files directly. ``load_dataset`` would first copy them into the user's
    cache: that needs a writable cache, draws progress bars, takes a rewritten file with an old
    time stamp for the cached one, and casts a wrongly typed column without a word.
    """
    files = _split_files(folder, data_set, split)
    table = pa.concat_tables([_read_file(file, data_set.schema) for file in files])
    if table.num_rows == 0:
        raise DataSourceError(f"{show_path(files[0])} has no rows. {_replace(data_set)}")
    return table


def _split_files(folder: Path, data_set: DataSet, split: str) -> list[Path]:
    if not folder.is_dir():
        hint = ""
        if (folder.parent / data_set.files_in).is_dir():
            hint = f" {show_path(folder.parent)} looks like the data set itself: name its parent."
        raise DataSourceError(f"There is no folder {show_path(folder)}.{hint} {_replace(data_set)}")
    files = _whole_set(sorted((folder / data_set.files_in).glob(f"{split}[-.]*parquet")), split)
    if not files:  # files of other names: the README of the snapshot may say which they are
        with contextlib.suppress(Exception):
            builder = load_dataset_builder(str(folder), data_set.config)
            files = [Path(file) for file in (builder.config.data_files or {})[split]]
    if not files:
        raise DataSourceError(
            f"There is no file {data_set.files_in}/{split}-*.parquet in {show_path(folder)}. "
            f"{_replace(data_set)}"
        )
    return files


def _whole_set(files: list[Path], split: str) -> list[Path]:
    """Return the files of a split if they are all parts of one set, each once.

    Raises:
        DataSourceError: a part is missing, or there is another file: a second copy would give
            every row twice.
    """
    if [file.name for file in files] == [f"{split}.parquet"]:
        return files
    parts: dict[int, Path] = {}
    count = None
    for file in files:
        name = re.fullmatch(
            rf"{split}-(\d{{5}})-of-(\d{{5}})(-[0-9a-f]{{16}})?\.parquet", file.name
        )
        number, of = (int(name[1]), int(name[2])) if name else (0, 0)
        if not name or number in parts or (count is not None and of != count):
            beside = next((other.name for other in files if other != file), "the file")
            raise DataSourceError(
                f"{show_path(file)} does not belong to one set of files called "
                f"{split}-NNNNN-of-NNNNN.parquet; it may be a second copy beside {beside}, and "
                "every row would come twice. Move it out of the folder."
            )
        parts[number], count = file, of
    missing = [number for number in range(count or 0) if number not in parts]
    if missing:
        raise DataSourceError(
            f"{show_path(files[0].parent)} holds {len(files)} of {count} files of {split}: "
            f"{split}-{missing[0]:05d}-of-{count:05d}.parquet is missing. Copy or download it "
            "again."
        )
    return files


def _read_file(file: Path, schema: pa.Schema) -> pa.Table:
    """Read the columns of ``schema`` from one parquet file and check every row."""
    try:
        with pq.ParquetFile(file) as parquet:
            _check_columns(file, parquet.schema_arrow, schema)
            table = parquet.read(columns=schema.names)
            table.validate(full=True)  # else text that is not UTF-8 fails at first use
    except (pa.ArrowException, OSError) as error:
        raise DataSourceError(
            f"{show_path(file)} cannot be read: it is broken or only half written "
            f"({first_line(error)}). Copy or download it again."
        ) from error
    for name in schema.names:
        _check_values(file, name, table.column(name))
    return table.select(schema.names).cast(schema)


def _check_columns(file: Path, found: pa.Schema, wanted: pa.Schema) -> None:
    for field in wanted:
        if found.names.count(field.name) != 1:
            raise DataSourceError(
                f"{show_path(file)} has no column {field.name!r}; it has "
                f"{', '.join(found.names) or 'none'}. The columns must be named "
                f"{', '.join(wanted.names)}."
            )
        dtype = found.field(field.name).type
        if pa.types.is_string(field.type):
            good, need = pa.types.is_string(dtype) or pa.types.is_large_string(dtype), "text"
        else:
            good, need = pa.types.is_floating(dtype) or pa.types.is_integer(dtype), "numbers"
        if not good:
            raise DataSourceError(
                f"{show_path(file)}: column {field.name!r} has the type {dtype}, but must hold "
                f"{need}. Convert the column and write the file again."
            )


def _check_values(file: Path, name: str, column: pa.ChunkedArray) -> None:
    """Raise for the first null, blank text, or number outside [0, 1] (NaN too) in a column."""
    compute: Any = pc  # makes most of its functions when imported, unseen by type checkers
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)  # half precision cannot be compared
        good = compute.and_(compute.greater_equal(column, 0), compute.less_equal(column, 1))
        wanted = "a number from 0 to 1 (divide scores from 0 to 5 by 5)"
    else:
        # As arguments.is_blank, a thousand times as fast: neither space nor control nor invisible.
        good = compute.match_substring_regex(column, r"[^\s\p{Z}\p{Cc}\p{Cf}]")
        wanted = "a sentence that is not blank"
    row = pc.index(pc.fill_null(good, False), False).as_py()
    if row >= 0:
        raise DataSourceError(
            f"{show_path(file)}: column {name!r}, row {row} (counted from 0) holds "
            f"{column[row].as_py()!r}, but must hold {wanted}. Correct or drop that row."
        )


# --- small helpers -----------------------------------------------------------------------------


def _replace(data_set: DataSet) -> str:
    return (
        f"Name a folder that holds {data_set.name}/{data_set.files_in}/*.parquet as on the hub "
        f"(`mrl-course data --download FOLDER` makes one), or set {ENVIRONMENT_VARIABLE}=mini."
    )


def show_path(path: Path) -> str:
    """A path as a reader wants to see it: relative to here if it lies below."""
    with contextlib.suppress(ValueError, OSError):  # not below, or the folder we are in is gone
        return str(path.relative_to(Path.cwd()))
    return str(path)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
