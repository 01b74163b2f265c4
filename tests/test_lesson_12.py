"""What lesson 12 builds by hand is what the libraries do, its bugs are bugs, its records whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_source import functions_of
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from mrl_course import check
from mrl_course.check import lesson_12 as exercises
from mrl_course.check.shared import near_queries
from mrl_course.losses import info_nce
from mrl_course.models import build_static_model
from mrl_course.results import load_results
from mrl_course.search import exact_search, shortlist_rerank

LESSON = functions_of("12_beyond_one_machine")
seeds = st.integers(0, 10**6)


def batch(seed, rows=24, dim=8):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, dim, generator=generator, dtype=torch.float64) for _ in range(3)]


@settings(deadline=None, max_examples=30)
@given(seeds, st.sampled_from([1, 2, 3, 4, 6]))
def test_gathered_parts_are_one_process_and_parts_apart_are_their_own(seed, processes):
    anchors, positives, negatives = batch(seed)
    whole = info_nce(anchors, torch.cat([positives, negatives]))
    gathered = LESSON["gathered"](anchors, positives, negatives, processes)
    torch.testing.assert_close(gathered, whole)
    apart = LESSON["apart"](anchors, positives, negatives, processes)
    size = 24 // processes
    by_hand = [
        info_nce(
            anchors[i : i + size], torch.cat([positives[i : i + size], negatives[i : i + size]])
        )
        for i in range(0, 24, size)
    ]
    torch.testing.assert_close(apart, torch.stack(by_hand).mean())
    assert apart <= whole + 1e-9  # fewer candidates, never a larger loss


def test_one_part_is_what_the_library_computes_in_one_process(monkeypatch):
    """The library's loss with the other processes' embeddings put in its gather."""
    from sentence_transformers.sentence_transformer.losses import (
        multiple_negatives_ranking as library,
    )

    anchors, positives, negatives = batch(3)
    loss = MultipleNegativesRankingLoss(
        build_static_model(["a b"], dim=8), gather_across_devices=True
    )
    part = torch.arange(8, 16)  # the second of three processes
    everything = iter([anchors, positives, negatives])
    monkeypatch.setattr(library, "all_gather_with_grad", lambda _own: next(everything))
    monkeypatch.setattr(library, "get_rank", lambda: 1)
    own = [column[part] for column in (anchors, positives, negatives)]
    want = loss.compute_loss_from_embeddings(own, None)
    got = LESSON["loss_of_part"](anchors, positives, negatives, part)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("processes", "gather"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("hard", [0, 1, 2])
def test_the_negatives_of_exercise_1_are_those_of_the_losses(processes, gather, hard):
    """With embeddings that are all alike every candidate is as likely: the loss counts them."""
    same = torch.ones(24, 4)
    part = same if gather else same[: 24 // processes]
    loss = info_nce(part, torch.cat([part] * (1 + hard)))
    counted = round(float(loss.exp())) - 1
    assert exercises.negatives_of(24, processes, hard, gather) == counted


def test_a_pool_breaks_even_where_both_take_as_long():
    n = LESSON["break_even"](100, 150, 20)
    assert n == pytest.approx(6000) and n / 100 == pytest.approx(20 + n / 150)
    assert LESSON["break_even"](100, 100, 20) == np.inf == LESSON["break_even"](100, 50, 20)


def test_share_found_counts_ids_wherever_they_stand():
    assert LESSON["share_found"](np.array([[1, 2]]), np.array([[2, 1]])) == 1
    assert LESSON["share_found"](np.array([[1, 2], [3, 4]]), np.array([[9, 1], [3, 4]])) == 0.75


@pytest.mark.parametrize("seed", range(3))
def test_the_statement_of_exercise_2_is_shortlist_rerank(seed):
    queries, corpus = near_queries(3, 200, 16, seed)
    for query in queries:
        ids, looks = exercises.run_sql(exercises.TWO_STAGES, query, corpus, 4, 30, 5)
        assert ids == shortlist_rerank(query, corpus, 4, 30, 5).indices.tolist()
        assert looks <= 2 * 30
        wrong, _ = exercises.run_sql(exercises.LIMIT_SWAPPED, query, corpus, 4, 30, 5)
        assert set(wrong) == set(exact_search(query, corpus, 5, dim=4).indices.tolist())


@pytest.mark.parametrize(
    ("name", "exercise", "words"),
    [("shortlist_by_prefix", "prefix_index", "different lengths; long ones win")],
)
def test_the_bug_of_the_lesson_is_found_by_its_check(name, exercise, words):
    checker = getattr(check, exercise)
    checker(LESSON[name])
    assert checker.state == "wrong" and words in checker.message


def test_the_records_hold_what_the_lesson_shows():
    engines = load_results("engines")
    assert set(engines.engine) == {"sqlite", "postgres"} and engines.attrs["corpus"] == 100_000
    assert (engines.recall > 0.98).all() and (engines.low <= engines.milliseconds).all()
    assert (engines.milliseconds <= engines.high).all()
    assert (engines.bytes_stored >= 4 * 768 * 100_000).all()
    ways = engines.set_index(["engine", "method"])
    milliseconds, scanned = ways.milliseconds, ways.bytes_scanned
    assert milliseconds["sqlite", "exact"] > 3 * milliseconds["sqlite", "prefix + rerank"]
    assert scanned["postgres", "HNSW full"] > 3 * scanned["postgres", "HNSW prefix + rerank"]
    graphs = {"postgres: graph over prefixes", "postgres: graph over full vectors"}
    assert graphs <= set(engines.attrs["seconds"])
    encoding = load_results("encoding")
    assert encoding.model.nunique() == 2
    for _, rows in encoding.groupby("model"):
        assert sorted(rows.what) == ["encode", "encode", "start the pool"]
        assert (rows.texts_per_second * rows.seconds / rows.texts - 1).abs().max() < 0.05
