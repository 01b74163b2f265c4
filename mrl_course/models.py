"""Small encoders, all of them ``SentenceTransformer`` objects: they save, load, encode and truncate
like any other.

A *static* model has one trained vector per token and no layers: a sentence is the mean of its
tokens' vectors. It knows nothing of word order, but it trains in seconds on a CPU. (The idea is
described in https://huggingface.co/blog/static-embeddings.)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from itertools import chain
from typing import cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from mrl_course.arguments import check_count, check_seed, check_texts, is_blank
from mrl_course.errors import WrongValue
from mrl_course.pretrained import load_pretrained

__all__ = [
    "build_static_model",
    "build_tiny_transformer",
    "load_pretrained",
    "train_tokenizer",
    "unknown_share",
]

LONGEST_WORD = 1_000  # in characters; the library's own limit of 100 makes Thai sentences unknown
INITIAL_STD = 0.1  # spread of the random start; larger needs a larger learning rate


def train_tokenizer(sentences: Sequence[str], vocab_size: int = 12_000) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer on ``sentences``.

    Accents and vowel signs are kept ("schön" is not "schon"), and words of up to 1,000 characters
    are known: scripts without spaces write whole sentences as one.

    Args:
        sentences: the training texts; order and repetition only change token frequencies.
        vocab_size: stop joining characters at this many tokens, at least 100. A small corpus gives
            fewer; every single character stays, so one with a huge alphabet gives more.

    Raises:
        WrongKind: a sentence is not a string.
        WrongValue: no sentence that shows anything, or ``vocab_size`` below 100.
    """
    sentences = check_texts("sentences", sentences)
    if all(map(is_blank, sentences)):
        raise WrongValue("no sentence to train a tokenizer on: all are blank")
    vocab_size = check_count("vocab_size", vocab_size, least=100)
    tokenizer = _wordpiece({})
    # The trainer numbers the inner characters ("##a") in the order of a randomly seeded hash map
    # and breaks ties by number, so its vocabulary would differ from run to run. Named as special
    # tokens they get fixed numbers; the tokenizer made of the result knows nothing special.
    distinct = "".join(sorted(set("\n".join(sentences))))  # each is normalised by itself
    characters = set(tokenizer.normalizer.normalize_str(distinct))
    inner = [f"##{c}" for c in sorted(characters) if not c.isspace()]
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=["[UNK]", *inner], show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return _wordpiece(tokenizer.get_vocab(with_added_tokens=False))


def build_static_model(
    sentences: Sequence[str],
    dim: int = 768,
    vocab_size: int = 12_000,
    seed: int = 0,
    *,
    tokenizer: Tokenizer | None = None,
) -> SentenceTransformer:
    """An untrained static model on the CPU: tokenizer, random embedding table, mean of tokens.

    Args:
        sentences: texts that the tokenizer learns its vocabulary from.
        dim: D, numbers per embedding, at least 1.
        vocab_size: as in :func:`train_tokenizer`; the table has one row per token.
        seed: of the random start; the same call gives the same model.
        tokenizer: use this one instead of training one on ``sentences``, for example to build
            several sizes over one vocabulary.

    Returns:
        A ``SentenceTransformer`` whose ``encode`` gives float32 arrays of shape (n, dim). A text
        without tokens becomes a row of zeros.

    Raises:
        WrongKind, WrongValue: as :func:`train_tokenizer`; ``dim`` below 1 or not an integer.
    """
    dim, seed = check_count("dim", dim), check_seed(seed)
    if tokenizer is None:
        tokenizer = train_tokenizer(sentences, vocab_size)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.device("cpu"):  # whatever the default device is: the same start on every machine
        table = torch.randn(tokenizer.get_vocab_size(), dim, generator=generator) * INITIAL_STD
        return SentenceTransformer(
            modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu"
        )


def build_tiny_transformer(
    tokenizer: Tokenizer,
    width: int = 64,
    layers: int = 3,
    heads: int = 4,
    max_tokens: int = 20,
    seed: int = 0,
) -> SentenceTransformer:
    """An untrained BERT of a few layers on the CPU, made from a config: nothing is downloaded.

    It is a transformer in all but size, so that what needs layers can be tried in seconds. There
    is no dropout; a sentence is the mean of its tokens' vectors.

    Args:
        tokenizer: for example from :func:`train_tokenizer`; it is not changed.
        width: D, numbers per embedding, a multiple of ``heads``.
        layers: how many, at least 1.
        heads: of the attention in each layer, at least 1.
        max_tokens: longer texts are cut, at least 1.
        seed: of the random start; the same call gives the same model. The state of torch's own
            generator is left as it was.

    Raises:
        WrongKind, WrongValue: a number below 1 or not an integer, a width that ``heads`` does not
            divide.
    """
    from transformers import (  # slow to import
        BertConfig,
        BertModel,
        PreTrainedTokenizerFast,
    )

    width, layers = check_count("width", width), check_count("layers", layers)
    heads, max_tokens = check_count("heads", heads), check_count("max_tokens", max_tokens)
    seed = check_seed(seed)
    if width % heads:
        raise WrongValue(f"width must be a multiple of heads, got {width} and {heads}")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=max_tokens,
    )
    config = BertConfig(
        vocab_size=len(wrapped),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=max_tokens,
        pad_token_id=cast(int, wrapped.pad_token_id),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        tempfile.TemporaryDirectory() as folder,
    ):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
        wrapped.save_pretrained(folder)
        return SentenceTransformer(modules=[Transformer(folder), Pooling(width)], device="cpu")


def unknown_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of tokens that the tokenizer does not know, 0 to 1; 0 if there are no tokens.

    What is unknown has no vector of its own: a text of unknown tokens only is like any other such.

    Args:
        tokenizer: with a token for what it does not know, such as those of :func:`train_tokenizer`.
        texts: what will be encoded.

    Raises:
        WrongKind: a text is not a string.
    """
    spec = json.loads(tokenizer.to_str())["model"]
    unknown = tokenizer.token_to_id(spec.get("unk_token") or "")
    tokens = [token for ids in token_ids(tokenizer, check_texts("texts", texts)) for token in ids]
    return sum(token == unknown for token in tokens) / len(tokens) if tokens else 0.0


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The token numbers of each text, without special tokens, of texts that were checked.

    A tokenizer of :func:`train_tokenizer` never looks beyond a blank, so each distinct word is
    encoded once: many texts repeat their words.
    """
    if not _ends_at_blanks(tokenizer):
        return [code.ids for code in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    split = [text.split(" ") for text in texts]
    words = list(dict.fromkeys(chain.from_iterable(split)))
    codes = tokenizer.encode_batch_fast(words, add_special_tokens=False)
    ids = {word: code.ids for word, code in zip(words, codes, strict=True)}
    return [[i for word in text for i in ids[word]] for text in split]


def _ends_at_blanks(tokenizer: Tokenizer) -> bool:
    return (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and not tokenizer.get_added_tokens_decoder()  # "New York" could be one of them
        and tokenizer.truncation is None
        and tokenizer.padding is None
    )


def _wordpiece(vocab: dict[str, int]) -> Tokenizer:
    model = WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
