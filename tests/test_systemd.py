"""What systemd and the server say to each other, over the sockets and descriptors that systemd uses."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from gearmand import systemd
from peers import free_address
from wire import Wire, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOCKET_ACTIVATE = shutil.which("systemd-socket-activate")


class Ear:
    """The socket where systemd listens to its services."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def hear(self):
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))


@pytest.fixture(params=["file", "abstract"])
def ear_and_name(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "file" else "@gearmand-test-%d" % os.getpid()
    with Ear("\0" + name[1:] if name[0] == "@" else name) as ear:
        yield ear, name


@pytest.fixture
def ear(tmp_path):
    with Ear(str(tmp_path / "notify")) as ear:
        yield ear


@contextlib.contextmanager
def service(*options, listener=None, **environment):
    """A server that was started as systemd does it."""
    command = [sys.executable, "-m", "gearmand", "-l", "none", *options]
    pass_fds = ()
    if listener is not None:
        # The process that the descriptors are for is the shell, and then the server.
        words = " ".join("'%s'" % word for word in command)
        command = ["/bin/bash", "-c", "exec 3<&%d; export LISTEN_PID=$$; exec %s" % (listener.fileno(), words)]
        pass_fds = (listener.fileno(),)
        environment["LISTEN_FDS"] = "1"
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, pass_fds=pass_fds, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)
        process.stderr.close()


HERE = ("-L", "127.0.0.1", "-p", "0")


def test_service_says_that_it_is_ready_and_that_it_stops(ear_and_name):
    ear, name = ear_and_name
    with service(*HERE, NOTIFY_SOCKET=name) as process:
        assert ear.hear() == {"READY": "1", "MAINPID": str(process.pid)}
        process.terminate()
        assert ear.hear() == {"STOPPING": "1"}
        assert process.wait(20) == 0


def test_service_is_ready_when_it_serves(ear, tmp_path):
    address = free_address()
    with service("-L", "127.0.0.1", "-p", str(address[1]), NOTIFY_SOCKET=str(tmp_path / "notify")):
        ear.hear()
        with Wire(address) as wire:
            wire.echo()


def test_service_says_that_it_stops_when_it_drains(ear, tmp_path):
    with service(*HERE, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
        ear.hear()
        process.send_signal(signal.SIGUSR1)
        assert ear.hear() == {"STOPPING": "1"}
        assert process.wait(20) == 0


def test_service_says_that_it_reloads_and_when(ear, tmp_path):
    with service(*HERE, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
        ear.hear()
        before = time.monotonic()
        process.send_signal(signal.SIGHUP)
        said = ear.hear()
        assert said["RELOADING"] == "1" and before <= int(said["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
        assert ear.hear() == {"READY": "1"}


def test_service_pings_the_watchdog_in_half_its_time(ear, tmp_path):
    with service(*HERE, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000"):
        ear.hear()
        assert ear.hear() == {"WATCHDOG": "1"}
        before = time.monotonic()
        assert ear.hear() == {"WATCHDOG": "1"}
        assert time.monotonic() - before < 5


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_watchdog_that_is_not_asked_for_is_not_there(environment):
    notifier = systemd.Notifier(dict(environment))
    assert notifier.watchdog_s is None
    notifier.watch(lambda: pytest.fail("it looks"))


def test_watchdog_of_this_process_is_heard_while_the_server_answers_alone(ear, tmp_path):
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    notifier = systemd.Notifier(environment)
    assert environment == {}
    hangs, looks = threading.Event(), []

    def look():
        looks.append(1)
        if len(looks) == 3:
            hangs.wait()
        return len(looks) < 3

    notifier.watch(look)
    assert [ear.hear() for _ in range(2)] == [{"WATCHDOG": "1"}] * 2
    wait_until(lambda: len(looks) == 3, "it looks again")
    ear.socket.settimeout(0.1)
    with pytest.raises(socket.timeout):
        ear.hear()
    hangs.set()


def test_nobody_who_listens_is_no_error(tmp_path):
    systemd.Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).say("READY=1")
    systemd.Notifier({}).say("READY=1")


# -- sockets ---------------------------------------------------------------------------


def test_service_serves_the_socket_that_it_was_given_and_leaves_it_listening():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for _ in range(2):
            with Wire(address) as wire, service("-p", "1", listener=listener) as process:
                # Connected before there was a server.
                wire.echo()
                assert wire.ask("getpid") == "OK %d" % process.pid
            assert process.returncode == 0
        with Wire(address):
            assert listener.accept()


def test_service_serves_a_unix_domain_socket_that_it_was_given_and_leaves_its_file(tmp_path):
    path = str(tmp_path / "gearmand.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client, service(listener=listener) as process:
                client.connect(path)
                client.settimeout(20)
                client.sendall(b"getpid\n")
                assert client.recv(100) == b"OK %d\n" % process.pid
            assert process.returncode == 0 and os.path.exists(path)


def test_socket_named_tls_needs_a_certificate():
    with socket.create_server(("127.0.0.1", 0)) as listener, service(listener=listener, LISTEN_FDNAMES="tls") as process:
        assert process.wait(20) == 1
        assert b"a socket for TLS was passed" in process.stderr.read()


@pytest.mark.skipif(SOCKET_ACTIVATE is None, reason="there is no systemd-socket-activate")
def test_service_is_started_by_systemds_own_program():
    address = free_address()
    command = [SOCKET_ACTIVATE, "-l", "127.0.0.1:%d" % address[1], "--", sys.executable, "-m", "gearmand", "-l", "none"]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    command[1:1] = ["-E", "PYTHONPATH"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: accepts(address), "it listens")
            with Wire(address) as wire:
                assert wire.ask("getpid") == "OK %d" % process.pid
        finally:
            process.terminate()
            assert process.wait(20) == 0


def accepts(address):
    try:
        socket.create_connection(address, 5).close()
        return True
    except OSError:
        return False


def test_sockets_of_another_process_are_not_taken():
    assert systemd.sockets({}) == []
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert systemd.sockets(environment) == [] and environment == {}


@pytest.mark.parametrize("kind, said", [("file", b"descriptor 3 is no socket"), ("connected", b"does not listen"), ("packets", b"none of TCP")])
def test_descriptor_that_is_no_listening_socket_for_streams_is_refused(kind, said, tmp_path):
    with contextlib.ExitStack() as stack:
        if kind == "file":
            listener = stack.enter_context(open(os.devnull))
        elif kind == "connected":
            listener, other = socket.socketpair()
            stack.enter_context(listener), stack.enter_context(other)
        else:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(tmp_path / "unix"))
            listener.listen()
        with service(*HERE, listener=listener) as process:
            assert process.wait(20) == 1
            assert said in process.stderr.read()
