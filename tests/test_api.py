"""The JSON API: every operation, its fields, its refusals; that all administrative commands are there; access and TLS."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time

import pytest

from certificates import certificates
from gearmand import Server, api, text_commands
from gearmand.api_fields import Field, values_of
from gearmand.http_request import Refused
from gearmand.json_bodies import from_json, to_json
from gearmand.web_handler import _match
from test_server import Background
from web import Api
from wire import (
    GRAB_JOB_ALL,
    SET_CLIENT_ID,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Wire,
    status,
    wait_until,
)


JOB_ASSIGN_ALL = 40


@pytest.fixture
def server():
    with Server(port=0, http_port=0) as server:
        yield server


@pytest.fixture
def asked(server):
    with Api(server) as asked:
        yield asked


@pytest.fixture
def worker(server):
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        yield worker


def error_of(found):
    return found["error"]["code"]


# -- jobs --------------------------------------------------------------------------


def test_job_is_answered_with_its_result(asked, worker):
    asking = Background(asked, "POST", "/jobs", {"function": "f", "workload": "ä"})
    handle, _, workload = worker.grab()
    assert workload == "ä".encode()
    worker.send(WORK_COMPLETE, handle, b"r")
    assert asking.result() == {"handle": handle.decode(), "result": "r"}


@pytest.mark.parametrize("given, expected", [("text", b"text"), ({"base64": "AP8="}, b"\0\xff"), ("", b""), (None, b"")])
def test_workload_is_text_or_base64(asked, worker, given, expected):
    asked("POST", "/jobs", {"function": "f", "workload": given, "background": True})
    assert worker.grab()[2] == expected


@pytest.mark.parametrize("result, as_base64, expected", [
    (b"text", False, "text"), (b"\xff", False, {"base64": "/w=="}), (b"text", True, {"base64": "dGV4dA=="}), (b"", False, ""),
])  # fmt: skip
def test_result_is_text_where_it_is_utf_8_unless_base64_is_wanted(asked, worker, result, as_base64, expected):
    asking = Background(asked, "POST", "/jobs", {"function": "f", "base64": as_base64})
    worker.send(WORK_COMPLETE, worker.grab()[0], result)
    assert asking.result()["result"] == expected


def test_data_and_warnings_stand_beside_the_result(asked, worker):
    asking = Background(asked, "POST", "/jobs", {"function": "f"})
    handle = worker.grab()[0]
    worker.send(WORK_DATA, handle, b"1")
    worker.send(WORK_STATUS, handle, b"1", b"2")
    worker.send(WORK_WARNING, handle, b"w")
    worker.send(WORK_DATA, handle, b"2")
    worker.send(WORK_COMPLETE, handle, b"r")
    assert asking.result() == {"handle": handle.decode(), "data": ["1", "2"], "warnings": ["w"], "result": "r"}


@pytest.mark.parametrize("end, expected", [
    ((WORK_FAIL,), {"code": "WORK_FAIL", "text": "the job failed"}),
    ((WORK_EXCEPTION, b"oh"), {"code": "WORK_EXCEPTION", "text": "the worker raised an exception", "data": "oh"}),
])  # fmt: skip
def test_job_that_does_not_end_well_is_a_500(asked, worker, end, expected):
    asking = Background(asked, "POST", "/jobs", {"function": "f"}, 500)
    handle = worker.grab()[0]
    worker.send(end[0], handle, *end[1:])
    assert asking.result() == {"handle": handle.decode(), "error": expected}


def test_stream_has_a_line_for_each_report(server, asked, worker):
    body = json.dumps({"function": "f", "stream": True})
    asking = Background(asked.raw, "POST", "/api/v1/jobs", body, {"Content-Type": "application/json"})
    handle = worker.grab()[0]
    worker.send(WORK_STATUS, handle, b"1", b"2")
    worker.send(WORK_DATA, handle, b"d")
    worker.send(WORK_WARNING, handle, b"\xff")
    worker.send(WORK_EXCEPTION, handle, b"e")
    status, headers, lines = asking.result()
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"report": "created", "handle": handle.decode()},
        {"report": "status", "numerator": 1, "denominator": 2},
        {"report": "data", "data": "d"},
        {"report": "warning", "data": {"base64": "/w=="}},
        {"report": "exception", "data": "e"},
    ]


def test_stream_that_is_refused_has_a_status_of_its_own(server, asked):
    with Wire(server.address) as wire:
        wire.ask("maxqueue f 1")
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
    assert error_of(asked("POST", "/jobs", {"function": "f", "stream": True}, 503)) == "QUEUE_ERROR"


def test_stream_that_takes_too_long_ends_with_a_line_that_says_so(asked, worker):
    body = json.dumps({"function": "none", "stream": True, "timeout_s": 0.1})
    status, _, lines = asked.raw("POST", "/api/v1/jobs", body, {"Content-Type": "application/json"})
    assert (status, json.loads(lines.splitlines()[-1])["report"]) == (200, "timeout")


def test_job_that_takes_too_long_is_a_504_and_abandoned(server, asked):
    assert error_of(asked("POST", "/jobs", {"function": "f", "timeout_s": 0.1}, 504)) == "TIMEOUT"
    assert status(server.address)["f"] == (0, 0, 0)


def test_data_over_the_bound_of_one_answer_is_a_502():
    with Server(port=0, http_port=0, max_unsent=100_000) as server, Api(server) as asked, Wire(server.address) as worker:
        worker.can_do(b"f")
        asking = Background(asked, "POST", "/jobs", {"function": "f"}, 502)
        handle = worker.grab()[0]
        for _ in range(8):
            worker.send(WORK_DATA, handle, b"x" * 20_000)
            worker.echo()
            # Or it would be given up as one that takes nothing.
            wait_until(lambda: not any(waiter.waiting_bytes for waiter in list(server.broker.callers)), "it is taken")
        assert error_of(asking.result()) == "RESULT_TOO_LARGE"


def test_background_job_is_answered_with_202_and_its_handle(server, asked):
    status, _, body = asked.raw(
        "POST", "/api/v1/jobs", b'{"function": "f", "background": true, "priority": "high"}', {"Content-Type": "application/json"}
    )
    assert status == 202
    job = asked.get("/jobs/" + json.loads(body)["handle"])
    assert (job["state"], job["priority"], job["background"], job["stored"]) == ("queued", "high", True, False)


@pytest.mark.parametrize("when", ["delay_s", "epoch"])
def test_delayed_job_is_scheduled_in_the_background(asked, when):
    when = {when: 3600 if when == "delay_s" else int(time.time()) + 3600}
    handle = asked("POST", "/jobs", {"function": "f", "priority": "low", **when})["handle"]
    job = asked.get("/jobs/" + handle)
    assert (job["state"], job["background"], job["priority"], job["since_s"]) == ("scheduled", True, "low", None)
    assert 3590 < job["due_in_s"] <= 3601
    function = asked.get("/functions/f")
    assert (function["scheduled"], function["queued"]) == (1, {"high": 0, "normal": 0, "low": 0})


def test_job_of_a_time_gone_by_is_queued_at_once(asked):
    handle = asked("POST", "/jobs", {"function": "f", "epoch": 1})["handle"]
    assert asked.get("/jobs/" + handle)["state"] == "queued"


def test_jobs_of_one_unique_are_one(asked):
    handles = {asked("POST", "/jobs", {"function": "f", "unique": "u", "background": True})["handle"] for _ in range(3)}
    assert len(handles) == 1
    assert asked.get("/uniques/u")["handle"] in handles
    assert error_of(asked("GET", "/uniques/v", status=404)) == "UNKNOWN_JOB"
    assert asked.get("/functions/f")["coalesced"] == 2


def test_reduce_job_has_its_reducer(asked, worker):
    handle = asked("POST", "/jobs", {"function": "f", "workload": "w", "reducer": "r", "background": True})["handle"]
    worker.send(GRAB_JOB_ALL)
    assert worker.expect(JOB_ASSIGN_ALL) == [handle.encode(), b"f", b"", b"r", b"w"]


@pytest.mark.parametrize("fields, name", [
    ({}, "function"), ({"function": ""}, "function"), ({"function": 1}, "function"), ({"function": "a\0b"}, "function"),
    ({"function": {"base64": "!"}}, "function"), ({"function": {"base64": "AAAA", "x": 1}}, "function"), ({"function": []}, "function"),
    ({"function": "f", "workload": 1}, "workload"), ({"function": "f", "unique": "a\0"}, "unique"),
    ({"function": "f", "priority": "urgent"}, "priority"), ({"function": "f", "priority": 1}, "priority"),
    ({"function": "f", "background": "yes"}, "background"), ({"function": "f", "epoch": 1.5}, "epoch"),
    ({"function": "f", "epoch": True}, "epoch"), ({"function": "f", "delay_s": -1}, "delay_s"), ({"function": "f", "delay_s": "1"}, "delay_s"),
    ({"function": "f", "epoch": 1, "delay_s": 1}, "epoch"), ({"function": "f", "what": 1}, "what"),
    ({"function": "f" * 8193}, "Function"), ({"function": "f", "unique": "u" * 65}, "Unique"),
])  # fmt: skip
def test_submission_that_is_none_is_refused_and_named(server, asked, fields, name):
    found = asked("POST", "/jobs", {**fields, "background": fields.get("background", True)}, 400)
    assert name in found["error"]["text"]
    assert status(server.address) == {}


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'"f"', b"{", b'{"function": "f"} x', b"\xff", b"[" * 100_000, b'{"epoch": ' + b"1" * 50 + b"}", b'{"delay_s": NaN}'])
def test_body_that_is_no_object_of_json_is_refused(server, asked, body):
    status, _, answer = asked.raw("POST", "/api/v1/jobs", body, {"Content-Type": "application/json; charset=utf-8"})
    assert status == 400 and json.loads(answer)["error"]["code"] in ("INVALID_JSON", "INVALID_ARGUMENT")


def test_epoch_may_stand_in_the_query_where_there_is_no_body(asked):
    assert asked("POST", "/jobs?function=a+b&background=true&workload=%FF&priority=low")["handle"]
    assert asked.get("/functions/a%20b")["queued"]["low"] == 1


# -- one job -----------------------------------------------------------------------


def test_status_of_a_job_is_that_of_its_worker(server, asked, worker):
    handle = asked("POST", "/jobs", {"function": "f", "background": True})["handle"]
    worker.grab()
    worker.send(WORK_STATUS, handle.encode(), b"3", b"4")
    worker.echo()
    job = asked.get("/jobs/" + handle)
    assert (job["state"], job["numerator"], job["denominator"], job["retries"]) == ("running", 3, 4, 0)
    assert job["worker"] == "%s:%d" % worker.socket.getsockname() and 0 <= job["since_s"] < 20
    worker.send(WORK_COMPLETE, handle.encode(), b"")
    worker.echo()
    assert error_of(asked("GET", "/jobs/" + handle, status=404)) == "UNKNOWN_JOB"


def listeners(registry):
    """How many wait for a job, whatever it is. In a turn."""
    return sum(map(len, registry.awaited.values())) + sum(len(job.listeners or ()) for job in registry.jobs.values())


@pytest.mark.parametrize("unique", ["", "u"])
def test_result_of_a_background_job_comes_to_who_asks_before_its_end(server, asked, unique):
    """One that is plain while it waits, and one that is not."""
    handle = asked("POST", "/jobs", {"function": "f", "unique": unique, "background": True})["handle"]
    with Api(server) as other:
        asking = [Background(api, "GET", "/jobs/%s/result?wait_s=20" % handle) for api in (asked, other)]
        wait_until(lambda: server.broker.turn(listeners) == 2, "they wait")
        with Wire(server.address) as worker:
            worker.can_do(b"f")
            assert worker.grab()[0] == handle.encode()
            worker.send(WORK_DATA, handle.encode(), b"d")
            worker.send(WORK_COMPLETE, handle.encode(), b"r")
            worker.echo()
        assert [each.result() for each in asking] == [{"handle": handle, "data": ["d"], "result": "r"}] * 2
    assert not server.broker.registry.awaited and not server.broker.callers


def test_result_that_does_not_come_in_time_is_a_202_and_the_job_stays(server, asked):
    handle = asked("POST", "/jobs", {"function": "f", "background": True})["handle"]
    job = asked("GET", "/jobs/%s/result?wait_s=0.05" % handle, status=202)
    assert job["state"] == "queued"
    assert not server.broker.registry.awaited and status(server.address)["f"] == (1, 0, 0)


def test_result_of_a_job_that_is_cancelled_or_fails_is_a_500(server, asked, worker):
    handle = asked("POST", "/jobs", {"function": "g", "background": True})["handle"]
    asking = Background(asked, "GET", "/jobs/%s/result" % handle, None, 500)
    wait_until(lambda: server.broker.registry.awaited, "it waits")
    with Api(server) as other:
        assert other("DELETE", "/jobs/" + handle) == {"cancelled": handle}
        assert error_of(asking.result()) == "WORK_FAIL"
        assert error_of(other("DELETE", "/jobs/" + handle, status=404)) == "UNKNOWN_JOB"


def test_result_of_a_running_job_joins_its_client(server, asked, worker):
    with Wire(server.address) as client:
        handle = client.submit(b"f")
        worker.grab()
        asking = Background(asked, "GET", "/jobs/%s/result" % handle.decode())
        wait_until(lambda: len(server.broker.registry.jobs[handle].listeners) == 2, "it waits")
        worker.send(WORK_COMPLETE, handle, b"r")
        assert client.receive()[0] == 13
        assert asking.result()["result"] == "r"


def test_result_of_a_buried_job_that_is_kept_is_there_at_once(server, asked, worker):
    asked("PUT", "/functions/f/policy", {"attempts": 1, "keep_s": 60})
    handle = asked("POST", "/jobs", {"function": "f", "background": True})["handle"]
    worker.send(WORK_EXCEPTION, worker.grab()[0], b"why")
    wait_until(lambda: asked.get("/functions/f/buried")["jobs"], "it is buried")
    # An hour is more than the test has.
    found = asked("GET", "/jobs/%s/result?wait_s=3600" % handle, status=500)
    assert found["error"] == {"code": "WORK_EXCEPTION", "text": "the worker raised an exception", "data": "why"}
    assert asked.get("/jobs/" + handle)["state"] == "buried"


def test_result_of_a_kicked_job_is_waited_for_anew(server, asked, worker):
    asked("PUT", "/functions/f/policy", {"attempts": 1, "keep_s": 60})
    handle = asked("POST", "/jobs", {"function": "f", "background": True})["handle"]
    worker.send(WORK_FAIL, worker.grab()[0])
    wait_until(lambda: asked.get("/functions/f/buried")["jobs"], "it is buried")
    assert asked("POST", "/functions/f/kick")["kicked"] == 1
    assert asked("GET", "/jobs/%s/result?wait_s=0.05" % handle, status=202)["state"] == "queued"
    worker.send(WORK_COMPLETE, worker.grab()[0], b"r")
    worker.echo()
    assert asked.get("/jobs/%s/result" % handle)["result"] == "r"


def test_result_of_no_job_is_a_404(asked):
    assert error_of(asked("GET", "/jobs/H:x:1/result", status=404)) == "UNKNOWN_JOB"


def test_result_of_a_dormant_job_comes_once_it_is_awake(tmp_path):
    """Jobs that lie in the store alone: none is in memory here but the first few."""
    with Server(port=0, http_port=0, queue=str(tmp_path / "queue.db"), queue_memory=1, durability="off") as server, Api(server) as asked:
        handles = [asked("POST", "/jobs", {"function": "f", "workload": str(at), "background": True})["handle"] for at in range(3)]
        found = [asked.get("/jobs/" + handle) for handle in handles]
        assert {job["state"] for job in found} == {"queued"} and {job["function"] for job in found} == {"f"}
        assert asked.get("/functions/f")["queued"]["normal"] == 3
        asking = Background(asked, "GET", "/jobs/%s/result" % handles[2])
        wait_until(lambda: server.broker.registry.awaited, "it waits")
        with Wire(server.address) as worker:
            worker.can_do(b"f")
            for handle in handles:
                assert worker.grab()[0] == handle.encode()
                worker.send(WORK_COMPLETE, handle.encode(), b"r" + handle.encode())
            worker.echo()
        assert asking.result()["result"] == "r" + handles[2]


# -- functions, workers, clients ---------------------------------------------------------


def test_functions_have_their_figures(asked, worker):
    for priority in ("high", "low", "low"):
        asked("POST", "/jobs", {"function": "g", "priority": priority, "background": True})
    found = {row["function"]: row for row in asked.get("/functions")["functions"]}
    assert set(found) == {"f", "g"} and found["f"]["workers"] == 1
    g = found["g"]
    assert (g["queued"], g["running"], g["submitted"]) == ({"high": 1, "normal": 0, "low": 2}, 0, 3)
    assert 0 < g["oldest_s"] < 20 and found["f"]["oldest_s"] is None
    assert "buckets" not in g["waits"]
    assert len(asked.get("/functions?histograms=true")["functions"][0]["waits"]["buckets"]) == 15


def test_function_is_created_limited_and_dropped(server, asked):
    assert asked("PUT", "/functions/a%2Fb%FF")["id"] == "a%2Fb%FF"
    assert asked.get("/functions/a%2Fb%FF")["function"] == {"base64": base64.b64encode(b"a/b\xff").decode()}
    assert asked("PUT", "/functions/f/limits", {"high": 5, "normal": 1})["limits"] == {"high": 5, "normal": 1, "low": None}
    asked("POST", "/jobs", {"function": "f", "background": True})
    assert error_of(asked("POST", "/jobs", {"function": "f", "background": True}, 503)) == "QUEUE_ERROR"
    assert error_of(asked("DELETE", "/functions/f", status=409)) == "FUNCTION_IN_USE"
    assert asked("DELETE", "/functions/a%2Fb%FF")["dropped"]
    assert error_of(asked("DELETE", "/functions/none", status=404)) == "UNKNOWN_FUNCTION"
    assert error_of(asked("GET", "/functions/none", status=404)) == "UNKNOWN_FUNCTION"
    assert error_of(asked("PUT", "/functions/f/limits", {"high": 0}, 400)) == "INVALID_ARGUMENT"


def test_limits_survive_with_a_store(tmp_path):
    queue = str(tmp_path / "queue.db")
    with Server(port=0, http_port=0, queue=queue) as server, Api(server) as asked:
        asked("PUT", "/functions/f/limits", {"low": 7})
    with Server(port=0, http_port=0, queue=queue) as server, Api(server) as asked:
        assert asked.get("/functions/f")["limits"] == {"high": None, "normal": None, "low": 7}


def test_workers_and_clients_are_who_they_are(server, asked, worker):
    worker.send(SET_CLIENT_ID, b"me")
    worker.echo()
    with Wire(server.address) as client:
        handle = client.submit(b"f", unique=b"u").decode()
        worker.grab()
        (row,) = asked.get("/workers")["workers"]
        assert (row["client_id"], row["functions"]) == ("me", ["f"])
        assert [job["handle"] for job in row["running"]] == [handle]
        (row,) = asked.get("/clients")["clients"]
        assert row["waits_for"] == 1 and row["waits_for_jobs"][0]["unique"] == "u"
        with Api(server) as other:
            asking = Background(other, "POST", "/jobs", {"function": "f", "workload": "x"})
            wait_until(lambda: len(asked.get("/clients")["clients"]) == 2, "a client of HTTP is there too")
            worker.send(WORK_COMPLETE, handle.encode(), b"")
            worker.send(WORK_COMPLETE, worker.grab()[0], b"")
            asking.result()


def test_jobs_are_listed_by_function_and_state_up_to_a_limit(server, asked, worker):
    for at in range(30):
        asked("POST", "/jobs", {"function": "fg"[at % 2], "background": True, "unique": str(at) if at % 3 else ""})
    worker.grab()
    jobs = asked.get("/jobs")["jobs"]
    assert len(jobs) == 30 and len({job["handle"] for job in jobs}) == 30
    assert len(asked.get("/jobs?function=g")["jobs"]) == 15
    assert [job["function"] for job in asked.get("/jobs?state=running")["jobs"]] == ["f"]
    cut = asked.get("/jobs?limit=7")
    assert (len(cut["jobs"]), cut["truncated"]) == (7, True)
    assert asked.get("/jobs?limit=30")["truncated"] is False
    for wrong in ("limit=0", "limit=x", "state=gone", "limit=1&limit=2", "x=1"):
        assert error_of(asked("GET", "/jobs?" + wrong, status=400)) == "INVALID_ARGUMENT"


def test_failures_say_what_the_workers_said(asked, worker):
    for kind, data in ((WORK_FAIL, ()), (WORK_EXCEPTION, (b"x" * 3000,))):
        asked("POST", "/jobs", {"function": "f", "background": True})
        worker.send(kind, worker.grab()[0], *data)
        worker.echo()
    latest, first = asked.get("/failures")["failures"]
    assert (latest["kind"], latest["data"], first["kind"], first["data"]) == ("exception", "x" * 2000, "failed", "")
    assert abs(latest["epoch_s"] - time.time()) < 60
    assert asked.get("/failures?function=g") == {"failures": []}


def test_history_is_that_of_a_function_or_of_all(server, asked, worker):
    wait_until(lambda: server.web.history._all.step == 0, "the clock thread has looked for the first time")
    asked("POST", "/jobs", {"function": "f", "background": True})
    server.web._look_at = 0.0
    server.web.look()
    one, all_of_them = asked.get("/functions/f/history"), asked.get("/history")
    assert (one["queued"][-1], all_of_them["submitted"][-1], one["step_s"]) == (1, 1, 15)
    (each,) = asked.get("/histories")["functions"]
    assert each["function"] == "f" and each["queued"] == one["queued"]
    assert asked.get("/history?since=%r" % one["times"][-1])["times"] == []


# -- the server --------------------------------------------------------------------------


def test_server_tells_of_itself(server, asked):
    found = asked.get("/server")
    assert (found["pid"], found["version"], found["connections"]["http"]) == (os.getpid(), server.control.version, 1)


def test_operations_are_those_of_the_table(asked):
    found = asked.get("")["operations"]
    assert [(row["method"], row["path"]) for row in found] == [(each.method, api.VERSION + each.path) for each in api.OPERATIONS]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1/", "/api/v2/jobs", "/api/v1/none", "/api/v1/jobs/a/b"])
def test_path_of_no_operation_is_not_found(asked, path):
    assert asked.raw("GET", path)[0] == 404


def test_table_is_unambiguous_and_its_fields_are_those_of_its_paths():
    for at, operation in enumerate(api.OPERATIONS):
        names = [field.name for field in operation.fields]
        assert len(set(names)) == len(names)
        for name in _match(operation.path, [b"%d" % n for n in range(20)][: operation.path.count("/") + 2]) or {}:
            assert name in names and next(field for field in operation.fields if field.name == name).required
        for other in api.OPERATIONS[:at]:
            assert (other.method, other.path) != (operation.method, operation.path)


@pytest.mark.parametrize("name", sorted(text_commands.COMMANDS))
def test_every_administrative_command_can_be_given_as_a_line(name):
    stopped = []
    with Server(port=0, http_port=0, on_shutdown=stopped.append) as server, Api(server) as asked, Wire(server.address) as wire:
        line = {"show": "show jobs", "cancel": "cancel job H:x:1", "create": "create function f", "drop": "drop function f",
                "maxqueue": "maxqueue f 1", "acl": "acl list", "pause": "pause function f", "resume": "resume function f",
                "policy": "policy f attempts=2", "reprioritise": "reprioritise job H:x:1 high", "result": "result job H:x:1",
                "recur": "recur r f 0 4 * * *", "unrecur": "unrecur r",
                **dict.fromkeys(("purge", "peek", "buried", "kick", "discard"), name + " f")}.get(name, name)  # fmt: skip
        wire.ask("create function f" if name == "drop" else "version")
        status, _, body = asked.raw("POST", "/api/v1/command", json.dumps({"line": line}), {"Content-Type": "application/json"})
        if name in ("cancel", "acl", "reprioritise", "result", "unrecur"):
            assert status == 400 and json.loads(body)["error"]["code"] == "COMMAND_FAILED"
        elif name not in ("drop", "drain", "shutdown"):
            wire.send_raw(line.encode() + b"\n")
            while len(wire.buffer) < len(body):
                wire._more()
            assert (status, len(wire.buffer)) == (200, len(body))
        else:
            assert status == 200
        if name in ("drain", "shutdown"):
            wait_until(lambda: stopped == [name == "drain"], "it is told to stop")


def test_line_that_is_several_is_refused(asked):
    assert error_of(asked("POST", "/command", {"line": "status\nshutdown"}, 400)) == "INVALID_ARGUMENT"
    assert error_of(asked("POST", "/command", {"line": "no such command"}, 400)) == "COMMAND_FAILED"


@pytest.mark.parametrize("graceful", [False, True])
def test_shutdown_stops_the_server_once_it_has_answered(graceful):
    stopped = []
    with Server(port=0, http_port=0, on_shutdown=stopped.append) as server, Api(server) as asked:
        asked("POST", "/shutdown", {"graceful": graceful}, 202)
        wait_until(lambda: stopped == [graceful], "it is told to stop")


# -- access --------------------------------------------------------------------------------


ACL = """default deny
token:reader admin status,jobs,workers
token:client submit f*
token:boss admin *
token:boss submit *
"""


@pytest.fixture
def guarded(tmp_path):
    path = tmp_path / "acl"
    path.write_text(ACL)
    with Server(port=0, http_port=0, acl=str(path)) as server:
        yield server


def as_(server, token):
    return Api(server, {"Authorization": "Bearer " + token})


def test_access_list_counts_for_every_operation_and_page(guarded):
    """Without a token nothing is allowed but the probes."""
    with Api(guarded) as asked:
        for operation in api.OPERATIONS:
            path = api.VERSION + operation.path.replace("{function}", "f").replace("{handle}", "H:x:1").replace("{unique}", "u")
            body = {"/jobs": '{"function": "f"}', "/command": '{"line": "status"}'}.get(operation.path) if operation.method == "POST" else None
            status, _, answer = asked.raw(operation.method, path, body, {"Content-Type": "application/json"} if body else {})
            # Of a job that there is not nobody learns more than that; what there is to ask is no secret.
            expected = 200 if not operation.path else 403 if operation.command or body else 404
            assert status == expected, (operation, answer)
        assert asked.raw("GET", "/metrics")[0] == 403
        assert asked.raw("POST", "/f", b"")[0] == 403
        assert asked.raw("POST", "/f", b"", {"X-Gearman-Background": "true"})[0] == 403
        assert asked.raw("GET", "/healthz")[0] == asked.raw("GET", "/readyz")[0] == 200


def test_token_has_its_rights(guarded):
    with as_(guarded, "reader") as reader, as_(guarded, "client") as client, as_(guarded, "boss") as boss:
        handle = client("POST", "/jobs", {"function": "f1", "background": True})["handle"]
        assert error_of(client("POST", "/jobs", {"function": "g", "background": True}, 403)) == "PERMISSION_DENIED"
        assert error_of(client("POST", "/jobs", {"function": "g", "timeout_s": 1}, 403)) == "PERMISSION_DENIED"
        assert error_of(client("GET", "/functions", status=403)) == "PERMISSION_DENIED"
        assert client.get("/jobs/" + handle)["function"] == "f1"
        other = boss("POST", "/jobs", {"function": "g", "background": True})["handle"]
        assert error_of(client("GET", "/jobs/" + other, status=403)) == "PERMISSION_DENIED"
        assert error_of(client("GET", "/jobs/%s/result" % other, status=403)) == "PERMISSION_DENIED"
        assert len(reader.get("/jobs")["jobs"]) == 2 and reader.get("/jobs/" + other)["function"] == "g"
        assert reader.raw("GET", "/metrics")[0] == 200
        assert error_of(reader("DELETE", "/jobs/" + handle, status=403)) == "PERMISSION_DENIED"
        assert error_of(reader("POST", "/command", {"line": "cancel job " + handle}, 403)) == "PERMISSION_DENIED"
        status, _, _ = reader.raw("POST", "/api/v1/command", b'{"line": "status"}', {"Content-Type": "application/json"})
        assert status == 200
        assert boss("DELETE", "/jobs/" + handle)


def test_operations_say_what_the_asker_may_not_do(guarded, caplog):
    def refused(asked):
        rows = asked.get("")["operations"]
        return {(row["method"], row["path"].replace(api.VERSION, "")) for row in rows if row["refused"] is not None}

    with Api(guarded) as asked, as_(guarded, "reader") as reader, as_(guarded, "boss") as boss:
        assert refused(asked) == {(each.method, each.path) for each in api.OPERATIONS if each.command}
        assert ("GET", "/functions") not in refused(reader) and ("DELETE", "/jobs/{handle}") in refused(reader)
        assert refused(boss) == set()
    assert "may not" not in caplog.text


def test_wrong_token_is_a_401_and_the_end_of_the_connection(guarded, caplog):
    with as_(guarded, "guess") as asked:
        status, headers, _ = asked.raw("GET", "/api/v1/functions")
        assert (status, headers["www-authenticate"], headers["connection"]) == (401, "Bearer", "close")
    wait_until(lambda: "token that is not in the access list" in caplog.text, "it is logged")


def test_changes_from_elsewhere_can_be_refused(monkeypatch):
    monkeypatch.setattr("gearmand.web_handler.host_of", lambda address: "192.0.2.1")
    with Server(port=0, http_port=0, admin_loopback=True) as server, Api(server) as asked:
        server.gatekeeper._accounts.enter("192.0.2.1", 0.0)
        assert asked.get("/functions")["functions"] == []
        assert error_of(asked("PUT", "/functions/f", status=403)) == "PERMISSION_DENIED"


def test_limits_of_an_address_count_for_http():
    with Server(port=0, http_port=0, max_jobs_per_address=2) as server, Api(server) as asked:
        for _ in range(2):
            asked("POST", "/jobs", {"function": "f", "background": True})
        assert error_of(asked("POST", "/jobs", {"function": "f", "background": True}, 503)) == "QUEUE_ERROR"
    with Server(port=0, http_port=0, max_submission_rate=1) as server, Api(server) as asked:
        codes = {asked.raw("POST", "/f", b"", {"X-Gearman-Background": "true"})[0] for _ in range(15)}
        assert codes == {200, 429}


# -- fields -----------------------------------------------------------------------------------


def test_values_have_the_kinds_of_their_fields():
    fields = [Field("a", "number", ""), Field("b", "flag", "", default=False), Field("c", "seconds", ""), Field("d", "x|y", "", default="x")]
    assert values_of(fields, {}, b"a=-5&b=True&c=1.5", None) == {"a": -5, "b": True, "c": 1.5, "d": "x"}
    assert values_of(fields, {}, b"", {"a": 5, "b": None, "c": 2}) == {"a": 5, "b": False, "c": 2.0, "d": "x"}
    for query in (b"a=x", b"a=1.5", b"b=2", b"c=-1", b"c=1e5", b"d=z", b"d=%FF", b"a=" + b"9" * 30):
        with pytest.raises(Refused):
            values_of(fields, {}, query, None)


def test_field_of_the_path_cannot_be_given_again():
    field = Field("a", "name", "", True)
    assert values_of([field], {"a": b"x"}, b"", None) == {"a": b"x"}
    for query, body in ((b"a=y", None), (b"", {"a": "y"})):
        with pytest.raises(Refused):
            values_of([field], {"a": b"x"}, query, body)


def test_bytes_come_back_from_json_as_they_were():
    for data in (b"", b"text", "ä".encode(), b"\xff\0", b"\xed\xa0\x80"):
        text = to_json({"function": data})
        assert values_of([Field("function", "bytes", "")], {}, b"", from_json(text))["function"] == data


# -- TLS ----------------------------------------------------------------------------------------


def test_https_beside_http():
    files = certificates()
    with Server(port=0, http_port=0, https_port=0, **files.of_server) as server:
        plain, secure = server.http_addresses
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        connection = http.client.HTTPSConnection("localhost", secure[1], timeout=20, context=context)
        for _ in range(2):
            connection.request("POST", "/f", b"x" * 300_000, {"X-Gearman-Background": "true"})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"")
        connection.request("GET", "/metrics")
        assert b"gearmand_build_info" in connection.getresponse().read()
        connection.close()
        assert status(server.address)["f"] == (1, 0, 0)
        with Api(server) as asked:
            assert asked.get("/server")
        with Wire(secure) as wire:
            wire.send_raw(b"GET / HTTP/1.1\r\n\r\n")
            assert wire.is_closed()


def test_certificate_has_its_rights(tmp_path):
    files = certificates()
    path = tmp_path / "acl"
    path.write_text("default deny\ncn:worker%201 admin status\n")
    with Server(port=0, ssl=True, http_port=0, acl=str(path), **files.of_strict_server) as server:
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        context.load_cert_chain(files.path("client.pem"), files.path("client.key"))
        connection = http.client.HTTPSConnection("localhost", server.http_addresses[0][1], timeout=20, context=context)
        for path, expected in (("/api/v1/functions", 200), ("/api/v1/jobs", 403)):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (expected, True)
        connection.close()


def test_client_that_breaks_tls_or_comes_without_a_certificate_is_logged_and_closed(caplog):
    files = certificates()
    with Server(port=0, ssl=True, http_port=0, **files.of_strict_server) as server:
        with Wire(server.http_addresses[0]) as wire:
            wire.send_raw(b"GET / HTTP/1.1\r\n\r\n")
            assert wire.is_closed()
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        connection = http.client.HTTPSConnection("localhost", server.http_addresses[0][1], timeout=20, context=context)
        with pytest.raises(OSError):
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        connection.close()
        wait_until(lambda: "does not speak TLS" in caplog.text, "it is logged")


def test_client_over_tls_that_goes_away_abandons_its_job():
    files = certificates()
    with Server(port=0, https_port=0, **files.of_server) as server:
        context = ssl.create_default_context(cafile=files.path("ca.pem"))
        connection = http.client.HTTPSConnection("localhost", server.http_addresses[0][1], timeout=20, context=context)
        connection.request("POST", "/f", b"")
        wait_until(lambda: status(server.address).get("f") == (1, 0, 0), "the job is queued")
        connection.sock.close()
        connection.close()
        wait_until(lambda: status(server.address).get("f") == (0, 0, 0), "the job is abandoned")


# -- a field of the path that no path can have -------------------------------------------------


def test_dash_in_the_path_leaves_its_field_to_the_query_or_the_body():
    fields = (Field("a", "name", "", True), Field("b", "name", ""))
    assert values_of(fields, {"a": b"-"}, b"", None) == {"a": b"-", "b": None}
    assert values_of(fields, {"a": b"-"}, b"a=..&b=1", None) == {"a": b"..", "b": b"1"}
    assert values_of(fields, {"a": b"-"}, b"", {"a": {"base64": "Lg=="}}) == {"a": b".", "b": None}
    for path, query, body in (({"a": b"x"}, b"a=y", None), ({"a": b"--"}, b"", {"a": "y"}), ({"a": b"-"}, b"a=%00", None), ({"a": b"-"}, b"c=y", None)):
        with pytest.raises(Refused):
            values_of(fields, path, query, body)


@pytest.mark.parametrize("name", ["..", ".", "a/b"])
def test_function_that_cannot_stand_in_a_path_is_changed_through_a_dash(asked, name):
    asked("PUT", "/functions/-", {"function": name})
    assert asked("POST", "/functions/-/pause?function=" + name)["function"] == name
    assert asked.get("/functions/-?function=" + name)["paused"] is True
    assert asked("DELETE", "/functions/-", {"function": name}) == {"dropped": name}
    assert asked("PUT", "/functions/-")["function"] == "-"
