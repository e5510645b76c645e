"""What becomes of jobs, as the log tells it: the words of an event. Pure; knows neither the log nor the registry.

An event holds no workload.
"""

from __future__ import annotations

import json
import re
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
EXPIRED = "expired"
"""It has waited for too long."""
BURIED = "buried"
"""It has used its attempts up."""
KICKED = "kicked"
"""It was buried, and waits again."""
ABANDONED = "abandoned"
"""Nobody wants it any more."""

Event = Tuple[str, float, bytes, bytes, bytes, "Optional[Party]", Optional[float], bool]
"""Which, when (seconds since 1970), the job's handle, function and unique, the party that did it, for how long the job
had been waiting or running before, where that is known, and whether it was running."""

_quoted = json.JSONEncoder(ensure_ascii=True).encode
# What can stand as it is: a word, and between the quotes of JSON.
_is_word = re.compile(rb"[!#-<>-~]+").fullmatch
_is_plain = re.compile(rb"[ !#-\[\]-~]*").fullmatch


def as_text(event: Event) -> str:
    """One line, without its time."""
    what, _, handle, function, unique, party, after_s, ran = event
    return "job %s %s function=%s%s%s%s" % (
        _word(handle),
        what,
        _word(function),
        " unique=" + _word(unique) if unique else "",
        "" if party is None else " peer=" + (getattr(party, "address", None) or "-"),
        "" if after_s is None else (" ran_s=%.6f" if ran else " waited_s=%.6f") % after_s,
    )


def as_json(event: Event) -> str:
    """The members of a JSON object but for its time and level."""
    what, _, handle, function, unique, party, after_s, ran = event
    address = getattr(party, "address", None)
    return '"event": "%s", "handle": %s, "function": %s, "unique": %s, "peer": %s%s' % (
        what,
        _json(handle),
        _json(function),
        _json(unique),
        "null" if address is None else '"%s"' % address,
        "" if after_s is None else (', "ran_s": %.6f' if ran else ', "waited_s": %.6f') % after_s,
    )


def as_dict(event: Event) -> Dict[str, Union[str, float, None]]:
    """The same as an object."""
    return json.loads("{%s}" % as_json(event))


def _word(name: bytes) -> str:
    """A name within a line: in quotes where it could be taken for more than one word, or for none."""
    return name.decode("ascii") if _is_word(name) else _quoted(name.decode("utf-8", "backslashreplace"))


def _json(name: bytes) -> str:
    return '"%s"' % name.decode("ascii") if _is_plain(name) else _quoted(name.decode("utf-8", "backslashreplace"))
