"""Two-stage search inside engines that people already run: SQLite and PostgreSQL.

Both classes have one shape. They keep full vectors under integer ids, hold the first ``prefix``
numbers where a search can read them cheaply, and answer with the
:class:`~mrl_course.search.Neighbours` that :func:`mrl_course.search.shortlist_rerank` would give:

    with SqliteIndex("vectors.db", dim=768, prefix=64) as index:
        index.add(embeddings)
        ids, scores = index.search(queries, top_k=10, shortlist=200)

:class:`SqliteIndex` is one file and no server; its first stage is exact. :class:`PostgresIndex`
needs a server with pgvector; its first stage is exact until :meth:`PostgresIndex.build_graph` is
called, and approximate then. :class:`TemporaryPostgres` starts a server for a lesson or a test.

Everything here needs the extra ``servers``: ``pip install "mrl-course[servers]"``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.dims import check_count
from mrl_course.ranking import check_matrix, check_queries, to_float32
from mrl_course.search import Neighbours

SQLITE_MAX_SHORTLIST = 4096  # sqlite-vec refuses a larger k
POSTGRES_MAX_SHORTLIST = 1000  # pgvector refuses a larger hnsw.ef_search
POSTGRES_MAX_GRAPH_DIM = 2000  # pgvector refuses a graph over longer vectors of float32
BATCH = 2_000  # rows that are converted and sent at a time
_MODULES = {"sqlite": ("apsw", "sqlite_vec"), "postgres": ("psycopg", "pgserver")}


def missing_modules(engine: str) -> list[str]:
    """Modules that ``engine`` needs and this Python does not have; empty if it can be used.

    Args:
        engine: ``"sqlite"``, or ``"postgres"`` with a server of our own
            (:class:`TemporaryPostgres`; with another server, ``psycopg`` is enough).

    Raises:
        ValueError: another name.
    """
    if engine not in _MODULES:
        raise ValueError(f"engine must be one of {sorted(_MODULES)}, got {engine!r}")
    return [name for name in _MODULES[engine] if importlib.util.find_spec(name) is None]


def _need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this engine needs the module {name!r}, which cannot be imported ({error}); "
            'install it with: pip install "mrl-course[servers]"',
            name=name,
        ) from error


def check_table_name(name: str) -> str:
    """Return a name that is safe inside SQL: letters, digits and ``_``, no digit first, 1 to 40.

    Names cannot be sent as parameters, so what is no plain name does not get into a statement.

    Raises:
        ValueError: anything else; the message names it.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", name):
        raise ValueError(
            "table must be a name of 1 to 40 ASCII letters, digits and '_' that does not start "
            f"with a digit, got {name!r}"
        )
    return name


class _Index:
    """What both engines check, so that bad input reaches neither."""

    def __init__(self, dim: int, prefix: int, table: str):
        self.dim = check_count("dim", dim)
        self.prefix = check_count("prefix", prefix, most=self.dim, of="the numbers of a vector")
        self.table = check_table_name(table)

    def __enter__(self):
        """Return the index itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def _count_up_to(self, most: int) -> int:
        raise NotImplementedError

    def _checked_rows(self, emb, ids, next_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of shape (n, dim) and int64 ids, or an error before anything is written."""
        emb = check_matrix("emb", emb)
        if emb.shape[1] != self.dim:
            raise ValueError(f"emb has {emb.shape[1]} numbers in a row, the index {self.dim}")
        ids = np.arange(next_id, next_id + len(emb)) if ids is None else np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got dtype {ids.dtype}")
        if ids.shape != (len(emb),):
            raise ValueError(f"{len(emb)} vectors need as many ids, got shape {ids.shape}")
        for odd in (ids.min(), ids.max()):
            if not 0 <= odd < 2**63:
                raise ValueError(f"ids must be from 0 to 2**63 - 1, got {odd}")
        values, counts = np.unique(ids, return_counts=True)
        if len(values) < len(ids):
            raise ValueError(f"the id {values[counts.argmax()]} is given more than once")
        for start in range(0, len(emb), BATCH):
            self._check_vectors("emb", to_float32(emb[start : start + BATCH]), start)
        return emb, ids.astype(np.int64)

    def _checked_search(self, queries, top_k, shortlist, limit) -> tuple[np.ndarray, bool, int]:
        """Queries of shape (q, dim), whether one was given, and top_k."""
        queries, one = check_queries(queries, self.dim)
        queries = to_float32(queries)
        self._check_vectors("queries", queries, 0)
        check_count("top_k", top_k)
        there = self._count_up_to(top_k)  # counting all of them would take longer than the search
        if not there:
            raise ValueError("the index is empty; add vectors first")
        check_count("top_k", top_k, most=there, of="the rows of the index")
        if shortlist is not None:
            check_count("shortlist", shortlist, most=limit, of="what this engine allows")
            if shortlist < top_k:
                raise ValueError(f"a shortlist of {shortlist} cannot hold top_k = {top_k} results")
        return queries, one, top_k

    def _check_vectors(self, name: str, rows: np.ndarray, first: int) -> None:
        if not np.isfinite(rows).all():
            row = first + int((~np.isfinite(rows).all(axis=1)).argmax())
            raise ValueError(f"{name} holds NaN or infinite numbers, first in row {row}")
        zero = ~rows[:, : self.prefix].any(axis=1)
        if zero.any():
            raise ValueError(
                f"row {first + int(zero.argmax())} of {name} has only zeros in its first "
                f"{self.prefix} numbers: it has no direction, and no cosine; leave it out"
            )


def _as_neighbours(found: list[Sequence[tuple[int, float]]], one: bool) -> Neighbours:
    indices = np.array([[row for row, _ in rows] for rows in found], np.int64)
    scores = np.array([[score for _, score in rows] for rows in found], np.float32)
    return Neighbours(indices[0], scores[0]) if one else Neighbours(indices, scores)


# -------------------------------------------------------------------------------------- SQLite


class SqliteIndex(_Index):
    """Vectors in one SQLite file, searched with sqlite-vec: exact in each stage, no graph.

    The prefixes lie side by side in a ``vec0`` table, cut by ``vec_slice`` and normalised by
    ``vec_normalize`` in SQL. The full vectors are blobs of an ordinary table, which gives single
    rows faster than ``vec0`` does. apsw brings its own SQLite, because the ``sqlite3`` of many
    Pythons (macOS's own among them) cannot load extensions.
    """

    def __init__(self, path: str | Path, dim: int, prefix: int, table: str = "items"):
        """Open the file, or make it.

        Args:
            path: of the file; ``":memory:"`` for none.
            dim: D, numbers of a full vector.
            prefix: numbers compared in the first stage, 1 to D.
            table: of the full vectors; that of the prefixes is called ``{table}_prefix``.

        Raises:
            ImportError: apsw or sqlite-vec is missing.
            OSError: the file cannot be opened or made.
            TypeError, ValueError: sizes out of range, no plain name, or a file that was made with
                other sizes or is no database.
        """
        super().__init__(dim, prefix, table)
        self._apsw, vec = _need("apsw"), _need("sqlite_vec")
        self.path = str(path)
        try:
            self._db = self._apsw.Connection(self.path)
        except self._apsw.CantOpenError as error:
            raise OSError(f"cannot open or make {self.path}; does its folder exist?") from error
        try:
            self._db.enable_load_extension(True)
            self._db.load_extension(vec.loadable_path())
            self._db.enable_load_extension(False)
            self._make_tables()
        except self._apsw.NotADBError as error:
            self.close()
            raise ValueError(f"{self.path} is no SQLite database; give another path") from error
        except BaseException:
            self.close()
            raise

    def _make_tables(self) -> None:
        table = self.table
        with self._db:
            # A note of the sizes: SQLite itself would take blobs of any length.
            self._db.execute(f"create table if not exists {table}_sizes (dim, prefix)")
            made = self._db.execute(f"select dim, prefix from {table}_sizes").fetchall()
            if made and made != [(self.dim, self.prefix)]:
                raise ValueError(
                    f"{self.path} was made with dim and prefix {made[0]}, "
                    f"not {(self.dim, self.prefix)}; open it with those, or take another file"
                )
            if not made:
                self._db.execute(
                    f"insert into {table}_sizes values (?, ?)", (self.dim, self.prefix)
                )
            self._db.execute(
                f'create table if not exists "{table}" '
                "(id integer primary key, embedding blob not null)"
            )
            self._db.execute(
                f"create virtual table if not exists {table}_prefix "
                f"using vec0(prefix float[{self.prefix}])"
            )

    def __len__(self) -> int:
        """Number of vectors."""
        return self._db.execute(f'select count(*) from "{self.table}"').fetchone()[0]

    def _count_up_to(self, most: int) -> int:
        limited = f'select 1 from "{self.table}" limit ?'
        return self._db.execute(f"select count(*) from ({limited})", (most,)).fetchone()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole database."""
        pages = self._db.execute("pragma page_count").fetchone()[0]
        return pages * self._db.execute("pragma page_size").fetchone()[0]

    @property
    def prefix_bytes(self) -> int:
        """Bytes of the prefixes and what SQLite keeps with them; the first stage reads most."""
        return self._db.execute(
            "select coalesce(sum(pgsize), 0) from dbstat where name like ? escape '!'",
            (self.table.replace("_", "!_") + "!_prefix!_%",),
        ).fetchone()[0]

    def add(self, emb: ArrayLike, ids: ArrayLike | None = None) -> None:
        """Insert vectors in one transaction: all of them, or none.

        Args:
            emb: (n, dim) full vectors of any length but zero; kept as float32.
            ids: (n,) integers of at least 0, none twice or in the index already; by default they
                go on after the largest one.

        Raises:
            TypeError, ValueError: wrong shape, NaN, a zero prefix, ids that clash. The index is
                then as it was.
        """
        last = self._db.execute(f'select max(id) from "{self.table}"').fetchone()[0]
        emb, ids = self._checked_rows(emb, ids, 0 if last is None else last + 1)
        try:
            with self._db:
                self._db.executemany(
                    f'insert into "{self.table}"(id, embedding) values (?, ?)', _blobs(emb, ids)
                )
                self._db.executemany(
                    f"insert into {self.table}_prefix(rowid, prefix) "
                    "values (?1, vec_normalize(vec_slice(?2, 0, ?3)))",
                    ((row, blob, self.prefix) for row, blob in _blobs(emb, ids)),
                )
        except self._apsw.ConstraintError as error:
            raise ValueError(
                f"one of the ids {ids.min()} to {ids.max()} is in the index already; "
                "nothing was added"
            ) from error

    def exact(self, queries: ArrayLike, top_k: int) -> Neighbours:
        """Compare each query with all numbers of every row; arguments as :meth:`search`."""
        return self.search(queries, top_k, shortlist=None)

    def search(self, queries: ArrayLike, top_k: int, shortlist: int | None) -> Neighbours:
        """Find a shortlist by prefix and order it by the cosine of all numbers, in one statement.

        Args:
            queries: (q, dim) full vectors, or one of shape (dim,).
            top_k: results per query, 1 <= top_k <= len(index).
            shortlist: rows that get to the second stage, top_k to 4,096; None for one stage with
                all numbers.

        Returns:
            The ids, the best first, and their cosines (float32, right to about 5 decimals).

        Raises:
            TypeError, ValueError: as :func:`mrl_course.search.shortlist_rerank`; zero prefixes, an
                empty index, a shortlist that is too long.
        """
        queries, one, top_k = self._checked_search(queries, top_k, shortlist, SQLITE_MAX_SHORTLIST)
        statement = self.statement(two_stages=shortlist is not None)
        values = {"top_k": top_k}
        if shortlist is not None:
            values |= {"k": self.prefix, "shortlist": shortlist}
        found = [
            self._db.execute(statement, values | {"query": query.tobytes()}).fetchall()
            for query in queries
        ]
        return _as_neighbours(found, one)

    def statement(self, two_stages: bool = True) -> str:
        """The SQL of :meth:`search`, with named parameters, to read or to use elsewhere."""
        if not two_stages:
            return f"""\
select id, 1 - vec_distance_cosine(embedding, :query) as score
from "{self.table}" order by score desc, id limit :top_k"""
        return f"""\
with shortlist as materialized (
  select rowid from {self.table}_prefix
  where prefix match vec_normalize(vec_slice(:query, 0, :k)) and k = :shortlist
)
select id, 1 - vec_distance_cosine(embedding, :query) as score
from shortlist join "{self.table}" on id = shortlist.rowid
order by score desc, id limit :top_k"""

    def close(self) -> None:
        """Close the file; doing so twice does no harm."""
        self._db.close()


def _blobs(emb: np.ndarray, ids: np.ndarray) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(emb), BATCH):
        rows = np.ascontiguousarray(to_float32(emb[start : start + BATCH]))
        yield from zip(ids[start : start + BATCH].tolist(), map(bytes, rows), strict=True)


# ---------------------------------------------------------------------------------- PostgreSQL


class PostgresIndex(_Index):
    """Vectors in a PostgreSQL table, with pgvector; an index on an expression holds the prefixes.

    Works with pgvector from 0.5 on. Up to 0.6 there is no ``subvector``; there the prefix is a
    slice through ``real[]``. The operators for cosine distance divide by the lengths, so the cut
    prefix needs no normalising of its own; those for inner products would need it.
    """

    def __init__(self, uri: str, dim: int, prefix: int, table: str = "items"):
        """Connect, and make the table if it is not there.

        Args:
            uri: of the database, for example ``TemporaryPostgres().uri``.
            dim: D, numbers of a full vector, up to 16,000.
            prefix: numbers compared in the first stage, 1 to D.
            table: its name; indexes are called ``{table}_prefix{k}`` and ``{table}_full``.

        Raises:
            ImportError: psycopg is missing.
            TypeError, ValueError: sizes out of range, no plain name, a server without pgvector, or
                a table that was made with other sizes.
        """
        super().__init__(dim, prefix, table)
        self._pg = _need("psycopg")
        self._db = self._pg.connect(uri, autocommit=True)
        try:
            self._db.execute("set client_min_messages = warning")  # "already exists, skipping"
            self._make_table()
        except self._pg.errors.FeatureNotSupported as error:
            self.close()
            raise ValueError(
                "this server has no pgvector; install it there, see "
                "https://github.com/pgvector/pgvector#installation"
            ) from error
        except BaseException:
            self.close()
            raise
        self.vector_version = self._one(
            "select extversion from pg_extension where extname='vector'"
        )

    def _make_table(self) -> None:
        with self._db.transaction():
            self._db.execute("create extension if not exists vector")
            self._db.execute(
                f'create table if not exists "{self.table}" '
                f"(id bigint primary key, embedding vector({self.dim}) not null)"
            )
        made = self._one(
            "select atttypmod from pg_attribute where attrelid = %s::regclass "
            "and attname = 'embedding'",
            f'"{self.table}"',
        )
        if made != self.dim:
            raise ValueError(
                f"the table {self.table} holds vectors of {made} numbers, not {self.dim}; "
                "open it with that size, or take another name"
            )

    def _one(self, statement: str, *values):
        row = self._db.execute(statement, values or None).fetchone()
        return None if row is None else row[0]

    def __len__(self) -> int:
        """Number of vectors."""
        return self._one(f'select count(*) from "{self.table}"')

    def _count_up_to(self, most: int) -> int:
        limited = f'select 1 from "{self.table}" limit %s'
        return self._one(f"select count(*) from ({limited}) as first_rows", most)

    @property
    def nbytes(self) -> int:
        """Bytes of the table with everything that belongs to it, indexes too."""
        return self._one("select pg_total_relation_size(%s::regclass)", f'"{self.table}"')

    def graph_bytes(self, full: bool = False) -> int:
        """Bytes of the graph over prefixes, or over full vectors; 0 if it was not built."""
        name = self._graph_name(full)
        return self._one("select coalesce(pg_relation_size(to_regclass(%s)), 0)", f'"{name}"')

    def _graph_name(self, full: bool) -> str:
        return f"{self.table}_full" if full else f"{self.table}_prefix{self.prefix}"

    @property
    def expression(self) -> str:
        """The prefix in SQL. An index is used only by a query with the very same expression."""
        if _version(self.vector_version) >= (0, 7):
            return f"subvector(embedding, 1, {self.prefix})::vector({self.prefix})"
        return f"(embedding::real[])[1:{self.prefix}]::vector({self.prefix})"

    def add(self, emb: ArrayLike, ids: ArrayLike | None = None) -> None:
        """Send vectors with one binary COPY: all of them, or none; see :meth:`SqliteIndex.add`."""
        last = self._one(f'select max(id) from "{self.table}"')
        emb, ids = self._checked_rows(emb, ids, 0 if last is None else last + 1)
        try:
            with self._db.transaction(), self._db.cursor() as cursor:
                with cursor.copy(
                    f'copy "{self.table}" (id, embedding) from stdin (format binary)'
                ) as copy:
                    for block in _copy_blocks(emb, ids):
                        copy.write(block)
        except self._pg.errors.UniqueViolation as error:
            raise ValueError(
                f"one of the ids {ids.min()} to {ids.max()} is in the index already; "
                "nothing was added"
            ) from error
        self._db.execute(f'analyze "{self.table}"')  # the planner should know how many they are

    def build_graph(
        self, full: bool = False, m: int = 16, ef_construction: int = 64, memory: str = "1GB"
    ) -> None:
        """Build an HNSW graph, best after all vectors are in; a second call builds it again.

        Args:
            full: over full vectors, for :meth:`search` without a shortlist, instead of prefixes.
            m, ef_construction: links of a node, and candidates while building (pgvector's
                defaults). More of both find more, and take more time and memory.
            memory: for building, as PostgreSQL writes it. A graph that does not fit into it is
                built many times more slowly.

        Raises:
            ValueError: vectors too long for a graph; values that the server refuses.
        """
        size = self.dim if full else self.prefix
        if size > POSTGRES_MAX_GRAPH_DIM:
            raise ValueError(
                f"a graph holds vectors of up to {POSTGRES_MAX_GRAPH_DIM} numbers, not {size}; "
                "take a prefix"
            )
        m, ef = check_count("m", m), check_count("ef_construction", ef_construction)
        name, what = self._graph_name(full), "embedding" if full else f"({self.expression})"
        try:
            with self._db.transaction():
                self._setting("maintenance_work_mem", memory)
                # Workers share memory that small containers do not have (/dev/shm).
                self._setting("max_parallel_maintenance_workers", "0")
                self._db.execute(f'drop index if exists "{name}"')
                self._db.execute(
                    f'create index "{name}" on "{self.table}" using hnsw ({what} '
                    f"vector_cosine_ops) with (m = {m}, ef_construction = {ef})"
                )
        except (self._pg.errors.InvalidParameterValue, self._pg.errors.DataError) as error:
            raise ValueError(f"the server refuses to build the graph: {error}") from error

    def exact(self, queries: ArrayLike, top_k: int) -> Neighbours:
        """Compare each query with all numbers of every row, whatever graphs there are."""
        queries, one, top_k = self._checked_search(queries, top_k, None, None)
        return self._run(queries, one, top_k, None, {"enable_indexscan": "off"})

    def search(
        self, queries: ArrayLike, top_k: int, shortlist: int | None, ef: int | None = None
    ) -> Neighbours:
        """Find a shortlist by prefix and order it by the cosine of all numbers, in one statement.

        Args:
            queries: (q, dim) full vectors, or one of shape (dim,).
            top_k: results per query, 1 <= top_k <= len(index).
            shortlist: rows that get to the second stage, top_k to 1,000; None for one stage with
                all numbers, over their graph if it was built.
            ef: how many rows a graph keeps in view, 1 to 1,000: more find more. By default twice
                the shortlist (or 10 * top_k), as far as allowed. Below ``shortlist`` it cuts the
                shortlist, without a word.

        Returns:
            The ids, the best first, and their cosines. A graph may find fewer than ``top_k`` rows
            only if ``ef`` is below it, which is an error here.

        Raises:
            TypeError, ValueError: as :meth:`SqliteIndex.search`.
        """
        queries, one, top_k = self._checked_search(
            queries, top_k, shortlist, POSTGRES_MAX_SHORTLIST
        )
        wide = 10 * top_k if shortlist is None else 2 * shortlist
        ef = min(wide, POSTGRES_MAX_SHORTLIST) if ef is None else ef
        check_count("ef", ef, most=POSTGRES_MAX_SHORTLIST, of="what pgvector allows")
        settings = {"hnsw.ef_search": str(ef)}
        if self.graph_bytes(full=shortlist is None):
            if ef < top_k:
                raise ValueError(f"ef = {ef} lets a graph find {ef} rows, top_k is {top_k}")
            settings["enable_seqscan"] = "off"  # on small tables the planner may prefer a scan
        return self._run(queries, one, top_k, shortlist, settings)

    def _run(self, queries, one, top_k, shortlist, settings) -> Neighbours:
        statement, found = self.statement(two_stages=shortlist is not None), []
        with self._db.transaction():
            for name, value in settings.items():
                self._setting(name, value)
            for query in queries:
                values = {"query": _literal(query), "top_k": top_k}
                if shortlist is not None:
                    short = _literal(query[: self.prefix])
                    values |= {"short": short, "shortlist": shortlist}
                found.append(self._db.execute(statement, values).fetchall())
        return _as_neighbours(found, one)

    def _setting(self, name: str, value: str) -> None:
        """Change a setting until the end of the transaction."""
        self._db.execute("select set_config(%s, %s, true)", (name, value))

    def statement(self, two_stages: bool = True) -> str:
        """The SQL of :meth:`search`, with psycopg's parameters, to read or to use elsewhere."""
        query = f"%(query)s::vector({self.dim})"
        if not two_stages:
            return f"""\
select id, 1 - (embedding <=> {query}) as score
from "{self.table}" order by embedding <=> {query} limit %(top_k)s"""
        return f"""\
select id, 1 - (embedding <=> {query}) as score
from (
  select id, embedding from "{self.table}"
  order by {self.expression} <=> %(short)s::vector({self.prefix}) limit %(shortlist)s
) as shortlist
order by embedding <=> {query}, id limit %(top_k)s"""

    def plan(self, shortlist: int | None, top_k: int = 10) -> str:
        """What the server would do for a search, in its own words (``explain``), without vectors.

        With a graph there is a line ``Index Scan using ...``; without one, ``Seq Scan``.
        """
        values = {"query": _literal(np.ones(self.dim)), "top_k": top_k}
        values |= {"short": _literal(np.ones(self.prefix)), "shortlist": shortlist}
        statement = "explain (costs off) " + self.statement(two_stages=shortlist is not None)
        with self._db.transaction():
            if self.graph_bytes(full=shortlist is None):
                self._setting("enable_seqscan", "off")
            lines = [line for (line,) in self._db.execute(statement, values)]
        return re.sub(r"'\[[^]]*\]'", "'[...]'", "\n".join(lines))

    def close(self) -> None:
        """Close the connection; doing so twice does no harm."""
        self._db.close()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _literal(vector: np.ndarray) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _copy_blocks(emb: np.ndarray, ids: np.ndarray) -> Iterator[bytes]:
    """PostgreSQL's binary format: a header, rows of (length, value) fields, an end mark.

    Text would be four times as long, and would have to be parsed.
    """
    dim = emb.shape[1]
    row = np.dtype(
        [("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8"), ("vector_bytes", ">i4"),
         ("dim", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dim,))]
    )  # fmt: skip
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, len(emb), BATCH):
        rows = np.zeros(len(emb[start : start + BATCH]), row)
        rows["fields"], rows["id_bytes"], rows["id"] = 2, 8, ids[start : start + BATCH]
        rows["vector_bytes"], rows["dim"] = 4 + 4 * dim, dim
        rows["vector"] = to_float32(emb[start : start + BATCH])
        yield rows.tobytes()
    yield b"\xff\xff"


class TemporaryPostgres:
    """A PostgreSQL server with pgvector in a temporary folder; stopping it removes everything.

    It comes from the package ``pgserver`` (PostgreSQL 16 and pgvector 0.6 in its version 0.1.4),
    listens on a socket file only, and asks nobody for a password: for lessons and tests.

    PostgreSQL refuses to run as root. When root starts it, pgserver adds a system user named
    ``pgserver`` (with ``useradd``) and lets everybody read the folders on the way to its files.
    In a container that is harmless; on a machine of yours, do not work as root.

    Attributes:
        uri: for :class:`PostgresIndex`.
    """

    def __init__(self):
        """Start the server; it takes a few seconds.

        Raises:
            ImportError: pgserver is missing; it has no wheels for Python 3.13 and later, nor for
                Linux on ARM.
            RuntimeError: the server does not start; the message says why.
        """
        with warnings.catch_warnings():
            # It asks where sockets may lie; the answer "in a temporary folder" is a warning.
            warnings.simplefilter("ignore")
            pgserver = _need("pgserver")
        self._folder = Path(tempfile.mkdtemp(prefix="mrl-postgres-"))
        self._server = None
        try:
            self._server = pgserver.get_server(self._folder / "data", cleanup_mode="delete")
            self.uri = self._server.get_uri()
        except Exception as error:
            self.stop()
            detail = getattr(error, "stderr", None) or error
            raise RuntimeError(f"PostgreSQL does not start: {detail}") from error

    def stop(self) -> None:
        """Stop the server and remove its folder; doing so twice does no harm."""
        server, self._server = self._server, None
        if server is not None:
            server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> TemporaryPostgres:
        """Return the running server."""
        return self

    def __exit__(self, *_exception) -> None:
        """Stop it."""
        self.stop()
