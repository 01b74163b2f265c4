"""The loss: our two versions agree with each other and with Sentence Transformers."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from mrl_course.losses import (
    info_nce,
    matryoshka_info_nce,
    nested_distillation,
    nested_info_nce,
    nested_losses,
    similarity_softmax,
)

VERSIONS = [matryoshka_info_nce, nested_info_nce]


class FixedEmbeddings(torch.nn.Module):
    """Stands where the library wants a model: its "features" are the embeddings."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, features):
        return {"sentence_embedding": features["emb"]}

    def get_embedding_dimension(self):
        return self.dim


@st.composite
def problems(draw):
    """Embeddings of anchors, positives and perhaps hard negatives, with dims and weights."""
    batch = draw(st.integers(1, 7))
    dim = draw(st.integers(1, 12))
    columns = draw(st.sampled_from([2, 3, 4]))  # 0, 1 or 2 hard negatives for each anchor
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    emb = torch.randn(columns, batch, dim, generator=generator, dtype=torch.float64)
    emb *= draw(st.sampled_from([0.01, 1.0, 50.0]))
    dims = draw(st.lists(st.integers(1, dim), min_size=1, max_size=5, unique=True))
    weights = draw(st.none() | st.lists(st.floats(0, 3), min_size=len(dims), max_size=len(dims)))
    return emb, dims, weights, draw(st.sampled_from([1.0, 20.0, 200.0]))


def value_and_gradients(loss, emb):
    emb = [column.clone().requires_grad_() for column in emb]
    value = loss(emb)
    return value, torch.autograd.grad(value, emb)


def ours(version, *args, **kwargs):
    def loss(emb):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a missing full size is wanted here
            return version(emb[0], torch.cat(list(emb[1:])), *args, **kwargs)

    return loss


def library(emb, scale, dims=None, weights=None):
    model = FixedEmbeddings(emb.shape[2])
    loss = MultipleNegativesRankingLoss(model, scale=scale)
    if dims is not None:
        loss = MatryoshkaLoss(model, loss, dims, weights)
    return lambda columns: loss([{"emb": column} for column in columns], None)


def assert_equal(first, second, rtol=1e-9, atol=1e-9):
    for a, b in zip([first[0], *first[1]], [second[0], *second[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@settings(deadline=None, max_examples=60)
@given(problems())
def test_info_nce_is_the_librarys_loss(problem):
    emb, _, _, scale = problem
    assert_equal(
        value_and_gradients(ours(info_nce, scale=scale), emb),
        value_and_gradients(library(emb, scale), emb),
    )


@pytest.mark.parametrize("version", VERSIONS)
@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_matryoshka_is_the_librarys_loss(version, problem):
    emb, dims, weights, scale = problem
    assert_equal(
        value_and_gradients(ours(version, dims, weights, scale), emb),
        value_and_gradients(library(emb, scale, dims, weights), emb),
    )


@settings(deadline=None, max_examples=60)
@given(problems())
def test_each_prefix_has_its_own_gradient(problem):
    """Not only the sum: the per-dim losses of the one-pass version are differentiable alone."""
    emb, dims, _, scale = problem

    def alone(version, i):
        per_dim = ours(version, dims, None, scale, return_per_dim=True)
        return value_and_gradients(lambda columns: per_dim(columns)[1][i], emb)

    for i in range(len(dims)):
        assert_equal(alone(matryoshka_info_nce, i), alone(nested_info_nce, i))


@pytest.mark.parametrize("version", VERSIONS)
@settings(deadline=None, max_examples=40)
@given(problem=problems(), seed=st.integers(0, 99))
def test_order_of_dims_never_matters(version, problem, seed):
    emb, dims, weights, scale = problem
    order = torch.randperm(len(dims), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [dims[i] for i in order]
    weights = weights or [1.0] * len(dims)
    total, losses = ours(version, dims, weights, scale, return_per_dim=True)(emb)
    total_2, losses_2 = ours(
        version, shuffled, [weights[i] for i in order], scale, return_per_dim=True
    )(emb)
    torch.testing.assert_close(total, total_2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses[order], losses_2, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(problems(), st.integers(0, 99))
def test_the_length_of_a_row_does_not_matter(problem, seed):
    """Cosine looks at directions; and every prefix of a scaled row has the same direction."""
    emb, dims, weights, scale = problem
    factors = torch.rand(*emb.shape[:2], 1, generator=torch.Generator().manual_seed(seed)) + 0.1
    for version in VERSIONS:
        loss = ours(version, dims, weights, scale)
        torch.testing.assert_close(loss(emb), loss(emb * factors), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_a_prefix_loss_sees_only_its_unit_prefix(problem):
    emb, dims, _, scale = problem
    k = dims[0]
    prefix = torch.nn.functional.normalize(emb[..., :k], dim=-1)
    for version in VERSIONS:
        loss, gradients = value_and_gradients(ours(version, [k], None, scale), emb)
        torch.testing.assert_close(loss, ours(info_nce, scale=scale)(prefix), rtol=1e-9, atol=1e-9)
        for gradient in gradients:
            assert (gradient[:, k:] == 0).all()


def test_numbers_worked_out_by_hand():
    anchors = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # cosines 1 and 0
    expected = torch.log(1 + torch.exp(torch.tensor(-2.0)))
    torch.testing.assert_close(info_nce(anchors, candidates, scale=2.0), expected)
    # At k = 1 the second candidate is the zero vector: cosine 0 again.
    for version in VERSIONS:
        total = version(anchors, candidates, [1, 2], [0.5, 2.0], scale=2.0)
        torch.testing.assert_close(total, 2.5 * expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_zero_rows_give_finite_values_equal_to_the_naive_loop(version):
    emb = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    emb[1, 2] = 0
    emb[0, 1, :3] = 0  # only a zero prefix
    value, gradients = value_and_gradients(ours(version, [2, 6]), emb)
    assert torch.isfinite(value) and all(torch.isfinite(g).all() for g in gradients)
    assert_equal((value, gradients), value_and_gradients(ours(matryoshka_info_nce, [2, 6]), emb))


def test_float32_stays_close_at_full_size():
    generator = torch.Generator().manual_seed(0)
    emb = torch.randn(3, 64, 768, generator=generator)
    dims = (8, 16, 32, 64, 128, 256, 512, 768)
    naive, nested = (value_and_gradients(ours(v, dims), emb) for v in VERSIONS)
    torch.testing.assert_close(naive[0], nested[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(naive[1], nested[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 49.0, 51.0, 1000.0])
def test_no_scale_overflows_in_float32(scale):
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(6, 4, generator=generator)
    emb = torch.stack([anchors, -anchors])  # each anchor's own positive has cosine -1
    emb[1, :2] = anchors[:2] * 2  # or 1
    naive, nested = (value_and_gradients(ours(v, [1, 2, 4], scale=scale), emb) for v in VERSIONS)
    assert torch.isfinite(nested[0]) and all(torch.isfinite(g).all() for g in nested[1])
    assert_equal(nested, naive, rtol=1e-4, atol=1e-4 * scale)


GOOD = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("dims", "error", "words"),
    [
        ([], ValueError, "empty"),
        ([0, 4], ValueError, "holds 0"),
        ([-2, 4], ValueError, "holds -2"),
        ([5], ValueError, "holds 5"),
        ([2, 2, 4], ValueError, "2 more than once"),
        ([2.0, 4], TypeError, "2.0"),
        ([True, 4], TypeError, "True"),
        ("24", TypeError, "'24'"),
        (4, TypeError, "4"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_bad_dims_are_named(version, dims, error, words):
    with pytest.raises(error, match=words):
        version(GOOD, GOOD, dims)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_full_size_is_a_warning(version):
    with pytest.warns(UserWarning, match="full size 4 is not in dims"):
        version(GOOD, GOOD, [2])


@pytest.mark.parametrize(
    ("anchors", "candidates", "kwargs", "error", "words"),
    [
        (GOOD, torch.ones(1, 4), {}, ValueError, "at least as many candidates"),
        (GOOD, torch.ones(2, 3), {}, ValueError, "4 numbers each and candidates 3"),
        (GOOD[0], GOOD, {}, ValueError, "shape"),
        (torch.ones(0, 4), GOOD, {}, ValueError, "shape"),
        (GOOD.int(), GOOD, {}, TypeError, "floats"),
        ([[1.0]], GOOD, {}, TypeError, "list"),
        (torch.tensor([[1.0, 2], [float("nan"), 1]]), torch.ones(2, 2), {}, ValueError, "row 1"),
        (GOOD, GOOD, {"scale": 0}, ValueError, "scale"),
    ],
)
def test_bad_embeddings_are_named(anchors, candidates, kwargs, error, words):
    with pytest.raises(error, match=words):
        info_nce(anchors, candidates, **kwargs)
    with pytest.raises(error, match=words):
        nested_info_nce(anchors, candidates, [1], **kwargs)


@pytest.mark.parametrize(
    ("weights", "words"), [([1], "2 weights, got 1"), ([1, -1], "-1"), ([1, float("nan")], "nan")]
)
def test_bad_weights_are_named(weights, words):
    with pytest.raises(ValueError, match=words):
        nested_info_nce(GOOD, GOOD, [2, 4], weights)


# --------------------------------------------------------------------------- distillation


@st.composite
def lessons_of_a_teacher(draw):
    """Embeddings, the probabilities of a teacher, and maybe pairs that take no part."""
    batch, others, dim = draw(st.integers(1, 6)), draw(st.integers(2, 7)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    emb = torch.randn(batch + others, dim, generator=generator, dtype=torch.float64)
    left_out = None
    if draw(st.booleans()):
        left_out = torch.rand(batch, others, generator=generator) < 0.4
        left_out[:, 0] = False  # somebody is left
    logits = 3 * torch.randn(batch, others, generator=generator, dtype=torch.float64)
    targets = logits if left_out is None else logits.masked_fill(left_out, -torch.inf)
    dims = draw(st.lists(st.integers(1, dim), min_size=1, max_size=4, unique=True))
    return emb[:batch], emb[batch:], targets.softmax(1), dims, left_out


@settings(deadline=None, max_examples=80)
@given(lessons_of_a_teacher(), st.sampled_from([1.0, 20.0]))
def test_distillation_is_the_divergence_from_the_targets(problem, scale):
    """Value and gradient equal those of a loop over torch's own kl_div."""
    anchors, candidates, targets, dims, left_out = problem
    weights = [1.0 + i for i in range(len(dims))]

    def loop(anchors, candidates):
        total = 0
        for k, weight in zip(dims, weights, strict=True):
            logits = scale * torch.nn.functional.cosine_similarity(
                anchors[:, None, :k], candidates[None, :, :k], dim=2, eps=1e-12
            )
            if left_out is not None:
                logits = logits.masked_fill(left_out, -1e4)
            divergence = torch.nn.functional.kl_div(
                logits.log_softmax(1), targets, reduction="batchmean"
            )
            total = total + weight * divergence
        return total

    def one_pass(anchors, candidates):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nested_distillation(
                anchors, candidates, targets, dims, weights, scale, left_out=left_out
            )

    results = []
    for loss in (loop, one_pass):
        pair = [emb.clone().requires_grad_() for emb in (anchors, candidates)]
        value = loss(*pair)
        results.append((value, torch.autograd.grad(value, pair)))
    torch.testing.assert_close(*(value for value, _ in results), atol=1e-9, rtol=1e-9)
    for mine, wanted in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-8, rtol=1e-7)


def test_the_full_vector_has_nothing_to_learn_from_itself():
    emb = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    itself = torch.eye(9, dtype=torch.bool)
    teacher = similarity_softmax(emb, emb, left_out=itself)
    assert (teacher.diagonal() == 0).all() and not teacher.requires_grad
    torch.testing.assert_close(teacher.sum(1), torch.ones(9))
    total, losses = nested_distillation(
        emb, emb, teacher, [3, 6], left_out=itself, return_per_dim=True
    )
    assert losses[0] > 0.1
    assert losses[1].abs() < 1e-5
    assert total == losses.sum()


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (torch.full((2, 2), 0.5), r"targets must have shape \(2, 3\)"),
        (torch.full((2, 3), 0.5), "sum to 1"),
        (torch.tensor([[1.5, -0.5, 0.0], [1.0, 0.0, 0.0]]), "probabilities"),
    ],
)
def test_targets_that_are_no_probabilities_are_refused(targets, match):
    with pytest.raises(ValueError, match=match):
        nested_distillation(torch.ones(2, 4), torch.ones(3, 4), targets, [4])


# ------------------------------------------------------------- lengths, zeros, half precision

LOSSES = {
    "info_nce": lambda a, c: info_nce(a, c),
    "matryoshka": lambda a, c: matryoshka_info_nce(a, c, [2, 5, 8]),
    "nested": lambda a, c: nested_info_nce(a, c, [2, 5, 8]),
    "distillation": lambda a, c: nested_distillation(
        a, c, similarity_softmax(a.detach(), c.detach()), [2, 5, 8]
    ),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 8, generator=generator), torch.randn(6, 8, generator=generator)


@each_loss
@pytest.mark.parametrize("factor", [1e-30, 1e-22, 1e-15, 1e15, 1e30])
def test_a_loss_does_not_depend_on_lengths(loss, factor):
    anchors, candidates = pair()
    want = loss(anchors, candidates)
    torch.testing.assert_close(loss(factor * anchors, candidates), want, rtol=1e-4, atol=1e-5)
    mixed = candidates * torch.tensor([1, factor, 1, factor, 1, 1])[:, None]
    torch.testing.assert_close(loss(anchors, mixed), want, rtol=1e-4, atol=1e-5)


@each_loss
def test_a_zero_row_has_gradient_zero_and_is_counted(loss):
    anchors, candidates = pair()
    anchors[1], candidates[3] = 0, 0
    anchors.requires_grad_(), candidates.requires_grad_()
    with pytest.warns(UserWarning, match="1 of 4 rows of anchors hold only zeros, first row 1"):
        loss(anchors, candidates).backward()
    for emb, row in ((anchors, 1), (candidates, 3)):
        assert torch.isfinite(emb.grad).all() and not emb.grad[row].any()
        assert (emb.grad.abs().sum(1) > 0).sum() == len(emb) - 1


@each_loss
def test_a_zero_prefix_has_no_direction_at_that_size_only(loss):
    anchors, candidates = pair()
    anchors[1, :2] = 0
    anchors.requires_grad_()
    value = loss(anchors, candidates)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(anchors.grad).all()
    assert anchors.grad[1].any() or loss is LOSSES["info_nce"]


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(loss, dtype):
    anchors, candidates = (x.to(dtype) for x in pair())
    want = loss(anchors.float(), candidates.float())
    got = loss(anchors, candidates)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    big = torch.full_like(anchors, torch.finfo(dtype).max) * anchors.sign()
    assert torch.isfinite(loss(big, candidates))


def test_both_versions_agree_on_rows_without_a_direction():
    anchors, candidates = pair()
    anchors[1], candidates[3], anchors[2, :2] = 0, 0, 0
    emb = [anchors, candidates]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [
            value_and_gradients(lambda e, v=version: v(*e, [2, 5, 8]), emb) for version in VERSIONS
        ]
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


@settings(deadline=None, max_examples=30)
@given(problems())
def test_scales_of_prefixes_can_be_learnt(problem):
    emb, dims, _, scale = problem
    given = torch.linspace(0.5, 1.5, len(dims), dtype=torch.float64) * scale
    anchors, candidates = emb[0], torch.cat(list(emb[1:]))

    def naive(scales):
        return sum(
            info_nce_at(anchors, candidates, k, s) for k, s in zip(dims, scales, strict=True)
        )

    def info_nce_at(a, c, k, s):
        cos = torch.nn.functional.cosine_similarity(a[:, None, :k], c[None, :, :k], dim=2)
        return torch.nn.functional.cross_entropy(s * cos, torch.arange(len(a)))

    found = []
    for loss in (
        naive,
        lambda s: nested_losses(anchors, candidates, dims, torch.ones(len(dims)), s)[0],
    ):
        scales = given.clone().requires_grad_()
        value = loss(scales)
        found.append((value, torch.autograd.grad(value, scales)))
    assert_equal(*found, rtol=1e-6, atol=1e-6)
