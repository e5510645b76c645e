"""Rounds: what comes of a result and a grab together is what comes of each by itself."""

from __future__ import annotations

import random
import struct

import pytest

from gearmand import revival, rounds
from gearmand.dormant import JOB_BYTES
from gearmand.jobs import ENDED
from gearmand.limits import Account
from gearmand.packet_commands import BACKGROUND, COMMANDS, serve
from gearmand.policy import Policy
from gearmand.protocol import JOIN_BYTES, Decoder, PacketType, pack
from gearmand.registry import Registry
from gearmand.rows import Notes, Submission
from gearmand.tally import Tally
from test_registry import Fake

T = PacketType
GRABS = [T.GRAB_JOB, T.GRAB_JOB_UNIQ, T.GRAB_JOB_ALL]


def make(**rules):
    registry = Registry(b"H:test", 1, **rules)
    registry.now, registry.epoch_s = 5.0, 1_700_000_000.0
    return registry


def round_of(handle, data=b"done", grab=T.GRAB_JOB):
    return pack(T.WORK_COMPLETE, handle, data) + pack(grab)


def say(registry, party, data):
    """Serve packets as a handler does that knows nothing of rounds."""
    events = Decoder(0, 0).feed(data)
    assert serve(registry, party, events, 0) == len(events)


def served(registry, party, data):
    """Serve a round, and post its answer, as `Broker.brief_turn` does. False: it is left to others."""
    answer = rounds.serve(registry, party, data)
    if answer:
        magic, kind, size = struct.unpack(">4sII", answer[:12])
        assert magic == b"\0RES" and size == len(answer) - 12
        party.post(kind, answer[12:])
    return answer is not None


@pytest.fixture
def short_ways(monkeypatch):
    """How many rounds were served the short way."""
    served = []
    go_on = Tally.go_on

    def counting(tally, *durations):
        served.append(durations)
        go_on(tally, *durations)

    monkeypatch.setattr(Tally, "go_on", counting)
    return served


# -- what is a round ------------------------------------------------------------------


@pytest.mark.parametrize("grab", GRABS)
def test_round_ends_the_job_and_gives_out_the_next(short_ways, grab):
    registry, client, worker = make(), Fake(), Fake()
    first = registry.submit(client, b"f", b"one", b"a")
    registry.submit(client, b"f", b"two", b"b")
    registry.can_do(worker, b"f")
    registry.grab(worker)
    data = round_of(first.handle, grab=grab)
    assert data.startswith(rounds.BEGINNING) and data.endswith(rounds.ENDS)
    assert served(registry, worker, data) and len(short_ways) == 1
    assert (first.state, first.worker, first.workload) == (ENDED, None, b"")
    assert client.take() == [(T.WORK_COMPLETE, b"H:test:1\0done")]
    assert worker.take() == {
        T.GRAB_JOB: [(T.JOB_ASSIGN, b"H:test:2\0f\0b")],
        T.GRAB_JOB_UNIQ: [(T.JOB_ASSIGN_UNIQ, b"H:test:2\0f\0two\0b")],
        T.GRAB_JOB_ALL: [(T.JOB_ASSIGN_UNIQ, b"H:test:2\0f\0two\0b")],
    }[grab]


@pytest.mark.parametrize("grab", GRABS)
@pytest.mark.parametrize("size", [0, JOIN_BYTES - 12, JOIN_BYTES - 11, 10 * JOIN_BYTES])
def test_next_job_may_have_any_size(short_ways, grab, size):
    registry, worker = make(), Fake()
    for workload in (b"first", b"x" * size):
        registry.submit_plain(b"f", workload)
    registry.can_do(worker, b"f")
    registry.grab(worker)
    # A large one is not copied while others wait for their turns.
    answer = rounds.serve(registry, worker, round_of(b"H:test:1", grab=grab))
    assert bool(answer) == (grab == T.GRAB_JOB and len(b"H:test:2\0f\0") + size < JOIN_BYTES)
    if not answer:
        ((_, body),) = worker.take()
        assert body.startswith(b"H:test:2\0f\0") and body.endswith(b"\0" + b"x" * size)
    assert registry.jobs[b"H:test:2"].workload == b"x" * size and len(short_ways) == 1


@pytest.mark.parametrize(
    "data",
    [
        round_of(b"H:test:2"),
        round_of(b"H:other:1"),
        round_of(b""),
        pack(T.WORK_COMPLETE, b"H:test:1") + pack(T.GRAB_JOB),
        pack(T.WORK_COMPLETE, b"H:test:1", b"x" + pack(T.GRAB_JOB)),
        pack(T.WORK_COMPLETE, b"H:test:1", b"x") + pack(T.ECHO_REQ, b"y") + pack(T.GRAB_JOB),
        pack(T.WORK_COMPLETE, b"H:test:1", b"x") + pack(T.GRAB_JOB) + pack(T.GRAB_JOB),
        pack(T.GRAB_JOB)[:8].replace(b"\x09", b"\x0d") + pack(T.GRAB_JOB),
    ],
    ids=["a job that is not its own", "no job", "no handle", "no data", "data that ends like one", "something between", "two grabs", "half a packet"],
)
def test_what_looks_like_a_round_and_is_none_is_left_alone(data):
    registry, worker = make(), Fake()
    for _ in range(3):
        registry.submit_plain(b"f", b"w")
    registry.can_do(worker, b"f")
    registry.grab(worker)
    assert data.startswith(rounds.BEGINNING) and data.endswith(rounds.ENDS)
    assert not served(registry, worker, data)
    assert list(worker.running) == [b"H:test:1"] and not worker.got


def draining(registry, worker):
    registry.draining = True


def audited(registry, worker):
    registry.events = []


def unanswered(registry, worker):
    worker.lingers = True
    COMMANDS[T.GRAB_JOB][2](registry, worker, b"")


@pytest.mark.parametrize("unusual", [draining, audited, unanswered])
def test_round_that_is_for_packet_commands_is_left_alone(unusual):
    registry, worker = make(linger_s=1.0), Fake()
    registry.submit_plain(b"f", b"w")
    registry.can_do(worker, b"f")
    registry.grab(worker)
    unusual(registry, worker)
    assert not served(registry, worker, round_of(b"H:test:1"))
    assert list(worker.running) == [b"H:test:1"] and not worker.got


def test_job_that_is_used_again_has_nothing_of_the_last_one(short_ways):
    registry, worker = make(), Fake()
    registry.can_do(worker, b"f")
    registry.submit_plain(b"f", b"high", 0)
    registry.submit_plain(b"f", b"first")
    registry.grab(worker)
    registry.grab(worker)
    say(registry, worker, pack(T.WORK_STATUS, b"H:test:1", b"3", b"4"))
    registry.now += 1
    registry.submit_plain(b"f", b"second")
    registry.now += 2
    assert served(registry, worker, round_of(b"H:test:1")) and short_ways == [(3.0, 2.0)]
    job = registry.jobs[b"H:test:3"]
    assert (job.workload, job.priority, job.numerator, job.denominator, job.since) == (b"second", 1, 0, 0, registry.now)
    assert list(registry.jobs) == list(worker.running) == [b"H:test:2", b"H:test:3"]


def test_stored_jobs_go_from_the_store_as_they_end(short_ways):
    registry, worker = make(), Fake()
    registry.stored = True
    registry.can_do(worker, b"f")
    rows = revival.expect(registry, [Submission(b"f", b"", b"w" * size, 1) for size in (10, 20, 30)])
    for row in rows:
        revival.admit(registry, row)
    full = registry.dormant.bytes
    registry.grab(worker)
    assert served(registry, worker, round_of(b"H:test:1")) and registry.notes.removed == [1]
    assert registry.jobs[b"H:test:2"].rows == (2,) and registry.dormant.bytes == full - JOB_BYTES - 10
    assert served(registry, worker, round_of(b"H:test:2")) and registry.notes.removed == [1, 2]
    registry.submit(Fake(), b"f", b"", b"somebody waits for it")
    assert served(registry, worker, round_of(b"H:test:3")) and registry.notes.removed == [1, 2, 3]
    assert registry.jobs[b"H:test:4"].rows == () and registry.dormant.bytes == 0 and len(short_ways) == 3


def test_queue_with_jobs_in_the_store_alone_is_looked_after(short_ways):
    registry, worker = make(kept_bytes=1), Fake()
    registry.stored = True
    registry.can_do(worker, b"f")
    for _ in range(2):
        registry.submit(Fake(), b"f", b"", b"w")
    for row in revival.expect(registry, [Submission(b"f", b"", b"w", 1)] * 3):
        revival.admit(registry, row)
    assert registry.dormant.tails
    registry.notes = Notes()
    registry.grab(worker)
    assert served(registry, worker, round_of(b"H:test:1")) and not short_ways
    assert registry.dormant.tails or registry.notes.wanted


def test_worker_that_was_asleep_is_awake_after_a_round(short_ways):
    registry, worker, other = make(wakeups=1), Fake(), Fake()
    registry.submit_plain(b"f", b"w")
    for party in (worker, other):
        registry.can_do(party, b"f")
    registry.grab(worker)
    for party in (worker, other):
        registry.sleep(party)
    registry.submit_plain(b"f", b"w")
    assert worker.asleep and other.take() == [(T.NOOP, b"")]
    assert served(registry, worker, round_of(b"H:test:1")) and short_ways
    assert not worker.asleep
    registry.submit_plain(b"f", b"w")
    assert worker.take() == [(T.JOB_ASSIGN, b"H:test:2\0f\0w")]


def test_who_waits_for_a_plain_job_hears_of_it_after_the_next_round(short_ways):
    registry, worker, client = make(), Fake(), Fake()
    registry.can_do(worker, b"f")
    for _ in range(2):
        registry.submit_plain(b"f", b"w")
    registry.grab(worker)
    registry.awaited[2] = [client]
    assert served(registry, worker, round_of(b"H:test:1"))
    assert registry.jobs[b"H:test:2"].listeners == {client: 1} and not registry.awaited and not short_ways


# -- the same as one by one -----------------------------------------------------------


class World:
    """A registry with its parties, which are told apart by their numbers."""

    def __init__(self, seed, has_rounds):
        chance = random.Random(seed)
        rules = {
            "linger_s": chance.choice([0.0, 0.02]),
            "newest_first": chance.random() < 0.3,
            "reports_extend": chance.random() < 0.5,
            "attempts": chance.choice([None, 2]),
            "kept_bytes": chance.choice([0, 60 * JOB_BYTES]),
        }
        self.registry = make(**rules)
        self.registry.stored = chance.random() < 0.4
        self.rows = {}
        self.parties = [Fake(exceptions=bool(number % 2)) for number in range(6)]
        self.account = Account()
        self.has_rounds = has_rounds

    def number_of(self, party):
        return None if party is None else self.parties.index(party)

    def round(self, party, data):
        if not (self.has_rounds and served(self.registry, party, data)):
            say(self.registry, party, data)

    def submit(self, party, kind, name, unique, workload, *reducer):
        """As a handler does, which has the store keep background jobs first."""
        arguments = (name, unique, *reducer, workload)
        if not (self.registry.stored and kind in BACKGROUND):
            say(self.registry, party, pack(kind, *arguments))
            return
        (kept,) = revival.expect(self.registry, [BACKGROUND[kind](self.registry.epoch_s, *arguments)])
        self.rows[kept.number] = kept
        assert serve(self.registry, party, [(kind, b"\0".join(arguments))], 0, {0: kept}) == 1

    def told_the_store(self):
        """What it is told, and given what it is asked for."""
        notes, self.registry.notes = self.registry.notes, Notes()
        for wanted in notes.wanted:
            revival.awake(self.registry, wanted, [self.rows[number] for number in wanted.numbers])
        return [getattr(notes, name) for name in Notes.__slots__]

    def state(self):
        registry = self.registry
        functions = {
            name: (
                f.jobs, f.running, f.submitted, f.claims, [[self.job_of(each) for each in queue] for queue in f.queues],
                [sorted(map(self.number_of, each)) for each in f.unaware], sorted(map(self.number_of, f.sleepers)),
                f.tally and [getattr(f.tally, each) for each in Tally.__slots__[:-2]], f.tally and (f.tally.waits.figures(), f.tally.runs.figures()),
            )
            for name, f in registry.functions.items()
        }  # fmt: skip
        jobs = {handle: self.job_of(job) for handle, job in registry.jobs.items()}
        parties = [
            (
                list(party.running), [job.handle for job in party.listening], party.asleep, party.claim and party.claim.name,
                party.lingering is None, party.lingers, party.last_served, party.ready, list(party._past), party._oldest,
            )
            for party in self.parties
        ]  # fmt: skip
        return functions, jobs, parties, registry.room, registry.running, registry.next_due(), len(registry.uniques), self.account.jobs, len(registry.plain), registry.dormant.bytes

    def job_of(self, job):
        if type(job) is tuple:
            return job[0], job[1], job[3]
        listeners = [(self.number_of(party), times) for party, times in (job.listeners or {}).items()]
        return (
            job.handle, job.function.name, job.unique, bytes(job.workload), int(job.priority), job.background, job.state, self.number_of(job.worker),
            listeners, job.numerator, job.denominator, job.retries, job.reducer, job.since, job.was_reported, job.entry is None, job.rows,
        )  # fmt: skip


SUBMISSIONS = [T.SUBMIT_JOB, T.SUBMIT_JOB, *[T.SUBMIT_JOB_BG] * 6, T.SUBMIT_JOB_HIGH, T.SUBMIT_JOB_LOW, T.SUBMIT_JOB_HIGH_BG, T.SUBMIT_JOB_LOW_BG]


def step(world, chance):
    """One random event; what `chance` is asked depends on nothing that rounds could change."""
    registry = world.registry
    party = world.parties[chance.randrange(len(world.parties))]
    what = chance.choices(["round", "submit", "can", "cannot", "ask", "report", "steer", "tick", "leave"], [50, 30, 5, 0.5, 14, 4, 1, 6, 0.5])[0]
    name = chance.choice([b"f", b"f", b"g"])
    pick, more = chance.random(), chance.random()
    handles = list(party.running)
    if what == "round":
        if handles:
            world.round(party, round_of(handles[int(pick * len(handles))], grab=GRABS[int(more * 3)]))
        else:
            say(registry, party, pack(T.GRAB_JOB))
    elif what == "submit":
        for _ in range(1 + int(more * 5)):
            unique = chance.choice([b"", b"", b"u", b"v", b"-"])
            if chance.random() < 0.05:
                world.submit(party, T.SUBMIT_REDUCE_JOB_BACKGROUND, name, unique, b"w", b"r")
            else:
                world.submit(party, SUBMISSIONS[chance.randrange(len(SUBMISSIONS))], name, unique, b"w" * chance.randrange(9))
        if pick < 0.1 and registry.jobs:
            registry.load.own(world.account, next(reversed(registry.jobs)))
    elif what == "can":
        say(registry, party, pack(T.CAN_DO, name) if pick < 0.9 else pack(T.CAN_DO_TIMEOUT, name, b"2"))
    elif what == "cannot":
        say(registry, party, pack(T.CANT_DO, name))
    elif what == "ask":
        say(registry, party, [pack(T.PRE_SLEEP), pack(T.PRE_SLEEP), pack(T.GRAB_JOB), pack(T.GET_STATUS, b"H:test:%d" % int(more * 40))][int(pick * 4)])
    elif what == "report" and handles:
        handle = handles[int(pick * len(handles))]
        say(registry, party, [pack(T.WORK_STATUS, handle, b"1", b"2"), pack(T.WORK_DATA, handle, b"x"), pack(T.WORK_FAIL, handle)][int(more * 3)])
    elif what == "steer":
        if pick < 0.5:
            policy = Policy(most_running=2) if more < 0.3 else None
            if registry.functions.may_set(name):
                registry.functions.set_policy(registry.functions[name], policy)
                registry.reconsider(registry.functions[name])
        elif registry.jobs:
            registry.cancel(list(registry.jobs)[int(more * len(registry.jobs))])
    elif what == "tick":
        registry.now += more
        registry.epoch_s += more
        registry.tick()
    elif what == "leave":
        registry.leave(party)
        party.abilities.clear()


@pytest.mark.parametrize("seed", range(60))
def test_what_comes_of_them_is_the_same_as_one_by_one(short_ways, seed):
    worlds = World(seed, True), World(seed, False)
    chances = random.Random(seed), random.Random(seed)
    for number in range(600):
        for world, chance in zip(worlds, chances):
            step(world, chance)
        got = [[party.take() for party in world.parties] for world in worlds]
        assert got[0] == got[1], "seed %d, step %d" % (seed, number)
        told = [world.told_the_store() for world in worlds]
        assert told[0] == told[1], "seed %d, step %d" % (seed, number)
        states = [world.state() for world in worlds]
        assert states[0] == states[1], "seed %d, step %d" % (seed, number)
    # Where jobs lie in the store alone, all go the long way.
    assert short_ways or worlds[0].registry.dormant.tails
