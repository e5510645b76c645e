"""The one lock: everything that touches the registry goes through `turn`.

A turn decides under the lock and acts after it:

    with the lock:    set the clocks, do the work; the registry posts to peers
    without it:       flush every peer that was posted to, in the order of posting

Posting under the lock is what keeps packets in order: a WORK_COMPLETE that is
decided after a JOB_CREATED is also behind it in the outbox. Sending after the
lock is what keeps one slow socket from everybody's way.

Three Conditions on the lock:

    due        Notify whenever something may be due sooner than the clock
               thread knows. Waited on by the clock thread.
    drained    Notify whenever a draining registry may have become drained.
               Waited on by whoever stops the server gracefully.
    recurs     Notify whenever a recurring job has been set or taken in, and when
               the server stops. Waited on by the thread that submits them.

A fourth kind belongs to each in-process caller (`caller`).

Threads: any.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, TypeVar

from gearmand.audit import Event
from gearmand.courier import Courier
from gearmand.errors import not_stored
from gearmand.jobs import Job
from gearmand.keeper import Keeper
from gearmand.parties import Party
from gearmand.peer import Peer
from gearmand.registry import Registry
from gearmand.revival import Kept, expect, give_up
from gearmand.rows import Notes, Row, Submission
from gearmand.steering import sweep
from gearmand.yielding import let_others_run

Result = TypeVar("Result")

# (Measured, 20 clients that ask for tables of 500 functions and do not read them: the slowest hundredth of other clients' jobs 0.8 ms,
# with 50 rows 2.6.)
_ROWS_A_TURN = 10
# Of rows that need no turn, between which others have theirs. (Measured, one
# client that asks for tables of thousands of jobs again and again: the slowest
# hundredth of another client's jobs 0.6 ms, with a thousand rows 2.)
_ROWS_A_PIECE = 50
_JOBS_A_TURN = 500
# With more peers than this, what one turn has for one of them leaves with what
# other handlers have meanwhile, sent by one for all: once for a job, before its
# result, because a submission that a worker takes at once is for two.
# (Measured, 100 clients and 100 workers: 16 % more jobs a second than where each
# sends at once, 17 to 30 % more than where each lets the others have their
# turns and sends for itself; the slowest job 0.5 s. With 16 peers it is fewer.)
_CROWD = 40
# With more peers than this, what one turn has for several of them leaves by the
# courier, together with what other turns have: who plays many of them is then
# woken once for all of it. (Measured on a virtual machine, where waking an idle
# processor costs more than sending: `sync -c 8 -w 8` 17 % more jobs a second,
# with 32 jobs each 14 %, the slowest hundredth 0.7 of what it took; with two
# peers it is 4 % fewer, and for a turn with one alone, `drain`, 20 %.) So do
# the answers to those who ask for many things at a time, once all that can run
# have theirs. (Measured, `bg -c 16 -d 16`: a fifth more jobs a second, and where
# one sends for all another fifth.) And who waits for a job can wait: JOB_CREATED
# for its result, one of many results for others. (Measured, `sync -c 8 -w 8`:
# the slowest job 6 ms instead of 13 to 16, in four comparisons 6 % fewer to 13 %
# more jobs a second; with 32 jobs each a quarter more; with one client that has
# 32, and one worker, a sixth fewer.)
_FEW_PEERS = 4
# From how many on a peer's results can wait for each other, however few peers there are.
MANY_JOBS = 4
# For how long they can, and JOB_CREATED for the result where there are fewer. (Measured, 10 ms for JOB_CREATED instead of 2: 11 and 19 %
# more jobs a second with 50 clients and 50 workers, 2 to 8 % with 100, 2 % with 8. For results: none more.)
_RESULT_PATIENCE_S = 0.002
_CREATED_PATIENCE_S = 0.01


class Broker:
    """`clock`: monotonic seconds; `wall_clock`: seconds since 1970; `place`: takes a thread to where handlers run."""

    def __init__(
        self, registry: Registry, clock: Callable[[], float], wall_clock: Callable[[], float], place: Callable[[], None] = lambda: None
    ) -> None:
        self.registry = registry
        self.courier = Courier(place)
        self.lock = threading.Lock()
        self.due = threading.Condition(self.lock)
        self.drained = threading.Condition(self.lock)
        self.recurs = threading.Condition(self.lock)
        # The connected peers, oldest first.
        self.peers: Dict[Peer, None] = {}
        # Held by the peer that leaves just now.
        self._leaving = threading.Lock()
        # The in-process callers that wait for a job.
        self.callers: Dict[Party, None] = {}
        # Whether the server has stopped: no caller is taken any more.
        self.stopped = False
        # Where there is a store.
        self.keeper: Optional[Keeper] = None
        # Called after a turn with what became of jobs in it, where the
        # registry notes that.
        self.on_events: Callable[[List[Event]], None] = lambda events: None
        # Those that were posted to in this turn, in that order. A peer adds itself.
        self.touched: Dict[Peer, None] = {}
        # Of connections that have gone, and how many there have been.
        self.connections = self.received_bytes = self.sent_bytes = 0
        self._clock = clock
        self._wall_clock = wall_clock

    def turn(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Return `work(registry, *arguments)`, done under the lock, and send what it posted."""
        registry = self.registry
        posted: Sequence[Peer] = ()
        notes: Optional[Notes] = None
        events: Optional[List[Event]] = None
        try:
            with self.lock:
                keeper = self.keeper
                registry.now = self._clock()
                registry.epoch_s = self._wall_clock()
                try:
                    return work(registry, *arguments)
                finally:
                    if registry.sooner:
                        self.due.notify()
                    if registry.draining and registry.drained:
                        self.drained.notify_all()
                    if keeper is not None and registry.notes:
                        notes, registry.notes = registry.notes, Notes()
                    if registry.events is not None:
                        registry.asking = None
                        if registry.events:
                            events, registry.events = registry.events, []
                    if self.touched:
                        posted = list(self.touched)
                        self.touched.clear()
        finally:
            if notes is not None:
                self._note(keeper, notes)
            self._send(posted)
            if events is not None:
                self.on_events(events)

    def brief_turn(self, work: Callable[[Registry, Peer, Any], Optional[bytes]], peer: Peer, data: bytes) -> bool:
        """The same, with less around it, for work that asks for no date, makes no events, and returns its answer to the peer.

        Returns whether it did anything (`None`: it has to be done in a turn).
        The peer must not be backed up, or its answers would have to be limited.
        """
        registry, touched = self.registry, self.touched
        notes: Optional[Notes] = None
        with self.lock:
            keeper = self.keeper
            registry.now = self._clock()
            answer = work(registry, peer, data)
            if answer is None:
                return False
            if answer:
                peer.outbox.append(answer)
                peer.posted_bytes += len(answer)
            if registry.sooner:
                self.due.notify()
            if keeper is not None and registry.notes:
                notes, registry.notes = registry.notes, Notes()
            others = list(touched)
            touched.clear()
        if notes is not None:
            self._note(keeper, notes)
        if others or peer.listening or len(self.peers) > _CROWD:
            self._send([*others, peer] if answer and peer not in others else others)
        else:
            peer.flush()
        return True

    def _note(self, keeper: Keeper, notes: Notes) -> None:
        """Tell the keeper that was there in the turn, or the one that has its place since it was closed."""
        if not keeper.note(notes):
            self.keeper.note(notes)

    def _send(self, posted: Sequence[Peer]) -> None:
        """Send, now or later, what was posted to them."""
        peers = len(self.peers)
        for peer in posted:
            awaited = len(peer.listening)
            if peers > _FEW_PEERS and (awaited or len(posted) > 1):
                self.courier.give(peer, _patience_s(awaited))
            elif awaited >= MANY_JOBS:
                self.courier.give(peer)
            elif peers > (_FEW_PEERS if peer.pipelines else _CROWD):
                self.courier.send_with_others(peer)
            else:
                peer.flush()

    def rows(self, items: Callable[[Registry], Iterable[Any]], row: Callable[[Any], Optional[Sequence[Any]]]) -> Iterable[List[Any]]:
        """A table for a person, in pieces: `row` of each of `items`, those that are `None` left out.

        The items are listed in one turn and looked at in later ones, a
        few a turn, so that a table of many rows holds nobody up. So the rows are
        not all of one moment.
        """
        listed = self.turn(lambda registry: list(items(registry)))
        for at in range(0, len(listed), _ROWS_A_TURN):
            piece = listed[at : at + _ROWS_A_TURN]
            let_others_run()
            yield self.turn(lambda registry: [cells for cells in map(row, piece) if cells is not None])

    def rows_of_plain(self, row: Callable[[Job], Any]) -> Iterable[List[Any]]:
        """The same of the plain jobs, each made into a Job for `row` to look at. They do not change, so no turn is needed for that."""
        job_of = self.registry.job_of
        for at in self.turn(lambda registry: registry.plain.pieces()):
            entries = self.turn(lambda registry: registry.plain.piece(at))
            for start in range(0, len(entries), _ROWS_A_PIECE):
                let_others_run()
                yield [row(job_of(entry)) for entry in entries[start : start + _ROWS_A_PIECE]]

    def keep(self, submissions: Sequence[Submission]) -> List[Kept]:
        """Store background jobs that are to be submitted. Returns when they survive: their rows, or why they are refused.

        Every row must be given to `revival.admit`.
        """
        keeper = self.keeper
        if keeper is None:
            # It was another server's just now.
            return [None] * len(submissions)
        kept = self.turn(expect, submissions)
        rows = [each for each in kept if isinstance(each, Row)]
        try:
            failures = keeper.keep(rows) if rows else None
        except BaseException:
            # A caller in this process was interrupted.
            self.turn(give_up, rows)
            raise
        if failures:
            self.turn(give_up, [row for row in rows if row.number in failures])
            is_ours = self.keeper is keeper
            kept = [
                (not_stored(failures[each.number]) if is_ours else None)
                if isinstance(each, Row) and each.number in failures
                else each
                for each in kept
            ]
        return kept

    def settle(self) -> None:
        """Return when everything that has been changed is stored. StoreError: it is not, or not yet."""
        keeper = self.keeper
        if keeper is not None:
            keeper.settle()

    # -- peers -----------------------------------------------------------------

    def enter(self, peer: Peer) -> None:
        with self.lock:
            self.peers[peer] = None
            self.connections += 1

    def leave(self, peer: Peer) -> None:
        """The peer is gone: see `Registry.leave`. One with a great many jobs goes in several turns.

        Of many that go at once one has its first turn after the other, and the
        rest of the server has its turns between them. (Measured, 9,000
        connections that end together: the slowest of another client's jobs 4 to
        12 ms in most runs, 3 s in the worst, instead of 1 to 11 s.)
        """
        with self._leaving:
            with self.lock:
                del self.peers[peer]
                self.received_bytes += peer.received_bytes
                self.sent_bytes += peer.sent_bytes
            has_left = self._leave(peer)
            let_others_run()
        while not has_left:
            has_left = self._leave(peer)

    def _leave(self, peer: Peer) -> bool:
        # What runs when the server stops has not failed: the store has it, as it was.
        return self.stopped or self.turn(Registry.leave, peer, _JOBS_A_TURN)

    # -- time --------------------------------------------------------------------

    def run_clock(self, stopping: Callable[[], bool], longest_s: float, each_time: Callable[[], None]) -> None:
        """Do what is due when it is due, until `stopping()`. The clock thread's loop.

        At least every `longest_s` it calls `each_time`, without the lock.
        """
        while not stopping():
            self.turn(_tick)
            each_time()
            with self.lock:
                self.registry.now = self._clock()
                self.registry.epoch_s = self._wall_clock()
                wait_s = self.registry.next_due()
                wait_s = longest_s if wait_s is None else min(max(wait_s, _SHORTEST_WAIT_S), longest_s)
                self.due.wait_for(lambda: self.registry.sooner or stopping(), wait_s)

    def wait_for_recurring(self, stopping: Callable[[], bool]) -> None:
        """Return when a recurring job may be due, or `stopping()`."""
        table = self.registry.recurring
        with self.lock:
            next_s = table.next_due()
            # The calendar's clock may be set while it waits.
            wait_s = _LONGEST_SLEEP_S if next_s is None else min(max(next_s - self._wall_clock(), 0.0), _LONGEST_SLEEP_S)
            self.recurs.wait_for(
                lambda: stopping() or table.next_due() != next_s or (next_s is not None and next_s <= self._wall_clock()), wait_s
            )


_LONGEST_SLEEP_S = 60.0
# Many deadlines close together are done together.
_SHORTEST_WAIT_S = 0.005


def _patience_s(awaited: int) -> float:
    """For how long what has been posted to a peer can wait that waits for so many jobs."""
    if not awaited:
        return 0.0
    return _CREATED_PATIENCE_S if awaited < MANY_JOBS else _RESULT_PATIENCE_S


def _tick(registry: Registry) -> None:
    """What is due."""
    registry.tick()
    sweep(registry)
