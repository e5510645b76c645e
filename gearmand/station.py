"""Where one lane works for one server: its connection, and what the two owe each other. Knows no job.

    DOWN ─▶ CONNECTING ─▶ AWAKE ─GRAB_JOB▶ GRABBING ─JOB_ASSIGN▶ AWAKE
                            ▲                  │ └─after a while▶ OWING ─▶ as GRABBING
                            └─NOOP── ASLEEP ◀──┴─NO_JOB, PRE_SLEEP

Whoever is lost goes DOWN. GRABBING and OWING both wait for the answer to a
GRAB_JOB; a lane whose station is GRABBING asks no other one meanwhile, so that
it is assigned one job at a time.
"""

from __future__ import annotations

import threading
from typing import Callable, Dict, Optional, Set, Union

from gearmand.addresses import Address
from gearmand.connection import Connection
from gearmand.errors import ServerLost
from gearmand.protocol import PacketType, pack

DOWN, CONNECTING, AWAKE, GRABBING, OWING, ASLEEP = range(6)

NEVER = float("inf")

GRAB_JOB_UNIQ = pack(PacketType.GRAB_JOB_UNIQ)
GRAB_JOB = pack(PacketType.GRAB_JOB)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
# How long an answer is waited for before the other servers have their turn.
PATIENCE_S = 1.0
# A server that went without a word is not missed by one that sleeps. So it asks.
ASK_AGAIN_S = 60.0


class Station:
    __slots__ = (
        "address", "server", "connection", "attempt", "state", "due_at", "answer_due_at", "pause_s",
        "grab", "answered", "announced", "told", "complaints", "unconfirmed", "_answer_timeout_s",
    )  # fmt: skip

    def __init__(self, address: Address, answer_timeout_s: Optional[float]) -> None:
        self.address = address
        self.server = str(address)
        self.connection: Optional[Connection] = None
        self.attempt: Optional[Attempt] = None
        self.state = DOWN
        self.due_at = 0.0
        """When the lane has to look after it (monotonic), in every state."""
        self.answer_due_at = NEVER
        self.pause_s = FIRST_PAUSE_S
        """How long it is left alone after the next loss."""
        self._answer_timeout_s = NEVER if answer_timeout_s is None else answer_timeout_s
        self._forget()

    def _forget(self) -> None:
        self.grab = GRAB_JOB_UNIQ
        """The packet that asks this server for a job."""
        self.answered = False
        """Whether the server has answered on this connection."""
        self.announced: Dict[bytes, bytes] = {}
        """What it was told that the worker can do: by function the packet that said so."""
        self.told: object = None
        self.complaints: Set[bytes] = set()
        self.unconfirmed: Optional[bytes] = None
        """The handle of a job whose end was sent, as long as nothing has come since."""

    @property
    def owes(self) -> bool:
        return self.state == GRABBING or self.state == OWING

    def connected(self, connection: Connection) -> None:
        self.attempt = None
        self.connection = connection
        self.state, self.due_at = AWAKE, NEVER
        self._forget()

    def grabs(self, now: float) -> None:
        self.state = GRABBING
        self.expects(now)

    def expects(self, now: float) -> None:
        """It owes an answer from now on."""
        self.answer_due_at = self.due_at = now + self._answer_timeout_s
        if self.state == GRABBING:
            self.due_at = min(self.due_at, now + PATIENCE_S)

    def owes_on(self) -> None:
        self.state, self.due_at = OWING, self.answer_due_at

    def wakes(self) -> None:
        self.state, self.due_at = AWAKE, NEVER

    def sleeps(self, now: float) -> None:
        self.state, self.due_at = ASLEEP, now + ASK_AGAIN_S

    def has_answered(self) -> None:
        self.answered, self.pause_s = True, FIRST_PAUSE_S

    def goes_down(self, now: float) -> Optional[Connection]:
        """Returns the connection, which is to be closed, where it had one."""
        connection, self.connection, self.attempt = self.connection, None, None
        self.state, self.due_at = DOWN, now + self.pause_s
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        return connection


class Attempt:
    """A connection in the making, in a thread of its own: resolving a name and reaching a host may take long.

    `done()` is called by that thread once there is an `outcome`.
    """

    def __init__(self, address: Address, connect: Callable[[Address], Connection], done: Callable[[], None]) -> None:
        self.outcome: Union[None, Connection, ServerLost] = None
        self._abandoned = False
        self._lock = threading.Lock()
        run = threading.Thread(target=self._run, args=(address, connect, done), name="gearmand-connect %s" % (address,), daemon=True)
        run.start()

    def _run(self, address: Address, connect: Callable[[Address], Connection], done: Callable[[], None]) -> None:
        outcome: Union[Connection, ServerLost]
        try:
            outcome = connect(address)
        except ServerLost as error:
            outcome = error
        except Exception as error:
            outcome = ServerLost("%s: cannot connect: %r" % (address, error), str(address))
        with self._lock:
            self.outcome = outcome
            if self._abandoned:
                _close(outcome)
        done()

    def abandon(self) -> None:
        """Whatever becomes of it is closed. Does not wait."""
        with self._lock:
            self._abandoned = True
            _close(self.outcome)


def _close(outcome: Union[None, Connection, ServerLost]) -> None:
    if isinstance(outcome, Connection):
        outcome.close()
