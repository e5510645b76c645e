"""The registry's decisions, one at a time. No thread, no clock: `now` is set, and a party is a list of what it was posted.

`tests/test_registry_walk.py` holds the invariants over long random walks.
"""

from __future__ import annotations

import pytest

from gearmand import functions as functions_module
from gearmand.errors import QUEUE_FULL, SHUTTING_DOWN
from gearmand.jobs import ENDED, QUEUED, RUNNING, SCHEDULED, Priority
from gearmand.parties import REMEMBERED_HANDLES, Party
from gearmand.protocol import PacketType
from gearmand.registry import Registry

HIGH, NORMAL, LOW = Priority
NOOP, WORK_FAIL, WORK_COMPLETE = PacketType.NOOP, PacketType.WORK_FAIL, PacketType.WORK_COMPLETE
WORK_DATA, WORK_STATUS, WORK_EXCEPTION = PacketType.WORK_DATA, PacketType.WORK_STATUS, PacketType.WORK_EXCEPTION

ALL_REPORTS = ["data", "status", "complete", "fail", "exception"]


class Fake(Party):
    def __init__(self, exceptions=False):
        super().__init__(exceptions)
        self.got = []

    def post(self, kind, body, tail=b""):
        self.got.append((PacketType(kind), bytes(body) + bytes(tail)))

    def take(self):
        got, self.got = self.got, []
        return got


def make(**options):
    return Registry(b"H:test", 1, **options)


def worker(registry, *functions, timeout_s=None, asleep=False):
    party = Fake()
    for function in functions:
        registry.can_do(party, function, timeout_s)
    if asleep:
        registry.sleep(party)
    return party


def background(registry, name=b"f", unique=b"", workload=b"w", priority=NORMAL, **more):
    return registry.submit(None, name, unique, workload, priority, **more)


def foreground(registry, client, name=b"f", unique=b"", workload=b"w", priority=NORMAL, **more):
    return registry.submit(client, name, unique, workload, priority, **more)


def complete(registry, party, job, data=b"done"):
    return registry.finish(party, job.handle, WORK_COMPLETE, job.handle + b"\0" + data)


def report(registry, party, job, how):
    if how == "data":
        return registry.relay(party, job.handle, WORK_DATA, job.handle + b"\0x")
    if how == "status":
        return registry.progress(party, job.handle, 1, 2, WORK_STATUS, job.handle + b"\x001\x002")
    if how == "complete":
        return complete(registry, party, job)
    if how == "fail":
        return registry.finish(party, job.handle, WORK_FAIL, job.handle)
    return registry.finish_with_exception(party, job.handle, job.handle + b"\0x")


def grab_all(registry, party):
    """The workloads of everything that the party can get, in order."""
    found = []
    while True:
        job = registry.grab(party)
        if job is None:
            return found
        found.append(job.workload)
        complete(registry, party, job)


# -- submission and coalescing -------------------------------------------------


def test_handles_count_up_from_the_first_number():
    registry = Registry(b"H:host", 41)
    assert [background(registry).handle for _ in range(3)] == [b"H:host:41", b"H:host:42", b"H:host:43"]


def test_handle_prefix_with_a_percent_sign_is_kept():
    assert background(Registry(b"H:100%d", 7)).handle == b"H:100%d:7"


def test_submit_alone_posts_nothing_to_the_client():
    registry, client = make(), Fake()
    foreground(registry, client)
    assert client.got == []


@pytest.mark.parametrize("unique", [b"u", b"u" * 64, b"#", b"-\0"])
@pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
def test_submit_of_the_unique_of_an_unfinished_job_joins_it(unique, state):
    registry = make()
    first = background(registry, unique=unique, due_s=100 if state == "scheduled" else None)
    if state == "running":
        registry.grab(worker(registry, b"f"))
    assert background(registry, unique=unique) is first


@pytest.mark.parametrize("first_is_foreground", [False, True])
@pytest.mark.parametrize("second_is_foreground", [False, True])
def test_submit_joins_whether_foreground_or_background(first_is_foreground, second_is_foreground):
    registry = make()
    first = registry.submit(Fake() if first_is_foreground else None, b"f", b"u", b"w")
    second = registry.submit(Fake() if second_is_foreground else None, b"f", b"u", b"w")
    assert second is first
    assert first.background == (not (first_is_foreground and second_is_foreground))


def test_submit_that_joins_changes_neither_priority_nor_workload_nor_due_time():
    registry = make()
    first = background(registry, unique=b"u", workload=b"first", priority=LOW, due_s=100)
    background(registry, unique=b"u", workload=b"second", priority=HIGH)
    assert (first.workload, first.priority, first.state) == (b"first", LOW, SCHEDULED)


def test_submit_with_due_time_onto_queued_job_leaves_it_queued():
    registry = make()
    first = background(registry, unique=b"u")
    assert background(registry, unique=b"u", due_s=100) is first
    assert first.state is QUEUED


def test_submit_of_same_unique_of_another_function_is_another_job():
    registry = make()
    assert background(registry, b"f", b"u") is not background(registry, b"g", b"u")


@pytest.mark.parametrize("ending", ["complete", "fail", "exception"])
def test_submit_of_the_unique_of_an_ended_job_is_another_job(ending):
    registry = make()
    first, party = background(registry, unique=b"u"), worker(registry, b"f")
    report(registry, party, registry.grab(party), ending)
    assert background(registry, unique=b"u") is not first


def test_submit_with_empty_unique_never_joins():
    registry = make()
    assert background(registry, unique=b"") is not background(registry, unique=b"")


def test_submit_with_unique_dash_joins_same_workload():
    registry = make()
    assert background(registry, unique=b"-", workload=b"a") is background(registry, unique=b"-", workload=b"a")


def test_submit_with_unique_dash_joins_same_workload_however_it_is_held():
    registry = make()
    first = background(registry, unique=b"-", workload=b"a")
    assert background(registry, unique=b"-", workload=memoryview(bytearray(b"a"))) is first


def test_submit_with_unique_dash_does_not_join_other_workload():
    registry = make()
    assert background(registry, unique=b"-", workload=b"a") is not background(registry, unique=b"-", workload=b"b")


def test_submit_with_unique_dash_and_no_workload_never_joins():
    registry = make()
    assert background(registry, unique=b"-", workload=b"") is not background(registry, unique=b"-", workload=b"")


def test_submit_with_unique_dash_does_not_join_a_unique_that_equals_its_workload():
    registry = make()
    assert background(registry, unique=b"a", workload=b"-") is not background(registry, unique=b"-", workload=b"a")


def test_joined_job_tells_every_listener():
    registry, clients = make(), [Fake(), Fake()]
    jobs = [foreground(registry, client, unique=b"u") for client in clients]
    party = worker(registry, b"f")
    complete(registry, party, registry.grab(party))
    expected = [(WORK_COMPLETE, jobs[0].handle + b"\0done")]
    assert [client.got for client in clients] == [expected, expected]


def test_joined_twice_by_one_connection_tells_it_everything_twice():
    registry, client = make(), Fake()
    job = foreground(registry, client, unique=b"u")
    foreground(registry, client, unique=b"u")
    party = worker(registry, b"f")
    registry.grab(party)
    for how in ("data", "status", "complete"):
        report(registry, party, job, how)
    assert [kind for kind, _ in client.got] == [WORK_DATA] * 2 + [WORK_STATUS] * 2 + [WORK_COMPLETE] * 2


def test_joined_twice_by_one_connection_is_abandoned_by_its_leaving():
    registry, client = make(), Fake()
    foreground(registry, client, unique=b"u")
    foreground(registry, client, unique=b"u")
    registry.leave(client)
    assert not registry.jobs


def test_joined_by_background_keeps_its_listener():
    registry, client = make(), Fake()
    foreground(registry, client, unique=b"u")
    background(registry, unique=b"u")
    party = worker(registry, b"f")
    complete(registry, party, registry.grab(party))
    assert [kind for kind, _ in client.got] == [WORK_COMPLETE]


# -- an abandoned job ------------------------------------------------------------


def test_abandoned_queued_job_leaves_and_the_next_of_its_unique_is_another_job():
    registry, first, second = make(), Fake(), Fake()
    abandoned = foreground(registry, first, unique=b"u")
    registry.leave(first)
    job = foreground(registry, second, unique=b"u")
    party = worker(registry, b"f")
    assert job is not abandoned
    assert registry.grab(party) is job
    complete(registry, party, job)
    assert [kind for kind, _ in second.got] == [WORK_COMPLETE]


def test_background_job_whose_listener_joined_and_left_stays():
    registry, client = make(), Fake()
    job = background(registry, unique=b"u")
    foreground(registry, client, unique=b"u")
    registry.leave(client)
    assert registry.grab(worker(registry, b"f")) is job


def test_foreground_job_that_a_background_submission_joined_outlives_its_client():
    registry, client = make(), Fake()
    job = foreground(registry, client, unique=b"u")
    background(registry, unique=b"u")
    registry.leave(client)
    assert registry.grab(worker(registry, b"f")) is job


def test_background_job_that_runs_and_whose_listener_joined_and_left_is_gone_once_complete():
    registry, client = make(), Fake()
    job, party = background(registry, unique=b"u"), worker(registry, b"f")
    registry.grab(party)
    foreground(registry, client, unique=b"u")
    registry.leave(client)
    assert complete(registry, party, job)
    assert not registry.jobs and not len(registry.uniques)


def test_abandoned_job_is_not_offered_to_a_sleeper_of_another_function():
    registry, client = make(), Fake()
    foreground(registry, client, b"f", priority=LOW)
    live = background(registry, b"g", priority=HIGH)
    registry.leave(client)
    party = worker(registry, b"f", b"g", asleep=True)
    assert registry.grab(party) is live
    assert registry.grab(party) is None


def test_abandoned_scheduled_job_leaves():
    registry, client = make(), Fake()
    foreground(registry, client, due_s=100)
    registry.leave(client)
    registry.epoch_s = 200
    registry.tick()
    assert not registry.jobs and registry.functions[b"f"].scheduled == 0


def test_abandoned_job_leaves_the_queue_around_it_in_order():
    registry, client = make(), Fake()
    for workload, listener in ((b"1", None), (b"2", client), (b"3", None)):
        registry.submit(listener, b"f", b"", workload)
    registry.leave(client)
    assert grab_all(registry, worker(registry, b"f")) == [b"1", b"3"]


def test_one_of_two_listeners_leaving_keeps_the_job():
    registry, clients = make(), [Fake(), Fake()]
    job = [foreground(registry, client, unique=b"u") for client in clients][0]
    registry.leave(clients[0])
    party = worker(registry, b"f")
    assert registry.grab(party) is job
    complete(registry, party, job)
    assert [kind for kind, _ in clients[1].got] == [WORK_COMPLETE]
    assert clients[0].got == []


def test_abandoned_running_job_runs_on_and_its_result_is_dropped():
    registry, client, party = make(), Fake(), None
    job = foreground(registry, client)
    party = worker(registry, b"f")
    registry.grab(party)
    registry.leave(client)
    assert job.state is RUNNING
    assert complete(registry, party, job)
    assert client.got == []


def test_abandoned_running_job_whose_worker_dies_is_dropped():
    registry, client = make(), Fake()
    foreground(registry, client)
    party = worker(registry, b"f")
    registry.grab(party)
    registry.leave(client)
    registry.leave(party)
    assert not registry.jobs


def test_abandoned_running_job_that_times_out_is_dropped():
    registry, client = make(), Fake()
    foreground(registry, client)
    registry.grab(worker(registry, b"f", timeout_s=5))
    registry.leave(client)
    registry.now = 5
    registry.tick()
    assert not registry.jobs


def test_abandoned_running_job_can_be_joined_again():
    registry, first, second = make(), Fake(), Fake()
    job = foreground(registry, first, unique=b"u")
    party = worker(registry, b"f")
    registry.grab(party)
    registry.leave(first)
    assert foreground(registry, second, unique=b"u") is job
    registry.leave(party)
    assert job.state is QUEUED


def test_party_that_waits_for_its_own_job_leaves_nothing_behind():
    registry = make()
    party = worker(registry, b"f")
    foreground(registry, party)
    registry.grab(party)
    registry.leave(party)
    assert not registry.jobs and not registry.running


# -- order -----------------------------------------------------------------------


def test_grab_of_nothing_is_none():
    registry = make()
    assert registry.grab(worker(registry, b"f")) is None


def test_grab_without_abilities_is_none():
    registry = make()
    background(registry)
    assert registry.grab(Fake()) is None


def test_grab_of_a_function_that_the_party_cannot_do_is_none():
    registry = make()
    background(registry, b"g")
    assert registry.grab(worker(registry, b"f")) is None


def test_grab_within_a_function_is_first_in_first_out():
    registry = make()
    for workload in (b"1", b"2", b"3"):
        background(registry, workload=workload)
    assert grab_all(registry, worker(registry, b"f")) == [b"1", b"2", b"3"]


def test_grab_takes_the_highest_priority_over_all_functions():
    registry = make()
    for name, priority in ((b"f", LOW), (b"g", NORMAL), (b"f", HIGH), (b"g", HIGH), (b"f", NORMAL), (b"g", LOW)):
        background(registry, name, workload=name + b"%d" % priority, priority=priority)
    assert grab_all(registry, worker(registry, b"f", b"g")) == [b"g0", b"f0", b"g1", b"f1", b"g2", b"f2"]


def fill(registry, names=(b"a", b"b", b"c"), times=2):
    for number in range(times):
        for name in names:
            background(registry, name, workload=name + b"%d" % number)


def test_grab_serves_functions_in_turn_from_the_last_ability():
    registry = make()
    fill(registry)
    assert grab_all(registry, worker(registry, b"a", b"b", b"c")) == [b"c0", b"b0", b"a0", b"c1", b"b1", b"a1"]


def test_grab_after_a_pause_goes_on_after_the_function_served_last():
    registry = make()
    party = worker(registry, b"a", b"b", b"c")
    fill(registry, times=1)
    assert registry.grab(party).workload == b"c0"
    fill(registry, times=1)
    assert registry.grab(party).workload == b"b0"


def test_grab_skips_an_empty_function_in_its_turn():
    registry = make()
    fill(registry, names=(b"a", b"c"))
    assert grab_all(registry, worker(registry, b"a", b"b", b"c")) == [b"c0", b"a0", b"c1", b"a1"]


def test_grab_newest_first_drains_the_last_ability_first():
    registry = make(newest_first=True)
    fill(registry)
    assert grab_all(registry, worker(registry, b"a", b"b", b"c")) == [b"c0", b"c1", b"b0", b"b1", b"a0", b"a1"]


def test_grab_newest_first_still_takes_the_highest_priority_first():
    registry = make(newest_first=True)
    background(registry, b"b", workload=b"normal")
    background(registry, b"a", workload=b"high", priority=HIGH)
    assert grab_all(registry, worker(registry, b"a", b"b")) == [b"high", b"normal"]


def test_can_do_again_keeps_the_functions_place():
    registry = make()
    fill(registry, times=1)
    assert grab_all(registry, worker(registry, b"a", b"b", b"c", b"a")) == [b"c0", b"b0", b"a0"]


def test_can_do_after_cant_do_is_a_new_ability():
    registry = make()
    fill(registry, times=1)
    party = worker(registry, b"a", b"b", b"c")
    registry.cant_do(party, b"a")
    registry.can_do(party, b"a")
    assert grab_all(registry, party) == [b"a0", b"c0", b"b0"]


def test_grab_while_holding_a_job_gives_another():
    registry = make()
    jobs = [background(registry), background(registry)]
    party = worker(registry, b"f")
    assert [registry.grab(party), registry.grab(party)] == jobs
    assert len(party.running) == 2


# -- abilities -------------------------------------------------------------------


@pytest.mark.parametrize("withdraw", ["cant_do", "reset_abilities"])
def test_withdrawn_ability_leaves_running_job_with_its_worker(withdraw):
    registry, client = make(), Fake()
    job = foreground(registry, client)
    party = worker(registry, b"f")
    registry.grab(party)
    registry.cant_do(party, b"f") if withdraw == "cant_do" else registry.reset_abilities(party)
    assert job.state is RUNNING
    assert complete(registry, party, job)
    assert [kind for kind, _ in client.got] == [WORK_COMPLETE]


def test_withdrawn_ability_gets_no_more_jobs():
    registry = make()
    party = worker(registry, b"f", b"g")
    background(registry)
    registry.cant_do(party, b"f")
    assert registry.grab(party) is None


def test_reset_abilities_withdraws_all():
    registry = make()
    party = worker(registry, b"f", b"g")
    registry.reset_abilities(party)
    assert not party.abilities and not any(function.workers for function in registry.functions.values())


@pytest.mark.parametrize("name", [b"unknown", b"known"])
def test_cant_do_of_what_the_party_cannot_do_is_ignored(name):
    registry = make()
    registry.functions[b"known"]
    party = worker(registry, b"f")
    registry.cant_do(party, name)
    assert list(party.abilities) == [registry.functions[b"f"]]


def test_cant_do_of_unknown_function_does_not_create_it():
    registry = make()
    registry.cant_do(Fake(), b"f")
    assert not registry.functions


def test_worker_that_says_can_do_twice_counts_once():
    registry = make()
    worker(registry, b"f", b"f")
    assert len(registry.functions[b"f"].workers) == 1


# -- wake-ups ----------------------------------------------------------------------


def test_sleep_with_nothing_to_do_posts_nothing():
    registry = make()
    assert worker(registry, b"f", asleep=True).got == []


def test_sleep_with_a_job_waiting_posts_noop_each_time():
    registry = make()
    background(registry)
    party = worker(registry, b"f")
    registry.sleep(party)
    registry.sleep(party)
    assert party.got == [(NOOP, b"")] * 2


def test_sleep_without_abilities_posts_nothing():
    registry = make()
    background(registry)
    assert worker(registry, asleep=True).got == []


def test_new_job_wakes_one_sleeper():
    registry = make()
    parties = [worker(registry, b"f", asleep=True) for _ in range(3)]
    background(registry)
    assert sorted(party.got for party in parties) == [[], [], [(NOOP, b"")]]


def test_new_job_wakes_no_party_that_is_awake():
    registry = make()
    party = worker(registry, b"f")
    background(registry)
    assert party.got == []


def test_new_job_wakes_no_sleeper_of_another_function():
    registry = make()
    party = worker(registry, b"g", asleep=True)
    background(registry)
    assert party.got == []


@pytest.mark.parametrize("wakeups, woken", [(1, 1), (2, 2), (3, 3), (4, 3), (0, 3)])
def test_new_job_wakes_as_many_as_configured(wakeups, woken):
    registry = make(wakeups=wakeups)
    parties = [worker(registry, b"f", asleep=True) for _ in range(3)]
    background(registry)
    assert sum(len(party.got) for party in parties) == woken


def test_joined_job_wakes_nobody():
    registry = make()
    background(registry, unique=b"u")
    registry.grab(worker(registry, b"f"))
    party = worker(registry, b"f", asleep=True)
    background(registry, unique=b"u")
    assert party.got == []


def test_each_job_wakes_another_sleeper():
    registry = make()
    parties = [worker(registry, b"f", asleep=True) for _ in range(3)]
    for _ in range(3):
        background(registry)
    assert [party.got for party in parties] == [[(NOOP, b"")]] * 3


def test_woken_party_is_not_woken_again_before_it_sleeps():
    registry = make()
    party = worker(registry, b"f", asleep=True)
    background(registry)
    background(registry)
    assert party.got == [(NOOP, b"")]


def test_party_that_sleeps_again_is_woken_again():
    registry = make()
    party = worker(registry, b"f", asleep=True)
    background(registry)
    grab_all(registry, party)
    registry.sleep(party)
    background(registry)
    assert party.got == [(NOOP, b"")] * 2


def test_party_awake_for_one_function_is_woken_for_the_other_once_asleep():
    registry = make()
    party = worker(registry, b"f", b"g", asleep=True)
    background(registry, b"f")
    background(registry, b"g")
    grab_all(registry, party)
    registry.sleep(party)
    party.take()
    background(registry, b"g")
    assert party.got == [(NOOP, b"")]


def test_can_do_while_asleep_with_work_waiting_posts_noop():
    registry = make()
    background(registry)
    party = worker(registry, asleep=True)
    registry.can_do(party, b"f")
    assert party.got == [(NOOP, b"")]


def test_can_do_while_asleep_without_work_is_woken_later():
    registry = make()
    party = worker(registry, asleep=True)
    registry.can_do(party, b"f")
    assert party.got == []
    background(registry)
    assert party.got == [(NOOP, b"")]


def woken_and_other(registry):
    """Of two sleepers, the one that a new job woke, and the other; the woken one has taken its NOOP."""
    parties = [worker(registry, b"f", b"g", asleep=True) for _ in range(2)]
    background(registry)
    parties.sort(key=lambda party: len(party.got), reverse=True)
    assert parties[0].take() == [(NOOP, b"")]
    return parties


@pytest.mark.parametrize("away", ["leave", "cant_do", "reset_abilities"])
def test_woken_party_that_goes_away_passes_the_wakeup_on(away):
    registry = make()
    woken, other = woken_and_other(registry)
    {
        "leave": lambda: registry.leave(woken),
        "cant_do": lambda: registry.cant_do(woken, b"f"),
        "reset_abilities": lambda: registry.reset_abilities(woken),
    }[away]()
    assert other.got == [(NOOP, b"")]


def test_woken_party_that_grabs_its_job_passes_nothing_on():
    registry = make()
    woken, other = woken_and_other(registry)
    registry.grab(woken)
    registry.cant_do(woken, b"f")
    assert other.got == []


def test_woken_party_that_withdraws_another_function_passes_nothing_on():
    registry = make()
    woken, other = woken_and_other(registry)
    registry.cant_do(woken, b"g")
    assert other.got == []


def test_woken_party_that_grabs_of_another_function_passes_the_wakeup_on():
    registry = make()
    woken, other = woken_and_other(registry)
    registry.cant_do(other, b"g")
    background(registry, b"g", priority=HIGH)
    assert registry.grab(woken).function.name == b"g"
    assert other.got == [(NOOP, b"")]


def test_woken_party_that_does_not_grab_in_time_passes_the_wakeup_on():
    registry = make(grace_s=2.0)
    woken, other = woken_and_other(registry)
    registry.now = 1.99
    registry.tick()
    assert other.got == []
    registry.now = 2.0
    registry.tick()
    assert (woken.got, other.got) == ([], [(NOOP, b"")])


def test_woken_party_that_does_not_grab_in_time_can_still_grab():
    registry = make()
    woken, _ = woken_and_other(registry)
    registry.now = 5.0
    registry.tick()
    assert registry.grab(woken) is not None


def test_wakeup_whose_job_was_taken_by_another_is_not_passed_on():
    registry = make()
    woken, other = woken_and_other(registry)
    registry.grab(worker(registry, b"f"))
    registry.leave(woken)
    assert other.got == []


def test_grace_of_an_earlier_wakeup_does_not_end_a_later_one():
    registry = make()
    woken, other = woken_and_other(registry)
    grab_all(registry, woken)
    registry.cant_do(other, b"f")
    registry.sleep(woken)
    registry.now = 0.9
    background(registry)
    registry.can_do(other, b"f")
    other.take()
    registry.now = 1.0
    registry.tick()
    assert woken.claim is registry.functions[b"f"]


def test_requeued_job_wakes_a_sleeper():
    registry = make()
    background(registry)
    first = worker(registry, b"f")
    registry.grab(first)
    sleeper = worker(registry, b"f", asleep=True)
    registry.leave(first)
    assert sleeper.got == [(NOOP, b"")]


# -- timeouts and late reports -------------------------------------------------------


def timed_out(registry, client=None, timeout_s=5.0):
    """A job that its worker lost to the timeout, and that waits in the queue."""
    job = registry.submit(client, b"f", b"u", b"w")
    party = worker(registry, b"f", timeout_s=timeout_s)
    registry.grab(party)
    registry.now += timeout_s
    registry.tick()
    return job, party


def test_timeout_requeues_the_job_and_tells_nobody():
    registry, client = make(), Fake()
    job, party = timed_out(registry, client)
    assert (job.state, job.retries, job.worker) == (QUEUED, 1, None)
    assert (client.got, party.got) == ([], [])


def test_timeout_not_reached_leaves_the_job():
    registry = make()
    job = background(registry)
    registry.grab(worker(registry, b"f", timeout_s=5))
    registry.now = 4.999
    registry.tick()
    assert job.state is RUNNING


def test_timeout_below_the_minimum_is_raised_to_it():
    registry = make(minimum_timeout_s=3.0)
    job = background(registry)
    registry.grab(worker(registry, b"f", timeout_s=0.1))
    registry.now = 2.9
    registry.tick()
    assert job.state is RUNNING
    registry.now = 3.0
    registry.tick()
    assert job.state is QUEUED


def test_timeout_guards_each_of_several_jobs_from_its_own_assignment():
    registry = make()
    jobs = [background(registry), background(registry)]
    party = worker(registry, b"f", timeout_s=5)
    registry.grab(party)
    registry.now = 3
    registry.grab(party)
    registry.now = 5
    registry.tick()
    assert [job.state for job in jobs] == [QUEUED, RUNNING]


def test_can_do_after_can_do_timeout_removes_the_timeout_of_jobs_to_come():
    registry = make()
    job = background(registry)
    party = worker(registry, b"f", timeout_s=5)
    registry.can_do(party, b"f")
    registry.grab(party)
    registry.now = 1000
    registry.tick()
    assert job.state is RUNNING


def test_sleep_does_not_touch_the_timeout():
    registry = make()
    job = background(registry)
    party = worker(registry, b"f", timeout_s=5)
    registry.grab(party)
    registry.sleep(party)
    registry.now = 5
    registry.tick()
    assert job.state is QUEUED


def test_timeout_ends_with_its_job():
    registry = make()
    background(registry)
    party = worker(registry, b"f", timeout_s=5)
    complete(registry, party, registry.grab(party))
    second = background(registry)
    registry.grab(worker(registry, b"f"))
    registry.now = 5
    registry.tick()
    assert second.state is RUNNING


@pytest.mark.parametrize("how", ["data", "status"])
@pytest.mark.parametrize("extends", [False, True])
def test_report_extends_the_timeout_only_where_asked_to(how, extends):
    registry = make(reports_extend=extends)
    job = background(registry)
    party = worker(registry, b"f", timeout_s=5)
    registry.grab(party)
    registry.now = 3
    report(registry, party, job, how)
    registry.now = 5
    registry.tick()
    assert (job.state is RUNNING) == extends
    registry.now = 8
    registry.tick()
    assert job.state is QUEUED


def test_timeout_that_fails_tells_the_listener_and_ends_the_job():
    registry, client = make(timeout_fails=True), Fake()
    job, _ = timed_out(registry, client)
    assert client.got == [(WORK_FAIL, job.handle)]
    assert job.state is ENDED


@pytest.mark.parametrize(
    "how, kind",
    [
        ("data", WORK_DATA),
        ("status", WORK_STATUS),
        ("complete", WORK_COMPLETE),
        ("fail", WORK_FAIL),
        ("exception", WORK_FAIL),
    ],
)
def test_late_report_while_the_job_waits_counts(how, kind):
    registry, client = make(), Fake()
    job, party = timed_out(registry, client)
    assert report(registry, party, job, how)
    assert [kind for kind, _ in client.got] == [kind]


@pytest.mark.parametrize("how", ["data", "status"])
def test_late_report_gives_the_job_back_and_restarts_its_timeout(how):
    registry = make()
    job, party = timed_out(registry, timeout_s=5)
    registry.now = 8
    report(registry, party, job, how)
    assert job.worker is party and job.state is RUNNING
    assert registry.grab(worker(registry, b"f")) is None
    registry.now = 12.9
    registry.tick()
    assert job.state is RUNNING
    registry.now = 13
    registry.tick()
    assert (job.state, job.retries) == (QUEUED, 2)


@pytest.mark.parametrize("how", ["complete", "fail", "exception"])
def test_late_report_of_the_end_ends_the_job(how):
    registry = make()
    job, party = timed_out(registry)
    report(registry, party, job, how)
    assert job.state is ENDED and not registry.jobs
    assert registry.grab(worker(registry, b"f")) is None


@pytest.mark.parametrize("how", ALL_REPORTS)
def test_late_report_once_another_worker_has_the_job_is_dropped(how):
    registry, client = make(), Fake()
    job, late = timed_out(registry, client)
    other = worker(registry, b"f")
    registry.grab(other)
    assert report(registry, late, job, how)
    assert client.got == [] and job.worker is other


@pytest.mark.parametrize("how", ALL_REPORTS)
def test_late_report_once_the_job_has_ended_is_dropped(how):
    registry, client = make(), Fake()
    job, late = timed_out(registry, client)
    other = worker(registry, b"f")
    registry.grab(other)
    complete(registry, other, job)
    client.take()
    assert report(registry, late, job, how)
    assert client.got == []


@pytest.mark.parametrize("end", ["complete", "fail", "exception"])
@pytest.mark.parametrize("how", ALL_REPORTS)
def test_report_after_the_workers_own_end_of_the_job_is_dropped(end, how):
    registry, client = make(), Fake()
    foreground(registry, client)
    party = worker(registry, b"f")
    job = registry.grab(party)
    report(registry, party, job, end)
    client.take()
    assert report(registry, party, job, how)
    assert client.got == []


@pytest.mark.parametrize("how", ALL_REPORTS)
@pytest.mark.parametrize("state", ["queued", "running"])
def test_report_of_a_job_that_the_party_never_had_is_refused(how, state):
    registry, client = make(), Fake()
    job = foreground(registry, client)
    if state == "running":
        registry.grab(worker(registry, b"f"))
    assert not report(registry, worker(registry, b"f"), job, how)
    assert client.got == []


@pytest.mark.parametrize("how", ALL_REPORTS)
def test_report_of_an_unknown_handle_is_refused(how):
    registry, other = make(), make()
    party = worker(registry, b"f")
    assert not report(registry, party, background(other), how)


def test_handle_is_remembered_until_as_many_others_have_gone_by():
    registry = make()
    party = worker(registry, b"f")
    first = background(registry)
    complete(registry, party, registry.grab(party))
    for _ in range(REMEMBERED_HANDLES - 1):
        background(registry)
        complete(registry, party, registry.grab(party))
    assert report(registry, party, first, "data")
    background(registry)
    complete(registry, party, registry.grab(party))
    assert not report(registry, party, first, "data")


# -- requeue and retries -----------------------------------------------------------


def test_worker_that_leaves_gives_its_jobs_back_in_their_order_at_the_tail():
    registry = make()
    for workload in (b"1", b"2", b"3", b"4"):
        background(registry, workload=workload)
    party = worker(registry, b"f")
    for _ in range(3):
        registry.grab(party)
    registry.leave(party)
    assert grab_all(registry, worker(registry, b"f")) == [b"4", b"1", b"2", b"3"]


def test_requeued_job_keeps_its_priority():
    registry = make()
    background(registry, workload=b"high", priority=HIGH)
    party = worker(registry, b"f")
    registry.grab(party)
    background(registry, workload=b"normal")
    registry.leave(party)
    assert grab_all(registry, worker(registry, b"f")) == [b"high", b"normal"]


def test_requeued_job_has_no_progress():
    registry = make()
    job, party = background(registry), worker(registry, b"f")
    registry.grab(party)
    report(registry, party, job, "status")
    assert (job.numerator, job.denominator) == (1, 2)
    registry.leave(party)
    assert (job.numerator, job.denominator, job.retries) == (0, 0, 1)


def test_requeued_job_tells_nobody():
    registry, client = make(), Fake()
    foreground(registry, client)
    party = worker(registry, b"f")
    registry.grab(party)
    registry.leave(party)
    assert client.got == []


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("how", ["leave", "timeout"])
def test_job_fails_after_its_last_attempt(attempts, how):
    registry, client = make(attempts=attempts), Fake()
    job = foreground(registry, client)
    for attempt in range(attempts):
        assert client.got == []
        party = worker(registry, b"f", timeout_s=5)
        assert registry.grab(party) is job
        if how == "leave":
            registry.leave(party)
        else:
            registry.now += 5
            registry.tick()
    assert client.got == [(WORK_FAIL, job.handle)]
    assert not registry.jobs


def test_job_without_limit_of_attempts_is_tried_again_and_again():
    registry = make()
    job = background(registry)
    for _ in range(500):
        party = worker(registry, b"f")
        assert registry.grab(party) is job
        registry.leave(party)
    assert job.state is QUEUED


# -- cancel --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "running", "scheduled", "requeued"])
def test_cancel_tells_the_listener_and_takes_the_job_off_the_books(state):
    registry, client = make(), Fake()
    job = foreground(registry, client, unique=b"u", due_s=100 if state == "scheduled" else None)
    if state in ("running", "requeued"):
        party = worker(registry, b"f")
        registry.grab(party)
        if state == "requeued":
            registry.leave(party)
    assert registry.cancel(job.handle)
    function = registry.functions[b"f"]
    assert client.got == [(WORK_FAIL, job.handle)]
    assert not registry.jobs and not len(registry.uniques) and not registry.running
    assert (function.jobs, function.running, function.scheduled, function.queued) == (0, 0, 0, 0)


def test_cancel_a_second_time_says_unknown():
    registry = make()
    job = background(registry)
    registry.cancel(job.handle)
    assert not registry.cancel(job.handle)


def test_cancelled_queued_job_is_not_given_out():
    registry = make()
    registry.cancel(background(registry).handle)
    assert registry.grab(worker(registry, b"f")) is None


@pytest.mark.parametrize("how", ALL_REPORTS)
def test_cancelled_running_jobs_reports_are_dropped(how):
    registry, client = make(), Fake()
    job, party = foreground(registry, client), worker(registry, b"f")
    registry.grab(party)
    registry.cancel(job.handle)
    client.take()
    assert report(registry, party, job, how)
    assert client.got == []


@pytest.mark.parametrize("state", ["queued", "running"])
def test_cancelled_job_coalesces_with_nothing(state):
    registry = make()
    job = background(registry, unique=b"u")
    if state == "running":
        registry.grab(worker(registry, b"f"))
    registry.cancel(job.handle)
    again = background(registry, unique=b"u")
    assert again is not job
    assert registry.grab(worker(registry, b"f")) is again


# -- exceptions ------------------------------------------------------------------------


def test_exception_reaches_those_who_asked_for_it_and_is_a_failure_to_the_others():
    registry, asked, did_not_ask = make(), Fake(exceptions=True), Fake()
    job = foreground(registry, asked, unique=b"u")
    foreground(registry, did_not_ask, unique=b"u")
    party = worker(registry, b"f")
    registry.grab(party)
    report(registry, party, job, "exception")
    assert asked.got == [(WORK_EXCEPTION, job.handle + b"\0x")]
    assert did_not_ask.got == [(WORK_FAIL, job.handle)]


def test_exception_ends_the_job():
    registry = make()
    job, party = background(registry), worker(registry, b"f")
    registry.grab(party)
    report(registry, party, job, "exception")
    assert job.state is ENDED and not registry.jobs


def test_exception_reaches_a_connection_that_submitted_twice_twice():
    registry, client = make(), Fake()
    job = foreground(registry, client, unique=b"u")
    foreground(registry, client, unique=b"u")
    party = worker(registry, b"f")
    registry.grab(party)
    report(registry, party, job, "exception")
    assert client.got == [(WORK_FAIL, job.handle)] * 2


# -- limits ------------------------------------------------------------------------------


def test_queue_limit_refuses_a_job_over_it():
    registry = make()
    registry.functions.limit_queue(b"f", [2, 2, 2])
    background(registry), background(registry)
    assert background(registry) is QUEUE_FULL


@pytest.mark.parametrize("state", ["running", "scheduled", "of another priority"])
def test_queue_limit_counts_jobs_in_every_state_and_priority(state):
    registry = make()
    registry.functions.limit_queue(b"f", [1, 1, 1])
    background(registry, due_s=100 if state == "scheduled" else None, priority=LOW if state.startswith("of") else NORMAL)
    if state == "running":
        registry.grab(worker(registry, b"f"))
    assert background(registry) is QUEUE_FULL


def test_queue_limit_is_per_priority():
    registry = make()
    registry.functions.limit_queue(b"f", [None, 1, 0])
    background(registry, priority=NORMAL)
    refused = [background(registry, priority=priority) is QUEUE_FULL for priority in (HIGH, NORMAL, LOW)]
    assert refused == [False, True, True]


def test_queue_limit_does_not_refuse_what_joins_a_job():
    registry = make()
    registry.functions.limit_queue(b"f", [1, 1, 1])
    job = background(registry, unique=b"u")
    assert background(registry, unique=b"u") is job


def test_queue_limit_lifted_accepts_again():
    registry = make()
    registry.functions.limit_queue(b"f", [0, 0, 0])
    registry.functions.limit_queue(b"f", [None, None, None])
    assert background(registry) is not QUEUE_FULL


def test_queue_limit_makes_room_when_a_job_ends():
    registry = make()
    registry.functions.limit_queue(b"f", [1, 1, 1])
    registry.cancel(background(registry).handle)
    assert background(registry) is not QUEUE_FULL


def test_refused_job_leaves_no_trace():
    registry, client = make(), Fake()
    registry.functions.limit_queue(b"f", [0, 0, 0])
    foreground(registry, client, unique=b"u")
    assert not registry.jobs and not client.listening and not len(registry.uniques)


# -- functions ---------------------------------------------------------------------------


def test_drop_function_forgets_it():
    registry = make()
    registry.functions[b"f"]
    assert registry.functions.drop(b"f") is True
    assert b"f" not in registry.functions


def test_drop_function_of_unknown_name_is_none():
    assert make().functions.drop(b"f") is None


def test_drop_function_matches_the_whole_name():
    registry = make()
    registry.functions[b"function"]
    assert registry.functions.drop(b"func") is None


@pytest.mark.parametrize("state", ["queued", "running", "scheduled", "worker"])
def test_drop_function_in_use_is_refused(state):
    registry = make()
    if state != "worker":
        background(registry, due_s=100 if state == "scheduled" else None)
    if state == "running":
        party = worker(registry, b"f")
        registry.grab(party)
        registry.cant_do(party, b"f")
    if state == "worker":
        worker(registry, b"f")
    assert registry.functions.drop(b"f") is False
    assert b"f" in registry.functions


def test_function_is_remembered_after_its_last_job_and_worker():
    registry = make()
    background(registry)
    party = worker(registry, b"f")
    grab_all(registry, party)
    registry.leave(party)
    assert b"f" in registry.functions


def test_longest_idle_functions_are_forgotten(monkeypatch):
    monkeypatch.setattr(functions_module, "IDLE_FUNCTIONS", 3)
    registry = make()
    for name in (b"a", b"b", b"c"):
        registry.functions[name]
    registry.cancel(background(registry, b"a").handle)
    registry.functions[b"d"]
    assert set(registry.functions) == {b"a", b"c", b"d"}


@pytest.mark.parametrize("use", ["job", "worker", "limit"])
def test_function_in_use_is_not_forgotten(monkeypatch, use):
    monkeypatch.setattr(functions_module, "IDLE_FUNCTIONS", 2)
    registry = make()
    if use == "job":
        background(registry, b"used")
    elif use == "worker":
        worker(registry, b"used")
    else:
        registry.functions.limit_queue(b"used", [1, None, None])
    for number in range(10):
        registry.functions[b"%d" % number]
    assert b"used" in registry.functions


@pytest.mark.parametrize("use", ["job", "worker", "limit"])
def test_function_that_becomes_idle_again_can_be_forgotten(monkeypatch, use):
    monkeypatch.setattr(functions_module, "IDLE_FUNCTIONS", 2)
    registry, party = make(), Fake()
    if use == "job":
        job = background(registry, b"used")
    elif use == "worker":
        registry.can_do(party, b"used")
    else:
        registry.functions.limit_queue(b"used", [1, None, None])
    for number in range(5):
        registry.functions[b"%d" % number]
    if use == "job":
        registry.cancel(job.handle)
    elif use == "worker":
        registry.cant_do(party, b"used")
    else:
        registry.functions.limit_queue(b"used", [None, None, None])
    assert b"used" in registry.functions
    for number in range(5, 8):
        registry.functions[b"%d" % number]
    assert b"used" not in registry.functions


# -- due times -----------------------------------------------------------------------------


def test_scheduled_job_is_not_given_out_and_wakes_nobody_before_it_is_due():
    registry = make()
    party = worker(registry, b"f", asleep=True)
    background(registry, due_s=100)
    registry.epoch_s = 99.9
    registry.tick()
    assert party.got == []
    assert registry.grab(party) is None


def test_scheduled_job_hides_no_other():
    registry = make()
    background(registry, workload=b"later", due_s=100)
    background(registry, workload=b"low", priority=LOW)
    assert grab_all(registry, worker(registry, b"f")) == [b"low"]


def test_scheduled_job_when_due_wakes_a_sleeper_and_is_given_out():
    registry = make()
    party = worker(registry, b"f", asleep=True)
    job = background(registry, due_s=100)
    registry.epoch_s = 100
    registry.tick()
    assert party.got == [(NOOP, b"")]
    assert registry.grab(party) is job


def test_scheduled_jobs_queue_in_due_order():
    registry = make()
    for due_s in (30, 10, 20, 10):
        background(registry, workload=b"%d-%d" % (due_s, len(registry.jobs)), due_s=due_s)
    registry.epoch_s = 100
    registry.tick()
    assert grab_all(registry, worker(registry, b"f")) == [b"10-1", b"10-3", b"20-2", b"30-0"]


def test_next_due_without_anything_is_none():
    assert make().next_due() is None


def test_next_due_is_the_soonest_of_claims_timeouts_and_due_times():
    registry = make(grace_s=30.0)
    registry.now, registry.epoch_s = 50.0, 1000.0
    background(registry, due_s=1040)
    assert registry.next_due() == 40.0
    worker(registry, b"f", asleep=True)
    background(registry)
    assert registry.next_due() == 30.0
    registry.grab(worker(registry, b"f", timeout_s=20))
    assert registry.next_due() == 20.0


def test_next_due_of_what_is_overdue_is_zero():
    registry = make()
    background(registry, due_s=100)
    registry.epoch_s = 200
    assert registry.next_due() == 0.0


def test_sooner_is_set_by_what_is_due_before_all_else():
    registry = make()
    background(registry, due_s=100)
    registry.next_due()
    background(registry, due_s=200)
    assert not registry.sooner
    background(registry, due_s=50)
    assert registry.sooner


def test_sooner_is_set_by_a_first_wakeup():
    registry = make()
    worker(registry, b"f", asleep=True)
    registry.next_due()
    background(registry)
    assert registry.sooner


# -- draining ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["new", "coalescing", "scheduled"])
def test_draining_refuses_submissions(kind):
    registry = make()
    background(registry, unique=b"u")
    registry.draining = True
    unique, due_s = (b"u" if kind == "coalescing" else b""), (100 if kind == "scheduled" else None)
    assert background(registry, unique=unique, due_s=due_s) is SHUTTING_DOWN


def test_draining_still_gives_out_and_finishes_jobs():
    registry, client = make(), Fake()
    foreground(registry, client)
    party = worker(registry, b"f")
    registry.draining = True
    assert grab_all(registry, party) == [b"w"]
    assert [kind for kind, _ in client.got] == [WORK_COMPLETE]


def test_drained_when_empty_is_true():
    assert make().drained


def test_drained_with_a_queued_job_that_nobody_can_do_is_true():
    registry = make()
    background(registry)
    worker(registry, b"g")
    assert registry.drained


def test_drained_with_a_scheduled_job_is_true():
    registry = make()
    background(registry, due_s=100)
    worker(registry, b"f")
    assert registry.drained


def test_drained_with_a_queued_job_that_a_worker_can_do_is_false():
    registry = make()
    background(registry)
    worker(registry, b"f")
    assert not registry.drained


def test_drained_with_a_running_job_is_false():
    registry = make()
    background(registry)
    party = worker(registry, b"f")
    registry.grab(party)
    assert not registry.drained


# -- grabs that linger -----------------------------------------------------------


def busy(registry, *functions):
    """A worker whose last wait was short: its next grab that finds nothing lingers. It has taken its NOOP."""
    party = worker(registry, *functions, asleep=True)
    complete(registry, party, wake(registry, party, functions[0]))
    party.given = []
    return party


def wake(registry, party, function):
    background(registry, function)
    assert party.take() == [(NOOP, b"")]
    return registry.grab(party)


def linger(registry, party):
    assert registry.grab(party) is None
    return registry.linger(party, lambda party, job: party.given.append(job))


def test_grab_lingers_after_a_short_sleep():
    registry = make()
    assert linger(registry, busy(registry, b"f"))


def test_grab_does_not_linger_before_the_first_sleep():
    registry = make()
    assert not linger(registry, worker(registry, b"f"))


def test_grab_does_not_linger_after_a_long_sleep():
    registry = make(linger_s=0.5)
    party = worker(registry, b"f", asleep=True)
    registry.now += 0.5
    complete(registry, party, wake(registry, party, b"f"))
    assert not linger(registry, party)


def test_grab_never_lingers_where_the_time_for_it_is_zero():
    registry = make(linger_s=0.0)
    assert not linger(registry, busy(registry, b"f"))


def test_job_that_comes_while_a_grab_lingers_is_its_answer():
    registry = make()
    party = busy(registry, b"f")
    linger(registry, party)
    job = background(registry)
    assert (party.given, party.got, job.worker) == ([job], [], party)


def test_grab_lingers_again_after_one_that_got_a_job():
    registry = make()
    party = busy(registry, b"f")
    linger(registry, party)
    complete(registry, party, background(registry))
    assert linger(registry, party)


def test_grab_that_has_lingered_long_enough_is_answered_no_job():
    registry = make(linger_s=0.5)
    party = busy(registry, b"f")
    linger(registry, party)
    registry.now += 0.25
    assert registry.next_due() == 0.25
    registry.tick()
    assert party.got == []
    registry.now += 0.25
    registry.tick()
    assert (party.take(), party.asleep, registry.next_due()) == ([(PacketType.NO_JOB, b"")], False, pytest.approx(0.5))
    assert not linger(registry, party)


def test_second_linger_has_its_whole_time():
    registry = make(linger_s=0.5)
    party = busy(registry, b"f")
    linger(registry, party)
    registry.now += 0.25
    complete(registry, party, background(registry))
    linger(registry, party)
    registry.now += 0.25
    registry.tick()
    assert party.got == []


def test_party_that_lingers_is_told_at_once_when_it_asks_for_something_else():
    registry = make()
    party = busy(registry, b"f")
    linger(registry, party)
    registry.end_linger(party)
    assert (party.take(), party.asleep, party.lingering) == ([(PacketType.NO_JOB, b"")], False, None)


def test_job_of_another_function_is_no_answer_to_a_grab_that_lingers():
    registry = make()
    party = busy(registry, b"f")
    linger(registry, party)
    background(registry, b"g")
    assert (party.given, party.got) == ([], [])


def test_job_that_is_lost_goes_to_a_grab_that_lingers():
    registry = make()
    party, other = busy(registry, b"f"), worker(registry, b"f")
    job = background(registry)
    registry.grab(other)
    party.take()
    registry.sleep(party)
    complete(registry, party, wake(registry, party, b"f"))
    linger(registry, party)
    registry.leave(other)
    assert (party.given, job.worker) == ([job], party)


def test_of_several_that_linger_one_job_answers_one():
    registry = make()
    parties = [busy(registry, b"f") for _ in range(3)]
    for party in parties:
        linger(registry, party)
    background(registry)
    assert sorted(len(party.given) for party in parties) == [0, 0, 1]
    assert [party.got for party in parties] == [[]] * 3


def test_where_one_job_wakes_all_those_that_linger_are_answered_too():
    registry = make(wakeups=0)
    parties = [busy(registry, b"f") for _ in range(3)]
    for party in parties:
        party.take()
        linger(registry, party)
    background(registry)
    assert sorted(len(party.given) for party in parties) == [0, 0, 1]
    assert sorted(party.got for party in parties) == [[], [(PacketType.NO_JOB, b"")], [(PacketType.NO_JOB, b"")]]


def test_party_that_leaves_while_it_lingers_is_given_nothing():
    registry = make(linger_s=0.5)
    party = busy(registry, b"f")
    linger(registry, party)
    registry.leave(party)
    background(registry)
    registry.now += 0.5
    registry.tick()
    assert (party.given, party.got) == ([], [])


def test_party_that_lingers_and_gets_a_job_of_another_function_wakes_nobody_less():
    # `both` lingers. The job of g wakes the newer sleeper of g; the job of f
    # then wakes `both`, whose best job is that of g.
    registry = make()
    only_f = worker(registry, b"f", asleep=True)
    both = busy(registry, b"g", b"f")
    linger(registry, both)
    only_g = worker(registry, b"g", asleep=True)
    job_of_g = background(registry, b"g", priority=HIGH)
    assert only_g.take() == [(NOOP, b"")]
    background(registry, b"f")
    assert (both.given, only_f.take()) == ([job_of_g], [(NOOP, b"")])


def test_leave_may_be_done_in_pieces():
    registry = make()
    client, party = Fake(), worker(registry, b"f")
    for _ in range(3):
        foreground(registry, client)
        background(registry)
        registry.grab(party)
    assert [registry.leave(party, 2), registry.leave(party, 2)] == [False, True]
    assert [registry.leave(client, 2), registry.leave(client, 2)] == [False, True]
    assert len(registry.jobs) == 3 and registry.running == 0
