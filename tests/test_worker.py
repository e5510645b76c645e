"""The worker: its jobs, its servers, its threads and processes, its command line."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from gearmand import JobException, JobFailed, Server, operations
from gearmand.errors import ConfigError, GearmandError, ServerLost
from gearmand.station import OWING
from gearmand.worker import Worker, main
from peers import ScriptedServer, free_address
from test_conversations import c_server, c_version  # noqa: F401
from wire import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    DEADLINE_S,
    ERROR,
    GRAB_JOB,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    SET_CLIENT_ID,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    Wire,
    packet,
    status,
    wait_for_workers,
    wait_until,
)

JOB_ASSIGN_ALL = 40

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


@pytest.fixture
def log(caplog):
    """The lines of the worker's log at INFO and above."""
    caplog.set_level(logging.INFO, "gearmand.worker")
    return lambda: [record for record in caplog.records if record.name == "gearmand.worker"]


def texts(log, level=logging.INFO):
    return [record.getMessage() for record in log() if record.levelno >= level]


class Background:
    """Runs a call in a thread; `result()` waits for it."""

    def __init__(self, call, *arguments, **options):
        self.value = self.error = None
        self._thread = threading.Thread(target=self._run, args=(call, arguments, options))
        self._thread.start()

    def _run(self, call, arguments, options):
        try:
            self.value = call(*arguments, **options)
        except Exception as error:
            self.error = error

    def result(self):
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the call does not return"
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def running(self):
        return self._thread.is_alive()


class Fake:
    """A server that does as it is told. `accept` waits for a worker."""

    def __init__(self, address=("127.0.0.1", 0)):
        self._listener = socket.create_server(address)
        self._listener.settimeout(DEADLINE_S)
        self.address = self._listener.getsockname()
        self._peers = []

    def accept(self):
        connection, _ = self._listener.accept()
        self._peers.append(FakePeer(connection))
        return self._peers[-1]

    def close(self):
        for peer in self._peers:
            peer.close()
        self._listener.close()


class FakePeer:
    """One worker, as its server sees it."""

    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def close(self):
        self.socket.close()

    def _take(self, count):
        while len(self.buffer) < count:
            data = self.socket.recv(65536)
            assert data, "the worker has closed the connection"
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def receive(self):
        magic, kind, size = struct.unpack(">4sII", self._take(12))
        assert magic == b"\0REQ"
        return kind, self._take(size)

    def expect(self, kind, body=None):
        got = self.receive()
        assert got[0] == kind, "expected packet type %d, got %r" % (kind, got)
        assert body is None or got[1] == body
        return got[1]

    def until(self, kind):
        """Skip to the next packet of that type; its body."""
        while True:
            got, body = self.receive()
            if got == kind:
                return body

    def send(self, kind, *arguments):
        self.socket.sendall(self.packed(kind, *arguments))

    @staticmethod
    def packed(kind, *arguments):
        return packet(kind, *arguments).replace(b"REQ", b"RES", 1)

    def assign(self, function=b"f", workload=b"", handle=b"H:x:1", unique=b""):
        self.send(JOB_ASSIGN_UNIQ, handle, function, unique, workload)

    def is_closed(self):
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def fake(monkeypatch):
    # It seldom answers to a worker's farewell.
    monkeypatch.setattr("gearmand.lane._LEAVE_S", 0.05)
    fake = Fake()
    yield fake
    fake.close()


def echo(job):
    return job.workload


def station_of(worker, server):
    """Where a worker's first thread works for that server."""
    (station,) = [station for station in list(worker._working.lanes[0]._stations) if station.server == "%s:%d" % server.address]
    return station


def worker_of(server, **functions):
    worker = Worker(server.address)
    for function, call in functions.items():
        worker.register(function, call)
    return worker


# -- the callable and its job --------------------------------------------------------


@pytest.mark.parametrize(
    "encoder, returned, expected",
    [
        (None, b"a\0b", b"a\0b"),
        (None, "tëxt", "tëxt".encode()),
        (None, bytearray(b"array"), b"array"),
        (None, None, b""),
        ("text", "tëxt", "tëxt".encode()),
        ("json", {"a": [1, None]}, b'{"a":[1,null]}'),
        ("json", None, b""),
        ("json", 0, b"0"),
    ],
)
def test_result_of_a_callable_is_encoded(server, encoder, returned, expected):
    worker = Worker(server.address, encoder=encoder)
    worker.register("f", lambda job: returned)
    with worker:
        assert server.submit("f", timeout_s=DEADLINE_S) == expected


def test_workload_is_decoded_by_the_encoder_of_the_function(server):
    seen = {}

    def look(job):
        seen[job.function] = (job.workload, job.data)

    worker = Worker(server.address, encoder="json")
    worker.register("json", look)
    worker.register("bytes", look, encoder="bytes")
    with worker:
        server.submit("json", b'{"a": 1}', timeout_s=DEADLINE_S)
        server.submit("bytes", b'{"a": 1}', timeout_s=DEADLINE_S)
    assert seen == {"json": ({"a": 1}, b'{"a": 1}'), "bytes": (b'{"a": 1}', b'{"a": 1}')}


def test_job_knows_what_it_is(server):
    seen = []
    worker = Worker(server.address)

    @worker.register("größe")
    def look(job):
        seen.append((job.function, job.handle, job.unique, job.server, job.data, job.workload, job.reducer))

    assert look.__name__ == "look"
    with worker:
        with Wire(server.address) as client:
            handle = client.submit("größe".encode(), b"work\0load", b"the unique")
            client.expect(WORK_COMPLETE)
    address = "127.0.0.1:%d" % server.address[1]
    assert seen == [("größe", handle.decode(), "the unique", address, b"work\0load", b"work\0load", None)]


def test_function_name_may_be_bytes_that_are_no_utf_8(server):
    worker = Worker(server.address)
    worker.register(b"\xff\xfe", lambda job: job.function.encode("utf-8", "surrogateescape"))
    with worker, Wire(server.address) as client:
        client.submit(b"\xff\xfe")
        assert client.expect(WORK_COMPLETE)[1] == b"\xff\xfe"


def test_reports_reach_the_client_in_order(server):
    def report(job):
        job.send_status(1, 2)
        job.send_data({"part": 1})
        job.send_warning(["careful"])
        job.send_data(None)
        return "end"

    worker = Worker(server.address, encoder="json")
    worker.register("f", report)
    seen = []
    with worker:
        result = server.submit(
            "f",
            timeout_s=DEADLINE_S,
            on_data=lambda data: seen.append(("data", data)),
            on_warning=lambda data: seen.append(("warning", data)),
            on_status=lambda *status: seen.append(("status", status)),
        )
    assert result == b'"end"'
    assert seen == [("status", (1, 2)), ("data", b'{"part":1}'), ("warning", b'["careful"]'), ("data", b"")]


def test_generator_yields_parts_and_returns_the_result(server):
    def parts(job):
        yield b"one"
        yield "two"
        return b"three"

    seen = []
    with worker_of(server, f=parts):
        assert server.submit("f", timeout_s=DEADLINE_S, on_data=seen.append) == b"three"
    assert seen == [b"one", b"two"]


def test_generator_that_raises_is_an_exception_after_its_parts(server):
    ended = []

    def parts(job):
        try:
            yield b"one"
            raise KeyError("two")
        finally:
            ended.append(True)

    seen = []
    with worker_of(server, f=parts):
        with pytest.raises(JobException) as caught:
            server.submit("f", timeout_s=DEADLINE_S, on_data=seen.append)
    assert (seen, caught.value.data, ended) == ([b"one"], b"KeyError: 'two'", [True])


def test_generator_whose_part_cannot_be_encoded_is_closed_and_an_exception(server):
    ended = []

    def parts(job):
        try:
            yield object()
        finally:
            ended.append(True)

    with worker_of(server, f=parts):
        with pytest.raises(JobException, match="TypeError: expected bytes, got object"):
            server.submit("f", timeout_s=DEADLINE_S)
    assert ended == [True]


class BadText(Exception):
    def __str__(self):
        raise ValueError("no text")


class NoEncoder:
    def encode(self, value):
        return "a str"

    def decode(self, data):
        raise UnicodeError("cannot decode")


def raises(error):
    def call(job):
        raise error

    return call


@pytest.mark.parametrize(
    "call, encoder, told",
    [
        (raises(ValueError("bad\0text ü")), None, "ValueError: bad\0text ü".encode()),
        (raises(SystemExit(3)), None, b"SystemExit: 3"),
        (raises(BadText()), None, b"BadText"),
        (raises(ValueError("\udcff\ud800")), None, b"ValueError: \\udcff\\ud800"),
        (lambda job: 1.5, None, b"TypeError: expected bytes, got float"),
        (lambda job: "x", NoEncoder(), b"TypeError: the encoder made str of it, not bytes"),
        (lambda job: job.workload, NoEncoder(), b"UnicodeError: cannot decode"),
        (raises(ServerLost("of another client's")), None, b"ServerLost: of another client's"),
    ],
)
def test_exception_of_a_callable_is_told_and_logged_and_the_worker_goes_on(server, log, call, encoder, told):
    worker = worker_of(server, good=echo)
    worker.register("bad", call, encoder=encoder)
    with worker:
        with pytest.raises(JobException) as caught:
            server.submit("bad", timeout_s=DEADLINE_S)
        assert caught.value.data.startswith(told)
        assert server.submit("good", b"x", timeout_s=DEADLINE_S) == b"x"
    (line,) = [record for record in log() if record.levelno == logging.ERROR]
    assert "of bad raised an exception" in line.getMessage() and line.exc_info is not None


def test_job_failed_is_a_failure_without_a_traceback(server, log):
    with worker_of(server, f=raises(JobFailed("no such thing", "f", None))):
        with pytest.raises(JobFailed):
            server.submit("f", timeout_s=DEADLINE_S)
    assert [record.levelname for record in log()] == ["INFO"]


def test_job_failed_needs_no_text(server):
    with worker_of(server, f=raises(JobFailed)):
        with pytest.raises(JobFailed):
            server.submit("f", timeout_s=DEADLINE_S)


def test_job_that_ended_itself_counts_what_comes_later_no_more(server, log):
    errors = []

    def ends(job):
        job.complete(b"early")
        for call in (job.complete, job.fail, lambda: job.send_data(b"x"), lambda: job.exception(b"x")):
            with pytest.raises(GearmandError, match="has ended already: WORK_COMPLETE") as caught:
                call()
            errors.append(caught.value)
        return b"late"

    with worker_of(server, f=ends, g=echo):
        assert server.submit("f", timeout_s=DEADLINE_S) == b"early"
        assert server.submit("g", b"x", timeout_s=DEADLINE_S) == b"x"
    assert len(errors) == 4
    assert log() == []


def test_job_that_ended_itself_and_raises_then_is_only_logged(server, log):
    def ends(job):
        job.complete(b"early")
        raise ValueError("late")

    with worker_of(server, f=ends, g=echo):
        assert server.submit("f", timeout_s=DEADLINE_S) == b"early"
        assert server.submit("g", b"x", timeout_s=DEADLINE_S) == b"x"
    assert [record.levelname for record in log()] == ["ERROR"]


def test_job_that_ended_itself_and_says_then_that_it_failed_has_completed(server):
    def ends(job):
        job.complete(b"early")
        raise JobFailed("late", "f", None)

    with worker_of(server, f=ends):
        assert server.submit("f", timeout_s=DEADLINE_S) == b"early"


def test_job_can_fail_at_once(server):
    with worker_of(server, f=lambda job: job.fail()):
        with pytest.raises(JobFailed):
            server.submit("f", timeout_s=DEADLINE_S)


@pytest.mark.parametrize("told", [b"t\xfcld", "tüld"])
def test_job_can_tell_an_exception_at_once(server, told):
    with worker_of(server, f=lambda job: job.exception(told)):
        with pytest.raises(JobException) as caught:
            server.submit("f", timeout_s=DEADLINE_S)
    assert caught.value.data == (told if isinstance(told, bytes) else told.encode())


def test_large_workloads_and_results_pass(server):
    data = os.urandom(3 * 1024 * 1024)
    with worker_of(server, f=echo):
        assert server.submit("f", data, timeout_s=DEADLINE_S) == data


# -- packets --------------------------------------------------------------------------


@pytest.fixture
def talk(fake):
    """A worker for `f`, seen by its server after its first grab."""
    worker = Worker(fake.address)
    worker.register("f", echo)
    with worker:
        peer = fake.accept()
        peer.expect(CAN_DO, b"f")
        peer.expect(GRAB_JOB_UNIQ, b"")
        yield peer


def test_worker_introduces_itself_before_it_grabs(fake):
    worker = Worker(fake.address, client_id="me")
    worker.register("f", echo)
    worker.register("g", echo, timeout_s=1.5)
    with worker:
        peer = fake.accept()
        peer.expect(SET_CLIENT_ID, b"me")
        peer.expect(CAN_DO, b"f")
        peer.expect(CAN_DO_TIMEOUT, b"g\x001500")
        peer.expect(GRAB_JOB_UNIQ, b"")


def test_result_and_next_grab_leave_together(talk):
    talk.assign()
    expected = packet(WORK_COMPLETE, b"H:x:1", b"") + packet(GRAB_JOB_UNIQ)
    assert talk.socket.recv(65536) == expected


def test_end_of_an_empty_result_has_its_nul(talk):
    talk.assign()
    talk.expect(WORK_COMPLETE, b"H:x:1\0")


def test_job_assign_without_a_unique_is_understood(talk):
    talk.send(JOB_ASSIGN, b"H:x:1", b"f", b"work\0load")
    talk.expect(WORK_COMPLETE, b"H:x:1\0work\0load")


def test_job_assign_with_a_reducer_is_understood(fake):
    seen = []
    worker = worker_of(fake, f=lambda job: seen.append((job.unique, job.reducer, job.data)))
    with worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.send(JOB_ASSIGN_ALL, b"H:x:1", b"f", b"u", b"reduce", b"work\0load")
        peer.expect(WORK_COMPLETE)
    assert seen == [("u", "reduce", b"work\0load")]


def test_worker_without_a_job_sleeps_until_a_noop(talk):
    talk.send(NO_JOB)
    talk.expect(PRE_SLEEP)
    talk.send(NOOP)
    talk.expect(GRAB_JOB_UNIQ)
    talk.assign(workload=b"x")
    talk.expect(WORK_COMPLETE, b"H:x:1\0x")


def test_noops_at_any_time_do_no_harm(talk):
    talk.send(NOOP)
    talk.send(NOOP)
    talk.assign(workload=b"1")
    talk.send(NOOP)
    talk.expect(WORK_COMPLETE, b"H:x:1\x001")
    talk.expect(GRAB_JOB_UNIQ)
    talk.send(NOOP)
    talk.send(NO_JOB)
    talk.expect(PRE_SLEEP)
    talk.send(NOOP)
    talk.send(NOOP)
    talk.expect(GRAB_JOB_UNIQ)
    talk.assign(workload=b"2")
    # No second grab: each is answered once.
    talk.expect(WORK_COMPLETE, b"H:x:1\x002")
    talk.expect(GRAB_JOB_UNIQ)


def test_several_packets_at_once_are_served_in_order(talk):
    talk.socket.sendall(talk.packed(NOOP) + talk.packed(NO_JOB) + talk.packed(NOOP))
    talk.expect(PRE_SLEEP)
    talk.expect(GRAB_JOB_UNIQ)


def test_packets_cut_at_every_byte_are_understood(talk):
    stream = talk.packed(NOOP) + talk.packed(ERROR, b"CODE", b"text") + talk.packed(JOB_ASSIGN_UNIQ, b"H:x:1", b"f", b"", b"w\0l")
    for byte in range(len(stream)):
        talk.socket.sendall(stream[byte : byte + 1])
    talk.expect(WORK_COMPLETE, b"H:x:1\0w\0l")
    talk.expect(GRAB_JOB_UNIQ)
    for cut in range(1, len(stream)):
        talk.socket.sendall(stream[:cut])
        talk.socket.sendall(stream[cut:])
        talk.expect(WORK_COMPLETE, b"H:x:1\0w\0l")
        talk.expect(GRAB_JOB_UNIQ)


def test_error_is_logged_once_a_connection_and_code(talk, log):
    for _ in range(3):
        talk.send(ERROR, b"JOB_NOT_FOUND", b"no such job")
    talk.send(ERROR, b"QUEUE_ERROR", b"full")
    talk.assign()
    talk.expect(WORK_COMPLETE)
    lines = texts(log, logging.WARNING)
    assert [line.partition(": ")[2] for line in lines] == ["ERROR JOB_NOT_FOUND: no such job", "ERROR QUEUE_ERROR: full"]


def test_packets_that_nobody_asked_for_are_ignored(talk):
    talk.send(NO_JOB)
    talk.expect(PRE_SLEEP)
    talk.send(NO_JOB)
    talk.send(17, b"an echo")
    talk.send(4711, b"?")
    talk.socket.sendall(b"a line of text\n")
    talk.send(NOOP)
    talk.expect(GRAB_JOB_UNIQ)


def test_job_of_a_function_that_is_not_registered_fails(talk):
    talk.assign(function=b"unknown")
    talk.expect(WORK_FAIL, b"H:x:1")
    talk.expect(GRAB_JOB_UNIQ)


@pytest.mark.parametrize("sent", [b"\0XYZ" + bytes(20), FakePeer.packed(JOB_ASSIGN_UNIQ, b"H:x:1", b"f")])
def test_server_that_speaks_no_gearman_is_left_and_tried_again(fake, log, sent):
    with worker_of(fake, f=echo):
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.socket.sendall(sent)
        assert peer.is_closed()
        again = fake.accept()
        again.expect(CAN_DO, b"f")
        again.until(GRAB_JOB_UNIQ)
    (line,) = texts(log, logging.WARNING)
    assert "trying again until it is back" in line


def test_worker_asks_again_after_a_long_sleep(fake, monkeypatch):
    monkeypatch.setattr("gearmand.station.ASK_AGAIN_S", 0.05)
    with worker_of(fake, f=echo):
        peer = fake.accept()
        for _ in range(3):
            peer.until(GRAB_JOB_UNIQ)
            peer.send(NO_JOB)
            peer.expect(PRE_SLEEP)


def test_bug_in_the_loop_costs_one_connection(fake, log, monkeypatch):
    monkeypatch.setattr("gearmand.lane.PRE_SLEEP", None)
    with worker_of(fake, f=echo):
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.send(NO_JOB)
        assert peer.is_closed()
        again = fake.accept()
        again.until(GRAB_JOB_UNIQ)
    assert "a bug of gearmand's own" in texts(log)[0]


# -- register and unregister ------------------------------------------------------------


def test_register_while_it_works_takes_effect_at_once(server):
    with worker_of(server, f=echo) as worker:
        handle = server.submit("late", b"x", background=True)
        worker.register("late", echo)
        assert server.submit("late", b"y", timeout_s=DEADLINE_S) == b"y"
        wait_until(lambda: status(server.address)["late"][0] == 0, "the queued job %s is done" % handle)


def test_register_tells_a_sleeping_connection_and_grabs(talk, fake):
    # The worker behind `talk` is not at hand: another one.
    with worker_of(fake, f=echo) as worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.send(NO_JOB)
        peer.expect(PRE_SLEEP)
        worker.register("g", echo, timeout_s=0.25)
        peer.expect(CAN_DO_TIMEOUT, b"g\x00250")
        peer.expect(GRAB_JOB_UNIQ)
        peer.send(NO_JOB)
        peer.expect(PRE_SLEEP)
        worker.unregister("f")
        peer.expect(CANT_DO, b"f")
        peer.expect(GRAB_JOB_UNIQ)
        # While a grab is unanswered nothing is said: the answer may be a job, which the C server would take away
        # again. A changed timeout is told, another callable is not.
        worker.register("g", raises(ValueError()), timeout_s=0.25)
        worker.register("g", echo, timeout_s=0.5)
        peer.send(NO_JOB)
        peer.expect(PRE_SLEEP)
        peer.expect(CANT_DO, b"g")
        peer.expect(CAN_DO_TIMEOUT, b"g\x00500")
        peer.expect(GRAB_JOB_UNIQ)
        peer.send(NO_JOB)
        peer.expect(PRE_SLEEP)


def test_register_again_replaces_the_callable(server):
    with worker_of(server, f=lambda job: b"old") as worker:
        assert server.submit("f", timeout_s=DEADLINE_S) == b"old"
        worker.register("f", lambda job: b"new")
        assert server.submit("f", timeout_s=DEADLINE_S) == b"new"


def test_unregister_while_it_works_takes_effect_at_once(server):
    with worker_of(server, f=echo, g=echo) as worker:
        wait_for_workers(server.address, "g")
        worker.unregister("f")
        worker.unregister("never registered")
        wait_until(lambda: status(server.address)["f"][2] == 0, "the server knows")
        assert worker.functions == ["g"]
        assert server.submit("g", b"x", timeout_s=DEADLINE_S) == b"x"


def test_callable_may_unregister_its_own_function(server):
    done = []
    worker = Worker(server.address)

    @worker.register("f")
    def once(job):
        done.append(job.handle)
        worker.unregister("f")

    with worker:
        server.submit("f", timeout_s=DEADLINE_S)
        wait_until(lambda: status(server.address)["f"][2] == 0, "the server knows")
    assert len(done) == 1


def test_registering_from_many_threads_while_it_works_loses_nothing(server):
    start = threading.Barrier(4)
    with worker_of(server, f=echo) as worker:

        def change(number):
            start.wait(DEADLINE_S)
            for step in range(50):
                worker.register("%d-%d" % (number, step), echo)
                if step % 2:
                    worker.unregister("%d-%d" % (number, step))

        changes = [Background(change, number) for number in range(4)]
        for number in range(100):
            assert server.submit("f", b"%d" % number, timeout_s=DEADLINE_S) == b"%d" % number
        for change in changes:
            change.result()
        wanted = {"f"} | {"%d-%d" % (number, step) for number in range(4) for step in range(0, 50, 2)}
        assert set(worker.functions) == wanted
        wait_until(lambda: {name for name, row in status(server.address).items() if row[2]} == wanted, "the server knows")


# -- servers that come and go --------------------------------------------------------------


def test_server_that_is_down_at_first_is_tried_until_it_is_there(log):
    address = free_address()
    worker = Worker(address)
    worker.register("f", echo)
    with worker:
        wait_until(lambda: log(), "the worker has tried")
        with Server(port=address[1]) as server:
            assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"
    lines = [(record.levelname, record.getMessage().partition(": ")[2].partition(":")[0]) for record in log()]
    # After that it is lost again, with this test's end.
    assert lines[:2] == [("WARNING", "cannot connect"), ("INFO", "is back")]


def test_server_that_restarts_is_found_again(log):
    events = []
    with Server(port=0) as first:
        address = first.address
        worker = Worker(
            address, on_connect=lambda server: events.append("connect"), on_disconnect=lambda server, error: events.append(error)
        )
        worker.register("f", echo)
        worker.start()
        assert first.submit("f", b"1", timeout_s=DEADLINE_S) == b"1"
        wait_until(lambda: status(address)["f"][1:] == (0, 1), "the worker is asleep")
    with Server(port=address[1]) as second:
        assert second.submit("f", b"2", timeout_s=DEADLINE_S) == b"2"
        worker.stop()
        assert worker.join(DEADLINE_S)
    assert events[0] == "connect" and isinstance(events[1], ServerLost) and events[-2:] == ["connect", None]


def test_pauses_double_and_start_over_after_success(fake, monkeypatch):
    pauses = []
    monkeypatch.setattr("gearmand.station.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("gearmand.station.LONGEST_PAUSE_S", 0.05)
    worker = Worker(fake.address)
    with worker:
        for attempt in range(5):
            fake.accept().close()
            station = worker._working.lanes[0]._stations[0]
            wait_until(lambda: station.pause_s > 0.01 * 2 ** min(attempt, 2), "the loss is noticed")
            pauses.append(station.pause_s)
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.send(NO_JOB)
        wait_until(lambda: station.pause_s == 0.01, "the answer is noticed")
    assert pauses == [0.02, 0.04, 0.05, 0.05, 0.05]


def test_server_that_never_answers_is_given_up_and_does_not_hold_up_another(fake, server, log, monkeypatch):
    monkeypatch.setattr("gearmand.station.PATIENCE_S", 0.05)
    worker = Worker([fake.address, server.address], io_timeout_s=0.3)
    worker.register("f", echo)
    with worker:
        silent = fake.accept()
        for number in range(20):
            assert server.submit("f", b"%d" % number, timeout_s=DEADLINE_S) == b"%d" % number
        assert silent.is_closed()
        fake.accept().until(GRAB_JOB_UNIQ)
    assert "lost: no answer to a GRAB_JOB in 0.3 s" in texts(log)[0]


def test_worker_is_not_idle_while_a_server_owes_it_an_answer(fake, monkeypatch):
    monkeypatch.setattr("gearmand.station.PATIENCE_S", 0.01)
    happened = []
    idle = threading.Event()
    worker = Worker(fake.address, on_idle=lambda: (happened.append("idle"), idle.set()))
    worker.register("f", echo)
    with worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        wait_until(lambda: station_of(worker, fake).state == OWING, "the answer is late")
        assert not idle.wait(0.1)
        happened.append("answer")
        peer.send(NO_JOB)
        assert idle.wait(DEADLINE_S)
    assert happened == ["answer", "idle"]


def test_server_that_never_answers_is_given_up_though_the_timeout_is_short(fake):
    worker = Worker(fake.address, io_timeout_s=0.05)
    with worker:
        for _ in range(2):
            silent = fake.accept()
            silent.until(GRAB_JOB_UNIQ)
            assert silent.is_closed()


def test_answer_that_came_while_a_job_ran_is_not_too_late(fake, server, monkeypatch):
    """The first server answers after its time, while the worker is busy with the second one's job."""
    monkeypatch.setattr("gearmand.station.PATIENCE_S", 0.01)
    running, go_on = threading.Event(), threading.Event()

    def slow(job):
        running.set()
        assert go_on.wait(DEADLINE_S)

    worker = Worker([fake.address, server.address])
    worker.register("slow", slow)
    worker.register("f", echo)
    with worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        call = Background(server.submit, "slow", timeout_s=DEADLINE_S)
        assert running.wait(DEADLINE_S)
        peer.assign(workload=b"x")
        # The time is over as soon as the lane looks again.
        station = station_of(worker, fake)
        station.answer_due_at = station.due_at = time.monotonic()
        worker._working.lanes[0]._look_at = 0.0
        go_on.set()
        peer.expect(WORK_COMPLETE, b"H:x:1\0x")
        call.result()


def test_slow_arrival_of_a_job_is_no_silence(fake):
    job = FakePeer.packed(JOB_ASSIGN_UNIQ, b"H:x:1", b"f", b"", b"workload")
    with worker_of(fake, f=echo) as worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        station = station_of(worker, fake)
        for at in range(0, len(job), 8):
            due_at = station.answer_due_at
            peer.socket.sendall(job[at : at + 8])
            # With each piece it has its whole time again.
            wait_until(lambda: station.answer_due_at > due_at, "the piece is noticed")
        peer.expect(WORK_COMPLETE, b"H:x:1\0workload")


def test_job_whose_server_is_lost_is_told_and_its_result_dropped(fake, log):
    seen = []

    def report(job):
        peer.close()
        with pytest.raises(ServerLost):
            while True:
                job.send_data(b"x" * 65536)
        with pytest.raises(ServerLost):
            job.complete(b"x")
        seen.append(job)
        return b"nobody hears of it"

    after = []
    worker = Worker(fake.address, on_job_complete=lambda *_: after.append("complete"), after_job=lambda job: after.append(job))
    worker.register("f", report)
    with worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.assign()
        fake.accept().until(GRAB_JOB_UNIQ)
    assert after == seen and len(seen) == 1
    assert any("job H:x:1 of f: its server was lost, its result is dropped" in line for line in texts(log))


def test_job_that_does_not_catch_the_loss_of_its_server_is_not_an_exception_of_its_own(fake, log):
    def report(job):
        peer.close()
        while True:
            job.send_data(b"x" * 65536)

    with worker_of(fake, f=report):
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.assign()
        fake.accept().until(GRAB_JOB_UNIQ)
    assert texts(log, logging.ERROR) == []
    assert any("its result is dropped" in line for line in texts(log))


def test_result_that_cannot_be_sent_is_dropped(fake, log):
    def slow(job):
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        wait_until(lambda: not job._connection.silent_and_open, "the reset has come")

    with worker_of(fake, f=slow):
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.assign()
        fake.accept().until(GRAB_JOB_UNIQ)
    assert any("job H:x:1 of f: its server was lost, its result is dropped" in line for line in texts(log))


def test_result_that_may_not_have_arrived_is_logged(talk, fake, log):
    talk.assign()
    talk.expect(WORK_COMPLETE)
    talk.close()
    fake.accept().until(GRAB_JOB_UNIQ)
    assert any("the result of job H:x:1 may be lost" in line for line in texts(log))


def test_connection_that_needs_no_thread_to_be_had_is_tried_again(server, log, monkeypatch):
    start, failed = threading.Thread.start, []

    def start_but_once(thread):
        if thread.name.startswith("gearmand-connect") and not failed:
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_once)
    with worker_of(server, f=echo):
        assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"
    assert "cannot connect: can't start new thread" in texts(log)[0]


def test_attempt_that_fails_in_an_unforeseen_way_is_logged_and_repeated(server, log, monkeypatch):
    from gearmand import shift

    connect, calls = shift.Connection, []

    def connect_but_once(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("unforeseen")
        return connect(*arguments, **options)

    monkeypatch.setattr(shift, "Connection", connect_but_once)
    with worker_of(server, f=echo):
        assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"
    assert "cannot connect: ValueError('unforeseen')" in texts(log)[0]


# -- several servers ------------------------------------------------------------------------


def test_server_that_always_has_jobs_does_not_starve_another(monkeypatch):
    monkeypatch.setattr("gearmand.station.PATIENCE_S", DEADLINE_S)
    order = []
    with Server(port=0) as busy, Server(port=0) as other:
        for number in range(300):
            busy.submit("f", b"busy", background=True)
        worker = Worker([busy.address, other.address])

        def f(job):
            order.append(job.data)
            if len(order) in (100, 200):
                # Its PRE_SLEEP has left, but on a busy machine the server may hear of it several jobs later.
                wait_until(lambda: any(peer.asleep for peer in list(other.broker.peers)), "the other server knows that it sleeps")
                other.submit("f", b"other", background=True)

        with worker:
            # Both are there before the first job.
            for server in (busy, other):
                wait_until(lambda: any(peer.asleep for peer in list(server.broker.peers)), "it is connected and sleeps")
            worker.register("f", f)
            wait_until(lambda: len(order) == 302, "all jobs are done")
    first, second = (at for at, data in enumerate(order) if data == b"other")
    # One more of the busy server's at most is on its way already.
    assert first - 100 <= 2 and second - 200 <= 2, (first, second)


def test_servers_that_both_have_jobs_take_turns(monkeypatch):
    # No answer is so late that the other one goes on.
    monkeypatch.setattr("gearmand.station.PATIENCE_S", DEADLINE_S)
    order = []
    with Server(port=0) as one, Server(port=0) as two:
        for server, name in ((one, b"one"), (two, b"two")):
            for _ in range(50):
                server.submit("f", name, background=True)
        connected = []
        worker = Worker([one.address, two.address], on_connect=connected.append)
        # Both are there before the first job.
        worker.register("warm up", echo)
        with worker:
            wait_until(lambda: len(connected) == 2, "both are connected")
            for server in (one, two):
                server.submit("warm up", timeout_s=DEADLINE_S)
            worker.register("f", lambda job: order.append(job.data))
            wait_until(lambda: len(order) == 100, "all jobs are done")
    runs = [len(list(run)) for _, run in itertools.groupby(order[:96])]
    assert max(runs) <= 3, order


def test_servers_are_named_in_one_text(server):
    worker = Worker("127.0.0.1:%d, localhost:%d" % (server.address[1], server.address[1]))
    worker.register("f", echo)
    with worker:
        wait_for_workers(server.address, "f", 2)
        assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"


# -- threads ---------------------------------------------------------------------------------


def test_concurrency_runs_that_many_jobs_at_once(server):
    together = threading.Barrier(4)
    names = []

    def meet(job):
        names.append(threading.current_thread().name)
        together.wait(DEADLINE_S)

    worker = Worker(server.address, concurrency=4)
    worker.register("f", meet)
    with worker:
        wait_for_workers(server.address, "f", 4)
        calls = [Background(server.submit, "f", timeout_s=DEADLINE_S) for _ in range(4)]
        for call in calls:
            call.result()
    assert sorted(names) == ["gearmand-worker-%d" % number for number in (1, 2, 3, 4)]


def test_many_jobs_in_several_threads_are_all_done_once(server):
    worker = Worker(server.address, concurrency=3)
    done = []
    worker.register("f", lambda job: done.append(job.data))
    with worker:
        for number in range(500):
            server.submit("f", b"%d" % number, background=True)
        wait_until(lambda: len(done) == 500, "all jobs are done")
    assert sorted(map(int, done)) == list(range(500))


def test_work_runs_its_first_jobs_in_the_calling_thread(server):
    names = []
    worker = worker_of(server, f=lambda job: names.append(threading.current_thread().name))
    worker.configure(max_jobs=1)
    server.submit("f", background=True)
    worker.work(DEADLINE_S)
    assert names == [threading.current_thread().name]


def open_fds():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def test_starting_and_stopping_leaves_nothing_behind(server):
    worker = Worker(server.address, concurrency=2)
    worker.register("f", echo)
    threads = set(threading.enumerate())

    def mine():
        return [thread for thread in threading.enumerate() if thread not in threads and thread.name.startswith(("gearmand-worker", "gearmand-connect"))]

    def wait_for_the_end():
        wait_until(lambda: not mine(), "the threads have ended")
        with Wire(server.address) as last:
            last.echo()  # So the server has accepted those, too, that were given up before.
        wait_until(lambda: not server.connections, "everything has ended")

    with worker:
        server.submit("f", timeout_s=DEADLINE_S)
    wait_for_the_end()
    gc.collect()  # What other tests have left is not closed meanwhile.
    fds = open_fds()
    for number in range(50):
        with worker:
            if number % 2:
                server.submit("f", timeout_s=DEADLINE_S)
    wait_for_the_end()
    assert open_fds() == fds


def test_stop_of_an_idle_worker_is_quick(server):
    worker = worker_of(server, f=echo)
    took = []
    for _ in range(5):
        with worker:
            server.submit("f", timeout_s=DEADLINE_S)
            wait_until(lambda: worker._working.lanes[0].idle, "it is idle")
            began = time.monotonic()
        took.append(time.monotonic() - began)
    assert min(took) < 0.1


def test_stop_of_a_worker_that_connects_is_quick_and_what_comes_late_is_closed(fake, monkeypatch):
    from gearmand import shift

    connect, go_on, connections = shift.Connection, threading.Event(), []

    def slow(*arguments, **options):
        assert go_on.wait(DEADLINE_S)
        connections.append(connect(*arguments, **options))
        return connections[-1]

    def connecting():
        return sum(thread.name.startswith("gearmand-connect") for thread in threading.enumerate())

    monkeypatch.setattr(shift, "Connection", slow)
    worker = Worker(fake.address)
    took = []
    for number in range(3):
        with worker:
            # Those of the rounds before still do.
            wait_until(lambda: connecting() == number + 1, "it connects")
            began = time.monotonic()
        took.append(time.monotonic() - began)
    go_on.set()
    assert min(took) < 0.1
    for _ in range(3):
        assert fake.accept().is_closed()
    wait_until(lambda: [connection.fileno() for connection in connections] == [-1, -1, -1], "all are closed")


def test_stop_of_a_worker_whose_server_is_down_is_quick():
    worker = Worker(free_address())
    worker.start()
    wait_until(lambda: worker._working.lanes[0]._stations[0].pause_s > 0.1, "it has failed once")
    took = []
    for _ in range(3):
        began = time.monotonic()
        worker.__exit__()
        took.append(time.monotonic() - began)
        worker.start()
    worker.__exit__()
    assert min(took) < 0.1


def test_stop_lets_the_current_job_finish_and_takes_no_other(server):
    running, go_on = threading.Event(), threading.Event()

    def slow(job):
        running.set()
        assert go_on.wait(DEADLINE_S)
        return b"finished"

    worker = worker_of(server, f=slow)
    call = Background(server.submit, "f", timeout_s=DEADLINE_S)
    worker.start()
    assert running.wait(DEADLINE_S)
    server.submit("f", background=True)
    worker.stop()
    assert not worker.join(0.01)
    go_on.set()
    assert call.result() == b"finished"
    assert worker.join(DEADLINE_S)
    wait_until(lambda: status(server.address)["f"] == (1, 0, 0), "the other job is still queued")


def test_job_that_is_on_its_way_when_it_stops_is_done(fake, monkeypatch):
    monkeypatch.setattr("gearmand.lane._LEAVE_S", DEADLINE_S)
    with worker_of(fake, f=echo) as worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.send(NO_JOB)
        peer.expect(PRE_SLEEP)
        peer.send(NOOP)
        peer.expect(GRAB_JOB_UNIQ)
        worker.stop()
        peer.assign(workload=b"x")
        peer.expect(WORK_COMPLETE, b"H:x:1\0x")
        assert peer.is_closed()


def test_server_that_does_not_answer_any_more_does_not_hold_up_the_stop(fake):
    with worker_of(fake, f=echo) as worker:
        peer = fake.accept()
        peer.until(GRAB_JOB_UNIQ)
        peer.assign()
        peer.expect(WORK_COMPLETE)
        peer.expect(GRAB_JOB_UNIQ)
        worker.stop()
        assert peer.is_closed()


def test_stop_before_work_makes_it_return_at_once(server):
    worker = worker_of(server, f=echo)
    worker.stop()
    worker.work()
    worker.work(0.01)


def test_stop_before_start_does_not_count(server):
    worker = worker_of(server, f=echo)
    worker.stop()
    with worker:
        assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"


def test_job_may_stop_its_worker(server):
    worker = Worker(server.address)
    worker.register("f", lambda job: worker.stop())
    for _ in range(2):
        server.submit("f", background=True)
    worker.work(DEADLINE_S)
    wait_until(lambda: status(server.address)["f"] == (1, 0, 0), "one is done, the other is queued")


def test_working_twice_at_once_is_refused(server):
    with worker_of(server, f=echo) as worker:
        for call in (worker.start, worker.work):
            with pytest.raises(GearmandError, match="works already"):
                call()


def test_worker_works_again_after_it_has_ended_by_itself(server):
    worker = worker_of(server, f=echo)
    worker.configure(max_jobs=1)
    for number in range(3):
        worker.start()
        assert server.submit("f", b"%d" % number, timeout_s=DEADLINE_S) == b"%d" % number
        assert worker.join(DEADLINE_S)


def test_thread_that_cannot_be_started_ends_the_others(server, monkeypatch):
    start = threading.Thread.start

    def start_but_the_third(thread):
        if thread.name == "gearmand-worker-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_the_third)
    worker = Worker(server.address, concurrency=4)
    for call in (worker.start, worker.work):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            call()
        assert worker.join(DEADLINE_S)
    monkeypatch.setattr(threading.Thread, "start", start)
    worker.register("f", echo)
    with worker:
        assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"


def test_bug_in_a_lane_ends_the_work_and_is_raised(server, log, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("gearmand.lane.Lane._tend", fail)
    with pytest.raises(ZeroDivisionError):
        Worker(server.address, concurrency=2).work(DEADLINE_S)
    assert "the worker stops" in texts(log)[0]


def test_keyboard_interrupt_in_a_job_gets_out_and_the_job_is_done_by_another(server):
    call = Background(server.submit, "f", b"x", timeout_s=DEADLINE_S)
    wait_until(lambda: status(server.address).get("f", (0,))[0] == 1, "it is queued")
    with pytest.raises(KeyboardInterrupt):
        worker_of(server, f=raises(KeyboardInterrupt())).work(DEADLINE_S)
    with worker_of(server, f=echo):
        assert call.result() == b"x"


# -- until when it works -----------------------------------------------------------------------


def test_work_ends_after_its_timeout(server):
    began = time.monotonic()
    worker_of(server, f=echo).work(0.05)
    assert 0.05 <= time.monotonic() - began < 5


def test_work_ends_at_its_greatest_age(server):
    worker = worker_of(server, f=echo)
    worker.configure(max_age_s=0.05)
    worker.work(DEADLINE_S)
    worker.work()


def test_work_ends_after_its_most_jobs_exactly_with_one_thread(server):
    for _ in range(5):
        server.submit("f", background=True)
    worker = worker_of(server, f=echo)
    worker.configure(max_jobs=3)
    worker.work(DEADLINE_S)
    wait_until(lambda: status(server.address)["f"] == (2, 0, 0), "two are left")


def test_work_with_several_threads_ends_soon_after_its_most_jobs(server):
    for _ in range(50):
        server.submit("f", background=True)
    worker = Worker(server.address, concurrency=3, max_jobs=10)
    worker.register("f", echo)
    worker.work(DEADLINE_S)
    wait_until(lambda: status(server.address)["f"][1:] == (0, 0), "they have gone")
    assert 50 - 12 <= status(server.address)["f"][0] <= 50 - 10


def test_stop_if_is_asked_after_each_job_and_when_idle(server, monkeypatch):
    # Who waits for no answer any more is idle.
    monkeypatch.setattr("gearmand.station.PATIENCE_S", DEADLINE_S)
    asked = []

    def stop_if(idle, last_job_at):
        asked.append((idle, last_job_at))
        return idle and last_job_at is not None

    for _ in range(3):
        server.submit("f", background=True)
    began = time.monotonic()
    worker_of(server, f=echo).work(DEADLINE_S, stop_if=stop_if)
    assert status(server.address).get("f", (0,))[0] == 0
    assert [idle for idle, _ in asked if not idle] == [False] * 3 and asked[-1][0] is True
    assert began < asked[-1][1] <= time.monotonic()


def test_stop_if_that_says_so_after_a_job_is_obeyed_at_once(server):
    for _ in range(3):
        server.submit("f", background=True)
    worker_of(server, f=echo).work(DEADLINE_S, stop_if=lambda idle, last_job_at: last_job_at is not None)
    wait_until(lambda: status(server.address)["f"] == (2, 0, 0), "two are left")


def test_stop_if_is_asked_again_while_nothing_comes(server, monkeypatch):
    monkeypatch.setattr("gearmand.lane._STOP_IF_S", 0.01)
    asked = []
    worker_of(server, f=echo).work(DEADLINE_S, stop_if=lambda idle, last: asked.append(idle) or len(asked) == 5)
    assert asked == [True] * 5


def test_stop_if_that_raises_is_logged_and_means_no(server, log):
    server.submit("f", background=True)

    def stop_if(idle, last_job_at):
        if not idle:
            raise ValueError("no idea")
        return last_job_at is not None

    worker_of(server, f=echo).work(DEADLINE_S, stop_if=stop_if)
    assert "raised an exception" in texts(log)[0]


# -- hooks --------------------------------------------------------------------------------------


def test_hooks_are_called_in_order(server):
    seen = []
    idle = threading.Event()
    worker = Worker(
        server.address,
        on_connect=lambda server: seen.append(("connect", server)),
        on_disconnect=lambda server, error: seen.append(("disconnect", server, error)),
        on_job_start=lambda job: seen.append(("start", job.function)),
        on_job_complete=lambda job, result: seen.append(("complete", job.function, result)),
        on_job_fail=lambda job: seen.append(("fail", job.function)),
        on_job_exception=lambda job, error: seen.append(("exception", job.function, type(error).__name__)),
        after_job=lambda job: seen.append(("after", job.function)),
        on_idle=idle.set,
    )
    worker.register("f", lambda job: {"as": "it is"}, encoder="json")
    worker.register("g", lambda job: job.fail())
    worker.register("h", raises(ValueError()))
    worker.register("i", lambda job: job.exception(b"told"))
    with worker:
        assert idle.wait(DEADLINE_S)
        for function in "fghi":
            idle.clear()
            server.submit(function, background=True)
            assert idle.wait(DEADLINE_S)
    address = "127.0.0.1:%d" % server.address[1]
    assert seen == [
        ("connect", address),
        *[("start", "f"), ("complete", "f", {"as": "it is"}), ("after", "f")],
        *[("start", "g"), ("fail", "g"), ("after", "g")],
        *[("start", "h"), ("exception", "h", "ValueError"), ("after", "h")],
        *[("start", "i"), ("exception", "i", "JobException"), ("after", "i")],
        ("disconnect", address, None),
    ]


def test_hooks_that_raise_are_logged_and_nothing_else(server, log):
    def fail(*arguments):
        raise ValueError("a hook's")

    names = ["on_connect", "on_disconnect", "on_job_start", "on_job_complete", "after_job", "on_idle"]
    worker = Worker(server.address, **dict.fromkeys(names, fail))
    worker.register("f", echo)
    with worker:
        assert server.submit("f", b"x", timeout_s=DEADLINE_S) == b"x"
    assert len([record for record in log() if record.exc_info]) >= 5


def test_after_job_may_stop_the_worker_before_the_next_job(server):
    for _ in range(2):
        server.submit("f", background=True)
    worker = Worker(server.address, after_job=lambda job: worker.stop())
    worker.register("f", echo)
    worker.work(DEADLINE_S)
    wait_until(lambda: status(server.address)["f"] == (1, 0, 0), "one is left")


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_it_after_the_current_job_and_handlers_are_restored(server, number):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    ended = []

    def f(job):
        os.kill(os.getpid(), number)
        ended.append(job)

    for _ in range(2):
        server.submit("f", background=True)
    worker_of(server, f=f).work(handle_signals=True)
    wait_until(lambda: status(server.address)["f"] == (1, 0, 0), "one is done, the other is queued")
    assert len(ended) == 1
    assert {each: signal.getsignal(each) for each in before} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_signal_wakes_an_idle_worker(server):
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    worker = Worker(server.address, on_idle=timer.start)
    worker.work(DEADLINE_S, handle_signals=True)
    timer.join()


def test_second_signal_does_what_it_did_before(server):
    def f(job):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    server.submit("f", background=True)
    worker_of(server, f=f).work(DEADLINE_S, handle_signals=True)


@pytest.mark.parametrize("settings, options", [({}, {"handle_signals": True}), ({"processes": 1}, {})])
def test_signals_and_processes_are_refused_outside_the_main_thread(server, settings, options):
    worker = Worker(server.address, **settings)
    with pytest.raises(GearmandError, match="need the main thread"):
        Background(worker.work, **options).result()


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"servers": "host:port"},
        {"servers": []},
        {"client_id": "a\0b"},
        {"client_id": 5},
        {"encoder": "yaml"},
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": "2"},
        {"processes": -1},
        {"max_jobs": 0},
        {"max_age_s": 0},
        {"max_age_s": "1"},
        {"connect_timeout_s": None},
        {"io_timeout_s": -1},
        {"stop_timeout_s": float("nan")},
    ],
)
def test_setting_that_cannot_be_used_is_refused(settings):
    with pytest.raises(ConfigError):
        Worker(**settings)


def test_setting_that_does_not_exist_is_a_type_error():
    with pytest.raises(TypeError, match="no setting 'colour'"):
        Worker().configure(colour="red")


@pytest.mark.parametrize(
    "function, call, options",
    [("", echo, {}), ("a\0b", echo, {}), ("f", 5, {}), ("f", echo, {"timeout_s": 0}), ("f", echo, {"encoder": "yaml"})],
)
def test_function_that_cannot_be_registered_is_refused(function, call, options):
    with pytest.raises(ConfigError):
        Worker().register(function, call, **options)


def test_worker_with_processes_cannot_be_started():
    with pytest.raises(GearmandError, match="main thread alone"):
        Worker(processes=1).start()


def test_representation_names_functions_and_servers():
    worker = Worker("127.0.0.1:4730")
    worker.register("f", echo)
    assert repr(worker) == "<Worker of f for 127.0.0.1:4730>"


# -- processes and the command line ------------------------------------------------------------------

TASKS = """
    import os, signal, time
    from gearmand.worker import Worker

    def pid(job):
        return "%d %d" % (os.getpid(), os.getppid())

    def until(job):
        # The name of a file: says that it runs, and ends once that is gone.
        open(job.data, "w").write(str(os.getpid()))
        while os.path.exists(job.data):
            time.sleep(0.01)
        return "ended"

    def interrupt(job):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    def _private(job):
        pass

    table = {"table pid": pid}
    worker = Worker(encoder="text", client_id="from the file")
    worker.register("pid", pid)
    worker.register("until", until, encoder="bytes")
    worker.register("interrupt", interrupt)

    class NotCallable: pass
    nothing = NotCallable()
    empty = {}
"""


@pytest.fixture
def tasks(tmp_path, server):
    """Starts `python3 -m gearmand.worker` for the server, by further arguments; all have ended with the test."""
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    running = []

    def start(*arguments, servers=True):
        given = ["--servers", "127.0.0.1:%d" % server.address[1]] if servers else []
        command = [sys.executable, "-m", "gearmand.worker", *given, *arguments]
        process = subprocess.Popen(
            command, cwd=str(tmp_path), env={**os.environ, "PYTHONPATH": ROOT}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def ended(process):
    output, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output, errors


def pids(server, function="pid"):
    """Of the process that does a job, and of its parent."""
    return tuple(map(int, server.submit(function, timeout_s=DEADLINE_S).split()))


def is_there(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # It goes while it is looked at.
        return False


def begin_until(server, path):
    """A job that runs until the file is removed: its call, and the process that does it."""
    call = Background(server.submit, "until", str(path).encode(), timeout_s=DEADLINE_S)
    wait_until(lambda: path.exists() and path.read_text(), "the job runs")
    return call, int(path.read_text())


linux = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")


def test_command_line_runs_a_worker_until_it_is_told_to_stop(server, tasks):
    process = tasks("tasks:worker")
    assert pids(server)[0] == process.pid
    process.terminate()
    assert ended(process) == (0, "", "")


def test_command_line_overrides_the_settings_of_a_worker(server, tasks):
    process = tasks("--client-id", "from the shell", "--concurrency", "2", "--max-jobs", "1", "tasks:worker")
    wait_for_workers(server.address, "pid", 2)
    with Wire(server.address) as wire:
        assert [line for line in wire.table("workers") if " from the shell : " in line]
    assert pids(server)[0] == process.pid
    assert ended(process) == (0, "", "")


def test_command_line_that_is_interrupted_twice_ends_at_once(server, tasks):
    process = tasks("tasks:worker")
    call = Background(server.submit, "interrupt", timeout_s=DEADLINE_S)
    assert ended(process) == (130, "", "")
    with worker_of(server, interrupt=lambda job: b"by another one"):
        assert call.result() == b"by another one"


@pytest.mark.parametrize("what, function", [("tasks:pid", "pid"), ("tasks:table", "table pid"), ("tasks", "pid"), ("tasks:worker", "pid")])
def test_command_line_takes_callables_tables_modules_and_workers(server, tasks, what, function):
    process = tasks(what)
    assert pids(server, function)[0] == process.pid
    assert "_private" not in status(server.address)
    assert "Worker" not in status(server.address)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "", "")


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["nowhere:worker"], 1, "gearmand.worker: cannot import nowhere: ModuleNotFoundError: No module named 'nowhere'\n"),
        (["broken"], 1, "gearmand.worker: cannot import broken: ZeroDivisionError: division by zero\n"),
        (["tasks:nothing"], 1, "gearmand.worker: expected a Worker, a callable, a dictionary of callables or a module of functions"),
        (["tasks:empty"], 1, "gearmand.worker: expected a Worker, a callable, a dictionary of callables or a module of functions"),
        (["tasks:worker.none"], 1, "gearmand.worker: tasks:worker.none: there is no 'none' in <Worker of pid, until, interrupt"),
        (["tasks:"], 1, "gearmand.worker: 'tasks:': expected MODULE:OBJECT, or MODULE\n"),
        (["--concurrency", "0", "tasks"], 1, "gearmand.worker: concurrency: expected a whole number from 1 on, got 0\n"),
        (["--servers", "x:y", "tasks"], 1, "gearmand.worker: server 'x:y': expected a port from 1 to 65535, got 'y'\n"),
        ([], 2, "usage: "),
        (["--concurrency", "x", "tasks"], 2, "usage: "),
    ],
)
def test_command_line_error_is_one_clear_line(tasks, arguments, status, said):
    code, output, errors = ended(tasks(*arguments, servers=False))
    assert (code, output) == (status, "")
    assert errors.startswith(said) and (status == 2 or errors.count("\n") == 1)


def test_command_line_in_process_returns_its_status(capsys):
    assert main(["no.such.module:x"]) == 1
    assert "cannot import" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "MODULE:OBJECT" in capsys.readouterr().out


@linux
def test_processes_do_the_jobs_and_end_with_their_parent(server, tasks):
    process = tasks("--processes", "3", "tasks:worker")
    wait_for_workers(server.address, "pid", 3)
    child, parent = pids(server)
    assert parent == process.pid != child
    process.terminate()
    assert ended(process) == (0, "", "")
    assert not is_there(child)


@linux
def test_process_that_is_killed_is_replaced(server, tasks):
    process = tasks("--processes", "1", "tasks:worker")
    seen = set()
    for _ in range(3):
        child, parent = pids(server)
        assert child not in seen
        seen.add(child)
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not is_there(child), "it is gone")
    assert pids(server)[0] not in seen
    process.terminate()
    code, _, errors = ended(process)
    assert code == 0 and errors.count("was ended by signal 9") == 3


@linux
def test_job_of_a_process_that_is_killed_is_done_by_another(server, tasks, tmp_path):
    tasks("--processes", "2", "tasks:worker")
    path = tmp_path / "running"
    call, child = begin_until(server, path)
    path.write_text("")
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: path.read_text() not in ("", str(child)), "another runs it")
    path.unlink()
    assert call.result() == b"ended"


@linux
def test_processes_finish_their_jobs_when_they_are_told_to_stop(server, tasks, tmp_path):
    process = tasks("--processes", "2", "tasks:worker")
    path = tmp_path / "running"
    call, child = begin_until(server, path)
    process.terminate()
    wait_until(lambda: status(server.address)["until"][2] == 1, "the idle one has ended")
    assert process.poll() is None and call.running
    path.unlink()
    assert call.result() == b"ended"
    assert ended(process) == (0, "", "")


@linux
def test_processes_that_take_too_long_to_stop_are_killed(server, tasks, tmp_path):
    process = tasks("--processes", "1", "--stop-timeout", "0.1", "tasks:worker")
    path = tmp_path / "running"
    call, child = begin_until(server, path)
    process.terminate()
    code, _, errors = ended(process)
    assert code == 0 and "worker process %d is killed" % child in errors
    assert not is_there(child)
    # The job is done by another.
    with worker_of(server, until=lambda job: b"by another"):
        assert call.result() == b"by another"


@linux
def test_processes_whose_parent_is_killed_finish_their_jobs_and_end(server, tasks, tmp_path):
    process = tasks("--processes", "3", "tasks:worker")
    wait_for_workers(server.address, "pid", 3)
    path = tmp_path / "running"
    call, child = begin_until(server, path)
    process.kill()
    wait_until(lambda: status(server.address)["until"][2] == 1, "the idle ones have ended")
    assert is_there(child)
    path.unlink()
    assert call.result() == b"ended"
    wait_until(lambda: not is_there(child), "the busy one has ended")


@linux
def test_process_that_has_done_its_most_jobs_is_replaced(server, tasks):
    process = tasks("--processes", "1", "--max-jobs", "2", "tasks:worker")
    seen = [pids(server)[0] for _ in range(6)]
    assert len(set(seen)) == 3 and seen[0] == seen[1] and seen[4] == seen[5]
    process.terminate()
    assert ended(process) == (0, "", "")


@linux
def test_process_that_is_told_to_end_is_replaced(server, tasks):
    process = tasks("--processes", "1", "tasks:worker")
    child, _ = pids(server)
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    wait_until(lambda: not is_there(child), "it ends")
    assert pids(server)[0] != child
    process.terminate()
    assert ended(process) == (0, "", "")


RUN = """
    import json, logging, os, signal, sys, threading
    from gearmand.worker import Worker
    from gearmand.errors import GearmandError
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    server = sys.argv[1]
"""


def script(server, text):
    """Runs Python text with `server` as a process of its own: its output and errors."""
    text = textwrap.dedent(RUN) + textwrap.dedent(text)
    command = [sys.executable, "-W", "error", "-c", text, "127.0.0.1:%d" % server.address[1]]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": ROOT}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
        universal_newlines=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_work_in_processes_ends_after_its_timeout_and_restores_signals(server):
    output, errors = script(
        server,
        """
        former = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)
        worker = Worker(server, processes=2)
        worker.register("f", lambda job: str(os.getpid()))
        worker.work(0.3, handle_signals=True)
        assert former == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD))
        assert signal.set_wakeup_fd(-1) == -1
        worker.stop()
        worker.work()
        print("done", threading.active_count())
        """,
    )
    assert (output, errors) == ("done 1\n", "")


def test_processes_that_die_at_once_are_replaced_more_and_more_seldom(server):
    output, errors = script(
        server,
        """
        import time
        from gearmand import workforce
        Worker._work_as_child = lambda self, stop_if: os._exit(3)
        workforce._SHORT_LIFE_S = 20  # However long it takes to start and end.
        fork, forked_at = workforce.Workforce._fork, []
        def note(self, process):
            forked_at.append(time.monotonic())
            if len(forked_at) == 4:
                self.stop()
            fork(self, process)
        workforce.Workforce._fork = note
        Worker(server, processes=1).work(20)
        print(json.dumps([later - earlier for earlier, later in zip(forked_at, forked_at[1:])]))
        """,
    )
    pauses = json.loads(output)
    assert len(pauses) == 3 and all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4))), pauses
    assert errors.count("ended with status 3") == 4


def test_exception_at_the_start_of_a_process_is_reported(server):
    output, errors = script(
        server,
        """
        def fail(self, stop_if): raise ValueError("at the start")
        Worker._work_as_child = fail
        Worker(server, processes=1).work(0.05)
        """,
    )
    assert "ValueError: at the start" in errors and "ended with status 1" in errors


def test_processes_that_cannot_be_forked_are_reported(server):
    output, errors = script(
        server,
        """
        fork, calls = os.fork, []
        def fail():
            calls.append(1)
            if len(calls) == 3:
                worker.stop()
            if len(calls) == 2 and len(sys.argv) > 2 or len(calls) == 1 and len(sys.argv) == 2:
                raise BlockingIOError(11, "no more processes")
            return fork()
        os.fork = fail
        try:
            Worker(server, processes=2).work(5)
        except OSError as error:
            print(error)
        # Later it is tried again.
        sys.argv.append("later")
        calls.clear()
        worker = Worker(server, processes=1, max_age_s=0.1)
        worker.work(20)
        print(len(calls))
        """,
    )
    assert output == "[Errno 11] no more processes\n3\n"
    assert "no worker process can be started: [Errno 11] no more processes; trying again in 0.1 s" in errors


def test_functions_cannot_be_registered_while_processes_run(server):
    output, errors = script(
        server,
        """
        worker = Worker(server, processes=1)
        def register():
            try:
                worker.register("f", lambda job: None)
            except GearmandError as error:
                print(error)
            worker.stop()
        os.register_at_fork(after_in_parent=register)
        worker.work(20)
        """,
    )
    assert output == "the processes of this worker run already: register its functions before\n"


INTERRUPTED_WHILE_IT_WAITS = """
from gearmand.workforce import Workforce
keep_up = Workforce._keep_up
def interrupted(self, ends_at):
    # Not before all of them are there.
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    keep_up(self, ends_at)
Workforce._keep_up = interrupted
signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
"""
INTERRUPTED_AS_A_PROCESS_STARTS = """
fork = os.fork
def interrupted():
    pid = fork()
    if pid:
        os.kill(os.getpid(), signal.SIGINT)
    return pid
os.fork = interrupted
"""


@linux
@pytest.mark.parametrize(
    "interrupted, started",
    [(INTERRUPTED_WHILE_IT_WAITS, 2), (INTERRUPTED_AS_A_PROCESS_STARTS, 1)],
    ids=["while it waits", "as the first process starts"],
)
def test_interrupt_that_is_not_handled_kills_the_processes(server, interrupted, started):
    work = """
        try:
            Worker(server, processes=2).work(20)
        except KeyboardInterrupt:
            print("interrupted")
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child is left")
    """
    output, errors = script(server, interrupted + textwrap.dedent(work))
    assert output == "interrupted\nno child is left\n"
    assert errors.count("is killed") == started


def test_worker_that_has_not_started_may_be_forked(server):
    output, errors = script(
        server,
        """
        worker = Worker(server, max_jobs=1)
        worker.register("f", lambda job: None)
        import socket, struct
        host, port = server.split(":")
        client = socket.create_connection((host, int(port)))
        body = b"f" + bytes(2)
        client.sendall(2 * (bytes(1) + b"REQ" + struct.pack(">II", 18, len(body)) + body))
        client.recv(1)
        pid = os.fork()
        worker.work(20)
        if not pid:
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
        """,
    )
    assert output == "0\n"


# -- with the C server ------------------------------------------------------------------------------


@pytest.fixture
def c_address(c_server):  # noqa: F811
    return c_server({})


def ask(client, function, workload=b""):
    """The packets that answer a job, to its end."""
    client.submit(function, workload)
    answers = []
    while not answers or answers[-1][0] not in (WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION):
        kind, body = client.receive()
        answers.append((kind, body.split(b"\0", 1)[1:]))
    return answers


def test_worker_works_for_the_c_server(c_address):
    def parts(job):
        yield b"one"
        return job.data[::-1]

    worker = Worker(c_address, concurrency=2, client_id="me")
    worker.register("parts", parts, timeout_s=20)
    worker.register("fail", lambda job: job.fail())
    worker.register("bad", raises(ValueError("x")))
    with worker, Wire(c_address) as client:
        client.send(26, b"exceptions")
        client.expect(27)
        wait_for_workers(c_address, "parts", 2)
        for _ in range(3):
            assert ask(client, b"parts", b"abc") == [(WORK_DATA, [b"one"]), (WORK_COMPLETE, [b"cba"])]
            assert ask(client, b"fail") == [(WORK_FAIL, [])]
            assert ask(client, b"bad") == [(WORK_EXCEPTION, [b"ValueError: x"])]
        worker.register("late", echo)
        assert ask(client, b"late", b"x") == [(WORK_COMPLETE, [b"x"])]
        worker.register("late", echo, timeout_s=5)
        wait_until(lambda: status(c_address)["late"] == (0, 0, 2), "each thread counts once")
        worker.unregister("late")
        wait_until(lambda: status(c_address)["late"][2] == 0, "the server knows")
        assert status(c_address)["bad"] == (0, 0, 2)


def test_worker_drains_the_c_server_and_both_servers_get_their_turn(c_address, server):
    done = []
    worker = Worker([c_address, server.address])
    worker.register("f", lambda job: done.append(job.data))
    with Wire(c_address) as client:
        for _ in range(200):
            client.submit(b"f", b"c", kind=SUBMIT_JOB_BG)
            server.submit("f", b"py", background=True)
        with worker:
            wait_until(lambda: len(done) == 400, "all are done")
        assert done.count(b"c") == 200
        # Exceptions and failures end jobs there too: nothing is left running.
        wait_until(lambda: status(c_address)["f"][:2] == (0, 0), "the last result has come")


def test_worker_sleeps_and_wakes_at_the_c_server(c_address):
    worker = Worker(c_address)
    worker.register("f", echo)
    with worker, Wire(c_address) as client:
        for number in range(20):
            wait_until(lambda: worker._working.lanes[0].idle, "it sleeps")
            assert ask(client, b"f", b"%d" % number) == [(WORK_COMPLETE, [b"%d" % number])]


def test_worker_of_a_server_that_knows_no_grab_job_uniq():
    done = threading.Event()

    def perl(connection, number):
        asked = []
        while True:
            kind, _ = connection.receive()
            if kind == GRAB_JOB_UNIQ:
                connection.send(ERROR, b"server_error", b"no such method")
            elif kind == GRAB_JOB and not done.is_set():
                connection.send(JOB_ASSIGN, b"H:1", b"f", b"work")
            elif kind == GRAB_JOB:
                connection.send(NO_JOB)
            elif kind == WORK_COMPLETE:
                done.set()
            asked.append(kind)
            assert asked.count(GRAB_JOB_UNIQ) <= 1

    with ScriptedServer(perl) as server, Worker(server.address) as worker:
        worker.register("f", lambda job: job.workload)
        assert done.wait(20)


# -- cancellations -----------------------------------------------------------------------


@pytest.mark.parametrize("wants", [True, False])
def test_job_that_was_cancelled_says_so_where_the_worker_asked_for_it(wants):
    seen, may_look = [], threading.Event()

    def look(job):
        seen.append((job.handle, job.cancelled))
        may_look.wait(DEADLINE_S)
        seen.append((job.handle, job.cancelled))
        return b"whatever"

    with Server(port=0) as server, Worker("%s:%d" % server.address, cancellations=wants, on_idle=lambda: None) as worker, Wire(server.address) as wire:
        worker.register("f", look)
        handle = wire.submit(b"f")
        wait_until(lambda: seen, "it runs")
        assert operations.cancel_job(server.broker, handle)
        wire.expect(WORK_FAIL)
        wait_until(lambda: not any(peer.waiting_bytes for peer in list(server.broker.peers)), "whoever is told has been told")
        may_look.set()
        # And it goes on with the next one.
        later = wire.submit(b"f")
        assert wire.expect(WORK_COMPLETE) == [later, b"whatever"]
    first, after = seen[:2]
    assert first == (handle.decode(), False) and after == (handle.decode(), wants)
