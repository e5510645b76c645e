"""Long random walks of the registry beside a model that knows nothing of its indexes.

The model keeps one list of jobs and scans it for everything. After every step
each party was posted what the model says, every job is where the model has it,
and `check` recounts what the registry counts. Where the rules leave a choice
(which of several sleepers is woken, whose turn it is after the function served
last was withdrawn) the model follows the registry, once its choice is allowed.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gearmand import revival, steering
from gearmand.dormant import JOB_BYTES
from gearmand.errors import QUEUE_FULL, SHUTTING_DOWN, Refusal
from gearmand.jobs import BURIED, QUEUED, RUNNING, SCHEDULED, Priority
from gearmand.parties import Party
from gearmand.policy import ANY, NOTHING
from gearmand.protocol import PacketType
from gearmand.registry import Registry
from gearmand.uniques import key_of

NOOP, NO_JOB = PacketType.NOOP, PacketType.NO_JOB
WORK_FAIL, WORK_EXCEPTION = PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION
FUNCTIONS = [b"a", b"b", b"c", b"d"]
MINIMUM_TIMEOUT_S = 1.0
GRACE_S = 1.0
STEPS = 1200
MOST_JOBS = 40


class Walker(Party):
    """A party of the registry that notes what it is posted, and what the model knows of it."""

    def __init__(self, number, exceptions):
        super().__init__(exceptions)
        self.number = number
        self.got = []
        # The model's view.
        self.order = []  # functions, in order of CAN_DO
        self.timeouts = {}
        self.served_last = None  # a function, or None: not determined
        self.never_served = True
        self.sleeping = False  # asleep, or its grab lingers
        self.lingers_since = None
        self.idle_since = 0.0
        self.would_linger = False
        self.given = []  # handles, by way of a grab that lingered
        self.held_once = set()
        self.due_posts = []

    def __repr__(self):
        return "<Walker %d>" % self.number

    def give(self, job):
        self.given.append(job.handle)

    def wake(self):
        self.sleeping, self.lingers_since = False, None

    def post(self, kind, body, tail=b""):
        self.got.append((int(kind), bytes(body) + bytes(tail)))


class ModelJob:
    def __init__(self, handle, name, key, workload, priority, listener):
        self.handle, self.name, self.key, self.workload, self.priority = handle, name, key, workload, priority
        self.background = listener is None
        self.listeners = [] if listener is None else [listener]
        self.state = QUEUED
        self.worker = None
        self.place = 0  # in the order of what it waits in, or was assigned in
        self.due_s = None
        self.timeout_at = None
        self.timer_place = 0
        self.progress = (0, 0)
        self.retries = 0
        # Whether a submission of its unique joins it; whether its last attempt was reported a failure.
        self.keyed = key is not None
        self.was_reported = False


class Model:
    def __init__(self, attempts, timeout_fails, reports_extend, newest_first):
        self.attempts, self.timeout_fails = attempts, timeout_fails
        self.reports_extend, self.newest_first = reports_extend, newest_first
        self.jobs = []
        self.names = set()
        self.limits = {}
        self.policies = {}
        # When a function with a rate gives out its next job; follows the registry.
        self.next_at = lambda name: 0.0
        self.now = self.epoch_s = 0.0
        self.places = 0
        self.draining = False

    def place(self):
        self.places += 1
        return self.places

    def job(self, handle):
        return next((job for job in self.jobs if job.handle == handle), None)

    def of(self, name, *states):
        return [job for job in self.jobs if job.name == name and (not states or job.state in states)]

    def twin(self, name, key):
        return next((job for job in self.of(name) if job.keyed and job.key == key), None)

    def policy(self, name):
        return self.policies.get(name, NOTHING)

    def is_open(self, name):
        policy = self.policy(name)
        is_full = policy.most_running is not None and len(self.of(name, RUNNING)) >= policy.most_running
        return not (policy.paused or is_full or (policy.rate is not None and self.next_at(name) > self.now))

    def grabbable(self, party):
        """The first job of each function of the party that has one at the highest priority there is."""
        queued = [job for job in self.jobs if job.state is QUEUED and job.name in party.order and self.is_open(job.name)]
        if not queued:
            return {}
        highest = min(job.priority for job in queued)
        return {
            name: min((job for job in queued if job.priority == highest and job.name == name), key=lambda job: job.place)
            for name in {job.name for job in queued if job.priority == highest}
        }

    def allowed(self, party):
        """The jobs of which the party must get one."""
        firsts = self.grabbable(party)
        turn = party.order[::-1]
        if not self.newest_first and not party.never_served:
            if party.served_last is None:
                return list(firsts.values())
            at = turn.index(party.served_last) + 1
            turn = turn[at:] + turn[:at]
        return [firsts[name] for name in turn if name in firsts][:1]

    # -- moves

    def tell(self, job, kind, body):
        for listener in job.listeners:
            listener.due_posts.append((int(kind), body))

    def enqueue(self, job):
        job.state, job.worker, job.timeout_at = QUEUED, None, None
        job.place = self.place()

    def start_timer(self, job):
        timeout_s = job.worker.timeouts.get(job.name)
        job.timeout_at = None if timeout_s is None else self.now + timeout_s
        job.timer_place = self.place()

    def assign(self, job, party):
        job.state, job.worker, job.place = RUNNING, party, self.place()
        self.start_timer(job)

    def end(self, job):
        if job.worker is not None:
            job.worker.held_once.add(job.handle)
        self.jobs.remove(job)

    def fail(self, job):
        self.tell(job, WORK_FAIL, job.handle)
        self.end(job)

    def bury_or_end(self, job):
        if self.policy(job.name).attempts is None or not job.background:
            self.end(job)
            return
        job.worker.held_once.add(job.handle)
        job.state, job.worker, job.timeout_at, job.listeners, job.keyed = BURIED, None, None, [], False
        job.place = self.place()

    def kick(self, job):
        job.retries = 0
        job.keyed = job.key is not None and self.twin(job.name, job.key) is None
        self.enqueue(job)

    def tries_again(self, job):
        job.retries += 1
        job.progress = (0, 0)
        own = self.policy(job.name).attempts
        attempts = self.attempts if own is None else own
        if attempts is not None and job.retries >= attempts:
            return False
        job.worker.held_once.add(job.handle)
        self.enqueue(job)
        return True

    def has_another_attempt(self, job):
        if self.policy(job.name).attempts is None or not (job.background or job.listeners):
            return False
        job.was_reported = True
        return self.tries_again(job)

    def lose(self, job):
        job.was_reported = False
        if not (job.background or job.listeners):
            self.end(job)
        elif not self.tries_again(job):
            self.tell(job, WORK_FAIL, job.handle)
            self.bury_or_end(job)

    def held(self, party, handle):
        job = self.job(handle)
        if job is None:
            return None
        if job.worker is party:
            if self.reports_extend and job.timeout_at is not None:
                self.start_timer(job)
            return job
        if job.state is QUEUED and handle in party.held_once and not job.was_reported:
            self.assign(job, party)
            return job
        return None

    def withdraw(self, party, name):
        if name in party.order:
            party.order.remove(name)
            del party.timeouts[name]
            if party.served_last == name:
                party.served_last = None

    def leave(self, party):
        for job in [job for job in self.jobs if party in job.listeners]:
            job.listeners = [listener for listener in job.listeners if listener is not party]
            if not job.listeners and not job.background and job.state is not RUNNING:
                self.end(job)
        for job in sorted((job for job in self.jobs if job.worker is party), key=lambda job: job.place):
            self.lose(job)

    def tick(self):
        late = [job for job in self.jobs if job.timeout_at is not None and job.timeout_at <= self.now]
        for job in sorted(late, key=lambda job: (job.timeout_at, job.timer_place)):
            if not self.timeout_fails:
                self.lose(job)
            elif not self.has_another_attempt(job):
                self.tell(job, WORK_FAIL, job.handle)
                self.bury_or_end(job)
        due = [job for job in self.jobs if job.state is SCHEDULED and job.due_s <= self.epoch_s]
        for job in sorted(due, key=lambda job: (job.due_s, job.place)):
            self.enqueue(job)


# -- the recount -----------------------------------------------------------------


def all_jobs(registry):
    """By handle, the plain ones as Jobs."""
    plain = [registry.job_of(entry) for at in registry.plain.pieces() for entry in registry.plain.piece(at)]
    return {**registry.jobs, **{job.handle: job for job in plain}}


def check(registry, parties):
    """Every invariant that the docstrings of the registry and of its parts promise."""
    check_jobs(registry, parties)
    for function in registry.functions.values():
        check_function(registry, function, parties)
    for party in parties:
        check_party(registry, party)
    # One that was buried and kicked may have lost its unique to another.
    found = [job for job in registry.jobs.values() if registry.uniques.find(key_of(job.unique, job.workload), job.function) is job]
    assert len(registry.uniques) == len(found) and not any(job.state is BURIED for job in found)


def check_jobs(registry, parties):
    places = Counter()
    plain = 0
    for function in registry.functions.values():
        for priority, queue in zip(Priority, function.queues):
            for job in queue:
                if type(job) is tuple:
                    number, _, its_queue, _ = job
                    assert registry.plain.find(number) is job and its_queue is queue
                    plain += 1
                    continue
                assert (job.state, job.function, job.priority) == (QUEUED, function, priority)
                places[job] += 1
        for handle in function.buried or ():
            assert (registry.jobs[handle].state, registry.jobs[handle].function) == (BURIED, function)
            places[registry.jobs[handle]] += 1
    for job in registry._due.items():
        assert job.state is SCHEDULED
        places[job] += 1
    for party in parties:
        for handle, job in party.running.items():
            assert (job.state, job.worker, job.handle) == (RUNNING, party, handle)
            places[job] += 1
    assert places == Counter(registry.jobs.values())
    assert plain == len(registry.plain)
    in_memory = [*registry.jobs.values(), *(registry.job_of(entry) for at in registry.plain.pieces() for entry in registry.plain.piece(at))]
    assert registry.room == 2**62 - sum(JOB_BYTES + len(job.workload) for job in in_memory)
    assert registry.load.abilities == sum(len(party.abilities) for party in parties)
    assert registry.running == sum(job.state is RUNNING for job in registry.jobs.values())
    timed = [job for job in registry.jobs.values() if job.state is RUNNING and job.entry is not None]
    assert Counter(registry._timeouts.items()) == Counter(timed)
    assert (len(registry._timeouts), len(registry._due)) == (len(timed), len(registry._due.items()))
    for handle, job in registry.jobs.items():
        assert job.handle == handle and registry.functions[job.function.name] is job.function
        assert (job.worker is not None) == (job.state is RUNNING)
        assert job.wanted or job.state is RUNNING
        assert job.listeners is None or job.listeners
        assert all(job in listener.listening and listener in parties for listener in job.listeners or ())


def check_function(registry, function, parties):
    jobs = [job for job in all_jobs(registry).values() if job.function is function]
    states = Counter(job.state for job in jobs)
    counted = (function.jobs, function.running, function.scheduled, function.live)
    assert counted == (len(jobs) - states[BURIED], states[RUNNING], states[SCHEDULED], states[QUEUED])
    assert function.retrying == sum(job.state is SCHEDULED and job.retries > 0 for job in jobs)
    policy = function.policy or NOTHING
    is_full = policy.most_running is not None and function.running >= policy.most_running
    assert function.open == (not (policy.paused or is_full or (policy.rate is not None and function.next_at > registry.now)))
    assert function.open == (function.free > 0) and (function.policy is not None or function.free == ANY)
    for priority, queue, unaware in zip(Priority, function.queues, function.unaware):
        assert queue.live == sum(job.state is QUEUED and job.priority == priority for job in jobs)
        assert not (queue.live and unaware and function.open)
        assert set(unaware) <= set(function.workers)
    assert set(function.workers) == {party for party in parties if function in party.abilities}
    assert set(function.sleepers) <= set(function.workers)
    assert function.claims == sum(party.claim is function for party in parties)
    if any(party.asleep for party in function.sleepers):
        assert function.claims >= function.queued
    if not (function.used or function.is_set):
        assert function in registry.functions._idle


def check_party(registry, party):
    assert {ability.index: function for function, ability in party.abilities.items()} == party.by_index
    assert list(party.by_index) == sorted(party.by_index, reverse=True)
    for priority, ready in zip(Priority, party.ready):
        assert ready == sorted(set(ready)) and set(ready) <= set(party.by_index)
        for function, ability in party.abilities.items():
            assert (ability.index in ready) != (party in function.unaware[priority])
    for function in party.abilities:
        assert (party in function.sleepers) != (function in party.unslept)
    assert set(party.unslept) <= set(party.abilities)
    if party.asleep:
        assert party.claim is None and not party.unslept
    if party.lingering is not None:
        assert party.asleep and any(who is party for _, who in registry.wakeups._lingers)
    if party.claim is not None:
        assert party.claim in party.abilities
        assert any(who is party and number == party.claim_number for _, who, number in registry.wakeups._claims)
    assert all(party in job.listeners and registry.jobs[job.handle] is job for job in party.listening)


# -- the walk ----------------------------------------------------------------------


class Walk:
    def __init__(self, seed):
        self.chance = chance = random.Random(seed)
        options = {
            "attempts": chance.choice([None, None, 1, 3]),
            "timeout_fails": chance.random() < 0.2,
            "reports_extend": chance.random() < 0.3,
            "newest_first": chance.random() < 0.3,
        }
        self.wakeups = chance.choice([1, 1, 1, 2, 0])
        self.linger_s = chance.choice([0.0, 0.4, 2.0])
        self.registry = Registry(
            b"H", 1, wakeups=self.wakeups, grace_s=GRACE_S, linger_s=self.linger_s, minimum_timeout_s=MINIMUM_TIMEOUT_S, **options
        )
        self.model = Model(**options)
        self.model.next_at = lambda name: self.registry.functions[name].next_at
        self.parties = []
        self.handles = [b"H:0"]
        for _ in range(7):
            self.join()

    def join(self):
        self.parties.append(Walker(len(self.handles), self.chance.random() < 0.3))

    def party(self):
        """One that is about to say something: were its grab unanswered, the answer comes first."""
        party = self.chance.choice(self.parties)
        if party.lingers_since is not None:
            self.registry.end_linger(party)
            party.wake()
            party.due_posts.append((int(NO_JOB), b""))
        return party

    def step(self):
        many = len(self.model.jobs) > MOST_JOBS
        moves = {
            self.submit: 3 if many else 20,
            self.can_do: 8,
            self.cant_do: 4,
            self.reset_abilities: 0.5,
            self.grab: 25,
            self.sleep: 20,
            self.report: 25,
            self.cancel: 8 if many else 2,
            self.leave: 1.5,
            self.pass_time: 6,
            self.limit_queue: 1,
            self.drop_function: 1,
            self.drain: 0.3,
            self.steer: 4,
            self.resume: 2,
            self.kick: 2,
            self.discard: 1,
            self.purge: 0.5,
            self.reprioritise: 3,
        }
        move = self.chance.choices(list(moves), list(moves.values()))[0]
        self.sleeping_before = [party for party in self.parties if party.sleeping]
        noops = move() or {}
        self.compare(noops)
        check(self.registry, self.parties)

    def compare(self, noops):
        """`noops`: the parties that must be posted so many of them; any other only one, and only if it slept."""
        for party in self.parties:
            self.follow_linger(party)
            posted = [packet for packet in party.got if packet[0] != NOOP]
            woken = len(party.got) - len(posted)
            assert posted == party.due_posts
            if party in noops:
                assert woken == noops[party]
            elif woken:
                assert woken == 1 and party in self.sleeping_before
                self.note_wake_up(party)
            party.got, party.due_posts = [], []
        jobs = all_jobs(self.registry)
        assert len(jobs) == len(self.model.jobs)
        for expected in self.model.jobs:
            job = jobs[expected.handle]
            assert job.function.name == expected.name and job.workload == expected.workload
            assert (job.state, job.worker, job.priority) == (expected.state, expected.worker, expected.priority)
            assert (job.background, job.retries) == (expected.background, expected.retries)
            assert (job.numerator, job.denominator) == expected.progress
            assert Counter(job.listeners or {}) == Counter(expected.listeners)
            assert (self.registry.uniques.find(key_of(job.unique, job.workload), job.function) is job) == expected.keyed
        assert set(self.registry.functions) == self.model.names

    def note_wake_up(self, party):
        party.sleeping = False
        party.would_linger = self.model.now - party.idle_since < self.linger_s

    def follow_linger(self, party):
        """A grab that lingered may have been answered: by any job that the party can do, or by NO_JOB where others were woken too."""
        if party.given:
            assert party.lingers_since is not None and len(party.given) == 1
            job = self.model.job(party.given.pop())
            assert job.state is QUEUED and job.name in party.order
            self.model.assign(job, party)
            party.served_last, party.never_served = job.name, False
            party.wake()
        elif party.lingers_since is not None and (int(NO_JOB), b"") in party.got[len(party.due_posts) :]:
            assert self.wakeups != 1
            party.due_posts.append((int(NO_JOB), b""))
            party.wake()

    # -- moves of clients

    def submit(self):
        chance, model = self.chance, self.model
        listener = self.party() if chance.random() < 0.5 else None
        name, priority = chance.choice(FUNCTIONS), chance.choice(list(Priority))
        unique, workload = chance.choice([b"", b"", b"", b"-", b"u", b"v", b"w"]), chance.choice([b"", b"1", b"2", b"3"])
        due_s = int(model.epoch_s) + chance.randrange(1, 8) if chance.random() < 0.15 else None
        key = None if unique == b"" else (unique, workload if unique == b"-" else None)
        if key == (b"-", b""):
            key = None
        twin = model.twin(name, key)
        asleep = [party for party in self.parties if party.sleeping and name in party.order]
        is_open = model.is_open(name) if name in model.names else True
        if listener is None and not unique and due_s is None and chance.random() < 0.7:
            result = handle = self.registry.submit_plain(name, workload, priority)
        else:
            result = self.registry.submit(listener, name, unique, workload, priority, due_s)
            handle = getattr(result, "handle", None)
        if model.draining:
            assert result is SHUTTING_DOWN
            return
        model.names.add(name)
        limit = model.limits.get(name, [None] * 3)[priority]
        if twin is not None:
            assert handle == twin.handle
            twin.background = twin.background or listener is None
            twin.listeners += [] if listener is None else [listener]
        elif limit is not None and len(model.of(name, QUEUED, RUNNING, SCHEDULED)) >= limit:
            assert result is QUEUE_FULL
        else:
            assert not isinstance(result, Refusal) and handle not in self.handles
            self.handles.append(handle)
            job = ModelJob(handle, name, key, workload, priority, listener)
            model.jobs.append(job)
            model.enqueue(job)
            if due_s is None:
                woken = sum(1 for party in asleep for kind, _ in party.got if kind in (NOOP, NO_JOB))
                woken += sum(len(party.given) for party in asleep)
                most = min(self.wakeups, len(asleep)) if self.wakeups else len(asleep)
                assert woken == most if name not in model.policies else woken <= (most if is_open else 0)
            else:
                job.state, job.due_s = SCHEDULED, due_s

    def cancel(self):
        handle = self.chance.choice(self.handles[-60:])
        job = self.model.job(handle)
        assert revival.cancel(self.registry, handle) == (job is not None)
        if job is not None:
            self.model.fail(job)

    # -- moves of workers

    def can_do(self):
        party, name = self.party(), self.chance.choice(FUNCTIONS)
        timeout_s = self.chance.choice([None, None, 0.5, 2.0, 5.0])
        is_new = name not in party.order
        self.registry.can_do(party, name, timeout_s)
        self.model.names.add(name)
        party.timeouts[name] = None if timeout_s is None else max(timeout_s, MINIMUM_TIMEOUT_S)
        if is_new:
            party.order.append(name)
        if is_new and party.sleeping and self.model.of(name, QUEUED) and self.model.is_open(name):
            self.note_wake_up(party)
            return {party: 1}
        return {party: 0}

    def cant_do(self):
        party, name = self.party(), self.chance.choice(FUNCTIONS)
        self.registry.cant_do(party, name)
        self.model.withdraw(party, name)

    def reset_abilities(self):
        party = self.party()
        self.registry.reset_abilities(party)
        for name in list(party.order):
            self.model.withdraw(party, name)

    def grab(self):
        party = self.party()
        allowed = {job.handle: job for job in self.model.allowed(party)}
        party.sleeping = False
        found = self.registry.grab(party)
        if not allowed:
            assert found is None
            assert self.registry.linger(party, Walker.give) == party.would_linger
            if party.would_linger:
                party.sleeping, party.lingers_since = True, self.model.now
            return {party: 0}
        job = allowed[found.handle]
        self.model.assign(job, party)
        party.served_last, party.never_served = job.name, False
        return {party: 0}

    def sleep(self):
        party = self.party()
        self.registry.sleep(party)
        if self.model.grabbable(party):
            return {party: 1}
        party.sleeping, party.idle_since = True, self.model.now
        return {party: 0}

    def report(self):
        chance, model = self.chance, self.model
        party = self.party()
        own = list(party.running)
        lost = sorted(handle for handle in party.held_once if model.job(handle) is not None)
        handle = chance.choice(own if own and chance.random() < 0.6 else lost or own or self.handles[-60:])
        if chance.random() < 0.1:
            handle = chance.choice(self.handles[-60:])
        known = handle in party.held_once or handle in party.running
        how = chance.choice(["relay", "progress", "finish", "finish", "finish", "exception", "fail"])
        body = handle + b"\0" + b"%d" % chance.randrange(1000)
        if how == "relay":
            assert self.registry.relay(party, handle, PacketType.WORK_DATA, body) == known
        elif how == "progress":
            assert self.registry.progress(party, handle, 3, 4, PacketType.WORK_STATUS, body) == known
        elif how == "finish":
            assert self.registry.finish(party, handle, PacketType.WORK_COMPLETE, body) == known
        elif how == "fail":
            assert self.registry.finish(party, handle, WORK_FAIL, handle) == known
        else:
            assert self.registry.finish_with_exception(party, handle, body) == known
        job = model.held(party, handle)
        if job is None or (how in ("exception", "fail") and model.has_another_attempt(job)):
            return
        if how == "fail":
            model.tell(job, WORK_FAIL, handle)
        elif how == "exception":
            for listener in job.listeners:
                packet = (int(WORK_EXCEPTION), body) if listener.exceptions else (int(WORK_FAIL), handle)
                listener.due_posts.append(packet)
        else:
            kinds = {"relay": PacketType.WORK_DATA, "progress": PacketType.WORK_STATUS, "finish": PacketType.WORK_COMPLETE}
            model.tell(job, kinds[how], body)
        if how == "progress":
            job.progress = (3, 4)
        if how == "finish":
            model.end(job)
        elif how in ("exception", "fail"):
            model.bury_or_end(job)

    def leave(self):
        party = self.chance.choice(self.parties)
        self.parties.remove(party)
        self.registry.leave(party)
        for name in list(party.order):
            self.model.withdraw(party, name)
        self.model.leave(party)
        self.join()

    # -- time and the operator

    def pass_time(self):
        passed = self.chance.choice([0.0, 0.3, 0.5, 1.0, 2.5])
        for each in (self.registry, self.model):
            each.now += passed
            each.epoch_s += passed
        for party in self.parties:
            if party.lingers_since is not None and party.lingers_since + self.linger_s <= self.model.now:
                party.wake()
                party.would_linger = False
                party.due_posts.append((int(NO_JOB), b""))
        self.registry.tick()
        self.model.tick()

    def limit_queue(self):
        name = self.chance.choice(FUNCTIONS)
        limits = [self.chance.choice([None, None, 0, 3, 10]) for _ in Priority]
        self.registry.functions.limit_queue(name, limits)
        self.model.limits[name] = limits
        self.model.names.add(name)

    def drop_function(self):
        name = self.chance.choice(FUNCTIONS)
        used = bool(self.model.of(name)) or any(name in party.order for party in self.parties)
        known = name in self.model.names
        assert steering.drop(self.registry, name) is ((not used) if known else None)
        if known and not used:
            self.model.names.remove(name)
            self.model.limits.pop(name, None)
            self.model.policies.pop(name, None)

    def steer(self):
        chance = self.chance
        values = {
            "paused": chance.random() < 0.2,
            "most_running": chance.choice([None, None, 1, 2]),
            "rate": chance.choice([None, None, None, 0.5, 2.0, 20.0]),
            "attempts": chance.choice([None, None, 1, 2, 3]),
        }
        self.change(chance.choice(FUNCTIONS), dict(chance.sample(sorted(values.items()), chance.randrange(1, 5))))

    def resume(self):
        self.change(self.chance.choice(FUNCTIONS), {"paused": False, "most_running": None})

    def change(self, name, values):
        policy = steering.change(self.registry, name, values)
        assert policy == self.model.policy(name)._replace(**values)
        self.model.names.add(name)
        self.model.policies[name] = policy
        if policy == NOTHING:
            del self.model.policies[name]

    def _first_buried(self):
        name, most = self.chance.choice(FUNCTIONS), self.chance.randrange(1, 4)
        return name, most, sorted(self.model.of(name, BURIED), key=lambda job: job.place)[:most]

    def kick(self):
        name, most, jobs = self._first_buried()
        assert steering.kick(self.registry, name, most) == len(jobs)
        for job in jobs:
            self.model.kick(job)

    def discard(self):
        name, most, jobs = self._first_buried()
        assert steering.discard(self.registry, name, most, None) == len(jobs)
        for job in jobs:
            self.model.fail(job)

    def purge(self):
        name, priority = self.chance.choice(FUNCTIONS), self.chance.choice(list(Priority))
        jobs = [job for job in self.model.of(name, QUEUED) if job.priority == priority]
        assert steering.purge(self.registry, name, priority, self.model.now, None) == len(jobs)
        for job in sorted(jobs, key=lambda job: job.place):
            self.model.fail(job)

    def reprioritise(self):
        handle, priority = self.chance.choice(self.handles[-60:]), self.chance.choice(list(Priority))
        job = self.model.job(handle)
        moves = None if job is None else job.state is not RUNNING
        assert steering.reprioritise(self.registry, handle, priority) is moves
        if moves:
            job.priority = priority
            if job.state is QUEUED:
                job.place = self.model.place()

    def drain(self):
        self.registry.draining = self.model.draining = self.chance.random() < 0.2


@pytest.mark.parametrize("seed", range(12))
def test_random_walk_agrees_with_the_model_and_keeps_the_invariants(seed):
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()


@pytest.mark.parametrize("seed", range(30))
def test_jobs_after_a_random_walk_are_all_done_by_the_sleepers_that_are_woken(seed):
    walk = Walk(seed)
    for _ in range(200):
        walk.step()
    registry = walk.registry
    # Whoever is awake now has hung: it never says a word again. A fresh
    # worker sleeps beside each of them.
    for name in FUNCTIONS:
        steering.change(registry, name, {"paused": False, "most_running": None})
    parties = [Walker(1000 + number, False) for number in range(3)]
    for party in parties:
        registry.sleep(party)
        for name in FUNCTIONS:
            registry.can_do(party, name)
    for _ in range(200):
        registry.now += GRACE_S
        registry.epoch_s += GRACE_S
        registry.tick()
        for party in parties:
            if not party.got:
                continue
            party.got = []
            job = registry.grab(party)
            if job is not None:
                registry.finish(party, job.handle, PacketType.WORK_COMPLETE, job.handle + b"\0")
            registry.sleep(party)
    assert not any(function.live or function.scheduled for function in registry.functions.values())
