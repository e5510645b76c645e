"""Turns of many at once."""

from __future__ import annotations

import threading
import time

import pytest

from gearmand import broker as module
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


def leave_all(broker, peers):
    threads = [threading.Thread(target=broker.leave, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    return threads


class Watched:
    """A lock that tells who waits for it."""

    def __init__(self):
        self.waiting = set()
        self._lock = threading.Lock()

    def __enter__(self):
        me = threading.get_ident()
        self.waiting.add(me)
        self._lock.acquire()
        self.waiting.discard(me)

    def __exit__(self, *raised):
        self._lock.release()


def test_peers_that_go_at_once_leave_one_after_the_other(broker, monkeypatch):
    peers = [entered(broker) for _ in range(5)]
    broker.lock = Watched()
    waiting = []

    def leave(registry, peer, most):
        time.sleep(0.15)
        waiting.append(len(broker.lock.waiting))
        return True

    monkeypatch.setattr(Registry, "leave", leave)
    for thread in leave_all(broker, peers):
        thread.join(DEADLINE_S)
    # The others wait for their turn to leave, not for the lock that everybody needs.
    assert waiting == [0, 0, 0, 0, 0]


def test_peer_that_leaves_is_not_kept_by_one_that_takes_many_turns_to(broker, monkeypatch):
    busy, free = entered(broker), entered(broker)
    all_gone = threading.Event()
    left = []

    def leave(registry, peer, most):
        if peer is busy and not all_gone.is_set():
            return False
        left.append(peer)
        return True

    monkeypatch.setattr(Registry, "leave", leave)
    (first,) = leave_all(broker, [busy])
    (second,) = leave_all(broker, [free])
    second.join(DEADLINE_S)
    assert left == [free]
    all_gone.set()
    first.join(DEADLINE_S)
    assert left == [free, busy]


def test_table_of_jobs_comes_in_pieces_between_which_others_have_their_turns(broker, monkeypatch):
    happened = []
    monkeypatch.setattr(module, "let_others_run", lambda: happened.append("others"))
    for number in range(2 * module._ROWS_A_PIECE + 1):
        broker.turn(Registry.submit_plain, b"f", b"%d" % number)
    for rows in broker.rows_of_plain(lambda job: job.workload):
        happened.append(len(rows))
    assert happened == ["others", module._ROWS_A_PIECE, "others", module._ROWS_A_PIECE, "others", 1]


def test_brief_turn_sends_what_was_posted_and_wakes_the_clock_only_where_it_has_to(broker):
    sent, notified = [], []
    peers = [entered(broker) for _ in range(2)]
    for peer in peers:
        peer.socket = type("Sent", (), {"send": lambda self, data, flags, peer=peer: sent.append((peer, data)) or len(data)})()
    broker.due.notify = lambda: notified.append(True)

    def post(registry, peer, data):
        registry.sooner = data == b"sooner"
        peers[1].post_text(data)
        return data + b" too"

    assert broker.brief_turn(post, peers[0], b"later")
    # Others are answered first.
    assert sent == [(peers[1], b"later"), (peers[0], b"later too")] and not notified
    assert broker.brief_turn(post, peers[0], b"sooner") and notified == [True]
    assert not broker.touched and all(peer.posted_bytes == peer.sent_bytes for peer in peers)


def test_brief_turn_sends_what_was_posted_to_the_peer_instead_of_an_answer(broker):
    peer = entered(broker)
    sent = []
    peer.socket = type("Sent", (), {"send": lambda self, data, flags: sent.append(data) or len(data)})()
    assert broker.brief_turn(lambda registry, peer, data: peer.post_text(data) or b"", peer, b"x")
    assert broker.brief_turn(lambda registry, peer, data: b"", peer, b"y")
    assert sent == [b"x"]


def test_brief_turn_that_fails_leaves_the_peer_to_be_sent_to_by_the_next(broker):
    peer = entered(broker)

    def fail(registry, peer, data):
        raise MemoryError

    with pytest.raises(MemoryError):
        broker.brief_turn(fail, peer, b"")
    assert not broker.brief_turn(lambda registry, peer, data: None, peer, b"")
    assert not broker.touched and not broker.lock.locked()
    sent = []
    peer.socket = type("Sent", (), {"send": lambda self, data, flags: sent.append(data) or len(data)})()
    broker.turn(lambda registry: peer.post_text(b"x"))
    assert sent == [b"x"]


def test_brief_turn_sends_nothing_to_a_peer_that_nothing_was_posted_to(broker):
    peer, *others = [entered(broker) for _ in range(module._FEW_PEERS + 2)]
    given = []
    broker.courier.give = lambda peer, patience_s=0.0: given.append(peer)
    others[0].listening[object()] = None
    assert broker.brief_turn(lambda registry, peer, data: others[0].post_text(b"x") or b"", peer, b"")
    assert given == [others[0]]
    assert broker.brief_turn(lambda registry, peer, data: others[0].post_text(b"x") or b"y", peer, b"")
    assert given == [others[0], others[0], peer]
    # One that waits for its own job's result.
    assert broker.brief_turn(lambda registry, peer, data: [each.post_text(b"x") for each in (others[0], peer)] and b"y", peer, b"")
    assert given[3:] == [others[0], peer]
    # And one that will hear of others' results soon.
    peer.listening[object()] = None
    assert broker.brief_turn(lambda registry, peer, data: b"y", peer, b"") and given[5:] == [peer]


def test_brief_turn_tells_the_keeper_of_now_before_it_answers(broker):
    class Keeper:
        closed = False

        def note(self, notes):
            happened.append((self, notes.removed))
            return not self.closed

    happened = []
    peer = entered(broker)
    peer.socket = type("Sent", (), {"send": lambda self, data, flags: happened.append(data) or len(data)})()
    old = broker.keeper = Keeper()
    new = Keeper()
    assert broker.brief_turn(lambda registry, peer, data: b"x", peer, b"") and happened == [b"x"]
    assert broker.brief_turn(lambda registry, peer, data: registry.notes.removed.append(7) or b"y", peer, b"")
    assert happened[1:] == [(old, [7]), b"y"] and not broker.registry.notes

    def closing(registry, peer, data):
        registry.notes.removed.append(8)
        broker.keeper, old.closed = new, True
        return b"z"

    assert broker.brief_turn(closing, peer, b"")
    assert happened[3:] == [(old, [8]), (new, [8]), b"z"]
