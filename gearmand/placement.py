"""On which processor the handlers run: one for all of them, and another one where somebody else keeps that busy.

Threads that share the interpreter lock hand it from processor to processor with
every system call; on one they run up to three times as fast. As batch threads
they do not preempt each other there: one that is woken while another computes
would only wait for the lock (measured: 5 to 15 % more jobs a second).

That processor is one of many, and other processes use it too. Whoever computes
there all the time would have each handler wait for some milliseconds whenever
it has waited for a peer (measured, `bg -d 64`: a tenth of the jobs). So a thread
looks several times a second at how busy the processors are, and moves the
handlers to one that has more to give.

Threads: `place` by those that are to run there, and those that they start run
there too; `follow` by a thread of its own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Callable, Dict, Optional, Set, Tuple

from gearmand.errors import ConfigError

LOOK_S = 0.25
# For how many looks on end it must be better elsewhere, and by what part of a
# processor. Whoever moves for less moves to and fro.
_LOOKS = 2
_LEAST = 0.25

Busy = Dict[int, Tuple[int, int]]
"""By processor: how many ticks it was busy, and how many there were in all, since the machine's start."""


def chosen(choice: str) -> Optional[int]:
    """The processor for `--handler-cpu`; `None`: wherever the system likes. ConfigError: it may not be used."""
    if choice == "none" or not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if choice != "auto":
        if int(choice) not in allowed:
            raise ConfigError("--handler-cpu: this process may not use processor %s, only %s" % (choice, allowed))
        return int(choice)
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    # Several servers on one machine should not all choose the same one.
    return allowed[os.getpid() % len(allowed)]


def busy() -> Busy:
    """Of Linux; nothing where there is no such table."""
    found: Busy = {}
    try:
        with open("/proc/stat", "rb") as table:
            for line in table:
                name, *ticks = line.split()
                if name[:3] == b"cpu" and name != b"cpu":
                    # User, nice, system, idle, waiting for a disk, interrupts, and what the host has taken.
                    user, nice, system, idle, waiting, *more = map(int, ticks[:8])
                    used = user + nice + system + sum(more)
                    found[int(name[3:])] = (used, used + idle + waiting)
    except (OSError, ValueError):
        return {}
    return found


class Placement:
    """`choice`: the option's value. `complain`: called with what the system does not allow; `moved`: with the new processor."""

    def __init__(self, choice: str, complain: Callable[[str], None], moved: Callable[[int], None]) -> None:
        self.cpu = chosen(choice)
        self._complain = complain
        self._moved = moved
        self._may_move = self.cpu is not None and choice == "auto"
        self._allowed: Set[int] = set()
        # Where handlers may still be that began during the last move.
        self._left: Optional[int] = None
        self._before: Busy = {}
        self._own_before_s = self._looked_at = 0.0
        # The one that was better at the last looks, and at how many.
        self._better: Optional[int] = None
        self._looks = 0

    def place(self) -> None:
        """Take this thread, and those that it starts, to the processor of the handlers."""
        if self.cpu is None:
            return
        try:
            os.sched_setaffinity(0, {self.cpu})
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError as error:
            # A container may forbid it: slower, not out of order.
            self._complain("cannot place handlers on processor %d: %s" % (self.cpu, error.strerror))

    def follow(self, wait: Callable[[float], bool]) -> None:
        """Look, and move, until `wait(seconds)` says that it is over."""
        if not self._may_move or not busy():
            return
        self._allowed = os.sched_getaffinity(0)
        if len(self._allowed) < 2:
            return
        while not wait(LOOK_S):
            self.look(busy(), time.process_time(), time.monotonic())

    def look(self, now: Busy, own_s: float, at_s: float) -> None:
        """`own_s`: the processor time of this process, `at_s`: monotonic seconds."""
        if self._left is not None:
            self._bring(self._left)
            self._left = None
        before, self._before = self._before, now
        own = (own_s - self._own_before_s) / max(at_s - self._looked_at, 1e-9)
        self._own_before_s, self._looked_at = own_s, at_s
        better = self._better_than(before, now, own)
        self._looks = self._looks + 1 if better is not None and better == self._better else int(better is not None)
        self._better = better
        if better is not None and self._looks >= _LOOKS:
            self.move(better)

    def _better_than(self, before: Busy, now: Busy, own: float) -> Optional[int]:
        """The least busy one, where that is less busy than the handlers' is with others; `None`: there is none."""
        shares = {
            cpu: (used - before[cpu][0]) / max(1, all_of_it - before[cpu][1])
            for cpu, (used, all_of_it) in now.items() if cpu in before and (cpu in self._allowed)
        }  # fmt: skip
        here = shares.pop(self.cpu, None) if self.cpu is not None else None
        if here is None or not shares:
            return None
        least = min(shares, key=lambda cpu: shares[cpu])
        return least if here - own - shares[least] >= _LEAST else None

    def move(self, cpu: int) -> None:
        """Take all threads that were placed to another processor."""
        self._left, self.cpu = self.cpu, cpu
        self._before, self._better, self._looks = {}, None, 0
        self._bring(self._left)
        self._moved(cpu)

    def _bring(self, old: Optional[int]) -> None:
        assert self.cpu is not None
        for thread in threading.enumerate():
            native = thread.native_id
            if not thread.name.startswith("gearmand") or native is None:
                continue
            try:
                if os.sched_getaffinity(native) == {old}:
                    os.sched_setaffinity(native, {self.cpu})
            except OSError:
                pass  # It has ended.
