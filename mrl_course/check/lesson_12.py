"""Exercises of lesson 12: negatives across processes, a prefix index, a LIMIT, machines."""

import sqlite3

import numpy as np

from mrl_course.check.engine import Wrong, register
from mrl_course.check.shared import best, near_queries, unit
from mrl_course.costs import vector_bytes
from mrl_course.planning import machines_needed
from mrl_course.search import exact_search, shortlist_rerank

# ----------------------------------------------------------------------------- answer keys


def negatives_of(batch_size, processes, hard, gather):
    """Wrong candidates that an anchor meets, when a batch is split evenly among processes.

    Each triplet has one positive and ``hard`` hard negatives; ``batch_size`` counts the triplets
    of all processes together.
    """
    triplets = batch_size if gather else batch_size // processes
    return triplets * (1 + hard) - 1


def shortlist_by_prefix(query, corpus, dim, size):
    """The ``size`` rows whose first ``dim`` numbers have the largest cosine, the best first."""
    return exact_search(query, corpus, size, dim=dim).indices


def memory_and_machines(n, dim, bits, ram_gigabytes):
    """Bytes of n vectors, and how many machines with so much memory hold them."""
    memory = n * vector_bytes(dim, bits)
    return memory, machines_needed(memory, ram_gigabytes * 10**9)


TWO_STAGES = """\
select id, score(embedding, :query) as s
from (
  select id, embedding from items
  order by prefix_score(embedding, :query) desc limit :shortlist
) as shortlist
order by s desc limit :top_k"""


# ------------------------------------------------------------------------------- exercises

NEGATIVE_MISTAKES = [
    (
        lambda b, p, h, g: (b if g else b // p) * (1 + h),
        "one of the candidates is the anchor's own positive; it is no negative.",
    ),
    (
        lambda b, p, h, g: (b if g else b // p) - 1,
        "the hard negatives of all triplets count too, also those of other anchors.",
    ),
    (
        lambda b, p, h, g: (b if g else b // p) - 1 + h,
        "an anchor meets the hard negatives of all triplets of its part, not only its own.",
    ),
    (
        lambda b, p, h, g: b * (1 + h) - 1,
        "without gathering, an anchor meets only the part of its own process.",
    ),
    (
        lambda b, p, h, g: (b * p if g else b) * (1 + h) - 1,
        "batch_size is that of all processes together; each has batch_size // processes.",
    ),
    (
        lambda b, p, h, g: (b // p if g else b) * (1 + h) - 1,
        "it is the other way round: gather=True brings the candidates of all processes together.",
    ),
]


@register(
    lesson=12,
    answer=negatives_of,
    expects="a function negatives_of(batch_size, processes, hard, gather) -> a whole number",
    why="The number of negatives is part of the loss: who adds processes without gathering, "
    "changes the task.",
    hints=[
        "How many triplets does an anchor see? With gather those of all processes, else its own.",
        "Each of these triplets brings one positive and `hard` hard negatives as candidates.",
        "One of all those candidates is right; the others are negatives.",
    ],
    wrong_answers=[Wrong(mistake, says=words[:40]) for mistake, words in NEGATIVE_MISTAKES]
    + [Wrong(lambda b, p, h, g: 7, says="expected")],
)
def negatives_across_processes(answer):
    """Check with and without gathering, with and without hard negatives."""
    settings = [(512, 2, 1, False), (512, 2, 1, True), (256, 4, 0, True), (96, 3, 2, False)]
    for setting in settings:
        got, want = answer(*setting), negatives_of(*setting)
        start = "for batch_size = {}, processes = {}, hard = {}, gather = {}".format(*setting)
        if isinstance(got, (int, float, np.integer)) and got == want:
            continue
        for mistake, words in NEGATIVE_MISTAKES:
            if all(answer(*s) == mistake(*s) for s in settings):
                return f"{start} you return {got}, expected {want}: {words}"
        return f"{start} you return {got}, expected {want}."
    return None


PREFIX_MISTAKES = [
    (
        lambda q, c, k, m: best(c[:, :k] @ q[:k], m),
        "you rank by inner products of prefixes that have different lengths; long ones win. "
        "Normalise after the cut, or let the database compute the cosine.",
    ),
    (
        lambda q, c, k, m: best(unit(c)[:, :k] @ q[:k], m),
        "you normalise before the cut. The vectors have length 1 then, their prefixes do not.",
    ),
    (
        lambda q, c, k, m: best(-np.linalg.norm(c[:, :k] - q[:k], axis=1), m),
        "the distance between prefixes of different lengths mixes angle and length; normalise "
        "both after the cut.",
    ),
    (
        lambda q, c, k, m: best(unit(c) @ q, m),
        "you compare all numbers; the index is to hold the first dim of them.",
    ),
    (
        lambda q, c, k, m: best(unit(c[:, -k:]) @ q[-k:], m),
        "you take the last numbers; a Matryoshka model has the important ones in front.",
    ),
    (
        lambda q, c, k, m: best(unit(c[:, :k]) @ q[:k], m)[::-1],
        "those are the right rows, but the best one must come first.",
    ),
    (
        lambda q, c, k, m: best(-(unit(c[:, :k]) @ q[:k]), m),
        "those are the least similar rows. Mind the sign: databases sort by distance, not "
        "by similarity.",
    ),
]


@register(
    lesson=12,
    answer=shortlist_by_prefix,
    expects="a function shortlist_by_prefix(query, corpus, dim, size) -> (size,) row numbers",
    why="An index accepts any operator on any expression. Nothing warns you that the prefixes in "
    "it have different lengths.",
    hints=[
        "What is the length of corpus[:, :dim], row by row?",
        "vector_ip_ops ranks by the inner product; the cosine only if all have length 1.",
        "Divide the prefixes by their lengths after the cut; vector_cosine_ops does it by itself.",
    ],
    wrong_answers=[Wrong(mistake, says=words[:40]) for mistake, words in PREFIX_MISTAKES]
    + [Wrong(lambda q, c, k, m: np.arange(m), says="expected")],
)
def prefix_index(answer):
    """Check on rows of different lengths, whose prefixes hold different shares of them."""
    queries, corpus = near_queries(4, 200, 24, seed=1)
    for query in queries:
        got, want = (
            np.asarray(answer(query, corpus, 6, 8)),
            shortlist_by_prefix(query, corpus, 6, 8),
        )
        if got.shape != want.shape:
            return f"return 8 row numbers for size = 8, not an array of shape {got.shape}."
        if np.array_equal(got, want):
            continue
        start = f"you return {got.tolist()}, expected {want.tolist()}"
        for mistake, words in PREFIX_MISTAKES:
            if np.array_equal(got, mistake(query, corpus, 6, 8)):
                return f"{start}: {words}"
        return f"{start}."
    return None


def run_sql(statement, query, corpus, dim, shortlist, top_k):
    """The ids that a statement returns, over a table ``items(id, embedding)`` in memory.

    It may use :query, :shortlist and :top_k, and two functions of an embedding and the query,
    ``score`` (cosine of all numbers) and ``prefix_score`` (of the first ``dim``).
    """
    calls = []

    def cosine(name, k):
        def score(blob, other):
            calls.append(name)
            a, b = (np.frombuffer(x, np.float64)[:k] for x in (blob, other))
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

        return score

    db = sqlite3.connect(":memory:")
    try:
        db.create_function("score", 2, cosine("score", None), deterministic=True)
        db.create_function("prefix_score", 2, cosine("prefix_score", dim), deterministic=True)
        db.execute("create table items(id integer primary key, embedding blob)")
        rows = [(i, np.asarray(row, np.float64).tobytes()) for i, row in enumerate(corpus)]
        db.executemany("insert into items values (?, ?)", rows)
        values = {"query": np.asarray(query, np.float64).tobytes()}
        found = db.execute(statement, values | {"shortlist": shortlist, "top_k": top_k}).fetchall()
    finally:
        db.close()
    return [row[0] for row in found], calls.count("score")


LIMIT_INSIDE = TWO_STAGES.replace("limit :shortlist", "limit :top_k")
LIMIT_SWAPPED = LIMIT_INSIDE.replace(
    "order by s desc limit :top_k", "order by s desc limit :shortlist"
)
NO_ORDER_INSIDE = TWO_STAGES.replace("order by prefix_score(embedding, :query) desc ", "")
ASCENDING = TWO_STAGES.replace(
    "prefix_score(embedding, :query) desc", "prefix_score(embedding, :query)"
)
ONE_STAGE = "select id, score(embedding, :query) as s from items order by s desc limit :top_k"
BY_PREFIX = "select id from items order by prefix_score(embedding, :query) desc limit :top_k"


@register(
    lesson=12,
    answer=TWO_STAGES,
    expects="the SQL statement as a string",
    why="The first LIMIT decides what can be found, the second what is shown. With top_k in both "
    "places the second stage only sorts what the prefix chose.",
    hints=[
        "How many rows come out of the inner select? Which of them can the outer one choose?",
        "There are two numbers, :shortlist and :top_k, and two limits. Which belongs where?",
    ],
    wrong_answers=[
        Wrong(LIMIT_INSIDE, says="the inner select lets only"),
        Wrong(LIMIT_SWAPPED, says="the inner select lets only"),
        Wrong(NO_ORDER_INSIDE, says="the nearest by prefix"),
        Wrong(ASCENDING, says="the nearest by prefix"),
        Wrong(ONE_STAGE, says="computed for all 300 rows"),
        Wrong(BY_PREFIX, says="order of the prefix"),
        Wrong(TWO_STAGES.replace("limit :top_k", ""), says="returns 40 rows"),
        Wrong("select id from item", says="no such table"),
        Wrong(3, says="a string"),
    ],
    solution_text="The limits belong the other way round:",
)
def two_limits(answer):
    """Run the statement and compare it with shortlist_rerank; count the full comparisons."""
    if not isinstance(answer, str):
        return f"give the SQL statement, a string, not {type(answer).__name__}."
    queries, corpus = near_queries(4, 300, 24, seed=2)
    for query in queries:
        try:
            got, looks = run_sql(answer, query, corpus, 4, 40, 5)
        except sqlite3.Error as error:
            return f"SQLite says: {error}."
        want = shortlist_rerank(query, corpus, 4, 40, 5).indices.tolist()
        if got != want:
            return _what_is_wrong(got, want, query, corpus, looks)
        if looks > 120:  # SQLite may compute a score in the select and again to sort
            return (
                "the rows are right, but score (all numbers) is computed for all 300 rows; "
                "let prefix_score choose a shortlist first."
            )
    return None


def _what_is_wrong(got, want, query, corpus, looks):
    start = f"it returns {got[:8]}, expected {want}"
    by_prefix = exact_search(query, corpus, 5, dim=4).indices.tolist()
    if len(got) != 5 and set(got) != set(by_prefix):
        return f"for top_k = 5 it returns {len(got)} rows; the outer limit decides that."
    if looks > 250 and got == exact_search(query, corpus, 5).indices.tolist():
        return f"{start}: score (all numbers) is computed for all 300 rows, there is no shortlist."
    if not looks:
        return f"{start}: that is the order of the prefix; sort by score in the second stage."
    if set(got) == set(by_prefix):
        return f"{start}: the inner select lets only 5 rows through, so there is nothing to choose."
    return f"{start}: the inner select must give the 40 rows that are the nearest by prefix."


MACHINE_MISTAKES = [
    (
        lambda n, k, b, r: (n * k * b, -(-n * k * b // (r * 10**9))),
        "that counts bits; eight of them are a byte.",
    ),
    (
        lambda n, k, b, r: (n * k * 4, -(-n * k * 4 // (r * 10**9))),
        "that takes 4 bytes for each number, whatever bits says.",
    ),
    (
        lambda n, k, b, r: (memory_and_machines(n, k, b, r)[0],
                            max(1, memory_and_machines(n, k, b, r)[0] // (r * 10**9))),
        "round the machines up: a part of a machine cannot be had.",
    ),
    (
        lambda n, k, b, r: (memory_and_machines(n, k, b, r)[0],
                            -(-memory_and_machines(n, k, b, r)[0] // (r * 2**30))),
        "here a gigabyte is 10**9 bytes, not 2**30.",
    ),
    (
        lambda n, k, b, r: (memory_and_machines(n, k, b, r)[0],
                            memory_and_machines(n, k, b, r)[0] / (r * 10**9)),
        "round the machines up to a whole number.",
    ),
]  # fmt: skip


@register(
    lesson=12,
    answer=memory_and_machines,
    expects="a function memory_and_machines(n, dim, bits, ram_gigabytes) -> (bytes, machines)",
    why="Two lines of arithmetic decide whether a project needs one machine or a cluster.",
    hints=[
        "A vector has dim * bits bits; rounded up to whole bytes that is vector_bytes(dim, bits).",
        "Divide the bytes of all vectors by ram_gigabytes * 10**9, and round up.",
        "machines_needed(memory, ram) does the second step; both numbers in bytes.",
    ],
    wrong_answers=[Wrong(mistake, says=words[:30]) for mistake, words in MACHINE_MISTAKES]
    + [
        Wrong(lambda n, k, b, r: 3, says="two numbers"),
        Wrong(lambda n, k, b, r: (1, 1), says="expected"),
    ],
)
def bytes_and_machines(answer):
    """Check a large float32 store, an int8 one, sign bits, and one that just fits."""
    settings = [
        (100_000_000, 768, 32, 50), (100_000_000, 64, 8, 4), (1_000_000_000, 510, 1, 16),
        (50_000_000, 100, 32, 20), (10, 8, 32, 1),
    ]  # fmt: skip
    for setting in settings:
        got, want = answer(*setting), memory_and_machines(*setting)
        start = "for n = {:,}, dim = {}, bits = {}, {} GB".format(*setting)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            return f"{start}: return two numbers, (bytes, machines)."
        if tuple(got) == want:
            continue
        for mistake, words in MACHINE_MISTAKES:
            if all(tuple(answer(*s)) == tuple(mistake(*s)) for s in settings):
                return f"{start} you return {tuple(got)}, expected {want}: {words}"
        return f"{start} you return {tuple(got)}, expected {want}."
    return None
