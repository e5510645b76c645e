"""The committing thread: keeps the store and the registry in step, many jobs at a time.

    keep   ──▶ batch ──▶ [one transaction] ──▶ all who waited for it
    note   ──────────┘
    settle ──────────┘

While a transaction is under way the next batch gathers, so the more there are
who wait, the more go in one (group commit). What has ended or changed is noted
and goes with the next transaction; nobody waits for it, because at worst a
crash repeats a job. Only an operator's change is waited for: `settle`, after
it has been noted, returns when nothing noted before it is left.

Rows of a transaction that failed are refused. What became of them nobody knows:
a disk or a connection may have failed after they were written. So they are
removed like ends, with the next transaction. Where the cause is one row that
the store cannot take (Unstorable), the others are stored without it.

Threads: `keep`, `note` and `settle` by any, with no other lock held; `keep` and
`settle` block. Two Conditions on the one lock:

    work       Notify whenever there is something to commit, or it is to stop.
               Waited on by the committing thread.
    committed  Notify whenever a transaction has ended, well or not, and when
               the thread ends or is not waited for any longer. Waited on by
               those whose rows or notes were in it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from gearmand.dormant import Wanted
from gearmand.errors import StoreError, Unstorable
from gearmand.rows import Change, Notes, Row, Setting
from gearmand.store import Store, Work
from gearmand.tally import Histogram

# How long ends and changes may wait for company.
_GATHER_S = 0.02
# While a store fails for hours, rows that are refused are not to fill the memory.
_MOST_DOUBTFUL = 100_000
_FIRST_PAUSE_S = 0.25
# What comes of a value that a store cannot take, where it does not say so itself.
_OF_A_VALUE = (ValueError, TypeError, OverflowError)
_LONGEST_PAUSE_S = 5.0


class _Batch:
    def __init__(self) -> None:
        self.rows: List[Row] = []
        # Whether somebody waits for what is noted.
        self.settles = False
        self.done = False
        # Why rows are not stored, by their numbers; why what was noted is not.
        self.failures: Dict[int, StoreError] = {}
        self.failure: Optional[StoreError] = None


class Keeper:
    """`complain(error)`: called by the committing thread when the store has failed. `fetched`: with what was wanted."""

    def __init__(
        self, store: Store, complain: Callable[[StoreError], None], fetched: Callable[[Wanted, Sequence[Row]], None]
    ) -> None:
        self._store = store
        self._complain = complain
        self._fetched = fetched
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._committed = threading.Condition(lock)
        self._batch = _Batch()
        self._under_way = Work((), (), (), ())
        self._removed: List[int] = []
        self._changed: Dict[int, Change] = {}
        self._settings: Dict[bytes, Setting] = {}
        self._wanted: List[Wanted] = []
        # Those that could not be fetched; like ends, they wait a while after a failure.
        self._postponed: List[Wanted] = []
        # How long transactions took, and how many of them failed.
        self._commits = Histogram()
        self._failures = 0
        self._failing = False
        self._stopping = False
        self._abandoned = False
        self._closed = False
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gearmand-keeper", daemon=True)
        self._thread.start()

    def stop(self, longest_s: float) -> int:
        """Commit what is left, once, and close the store. Returns how many rows, ends and changes were not stored.

        A store that has not answered after `longest_s` is left to its thread, which closes it when it can.
        """
        with self._work:
            self._stopping = True
            self._work.notify()
        if self._thread is None:
            self._store.close()
            return 0
        self._thread.join(longest_s)
        with self._work:
            self._abandoned = True
            self._committed.notify_all()
            parts = (*self._under_way, self._batch.rows, self._removed, self._changed, self._settings)
            return sum(map(len, parts))

    def keep(self, rows: Sequence[Row]) -> Dict[int, StoreError]:
        """Return when the rows survive: those that do not by their numbers, with the reason."""
        numbers = [row.number for row in rows]
        with self._work:
            if self._stopping:
                return dict.fromkeys(numbers, StoreError("the server stops"))
            batch = self._batch
            batch.rows.extend(rows)
            self._work.notify()
            try:
                self._committed.wait_for(lambda: batch.done or self._abandoned)
            finally:
                if not batch.done:
                    # Nobody has waited to the end: it is not known whether they are stored.
                    self._removed += numbers
        if not batch.done:
            return dict.fromkeys(numbers, self._no_answer())
        failures = batch.failures
        return {number: failures[number] for number in numbers if number in failures} if failures else failures

    def note(self, notes: Notes) -> bool:
        """Jobs have ended, or become different, or something has been set: soon stored. Others are wanted from the store. False: the store is closed."""
        with self._work:
            if self._closed:
                return False
            if notes.wanted or not self._is_dirty:
                self._work.notify()
            self._wanted += notes.wanted
            self._removed += notes.removed
            for change in notes.changed:
                self._changed[change.number] = change
            for setting in notes.settings:
                self._settings[setting.key] = setting
        return True

    def settle(self) -> None:
        """Return when all that has been noted is stored. StoreError: it is not, and is tried again with each transaction to come."""
        with self._work:
            # One under way ends before this one; what fails in that is in this one again.
            batch = self._batch
            batch.settles = True
            self._work.notify()
            self._committed.wait_for(lambda: batch.done or self._abandoned or self._closed)
            if batch.failure is not None:
                raise batch.failure
            if not batch.done and (self._has_notes or not self._closed):
                raise self._no_answer()

    def _no_answer(self) -> StoreError:
        return StoreError("%s does not answer, and the server stops" % self._store.where)

    def figures(self) -> Dict[str, Any]:
        """For a person: how long transactions took, how many failed, and whether the last one did; what waits for one; the store's size."""
        with self._work:
            waiting = len(self._batch.rows) + len(self._removed) + len(self._changed)
            figures = {
                "commits": self._commits.figures(),
                "failures": self._failures,
                "failing": self._failing,
                "waiting": waiting,
            }
        return {**figures, "size_bytes": self._store.size_bytes()}

    # -- the committing thread -----------------------------------------------------

    def _run(self) -> None:
        try:
            self._commit_until_stopped()
        finally:
            self._store.close()

    def _commit_until_stopped(self) -> None:
        pause_s = 0.0
        shrinking = False
        while True:
            with self._work:
                self._work.wait_for(lambda: self._is_urgent or self._is_dirty, 0 if shrinking else None)
                if not self._is_urgent and self._is_dirty:
                    # Ends alone are in no hurry; nor are they after a failure.
                    self._work.wait_for(lambda: self._is_urgent, max(pause_s, _GATHER_S))
                batch, work = self._take()
                wanted, self._wanted = self._postponed + self._wanted, []
                stopping = self._stopping
            self._postponed = self._fetch(wanted)
            started_at = time.monotonic()
            failed = not self._commit(work, batch)
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S) if failed or self._postponed else 0.0
            if any(work) or batch.settles:
                with self._work:
                    self._commits.add(time.monotonic() - started_at)
                    self._failures += failed
                    self._failing = failed
                    self._under_way = Work((), (), (), ())
                    batch.done = True
                    self._committed.notify_all()
                shrinking = bool(work.removed) or shrinking
            elif shrinking and not stopping:
                shrinking = self._store.shrink()
            if stopping and (failed or not any(work)) and self._is_over(failed):
                return

    def _is_over(self, failed: bool) -> bool:
        """Whether to end, which it does not while there is something to commit that can be."""
        with self._work:
            self._closed = failed or not self._has_notes
            if self._closed:
                self._committed.notify_all()
            return self._closed

    def _fetch(self, wanted: List[Wanted]) -> List[Wanted]:
        """Returns those that could not be fetched."""
        for at, each in enumerate(wanted):
            try:
                rows = self._store.fetch(each.numbers)
            except Exception as error:
                self._complain(self._failure(error))
                return wanted[at:]
            self._fetched(each, rows)
        return []

    @property
    def _is_urgent(self) -> bool:
        return bool(self._stopping or self._batch.rows or self._batch.settles or self._wanted)

    @property
    def _is_dirty(self) -> bool:
        return bool(self._has_notes or self._postponed)

    @property
    def _has_notes(self) -> bool:
        return bool(self._removed or self._changed or self._settings)

    def _take(self) -> "tuple[_Batch, Work]":
        batch, self._batch = self._batch, _Batch()
        work = Work(batch.rows, list(self._changed.values()), self._removed, list(self._settings.values()))
        self._removed, self._changed, self._settings = [], {}, {}
        self._under_way = work
        return batch, work

    def _put_back(self, work: Work) -> None:
        """After a failure: what nobody waits for is for the next time, under what has been noted since."""
        self._removed = [*work.removed, *self._removed]
        if len(self._removed) < _MOST_DOUBTFUL:
            self._removed += [row.number for row in work.added]
        self._changed = {**{change.number: change for change in work.changed}, **self._changed}
        self._settings = {**{setting.key: setting for setting in work.settings}, **self._settings}

    def _commit(self, work: Work, batch: _Batch) -> bool:
        """Whether it is done, but for rows that the store cannot take; what is not stored, and why, goes into `batch`."""
        if not any(work):
            return True
        try:
            self._store.commit(work)
            return True
        except Exception as error:
            failure = self._failure(error)
        if isinstance(failure, Unstorable) and len(work.added) > 1:
            # By halves, until those that cannot be stored are alone.
            middle = len(work.added) // 2
            first = self._commit(work._replace(added=work.added[:middle]), batch)
            return self._commit(Work(work.added[middle:], (), (), ()), batch) and first
        self._complain(failure)
        batch.failures.update(dict.fromkeys([row.number for row in work.added], failure))
        if isinstance(failure, Unstorable) and work.added:
            return self._commit(work._replace(added=()), batch)
        batch.failure = failure
        with self._work:
            self._put_back(work)
        return False

    def _failure(self, error: Exception) -> StoreError:
        # What is no StoreError is a mistake of ours. Without this thread everybody would wait for ever.
        if isinstance(error, StoreError):
            return error
        kind = Unstorable if isinstance(error, _OF_A_VALUE) else StoreError
        return kind("%s: %r" % (self._store.where, error))
