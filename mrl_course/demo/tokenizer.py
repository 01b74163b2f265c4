"""The tokenizer as a table for the page: its rules are asked for, not written a second time."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mrl_course.errors import WrongValue

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

_HANGUL = range(0xAC00, 0xD7A4)
_CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def character_rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer's normaliser and its splitting into words do with each character.

    Asked of the tokenizer itself for all of Unicode (two seconds, remembered per process).

    Returns:
        A dict for the page. ``drop``, ``space``, ``apart``, ``white`` and ``punctuation`` are
        sorted lists [first, last, first, last, ...] of code points: characters that vanish, that
        become a space, that get a space on both sides; then, after normalising, characters that
        separate words, and that are words of their own. ``map`` gives the other characters that
        change, and ``hangul`` says whether syllables are taken apart.

    Raises:
        WrongValue: the tokenizer has a normaliser or splitter of another kind than BERT's.
    """
    spec = json.loads(tokenizer.to_str())
    for part, wanted in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        found = (spec[part] or {}).get("type", "none")
        if found != wanted:
            raise WrongValue(
                f"the page knows tokenizers with a {wanted}; the {part} of this one is {found}"
            )
    settings = spec["normalizer"]
    return _bert_rules(
        *(settings[name] for name in ("clean_text", "handle_chinese_chars", "strip_accents")),
        settings["lowercase"],
    )


@functools.lru_cache(maxsize=4)
def _bert_rules(
    clean_text: bool, handle_chinese_chars: bool, strip_accents: bool | None, lowercase: bool
) -> dict[str, Any]:
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(
        clean_text, handle_chinese_chars, strip_accents, lowercase
    )
    bar = ord("|")  # changed by no normaliser, and no other character turns into it
    others = [c for c in _CODE_POINTS if c != bar]
    changed = normalizer.normalize_str("|".join(map(chr, others))).split("|")
    groups: dict[str, list[int]] = {"drop": [], "space": [], "apart": []}
    mapping: dict[str, str] = {}
    hangul = 0
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
    ranges: dict[str, Any] = {name: _ranges(codes) for name, codes in groups.items()}
    ranges |= {"white": _ranges(white), "punctuation": _ranges(punctuation)}
    return ranges | {"map": mapping, "hangul": hangul == len(_HANGUL)}


def _kinds(splitter: PreTokenizer) -> tuple[list[int], list[int]]:
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


def tokenizer_for_page(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokens, and :func:`character_rules`, in the form that the page reads.

    Raises:
        WrongValue: another kind than WordPiece, or one that cuts long texts.
    """
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model.get("type") != "WordPiece":
        raise WrongValue(
            f"the page knows WordPiece tokenizers; this one is {model.get('type') or 'unknown'}. "
            "Models from build_static_model and train_twins fit."
        )
    if spec.get("truncation"):
        raise WrongValue("the tokenizer cuts long texts; call tokenizer.no_truncation() first")
    vocab = model["vocab"]
    if model["unk_token"] not in vocab:
        raise WrongValue(f"the tokenizer has no token {model['unk_token']!r} for unknown words")
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
