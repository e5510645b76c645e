"""The last hour of every busy function, and of all together: depth, rate and latency. In bounded memory. Pure.

Every `STEP_S` seconds the registry is looked at: `begin`, `record` with all
functions in pieces, `end`. All of it with the broker's lock held.

A series has a place for each of the last `POINTS` steps. A function that has
nothing to tell is not recorded, and its places are emptied when they are next
looked at; so functions that were seen once cost nothing.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from gearmand.functions import Function
from gearmand.tally import Tally

STEP_S = 15
POINTS = 240
FUNCTIONS = 2000
"""How many functions have a series of their own, about 9 KB each: those that were busy last."""

COLUMNS = ("queued", "running", "submitted", "completed", "failed", "wait_s", "run_s")
"""queued, running: at that moment. submitted, completed, failed (with exceptions): in that step. wait_s, run_s: the mean
of the jobs that were given out, or have ended, in that step; `None`: of none."""

_MOST = 2**32 - 1
_NONE = -1.0
_EMPTY = (0, 0, 0, 0, 0, _NONE, _NONE)
_NOTHING = Tally()
# Counts since the start: submitted, completed, failed, given out, their
# seconds, ended, their seconds.
Totals = Tuple[int, int, int, int, float, int, float]
_ZERO: Totals = (0, 0, 0, 0, 0.0, 0, 0.0)


def _totals(function: Function) -> Totals:
    tally = function.tally or _NOTHING
    failed = tally.failed + tally.exceptions
    return (
        function.submitted, tally.completed, failed,
        tally.waits.count, tally.waits.sum_s, tally.runs.count, tally.runs.sum_s,
    )  # fmt: skip


class _Series:
    __slots__ = ("columns", "step", "busy", "totals")

    def __init__(self, step: int, totals: Totals) -> None:
        self.columns = [array("I", bytes(4 * POINTS)) for _ in range(5)] + [array("f", [_NONE] * POINTS) for _ in range(2)]
        # The latest step that is written.
        self.step = step
        # The latest one in which anything was going on.
        self.busy = step
        self.totals = totals

    def add(self, step: int, queued: int, running: int, totals: Totals) -> None:
        """Write a step."""
        # A function that was dropped counts from zero again.
        deltas: List[Any] = [max(0, now - before) for now, before in zip(totals, self.totals)]
        self.totals = totals
        submitted, completed, failed, given_out, wait_s, ended, run_s = deltas
        means = (wait_s / given_out if given_out else _NONE, run_s / ended if ended else _NONE)
        self.empty_until(step - 1)
        self._write(step, (queued, running, submitted, completed, failed, *means))
        if queued or running or submitted or completed or failed:
            self.busy = step

    def empty_until(self, step: int) -> None:
        for missed in range(max(self.step, step - POINTS) + 1, step + 1):
            self._write(missed, _EMPTY)
        self.step = max(self.step, step)

    def _write(self, step: int, values: Sequence[float]) -> None:
        at = step % POINTS
        for column, value in zip(self.columns, values):
            column[at] = min(value, _MOST) if column.typecode == "I" else value
        self.step = step


class History:
    def __init__(self) -> None:
        self._step = -1
        self._times = array("d", bytes(8 * POINTS))
        self._all = _Series(-1, _ZERO)
        self._sums: List[float] = []
        self._depths = [0, 0]
        # Those that were busy longest ago first.
        self._series: "OrderedDict[bytes, _Series]" = OrderedDict()
        self._forgotten = False

    def begin(self, epoch_s: float) -> None:
        self._step += 1
        self._times[self._step % POINTS] = epoch_s
        self._sums = list(_ZERO)
        self._depths = [0, 0]

    def record(self, functions: Iterable[Function]) -> None:
        for function in functions:
            if function.submitted or function.jobs or function.tally is not None:
                totals = _totals(function)
                queued = function.jobs - function.running - function.scheduled
                self._sums = [total + more for total, more in zip(self._sums, totals)]
                self._depths[0] += queued
                self._depths[1] += function.running
                self._record(function, queued, totals)

    def _record(self, function: Function, queued: int, totals: Totals) -> None:
        series = self._series.get(function.name)
        if series is None:
            if self._forgotten and not function.jobs or not self._make_room():
                return
            # One that was forgotten has been counted before.
            series = self._series[function.name] = _Series(self._step - 1, totals if self._forgotten else _ZERO)
        if series.totals == totals and not function.jobs:
            return
        series.add(self._step, queued, function.running, totals)
        if series.busy == self._step:
            self._series.move_to_end(function.name)

    def _make_room(self) -> bool:
        """Whether one more may have a series: one that is idle gives way to it."""
        if len(self._series) < FUNCTIONS:
            return True
        name, oldest = next(iter(self._series.items()))
        # Not for every one of more than there is room for.
        if oldest.busy >= self._step - 1:
            return False
        del self._series[name]
        self._forgotten = True
        return True

    def end(self) -> None:
        self._all.add(self._step, self._depths[0], self._depths[1], tuple(self._sums))  # type: ignore[arg-type]

    # -- what there is to see ----------------------------------------------------------

    @property
    def names(self) -> List[bytes]:
        """The functions that have a series, those that were busy last first."""
        return list(reversed(self._series))

    def times(self, since_s: float = 0.0) -> List[float]:
        """When the steps were, seconds since 1970; those after `since_s`."""
        return [time for time in map(self._time, self._steps()) if time > since_s]

    def columns(self, function: Optional[bytes], since_s: float = 0.0) -> Dict[str, List[Any]]:
        """By `COLUMNS`: a value for each of `times`. `None`: of all functions together; one that has no series: no job."""
        steps = [step for step in self._steps() if self._time(step) > since_s]
        series = self._all if function is None else self._series.get(function)
        if series is None:
            return {name: [none_of(value)] * len(steps) for name, value in zip(COLUMNS, _EMPTY)}
        series.empty_until(self._step)
        places = [step % POINTS for step in steps]
        return {name: [none_of(column[at]) for at in places] for name, column in zip(COLUMNS, series.columns)}

    def _steps(self) -> range:
        return range(max(0, self._step - POINTS + 1), self._step + 1)

    def _time(self, step: int) -> float:
        return self._times[step % POINTS]


def none_of(value: float) -> Optional[float]:
    return None if value == _NONE else round(value, 6)
