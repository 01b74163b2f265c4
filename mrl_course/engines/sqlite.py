"""Two-stage search in one SQLite file, with sqlite-vec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.engines.shared import (
    BATCH,
    SQLITE_MAX_SHORTLIST,
    TwoStageIndex,
    as_neighbours,
    need,
)
from mrl_course.ranking import to_float32
from mrl_course.search import Neighbours


class SqliteIndex(TwoStageIndex):
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
        self._apsw, vec = need("apsw"), need("sqlite_vec")
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
        return as_neighbours(found, one)

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
