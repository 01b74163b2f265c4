"""Exercises of lesson 09: the score of an evaluator, the cut in a cache, loading small, depth."""

import copy
import tempfile
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    SequentialEvaluator,
)
from sentence_transformers.sentence_transformer.modules import Normalize

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.check.shared import unit
from mrl_course.models import (
    build_static_model,
    build_tiny_transformer,
    train_tokenizer,
)
from mrl_course.search import truncate

WORDS = "red green blue small large dog cat bird house tree runs sleeps jumps waits sings".split()


def _texts(count: int, seed: int) -> list[str]:
    """Made-up sentences of four words, all different."""
    rng = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choice(WORDS, size=4))] = None
    return list(texts)


# -------------------------------------------------------------------- which score is "the" score


def _sts_evaluators(first, second, scores, dims):
    return [
        EmbeddingSimilarityEvaluator(
            first, second, scores, name=f"sts-{k}", truncate_dim=k, write_csv=False
        )
        for k in dims
    ]


def evaluator_over_dims(first, second, scores, dims):
    """One STS evaluator per prefix size, in the order of ``dims``; the largest size counts."""
    full = list(dims).index(max(dims))
    return SequentialEvaluator(
        _sts_evaluators(first, second, scores, dims), main_score_function=lambda s: s[full]
    )


def _with_main(function):
    return lambda first, second, scores, dims: SequentialEvaluator(
        _sts_evaluators(first, second, scores, dims), main_score_function=function
    )


@register(
    lesson=9,
    answer=evaluator_over_dims,
    expects="a function (first, second, scores, dims) -> a SequentialEvaluator",
    why="load_best_model_at_end and early stopping now look at the size that you meant.",
    hints=[
        "Print SequentialEvaluator's default: main_score_function=lambda scores: scores[-1].",
        "main_score_function gets the scores in the order of the evaluators, that is of dims.",
        "full = list(dims).index(max(dims)), then main_score_function=lambda scores: scores[full].",
    ],
    wrong_answers=[
        Wrong(
            lambda first, second, scores, dims: SequentialEvaluator(
                _sts_evaluators(first, second, scores, dims)
            ),
            says="last",
        ),
        Wrong(_with_main(lambda scores: scores[0]), says="first"),
        Wrong(_with_main(max), says="best"),
        Wrong(_with_main(lambda scores: sum(scores) / len(scores)), says="mean"),
        Wrong(_with_main(min), says="its main score"),
        Wrong(
            lambda first, second, scores, dims: evaluator_over_dims(
                first, second, scores, [max(dims)]
            ),
            says="missing",
        ),
        Wrong(
            lambda first, second, scores, dims: SequentialEvaluator(
                [
                    EmbeddingSimilarityEvaluator(first, second, scores, name=f"sts-{k}")
                    for k in dims
                ],
                main_score_function=lambda s: s[list(dims).index(max(dims))],
            ),
            says="truncate_dim",
        ),
        Wrong(lambda first, second, scores, dims: 0.5, says="SequentialEvaluator"),
    ],
)
def main_score_of_the_full_size(answer):
    """Check on a model whose full size is not its best, with dims in three orders."""
    texts = _texts(60, seed=9)
    first, second = texts[:30], texts[30:]
    model = build_static_model(texts, dim=16, seed=3)
    # Scores that the first 4 numbers know best: the full size is neither the best nor the worst.
    prefix = {k: truncate(model.encode(texts), k) for k in (2, 4, 16)}
    cosine = {k: (emb[:30] * emb[30:]).sum(axis=1) for k, emb in prefix.items()}
    scores = (cosine[4] + 0.5 * cosine[16]).astype(float).tolist()
    for dims in ([16, 4, 2], [2, 4, 16], [4, 16, 2]):
        evaluator = answer(first, second, scores, list(dims))
        if not isinstance(evaluator, SequentialEvaluator):
            return "return a SequentialEvaluator that holds one evaluator for each size."
        got = evaluator(model)
        want = evaluator_over_dims(first, second, scores, dims)(model)
        by_k = {k: want[f"sts-{k}_spearman_cosine"] for k in dims}
        if len(evaluator.evaluators) != len(dims):
            return (
                f"an evaluator is missing: {len(evaluator.evaluators)} for the sizes {dims}; "
                "each size needs its own."
            )
        metrics: list[Any] = [one.primary_metric for one in evaluator.evaluators]
        values: list[Any] = [got.get(metric) for metric in metrics]
        if np.ptp(values) < 1e-9:
            return "all sizes have the same score: give each evaluator its truncate_dim=k."
        score = got["sequential_score"]
        if abs(score - by_k[16]) < 1e-9:
            continue
        listed = ", ".join(f"k = {k}: {by_k[k]:.3f}" for k in dims)
        shown = f"for dims = {dims} ({listed}) its main score is {score:.3f}"
        names = {
            "the last one, which is the default": values[-1],
            "the first one; that is right only while dims descend": values[0],
            "the best one; that may belong to any size": max(values),
            "the mean of all": float(np.mean(values)),
        }
        for name, value in names.items():
            if abs(score - value) < 1e-9:
                return f"{shown}: {name}. It should be the one of k = 16, the full size."
        return f"{shown}; it should be that of k = 16, the full size."
    return None


# ---------------------------------------------------------------------------- the cut in a cache


def unit_prefixes(emb, dims):
    """The unit prefixes of each row, (n, D) and sizes in any order -> {k: (n, k) array}."""
    return {k: truncate(emb, k) for k in dims}


def _cut_in_place(emb, dims):
    prefixes = {}
    for k in dims:
        emb = unit(emb[:, :k])
        prefixes[k] = emb
    return prefixes


@register(
    lesson=9,
    answer=unit_prefixes,
    expects="a function unit_prefixes(emb, dims) -> {k: (n, k) array}",
    why="Cut from the full vectors each time, and no order of the sizes can hurt.",
    hints=[
        "Run it with dims = [2, 4] and print the shapes.",
        "Which array does the second turn of the loop cut from?",
        "Do not overwrite emb. Cut every prefix from the full vectors: prefix = emb[:, :k].",
    ],
    wrong_answers=[
        Wrong(_cut_in_place, says="3 numbers where 8 were asked for"),
        Wrong(lambda emb, dims: {k: emb[:, :k] for k in dims}, says="length 1"),
        Wrong(lambda emb, dims: {k: unit(emb)[:, :k] for k in dims}, says="length 1"),
        Wrong(lambda emb, dims: unit_prefixes(emb, [max(dims)]), says="sizes"),
        Wrong(lambda emb, dims: list(unit_prefixes(emb, dims).values()), says="dictionary"),
        Wrong(lambda emb, dims: {k: unit(emb[:, -k:]) for k in dims}, says="first 8"),
    ],
    solution_text="mrl_course.search.truncate cuts, then normalises, and never changes its input:",
)
def prefixes_in_any_order(answer):
    """Check with sizes that ascend, descend and jump."""
    emb = np.random.default_rng(9).normal(size=(5, 12)).astype(np.float32)
    for dims in ([12, 8, 3], [3, 8, 12], [8, 3, 12]):
        got = answer(emb, list(dims))
        if not isinstance(got, dict):
            return "return a dictionary from each k to its (n, k) array."
        if set(got) != set(dims):
            return f"for dims = {dims} the sizes in the result are {sorted(got)}."
        for k in sorted(dims, key=lambda size: size != 8):
            prefix = np.asarray(got[k])
            if prefix.shape != (5, k):
                wide = prefix.shape[-1] if prefix.ndim else 0
                return f"for dims = {dims} you return {wide} numbers where {k} were asked for."
            if not np.allclose(np.linalg.norm(prefix, axis=1), 1, atol=1e-4):
                return f"for dims = {dims} the rows at k = {k} do not have length 1."
            if compare_arrays(prefix, truncate(emb, k), atol=1e-4):
                return f"for dims = {dims}: these are not the first {k} numbers of each row."
    return None


# ------------------------------------------------------------------------------- loading it small


def small_vectors(folder, texts, k):
    """Load a saved model for k numbers per text; embeddings of length 1, (n, k)."""
    model = SentenceTransformer(folder, truncate_dim=k, device="cpu")
    return model.encode(texts, normalize_embeddings=True)


def _loaded(folder, **options):
    return SentenceTransformer(folder, device="cpu", **options)


@register(
    lesson=9,
    answer=small_vectors,
    expects="a function small_vectors(folder, texts, k) -> (n, k) array of unit vectors",
    why="The library cuts after all modules, so only the flag of encode normalises the prefix.",
    hints=[
        "Print np.linalg.norm(vectors, axis=1) for k = D and for a smaller k.",
        "The model's own Normalize module runs before the cut. What runs after it?",
        "encode(texts, normalize_embeddings=True): the order inside is modules, cut, normalise.",
    ],
    wrong_answers=[
        Wrong(lambda folder, texts, k: _loaded(folder, truncate_dim=k).encode(texts), says="after"),
        Wrong(
            lambda folder, texts, k: _loaded(folder).encode(texts, normalize_embeddings=True)[
                :, :k
            ],
            says="after",
        ),
        Wrong(
            lambda folder, texts, k: _loaded(folder).encode(texts, normalize_embeddings=True),
            says="shape",
        ),
        Wrong(lambda folder, texts, k: unit(_loaded(folder).encode(texts)[:, -k:]), says="first 3"),
    ],
)
def small_unit_vectors(answer):
    """Check on a saved model that ends with a Normalize module, as many published ones do."""
    texts = _texts(6, seed=2)
    model = build_static_model(texts, dim=8, seed=4)
    model.append(Normalize())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, create_model_card=False)
        got, want = answer(folder, texts, 3), small_vectors(folder, texts, 3)
    if not isinstance(got, np.ndarray) or got.shape != want.shape:
        return compare_arrays(got, want) or "return a NumPy array."
    lengths = np.linalg.norm(got, axis=1)
    if not np.allclose(lengths, 1, atol=1e-4):
        return (
            f"the vectors have lengths from {lengths.min():.2f} to {lengths.max():.2f}: the model "
            "normalises, then you cut. Normalise after the cut."
        )
    if compare_arrays(got, want, atol=1e-4):
        return "the lengths are right, but these are not the first 3 numbers of the model."
    return None


# ------------------------------------------------------------------------------------------ depth


def shallow(model, layers):
    """A copy of a transformer that stops after the first ``layers`` layers."""
    model = copy.deepcopy(model)
    bert = model[0].auto_model
    bert.encoder.layer = bert.encoder.layer[:layers]
    bert.config.num_hidden_layers = layers
    return model


def _shallow_in_place(model, layers):
    bert = model[0].auto_model
    bert.encoder.layer = bert.encoder.layer[:layers]
    bert.config.num_hidden_layers = layers
    return model


def _last_layers(model, layers):
    model = copy.deepcopy(model)
    bert = model[0].auto_model
    bert.encoder.layer = bert.encoder.layer[-layers:]
    bert.config.num_hidden_layers = layers
    return model


def _config_forgotten(model, layers):
    model = copy.deepcopy(model)
    model[0].auto_model.encoder.layer = model[0].auto_model.encoder.layer[:layers]
    return model


def _config_only(model, layers):
    model = copy.deepcopy(model)
    model[0].auto_model.config.num_hidden_layers = layers
    return model


@register(
    lesson=9,
    answer=shallow,
    expects="a function shallow(model, layers) -> a SentenceTransformer with fewer layers",
    why="One training gave you a model of every depth; this is how you take one out.",
    hints=[
        "model[0].auto_model is the BERT; its layers are in .encoder.layer, which can be sliced.",
        "The caller still needs the deep model: copy.deepcopy it first.",
        "Set .config.num_hidden_layers too. A saved model is built from its config when it loads.",
    ],
    wrong_answers=[
        Wrong(_shallow_in_place, says="copy"),
        Wrong(_last_layers, says="first layers"),
        Wrong(_config_forgotten, says="config"),
        Wrong(_config_only, says="3 layers"),
        Wrong(lambda model, layers: copy.deepcopy(model), says="3 layers"),
        Wrong(lambda model, layers: model.encode(["a dog"]), says="return a SentenceTransformer"),
    ],
)
def fewer_layers(answer):
    """Check one and two of three layers: the embeddings, the config, and the caller's model."""
    texts = _texts(8, seed=5)
    tokenizer = train_tokenizer(texts, vocab_size=100)
    model = build_tiny_transformer(tokenizer, width=8, layers=3, heads=2, seed=1)
    with torch.no_grad():  # random layers change little; larger weights make them differ
        for name, weight in model.named_parameters():
            if "encoder.layer" in name and weight.ndim == 2:
                weight *= 20
    before = model.encode(texts)
    for layers in (2, 1):
        want = shallow(model, layers)
        got = answer(model, layers)
        if len(_bert(model).encoder.layer) != 3:
            return "the caller's model has lost its layers: work on a copy (copy.deepcopy)."
        if not isinstance(got, SentenceTransformer):
            return "return a SentenceTransformer."
        kept = len(_bert(got).encoder.layer)
        if kept != layers:
            return f"asked for {layers}, your model has {kept} layers."
        if compare_arrays(got.encode(texts), want.encode(texts), atol=1e-4):
            return f"the embeddings are not those of the first layers; asked for {layers} of 3."
        if _bert(got).config.num_hidden_layers != layers:
            return "the config still says 3 layers: saved and loaded, the model would be deep again"
    if compare_arrays(model.encode(texts), before):
        return "the caller's model has changed: work on a copy (copy.deepcopy)."
    return None


def _bert(model: Any) -> Any:
    return model[0].auto_model
