"""The client: submits jobs to one of several job servers, and asks how they are.

    from gearmand import Client

    with Client("127.0.0.1:4730") as client:
        print(client.run("reverse", b"stressed"))

A job with a unique goes to the server that its unique belongs to, as long as
that one is there, so that jobs coalesce however many clients there are; the
others go to the servers in turn. Where there are several, one that cannot be
reached comes last for a while, from half a second up to a minute.

Threads: any number may share a client; each server has one connection, with
any number of jobs on it. A process that forks may use its client on both
sides: the child makes connections of its own, and jobs submitted before belong
to the parent.
"""

from __future__ import annotations

import datetime
import itertools
import os
import time
import weakref
import zlib
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

from gearmand.addresses import AddressLike, parse_all
from gearmand.connection import Connection, tls_of
from gearmand.encoders import encoder_of
from gearmand.errors import ConfigError, JobLost, JobTimeout, ServerLost
from gearmand.jobs import Priority
from gearmand.kept import Kept
from gearmand.later import Later
from gearmand.link import Link
from gearmand.protocol import PacketType, pack
from gearmand.submitted import TIMEOUTS, Question, SubmittedJob, callbacks_of, deadline_of
from gearmand.tokens import packet_of

HIGH, NORMAL, LOW = Priority
UNIQUE_BYTES = 64

_SUBMIT = {
    (HIGH, False): PacketType.SUBMIT_JOB_HIGH,
    (HIGH, True): PacketType.SUBMIT_JOB_HIGH_BG,
    (NORMAL, False): PacketType.SUBMIT_JOB,
    (NORMAL, True): PacketType.SUBMIT_JOB_BG,
    (LOW, False): PacketType.SUBMIT_JOB_LOW,
    (LOW, True): PacketType.SUBMIT_JOB_LOW_BG,
}
_REDUCE = {False: PacketType.SUBMIT_REDUCE_JOB, True: PacketType.SUBMIT_REDUCE_JOB_BACKGROUND}

_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


class HandleStatus(NamedTuple):
    """What a server knows of a job. `known` is False for one that has ended, and for one that never was."""

    known: bool
    running: bool
    numerator: int
    denominator: int
    listeners: int = 0
    """How many clients wait for it; only `status_unique` is told."""


class Client(Kept):
    """`servers`: see `addresses.parse_all`; by default those of GEARMAN_SERVERS, else 127.0.0.1:4730.

    `encoder`: for workloads and results (see `encoders`); `encoders`: another
    one for some functions, by name. `prefix`: put before every function's
    name. `client_id`: what `Admin.workers` shows. `tls`: a `Tls`, an
    `ssl.SSLContext`, or True for the files that the environment names: speak
    TLS. `token`: presented to every server, of which this one knows what it is
    for (`--acl`). `connect_timeout_s`: for one server; `io_timeout_s`: how long
    a server may take no byte of what is sent.

    Nothing is connected before the first job. ConfigError: a value cannot be used.
    """

    def __init__(
        self,
        servers: Union[None, AddressLike, Iterable[AddressLike]] = None,
        *,
        encoder: Any = None,
        encoders: Optional[Dict[str, Any]] = None,
        prefix: str = "",
        client_id: Optional[str] = None,
        tls: Any = None,
        token: Union[None, str, bytes] = None,
        connect_timeout_s: float = 5.0,
        io_timeout_s: Optional[float] = 30.0,
    ) -> None:
        self._encoder = encoder_of(encoder)
        self._encoders = {function: encoder_of(each) for function, each in (encoders or {}).items()}
        self._prefix = prefix
        greeting = packet_of(token) + pack(PacketType.OPTION_REQ, b"exceptions")
        if client_id is not None:
            greeting += pack(PacketType.SET_CLIENT_ID, _argument("client_id", client_id))
        side = tls_of(tls)

        def connect(address: Any, longest_s: Optional[float]) -> Connection:
            within_s = connect_timeout_s if longest_s is None else min(connect_timeout_s, longest_s)
            return Connection(address, within_s, io_timeout_s, tls=side)

        self._links = [Link(address, connect, greeting, 1, token is not None) for address in parse_all(servers)]
        self._later = Later(self.resubmit)
        self._turn = itertools.count()
        self._closed = False
        _clients.add(self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Client of %s>" % ", ".join(self.servers)

    @property
    def servers(self) -> List[str]:
        return [str(link.address) for link in self._links]

    def close(self) -> None:
        """Close every connection; jobs that have not ended are lost. It cannot be used any more."""
        self._closed = True
        self._later.hurry()
        for link in self._links:
            link.close()

    # -- jobs --------------------------------------------------------------------

    def run(self, function: Union[str, bytes], workload: Any = b"", *, timeout_s: Optional[float] = None, **options: Any) -> Any:
        """Submit a job, wait until it completes, and return its result.

        Raises JobFailed, JobException, JobRefused, JobLost (the connection
        ended, or no server could be reached); JobTimeout after `timeout_s`
        (the server goes on with the job; only the sending of a workload that
        the server does not take may last longer). Options: those of `submit`.
        """
        deadline = deadline_of(timeout_s)
        if self.reads_here():
            raise RuntimeError("a callback cannot wait for the connection that it is called from: use submit")
        job = self._new_job(function, workload, options)
        link = self._send(job, deadline)
        if link is not None and job.retries_left:
            link.attend()  # It may move to another server.
        elif link is not None:
            link.wait(job, deadline)
        try:
            return job.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except JobTimeout as late:
            if not job.done():
                late = job.too_late(timeout_s)
                job.cancel()
                if job.handle is None and link is not None:
                    link.rest()  # It has not even said that it has the job.
            raise late from None

    def submit(self, function: Union[str, bytes], workload: Any = b"", **options: Any) -> SubmittedJob:
        """Submit a job and return at once; what is returned is a Future of its result.

        `unique`: jobs of one function and unique are one job while it has not
        ended; "-" stands for the workload, "#" for a hash of it. `priority`:
        Priority.HIGH, NORMAL or LOW, or their names. `background`: nobody
        waits, the future is done once the server has the job. `at` (seconds
        since 1970, or a datetime) and `delay_s`: not before then, in the
        background. `reducer`: a reduce job. `retries`: how many times it is
        submitted again when it fails or its server is lost. `encoder`: for
        this job. `on_created(job)`, `on_data(data)`, `on_warning(data)`,
        `on_status(numerator, denominator)`, `on_complete(result)`, `on_fail()`,
        `on_exception(bytes)`, `on_retry(count)`: called by whichever thread
        finds out, mostly the one that reads the connection; without `on_exception` an exception is a fail.

        It raises nothing that has to do with a server: the future does.
        ConfigError, TypeError: an option or the workload cannot be used.
        """
        job = self._new_job(function, workload, options)
        self._send_and_attend(job)
        return job

    def submit_many(self, function: Union[str, bytes], workloads: Iterable[Any], **options: Any) -> List[SubmittedJob]:
        """A job for each workload, all of them in one go. Options: those of `submit`."""
        jobs = [self._new_job(function, workload, dict(options)) for workload in workloads]
        if not jobs:
            return []
        if len(self._links) > 1 or options.get("retries"):
            for job in jobs:
                self._send_and_attend(job)
            return jobs
        link = self._links[0]
        try:
            link.ask(jobs, b"".join(job.take_packet() for job in jobs))
            link.attend()
        except ServerLost as error:
            for job in jobs:
                job.lost(error)
        return jobs

    def submit_background(
        self, function: Union[str, bytes], workload: Any = b"", *, timeout_s: Optional[float] = None, **options: Any
    ) -> str:
        """Submit a background job and return its handle once the server has it.

        JobRefused, JobLost (it may have been accepted, if the connection ended
        before the answer came), JobTimeout. Options: those of `submit`.
        """
        handle: str = self.run(function, workload, timeout_s=timeout_s, background=True, **options)
        return handle

    def _new_job(self, function: Union[str, bytes], workload: Any, options: Dict[str, Any]) -> SubmittedJob:
        if self._closed:
            raise ConfigError("the client is closed")
        if not isinstance(function, str):
            function = bytes(function).decode("utf-8", "surrogateescape")
        callbacks = callbacks_of(options)
        encoder = options.pop("encoder", None)
        encoder = self._encoders.get(function, self._encoder) if encoder is None else encoder_of(encoder)
        data = encoder.encode(workload)
        if not isinstance(data, bytes):
            raise TypeError("function %s: the encoder made %s of the workload, not bytes" % (function, type(data).__name__))
        unique = _unique(options.pop("unique", ""), data)
        retries = options.pop("retries", 0)
        if not isinstance(retries, int):
            raise ConfigError("retries: expected a whole number, got %r" % (retries,))
        background, kind, middle = _form(options) if options else (False, PacketType.SUBMIT_JOB, ())
        if options:
            raise ConfigError("there is no option %s of a job" % ", ".join(sorted(options)))
        if not function:
            raise ConfigError("function '': a job needs the name of its function")
        packet = pack(kind, _argument("function", self._prefix + function), unique, *middle, data)
        job = SubmittedJob(function, unique.decode("utf-8", "surrogateescape"), packet, encoder, background, retries, self, callbacks)
        if len(self._links) > 1:
            job.affinity = data if unique == b"-" else unique
        return job

    def _send_and_attend(self, job: SubmittedJob) -> None:
        link = self._send(job)
        if link is not None:
            link.attend()

    def _send(self, job: SubmittedJob, deadline: Optional[float] = None) -> Optional[Link]:
        """Give the job to a server; where there is none, see to it later, or tell it that it is lost."""
        packet = job.take_packet()
        links = self._links if len(self._links) == 1 else self._in_order(job.affinity)
        failures = []
        for link in links:
            if len(links) > 1 and job.retries_left and link.rests_until > time.monotonic():
                continue
            try:
                link.ask([job], packet, deadline)
                return link
            except ServerLost as error:
                failures.append(str(error))
        text = "; ".join(failures or ["those that there are could not be reached a moment ago"])
        if job.tries_again(JobLost("function %s: no server took the job: %s" % (job.function, text), job.function, None)):
            self._later.add(job, _pause_s(job.retries_done))
        return None

    def reads_here(self) -> bool:
        """Whether this thread is in a callback of one of its connections, so that nothing comes while it waits."""
        return any(link.reads_here() for link in self._links)

    def resubmit(self, job: SubmittedJob) -> None:
        """After a failure: for the job itself."""
        if self._closed:
            job.end(JobLost("function %s: the client is closed" % job.function, job.function, None))
        else:
            self._send_and_attend(job)

    def _in_order(self, affinity: bytes) -> List[Link]:
        """The servers, the one to try first first; those that rest come last."""
        if affinity:
            # Each unique has an order of the servers of its own (rendezvous
            # hashing): when one goes, only its own uniques move.
            salt = zlib.crc32(affinity)
            links = sorted(self._links, key=lambda link: _mixed(salt ^ zlib.crc32(str(link.address).encode())))
        else:
            at = next(self._turn) % len(self._links)
            links = self._links[at:] + self._links[:at]
        now = time.monotonic()
        return sorted(links, key=lambda link: link.rests_until > now)

    # -- questions ---------------------------------------------------------------

    def status(self, job: Union[str, bytes, SubmittedJob], timeout_s: Optional[float] = 10.0) -> HandleStatus:
        """What the servers know of a job, by its handle. ServerLost: none knows it, and one that might cannot be asked."""
        if isinstance(job, bytes):
            job = job.decode("utf-8", "surrogateescape")
        handle = job if isinstance(job, str) else job.handle
        server = None if isinstance(job, str) else job.server
        if handle is None:
            return HandleStatus(False, False, 0, 0)
        return self._first_known(PacketType.GET_STATUS, PacketType.STATUS_RES, handle, server, timeout_s)

    def status_unique(self, unique: str, timeout_s: Optional[float] = 10.0) -> HandleStatus:
        """The same by its unique. C servers before 1.1.20 and other servers may not know the question."""
        return self._first_known(PacketType.GET_STATUS_UNIQUE, PacketType.STATUS_RES_UNIQUE, unique, None, timeout_s)

    def _first_known(self, ask: int, answer: int, name: str, server: Optional[str], timeout_s: Optional[float]) -> HandleStatus:
        lost: Optional[ServerLost] = None
        for link in [link for link in self._links if server in (None, str(link.address))]:
            try:
                body = self._ask(link, ask, answer, _bytes(name), timeout_s)
            except ServerLost as error:
                lost = lost or error
                continue
            _, known, running, *counts = body.split(b"\0")
            if known == b"1":
                return HandleStatus(True, running == b"1", *[int(count or 0) for count in counts])
        if lost is not None:
            raise lost
        return HandleStatus(False, False, 0, 0)

    def wait_for_background(
        self,
        job: Union[str, bytes, SubmittedJob],
        progress: Optional[Callable[[int, int], Any]] = None,
        timeout_s: Optional[float] = None,
        interval_s: float = 0.25,
    ) -> bool:
        """Wait until the servers no longer know the job, asking every `interval_s`; False: still known after `timeout_s`.

        `progress(numerator, denominator)` is called whenever they change. How
        the job ended it does not say, see `result`. ServerLost: a server cannot
        be asked; not where the job was known so far and the time is over.
        """
        deadline = deadline_of(timeout_s)
        seen: Tuple[int, int] = (0, 0)
        known = False
        if isinstance(job, SubmittedJob) and job.background:
            try:
                job.result(timeout_s)  # It has a handle then.
            except JobTimeout:
                return False
        while True:
            left_s = float("inf") if deadline is None else deadline - time.monotonic()
            try:
                status = self.status(job, min(10.0, max(0.05, left_s)))
            except ServerLost:
                # The last question may have had next to no time.
                if left_s <= 0 or (known and deadline is not None and time.monotonic() >= deadline):
                    return False
                raise
            if not status.known:
                return True
            known = True
            if progress is not None and (status.numerator, status.denominator) != seen:
                seen = (status.numerator, status.denominator)
                progress(*seen)
            left_s = float("inf") if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(interval_s, left_s))

    def echo(self, data: bytes = b"", server: Optional[str] = None, timeout_s: Optional[float] = 10.0) -> bytes:
        """Have a server, the first one by default, send something back. ServerLost."""
        for link in self._links:
            if server in (None, str(link.address)):
                return self._ask(link, PacketType.ECHO_REQ, PacketType.ECHO_RES, data, timeout_s)
        raise ConfigError("%s is none of the servers: %s" % (server, ", ".join(self.servers)))

    def ping(self, server: Optional[str] = None, timeout_s: Optional[float] = 10.0) -> float:
        """How many seconds a server takes to answer. ServerLost."""
        began_at = time.monotonic()
        self.echo(b"ping", server, timeout_s)
        return time.monotonic() - began_at

    def _ask(self, link: Link, kind: int, answer: int, argument: bytes, timeout_s: Optional[float]) -> bytes:
        return self._answers(link, [answer], pack(kind, argument), timeout_s)[0]

    def _answers(self, link: Link, kinds: Sequence[int], packets: bytes, timeout_s: Optional[float]) -> List[bytes]:
        """The bodies of the answers to several questions that are sent in one piece; `kinds`: of the answers. ServerLost."""
        questions = [Question(kind) for kind in kinds]
        deadline = deadline_of(timeout_s)
        link.ask(questions, packets, deadline)
        link.wait(questions[-1], deadline)
        try:
            return [each.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for each in questions]
        except TIMEOUTS:
            raise ServerLost("%s: no answer within %g s" % (link.address, timeout_s or 0), str(link.address)) from None

    # -- forks -------------------------------------------------------------------

    def _forget(self) -> None:
        self._later = Later(self.resubmit)
        for link in self._links:
            link.forget()


def _forget_all() -> None:
    for client in list(_clients):
        client._forget()


os.register_at_fork(after_in_child=_forget_all)


def _mixed(number: int) -> int:
    """Scatter a number of 32 bits over 64: checksums of similar texts differ in few bits."""
    number = number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 32) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return number ^ number >> 29


def _pause_s(retries_done: int) -> float:
    """Before a job is offered again when no server could be reached: a quarter of a second, twice as long each time, up to 10 s."""
    return min(0.25 * 2 ** min(retries_done - 1, 10), 10.0)


def _form(options: Dict[str, Any]) -> Tuple[bool, PacketType, Sequence[bytes]]:
    """Take the options that choose the packet: whether it is a background job, its type, and the arguments before the workload."""
    background = bool(options.pop("background", False))
    priority = _priority(options.pop("priority", NORMAL))
    at, delay_s, reducer = (options.pop(name, None) for name in ("at", "delay_s", "reducer"))
    if at is not None and delay_s is not None:
        raise ConfigError("at and delay_s: give one of them")
    if delay_s is not None:
        at = time.time() + delay_s
    special = [name for name, value in (("at", at), ("reducer", reducer)) if value is not None]
    if special and (len(special) > 1 or priority is not NORMAL):
        raise ConfigError("%s: the protocol has no such job together with %s" % (special[0], (special + ["a priority"])[1]))
    if at is not None:
        seconds = at.timestamp() if isinstance(at, datetime.datetime) else float(at)
        if not abs(seconds) < 2**62:
            raise ConfigError("%s: expected seconds, got %r" % ("at" if delay_s is None else "delay_s", at if delay_s is None else delay_s))
        # Rounded up: a job may be late, not early.
        return True, PacketType.SUBMIT_JOB_EPOCH, [b"%d" % -(-seconds // 1)]
    if reducer is not None:
        # The empty one is libgearman's aggregator: the C server waits for it.
        return background, _REDUCE[background], [_argument("reducer", reducer), b""]
    return background, _SUBMIT[priority, background], []


def _priority(priority: Any) -> Priority:
    try:
        return Priority[priority.upper()] if isinstance(priority, str) else Priority(priority)
    except (KeyError, ValueError):
        raise ConfigError("priority %r: expected high, normal or low" % (priority,)) from None


def _unique(unique: Union[None, str, bytes], data: bytes) -> bytes:
    raw = _bytes(unique) if unique else b""
    if raw == b"#":
        import hashlib  # Three milliseconds of start-up, and seldom needed.

        return hashlib.sha1(data).hexdigest().encode()
    if len(raw) > UNIQUE_BYTES or b"\0" in raw:
        raise ConfigError("unique %r: expected at most %d bytes, and no NUL" % (unique, UNIQUE_BYTES))
    return raw


def _argument(name: str, value: Union[str, bytes]) -> bytes:
    raw = _bytes(value)
    if b"\0" in raw:
        raise ConfigError("%s %r: there can be no NUL in it" % (name, value))
    return raw


def _bytes(text: Union[str, bytes]) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
