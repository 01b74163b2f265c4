"""The words of the miniature: CSV files in, checked and linked objects out.

The README of `data/miniature/lexicon` explains every file and column.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
# A passive needs the object right behind the verb or behind one of these particles.
PASSIVE = re.compile(r"^(\S+)((?: (?:up|out|down|away|together|on|off))?) \*(.*)$")
# Verbs whose passive is odd ("a wall is being sat on"), whatever the lexicon does with them.
NO_PASSIVE = frozenset(
    "climb come doze fall get glide go have ice-skate jump lean let lie live perch race rest run "
    "sit skate sleep slip soar stand stay step swim travel walk".split()
) | {"put on", "pull on"}
FORMS = {"", "mass", "plural", "the", "single", "bare"}


# ---------------------------------------------------------------------------------------------
# Words


@dataclass(frozen=True)
class Noun:
    """One spelling of a thing: `form` is mass, plural, the, single, bare or empty (countable)."""

    word: str
    plural: str
    form: str


@dataclass(frozen=True, eq=False)
class Thing:
    """A meaning that nouns share. `parents` runs from the next wider thing to the root."""

    name: str
    kind: str
    nouns: tuple[Noun, ...]
    parents: tuple["Thing", ...]
    adjectives: tuple[str, ...]
    several: str

    def is_a(self, other: "Thing") -> bool:
        """True if `other` is this thing or a wider one."""
        return self is other or other in self.parents

    @property
    def countable(self) -> bool:
        """True if the main noun can stand with a number."""
        return self.nouns[0].form == ""


@dataclass(frozen=True, eq=False)
class Word:
    """An adjective, adverb or time: words of one meaning in one group, maybe with an opposite."""

    words: tuple[str, ...]
    group: str
    opposite: str = ""


@dataclass(frozen=True)
class Quantity:
    """A number word and the smallest and largest count it may stand for."""

    word: str
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Phrase:
    """A verb phrase, `*` standing for its object, in the forms that English needs."""

    text: str
    base: str
    third: str
    past: str
    participle: str
    gerund: str
    passive: str  # "" where the phrase has no good passive

    @property
    def has_object(self) -> bool:
        """True if the phrase has a place for an object."""
        return "*" in self.text


@dataclass(frozen=True, eq=False)
class Action:
    """Something done: phrases that say it, phrases it entails, phrases it excludes."""

    scene: str
    same: tuple[Phrase, ...]
    general: tuple[Phrase, ...]
    against: tuple[Phrase, ...]
    objects: tuple[Thing, ...]
    several: frozenset[Thing]  # objects that are always more than one here
    actors: tuple[Thing, ...]
    manner: tuple[str, ...]
    posture: tuple[str, ...]
    words: frozenset[str]

    def overlaps(self, other: "Action") -> bool:
        """True if both actions share a phrase, so that they don't exclude each other."""
        mine = {p.text for p in self.same + self.general}
        return any(p.text in mine for p in other.same + other.general)


@dataclass(frozen=True, eq=False)
class Place:
    """A place: `setting` (where the whole scene is) or `spot` (where in it)."""

    scene: str
    kind: str
    same: tuple[str, ...]
    general: tuple[str, ...]
    words: frozenset[str]


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene type: caption or news, indoors or outdoors, and who belongs there."""

    name: str
    kind: str
    where: str
    actors: tuple[Thing, ...]
    wears: tuple[Thing, ...]
    times: tuple[str, ...]


# ---------------------------------------------------------------------------------------------
# Reading the lexicon


class _Table:
    """A CSV file whose complaints name the file, the line, the column and the fix."""

    def __init__(
        self, folder: Path, name: str, columns: Sequence[str], required: Sequence[str]
    ) -> None:
        self.path = folder / name
        if not self.path.is_file():
            raise ValueError(f"{self.path}: the file is missing; copy it back from the repository.")
        with self.path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            found = reader.fieldnames or []
            for column in columns:
                if column not in found:
                    raise ValueError(
                        f"{self.path}, line 1, column {column!r}: the column is missing; "
                        f"the first line must be {','.join(columns)}."
                    )
            self.rows = []
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise ValueError(
                        f"{self.path}, line {line}, column {columns[-1]!r}: the line has not "
                        f"{len(columns)} fields; put fields with a comma in quotes."
                    )
                clean = {key: value.strip() for key, value in row.items()}
                for column in required:
                    if not clean[column]:
                        self.fail(line, column, "the field is empty", "fill it in")
                self.rows.append((line, clean))

    def fail(self, line: int, column: str, problem: str, fix: str) -> None:
        raise ValueError(f"{self.path}, line {line}, column {column!r}: {problem}; {fix}.")

    def unique(self, *columns: str) -> None:
        """Refuse two lines with the same values in `columns`."""
        seen: dict[tuple[str, ...], int] = {}
        for line, row in self.rows:
            key = tuple(row[column] for column in columns)
            if key in seen:
                problem = f"{key[0]!r} stands in line {seen[key]} already"
                self.fail(line, columns[0], problem, "remove one of the two lines")
            seen[key] = line

    def look_up(self, known: dict[str, T], line: int, column: str, word: str, where: str) -> T:
        """The entry of `word`, or a complaint that nothing of that name stands in `where`."""
        if word not in known:
            self.fail(
                line, column, f"{word!r} refers to nothing", f"add it to {where} or correct it"
            )
        return known[word]


def _split(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(";") if part.strip()]


def pluralise(noun: str) -> str:
    """The regular English plural of a noun, or of the last word of several."""
    if re.search(r"(s|x|ch|sh|z)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def _gerund(verb: str) -> str:
    return verb[:-1] + "ing" if re.search(r"[^eoy]e$", verb) else verb + "ing"


def _past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else verb + "ed"


class Lexicon:
    """The words of one lexicon folder, checked and linked.

    Args:
        folder: holds the CSV files named in its README.

    Raises:
        ValueError: a file, column or field is missing, a word stands twice, or a reference
            (synonym, wider word, scene, actor, object, verb) refers to nothing. The message names
            file, line, column and fix.
    """

    def __init__(self, folder: Path) -> None:
        """Read and check all files of the folder."""
        self.folder = Path(folder)
        self.things = self._read_things()
        self.verbs = self._read_verbs()
        self.adjectives = self._read_words("adjectives.csv", "word")
        self.adverbs = self._read_words("adverbs.csv", "word")
        self.times = self._read_words("times.csv", "phrase")
        self.quantities = self._read_quantities()
        self.scenes = self._read_scenes()
        self.actions = self._read_actions()
        self.places = self._read_places()

    def _table(self, name: str, columns: str, required: str) -> _Table:
        return _Table(self.folder, name, columns.split(), required.split())

    def _read_things(self) -> dict[str, Thing]:
        classes = self._table("classes.csv", "class adjectives several", "class several")
        classes.unique("class")
        kinds = {row["class"]: row for _, row in classes.rows}
        columns = "word plural class form is_a same_as adjectives"
        table = self._table("nouns.csv", columns, "word class")
        table.unique("word")
        rows = {row["word"]: (line, row) for line, row in table.rows}
        nouns: dict[str, list[Noun]] = {}
        for line, row in table.rows:
            table.look_up(kinds, line, "class", row["class"], "classes.csv")
            if row["form"] not in FORMS:
                known = ", ".join(sorted(FORMS - {""}))
                table.fail(line, "form", f"{row['form']!r} is unknown", f"use {known} or nothing")
            main = row["same_as"] or row["word"]
            table.look_up(rows, line, "same_as", main, "nouns.csv")
            if rows[main][1]["same_as"]:
                fix = f"write {rows[main][1]['same_as']!r}"
                table.fail(line, "same_as", f"{main!r} is a synonym itself", fix)
            noun = Noun(row["word"], row["plural"] or pluralise(row["word"]), row["form"])
            nouns.setdefault(main, []).append(noun)
        things: dict[str, Thing] = {}

        def build(name: str, below: tuple[str, ...] = ()) -> Thing:
            if name in things:
                return things[name]
            line, row = rows[name]
            if name in below:
                table.fail(line, "is_a", f"{name!r} is wider than itself", "break the circle")
            parents: tuple[Thing, ...] = ()
            if row["is_a"]:
                table.look_up(nouns, line, "is_a", row["is_a"], "nouns.csv as a main word")
                wider = build(row["is_a"], (*below, name))
                parents = (wider, *wider.parents)
            kind = kinds[row["class"]]
            groups = [] if row["adjectives"] == "-" else _split(row["adjectives"])
            if not row["adjectives"]:
                groups = _split(kind["adjectives"])
            things[name] = Thing(
                name, row["class"], tuple(nouns[name]), parents, tuple(groups), kind["several"]
            )
            return things[name]

        for name in nouns:
            build(name)
        return things

    def _read_verbs(self) -> dict[str, tuple[str, str, str, str]]:
        table = self._table("verbs.csv", "verb past participle gerund third", "verb")
        table.unique("verb")
        forms = {}
        for _, row in table.rows:
            verb = row["verb"]
            past = row["past"] or _past(verb)
            third = row["third"] or pluralise(verb)
            forms[verb] = (third, past, row["participle"] or past, row["gerund"] or _gerund(verb))
        return forms

    def _read_words(self, name: str, column: str) -> dict[str, list[Word]]:
        extra = "" if name == "times.csv" else " opposite"
        table = self._table(name, f"{column} group same_as{extra}", f"{column} group")
        table.unique(column, "group")
        mains: dict[str, dict[str, list[str]]] = {}
        opposite: dict[tuple[str, str], str] = {}
        for _, row in table.rows:
            if not row["same_as"]:
                mains.setdefault(row["group"], {})[row[column]] = [row[column]]
        for line, row in table.rows:
            group = mains.get(row["group"], {})
            if row["same_as"]:
                where = f"group {row['group']!r} of {name}"
                table.look_up(group, line, "same_as", row["same_as"], where).append(row[column])
            elif row.get("opposite"):
                where = f"group {row['group']!r} of {name}"
                table.look_up(group, line, "opposite", row["opposite"], where)
                opposite[row["group"], row[column]] = row["opposite"]
        return {
            group: [
                Word(tuple(ws), group, opposite.get((group, main), "")) for main, ws in d.items()
            ]
            for group, d in mains.items()
        }

    def _read_quantities(self) -> list[Quantity]:
        table = self._table("quantities.csv", "word low high", "word low high")
        table.unique("word")
        quantities = [Quantity("", 2, 9999)]
        for line, row in table.rows:
            for column in ("low", "high"):
                if not row[column].isascii() or not row[column].isdigit():
                    table.fail(line, column, f"{row[column]!r} is no number", "write digits only")
            if int(row["low"]) > int(row["high"]):
                table.fail(line, "low", "low is above high", "swap the two")
            quantities.append(Quantity(row["word"], int(row["low"]), int(row["high"])))
        return quantities

    def _read_scenes(self) -> dict[str, Scene]:
        columns = "scene kind where actors wears times"
        table = self._table("scenes.csv", columns, "scene kind actors times")
        table.unique("scene")
        scenes = {}
        for line, row in table.rows:
            if row["kind"] not in ("caption", "news"):
                table.fail(line, "kind", f"{row['kind']!r} is unknown", "write caption or news")
            if row["where"] not in ("in", "out", ""):
                table.fail(
                    line, "where", f"{row['where']!r} is unknown", "write in, out or nothing"
                )
            for group in _split(row["times"]):
                table.look_up(self.times, line, "times", group, "times.csv as a group")
            scenes[row["scene"]] = Scene(
                row["scene"],
                row["kind"],
                row["where"],
                self._things(table, line, row, "actors"),
                self._things(table, line, row, "wears"),
                tuple(_split(row["times"])),
            )
        return scenes

    def _things(self, table: _Table, line: int, row: dict, column: str) -> tuple[Thing, ...]:
        where = "nouns.csv as a main word"
        return tuple(
            table.look_up(self.things, line, column, w, where) for w in _split(row[column])
        )

    def _phrase(self, table: _Table, line: int, column: str, text: str) -> Phrase:
        head, _, rest = text.partition(" ")
        forms = table.look_up(self.verbs, line, column, head, "verbs.csv")
        third, past, participle, gerund = (f"{form} {rest}".strip() for form in forms)
        match = PASSIVE.match(text)
        passive = ""
        if match and head not in NO_PASSIVE and match[1] + match[2] not in NO_PASSIVE:
            passive = f"{forms[2]}{match[2]}{match[3]}"
        return Phrase(text, text, third, past, participle, gerund, passive)

    def _read_actions(self) -> dict[str, list[Action]]:
        columns = "scene action same general against objects actors manner posture"
        table = self._table("actions.csv", columns, "scene action general against")
        table.unique("action", "scene", "objects")
        actions: dict[str, list[Action]] = {name: [] for name in self.scenes}
        for line, row in table.rows:
            scene = table.look_up(self.scenes, line, "scene", row["scene"], "scenes.csv")
            for group in _split(row["manner"]):
                table.look_up(self.adverbs, line, "manner", group, "adverbs.csv as a group")
            phrases = {
                column: tuple(
                    self._phrase(table, line, column, text) for text in _split(row[column])
                )
                for column in ("action", "same", "general", "against")
            }
            names = _split(row["objects"])
            row["objects"] = ";".join(name.removesuffix("+") for name in names)
            objects = self._things(table, line, row, "objects")
            several = [t for t, name in zip(objects, names, strict=True) if name.endswith("+")]
            if bool(objects) != phrases["action"][0].has_object:
                fix = "an action with * needs objects, an action without * has none"
                table.fail(line, "objects", "the objects don't fit the action", fix)
            texts = " ".join(row[c] for c in ("action", "same", "general"))
            actions[scene.name].append(
                Action(
                    scene.name,
                    phrases["action"] + phrases["same"],
                    phrases["general"],
                    phrases["against"],
                    objects,
                    frozenset(several),
                    self._things(table, line, row, "actors") or scene.actors,
                    tuple(_split(row["manner"])),
                    tuple(_split(row["posture"])),
                    content_words(texts),
                )
            )
        return actions

    def _read_places(self) -> dict[tuple[str, str], list[Place]]:
        table = self._table("places.csv", "scene kind place same general", "scene kind place")
        table.unique("place", "scene")
        places: dict[tuple[str, str], list[Place]] = {}
        for line, row in table.rows:
            table.look_up(self.scenes, line, "scene", row["scene"], "scenes.csv")
            if row["kind"] not in ("setting", "spot"):
                table.fail(line, "kind", f"{row['kind']!r} is unknown", "write setting or spot")
            same = (row["place"], *_split(row["same"]))
            general = tuple(_split(row["general"]))
            words = content_words(" ".join(same + general))
            place = Place(row["scene"], row["kind"], same, general, words)
            places.setdefault((row["scene"], row["kind"]), []).append(place)
        return places


SMALL_WORDS = frozenset(
    "a an the in on at by to of for with near next beside close front into from under behind * "
    "two one into up out down over before outside beneath old new small big little large".split()
)


def content_words(text: str) -> frozenset[str]:
    """The words of a text that carry meaning, in lower case and without a final s."""
    words = re.findall(r"[a-z]+", text.lower())
    return frozenset(w.removesuffix("s") for w in words) - SMALL_WORDS
