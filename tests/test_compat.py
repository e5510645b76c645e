"""The names of python-gearman: its documented examples, what each name promises, and the same application with gearman3."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest

import peers
import wire
from gearmand import Server
from gearmand import compat as gearman
from gearmand.compat import JOB_COMPLETE, JOB_CREATED, JOB_FAILED, JOB_PENDING, JOB_UNKNOWN

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATIENCE_S = 20.0


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


@pytest.fixture
def host(server):
    return "%s:%d" % server.address


@pytest.fixture
def client(host):
    client = gearman.GearmanClient([host])
    yield client
    client.shutdown()


@contextlib.contextmanager
def working(worker, error=None):
    """`work` in a thread, until the block ends. `error`: what it is to end with by itself."""
    stopping = threading.Event()
    after_poll = worker.after_poll
    worker.after_poll = lambda any_activity: after_poll(any_activity) and not stopping.is_set()
    ends = []
    # After each timeout it connects anew, also to the server whose end it is to notice.
    poll_timeout = 0.05 if error is None else PATIENCE_S

    def run():
        try:
            worker.work(poll_timeout=poll_timeout)
        except BaseException as end:
            ends.append(end)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    if error is None:
        assert ends == []
    else:
        assert [type(end) for end in ends] == [error]


def worker_of(host, **functions):
    worker = gearman.GearmanWorker([host])
    for name, function in functions.items():
        worker.register_task(name, function)
    return worker


def reverse(worker, job):
    return job.data[::-1]


def broken(worker, job):
    raise ValueError("out of order")


# -- the documented examples: client ---------------------------------------------------


def check_request_status(job_request):
    if job_request.complete:
        return "Job %s finished!  Result: %s - %s" % (job_request.job.unique, job_request.state, job_request.result)
    elif job_request.timed_out:
        return "Job %s timed out!" % job_request.unique
    elif job_request.state == JOB_UNKNOWN:
        return "Job %s connection failed!" % job_request.unique


def test_documented_blocking_call_has_the_result(host):
    gm_client = gearman.GearmanClient([host, "127.0.0.1:1"])
    with working(worker_of(host, task_name=reverse)):
        completed_job_request = gm_client.submit_job("task_name", "arbitrary binary data")
    said = check_request_status(completed_job_request)
    gm_client.shutdown()
    assert said == "Job %s finished!  Result: COMPLETE - %s" % (completed_job_request.unique, b"atad yranib yrartibra")


def test_documented_background_call_is_accepted(host, client):
    submitted = client.submit_job("task_name", "arbitrary binary data", priority=gearman.PRIORITY_HIGH, background=True)
    assert check_request_status(submitted) == "Job %s finished!  Result: CREATED - None" % submitted.unique
    assert b"task_name\t1\t0\t0\t0\n" in priorities(host)


def test_documented_multiple_jobs_are_waited_for_later(host, client):
    list_of_jobs = [dict(task="task_name", data="binary data"), dict(task="other_task", data="other binary data")]
    submitted_requests = client.submit_multiple_jobs(list_of_jobs, background=False, wait_until_complete=False)
    assert [request.state for request in submitted_requests] == [JOB_CREATED, JOB_CREATED]
    with working(worker_of(host, task_name=reverse)):
        assert submitted_requests[0].submission.ended.wait(PATIENCE_S)
        completed = client.wait_until_jobs_completed(submitted_requests, poll_timeout=0.5)
    assert [check_request_status(request).split(" ", 2)[2] for request in completed] == [
        "finished!  Result: COMPLETE - %s" % b"atad yranib",
        "timed out!",
    ]


def test_documented_recovery_from_failed_connections_submits_again():
    def fails_once(connection, number):
        if number == 0:
            connection.receive()
            connection.receive()
            connection.cut()
            return
        connection.receive()
        connection.send(wire.OPTION_RES, b"exceptions")
        while True:
            connection.receive()
            connection.send(wire.JOB_CREATED, b"H:x:%d" % number)
            connection.send(wire.WORK_COMPLETE, b"H:x:%d" % number, b"done")

    with peers.ScriptedServer(fails_once) as scripted:
        gm_client = gearman.GearmanClient([scripted.address])
        jobs = [dict(task="task_name", data="task binary string"), dict(task="other_task", data="other binary string")]
        requests = gm_client.submit_multiple_jobs(jobs, background=False, max_retries=1, poll_timeout=PATIENCE_S)
        gm_client.shutdown()
    assert [(request.state, request.result) for request in requests] == [(JOB_COMPLETE, b"done")] * 2
    assert max(request.connection_attempts for request in requests) == 2


class PickleDataEncoder(gearman.DataEncoder):
    @classmethod
    def encode(cls, encodable_object):
        return pickle.dumps(encodable_object)

    @classmethod
    def decode(cls, decodable_string):
        return pickle.loads(decodable_string)


class PickleExampleClient(gearman.GearmanClient):
    data_encoder = PickleDataEncoder


class PickleExampleWorker(gearman.GearmanWorker):
    data_encoder = PickleDataEncoder


def test_documented_pickle_encoder_carries_objects(host):
    gm_client = PickleExampleClient([host])
    worker = PickleExampleWorker([host])
    worker.register_task("task_name", lambda worker, job: (job.data["set"], sorted(job.data["set"])))
    with working(worker):
        request = gm_client.submit_job("task_name", {"set": {2, 1}})
    gm_client.shutdown()
    assert request.result == ({1, 2}, [1, 2])


def test_documented_migration_of_a_task_set_has_all_results(host, client):
    new_jobs = [dict(task="echo", data="foo"), dict(task="echo", data="bar")]
    with working(worker_of(host, echo=lambda worker, job: job.data)):
        completed_requests = client.submit_multiple_jobs(new_jobs)
    assert [request.result.decode() for request in completed_requests] == [request.job.data for request in completed_requests]


# -- the documented examples: worker ---------------------------------------------------


def test_documented_worker_has_its_client_id_and_reverses(host, client):
    gm_worker = gearman.GearmanWorker([host])

    def task_listener_reverse(gearman_worker, gearman_job):
        return gearman_job.data[::-1]

    gm_worker.set_client_id("your_worker_client_id_name")
    gm_worker.register_task("reverse", task_listener_reverse)
    with working(gm_worker):
        assert client.submit_job("reverse", "abc").result == b"cba"
        rows = gearman.GearmanAdminClient([host]).get_workers()
    assert ("your_worker_client_id_name", ("reverse",)) in [(row["client_id"], row["tasks"]) for row in rows]


def test_documented_in_flight_updates_arrive(host, client):
    def task_listener_reverse_inflight(gearman_worker, gearman_job):
        reversed_data = gearman_job.data.decode()[::-1]
        total_chars = len(reversed_data)
        for idx, character in enumerate(reversed_data):
            gearman_worker.send_job_data(gearman_job, str(character))
            gearman_worker.send_job_status(gearman_job, idx + 1, total_chars)
        return None

    before = time.time()
    with working(worker_of(host, reverse=task_listener_reverse_inflight)):
        request = client.submit_job("reverse", "abc")
    assert list(request.data_updates) == [b"c", b"b", b"a"]
    assert (request.state, request.result) == (JOB_COMPLETE, b"")
    status = dict(request.status)
    assert before <= status.pop("time_received") <= time.time()
    assert status == {"handle": request.job.handle, "known": True, "running": True, "numerator": 3, "denominator": 3}


class JSONDataEncoder(gearman.DataEncoder):
    @classmethod
    def encode(cls, encodable_object):
        return json.dumps(encodable_object)

    @classmethod
    def decode(cls, decodable_string):
        return json.loads(decodable_string)


class DBRollbackJSONWorker(gearman.GearmanWorker):
    data_encoder = JSONDataEncoder
    rollbacks = 0

    def after_poll(self, any_activity):
        continue_working = True
        self.rollbacks += 1
        return continue_working


class JSONClient(gearman.GearmanClient):
    data_encoder = JSONDataEncoder


def test_documented_json_worker_rolls_back_between_polls(host):
    worker = DBRollbackJSONWorker([host])
    worker.register_task("sum", lambda worker, job: {"sum": sum(job.data)})
    gm_client = JSONClient([host])
    with working(worker):
        assert gm_client.submit_job("sum", [1, 2]).result == {"sum": 3}
    gm_client.shutdown()
    assert worker.rollbacks > 1


def test_documented_hooks_may_be_overridden_and_called(host, client):
    calls = []

    class CustomGearmanWorker(gearman.GearmanWorker):
        def on_job_execute(self, current_job):
            calls.append("Job started")
            return super(CustomGearmanWorker, self).on_job_execute(current_job)

        def on_job_exception(self, current_job, exc_info):
            calls.append("Job failed: %s" % exc_info[1])
            return super(CustomGearmanWorker, self).on_job_exception(current_job, exc_info)

        def on_job_complete(self, current_job, job_result):
            calls.append("Job complete: %r" % job_result)
            return super(CustomGearmanWorker, self).send_job_complete(current_job, job_result)

        def after_poll(self, any_activity):
            return True

    new_worker = CustomGearmanWorker([host])
    new_worker.register_task("echo", lambda worker, job: job.data)
    new_worker.register_task("broken", broken)
    with working(new_worker):
        assert client.submit_job("echo", "foo").result == b"foo"
        assert client.submit_job("broken", "foo").state == JOB_FAILED
    assert calls == ["Job started", "Job complete: b'foo'", "Job started", "Job failed: out of order"]


# -- the documented examples: administrative client --------------------------------------


def test_documented_admin_client_inspects_the_server(server, host, client):
    client.submit_job("later", "x", unique="one", background=True)
    gm_admin_client = gearman.GearmanAdminClient([host])
    assert gm_admin_client.get_status() == ({"task": "later", "queued": 1, "running": 0, "workers": 0},)
    assert gm_admin_client.get_version() == "OK " + importlib.import_module("gearmand").__version__
    row = gm_admin_client.get_workers()[0]
    assert (row["ip"], row["client_id"], row["tasks"]) == ("127.0.0.1", "-", ())
    assert row["file_descriptor"].isdigit()
    assert 0 < gm_admin_client.ping_server() < PATIENCE_S
    gm_admin_client.shutdown()


# -- names and signatures -----------------------------------------------------------------

SIGNATURES = {
    "GearmanClient.__init__": "host_list=None, random_unique_bytes=16",
    "GearmanClient.submit_job": (
        "task, data, unique=None, priority=None, background=False, wait_until_complete=True, max_retries=0, poll_timeout=None"
    ),
    "GearmanClient.submit_multiple_jobs": (
        "jobs_to_submit, background=False, wait_until_complete=True, max_retries=0, poll_timeout=None"
    ),
    "GearmanClient.submit_multiple_requests": "job_requests, wait_until_complete=True, poll_timeout=None",
    "GearmanClient.wait_until_jobs_accepted": "job_requests, poll_timeout=None",
    "GearmanClient.wait_until_jobs_completed": "job_requests, poll_timeout=None",
    "GearmanClient.get_job_status": "current_request, poll_timeout=None",
    "GearmanClient.get_job_statuses": "job_requests, poll_timeout=None",
    "GearmanClient.wait_until_job_statuses_received": "job_requests, poll_timeout=None",
    "GearmanClient.shutdown": "",
    "GearmanJob.__init__": "connection, handle, task, unique, data",
    "GearmanJob.to_dict": "",
    "GearmanJobRequest.__init__": "gearman_job, initial_priority=None, background=False, max_attempts=1",
    "GearmanJobRequest.reset": "",
    "GearmanWorker.__init__": "host_list=None",
    "GearmanWorker.register_task": "task, callback_function",
    "GearmanWorker.unregister_task": "task",
    "GearmanWorker.set_client_id": "client_id",
    "GearmanWorker.work": "poll_timeout=60.0",
    "GearmanWorker.after_poll": "any_activity",
    "GearmanWorker.after_job": "",
    "GearmanWorker.on_job_execute": "current_job",
    "GearmanWorker.on_job_complete": "current_job, job_result",
    "GearmanWorker.on_job_exception": "current_job, exc_info",
    "GearmanWorker.send_job_status": "current_job, numerator, denominator, poll_timeout=None",
    "GearmanWorker.send_job_data": "current_job, data, poll_timeout=None",
    "GearmanWorker.send_job_warning": "current_job, data, poll_timeout=None",
    "GearmanWorker.send_job_complete": "current_job, data, poll_timeout=None",
    "GearmanWorker.send_job_failure": "current_job, poll_timeout=None",
    "GearmanWorker.send_job_exception": "current_job, data, poll_timeout=None",
    "GearmanWorker.wait_until_updates_sent": "multiple_gearman_jobs, poll_timeout=None",
    "GearmanAdminClient.__init__": "host_list=None, poll_timeout=10.0",
    "GearmanAdminClient.ping_server": "",
    "GearmanAdminClient.send_maxqueue": "task, max_size",
    "GearmanAdminClient.send_shutdown": "graceful=True",
    "GearmanAdminClient.get_status": "",
    "GearmanAdminClient.get_version": "",
    "GearmanAdminClient.get_workers": "",
    "GearmanAdminClient.get_pid": "",
    "GearmanAdminClient.cancel_job": "handle",
    "GearmanAdminClient.get_jobs": "",
    "GearmanAdminClient.get_unique_jobs": "",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_name_has_the_signature_of_the_original(name):
    class_name, method = name.split(".")
    parameters = list(inspect.signature(getattr(getattr(gearman, class_name), method)).parameters.values())[1:]
    text = ", ".join(p.name if p.default is p.empty else "%s=%r" % (p.name, p.default) for p in parameters)
    assert text == SIGNATURES[name]


def test_constants_have_the_values_of_the_original():
    names = "PRIORITY_NONE PRIORITY_LOW PRIORITY_HIGH JOB_UNKNOWN JOB_PENDING JOB_CREATED JOB_FAILED JOB_COMPLETE".split()
    values = [None, "LOW", "HIGH", "UNKNOWN", "PENDING", "CREATED", "FAILED", "COMPLETE"]
    assert [getattr(gearman, name) for name in names] == values


@pytest.mark.parametrize(
    "line",
    [
        "from gearmand.compat.admin_client import GearmanAdminClient",
        "from gearmand.compat.client import GearmanClient",
        "from gearmand.compat.connection_manager import DataEncoder, NoopEncoder, GearmanConnectionManager",
        "from gearmand.compat.connection import GearmanConnection",
        "from gearmand.compat.constants import JOB_CREATED, PRIORITY_HIGH, DEFAULT_GEARMAN_PORT",
        "from gearmand.compat.errors import ConnectionError, ServerUnavailable, ProtocolError, UnknownCommandError",
        "from gearmand.compat.errors import ExceededConnectionAttempts, InvalidClientState, GearmanError",
        "from gearmand.compat.errors import InvalidWorkerState, InvalidAdminClientState",
        "from gearmand.compat.job import GearmanJob, GearmanJobRequest",
        "from gearmand.compat.worker import GearmanWorker",
        "import gearmand.compat.errors",
    ],
)
def test_module_of_the_original_can_be_imported_by_its_name(line):
    # In another process, where nothing has imported `compat` yet.
    ran = subprocess.run([sys.executable, "-c", line], cwd=ROOT, stderr=subprocess.PIPE, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_every_error_is_an_error_of_both_libraries():
    errors = [value for value in vars(gearman).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) == 9
    assert all(issubclass(error, gearman.errors.GearmanError) for error in errors)
    assert issubclass(gearman.GearmanError, importlib.import_module("gearmand").GearmandError)


# -- hosts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, address",
    [
        ("example", ("example", 4730)),
        ("example:99", ("example", 99)),
        (("example", 99), ("example", 99)),
        (("example", "99"), ("example", 99)),
        ({"host": "example", "port": 99}, ("example", 99)),
        ({"host": "example", "port": None}, ("example", 4730)),
        ({"host": "example", "comment": "without certificates"}, ("example", 4730)),
        ({"host": "example", "port": 99, "keyfile": None, "certfile": None, "ca_certs": None}, ("example", 99)),
    ],
)
def test_host_of_any_kind_is_an_address(host, address):
    [connection] = gearman.GearmanClient([host]).connection_list
    assert connection.get_address() == (connection.gearman_host, connection.gearman_port) == address
    assert not connection.connected


def test_host_alone_is_a_list_of_one():
    assert repr(gearman.GearmanWorker("example")) == "<GearmanWorker of example:4730>"


@pytest.mark.parametrize("host", [7, "example:many", ("example",), {"port": 1}, {}, {"host": ""}])
def test_host_of_no_kind_is_an_error(host):
    with pytest.raises(gearman.GearmanError):
        gearman.GearmanClient([host])


@pytest.mark.parametrize("name", ["keyfile", "certfile", "ca_certs"])
def test_host_with_files_that_are_not_there_is_refused_and_says_why(name):
    with pytest.raises(gearman.GearmanError, match="example:99: TLS: the .* /a/file"):
        gearman.GearmanWorker([{"host": "example", "port": 99, name: "/a/file"}])


def test_connection_shows_its_address():
    assert repr(gearman.GearmanConnection("::1", 99)) == "<GearmanConnection [::1]:99>"


def test_client_without_a_server_is_unavailable():
    assert repr(gearman.GearmanClient()) == "<GearmanClient of no server>"
    with pytest.raises(gearman.ServerUnavailable):
        gearman.GearmanClient([]).submit_job("f", "x")


def test_server_can_be_added_later(host):
    client = gearman.GearmanClient()
    connection = client.add_connection(host)
    request = client.submit_job("f", "x", background=True)
    assert (request.job.connection, connection.connected) == (connection, True)
    client.shutdown()
    assert not connection.connected


# -- client -------------------------------------------------------------------------------


def priorities(host):
    from gearmand import Admin

    with Admin(host) as admin:
        return admin.table("prioritystatus")


@pytest.mark.parametrize("priority, row", [("HIGH", b"1\t0\t0"), (None, b"0\t1\t0"), ("LOW", b"0\t0\t1")])
def test_job_has_its_priority(host, client, priority, row):
    client.submit_job("f", "x", priority=priority, background=True)
    assert priorities(host) == b"f\t" + row + b"\t0\n"


def test_job_of_bytes_and_of_text_are_the_same_bytes(host, client):
    with working(worker_of(host, echo=lambda worker, job: job.data)):
        results = [client.submit_job(task, data).result for task, data in (("echo", "é"), (b"echo", "é".encode()))]
    assert results == ["é".encode()] * 2


def test_unique_is_random_unless_given(client):
    uniques = {client.submit_job("f", "x", background=True).unique for _ in range(2)}
    assert {len(unique) for unique in uniques} == {32} and len(uniques) == 2
    assert client.submit_job("f", "x", unique="mine", background=True).job.unique == "mine"


def test_failed_job_has_state_failed_and_no_result(host, client, caplog):
    with working(worker_of(host, broken=broken)):
        request = client.submit_job("broken", "x")
    assert (request.state, request.complete, request.result, request.exception) == (JOB_FAILED, True, None, None)
    assert "out of order" in caplog.text


def test_exception_of_a_worker_is_kept_and_the_job_failed(host, client):
    def tells(worker, job):
        worker.send_job_exception(job, "told")

    class Silent(gearman.GearmanWorker):
        def on_job_complete(self, current_job, job_result):
            return True

    worker = Silent([host])
    worker.register_task("tells", tells)
    with working(worker):
        requests = [client.submit_job("tells", "x") for _ in range(2)]
    assert [(request.state, request.exception) for request in requests] == [(JOB_FAILED, b"told")] * 2


def test_exception_that_the_encoder_cannot_read_stays_bytes(server, host):
    def tells(connection, handle, workload):
        connection.send(wire.WORK_EXCEPTION, handle, b"no json")

    json_client = JSONClient([host])
    with peers.Crew(server.address, {b"tells": tells}):
        assert json_client.submit_job("tells", 1).exception == b"no json"
    json_client.shutdown()


def test_result_that_the_encoder_cannot_read_raises_what_it_raised(server, host):
    json_client = JSONClient([host])
    with peers.Crew(server.address, {b"f": lambda connection, handle, workload: b"no json"}):
        with pytest.raises(ValueError):
            json_client.submit_job("f", 1)
    json_client.shutdown()


def test_encoder_may_be_the_name_of_one(host):
    class TextClient(gearman.GearmanClient):
        data_encoder = "text"

    text_client = TextClient([host])
    with working(worker_of(host, reverse=reverse)):
        assert text_client.submit_job("reverse", "abc").result == "cba"
    text_client.shutdown()


def test_encoder_without_its_methods_says_so(host):
    class Halfway(gearman.GearmanClient):
        data_encoder = type("Halfway", (gearman.DataEncoder,), {})

    with pytest.raises(NotImplementedError, match="Halfway has no encode"):
        Halfway([host]).submit_job("f", "x")
    with pytest.raises(NotImplementedError, match="Halfway has no decode"):
        Halfway.data_encoder.decode(b"x")


def test_warnings_and_data_are_separate(host, client):
    def talks(worker, job):
        worker.send_job_warning(job, "careful")
        worker.send_job_data(job, b"part")
        worker.wait_until_updates_sent([job])

    with working(worker_of(host, talks=talks)):
        request = client.submit_job("talks", "x")
    assert (list(request.warning_updates), list(request.data_updates)) == ([b"careful"], [b"part"])


def test_job_that_times_out_can_be_waited_for_again(host, client):
    request = client.submit_job("reverse", "abc", poll_timeout=2)
    assert (request.state, request.timed_out, request.complete) == (JOB_CREATED, True, False)
    with working(worker_of(host, reverse=reverse)):
        [same] = client.wait_until_jobs_completed([request], poll_timeout=PATIENCE_S)
    assert same is request
    assert (request.state, request.timed_out, request.result) == (JOB_COMPLETE, False, b"cba")
    assert client.submit_multiple_requests((request,)) == (request,)


def test_request_changes_only_while_its_client_waits(host, client):
    request = client.submit_job("reverse", "abc", wait_until_complete=False)
    with working(worker_of(host, reverse=reverse)):
        wire.wait_until(lambda: wire.status(client.connection_list[0].get_address())["reverse"][0] == 0, "the job has ended")
        assert request.submission.ended.wait(PATIENCE_S)
        assert (request.state, request.result) == (JOB_CREATED, None)
        client.wait_until_jobs_completed([request])
    assert request.result == b"cba"


def test_job_without_an_answer_stays_pending_until_it_comes():
    answers = threading.Event()

    def script(connection, number):
        connection.receive()
        connection.receive()
        answers.wait(PATIENCE_S)
        connection.send(wire.OPTION_RES, b"exceptions")
        connection.send(wire.JOB_CREATED, b"H:x:1")
        connection.receive()

    with peers.ScriptedServer(script) as scripted:
        client = gearman.GearmanClient([scripted.address])
        request = client.submit_job("f", "x", background=True, poll_timeout=0.05)
        assert (request.state, request.timed_out, request.complete) == (JOB_PENDING, True, False)
        with pytest.raises(gearman.InvalidClientState):
            client.get_job_status(request)
        answers.set()
        client.wait_until_jobs_accepted([request], poll_timeout=PATIENCE_S)
        assert (request.state, request.timed_out, request.job.handle) == (JOB_CREATED, False, b"H:x:1")
        client.shutdown()


def test_job_that_is_refused_has_failed(host, client, caplog):
    gearman.GearmanAdminClient([host]).send_maxqueue("f", 1)
    requests = client.submit_multiple_jobs([dict(task="f", data="x")] * 2, background=True)
    assert sorted(request.state for request in requests) == [JOB_CREATED, JOB_FAILED]
    assert not any(request.timed_out for request in requests)
    assert "QUEUE_ERROR" in caplog.text


def test_server_that_cannot_be_reached_is_unavailable():
    client = gearman.GearmanClient(["127.0.0.1:1", "127.0.0.1:2"])
    with pytest.raises(gearman.ServerUnavailable, match="127.0.0.1:1.*Connection refused"):
        client.submit_job("f", "x", max_retries=3)


def cuts_after(answers):
    """A script: the option, one job, which is answered with so many packets, and the end."""

    def script(connection, number):
        connection.receive()
        connection.receive()
        for answer in answers:
            connection.send(*answer)
        connection.cut()

    return script


def test_job_lost_before_it_is_accepted_exceeds_its_attempts():
    with peers.ScriptedServer(cuts_after([])) as scripted:
        client = gearman.GearmanClient([scripted.address])
        with pytest.raises(gearman.ExceededConnectionAttempts):
            client.submit_job("f", "x", max_retries=2, poll_timeout=PATIENCE_S)
        client.shutdown()


LOST = [(wire.OPTION_RES, b"exceptions"), (wire.JOB_CREATED, b"H:x:1")]


def test_job_lost_at_the_only_server_is_unknown_and_the_server_unavailable():
    with peers.ScriptedServer(cuts_after(LOST)) as scripted:
        client = gearman.GearmanClient([scripted.address])
        request = client.submit_job("f", "x", wait_until_complete=False)
        with pytest.raises(gearman.ServerUnavailable):
            client.wait_until_jobs_completed([request], poll_timeout=PATIENCE_S)
        assert (request.state, request.timed_out) == (JOB_UNKNOWN, True)
        client.shutdown()


def test_job_lost_at_one_of_two_servers_is_unknown(host):
    with peers.ScriptedServer(cuts_after(LOST)) as scripted:
        client = gearman.GearmanClient([scripted.address, host])
        requests = {}
        while len(requests) < 2:
            # Its random unique decides where it goes.
            request = client.submit_job("f", "x", wait_until_complete=False, max_retries=9)
            requests[str(request.job.connection.address)] = request
        lost, other = (requests[str(connection.address)] for connection in client.connection_list)
        client.wait_until_jobs_completed([lost], poll_timeout=PATIENCE_S)
        assert (lost.state, lost.timed_out) == (JOB_UNKNOWN, True)
        assert other.state == JOB_CREATED
        client.shutdown()


def test_request_that_is_reset_can_be_submitted_as_new(host, client):
    with working(worker_of(host, reverse=reverse)):
        request = client.submit_job("reverse", "abc", max_retries=1)
        request.reset()
        assert (request.state, request.result, request.job.handle, request.job.connection) == (JOB_UNKNOWN, None, None, None)
        client.submit_multiple_requests([request])
    assert (request.result, request.connection_attempts) == (b"cba", 2)


def test_client_that_was_shut_down_loses_its_jobs_and_can_be_used_again(client):
    request = client.submit_job("f", "x", wait_until_complete=False)
    client.shutdown()
    with pytest.raises(gearman.ServerUnavailable):
        client.wait_until_jobs_completed([request], poll_timeout=PATIENCE_S)
    assert request.state == JOB_UNKNOWN
    assert client.submit_job("f", "x", background=True).complete


def test_requests_that_are_complete_are_not_waited_for(client):
    request = client.submit_job("f", "x", background=True)
    client.shutdown()
    assert client.wait_until_jobs_completed([request]) == [request]
    assert client.submit_multiple_jobs([]) == []


@pytest.mark.parametrize("jobs", [dict(task="f", data="x"), "f", iter(())])
def test_several_jobs_have_to_come_in_a_list(client, jobs):
    with pytest.raises(TypeError, match="expected a list, tuple or set"):
        client.submit_multiple_jobs(jobs)


@pytest.mark.parametrize(
    "task, data, options, error",
    [
        ("f", 5, {}, TypeError),
        (5, "x", {}, TypeError),
        ("a\0b", "x", {}, gearman.ProtocolError),
        ("f", "x", {"unique": "u" * 65}, gearman.InvalidClientState),
        ("f", "x", {"priority": "URGENT"}, gearman.InvalidClientState),
    ],
)
def test_job_that_cannot_be_sent_raises(client, task, data, options, error):
    with pytest.raises(error):
        client.submit_job(task, data, **options)


def test_statuses_are_asked_of_the_server(host, client):
    going = threading.Event()

    def slow(worker, job):
        worker.send_job_status(job, 1, 3)
        going.wait(PATIENCE_S)

    jobs = [dict(task="slow", data="x"), dict(task="nobody", data="x")]
    with working(worker_of(host, slow=slow)):
        requests = client.submit_multiple_jobs(jobs, background=True)
        try:
            wire.wait_until(lambda: client.get_job_status(requests[0]).status["numerator"], "the worker has said how far it is")
            client.get_job_statuses(requests, poll_timeout=PATIENCE_S)
            found = [(r.status["known"], r.status["running"], r.status["numerator"], r.status["denominator"]) for r in requests]
            assert found == [(True, True, 1, 3), (True, False, 0, 0)]
            assert [request.status["handle"] for request in requests] == [request.job.handle for request in requests]
            assert not any(request.timed_out or "last_time_received" in request.status for request in requests)
        finally:
            going.set()
        wire.wait_until(lambda: not client.get_job_status(requests[0]).status["known"], "the job has ended")


def test_status_that_came_meanwhile_is_not_asked_for():
    def script(connection, number):
        connection.receive()
        connection.receive()
        connection.send(wire.OPTION_RES, b"exceptions")
        connection.send(wire.JOB_CREATED, b"H:x:1")
        connection.send(wire.WORK_STATUS, b"H:x:1", b"1", b"2")
        connection.receive()
        connection.receive()

    with peers.ScriptedServer(script) as scripted:
        client = gearman.GearmanClient([scripted.address])
        request = client.submit_job("f", "x", wait_until_complete=False)
        wire.wait_until(lambda: client.wait_until_jobs_accepted([request])[0].status, "the status has come")
        client.wait_until_job_statuses_received([request], poll_timeout=PATIENCE_S)
        assert (request.status["numerator"], request.timed_out) == (1, False)
        client.get_job_status(request, poll_timeout=0.05)
        assert (request.status["numerator"], request.timed_out) == (1, True)
        client.shutdown()


def test_status_of_a_server_that_has_gone_is_unavailable():
    with peers.ScriptedServer(cuts_after(LOST)) as scripted:
        client = gearman.GearmanClient([scripted.address])
        request = client.submit_job("f", "x", background=True)
    with pytest.raises(gearman.ServerUnavailable):
        client.get_job_status(request, poll_timeout=PATIENCE_S)
    client.shutdown()


# -- worker -------------------------------------------------------------------------------


def test_job_at_its_worker_has_all_its_names(host, client):
    seen = []
    worker = worker_of(host)
    for name in ("text", b"bytes"):
        worker.register_task(name, lambda worker, job: seen.append(job))
    with working(worker):
        requests = [client.submit_job(name, "data", unique="u") for name in ("text", "bytes")]
    assert [job.to_dict() for job in seen] == [
        {"task": name, "job_handle": request.job.handle, "unique": b"u", "data": b"data"}
        for name, request in zip(("text", b"bytes"), requests)
    ]
    assert seen[0].connection is worker.connection_list[0]


def test_worker_greets_as_the_original_does():
    greetings = []

    def script(connection, number):
        greetings.extend(connection.receive() for _ in range(5))
        connection.send(wire.NOOP)
        greetings.append(connection.receive())
        connection.send(wire.NO_JOB)
        greetings.append(connection.receive())

    with peers.ScriptedServer(script) as scripted:
        worker = worker_of("%s:%d" % scripted.address, a=reverse, b=reverse)
        worker.set_client_id("me")
        with working(worker, gearman.ServerUnavailable) as thread:
            thread.join(PATIENCE_S)
    assert greetings == [
        (wire.SET_CLIENT_ID, b"me"),
        (wire.RESET_ABILITIES, b""),
        (wire.CAN_DO, b"a"),
        (wire.CAN_DO, b"b"),
        (wire.PRE_SLEEP, b""),
        (wire.GRAB_JOB_UNIQ, b""),
        (wire.PRE_SLEEP, b""),
    ]


def test_worker_takes_a_job_without_a_unique():
    ends = []

    def script(connection, number):
        for _ in range(3):
            connection.receive()
        connection.send(wire.NOOP)
        connection.receive()
        connection.send(wire.JOB_ASSIGN, b"H:x:1", b"reverse", b"ab\0c")
        ends.append(connection.receive())

    with peers.ScriptedServer(script) as scripted:
        with working(worker_of("%s:%d" % scripted.address, reverse=reverse), gearman.ServerUnavailable) as thread:
            thread.join(PATIENCE_S)
    assert ends == [(wire.WORK_COMPLETE, b"H:x:1\0c\0ba")]


def test_functions_can_be_registered_and_unregistered_at_work(server, host, client):
    worker = worker_of(host, reverse=reverse)

    def change(worker, job):
        assert worker.register_task("new", lambda worker, job: b"new") == "new"
        assert worker.unregister_task("reverse") == "reverse"
        worker.unregister_task("never registered")
        worker.set_client_id("changed")

    worker.register_task("change", change)
    queued = client.submit_job("new", "x", wait_until_complete=False)
    with working(worker):
        client.submit_job("change", "x")
        client.wait_until_jobs_completed([queued], poll_timeout=PATIENCE_S)
        assert queued.result == b"new"
        assert wire.status(server.address)["reverse"][2] == 0
        assert "changed" in [row["client_id"] for row in gearman.GearmanAdminClient([host]).get_workers()]


def test_function_registered_while_asleep_does_the_jobs_that_are_there(host, client):
    class Late(gearman.GearmanWorker):
        def after_poll(self, any_activity):
            if any_activity and "late" not in self.worker_abilities:
                self.register_task("late", lambda worker, job: b"late")
            return True

    worker = Late([host])
    worker.register_task("reverse", reverse)
    queued = client.submit_job("late", "x", wait_until_complete=False)
    with working(worker):
        client.submit_job("reverse", "abc")
        assert client.wait_until_jobs_completed([queued], poll_timeout=PATIENCE_S)[0].result == b"late"


def test_function_registered_twice_is_the_newer_one(host, client):
    worker = worker_of(host, f=broken)
    worker.register_task(b"f", lambda worker, job: repr(job.task))
    assert list(worker.worker_abilities) == [b"f"]
    with working(worker):
        assert client.submit_job("f", "x").result == b"b'f'"


def test_job_of_a_function_that_is_no_longer_registered_fails(host, client):
    class Forgetful(gearman.GearmanWorker):
        def after_poll(self, any_activity):
            # The server is not told.
            self._names.clear()
            return True

    worker = Forgetful([host])
    worker.register_task("f", reverse)
    with working(worker):
        assert client.submit_job("f", "x").state == JOB_FAILED


def test_after_job_is_called_once_after_each_job_and_ends_the_work(server, host, client):
    order = []

    class Twice(gearman.GearmanWorker):
        def on_job_execute(self, current_job):
            order.append("job")
            return super().on_job_execute(current_job)

        def after_job(self):
            order.append("after")
            return order.count("after") < 2

    worker = Twice([host])
    worker.register_task("f", reverse)
    client.submit_multiple_jobs([dict(task="f", data="x")] * 3, background=True)
    worker.work(poll_timeout=0.02)
    assert order == ["job", "after", "job", "after"]
    wire.wait_until(lambda: wire.status(server.address)["f"] == (1, 0, 0), "the third job is queued and the worker gone")


def test_after_poll_is_called_first_and_after_each_poll_and_timeout(host, client):
    seen = []

    class Polled(gearman.GearmanWorker):
        def after_poll(self, any_activity):
            seen.append(any_activity)
            return len(seen) < 4

    worker = Polled([host])
    worker.register_task("f", reverse)
    worker.work(poll_timeout=0.02)
    assert seen == [False, False, False, False] or True in seen
    assert not worker.connection_list[0].connected


def test_after_poll_that_says_no_at_first_ends_the_work_at_once(host):
    worker = worker_of(host)
    worker.after_poll = lambda any_activity: False
    worker.work(poll_timeout=None)
    assert not worker.connection_list[0].connected


def test_worker_in_the_calling_thread_runs_all_hooks_there(host, client):
    threads = set()

    class Watched(gearman.GearmanWorker):
        def after_poll(self, any_activity):
            threads.add(threading.get_ident())
            return True

        def on_job_complete(self, current_job, job_result):
            threads.add(threading.get_ident())
            return super().on_job_complete(current_job, job_result)

        def after_job(self):
            return False

    worker = Watched([host])
    worker.register_task("f", lambda worker, job: threads.add(threading.get_ident()))
    client.submit_job("f", "x", background=True)
    worker.work()
    assert threads == {threading.get_ident()}


def test_what_a_hook_raises_ends_the_work_and_gives_the_job_back(server, host, client):
    class Raising(gearman.GearmanWorker):
        def on_job_execute(self, current_job):
            raise KeyError("a hook")

    client.submit_job("f", "x", background=True)
    worker = Raising([host])
    worker.register_task("f", reverse)
    with pytest.raises(KeyError):
        worker.work()
    wire.wait_until(lambda: wire.status(server.address)["f"] == (1, 0, 0), "the job is queued again")


def test_what_the_encoder_cannot_take_fails_the_job_and_the_worker_goes_on(host, client, caplog):
    worker = DBRollbackJSONWorker([host])
    worker.register_task("set", lambda worker, job: {1, 2})
    worker.register_task("echo", lambda worker, job: job.data)
    with working(worker):
        assert client.submit_job("set", "1").state == JOB_FAILED
        assert client.submit_job("echo", "no json").state == JOB_FAILED
        assert client.submit_job("echo", "[1]").result == b"[1]"
    assert "not JSON serializable" in caplog.text and "JSONDecodeError" in caplog.text


def test_job_may_be_ended_by_its_function(host, client):
    class Silent(gearman.GearmanWorker):
        def on_job_complete(self, current_job, job_result):
            return True

    worker = Silent([host])
    worker.register_task("completes", lambda worker, job: worker.send_job_complete(job, "early"))
    worker.register_task("fails", lambda worker, job: worker.send_job_failure(job))
    with working(worker):
        assert client.submit_job("completes", "x").result == b"early"
        assert client.submit_job("fails", "x").state == JOB_FAILED


def test_status_of_no_numbers_fails_the_job(host, client, caplog):
    with working(worker_of(host, f=lambda worker, job: worker.send_job_status(job, "1", 2))):
        assert client.submit_job("f", "x").state == JOB_FAILED
    assert "expected two numbers" in caplog.text


def test_worker_without_any_server_is_unavailable():
    for hosts in ([], ["127.0.0.1:1"]):
        with pytest.raises(gearman.ServerUnavailable):
            gearman.GearmanWorker(hosts).work()


def test_server_that_cannot_be_reached_is_left_alone_for_a_while():
    worker = gearman.GearmanWorker(["127.0.0.1:1"])
    (connection,) = worker.connection_list
    assert connection.connect_cooldown_seconds == 1
    connection.connect_cooldown_seconds = PATIENCE_S
    began_at = time.monotonic()
    assert worker.establish_worker_connections() == []
    rests_until = connection._rests_until
    assert began_at <= rests_until - PATIENCE_S <= time.monotonic()
    assert worker.establish_worker_connections() == []
    assert connection._rests_until == rests_until


def test_worker_of_two_servers_serves_both_and_outlives_one():
    with Server(port=0) as first:
        hosts = ["%s:%d" % first.address]
        second = Server(port=0)
        second.start()
        hosts.append("%s:%d" % second.address)
        clients = [gearman.GearmanClient([host]) for host in hosts]
        worker = gearman.GearmanWorker(hosts)
        worker.register_task("f", reverse)
        with working(worker):
            requests = [client.submit_multiple_jobs([dict(task="f", data="ab")] * 20) for client in clients]
            assert {request.result for several in requests for request in several} == {b"ba"}
            second.stop()
            assert clients[0].submit_job("f", "ab").result == b"ba"
        for client in clients:
            client.shutdown()


def test_worker_whose_only_server_goes_is_unavailable(host, server):
    with working(worker_of(host, f=reverse), gearman.ServerUnavailable) as thread:
        wire.wait_for_workers(server.address, "f")
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_worker_without_a_connection_tells_nobody(server, host, client):
    class Leaves(gearman.GearmanWorker):
        def after_poll(self, any_activity):
            if any_activity:
                self.connection_list[0]._wire.shut_down()
                for number in range(3):
                    self.register_task("f%d" % number, reverse)
            return True

    worker = Leaves([host])
    worker.register_task("f", reverse)
    client.submit_job("f", "x", background=True)
    with pytest.raises(gearman.ServerUnavailable):
        worker.work()


def test_unexpected_packets_are_ignored(caplog):
    def script(connection, number):
        for _ in range(3):
            connection.receive()
        connection.send(wire.ECHO_RES, b"x")
        connection.send(wire.ERROR, b"CODE", b"and why")
        connection.send(wire.NOOP)
        connection.send(wire.NOOP)
        assert connection.receive() == (wire.GRAB_JOB_UNIQ, b"")
        connection.send(wire.NOOP)
        connection.send(wire.JOB_ASSIGN_UNIQ, b"H:x:1", b"f", b"u", b"ab")
        done.append(connection.receive())

    done = []
    with peers.ScriptedServer(script) as scripted:
        with working(worker_of("%s:%d" % scripted.address, f=reverse), gearman.ServerUnavailable) as thread:
            thread.join(PATIENCE_S)
    assert done == [(wire.WORK_COMPLETE, b"H:x:1\0ba")]
    assert "it said CODE: and why" in caplog.text


def test_job_whose_server_goes_meanwhile_ends_with_its_connection():
    seen = []

    def script(connection, number):
        for _ in range(3):
            connection.receive()
        connection.send(wire.NOOP)
        connection.receive()
        connection.send(wire.JOB_ASSIGN_UNIQ, b"H:x:1", b"f", b"u", b"data")
        connection.cut()

    def reports(worker, job):
        with pytest.raises(gearman.ServerUnavailable):
            for _ in range(1000):
                worker.send_job_data(job, b"x" * 10000)
        seen.append(job.connection.connected)

    with peers.ScriptedServer(script) as scripted:
        with working(worker_of("%s:%d" % scripted.address, f=reports), gearman.ServerUnavailable) as thread:
            thread.join(PATIENCE_S)
    assert seen == [False]


def test_server_unavailable_of_a_hook_of_another_server_gets_out(host, client):
    class Relay(gearman.GearmanWorker):
        def on_job_execute(self, current_job):
            gearman.GearmanClient(["127.0.0.1:1"]).submit_job("f", "x")

    client.submit_job("f", "x", background=True)
    worker = Relay([host])
    worker.register_task("f", reverse)
    with pytest.raises(gearman.ServerUnavailable, match="127.0.0.1:1"):
        worker.work()


# -- administrative client ------------------------------------------------------------------


def test_admin_client_lists_jobs(host, client):
    request = client.submit_job("f", "x", unique="mine", background=True)
    admin = gearman.GearmanAdminClient([host])
    [row] = admin.get_jobs()
    assert (row["handle"], row["queued"], row["canceled"]) == (request.job.handle.decode(), 0, 0)
    assert row["enabled"] in (0, 1)
    assert admin.get_unique_jobs() == ({"unique": "mine"},)
    admin.shutdown()


def test_admin_client_cancels_a_job_by_its_handle(host, client):
    request = client.submit_job("f", "x", background=True)
    admin = gearman.GearmanAdminClient([host])
    assert admin.cancel_job(request.job.handle) == "OK"
    assert admin.cancel_job(request.job.handle.decode()).startswith("ERR ")
    assert admin.get_jobs() == ()


def test_admin_client_tells_the_process_id(host):
    assert gearman.GearmanAdminClient([host]).get_pid() == "OK %d" % os.getpid()


def test_admin_client_sets_a_limit(host, client):
    assert gearman.GearmanAdminClient([host]).send_maxqueue("f", 1) == "OK"
    states = [client.submit_job("f", "x", background=True).state for _ in range(2)]
    assert states == [JOB_CREATED, JOB_FAILED]


@pytest.mark.parametrize("graceful", [True, False])
def test_admin_client_stops_the_server(server, host, graceful):
    assert gearman.GearmanAdminClient([host]).send_shutdown(graceful) is None
    wire.wait_until(lambda: not peers.listens(server.address[1]), "the server has stopped")


def test_admin_client_of_no_or_two_servers_is_an_error():
    for hosts in ([], ["a", "b"]):
        with pytest.raises(gearman.GearmanError, match="expected one server"):
            gearman.GearmanAdminClient(hosts)


def test_admin_command_that_cannot_be_sent_is_a_protocol_error(host):
    admin = gearman.GearmanAdminClient([host])
    for command in (lambda: admin.send_maxqueue("two words", 1), lambda: admin.cancel_job("two words")):
        with pytest.raises(gearman.ProtocolError, match="two words"):
            command()


def test_admin_client_of_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(gearman.ServerUnavailable):
        gearman.GearmanAdminClient(["127.0.0.1:1"]).get_status()


def test_admin_client_of_a_silent_server_times_out():
    # It waits for a packet, and gets a line.
    with peers.ScriptedServer(lambda connection, number: connection.receive()) as scripted:
        with pytest.raises(gearman.InvalidAdminClientState):
            gearman.GearmanAdminClient([scripted.address], poll_timeout=0.05).get_status()


# -- the same application with gearman3 --------------------------------------------------------

APPLICATION = '''
import sys
if sys.argv[1] == "gearman3":
    import gearman
else:
    from gearmand import compat as gearman
host = sys.argv[2]

def said(*words):
    print(*words)

class Client(gearman.GearmanClient):
    pass

class Worker(gearman.GearmanWorker):
    jobs = 0

    def on_job_execute(self, current_job):
        said("execute", current_job.task, current_job.unique, current_job.data)
        return super(Worker, self).on_job_execute(current_job)

    def on_job_complete(self, current_job, job_result):
        said("complete", job_result)
        return super(Worker, self).on_job_complete(current_job, job_result)

    def on_job_exception(self, current_job, exc_info):
        said("exception", exc_info[0].__name__, exc_info[1])
        return super(Worker, self).on_job_exception(current_job, exc_info)

    def after_poll(self, any_activity):
        return self.jobs < len(requests)

def reverse(worker, job):
    worker.jobs += 1
    worker.send_job_data(job, b"part")
    worker.send_job_data(job, "text")
    worker.send_job_warning(job, b"careful")
    worker.send_job_status(job, 1, 2)
    return job.data[::-1]

def broken(worker, job):
    worker.jobs += 1
    raise ValueError("out of order")

def told(request):
    status = dict(request.status)
    if status:
        status["handle"] = status["handle"] == request.job.handle
        status["time_received"] = type(status["time_received"]).__name__
    said(
        request.state, request.complete, request.timed_out, request.result, request.exception, list(request.data_updates),
        list(request.warning_updates), sorted(status.items()), request.connection_attempts, request.max_connection_attempts,
        request.priority, request.background, request.job.task, request.job.unique, request.job.data,
        type(request.job.handle).__name__, request.job.connection.get_address() == (host.split(":")[0], int(host.split(":")[1])),
    )

client = Client([host])
requests = client.submit_multiple_jobs(
    [
        dict(task="reverse", data="text", unique="one", priority=gearman.PRIORITY_HIGH),
        dict(task=b"reverse", data=b"\\xff\\x00", unique="two"),
        dict(task="broken", data="x", unique="three", priority=gearman.PRIORITY_LOW),
    ],
    wait_until_complete=False,
)
for request in requests:
    told(request)
late = client.submit_job("nobody", "x", unique="four", wait_until_complete=False)
client.wait_until_jobs_completed([late], poll_timeout=0.1)
told(late)
told(client.submit_job("nobody", "x", unique="five", background=True, priority=gearman.PRIORITY_LOW))
for bad in (5, 1.5, ["x"]):
    try:
        client.submit_job("reverse", bad)
    except Exception as error:
        said("error", type(error).__name__)
worker = Worker([host])
worker.set_client_id("me")
said(worker.register_task(b"reverse", reverse), worker.register_task(b"broken", broken), worker.unregister_task(b"never"))
worker.work(poll_timeout=0.5)
client.wait_until_jobs_completed(requests, poll_timeout=10)
for request in requests:
    told(request)
for hosts in ([], ["127.0.0.1:1"]):
    try:
        gearman.GearmanClient(hosts).submit_job("reverse", "x")
    except gearman.errors.ServerUnavailable as error:
        said("error", type(error).__name__)
    try:
        gearman.GearmanWorker(hosts).work()
    except gearman.errors.GearmanError as error:
        said("error", type(error).__name__)
client.shutdown()
'''


def run_application(python, library):
    """What the application prints, with a server of its own."""
    with Server(port=0) as server:
        command = [python, "-W", "ignore", "-c", APPLICATION, library, "%s:%d" % server.address]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout.decode().splitlines()


def test_application_ends_as_expected():
    lines = run_application(sys.executable, "compat")
    assert len(lines) == 22
    assert lines[-7].startswith("COMPLETE True False b'txet' None [b'part', b'text'] [b'careful'] [('denominator', 2), ")


def test_application_prints_the_same_with_gearman3():
    python = os.environ.get("GEARMAND_TEST_GEARMAN3_PYTHON")
    if not python:
        pytest.skip("no gearman3: pip install gearman3 for Python 3.8 and name that in GEARMAND_TEST_GEARMAN3_PYTHON")
    assert run_application(sys.executable, "compat") == run_application(python, "gearman3")
