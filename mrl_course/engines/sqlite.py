"""Two-stage search in one SQLite file, with sqlite-vec."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mrl_course.engines.shared import (
    LOCK_SECONDS,
    SQLITE_MAX_SHORTLIST,
    TwoStageIndex,
    as_neighbours,
    fitted_blocks,
    need,
)
from mrl_course.errors import WrongValue
from mrl_course.files import user_path
from mrl_course.ranking import unit_rows
from mrl_course.search import Neighbours

_ORTHOGONAL = 2**0.5  # distance of two unit vectors with cosine 0


class SqliteIndex(TwoStageIndex):
    """Vectors in one SQLite file, searched with sqlite-vec: exact in each stage, no graph.

    The prefixes lie side by side in a ``vec0`` table, normalised. The full vectors are blobs of an
    ordinary table, which gives single rows faster than ``vec0`` does; a third table lists the few
    rows whose prefix is zero, which have no place among unit vectors. When another program holds
    the file locked, the index waits for up to 5 seconds.

    apsw brings its own SQLite, because the ``sqlite3`` of many Pythons (macOS's own among them)
    cannot load extensions.
    """

    def __init__(self, path: str | Path, dim: int, prefix: int, table: str = "items") -> None:
        """Open the file, or make it.

        Args:
            path: of the file, ``~`` is the home folder; ``":memory:"`` for none.
            dim: D, numbers of a full vector.
            prefix: numbers compared in the first stage, 1 to D.
            table: of the full vectors; that of the prefixes is called ``{table}_prefix``.

        Raises:
            ImportError: apsw or sqlite-vec is missing.
            OSError: the file cannot be opened or made, is damaged, or stays locked.
            TypeError, ValueError: sizes out of range, no plain name, or a file that was made with
                other sizes, is no database or has another program's tables under these names.
        """
        super().__init__(dim, prefix, table)
        self._apsw, vec = need("apsw"), need("sqlite_vec")
        if table.lower().startswith("sqlite_"):
            raise WrongValue(f"table {table!r}: names that begin with sqlite_ belong to SQLite")
        self.path = ":memory:" if str(path) == ":memory:" else str(user_path(path))
        with self._plain_errors():
            self._db = self._apsw.Connection(self.path)
        try:
            with self._plain_errors():
                self._db.set_busy_timeout(LOCK_SECONDS * 1000)
                self._db.enable_load_extension(True)
                self._db.load_extension(vec.loadable_path())
                self._db.enable_load_extension(False)
                self._make_tables()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn apsw's errors into OSError and ValueError, in words that say what to do."""
        apsw, path = self._apsw, self.path
        try:
            yield
        except (apsw.BusyError, apsw.LockedError) as error:
            raise OSError(
                f"{path} is locked by another program since {LOCK_SECONDS} s ({error}); nothing "
                "was changed; wait for it or end it, and try again"
            ) from error
        except apsw.CantOpenError as error:
            raise OSError(f"cannot open or make {path}; does its folder exist?") from error
        except apsw.NotADBError as error:
            raise WrongValue(f"{path} is no SQLite database; give another path") from error
        except apsw.ConnectionClosedError as error:
            raise WrongValue(f"this index of {path} is closed; open it again") from error
        except apsw.SQLError as error:
            raise WrongValue(
                f"{path} holds something else than this index made ({error}); give another table= "
                "or another path"
            ) from error
        except apsw.CorruptError as error:
            raise OSError(f"{path} is damaged ({error}); make the index again") from error
        except apsw.Error as error:
            raise OSError(f"SQLite cannot go on with {path}: {error}") from error

    def _make_tables(self) -> None:
        table = self.table
        names = [table, f"{table}_prefix", f"{table}_zero", f"{table}_sizes"]
        with self._db:
            there = self._db.execute("select lower(name) from sqlite_master").fetchall()
            taken = [name for name in names if (name.lower(),) in there]
            if taken and f"{table}_sizes" not in taken:
                raise WrongValue(
                    f"{self.path} has a table {taken[0]} that this index did not make; give "
                    "another table= or another path"
                )
            # A note of the sizes: SQLite itself would take blobs of any length.
            self._db.execute(f"create table if not exists {table}_sizes (dim, prefix)")
            made = self._db.execute(f"select dim, prefix from {table}_sizes").fetchall()
            if made and made != [(self.dim, self.prefix)]:
                raise WrongValue(
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
            self._db.execute(f"create table if not exists {table}_zero (id integer primary key)")

    def _all(self, statement: str, values: Any = None) -> list[tuple]:
        with self._plain_errors():
            return self._db.execute(statement, values).fetchall()

    def __len__(self) -> int:
        """Number of vectors."""
        return self._all(f'select count(*) from "{self.table}"')[0][0]

    def _count_up_to(self, most: int) -> int:
        limited = f'select 1 from "{self.table}" limit ?'
        return self._all(f"select count(*) from ({limited})", (most,))[0][0]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole database."""
        return self._all("pragma page_count")[0][0] * self._all("pragma page_size")[0][0]

    @property
    def prefix_bytes(self) -> int:
        """Bytes of the prefixes and what SQLite keeps with them; the first stage reads most."""
        return self._all(
            "select coalesce(sum(pgsize), 0) from dbstat where name like ? escape '!'",
            (self.table.replace("_", "!_") + "!_prefix!_%",),
        )[0][0]

    def add(self, emb: ArrayLike, ids: ArrayLike | None = None) -> None:
        """Insert vectors in one transaction: all of them, or none.

        Args:
            emb: (n, dim) full vectors of any length; kept as float32, and scaled where float32
                could not square their numbers, which changes no cosine. Rows of zeros are counted
                in a warning.
            ids: (n,) integers of at least 0, none twice or in the index already; by default they
                go on after the largest one.

        Raises:
            TypeError, ValueError: wrong shape, NaN, ids that clash. The index is then as it was.
            OSError: the file is locked by another program for too long, or cannot be written.
        """
        with self._plain_errors(), self._writing():
            self._add(emb, ids)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that holds the lock from its start, so that no other one comes between."""
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise

    def _add(self, emb: ArrayLike, ids: ArrayLike | None) -> None:
        last = self._db.execute(f'select max(id) from "{self.table}"').fetchone()[0]
        rows, numbers = self._checked_rows(emb, ids, 0 if last is None else last + 1)
        insert = f'insert into "{self.table}"(id, embedding) values (?, ?)'
        insert_prefix = f"insert into {self.table}_prefix(rowid, prefix) values (?, ?)"
        insert_zero = f"insert into {self.table}_zero(id) values (?)"
        try:
            for some, block in fitted_blocks(rows, numbers):
                self._db.executemany(insert, _blobs(some, block))
                short = unit_rows(block[:, : self.prefix])
                zero = ~short.any(axis=1)
                self._db.executemany(insert_prefix, _blobs(some[~zero], short[~zero]))
                self._db.executemany(insert_zero, ((row,) for row in some[zero].tolist()))
        except self._apsw.ConstraintError as error:
            raise WrongValue(
                f"one of the ids {numbers.min()} to {numbers.max()} is in the index already; "
                "nothing was added"
            ) from error

    def exact(self, queries: ArrayLike, top_k: int) -> Neighbours:
        """Compare each query with all numbers of every row; arguments as :meth:`search`."""
        return self.search(queries, top_k, shortlist_size=None)

    def search(self, queries: ArrayLike, top_k: int, shortlist_size: int | None) -> Neighbours:
        """Find a shortlist by prefix and order it by the cosine of all numbers, in one statement.

        Args:
            queries: (q, dim) full vectors, or one of shape (dim,).
            top_k: results per query, 1 <= top_k <= len(index).
            shortlist_size: rows that get to the second stage, top_k to 4,096; None for one stage
                with all numbers.

        Returns:
            The ids, the best first, and their cosines (float32, right to about 5 decimals).

        Raises:
            TypeError, ValueError: as :func:`mrl_course.search.shortlist_rerank`; an empty index, a
                shortlist that is too long.
            OSError: the file is locked by another program for too long, or damaged.
        """
        search = self._checked_search(queries, top_k, shortlist_size, SQLITE_MAX_SHORTLIST)
        shorts = unit_rows(search.queries[:, : self.prefix])
        zero_rows_there = bool(self._all(f"select exists(select 1 from {self.table}_zero)")[0][0])
        found = []
        for query, short in zip(search.queries, shorts, strict=True):
            odd = zero_rows_there or np.square(query[: self.prefix]).sum() < 1e-30
            two_stages = search.shortlist_size is not None
            if odd:
                statement = self._statement_for_zeros(two_stages, bool(short.any()))
            else:
                statement = self.statement(two_stages)
            values = {"query": query.tobytes(), "top_k": search.top_k, "k": self.prefix}
            values |= {"short": short.tobytes(), "shortlist": search.shortlist_size}
            found.append(self._all(statement, values))
        return as_neighbours(found, search.one)

    def _statement_for_zeros(self, two_stages: bool, directed: bool) -> str:
        """The SQL where rows or the query hold zeros: SQLite knows no cosine of those.

        Args:
            two_stages: with a shortlist.
            directed: whether the query's prefix is not zero.
        """
        score = "coalesce(1 - vec_distance_cosine(embedding, :query), 0) as score"
        if not two_stages:
            return f'select id, {score} from "{self.table}" order by score desc, id limit :top_k'
        by_prefix = f"""\
  select id from (
    select * from (
      select rowid as id, distance from {self.table}_prefix
      where prefix match :short and k = :shortlist
    )
    union all select id, {_ORTHOGONAL} from {self.table}_zero
  ) order by distance, id limit :shortlist"""
        if not directed:
            by_prefix = f'select id from "{self.table}" order by id limit :shortlist'
        return f"""\
with shortlist as materialized ({by_prefix})
select "{self.table}".id, {score}
from shortlist join "{self.table}" on "{self.table}".id = shortlist.id
order by score desc, 1 limit :top_k"""

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


def _blobs(ids: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    return zip(ids.tolist(), map(bytes, rows), strict=True)
