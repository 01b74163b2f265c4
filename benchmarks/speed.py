"""Measure this package against the plain way and against Sentence Transformers, part by part.

    python benchmarks/speed.py [loss curves heads training growth] [--quick] [--out FILE]

Each part runs its candidates by turns in one process, so that all meet the same machine, and gives
medians with lowest and highest, wall and CPU seconds. ``limits`` are measured in the same run: how
fast this machine copies memory and multiplies matrices; a row says what share of that it reaches,
where one of the two is the bound.

- loss: the one-pass loss, the naive loop, the library's loss, and a full-size loss alone: forward
  and backward, 512 anchors, 1,024 candidates, 768 numbers, eight sizes.
- curves: all sizes of STS-B against a loop over SciPy; retrieval at ten sizes, 2,000 queries and
  10,000 rows, against one full search a size.
- training: one Matryoshka and one regular twin on all triplets, whole (vocabulary and tokens
  included), against Sentence Transformers' trainer with the same model, loss, data, batches, rate
  and steps, without evaluation, saving, logging or clipping. Scores at full size beside the times.
- heads: ``fit_head`` on 20,000 made-up vectors (a thousand groups, directions of falling variance)
  of 384 to 3,072 numbers, report and choice included.
- growth: seconds of a training step against batch, D and number of sizes.

``MRL_COURSE_DATA`` on the real data. Minutes of a quiet machine for the first three parts, and most
of an hour for all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Tasks, write_record

from mrl_course import DEFAULT_DIMS
from mrl_course.data import load_allnli
from mrl_course.evaluation import retrieval_curve, similarity_curve
from mrl_course.files import results_folder
from mrl_course.losses import info_nce, matryoshka_info_nce, nested_info_nce
from mrl_course.models import build_static_model, train_tokenizer
from mrl_course.training import read_triplets, train

COLUMNS = ["part", "size", "candidate", "seconds", "low", "high", "cpu_seconds", "runs"]
COLUMNS += ["times_faster", "share_of_limit"]
DIMS = list(DEFAULT_DIMS)


class Table:
    """Rows of one run, with the limits of this machine."""

    def __init__(self) -> None:
        """Measure the limits."""
        self.rows: list[list] = []
        a = torch.randn(2048, 2048)
        self.flops = 2 * 2048**3 / median_seconds(lambda: a @ a, 7)
        big, other = torch.randn(2**26), torch.empty(2**26)
        self.bytes = 2 * 4 * 2**26 / median_seconds(lambda: other.copy_(big), 7)

    def add(self, part: str, size: str, times: dict, slowest: str, bound: dict) -> None:
        """A row for each candidate; ``bound`` gives the seconds that no candidate can beat."""
        against = np.median([wall for wall, _ in times[slowest]])
        for name, runs in times.items():
            wall, cpu = (np.array(column) for column in zip(*runs, strict=True))
            middle = float(np.median(wall))
            share = round(bound[name] / middle, 2) if name in bound else None
            numbers = [f"{x:.4g}" for x in (middle, wall.min(), wall.max(), np.median(cpu))]
            row = [part, size, name, *map(float, numbers), len(runs)]
            self.rows.append([*row, round(float(against) / middle, 2), share])
            print(*self.rows[-1], flush=True)


def median_seconds(call: Callable[[], object], runs: int) -> float:
    """Wall seconds of one call, the median."""
    return float(np.median([seconds(call)[0] for _ in range(runs)]))


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def by_turns(candidates: dict[str, Callable[[], object]], runs: int, warm: int = 1) -> dict:
    """Wall and CPU seconds of each candidate, one after the other, again and again."""
    times: dict[str, list] = {name: [] for name in candidates}
    for turn in range(-warm, runs):
        for name, call in candidates.items():
            spent = seconds(call)
            if turn >= 0:
                times[name].append(spent)
    return times


def loss(table: Table, quick: bool) -> None:
    """The loss, forward and backward."""
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

    rows, dim, dims = (64, 64, [8, 64]) if quick else (512, 768, [*DIMS])
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(rows, dim, generator=generator, requires_grad=True) for _ in range(3)]

    class Given(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["emb"]}

        def get_embedding_dimension(self):
            return dim

    model = Given()
    library = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims)

    def ours(version, *sizes):
        def call():
            for column in columns:
                column.grad = None
            version(columns[0], torch.cat(columns[1:]), *sizes).backward()

        return call

    def theirs():
        for column in columns:
            column.grad = None
        library([{"emb": column} for column in columns], None).backward()

    candidates = {
        "naive loop": ours(matryoshka_info_nce, dims),
        "Sentence Transformers": theirs,
        "one pass": ours(nested_info_nce, dims),
        "full size alone": ours(info_nce),
    }
    times = by_turns(candidates, 3 if quick else 31, 3)
    products = 3 * 2 * rows * 2 * rows * dim / table.flops  # forward, and two of the backward pass
    bound = {"one pass": products, "full size alone": products}
    table.add("loss", f"{rows} x {2 * rows} x {dim}, {len(dims)} sizes", times, "naive loop", bound)


def curves(table: Table, quick: bool) -> None:
    """Both curves."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    n, dim = (200, 32) if quick else (1379, 768)
    one, two = (rng.standard_normal((n, dim)).astype(np.float32) for _ in range(2))
    gold = rng.random(n)

    def loop():
        for k in range(1, dim + 1):
            a, b = one[:, :k], two[:, :k]
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            spearmanr((a * b).sum(axis=1) / lengths, gold)

    def sorting():
        for _ in range(dim):
            np.argsort(gold)

    candidates = {
        "loop of cosine and spearmanr": loop,
        "similarity_curve": lambda: similarity_curve(one, two, gold, range(1, dim + 1)),
        "sorting alone": sorting,
    }
    times = by_turns(candidates, 3 if quick else 9)
    bound = {"similarity_curve": float(np.median([wall for wall, _ in times["sorting alone"]]))}
    table.add("similarity_curve", f"{n} pairs, {dim} sizes", times, "loop of cosine and spearmanr",
              bound)  # fmt: skip
    queries, corpus = (20, 300) if quick else (2000, 10_000)
    q, c = (rng.standard_normal((m, dim)).astype(np.float32) for m in (queries, corpus))
    relevant = rng.integers(0, corpus, queries).tolist()
    dims = [k for k in DIMS if k <= dim]

    def full_searches():
        for k in dims:
            a, b = (x[:, :k] / np.linalg.norm(x[:, :k], axis=1, keepdims=True) for x in (q, c))
            scores = a @ b.T
            best = np.argpartition(-scores, 9, axis=1)[:, :10]
            (best == np.array(relevant)[:, None]).any(axis=1).mean()

    candidates = {
        "one search a size": full_searches,
        "retrieval_curve": lambda: retrieval_curve(q, c, relevant, dims),
    }
    products = 2 * queries * corpus * dim / table.flops
    times = by_turns(candidates, 2 if quick else 7)
    table.add("retrieval_curve", f"{queries} x {corpus}, {len(dims)} sizes", times,
              "one search a size", {"retrieval_curve": products})  # fmt: skip


def trainer(texts: list[str], columns: dict, dims: list[int], seed: int, quick: bool):
    """Sentence Transformers' own training of the same model on the same rows; gives the model."""
    import tempfile

    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

    model = build_static_model(texts, dims[-1], seed=seed)
    model.model_card_data.generate_widget_examples = False
    ranking = MultipleNegativesRankingLoss(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            num_train_epochs=1 if quick else 3,
            per_device_train_batch_size=512,
            learning_rate=0.05,
            warmup_steps=0.1,
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            weight_decay=0.0,
            max_grad_norm=0.0,  # no clipping, as in ours
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            dataloader_drop_last=True,
            seed=seed,
            report_to="none",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        loss = ranking if len(dims) == 1 else MatryoshkaLoss(model, ranking, dims)
        trainer = SentenceTransformerTrainer(model, arguments, Dataset.from_dict(columns),
                                             loss=loss)  # fmt: skip
        trainer.train()
    return model


def training(table: Table, quick: bool) -> list[list]:
    """Whole trainings by turns, a seed a turn; the scores at full size of each."""
    triplets = load_allnli("train", limit=2000 if quick else None)
    read = read_triplets(triplets)
    columns = dict(zip(("anchor", "positive", "negative"), map(list, read), strict=True))
    dim, turns = (16, 1) if quick else (768, 5)
    sizes = {"matryoshka": [k for k in DIMS if k < dim] + [dim], "regular": [dim]}
    tasks, scores = Tasks(), []

    def texts() -> list[str]:
        return list(dict.fromkeys(text for column in columns.values() for text in column))

    def ours(dims: list[int], seed: int):
        model = build_static_model([], dim, seed=seed, tokenizer=train_tokenizer(texts()))
        train(model, triplets, dims, epochs=1 if quick else 3, seed=seed, progress=False)
        return model

    times: dict[str, list] = {}
    for seed in range(turns):
        for name, dims in sizes.items():
            for who, call in (
                ("ours", lambda d=dims, s=seed: ours(d, s)),
                ("trainer", lambda d=dims, s=seed: trainer(texts(), columns, d, s, quick)),
            ):
                made = []
                times.setdefault(f"{who}, {name}", []).append(
                    seconds(lambda call=call, made=made: made.append(call()))
                )
                found = tasks.scores(tasks.encode(made[0]), [dim])
                scores += [[who, name, seed, *row] for row in found]
                print(who, name, seed, times[f"{who}, {name}"][-1], found, flush=True)
    for name in sizes:
        both = {who: times[f"{who}, {name}"] for who in ("trainer", "ours")}
        size = f"{name}, {len(triplets):,} triplets, D = {dim}"
        table.add("training", size, both, "trainer", {})
    return scores


def heads(table: Table, quick: bool) -> None:
    """A whole fit: PCA, rotations, choice and report."""
    from mrl_course.retrofit import fit_head

    rng, rows = np.random.default_rng(0), 300 if quick else 20_000
    for dim in (32,) if quick else (384, 768, 1536, 3072):
        middles = rng.standard_normal((1 + rows // 20, dim))
        emb = middles[rng.integers(len(middles), size=rows)] + rng.standard_normal((rows, dim))
        emb = (emb * np.arange(1, dim + 1) ** -0.5).astype(np.float32)
        made = []
        times = by_turns(
            {"fit_head": lambda e=emb, m=made: m.append(fit_head(e, progress=False))}, 3, warm=0
        )
        size = f"{rows:,} x {dim}, {made[-1].method}, {made[-1].turned} turned"
        table.add("fit_head", size, times, "fit_head", {})


def growth(table: Table, quick: bool) -> None:
    """A training step of ours against what makes it larger."""
    columns = read_triplets(load_allnli("train", limit=20_000))
    tokenizer = train_tokenizer(list(dict.fromkeys(text for texts in columns for text in texts)))

    def step(batch: int, dim: int, count: int) -> None:
        dims = [k for k in DIMS if k < dim][-(count - 1) :] if count > 1 else []
        rows = load_allnli("train", limit=4 * batch)
        model = build_static_model([], dim, tokenizer=tokenizer)
        stamps = []

        def stamp(*_: object) -> None:
            stamps.append((time.perf_counter(), time.process_time()))

        train(model, rows, [*dims, dim], batch_size=batch, progress=False, on_step=stamp)
        steps = [tuple(np.subtract(b, a)) for a, b in zip(stamps, stamps[1:], strict=False)]
        size = f"batch {batch}, D = {dim}, {len(dims) + 1} sizes"
        table.add("training step", size, {"ours": steps}, "ours", {})

    cases = [(batch, 768, 8) for batch in (64, 256, 512, 1024)]
    cases += [(512, 768, count) for count in (1, 3)]
    cases += [(512, dim, 8) for dim in (64, 256, 1536, 4096)]
    for case in cases[:1] if quick else cases:
        step(*case)


PARTS = {"loss": loss, "curves": curves, "heads": heads, "training": training, "growth": growth}


def main() -> None:
    """Run the parts and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=results_folder() / "speed.json")
    args = parser.parse_args()
    parts = args.parts or list(PARTS)
    table, scores = Table(), []
    for part in parts:
        scores += PARTS[part](table, args.quick) or []
    write_record(
        args.out,
        "speed against the plain way and against Sentence Transformers",
        f"benchmarks/speed.py {' '.join(args.parts)}".strip(),
        COLUMNS,
        table.rows,
        threads=torch.get_num_threads(),
        gigaflops=round(table.flops / 1e9),
        gigabytes_per_second=round(table.bytes / 1e9, 1),
        score_columns=["who", "model", "seed", "metric", "k", "score"],
        scores=scores,
    )


if __name__ == "__main__":
    main()
