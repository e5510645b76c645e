"""Yielding the processor: for a thread that could go on for long, or often, and should not be the only one.

Handlers share one processor and one interpreter lock, so to yield takes both:
the system has to run another thread, and the lock has to be free for it.
Before Python 3.12, or late releases of 3.10 and 3.11, `os.sched_yield` keeps
the lock, so that whoever runs next waits for it: the system's function itself
is called, by way of ctypes, which lets go of the lock. (Measured, Python 3.8:
`sync -c 100 -w 100` twice as many jobs a second, the slowest hundredth of
`bg -c 16 -d 16` 6 ms instead of 60.)
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from typing import Any, Callable


def _find() -> Callable[[], Any]:
    if not hasattr(os, "sched_yield"):
        return lambda: None
    if sys.version_info >= (3, 12):
        return os.sched_yield
    try:
        import ctypes

        return ctypes.CDLL(None).sched_yield
    except (ImportError, OSError, AttributeError):
        # Python without ctypes, or a C library that has it elsewhere.
        return lambda: None


def _considered(give_up: Callable[[], Any]) -> Callable[[], None]:
    """`give_up` the processor, but not again and again to other processes.

    Where those compute, each time costs a whole turn of theirs, some
    milliseconds. So when this process had less than half of a long one, the
    next one is not before it has computed for as long as that took. (Measured,
    four busy processes on two processors: `sync -c 8 -w 8` a fifth more jobs a
    second, with 32 jobs each 1.8 times as many, with 100 clients as many; a
    table of 2,000 functions 0.02 s instead of 0.3 to 0.5.)
    """
    not_before = watched_until = 0.0

    def let_others_run() -> None:
        nonlocal not_before, watched_until
        began = time.monotonic()
        if began < not_before:
            return
        # Whose the time is costs system calls to know: only where one was long just now.
        ours = time.process_time() if began < watched_until else None
        give_up()
        took = time.monotonic() - began
        if took > _LONG_S:
            watched_until = began + took + _WATCH_S
            if ours is not None and time.process_time() - ours < took / 2:
                not_before = began + 2 * took

    return let_others_run


_LONG_S = 0.002
_WATCH_S = 0.1


let_others_run = _considered(_find())
"""Let threads that are ready to run have their turns first. Where the system has no such thing it does nothing."""


class Breaks:
    """For one long computation, or many short ones, of several threads too: `take` lets others run where it has been a while.

    Not each time: where other processes compute, each costs a whole turn of
    theirs, some milliseconds. (Measured beside four of them, thousands of
    requests of HTTP in pieces of a few bytes: 10 s instead of 40.)
    """

    def __init__(self) -> None:
        self._due_at = time.monotonic() + _SPELL_S

    def take(self) -> None:
        if time.monotonic() >= self._due_at:
            let_others_run()
            self._due_at = time.monotonic() + _SPELL_S


_SPELL_S = 0.0003


class Turnstile:
    """For threads that wake in numbers, each for something costly: one after the other, each behind all that are ready to run.

    Meanwhile the rest sleep, so that others wait for one of them, not for all.
    But none sleeps for long: where others compute all the time, who passes may
    have to wait for the interpreter lock again and again. `breaks`: of all
    that they compute.
    """

    def __init__(self, breaks: Breaks) -> None:
        self._breaks = breaks
        self._one_at_a_time = threading.Lock()

    def wait(self) -> None:
        if self._one_at_a_time.acquire(True, _PATIENCE_S):
            try:
                self._breaks.take()
            finally:
                self._one_at_a_time.release()


_PATIENCE_S = 0.004


_CRUMB_BYTES = 64
_FEW_CRUMBS = 8
_PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5)


def pace(crumbs: int, received: int) -> int:
    """Pause before a peer is heard again whose packet comes in crumbs, longer from one to the next.

    `received`: how many bytes came that still did not complete it; `crumbs`:
    what this returned for those before them, 0 where there are none. No two
    peers pause equally long, or those who began together would be heard
    together each time. (Measured, 300 peers that send a byte every 20 ms: the
    slowest hundredth of another client's jobs 0.6 ms instead of 5.)
    """
    if received >= _CRUMB_BYTES:
        return 0
    if crumbs > _FEW_CRUMBS:
        longest_s = _PAUSES_S[min(crumbs - _FEW_CRUMBS, len(_PAUSES_S)) - 1]
        time.sleep(longest_s * random.uniform(0.5, 1.0))
    return crumbs + 1
