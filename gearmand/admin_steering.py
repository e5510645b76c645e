"""The administrative commands that steer a job server: a part of `Admin`. Only this server has them.

What they do: the README's Steering. Each raises AdminRefused and ServerLost.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Pattern, Tuple

from gearmand.errors import AdminRefused

_CELL, _JSON, _END = rb"([^\t\n]*)\t", rb'("(?:[^"\\\n]|\\.)*")', rb"\n"
_POLICY_ROW = re.compile(rb"([^\t\n]+)\t([^\t\n]+)" + _END)
_WAITING_ROW = re.compile(6 * _CELL + _JSON + _END)
_BURIED_ROW = re.compile(4 * _CELL + _JSON + _END)


class WaitingJob(NamedTuple):
    """A row of `peek`. `waits_s`: for how long already; `beginning`: of the workload."""

    handle: str
    unique: str
    priority: str
    retries: int
    waits_s: float
    workload_bytes: int
    beginning: str


class BuriedJob(NamedTuple):
    """A row of `buried`. `epoch_s`: since when (1970); `why`: what its worker said last."""

    handle: str
    unique: str
    epoch_s: float
    workload_bytes: int
    why: str


class KeptResult(NamedTuple):
    """What a background job has ended with. `how`: complete, fail or exception."""

    handle: str
    how: str
    epoch_s: float
    data: bytes


class Steering:
    """The part of `Admin`; what it needs of it is there."""

    if TYPE_CHECKING:

        def _do(self, *words: str) -> None: ...
        def value(self, command: str) -> str: ...
        def _rows(self, command: str, pattern: Pattern[bytes]) -> Iterator[Tuple[Any, ...]]: ...

    def pause(self, function: str) -> None:
        """Have none of its jobs given out; they are accepted, and wait."""
        self._do("pause", "function", function)

    def resume(self, function: str) -> None:
        self._do("resume", "function", function)

    def policy(self, function: str, **values: Any) -> Dict[str, Any]:
        """Set some of what there is to be set for a function, `None`: not any more; returns all of it by name."""
        words = ["%s=%s" % (name, "none" if value is None else json.dumps(value)) for name, value in values.items()]
        rows = self._rows(" ".join(["policy", function, *words]), _POLICY_ROW)
        return {name.decode(): None if value == b"none" else json.loads(value) for name, value in rows}

    def purge(self, function: str, priority: Optional[str] = None) -> int:
        """Cancel its jobs that wait, or those of a priority: high, normal or low. Returns how many."""
        return self._number("purge", function, *[priority] * (priority is not None))

    def peek(self, function: str, count: int = 10) -> List[WaitingJob]:
        """The first jobs that wait, in the order of service."""
        return [
            WaitingJob(_text(handle), _text(unique), priority.decode(), int(retries), float(waits_s), int(size), json.loads(beginning))
            for handle, unique, priority, retries, waits_s, size, beginning in self._rows("peek %s %d" % (function, count), _WAITING_ROW)
        ]

    def reprioritise(self, handle: str, priority: str) -> None:
        """Move a job that waits to another priority."""
        self._do("reprioritise", "job", handle, priority)

    def buried(self, function: str, count: int = 10) -> List[BuriedJob]:
        """The jobs that have used their attempts up, oldest first."""
        return [
            BuriedJob(_text(handle), _text(unique), float(epoch_s), int(size), json.loads(why))
            for handle, unique, epoch_s, size, why in self._rows("buried %s %d" % (function, count), _BURIED_ROW)
        ]

    def kick(self, function: str, count: Optional[int] = None) -> int:
        """Have buried jobs wait again, the oldest first; `None`: all. Returns how many."""
        return self._number("kick", function, *["%d" % count] if count is not None else [])

    def discard(self, function: str, count: Optional[int] = None) -> int:
        """End buried jobs, the oldest first; `None`: all. Returns how many."""
        return self._number("discard", function, *["%d" % count] if count is not None else [])

    def result(self, handle: str) -> Optional[KeptResult]:
        """What a background job has ended with; `None`: it has not, or that is not kept."""
        return self._kept("result job %s" % handle)

    def result_of_unique(self, function: str, unique: str) -> Optional[KeptResult]:
        """The same of the latest job of a function and unique that has ended."""
        return self._kept("result unique %s %s" % (function, unique))

    def drain(self) -> None:
        """Have the server take no new jobs, finish those that there are, and stop."""
        self._do("drain")

    def _number(self, *words: str) -> int:
        return int(self.value(" ".join(words)))

    def _kept(self, command: str) -> Optional[KeptResult]:
        try:
            handle, how, epoch_s, *data = self.value(command).split(" ")
        except AdminRefused as error:
            if error.code == "NO_RESULT":
                return None
            raise
        return KeptResult(handle, how, float(epoch_s), base64.b64decode(data[0]) if data else b"")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
