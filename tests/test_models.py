"""Small encoders: what is promised about tokens, seeds, saving, and other languages."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from mrl_course.models import (
    build_static_model,
    build_tiny_transformer,
    token_ids,
    train_tokenizer,
    unknown_share,
)

WORDS = ["red fox", "blue bird", "Zürich 東京", "café déjà-vu", "number 1234"]


def table(model):
    return model[0].embedding.weight.detach().numpy().copy()


def test_tiny_transformer_is_repeatable_and_leaves_torchs_generator_alone():
    tokenizer = train_tokenizer(WORDS, vocab_size=100)
    tokens = tokenizer.to_str()
    state = torch.get_rng_state()
    first, again, other = (
        build_tiny_transformer(tokenizer, width=8, layers=2, heads=2, seed=seed).encode(WORDS)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state) and tokenizer.to_str() == tokens
    assert first.shape == (len(WORDS), 8) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_tiny_transformer_has_layers_sees_order_and_ignores_padding():
    tokenizer = train_tokenizer(WORDS, vocab_size=100)
    model = build_tiny_transformer(tokenizer, width=8, layers=3, heads=2, max_tokens=6)
    assert len(model[0].auto_model.encoder.layer) == 3
    assert not np.allclose(model.encode("fox red"), model.encode("red fox"), atol=1e-6)
    alone, beside = model.encode("red fox"), model.encode(["red fox", "blue " * 30])
    np.testing.assert_allclose(alone, beside[0], atol=1e-5)
    np.testing.assert_allclose(beside[1], model.encode("blue " * 6), atol=1e-5)  # cut to 6 tokens


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"layers": 1.5}, "layers"),
        ({"heads": True}, "heads"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"width": 10, "heads": 4}, "multiple of heads, got 10 and 4"),
    ],
)
def test_tiny_transformer_names_bad_numbers(options, says):
    with pytest.raises((TypeError, ValueError), match=says):
        build_tiny_transformer(train_tokenizer(WORDS, vocab_size=100), **options)


def test_static_model_is_the_mean_of_its_tokens():
    model = build_static_model(WORDS, dim=12)
    ids = model[0].tokenizer.encode("red bird", add_special_tokens=False).ids
    assert len(ids) >= 2
    np.testing.assert_allclose(
        model.encode(["red bird"])[0], table(model)[ids].mean(axis=0), rtol=1e-5
    )
    assert model.encode(["", "\u200b"]).tolist() == [[0.0] * 12] * 2


def test_static_model_saves_loads_and_truncates(tmp_path):
    model = build_static_model(WORDS, dim=12, seed=5)
    model.save(str(tmp_path / "model"))
    assert [p.suffix for p in tmp_path.rglob("*model.*")] == [".safetensors"]  # no pickle
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=5)
    np.testing.assert_array_equal(loaded.encode(WORDS), model.encode(WORDS)[:, :5])


def test_same_seed_same_model_other_seed_other_model():
    first, again, other = (build_static_model(WORDS, dim=8, seed=s) for s in (1, 1, 2))
    assert (table(first) == table(again)).all() and (table(first) != table(other)).any()


def test_vocabulary_is_the_same_in_every_run():
    """The trainer's hash maps are seeded anew each time; the vocabulary must not show it."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefgh"))
    texts = [" ".join("".join(rng.choice(letters, 4)) for _ in range(8)) for _ in range(200)]
    first, second = (train_tokenizer(texts, vocab_size=150).to_str() for _ in range(2))
    assert first == second
    tokens = train_tokenizer(texts, vocab_size=150).encode("abba ##a").tokens
    assert "##a" not in tokens[-3:-1] and tokens.count("[UNK]") >= 1  # "#" is no known character


@pytest.mark.parametrize(
    ("sentences", "kwargs", "error", "words"),
    [
        ([], {}, ValueError, "all are blank"),
        (["", " \u200b\ufeff"], {}, ValueError, "all are blank"),
        ("one string", {}, TypeError, "must be a list of strings"),
        (["a", None], {}, TypeError, r"sentences\[1\] is None"),
        (["a"], {"vocab_size": 5}, ValueError, "vocab_size"),
        (["a"], {"dim": 0}, ValueError, "dim must be"),
        (["a"], {"dim": 2.5}, TypeError, "2.5"),
        (["a"], {"dim": True}, TypeError, "True"),
        (["a"], {"seed": -1}, ValueError, "seed"),
        (["a", "half \ud83d"], {}, ValueError, r"sentences\[1\] holds half a character"),
    ],
)
def test_bad_model_arguments_are_named(sentences, kwargs, error, words):
    with pytest.raises(error, match=words):
        build_static_model(sentences, **kwargs)


def test_integers_of_numpy_are_integers():
    model = build_static_model(WORDS, dim=np.int64(8), vocab_size=np.int32(200), seed=np.uint8(1))
    np.testing.assert_array_equal(table(model), table(build_static_model(WORDS, 8, 200, 1)))


# Each pair differs in one accent, vowel sign or voicing mark: other words, other vectors.
PAIRS = [("schön", "schon"), ("año", "ano"), ("มา", "ม้า"), ("かき", "がき"), ("दिन", "दीन")]


@pytest.mark.parametrize("pair", PAIRS)
def test_marks_on_letters_are_not_stripped(pair):
    model = build_static_model([*pair, *WORDS], dim=16, vocab_size=300)
    one, two = model.encode(list(pair))
    assert not np.allclose(one, two)
    assert np.allclose(*model.encode([pair[0], pair[0].upper()]))  # capitals are one with small


def test_long_words_are_known():
    """Scripts without spaces write a sentence as one word; WordPiece gives up on 100 characters."""
    thai, kana = "กา" * 70, "さくら" * 40
    model = build_static_model([thai, kana], dim=16, vocab_size=300)
    assert unknown_share(model[0].tokenizer, [thai, kana]) == 0
    assert not np.allclose(*model.encode([thai, kana]))


def test_the_share_of_unknown_tokens():
    tokenizer = train_tokenizer(WORDS, vocab_size=100)
    assert unknown_share(tokenizer, WORDS) == 0
    assert unknown_share(tokenizer, ["red fox", "ж щ"]) == pytest.approx(
        2 / (2 + len(tokenizer.encode("red fox").ids))
    )
    assert unknown_share(tokenizer, ["", " "]) == 0
    with pytest.raises(TypeError, match="list of strings"):
        unknown_share(tokenizer, "red")


_WORDS = train_tokenizer([*WORDS, "é e\u0301 I İ ß 語 ไทย .-"], vocab_size=200)
PIECES = st.text("ab Iİß.'-\t\n\x1c\x85\u00a0\u0301\u200bé語ไทย🙂", max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES | st.text(max_size=8), max_size=5))
def test_encoding_words_once_gives_the_tokens_of_whole_texts(texts):
    assert token_ids(_WORDS, texts) == [
        code.ids for code in _WORDS.encode_batch(texts, add_special_tokens=False)
    ]


def test_a_tokenizer_that_looks_beyond_a_blank_gets_whole_texts():
    tokenizer = train_tokenizer(["in new york", "a b c"], vocab_size=100)
    tokenizer.add_tokens(["new york"])
    (ids,) = token_ids(tokenizer, ["in new york"])
    assert ids[-1] == tokenizer.token_to_id("new york")
    tokenizer = train_tokenizer(["in new york", "a b c"], vocab_size=100)
    tokenizer.enable_truncation(2)
    assert len(token_ids(tokenizer, ["in new york"])[0]) == 2
