"""The administrative commands that steer functions and jobs: rows of the table in `text_commands`."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Union

from gearmand import operations, text

if TYPE_CHECKING:
    from gearmand.text_commands import Answer, Control

_PRIORITIES = {name.encode(): at for at, name in enumerate(operations.PRIORITIES)}
_FEW, _EVERY = 10, 10**9
_SHOWN_BYTES = 256


def pause(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) != 3 or words[1].lower() != b"function":
        return text.incomplete(words[0])
    operations.change_policy(control.broker, words[2], {"paused": words[0].lower() == b"pause"})
    return text.OK


def policy(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) < 2:
        return text.incomplete(words[0])
    try:
        values = dict(map(_assignment, words[2:]))
        found = operations.change_policy(control.broker, words[1], values) if values else operations.policy_of(control.broker, words[1])
    except ValueError as error:
        return text.error("INVALID_ARGUMENTS", str(error))
    if found is None:
        return text.error("UNKNOWN_FUNCTION", "There is no function of that name")
    rows = [[name, "none" if value is None else json.dumps(value)] for name, value in found._asdict().items()]
    return [text.rows(rows), text.END_OF_TABLE]


_is_setting = re.compile(r"[-+.0-9A-Za-z]{1,30}", re.ASCII).fullmatch


def _assignment(word: bytes) -> Tuple[str, Any]:
    """ValueError."""
    name, equals, value = word.decode("utf-8", "backslashreplace").partition("=")
    if not equals:
        raise ValueError("expected NAME=VALUE, got %r" % name)
    try:
        # Nothing that is deep or long comes to the decoder, which is not made for that.
        if not _is_setting(value):
            raise ValueError
        return name, None if value == "none" else json.loads(value)
    except ValueError:
        raise ValueError("%s: expected a number, true, false or none, got %r" % (name, value[:50])) from None


def purge(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) not in (2, 3):
        return text.incomplete(words[0])
    priority = None if len(words) == 2 else _PRIORITIES.get(words[2].lower())
    if len(words) == 3 and priority is None:
        return _no_priority(words[2])
    return text.data(b"%d" % operations.purge(control.broker, words[1], priority, control.asking))


def reprioritise(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) != 4 or words[1].lower() != b"job":
        return text.incomplete(words[0])
    priority = _PRIORITIES.get(words[3].lower())
    if priority is None:
        return _no_priority(words[3])
    moved = operations.reprioritise(control.broker, words[2], priority)
    if moved is None:
        return text.error("UNKNOWN_JOB")
    return text.OK if moved else text.error("JOB_NOT_WAITING", "The job runs, or lies in the store alone")


def _no_priority(word: bytes) -> bytes:
    return text.error("INVALID_ARGUMENTS", "Expected high, normal or low, got %r" % word.decode("utf-8", "backslashreplace"))


def peek(control: "Control", words: List[bytes]) -> "Answer":
    most = _seen(control, words)
    if isinstance(most, bytes):
        return most
    rows = [
        (job.handle, job.unique, operations.PRIORITIES[job.priority], job.retries, "%.3f" % job.waits_s, len(job.workload), _shown(job.workload))
        for job in operations.peek(control.broker, words[1], most)
    ]
    return [text.rows(rows), text.END_OF_TABLE]


def buried(control: "Control", words: List[bytes]) -> "Answer":
    most = _seen(control, words)
    if isinstance(most, bytes):
        return most
    rows = [
        (job.handle, job.unique, "%.3f" % job.epoch_s, len(job.workload), _shown(job.why))
        for job in operations.buried(control.broker, words[1], most)
    ]
    return [text.rows(rows), text.END_OF_TABLE]


def kick(control: "Control", words: List[bytes]) -> "Answer":
    most = _count(words, _EVERY)
    if most is None:
        return text.incomplete(words[0])
    if words[0].lower() == b"kick":
        return text.data(b"%d" % operations.kick(control.broker, words[1], most))
    return text.data(b"%d" % operations.discard(control.broker, words[1], most, control.asking))


def _count(words: List[bytes], default: int = _FEW) -> Optional[int]:
    """How many, of a line that names a function and perhaps a number. `None`: it is no such line."""
    if len(words) == 2:
        return default
    return int(words[2]) if len(words) == 3 and re.fullmatch(rb"[0-9]{1,9}", words[2]) else None


def _seen(control: "Control", words: List[bytes]) -> Union[int, bytes]:
    """How many the asker is shown; or why none."""
    most = _count(words)
    if most is None:
        return text.incomplete(words[0])
    return _hidden(control, words[1]) or most


def _hidden(control: "Control", function: bytes) -> Optional[bytes]:
    """The refusal, where the asker may not see jobs of that function."""
    why = None if control.gate is None else control.gate.see(function)
    return None if why is None else text.error("PERMISSION_DENIED", why)


def _shown(data: Any) -> str:
    """The beginning of it as a JSON string, so that it stays one cell."""
    return json.dumps(bytes(data[:_SHOWN_BYTES]).decode("utf-8", "backslashreplace"))


def result(control: "Control", words: List[bytes]) -> "Answer":
    if len(words) == 3 and words[1].lower() == b"job":
        found = operations.result(control.broker, words[2])
    elif len(words) == 4 and words[1].lower() == b"unique":
        found = operations.result_of_unique(control.broker, words[2], words[3])
    else:
        return text.incomplete(words[0])
    if found is None:
        return text.error("NO_RESULT", "It has not ended, or its result is not kept")
    why = _hidden(control, found.function)
    if why is not None:
        return why
    data = base64.b64encode(found.data)
    return text.data(b" ".join((found.handle, found.how.encode(), b"%.3f" % found.epoch_s, data)).rstrip())
