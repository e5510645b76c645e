"""The administrative commands as objects: with this server, the C server, the Perl server, and servers that misbehave."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from gearmand import Server
from gearmand.admin import (
    Admin,
    ClientJob,
    ClientStatus,
    FunctionStatus,
    JobStatus,
    PriorityStatus,
    ShownJob,
    WorkerStatus,
)
from gearmand.admin_steering import RecurringJob
from gearmand.errors import AdminRefused, ConfigError, ServerLost
from peers import ScriptedServer, c_server, free_address
from wire import (
    DEADLINE_S,
    ECHO_REQ,
    ECHO_RES,
    SET_CLIENT_ID,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_FAIL,
    Wire,
    wait_until,
)

PERL_SERVER = "/usr/bin/gearmand"


@contextlib.contextmanager
def this_server(directory):
    with Server(port=0) as server:
        yield server.address


@contextlib.contextmanager
def perl_server(directory):
    if not os.path.exists(PERL_SERVER):
        pytest.skip("there is no Perl server: %s (Debian: gearman-server)" % PERL_SERVER)
    host, port = free_address()
    process = subprocess.Popen([PERL_SERVER, "-L", host, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens():
        assert process.poll() is None, "the Perl server does not start"
        try:
            return Wire((host, port)).close() or True
        except OSError:
            return False

    try:
        wait_until(listens, "the Perl server listens")
        yield host, port
    finally:
        process.kill()
        process.wait(10)


SERVERS = {"this": this_server, "C": c_server, "Perl": perl_server}


def served_by(*names):
    return pytest.mark.parametrize("address", names, indirect=True)


@pytest.fixture
def address(request, tmp_path):
    """One of several servers, by the name that `served_by` gives; else this one."""
    with SERVERS[getattr(request, "param", "this")](tmp_path) as address:
        yield address


@pytest.fixture
def admin(address):
    with Admin(address) as admin:
        yield admin


@pytest.fixture
def wire(address):
    with Wire(address) as wire:
        yield wire


def line_of(connection):
    """The next line, at a scripted server's end."""
    while b"\n" not in connection.buffer:
        connection._more()
    line, _, connection.buffer = connection.buffer.partition(b"\n")
    return line


def scripted(*answers):
    """A server whose answer to the first line of each connection is the next of these; then it waits for the end."""

    def script(connection, number):
        line_of(connection)
        answer = answers[min(number, len(answers) - 1)]
        if answer is not None:
            connection.send_raw(answer)
        connection.is_closed()

    return ScriptedServer(script)


# -- tables ------------------------------------------------------------------------


@served_by("this", "C", "Perl")
def test_status_counts_queued_and_running_jobs_and_workers(admin, wire, address):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    with Wire(address) as worker:
        worker.can_do(b"f")
        worker.grab()
        (row,) = admin.status()
    assert row == FunctionStatus("f", 2, 1, 1)
    assert row.queued == 1


@served_by("this", "C", "Perl")
@pytest.mark.parametrize("name", ["with space", "größe", "tab\tin it", "1\t2", "\udcff"])
def test_status_takes_any_name(admin, wire, name):
    wire.submit(name.encode("utf-8", "surrogateescape"), kind=SUBMIT_JOB_BG)
    assert admin.status() == [FunctionStatus(name, 1, 0, 0)]


@served_by("this", "C")  # The Perl server takes no such name.
@pytest.mark.parametrize("name", ["line\nfeed", "\n", ".\n."])
def test_status_takes_a_name_with_line_feeds(admin, wire, name):
    wire.submit(name.encode("utf-8", "surrogateescape"), kind=SUBMIT_JOB_BG)
    assert admin.status() == [FunctionStatus(name, 1, 0, 0)]


@served_by("this", "C", "Perl")
def test_status_of_an_idle_server_is_empty(admin):
    assert admin.status() == []


@served_by("this", "C")
def test_priority_status_counts_queued_jobs_by_priority(admin, wire):
    for kind in (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG):
        wire.submit(b"f x", kind=kind)
    (row,) = admin.priority_status()
    assert row == PriorityStatus("f x", 1, 2, 1, 0)
    assert row.queued == 4


@served_by("this", "C", "Perl")
def test_workers_has_client_ids_and_functions(admin, wire, address):
    wire.send(SET_CLIENT_ID, b"resizer")
    wire.can_do(b"f", b"g")
    with Wire(address) as other:
        other.can_do("größe".encode())
        rows = {row.client_id if row.functions else "asks": row for row in admin.workers()}
    assert sorted(rows["resizer"].functions) == ["f", "g"]
    assert rows["resizer"].address == "127.0.0.1"
    assert rows["-"].functions == ["größe"]
    assert rows["asks"] == WorkerStatus(rows["asks"].fd, "127.0.0.1", "-", [])


def test_workers_reads_a_client_id_with_blanks(admin, wire):
    wire.send(SET_CLIENT_ID, b"box 12: resizer")
    wire.can_do(b"f")
    assert ("box 12: resizer", ["f"]) in [(row.client_id, row.functions) for row in admin.workers()]


def test_workers_reads_a_function_with_a_blank_as_two(admin, wire):
    wire.can_do(b"one two")
    assert ["one", "two"] in [row.functions for row in admin.workers()]


@served_by("this", "Perl")
def test_jobs_has_workers_and_listeners(admin, wire, address):
    wire.submit(b"f", unique=b"u v", kind=SUBMIT_JOB)
    wire.submit(b"g", unique=b"w")
    with Wire(address) as worker:
        worker.can_do(b"f")
        worker.grab()
        rows = {row.function: row for row in admin.jobs()}
        worker_address = "%s:%d" % worker.socket.getsockname()
    assert rows["f"] == JobStatus("f", "u v", worker_address, 1)
    assert rows["g"] == JobStatus("g", "w", None, 1)


@served_by("this", "Perl")
def test_clients_has_the_jobs_that_they_wait_for(admin, wire):
    wire.submit(b"f", unique=b"u\tv")
    found = admin.clients()
    assert ClientStatus("%s:%d" % wire.socket.getsockname(), [ClientJob("f", "u\tv", None)]) in found
    assert len(found) == 2


@served_by("this", "C")
def test_show_jobs_and_uniques(admin, wire):
    handle = wire.submit(b"f", unique=b"u v", kind=SUBMIT_JOB_BG).decode()
    (row,) = admin.show_jobs()
    assert (row.handle, row.retries, row.ignored) == (handle, 0, False)
    assert isinstance(row, ShownJob)
    assert admin.show_unique_jobs() == ["u v"]


def test_show_unique_jobs_with_a_unique_that_looks_like_a_refusal(admin, wire):
    wire.submit(b"f", unique=b"ERR x", kind=SUBMIT_JOB_BG)
    assert admin.show_unique_jobs() == ["ERR x"]


def test_show_jobs_of_many_jobs_is_whole(admin, wire):
    handles = [wire.submit(b"f", kind=SUBMIT_JOB_BG).decode() for _ in range(5000)]
    assert [row.handle for row in admin.show_jobs()] == handles


def test_table_returns_the_servers_bytes(admin, wire):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    assert admin.table("status") == b"f\t1\t0\t0\n"


@pytest.mark.parametrize(
    "method, answer, expected",
    [
        # The Perl server, whose rows may end in a blank.
        ("workers", b"5 127.0.0.1 - : \n6 10.0.0.2 a b : f g\n.\n", [(5, "127.0.0.1", "-", []), (6, "10.0.0.2", "a b", ["f", "g"])]),
        ("workers", b"5 ::1  :\n.\n", [(5, "::1", "", [])]),
        ("workers", b"5 ::1 a : b : f\n.\n", [(5, "::1", "a", ["b", ":", "f"])]),
        ("workers", b"5 ::1 a\nb : f\n6 ::1 - : g\nh\n7 ::1 - :\n.\n", [(5, "::1", "a\nb", ["f"]), (6, "::1", "-", ["g\nh"]), (7, "::1", "-", [])]),
        ("clients", b"a:1\n\tf\tu\nv\t-\n\tg\t\tb:2\na:2\n.\n", [("a:1", [("f", "u\nv", None), ("g", "", "b:2")]), ("a:2", [])]),
        ("jobs", b"f\tu\tv\t-\t0\ng\t\ta:1\t2\n.\n", [("f", "u\tv", None, 0), ("g", "", "a:1", 2)]),
        ("status", b"f\t1\t-1\t0\n.\n", [("f", 1, -1, 0)]),
        ("show_unique_jobs", b"a\n.\nb\n.\n", ["a", ".", "b"]),
        ("version", b"v1.130.1\n", "v1.130.1"),
        ("version", b"OK 1.1.20+ds\n", "1.1.20+ds"),
        ("help", b"status\nshow [unique] jobs\n.\n", ["status", "show [unique] jobs"]),
    ],
)  # fmt: skip
def test_answer_is_read(method, answer, expected):
    with scripted(answer) as server, Admin(server.address) as admin:
        assert getattr(admin, method)() == expected


# -- recurring jobs ----------------------------------------------------------------


NOT_SOON = "30 2 29 feb *"


def test_recurring_job_is_set_listed_replaced_and_removed(admin):
    began_s = time.time()
    assert admin.recurring() == []
    admin.recur("night", "report", "30  2 29 feb *", b"all\n\xff", priority="low")
    admin.recur("sweep", "cleanup", "*/15 * * * mon-fri", unique="")
    night, sweep = admin.recurring()
    assert night == ("night", "report", NOT_SOON, "low", "night", night.next_s, None, None, None, 5, "all\n\\xff")
    assert isinstance(night, RecurringJob) and began_s < night.next_s < began_s + 9 * 366 * 86400
    assert (sweep.cron, sweep.priority, sweep.unique, sweep.beginning) == ("*/15 * * * mon-fri", "normal", "", "")
    admin.recur("night", "other", NOT_SOON, "tüpfel", unique="u")
    night = admin.recurring()[-1]
    assert (night.function, night.unique, night.workload_bytes, night.beginning) == ("other", "u", 7, "tüpfel")
    admin.unrecur("night")
    assert [row.name for row in admin.recurring()] == ["sweep"]
    with pytest.raises(AdminRefused, match="UNKNOWN_RECURRING"):
        admin.unrecur("night")


def test_what_became_of_a_recurring_job_is_read():
    answer = b"n\ta\tb\nc\t* * * * *\thigh\tu\tv\t1700000060\t1700000000\tH:x:1\t-\t0\t\"\"\n"
    refused = b"m\tf\t0 * * * *\tnormal\t\t1700000060\t1700000000\t-\tQUEUE_ERROR: it is full\t3\t\"a\\tb\"\n.\n"
    with scripted(answer + refused) as server, Admin(server.address) as admin:
        assert admin.recurring() == [
            ("n", "a\tb\nc", "* * * * *", "high", "u\tv", 1700000060, 1700000000, "H:x:1", None, 0, ""),
            ("m", "f", "0 * * * *", "normal", "", 1700000060, 1700000000, None, "QUEUE_ERROR: it is full", 3, "a\tb"),
        ]


@pytest.mark.parametrize("cron, options", [
    ("* * * *", {}), ("", {}), ("* * * * * *", {}), (NOT_SOON, {"unique": "two words"}),
    (NOT_SOON, {"workload": b"w", "unique": "u", "priority": "high"}),
])  # fmt: skip
def test_recurring_job_that_no_line_can_say_is_refused_unsent(admin, cron, options):
    with pytest.raises(ConfigError):
        admin.recur("n", "f", cron, **options)
    assert admin.recurring() == []


def test_recurring_job_that_the_server_refuses_says_why(admin):
    for cron, options, why in (("60 * * * *", {}, "minute"), ("* * * * *", {"priority": "x"}, "priority"), ("0 0 30 feb *", {}, "INVALID")):
        with pytest.raises(AdminRefused, match=why):
            admin.recur("n", "f", cron, **options)


# -- values and changes ------------------------------------------------------------


@served_by("this", "C")
def test_values(admin):
    assert admin.version()[0].isdigit()
    assert admin.verbose().isupper()
    assert admin.getpid() > 1


def test_help_names_every_command(admin):
    assert "cancel job HANDLE" in admin.help()


@served_by("this", "C")
def test_cancel_job_once(admin, wire):
    handle = wire.submit(b"f").decode()
    admin.cancel_job(handle)
    assert wire.expect(WORK_FAIL) == [handle.encode()]
    with pytest.raises(AdminRefused) as caught:
        admin.cancel_job("H:no:1")
    assert (caught.value.code, caught.value.text) == ("UNKNOWN_JOB", "")


@served_by("this", "C")
def test_create_and_drop_function(admin):
    admin.create_function("größe")
    assert admin.status() == [FunctionStatus("größe", 0, 0, 0)]
    admin.drop_function("größe")
    assert admin.status() == []


@pytest.mark.parametrize("limits, taken", [((2,), 2), ((1, 2, 3), 2), ((0,), 5), ((), 5)])
def test_max_queue_limits_new_jobs(admin, wire, limits, taken):
    admin.max_queue("f", 1)
    admin.max_queue("f", *limits)
    for _ in range(5):
        wire.send(SUBMIT_JOB_BG, b"f", b"", b"")
    wire.send(ECHO_REQ, b"end")
    while wire.receive() != (ECHO_RES, b"end"):
        pass
    assert admin.status()[0].total == taken


@served_by("this", "C", "Perl")
def test_max_queue_is_accepted(admin):
    admin.max_queue("f", 5)
    admin.max_queue("f")


@served_by("this", "Perl")
@pytest.mark.parametrize("graceful", (False, True))
def test_shutdown_ends_the_server(admin, address, graceful):
    admin.shutdown(graceful)
    admin.close()

    def gone():
        try:
            Wire(address).close()
        except OSError:
            return True
        return False

    wait_until(gone, "the server is gone")
    with pytest.raises(ServerLost):
        admin.status()


@served_by("this", "C", "Perl")
def test_ping_is_a_time(admin):
    assert 0 < admin.ping() < DEADLINE_S
    assert admin.version()


# -- refusals ----------------------------------------------------------------------


@served_by("C")
@pytest.mark.parametrize("method", ["jobs", "clients", "help", "shutdown"])
def test_command_that_the_c_server_lacks_is_refused_and_the_connection_goes_on(admin, method):
    with pytest.raises(AdminRefused) as caught:
        getattr(admin, method)()
    assert (caught.value.code, caught.value.text) == ("UNKNOWN_COMMAND", "Unknown server command" + method)
    assert caught.value.server == str(admin.address)
    connection = admin._connection
    assert admin.status() == []
    assert admin._connection is connection


@served_by("Perl")
@pytest.mark.parametrize("method", ["priority_status", "show_jobs", "show_unique_jobs", "verbose", "getpid", "help"])
def test_command_that_the_perl_server_lacks_is_refused(admin, method):
    with pytest.raises(AdminRefused) as caught:
        getattr(admin, method)()
    assert caught.value.code == "unknown_command"
    assert admin.status() == []


@served_by("this", "C")
def test_refusal_without_a_code_is_all_text(admin, wire):
    wire.can_do(b"f")
    for function, text in (("no", "function not found"), ("f", "there are still connected workers or executing clients")):
        with pytest.raises(AdminRefused) as caught:
            admin.drop_function(function)
        assert (caught.value.code, caught.value.text) == ("", text)
        assert text in str(caught.value) and str(admin.address) in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", "line\nfeed", "nul\0", " f", "f\r"])
def test_name_that_is_not_one_word_is_refused_unsent(admin, name):
    for call in (admin.create_function, admin.drop_function, admin.max_queue, admin.cancel_job):
        with pytest.raises(ConfigError):
            call(name)
    assert admin._connection is None


def test_max_queue_with_two_limits_is_a_config_error(admin):
    with pytest.raises(ConfigError):
        admin.max_queue("f", 1, 2)


# -- connections -------------------------------------------------------------------


def test_admin_without_a_server_asks_the_first_of_the_environment(monkeypatch, address):
    monkeypatch.setenv("GEARMAN_SERVERS", "%s:%d,other:1" % address)
    with Admin() as admin:
        assert admin.status() == []
        assert repr(admin) == "<Admin of %s:%d>" % address
    assert str(admin.address) == "%s:%d" % address


def test_server_that_cannot_be_reached_is_lost():
    host, port = free_address()
    with Admin((host, port)) as admin, pytest.raises(ServerLost) as caught:
        admin.status()
    assert caught.value.server == "%s:%d" % (host, port)


def test_connection_that_ended_while_idle_is_made_anew():
    host, port = free_address()
    admin = Admin((host, port))
    with Server(port=port):
        assert admin.status() == []
    with Server(port=port) as server:
        server.submit("f", background=True)
        assert admin.status() == [FunctionStatus("f", 1, 0, 0)]
        admin.create_function("g")
    with pytest.raises(ServerLost):
        admin.status()
    admin.close()


def hangs_up_on_the_second_line(connection, number):
    line_of(connection)
    connection.send_raw(b"OK 1\n")
    if number == 0:
        line_of(connection)
    else:
        connection.is_closed()


def test_question_to_a_server_that_hangs_up_at_it_is_asked_again():
    with ScriptedServer(hangs_up_on_the_second_line) as server, Admin(server.address) as admin:
        assert admin.version() == "1"
        assert admin.version() == "1"


def test_change_to_a_server_that_hangs_up_at_it_is_not_made_again():
    with ScriptedServer(hangs_up_on_the_second_line) as server, Admin(server.address) as admin:
        assert admin.version() == "1"
        with pytest.raises(ServerLost):
            admin.drop_function("f")
        assert len(server._threads) == 1


def test_server_that_never_answers_is_lost_after_the_timeout():
    with scripted(None) as server, Admin(server.address, timeout_s=0.2) as admin:
        began_at = time.monotonic()
        for call in (admin.status, admin.version, lambda: admin.drop_function("f")):
            with pytest.raises(ServerLost) as caught:
                call()
            assert "0.2 s" in str(caught.value) and caught.value.server == str(admin.address)
        assert 0.6 <= time.monotonic() - began_at < DEADLINE_S


def test_late_answer_is_not_taken_for_the_next_one():
    answer = threading.Event()

    def script(connection, number):
        line_of(connection)
        if number == 0:
            answer.wait(DEADLINE_S)
        connection.send_raw(b"OK %d\n" % number)
        connection.is_closed()

    with ScriptedServer(script) as server, Admin(server.address, timeout_s=0.2) as admin:
        with pytest.raises(ServerLost):
            admin.version()
        answer.set()
        admin.timeout_s = DEADLINE_S
        assert admin.version() == "1"


@pytest.mark.parametrize("answer", [b"f\t1\t0\t0\n", b"f\t1", b""])
def test_connection_cut_in_the_middle_of_a_table_is_lost(answer):
    def script(connection, number):
        line_of(connection)
        connection.send_raw(answer)

    with ScriptedServer(script) as server, Admin(server.address) as admin, pytest.raises(ServerLost):
        admin.status()


@pytest.mark.parametrize(
    "method, answer",
    [
        ("status", b"hello\n.\n"),
        ("status", b"f\t1\t0\n.\n"),
        ("status", b"f\t1\t0\t0\nrest\n.\n"),
        ("workers", b"hello\n.\n"),
        ("clients", b"\tf\tu\n.\n"),
        ("clients", b"\tf\tu\t-\n.\n"),
        ("getpid", b"OK many\n"),
        ("create", b"hello\r\n"),
        ("create", b"OK 1\r\n"),
        ("version", b"OK 1\nOK 2\n"),
        ("version", b"\0RES\0\0\0\x06\0\0\0\0"),
        ("version", b"\0SSH\0\0\0\x06\0\0\0\0"),
        ("ping", b"HTTP/1.1 400 Bad Request\r\n"),
        ("ping", b"\0RES\0\0\0\x11\0\0\0\1x"),
    ],
)
def test_garbage_is_server_lost_and_ends_the_connection(method, answer):
    def script(connection, number):
        connection.receive() if method == "ping" else line_of(connection)
        connection.send_raw(answer)
        connection.is_closed()

    with ScriptedServer(script) as server, Admin(server.address) as admin:
        with pytest.raises(ServerLost) as caught:
            admin.create_function("f") if method == "create" else getattr(admin, method)()
        assert caught.value.server == str(admin.address)
        assert admin._connection is None


def test_http_server_is_server_lost():
    def script(connection, number):
        line_of(connection)
        connection.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with ScriptedServer(script) as server, Admin(server.address) as admin, pytest.raises(ServerLost):
        admin.status()


def test_threads_share_an_admin(admin, wire):
    for number in range(50):
        wire.submit(b"f%d" % number, kind=SUBMIT_JOB_BG)
    start = threading.Barrier(8)
    wrong = []

    def ask(number):
        start.wait(DEADLINE_S)
        for _ in range(50):
            if number % 2:
                wrong.extend(row for row in admin.status() if row.total != 1)
            else:
                wrong.extend([admin.version()] if "." not in admin.version() else [])
                admin.ping()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert wrong == []
    assert len(admin.workers()) == 2


def test_fork_leaves_each_side_a_connection_of_its_own(address):
    program = """if True:
        import os, sys
        from gearmand.admin import Admin
        admin = Admin(sys.argv[1])
        admin.version()
        admin._lock.acquire()   # As another thread might, in the moment of the fork.
        child = os.fork()
        if child == 0:
            os._exit(0 if len(admin.workers()) == 2 else 1)
        admin._lock.release()
        sys.exit(os.waitpid(child, 0)[1] or len(admin.table("status")))
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    assert subprocess.run([sys.executable, "-c", program, "%s:%d" % address], env=environment, timeout=60).returncode == 0


# -- over some time ----------------------------------------------------------------


def test_wait_until_idle_waits_for_the_function(admin, wire, address, monkeypatch):
    # The server answers each time, if late.
    monkeypatch.setattr("gearmand.admin._SHORTEST_S", DEADLINE_S)
    handle = wire.submit(b"f")
    wire.submit(b"other", kind=SUBMIT_JOB_BG)
    assert not admin.wait_until_idle("f", timeout_s=0.1, interval_s=0.02)
    with Wire(address) as worker:
        worker.can_do(b"f")
        assert worker.grab()[0] == handle
        assert not admin.wait_until_idle("f", timeout_s=0.1, interval_s=0.02)
        ending = threading.Timer(0.1, worker.send, (WORK_COMPLETE, handle, b""))
        ending.start()
        assert admin.wait_until_idle("f", timeout_s=DEADLINE_S, interval_s=0.02)
        ending.join()
    assert admin.wait_until_idle("never seen", timeout_s=0)
    assert not admin.wait_until_idle(timeout_s=0)


def test_wait_until_idle_does_not_wait_for_ever_for_a_silent_server():
    with ScriptedServer(lambda connection, number: connection.is_closed()) as server:
        with Admin(server.address, timeout_s=None) as admin, pytest.raises(ServerLost, match="no answer within 1 s"):
            admin.wait_until_idle(timeout_s=0.1)


def test_watch_yields_snapshots_with_rates(admin, wire):
    watched = admin.watch(interval_s=0.05)
    assert next(watched).rates == {}
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    second = next(watched)
    assert second.functions == [FunctionStatus("f", 1, 0, 0)]
    assert 0 < second.rates["f"] <= 20
    third = next(watched)
    assert third.rates == {"f": 0.0}
    assert third.time > second.time


def test_watch_of_a_server_that_ends_raises_server_lost():
    with Server(port=0) as server:
        watched = Admin(server.address).watch(interval_s=0.01)
        next(watched)
    with pytest.raises(ServerLost):
        next(watched)
