"""Workers that know nothing of steering: what is set for a function holds for them too."""

import time

import pytest

from foreign import NODE
from gearmand import operations
from wire import SUBMIT_JOB, SUBMIT_JOB_BG, WORK_COMPLETE, WORK_FAIL, Wire, wait_until


@pytest.fixture(params=["c", "perl", "php", *NODE, "library"])
def kind(request):
    return request.param


def test_worker_that_fails_uses_the_attempts_up_and_the_job_is_buried(server, processes, kind):
    operations.change_policy(server.broker, b"fail", {"attempts": 3})
    processes.worker(kind, "fail")
    with Wire(server.address) as wire:
        handle = wire.submit(b"fail", kind=SUBMIT_JOB_BG)
        for kicked in range(2):
            wait_until(lambda: operations.buried(server.broker, b"fail", 9), "it is buried")
            function = server.broker.registry.functions[b"fail"]
            assert function.tally.retried == 2 * (1 + kicked) and handle in function.buried
            if not kicked:
                assert operations.kick(server.broker, b"fail", 9) == 1


def test_worker_that_sleeps_gets_a_job_when_its_function_is_resumed(server, processes, kind):
    processes.worker(kind, "upper")
    operations.change_policy(server.broker, b"upper", {"paused": True})
    with Wire(server.address) as wire:
        handle = wire.submit(b"upper", kind=SUBMIT_JOB, workload=b"w")
        function = server.broker.registry.functions[b"upper"]
        wait_until(lambda: function.sleepers, "it sleeps")
        assert function.running == 0
        operations.change_policy(server.broker, b"upper", {"paused": False})
        assert result_of(wire) == [handle, b"W"]


def result_of(wire):
    """Some send data, or their status, before it."""
    while True:
        packet, body = wire.receive()
        if packet == WORK_COMPLETE:
            return body.split(b"\0")


def test_two_workers_keep_to_a_rate(server, processes, kind):
    operations.change_policy(server.broker, b"upper", {"rate": 20.0})
    for _ in range(2):
        processes.worker(kind, "upper")
    began = time.monotonic()
    with Wire(server.address) as wire:
        for number in range(12):
            wire.submit(b"upper", kind=SUBMIT_JOB_BG, workload=b"job %d" % number)
        wait_until(lambda: server.broker.registry.functions[b"upper"].jobs == 0, "all are done")
    # Two at the most at the start, to catch up.
    assert time.monotonic() - began >= 9 / 20


def test_worker_whose_job_is_cancelled_goes_on_with_the_next(server, processes, kind, tmp_path):
    processes.worker(kind, "until")
    function = server.broker.registry.functions[b"until"]
    first, second = [str(tmp_path / name).encode() for name in ("first", "second")]
    with Wire(server.address) as wire:
        handle = wire.submit(b"until", first, kind=SUBMIT_JOB)
        wait_until(lambda: function.running == 1, "it runs")
        assert operations.cancel_job(server.broker, handle)
        assert wire.expect(WORK_FAIL) == [handle]
        assert (function.jobs, function.running) == (0, 0)
        # What it reports of that one is nobody's any more, and no mistake of its own.
        (tmp_path / "first").touch()
        (tmp_path / "second").touch()
        handle = wire.submit(b"until", second, kind=SUBMIT_JOB)
        assert result_of(wire)[0] == handle
    assert (function.tally.cancelled, function.tally.completed, len(function.workers)) == (1, 1, 1)


def test_worker_that_would_take_more_gets_no_more_than_may_run_at_once(server, processes, kind, tmp_path):
    operations.change_policy(server.broker, b"until", {"most_running": 1})
    for _ in range(2):
        processes.worker(kind, "until")
    function = server.broker.registry.functions[b"until"]
    with Wire(server.address) as wire:
        for number in range(3):
            wire.submit(b"until", str(tmp_path / "open").encode(), kind=SUBMIT_JOB_BG)
        wait_until(lambda: function.running and any(party.asleep for party in function.workers), "one runs, and somebody sleeps")
        assert (function.running, function.live) == (1, 2)
        (tmp_path / "open").touch()
        wait_until(lambda: function.jobs == 0, "all are done")
    assert function.tally.completed == 3
