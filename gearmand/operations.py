"""What changes something by the wish of an administrator: few functions, which every way to ask for it leads to.

The administrative protocol (`text_commands`) and the JSON API (`api`) read a
request, call one of these and write its result down. No lock is held.
"""

from __future__ import annotations

from typing import Optional, Sequence

from gearmand import revival
from gearmand.broker import Broker
from gearmand.parties import Party
from gearmand.rows import Limits


def cancel_job(broker: Broker, handle: bytes, asking: Optional[Party] = None) -> bool:
    """End an unfinished job with WORK_FAIL. False: there is none of that handle. `asking`: who wants it."""
    return broker.turn(revival.cancel, handle, asking)


def create_function(broker: Broker, name: bytes) -> None:
    """List a function before it is used."""
    broker.turn(lambda registry: registry.functions[name])


def drop_function(broker: Broker, name: bytes) -> Optional[bool]:
    """Forget a function: True; False while it has workers or jobs; `None`: there is none of that name."""
    return broker.turn(lambda registry: registry.functions.drop(name))


def limit_function(broker: Broker, name: bytes, limits: Sequence[Optional[int]]) -> bool:
    """Refuse new jobs of a function and priority while it has that many in all; `None`: any number.

    False: as many functions have a limit as may have one.
    """
    if not broker.turn(lambda registry: registry.functions.limit_queue(name, list(limits))):
        return False
    if broker.keeper is not None:
        broker.keeper.note_limits(Limits(name, *limits))
    return True
