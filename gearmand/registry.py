"""All jobs, functions and parties: decides. Pure: no lock, socket, clock or log.

Whoever calls holds the broker's lock and has set `now` and `epoch_s`. What a decision means
for a party is posted to it (`Party.post`); an expected refusal is a result.

Invariants (`tests/test_registry_walk.py` holds them after every step):

- An unfinished job is plain and in its queue (see `plain`), or it is in `jobs`
  and in exactly one place: a queue, the due times, or its worker's `running`.
- A job is kept while it is wanted (background, or somebody listens) or runs.
- A party that is asleep could grab nothing that is not already somebody's to
  grab: where a function has sleepers, at least as many parties are awake for
  it (`claims`) as it has jobs queued. A claim ends with a grab, with the
  party, or after `grace_s`, and then passes on.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import islice
from typing import Any, Optional, Union

from gearmand.audit import ABANDONED, ACCEPTED, CANCELLED, COALESCED, COMPLETED, FAILED, TIMED_OUT
from gearmand.books import WORK_FAIL, Books
from gearmand.dormant import JOB_BYTES
from gearmand.errors import MEMORY_FULL, QUEUE_FULL, SHUTTING_DOWN, Refusal
from gearmand.functions import Function, PlainEntry
from gearmand.jobs import BURIED, DUE, RUNNING, SCHEDULED, Job, Priority, Workload
from gearmand.parties import Ability, Assign, Party
from gearmand.protocol import PacketType
from gearmand.rows import Row
from gearmand.rules import Rules
from gearmand.uniques import key_of

NOOP = int(PacketType.NOOP)
WORK_COMPLETE = int(PacketType.WORK_COMPLETE)
WORK_EXCEPTION = int(PacketType.WORK_EXCEPTION)


class Registry(Books):
    """Everything that the server knows of its jobs. `rules`: fields of `Rules`."""

    def __init__(self, handle_prefix: bytes, first_number: int, **rules: Any) -> None:
        super().__init__(handle_prefix, first_number, Rules(**rules), self.grab)
        self.timeout_unit_s = self._rules.timeout_unit_s
        self._newest_first = self._rules.newest_first

    # -- clients -----------------------------------------------------------

    def submit(
        self,
        listener: Optional[Party],
        name: bytes,
        unique: bytes,
        workload: Workload,
        priority: int = Priority.NORMAL,
        due_s: Optional[int] = None,
        reducer: Optional[bytes] = None,
        row: Optional[Row] = None,
    ) -> Union[Job, Refusal]:
        """Accept a job, or join it to the unfinished one of the same function and unique.

        `listener` is told of everything that happens to it; `None` makes it a background job. `due_s`
        (seconds since 1970, in the future) holds it back until then. `row`: what the store has of it
        already, which is not refused. Returns the job, or why it was refused.
        """
        if row is None and (self.draining or self.room <= 0):
            return SHUTTING_DOWN if self.draining else MEMORY_FULL
        function = self.functions[name]
        key = key_of(unique, workload) if unique else None
        pending = None
        if key is not None:
            twin = self.uniques.find(key, function)
            if twin is not None:
                return self._coalesce(twin, listener, row)
            pending = self.pending.pop((function, key), None)
        if pending is not None:
            function.pending -= 1
            handle = pending.handle
        elif row is not None:
            handle = row.handle
        else:
            limit = function.limits[priority]
            if limit is not None and function.is_full(limit):
                return QUEUE_FULL
            handle = self.handles.new()[1]
        job = Job(handle, function, unique, workload, priority, listener is None, reducer)
        self._open(job, row)
        if pending is not None:
            # They are of this job from now on.
            job.background = True
            self.add_rows(job, pending.rows)
        elif row is not None and self._lies_down(job, row):
            return job
        self.jobs[handle] = job
        self.room -= JOB_BYTES + len(workload)
        if listener is not None:
            job.listeners = {listener: 1}
            listener.listening[job] = None
        if key is not None:
            self.uniques.add(key, job)
        if due_s is None:
            self.enqueue(job, job.since)
        else:
            job.state = SCHEDULED
            self._hold_back(job, due_s)
        return job

    def _open(self, job: Job, row: Optional[Row]) -> None:
        job.function.jobs += 1
        job.function.submitted += 1
        job.since = self.now if row is None else self.since(row)
        if self.events is not None:
            self.note(ACCEPTED, job, self.asking)

    def _lies_down(self, job: Job, row: Row) -> bool:
        """Whether the new job of that row is dormant; of one that is, the number alone is known. Else the job has the row."""
        if not row.unique and self.handles.recognise(row.handle, row.number) and self.dormant.takes(job.function, row):
            if not job.function.queues[job.priority].live:
                self.look_after(job.function, job.priority)
            return True
        job.retries = row.retries
        self.add_rows(job, (row.number,))
        return False

    def submit_plain(
        self, name: bytes, workload: bytes, priority: int = Priority.NORMAL, row: Optional[Row] = None
    ) -> Union[bytes, Refusal]:
        """Accept a plain job (see `plain`): returns its handle, or why it was refused.

        `row`: as for `submit`; its handle must be one of ours.
        """
        if row is None and (self.draining or self.room <= 0):
            return SHUTTING_DOWN if self.draining else MEMORY_FULL
        function = self.functions[name]
        queue = function.queues[priority]
        if row is None:
            limit = function.limits[priority]
            if limit is not None and function.is_full(limit):
                return QUEUE_FULL
            since = self.now
            number, handle = self.handles.new()
        else:
            since = self.since(row)
            number, handle = row.number, row.handle
        function.jobs += 1
        function.submitted += 1
        if self.events is not None:
            self.events.append((ACCEPTED, self.epoch_s, handle, name, b"", self.asking, None, False))
        if row is not None:
            if self.dormant.takes(function, row):
                if not queue.live:
                    self.look_after(function, priority)
                return handle
            self.dormant.bytes += JOB_BYTES + len(workload)
        self.room -= JOB_BYTES + len(workload)
        self.plain.add(number, workload, queue, since)
        if function.sleepers or function.unaware[priority]:
            self._make_known(function, priority)
        return handle

    def _coalesce(self, job: Job, listener: Optional[Party], row: Optional[Row]) -> Job:
        if row is None:
            job.function.counted().coalesced += 1
            if self.events is not None:
                self.note(COALESCED, job, self.asking)
        self.join(job, listener, row)
        return job

    def join(self, job: Job, listener: Optional[Party], row: Optional[Row] = None) -> None:
        """The party listens to an unfinished job too; `None`: the job becomes a background one."""
        if row is not None:
            self.add_rows(job, (row.number,))
            if (row.handle, row.retries) != (job.handle, job.retries):
                self.notes.differs(job)
        if listener is None:
            job.background = True
            return
        if job.listeners is None:
            job.listeners = {}
        job.listeners[listener] = job.listeners.get(listener, 0) + 1
        listener.listening[job] = None

    def meet(self, job: Job, number: int) -> None:
        """The job was plain, or dormant: those who wait for it are its listeners from now on."""
        for party in self.awaited.pop(number, ()):
            self.join(job, party)

    def drop_plain(self, entry: PlainEntry, what: str) -> None:
        """End a plain job; `what`: the event. Whoever waits for it is told."""
        number, workload, queue, _ = entry
        if self.events is not None:
            self.note(what, self.job_of(entry), self.asking)
        self.plain.remove(number)
        self.room += JOB_BYTES + len(workload)
        if self.stored:
            self.dormant.bytes -= JOB_BYTES + len(workload)
        assert queue.function is not None
        self.look_after(queue.function, queue.priority)
        self.drop_number(queue.function, number, self.handles.of(number))

    def drop_number(self, function: Function, number: int, handle: bytes) -> None:
        """A job that is no Job has left its queue for good."""
        function.jobs -= 1
        for party in self.awaited.pop(number, ()):
            party.post(WORK_FAIL, handle)
        self.load.disown(handle)
        self.functions.note_if_idle(function)
        if self.stored:
            self.notes.removed.append(number)

    def drop(self, job: Job, what: str) -> None:
        """End a job with WORK_FAIL; `what`: the event."""
        self._fail(job, what, self.asking)

    def cancel(self, handle: bytes) -> bool:
        """End an unfinished job with WORK_FAIL. False: there is none of that handle."""
        job = self.jobs.get(handle)
        if job is None:
            return False
        # One that is buried was counted when it failed.
        job.function.counted().cancelled += job.state is not BURIED
        if job.worker is not None and job.worker.cancellations:
            job.worker.post(WORK_FAIL, handle)
        self._fail(job, CANCELLED, self.asking)
        return True

    def abandon(self, listener: Party, job: Job) -> None:
        """Stop listening to a job; one that waits and that nobody wants any more ends."""
        del listener.listening[job]
        listeners = job.listeners
        assert listeners is not None
        del listeners[listener]
        if listeners:
            return
        job.listeners = None
        if not job.wanted and job.state is not RUNNING:
            job.function.counted().abandoned += 1
            if self.events is not None:
                self.note(ABANDONED, job, listener)
            self._end(job)

    # -- workers -----------------------------------------------------------

    def can_do(self, party: Party, name: bytes, timeout_s: Optional[float] = None) -> None:
        """The party can do a function. Said again it only changes the timeout of jobs to come; `None`: no timeout."""
        function = self.functions[name]
        if timeout_s is not None:
            timeout_s = max(timeout_s, self._rules.minimum_timeout_s)
        ability = party.abilities.get(function)
        if ability is not None:
            ability.timeout_s = timeout_s
            return
        self.load.abilities += 1
        index = next(reversed(party.by_index), 0) - 1
        party.abilities[function] = Ability(index, timeout_s)
        party.by_index[index] = function
        function.workers[party] = None
        for queue, ready, unaware in zip(function.queues, party.ready, function.unaware):
            if queue.live and function.open:
                insort(ready, index)
            else:
                unaware[party] = None
        if not party.asleep:
            party.unslept[function] = None
        elif function.queued:
            party.unslept[function] = None
            self.wakeups.rouse(party, function, self.now)
        else:
            function.sleepers[party] = None

    def cant_do(self, party: Party, name: bytes) -> None:
        """The party takes no more jobs of a function. It keeps those that it runs."""
        function = self.functions.get(name)
        if function is None:
            return
        ability = party.abilities.pop(function, None)
        if ability is None:
            return
        self.load.abilities -= 1
        del party.by_index[ability.index]
        del function.workers[party]
        for ready, unaware in zip(party.ready, function.unaware):
            if party in unaware:
                del unaware[party]
            else:
                del ready[bisect_left(ready, ability.index)]
        if party.unslept.pop(function, self) is self:
            del function.sleepers[party]
        if party.claim is function:
            self.wakeups.end_claim(party)
            self.wakeups.pass_on(function, self.now)
        self.functions.note_if_idle(function)

    def reset_abilities(self, party: Party) -> None:
        """`cant_do` of everything."""
        # Oldest first: their places in the sorted lists are at the end.
        for function in list(party.abilities):
            self.cant_do(party, function.name)

    def grab(self, party: Party) -> Optional[Job]:
        """Give the party its next job: highest priority, then its functions in turn, then first in first out."""
        party.asleep = False
        claim = party.claim
        if claim is not None:
            self.wakeups.end_claim(party)
        found = party.next_queue(self._newest_first)
        if found is None:
            return None
        function, queue, index = found
        party.last_served = index
        job = queue.pop()
        if type(job) is not Job:
            job = self.booked(job)
        if self.dormant.tails:
            self.look_after(function, job.priority)
        self._assign(job, party)
        if claim is not None and claim is not function:
            self.wakeups.pass_on(claim, self.now)
        return job

    def booked(self, entry: PlainEntry) -> Job:
        """A plain job that has just left its queue for a worker, as a Job on the books."""
        self.plain.forget(entry[0])
        job = self.job_of(entry)
        self.jobs[job.handle] = job
        if self.awaited:
            self.meet(job, entry[0])
        return job

    def sleep(self, party: Party) -> None:
        """The party waits for a NOOP: it comes at once where there is work, else when there is."""
        if party.next_queue(self._newest_first) is not None:
            party.post(NOOP, b"")
            return
        if party.claim is not None:
            self.wakeups.end_claim(party)
        party.idle_since = self.now
        self._lie_down(party)

    def linger(self, party: Party, assign: Assign) -> bool:
        """After a `grab` that found nothing: whether its answer is put off (see `wakeups`).

        It comes by `assign`, or as NO_JOB. Whatever else the party asks for
        needs `end_linger` first: answers go out in the order of the questions.
        """
        if not party.lingers:
            return False
        self.wakeups.linger(party, assign, self.now)
        self._lie_down(party)
        return True

    def end_linger(self, party: Party) -> None:
        """The party gets NO_JOB at once, if it lingers."""
        self.wakeups.end_linger(party)

    def _lie_down(self, party: Party) -> None:
        party.asleep = True
        for function in party.unslept:
            function.sleepers[party] = None
        party.unslept.clear()

    def leave(self, party: Party, most: Optional[int] = None) -> bool:
        """The party is gone: what it ran is given out again, what only it waited for is dropped.

        Stops after about `most` jobs and returns whether it is done; else it
        has to be called again.
        """
        party.lingering = None
        self.reset_abilities(party)
        # What it ran for itself alone is nobody's, so not to be given out again.
        for job in list(islice(party.listening, most)):
            self.abandon(party, job)
        if not party.listening:
            for job in list(islice(party.running.values(), most)):
                self._lose(job)
        return not party.running and not party.listening

    # -- reports of workers --------------------------------------------------
    # Each returns False where the party has nothing to do with the job; True
    # also where a report comes too late to count.

    def relay(self, party: Party, handle: bytes, kind: int, body: Workload) -> bool:
        """Data or a warning, for the job's listeners."""
        job = self._held(party, handle)
        if job is None:
            return party.held(handle)
        self.tell(job, kind, body)
        return True

    def progress(self, party: Party, handle: bytes, numerator: int, denominator: int, kind: int, body: Workload) -> bool:
        """How far a job is, for its listeners and for whoever asks later."""
        job = self._held(party, handle)
        if job is None:
            return party.held(handle)
        job.numerator = numerator
        job.denominator = denominator
        self.tell(job, kind, body)
        return True

    def finish(self, party: Party, handle: bytes, kind: int, body: Workload) -> bool:
        """The job's end, complete or failed, for its listeners."""
        job = party.running.get(handle)
        if job is None or job.entry is not None:
            job = self._held(party, handle)
            if job is None:
                return party.held(handle)
        tally = job.function.tally or job.function.counted()
        tally.runs.add(self.now - job.since)
        if kind != WORK_COMPLETE and self._has_another_attempt(job):
            return True
        if job.listeners is not None:
            self.tell(job, kind, body)
        if self.events is not None:
            self.note(COMPLETED if kind == WORK_COMPLETE else FAILED, job, party)
        if kind == WORK_COMPLETE:
            tally.completed += 1
            if job.function.policy is not None:
                self.keep_result(job, "complete", body[len(handle) + 1 :])
            self._end(job)
        else:
            tally.failed += 1
            self.note_failure(job, "failed", b"")
            self.keep_result(job, "fail", b"")
            self._bury_or_end(job, b"")
        return True

    def _has_another_attempt(self, job: Job) -> bool:
        """After a failure that a worker reported: whether the function has attempts of its own, and one is left, which it gets then."""
        policy = job.function.policy
        if policy is None or policy.attempts is None or not job.wanted:
            return False
        job.was_reported = True
        return self._tries_again(job)

    def finish_with_exception(self, party: Party, handle: bytes, body: Workload) -> bool:
        """The job's end: an exception for the listeners that asked for exceptions, a failure for the others."""
        job = self._held(party, handle)
        if job is None:
            return party.held(handle)
        tally = job.function.counted()
        tally.runs.add(self.now - job.since)
        why = body[len(handle) + 1 :]
        if self._has_another_attempt(job):
            self.note_failure(job, "exception", why)
            return True
        for listener, times in (job.listeners or {}).items():
            for _ in range(times):
                if listener.exceptions:
                    listener.post(WORK_EXCEPTION, body)
                else:
                    listener.post(WORK_FAIL, handle)
        if self.events is not None:
            self.note(FAILED, job, party)
        tally.exceptions += 1
        self.note_failure(job, "exception", why)
        self.keep_result(job, "exception", why)
        self._bury_or_end(job, why)
        return True

    # -- time --------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due."""
        self.wakeups.expire(self.now)
        for job in self._timeouts.pop_due(self.now):
            job.entry = None
            tally = job.function.counted()
            tally.timed_out += 1
            if self.events is not None:
                self.note(TIMED_OUT, job, job.worker)
            if self._rules.timeout_fails and not self._has_another_attempt(job):
                tally.failed += 1
                self.note_failure(job, "timeout", b"")
                self._fail(job, FAILED, job.worker, b"a timeout")
            elif not self._rules.timeout_fails:
                self._lose(job)
        for function in self._openings.pop_due(self.now):
            function.opens = None
            self.reconsider(function)
        for job in self._due.pop_due(self.epoch_s):
            job.entry = None
            self._count_held_back(job, -1)
            job.state = DUE[job.state]
            self.enqueue(job)

    def next_due(self) -> Optional[float]:
        """In how many seconds `tick` should be called; `None`: not before something happens."""
        self.sooner = False
        due_s = self._due.next_due()
        others = (self.wakeups, self._timeouts, self._openings, self.sweeps)
        waits = [due - self.now for due in (each.next_due() for each in others) if due is not None]
        if due_s is not None:
            waits.append(due_s - self.epoch_s)
        return max(0.0, min(waits)) if waits else None

    @property
    def drained(self) -> bool:
        """Whether nothing runs and, where queued jobs do not survive, no connected worker could take one, now or soon."""
        return not self.running and (self.stored or not any(each.workers and each.has_more for each in self.functions.values()))
