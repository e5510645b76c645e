"""What one address, one peer and all together may take; and that what is over it leaves the others alone."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time

import pytest

from gearmand import Client, JobRefused
from gearmand.config import Config
from gearmand.halves import Halves
from gearmand.limits import BURST_S, IDLE_ACCOUNTS, Account, Accounts, Bounds, Bucket, Load, account_name
from gearmand.server import _bounds
from wire import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GRAB_JOB,
    JOB_CREATED,
    RESET_ABILITIES,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    Closed,
    Wire,
    packet,
    status,
    wait_until,
)

MEGA = 1024**2


def gone(server, connections=0):
    wait_until(lambda: server.connections == connections, "%d handlers" % connections)


def refused(wire, code=b"QUEUE_ERROR"):
    kind, body = wire.receive()
    assert kind == ERROR, (kind, body)
    assert body.split(b"\0")[0] == code
    return body.split(b"\0")[1]


# -- a number a second ---------------------------------------------------------------


def test_bucket_takes_ten_seconds_worth_at_once_and_then_the_rate():
    bucket = Bucket()
    now = 1000.0
    assert sum(bucket.take(now, 5) for _ in range(1000)) == 5 * BURST_S
    for _ in range(20):
        now += 1
        assert sum(bucket.take(now, 5) for _ in range(100)) == 5


def test_bucket_that_is_left_alone_has_all_its_room_again():
    bucket = Bucket()
    while bucket.take(0.0, 3):
        pass
    assert sum(bucket.take(BURST_S, 3) for _ in range(100)) == 3 * BURST_S
    assert sum(bucket.take(1e9, 3) for _ in range(100)) == 3 * BURST_S


# -- addresses ---------------------------------------------------------------------


@pytest.mark.parametrize("host, name", [
    ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
    ("fe80::1%eth0", "fe80::/64"),
    ("::1", "::/64"),
    ("", ""),
    ("/run/gearmand.sock", ""),
])  # fmt: skip
def test_account_is_of_an_address_a_network_of_64_bits_or_unix_sockets(host, name):
    assert account_name(host) == name


def test_account_bounds_connections_and_leaving_makes_room():
    accounts = Accounts(Bounds(connections=2))
    assert [accounts.enter("192.0.2.1", 0.0) is None for _ in range(3)] == [True, True, False]
    assert accounts.enter("192.0.2.2", 0.0) is None
    accounts.leave("192.0.2.1")
    assert accounts.enter("192.0.2.1", 0.0) is None
    assert accounts.enter("192.0.2.1", 0.0) == "it has 2 connections already (--max-connections-per-address)"


def test_account_bounds_new_connections_a_second():
    accounts = Accounts(Bounds(connection_rate=2))
    taken = [accounts.enter("192.0.2.1", 0.0) for _ in range(21)]
    assert taken[:20] == [None] * 20 and taken[20] == "it connects more than 2 times a second (--max-connection-rate)"
    assert accounts.enter("192.0.2.2", 0.0) is None
    assert accounts.enter("192.0.2.1", 0.5) is None and accounts.enter("192.0.2.1", 0.5) is not None


def come_and_go(accounts, network, number):
    host = "%d.%d.%d.%d" % (network, number >> 16, number >> 8 & 255, number & 255)
    assert accounts.enter(host, 0.0) is None
    accounts.leave(host)


def test_accounts_of_addresses_that_have_gone_are_forgotten():
    accounts = Accounts(Bounds(connection_rate=100))
    accounts.enter("192.0.2.1", 0.0)
    for number in range(3 * IDLE_ACCOUNTS):
        come_and_go(accounts, 10, number)
    assert len(accounts) <= IDLE_ACCOUNTS + 1
    assert accounts.of("192.0.2.1").connections == 1


def test_accounts_that_have_jobs_are_kept_until_these_have_ended():
    accounts = Accounts(Bounds(jobs=5))
    load = Load(1, 1)
    for number in range(10):
        accounts.enter("192.0.2.%d" % number, 0.0)
        load.own(accounts.of("192.0.2.%d" % number), b"H:%d" % number)
        accounts.leave("192.0.2.%d" % number)
    for number in range(2 * IDLE_ACCOUNTS):
        come_and_go(accounts, 10, number)
    assert all(accounts.of("192.0.2.%d" % number).jobs == 1 for number in range(10))
    for number in range(10):
        load.disown(b"H:%d" % number)
    for number in range(2 * IDLE_ACCOUNTS):
        come_and_go(accounts, 11, number)
    with pytest.raises(KeyError):
        accounts.of("192.0.2.0")


def test_load_counts_a_job_once_for_the_first_who_owns_it():
    load, first, second = Load(1, 1), Account(), Account()
    load.own(first, b"H:1")
    load.own(second, b"H:1")
    load.disown(b"H:1")
    load.disown(b"H:1")
    load.disown(b"H:2")
    assert (first.jobs, second.jobs) == (0, 0)


# -- defaults --------------------------------------------------------------------------


@pytest.mark.parametrize("most, of_one_address", [(0, 0), (3, 3), (100, 90), (5068, 5036), (1_000_000, 999_968)])
def test_one_address_leaves_a_few_connections_to_the_others(most, of_one_address):
    assert _bounds(Config(), most).connections == of_one_address
    assert _bounds(Config(max_connections_per_address=7), most).connections == 7


def test_defaults_let_5000_workers_come_at_once_from_one_address_and_again_and_again():
    accounts = Accounts(_bounds(Config(), 5100))
    now = 0.0
    for _ in range(10):  # Each time all of them try every half a second, four times.
        for attempt in range(4):
            for _ in range(5000):
                assert accounts.enter("192.0.2.1", now) is None
            for _ in range(5000):
                accounts.leave("192.0.2.1")
            now += 0.5
        now += 60
    assert Config().max_abilities_total >= 5000 * 200


def test_peers_have_no_gate_by_default(start):
    server = start()
    with Wire(server.address) as wire:
        wire.echo()
        assert [peer.gate for peer in server.broker.peers] == [None]


# -- connections -----------------------------------------------------------------------


def test_connections_over_max_connections_per_address_are_closed_and_logged_once(start, caplog):
    server = start(max_connections_per_address=3)
    wires = [Wire(server.address) for _ in range(3)]
    for wire in wires:
        wire.echo()
    for _ in range(20):
        with Wire(server.address) as further:
            assert further.is_closed()
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "closed, it has 3 connections already (--max-connections-per-address)"
    ]
    wires.pop().close()
    gone(server, 2)
    wait_until(lambda: server.gatekeeper._accounts.of("127.0.0.1").connections == 2, "room")
    with Wire(server.address) as wire:
        wire.echo()
    for wire in wires:
        wire.echo()
        wire.close()


def test_flood_of_connections_is_closed_at_the_rate_and_others_are_served(start, caplog):
    server = start(max_connection_rate=10)
    began_at = time.monotonic()
    with Wire(server.address) as good:
        good.echo()
        served = 0
        for _ in range(400):
            with Wire(server.address) as wire:
                try:
                    wire.echo()
                    served += 1
                except (Closed, OSError):
                    pass
            good.echo()
    assert 99 <= served <= 100 + 10 * (time.monotonic() - began_at)
    assert len([record for record in caplog.records if "max-connection-rate" in record.getMessage()]) == 1
    gone(server)
    wait_until(lambda: server.gatekeeper._accounts.of("127.0.0.1").connections == 0, "nobody counts any more")


def test_connection_without_a_thread_gives_its_place_back(start, monkeypatch):
    server = start(max_connections_per_address=1)
    start_thread = threading.Thread.start

    def fail(thread):
        if thread.name.startswith("gearmand 127"):
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        for _ in range(3):
            with Wire(server.address) as wire:
                assert wire.is_closed()
    with Wire(server.address) as wire:
        wire.echo()


# -- jobs ------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "stored"])
def test_submissions_over_max_submission_rate_are_refused(start, tmp_path, stored, caplog):
    server = start(max_submission_rate=2, **({"queue": str(tmp_path / "queue.db")} if stored else {}))
    # No time goes by but what is said here.
    now = [time.monotonic()]
    server.broker._clock = lambda: now[0]
    with Wire(server.address) as wire:
        wire.send_raw(packet(SUBMIT_JOB_BG, b"f", b"", b"x") * 50)
        assert [wire.receive()[0] for _ in range(50)] == [JOB_CREATED] * 20 + [ERROR] * 30
        wire.send(SUBMIT_JOB, b"f", b"", b"")
        assert refused(wire, b"RATE_LIMITED") == b"Your address submits more jobs a second than it may"
        wire.echo()
        now[0] += 0.6
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB, b"f", b"", b"")
        refused(wire, b"RATE_LIMITED")
    assert len(caplog.records) == 1 and "(--max-submission-rate)" in caplog.text


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "stored"])
def test_jobs_over_max_jobs_per_address_are_refused_until_others_end(start, tmp_path, stored):
    server = start(max_jobs_per_address=3, **({"queue": str(tmp_path / "queue.db")} if stored else {}))
    with Wire(server.address) as wire, Wire(server.address) as other, Wire(server.address) as worker:
        wire.submit(b"f", unique=b"u", kind=SUBMIT_JOB_BG)
        other.submit(b"f", unique=b"u")  # The same job.
        other.submit(b"g")
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB_BG, b"f", b"", b"")
        assert refused(wire) == b"Your address has as many unfinished jobs as it may"
        worker.can_do(b"f")
        worker.send(WORK_COMPLETE, worker.grab()[0], b"")
        worker.echo()
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        other.close()  # Its own job ends with it.
        wait_until(lambda: status(server.address)["g"] == (0, 0, 0), "the end of a job")
        handle = wire.submit(b"f", kind=SUBMIT_JOB_BG)
        assert wire.ask("cancel job %s" % handle.decode()) == "OK"
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
    gone(server)
    registry = server.broker.registry
    assert server.gatekeeper._accounts.of("127.0.0.1").jobs == len(registry.jobs) + len(registry.plain) == 3


def test_dormant_jobs_count_for_their_address_until_they_end(start, tmp_path):
    server = start(max_jobs_per_address=40, queue=str(tmp_path / "queue.db"), queue_memory=5000)
    account = server.gatekeeper._accounts
    with Wire(server.address) as wire, Wire(server.address) as worker:
        handles = [wire.submit(b"f", b"x" * 100, kind=SUBMIT_JOB_BG) for _ in range(40)]
        assert len(server.broker.registry.jobs) < 40 == account.of("127.0.0.1").jobs
        assert wire.ask("cancel job %s" % handles[-1].decode()) == "OK"
        worker.can_do(b"f")
        for _ in range(39):
            worker.send(WORK_COMPLETE, worker.grab()[0], b"")
        worker.echo()
        assert account.of("127.0.0.1").jobs == 0
    assert server.broker.registry.room == server.broker.registry._rules.most_bytes


def test_jobs_over_max_jobs_per_function_are_refused_unless_maxqueue_says_otherwise(start):
    server = start(max_jobs_per_function=2)
    with Wire(server.address) as wire:
        for function in (b"f", b"g"):
            wire.submit(function, kind=SUBMIT_JOB_BG)
            wire.submit(function, kind=SUBMIT_JOB_BG)
            wire.send(SUBMIT_JOB_BG, function, b"", b"")
            assert refused(wire) == b"Job queue is full"
        assert wire.ask("maxqueue f 3") == "OK"
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB, b"f", b"", b"")
        refused(wire)
        assert wire.ask("maxqueue f") == "OK"
        wire.submit(b"f", kind=SUBMIT_JOB_BG)


def test_jobs_over_max_jobs_memory_are_refused_until_others_end(start):
    server = start(max_jobs_memory=10 * MEGA)
    with Wire(server.address) as wire, Wire(server.address) as worker:
        for _ in range(10):
            wire.submit(b"f", b"x" * MEGA, kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB_BG, b"f", b"", b"")
        assert refused(wire) == b"The jobs of this server take as much memory as they may"
        worker.can_do(b"f")
        worker.send(WORK_COMPLETE, worker.grab()[0], b"")
        worker.echo()
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
    with Client(server.address) as client, pytest.raises(JobRefused, match="QUEUE_ERROR: The jobs of this server"):
        client.submit_background("f", b"x" * MEGA)
        client.submit_background("f", b"x" * MEGA)


def test_jobs_of_this_process_have_no_address_and_no_rate(start):
    server = start(max_submission_rate=1, max_jobs_per_address=1)
    for _ in range(50):
        server.submit("f", background=True)
    assert status(server.address)["f"] == (50, 0, 0)


# -- abilities and names --------------------------------------------------------------------


def test_ten_thousand_and_one_abilities_of_one_worker_are_one_too_many(start):
    server = start()
    with Wire(server.address, timeout_s=60) as wire:
        wire.send_raw(b"".join(packet(CAN_DO, b"f%d" % number) for number in range(10_000)))
        wire.echo()
        wire.send(CAN_DO, b"one more")
        assert refused(wire, b"LIMIT_REACHED") == b"There are as many functions that workers can do as there may be"
        wire.send(CAN_DO_TIMEOUT, b"f5", b"5000")
        wire.send(CANT_DO, b"f7")
        wire.can_do(b"one more")
        wire.send(SUBMIT_JOB_BG, b"one more", b"", b"work")
        wire.receive()
        assert wire.grab()[1:] == (b"one more", b"work")
    gone(server)
    wait_until(lambda: not server.broker.peers, "an end")
    assert server.broker.registry.load.abilities == 0


def test_abilities_of_all_workers_are_bounded_and_come_free(start):
    server = start(max_abilities_total=3)
    with Wire(server.address) as first, Wire(server.address) as second:
        first.can_do(b"a", b"b")
        second.can_do(b"a")
        second.send(CAN_DO, b"b")
        refused(second, b"LIMIT_REACHED")
        second.send(GRAB_JOB)
        second.receive()
        first.send(RESET_ABILITIES)
        first.echo()
        second.can_do(b"b", b"c")
        assert status(server.address)["b"] == (0, 0, 1)


def test_functions_with_a_limit_are_bounded_and_come_free(start):
    server = start(max_limited_functions=2)
    with Wire(server.address) as wire:
        assert [wire.ask("maxqueue %s 5" % name) for name in "ab"] == ["OK", "OK"]
        assert wire.ask("maxqueue c 5") == "ERR LIMIT_REACHED Something+is+set+for+as+many+functions+as+may+be"
        assert wire.ask("maxqueue a 6") == "OK"
        assert wire.ask("maxqueue c") == "OK"
        assert wire.ask("maxqueue a 0") == "OK" and wire.ask("maxqueue c 5") == "OK"
        assert wire.ask("maxqueue d 5").startswith("ERR LIMIT_REACHED")
        assert wire.ask("drop function b") == "OK" and wire.ask("maxqueue d 5") == "OK"


# -- halves of packets ---------------------------------------------------------------------------


class Half:
    """Stands for a peer of which a part is kept."""

    def __init__(self):
        self.why_aborted = None

    def abort(self, why):
        self.why_aborted = why


def test_a_hundred_thousand_halves_are_counted_and_the_largest_is_given_up():
    halves = Halves(100_000 * 100)
    peers = [Half() for _ in range(100_000)]
    for number, peer in enumerate(peers):
        halves.note(peer, 101 if number == 5 else 99)
    assert halves.bytes == 100_000 * 99 + 2 and not any(peer.why_aborted for peer in peers)
    halves.note(peers[7], 50)
    halves.note(peers[8], 100_000)
    halves.note(peers[9], 50_000)
    assert [number for number, peer in enumerate(peers) if peer.why_aborted] == [8]
    for peer in peers:
        halves.note(peer, 0)
    assert halves.bytes == 0 and not halves._held


def begun(size, arrived):
    return b"\0REQ" + struct.pack(">II", SUBMIT_JOB_BG, size) + b"f\0\0" + b"x" * (arrived - 3)


def test_peer_with_most_of_a_packet_is_closed_over_max_partial_total(start, caplog):
    server = start(max_partial_total=4 * MEGA)
    small = [Wire(server.address) for _ in range(20)]
    for wire in small:
        wire.send_raw(begun(100_000, 50_000))
    wait_until(lambda: server.halves.bytes == 20 * (50_000 + 12), "halves")
    with Wire(server.address) as large, Wire(server.address) as good:
        with pytest.raises((Closed, OSError)):
            for _ in range(100):
                large.send_raw(begun(64 * MEGA, MEGA))
                good.echo()
        assert large.is_closed()
        good.submit(b"f", b"x" * MEGA, kind=SUBMIT_JOB_BG)
    for wire in small:
        wire.send_raw(b"x" * 50_000)
        assert wire.receive()[0] == JOB_CREATED
        wire.close()
    assert "(--max-partial-total)" in caplog.text
    gone(server)
    assert server.halves.bytes == 0


def test_packet_in_pieces_is_kept_only_until_it_is_whole(start):
    server = start()
    with Wire(server.address) as wire:
        whole = packet(ECHO_REQ, b"x" * 300_000)
        for at in range(0, len(whole), 10_000):
            wire.send_raw(whole[at : at + 10_000])
        assert wire.receive() == (ECHO_RES, b"x" * 300_000)
        assert server.halves.bytes == 0
        wire.send_raw(packet(ECHO_REQ, b"y") + b"\0RE")
        assert wire.receive() == (ECHO_RES, b"y")
        wait_until(lambda: server.halves.bytes == 3, "three bytes")
        wire.send_raw(b"Q" + struct.pack(">II", ECHO_REQ, 0))
        assert wire.receive() == (ECHO_RES, b"")
        assert server.halves.bytes == 0
        wire.send_raw(b"stat")
        wait_until(lambda: server.halves.bytes == 4, "four bytes")
    gone(server)
    assert server.halves.bytes == 0


# -- what is logged ------------------------------------------------------------------------------


def test_no_workload_and_no_token_is_ever_logged(start, caplog, tmp_path):
    path = tmp_path / "acl"
    path.write_text("default deny\naddress:127.0.0.1 submit f\naddress:127.0.0.1 work f\ntoken:SECRET-token grant\n")
    with caplog.at_level(logging.DEBUG):
        server = start(
            acl=str(path), queue=str(tmp_path / "queue.db"), max_packet=MEGA, max_submission_rate=1, max_unsent=MEGA, verbose="DEBUG"
        )
        for raw in (
            packet(SUBMIT_JOB_BG, b"f", b"", b"SECRET"),
            packet(SUBMIT_JOB_BG, b"g", b"", b"SECRET"),
            packet(SUBMIT_JOB_BG, b"f", b"u" * 65, b"SECRET"),
            packet(SUBMIT_JOB_BG, b"f", b"", b"SECRET") * 30,
            packet(CAN_DO, b"f") + packet(GRAB_JOB) + packet(WORK_COMPLETE, b"H:no:1", b"SECRET"),
            packet(26, b"token:SECRET-token") + packet(26, b"token:SECRET"),
            b"acl grant work token:SECRET *\n",
            b"\0SECRET",
            b"\0REQ" + struct.pack(">II", SUBMIT_JOB_BG, 2 * MEGA) + b"SECRET",
            b"SECRET" * 2000,
            packet(SUBMIT_JOB_BG, b"f", b"", b"SECRET")[:-2],
        ):
            with Wire(server.address) as wire:
                wire.send_raw(raw)
                wire.socket.shutdown(socket.SHUT_WR)
                assert wire.is_closed()
        gone(server)
    assert caplog.records and "SECRET" not in caplog.text
    assert "SECRET" not in repr(server.config)
