"""What a limit on the gradient does to the twins: our loop, with and without clipping.

    MRL_COURSE_DATA=FOLDER python benchmarks/clipping.py [--seeds 0,1,2] [--dim 256] [--out FILE]

The recipe is that of ``train_twins``: 3 epochs in batches of 512, learning rate 0.05. The only
change is that the gradient is shortened to length 1 before a step, which is the default of
Sentence Transformers' trainer (``max_grad_norm=1.0``). Five minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import Tasks, static_triplets, write_record

from mrl_course.arguments import default_dims
from mrl_course.files import results_folder
from mrl_course.models import build_static_model
from mrl_course.training import train

COLUMNS = ["model", "clipped_steps", "max_grad_norm", "seed", "task", "k", "score"]


def main() -> None:
    """Train both twins with and without the limit, and record their scores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--out", type=Path, default=results_folder() / "clipping_allnli.json")
    args = parser.parse_args()
    dims = default_dims(args.dim)
    (tokenizer, data), tasks = static_triplets(args.dim), Tasks()
    rows = []
    for seed in map(int, args.seeds.split(",")):
        for name, sizes in (("regular", [args.dim]), ("matryoshka", dims)):
            for limit in (0.0, 1.0):
                model = build_static_model([], args.dim, seed=seed, tokenizer=tokenizer)
                limited = limit or None
                history = train(
                    model, data, sizes, seed=seed, max_grad_norm=limited, progress=False
                )
                head = [name, round(history.clipped, 3), limit, seed]
                rows += [[*head, *row] for row in tasks.scores(tasks.encode(model), dims)]
                print(*rows[-len(dims)], flush=True)
    what = (
        f"twins of {args.dim} numbers on {len(data.rows):,} AllNLI-style triplets, our loop with "
        "and without gradient clipping"
    )
    command = f"benchmarks/clipping.py --seeds {args.seeds} --dim {args.dim}"
    write_record(args.out, what, command, COLUMNS, rows)


if __name__ == "__main__":
    main()
