"""Workers that know nothing of steering: what is set for a function holds for them too."""

import time

import pytest

from gearmand import operations
from wire import SUBMIT_JOB, SUBMIT_JOB_BG, WORK_COMPLETE, Wire, wait_until


@pytest.fixture(params=["c", "perl", "php", "library"])
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
        while True:
            packet, body = wire.receive()
            if packet == WORK_COMPLETE:
                break
        assert body.split(b"\0")[0] == handle


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
