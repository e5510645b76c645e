"""What one registry leaves to another, without processes: see `test_takeover` for those."""

from __future__ import annotations

import json
import time

import pytest

from gearmand import handover, steering
from gearmand.broker import Broker
from gearmand.errors import SHUTTING_DOWN, StoreError
from gearmand.handover import Gone
from gearmand.packet_commands import serve
from gearmand.policy import Burial, of_burial
from gearmand.protocol import PacketType
from gearmand.registry import Registry
from gearmand.revival import admit, expect, pass_on, status_of
from gearmand.rows import Change, Notes, Row, Submission
from gearmand.takeover import Successor, _gone_of, _message_of
from test_registry import WORK_FAIL, Fake, background, complete, foreground, make, worker

NORMAL, LOW = 1, 2
NOTHING = Gone([], {})


def row(number=7, function=b"f", unique=b"", **more):
    values = dict(workload=b"w", priority=NORMAL, due_s=None, submitted_s=1.0, retries=0, reducer=None)
    return Row(number, b"H:test:%d" % number, function, unique, **{**values, **more})


def taken_in(estate, **options):
    registry = Registry(b"H:test", 1000, **options)
    handover.take_in(registry, estate, False)
    return registry


# -- the old one -----------------------------------------------------------------------


def test_what_waits_goes_and_what_runs_or_is_waited_for_stays():
    registry = make()
    room = registry.room
    busy, client = worker(registry, b"f", b"g"), Fake()
    runs = background(registry, name=b"g")
    assert registry.grab(busy) is runs
    waited_for = foreground(registry, client)
    background(registry, unique=b"u", workload=b"1")
    plain = registry.submit_plain(b"f", b"2")
    background(registry, unique=b"v", workload=b"3", due_s=100, reducer=b"r")
    estate = handover.let_go(registry)
    assert [(each.unique, each.workload, each.due_s, each.reducer) for each in estate.moved] == [
        (b"u", b"1", None, None), (b"", b"2", None, None), (b"v", b"3", 100, b"r")
    ]  # fmt: skip
    assert estate.moved[1].handle == plain
    assert [held.handle for held in estate.held.values()] == [runs.handle]
    assert set(registry.jobs) == {runs.handle, waited_for.handle} and not len(registry.plain)
    complete(registry, busy, runs)
    assert registry.grab(busy) is waited_for
    complete(registry, busy, waited_for)
    assert registry.room == room and all(function.jobs == 0 for function in registry.functions.values())
    assert registry.notes.removed == list(estate.held)


def test_what_goes_is_no_end_for_the_store():
    registry = make()
    registry.stored = True
    registry.submit_plain(b"f", b"w", NORMAL, row(3))
    registry.submit(None, b"f", b"u", b"w", row=row(4, unique=b"u"))
    busy = worker(registry, b"g")
    runs = registry.submit(None, b"g", b"u", b"w", row=row(5, function=b"g", unique=b"u"))
    registry.submit(None, b"g", b"u", b"w", row=row(6, function=b"g", unique=b"u"))
    registry.grab(busy)
    registry.functions.limit_queue(b"f", [1, 1, 1])
    estate = handover.let_go(registry)
    assert (estate.held, estate.moved, estate.settings) == ({5: None, 6: None}, [], [])
    assert registry.notes.removed == []
    complete(registry, busy, runs)
    assert registry.notes.removed == [5, 6]


def test_dormant_jobs_go_with_the_store():
    registry = make(kept_bytes=1)
    registry.stored = True
    registry.dormant.bytes = 10
    for number in range(3, 6):
        registry.submit_plain(b"f", b"w", NORMAL, row(number))
    assert registry.functions[b"f"].jobs == 3
    handover.let_go(registry)
    assert registry.functions[b"f"].jobs == 0 and not registry.dormant.tails


def test_job_whose_handle_is_not_ours_gets_a_number():
    registry = make()
    busy = worker(registry, b"f")
    for handle in (b"H:other:5", b"strange"):
        job = background(registry)
        del registry.jobs[job.handle]
        job.handle = handle
        registry.jobs[handle] = job
    registry.grab(busy)
    estate = handover.let_go(registry)
    numbers = [*estate.held, *(each.number for each in estate.moved)]
    assert len(set(numbers)) == 2 and all(number > 0 for number in numbers)


def test_job_that_comes_back_goes_later():
    registry = make()
    busy = worker(registry, b"f")
    job = background(registry)
    registry.grab(busy)
    (number,) = handover.let_go(registry).held
    assert handover.let_go_later(registry) == NOTHING
    registry.leave(busy)
    assert handover.let_go_later(registry) == Gone([Change(number, job.handle, 1, 1)], {})
    assert registry.jobs == {} and handover.let_go_later(registry) == NOTHING


def test_party_is_done_when_nothing_of_it_runs_or_could():
    registry = make()
    client, busy, idle = Fake(), worker(registry, b"f"), worker(registry, b"h")
    job = foreground(registry, client)
    stuck = Fake()
    foreground(registry, stuck, name=b"nobody")
    handover.let_go(registry)
    assert not handover.is_done(registry, client) and not handover.is_done(registry, busy)
    assert handover.is_done(registry, idle) and handover.is_done(registry, stuck)
    registry.grab(busy)
    assert not handover.is_done(registry, client) and not handover.is_done(registry, busy)
    complete(registry, busy, job)
    assert handover.is_done(registry, client) and handover.is_done(registry, busy)


@pytest.mark.parametrize("policy, stays", [
    ({}, True), ({"rate": 0.5}, True), ({"most_running": 1}, True), ({"paused": True}, False), ({"paused": True, "rate": 0.5}, False),
])  # fmt: skip
def test_worker_stays_for_what_a_policy_holds_back_a_moment_and_not_for_what_is_paused(policy, stays):
    registry = make()
    client, busy, idle = Fake(), worker(registry, b"f"), worker(registry, b"f")
    first, second = [foreground(registry, client) for _ in range(2)]
    steering.change(registry, b"f", {**policy, "paused": False})
    assert registry.grab(busy) is first
    steering.change(registry, b"f", policy)
    handover.let_go(registry)
    # It would get nothing at this moment, but where there is no policy.
    assert handover.is_done(registry, idle) == (not stays)
    complete(registry, busy, first)
    assert handover.is_done(registry, busy) == (not stays)
    assert second.handle in registry.jobs


def test_worker_stays_for_a_job_that_backs_off_and_that_a_client_waits_for():
    registry = make()
    steering.change(registry, b"f", {"attempts": 2, "backoff_s": 60.0})
    client, party = Fake(), worker(registry, b"f")
    job = foreground(registry, client)
    registry.grab(party)
    handover.let_go(registry)
    registry.finish(party, job.handle, WORK_FAIL, job.handle)
    assert handover.let_go_later(registry) == NOTHING
    assert not handover.is_done(registry, party) and not handover.is_done(registry, client)
    registry.epoch_s += 60
    registry.tick()
    complete(registry, party, registry.grab(party))
    assert handover.is_done(registry, party) and handover.is_done(registry, client)


# -- the new one ------------------------------------------------------------------------


def test_what_was_left_is_taken_in_as_it_was():
    old = make()
    busy = worker(old, b"g")
    runs = background(old, name=b"g", unique=b"x")
    old.grab(busy)
    queued = background(old, unique=b"u", priority=LOW)
    plain = old.submit_plain(b"f", b"2")
    old.functions.limit_queue(b"f", [None, 1, None])
    registry = taken_in(handover.let_go(old), kept_bytes=1)
    assert set(registry.jobs) == {queued.handle} and len(registry.plain) == 1
    assert registry.functions[b"f"].jobs == 2 and registry.functions[b"f"].limits[NORMAL] == 1
    assert status_of(registry, plain)[:2] == (b"1", b"0") and status_of(registry, runs.handle)[:2] == (b"1", b"1")
    assert status_of(registry, b"H:test:99") == (b"0",) * 4
    other = worker(registry, b"f")
    assert [registry.grab(other).handle for _ in range(2)] == [plain, queued.handle]
    for job in list(other.running.values()):
        complete(registry, other, job)
    assert not registry.notes


@pytest.mark.parametrize("stored", [False, True])
def test_job_that_ran_there_is_taken_back_whatever_the_limit(stored):
    registry = make()
    registry.stored = stored
    registry.elsewhere[7] = row(7, unique=b"u")
    registry.functions.limit_queue(b"f", [0, 0, 0])
    handover.take_back(registry, Change(7, b"H:other:7", 2, 1))
    handover.take_back(registry, Change(7, b"H:other:7", 2, 1))
    handover.take_back(registry, Change(8, b"H:other:8", 2, 1))
    (job,) = registry.jobs.values()
    assert (job.handle, job.retries, job.rows, job.unique) == (b"H:other:7", 2, (7,) if stored else (), b"u")
    assert registry.elsewhere == {}


@pytest.mark.parametrize("stored", [False, True])
def test_job_whose_last_attempt_failed_there_is_buried_here_and_not_tried_again(stored):
    old = make()
    old.stored, old.epoch_s = stored, 1000.0
    steering.change(old, b"f", {"attempts": 2})
    old.submit(None, b"f", b"u", b"w", row=row(7, unique=b"u", retries=1))
    busy = worker(old, b"f")
    old.grab(busy)
    registry = taken_in(handover.let_go(old))
    registry.stored = stored
    if stored:
        registry.elsewhere[7] = row(7, unique=b"u", retries=1)
        steering.change(registry, b"f", {"attempts": 2})
        registry.notes.settings.clear()
    old.finish_with_exception(busy, b"H:test:7", b"H:test:7\0why \xff")
    handed = handover.let_go_later(old)
    assert handed == _gone_of(json.loads(json.dumps(_message_of(handed)))) and old.jobs == {}
    for change in handed.changes:
        handover.take_back(registry, change, handed.burials.get(change.number))
    assert registry.grab(worker(registry, b"f")) is None and registry.elsewhere == {}
    assert steering.buried(registry, b"f", 9) == [steering.Buried(b"H:test:7", b"u", 1000.0, b"why \xff", b"w")]
    assert registry.notes.changed == [Change(7, b"H:test:7", 2, 1)] * stored
    assert registry.notes.settings == [of_burial(7, Burial(1000.0, b"why \xff"))] * stored
    (job,) = registry.jobs.values()
    assert job.rows == (7,) * stored


@pytest.mark.parametrize("state", ["waits", "is being stored"])
def test_job_that_ran_there_comes_back_beside_a_later_one_of_its_unique(state):
    registry = make()
    registry.stored = True
    registry.elsewhere.update({7: row(7, unique=b"u"), 8: row(8, unique=b"u")._replace(handle=b"H:test:7")})
    registry.handles.skip(8)
    (kept,) = expect(registry, [Submission(b"f", b"u", b"later", NORMAL)])
    if state == "waits":
        admit(registry, kept)
    for number in (7, 8):
        handover.take_back(registry, Change(number, b"H:test:7", 1, 1))
    if state != "waits":
        assert admit(registry, kept) == kept.handle
    assert [registry.jobs[handle].rows for handle in (b"H:test:7", kept.handle)] == [(7, 8), (kept.number,)]
    assert registry.functions[b"f"].jobs == 2 and registry.functions[b"f"].pending == 0 and not registry.pending
    # The later one has the unique.
    assert background(registry, unique=b"u").handle == kept.handle
    party = worker(registry, b"f")
    for _ in range(2):
        complete(registry, party, registry.grab(party))
    assert not registry.jobs and not len(registry.uniques) and sorted(registry.notes.removed) == [7, 8, kept.number]


@pytest.mark.parametrize("stored", [False, True])
def test_job_that_backs_off_there_does_so_here(stored):
    old = make()
    old.stored, old.epoch_s = stored, 1000.0
    steering.change(old, b"f", {"attempts": 3, "backoff_s": 100.0})
    old.submit_plain(b"f", b"w", NORMAL, row())
    busy = worker(old, b"f")
    job = old.grab(busy)
    registry = taken_in(handover.let_go(old))
    registry.stored, registry.epoch_s = stored, 1000.0
    registry.elsewhere[7] = row()
    old.finish(busy, job.handle, WORK_FAIL, job.handle)
    (change,) = handover.let_go_later(old).changes
    assert change[:4] == (7, job.handle, 1, 1) and 1050 <= change.due_s <= 1101
    handover.take_back(registry, change)
    assert registry.jobs[job.handle].due_s == change.due_s and registry.notes.changed == [change] * stored
    registry.epoch_s = change.due_s
    registry.tick()
    assert registry.grab(worker(registry, b"f")).retries == 1


def test_attempts_that_failed_there_are_in_the_store_of_a_server_that_stops():
    registry = make()
    registry.stored = registry.draining = True
    registry.elsewhere.update({7: row(7), 8: row(8)})
    burial = Burial(1.0, b"why")
    handover.take_back(registry, Change(7, b"H:test:7", 2, 1), burial)
    handover.take_back(registry, Change(8, b"H:test:8", 0, 1))
    assert registry.jobs == {} and registry.notes.changed == [Change(7, b"H:test:7", 2, 1)]
    assert registry.notes.settings == [of_burial(7, burial)]


@pytest.mark.parametrize("stored", [False, True])
def test_job_that_ran_there_stays_in_the_store_of_a_server_that_stops(stored):
    registry = make()
    registry.stored, registry.draining = stored, True
    registry.elsewhere[7] = row(7)
    assert handover.take_back_all(registry) == 1
    assert len(registry.plain) == (0 if stored else 1) and not registry.notes


def test_job_that_ended_there_is_removed_here():
    registry = make()
    registry.stored = True
    registry.elsewhere[7] = row(7)
    handover.settle(registry, 7)
    assert registry.notes.removed == [7] and registry.elsewhere == {}


def test_job_that_ended_while_it_was_handed_over_is_removed_here():
    registry = make()
    registry.stored = True
    registry.submit_plain(b"f", b"w", NORMAL, row(7))
    handover.settle(registry, 7)
    assert registry.notes.removed == [7] and not len(registry.plain)


def test_what_is_taken_in_is_no_event():
    old = make()
    old.submit_plain(b"f", b"w")
    registry = Registry(b"H:test", 1000)
    registry.events = []
    handover.take_in(registry, handover.let_go(old), False)
    assert registry.events == [] and len(registry.plain) == 1


# -- submissions in between ----------------------------------------------------------------


def submit(kind, *arguments):
    return (int(PacketType[kind]), b"\0".join(arguments))


@pytest.mark.parametrize("kind", ["SUBMIT_JOB", "SUBMIT_JOB_BG"])
def test_submission_is_left_for_the_other_server(kind):
    registry, client = make(), Fake()
    handover.let_go(registry)
    events = [submit("ECHO_REQ", b"x"), submit(kind, b"f", b"", b""), submit("ECHO_REQ", b"y")]
    assert serve(registry, client, events, 0) == 1
    assert serve(registry, client, events, 1) == 1
    assert client.take() == [(PacketType.ECHO_RES, b"x")]


def test_question_for_a_job_that_has_gone_is_left_and_one_for_a_job_that_stays_is_answered():
    registry, client = make(), Fake()
    busy = worker(registry, b"g")
    gone, stays = background(registry), background(registry, b"g", unique=b"stays")
    registry.grab(busy)
    handover.let_go(registry)
    events = [
        submit("GET_STATUS", stays.handle),
        submit("GET_STATUS_UNIQUE", b"stays"),
        submit("GET_STATUS", gone.handle),
        submit("GET_STATUS_UNIQUE", b"gone"),
    ]
    assert serve(registry, client, events, 0) == 2
    assert [kind for kind, _ in client.take()] == [PacketType.STATUS_RES, PacketType.STATUS_RES_UNIQUE]
    assert serve(registry, client, events, 3) == 3
    # What is behind a question of a worker that runs a job may be its result.
    assert serve(registry, busy, events, 2) == 4
    handover.call_back(registry)
    assert serve(registry, client, events, 2) == 4


def test_submission_that_could_not_be_stored_because_of_it_is_left_too():
    registry, client = make(), Fake()
    events = [submit("ECHO_REQ", b"x"), submit("SUBMIT_JOB_BG", b"f", b"", b"")]
    assert serve(registry, client, events, 0, {1: None}) == 1
    assert registry.functions[b"f"].jobs == 0


def test_submission_of_who_runs_a_job_is_refused():
    registry = make()
    busy = worker(registry, b"f")
    background(registry)
    registry.grab(busy)
    handover.let_go(registry)
    for kept in ({}, {0: None}):
        busy.take()
        assert serve(registry, busy, [submit("SUBMIT_JOB_BG", b"f", b"", b"")], 0, kept) == 1
        assert busy.take() == [(PacketType.ERROR, b"\0".join(SHUTTING_DOWN))]


def test_submission_that_was_stored_just_before_is_acknowledged_and_is_the_other_servers():
    registry, client = make(), Fake()
    registry.stored = True
    (kept,) = expect(registry, [Submission(b"f", b"", b"w", NORMAL)])
    handover.let_go(registry)
    assert serve(registry, client, [submit("SUBMIT_JOB_BG", b"f", b"", b"w")], 0, {0: kept}) == 1
    assert client.take() == [(PacketType.JOB_CREATED, kept.handle)]
    function = registry.functions[b"f"]
    assert (function.jobs, function.pending, len(registry.plain)) == (0, 0, 0)
    assert expect(registry, [Submission(b"f", b"", b"w", NORMAL)]) == [None]


def test_submissions_of_one_unique_that_were_stored_just_before_are_no_longer_pending():
    registry = make()
    registry.stored = True
    kept = expect(registry, [Submission(b"f", b"u", b"w", NORMAL)] * 2)
    handover.let_go(registry)
    assert [pass_on(registry, each) for each in kept] == [kept[0].handle] * 2
    assert registry.pending == {} and registry.functions[b"f"].pending == 0 and registry.notes.removed == []


def test_submission_that_joined_a_running_job_ends_with_it():
    registry = make()
    registry.stored = True
    busy = worker(registry, b"f")
    job = registry.submit(None, b"f", b"u", b"w", row=row(7, unique=b"u"))
    registry.grab(busy)
    (kept,) = expect(registry, [Submission(b"f", b"u", b"w", NORMAL)])
    estate = handover.let_go(registry)
    assert set(estate.held) == {7, kept.number}
    assert pass_on(registry, kept) == job.handle
    complete(registry, busy, job)
    assert set(registry.notes.removed) == {7, kept.number}


def test_broker_keeps_nothing_once_the_store_is_another_servers():
    broker = Broker(make(), time.monotonic, time.time)
    submissions = [Submission(b"f", b"", b"w", NORMAL)]
    assert broker.keep(submissions) == [None]
    old, new = Closing(broker), Successor()
    broker.keeper, old.successor = old, new
    assert broker.keep(submissions) == [None]
    broker.registry.handed_over = True
    assert broker.keeper is new and broker.keep(submissions) == [None]
    assert broker.registry.functions[b"f"].pending == 0
    assert new.keep([row()]) and new.stop(1.0) == 0


class Closing:
    """A keeper that is stopped while it keeps."""

    def __init__(self, broker):
        self.broker = broker

    def keep(self, rows):
        self.broker.keeper = self.successor
        return dict.fromkeys([each.number for each in rows], StoreError("the server stops"))

    def note(self, notes):
        return False


def test_what_a_closed_keeper_does_not_take_goes_to_the_one_in_its_place():
    broker = Broker(make(), time.monotonic, time.time)
    old, new = Closing(broker), Successor()
    broker.keeper = old

    def work(registry):
        registry.notes.removed.append(7)
        broker.keeper = new

    broker.turn(work)
    assert new.taken() == [7] and new.taken() == []
    assert new.note(Notes())


def test_server_that_goes_on_after_all_has_what_it_left():
    registry = make()
    busy = worker(registry, b"g")
    runs = background(registry, name=b"g")
    registry.grab(busy)
    waits = background(registry, unique=b"u")
    estate = handover.let_go(registry)
    handover.take_in(registry, estate, True)
    handover.call_back(registry)
    assert set(registry.jobs) == {runs.handle, waits.handle} and registry.elsewhere == {}
    complete(registry, busy, runs)
    assert not registry.notes and not registry.draining
    assert background(registry).handle not in (runs.handle, waits.handle)


