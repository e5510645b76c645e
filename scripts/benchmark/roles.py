"""The driver's clients and workers, which do as little as they can.

Packets are made once. Replies whose bytes are known are compared and counted
in one operation for all that have come; only what has a handle that is needed
is taken apart.
"""

from __future__ import annotations

import collections
import functools
import re
import struct
from time import monotonic
from typing import TYPE_CHECKING, Deque, Dict, List, Pattern, Tuple

from benchmark.links import (
    FUNCTION, HEADER_BYTES, LARGE_BYTES, RECEIVE_BYTES, REQUEST, RESPONSE,
    Fault, Link, Parsing, head, packet, sizes, unexpected, wrong,
)  # fmt: skip
from gearmand.protocol import PacketType

if TYPE_CHECKING:
    from benchmark.driver import Driver

# Plain numbers: members of an enumeration compare slowly.
NOOP, JOB_CREATED, NO_JOB = int(PacketType.NOOP), int(PacketType.JOB_CREATED), int(PacketType.NO_JOB)
JOB_ASSIGN, JOB_ASSIGN_UNIQ = int(PacketType.JOB_ASSIGN), int(PacketType.JOB_ASSIGN_UNIQ)
WORK_COMPLETE = int(PacketType.WORK_COMPLETE)


class Client(Link):
    """Keeps `depth` requests in flight as long as there are jobs left."""

    def __init__(self, driver: Driver, request: bytes) -> None:
        super().__init__(driver.loop, driver.connect())
        self.driver = driver
        self._request = request
        self._sent: Deque[Tuple[float, int]] = collections.deque()

    def begin(self) -> None:
        self.submit(self.driver.finish(0, self.driver.load.depth, monotonic()), monotonic())

    def submit(self, count: int, now: float) -> None:
        if not count:
            return
        self._sent.append((now, count))
        if count == 1:
            self.send(self._request)
        elif len(self._request) < LARGE_BYTES:
            self.send(self._request * count)
        else:
            for _ in range(count):
                self.send(self._request)

    def answered(self, count: int) -> None:
        """Replies to the first `count` requests in flight have come."""
        now = monotonic()
        sent, took = self._sent, self.driver.took
        left = count
        while left:
            at, of_them = sent[0]
            if of_them > left:
                sent[0] = (at, of_them - left)
                of_them = left
            else:
                sent.popleft()
            took.extend([now - at] * of_them)
            left -= of_them
        self.submit(self.driver.finish(count, count, now), now)


class EchoClient(Client):
    """Knows every byte that is to come."""

    def __init__(self, driver: Driver) -> None:
        request, self._replies = echoes(driver.load.bytes)
        super().__init__(driver, request)
        self._size = len(request)
        self._at = 0

    def read(self, data: bytes) -> None:
        if not self._replies.startswith(data, self._at):
            raise Fault("the server did not echo what it was sent")
        count, self._at = divmod(self._at + len(data), self._size)
        if count:
            self.answered(count)


class BackgroundClient(Client):
    """Counts JOB_CREATED, whatever the handles."""

    _CREATED = RESPONSE + struct.pack(">I", JOB_CREATED)

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver, submission(PacketType.SUBMIT_JOB_BG, driver.load.bytes))
        self._rest = b""

    def read(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        # All before the last magic are whole packets; the last one is, if its size says so.
        end = max(0, data.rfind(RESPONSE))
        if len(data) - end >= HEADER_BYTES:
            _, size = sizes(data, end + 4)
            if end + HEADER_BYTES + size <= len(data):
                end += HEADER_BYTES + size
        count = data.count(self._CREATED, 0, end)
        if data.count(RESPONSE, 0, end) != count or not data.startswith(RESPONSE[: len(data)]):
            raise self._fault(data)
        self._rest = data[end:]
        if count:
            self.answered(count)

    def _fault(self, data: bytes) -> Fault:
        at = 0
        while data.startswith(self._CREATED, at):
            at += HEADER_BYTES + sizes(data, at + 4)[1]
        return unexpected(data[at:])


class ForegroundClient(Parsing, Client):
    """Times each job from SUBMIT_JOB to WORK_COMPLETE."""

    _REPORTS = re.compile(RESPONSE + rb"\0\0\0([\x08\x0d])....([^\0]+)", re.DOTALL)

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver, submission(PacketType.SUBMIT_JOB, driver.load.bytes))
        self._since: Dict[bytes, float] = {}
        self._completed = 0
        self._extra = {b"\x08": HEADER_BYTES, b"\x0d": HEADER_BYTES + 1 + driver.load.bytes}

    def read(self, data: bytes) -> None:
        if self._rest:
            super().read(data)
            return
        # All at once, where the sizes show that it is whole packets of the two kinds.
        reports, extra = self._REPORTS.findall(data), self._extra
        if sum([extra[kind] + len(handle) for kind, handle in reports]) != len(data):
            super().read(data)
            return
        for kind, handle in reports:
            if kind == b"\x08":
                self._created(handle)
            else:
                self._complete(handle)
        self.served()

    def _created(self, handle: bytes) -> None:
        if not self._sent:
            raise Fault("the server sent JOB_CREATED, and no job was submitted")
        at, count = self._sent.popleft()
        self._since[handle] = at
        if count > 1:
            self._sent.appendleft((at, count - 1))

    def _complete(self, handle: bytes) -> None:
        since = self._since.pop(handle, None)
        if since is None:
            raise Fault("the server sent WORK_COMPLETE of a job that does not run: %r" % handle)
        self.driver.took.append(monotonic() - since)
        self._completed += 1

    def serve(self, kind: int, body: bytes, size: int) -> None:
        if kind == JOB_CREATED:
            self._created(body)
        elif kind == WORK_COMPLETE:
            handle, _, _ = body.partition(b"\0")
            if size != len(handle) + 1 + self.driver.load.bytes:
                raise wrong(kind, body)
            self._complete(handle)
        else:
            raise wrong(kind, body)

    def served(self) -> None:
        count = self._completed
        if count:
            self._completed = 0
            now = monotonic()
            self.submit(self.driver.finish(count, count, now), now)


class OneJobClient(Client):
    """A foreground client of depth 1: knows all that comes but the handle."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver, submission(PacketType.SUBMIT_JOB, driver.load.bytes))
        self._rest = b""
        self._at = 0.0
        self._workload = b"\0" + driver.workload
        self._heads: Dict[int, Tuple[bytes, bytes]] = {}
        self._fixed_size = 2 * HEADER_BYTES + len(self._workload)

    def submit(self, count: int, now: float) -> None:
        if count:
            self._at = now
            self.send(self._request)

    def read(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if len(data) < HEADER_BYTES or len(data) < self._fixed_size + 2 * data[11] and data[7] == JOB_CREATED:
            self._rest = data
            return
        self._rest = b""
        length = data[11]
        created, complete = self._heads.get(length) or self._heads_of(length)
        handle = data[HEADER_BYTES : HEADER_BYTES + length]
        if data != created + handle + complete + handle + self._workload:
            raise unexpected(data, created + handle)
        now = monotonic()
        self.driver.took.append(now - self._at)
        self.submit(self.driver.finish(1, 1, now), now)

    def _heads_of(self, length: int) -> Tuple[bytes, bytes]:
        created = RESPONSE + head(JOB_CREATED, length)
        self._heads[length] = created, RESPONSE + head(WORK_COMPLETE, length + len(self._workload))
        return self._heads[length]


class Worker(Parsing, Link):
    """Answers each job with a workload of the same size; asleep when there is none."""

    PRE_SLEEP = packet(PacketType.PRE_SLEEP)

    def __init__(self, driver: Driver, function: bytes = FUNCTION) -> None:
        super().__init__(driver.loop, driver.connect())
        self.driver = driver
        self._grab = packet(driver.grab)
        self._unique = driver.grab == PacketType.GRAB_JOB_UNIQ
        self._extra = len(function) + 1 + self._unique + driver.load.bytes
        self._assignments = assignments(function)
        self._tail = driver.workload + self._grab if driver.load.bytes < LARGE_BYTES else b""
        self._replies: List[bytes] = []
        self._heads: Dict[int, bytes] = {}
        # What is said to packets that come alone, once it is no more the first time.
        self._known: Dict[bytes, bytes] = {}
        self._drains = driver.load.mode == "drain"
        self.send(packet(PacketType.CAN_DO, function))
        if not self._drains:
            self.send(self._grab)

    def begin(self) -> None:
        if self._drains:
            self.send(self._grab)

    def read(self, data: bytes) -> None:
        known = self._known.get(data)
        if known and not self._rest:
            self.send(known)
            return
        handles = self._assignments.findall(data)
        # Alone, and whole: the usual case.
        if len(handles) == 1 and len(data) == HEADER_BYTES + len(handles[0]) + self._extra and self._tail and not self._rest:
            handle = handles[0]
            self.send(self._head(len(handle)) + handle + self._tail)
            if self._drains:
                self.driver.finish(1, 0, monotonic())
        else:
            super().read(data)

    def _head(self, length: int) -> bytes:
        found = self._heads.get(length)
        if found is None:
            found = self._heads[length] = REQUEST + head(WORK_COMPLETE, length + self.driver.load.bytes)
        return found

    def serve(self, kind: int, body: bytes, size: int) -> None:
        if kind == JOB_ASSIGN or kind == JOB_ASSIGN_UNIQ:
            self._work(kind, body, size)
        elif kind == NO_JOB:
            self._rest_for_now()
        elif kind == NOOP:
            self._replies.append(self._grab)
        else:
            raise wrong(kind, body)

    def _work(self, kind: int, body: bytes, size: int) -> None:
        length = body.find(b"\0") + 1
        # Uniques are empty, or made up by the server.
        if not length or size < length + self._extra or not self._unique and size != length + self._extra:
            raise wrong(kind, body)
        self._replies += (self._head(length), body[:length], self.driver.workload, self._grab)
        if self._drains:
            self.driver.finish(1, 0, monotonic())

    def _rest_for_now(self) -> None:
        if self._drains:
            self.driver.found_nothing()
            return
        self._replies.append(self.PRE_SLEEP)
        if not self._known:
            self._known = {packet(NOOP, b"", RESPONSE): self._grab, packet(NO_JOB, b"", RESPONSE): self.PRE_SLEEP}
            self.driver.settle()

    def served(self) -> None:
        if self._replies:
            self.send_all(self._replies)
            self._replies = []


@functools.lru_cache(maxsize=None)
def assignments(function: bytes) -> Pattern[bytes]:
    """Finds the handles, with their NUL, of jobs that are assigned."""
    return re.compile(RESPONSE + rb"\0\0\0\x0b....([^\0]+\0)" + function + rb"\0", re.DOTALL)


@functools.lru_cache(maxsize=None)
def submission(kind: int, size: int) -> bytes:
    return packet(kind, FUNCTION + b"\0\0" + b"x" * size)


@functools.lru_cache(maxsize=None)
def echoes(size: int) -> Tuple[bytes, bytes]:
    """A request, and more replies to it than come at once."""
    reply = packet(PacketType.ECHO_RES, b"x" * size, RESPONSE)
    return packet(PacketType.ECHO_REQ, b"x" * size), reply * (RECEIVE_BYTES // len(reply) + 2)


def client(driver: Driver) -> Client:
    """One that fits the load."""
    load = driver.load
    if load.mode == "echo":
        return EchoClient(driver)
    if load.mode == "bg":
        return BackgroundClient(driver)
    return OneJobClient(driver) if load.depth == 1 and load.bytes < LARGE_BYTES else ForegroundClient(driver)
