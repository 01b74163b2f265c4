"""Both engines give what shortlist_rerank gives, and bad input costs nothing."""

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_course import engines
from mrl_course.engines import PostgresIndex, SqliteIndex, TemporaryPostgres, missing_modules
from mrl_course.errors import WrongKind, WrongValue
from mrl_course.search import exact_search, shortlist_rerank

needs_sqlite = pytest.mark.skipif(
    bool(missing_modules("sqlite")), reason=f"modules missing: {missing_modules('sqlite')}"
)
needs_postgres = pytest.mark.skipif(
    bool(missing_modules("postgres")),
    reason=f"modules missing: {missing_modules('postgres')} (no wheel for this Python or system?)",
)
ENGINES = [
    pytest.param("sqlite", marks=needs_sqlite),
    pytest.param("postgres", marks=needs_postgres),
]


def vectors(seed, rows=300, dim=24, queries=6):
    """Queries and corpus of unequal lengths; random, so that no two cosines are equal."""
    rng = np.random.default_rng(seed)
    emb = rng.normal(size=(rows + queries, dim)) * 0.9 ** np.arange(dim)
    emb *= rng.uniform(0.2, 5, size=(len(emb), 1))
    return np.split(emb.astype(np.float32), [queries])


@pytest.fixture(scope="module")
def server():
    with TemporaryPostgres() as running:
        yield running


@pytest.fixture
def make(request, tmp_path):
    """make(engine, dim, prefix) -> an index with an empty table of its own."""
    made = []

    def build(engine, dim=24, prefix=4, table="items"):
        if engine == "sqlite":
            made.append(SqliteIndex(tmp_path / f"{table}.db", dim, prefix, table))
        else:
            index = PostgresIndex(request.getfixturevalue("server").uri, dim, prefix, table)
            made.append(index)
        return made[-1]

    yield build
    for index in made:
        if isinstance(index, PostgresIndex) and not index._db.closed:
            index._db.execute(f'drop table if exists "{index.table}"')
        index.close()


# ------------------------------------------------------------------------------- same results


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), prefix=st.integers(2, 24), size=st.integers(10, 400))
def test_an_exact_first_stage_gives_the_rows_of_shortlist_rerank(
    engine, seed, prefix, size, server_uri
):
    queries, corpus = vectors(seed)
    want = shortlist_rerank(queries, corpus, prefix, size, 10)
    with tempfile.TemporaryDirectory() as folder:
        if engine == "sqlite":
            index = SqliteIndex(Path(folder) / "v.db", 24, prefix)
        else:
            index = PostgresIndex(server_uri(), 24, prefix, table="hypothesis_items")
        with index:
            try:
                index.add(corpus)
                found = index.search(queries, 10, size)
                everything = index.exact(queries, 10)
            finally:
                if engine == "postgres":
                    index._db.execute("drop table hypothesis_items")
    np.testing.assert_array_equal(found.indices, want.indices)
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-5)
    exact = exact_search(queries, corpus, 10)
    np.testing.assert_array_equal(everything.indices, exact.indices)
    np.testing.assert_allclose(everything.scores, exact.scores, atol=1e-5)


@pytest.fixture(scope="module")
def server_uri(request):
    """A function, so that the test of SQLite does not start a server."""
    return lambda: request.getfixturevalue("server").uri


@pytest.mark.parametrize("engine", ENGINES)
def test_one_query_gives_one_row_of_results(engine, make):
    queries, corpus = vectors(1)
    index = make(engine)
    index.add(corpus)
    one, many = index.search(queries[0], 5, 50), index.search(queries, 5, 50)
    assert one.indices.shape == (5,) and many.indices.shape == (6, 5)
    np.testing.assert_array_equal(one.indices, many.indices[0])
    assert one.indices.dtype == np.int64 and one.scores.dtype == np.float32


@pytest.mark.parametrize("engine", ENGINES)
def test_own_ids_come_back_and_default_ids_go_on(engine, make):
    queries, corpus = vectors(2)
    index = make(engine)
    index.add(corpus[:100], ids=np.arange(100) * 7)
    index.add(corpus[100:])
    assert len(index) == 300
    ids = np.concatenate([np.arange(100) * 7, 694 + np.arange(200)])
    want = shortlist_rerank(queries, corpus, 4, 60, 10)
    np.testing.assert_array_equal(index.search(queries, 10, 60).indices, ids[want.indices])
    assert index.nbytes > corpus.nbytes


@needs_sqlite
def test_a_file_is_opened_again_with_what_was_in_it(tmp_path):
    queries, corpus = vectors(3)
    with SqliteIndex(tmp_path / "v.db", 24, 4) as index:
        index.add(corpus)
        want = index.search(queries, 10, 50)
    with SqliteIndex(tmp_path / "v.db", 24, 4) as index:
        assert len(index) == 300
        np.testing.assert_array_equal(index.search(queries, 10, 50).indices, want.indices)
    for sizes in ((24, 5), (23, 4)):
        with pytest.raises(ValueError, match=r"was made with dim and prefix \(24, 4\)"):
            SqliteIndex(tmp_path / "v.db", *sizes)
    assert [file.name for file in tmp_path.iterdir()] == ["v.db"]


@needs_postgres
def test_a_table_is_opened_again_but_not_with_another_size(make):
    make("postgres").add(vectors(3)[1])
    assert len(make("postgres")) == 300
    with pytest.raises(ValueError, match="holds vectors of 24 numbers, not 30"):
        make("postgres", dim=30)


# ----------------------------------------------------------------------------------- a graph


@needs_postgres
def test_a_graph_finds_nearly_what_the_exact_stage_finds(make):
    queries, corpus = vectors(4, rows=3000, queries=50)
    index = make("postgres", prefix=8)
    index.add(corpus)
    assert "Seq Scan" in index.plan(shortlist_size=100) and not index.graph_bytes()
    index.build_graph()
    assert "Index Scan using items_prefix8" in index.plan(shortlist_size=100)
    want = shortlist_rerank(queries, corpus, 8, 100, 10).indices
    exact = exact_search(queries, corpus, 10).indices
    got = index.search(queries, 10, 100).indices

    def recall(found):
        return np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)])

    assert recall(got) > recall(want) - 0.02
    np.testing.assert_array_equal(index.exact(queries, 10).indices, exact)  # no graph used
    # A view narrower than the shortlist cuts it: ten rows by prefix, put in order.
    narrow = index.search(queries, 10, 100, ef=10).indices
    assert recall(narrow) < recall(got) - 0.05
    alone = exact_search(queries, corpus, 10, dim=8).indices
    assert recall(narrow) == pytest.approx(recall(alone), abs=0.06)


@needs_postgres
def test_a_graph_over_full_vectors_serves_one_stage_and_is_larger(make):
    queries, corpus = vectors(5, rows=2000, queries=30, dim=96)
    index = make("postgres", dim=96, prefix=8)
    index.add(corpus)
    index.build_graph()
    index.build_graph(full=True)
    assert "items_full" in index.plan(shortlist_size=None)
    exact = exact_search(queries, corpus, 10).indices
    assert np.mean(index.search(queries, 10, None).indices == exact) > 0.95
    assert index.graph_bytes(full=True) > 1.3 * index.graph_bytes() > 0
    before = index.graph_bytes()
    index.build_graph(m=32)
    assert index.graph_bytes() > before  # built again, not beside


@needs_postgres
def test_the_expression_fits_the_version_of_pgvector(make):
    index = make("postgres")
    assert (
        index.expression
        == {
            True: "subvector(embedding, 1, 4)::vector(4)",
            False: "(embedding::real[])[1:4]::vector(4)",
        }[engines.postgres._version(index.vector_version) >= (0, 7)]
    )
    index.vector_version = "0.10.1"
    assert index.expression == "subvector(embedding, 1, 4)::vector(4)"
    index.vector_version = "0.6.2"
    assert index.expression == "(embedding::real[])[1:4]::vector(4)"


# ---------------------------------------------------------------------------------- bad input


BAD_ROWS = [
    (lambda c: c[:, :23], None, "emb has 23 numbers in a row, the index 24"),
    (lambda c: c[0], None, "emb must have shape"),
    (lambda c: np.where(np.arange(len(c))[:, None] == 299, np.nan, c), None, "NaN.*row 299"),
    (lambda c: c, np.zeros(300, int), "id 0 is given more than once"),
    (lambda c: c, np.arange(300) - 1, "ids must be from 0 .* got -1"),
    (lambda c: c, np.arange(299), "300 vectors need as many ids"),
    (lambda c: c, np.arange(300) + 0.5, "ids must be integers"),
    (lambda c: c, np.arange(300) + 40, "40 to 339 is in the index already"),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_rows_are_named_and_nothing_is_lost_or_half_added(engine, make, monkeypatch):
    monkeypatch.setattr(
        engines.shared, "BATCH", 100
    )  # a clash in the middle: two batches are gone first
    queries, corpus = vectors(6)
    index = make(engine)
    index.add(corpus[:50])
    want = index.search(queries, 5, 20).indices
    for spoil, ids, message in BAD_ROWS:
        with pytest.raises((ValueError, TypeError), match=message):
            index.add(spoil(corpus), ids)
        assert len(index) == 50
        np.testing.assert_array_equal(index.search(queries, 5, 20).indices, want)
    with pytest.raises(ValueError, match="in the index already"):
        index.add(corpus, np.r_[1000 + np.arange(250), 0, 2000 + np.arange(49)])
    assert len(index) == 50
    index.add(corpus)  # the index still takes rows
    assert len(index) == 350


@needs_sqlite
def test_a_failure_between_the_two_tables_leaves_neither_half(tmp_path):
    _, corpus = vectors(7)
    with SqliteIndex(tmp_path / "v.db", 24, 4) as index:
        index.add(corpus[:10])
        index._db.execute("insert into items_prefix(rowid, prefix) values (25, ?)", (bytes(16),))
        with pytest.raises((ValueError, OSError), match="UNIQUE"):
            index.add(corpus[10:60])
        assert len(index) == 10


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 23)), 5, 20), "queries have 23 numbers and the corpus 24"),
        ((np.full(24, np.nan), 5, 20), "NaN"),
        ((np.ones(24), 301, 400), "top_k must be between 1 and 300"),
        ((np.ones(24), 0, 20), "top_k must be at least 1, got 0"),
        ((np.ones(24), 5, 4), "a shortlist of 4 cannot hold top_k = 5"),
        ((np.ones(24), 5, 5000), "shortlist_size must be between 1 and"),
        ((np.ones(24), 5, 20.5), "shortlist_size must be an integer"),
    ],
)
def test_bad_searches_are_named(engine, make, arguments, message):
    index = make(engine)
    index.add(vectors(8)[1])
    with pytest.raises((ValueError, TypeError), match=message):
        index.search(*arguments)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_index_says_so(engine, make):
    with pytest.raises(ValueError, match="the index is empty"):
        make(engine).search(np.ones(24), 1, 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "table", ["items; drop table items", 'a"b', "1st", "", "with space", "x" * 41, "naïve", None]
)
def test_no_sql_gets_in_through_a_name(engine, make, table):
    with pytest.raises(ValueError, match="table must be a name"):
        make(engine, table=table)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("table", ["select", "order", "Items", "_"])
def test_words_of_sql_are_good_names(engine, make, table):
    queries, corpus = vectors(9)
    index = make(engine, table=table)
    index.add(corpus)
    want = shortlist_rerank(queries, corpus, 4, 40, 5).indices
    np.testing.assert_array_equal(index.search(queries, 5, 40).indices, want)


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_are_checked(engine, make):
    with pytest.raises(ValueError, match="prefix must be between 1 and 24"):
        make(engine, prefix=25)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        make(engine, dim=0)


@needs_sqlite
def test_files_that_are_no_databases_are_named(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to look like a file" * 20)
    with pytest.raises(ValueError, match="text.db is no SQLite database"):
        SqliteIndex(tmp_path / "text.db", 4, 2)
    with pytest.raises(OSError, match="does its folder exist"):
        SqliteIndex(tmp_path / "nowhere" / "v.db", 4, 2)


@needs_postgres
def test_limits_of_a_graph_are_named(make):
    index = make("postgres", dim=2100, prefix=2050)
    with pytest.raises(ValueError, match="up to 2000 numbers, not 2050"):
        index.build_graph()
    index = make("postgres", table="other")
    index.add(vectors(1)[1])
    with pytest.raises(ValueError, match="the server refuses to build the graph"):
        index.build_graph(m=1)
    with pytest.raises(ValueError, match="the server refuses to build the graph"):
        index.build_graph(memory="a lot")
    index.build_graph()
    with pytest.raises(ValueError, match="ef = 4 lets a graph find 4 rows, top_k is 10"):
        index.search(np.ones(24), 10, 20, ef=4)
    with pytest.raises(ValueError, match="ef must be between 1 and 1000"):
        index.search(np.ones(24), 10, 20, ef=1001)


# ------------------------------------------------------------------- zero rows, and any length


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shortlist", [20, 90, None])
@pytest.mark.filterwarnings("ignore:.*hold only zeros:UserWarning")
def test_zero_rows_and_zero_prefixes_have_cosine_0_as_everywhere(engine, make, shortlist):
    queries, corpus = vectors(10, rows=100)
    corpus[[3, 50]] = 0
    corpus[[7, 60, 61], :4] = 0
    queries[1], queries[2, :4] = 0, 0
    index = make(engine)
    with pytest.warns(
        UserWarning, match="2 of 100 rows of emb hold only zeros, first row 3"
    ) as seen:
        index.add(corpus)
    assert len(seen) == 1 and seen[0].filename == __file__
    for query in queries:  # one at a time, so that no other query changes the statement
        found = index.search(query, 15, shortlist)
        if shortlist is None:
            want = exact_search(query, corpus, 15)
        else:
            want = shortlist_rerank(query, corpus, 4, shortlist, 15)
        np.testing.assert_array_equal(found.indices, want.indices)
        np.testing.assert_allclose(found.scores, want.scores, atol=1e-5)
    with pytest.warns(UserWarning, match="1 of 6 rows of queries hold only zeros, first row 1"):
        index.search(queries, 5, 20)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e25, 1e200])
def test_cosines_do_not_depend_on_the_length_of_vectors(engine, make, size):
    queries, corpus = (rows.astype(np.float64) for rows in vectors(11))
    want = shortlist_rerank(queries, corpus, 4, 50, 10)
    index = make(engine)
    index.add(corpus * size)
    for sized in (queries, queries * size):
        found = index.search(sized, 10, 50)
        np.testing.assert_array_equal(found.indices, want.indices)
        np.testing.assert_allclose(found.scores, want.scores, atol=1e-5)


@needs_sqlite
@pytest.mark.parametrize("ids", [["a", "b"], [0.0, 1.0], [True, False], [1, 2**63], [None, 1]])
def test_ids_that_are_none_are_refused(tmp_path, ids):
    with SqliteIndex(":memory:", 24, 4) as index:
        with pytest.raises((WrongKind, WrongValue), match="ids must be"):
            index.add(vectors(1)[1][:2], ids)
        assert len(index) == 0


# ------------------------------------------------------------ other programs, and what they leave


@needs_sqlite
def test_a_short_lock_is_waited_for(tmp_path):
    import apsw

    _, corpus = vectors(12)
    with SqliteIndex(tmp_path / "v.db", 24, 4) as index:
        other = apsw.Connection(str(tmp_path / "v.db"))
        other.execute("begin exclusive")
        timer = threading.Timer(0.5, lambda: other.execute("commit"))
        timer.start()
        index.add(corpus)
        timer.join()
        assert len(index) == 300
        other.close()


@needs_sqlite
def test_a_long_lock_is_an_error_that_says_so(tmp_path, monkeypatch):
    import apsw

    monkeypatch.setattr(engines.sqlite, "LOCK_SECONDS", 0)
    queries, corpus = vectors(13)
    with SqliteIndex(tmp_path / "v.db", 24, 4) as index:
        index.add(corpus[:50])
        other = apsw.Connection(str(tmp_path / "v.db"))
        other.execute("begin immediate")
        with pytest.raises(OSError, match=r"v\.db is locked by another program"):
            index.add(corpus[50:])
        other.execute("commit")
        other.execute("begin exclusive")
        with pytest.raises(OSError, match=r"v\.db is locked by another program"):
            index.search(queries, 5, 20)
        with pytest.raises(OSError, match=r"v\.db is locked by another program"):
            SqliteIndex(tmp_path / "v.db", 24, 4)
        other.execute("commit")
        other.close()
        index.add(corpus[50:])
        assert len(index) == 300


@needs_sqlite
def test_a_closed_index_and_foreign_tables_are_named(tmp_path):
    import apsw

    queries, corpus = vectors(14)
    index = SqliteIndex(tmp_path / "v.db", 24, 4)
    index.add(corpus)
    index.close()
    index.close()
    for call in (
        lambda: index.search(queries, 5, 20),
        lambda: index.add(corpus),
        lambda: len(index),
    ):
        with pytest.raises(ValueError, match="closed; open it again"):
            call()
    for table in ("items_prefix", "ITEMS_zero", "items_prefix_chunks"):
        with pytest.raises(ValueError, match=f"has a table {table} that this index did not make"):
            SqliteIndex(tmp_path / "v.db", 24, 4, table)
    with pytest.raises(ValueError, match="sqlite_x.*belong to SQLite"):
        SqliteIndex(tmp_path / "v.db", 24, 4, "sqlite_x")
    with apsw.Connection(str(tmp_path / "other.db")) as other:
        other.execute("create table items_sizes (a); create table things_prefix (b)")
    for table in ("items", "things"):
        with pytest.raises(ValueError, match="other.db h.*give another table="):
            SqliteIndex(tmp_path / "other.db", 24, 4, table)
    with SqliteIndex(tmp_path / "other.db", 24, 4, "mine") as mine:
        mine.add(corpus)
        assert len(mine) == 300


@needs_sqlite
def test_half_a_file_is_damaged(tmp_path):
    queries, corpus = vectors(15, rows=3000)
    path = tmp_path / "v.db"
    with SqliteIndex(path, 24, 4) as index:
        index.add(corpus)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((OSError, ValueError), match=r"v\.db"):
        with SqliteIndex(path, 24, 4) as index:
            index.exact(queries, 5)


@needs_sqlite
@pytest.mark.skipif(sys.platform == "win32", reason="HOME is a POSIX variable")
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    SqliteIndex("~/v.db", 24, 4).close()
    assert [path.name for path in tmp_path.iterdir()] == ["v.db"]


@needs_postgres
def test_a_server_that_is_not_there_or_gone_is_an_oserror(make, tmp_path):
    with pytest.raises(OSError, match="connection to PostgreSQL failed"):
        PostgresIndex(f"host={tmp_path} user=nobody", 4, 2)
    with pytest.raises(ValueError, match="the server refuses"):
        PostgresIndex("no=connection string", 4, 2)
    index = make("postgres")
    index.add(vectors(1)[1])
    index.close()
    for call in (lambda: index.search(np.ones(24), 5, 20), lambda: len(index)):
        with pytest.raises(OSError, match="closed"):
            call()


@needs_postgres
def test_a_table_that_stays_locked_is_an_oserror(make, server, monkeypatch):
    import psycopg

    monkeypatch.setattr(engines.postgres, "LOCK_SECONDS", 1)
    index = make("postgres", table="locked_items")
    index.add(vectors(1)[1])
    with psycopg.connect(server.uri) as other:
        other.execute("lock table locked_items in access exclusive mode")
        with pytest.raises(OSError, match="locked by another session"):
            index.add(vectors(2)[1])
    assert len(index) == 300


# ------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("apsw", lambda: SqliteIndex(":memory:", 4, 2)),
        ("sqlite_vec", lambda: SqliteIndex(":memory:", 4, 2)),
        ("psycopg", lambda: PostgresIndex("postgresql://", 4, 2)),
        ("pgserver", TemporaryPostgres),
    ],
)
def test_a_missing_module_names_the_extra(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "sqlite_vec":
        pytest.importorskip("apsw")
    with pytest.raises(ImportError, match=rf"{module}.*pip install \"mrl-course\[servers\]\""):
        call()


def test_missing_modules_are_listed(monkeypatch):
    real = engines.shared.importlib.util.find_spec
    gone = {"sqlite_vec", "pgserver"}
    monkeypatch.setattr(
        engines.shared.importlib.util,
        "find_spec",
        lambda name: None if name in gone else real(name),
    )
    assert "sqlite_vec" in missing_modules("sqlite")
    assert "pgserver" in missing_modules("postgres")
    with pytest.raises(ValueError, match="one of .*got 'mysql'"):
        missing_modules("mysql")


@needs_postgres
def test_a_temporary_server_leaves_nothing_behind():
    psycopg = pytest.importorskip("psycopg")
    psutil = pytest.importorskip("psutil")
    with TemporaryPostgres() as server:
        folder = server._folder
        with psycopg.connect(server.uri) as connection:
            pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            process = psutil.Process(pid)
            assert connection.execute("select 1").fetchone() == (1,)
    assert not folder.exists()

    def ended():
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    deadline = time.monotonic() + 600  # on a busy machine it ends later
    while not ended() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ended()
    server.stop()  # twice does no harm


@needs_postgres
def test_a_server_that_does_not_start_says_why_and_leaves_nothing(monkeypatch, tmp_path):
    import pgserver

    def refuse(*_arguments, **_options):
        raise OSError("no room on the device")

    monkeypatch.setattr(pgserver, "get_server", refuse)
    monkeypatch.setattr(engines.postgres.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="does not start: no room on the device"):
        TemporaryPostgres()
    assert not list(tmp_path.iterdir())
