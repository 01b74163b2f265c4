"""Exercises of lesson 07: int8 rows, a search that forgot its lengths, and reading the page."""

import numpy as np

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.demo import break_point, prefix_scores, quantise_rows


def _codes(emb, scales, rounded=np.rint):
    return rounded(emb / scales).astype(np.int8)


def _row_scales(emb, most=127):
    return np.abs(emb).max(axis=1, keepdims=True) / most


def _one_scale(emb):
    scale = np.abs(emb).max() / 127
    return _codes(emb, scale), np.full(len(emb), scale)


def _column_scales(emb):
    scales = np.abs(emb).max(axis=0) / 127
    return _codes(emb, scales), scales


@register(
    lesson=7,
    answer=quantise_rows,
    expects="a function int8_rows(emb) -> (codes, scales): (n, D) int8 and (n,) numbers",
    why="A quarter of the bytes, and each row uses the whole range from -127 to 127.",
    hints=[
        "The largest absolute number of a row should become 127. Which scale does that?",
        "np.rint rounds to the nearest whole number; .astype(np.int8) alone cuts the digits off.",
        "scales = np.abs(emb).max(axis=1) / 127; divide by scales[:, None], round, convert.",
    ],
    wrong_answers=[
        Wrong(_one_scale, says="each row"),
        Wrong(_column_scales, says="one scale for each row"),
        Wrong(
            lambda emb: (_codes(emb, _row_scales(emb), np.trunc), _row_scales(emb)[:, 0]),
            says="cut off",
        ),
        Wrong(
            lambda emb: (_codes(emb, _row_scales(emb, 100)), _row_scales(emb, 100)[:, 0]),
            says="127",
        ),
        Wrong(lambda emb: (np.rint(emb / _row_scales(emb)), _row_scales(emb)[:, 0]), says="int8"),
        Wrong(
            lambda emb: (_codes(emb, _row_scales(emb)), 1 / _row_scales(emb)[:, 0]), says="inverse"
        ),
        Wrong(lambda emb: _codes(emb, _row_scales(emb)), says="two arrays"),
    ],
)
def int8_rows(answer):
    """Check on rows of very different size, none of them zero."""
    emb = np.random.default_rng(5).normal(size=(7, 6)) * np.logspace(-2, 2, 7)[:, None]
    got = answer(emb)
    if not isinstance(got, tuple | list) or len(got) != 2:
        return "return two arrays, codes and scales."
    codes, scales = np.asarray(got[0]), np.asarray(got[1], dtype=float)
    if codes.shape != emb.shape or scales.shape != (len(emb),):
        return (
            f"codes and scales have shapes {codes.shape} and {scales.shape}; expected "
            f"{emb.shape} and {(len(emb),)}: one scale for each row."
        )
    if codes.dtype != np.int8:
        return f"the codes have type {codes.dtype}; store them as int8."
    want_codes, want_scales = quantise_rows(emb)
    if np.allclose(scales, 1 / want_scales, rtol=1e-4):
        return "the scales are the inverse: codes times scale should give the numbers back."
    if np.allclose(scales, scales[0]):
        return "all scales are equal. Give each row its own, or small rows become zeros."
    if not (np.abs(codes.astype(int)).max(axis=1) == 127).all():
        return "the largest number of a row should become 127 or -127."
    if (np.abs(codes.astype(int)) <= np.abs(want_codes.astype(int))).all() and not np.array_equal(
        codes, want_codes
    ):
        return "digits are cut off. Round to the nearest whole number: the error halves."
    return compare_arrays(codes * scales[:, None], want_codes * want_scales[:, None], rtol=1e-4)


def _full_lengths(query, codes, k):
    return codes[:, :k] @ query[:k] / np.linalg.norm(codes.astype(float), axis=1)


def _wrapping(query, codes, k):
    squares = (codes[:, :k] ** 2).sum(axis=1)  # stays int8: 12 * 12 becomes -112
    return codes[:, :k] @ query[:k] / np.sqrt(np.abs(squares) + 1.0)


@register(
    lesson=7,
    answer=prefix_scores,
    expects="a function scores_at(query, codes, k) -> (n,) numbers",
    why="Cut first, then divide by the length of what is left.",
    hints=[
        "Which numbers does the length in the denominator come from, and which ones were kept?",
        "A row whose weight lies in the numbers that were cut off gets too small a score.",
        "Cut the codes before np.linalg.norm: codes[:, :k].astype(float).",
    ],
    wrong_answers=[
        Wrong(_full_lengths, says="complete rows"),
        Wrong(lambda query, codes, k: codes[:, :k] @ query[:k], says="not divided"),
        Wrong(_wrapping, says="int8"),
        Wrong(
            lambda query, codes, k: prefix_scores(query, codes, len(query)), says="all 8 numbers"
        ),
        Wrong(lambda query, codes, k: np.argsort(-prefix_scores(query, codes, k)), says="scores"),
        Wrong(lambda query, codes, k: 0.5, says="single number"),
    ],
)
def search_at_k(answer):
    """Check the order on rows whose length lies before or behind the cut; any factor is fine."""
    rng = np.random.default_rng(11)
    codes = rng.integers(-127, 128, (40, 8)).astype(np.int8)
    codes[::2, 4:] //= 20  # the weight of these rows lies in front of the cut
    codes[1::2, :4] //= 20
    query, k = rng.normal(size=8), 4
    want = prefix_scores(query, codes, k)
    got = np.asarray(answer(query, codes, k), dtype=float)
    if got.shape != want.shape:
        return compare_arrays(got, want)

    def like(scores):  # the length of the query may be divided out or not
        return np.allclose(got * np.abs(scores).sum(), scores * np.abs(got).sum(), rtol=1e-6)

    if like(want):
        return None
    if like(_full_lengths(query, codes, k)):
        return "you divide by the lengths of the complete rows; only k numbers are left."
    if like(codes[:, :k] @ query[:k]):
        return "the dot products are not divided by the length of the row's prefix."
    if like(prefix_scores(query, codes, 8)):
        return "you compare all 8 numbers; keep the first k of both."
    if sorted(got.tolist()) == list(range(len(codes))):
        return "return the scores, not the order of the rows."
    return (
        "these are not the cosines of the prefixes, up to a factor. One usual reason: squares of "
        "int8 numbers do not fit into int8; convert with .astype(float) first."
    )


@register(
    lesson=7,
    answer=break_point,
    expects="a function whole_from(curve, enough) -> the smallest such k, a whole number",
    why="The first k that looks good may be luck; this one holds from there on.",
    hints=[
        "Where is the curve too low for the last time?",
        "np.flatnonzero(np.asarray(curve) < enough) gives positions, counted from 0.",
        "Position j belongs to k = j + 1. One further is the answer; 1 if it is never too low.",
    ],
    wrong_answers=[
        Wrong(lambda curve, enough: int(np.argmax(np.array(curve) >= enough)) + 1, says="first"),
        Wrong(lambda curve, enough: break_point(curve, enough) - 1, says="too small by 1"),
        Wrong(lambda curve, enough: break_point(curve, enough + 1e-9), says="at least"),
        Wrong(lambda curve, enough: len(curve), says="expected"),
        Wrong(lambda curve, enough: curve, says="one whole number"),
        Wrong(
            lambda curve, enough: int(np.flatnonzero(np.array(curve) < enough)[-1]) + 2,
            says="IndexError",
        ),
    ],
)
def whole_from(answer):
    """Check on a curve that recovers and falls again, and on one that is never too low."""
    for curve in ([0, 6, 2, 4, 5, 3, 5, 8, 10], [5, 7, 10], [0, 10]):
        got, want = answer(curve, 5), break_point(curve, 5)
        if isinstance(got, bool) or not isinstance(got, int | np.integer):
            return "return one whole number, a k."
        if got == want:
            continue
        given = f"for {curve} and enough = 5 you return {int(got)}, expected {want}"
        if got == want - 1:
            return f"{given}: too small by 1. Position j of the curve belongs to k = j + 1."
        if got == int(np.argmax(np.array(curve) >= 5)) + 1:
            return f"{given}: that is the first good k, and the curve falls again after it."
        if got == break_point(curve, 5 + 1e-9):
            return f"{given}: a value of exactly 5 is enough; 'at least' includes it."
        return f"{given}."
    return None


_CURVES = {
    "regular": np.array([0, 1, 3, 5, 4, 6, 8, 10]),
    "matryoshka": np.array([1, 4, 6, 5, 7, 8, 9, 10]),
}


def _read(regular, matryoshka):
    return {"curves": _CURVES, "regular": regular, "matryoshka": matryoshka}


@register(
    lesson=7,
    answer=_read(6, 3),
    expects="the smallest k for each twin from which on at least 5 of the 10 results are kept",
    why="You read it off the page, and Python found the same.",
    hints=[
        "Type the query into the page. Both curves should stay at 5 or above to the right of k.",
        "Go down from D with the left arrow key until one twin shows 4 of 10. Its k is one more.",
    ],
    wrong_answers=[
        Wrong(_read(3, 6), says="exchanged"),
        Wrong(_read(6, 2), says="the Matryoshka twin"),
        Wrong(_read(4, 3), says="the regular twin keeps 4 of 10 at k = 5"),
        Wrong(_read(7, 3), says="smaller"),
        Wrong(_read(6, "three"), says="whole number"),
        Wrong({"regular": 6, "matryoshka": 3}, says="curves"),
    ],
    solution_text="Press Home on the slider, then look at the curves; or let Python do it:\n"
    "{name: break_point(curve, 5) for name, curve in curves.items()}\n"
    "For two short curves, for example:",
)
def read_off_the_page(answer):
    """Compare what was read off the page with the curves that Python has for the same query."""
    if not isinstance(answer, dict) or set(answer) != {"curves", "regular", "matryoshka"}:
        return "pass a dict with `curves`, `regular` and `matryoshka`, as in the cell."
    names = ("regular", "matryoshka")
    want = {name: break_point(answer["curves"][name], 5) for name in names}
    for name in names:
        if isinstance(answer[name], bool) or not isinstance(answer[name], int):
            return f"{name} should be a whole number, the k of the slider."
    if [answer[n] for n in names] == [want[n] for n in names[::-1]] and len(set(want.values())) > 1:
        return "these are the right numbers, exchanged between the twins."
    for name, title in zip(names, ("the regular twin", "the Matryoshka twin"), strict=True):
        curve = answer["curves"][name]
        if not 1 <= answer[name] <= len(curve):
            return f"k = {answer[name]} does not exist; it goes from 1 to {len(curve)}."
        if answer[name] < want[name]:
            k = want[name] - 1
            return f"{title} keeps {int(curve[k - 1])} of 10 at k = {k}, to the right of yours."
        if answer[name] > want[name]:
            return f"{title} keeps 5 or more from a smaller k on; go on to the left."
    return None
