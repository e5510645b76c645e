"""Jobs by HTTP as the C server's plugin has it: the path is the function, the body the workload, the rest stands in headers.

What the plugin gets wrong is right here: the path is percent-decoded and the
query no part of it; a job that fails is no 200; data that a worker sends before
its result comes before it, as it arrives.
"""

from __future__ import annotations

from typing import Dict, Iterator, Union
from urllib.parse import unquote_to_bytes

from gearmand.answers import Answer, Asker, not_ended, refused, submit_and_wait, submit_in_background
from gearmand.api_fields import Field, values_of
from gearmand.errors import JobLost, JobTimeout, Refusal
from gearmand.http_request import Refused, Request, is_from_a_browser
from gearmand.jobs import Priority
from gearmand.packet_commands import checked
from gearmand.protocol import PacketType
from gearmand.rows import Submission

METHODS = ("GET", "HEAD", "POST", "PUT")
HEADERS = (
    Field("x-gearman-unique", "bytes", "The unique; `-`, the default, stands for the workload.", default=b"-"),
    Field("x-gearman-background", "flag", "Answer as soon as the job is accepted.", default=False),
    Field("x-gearman-priority", "high|normal|low", "The priority.", default="normal"),
    Field("x-gearman-timeout", "seconds", "How long to wait for the result; not known to the C server."),
)
_BYTES = {"Content-Type": "application/octet-stream"}


def function_of(request: Request) -> bytes:
    """Refused: it names none."""
    name = unquote_to_bytes(request.path[1:])
    if not name or b"\0" in name:
        raise Refused(404, "NOT_FOUND", "the path names no function")
    return name


def submit(asker: Asker, request: Request, workload: bytes) -> Answer:
    given = {field.name: request.fields[field.name].encode("latin-1") for field in HEADERS if field.name in request.fields}
    if request.method in ("GET", "HEAD") and is_from_a_browser(request) and not given:
        # Any page can make a browser send these.
        raise Refused(403, "FOREIGN_ORIGIN", "with GET, a browser can submit jobs only with a header X-Gearman-...")
    values = values_of(HEADERS, given, b"", None)
    priority = int(Priority[values["x-gearman-priority"].upper()])
    submission = checked(Submission(function_of(request), values["x-gearman-unique"], workload, priority))
    if isinstance(submission, Refusal):
        raise refused(submission)
    if values["x-gearman-background"]:
        handle = submit_in_background(asker, submission)
        return Answer(200, {**_headers(handle), "X-Gearman-Command": "JOB_CREATED"}, b"")
    pieces = _run(asker, submission, values["x-gearman-timeout"])
    head = next(pieces)
    assert isinstance(head, Answer)
    return head._replace(body=pieces) if head.body is _TO_COME else head


def _headers(handle: bytes) -> Dict[str, str]:
    return {**_BYTES, "X-Gearman-Job-Handle": handle.decode("latin-1")}


_TO_COME: Iterator[bytes] = iter(())


def _run(asker: Asker, submission: Submission, timeout_s: "Union[float, None]") -> "Iterator[Union[Answer, bytes]]":
    """The answer, then the pieces of its body that were not there at once."""
    begun = False
    with asker.waiter(timeout_s) as waiter:
        reports = submit_and_wait(asker, waiter, submission)
        headers = _headers(waiter.handle)
        try:
            for kind, arguments in reports:
                if kind in (PacketType.WORK_STATUS, PacketType.WORK_WARNING):
                    continue
                if kind == PacketType.WORK_DATA and not begun:
                    yield Answer(200, headers, _TO_COME)
                    begun = True
                if not begun:
                    status = 200 if kind == PacketType.WORK_COMPLETE else 500
                    headers["X-Gearman-Command"] = PacketType(kind).name
                    yield Answer(status, headers, arguments[1] if len(arguments) > 1 else b"")
                elif kind in (PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION):
                    raise Refused(500, PacketType(kind).name, "the job failed after it had sent data")
                else:
                    yield arguments[1]
        except (JobTimeout, JobLost) as error:
            raise not_ended(error) from None
