"""A small blocking Gearman peer over a raw socket, and a few things that tests poll for.

It knows the wire format on its own and imports nothing of gearmand, so that a
mistake in the server's own protocol module cannot hide here.
"""

from __future__ import annotations

import socket
import struct
import time

DEADLINE_S = 20.0

CAN_DO = 1
CANT_DO = 2
RESET_ABILITIES = 3
PRE_SLEEP = 4
NOOP = 6
SUBMIT_JOB = 7
JOB_CREATED = 8
GRAB_JOB = 9
NO_JOB = 10
JOB_ASSIGN = 11
WORK_STATUS = 12
WORK_COMPLETE = 13
WORK_FAIL = 14
GET_STATUS = 15
ECHO_REQ = 16
ECHO_RES = 17
SUBMIT_JOB_BG = 18
ERROR = 19
STATUS_RES = 20
SUBMIT_JOB_HIGH = 21
SET_CLIENT_ID = 22
CAN_DO_TIMEOUT = 23
ALL_YOURS = 24
WORK_EXCEPTION = 25
OPTION_REQ = 26
OPTION_RES = 27
WORK_DATA = 28
WORK_WARNING = 29
GRAB_JOB_UNIQ = 30
JOB_ASSIGN_UNIQ = 31
SUBMIT_JOB_HIGH_BG = 32
SUBMIT_JOB_LOW = 33
SUBMIT_JOB_LOW_BG = 34
SUBMIT_JOB_SCHED = 35
SUBMIT_JOB_EPOCH = 36
GRAB_JOB_ALL = 39
GET_STATUS_UNIQUE = 41


class Closed(Exception):
    """The server closed the connection."""


def packet(kind, *arguments):
    body = b"\0".join(arguments)
    return b"\0REQ" + struct.pack(">II", kind, len(body)) + body


def ends(sock):
    """Whether the other side closes a connection (waits for it); whatever arrives before is dropped."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except socket.timeout:
        return False
    return True


class Wire:
    """One connection. Whatever waits, waits `timeout_s` at most and then raises `socket.timeout`."""

    def __init__(self, address, timeout_s=DEADLINE_S, receive_buffer=None):
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.settimeout(timeout_s)
            self.socket.connect((host, port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.socket.close()
            raise
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        self.socket.close()

    def reset_on_close(self):
        """Let `close` send a reset, not an end of file."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed()

    def send(self, kind, *arguments):
        self.send_raw(packet(kind, *arguments))

    def _more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed()
        self.buffer += data

    def _take(self, count):
        while len(self.buffer) < count:
            self._more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def receive(self):
        """The next packet: its type and its body."""
        header = self._take(12)
        magic, kind, size = struct.unpack(">4sII", header)
        assert magic == b"\0RES", header
        return kind, self._take(size)

    def expect(self, kind):
        """The arguments of the next packet, which must be of that type."""
        got, body = self.receive()
        assert got == kind, "expected packet type %d, got %d with %r" % (kind, got, body[:200])
        return body.split(b"\0") if body else []

    def ask(self, line):
        """The first line of the answer to an administrative line."""
        self.send_raw(line.encode() + b"\n")
        while b"\n" not in self.buffer:
            self._more()
        first, _, self.buffer = self.buffer.partition(b"\n")
        return first.decode().rstrip("\r")

    def table(self, line):
        """The lines of an administrative table, without the closing dot."""
        self.send_raw(line.encode() + b"\n")
        while not (self.buffer == b".\n" or self.buffer.endswith(b"\n.\n")):
            self._more()
        data, self.buffer = self.buffer, b""
        return data.decode().splitlines()[:-1]

    def is_closed(self):
        """Whether the server closes the connection (waits for it); whatever arrives before is dropped."""
        return ends(self.socket)

    # -- conversations -----------------------------------------------------

    def submit(self, function, workload=b"", unique=b"", kind=SUBMIT_JOB):
        """Submit a job and return its handle."""
        self.send(kind, function, unique, workload)
        return self.expect(JOB_CREATED)[0]

    def can_do(self, *functions):
        """Announce functions and wait until the server has seen it."""
        for function in functions:
            self.send(CAN_DO, function)
        self.echo()

    def echo(self, data=b"x"):
        self.send(ECHO_REQ, data)
        assert self.receive() == (ECHO_RES, data)

    def grab(self):
        """Wait for a job as a worker does: handle, function, workload."""
        while True:
            self.send(GRAB_JOB)
            kind, body = self.receive()
            while kind == NOOP:
                kind, body = self.receive()
            if kind == JOB_ASSIGN:
                return tuple(body.split(b"\0", 2))
            assert kind == NO_JOB, (kind, body)
            self.send(PRE_SLEEP)
            kind, body = self.receive()
            assert kind == NOOP, (kind, body)


def wait_until(predicate, what, timeout_s=DEADLINE_S):
    """Poll until `predicate()` is true and return its value; AssertionError after the timeout."""
    ends_at = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < ends_at, "not within %g s: %s" % (timeout_s, what)
        time.sleep(0.005)


def status(address):
    """function: (jobs, running, workers)"""
    with Wire(address) as wire:
        rows = [line.split("\t") for line in wire.table("status")]
    return {row[0]: tuple(map(int, row[1:])) for row in rows}


def wait_for_workers(address, function, count=1):
    wait_until(
        lambda: status(address).get(function, (0, 0, 0))[2] >= count,
        "%d workers of %s" % (count, function),
    )
