"""The server as an object in another program."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from gearmand import Server
from gearmand.errors import ConfigError, JobException, JobFailed, JobLost, JobRefused, JobTimeout
from peers import free_address, listens
from wire import (
    CAN_DO,
    DEADLINE_S,
    ERROR,
    JOB_CREATED,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Closed,
    Wire,
    packet,
    status,
    wait_until,
)

CONNECTIONS = 1000
ROUNDS = 1000 if os.environ.get("GEARMAND_LONG") else 200


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


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


@pytest.fixture
def worker(server):
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        yield worker


# -- jobs of this process ------------------------------------------------------


def test_submit_foreground_returns_the_result(server, worker):
    call = Background(server.submit, "f", b"work")
    handle, function, workload = worker.grab()
    assert (function, workload) == (b"f", b"work")
    worker.send(WORK_COMPLETE, handle, b"re\0sult")
    assert call.result() == b"re\0sult"


def test_submit_foreground_of_a_failing_job_raises_job_failed(server, worker):
    call = Background(server.submit, "f")
    handle = worker.grab()[0]
    worker.send(WORK_FAIL, handle)
    with pytest.raises(JobFailed) as caught:
        call.result()
    assert (caught.value.function, caught.value.handle) == ("f", handle.decode())


def test_submit_foreground_of_a_raising_job_raises_its_data(server, worker):
    call = Background(server.submit, "f")
    worker.send(WORK_EXCEPTION, worker.grab()[0], b"why\0not")
    with pytest.raises(JobException) as caught:
        call.result()
    assert caught.value.data == b"why\0not"


def test_submit_foreground_calls_back_in_order_in_the_callers_thread(server, worker):
    heard = []

    def hear(kind):
        return lambda *what: heard.append((kind, threading.current_thread(), *what))

    call = Background(
        server.submit, "f", on_data=hear("data"), on_warning=hear("warning"), on_status=hear("status")
    )
    handle = worker.grab()[0]
    worker.send(WORK_DATA, handle, b"one")
    worker.send(WORK_WARNING, handle, b"two")
    worker.send(WORK_STATUS, handle, b"3", b"4")
    worker.send(WORK_COMPLETE, handle, b"")
    assert call.result() == b""
    assert [(kind, *what) for kind, _, *what in heard] == [("data", b"one"), ("warning", b"two"), ("status", 3, 4)]
    assert {thread for _, thread, *_ in heard} == {call._thread}


def test_submit_foreground_with_a_callback_that_raises_abandons_the_job(server, worker):
    def object_to(data):
        raise ValueError("no")

    call = Background(server.submit, "f", on_data=object_to)
    handle = worker.grab()[0]
    worker.send(WORK_DATA, handle, b"one")
    with pytest.raises(ValueError):
        call.result()
    worker.send(WORK_COMPLETE, handle, b"")
    worker.echo()
    assert status(server.address)["f"] == (0, 0, 1)


def test_submit_foreground_timeout_takes_a_queued_job_back(server):
    with pytest.raises(JobTimeout):
        server.submit("f", timeout_s=0.05)
    assert status(server.address)["f"] == (0, 0, 0)
    assert not server.broker.callers


def test_submit_foreground_timeout_leaves_a_running_job_to_its_worker(server, worker):
    call = Background(server.submit, "f", timeout_s=2)
    handle = worker.grab()[0]
    with pytest.raises(JobTimeout):
        call.result()
    worker.send(WORK_COMPLETE, handle, b"late")
    worker.echo()
    assert status(server.address)["f"] == (0, 0, 1)


def test_submit_foreground_when_the_server_stops_raises_job_lost():
    server = Server(port=0).start()
    call = Background(server.submit, "f")
    wait_until(lambda: server.broker.registry.jobs, "the job is there")
    server.stop()
    with pytest.raises(JobLost):
        call.result()


@pytest.mark.parametrize("background", (False, True))
def test_submit_over_maxqueue_raises_job_refused(server, background):
    with Wire(server.address) as admin:
        assert admin.ask("maxqueue f 1") == "OK"
    server.submit("f", background=True)
    with pytest.raises(JobRefused) as caught:
        server.submit("f", background=background, timeout_s=5)
    assert "QUEUE_ERROR" in str(caught.value)


def test_submit_background_returns_the_handle_of_a_queued_job(server):
    handle = server.submit("f", b"work", background=True)
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        assert worker.grab() == (handle.encode(), b"f", b"work")


def test_submit_foreground_of_the_same_unique_shares_one_job(server, worker):
    calls = [Background(server.submit, "f", b"work", unique=b"u") for _ in range(3)]
    wait_until(lambda: len(server.broker.callers) == 3, "three callers")
    wait_until(lambda: sum(sum(job.listeners.values()) for job in server.broker.registry.jobs.values()) == 3, "three listeners")
    worker.send(WORK_COMPLETE, worker.grab()[0], b"same")
    assert [call.result() for call in calls] == [b"same"] * 3
    assert status(server.address)["f"] == (0, 0, 1)


@pytest.mark.parametrize("function", ("größe", "with space"))
def test_submit_takes_the_functions_name_as_utf8(server, function):
    handle = server.submit(function, background=True)
    with Wire(server.address) as worker:
        worker.can_do(function.encode())
        assert worker.grab()[:2] == (handle.encode(), function.encode())


# -- stopping ------------------------------------------------------------------


def test_graceful_stop_finishes_what_runs(server, worker):
    with Wire(server.address) as client:
        client.submit(b"f", b"work")
        handle = worker.grab()[0]
        stop = Background(server.stop, graceful=True)
        wait_until(lambda: server.broker.registry.draining, "the server drains")
        assert stop.running
        worker.send(WORK_COMPLETE, handle, b"done")
        assert client.expect(WORK_COMPLETE) == [handle, b"done"]
        stop.result()
    assert server.wait(0)


def test_graceful_stop_gives_out_what_is_queued_for_a_connected_worker(server, worker):
    with Wire(server.address) as client:
        handles = [client.submit(b"f", b"%d" % number, kind=SUBMIT_JOB_BG) for number in range(3)]
        stop = Background(server.stop, graceful=True)
        wait_until(lambda: server.broker.registry.draining, "the server drains")
        for expected in handles:
            handle = worker.grab()[0]
            assert handle == expected
            assert stop.running
            worker.send(WORK_COMPLETE, handle, b"")
        stop.result()


def test_graceful_stop_does_not_wait_for_jobs_that_nobody_can_do(server):
    server.submit("f", background=True)
    Background(server.stop, graceful=True).result()


def test_graceful_stop_refuses_new_jobs(server, worker):
    with Wire(server.address) as client:
        client.submit(b"f")
        handle = worker.grab()[0]
        stop = Background(server.stop, graceful=True)
        wait_until(lambda: server.broker.registry.draining, "the server drains")
        client.send(SUBMIT_JOB, b"f", b"", b"")
        assert client.expect(ERROR)[0] == b"SHUTTING_DOWN"
        with pytest.raises(JobRefused):
            server.submit("f")
        worker.send(WORK_COMPLETE, handle, b"")
        stop.result()


def test_graceful_stop_takes_no_new_connections(server, worker):
    with Wire(server.address) as client:
        client.submit(b"f")
        handle = worker.grab()[0]
        stop = Background(server.stop, graceful=True)
        address = server.address
        wait_until(lambda: _refuses(address), "connections are refused")
        worker.send(WORK_COMPLETE, handle, b"")
        stop.result()


def _refuses(address):
    try:
        Wire(address).close()
    except OSError:
        return True
    return False


def test_graceful_stop_ends_when_the_running_jobs_worker_dies(server):
    with Wire(server.address) as client:
        client.submit(b"f", kind=SUBMIT_JOB_BG)
        with Wire(server.address) as worker:
            worker.can_do(b"f")
            worker.grab()
            stop = Background(server.stop, graceful=True)
            wait_until(lambda: server.broker.registry.draining, "the server drains")
            assert stop.running
        stop.result()


def test_graceful_stop_gives_up_after_its_timeout(server, worker):
    server.submit("f", background=True)
    worker.grab()
    Background(server.stop, graceful=True, timeout_s=0.1).result()
    assert worker.is_closed()


def test_second_stop_ends_a_graceful_one_at_once(server, worker):
    server.submit("f", background=True)
    worker.grab()
    graceful = Background(server.stop, graceful=True)
    wait_until(lambda: server.broker.registry.draining, "the server drains")
    assert graceful.running
    server.stop()
    graceful.result()
    assert worker.is_closed()


def test_stop_after_stop_does_nothing(server):
    server.stop()
    server.stop()
    server.stop(graceful=True)
    assert server.wait(0)


def test_stop_without_start_closes_the_socket():
    server = Server(port=0)
    address = server.address
    Background(server.stop).result()
    assert _refuses(address)


def test_stop_from_many_threads_at_once_returns_to_all(server):
    for call in [Background(server.stop, graceful=number % 2 == 0) for number in range(8)]:
        call.result()


@pytest.mark.parametrize("command", ("shutdown", "shutdown graceful"))
def test_shutdown_command_stops_the_server(server, command):
    with Wire(server.address) as admin:
        assert admin.ask(command) == "OK"
        assert server.wait(DEADLINE_S)
        assert admin.is_closed()


def test_shutdown_command_goes_to_the_embedders_callback():
    asked = []
    with Server(port=0, on_shutdown=asked.append) as server:
        with Wire(server.address) as admin:
            assert admin.ask("shutdown graceful") == "OK"
            admin.echo()
            assert asked == [True]


def test_stop_closes_every_connection(server):
    wires = [Wire(server.address) for _ in range(20)]
    for wire in wires:
        wire.echo()
    server.stop()
    assert all(wire.is_closed() for wire in wires)
    for wire in wires:
        wire.close()


# -- what is left behind -------------------------------------------------------


def _one_life():
    with Server(port=0) as server:
        with Wire(server.address) as client, Wire(server.address) as worker:
            worker.can_do(b"f")
            client.submit(b"f", b"x" * 20000)
            worker.send(WORK_COMPLETE, worker.grab()[0], b"y" * 20000)
            client.expect(WORK_COMPLETE)
            client.submit(b"f", b"x" * 20000, kind=SUBMIT_JOB_BG)


def _resident_kilobytes(process="self"):
    with open("/proc/%s/statm" % process) as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_start_and_stop_many_times_leaves_nothing_behind():
    threads = threading.active_count()
    for _ in range(20):
        _one_life()
    gc.collect()
    # A handler has let go of its connection before it ends.
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    descriptors = len(os.listdir("/proc/self/fd"))
    memory = _resident_kilobytes()
    for _ in range(ROUNDS):
        _one_life()
    gc.collect()
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert _resident_kilobytes() - memory < 5 * 1024


@pytest.mark.skipif(sys.version_info[:2] != (3, 13) or not os.path.exists("/proc/self/statm"), reason="measured with Python 3.13 on Linux")
def test_connection_takes_little_memory():
    # 20 KiB. It was 24 while making a peer went deep enough to take a third page of its thread's stack.
    address = free_address()
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_START"}
    command = [sys.executable, "-m", "gearmand", "-L", address[0], "-p", str(address[1]), "-l", "none"]
    process = subprocess.Popen(command, env=environment)
    connected = []
    try:
        wait_until(lambda: listens(address[1]), "it listens")
        before = _resident_kilobytes(process.pid)
        for _ in range(CONNECTIONS):
            connected.append(Wire(address))
            connected[-1].echo()
        assert _resident_kilobytes(process.pid) - before < 22.5 * CONNECTIONS
    finally:
        for wire in connected:
            wire.close()
        process.terminate()
        process.wait(DEADLINE_S)


def test_server_that_cannot_bind_leaves_no_descriptor():
    # Whoever looks where handlers should run opens a file now and then.
    with Server(port=0, handler_cpu="none") as server:
        gc.collect()  # Of tests before it.
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            with pytest.raises(ConfigError):
                Server(port=server.address[1])
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before


def test_server_touches_no_signal_directory_or_logging_set_up():
    def state():
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        root = logging.getLogger()
        return (
            handlers,
            signal.pthread_sigmask(signal.SIG_BLOCK, []),
            os.getcwd(),
            list(root.handlers),
            root.level,
            list(logging.getLogger("gearmand").handlers),
            logging.getLogger("gearmand").level,
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        )

    before = state()
    with Server(port=0) as server:
        with Wire(server.address) as wire:
            wire.echo()
        assert state() == before
    assert state() == before


def test_two_servers_in_one_process_know_nothing_of_each_other():
    with Server(port=0) as one, Server(port=0) as two:
        one.submit("f", background=True)
        assert "f" in status(one.address)
        assert "f" not in status(two.address)


# -- addresses -----------------------------------------------------------------


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback address")


def test_server_listens_on_the_ipv4_loopback_alone_by_default():
    with Server(port=0) as server:
        assert [host for host, port in server.addresses] == ["127.0.0.1"]


@needs_ipv6
def test_server_listens_on_ipv6():
    with Server(port=0, listen=("::1",)) as server:
        with Wire(server.address) as wire:
            wire.echo()
            assert any(" ::1 " in line for line in wire.table("workers"))


@needs_ipv6
def test_server_listens_on_several_addresses_with_one_port():
    with Server(port=0, listen=("127.0.0.1", "::1")) as server:
        assert len({port for host, port in server.addresses}) == 1
        with Wire(server.addresses[0]) as client, Wire(server.addresses[1]) as worker:
            worker.can_do(b"f")
            handle = client.submit(b"f")
            assert worker.grab()[0] == handle


def test_several_ipv4_addresses_share_their_jobs():
    with Server(port=0, listen=("127.0.0.1", "127.0.0.2")) as server:
        with Wire(server.addresses[0]) as client, Wire(server.addresses[1]) as worker:
            worker.can_do(b"f")
            handle = client.submit(b"f")
            assert worker.grab()[0] == handle


def test_port_in_use_is_a_config_error_that_names_the_address():
    with Server(port=0) as server:
        with pytest.raises(ConfigError) as caught:
            Server(port=server.address[1])
        assert "127.0.0.1:%d" % server.address[1] in str(caught.value)


def test_address_of_another_machine_is_a_config_error_that_names_it():
    with pytest.raises(ConfigError) as caught:
        Server(port=0, listen=("192.0.2.1",))
    assert "192.0.2.1" in str(caught.value)


def test_name_that_does_not_resolve_is_a_config_error_that_names_it():
    with pytest.raises(ConfigError) as caught:
        Server(port=0, listen=("no.such.host.invalid",))
    assert "no.such.host.invalid" in str(caught.value)


def test_port_is_free_for_another_server_at_once():
    with Server(port=0) as server:
        address = server.address
        with Wire(address) as wire:
            wire.echo()
            server.stop()
    with Server(port=address[1]) as server:
        with Wire(address) as wire:
            wire.echo()


def test_option_that_does_not_exist_is_a_config_error():
    with pytest.raises(ConfigError):
        Server(port=0, no_such_option=1)


# -- an error of the server's own ------------------------------------------------


def test_error_in_a_handler_ends_that_connection_alone(server, monkeypatch, caplog):
    def broken(*arguments):
        raise RuntimeError("made up")

    with Wire(server.address) as other:
        other.echo()
        monkeypatch.setattr(server.broker.registry, "can_do", broken)
        with Wire(server.address) as wire:
            wire.send(CAN_DO, b"f")
            assert wire.is_closed()
        monkeypatch.undo()
        other.echo()
        wait_until(lambda: "made up" in caplog.text, "the error is logged")


def test_client_that_closed_does_not_end_its_workers_connection(server, worker):
    client = Wire(server.address)
    client.send(SUBMIT_JOB, b"f", b"", b"")
    client.expect(JOB_CREATED)
    handle = worker.grab()[0]
    client.close()
    wait_until(lambda: server.connections == 1, "the client is gone")
    worker.send(WORK_COMPLETE, handle, b"x" * 100000)
    worker.echo()


def test_worker_finds_the_connection_closed_after_stop(server, worker):
    server.stop()
    with pytest.raises(Closed):
        worker.grab()


def test_server_where_the_system_forbids_placing_threads_serves_all_the_same(monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden, raising=False)
    with Server(port=0) as server, socket.create_connection(server.address, 5) as sock:
        sock.sendall(b"getpid\n")
        assert sock.recv(100) == b"OK %d\n" % os.getpid()


@pytest.mark.parametrize("background", [False, True])
def test_submit_to_a_server_that_has_stopped_raises_job_lost(background):
    with Server(port=0) as server:
        pass
    with pytest.raises(JobLost, match="the server has stopped"):
        server.submit("f", background=background)


def test_submit_while_the_server_stops_always_returns():
    for _ in range(10):
        with Server(port=0) as server:
            calls = [Background(server.submit, "f") for _ in range(10)]
            stopping = Background(server.stop)
        for call in calls:
            with pytest.raises(JobLost):
                call.result()
        stopping.result()


def test_server_can_be_started_once(server):
    with pytest.raises(RuntimeError, match="once"):
        server.start()


def woken_for(worker, client):
    """The handle of a job that has woken the worker, whose next grab lingers."""
    worker.send(4)  # PRE_SLEEP
    worker.echo()
    client.submit(b"f", kind=SUBMIT_JOB_BG)
    assert worker.receive() == (6, b"")
    worker.send(9)
    return worker.expect(11)[0]


def test_grab_that_lingers_is_answered_when_its_worker_has_said_its_last_word(server, worker):
    with Wire(server.address) as client:
        handle = woken_for(worker, client)
        worker.send(WORK_COMPLETE, handle, b"")
        worker.send(9)
        worker.socket.shutdown(socket.SHUT_WR)
        assert worker.receive() == (10, b"")


def test_round_that_finds_no_job_is_answered_by_the_clock(server, worker):
    with Wire(server.address) as client:
        handle = woken_for(worker, client)
        worker.send_raw(packet(WORK_COMPLETE, handle, b"") + packet(9))
        # It lingers; nothing else happens.
        assert worker.receive() == (10, b"")


def test_rounds_do_all_jobs_of_several_workers(server):
    with Wire(server.address) as client:
        handles = {client.submit(b"f", b"%d" % number, kind=SUBMIT_JOB_BG) for number in range(300)}

    def work():
        with Wire(server.address) as worker:
            worker.can_do(b"f")
            worker.send(9)
            done = []
            while True:
                kind, body = worker.receive()
                if kind == 10:
                    return done
                done.append(body.split(b"\0")[0])
                worker.send_raw(packet(WORK_COMPLETE, done[-1], b"x") + packet(9))

    workers = [Background(work) for _ in range(4)]
    done = [handle for worker in workers for handle in worker.result()]
    assert sorted(done) == sorted(handles) and status(server.address)["f"][:2] == (0, 0)
