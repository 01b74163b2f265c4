"""Two-stage search in PostgreSQL, with pgvector; and a server for lessons and tests."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.arguments import check_count
from mrl_course.engines.shared import (
    LOCK_SECONDS,
    POSTGRES_MAX_GRAPH_DIM,
    POSTGRES_MAX_SHORTLIST,
    Search,
    TwoStageIndex,
    as_neighbours,
    fitted_blocks,
    need,
)
from mrl_course.errors import WrongValue
from mrl_course.search import Neighbours

CONNECT_SECONDS = 10  # that a server may take to answer


class PostgresIndex(TwoStageIndex):
    """Vectors in a PostgreSQL table, with pgvector; an index on an expression holds the prefixes.

    Works with pgvector from 0.5 on. Up to 0.6 there is no ``subvector``; there the prefix is a
    slice through ``real[]``. The operators for cosine distance divide by the lengths, so the cut
    prefix needs no normalising of its own; those for inner products would need it.
    """

    def __init__(self, uri: str, dim: int, prefix: int, table: str = "items") -> None:
        """Connect, and make the table if it is not there.

        Args:
            uri: of the database, for example ``TemporaryPostgres().uri``.
            dim: D, numbers of a full vector, up to 16,000.
            prefix: numbers compared in the first stage, 1 to D.
            table: its name; indexes are called ``{table}_prefix{k}`` and ``{table}_full``.

        Raises:
            ImportError: psycopg is missing.
            OSError: the server does not answer within 10 seconds, or lets nobody in.
            TypeError, ValueError: sizes out of range, no plain name, a server without pgvector, or
                a table that was made with other sizes.
        """
        super().__init__(dim, prefix, table)
        self._pg = need("psycopg")
        with self._plain_errors():
            patience = {"connect_timeout": CONNECT_SECONDS}
            with contextlib.suppress(self._pg.ProgrammingError):  # connect() itself says what it is
                if "connect_timeout" in self._pg.conninfo.conninfo_to_dict(uri):
                    patience = {}
            self._db = self._pg.connect(uri, autocommit=True, **patience)
        try:
            with self._plain_errors():
                self._db.execute("set client_min_messages = warning")  # "already exists, skipping"
                self._db.execute(f"set lock_timeout = '{LOCK_SECONDS}s'")
                self._make_table()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn psycopg's errors into OSError and ValueError, in words that say what to do."""
        errors = self._pg.errors
        try:
            yield
        except errors.FeatureNotSupported as error:
            raise WrongValue(
                f"this server has no pgvector, or an old one ({_first_line(error)}); install it "
                "there, see https://github.com/pgvector/pgvector#installation"
            ) from error
        except errors.LockNotAvailable as error:
            raise OSError(
                f"the table is locked by another session since {LOCK_SECONDS} s; nothing was "
                "changed; try again"
            ) from error
        except (self._pg.OperationalError, self._pg.InterfaceError) as error:
            raise OSError(
                f"the connection to PostgreSQL failed or is closed ({_first_line(error)}); open "
                "the index again"
            ) from error
        except (self._pg.DataError, self._pg.ProgrammingError) as error:
            raise WrongValue(f"the server refuses: {_first_line(error)}") from error
        except self._pg.Error as error:
            raise OSError(f"PostgreSQL cannot go on: {_first_line(error)}") from error

    def _make_table(self) -> None:
        with self._db.transaction():
            self._db.execute("create extension if not exists vector")
            self.vector_version: str = self._one(
                "select extversion from pg_extension where extname='vector'"
            )
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
            raise WrongValue(
                f"the table {self.table} holds vectors of {made} numbers, not {self.dim}; "
                "open it with that size, or take another name"
            )
        # Lists the few rows whose prefix is zero, which have no cosine here.
        name = f"{self.table}_zero{self.prefix}"
        if self._one("select to_regclass(%s)", f'"{name}"') is None:
            self._db.execute(f'create index "{name}" on "{self.table}" (id) where {self._is_zero}')

    @property
    def _is_zero(self) -> str:
        return f"vector_norm({self.expression}) = 0"

    def _one(self, statement: str, *values: object) -> Any:
        with self._plain_errors():
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
        rows, numbers = self._checked_rows(emb, ids, 0 if last is None else last + 1)
        with self._plain_errors():
            self._copy(rows, numbers)

    def _copy(self, emb: np.ndarray, ids: np.ndarray) -> None:
        try:
            with self._db.transaction(), self._db.cursor() as cursor:
                with cursor.copy(
                    f'copy "{self.table}" (id, embedding) from stdin (format binary)'
                ) as copy:
                    for block in _copy_blocks(emb, ids):
                        copy.write(block)
        except self._pg.errors.UniqueViolation as error:
            raise WrongValue(
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
            raise WrongValue(
                f"a graph holds vectors of up to {POSTGRES_MAX_GRAPH_DIM} numbers, not {size}; "
                "take a prefix"
            )
        m, ef = check_count("m", m), check_count("ef_construction", ef_construction)
        name, what = self._graph_name(full), "embedding" if full else f"({self.expression})"
        try:
            with self._plain_errors(), self._db.transaction():
                self._setting("maintenance_work_mem", memory)
                # Workers share memory that small containers do not have (/dev/shm).
                self._setting("max_parallel_maintenance_workers", "0")
                self._db.execute(f'drop index if exists "{name}"')
                self._db.execute(
                    f'create index "{name}" on "{self.table}" using hnsw ({what} '
                    f"vector_cosine_ops) with (m = {m}, ef_construction = {ef})"
                )
        except WrongValue as error:
            raise WrongValue(f"the server refuses to build the graph: {error}") from error

    def exact(self, queries: ArrayLike, top_k: int) -> Neighbours:
        """Compare each query with all numbers of every row, whatever graphs there are."""
        search = self._checked_search(queries, top_k, None, None)
        return self._run(search, {"enable_indexscan": "off"})

    def search(
        self, queries: ArrayLike, top_k: int, shortlist_size: int | None, ef: int | None = None
    ) -> Neighbours:
        """Find a shortlist by prefix and order it by the cosine of all numbers, in one statement.

        Args:
            queries: (q, dim) full vectors, or one of shape (dim,).
            top_k: results per query, 1 <= top_k <= len(index).
            shortlist_size: rows that get to the second stage, top_k to 1,000; None for one stage
                with all numbers, over their graph if it was built.
            ef: how many rows a graph keeps in view, 1 to 1,000: more find more. By default twice
                the shortlist (or 10 * top_k), as far as allowed. Below ``shortlist_size`` it cuts
                the shortlist, without a word.

        Returns:
            The ids, the best first, and their cosines. A graph may find fewer than ``top_k`` rows
            only if ``ef`` is below it, which is an error here.

        Raises:
            TypeError, ValueError: as :meth:`SqliteIndex.search`.
        """
        search = self._checked_search(queries, top_k, shortlist_size, POSTGRES_MAX_SHORTLIST)
        wide = 10 * search.top_k if search.shortlist_size is None else 2 * search.shortlist_size
        ef = min(wide, POSTGRES_MAX_SHORTLIST) if ef is None else ef
        ef = check_count("ef", ef, most=POSTGRES_MAX_SHORTLIST, of="what pgvector allows")
        settings = {"hnsw.ef_search": str(ef)}
        if self.graph_bytes(full=search.shortlist_size is None):
            if ef < search.top_k:
                raise WrongValue(f"ef = {ef} lets a graph find {ef} rows, top_k is {search.top_k}")
            settings["enable_seqscan"] = "off"  # on small tables the planner may prefer a scan
        return self._run(search, settings)

    def _run(self, search: Search, settings: dict[str, str]) -> Neighbours:
        found = []
        two_stages = search.shortlist_size is not None
        with self._plain_errors(), self._db.transaction():
            zeros_there = self._zeros_there()
            for name, value in settings.items():
                self._setting(name, value)
            for query in search.queries:
                short = query[: self.prefix]
                if zeros_there or not short.any():
                    statement = self._statement_for_zeros(two_stages, bool(short.any()))
                else:
                    statement = self.statement(two_stages)
                values = {"query": _literal(query), "top_k": search.top_k}
                values |= {"short": _literal(short), "shortlist": search.shortlist_size}
                found.append(self._db.execute(statement, values).fetchall())
        return as_neighbours(found, search.one)

    def _zeros_there(self) -> bool:
        """Whether a row has a zero prefix; asks the partial index, whatever the planner thinks."""
        with self._db.transaction():
            self._setting("enable_seqscan", "off")
            found = self._one(f'select 1 from "{self.table}" where {self._is_zero} limit 1')
            self._setting("enable_seqscan", "on")
        return found is not None

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

    def _statement_for_zeros(self, two_stages: bool, directed: bool) -> str:
        """The SQL where rows or the query hold zeros, whose cosine is NaN here and counts as 0.

        Args:
            two_stages: with a shortlist.
            directed: whether the query's prefix is not zero.
        """
        query = f"%(query)s::vector({self.dim})"
        score = f"coalesce(nullif(1 - (embedding <=> {query}), 'NaN'), 0) as score"
        table = f'"{self.table}"'
        if two_stages and directed:
            distance = f"{self.expression} <=> %(short)s::vector({self.prefix})"
            table = f"""(
  select id, embedding from (
    (select id, embedding, {distance} as distance from {table}
     order by {distance} limit %(shortlist)s)
    union all (select id, embedding, 1 from {table} where {self._is_zero})
  ) as both_kinds where distance <> 'NaN' order by distance, id limit %(shortlist)s
) as shortlist"""
        elif two_stages:
            table = (
                f"(select id, embedding from {table} order by id limit %(shortlist)s) as shortlist"
            )
        return f"select id, {score} from {table} order by score desc, id limit %(top_k)s"

    def plan(self, shortlist_size: int | None, top_k: int = 10) -> str:
        """What the server would do for a search, in its own words (``explain``), without vectors.

        With a graph there is a line ``Index Scan using ...``; without one, ``Seq Scan``.
        """
        values = {"query": _literal(np.ones(self.dim)), "top_k": top_k}
        values |= {"short": _literal(np.ones(self.prefix)), "shortlist": shortlist_size}
        statement = "explain (costs off) " + self.statement(two_stages=shortlist_size is not None)
        with self._plain_errors(), self._db.transaction():
            if self.graph_bytes(full=shortlist_size is None):
                self._setting("enable_seqscan", "off")
            lines = [line for (line,) in self._db.execute(statement, values)]
        return re.sub(r"'\[[^]]*\]'", "'[...]'", "\n".join(lines))

    def close(self) -> None:
        """Close the connection; doing so twice does no harm."""
        self._db.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
    for some, block in fitted_blocks(emb, ids):
        rows = np.zeros(len(block), row)
        rows["fields"], rows["id_bytes"], rows["id"] = 2, 8, some
        rows["vector_bytes"], rows["dim"] = 4 + 4 * dim, dim
        rows["vector"] = block
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

    def __init__(self) -> None:
        """Start the server; it takes a few seconds.

        Raises:
            ImportError: pgserver is missing; it has no wheels for Python 3.13 and later, nor for
                Linux on ARM.
            RuntimeError: the server does not start; the message says why.
        """
        with warnings.catch_warnings():
            # It asks where sockets may lie; the answer "in a temporary folder" is a warning.
            warnings.simplefilter("ignore")
            pgserver = need("pgserver")
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

    def __exit__(self, *_exception: object) -> None:
        """Stop it."""
        self.stop()
