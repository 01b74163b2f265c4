"""How much two meanings share: the grades of the graded pairs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mrl_course.miniature.lexicon import (
    Thing,
    Word,
)
from mrl_course.miniature.meaning import NP, Event, Frame, Spot

WEIGHTS = {
    "action": 3.0,
    "object": 2.4,
    "actor": 2.0,
    "scene": 1.0,
    "setting": 0.9,
    "spot": 0.5,
    "wear": 0.5,
    "second": 1.2,
    "actor_count": 0.5,
    "object_count": 0.5,
    "actor_adjective": 0.5,
    "object_adjective": 0.5,
    "manner": 0.3,
    "when": 0.4,
    "posture": 0.2,
    "tense": 0.8,
}
"""How much each part of a meaning counts in `meaning_overlap`."""


def thing_overlap(one: Thing, other: Thing) -> float:
    """1 for the same thing, less for a wider one, a little for two of the same wider thing."""
    if one is other:
        return 1.0
    if one.is_a(other) or other.is_a(one):
        near = one.parents[:1] == (other,) or other.parents[:1] == (one,)
        return 0.7 if near else 0.55
    if set(one.parents[:-1]) & set(other.parents[:-1]):
        return 0.35
    return 0.2 if one.kind == other.kind else 0.0


def _shared(one: Sequence[Word], other: Sequence[Word]) -> float:
    return len(set(one) & set(other)) / len(set(one) | set(other))


def _count_overlap(one: NP, other: NP) -> float:
    first, second = ((np.count.low, np.count.high) if np.count else (1, 1) for np in (one, other))
    if first == second:
        return 1.0
    return 0.6 if first[0] <= second[1] and second[0] <= first[1] else 0.0


def _action_overlap(one: Event, other: Event) -> float:
    mine, theirs = ({p.text for p in event.phrases()} for event in (one, other))
    same = one.action is other.action
    if mine & theirs or (same and one.level == other.level == "same"):
        return 1.0
    if same:
        return 0.6 if "against" not in (one.level, other.level) else 0.15
    if "against" in (one.level, other.level):
        return 0.05 if one.action.scene == other.action.scene else 0.0
    if one.action.overlaps(other.action):
        return 0.45
    return 0.15 if one.action.scene == other.action.scene else 0.0


def _spot_overlap(one: Spot, other: Spot) -> float:
    if one.place is other.place:
        return 1.0 if one.general == other.general else 0.7
    if set(one.place.general) & set(other.place.general):
        return 0.4
    return 0.15 if one.place.scene == other.place.scene else 0.0


def meaning_overlap(one: Frame, other: Frame) -> float:
    """How much two meanings share, from 0 (nothing) to 1 (the same), whatever their words.

    Each part of a meaning (see `WEIGHTS`) is compared; a part that only one of them tells counts
    against them with half its weight. Denying the action, or telling one that it excludes, halves
    the grade.
    """
    total = shared = 0.0
    for part, first, second, overlap in _parts(one, other):
        if first is None and second is None:
            continue
        if first is None or second is None:
            total += WEIGHTS[part] / 2
            continue
        total += WEIGHTS[part]
        shared += WEIGHTS[part] * overlap(first, second)
    score = shared / total
    e, f = one.event, other.event
    excluded = e.action is f.action and (e.level == "against") != (f.level == "against")
    return round(score / 2 if excluded != (e.negated != f.negated) else score, 3)


def _parts(one: Frame, other: Frame) -> Iterator[tuple[str, Any, Any, Callable[[Any, Any], float]]]:
    """The parts of two meanings, side by side, and how much two of a kind share.

    The order is part of the data: sums of decimals depend on it in the last bit.
    """
    e, f = one.event, other.event
    acts = one.told == "event", other.told == "event"
    yield "action", e if acts[0] else None, f if acts[1] else None, _action_overlap
    goals = e.object if acts[0] else None, f.object if acts[1] else None
    yield "object", *goals, _thing_of_overlap
    yield "actor", e.actor, f.actor, _thing_of_overlap
    yield "actor_count", e.actor, f.actor, _count_overlap
    if goals[0] and goals[1]:
        yield "object_count", *goals, _count_overlap
    yield "actor_adjective", _words(e.actor), _words(f.actor), _shared
    yield "object_adjective", _words(goals[0]), _words(goals[1]), _shared
    yield "scene", one.scene, other.scene, _same
    yield "setting", one.setting, other.setting, _spot_overlap
    yield "spot", one.spot, other.spot, _spot_overlap
    like = one.bare == other.bare
    yield "wear", one.wear, other.wear, lambda a, b: _wear_overlap(a, b, like)
    yield "second", one.second, other.second, _action_overlap
    yield "manner", e.manner, f.manner, _same
    yield "when", one.when, other.when, _same
    yield "posture", one.posture or None, other.posture or None, _same
    yield "tense", one.tense, other.tense, _same


def _same(first: Any, second: Any) -> float:
    return float(first is second or first == second)


def _thing_of_overlap(one: NP, other: NP) -> float:
    return thing_overlap(one.thing, other.thing)


def _words(phrase: NP | None) -> tuple[Word, ...] | None:
    return (phrase.adjectives if phrase else ()) or None


def _wear_overlap(one: NP, other: NP, both_bare_or_none: bool) -> float:
    same = one.adjectives == other.adjectives and both_bare_or_none
    return thing_overlap(one.thing, other.thing) * 0.6 + 0.4 * same
