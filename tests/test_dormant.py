"""Stored jobs that lie in the store alone: in a registry whose store is a dictionary, and through a server."""

from __future__ import annotations

import random

import pytest

from gearmand import Client, Server, dormant, revival
from gearmand.jobs import Priority
from gearmand.registry import Registry
from gearmand.rows import Row
from peers import Crew
from test_registry import WORK_COMPLETE, worker
from wire import wait_until

ROOM_FOR_TWO = 2 * (dormant.JOB_BYTES + 1)


class Kept:
    """A registry and its store."""

    def __init__(self, kept_bytes=ROOM_FOR_TWO):
        self.registry = Registry(b"H", 1, kept_bytes=kept_bytes)
        self.registry.stored = True
        self.rows = {}

    def submit(self, workload, name=b"f", unique=b"", priority=Priority.NORMAL, due_s=None):
        number, handle = self.registry.handles.reserve(1)[0]
        row = self.rows[number] = Row(number, handle, name, unique, workload, priority, due_s, 0.0, 0, None)
        revival.submit_row(self.registry, row)
        self.settle()
        return handle

    def settle(self):
        """What the committing thread does."""
        notes, self.registry.notes = self.registry.notes, type(self.registry.notes)()
        for number in notes.removed:
            del self.rows[number]
        for wanted in notes.wanted:
            revival.awake(self.registry, wanted, [self.rows[number] for number in wanted.numbers if number in self.rows])
            self.settle()

    def work(self, party):
        """Grab a job and complete it; its workload, or `None`."""
        job = self.registry.grab(party)
        if job is None:
            return None
        workload = job.workload
        self.settle()
        self.registry.finish(party, job.handle, WORK_COMPLETE, job.handle + b"\0")
        self.settle()
        return workload


@pytest.fixture
def short_heads(monkeypatch):
    """A head runs short when it is empty, and gets three jobs then."""
    monkeypatch.setattr(dormant, "_SHORT", 0)
    monkeypatch.setattr(dormant, "_AT_ONCE", 3)


def test_jobs_beyond_the_budget_lie_down_and_come_in_order(short_heads):
    kept = Kept()
    for number in range(10):
        kept.submit(b"%d" % number)
    assert len(kept.registry.plain) == 2
    party = worker(kept.registry, b"f")
    assert [kept.work(party) for _ in range(11)] == [b"%d" % number for number in range(10)] + [None]
    assert (kept.rows, kept.registry.jobs, kept.registry.dormant.tails, kept.registry.dormant.bytes) == ({}, {}, {}, 0)
    assert kept.registry.functions[b"f"].jobs == 0


def test_jobs_that_lie_down_are_counted(short_heads):
    kept = Kept()
    for number in range(10):
        kept.submit(b"%d" % number)
    function = kept.registry.functions[b"f"]
    assert (function.jobs, kept.registry.dormant.count(function, Priority.NORMAL)) == (10, 8)


def test_function_whose_head_is_empty_gets_its_jobs_at_once(short_heads):
    kept = Kept()
    for number in range(5):
        kept.submit(b"%d" % number)
    sleeper = worker(kept.registry, b"g", asleep=True)
    kept.submit(b"g", name=b"g")
    assert len(sleeper.got) == 1 and kept.work(sleeper) == b"g"


def test_jobs_with_a_unique_or_a_due_time_stay_in_memory(short_heads):
    kept = Kept()
    for number in range(5):
        kept.submit(b"%d" % number)
    kept.submit(b"u", unique=b"u")
    kept.submit(b"d", due_s=10)
    assert (len(kept.registry.jobs), len(kept.registry.plain)) == (2, 2)


def test_dormant_job_is_known_and_can_be_cancelled(short_heads):
    kept = Kept()
    handles = [kept.submit(b"%d" % number) for number in range(6)]
    assert [revival.waits(kept.registry, handle) for handle in handles] == [True] * 6
    assert revival.cancel(kept.registry, handles[4])
    assert not revival.cancel(kept.registry, handles[4]) and not revival.waits(kept.registry, handles[4])
    kept.settle()
    party = worker(kept.registry, b"f")
    assert [kept.work(party) for _ in range(6)] == [b"0", b"1", b"2", b"3", b"5", None]
    assert kept.registry.functions[b"f"].jobs == 0


@pytest.mark.parametrize("handle", [b"", b"H", b"H:", b"H:x", b"H:99", b"other:3", b"H:03", b"H:" + b"9" * 30])
def test_handle_of_nobody_is_not_dormant(short_heads, handle):
    kept = Kept()
    for number in range(6):
        kept.submit(b"%d" % number)
    assert not revival.waits(kept.registry, handle) and not revival.cancel(kept.registry, handle)


def test_job_cancelled_on_its_way_does_not_come(short_heads):
    kept = Kept()
    handles = [kept.submit(b"%d" % number) for number in range(4)]
    party = worker(kept.registry, b"f")
    for _ in range(2):
        kept.registry.grab(party)
    (wanted,) = kept.registry.notes.wanted
    assert revival.cancel(kept.registry, handles[2])
    kept.settle()
    assert kept.work(party) == b"3" and kept.work(party) is None and wanted.numbers == [3, 4]


def test_cancelling_the_head_brings_the_tail(short_heads):
    kept = Kept()
    handles = [kept.submit(b"%d" % number) for number in range(4)]
    for handle in handles[:2]:
        revival.cancel(kept.registry, handle)
    kept.settle()
    assert kept.work(worker(kept.registry, b"f")) == b"2"


@pytest.mark.parametrize("seed", range(5))
def test_random_walk_keeps_order_and_counts(short_heads, seed):
    chance = random.Random(seed)
    kept = Kept(chance.choice([0, 600, 5000]) or 1)
    party = worker(kept.registry, b"f", b"g")
    waiting = {(name, priority): [] for name in (b"f", b"g") for priority in Priority}
    handles = {}
    for step in range(1500):
        key = chance.choice(list(waiting))
        move = chance.random()
        if move < 0.5:
            workload = b"%d" % step
            handles[workload] = kept.submit(workload, key[0], priority=key[1])
            waiting[key].append(workload)
        elif move < 0.6 and waiting[key]:
            workload = waiting[key].pop(chance.randrange(len(waiting[key])))
            assert revival.cancel(kept.registry, handles[workload])
            kept.settle()
        else:
            highest = min((k[1] for k, jobs in waiting.items() if jobs), default=None)
            firsts = {jobs[0]: jobs for k, jobs in waiting.items() if jobs and k[1] == highest}
            workload = kept.work(party)
            assert (workload is None) == (not firsts)
            if workload is not None:
                assert firsts[workload].pop(0) == workload
        assert len(kept.rows) == sum(map(len, waiting.values()))
        for name in (b"f", b"g"):
            expected = sum(len(jobs) for k, jobs in waiting.items() if k[0] == name)
            assert kept.registry.functions[name].jobs == expected


def test_server_serves_more_jobs_than_its_memory_holds(tmp_path):
    options = {"queue": str(tmp_path / "queue"), "queue_memory": 100_000, "port": 0}
    with Server(**options) as server, Client(server.address) as client:
        jobs = client.submit_many("f", [b"%d" % number for number in range(2000)], background=True)
        handles = [job.result(20) for job in jobs]
        assert client.status(handles[-1]) == (True, False, 0, 0, 0)
        assert len(server.broker.registry.jobs) < 1000
    done = []
    with Server(**options) as server, Client(server.address) as client:
        assert client.status(handles[-1]).known and len(server.broker.registry.jobs) < 1000

        def note(wire, handle, workload):
            done.append(workload)
            return b""

        with Crew(server.address, {b"f": note}):
            wait_until(lambda: len(done) == 2000, "all are done")
            wait_until(lambda: not client.status(handles[-1]).known, "the last one is gone")
    assert done == [b"%d" % number for number in range(2000)]


