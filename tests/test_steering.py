"""What an operator does with functions and jobs: the decisions without a thread; then each over the wire, through HTTP, and after a restart."""

from __future__ import annotations

import base64
import json
import logging
import time

import pytest

from gearmand import Server, operations, revival, steering, stores
from gearmand.audit import CANCELLED
from gearmand.config import Config
from gearmand.dormant import Tail
from gearmand.jobs import BURIED, QUEUED, SCHEDULED, Priority
from gearmand.policy import NOTHING, Burial, Policy, checked, no_burial, of_burial, of_function, to_burial, to_function
from gearmand.results import Results
from gearmand.rows import Change, Setting, Submission
from gearmand.store import Work
from test_registry import NOOP, WORK_COMPLETE, WORK_EXCEPTION, WORK_FAIL, background, complete, foreground, grab_all, make, worker, Fake
from test_server import Background
from web import Api, OverHttp
from wire import (
    GRAB_JOB,
    JOB_ASSIGN,
    NO_JOB,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    Wire,
    wait_until,
)

HIGH, NORMAL, LOW = Priority


def change(registry, **values):
    return steering.change(registry, b"f", values)


def plain(registry, *workloads, priority=NORMAL):
    return [registry.submit_plain(b"f", workload, priority) for workload in workloads]


# -- pausing, and how many at once ---------------------------------------------------


def test_paused_function_accepts_jobs_and_gives_out_none():
    registry = make()
    party = worker(registry, b"f", b"g", asleep=True)
    change(registry, paused=True)
    plain(registry, b"1", b"2")
    background(registry, unique=b"u", workload=b"3")
    assert party.take() == [] and registry.grab(party) is None
    background(registry, b"g", workload=b"other")
    assert grab_all(registry, party) == [b"other"]
    change(registry, paused=False)
    assert grab_all(registry, party) == [b"1", b"2", b"3"]


def test_function_that_is_paused_is_so_for_workers_that_come_later():
    registry = make()
    plain(registry, b"1")
    change(registry, paused=True)
    party = worker(registry, b"f")
    assert registry.grab(party) is None
    registry.sleep(party)
    assert party.take() == []
    change(registry, paused=False)
    assert party.take() == [(NOOP, b"")] and registry.grab(party).workload == b"1"


@pytest.mark.parametrize("jobs, sleepers, woken", [(1, 3, 1), (3, 2, 2), (0, 2, 0)])
def test_resuming_wakes_a_sleeper_for_each_job(jobs, sleepers, woken):
    registry = make()
    change(registry, paused=True)
    parties = [worker(registry, b"f", asleep=True) for _ in range(sleepers)]
    plain(registry, *[b"w"] * jobs)
    change(registry, paused=False)
    assert sum(party.take() == [(NOOP, b"")] for party in parties) == woken


def test_no_more_than_so_many_run_at_once():
    registry = make()
    change(registry, most_running=2)
    parties = [worker(registry, b"f") for _ in range(3)]
    plain(registry, b"1", b"2", b"3", b"4")
    first, second, third = [registry.grab(party) for party in parties]
    assert (first.workload, second.workload, third) == (b"1", b"2", None)
    registry.sleep(parties[2])
    assert parties[2].take() == []
    complete(registry, parties[0], first)
    assert parties[2].take() == [(NOOP, b"")]
    assert registry.grab(parties[2]).workload == b"3" and registry.grab(parties[0]) is None
    change(registry, most_running=None)
    assert registry.grab(parties[0]).workload == b"4"


def test_lost_worker_makes_room_for_another():
    registry = make()
    change(registry, most_running=1)
    one, other = worker(registry, b"f"), worker(registry, b"f")
    plain(registry, b"1", b"2")
    registry.grab(one)
    registry.sleep(other)
    registry.leave(one)
    assert other.take() == [(NOOP, b"")]
    assert registry.grab(other).workload == b"2" and registry.grab(other) is None


def test_rate_is_kept_over_seconds_and_catches_up_little():
    registry = make()
    registry.now = 100.0
    change(registry, rate=10)
    party = worker(registry, b"f")
    plain(registry, *[b"w"] * 1000)
    given_out = []
    for hundredth in range(301):
        registry.now = 100 + hundredth / 100
        steps = len(grab_all(registry, party))
        registry.tick()
        given_out.append(steps)
    assert 30 <= sum(given_out) <= 33 and max(given_out) <= 2
    registry.now += 60
    registry.tick()
    assert len(grab_all(registry, party)) <= 3


def test_rate_opens_by_itself_and_wakes_a_sleeper():
    registry = make()
    change(registry, rate=2)
    party = worker(registry, b"f")
    plain(registry, b"1", b"2")
    assert registry.grab(party).workload == b"1"
    assert registry.grab(party) is None
    registry.sleep(party)
    assert registry.next_due() == pytest.approx(0.5)
    registry.now = 0.51
    registry.tick()
    assert party.take() == [(NOOP, b"")] and registry.grab(party).workload == b"2"


# -- attempts ------------------------------------------------------------------------


def fail(registry, party, job):
    return registry.finish(party, job.handle, WORK_FAIL, job.handle)


def test_failure_gets_another_attempt_and_the_client_hears_of_the_last_one_alone():
    registry = make()
    change(registry, attempts=3)
    client, party = Fake(), worker(registry, b"f")
    handle = foreground(registry, client).handle
    for _ in range(2):
        assert fail(registry, party, registry.grab(party))
        assert client.take() == []
    assert fail(registry, party, registry.grab(party))
    assert client.take() == [(WORK_FAIL, handle)] and not registry.jobs
    tally = registry.functions[b"f"].tally
    assert (tally.retried, tally.failed, tally.buried, tally.runs.count) == (2, 1, 0, 3)


def test_attempt_that_succeeds_is_a_success():
    registry = make()
    change(registry, attempts=2)
    client, party = Fake(), worker(registry, b"f")
    foreground(registry, client)
    fail(registry, party, registry.grab(party))
    job = registry.grab(party)
    complete(registry, party, job)
    assert client.take() == [(WORK_COMPLETE, job.handle + b"\0done")]


def test_background_job_without_attempts_left_is_buried_with_the_last_exception():
    registry = make()
    registry.epoch_s = 1000.0
    change(registry, attempts=2)
    party = worker(registry, b"f")
    plain(registry, b"w")
    for text in (b"first", b"last"):
        job = registry.grab(party)
        assert registry.finish_with_exception(party, job.handle, job.handle + b"\0" + text)
        # Many workers say this too, and it is about the same attempt.
        assert fail(registry, party, job)
    function = registry.functions[b"f"]
    assert job.state is BURIED and (function.jobs, function.running, len(function.buried)) == (0, 0, 1)
    assert registry.grab(party) is None
    assert steering.buried(registry, b"f", 9) == [steering.Buried(job.handle, b"", 1000.0, b"last", b"w")]
    assert steering.kick(registry, b"f", 9) == 1 and function.jobs == 1 and not function.buried
    assert registry.grab(party) is job and job.retries == 0
    complete(registry, party, job)
    assert not registry.jobs and function.jobs == 0


def test_worker_that_reported_a_failure_cannot_report_on_the_next_attempt():
    registry = make()
    change(registry, attempts=5)
    party, other = worker(registry, b"f"), worker(registry, b"f")
    plain(registry, b"w")
    job = registry.grab(party)
    fail(registry, party, job)
    assert complete(registry, party, job) and job.state is QUEUED
    assert registry.grab(other) is job
    assert fail(registry, party, job) and job.worker is other


def test_lost_workers_use_attempts_up_too():
    registry = make()
    change(registry, attempts=2)
    plain(registry, b"w")
    for _ in range(2):
        party = worker(registry, b"f")
        registry.grab(party)
        registry.leave(party)
    assert [each.why for each in steering.buried(registry, b"f", 9)] == [b"its attempts were used up: 2"]


def test_back_off_doubles_with_jitter_and_ends_at_an_hour():
    policy = Policy(backoff_s=10.0)
    for retries, longest in ((1, 10), (2, 20), (3, 40), (10, 3600), (1000, 3600)):
        delays = {policy.delay_s(b"H:%d" % number, retries) for number in range(50)}
        assert len(delays) == 50 and longest / 2 <= min(delays) and max(delays) <= longest


def test_job_that_backs_off_is_scheduled_and_returns():
    registry = make()
    registry.epoch_s = 1000.0
    change(registry, attempts=3, backoff_s=10.0)
    party = worker(registry, b"f")
    plain(registry, b"w")
    job = registry.grab(party)
    fail(registry, party, job)
    assert job.state is SCHEDULED and registry.grab(party) is None
    assert 5 <= registry.next_due() <= 10
    registry.epoch_s += 10
    registry.tick()
    assert registry.grab(party) is job


def test_unique_of_a_buried_job_is_free():
    registry = make()
    change(registry, attempts=1)
    party = worker(registry, b"f")
    first = background(registry, unique=b"u")
    fail(registry, party, registry.grab(party))
    second = background(registry, unique=b"u")
    assert second is not first
    steering.kick(registry, b"f", 1)
    assert background(registry, unique=b"u") is second
    for _ in range(2):
        complete(registry, party, registry.grab(party))
    assert not registry.jobs and not len(registry.uniques)


def test_listeners_of_a_job_that_is_buried_hear_that_it_failed_and_no_more():
    registry = make()
    change(registry, attempts=1)
    client, party = Fake(), worker(registry, b"f")
    background(registry, unique=b"u")
    job = foreground(registry, client, unique=b"u")
    fail(registry, party, registry.grab(party))
    assert client.take() == [(WORK_FAIL, job.handle)] and job.state is BURIED
    registry.leave(client)
    steering.kick(registry, b"f", 1)
    complete(registry, party, registry.grab(party))
    assert client.take() == []


def test_discarded_job_is_gone():
    registry = make()
    change(registry, attempts=1)
    party = worker(registry, b"f")
    plain(registry, b"1", b"2", b"3")
    for _ in range(3):
        fail(registry, party, registry.grab(party))
    assert steering.discard(registry, b"f", 2, None) == 2
    assert [each.workload for each in steering.buried(registry, b"f", 9)] == [b"3"]
    assert registry.cancel(steering.buried(registry, b"f", 9)[0].handle)
    assert not registry.jobs and not registry.functions[b"f"].used or registry.functions[b"f"].workers


# -- expiry --------------------------------------------------------------------------


def test_job_that_has_waited_too_long_fails():
    registry = make()
    change(registry, expiry_s=10)
    client = Fake()
    old = foreground(registry, client, workload=b"old")
    plain(registry, b"old")
    registry.now = 5.0
    plain(registry, b"new")
    for now in (9.0, 10.1):
        registry.now = now
        registry.tick()
        steering.sweep(registry)
    assert client.take() == [(WORK_FAIL, old.handle)]
    assert registry.functions[b"f"].tally.expired == 2
    assert grab_all(registry, worker(registry, b"f")) == [b"new"]


def test_expiry_looks_at_many_in_pieces():
    registry = make()
    change(registry, expiry_s=1)
    plain(registry, *[b"w"] * 2500)
    for turns in range(1, 9):
        registry.now = 2.0 + turns
        steering.sweep(registry)
        if not registry.functions[b"f"].jobs:
            break
    assert turns == 3


# -- one job, or many ----------------------------------------------------------------


def test_purge_cancels_what_waits_and_nothing_else():
    registry = make()
    party = worker(registry, b"f")
    plain(registry, b"runs")
    running = registry.grab(party)
    client = Fake()
    waits = foreground(registry, client)
    plain(registry, b"1", b"2")
    plain(registry, b"low", priority=LOW)
    assert steering.purge(registry, b"f", NORMAL, 1000, None) == 3
    assert client.take() == [(WORK_FAIL, waits.handle)]
    assert registry.functions[b"f"].jobs == 2 and list(registry.jobs) == [running.handle]
    assert steering.purge(registry, b"none", NORMAL, 1000, None) == 0
    assert grab_all(registry, party) == [b"low"]


def test_peek_is_in_the_order_of_service_and_takes_nothing():
    registry = make()
    plain(registry, b"1", b"2")
    background(registry, unique=b"u", workload=b"high", priority=HIGH)
    registry.now = 2.5
    found = steering.peek(registry, b"f", 2)
    assert [(each.workload, each.unique, each.priority, each.waits_s) for each in found] == [(b"high", b"u", HIGH, 2.5), (b"1", b"", NORMAL, 2.5)]
    assert grab_all(registry, worker(registry, b"f")) == [b"high", b"1", b"2"]


def test_job_of_another_priority_is_last_there_and_once():
    registry = make()
    plain(registry, b"low", priority=LOW)
    one, two = plain(registry, b"1", b"2")
    three = background(registry, unique=b"u", workload=b"3").handle
    for handle in (one, three):
        for priority in (LOW, HIGH, LOW, NORMAL, LOW):
            assert steering.reprioritise(registry, handle, priority) is True
    assert grab_all(registry, worker(registry, b"f")) == [b"2", b"low", b"1", b"3"]
    assert steering.reprioritise(registry, one, HIGH) is None
    assert registry.functions[b"f"].jobs == registry.functions[b"f"].queued == 0


def test_job_that_runs_has_the_priority_that_it_has():
    registry = make()
    (handle,) = plain(registry, b"w")
    registry.grab(worker(registry, b"f"))
    assert steering.reprioritise(registry, handle, HIGH) is False


def test_scheduled_job_comes_with_its_new_priority():
    registry = make()
    handle = background(registry, due_s=100, workload=b"later").handle
    assert steering.reprioritise(registry, handle, HIGH)
    plain(registry, b"now")
    registry.epoch_s = 101
    registry.tick()
    assert grab_all(registry, worker(registry, b"f")) == [b"later", b"now"]


@pytest.mark.parametrize("wants", [False, True])
def test_worker_hears_of_a_cancellation_if_it_wants_to(wants):
    registry = make()
    party = worker(registry, b"f")
    party.cancellations = wants
    plain(registry, b"w")
    job = registry.grab(party)
    assert registry.cancel(job.handle)
    assert party.take() == [(WORK_FAIL, job.handle)] * wants
    assert complete(registry, party, job)


# -- written down --------------------------------------------------------------------


@pytest.mark.parametrize("limits, policy", [
    (None, Policy(True, 3, 0.5, 5, 1.0, 60.0, 10.0)), ([1, None, 3], None), ([None, None, 7], Policy(paused=True)),
])  # fmt: skip
def test_what_was_set_is_written_down_and_read(limits, policy):
    assert to_function(of_function(b"\xff f", limits, policy)) == (b"\xff f", limits, policy)


def test_nothing_set_is_nothing_written():
    assert of_function(b"f", None, NOTHING).value is None and of_function(b"f", None, None).value is None


def test_burial_is_written_down_and_read():
    assert to_burial(of_burial(7, Burial(1.5, b"\xffwhy"))) == (7, Burial(1.5, b"\xffwhy"))


@pytest.mark.parametrize("key, value", [
    (b"function:f", "[]"), (b"function:f", '{"paused": 1}'), (b"function:f", '{"attempts": 0}'), (b"function:f", '{"limits": [1]}'),
    (b"function:f", "{"), (b"buried:x", '{"epoch_s": 1, "why": ""}'), (b"buried:1", "{}"), (b"buried:1", '{"epoch_s": 1, "why": 2}'),
])  # fmt: skip
def test_damaged_setting_is_named(key, value):
    with pytest.raises(ValueError, match="the setting .* is damaged"):
        steering.restored([Setting(key, value)])


@pytest.mark.parametrize("values, what", [
    ({"attempts": 0}, "attempts: expected a whole number from 1"), ({"attempts": 1.5}, "attempts"), ({"rate": 0}, "rate: expected a number from 0.001"),
    ({"backoff_s": -1}, "backoff_s"), ({"expiry_s": float("nan")}, "expiry_s"), ({"paused": 1}, "paused: expected true or false"),
    ({"most_running": True}, "most_running"), ({"nothing": 1}, "nothing: there is no such setting"), ({"keep_s": "1"}, "keep_s"),
])  # fmt: skip
def test_wrong_value_is_named(values, what):
    with pytest.raises(ValueError, match=what):
        checked(values)
    registry = make()
    with pytest.raises(ValueError):
        steering.change(registry, b"f", values)
    assert b"f" not in registry.functions


# -- by both ways in -----------------------------------------------------------------


class ByLine:
    """Administrative commands."""

    def __init__(self, server):
        self.wire = Wire(server.address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def table(self, line):
        return [row.split("\t") for row in self.wire.table(line)]

    def pause(self):
        assert self.wire.ask("pause function f") == "OK"

    def resume(self):
        assert self.wire.ask("resume function f") == "OK"

    def policy(self, **values):
        written = {name: "none" if value is None else json.dumps(value) for name, value in values.items()}
        words = ["%s=%s" % item for item in written.items()]
        assert dict(self.table(" ".join(["policy f", *words]))).items() >= written.items()

    def purge(self):
        return int(self.wire.ask("purge f").split()[1])

    def peek(self):
        return [(handle, priority, json.loads(workload)) for handle, _, priority, _, _, _, workload in self.table("peek f")]

    def reprioritise(self, handle, priority):
        assert self.wire.ask("reprioritise job %s %s" % (handle, priority)) == "OK"

    def buried(self):
        return [(row[0], json.loads(row[4])) for row in self.table("buried f")]

    def kick(self):
        return int(self.wire.ask("kick f").split()[1])

    def discard(self):
        return int(self.wire.ask("discard f").split()[1])

    def cancel(self, handle):
        assert self.wire.ask("cancel job " + handle) == "OK"


class ByHttp(OverHttp):
    def pause(self):
        assert self.api("POST", "/functions/f/pause")["paused"]

    def resume(self):
        assert not self.api("POST", "/functions/f/resume")["paused"]

    def policy(self, **values):
        found = self.api("PUT", "/functions/f/policy", values)["policy"]
        assert {name: found[name] for name in values} == values

    def purge(self):
        return self.api("POST", "/functions/f/purge")["purged"]

    def peek(self):
        return [(row["handle"], row["priority"], row["workload"]) for row in self.api.get("/functions/f/peek")["jobs"]]

    def reprioritise(self, handle, priority):
        self.api("POST", "/jobs/%s/priority" % handle, {"priority": priority})

    def buried(self):
        return [(row["handle"], row["why"]) for row in self.api.get("/functions/f/buried")["jobs"]]

    def kick(self):
        return self.api("POST", "/functions/f/kick")["kicked"]

    def discard(self):
        return self.api("POST", "/functions/f/discard")["discarded"]

    def cancel(self, handle):
        self.api("DELETE", "/jobs/" + handle)


@pytest.fixture(params=[ByLine, ByHttp])
def way(request):
    return request.param


@pytest.fixture
def server():
    with Server(port=0, http_port=0) as server:
        yield server


@pytest.fixture
def steered(server, way):
    with way(server) as steered:
        yield steered


@pytest.fixture
def client(server):
    with Wire(server.address) as wire:
        yield wire


@pytest.fixture
def party(server):
    with Wire(server.address) as wire:
        wire.can_do(b"f")
        yield wire


def nothing_to_do(party):
    party.send(GRAB_JOB)
    return party.receive()[0] == NO_JOB


def test_pause_and_resume(steered, client, party):
    steered.pause()
    client.submit(b"f", kind=SUBMIT_JOB_BG, workload=b"w")
    assert nothing_to_do(party)
    party.send(PRE_SLEEP)
    steered.resume()
    party.expect(6)
    assert party.grab()[2] == b"w"


def test_purge_peek_and_priorities(steered, client, party):
    handles = [client.submit(b"f", kind=SUBMIT_JOB_BG, workload=b"w%d" % number).decode() for number in range(3)]
    steered.reprioritise(handles[2], "high")
    assert steered.peek() == [(handles[2], "high", "w2"), (handles[0], "normal", "w0"), (handles[1], "normal", "w1")]
    assert party.grab()[2] == b"w2"
    assert steered.purge() == 2 and nothing_to_do(party)


def test_attempts_burial_kick_and_discard(steered, client, party):
    steered.policy(attempts=2)
    handles = [client.submit(b"f", kind=SUBMIT_JOB_BG).decode() for _ in range(2)]
    for _ in range(4):
        handle = party.grab()[0]
        party.send(WORK_EXCEPTION, handle, "kaputt ü".encode())
        party.send(WORK_FAIL, handle)
    party.echo()
    assert sorted(steered.buried()) == sorted((handle, "kaputt ü") for handle in handles)
    assert steered.kick() == 2 and steered.buried() == []
    for _ in range(4):
        party.send(WORK_FAIL, party.grab()[0])
    party.echo()
    assert len(steered.buried()) == 2 and steered.discard() == 2 and steered.buried() == []


def test_most_running_and_rate(steered, client, party, server):
    steered.policy(most_running=1)
    for _ in range(30):
        client.submit(b"f", kind=SUBMIT_JOB_BG)
    handle = party.grab()[0]
    assert nothing_to_do(party)
    party.send(WORK_COMPLETE, handle, b"")
    steered.policy(rate=20.0)
    began = time.monotonic()
    for _ in range(11):
        party.send(PRE_SLEEP)
        party.expect(6)
        party.send(WORK_COMPLETE, party.grab()[0], b"")
    assert 0.35 <= time.monotonic() - began


def test_expiry_ends_the_wait_of_a_client(steered, client):
    steered.policy(expiry_s=0.2)
    handle = client.submit(b"f", kind=SUBMIT_JOB)
    assert client.expect(WORK_FAIL) == [handle]


def test_cancelling_a_job_that_runs_tells_a_worker_that_wants_to_know(steered, client, party):
    party.send(OPTION_REQ, b"cancellations")
    assert party.expect(OPTION_RES) == [b"cancellations"]
    handle = client.submit(b"f", kind=SUBMIT_JOB)
    party.grab()
    steered.cancel(handle.decode())
    assert party.expect(WORK_FAIL) == client.expect(WORK_FAIL) == [handle]
    party.send(WORK_COMPLETE, handle, b"too late")
    assert nothing_to_do(party)


@pytest.mark.parametrize("line, answer", [
    ("pause f", "ERR INVALID_ARGUMENTS"), ("policy", "ERR INVALID_ARGUMENTS"), ("policy f attempts", "ERR INVALID_ARGUMENTS Expected"),
    ("policy f attempts=" + "[" * 7000, "ERR INVALID_ARGUMENTS attempts:+expected+a+number"), ("policy f attempts=" + "9" * 400, "ERR INVALID_ARGUMENTS"),
    ("policy f attempts=x", "ERR INVALID_ARGUMENTS"), ("policy f attempts=0", "ERR INVALID_ARGUMENTS attempts:+expected+a+whole+number"),
    ("policy none", "ERR UNKNOWN_FUNCTION"), ("purge f middle", "ERR INVALID_ARGUMENTS Expected+high"), ("reprioritise H:1 high", "ERR INVALID_ARGUMENTS"),
    ("reprioritise job H:1 high", "ERR UNKNOWN_JOB"), ("reprioritise job H:1 x", "ERR INVALID_ARGUMENTS"), ("peek f -1", "ERR INVALID_ARGUMENTS"),
    ("kick", "ERR INVALID_ARGUMENTS"), ("purge none", "OK 0"), ("kick none", "OK 0"), ("discard f 3", "OK 0"),
])  # fmt: skip
def test_line_that_says_nothing_is_answered_so(client, line, answer):
    found = client.ask(line)
    assert found.lower().startswith(answer.lower())


# -- results -------------------------------------------------------------------------


def test_results_are_kept_for_a_time_and_within_their_bound():
    results = Results(2000)
    results.keep(b"H:1", b"f", b"u", "complete", b"x" * 300, 5.0, 0.0, 10.0)
    results.keep(b"H:2", b"f", b"u", "fail", b"", 6.0, 1.0, 100.0)
    assert results.find(b"H:1", 9.9).data == b"x" * 300 and results.of_unique(b"f", b"u", 9.9).handle == b"H:2"
    assert results.find(b"H:1", 10.0) is None and results.of_unique(b"f", b"u", 10.0).handle == b"H:2"
    results.keep(b"H:3", b"f", b"", "complete", b"x" * 1400, 7.0, 11.0, 10.0)
    assert results.find(b"H:2", 11.0) is None and results.of_unique(b"f", b"u", 11.0) is None
    results.keep(b"H:4", b"f", b"", "complete", b"x" * 1600, 7.0, 11.0, 10.0)
    assert len(results) == 1 and results.find(b"H:4", 11.0) is None
    results.keep(b"H:3", b"f", b"", "complete", b"", 7.0, 11.0, 10.0)
    assert (len(results), results.bytes) == (1, 500)


def test_result_of_a_background_job_is_there_afterwards(server, client, party):
    with Api(server) as asked:
        asked("PUT", "/functions/f/policy", {"keep_s": 60})
        handle = client.submit(b"f", unique=b"u", kind=SUBMIT_JOB_BG)
        assert client.ask("result unique f u").startswith("ERR NO_RESULT")
        party.send(WORK_COMPLETE, party.grab()[0], b"42")
        line = wait_until(lambda: (lambda found: found if found.startswith("OK") else None)(client.ask("result job %s" % handle.decode())), "it is there")
        assert line.split()[1:3] == [handle.decode(), "complete"] and base64.b64decode(line.split()[4]) == b"42"
        assert client.ask("result unique f u") == line
        for path in ("/jobs/%s/result" % handle.decode(), "/functions/f/results/u"):
            assert asked.get(path)["result"] == "42"
        handle = client.submit(b"f", kind=SUBMIT_JOB_BG)
        party.send(WORK_EXCEPTION, party.grab()[0], b"why")
        party.echo()
        found = asked("GET", "/jobs/%s/result" % handle.decode(), status=500)
        assert found["error"] == {"code": "WORK_EXCEPTION", "text": "the worker raised an exception", "data": "why"}
        assert "result" not in client.ask("status")


def test_result_of_a_foreground_job_or_without_keep_is_not_kept(server, client, party):
    handle = client.submit(b"f", kind=SUBMIT_JOB_BG)
    party.send(WORK_COMPLETE, party.grab()[0], b"42")
    party.echo()
    assert client.ask("result job %s" % handle.decode()).startswith("ERR NO_RESULT")
    operations.change_policy(server.broker, b"f", {"keep_s": 60})
    handle = client.submit(b"f", kind=SUBMIT_JOB)
    party.send(WORK_COMPLETE, party.grab()[0], b"42")
    client.expect(WORK_COMPLETE)
    assert client.ask("result job %s" % handle.decode()).startswith("ERR NO_RESULT")


# -- afterwards ----------------------------------------------------------------------


def test_what_was_set_and_what_was_buried_survive(tmp_path, way):
    options = {"port": 0, "http_port": 0, "queue": str(tmp_path / "queue")}
    with Server(**options) as server, way(server) as steered, Wire(server.address) as wire:
        steered.policy(attempts=1)
        wire.can_do(b"f")
        buried, kicked, waits = [wire.submit(b"f", kind=SUBMIT_JOB_BG, workload=b"w%d" % number).decode() for number in range(3)]
        for _ in range(2):
            wire.send(WORK_EXCEPTION, wire.grab()[0], b"why")
        wait_until(lambda: len(steered.buried()) == 2, "both are buried")
        steered.reprioritise(waits, "high")
        steered.pause()
    with Server(**options) as server, way(server) as steered, Wire(server.address) as wire:
        assert steered.buried() == [(buried, "why"), (kicked, "why")]
        assert steered.peek() == [(waits, "high", "w2")]
        wire.can_do(b"f")
        assert nothing_to_do(wire)
        steered.resume()
        handle = wire.grab()[0]
        assert handle.decode() == waits
        wire.send(WORK_COMPLETE, handle, b"")
        wire.echo()
        wire.send(PRE_SLEEP)
        assert steered.kick() == 2
    with Server(**options) as server, way(server) as steered:
        assert steered.buried() == []
        assert {handle for handle, _, _ in steered.peek()} == {buried, kicked}
        assert steered.purge() == 2
        steered.policy(attempts=None)
    with Server(**options) as server, way(server) as steered:
        assert steered.peek() == steered.buried() == []
        assert server.broker.registry.functions == {}


def test_job_that_runs_when_the_server_stops_has_not_used_an_attempt_up(tmp_path):
    options = {"port": 0, "queue": str(tmp_path / "queue")}
    server = Server(**options).start()
    with Wire(server.address) as wire:
        operations.change_policy(server.broker, b"f", {"attempts": 1})
        wire.can_do(b"f")
        handle = wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.grab()
        server.stop()
    with Server(**options) as server, Wire(server.address) as wire:
        wire.can_do(b"f")
        assert wire.grab()[0] == handle


@pytest.mark.parametrize("priority", [NORMAL, HIGH])
def test_job_that_backs_off_does_so_after_a_restart_too(tmp_path, priority):
    options = {"port": 0, "queue": str(tmp_path / "queue")}
    with Server(**options) as server, Wire(server.address) as wire:
        operations.change_policy(server.broker, b"f", {"attempts": 3, "backoff_s": 600.0})
        wire.can_do(b"f")
        handle = wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.send(WORK_FAIL, wire.grab()[0])
        wire.echo()
        due_s = server.broker.registry.jobs[handle].due_s
        assert 299 <= due_s - time.time() <= 602
        # What else becomes different of it leaves that as it is.
        assert priority is NORMAL or operations.reprioritise(server.broker, handle, priority)
    with Server(**options) as server, Wire(server.address) as wire:
        wire.can_do(b"f")
        assert nothing_to_do(wire)
        job = server.broker.registry.jobs[handle]
        assert (job.state, job.due_s, job.retries, job.priority) == (SCHEDULED, due_s, 1, priority)


def test_job_that_has_backed_off_waits_since_then_after_a_restart():
    registry = make()
    registry.stored, registry.epoch_s, registry.now = True, 2000.0, 50.0
    row = Submission(b"f", b"u", b"w", NORMAL).row(7, b"H:test:7", 1000.0, retries=1)
    revival.restore(registry, row._replace(due_s=1990))
    (job,) = registry.jobs.values()
    assert (job.state, job.since, job.retries) == (QUEUED, 40.0, 1)


def test_kicked_job_beside_a_later_one_of_its_unique_is_a_job_of_its_own_after_a_restart_too(tmp_path):
    options = {"port": 0, "queue": str(tmp_path / "queue")}
    with Server(**options) as server, Wire(server.address) as wire:
        operations.change_policy(server.broker, b"f", {"attempts": 1})
        wire.can_do(b"f")
        first = [wire.submit(b"f", unique=b"u", kind=SUBMIT_JOB_BG, workload=b"%d" % number) for number in (1, 2)]
        wire.send(WORK_FAIL, wire.grab()[0])
        second = wire.submit(b"f", unique=b"u", kind=SUBMIT_JOB_BG, workload=b"3")
        assert first[0] == first[1] != second and operations.kick(server.broker, b"f", 9) == 1
        assert [each.handle for each in operations.peek(server.broker, b"f", 9)] == [second, first[0]]
    for restarts in range(2):
        with Server(**options) as server, Wire(server.address) as wire:
            # The later one is whom a submission joins, as before.
            assert wire.submit(b"f", unique=b"u", kind=SUBMIT_JOB_BG, workload=b"4") == second
            found = {each.handle: each.workload for each in operations.peek(server.broker, b"f", 9)}
            assert found == {first[0]: b"1", second: b"3"} and server.broker.registry.functions[b"f"].jobs == 2
    with Server(**options) as server, Wire(server.address) as wire:
        wire.can_do(b"f")
        for _ in range(2):
            wire.send(WORK_COMPLETE, wire.grab()[0], b"")
        assert nothing_to_do(wire) and not len(server.broker.registry.uniques)
    with Server(**options) as server:
        assert not server.broker.registry.jobs


def test_purge_reaches_what_lies_in_the_store_alone(tmp_path):
    with Server(port=0, queue=str(tmp_path / "queue"), queue_memory=100_000) as server, Wire(server.address) as wire:
        for _ in range(3000):
            wire.send(SUBMIT_JOB_BG, b"f", b"", b"x" * 500)
        for _ in range(3000):
            wire.expect(8)
        assert server.broker.registry.dormant.tails
        assert wire.ask("purge f") == "OK 3000"
        assert wire.ask("status") == "f\t0\t0\t0"
    with Server(port=0, queue=str(tmp_path / "queue")) as server:
        assert not server.broker.registry.functions


# -- what went wrong once --------------------------------------------------------------


def test_room_for_one_more_wakes_one_sleeper_not_all():
    registry = make()
    change(registry, most_running=1)
    one = worker(registry, b"f")
    others = [worker(registry, b"f", asleep=True) for _ in range(3)]
    plain(registry, *[b"w"] * 9)
    assert sum(bool(party.take()) for party in others) == 1
    job = registry.grab(one)
    for party in others:
        registry.sleep(party)
    complete(registry, one, job)
    assert sum(bool(party.take()) for party in others) == 1


def test_higher_rate_holds_at_once():
    registry = make()
    change(registry, rate=0.001)
    party = worker(registry, b"f")
    plain(registry, b"1", b"2")
    registry.grab(party)
    registry.sleep(party)
    change(registry, rate=10)
    assert registry.next_due() <= 0.1
    registry.now = 0.2
    registry.tick()
    assert party.take() == [(NOOP, b"")] and registry.grab(party).workload == b"2"


def test_shorter_expiry_holds_at_once():
    registry = make()
    change(registry, expiry_s=1000)
    plain(registry, b"w")
    registry.now = 1.0
    steering.sweep(registry)
    change(registry, expiry_s=1)
    registry.now = 2.0
    steering.sweep(registry)
    assert not registry.functions[b"f"].jobs


def test_function_that_was_dropped_is_not_looked_at_for_ever():
    registry = make()
    change(registry, expiry_s=1)
    assert steering.drop(registry, b"f")
    for registry.now in (1.0, 3.0, 5.0):
        steering.sweep(registry)
    assert not len(registry.sweeps)


def test_job_that_nobody_waits_for_any_more_gets_no_other_attempt():
    registry = make()
    change(registry, attempts=3)
    client, party = Fake(), worker(registry, b"f")
    foreground(registry, client)
    job = registry.grab(party)
    registry.leave(client)
    fail(registry, party, job)
    assert not registry.jobs and not registry.functions[b"f"].jobs


@pytest.mark.parametrize("values", [{"rate": 1.0}, {"most_running": 1}])
def test_server_that_drains_waits_for_jobs_that_are_held_back_a_moment(values):
    registry = make()
    change(registry, **values)
    party = worker(registry, b"f")
    plain(registry, b"1", b"2")
    registry.draining = True
    complete(registry, party, registry.grab(party))
    assert not registry.drained
    change(registry, paused=True)
    assert registry.drained


@pytest.mark.parametrize("stored", [False, True])
def test_server_that_drains_waits_for_jobs_that_back_off_where_nothing_keeps_them(stored):
    registry = make()
    registry.stored = stored
    change(registry, attempts=3, backoff_s=60.0)
    party = worker(registry, b"f")
    plain(registry, b"w")
    fail(registry, party, registry.grab(party))
    registry.draining = True
    assert registry.drained == stored and registry.lost == (not stored)
    change(registry, paused=True)
    assert registry.drained
    change(registry, paused=False)
    registry.epoch_s += 60
    registry.tick()
    assert registry.drained == stored
    complete(registry, party, registry.grab(party))
    assert registry.drained and registry.functions[b"f"].retrying == registry.lost == 0


def test_server_that_drains_does_not_wait_for_a_job_that_backs_off_once_its_worker_has_gone():
    registry = make()
    change(registry, attempts=3, backoff_s=60.0)
    party = worker(registry, b"f")
    background(registry, due_s=1000)
    plain(registry, b"w")
    fail(registry, party, registry.grab(party))
    registry.draining = True
    assert not registry.drained
    registry.leave(party)
    assert registry.drained and registry.lost == 2


@pytest.mark.parametrize("end", ["cancel", "due"])
def test_job_that_backs_off_is_counted_as_long_as_it_does(end):
    registry, handle = one_job("backs off")
    function = registry.functions[b"f"]
    assert (function.scheduled, function.retrying) == (1, 1)
    background(registry, due_s=1000)
    assert (function.scheduled, function.retrying) == (2, 1)
    if end == "cancel":
        registry.cancel(handle)
    else:
        registry.epoch_s = 10
        registry.tick()
    assert (function.scheduled, function.retrying) == (1, 0)


def test_graceful_stop_waits_for_a_job_that_backs_off_and_loses_none(server, party, client, caplog):
    caplog.set_level(logging.INFO, "gearmand")
    operations.change_policy(server.broker, b"f", {"attempts": 2, "backoff_s": 0.4})
    client.submit(b"f", kind=SUBMIT_JOB_BG)
    party.send(WORK_FAIL, party.grab()[0])
    party.send(PRE_SLEEP)
    party.echo()
    stop = Background(server.stop, graceful=True)
    party.expect(6)
    party.send(WORK_COMPLETE, party.grab()[0], b"")
    stop.result()
    assert server.broker.registry.functions[b"f"].tally.completed == 1
    assert [each for each in map(logging.LogRecord.getMessage, caplog.records) if "stopped" in each] == ["gearmand has stopped"]


def test_server_that_stops_says_how_many_jobs_are_lost(tmp_path, caplog):
    caplog.set_level(logging.INFO, "gearmand")
    for options, said in (({}, True), ({"queue": str(tmp_path / "queue")}, False)):
        caplog.clear()
        with Server(port=0, **options) as server, Wire(server.address) as wire:
            operations.change_policy(server.broker, b"f", {"attempts": 1})
            wire.can_do(b"f")
            wire.submit(b"f", kind=SUBMIT_JOB_BG)
            wire.send(WORK_FAIL, wire.grab()[0])
            wire.submit(b"g", kind=SUBMIT_JOB_BG)
            wire.submit(b"g", kind=SUBMIT_JOB)
        assert any(record.getMessage() == "gearmand has stopped; 2 unfinished jobs are lost with it" for record in caplog.records) == said


def test_functions_for_which_something_is_set_are_bounded():
    registry = make(most_limited=1)
    change(registry, rate=1.0)
    assert not registry.functions.limit_queue(b"g", [1, 1, 1])
    with pytest.raises(ValueError, match="as many functions"):
        steering.change(registry, b"g", {"paused": True})
    assert b"g" not in registry.functions and registry.functions.limit_queue(b"f", [1, 1, 1])
    change(registry, rate=None)
    assert steering.drop(registry, b"f")
    steering.change(registry, b"g", {"paused": True})


def test_purge_spares_what_comes_meanwhile():
    registry = make()
    plain(registry, b"old")
    until = steering.extent(registry, b"f", NORMAL).until
    registry.now += 1
    plain(registry, b"new")
    assert steering.purge(registry, b"f", NORMAL, until, None) == 1
    assert grab_all(registry, worker(registry, b"f")) == [b"new"]


def test_tail_gives_up_its_first_jobs_on_their_way_or_not_and_no_more_than_asked_for():
    tail = Tail()
    for number in range(10):
        tail.add(number)
    tail.next(4)
    assert tail.drop_first(3) == [0, 1, 2] and tail.drop_first(3) == [3, 4, 5] and len(tail) == 4


def test_kicked_job_does_not_take_the_unique_of_one_that_is_being_stored():
    registry = make()
    registry.stored = True
    change(registry, attempts=1)
    party = worker(registry, b"f")
    background(registry, unique=b"u")
    fail(registry, party, registry.grab(party))
    (row,) = revival.expect(registry, [Submission(b"f", b"u", b"w", NORMAL)])
    steering.kick(registry, b"f", 1)
    assert revival.admit(registry, row) == row.handle and row.handle in registry.jobs
    assert not registry.pending and not registry.functions[b"f"].pending


def test_imported_burial_follows_its_row_to_another_number(tmp_path):
    queue, copy = [stores.open_store(Config(queue=str(tmp_path / name))) for name in ("queue", "copy")]
    row = Submission(b"f", b"", b"w", NORMAL).row(7, b"H:7", 1.0)
    queue.commit(Work([row], (), (), [of_burial(7, Burial(1.0, b"why"))]))
    copy.commit(Work([row._replace(workload=b"mine")], (), (), ()))
    stores.export_to(queue, str(tmp_path / "file"))
    stores.import_from(copy, str(tmp_path / "file"), "", b"H")
    (number,) = [each.number for each in copy.load() if each.workload == b"w"]
    assert [to_burial(each)[0] for each in copy.load_settings()] == [number] != [7]
    queue.close()
    copy.close()


@pytest.mark.parametrize("begins", ["resumed", "another ends", "a job comes"])
def test_many_grabs_that_linger_are_answered_one_after_another_not_one_within_another(begins):
    registry, count = make(), 400
    one = worker(registry, b"f")
    change(registry, most_running=1)
    plain(registry, b"first")
    first = registry.grab(one)
    parties = [lingering(registry) for _ in range(count)]
    change(registry, paused=begins == "resumed", most_running=1 if begins == "another ends" else count + 1)
    if begins != "a job comes":
        plain(registry, *[b"w"] * count)
    if begins == "resumed":
        change(registry, paused=False)
    elif begins == "another ends":
        # Each of them makes room for the next one: it ends at once.
        for party in parties:
            party.lingering = lambda party, job: complete(registry, party, job)
        complete(registry, one, first)
        assert registry.functions[b"f"].tally.completed == count + 1
        return
    else:
        plain(registry, *[b"w"] * count)
    assert [len(party.given) for party in parties] == [1] * count


def lingering(registry):
    """A worker of f, whose grab is answered as soon as there is a job; as one that has just been busy."""
    party = worker(registry, b"f")
    party.given, party.lingers = [], True
    assert registry.grab(party) is None and registry.linger(party, lambda party, job: party.given.append(job))
    return party


def test_jobs_that_lay_in_the_store_alone_expire_as_soon_as_they_are_seen():
    registry = make(kept_bytes=1)
    registry.stored, registry.epoch_s = True, 1000.0
    change(registry, expiry_s=100)
    rows = [Submission(b"f", b"", b"w", NORMAL).row(number, b"H:test:%d" % number, 1000.0) for number in range(3, 6)]
    for row in rows:
        registry.submit_plain(b"f", b"w", NORMAL, row)
    assert registry.dormant.count(registry.functions[b"f"], NORMAL) == 2
    registry.now, registry.epoch_s = 101.0, 1101.0
    steering.sweep(registry)
    (wanted,) = registry.notes.wanted
    # Not in another hundred seconds.
    assert registry.next_due() < 1
    revival.awake(registry, wanted, rows[1:])
    registry.now += registry.next_due()
    steering.sweep(registry)
    function = registry.functions[b"f"]
    assert (function.jobs, function.tally.expired) == (0, 3) and registry.notes.removed == [3, 4, 5]


def test_jobs_that_are_buried_again_while_they_are_kicked_are_kicked_once(monkeypatch):
    monkeypatch.setattr(steering, "_AT_ONCE", 2)
    registry = make()
    change(registry, attempts=1)
    party, turns = worker(registry, b"f"), []

    class Quick:
        """Between two turns the worker fails everything."""

        def turn(self, work, *arguments):
            turns.append(work)
            assert len(turns) < 20, "it never ends"
            done = work(registry, *arguments)
            fail_all(registry, party)
            return done

        def settle(self):
            pass

    plain(registry, *[b"w"] * 5)
    fail_all(registry, party)
    for most, kicked in ((10**9, 5), (3, 3)):
        turns.clear()
        assert operations.kick(Quick(), b"f", most) == kicked
    assert steering.count_buried(registry, b"f") == 5 and registry.functions[b"f"].tally.buried == 13


def fail_all(registry, party):
    job = registry.grab(party)
    while job is not None:
        fail(registry, party, job)
        job = registry.grab(party)


@pytest.mark.parametrize("ends", ["lost workers", "a timeout"])
def test_result_of_a_job_that_no_worker_reported_on_is_kept_as_a_failure(ends):
    registry = make(timeout_fails=ends == "a timeout")
    change(registry, attempts=2, keep_s=60)
    handle = background(registry, unique=b"u").handle
    for _ in range(2):
        party = worker(registry, b"f", timeout_s=5)
        registry.grab(party)
        assert registry.results.find(handle, registry.now) is None
        if ends == "lost workers":
            registry.leave(party)
        else:
            registry.now += 5
            registry.tick()
    found = registry.results.find(handle, registry.now)
    assert (found.how, found.data) == ("fail", b"") and registry.results.of_unique(b"f", b"u", registry.now) is found


@pytest.mark.parametrize("state", ["plain", "queued", "scheduled", "running", "backs off", "dormant"])
@pytest.mark.parametrize("how", ["cancel", "purge"])
def test_cancellation_is_counted_once_and_is_one_event(state, how):
    registry, handle = one_job(state)
    if how == "purge":
        done = steering.purge(registry, b"f", NORMAL, 1000, None) or steering.purge_dormant(registry, b"f", NORMAL, 9, None)
        assert done == (state in ("plain", "queued", "dormant"))
        if not done:
            return
    else:
        assert revival.cancel(registry, handle) and not revival.cancel(registry, handle)
    function = registry.functions[b"f"]
    assert [event[0] for event in registry.events] == [CANCELLED]
    assert (function.jobs, function.tally.cancelled, function.tally.failed, function.tally.abandoned) == (0, 1, 0, 0)


@pytest.mark.parametrize("how", ["cancel", "discard"])
def test_buried_job_that_is_cancelled_was_counted_when_it_failed(how):
    registry, handle = one_job("buried")
    assert steering.discard(registry, b"f", 9, None) == 1 if how == "discard" else registry.cancel(handle)
    tally = registry.functions[b"f"].tally
    assert (tally.cancelled, tally.failed, tally.buried) == (0, 1, 1) and [event[0] for event in registry.events] == [CANCELLED]


def one_job(state):
    """A registry with one job, in that state, whose events so far are forgotten; and its handle."""
    registry = make(kept_bytes=1 if state == "dormant" else 0)
    registry.stored, registry.events = True, []
    change(registry, attempts=1 if state == "buried" else 5, backoff_s=10.0)
    row = Submission(b"f", b"", b"w", NORMAL).row(7, b"H:test:7", 0.0)
    if state in ("plain", "dormant"):
        registry.dormant.bytes = int(state == "dormant")
        registry.submit_plain(b"f", b"w", NORMAL, row)
        assert (registry.dormant.find(7) is not None) == (state == "dormant")
    else:
        due_s = 100 if state == "scheduled" else None
        registry.submit(None, b"f", b"u", b"w", NORMAL, due_s, row=row._replace(unique=b"u", due_s=due_s))
    if state in ("running", "backs off", "buried"):
        party = worker(registry, b"f")
        job = registry.grab(party)
        if state != "running":
            fail(registry, party, job)
    registry.events.clear()
    return registry, row.handle


@pytest.mark.parametrize("end", ["cancel", "discard", "kick", "could not be stored", "goes with the store"])
def test_burial_goes_from_the_store_when_the_job_is_buried_no_more(end):
    registry, handle = one_job("buried")
    (job,) = registry.jobs.values()
    registry.add_rows(job, (8,))
    stored = {7: "buried", 8: "buried"}
    registry.notes.settings.clear()
    if end == "cancel":
        registry.cancel(handle)
    elif end == "discard":
        steering.discard(registry, b"f", 9, None)
    elif end == "kick":
        steering.kick(registry, b"f", 9)
    elif end == "could not be stored":
        for number in (7, 8):
            registry.drop_row(job, number)
    else:
        # Which keeps what is in it.
        registry.forget(job)
        assert registry.notes.settings == []
        return
    for setting in registry.notes.settings:
        assert setting == no_burial(int(setting.key.rpartition(b":")[2]))
        del stored[int(setting.key.rpartition(b":")[2])]
    assert stored == {}


def test_nothing_of_a_buried_job_is_left_in_the_store(tmp_path):
    options = {"port": 0, "queue": str(tmp_path / "queue")}
    with Server(**options) as server, Wire(server.address) as wire:
        operations.change_policy(server.broker, b"f", {"attempts": 1})
        wire.can_do(b"f")
        handles = [wire.submit(b"f", kind=SUBMIT_JOB_BG) for _ in range(3)]
        for _ in handles:
            wire.send(WORK_FAIL, wire.grab()[0])
        wait_until(lambda: len(operations.buried(server.broker, b"f", 9)) == 3, "they are buried")
        assert wire.ask("cancel job " + handles[0].decode()) == "OK" and operations.discard(server.broker, b"f", 1) == 1
        assert operations.kick(server.broker, b"f", 1) == 1
        wire.send(WORK_COMPLETE, wire.grab()[0], b"")
        wire.echo()
    store = stores.open_store(Config(queue=str(tmp_path / "queue")))
    assert list(store.load()) == [] and [each.key for each in store.load_settings()] == [b"function:f"]
    store.close()


def test_stored_plain_job_has_its_new_priority_in_the_store_too():
    registry, handle = one_job("plain")
    assert steering.reprioritise(registry, handle, LOW)
    assert registry.notes.changed == [Change(7, handle, 0, LOW)] and not len(registry.plain)
    background(registry, workload=b"other")
    party = worker(registry, b"f")
    assert [registry.grab(party).workload, registry.grab(party).handle] == [b"other", handle]
    complete(registry, party, registry.jobs[handle])
    assert registry.notes.removed == [7] and registry.dormant.bytes == 0


def test_job_that_lies_in_the_store_alone_keeps_its_priority_until_it_is_awake():
    registry, handle = one_job("dormant")
    assert steering.reprioritise(registry, handle, HIGH) is False and registry.notes.changed == []
    (wanted,) = registry.notes.wanted
    revival.awake(registry, wanted, [Submission(b"f", b"", b"w", NORMAL).row(7, handle, 0.0)])
    assert steering.reprioritise(registry, handle, HIGH) and registry.notes.changed == [Change(7, handle, 0, HIGH)]
    assert registry.grab(worker(registry, b"f")).priority == HIGH
    assert steering.reprioritise(registry, b"H:other:7", HIGH) is None
