"""TLS: the channel, the server, the library, the commands, and other programs at the other end."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

from certificates import certificates
from gearmand import Admin, Client, ConfigError, JobLost, Server, ServerLost, Tls, Worker, compat
from gearmand.addresses import parse
from gearmand.channel import Channel, _Records
from gearmand.connection import Connection, tls_of
from gearmand.errors import TlsFailure
from gearmand.tls import ServerSide
from peers import ScriptedServer, foreign, free_address
from wire import DEADLINE_S, ECHO_REQ, ECHO_RES, SUBMIT_JOB_BG, WORK_COMPLETE, WORK_DATA, Closed, Wire, packet, status, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SEED = int(os.environ.get("GEARMAND_TEST_SEED", random.randrange(2**32)))


@pytest.fixture(scope="module")
def files():
    return certificates()


@pytest.fixture
def start():
    """Starts a server with options; it is stopped with the test."""
    servers = []

    def start(**options):
        server = Server(**{"port": 0, "ssl_port": 0, **options}).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start, files):
    return start(**files.of_server)


@pytest.fixture
def strict(start, files):
    return start(**files.of_strict_server)


def tls_address(server):
    return server.tls_addresses[0]


def context_of(files, own="client", version=None):
    context = ssl.create_default_context(cafile=files.path("ca.pem"))
    if own:
        context.load_cert_chain(files.path(own + ".pem"), files.path(own + ".key"))
    if version is not None:
        context.maximum_version = context.minimum_version = version
    return context


class TlsWire(Wire):
    """A Wire whose TLS is that of Python's own ssl.SSLSocket."""

    def __init__(self, address, context, **options):
        super().__init__(address, **options)
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        except BaseException:
            self.socket.close()
            raise

    def is_closed(self):
        try:
            return super().is_closed()
        except ssl.SSLError:
            return True


def raw(address):
    sock = socket.create_connection(address, DEADLINE_S)
    sock.settimeout(DEADLINE_S)
    return sock


def is_ended(sock):
    """Whether the server ends the connection; what it says before is dropped."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except socket.timeout:
        return False
    return True


def reverse(job):
    return job.workload[::-1]


def assert_serves(server, files):
    with TlsWire(tls_address(server), context_of(files)) as wire, Wire(server.address) as plain:
        wire.echo(b"still there")
        plain.echo(b"still there")


# -- the channel ---------------------------------------------------------------------


def channels(files, small=False):
    """Both ends of a connection, not waiting; the handshake is done."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    side = ServerSide(files.path("server.pem"), files.path("server.key"), None)
    server = side.channel(theirs)
    thread = threading.Thread(target=server.handshake, args=(DEADLINE_S,))
    thread.start()
    client = tls_of(Tls(files.path("ca.pem"))).channel(ours, "localhost", DEADLINE_S)
    thread.join(DEADLINE_S)
    return client, server


def send_all(channel, data):
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[channel.send(rest) :]
        except BlockingIOError:
            select.select([], [channel], [], DEADLINE_S)


def receive_all(channel, count, most=65536):
    pieces, size = [], 0
    while size < count:
        try:
            piece = channel.recv(most)
            assert piece, "it ended after %d bytes of %d" % (size, count)
            pieces.append(piece)
            size += len(piece)
        except BlockingIOError:
            if not channel.pending:
                select.select([channel], [], [], DEADLINE_S)
    return b"".join(pieces)


@pytest.mark.parametrize("small", [False, True])
def test_channel_carries_both_directions_at_once_in_four_threads(files, small):
    """One thread sends and another receives, on either end: the session is used by both."""
    count = 400000 if small else 20000000
    data = [random.Random(SEED).getrandbits(8 * 50000).to_bytes(50000, "big") * (count // 50000) for _ in range(2)]
    ends = channels(files, small)
    got, threads = {}, []
    for at, end in enumerate(ends):
        threads.append(threading.Thread(target=send_all, args=(end, data[at])))
        threads.append(threading.Thread(target=lambda at=at, end=end: got.__setitem__(at, receive_all(end, count))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert got[0] == data[1] and got[1] == data[0]
    for end in ends:
        end.close()


def test_channel_counts_bytes_as_sent_once_all_of_their_ciphertext_has_left(files):
    one, other = channels(files, small=True)
    data = bytes(range(256)) * 4000
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += one.send(data[sent:])
    got = b""
    while True:
        try:
            got += other.recv(65536)
        except BlockingIOError:
            break
    # What was not counted may have arrived in part; the same bytes, given again, do not arrive twice.
    thread = threading.Thread(target=send_all, args=(one, data[sent:]))
    thread.start()
    got += receive_all(other, len(data) - len(got))
    thread.join(DEADLINE_S)
    assert got == data
    one.close()
    other.close()


def test_channel_sendmsg_is_one_stream(files):
    one, other = channels(files)
    pieces = [b"a", b"", b"b" * 40000, b"c" * 10]
    assert one.sendmsg(pieces) == sum(map(len, pieces))
    assert receive_all(other, 40011, most=999) == b"".join(pieces)
    one.close()
    other.close()


def test_channel_sendmsg_goes_on_where_the_socket_was_full(files):
    one, other = channels(files, small=True)
    pieces = [b"%04d" % number + b"x" * (number * 97 % 5000) for number in range(300)]
    whole = b"".join(pieces)
    got = {}
    thread = threading.Thread(target=lambda: got.update(data=receive_all(other, len(whole))))
    with pytest.raises(BlockingIOError):
        while True:
            pieces = left(pieces, one.sendmsg(pieces))
    thread.start()
    while pieces:
        try:
            pieces = left(pieces, one.sendmsg(pieces[:7]))
        except BlockingIOError:
            select.select([], [one], [], DEADLINE_S)
    thread.join(DEADLINE_S)
    assert got["data"] == whole
    one.close()
    other.close()


def left(pieces, sent):
    rest = b"".join(pieces)[sent:]
    return [rest[at : at + 3000] for at in range(0, len(rest), 3000)]


@pytest.mark.parametrize("goodbye", [True, False])
def test_channel_ends_after_the_last_data_with_close_notify_or_without(files, goodbye):
    one, other = channels(files)
    one.send(b"last words")
    if goodbye:
        one.close()
    else:
        one._socket.close()
    assert other.recv(4) == b"last"
    assert other.recv(65536) == b" words"
    assert other.recv(65536) == b""
    assert other.recv_into(memoryview(bytearray(10))) == 0
    other.close()


def test_channel_that_has_got_garbage_fails_after_the_good_data(files):
    one, other = channels(files)
    one.send(b"good")
    one._socket.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert other.recv(65536) == b"good"
    with pytest.raises(TlsFailure, match="TLS: .*bad record mac"):
        other.recv(65536)
    one.close()
    other.close()


def test_channel_of_a_fork_says_no_goodbye(files):
    one, other = channels(files)
    child = os.fork()
    if not child:
        one.close()
        os._exit(0)
    os.waitpid(child, 0)
    one.send(b"still here")
    assert receive_all(other, 10) == b"still here"
    one.close()
    other.close()


def test_channel_gives_up_a_peer_that_demands_answers_and_reads_none(files):
    one, other = channels(files, small=True)
    other._unsent = memoryview(b"x" * 10000000)
    other._outgoing.write(b"x")
    one.send(b"data")
    with pytest.raises(TlsFailure, match="demands"):
        other.recv(100)
    one._socket.close()
    other._socket.close()


# -- the server ----------------------------------------------------------------------


def test_server_speaks_tls_beside_plain_text_and_both_share_its_jobs(server, files):
    assert len(server.addresses) == 2 and server.address not in server.tls_addresses
    with TlsWire(tls_address(server), context_of(files, None)) as worker, Wire(server.address) as client:
        worker.can_do(b"f")
        handle = client.submit(b"f", b"x" * 100000)
        assert worker.grab() == (handle, b"f", b"x" * 100000)
        worker.send(WORK_COMPLETE, handle, b"y" * 100000)
        assert client.expect(WORK_COMPLETE) == [handle, b"y" * 100000]
        assert client.table("workers")[-1].endswith(" 127.0.0.1 - : f")


def test_server_with_ssl_speaks_tls_on_its_port_and_nothing_else(start, files):
    server = start(ssl=True, ssl_port=None, **files.of_server)
    assert server.addresses == server.tls_addresses == [server.address]
    with TlsWire(server.address, context_of(files, None)) as wire:
        assert wire.ask("version").startswith("OK ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_server_speaks_the_versions_of_tls(strict, files, version):
    with TlsWire(tls_address(strict), context_of(files, version=version)) as wire:
        wire.echo(b"x" * 1000000)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_server_refuses_tls_1_1(server, files):
    context = context_of(files, None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        TlsWire(tls_address(server), context)


def test_server_keeps_the_common_name_of_a_certificate(strict, files, caplog):
    caplog.set_level(logging.INFO, "gearmand")
    with TlsWire(tls_address(strict), context_of(files)) as wire, Wire(strict.address) as plain:
        wire.echo()
        plain.echo()
        assert [peer.common_name for peer in strict.broker.peers] == ["worker 1", None]
        assert ": speaks TLSv1.3 as 'worker 1'" in caplog.text


def test_server_without_a_ca_knows_no_name(server, files):
    with TlsWire(tls_address(server), context_of(files)) as wire:
        wire.echo()
        assert [peer.common_name for peer in server.broker.peers] == [None]


@pytest.mark.parametrize("own", [None, "stranger"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_server_with_a_ca_serves_nobody_without_its_certificate(strict, files, own, version, caplog):
    with pytest.raises((OSError, Closed)):
        with TlsWire(tls_address(strict), context_of(files, own, version)) as wire:
            wire.submit(b"f", kind=SUBMIT_JOB_BG)
    wait_until(lambda: not strict.connections, "it is gone")
    assert "f" not in status(strict.address)
    said = "peer did not return a certificate" if own is None else "its certificate is not accepted: "
    assert said in caplog.text
    assert_serves(strict, files)


def shake_hands(sock, session, incoming, outgoing):
    """The client's end, all but its last message."""
    while True:
        try:
            session.do_handshake()
            return
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))


def test_first_data_may_come_with_the_end_of_the_handshake(server, files):
    """A client that waits for nothing: its request is in the packet of its last handshake message."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context_of(files, None).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with raw(tls_address(server)) as sock:
        shake_hands(sock, session, incoming, outgoing)
        session.write(packet(ECHO_REQ, b"early"))
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65536))
        assert session.read(100) == b"\0RES" + packet(ECHO_RES, b"early")[4:]


@pytest.mark.parametrize("first", [b"\0REQ\0\0\0\x10\0\0\0\1x", b"status\n", b"GET / HTTP/1.0\r\n\r\n", b"\x16", b"\xff" * 500])
def test_what_is_no_tls_on_the_tls_port_is_closed_with_a_complaint(server, files, first, caplog):
    with raw(tls_address(server)) as sock:
        sock.sendall(first)
        if len(first) == 1:
            sock.shutdown(socket.SHUT_WR)
        assert is_ended(sock)
    wait_until(lambda: not server.connections, "it is gone")
    assert ("during the TLS handshake" if len(first) == 1 else "it does not speak TLS") in caplog.text
    assert_serves(server, files)


def test_tls_on_the_plain_port_is_closed_with_a_complaint(server, files, caplog):
    with pytest.raises(OSError):
        TlsWire(server.address, context_of(files, None))
    wait_until(lambda: "it speaks TLS, which is not spoken here" in caplog.text, "the complaint")
    assert_serves(server, files)


def test_connection_that_never_says_anything_is_no_complaint(server, caplog):
    raw(tls_address(server)).close()
    wait_until(lambda: not server.connections, "it is gone")
    assert "closed:" not in caplog.text


def test_garbage_after_the_handshake_ends_that_connection_alone(server, files, caplog):
    with TlsWire(tls_address(server), context_of(files)) as wire, TlsWire(tls_address(server), context_of(files)) as other:
        wire.echo()
        os.write(wire.socket.fileno(), b"\x17\x03\x03\x00\x40" + os.urandom(64))
        assert wire.is_closed()
        other.echo()
    # It complains after it has said goodbye.
    wait_until(lambda: "closed: TLS: " in caplog.text, "the complaint")


def test_connection_that_is_cut_off_is_over(server, files, caplog):
    with Wire(server.address) as client:
        worker = TlsWire(tls_address(server), context_of(files))
        worker.can_do(b"f")
        client.submit(b"f")
        worker.grab()
        # No close_notify, and half a record before the end.
        os.write(worker.socket.fileno(), b"\x17\x03\x03\x00\x40half")
        worker.close()
        wait_until(lambda: status(server.address)["f"] == (1, 0, 0), "the job is queued again")
    assert "Traceback" not in caplog.text


def test_peer_that_has_said_goodbye_gets_its_answers_and_a_goodbye(server, files):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context_of(files, None).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with raw(tls_address(server)) as sock:
        shake_hands(sock, session, incoming, outgoing)
        session.write(packet(ECHO_REQ, b"x" * 3000000))
        with pytest.raises(ssl.SSLWantReadError):
            session.unwrap()
        threading.Thread(target=sock.sendall, args=(outgoing.read(),)).start()
        while True:
            data = sock.recv(65536)
            if not data:
                break
            incoming.write(data)
        # After close_notify has been sent, OpenSSL reads no data; but all of it has come, and the end after it.
        assert incoming.pending > 3000000


def test_client_that_reads_late_gets_everything_in_order(start, files):
    server = start(unread_timeout=0, **files.of_server)
    client = TlsWire(tls_address(server), context_of(files), receive_buffer=4096)
    with client, TlsWire(tls_address(server), context_of(files)) as worker:
        worker.can_do(b"flood")
        client.submit(b"flood")
        handle = worker.grab()[0]
        for number in range(300):
            worker.send(WORK_DATA, handle, b"%08d" % number + b"x" * (number * 331))
        worker.send(WORK_COMPLETE, handle, b"end")
        worker.echo()
        for number in range(300):
            assert client.expect(WORK_DATA)[1] == b"%08d" % number + b"x" * (number * 331)
        assert client.expect(WORK_COMPLETE)[1] == b"end"


@pytest.mark.parametrize("bound", [{"unread_timeout": 0.3}, {"max_unsent": 1024**2}, {"max_unsent_total": 1024**2}])
def test_client_that_never_reads_is_closed(start, files, bound):
    server = start(**bound, **files.of_server)
    client = TlsWire(tls_address(server), context_of(files), receive_buffer=4096)
    with client, TlsWire(tls_address(server), context_of(files)) as worker:
        worker.can_do(b"flood")
        client.submit(b"flood")
        handle = worker.grab()[0]
        for _ in range(200):
            worker.send(WORK_DATA, handle, b"x" * 65536)
        worker.echo()
        wait_until(lambda: server.connections == 1, "it is gone")
        worker.echo()


def test_peer_silent_in_the_middle_of_a_packet_is_closed(start, files):
    server = start(partial_timeout=0.3, **files.of_server)
    with TlsWire(tls_address(server), context_of(files)) as half, TlsWire(tls_address(server), context_of(files)) as whole:
        whole.echo()
        half.send_raw(packet(ECHO_REQ, b"x" * 100)[:50])
        assert half.is_closed()
        whole.echo()


@pytest.mark.parametrize("half", [b"\x17", b"\x17\x03\x03\x00", b"\x17\x03\x03\x00\x40", b"\x17\x03\x03\x00\x40half of it"])
def test_peer_silent_in_the_middle_of_a_record_is_closed(start, files, half):
    server = start(partial_timeout=0.3, **files.of_server)
    with TlsWire(tls_address(server), context_of(files)) as wire, TlsWire(tls_address(server), context_of(files)) as whole:
        wire.echo()
        whole.echo()
        os.write(wire.socket.fileno(), half)
        assert wire.is_closed()
        # One that owes nothing may be silent.
        time.sleep(0.5)
        whole.echo()


def test_records_are_followed_however_they_are_cut():
    chance = random.Random(1)
    sizes = [0, 1, 5, 300, 16401] + [chance.randrange(400) for _ in range(200)]
    stream = b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + b"x" * size for size in sizes)
    ends = set(itertools.accumulate(size + 5 for size in sizes))
    for most in (1, 2, 7, 100, 5000):
        records, at = _Records(), 0
        while at < len(stream):
            step = chance.randint(1, most)
            records.feed(stream[at : at + step])
            at = min(at + step, len(stream))
            assert records.partial == (at not in ends), (most, at)


def test_stop_ends_connections_of_every_kind(start, files):
    server = start(**files.of_server)
    silent = raw(tls_address(server))
    with TlsWire(tls_address(server), context_of(files)) as wire:
        wire.echo()
        wait_until(lambda: server.connections == 2, "both are there")
        began_at = time.monotonic()
        server.stop()
        assert time.monotonic() - began_at < 5
        assert wire.is_closed() and is_ended(silent)
    silent.close()


# -- many that are silent ------------------------------------------------------------


def test_thousand_silent_connections_stall_nobody_and_are_closed_in_time(start, files):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2500:
        pytest.skip("no more than %d descriptors are allowed" % hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    try:
        server = start(ssl_handshake_timeout=4, **files.of_server)
        threads = threading.active_count()
        silent = [raw(tls_address(server)) for _ in range(1000)]
        # Some have begun.
        for sock in silent[::10]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        times = []
        worker = Worker(tls_address(server), tls=Tls(files.path("ca.pem")))
        worker.register("reverse", reverse)
        with worker, Client(tls_address(server), tls=Tls(files.path("ca.pem"))) as client:
            assert client.run("reverse", b"abc", timeout_s=DEADLINE_S) == b"cba"
            for _ in range(200):
                began_at = time.monotonic()
                client.run("reverse", b"abc", timeout_s=DEADLINE_S)
                times.append(time.monotonic() - began_at)
            assert sorted(times)[180] < 0.5
            wait_until(lambda: server.connections == 2, "the silent ones are gone")
            assert client.run("reverse", b"abc", timeout_s=DEADLINE_S) == b"cba"
        for sock in silent:
            sock.close()
        wait_until(lambda: threading.active_count() <= threads, "their threads are gone")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_fail_leave_nothing_behind_without_a_collector(strict, files):
    """The daemon runs without one."""

    def fail(at):
        if at % 3 == 0:
            with pytest.raises((OSError, Closed)):
                with TlsWire(tls_address(strict), context_of(files, None)) as wire:
                    wire.echo()
        elif at % 3 == 1:
            with raw(tls_address(strict)) as sock:
                sock.sendall(b"no TLS")
                assert is_ended(sock)
        else:
            with TlsWire(tls_address(strict), context_of(files)) as wire:
                wire.echo()
                os.write(wire.socket.fileno(), b"\x17\x03\x03\x00\x40" + os.urandom(64))
                assert wire.is_closed()

    gc.collect()
    gc.disable()
    try:
        for at in range(9):
            fail(at)
        wait_until(lambda: not strict.connections, "all are gone")
        wait_until(lambda: not [each for each in gc.get_objects() if isinstance(each, Channel)], "no channel is left")
    finally:
        gc.enable()


# -- random cuts ---------------------------------------------------------------------


class Cutter:
    """A relay that passes bytes on in pieces of random sizes, and may cut the connection after so many bytes."""

    def __init__(self, target, rng, cut_after=None):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._target, self._rng, self._cut_after = target, rng, cut_after
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._listener.close()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self):
        near, _ = self._listener.accept()
        self._listener.close()
        far = socket.create_connection(self._target)
        passed = 0
        with near, far:
            while True:
                for sock in select.select([near, far], [], [], DEADLINE_S)[0]:
                    try:
                        data = sock.recv(self._rng.choice((1, 3, 17, 100, 5000)))
                        (far if sock is near else near).sendall(data)
                    except OSError:
                        return
                    passed += len(data)
                    if not data or (self._cut_after is not None and passed >= self._cut_after):
                        return


@pytest.mark.parametrize("round", range(4))
def test_bytes_may_come_in_any_pieces(strict, files, round):
    rng = random.Random(SEED + round)
    print("seed", SEED + round)
    worker = Worker(strict.address)
    worker.register("reverse", reverse)
    with worker, Cutter(tls_address(strict), rng) as cutter, Client(cutter.address, tls=files.tls) as client:
        for size in (0, 1, 100, 70000, 200):
            data = rng.getrandbits(8 * size or 1).to_bytes(size or 1, "big")
            assert client.run("reverse", data, timeout_s=DEADLINE_S) == data[::-1]


@pytest.mark.parametrize("round", range(15))
def test_connection_cut_anywhere_is_lost_and_nobody_else_is_hurt(strict, files, round, caplog):
    rng = random.Random(SEED + round)
    print("seed", SEED + round)
    worker = Worker(strict.address)
    worker.register("reverse", reverse)
    with worker, Cutter(tls_address(strict), rng, rng.randrange(1, 8000)) as cutter, Client(cutter.address, tls=files.tls) as client:
        with pytest.raises(JobLost):
            for _ in range(50):
                client.run("reverse", b"x" * 500, timeout_s=DEADLINE_S)
    assert_serves(strict, files)
    wait_until(lambda: not strict.connections, "all are gone")
    assert "Traceback" not in caplog.text


# -- its files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, said",
    [
        ({"ssl_certificate": "nowhere.pem"}, "the certificate .*nowhere.pem cannot be read: No such file or directory"),
        ({"ssl_certificate": "."}, "the certificate .* cannot be read: Is a directory"),
        ({"ssl_certificate": "garbage"}, "the certificate .*garbage cannot be used: there is no certificate in PEM format in it"),
        ({"ssl_certificate": "broken.pem"}, "the certificate .*broken.pem with the key .* cannot be used: "),
        ({"ssl_key": "nowhere.key"}, "the key .*nowhere.key cannot be read: No such file"),
        ({"ssl_key": "garbage"}, "the key .*garbage cannot be used: there is no key in PEM format in it"),
        ({"ssl_key": "client.key"}, "the key .*client.key does not belong to the certificate .*server.pem"),
        ({"ssl_key": "encrypted.key"}, "the key .*encrypted.key is encrypted"),
        ({"ssl_key": None}, "the key .*server.pem cannot be used: there is no key"),
        ({"ssl_ca_file": "nowhere.pem"}, "the CA file .*nowhere.pem cannot be read"),
        ({"ssl_ca_file": "server.key"}, "the CA file .*server.key cannot be used: there is no certificate"),
        ({"ssl_ca_file": "broken.pem"}, "the CA file .*broken.pem cannot be used: "),
    ],
)
def test_files_that_cannot_be_used_keep_the_server_from_starting(files, options, said):
    given = {**files.of_server, **{name: value and files.path(value) for name, value in options.items()}}
    with pytest.raises(ConfigError, match=said) as caught:
        Server(port=0, ssl_port=0, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_refused(files, tmp_path):
    key = tmp_path / "key"
    key.touch(0o000)
    with pytest.raises(ConfigError, match="Permission denied"):
        Server(port=0, ssl_port=0, ssl_certificate=files.path("server.pem"), ssl_key=str(key))


def test_key_may_be_in_the_file_of_the_certificate(start, files):
    assert_serves(start(ssl_certificate=files.path("both.pem")), files)


def test_certificates_are_read_again_and_bad_ones_are_not_taken(start, files, tmp_path, caplog):
    caplog.set_level(logging.INFO, "gearmand")
    certificate, key = str(tmp_path / "own.pem"), str(tmp_path / "own.key")
    shutil.copy(files.path("server.pem"), certificate)
    shutil.copy(files.path("server.key"), key)
    server = start(ssl_certificate=certificate, ssl_key=key)
    context = context_of(files, None)
    context.check_hostname = False

    def name():
        with TlsWire(tls_address(server), context) as wire:
            wire.echo()
            return dict(entry[0] for entry in wire.socket.getpeercert()["subject"])["commonName"]

    with TlsWire(tls_address(server), context) as old:
        assert name() == "server"
        shutil.copy(files.path("nameless.pem"), certificate)
        server.reload()
        assert "does not belong to the certificate" in caplog.text and "the certificates are what they were" in caplog.text
        assert name() == "server"
        shutil.copy(files.path("nameless.key"), key)
        server.reload()
        assert name() == "nameless"
        old.echo()


def test_reload_of_a_server_without_tls_does_nothing():
    with Server(port=0) as server:
        server.reload()


# -- the library ---------------------------------------------------------------------


def test_client_worker_and_admin_speak_tls(strict, files):
    address = "localhost:%d" % tls_address(strict)[1]
    worker = Worker(address, tls=files.tls, concurrency=2)
    worker.register("reverse", reverse)
    with worker, Client(address, tls=files.tls) as client, Admin(address, tls=files.tls) as admin:
        assert client.run("reverse", b"abc", timeout_s=DEADLINE_S) == b"cba"
        large = os.urandom(5000000)
        assert client.run("reverse", large, timeout_s=DEADLINE_S) == large[::-1]
        jobs = client.submit_many("reverse", [b"%d" % number for number in range(2000)])
        assert [job.result(DEADLINE_S) for job in jobs] == [(b"%d" % number)[::-1] for number in range(2000)]
        wait_until(lambda: admin.status() == [("reverse", 0, 0, 2)], "both of the worker's connections are there")
        assert admin.ping() < DEADLINE_S


def test_worker_sends_while_it_receives(strict, files):
    """Many threads submit on one connection, each waiting for its own job."""
    worker = Worker(tls_address(strict), tls=files.tls, concurrency=3)
    worker.register("echo", lambda job: job.workload)
    wrong = []
    with worker, Client(tls_address(strict), tls=files.tls) as client:

        def run(number):
            for at in range(40):
                data = b"%d-%d" % (number, at) * (1 + 997 * (at % 7))
                if client.run("echo", data, timeout_s=60) != data:
                    wrong.append((number, at))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    assert wrong == []


def test_context_of_ones_own_is_used_as_it_is(strict, files):
    with Admin(("localhost", tls_address(strict)[1]), tls=context_of(files)) as admin:
        assert admin.getpid() == os.getpid()


def test_environment_names_the_files(strict, files, monkeypatch):
    for name, file in (("GEARMAND_CA_CERTIFICATE", "ca.pem"), ("GEARMAN_CLIENT_PEM", "client.pem"), ("GEARMAN_CLIENT_KEY", "client.key")):
        monkeypatch.setenv(name, files.path(file))
    with Admin(tls_address(strict), tls=True) as admin:
        assert admin.getpid() == os.getpid()


def test_server_that_the_system_does_not_trust_is_refused(server, monkeypatch):
    monkeypatch.delenv("GEARMAND_CA_CERTIFICATE", raising=False)
    with pytest.raises(ServerLost, match="cannot connect: its certificate is not accepted: "):
        Admin(tls_address(server), tls=True).version()


@pytest.mark.parametrize(
    "tls, said",
    [
        (Tls("other-ca.pem"), "its certificate is not accepted: unable to get local issuer certificate"),
        (Tls("ca.pem", name="elsewhere"), "its certificate is not accepted: Hostname mismatch"),
        (Tls("ca.pem", name="localhost"), None),
        (Tls("ca.pem", name="*"), None),
        (Tls("other-ca.pem", name="*"), "unable to get local issuer certificate"),
    ],
)
def test_server_must_have_a_certificate_of_the_ca_for_the_name(server, files, tls, said):
    admin = Admin(tls_address(server), tls=tls._replace(ca_file=files.path(tls.ca_file)))
    if said is None:
        assert admin.version()
    else:
        with pytest.raises(ServerLost, match=said):
            admin.version()
    admin.close()


def test_certificate_for_no_host_is_taken_for_any_name(start, files):
    server = start(ssl_certificate=files.path("nameless.pem"), ssl_key=files.path("nameless.key"))
    with pytest.raises(ServerLost, match="IP address mismatch|127.0.0.1"):
        Admin(tls_address(server), tls=Tls(files.path("ca.pem"))).version()
    with Admin(tls_address(server), tls=Tls(files.path("ca.pem"), name="*")) as admin:
        assert admin.version()


def test_client_that_is_refused_is_told_why(strict, files):
    with pytest.raises(ServerLost, match="lost: TLS: tlsv13 alert certificate required"):
        Admin(tls_address(strict), tls=Tls(files.path("ca.pem"))).version()


def test_plain_server_is_told_from_a_tls_one(server, files):
    with pytest.raises(ServerLost, match="cannot connect: "):
        Admin(server.address, tls=files.tls).version()


def test_server_that_says_nothing_is_given_up_in_time(files):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_at = time.monotonic()
        with pytest.raises(ServerLost, match="cannot connect: the TLS handshake was not done in time"):
            Connection(parse(silent.getsockname()), 0.3, tls=tls_of(files.tls))
        assert time.monotonic() - began_at < 5


def test_worker_comes_back_after_its_server_does(start, files):
    _, port = free_address()
    first = start(ssl=True, ssl_port=None, port=port, **files.of_strict_server)
    worker = Worker(first.address, tls=files.tls)
    worker.register("reverse", reverse)
    with worker:
        for server in (first, None):
            if server is None:
                server = start(ssl=True, ssl_port=None, port=port, **files.of_strict_server)
            with Client(server.address, tls=files.tls) as client:
                assert client.run("reverse", b"abc", timeout_s=DEADLINE_S) == b"cba"
            server.stop()


def test_fork_uses_a_connection_of_its_own_and_leaves_the_parent_s_alone(strict, files):
    worker = Worker(strict.address)
    worker.register("reverse", reverse)
    with worker, Client(tls_address(strict), tls=files.tls) as client, Admin(tls_address(strict), tls=files.tls) as admin:
        assert client.run("reverse", b"one", timeout_s=DEADLINE_S) == b"eno"
        admin.version()
        child = os.fork()
        if not child:
            done = client.run("reverse", b"two", timeout_s=DEADLINE_S) == b"owt" and admin.version()
            client.close()
            admin.close()
            os._exit(0 if done else 1)
        assert os.waitpid(child, 0)[1] == 0
        connected = len(strict.broker.peers)
        assert client.run("reverse", b"three", timeout_s=DEADLINE_S) == b"eerht"
        assert admin.version()
        assert len(strict.broker.peers) <= connected


def test_worker_with_processes_speaks_tls(strict, files, tmp_path):
    (tmp_path / "work.py").write_text("def reverse(job):\n    return job.workload[::-1]\n")
    environment = {
        **os.environ, "PYTHONPATH": ROOT, "GEARMAND_CA_CERTIFICATE": files.path("ca.pem"),
        "GEARMAN_CLIENT_PEM": files.path("client.pem"), "GEARMAN_CLIENT_KEY": files.path("client.key"),
    }  # fmt: skip
    words = ["work", "--servers", "127.0.0.1:%d" % tls_address(strict)[1], "--tls", "--processes", "2"]
    process = subprocess.Popen([sys.executable, "-m", "gearmand.worker", *words], cwd=str(tmp_path), env=environment)
    try:
        wait_until(lambda: status(strict.address).get("reverse", (0, 0, 0))[2] == 2, "two workers")
        assert strict.submit("reverse", b"abc", timeout_s=DEADLINE_S) == b"cba"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "tls, said",
    [
        ("ca.pem", "tls: expected True, a Tls or an ssl.SSLContext"),
        (Tls(ca_file="/nonexistent/ca"), "the CA file /nonexistent/ca cannot be read"),
        (Tls(key="/nonexistent/key"), "no use without a certificate"),
    ],
)
@pytest.mark.parametrize("end", [Client, Worker, Admin])
def test_tls_that_cannot_be_used_is_refused_at_once(end, tls, said):
    with pytest.raises(ConfigError, match=said):
        end("127.0.0.1", tls=tls)


def test_events_before_the_end_of_the_connection_are_not_lost(files):
    """Data and close_notify come together."""
    side = ServerSide(files.path("server.pem"), files.path("server.key"), None)

    def script(end, number):
        channel = side.channel(end.socket)
        channel.handshake(DEADLINE_S)
        channel.recv(100)
        channel._session.write(b"\0RES" + packet(ECHO_RES, b"one")[4:])
        channel.close()

    with ScriptedServer(script) as server:
        connection = Connection(parse(server.address), tls=tls_of(Tls(files.path("ca.pem"))))
        connection.send(packet(ECHO_REQ, b"one"))
        assert connection.receive_some(time.monotonic() + DEADLINE_S) == [(ECHO_RES, b"one")]
        with pytest.raises(ServerLost):
            connection.receive_some(time.monotonic() + DEADLINE_S)
        connection.close()


# -- python-gearman's names ----------------------------------------------------------


def test_compat_speaks_tls_where_files_are_named(strict, files):
    host = {
        "host": "127.0.0.1", "port": tls_address(strict)[1], "keyfile": files.path("client.key"),
        "certfile": files.path("client.pem"), "ca_certs": files.path("ca.pem"),
    }  # fmt: skip

    class OneJob(compat.GearmanWorker):
        def after_job(self):
            return False

    worker = OneJob([host])
    worker.register_task("reverse", lambda worker, job: job.data[::-1])
    thread = threading.Thread(target=worker.work, args=(1,))
    thread.start()
    client = compat.GearmanClient([host])
    assert client.submit_job("reverse", "abc", poll_timeout=DEADLINE_S).result == b"cba"
    thread.join(DEADLINE_S)
    assert compat.GearmanAdminClient([host]).ping_server() < DEADLINE_S
    client.shutdown()
    with pytest.raises(compat.GearmanError, match="the same files"):
        compat.GearmanClient([host, "127.0.0.1"]).submit_job("reverse", "abc")


# -- the commands --------------------------------------------------------------------


def run(module, *words, data=b"", **more):
    environment = {**os.environ, "PYTHONPATH": ROOT, **more}
    return subprocess.run(
        [sys.executable, "-m", module, *words], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=60
    )


def options_of(files):
    return ["-S", "--ssl-ca-file", files.path("ca.pem"), "--ssl-certificate", files.path("client.pem"), "--ssl-key", files.path("client.key")]


def test_commands_speak_tls(strict, files):
    at = ["-h", "localhost:%d" % tls_address(strict)[1], *options_of(files)]
    ran = run("gearmand.gearman", *at, "-f", "f", "-b", data=b"work")
    assert (ran.returncode, ran.stderr) == (0, b"")
    ran = run("gearmand.gearadmin", *at, "--status")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"f\t1\t0\t0\n.\n", b"")
    ran = run("gearmand.gearman", *at, "-w", "-c", "1", "-f", "f")
    assert (ran.returncode, ran.stdout) == (0, b"work")
    assert run("gearmand.gearman", *at, "--ping").returncode == 0


def test_commands_take_the_files_that_the_environment_names(strict, files):
    named = {"GEARMAND_CA_CERTIFICATE": "ca.pem", "GEARMAN_CLIENT_PEM": "client.pem", "GEARMAN_CLIENT_KEY": "client.key"}
    environment = {name: files.path(file) for name, file in named.items()}
    for module, words in (("gearmand.gearman", ["-b", "-f", "f", "x"]), ("gearmand.gearadmin", ["--status"])):
        ran = run(module, "-S", "-p", str(tls_address(strict)[1]), *words, **environment)
        assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--ssl-name", "elsewhere"], "Hostname mismatch"),
        (["--ssl-ca-file", "/nonexistent/ca"], "/nonexistent/ca cannot be read"),
    ],
)
def test_commands_say_why_tls_cannot_be_spoken(server, files, words, said):
    at = ["-h", "localhost:%d" % tls_address(server)[1], "-S", "--ssl-ca-file", files.path("ca.pem"), *words]
    if "--ssl-ca-file" in words:
        del at[3:5]
    ran = run("gearmand.gearman", *at, "-f", "f", "x")
    assert (ran.returncode, ran.stdout) == (1, b"") and said in ran.stderr.decode()
    ran = run("gearmand.gearadmin", *at, "--status")
    assert (ran.returncode, ran.stdout) == (1, b"") and said in ran.stderr.decode()


def test_options_of_tls_without_ssl_are_refused():
    for module, words in (("gearmand.gearman", ["-f", "f", "x"]), ("gearmand.gearadmin", ["--status"])):
        ran = run(module, "--ssl-name", "x", *words)
        assert ran.returncode == 1 and b"--ssl-name is of no use without --ssl" in ran.stderr


def test_server_command_reads_its_certificates_again_on_hup(files, tmp_path):
    certificate = str(tmp_path / "own.pem")
    shutil.copy(files.path("both.pem"), certificate)
    environment = {**os.environ, "PYTHONPATH": ROOT, "GEARMAND_SERVER_PEM": certificate}
    environment.pop("GEARMAND_CA_CERTIFICATE", None)
    # Handlers that move say so, between the lines that are awaited here.
    command = [sys.executable, "-m", "gearmand", "-L", "127.0.0.1", "-p", "0", "--ssl", "--handler-cpu", "none"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, universal_newlines=True)
    try:
        assert "(TLS)" in process.stderr.readline()
        with open(certificate, "w") as file:
            file.write("nothing")
        process.send_signal(signal.SIGHUP)
        assert "the certificates are what they were" in process.stderr.readline()
        shutil.copy(files.path("both.pem"), certificate)
        process.send_signal(signal.SIGHUP)
        assert "the certificates have been read again" in process.stderr.readline()
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_server_command_with_files_that_cannot_be_used_says_so_in_one_line(files):
    ran = run("gearmand", "-p", "0", "--ssl", "--ssl-certificate", files.path("server.pem"), "--ssl-key", files.path("client.key"))
    assert ran.returncode == 1
    assert ran.stderr.decode().count("\n") == 1 and "does not belong" in ran.stderr.decode()


# -- other programs ------------------------------------------------------------------


def test_openssl_s_client_asks_and_changes_keys(strict, files):
    command = ["openssl", "s_client", "-connect", "127.0.0.1:%d" % tls_address(strict)[1], "-CAfile", files.path("ca.pem")]
    command += ["-cert", files.path("client.pem"), "-key", files.path("client.key"), "-verify_return_error", "-tls1_3"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def until(what):
        seen = b""
        while what not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line

    try:
        for line, answer in ((b"version\n", b"OK "), (b"K\n", b"KEYUPDATE"), (b"version\n", b"OK "), (b"k\n", b"KEYUPDATE"), (b"status\n", b".\n")):
            process.stdin.write(line)
            process.stdin.flush()
            until(answer)
        process.stdin.write(b"Q\n")
        process.stdin.flush()
        process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.communicate()


GEAR = os.environ.get("GEARMAND_TEST_GEAR_PYTHON", os.path.join(ROOT, ".venv-peer-gear", "bin", "python"))

GEAR_SCRIPT = """
import sys, threading
import gear
port, key, certificate, ca = sys.argv[1:]
worker, client = gear.Worker("w"), gear.Client("c")
for each in (worker, client):
    each.addServer("127.0.0.1", int(port), key, certificate, ca)
    each.waitForServer(timeout=20)
worker.registerFunction("reverse")
def work():
    for _ in range(3):
        job = worker.getJob()
        job.sendWorkComplete(job.arguments[::-1])
thread = threading.Thread(target=work)
thread.start()
ended = threading.Event()
client.handleWorkComplete = lambda packet, handle=client.handleWorkComplete: (handle(packet), ended.set())
for data in (b"abc", b"x" * 300000, b"last"):
    job = gear.Job(b"reverse", data)
    ended.clear()
    client.submitJob(job)
    assert ended.wait(20)
    assert b"".join(job.data) == data[::-1], len(b"".join(job.data))
thread.join(20)
print("done")
worker.shutdown(); client.shutdown()
"""


def test_gear_works_and_submits(strict, files):
    python = foreign(GEAR)
    if not os.path.exists(python):
        pytest.skip("there is no Python with gear: GEARMAND_TEST_GEAR_PYTHON names one")
    words = [str(tls_address(strict)[1]), files.path("client.key"), files.path("client.pem"), files.path("ca.pem")]
    ran = subprocess.run([python, "-c", GEAR_SCRIPT, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90)
    assert ran.stdout.decode().splitlines()[-1:] == ["done"], ran.stdout.decode()


PERL_SCRIPT = """
use strict; use Gearman::Client; use Gearman::Worker;
alarm 60;
my ($port, $ca, $certificate, $key) = @ARGV;
my $server = {host => "127.0.0.1", port => $port, use_ssl => 1, ca_file => $ca, cert_file => $certificate, key_file => $key};
my $pid = fork;
if (!$pid) {
    alarm 60;
    my $worker = Gearman::Worker->new(job_servers => [$server]);
    $worker->register_function(reverse => sub { scalar reverse $_[0]->arg });
    $worker->work;
}
my $client = Gearman::Client->new(job_servers => [$server]);
my @found;
for my $data ("abc", "x" x 300000) { my $result = $client->do_task("reverse", \\$data, {timeout => 30}); push @found, $$result }
kill 9, $pid;
waitpid $pid, 0;
print $found[0], " ", length $found[1];
"""


def test_perl_library_works_and_submits(strict, files):
    perl = foreign("/usr/bin/perl")
    if not os.path.exists(perl) or subprocess.run([perl, "-MGearman::Client", "-MIO::Socket::SSL", "-e1"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("there is no Perl with Gearman::Client and IO::Socket::SSL (Debian: libgearman-client-perl libio-socket-ssl-perl)")
    words = [str(tls_address(strict)[1]), files.path("ca.pem"), files.path("client.pem"), files.path("client.key")]
    ran = subprocess.run([perl, "-e", PERL_SCRIPT, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90)
    assert ran.stdout == b"cba 300000"


def test_c_tools_work_and_submit(strict, files):
    tool, libraries = foreign("/usr/bin/gearman"), ""
    if os.path.exists(tool):
        libraries = subprocess.run(["ldd", tool], stdout=subprocess.PIPE, universal_newlines=True).stdout
        library = [line.split()[2] for line in libraries.splitlines() if "libgearman" in line]
        libraries += subprocess.run(["ldd", *library], stdout=subprocess.PIPE, universal_newlines=True).stdout
    if "libssl" not in libraries and "wolfssl" not in libraries:
        pytest.skip("there is no C tool that was built with TLS")
    named = {"GEARMAND_CA_CERTIFICATE": "ca.pem", "GEARMAN_CLIENT_PEM": "client.pem", "GEARMAN_CLIENT_KEY": "client.key"}
    environment = {**os.environ, **{name: files.path(file) for name, file in named.items()}}
    at = ["-S", "-h", "127.0.0.1", "-p", str(tls_address(strict)[1])]
    worker = subprocess.Popen([tool, *at, "-w", "-c", "1", "-f", "upper", "--", "tr", "a-z", "A-Z"], env=environment)
    try:
        ran = subprocess.run([tool, *at, "-f", "upper", "abc"], env=environment, stdout=subprocess.PIPE, timeout=30)
        assert (ran.returncode, ran.stdout) == (0, b"ABC")
    finally:
        worker.kill()
        worker.wait()
