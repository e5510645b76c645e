"""The HTTP server at the level of bytes: framing, hostile clients, jobs as in the C server, what stops and what stays."""

from __future__ import annotations

import base64
import json
import random
import select
import shutil
import socket
import subprocess
import threading
import time

import pytest

from gearmand import Server
from gearmand.config import Config
from gearmand.errors import ConfigError
from test_server import Background
from web import Api, Raw, exchange
from wire import (
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    CAN_DO,
    DEADLINE_S,
    SUBMIT_JOB_BG,
    Wire,
    status,
    wait_until,
)

HOST = b"Host: localhost\r\n"


@pytest.fixture
def server():
    with Server(port=0, http_port=0) as server:
        yield server


@pytest.fixture
def address(server):
    return server.http_addresses[0]


@pytest.fixture
def worker(server):
    """Answers the jobs of `echo` with their workloads, until the test is over."""
    wire = Wire(server.address)
    wire.can_do(b"echo")
    thread = threading.Thread(target=work, args=(wire,))
    thread.start()
    yield
    wire.socket.shutdown(socket.SHUT_RDWR)
    thread.join()
    wire.close()


def work(wire):
    try:
        while True:
            handle, _, workload = wire.grab()
            wire.send(WORK_COMPLETE, handle, workload)
    except Exception:
        pass  # The test is over.


def post(path, body, *lines):
    head = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n" % (path, HOST, len(body))
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(path, *lines, method=b"GET"):
    return method + b" " + path + b" HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# -- framing ---------------------------------------------------------------------


def test_connection_serves_one_request_after_another(address, worker):
    with Raw(address) as raw:
        for number in range(3):
            raw.send(post(b"/echo", b"%d" % number))
            status, headers, body = raw.answer()
            assert (status, body, headers["connection"]) == (200, b"%d" % number, "keep-alive")


def test_pipelined_requests_are_answered_in_order(address, worker):
    with Raw(address) as raw:
        raw.send(b"".join(post(b"/echo", b"%d" % number) for number in range(20)))
        assert [raw.answer()[2] for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_request_in_single_bytes_is_the_same(address, worker):
    with Raw(address) as raw:
        for byte in post(b"/echo", b"abc"):
            raw.send(bytes([byte]))
        assert raw.answer()[2] == b"abc"


def test_body_in_chunks_with_trailers_is_the_workload(address, worker):
    with Raw(address) as raw:
        raw.send(b"PUT /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n")
        raw.send(b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n" + post(b"/echo", b"next"))
        assert [raw.answer()[2], raw.answer()[2]] == [b"abc0123456789", b"next"]


def test_body_in_small_chunks_is_the_workload(address, worker):
    with Raw(address) as raw:
        raw.send(b"PUT /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        raw.send(b"1\r\nx\r\n" * 500 + b"0\r\n\r\n")
        assert raw.answer()[2] == b"x" * 500


def test_client_that_expects_100_continue_gets_it(address, worker):
    with Raw(address) as raw:
        raw.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert raw.answer()[0] == 100
        raw.send(b"abc")
        assert raw.answer()[::2] == (200, b"abc")


def test_client_of_http_1_0_gets_its_answer_and_the_end(address, worker):
    with Raw(address) as raw:
        raw.send(b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
        status, headers, body = raw.answer()
        assert (status, body, headers["connection"]) == (200, b"abc", "close")
        assert raw.rest() == b""


def test_client_of_http_1_0_can_keep_the_connection(address, worker):
    with Raw(address) as raw:
        for _ in range(2):
            raw.send(b"POST /echo HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc")
            assert raw.answer()[2] == b"abc"


def test_head_has_the_headers_of_get_and_no_body(address, worker):
    with Raw(address) as raw:
        raw.send(get(b"/metrics", method=b"HEAD") + get(b"/healthz", method=b"HEAD") + get(b"/healthz"))
        assert raw.answer(has_body=False)[0] == 200
        status, headers, _ = raw.answer(has_body=False)
        assert (status, headers["content-length"]) == (200, str(len(raw.answer()[2])))


def test_head_submits_a_job_and_leaves_its_result_out(address, worker):
    with Raw(address) as raw:
        raw.send(b"HEAD /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc" + get(b"/healthz"))
        status, headers, _ = raw.answer(has_body=False)
        assert (status, headers["x-gearman-command"], headers["content-length"]) == (200, "WORK_COMPLETE", "3")
        assert raw.answer()[2] == b'{"healthy": true}\n'


@pytest.mark.parametrize("workload", [b"text " * 100_000, b"\xff\0" * 200_000, b"x" * 32 * 1024, b"x" * (32 * 1024 + 1)])
def test_large_result_is_whole_whichever_way_it_is_asked_for(server, address, worker, workload):
    function = {"function": "echo", "workload": {"base64": base64.b64encode(workload).decode()}, "base64": True}
    expected = {"base64": base64.b64encode(workload).decode()}
    with Raw(address) as raw:
        raw.send(post(b"/echo", workload))
        assert raw.answer()[2] == workload
        raw.send(b"HEAD /echo HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(workload) + workload + get(b"/healthz"))
        assert raw.answer(has_body=False)[1]["content-length"] == str(len(workload))
        assert raw.answer()[2] == b'{"healthy": true}\n'
    with Api(server) as asked:
        assert asked("POST", "/jobs", function)["result"] == expected
        body = json.dumps({**function, "stream": True})
        lines = asked.raw("POST", "/api/v1/jobs", body, {"Content-Type": "application/json"})[2].splitlines()
        assert json.loads(lines[-1].decode()) == {"report": "complete", "data": expected}
        answer = asked("POST", "/jobs", {**function, "base64": False})["result"]
        assert answer == expected or answer.encode() == workload


def test_options_says_what_there_is_and_allows_no_other_origin(address):
    status, headers, _ = exchange(address, get(b"*", method=b"OPTIONS"))
    assert status == 204 and "POST" in headers["allow"]
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("method, path, expected", [
    (b"TRACE", b"/echo", 405), (b"DELETE", b"/echo", 405), (b"BREW", b"/echo", 501), (b"POST", b"/metrics", 405),
    (b"DELETE", b"/api/v1/functions", 405), (b"BREW", b"/api/v1/functions", 501),
])  # fmt: skip
def test_method_that_cannot_be_used_is_refused_with_those_that_can(address, method, path, expected):
    status, headers, body = exchange(address, get(path, method=method))
    assert status == expected and "GET" in headers["allow"]
    assert json.loads(body)["error"]["code"] == "METHOD_NOT_ALLOWED"


def test_answer_keeps_browsers_from_running_or_framing_it(address):
    headers = exchange(address, get(b"/healthz"))[1]
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


# -- hostile requests --------------------------------------------------------------


@pytest.mark.parametrize("data, expected", [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"\0REQ\0\0\0\x07\0\0\0\0\r\n\r\n", 400),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /g HTTP/1.1\r\n\r\n", 400),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"GET / HTTP/2.0\r\n\r\n", 505),
    (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3000, 431),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n", 413),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", 413),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 300, 400),
    (b"POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 4000, 400),
])  # fmt: skip
def test_hostile_request_is_refused_and_its_connection_ends(server, address, data, expected):
    with Raw(address) as raw:
        raw.send(data)
        status, headers, body = raw.answer()
        assert (status, headers["connection"]) == (expected, "close")
        assert json.loads(body)["error"]["text"]
        assert raw.rest() == b""
    assert exchange(address, get(b"/healthz"))[0] == 200


def test_answer_reaches_a_client_that_still_sends(address, monkeypatch):
    monkeypatch.setattr("gearmand.http_connection._LINGER_S", DEADLINE_S)
    with Raw(address) as raw:
        raw.send(b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n")
        assert select.select([raw.socket], [], [], DEADLINE_S)[0], "there is an answer"
        # Were the connection closed with it, sending would fail.
        for _ in range(30):
            raw.send(b"x" * 10_000)
        assert raw.answer()[0] == 413


@pytest.mark.parametrize("seed", range(4))
def test_server_serves_the_next_connection_whatever_one_has_sent(address, seed):
    chance = random.Random(seed)
    good = [post(b"/none", b"abc", b"X-Gearman-Background: true"), get(b"/metrics"), get(b"/api/v1/functions"),
            b"PUT /n HTTP/1.1\r\n" + HOST + b"X-Gearman-Background: true\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]  # fmt: skip
    for _ in range(40):
        data = bytearray(b"".join(chance.choice(good) for _ in range(3)))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice([0, 1, 1, 4])] = bytes(chance.choice([0, 10, 13, 32, 48, 58, 255]) for _ in range(chance.randrange(3)))
        with Raw(address) as raw:
            raw.send(bytes(data))
            raw.socket.shutdown(socket.SHUT_WR)
            assert raw.is_closed(), (seed, data)
    assert exchange(address, get(b"/healthz"))[0] == 200


def test_client_that_is_slow_with_a_head_is_told_and_closed():
    with Server(port=0, http_port=0, partial_timeout=0.3) as server, Raw(server.http_addresses[0]) as raw:
        raw.send(b"GET /")
        for _ in range(4):
            time.sleep(0.1)
            try:
                raw.send(b"x")  # It is the whole head that has to come.
            except OSError:
                break
        assert raw.answer()[0] == 408


def test_client_that_is_silent_in_the_middle_of_a_body_is_told_and_closed():
    with Server(port=0, http_port=0, partial_timeout=0.2) as server, Raw(server.http_addresses[0]) as raw:
        raw.send(b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        assert raw.answer()[0] == 408
        assert raw.rest() == b""


def test_client_that_does_not_read_is_closed_and_its_job_goes_on():
    with Server(port=0, http_port=0, unread_timeout=0.3) as server, Wire(server.address) as worker:
        worker.can_do(b"f")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(server.http_addresses[0])
        raw.sendall(post(b"/f", b""))
        handle = worker.grab()[0]
        worker.send(WORK_DATA, handle, b"x" * 20_000_000)
        wait_until(lambda: not server.web.facts()["connections"]["http"], "the client is given up")
        worker.send(WORK_COMPLETE, handle, b"")
        worker.echo()
        raw.close()


def test_data_that_waits_for_a_client_is_bounded():
    with Server(port=0, http_port=0, max_unsent=100_000) as server, Wire(server.address) as worker:
        worker.can_do(b"f")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(server.http_addresses[0])
        raw.sendall(post(b"/f", b""))
        handle = worker.grab()[0]
        for _ in range(400):
            worker.send(WORK_DATA, handle, b"x" * 50_000)
        worker.echo()
        wait_until(lambda: not server.broker.callers, "the client is given up")
        raw.close()


def test_body_over_the_bound_is_refused():
    with Server(port=0, http_port=0, max_packet=1000) as server:
        assert exchange(server.http_addresses[0], post(b"/f", b"x" * 1001))[0] == 413


def test_connections_of_both_kinds_count_for_the_bound():
    with Server(port=0, http_port=0, max_connections=1) as server, Wire(server.address) as wire:
        wire.echo()
        with Raw(server.http_addresses[0]) as raw:
            assert raw.is_closed()


def test_error_of_the_server_is_a_500_and_logged(server, address, monkeypatch, caplog):
    monkeypatch.setattr(server.broker.registry, "submit", lambda *arguments: 1 / 0)
    with Raw(address) as raw:
        raw.send(post(b"/f", b""))
        assert raw.answer()[0] == 500
        assert raw.rest() == b""
    wait_until(lambda: "ZeroDivisionError" in caplog.text, "it is logged")


# -- jobs as in the C server ---------------------------------------------------------


def test_result_is_the_body_and_the_handle_a_header(address, worker):
    status, headers, body = exchange(address, post(b"/echo", b"\0\xffabc"))
    assert (status, body, headers["x-gearman-command"]) == (200, b"\0\xffabc", "WORK_COMPLETE")
    assert headers["x-gearman-job-handle"].startswith("H:")
    assert headers["content-type"] == "application/octet-stream"
    assert headers["server"].startswith("Gearman/")


@pytest.mark.parametrize("path, function", [
    (b"/a/b%20c?x=1", b"a/b c"), (b"/a%2fb", b"a/b"), (b"/%C3%A4", "ä".encode()), ("/ä".encode(), "ä".encode()), (b"/a+b", b"a+b"),
    (b"//f", b"/f"), (b"/%FF", b"\xff"), (b"/apis", b"apis"),
])  # fmt: skip
def test_path_is_the_function_percent_decoded(server, address, path, function):
    with Wire(server.address) as worker:
        worker.send(CAN_DO, function)
        worker.echo()
        asked = Background(exchange, address, post(path, b"w"))
        handle, name, workload = worker.grab()
        assert (name, workload) == (function, b"w")
        worker.send(WORK_COMPLETE, handle, b"r")
        assert asked.result()[2] == b"r"


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT"])
def test_method_of_the_c_server_submits_a_job(server, address, method):
    with Raw(address) as raw:
        raw.send(get(b"/f", b"X-Gearman-Background: true", method=method))
        status, headers, body = raw.answer(has_body=method != b"HEAD")
    assert (status, headers["x-gearman-command"], headers["content-length"]) == (200, "JOB_CREATED", "0")
    with Wire(server.address) as wire:
        handle = headers["x-gearman-job-handle"]
        assert any(line.startswith(handle) for line in wire.table("show jobs"))


@pytest.mark.parametrize("priority, column", [(b"high", 0), (b"normal", 1), (b"low", 2), (None, 1)])
def test_priority_is_that_of_the_header(server, address, priority, column):
    lines = [b"X-Gearman-Background: true"] + ([b"X-Gearman-Priority: " + priority] if priority else [])
    assert exchange(address, post(b"/f", b"", *lines))[0] == 200
    with Wire(server.address) as wire:
        assert wire.table("prioritystatus")[0].split("\t")[1 + column] == "1"


def test_equal_workloads_without_a_unique_are_one_job(server, address):
    """As with the C server: the unique is `-` then."""
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        first = Background(exchange, address, post(b"/f", b"same"))
        handle = worker.grab()[0]
        second = Background(exchange, address, post(b"/f", b"same"))
        wait_until(lambda: server.broker.registry.jobs[handle].listeners and len(server.broker.registry.jobs[handle].listeners) == 2, "the second has joined")
        worker.send(WORK_COMPLETE, handle, b"r")
        assert first.result()[2] == second.result()[2] == b"r"


def test_unique_is_that_of_the_header(server, address):
    lines = (b"X-Gearman-Background: true", b"X-Gearman-Unique: u")
    handles = {exchange(address, post(b"/f", b"%d" % number, *lines))[1]["x-gearman-job-handle"] for number in range(3)}
    assert len(handles) == 1
    with Wire(server.address) as wire:
        assert wire.table("show unique jobs") == ["u"]


@pytest.mark.parametrize("line", [b"X-Gearman-Priority: urgent", b"X-Gearman-Background: maybe", b"X-Gearman-Timeout: soon"])
def test_header_with_no_such_value_is_refused(server, address, line):
    assert exchange(address, post(b"/f", b"", line))[0] == 400
    assert status(server.address) == {}


def test_unique_or_function_that_is_too_long_is_refused(address):
    assert exchange(address, post(b"/f", b"", b"X-Gearman-Unique: " + b"u" * 65))[0] == 400
    assert exchange(address, post(b"/" + b"f" * 8193, b""))[0] == 400


def test_path_that_is_no_function_is_not_found(address):
    assert exchange(address, post(b"/f%00g", b""))[0] == 404


def job(server, address, *more):
    """A job of f that a worker has got: what asks for it, and the worker with the handle."""
    worker = Wire(server.address)
    worker.can_do(b"f")
    raw = Raw(address)
    raw.send(post(b"/f", b"", *more))
    return raw, worker, worker.grab()[0]


def test_job_that_fails_is_no_200(server, address):
    raw, worker, handle = job(server, address)
    with raw, worker:
        worker.send(WORK_FAIL, handle)
        status, headers, body = raw.answer()
        assert (status, headers["x-gearman-command"], body) == (500, "WORK_FAIL", b"")


def test_job_that_raises_an_exception_answers_with_what_the_worker_said(server, address):
    raw, worker, handle = job(server, address)
    with raw, worker:
        worker.send(WORK_EXCEPTION, handle, b"oh")
        status, headers, body = raw.answer()
        assert (status, headers["x-gearman-command"], body) == (500, "WORK_EXCEPTION", b"oh")


def test_data_comes_in_chunks_as_it_is_sent_and_status_does_no_harm(server, address):
    raw, worker, handle = job(server, address)
    with raw, worker:
        worker.send(WORK_STATUS, handle, b"1", b"2")
        worker.send(WORK_WARNING, handle, b"careful")
        worker.send(WORK_DATA, handle, b"one ")
        while b"one " not in raw.buffer:
            raw._more()  # It is there before the job has ended.
        worker.send(WORK_STATUS, handle, b"2", b"2")
        worker.send(WORK_DATA, handle, b"")
        worker.send(WORK_DATA, handle, b"two ")
        worker.send(WORK_COMPLETE, handle, b"three")
        status, headers, body = raw.answer()
        assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"one two three")
        raw.send(get(b"/healthz"))
        assert raw.answer()[0] == 200


def test_job_that_fails_after_data_breaks_the_answer_off(server, address):
    raw, worker, handle = job(server, address)
    with raw, worker:
        worker.send(WORK_DATA, handle, b"one")
        worker.send(WORK_FAIL, handle)
        with pytest.raises((AssertionError, ConnectionResetError)):
            raw.answer()


def test_data_for_http_1_0_ends_with_the_connection_and_a_failure_with_a_reset(server, address):
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        for end in ((WORK_COMPLETE, b"two"), (WORK_FAIL,)):
            with Raw(address) as raw:
                raw.send(b"GET /f HTTP/1.0\r\n\r\n")
                handle = worker.grab()[0]
                worker.send(WORK_DATA, handle, b"one")
                worker.send(end[0], handle, *end[1:])
                if end[0] == WORK_FAIL:
                    with pytest.raises(ConnectionResetError):
                        raw.rest()
                else:
                    assert raw.rest().endswith(b"\r\n\r\nonetwo")


def test_job_that_does_not_end_in_time_is_a_504_and_abandoned(server, address):
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        # It runs before somebody waits for it: whose time could be over before the worker has come for it.
        worker.submit(b"f", unique=b"u", kind=SUBMIT_JOB_BG)
        handle = worker.grab()[0]
        assert exchange(address, post(b"/f", b"", b"X-Gearman-Unique: u", b"X-Gearman-Timeout: 0.2"))[0] == 504
        wait_until(lambda: server.broker.registry.jobs[handle].listeners is None, "the job is abandoned")


@pytest.mark.parametrize("leave", ["close", "half"])
def test_client_that_goes_away_abandons_its_job(server, address, leave):
    raw = Raw(address)
    raw.send(post(b"/f", b""))
    wait_until(lambda: status(server.address).get("f") == (1, 0, 0), "the job is queued")
    raw.socket.close() if leave == "close" else raw.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: status(server.address).get("f") == (0, 0, 0), "the job is abandoned")
    raw.socket.close()


def test_client_passes_the_turnstile_when_it_comes_when_it_is_looked_after_and_when_it_goes(server, address, monkeypatch):
    passed = []
    monkeypatch.setattr(server.web.turnstile, "wait", lambda: passed.append(None))
    with Raw(address) as client:
        client.send(get(b"/healthz"))
        assert client.answer()[0] == 200 and len(passed) == 1
    wait_until(lambda: len(passed) == 2, "its end has been read")
    monkeypatch.setattr("gearmand.waiter._LOOK_S", DEADLINE_S)
    with Raw(address) as client, Raw(address) as other:
        client.send(post(b"/f", b""))
        wait_until(lambda: status(server.address).get("f") == (1, 0, 0), "the job is queued")
        assert len(passed) == 3
        monkeypatch.setattr("gearmand.waiter._LOOK_S", 0.05)
        other.send(post(b"/f", b""))
        wait_until(lambda: len(passed) >= 5, "it is looked whether the other one has gone")


def test_client_that_sends_its_next_request_meanwhile_has_not_gone(server, address):
    raw, worker, handle = job(server, address)
    with raw, worker:
        raw.send(get(b"/healthz"))
        time.sleep(1.2)
        worker.send(WORK_COMPLETE, handle, b"r")
        assert [raw.answer()[2], raw.answer()[2]] == [b"r", b'{"healthy": true}\n']


def test_full_queue_is_a_503_that_may_be_tried_again(server, address):
    with Wire(server.address) as wire:
        assert wire.ask("maxqueue f 1") == "OK"
    background = b"X-Gearman-Background: true"
    assert exchange(address, post(b"/f", b"", background))[0] == 200
    status, headers, body = exchange(address, post(b"/f", b"x", background))
    assert (status, json.loads(body)["error"]["code"]) == (503, "QUEUE_ERROR")
    assert headers["retry-after"]


def test_background_job_is_stored_before_it_is_acknowledged(tmp_path):
    queue = str(tmp_path / "queue.db")
    with Server(port=0, http_port=0, queue=queue) as server:
        found = exchange(server.http_addresses[0], post(b"/f", b"kept", b"X-Gearman-Background: true"))
        handle = found[1]["x-gearman-job-handle"]
    with Server(port=0, http_port=0, queue=queue) as server, Wire(server.address) as worker:
        worker.can_do(b"f")
        assert worker.grab() == (handle.encode(), b"f", b"kept")


# -- browsers ----------------------------------------------------------------------


def test_post_of_another_origin_is_refused(server, address):
    assert exchange(address, post(b"/f", b"", b"Origin: http://evil.example"))[0] == 403
    assert exchange(address, get(b"/api/v1/functions/f", b"Origin: http://evil.example", method=b"PUT"))[0] == 403
    assert status(server.address) == {}


def test_get_by_an_image_is_refused(server, address):
    assert exchange(address, get(b"/f", b"User-Agent: Mozilla/5.0 (X11)"))[0] == 403
    assert exchange(address, get(b"/f", b"Sec-Fetch-Site: cross-site"))[0] == 403
    assert exchange(address, get(b"/favicon.ico", b"User-Agent: Mozilla/5.0 (X11)"))[0] == 403
    assert status(server.address) == {}


def test_form_cannot_post_json(address):
    data = b'{"function": "f", "background": true}'
    for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"):
        assert exchange(address, post(b"/api/v1/jobs", data, b"Content-Type: " + kind))[0] == 415
    assert exchange(address, post(b"/api/v1/jobs", data))[0] == 415


def test_other_names_of_the_host_are_refused_but_for_probes(address):
    for path, expected in ((b"/metrics", 421), (b"/api/v1/functions", 421), (b"/f", 421), (b"/healthz", 200), (b"/readyz", 200)):
        assert exchange(address, b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\n\r\n")[0] == expected


def test_host_of_the_option_is_taken():
    with Server(port=0, http_port=0, http_host=("jobs.example.org",)) as server:
        head = b"GET /metrics HTTP/1.1\r\nHost: Jobs.Example.org:80\r\n\r\n"
        assert exchange(server.http_addresses[0], head)[0] == 200


# -- probes --------------------------------------------------------------------------


def test_server_that_drains_is_healthy_and_not_ready(server, address):
    assert exchange(address, get(b"/readyz"))[0] == 200
    server.broker.registry.draining = True
    status, headers, body = exchange(address, get(b"/readyz"))
    assert (status, json.loads(body)["ready"], headers["connection"]) == (503, False, "close")
    assert exchange(address, get(b"/healthz"))[0] == 200
    server.broker.registry.draining = False


def test_server_whose_registry_does_not_answer_is_not_healthy(server, address, monkeypatch):
    with Raw(address) as raw:
        raw.send(get(b"/healthz"))
        assert raw.answer()[0] == 200
        from gearmand.web import PAGES

        monkeypatch.setattr("gearmand.web._STUCK_S", 0.1)
        with server.broker.lock:
            assert PAGES[b"/healthz"].act(server.web).status == 503


def test_server_that_cannot_store_is_not_ready(tmp_path, monkeypatch):
    with Server(port=0, http_port=0, queue=str(tmp_path / "queue.db")) as server:
        address = server.http_addresses[0]
        assert exchange(address, get(b"/readyz"))[0] == 200
        monkeypatch.setattr(server.broker.keeper._store, "commit", lambda work: 1 / 0)
        assert exchange(address, post(b"/f", b"", b"X-Gearman-Background: true"))[0] == 503
        status, _, body = exchange(address, get(b"/readyz"))
        assert status == 503 and "stored" in json.loads(body)["why"][0]
        monkeypatch.undo()
        assert exchange(address, post(b"/f", b"", b"X-Gearman-Background: true"))[0] == 200
        assert exchange(address, get(b"/readyz"))[0] == 200


# -- the end ---------------------------------------------------------------------------


def test_stop_answers_whoever_waits_for_a_job():
    with Server(port=0, http_port=0) as server, Raw(server.http_addresses[0]) as raw:
        raw.send(post(b"/f", b""))
        wait_until(lambda: status(server.address).get("f") == (1, 0, 0), "the job is queued")
        stopping = Background(server.stop)
        data = raw.rest()
        stopping.result()
    assert data == b"" or data.startswith(b"HTTP/1.1 503")


def test_stop_ends_idle_connections(server, address):
    with Raw(address) as raw:
        raw.send(get(b"/healthz"))
        raw.answer()
        server.stop()
        assert raw.is_closed()


def test_graceful_stop_sends_the_last_results():
    with Server(port=0, http_port=0) as server:
        raw, worker, handle = job(server, server.http_addresses[0])
        with raw, worker:
            stopping = Background(server.stop, graceful=True)
            wait_until(lambda: server.broker.registry.draining, "it drains")
            worker.send(WORK_COMPLETE, handle, b"x" * 3_000_000)
            status, headers, body = raw.answer()
            assert (status, len(body), headers["connection"]) == (200, 3_000_000, "close")
            stopping.result()


def test_embedded_server_without_http_has_no_address():
    with Server(port=0) as server:
        assert server.http_addresses == []


def test_port_in_use_is_a_config_error_and_frees_the_others(server):
    with pytest.raises(ConfigError):
        Server(port=0, http_port=server.http_addresses[0][1])


def test_protocol_http_has_the_port_of_the_c_server():
    assert Config(protocol="http").http_port == 8080
    assert Config(protocol="http", http_port=81).http_port == 81
    assert Config().http_port is None
    with pytest.raises(ConfigError):
        Config(protocol="gopher")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_submits_jobs_in_the_ways_that_it_has(server, address, worker, tmp_path):
    url = "http://%s:%d/echo" % address
    large = tmp_path / "large"
    large.write_bytes(b"x" * 2_000_000)
    for arguments, expected in (
        (["-d", "abc", url], b"abc"),
        (["-T", str(large), url], b"x" * 2_000_000),
        (["-T", str(large), "-H", "Transfer-Encoding: chunked", url], b"x" * 2_000_000),
        (["--data-binary", "@" + str(large), url], b"x" * 2_000_000),
        (["--http1.0", "-d", "abc", url, url], b"abcabc"),
        (["-d", "abc", url, url], b"abcabc"),
    ):
        ran = subprocess.run(["curl", "-sS", "--fail", "--max-time", "20", *arguments], stdout=subprocess.PIPE, timeout=60)
        assert (ran.returncode, ran.stdout) == (0, expected)
    ran = subprocess.run(["curl", "-sS", "-I", "--max-time", "20", url], stdout=subprocess.PIPE, timeout=60)
    assert ran.stdout.startswith(b"HTTP/1.1 200")


def test_many_clients_at_once_each_get_their_own_result(server, worker):
    def ask(number):
        with Api(server) as api:
            return [api.raw("POST", "/echo", b"%d-%d" % (number, each))[2] for each in range(20)]

    asked = [Background(ask, number) for number in range(20)]
    assert [each.result() for each in asked] == [[b"%d-%d" % (number, each) for each in range(20)] for number in range(20)]


def test_what_is_held_of_bodies_in_all_is_bounded():
    with Server(port=0, http_port=0, max_partial_total=1_000_000) as server:
        head = b"POST /f HTTP/1.1\r\n" + HOST + b"X-Gearman-Background: true\r\nContent-Length: 2000000\r\n\r\n"
        with Raw(server.http_addresses[0]) as small, Raw(server.http_addresses[0]) as large:
            small.send(head + b"x" * 200_000)
            wait_until(lambda: server.halves.bytes >= 100_000, "a part of it is held")
            large.send(head)
            try:
                large.send(b"x" * 1_900_000)
            except OSError:
                pass  # It is given up already.
            assert large.is_closed()
            small.send(b"x" * 200_000)
        wait_until(lambda: not server.halves.bytes, "nothing is held any more")
        assert exchange(server.http_addresses[0], get(b"/healthz"))[0] == 200
