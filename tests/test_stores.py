"""What every store promises, and what the one in a file promises besides."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sqlite3
import stat
import subprocess
import sys

import pytest

from gearmand import sqlite_store as sqlite_store_module
from gearmand.config import Config
from gearmand.errors import ConfigError, StoreError, Unstorable
from gearmand.rows import Change, Row, Setting, from_json, to_json
from gearmand.sqlite_store import SqliteStore
from gearmand.store import Work, ranges_of
from gearmand.stores import export_to, import_from, open_store
from peers import c_server
from wire import SUBMIT_JOB_BG, SUBMIT_JOB_EPOCH, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG, Wire

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"

# By its name, how a store is opened in a directory of the test's own. A new kind of store is a line here.
STORES = {
    "sqlite": lambda directory: SqliteStore(str(directory / "queue.db")),
}


def row(number, **changes):
    return Row(number, b"H:%d" % number, b"f", b"", b"work %d" % number, 1, None, 1.5, 0, None)._replace(**changes)


def work(added=(), changed=(), removed=(), settings=()):
    return Work(added, changed, removed, settings)


def numbers_of(store):
    return [row.number for row in store.load()]


class Factory:
    """Opens the same store again and again; at most one is open."""

    def __init__(self, open_one):
        self._open_one = open_one
        self.store = None

    def __call__(self):
        self.close()
        self.store = self._open_one()
        return self.store

    def close(self):
        if self.store is not None:
            self.store.close()
            self.store = None


@pytest.fixture(params=sorted(STORES))
def factory(request, tmp_path):
    factory = Factory(lambda: STORES[request.param](tmp_path))
    yield factory
    factory.close()


class TestStore:
    """The contract of `store.Store`."""

    def test_new_store_is_empty(self, factory):
        store = factory()
        assert (list(store.load()), store.load_settings(), store.take_over(lambda: (1, b"H:1"))) == ([], [], [])

    def test_store_says_where_it_is(self, factory):
        assert isinstance(factory().where, str) and factory().where

    def test_rows_come_back_in_the_order_of_their_numbers(self, factory):
        store = factory()
        store.commit(work([row(7), row(2**62)]))
        store.commit(work([row(3), row(5)]))
        for _ in range(2):
            assert list(store.load()) == [row(3), row(5), row(7), row(2**62)]
            store = factory()

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"workload": b"", "unique": b"", "function": b""},
            {"workload": bytes(range(256)), "function": b"\xff\0\xfe", "unique": b"\0", "handle": b"\xff:1"},
            {"workload": "größe".encode(), "unique": b"-"},
            {"priority": 0, "due_s": 2**63 - 1, "retries": 2**31, "reducer": b"sum"},
            {"priority": 2, "due_s": 0, "reducer": b""},
            {"due_s": -(2**63)},
            {"submitted_s": 1700000000.123456},
            {"workload": os.urandom(5_000_000)},
        ],
        ids=lambda changes: "-".join(changes) or "plain",
    )
    def test_every_field_comes_back_as_it_was(self, factory, changes):
        factory().commit(work([row(1, **changes), row(2)]))
        found, other = factory().load()
        assert found == row(1, **changes) and other == row(2)
        assert {type(value) for value in found} <= {int, float, bytes, type(None)}

    def test_workload_may_be_a_view(self, factory):
        factory().commit(work([row(1, workload=memoryview(b"head\0work")[5:])]))
        assert list(factory().load()) == [row(1, workload=b"work")]

    def test_change_is_of_handle_retries_and_priority_alone(self, factory):
        store = factory()
        store.commit(work([row(1, reducer=b"r", due_s=5), row(2)]))
        store.commit(work(changed=[Change(1, b"the other", 4, 2), Change(99, b"unknown", 1, 1)]))
        assert list(factory().load()) == [row(1, reducer=b"r", due_s=5, handle=b"the other", retries=4, priority=2), row(2)]

    def test_change_is_of_the_due_time_too_where_it_says_one(self, factory):
        store = factory()
        store.commit(work([row(1), row(2, due_s=5), row(3)]))
        store.commit(work(changed=[Change(1, b"the other", 4, 1, 2**40), Change(2, b"H:2", 1, 1, 7), Change(3, b"H:3", 1, 1)]))
        assert [(each.due_s, each.retries) for each in factory().load()] == [(2**40, 4), (7, 1), (None, 1)]

    def test_remove_takes_ranges_single_ones_and_unknown_ones(self, factory):
        store = factory()
        store.commit(work([row(number) for number in range(1, 21)]))
        store.commit(work(removed=[5, 3, 4, 3, 999, 0, -1, 2**62, 20, 10, 12]))
        assert numbers_of(factory()) == [1, 2, 6, 7, 8, 9, 11, 13, 14, 15, 16, 17, 18, 19]
        factory().commit(work(removed=range(1, 100)))
        assert numbers_of(factory()) == []

    def test_remove_of_everything_from_a_full_store_is_one_transaction(self, factory):
        store = factory()
        store.commit(work([row(number) for number in range(1, 20_001)]))
        store.commit(work(removed=[number for number in range(1, 20_001) if number % 2]))
        assert numbers_of(store) == list(range(2, 20_001, 2))

    def test_remove_of_a_million_that_are_not_there_is_quick(self, factory):
        store = factory()
        store.commit(work([row(5)]))
        store.commit(work(removed=range(10, 1_000_010)))
        assert numbers_of(store) == [5]

    def test_what_one_transaction_adds_it_can_change_and_remove(self, factory):
        store = factory()
        store.commit(work([row(1), row(2), row(3)], [Change(2, b"H:1", 1, 1)], [1, 3]))
        assert list(factory().load()) == [row(2, handle=b"H:1", retries=1)]

    def test_same_row_twice_is_one_row(self, factory):
        # After a failure nobody knows whether it has been stored.
        store = factory()
        store.commit(work([row(1)]))
        store.commit(work([row(1, workload=b"new")]))
        assert list(factory().load()) == [row(1, workload=b"new")]

    def test_limits_are_kept_and_the_last_ones_hold(self, factory):
        store = factory()
        store.commit(work(settings=[Setting(b"f", "[1, 2, 3]"), Setting(b"\xff\0", "[null, null, 10**18]")]))
        store.commit(work(settings=[Setting(b"f", "[null, 7, null]")]))
        assert sorted(factory().load_settings()) == [Setting(b"f", "[null, 7, null]"), Setting(b"\xff\0", "[null, null, 10**18]")]

    def test_failed_commit_leaves_nothing_and_the_next_one_works(self, factory):
        store = factory()
        store.commit(work([row(1)], settings=[Setting(b"f", "[1, 1, 1]")]))
        with pytest.raises(StoreError) as caught:
            store.commit(work([row(2), row(3, submitted_s=object())], [Change(1, b"x", 1, 1)], [1], [Setting(b"f", "[2, 2, 2]")]))
        assert store.where in str(caught.value)
        assert (list(store.load()), store.load_settings()) == ([row(1)], [Setting(b"f", "[1, 1, 1]")])
        store.commit(work([row(4)]))
        assert numbers_of(factory()) == [1, 4]

    def test_value_that_cannot_be_stored_is_told_from_a_store_that_fails(self, factory):
        store = factory()
        with pytest.raises(Unstorable) as caught:
            store.commit(work([row(1), row(2, submitted_s=object())]))
        assert store.where in str(caught.value)
        store.commit(work([row(1)]))
        assert numbers_of(factory()) == [1]

    def test_fetch_gives_the_rows_in_the_order_asked_for(self, factory):
        store = factory()
        store.commit(work([row(number) for number in range(1, 11)]))
        assert store.fetch([7, 3, 99, 4, 5]) == [row(7), row(3), row(4), row(5)]
        assert store.fetch([]) == []

    def test_shrink_ends_and_leaves_what_is_there(self, factory):
        store = factory()
        assert store.shrink() is False
        store.commit(work([row(number, workload=b"x" * 500) for number in range(1, 3001)]))
        store.commit(work(removed=range(1, 2991)))
        assert sum(1 for _ in iter(store.shrink, False)) < 1000
        assert numbers_of(factory()) == list(range(2991, 3001))

    def test_process_that_just_ends_loses_nothing_of_its_store(self, factory):
        child = os.fork()
        if not child:
            factory().commit(work([row(1)]))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert numbers_of(factory()) == [1]


def test_ranges_are_runs_of_consecutive_numbers():
    assert ranges_of([]) == []
    assert ranges_of([5, 1, 2, 3, 9, 8]) == [[1, 3], [5, 5], [8, 9]]


# -- the file ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def locks_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(sqlite_store_module, "_LOCKED_S", 0.1)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
def sqlite_store(file):
    store = SqliteStore(str(file))
    yield store
    store.close()


def made(file, rows=2000):
    store = SqliteStore(str(file))
    store.commit(work([row(number, workload=b"x" * 300) for number in range(1, rows + 1)]))
    store.close()
    return file


def gearmand(*arguments, input=None, **environment):
    """The command to its end: status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "gearmand", *map(str, arguments)],
        cwd=str(ROOT), env={**os.environ, **environment}, input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8", "replace")


def test_sqlite_file_and_its_log_are_the_owners_alone(file):
    before = os.umask(0)
    try:
        store = SqliteStore(str(file))
        store.commit(work([row(1)]))
        modes = {name: stat.S_IMODE(os.stat(str(file.parent / name)).st_mode) for name in os.listdir(str(file.parent))}
    finally:
        os.umask(before)
    store.close()
    assert modes == {"queue.db": 0o600, "queue.db-wal": 0o600}


def test_sqlite_file_that_is_there_keeps_its_mode(file):
    made(file)
    file.chmod(0o640)
    SqliteStore(str(file)).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_sqlite_file_by_a_link_is_made_where_the_link_leads(file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    SqliteStore(str(tmp_path / "link")).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("durability, number", [("full", 2), ("normal", 1), ("off", 0)])
def test_sqlite_durability_is_how_hard_it_waits_for_the_disk(file, durability, number):
    store = open_store(Config(queue=str(file), durability=durability))
    try:
        found = [store._connection.execute("PRAGMA " + name).fetchone()[0] for name in ("synchronous", "journal_mode")]
    finally:
        store.close()
    assert found == [number, b"wal"]


def test_sqlite_table_is_named_as_asked(file):
    store = open_store(Config(queue_type="libsqlite3", libsqlite3_db=str(file), libsqlite3_table="mine"))
    store.commit(work([row(1)]))
    store.close()
    with sqlite3.connect(str(file)) as raw:
        assert raw.execute("SELECT count(*) FROM mine_jobs").fetchone() == (1,)
    raw.close()


@pytest.mark.parametrize("name", ["", "a b", "x;drop table y", "1st", "größe"])
def test_sqlite_table_that_is_no_name_is_refused(file, name):
    with pytest.raises(ConfigError) as caught:
        SqliteStore(str(file), name)
    assert repr(name) in str(caught.value) and not file.exists()


def test_without_a_queue_there_is_no_store():
    assert open_store(Config()) is None


def test_sqlite_gives_the_room_of_a_flood_back(sqlite_store, file):
    sqlite_store.commit(work([row(number, workload=b"x" * 100) for number in range(1, 50_001)]))
    sqlite_store.commit(work(removed=range(1, 50_000)))
    sqlite_store.close()
    flooded = file.stat().st_size
    store = SqliteStore(str(file))
    times = sum(1 for _ in iter(store.shrink, False))
    assert numbers_of(store) == [50_000]
    store.close()
    assert 1 <= times < 20
    assert flooded > 6_000_000 and file.stat().st_size < 1_500_000


def test_sqlite_file_of_another_maker_does_not_shrink_for_ever(file):
    with sqlite3.connect(str(file)) as raw:
        raw.execute("CREATE TABLE other (data)")
        raw.executemany("INSERT INTO other VALUES (?)", [(b"x" * 4000,)] * 600)
        raw.execute("DELETE FROM other")
    raw.close()
    store = SqliteStore(str(file))
    try:
        assert store.shrink() is False
    finally:
        store.close()


def test_sqlite_error_of_a_file_that_is_open_is_a_store_error(sqlite_store, file):
    sqlite_store._connection.execute("DROP TABLE gearman_queue_jobs")
    sqlite_store._connection.execute("DROP TABLE gearman_queue_settings")
    for ask in (
        lambda: list(sqlite_store.load()),
        sqlite_store.load_settings,
        lambda: sqlite_store.fetch([1]),
        lambda: sqlite_store.commit(work([row(1)])),
    ):
        with pytest.raises(StoreError) as caught:
            ask()
        assert str(file) in str(caught.value)
    sqlite_store.close()
    assert sqlite_store.shrink() is False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the limit cannot be set")
def test_sqlite_job_that_is_too_large_for_it_is_unstorable(sqlite_store):
    sqlite_store._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    with pytest.raises(Unstorable):
        sqlite_store.commit(work([row(1), row(2, workload=b"x" * 2000)]))
    sqlite_store.commit(work([row(1)]))
    assert numbers_of(sqlite_store) == [1]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(5, "disk I/O error")])
def test_sqlite_disk_that_fails_is_not_the_jobs_fault(sqlite_store, monkeypatch, error):
    def failing(rows):
        raise error

    monkeypatch.setattr(sqlite_store, "_add", failing)
    with pytest.raises(StoreError) as caught:
        sqlite_store.commit(work([row(1)]))
    assert not isinstance(caught.value, Unstorable)


def test_sqlite_damaged_row_is_named(sqlite_store, file):
    sqlite_store.commit(work([row(1), row(2)]))
    sqlite_store._connection.execute("UPDATE gearman_queue_jobs SET function = NULL WHERE number = 2")
    for read in (lambda: list(sqlite_store.load()), lambda: sqlite_store.fetch([1, 2])):
        with pytest.raises(StoreError) as caught:
            read()
        assert str(file) in str(caught.value) and "row 2 is damaged" in str(caught.value)


def test_sqlite_damaged_row_of_a_c_server_is_refused(file):
    with sqlite3.connect(str(file)) as raw:
        raw.execute("CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, when_to_run INTEGER)")
        raw.execute("INSERT INTO gearman_queue VALUES ('u', 'f', 1, 'w', 'tomorrow')")
    raw.close()
    status, _, stderr = gearmand("-L", "127.0.0.1", "-p", "0", "--queue", file)
    refusal = stderr.splitlines()[-1]
    assert status == 1 and "Traceback" not in stderr and "tomorrow" in refusal and str(file) in refusal


# -- a file that cannot be used ---------------------------------------------------


def overwritten(file):
    made(file)
    with open(str(file), "r+b") as raw:
        raw.seek(4096 * 40)
        raw.write(b"\xa5" * 4096 * 20)


def overwritten_at_the_start(file):
    made(file)
    with open(str(file), "r+b") as raw:
        raw.write(b"\xa5" * 4096)


def truncated(file):
    made(file)
    os.truncate(str(file), file.stat().st_size // 2)


def no_database(file):
    file.write_bytes(b"These are my notes, and nobody may lose them.\n" * 100)


def short(file):
    file.write_bytes(b"notes\n")


@pytest.mark.parametrize("damage", [overwritten, overwritten_at_the_start, truncated, no_database, short])
def test_sqlite_damaged_file_is_refused_with_a_remedy_and_not_replaced(file, damage):
    damage(file)
    size, middle = file.stat().st_size, file.read_bytes()[4096:]
    status, stdout, stderr = gearmand("-L", "127.0.0.1", "-p", "0", "--queue", file)
    assert (status, stdout) == (1, "")
    assert str(file) in stderr and "move it away" in stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert (file.stat().st_size, file.read_bytes()[4096:]) == (size, middle)


def test_sqlite_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        SqliteStore(str(tmp_path))
    assert "%s: it is a directory" % tmp_path in str(caught.value)


@pytest.mark.parametrize("name", ["missing/queue.db", "file/queue.db"])
def test_sqlite_file_in_no_directory_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        SqliteStore(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value) and "irectory" in str(caught.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode, directory_mode", [(0o000, 0o755), (0o444, 0o755), (0o444, 0o777), (None, 0o555)])
def test_sqlite_file_that_may_not_be_used_is_refused(mode, directory_mode):
    # All that is needed is imported before: that user may not be able to read where Python is.
    code = (
        "import os, sys; sys.path.insert(0, %r); import encodings.idna, gearmand.sqlite_store, gearmand.server; from gearmand.cli import main;"
        " os.setuid(65534); sys.exit(main())" % str(ROOT)
    )
    # Below pytest's own directory no other user can go.
    directory = pathlib.Path(subprocess.check_output(["mktemp", "-d"]).decode().strip())
    try:
        file = directory / "queue.db"
        if mode is not None:
            made(file).chmod(mode)
        directory.chmod(directory_mode)
        done = subprocess.run(
            [sys.executable, "-c", code, "-L", "127.0.0.1", "-p", "0", "--queue", str(file)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, cwd="/", env={},
        )  # fmt: skip
    finally:
        shutil.rmtree(str(directory))
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done.stderr
    assert str(file).encode() in done.stderr and (b"owner and mode" in done.stderr or b"ermission" in done.stderr)


def test_sqlite_file_of_a_running_server_is_refused_and_left_alone(sqlite_store, file):
    sqlite_store.commit(work([row(1)]))
    # An attempt of this process must not let go of its locks.
    with pytest.raises(ConfigError):
        SqliteStore(str(file))
    status, stdout, stderr = gearmand("-L", "127.0.0.1", "-p", "0", "--queue", file)
    assert (status, stdout, stderr.count("\n")) == (1, "", 1)
    assert str(file) in stderr and "another process uses it" in stderr
    sqlite_store.commit(work([row(2)]))
    assert numbers_of(sqlite_store) == [1, 2]


def test_sqlite_file_of_a_later_version_is_refused(file):
    made(file, 1)
    with sqlite3.connect(str(file)) as raw:
        raw.execute("PRAGMA user_version = 2")
    raw.close()
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            SqliteStore(str(file))
        assert str(file) in str(caught.value) and "later version" in str(caught.value)


@pytest.mark.parametrize("pragma", ["user_version = 5", "application_id = 77"])
def test_sqlite_database_of_another_program_is_refused_and_left_alone(file, pragma):
    with sqlite3.connect(str(file)) as raw:
        raw.execute("CREATE TABLE bookmarks (a)")
        raw.execute("PRAGMA " + pragma)
    raw.close()
    with pytest.raises(ConfigError) as caught:
        SqliteStore(str(file))
    assert str(file) in str(caught.value) and "another program" in str(caught.value)
    with sqlite3.connect(str(file)) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
        assert "PRAGMA %s" % pragma == "PRAGMA %s = %d" % (pragma.split()[0], raw.execute("PRAGMA " + pragma.split()[0]).fetchone()[0])
    raw.close()


def test_sqlite_table_with_other_columns_is_refused(file):
    with sqlite3.connect(str(file)) as raw:
        raw.execute("CREATE TABLE gearman_queue_jobs (a)")
    raw.close()
    status, _, stderr = gearmand("-L", "127.0.0.1", "-p", "0", "--queue", file)
    assert (status, stderr.count("\n")) == (1, 1) and str(file) in stderr and "number" in stderr


def test_sqlite_table_that_is_not_the_c_servers_is_refused(file):
    with sqlite3.connect(str(file)) as raw:
        raw.execute("CREATE TABLE gearman_queue (a)")
        raw.execute("INSERT INTO gearman_queue VALUES (1)")
    raw.close()
    store = SqliteStore(str(file))
    try:
        with pytest.raises(ConfigError) as caught:
            store.take_over(lambda: (1, b"H:1"))
        assert "gearman_queue of %s" % file in str(caught.value)
    finally:
        store.close()


@pytest.mark.parametrize("replacement", [None, b"", "itself"])
def test_sqlite_file_that_is_removed_or_replaced_while_open_stores_nothing_more(sqlite_store, file, tmp_path, replacement):
    sqlite_store.commit(work([row(1)]))
    file.rename(tmp_path / "away")
    if replacement == "itself":
        shutil.copy(str(tmp_path / "away"), str(file))
    elif replacement is not None:
        file.write_bytes(replacement)
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            sqlite_store.commit(work([row(2)]))
        assert "%s has been removed or replaced" % file in str(caught.value)
    (tmp_path / "away").replace(file)
    sqlite_store.commit(work([row(3)]))
    assert numbers_of(sqlite_store) == [1, 3]


def test_sqlite_log_that_is_removed_while_open_stores_nothing_more_and_loses_nothing(sqlite_store, file, tmp_path):
    sqlite_store.commit(work([row(1)]))
    (tmp_path / "queue.db-wal").unlink()
    with pytest.raises(StoreError) as caught:
        sqlite_store.commit(work([row(2)]))
    assert "%s-wal has been removed" % file in str(caught.value)
    sqlite_store.close()
    store = SqliteStore(str(file))
    try:
        assert numbers_of(store) == [1]
    finally:
        store.close()


# -- export and import -----------------------------------------------------------


def exported(store, file):
    return export_to(store, str(file)), file.read_text(encoding="utf-8").splitlines()


ROWS = [
    row(1, function="größe".encode(), unique=b"u", reducer=b"r"),
    row(2, workload=b"\xff\0", priority=0, due_s=4102444800, retries=2),
    row(3, workload=b"", priority=2),
]
SETTINGS = [Setting(b"f", "[1, null, 3]"), Setting(b"\xff", "[null, 2, null]")]


def test_export_is_one_line_a_job_and_import_makes_them_again(sqlite_store, file, tmp_path):
    sqlite_store.commit(work(ROWS, settings=SETTINGS))
    count, lines = exported(sqlite_store, tmp_path / "out")
    assert count == 3
    assert [from_json(line) for line in lines if not line.startswith('{"setting"')] == ROWS
    assert all(isinstance(json.loads(line), dict) for line in lines)
    other = SqliteStore(str(tmp_path / "other.db"))
    try:
        assert import_from(other, str(tmp_path / "out"), "gearman_queue", b"H:x") == 3
        assert (list(other.load()), sorted(other.load_settings())) == (ROWS, sorted(SETTINGS))
    finally:
        other.close()


def test_import_of_what_is_there_already_gets_new_numbers_and_handles(sqlite_store, tmp_path):
    sqlite_store.commit(work(ROWS))
    exported(sqlite_store, tmp_path / "out")
    assert import_from(sqlite_store, str(tmp_path / "out"), "gearman_queue", b"H:x") == 3
    found = list(sqlite_store.load())
    assert found[:3] == ROWS and len(found) == 6
    assert [r._replace(number=0, handle=b"") for r in found[3:]] == [r._replace(number=0, handle=b"") for r in ROWS]
    assert len({r.number for r in found}) == len({r.handle for r in found}) == 6
    assert all(r.handle == b"H:x:%d" % r.number for r in found[3:])


def test_import_of_rows_of_one_job_leaves_them_one_job(sqlite_store, tmp_path):
    rows = [row(1, unique=b"u"), row(2, unique=b"u", handle=b"H:1"), row(3)]
    (tmp_path / "in").write_text("".join(to_json(r) + "\n" for r in rows))
    for _ in range(2):
        import_from(sqlite_store, str(tmp_path / "in"), "gearman_queue", b"H:x")
    handles = [r.handle for r in sqlite_store.load()]
    assert handles[:3] == [b"H:1", b"H:1", b"H:3"]
    assert handles[3] == handles[4] != handles[5] and not set(handles[:3]) & set(handles[3:])


def test_import_of_one_number_twice_in_a_file_makes_two_rows(sqlite_store, tmp_path):
    (tmp_path / "in").write_text(to_json(row(1)) + "\n\n" + to_json(row(1, handle=b"H:other")) + "\n")
    assert import_from(sqlite_store, str(tmp_path / "in"), "gearman_queue", b"H:x") == 2
    assert len(numbers_of(sqlite_store)) == 2


def test_import_of_many_rows_is_in_pieces_and_complete(sqlite_store, tmp_path):
    with open(str(tmp_path / "in"), "w") as out:
        for number in range(1, 20_002):
            out.write(to_json(row(number)) + "\n")
    assert import_from(sqlite_store, str(tmp_path / "in"), "gearman_queue", b"H:x") == 20_001
    assert numbers_of(sqlite_store) == list(range(1, 20_002))


def test_export_and_import_by_the_command_through_a_pipe(file, tmp_path):
    store = SqliteStore(str(file))
    store.commit(work(ROWS, settings=SETTINGS))
    store.close()
    # UTF-8, whatever the locale says.
    status, lines, stderr = gearmand("--queue", file, "--export", "-", PYTHONIOENCODING="ascii")
    assert (status, lines.count("\n")) == (0, 5) and "3 jobs written to -" in stderr and "größe" in lines
    status, stdout, stderr = gearmand(
        "--queue", tmp_path / "other.db", "--import", "-", input=lines.encode(), PYTHONIOENCODING="ascii"
    )
    assert (status, stdout) == (0, "") and "3 jobs read from -" in stderr
    other = SqliteStore(str(tmp_path / "other.db"))
    try:
        assert list(other.load()) == ROWS
    finally:
        other.close()


def test_export_and_import_by_the_command_through_a_file(file, tmp_path):
    made(file, 3)
    assert gearmand("-q", "libsqlite3", "--libsqlite3-db", file, "--export", tmp_path / "out")[0] == 0
    assert gearmand("--queue", tmp_path / "other.db", "--import=%s" % (tmp_path / "out"))[0] == 0
    assert gearmand("--queue", tmp_path / "other.db", "--export", "-")[1] == (tmp_path / "out").read_text()


def test_import_of_our_own_file_takes_its_jobs_and_leaves_it_as_it_is(file, tmp_path, sqlite_store):
    source = SqliteStore(str(tmp_path / "source.db"))
    source.commit(work(ROWS, settings=SETTINGS))
    source.close()
    before = (tmp_path / "source.db").read_bytes()
    assert import_from(sqlite_store, str(tmp_path / "source.db"), "gearman_queue", b"H:x") == 3
    assert (list(sqlite_store.load()), sorted(sqlite_store.load_settings())) == (ROWS, sorted(SETTINGS))
    assert (tmp_path / "source.db").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("--export", "/nonexistent/out"), "/nonexistent/out"),
        (("--export", "/dev/full"), "/dev/full: No space left on device"),
        (("--import", "/nonexistent/in"), "/nonexistent/in"),
        (("--import", "/"), "Is a directory"),
    ],
)
def test_export_and_import_of_a_file_that_cannot_be_used_is_one_line(file, arguments, named):
    made(file, 3)
    status, stdout, stderr = gearmand("--queue", file, *arguments)
    assert (status, stdout, stderr.count("\n")) == (1, "", 1), stderr
    assert named in stderr and arguments[0] in stderr


def test_export_and_import_without_a_queue_are_refused():
    for option in ("--export", "--import"):
        status, _, stderr = gearmand(option, "-")
        assert (status, stderr.count("\n")) == (1, 1) and "--queue FILE" in stderr


def test_export_onto_the_queue_itself_is_refused(file):
    before = made(file, 3).read_bytes()
    status, _, stderr = gearmand("--queue", file, "--export", file)
    assert (status, stderr.count("\n")) == (1, 1) and str(file) in stderr
    assert file.read_bytes()[4096:] == before[4096:] and len(file.read_bytes()) == len(before)


def test_export_to_a_reader_that_leaves_is_one_line(file):
    made(file, 3000)
    process = subprocess.Popen(
        [sys.executable, "-m", "gearmand", "--queue", str(file), "--export", "-"],
        cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(30), stderr.count("\n")) == (1, 1) and "Broken pipe" in stderr


@pytest.mark.parametrize("content", [b"no json\n", b"\xff\xfe\0\0", b'{"maxqueue": 5}\n', b'{"maxqueue": {"function": "f"}}\n'])
def test_import_of_a_wrong_file_is_one_line_with_its_text(file, tmp_path, content):
    (tmp_path / "in").write_bytes(content)
    status, _, stderr = gearmand("--queue", file, "--import", tmp_path / "in")
    assert (status, stderr.count("\n")) == (1, 1), stderr
    assert content[:7].decode("ascii", "ignore") in stderr


def test_import_of_a_database_without_a_queue_is_refused_and_leaves_it_as_it_is(file, tmp_path):
    with sqlite3.connect(str(tmp_path / "other.db")) as raw:
        raw.execute("CREATE TABLE bookmarks (a)")
    raw.close()
    before = (tmp_path / "other.db").read_bytes()
    status, _, stderr = gearmand("--queue", file, "--import", tmp_path / "other.db")
    assert (status, stderr.count("\n")) == (1, 1) and "other.db" in stderr and "gearman_queue" in stderr
    assert (tmp_path / "other.db").read_bytes() == before


def test_import_of_a_damaged_database_is_refused(file, tmp_path):
    made(tmp_path / "source.db", 10)
    with open(str(tmp_path / "source.db"), "r+b") as raw:
        raw.seek(100)
        raw.write(b"\xa5" * 3000)
    status, _, stderr = gearmand("--queue", file, "--import", tmp_path / "source.db")
    assert (status, stderr.count("\n")) == (1, 1), stderr
    assert "source.db" in stderr and "--import" in stderr


def test_import_of_the_queue_itself_is_refused(file):
    made(file, 3)
    status, _, stderr = gearmand("--queue", file, "--import", file)
    assert (status, stderr.count("\n")) == (1, 1) and str(file) in stderr


# -- what a C server has left -----------------------------------------------------
#
# The files were made by gearmand 1.1.20 and libsqlite3, killed by `kill -9`.

C_FILES = {
    # Function, unique, workload, priority, due: in order.
    "c-1.1.20-plain.db": [
        (b"reverse", b"u1", b"plain", 1, None),
        (b"reverse", b"u2", b"high", 0, None),
        (b"reverse", b"u3", b"low", 2, None),
        (b"reverse", b"u4", b"", 1, None),
        (b"resize", b"u1", b"bin\0\xff\xfe", 1, None),
        (b"later", b"u5", b"then", 1, 4102444800),
    ],
    # It has one row for all jobs of a function without a unique, and one for `-`.
    "c-1.1.20-odd.db": [
        (b"resize", b"", b"no unique, the second", 1, None),
        (b"resize", b"-", b"dash", 1, None),
        ("größe".encode(), b"\xff", b"x" * 5000, 1, None),
        (b"with space", b"u" * 63, b"", 2, None),
    ],
}


def c_submits(address, name):
    """What has made the file of that name."""
    with Wire(address) as client:
        if name == "c-1.1.20-odd.db":
            client.submit(b"resize", b"no unique, the first", b"", SUBMIT_JOB_BG)
        for function, unique, workload, priority, due_s in C_FILES[name]:
            if due_s is not None:
                client.send(SUBMIT_JOB_EPOCH, function, unique, b"%d" % due_s, workload)
                client.receive()
            else:
                client.submit(function, workload, unique, (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG)[priority])


def as_c_has_it(rows):
    return [(r.function, r.unique, r.workload, r.priority, r.due_s) for r in rows]


@pytest.fixture(params=sorted(C_FILES))
def c_file(request, tmp_path):
    copy = tmp_path / request.param
    shutil.copy(str(DATA / request.param), str(copy))
    return copy


def test_c_file_is_taken_over_once(c_file):
    numbers = iter(range(100, 200))
    store = SqliteStore(str(c_file))
    taken = store.take_over(lambda: (lambda number: (number, b"H:%d" % number))(next(numbers)))
    assert as_c_has_it(taken) == C_FILES[c_file.name]
    assert [r.number for r in taken] == list(range(100, 100 + len(taken)))
    assert (list(store.load()), store.take_over(lambda: (1, b""))) == (taken, [])
    store.close()
    store = SqliteStore(str(c_file))
    try:
        assert (list(store.load()), store.take_over(lambda: (1, b""))) == (taken, [])
    finally:
        store.close()


def test_c_file_is_imported_and_stays_as_it_is(c_file, file):
    before = c_file.read_bytes()
    status, _, stderr = gearmand("--queue", file, "--import", c_file)
    assert status == 0 and "%d jobs read" % len(C_FILES[c_file.name]) in stderr
    assert c_file.read_bytes() == before
    store = SqliteStore(str(file))
    try:
        assert as_c_has_it(store.load()) == C_FILES[c_file.name]
    finally:
        store.close()


@pytest.mark.parametrize("name", sorted(C_FILES))
def test_c_server_leaves_what_is_in_the_data(name, tmp_path, file):
    with c_server(tmp_path, "-q", "libsqlite3", "--libsqlite3-db", str(tmp_path / "c.db")) as address:
        c_submits(address, name)
    store = SqliteStore(str(tmp_path / "c.db"))
    numbers = iter(range(100, 200))
    try:
        assert as_c_has_it(store.take_over(lambda: (next(numbers), b"H"))) == C_FILES[name]
    finally:
        store.close()
