"""Exercises of lesson 06: costs on paper, recall of two stages, a funnel that cheats, row -1."""

import inspect

import numpy as np

from mrl_course.check.engine import Wrong, register
from mrl_course.check.shared import near_queries, unit
from mrl_course.costs import search_cost
from mrl_course.search import exact_search, rerank, shortlist_rerank

# ----------------------------------------------------------------------------- answer keys


def speed_up_on_paper(n, full_dim, dim, size):
    """Multiply-adds of exact search, divided by those of a shortlist with a rerank."""
    exact = search_cost(n, full_dim).multiply_adds
    return exact / search_cost(n, full_dim, dim, size).multiply_adds


def recall_of_two_stages(queries, corpus, dim, size, top_k):
    """Share of the exact results that a shortlist with a rerank finds, 0 to 1."""
    exact = exact_search(queries, corpus, top_k).indices
    return _share(shortlist_rerank(queries, corpus, dim, size, top_k).indices, exact)


def compare_funnels(query, corpus, neighbours, settings):
    """The rows that each funnel ends with; every funnel starts from the same neighbours."""
    results = []
    for steps in settings:
        rows = neighbours
        for dim, look in steps:
            rows = rerank(query[:dim], corpus[:, :dim], rows[:look], look).indices
        results.append(rows)
    return results


def rerank_rows(query, corpus, candidates, top_k):
    """The best rows among the candidates of one query, the best first."""
    return rerank(query, corpus, candidates, top_k).indices


def _share(found, wanted) -> float:
    """Mean over rows of the share of ``wanted`` that is in ``found``."""
    return float(np.mean([np.isin(w, f).mean() for f, w in zip(found, wanted, strict=True)]))


def _one_number(got) -> bool:
    return np.ndim(got) == 0 and isinstance(got, (int, float, np.number))


# ------------------------------------------------------------------------------- exercises

PAPER_MISTAKES = [
    (lambda n, full, dim, size: full / dim, "that leaves out the second stage."),
    (
        lambda n, full, dim, size: n * full / (n * dim + size * dim),
        "the second stage compares all numbers of each row on the shortlist, not dim of them.",
    ),
    (
        lambda n, full, dim, size: n * full / (n * dim + n * full),
        "the second stage compares the rows on the shortlist only.",
    ),
    (
        lambda n, full, dim, size: 1 / speed_up_on_paper(n, full, dim, size),
        "that is the share that is left; how many times fewer are they?",
    ),
    (
        lambda n, full, dim, size: n * dim + size * full,
        "those are the multiply-adds of the two stages; divide those of exact search by them.",
    ),
]


@register(
    lesson=6,
    answer=speed_up_on_paper,
    expects="a function speed_up_on_paper(n, full_dim, dim, size) -> a number",
    why="This is the best that cutting can do; a stopwatch says what becomes of it.",
    hints=[
        "Exact search computes n * full_dim products. What does the first stage compute?",
        "First stage: n * dim. Second stage: size * full_dim. Add them, then divide.",
    ],
    wrong_answers=[Wrong(mistake, says=words[:40]) for mistake, words in PAPER_MISTAKES]
    + [
        Wrong(lambda n, full, dim, size: [1.0], says="one number"),
        Wrong(lambda n, full, dim, size: 3.0, says="expected"),
    ],
)
def multiply_adds_on_paper(answer):
    """Check for a small corpus, where the second stage counts, and for a large one."""
    for setting in ((8_000, 768, 64, 200), (1_000_000, 768, 32, 1_000)):
        got, want = answer(*setting), speed_up_on_paper(*setting)
        start = "for n = {:,}, full_dim = {}, dim = {}, size = {:,}".format(*setting)
        if not _one_number(got):
            return f"{start}: return one number."
        if abs(got - want) <= 1e-6 * want:
            continue
        for mistake, words in PAPER_MISTAKES:
            if abs(got - mistake(*setting)) <= 1e-6 * abs(got):
                return f"{start} you return {got:.4g}, expected {want:.4g}: {words}"
        return f"{start} you return {got:.4g}, expected {want:.4g}."
    return None


def _order(queries, corpus, dim):
    """(q, n) row numbers by the cosine of the first dim numbers, the best first."""
    scores = unit(queries[:, :dim]) @ unit(corpus[:, :dim]).T
    return np.argsort(-scores, axis=1, kind="stable")


def _by_dots(queries, corpus, dim, size, top_k):
    short = np.argsort(-(queries[:, :dim] @ corpus[:, :dim].T), axis=1)[:, :size]
    full = queries @ corpus.T
    best = np.argsort(-np.take_along_axis(full, short, axis=1), axis=1)[:, :top_k]
    exact = np.argsort(-full, axis=1)[:, :top_k]
    return _share(np.take_along_axis(short, best, axis=1), exact)


RECALL_MISTAKES = [
    (
        lambda q, c, dim, size, k: _share(
            exact_search(q, c, k, dim=dim).indices, exact_search(q, c, k).indices
        ),
        "that is the prefix alone: the rows on the shortlist must be compared with all numbers.",
    ),
    (
        lambda q, c, dim, size, k: float(
            np.mean(
                shortlist_rerank(q, c, dim, size, k).indices == exact_search(q, c, k).indices
            )
        ),
        "you compare place by place. One lost row moves all others up; what counts is whether "
        "a row is among the results, not where.",
    ),
    (
        lambda q, c, dim, size, k: recall_of_two_stages(q, c, dim, size, k) * k / size,
        "you divide by the length of the shortlist; divide by top_k.",
    ),
    (
        lambda q, c, dim, size, k: float(
            np.mean(
                [
                    np.isin(row, found).all()
                    for row, found in zip(
                        exact_search(q, c, k).indices,
                        shortlist_rerank(q, c, dim, size, k).indices,
                        strict=True,
                    )
                ]
            )
        ),
        "you count queries for which everything was found; a query with 4 of 5 counts 0.8.",
    ),
    (
        lambda q, c, dim, size, k: recall_of_two_stages(q, c, dim, size, 1),
        "you look at the first result only; all top_k count.",
    ),
    (_by_dots, "you rank by dot products of vectors of different length: normalise the rows."),
]  # fmt: skip


@register(
    lesson=6,
    answer=recall_of_two_stages,
    expects="a function recall_of_two_stages(queries, corpus, dim, size, top_k) -> 0 to 1",
    why="With this one number you can judge any shortcut, also of a system you cannot look into.",
    hints=[
        "You need two lists for each query: its exact top_k, and what the two stages return.",
        "exact_search and shortlist_rerank both have .indices of shape (q, top_k).",
        "np.isin(exact_row, found_row).mean() is the share of one query; average over queries.",
    ],
    wrong_answers=[Wrong(mistake, says=words[:40]) for mistake, words in RECALL_MISTAKES]
    + [
        Wrong(lambda q, c, dim, size, k: np.ones(len(q)), says="one number"),
        Wrong(lambda q, c, dim, size, k: 1.0, says="expected"),
    ],
)
def two_stage_recall(answer):
    """Check on vectors of different lengths, with a shortlist that loses some rows."""
    queries, corpus = near_queries(40, 300, 24, seed=1)
    for setting in ((6, 12, 5), (4, 30, 8)):
        got, want = (
            answer(queries, corpus, *setting),
            recall_of_two_stages(queries, corpus, *setting),
        )
        start = "for dim = {}, size = {}, top_k = {}".format(*setting)
        if not _one_number(got):
            return f"{start}: return one number, the mean over all queries."
        if abs(got - want) < 1e-9:
            continue
        for mistake, words in RECALL_MISTAKES:
            if abs(got - mistake(queries, corpus, *setting)) < 1e-9:
                return f"{start} you return {got:.3f}, expected {want:.3f}: {words}"
        return f"{start} you return {got:.3f}, expected {want:.3f}."
    return None


def _funnels(query, corpus, neighbours, settings, *, shared, normalise=True, sign=-1):
    """The lesson's buggy function; ``shared``: all settings write into one list."""
    results = []
    for steps in settings:
        rows = neighbours if shared else neighbours.copy()
        for dim, look in steps:
            rows = rows[:look]
            taken = corpus[rows, :dim]
            scores = (unit(taken) if normalise else taken) @ query[:dim]
            rows[:] = rows[np.argsort(sign * scores)]
        results.append(rows.copy())
    return results


def _in_place(query, corpus, neighbours, settings):
    return _funnels(query, corpus, neighbours, settings, shared=True)


def _copied_once(query, corpus, neighbours, settings):
    return _funnels(query, corpus, neighbours.copy(), settings, shared=True)


@register(
    lesson=6,
    answer=compare_funnels,
    expects="a function compare_funnels(query, corpus, neighbours, settings) -> a list of arrays",
    why="A comparison is only one if every setting starts from the same place.",
    hints=[
        "Print neighbours before and after a call. Who changed it?",
        "rows[:look] is a view: it shares its memory with neighbours. rows[:] = ... writes there.",
        "rows = rows[np.argsort(-scores)] makes a new array. Then nothing needs to be copied.",
    ],
    wrong_answers=[
        Wrong(_in_place, says="`neighbours` in place"),
        Wrong(_copied_once, says="the setting before has left"),
        Wrong(lambda *given: _funnels(*given, shared=False, normalise=False), says="normalise"),
        Wrong(lambda *given: _funnels(*given, shared=False, sign=1), says="argsort is ascending"),
        Wrong(lambda *given: compare_funnels(*given)[-1], says="for each setting"),
        Wrong(
            lambda query, corpus, neighbours, settings: [
                neighbours[: steps[-1][1]] for steps in settings
            ],
            says="not compared again",
        ),
        Wrong(
            lambda query, corpus, neighbours, settings: [
                rerank_rows(query, corpus, neighbours[: steps[0][1]], steps[-1][1])
                for steps in settings
            ],
            says="expected",
        ),
    ],
)
def funnels_that_share(answer):
    """Check wide settings before narrow ones: that is the order in which the bug helps itself."""
    queries, corpus = near_queries(6, 400, 24, seed=2)
    settings = [[(8, 160), (24, 40)], [(8, 60), (24, 20)], [(8, 20), (24, 10)]]
    for number, query in enumerate(queries):
        neighbours = exact_search(query, corpus, 200, dim=3).indices
        given = (query, corpus, neighbours, settings)
        got, want = answer(*given), compare_funnels(*given)
        if not isinstance(got, (list, tuple)) or len(got) != len(want):
            return "return a list with one array of rows for each setting."
        got = [np.asarray(rows) for rows in got]
        for steps, rows, right in zip(settings, got, want, strict=True):
            if rows.shape != right.shape:
                return f"setting {steps} should end with {len(right)} rows, not {rows.shape}."
        if _same_rows(got, want):
            continue
        known = {
            "its later settings start from the order that the setting before has left; copying "
            "once is not enough.": _copied_once(*given),
            "the rows have different lengths: normalise them.": _funnels(
                *given, shared=False, normalise=False
            ),
            "it keeps the least similar rows: argsort is ascending.": _funnels(
                *given, shared=False, sign=1
            ),
            "the rows were not compared again.": [neighbours[: s[-1][1]] for s in settings],
        }
        for words, rows in known.items():
            if _same_rows(got, rows):
                return f"for query {number} the results differ from honest ones: {words}"
        place = next(i for i, rows in enumerate(got) if not _same_rows([rows], [want[i]]))
        return (
            f"for query {number} and setting {settings[place]} you return {got[place][:5]}..., "
            f"expected {want[place][:5]}..."
        )
    return None


def _same_rows(got, want) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def _plain_rerank(query, corpus, candidates, top_k):
    scores = unit(corpus[candidates]) @ query
    return candidates[np.argsort(-scores)[:top_k]]


def _last_row(query, corpus, candidates, top_k):
    return _plain_rerank(query, corpus, candidates, top_k) % len(corpus)


def _no_error(query, corpus, candidates, top_k):
    return _plain_rerank(query, corpus, candidates[candidates >= 0], top_k)


@register(
    lesson=6,
    answer=rerank_rows,
    expects="a function rerank_rows(query, corpus, candidates, top_k) -> (top_k,) row numbers",
    why="-1 is a valid index in NumPy, so nobody warns you; now your function does.",
    hints=[
        "What is corpus[-1] in NumPy?",
        "Keep candidates[candidates >= 0]. Then count: are there still top_k of them?",
        "Fewer than top_k: raise ValueError(f'{len(rows)} candidates, top_k is {top_k}').",
    ],
    wrong_answers=[
        Wrong(_plain_rerank, says="-1 itself"),
        Wrong(_last_row, says="last row of the corpus"),
        Wrong(_no_error, says="ValueError"),
        Wrong(
            lambda query, corpus, candidates, top_k: candidates[candidates >= 0][:top_k],
            says="order of the candidates",
        ),
        Wrong(
            lambda query, corpus, candidates, top_k: _by_dot(query, corpus, candidates, top_k),
            says="normalise",
        ),
        Wrong(
            lambda query, corpus, candidates, top_k: rerank_rows(query, corpus, candidates, 3),
            says="4 rows",
        ),
        Wrong(
            lambda query, corpus, candidates, top_k: np.arange(top_k),
            says="expected",
        ),
    ],
)
def candidates_with_gaps(answer):
    """Check candidates with -1 among them, then too few, which must be an error."""
    queries, corpus = near_queries(5, 60, 8, seed=3)
    corpus[-1] = 3 * queries.mean(axis=0)  # so that the last row likes to turn up
    for query in queries:
        nearest = exact_search(query, corpus[:-1], 8, dim=4).indices
        candidates = np.r_[nearest, [-1, -1]]
        got, want = answer(query, corpus, candidates, 4), rerank_rows(query, corpus, candidates, 4)
        got = np.asarray(got)
        if got.shape != want.shape:
            return f"return 4 rows for top_k = 4, an array of shape {want.shape}, not {got.shape}."
        if np.array_equal(got, want):
            continue
        start = f"for candidates {candidates.tolist()} you return {got.tolist()}"
        if (got == -1).any():
            return f"{start}: -1 itself is no row."
        if len(corpus) - 1 in got:
            return f"{start}: the last row of the corpus was no candidate; corpus[-1] is that row."
        if np.array_equal(got, nearest[:4]):
            return f"{start}: that is the order of the candidates; compare all numbers."
        if np.array_equal(got, _by_dot(query, corpus, candidates, 4)):
            return f"{start}: the rows have different lengths; normalise them."
        return f"{start}, expected {want.tolist()}."
    # Unwrapped: for the wrapper, an exception is a mistake.
    short = np.array([3, 7, -1, -1, -1])
    try:
        got = inspect.unwrap(answer)(queries[0], corpus, short, 4)
    except ValueError:
        return None
    except Exception as error:
        return f"for candidates {short.tolist()} it raised {type(error).__name__}, not ValueError."
    return (
        f"for candidates {short.tolist()} and top_k = 4 you return {np.asarray(got).tolist()}; "
        "raise a ValueError, for a short result would look like a complete one."
    )


def _by_dot(query, corpus, candidates, top_k):
    rows = candidates[candidates >= 0]
    return rows[np.argsort(-(corpus[rows] @ query))[:top_k]]
