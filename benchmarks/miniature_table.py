"""Measure the miniature: TF-IDF, an untrained model, and the twins at all sizes.

    python benchmarks/miniature_table.py [--seeds 0,1,2] [--source mini]

Prints the table of ``data/miniature/README.md`` as Markdown, means over the seeds.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from mrl_course import DEFAULT_DIMS
from mrl_course.data import load_allnli, load_retrieval, load_stsb
from mrl_course.evaluation import retrieval_curve, similarity_curve
from mrl_course.models import build_static_model
from mrl_course.training import read_triplets, train_twins


def curves(encode, stsb, retrieval, dims):
    """STS and recall@10 of an encoder (texts -> array), two curves."""
    return (
        similarity_curve(encode(stsb["sentence1"]), encode(stsb["sentence2"]), stsb["score"], dims),
        retrieval_curve(
            encode(retrieval.queries), encode(retrieval.corpus), retrieval.relevant, dims
        ),
    )


def tfidf(texts, stsb, retrieval):
    """Both scores of TF-IDF cosines, computed on sparse vectors."""
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(texts)
    first, second, queries, corpus = (
        vectorizer.transform(list(column))
        for column in (
            stsb["sentence1"], stsb["sentence2"], retrieval.queries, retrieval.corpus
        )
    )  # fmt: skip
    cosine = np.asarray(first.multiply(second).sum(axis=1)).ravel()
    similarity = pd.Series(cosine).corr(pd.Series(list(stsb["score"])), method="spearman")
    scores = (queries @ corpus.T).toarray()
    right = scores[np.arange(len(scores)), retrieval.relevant][:, None]
    before = np.arange(scores.shape[1]) < np.array(retrieval.relevant)[:, None]
    rank = ((scores > right + 1e-9) | (before & (scores >= right - 1e-9))).sum(axis=1)
    return similarity, float(np.mean(rank < 10))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--source", default="mini")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    triplets = load_allnli("train", source=args.source)
    stsb, retrieval = load_stsb("test", source=args.source), load_retrieval(source=args.source)
    texts = list(dict.fromkeys(text for column in read_triplets(triplets) for text in column))
    dims, rows = list(DEFAULT_DIMS), []
    for seed in seeds:
        models = {"untrained": build_static_model(texts, seed=seed)}
        models |= dict(train_twins(triplets, seed=seed))
        for name, model in models.items():
            pair = curves(
                lambda column, m=model: m.encode(list(column), batch_size=1024),
                stsb,
                retrieval,
                dims,
            )
            rows += [
                (task, name, k, c[k])
                for task, c in zip(("STS", "R@10"), pair, strict=True)
                for k in dims
            ]
    table = pd.DataFrame(rows, columns=["task", "model", "k", "score"])
    table = table.pivot_table(index=["task", "model"], columns="k", values="score", sort=False)
    print(f"| {len(seeds)} seeds | {' | '.join(map(str, dims))} |")
    print("|---|" + "---|" * len(dims))
    for (task, model), scores in table.sort_index(
        level=0, ascending=False, sort_remaining=False
    ).iterrows():
        print(f"| {task} {model} | " + " | ".join(f"{score:.3f}" for score in scores) + " |")
    print("\nTF-IDF (no sizes): STS {:.3f}, R@10 {:.3f}".format(*tfidf(texts, stsb, retrieval)))


if __name__ == "__main__":
    main()
