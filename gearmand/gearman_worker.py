"""The worker's side of the command gearman: each job's workload goes through a command.

A command runs in a session of its own, so that Ctrl-C, which a terminal sends
to all that it has started, lets it finish the job.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from gearmand.addresses import Address
from gearmand.assigned import AssignedJob
from gearmand.console import Console
from gearmand.errors import ConfigError, GearmandError, JobFailed
from gearmand.worker import Worker

LOG = logging.getLogger("gearmand.worker")

_PIPE_BYTES = 64 * 1024

Settings = Dict[str, Any]
"""What the command line says, by the long names of its options; see `gearman`."""


def run_worker(given: Settings, addresses: Sequence[Address], console: Console) -> int:
    """Work until a signal or a limit ends it. Returns the exit status. ConfigError: an option cannot be used."""
    words = given["arguments"]
    if words and shutil.which(words[0]) is None:
        raise ConfigError("%s: no such command can be run" % words[0])
    if not words and given.get("processes"):
        raise ConfigError("--processes: without a command one process prints the workloads")
    _log_to_stderr("verbose" in given)
    worker = Worker(
        addresses,
        tls=given.get("tls"),
        concurrency=given.get("concurrency", 1),
        processes=given.get("processes", 0),
        token=given["token"],
        max_jobs=given.get("count") or None,
        on_job_start=_log_job if "verbose" in given else None,
    )
    show = _Show(console, worker.stop)
    command = _Command(words, "lines" in given or "stripped-lines" in given, "stripped-lines" in given)
    for function in given["function"]:
        worker.register(function, command.run if words else show.show)
    command.end_with_this_process()
    worker.work(stop_if=_impatience(given), handle_signals=True)
    if show.error is not None:
        raise show.error
    return 0


def _impatience(given: Settings) -> Optional[Callable[[bool, Optional[float]], bool]]:
    """With a count, a worker leaves when there was no job for so long; without one the timeout means nothing to it."""
    timeout_s, began_at = given.get("timeout"), time.monotonic()
    if timeout_s is None or not given.get("count"):
        return None
    return lambda idle, last_job_at: idle and time.monotonic() - (last_job_at or began_at) >= timeout_s


def _log_to_stderr(verbose: bool) -> None:
    handler: logging.Handler = logging.NullHandler() if sys.stderr is None else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("gearman: %(message)s"))
    logger = logging.getLogger("gearmand")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def _log_job(job: AssignedJob) -> None:
    LOG.info("%s: job %s of %s begins, %d bytes", job.server, job.handle, job.function, len(job.data))


class _Show:
    """What becomes of jobs without a command: the workload goes to stdout, the result is empty."""

    def __init__(self, console: Console, stop: Callable[[], None]) -> None:
        self.error: Optional[Exception] = None
        self._console = console
        self._stop = stop
        self._lock = threading.Lock()

    def show(self, job: AssignedJob) -> None:
        try:
            with self._lock:
                self._console.write(job.data)
        except (GearmandError, BrokenPipeError) as error:
            self.error = error
            self._stop()
            raise JobFailed(str(error), job.function, job.handle, job.server) from None


class _Command:
    """Runs the command, anew for each job: its stdin is the workload, its stdout the result.

    `by_line`: what it says is sent line by line, as it says it, and the result
    is empty; `stripped`: without the line feeds. A job fails when its command
    ends with another status than 0, or by a signal, and what it said is sent
    all the same. Threads: each with its own job may call `run`.
    """

    def __init__(self, words: List[str], by_line: bool, stripped: bool) -> None:
        self._words = words
        self._by_line = by_line
        self._line_end = b"" if stripped else b"\n"
        self._running: Set["subprocess.Popen[bytes]"] = set()
        # Jobs whose command is being started, and the signal that came meanwhile.
        self._starting: Set[AssignedJob] = set()
        self._end_number: Optional[int] = None

    def run(self, job: AssignedJob) -> bytes:
        said = _Lines(job.send_data, self._line_end) if self._by_line else _Whole(job.send_data)
        process = self._start(job)
        try:
            # Whatever goes wrong, leaving closes the pipes and waits for the command's end.
            with process:
                _exchange(process, job.data, said.take)
        finally:
            self._running.discard(process)
        result = said.end(process.returncode == 0)
        if process.returncode:
            raise self._failed(job, _how(process.returncode))
        return result

    def _start(self, job: AssignedJob) -> "subprocess.Popen[bytes]":
        self._starting.add(job)
        try:
            process = subprocess.Popen(
                self._words, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._running.add(process)
        except OSError as error:
            raise self._failed(job, "cannot be run: %s" % error.strerror) from None
        finally:
            self._starting.discard(job)
            if self._end_number is not None:
                self._end_at_once(self._end_number, None)
        return process

    def _failed(self, job: AssignedJob, how: str) -> JobFailed:
        return JobFailed("%s %s" % (self._words[0], how), job.function, job.handle, job.server)

    def end_with_this_process(self) -> None:
        """From now on the signals that end this process at once end what it runs too. Its jobs are given to another worker."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._end_at_once)

    def _end_at_once(self, number: int, frame: Any) -> None:
        if self._starting:
            # A command that runs and is not noted yet: whoever starts it comes here again.
            self._end_number = number
            return
        for process in list(self._running):
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except OSError:
                pass  # It has ended.
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_DFL)
        # From another thread the main one's handler comes here, with nothing starting.
        self._end_number = None
        os.kill(os.getpid(), number)


class _Whole:
    """What a command says, as one result."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._parts: List[bytes] = []
        self.take = self._parts.append

    def end(self, well: bool) -> bytes:
        """The result; of a command that has failed, sent as a part."""
        result = b"".join(self._parts)
        if not well and result:
            self._send(result)
        return result


class _Lines:
    """What a command says, each line sent once, as it ends. `line_end`: what is put for its line feed."""

    def __init__(self, send: Callable[[bytes], None], line_end: bytes) -> None:
        self._send = send
        self._line_end = line_end
        self._begun: List[bytes] = []

    def take(self, data: bytes) -> None:
        *ended, begun = data.split(b"\n")
        for line in ended:
            self._send(b"".join([*self._begun, line, self._line_end]))
            self._begun.clear()
        if begun:
            self._begun.append(begun)

    def end(self, well: bool) -> bytes:
        """Sends the last line, where it had no line feed. Returns an empty result."""
        if self._begun:
            self._send(b"".join(self._begun))
        return b""


def _exchange(process: "subprocess.Popen[bytes]", workload: bytes, take: Callable[[bytes], None]) -> None:
    """Feed the process and take what it says, both at once, until it wants and says no more."""
    assert process.stdin is not None and process.stdout is not None
    feed, drain = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(feed, False)
    poll = select.poll()
    poll.register(feed, select.POLLOUT)
    poll.register(drain, select.POLLIN)
    rest = memoryview(workload)
    while not (process.stdin.closed and process.stdout.closed):
        for fd, _ in poll.poll():
            if fd == feed:
                try:
                    rest = rest[os.write(feed, rest[:_PIPE_BYTES]) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    rest = rest[:0]  # It has read what it wanted.
                if not rest:
                    poll.unregister(feed)
                    process.stdin.close()
            else:
                data = os.read(drain, _PIPE_BYTES)
                take(data)
                if not data:
                    poll.unregister(drain)
                    process.stdout.close()


def _how(returncode: int) -> str:
    return "ended with status %d" % returncode if returncode > 0 else "was ended by signal %d" % -returncode
