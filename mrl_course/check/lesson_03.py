"""Exercises of lesson 03: mean of tokens, batches without repeats, a loss that can train."""

from typing import cast

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from mrl_course.check.engine import Wrong, compare_arrays, register
from mrl_course.losses import info_nce
from mrl_course.models import build_static_model
from mrl_course.training import batches_without_duplicates


def mean_of_tokens(table, ids, lengths):
    """Embeddings of padded texts: (V, D) table, (B, L) ids, (B,) lengths -> (B, D)."""
    is_token = torch.arange(ids.shape[1]) < lengths[:, None]  # (B, L), False where padding stands
    total = (table[ids] * is_token[:, :, None]).sum(dim=1)  # (B, D)
    return total / lengths.clamp(min=1)[:, None]  # a text without tokens stays zero


@register(
    lesson=3,
    answer=mean_of_tokens,
    expects="a function mean_of_tokens(table, ids, lengths) -> (B, D)",
    why="This is mean pooling; transformers need the same mask over their padding.",
    hints=[
        "Make a mask of shape (B, L) that is True at the first lengths[i] places of row i.",
        "torch.arange(L) < lengths[:, None] is that mask. Multiply the (B, L, D) vectors by it.",
        "Divide the sum by the number of real tokens, but never by 0: lengths.clamp(min=1).",
    ],
    wrong_answers=[
        Wrong(lambda table, ids, lengths: table[ids].mean(dim=1), says="padding counts"),
        Wrong(
            lambda table, ids, lengths: mean_of_tokens(table, ids, lengths) * lengths[:, None],
            says="the sum",
        ),
        Wrong(
            lambda table, ids, lengths: (
                mean_of_tokens(table, ids, lengths) * (lengths / ids.shape[1])[:, None]
            ),
            says="divided by L",
        ),
        Wrong(
            lambda table, ids, lengths: (
                (table[ids] * (ids != 0)[:, :, None]).sum(dim=1)
                / (ids != 0).sum(dim=1).clamp(min=1)[:, None]
            ),
            says="token 0 is a real token",
        ),
        Wrong(
            lambda table, ids, lengths: (
                mean_of_tokens(table, ids, lengths) * (lengths / lengths)[:, None]
            ),
            says="without tokens",
        ),
    ],
)
def mean_without_padding(answer):
    """Check on texts of several lengths, one that uses token 0, and one without tokens."""
    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[5, 7, 9], [4, 11, 0], [6, 0, 0], [8, 0, 3], [0, 0, 0]])
    lengths = torch.tensor([3, 2, 1, 3, 0])
    want = mean_of_tokens(table, ids, lengths)
    got = answer(table, ids, lengths)
    if not isinstance(got, torch.Tensor) or got.shape != want.shape:
        return compare_arrays(got, want) or "return a tensor."
    if not compare_arrays(got, want):
        return None
    if not compare_arrays(got[:4], want[:4]):
        return "a text without tokens should become zeros; 0 / 0 is NaN."
    if not compare_arrays(got, table[ids].mean(dim=1)):
        return "the padding counts as tokens: row 2 has one token, and you average three vectors."
    if not compare_arrays(got, want * lengths[:, None]):
        return "that is the sum of the tokens' vectors; divide it by their number."
    if not compare_arrays(got, want * (lengths / ids.shape[1])[:, None]):
        return "the sum is divided by L, the padded length; divide it by the text's own length."
    if not compare_arrays(got[:3], want[:3]):
        return "row 3 is wrong: it holds a 0 in the middle, and token 0 is a real token there."
    return compare_arrays(got[:4], want[:4])


def _plain_split(rows, batch_size, rng):
    order = rng.permutation(len(rows))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _anchors_only(rows, batch_size, rng):
    return batches_without_duplicates(rows[:, :1], batch_size, rng)


def _drops_clashes(rows, batch_size, rng):
    batches, seen = [[]], set()
    for row in rng.permutation(len(rows)):
        if len(batches[-1]) == batch_size:
            batches.append([])
            seen = set()
        if seen.isdisjoint(rows[row].tolist()):
            batches[-1].append(row)
            seen |= set(rows[row].tolist())
    return [batch for batch in batches if len(batch) == batch_size]


def _file_order(rows, batch_size, rng):
    return batches_without_duplicates(rows, batch_size, np.random.default_rng(0))


def _same_rows_again(rows, batch_size, rng):
    return batches_without_duplicates(rows, batch_size, rng)[:1] * 3


@register(
    lesson=3,
    answer=batches_without_duplicates,
    expects="a function (rows, batch_size, rng) -> list of arrays of row numbers",
    why="No candidate is now the positive of one anchor and, under the same text, a negative.",
    hints=[
        "Go through rng.permutation(len(rows)). Keep a set of the texts in the batch so far.",
        "A row that shares a text with that set goes to a list of waiting rows. The next batch "
        "asks the waiting rows first.",
        "seen.isdisjoint(rows[row].tolist()) looks at all columns of a row at once.",
    ],
    wrong_answers=[
        Wrong(_plain_split, says="stands twice"),
        Wrong(_anchors_only, says="all columns"),
        Wrong(_drops_clashes, says="wait"),
        Wrong(_file_order, says="order"),
        Wrong(_same_rows_again, says="more than one batch"),
    ],
)
def no_text_twice(answer):
    """Check that no text and no row is used twice, that clashing rows wait, and the order."""
    # Twelve rows over four anchors: three full batches of 4 if those that clash may wait.
    waits = np.array([[i % 4, 10 + i, 30 + i] for i in range(12)])
    # The negative of each row is the positive of the next one.
    across = np.array([[i, 100 + i, 100 + (i + 1) % 40] for i in range(40)])
    first = []
    for rows in (waits, across):
        for seed in (0, 1, 2):
            batches = answer(rows, 4, np.random.default_rng(seed))
            if not isinstance(batches, list) or not batches:
                return "return a list of batches, each an array of row numbers."
            batches = [np.asarray(batch).tolist() for batch in batches]
            problem = _problem_with(batches, rows)
            if problem:
                return problem
            first.append(batches[0])
            if rows is waits and sum(map(len, batches)) < 12:
                return (
                    f"only {sum(map(len, batches))} of 12 rows are used, but all fit into three "
                    "batches of 4: let a row that clashes wait for the next batch."
                )
    if sum(map(len, batches)) < 20:
        return f"only {sum(map(len, batches))} of 40 rows are used."
    if first[3] == first[4] == first[5]:
        return "three different generators gave the same order: draw the order from rng."
    return None


def _problem_with(batches, rows):
    flat = [row for batch in batches for row in batch]
    if not all(isinstance(row, int) and 0 <= row < len(rows) for row in flat):
        return "a batch must hold row numbers from 0 to len(rows) - 1."
    for batch in batches:
        if len(batch) != 4 and len(rows) == 12:
            return f"with batch_size 4 there is a batch of {len(batch)} rows."
        texts = rows[batch].ravel().tolist()
        twice = [text for text in texts if texts.count(text) > 1]
        if twice:
            return (
                f"text {twice[0]} stands twice in the batch of rows {batch}: look at all columns, "
                "a positive may be another row's negative."
            )
    if len(set(flat)) < len(flat):
        return "a row is in more than one batch of the same epoch."
    return None


def loss_of_texts(model, anchors, positives):
    """The InfoNCE loss of two lists of texts, with a gradient that reaches the model."""
    features = model.preprocess([*anchors, *positives])
    emb = model(features)["sentence_embedding"]  # (2 * B, D), not from model.encode
    return info_nce(emb[: len(anchors)], emb[len(anchors) :])


def _encoded(model, anchors, positives):
    return info_nce(
        torch.tensor(model.encode(anchors, show_progress_bar=False)),
        torch.tensor(model.encode(positives, show_progress_bar=False)),
    )


def _encoded_then_marked(model, anchors, positives):
    emb = torch.tensor(model.encode([*anchors, *positives], show_progress_bar=False))
    emb.requires_grad_()
    return info_nce(emb[: len(anchors)], emb[len(anchors) :])


def _half_detached(model, anchors, positives):
    emb = model(model.preprocess([*anchors, *positives]))["sentence_embedding"]
    return info_nce(emb[: len(anchors)], emb[len(anchors) :].detach())


@register(
    lesson=3,
    answer=loss_of_texts,
    expects="a function loss_of_texts(model, anchors, positives) -> a loss with a gradient",
    why="encode is for using a model; model(features) is for training it.",
    hints=[
        "model.encode runs without gradients and returns plain numbers. Training needs the other "
        "way to call a model.",
        'model(features)["sentence_embedding"] keeps the gradient.',
        "model.preprocess(list_of_texts) makes the features. Give it all texts at once and split "
        "the embeddings into anchors and positives.",
    ],
    wrong_answers=[
        Wrong(_encoded, says="has no gradient"),
        Wrong(_encoded_then_marked, says="never reaches the table"),
        Wrong(_half_detached, says="the gradient of the table"),
        Wrong(lambda model, a, p: loss_of_texts(model, p, a), says="swapped"),
        Wrong(lambda model, a, p: loss_of_texts(model, a, p).item(), says="a tensor"),
    ],
)
def a_loss_that_trains(answer):
    """Check the value of the loss, and that its gradient reaches the model's table."""
    anchors = ["a cat sleeps on a mat", "two boys play", "a red car waits"]
    positives = ["a cat sleeps", "two boys play outside on a mat", "a car waits near two boys"]
    model = build_static_model([*anchors, *positives], dim=8, seed=1)
    table = cast(StaticEmbedding, model[0]).embedding.weight
    loss = answer(model, anchors, positives)
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        return "return the loss as a tensor with one number, from which backward() can start."
    if not loss.requires_grad:
        return "the loss has no gradient: model.encode gives plain numbers, so nothing trains."
    table.grad = None
    loss.backward()
    if table.grad is None:
        return (
            "there is a gradient, but it never reaches the table of the model: it ends at a copy "
            "of the embeddings, so the optimiser changes nothing."
        )
    got, table.grad = table.grad, None
    want = loss_of_texts(model, anchors, positives)
    if compare_arrays(loss.detach(), want.detach()):
        if not compare_arrays(loss.detach(), loss_of_texts(model, positives, anchors).detach()):
            return "anchors and positives are swapped: each anchor must find its positive."
        return f"the loss is {loss.item():.4f}; info_nce of these texts is {want.item():.4f}."
    want.backward()
    if compare_arrays(got, table.grad, atol=1e-5):
        return "the loss is right, but the gradient of the table is not: is a part detached?"
    return None
