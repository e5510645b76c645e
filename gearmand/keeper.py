"""The committing thread: keeps the store and the registry in step, many jobs at a time.

    keep ──▶ batch ──▶ [one transaction] ──▶ all who waited for it
    note ──────────┘

While a transaction is under way the next batch gathers, so the more there are
who wait, the more go in one (group commit). What has ended or changed is noted
and goes with the next transaction; nobody waits for it, because at worst a
crash repeats a job.

Threads: `keep` and `note` by any, with no other lock held; `keep` blocks. Two
Conditions on the one lock:

    work       Notify whenever there is something to commit, or it is to stop.
               Waited on by the committing thread.
    committed  Notify whenever a transaction has ended, well or not. Waited on
               by those whose rows were in it.
"""

from __future__ import annotations

import threading
from typing import Callable, Dict, List, Optional, Sequence

from gearmand.dormant import Wanted
from gearmand.errors import StoreError
from gearmand.rows import Change, Limits, Notes, Row
from gearmand.store import Store, Work

# How long ends and changes may wait for company.
_GATHER_S = 0.02
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0


class _Batch:
    def __init__(self) -> None:
        self.rows: List[Row] = []
        self.done = False
        self.error: Optional[StoreError] = None


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
        self._removed: List[int] = []
        self._changed: Dict[int, Change] = {}
        self._limits: Dict[bytes, Limits] = {}
        self._wanted: List[Wanted] = []
        # Those that could not be fetched; like ends, they wait a while after a failure.
        self._postponed: List[Wanted] = []
        self._stopping = False
        self._closed = False
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gearmand-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Commit what is left, once, and close the store."""
        with self._work:
            self._stopping = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()
        self._store.close()

    def keep(self, rows: Sequence[Row]) -> None:
        """Return when the rows survive. StoreError: they do not, and none of them is stored."""
        with self._work:
            if self._stopping:
                raise StoreError("the server stops")
            batch = self._batch
            batch.rows.extend(rows)
            self._work.notify()
            self._committed.wait_for(lambda: batch.done)
        if batch.error is not None:
            raise batch.error

    def note(self, notes: Notes) -> bool:
        """Jobs have ended, or become different: soon stored. Others are wanted from the store. False: the store is closed."""
        with self._work:
            if self._closed:
                return False
            if notes.wanted or not self._is_dirty:
                self._work.notify()
            self._wanted += notes.wanted
            self._removed += notes.removed
            for change in notes.changed:
                self._changed[change.number] = change
        return True

    def note_limits(self, limits: Limits) -> None:
        with self._work:
            self._limits[limits.function] = limits
            self._work.notify()

    # -- the committing thread -----------------------------------------------------

    def _run(self) -> None:
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
            error = self._commit(work) if any(work) else None
            failed = error is not None or self._postponed
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S) if failed else 0.0
            if any(work):
                with self._work:
                    if error is not None:
                        self._put_back(work)
                    batch.error = error
                    batch.done = True
                    self._committed.notify_all()
                shrinking = bool(work.removed) or shrinking
            elif shrinking and not stopping:
                shrinking = self._store.shrink()
            if stopping and (not any(work) or error is not None) and self._is_over(error is not None):
                return

    def _is_over(self, failed: bool) -> bool:
        """Whether to end, which it does not while there is something to commit that can be."""
        with self._work:
            self._closed = failed or not (self._removed or self._changed or self._limits)
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
        return bool(self._stopping or self._batch.rows or self._wanted)

    @property
    def _is_dirty(self) -> bool:
        return bool(self._removed or self._changed or self._limits or self._postponed)

    def _take(self) -> "tuple[_Batch, Work]":
        batch, self._batch = self._batch, _Batch()
        work = Work(batch.rows, list(self._changed.values()), self._removed, list(self._limits.values()))
        self._removed, self._changed, self._limits = [], {}, {}
        return batch, work

    def _put_back(self, work: Work) -> None:
        """After a failure: what nobody waits for is for the next time, under what has been noted since."""
        self._removed = [*work.removed, *self._removed]
        self._changed = {**{change.number: change for change in work.changed}, **self._changed}
        self._limits = {**{limits.function: limits for limits in work.limits}, **self._limits}

    def _commit(self, work: Work) -> Optional[StoreError]:
        try:
            self._store.commit(work)
            return None
        except Exception as error:
            failure = self._failure(error)
            self._complain(failure)
            return failure

    def _failure(self, error: Exception) -> StoreError:
        # What is no StoreError is a mistake of ours. Without this thread everybody would wait for ever.
        return error if isinstance(error, StoreError) else StoreError("%s: %r" % (self._store.where, error))
