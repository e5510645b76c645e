"""Turns of many at once."""

from __future__ import annotations

import threading
import time

import pytest

from gearmand.broker import Broker
from gearmand.peer import Peer
from gearmand.registry import Registry
from wire import DEADLINE_S


class Socket:
    def fileno(self):
        return -1


@pytest.fixture
def broker():
    return Broker(Registry(b"H:test", 1), time.monotonic, time.time)


def entered(broker):
    peer = Peer(Socket(), "127.0.0.1:1", broker.touched, lambda peer: None, 0, True)
    broker.enter(peer)
    return peer


def test_peers_that_go_at_once_leave_one_after_the_other_however_long_one_takes(broker, monkeypatch):
    peers = [entered(broker) for _ in range(5)]
    left = []

    def leave(registry, peer, most):
        left.append(peer)
        time.sleep(0.02)
        return left.count(peer) == 10

    monkeypatch.setattr(Registry, "leave", leave)
    threads = [threading.Thread(target=broker.leave, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(left) == 50
    assert all(len(set(left[at : at + 10])) == 1 for at in range(0, 50, 10))
    assert not broker.peers
