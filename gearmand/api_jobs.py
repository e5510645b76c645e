"""Jobs through the JSON API: submissions, and waiting for results."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, List, Optional

from gearmand.api_fields import invalid
from gearmand.answers import Answer, Asker, json_answer, refused, submit_and_wait, submit_in_background
from gearmand.errors import JobLost, JobTimeout, Refusal
from gearmand.http_request import Refused
from gearmand.jobs import Priority, Workload
from gearmand.json_bodies import to_json
from gearmand.packet_commands import checked
from gearmand.protocol import PacketType
from gearmand.results import Result
from gearmand.rows import Submission
from gearmand.waiter import Report, Waiter

Values = Dict[str, Any]


def submission_of(values: Values) -> Submission:
    """Refused: it cannot be submitted."""
    due_s = values["epoch"]
    if values["delay_s"] is not None:
        if due_s is not None:
            raise invalid("epoch and delay_s do not go together")
        due_s = int(time.time() + values["delay_s"])
    if due_s is not None and due_s <= time.time():
        due_s = None
    if b"\0" in values["unique"]:
        raise invalid("unique: expected no NUL")
    priority = Priority[values["priority"].upper()]
    found = checked(
        Submission(values["function"], values["unique"], values["workload"], int(priority), due_s, values["reducer"])
    )
    if isinstance(found, Refusal):
        raise refused(found)
    return found


def submit(scene: Any, asker: Asker, values: Values) -> Answer:
    submission = submission_of(values)
    if values["background"] or values["epoch"] is not None or values["delay_s"] is not None:
        return json_answer({"handle": submit_in_background(asker, submission)}, 202)
    if values["stream"]:
        return Answer(200, {"Content-Type": "application/x-ndjson"}, _stream(asker, submission, values))
    with asker.waiter(values["timeout_s"]) as waiter:
        return _collect(waiter, submit_and_wait(asker, waiter, submission), values["base64"])


def result_of(asker: Asker, handle: bytes, wait_s: float, as_base64: bool) -> Optional[Answer]:
    """The end of an unfinished job; `None`: there is none of that handle, or it has not ended in time."""
    with asker.waiter(wait_s) as waiter:
        if not waiter.listen(handle):
            return None
        try:
            return _collect(waiter, waiter.reports(), as_base64)
        except JobTimeout:
            return None


def kept_result(result: Result, as_base64: bool) -> Answer:
    """The same of a background job that has ended."""
    answer: Dict[str, Any] = {"handle": result.handle, "ended_s": result.epoch_s}
    if result.how == "complete":
        answer["result"] = result.data
        return json_answer(answer, 200, as_base64)
    answer["error"] = _ERRORS[result.how]
    if result.how == "exception":
        answer["error"] = {**answer["error"], "data": result.data}
    return json_answer(answer, 500, as_base64)


_ERRORS = {
    "exception": {"code": "WORK_EXCEPTION", "text": "the worker raised an exception"},
    "fail": {"code": "WORK_FAIL", "text": "the job failed"},
}
_KEPT = {PacketType.WORK_DATA: "data", PacketType.WORK_WARNING: "warnings"}


def _collect(waiter: Waiter, reports: Iterator[Report], as_base64: bool) -> Answer:
    answer: Dict[str, Any] = {"handle": waiter.handle}
    held_bytes = 0
    for kind, arguments in reports:
        if kind in _KEPT:
            answer.setdefault(_KEPT[kind], []).append(arguments[1])
            held_bytes += len(arguments[1])
            if held_bytes > waiter.limit_bytes:
                raise Refused(502, "RESULT_TOO_LARGE", "the worker sends more data than can be held for one answer")
        elif kind == PacketType.WORK_COMPLETE:
            answer["result"] = arguments[1]
            return json_answer(answer, 200, as_base64)
        elif kind == PacketType.WORK_EXCEPTION:
            answer["error"] = {**_ERRORS["exception"], "data": arguments[1]}
        elif kind == PacketType.WORK_FAIL:
            answer["error"] = _ERRORS["fail"]
    return json_answer(answer, 500, as_base64)


def _stream(asker: Asker, submission: Submission, values: Values) -> Iterator[bytes]:
    with asker.waiter(values["timeout_s"]) as waiter:
        reports = submit_and_wait(asker, waiter, submission)
        line: Dict[str, Any] = {"report": "created", "handle": waiter.handle}
        yield to_json(line, end=b"\n")
        try:
            for kind, arguments in reports:
                yield to_json(_line(kind, arguments), values["base64"], b"\n")
        except (JobTimeout, JobLost) as error:
            code = "TIMEOUT" if isinstance(error, JobTimeout) else "LOST"
            yield to_json({"report": code.lower(), "text": str(error)}, end=b"\n")


def _line(kind: int, arguments: List[Workload]) -> Dict[str, Any]:
    name = PacketType(kind).name[len("WORK_") :].lower()
    if kind == PacketType.WORK_STATUS:
        words = [bytes(argument[:20]) for argument in arguments[1:]]
        numbers = [int(word) if word.isdigit() and len(word) < 20 else 0 for word in words]
        return {"report": name, "numerator": numbers[0], "denominator": numbers[1]}
    if kind == PacketType.WORK_FAIL:
        return {"report": name}
    return {"report": name, "data": arguments[1]}
