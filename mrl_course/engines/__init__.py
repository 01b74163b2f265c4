"""Two-stage search inside engines that people already run: SQLite and PostgreSQL.

Both classes have one shape. They keep full vectors under integer ids, hold the first ``prefix``
numbers where a search can read them cheaply, and answer with the
:class:`~mrl_course.search.Neighbours` that :func:`mrl_course.search.shortlist_rerank` would give:

    with SqliteIndex("vectors.db", dim=768, prefix=64) as index:
        index.add(embeddings)
        ids, scores = index.search(queries, top_k=10, shortlist_size=200)

:class:`SqliteIndex` is one file and no server; its first stage is exact. :class:`PostgresIndex`
needs a server with pgvector; its first stage is exact until :meth:`PostgresIndex.build_graph` is
called, and approximate then. :class:`TemporaryPostgres` starts a server for a lesson or a test.

Everything here needs the extra ``servers``: ``pip install "mrl-course[servers]"``.
"""

from mrl_course.engines.postgres import (
    POSTGRES_MAX_GRAPH_DIM,
    POSTGRES_MAX_SHORTLIST,
    PostgresIndex,
    TemporaryPostgres,
)
from mrl_course.engines.shared import check_table_name, missing_modules
from mrl_course.engines.sqlite import SQLITE_MAX_SHORTLIST, SqliteIndex

__all__ = [
    "POSTGRES_MAX_GRAPH_DIM",
    "POSTGRES_MAX_SHORTLIST",
    "SQLITE_MAX_SHORTLIST",
    "PostgresIndex",
    "SqliteIndex",
    "TemporaryPostgres",
    "check_table_name",
    "missing_modules",
]
