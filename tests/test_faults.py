"""The library while servers and workers are killed: against this server as a process, and against the C server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gearmand import Client, JobLost, JobTimeout, Task, TaskSet, Worker
from peers import Crew, ScriptedServer, c_server, free_address, listens
from wire import wait_for_workers, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEADLINE_S = 20


def environment():
    return {**os.environ, "PYTHONPATH": ROOT}


@contextlib.contextmanager
def this_server(directory, address, *options):
    """`python -m gearmand`; it ends with a KILL."""
    command = [sys.executable, "-m", "gearmand", "-L", address[0], "-p", str(address[1]), *options]
    with open(os.path.join(str(directory), "server.log"), "a") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(address[1]) or process.poll() is not None, "the server listens")
        assert process.poll() is None, "the server does not start; see %s" % log.name
        yield
    finally:
        process.kill()
        process.wait(DEADLINE_S)


class Killable:
    """A server at an address of its own that is killed and started again."""

    def __init__(self, run):
        self.address = free_address()
        self._run = run
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()

    def start(self):
        self._stack.enter_context(self._run(self.address))

    def kill(self):
        self._stack.close()


def killable(kind, directory):
    if kind == "c-server":
        return Killable(lambda address: c_server(directory, address=address))
    options = ["--queue", os.path.join(str(directory), "queue")] if kind == "queue" else []
    return Killable(lambda address: this_server(directory, address, *options))


@pytest.fixture(params=["gearmand", "c-server"])
def server(request, tmp_path):
    with killable(request.param, tmp_path) as server:
        yield server


def reversing(address, count=2):
    worker = Worker(address, concurrency=count)
    worker.register("reverse", lambda job: job.workload[::-1])
    return worker


# -- a server is killed and restarted ----------------------------------------------------


def test_foreground_jobs_with_retries_are_all_answered_though_their_server_is_killed(server):
    killed = threading.Event()

    def reverse(job):
        # However late the server is killed, it has jobs then.
        if int(job.workload[4:]) >= 300:
            killed.wait(DEADLINE_S)
        return job.workload[::-1]

    worker = Worker(server.address, concurrency=2)
    worker.register("reverse", reverse)
    with worker, Client(server.address) as client:
        wait_for_workers(server.address, "reverse")
        jobs = client.submit_many("reverse", [b"job %d" % number for number in range(1000)], retries=20)
        wait_until(lambda: sum(job.done() for job in jobs) > 200, "some jobs are done")
        server.kill()
        done_before = sum(job.done() for job in jobs)
        killed.set()
        server.start()
        assert [job.result(DEADLINE_S) for job in jobs] == [(b"job %d" % number)[::-1] for number in range(1000)]
        assert done_before < 1000, "the server was killed too late"
        assert all(job.retries_done <= 20 for job in jobs)


@pytest.mark.parametrize("kind", ["gearmand", "queue", "c-server"])
def test_background_job_is_acknowledged_or_an_exception_though_its_server_is_killed(kind, tmp_path):
    outcomes = []
    over = threading.Event()

    def submit(client, name):
        number = 0
        while not over.is_set():
            workload = "%s %d" % (name, number)
            number += 1
            try:
                outcomes.append((workload, client.submit_background("log", workload, timeout_s=DEADLINE_S)))
            except JobLost as error:
                outcomes.append((workload, error))
                over.wait(0.02)

    def acknowledged():
        return [workload for workload, outcome in list(outcomes) if isinstance(outcome, str)]

    with killable(kind, tmp_path) as server, Client(server.address) as client:
        threads = [threading.Thread(target=submit, args=(client, name), name=name) for name in "abc"]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(acknowledged()) > 100, "some are acknowledged")
            server.kill()
            count = len(acknowledged())
            wait_until(lambda: len(outcomes) - len(acknowledged()) >= 3, "all notice")
            server.start()
            wait_until(lambda: len(acknowledged()) > count + 100, "others are acknowledged afterwards")
        finally:
            over.set()
            for thread in threads:
                thread.join(DEADLINE_S)
        for name in "abc":
            own = [workload for workload, _ in outcomes if workload.startswith(name)]
            assert own == ["%s %d" % (name, number) for number in range(len(own))], "some had no outcome"
        if kind == "queue":
            done = set()
            with Crew(server.address, {b"log": lambda wire, handle, workload: done.add(workload.decode()) or b""}):
                wait_until(lambda: done >= set(acknowledged()), "what was acknowledged is done")


def test_background_jobs_in_flight_are_acknowledged_or_lost_when_their_server_is_killed(server):
    with Client(server.address) as client:
        jobs = client.submit_many("log", [b"x" * 1000] * 3000, background=True)
        wait_until(lambda: any(job.done() for job in jobs), "some are acknowledged")
        server.kill()
        errors = [job.exception(DEADLINE_S) for job in jobs]
        assert all(error is None or isinstance(error, JobLost) for error in errors)
        assert all(job.handle for job, error in zip(jobs, errors) if error is None)
        server.start()
        assert client.submit_background("log", timeout_s=DEADLINE_S)


def test_background_jobs_with_retries_are_all_acknowledged_though_their_server_is_killed(server):
    with Client(server.address) as client:
        jobs = [client.submit("log", "%d" % number, background=True) for number in range(100)]
        assert all(job.result(DEADLINE_S) for job in jobs)
        server.kill()
        jobs = [client.submit("log", "%d" % number, background=True, retries=20) for number in range(100)]
        server.start()
        assert all(job.result(DEADLINE_S) for job in jobs)


# -- a worker is killed ------------------------------------------------------------------

_WORKER = """
import os, sys, time
from gearmand import Worker

worker = Worker(sys.argv[1], processes=2)

@worker.register("slow")
def slow(job):
    yield b"%d" % os.getpid()
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.02)

worker.work(handle_signals=True)
"""


def test_jobs_of_a_worker_process_that_is_killed_are_run_again(server, tmp_path):
    path = str(tmp_path / "slow.py")
    with open(path, "w") as file:
        file.write(_WORKER)
    # Made when a process has been killed: until then no job ends.
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, path, "%s:%d" % server.address, str(killed)], env=environment())
    try:
        with Client(server.address) as client:
            jobs = client.submit_many("slow", [b""] * 12)
            first = wait_until(lambda: [job for job in jobs if job.data], "a job has begun")[0]
            victim = int(first.data[0])
            os.kill(victim, signal.SIGKILL)
            killed.touch()
            for job in jobs:
                job.result(DEADLINE_S)
        runs = [job.data for job in jobs]
        assert first.data[0] == b"%d" % victim and len(first.data) == 2, "not run again: %r" % first.data
        assert first.data[1] != first.data[0]
        # No more than the one that it had.
        assert sum(len(pids) for pids in runs) == len(jobs) + 1
    finally:
        killed.touch()
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


# -- a server that accepts and never answers ----------------------------------------------


@contextlib.contextmanager
def silent_server(asked=None):
    """Takes everything and says nothing. `asked`: an event that is set when a packet has come."""

    def script(connection, number):
        connection.socket.settimeout(None)
        while True:
            connection.receive()
            if asked is not None:
                asked.set()

    with ScriptedServer(script) as server:
        yield server.address


@pytest.fixture
def silent_and_good(server):
    with silent_server() as silent:
        yield [silent, server.address]


def test_worker_gets_on_with_the_good_one_of_two_servers(silent_and_good):
    good = silent_and_good[1]
    with reversing(silent_and_good, count=1), Client(good) as client:
        began_at = time.monotonic()
        jobs = client.submit_many("reverse", [b"job %d" % number for number in range(200)])
        assert [job.result(DEADLINE_S) for job in jobs] == [(b"job %d" % number)[::-1] for number in range(200)]
        # It waits a second for the silent one, at most; were it to wait for its answer, it would be half a minute.
        assert time.monotonic() - began_at < 15


def test_client_gets_on_with_the_good_one_after_a_timeout(silent_and_good, monkeypatch):
    # Longer than the runs take on a busy machine.
    monkeypatch.setattr("gearmand.link._FIRST_REST_S", 60)
    good = silent_and_good[1]
    with reversing(good), Client(silent_and_good) as client:
        results = []
        for timeout_s in (0.5, DEADLINE_S, DEADLINE_S, DEADLINE_S):
            with contextlib.suppress(JobTimeout):
                results.append(client.run("reverse", b"ab", timeout_s=timeout_s))
        assert len(results) >= 3, "the one that did not answer comes last for a while"


def test_task_with_a_timeout_for_each_try_gets_on_with_the_good_one(silent_and_good):
    good = silent_and_good[1]
    with reversing(good), Client(silent_and_good) as client:
        tasks = TaskSet(client)
        for number in range(10):
            tasks.add(Task("reverse", b"job %d" % number, retry_count=9, try_timeout_s=0.3))
        assert tasks.wait(DEADLINE_S)
        assert [task.result for task in tasks.tasks] == [(b"job %d" % number)[::-1] for number in range(10)]


def test_closed_client_tells_who_waits_for_a_silent_server():
    with silent_server() as silent:
        client = Client(silent)
        job = client.submit("reverse", b"ab")
        client.close()
        with pytest.raises(JobLost):
            job.result(DEADLINE_S)


def test_worker_of_a_silent_server_stops_when_it_is_told():
    asked = threading.Event()
    with silent_server(asked) as silent:
        worker = reversing(silent).start()
        assert asked.wait(DEADLINE_S)
        worker.stop()
        assert worker.join(DEADLINE_S)
