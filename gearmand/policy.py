"""What an operator has set for one function, and how a store remembers it. Pure; knows neither a function nor a job.

The settings of a store, by key:

    function:NAME     a JSON object: limits (high, normal, low) and what of `Policy` is not its default
    buried:NUMBER     of the row of that number: when its job was buried (seconds since 1970), and why
    recurring:NAME    a recurring job, see `recurring`
"""

from __future__ import annotations

import json
import math
import zlib
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from gearmand.rows import Setting

FUNCTION, BURIED = b"function:", b"buried:"
LONGEST_BACKOFF_S = 3600.0
ANY = 2**62
_CAUGHT_UP_S = 0.1


class Policy(NamedTuple):
    """`None`: it is not set, and goes as it does for every function."""

    paused: bool = False
    """Jobs are accepted, and none is given out."""
    most_running: Optional[int] = None
    """How many of its jobs may run at once."""
    rate: Optional[float] = None
    """How many of its jobs may be given out a second."""
    attempts: Optional[int] = None
    """How many times a job that fails, or whose worker is lost, is given out; then it is buried, if it is a background job."""
    backoff_s: Optional[float] = None
    """How long it waits before the second attempt; twice as long before each further one, an hour at most."""
    expiry_s: Optional[float] = None
    """How long a job may wait; then it fails."""
    keep_s: Optional[float] = None
    """For how long the results of background jobs are kept."""

    def delay_s(self, handle: bytes, retries: int) -> float:
        """How long a job waits after so many attempts: between half of it and all of it, so that jobs which failed together do not return together."""
        if not self.backoff_s:
            return 0.0
        longest_s = min(self.backoff_s * 2.0 ** min(retries - 1, 64), LONGEST_BACKOFF_S)
        return longest_s * (0.5 + zlib.crc32(b"%b %d" % (handle, retries)) / 2**33)

    def free(self, now: float, next_at: float, running: int) -> int:
        """How many more of its jobs may be given out at this moment."""
        free = ANY if self.most_running is None else max(0, self.most_running - running)
        if self.paused or (self.rate is not None and next_at > now):
            return 0
        return free if self.rate is None else min(free, int((now - max(next_at, now - _CAUGHT_UP_S)) * self.rate) + 1)

    def next_at(self, now: float, before: float) -> float:
        """When the next job may be given out, of which one has been given out now; `before`: what this said for that one."""
        assert self.rate is not None
        return max(before, now - _CAUGHT_UP_S) + 1 / self.rate


NOTHING = Policy()
_COUNTS = ("most_running", "attempts")
_AMOUNTS = ("rate", "backoff_s", "expiry_s", "keep_s")
_MOST = 10**9


def checked(values: Dict[str, Any]) -> Policy:
    """The policy of these values. ValueError: what is wrong with one of them."""
    unknown = set(values) - set(Policy._fields)
    if unknown:
        raise ValueError("%s: there is no such setting; there are %s" % (sorted(unknown)[0], ", ".join(Policy._fields)))
    for name, value in values.items():
        if name == "paused":
            if not isinstance(value, bool):
                raise ValueError("paused: expected true or false, got %r" % (value,))
        elif value is not None:
            _check_number(name, value)
    return Policy(**values)


def _check_number(name: str, value: Any) -> None:
    whole = name in _COUNTS
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    least = 1 if whole else 0.001 if name == "rate" else 0.0
    if not right or not least <= value <= _MOST:
        what = "a whole number" if whole else "a number"
        raise ValueError("%s: expected %s from %g to %d, or null for none, got %r" % (name, what, least, _MOST, value))


def of_function(name: bytes, limits: Optional[List[Optional[int]]], policy: Optional[Policy]) -> Setting:
    """`limits`: by priority, where they are the function's own."""
    values = {} if policy is None else {key: value for key, value in policy._asdict().items() if value not in (None, False)}
    if limits is not None:
        values["limits"] = limits
    return Setting(FUNCTION + name, json.dumps(values) if values else None)


def to_function(setting: Setting) -> Tuple[bytes, Optional[List[Optional[int]]], Optional[Policy]]:
    """Name, limits and policy. ValueError: somebody has damaged it."""
    values = _object(setting)
    limits = values.pop("limits", None)
    if limits is not None and (
        not isinstance(limits, list) or len(limits) != 3 or not all(each is None or isinstance(each, int) for each in limits)
    ):
        raise ValueError("limits: expected three whole numbers or nulls, got %r" % (limits,))
    return setting.key[len(FUNCTION) :], limits, checked(values) if values else None


class Burial(NamedTuple):
    """Of a job that has used its attempts up."""

    epoch_s: float
    why: bytes
    """What its worker said last; the beginning of it."""


def of_burial(number: int, burial: Burial) -> Setting:
    return Setting(BURIED + b"%d" % number, json.dumps({"epoch_s": burial.epoch_s, "why": burial.why.decode("latin-1")}))


def no_burial(number: int) -> Setting:
    return Setting(BURIED + b"%d" % number, None)


def to_burial(setting: Setting) -> Tuple[int, Burial]:
    """The row's number. ValueError: somebody has damaged it."""
    values = _object(setting)
    try:
        return int(setting.key[len(BURIED) :]), Burial(float(values["epoch_s"]), values["why"].encode("latin-1"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("expected epoch_s and why: %r" % error) from None


def _object(setting: Setting) -> Dict[str, Any]:
    values = json.loads(setting.value or "")
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object, got %r" % (values,))
    return values
