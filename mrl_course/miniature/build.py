"""The embedded miniature: a small data set, written by a grammar, that runs the course offline.

`python -m mrl_course.miniature` rebuilds it, `--check` proves that the shipped tables are the
ones that the lexicon and this code give.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mrl_course.files import miniature_folder, write_whole
from mrl_course.miniature.lexicon import Lexicon
from mrl_course.miniature.meaning import Frame, Grammar, chance, choose
from mrl_course.miniature.overlap import meaning_overlap
from mrl_course.miniature.sentences import Voice, say

VERSION = 1
"""Raise it with every change of this code or of the lexicon that changes a sentence."""

ROWS = {"train": 22_500, "dev": 1_200, "test": 3_300}
PAIRS = {"train": 1_500, "validation": 700, "test": 1_600}
TEST_PREMISES = 2_200
ROWS_PER_PREMISE = (1, 1, 1, 2, 2, 3)
LEVELS = (
    "paraphrase",
    "less",
    "less",
    "much less",
    "one change",
    "one change",
    "two changes",
    "three changes",
    "same action",
    "same action",
    "same scene",
    "same scene",
    "unrelated",
    "unrelated",
)


def load_grammar(folder: Path | None = None) -> Grammar:
    """The grammar over a lexicon folder, by default the shipped one.

    Raises:
        ValueError: the lexicon has a mistake; the message names file, line, column and fix.
    """
    return Grammar(Lexicon(folder or miniature_folder() / "lexicon"))


def load_scenes() -> pd.DataFrame:
    """The scene type of each test premise.

    Returns:
        Columns `sentence` and `scene`, one row for each distinct test premise.
    """
    return pd.read_parquet(miniature_folder() / "scenes.parquet")


def premises(n: int, seed: int = 0) -> list[str]:
    """`n` distinct premise sentences, for instance as a large corpus to search.

    Args:
        n: how many; a million take about a minute.
        seed: another seed gives other sentences.

    Raises:
        ValueError: n is negative or not a whole number.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"n must be a whole number, 0 or more, not {n!r}.")
    grammar, rng = load_grammar(), Random(seed)
    found: dict[str, None] = {}  # a dict keeps the order in which sentences came
    while len(found) < n:
        found[say(grammar.frame(rng), Voice(rng))] = None
    return list(found)


def normalise(sentence: str) -> str:
    """The sentence as the leak test compares it: lower case, single spaces."""
    return " ".join(sentence.lower().split())


# ---------------------------------------------------------------------------------------------
# Triplets


def _triplet(grammar: Grammar, rng: Random, frame: Frame, voice: Voice) -> tuple[str, str]:
    """An entailed and a contradicting sentence for a frame that `voice` has said."""
    used = frozenset(voice.said)
    while True:
        weaker = grammar.weaken(rng, frame, choose(rng, (0.2, 0.3, 0.4, 0.6)))
        if meaning_overlap(frame, weaker) > 0.4 or chance(rng, 0.15):
            break
    positive = say(weaker, Voice(rng, "other", used))
    against = grammar.contradict(rng, frame, choose(rng, (0.2, 0.5)))
    negative = say(against, Voice(rng, "same" if chance(rng, 0.75) else "free", used))
    return positive, negative


def _triplets(
    grammar: Grammar,
    rng: Random,
    rows: int,
    taken: set[str],
    forbidden: set[str],
    premises: int | None = None,
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Rows (anchor, positive, negative) and, for each distinct anchor, its scene.

    Args:
        taken: normalised premises of other splits; the new ones are added.
        forbidden: normalised sentences that no column may hold.
        premises: how many distinct premises the rows are to have, if that matters.
    """
    table: list[tuple[str, str, str]] = []
    scenes: list[tuple[str, str]] = []
    while len(table) < rows:
        frame = grammar.frame(rng)
        voice = Voice(rng)
        anchor = say(frame, voice)
        key = normalise(anchor)
        if key in taken or key in forbidden:
            continue
        left = rows - len(table)
        wanted = choose(rng, ROWS_PER_PREMISE)
        if premises is not None:
            wanted = (
                left - (premises - len(scenes) - 1)
                if len(scenes) + 1 >= premises
                else min(wanted, left - (premises - len(scenes) - 1))
            )
        group = _rows(grammar, rng, frame, voice, anchor, min(wanted, left), forbidden)
        if not group:
            continue
        taken.add(key)
        table += group
        scenes.append((anchor, frame.scene.name))
    return table, scenes


def _rows(
    grammar: Grammar,
    rng: Random,
    frame: Frame,
    voice: Voice,
    anchor: str,
    wanted: int,
    forbidden: set[str],
) -> list[tuple[str, str, str]]:
    """Up to `wanted` rows for one premise, no sentence in two of them or in `forbidden`."""
    group: list[tuple[str, str, str]] = []
    seen = {normalise(anchor)}
    for _ in range(4 * wanted):
        if len(group) == wanted:
            break
        pair = _triplet(grammar, rng, frame, voice)
        keys = [normalise(sentence) for sentence in pair]
        if keys[0] == keys[1] or any(key in seen or key in forbidden for key in keys):
            continue
        seen.update(keys)
        group.append((anchor, *pair))
    return group


# ---------------------------------------------------------------------------------------------
# Graded pairs


def _same_action(grammar: Grammar, rng: Random, frame: Frame) -> Frame:
    """Another frame of the scene with the same action, by chance with the same object."""
    while True:
        other = grammar.frame(rng, frame.scene)
        if other.event.action is frame.event.action:
            return other


def _pair(grammar: Grammar, rng: Random) -> tuple[str, str, float]:
    """Two sentences and how much their meanings share, at a level of likeness drawn by chance."""
    level = choose(rng, LEVELS)
    first = grammar.weaken(rng, grammar.frame(rng), choose(rng, (0.6, 0.75, 0.95)))
    second, mode = first, "other"
    if level == "less":
        second = grammar.weaken(rng, first, 0.75)
    elif level == "much less":
        second = grammar.weaken(rng, first, 0.35)
    elif level.endswith(("change", "changes")):
        for _ in range(("one change", "two changes", "three changes").index(level) + 1):
            second = grammar.contradict(rng, second, 0.15)
        mode = choose(rng, ("same", "free", "other"))
    elif level == "same action":
        second = grammar.weaken(rng, _same_action(grammar, rng, first), 0.7)
        mode = choose(rng, ("same", "free"))
    elif level == "same scene":
        second, mode = grammar.weaken(rng, grammar.frame(rng, first.scene), 0.7), "same"
    elif level == "unrelated":
        second, mode = grammar.weaken(rng, grammar.frame(rng), 0.7), "same"
    voice = Voice(rng)
    one, other = say(first, voice), say(second, Voice(rng, mode, frozenset(voice.said)))
    if chance(rng, 0.5):
        one, other = other, one
    return one, other, meaning_overlap(first, second)


def _pairs(
    grammar: Grammar, rng: Random, rows: int, taken: set[str], forbidden: set[str]
) -> list[tuple[str, str, float]]:
    """Graded pairs, no sentence in two of them, in `taken` (grows) or in `forbidden`."""
    table: list[tuple[str, str, float]] = []
    while len(table) < rows:
        pair = _pair(grammar, rng)
        keys = {normalise(pair[0]), normalise(pair[1])}
        if len(keys) < 2 or keys & taken or keys & forbidden:
            continue
        taken |= keys
        table.append(pair)
    return table


# ---------------------------------------------------------------------------------------------
# All tables


def tables(grammar: Grammar, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Every table of the miniature, by its path inside the folder.

    The held-out tables are drawn first; no training row may then hold one of their sentences.

    Args:
        seed: each table has a stream of chance of its own, derived from it.
    """
    streams = iter([Random(1000 * seed + n) for n in range(6)])
    premise_keys: set[str] = set()
    sts_keys: set[str] = set()
    test, scenes = _triplets(
        grammar, next(streams), ROWS["test"], premise_keys, set(), TEST_PREMISES
    )
    dev, _ = _triplets(grammar, next(streams), ROWS["dev"], premise_keys, set())
    held_out = {normalise(sentence) for row in test + dev for sentence in row}
    sts_test = _pairs(grammar, next(streams), PAIRS["test"], sts_keys, held_out)
    sts_dev = _pairs(grammar, next(streams), PAIRS["validation"], sts_keys, held_out)
    held_out |= sts_keys
    sts_train = _pairs(grammar, next(streams), PAIRS["train"], sts_keys, held_out)
    train, _ = _triplets(grammar, next(streams), ROWS["train"], premise_keys, sts_keys | held_out)
    triplet = ["anchor", "positive", "negative"]
    graded = ["sentence1", "sentence2", "score"]
    return {
        "all-nli/triplet/train-00000-of-00001.parquet": pd.DataFrame(train, columns=triplet),
        "all-nli/triplet/dev-00000-of-00001.parquet": pd.DataFrame(dev, columns=triplet),
        "all-nli/triplet/test-00000-of-00001.parquet": pd.DataFrame(test, columns=triplet),
        "stsb/data/train-00000-of-00001.parquet": pd.DataFrame(sts_train, columns=graded),
        "stsb/data/validation-00000-of-00001.parquet": pd.DataFrame(sts_dev, columns=graded),
        "stsb/data/test-00000-of-00001.parquet": pd.DataFrame(sts_test, columns=graded),
        "scenes.parquet": pd.DataFrame(scenes, columns=["sentence", "scene"]),
    }


def content_hash(table: pd.DataFrame) -> str:
    """SHA-256 of the rows as JSON lines in UTF-8, whatever file format they are stored in."""
    lines = (
        json.dumps(list(row), ensure_ascii=False, separators=(",", ":"))
        for row in table.itertuples(index=False, name=None)
    )
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode("utf-8")).hexdigest()


def manifest(made: dict[str, pd.DataFrame], seed: int) -> dict:
    """Rows and content hash of each table, with the version and seed that made them."""
    return {
        "version": VERSION,
        "seed": seed,
        "hash": "SHA-256 of the rows as JSON lines in UTF-8",
        "tables": {
            name: {"rows": len(table), "sha256": content_hash(table)}
            for name, table in made.items()
        },
    }


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    # No pandas metadata: it would name the library versions of the machine that wrote the file.
    arrow = pa.table({column: pa.array(table[column].tolist()) for column in table.columns})
    pq.write_table(
        arrow,
        path,
        compression="zstd",
        compression_level=19,
        data_page_size=16 * 2**20,
        row_group_size=len(table),
        use_dictionary=False,
        write_statistics=False,
    )


def build(out: Path, seed: int = 0) -> dict:
    """Write all tables and `manifest.json` into a folder.

    Args:
        out: the folder; the READMEs and the lexicon beside the tables are left alone.
        seed: seed of every stream of chance.

    Returns:
        The manifest.
    """
    made = tables(load_grammar(), seed)
    for name, table in made.items():
        write_whole(Path(out) / name, lambda path, table=table: _write_parquet(table, path))
    summary = manifest(made, seed)
    text = json.dumps(summary, indent=2) + "\n"
    write_whole(Path(out) / "manifest.json", text)
    return summary


def check(folder: Path | None = None) -> list[str]:
    """What differs between a folder's tables, its manifest and a rebuild in memory.

    Returns:
        One line for each difference; empty if all agree.
    """
    folder = folder or miniature_folder()
    shipped = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    rebuilt = manifest(tables(load_grammar(), shipped["seed"]), shipped["seed"])
    problems = []
    if shipped["version"] != rebuilt["version"]:
        problems.append(f"manifest.json: version {shipped['version']}, code {rebuilt['version']}")
    for name, expected in rebuilt["tables"].items():
        if shipped["tables"].get(name) != expected:
            problems.append(f"{name}: the rebuild differs from manifest.json")
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: the file is missing")
        elif content_hash(pq.read_table(path).to_pandas()) != expected["sha256"]:
            problems.append(f"{name}: the rebuild differs from the file")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: rebuild the miniature, or check the shipped one."""
    parser = argparse.ArgumentParser(prog="python -m mrl_course.miniature", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder (default: the shipped one)")
    parser.add_argument("--check", action="store_true", help="rebuild in memory and compare only")
    options = parser.parse_args(arguments)
    folder = options.out or miniature_folder()
    if options.check:
        problems = check(folder)
        print(
            "\n".join(problems) or f"{folder}: every table is as the lexicon and the code give it"
        )
        return 1 if problems else 0
    summary = build(folder)
    for name, entry in summary["tables"].items():
        print(f"{entry['rows']:>6} rows  {entry['sha256'][:12]}  {name}")
    return 0
