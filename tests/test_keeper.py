"""The committing thread, over a store that does what a test says."""

from __future__ import annotations

import socket
import threading

import pytest

from gearmand import Server
from gearmand import keeper as keeper_module
from gearmand import server as server_module
from gearmand.dormant import Wanted
from gearmand.errors import JobRefused, StoreError, Unstorable
from gearmand.keeper import Keeper
from gearmand.rows import Change, Notes, Row, Setting
from gearmand.sqlite_store import SqliteStore
from gearmand.store import Store
from wire import DEADLINE_S, ERROR, JOB_CREATED, SUBMIT_JOB, SUBMIT_JOB_BG, WORK_COMPLETE, Wire, packet, status, wait_until

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
        self.unstorable = ()
        self.unstorable_error = Unstorable("here: string or blob too big")

    def commit(self, work):
        number = len(self.tried)
        self.tried.append(work)
        self.entered.release()
        assert self.may_go_on.wait(DEADLINE_S)
        if number in self.plan:
            raise self.plan[number]
        if any(row.number in self.unstorable for row in work.added):
            raise self.unstorable_error
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
        failures = self.keeper.keep([row(number) for number in numbers])
        assert not failures or sorted(failures) == list(numbers)
        self.results[numbers] = next(iter(failures.values()), None)

    def settle_in_a_thread(self):
        thread = threading.Thread(target=self._settle)
        self.threads.append(thread)
        thread.start()

    def _settle(self):
        try:
            self.results["settled"] = self.keeper.settle()
        except StoreError as error:
            self.results["settled"] = error

    def wait_until_pending(self, count):
        wait_until(lambda: len(self.keeper._batch.rows) == count, "%d rows are pending" % count)

    def join(self):
        for thread in self.threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "keep does not return"

    def note(self, removed=(), changed=(), wanted=(), settings=()):
        notes = Notes()
        notes.removed += removed
        notes.changed += changed
        notes.wanted += wanted
        notes.settings += settings
        self.keeper.note(notes)

    def close(self):
        self.store.may_go_on.set()
        self.keeper.stop(DEADLINE_S)
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


@pytest.fixture
def ends_wait(monkeypatch):
    """Ends go with what somebody waits for; on a busy machine they would go alone before, and take a number of a plan."""
    monkeypatch.setattr(keeper_module, "_GATHER_S", DEADLINE_S)


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
    (failure,) = house.keeper.keep([row(1)]).values()
    assert isinstance(failure, StoreError) and "here" in str(failure) and type(error).__name__ in str(failure)
    assert house.keeper.keep([row(2)]) == {}
    assert house.store.added == [2] and len(house.complaints) == 1


def test_ends_alone_are_committed_soon_and_together(make, monkeypatch):
    # Longer than it takes to note ten on a busy machine.
    monkeypatch.setattr(keeper_module, "_GATHER_S", 0.3)
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
    house.note(removed=[7], changed=[Change(8, b"H:1", 1, 1)])
    house.note(settings=[Setting(b"f", "[1, 2, 3]")])
    house.keep_in_a_thread(2)
    house.wait_until_pending(1)
    house.store.may_go_on.set()
    house.join()
    last = house.store.done[1]
    assert (last.added, last.changed, last.removed, last.settings) == ([row(2)], [Change(8, b"H:1", 1, 1)], [7], [Setting(b"f", "[1, 2, 3]")])


def test_ends_are_kept_over_failures_until_they_are_stored(make, monkeypatch):
    # They are tried again with the rows and not before.
    monkeypatch.setattr(keeper_module, "_FIRST_PAUSE_S", DEADLINE_S)
    monkeypatch.setattr(keeper_module, "_LONGEST_PAUSE_S", DEADLINE_S)
    house = make({0: FULL, 1: FULL})
    house.note(removed=[1, 2], changed=[Change(5, b"old", 1, 1), Change(6, b"H:6", 1, 1)])
    house.note(settings=[Setting(b"f", "[1, 1, 1]")])
    house.store.wait_until_it_commits()
    house.note(removed=[3], changed=[Change(5, b"new", 2, 1)])
    house.note(settings=[Setting(b"f", "[2, 2, 2]")])
    assert house.keeper.keep([row(10)])
    assert not house.keeper.keep([row(11)])
    (work,) = house.store.done
    assert work.added == [row(11)] and sorted(work.removed) == [1, 2, 3, 10]
    assert sorted(work.changed) == [Change(5, b"new", 2, 1), Change(6, b"H:6", 1, 1)]
    assert work.settings == [Setting(b"f", "[2, 2, 2]")]


def test_ends_are_tried_again_with_nobody_waiting(make):
    house = make({0: FULL})
    house.note(removed=[1])
    wait_until(lambda: house.store.removed == [1], "it is tried again")
    assert len(house.store.tried) == 2


def test_failed_rows_are_not_tried_again(make):
    house = make({0: FULL})
    assert house.keeper.keep([row(1)]) == {1: FULL}
    assert house.keeper.keep([row(2)]) == {}
    assert house.store.added == [2]


def test_rows_that_failed_are_removed_because_nobody_knows_what_became_of_them(make):
    house = make({0: FULL, 1: FULL})
    assert house.keeper.keep([row(1), row(2)]) == {1: FULL, 2: FULL}
    wait_until(lambda: house.store.removed == [1, 2], "they are removed, with nobody waiting")
    assert len(house.store.tried) == 3


def test_rows_that_failed_do_not_fill_the_memory(make, monkeypatch):
    monkeypatch.setattr(keeper_module, "_MOST_DOUBTFUL", 50)
    house = make({number: FULL for number in range(200)})
    for number in range(0, 1000, 10):
        assert house.keeper.keep([row(number + each) for each in range(10)])
    assert len(house.keeper._removed) <= 60


@pytest.mark.parametrize("error", [Unstorable("here: too big"), OverflowError("int too large"), TypeError("no bytes")])
def test_row_that_cannot_be_stored_takes_no_other_with_it(make, error):
    house = make()
    house.store.unstorable, house.store.unstorable_error = (25, 31), error
    house.store.stall()
    house.keep_in_a_thread(0)
    house.store.wait_until_it_commits()
    for number in range(1, 51):
        house.keep_in_a_thread(number)
    house.wait_until_pending(50)
    house.note(removed=[0])
    house.store.may_go_on.set()
    house.join()
    failed = {numbers for numbers, failure in house.results.items() if failure is not None}
    assert failed == {(25,), (31,)} and str(error.args[0]) in str(house.results[(25,)])
    assert sorted(house.store.added) == [number for number in range(51) if number not in (25, 31)]
    assert house.store.removed == [0] and len(house.complaints) == 2
    # Halves, not one by one.
    assert len(house.store.tried) < 30


def test_row_that_cannot_be_stored_is_refused_alone_among_those_of_its_peer(make):
    house = make()
    house.store.unstorable = (2,)
    house.note(removed=[9])
    assert list(house.keeper.keep([row(1), row(2), row(3)])) == [2]
    assert house.store.added == [1, 3] and house.store.removed == [9]


def test_rows_of_a_full_disk_are_not_tried_one_by_one(make):
    house = make({0: FULL})
    assert list(house.keeper.keep([row(number) for number in range(100)])) == list(range(100))
    assert [len(work.added) for work in house.store.tried[:2]] in ([100], [100, 0])


def test_half_that_fails_for_the_disk_is_refused_and_the_other_stored(make, ends_wait):
    house = make({1: FULL})
    house.store.unstorable = (4,)
    house.note(removed=[9])
    assert house.keeper.keep([row(number) for number in (1, 2, 3, 4)])[4] is house.store.unstorable_error
    # What has ended is stored with a later one.
    house.keeper.settle()
    assert house.store.added == [3] and {1, 2, 9} <= set(house.store.removed)


def test_rows_are_tried_at_once_while_ends_pause_after_a_failure(make, ends_wait):
    house = make({number: FULL for number in range(5)})
    house.note(removed=[1])
    for _ in range(4):
        assert house.keeper.keep([row(2)])
    # Ends would pause for seconds now.
    assert len(house.store.tried) == 4
    while house.keeper.keep([row(3)]):
        pass
    assert set(house.store.removed) - {3} == {1, 2}


def test_stop_commits_what_is_left_and_closes_once(make):
    house = make()
    house.store.stall()
    house.keep_in_a_thread(1)
    house.store.wait_until_it_commits()
    house.keep_in_a_thread(2)
    house.wait_until_pending(1)
    house.note(removed=[9])
    stopping = threading.Thread(target=house.keeper.stop, args=(DEADLINE_S,))
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
    left = []
    stopping = threading.Thread(target=lambda: left.append(house.keeper.stop(DEADLINE_S)))
    stopping.start()
    wait_until(lambda: house.keeper._stopping, "it stops")
    house.store.may_go_on.set()
    stopping.join(DEADLINE_S)
    assert left == [1] and house.store.closed == 1
    assert len(house.store.tried) == 2 and house.store.removed == []


def test_keep_after_stop_is_refused(make):
    house = make()
    assert house.keeper.stop(DEADLINE_S) == 0
    (failure,) = house.keeper.keep([row(1)]).values()
    assert "stops" in str(failure) and house.store.tried == []


def test_stop_without_start_closes_the_store():
    store = FakeStore()
    assert Keeper(store, lambda error: None, lambda wanted, rows: None).stop(DEADLINE_S) == 0
    assert store.closed == 1


def test_stop_of_a_store_that_does_not_answer_goes_after_a_while_and_says_what_is_left(make):
    house = make()
    house.store.stall()
    house.keep_in_a_thread(1)
    house.store.wait_until_it_commits()
    house.keep_in_a_thread(2, 3)
    house.wait_until_pending(2)
    house.note(removed=[7, 8])
    assert house.keeper.stop(0.05) == 5 and house.store.closed == 0
    house.join()
    assert "does not answer" in str(house.results[(1,)]) and "does not answer" in str(house.results[(2, 3)])
    # Should it answer after all, they are refused in the store too.
    house.store.may_go_on.set()
    wait_until(lambda: house.store.closed, "it is closed")
    assert set(house.store.added) <= set(house.store.removed)


def test_row_of_a_caller_that_is_interrupted_is_removed(make, monkeypatch):
    house = make()
    house.store.stall()

    def interrupted(predicate):
        raise KeyboardInterrupt

    monkeypatch.setattr(house.keeper._committed, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        house.keeper.keep([row(1)])
    house.store.may_go_on.set()
    wait_until(lambda: house.store.removed == [1], "it is removed")


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
    house.keeper.stop(DEADLINE_S)
    assert house.fetched == [] and house.store.closed == 1


# -- what is waited for though it is noted ------------------------------------------


def test_settle_returns_when_what_was_noted_is_stored(make):
    house = make()
    house.store.stall()
    house.note(settings=[Setting(b"a", "1")])
    house.settle_in_a_thread()
    house.store.wait_until_it_commits()
    assert house.results == {}
    house.store.may_go_on.set()
    house.join()
    assert house.results == {"settled": None}
    assert [work.settings for work in house.store.done if work.settings] == [[Setting(b"a", "1")]]


def test_settle_waits_for_what_is_under_way_and_for_what_fails_in_it(make):
    house = make({0: FULL})
    house.store.stall()
    house.note(settings=[Setting(b"a", "1")])
    house.store.wait_until_it_commits()
    house.settle_in_a_thread()
    wait_until(lambda: house.keeper._batch.settles, "it waits")
    assert house.results == {}
    house.store.may_go_on.set()
    house.join()
    # The first transaction failed, and nobody waited for it; the next one has it again.
    assert house.results == {"settled": None} and len(house.store.tried) == 2
    assert house.store.done[0].settings == [Setting(b"a", "1")]


def test_settle_says_why_what_was_noted_is_not_stored_and_it_is_stored_later(make, ends_wait):
    house = make({0: FULL, 1: FULL})
    house.note(settings=[Setting(b"a", "1")])
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            house.keeper.settle()
        assert caught.value is FULL
    house.keeper.settle()
    assert house.store.done[0].settings == [Setting(b"a", "1")]


def test_settle_is_not_concerned_by_rows_that_cannot_be_stored(make):
    house = make()
    house.store.unstorable = (1,)
    house.store.stall()
    house.keep_in_a_thread(0)
    house.store.wait_until_it_commits()
    house.keep_in_a_thread(1)
    house.wait_until_pending(1)
    house.note(settings=[Setting(b"a", "1")])
    house.settle_in_a_thread()
    house.store.may_go_on.set()
    house.join()
    assert house.results["settled"] is None and isinstance(house.results[1,], Unstorable)


def test_settle_with_nothing_noted_returns(make):
    house = make()
    house.keeper.settle()
    assert house.store.tried == []


def test_settle_after_the_stop_says_whether_all_is_stored(make):
    house = make()
    house.note(settings=[Setting(b"a", "1")])
    house.keeper.stop(DEADLINE_S)
    house.keeper.settle()
    house = make(dict.fromkeys(range(9), FULL))
    house.note(settings=[Setting(b"a", "1")])
    house.keeper.stop(DEADLINE_S)
    with pytest.raises(StoreError):
        house.keeper.settle()


def test_settle_does_not_wait_for_ever_for_a_store_that_does_not_answer(make):
    house = make()
    house.store.stall()
    house.note(settings=[Setting(b"a", "1")])
    house.settle_in_a_thread()
    house.store.wait_until_it_commits()
    house.keeper.stop(0.05)
    house.join()
    assert "does not answer" in str(house.results["settled"])


# -- in a server ------------------------------------------------------------------


class Patched:
    """What `SqliteStore.commit` does is a test's choice."""

    def __init__(self, monkeypatch):
        self.error = None
        self.entered = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        # Handles and numbers of what the store has, as a restart would find it.
        self.rows = {}
        # The same, of all times.
        self.all_rows = {}
        # Raised although everything has been done.
        self.late_error = None
        commit = SqliteStore.commit

        def patched(store, work):
            self.entered.release()
            assert self.may_go_on.wait(DEADLINE_S)
            if self.error is not None:
                raise self.error
            commit(store, work)
            self.rows = {row.number: row.handle for row in store.load()}
            self.all_rows.update(self.rows)
            if self.late_error is not None:
                raise self.late_error

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
        assert status(server.address)["f"] == (0, 0, 1)
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


@pytest.mark.parametrize(
    "line", ["policy f attempts=3", "pause function f", "maxqueue f 9", "recur r f 0 0 1 1 *", "cancel job {}", "purge f", "reprioritise job {} high"]
)
def test_change_is_answered_when_it_is_stored_and_with_the_reason_where_it_is_not(server, patched, line):
    with Wire(server.address) as wire, Wire(server.address) as other:
        line = line.format(wire.submit(b"f", kind=SUBMIT_JOB_BG).decode())
        patched.error = StoreError("q: disk I/O error")
        said = wire.ask(line)
        assert said.startswith("ERR NOT_STORED") and "disk+I/O+error" in said
        # What changes nothing has nothing to be stored.
        assert wire.ask("cancel job H:none:1").startswith("ERR UNKNOWN_JOB") and wire.ask("unrecur none").startswith("ERR UNKNOWN")
        patched.error = None
        patched.may_go_on.clear()
        other.send_raw(b"policy g attempts=4\n")
        other.socket.settimeout(0.1)
        with pytest.raises(socket.timeout):
            other.socket.recv(1)
        other.socket.settimeout(DEADLINE_S)
        patched.may_go_on.set()
        assert "attempts\t4" in other.table("policy g")


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


def test_every_handle_is_in_the_store_when_it_is_acknowledged(server, patched):
    with Wire(server.address) as listener, Wire(server.address) as first, Wire(server.address) as second:
        foreground = listener.submit(b"f", b"w", b"u")
        assert first.submit(b"f", b"w", b"u", SUBMIT_JOB_BG) == foreground
        assert foreground in patched.rows.values()
        patched.may_go_on.clear()
        for wire in (first, second):
            wire.send(SUBMIT_JOB_BG, b"f", b"new", b"w")
            wire.send(SUBMIT_JOB_BG, b"f", b"new", b"w")
        assert patched.entered.acquire(timeout=DEADLINE_S)
        joined = listener.submit(b"f", b"w", b"new")
        patched.may_go_on.set()
        for wire in (first, second, first, second):
            assert wire.expect(JOB_CREATED) == [joined] and joined in patched.rows.values()
    assert sorted(patched.rows.values()) == [foreground] + [joined] * 4


def test_unique_that_is_submitted_behind_the_end_of_its_job_is_a_new_job(server):
    with Wire(server.address) as peer:
        peer.can_do(b"f")
        for _ in range(3):
            handle = peer.submit(b"f", b"w", b"u", SUBMIT_JOB_BG)
            assert peer.grab()[0] == handle
            together(peer, (WORK_COMPLETE, handle, b""), (SUBMIT_JOB_BG, b"f", b"u", b"again"), (SUBMIT_JOB_BG, b"f", b"u", b""))
            again = peer.expect(JOB_CREATED)[0]
            assert peer.expect(JOB_CREATED) == [again] != [handle]
            assert peer.grab() == (again, b"f", b"again")
            peer.send(WORK_COMPLETE, again, b"")


def test_job_of_a_full_queue_is_never_stored(server, patched):
    with Wire(server.address) as first, Wire(server.address) as second:
        assert first.ask("maxqueue f 3") == "OK"
        patched.may_go_on.clear()
        for wire in (first, second):
            together(wire, *[(SUBMIT_JOB_BG, b"f", b"", b"w")] * 3)
        patched.may_go_on.set()
        answers = [wire.receive()[0] for wire in (first, second) for _ in range(3)]
    assert sorted(answers) == [JOB_CREATED] * 3 + [ERROR] * 3
    assert len(patched.all_rows) == 3


def test_job_of_a_draining_server_is_never_stored(server, patched):
    with Wire(server.address) as client, Wire(server.address) as worker:
        worker.can_do(b"f")
        client.submit(b"f", b"w", kind=SUBMIT_JOB_BG)
        worker.grab()
        stopping = threading.Thread(target=server.stop, args=(True,))
        stopping.start()
        wait_until(lambda: server.broker.registry.draining, "it drains")
        client.send(SUBMIT_JOB_BG, b"f", b"", b"w")
        assert client.expect(ERROR)[0] == b"SHUTTING_DOWN"
        with pytest.raises(JobRefused) as caught:
            server.submit("f", background=True)
        assert "SHUTTING_DOWN" in str(caught.value)
        assert len(patched.all_rows) == 1
        server.stop()
        stopping.join(DEADLINE_S)


def test_job_refused_because_nobody_knows_whether_it_is_stored_is_soon_not_stored(server, patched):
    with Wire(server.address) as client:
        patched.late_error = StoreError("q: disk I/O error")
        client.send(SUBMIT_JOB_BG, b"f", b"", b"refused")
        assert client.expect(ERROR)[0] == b"QUEUE_ERROR"
        patched.late_error = None
        wait_until(lambda: not patched.rows, "it is not stored")


def test_job_that_cannot_be_stored_is_refused_alone(server, monkeypatch):
    add = SqliteStore._add

    def adding(store, rows):
        add(store, [row._replace(workload=object()) if bytes(row.workload) == b"bad" else row for row in rows])

    monkeypatch.setattr(SqliteStore, "_add", adding)
    with Wire(server.address) as client:
        workloads = [b"a", b"bad", b"b", b"c"]
        together(client, *[(SUBMIT_JOB_BG, b"f", b"", workload) for workload in workloads])
        kinds = []
        for _ in workloads:
            kind, body = client.receive()
            kinds.append(kind)
        assert kinds == [JOB_CREATED, ERROR, JOB_CREATED, JOB_CREATED]


def test_stop_does_not_wait_for_ever_for_a_store_that_does_not_answer(server, patched, monkeypatch, caplog):
    monkeypatch.setattr(server_module, "_LAST_COMMIT_S", 0.1)
    monkeypatch.setattr(server_module, "_ENDING_S", 0.1)
    outcome = []

    def submit():
        try:
            server.submit("f", background=True)
        except JobRefused as error:
            outcome.append(str(error))

    patched.may_go_on.clear()
    submitting = threading.Thread(target=submit)
    submitting.start()
    assert patched.entered.acquire(timeout=DEADLINE_S)
    server.stop()
    submitting.join(DEADLINE_S)
    assert "does not answer" in outcome[0] and "changes of the queue that were not stored: 1" in caplog.text


def together(wire, *packets):
    """Send packets in one piece."""
    wire.send_raw(b"".join(packet(*each) for each in packets))


def rows_in(path):
    store = SqliteStore(path)
    try:
        return [row.handle for row in store.load()]
    finally:
        store.close()
