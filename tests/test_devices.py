"""No tensor is made without its input's device.

The default device is torch's "meta" here, which refuses to mix with the CPU as a GPU does: a tensor
that a function makes without naming its input's device makes the call fail on any machine.
"""

import numpy as np
import pytest
import torch

from mrl_course import evaluation, losses, models, search, training

TRIPLETS = [(f"a{i} b", f"c{i} d", f"e f{i}") for i in range(40)]
TEXTS = [text for row in TRIPLETS for text in row]
QUERIES = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
CORPUS = torch.randn(300, 16, generator=torch.Generator().manual_seed(1))


def pair():
    return QUERIES[:8].clone().requires_grad_(), CORPUS[:16].clone().requires_grad_()


def trained():
    model = models.build_static_model(TEXTS, 16, 200)
    settings = {"epochs": 1, "batch_size": 16, "distill": 0.5, "max_grad_norm": 1.0}
    training.train(model, TRIPLETS, [4, 16], progress=False, **settings)
    return model[0].embedding.weight


TEACHER = losses.similarity_softmax(*pair())
CALLS = {
    "info_nce": lambda: losses.info_nce(*pair()),
    "matryoshka_info_nce": lambda: losses.matryoshka_info_nce(*pair(), [4, 16]),
    "nested_info_nce": lambda: losses.nested_info_nce(*pair(), [4, 16]),
    "similarity_softmax": lambda: losses.similarity_softmax(*pair()),
    "nested_distillation": lambda: losses.nested_distillation(*pair(), TEACHER, [4, 16]),
    "train": trained,
    "build_tiny_transformer": lambda: next(
        models.build_tiny_transformer(models.train_tokenizer(TEXTS), 16, 1, 2).parameters()
    ),
    "similarity_curve": lambda: evaluation.similarity_curve(QUERIES, QUERIES + 1, np.arange(50)),
    "retrieval_curve": lambda: evaluation.retrieval_curve(QUERIES, CORPUS, list(range(50))),
    "exact_search": lambda: search.exact_search(QUERIES, CORPUS, 5),
    "shortlist_rerank": lambda: search.shortlist_rerank(QUERIES, CORPUS, 4, 20, 5),
    "truncate": lambda: search.truncate(QUERIES.clone().requires_grad_(), 4),
}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_on_the_cpu_stay_there_whatever_the_default_device_is(name):
    wanted = CALLS[name]()
    torch.set_default_device("meta")
    try:
        found = CALLS[name]()
        if isinstance(found, torch.Tensor) and found.requires_grad and not found.is_leaf:
            found.sum().backward()
    finally:
        torch.set_default_device("cpu")
    if isinstance(found, torch.Tensor):
        assert found.device.type == "cpu"
        found, wanted = found.detach(), wanted.detach()
    parts = (found, wanted) if isinstance(found, tuple) else ((found,), (wanted,))
    for one, other in zip(*parts, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
