"""One connection to a job server, whose end the test plays."""

import threading
import time

import pytest

import peers
import wire
from gearmand.addresses import Address
from gearmand.connection import Connection
from gearmand.errors import ServerLost
from gearmand.protocol import TEXT_LINE, PacketType, pack
from peers import ScriptedServer, response
from wire import wait_until


def connect(server, **options):
    return Connection(Address(*server.address), **options)


def listen(connection, number):
    """A server that takes everything and says nothing."""
    connection.is_closed()


def test_packets_and_lines_are_received():
    def script(connection, number):
        connection.send_raw(response(wire.ECHO_RES, b"a\0b") + b"OK 1\r\n" + response(wire.NOOP))
        connection.is_closed()

    with ScriptedServer(script) as server:
        connection = connect(server)
        events = []
        while len(events) < 3:
            events += connection.receive_some(time.monotonic() + 20)
        connection.close()
    assert events == [(PacketType.ECHO_RES, b"a\0b"), (TEXT_LINE, b"OK 1\r"), (PacketType.NOOP, b"")]


def test_large_packet_is_received_as_bytes():
    data = bytes(range(256)) * 40_000

    def script(connection, number):
        connection.send(wire.ECHO_RES, data)
        connection.is_closed()

    with ScriptedServer(script) as server:
        connection = connect(server)
        ((kind, body),) = connection.receive_some(time.monotonic() + 20)
        connection.close()
    assert kind == PacketType.ECHO_RES and type(body) is bytes and body == data


def test_large_packet_is_sent_to_a_server_that_reads_slowly():
    data = bytes(20_000_000)
    got = []

    def script(connection, number):
        time.sleep(0.05)
        got.append(connection.receive()[1])

    with ScriptedServer(script) as server:
        connection = connect(server)
        connection.send(pack(PacketType.ECHO_REQ, data))
        wait_until(lambda: got, "it has arrived")
        connection.close()
    assert got == [data]


def test_server_that_takes_nothing_is_lost_after_a_while():
    release = threading.Event()
    with ScriptedServer(lambda connection, number: release.wait(20)) as server:
        connection = connect(server, io_timeout_s=0.1)
        with pytest.raises(ServerLost, match="took no byte for 0.1 s"):
            connection.send(bytes(50_000_000))
        release.set()
        connection.close()


def test_receive_returns_nothing_after_its_timeout():
    with ScriptedServer(listen) as server:
        connection = connect(server)
        assert connection.receive(0.01) == connection.receive(0) == []
        with pytest.raises(TimeoutError, match="no answer in time"):
            connection.receive_some(time.monotonic() + 0.01)
        connection.close()


@pytest.mark.parametrize("size", [0, 5, 12 + 3, 12 + 200_000])
def test_end_of_the_connection_is_server_lost_wherever_it_comes(size):
    packet = response(wire.ECHO_RES, bytes(300_000))

    def script(connection, number):
        connection.send_raw(packet[:size])

    with ScriptedServer(script) as server:
        connection = connect(server)
        with pytest.raises(ServerLost, match="closed the connection") as caught:
            connection.receive_some(time.monotonic() + 20)
        connection.close()
    assert caught.value.server == "127.0.0.1:%d" % server.address[1]


def test_garbage_is_server_lost_after_what_came_before_it():
    def script(connection, number):
        connection.send_raw(response(wire.NOOP) + b"\0REQ" + bytes(8))
        connection.is_closed()

    with ScriptedServer(script) as server:
        connection = connect(server)
        assert connection.receive_some(time.monotonic() + 20) == [(PacketType.NOOP, b"")]
        with pytest.raises(ServerLost, match="does not speak Gearman"):
            connection.receive_some(time.monotonic() + 20)
        connection.close()


def test_connection_that_is_refused_tells_the_address():
    host, port = peers.free_address()
    with pytest.raises(ServerLost, match="%s:%d: cannot connect: Connection refused" % (host, port)):
        Connection(Address(host, port))


def test_host_that_does_not_exist_is_told():
    with pytest.raises(ServerLost, match="no.such.host.invalid:4730: cannot connect"):
        Connection(Address("no.such.host.invalid", 4730))


def test_shut_down_ends_a_receive_in_another_thread():
    with ScriptedServer(listen) as server:
        connection = connect(server)
        threading.Timer(0.05, connection.shut_down).start()
        with pytest.raises(ServerLost):
            connection.receive(20)
        connection.shut_down()
        connection.close()
        assert connection.fileno() == -1


def test_silent_and_open():
    def script(connection, number):
        connection.receive()

    with ScriptedServer(script) as server:
        connection = connect(server)
        assert connection.silent_and_open
        connection.send(pack(PacketType.ECHO_REQ, b""))
        wait_until(lambda: not connection.silent_and_open, "the end has come")
        connection.close()
