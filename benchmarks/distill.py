"""What self-distillation adds to the Matryoshka loss: the inner dolls learn from the outermost.

    MRL_COURSE_DATA=FOLDER python benchmarks/distill.py [--seeds 0,1,2,3,4] [--out FILE]

The recipe is that of ``train_twins``; ``distill`` is the weight of the added loss, 0 for none. Ten
minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import Tasks, static_triplets, write_record

from mrl_course.arguments import DEFAULT_DIMS
from mrl_course.files import results_folder
from mrl_course.models import build_static_model
from mrl_course.training import train

COLUMNS = ["distill", "seed", "task", "k", "score", "seconds"]


def main() -> None:
    """Train with and without it, and record the scores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--weights", default="0,1")
    parser.add_argument("--out", type=Path, default=results_folder() / "distill_allnli.json")
    args = parser.parse_args()
    (tokenizer, data), tasks, dims = static_triplets(768), Tasks(), list(DEFAULT_DIMS)
    rows = []
    for seed in map(int, args.seeds.split(",")):
        for weight in map(float, args.weights.split(",")):
            model = build_static_model([], 768, seed=seed, tokenizer=tokenizer)
            start = time.process_time()
            train(model, data, dims, seed=seed, distill=weight, progress=False)
            seconds = round(time.process_time() - start, 1)
            scores = tasks.scores(tasks.encode(model), dims)
            rows += [[weight, seed, *row, seconds] for row in scores]
            print(*rows[-len(dims) :], flush=True)
    what = (
        f"Matryoshka models (D = 768) on {len(data.rows):,} AllNLI-style triplets, with so much "
        "self-distillation; seconds are those of one processor core"
    )
    command = f"benchmarks/distill.py --seeds {args.seeds} --weights {args.weights}"
    write_record(args.out, what, command, COLUMNS, rows)


if __name__ == "__main__":
    main()
