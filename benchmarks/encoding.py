"""Measure encoding in one process and in a pool of processes: a static model and a transformer.

    python benchmarks/encoding.py [--processes 2] [--out data/results/encoding.json]

The static model is trained by nobody (speed does not depend on that); the transformer is
all-MiniLM-L6-v2. Texts are distinct sentences of the grammar. A pool is started once and used
several times; its start is a row of its own. Each process of a pool gets an equal share of the
cores. Medians of three runs, lowest and highest. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path

import numpy as np
import torch
from common import GRAMMAR, write_record

from mrl_course.files import results_folder
from mrl_course.miniature import premises
from mrl_course.models import build_static_model, load_pretrained

COLUMNS = ["model", "texts", "processes", "what", "seconds", "low", "high", "texts_per_second"]
RUNS = 3


def timed(call) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name: str, model, texts: list[str], processes: int, rows: list[list]) -> None:
    """One process with all cores, then a pool whose processes share them."""

    def record(count: int, what: str, seconds: list[float]) -> None:
        median, low, high = (round(float(f(seconds)), 3) for f in (np.median, min, max))
        rows.append([name, len(texts), count, what, median, low, high, round(len(texts) / median)])
        print(*rows[-1], flush=True)

    options = {"batch_size": 256, "show_progress_bar": False}
    model.encode(texts[:512], **options)
    record(1, "encode", [timed(lambda: model.encode(texts, **options)) for _ in range(RUNS)])
    os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // processes))  # read by the pool
    start = time.perf_counter()
    pool = model.start_multi_process_pool(["cpu"] * processes)
    try:
        model.encode(texts[:512], pool=pool, **options)  # they import their libraries first
        record(processes, "start the pool", [time.perf_counter() - start])
        seconds = [timed(lambda: model.encode(texts, pool=pool, **options)) for _ in range(RUNS)]
        record(processes, "encode", seconds)
        one, many = model.encode(texts[:1000], **options), model.encode(texts[:1000], pool=pool)
        assert np.abs(one - many).max() < 1e-4, "the pool gives other vectors"
    finally:
        model.stop_multi_process_pool(pool)
        del os.environ["OMP_NUM_THREADS"]


def main() -> None:
    """Measure both models and write the record whole."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--static-texts", type=int, default=50_000)
    parser.add_argument("--transformer-texts", type=int, default=4_000)
    parser.add_argument("--out", type=Path, default=results_folder() / "encoding.json")
    args = parser.parse_args()
    texts, rows = premises(args.static_texts, seed=1), []
    static = build_static_model(texts[:10_000], 768)
    measure("static, 768 numbers", static, texts, args.processes, rows)
    transformer = load_pretrained("all-MiniLM-L6-v2")
    some = texts[: args.transformer_texts]
    measure("all-MiniLM-L6-v2, 384 numbers", transformer, some, args.processes, rows)
    options = ["--processes", str(args.processes), "--static-texts", str(args.static_texts),
               "--transformer-texts", str(args.transformer_texts)]  # fmt: skip
    write_record(
        args.out,
        "encoding sentences of the grammar in one process and in a pool",
        shlex.join(["benchmarks/encoding.py", *options]),
        COLUMNS,
        rows,
        source=GRAMMAR,
        threads=f"{torch.get_num_threads()} in one process; the pool shares the cores evenly",
    )


if __name__ == "__main__":
    main()
