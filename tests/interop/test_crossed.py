"""Every foreign client with every foreign worker."""

import threading

import pytest
from foreign import require

from wire import SUBMIT_JOB_BG, WORK_COMPLETE, WORK_EXCEPTION, Wire, status, wait_until

CLIENTS = ("c", "perl", "php", "gear", "gearman3")
WORKERS = ("c", "perl", "php", "gear", "gearman3")
TALKING_WORKERS = WORKERS[1:]
TALKING_CLIENTS = CLIENTS[1:]

# gearman3 handles workloads as text, so text it is.
TEXT = b"the quick brown fox\njumps over the lazy dog\n"

every_client = pytest.mark.parametrize("client", CLIENTS)
every_worker = pytest.mark.parametrize("worker", WORKERS)


@every_client
@every_worker
def test_foreground_job_gets_its_result(processes, client, worker):
    processes.worker(worker, "upper")
    assert processes.client(client, "normal", "upper", TEXT) == [("COMPLETE", TEXT.upper())]


# Not with the C tool's worker: it writes a whole workload to its command before
# it reads, so that a command that answers as it goes blocks (see test_tools for a large file).
@every_client
@pytest.mark.parametrize("worker", TALKING_WORKERS)
def test_foreground_job_of_half_a_megabyte_comes_back_whole(processes, client, worker):
    processes.worker(worker, "upper")
    large = TEXT * (512 * 1024 // len(TEXT))
    assert processes.client(client, "normal", "upper", large) == [("COMPLETE", large.upper())]


@every_client
@every_worker
def test_failing_job_fails_at_the_client(processes, client, worker):
    processes.worker(worker, "fail")
    assert processes.client(client, "normal", "fail", TEXT) == [("FAIL", "")]


@pytest.mark.parametrize("priority", ("high", "low"))
@every_client
def test_job_of_another_priority_gets_its_result(processes, client, priority):
    processes.worker("perl", "upper")
    assert processes.client(client, priority, "upper", TEXT) == [("COMPLETE", TEXT.upper())]


@pytest.mark.parametrize("client", TALKING_CLIENTS)
@pytest.mark.parametrize("worker", TALKING_WORKERS)
def test_data_warning_and_status_arrive_before_the_result(processes, client, worker):
    processes.worker(worker, "talk")
    assert processes.client(client, "normal", "talk", b"it") == [
        ("DATA", b"part of it"),
        ("WARNING", b"careful"),
        ("STATUS", "1 2"),
        ("COMPLETE", b"done"),
    ]


@pytest.mark.parametrize("worker", TALKING_WORKERS)
def test_exception_reaches_a_client_that_asked_for_exceptions(processes, worker):
    processes.worker(worker, "raise")
    events = processes.client("gear", "normal", "raise", TEXT)
    assert [event for event, data in events] == ["EXCEPTION"]
    assert b"told to" in events[0][1]


@pytest.mark.parametrize("worker", TALKING_WORKERS)
@pytest.mark.parametrize("client", ("c", "gearman3"))
def test_exception_is_a_failure_to_a_client_that_did_not_ask(processes, worker, client):
    processes.worker(worker, "raise")
    assert processes.client(client, "normal", "raise", TEXT) == [("FAIL", "")]


@pytest.mark.parametrize("worker", TALKING_WORKERS)
def test_worker_serves_on_after_an_exception(processes, worker):
    processes.worker(worker, "raise", "upper")
    processes.client("gear", "normal", "raise", TEXT)
    assert processes.client("gear", "normal", "upper", TEXT) == [("COMPLETE", TEXT.upper())]


@pytest.mark.parametrize("kind", ("perl", "php"))
def test_exception_reaches_a_client_of_the_worker_s_own_kind(processes, kind):
    processes.worker(kind, "raise")
    events = processes.client(kind, "normal", "raise", TEXT)
    assert events[0][0] == "EXCEPTION"
    assert b"told to" in events[0][1]


@every_client
def test_background_job_is_queued_and_its_status_known(server, processes, client):
    events = processes.client(client, "background", "upper", TEXT)
    if client in ("perl", "php", "gear"):
        assert [events[0][0], events[1]] == ["CREATED", ("KNOWN", "1 0")]
    assert status(server.address)["upper"] == (1, 0, 0)


@every_client
@every_worker
def test_background_job_is_run_by_a_worker_that_comes_later(server, processes, client, worker):
    processes.client(client, "background", "upper", TEXT)
    processes.worker(worker, "upper")
    wait_until(lambda: status(server.address)["upper"][:2] == (0, 0), "the queue is empty")


@every_worker
def test_sleeping_worker_wakes_for_a_hundred_jobs(server, processes, worker):
    processes.worker(worker, "upper")
    with Wire(server.address) as wire:
        for number in range(100):
            wire.submit(b"upper", b"job %d" % number, kind=SUBMIT_JOB_BG)
    wait_until(lambda: status(server.address)["upper"][:2] == (0, 0), "the queue is empty")


@every_client
def test_raw_worker_serves_a_foreign_client(server, processes, client):
    require(client)

    def serve():
        with Wire(server.address) as wire:
            wire.can_do(b"echo")
            handle, function, workload = wire.grab()
            wire.send(WORK_COMPLETE, handle, workload + b"!")
            wire.echo()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert processes.client(client, "normal", "echo", TEXT) == [("COMPLETE", TEXT + b"!")]
    finally:
        thread.join(30)


def test_exception_of_a_raw_worker_is_text_at_gear(server, processes):
    require("gear")

    def serve():
        with Wire(server.address) as wire:
            wire.can_do(b"raise")
            wire.send(WORK_EXCEPTION, wire.grab()[0], b"a\0b")
            wire.echo()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert processes.client("gear", "normal", "raise", TEXT) == [("EXCEPTION", b"a\0b")]
    finally:
        thread.join(30)
