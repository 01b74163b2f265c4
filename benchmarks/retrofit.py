"""Rotate and distil, and its rivals, on frozen vectors of a pretrained model: which recipe?

    MRL_COURSE_DATA=FOLDER python benchmarks/retrofit.py [--seeds 0,1,2] [--out FILE]

Three sets to fit on: sentences of 12,000 AllNLI triplets, 3,000 pairs of docstrings (summary,
description), and the 1,400 abstracts of Cranfield, where FOLDER holds them. Each head is judged on
all tasks, those of its own kind of text and the others. Vectors and finished fits are kept under
``build/retrofit``; started again, the script goes on where it stopped. About an hour of one core.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from common import Tasks, cached, write_record
from judging import read_cranfield

from mrl_course.arguments import default_dims
from mrl_course.data import load_allnli, load_docstrings
from mrl_course.evaluation import (
    pca_rotation,
    random_dims_curve,
    retrieval_curve,
    similarity_curve,
    tempered_pca,
)
from mrl_course.files import results_folder, write_whole
from mrl_course.models import load_pretrained
from mrl_course.ranking import unit_rows
from mrl_course.retrofit import fit as fitting
from mrl_course.retrofit import fit_head

COLUMNS = ["fitted_on", "method", "seed", "task", "k", "score"]
CACHE = Path("build/retrofit")
DIMS = default_dims(384)

# Without labels: the recipe, and one change at a time. ``start`` is no option of fit_head: here the
# axes that it finds are replaced.
RECIPES = {
    "rotate and distil": {},
    "free linear map": {"rotation": False},
    "all directions turned": {"turned": 384},
    "128 directions turned": {"turned": 128},
    "start: random": {"start": "random", "turned": 384},
    "perplexity 6": {"perplexity": 6.0},
    "perplexity 25": {"perplexity": 25.0},
    "100 steps": {"steps": 100},
    "600 steps": {"steps": 600},
    "all sizes weigh the same": {"weights": [1] * 7},
}
# With triplets of AllNLI.
LABELLED = {
    "rotate and distil, triplets": {},
    "rotation, labels": {"label_share": 1.0},
    "head, half labels": {"label_share": 0.5, "rotation": False},
    "head, labels": {"label_share": 1.0, "rotation": False},
    "head, labels, full size only": {"label_share": 1.0, "rotation": False, "dims": [384]},
}


class Vectors:
    """Frozen vectors of everything that is fitted on or judged."""

    def __init__(self, folder: Path):
        """Encode what is not in the cache yet."""
        self.model = None
        tasks = Tasks()
        self.scores, self.premises = tasks.stsb["score"], tasks.retrieval.relevant
        self.sts = [self.encode(f"sts{i}", tasks.stsb[f"sentence{i}"]) for i in (1, 2)]
        self.queries = self.encode("queries", tasks.retrieval.queries)
        self.corpus = self.encode("corpus", tasks.retrieval.corpus)
        self.read_triplets()
        self.read_docstrings()
        self.read_cranfield(folder / "cranfield")

    def encode(self, name: str, texts) -> np.ndarray:
        """(n, 384) unit vectors, from the cache if the texts are the same."""
        texts = list(texts)
        key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
        file = CACHE / f"{name}-{key}.npy"
        if not file.exists():
            self.model = self.model or load_pretrained()
            emb = self.model.encode(texts, batch_size=64)
            write_whole(file, lambda path: np.save(path, emb))
        return unit_rows(np.load(file))

    def read_triplets(self) -> None:
        """12,000 triplets: each text once, and (n, 3) row numbers."""
        everything = load_allnli("train")
        some = np.random.default_rng(0).permutation(len(everything))[:12_000]
        rows = [everything[int(i)] for i in some]
        columns = [[row[name] for row in rows] for name in ("anchor", "positive", "negative")]
        number: dict[str, int] = {}
        self.triplets = np.array([[number.setdefault(t, len(number)) for t in c] for c in columns])
        self.sentences = self.encode("sentences", number)

    def read_docstrings(self) -> None:
        """4,000 pairs; the first 1,000 are judged, the others may be fitted on."""
        pairs = load_docstrings()
        some = np.sort(np.random.default_rng(0).permutation(len(pairs))[:4_000])
        rows = [pairs[int(i)] for i in some]
        self.summaries = self.encode("summaries", [row["summary"][:200] for row in rows])
        self.descriptions = self.encode("descriptions", [row["description"][:300] for row in rows])

    def read_cranfield(self, folder: Path) -> None:
        """Abstracts, questions, and which abstracts answer which question."""
        graded = read_cranfield(folder)
        self.answers = [list(grades) for grades in graded.grades]
        self.questions = self.encode("questions", graded.queries)
        self.abstracts = self.encode("abstracts", graded.corpus)

    def fitted_on(self, name: str, labelled: bool = False):
        """What fit_head takes: one array, or (anchors, positives, negatives)."""
        if name == "nli":
            unlabelled = self.sentences[np.random.default_rng(5).permutation(len(self.sentences))]
            return (
                tuple(self.sentences[c] for c in self.triplets) if labelled else unlabelled[:20_000]
            )
        if name == "docstrings":
            return np.concatenate([self.summaries[1_000:], self.descriptions[1_000:]])
        return self.abstracts

    def judge_tempered(self, given: np.ndarray) -> list[list]:
        """The same for tempered PCA, which has a map of its own for each size."""
        return [row for k in DIMS for row in self.judge(tempered_pca(given, k), dims=[k])]

    def judge(
        self, change: np.ndarray, random: int | None = None, dims: list[int] = DIMS
    ) -> list[list]:
        """Rows of task, k, score after a linear change; of random numbers if ``random`` is set."""
        data = {
            "sts": (similarity_curve, *self.sts, self.scores),
            "premises": (retrieval_curve, self.queries, self.corpus, self.premises),
            "docstrings": (
                retrieval_curve, self.summaries[:1_000], self.descriptions, np.arange(1_000),
            ),
            "cranfield": (retrieval_curve, self.questions, self.abstracts, self.answers),
        }  # fmt: skip
        rows = []
        for task, (curve, one, two, labels) in data.items():
            one, two = one @ change, two @ change
            if random is None:
                found = curve(one, two, labels, dims)
            else:
                found = random_dims_curve(curve, one, two, labels, dims=dims, draws=1, seed=random)
            rows += [[task, k, round(score, 4)] for k, score in found.items()]
        return rows


def fit(emb, seed: int, start: str = "pca", dims=None, **options):
    """fit_head, with what the ablation replaces inside it."""
    patch = nullcontext()
    if start == "random":
        square = np.random.default_rng(seed).normal(size=(384, 384))
        axes = np.linalg.qr(square)[0].astype(np.float32)
        patch = mock.patch.object(fitting, "principal_axes", lambda *_: (axes, np.ones(384)))
    with patch:
        return fit_head(emb, dims or DIMS, seed=seed, progress=False, **options)


def run(vectors: Vectors, name: str, method: str, seed: int, labelled: bool) -> list[list]:
    """The rows of one fit."""
    options = (LABELLED if labelled else RECIPES)[method]
    head = fit(vectors.fitted_on(name, labelled), seed, **options)
    return [[name, method, seed, *row] for row in vectors.judge(head.weight)]


def main() -> None:
    """Fit and judge everything, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sets", default="nli,docstrings,cranfield")
    parser.add_argument("--out", type=Path, default=results_folder() / "retrofit.json")
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    vectors = Vectors(Path(os.environ["MRL_COURSE_DATA"]))
    seeds = [int(seed) for seed in args.seeds.split(",")]
    same = np.eye(384, dtype=np.float32)
    rows = [["-", "raw prefix", 0, *row] for row in vectors.judge(same)]
    for seed in seeds:
        rows += [["-", "random numbers", seed, *row] for row in vectors.judge(same, random=seed)]
    for name in args.sets.split(","):
        given = vectors.fitted_on(name)
        rows += [[name, "pca", 0, *row] for row in vectors.judge(pca_rotation(given))]
        rows += [[name, "tempered pca", 0, *row] for row in vectors.judge_tempered(given)]
        methods = [(method, False) for method in RECIPES]
        methods += [(method, True) for method in LABELLED if name == "nli"]
        for method, labelled in methods:
            for seed in seeds:
                file = CACHE / f"{name}-{method}-{seed}.json".replace(" ", "_").replace(":", "")
                rows += cached(file, partial(run, vectors, name, method, seed, labelled))
            print(name, method, *[row[-1] for row in rows[-4 * len(DIMS) :]], flush=True)
    what = (
        "heads on frozen vectors of all-MiniLM-L6-v2; Spearman for sts, recall@10 for the others; "
        "fitted on 20,000 sentences or 12,000 triplets of AllNLI, 3,000 pairs of docstrings, or "
        "the 1,400 abstracts of Cranfield"
    )
    write_record(args.out, what, f"benchmarks/retrofit.py --seeds {args.seeds}", COLUMNS, rows)


if __name__ == "__main__":
    main()
