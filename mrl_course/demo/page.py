"""Write the page: what it holds is checked, packed and put into one HTML file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from mrl_course.arguments import check_count, check_text, check_texts, warn
from mrl_course.demo.int8 import mean_of_rows, quantise_rows, rank_rows, ranks_of_the_best
from mrl_course.demo.tokenizer import tokenizer_for_page
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.files import check_writable_file, user_path, write_whole

if TYPE_CHECKING:
    from IPython.display import HTML

TOP = 10  # results in a list, and the 10 of overlap@10
SHORTLISTS = (20, 50, 100, 200)  # sizes that the page offers for "shortlist at k, rerank in full"
MAX_BYTES = 8_000_000
SHOWN_CHARACTERS = 600  # of each text; longer ones are embedded whole and shown in part
MAX_QUERIES = 200  # the average curve is over at most this many
MANY_UNKNOWN = 0.05  # share of unknown tokens from which on there is a warning
DEFAULT_TEXTS, DEFAULT_DIM, DEFAULT_VOCAB = 5_000, 192, 5_000  # together about 7 MB
TITLE = "Cut the vector, keep the order?"


@dataclass
class DemoCorpus:
    """What the page searches, and the queries it offers.

    Attributes:
        texts: the corpus.
        names: a short title for each text, or nothing.
        queries: built-in queries as (text, row of the text that answers it, or None), or texts.
        about: sentences on where texts, twins and queries come from, shown in the page.
    """

    texts: list[str]
    names: list[str] = field(default_factory=list)
    queries: Sequence[str | tuple[str, int | None]] = field(default_factory=list)
    about: list[str] = field(default_factory=list)


def build_demo(
    twins: Any,
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
        WrongKind: a model that is not static, texts that are no strings.
        WrongValue: no texts, blank texts, different D or tokenizers, numbers that do not fit, or
            a page above ``max_bytes``; the message says what to lower.
        OSError: the file cannot be written.

    A share of tokens that the models do not know is said in the page, and warned of from 5 % on.
    """
    path = check_writable_file(path)
    max_bytes = check_count("max_bytes", max_bytes)
    title = check_text("title", title)
    given = corpus if isinstance(corpus, DemoCorpus) else DemoCorpus(check_texts("corpus", corpus))
    chosen = {"names": names, "queries": queries, "about": about}
    given = replace(given, **{name: list(v) for name, v in chosen.items() if v is not None})
    models = _two_static_models(twins)
    given = _checked_corpus(given)
    tokenizer = next(iter(models.values())).tokenizer
    page_tokenizer = tokenizer_for_page(tokenizer)
    tokens = len(page_tokenizer["tokens"])
    check_page_size(given, tokens, _size_of(models), max_bytes)
    if unknown := unknown_tokens(tokenizer, given):
        given.about.append(unknown[1])
        if unknown[0] >= MANY_UNKNOWN:
            warn(unknown[1])
    ids = _token_ids(tokenizer, [text for text, _ in given.queries])
    parts = {
        name: _model_part(name, model, given.texts, ids, tokens) for name, model in models.items()
    }
    judged = [part.pop("judged") for part in parts.values()]
    ordered = _typical_first(list(given.queries), judged)
    data = {
        "title": title,
        "dim": _size_of(models),
        "top": min(TOP, len(given.texts)),
        "about": given.about,
        "names": given.names,
        "texts": [_shown(text) for text in given.texts],
        "queries": [{"text": text, "answer": answer} for text, answer in ordered],
        "tokenizer": page_tokenizer,
        "models": list(parts.values()),
    }
    page = _fill_template(data, title).encode("utf-8")
    if len(page) > max_bytes:
        raise WrongValue(_too_large(len(page), max_bytes, given, tokens, data["dim"]))
    return write_whole(path, page)


def _size_of(models: Mapping[str, Any]) -> int:
    return next(iter(models.values())).embedding_dim


def _two_static_models(twins: Any) -> dict[str, Any]:
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
            raise WrongKind(
                f"twins must be the result of train_twins or two models, got {twins!r}"
            ) from None
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            pairs = list(zip(("regular", "matryoshka"), pairs, strict=False)) + pairs[2:]
    if len(pairs) != 2:
        raise WrongValue(f"the page compares two models, got {len(pairs)}")
    models = {}
    for name, model in pairs:
        modules = list(model) if hasattr(model, "__iter__") else []
        if (
            not modules
            or not isinstance(modules[0], StaticEmbedding)
            or not all(isinstance(module, Normalize) for module in modules[1:])
        ):
            kinds = " + ".join(type(module).__name__ for module in modules) or type(model).__name__
            raise WrongKind(
                f"the {name} model is {kinds}. The page embeds queries by itself, so it supports "
                "static models only: a SentenceTransformer made of one StaticEmbedding, as "
                "build_static_model and train_twins give"
            )
        models[str(name)] = modules[0]
    (first, a), (second, b) = models.items()
    if a.embedding_dim != b.embedding_dim:
        raise WrongValue(
            f"the twins differ in size: {first} has D = {a.embedding_dim}, {second} has D = "
            f"{b.embedding_dim}; train both with the same dim"
        )
    if a.tokenizer.to_str() != b.tokenizer.to_str():
        raise WrongValue("the twins have different tokenizers; build both over one vocabulary")
    return models


def _checked_corpus(given: DemoCorpus) -> DemoCorpus:
    """The corpus with each text once, queries with their rows, and names for all or none."""
    texts = check_texts("corpus", given.texts, blank=False)
    if not texts:
        raise WrongValue("the corpus is empty; give at least one text")
    names = check_texts("names", given.names, blank=False)
    if names and len(names) != len(texts):
        raise WrongValue(f"{len(texts)} texts need {len(texts)} names, or none; got {len(names)}")
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    kept = sorted(first, key=lambda text: first[text])
    place = {text: new for new, text in enumerate(kept)}
    queries = given.queries or [(text, None) for text in _beginnings(kept)]
    checked: list[str | tuple[str, int | None]] = []
    for number, query in enumerate(queries[:MAX_QUERIES]):
        text, answer = query if isinstance(query, (tuple, list)) else (query, None)
        text = check_text(f"query {number}", text, blank=False)
        if answer is not None:
            answer = check_count(
                f"the answer of query {number}", answer, 0, len(texts) - 1, "rows of the corpus"
            )
            answer = place[texts[answer]]
        checked.append((text, answer))
    about = check_texts("about", given.about)
    if not given.queries:
        about.append("The built-in queries are the first words of some of the texts.")
    if repeated := len(texts) - len(kept):
        about.append(f"{repeated:,} texts that came again were left out.")
    return DemoCorpus(kept, [names[first[text]] for text in kept] if names else [], checked, about)


def unknown_tokens(tokenizer: Any, corpus: DemoCorpus) -> tuple[float, str] | None:
    """The share of tokens in texts and queries without a vector of their own, and a line on it.

    None when the models know all of them.
    """
    from mrl_course.models import unknown_share

    asked = [query if isinstance(query, str) else query[0] for query in corpus.queries]
    share = unknown_share(tokenizer, [*corpus.texts, *asked])
    if not share:
        return None
    shown = "less than 0.1" if share < 0.001 else f"{100 * share:.1f}"
    line = (
        f"{shown} % of the tokens in these texts and queries are unknown to the models: they all "
        "share one vector, so texts that differ in nothing else cannot be told apart."
    )
    return share, line


def _beginnings(texts: list[str], count: int = 40, words: int = 6) -> list[str]:
    chosen = texts[:: max(1, len(texts) // count)][:count]
    return list(dict.fromkeys(" ".join(text.split()[:words])[:120] for text in chosen))


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1].rstrip() + "…"


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [code.ids for code in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _model_part(
    name: str, model: Any, texts: list[str], query_ids: list[list[int]], rows: int
) -> dict[str, Any]:
    """Table, corpus and average curves of one model, in the form that the page reads."""
    table = model.embedding.weight.detach().cpu().double().numpy()
    if len(table) < rows:
        raise WrongValue(f"the {name} table has {len(table)} rows for {rows} tokens")
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


def _typical_first(queries: Sequence, judged: list[tuple[list[int], np.ndarray]]) -> list:
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


def check_page_size(corpus: DemoCorpus, tokens: int, dim: int, max_bytes: int = MAX_BYTES) -> None:
    """Say, before vectors are computed or models trained, that a page will be too large.

    Args:
        corpus: what the page is to search.
        tokens: rows of a model's table.
        dim: D of both models.
        max_bytes: the limit.

    Raises:
        WrongValue: tables, vectors and texts alone have more bytes; the message says what to lower.
    """
    if (least := sum(_bytes(corpus, tokens, dim))) > max_bytes:
        raise WrongValue(_too_large(least, max_bytes, corpus, tokens, dim))


def _bytes(corpus: DemoCorpus, tokens: int, dim: int) -> tuple[int, int, int]:
    """What tables, corpus vectors and texts take in the page, in bytes."""
    texts = list(dict.fromkeys(corpus.texts))
    shown = json.dumps([_shown(text) for text in texts] + corpus.names, ensure_ascii=False)
    tables, vectors = (2 * 4 * -(-rows * (dim + 4) // 3) for rows in (tokens, len(texts)))
    return tables, vectors, len(shown.encode("utf-8"))


def _too_large(size: int, limit: int, corpus: DemoCorpus, tokens: int, dim: int) -> str:
    tables, vectors, texts, whole, most = (
        f"{number / 1e6:.1f} MB" for number in (*_bytes(corpus, tokens, dim), size, limit)
    )
    return (
        f"the page would have {whole}; the limit is {most}. Tables ({tokens:,} tokens x D = {dim}) "
        f"take {tables}, corpus vectors ({len(corpus.texts):,} x {dim}) {vectors}, texts {texts}. "
        "Lower the number of texts, D or the vocabulary (vocab_size), whichever is largest"
    )


def show_page(path: str | Path, height: int = 820, *, embed: bool | None = None) -> HTML:
    """Show a page inside a notebook, for the last line of a cell.

    Jupyter gets the address of the file, relative to the notebook, so the notebook stays small.
    Colab serves no files, so it gets the page itself; so does VS Code with ``embed=True``.

    Args:
        path: the page, in the notebook's folder (the current one) or below it.
        height: of the frame, in pixels.
        embed: put the page itself, some megabytes, into the notebook; by default in Colab only.

    Raises:
        FileNotFoundError: there is no such page yet.
        WrongValue: the page lies outside the folder of the notebook, where Jupyter does not serve
            it.
    """
    from IPython.display import HTML

    height = check_count("height", height)
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no page {path}; build_demo writes one")
    if "google.colab" in sys.modules if embed is None else embed:
        source = f'srcdoc="{html.escape(path.read_text(encoding="utf-8"))}"'
    else:
        source = f'src="{quote(_below_the_notebook(path))}"'
    frame = f'<iframe {source} title="Interactive demo" width="100%" height="{height}"></iframe>'
    return HTML(f"<div>{frame}</div>")


def _below_the_notebook(path: Path) -> str:
    """An address that a Jupyter server knows: relative, as a browser on it cannot see the disk."""
    if not path.is_absolute():
        return path.as_posix()
    here = Path(os.path.abspath(os.curdir))
    for one, folder in ((path, here), (path.resolve(), here.resolve())):
        if one.is_relative_to(folder):
            return one.relative_to(folder).as_posix()
    raise WrongValue(
        f"{path} lies outside {here}, the folder of the notebook, and Jupyter shows nothing from "
        "there; write the page into it, such as build/demo.html, or pass embed=True"
    )
