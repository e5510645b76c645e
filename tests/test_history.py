"""The last hour: what is written at each step, what is forgotten, and that memory has a bound."""

from __future__ import annotations

import sys

import pytest

from gearmand import Server, history
from gearmand.functions import Function
from gearmand.history import COLUMNS, POINTS, STEP_S, History
from wire import SUBMIT_JOB_BG, Wire, wait_until


def step(kept, functions, at=None):
    kept.begin(1000.0 + STEP_S * (kept._step + 1) if at is None else at)
    kept.record(functions)
    kept.end()


def busy(name=b"f", **figures):
    function = Function(name)
    function.submitted = function.jobs = 1
    for key, value in figures.items():
        setattr(function, key, value)
    return function


def test_step_has_depths_counts_and_means():
    kept, function = History(), busy(jobs=5, running=1, scheduled=1, submitted=7)
    tally = function.counted()
    tally.completed, tally.failed, tally.exceptions = 2, 1, 1
    for seconds in (1.0, 2.0):
        tally.waits.add(seconds)
        tally.runs.add(seconds * 2)
    step(kept, [function])
    assert kept.columns(b"f") == {
        "queued": [3], "running": [1], "submitted": [7], "completed": [2], "failed": [2], "wait_s": [1.5], "run_s": [3.0],
    }  # fmt: skip
    function.submitted += 3
    step(kept, [function])
    columns = kept.columns(b"f")
    assert (columns["submitted"], columns["completed"], columns["wait_s"]) == ([7, 3], [2, 0], [1.5, None])
    assert kept.columns(None) == columns
    assert kept.times() == [1000.0, 1015.0] and kept.times(1000.0) == [1015.0]
    assert kept.columns(b"f", 1000.0)["submitted"] == [3]


def test_all_functions_together_are_their_sum():
    kept = History()
    step(kept, [busy(b"f", jobs=2), busy(b"g", jobs=3, running=1)])
    assert kept.columns(None)["queued"] == [4] and kept.columns(None)["submitted"] == [2]


def test_function_that_has_nothing_to_tell_costs_nothing_and_reads_as_zero():
    kept = History()
    step(kept, [Function(b"idle")])
    step(kept, [Function(b"idle")])
    assert kept.names == []
    assert kept.columns(b"idle") == dict(zip(COLUMNS, [[0, 0]] * 5 + [[None, None]] * 2))


def test_function_that_becomes_idle_reads_as_zero_from_then_on():
    kept, function = History(), busy(jobs=5)
    step(kept, [function])
    function.jobs = 0
    for _ in range(3):
        step(kept, [function])
    assert kept.columns(b"f")["queued"] == [5, 0, 0, 0]
    function.jobs, function.submitted = 2, 3
    step(kept, [function])
    assert kept.columns(b"f")["queued"] == [5, 0, 0, 0, 2]
    assert kept.columns(b"f")["submitted"] == [1, 0, 0, 0, 2]


def test_hour_is_all_that_is_kept():
    kept, function = History(), busy()
    for number in range(POINTS * 2 + 7):
        function.jobs = number
        step(kept, [function])
    columns = kept.columns(b"f")
    assert len(kept.times()) == POINTS and {len(column) for column in columns.values()} == {POINTS}
    assert columns["queued"] == list(range(POINTS + 7, 2 * POINTS + 7)) and kept.times() == sorted(kept.times())


def test_function_that_was_idle_for_hours_has_no_trace_of_before():
    kept, function = History(), busy(jobs=9)
    step(kept, [function])
    function.jobs = 0
    for _ in range(3 * POINTS):
        step(kept, [function])
    function.jobs = 1
    step(kept, [function])
    assert sum(kept.columns(b"f")["queued"]) == 1


def test_function_that_was_dropped_and_came_back_counts_from_zero():
    kept = History()
    step(kept, [busy(submitted=100)])
    step(kept, [busy(submitted=2)])
    assert kept.columns(b"f")["submitted"] == [100, 0]


def test_number_beyond_four_bytes_is_the_largest_that_fits():
    kept = History()
    step(kept, [busy(jobs=2**40)])
    assert kept.columns(b"f")["queued"] == [2**32 - 1]


@pytest.mark.parametrize("seed", [0, 1])
def test_functions_have_a_bound_and_those_busy_last_stay(monkeypatch, seed):
    monkeypatch.setattr(history, "FUNCTIONS", 10)
    kept = History()
    functions = [busy(b"%d" % number) for number in range(10)]
    step(kept, functions)
    assert set(kept.names) == {b"%d" % number for number in range(10)}
    # One more at the same time finds no room: all of them are busy.
    step(kept, [*functions, busy(b"more")])
    assert b"more" not in kept.names
    for function in functions[:5]:
        function.jobs = 0
    for _ in range(3):
        step(kept, functions)
    more = [busy(b"more%d" % number) for number in range(5)]
    step(kept, [*functions, *more])
    assert set(kept.names) == {b"%d" % number for number in range(5, 10)} | {b"more%d" % number for number in range(5)}
    # Reading does not make one busy.
    for function in (*functions, *more):
        function.jobs = 0
    for _ in range(3):
        step(kept, [*functions, *more])
        for name in kept.names:
            kept.columns(name)
    step(kept, [busy(b"last")])
    assert b"last" in kept.names and len(kept.names) == 10


def test_series_is_as_large_as_it_is_said_to_be():
    kept = History()
    step(kept, [busy()])
    series = kept._series[b"f"]
    size = sys.getsizeof(series) + sum(map(sys.getsizeof, series.columns)) + sys.getsizeof(series.columns) + sys.getsizeof(series.totals)
    assert size < 9000


def test_server_with_http_keeps_a_history(monkeypatch):
    monkeypatch.setattr("gearmand.web.STEP_S", 0.05)
    monkeypatch.setattr("gearmand.server.STEP_S", 0.05)
    with Server(port=0, http_port=0) as server, Wire(server.address) as wire:
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wait_until(lambda: sum(server.web.history.columns(b"f")["queued"]) > 3, "it is written on")
