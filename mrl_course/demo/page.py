"""Write the page: what it holds is checked, packed and put into one HTML file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np

from mrl_course.demo.int8 import mean_of_rows, quantise_rows, rank_rows, ranks_of_the_best
from mrl_course.demo.tokenizer import tokenizer_for_page
from mrl_course.files import write_whole

TOP = 10  # results in a list, and the 10 of overlap@10
SHORTLISTS = (20, 50, 100, 200)  # sizes that the page offers for "shortlist at k, rerank in full"
MAX_BYTES = 8_000_000
SHOWN_CHARACTERS = 600  # of each text; longer ones are embedded whole and shown in part
MAX_QUERIES = 200  # the average curve is over at most this many
GIVEN = "The twins were trained elsewhere and taken as they are."
DEFAULT_TEXTS, DEFAULT_DIM, DEFAULT_VOCAB = 5_000, 192, 5_000  # together about 7 MB
TITLE = "Cut the vector, keep the order?"


@dataclass
class DemoCorpus:
    """What the page searches, and the queries it offers.

    Attributes:
        texts: the corpus.
        names: a short title for each text, or nothing.
        queries: built-in queries as (text, row of the text that answers it, or None).
        about: sentences on where texts, twins and queries come from, shown in the page.
    """

    texts: list[str]
    names: list[str] = field(default_factory=list)
    queries: list[tuple[str, int | None]] = field(default_factory=list)
    about: list[str] = field(default_factory=list)


def build_demo(
    twins,
    corpus: Iterable[str] | DemoCorpus,
    path: str | Path = "build/demo.html",
    *,
    names: Sequence[str] | None = None,
    queries: Sequence[str | tuple[str, int | None]] | None = None,
    about: Sequence[str] | None = None,
    title: str = TITLE,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write the interactive page: one HTML file that needs no server and no network.

    Args:
        twins: from :func:`~mrl_course.training.train_twins`, or two static models in a mapping
            from name to model or as a pair (regular, matryoshka). They must share their tokenizer
            and their size D.
        corpus: the texts to search, or a :class:`DemoCorpus`. A text that comes again is left
            out. Each text counts whole, its first 600 characters are shown.
        path: the file to write; its folder is made if needed. It is replaced when the new page is
            complete.
        names: a short title for each text.
        queries: built-in queries: examples in the page, and what its average curves are over
            (at most 200). Each is a text or a pair (text, number of the corpus text that answers
            it). Without any, the beginnings of some texts serve.
        about: sentences on where the texts and the twins come from.
        title: heading of the page.
        max_bytes: how large the file may become.

    Returns:
        The path of the page. The same arguments give the same bytes.

    Raises:
        TypeError: a model that is not static, texts that are no strings.
        ValueError: no texts, blank texts, different D or tokenizers, numbers that do not fit, or
            a page above ``max_bytes``; the message says what to lower.
        OSError: the file cannot be written.
    """
    given = corpus if isinstance(corpus, DemoCorpus) else DemoCorpus(_list_of(corpus, "corpus"))
    chosen = {"names": names, "queries": queries, "about": about}
    given = replace(given, **{name: list(v) for name, v in chosen.items() if v is not None})
    models = _two_static_models(twins)
    given = _checked_corpus(given)
    path = Path(path)
    tokenizer = next(iter(models.values())).tokenizer
    page_tokenizer = tokenizer_for_page(tokenizer)
    ids = _token_ids(tokenizer, [text for text, _ in given.queries])
    parts = {
        name: _model_part(name, model, given.texts, ids, len(page_tokenizer["tokens"]))
        for name, model in models.items()
    }
    queries = _typical_first(given.queries, [part.pop("judged") for part in parts.values()])
    data = {
        "title": title,
        "dim": next(iter(models.values())).embedding_dim,
        "top": min(TOP, len(given.texts)),
        "about": given.about,
        "names": given.names,
        "texts": [_shown(text) for text in given.texts],
        "queries": [{"text": text, "answer": answer} for text, answer in queries],
        "tokenizer": page_tokenizer,
        "models": list(parts.values()),
    }
    page = _fill_template(data, title).encode("utf-8")
    if len(page) > max_bytes:
        raise ValueError(_too_large(len(page), max_bytes, data))
    path = write_whole(path, page)
    return path


def _list_of(texts, name: str) -> list:
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{name} must be a list of strings, got {type(texts).__name__}")
    if isinstance(texts, Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
        raise TypeError(f"{name} must be one column of texts, such as data['text'], not a table")
    return list(texts)


def _two_static_models(twins) -> dict:
    """Name -> StaticEmbedding of the two models, after a look at all that must fit."""
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        StaticEmbedding,
    )

    if isinstance(twins, Mapping):
        pairs = list(twins.items())
    else:
        try:
            pairs = list(twins)
        except TypeError:
            raise TypeError(
                f"twins must be the result of train_twins or two models, got {twins!r}"
            ) from None
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            pairs = list(zip(("regular", "matryoshka"), pairs, strict=False)) + pairs[2:]
    if len(pairs) != 2:
        raise ValueError(f"the page compares two models, got {len(pairs)}")
    models = {}
    for name, model in pairs:
        modules = list(model) if hasattr(model, "__iter__") else []
        if (
            not modules
            or not isinstance(modules[0], StaticEmbedding)
            or not all(isinstance(module, Normalize) for module in modules[1:])
        ):
            kinds = " + ".join(type(module).__name__ for module in modules) or type(model).__name__
            raise TypeError(
                f"the {name} model is {kinds}. The page embeds queries by itself, so it supports "
                "static models only: a SentenceTransformer made of one StaticEmbedding, as "
                "build_static_model and train_twins give"
            )
        models[str(name)] = modules[0]
    (first, a), (second, b) = models.items()
    if a.embedding_dim != b.embedding_dim:
        raise ValueError(
            f"the twins differ in size: {first} has D = {a.embedding_dim}, {second} has D = "
            f"{b.embedding_dim}; train both with the same dim"
        )
    if a.tokenizer.to_str() != b.tokenizer.to_str():
        raise ValueError("the twins have different tokenizers; build both over one vocabulary")
    return models


def _checked_corpus(given: DemoCorpus) -> DemoCorpus:
    """The corpus with each text once, queries with their rows, and names for all or none."""
    for row, text in enumerate(given.texts):
        _check_text(text, f"text {row} of the corpus")
    if not given.texts:
        raise ValueError("the corpus is empty; give at least one text")
    if given.names and len(given.names) != len(given.texts):
        raise ValueError(f"{len(given.texts)} texts need {len(given.texts)} names, or none")
    for row, name in enumerate(given.names):
        _check_text(name, f"name {row}")
    first = {text: row for row, text in reversed(list(enumerate(given.texts)))}
    place = {text: new for new, text in enumerate(sorted(first, key=first.get))}
    queries = given.queries or [(text, None) for text in _beginnings(list(place))]
    checked = []
    for number, query in enumerate(queries[:MAX_QUERIES]):
        text, answer = query if isinstance(query, (tuple, list)) else (query, None)
        _check_text(text, f"query {number}")
        if answer is not None:
            if not 0 <= answer < len(given.texts):
                raise ValueError(
                    f"query {number} names text {answer} as its answer; the corpus has texts "
                    f"0 to {len(given.texts) - 1}"
                )
            answer = place[given.texts[answer]]
        checked.append((text, answer))
    about = list(given.about)
    if not given.queries:
        about.append("The built-in queries are the first words of some of the texts.")
    repeated = len(given.texts) - len(place)
    if repeated:
        about.append(f"{repeated:,} texts that came again were left out.")
    names = [given.names[first[text]] for text in place] if given.names else []
    return DemoCorpus(list(place), names, checked, about)


def _check_text(text, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r}, not a string")
    if not text.strip():
        raise ValueError(f"{what} is blank; leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds half a character (a lone surrogate, place {error.start}); "
            "read the file it came from as UTF-8"
        ) from None


def _beginnings(texts: list[str], count: int = 40, words: int = 6) -> list[str]:
    chosen = texts[:: max(1, len(texts) // count)][:count]
    return list(dict.fromkeys(" ".join(text.split()[:words])[:120] for text in chosen))


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1].rstrip() + "…"


def _token_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [code.ids for code in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _model_part(name: str, model, texts: list[str], query_ids: list[list[int]], rows: int) -> dict:
    """Table, corpus and average curves of one model, in the form that the page reads."""
    table = model.embedding.weight.detach().cpu().double().numpy()
    if len(table) < rows:
        raise ValueError(f"the {name} table has {len(table)} rows for {rows} tokens")
    codes, scales = quantise_rows(table[:rows])
    # Means of the unquantised table: what a search system would store.
    ids = _token_ids(model.tokenizer, texts)
    vectors = np.stack([table[i].mean(axis=0) if i else np.zeros(table.shape[1]) for i in ids])
    corpus, corpus_scales = quantise_rows(vectors)
    queries = [mean_of_rows(i, codes, scales) for i in query_ids]
    ranks = np.stack([ranks_of_the_best(query, corpus, TOP) for query in queries])
    kept = {size: (ranks < size).sum(axis=2) for size in (TOP, *SHORTLISTS)}  # (queries, D) each
    return {
        "name": name,
        "judged": (
            [int(rank_rows(query, corpus, len(query), 1)[0]) for query in queries],
            kept[TOP],
        ),
        "table": {"codes": _base64(codes), "scales": _base64(scales)},
        "corpus": {"codes": _base64(corpus), "scales": _base64(corpus_scales)},
        "average": {
            str(size): [round(float(mean), 2) for mean in counts.mean(axis=0)]
            for size, counts in kept.items()
        },
    }


def _typical_first(queries: list, judged: list[tuple[list[int], np.ndarray]]) -> list:
    """Queries that both twins answer at full size first; of those, the most typical ones first.

    Typical means that the overlap curves lie close to the average, on the axis of doublings.
    """
    distance = np.zeros(len(queries))
    for _, kept in judged:  # (queries, D)
        distance += np.abs(kept - kept.mean(axis=0)) @ (1 / np.arange(1, kept.shape[1] + 1))

    def key(number: int) -> tuple[bool, float]:
        answer = queries[number][1]
        missed = answer is not None and any(first[number] != answer for first, _ in judged)
        return missed, round(float(distance[number]), 6)

    return [queries[number] for number in sorted(range(len(queries)), key=key)]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def _fill_template(data: dict, title: str) -> str:
    files = resources.files("mrl_course") / "demo" / "assets"
    template, style, script = (
        (files / name).read_text(encoding="utf-8").replace("\r\n", "\n")
        for name in ("page.html", "style.css", "script.js")
    )
    # "<" is the only character that could end the script element or open a comment in it.
    payload = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    payload = payload.replace("\x00", "\\u0000").replace("\r", "\\r")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "TITLE": html.escape(title),
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        "DATA": payload,
    }
    # In one pass, so that a text of the corpus that looks like a place to fill stays a text.
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: values[match[1]], template)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _too_large(size: int, limit: int, data: dict) -> str:
    def megabytes(number: int) -> str:
        return f"{number / 1e6:.1f} MB"

    tables, vectors = (
        sum(len(model[part]["codes"]) for model in data["models"]) for part in ("table", "corpus")
    )
    texts = len(json.dumps(data["texts"] + data["names"], ensure_ascii=False).encode("utf-8"))
    return (
        f"the page would have {megabytes(size)}; the limit is {megabytes(limit)}. Tables "
        f"({len(data['tokenizer']['tokens']):,} tokens x D = {data['dim']}) take "
        f"{megabytes(tables)}, corpus vectors ({len(data['texts']):,} x {data['dim']}) "
        f"{megabytes(vectors)}, texts {megabytes(texts)}. Lower the number of texts, D or the "
        "vocabulary (vocab_size), whichever is largest"
    )


def show_page(path: str | Path, height: int = 820):
    """Show a page inside a notebook, for the last line of a cell.

    Jupyter gets the address of the file, relative to the notebook, so the notebook stays small.
    Colab serves no files, so it gets the page itself.

    Args:
        path: the page, relative to the notebook's folder.
        height: of the frame, in pixels.

    Raises:
        FileNotFoundError: there is no such page yet.
    """
    from IPython.display import HTML

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no page {path}; build_demo writes one")
    if "google.colab" in sys.modules:
        source = f'srcdoc="{html.escape(path.read_text(encoding="utf-8"))}"'
    else:
        source = f'src="{html.escape(path.as_posix())}"'
    frame = f'<iframe {source} title="Interactive demo" width="100%" height="{height}"></iframe>'
    return HTML(f"<div>{frame}</div>")
