"""One setting of the twins changed at a time: sizes, scale, data, clipping, weights, batch.

    MRL_COURSE_DATA=FOLDER python benchmarks/ablations.py [--seeds 0,1,2] [--groups sizes,scale]
        [--out FILE] [--quick]

The base is that of ``evidence.py`` (the same trained twins, from its cache if they are there); each
change is judged against the twin of the same kind and seed. Three quarters of an hour of one core
for all groups and three seeds; finished runs are kept under ``build/ablations``. ``--quick`` is a
smoke test on the miniature, half a minute.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import GRAMMAR, write_record
from evidence import CACHE, COLUMNS, Lab, Table
from judging import Judge, Values

from mrl_course.comparison import SIZES
from mrl_course.files import results_folder
from mrl_course.models import build_static_model
from mrl_course.training import train

KEPT = Path("build/ablations")
BATCH, EPOCHS = 512, 3  # of the base
BOTH = ("regular", "matryoshka")
# By group: the label of a change, the twins that it touches, and what ``train`` gets.
CHANGES: dict[str, list[tuple[str, tuple[str, ...], dict]]] = {
    "sizes": [
        ("sizes 64 and up", ("matryoshka",), {"sizes": (64, 128, 256, 512, 768)}),
        ("sizes 64 and 768", ("matryoshka",), {"sizes": (64, 768)}),
        ("fifteen sizes", ("matryoshka",), {"sizes": SIZES}),
    ],
    "scale": [
        ("scale 12", BOTH, {"scale": 12.0}),
        ("scale 35", BOTH, {"scale": 35.0}),
    ],
    "clipping": [("gradient clipped at 1", BOTH, {"max_grad_norm": 1.0})],
    "data": [
        ("1,000 triplets", BOTH, {"rows": 1_000}),
        ("6,400 triplets", BOTH, {"rows": 6_400}),
    ],
    "weights": [
        ("small sizes weigh more", ("matryoshka",), {"power": -0.5}),
        ("large sizes weigh more", ("matryoshka",), {"power": 0.5}),
    ],
    "distillation": [("self-distillation 1", ("matryoshka",), {"distill": 1.0})],
    "batch": [
        ("batch 128", BOTH, {"batch_size": 128}),
        ("batch 2,048", BOTH, {"batch_size": 2_048}),
    ],
}


def runs(groups: list[str]) -> Iterator[tuple[str, str, dict]]:
    """Twin, label and settings of every run."""
    for group in groups:
        for label, twins, settings in CHANGES[group]:
            for twin in twins:
                yield twin, label, settings


def trained(lab: Lab, twin: str, seed: int, change: dict):
    """One twin with one change."""
    settings, data = dict(change), lab.data
    sizes = settings.pop("sizes", lab.dims)
    sizes = [k for k in sizes if k <= lab.dim] if twin == "matryoshka" else [lab.dim]
    if power := settings.pop("power", None):
        weights = np.array(sizes, float) ** power
        settings["weights"] = (weights * len(sizes) / weights.sum()).tolist()
    if rows := settings.pop("rows", None):
        some = np.random.default_rng(0).permutation(len(data.rows))[:rows]
        # The same number of steps, so that only the number of different triplets changes.
        steps = EPOCHS * (len(data.rows) // BATCH)
        settings["epochs"] = round(steps / max(1, len(some) // BATCH))
        data = replace(data, rows=data.rows[some])
    model = build_static_model([], lab.dim, seed=seed, tokenizer=lab.tokenizer)
    history = train(model, data, sizes, seed=seed, progress=False, **settings)
    print(
        f"{twin}, {change}, seed {seed}: {history.steps} steps, {history.seconds:.0f} s", flush=True
    )
    return model


def tabulate(judge: Judge, seeds: list[int], base: dict, changed: dict) -> Table:
    """Scores of every seed, and differences from the base."""
    table = Table(judge, seeds)
    for twin, values in base.items():
        table.add(twin, judge.dims, [[one] for one in values])
        table.means(twin)
    table.difference("matryoshka", "regular")
    for (twin, label), values in changed.items():
        name = f"{twin}, {label}"
        table.add(name, judge.dims, [[one] for one in values])
        table.difference(name, twin)
        if twin == "matryoshka" and ("regular", label) in changed:  # added before
            table.difference(name, f"regular, {label}")
    return table


def main() -> None:
    """Train, judge, and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--groups", default=",".join(CHANGES))
    parser.add_argument("--out", type=Path, default=results_folder() / "ablations.json")
    parser.add_argument("--quick", action="store_true", help="a smoke test on the miniature")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds, groups = [int(seed) for seed in args.seeds.split(",")], args.groups.split(",")
    dim, cache, kept = 768, CACHE, KEPT
    cranfield = Path(os.environ["MRL_COURSE_DATA"]) / "cranfield"
    if args.quick:
        seeds, groups, dim, cranfield = seeds[:2], ["scale", "weights"], 32, None
        cache = kept = args.out.parent / "cache"
    lab = Lab(dim, cache, 2_048 if args.quick else None)
    judge = Judge(cranfield, lab.dims, 200 if args.quick else None)

    def twin_values(twin: str, seed: int) -> Values:
        return lab.kept(twin, seed, lambda: judge.values(judge.encode(lab.twin(twin, seed))))

    base = {twin: [twin_values(twin, seed) for seed in seeds] for twin in BOTH}
    lab.cache = kept
    changed: dict[tuple[str, str], list[Values]] = {}
    for twin, label, change in runs(groups):
        for seed in seeds:
            name = f"{twin}-{label}".replace(" ", "-").replace(",", "")

            def make(twin=twin, seed=seed, change=change) -> Values:
                return judge.values(judge.encode(trained(lab, twin, seed, change)))

            changed.setdefault((twin, label), []).append(lab.kept(name, seed, make))
    what = (
        f"twins (D = {dim}) on {len(lab.data.rows):,} AllNLI-style triplets with one setting "
        "changed; base: sizes 8 to 768, weights 1, scale 20, batch 512, 3 epochs, no clipping, no "
        "distillation; fewer triplets with the same number of steps"
    )
    command = f"benchmarks/ablations.py --seeds {args.seeds} --groups {','.join(groups)}"
    source = GRAMMAR if args.quick else None
    rows = tabulate(judge, seeds, base, changed).rows
    write_record(args.out, what, command, COLUMNS, rows, source=source)


if __name__ == "__main__":
    main()
