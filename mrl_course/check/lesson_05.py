"""Exercises of lesson 05: cut and normalise, two sizes, int8 in the right order, packed signs."""

from typing import Literal, cast

import numpy as np
from sentence_transformers.util import quantize_embeddings

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.check.shared import unit
from mrl_course.search import truncate


@register(
    lesson=5,
    answer=truncate,
    expects="a function prefix_for_dot_product(emb, k) -> (n, k) array with rows of length 1",
    why="Its dot products are cosines again, for every k.",
    hints=[
        "Print the lengths of the rows that the function returns. Which should they be?",
        "The length to divide by is that of the numbers that are left.",
        "First prefix = emb[:, :k], then divide prefix by np.linalg.norm(prefix, axis=1, ...).",
    ],
    wrong_answers=[
        Wrong(lambda emb, k: unit(emb)[:, :k], says="before the cut"),
        Wrong(lambda emb, k: unit(unit(emb))[:, :k], says="before the cut"),
        Wrong(lambda emb, k: emb[:, :k], says="not normalised"),
        Wrong(lambda emb, k: unit(emb), says="all 12"),
        Wrong(lambda emb, k: unit(emb[:, -k:]), says="last"),
        Wrong(lambda emb, k: emb[:, :k] / np.linalg.norm(emb[:, :k]), says="whole array"),
        Wrong(lambda emb, k: emb[:, :k] / np.linalg.norm(emb[:, :k], axis=0), says="columns"),
        Wrong(lambda emb, k: unit(emb[:k]), says="shape"),
        Wrong(lambda emb, k: np.ones((len(emb), k)), says="wrong"),
    ],
)
def prefix_for_dot_product(answer):
    """Check on rows of different lengths, whose prefixes hold different shares of them."""
    rng = np.random.default_rng(5)
    emb = rng.normal(size=(9, 12)) * rng.uniform(0.3, 4, size=(9, 1))
    for k in (12, 4):  # all numbers first: a row too short there has another reason
        got, want = answer(emb, k), truncate(emb, k)
        if np.shape(got) == emb.shape != want.shape:
            return f"for k = {k} you return all 12 numbers; keep the first k."
        problem = compare_arrays(got, want)
        if problem is None:
            continue
        if np.shape(got) != want.shape:
            return problem
        prefix = emb[:, :k]
        known = {
            "you normalise before the cut, so prefixes are shorter than 1.": unit(emb)[:, :k],
            "the prefixes are not normalised at all.": prefix,
            "these are the last k numbers; keep the first.": unit(emb[:, -k:]),
            "you divide by the length of the whole array; each row has a length of its own "
            "(axis=1).": prefix / np.linalg.norm(prefix),
            "you divide the columns by their lengths; normalise the rows (axis=1).": prefix
            / np.linalg.norm(prefix, axis=0),
        }
        for message, value in known.items():
            if np.allclose(got, value):
                return message
        return problem
    return None


def cosines_of_sizes(query: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """Cosines over the numbers that both have, (k,), (n, m) -> (n,)."""
    both = min(len(query), corpus.shape[1])
    return truncate(corpus, both) @ truncate(query, both)


def _padded(query, corpus):
    """Zeros at the end of the shorter side."""
    longest = max(len(query), corpus.shape[1])
    query = np.pad(query, (0, longest - len(query)))
    return query, np.pad(corpus, [(0, 0), (0, longest - corpus.shape[1])])


def _dots_of_sizes(query, corpus, normalise_query, normalise_corpus):
    both = min(len(query), corpus.shape[1])
    return normalise_corpus(corpus[:, :both]) @ normalise_query(query[:both])


def _with_zeros(query, corpus):
    query, corpus = _padded(query, corpus)
    return unit(corpus) @ unit(query)


def _as_it_is(emb):
    return emb


@register(
    lesson=5,
    answer=cosines_of_sizes,
    expects="a function cosines_of_different_sizes(query, corpus) -> (n,) array",
    why="Two sizes of one model can be compared, at the quality of the smaller one.",
    hints=[
        "How many numbers do both sides have? min(len(query), corpus.shape[1]).",
        "Cut both sides to that size. Their lengths have changed: what is still to do?",
        "truncate(corpus, both) @ truncate(query, both)",
    ],
    wrong_answers=[
        Wrong(_with_zeros, says="zeros"),
        Wrong(lambda q, c: _dots_of_sizes(q, c, _as_it_is, _as_it_is), says="neither side"),
        Wrong(lambda q, c: _dots_of_sizes(q, c, unit, _as_it_is), says="the corpus"),
        Wrong(lambda q, c: _dots_of_sizes(q, c, _as_it_is, unit), says="the query"),
        Wrong(lambda q, c: c @ q, says="ValueError"),
        Wrong(lambda q, c: truncate(c, len(q)) @ truncate(q, len(q)), says="either side"),
        Wrong(lambda q, c: unit(c[:, -min(q.size, c.shape[1]) :]) @ unit(q), says="wrong"),
        Wrong(lambda q, c: 1 - cosines_of_sizes(q, c), says="distance"),
        Wrong(lambda q, c: cosines_of_sizes(q, c)[:, None], says="shape"),
    ],
)
def cosines_of_different_sizes(answer):
    """Check a short query against long documents, the reverse, and equal sizes."""
    rng = np.random.default_rng(6)
    for k, m in ((4, 10), (10, 4), (6, 6)):
        query = rng.normal(size=k) * 3
        corpus = rng.normal(size=(7, m)) * rng.uniform(0.3, 4, size=(7, 1))
        given = f"for a query of {k} numbers and documents of {m}"
        want = cosines_of_sizes(query, corpus)
        try:
            got = answer(query, corpus)
        except Exception as error:
            if k <= m:
                raise
            return f"{given} it stops: either side may be the longer one ({error})"
        problem = compare_arrays(got, want)
        if problem is None:
            continue
        known = {
            "zeros at the end leave the lengths of the full vectors in the result; cut the longer "
            "side, then normalise.": _with_zeros(query, corpus),
            "neither side is normalised after the cut.": _dots_of_sizes(
                query, corpus, _as_it_is, _as_it_is
            ),
            "the corpus is not normalised after the cut.": _dots_of_sizes(
                query, corpus, unit, _as_it_is
            ),
            "the query is not normalised after the cut.": _dots_of_sizes(
                query, corpus, _as_it_is, unit
            ),
            "that is a distance, 1 - cosine; return the cosine.": 1 - want,
        }
        for message, value in known.items():
            if np.shape(got) == want.shape and np.allclose(got, value):
                return f"{given}: {message}"
        return f"{given}: {problem}"
    return None


def int8_codes(train_emb: np.ndarray, corpus: np.ndarray, k: int) -> np.ndarray:
    """int8 codes of prefixes, ranges from cut training vectors, (m, D), (n, D) -> (n, k)."""
    prefixes, sample = truncate(corpus, k), truncate(train_emb, k)
    codes = quantize_embeddings(prefixes, precision="int8", calibration_embeddings=sample)
    return cast(np.ndarray, codes)  # a list only where a list was given


def _int8(emb, sample):
    codes = quantize_embeddings(emb, precision="int8", calibration_embeddings=sample)
    return cast(np.ndarray, codes)


_INT8_MISTAKES = {
    "both bugs are still there: you quantise before the cut, and calibrate on the corpus.": (
        lambda t, c, k: _int8(unit(c), unit(c))[:, :k]
    ),
    "you quantise full vectors and cut the codes; cut and normalise come first.": (
        lambda t, c, k: _int8(unit(c), unit(t))[:, :k]
    ),
    "you calibrate on the corpus itself; the next corpus would get other codes. Use train_emb.": (
        lambda t, c, k: _int8(truncate(c, k), truncate(c, k))
    ),
    "the ranges come from vectors that were normalised before the cut; most codes are clipped.": (
        lambda t, c, k: _int8(truncate(c, k), unit(t)[:, :k])
    ),
    "the ranges come from vectors that were never normalised.": (
        lambda t, c, k: _int8(truncate(c, k), t[:, :k])
    ),
    "nothing is normalised: neither the corpus nor the sample.": (
        lambda t, c, k: _int8(c[:, :k], t[:, :k])
    ),
    "the ranges fit, but the corpus was not normalised after the cut.": (
        lambda t, c, k: _int8(c[:, :k], truncate(t, k))
    ),
}


@register(
    lesson=5,
    answer=int8_codes,
    expects="a function int8_prefixes(train_emb, corpus, k) -> (n, k) int8 array",
    why="One set of ranges, from vectors like those that are stored: codes stay comparable.",
    hints=[
        "Write the order of section 9 beside the lines: cut, normalise, quantise.",
        "What do the calibration vectors have to look like? Exactly like what is quantised.",
        "Both arrays go through truncate(…, k); train_emb is for calibration_embeddings.",
    ],
    wrong_answers=[
        *[Wrong(wrong, says=message[:28]) for message, wrong in _INT8_MISTAKES.items()],
        Wrong(lambda t, c, k: int8_codes(t, t, k), says="shape"),
        Wrong(lambda t, c, k: truncate(c, k), says="int8"),
        Wrong(lambda t, c, k: int8_codes(t, c, k).astype(np.float32), says="int8"),
        Wrong(lambda t, c, k: int8_codes(t, c, k).view(np.uint8), says="int8"),
        Wrong(lambda t, c, k: int8_codes(t, c, k)[::-1], says="wrong"),
    ],
    solution_text="The package's truncate cuts and normalises; the library quantises:",
)
def int8_prefixes(answer):
    """Check codes of vectors with different lengths, calibrated on other vectors."""
    rng = np.random.default_rng(8)
    train_emb = (rng.normal(size=(150, 16)) * rng.uniform(0.5, 3, size=(150, 1))).astype(np.float32)
    corpus = (rng.normal(size=(120, 16)) * rng.uniform(0.5, 3, size=(120, 1))).astype(np.float32)
    k = 4
    got, want = answer(train_emb, corpus, k), int8_codes(train_emb, corpus, k)
    if not isinstance(got, np.ndarray) or got.shape != want.shape:
        return compare_arrays(got, want) or "return a NumPy array."
    if got.dtype != np.int8:
        return f"the codes have dtype {got.dtype}; int8 is expected."
    if _near(got, want):
        return None
    for message, wrong in _INT8_MISTAKES.items():
        if _near(got, wrong(train_emb, corpus, k)):
            return message
    return f"{(got != want).sum()} of {got.size} codes are wrong; go through the order again."


def _near(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal codes, but for a few at the edge of a step, where the last bit of a float decides."""
    off = np.abs(got.astype(int) - want.astype(int))
    return bool(off.max() <= 1 and (off > 0).mean() < 0.02)


def unpack_signs(codes: np.ndarray, k: int) -> np.ndarray:
    """Signs of ``precision="binary"`` codes, (n, bytes) int8 -> (n, k), each 1 or -1."""
    packed = codes.view(np.uint8) ^ np.uint8(0x80)  # the 128 that was taken off is the highest bit
    return np.where(np.unpackbits(packed, axis=1)[:, :k] == 1, 1, -1)


def _unpack(codes, k, flip=True, order: Literal["big", "little"] = "big"):
    packed = codes.view(np.uint8) ^ np.uint8(0x80 if flip else 0)
    return np.where(np.unpackbits(packed, axis=1, bitorder=order)[:, :k] == 1, 1, -1)


@register(
    lesson=5,
    answer=unpack_signs,
    expects="a function signs_of_binary(codes, k) -> (n, k) array of 1 and -1",
    why="The wrong bit was the first of each eight, and so the first number of every vector.",
    hints=[
        "Quantise a vector of ones to binary and to ubinary, and print both. What is between them?",
        "Adding 128 to an int8 overflows. Go to a larger type first, or flip the highest bit.",
        "packed = (codes.astype(int) + 128).astype(np.uint8); and keep the first k columns.",
    ],
    wrong_answers=[
        Wrong(lambda codes, k: _unpack(codes, None, flip=False), says="first of each eight"),
        Wrong(lambda codes, k: _unpack(codes, k, flip=False), says="first of each eight"),
        Wrong(lambda codes, k: _unpack(codes, None), says="filling"),
        Wrong(lambda codes, k: (_unpack(codes, k) + 1) // 2, says="0 and 1"),
        Wrong(lambda codes, k: -_unpack(codes, k), says="sign"),
        Wrong(lambda codes, k: _unpack(codes, k, order="little"), says="order of the bits"),
        Wrong(lambda codes, k: _unpack(codes, k)[::-1], says="wrong"),
        Wrong(lambda codes, k: _unpack(codes, k).T, says="transposed"),
        Wrong(lambda codes, k: codes, says="shape"),
    ],
)
def signs_of_binary(answer):
    """Check sizes that fill the last byte and sizes that do not."""
    rng = np.random.default_rng(9)
    for k in (16, 11):
        emb = rng.normal(size=(20, k)).astype(np.float32)
        codes = cast(np.ndarray, quantize_embeddings(emb, precision="binary"))
        got, want = answer(codes, k), np.where(emb > 0, 1, -1)
        problem = compare_arrays(got, want)
        if problem is None:
            continue
        got = np.asarray(got)
        if got.shape == want.shape:
            if np.array_equal(got, _unpack(codes, k, flip=False)):
                return "the first of each eight numbers is wrong: the 128 is still missing."
            if np.array_equal(got, want > 0):
                return "these are bits, 0 and 1; signs are 1 and -1."
            if np.array_equal(got, _unpack(codes, k, order="little")):
                return "the order of the bits in a byte is reversed; packbits starts at the top."
        if got.shape == (20, 8 * codes.shape[1]):
            if np.array_equal(got, _unpack(codes, None)):
                return f"for k = {k} you return the filling bits of the last byte; keep k columns."
        return problem
    return None
