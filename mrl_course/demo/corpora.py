"""What the page searches: documentation, everyday sentences, or a person's own texts."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mrl_course import DEFAULT_DIMS
from mrl_course.arguments import check_count, check_seed, default_dims
from mrl_course.demo.page import (
    DEFAULT_DIM,
    DEFAULT_TEXTS,
    DEFAULT_VOCAB,
    MAX_QUERIES,
    DemoCorpus,
    check_page_size,
    unknown_tokens,
)
from mrl_course.demo.tables import read_corpus
from mrl_course.errors import WrongKind, WrongValue

ROTATED = "rotate and distil"
FEWEST_TO_ROTATE = 40  # vectors in different directions, as fit_head needs


class Demo(NamedTuple):
    """What :func:`~mrl_course.demo.build_demo` takes.

    Attributes:
        twins: the two models: trained twins, those that were given, or a mapping with one model
            before and after rotate and distil.
        corpus: what they search.
    """

    twins: Any
    corpus: DemoCorpus


@dataclass(frozen=True)
class Making:
    """How the two models of a demo are made.

    Attributes:
        dim: D of models that are trained here.
        vocab_size: the most tokens in their vocabulary, at least 100.
        seed: of their start, of the order of the data and of what is held out.
        twins: models to take instead of training.
        rotate: compare the regular twin with itself after rotate and distil; only this one model
            is trained.
        say: called with a line on each thing that was done.
    """

    dim: int = DEFAULT_DIM
    vocab_size: int = DEFAULT_VOCAB
    seed: int = 0
    twins: Any = None
    rotate: bool = False
    say: Callable[[str], object] = field(default=lambda line: None, repr=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count("dim", self.dim)
        check_count("vocab_size", self.vocab_size, least=100)
        check_seed(self.seed)

    @property
    def subject(self) -> str:
        """Who was trained, as the beginning of a sentence."""
        return "The model was" if self.rotate else "The twins were"

    def models(self, pairs: Any, corpus: DemoCorpus) -> Demo:
        """The demo of this corpus: with the given twins, or trained on ``pairs`` (or triplets)."""
        if self.twins is not None:
            as_they_are = "as it is" if self.rotate else "as they are"
            given = f"{self.subject} trained elsewhere and taken {as_they_are}."
            corpus = replace(corpus, about=[*corpus.about, given])
        elif len(pairs) < 2:
            raise WrongValue(f"{len(pairs)} pairs to train on, and at least 2 are needed")
        if not self.rotate:
            twins = _train(pairs, corpus, self) if self.twins is None else self.twins
            return Demo(twins, corpus)
        model = _train_one(pairs, corpus, self) if self.twins is None else self.twins
        return rotated_twins(model, corpus, self.seed, self.say)


def docstring_demo(limit: int = DEFAULT_TEXTS, **how: Any) -> Demo:
    """Twins and corpus over the documentation of installed libraries.

    The built-in queries are summaries whose pairs were held out: the twins never saw them, nor
    their descriptions. They do know the other descriptions, as a search system knows its corpus.

    Args:
        limit: at most so many texts; a fifth of them or 200, whichever is less, are held out.
        **how: the fields of :class:`Making`.

    Raises:
        WrongKind, WrongValue: numbers out of range.
    """
    from mrl_course.data import load_docstrings

    making, limit = Making(**how), check_count("limit", limit)
    rows = load_docstrings()
    names, summaries, texts = (list(rows[c]) for c in ("name", "summary", "description"))
    order = list(range(len(texts)))
    random.Random(making.seed).shuffle(order)
    times = Counter(texts)
    alone = [i for i in order if times[texts[i]] == 1]
    held = alone[: min(MAX_QUERIES, math.ceil(limit / 5), len(order) // 4)]
    held_set = set(held)
    first = {texts[i]: i for i in reversed(order)} | {texts[i]: i for i in held}
    others = [i for i in order if first[texts[i]] == i and i not in held_set]
    kept = sorted([*held, *others][:limit])  # by name, as the data set is
    place = {i: row for row, i in enumerate(kept)}
    pairs = [(summaries[i], texts[i]) for i in order if i not in held_set]
    both = "both models answer" if making.rotate else "both twins answer"
    about = [
        f"The texts are {len(kept):,} descriptions from the documentation of Python libraries. "
        f"The built-in queries are {len(held)} summaries from there; ★ marks the description that "
        f"belongs to the query. Those that {both} at full size come first, and of those the ones "
        "nearest to the average."
    ]
    if making.twins is None:
        making.say(f"{len(pairs):,} pairs (summary, description) to train on, {len(held)} held out")
        seen = "it has" if making.rotate else "they have"
        about.append(
            f"{making.subject} trained on {len(pairs):,} other pairs of summary and description: "
            f"{seen} seen most of these descriptions, and none of the built-in queries."
        )
    queries: list[Any] = [(summaries[i], place[i]) for i in held]
    corpus = DemoCorpus([texts[i] for i in kept], [names[i] for i in kept], queries, about)
    return making.models(pairs, corpus)


def miniature_demo(
    limit: int = DEFAULT_TEXTS,
    *,
    source: str | Path | None = "mini",
    triplets: int = 22_000,
    **how: Any,
) -> Demo:
    """Twins and corpus over everyday sentences: find the scene that a sentence was written about.

    Args:
        limit: at most so many texts.
        source: of the sentences, see :func:`~mrl_course.data.load_allnli`.
        triplets: at most so many to train on.
        **how: the fields of :class:`Making`.

    Returns:
        The :class:`Demo`; queries and their answers are from the test split.

    Raises:
        DataSourceError: the sentences cannot be had.
        WrongKind, WrongValue: numbers out of range.
    """
    from mrl_course.data import load_allnli, load_retrieval

    making, limit = Making(**how), check_count("limit", limit)
    triplets = check_count("triplets", triplets, least=2)
    premises = len(set(load_allnli("test", source=source)["anchor"]))
    task = load_retrieval("test", max(limit, premises), source=source)
    texts = list(task.corpus[:limit])
    answered = [(q, row) for q, row in zip(task.queries, task.relevant, strict=True) if row < limit]
    step = max(1, len(answered) // MAX_QUERIES)
    queries = answered[::step][:MAX_QUERIES]
    about = [
        f"The texts are {len(texts):,} everyday sentences. The built-in queries are "
        f"{len(queries)} sentences of the test split, each written about one text; ★ marks it."
    ]
    rows = None
    if making.twins is None:
        rows = load_allnli("train", limit=triplets, source=source)
        making.say(f"{len(rows):,} triplets to train on")
        about.append(f"{making.subject} trained on {len(rows):,} triplets of other sentences.")
    return making.models(rows, DemoCorpus(texts, [], queries, about))


def own_demo(path: str | Path, limit: int = DEFAULT_TEXTS, **how: Any) -> Demo:
    """Twins and corpus over a person's own texts; :func:`read_corpus` says what the file holds.

    Where there are ten queries or more, the twins learn to find the text from its query. Every
    fifth text is held out with all its queries (several queries may have one text, and one query
    several texts: what hangs together is held out together). Otherwise they learn to find one half
    of a text's words from the other half.

    Args:
        path: the file, .txt or .csv, UTF-8; ``~`` is the home folder.
        limit: at most so many different texts, the first ones.
        **how: the fields of :class:`Making`.

    Raises:
        OSError: the file cannot be read.
        WrongKind, WrongValue: it holds nothing to work with, or not what it should; the message
            says what is needed.
    """
    making, limit = Making(**how), check_count("limit", limit)
    name = Path(path).name
    corpus = _each_text_once(read_corpus(path), limit, name)
    asked = _asked(corpus)
    if making.twins is not None:
        return making.models(None, corpus)
    learner = "The model" if making.rotate else "The twins"
    if len(asked) >= 10:
        held, learnt = _hold_out(asked)
        pairs = [(text, corpus.texts[row]) for text, row in learnt]
        line = f"{making.subject} trained on {len(pairs):,} of its pairs of query and text; "
        if held:
            corpus.queries = list(dict(reversed(held)).items())[::-1][:MAX_QUERIES]
            line += f"the built-in queries are {len(corpus.queries)} that were held out. ★ marks "
        else:
            line += "none could be held out, as all of them hang together. ★ marks "
        corpus.about.append(f"{line}the text that belongs to the query.")
        wanted = "pairs of query and text with another query and another text than these"
    else:
        pairs = _halves(corpus.texts, making.seed)
        corpus.about.append(
            f"{learner} learnt from these same texts to find one half of a text's words from the "
            "other half. Real queries may behave otherwise."
        )
        short = sum(len(text.split()) < 4 for text in corpus.texts)
        wanted = (
            f"texts of four words or more (between spaces; {short} of {len(corpus.texts)} have "
            "fewer), or a .csv with a column `query` and ten queries"
        )
    if len(pairs) < 2:
        raise WrongValue(
            f"{name} gives {len(pairs)} pairs to train on, and at least 2 are needed: {wanted}"
        )
    making.say(f"{len(pairs):,} pairs to train on, from {len(corpus.texts):,} texts of {name}")
    return making.models(pairs, corpus)


def _asked(corpus: DemoCorpus) -> list[tuple[str, int]]:
    """The queries of a file; each has its text."""
    pairs = (query for query in corpus.queries if isinstance(query, tuple))
    return [(text, row) for text, row in pairs if row is not None]


def _each_text_once(corpus: DemoCorpus, limit: int, name: str) -> DemoCorpus:
    """The first ``limit`` different texts of a file, and the queries that belong to them."""
    first: dict[str, int] = {}
    for row, text in enumerate(corpus.texts):
        first.setdefault(text, row)
    kept = list(first)[:limit]
    place = {text: new for new, text in enumerate(kept)}
    queries: list[Any] = [(q, place.get(corpus.texts[row])) for q, row in _asked(corpus)]
    rows = len(corpus.texts)
    again = f", which has {rows:,} rows with a text" if rows > len(first) else ""
    return DemoCorpus(
        kept,
        [corpus.names[first[text]] for text in kept] if corpus.names else [],
        list(dict.fromkeys((q, row) for q, row in queries if row is not None)),
        [f"The texts are {len(kept):,} of {len(first):,} in {name}{again}.", *corpus.about],
    )


def _hold_out(
    asked: Sequence[tuple[str, int]], every: int = 5
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Pairs (query, row) to judge with and pairs to learn from, without a query or row in both.

    Queries and rows that are linked, directly or through others, form a group, and every fifth
    group is held out, up to as many queries as a page takes.
    """
    leader: dict[str | int, str | int] = {}

    def top(node: str | int) -> str | int:
        while leader.setdefault(node, node) != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for text, row in asked:
        leader[top(text)] = top(row)
    groups: dict[str | int, list[tuple[str, int]]] = {}
    for text, row in asked:
        groups.setdefault(top(row), []).append((text, row))
    held: list[tuple[str, int]] = []
    learnt: list[tuple[str, int]] = []
    for number, group in enumerate(groups.values()):
        fits = not held or len(held) + len(group) <= MAX_QUERIES
        (held if number % every == 0 and fits and len(groups) > 1 else learnt).extend(group)
    return held, learnt


def _halves(texts: Sequence[str], seed: int, rounds: int = 3) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(rounds):
        for text in texts:
            words = text.split()
            if len(words) >= 4:
                chosen = set(rng.sample(range(len(words)), len(words) // 2))
                one, other = (
                    " ".join(word for i, word in enumerate(words) if (i in chosen) == side)
                    for side in (True, False)
                )
                pairs.append((one, other))
    return pairs


# ---------------------------------------------------------------------------------- training


def _train(pairs: Any, corpus: DemoCorpus, making: Making) -> Any:
    """Trained twins; what can be known to fail is checked on the untrained start."""
    from mrl_course.training import train_twins

    _start(pairs, corpus, making)
    twins = train_twins(
        pairs,
        dim=making.dim,
        vocab_size=making.vocab_size,
        seed=making.seed,
        **_recipe(pairs),
    )
    for name, history in twins.history.items():
        if history.interrupted:
            raise KeyboardInterrupt
        making.say(f"{name} trained in {history.seconds:.1f} s, {history.steps} steps")
    return twins


def _train_one(pairs: Any, corpus: DemoCorpus, making: Making) -> Any:
    """The regular twin alone: the same as :func:`_train` gives, in half the time."""
    from mrl_course.training import train

    model = _start(pairs, corpus, making)
    _check_directions(model, corpus.texts)
    history = train(model, pairs, [making.dim], seed=making.seed, **_recipe(pairs))
    if history.interrupted:
        raise KeyboardInterrupt
    making.say(f"trained in {history.seconds:.1f} s, {history.steps} steps")
    return model


def _recipe(pairs: Any) -> dict[str, Any]:
    small = len(pairs) < 2_000  # few rows: smaller batches and more passes, or nothing is learnt
    return {
        "epochs": 20 if small else 5,
        "batch_size": max(2, min(256, len(pairs) // 4)),
    }


def _start(pairs: Any, corpus: DemoCorpus, making: Making) -> Any:
    """The untrained model that both twins begin as; it shows how large the page will be."""
    from mrl_course.models import build_static_model
    from mrl_course.training import read_triplets

    columns = read_triplets(pairs)
    texts = list(dict.fromkeys(text for column in columns for text in column))
    model = build_static_model(texts, making.dim, making.vocab_size, making.seed)
    tokenizer: Any = model[0].tokenizer
    check_page_size(corpus, tokenizer.get_vocab_size(), making.dim)
    if unknown := unknown_tokens(tokenizer, corpus):
        making.say(unknown[1])
    return model


# ------------------------------------------------------------------------- rotate and distil


def rotated_twins(
    twins: Any,
    corpus: DemoCorpus,
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> Demo:
    """A static model, and the same after rotate and distil, for :func:`build_demo`.

    The rotation is fitted on the texts of the corpus, without queries or labels
    (:func:`mrl_course.retrofit.fit_head`), and built into the table of the second model.

    Args:
        twins: one model, or the result of :func:`~mrl_course.training.train_twins`, of which only
            ``.regular`` is used.
        corpus: its texts are fitted on, and its ``about`` says so; at least 40 texts that differ
            in their tokens.
        seed: of the fit.
        say: called with a line on what was done.

    Returns:
        :class:`Demo`: a mapping of two models, and the corpus with another ``about``.

    Raises:
        WrongValue: too few texts.
        KeyboardInterrupt: the fit was stopped by hand.
    """
    from mrl_course.retrofit import fit_head

    regular = twins["regular"] if isinstance(twins, dict) else getattr(twins, "regular", twins)
    if not hasattr(regular, "encode") or not hasattr(regular[0], "tokenizer"):
        raise WrongKind(f"twins must be the result of train_twins or one static model, got {twins}")
    _check_directions(regular, corpus.texts)
    vectors = regular.encode(list(dict.fromkeys(corpus.texts)), batch_size=1024)
    full_dim = vectors.shape[1]
    small = [k for k in (1, 2, 4) if k < full_dim] if full_dim <= min(DEFAULT_DIMS) else []
    dims = small + default_dims(full_dim)
    head = fit_head(vectors, dims, seed=check_seed(seed), progress=False)
    if head.interrupted:
        raise KeyboardInterrupt
    say(f"rotated in {head.seconds:.1f} s, on {len(vectors):,} vectors, without labels")
    about = [
        *corpus.about,
        "Both lists come from one model, the regular one. The second is rotated: rotate and distil "
        f"was fitted on the vectors of the {len(vectors):,} texts, without labels. At full size "
        "the two are equal.",
    ]
    models = {"regular": regular, ROTATED: head.absorb(regular)}
    return Demo(models, replace(corpus, about=about))


def _check_directions(model: Any, texts: Sequence[str]) -> None:
    """Say before a training that there are too few vectors, or numbers, to fit a rotation on.

    The vector of a text is the mean of its tokens' vectors, so texts with the same tokens, in any
    order or all of them twice, have one direction.
    """
    if model[0].embedding_dim < 2:
        raise WrongValue("rotate and distil needs vectors of at least 2 numbers, and D is 1")
    directions = set()
    for code in model[0].tokenizer.encode_batch(list(texts), add_special_tokens=False):
        times = Counter(code.ids)
        common = math.gcd(*times.values())
        directions.add(frozenset((token, count // common) for token, count in times.items()))
    directions.discard(frozenset())
    if len(directions) < FEWEST_TO_ROTATE:
        raise WrongValue(
            f"rotate and distil needs {FEWEST_TO_ROTATE} texts that differ in their tokens, and "
            f"the corpus has {len(directions)}; give more texts, or leave --rotate out"
        )
