"""What the exercises of several lessons need."""

from __future__ import annotations

import numpy as np


def unit(emb: np.ndarray) -> np.ndarray:
    """Rows, or one vector, divided by their lengths; none may be zero."""
    return emb / np.linalg.norm(emb, axis=-1, keepdims=True)


def best(scores: np.ndarray, top_k: int) -> np.ndarray:
    """The places of the largest scores of each row, best first; of equals the first one first."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]


def near_queries(queries: int, rows: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries near some row, rows of very different lengths, most of the spread in front.

    Returns:
        (queries, dim) and (rows, dim) float64.
    """
    rng = np.random.default_rng(seed)
    weights = 0.9 ** np.arange(dim)
    corpus = rng.normal(size=(rows, dim)) * weights
    near = corpus[rng.permutation(rows)[:queries]]
    query = near + 0.7 * rng.normal(size=(queries, dim)) * weights
    return query, corpus * rng.uniform(0.3, 3, size=(rows, 1))
