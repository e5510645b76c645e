"""The least that a job server can do, to find out how fast the driver is: `python3 -m benchmark.sink PORT`.

One process, one thread. Every worker gets every job, with a workload as large
as that of the last submission; of background jobs only the number is kept.
Only the driver should talk to it.
"""

from __future__ import annotations

import collections
import gc
import socket
import sys
from typing import Deque, Dict, List

from benchmark.links import FUNCTION, HEADER_BYTES, OTHER_FUNCTION, REQUEST, RESPONSE, Fault, Link, Loop, Parsing, head, packet, sizes
from gearmand.protocol import PacketType

CAN_DO, PRE_SLEEP, GRAB_JOB, WORK_COMPLETE, SUBMIT_JOB, SUBMIT_JOB_BG, ECHO_REQ = (
    int(PacketType[name])
    for name in ("CAN_DO", "PRE_SLEEP", "GRAB_JOB", "WORK_COMPLETE", "SUBMIT_JOB", "SUBMIT_JOB_BG", "ECHO_REQ")
)
NO_JOB = packet(PacketType.NO_JOB, b"", RESPONSE)
BACKGROUND_HANDLE = b"H:sink:000000000"
BACKGROUND_CREATED = packet(PacketType.JOB_CREATED, BACKGROUND_HANDLE, RESPONSE)


class Sink:
    def __init__(self, port: int) -> None:
        self.loop = Loop()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.loop.add(self._listener.fileno(), self)
        self._handles = 0
        self._foreground: Deque[bytes] = collections.deque()
        self._asleep: Deque[Peer] = collections.deque()
        self.background = 0
        self.clients: Dict[bytes, Peer] = {}
        self.workload = b""

    def run(self) -> None:
        poll, serve = self.loop.poll, self.loop.serve
        while True:
            for number, event in poll():
                try:
                    serve(number, event)
                except (OSError, Fault):
                    self.loop.remove(number).socket.close()

    def readable(self) -> None:
        connection, _ = self._listener.accept()
        Peer(self, connection)

    def submit(self, client: Peer) -> bytes:
        """A foreground job. Returns its handle."""
        self._handles += 1
        handle = b"H:sink:%09d" % self._handles
        self.clients[handle] = client
        self._foreground.append(handle)
        if self._asleep:
            worker = self._asleep.popleft()
            worker.send_all(self.assigned())
        return handle

    def sleep(self, worker: Peer) -> None:
        if self._foreground:
            worker.send_all(self.assigned())
        else:
            self._asleep.append(worker)

    def assigned(self) -> List[bytes]:
        """What a worker gets that asks for a job."""
        if self._foreground:
            handle = self._foreground.popleft()
        elif self.background:
            self.background -= 1
            handle = BACKGROUND_HANDLE
        else:
            return [NO_JOB]
        return message(PacketType.JOB_ASSIGN, handle + b"\0" + FUNCTION + b"\0", self.workload)


class Peer(Parsing, Link):
    """One connection."""

    magic = REQUEST

    def __init__(self, sink: Sink, connection: socket.socket) -> None:
        super().__init__(sink.loop, connection)
        self._sink = sink
        self._replies: List[bytes] = []
        self._works = True

    def read(self, data: bytes) -> None:
        if self._rest or not self._read_alike(data):
            super().read(data)

    def _read_alike(self, data: bytes) -> bool:
        """Whether it was requests of one size, and of a kind that is only counted."""
        if len(data) < HEADER_BYTES:
            return False
        kind, size = sizes(data, 4)
        count, odd = divmod(len(data), HEADER_BYTES + size)
        if odd or kind not in (ECHO_REQ, SUBMIT_JOB_BG):
            return False
        self.serve(kind, data[HEADER_BYTES : HEADER_BYTES + size], size, count)
        self.served()
        return True

    def serve(self, kind: int, body: bytes, size: int, count: int = 1) -> None:
        sink = self._sink
        if kind == SUBMIT_JOB:
            self._submitted(size)
            self._replies.append(packet(PacketType.JOB_CREATED, sink.submit(self), RESPONSE))
        elif kind == WORK_COMPLETE:
            handle = body[: len(BACKGROUND_HANDLE)]
            client = sink.clients.pop(handle, None)
            if client is not None:
                client.send_all(message(PacketType.WORK_COMPLETE, handle + b"\0", sink.workload))
        elif kind == GRAB_JOB:
            self._replies += sink.assigned() if self._works else [NO_JOB]
        elif kind == PRE_SLEEP:
            if self._works:
                sink.sleep(self)
        elif kind == SUBMIT_JOB_BG:
            self._submitted(size)
            sink.background += count
            self._replies.append(BACKGROUND_CREATED * count)
        elif kind == ECHO_REQ:
            # What is sent is always the same.
            self._replies.append(packet(PacketType.ECHO_RES, b"x" * size, RESPONSE) * count)
        elif kind == CAN_DO:
            self._works = body != OTHER_FUNCTION

    def _submitted(self, size: int) -> None:
        size -= len(FUNCTION) + 2
        if len(self._sink.workload) != size:
            self._sink.workload = b"x" * size

    def served(self) -> None:
        if self._replies:
            self.send_all(self._replies)
            self._replies = []


def message(kind: int, arguments: bytes, workload: bytes) -> List[bytes]:
    """A packet from the server, in parts that need no copy of a large workload."""
    return [RESPONSE + head(kind, len(arguments) + len(workload)) + arguments, workload]


if __name__ == "__main__":
    gc.disable()
    Sink(int(sys.argv[1])).run()
