"""Measure two-stage search inside SQLite (sqlite-vec) and PostgreSQL (pgvector), 100 k rows.

    python benchmarks/engines.py [--rows 100000] [--out data/results/engines.json]

Vectors and queries are those of benchmarks/search.py: 768 numbers, sentences of the grammar. Every
approximate way is tuned to recall@10 of 0.99 on queries of its own, then measured on others, one
query at a time, warm: median, lowest and highest. About 12 minutes on two cores, 3 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import GRAMMAR, write_record
from search import DIM, TARGET, TOP_K, embed  # benchmarks/search.py, beside this file

from mrl_course.costs import vector_bytes
from mrl_course.engines import PostgresIndex, SqliteIndex, TemporaryPostgres
from mrl_course.files import results_folder
from mrl_course.search import exact_search

PREFIX = 64
MARGIN = 0.002  # tuned a little above the target, so that other queries reach it too
COLUMNS = [
    "engine", "method", "dim", "shortlist", "ef", "recall", "milliseconds", "low", "high",
    "bytes_scanned", "bytes_stored",
]  # fmt: skip
PACKAGES = ("numpy", "apsw", "sqlite-vec", "psycopg", "pgserver", "torch", "sentence-transformers")


class Bench:
    """Rows for the record, each compared with the exact results."""

    def __init__(self, corpus: np.ndarray, tuning: np.ndarray, queries: np.ndarray):
        """Find the exact results of both sets of queries."""
        self.corpus, self.tuning, self.queries = corpus, tuning, queries
        self.truth = exact_search(queries, corpus, TOP_K).indices
        self.tuning_truth = exact_search(tuning, corpus, TOP_K).indices
        self.rows: list[list] = []
        self.seconds: dict[str, float] = {}

    def timed(self, what: str, call: Callable[[], object]) -> None:
        """Run something once and record how long it took."""
        start = time.perf_counter()
        call()
        self.seconds[what] = round(time.perf_counter() - start, 1)
        print(f"{what}: {self.seconds[what]} s", flush=True)

    def tuned(self, search: Callable[[np.ndarray, int], np.ndarray], sizes: list[int]) -> int:
        """The smallest size that finds enough; the largest if none does."""
        for size in sizes:
            if _recall(search(self.tuning, size), self.tuning_truth) >= TARGET + MARGIN:
                return size
        return sizes[-1]

    def measure(
        self, engine, method, search, scanned, stored, *, dim=DIM, shortlist=0, ef=0, runs=51
    ):
        """Time ``search`` ((D,) query -> (10,) ids), another query in each run."""
        found = np.array([search(query) for query in self.queries[: 4 * runs]])
        recall = _recall(found, self.truth[: len(found)])
        seconds = []
        for query in self.queries[:runs]:
            start = time.perf_counter()
            search(query)
            seconds.append(time.perf_counter() - start)
        times = [round(1000 * float(f(seconds)), 3) for f in (np.median, min, max)]
        self.rows.append(
            [engine, method, dim, shortlist, ef, round(recall, 4), *times, scanned, stored]
        )
        print(f"{engine:9} {method:28} {shortlist:5} {recall:.3f} {times[0]:9.2f} ms", flush=True)

    def sqlite(self, file: Path) -> None:
        """One stage and two, both by reading everything."""
        with SqliteIndex(file, DIM, PREFIX) as index:
            self.timed("sqlite: insert", lambda: index.add(self.corpus))
            full = index.nbytes - index.prefix_bytes
            self.measure(
                "sqlite", "exact", lambda q: index.exact(q, TOP_K).indices,
                self.corpus.nbytes, full, runs=15,
            )  # fmt: skip
            size = self.tuned(lambda q, size: index.search(q, TOP_K, size).indices, _sizes(4000))
            self.measure(
                "sqlite", "prefix + rerank", lambda q: index.search(q, TOP_K, size).indices,
                len(self.corpus) * vector_bytes(PREFIX), index.nbytes, dim=PREFIX, shortlist=size,
            )  # fmt: skip

    def postgres(self, uri: str) -> str:
        """Without graphs, with one over prefixes, with one over full vectors."""
        with PostgresIndex(uri, DIM, PREFIX) as index:
            self.timed("postgres: copy", lambda: index.add(self.corpus))
            table = index.nbytes
            self.measure(
                "postgres", "exact", lambda q: index.exact(q, TOP_K).indices,
                self.corpus.nbytes, table, runs=15,
            )  # fmt: skip
            # The prefix is cut from each full vector while the query waits.
            self.measure(
                "postgres", "prefix + rerank, no index",
                lambda q: index.search(q, TOP_K, 200).indices,
                self.corpus.nbytes, table, dim=PREFIX, shortlist=200, runs=5,
            )  # fmt: skip
            self.timed("postgres: graph over prefixes", index.build_graph)
            size = self.tuned(lambda q, size: index.search(q, TOP_K, size).indices, _sizes(1000))
            graph = index.graph_bytes()
            self.measure(
                "postgres", "HNSW prefix + rerank",
                lambda q: index.search(q, TOP_K, size).indices,
                graph, table + graph, dim=PREFIX, shortlist=size, ef=min(2 * size, 1000),
            )  # fmt: skip
            self.timed("postgres: graph over full vectors", lambda: index.build_graph(full=True))
            ef = self.tuned(lambda q, ef: index.search(q, TOP_K, None, ef=ef).indices, _sizes(1000))
            graph = index.graph_bytes(full=True)
            self.measure(
                "postgres", "HNSW full", lambda q: index.search(q, TOP_K, None, ef=ef).indices,
                graph, table + graph, ef=ef,
            )  # fmt: skip
            server = index._one("show server_version")
            return f"PostgreSQL {server}, pgvector {index.vector_version}"


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([np.isin(t, f).mean() for f, t in zip(found, truth, strict=True)]))


def _sizes(most: int) -> list[int]:
    sizes = [20, 30, 50, 70, 100, 150, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 4000]
    return [size for size in sizes if size <= most]


def main() -> None:
    """Measure both engines and write the record whole."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=results_folder() / "engines.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        corpus, tuning, queries = embed(args.rows, Path(folder))
        bench = Bench(corpus, tuning[:100], queries)
        bench.sqlite(Path(folder) / "vectors.db")
    with TemporaryPostgres() as server:
        version = bench.postgres(server.uri)
    write_record(
        args.out,
        f"two-stage search in engines, {args.rows:,} sentences of the grammar, {DIM} numbers, "
        f"recall@{TOP_K} against exact",
        shlex.join(["benchmarks/engines.py", "--rows", str(args.rows)]),
        COLUMNS,
        bench.rows,
        source=GRAMMAR,
        packages=PACKAGES,
        server=f"{version}, default settings (shared_buffers 128 MB)",
        corpus=args.rows,
        target_recall=TARGET,
        seconds=bench.seconds,
    )


if __name__ == "__main__":
    main()
