"""One process of the driver: its connections, and the loop that serves them.

It says what it has done over a pipe, and is told by it when to begin and to end:

    says    ready                 everything is connected, workers are asleep
    told    begin
    says    done                  its jobs are, or the time is over; its workers go on for other processes
    told    end
    says    figures (Figures)     or, instead of any of these, fault (text)
"""

from __future__ import annotations

import gc
import socket
import time
from array import array
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, List, NamedTuple, Tuple

from benchmark.links import FUNCTION, IN, OTHER_FUNCTION, Fault, Loop
from benchmark.loads import Load
from benchmark.roles import Worker, client

SETTLE_S = 0.2
"""For the last PRE_SLEEP to arrive, which nobody acknowledges."""
AT_ONCE = 8
"""More connections than a server lets wait to be accepted (the C server: 32) are tried again after a second each."""
SILENCE_S = 10.0
"""A server that says nothing for so long, though jobs are in flight, has failed."""
START_S = 60.0


class Figures(NamedTuple):
    jobs: int
    begun_at: float
    ended_at: float
    cpu_s: float
    busy_share: float
    took_s: bytes


class Driver:
    def __init__(self, address: Tuple[str, int], load: Load, grab: int, seconds: float, control: Connection) -> None:
        self.address = address
        self.load = load
        self.grab = grab
        self.workload = b"x" * load.bytes
        self.took: List[float] = []
        self._seconds = seconds
        self._control = control
        self.loop = Loop()
        self._left = load.jobs
        self._done = 0
        self._ended_at = 0.0
        self._unsettled = 0
        self._idle_workers = 0
        self._late = False
        self._told = ""
        self._over = False

    # -- what links call -----------------------------------------------------

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 10)

    def settle(self) -> None:
        """A worker has gone to sleep for the first time."""
        self._unsettled -= 1
        if not self._unsettled:
            self._over = True

    def finish(self, count: int, more: int, now: float) -> int:
        """So many jobs have ended. Returns how many of `more` there are left to be submitted."""
        if self._late:
            return 0
        self._done += count
        if self._done >= self.load.jobs:
            self._ended_at = now
            self._over = True
        left = self._left
        if more > left:
            more = left
        self._left = left - more
        return more

    def found_nothing(self) -> None:
        """A worker that drains has found the queue empty."""
        self._idle_workers += 1
        if self._idle_workers == self.load.workers:
            self._ended_at = monotonic()
            self._over = True

    # -- the loop ------------------------------------------------------------

    def readable(self) -> None:
        """Whoever runs the processes has said something."""
        self._told = self._control.recv()
        self._over = True

    def _serve(self, ends_at: float, silence_s: float) -> None:
        """Until something says that it is over, or until `ends_at`."""
        poll, serve, readable = self.loop.poll, self.loop.serve, self.loop.readable
        heard_at = now = monotonic()
        self._over = False
        while not self._over and now < ends_at:
            events = poll(0.05)
            for number, event in events:
                if event == IN:
                    readable[number]()
                else:
                    serve(number, event)
            now = monotonic()
            if events:
                heard_at = now
            elif now - heard_at > silence_s:
                raise Fault("the server said nothing for %g s, after %d jobs" % (silence_s, self._done))

    def run(self) -> Figures:
        self.loop.add(self._control.fileno(), self)
        links = self._connect()
        self._say("ready")
        while self._told != "begin":
            self._serve(monotonic() + START_S, START_S)
        begun_at, cpu_s, waited_s = monotonic(), time.process_time(), waited_for_processor_s()
        self._measure(links, begun_at + self._seconds)
        self._say("done")
        while self._told != "end":
            self._serve(monotonic() + START_S, START_S)
        cpu_s = time.process_time() - cpu_s
        busy_s = cpu_s + waited_for_processor_s() - waited_s
        took_s = array("d", self.took).tobytes()
        return Figures(self._done, begun_at, self._ended_at, cpu_s, busy_s / (monotonic() - begun_at), took_s)

    def _connect(self) -> List[Any]:
        """Returns those links that have something to begin with."""
        load = self.load
        workers: List[Any] = []
        if load.has_workers:
            function = FUNCTION if load.mode == "herd" else OTHER_FUNCTION
            functions = [function] * load.idle + [FUNCTION] * load.workers
            for at in range(0, len(functions), AT_ONCE):
                workers += [Worker(self, function) for function in functions[at : at + AT_ONCE]]
                if load.mode != "drain":
                    self._settle(len(workers) - at)
            self._serve(monotonic() + SETTLE_S, SILENCE_S)
        if not load.has_clients:
            return workers
        return [client(self) for _ in range(load.clients)]

    def _settle(self, workers: int) -> None:
        """Until so many workers have asked once, and are asleep."""
        self._unsettled = workers
        ends_at = monotonic() + START_S
        while self._unsettled:
            self._serve(ends_at, SILENCE_S)
            if monotonic() >= ends_at:
                raise Fault("%d workers did not hear that there is no job" % self._unsettled)

    def _measure(self, links: List[Any], ends_at: float) -> None:
        self._over = False
        for link in links:
            link.begin()
        if links and self.load.jobs:
            self._serve(ends_at, SILENCE_S)
        if not self._ended_at:
            self._late = True
            self._ended_at = monotonic()

    def _say(self, *words: Any) -> None:
        self._control.send(words)


def waited_for_processor_s() -> float:
    """How long this process could have run and did not, because others did."""
    try:
        with open("/proc/self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def drive(address: Tuple[str, int], load: Load, grab: int, seconds: float, control: Connection) -> None:
    """The life of the process."""
    gc.disable()
    try:
        try:
            control.send(("figures", Driver(address, load, grab, seconds, control).run()))
        except Fault as fault:
            control.send(("fault", str(fault)))
        except OSError as error:
            control.send(("fault", "a connection to the server failed: %s" % error))
    except (OSError, EOFError, KeyboardInterrupt):
        # Whoever started this process is gone.
        pass
