"""python-gearman's GearmanClient on top of `client`. See `compat` for where it differs."""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
from typing import Any, Collection, Deque, Dict, List, Optional, Tuple

from gearmand.client import Client
from gearmand.compat_names import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_NONE,
    ExceededConnectionAttempts,
    GearmanConnection,
    GearmanConnectionManager,
    GearmanError,
    GearmanJobRequest,
    InvalidClientState,
    ServerUnavailable,
    wire_name,
)
from gearmand.errors import ConfigError, JobException, JobLost, JobRefused, ServerLost
from gearmand.submitted import SubmittedJob, deadline_of

LOG = logging.getLogger("gearmand.client")

RANDOM_UNIQUE_BYTES = 16
# Poll takes no more than 2**31 ms.
_LONGEST_S = 1e6

Requests = Collection[GearmanJobRequest]


class Submission:
    """One submission of a request: notes what comes, until the request is told by the thread that waits.

    The callbacks are called by the thread that reads the connection (see
    `link`), all others by the one that uses the client.
    """

    def __init__(self, connections: Dict[str, GearmanConnection]) -> None:
        self.accepted = threading.Event()
        self.ended = threading.Event()
        self.job: Optional[SubmittedJob] = None
        self._connections = connections
        self._news: Deque[Tuple[str, Any]] = collections.deque()

    def submit(self, client: Client, function: bytes, workload: bytes, **options: Any) -> SubmittedJob:
        name = function.decode("utf-8", "surrogateescape")
        options.update(on_created=self._created, on_data=self._data, on_warning=self._warning, on_status=self._status)
        self.job = client.submit(name, workload, **options)
        self.job.add_done_callback(self._done)
        return self.job

    def _created(self, job: SubmittedJob) -> None:
        assert job.server is not None and job.handle is not None
        self._connections[job.server].connected = True
        self._news.append(("created", (self._connections[job.server], job.handle.encode())))
        self.accepted.set()

    def _data(self, data: bytes) -> None:
        self._news.append(("data", data))

    def _warning(self, data: bytes) -> None:
        self._news.append(("warning", data))

    def _status(self, numerator: int, denominator: int) -> None:
        self._news.append(("status", (True, True, numerator, denominator, time.time())))

    def _done(self, job: SubmittedJob) -> None:
        error = job.exception()
        if isinstance(error, JobLost) and error.server is not None:
            self._connections[error.server].connected = False
        self._news.append(("ended", (error, None if error else job.result())))
        self.accepted.set()
        self.ended.set()

    def tell(self, request: GearmanJobRequest, manager: GearmanConnectionManager) -> None:
        """Have the request say all that has come."""
        while self._news:
            kind, value = self._news.popleft()
            _NEWS[kind](request, value, manager)


def _tell_created(request: GearmanJobRequest, value: Any, manager: GearmanConnectionManager) -> None:
    request.job.connection, request.job.handle = value
    request.state = JOB_CREATED


def _tell_data(request: GearmanJobRequest, value: bytes, manager: GearmanConnectionManager) -> None:
    request.data_updates.append(manager.decode(value))


def _tell_warning(request: GearmanJobRequest, value: bytes, manager: GearmanConnectionManager) -> None:
    request.warning_updates.append(manager.decode(value))


def _tell_status(request: GearmanJobRequest, value: Any, manager: GearmanConnectionManager) -> None:
    names = ("known", "running", "numerator", "denominator", "time_received")
    request.status = {"handle": request.job.handle, **dict(zip(names, value))}


def _tell_ended(request: GearmanJobRequest, value: Any, manager: GearmanConnectionManager) -> None:
    error, result = value
    if error is None:
        if not request.background:
            request.result = manager.decode(result)
            request.state = JOB_COMPLETE
        return
    request.state = JOB_UNKNOWN if isinstance(error, JobLost) else JOB_FAILED
    if isinstance(error, JobRefused):
        LOG.error("%s", error)
    elif isinstance(error, JobException):
        try:
            request.exception = manager.decode(error.data)
        except Exception:
            # Workers of other languages do not know of the encoder.
            request.exception = error.data


_NEWS = {"created": _tell_created, "data": _tell_data, "warning": _tell_warning, "status": _tell_status, "ended": _tell_ended}


class GearmanClient(GearmanConnectionManager):
    """Submits jobs to one of several servers. `random_unique_bytes`: of the unique of a job that has none given.

    A `poll_timeout` is in seconds; `None`: however long it takes. What times
    out goes on and can be waited for again. One thread at a time per request.
    """

    def __init__(self, host_list: Any = None, random_unique_bytes: int = RANDOM_UNIQUE_BYTES) -> None:
        self._client: Optional[Client] = None
        self._connections: Dict[str, GearmanConnection] = {}
        super().__init__(host_list)
        self.random_unique_bytes = random_unique_bytes

    def add_connection(self, hostport_tuple: Any) -> Any:
        """One more server. The connections made before are closed, so do it before the first job."""
        connection = super().add_connection(hostport_tuple)
        self._connections[str(connection.address)] = connection
        self.shutdown()
        return connection

    def shutdown(self) -> None:
        """Close every connection; jobs that have not ended become JOB_UNKNOWN. It can be used again, and connects anew."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        for connection in self.connection_list:
            connection.connected = False

    def _connected_client(self) -> Client:
        if not self.connection_list:
            raise ServerUnavailable("there is no server in the list")
        if self._client is None:
            sides = {connection.tls for connection in self.connection_list}
            if len(sides) > 1:
                raise GearmanError("%r: expected all servers to speak TLS with the same files, or none" % self)
            self._client = Client([connection.address for connection in self.connection_list], tls=sides.pop())
        return self._client

    # -- submitting --------------------------------------------------------------

    def submit_job(
        self,
        task: Any,
        data: Any,
        unique: Any = None,
        priority: Optional[str] = PRIORITY_NONE,
        background: bool = False,
        wait_until_complete: bool = True,
        max_retries: int = 0,
        poll_timeout: Optional[float] = None,
    ) -> GearmanJobRequest:
        """Submit a job, wait until its server has it, and then until it ends. Look at the request's `state` and `timed_out`.

        `max_retries`: how many times it is submitted again where its server is
        lost before it has the job. ServerUnavailable, ExceededConnectionAttempts.
        """
        job = {"task": task, "data": data, "unique": unique, "priority": priority}
        return self.submit_multiple_jobs([job], background, wait_until_complete, max_retries, poll_timeout)[0]

    def submit_multiple_jobs(
        self,
        jobs_to_submit: Collection[Dict[str, Any]],
        background: bool = False,
        wait_until_complete: bool = True,
        max_retries: int = 0,
        poll_timeout: Optional[float] = None,
    ) -> List[GearmanJobRequest]:
        """The same for several: each is a dict of task and data, and perhaps unique and priority."""
        _check_collection(jobs_to_submit)
        requests = [self._new_request(job, background, max_retries) for job in jobs_to_submit]
        self.submit_multiple_requests(requests, wait_until_complete, poll_timeout)
        return requests

    def submit_multiple_requests(
        self, job_requests: Requests, wait_until_complete: bool = True, poll_timeout: Optional[float] = None
    ) -> Requests:
        """Submit those requests that are JOB_UNKNOWN, and wait for all of them. Returns what it was given."""
        deadline = deadline_of(poll_timeout)
        self.wait_until_jobs_accepted(job_requests, poll_timeout)
        left_s = _left_s(deadline)
        if wait_until_complete and left_s != 0:
            self.wait_until_jobs_completed(job_requests, left_s)
        return job_requests

    def send_job_request(self, current_request: GearmanJobRequest) -> GearmanJobRequest:
        """Submit a request and return at once."""
        if current_request.connection_attempts >= current_request.max_connection_attempts:
            text = "%r: submitted %d times already"
            raise ExceededConnectionAttempts(text % (current_request, current_request.connection_attempts))
        job = current_request.job
        submission = Submission(self._connections)
        client = self._connected_client()
        try:
            submitted = submission.submit(
                client,
                wire_name(job.task),
                self.encode(job.data),
                unique=job.unique,
                priority=current_request.priority or "normal",
                background=current_request.background,
            )
        except ConfigError as error:
            raise InvalidClientState(str(error)) from None
        if submitted.done():
            error = submitted.exception()
            if isinstance(error, JobLost) and error.server is None:
                raise ServerUnavailable(str(error))
        job.connection = job.handle = None
        current_request.submission = submission
        current_request.state = JOB_PENDING
        current_request.connection_attempts += 1
        current_request.timed_out = False
        return current_request

    def _new_request(self, job: Dict[str, Any], background: bool, max_retries: int) -> GearmanJobRequest:
        unique = job.get("unique") or os.urandom(self.random_unique_bytes).hex()
        new = self.job_class(connection=None, handle=None, task=job["task"], unique=unique, data=job["data"])
        return GearmanJobRequest(new, job.get("priority", PRIORITY_NONE), background, max_retries + 1)

    # -- waiting -----------------------------------------------------------------

    def wait_until_jobs_accepted(self, job_requests: Requests, poll_timeout: Optional[float] = None) -> Requests:
        """Submit what is JOB_UNKNOWN, and wait until no request is JOB_PENDING."""
        _check_collection(job_requests)
        deadline = deadline_of(poll_timeout)
        unknown = [request for request in job_requests if request.state == JOB_UNKNOWN]
        while unknown:
            for request in unknown:
                self.send_job_request(request)
            self._wait(unknown, deadline, "accepted")
            # Not those that a server had and that were lost since: they may have run.
            unknown = [request for request in unknown if request.state == JOB_UNKNOWN and request.job.handle is None]
            if _left_s(deadline) == 0:
                break
        self._wait(job_requests, deadline, "accepted")
        for request in job_requests:
            request.timed_out = request.state == JOB_PENDING
        return job_requests

    def wait_until_jobs_completed(self, job_requests: Requests, poll_timeout: Optional[float] = None) -> Requests:
        """Wait until every request is complete. One whose server is lost becomes JOB_UNKNOWN and is not waited for.

        ServerUnavailable: that has happened, and no server is connected any more.
        """
        _check_collection(job_requests)
        self._wait(job_requests, deadline_of(poll_timeout), "ended")
        for request in job_requests:
            request.timed_out = not request.complete
        lost = [request for request in job_requests if request.state == JOB_UNKNOWN]
        if lost and not any(connection.connected for connection in self.connection_list):
            raise ServerUnavailable("no server is connected any more: %d jobs are lost, such as %r" % (len(lost), lost[0]))
        return job_requests

    def _wait(self, job_requests: Requests, deadline: Optional[float], event: str) -> None:
        for request in job_requests:
            if request.submission is not None:
                getattr(request.submission, event).wait(_left_s(deadline))
                request.submission.tell(request, self)

    # -- asking ------------------------------------------------------------------

    def get_job_status(self, current_request: GearmanJobRequest, poll_timeout: Optional[float] = None) -> GearmanJobRequest:
        """Ask a job's server what it knows of it: see its `status`. `timed_out`: no answer came."""
        self.get_job_statuses([current_request], poll_timeout)
        return current_request

    def get_job_statuses(self, job_requests: Requests, poll_timeout: Optional[float] = None) -> Requests:
        """The same for several, one after the other."""
        _check_collection(job_requests)
        for request in job_requests:
            request.status["last_time_received"] = request.status.get("time_received")
        return self.wait_until_job_statuses_received(job_requests, poll_timeout)

    def wait_until_job_statuses_received(self, job_requests: Requests, poll_timeout: Optional[float] = None) -> Requests:
        """Ask for every request whose status is no newer than its `last_time_received`."""
        _check_collection(job_requests)
        deadline = deadline_of(poll_timeout)
        for request in job_requests:
            if request.submission is not None:
                request.submission.tell(request, self)
            old = request.status.get("time_received") == request.status.get("last_time_received")
            request.timed_out = old and not self._ask_status(request, deadline)
        return job_requests

    def _ask_status(self, request: GearmanJobRequest, deadline: Optional[float]) -> bool:
        """False: there is no answer before the deadline."""
        if request.job.handle is None:
            raise InvalidClientState("%r has no handle to ask for: no server has it" % request)
        left_s = _LONGEST_S if deadline is None else min(deadline - time.monotonic(), _LONGEST_S)
        try:
            status = self._connected_client().status(request.submission.job, max(0.0, left_s))
        except ServerLost as error:
            if _left_s(deadline) == 0:
                return False
            raise ServerUnavailable(str(error)) from None
        _tell_status(request, (status.known, status.running, status.numerator, status.denominator, time.time()), self)
        return True


def _left_s(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _check_collection(several: Any) -> None:
    if not isinstance(several, (list, tuple, set, frozenset)):
        raise TypeError("expected a list, tuple or set, got %s" % type(several).__name__)
