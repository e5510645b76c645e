"""What the lanes of one worker share while it works: its settings, its hooks, and whether it is to stop.

Nothing here is locked: every item is read by all and written in one operation.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Union

from gearmand.addresses import Address
from gearmand.assigned import Ability, AssignedJob
from gearmand.connection import Connection
from gearmand.errors import ServerLost
from gearmand.protocol import PacketType, pack
from gearmand.tokens import packet_of

if TYPE_CHECKING:
    from gearmand.lane import Lane
    from gearmand.tls import ClientSide

LOG = logging.getLogger("gearmand.worker")

StopIf = Callable[[bool, Optional[float]], Any]


class Hooks(NamedTuple):
    """What a worker calls as things happen, each in the lane where it happens. Whatever one raises is logged."""

    on_connect: Optional[Callable[[str], Any]] = None
    on_disconnect: Optional[Callable[[str, Optional[ServerLost]], Any]] = None
    on_job_start: Optional[Callable[[AssignedJob], Any]] = None
    on_job_complete: Optional[Callable[[AssignedJob, Any], Any]] = None
    on_job_fail: Optional[Callable[[AssignedJob], Any]] = None
    on_job_exception: Optional[Callable[[AssignedJob, BaseException], Any]] = None
    after_job: Optional[Callable[[AssignedJob], Any]] = None
    on_idle: Optional[Callable[[], Any]] = None

    @property
    def follow_a_job(self) -> bool:
        return any((self.on_job_complete, self.on_job_fail, self.on_job_exception, self.after_job))


class Shift:
    """What the lanes of one worker share while it works.

    `abilities`: by function; replaced as a whole, never changed. `most_jobs`,
    `ends_at` (monotonic): when it is over; `stop_if(idle, last_job_at)` is
    asked too. Threads: any may call `stop` and `notify`, a signal handler too.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        client_id: Optional[bytes],
        connect_timeout_s: float,
        io_timeout_s: Optional[float],
        abilities: Dict[bytes, Ability],
        hooks: Hooks,
        tls: "Optional[ClientSide]" = None,
        token: Union[None, str, bytes] = None,
        cancellations: bool = False,
    ) -> None:
        self.addresses = addresses
        self.greeting = packet_of(token) + (b"" if client_id is None else pack(PacketType.SET_CLIENT_ID, client_id))
        if cancellations:
            self.greeting += pack(PacketType.OPTION_REQ, b"cancellations")
        self.connect_timeout_s = connect_timeout_s
        self.io_timeout_s = io_timeout_s
        self.abilities = abilities
        self.hooks = hooks
        self._tls = tls
        self.most_jobs: Optional[int] = None
        self.ends_at: Optional[float] = None
        self.stop_if: Optional[StopIf] = None
        self.lanes: List[Lane] = []
        self.stopping = False
        self.down: Set[str] = set()
        """The servers whose loss has been logged, and not yet that they are back."""

    def connect(self, address: Address) -> Connection:
        return Connection(address, self.connect_timeout_s, self.io_timeout_s, tls=self._tls)

    def stop(self) -> None:
        """Every lane ends after the job that it has. Returns at once."""
        self.stopping = True
        self.notify()

    def notify(self) -> None:
        """Have every lane look at what has changed."""
        for lane in self.lanes:
            lane.waker.wake()

    def over(self) -> bool:
        if not self.stopping and (
            (self.ends_at is not None and time.monotonic() >= self.ends_at)
            or (self.most_jobs is not None and sum(lane.jobs for lane in self.lanes) >= self.most_jobs)
        ):
            self.stop()
        return self.stopping

    def ask_to_stop(self) -> None:
        """Ask `stop_if`."""
        assert self.stop_if is not None
        idle = all(lane.idle for lane in self.lanes)
        last = max((lane.last_job_at for lane in self.lanes if lane.last_job_at is not None), default=None)
        if called(self.stop_if, idle, last):
            self.stop()


def called(hook: Callable[..., Any], *arguments: Any) -> Any:
    """What the hook returns; `None` where it raises an exception, which is logged."""
    try:
        return hook(*arguments)
    except (Exception, SystemExit):
        LOG.exception("%r raised an exception", hook)
        return None
