"""Fine-tune a pretrained transformer on real triplets, regular against Matryoshka.

    MRL_COURSE_DATA=FOLDER python benchmarks/finetune.py [--seeds 0,1,2] [--out FILE]

The model is all-MiniLM-L6-v2, the trainer that of Sentence Transformers: one epoch over 12,000
triplets in batches of 128, learning rate 1e-4, bfloat16 while training, float32 while judging. A
run takes about 15 minutes of one core, so each finished run is kept under ``build/finetune`` with
its model; started again, the script goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Tasks, cached, write_record
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from mrl_course.arguments import default_dims
from mrl_course.data import load_allnli
from mrl_course.files import results_folder
from mrl_course.models import load_pretrained
from mrl_course.retrofit import fit_head

COLUMNS = ["method", "seed", "task", "k", "score", "minutes"]
CACHE = Path("build/finetune")
DIMS = default_dims(384)


def forward_by_length(model, rows: int = 32):
    """Let the model read texts of like length together: padding costs half the time otherwise."""
    plain = model.forward

    def forward(features, **options):
        lengths = features["attention_mask"].sum(1)
        order = lengths.argsort()
        parts = []
        for some in order.split(rows):
            longest = int(lengths[some].max())
            columns = {
                name: x[some, :longest]
                for name, x in features.items()
                if torch.is_tensor(x) and x.ndim == 2
            }
            parts.append(plain(columns, **options)["sentence_embedding"])
        return features | {"sentence_embedding": torch.cat(parts)[order.argsort()]}

    return forward


def fine_tune(triplets, dims: list[int], seed: int, out: Path):
    """Train a fresh copy of MiniLM; the loss looks at these prefixes."""
    torch.manual_seed(seed)
    model = load_pretrained()
    model.max_seq_length = 48
    plain, model.forward = model.forward, forward_by_length(model)
    loss = MultipleNegativesRankingLoss(model)
    if dims != [384]:
        loss = MatryoshkaLoss(model, loss, matryoshka_dims=dims)
    args = SentenceTransformerTrainingArguments(
        str(out),
        num_train_epochs=1,
        per_device_train_batch_size=128,
        learning_rate=1e-4,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        seed=seed,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(model=model, args=args, train_dataset=triplets, loss=loss).train()
    model.forward = plain
    return model.eval()


def run(method: str, seed: int, triplets, tasks: Tasks) -> list[list]:
    """Train one model, keep it, and return its rows."""
    dims = {"regular": [384], "matryoshka": DIMS}[method]
    start = time.process_time()
    model = fine_tune(triplets, dims, seed, CACHE / "trainer")
    minutes = round((time.process_time() - start) / 60, 1)
    model.save(str(CACHE / f"{method}-{seed}"))
    scores = tasks.scores(tasks.encode(model, batch_size=64), DIMS)
    return [[method, seed, *row, minutes] for row in scores]


def rotate(seed: int, triplets, tasks: Tasks) -> list[list]:
    """The rows of the regular run after rotate and distil on 8,000 of its own sentences."""
    start = time.process_time()
    model = SentenceTransformer(str(CACHE / f"regular-{seed}"), device="cpu")
    texts = list(dict.fromkeys(text for name in triplets.column_names for text in triplets[name]))
    texts = np.random.default_rng(seed).permutation(texts)[:8_000]
    head = fit_head(model.encode(list(map(str, texts)), batch_size=64), DIMS, seed=seed)
    minutes = round((time.process_time() - start) / 60, 1)
    emb = [head.transform(x) for x in tasks.encode(model, batch_size=64)]
    return [["regular, rotated", seed, *row, minutes] for row in tasks.scores(emb, DIMS)]


def main() -> None:
    """Make all runs and record their scores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--triplets", type=int, default=12_000)
    parser.add_argument("--out", type=Path, default=results_folder() / "finetune_allnli.json")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that processor minutes are minutes of one core
    CACHE.mkdir(parents=True, exist_ok=True)
    everything = load_allnli("train")
    few = np.random.default_rng(0).permutation(len(everything))[: args.triplets]
    triplets = everything.select(np.sort(few).tolist())
    rows, tasks = [], Tasks()
    for seed in map(int, args.seeds.split(",")):
        for method in ("regular", "matryoshka"):
            file = CACHE / f"{method}-{seed}.json"
            rows += cached(file, partial(run, method, seed, triplets, tasks))
            print(*rows[-2 * len(DIMS) :], sep="\n", flush=True)
        rows += cached(CACHE / f"rotated-{seed}.json", partial(rotate, seed, triplets, tasks))
    what = (
        f"all-MiniLM-L6-v2 fine-tuned on {len(triplets):,} AllNLI-style triplets, regular and "
        "Matryoshka, and the regular one after rotate and distil; minutes are those of one core, "
        "without the judging"
    )
    command = f"benchmarks/finetune.py --seeds {args.seeds}"
    write_record(args.out, what, command, COLUMNS, rows)


if __name__ == "__main__":
    main()
