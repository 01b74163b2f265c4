"""From a meaning to one of its many sentences: wordings, patterns, word order."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from mrl_course.miniature.meaning import (
    DOUBLED,
    NP,
    VOWEL_SOUND,
    Event,
    Frame,
    chance,
    choose,
    weighted,
)


class Voice:
    """Chooses between wordings.

    Args:
        rng: where chance comes from.
        mode: `free`; `other` avoids the wordings in `used` where it can; `same` repeats them.
        used: wordings of an earlier sentence.
    """

    def __init__(self, rng: Random, mode: str = "free", used: frozenset[str] = frozenset()) -> None:
        """Start with nothing said."""
        self.rng, self.mode, self.used = rng, mode, used
        self.said: list[str] = []

    def pick(self, options: Sequence[str]) -> str:
        """One of the wordings; it is noted in `said`."""
        choice = options[0] if len(options) == 1 else self._pick(options)
        self.said.append(choice)
        return choice

    def _pick(self, options: Sequence[str]) -> str:
        if self.mode == "same":
            for option in options:
                if option in self.used:
                    return option
        if self.mode == "other" and chance(self.rng, 0.85):
            fresh = [option for option in options if option not in self.used]
            if fresh:
                return choose(self.rng, fresh)
        return options[0] if chance(self.rng, 0.4) else choose(self.rng, options)

    def maybe(self, probability: float) -> bool:
        """True with the given probability."""
        return chance(self.rng, probability)


def article(words: str) -> str:
    """`a` or `an`, as the sound of the first of the words asks for."""
    return "an" if VOWEL_SOUND.match(words) else "a"


ROOT_PRONOUNS = {"person": ("someone", "somebody"), "object": ("something",)}
NO_SOME = {"weather", "weather2", "body", "fee"}
WHOLE_BODY = {
    "coat",
    "jacket",
    "suit",
    "dress",
    "costume",
    "uniform",
    "robe",
    "raincoat",
    "wetsuit",
}


def noun_phrase(
    np: NP, voice: Voice, definite: bool = False, short: bool = False
) -> tuple[str, bool]:
    """The words of a thing, and whether they are plural.

    Args:
        definite: say "the" for things that are one or counted exactly.
        short: leave articles out, as headlines do.
    """
    nouns = np.thing.nouns
    if np.count is not None:
        nouns = [noun for noun in nouns if noun.form == ""] or list(nouns[:1])
    words = voice.pick([noun.word for noun in nouns])
    noun = next(noun for noun in nouns if noun.word == words)
    adjectives = " ".join(voice.pick(word.words) for word in np.adjectives)
    lead = adjectives + " " if adjectives else ""
    if np.count is not None and np.count.high == 1:
        return f"{voice.pick((np.count.word,))} {lead}{words}", False
    if np.count is not None:
        number = voice.pick((np.count.word,))
        if definite and np.count.low == np.count.high and not number.startswith("a"):
            number = f"the {number}"
        return f"{number} {lead}{noun.plural}".strip(), True
    root = ROOT_PRONOUNS.get(np.thing.name)
    if root and not lead and not definite and (not short) and voice.maybe(0.7):
        return voice.pick(root), False
    if noun.form == "the":
        return (f"{lead}{words}" if short else f"the {lead}{words}"), False
    if short or noun.form == "bare":
        return lead + words, noun.form == "plural"
    if definite and np.thing.kind not in NO_SOME - {"body"}:
        return f"the {lead}{words}", noun.form == "plural"
    if noun.form in ("mass", "plural"):
        some = "some " if np.thing.kind not in NO_SOME and voice.maybe(0.35) else ""
        return some + lead + words, noun.form == "plural"
    return f"{article(lead + words)} {lead}{words}", False


class Sentence:
    """Builds one sentence for a frame."""

    def __init__(self, frame: Frame, voice: Voice) -> None:
        """Take the meaning and the voice that says it."""
        self.frame, self.voice = frame, voice
        self.rng = voice.rng
        self.short = False
        self.definite = False

    # -- pieces ---------------------------------------------------------------------------------

    def subject(self, event: Event) -> tuple[str, bool]:
        """The words of the actor (and partner), and whether they are plural."""
        body = event.actor.thing.kind == "body" and not event.actor.adjectives
        definite = self.definite or (body and self.frame.event is event and self.voice.maybe(0.5))
        text, plural = noun_phrase(event.actor, self.voice, definite, self.short)
        if event.partner:
            other, _ = noun_phrase(event.partner, self.voice, definite, self.short)
            return f"{text} and {other}", True
        return text, plural

    def object(self, event: Event, definite: bool = False) -> tuple[str, bool]:
        """The words of the object, and whether they are plural."""
        assert event.object is not None
        return noun_phrase(event.object, self.voice, definite, self.short)

    def verb(self, event: Event, form: str) -> str:
        """The verb phrase with its object and manner, in a form of `Phrase`."""
        options = event.phrases()
        text = self.voice.pick([phrase.text for phrase in options])
        phrase = next(phrase for phrase in options if phrase.text == text)
        words = getattr(phrase, form)
        if event.object and phrase.has_object:
            what = self.object(event, self.definite and self.voice.maybe(0.5))[0]
            if self.frame.event.negated and what.startswith("some "):
                what = "any" + what.removeprefix("some")
            words = words.replace("*", what).replace("at at least", "at no fewer than")
        return self.with_manner(event, words)

    def with_manner(self, event: Event, words: str) -> str:
        """The words with the adverb before or behind them."""
        if event.manner is None:
            return words
        adverb = self.voice.pick(event.manner.words)
        if adverb.endswith("ly") and self.voice.maybe(0.5):
            return f"{adverb} {words}"
        return f"{words} {adverb}"

    def predicate(self, event: Event, plural: bool, style: str) -> str:
        """A finite verb phrase: `progressive` or `simple` in the frame's tense."""
        tense = self.frame.tense
        no = event.negated
        if tense == "future":
            if self.short:
                return ("not " if no else "") + "to " + self.verb(event, "base")
            be = "are" if plural else "is"
            lead = self.voice.pick(("will", f"{be} going to", f"{be} set to"))
            lead = (
                lead.replace(" ", " not ", 1)
                if no and " " in lead
                else lead + (" not" if no else "")
            )
            return f"{lead} {self.verb(event, 'base')}"
        if style == "progressive":
            be = {("now", True): "are", ("now", False): "is", ("past", True): "were"}
            lead = be.get((tense, plural), "was") + (" not" if no else "")
            return f"{lead} {self.verb(event, 'gerund')}"
        if style == "perfect":
            lead = ("have" if plural else "has") + (" not" if no else "")
            return f"{lead} {self.verb(event, 'participle')}"
        if tense == "past" and not self.short:
            return f"did not {self.verb(event, 'base')}" if no else self.verb(event, "past")
        if no:
            return f"{'do' if plural else 'does'} not {self.verb(event, 'base')}"
        return self.verb(event, "base" if plural else "third")

    def passive(self, event: Event) -> str | None:
        """The passive phrase ("cut up carefully"), or None where there is no good one."""
        options = [phrase for phrase in event.phrases() if phrase.passive]
        if not options or event.object is None:
            return None
        text = self.voice.pick([phrase.text for phrase in options])
        words = next(phrase.passive for phrase in options if phrase.text == text)
        return self.with_manner(event, words)

    def be_passive(self, plural: bool, no: bool = False) -> str:
        """The auxiliary of a passive in the frame's tense."""
        tense = self.frame.tense
        if tense == "future":
            return "will not be" if no else "will be"
        be = {("now", True): "are", ("now", False): "is", ("past", True): "were"}
        words = be.get((tense, plural), "was") + (" not" if no else "")
        return words + " being" if tense == "now" else words

    def places(self) -> list[str]:
        """Words for posture, spot, setting and time, each a phrase of its own."""
        frame, parts = self.frame, []
        if frame.spot:
            parts.append(self.voice.pick(frame.spot.words()))
        if frame.setting:
            parts.append(self.voice.pick(frame.setting.words()))
        if frame.where:
            parts.append(self.voice.pick(WHERE[frame.where]))
        if frame.when:
            parts.append(self.voice.pick(frame.when.words))
        return parts

    def garment(self, leads: Sequence[str]) -> str:
        """What the actor wears, behind one of the leads, such as "in" or "wearing"."""
        frame = self.frame
        assert frame.wear is not None  # asked for only where there is one
        if frame.wear.thing.name in WHOLE_BODY:
            leads = (*leads, "dressed in")
        elif frame.wear.thing.name == "backpack":
            leads = ("with",)
        lead = "without" if frame.bare else self.voice.pick(leads)
        return f"{lead} {noun_phrase(frame.wear, self.voice)[0]}"

    def second(self) -> str:
        """The second event as a clause that follows the first."""
        event = self.frame.second
        if event is None:
            return ""
        text, plural = self.subject(event)
        style = "simple" if self.frame.tense == "past" and self.voice.maybe(0.3) else "progressive"
        link = self.voice.pick((" while ", ", and ", " as "))
        return f"{link}{text} {self.predicate(event, plural, style)}"

    # -- whole sentences ------------------------------------------------------------------------

    def build(self) -> str:
        """The sentence, with a capital letter and, unless it is a headline, a full stop."""
        frame = self.frame
        if frame.told == "wear":
            text = self.wear_only()
        elif frame.told == "place":
            text = self.place_only()
        elif frame.scene.kind == "news":
            text = self.news()
        else:
            text = self.caption()
        text = text[0].upper() + text[1:]
        return text if self.short else text + "."

    def wear_only(self) -> str:
        """A chef is wearing a red apron."""
        event = self.frame.event
        assert self.frame.wear is not None  # what is told is the garment
        self.definite = self.voice.maybe(0.5)
        who, plural = self.subject(event)
        be = {("past", True): "were", ("past", False): "was"}.get(
            (self.frame.tense, plural), "are" if plural else "is"
        )
        wear = noun_phrase(self.frame.wear, self.voice)[0]
        return f"{who} {be} {'not ' if self.frame.bare else ''}wearing {wear}"

    def place_only(self) -> str:
        """A chef is standing next to the stove."""
        event = self.frame.event
        self.definite = self.voice.maybe(0.4)
        who, plural = self.subject(event)
        be = {("past", True): "were", ("past", False): "was"}.get(
            (self.frame.tense, plural), "are" if plural else "is"
        )
        parts = self.places()
        if self.frame.posture:
            return " ".join([f"{who} {be} {GERUNDS[self.frame.posture]}", *parts])
        if not self.definite and self.voice.maybe(0.5):
            return " ".join([f"there {be} {who}", *parts])
        return " ".join([who, be, *parts])

    def caption(self) -> str:
        """A sentence as under a picture, in one of many patterns."""
        frame, voice = self.frame, self.voice
        event = frame.event
        if event.negated and event.level == "same" and not event.partner and voice.maybe(0.35):
            return self.nobody()
        patterns = [(self.plain, 3.0), (self.simple, 1.3)]
        quiet = not event.negated and not frame.wear and not frame.posture
        if frame.tense == "now" and not event.negated:
            patterns += [(self.bare, 1.6), (self.there, 1.2)]
        if not frame.second:
            if frame.wear or frame.posture or (frame.spot and not frame.when):
                patterns += [(self.relative, 2.0)]
            if not event.negated and (frame.posture or frame.wear):
                patterns += [(self.participle, 1.5)]
            if quiet and event.object and not event.partner:
                patterns += [(self.passive_clause, 1.8), (self.there_passive, 0.5)]
            if quiet and event.actor.count is None and event.actor.thing.kind == "person":
                patterns += [(self.cleft, 0.35)]
            if not event.negated and frame.spot and not event.manner and frame.tense == "now":
                patterns += [(self.comma, 0.8)]
        while True:
            text = weighted(self.rng, patterns)()
            if text:
                return text

    def details(self, actor: str) -> tuple[str, list[str]]:
        """The actor with garment and posture attached, and the places that are left."""
        frame, parts = self.frame, self.places()
        if frame.wear:
            actor += " " + self.garment(GARMENT_LEADS)
        if frame.posture:
            actor += f" {GERUNDS[frame.posture]} {parts.pop(0)}"
        return actor, parts

    def front(self, clause: str, parts: list[str]) -> str:
        """The clause with its places behind it, or one of them in front."""
        if parts and self.voice.maybe(0.22):
            first = parts.pop()
            return " ".join([f"{first}, {clause}", *parts])
        return " ".join([clause, *parts])

    def plain(self) -> str:
        """A chef in a red apron is slicing bread in a hotel kitchen."""
        self.definite = self.voice.maybe(0.25) and self.voice.mode != "free"
        event = self.frame.event
        who, plural = self.subject(event)
        who, parts = self.details(who)
        clause = f"{who} {self.predicate(event, plural, 'progressive')}"
        return self.front(clause, parts) + self.second()

    def simple(self) -> str:
        """A chef slices bread in a hotel kitchen."""
        event = self.frame.event
        who, plural = self.subject(event)
        who, parts = self.details(who)
        return self.front(f"{who} {self.predicate(event, plural, 'simple')}", parts) + self.second()

    def bare(self) -> str:
        """A chef slicing bread in a hotel kitchen."""
        who, parts = self.details(self.subject(self.frame.event)[0])
        return " ".join([who, self.verb(self.frame.event, "gerund"), *parts]) + self.second()

    def there(self) -> str:
        """There is a chef slicing bread in a hotel kitchen."""
        who, plural = self.subject(self.frame.event)
        if who.startswith("the "):
            return ""
        be = "are" if plural and not self.frame.event.partner else "is"
        who, parts = self.details(who)
        clause = f"there {be} {who} {self.verb(self.frame.event, 'gerund')}"
        return self.front(clause, parts) + self.second()

    def relative(self) -> str:
        """A chef who is wearing a red apron is slicing bread in a hotel kitchen."""
        frame, event = self.frame, self.frame.event
        who, plural = self.subject(event)
        pronoun = "that" if event.actor.thing.kind == "animal" else "who"
        be = {("past", True): "were", ("past", False): "was"}.get(
            (frame.tense, plural), "are" if plural else "is"
        )
        parts = self.places()
        if frame.wear and (not frame.posture or self.voice.maybe(0.5)):
            no = "not " if frame.bare else ""
            whole = frame.wear.thing.name in WHOLE_BODY and not frame.bare
            verb = self.voice.pick(("wearing", "dressed in")) if whole else "wearing"
            inner = f"{be} {no}{verb} {noun_phrase(frame.wear, self.voice)[0]}"
            if frame.posture:
                parts[0] = f"while {GERUNDS[frame.posture]} {parts[0]}"
        else:
            stand = f"{GERUNDS[frame.posture]} " if frame.posture else ""
            if not frame.spot:
                return ""
            inner = f"{be} {stand}{parts.pop(0)}"
            if frame.wear:
                who += " " + self.garment(("in",))
        main = self.predicate(event, plural, "progressive")
        return " ".join([f"{who} {pronoun} {inner} {main}", *parts])

    def participle(self) -> str:
        """Wearing a red apron, a chef is slicing bread in a hotel kitchen."""
        frame = self.frame
        who, plural = self.subject(frame.event)
        parts = self.places()
        if frame.wear:
            lead = self.garment(("wearing",))
            if frame.posture:
                parts[0] = f"while {GERUNDS[frame.posture]} {parts[0]}"
        else:
            lead = f"{GERUNDS[frame.posture]} {parts.pop(0)}"
        style = "simple" if self.voice.maybe(0.4) else "progressive"
        main = self.predicate(frame.event, plural, style)
        return " ".join([f"{lead}, {who} {main}", *parts])

    def passive_clause(self) -> str:
        """Some bread is being sliced by a chef in a hotel kitchen."""
        event = self.frame.event
        done = self.passive(event)
        if done is None:
            return ""
        what, plural = self.object(event, self.voice.mode != "free" and self.voice.maybe(0.25))
        who, _ = self.subject(event)
        by = "" if who in ROOT_PRONOUNS["person"] else f" by {who}"
        return self.front(f"{what} {self.be_passive(plural)} {done}{by}", self.places())

    def there_passive(self) -> str:
        """There is some bread being sliced by a chef in a hotel kitchen."""
        done = self.passive(self.frame.event)
        if done is None or self.frame.tense != "now":
            return ""
        what, plural = self.object(self.frame.event)
        if what.startswith("the "):
            return ""
        who, _ = self.subject(self.frame.event)
        by = "" if who in ROOT_PRONOUNS["person"] else f" by {who}"
        clause = f"there {'are' if plural else 'is'} {what} being {done}{by}"
        return " ".join([clause, *self.places()])

    def cleft(self) -> str:
        """The one slicing bread in a hotel kitchen is a chef."""
        if self.frame.tense != "now" or self.frame.event.partner:
            return ""
        if self.frame.event.actor.thing.name in ROOT_PRONOUNS:
            return ""
        who, _ = self.subject(self.frame.event)
        lead = self.voice.pick(("the person", "the one"))
        verb = self.verb(self.frame.event, "gerund")
        return " ".join([lead, verb, *self.places(), "is", who])

    def comma(self) -> str:
        """A chef is next to the stove, slicing bread."""
        frame = self.frame
        if frame.second or frame.event.manner:
            return ""
        who, plural = self.subject(frame.event)
        if frame.wear:
            who += " " + self.garment(("in",))
        stand = f"{GERUNDS[frame.posture]} " if frame.posture else ""
        parts = self.places()
        be = "are" if plural else "is"
        return f"{who} {be} {stand}{' '.join(parts)}, {self.verb(frame.event, 'gerund')}"

    def nobody(self) -> str:
        """No chef is slicing bread in a hotel kitchen."""
        event = replace(self.frame.event, negated=False)
        who = event.actor.thing.nouns[0]
        if event.actor.thing.kind == "person" and self.voice.maybe(0.4):
            lead, plural = "nobody", False
        elif who.form == "" and event.actor.count is not None:
            lead, plural = f"no {who.plural}", True
        else:
            lead, plural = f"no {who.word}", False
        style = "progressive" if self.voice.maybe(0.7) else "simple"
        event = replace(event, manner=None)
        parts = self.places()
        return " ".join([f"{lead} {self.predicate(event, plural, style)}", *parts])

    def news(self) -> str:
        """A news sentence, or a headline, which leaves articles and the full stop out."""
        frame, voice, event = self.frame, self.voice, self.frame.event
        if voice.maybe(0.3) and not event.negated:
            self.short = True
        done = None
        if event.object and not event.partner and not event.negated and voice.maybe(0.28):
            done = self.passive(event)
        parts = self.places()
        if done:
            what, plural = self.object(event, False)
            who, _ = self.subject(event)
            by = "" if who in ROOT_PRONOUNS["person"] else f" by {who}"
            if self.short:
                be = "to be " if frame.tense == "future" else ""
            else:
                be = self.be_passive(plural) + " "
            clause = f"{what} {be}{done}{by}"
        else:
            who, plural = self.subject(event)
            style = "simple"
            if frame.tense == "past" and not frame.when and not self.short and voice.maybe(0.35):
                style = "perfect"
            clause = f"{who} {self.predicate(event, plural, style)}"
        text = " ".join([clause, *parts]) if self.short else self.front(clause, parts)
        if not self.short and voice.mode == "free" and voice.maybe(0.12):
            text += ", " + voice.pick(SOURCES)
        return text


WHERE = {"in": ("indoors", "inside"), "out": ("outdoors", "outside")}
GARMENT_LEADS = ("in", "wearing", "with")
GERUNDS = {"sit": "sitting", "stand": "standing"}
SOURCES = (
    "according to a spokesperson",
    "a local newspaper reports",
    "the evening news says",
    "according to a new report",
    "radio reports say",
)


def say(frame: Frame, voice: Voice) -> str:
    """One sentence for the frame; wordings and pattern are chosen by the voice."""
    sentence = ""
    for _ in range(20):
        voice.said.clear()
        sentence = Sentence(frame, voice).build()
        if not DOUBLED.search(sentence):  # "to plant plants" is fine, "to plant plant" is not
            break
    return sentence
