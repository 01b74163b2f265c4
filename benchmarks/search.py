"""Measure search on this machine: exact, shortlist and rerank, funnel, FAISS; 10 k to 1 M rows.

    python benchmarks/search.py [--corpora 10000,100000,1000000] [--out data/results/search.json]

The grammar writes distinct sentences, the Matryoshka twin (768 numbers, trained on the miniature)
embeds them; queries are held-out hypotheses of other scenes. Each corpus is measured in a process
of its own, so that its peak memory is known. Milliseconds are per query, warm, medians with the
lowest and highest run. All three take about 20 minutes and 8 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from common import GRAMMAR, write_record

from mrl_course.costs import vector_bytes
from mrl_course.data import load_allnli, load_retrieval
from mrl_course.files import results_folder
from mrl_course.miniature import premises
from mrl_course.search import (
    PrefixIndex,
    exact_search,
    funnel_search,
    rerank,
    shortlist_rerank,
    truncate,
    tune_shortlist,
)
from mrl_course.training import train_twins

TOP_K, DIM, TARGET = 10, 768, 0.99
LINKS = 32  # of a row in an HNSW graph; twice as many on its lowest level
COLUMNS = [
    "corpus", "method", "dim", "shortlist", "batch", "recall", "milliseconds", "low", "high",
    "bytes_scanned", "bytes_stored",
]  # fmt: skip
PACKAGES = ("numpy", "faiss-cpu", "torch", "sentence-transformers")


def embed(n: int, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors: a corpus of n rows, queries to tune with, and queries to measure with."""
    twins = train_twins(load_allnli("train", source="mini"), dim=DIM, seed=0, progress=False)
    task = load_retrieval("test", source="mini")
    queries = truncate(twins.matryoshka.encode(task.queries, batch_size=1024), DIM)
    corpus = np.lib.format.open_memmap(folder / "corpus.npy", "w+", np.float32, (n, DIM))
    sentences = premises(n, seed=1)
    for start in range(0, n, 50_000):
        part = sentences[start : start + 50_000]
        corpus[start : start + len(part)] = truncate(
            twins.matryoshka.encode(part, batch_size=1024, show_progress_bar=False), DIM
        )
    order = np.random.default_rng(0).permutation(len(queries))
    return np.array(corpus), queries[order[:400]], queries[order[400:600]]


class Bench:
    """One corpus, and everything that is measured on it."""

    def __init__(self, corpus: np.ndarray, tuning: np.ndarray, queries: np.ndarray):
        """Find the exact results that all others are compared with."""
        self.corpus, self.tuning, self.queries = corpus, tuning, queries
        self.rows: list[list] = []
        self.full = PrefixIndex(corpus, 1)  # knows the lengths, holds nothing else of size
        self.truth = exact_search(queries, self.full, TOP_K).indices
        self.tuning_truth = exact_search(tuning, self.full, TOP_K).indices

    def recall(self, found: np.ndarray, truth: np.ndarray | None = None) -> float:
        """Mean share of the exact results found."""
        pairs = zip(found, self.truth if truth is None else truth, strict=True)
        return float(np.mean([len(np.intersect1d(a, b)) for a, b in pairs]) / TOP_K)

    def measure(
        self,
        method: str,
        search: Callable[[np.ndarray], np.ndarray],
        scanned: int,
        stored: int,
        dim: int = DIM,
        shortlist: int = 0,
    ) -> None:
        """Time ``search`` ((q, D) queries -> (q, 10) rows) for one query and for 100 at a time."""
        n = len(self.corpus)
        recall = self.recall(np.concatenate([search(q) for q in np.split(self.queries, 2)]))
        for batch, runs in ((1, 51), (100, 7 if n >= 10**6 else 21)):
            search(self.queries[:batch])
            seconds = []
            for run in range(runs):  # another query each time: its rows are not in the cache
                first = run % (len(self.queries) // batch) * batch
                part = self.queries[first : first + batch]
                start = time.perf_counter()
                search(part)
                seconds.append((time.perf_counter() - start) / batch)
            times = [round(1000 * float(f(seconds)), 4) for f in (np.median, min, max)]
            self.rows.append(
                [n, method, dim, shortlist, batch, round(recall, 4), *times, scanned, stored]
            )
            print(f"{n:9,} {method:28} {batch:4} {recall:.3f} {times[0]:9.3f} ms", flush=True)

    # ------------------------------------------------------------------------- exact search

    def exact(self) -> None:
        """Full vectors, with NumPy's BLAS and with FAISS."""
        everything = self.corpus.nbytes
        self.measure(
            "exact (numpy)", lambda q: exact_search(q, self.full, TOP_K).indices,
            everything, everything,
        )  # fmt: skip
        flat = faiss.IndexFlatIP(DIM)
        flat.add(self.corpus)
        self.measure(
            "exact (FAISS flat)", lambda q: flat.search(q, TOP_K)[1], everything, everything
        )

    # ---------------------------------------------------------------------- stages in NumPy

    def stages(self) -> None:
        """Prefix only, two stages as tuned, and a funnel as tuned, all in mrl_course."""
        tuned = tune_shortlist(
            self.tuning, self.corpus, TARGET + 0.002, TOP_K, dims=[16, 32, 48, 64, 96, 128],
            sample=400, measure=True, sizes=_sizes(len(self.corpus)),
        )  # fmt: skip
        print(tuned, flush=True)
        self.report = str(tuned).splitlines()
        dim, size = tuned.dim, tuned.shortlist_size
        if dim == DIM:
            dim, size = 64, 100
        index, cost = PrefixIndex(self.corpus, [dim]), len(self.corpus) * vector_bytes(dim)
        everything = self.corpus.nbytes
        self.measure(
            "prefix only", lambda q: exact_search(q, index, TOP_K, dim).indices, cost, cost, dim
        )
        self.measure(
            "two-stage", lambda q: shortlist_rerank(q, index, dim, size, TOP_K).indices,
            cost, cost + everything, dim, size,
        )  # fmt: skip
        steps = self.tuned_funnel(dim, size)
        print("funnel", steps, flush=True)
        self.funnel_steps = steps
        first = PrefixIndex(self.corpus, [steps[0][0]])
        cost = len(self.corpus) * vector_bytes(steps[0][0])
        self.measure(
            "funnel", lambda q: funnel_search(q, first, steps, TOP_K).indices,
            cost, cost + everything, *steps[0],
        )  # fmt: skip

    def tuned_funnel(self, dim: int, size: int) -> list[tuple[int, int]]:
        """The cheapest of a few funnels that reach the target on the tuning queries, on paper."""
        n, options = len(self.corpus), []
        for first in sorted({dim, max(dim * 2 // 3, 8)}):
            for keep in [k for k in _sizes(n) if size <= k <= 10 * size]:
                for second in (2 * dim, 4 * dim):
                    for last in (20, 30, 50, 100):
                        if second < DIM and last < keep:
                            work = n * first + keep * second + last * DIM
                            options.append((work, [(first, keep), (second, last)]))
        held = {}
        for _, steps in sorted(options)[:60]:
            first = steps[0][0]
            if first not in held:
                held[first] = PrefixIndex(self.corpus, [first])
            index = held[first]
            found = funnel_search(self.tuning[:200], index, steps, TOP_K).indices
            if self.recall(found, self.tuning_truth[:200]) >= TARGET + 0.002:
                return steps
        return [(dim, size)]

    # --------------------------------------------------------------- FAISS in the first stage

    def faiss_stages(self) -> None:
        """FAISS finds the shortlist, ``rerank`` orders it; the smallest that reaches the target."""
        n, everything = len(self.corpus), self.corpus.nbytes
        for dim in (32, 64):
            flat = faiss.IndexFlatIP(dim)
            flat.add(truncate(self.corpus, dim))
            self.two_stages(
                "FAISS flat prefix + rerank", flat, lambda q, k=dim: truncate(q, k),
                dim, n * vector_bytes(dim), everything,
            )  # fmt: skip
        for dim in (32, 64, 128):
            small = truncate(self.corpus, dim)
            int8 = faiss.IndexScalarQuantizer(
                dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
            )
            int8.train(small[:100_000])  # ranges of the cut vectors, not of the full ones
            int8.add(small)
            self.two_stages(
                "FAISS int8 prefix + rerank", int8, lambda q, k=dim: truncate(q, k),
                dim, n * vector_bytes(dim, 8), everything,
            )  # fmt: skip
        for dim in (128, 256, 512):
            bits = faiss.IndexBinaryFlat(dim)
            bits.add(np.packbits(self.corpus[:, :dim] > 0, axis=1))
            self.two_stages(
                "FAISS binary + rerank", bits, lambda q, k=dim: np.packbits(q[:, :k] > 0, axis=1),
                dim, n * vector_bytes(dim, 1), everything,
            )  # fmt: skip

    def two_stages(self, method, index, encode, dim, scanned, everything) -> None:
        """Measure with the smallest shortlist that is enough, if one is."""
        for size in _sizes(len(self.corpus)):
            candidates = index.search(encode(self.tuning), size)[1]
            found = rerank(self.tuning, self.full, candidates, TOP_K).indices
            if self.recall(found, self.tuning_truth) >= TARGET + 0.002:
                break
        else:
            print(f"{method}, {dim}: no shortlist up to {size:,} is enough", flush=True)
            return
        self.measure(
            method,
            lambda q: rerank(q, self.full, index.search(encode(q), size)[1], TOP_K).indices,
            scanned, scanned + everything, dim, size,
        )  # fmt: skip

    # ------------------------------------------------------------------------------- graphs

    def graphs(self) -> None:
        """HNSW on the prefix with rerank, and HNSW on the full vectors."""
        self.build_seconds = {}
        for dim in (64, DIM):
            self.hnsw("HNSW full" if dim == DIM else "HNSW prefix + rerank", dim)

    def hnsw(self, method: str, dim: int) -> None:
        """Build a graph and measure it with the least effort that reaches the target."""
        n = len(self.corpus)
        graph = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 80
        start = time.perf_counter()
        graph.add(self.corpus if dim == DIM else truncate(self.corpus, dim))
        self.build_seconds[method] = round(time.perf_counter() - start, 1)
        print(method, "built in", self.build_seconds[method], "s", flush=True)

        def search(queries: np.ndarray, size: int) -> np.ndarray:
            graph.hnsw.efSearch = size if dim == DIM else 2 * size
            if dim == DIM:
                return graph.search(queries, TOP_K)[1]
            candidates = graph.search(truncate(queries, dim), size)[1]
            return rerank(queries, self.full, candidates, TOP_K).indices

        for size in _sizes(n):
            if self.recall(search(self.tuning, size), self.tuning_truth) >= TARGET + 0.002:
                break
        scanned = n * (vector_bytes(dim) + 2 * LINKS * 4)  # links of 4 bytes on the lowest level
        stored = scanned + (0 if dim == DIM else self.corpus.nbytes)
        self.measure(method, partial(search, size=size), scanned, stored, dim, size)


def _sizes(n: int) -> list[int]:
    sizes = [20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10_000]
    return [size for size in sizes if size <= n // 4]


def one_corpus(n: int, graphs: bool) -> dict:
    """Measure everything on n rows."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        bench = Bench(*embed(n, Path(folder)))
    bench.exact()
    bench.stages()
    bench.faiss_stages()
    if graphs:
        bench.graphs()
    return {
        "rows": bench.rows,
        "tuning": bench.report,
        "funnel": bench.funnel_steps,
        "build_seconds": getattr(bench, "build_seconds", {}),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1),
    }


def main() -> None:
    """Measure each corpus in a process of its own and write the record whole."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpora", default="10000,100000,1000000")
    parser.add_argument("--no-graphs", action="store_true", help="leave HNSW out")
    parser.add_argument("--out", type=Path, default=results_folder() / "search.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        args.out.write_text(json.dumps(one_corpus(args.one, not args.no_graphs)))
        return
    sizes = [int(size) for size in args.corpora.split(",")]
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            part = Path(folder) / f"{n}.json"
            command = [sys.executable, __file__, "--one", str(n), "--out", str(part)]
            subprocess.run(command + ["--no-graphs"] * args.no_graphs, check=True)
            made[n] = json.loads(part.read_text())
    options = ["--corpora", args.corpora] + ["--no-graphs"] * args.no_graphs
    write_record(
        args.out,
        f"search among sentences of the grammar, {DIM} numbers, recall@{TOP_K} against exact",
        shlex.join(["benchmarks/search.py", *options]),
        COLUMNS,
        [row for n in sizes for row in made[n]["rows"]],
        source=GRAMMAR,
        packages=PACKAGES,
        target_recall=TARGET,
        **{key: {str(n): made[n][key] for n in sizes} for key in made[sizes[0]] if key != "rows"},
    )


if __name__ == "__main__":
    main()
