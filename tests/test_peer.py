"""A peer's outbox: what is posted leaves whole and in order, and no more than may wait for one that does not read."""

from __future__ import annotations

import socket

import pytest

from gearmand.peer import _SEND_PIECES, Peer
from gearmand.protocol import JOIN_BYTES, PacketType, pack

T = PacketType
LIMIT = 50_000


class World:
    """A peer, the other end of its connection, and what it has told others."""

    def __init__(self, limit_bytes=LIMIT):
        ours, self.other = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024)
        self.touched, self.backed_up = {}, []
        self.peer = Peer(ours, "127.0.0.1:1", self.touched, self.backed_up.append, limit_bytes, True)

    def read(self):
        """All that comes until nothing waits."""
        got = b""
        while True:
            try:
                got += self.other.recv(1024**2, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self.peer.backed_up:
                    return got
                self.peer.resume()


@pytest.fixture
def world():
    world = World()
    yield world
    world.other.close()
    world.peer.close()


def packet(kind, body):
    return pack(kind, body, magic=b"\0RES")


@pytest.mark.parametrize(
    "sizes", [[0], [10], [JOIN_BYTES], [JOIN_BYTES - 1], [3, 4, 5], [3, JOIN_BYTES, 5, 0], [1] * (2 * _SEND_PIECES + 3), [200_000, 7, 300_000]]
)
def test_what_is_posted_leaves_whole_and_in_order(sizes):
    world = World(limit_bytes=0)
    bodies = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    for body in bodies:
        world.peer.post(T.WORK_DATA, body)
    assert list(world.touched) == [world.peer] and world.peer.waiting_bytes == sum(12 + size for size in sizes)
    world.peer.flush()
    assert world.read() == b"".join(packet(T.WORK_DATA, body) for body in bodies)
    assert not world.peer.waiting_bytes and not world.peer.outbox
    world.other.close()
    world.peer.close()


@pytest.mark.parametrize("size", [5, JOIN_BYTES])
def test_tail_of_a_packet_follows_its_body(world, size):
    world.peer.post(T.JOB_ASSIGN, b"H:1\0f\0", b"w" * size)
    world.peer.flush()
    assert world.read() == packet(T.JOB_ASSIGN, b"H:1\0f\0" + b"w" * size)


def test_peer_that_does_not_read_is_backed_up_once(world):
    world.peer.post(T.WORK_DATA, b"x" * 40_000)
    world.peer.flush()
    world.peer.flush()
    assert world.backed_up == [world.peer] and world.peer.backed_up and world.peer.waiting_bytes
    assert world.read() == packet(T.WORK_DATA, b"x" * 40_000) and not world.peer.backed_up


@pytest.mark.parametrize("post", [lambda peer: peer.post(T.WORK_DATA, b"x" * 988), lambda peer: peer.post_text(b"x" * 1000)], ids=["packets", "text"])
def test_peer_with_more_waiting_than_may_is_given_up(world, post):
    # The packet at the head of the outbox does not count, which is what the socket has taken a part of.
    world.peer.post(T.WORK_DATA, b"x" * 20_000)
    world.peer.flush()
    assert world.peer.backed_up
    while world.peer.why_aborted is None:
        before = world.peer.waiting_bytes
        post(world.peer)
    head_bytes = len(world.peer.outbox[0])
    assert before <= LIMIT + head_bytes < world.peer.waiting_bytes
    assert world.peer.why_aborted == "%d bytes wait for it" % world.peer.waiting_bytes
    post(world.peer)
    assert world.peer.waiting_bytes == before + 1000, "it takes nothing more"
    world.peer.flush()
    assert not world.peer.outbox
    # What has been sent already is there, then the end.
    assert len(world.other.recv(1024**2)) < 20_012
    assert world.other.recv(1) == b""


def test_peer_that_has_gone_is_given_up_with_the_reason(world):
    world.other.close()
    world.peer.post(T.NOOP, b"")
    world.peer.flush()
    assert world.peer.why_aborted == "sending to it failed: Broken pipe" and not world.peer.outbox
