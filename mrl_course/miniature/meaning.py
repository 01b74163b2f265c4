"""Meanings, and what follows from them: a small grammar of English, without its words.

A `Frame` is a meaning (who does what, to what, where, when). `Grammar.weaken` takes details away,
so that the result is entailed; `Grammar.contradict` changes one detail, so that the result can't be
true as well. The things and actions come from `mrl_course.miniature.lexicon`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar

from mrl_course.miniature.lexicon import (
    Action,
    Lexicon,
    Phrase,
    Place,
    Quantity,
    Scene,
    Thing,
    Word,
    content_words,
)

T = TypeVar("T")
ADJECTIVE_ORDER = ("size", "place_size", "height", "weight", "length", "age", "thingage", "colour")
EXCLUSIVE = {"colour", "age", "material", "side", "coat", "thingage", "animalage"}
DOUBLED = re.compile(r"\b(\w+) \1\b", re.IGNORECASE)
VOWEL_SOUND = re.compile(r"(?!uni|use|usu|eu|one\b|uku)[aeiou]|hour|honest|heir", re.IGNORECASE)


# ---------------------------------------------------------------------------------------------
# Chance. Only Random.random() is used: its values are the same in every Python version.


def choose(rng: Random, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def chance(rng: Random, probability: float) -> bool:
    """True with the given probability."""
    return rng.random() < probability


# ---------------------------------------------------------------------------------------------
# Meanings


@dataclass(frozen=True)
class NP:
    """A thing with an optional quantity and adjectives; no quantity means one, or a mass."""

    thing: Thing
    count: Quantity | None = None
    adjectives: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Event:
    """Who does what: `level` says which of the action's phrases is meant.

    `same` is the action itself, `general` something that it entails, `against` something that it
    excludes; `index` picks one of the general or excluded phrases.
    """

    actor: NP
    action: Action
    object: NP | None = None
    level: str = "same"
    index: int = 0
    partner: NP | None = None
    manner: Word | None = None
    negated: bool = False

    def phrases(self) -> tuple[Phrase, ...]:
        """The phrases that say this event."""
        if self.level == "same":
            return self.action.same
        return (getattr(self.action, self.level)[self.index],)


@dataclass(frozen=True)
class Spot:
    """A place, told exactly (`general` is None), or by one of its general names."""

    place: Place
    general: int | None = None

    def words(self) -> tuple[str, ...]:
        """The wordings of this place."""
        return self.place.same if self.general is None else (self.place.general[self.general],)


@dataclass(frozen=True)
class Frame:
    """A whole meaning. `event` is None when only clothes or a place are told of `who`."""

    scene: Scene
    tense: str  # now, past or future
    event: Event
    told: str = "event"  # event, place or wear: what the sentence says of the actor
    second: Event | None = None
    wear: NP | None = None
    bare: bool = False  # True: the actor is without the garment `wear`
    posture: str = ""
    spot: Spot | None = None
    setting: Spot | None = None
    where: str = ""  # in or out
    when: Word | None = None


LIKELY_SEVERAL = {
    "caption": {"often": 0.45, "few": 0.12, "news": 0.0, "never": 0.0},
    "news": {"often": 0.35, "few": 0.5, "news": 0.35, "never": 0.0},
}
SMALL_COUNTS = {"two", "three", "four", "five", "a pair of", "several", "a group of", "some"}
OBJECT_COUNTS = {"", "two", "three", "four", "five", "six", "several", "a few", "some", "many"}
LARGE_COUNTS = OBJECT_COUNTS | {"ten", "a dozen", "twenty", "fifty", "a hundred", "two hundred"}
LARGE_COUNTS |= {"dozens of"}


class Grammar:
    """Draws meanings from a lexicon and says them."""

    def __init__(self, lexicon: Lexicon) -> None:
        """Take the words of a lexicon."""
        self.lexicon = lexicon
        self.scenes = list(lexicon.scenes.values())
        self.quantity = {q.word: q for q in lexicon.quantities}
        self.adverbs = lexicon.adverbs
        pick = lexicon.quantities
        self.small = [q for q in pick if q.word in SMALL_COUNTS]
        self.several = [q for q in pick if q.word in OBJECT_COUNTS]
        self.large = [q for q in pick if q.word in LARGE_COUNTS]
        self.bare_plural = self.quantity[""]

    # -- drawing a meaning ----------------------------------------------------------------------

    def adjective(self, rng: Random, thing: Thing) -> tuple[Word, ...]:
        """No, one or two adjectives that suit the thing."""
        if not thing.adjectives:
            return ()
        first = choose(rng, thing.adjectives)
        words = [choose(rng, self.lexicon.adjectives[first])]
        if len(thing.adjectives) > 1 and chance(rng, 0.12):
            second = choose(rng, thing.adjectives)
            if second != first:
                words.append(choose(rng, self.lexicon.adjectives[second]))
        rank = {group: n for n, group in enumerate(ADJECTIVE_ORDER)}
        return tuple(sorted(words, key=lambda word: rank.get(word.group, -1)))

    def actor(self, rng: Random, scene: Scene, action: Action, avoid: frozenset[Thing]) -> NP:
        """Someone who can do the action and is not in `avoid`."""
        things = [thing for thing in action.actors if thing not in avoid] or list(action.actors)
        thing = choose(rng, things)
        count = None
        many = 0.05 if scene.kind == "news" else 0.22
        if thing.countable and thing.kind != "weather" and chance(rng, many):
            count = choose(rng, self.small)
        likely = {"weather": 0.6, "weather2": 0.4, "body": 0.3}.get(thing.kind, 0.35)
        return NP(thing, count, self.adjective(rng, thing) if chance(rng, likely) else ())

    def object(self, rng: Random, action: Action, actor: NP, thing: Thing) -> NP:
        """An object, several of them where that is plausible."""
        count = None
        news = self.lexicon.scenes[action.scene].kind == "news"
        large = news and thing.kind in ("person", "plant", "product")
        if thing.countable and thing in action.several:
            count = choose(rng, self.several)
        elif thing.countable and (news or action.same[0].passive):
            # Where there is no passive, the "object" is a place: one sits on one wall.
            likely = LIKELY_SEVERAL["news" if news else "caption"][thing.several]
            if actor.count and thing.several != "never" and chance(rng, 0.7):
                count = self.bare_plural
            elif chance(rng, likely):
                count = choose(rng, self.large if large else self.several)
        return NP(thing, count, self.adjective(rng, thing) if chance(rng, 0.45) else ())

    def event(self, rng: Random, scene: Scene, avoid: frozenset[Thing] = frozenset()) -> Event:
        """Something that happens in the scene."""
        action = choose(rng, self.lexicon.actions[scene.name])
        actor = self.actor(rng, scene, action, avoid)
        goal = None
        if action.objects:
            options = [thing for thing in action.objects if not thing.is_a(actor.thing)]
            options = [t for t in options if not actor.thing.is_a(t)] or list(action.objects)
            goal = self.object(rng, action, actor, choose(rng, options))
        partner = None
        if actor.count is None and actor.thing.kind == "person" and chance(rng, 0.1):
            others = [t for t in action.actors if not _related(t, actor.thing) and t.countable]
            others = [t for t in others if goal is None or not _related(t, goal.thing)]
            partner = NP(choose(rng, others)) if others else None
        manner = None
        if action.manner and chance(rng, 0.2):
            group = choose(rng, action.manner)
            if group != "mood" or all(word.group != "mood" for word in actor.adjectives):
                manner = choose(rng, self.adverbs[group])
        return Event(actor, action, goal, partner=partner, manner=manner)

    def frame(self, rng: Random, scene: Scene | None = None) -> Frame:
        """A full meaning, as rich as a caption or a news line."""
        scene = scene or choose(rng, self.scenes)
        event = self.event(rng, scene)
        if scene.kind == "news":
            future = "future" in scene.times and chance(rng, 0.25)
            tense = "future" if future else "past"
            times = self.lexicon.times["news" if tense == "past" else "future"]
            frame = Frame(scene, tense, event, setting=self._place(rng, event, "setting", 0.75))
            return replace(frame, when=choose(rng, times) if chance(rng, 0.35) else None)
        frame = Frame(scene, "past" if chance(rng, 0.18) else "now", event)
        spot = self._place(rng, event, "spot", 0.45)
        setting = self._place(rng, event, "setting", 0.5 if spot else 0.75)
        posture = ""
        if spot and event.action.posture and chance(rng, 0.35):
            posture = choose(rng, event.action.posture)
        wear = None
        if event.actor.thing.kind == "person" and event.partner is None and chance(rng, 0.27):
            wear = self._wear(rng, scene, event)
        second = None
        if not wear and not posture and chance(rng, 0.16):
            second = self._second(rng, scene, event)
        when = None
        if frame.tense == "past" and chance(rng, 0.5):
            when = choose(rng, self.lexicon.times["past"])
        elif second is None and chance(rng, 0.2):
            when = choose(rng, self.lexicon.times[choose(rng, scene.times)])
        bare = wear is not None and not wear.adjectives and chance(rng, 0.3)
        return replace(
            frame,
            spot=None if second and setting else spot,
            setting=setting,
            posture=posture,
            wear=wear,
            bare=bare,
            second=second,
            when=when,
        )

    def _place(self, rng: Random, event: Event, kind: str, likely: float) -> Spot | None:
        places = self.lexicon.places.get((event.action.scene, kind))
        if not places or not chance(rng, likely):
            return None
        place = choose(rng, places)
        words = set(event.action.words)
        for np in (event.object, event.actor):
            if np:
                words |= content_words(" ".join(n.word for n in np.thing.nouns))
        return None if words & place.words else Spot(place)

    def _wear(self, rng: Random, scene: Scene, event: Event) -> NP | None:
        if not scene.wears:
            return None
        thing = choose(rng, scene.wears)
        if event.object and _related(thing, event.object.thing):
            return None
        count = self.bare_plural if event.actor.count or thing.name in PAIRS else None
        adjectives = self.adjective(rng, thing) if chance(rng, 0.75) else ()
        return NP(thing, count if thing.countable else None, adjectives)

    def _second(self, rng: Random, scene: Scene, event: Event) -> Event | None:
        avoid = frozenset(np.thing for np in (event.actor, event.partner) if np)
        other = self.event(rng, scene, avoid)
        taken = [np.thing for np in (event.actor, event.partner, event.object) if np]
        clash = other.action is event.action or any(_related(other.actor.thing, t) for t in taken)
        if other.object:
            clash = clash or any(_related(other.object.thing, t) for t in taken)
        return None if clash else replace(other, partner=None, manner=None)

    # -- less is entailed -----------------------------------------------------------------------

    def weaken(self, rng: Random, frame: Frame, keep: float = 0.55) -> Frame:
        """A meaning that the frame entails: details dropped or made more general.

        Args:
            keep: chance, from 0 to 1, that a detail stays; the rest is dropped or widened.
        """
        frame = self._one_of_two(rng, frame, keep)
        event, told = self._less_exact(rng, frame, self._one_actor(rng, frame), keep)
        general = event.level != "same"
        event = self._widen_event(rng, event, keep, general)
        weaker = self._widen_rest(rng, frame, told, keep, keep + (0.35 if general else 0.1))
        return _only_told(replace(weaker, event=event, told=told))

    @staticmethod
    def _one_of_two(rng: Random, frame: Frame, keep: float) -> Frame:
        """Of two things that happen, sometimes the second alone."""
        if frame.second is not None and chance(rng, 0.3 * (1 - keep) * 2):
            frame = replace(frame, event=frame.second, spot=None, posture="", when=None)
            frame = replace(frame, second=None)
        return frame

    @staticmethod
    def _one_actor(rng: Random, frame: Frame) -> Event:
        """Of two who do something together, sometimes one."""
        event = frame.event
        if frame.told == "event" and event.partner and chance(rng, 0.6):
            pair = (event.actor, event.partner)
            one = choose(rng, pair)
            event = replace(event, actor=replace(one, adjectives=()), partner=None)
        return event

    def _less_exact(
        self, rng: Random, frame: Frame, event: Event, keep: float
    ) -> tuple[Event, str]:
        """A more general action, the denial of one that it excludes, or no action at all.

        Also which part of the frame is told.
        """
        level = event.level
        told = "event"
        if level == "same" and not event.negated and chance(rng, 0.3 * (1 - keep)):
            event = replace(event, level="general", index=self._index(rng, event.action.general))
            if not event.phrases()[0].has_object:
                event = replace(event, object=None, manner=None)
        elif level == "same" and chance(rng, 0.03):
            event = replace(event, level="against", index=self._index(rng, event.action.against))
            event = replace(event, negated=True, manner=None)
            if not event.phrases()[0].has_object:
                event = replace(event, object=None)
        elif frame.scene.kind == "caption" and not (
            frame.second or event.partner or chance(rng, 0.92)
        ):
            told = "wear" if frame.wear else "place" if frame.spot or frame.setting else "event"
        return event, told

    def _widen_event(self, rng: Random, event: Event, keep: float, general: bool) -> Event:
        """Wider things with fewer adjectives; of what is denied, the thing itself."""
        actor = self._widen(rng, event.actor, 0.75 if general else keep)
        goal = event.object
        if goal and event.negated:
            goal = replace(goal, adjectives=(), count=goal.count or None)
        elif goal:
            goal = self._widen(rng, goal, 0.95 if general else keep + 0.15)
        manner = event.manner if not event.negated and chance(rng, keep * 0.6) else None
        return replace(event, actor=actor, object=goal, manner=manner)

    def _widen_rest(
        self, rng: Random, frame: Frame, told: str, keep: float, keep_place: float
    ) -> Frame:
        """What stands around the action, dropped or wider; what is to be told stays."""
        second = frame.second if chance(rng, keep * 0.4) else None
        wear = frame.wear if told == "wear" or chance(rng, keep * 0.5) else None
        spot = frame.spot if told == "place" or chance(rng, keep_place * 0.7) else None
        setting = frame.setting if told == "place" or chance(rng, keep_place) else None
        where = ""
        if frame.setting and not setting and frame.scene.where and chance(rng, 0.12):
            where = frame.scene.where
        return replace(
            frame,
            second=second,
            wear=wear,
            posture=frame.posture if spot and chance(rng, 0.6) else "",
            spot=self._widen_place(rng, spot, keep),
            setting=self._widen_place(rng, setting, keep),
            where=where,
            when=frame.when if chance(rng, keep * 0.5) else None,
        )

    @staticmethod
    def _index(rng: Random, options: Sequence[Any]) -> int:
        return int(rng.random() * len(options))

    def _widen(self, rng: Random, np: NP, keep: float) -> NP:
        thing, count = np.thing, np.count
        if thing.parents and chance(rng, (1 - keep) * 0.75):
            wider = thing.parents[0] if chance(rng, 0.8) else thing.parents[-1]
            vague = wider.name in VAGUE and chance(rng, 0.6)
            if not vague and (count is None or wider.countable):
                thing = wider
        if count and chance(rng, 0.5):
            count = choose(rng, self.wider_counts(count))
        adjectives = tuple(word for word in np.adjectives if chance(rng, keep * 0.75))
        return NP(thing, count, adjectives)

    def wider_counts(self, count: Quantity) -> list[Quantity]:
        """Quantities that hold whenever `count` does, itself included."""
        options = [q for q in self.lexicon.quantities if q.low <= count.low <= count.high <= q.high]
        return [q for q in options if not q.word.startswith("fewer") or count.high > 1]

    @staticmethod
    def _widen_place(rng: Random, spot: Spot | None, keep: float) -> Spot | None:
        if spot and spot.general is None and spot.place.general and chance(rng, 0.7 * (1 - keep)):
            return Spot(spot.place, int(rng.random() * len(spot.place.general)))
        return spot

    # -- a contradiction ------------------------------------------------------------------------

    def contradict(self, rng: Random, frame: Frame, drop: float = 0.4) -> Frame:
        """A meaning that can't be true of the same moment: one detail is changed.

        Args:
            drop: chance, from 0 to 1, that each detail that wasn't changed is left out.
        """
        edits = self._edits(frame)
        while True:
            edit = weighted(rng, edits)
            changed = getattr(self, f"_edit_{edit}")(rng, frame)
            if changed is not None:
                return self._drop(rng, changed, frame, drop)

    @staticmethod
    def _edits(frame: Frame) -> list[tuple[str, float]]:
        """What can be changed, each with its weight; the order is part of the data."""
        event = frame.event
        goal, actor = event.object, event.actor
        people = goal and goal.thing.kind == "person" and actor.thing.kind == "person"
        possible = [
            ("against", 4.0, True),
            ("negate", 1.6, True),
            ("action", 1.8, True),
            ("object", 2.2, goal),
            ("object_count", 1.2, goal and goal.count and goal.count.word),
            ("object_adjective", 1.0, goal and goal.adjectives),
            ("swap", 1.5, people),
            ("actor_count", 1.6, actor.count and actor.count.word),
            ("actor_adjective", 0.8, actor.adjectives),
            ("actor", 1.6, True),
            ("setting", 1.8, frame.setting),
            ("posture", 1.5, frame.posture),
            ("wear", 1.5, frame.wear),
            ("when", 0.8, frame.when and frame.when.group != "news"),
        ]
        return [(edit, weight) for edit, weight, fits in possible if fits]

    @staticmethod
    def _drop(rng: Random, changed: Frame, frame: Frame, drop: float) -> Frame:
        updates: dict[str, Any] = {}
        for name in ("second", "wear", "spot", "setting", "when"):
            if getattr(changed, name) is getattr(frame, name) and chance(rng, drop):
                updates[name] = None
        if "wear" in updates:
            updates["bare"] = False
        if "spot" in updates and changed.posture == frame.posture:
            updates["posture"] = ""
        elif "spot" in updates:
            del updates["spot"]
        if changed.told != "event":  # a place or a garment must stay to be told
            updates = {}
        return replace(changed, **updates)

    def _event(self, frame: Frame, **changes: Any) -> Frame:
        return replace(frame, event=replace(frame.event, **changes))

    def _edit_against(self, rng: Random, frame: Frame) -> Frame | None:
        phrases, goal = frame.event.action.against, frame.event.object
        options = [n for n, phrase in enumerate(phrases) if goal or not phrase.has_object]
        if not options:
            return None
        index = choose(rng, options)
        return self._event(
            frame,
            level="against",
            index=index,
            object=goal if phrases[index].has_object else None,
            manner=None,
            negated=False,
        )

    def _edit_negate(self, rng: Random, frame: Frame) -> Frame:
        goal = frame.event.object
        if goal and goal.count:  # "not three apples" could still be two
            goal = NP(goal.thing, self.bare_plural)
        elif goal:
            goal = NP(goal.thing)
        return self._event(frame, negated=not frame.event.negated, object=goal, manner=None)

    def _edit_action(self, rng: Random, frame: Frame) -> Frame | None:
        if frame.scene.kind == "news":
            return None
        options = [
            action
            for action in self.lexicon.actions[frame.scene.name]
            if not action.overlaps(frame.event.action) and frame.event.actor.thing in action.actors
        ]
        if not options:
            return None
        action = choose(rng, options)
        goal = None
        if action.objects:
            thing = frame.event.object.thing if frame.event.object else None
            if thing is None or thing not in action.objects:
                free = [t for t in action.objects if not _related(t, frame.event.actor.thing)]
                thing = choose(rng, free or list(action.objects))
            goal = self.object(rng, action, frame.event.actor, thing)
        return self._event(
            frame, action=action, level="same", index=0, object=goal, manner=None, negated=False
        )

    def _edit_object(self, rng: Random, frame: Frame) -> Frame | None:
        goal = frame.event.object
        assert goal is not None
        busy = {np.thing for np in (frame.event.actor, frame.event.partner) if np}
        options = [
            thing
            for thing in frame.event.action.objects
            if not _related(thing, goal.thing) and thing not in busy
        ]
        if not options or frame.scene.kind == "news":
            return None
        thing = choose(rng, options)
        count = goal.count if thing.countable else None
        return self._event(frame, object=NP(thing, count, self._fitting(goal, thing)))

    @staticmethod
    def _fitting(np: NP, thing: Thing) -> tuple[Word, ...]:
        return tuple(word for word in np.adjectives if word.group in thing.adjectives)

    def _edit_swap(self, rng: Random, frame: Frame) -> Frame | None:
        event = frame.event
        if event.partner or frame.wear or event.object is None:
            return None
        return self._event(frame, actor=event.object, object=event.actor, manner=None)

    def _edit_actor(self, rng: Random, frame: Frame) -> Frame | None:
        actor = frame.event.actor
        if frame.scene.kind == "news" or frame.event.partner:
            return None
        options = [thing for thing in frame.event.action.actors if _rivals(thing, actor.thing)]
        goal = frame.event.object
        options = [thing for thing in options if not goal or not _related(thing, goal.thing)]
        if not options:
            return None
        thing = choose(rng, options)
        return self._event(frame, actor=NP(thing, actor.count, self._fitting(actor, thing)))

    def _edit_actor_count(self, rng: Random, frame: Frame) -> Frame | None:
        return self._recount(rng, frame, "actor")

    def _edit_object_count(self, rng: Random, frame: Frame) -> Frame | None:
        return self._recount(rng, frame, "object")

    def _recount(self, rng: Random, frame: Frame, slot: str) -> Frame | None:
        np = getattr(frame.event, slot)
        options = [
            q
            for q in self.lexicon.quantities
            if (q.low > np.count.high or q.high < np.count.low) and q.low < 21 and q.word
        ]
        if slot == "actor" or np.thing.several != "often":
            options = [q for q in options if q.low < 7]
        if not options or frame.event.partner:
            return None
        return self._event(frame, **{slot: replace(np, count=choose(rng, options))})

    def _edit_actor_adjective(self, rng: Random, frame: Frame) -> Frame | None:
        return self._readjective(rng, frame, "actor")

    def _edit_object_adjective(self, rng: Random, frame: Frame) -> Frame | None:
        return self._readjective(rng, frame, "object")

    def _opposite(self, rng: Random, word: Word) -> Word | None:
        group = self.lexicon.adjectives[word.group]
        if word.opposite:
            return next(other for other in group if other.words[0] == word.opposite)
        if word.group in EXCLUSIVE:
            return choose(rng, [other for other in group if other is not word])
        return None

    def _readjective(self, rng: Random, frame: Frame, slot: str) -> Frame | None:
        np = getattr(frame.event, slot)
        changed = [(n, self._opposite(rng, word)) for n, word in enumerate(np.adjectives)]
        changed = [(n, word) for n, word in changed if word]
        if not changed:
            return None
        n, word = choose(rng, changed)
        words = (*np.adjectives[:n], word, *np.adjectives[n + 1 :])
        return self._event(frame, **{slot: replace(np, adjectives=words)})

    def _edit_setting(self, rng: Random, frame: Frame) -> Frame | None:
        assert frame.setting is not None  # as _edits requires
        old = frame.setting.place
        name = frame.scene.name
        if frame.scene.kind == "caption" and chance(rng, 0.3):
            name = choose(rng, [s.name for s in self.scenes if s.kind == "caption"])
        places = [
            place
            for place in self.lexicon.places[name, "setting"]
            if place is not old
            and not place.words & (old.words | frame.event.action.words)
            and not set(place.general) & set(old.general)
        ]
        if not places:
            return None
        return replace(frame, setting=Spot(choose(rng, places)))

    def _edit_posture(self, rng: Random, frame: Frame) -> Frame:
        return replace(frame, posture="stand" if frame.posture == "sit" else "sit")

    def _edit_wear(self, rng: Random, frame: Frame) -> Frame:
        told = "wear" if frame.second is None and chance(rng, 0.4) else frame.told
        wear = frame.wear
        assert wear is not None  # as _edits requires
        if frame.bare or not wear.adjectives or chance(rng, 0.3):
            wear = replace(wear, adjectives=())
            return replace(frame, wear=wear, bare=not frame.bare, told=told)
        changed = [(n, self._opposite(rng, word)) for n, word in enumerate(wear.adjectives)]
        changed = [(n, word) for n, word in changed if word]
        if not changed:
            return replace(frame, wear=replace(wear, adjectives=()), bare=True, told=told)
        n, word = choose(rng, changed)
        words = (*wear.adjectives[:n], word, *wear.adjectives[n + 1 :])
        return replace(frame, wear=replace(wear, adjectives=words), told=told)

    def _edit_when(self, rng: Random, frame: Frame) -> Frame:
        assert frame.when is not None  # as _edits requires
        group = self.lexicon.times[frame.when.group]
        return replace(frame, when=choose(rng, [w for w in group if w is not frame.when]))


VAGUE = {"object", "structure", "invention", "proposal"}
PAIRS = {"glove", "boot", "shoe", "sock"}


def _only_told(frame: Frame) -> Frame:
    """The frame without what its sentence leaves unsaid."""
    if frame.told == "event":
        return frame
    frame = replace(frame, second=None, event=replace(frame.event, manner=None, partner=None))
    if frame.told == "place":
        return replace(frame, wear=None)
    return replace(frame, posture="", spot=None, setting=None, where="", when=None)


def _related(one: Thing, other: Thing) -> bool:
    return one.is_a(other) or other.is_a(one)


def weighted(rng: Random, options: Sequence[tuple[T, float]]) -> T:
    """One of the (option, weight) pairs' options."""
    spot = rng.random() * sum(weight for _, weight in options)
    for option, weight in options:
        spot -= weight
        if spot < 0:
            return option
    return options[-1][0]


def _rivals(one: Thing, other: Thing) -> bool:
    """True if nobody is both: two kinds of the same wider thing below the root, or a root apart."""
    if _related(one, other):
        return False
    if one.kind != other.kind:
        return True
    if one.kind == "animal":
        return True
    ages = {"adult", "child", "relative"}
    shared = [thing for thing in one.parents[:-1] if thing in other.parents]
    mine = {t.name for t in (one, *one.parents)} & ages
    theirs = {t.name for t in (other, *other.parents)} & ages
    if "relative" in mine | theirs:
        return bool(shared) or one.name != other.name and mine == theirs
    return bool(shared) or (bool(mine) and bool(theirs) and mine != theirs)
