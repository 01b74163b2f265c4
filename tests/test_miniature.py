"""The embedded miniature: what is shipped, how it is made, and what its makers must not break."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer

from mrl_course.miniature import build as miniature
from mrl_course.miniature import lexicon, meaning, overlap
from mrl_course.miniature import sentences as wording

FOLDER = miniature.miniature_folder()
TRIPLETS = {s: f"all-nli/triplet/{s}-00000-of-00001.parquet" for s in ("train", "dev", "test")}
PAIRS = {s: f"stsb/data/{s}-00000-of-00001.parquet" for s in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def shipped() -> dict[str, pd.DataFrame]:
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    return {name: pq.read_table(FOLDER / name).to_pandas() for name in manifest["tables"]}


@pytest.fixture(scope="module")
def made() -> meaning.Grammar:
    return miniature.load_grammar()


def sentences(table: pd.DataFrame) -> set[str]:
    text = table.select_dtypes(exclude="number")
    return {miniature.normalise(sentence) for column in text for sentence in text[column]}


# ---------------------------------------------------------------------------------------------
# What is shipped


def test_the_tables_are_those_of_the_manifest(shipped):
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    for name, table in shipped.items():
        expected = {"rows": len(table), "sha256": miniature.content_hash(table)}
        assert manifest["tables"][name] == expected, name
    assert manifest["version"] == miniature.VERSION


@pytest.mark.slow
def test_a_rebuild_gives_the_shipped_tables():
    assert miniature.check() == []


def test_all_of_it_is_at_most_two_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 2_000_000


def test_there_are_enough_rows(shipped):
    assert len(shipped[TRIPLETS["train"]]) >= 20_000
    assert len(shipped[TRIPLETS["dev"]]) >= 1_000
    assert shipped[TRIPLETS["test"]]["anchor"].nunique() >= 2_000
    for split, least in (("train", 1_000), ("validation", 500), ("test", 1_500)):
        assert len(shipped[PAIRS[split]]) >= least


def test_scores_fill_the_range_from_0_to_1(shipped):
    for split in PAIRS:
        scores = shipped[PAIRS[split]]["score"]
        assert scores.dtype == np.float64 and scores.between(0, 1).all()
        share, _ = np.histogram(scores, bins=5, range=(0, 1))
        assert share.min() / len(scores) > 0.1


def test_the_ordinary_loader_reads_the_folders(tmp_path):
    triplets = load_dataset(
        str(FOLDER / "all-nli"), "triplet", split="dev", cache_dir=str(tmp_path)
    )
    pairs = load_dataset(str(FOLDER / "stsb"), split="validation", cache_dir=str(tmp_path))
    assert triplets.column_names == ["anchor", "positive", "negative"]
    assert pairs.column_names == ["sentence1", "sentence2", "score"]


def test_no_held_out_sentence_stands_in_a_training_table(shipped):
    train = sentences(shipped[TRIPLETS["train"]]) | sentences(shipped[PAIRS["train"]])
    held_out = [TRIPLETS["dev"], TRIPLETS["test"], PAIRS["validation"], PAIRS["test"]]
    for name in held_out:
        assert not sentences(shipped[name]) & train, name
    assert not sentences(shipped[TRIPLETS["train"]]) & sentences(shipped[PAIRS["train"]])


def test_held_out_tables_share_no_premise_and_no_pair(shipped):
    premises = [
        {miniature.normalise(text) for text in shipped[name]["anchor"]}
        for name in TRIPLETS.values()
    ]
    pairs = [sentences(shipped[name]) for name in PAIRS.values()]
    for group in (premises, pairs):
        assert len(set.union(*group)) == sum(map(len, group))


def test_no_row_stands_twice_or_repeats_a_sentence(shipped):
    for name in TRIPLETS.values():
        table = shipped[name].map(miniature.normalise)
        assert not table.duplicated().any()
        assert (table.nunique(axis=1) == 3).all()
    for name in PAIRS.values():
        assert not shipped[name].duplicated(["sentence1", "sentence2"]).any()


def test_sentences_are_clean(shipped):
    for name, table in shipped.items():
        for text in sentences(table):
            assert not re.search(r"\*|  | ,| \.|^\s|\s$|\b(\w+) \1\b", text), (name, text)
            assert not re.search(r"\ba [aeio]|\ban [^aeiouh]", text), (name, text)


def test_every_test_premise_has_a_scene(shipped):
    scenes = miniature.load_scenes()
    assert list(scenes.columns) == ["sentence", "scene"]
    premises = shipped[TRIPLETS["test"]]["anchor"].drop_duplicates().tolist()
    assert scenes["sentence"].tolist() == premises
    assert scenes["scene"].nunique() >= 12
    assert scenes["scene"].value_counts().min() >= 20


def test_counting_words_does_not_solve_it(shipped):
    train, test = shipped[TRIPLETS["train"]], shipped[TRIPLETS["test"]]
    pairs = shipped[PAIRS["test"]]
    words = TfidfVectorizer().fit(train.to_numpy().ravel())
    first, second = (words.transform(pairs[c]) for c in ("sentence1", "sentence2"))
    cosine = np.asarray(first.multiply(second).sum(axis=1)).ravel()
    assert spearmanr(cosine, pairs["score"])[0] < 0.65
    rows = test.drop_duplicates("anchor")
    corpus = list(dict.fromkeys([*rows["anchor"], *train["anchor"]]))[:10_000]
    likeness = (words.transform(rows["positive"]) @ words.transform(corpus).T).toarray()
    own = likeness[np.arange(len(rows)), np.arange(len(rows))][:, None]
    assert ((likeness > own).sum(axis=1) < 10).mean() < 0.5


# ---------------------------------------------------------------------------------------------
# How it is made


def test_premises_are_distinct_and_repeatable():
    some = miniature.premises(3_000, seed=5)
    assert len(set(some)) == 3_000
    assert miniature.premises(500, seed=5) == some[:500]
    assert miniature.premises(500, seed=6) != some[:500]
    assert miniature.premises(0) == []


@pytest.mark.parametrize("n", [-1, 2.5, True, None])
def test_premises_wants_a_whole_number(n):
    with pytest.raises(ValueError, match=f"whole number.*{n!r}"):
        miniature.premises(n)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_hash_seed_of_python_changes_nothing(hash_seed):
    code = "from mrl_course.miniature import premises; print(*premises(300), sep='\\n')"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"}
    environment["PYTHONPATH"] = str(Path(miniature.__file__).parents[2])
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert said.stdout.decode("utf-8").split("\n")[:-1] == [
        line.rstrip("\r") for line in miniature.premises(300)
    ]


def test_the_content_hash_is_that_of_json_lines():
    table = pd.DataFrame({"a": ["é", "b"], "b": [0.5, 1.0]})
    expected = hashlib.sha256('["é",0.5]\n["b",1.0]\n'.encode()).hexdigest()
    assert miniature.content_hash(table) == expected


@pytest.fixture
def copy(tmp_path, monkeypatch, shipped) -> Path:
    """A copy of the shipped folder; a rebuild is replaced by reading, to save time."""
    folder = tmp_path / "miniature"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setattr(miniature, "tables", lambda *_: shipped)
    return folder


def test_check_passes_on_a_faithful_copy(copy, capsys):
    assert miniature.main(["--check", "--out", str(copy)]) == 0
    assert str(copy) in capsys.readouterr().out


def test_check_names_the_table_that_differs(copy, capsys, shipped):
    name = TRIPLETS["dev"]
    miniature._write_parquet(shipped[name].iloc[1:], copy / name)
    (copy / PAIRS["test"]).unlink()
    assert miniature.main(["--check", "--out", str(copy)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{name}: the rebuild differs from the file",
        f"{PAIRS['test']}: the file is missing",
    ]


def test_build_writes_what_check_accepts(copy, tmp_path):
    miniature.main(["--out", str(tmp_path / "new")])
    assert miniature.check(tmp_path / "new") == []


def test_an_interrupted_build_keeps_the_old_files(copy, monkeypatch):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def broken(table, path, **_):
        Path(path).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(miniature.pq, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        miniature.build(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------------------------------------
# The grammar

SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_a_weaker_meaning_never_adds_a_detail(made, seed):
    rng = Random(seed)
    frame = made.frame(rng)
    weaker = made.weaken(rng, frame, rng.random())
    for part in ("spot", "setting", "wear", "when", "posture", "second"):
        told = getattr(weaker, part)
        assert not told or getattr(frame, part), part
    sources = [e for e in (frame.event, frame.second) if e and e.action is weaker.event.action]
    actors = [np for e in sources for np in (e.actor, e.partner) if np]
    assert any(holds(weaker.event.actor, np) for np in actors)
    if weaker.event.object:
        assert any(holds(weaker.event.object, e.object) for e in sources)
    assert weaker.event.negated == (weaker.event.level == "against")


def holds(wide: meaning.NP, narrow: meaning.NP) -> bool:
    """True if whatever is `narrow` is `wide` too."""
    same = narrow.thing.is_a(wide.thing) and set(wide.adjectives) <= set(narrow.adjectives)
    if wide.count is None or narrow.count is None:
        return same and wide.count is narrow.count
    return same and wide.count.low <= narrow.count.low <= narrow.count.high <= wide.count.high


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_a_contradiction_changes_the_meaning(made, seed):
    rng = Random(seed)
    frame = made.frame(rng)
    assert made.contradict(rng, frame, 0.0) != frame
    assert overlap.meaning_overlap(frame, made.contradict(rng, frame, 0.0)) < 1


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_a_new_count_excludes_the_old_one(made, seed):
    rng = Random(seed)
    frame = made.frame(rng, made.lexicon.scenes["kitchen"])
    count = frame.event.actor.count
    if count is None or frame.event.partner:
        return
    changed = made._edit_actor_count(rng, frame).event.actor.count
    assert changed.high < count.low or changed.low > count.high


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_the_grade_is_symmetric_and_between_0_and_1(made, seed):
    rng = Random(seed)
    one, other = made.frame(rng), made.frame(rng)
    grade = overlap.meaning_overlap(one, other)
    assert 0 <= grade <= 1
    assert grade == overlap.meaning_overlap(other, one)
    assert overlap.meaning_overlap(one, one) == 1


def test_the_grade_looks_at_meaning_not_at_words(made):
    rng = Random(1)
    frame = made.frame(rng, made.lexicon.scenes["kitchen"])
    first = wording.Voice(rng)
    said = wording.say(frame, first)
    again = wording.say(frame, wording.Voice(rng, "other", frozenset(first.said)))
    assert said != again
    denied = made._edit_negate(rng, frame)
    assert overlap.meaning_overlap(frame, denied) <= 0.5


@pytest.mark.parametrize(
    ("words", "expected"),
    [("apple", "an"), ("uniform", "a"), ("umbrella", "an"), ("old uniform", "an"), ("hour", "an")],
)
def test_articles(words, expected):
    assert wording.article(words) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bus", "buses"),
        ("berry", "berries"),
        ("toy", "toys"),
        ("coffee machine", "coffee machines"),
    ],
)
def test_regular_plurals(word, expected):
    assert lexicon.pluralise(word) == expected


# ---------------------------------------------------------------------------------------------
# Mistakes in the lexicon


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def words(tmp_path) -> Path:
    folder = tmp_path / "lexicon"
    shutil.copytree(FOLDER / "lexicon", folder)
    return folder


MISTAKES = {
    "a missing column": ("nouns.csv", "word,plural,", "word,", "line 1, column 'plural': .*first"),
    "an unknown scene": ("actions.csv", "kitchen,slice", "kichen,slice", "'scene': 'kichen'"),
    "an unknown scene of a place": ("places.csv", "kitchen,", "kichen,", "'scene': 'kichen'"),
    "an empty field": ("adjectives.csv", "young,age", "young,", "line 2, column 'group': .*empty"),
    "a word that stands twice": ("nouns.csv", "baker,", "man,", "'man' stands in line .* remove"),
    "a synonym of nothing": ("nouns.csv", ",chef,", ",cheff,", "'same_as': 'cheff' refers to noth"),
    "a wider word of nothing": ("nouns.csv", ",worker,,", ",wroker,,", "'is_a': 'wroker' refers"),
    "an unknown verb": ("actions.csv", "slice *", "slyce *", "'action': 'slyce' refers to nothing"),
    "an unknown object": ("actions.csv", "bread;tomato", "bred;tomato", "'objects': 'bred' refers"),
    "an action without its object": ("actions.csv", "slice *", "slice", "objects don't fit"),
    "an unknown opposite": ("adjectives.csv", "age,,elderly", "age,,eldrly", "'eldrly' refers"),
    "a count that is no number": ("quantities.csv", "two,2,2", "two,2,some", "'some' is no number"),
    "low above high": ("quantities.csv", "two,2,2", "two,3,2", "low is above high; swap"),
    "a field too many": ("quantities.csv", "two,2,2", "two,2,2,2", "has not 3 fields; .*quotes"),
    "an unknown form": ("nouns.csv", "mass", "mess", "'form': 'mess' is unknown; use"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_column_and_fix(words, mistake):
    name, old, new, message = MISTAKES[mistake]
    edit(words, name, old, new)
    with pytest.raises(ValueError, match=message) as error:
        lexicon.Lexicon(words)
    assert re.search(rf"{re.escape(name)}, line \d+, column '\w+': .+; .+\.$", str(error.value))


def test_a_missing_file_is_named(words):
    (words / "verbs.csv").unlink()
    with pytest.raises(ValueError, match=r"verbs\.csv: the file is missing"):
        lexicon.Lexicon(words)


def test_a_circle_of_wider_words_is_named(words):
    edit(words, "nouns.csv", "worker,,person,,person,", "worker,,person,,chef,")
    with pytest.raises(ValueError, match=r"column 'is_a': '\w+' is wider than itself"):
        lexicon.Lexicon(words)


def test_a_new_word_is_used_after_a_rebuild(words):
    with (words / "nouns.csv").open("a", encoding="utf-8") as stream:
        stream.write("zucchini,zucchini,vegetable,,vegetable,,\n")
    edit(words, "actions.csv", "bread;tomato;", "zucchini;")
    rng, made = Random(0), meaning.Grammar(lexicon.Lexicon(words))
    kitchen = made.lexicon.scenes["kitchen"]
    lines = [wording.say(made.frame(rng, kitchen), wording.Voice(rng)) for _ in range(2_000)]
    assert any("zucchini" in line for line in lines)
