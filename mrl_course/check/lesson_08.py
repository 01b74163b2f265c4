"""Exercises of lesson 08: what chance gives, neighbours without oneself, a taste, two pictures."""

import numpy as np

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.check.shared import best, unit
from mrl_course.neighbours import (
    align_picture,
    kept_above_chance,
    label_chance,
    neighbour_agreement,
    recommend,
)


@register(
    lesson=8,
    answer=kept_above_chance,
    expects="a function kept(score, full_score, chance) -> one number",
    why="Now 0 means that the cut lost everything, however few groups there are.",
    hints=[
        "How much better than chance is the full vector? And the cut one?",
        "Both are differences. Divide one by the other.",
    ],
    wrong_answers=[
        Wrong(lambda score, full_score, chance: score / full_score, says="plain retention"),
        Wrong(lambda score, full_score, chance: (score - chance) / full_score, says="twice"),
        Wrong(lambda score, full_score, chance: score - chance, says="divide"),
        Wrong(
            lambda score, full_score, chance: (full_score - chance) / (score - chance),
            says="upside down",
        ),
        Wrong(
            lambda score, full_score, chance: max(0.0, (score - chance) / (full_score - chance)),
            says="below chance",
        ),
        Wrong(lambda score, full_score, chance: 0.123, says="expected"),
        Wrong(lambda score, full_score, chance: [0.5], says="one number"),
    ],
)
def kept_after_chance(answer):
    """Check above chance, at chance and below it."""
    for score, full, chance in ((0.5, 0.8, 0.2), (0.25, 0.65, 0.25), (0.1, 0.6, 0.2)):
        got, want = answer(score, full, chance), kept_above_chance(score, full, chance)
        if np.ndim(got) != 0 or not isinstance(got, (int, float, np.number)):
            return "return one number."
        if abs(got - want) < 1e-9:
            continue
        given = f"for score {score}, full score {full} and chance {chance}"
        if abs(got - score / full) < 1e-9:
            return f"{given} you return plain retention; take chance off both scores first."
        if abs(got - (score - chance) / full) < 1e-9:
            return f"{given} chance is taken off once; it is needed twice."
        if abs(got - (score - chance)) < 1e-9:
            return f"{given} you return a difference; divide by the same difference at full size."
        if want and abs(got - 1 / want) < 1e-9:
            return f"{given} the fraction is upside down."
        if score < chance and got == 0:
            return "a cut may score below chance; say so with a negative number."
        return f"{given} you return {got:.3f}; expected {want:.3f}."
    return None


def _cosines(emb: np.ndarray, self_score: float | None) -> np.ndarray:
    scores = unit(emb) @ unit(emb).T
    if self_score is not None:
        np.fill_diagonal(scores, self_score)
    return scores


def _agreement(scores: np.ndarray, labels: np.ndarray, top_k: int) -> float:
    return float((labels[best(scores, top_k)] == labels[:, None]).mean())


def same_group(emb, labels, top_k, dim):
    """Share of the top_k neighbours of each row, by its first dim numbers, with its own label."""
    return neighbour_agreement(emb[:, :dim], labels, top_k)


@register(
    lesson=8,
    answer=same_group,
    expects="a function same_group(emb, labels, top_k, dim) -> a number from 0 to 1",
    why="A row is its own nearest neighbour: counted in, it gives every model a present.",
    hints=[
        "Print nearest[:5]. What do all rows have in their first column?",
        "Set the diagonal of the cosines to -inf with np.fill_diagonal before sorting.",
        "And the lengths: which numbers does the function compare, and which does it normalise?",
    ],
    wrong_answers=[
        Wrong(
            lambda emb, labels, top_k, dim: _agreement(
                unit(emb)[:, :dim] @ unit(emb)[:, :dim].T, labels, top_k
            ),
            says="both",
        ),
        Wrong(
            lambda emb, labels, top_k, dim: _agreement(_cosines(emb[:, :dim], None), labels, top_k),
            says="itself",
        ),
        Wrong(
            lambda emb, labels, top_k, dim: _agreement(
                unit(emb)[:, :dim] @ unit(emb)[:, :dim].T - 9 * np.eye(len(emb)), labels, top_k
            ),
            says="before the cut",
        ),
        Wrong(
            lambda emb, labels, top_k, dim: _agreement(_cosines(emb, -9), labels, top_k),
            says="all numbers",
        ),
        Wrong(
            lambda emb, labels, top_k, dim: _agreement(
                _cosines(emb[:, :dim], None), labels, top_k + 1
            ),
            says="one more",
        ),
        Wrong(lambda emb, labels, top_k, dim: label_chance(labels), says="expected"),
        Wrong(lambda emb, labels, top_k, dim: [0.5], says="one number"),
    ],
)
def neighbours_of_one_group(answer):
    """Check on groups in rows of very different lengths."""
    rng = np.random.default_rng(8)
    labels = np.repeat(np.arange(4), 15)
    emb = rng.normal(size=(4, 10))[labels] * 0.7 + rng.normal(size=(60, 10))
    emb[:, :4] *= rng.uniform(0.2, 5, size=(60, 1))
    top_k, dim = 5, 4
    got, want = answer(emb, labels, top_k, dim), same_group(emb, labels, top_k, dim)
    if np.ndim(got) != 0 or not isinstance(got, (int, float, np.number)):
        return "return one number, the mean over all rows and neighbours."
    early = unit(emb)[:, :dim] @ unit(emb)[:, :dim].T
    own = 9 * np.eye(len(emb))
    known = {
        "": want,
        "both bugs are still there.": _agreement(early, labels, top_k),
        "each row still counts itself as a neighbour.": _agreement(
            _cosines(emb[:, :dim], None), labels, top_k
        ),
        "you normalise before the cut, so long prefixes win.": _agreement(
            early - own, labels, top_k
        ),
        "you compare all numbers; cut to the first dim.": _agreement(
            _cosines(emb, -9), labels, top_k
        ),
        "you ask for one more neighbour, and still count the row itself.": _agreement(
            _cosines(emb[:, :dim], None), labels, top_k + 1
        ),
    }
    for message, value in known.items():
        if abs(float(got) - value) < 1e-9:
            return message or None
    return f"you return {float(got):.3f}; expected {want:.3f} for this input."


def suggest(emb, liked, dim, top_k):
    """The top_k rows nearest to the mean of the liked ones, by the first dim numbers."""
    return recommend(emb, liked, dim, top_k).indices


def _suggest(emb, liked, top_k, *, normalise=True, drop=True) -> np.ndarray:
    taste = (unit(emb) if normalise else emb)[liked].mean(axis=0)
    scores = unit(emb) @ taste
    if drop:
        scores[liked] = -np.inf
    return best(scores, top_k)


@register(
    lesson=8,
    answer=suggest,
    expects="a function suggest(emb, liked, dim, top_k) -> top_k row numbers, the best first",
    why="Every liked item has one vote, and nobody is told what they know already.",
    hints=[
        "Make one liked vector ten times as long. Does the list change? Should it?",
        "Cut, then normalise each row, and only then take the mean.",
        "scores[liked] = -np.inf keeps the liked items off the list.",
    ],
    wrong_answers=[
        Wrong(
            lambda emb, liked, dim, top_k: _suggest(
                emb[:, :dim], liked, top_k, normalise=False, drop=False
            ),
            says="both",
        ),
        Wrong(
            lambda emb, liked, dim, top_k: _suggest(emb[:, :dim], liked, top_k, normalise=False),
            says="long",
        ),
        Wrong(
            lambda emb, liked, dim, top_k: _suggest(emb[:, :dim], liked, top_k, drop=False),
            says="liked already",
        ),
        Wrong(lambda emb, liked, dim, top_k: _suggest(emb, liked, top_k), says="all numbers"),
        Wrong(lambda emb, liked, dim, top_k: liked[:1], says="shape"),
        Wrong(lambda emb, liked, dim, top_k: suggest(emb, liked, dim, top_k)[::-1], says="reverse"),
        Wrong(lambda emb, liked, dim, top_k: np.arange(top_k), says="nearest"),
    ],
)
def recommendation_list(answer):
    """Check with one liked vector that is far longer than the others."""
    rng = np.random.default_rng(80)
    emb = rng.normal(size=(60, 9)).astype(np.float64)
    liked, dim, top_k = [3, 20, 41], 5, 6
    emb[3] *= 12
    emb[:, :dim] *= rng.uniform(0.5, 2, size=(60, 1))
    got, want = np.asarray(answer(emb, liked, dim, top_k)), suggest(emb, liked, dim, top_k)
    if got.shape != want.shape:
        return f"the result has shape {got.shape}; {top_k} row numbers are expected."
    cut = emb[:, :dim]
    known = {
        "": want,
        "both bugs are still there.": _suggest(cut, liked, top_k, normalise=False, drop=False),
        "the long liked vector decides alone: normalise the rows before the mean.": _suggest(
            cut, liked, top_k, normalise=False
        ),
        "the list holds what the person liked already.": _suggest(cut, liked, top_k, drop=False),
        "you compare all numbers; cut to the first dim.": _suggest(emb, liked, top_k),
        "the right rows in reverse order: the nearest comes first.": want[::-1],
    }
    for message, value in known.items():
        if np.array_equal(got, value):
            return message or None
    return "these are not the rows nearest to the mean of the liked, normalised prefixes."


def _fit(picture: np.ndarray, reference: np.ndarray, kind: str) -> np.ndarray:
    """Known ways to lay one picture over another that are not quite it."""
    mean, target = picture.mean(axis=0), reference.mean(axis=0)
    if kind == "bent":
        return (picture - mean) @ np.linalg.lstsq(picture - mean, reference - target, rcond=None)[
            0
        ] + target
    left, stretch, right = np.linalg.svd((picture - mean).T @ (reference - target))
    if kind == "unflipped":
        left[:, -1] *= np.sign(np.linalg.det(left @ right))
    turn = {"other way": (left @ right).T}.get(kind, left @ right)
    if kind == "shifted":
        return (picture - mean) + target
    scale = 1.0 if kind == "unscaled" else stretch.sum() / ((picture - mean) ** 2).sum()
    return scale * (picture - mean) @ turn + (0 if kind == "at zero" else target)


@register(
    lesson=8,
    answer=align_picture,
    expects="a function align(picture, reference) -> an array of the same shape",
    why="What still differs between two pictures is now a difference between them.",
    hints=[
        "Take the mean off both. Shifting is then done; add the mean of the reference at the end.",
        "U, s, Vt = np.linalg.svd(picture.T @ reference), both centred. The rotation is U @ Vt.",
        "The scale is s.sum() / (picture**2).sum(), again centred. Put the three together.",
    ],
    wrong_answers=[
        Wrong(lambda p, r: _fit(p, r, "bent"), says="bends"),
        Wrong(lambda p, r: _fit(p, r, "other way"), says="other way"),
        Wrong(lambda p, r: _fit(p, r, "unscaled"), says="scale"),
        Wrong(lambda p, r: _fit(p, r, "at zero"), says="mean"),
        Wrong(lambda p, r: _fit(p, r, "shifted"), says="turned"),
        Wrong(lambda p, r: _fit(p, r, "unflipped"), says="mirror"),
        Wrong(lambda p, r: r, says="copy"),
        Wrong(lambda p, r: p, says="as it was"),
        Wrong(lambda p, r: p[:3], says="shape"),
        Wrong(lambda p, r: np.zeros_like(p), says="zero"),
    ],
)
def aligned_pictures(answer):
    """Check on a picture that is turned, scaled, shifted and a bit different, then flipped too."""
    rng = np.random.default_rng(88)
    reference = rng.normal(size=(40, 2)) * [3, 1] + [5, -2]
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    picture = 2.5 * (reference + 0.3 * rng.normal(size=(40, 2))) @ turn + [1, 7]
    flipped = picture * [-1, 1]
    got, want = answer(picture, reference), align_picture(picture, reference)
    if np.shape(got) == want.shape and np.allclose(got, want, atol=1e-6):
        picture = flipped
        got, want = answer(picture, reference), align_picture(picture, reference)
    problem = compare_arrays(got, want)
    if problem is None or np.shape(got) != want.shape:
        return problem
    known = {
        "you return the picture as it was.": picture,
        "you return a copy of the reference; the picture has points of its own.": reference,
        "the picture bends: the matrix must be a rotation, not just the best fit.": _fit(
            picture, reference, "bent"
        ),
        "it is turned the other way: transpose the rotation.": _fit(
            picture, reference, "other way"
        ),
        "turned rightly, but the scale is missing.": _fit(picture, reference, "unscaled"),
        "turned rightly, but around zero: add the mean of the reference.": _fit(
            picture, reference, "at zero"
        ),
        "shifted, but not turned.": _fit(picture, reference, "shifted"),
        "a mirror image is allowed: leave the sign of the determinant alone.": _fit(
            picture, reference, "unflipped"
        ),
    }
    for message, value in known.items():
        if np.allclose(got, value, atol=1e-6):
            return message
    return problem
