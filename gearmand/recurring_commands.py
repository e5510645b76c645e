"""The administrative commands of recurring jobs: rows of the table in `text_commands`."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence

from gearmand import operations, text
from gearmand.errors import Refusal
from gearmand.recurring import Entry

if TYPE_CHECKING:
    from gearmand.text_commands import Answer, Control

_SHOWN_BYTES = 256
_FIRST_FIELD, _FIRST_VALUE = 3, 8


def show(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) != 1:
        return text.incomplete(words[0])
    return _table(control)


def _table(control: "Control") -> Iterator[bytes]:
    for rows in control.broker.rows(lambda registry: registry.recurring.entries.values(), _row):
        yield text.rows(rows)
    yield text.END_OF_TABLE


def _row(entry: Entry) -> Sequence[object]:
    job, outcome = entry.job, entry.outcome
    handle = outcome if isinstance(outcome, bytes) else "-"
    refusal = "%s: %s" % (outcome.code.decode(), outcome.text.decode("utf-8", "replace")) if isinstance(outcome, Refusal) else "-"
    last_s = "-" if entry.last_s is None else entry.last_s
    return (
        job.name, job.function, job.cron, operations.PRIORITIES[job.priority], job.unique, entry.next_s, last_s, handle, refusal,
        len(job.workload), json.dumps(job.workload[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")),
    )  # fmt: skip


def put(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) < _FIRST_VALUE:
        return text.incomplete(words[0])
    cron = b" ".join(words[_FIRST_FIELD:_FIRST_VALUE]).decode("utf-8", "backslashreplace")
    try:
        values = _values(words[_FIRST_VALUE:])
        done = operations.put_recurring(control.broker, words[1], words[2], cron, **values)
    except ValueError as error:
        return text.error("INVALID_ARGUMENTS", str(error))
    return text.OK if done else text.error("LIMIT_REACHED", operations.NO_MORE_RECURRING)


def _values(words: Sequence[bytes]) -> Dict[str, Any]:
    """ValueError."""
    found: Dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition(b"=")
        read = _VALUES.get(name)
        if read is None or not equals:
            known = ", ".join("%s=" % each.decode() for each in _VALUES)
            raise ValueError("expected one of %s, got %r" % (known, word[:64].decode("utf-8", "backslashreplace")))
        field = "workload" if name == b"base64" else name.decode()
        if field in found:
            raise ValueError("%s: it is given twice" % field)
        found[field] = read(value)
    return found


def _priority(value: bytes) -> int:
    word = value.decode("utf-8", "backslashreplace").lower()
    if word not in operations.PRIORITIES:
        raise ValueError("priority: expected high, normal or low, got %r" % word[:64])
    return operations.PRIORITIES.index(word)


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError("base64: %s" % error) from None


_VALUES = {b"workload": bytes, b"base64": _base64, b"unique": bytes, b"priority": _priority}


def remove(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) != 2:
        return text.incomplete(words[0])
    if operations.remove_recurring(control.broker, words[1]):
        return text.OK
    return text.error("UNKNOWN_RECURRING", "There is no recurring job of that name")
