"""The committing thread, over a store that does what a test says."""

from __future__ import annotations

import threading

import pytest

from gearmand import Server
from gearmand.dormant import Wanted
from gearmand.errors import JobRefused, StoreError
from gearmand.keeper import Keeper
from gearmand.rows import Change, Limits, Notes, Row
from gearmand.sqlite_store import SqliteStore
from gearmand.store import Store
from wire import DEADLINE_S, ERROR, JOB_CREATED, SUBMIT_JOB, SUBMIT_JOB_BG, WORK_COMPLETE, Wire, wait_until

FULL = StoreError("here: database or disk is full")


def row(number):
    return Row(number, b"H:%d" % number, b"f", b"", b"", 1, None, 1.5, 0, None)


class FakeStore(Store):
    """Remembers what it was told. `plan`: by the number of the commit, counted from 0, what it raises."""

    where = "here"

    def __init__(self, plan=()):
        self.plan = dict(plan)
        self.tried = []
        self.done = []
        self.entered = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.closed = 0
        self.shrinks = []
        self.fetches = []
        self.fetch_errors = []

    def commit(self, work):
        number = len(self.tried)
        self.tried.append(work)
        self.entered.release()
        assert self.may_go_on.wait(DEADLINE_S)
        if number in self.plan:
            raise self.plan[number]
        self.done.append(work)

    def fetch(self, numbers):
        self.fetches.append(list(numbers))
        if self.fetch_errors:
            raise self.fetch_errors.pop()
        return [row(number) for number in numbers]

    def shrink(self):
        assert threading.current_thread().name == "gearmand-keeper"
        return self.shrinks.pop() if self.shrinks else False

    def close(self):
        self.closed += 1

    def stall(self):
        """Let commits wait until `may_go_on` is set."""
        self.may_go_on.clear()

    def wait_until_it_commits(self):
        assert self.entered.acquire(timeout=DEADLINE_S), "it does not commit"

    @property
    def removed(self):
        return [number for work in self.done for number in work.removed]

    @property
    def added(self):
        return [row.number for work in self.done for row in work.added]


class House:
    """A keeper over a fake store, and threads that wait for it."""

    def __init__(self, plan=()):
        self.store = FakeStore(plan)
        self.complaints = []
        self.fetched = []
        self.keeper = Keeper(self.store, self.complaints.append, lambda wanted, rows: self.fetched.append((wanted, rows)))
        self.threads = []
        self.results = {}
        self.keeper.start()

    def keep_in_a_thread(self, *numbers):
        thread = threading.Thread(target=self._keep, args=(numbers,))
        self.threads.append(thread)
        thread.start()

    def _keep(self, numbers):
        try:
            self.keeper.keep([row(number) for number in numbers])
            self.results[numbers] = None
        except StoreError as error:
            self.results[numbers] = error

    def wait_until_pending(self, count):
        wait_until(lambda: len(self.keeper._batch.rows) == count, "%d rows are pending" % count)

    def join(self):
        for thread in self.threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "keep does not return"

    def note(self, removed=(), changed=(), wanted=()):
        notes = Notes()
        notes.removed += removed
        notes.changed += changed
        notes.wanted += wanted
        self.keeper.note(notes)

    def close(self):
        self.store.may_go_on.set()
        self.keeper.stop()
        self.join()


@pytest.fixture
def make():
    houses = []

    def make(plan=()):
        houses.append(House(plan))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


def test_keep_returns_when_its_rows_are_committed(make):
    house = make()
    house.store.stall()
    house.keep_in_a_thread(1, 2)
    house.store.wait_until_it_commits()
    assert house.results == {}
    house.store.may_go_on.set()
    house.join()
    assert house.results == {(1, 2): None} and house.store.added == [1, 2]


def test_all_who_come_during_a_transaction_go_in_the_next_one(make):
    house = make()
    house.store.stall()
    house.keep_in_a_thread(0)
    house.store.wait_until_it_commits()
    for number in range(1, 51):
        house.keep_in_a_thread(number)
    house.wait_until_pending(50)
    house.store.may_go_on.set()
    house.join()
    assert [len(work.added) for work in house.store.done] == [1, 50]
    assert sorted(house.store.added) == list(range(51)) and set(house.results.values()) == {None}


def test_many_threads_need_far_fewer_transactions_than_jobs(make):
    house = make()
    barrier = threading.Barrier(20)

    def submit(first):
        barrier.wait(DEADLINE_S)
        for number in range(first, first + 50):
            house.keeper.keep([row(number)])

    threads = [threading.Thread(target=submit, args=(100 * each,)) for each in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert len(house.store.added) == len(set(house.store.added)) == 1000
    assert len(house.store.done) < 500


def test_error_reaches_exactly_those_in_the_transaction(make):
    house = make({1: FULL})
    house.store.stall()
    house.keep_in_a_thread(1)
    house.store.wait_until_it_commits()
    for number in (2, 3, 4):
        house.keep_in_a_thread(number)
    house.wait_until_pending(3)
    house.store.may_go_on.set()
    house.join()
    house.keep_in_a_thread(5)
    house.join()
    assert house.results == {(1,): None, (2,): FULL, (3,): FULL, (4,): FULL, (5,): None}
    assert house.store.added == [1, 5] and house.complaints == [FULL]


@pytest.mark.parametrize("error", [ValueError("a mistake"), OverflowError("too large"), OSError(28, "full"), MemoryError()])
def test_other_error_of_the_store_is_one_for_those_who_wait_and_the_thread_goes_on(make, error):
    house = make({0: error})
    with pytest.raises(StoreError) as caught:
        house.keeper.keep([row(1)])
    assert "here" in str(caught.value) and type(error).__name__ in str(caught.value)
    house.keeper.keep([row(2)])
    assert house.store.added == [2] and len(house.complaints) == 1


def test_ends_alone_are_committed_soon_and_together(make):
    house = make()
    for number in range(10):
        house.note(removed=[number])
    wait_until(lambda: len(house.store.removed) == 10, "they are committed")
    assert house.store.removed == list(range(10)) and len(house.store.done) <= 3


def test_ends_go_with_the_rows_of_whoever_comes_first(make):
    house = make()
    house.store.stall()
    house.keep_in_a_thread(1)
    house.store.wait_until_it_commits()
    house.note(removed=[7], changed=[Change(8, b"H:1", 1)])
    house.keeper.note_limits(Limits(b"f", 1, 2, 3))
    house.keep_in_a_thread(2)
    house.wait_until_pending(1)
    house.store.may_go_on.set()
    house.join()
    last = house.store.done[1]
    assert (last.added, last.changed, last.removed, last.limits) == ([row(2)], [Change(8, b"H:1", 1)], [7], [Limits(b"f", 1, 2, 3)])


def test_ends_are_kept_over_failures_until_they_are_stored(make):
    house = make({0: FULL, 1: FULL})
    house.note(removed=[1, 2], changed=[Change(5, b"old", 1), Change(6, b"H:6", 1)])
    house.keeper.note_limits(Limits(b"f", 1, 1, 1))
    house.store.wait_until_it_commits()
    house.note(removed=[3], changed=[Change(5, b"new", 2)])
    house.keeper.note_limits(Limits(b"f", 2, 2, 2))
    with pytest.raises(StoreError):
        house.keeper.keep([row(10)])
    house.keeper.keep([row(11)])
    (work,) = house.store.done
    assert work.added == [row(11)] and list(work.removed) == [1, 2, 3]
    assert sorted(work.changed) == [Change(5, b"new", 2), Change(6, b"H:6", 1)]
    assert work.limits == [Limits(b"f", 2, 2, 2)]


def test_ends_are_tried_again_with_nobody_waiting(make):
    house = make({0: FULL})
    house.note(removed=[1])
    wait_until(lambda: house.store.removed == [1], "it is tried again")
    assert len(house.store.tried) == 2


def test_failed_rows_are_not_tried_again(make):
    house = make({0: FULL})
    with pytest.raises(StoreError):
        house.keeper.keep([row(1)])
    house.keeper.keep([row(2)])
    assert house.store.added == [2]


def test_rows_are_tried_at_once_while_ends_pause_after_a_failure(make):
    house = make({number: FULL for number in range(5)})
    house.note(removed=[1])
    for _ in range(4):
        with pytest.raises(StoreError):
            house.keeper.keep([row(2)])
    # Ends would pause for seconds now.
    wait_until(lambda: len(house.store.tried) >= 4, "it is tried")
    while True:
        try:
            house.keeper.keep([row(3)])
            break
        except StoreError:
            pass
    assert house.store.removed == [1]


def test_stop_commits_what_is_left_and_closes_once(make):
    house = make()
    house.store.stall()
    house.keep_in_a_thread(1)
    house.store.wait_until_it_commits()
    house.keep_in_a_thread(2)
    house.wait_until_pending(1)
    house.note(removed=[9])
    stopping = threading.Thread(target=house.keeper.stop)
    stopping.start()
    wait_until(lambda: house.keeper._stopping, "it stops")
    house.store.may_go_on.set()
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()
    house.join()
    assert house.results == {(1,): None, (2,): None}
    assert (house.store.added, house.store.removed, house.store.closed) == ([1, 2], [9], 1)


def test_stop_of_a_store_that_fails_tries_once_and_ends(make):
    house = make({number: FULL for number in range(1, 10)})
    house.store.stall()
    house.keep_in_a_thread(1)
    house.store.wait_until_it_commits()
    house.note(removed=[9])
    stopping = threading.Thread(target=house.keeper.stop)
    stopping.start()
    wait_until(lambda: house.keeper._stopping, "it stops")
    house.store.may_go_on.set()
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive() and house.store.closed == 1
    assert len(house.store.tried) == 2 and house.store.removed == []


def test_keep_after_stop_is_refused(make):
    house = make()
    house.keeper.stop()
    with pytest.raises(StoreError) as caught:
        house.keeper.keep([row(1)])
    assert "stops" in str(caught.value) and house.store.tried == []


def test_stop_without_start_closes_the_store():
    store = FakeStore()
    Keeper(store, lambda error: None, lambda wanted, rows: None).stop()
    assert store.closed == 1


def test_store_shrinks_after_ends_until_there_is_no_more_to_give_back(make):
    house = make()
    house.store.shrinks = [False, True, True, True]
    house.note(removed=[1])
    wait_until(lambda: not house.store.shrinks, "it shrinks")
    house.store.shrinks = [True]
    house.keeper.keep([row(1)])
    house.keeper.keep([row(2)])
    assert house.store.shrinks == [True]


def test_rows_do_not_wait_for_a_store_that_shrinks_for_ever(make):
    house = make()
    house.store.shrinks = [True] * 10**6
    house.note(removed=[1])
    wait_until(lambda: len(house.store.shrinks) < 10**6, "it shrinks")
    house.keeper.keep([row(1)])
    assert house.store.added == [1] and house.store.shrinks
    house.store.shrinks = []


def test_wanted_rows_are_fetched_while_ends_wait(make):
    house = make()
    wanted = Wanted(b"f", 1, [3, 4])
    house.note(wanted=[wanted])
    wait_until(lambda: house.fetched, "they are fetched")
    assert house.fetched == [(wanted, [row(3), row(4)])]


@pytest.mark.parametrize("error", [FULL, ValueError("a mistake")])
def test_wanted_rows_that_cannot_be_fetched_are_wanted_again(make, error):
    house = make()
    house.store.fetch_errors = [error]
    first, second = Wanted(b"f", 1, [3, 4]), Wanted(b"g", 1, [5])
    house.note(wanted=[first, second])
    house.keeper.keep([row(1)])
    wait_until(lambda: len(house.fetched) == 2, "they are fetched")
    assert [wanted for wanted, _ in house.fetched] == [first, second]
    assert house.store.fetches == [[3, 4], [3, 4], [5]] and len(house.complaints) == 1


def test_stop_does_not_wait_for_rows_that_cannot_be_fetched(make):
    house = make()
    house.store.fetch_errors = [FULL] * 1000
    house.note(wanted=[Wanted(b"f", 1, [3])])
    wait_until(lambda: house.complaints, "it has tried")
    house.keeper.stop()
    assert house.fetched == [] and house.store.closed == 1


# -- in a server ------------------------------------------------------------------


class Patched:
    """What `SqliteStore.commit` does is a test's choice."""

    def __init__(self, monkeypatch):
        self.error = None
        self.entered = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        commit = SqliteStore.commit

        def patched(store, work):
            self.entered.release()
            assert self.may_go_on.wait(DEADLINE_S)
            if self.error is not None:
                raise self.error
            commit(store, work)

        monkeypatch.setattr(SqliteStore, "commit", patched)


@pytest.fixture
def patched(monkeypatch):
    return Patched(monkeypatch)


@pytest.fixture
def server(patched, tmp_path):
    with Server(port=0, queue=str(tmp_path / "queue.db")) as server:
        yield server
        patched.may_go_on.set()


def test_stalled_store_delays_only_those_who_wait_for_it(server, patched):
    with Wire(server.address) as waiting, Wire(server.address) as client, Wire(server.address) as worker:
        worker.can_do(b"f")
        patched.may_go_on.clear()
        waiting.send(SUBMIT_JOB_BG, b"g", b"", b"stored")
        assert patched.entered.acquire(timeout=DEADLINE_S)
        for number in range(20):
            client.send(SUBMIT_JOB, b"f", b"", b"%d" % number)
            handle, _, workload = worker.grab()
            worker.send(WORK_COMPLETE, handle, workload)
            assert client.expect(JOB_CREATED) == [handle]
            assert client.expect(WORK_COMPLETE) == [handle, b"%d" % number]
        client.echo()
        assert client.ask("maxqueue f 100") == "OK"
        waiting.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.socket.recv(1)
        waiting.socket.settimeout(DEADLINE_S)
        patched.may_go_on.set()
        waiting.expect(JOB_CREATED)


@pytest.mark.parametrize("error", [StoreError("q: disk I/O error"), ValueError("disk I/O error")])
def test_store_that_fails_refuses_with_its_reason_until_it_works(server, patched, error):
    with Wire(server.address) as client, Wire(server.address) as worker:
        worker.can_do(b"f")
        first = client.submit(b"f", b"before", kind=SUBMIT_JOB_BG)
        patched.error = error
        for number in range(3):
            client.send(SUBMIT_JOB_BG, b"f", b"", b"refused")
            code, text = client.expect(ERROR)
            assert code == b"QUEUE_ERROR" and b"could not be stored" in text and b"disk I/O error" in text
        with pytest.raises(JobRefused) as caught:
            server.submit("f", b"refused", background=True)
        assert "disk I/O error" in str(caught.value)
        # What is in memory goes on.
        assert worker.grab() == (first, b"f", b"before")
        worker.send(WORK_COMPLETE, first, b"")
        client.send(SUBMIT_JOB, b"f", b"", b"foreground")
        handle = client.expect(JOB_CREATED)[0]
        assert worker.grab() == (handle, b"f", b"foreground")
        worker.send(WORK_COMPLETE, handle, b"")
        assert client.expect(WORK_COMPLETE) == [handle, b""]
        patched.error = None
        after = client.submit(b"f", b"after", kind=SUBMIT_JOB_BG)
        assert worker.grab() == (after, b"f", b"after")
    # Of those that were stored, the one that has ended is gone all the same.
    store = server.broker.keeper._store
    server.stop()
    assert rows_in(store.where) == [after]


def test_one_pipeline_with_a_store_that_fails_is_answered_in_order(server, patched):
    with Wire(server.address) as client:
        patched.error = StoreError("q: full")
        client.send(SUBMIT_JOB_BG, b"f", b"", b"")
        client.send(SUBMIT_JOB, b"f", b"", b"")
        client.send(SUBMIT_JOB_BG, b"f", b"x" * 65, b"")
        client.send(SUBMIT_JOB_BG, b"f", b"", b"")
        assert client.expect(ERROR)[0] == b"QUEUE_ERROR"
        client.expect(JOB_CREATED)
        assert client.expect(ERROR)[0] == b"ARGUMENT_TOO_LARGE"
        assert client.expect(ERROR)[0] == b"QUEUE_ERROR"


def rows_in(path):
    store = SqliteStore(path)
    try:
        return [row.handle for row in store.load()]
    finally:
        store.close()
