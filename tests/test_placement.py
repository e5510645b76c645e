"""Where handlers run, and when they move: over tables of processors that a test writes down."""

from __future__ import annotations

import os
import threading

import pytest

from gearmand import ConfigError, Server, placement
from gearmand.placement import LOOK_S, Placement, busy, chosen
from wire import DEADLINE_S, Wire, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no placement on this system")


@pytest.fixture
def several():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor")


class Machine:
    """Two processors, and a server on one of them. `shares`: how busy each was, and by the server, since the last look."""

    def __init__(self, choice="auto"):
        self.complaints, self.moves = [], []
        self.placement = Placement(choice, self.complaints.append, self.moves.append)
        self.placement.cpu = 0
        self.placement._allowed = {0, 1}
        self.ticks = {0: 0.0, 1: 0.0, 2: 0.0}
        self.at_s = self.own_s = 0.0
        self.look((0, 0))

    def look(self, shares, own=0.0):
        self.at_s += LOOK_S
        self.own_s += own * LOOK_S
        for cpu, share in enumerate(shares):
            self.ticks[cpu] += share * 100
        everything = round(self.at_s / LOOK_S * 100)
        self.placement.look({cpu: (round(used), everything) for cpu, used in self.ticks.items()}, self.own_s, self.at_s)
        return self.moves


@pytest.fixture
def machine():
    return Machine()


def test_handlers_move_where_somebody_else_keeps_their_processor_busy(machine):
    assert machine.look((1.0, 0.2), 0.3) == []
    assert machine.look((1.0, 0.2), 0.3) == [1]
    assert machine.placement.cpu == 1
    # Now it is the server that makes this one busy.
    for _ in range(10):
        assert machine.look((1.0, 0.9), 0.8) == [1]


def test_handlers_stay_where_the_server_itself_keeps_their_processor_busy(machine):
    for _ in range(10):
        assert machine.look((1.0, 0.0), 0.95) == []


def test_handlers_stay_where_it_is_no_better_elsewhere(machine):
    for _ in range(10):
        assert machine.look((1.0, 0.7), 0.2) == []


def test_handlers_do_not_move_for_a_moment_s_sake(machine):
    for _ in range(10):
        assert machine.look((1.0, 0.0), 0.2) == []
        assert machine.look((0.2, 0.0), 0.2) == []


def test_handlers_of_an_idle_server_move_too(machine):
    machine.look((1.0, 0.0))
    assert machine.look((1.0, 0.0)) == [1]


def test_processors_that_the_process_may_not_use_do_not_count(machine):
    machine.look((1.0, 0.9, 0.0))
    assert machine.look((1.0, 0.9, 0.0)) == []


def test_processor_that_has_come_or_gone_does_not_count(machine):
    machine.placement.look({1: (100, 200)}, 0.0, 10.0)
    machine.placement.look({0: (300, 300), 3: (0, 300)}, 0.0, 20.0)
    assert machine.moves == []


# -- the system -----------------------------------------------------------------------


def test_table_of_processors_grows():
    first = busy()
    if not first:
        pytest.skip("the system has no such table")
    assert set(os.sched_getaffinity(0)) <= set(first)
    wait_until(lambda: any(used > first[cpu][0] for cpu, (used, _) in busy().items()), "one of them is busy")
    assert all(used <= everything for used, everything in busy().values())


def test_table_that_cannot_be_read_is_none(monkeypatch):
    def fail(*arguments):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)
    assert busy() == {}


def test_choices():
    allowed = os.sched_getaffinity(0)
    assert chosen("none") is None and chosen("auto") in allowed and chosen(str(max(allowed))) == max(allowed)
    with pytest.raises(ConfigError, match="may not use processor 9999"):
        chosen("9999")


@pytest.mark.usefixtures("several")
def test_all_threads_that_were_placed_move_and_those_that_are_placed_later_follow(monkeypatch):
    # On a busy machine they would move on by themselves.
    monkeypatch.setattr(placement, "LOOK_S", DEADLINE_S)
    with Server(port=0, handler_cpu="auto") as server, Wire(server.address) as first:
        first.echo()
        old = server.placement.cpu
        new = min(os.sched_getaffinity(0) - {old})
        server.placement.move(new)
        with Wire(server.address) as second:
            second.echo()
            placed = [thread for thread in threading.enumerate() if thread.name.startswith(("gearmand ", "gearmand-accept", "gearmand-courier"))]
            assert len(placed) == 4
            assert all(os.sched_getaffinity(thread.native_id) == {new} for thread in placed)
        assert os.sched_getaffinity(0) == os.sched_getaffinity(os.getpid()) != {new}


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("choice, looks", [("auto", True), ("none", False), (str(min(os.sched_getaffinity(0))), False)])
def test_only_what_was_chosen_by_the_server_may_change(monkeypatch, choice, looks):
    looked = threading.Event()
    monkeypatch.setattr(placement, "LOOK_S", 0.01)
    monkeypatch.setattr(Placement, "look", lambda *arguments: looked.set())
    with Server(port=0, handler_cpu=choice):
        assert looked.wait(5 if looks else 0.2) == looks


def test_what_the_system_does_not_allow_is_a_complaint(monkeypatch):
    def refuse(*arguments):
        raise OSError(1, "Operation not permitted")

    complaints = []
    placed = Placement("auto", complaints.append, complaints.append)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    placed.place()
    assert complaints == ["cannot place handlers on processor %d: Operation not permitted" % placed.cpu]
