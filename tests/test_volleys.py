"""Packets served together: whatever they are, what comes of them is what comes of each by itself."""

from __future__ import annotations

import random

import pytest

from gearmand import volleys
from gearmand.audit import ACCEPTED
from gearmand.dormant import JOB_BYTES
from gearmand.errors import RATE_LIMITED
from gearmand.packet_commands import serve
from gearmand.peer import Peer
from gearmand.protocol import Decoder, PacketType, pack
from gearmand.registry import Registry
from test_registry import Fake

T = PacketType


class Deaf:
    """A socket that is never sent to."""

    def fileno(self):
        return 1


def make(**rules):
    registry = Registry(b"H:test", 1, **rules)
    registry.now, registry.epoch_s = 5.0, 1_700_000_000.0
    return registry


def submissions(count, name=b"f", unique=b"", kind=T.SUBMIT_JOB_BG):
    return [(int(kind), b"\0".join((name, unique, b"%d" % number))) for number in range(count)]


def all_of(registry, party, events):
    at = 0
    while at < len(events):
        at = serve(registry, party, events, at)


def state_of(registry):
    jobs = {
        handle: (bytes(job.workload), int(job.priority), job.background, job.state, job.since, len(job.listeners or {}))
        for handle, job in registry.jobs.items()
    }
    functions = {
        name: (f.jobs, f.submitted, f.claims, [queue.live for queue in f.queues], [len(each) for each in f.unaware], len(f.sleepers))
        for name, f in registry.functions.items()
    }
    plain = [registry.plain.find(number) for number in range(1, 500)]
    return functions, registry.room, jobs, [entry and (*entry[:2], entry[3]) for entry in plain]


@pytest.fixture
def served(monkeypatch):
    """How many packets each volley served."""
    counts = []
    serve_volley = volleys.serve

    def counting(registry, peer, events, start, end):
        at = serve_volley(registry, peer, events, start, end)
        counts.append(at - start)
        return at

    monkeypatch.setattr(volleys, "serve", counting)
    return counts


# -- what goes together ---------------------------------------------------------------


@pytest.mark.parametrize("kind, priority", [(T.SUBMIT_JOB_BG, 1), (T.SUBMIT_JOB_HIGH_BG, 0), (T.SUBMIT_JOB_LOW_BG, 2)])
def test_submissions_to_one_function_go_together(served, kind, priority):
    registry, client = make(), Fake()
    assert serve(registry, client, submissions(10, kind=kind), 0) == 10
    assert served == [10]
    assert client.take() == [(T.JOB_CREATED, b"H:test:%d" % number) for number in range(1, 11)]
    assert registry.functions[b"f"].queues[priority].live == 10
    worker = Fake()
    registry.can_do(worker, b"f")
    assert [bytes(registry.grab(worker).workload) for _ in range(10)] == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("kind, priority", [(T.SUBMIT_JOB, 1), (T.SUBMIT_JOB_HIGH, 0), (T.SUBMIT_JOB_LOW, 2)])
def test_jobs_that_the_client_waits_for_go_together_too(served, kind, priority):
    registry, client, worker = make(), Fake(), Fake()
    assert serve(registry, client, submissions(10, kind=kind), 0) == 10
    assert served == [10]
    handles = [b"H:test:%d" % number for number in range(1, 11)]
    assert client.take() == [(T.JOB_CREATED, handle) for handle in handles]
    assert registry.functions[b"f"].queues[priority].live == 10
    assert [job.handle for job in client.listening] == list(registry.jobs) == handles
    registry.can_do(worker, b"f")
    for number, handle in enumerate(handles):
        job = registry.grab(worker)
        assert (job.handle, job.workload, job.background) == (handle, b"%d" % number, False)
        registry.finish(worker, handle, T.WORK_COMPLETE, handle + b"\0x")
    assert client.take() == [(T.WORK_COMPLETE, handle + b"\0x") for handle in handles] and not client.listening


def test_jobs_of_a_client_that_leaves_go_with_it(served):
    registry, client = make(), Fake()
    room = registry.room
    serve(registry, client, submissions(10, kind=T.SUBMIT_JOB), 0)
    assert registry.leave(client)
    assert not registry.jobs and registry.functions[b"f"].jobs == 0 and registry.room == room


def test_echoes_go_together(served):
    client = Fake()
    bodies = [b"a", b"", b"bc\0d", b"e"]
    assert serve(make(), client, [(int(T.ECHO_REQ), body) for body in bodies], 0) == 4
    assert served == [4] and client.take() == [(T.ECHO_RES, body) for body in bodies]


def test_volley_ends_where_another_kind_function_or_unique_begins(served):
    for other in [(int(T.ECHO_REQ), b"x"), *submissions(1, b"g"), *submissions(1, b"ff"), *submissions(1, unique=b"u"), *submissions(1, kind=T.SUBMIT_JOB)]:
        registry, client = make(), Fake()
        assert serve(registry, client, [*submissions(5), other, *submissions(5)], 0) == 11
        assert served.pop() == 5 and len(client.take()) == 11 and registry.functions[b"f"].jobs >= 10


@pytest.mark.parametrize("numbers", [(1, 8), (7, 13), (95, 105), (1020, 1030)])
def test_answers_are_whole_packets_whatever_the_length_of_handles(numbers):
    first, after = numbers
    registry = Registry(b"H:test", first)
    touched = {}
    peer = Peer(Deaf(), "127.0.0.1:1", touched, lambda peer: None, 0, True)
    serve(registry, peer, submissions(after - first), 0)
    (piece,) = peer.outbox
    assert piece == b"".join(pack(8, b"H:test:%d" % number, magic=b"\0RES") for number in range(first, after))
    assert list(touched) == [peer] and peer.waiting_bytes == len(piece)
    assert [entry[0] for number in range(first, after) for entry in [registry.plain.find(number)]] == list(range(first, after))


# -- what does not ----------------------------------------------------------------------


def limited(registry, client):
    registry.functions.limit_queue(b"f", [100, 100, 100])


def draining(registry, client):
    registry.draining = True


def audited(registry, client):
    registry.events = []


def full(registry, client):
    registry.room = 10


class Refusing:
    def submit(self, now, function):
        return RATE_LIMITED


def gated(registry, client):
    client.gate = Refusing()


@pytest.mark.parametrize("kind", [T.SUBMIT_JOB, T.SUBMIT_JOB_BG])
def test_jobs_that_nobody_has_room_for_are_refused_one_by_one(served, kind):
    registry, client = make(), Fake()
    registry.room = 3 * (JOB_BYTES + 1) - 1
    serve(registry, client, submissions(5, kind=kind), 0)
    assert served == [0] and [got for got, _ in client.take()] == [T.JOB_CREATED] * 3 + [T.ERROR] * 2


UNUSUAL = [limited, draining, audited, full, gated]


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_whatever_is_unusual_is_served_one_by_one(served, unusual):
    registry, client = make(), Fake()
    unusual(registry, client)
    assert serve(registry, client, submissions(5), 0) == 5
    assert served == [0] and len(client.take()) == 5


def test_where_background_jobs_are_stored_the_others_are_served_together(served):
    registry, client = make(), Fake()
    registry.stored = True
    serve(registry, client, submissions(5, kind=T.SUBMIT_JOB), 0)
    serve(registry, client, submissions(5, kind=T.SUBMIT_JOB_BG), 0)
    assert served == [5, 0]


def test_every_job_of_several_is_an_event_where_events_are_wanted():
    registry, client = make(), Fake()
    registry.events = []
    serve(registry, client, submissions(5), 0)
    assert [event[0] for event in registry.events] == [ACCEPTED] * 5


def test_peer_whose_grab_lingers_gets_its_answers_in_order():
    registry, peer = make(linger_s=1.0), Fake()
    registry.can_do(peer, b"g")
    peer.lingers = True
    serve(registry, peer, [(int(T.GRAB_JOB), b"")], 0)
    assert peer.lingering is not None and peer.take() == []
    serve(registry, peer, [(int(T.ECHO_REQ), b"x")] * 5, 0)
    assert [kind for kind, _ in peer.take()] == [T.NO_JOB] + [T.ECHO_RES] * 5


def test_name_that_is_too_long_is_refused(served):
    client = Fake()
    serve(make(), client, submissions(5, b"f" * 9000), 0)
    assert served == [0] and [kind for kind, _ in client.take()] == [T.ERROR] * 5


# -- the same as one by one ---------------------------------------------------------------


def random_events(chance):
    kinds = [T.SUBMIT_JOB_BG, T.SUBMIT_JOB_BG, T.SUBMIT_JOB_HIGH_BG, T.SUBMIT_JOB_LOW_BG, T.SUBMIT_JOB, T.SUBMIT_JOB_HIGH, T.ECHO_REQ, T.GET_STATUS, T.PRE_SLEEP]
    data = b""
    while len(data) < 20_000:
        kind = chance.choice(kinds)
        body = [chance.choice([b"f", b"f", b"g", b"", b"f" * 300]), chance.choice([b"", b"", b"", b"u"]), b"w" * chance.randrange(9)]
        if kind in (T.ECHO_REQ, T.GET_STATUS, T.PRE_SLEEP) or not chance.randrange(10):
            body = body[: chance.randrange(3)]
        for _ in range(chance.choice([1, 3, 5, 40])):
            data += pack(kind, *body, magic=b"\0REQ")
    return Decoder(0, 0).feed(data)


@pytest.mark.parametrize("seed", range(20))
def test_what_comes_of_them_is_the_same_as_one_by_one(monkeypatch, seed):
    found = []
    for least in (volleys.LEAST, 10**9):
        monkeypatch.setattr(volleys, "LEAST", least)
        chance = random.Random(seed)
        registry, client = make(linger_s=1.0), Fake()
        workers = [Fake() for _ in range(5)]
        for at, worker in enumerate(workers):
            registry.can_do(worker, [b"f", b"g"][at % 2])
            if at % 3:
                serve(registry, worker, [(int(T.PRE_SLEEP), b"")], 0)
        workers[4].lingers = True
        serve(registry, workers[4], [(int(T.GRAB_JOB), b"")], 0)
        all_of(registry, client, random_events(chance))
        # A worker that is given a job in the middle of many has another one.
        got = [worker.take() for worker in workers[:4]]
        found.append((client.take(), got, len(workers[4].take()), state_of(registry)[:3], [job.handle for job in client.listening]))
    assert found[0] == found[1]
