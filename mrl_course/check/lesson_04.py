"""Exercises of lesson 04: retention without the published bug, an honest PCA, recall by hand."""

import numpy as np

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.check.shared import unit
from mrl_course.evaluation import Curve, pca_rotation, retention, retrieval_curve


@register(
    lesson=4,
    answer=retention,
    expects="a function share_of_full(curve) -> the share kept by k, as a dict or a Curve",
    why="100 % now means what it says: as good as the whole vector.",
    hints=[
        "Which size has the score that stands for 'nothing cut'? Is it always the best one?",
        "Divide by curve.full_score. It is known even if D is not among the sizes of the curve.",
    ],
    wrong_answers=[
        Wrong(lambda curve: {k: s / max(curve.values()) for k, s in curve.items()}, says="best"),
        Wrong(
            lambda curve: {k: s / curve[max(curve)] for k, s in curve.items()}, says="full_score"
        ),
        Wrong(lambda curve: dict(curve), says="the scores themselves"),
        Wrong(lambda curve: {k: 100 * s / curve.full_score for k, s in curve.items()}, says="cent"),
        Wrong(lambda curve: {8: 0.5}, says="sizes"),
        Wrong(lambda curve: 0.5, says="a dict or a Curve"),
    ],
)
def retention_of_a_curve(answer):
    """Check on a curve whose best size is not D, and on one that was not measured at D."""
    peak = Curve({8: 0.3, 64: 0.62, 128: 0.6}, "score", 128, 0.6)
    for curve in (peak, Curve({8: 0.2, 64: 0.35}, "score", 128, 0.4)):
        got, want = answer(curve), dict(retention(curve))
        try:
            got = {int(k): float(got[k]) for k in got}
        except (TypeError, ValueError, KeyError):
            return "return a dict or a Curve with a share for each k."
        if sorted(got) != sorted(want):
            return f"the sizes should be {sorted(want)}; yours are {sorted(got)}."
        if _equal(got, want):
            continue
        given = f"for scores {dict(curve)} with {curve.full_score} at D = 128"
        if _equal(got, dict(curve)):
            return f"{given} you return the scores themselves."
        if _equal(got, {k: 100 * share for k, share in want.items()}):
            return f"{given} you return per cent; return a share, where 1 is all of it."
        if curve is peak and _equal(got, {k: s / max(curve.values()) for k, s in curve.items()}):
            return f"{given} you divide by the best score; retention compares with the one at D."
        return (
            f"{given} you return {got[8]:.3f} at k = 8, expected {want[8]:.3f}: divide by "
            "curve.full_score, also where D is not among the measured sizes."
        )
    return None


def _equal(got: dict, want: dict) -> bool:
    return all(abs(got[k] - want[k]) < 1e-9 for k in want)


def first_pca_numbers(train_emb, test_emb, k):
    """The first k principal numbers of test vectors, (m, D), (n, D) -> (n, k)."""
    return test_emb @ pca_rotation(train_emb)[:, :k]


def _eigh(fitted, test_emb, k, order=-1, mean=0.0):
    directions = np.linalg.eigh(np.cov(fitted, rowvar=False))[1]
    return (test_emb - mean) @ directions[:, ::order][:, :k]


@register(
    lesson=4,
    answer=first_pca_numbers,
    expects="a function first_pca_numbers(train_emb, test_emb, k) -> (n, k) array",
    why="An honest baseline: fitted without the test, and with the largest variance first.",
    hints=[
        "Which vectors does np.cov see? Only those that you have before the test may be used.",
        "np.linalg.eigh sorts the variances in ascending order. Print them.",
        "Fit on train_emb, and take the last k directions in reverse: directions[:, ::-1][:, :k].",
    ],
    wrong_answers=[
        Wrong(lambda train, test, k: _eigh(test, test, k, order=1), says="both"),
        Wrong(lambda train, test, k: _eigh(train, test, k, order=1), says="smallest"),
        Wrong(lambda train, test, k: _eigh(test, test, k), says="leak"),
        Wrong(lambda train, test, k: _eigh(np.r_[train, test], test, k), says="leak"),
        Wrong(
            lambda train, test, k: _eigh(train, test, k, mean=train.mean(axis=0)), says="centred"
        ),
        Wrong(lambda train, test, k: _eigh(train, train, k), says="(80, 3) is expected"),
        Wrong(lambda train, test, k: _eigh(train, test, k)[:, ::-1], says="order"),
        Wrong(lambda train, test, k: _eigh(train, test, None), says="shape"),
    ],
    solution_text="pca_rotation fits on the training vectors and sorts the directions:",
)
def pca_prefix(answer):
    """Check up to signs on vectors whose training and test sets vary in different directions."""
    rng = np.random.default_rng(4)
    spread = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    train = (rng.normal(size=(300, 6)) * spread + 1).astype(np.float32)
    test = (rng.normal(size=(80, 6)) * spread[[2, 5, 0, 4, 1, 3]] - 1).astype(np.float32)
    k = 3
    got, want = answer(train, test, k), first_pca_numbers(train, test, k)
    if not isinstance(got, np.ndarray) or got.shape != want.shape:
        return compare_arrays(got, want) or "return a NumPy array."
    if _same_columns(got, want):
        return None
    if _same_columns(got, _eigh(test, test, k, order=1)):
        return "both bugs are still there: it is fitted on the test, and the order is ascending."
    if _same_columns(got, _eigh(train, test, k, order=1)):
        return "you keep the directions with the smallest variance: eigh sorts ascending."
    for fitted in (test, np.concatenate([train, test])):
        if _same_columns(got, _eigh(fitted, test, k)):
            return "the test vectors leak into the covariance: fit on train_emb only."
    if _same_columns(got, _eigh(train, test, k, mean=train.mean(axis=0))):
        return "the vectors are centred; that is no rotation, and it changes cosines."
    if _same_columns(got[:, ::-1], want):
        return "the right directions in the wrong order: the largest variance comes first."
    return "these are not the first principal numbers of test_emb; test with k = 1 by hand."


def _same_columns(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal up to the sign of each column, which an eigenvector leaves open."""
    if got.shape != want.shape:
        return False
    signs = np.where((got * want).sum(axis=0) < 0, -1, 1)
    return np.allclose(got * signs, want, atol=1e-3)


def recall_at(queries, corpus, relevant, k, dim):
    """recall@k of the first ``dim`` numbers, (q, D), (n, D), q row numbers -> one number."""
    return retrieval_curve(queries, corpus, relevant, [dim], top_k=k)[dim]


def _recall(scores: np.ndarray, relevant, k: int) -> float:
    """The share of rows of (q, n) scores whose relevant column is among the k largest."""
    top = np.argsort(-scores, axis=1)[:, :k]
    return float(np.mean([row in found for row, found in zip(relevant, top, strict=True)]))


@register(
    lesson=4,
    answer=recall_at,
    expects="a function recall_at(queries, corpus, relevant, k, dim) -> a number from 0 to 1",
    why="You now know exactly what the figures of this lesson count.",
    hints=[
        "Cut both arrays to their first dim numbers, then divide each row by its length.",
        "queries @ corpus.T is a (q, n) array of cosines. np.argsort(-cosines, axis=1) sorts rows.",
        "Count the queries i with relevant[i] in the first k entries of row i; divide by q.",
    ],
    wrong_answers=[
        Wrong(
            lambda queries, corpus, relevant, k, dim: _recall(
                queries[:, :dim] @ corpus[:, :dim].T, relevant, k
            ),
            says="normalise",
        ),
        Wrong(
            lambda queries, corpus, relevant, k, dim: _recall(
                unit(queries)[:, :dim] @ unit(corpus)[:, :dim].T, relevant, k
            ),
            says="before the cut",
        ),
        Wrong(
            lambda queries, corpus, relevant, k, dim: _recall(
                unit(queries) @ unit(corpus).T, relevant, k
            ),
            says="all numbers",
        ),
        Wrong(
            lambda queries, corpus, relevant, k, dim: _recall(
                -(unit(queries[:, :dim]) @ unit(corpus[:, :dim]).T), relevant, k
            ),
            says="least similar",
        ),
        Wrong(
            lambda queries, corpus, relevant, k, dim: recall_at(queries, corpus, relevant, 1, dim),
            says="the first result only",
        ),
        Wrong(
            lambda queries, corpus, relevant, k, dim: (
                recall_at(queries, corpus, relevant, k, dim) / k
            ),
            says="precision",
        ),
        Wrong(
            lambda queries, corpus, relevant, k, dim: (
                recall_at(queries, corpus, relevant, k, dim) * len(queries)
            ),
            says="the number of queries",
        ),
        Wrong(lambda queries, corpus, relevant, k, dim: [1.0], says="one number"),
        Wrong(lambda queries, corpus, relevant, k, dim: 0.123, says="expected"),
    ],
)
def recall_of_a_prefix(answer):
    """Check on vectors of different lengths, so that each forgotten step changes the result."""
    rng = np.random.default_rng(7)
    corpus = rng.normal(size=(60, 12)) * rng.uniform(0.2, 5, size=(60, 1))
    corpus[:, :6] *= rng.uniform(0.2, 5, size=(60, 1))  # prefixes differ in their share of length
    relevant = rng.permutation(60)[:40]
    queries = corpus[relevant] + rng.normal(size=(40, 12)) * 1.2
    k, dim = 5, 6
    got, want = (
        answer(queries, corpus, relevant, k, dim),
        recall_at(queries, corpus, relevant, k, 6),
    )
    if np.ndim(got) != 0 or not isinstance(got, (int, float, np.number)):
        return "return one number, the mean over all queries."
    q, c = queries[:, :dim], corpus[:, :dim]
    known = {
        "": want,
        "you rank by dot products: normalise the rows after the cut.": _recall(
            q @ c.T, relevant, k
        ),
        "you normalise before the cut, so the prefixes are not of length 1.": _recall(
            unit(queries)[:, :dim] @ unit(corpus)[:, :dim].T, relevant, k
        ),
        "you compare all numbers; cut both arrays to dim first.": _recall(
            unit(queries) @ unit(corpus).T, relevant, k
        ),
        "you take the k least similar rows; argsort is ascending.": _recall(
            -(unit(q) @ unit(c).T), relevant, k
        ),
        "you count the first result only; the first k count.": recall_at(q, c, relevant, 1, dim),
        "that is precision: divided by k. Here each query has one right row.": want / k,
        "you return a count; divide it by the number of queries.": want * len(queries),
    }
    for message, value in known.items():
        if abs(float(got) - value) < 1e-9:
            return message or None
    return f"you return {float(got):.3f}; expected {want:.3f} for this input."
