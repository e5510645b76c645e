"""Ends of a conversation for the tests of the library: a C server, a server that follows a script, workers in threads."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import pytest

from wire import Closed, Wire



def foreign(path):
    """A program that is not ours; nowhere, where the tests are to do without (GEARMAND_TEST_WITHOUT_PEERS)."""
    return "/nowhere/" + path.lstrip("/") if os.environ.get("GEARMAND_TEST_WITHOUT_PEERS") else path


C_SERVER = foreign("/usr/sbin/gearmand")


def listens(port):
    """Asked of the system: the C server lists a connection that only tried it for a while after its end."""
    with open("/proc/net/tcp") as sockets:
        rows = [line.split() for line in sockets][1:]
    return any(row[1].endswith(":%04X" % port) and row[3] == "0A" for row in rows)


def _ports():
    """A thousand that no other run of the tests takes: the C server waits for a port that another one has, and the
    other one listens meanwhile. Below those that connections are given."""
    for first in range(10000, 32000, 1000):
        try:
            with open(os.path.join(tempfile.gettempdir(), "gearmand-test-ports-%d" % first), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield from itertools.cycle(range(first, first + 1000))
        except OSError:  # Another run, or another user, has them.
            pass
    raise AssertionError("22 runs of the tests are going on: wait for one of them to end")


PORTS = _ports()


def free_address():
    """One that nobody listens on, and that no connection will be given."""
    for port in PORTS:
        address = ("127.0.0.1", port)
        with socket.socket() as free:
            try:
                free.bind(address)
                return address
            except OSError:
                pass


@contextlib.contextmanager
def c_server(directory, *options, address=None):
    """A C server of its own, by its address. Skips the test where there is none."""
    if not os.path.exists(C_SERVER):
        pytest.skip("there is no C server: %s (Debian: gearman-job-server)" % C_SERVER)
    address = address or free_address()
    command = [C_SERVER, "-L", "127.0.0.1", "-p", str(address[1]), "-l", "none", "-P", os.path.join(str(directory), "pid")]
    if os.getuid() == 0:
        command += ["-u", "root"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends_at = time.monotonic() + 10
        while not listens(address[1]):
            assert process.poll() is None and time.monotonic() < ends_at, "the C server does not start"
            os.sched_yield()
        yield address
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


class ScriptedServer:
    """A server that does what a test says: `script(connection, number)` is called in a thread for each connection, counted from 0."""

    def __init__(self, script):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._script = script
        self._ending = False
        self._threads = []
        self._connections = []
        self._accepting = threading.Thread(target=self._accept, name="scripted server")
        self._accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ending = True
        socket.create_connection(self.address).close()
        self._accepting.join(10)
        self._listener.close()
        for connection in self._connections:
            connection.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a script does not end"

    def _accept(self):
        while True:
            sock, _ = self._listener.accept()
            if self._ending:
                sock.close()
                return
            connection = ServerEnd(sock)
            self._connections.append(connection)
            thread = threading.Thread(target=self._run, args=(connection, len(self._threads)))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection, number):
        try:
            self._script(connection, number)
        except Closed:
            pass
        finally:
            connection.socket.close()


class ServerEnd(Wire):
    """The server's end of a connection."""

    def __init__(self, sock):
        self.socket = sock
        self.socket.settimeout(20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def receive(self):
        magic, kind, size = struct.unpack(">4sII", self._take(12))
        assert magic == b"\0REQ"
        return kind, self._take(size)

    def send(self, kind, *arguments):
        self.send_raw(response(kind, *arguments))

    def _more(self):
        try:
            super()._more()
        except OSError:
            raise Closed() from None

    def cut(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def response(kind, *arguments):
    body = b"\0".join(arguments)
    return b"\0RES" + struct.pack(">II", kind, len(body)) + body


class Crew:
    """Workers in threads, independent of the library's own.

    `functions`: by name, a function of the connection, the handle and the
    workload; it returns the result, or `None` where it has ended the job.
    """

    def __init__(self, address, functions, count=1):
        self._wires = [Wire(address, timeout_s=60) for _ in range(count)]
        self._functions = functions
        for wire in self._wires:
            wire.can_do(*functions)
        self._threads = [threading.Thread(target=self._work, args=(wire,), name="crew") for wire in self._wires]
        for thread in self._threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for wire in self._wires:
            try:
                wire.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a worker of the test does not end"
        for wire in self._wires:
            wire.close()

    def _work(self, wire):
        try:
            while True:
                handle, function, workload = wire.grab()
                result = self._functions[function](wire, handle, workload)
                if result is not None:
                    wire.send(13, handle, result)
        except (Closed, OSError):
            pass
