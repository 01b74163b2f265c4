import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_course import data
from mrl_course.arguments import is_blank
from mrl_course.errors import WrongKind, WrongValue

TRIPLETS = {
    "anchor": ["A cook peels an onion.", "A cook peels an onion.", "Zwei Kühe 🐄 schlafen."],
    "positive": ["Someone prepares food.", "A person is busy.", "Tiere ruhen."],
    "negative": ["Nobody is in the kitchen.", "The cook sleeps.", "Die Kühe rennen."],
}
PAIRS = {
    "sentence1": ["A bus stops.", "Rain falls."],
    "sentence2": ["A bus halts.", "A violin plays."],
    "score": [0.9, 0.0],
}
TRAIN = {name: [*values, f"{name} of a train row"] for name, values in TRIPLETS.items()}


def write(folder: Path, name: str, columns: dict) -> Path:
    file = folder / f"{name}-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


def write_folder(folder: Path) -> Path:
    for split in data.ALLNLI.splits:
        write(folder / "all-nli/triplet", split, TRAIN if split == "train" else TRIPLETS)
    for split in data.STSB.splits:
        write(folder / "stsb/data", split, PAIRS)
    readme = "---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n"
    for data_set in data.DATA_SETS:
        files = "".join(
            f"  - split: {split}\n    path: {data_set.files_in}/{split}-*\n"
            for split in data_set.splits
        )
        text = readme.format(config=data_set.config or "default", files=files)
        (folder / data_set.name / "README.md").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder")


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch, tmp_path):
    """Each test has an empty hub cache of its own, a tiny miniature and no network."""
    monkeypatch.delenv(data.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        data, "miniature_folder", lambda: write_folder(tmp_path / "mini"), raising=False
    )
    monkeypatch.setattr(data, "probe_hub", lambda data_set: "the test has no network")


@pytest.fixture
def cached(tmp_path):
    """A local hub cache that holds the pinned revisions."""
    write_folder(tmp_path / "copy")
    for data_set in data.DATA_SETS:
        place = tmp_path / "hub" / f"datasets--{data_set.repo.replace('/', '--')}" / "snapshots"
        place.mkdir(parents=True)
        (tmp_path / "copy" / data_set.name).rename(place / data_set.revision)
    return tmp_path / "hub"


# --- a folder ----------------------------------------------------------------------------------


def test_a_folder_gives_the_rows_that_datasets_gives(folder):
    for split in data.ALLNLI.splits:
        ours = data.load_allnli(split, source=folder)
        theirs = datasets.load_dataset(
            str(folder / "all-nli"), "triplet", split=split, cache_dir=str(folder / "cache")
        )
        assert ours.column_names == ["anchor", "positive", "negative"]
        assert ours.to_dict() == theirs.to_dict()
    pairs = data.load_stsb(source=str(folder))
    assert pairs.to_dict() == PAIRS
    assert pairs.features == datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "score": datasets.Value("float64"),
        }
    )


def test_the_environment_variable_names_the_source_and_the_argument_wins(folder, monkeypatch):
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(folder))
    assert len(data.load_allnli("train")) == 4
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(folder / "nowhere"))
    assert len(data.load_allnli("train", source=folder)) == 4
    with pytest.raises(data.DataSourceError, match="nowhere"):
        data.load_allnli("train")


def test_limit_keeps_the_first_rows(folder):
    assert data.load_allnli("dev", 2, folder)["anchor"][:] == TRIPLETS["anchor"][:2]
    assert len(data.load_allnli("dev", limit=99, source=folder)) == 3
    assert len(data.load_allnli("dev", limit=np.int64(2), source=folder)) == 2
    for bad, kind in ((0, WrongValue), (-1, WrongValue), (1.5, WrongKind), (True, WrongKind)):
        with pytest.raises(kind, match=f"limit must be .*{bad}"):
            data.load_allnli("dev", limit=bad, source=folder)


def test_a_changed_file_is_noticed_even_with_an_old_time_stamp(folder):
    file = folder / "stsb/data/test-00000-of-00001.parquet"
    stamp = file.stat().st_mtime_ns
    assert data.load_stsb(source=folder)["score"][0] == 0.9
    write(file.parent, "test", {**PAIRS, "score": [0.4, 0.0]})
    os.utime(file, ns=(stamp, stamp))
    assert data.load_stsb(source=folder)["score"][0] == 0.4


def test_one_row_integer_scores_and_several_files(folder):
    write(folder / "stsb/data", "test", {**{k: v[:1] for k, v in PAIRS.items()}, "score": [1]})
    assert data.load_stsb(source=folder)["score"][:] == [1.0]
    extra = {name: ["last"] for name in TRIPLETS}
    triplets = folder / "all-nli/triplet"
    (triplets / "dev-00000-of-00001.parquet").rename(triplets / "dev-00000-of-00002.parquet")
    pq.write_table(pa.table(extra), triplets / "dev-00001-of-00002.parquet")
    assert data.load_allnli("dev", source=folder)["anchor"][:] == [*TRIPLETS["anchor"], "last"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int64])
def test_scores_of_any_number_type_are_read(folder, dtype):
    write(folder / "stsb/data", "test", {**PAIRS, "score": np.array([1, 0], dtype)})
    scores = data.load_stsb(source=folder)
    assert scores["score"][:] == [1.0, 0.0] and scores.features["score"].dtype == "float64"


@pytest.mark.parametrize(
    ("there", "complaints"),
    [
        ({"dev-00000-of-00003": 1, "dev-00001-of-00003": 1}, ["2 of 3", "dev-00002-of-00003"]),
        ({"dev-00001-of-00002": 1}, ["1 of 2", "dev-00000-of-00002.parquet is missing"]),
        ({"dev-00000-of-00001": 1, "dev-00000-of-00001 (1)": 1}, ["(1).parquet", "twice"]),
        ({"dev-00000-of-00001": 1, "dev-old": 1}, ["dev-old.parquet", "twice"]),
        ({"dev-00000-of-00001": 1, "dev": 1}, ["dev.parquet", "twice"]),
        ({"dev-00000-of-00001": 1, "dev-00000-of-00002": 1}, ["of-00002.parquet", "twice"]),
        ({"dev-00000-of-00001": 1, "dev-00000-of-00001-0123456789abcdef": 1}, ["cdef", "twice"]),
        ({"dev-00005-of-00002": 1}, ["dev-00000-of-00002"]),
        ({"dev": 1}, []),
        ({"dev-00000-of-00001-0123456789abcdef": 1}, []),
    ],
)
def test_parts_that_are_missing_or_too_many_are_named(folder, there, complaints):
    triplets = folder / "all-nli/triplet"
    old = triplets / "dev-00000-of-00001.parquet"
    content = old.read_bytes()
    old.unlink()
    for name in there:
        (triplets / f"{name}.parquet").write_bytes(content)
    if not complaints:
        assert len(data.load_allnli("dev", source=folder)) == 3
        return
    with pytest.raises(data.DataSourceError) as error:
        data.load_allnli("dev", source=folder)
    for complaint in complaints:
        assert complaint in str(error.value)


def test_the_readme_may_name_other_files(folder):
    old = folder / "stsb/data/test-00000-of-00001.parquet"
    old.rename(folder / "stsb/data/part2.parquet")
    readme = folder / "stsb/README.md"
    text = readme.read_text(encoding="utf-8").replace("data/test-*", "data/part2.parquet")
    readme.write_text(text, encoding="utf-8")
    assert data.load_stsb("test", source=folder).to_dict() == PAIRS


def test_one_data_set_alone_will_do(folder):
    (folder / "stsb").rename(folder / "elsewhere")
    assert len(data.load_allnli("test", source=folder)) == 3
    with pytest.raises(data.DataSourceError, match=r"no folder .*stsb"):
        data.load_stsb(source=folder)
    with pytest.raises(data.DataSourceError, match="name its parent"):
        data.load_allnli("test", source=folder / "all-nli")


@pytest.mark.parametrize(
    ("load", "split"), [(data.load_allnli, "validation"), (data.load_stsb, "dev")]
)
def test_an_unknown_split_is_refused_with_the_known_ones(load, split, folder):
    with pytest.raises(data.DataSourceError, match=f"no split '{split}'; choose one of train"):
        load(split, source=folder)


@pytest.mark.parametrize("source", ["hbu", "./nowhere", 3])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(data.DataSourceError, match=f"{source}"):
        data.load_allnli(source=source)


TEST_FILE = "test-00000-of-00001.parquet"


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        ({"anchor": None}, ["no column 'anchor'", "positive, negative"]),
        ({"anchor": [1, 2, 3]}, ["column 'anchor'", "int64", "text"]),
        ({"anchor": pa.nulls(3)}, ["column 'anchor'", "null", "text"]),
        ({"positive": ["x", None, "y"]}, ["column 'positive'", "row 1", "None", "drop"]),
        ({"negative": ["x", "y", " \t\u3000"]}, ["column 'negative'", "row 2", "blank"]),
        ({"anchor": ["", "x", "y"]}, ["column 'anchor'", "row 0", "''"]),
        ({"anchor": ["x", "\u200b", "y"]}, ["column 'anchor'", "row 1", "blank"]),
        ({"anchor": ["x", "y", "\ufeff \u00ad\u200d"]}, ["column 'anchor'", "row 2", "blank"]),
        ({"anchor": ["\0", "x", "y"]}, ["column 'anchor'", "row 0", "blank"]),
    ],
)
def test_bad_triplets_are_named_by_file_column_and_row(folder, change, complaints):
    columns = {k: v for k, v in {**TRIPLETS, **change}.items() if v is not None}
    write(folder / "all-nli/triplet", "test", columns)
    with pytest.raises(data.DataSourceError) as error:
        data.load_allnli("test", source=folder)
    for complaint in (TEST_FILE, *complaints):
        assert complaint in str(error.value)
    assert len(data.load_allnli("dev", source=folder)) == 3  # the other files still serve


@pytest.mark.parametrize(
    ("scores", "complaints"),
    [
        ([0.5, 1.01], ["row 1", "1.01", "divide"]),
        ([-0.1, 0.5], ["row 0", "-0.1"]),
        ([0.5, float("nan")], ["row 1", "nan"]),
        ([None, 0.5], ["row 0", "None"]),
        (["0.5", "0.6"], ["string", "numbers"]),
        ([True, False], ["bool", "numbers"]),
        ([5, 0], ["row 0", "5"]),
        (np.array([0.5, 1.5], np.float16), ["row 1", "1.5"]),
        (np.array([0.5, np.nan], np.float16), ["row 1", "nan"]),
    ],
)
def test_bad_scores_are_named_by_file_column_and_row(folder, scores, complaints):
    write(folder / "stsb/data", "test", {**PAIRS, "score": scores})
    with pytest.raises(data.DataSourceError) as error:
        data.load_stsb(source=folder)
    for complaint in (TEST_FILE, "column 'score'", *complaints):
        assert complaint in str(error.value)


def test_broken_files_are_named(folder):
    file = folder / "all-nli/triplet" / TEST_FILE
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        file.write_bytes(content)
        with pytest.raises(data.DataSourceError, match=f"{TEST_FILE} cannot be read.*again"):
            data.load_allnli("test", source=folder)
    invalid = pa.array([b"\xff\xfe", b"x", b"y"]).view(pa.string())
    write(file.parent, "test", {**TRIPLETS, "anchor": invalid})
    with pytest.raises(data.DataSourceError, match=f"{TEST_FILE} cannot be read"):
        data.load_allnli("test", source=folder)
    write(file.parent, "test", {name: pa.array([], pa.string()) for name in TRIPLETS})
    with pytest.raises(data.DataSourceError, match=f"{TEST_FILE} has no rows"):
        data.load_allnli("test", source=folder)
    file.unlink()
    with pytest.raises(data.DataSourceError, match="no file triplet/test-"):
        data.load_allnli("test", source=folder)


sentences = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=9).filter(
    lambda text: not is_blank(text)
)


@given(rows=st.lists(st.tuples(sentences, sentences, sentences), min_size=1, max_size=5))
def test_any_text_comes_back_unchanged(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    columns = dict(zip(TRIPLETS, map(list, zip(*rows, strict=True)), strict=True))
    write(folder / "all-nli/triplet", "dev", columns)
    assert data.load_allnli("dev", source=folder).to_dict() == columns


def test_nothing_is_printed_and_no_cache_is_needed(folder):
    code = (
        "from mrl_course import data; data.load_allnli('dev', source='folder');"
        "data.load_stsb(source='folder')"
    )
    nowhere = str(folder / "stsb/README.md/cache")  # below a file: cannot be made
    env = {**os.environ, "HF_HOME": nowhere, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.parent, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- the miniature, the hub, and the choice between them -----------------------------------------


def test_mini_reads_the_miniature_in_silence(capsys, monkeypatch, tmp_path):
    assert data.load_stsb(source="mini").to_dict() == PAIRS
    assert data.load_stsb(source=" Mini ").to_dict() == PAIRS
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(data, "miniature_folder", lambda: tmp_path / "gone")
    with pytest.raises(data.DataSourceError, match=r"gone does not exist.*Install"):
        data.load_stsb(source="mini")


def test_auto_without_a_hub_takes_the_miniature_and_says_so_once(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(data, "probe_hub", lambda d: asked.append(d) or "a storm is raging")
    assert len(data.load_allnli()) == 4
    assert len(data.load_stsb(source="auto")) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "miniature, because a storm is raging" in out
    assert len(asked) == 1


def test_auto_takes_a_cached_copy_without_asking_the_network(cached, capsys, monkeypatch):
    monkeypatch.setattr(data, "probe_hub", lambda data_set: pytest.fail("asked the network"))
    assert len(data.load_allnli()) == 4
    assert "the hub, because a copy" in capsys.readouterr().out
    assert len(data.load_allnli(source="hub")) == 4


def test_a_half_cached_snapshot_does_not_count(cached):
    next(cached.glob("*stsb/**/test-*.parquet")).unlink()
    assert data._cached_snapshot(data.STSB) is None
    assert data._cached_snapshot(data.ALLNLI) is not None
    assert data.describe_source().startswith("the embedded miniature")


def test_auto_falls_back_when_the_hub_answers_but_then_fails(capsys, monkeypatch):
    monkeypatch.setattr(data, "probe_hub", lambda data_set: None)

    def fail(*args, local_files_only=False, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("the line went dead\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert len(data.load_allnli()) == 4
    assert len(data.load_stsb()) == 2
    first, second = capsys.readouterr().out.splitlines()
    assert "the hub, because huggingface.co answers" in first
    assert "miniature, because the hub's all-nli failed" in second and "line went dead" in second


def test_auto_falls_back_from_a_broken_cached_copy(cached, capsys):
    next(cached.glob("*all-nli/**/train-*.parquet")).write_bytes(b"PAR1")
    assert len(data.load_allnli()) == 4
    assert "cannot be read" in capsys.readouterr().out


def test_hub_fetches_the_pinned_revision_and_only_what_is_read(folder, monkeypatch):
    monkeypatch.setattr(data, "probe_hub", lambda data_set: None)
    calls = []

    def fake(repo, *, local_files_only=False, **options):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        calls.append((repo, options))
        return str(folder / repo.split("/")[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    data.load_allnli(source="hub")
    data.load_stsb(source="hub")
    assert calls == [
        (
            "sentence-transformers/all-nli",
            {
                "repo_type": "dataset",
                "revision": "cc6c526380e29912b5c6fa03682da4daf773c013",
                "allow_patterns": [
                    "README.md",
                    "triplet/train-*.parquet",
                    "triplet/dev-*.parquet",
                    "triplet/test-*.parquet",
                ],
            },
        ),
        (
            "sentence-transformers/stsb",
            {
                "repo_type": "dataset",
                "revision": "ab7a5ac0e35aa22088bdcf23e7fd99b220e53308",
                "allow_patterns": [
                    "README.md",
                    "data/train-*.parquet",
                    "data/validation-*.parquet",
                    "data/test-*.parquet",
                ],
            },
        ),
    ]


def test_hub_that_cannot_be_had_says_what_to_do():
    with pytest.raises(data.DataSourceError) as error:
        data.load_stsb(source="hub")
    for part in ("no network", "connect", "MRL_COURSE_DATA=mini", "mrl-course data --download"):
        assert part in str(error.value)


# --- the probe itself ----------------------------------------------------------------------------

PROBE = data.probe_hub


def probe_in_fresh_process(**env) -> str:
    """Probe where huggingface_hub reads ``env`` as it is imported."""
    code = "from mrl_course import data; data.PROBE_SECONDS = 1; print(data.probe_hub(data.ALLNLI))"
    env = {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(Path(__file__).parents[1]), **env}
    env = {**os.environ, "NO_PROXY": "127.0.0.1", **env}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_offline_mode_is_respected(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in PROBE(data.ALLNLI)


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = probe_in_fresh_process(HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert answer == f"127.0.0.1:{port} cannot be reached"


@pytest.mark.parametrize(("status", "problem"), [(200, None), (307, None), (404, "404")])
def test_the_answer_of_the_hub_counts(monkeypatch, status, problem):
    asked = []

    def answer_with(code):
        def answer(url, **options):
            asked.append(options["timeout"])
            return SimpleNamespace(status_code=code)

        return answer

    session = SimpleNamespace(head=answer_with(status), get=answer_with(200))
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    answer = PROBE(data.ALLNLI)
    assert answer is None if problem is None else problem in answer
    assert set(asked) == {data.PROBE_SECONDS} and data.PROBE_SECONDS <= 5  # a learner waits for it


def test_a_hub_that_lists_nothing_any_more_is_named(monkeypatch):
    def get(url, **options):
        assert url.endswith(f"/api/datasets/{data.ALLNLI.repo}/tree/{data.ALLNLI.revision}")
        return SimpleNamespace(status_code=429)

    head = lambda url, **options: SimpleNamespace(status_code=200)  # noqa: E731
    session = SimpleNamespace(head=head, get=get)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    assert "HTTP 429 (too many requests)" in PROBE(data.ALLNLI)


def test_a_download_that_stalls_is_given_up_with_the_reason(monkeypatch, capsys):
    """The hub answers the probe, then accepts a question and never answers."""
    monkeypatch.setattr(data, "probe_hub", lambda data_set: None)
    monkeypatch.setattr(data, "STALL_SECONDS", 0.3)
    end, ended = threading.Event(), threading.Event()

    def hang(*args, local_files_only=False, **kwargs):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        end.wait(600)
        ended.set()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hang)
    assert len(data.load_stsb()) == 2
    assert not ended.is_set()  # it hangs still, and nobody waits for it
    end.set()
    assert "nothing arrived for 0.3 s" in capsys.readouterr().out.splitlines()[-1]


def test_a_slow_download_goes_on_and_says_so(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data, "probe_hub", lambda data_set: None)
    monkeypatch.setattr(data, "STALL_SECONDS", 600)
    monkeypatch.setattr(data, "NEWS_SECONDS", 0.2)
    blob = tmp_path / "hub" / "datasets--sentence-transformers--stsb" / "blobs" / "x.incomplete"

    def slow(repo, *, local_files_only=False, **options):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        blob.parent.mkdir(parents=True)
        for size in range(8):
            blob.write_bytes(bytes(size * 10**6))
            time.sleep(0.5)
        return str(folder / "stsb")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", slow)
    assert data.load_stsb(source="hub").to_dict() == PAIRS
    said = capsys.readouterr().out.splitlines()
    assert said and "stsb from huggingface.co" in said[0] and " MB after " in said[0]


@pytest.mark.skipif(sys.platform == "win32", reason="there is always a home folder")
def test_a_container_without_a_home_folder_uses_the_miniature(tmp_path):
    """No HOME, and a user that the system does not know."""
    code = (
        "import os, pathlib\n"
        "def nowhere(path): return path\n"
        "os.path.expanduser = nowhere\n"
        "from mrl_course import data\n"
        "print(data.load_stsb().num_rows > 100)\n"
        "try: data.load_stsb(source='hub')\n"
        "except data.DataSourceError as error: print(error)\n"
        "try: data.load_stsb(source='~/x')\n"
        "except data.DataSourceError as error: print(error)\n"
    )
    hidden = {"HOME", "HF_HOME", "XDG_CACHE_HOME", "MRL_COURSE_DATA", "HF_HUB_OFFLINE"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    announced, loaded, hub, tilde = done.stdout.splitlines()
    assert "miniature, because there is no home folder to keep a copy in" in announced
    assert loaded == "True" and "set HOME or HF_HOME" in hub
    assert "begins with ~ and this process has no home folder" in tilde
    assert not list(tmp_path.iterdir())  # and no folder called ~


def test_importing_the_package_leaves_the_warnings_of_others_alone():
    code = (
        "import warnings; before = list(warnings.filters); import mrl_course;"
        "assert warnings.filters == before"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_a_name_server_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(data, "PROBE_SECONDS", 0.2)
    given_up, ended = threading.Event(), threading.Event()

    def hang():
        given_up.wait(600)
        ended.set()
        raise OSError("no such name")

    monkeypatch.setattr(huggingface_hub, "get_session", hang)
    assert "cannot be reached" in PROBE(data.ALLNLI)
    assert not ended.is_set()  # it hangs still, and nobody waits for it
    given_up.set()
    assert ended.wait(600)


# --- descriptions and retrieval -------------------------------------------------------------------


def test_describe_source_says_which_and_why_without_a_word_on_stdout(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert data.describe_source(folder.parent / "folder") == "the folder folder (source=)"
    assert "no network" in data.describe_source()
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, "mini")
    assert data.describe_source() == "the embedded miniature (MRL_COURSE_DATA=mini)"
    assert capsys.readouterr().out == ""


def test_retrieval_asks_for_each_premise_once(folder):
    task = data.load_retrieval(source=folder)
    assert task.queries == ["Someone prepares food.", "Tiere ruhen."]
    assert task.corpus == [
        "A cook peels an onion.",
        "Zwei Kühe 🐄 schlafen.",
        "anchor of a train row",
    ]
    assert task.relevant == [0, 1]
    assert data.load_retrieval(corpus_size=2, source=folder).corpus == task.corpus[:2]
    with pytest.raises(WrongValue, match="corpus_size=1 is too small.* 2 distinct"):
        data.load_retrieval(corpus_size=1, source=folder)
