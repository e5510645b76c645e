"""Giving up the processor: the other threads of this process are among those that can have it."""

from __future__ import annotations

import os
import threading
import time

import pytest

from gearmand import yielding
from gearmand.yielding import Breaks, Turnstile, pace

MEASURED_S = 0.3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound to a processor here")
def test_another_thread_on_the_same_processor_runs_before_this_one_goes_on():
    # Not `let_others_run`, which does nothing for a while where other processes compute too.
    give_up = yielding._find()
    stopping = threading.Event()
    yields = []

    def compute():
        while not stopping.is_set():
            pass

    def give_way():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        other = threading.Thread(target=compute)
        other.start()
        ends_at = time.monotonic() + MEASURED_S
        count = 0
        while time.monotonic() < ends_at:
            give_up()
            count += 1
        stopping.set()
        other.join()
        yields.append(count)

    thread = threading.Thread(target=give_way)
    thread.start()
    thread.join()
    # The other one uses up its share each time; had it to wait for the interpreter's lock, there would be 100,000.
    assert yields[0] < 5000


class Processor:
    """Clocks of one that this process and others share. `takes`: how long the next yields take, and what this process has of it."""

    def __init__(self, monkeypatch, takes):
        self.now = self.ours = 100.0
        self.given_up_at = []
        self._takes = iter(takes)
        monkeypatch.setattr(yielding.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(yielding.time, "process_time", lambda: self.ours)

    def give_up(self):
        self.given_up_at.append(self.now)
        took, ours = next(self._takes)
        self.now += took
        self.ours += ours

    def compute(self, seconds):
        self.now += seconds
        self.ours += seconds


def test_processor_that_other_processes_take_is_kept_for_as_long(monkeypatch):
    processor = Processor(monkeypatch, [(0.25, 0.0), (0.5, 0.0), (0.0, 0.0), (0.0, 0.0)])
    let_others_run = yielding._considered(processor.give_up)
    let_others_run()
    # Only then is it known whose the time is.
    let_others_run()
    for _ in range(10):
        let_others_run()
        processor.compute(0.0625)
    assert processor.given_up_at == [100.0, 100.25, 101.25, 101.3125]


def test_whose_the_time_is_is_asked_only_where_it_was_long_just_now(monkeypatch):
    processor = Processor(monkeypatch, [(0.0, 0.0), (0.25, 0.0), (0.0, 0.0), (0.0, 0.0)])
    asked = []
    monkeypatch.setattr(yielding.time, "process_time", lambda: asked.append(processor.now) or processor.ours)
    let_others_run = yielding._considered(processor.give_up)
    for _ in range(4):
        let_others_run()
        processor.compute(0.0625)
    assert len(processor.given_up_at) == 4 and asked == [100.375]


def test_processor_is_given_up_each_time_where_this_process_has_the_most_of_it(monkeypatch):
    processor = Processor(monkeypatch, [(0.25, 0.0), (0.5, 0.25), (0.0019, 0.0), (0.25, 0.125), (0.0019, 0.0), (0.0019, 0.0)])
    let_others_run = yielding._considered(processor.give_up)
    for _ in range(6):
        let_others_run()
    assert len(processor.given_up_at) == 6


def test_peer_whose_packet_comes_in_crumbs_is_heard_more_and_more_rarely(monkeypatch):
    pauses = []
    monkeypatch.setattr(yielding.time, "sleep", pauses.append)
    crumbs = 0
    for _ in range(9):
        crumbs = pace(crumbs, 1)
    assert pauses == []
    for _ in range(100):
        crumbs = pace(crumbs, 63)
    assert all(0.5 * longest <= pause <= longest for pause, longest in zip(pauses, [0.01, 0.02, 0.04, 0.08, 0.16, 0.32] + 94 * [0.5]))
    # Those who begin together are not heard together for long.
    assert len(set(pauses)) > 90
    assert pace(crumbs, 64) == 0 and len(pauses) == 100


def eager():
    """Breaks of which the first is due at once."""
    breaks = Breaks()
    breaks._due_at = 0.0
    return breaks


def test_one_passes_a_turnstile_while_the_others_sleep(monkeypatch):
    turnstile = Turnstile(eager())
    inside, most, passed = [], [], []
    begin = threading.Barrier(8)

    def let_others_run():
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()

    def wake():
        begin.wait(10)
        turnstile.wait()
        passed.append(None)

    monkeypatch.setattr(yielding, "let_others_run", let_others_run)
    monkeypatch.setattr(yielding, "_PATIENCE_S", 10)
    monkeypatch.setattr(yielding, "_SPELL_S", 0.0)
    threads = [threading.Thread(target=wake) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(passed) == 8 and most == 8 * [1]


def test_nobody_waits_at_a_turnstile_for_ever(monkeypatch):
    turnstile = Turnstile(eager())
    monkeypatch.setattr(yielding, "let_others_run", lambda: pytest.fail("somebody else is in it"))
    with turnstile._one_at_a_time:
        turnstile.wait()
    assert turnstile._one_at_a_time.acquire(False)


def test_who_passes_a_turnstile_lets_others_run_where_that_is_due(monkeypatch):
    turns = []
    monkeypatch.setattr(yielding, "let_others_run", lambda: turns.append(None))
    monkeypatch.setattr(yielding, "_SPELL_S", 3600.0)
    turnstile = Turnstile(eager())
    for _ in range(10):
        turnstile.wait()
    assert len(turns) == 1


def test_turnstile_opens_again_after_an_error(monkeypatch):
    turnstile = Turnstile(eager())
    monkeypatch.setattr(yielding, "let_others_run", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        turnstile.wait()
    assert turnstile._one_at_a_time.acquire(False)


def test_break_is_taken_where_it_is_due(monkeypatch):
    now, taken = [100.0], []
    monkeypatch.setattr(yielding.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(yielding, "let_others_run", lambda: taken.append(now[0]))
    monkeypatch.setattr(yielding, "_SPELL_S", 1.0)
    breaks = Breaks()
    for _ in range(10):
        breaks.take()
        now[0] += 0.25
    assert taken == [101.0, 102.0]
