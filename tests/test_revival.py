"""Background jobs between their acceptance and their acknowledgement, while they are being stored: without threads.

The store is a dictionary here, and a test says when a row is in it.
"""

from __future__ import annotations

import random

import pytest

from gearmand import revival
from gearmand.errors import QUEUE_FULL, SHUTTING_DOWN
from gearmand.jobs import RUNNING, SCHEDULED, Priority
from gearmand.registry import Registry
from gearmand.rows import Change, Row, Submission
from test_registry import WORK_COMPLETE, Fake, worker


def make(**rules):
    registry = Registry(b"H", 1, **rules)
    registry.stored = True
    return registry


def expect(registry, unique=b"", function=b"f", workload=b"w", priority=Priority.NORMAL, due_s=None):
    (kept,) = revival.expect(registry, [Submission(function, unique, workload, priority, due_s)])
    return kept


def finish(registry, party, handle):
    assert registry.finish(party, handle, WORK_COMPLETE, handle + b"\0")


def is_clean(registry):
    """Nothing is left of any job."""
    left = (registry.jobs, registry.pending, len(registry.plain), len(registry.uniques), registry.dormant.bytes)
    return left == ({}, {}, 0, 0, 0) and not any(f.jobs or f.pending or f.running for f in registry.functions.values())


def test_row_that_is_stored_becomes_a_job_of_its_handle():
    registry = make()
    row = expect(registry, b"u")
    assert row == Row(1, b"H:1", b"f", b"u", b"w", 1, None, 0.0, 0, None)
    party = worker(registry, b"f")
    assert registry.grab(party) is None
    assert revival.admit(registry, row) == b"H:1"
    job = registry.grab(party)
    assert (job.handle, job.rows) == (b"H:1", (1,))
    finish(registry, party, b"H:1")
    assert registry.notes.removed == [1] and is_clean(registry)


def test_submission_joins_a_foreground_job_in_the_store_too():
    registry = make()
    foreground = registry.submit(Fake(), b"f", b"u", b"w")
    row = expect(registry, b"u")
    assert row.handle == foreground.handle == revival.admit(registry, row) and row.number != 1
    assert foreground.rows == (row.number,) and foreground.background and not registry.notes


def test_two_that_are_stored_at_once_are_one_job():
    registry = make()
    first, second = revival.expect(registry, [Submission(b"f", b"u", b"%d" % each, 1) for each in range(2)])
    assert second.handle == first.handle and second.number != first.number
    # Whichever comes back first.
    assert revival.admit(registry, second) == first.handle == revival.admit(registry, first)
    party = worker(registry, b"f")
    assert registry.grab(party).handle == first.handle and registry.grab(party) is None
    finish(registry, party, first.handle)
    assert sorted(registry.notes.removed) == [first.number, second.number] and is_clean(registry)


def test_foreground_job_takes_the_handle_of_one_that_is_being_stored_and_waits_for_no_store():
    registry = make()
    row = expect(registry, b"u")
    listener, party = Fake(), worker(registry, b"f")
    job = registry.submit(listener, b"f", b"u", b"w")
    assert job.handle == row.handle and job.background
    assert registry.grab(party) is job
    assert revival.admit(registry, row) == job.handle
    registry.leave(listener)
    assert job.state is RUNNING and registry.functions[b"f"].jobs == 1


def test_job_that_ends_while_a_submission_to_it_is_stored_has_ended_for_it_too():
    registry = make()
    party = worker(registry, b"f")
    revival.admit(registry, expect(registry, b"u"))
    registry.grab(party)
    row = expect(registry, b"u")
    finish(registry, party, b"H:1")
    # The store may have been told before it had the row.
    assert registry.notes.removed == [1, row.number]
    registry.notes.removed.clear()
    assert revival.admit(registry, row) == b"H:1"
    assert registry.notes.removed == [row.number] and is_clean(registry)
    assert expect(registry, b"u").handle == b"H:3"


def test_row_of_an_ended_job_is_not_taken_for_the_next_one_of_its_unique():
    registry = make()
    party = worker(registry, b"f")
    revival.admit(registry, expect(registry, b"u"))
    registry.grab(party)
    late = expect(registry, b"u")
    finish(registry, party, b"H:1")
    following = expect(registry, b"u")
    assert revival.admit(registry, late) == b"H:1" and not registry.jobs
    assert revival.admit(registry, following) == b"H:3" and registry.jobs[b"H:3"].rows == (following.number,)


def test_foreground_job_that_its_client_leaves_while_a_submission_to_it_is_stored_stays():
    registry = make()
    listener = Fake()
    handle = registry.submit(listener, b"f", b"u", b"w").handle
    row = expect(registry, b"u")
    registry.leave(listener)
    assert revival.admit(registry, row) == handle and registry.jobs[handle].background


def test_attempts_that_failed_while_a_submission_was_stored_are_stored_again():
    registry = make()
    handle = revival.admit(registry, expect(registry, b"u"))
    party = worker(registry, b"f")
    registry.grab(party)
    row = expect(registry, b"u")
    registry.leave(party)
    registry.notes.changed.clear()
    revival.admit(registry, row)
    assert Change(row.number, handle, 1, 1) in registry.notes.changed
    assert expect(registry, b"u").retries == 1


def test_scheduled_submission_is_scheduled_once_it_is_stored():
    registry = make()
    row = expect(registry, b"u", due_s=50)
    revival.admit(registry, row)
    assert registry.jobs[row.handle].state is SCHEDULED


# -- what could not be stored ------------------------------------------------------


@pytest.mark.parametrize("unique", [b"", b"u"])
def test_given_up_submission_leaves_nothing(unique):
    registry = make()
    revival.give_up(registry, [expect(registry, unique)])
    assert is_clean(registry) and not registry.notes
    assert registry.functions.drop(b"f")


@pytest.mark.parametrize("first_fails", [True, False])
@pytest.mark.parametrize("failure_is_first", [True, False])
def test_of_two_of_one_unique_the_one_that_is_stored_is_the_job(first_fails, failure_is_first):
    registry = make()
    rows = [expect(registry, b"u"), expect(registry, b"u")]
    lost, kept = rows if first_fails else reversed(rows)
    moves = [lambda: revival.give_up(registry, [lost]), lambda: revival.admit(registry, kept)]
    for move in moves if failure_is_first else reversed(moves):
        move()
    job = registry.jobs[rows[0].handle]
    assert job.rows == (kept.number,) and job.background


def test_foreground_job_goes_on_without_the_submission_that_could_not_be_stored():
    registry = make()
    listener = Fake()
    job = registry.submit(listener, b"f", b"u", b"w")
    revival.give_up(registry, [expect(registry, b"u")])
    assert (job.rows, job.background) == ((), False)
    registry.leave(listener)
    assert is_clean(registry)


def test_foreground_job_that_was_left_ends_with_the_submission_that_could_not_be_stored():
    registry = make()
    listener = Fake()
    registry.submit(listener, b"f", b"u", b"w")
    row = expect(registry, b"u")
    registry.leave(listener)
    revival.give_up(registry, [row])
    assert is_clean(registry)


# -- what is refused before it is stored -------------------------------------------


def test_draining_server_refuses_before_it_stores_and_takes_what_it_has_accepted():
    registry = make()
    rows = [expect(registry), expect(registry, b"u")]
    registry.draining = True
    assert expect(registry) is expect(registry, b"u") is SHUTTING_DOWN
    assert [revival.admit(registry, row) for row in rows] == [row.handle for row in rows]


@pytest.mark.parametrize("unique", [b"", b"u"])
def test_full_queue_counts_what_is_being_stored(unique):
    registry = make()
    registry.functions.limit_queue(b"f", [None, 2, None])
    rows = [expect(registry, unique and unique + b"%d" % each) for each in range(3)]
    assert rows[2] is QUEUE_FULL
    assert registry.submit(Fake(), b"f", b"", b"w") is QUEUE_FULL and registry.submit_plain(b"f", b"w") is QUEUE_FULL
    revival.give_up(registry, rows[:1])
    assert isinstance(expect(registry), Row)
    revival.admit(registry, rows[1])
    assert expect(registry) is QUEUE_FULL


def test_what_was_accepted_is_not_refused_for_a_limit_set_meanwhile():
    registry = make()
    row = expect(registry)
    registry.functions.limit_queue(b"f", [None, 1, None])
    registry.submit_plain(b"f", b"w")
    assert revival.admit(registry, row) == row.handle and registry.functions[b"f"].jobs == 1


def test_coalesced_submissions_take_one_place_in_a_full_queue():
    registry = make()
    registry.functions.limit_queue(b"f", [None, 2, None])
    rows = [expect(registry, b"u") for _ in range(5)]
    assert registry.functions[b"f"].pending == 1
    assert registry.submit(Fake(), b"f", b"u", b"w").handle == rows[0].handle
    assert isinstance(expect(registry), Row) and expect(registry) is QUEUE_FULL


def test_function_whose_jobs_are_being_stored_is_not_dropped():
    registry = make()
    row = expect(registry)
    assert registry.functions.drop(b"f") is False
    revival.admit(registry, row)
    assert registry.functions.drop(b"f") is False


# -- handles of an earlier prefix ---------------------------------------------------


def test_dormant_job_of_an_earlier_prefix_is_known_and_can_be_cancelled():
    registry = make(kept_bytes=1)
    for number in range(1, 5):
        revival.restore(registry, Row(number, b"H:old%%host:%d" % number, b"f", b"", b"w", 1, None, 0.0, 0, None))
    assert len(registry.jobs) == 1 and registry.dormant.count(registry.functions[b"f"], 1) == 3
    assert [revival.waits(registry, b"H:old%%host:%d" % number) for number in (2, 3, 4, 5)] == [True, True, True, False]
    assert not revival.waits(registry, b"H:other:3") and not revival.cancel(registry, b"H:other:3")
    assert revival.cancel(registry, b"H:old%host:3") and not revival.waits(registry, b"H:old%host:3")
    assert registry.notes.removed == [3]


def test_plain_job_is_not_known_by_an_earlier_prefix():
    registry = make()
    assert registry.handles.recognise(b"old:1", 1)
    row = expect(registry)
    revival.admit(registry, row)
    assert revival.waits(registry, b"H:1") and not revival.waits(registry, b"old:1") and not revival.cancel(registry, b"old:1")


@pytest.mark.parametrize("handle", [b"H:old:77", b"H:old:02", b"2", b"", b"H:old:two"])
def test_row_whose_handle_does_not_say_its_number_stays_in_memory(handle):
    registry = make(kept_bytes=1)
    for row in (Row(1, b"H:1", b"f", b"", b"w", 1, None, 0.0, 0, None), Row(2, handle, b"f", b"", b"w", 1, None, 0.0, 0, None)):
        revival.restore(registry, row)
    assert registry.jobs[handle].rows == (2,) and revival.cancel(registry, handle)


# -- all of it at random ----------------------------------------------------------------


class Walk:
    """Submissions on their way to the store and back, in any order that threads may bring about."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.registry = make(attempts=3)
        self.rows = {}
        self.accepted = []
        self.stored = []
        self.acknowledged = set()
        self.ended = set()
        self.listeners = []
        self.party = worker(self.registry, b"f", b"g")
        self.running = []

    def settle(self):
        notes, self.registry.notes = self.registry.notes, type(self.registry.notes)()
        for change in notes.changed:
            if change.number in self.rows:
                self.rows[change.number] = self.rows[change.number]._replace(handle=change.handle, retries=change.retries)
        for number in notes.removed:
            self.rows.pop(number, None)

    def expect(self):
        unique = self.chance.choice([b"", b"a", b"b", b"-"])
        kept = expect(self.registry, unique, self.chance.choice([b"f", b"g"]), self.chance.choice([b"x", b"y"]))
        if isinstance(kept, Row):
            self.accepted.append(kept)

    def store(self):
        if self.accepted:
            row = self.accepted.pop(self.chance.randrange(len(self.accepted)))
            self.rows[row.number] = row
            self.stored.append(row)

    def fail(self):
        if self.accepted:
            revival.give_up(self.registry, [self.accepted.pop(self.chance.randrange(len(self.accepted)))])

    def admit(self):
        if self.stored:
            row = self.stored.pop(self.chance.randrange(len(self.stored)))
            assert revival.admit(self.registry, row) == row.handle
            self.acknowledged.add(row.handle)

    def listen(self):
        listener = Fake()
        if not isinstance(self.registry.submit(listener, self.chance.choice([b"f", b"g"]), self.chance.choice([b"a", b"b"]), b"x"), tuple):
            self.listeners.append(listener)

    def leave(self):
        if self.listeners:
            self.registry.leave(self.listeners.pop(self.chance.randrange(len(self.listeners))))

    def grab(self):
        job = self.registry.grab(self.party)
        if job is not None:
            assert job.handle not in self.ended, "it was given out after its end"
            self.running.append(job.handle)

    def finish(self):
        if self.running:
            handle = self.running.pop(self.chance.randrange(len(self.running)))
            finish(self.registry, self.party, handle)
            self.ended.add(handle)

    def check(self):
        handles = {row.handle for row in self.rows.values()}
        assert self.acknowledged - self.ended <= handles, "acknowledged, not ended, and not in the store"

    def limit(self):
        self.registry.functions.limit_queue(b"f", [None, self.chance.choice([None, 1, 5]), None])


@pytest.mark.parametrize("seed", range(20))
def test_random_walk_acknowledges_only_what_the_store_has(seed):
    walk = Walk(seed)
    moves = [walk.expect] * 4 + [walk.store] * 3 + [walk.admit] * 3 + [walk.grab, walk.finish] * 2
    moves += [walk.fail, walk.listen, walk.leave, walk.limit, walk.settle]
    for _ in range(3000):
        walk.chance.choice(moves)()
        walk.check()
    while walk.accepted:
        walk.store()
    while walk.stored:
        walk.admit()
    while walk.registry.functions[b"f"].queued or walk.registry.functions[b"g"].queued:
        walk.grab()
    while walk.running:
        walk.finish()
    while walk.listeners:
        walk.leave()
    walk.settle()
    assert is_clean(walk.registry) and walk.rows == {}
