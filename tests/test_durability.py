"""What survives a server: through its sockets, stopped and started again, and killed."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gearmand import Server
from gearmand.errors import ConfigError, JobRefused, StoreError
from gearmand.rows import Row
from gearmand.sqlite_store import SqliteStore
from gearmand.store import Work
from peers import free_address
from test_stores import C_FILES, DATA
from wire import (
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    STATUS_RES,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_JOB_SCHED,
    WORK_COMPLETE,
    WORK_FAIL,
    Wire,
    status,
    wait_until,
)

SUBMIT_REDUCE_JOB_BACKGROUND = 38
JOB_ASSIGN_ALL = 40
FAR = 4102444800

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOUNTED_BYTES = 2 * 1024**2


class Embedded:
    """A server in this process, which is stopped."""

    def __init__(self, file, **options):
        self.file = file
        self.server = None
        self.choose(**options)
        self.start()

    def choose(self, **options):
        self.options = options

    def start(self):
        self.server = Server(port=0, queue=str(self.file), **self.options).start()
        self.address = self.server.address

    def end(self):
        self.server.stop()


class Killed:
    """A server in a process of its own, which gets SIGKILL."""

    def __init__(self, file, **options):
        self.file = file
        self.choose(**options)
        self.address = free_address()
        self.start()

    def choose(self, **options):
        self.options = ["--%s=%s" % (name.replace("_", "-"), value) for name, value in options.items()]

    def start(self):
        host, port = self.address
        command = [sys.executable, "-m", "gearmand", "-L", host, "-p", str(port), "-l", "none", "--queue", str(self.file)]
        self.process = subprocess.Popen([*command, *self.options], cwd=str(ROOT), stderr=subprocess.PIPE)
        try:
            wait_until(self._serves, "the server serves")
        except BaseException:
            self.end()
            raise

    def _serves(self):
        assert self.process.poll() is None, self.process.stderr.read()
        try:
            with Wire(self.address) as wire:
                wire.echo()
            return True
        except OSError:
            return False

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)
        self.process.stderr.close()


@pytest.fixture(params=[Embedded, Killed])
def make(request, tmp_path):
    houses = []

    def make(**options):
        houses.append(House(request.param(tmp_path / "queue.db", **options)))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def house(make):
    return make()


class House:
    """One server after the other over one file, and the peers of the one that is alive."""

    def __init__(self, server):
        self.server = server
        self.file = server.file
        self._wires = []
        self._alive = True

    @property
    def address(self):
        return self.server.address

    def peer(self, *functions):
        wire = Wire(self.address)
        self._wires.append(wire)
        wire.can_do(*functions)
        return wire

    def restart(self):
        self.end()
        self.server.start()
        self._alive = True

    def end(self):
        if self._alive:
            self._alive = False
            self.server.end()
        for wire in self._wires:
            wire.close()
        self._wires = []

    close = end

    def settle(self):
        """What has ended so far is stored: it goes with the rows that come after it."""
        self.peer().submit(b"settle", kind=SUBMIT_JOB_BG)

    def rows(self):
        """Those in the file once the server has ended, without those of `settle`."""
        self.end()
        store = SqliteStore(str(self.file))
        try:
            return [row for row in store.load() if row.function != b"settle"]
        finally:
            store.close()

    def jobs(self, function=b"f"):
        return status(self.address).get(function.decode(), (0, 0, 0))[0]


def job_status(wire, handle):
    """Whether it is known, and whether it runs."""
    wire.send(GET_STATUS, handle)
    answer = wire.expect(STATUS_RES)
    assert answer[0] == handle
    return answer[1] == b"1", answer[2] == b"1"


def finish(worker, handle):
    worker.send(WORK_COMPLETE, handle, b"")
    worker.echo()


def finish_all(worker, count):
    """The jobs that a worker gets, in order: handle and workload."""
    got = []
    for _ in range(count):
        handle, _, workload = worker.grab()
        finish(worker, handle)
        got.append((handle, workload))
    worker.send(GRAB_JOB)
    worker.expect(NO_JOB)
    return got


# -- what is there again ----------------------------------------------------------


@pytest.mark.parametrize(
    "line, look, expected",
    [
        ("policy f attempts=7", "policy f", "attempts\t7"),
        ("pause function f", "policy f", "paused\ttrue"),
        ("recur nightly f 0 3 * * *", "recurring", "nightly\tf\t0 3 * * *\tnormal\tnightly"),
    ],
)
def test_what_is_set_is_there_after_the_answer(make, line, look, expected):
    house = make()
    with Wire(house.address) as wire:
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.ask(line)
        house.restart()
    with Wire(house.address) as wire:
        assert any(row.startswith(expected) for row in wire.table(look))



def test_jobs_are_there_with_their_handles_in_their_order(house):
    client = house.peer()
    kinds = [SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG]
    handles = [client.submit(b"f", b"%d" % number, kind=kind) for number, kind in enumerate(kinds)]
    assert len(set(handles)) == 6
    for _ in range(2):
        house.restart()
        client = house.peer()
        assert [job_status(client, handle) for handle in handles] == [(True, False)] * 6
    expected = [(handles[number], b"%d" % number) for number in (2, 4, 0, 3, 1, 5)]
    worker = house.peer(b"f")
    assert finish_all(worker, 6) == expected
    assert [job_status(worker, handle) for handle in handles] == [(False, False)] * 6


def test_many_jobs_of_a_pipeline_keep_their_order(house):
    client = house.peer()
    count = 1000
    for number in range(count):
        client.send(SUBMIT_JOB_BG, b"f", b"", b"%d" % number)
    handles = [client.expect(JOB_CREATED)[0] for _ in range(count)]
    house.restart()
    worker = house.peer(b"f")
    for number in range(count):
        worker.send(GRAB_JOB)
    got = []
    for number in range(count):
        kind, body = worker.receive()
        assert kind == JOB_ASSIGN
        got.append((body.split(b"\0")[0], body.split(b"\0")[2]))
    assert got == [(handle, b"%d" % number) for number, handle in enumerate(handles)]


@pytest.mark.parametrize("workload", [b"", b"\0", bytes(range(256)), os.urandom(2_000_000)], ids=["empty", "nul", "binary", "large"])
def test_workload_is_there_byte_for_byte(house, workload):
    handle = house.peer().submit(b"f", workload, kind=SUBMIT_JOB_BG)
    house.restart()
    assert house.peer(b"f").grab() == (handle, b"f", workload)


def test_unique_is_there(house):
    handle = house.peer().submit(b"f", b"w", b"u", SUBMIT_JOB_BG)
    house.restart()
    worker = house.peer(b"f")
    worker.send(GRAB_JOB_UNIQ)
    assert worker.expect(JOB_ASSIGN_UNIQ) == [handle, b"f", b"u", b"w"]
    assert worker.submit(b"f", b"other", b"u", SUBMIT_JOB_BG) == handle


def test_reducer_is_there(house):
    client = house.peer()
    client.send(SUBMIT_REDUCE_JOB_BACKGROUND, b"f", b"u", b"sum", b"work")
    handle = client.expect(JOB_CREATED)[0]
    house.restart()
    worker = house.peer(b"f")
    worker.send(GRAB_JOB_ALL)
    assert worker.expect(JOB_ASSIGN_ALL) == [handle, b"f", b"u", b"sum", b"work"]


def test_new_handle_is_none_of_the_old_ones(house):
    handles = [house.peer().submit(b"f", kind=SUBMIT_JOB_BG) for _ in range(3)]
    house.restart()
    handles += [house.peer().submit(b"f", kind=kind) for kind in (SUBMIT_JOB_BG, SUBMIT_JOB)]
    house.restart()
    handles += [house.peer().submit(b"f", kind=SUBMIT_JOB_BG)]
    assert len(set(handles)) == 6


def test_job_that_ran_waits_again(house):
    handle = house.peer().submit(b"f", b"w", kind=SUBMIT_JOB_BG)
    assert house.peer(b"f").grab()[0] == handle
    house.settle()
    house.restart()
    worker = house.peer(b"f")
    assert job_status(worker, handle) == (True, False)
    assert worker.grab() == (handle, b"f", b"w")


def test_job_that_is_not_due_waits_until_it_is(house):
    client = house.peer()
    far = submit_at(client, FAR, b"far")
    due_s = int(time.time()) + 3
    near = submit_at(client, due_s, b"near")
    house.restart()
    worker = house.peer(b"f")
    assert job_status(worker, far) == job_status(worker, near) == (True, False)
    ready_at = time.time()
    assert worker.grab() == (near, b"f", b"near")
    # A busy machine takes seconds to start a server.
    assert due_s <= time.time() < max(due_s, ready_at) + 10
    assert job_status(worker, far) == (True, False)


def submit_at(client, due_s, workload):
    client.send(SUBMIT_JOB_EPOCH, b"f", b"", b"%d" % due_s, workload)
    return client.expect(JOB_CREATED)[0]


def test_scheduled_job_keeps_its_time(house):
    client = house.peer()
    client.send(SUBMIT_JOB_SCHED, b"f", b"", b"0", b"0", b"1", b"1", b"", b"new year")
    handle = client.expect(JOB_CREATED)[0]
    (row,) = house.rows()
    assert (row.handle, row.workload) == (handle, b"new year")
    assert time.localtime(row.due_s)[1:5] == (1, 1, 0, 0) and row.due_s > time.time()


def test_job_that_came_due_meanwhile_is_given_out_at_once(house):
    house.end()
    store = SqliteStore(str(house.file))
    store.commit(Work([Row(5, b"H:5", b"f", b"", b"w", 1, int(time.time()) - 60, 1.5, 0, None)], (), (), ()))
    store.close()
    house.restart()
    assert house.peer(b"f").grab() == (b"H:5", b"f", b"w")


def test_attempts_are_counted_on(make):
    house = make(job_retries=3)
    handle = house.peer().submit(b"f", kind=SUBMIT_JOB_BG)
    for _ in range(2):
        with Wire(house.address) as worker:
            worker.can_do(b"f")
            assert worker.grab()[0] == handle
        wait_until(lambda: status(house.address)["f"] == (1, 0, 0), "the worker has gone")
        house.settle()
        house.restart()
    with Wire(house.address) as worker:
        worker.can_do(b"f")
        assert worker.grab()[0] == handle
    wait_until(lambda: not house.jobs(), "the job has failed")
    house.settle()
    assert house.rows() == []


def test_limits_of_maxqueue_are_there(house):
    client = house.peer()
    assert client.ask("maxqueue f 2") == "OK"
    assert client.ask("maxqueue g 1 0 3") == "OK"
    assert client.ask("maxqueue h 1") == "OK" == client.ask("maxqueue h")
    client.submit(b"f", kind=SUBMIT_JOB_BG)
    client.submit(b"f", kind=SUBMIT_JOB_BG)
    for _ in range(2):
        house.restart()
        client = house.peer()
        client.send(SUBMIT_JOB_BG, b"f", b"", b"")
        assert client.expect(ERROR)[0] == b"QUEUE_ERROR"
        house.settle()
    client.submit(b"g", kind=SUBMIT_JOB_HIGH_BG)
    client.send(SUBMIT_JOB_HIGH_BG, b"g", b"", b"")
    assert client.expect(ERROR)[0] == b"QUEUE_ERROR"
    client.submit(b"g", kind=SUBMIT_JOB_BG)
    for _ in range(3):
        client.submit(b"h", kind=SUBMIT_JOB_BG)
    assert len(house.rows()) == 7


def test_more_jobs_than_the_limit_that_came_later_are_all_there(house):
    client = house.peer()
    for number in range(5):
        client.submit(b"f", b"%d" % number, kind=SUBMIT_JOB_BG)
    assert client.ask("maxqueue f 2") == "OK"
    house.settle()
    house.restart()
    assert house.jobs() == 5


def test_job_submitted_in_process_is_there(tmp_path):
    house = House(Embedded(tmp_path / "queue.db"))
    try:
        handle = house.server.server.submit("größe", b"w", b"u", background=True)
        assert house.server.server.submit("größe", b"w", b"u", background=True) == handle
        house.restart()
        assert house.peer("größe".encode()).grab() == (handle.encode(), "größe".encode(), b"w")
    finally:
        house.close()


def test_dormant_jobs_of_an_earlier_prefix_are_known_and_can_be_cancelled(make):
    house = make(job_handle_prefix="H:before", queue_memory=1)
    handles = [house.peer().submit(b"f", b"%d" % number, kind=SUBMIT_JOB_BG) for number in range(4)]
    assert handles[0].startswith(b"H:before:")
    house.server.choose(job_handle_prefix="H:after", queue_memory=1)
    house.restart()
    client = house.peer()
    assert [job_status(client, handle) for handle in handles] == [(True, False)] * 4
    assert client.ask("cancel job %s" % handles[2].decode()).startswith("OK")
    assert not client.ask("cancel job %s" % handles[2].decode()).startswith("OK")
    assert finish_all(house.peer(b"f"), 3) == [(handles[number], b"%d" % number) for number in (0, 1, 3)]
    assert client.submit(b"f", kind=SUBMIT_JOB_BG).startswith(b"H:after:")


# -- coalescing ---------------------------------------------------------------------


@pytest.mark.parametrize("unique", [b"u", b"-"])
def test_coalesced_submissions_are_one_job_and_end_as_one(house, unique):
    client = house.peer()
    handle = client.submit(b"f", b"same", unique, SUBMIT_JOB_BG)
    assert [client.submit(b"f", b"same", unique, SUBMIT_JOB_HIGH_BG) for _ in range(3)] == [handle] * 3
    for _ in range(2):
        house.restart()
        assert house.jobs() == 1
        assert house.peer().submit(b"f", b"same", unique, SUBMIT_JOB_BG) == handle
    worker = house.peer(b"f")
    assert finish_all(worker, 1) == [(handle, b"same")]
    house.settle()
    assert house.rows() == []


def test_coalesced_submissions_of_one_pipeline_are_one_job(house):
    client = house.peer()
    for number in range(10):
        client.send(SUBMIT_JOB_BG, b"f", b"u", b"%d" % number)
    handles = {client.expect(JOB_CREATED)[0] for _ in range(10)}
    house.restart()
    assert len(handles) == 1 and finish_all(house.peer(b"f"), 1) == [(handles.pop(), b"0")]
    house.settle()
    assert house.rows() == []


def test_dash_of_different_workloads_is_different_jobs(house):
    client = house.peer()
    handles = [client.submit(b"f", workload, b"-", SUBMIT_JOB_BG) for workload in (b"a", b"b", b"", b"")]
    house.restart()
    assert finish_all(house.peer(b"f"), 4) == list(zip(handles, (b"a", b"b", b"", b"")))


def test_background_submission_that_meets_a_foreground_job_survives_as_it(house):
    client = house.peer()
    handle = client.submit(b"f", b"work", b"u")
    assert house.peer().submit(b"f", b"work", b"u", SUBMIT_JOB_BG) == handle
    house.restart()
    worker = house.peer(b"f")
    assert job_status(worker, handle) == (True, False)
    assert finish_all(worker, 1) == [(handle, b"work")]
    house.settle()
    assert house.rows() == []


def test_foreground_submission_that_meets_a_background_job_leaves_it_as_it_was(house):
    handle = house.peer().submit(b"f", b"work", b"u", SUBMIT_JOB_BG)
    with Wire(house.address) as client:
        assert client.submit(b"f", b"work", b"u") == handle
    house.restart()
    assert finish_all(house.peer(b"f"), 1) == [(handle, b"work")]


# -- what is not there any more ---------------------------------------------------------


def test_jobs_that_ended_are_gone(house):
    client = house.peer()
    handles = [client.submit(b"f", b"%d" % number, kind=SUBMIT_JOB_BG) for number in range(4)]
    worker = house.peer(b"f")
    for handle, kind in zip(handles, (WORK_COMPLETE, WORK_FAIL)):
        assert worker.grab()[0] == handle
        worker.send(kind, *([handle, b""] if kind == WORK_COMPLETE else [handle]))
        worker.echo()
    assert client.ask("cancel job %s" % handles[3].decode()).startswith("OK")
    house.settle()
    house.restart()
    client = house.peer()
    assert [job_status(client, handle)[0] for handle in handles] == [False, False, True, False]
    assert [row.handle for row in house.rows()] == [handles[2]]


def test_cancelled_delayed_job_is_gone(house):
    client = house.peer()
    handle = submit_at(client, FAR, b"")
    assert client.ask("cancel job %s" % handle.decode()).startswith("OK")
    house.settle()
    assert house.rows() == []


def test_job_that_ended_before_a_restart_of_its_own_is_gone_after_the_next(house):
    handle = house.peer().submit(b"f", kind=SUBMIT_JOB_BG)
    house.restart()
    worker = house.peer(b"f")
    assert worker.grab()[0] == handle
    finish(worker, handle)
    house.settle()
    house.restart()
    assert house.jobs() == 0 and house.rows() == []


def test_foreground_jobs_are_not_stored(house):
    client = house.peer()
    handle = client.submit(b"f", b"work", b"u")
    house.settle()
    house.restart()
    assert job_status(house.peer(), handle) == (False, False)
    assert house.rows() == []


def test_refused_jobs_are_not_stored(house):
    client = house.peer()
    assert client.ask("maxqueue f 1") == "OK"
    handle = client.submit(b"f", b"kept", kind=SUBMIT_JOB_BG)
    for arguments in ((b"f", b"", b"one too many"), (b"f", b"u" * 65, b""), (b"f" * 8193, b"", b"")):
        client.send(SUBMIT_JOB_BG, *arguments)
        client.expect(ERROR)
    client.send(SUBMIT_JOB_EPOCH, b"f", b"", b"9" * 30, b"")
    client.expect(ERROR)
    client.send(SUBMIT_JOB_BG, b"f")
    client.expect(ERROR)
    house.settle()
    assert [row.handle for row in house.rows()] == [handle]


def test_job_refused_in_process_is_not_stored(tmp_path):
    house = House(Embedded(tmp_path / "queue.db"))
    try:
        house.peer().ask("maxqueue f 1")
        handle = house.server.server.submit("f", background=True)
        with pytest.raises(JobRefused):
            house.server.server.submit("f", background=True)
        assert [row.handle for row in house.rows()] == [handle.encode()]
    finally:
        house.close()


# -- the file of a C server ---------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(C_FILES))
def test_file_of_a_c_server_is_taken_over_at_the_start(make, tmp_path, name):
    shutil.copy(str(DATA / name), str(tmp_path / "queue.db"))
    house = make()
    expected = sorted(C_FILES[name])
    for _ in range(2):
        found = sorted((row.function, row.unique, row.workload, row.priority, row.due_s) for row in house.rows())
        assert found == expected
        house.restart()
    if name == "c-1.1.20-plain.db":
        worker = house.peer(b"reverse", b"resize", b"later")
        got = [(function, workload) for _, function, workload in (worker.grab() for _ in range(5))]
        assert got[0] == (b"reverse", b"high") and got[-1] == (b"reverse", b"low")
        assert [job for job in got if job[0] == b"reverse"][1:3] == [(b"reverse", b"plain"), (b"reverse", b"")]
        assert (b"resize", b"bin\0\xff\xfe") in got
        assert house.jobs(b"later") == 1


def test_second_server_on_a_file_is_refused_and_the_first_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("gearmand.sqlite_store._LOCKED_S", 0.1)
    house = House(Embedded(tmp_path / "queue.db"))
    try:
        second = Server(port=0, queue=str(house.file))
        with pytest.raises(ConfigError):
            second.start()
        assert second.wait(0)
        handle = house.peer().submit(b"f", kind=SUBMIT_JOB_BG)
        assert [row.handle for row in house.rows()] == [handle]
    finally:
        house.close()


def damage(file, column, value):
    store = SqliteStore(str(file))
    store.commit(Work([Row(number, b"H:%d" % number, b"f", b"", b"w", 1, None, 1.5, 0, None) for number in (5, 7)], (), (), ()))
    store._connection.execute("UPDATE gearman_queue_jobs SET %s = ? WHERE number = 7" % column, (value,))
    store.close()


DAMAGES = [("function", None), ("priority", 7), ("workload", 5), ("due", "soon"), ("submitted", None), ("uniq", 1.5), ("reducer", 3)]


@pytest.mark.parametrize("column, value", DAMAGES)
def test_row_that_was_damaged_by_hand_is_one_line_that_names_it_and_status_1(tmp_path, column, value):
    file = tmp_path / "queue.db"
    damage(file, column, value)
    for option in ("-p", "0"), ("--export", "-"):
        done = subprocess.run(
            [sys.executable, "-m", "gearmand", "-L", "127.0.0.1", *option, "-l", "none", "--queue", str(file)],
            cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, universal_newlines=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert str(file) in done.stderr and "row 7" in done.stderr and "remove it" in done.stderr


@pytest.mark.parametrize("method", ["load", "load_settings", "take_over"])
@pytest.mark.parametrize("error", [StoreError("q: disk I/O error"), ConfigError("q: disk I/O error")])
def test_store_that_cannot_be_read_at_the_start_is_a_refusal_and_closed(tmp_path, monkeypatch, method, error):
    def fail(store, *arguments):
        raise error

    monkeypatch.setattr(SqliteStore, method, fail)
    server = Server(port=0, queue=str(tmp_path / "queue.db"))
    with pytest.raises(ConfigError) as caught:
        server.start()
    assert "disk I/O error" in str(caught.value) and server.wait(0)
    monkeypatch.undo()
    # Closed: another one can have it.
    SqliteStore(str(tmp_path / "queue.db")).close()


# -- a disk that is full --------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if os.getuid() != 0 or subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=%d" % MOUNTED_BYTES, "tmpfs", str(directory)], stderr=subprocess.DEVNULL
    ):
        pytest.skip("a small file system cannot be mounted; only root can")
    yield directory
    subprocess.check_call(["umount", str(directory)])


def fill(directory):
    with open(str(directory / "filler"), "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return directory / "filler"


def test_full_disk_refuses_what_it_cannot_store_and_loses_nothing(small_disk):
    house = House(Killed(small_disk / "queue.db"))
    try:
        client = house.peer()
        kept = [client.submit(b"f", b"before %d" % number, kind=SUBMIT_JOB_BG) for number in range(20)]
        filler = fill(small_disk)
        for number in range(100):
            client.send(SUBMIT_JOB_BG, b"f", b"", b"x" * 100_000)
            kind, body = client.receive()
            if kind == ERROR:
                break
            kept.append(body)
        code, text = body.split(b"\0")
        assert code == b"QUEUE_ERROR" and b"full" in text and b"queue.db" in text, text
        # What is in memory goes on, and so does whatever needs no disk.
        worker = house.peer(b"f", b"g")
        handle = worker.grab()[0]
        assert handle == kept[0]
        finish(worker, handle)
        foreground = client.submit(b"g", b"foreground")
        while handle != foreground:
            handle = worker.grab()[0]
            finish(worker, handle)
            if handle != foreground:
                kept.remove(handle)
        client.expect(WORK_COMPLETE)
        kept = [each for each in kept if job_status(client, each)[0]]
        client.send(SUBMIT_JOB_BG, b"f", b"", b"x" * 200_000)
        assert client.expect(ERROR)[0] == b"QUEUE_ERROR"
        filler.unlink()
        kept.append(client.submit(b"f", b"x" * 100_000, kind=SUBMIT_JOB_BG))
        kept.append(client.submit(b"f", b"after", kind=SUBMIT_JOB_BG))
        house.restart()
        client = house.peer()
        assert [job_status(client, each)[0] for each in kept] == [True] * len(kept)
        # What ended while the disk was full has been told to the store since.
        assert [row.handle for row in house.rows()] == kept
    finally:
        house.close()


def test_disk_that_is_full_at_the_start_is_one_line_and_status_1(small_disk):
    fill(small_disk)
    done = subprocess.run(
        [sys.executable, "-m", "gearmand", "-L", "127.0.0.1", "-p", "0", "--queue", str(small_disk / "queue.db")],
        cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert b"queue.db" in done.stderr


# -- killed again and again ---------------------------------------------------------------------


def crash_test(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "crash-test"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize("fault", [None, "enospc", "eio", "raise"])
def test_crash_test_loses_nothing(fault, tmp_path):
    seed = os.urandom(4).hex()
    print("seed", int(seed, 16))
    # A disk as slow as it likes: how long before a kill a job may come back is for longer runs.
    arguments = ["--kills", "5", "--longest", "0.4", "--moments", "20", "--durability", "normal", "--port", str(free_address()[1])]
    fault_arguments = [] if fault is None else ["--fault", fault]
    done = crash_test(*arguments, *fault_arguments, "--seed", str(int(seed, 16)), "--directory", str(tmp_path / "crash"))
    assert done.returncode == 0, done.stdout
    assert "lost                  0" in done.stdout


def test_crash_test_with_wrong_arguments_says_so(tmp_path):
    assert crash_test("--fault", "fire").returncode == 2
    assert "--kills" in crash_test("--help").stdout
    (tmp_path / "queue.db").write_text("precious")
    done = crash_test("--directory", str(tmp_path))
    assert done.returncode == 1 and (tmp_path / "queue.db").read_text() == "precious"
