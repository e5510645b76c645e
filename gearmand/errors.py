"""Every exception of gearmand, and every refusal that a peer sees as an ERROR packet.

A refusal is a result, not an exception: the queue is full, the job is not
known. It is a value of `Refusal` that travels back to whoever asked, and the
connection stays open.

An exception says whose fault it is:

    GearmandError
        ConfigError       the operator's: an option, a file, an address
        ProtocolError     the peer's: framing is lost, its connection closes
        JobError          a job that a caller waited for
            JobFailed         its worker said WORK_FAIL, or it was cancelled
            JobException      its worker said WORK_EXCEPTION
            JobTimeout        the caller's patience ended
            JobRefused        the server did not take it
            JobLost           the server stopped, or was lost, first
        StoreError        a store's: what should have been kept is not
            Unstorable        because of the job itself: others can be kept
        ServerLost        no connection to a job server, or none any more
        AdminRefused      a job server did not carry out an administrative command
    OSError
        TlsFailure        a peer's: its TLS, or its certificate, is not accepted; its connection closes

Any other exception is a bug of ours: it is logged with its traceback and ends
one connection, never the server.
"""

from __future__ import annotations

from typing import NamedTuple, Optional


class GearmandError(Exception):
    """Whatever gearmand raises on purpose."""


class ConfigError(GearmandError):
    """A setting that cannot be used: says which, the value, and what is allowed."""


class ProtocolError(GearmandError):
    """Bytes that are no Gearman: where the next packet starts is unknown, so the connection closes."""


class TlsFailure(OSError):
    """What a peer sends is no TLS, or its certificate is not accepted. An OSError, because it comes where those of sockets do."""


class StoreError(GearmandError):
    """A store could not do what it was asked to: says which, and why."""


class Unstorable(StoreError):
    """A store cannot take a value, as one that is too large for it; nothing else is wrong with it."""


class JobError(GearmandError):
    """A job did not end with a result.

    `function` is the function's name, `handle` the job's handle (`None` where
    the job was never created), and `server` the address of the job server
    (`None` where that is in this process or was never reached), all as `str`.
    """

    def __init__(self, message: str = "", function: str = "", handle: Optional[str] = None, server: Optional[str] = None) -> None:
        super().__init__(message)
        self.function = function
        self.handle = handle
        self.server = server


class JobFailed(JobError):
    """The worker reported WORK_FAIL, its attempts were used up, or the job was cancelled."""


class JobException(JobError):
    """The worker reported WORK_EXCEPTION; `data` holds its bytes."""

    def __init__(
        self, message: str, function: str, handle: Optional[str], data: bytes, server: Optional[str] = None
    ) -> None:
        super().__init__(message, function, handle, server)
        self.data = data


class JobTimeout(JobError, TimeoutError):
    """The job did not end within the caller's timeout."""


class JobRefused(JobError):
    """The server did not take the job; the message carries its code and text."""


class JobLost(JobError):
    """The server stopped, or the connection to it ended, before the job did; or no server could be reached."""


class NoResult(JobError):
    """No server knows the job, or what it has ended with: results are not kept for its function, or not any more, or it never was."""


class ServerLost(GearmandError):
    """A job server cannot be reached, has gone, or does not answer; `server` is its address."""

    def __init__(self, message: str, server: Optional[str] = None) -> None:
        super().__init__(message)
        self.server = server


class AdminRefused(GearmandError):
    """A job server answered an administrative command with ERR; the connection is as good as before.

    `code` and `text` are what it said (a code may be missing, as in "ERR
    function not found", and so may the text), `server` is its address.
    """

    def __init__(self, message: str, code: str, text: str, server: Optional[str] = None) -> None:
        super().__init__(message)
        self.code = code
        self.text = text
        self.server = server


class Refusal(NamedTuple):
    """The two arguments of an ERROR packet (type 19)."""

    code: bytes
    text: bytes


INVALID_MAGIC = Refusal(b"INVALID_MAGIC", b"Request magic expected")
INVALID_COMMAND = Refusal(b"INVALID_COMMAND", b"Command not expected")
UNIQUE_TOO_LARGE = Refusal(b"ARGUMENT_TOO_LARGE", b"Unique value too large")
FUNCTION_TOO_LARGE = Refusal(b"ARGUMENT_TOO_LARGE", b"Function name too large")
HANDLE_TOO_LARGE = Refusal(
    b"ARGUMENT_TOO_LARGE",
    b"Error occurred due to GEARMAND_JOB_HANDLE_SIZE being too small from snprintf",
)
UNKNOWN_OPTION = Refusal(b"UNKNOWN_OPTION", b"Server does not recognize given option")
QUEUE_FULL = Refusal(b"QUEUE_ERROR", b"Job queue is full")
MEMORY_FULL = Refusal(b"QUEUE_ERROR", b"The jobs of this server take as much memory as they may")
TOO_MANY_JOBS = Refusal(b"QUEUE_ERROR", b"Your address has as many unfinished jobs as it may")
RATE_LIMITED = Refusal(b"RATE_LIMITED", b"Your address submits more jobs a second than it may")
TOO_MANY_ABILITIES = Refusal(b"LIMIT_REACHED", b"There are as many functions that workers can do as there may be")
WRONG_TOKEN = Refusal(b"PERMISSION_DENIED", b"The access list does not have this token")
SHUTTING_DOWN = Refusal(b"SHUTTING_DOWN", b"The job server is shutting down and takes no new jobs")
RESULT_WITHOUT_JOB = Refusal(b"JOB_NOT_FOUND", b"Job given in work result not found")
EXCEPTION_WITHOUT_JOB = Refusal(b"JOB_NOT_FOUND", b"An exception was received for a job that does not exist")
DATA_WITHOUT_JOB = Refusal(b"JOB_NOT_FOUND", b"Job does not exist on server")


def not_stored(error: StoreError) -> Refusal:
    """The refusal of a job that could not be made to survive."""
    return Refusal(b"QUEUE_ERROR", ("The job could not be stored: %s" % error).encode("utf-8", "surrogateescape"))


def not_settled(error: StoreError) -> str:
    """What is said of a change that holds, and could not be made to survive."""
    return "It holds until this server ends, and is not stored: %s" % error


def permission_denied(what: bytes, function: bytes) -> Refusal:
    """The refusal of something that a peer may not do: to submit a function, or to work for it."""
    return Refusal(b"PERMISSION_DENIED", b"The access list does not allow you to %b %b" % (what, function))


def invalid_argument(text: bytes) -> Refusal:
    """The refusal of one argument: `text` names it and says what was expected."""
    return Refusal(b"INVALID_ARGUMENT", text)
