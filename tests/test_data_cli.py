import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from test_data import PAIRS, TRAIN, write_folder

from mrl_course import cli, data


def run(*arguments: str) -> int:
    return cli.main(["data", *map(str, arguments)])


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe_files(folder: Path) -> list[dict]:
    """What the hub's API says about each file of a snapshot."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        file = {"path": path.relative_to(folder).as_posix(), "size": len(content)}
        file["oid"] = git_hash(content)
        if path.suffix == ".parquet":
            sha = hashlib.sha256(content).hexdigest()
            file["lfs"] = {"oid": sha, "sha256": sha, "size": len(content), "pointerSize": 130}
        files.append(file)
    return files


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch, tmp_path):
    monkeypatch.delenv(data.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(data, "probe_hub", lambda data_set: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def remote(tmp_path):
    """What lies on the (fake) hub."""
    folder = write_folder(tmp_path / "remote")
    (folder / "all-nli/pair").mkdir()
    (folder / "all-nli/pair/unwanted.parquet").write_bytes(b"not needed")
    return folder


@pytest.fixture
def hub(monkeypatch, remote):
    """Serve ``remote`` in place of the two hub functions; returns the fetches."""
    fetched = []

    def snapshot_download(repo, *, local_dir, allow_patterns, **options):
        fetched.append((repo, options))
        source = remote / repo.split("/")[1]
        for pattern in allow_patterns:
            for path in source.glob(pattern):
                place = Path(local_dir) / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
        (Path(local_dir) / ".cache/huggingface").mkdir(parents=True)
        return str(local_dir)

    described = {path.name: describe_files(path) for path in remote.iterdir()}

    def dataset_info(self, repo, *, revision, files_metadata, timeout):
        assert revision in (data.ALLNLI.revision, data.STSB.revision) and files_metadata
        return SimpleNamespace(
            siblings=[
                SimpleNamespace(
                    rfilename=file["path"],
                    blob_id=file["oid"],
                    lfs=SimpleNamespace(**file["lfs"]) if "lfs" in file else None,
                )
                for file in described[repo.split("/")[1]]
            ]
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return fetched


def test_report_names_the_source_rows_and_columns(remote, capsys, monkeypatch):
    assert run("--source", remote) == 0
    out = capsys.readouterr().out
    assert str(remote) in out
    assert "all-nli: train 4 rows, dev 3 rows, test 3 rows; columns anchor, positive" in out
    assert "stsb: train 2 rows, validation 2 rows, test 2 rows; columns sentence1" in out

    monkeypatch.setattr(data, "miniature_folder", lambda: remote)
    monkeypatch.setattr(data, "probe_hub", lambda data_set: "a storm is raging")
    assert run() == 0
    assert capsys.readouterr().out.count("Data: the embedded miniature, because a storm") == 1


def test_report_of_a_source_that_is_not_there_fails_with_a_message(capsys):
    assert run("--source", "nowhere") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mrl-course: error: No data source 'nowhere'")
    assert captured.err.count("\n") == 1


def test_download_makes_a_folder_that_the_loaders_read(hub, tmp_path, capsys):
    target = tmp_path / "a class" / "data"
    assert run("--download", target) == 0
    out = capsys.readouterr().out
    assert "all-nli: train 4 rows, dev 3 rows, test 3 rows" in out
    assert f"export MRL_COURSE_DATA='{target}'" in out
    assert f'$env:MRL_COURSE_DATA = "{target}"' in out
    assert data.load_allnli(source=target).to_dict() == TRAIN
    assert data.load_stsb(source=target).to_dict() == PAIRS
    assert sorted(path.name for path in target.iterdir()) == ["all-nli", "stsb"]
    assert sorted(path.name for path in (target / "all-nli").iterdir()) == ["README.md", "triplet"]

    hub.clear()
    assert run("--download", target) == 0  # a right copy is not fetched again
    assert hub == []


def test_data_that_is_there_already_is_never_replaced(hub, tmp_path, capsys):
    own = write_folder(tmp_path / "own")
    file = own / "all-nli/triplet/dev-00000-of-00001.parquet"
    file.write_bytes(b"precious")
    assert run("--download", own) == 2
    assert "dev-00000-of-00001.parquet is not the file of the pinned" in capsys.readouterr().err
    assert file.read_bytes() == b"precious"


@pytest.mark.parametrize("damage", ["other bytes", "missing", "README.md"])
def test_a_damaged_download_leaves_nothing(hub, remote, tmp_path, capsys, damage):
    file = remote / "stsb/data/test-00000-of-00001.parquet"
    if damage == "missing":
        file.unlink()
    elif damage == "README.md":
        (remote / "stsb/README.md").write_text("changed", encoding="utf-8")
    else:
        file.write_bytes((remote / "stsb/data/train-00000-of-00001.parquet").read_bytes() + b" ")
    target = tmp_path / "target"
    assert run("--download", target) == 2
    assert "arrived damaged" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["all-nli"]  # whole, so kept


@pytest.mark.parametrize("error", [ConnectionError("gone"), KeyboardInterrupt()])
def test_an_interrupted_download_leaves_nothing(hub, tmp_path, capsys, monkeypatch, error):
    fetch = huggingface_hub.snapshot_download

    def interrupted(*args, **options):
        fetch(*args, **options)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupted)
    target = tmp_path / "target"
    if isinstance(error, KeyboardInterrupt):
        assert run("--download", target) == 130
    else:
        assert run("--download", target) == 2
        assert "failed (ConnectionError: gone)" in capsys.readouterr().err
    assert list(target.iterdir()) == []


def test_download_without_a_network_or_into_a_file_says_so(hub, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert run("--download", tmp_path / "file") == 2
    assert f"cannot write into {tmp_path / 'file'}" in capsys.readouterr().err
    monkeypatch.setattr(data, "probe_hub", lambda data_set: "no cable")
    assert run("--download", tmp_path / "target") == 2
    assert "Cannot download: no cable. Connect" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


# --- the real client against a server that speaks the hub's API ----------------------------------


def make_handler(remote: Path, requests: list[str]) -> type[BaseHTTPRequestHandler]:
    revisions = {data_set.repo: data_set.revision for data_set in data.DATA_SETS}

    class Hub(BaseHTTPRequestHandler):
        def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            requests.append(path)
            for repo, revision in revisions.items():
                folder = remote / repo.split("/")[1]
                files = describe_files(folder)
                if path == f"/api/datasets/{repo}/tree/{revision}":
                    tree = [{"type": "file", **file} for file in files]
                    return self.answer(200, json.dumps(tree).encode())
                if path == f"/api/datasets/{repo}/revision/{revision}":
                    siblings = [
                        {**file, "rfilename": file["path"], "blobId": file["oid"]} for file in files
                    ]
                    info = {"id": repo, "sha": revision, "siblings": siblings}
                    return self.answer(200, json.dumps(info).encode())
                name = path.removeprefix(f"/datasets/{repo}/resolve/{revision}/")
                if name != path and (folder / name).is_file():
                    content = (folder / name).read_bytes()
                    etag = f'"{hashlib.sha256(content).hexdigest()}"'
                    return self.answer(200, content, ETag=etag, X_Repo_Commit=revision)
            return self.answer(404)

        do_HEAD = do_GET

        def log_message(self, *args) -> None:
            pass

    return Hub


@pytest.fixture
def server(remote, tmp_path):
    """A local hub; returns the environment for its clients and the list of requests."""
    requests: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), make_handler(remote, requests)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}
        env |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        # On a busy machine even this hub is slow to answer.
        env |= {"HF_HUB_ETAG_TIMEOUT": "600", "HF_HUB_DOWNLOAD_TIMEOUT": "600"}
        yield env, requests
        server.shutdown()


def python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600
    )


def test_the_real_client_loads_the_pinned_snapshot_and_keeps_it(server):
    env, requests = server
    code = (
        "from mrl_course import data; data.PROBE_SECONDS = 600;"
        "print(len(data.load_allnli()), len(data.load_stsb()));"
        "print(data.load_allnli('dev', source='hub')[0]['anchor'])"
    )
    done = python(code, env)
    assert done.stderr == ""
    announced, *loaded = done.stdout.splitlines()
    assert "the hub, because 127.0.0.1" in announced
    assert loaded == ["4 2", "A cook peels an onion."]
    assert not any("unwanted" in path for path in requests)

    requests.clear()
    offline = python(code, {**env, "HF_HUB_OFFLINE": "1"})
    assert offline.stderr == "" and requests == []
    announced, *loaded = offline.stdout.splitlines()
    assert "the hub, because a copy of its pinned revisions is in the local cache" in announced
    assert loaded == ["4 2", "A cook peels an onion."]


def test_the_real_client_downloads_a_checked_copy(server, tmp_path):
    env, _ = server
    target = tmp_path / "copy"
    code = (
        "import pathlib; from mrl_course.commands import data as data_cli;"
        f"data_cli.download(pathlib.Path({str(target)!r}))"
    )
    done = python(code, env)
    assert done.returncode == 0, done.stderr
    assert data.load_allnli(source=target).to_dict() == TRAIN
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == sorted(
        ["README.md"] * 2
        + [f"{s}-00000-of-00001.parquet" for s in (*data.ALLNLI.splits, *data.STSB.splits)]
    )
