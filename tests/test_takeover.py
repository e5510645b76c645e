"""A later server takes over from the one that runs: as processes, with jobs that wait and run, and under load."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

from certificates import certificates
from gearmand import Client, JobLost, Worker
from peers import foreign, free_address
from test_tls import TlsWire
from web import Raw
from wire import (
    GET_STATUS, GRAB_JOB, NO_JOB, STATUS_RES, SUBMIT_JOB, SUBMIT_JOB_BG, SUBMIT_JOB_EPOCH, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE, WORK_EXCEPTION, WORK_FAIL, Wire, status, wait_until,
)  # fmt: skip

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REVERSE = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
GEARMAN = foreign("/usr/bin/gearman")


class House:
    """The servers that follow each other on one port."""

    def __init__(self, tmp_path, *options):
        self.path = tmp_path
        self.address = free_address()
        self.pid_file = tmp_path / "pid"
        self.options = options
        self.processes = []

    def __enter__(self):
        self.start("-L", "127.0.0.1", "-p", str(self.address[1]))
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, *more, options=None):
        log = self.path / ("log%d" % len(self.processes))
        command = [sys.executable, "-m", "gearmand", "-P", str(self.pid_file), "-l", str(log), "--verbose", "INFO"]
        process = subprocess.Popen([*command, *(self.options if options is None else options), *more], cwd=ROOT, stderr=subprocess.PIPE)
        process.log = log
        self.processes.append(process)
        wait_until(lambda: process.poll() is not None or "listens on" in said_by(process), "it serves or ends")
        return process

    def take_over(self, *more, **options):
        """The new server, which serves."""
        process = self.start("--takeover", *more, **options)
        assert process.poll() is None, process.stderr.read()
        wait_until(lambda: "took over from process" in said_by(process), "it has taken over")
        return process

    @property
    def first(self):
        return self.processes[0]

    def wire(self):
        return Wire(self.address)

    @contextlib.contextmanager
    def worker(self, *functions):
        with self.wire() as wire:
            wire.can_do(*functions)
            yield wire


def said_by(process):
    return process.log.read_text() if process.log.exists() else ""


@pytest.fixture(params=["memory", "file"])
def house(request, tmp_path):
    with House(tmp_path, *(["--queue", str(tmp_path / "queue")] if request.param == "file" else [])) as house:
        yield house


@pytest.fixture
def memory(tmp_path):
    with House(tmp_path) as house:
        yield house


@pytest.fixture
def file(tmp_path):
    with House(tmp_path, "--queue", str(tmp_path / "queue")) as house:
        yield house


def known(wire, handle):
    """Known and running."""
    wire.send(GET_STATUS, handle)
    return wire.expect(STATUS_RES)[1:3]


# -- the process --------------------------------------------------------------------


def test_takeover_with_nothing_to_do_ends_the_old_server_and_keeps_the_pid_file(house):
    second = house.take_over()
    assert house.first.wait(20) == 0
    assert int(house.pid_file.read_text()) == second.pid
    with house.wire() as wire:
        assert wire.ask("getpid") == "OK %d" % second.pid
    assert "another server has taken over" in said_by(house.first)
    wait_until(lambda: "has ended; 0 of its jobs wait again" in said_by(second), "it knows")


def test_takeover_again_and_again(memory):
    for _ in range(3):
        before = memory.processes[-1]
        after = memory.take_over()
        assert before.wait(20) == 0
    with memory.wire() as wire:
        assert wire.ask("getpid") == "OK %d" % after.pid
    after.terminate()
    assert after.wait(20) == 0
    assert not memory.pid_file.exists() and not os.path.exists(str(memory.pid_file) + ".takeover")


def test_takeover_where_none_runs_is_a_start(tmp_path):
    house = House(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(house.__exit__)
        process = house.start("--takeover", "-L", "127.0.0.1", "-p", str(house.address[1]))
        assert process.poll() is None
        with house.wire() as wire:
            wire.echo()


def test_takeover_by_a_daemon(memory):
    done = memory.start("--takeover", "-d")
    try:
        assert done.wait(20) == 0
        assert memory.first.wait(20) == 0
        with memory.wire() as wire:
            assert wire.ask("getpid") == "OK %s" % memory.pid_file.read_text().strip()
    finally:
        pid = int(memory.pid_file.read_text())
        if pid != memory.first.pid:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not memory.pid_file.exists(), "it has ended")


def test_takeover_by_its_socket_alone(tmp_path):
    door = str(tmp_path / "door")
    with House(tmp_path, "--takeover-socket", door) as house:
        house.pid_file = tmp_path / "other"
        house.take_over()
        assert house.first.wait(20) == 0
        assert os.stat(door).st_mode & 0o777 == 0o600


def test_takeover_by_another_user_is_refused(memory):
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    door = str(memory.pid_file) + ".takeover"
    assert os.stat(door).st_mode & 0o777 == 0o600
    for directory in (memory.path, *memory.path.parents):
        if directory.owner() == "root" and directory.stat().st_mode & 0o001 == 0:
            os.chmod(directory, directory.stat().st_mode | 0o001)
        if directory.name.startswith("tmp"):
            break
    os.chmod(door, 0o777)
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        " s.sendall(b'{\"takeover\": 1}\\n'); sys.exit(len(s.recv(1000)))"
    )
    done = subprocess.run(["/usr/bin/env", "python3", "-c", code, door], cwd="/", timeout=30)
    if done.returncode not in (0, 1):
        pytest.skip("another user cannot run Python here")
    wait_until(lambda: "of user 65534, and may not" in said_by(memory.first), "it says so")
    with memory.wire() as wire:
        assert wire.ask("getpid") == "OK %d" % memory.first.pid


@pytest.mark.parametrize("line", [b"", b"nothing\n", b"[]\n", b"{}\n", b'{"takeover": 99}\n', b'{"takeover": 1}\n'])
def test_whoever_says_too_little_at_the_door_changes_nothing(memory, line):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(memory.pid_file) + ".takeover")
        sock.sendall(line)
    with memory.wire() as wire:
        assert wire.ask("getpid") == "OK %d" % memory.first.pid
    memory.take_over()
    assert memory.first.wait(20) == 0


def test_takeover_keeps_the_sockets_for_http_and_answers_what_was_asked(tmp_path):
    web = free_address()
    with House(tmp_path, "--http-port", str(web[1])) as house, house.worker(b"f") as worker:
        with Raw(web) as waiting, Raw(web) as idle, Raw(web) as hopeless:
            for client, function in ((waiting, b"f"), (hopeless, b"g")):
                client.send(b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx" % function)
            handle = worker.grab()[0]
            idle.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.answer()[0] == 200
            # One that has only connected is for the new server.
            wait_until(lambda: "g" in status(house.address), "all have been heard")
            house.take_over()
            # Nobody can do it here any more, and it is not the new server's.
            assert hopeless.answer()[0] == 503
            with Raw(web) as new:
                new.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert new.answer()[0] == 200
            assert house.first.poll() is None
            worker.send(WORK_COMPLETE, handle, b"done")
            code, _, body = waiting.answer()
            assert (code, body) == (200, b"done")
            assert house.first.wait(20) == 0


def test_takeover_begins_to_listen_for_http(memory):
    web = free_address()
    memory.take_over("--http-port", str(web[1]))
    with Raw(web) as client:
        client.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.answer()[0] == 200


def test_takeover_keeps_tls_and_unix_domain_sockets(tmp_path):
    files, path, secret = certificates(), str(tmp_path / "gearmand.sock"), free_address()
    options = ["--ssl-certificate", files.path("server.pem"), "--ssl-key", files.path("server.key"), "--ssl-port", str(secret[1])]
    with House(tmp_path, "-L", "unix:" + path, *options) as house:
        inode = os.stat(path).st_ino
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        with TlsWire(secret, context) as client, TlsWire(secret, context) as worker, TlsWire(secret, context) as idle:
            idle.echo()
            worker.can_do(b"f")
            handle = client.submit(b"f")
            worker.grab()
            # Without TLS it cannot serve where TLS is spoken, and touches nothing.
            without = house.start("--takeover", options=["-L", "unix:" + path])
            assert without.wait(20) == 1 and b"a certificate is needed" in without.stderr.read()
            assert os.stat(path).st_ino == inode
            second = house.take_over()
            assert idle.is_closed()
            worker.send(WORK_COMPLETE, handle, b"")
            assert client.receive()[0] == WORK_COMPLETE
            assert client.is_closed() and worker.is_closed()
        assert house.first.wait(20) == 0 and os.stat(path).st_ino == inode
        with TlsWire(secret, context) as wire, socket.socket(socket.AF_UNIX) as local:
            assert wire.ask("getpid") == "OK %d" % second.pid
            local.connect(path)
            local.sendall(b"getpid\n")
            assert local.recv(100) == b"OK %d\n" % second.pid
        second.terminate()
        assert second.wait(20) == 0 and not os.path.exists(path)


# -- jobs that wait ------------------------------------------------------------------


def test_jobs_that_wait_go_with_their_handles_and_their_order(house):
    with house.wire() as client:
        kinds = [SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG, SUBMIT_JOB_HIGH_BG]
        jobs = [(client.submit(b"f", b"%d" % n, b"u%d" % n if n % 2 else b"", kinds[n % 3]), n) for n in range(30)]
    house.take_over()
    assert house.first.wait(20) == 0
    with house.worker(b"f") as worker:
        got = [worker.grab() for _ in jobs]
    expected = [(handle, b"f", b"%d" % n) for which in (2, 0, 1) for handle, n in jobs if n % 3 == which]
    assert got == expected


def test_plain_jobs_that_are_cancelled_do_not_go(memory):
    with memory.wire() as client:
        first, second = (client.submit(b"f", b"", kind=SUBMIT_JOB_BG) for _ in range(2))
        assert client.ask("cancel job " + first.decode()) == "OK"
    memory.take_over()
    with memory.wire() as wire:
        assert known(wire, first) == [b"0", b"0"] and known(wire, second) == [b"1", b"0"]


def test_job_that_goes_coalesces_with_what_comes(memory):
    with memory.wire() as client:
        handle = client.submit(b"f", b"", b"u", SUBMIT_JOB_BG)
    memory.take_over()
    with memory.wire() as client:
        assert client.submit(b"f", b"", b"u", SUBMIT_JOB_BG) == handle
        assert client.submit(b"f", b"", b"v", SUBMIT_JOB_BG) != handle


def test_delayed_job_goes_with_its_time(house):
    due_s = int(time.time()) + 8
    with house.wire() as client:
        client.send(SUBMIT_JOB_EPOCH, b"f", b"", b"%d" % due_s, b"later")
        handle = client.expect(8)[0]
        client.send(SUBMIT_JOB_EPOCH, b"f", b"", b"%d" % (time.time() + 3600), b"much later")
        much_later = client.expect(8)[0]
    house.take_over()
    assert house.first.wait(20) == 0
    with house.worker(b"f") as worker:
        assert known(worker, much_later) == [b"1", b"0"]
        assert worker.grab() == (handle, b"f", b"later")
    # Not before; the calendar's clock may be set a little meanwhile.
    assert time.time() > due_s - 0.5


def test_limits_go_and_do_not_refuse_what_was_accepted(memory):
    with memory.wire() as client:
        for _ in range(3):
            client.submit(b"f", kind=SUBMIT_JOB_BG)
        assert client.ask("maxqueue f 1") == "OK"
    memory.take_over()
    assert status(memory.address)["f"] == (3, 0, 0)
    with memory.wire() as client:
        client.send(SUBMIT_JOB_BG, b"f", b"", b"")
        assert client.receive()[0] == 19


def test_handles_go_on_and_never_repeat(memory):
    with memory.wire() as client:
        handles = {client.submit(b"f", kind=SUBMIT_JOB_BG) for _ in range(50)}
    memory.take_over()
    with memory.wire() as client:
        handles |= {client.submit(b"f", kind=SUBMIT_JOB_BG) for _ in range(50)}
    assert len(handles) == 100


def test_jobs_of_a_memory_go_into_a_store(memory, tmp_path):
    with memory.wire() as client:
        handles = [client.submit(b"f", b"\xff\0%d" % n, kind=SUBMIT_JOB_BG) for n in range(10)]
        assert client.ask("maxqueue f 5") == "OK"
    queue = ["--queue", str(tmp_path / "queue")]
    second = memory.take_over(options=queue)
    second.kill()
    second.wait()
    # Which listens until it has read that the second one serves.
    assert memory.first.wait(20) == 0
    third = memory.start("-L", "127.0.0.1", "-p", str(memory.address[1]), options=queue)
    assert third.poll() is None
    with memory.worker(b"f") as worker:
        assert [worker.grab()[0] for _ in handles] == handles


def test_dormant_jobs_stay_in_the_store(tmp_path):
    with House(tmp_path, "--queue", str(tmp_path / "queue"), "--queue-memory", "10K") as house:
        with house.wire() as client:
            handles = [client.submit(b"f", b"x" * 1000, kind=SUBMIT_JOB_BG) for _ in range(40)]
        house.take_over()
        with house.worker(b"f") as worker:
            assert [worker.grab()[0] for _ in handles] == handles


# -- jobs that run -------------------------------------------------------------------


def test_job_that_runs_ends_where_it_began_and_its_client_hears_of_it(house):
    with house.wire() as client, house.worker(b"f") as worker:
        handle = client.submit(b"f", b"in")
        assert worker.grab()[0] == handle
        house.take_over()
        assert house.first.poll() is None
        worker.send(WORK_COMPLETE, handle, b"out")
        assert client.receive() == (WORK_COMPLETE, handle + b"\0out")
        assert client.is_closed() and worker.is_closed()
    assert house.first.wait(20) == 0


def test_job_that_somebody_waits_for_is_still_given_out_where_it_is(memory):
    with memory.wire() as client, memory.worker(b"f") as worker:
        first, second = client.submit(b"f", b"1"), client.submit(b"f", b"2")
        assert worker.grab()[0] == first
        memory.take_over()
        worker.send(WORK_COMPLETE, first, b"")
        assert client.receive()[1].startswith(first)
        assert worker.grab()[0] == second
        worker.send(WORK_COMPLETE, second, b"")
        assert client.receive()[1].startswith(second)
        assert client.is_closed()
    assert memory.first.wait(20) == 0


def test_job_that_nobody_there_can_do_sends_its_client_to_the_new_server(memory):
    with memory.wire() as client:
        client.submit(b"f")
        memory.take_over()
        assert client.is_closed()
    assert memory.first.wait(20) == 0
    assert status(memory.address).get("f", (0, 0, 0))[0] == 0


def test_background_job_that_runs_is_known_at_the_new_server_and_done_once(house):
    with house.wire() as client, house.worker(b"f") as worker:
        handle = client.submit(b"f", b"", b"u", SUBMIT_JOB_BG)
        assert worker.grab()[0] == handle
        house.take_over()
        with house.wire() as asking:
            assert known(asking, handle) == [b"1", b"1"]
            worker.send(WORK_COMPLETE, handle, b"")
            assert house.first.wait(20) == 0
            wait_until(lambda: known(asking, handle) == [b"0", b"0"], "it is known to have ended")
    with house.worker(b"f") as worker:
        worker.send(GRAB_JOB)
        assert worker.receive()[0] == NO_JOB


def test_background_job_of_a_store_that_ended_at_the_old_server_is_gone_after_a_restart(file):
    with file.wire() as client, file.worker(b"f") as worker:
        handle = client.submit(b"f", b"", kind=SUBMIT_JOB_BG)
        worker.grab()
        second = file.take_over()
        worker.send(WORK_COMPLETE, handle, b"")
        assert file.first.wait(20) == 0
    wait_until(lambda: "has ended; 0" in said_by(second), "it knows")
    second.terminate()
    assert second.wait(20) == 0
    third = file.start("-L", "127.0.0.1", "-p", str(file.address[1]))
    assert "0 jobs have been kept" in said_by(third)


def test_background_job_whose_worker_is_lost_waits_at_the_new_server(house):
    with house.wire() as client, house.worker(b"f") as worker:
        handle = client.submit(b"f", b"in", kind=SUBMIT_JOB_BG)
        assert worker.grab()[0] == handle
        house.take_over()
    assert house.first.wait(20) == 0
    with house.worker(b"f") as worker:
        assert worker.grab() == (handle, b"f", b"in")
        assert worker.table("show jobs") == ["%s\t1\t0\t1" % handle.decode()]


def test_job_whose_last_attempt_fails_at_the_old_server_is_buried_at_the_new_one(house):
    with house.worker(b"f") as worker:
        worker.table("policy f attempts=2")
        handle = worker.submit(b"f", kind=SUBMIT_JOB_BG)
        worker.send(WORK_FAIL, worker.grab()[0])
        assert worker.grab()[0] == handle
        house.take_over()
        worker.send(WORK_EXCEPTION, handle, b"why")
        assert house.first.wait(20) == 0
    with house.worker(b"f") as worker:
        (row,) = wait_until(lambda: worker.table("buried f"), "it is buried there")
        assert row.split("\t")[0] == handle.decode() and row.endswith('"why"')
        worker.send(GRAB_JOB)
        assert worker.receive()[0] == NO_JOB
        assert worker.ask("kick f") == "OK 1" and worker.grab()[0] == handle


def test_background_job_with_a_listener_that_leaves_waits_at_the_new_server(memory):
    with memory.wire() as client:
        handle = client.submit(b"f", b"in", b"u", SUBMIT_JOB_BG)
        assert client.submit(b"f", b"in", b"u", SUBMIT_JOB) == handle
        memory.take_over()
        assert client.is_closed()
    with memory.worker(b"f") as worker:
        assert worker.grab() == (handle, b"f", b"in")


def test_background_jobs_that_ran_wait_again_when_the_old_server_is_killed(house):
    with house.wire() as client, house.worker(b"f") as worker:
        handles = [client.submit(b"f", b"%d" % n, kind=SUBMIT_JOB_BG) for n in range(3)]
        assert [worker.grab()[0] for _ in handles] == handles
        second = house.take_over()
        house.first.kill()
        house.first.wait()
    wait_until(lambda: "has ended; 3 of its jobs wait again" in said_by(second), "it knows")
    with house.worker(b"f") as worker:
        assert [worker.grab()[0] for _ in handles] == handles


def test_second_takeover_is_refused_while_jobs_of_the_first_run(memory):
    with memory.wire() as client, memory.worker(b"f") as worker:
        handle = client.submit(b"f", b"", kind=SUBMIT_JOB_BG)
        worker.grab()
        second = memory.take_over()
        third = memory.start("--takeover")
        assert third.wait(20) == 1
        assert b"1 jobs still run at the server before it" in third.stderr.read()
        worker.send(WORK_COMPLETE, handle, b"")
        assert memory.first.wait(20) == 0
    wait_until(lambda: "has ended" in said_by(second), "it knows")
    memory.take_over()
    assert second.wait(20) == 0


def test_old_server_that_drains_refuses_a_takeover(memory):
    with memory.wire() as client, memory.worker(b"f") as worker:
        handle = client.submit(b"f")
        worker.grab()
        memory.first.send_signal(signal.SIGUSR1)
        wait_until(lambda: not accepts(memory.address), "it stops listening")
        second = memory.start("--takeover")
        assert second.wait(20) == 1 and b"it is stopping" in second.stderr.read()
        worker.send(WORK_COMPLETE, handle, b"")
        assert client.receive()[0] == WORK_COMPLETE
    assert memory.first.wait(20) == 0


def accepts(address):
    try:
        socket.create_connection(address, 5).close()
        return True
    except OSError:
        return False


def test_old_server_that_is_stopped_leaves_the_new_ones_socket_alone(memory):
    with memory.wire() as client, memory.worker(b"f") as worker:
        client.submit(b"f")
        worker.grab()
        second = memory.take_over()
        memory.first.terminate()
        assert memory.first.wait(20) == 0
    with memory.wire() as wire:
        assert wire.ask("getpid") == "OK %d" % second.pid


def test_idle_peer_that_does_not_close_is_closed(memory):
    with memory.wire() as idle:
        idle.echo()
        memory.take_over()
        # It keeps its end open.
        assert memory.first.wait(20) == 0
        assert idle.is_closed()


# -- submissions that come to the old server all the same ---------------------------------


def test_submission_of_a_client_that_waits_is_for_the_new_server(house):
    with house.wire() as client, house.worker(b"f") as worker:
        handle = client.submit(b"f")
        worker.grab()
        house.take_over()
        client.send(SUBMIT_JOB_BG, b"f", b"", b"unanswered")
        client.send(SUBMIT_JOB, b"f", b"", b"unanswered")
        client.send(1000, b"")
        worker.send(WORK_COMPLETE, handle, b"")
        assert client.receive() == (WORK_COMPLETE, handle + b"\0")
        assert client.is_closed()
    assert house.first.wait(20) == 0
    assert status(house.address).get("f", (0, 0, 0))[0] == 0


def test_question_for_a_job_that_has_moved_is_for_the_new_server(house):
    with house.wire() as client, house.wire() as other, house.worker(b"f") as worker:
        waits = other.submit(b"g", kind=SUBMIT_JOB_BG)
        handle = client.submit(b"f")
        worker.grab()
        house.take_over()
        client.send(GET_STATUS, waits)
        worker.send(WORK_COMPLETE, handle, b"")
        assert client.receive() == (WORK_COMPLETE, handle + b"\0")
        # It is not told that there is no such job.
        assert client.is_closed()
    with house.wire() as client:
        assert known(client, waits) == [b"1", b"0"]


def test_submission_of_a_worker_that_runs_a_job_is_refused(memory):
    with memory.wire() as client, memory.worker(b"f") as worker:
        handle = client.submit(b"f")
        worker.grab()
        memory.take_over()
        worker.send(SUBMIT_JOB, b"g", b"", b"")
        kind, body = worker.receive()
        assert kind == 19 and body.startswith(b"SHUTTING_DOWN")
        worker.send(WORK_COMPLETE, handle, b"")
        assert client.receive()[0] == WORK_COMPLETE


# -- a new server that does not come up ---------------------------------------------------


def test_new_server_with_another_queue_leaves_the_old_one_as_it_was(file, tmp_path):
    with file.wire() as client, file.worker(b"g") as worker:
        waits = client.submit(b"f", b"", b"u", SUBMIT_JOB_BG)
        runs = client.submit(b"g", b"", kind=SUBMIT_JOB_BG)
        worker.grab()
        second = file.start("--takeover", options=["--queue", str(tmp_path / "other")])
        assert second.wait(20) == 1
        assert b"keeps its queue in" in second.stderr.read()
        wait_until(lambda: "this one goes on" in said_by(file.first), "it goes on")
        assert int(file.pid_file.read_text()) == file.first.pid
        assert known(client, waits) == [b"1", b"0"]
        assert client.submit(b"f", b"", b"u", SUBMIT_JOB_BG) == waits
        later = client.submit(b"f", b"later", kind=SUBMIT_JOB_BG)
        worker.send(WORK_COMPLETE, runs, b"")
        worker.echo()
        with file.worker(b"f") as other:
            assert [other.grab()[0] for _ in range(2)] == [waits, later]
    file.take_over()
    assert file.first.wait(20) == 0
    wait_until(lambda: status(file.address)["f"][0] == 2 and status(file.address).get("g", (0,))[0] == 0, "two jobs are left")


def test_new_server_that_dies_while_it_takes_over_leaves_the_old_one_as_it_was(house):
    """The other end of the protocol, up to where it dies."""
    with house.wire() as client, house.worker(b"g") as worker:
        waits = [client.submit(b"f", b"%d" % n, kind=SUBMIT_JOB_BG) for n in range(5)]
        runs = client.submit(b"g", b"", kind=SUBMIT_JOB_BG)
        assert worker.grab()[0] == runs
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(house.pid_file) + ".takeover")
            sock.sendall(b'{"takeover": 1}\n')
            assert b'"kinds"' in sock.recv(10000)
            sock.sendall(b'{"take": true}\n')
            data = b""
            while b'"yours"' not in data:
                data += sock.recv(10000)
            # Ends now, and its row must not come back.
            client.send(SUBMIT_JOB_BG, b"f", b"", b"meanwhile")
            worker.send(WORK_COMPLETE, runs, b"")
            worker.echo()
        assert client.expect(8)
        assert [known(client, handle) for handle in waits] == [[b"1", b"0"]] * 5
        assert known(client, runs) == [b"0", b"0"]
        with house.worker(b"f", b"g") as other:
            got = [other.grab() for _ in range(6)]
        assert [handle for handle, _, _ in got[:5]] == waits and got[5][2] == b"meanwhile"
    second = house.take_over()
    assert house.first.wait(20) == 0
    with house.worker(b"f", b"g") as other:
        assert len({other.grab()[0] for _ in range(6)}) == 6
        other.send(GRAB_JOB)
        assert other.receive()[0] == NO_JOB
    assert second.poll() is None


# -- under load ------------------------------------------------------------------------


class Load:
    """Clients and workers of the library, and a foreign worker, while servers follow each other."""

    def __init__(self, house):
        self.house = house
        self.server = "127.0.0.1:%d" % house.address[1]
        self.stopping = threading.Event()
        self.done = {}
        self.lock = threading.Lock()
        self.answers = 0
        self.background = []
        self.unsure = []
        self.failures = []
        self.threads = []
        self.worker = Worker(self.server, concurrency=4)
        self.worker.register("echo")(lambda job: job.workload[::-1])
        self.worker.register("note")(self._note)

    def _note(self, job):
        with self.lock:
            self.done[job.workload] = self.done.get(job.workload, 0) + 1
        return b""

    def __enter__(self):
        self._start(self.worker.work)
        for number in range(4):
            self._start(self._ask, number)
        for number in range(2):
            self._start(self._submit, number)
        return self

    def _start(self, target, *arguments, **more):
        def run():
            try:
                target(*arguments, **more)
            except BaseException as error:
                self.failures.append(repr(error))

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()

    def stop_asking(self):
        self.stopping.set()
        for thread in self.threads[1:]:
            thread.join(60)
            assert not thread.is_alive()

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads[1:]:
            thread.join(60)
        self.worker.stop()
        self.threads[0].join(60)

    def _ask(self, number):
        with Client(self.server) as client:
            at = 0
            while not self.stopping.is_set():
                at += 1
                text = b"%d %d" % (number, at)
                assert client.run("echo", text, retries=10, timeout_s=60) == text[::-1]
                with self.lock:
                    self.answers += 1

    def _submit(self, number):
        with Client(self.server) as client:
            at = 0
            while not self.stopping.is_set():
                at += 1
                text = b"bg %d %d" % (number, at)
                try:
                    client.submit_background("note", text, timeout_s=60)
                    self.background.append(text)
                except JobLost:
                    # It may have been accepted or not; it is submitted again.
                    self.unsure.append(text)
                    client.submit_background("note", text, retries=10, timeout_s=60)
                time.sleep(0.001)


@pytest.mark.parametrize("queue", ["memory", "file"])
def test_nothing_is_lost_while_servers_follow_each_other_under_load(tmp_path, queue):
    options = ["--queue", str(tmp_path / "queue")] if queue == "file" else []
    foreign_worker = None
    with House(tmp_path, *options, "--verbose", "NOTICE") as house:
        with Load(house) as load:
            if os.path.exists(GEARMAN):
                command = [GEARMAN, "-p", str(house.address[1]), "-w", "-f", "echo", "--", sys.executable, "-c", REVERSE]
                foreign_worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                for _ in range(3):
                    answers = load.answers
                    wait_until(lambda: load.answers > answers + 50, "there is load", 60)
                    before = house.processes[-1]
                    house.take_over()
                    assert before.wait(60) == 0
                answers = load.answers
                wait_until(lambda: load.answers > answers + 50, "the load goes on", 60)
                if foreign_worker is not None:
                    assert foreign_worker.poll() is None
            finally:
                if foreign_worker is not None:
                    foreign_worker.kill()
                    foreign_worker.wait()
            load.stop_asking()
            wait_until(lambda: status(house.address)["note"][0] == 0, "all is done", 60)
        assert load.failures == []
        assert set(load.done) >= set(load.background)
        twice = {text for text, times in load.done.items() if times > 1}
        assert twice <= set(load.unsure), "done twice, of %d" % len(load.done)
        logs = "".join(said_by(process) for process in house.processes)
        assert "ERROR" not in logs and "Traceback" not in logs, logs
