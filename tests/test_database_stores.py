"""The stores in database servers: the contract, lost connections, one server a queue, what a C server has left.

No mocks: each kind has a server of the session's own (`databases`), which the tests cut off, stop and kill.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

import databases
from certificates import certificates
from gearmand import Server, mysql_store, postgres_store, redis_store, remote_store
from gearmand.config import Config
from gearmand.errors import ConfigError, StoreError
from gearmand.rows import Change, Setting
from gearmand.store import Work
from gearmand.stores import open_store
from peers import c_server
from test_stores import Factory, TestStore as Contract, numbers_of, row, work
from wire import ERROR, JOB_CREATED, SUBMIT_JOB_BG, Wire, wait_until

TABLES = {"postgres": "libpq_table", "mysql": "mysql_table", "redis": "redis_prefix"}


@pytest.fixture(scope="session", autouse=True)
def servers_are_stopped():
    yield
    databases.close_all()


@pytest.fixture(params=sorted(databases.KINDS))
def database(request):
    return databases.running(request.param)


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    # On a busy machine the thread that prolongs the lock stands still for a second, and another store would get it.
    monkeypatch.setattr(redis_store, "EXPIRY_S", 3.0)
    monkeypatch.setattr(remote_store.RemoteStore, "beat_s", 0.15)
    monkeypatch.setattr(remote_store, "_LOOK_S", 0.05)


class Queue:
    """A queue of the test's own; any number of stores may ask for it."""

    def __init__(self, database):
        self.database = database
        self.table = "t" + uuid.uuid4().hex[:20]
        self.opened = []

    @property
    def options(self):
        return {TABLES[self.database.kind]: self.table}

    def config(self, port=None):
        return Config(queue=self.database.url(port), **self.options)

    def open(self, port=None):
        store = open_store(self.config(port))
        self.opened.append(store)
        return store

    def close(self):
        for store in self.opened:
            store.close()
        self.opened = []


@pytest.fixture
def queue(database):
    queue = Queue(database)
    yield queue
    queue.close()


@pytest.fixture
def proxy(database):
    proxy = databases.Proxy(database.port)
    yield proxy
    proxy.close()


def stored(queue):
    queue.close()
    store = queue.open()
    try:
        return list(store.load())
    finally:
        queue.close()


def numbered(first):
    numbers = iter(range(first, first + 1000))
    return lambda: (lambda number: (number, b"H:%d" % number))(next(numbers))


class TestDatabaseStore(Contract):
    @pytest.fixture
    def factory(self, queue):
        factory = Factory(queue.open)
        yield factory
        factory.close()


# -- how it is chosen --------------------------------------------------------------


def by_options(database, table):
    port = database.port
    return {
        "postgres": lambda: Config(
            queue_type="POSTGRES", libpq_table=table,
            libpq_conninfo="host=127.0.0.1 port=%d dbname=postgres user=gear password='%s'" % (port, databases.PASSWORD),
        ),
        "mysql": lambda: Config(
            queue_type="MySQL", mysql_host="127.0.0.1", mysql_port=port, mysql_user="gear", mysql_password=databases.PASSWORD,
            mysql_db="gear", mysql_table=table,
        ),
        "redis": lambda: Config(queue_type="Redis", redis_port=port, redis_password=databases.PASSWORD, redis_prefix=table),
    }[database.kind]()  # fmt: skip


def test_store_is_chosen_by_the_options_of_the_c_server(queue):
    config = by_options(queue.database, queue.table)
    assert databases.PASSWORD not in repr(config)
    store = open_store(config)
    store.commit(work([row(1)]))
    assert numbers_of(store) == [1]
    store.close()


def test_where_a_store_is_has_its_host_and_no_password(queue):
    store = queue.open()
    assert "127.0.0.1:%d" % queue.database.port in store.where and "s3cret" not in store.where
    assert "s3cret" not in repr(queue.config())


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        open_store(config)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    return text


def refusal_of_another(queue):
    """Of one that asks for the queue while another has it.

    It alone does not wait long: a database knows a moment late that a session is over.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (postgres_store, mysql_store):
            patch.setattr(module, "LOCK_S", 0.3)
        return refusal(queue.config())


def test_wrong_password_is_refused_in_one_line_without_it(queue):
    text = refusal(Config(queue=queue.database.url(password="wr0ng-word"), **queue.options))
    assert "127.0.0.1" in text and "wr0ng" not in text


def test_database_that_cannot_be_reached_is_refused_in_one_line(database):
    text = refusal(Config(queue=database.url(databases.free_port())))
    assert "--queue: cannot use" in text and "s3cret" not in text


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
@pytest.mark.parametrize("name", ["a b", "a;b", "", "x" * 60, "a'b"])
def test_table_of_a_strange_name_is_refused(kind, name):
    assert "table: expected a name" in refusal(Config(queue_type=kind, **{TABLES[kind]: name}))


URLS = [
    "postgresql://user:s3@cret@host/db",
    "postgresql://user:s3/cret@host/db",
    "mysql://user:s3/cret@host/db",
    "mysql://user:s3#cret@host/db",
    "mysql://user:s3cret@host:port/db",
    "mysql://user:s3cret@host/db?tls=yes",
    "redis://:s3?cret@host/0",
    "redis://:s3cret@host/db",
    "redis://:s3cret@[host/db",
    "mongodb://user:s3cret@host/db",
]


@pytest.mark.parametrize("url", URLS)
def test_url_that_is_not_understood_is_refused_without_its_password(url):
    text = refusal(Config(queue=url))
    assert text.startswith("--queue:") and "cret" not in text and "s3" not in text


@pytest.mark.parametrize("conninfo", ["s3cret", "password=s3cret oops", "host='s3cret"])
def test_conninfo_that_is_not_understood_is_refused_without_its_text(conninfo):
    pytest.importorskip("psycopg")
    assert "s3cret" not in refusal(Config(queue_type="postgres", libpq_conninfo=conninfo))


@pytest.mark.parametrize("kind", sorted(databases.KINDS))
def test_missing_driver_is_one_line_that_names_the_extra(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, databases.KINDS[kind].driver, None)
    assert "pip install gearmand[%s]" % kind in refusal(Config(queue_type=kind))


def test_driver_whose_library_is_missing_is_one_line_too(monkeypatch):
    def import_module(name):
        raise ImportError("no pq wrapper available.\nAttempts made:\n- couldn't import it")

    monkeypatch.setattr(remote_store.importlib, "import_module", import_module)
    assert "no pq wrapper available. Attempts made" in refusal(Config(queue_type="postgres"))


# -- one server a queue ------------------------------------------------------------


def test_second_server_is_refused_and_harms_nothing(queue):
    first = queue.open()
    first.commit(work([row(1)]))
    text = refusal_of_another(queue)
    assert "another gearmand works on this queue" in text and "s3cret" not in text
    first.commit(work([row(2)]))
    assert numbers_of(first) == [1, 2]


def test_store_that_is_closed_can_be_opened_at_once(queue):
    for number in range(1, 4):
        store = queue.open()
        store.commit(work([row(number)]))
        store.close()
    assert len(stored(queue)) == 3


def test_queues_of_different_names_do_not_meet(database):
    one, other = Queue(database), Queue(database)
    one.open().commit(work([row(1)], settings=[Setting(b"f", "[1, 1, 1]")]))
    store = other.open()
    assert (list(store.load()), store.load_settings()) == ([], [])
    one.close()
    other.close()


def test_server_keeps_its_queue_while_nothing_is_asked_of_it(queue):
    store = queue.open()
    # Longer than the lock in Redis lasts; it is taken anew where the connection is cut.
    time.sleep(redis_store.EXPIRY_S + 0.2 if queue.database.kind == "redis" else 0.8)
    before = store._connection
    queue.database.cut()
    wait_until(lambda: connected_anew(store, before), "it has noticed")
    assert "another gearmand" in refusal_of_another(queue)


def connected_anew(store, before):
    with store._using:
        return store._connection not in (None, before)


@contextlib.contextmanager
def cut_off(queue, store):
    """The store is without its connection and its lock, and does not notice until the end."""
    with store._using:
        queue.database.cut()
        if queue.database.kind == "redis":
            with contextlib.closing(queue.database.client) as client:
                client.delete(store._lock_key)
        yield


def test_server_whose_queue_another_has_had_stores_no_more(queue, monkeypatch):
    first = queue.open()
    first.commit(work([row(1)]))
    with cut_off(queue, first):
        second = queue.open()
        second.commit(work([row(2)], removed=[1]))
        # So long the first one waits for it each time.
        monkeypatch.setattr(mysql_store, "LOCK_S", 0.3)
    for _ in range(2):
        with pytest.raises(StoreError, match="another gearmand"):
            first.commit(work([row(3)]))
    assert numbers_of(second) == [2]
    second.close()
    # It does not know what the other has done, so not even then; a database knows a moment late that a session is over.
    ousted = "another gearmand has worked on this queue meanwhile"
    wait_until(lambda: ousted in str(_commit(first, [row(3)])), "the queue is free")
    monkeypatch.setattr(mysql_store, "LOCK_S", remote_store.LOCK_S)
    assert stored(queue) == [row(2)]


def test_server_that_was_cut_off_and_nobody_else_came_goes_on(queue):
    store = queue.open()
    with cut_off(queue, store):
        pass
    store.commit(work([row(1)]))
    assert "another gearmand" in refusal_of_another(queue)
    assert numbers_of(store) == [1]


def test_server_whose_old_session_the_database_still_has_goes_on(queue):
    store = queue.open()
    with store._using:
        old, store._connection = store._connection, None
    store.commit(work([row(1)]))
    assert "another gearmand" in refusal_of_another(queue)
    assert numbers_of(store) == [1]
    old.close()


# -- connections that are lost --------------------------------------------------------


def test_commit_after_the_connection_was_lost_makes_a_new_one(queue):
    store = queue.open()
    for number in range(1, 4):
        queue.database.cut()
        store.commit(work([row(number)]))
    queue.database.cut()
    assert store.fetch([2]) == [row(2)]
    assert numbers_of(store) == [1, 2, 3]


def test_commit_whose_answer_is_lost_is_done_once(queue, proxy):
    store = queue.open(proxy.port)
    store.commit(work([row(1), row(2), row(3)]))
    proxy.loses_answer.set()
    store.commit(work([row(4), row(5)], [Change(1, b"H:new", 1, 1)], [2], [Setting(b"f", "[1, 2, 3]")]))
    assert proxy.lost.is_set()
    assert (list(store.load()), store.load_settings()) == (
        [row(1, handle=b"H:new", retries=1), row(3), row(4), row(5)],
        [Setting(b"f", "[1, 2, 3]")],
    )


def test_row_that_was_refused_because_no_answer_came_is_not_there_later(queue, proxy, monkeypatch):
    monkeypatch.setattr(remote_store, "TRYING_S", 0.3)
    store = queue.open(proxy.port)
    with store._using:  # So that the answer that is lost is not that of something else.
        proxy.loses_answer.set()
        proxy.refuses = True
        outcome = []
        committing = threading.Thread(target=lambda: outcome.append(_commit(store, [row(1), row(2)])))
        committing.start()
    committing.join(20)
    assert isinstance(outcome[0], StoreError) and "s3cret" not in str(outcome[0])
    proxy.refuses = False
    store.commit(work([row(2), row(3)]))
    assert numbers_of(store) == [2, 3]
    assert stored(queue) == [row(2), row(3)]


def _commit(store, rows):
    try:
        store.commit(work(rows))
    except StoreError as error:
        return error


def test_doubtful_rows_are_removed_without_a_further_commit(queue, proxy, monkeypatch):
    monkeypatch.setattr(remote_store, "TRYING_S", 0.3)
    store = queue.open(proxy.port)
    store._do(store._transact, Work([row(1), row(2), row(3)], (), (), ()))
    store._doubtful.update([1, 2])
    wait_until(lambda: not store._doubtful, "they are removed")
    assert numbers_of(store) == [3]


def test_commit_while_the_database_is_away_is_an_error_in_bounded_time(queue, proxy, monkeypatch):
    monkeypatch.setattr(remote_store, "TRYING_S", 0.5)
    store = queue.open(proxy.port)
    proxy.refuses = True
    queue.database.cut()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(StoreError, match="127.0.0.1"):
            store.commit(work([row(1)]))
        assert time.monotonic() - began < 5
    proxy.refuses = False
    store.commit(work([row(2)]))
    assert numbers_of(store) == [2]


def test_database_that_hangs_holds_nobody_for_ever(queue, monkeypatch):
    for module in (remote_store, mysql_store, redis_store):
        monkeypatch.setattr(module, "HUNG_S", 0.5)
    monkeypatch.setattr(remote_store, "CONNECTING_S", 1)
    for module in (postgres_store, mysql_store, redis_store):
        monkeypatch.setattr(module, "CONNECTING_S", 1)
    monkeypatch.setitem(postgres_store._CONNECTION, "connect_timeout", 1)
    monkeypatch.setattr(remote_store, "TRYING_S", 0.5)
    store = queue.open()
    queue.database.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(StoreError):
            store.commit(work([row(1)]))
        assert time.monotonic() - began < 10
    finally:
        queue.database.signal(signal.SIGCONT)
    wait_until(lambda: _commit(store, [row(2)]) is None, "it serves again")
    assert numbers_of(store) == [2]


def test_database_killed_while_clients_submit_has_every_acknowledged_job(queue):
    acknowledged, refused = [], []
    enough = threading.Event()

    def submit(address):
        with Wire(address, timeout_s=60) as client:
            while not enough.is_set():
                client.send(SUBMIT_JOB_BG, b"f", b"", b"work")
                kind, body = client.receive()
                {JOB_CREATED: acknowledged, ERROR: refused}[kind].append(body)

    with Server(port=0, queue=queue.database.url(), **queue.options) as server:
        threads = [threading.Thread(target=submit, args=(server.address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(acknowledged) > 100, "jobs are stored")
            for _ in range(2):
                queue.database.kill()
                before = len(acknowledged)
                queue.database.start()
                wait_until(lambda: len(acknowledged) > before + 100, "jobs are stored again")
        finally:
            enough.set()
            for thread in threads:
                thread.join(60)
    handles = {each.handle for each in stored(queue)}
    assert set(acknowledged) <= handles
    assert len(handles) == len(acknowledged), "of jobs that were refused nothing is left"


def test_database_that_is_busy_with_a_large_transaction_is_waited_for(queue, proxy, monkeypatch):
    rests_s = 1.5
    if queue.database.kind == "postgres":
        # Longer than its connection was once allowed to stand still.
        rests_s = 10.5
    else:
        for module in (remote_store, mysql_store, redis_store):
            monkeypatch.setattr(module, "HUNG_S", 0.5)
    store = queue.open(proxy.port)
    accepted = proxy.accepted
    proxy.rests_s = rests_s
    # As much as no buffer on the way takes.
    rows = [row(number, workload=os.urandom(15_000_000)) for number in (1, 2)]
    store.commit(work(rows))
    assert (proxy.rests_s, proxy.accepted) == (0.0, accepted)
    assert store.fetch([1, 2]) == rows


def test_error_that_is_nobodys_leaves_nothing_half_done(queue, monkeypatch):
    store = queue.open()
    store.commit(work([row(1)]))
    # The driver's memory ends in the middle of a transaction.
    module, name = {"postgres": (store, "_remove"), "mysql": (store, "_send"), "redis": (store, "_script")}[queue.database.kind]
    whole = getattr(module, name)

    def half(*arguments):
        if queue.database.kind == "mysql":
            whole([statement for statement in arguments[0] if statement != b"COMMIT"])
        raise MemoryError

    monkeypatch.setattr(module, name, half)
    with pytest.raises(MemoryError):
        store.commit(work([row(2)], removed=[1]))
    monkeypatch.undo()
    store.commit(work([row(3)]))
    assert numbers_of(store) == [1, 3]
    assert [each.number for each in stored(queue)] == [1, 3]


def test_connection_is_looked_after_whatever_goes_wrong(queue, monkeypatch):
    store = queue.open()
    looks = []

    def beat(store):
        looks.append(1)
        raise ConfigError("made by a later version") if len(looks) % 2 else MemoryError

    monkeypatch.setattr(type(store), "_beat", beat)
    wait_until(lambda: len(looks) > 4, "it goes on looking")
    monkeypatch.undo()
    store.commit(work([row(1)]))


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_crash_test_with_a_database_that_is_killed_too_loses_nothing(kind, tmp_path):
    # Without Redis, whose lock each life of the server would wait for.
    databases.running(kind)
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts", "crash-test")
    arguments = ("--database", kind, "--kills", "5", "--seed", "6", "--directory", str(tmp_path / "crash"), "--port", str(databases.free_port()))
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200)
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert re.search("of the database +[1-9]", text), text


# -- values -------------------------------------------------------------------------


def test_transaction_that_is_larger_than_a_statement_is_whole(queue):
    store = queue.open()
    rows = [row(number, workload=os.urandom(5_000_000)) for number in range(1, 5)]
    store.commit(work(rows + [row(number) for number in range(5, 6000)]))
    assert store.fetch([2, 1]) == [rows[1], rows[0]]
    assert numbers_of(store) == list(range(1, 6000))


def test_large_job_of_any_bytes_is_stored(queue):
    store = queue.open()
    # MySQL takes no larger one as it comes; written as JSON it would be too large for Redis.
    size = {"postgres": 20, "mysql": 15, "redis": 100}[queue.database.kind] * 2**20
    rows = [row(number, workload=bytes([number]) * size) for number in (0, 255)]
    store.commit(work([*rows, row(3)]))
    for each in rows:
        (found,) = store.fetch([each.number])
        assert found == each
        store.commit(work(removed=[each.number]))
    assert numbers_of(store) == [3]


def test_transaction_of_redis_in_several_scripts_is_undone_where_one_fails(monkeypatch):
    queue = Queue(databases.running("redis"))
    store = queue.open()
    monkeypatch.setattr(redis_store, "_SCRIPT_BYTES", 10)
    whole, scripts = store._script, []

    def script(*arguments):
        scripts.append(1)
        if len(scripts) == 2:
            raise store._driver.ResponseError("no more room")
        return whole(*arguments)

    store._script = script
    with pytest.raises(StoreError, match="no more room"):
        store.commit(work([row(1, workload=b"x" * 10), row(2, workload=b"x" * 10)]))
    store._script = whole
    store.commit(work([row(3)]))
    assert [each.number for each in stored(queue)] == [3]
    queue.close()


def test_redis_whose_memory_is_full_takes_ends_which_make_room(monkeypatch):
    queue = Queue(databases.running("redis"))
    store = queue.open()
    store.commit(work([row(number, workload=b"x" * 100_000) for number in range(1, 11)]))
    with contextlib.closing(queue.database.client) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 500_000)
        try:
            for number in (11, 12):
                with pytest.raises(StoreError, match="OOM|maxmemory"):
                    store.commit(work([row(number)], removed=[number - 10]))
            assert numbers_of(store) == list(range(3, 11))
            store.commit(work(changed=[Change(3, b"H:new", 1, 1)], removed=[4, 5, 6, 7, 8, 9, 10]))
            store.commit(work([row(13)]))
        finally:
            client.config_set("maxmemory", 0)
    assert stored(queue) == [row(3, handle=b"H:new", retries=1, workload=b"x" * 100_000), row(13)]
    queue.close()


def test_redis_that_throws_keys_away_is_refused():
    queue = Queue(databases.running("redis"))
    with contextlib.closing(queue.database.client) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            queue.open()
            queue.close()
            client.config_set("maxmemory", 10**9)
            assert "maxmemory-policy allkeys-lru" in refusal(queue.config())
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
    queue.open()
    queue.close()


def test_settings_of_a_long_function_are_kept(queue):
    store = queue.open()
    settings = [Setting(os.urandom(8192), "[1, 2, 3]"), Setting(b"x" * 8192, "[null, null, 4]")]
    store.commit(work(settings=settings))
    store.commit(work(settings=settings))
    assert sorted(store.load_settings()) == sorted(settings)


def test_mysql_on_localhost_is_its_local_socket(monkeypatch):
    database = databases.running("mysql")
    monkeypatch.setattr(mysql_store, "_SOCKETS", ("/nonexistent", os.path.join(database.directory, "socket")))
    address = mysql_store.Address("localhost", 1, "gear", databases.PASSWORD, "gear")
    store = mysql_store.MysqlStore(address, "t" + uuid.uuid4().hex[:20])
    store.commit(work([row(1)]))
    store.close()


def test_mysql_without_a_database_is_refused():
    assert "names no database" in refusal(Config(queue=databases.running("mysql").url()[: -len("gear")]))


def test_mysql_refuses_a_job_over_its_packet_at_once_and_goes_on():
    queue = Queue(databases.running("mysql"))
    store = queue.open()
    began = time.monotonic()
    with pytest.raises(StoreError, match="max_allowed_packet"):
        store.commit(work([row(1), row(2, workload=b"x" * (16 * 2**20))]))
    assert time.monotonic() - began < 5
    store.commit(work([row(3)]))
    assert numbers_of(store) == [3]
    queue.close()


def test_later_version_of_the_tables_is_refused():
    for kind in ("postgres", "mysql"):
        queue = Queue(databases.running(kind))
        queue.open()
        queue.close()
        queue.database.query("UPDATE %s_owner SET version = 99" % queue.table)
        assert "later version" in refusal(queue.config())


# -- what a C server has left ----------------------------------------------------------


def as_c_has_it(rows):
    return [(each.function, each.unique, each.workload, each.priority, each.due_s) for each in rows]


C_TABLES = {
    "postgres": "CREATE TABLE %s (unique_key VARCHAR(64), function_name VARCHAR(255), priority INTEGER, data BYTEA,"
    " when_to_run INTEGER, UNIQUE (unique_key, function_name))",
    "mysql": "CREATE TABLE %s (unique_key VARCHAR(64), function_name VARCHAR(255), priority INT, data LONGBLOB,"
    " when_to_run INT, UNIQUE KEY (unique_key, function_name))",
}
C_ROWS = [
    ("u1", "reverse", 1, b"bin\0\xff'\\", 0),
    ("u2", "reverse", 0, None, None),
    ("größe", "später", 2, b"x", 1700000000),
    ("", "no-unique", 7, b"", 0),
]
C_JOBS = [
    (b"reverse", b"u1", b"bin\0\xff'\\", 1, None),
    (b"reverse", b"u2", b"", 0, None),
    ("später".encode(), "größe".encode(), b"x", 2, 1700000000),
    (b"no-unique", b"", b"", 1, None),
]


@pytest.fixture(params=["postgres", "mysql", "mysql MyISAM"])
def c_queue(request):
    queue = Queue(databases.running(request.param.split()[0]))
    engine = " ENGINE=MyISAM CHARSET=utf8mb4" if "MyISAM" in request.param else ""
    queue.database.query(C_TABLES[queue.database.kind] % queue.table + engine)
    yield queue
    queue.close()


def fill(queue):
    for each in C_ROWS:
        queue.database.query("INSERT INTO " + queue.table + " VALUES (%s, %s, %s, %s, %s)", *each)


def test_table_of_a_c_server_is_taken_over_once(c_queue):
    fill(c_queue)
    store = c_queue.open()
    taken = store.take_over(numbered(100))
    assert as_c_has_it(taken) == C_JOBS or as_c_has_it(taken) == [C_JOBS[0], C_JOBS[1], *as_c_has_it(taken)[2:3], C_JOBS[3]]
    assert [each.number for each in taken] == [100, 101, 102, 103]
    assert (list(store.load()), store.take_over(numbered(1))) == (taken, [])
    assert list(c_queue.database.query("SELECT * FROM " + c_queue.table)) == []
    assert stored(c_queue) == taken


def test_empty_table_of_a_c_server_is_nothing(c_queue):
    assert c_queue.open().take_over(numbered(1)) == []


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_table_of_something_else_is_refused_and_stays(kind):
    queue = Queue(databases.running(kind))
    queue.database.query("CREATE TABLE %s (a INTEGER)" % queue.table)
    queue.database.query("INSERT INTO %s VALUES (1)" % queue.table)
    store = queue.open()
    with pytest.raises(ConfigError, match="not a queue of the C server"):
        store.take_over(numbered(1))
    assert list(map(tuple, queue.database.query("SELECT * FROM %s" % queue.table))) == [(1,)]
    store.commit(work([row(1)]))
    queue.close()


@pytest.fixture
def redis_queue():
    queue = Queue(databases.running("redis"))
    queue.table += "[*]?-"
    yield queue
    queue.close()


def test_keys_of_a_c_server_are_taken_over_once(redis_queue):
    prefix = redis_queue.table
    with contextlib.closing(redis_queue.database.client) as client:
        client.hset(prefix + "-reverse-u1", mapping={"data": b"bin\0\xff", "priority": 0})
        client.hset(prefix + "-my-func-8c1bdae6-e7e3-11f1-85ca-02fc00000001", mapping={"data": b"", "priority": 2})
        client.set(prefix + "-resize-a-b", b"old")
        client.rpush(prefix + "-other-x", "not a job")
        client.set(prefix.replace("*", "x") + "-f-u", b"of another prefix")
        store = redis_queue.open()
        taken = store.take_over(numbered(100))
        assert as_c_has_it(taken) == [
            (b"my-func", b"8c1bdae6-e7e3-11f1-85ca-02fc00000001", b"", 2, None),
            (b"resize", b"a-b", b"old", 1, None),
            (b"reverse", b"u1", b"bin\0\xff", 0, None),
        ]
        assert (list(store.load()), store.take_over(numbered(1))) == (taken, [])
        assert client.exists(prefix + "-other-x", prefix.replace("*", "x") + "-f-u") == 2
    assert stored(redis_queue) == taken


def c_options(queue):
    port = str(queue.database.port)
    return {
        "postgres": lambda: (
            "-q", "Postgres", "--libpq-table", queue.table,
            "--libpq-conninfo", "host=127.0.0.1 port=%s dbname=postgres user=gear password='%s'" % (port, databases.PASSWORD),
        ),
        "mysql": lambda: (
            "-q", "MySQL", "--mysql-host", "127.0.0.1", "--mysql-port", port, "--mysql-user", "gear", "--mysql-password",
            databases.PASSWORD, "--mysql-db", "gear", "--mysql-table", queue.table,
        ),
        "redis": lambda: ("-q", "redis", "--redis-server", "127.0.0.1", "--redis-port", port, "--redis-password", databases.PASSWORD),
    }[queue.database.kind]()  # fmt: skip


def test_jobs_that_a_c_server_has_left_are_served(queue, tmp_path):
    if queue.database.kind == "redis":
        # It knows no number of a database, so 0, and its prefix is that of the library where it takes none.
        queue.table = "_gear_"
    with c_server(tmp_path, *c_options(queue)) as address, Wire(address) as client:
        client.submit(b"reverse", b"bin\0'\\\xff", b"u1", SUBMIT_JOB_BG)
        client.submit(b"reverse", b"", b"u2", SUBMIT_JOB_BG)
    options = {**queue.options, "queue": queue.database.url().replace("/1", "/0") if queue.database.kind == "redis" else queue.database.url()}
    with Server(port=0, **options) as server, Wire(server.address) as worker:
        worker.can_do(b"reverse")
        assert sorted(worker.grab()[1:] for _ in range(2)) == [(b"reverse", b""), (b"reverse", b"bin\0'\\\xff")]


# -- TLS -------------------------------------------------------------------------------


def _with_tls(kind):
    """The same database server, with a certificate of the authority `ca`; `other-ca` is another authority."""
    made = certificates()

    class WithTls(databases.KINDS[kind]):
        def make(self):
            super().make()
            for name in ("server.key", "server.pem", "ca.pem"):
                shutil.copy(made.path(name), self.file(name))
                if os.getuid() == 0:
                    shutil.chown(self.file(name), "nobody")
                os.chmod(self.file(name), 0o600)
            self.tls_port = databases.free_port() if kind == "redis" else self.port

        def file(self, name):
            return os.path.join(self.directory, name)

        def command(self):
            certificate, key = self.file("server.pem"), self.file("server.key")
            more = {
                "postgres": ("-c", "ssl=on", "-c", "ssl_cert_file=" + certificate, "-c", "ssl_key_file=" + key),
                "mysql": ("--ssl-cert=" + certificate, "--ssl-key=" + key),
                "redis": ("--tls-port", self.tls_port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"),
            }[kind]
            return [*super().command(), *more, *(("--tls-ca-cert-file", self.file("ca.pem")) if kind == "redis" else ())]

        def address(self, authority):
            query = {"postgres": "?sslmode=verify-full&sslrootcert=%s"}.get(kind, "?ssl_ca=%s")
            return self.url(self.tls_port).replace("redis:", "rediss:") + query % made.path(authority + ".pem")

    return WithTls()


@pytest.mark.parametrize("kind", sorted(databases.KINDS))
def test_connection_with_tls_is_to_the_database_of_that_certificate_alone(kind):
    database = _with_tls(kind)
    try:
        store = open_store(Config(queue=database.address("ca")))
        store.commit(work([row(1, workload=os.urandom(1_000_000))]))
        assert numbers_of(store) == [1]
        # It can be ended while it waits, like one without.
        with store._using:
            store._sever()
        store.commit(work([row(2)]))
        assert numbers_of(store) == [1, 2]
        store.close()
        assert "certificate" in refusal(Config(queue=database.address("other-ca")))
    finally:
        database.close()
