"""Plant one mistake in the package, by name, to see whether the lessons notice it.

A comparison of numbers that lets other processors pass could let mistakes pass, too. Each of these
must turn a lesson red: see ``tests/elsewhere.py --faults``. The last one is the smallest.
"""

import functools

FAULTS = {}
"""name -> (module, function in it, what replaces the function, the lesson that must notice)"""


def plant(module, function, lesson):
    """Add a mistake: the decorated function gets the real one, then its arguments."""

    def add(replacement):
        FAULTS[replacement.__name__.replace("_", "-")] = (module, function, replacement, lesson)
        return replacement

    return add


def changes(name):
    module, function, replacement, _ = FAULTS[name]

    def change(loaded):
        real = getattr(loaded, function)
        wrong = functools.wraps(real)(functools.partial(replacement, real))
        setattr(loaded, function, wrong)

    return {module: change}


@plant("mrl_course.training", "train_twins", "00")
def twins_swapped(real, *args, **options):
    twins = real(*args, **options)
    return type(twins)(twins.matryoshka, twins.regular, twins.history)


@plant("mrl_course.losses", "info_nce", "02")
def scale_of_the_cosine_higher(real, anchors, candidates, scale=20.0):
    return real(anchors, candidates, scale * 1.1)


@plant("mrl_course.training", "batches_without_duplicates", "03")
def texts_twice_in_a_batch(real, rows, batch_size, rng):
    order = rng.permutation(len(rows))
    return [order[i : i + batch_size] for i in range(0, len(rows) - batch_size + 1, batch_size)]


@plant("mrl_course.training", "nested_losses", "03")
def weight_of_the_smallest_prefix_higher(real, anchors, candidates, dims, weight, *args):
    if len(dims) > 1:
        weight = weight.clone()
        weight[min(range(len(dims)), key=dims.__getitem__)] *= 1.1
    return real(anchors, candidates, dims, weight, *args)


@plant("mrl_course.evaluation", "pca_rotation", "04")
def pca_not_centred(real, emb):
    import numpy as np

    emb = np.asarray(emb)
    return real(np.concatenate([emb, -emb]))  # their mean is zero


@plant("mrl_course.evaluation", "retrieval_curve", "00")
def found_among_eleven(real, queries, corpus, relevant, dims=None, top_k=10):
    return real(queries, corpus, relevant, dims, top_k + 1)


@plant("mrl_course.search", "truncate", "05")
def one_number_more(real, emb, dim):
    return real(emb, min(dim + 1, emb.shape[-1]))


@plant("mrl_course.search", "truncate", "05")
def normalised_before_the_cut_only(real, emb, dim):
    return real(emb, emb.shape[-1])[..., :dim]


@plant("mrl_course.search", "funnel_search", "06")
def shortlist_shorter(real, queries, corpus, steps, top_k):
    return real(queries, corpus, [(k, max(top_k, keep * 4 // 5)) for k, keep in steps], top_k)


@plant("mrl_course.costs", "search_cost", "06")
def rerank_costs_nothing(real, n, full_dim, dim=None, shortlist_size=0, **bits):
    return real(n, full_dim, dim, min(shortlist_size, 1), **bits)


@plant("mrl_course.neighbours", "nearest_rows", "08")
def a_row_is_its_own_neighbour(real, emb, top_k=10):
    import numpy as np

    return np.column_stack([np.arange(len(emb)), real(emb, top_k)[:, :-1]])


@plant("mrl_course.retrofit", "fit_head", "10")
def head_fitted_too_briefly(real, embeddings, dims=None, **options):
    return real(embeddings, dims, **{**options, "steps": 100})


@plant("mrl_course.classification", "tune_thresholds", "11")
def cascade_stops_too_early(real, confidence, right, slack=0.0):
    return real(confidence, right, slack + 0.01)


@plant("mrl_course.training", "batches_without_duplicates", "00")
def data_in_another_order(real, rows, batch_size, rng):
    rng.random()
    return real(rows, batch_size, rng)
