"""The client's side of the command gearman: workloads to jobs, their reports to the console; and questions about jobs and servers.

Threads: those that read the connections put what happens into one queue; the
main thread takes it out and does everything else.
"""

from __future__ import annotations

import os
import queue
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from gearmand.addresses import Address
from gearmand.client import Client, HandleStatus
from gearmand.console import Console
from gearmand.errors import GearmandError, JobError, ServerLost
from gearmand.submitted import SubmittedJob

_CONNECT_S = 5.0
_ANSWER_S = 10.0
# How many background jobs may be on their way to the servers at once.
_ON_THEIR_WAY = 64
_LOOK_S = 0.5

Settings = Dict[str, Any]
"""What the command line says, by the long names of its options; see `gearman`."""


def make_client(given: Settings, addresses: Sequence[Address]) -> Client:
    timeout_s = given.get("timeout")
    connect_timeout_s = _CONNECT_S if timeout_s is None else min(timeout_s, _CONNECT_S)
    return Client(addresses, tls=given.get("tls"), token=given["token"], connect_timeout_s=connect_timeout_s)


# -- jobs --------------------------------------------------------------------------


def workloads(given: Settings) -> Iterator[bytes]:
    """Each argument; without arguments one that is empty, the lines of stdin, or all of it. GearmandError: it cannot be read."""
    if given["arguments"]:
        yield from map(os.fsencode, given["arguments"])
    elif "no-input" in given:
        yield b""
    elif sys.stdin is None:
        raise GearmandError("standard input is closed; --no-input sends a job without a workload")
    else:
        try:
            if "stripped-lines" in given:
                yield from (line[:-1] if line.endswith(b"\n") else line for line in sys.stdin.buffer)
            elif "lines" in given:
                yield from sys.stdin.buffer
            else:
                yield sys.stdin.buffer.read()
        except OSError as error:
            raise GearmandError("cannot read standard input: %s" % error.strerror) from None


def run_jobs(client: Client, given: Settings, console: Console, loads: Iterator[bytes]) -> int:
    """Submit a job for each workload and function, one workload after the other. Returns the exit status.

    GearmandError: no further job can be submitted.
    """
    jobs = _Jobs(client, given, console)
    for load in loads:
        jobs.submit(load)
        jobs.wait(jobs.most_open)
    jobs.wait(0)
    return int(jobs.failed)


class _Jobs:
    """The jobs of one command line."""

    def __init__(self, client: Client, given: Settings, console: Console) -> None:
        self.failed = False
        self._client = client
        self._console = console
        self._functions: List[str] = given["function"]
        self._options = _options_of(given)
        self._timeout_s: Optional[float] = given.get("timeout")
        self._verbose = "verbose" in given
        self._waits = "wait" in given
        self._news: "queue.SimpleQueue[Tuple[Any, ...]]" = queue.SimpleQueue()
        self._open: Set[SubmittedJob] = set()
        alone = self._verbose or self._waits or not self._options["background"]
        self.most_open = 0 if alone else _ON_THEIR_WAY
        """How many may be open when the next workload is submitted."""

    def submit(self, workload: bytes) -> None:
        """A job of each function. ConfigError: its options cannot be used."""
        self._console.begin()
        for function in self._functions:
            job = self._client.submit(function, workload, **self._options, **self._relays(function))
            self._open.add(job)
            job.add_done_callback(lambda job: self._news.put((self._ended, job)))

    def _relays(self, function: str) -> Dict[str, Callable[..., None]]:
        news, console = self._news, self._console
        relays: Dict[str, Callable[..., None]] = {
            "on_data": lambda data: news.put((console.result, function, data)),
            "on_warning": lambda data: news.put((console.warning, function, data)),
            "on_status": lambda *numbers: news.put((console.status, function, *numbers)),
        }
        if self._verbose:
            relays["on_created"] = lambda job: news.put((console.say, "Task created: %s" % job.handle))
        return relays

    def wait(self, most_open: int) -> None:
        """Do what is to be done about the jobs until no more than that many are open."""
        heard_at = time.monotonic()
        while len(self._open) > most_open:
            # Not for ever: an interrupt that comes just before this waits is
            # noticed after it.
            waits_s = [_LOOK_S, self._console.tick(), self._patience_s(heard_at)]
            try:
                act, *arguments = self._news.get(timeout=max(0.0, min(seconds for seconds in waits_s if seconds is not None)))
            except queue.Empty:
                if (self._patience_s(heard_at) or 1) <= 0:
                    self._give_up()
                continue
            act(*arguments)
            heard_at = time.monotonic()
        if not self._open:
            self._console.clear()

    def _patience_s(self, heard_at: float) -> Optional[float]:
        return None if self._timeout_s is None else heard_at + self._timeout_s - time.monotonic()

    def _give_up(self) -> None:
        """Nothing has been heard of any job for too long."""
        late, self._open = self._open, set()
        for job in late:
            self._fail("%s: function %s, job %s: nothing was heard for %g ms" % (
                job.server or ", ".join(self._client.servers), job.function, job.handle, 1000 * (self._timeout_s or 0)
            ))  # fmt: skip
            job.cancel()

    def _ended(self, job: SubmittedJob) -> None:
        if job not in self._open:
            return  # Given up.
        self._open.remove(job)
        error = job.exception()
        if error is not None:
            self._fail(_told(error))
        elif not job.background:
            self._console.result(job.function, job.result())
        elif self._waits and not wait_for(self._client, self._console, job, self._timeout_s):
            self.failed = True

    def _fail(self, what: str) -> None:
        self._console.complain(what)
        self.failed = True


def _options_of(given: Settings) -> Dict[str, Any]:
    """The options of each job, as `Client.submit` has them."""
    priority = [name for name in given if name in ("high", "low")][-1:] or ["normal"]
    return {
        "priority": priority[0],
        "background": any(name in given for name in ("background", "epoch", "delay")),
        "unique": given.get("unique", ""),
        "at": given.get("epoch"),
        "delay_s": given.get("delay"),
        "reducer": given.get("reducer"),
        "retries": given.get("retries", 0),
    }


def _told(error: BaseException) -> str:
    """What is wrong with a job, and at which server."""
    server = error.server if isinstance(error, JobError) else None
    text = str(error) or type(error).__name__
    return text if server is None or server in text else "%s: %s" % (server, text)


def wait_for(client: Client, console: Console, job: Any, timeout_s: Optional[float]) -> bool:
    """Wait for a background job, or its handle. False: not in time. ServerLost."""
    name, handle = (job.function, job.handle) if isinstance(job, SubmittedJob) else (job, job)
    console.begin()

    def progress(numerator: int, denominator: int) -> None:
        console.status(name, numerator, denominator)
        console.tick()

    ended = client.wait_for_background(job, progress, timeout_s)
    console.clear()
    if not ended:
        console.complain("job %s has not ended within %g ms" % (handle, 1000 * (timeout_s or 0)))
    return ended


# -- questions ---------------------------------------------------------------------


def _ping(client: Client, given: Settings, console: Console) -> bool:
    answered = True
    for server in client.servers:
        try:
            console.say("%s\t%.3f ms" % (server, 1000 * client.ping(server, given.get("timeout") or _ANSWER_S)))
        except ServerLost as error:
            console.complain(error)
            answered = False
    return answered


def _status(client: Client, given: Settings, console: Console) -> bool:
    found = [client.status(handle, given.get("timeout") or _ANSWER_S) for handle in given["arguments"]]
    return _tell_status(given, console, found)


def _unique_status(client: Client, given: Settings, console: Console) -> bool:
    found = [client.status_unique(unique, given.get("timeout") or _ANSWER_S) for unique in given["arguments"]]
    return _tell_status(given, console, found)


def _tell_status(given: Settings, console: Console, found: List[HandleStatus]) -> bool:
    for name, status in zip(given["arguments"], found):
        if status.known:
            console.say("%s\t%s\t%d/%d" % (name, "running" if status.running else "queued", status.numerator, status.denominator))
        else:
            console.say("%s\tunknown" % name)
    return all(status.known for status in found)


def _wait(client: Client, given: Settings, console: Console) -> bool:
    return all([wait_for(client, console, handle, given.get("timeout")) for handle in given["arguments"]])


QUESTIONS: Dict[str, Callable[[Client, Settings, Console], bool]] = {
    "wait": _wait,
    "status": _status,
    "unique-status": _unique_status,
    "ping": _ping,
}
"""By option: asks about the arguments; False makes the exit status 1. ServerLost."""
