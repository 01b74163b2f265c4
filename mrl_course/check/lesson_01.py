"""Exercises of lesson 01: bytes without the published bug, cosine neighbours, a memory budget."""

import numpy as np

from mrl_course.check.engine import Wrong, register
from mrl_course.check.shared import best, unit
from mrl_course.costs import vector_bytes
from mrl_course.search import exact_search, truncate


@register(
    lesson=1,
    answer=vector_bytes,
    expects="a function bytes_of_a_vector(dim, bits=32) -> whole bytes, an int",
    why="768 float32 numbers are 3,072 bytes or 24,576 bits: 12 times 2,048 bits, not 48 times.",
    hints=[
        "A float32 has 4 bytes, and it has 32 bits. Are these two different things?",
        "dim numbers of `bits` bits are dim * bits bits. How many bits are in a byte?",
        "Divide by 8 and round up: -(-x // 8), or math.ceil(x / 8).",
    ],
    wrong_answers=[
        Wrong(lambda dim, bits=32: dim * bits * 4, says="counted it twice"),
        Wrong(lambda dim, bits=32: dim * bits, says="these are the bits"),
        Wrong(lambda dim, bits=32: dim * bits // 2, says="counted it twice"),
        Wrong(lambda dim, bits=32: dim * 4, says="depend on bits"),
        Wrong(lambda dim, bits=32: dim * bits // 8, says="Round up"),
        Wrong(lambda dim, bits=32: dim * bits / 8, says="an int"),
        Wrong(lambda dim, bits=32: 7, says="768"),
    ],
)
def bytes_of_a_vector(answer):
    """Check float32, then fewer bits, then sizes that do not fill the last byte."""
    for dim, bits in ((768, 32), (768, 8), (768, 1), (10, 1), (3, 4)):
        got, want = answer(dim, bits), vector_bytes(dim, bits)
        given = f"for {dim} numbers of {bits} bits you return {got!r}, expected {want}"
        if got == want and isinstance(got, (int, np.integer)):
            continue
        if got == dim * bits:
            return f"{given}: these are the bits; a byte has 8 bits."
        if got == 4 * dim and bits != 32:
            return f"{given}: the result must depend on bits."
        if got in (4 * dim * bits, 4 * dim * bits // 8):
            return (
                f"{given}: the 4 bytes and the 32 bits of a float32 are the same thing, "
                "and you have counted it twice."
            )
        if got == dim * bits / 8:
            return f"{given}: return a whole number of bytes (an int), rounded up."
        if got == dim * bits // 8:
            return f"{given}: the last byte is only partly used, but it is used. Round up."
        return f"{given}."
    return None


def _rows(result) -> np.ndarray:
    """Row numbers of a result; a search that returns (indices, scores) is welcome too."""
    if isinstance(result, tuple) and len(result) == 2 and np.ndim(result[0]) == 1:
        result = result[0]
    return np.asarray(result)


def _problem_with_rows(rows: np.ndarray, top_k: int, n: int) -> str | None:
    if rows.shape != (top_k,) or rows.dtype.kind not in "iu":
        return (
            f"return {top_k} row numbers (integers); you return shape {rows.shape}, {rows.dtype}."
        )
    if len(np.unique(rows)) < top_k:
        return "a row stands twice in your result."
    if rows.min() < 0 or rows.max() >= n:
        return f"your result names a row outside 0 to {n - 1}."
    return None


@register(
    lesson=1,
    answer=exact_search,
    expects="a function repaired_search(query, corpus, top_k) -> top_k row numbers",
    why="Long vectors no longer win by their length; after a cut, lengths always differ.",
    hints=[
        "Which vector has the largest dot product with everything? Does it mean the same?",
        "Divide each row of corpus by its length: np.linalg.norm(corpus, axis=1). "
        "Does the query's length change the order?",
    ],
    wrong_answers=[
        Wrong(lambda query, corpus, top_k: best(corpus @ query, top_k), says="dot product"),
        Wrong(lambda query, corpus, top_k: best(corpus @ unit(query), top_k), says="dot product"),
        Wrong(
            lambda query, corpus, top_k: best(
                corpus @ query / np.linalg.norm(corpus, axis=1) ** 2, top_k
            ),
            says="squared",
        ),
        Wrong(
            lambda query, corpus, top_k: best(-np.linalg.norm(corpus - query, axis=1), top_k),
            says="distance",
        ),
        Wrong(
            lambda query, corpus, top_k: best(-(unit(corpus) @ query), top_k),
            says="least similar",
        ),
        Wrong(
            lambda query, corpus, top_k: best(unit(corpus) @ query, top_k)[::-1],
            says="nearest first",
        ),
        Wrong(
            lambda query, corpus, top_k: np.sort(-(unit(corpus) @ query))[:top_k],
            says="row numbers",
        ),
        Wrong(
            lambda query, corpus, top_k: best(
                (corpus / np.linalg.norm(corpus, axis=0)) @ query, top_k
            ),
            says="axis",
        ),
        Wrong(lambda query, corpus, top_k: np.zeros(top_k, dtype=int), says="twice"),
        Wrong(lambda query, corpus, top_k: np.arange(top_k) + 10**6, says="outside"),
        Wrong(lambda query, corpus, top_k: np.arange(top_k), says="largest cosine"),
    ],
    solution_text=(
        "np.argsort(-(corpus @ query) / np.linalg.norm(corpus, axis=1))[:top_k]\n"
        "In the package, for many queries and in bounded memory: exact_search(...).indices"
    ),
)
def neighbours_by_cosine(answer):
    """Check on vectors of very different lengths, so that each mix-up gives other neighbours."""
    rng = np.random.default_rng(1)
    corpus = rng.normal(size=(80, 8)) * rng.uniform(0.1, 10, size=(80, 1))
    corpus *= np.geomspace(0.2, 5, num=8)  # columns differ as well
    query, top_k = rng.normal(size=8), 6
    rows = _rows(answer(query, corpus, top_k))
    want = exact_search(query, corpus, top_k).indices
    problem = _problem_with_rows(rows, top_k, len(corpus))
    if problem is not None or np.array_equal(rows, want):
        return problem
    lengths = np.linalg.norm(corpus, axis=1)
    mistakes = {
        "you still rank by the dot product: divide each of them by the length of its row.": (
            corpus @ query
        ),
        "you divide by the squared length; the length itself is enough.": (
            corpus @ query / lengths**2
        ),
        "you rank by distance, which long vectors lose; the cosine ignores length.": (
            -np.linalg.norm(corpus - query, axis=1)
        ),
        "you return the least similar rows; argsort is ascending.": -(corpus @ query / lengths),
        "you divide by the lengths of the columns; a vector is a row: use axis=1.": (
            (corpus / np.linalg.norm(corpus, axis=0)) @ query
        ),
    }
    for message, scores in mistakes.items():
        if np.array_equal(rows, best(scores, top_k)):
            return message
    if np.array_equal(rows[::-1], want):
        return "the right rows in reverse order; the nearest first."
    return f"these are not the rows of the largest cosine: expected {want.tolist()}."


def largest_size(budget: int, n: int, bits: int = 32) -> int:
    """The largest D such that n vectors of D numbers of ``bits`` bits fit into ``budget`` bytes."""
    return budget // n * 8 // bits


@register(
    lesson=1,
    answer=largest_size,
    expects="a function largest_size(budget, n, bits=32) -> int",
    why="Most choices of a size start here: memory is what runs out first.",
    hints=[
        "How many whole bytes may one vector have?",
        "budget // n bytes are 8 * (budget // n) bits. How many numbers of `bits` bits are that?",
    ],
    wrong_answers=[
        Wrong(lambda budget, n, bits=32: budget / n * 8 / bits, says="whole number"),
        Wrong(lambda budget, n, bits=32: budget // (n * 4), says="depend on bits"),
        Wrong(lambda budget, n, bits=32: budget // (n * bits), says="bits in a byte"),
        Wrong(lambda budget, n, bits=32: max(1, budget // n * 8 // bits), says="fit"),
        Wrong(lambda budget, n, bits=32: budget * 8 // (n * bits), says="whole bytes"),
        Wrong(lambda budget, n, bits=32: budget // n * 8 // bits - 1, says="more would fit"),
        Wrong(lambda budget, n, bits=32: budget // n, says="do not fit"),
    ],
)
def size_for_a_budget(answer):
    """Check that the size fits by ``vector_bytes``, and that one more number does not."""
    cases = [(8 * 10**9, 10**7, 32), (8 * 10**9, 10**7, 8), (10**9, 10**6 + 1, 32), (3, 1, 32)]
    for budget, n, bits in [*cases, (15, 10, 1)]:
        got, want = answer(budget, n, bits), largest_size(budget, n, bits)
        given = f"for {budget:,} bytes and {n:,} vectors of {bits}-bit numbers you return {got!r}"
        if isinstance(got, (float, np.floating)):
            return f"{given}; return a whole number, rounded down."
        if got == want:
            continue
        if bits != 32 and got == budget // (n * 4):
            return f"{given}: the result must depend on bits."
        if got == budget // (n * bits):
            return f"{given}; expected {want}. Did you forget that there are 8 bits in a byte?"
        if (budget, n, bits) == (15, 10, 1) and got == 12:
            return f"{given}: a vector takes whole bytes, here one each, and that is 8 numbers."
        if isinstance(got, (int, np.integer)) and got > want:
            return f"{given}; they do not fit. Expected {want}."
        return f"{given}; more would fit: {want}."
    return None


def recommend(liked, items, top_k):
    """Rows nearest to the mean direction of the liked rows, (n, D) -> top_k row numbers."""
    liked = np.unique(liked)
    unit = truncate(np.asarray(items), np.shape(items)[1])  # length 1, so that all count the same
    rows = exact_search(unit[liked].mean(axis=0), unit, min(top_k + len(liked), len(unit))).indices
    return rows[~np.isin(rows, liked)][:top_k]


@register(
    lesson=1,
    answer=recommend,
    expects="a function recommend_anything(liked, items, top_k) -> top_k row numbers",
    why="A mean of directions is all that a simple recommender needs.",
    hints=[
        "Divide every item by its length before you take the mean.",
        "np.unique(liked) removes repetitions. Then look for top_k + len(liked) neighbours.",
        "np.isin(rows, liked) says which rows to leave out.",
    ],
    wrong_answers=[
        Wrong(lambda liked, items, top_k: _like(liked, items, top_k, normalise=False), says="long"),
        Wrong(lambda liked, items, top_k: _like(liked, items, top_k, keep=True), says="in liked"),
        Wrong(lambda liked, items, top_k: _like(liked, items, top_k, once=False), says="twice"),
        Wrong(lambda liked, items, top_k: recommend(liked, items, top_k - 1), says="row numbers"),
        Wrong(lambda liked, items, top_k: _like(liked, items, top_k, dot=True), says="cosine"),
        Wrong(lambda liked, items, top_k: np.arange(50, 50 + top_k), says="nearest to the mean"),
    ],
)
def recommendation(answer):
    """Check with liked items of very different lengths, one of them named twice."""
    rng = np.random.default_rng(3)
    items = rng.normal(size=(60, 6)) * rng.uniform(0.1, 8, size=(60, 1))
    liked = [4, 17, 4, 30]
    items[17] *= 6  # would win any mean that looks at lengths
    top_k = 5
    rows, want = np.asarray(answer(liked, items, top_k)), recommend(liked, items, top_k)
    problem = _problem_with_rows(rows, top_k, len(items))
    if problem is not None:
        return problem
    if np.isin(rows, liked).any():
        return "some of your recommendations are in liked: nobody needs to be told those."
    if np.array_equal(rows, want):
        return None
    if np.array_equal(rows, _like(liked, items, top_k, normalise=False)):
        return "a long liked item decides alone: divide the items by their lengths before the mean."
    if np.array_equal(rows, _like(liked, items, top_k, once=False)):
        return "an item that stands twice in liked counts twice; np.unique(liked) removes it."
    if np.array_equal(rows, _like(liked, items, top_k, dot=True)):
        return "you rank by the dot product with items of different lengths; use the cosine."
    return f"these are not the rows nearest to the mean of liked: expected {want.tolist()}."


def _like(liked, items, top_k, normalise=True, keep=False, once=True, dot=False) -> np.ndarray:
    """A recommender with mistakes to choose from."""
    liked = np.unique(liked) if once else np.array(liked)
    taste = (unit(items) if normalise else items)[liked].mean(axis=0)
    rows = best((items if dot else unit(items)) @ taste, len(items))
    return (rows if keep else rows[~np.isin(rows, liked)])[:top_k]
