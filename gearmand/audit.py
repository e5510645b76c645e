"""What becomes of jobs, as the log tells it: the words of an event. Pure; knows neither the log nor the registry.

An event holds no workload.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Dict, Optional, Tuple, Union

if TYPE_CHECKING:
    from gearmand.parties import Party

ACCEPTED = "accepted"
COALESCED = "coalesced"
"""Another submission joined the job."""
ASSIGNED = "assigned"
COMPLETED = "completed"
FAILED = "failed"
TIMED_OUT = "timed out"
"""The worker has had it too long; what became of it is the next event."""
REQUEUED = "requeued"
CANCELLED = "cancelled"
ABANDONED = "abandoned"
"""Nobody wants it any more."""

Event = Tuple[str, float, bytes, bytes, bytes, "Optional[Party]", Optional[float], bool]
"""Which, when (seconds since 1970), the job's handle, function and unique, the party that did it, for how long the job
had been waiting or running before, where that is known, and whether it was running."""

_quoted = json.JSONEncoder(ensure_ascii=True).encode


def as_text(event: Event) -> str:
    """One line, without its time."""
    what, _, handle, function, unique, party, after_s, ran = event
    text = "job %s %s function=%s" % (_word(handle), what, _word(function))
    if unique:
        text += " unique=" + _word(unique)
    address = getattr(party, "address", None)
    if address is not None:
        text += " peer=" + address
    if after_s is not None:
        text += " %s=%.6f" % ("ran_s" if ran else "waited_s", after_s)
    return text


def as_json(event: Event) -> str:
    """The members of a JSON object but for its time and level."""
    what, _, handle, function, unique, party, after_s, ran = event
    text = '"event": "%s", "handle": %s, "function": %s, "unique": %s, "peer": %s' % (
        what,
        _json(handle),
        _json(function),
        _json(unique),
        _quoted(getattr(party, "address", None)),
    )
    if after_s is not None:
        text += ', "%s": %.6f' % ("ran_s" if ran else "waited_s", after_s)
    return text


def as_dict(event: Event) -> Dict[str, Union[str, float, None]]:
    """The same as an object."""
    return json.loads("{%s}" % as_json(event))


def _plain(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


@lru_cache(4096)
def _word(name: bytes) -> str:
    """A name within a line: in quotes where it could be taken for more than one word."""
    text = _plain(name)
    return text if text.isprintable() and text and not set(text) & set(' "=') else _quoted(text)


@lru_cache(4096)
def _json(name: bytes) -> str:
    return _quoted(_plain(name))
