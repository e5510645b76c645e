"""Every client with every worker, foreign ones and our own; our own with all of them on a C server too."""

import threading

import pytest
from foreign import FOREIGN, NODE, OURS, require

from wire import SUBMIT_JOB_BG, WORK_COMPLETE, WORK_EXCEPTION, Wire, status, wait_until

ALL = FOREIGN + OURS
WORKERS = ALL + tuple(NODE)
# Those that tell what happens on the way, and can be told to tell it.
TALKING = ("perl", "php", "gear", "gearman3", "library")
# These do not fill a pipe with a whole workload before they read what comes back: the
# C tool's worker does, so that a command that answers as it goes blocks (see test_tools for a large file).
READING = TALKING + ("command",)
# Clients that ask the server for exceptions.
ASKING = ("perl", "php", "gear", "library")

# gearman3 handles workloads as text, so text it is.
TEXT = b"the quick brown fox\njumps over the lazy dog\n"


def crossed(ours=OURS, but=(), **kinds):
    """Every combination on this server, and those with one of ours on a C server, except `but`."""
    names = list(kinds)
    combinations = [()]
    for name in names:
        combinations = [chosen + (kind,) for chosen in combinations for kind in kinds[name]]
    cases = [("gearmand",) + chosen for chosen in combinations]
    cases += [("c-server",) + chosen for chosen in combinations if set(chosen) & set(ours)]
    cases = [case for case in cases if case not in but]
    return pytest.mark.parametrize(["server", *names], cases, ids=["-".join(case) for case in cases], indirect=["server"])


@crossed(client=ALL, worker=WORKERS)
def test_foreground_job_gets_its_result(processes, client, worker):
    processes.worker(worker, "upper")
    assert processes.client(client, "normal", "upper", TEXT) == [("COMPLETE", TEXT.upper())]


@crossed(ours=("library",), client=ALL, worker=READING)
def test_foreground_job_of_half_a_megabyte_comes_back_whole(processes, client, worker):
    processes.worker(worker, "upper")
    large = TEXT * (512 * 1024 // len(TEXT))
    assert processes.client(client, "normal", "upper", large) == [("COMPLETE", large.upper())]


@crossed(ours=("library",), client=ALL, worker=WORKERS)
def test_failing_job_fails_at_the_client(processes, client, worker):
    processes.worker(worker, "fail")
    assert processes.client(client, "normal", "fail", TEXT) == [("FAIL", "")]


@pytest.mark.parametrize("priority", ("high", "low"))
@crossed(client=ALL)
def test_job_of_another_priority_gets_its_result(processes, client, priority):
    processes.worker("perl", "upper")
    assert processes.client(client, priority, "upper", TEXT) == [("COMPLETE", TEXT.upper())]


@crossed(client=TALKING, worker=TALKING)
def test_data_warning_and_status_arrive_before_the_result(processes, client, worker):
    processes.worker(worker, "talk")
    assert processes.client(client, "normal", "talk", b"it") == [
        ("DATA", b"part of it"),
        ("WARNING", b"careful"),
        ("STATUS", "1 2"),
        ("COMPLETE", b"done"),
    ]


@crossed(client=("gear", "library"), worker=TALKING)
def test_exception_reaches_a_client_that_asked_for_exceptions(processes, client, worker):
    processes.worker(worker, "raise")
    events = processes.client(client, "normal", "raise", TEXT)
    assert [event for event, data in events] == ["EXCEPTION"]
    assert b"told to" in events[0][1]


# The C server puts a NUL after the handle then (see tests/conversations/differences.py): its own client waits for ever, gearman3 dies.
@crossed(
    client=("c", "gearman3", "command"),
    worker=TALKING,
    but=[("c-server", "c", "library"), ("c-server", "gearman3", "library")],
)
def test_exception_is_a_failure_to_a_client_that_did_not_ask(processes, worker, client):
    processes.worker(worker, "raise")
    assert processes.client(client, "normal", "raise", TEXT) == [("FAIL", "")]


@crossed(worker=TALKING)
def test_worker_serves_on_after_an_exception(processes, worker):
    processes.worker(worker, "raise", "upper")
    processes.client("library", "normal", "raise", TEXT)
    assert processes.client("library", "normal", "upper", TEXT) == [("COMPLETE", TEXT.upper())]


@pytest.mark.parametrize("kind", ("perl", "php"))
def test_exception_reaches_a_client_of_the_worker_s_own_kind(processes, kind):
    processes.worker(kind, "raise")
    events = processes.client(kind, "normal", "raise", TEXT)
    assert events[0][0] == "EXCEPTION"
    assert b"told to" in events[0][1]


@crossed(client=ALL)
def test_background_job_is_queued_and_its_status_known(server, processes, client):
    events = processes.client(client, "background", "upper", TEXT)
    if client in ASKING:
        assert [events[0][0], events[1]] == ["CREATED", ("KNOWN", "1 0")]
    assert status(server.address)["upper"] == (1, 0, 0)


@crossed(ours=("library",), client=ALL, worker=WORKERS)
def test_background_job_is_run_by_a_worker_that_comes_later(server, processes, client, worker):
    processes.client(client, "background", "upper", TEXT)
    processes.worker(worker, "upper")
    wait_until(lambda: status(server.address)["upper"][:2] == (0, 0), "the queue is empty")


@crossed(worker=WORKERS)
def test_sleeping_worker_wakes_for_a_hundred_jobs(server, processes, worker):
    processes.worker(worker, "upper")
    with Wire(server.address) as wire:
        for number in range(100):
            wire.submit(b"upper", b"job %d" % number, kind=SUBMIT_JOB_BG)
    wait_until(lambda: status(server.address)["upper"][:2] == (0, 0), "the queue is empty")


@crossed(client=ALL)
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
