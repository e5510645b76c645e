"""Fifty clients and fifty workers at once, the workers dying at random."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
from collections import Counter

import pytest

from gearmand import Server
from wire import (
    CAN_DO,
    GRAB_JOB,
    JOB_ASSIGN,
    JOB_CREATED,
    NOOP,
    NO_JOB,
    PRE_SLEEP,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_STATUS,
    Closed,
    Wire,
    packet,
    status,
    wait_until,
)

CLIENTS = 50
WORKERS = 50
JOBS_A_CLIENT = 100 if os.environ.get("GEARMAND_LONG") else 20
FUNCTIONS = (b"f0", b"f1", b"f2")
DEATHS = 0.08
JOIN_S = 60.0

FOREGROUND = (SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW)
BACKGROUND = (SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG)


@pytest.fixture
def restless_interpreter():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Crowd:
    """What the threads of one run share."""

    def __init__(self, address, seed):
        self.address = address
        self.seed = seed
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.errors = []
        self.ran = Counter()
        self.background = set()
        self.deaths = 0
        # Every thread starts to work when all are there.
        self.barrier = threading.Barrier(CLIENTS + WORKERS)

    def thread(self, work, number):
        def run():
            try:
                self.barrier.wait(JOIN_S)
                work(self, number, random.Random(self.seed * 1000 + number))
            except BaseException as error:
                with self.lock:
                    self.errors.append("%s %d: %r" % (work.__name__, number, error))

        thread = threading.Thread(target=run, name="%s %d" % (work.__name__, number))
        thread.start()
        return thread


def be_a_client(crowd, number, rng):
    """Submit jobs, several at a time, and count the answers of each."""
    with Wire(crowd.address, timeout_s=JOIN_S) as wire:
        left = JOBS_A_CLIENT
        serial = 0
        while left:
            batch = min(left, rng.randrange(1, 6))
            left -= batch
            waiting = {}
            for _ in range(batch):
                workload = b"%d.%d." % (number, serial) + b"x" * rng.choice((0, 10, 2000))
                serial += 1
                background = rng.random() < 0.4
                kind = rng.choice(BACKGROUND if background else FOREGROUND)
                handle, early = submit(wire, kind, rng.choice(FUNCTIONS), workload)
                if background:
                    with crowd.lock:
                        crowd.background.add(workload)
                else:
                    waiting[handle] = workload
                for answer in early:
                    settle(waiting, *answer)
            while waiting:
                settle(waiting, *wire.receive())
        # Nothing may come for a job that is over.
        wire.echo()


def submit(wire, kind, function, workload):
    """The handle, and the packets about other jobs that came before it."""
    wire.send(kind, function, b"", workload)
    early = []
    while True:
        got, body = wire.receive()
        if got == JOB_CREATED:
            return body, early
        early.append((got, body))


def settle(waiting, kind, body):
    handle, _, data = body.partition(b"\0")
    assert handle in waiting, "packet %d for a job that is over or never was: %r" % (kind, body[:80])
    if kind == WORK_COMPLETE:
        assert data == waiting.pop(handle).upper()
    else:
        assert kind in (WORK_DATA, WORK_STATUS), (kind, body[:80])


def be_a_worker(crowd, number, rng):
    """Work, die at random, and come again, until all is over."""
    while not crowd.over.is_set():
        with Wire(crowd.address, timeout_s=0.2) as wire:
            for function in rng.sample(FUNCTIONS, rng.randrange(1, 4)):
                wire.send(CAN_DO, function)
            try:
                while not crowd.over.is_set():
                    work_once(crowd, wire, rng)
            except Died:
                with crowd.lock:
                    crowd.deaths += 1


class Died(Exception):
    pass


def work_once(crowd, wire, rng):
    if rng.random() < DEATHS / 8:
        # In the middle of a packet that would have meant something.
        die(wire, rng, packet(GRAB_JOB)[: rng.randrange(1, 12)])
    wire.send(GRAB_JOB)
    assigned = None
    while assigned is None:
        kind, body = patient(crowd, wire)
        if kind == JOB_ASSIGN:
            assigned = body
        elif kind == NO_JOB:
            wire.send(PRE_SLEEP)
            if rng.random() < DEATHS / 8:
                die(wire, rng, b"")
        elif kind == NOOP:
            wire.send(GRAB_JOB)
        elif kind is None:
            return
        else:
            raise AssertionError((kind, body))
    handle, _, workload = assigned.split(b"\0", 2)
    complete = packet(WORK_COMPLETE, handle, workload.upper())
    if rng.random() < 0.3:
        wire.send(WORK_DATA, handle, b"some")
        wire.send(WORK_STATUS, handle, b"1", b"2")
    if rng.random() < DEATHS:
        die(wire, rng, rng.choice((b"", complete[: rng.randrange(1, len(complete))])))
    with crowd.lock:
        crowd.ran[workload] += 1
    wire.send_raw(complete)


def patient(crowd, wire):
    """The next packet; (None, b"") when all is over."""
    while not crowd.over.is_set():
        try:
            return wire.receive()
        except socket.timeout:
            continue
    return None, b""


def die(wire, rng, last_words):
    try:
        wire.send_raw(last_words)
    except Closed:
        pass
    if rng.random() < 0.5:
        wire.reset_on_close()
    raise Died()


def unfinished(server):
    """How many jobs wait or run. Not those of `registry.jobs`: plain ones that wait are not among them."""
    return sum(jobs for jobs, _, _ in status(server.address).values())


@pytest.mark.parametrize("seed", (1, 2))
def test_dying_workers_lose_no_job_and_answer_none_twice(restless_interpreter, seed):
    with Server(port=0) as server:
        crowd = Crowd(server.address, seed)
        clients = [crowd.thread(be_a_client, number) for number in range(CLIENTS)]
        workers = [crowd.thread(be_a_worker, CLIENTS + number) for number in range(WORKERS)]
        ends_at = time.monotonic() + JOIN_S
        try:
            for thread in clients:
                thread.join(max(0.0, ends_at - time.monotonic()))
            stuck = [thread.name for thread in clients if thread.is_alive()]
            assert not stuck, "%s; errors: %s" % (stuck, crowd.errors[:5])
            registry = server.broker.registry
            wait_until(lambda: crowd.errors or not unfinished(server), "all background jobs are done", JOIN_S)
        finally:
            crowd.over.set()
            for thread in workers:
                thread.join(JOIN_S)
        assert not crowd.errors, crowd.errors[:5]
        assert not any(thread.is_alive() for thread in workers)
        assert crowd.deaths > 10
        assert not crowd.background - set(crowd.ran), "background jobs that never ran"
        wait_until(lambda: server.connections == 0, "all connections are gone")
        assert registry.jobs == {} and len(registry.plain) == 0
        assert registry.running == 0
        assert status(server.address) == {function.decode(): (0, 0, 0) for function in FUNCTIONS}
