"""What a request of HTTP is answered with, whatever it asked for; and how what the registry refuses becomes such an answer."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Union

from gearmand.broker import Broker
from gearmand.caller import keep_and_submit
from gearmand.errors import JobLost, JobTimeout, Refusal
from gearmand.gate import Gate
from gearmand.http_request import Refused
from gearmand.json_bodies import Bytes, to_json
from gearmand.rows import Submission
from gearmand.waiter import Report, Waiter

JSON = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: Union[Bytes, Iterator[Bytes]]
    """Pieces are sent as they come. What the first one raises is answered like any error; what a later one raises ends
    the connection before the answer is whole."""
    then: Optional[Callable[[], None]] = None
    """What is done once it has been sent."""


class Asker(NamedTuple):
    """Who asks."""

    broker: Broker
    waiter: Callable[[Optional[float]], Waiter]
    """A new one that waits so many seconds at most; `None`: as long as it takes."""
    gate: Optional[Gate]
    """What stands between him and what he asks for, where anything does."""

    def why_not(self, command: str, changes: bool) -> Optional[str]:
        """Why he may not do what this administrative command does; `None`: he may. It does not count as an attempt."""
        return None if self.gate is None else self.gate.why_not(command.encode(), changes)

    def need(self, command: str, changes: bool) -> None:
        """Refused: he may not do what this administrative command does."""
        why = None if self.gate is None else self.gate.command(command.encode(), changes)
        if why is not None:
            raise Refused(403, "PERMISSION_DENIED", why)

    def need_to_see(self, function: bytes) -> None:
        """Refused: he may neither submit jobs of this function nor see everybody's."""
        why = None if self.gate is None else self.gate.see(function)
        if why is not None:
            raise Refused(403, "PERMISSION_DENIED", why)


def json_answer(value: Any, status: int = 200, as_base64: bool = False, then: Optional[Callable[[], None]] = None) -> Answer:
    return Answer(status, JSON, to_json(value, as_base64, b"\n"), then)


def error_answer(error: Refused) -> Answer:
    found: Dict[str, Any] = {"error": {"code": error.code, "text": error.text}}
    return Answer(error.status, {**JSON, **error.headers}, to_json(found) + b"\n")


def refused(refusal: Refusal) -> Refused:
    """A job that is not accepted."""
    code, text = refusal.code.decode(), refusal.text.decode("utf-8", "replace")
    if code in ("ARGUMENT_TOO_LARGE", "INVALID_ARGUMENT"):
        return Refused(400, code, text)
    if code == "PERMISSION_DENIED":
        return Refused(403, code, text)
    # The others may pass: the queue is full, the store is away, the server is about to stop.
    return Refused(429 if code == "RATE_LIMITED" else 503, code, text, {"Retry-After": "5"})


def not_ended(error: Union[JobTimeout, JobLost]) -> Refused:
    """A wait that is over before the job has ended."""
    return Refused(504, "TIMEOUT", str(error)) if isinstance(error, JobTimeout) else Refused(503, "LOST", str(error))


def submit_and_wait(asker: Asker, waiter: Waiter, submission: Submission) -> Iterator[Report]:
    """What is reported of a new job. Refused: it is not accepted."""
    refusal = waiter.submit(submission, asker.gate)
    if refusal is not None:
        raise refused(refusal)
    return waiter.reports()


def submit_in_background(asker: Asker, submission: Submission) -> bytes:
    """The handle of a new job. Refused: it is not accepted."""
    handle = keep_and_submit(asker.broker, submission, asker.gate)
    if isinstance(handle, Refusal):
        raise refused(handle)
    return handle
