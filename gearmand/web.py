"""What the handlers of HTTP share: the server's own figures, the history, and the pages that are no operation of the API.

Threads: `look` by the clock thread, the rest by any. What is counted is guarded
by the broker's lock.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple

from gearmand import api, dashboard_page, metrics
from gearmand.answers import Answer, json_answer
from gearmand.history import STEP_S, History
from gearmand.http_connection import HttpConnection
from gearmand.registry import Registry
from gearmand.text_commands import one_at_a_time
from gearmand.waiter import Waiter
from gearmand.yielding import Breaks, Turnstile

if TYPE_CHECKING:
    from gearmand.server import Server

_FUNCTIONS_A_TURN = 200
# For how long the lock may be taken before the server counts as stuck.
_STUCK_S = 5.0


class Web:
    """`owner`: the server."""

    def __init__(self, owner: "Server") -> None:
        self.owner = owner
        config = owner.config
        names = (*config.http_host, *config.http_listen, *config.listen, socket.gethostname())
        self.names = frozenset(name.lower().rstrip(".") for name in names)
        self.history = History()
        self.turnstile = Turnstile(Breaks())
        self.scene = api.Scene(owner.control, self.history, self.facts)
        self._started_s = time.time()
        self._look_at = 0.0
        # Open connections; how many there have been, and what those that have
        # gone have sent and received; answers by status.
        self._connections: Dict[HttpConnection, None] = {}
        self._opened = self._received_bytes = self._sent_bytes = 0
        self._requests: Dict[int, int] = {}
        self._answering = 0

    # -- what is going on ------------------------------------------------------------

    def enter(self, connection: HttpConnection) -> None:
        with self.owner.broker.lock:
            self._connections[connection] = None
            self._opened += 1

    def leave(self, connection: HttpConnection) -> None:
        with self.owner.broker.lock:
            del self._connections[connection]
            self._received_bytes += connection.received_bytes
            self._sent_bytes += connection.sent_bytes

    def begin(self) -> None:
        with self.owner.broker.lock:
            self._answering += 1

    def end(self, status: int) -> None:
        with self.owner.broker.lock:
            self._answering -= 1
            self._requests[status] = self._requests.get(status, 0) + 1

    @property
    def answering(self) -> bool:
        """Whether a request has not been answered yet. With the broker's lock."""
        return self._answering > 0

    def unsent(self) -> bool:
        """Whether an answer is under way that waits for no job any more. With the broker's lock."""
        waiting = sum(isinstance(caller, Waiter) and not caller.ended for caller in self.owner.broker.callers)
        return self._answering > waiting

    def look(self) -> None:
        """Write the history on, when it is time."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + STEP_S
        turn, history = self.owner.broker.turn, self.history
        turn(lambda registry: history.begin(registry.epoch_s))
        functions = turn(lambda registry: list(registry.functions.values()))
        for at in range(0, len(functions), _FUNCTIONS_A_TURN):
            some = functions[at : at + _FUNCTIONS_A_TURN]
            turn(lambda registry: history.record(some))
        turn(lambda registry: history.end())

    def facts(self) -> Dict[str, Any]:
        """The server's own figures."""
        broker = self.owner.broker
        found = broker.turn(self._facts)
        if broker.keeper is not None:
            found["store"] = broker.keeper.figures()
        return {**found, **metrics.of_process()}

    def _facts(self, registry: Registry) -> Dict[str, Any]:
        broker, peers, here = self.owner.broker, self.owner.broker.peers, self._connections
        return {
            "version": self.owner.control.version,
            "started_s": self._started_s,
            "draining": registry.draining,
            "functions": len(registry.functions),
            "jobs": sum(function.jobs for function in registry.functions.values()),
            "running": registry.running,
            "connections": {"gearman": len(peers), "http": len(here)},
            "connections_opened": {"gearman": broker.connections, "http": self._opened},
            "received_bytes": {
                "gearman": broker.received_bytes + sum(peer.received_bytes for peer in peers),
                "http": self._received_bytes + sum(each.received_bytes for each in here),
            },
            "sent_bytes": {
                "gearman": broker.sent_bytes + sum(peer.sent_bytes for peer in peers),
                "http": self._sent_bytes + sum(each.sent_bytes for each in here),
            },
            "outbox_bytes": sum(peer.waiting_bytes for peer in peers),
            "http_requests": dict(self._requests),
        }


# -- pages -----------------------------------------------------------------------


def _metrics(web: Web) -> Answer:
    pieces = metrics.exposition(web.owner.broker, web.facts())
    return Answer(200, {"Content-Type": metrics.CONTENT_TYPE}, one_at_a_time(pieces))


def _health(web: Web) -> Answer:
    lock = web.owner.broker.lock
    if not lock.acquire(timeout=_STUCK_S):
        return json_answer({"healthy": False, "why": "the registry has not answered for %g s" % _STUCK_S}, 503)
    lock.release()
    return json_answer({"healthy": True})


def _readiness(web: Web) -> Answer:
    broker = web.owner.broker
    why: List[str] = []
    if web.owner.stopping or broker.registry.draining:
        why.append("the server is to stop, and takes no new jobs")
    if broker.keeper is not None and broker.keeper.figures()["failing"]:
        why.append("background jobs cannot be stored")
    return json_answer({"ready": not why, "why": why}, 503 if why else 200)


class Page(NamedTuple):
    command: str
    """The administrative command that the asker must be allowed; empty: none is needed."""
    act: Callable[[Web], Answer]
    any_host: bool = False
    """Whether it is answered under any name."""


def _dashboard(web: Web) -> Answer:
    html, headers = dashboard_page.page()
    return Answer(200, headers, html)


PAGES: Dict[bytes, Page] = {
    # A browser cannot present a token when it opens a page. There is no data in
    # this one: the operations that it asks need their commands.
    b"/": Page("", _dashboard),
    b"/metrics": Page("status", _metrics),
    b"/healthz": Page("", _health, True),
    b"/readyz": Page("", _readiness, True),
}
"""By path. They take GET and HEAD."""
