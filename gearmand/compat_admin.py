"""python-gearman's GearmanAdminClient on top of `admin`. See `compat` for where it differs."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

from gearmand.admin import Admin
from gearmand.compat_names import (
    GearmanConnectionManager,
    GearmanError,
    InvalidAdminClientState,
    ProtocolError,
    ServerUnavailable,
    wire_bytes,
)
from gearmand.errors import AdminRefused, ConfigError, ServerLost

DEFAULT_ADMIN_CLIENT_TIMEOUT = 10.0

Answer = TypeVar("Answer")
Rows = Tuple[Dict[str, Any], ...]


class GearmanAdminClient(GearmanConnectionManager):
    """Asks one server. `poll_timeout`: how many seconds a command may take.

    Names are `str`. ServerUnavailable; InvalidAdminClientState: no answer in
    time; ProtocolError: the server refused, or the command cannot be sent.
    GearmanError: the list does not name one server.
    """

    def __init__(self, host_list: Any = None, poll_timeout: Optional[float] = DEFAULT_ADMIN_CLIENT_TIMEOUT) -> None:
        super().__init__(host_list)
        if len(self.connection_list) != 1:
            raise GearmanError("expected one server, got %d: %r" % (len(self.connection_list), host_list))
        self.poll_timeout = poll_timeout
        self._admin = Admin(self.connection_list[0].address, tls=self.connection_list[0].tls)

    def shutdown(self) -> None:
        """Close the connection. It can be used again, and connects anew."""
        self._admin.close()

    def ping_server(self) -> float:
        """How many seconds the server takes to answer."""
        return self._ask(self._admin.ping)

    def get_status(self) -> Rows:
        """Every function: task, queued (those that run included), running, workers."""
        rows = self._ask(self._admin.status)
        return tuple({"task": row.function, "queued": row.total, "running": row.running, "workers": row.workers} for row in rows)

    def get_workers(self) -> Rows:
        """Every connection: file_descriptor (a `str`), ip, client_id, tasks (a tuple)."""
        rows = self._ask(self._admin.workers)
        names = ("file_descriptor", "ip", "client_id", "tasks")
        return tuple(dict(zip(names, (str(row.fd), row.address, row.client_id, tuple(row.functions)))) for row in rows)

    def get_version(self) -> str:
        """With the OK before it, as servers say it."""
        return "OK " + self._ask(self._admin.version)

    def get_pid(self) -> str:
        """With the OK before it."""
        return "OK %d" % self._ask(self._admin.getpid)

    def get_jobs(self) -> Rows:
        """Every job: handle, and the numbers queued (how many times it was tried), canceled (nobody wants it) and enabled."""
        rows = self._ask(self._admin.show_jobs)
        names = ("handle", "queued", "canceled", "enabled")
        return tuple(dict(zip(names, (row.handle, row.retries, int(row.ignored), int(row.persisted)))) for row in rows)

    def get_unique_jobs(self) -> Rows:
        """Every job: unique."""
        return tuple({"unique": unique} for unique in self._ask(self._admin.show_unique_jobs))

    def send_maxqueue(self, task: Any, max_size: int) -> str:
        """Refuse new jobs of a function while it has so many. Returns "OK"."""
        self._ask(lambda: self._admin.max_queue(_text(task), int(max_size)))
        return "OK"

    def cancel_job(self, handle: Any) -> str:
        """Returns "OK", or an ERR and what the server says of it."""
        try:
            self._ask(lambda: self._admin.cancel_job(_text(handle)))
        except ProtocolError as error:
            refused = error.__cause__
            if not isinstance(refused, AdminRefused):
                raise
            return " ".join(filter(None, ("ERR", refused.code, refused.text)))
        return "OK"

    def send_shutdown(self, graceful: bool = True) -> None:
        """Stop the server, at once or when what runs has ended."""
        self._ask(lambda: self._admin.shutdown(graceful))

    def _ask(self, command: Callable[[], Answer]) -> Answer:
        self._admin.timeout_s = self.poll_timeout
        began_at = time.monotonic()
        try:
            return command()
        except (AdminRefused, ConfigError) as error:
            raise ProtocolError(str(error)) from error
        except ServerLost as error:
            late = self.poll_timeout is not None and time.monotonic() - began_at >= self.poll_timeout
            raise (InvalidAdminClientState if late else ServerUnavailable)(str(error)) from None


def _text(name: Any) -> str:
    return wire_bytes(name).decode("utf-8", "surrogateescape")
