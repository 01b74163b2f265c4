"""The interactive page: any query, any prefix size, both twins side by side, in one HTML file.

:func:`build_demo` embeds a corpus with both twins and writes a page that needs no server and no
network. The page holds the two embedding tables and the corpus vectors as whole numbers from -127
to 127 (int8), one scale per row; the order of the numbers is kept, so a prefix of a stored row is
the prefix of the vector. A query is turned into tokens and into a vector in the browser.

The rules of the tokenizer are not written down a second time: the builder asks the tokenizer what
it does with every character of Unicode (:func:`character_rules`) and the page looks it up.
"""

from __future__ import annotations

import argparse
import base64
import csv
import functools
import hashlib
import html
import io
import json
import os
import random
import re
import sys
import unicodedata
import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np

from mrl_course.ranking import check_finite
from mrl_course.twins import check_writable, positive

TOP = 10  # results in a list, and the 10 of overlap@10
SHORTLISTS = (20, 50, 100, 200)  # sizes that the page offers for "shortlist at k, rerank in full"
MAX_BYTES = 8_000_000
SHOWN_CHARACTERS = 600  # of each text; longer ones are embedded whole and shown in part
MAX_QUERIES = 200  # the average curve is over at most this many
GIVEN = "The twins were trained elsewhere and taken as they are."
DEFAULT_TEXTS, DEFAULT_DIM, DEFAULT_VOCAB = 5_000, 192, 5_000  # together about 7 MB
TITLE = "Cut the vector, keep the order?"


# --- vectors as int8 ---------------------------------------------------------------------------


def quantise_rows(emb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Store each row as int8 and one scale: ``emb`` is close to ``codes * scales[:, None]``.

    Args:
        emb: (n, D) finite numbers.

    Returns:
        codes: (n, D) int8 from -127 to 127, the largest number of a row becomes 127 or -127.
        scales: (n,) float32, above 0; a row of zeros has scale 1.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    emb = np.asarray(emb, dtype=np.float64)
    if emb.ndim != 2:
        raise ValueError(f"emb must have shape (n, D), got {emb.shape}")
    check_finite("emb", emb)
    largest = np.abs(emb).max(axis=1, initial=0.0)
    scales = (np.where(largest > 0, largest, 127.0) / 127).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    codes = np.rint(emb / scales[:, None].astype(np.float64))
    return np.clip(codes, -127, 127).astype(np.int8), scales


def mean_of_rows(ids: Sequence[int], codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The mean of some rows of an int8 table, (D,) float64: how the page embeds a query.

    No ids give zeros. Rows are added one after the other, as the page does, so that both get the
    same last digit.
    """
    total = np.zeros(codes.shape[1])
    for i in ids:
        total += float(scales[i]) * codes[i]
    return total / max(1, len(ids))


def prefix_scores(query: np.ndarray, codes: np.ndarray, k: int) -> np.ndarray:
    """Score each corpus row by its first k numbers: dot product over the length of that prefix.

    This is the cosine times the length of the query's prefix, which is the same for all rows. The
    scale of a row would stand above and below the fraction line, so the codes are enough.

    Args:
        query: (D,) numbers.
        codes: (n, D) int8.
        k: prefix size, 1 <= k <= D.

    Returns:
        (n,) float64; a row whose prefix is zero has score 0.

    Raises:
        ValueError: sizes that do not fit.
    """
    query, codes = np.asarray(query, dtype=np.float64), np.asarray(codes)
    if query.ndim != 1 or codes.ndim != 2 or codes.shape[1] != len(query):
        raise ValueError(
            f"a query of shape {query.shape} and codes of shape {codes.shape} do not fit: "
            "(D,) and (n, D) are needed"
        )
    if not 1 <= k <= len(query):
        raise ValueError(f"k must be between 1 and D = {len(query)}, got {k}")
    dot = np.zeros(len(codes))
    for j in range(k):  # one number after the other, as the page adds them up
        dot += query[j] * codes[:, j]
    squares = (codes[:, :k].astype(np.int64) ** 2).sum(axis=1)
    return dot / np.sqrt(np.maximum(squares, 1))


def ranking(query: np.ndarray, codes: np.ndarray, k: int, top: int = TOP) -> np.ndarray:
    """The ``top`` best rows at prefix size k, best first; among equals the smaller row first."""
    scores = prefix_scores(query, codes, k)
    return np.argsort(-scores, kind="stable")[:top]


def rerank(
    query: np.ndarray, codes: np.ndarray, k: int, shortlist: int, top: int = TOP
) -> np.ndarray:
    """Find ``shortlist`` rows by their first k numbers, then order those by all D numbers."""
    rows = np.sort(ranking(query, codes, k, shortlist))
    scores = prefix_scores(query, codes[rows], codes.shape[1])
    return rows[np.argsort(-scores, kind="stable")[:top]]


def overlap_curve(
    query: np.ndarray, codes: np.ndarray, top: int = TOP, shortlist: int | None = None
) -> np.ndarray:
    """How many of the ``top`` results at full size are still found, for every prefix size.

    Args:
        query: (D,) numbers.
        codes: (n, D) int8.
        top: length of the lists that are compared; at most n.
        shortlist: compare the list after :func:`rerank` with a shortlist of this size instead.

    Returns:
        (D,) int64; entry k - 1 belongs to k and lies between 0 and ``top``.

    Raises:
        ValueError: sizes that do not fit.
    """
    ranks = _ranks_of_the_best(query, codes, top)
    return (ranks < max(shortlist or 0, min(top, len(codes)))).sum(axis=1)


def break_point(curve: Sequence[float], enough: float) -> int:
    """The smallest k from which on a curve never falls below ``enough`` again.

    Args:
        curve: (D,) values; entry k - 1 belongs to k, as :func:`overlap_curve` gives them.
        enough: the least value that counts as whole.

    Raises:
        ValueError: no values, or the curve is below ``enough`` even at D.
    """
    values = np.asarray(curve)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"curve must be a list of at least one value, got shape {values.shape}")
    if values[-1] < enough:
        raise ValueError(f"the curve ends at {values[-1]:g}, below {enough:g}: it never is whole")
    below = np.flatnonzero(values < enough)  # counted from 0: position j belongs to k = j + 1
    return int(below[-1]) + 2 if len(below) else 1


def _ranks_of_the_best(query: np.ndarray, codes: np.ndarray, top: int) -> np.ndarray:
    """The places, from 0, that the best rows at full size have at every k, (D, top)."""
    query, n = np.asarray(query, dtype=np.float64), len(codes)
    best = ranking(query, codes, codes.shape[1], top)
    dot, squares = np.zeros(n), np.zeros(n)
    ranks = np.empty((codes.shape[1], len(best)), dtype=np.int64)
    for j in range(codes.shape[1]):
        column = codes[:, j].astype(np.float64)
        dot += query[j] * column
        squares += column * column
        scores = dot / np.sqrt(np.maximum(squares, 1))
        ahead = np.flatnonzero(scores >= scores[best].min())  # the others are behind all of them
        better = scores[ahead] > scores[best][:, None]
        equal = (scores[ahead] == scores[best][:, None]) & (ahead < best[:, None])
        ranks[j] = (better | equal).sum(axis=1)
    return ranks


# --- the tokenizer, as a table for the page ------------------------------------------------------

_HANGUL = range(0xAC00, 0xD7A4)
_CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def character_rules(tokenizer) -> dict:
    """What a tokenizer's normaliser and its splitting into words do with each character.

    Asked of the tokenizer itself for all of Unicode (two seconds, remembered per process).

    Returns:
        A dict for the page. ``drop``, ``space``, ``apart``, ``white`` and ``punctuation`` are
        sorted lists [first, last, first, last, ...] of code points: characters that vanish, that
        become a space, that get a space on both sides; then, after normalising, characters that
        separate words, and that are words of their own. ``map`` gives the other characters that
        change, and ``hangul`` says whether syllables are taken apart.

    Raises:
        ValueError: the tokenizer has a normaliser or splitter of another kind than BERT's.
    """
    spec = json.loads(tokenizer.to_str())
    for part, wanted in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        found = (spec[part] or {}).get("type", "none")
        if found != wanted:
            raise ValueError(
                f"the page knows tokenizers with a {wanted}; the {part} of this one is {found}"
            )
    settings = spec["normalizer"]
    return _bert_rules(
        *(settings[name] for name in ("clean_text", "handle_chinese_chars", "strip_accents")),
        settings["lowercase"],
    )


@functools.lru_cache(maxsize=4)
def _bert_rules(clean_text, handle_chinese_chars, strip_accents, lowercase) -> dict:
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(
        clean_text, handle_chinese_chars, strip_accents, lowercase
    )
    bar = ord("|")  # changed by no normaliser, and no other character turns into it
    others = [c for c in _CODE_POINTS if c != bar]
    changed = normalizer.normalize_str("|".join(map(chr, others))).split("|")
    groups: dict[str, list[int]] = {"drop": [], "space": [], "apart": []}
    mapping, hangul = {}, 0
    for code, result in zip(others, changed, strict=True):
        character = chr(code)
        if result == character:
            continue
        if result == "":
            groups["drop"].append(code)
        elif result == " ":
            groups["space"].append(code)
        elif result == f" {character} ":
            groups["apart"].append(code)
        elif code in _HANGUL and result == unicodedata.normalize("NFD", character):
            hangul += 1
        else:
            mapping[character] = result
    white, punctuation = _kinds(pre_tokenizers.BertPreTokenizer())
    ranges = {name: _ranges(codes) for name, codes in groups.items()}
    ranges |= {"white": _ranges(white), "punctuation": _ranges(punctuation)}
    return ranges | {"map": mapping, "hangul": hangul == len(_HANGUL)}


def _kinds(splitter) -> tuple[list[int], list[int]]:
    """The code points that separate words, and those that are words of their own."""
    text = "a" + "a".join(map(chr, _CODE_POINTS)) + "a"
    spans = [span for _, span in splitter.pre_tokenize_str(text)]
    alone = [start for start, end in spans if end - start == 1 and start % 2]
    white = [
        after
        for (_, after), (start, _) in zip(spans, spans[1:], strict=False)
        if start == after + 1
    ]
    # Character number i stands at place 2 * i + 1, between two letters.
    return [_CODE_POINTS[i // 2] for i in white], [_CODE_POINTS[i // 2] for i in alone]


def _ranges(codes: Sequence[int]) -> list[int]:
    flat: list[int] = []
    for code in sorted(codes):
        if flat and flat[-1] == code - 1:
            flat[-1] = code
        else:
            flat += [code, code]
    return flat


def _tokenizer_for_page(tokenizer) -> dict:
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model.get("type") != "WordPiece":
        raise ValueError(
            f"the page knows WordPiece tokenizers; this one is {model.get('type') or 'unknown'}. "
            "Models from build_static_model and train_twins fit."
        )
    if spec.get("truncation"):
        raise ValueError("the tokenizer cuts long texts; call tokenizer.no_truncation() first")
    vocab = model["vocab"]
    if model["unk_token"] not in vocab:
        raise ValueError(f"the tokenizer has no token {model['unk_token']!r} for unknown words")
    tokens = [""] * (max(vocab.values()) + 1)
    for token, number in vocab.items():
        tokens[number] = token
    return {
        "tokens": tokens,
        "unknown": vocab[model["unk_token"]],
        "prefix": model["continuing_subword_prefix"],
        "longestWord": model["max_input_chars_per_word"],
        "characters": character_rules(tokenizer),
    }


# --- the page ----------------------------------------------------------------------------------


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
    page_tokenizer = _tokenizer_for_page(tokenizer)
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
    _write_whole(path, page)
    return path


def _list_of(texts, name: str) -> list:
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise TypeError(f"{name} must be a list of strings, got {type(texts).__name__}")
    if isinstance(texts, Mapping) or hasattr(texts, "column_names") or hasattr(texts, "columns"):
        raise TypeError(f"{name} must be one column of texts, such as data['text'], not a table")
    return list(texts)


def _two_static_models(twins) -> dict:
    """Name -> StaticEmbedding of the two models, after a look at all that must fit."""
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

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
    ranks = np.stack([_ranks_of_the_best(query, corpus, TOP) for query in queries])
    kept = {size: (ranks < size).sum(axis=2) for size in (TOP, *SHORTLISTS)}  # (queries, D) each
    return {
        "name": name,
        "judged": (
            [int(ranking(query, corpus, len(query), 1)[0]) for query in queries],
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
    files = resources.files("mrl_course") / "demo_page"
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


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder, and a file name is needed")
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot write the page to {path}: {error.strerror or error}; choose another file"
        ) from error


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


# --- corpora and their twins -------------------------------------------------------------------


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


# --- the command -------------------------------------------------------------------------------


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``demo`` to a parser made with ``add_subparsers``."""
    parser = subparsers.add_parser(
        "demo",
        help="write the interactive page: any query, any k, both twins side by side",
        description="Train the twins on a corpus, or take trained ones, and write one HTML file "
        "that searches it at any prefix size. It opens from disk and sends no request.",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("build/demo.html"))
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--corpus",
        metavar="WHAT",
        default="docstrings",
        help="docstrings (of installed libraries), mini, a .txt with one text per line, or a .csv "
        "with a column `text` and perhaps `name` and `query` (default: %(default)s)",
    )
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=Path,
        help="take the models in DIR/regular and DIR/matryoshka instead of training; "
        "`mrl-course twins --save-models` makes such folders",
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="compare the regular twin with itself after rotate and distil, which needs no labels",
    )
    for name, default, text in (
        ("--limit", DEFAULT_TEXTS, "at most N texts"),
        ("--dim", DEFAULT_DIM, "D of the twins"),
        ("--vocab", DEFAULT_VOCAB, "at most N tokens"),
    ):
        parser.add_argument(
            name, metavar="N", type=positive, default=default, help=f"{text} (default: {default})"
        )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit code is 0, or 1 with a message on stderr."""
    check_writable(args.out.parent)  # before the training, not after it
    settings = {"dim": args.dim, "vocab_size": args.vocab, "seed": args.seed}
    settings["say"] = lambda line: print(line, flush=True)
    settings["twins"] = _load_twins(args.models) if args.models else None
    if args.corpus == "docstrings":
        twins, corpus = docstring_demo(args.limit, **settings)
    elif args.corpus == "mini":
        twins, corpus = miniature_demo(args.limit, **settings)
    else:
        twins, corpus = own_demo(args.corpus, args.limit, **settings)
    if args.rotate:
        twins, corpus = rotated_twins(twins, corpus, args.seed, settings["say"])
    path = build_demo(twins, corpus, args.out)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {len(corpus.texts):,} texts)")
    if args.open and not webbrowser.open(path.resolve().as_uri()):
        print("no browser found; open the file by hand")
    return 0


def _load_twins(folder: Path):
    from sentence_transformers import SentenceTransformer

    from mrl_course.training import Twins

    for name in ("regular", "matryoshka"):
        if not (folder / name).is_dir():
            raise OSError(
                f"there is no folder {folder / name}; `mrl-course twins --save-models` makes both"
            )
    return Twins(
        *(
            SentenceTransformer(str(folder / name), device="cpu")
            for name in ("regular", "matryoshka")
        )
    )
