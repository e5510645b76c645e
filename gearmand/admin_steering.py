"""The administrative commands that steer a job server: a part of `Admin`. Only this server has them.

What they do: the README's Steering. Each raises AdminRefused and ServerLost.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Pattern, Tuple, Union

from gearmand.errors import AdminRefused, ConfigError

_CELL, _JSON, _END = rb"([^\t\n]*)\t", rb'("(?:[^"\\\n]|\\.)*")', rb"\n"
_POLICY_ROW = re.compile(rb"([^\t\n]+)\t([^\t\n]+)" + _END)
_WAITING_ROW = re.compile(6 * _CELL + _JSON + _END)
_BURIED_ROW = re.compile(4 * _CELL + _JSON + _END)
# A function and a unique may have anything in them; what follows has not.
_RECURRING_ROW = re.compile(
    rb"(\S+)\t(.+?)\t(\S+(?: \S+){4})\t(high|normal|low)\t(.*?)\t(\d+)\t(-|\d+)\t(\S+)\t([^\t]+)\t(\d+)\t" + _JSON + _END, re.DOTALL
)


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


class RecurringJob(NamedTuple):
    """A row of `recurring`. Seconds since 1970: `next_s`, when it is due, and `last_s`, when it last was since the server started, or `None`."""

    name: str
    function: str
    cron: str
    """Minute, hour, day of the month, month and day of the week, as in a crontab, in the server's local time."""
    priority: str
    """high, normal or low."""
    unique: str
    """Empty: it does not coalesce with one that is unfinished."""
    next_s: int
    last_s: Optional[int]
    handle: Optional[str]
    """Of the job that was submitted last; `None`: none was, or it was refused."""
    refused: Optional[str]
    """Why it was not submitted when it last was due: a code, a colon and a text."""
    workload_bytes: int
    beginning: str
    """Of the workload."""


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

    def recurring(self) -> List[RecurringJob]:
        """The recurring jobs, in the order in which they were set."""
        return [_recurring(*row) for row in self._rows("recurring", _RECURRING_ROW)]

    def recur(
        self,
        name: str,
        function: str,
        cron: str,
        workload: Union[str, bytes] = b"",
        *,
        unique: Optional[str] = None,
        priority: str = "normal",
    ) -> None:
        """Have the server submit a background job of a function at the times of `cron`; one of the same name is replaced.

        `cron`: five fields, such as "30 2 * * mon-fri". `unique`: `None` for
        the name; "": each is a job of its own. ConfigError: `cron` has not five
        fields, or workload, unique and priority are all given, for which a
        line of the protocol has no room. The server takes a line of 8 KiB
        (`--max-line`), which bounds the workload to some 6,000 bytes; by HTTP
        it takes 64 KiB. The C server closes the connection: ServerLost.
        """
        data = workload.encode("utf-8", "surrogateescape") if isinstance(workload, str) else bytes(workload)
        more = ["base64=" + base64.b64encode(data).decode("ascii")] * bool(data)
        more += ["unique=" + (unique or "")] * (unique is not None) + ["priority=" + priority] * (priority != "normal")
        fields = cron.split()
        if len(fields) != 5:
            raise ConfigError("cron %r: expected five fields: minute, hour, day, month, weekday" % (cron,))
        if len(more) > 2:
            raise ConfigError("recurring job %s: a line has room for two of workload, unique and priority" % name)
        self._do("recur", name, function, *fields, *more)

    def unrecur(self, name: str) -> None:
        """Have it submitted no more; what was submitted stays."""
        self._do("unrecur", name)

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


def _recurring(*cells: bytes) -> RecurringJob:
    name, function, cron, priority, unique, next_s, last_s, handle, refused, size, beginning = cells
    last, job, why = (None if cell == b"-" else _text(cell) for cell in (last_s, handle, refused))
    return RecurringJob(
        _text(name), _text(function), _text(cron), _text(priority), _text(unique), int(next_s), None if last is None else int(last),
        job, why, int(size), json.loads(beginning),
    )  # fmt: skip


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
