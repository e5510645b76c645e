"""One stored job: what survives the server. Knows no database.

A row is kept from before its submitter hears of the job until the job has
ended. Several rows may belong to one job, where submissions have coalesced.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from gearmand.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from gearmand.dormant import Wanted
    from gearmand.jobs import Job


class Row(NamedTuple):
    number: int
    """Its key, and its place in the order of submission; the number in its first handle."""
    handle: bytes
    function: bytes
    unique: bytes
    workload: bytes
    priority: int
    due_s: Optional[int]
    """Seconds since 1970; `None`: at once."""
    submitted_s: float
    """Seconds since 1970."""
    retries: int
    reducer: Optional[bytes]


class Submission(NamedTuple):
    """What a background submission asks for; a row before it has a number."""

    function: bytes
    unique: bytes
    workload: Any
    priority: int
    due_s: Optional[int] = None
    reducer: Optional[bytes] = None

    def row(self, number: int, handle: bytes, now_s: float, retries: int = 0) -> Row:
        function, unique, workload, priority, due_s, reducer = self
        return Row(number, handle, function, unique, workload, priority, due_s, now_s, retries, reducer)


class Change(NamedTuple):
    """What has become different of a row."""

    number: int
    handle: bytes
    retries: int
    priority: int
    due_s: Optional[int] = None
    """Seconds since 1970; `None`: as it was."""


class Notes:
    """What the store is to be told: rows of jobs that have ended, what has become different of others, rows to fetch, and what has been set."""

    __slots__ = ("removed", "changed", "wanted", "settings")

    def __init__(self) -> None:
        self.removed: List[int] = []
        self.changed: List[Change] = []
        self.wanted: List["Wanted"] = []
        self.settings: List[Setting] = []

    def __bool__(self) -> bool:
        return bool(self.removed or self.changed or self.wanted or self.settings)

    def differs(self, job: "Job") -> None:
        self.changed += [Change(number, job.handle, job.retries, job.priority, job.due_s) for number in job.rows]


class Setting(NamedTuple):
    """What is to be remembered beside the rows: `policy` says what there is. Keys are of any bytes."""

    key: bytes
    value: Optional[str]
    """JSON, ASCII alone; `None`: nothing any more."""


_PRIORITIES = (0, 1, 2)
_BYTES = ("handle", "function", "unique", "workload", "reducer")


def to_json(row: Row) -> str:
    """One line. Bytes that are text stand as text, others as {"base64": ...}."""
    return json.dumps({name: encoded(value) for name, value in row._asdict().items()}, ensure_ascii=False)


def from_json(line: str) -> Row:
    """The row of a line. ConfigError: it is none."""
    try:
        return from_object(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("no stored job: %s: %s" % (error, line[:200].rstrip())) from None


def from_object(found: Dict[str, Any]) -> Row:
    """The row of what a line's JSON is. ValueError, TypeError, KeyError, AttributeError: it is none."""
    for name in _BYTES:
        found[name] = decoded(found[name])
    row = Row(**found)
    _check(row)
    return row


def whole(columns: Iterable[Any], where: str) -> Row:
    """The row that a store has read. StoreError: somebody has damaged it."""
    row = Row(*columns)
    # One look at each of a million, at the start.
    number, handle, function, unique, workload, priority, due_s, submitted_s, retries, reducer = row
    if (
        type(handle) is type(function) is type(unique) is type(workload) is bytes
        and type(number) is type(retries) is int
        and type(submitted_s) is float
        and priority in _PRIORITIES
        and due_s is reducer is None
    ):
        return row
    try:
        _check(row)
        return row
    except ValueError as error:
        text = "%s: row %r is damaged: %s: correct that row or remove it"
        raise StoreError(text % (where, row.number, error)) from None


def _check(row: Row) -> None:
    numbers: Tuple[Any, ...] = (row.number, row.priority, row.retries, row.due_s if row.due_s is not None else 0)
    if not all(isinstance(number, int) for number in numbers) or row.priority not in _PRIORITIES:
        raise ValueError("number, priority, retries and due_s are whole numbers, priority 0, 1 or 2")
    if not all(-(2**63) <= number < 2**63 for number in numbers):
        raise ValueError("number, retries and due_s are less than 2^63")
    if isinstance(row.submitted_s, bool) or not isinstance(row.submitted_s, (int, float)):
        raise ValueError("submitted_s is a number")
    if not all(isinstance(value, bytes) for value in (row.handle, row.function, row.unique, row.workload)):
        raise ValueError("handle, function, unique and workload are text or bytes, and none of them is null")
    if row.reducer is not None and not isinstance(row.reducer, bytes):
        raise ValueError("reducer is text, bytes or null")


def encoded(value: Any) -> Any:
    """What is bytes, as it stands in JSON."""
    if not isinstance(value, (bytes, memoryview)):
        return value
    raw = bytes(value)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode("ascii")}


def decoded(value: Any) -> Optional[bytes]:
    """The bytes of that. ValueError, TypeError, KeyError: it is no such thing."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8")
    return base64.b64decode(value["base64"], validate=True)
