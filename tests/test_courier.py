"""What is sent to peers that wait for many jobs, and by whom."""

from __future__ import annotations

import contextlib
import threading
import types

import pytest

from gearmand import Server, broker, courier as module
from gearmand.broker import MANY_JOBS
from gearmand.courier import Courier
from gearmand.peer import Peer
from wire import DEADLINE_S, ECHO_REQ, ECHO_RES, JOB_CREATED, PRE_SLEEP, SUBMIT_JOB, WORK_COMPLETE, Wire, packet, wait_until


class Fake:
    def __init__(self, sent_to=None):
        self.flushes = []
        self.sent_to = [] if sent_to is None else sent_to

    def flush(self):
        self.flushes.append(threading.current_thread().name)
        self.sent_to.append(self)


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


@pytest.fixture
def given(server, monkeypatch):
    """Every peer that the courier was given."""
    given = []
    give = server.broker.courier.give

    def noting(peer, patience_s=0.0):
        given.append((peer, patience_s))
        give(peer, patience_s)

    monkeypatch.setattr(server.broker.courier, "give", noting)
    return given


def complete(worker, count):
    for _ in range(count):
        handle, _, workload = worker.grab()
        worker.send(WORK_COMPLETE, handle, workload)
    worker.echo()


def peer_of(server, wire):
    (peer,) = [peer for peer in server.broker.peers if peer.address.endswith(":%d" % wire.socket.getsockname()[1])]
    return peer


def results(client, count):
    found = {}
    while len(found) < count:
        kind, body = client.receive()
        if kind == WORK_COMPLETE:
            handle, _, data = body.partition(b"\0")
            found[handle] = data
        else:
            assert kind == JOB_CREATED
    return found


def test_courier_is_placed_first_and_sends_what_it_was_given_before_it_ends():
    placed = []
    courier = Courier(lambda: placed.append(threading.current_thread().name))
    peer = Fake()
    courier.give(peer)
    assert peer.flushes == []
    courier.start()
    courier.give(peer)
    courier.stop()
    assert placed == ["gearmand-courier"] and peer.flushes == ["gearmand-courier"] * 2


def test_who_can_wait_is_sent_to_once_nobody_can_run_any_more(monkeypatch):
    sent_to = []
    courier = Courier(lambda: None)
    many, other, few = Fake(sent_to), Fake(sent_to), Fake(sent_to)
    rounds = [(few, many), (other, few, many), ()]
    monkeypatch.setattr(module, "let_others_run", lambda: [courier.give(peer, 0.0 if peer is few else DEADLINE_S) for peer in (rounds.pop(0) if rounds else ())])
    courier.give(many, DEADLINE_S)
    courier.start()
    wait_until(lambda: len(sent_to) == 4, "all have been sent to")
    assert sent_to == [few, few, many, other]
    # And the next time it is as ever.
    courier.give(other, DEADLINE_S)
    wait_until(lambda: len(sent_to) == 5, "it is sent to")
    courier.stop()


@pytest.mark.parametrize("patience_s", [(0.002, 2 * DEADLINE_S), (2 * DEADLINE_S, 0.002)])
def test_who_can_wait_is_sent_to_in_time_though_others_go_on(monkeypatch, patience_s):
    courier = Courier(lambda: None)
    first, second, few = Fake(), Fake(), Fake()
    # Of its own, which stands still while the courier does not run.
    clock = [100.0]

    def go_on():
        clock[0] += 0.001
        if not second.flushes and clock[0] < 101:
            courier.give(few)

    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(module, "let_others_run", go_on)
    courier.give(first, patience_s[0])
    courier.give(second, patience_s[1])
    courier.start()
    wait_until(lambda: first.flushes and second.flushes, "they are sent to")
    courier.stop()
    assert clock[0] < 100.01 and few.flushes


def test_who_can_wait_is_sent_to_before_the_courier_ends(monkeypatch):
    courier = Courier(lambda: None)
    many = Fake()
    courier.give(many, 0.002)
    courier._peers.put(None)
    courier._run()
    assert many.flushes


def test_courier_that_was_never_started_stops():
    Courier(lambda: None).stop()


def test_courier_goes_on_after_an_error_of_ours_and_gives_that_peer_up(server, monkeypatch):
    failed = []
    server.broker.courier.on_error = failed.append
    with Wire(server.address) as client, Wire(server.address) as other:
        client.echo()
        other.echo()
        peer = peer_of(server, client)

        def fail(peer):
            raise ValueError("ours")

        with monkeypatch.context() as patch:
            patch.setattr(Peer, "flush", fail)
            server.broker.courier.give(peer)
            assert client.is_closed()
        assert failed == [peer]
        wait_until(lambda: len(server.broker.peers) == 1, "the peer has gone")
        (peer,) = server.broker.peers
        server.broker.courier.give(peer)
        other.echo()


def test_what_a_turn_has_for_several_of_many_peers_leaves_by_the_courier(server, given):
    with contextlib.ExitStack() as stack:
        client, worker, *others = [stack.enter_context(Wire(server.address)) for _ in range(5)]
        for wire in (client, worker, *others):
            wire.echo()
        assert given == []
        worker.can_do(b"f")
        worker.send(PRE_SLEEP)
        worker.echo()
        handle = client.submit(b"f", b"work")
        # JOB_CREATED for the one, which can wait for its result, and NOOP for the other.
        assert sorted(patience_s for _, patience_s in given) == [0.0, broker._CREATED_PATIENCE_S]
        complete(worker, 1)
        assert results(client, 1) == {handle: b"work"}


@pytest.mark.parametrize("peers, expected", [(4, []), (5, [broker._CREATED_PATIENCE_S])])
def test_what_is_for_one_who_waits_for_a_job_can_wait_among_many_peers(server, given, peers, expected):
    with contextlib.ExitStack() as stack:
        client, *others = [stack.enter_context(Wire(server.address)) for _ in range(peers)]
        for wire in (client, *others):
            wire.echo()
        # For the client alone: no worker is there.
        client.submit(b"f", b"work")
        assert [patience_s for _, patience_s in given] == expected


def test_first_that_sends_in_a_crowd_sends_for_those_who_come_meanwhile(monkeypatch):
    courier = Courier(lambda: None)
    first, late = Fake(), Fake()

    def let_others_run():
        thread = threading.Thread(target=courier.send_with_others, args=(late,))
        thread.start()
        thread.join()
        assert first.flushes == late.flushes == []

    monkeypatch.setattr(module, "let_others_run", let_others_run)
    courier.send_with_others(first)
    assert first.flushes == late.flushes == [threading.current_thread().name]


def test_who_sends_for_all_and_does_not_run_is_not_waited_for_by_many():
    courier = Courier(lambda: None)
    peers = [Fake() for _ in range(module._MOST_WAITING)]
    with courier._sends:
        for peer in peers:
            assert not any(each.flushes for each in peers)
            courier.send_with_others(peer)
        assert all(len(peer.flushes) == 1 for peer in peers)


def test_what_comes_between_the_last_send_and_giving_the_turn_back_is_sent(monkeypatch):
    courier = Courier(lambda: None)
    first, late = Fake(), Fake()
    send_all = courier._send_all

    def send_all_and_get_one_more():
        send_all()
        if not late.flushes:
            courier.send_with_others(late)

    monkeypatch.setattr(courier, "_send_all", send_all_and_get_one_more)
    courier.send_with_others(first)
    assert len(first.flushes) == len(late.flushes) == 1


def test_error_of_ours_ends_the_peer_that_it_is_about_and_not_who_sends_for_it():
    class Broken(Fake):
        def flush(self):
            raise ValueError("ours")

        def abort(self, why):
            self.why = why

    courier = Courier(lambda: None)
    failed = []
    courier.on_error = failed.append
    broken, other = Broken(), Fake()
    courier._waiting.append(broken)
    courier.send_with_others(other)
    assert failed == [broken] and broken.why == "an error of this server" and len(other.flushes) == 1


@pytest.mark.parametrize("few, crowd, packets, expected", [(99, 1, 1, True), (99, 99, 1, False), (1, 99, 8, True), (1, 99, 7, False)])
def test_what_a_turn_has_for_one_peer_leaves_with_others_in_a_crowd_or_where_many_things_are_asked_for(
    server, monkeypatch, few, crowd, packets, expected
):
    sent = []
    send = server.broker.courier.send_with_others
    with Wire(server.address) as client, Wire(server.address) as other:
        client.echo()
        other.echo()
        monkeypatch.setattr(broker, "_FEW_PEERS", few)
        monkeypatch.setattr(broker, "_CROWD", crowd)
        monkeypatch.setattr(server.broker.courier, "send_with_others", lambda peer: sent.append(peer) or send(peer))
        client.send_raw(b"".join(packet(ECHO_REQ, b"x") for _ in range(packets)))
        for _ in range(packets):
            assert client.receive() == (ECHO_RES, b"x")
    assert bool(sent) == expected


def test_client_that_waits_for_few_jobs_is_sent_each_result_by_who_posts_it(server, given):
    with Wire(server.address) as client, Wire(server.address) as worker:
        worker.can_do(b"f")
        for number in range(20):
            handle = client.submit(b"f", b"%d" % number)
            complete(worker, 1)
            assert results(client, 1) == {handle: b"%d" % number}
    assert given == []


@pytest.mark.parametrize("others", [2, 3])
def test_client_that_waits_for_many_jobs_gets_every_result_by_the_courier_and_can_wait_among_many_peers(server, given, others):
    with contextlib.ExitStack() as stack:
        client, worker, *more = [stack.enter_context(Wire(server.address)) for _ in range(2 + others)]
        for wire in (client, *more):
            wire.echo()
        worker.can_do(b"f")
        handles = [client.submit(b"f", b"%d" % number) for number in range(50)]
        complete(worker, 50)
        assert results(client, 50) == {handle: b"%d" % number for number, handle in enumerate(handles)}
        peer = peer_of(server, client)
    waits = [patience_s for each, patience_s in given if each is peer]
    assert len(waits) >= 50 - MANY_JOBS
    # While it has few, and then many; the last one is no longer waited for.
    assert set(waits) - {0.0} == (set() if others == 2 else {broker._CREATED_PATIENCE_S, broker._RESULT_PATIENCE_S})


def test_what_comes_for_one_client_meanwhile_leaves_together(server):
    courier = server.broker.courier
    courier.stop()
    with Wire(server.address) as client, Wire(server.address) as worker:
        worker.can_do(b"f")
        for number in range(2 * MANY_JOBS):
            client.send(SUBMIT_JOB, b"f", b"", b"%d" % number)
        wait_until(lambda: server.broker.registry.functions[b"f"].jobs == 2 * MANY_JOBS, "they are submitted")
        complete(worker, MANY_JOBS)
        (peer,) = [peer for peer in server.broker.peers if peer.listening]
        assert len(peer.outbox) > MANY_JOBS
        peer.flush()
        assert peer.outbox == []
        assert len(results(client, MANY_JOBS)) == MANY_JOBS
        courier.start()


def test_graceful_stop_delivers_results_that_the_courier_has(server, given):
    with Wire(server.address) as client, Wire(server.address) as worker:
        worker.can_do(b"f")
        for number in range(20):
            client.send(SUBMIT_JOB, b"f", b"", b"%d" % number)
        wait_until(lambda: server.broker.registry.functions[b"f"].jobs == 20, "they are submitted")
        stopping = threading.Thread(target=server.stop, args=(True,))
        stopping.start()
        for _ in range(20):
            # No more than that: after the last one it ends.
            handle, _, workload = worker.grab()
            worker.send(WORK_COMPLETE, handle, workload)
        assert len(results(client, 20)) == 20
        stopping.join(DEADLINE_S)
        assert not stopping.is_alive() and given
