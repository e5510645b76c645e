"""The client, beside this server and the C server; then beside servers that follow a script."""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import sys
import threading
import time

import pytest

import peers
import wire
from gearmand import Client, Priority, Server, operations
from gearmand.errors import AdminRefused, ConfigError, JobException, JobFailed, JobLost, JobRefused, JobTimeout, NoResult, ServerLost
from gearmand.submitted import Update
from peers import Crew, ScriptedServer, response
from wire import wait_until

COUNT = 300


def reverse(worker, handle, workload):
    return workload[::-1]


def fail(worker, handle, workload):
    worker.send(wire.WORK_FAIL, handle)


def explode(worker, handle, workload):
    worker.send(wire.WORK_EXCEPTION, handle, b"it broke")


def talk(worker, handle, workload):
    worker.send(wire.WORK_DATA, handle, b"one")
    worker.send(wire.WORK_WARNING, handle, b"careful")
    worker.send(wire.WORK_STATUS, handle, b"1", b"2")
    worker.send(wire.WORK_DATA, handle, b"two")
    return b"end"


FUNCTIONS = {b"reverse": reverse, b"fail": fail, b"explode": explode, b"talk": talk}


@pytest.fixture(params=["this server", "the C server"])
def address(request, tmp_path):
    if request.param == "this server":
        with Server(port=0) as server:
            yield server.address
    else:
        with peers.c_server(tmp_path) as address:
            yield address


@pytest.fixture
def crew(address):
    with Crew(address, FUNCTIONS):
        yield


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


# -- one after another -----------------------------------------------------------


def test_run_returns_the_result(client, crew):
    assert client.run("reverse", b"stressed") == b"desserts"


def test_run_takes_text_as_utf8(client, crew):
    assert client.run("reverse", "äb") == b"b" + "ä".encode()[::-1]


def test_run_of_an_empty_workload(client, crew):
    assert client.run("reverse") == b""


def test_run_of_a_large_workload(client, crew):
    workload = os.urandom(5_000_000)
    assert client.run("reverse", workload) == workload[::-1]


def test_run_of_a_failing_job_raises_job_failed(client, crew, address):
    with pytest.raises(JobFailed) as caught:
        client.run("fail")
    assert (caught.value.function, caught.value.server) == ("fail", "%s:%d" % address)
    assert caught.value.handle.startswith("H:") and caught.value.handle in str(caught.value)


def test_run_of_a_raising_job_raises_its_data(client, crew, address):
    with pytest.raises(JobException) as caught:
        client.run("explode")
    assert (caught.value.data, caught.value.function, caught.value.server) == (b"it broke", "explode", "%s:%d" % address)
    assert "it broke" in str(caught.value)


def test_run_that_takes_too_long_raises_job_timeout(client):
    with pytest.raises(JobTimeout) as caught:
        client.run("nobody", timeout_s=0.05)
    assert caught.value.function == "nobody" and "0.05 s" in str(caught.value)


def test_client_goes_on_after_a_timeout(client, crew):
    with pytest.raises(JobTimeout):
        client.run("nobody", timeout_s=0.01)
    assert client.run("reverse", b"ab") == b"ba"


def test_run_starts_no_thread(client, crew):
    client.run("reverse")  # The server's own thread for the connection.
    before = threading.active_count()
    client.run("reverse", b"x")
    assert threading.active_count() == before


def test_run_from_many_threads_at_once(client, crew):
    def each(number):
        return [client.run("reverse", b"%d-%d" % (number, at)) for at in range(20)]

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        found = list(pool.map(each, range(10)))
    assert found == [[(b"%d-%d" % (number, at))[::-1] for at in range(20)] for number in range(10)]


# -- many at once ----------------------------------------------------------------


def test_submit_returns_futures_of_the_results(client, crew):
    jobs = [client.submit("reverse", b"%d" % at) for at in range(COUNT)]
    assert [job.result(20) for job in jobs] == [(b"%d" % at)[::-1] for at in range(COUNT)]


def test_submit_many_is_the_same_in_one_go(client, crew):
    jobs = client.submit_many("reverse", [b"%d" % at for at in range(COUNT)])
    assert [job.result(20) for job in jobs] == [(b"%d" % at)[::-1] for at in range(COUNT)]


def test_submit_many_of_nothing(client):
    assert client.submit_many("reverse", []) == []


def test_submit_from_many_threads_at_once(client, crew):
    def each(number):
        jobs = [client.submit("reverse", b"%d-%d" % (number, at)) for at in range(50)]
        return [job.result(20) for job in jobs]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(each, range(8)))
    assert found == [[(b"%d-%d" % (number, at))[::-1] for at in range(50)] for number in range(8)]


def test_jobs_go_with_wait_and_as_completed(client, crew):
    jobs = [client.submit("reverse", b"x") for _ in range(5)]
    done, not_done = concurrent.futures.wait(jobs, 20)
    assert (done, not_done) == (set(jobs), set())
    assert set(concurrent.futures.as_completed(jobs, 20)) == set(jobs)


def test_job_result_times_out_like_a_future(client):
    job = client.submit("nobody")
    with pytest.raises(concurrent.futures.TimeoutError) as caught:
        job.result(0.01)
    assert isinstance(caught.value, JobTimeout)
    with pytest.raises(JobTimeout):
        job.exception(0.01)
    assert not job.done()


def test_job_exception_is_returned_like_a_futures(client, crew):
    assert client.submit("reverse").exception(20) is None
    assert isinstance(client.submit("fail").exception(20), JobFailed)


def test_job_calls_done_callbacks(client, crew):
    called = threading.Event()
    client.submit("reverse").add_done_callback(lambda job: called.set())
    assert called.wait(20)


def test_job_knows_its_handle_and_server_once_created(client, address):
    created = threading.Event()
    job = client.submit("nobody", on_created=lambda job: created.set())
    assert created.wait(20)
    assert job.handle.startswith("H:") and job.server == "%s:%d" % address
    assert client.status(job) == (True, False, 0, 0, 0)


def test_cancelled_job_calls_nothing_and_harms_nobody(client, crew):
    called = []
    job = client.submit("nobody", on_fail=lambda: called.append(1))
    assert job.cancel() and job.cancelled()
    assert client.run("reverse", b"ab") == b"ba"
    assert called == []


# -- reports ---------------------------------------------------------------------


def test_iterating_a_job_yields_its_data_as_it_arrives(client, address):
    step = threading.Semaphore(0)

    def slowly(worker, handle, workload):
        for at in range(3):
            assert step.acquire(timeout=20)
            worker.send(wire.WORK_DATA, handle, b"%d" % at)
        return b""

    with Crew(address, {b"slowly": slowly}):
        got = []
        step.release()
        for data in client.submit("slowly"):
            got.append(data)
            step.release()
    assert got == [b"0", b"1", b"2"]


def test_iterating_a_job_that_fails_raises_at_the_end(client, crew):
    with pytest.raises(JobFailed):
        list(client.submit("fail"))


def test_updates_are_all_reports_in_order(client, crew):
    job = client.submit("talk")
    expected = [Update("data", b"one"), Update("warning", b"careful"), Update("status", (1, 2)), Update("data", b"two")]
    assert list(job.updates(20)) == expected
    assert list(job.updates(20)) == expected
    assert (job.data, job.warnings, job.numerator, job.denominator) == ([b"one", b"two"], [b"careful"], 1, 2)
    assert job.result(20) == b"end"


def test_updates_that_do_not_come_are_a_timeout(client):
    with pytest.raises(JobTimeout):
        list(client.submit("nobody").updates(0.01))


def test_callbacks_are_called_in_order(client, crew):
    called = []
    options = {
        "on_" + kind: lambda *arguments, kind=kind: called.append((kind, *arguments))
        for kind in ("data", "warning", "status", "complete", "fail", "exception", "retry")
    }
    job = client.submit("talk", on_created=lambda job: called.append(("created", job)), **options)
    job.result(20)
    assert called == [
        ("created", job),
        ("data", b"one"),
        ("warning", b"careful"),
        ("status", 1, 2),
        ("data", b"two"),
        ("complete", b"end"),
    ]


@pytest.mark.parametrize(
    "function, kinds, expected",
    [
        ("fail", ("fail", "exception"), [("fail",)]),
        ("explode", ("fail", "exception"), [("exception", b"it broke")]),
        ("explode", ("fail",), [("fail",)]),
    ],
)
def test_callbacks_of_a_job_that_does_not_complete(client, crew, function, kinds, expected):
    called = []
    options = {"on_" + kind: lambda *arguments, kind=kind: called.append((kind, *arguments)) for kind in kinds}
    assert client.submit(function, **options).exception(20) is not None
    assert called == expected


def test_callback_that_raises_is_logged_and_the_job_goes_on(client, crew, caplog):
    job = client.submit("talk", on_data=lambda data: 1 / 0)
    assert job.result(20) == b"end"
    assert "on_data raised" in caplog.text and "ZeroDivisionError" in caplog.text


def test_data_that_a_callback_takes_is_not_kept(client, crew):
    got = []
    job = client.submit("talk", on_data=got.append)
    assert job.result(20) == b"end"
    assert (got, job.data, len(list(job.updates()))) == ([b"one", b"two"], [], 2)


def test_callback_may_submit(client, crew):
    second = concurrent.futures.Future()
    client.submit("reverse", b"ab", on_complete=lambda result: second.set_result(client.submit("reverse", result)))
    assert second.result(20).result(20) == b"ab"


def test_callback_that_waits_is_told_that_it_cannot(client, crew):
    told = concurrent.futures.Future()

    def wait(result):
        try:
            client.run("reverse", result)
        except RuntimeError as error:
            told.set_result(str(error))

    client.submit("reverse", b"ab", on_complete=wait)
    assert "use submit" in told.result(20)


@pytest.mark.parametrize("wait", [lambda client: client.run("reverse", retries=1), lambda client: client.submit("reverse").result()])
def test_callback_that_waits_otherwise_is_told_too(client, crew, wait):
    told = []

    def callback(result):
        try:
            wait(client)
        except RuntimeError as error:
            told.append(str(error))

    client.run("reverse", b"x", on_complete=callback, timeout_s=20)
    assert len(told) == 1 and "a callback cannot wait" in told[0]


def test_encoder_that_makes_no_bytes_is_named(client):
    class Bad:
        def encode(self, value):
            return "text"

        def decode(self, data):
            return data

    with pytest.raises(TypeError, match="function f: the encoder made str of the workload, not bytes"):
        client.submit("f", 1, encoder=Bad())


def test_callback_must_be_callable(client):
    with pytest.raises(ConfigError, match="on_data: 5"):
        client.submit("f", on_data=5)


def test_same_unique_twice_tells_both_jobs_everything(client, address):
    go = threading.Event()

    def later(worker, handle, workload):
        go.wait(20)
        return talk(worker, handle, workload)

    with Crew(address, {b"later": later}):
        jobs = [client.submit("later", unique="u") for _ in range(2)]
        wait_until(lambda: all(job.handle for job in jobs), "both are created")
        go.set()
        assert [job.result(20) for job in jobs] == [b"end", b"end"]
    assert jobs[0].handle == jobs[1].handle
    assert [job.data for job in jobs] == [[b"one", b"two"]] * 2


# -- forms of a job --------------------------------------------------------------


def test_background_job_returns_its_handle(client, crew):
    handle = client.submit_background("reverse", b"x")
    assert handle.startswith("H:")
    assert client.wait_for_background(handle, timeout_s=20)
    assert client.submit("reverse", b"x", background=True).result(20).startswith("H:")


def test_wait_for_background_calls_back_with_progress(client, address):
    step = threading.Event()

    def slowly(worker, handle, workload):
        worker.send(wire.WORK_STATUS, handle, b"1", b"4")
        step.wait(20)
        return b""

    with Crew(address, {b"slowly": slowly}):
        handle = client.submit_background("slowly")
        seen = []

        def progress(*fraction):
            seen.append(fraction)
            step.set()

        assert client.wait_for_background(handle, progress, timeout_s=20, interval_s=0.01)
    assert seen == [(1, 4)]


def test_wait_for_background_waits_for_a_job_that_is_not_created_yet(client, address):
    job = client.submit("slow", background=True)
    assert client.wait_for_background(job, timeout_s=2) is False
    wait_until(lambda: job.handle, "it is created")
    assert client.status(job.handle.encode()).known


def test_wait_for_background_gives_up_in_time(client):
    handle = client.submit_background("nobody")
    # The first question has all of it; those at its end have next to nothing, and need no answer.
    assert not client.wait_for_background(handle, timeout_s=2, interval_s=0.01)


@pytest.mark.parametrize("priority", [Priority.HIGH, "high", 0])
@pytest.mark.parametrize("background", [False, True])
def test_priorities_are_served_in_order(client, address, priority, background):
    names = []
    jobs = [
        client.submit("note", b"low", priority="low", background=background),
        client.submit("note", b"normal", background=background),
        client.submit("note", b"high", priority=priority, background=background),
    ]
    wait_until(lambda: all(job.handle for job in jobs), "they are created")

    def note(worker, handle, workload):
        names.append(workload)
        return b""

    with Crew(address, {b"note": note}):
        wait_until(lambda: len(names) == 3, "all are run")
    assert names == [b"high", b"normal", b"low"]


def test_unique_hash_and_dash_coalesce_by_the_workload(client):
    for unique in ("#", "-"):
        same = [client.submit_background("f" + unique, b"w", unique=unique) for _ in range(2)]
        assert same[0] == same[1]
        assert client.submit_background("f" + unique, b"other", unique=unique) != same[0]


def test_status_by_unique_counts_the_listeners(client):
    job = client.submit("nobody", unique="u")
    wait_until(lambda: job.handle, "it is created")
    assert client.status_unique("u") == (True, False, 0, 0, 1)
    assert not client.status_unique("other").known


def test_status_of_an_unknown_job(client):
    assert client.status("H:x:1") == (False, False, 0, 0, 0)


def test_job_of_a_time_to_come_is_not_given_out_before(client, address):
    handle = client.submit_background("reverse", delay_s=3600)
    with Crew(address, FUNCTIONS):
        assert client.run("reverse", b"ab") == b"ba"
        assert client.status(handle).known


@pytest.mark.parametrize("form", ["seconds", "datetime"])
def test_job_of_a_time_gone_by_is_given_out_at_once(client, crew, form):
    at = time.time() - 1
    handle = client.submit_background("reverse", at=at if form == "seconds" else datetime.datetime.fromtimestamp(at))
    assert client.wait_for_background(handle, timeout_s=20, interval_s=0.01)


def test_reduce_job_carries_its_reducer(tmp_path):
    with Server(port=0) as server, Client(server.address) as client, wire.Wire(server.address) as worker:
        job = client.submit("split", b"w", reducer="sum")
        worker.can_do(b"split")
        wait_until(lambda: job.handle, "it is created")
        worker.send(wire.GRAB_JOB_ALL)
        kind, body = worker.receive()
        assert (kind, body.split(b"\0")[3:]) == (40, [b"sum", b"w"])
        worker.send(wire.WORK_COMPLETE, job.handle.encode(), b"3")
        assert job.result(20) == b"3"


@pytest.mark.parametrize("workload", [b"", b"w", b"a\0b\0c"])
@pytest.mark.parametrize("background", [False, True])
def test_reduce_job_has_its_whole_workload(client, address, workload, background):
    done = []
    with Crew(address, {b"keep": lambda worker, handle, data: done.append(data) or data}):
        client.run("keep", workload, reducer="sum", background=background, timeout_s=20)
        wait_until(lambda: done == [workload], "it has run")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"delay_s": float("nan")}, "delay_s: expected seconds, got nan"),
        ({"at": float("inf")}, "at: expected seconds, got inf"),
        ({"retries": "3"}, "retries: expected a whole number, got '3'"),
        ({"priority": "urgent"}, "priority 'urgent': expected high, normal or low"),
        ({"unique": "u" * 65}, "at most 64 bytes"),
        ({"colour": 1}, "no option colour"),
        ({"at": 1, "delay_s": 1}, "give one of them"),
        ({"at": 1, "priority": "high"}, "at: the protocol has no such job together with a priority"),
        ({"at": 1, "reducer": "r"}, "together with reducer"),
        ({"encoder": "yaml"}, "no encoder 'yaml'"),
        ({"reducer": "a\0b"}, "reducer 'a.x00b': there can be no NUL"),
    ],
)
def test_wrong_option_of_a_job_is_told(options, message):
    with Client("127.0.0.1:1") as client, pytest.raises(ConfigError, match=message):
        client.submit("f", **options)


def test_wrong_name_is_told():
    with Client("127.0.0.1:1") as client, pytest.raises(ConfigError, match="function 'a.x00b': there can be no NUL"):
        client.submit("a\0b")
    with Client("127.0.0.1:1") as client, pytest.raises(ConfigError, match="needs the name"):
        client.run("")
    with pytest.raises(ConfigError, match="client_id"):
        Client("127.0.0.1:1", client_id="a\0b")


def test_function_may_be_bytes(client, crew):
    assert client.run(b"reverse", b"ab") == b"ba"


@pytest.mark.parametrize("timeout_s", [1e7, float("inf")])
def test_timeout_may_be_as_long_as_one_likes(client, crew, timeout_s):
    assert client.run("reverse", b"ab", timeout_s=timeout_s) == b"ba"
    assert client.ping(timeout_s=timeout_s) < 10


# -- encoders ----------------------------------------------------------------------


@pytest.mark.parametrize("encoder, value", [("json", {"a": [1, None]}), ("text", "grün"), ("pickle", {1, 2}), ("bytes", b"\0")])
def test_objects_go_there_and_come_back(address, encoder, value):
    with Crew(address, {b"same": lambda worker, handle, workload: workload}), Client(address, encoder=encoder) as client:
        assert client.run("same", value) == value


def test_encoder_of_a_function_and_of_a_job(address):
    crew = Crew(address, {b"a": lambda *all: all[2], b"b": lambda *all: all[2]})
    with crew, Client(address, encoders={"a": "json"}) as client:
        assert client.run("a", [1]) == [1]
        assert client.run("b", b"1") == b"1"
        assert client.run("b", [2], encoder="json") == [2]


def test_result_that_cannot_be_decoded_raises_what_the_encoder_raised(address):
    with Crew(address, {b"bad": lambda *_: b"{"}), Client(address, encoder="json") as client:
        with pytest.raises(ValueError):
            client.run("bad", 1)
        assert isinstance(client.submit("bad", 1).exception(20), ValueError)


def test_workload_that_cannot_be_encoded_is_told_before_anything_is_sent(client):
    with pytest.raises(TypeError, match="expected bytes, got dict"):
        client.submit("f", {})


# -- the connection ------------------------------------------------------------------


def test_client_says_its_id_and_prefix(address):
    with Crew(address, {b"app/same": lambda worker, handle, workload: workload}):
        with Client(address, client_id="me", prefix="app/") as client, wire.Wire(address) as admin:
            assert client.run("same", b"x") == b"x"
            assert any(" me " in line for line in admin.table("workers"))


def test_ping_and_echo(client, address):
    assert 0 < client.ping() < 10
    assert client.echo(b"\0x", "%s:%d" % address) == b"\0x"
    with pytest.raises(ConfigError, match="none of the servers"):
        client.echo(server="elsewhere:1")


def test_client_without_a_server_tells_which_and_why():
    host, port = peers.free_address()
    with Client([(host, port)]) as client:
        with pytest.raises(JobLost, match="%s:%d: cannot connect: Connection refused" % (host, port)):
            client.run("f")
        assert isinstance(client.submit("f").exception(20), JobLost)
        assert isinstance(client.submit_many("f", [1, 2], encoder="json")[1].exception(20), JobLost)
        with pytest.raises(ServerLost):
            client.ping()


def test_server_that_accepts_and_never_answers_is_a_timeout():
    with ScriptedServer(lambda connection, number: connection.is_closed()) as server, Client(server.address) as client:
        with pytest.raises(JobTimeout):
            client.run("f", timeout_s=0.05)
        with pytest.raises(ServerLost, match="no answer within 0.05 s"):
            client.ping(timeout_s=0.05)
        with pytest.raises(JobTimeout):
            client.submit("f").result(0.05)


@pytest.mark.parametrize("when", ["at once", "after the job was created"])
@pytest.mark.parametrize("how", ["run", "submit"])
def test_server_that_goes_away_loses_the_job(when, how):
    def script(connection, number):
        connection.receive()
        connection.receive()
        if when != "at once":
            connection.send(wire.OPTION_RES, b"exceptions")
            connection.send(wire.JOB_CREATED, b"H:s:1")

    with ScriptedServer(script) as server, Client(server.address) as client:
        with pytest.raises(JobLost) as caught:
            client.run("f") if how == "run" else client.submit("f").result(20)
    assert caught.value.server == "%s:%d" % server.address
    assert caught.value.handle == (None if when == "at once" else "H:s:1")


def test_garbage_from_a_server_loses_the_job():
    def script(connection, number):
        connection.receive()
        connection.send_raw(b"\0BAD" + bytes(20))
        connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        with pytest.raises(JobLost, match="does not speak Gearman"):
            client.run("f")


def test_refused_job_tells_why():
    def script(connection, number):
        connection.receive()
        connection.receive()
        connection.send(wire.ERROR, b"UNKNOWN_OPTION", b"no")
        connection.send(wire.ERROR, b"QUEUE_ERROR", b"Job queue is full")

    with ScriptedServer(script) as server, Client(server.address) as client:
        with pytest.raises(JobRefused, match="QUEUE_ERROR: Job queue is full"):
            client.run("f")


def test_answer_of_an_unknown_type_is_told():
    def script(connection, number):
        for _ in range(2):
            connection.receive()
        connection.send(wire.OPTION_RES, b"exceptions")
        connection.send(99, b"what")
        connection.receive()
        connection.send(wire.ECHO_RES, b"x")
        connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        with pytest.raises(ServerLost, match="expected packet type 20, got 99: what"):
            client.status("H:s:1")
        assert client.echo(b"x") == b"x"


def test_answers_may_come_byte_by_byte():
    answer = b"".join(
        [
            response(wire.OPTION_RES, b"exceptions"),
            response(wire.JOB_CREATED, b"H:s:1"),
            response(wire.WORK_DATA, b"H:s:1", b"data"),
            response(wire.WORK_COMPLETE, b"H:s:1", b"result"),
        ]
    )

    def script(connection, number):
        connection.receive()
        connection.receive()
        for at in range(len(answer)):
            connection.send_raw(answer[at : at + 1])
        connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        job = client.submit("f")
        assert (job.result(20), job.data) == (b"result", [b"data"])


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_answers_may_be_cut_anywhere(cut):
    answer = b"".join(
        [response(wire.OPTION_RES, b"exceptions"), response(wire.JOB_CREATED, b"H:s:1"), response(wire.WORK_COMPLETE, b"H:s:1", b"x")]
    )

    def script(connection, number):
        connection.receive()
        connection.receive()
        connection.send_raw(answer[:cut])
        if cut >= len(answer):
            connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        if cut < len(answer):
            with pytest.raises(JobLost):
                client.run("f")
        else:
            assert client.run("f") == b"x"


def test_idle_connection_that_ended_is_made_anew():
    def script(connection, number):
        connection.receive()
        connection.receive()
        connection.send(wire.OPTION_RES, b"exceptions")
        connection.send(wire.JOB_CREATED, b"H:s:1")
        connection.send(wire.WORK_COMPLETE, b"H:s:1", b"%d" % number)

    with ScriptedServer(script) as server, Client(server.address) as client:
        assert client.run("f") == b"0"
        wait_until(lambda: not client._links[0]._connection.silent_and_open, "the end has come")
        assert client.run("f") == b"1"


def test_retries_go_to_the_server_that_is_back(tmp_path):
    retried = []

    def script(connection, number):
        connection.receive()
        connection.receive()
        if number == 2:
            connection.send(wire.OPTION_RES, b"exceptions")
            connection.send(wire.JOB_CREATED, b"H:s:1")
            connection.send(wire.WORK_COMPLETE, b"H:s:1", b"at last")
            connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        job = client.submit("f", retries=2, on_retry=retried.append)
        assert (job.result(20), job.retries_done, retried) == (b"at last", 2, [1, 2])


def test_failed_job_is_retried_and_then_fails(client, crew):
    retried = []
    job = client.submit("fail", retries=2, on_retry=retried.append)
    assert isinstance(job.exception(20), JobFailed)
    assert retried == [1, 2]


def test_close_loses_what_has_not_ended(client):
    job = client.submit("nobody")
    client.close()
    assert isinstance(job.exception(20), JobLost)
    with pytest.raises(ConfigError, match="closed"):
        client.submit("f")


def test_close_leaves_nothing_behind():
    with Server(port=0) as server, Crew(server.address, FUNCTIONS):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with Client(server.address) as client:
                client.submit("reverse", b"x").result(20)
                client.run("reverse", b"x")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the descriptors are closed")


# -- several servers -----------------------------------------------------------------


@pytest.fixture
def two_servers():
    with Server(port=0) as one, Server(port=0) as two:
        yield one, two


def submitted(server):
    return sum(row[0] for row in wire.status(server.address).values())


def test_jobs_are_spread_over_the_servers(two_servers):
    with Client([server.address for server in two_servers]) as client:
        for _ in range(10):
            client.submit_background("f")
    assert [submitted(server) for server in two_servers] == [5, 5]


def test_one_unique_goes_to_one_server_whatever_the_order(two_servers):
    addresses = [server.address for server in two_servers]
    with Client(addresses) as one, Client(addresses[::-1]) as other:
        for number in range(20):
            handles = {client.submit_background("f", unique="u%d" % number) for client in (one, other)}
            assert len(handles) == 1
    counts = [submitted(server) for server in two_servers]
    assert sum(counts) == 20 and all(counts)


def test_dash_coalesces_by_the_workload_over_several_servers(two_servers):
    with Client([server.address for server in two_servers]) as client:
        for number in range(20):
            assert len({client.submit_background("f", b"%d" % number, unique="-") for _ in range(2)}) == 1
    counts = [submitted(server) for server in two_servers]
    assert sum(counts) == 20 and all(counts)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_uniques_are_spread_evenly_and_those_of_a_lost_server_too(count):
    with Client(["host%d:4730" % number for number in range(count)]) as client:
        orders = [client._in_order(b"job-%d" % number) for number in range(2000)]
    lost = client._links[0]
    for links in ([order[0] for order in orders], [order[1] for order in orders if order[0] is lost]):
        others = [link for link in client._links if link in links]
        assert len(others) >= count - 1
        assert all(abs(links.count(link) * len(others) / len(links) - 1) < 0.4 for link in others)


def test_server_that_is_down_is_passed_over():
    with Server(port=0) as server, Client([peers.free_address(), server.address]) as client:
        began_at = time.monotonic()
        for number in range(50):
            client.submit_background("f", unique="u%d" % number)
        assert submitted(server) == 50 and time.monotonic() - began_at < 5


def test_status_is_asked_of_the_servers_that_are_there():
    with Server(port=0) as server, Client([peers.free_address(), server.address]) as client:
        handle = client.submit_background("f")
        assert client.status(handle).known
        with pytest.raises(ServerLost):
            client.status("H:other:1")


def test_status_is_asked_of_every_server(two_servers):
    with Client([server.address for server in two_servers]) as client:
        handles = [client.submit_background("f") for _ in range(2)]
        assert all(client.status(handle).known for handle in handles)


def test_job_moves_to_the_other_server_when_its_own_goes(two_servers):
    with Client([server.address for server in two_servers]) as client:
        created = threading.Event()
        job = client.submit("reverse", b"ab", retries=1, on_created=lambda job: created.set())
        assert created.wait(20)
        first = next(server for server in two_servers if job.server.endswith(":%d" % server.address[1]))
        other = two_servers[1 - two_servers.index(first)]
        with Crew(other.address, FUNCTIONS):
            first.stop()
            assert job.result(20) == b"ba"


def test_server_that_comes_back_is_used_again():
    address = peers.free_address()
    with Client(address) as client:
        with pytest.raises(JobLost):
            client.run("reverse")
        for _ in range(2):
            with Server(port=address[1]), Crew(address, FUNCTIONS):
                assert client.run("reverse", b"ab") == b"ba"


def test_foreground_jobs_with_retries_survive_a_server_that_is_killed_and_restarted():
    address = peers.free_address()
    with Client(address) as client:
        server = Server(port=address[1])
        server.start()
        crew = Crew(address, FUNCTIONS, count=2)
        jobs = [client.submit("reverse", b"%d" % at, retries=1000) for at in range(1000)]
        wait_until(lambda: sum(job.done() for job in jobs) > 50, "some are done")
        server.stop()
        crew.__exit__()
        with Server(port=address[1]), Crew(address, FUNCTIONS, count=2):
            assert [job.result(60) for job in jobs] == [(b"%d" % at)[::-1] for at in range(1000)]


# -- forks -----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_both_sides_of_a_fork_may_use_the_client(client, crew):
    pending = client.submit("nobody")
    assert client.run("reverse", b"ab") == b"ba"
    child = os.fork()
    if not child:
        try:
            good = client.run("reverse", b"cd") == b"dc" and client.submit("reverse", b"ef").result(20) == b"fe"
            os._exit(0 if good and _is_lost(pending) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert client.run("reverse", b"gh") == b"hg"
    assert not pending.done()


def _is_lost(job):
    try:
        job.result(1)
    except JobLost as error:
        return "fork" in str(error)
    return False


# -- what has gone wrong once -------------------------------------------------------------


def test_cancelled_job_is_done_for_wait_and_as_completed(client):
    jobs = [client.submit("nobody") for _ in range(2)]
    assert jobs[0].cancel() and jobs[0].cancel()
    threading.Timer(0.02, jobs[1].cancel).start()
    assert concurrent.futures.wait(jobs, 20).not_done == set()
    assert len(list(concurrent.futures.as_completed(jobs, 20))) == 2


def test_callback_that_wants_to_end_the_thread_does_not(client, crew):
    client.submit("reverse", on_complete=lambda result: sys.exit()).add_done_callback(lambda job: None)
    assert client.submit("reverse", b"ab").result(20) == b"ba"
    assert client.run("reverse", b"ab") == b"ba"


def test_callback_that_is_interrupted_loses_no_other_answer(client, crew):
    def interrupt(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.run("reverse", b"1", on_created=interrupt)
    assert [client.run("reverse", b"%d" % number) for number in (12, 34, 56)] == [b"21", b"43", b"65"]


def test_job_that_run_gave_up_calls_back_no_more(client):
    called = []
    with pytest.raises(JobTimeout):
        client.run("nobody", timeout_s=0.05, on_fail=lambda: called.append(1), retries=5)
    client.close()
    assert called == []


def test_run_and_submit_from_many_threads_with_rapid_switches(client, crew):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def each(number):
            for at in range(150):
                workload = b"%d-%d" % (number, at)
                run = client.run("reverse", workload, timeout_s=20) if number % 2 else client.submit("reverse", workload).result(20)
                assert run == workload[::-1]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(each, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_status_of_a_server_that_connects_slowly_keeps_its_timeout():
    # Nobody answers at this address (TEST-NET-1); where there is no route at all it fails at once.
    with Client("192.0.2.1:4730") as client:
        began_at = time.monotonic()
        with pytest.raises(ServerLost):
            client.status("H:x:1", timeout_s=0.2)
        assert time.monotonic() - began_at < 3


def test_wait_for_background_keeps_its_timeout_with_a_server_that_never_answers():
    with ScriptedServer(lambda connection, number: connection.is_closed()) as server, Client(server.address) as client:
        began_at = time.monotonic()
        with pytest.raises(ServerLost):
            client.wait_for_background("H:x:1", timeout_s=0.2)
        assert time.monotonic() - began_at < 3


@pytest.mark.parametrize("falls_silent", [True, False])
def test_wait_for_background_of_a_known_job_gives_up_where_its_server_falls_silent_and_is_told_where_it_goes(falls_silent):
    def script(connection, number):
        connection.receive()
        assert connection.receive() == (wire.GET_STATUS, b"H:x:1")
        connection.send(wire.OPTION_RES, b"exceptions")
        connection.send(wire.STATUS_RES, b"H:x:1", b"1", b"0", b"0", b"0")
        assert connection.receive() == (wire.GET_STATUS, b"H:x:1")
        if falls_silent:
            connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        if falls_silent:
            assert client.wait_for_background("H:x:1", timeout_s=2) is False
        else:
            with pytest.raises(ServerLost):
                client.wait_for_background("H:x:1", timeout_s=20)


def test_close_does_not_wait_for_a_server_that_takes_nothing():
    release = threading.Event()
    with ScriptedServer(lambda connection, number: release.wait(20)) as server:
        client = Client(server.address)
        jobs = []
        thread = threading.Thread(target=lambda: jobs.append(client.submit("f", bytes(100_000_000))))
        thread.start()
        wait_until(lambda: client._links[0]._sending.locked(), "it is sending")
        began_at = time.monotonic()
        client.close()
        assert time.monotonic() - began_at < 10
        thread.join(20)
        with pytest.raises(JobLost):
            jobs[0].result(20)
        release.set()


# -- results that a server keeps ---------------------------------------------------------


@pytest.fixture
def keeping():
    """This server, which keeps what background jobs end with."""
    with Server(port=0) as server:
        for function in FUNCTIONS:
            operations.change_policy(server.broker, function, {"keep_s": 60})
        yield server


def in_background(client, function, workload=b"", **options):
    """The handle of a background job that has ended."""
    handle = client.submit_background(function, workload, **options)
    assert client.wait_for_background(handle, timeout_s=20)
    return handle


def test_result_is_what_a_background_job_has_completed_with(keeping):
    with Crew(keeping.address, FUNCTIONS), Client(keeping.address) as client:
        handle = in_background(client, "reverse", b"stressed", unique="u")
        assert client.result(handle) == client.result(handle.encode()) == client.result_of_unique("reverse", "u") == b"desserts"
        assert client.result(in_background(client, "reverse")) == b""
        job = client.submit("reverse", b"ab", background=True)
        client.wait_for_background(job, timeout_s=20)
        assert client.result(job) == b"ba" and client.result(client.submit("reverse", b"cd")) == b"dc"
        # The connection is as good as before.
        assert client.run("reverse", b"xy") == b"yx"


def test_result_of_a_job_that_did_not_end_well_raises_what_the_foreground_raises(keeping):
    with Crew(keeping.address, FUNCTIONS), Client(keeping.address) as client:
        handle = in_background(client, "fail")
        with pytest.raises(JobFailed) as failed:
            client.result(handle)
        assert (failed.value.handle, failed.value.server) == (handle, "%s:%d" % keeping.address)
        in_background(client, "explode", unique="u")
        with pytest.raises(JobException, match="it broke") as raised:
            client.result_of_unique("explode", "u")
        assert (raised.value.data, raised.value.function) == (b"it broke", "explode")


def test_result_of_a_buried_job_is_its_exception(keeping):
    operations.change_policy(keeping.broker, b"explode", {"keep_s": 60, "attempts": 1})
    with Crew(keeping.address, FUNCTIONS), Client(keeping.address) as client:
        handle = client.submit_background("explode")
        wait_until(lambda: operations.result(keeping.broker, handle.encode()), "it is buried")
        with pytest.raises(JobException, match="it broke"):
            client.result(handle)


def test_result_of_a_job_that_has_not_ended_is_a_timeout(keeping):
    with Client(keeping.address) as client:
        handle = client.submit_background("reverse", b"ab", unique="u")
        for ask in (lambda: client.result(handle), lambda: client.result_of_unique("reverse", "u")):
            with pytest.raises(JobTimeout, match="has not ended") as late:
                ask()
            assert isinstance(late.value, concurrent.futures.TimeoutError)
        with Crew(keeping.address, FUNCTIONS):
            client.wait_for_background(handle, timeout_s=20)
            assert client.result(handle) == b"ba"
            # Of the one that has ended, though another is under way.
        client.submit_background("reverse", b"cd", unique="u")
        assert client.result_of_unique("reverse", "u") == b"ba"


def test_result_that_nobody_keeps_or_knows_is_none(address, crew):
    with Client(address) as client:
        handle = in_background(client, "reverse", b"ab", unique="u")
        for ask in (lambda: client.result(handle), lambda: client.result("H:never:1"), lambda: client.result_of_unique("reverse", "u")):
            with pytest.raises(NoResult, match="no server knows it"):
                ask()
        assert client.run("reverse", b"xy") == b"yx"


def test_result_is_decoded_as_the_job_was_encoded(keeping):
    with Crew(keeping.address, FUNCTIONS), Client(keeping.address, encoder="text", encoders={"reverse": "json"}, prefix="") as client:
        handle = in_background(client, "reverse", 12, unique="u")
        assert client.result(handle) == "21" and client.result(handle, encoder="json") == client.result_of_unique("reverse", "u") == 21
        job = client.submit("reverse", 34, background=True)
        client.wait_for_background(job, timeout_s=20)
        assert client.result(job) == 43
        with pytest.raises(ValueError):
            client.result(in_background(client, "reverse", b"}", encoder="bytes"), encoder="json")
        assert client.run("reverse", 12) == 21


def test_result_of_a_prefixed_function_is_found_by_its_unique(keeping):
    with Crew(keeping.address, FUNCTIONS), Client(keeping.address, prefix="rev") as client:
        in_background(client, "erse", b"ab", unique="u")
        assert client.result_of_unique("erse", "u") == client.result_of_unique(b"erse", b"u") == b"ba"


@pytest.mark.parametrize("ask", [
    lambda client: client.result("two words"), lambda client: client.result("line\nfeed"), lambda client: client.result(""), lambda client: client.result("nul\0"),
    lambda client: client.result_of_unique("f", "a b"), lambda client: client.result_of_unique("a b", "u"), lambda client: client.result_of_unique("f", ""),
])  # fmt: skip
def test_name_that_no_line_can_say_is_refused_unsent(keeping, ask):
    with Client(keeping.address) as client:
        with pytest.raises(ConfigError, match="one word"):
            ask(client)
        assert keeping.broker.connections == 0


def test_result_is_asked_of_the_server_that_has_the_job(keeping):
    with Server(port=0) as other, Crew(keeping.address, FUNCTIONS), Client([other.address, keeping.address]) as client:
        with Client(keeping.address) as one:
            handle = in_background(one, "reverse", b"ab", unique="u")
        assert client.result(handle) == client.result_of_unique("reverse", "u") == b"ba"
        other.stop()
        assert client.result(handle) == b"ba"
        with pytest.raises(ServerLost):
            client.result("H:never:1")
    with Server(port=0) as one, Server(port=0) as two, Client([one.address, two.address]) as client:
        for server in (one, two):
            operations.change_policy(server.broker, b"reverse", {"keep_s": 60})
        with Crew(one.address, FUNCTIONS), Crew(two.address, FUNCTIONS):
            jobs = [client.submit("reverse", b"%d" % number, background=True) for number in range(10, 14)]
            assert len({client.wait_for_background(job, timeout_s=20) and job.server for job in jobs}) == 2
            assert [client.result(job) for job in jobs] == [b"01", b"11", b"21", b"31"]


def test_result_that_the_access_list_refuses_says_so(tmp_path):
    (tmp_path / "acl").write_text("default deny\ntoken:app submit f*\n")
    with Server(port=0, acl=str(tmp_path / "acl")) as server, Client(server.address, token="app") as client:
        for name in (b"f", b"another"):
            handle = b"H:ended:" + name
            server.broker.turn(lambda registry: registry.results.keep(handle, name, b"u", "complete", b"x", registry.epoch_s, registry.now, 60))
        with pytest.raises(AdminRefused, match="PERMISSION_DENIED The access list"):
            client.result_of_unique("another", "u")
        with pytest.raises(AdminRefused, match="PERMISSION_DENIED The access list"):
            client.result("H:ended:another")
        assert client.result("H:ended:f") == client.result_of_unique("f", "u") == b"x"
        with pytest.raises(NoResult):
            client.result("H:never:1")


def test_large_result_is_whole_and_asked_for_among_other_jobs(keeping):
    with Crew(keeping.address, FUNCTIONS), Client(keeping.address) as client:
        handle = in_background(client, "reverse", b"a" * 2_000_000 + b"b")
        jobs = client.submit_many("reverse", [b"%d" % number for number in range(100, 150)])
        found = []
        threads = [threading.Thread(target=lambda: found.append(client.result(handle))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert found == [b"b" + b"a" * 2_000_000] * 3
        assert all(job.result(20) == str(number)[::-1].encode() for job, number in zip(jobs, range(100, 150)))


def test_server_that_does_not_answer_for_a_result_is_lost():
    def script(connection, number):
        connection.is_closed()

    with ScriptedServer(script) as server, Client(server.address) as client:
        with pytest.raises(ServerLost, match="0.2 s"):
            client.result("H:x:1", timeout_s=0.2)
