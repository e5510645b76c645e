"""The tables of all jobs, functions and timers, and the moves of one job between them. Decides nothing.

`registry` decides, and calls these. Pure, as it is.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Any, Callable, Dict, Hashable, List, NamedTuple, Optional, Sequence, Tuple

from gearmand import audit
from gearmand.audit import ABANDONED, ACCEPTED, ASSIGNED, FAILED, REQUEUED, Event
from gearmand.deadlines import Deadlines
from gearmand.dormant import JOB_BYTES, Dormant
from gearmand.functions import Function, Functions, PlainEntry
from gearmand.jobs import ASSIGN, BURIED, BURY, END, HOLD_BACK, KICK, QUEUED, REQUEUE, RUNNING, Handles, Job, Workload
from gearmand.limits import Load
from gearmand.parties import Party
from gearmand.plain import Plain
from gearmand.policy import ANY, Burial, no_burial, of_burial
from gearmand.protocol import PacketType
from gearmand.recurring import Table
from gearmand.results import Results
from gearmand.rows import Notes, Row
from gearmand.rules import Rules
from gearmand.tally import FAILURE_BYTES, FAILURES, Failure, Failures
from gearmand.uniques import Uniques, key_of
from gearmand.wakeups import Wakeups

WORK_FAIL = int(PacketType.WORK_FAIL)


class Pending(NamedTuple):
    """Submissions of one unique that are being stored, and are no job yet."""

    handle: bytes
    """That of the job which they will be."""
    rows: List[int]
    """The numbers of their rows."""


class Books:
    """`grab`: gives a party its next job, or `None`."""

    def __init__(self, handle_prefix: bytes, first_number: int, rules: Rules, grab: Callable[[Party], Optional[Job]]) -> None:
        self._rules = rules
        # Set by whoever calls the registry: monotonic seconds, and since 1970.
        self.now = 0.0
        self.epoch_s = 0.0
        self.jobs: Dict[bytes, Job] = {}
        self.functions = Functions(rules.most_jobs, rules.most_limited)
        self.uniques = Uniques()
        # By function and key; a function and key have a job, or this, or neither.
        self.pending: Dict[Tuple[Function, Hashable], Pending] = {}
        # Every unfinished job is either in `jobs` or plain and in its queue.
        self.plain = Plain()
        self.wakeups = Wakeups(self._rules.wakeups, self._rules.grace_s, self._rules.linger_s, grab, self._hasten)
        self.running = 0
        # How many bytes more the jobs in memory may take; and what else is bounded.
        self.room = rules.most_bytes
        self.load = Load(rules.most_abilities, rules.most_abilities_in_all)
        self.draining = False
        # Whether another server has its queues now (see `handover`); and, the
        # other way, jobs that still run at an earlier one, by their numbers.
        self.handed_over = False
        self.elsewhere: Dict[int, Row] = {}
        # Whether background jobs survive the server; what the store has not
        # been told yet; and the jobs that lie in it alone.
        self.stored = False
        self.notes = Notes()
        self.dormant = Dormant(self._rules.kept_bytes)
        self.handles = Handles(handle_prefix, first_number)
        # Where they are wanted: what has become of jobs in this turn, and who
        # has asked for it.
        self.events: Optional[List[Event]] = None
        self.asking: Optional[Party] = None
        # Whether something may be due sooner than was said last.
        self.sooner = False
        # Functions for which sleepers are being woken, see `_wake_more`.
        self._waking: Dict[Function, None] = {}
        # Due times are of the calendar (seconds since 1970), timeouts of the
        # monotonic clock.
        self._due = Deadlines()
        self._timeouts = Deadlines()
        # Of functions, monotonic: when one that has given out what its rate
        # allows may give out more, and when one's jobs are to be looked at
        # for those that have waited too long.
        self._openings = Deadlines()
        self.sweeps = Deadlines()
        # Who waits for plain and dormant jobs, by their numbers. Whoever takes
        # such a job away without a worker tells them.
        self.awaited: Dict[int, List[Party]] = {}
        # The latest last.
        self.failures: Failures = deque(maxlen=FAILURES)
        self.results = Results(rules.result_bytes)
        self.recurring = Table()

    @property
    def lost(self) -> int:
        """How many unfinished background jobs end with the process, because no store and no other server has them."""
        if self.stored or self.handed_over:
            return 0
        return len(self.plain) + sum(job.background for job in self.jobs.values())

    def job_of(self, entry: PlainEntry) -> Job:
        """What a plain job is as a Job, for a person to see; it is in no table."""
        number, workload, queue, since = entry
        assert queue.function is not None
        job = Job(self.handles.of(number), queue.function, b"", workload, queue.priority, True, None)
        job.since = since
        if self.stored:
            job.rows = (number,)
        return job

    def add_rows(self, job: Job, numbers: Sequence[int]) -> None:
        """The job is that of these rows, too: they go when it ends."""
        if not job.rows:
            self.dormant.bytes += JOB_BYTES + len(job.workload)
        job.rows += tuple(numbers)

    def drop_row(self, job: Job, number: int) -> None:
        """A row could not be stored: nobody was promised the job for it. One that nobody wants any more ends."""
        job.rows = tuple(each for each in job.rows if each != number)
        if job.state is BURIED:
            self.notes.settings.append(no_burial(number))
        if job.rows:
            return
        self.dormant.bytes -= JOB_BYTES + len(job.workload)
        job.background = False
        if not job.wanted and job.state is not RUNNING:
            job.function.counted().abandoned += 1
            if self.events is not None:
                self.note(ABANDONED, job, None)
            self._end(job)

    def since(self, row: Row) -> float:
        """Since when a stored job, given back by the store now, has been waiting."""
        return self.now - max(0.0, self.epoch_s - max(row.submitted_s, row.due_s or 0))

    def look_after(self, function: Function, priority: int) -> None:
        self.notes.wanted += self.dormant.look_after(function, priority, function.queues[priority].live)

    def note(self, what: str, job: Job, party: Optional[Party]) -> None:
        """An event of the job, which has not made its move yet. Only where events are wanted."""
        assert self.events is not None
        after_s = None if what is ACCEPTED else self.now - job.since
        ran = job.state is RUNNING
        self.events.append((what, self.epoch_s, job.handle, job.function.name, job.unique, party, after_s, ran))

    # -- one job's moves -----------------------------------------------------

    def enqueue(self, job: Job, since: Optional[float] = None, again: bool = False) -> None:
        """Put a job that is on the books into its queue, and wake whom it needs. `since`: when it came there, if not now."""
        function, priority = job.function, job.priority
        job.since = self.now if since is None else since
        function.queues[priority].push(job, again)
        if function.sleepers or function.unaware[priority]:
            self._make_known(function, priority)

    def enqueue_plain(self, function: Function, priority: int, workloads: Sequence[bytes]) -> List[bytes]:
        """Put new plain jobs into their queue, and wake whom they need. Returns their handles."""
        queue = function.queues[priority]
        new = self.handles.reserve(len(workloads))
        self.plain.add_all([(number, workload, queue, self.now) for (number, _), workload in zip(new, workloads)], queue)
        self._count_new(function, priority, workloads)
        return [handle for _, handle in new]

    def enqueue_jobs(self, listener: Party, function: Function, priority: int, workloads: Sequence[bytes]) -> List[bytes]:
        """The same of new jobs that somebody waits for, none of which has a unique."""
        jobs = []
        for number, handle in self.handles.reserve(len(workloads)):
            job = Job(handle, function, b"", workloads[len(jobs)], priority, False, None)
            job.listeners = {listener: 1}
            job.since = self.now
            jobs.append(job)
        self.jobs.update((job.handle, job) for job in jobs)
        listener.listening.update(dict.fromkeys(jobs))
        function.queues[priority].push_all(jobs)
        self._count_new(function, priority, workloads)
        return [job.handle for job in jobs]

    def _count_new(self, function: Function, priority: int, workloads: Sequence[bytes]) -> None:
        function.jobs += len(workloads)
        function.submitted += len(workloads)
        self.room -= JOB_BYTES * len(workloads) + sum(map(len, workloads))
        for _ in workloads:
            if not (function.sleepers or function.unaware[priority]):
                break
            self._make_known(function, priority)

    def _make_known(self, function: Function, priority: int) -> None:
        """There is a new job in a queue."""
        if not function.open:
            return
        self._make_aware(function, priority)
        if function.sleepers and (function.free == ANY or function.queued > function.claims):
            self.wakeups.wake(function, self.now)

    def _make_aware(self, function: Function, priority: int) -> None:
        unaware = function.unaware[priority]
        if unaware:
            for party in unaware:
                insort(party.ready[priority], party.abilities[function].index)
            unaware.clear()

    def _assign(self, job: Job, party: Party) -> None:
        function = job.function
        (function.tally or function.counted()).waits.add(self.now - job.since)
        if self.events is not None:
            self.note(ASSIGNED, job, party)
        job.since = self.now
        job.state = ASSIGN[job.state]
        job.worker = party
        party.running[job.handle] = job
        function.running += 1
        self.running += 1
        if function.policy is not None:
            self._count_given_out(function)
        self._start_timeout(job, party)

    def _start_timeout(self, job: Job, party: Party) -> None:
        ability = party.abilities.get(job.function)
        if ability is not None and ability.timeout_s is not None:
            job.entry = self.add_deadline(self._timeouts, self.now + ability.timeout_s, job)

    def _held(self, party: Party, handle: bytes) -> Optional[Job]:
        """The job that the party runs, or gets back because it waits again after the party's timeout."""
        job = party.running.get(handle)
        if job is None:
            if not party.held(handle):
                return None
            job = self.jobs.get(handle)
            if job is None or job.state is not QUEUED or job.was_reported:
                return None
            self._take_out(job)
            self._assign(job, party)
        elif self._rules.reports_extend and job.entry is not None:
            self._timeouts.call_off(job.entry)
            job.entry = None
            self._start_timeout(job, party)
        return job

    def _lose(self, job: Job) -> None:
        """Its worker is gone or too late: another attempt, where anybody wants it and any is left."""
        job.was_reported = False
        if not job.wanted:
            job.function.counted().abandoned += 1
            if self.events is not None:
                self.note(ABANDONED, job, job.worker)
            self._end(job)
        elif not self._tries_again(job):
            why = b"its attempts were used up: %d" % job.retries
            job.function.counted().failed += 1
            self.note_failure(job, "failed", why)
            self._fail(job, FAILED, job.worker, why)

    def _tries_again(self, job: Job) -> bool:
        """After an attempt without a good end: another one, where one is left."""
        policy = job.function.policy
        job.retries += 1
        self.notes.differs(job)
        job.numerator = job.denominator = 0
        own = None if policy is None else policy.attempts
        attempts = self._rules.attempts if own is None else own
        if attempts is not None and job.retries >= attempts:
            return False
        job.function.counted().retried += 1
        if self.events is not None:
            self.note(REQUEUED, job, job.worker)
        self._take_out(job)
        delay_s = 0.0 if policy is None else policy.delay_s(job.handle, job.retries)
        if delay_s:
            job.state = HOLD_BACK[job.state]
            self._hold_back(job, self.epoch_s + delay_s)
            # When it is due, too.
            self.notes.differs(job)
        else:
            job.state = REQUEUE[job.state]
            self.enqueue(job)
        return True

    def _hold_back(self, job: Job, due_s: float) -> None:
        self._count_held_back(job, 1)
        job.entry = self.add_deadline(self._due, due_s, job)

    def _count_held_back(self, job: Job, more: int) -> None:
        job.function.scheduled += more
        if job.retries:
            job.function.retrying += more

    def _fail(self, job: Job, what: str, party: Optional[Party], why: Optional[bytes] = None) -> None:
        """`why`: where it has used its attempts up."""
        if self.events is not None:
            self.note(what, job, party)
        self.tell(job, WORK_FAIL, job.handle)
        if why is None:
            self._end(job)
        else:
            self.keep_result(job, "fail", b"")
            self._bury_or_end(job, why)

    # -- what was set for a function ---------------------------------------------

    def _count_given_out(self, function: Function) -> None:
        policy = function.policy
        if policy is not None and policy.rate is not None:
            function.next_at = policy.next_at(self.now, function.next_at)
        self.reconsider(function)

    def reconsider(self, function: Function) -> None:
        """Have the function give out jobs, or not, as what was set for it says now. Wakes whom it needs then."""
        policy, was_open = function.policy, function.open
        function.free = ANY if policy is None else policy.free(self.now, function.next_at, function.running)
        function.open = function.free > 0
        if function.open:
            if not was_open:
                for priority, queue in enumerate(function.queues):
                    if queue.live:
                        self._make_aware(function, priority)
            self._wake_more(function)
        elif function.next_at > self.now:
            if function.opens is not None and function.opens[0] > function.next_at:
                self._openings.call_off(function.opens)
                function.opens = None
            if function.opens is None:
                function.opens = self.add_deadline(self._openings, function.next_at, function)

    def _wake_more(self, function: Function) -> None:
        """Wake as many sleepers as it has jobs to give out that nobody is awake for.

        One whose grab lingers takes a job at once, and this is called again
        from there: then the outermost call goes on, however many there are.
        """
        is_outermost = not self._waking
        self._waking[function] = None
        try:
            while is_outermost and self._waking:
                each = next(iter(self._waking))
                while each.sleepers and each.queued > each.claims:
                    self.wakeups.wake(each, self.now)
                del self._waking[each]
        finally:
            if is_outermost:
                self._waking.clear()

    def keep_result(self, job: Job, how: str, data: Workload) -> None:
        """The job is about to end, or to be buried; what its client would have been told is kept, where it is to be."""
        policy = job.function.policy
        if policy is not None and policy.keep_s and job.background:
            self.results.keep(job.handle, job.function.name, job.unique, how, data, self.epoch_s, self.now, policy.keep_s)

    def _bury_or_end(self, job: Job, why: Workload) -> None:
        """After its last attempt has failed, and its listeners have been told."""
        policy = job.function.policy
        if policy is None or policy.attempts is None or not job.background:
            self._end(job)
            return
        if self.events is not None:
            self.note(audit.BURIED, job, job.worker)
        self._take_out(job)
        job.state = BURY[job.state]
        job.function.counted().buried += 1
        self.forget_listeners(job)
        self.forget_unique(job)
        burial = Burial(self.epoch_s, bytes(why[:FAILURE_BYTES]))
        self.notes.settings += [of_burial(number, burial) for number in job.rows]
        self.lay(job, burial)

    def lay(self, job: Job, burial: Burial) -> None:
        """Put a job that is BURIED where it belongs. A submission of its unique is another job."""
        function = job.function
        function.jobs -= 1
        if function.buried is None:
            function.buried = {}
        function.buried[job.handle] = burial
        job.since = self.now

    def kick(self, job: Job) -> None:
        """A buried job waits again, with all its attempts."""
        if self.events is not None:
            self.note(audit.KICKED, job, None)
        self._take_out(job)
        job.state = KICK[job.state]
        job.retries = 0
        self.notes.differs(job)
        key = key_of(job.unique, job.workload) if job.unique else None
        if key is not None and self.uniques.find(key, job.function) is None and (job.function, key) not in self.pending:
            self.uniques.add(key, job)
        self.enqueue(job, again=True)

    def note_failure(self, job: Job, kind: str, data: Workload) -> None:
        name = job.function.name
        self.failures.append(Failure(self.epoch_s, name, job.handle, job.unique, kind, bytes(data[:FAILURE_BYTES])))

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
            self.forget_rows(job)
        if job.listeners is not None:
            self.forget_listeners(job)
        if job.unique:
            self.forget_unique(job)
        # A dead entry in a queue may keep the job for a while, not its bytes.
        job.workload = b""
        if not function.jobs and not function.workers:
            self.functions.note_if_idle(function)

    def forget_rows(self, job: Job) -> None:
        """It has ended, so its rows are to go from the store."""
        self.notes.removed += job.rows
        self.dormant.bytes -= JOB_BYTES + len(job.workload)

    def forget_listeners(self, job: Job) -> None:
        """Nobody waits for it any longer."""
        for listener in job.listeners or ():
            del listener.listening[job]
        job.listeners = None

    def forget_unique(self, job: Job) -> None:
        """Submissions of its unique do not join it any longer. The unique is another job's by now, if this one was buried meanwhile."""
        key = key_of(job.unique, job.workload)
        if key is not None and self.uniques.find(key, job.function) is job:
            self.uniques.remove(key, job)

    def forget(self, job: Job) -> None:
        """Off the books; its rows stay where they are."""
        job.rows = ()
        self._end(job)

    def _take_out(self, job: Job, state: Optional[int] = None) -> None:
        """Out of the one place where its state, given where it has moved on already, puts it."""
        state = job.state if state is None else state
        function = job.function
        if state is RUNNING:
            worker = job.worker
            assert worker is not None
            del worker.running[job.handle]
            worker.remember(job.handle)
            job.worker = None
            function.running -= 1
            self.running -= 1
            if job.entry is not None:
                self._timeouts.call_off(job.entry)
            if function.policy is not None:
                self.reconsider(function)
        elif state is QUEUED:
            function.queues[job.priority].remove(job)
            if self.dormant.tails:
                self.look_after(function, job.priority)
        elif state is BURIED:
            assert function.buried is not None
            del function.buried[job.handle]
            function.jobs += 1
            self.notes.settings += map(no_burial, job.rows)
        else:
            self._count_held_back(job, -1)
            self._due.call_off(job.entry)
        job.entry = None

    def tell(self, job: Job, kind: int, body: Workload) -> None:
        """Post a packet to whoever waits for the job."""
        listeners = job.listeners
        if listeners is not None:
            for listener, times in listeners.items():
                while times:
                    listener.post(kind, body)
                    times -= 1

    def add_deadline(self, deadlines: Deadlines, due: float, item: Any) -> List[Any]:
        """An entry for the item; `sooner` where it is the next one."""
        entry = deadlines.add(due, item)
        if deadlines.next_due() == due:
            self._hasten()
        return entry

    def _hasten(self) -> None:
        self.sooner = True
