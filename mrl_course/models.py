"""Small encoders, all of them ``SentenceTransformer`` objects: they save, load, encode and truncate
like any other.

A *static* model has one trained vector per token and no layers: a sentence is the mean of its
tokens' vectors. It knows nothing of word order, but it trains in seconds on a CPU. (The idea is
described in https://huggingface.co/blog/static-embeddings.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

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

from mrl_course.pretrained import load_pretrained

__all__ = ["build_static_model", "build_tiny_transformer", "load_pretrained", "train_tokenizer"]

INITIAL_STD = 0.1  # spread of the random start; larger needs a larger learning rate


def train_tokenizer(sentences: Sequence[str], vocab_size: int = 12_000) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer on ``sentences``.

    Args:
        sentences: the training texts; order and repetition only change token frequencies.
        vocab_size: stop joining characters at this many tokens, at least 100. A small corpus gives
            fewer; every single character stays, so one with a huge alphabet gives more.

    Raises:
        TypeError: a sentence is not a string.
        ValueError: no sentence with a letter or digit in it, or ``vocab_size`` below 100.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences must be a list of strings, got one string")
    sentences = list(sentences)
    for row, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TypeError(
                f"sentence {row} is {sentence!r} ({type(sentence).__name__}), not a string"
            )
    if not any(map(str.strip, sentences)):
        raise ValueError("no sentence to train a tokenizer on: all are empty")
    if vocab_size < 100:
        raise ValueError(f"vocab_size must be at least 100, got {vocab_size}")
    tokenizer = _wordpiece({})
    # The trainer numbers the inner characters ("##a") in the order of a randomly seeded hash map
    # and breaks ties by number, so its vocabulary would differ from run to run. Named as special
    # tokens they get fixed numbers; the tokenizer made of the result knows nothing special.
    characters = set(tokenizer.normalizer.normalize_str("\n".join(sentences)))
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
        TypeError, ValueError: as :func:`train_tokenizer`; ``dim`` below 1 or not an integer.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"dim must be an integer of at least 1, got {dim!r}")
    if tokenizer is None:
        tokenizer = train_tokenizer(sentences, vocab_size)
    generator = torch.Generator().manual_seed(seed)
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
        ValueError: a number below 1 or not an integer, a width that ``heads`` does not divide.
    """
    from transformers import (  # slow to import
        BertConfig,
        BertModel,
        PreTrainedTokenizerFast,
    )

    sizes = {"width": width, "layers": layers, "heads": heads, "max_tokens": max_tokens}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
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
        pad_token_id=wrapped.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
        wrapped.save_pretrained(folder)
        first = Transformer(folder)
    return SentenceTransformer(modules=[first, Pooling(width)], device="cpu")


def _wordpiece(vocab: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
