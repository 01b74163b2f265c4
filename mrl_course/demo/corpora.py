"""What the page searches: documentation, everyday sentences, or a person's own texts."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrl_course.demo.page import (
    DEFAULT_DIM,
    DEFAULT_TEXTS,
    DEFAULT_VOCAB,
    GIVEN,
    MAX_QUERIES,
    DemoCorpus,
)


def docstring_demo(
    limit: int = DEFAULT_TEXTS,
    *,
    dim: int = DEFAULT_DIM,
    vocab_size: int = DEFAULT_VOCAB,
    seed: int = 0,
    say=lambda line: None,
    twins=None,
):
    """Twins and corpus over the documentation of installed libraries.

    The built-in queries are summaries whose pairs were held out: the twins never saw them, nor
    their descriptions. They do know the other descriptions, as a search system knows its corpus.

    Returns:
        (twins, :class:`DemoCorpus`).
    """
    from mrl_course.data import load_docstrings

    rows = load_docstrings()
    names, summaries, texts = (list(rows[c]) for c in ("name", "summary", "description"))
    rng = random.Random(seed)
    order = list(range(len(texts)))
    rng.shuffle(order)
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    held = [i for i in order if counts[texts[i]] == 1][
        : min(MAX_QUERIES, limit // 5, len(order) // 4)
    ]
    held_set = set(held)
    seen: set[str] = set()
    kept = []
    for i in held + [i for i in order if i not in held_set]:
        if texts[i] not in seen:
            seen.add(texts[i])
            kept.append(i)
    kept = sorted(kept[:limit])  # by name, as the data set is
    pairs = [(summaries[i], texts[i]) for i in order if i not in held_set]
    trained = GIVEN
    if twins is None:
        say(f"{len(pairs):,} pairs (summary, description) to train on, {len(held)} held out")
        twins = _train(pairs, dim, vocab_size, seed, say)
        trained = (
            f"The twins were trained on {len(pairs):,} other pairs of summary and description: "
            "they have seen most of these descriptions, and none of the built-in queries."
        )
    place = {i: row for row, i in enumerate(kept)}
    about = [
        f"The texts are {len(kept):,} descriptions from the documentation of Python libraries. "
        f"The built-in queries are {len(held)} summaries from there; ★ marks the description that "
        "belongs to the query. Those that both twins answer at full size come first, and of those "
        "the ones nearest to the average.",
        trained,
    ]
    return twins, DemoCorpus(
        [texts[i] for i in kept],
        [names[i] for i in kept],
        [(summaries[i], place[i]) for i in held],
        about,
    )


def miniature_demo(
    limit: int = DEFAULT_TEXTS,
    *,
    dim: int = DEFAULT_DIM,
    vocab_size: int = DEFAULT_VOCAB,
    seed: int = 0,
    say=lambda line: None,
    source: str | Path | None = "mini",
    triplets: int = 22_000,
    twins=None,
):
    """Twins and corpus over everyday sentences: find the scene that a sentence was written about.

    Returns:
        (twins, :class:`DemoCorpus`); queries and their answers are from the test split.
    """
    from mrl_course.data import load_allnli, load_retrieval

    premises = len(set(load_allnli("test", source=source)["anchor"]))
    task = load_retrieval("test", max(limit, premises), source=source)
    trained = GIVEN
    if twins is None:
        rows = load_allnli("train", limit=triplets, source=source)
        say(f"{len(rows):,} triplets to train on")
        twins = _train(rows, dim, vocab_size, seed, say)
        trained = f"The twins were trained on {len(rows):,} triplets of other sentences."
    texts = task.corpus[:limit]
    answered = [(q, row) for q, row in zip(task.queries, task.relevant, strict=True) if row < limit]
    step = max(1, len(answered) // MAX_QUERIES)
    queries = answered[::step][:MAX_QUERIES]
    about = [
        f"The texts are {len(texts):,} everyday sentences. The built-in queries are "
        f"{len(queries)} sentences of the test split, each written about one text; ★ marks it.",
        trained,
    ]
    return twins, DemoCorpus(texts, [], queries, about)


def own_demo(
    path: str | Path,
    limit: int = DEFAULT_TEXTS,
    *,
    dim: int = DEFAULT_DIM,
    vocab_size: int = DEFAULT_VOCAB,
    seed: int = 0,
    say=lambda line: None,
    twins=None,
):
    """Twins and corpus over a person's own texts: a .txt with one text per line, or a .csv.

    A .csv has a column ``text`` (or only one column), perhaps ``name`` and ``query``. Where
    there are queries, the twins learn to find the text from its query, and every fifth of them is
    held out. Without, they learn to find one half of a text's words from the other half.

    Args:
        path: the file, UTF-8.
        twins: models to take instead of training.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds nothing to work with; the message says what is needed.
    """
    path = Path(path)
    corpus = read_corpus(path)
    total = len(corpus.texts)
    corpus = replace(corpus, texts=corpus.texts[:limit], names=corpus.names[:limit])
    corpus.queries = [(text, row) for text, row in corpus.queries if row < limit]
    corpus.about = [f"The texts are {len(corpus.texts):,} of {total:,} in {path.name}."]
    if twins is not None:
        corpus.about.append(GIVEN)
        return twins, corpus
    pairs = [(text, corpus.texts[row]) for text, row in corpus.queries]
    if len(pairs) >= 10:
        held = corpus.queries[::5][:MAX_QUERIES]
        hidden = {corpus.texts[row] for _, row in held} | {text for text, _ in held}
        pairs = [pair for pair in pairs if hidden.isdisjoint(pair)]
        corpus.queries = held
        corpus.about.append(
            f"The twins were trained on {len(pairs):,} of its pairs of query and text; the "
            f"built-in queries are {len(held)} that were held out. ★ marks the text that belongs "
            "to the query."
        )
    else:
        pairs = _halves(corpus.texts, seed)
        corpus.about.append(
            "The twins learnt from these same texts to find one half of a text's words from the "
            "other half. Real queries may behave otherwise."
        )
    if len(pairs) < 2:
        raise ValueError(
            f"{path.name} gives {len(pairs)} pairs to train on, and at least 2 are needed: texts "
            "of four words or more, or a column `query`"
        )
    return _train(pairs, dim, vocab_size, seed, say), corpus


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


def read_corpus(path: str | Path) -> DemoCorpus:
    """Read texts, names and queries from a .txt or .csv file; see :func:`own_demo`.

    Raises:
        OSError, ValueError: the file cannot be read or has no texts; the message says why.
    """
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix.lower() != ".csv":
        corpus = DemoCorpus([line.strip() for line in content.splitlines() if line.strip()])
    else:
        csv.field_size_limit(10_000_000)
        reader = csv.DictReader(io.StringIO(content, newline=""))
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        if "text" not in columns and len(columns) != 1:
            raise ValueError(f"{path} has no column `text`; its columns: {', '.join(columns)}")
        column = "text" if "text" in columns else columns[0]
        rows = [row for row in reader if (row.get(column) or "").strip()]
        corpus = DemoCorpus([row[column].strip() for row in rows])
        if "name" in columns:
            corpus.names = [(row["name"] or "").strip() or "(no name)" for row in rows]
        asked = [(row.get("query") or "").strip() for row in rows]
        corpus.queries = [(text, row) for row, text in enumerate(asked) if text]
    if not corpus.texts:
        raise ValueError(f"{path} holds no text; one per line, or a .csv with a column `text`")
    return corpus


def _train(pairs, dim: int, vocab_size: int, seed: int, say):
    from mrl_course.training import train_twins

    small = len(pairs) < 2_000  # few rows: smaller batches and more passes, or nothing is learnt
    twins = train_twins(
        pairs,
        dim=dim,
        vocab_size=vocab_size,
        seed=seed,
        epochs=20 if small else 5,
        batch_size=max(2, min(256, len(pairs) // 4)),
    )
    for name, history in twins.history.items():
        if history.interrupted:
            raise KeyboardInterrupt
        say(f"{name} trained in {history.seconds:.1f} s, {history.steps} steps")
    return twins


def rotated_twins(twins, corpus: DemoCorpus, seed: int = 0, say=lambda line: None):
    """The regular twin, and the same twin after rotate and distil, for :func:`build_demo`.

    The rotation is fitted on the texts of the corpus, without queries or labels
    (:func:`mrl_course.retrofit.fit_head`), and built into the table of the second model.

    Args:
        twins: from :func:`~mrl_course.training.train_twins`; only ``.regular`` is used.
        corpus: its texts are fitted on, and its ``about`` says so; at least 40 texts.
        seed: of the fit.
        say: called with a line on what was done.

    Returns:
        A mapping of two models, and the corpus with another ``about``.
    """
    from mrl_course.retrofit import fit_head

    regular = twins.regular
    vectors = regular.encode(list(dict.fromkeys(corpus.texts)), batch_size=1024)
    head = fit_head(vectors, seed=seed, progress=False)
    say(f"rotated in {head.seconds:.1f} s, on {len(vectors):,} vectors, without labels")
    about = [
        *corpus.about,
        "Both models are the regular twin. The second is rotated: rotate and distil was fitted on "
        f"the vectors of the {len(vectors):,} texts, without labels. At full size the two are "
        "equal.",
    ]
    models = {"regular": regular, "rotate and distil": head.absorb(regular)}
    return models, replace(corpus, about=about)
