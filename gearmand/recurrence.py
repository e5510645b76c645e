"""The thread that submits recurring jobs when they are due.

It sleeps on `Broker.recurs` until the next one is, and submits with no lock
held: where there is a store that waits for a transaction.

Threads: `run` is the loop of its own one.
"""

from __future__ import annotations

from typing import Callable

from gearmand import recurring
from gearmand.broker import Broker
from gearmand.caller import keep_and_submit


def run(broker: Broker, stopping: Callable[[], bool]) -> None:
    """Submit what is due when it is due, until `stopping()`."""
    while not stopping():
        for entry in broker.turn(recurring.due):
            if stopping():
                return
            outcome = keep_and_submit(broker, entry.job.submission())
            broker.turn(recurring.done, entry, outcome)
        broker.wait_for_recurring(stopping)
