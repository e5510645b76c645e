"""All jobs, functions and parties: decides. Pure: no lock, socket, clock or log.

Whoever calls holds the broker's lock and has set `now` and `epoch_s`. What a decision means
for a party is posted to it (`Party.post`); an expected refusal is a result.

Invariants (`tests/test_registry_walk.py` holds them after every step):

- An unfinished job is in `jobs` and in exactly one place: a queue, the due
  times, or its worker's `running`.
- A job is kept while it is wanted (background, or somebody listens) or runs.
- A party that is asleep could grab nothing that is not already somebody's to
  grab: where a function has sleepers, at least as many parties are awake for
  it (`claims`) as it has jobs queued. A claim ends with a grab, with the
  party, or after `grace_s`, and then passes on.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import islice
from typing import Any, Dict, List, Optional, Union

from gearmand.deadlines import Deadlines
from gearmand.dormant import JOB_BYTES, Dormant
from gearmand.errors import MEMORY_FULL, QUEUE_FULL, SHUTTING_DOWN, Refusal
from gearmand.functions import Function, Functions
from gearmand.jobs import ASSIGN, DUE, END, ENDED, QUEUED, REQUEUE, RUNNING, SCHEDULED, Handles, Job, Priority, Workload
from gearmand.limits import Load
from gearmand.parties import Ability, Assign, Party
from gearmand.protocol import PacketType
from gearmand.rows import Notes, Row
from gearmand.rules import Rules
from gearmand.uniques import Uniques, key_of
from gearmand.wakeups import Wakeups

NOOP = int(PacketType.NOOP)
WORK_FAIL = int(PacketType.WORK_FAIL)
WORK_EXCEPTION = int(PacketType.WORK_EXCEPTION)

class Registry:
    """Everything that the server knows of its jobs. `rules`: fields of `Rules`."""

    def __init__(self, handle_prefix: bytes, first_number: int, **rules: Any) -> None:
        self._rules = Rules(**rules)
        # Set by the caller before each call: monotonic seconds, and since 1970.
        self.now = 0.0
        self.epoch_s = 0.0
        self.jobs: Dict[bytes, Job] = {}
        self.functions = Functions(self._rules.most_jobs, self._rules.most_limited)
        self.uniques = Uniques()
        self.wakeups = Wakeups(self._rules.wakeups, self._rules.grace_s, self._rules.linger_s, self.grab)
        self.running = 0
        self.room = self._rules.most_bytes
        self.load = Load(self._rules.most_abilities, self._rules.most_abilities_in_all)
        self.draining = False
        # Whether background jobs survive the server; what the store has not
        # been told yet; and the jobs that lie in it alone.
        self.stored = False
        self.notes = Notes()
        self.dormant = Dormant(self._rules.kept_bytes)
        self.timeout_unit_s = self._rules.timeout_unit_s
        self._deadlines_sooner = False
        self.handles = Handles(handle_prefix, first_number)
        self._newest_first = self._rules.newest_first
        # Due times are of the calendar (seconds since 1970), timeouts of the
        # monotonic clock.
        self._due = Deadlines()
        self._timeouts = Deadlines()

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

        `listener` is told of everything that happens to it; `None` makes it a
        background job. `due_s` (seconds since 1970, in the future) holds it
        back until then. `row`: what the store has kept of it already. Returns
        the job, or why it was refused.
        """
        if self.draining or self.room <= 0:
            return self._refuse(SHUTTING_DOWN if self.draining else MEMORY_FULL, row)
        function = self.functions[name]
        key = key_of(unique, workload) if unique else None
        if key is not None:
            twin = self.uniques.find(key, function)
            if twin is not None:
                self._join(twin, listener, row)
                return twin
        limit = function.limits[priority]
        if limit is not None and function.jobs >= limit:
            return self._refuse(QUEUE_FULL, row)
        handle = row.handle if row is not None else self.handles.new()
        job = Job(handle, function, unique, workload, priority, listener is None, reducer)
        function.jobs += 1
        if row is not None:
            if self.dormant.takes(function, row):
                if not function.queues[priority].live:
                    self._look_after(function, priority)
                return job
            self.put_row(job, row)
        self.jobs[handle] = job
        self.room -= JOB_BYTES + len(workload)
        if listener is not None:
            job.listeners = {listener: 1}
            listener.listening[job] = None
        if key is not None:
            self.uniques.add(key, job)
        if due_s is None:
            self.enqueue(job)
        else:
            job.state = SCHEDULED
            function.scheduled += 1
            self._add_deadline(self._due, due_s, job)
        return job

    def put_row(self, job: Job, row: Row) -> None:
        """The job is that of the row."""
        job.rows = (row.number,)
        job.retries = row.retries
        self.dormant.bytes += JOB_BYTES + len(job.workload)

    def _look_after(self, function: Function, priority: int) -> None:
        self.notes.wanted += self.dormant.look_after(function, priority, function.queues[priority].live)

    def _refuse(self, refusal: Refusal, row: Optional[Row]) -> Refusal:
        if row is not None:
            self.notes.removed.append(row.number)
        return refusal

    def _join(self, job: Job, listener: Optional[Party], row: Optional[Row]) -> None:
        if row is not None:
            job.rows += (row.number,)
            self.notes.differs(job)
        if listener is None:
            job.background = True
            return
        if job.listeners is None:
            job.listeners = {}
        job.listeners[listener] = job.listeners.get(listener, 0) + 1
        listener.listening[job] = None

    def cancel(self, handle: bytes) -> bool:
        """End an unfinished job with WORK_FAIL. False: there is none of that handle."""
        job = self.jobs.get(handle)
        if job is None:
            return False
        self._fail(job)
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
            if queue.live:
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
        if self.dormant.tails:
            self._look_after(function, job.priority)
        self._assign(job, party)
        if claim is not None and claim is not function:
            self.wakeups.pass_on(claim, self.now)
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

        Stops after about `most` jobs and returns whether it is done; else it has to be called again.
        """
        party.lingering = None
        self.reset_abilities(party)
        for job in list(islice(party.running.values(), most)):
            self._lose(job)
        for job in list(islice(party.listening, most)):
            self.abandon(party, job)
        return not party.running and not party.listening

    # -- reports of workers --------------------------------------------------
    # Each returns False where the party has nothing to do with the job; True
    # also where a report comes too late to count.

    def relay(self, party: Party, handle: bytes, kind: int, body: Workload) -> bool:
        """Data or a warning, for the job's listeners."""
        job = self._held(party, handle)
        if job is None:
            return handle in party.past
        self._tell(job, kind, body)
        return True

    def progress(self, party: Party, handle: bytes, numerator: int, denominator: int, kind: int, body: Workload) -> bool:
        """How far a job is, for its listeners and for whoever asks later."""
        job = self._held(party, handle)
        if job is None:
            return handle in party.past
        job.numerator = numerator
        job.denominator = denominator
        self._tell(job, kind, body)
        return True

    def finish(self, party: Party, handle: bytes, kind: int, body: Workload) -> bool:
        """The job's end, complete or failed, for its listeners."""
        job = self._held(party, handle)
        if job is None:
            return handle in party.past
        if job.listeners is not None:
            self._tell(job, kind, body)
        self._end(job)
        return True

    def finish_with_exception(self, party: Party, handle: bytes, body: Workload) -> bool:
        """The job's end: an exception for the listeners that asked for exceptions, a failure for the others."""
        job = self._held(party, handle)
        if job is None:
            return handle in party.past
        for listener, times in (job.listeners or {}).items():
            for _ in range(times):
                if listener.exceptions:
                    listener.post(WORK_EXCEPTION, body)
                else:
                    listener.post(WORK_FAIL, handle)
        self._end(job)
        return True

    # -- time --------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due."""
        self.wakeups.expire(self.now)
        for job in self._timeouts.pop_due(self.now):
            job.entry = None
            if self._rules.timeout_fails:
                self._fail(job)
            else:
                self._lose(job)
        for job in self._due.pop_due(self.epoch_s):
            job.entry = None
            job.function.scheduled -= 1
            job.state = DUE[job.state]
            self.enqueue(job)

    def next_due(self) -> Optional[float]:
        """In how many seconds `tick` should be called; `None`: not before something happens."""
        self._deadlines_sooner = self.wakeups.sooner = False
        claim = self.wakeups.next_due()
        timeout = self._timeouts.next_due()
        due_s = self._due.next_due()
        waits = [due - self.now for due in (claim, timeout) if due is not None]
        if due_s is not None:
            waits.append(due_s - self.epoch_s)
        return max(0.0, min(waits)) if waits else None

    @property
    def sooner(self) -> bool:
        """Whether something may be due sooner than `next_due` said last."""
        return self._deadlines_sooner or self.wakeups.sooner

    @property
    def drained(self) -> bool:
        """Whether nothing runs and, where queued jobs do not survive, no connected worker could take one."""
        return not self.running and (self.stored or not any(f.queued and f.workers for f in self.functions.values()))

    # -- one job's moves -----------------------------------------------------

    def enqueue(self, job: Job) -> None:
        """Put a job that is on the books into its queue, and wake whom it needs."""
        function = job.function
        priority = job.priority
        function.queues[priority].push(job)
        unaware = function.unaware[priority]
        if unaware:
            for party in unaware:
                insort(party.ready[priority], party.abilities[function].index)
            unaware.clear()
        if function.sleepers:
            self.wakeups.wake(function, self.now)

    def _assign(self, job: Job, party: Party) -> None:
        job.state = ASSIGN[job.state]
        job.worker = party
        party.running[job.handle] = job
        job.function.running += 1
        self.running += 1
        self._start_timeout(job)

    def _start_timeout(self, job: Job) -> None:
        assert job.worker is not None
        ability = job.worker.abilities.get(job.function)
        if ability is not None and ability.timeout_s is not None:
            self._add_deadline(self._timeouts, self.now + ability.timeout_s, job)

    def _held(self, party: Party, handle: bytes) -> Optional[Job]:
        """The job that the party runs, or gets back because it waits again after the party's timeout."""
        job = party.running.get(handle)
        if job is None:
            if handle not in party.past:
                return None
            job = self.jobs.get(handle)
            if job is None or job.state is not QUEUED:
                return None
            self._take_out(job)
            self._assign(job, party)
        elif self._rules.reports_extend and job.entry is not None:
            self._timeouts.call_off(job.entry)
            job.entry = None
            self._start_timeout(job)
        return job

    def _lose(self, job: Job) -> None:
        """Its worker is gone or too late: another attempt, where anybody wants it and any is left."""
        job.retries += 1
        self.notes.differs(job)
        job.numerator = job.denominator = 0
        if not job.wanted:
            self._end(job)
        elif self._rules.attempts is not None and job.retries >= self._rules.attempts:
            self._fail(job)
        else:
            self._take_out(job)
            job.state = REQUEUE[job.state]
            self.enqueue(job)

    def _fail(self, job: Job) -> None:
        self._tell(job, WORK_FAIL, job.handle)
        self._end(job)

    def _end(self, job: Job) -> None:
        function = job.function
        was, job.state = job.state, END[job.state]
        self._take_out(job, was)
        del self.jobs[job.handle]
        self.room += JOB_BYTES + len(job.workload)
        if self.load.owners:
            self.load.disown(job.handle)
        function.jobs -= 1
        if job.rows:
            self.notes.removed += job.rows
            self.dormant.bytes -= JOB_BYTES + len(job.workload)
        if job.listeners is not None:
            for listener in job.listeners:
                del listener.listening[job]
            job.listeners = None
        if job.unique:
            key = key_of(job.unique, job.workload)
            if key is not None:
                self.uniques.remove(key, job)
        # A dead entry in a queue may keep the job for a while, not its bytes.
        job.workload = b""
        if not function.jobs and not function.workers:
            self.functions.note_if_idle(function)

    def _take_out(self, job: Job, state: Optional[int] = None) -> None:
        """Out of the one place where its state, given where it has moved on already, puts it."""
        state = job.state if state is None else state
        function = job.function
        if state is RUNNING:
            worker = job.worker
            assert worker is not None
            del worker.running[job.handle]
            worker.past.add(job.handle)
            job.worker = None
            function.running -= 1
            self.running -= 1
            if job.entry is not None:
                self._timeouts.call_off(job.entry)
        elif state is QUEUED:
            function.queues[job.priority].remove(job)
            if self.dormant.tails:
                self._look_after(function, job.priority)
        else:
            function.scheduled -= 1
            self._due.call_off(job.entry)
        job.entry = None

    def _tell(self, job: Job, kind: int, body: Workload) -> None:
        listeners = job.listeners
        if listeners is not None:
            for listener, times in listeners.items():
                for _ in range(times):
                    listener.post(kind, body)

    def _add_deadline(self, deadlines: Deadlines, due: float, job: Job) -> None:
        job.entry = deadlines.add(due, job)
        if deadlines.next_due() == due:
            self._deadlines_sooner = True
