"""What python-gearman's client, worker and administrative client share: constants, errors, jobs, encoders, servers.

ConnectionError shadows a builtin here and in `compat`, as it does in
python-gearman, because code that is ported catches it by that name. No other
room of gearmand may import it.
"""

from __future__ import annotations

import collections
from typing import Any, Deque, Dict, Iterable, List, Optional, Tuple, Union

from gearmand.addresses import DEFAULT_PORT, parse
from gearmand.connection import tls_of
from gearmand.encoders import encoder_of
from gearmand.errors import ConfigError, GearmandError

DEFAULT_GEARMAN_PORT = DEFAULT_PORT

PRIORITY_NONE = None
PRIORITY_LOW = "LOW"
PRIORITY_HIGH = "HIGH"

JOB_UNKNOWN = "UNKNOWN"
"""Not submitted, or its server was lost: nobody knows what became of it."""
JOB_PENDING = "PENDING"
"""Submitted; the server has not answered."""
JOB_CREATED = "CREATED"
"""The server has it."""
JOB_FAILED = "FAILED"
"""It failed; or the server refused it, as when a queue is full."""
JOB_COMPLETE = "COMPLETE"


class GearmanError(GearmandError):
    """What python-gearman's names raise on purpose."""


class ConnectionError(GearmanError):
    """One server cannot be reached. The methods here raise ServerUnavailable instead."""


class ServerUnavailable(GearmanError):
    """No server can be reached, or none is connected any more."""


class ProtocolError(GearmanError):
    """What was to be sent cannot be, or a server answered what it should not."""


class UnknownCommandError(GearmanError):
    """Never raised: a packet that nobody expects is logged."""


class ExceededConnectionAttempts(GearmanError):
    """A job would have to be submitted more often than its `max_retries` allow."""


class InvalidClientState(GearmanError):
    """A request is not in a state for that, or cannot be submitted at all."""


class InvalidWorkerState(GearmanError):
    """Never raised: a server that assigns a job unasked has it run."""


class InvalidAdminClientState(GearmanError):
    """A server did not answer an administrative command in time."""


class GearmanJob:
    """`connection`: its server, `None` before one has it. `handle`: `bytes`, `None` before that too.

    At a client `task`, `unique` and `data` are as they were given. At a worker
    `task` is as it was registered, `unique` is `bytes`, and `data` is decoded.
    """

    def __init__(
        self, connection: Optional["GearmanConnection"], handle: Optional[bytes], task: Any, unique: Any, data: Any
    ) -> None:
        self.connection = connection
        self.handle = handle
        self.task = task
        self.unique = unique
        self.data = data

    def __repr__(self) -> str:
        return "<%s %r of %r>" % (type(self).__name__, self.handle, self.task)

    def to_dict(self) -> Dict[str, Any]:
        return {"task": self.task, "job_handle": self.handle, "unique": self.unique, "data": self.data}


class GearmanJobRequest:
    """A job as its client sees it. What has come changes it while its client submits, waits or asks, never in between.

    `job`; `priority`; `background`; `state`: a JOB_ constant. `result`, and
    the deques `data_updates` and `warning_updates`: decoded. `exception`: what
    a WORK_EXCEPTION said, decoded, or its bytes where they cannot be.
    `status`: empty, or what a worker or the server said last: handle, known,
    running, numerator, denominator, time_received (seconds since 1970).
    `timed_out`: the last wait ended before it did. `connection_attempts`: how
    many times it was submitted, `max_connection_attempts` at most.
    """

    def __init__(
        self,
        gearman_job: GearmanJob,
        initial_priority: Optional[str] = PRIORITY_NONE,
        background: bool = False,
        max_attempts: int = 1,
    ) -> None:
        self.gearman_job = gearman_job
        self.priority = initial_priority
        self.background = background
        self.connection_attempts = 0
        self.max_connection_attempts = max_attempts
        self.initialize_request()

    def __repr__(self) -> str:
        return "<%s %s of %r>" % (type(self).__name__, self.state, self.gearman_job)

    def initialize_request(self) -> None:
        self.result: Any = None
        self.exception: Any = None
        self.warning_updates: Deque[Any] = collections.deque()
        self.data_updates: Deque[Any] = collections.deque()
        self.status: Dict[str, Any] = {}
        self.state = JOB_UNKNOWN
        self.timed_out = False
        self.submission: Any = None
        """The client's own."""

    def reset(self) -> None:
        """As if it had never been submitted, but for `connection_attempts`."""
        self.initialize_request()
        self.gearman_job.connection = None
        self.gearman_job.handle = None

    @property
    def job(self) -> GearmanJob:
        return self.gearman_job

    @property
    def unique(self) -> Any:
        return self.gearman_job.unique

    @property
    def complete(self) -> bool:
        """Whether nothing more will come: it completed or failed, or is a background job that the server has."""
        return self.state in (JOB_FAILED, JOB_COMPLETE) or (self.background and self.state == JOB_CREATED)


class DataEncoder:
    """Objects to workloads and back: to be subclassed.

    `encode` returns `bytes`, or a `str`, which is sent as UTF-8; `decode` gets `bytes`.
    """

    @classmethod
    def encode(cls, encodable_object: Any) -> Any:
        raise NotImplementedError("%s has no encode" % cls.__name__)

    @classmethod
    def decode(cls, decodable_string: bytes) -> Any:
        raise NotImplementedError("%s has no decode" % cls.__name__)


class NoopEncoder(DataEncoder):
    """`bytes` and `str` only; `None` is empty. What comes is `bytes`."""

    @classmethod
    def encode(cls, encodable_object: Any) -> bytes:
        return wire_bytes(b"" if encodable_object is None else encodable_object)

    @classmethod
    def decode(cls, decodable_string: bytes) -> bytes:
        return decodable_string


class GearmanConnection:
    """A server of the list. `connected`: whether it answered, and has not been lost since. `tls`: what it is spoken to with, see `tls_of`."""

    tls: Any = None

    def __init__(self, host: str, port: int) -> None:
        self.address = parse((host, port))
        self.gearman_host = host
        self.gearman_port = self.address.port
        self.connected = False

    def __repr__(self) -> str:
        return "<%s %s>" % (type(self).__name__, self.address)

    def get_address(self) -> Tuple[str, int]:
        return self.gearman_host, self.gearman_port


Host = Union[str, Tuple[str, int], Dict[str, Any]]


class GearmanConnectionManager:
    """`host_list`: "host", "host:port", pairs, or dicts with host and port, and perhaps keyfile, certfile and ca_certs. GearmanError: one is none of these.

    For subclasses: `data_encoder`, a DataEncoder, or any encoder of
    `encoders`, or its name; `job_class` and `connection_class`.
    """

    data_encoder: Any = NoopEncoder
    job_class = GearmanJob
    connection_class = GearmanConnection

    def __init__(self, host_list: Optional[Iterable[Host]] = None) -> None:
        self.connection_list: List[Any] = []
        self._sides: Dict[Any, Any] = {}
        for host in [host_list] if isinstance(host_list, str) else host_list or []:
            if isinstance(host, dict):
                self.add_ssl_connection(*[host.get(name) for name in ("host", "port", "keyfile", "certfile", "ca_certs")])
            else:
                self.add_connection(host)

    def __repr__(self) -> str:
        return "<%s of %s>" % (type(self).__name__, ", ".join(str(each.address) for each in self.connection_list) or "no server")

    def add_connection(self, hostport_tuple: Any) -> Any:
        """One more server. Returns its connection, which is not connected yet."""
        try:
            host, port = parse(hostport_tuple)
            connection = self.connection_class(host, port)
        except ConfigError as error:
            raise GearmanError(str(error)) from None
        self.connection_list.append(connection)
        return connection

    def add_ssl_connection(
        self,
        host: Any,
        port: Any,
        keyfile: Optional[str] = None,
        certfile: Optional[str] = None,
        ca_certs: Optional[str] = None,
    ) -> Any:
        """The same, speaking TLS where a file is named. GearmanError: one of them cannot be used.

        The server's certificate has to be signed by one of `ca_certs`; as with
        python-gearman, it need not be for that host.
        """
        tls = None
        if keyfile or certfile or ca_certs:
            from gearmand.tls import ANY_NAME, Tls

            files = Tls(ca_certs, certfile, keyfile, ANY_NAME)
            try:
                # One for the servers with the same files.
                tls = self._sides[files] = self._sides.get(files) or tls_of(files)
            except ConfigError as error:
                raise GearmanError("server %s:%s: %s" % (host, port, error)) from None
        connection = self.add_connection((host, port or DEFAULT_GEARMAN_PORT))
        connection.tls = tls
        return connection

    def shutdown(self) -> None:
        """Close every connection. It can be used again, and connects anew."""

    def encode(self, value: Any) -> bytes:
        return wire_bytes(encoder_of(self.data_encoder).encode(value))

    def decode(self, data: bytes) -> Any:
        return encoder_of(self.data_encoder).decode(data)


def wire_bytes(value: Any) -> bytes:
    """`bytes` as they are, a `str` as UTF-8. TypeError: it is neither."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError("expected bytes or str, got %s: give a data_encoder for anything else" % type(value).__name__)


def wire_name(name: Any) -> bytes:
    """The same of a function's or a client's name. ProtocolError: a NUL is in it."""
    raw = wire_bytes(name)
    if b"\0" in raw:
        raise ProtocolError("%r: a NUL cannot be sent in a name" % (name,))
    return raw
