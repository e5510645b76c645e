"""The command gearman as a process: beside the C tool, as client and as worker, on terminals, and when things go wrong."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from gearmand import Server
from gearmand.console import bar
from gearmand.gearman import ROWS, help_text
from gearmand.screen import display_width
from peers import Crew, ScriptedServer, c_server, foreign, free_address
from wire import (
    DEADLINE_S, GRAB_JOB_ALL, JOB_CREATED, SUBMIT_JOB, SUBMIT_JOB_BG, WORK_COMPLETE, WORK_DATA, WORK_EXCEPTION, WORK_FAIL,
    WORK_STATUS, WORK_WARNING, Wire, status, wait_for_workers, wait_until,
)  # fmt: skip

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = [sys.executable, os.path.join(ROOT, "scripts", "gearman")]
C_TOOL = [foreign("/usr/bin/gearman")]


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("GEARMAN_SERVER", "GEARMAN_SERVERS", "TERM")}
    return {**kept, **more}


def run(program, *arguments, stdin=b"", **more):
    """Exit status, stdout, stderr."""
    done = subprocess.run(
        [*program, *arguments], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env=environment(**more)
    )
    return done.returncode, done.stdout, done.stderr.decode()


def shell(command, **more):
    """The same of a shell's command, in which $gearman is ours."""
    quoted = " ".join("'%s'" % word for word in OURS)
    return run(["bash", "-c"], command.replace("$gearman", quoted), **more)


def at(address):
    return ["-h", address[0], "-p", str(address[1])]


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


@pytest.fixture
def address(server):
    return server.address


# -- what jobs do ------------------------------------------------------------------------


def parts(wire, handle, workload):
    wire.send(WORK_DATA, handle, b"first ")
    wire.send(WORK_WARNING, handle, b"careful\n")
    wire.send(WORK_DATA, handle, b"second\n")
    return b"result\n"


def fails(wire, handle, workload):
    wire.send(WORK_DATA, handle, b"so far\n")
    wire.send(WORK_FAIL, handle)


def raises(wire, handle, workload):
    wire.send(WORK_EXCEPTION, handle, b"line 1\nline 2")


def counts(wire, handle, workload):
    """Reports, one every so many seconds as the workload says."""
    for number in range(1, 6):
        time.sleep(float(workload))
        wire.send(WORK_STATUS, handle, b"%d" % number, b"5")
    return b"counted\n"


FUNCTIONS = {
    b"show": lambda wire, handle, workload: b"<%s>\n" % workload,
    b"same": lambda wire, handle, workload: workload,
    b"empty": lambda wire, handle, workload: b"",
    b"parts": parts,
    b"fails": fails,
    b"raises": raises,
    b"counts": counts,
}


@pytest.fixture
def crew(address):
    """Workers of the functions above."""
    with Crew(address, FUNCTIONS, 2):
        yield address


# -- workers that are processes ----------------------------------------------------------


class Workers:
    """Starts workers and ends them, by pid, with the test. `errors` is what they have said."""

    def __init__(self, directory):
        self._path = os.path.join(str(directory), "errors")
        self._out = open(os.path.join(str(directory), "out"), "wb")
        self._processes = []

    def start(self, program, address, *arguments, function="f", known=True, stdout=None):
        # A file of its own for each: the C tool floods it when its server has gone.
        with open(self._path, "ab") as errors:
            process = subprocess.Popen(
                [*program, *at(address), "-w", "-f", function, *arguments],
                stdin=subprocess.DEVNULL, stdout=stdout or self._out, stderr=errors if program is OURS else subprocess.DEVNULL,
                env=environment(),
            )  # fmt: skip
        self._processes.append(process)
        if known:
            wait_for_workers(address, function)
        return process

    @property
    def errors(self):
        with open(self._path, "rb") as file:
            return file.read().decode()

    @property
    def printed(self):
        with open(self._out.name, "rb") as file:
            return file.read()

    def end(self):
        for process in self._processes:
            process.kill()
            process.wait(DEADLINE_S)
        self._out.close()


@pytest.fixture
def workers(tmp_path):
    workers = Workers(tmp_path)
    yield workers
    workers.end()


def ended(wire, function=b"f", workload=b""):
    """All reports of one job: pairs of a packet type and data."""
    handle = wire.submit(function, workload)
    reports = []
    while not reports or reports[-1][0] not in (WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION):
        kind, body = wire.receive()
        reports.append((kind, body[len(handle) + 1 :]))
    return reports


# -- beside the C tool: clients ------------------------------------------------------------


def require_c_tool():
    if not os.path.exists(C_TOOL[0]):
        pytest.skip("there is no C tool to compare with: %s (Debian: gearman-tools)" % C_TOOL[0])


@pytest.fixture(params=["this server", "the C server"])
def either(request, tmp_path):
    """The address of either server."""
    require_c_tool()
    if request.param == "this server":
        with Server(port=0) as server:
            yield server.address
    else:
        with c_server(tmp_path) as address:
            yield address


SAME = [
    (["-f", "show"], b"workload\n"),
    (["-f", "show"], b""),
    (["-f", "show"], bytes(range(256)) * 10),
    (["-f", "show"], "gr\u00f6\u00dfe \u4e16\u754c\n".encode()),
    (["-f", "show", "a", "b c", "gr\u00f6\u00dfe"], b"not read"),
    (["-f", "show", "-s"], b"not read"),
    (["-f", "show", "-s", "a"], b"not read"),
    (["-f", "show", "-s", "-n"], b"not\nread\n"),
    (["-f", "show", "-n"], b"a\n\nb\nc"),
    (["-f", "show", "-n"], b"a\n\nb\nc\n"),
    (["-f", "show", "-n"], b""),
    (["-f", "show", "-n", "a\n", "b"], b"not read\n"),
    (["-f", "show", "-N"], b"a\nb b\n"),
    (["-f", "show", "-nN"], b"a\nb b\n"),
    (["-f", "show", "-N", "a\n", "b"], b""),
    (["-f", "show", "-n", "-P"], b"a\nb"),
    (["-f", "parts"], b""),
    (["-f", "parts", "-P"], b""),
    (["-f", "empty", "-P"], b""),
    (["-f", "fails"], b""),
    (["-f", "fails", "-P"], b""),
    (["-f", "fails", "-n"], b"a\nb\n"),
    (["-f", "show", "-b"], b"x"),
    (["-f", "show", "-b", "-n", "-P"], b"x\ny\n"),
    (["-f", "show", "-f", "show"], b"x"),
    (["-f", "show", "-I"], b"x"),
    (["-f", "show", "-L"], b"x"),
    (["-f", "show", "-I", "-L"], b"x"),
    (["-f", "show", "-b", "-I"], b"x"),
    (["-f", "show", "-u", "unique"], b"x"),
    (["-f", "show", "-u", "-"], b"x"),
    (["-f", "show", "-t", "10000"], b"x"),
    (["-f", "show", "-t", "-1"], b"x"),
    (["-f", "show", "-c", "3"], b"x"),
    (["-fshow", "-nP"], b"x\n"),
    (["-f", "show", "a", "-P", "b"], b""),
    (["-f", "show", "--", "-P"], b""),
    (["a", "-f", "show"], b""),
    ([], b"x"),
    (["-H"], None),
    (["-f"], b"x"),
    (["-f", "show", "-Z"], b"x"),
    (["-f", "show", "-i", "/nonexistent/pid"], b"x"),
]


@pytest.mark.parametrize("arguments, stdin", SAME, ids=lambda value: " ".join(value) if isinstance(value, list) else repr(value)[:20])
def test_client_prints_what_the_c_tool_prints(either, arguments, stdin):
    with Crew(either, FUNCTIONS):
        c_status, c_out, _ = run(C_TOOL, *at(either), *arguments, stdin=stdin or b"")
        ours = run(OURS, *at(either), *arguments, stdin=stdin or b"")
    assert ours[0] == c_status
    assert stdin is None or ours[1] == c_out


def test_handles_of_background_jobs_are_printed_as_by_the_c_tool(either):
    with Wire(either) as wire:
        for program in (C_TOOL, OURS):
            code, out, err = run(program, *at(either), "-f", "f", "-b", "-v", "a", "b")
            assert (code, err) == (0, "")
            handles = re.findall(r"(?m)^Task created: (\S+)$", out.decode())
            wire.can_do(b"f")
            assert [wire.grab() for _ in handles] == [
                (handles[0].encode(), b"f", b"a"), (handles[1].encode(), b"f", b"b"),
            ]  # fmt: skip


@pytest.mark.parametrize("options", [["-b"], ["-b", "-u", "unique"], ["-b", "-n"]])
def test_server_has_the_same_jobs_as_from_the_c_tool(either, options):
    grabbed = []
    for program in (C_TOOL, OURS):
        run(program, *at(either), "-f", "f", *options, stdin=b"a\nb")
        with Wire(either) as wire:
            wire.can_do(b"f")
            jobs = []
            while True:
                wire.send(30)
                kind, body = wire.receive()
                if kind == 10:
                    break
                handle, *rest = body.split(b"\0", 3)
                # Without a unique the C library makes a random one.
                jobs.append(rest if "-u" in options else [rest[0], rest[2]])
                wire.send(WORK_COMPLETE, handle, b"")
        grabbed.append(jobs)
    assert grabbed[0] == grabbed[1] and grabbed[0]


# -- beside the C tool: workers ------------------------------------------------------------

BIG = bytes(range(256)) * 4096 * 5

COMMANDS = [
    (["--", "cat"], b"a\nb"),
    (["--", "cat"], bytes(range(256))),
    (["--", "cat"], b""),
    (["--", "wc", "-l"], b"a\nb\n"),
    (["--", "wc", "-c"], BIG),
    (["wc"], b"a\nb\n"),
    (["--", "sh", "-c", "cat; exit 3"], b"x"),
    (["--", "false"], b"x"),
    (["--", "true"], b"x"),
    (["--", "true"], BIG),
    (["-n", "--", "true"], b""),
    (["-n", "--", "cat"], b"just one line\n"),
    (["-N", "--", "cat"], b"just one line\n"),
    (["-n", "--", "sh", "-c", "cat; exit 3"], b"just one line\n"),
    ([], b"x"),
    (["-n"], b"a\nb\n"),
    (["-b", "-I", "-P", "-s", "-u", "x", "-t", "10000", "--", "cat"], b"x"),
]


@pytest.mark.parametrize("arguments, workload", COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else repr(value)[:20])
def test_worker_reports_what_the_c_tool_reports(either, workers, arguments, workload):
    reports = []
    for program in (C_TOOL, OURS):
        worker = workers.start(program, either, *arguments)
        with Wire(either) as wire:
            reports.append(ended(wire, workload=workload))
        worker.kill()
        worker.wait(DEADLINE_S)
        wait_until(lambda: not status(either)["f"][2], "the worker is gone")
    assert reports[0] == reports[1]


@pytest.mark.parametrize("client", [C_TOOL, OURS], ids=["C client", "our client"])
@pytest.mark.parametrize("worker", [C_TOOL, OURS], ids=["C worker", "our worker"])
def test_file_goes_through_both_clients_and_workers(either, workers, client, worker):
    workers.start(worker, either, "--", "wc", "-l")
    assert run(client, *at(either), "-f", "f", stdin=b"line\n" * 300000)[:2] == (0, b"300000\n")


# With the C tool, a job that fails counts as two.
@pytest.mark.parametrize("program, command", [(C_TOOL, "cat"), (OURS, "cat"), (OURS, "false")], ids=["C", "ours", "ours, failing"])
def test_worker_with_a_count_leaves_with_status_0(either, workers, program, command):
    worker = workers.start(program, either, "-c", "2", "--", command)
    with Wire(either) as wire:
        ended(wire)
        assert worker.poll() is None
        ended(wire)
        assert worker.wait(DEADLINE_S) == 0


def test_worker_without_a_command_prints_workloads(server, workers):
    workers.start(OURS, server.address)
    with Wire(server.address) as wire:
        assert ended(wire, workload=b"a\nb\0c") == [(WORK_COMPLETE, b"")]
        assert workers.printed == b"a\nb\0c"


# -- the client: jobs ------------------------------------------------------------------------


def test_each_function_gets_each_workload(crew):
    code, out, err = run(OURS, *at(crew), "-P", "-f", "show", "-f", "same", "x\n", "y\n")
    first, second = out[: len(out) // 2], out[len(out) // 2 :]
    assert (code, err) == (0, "")
    # One workload after the other; of its jobs the one first that ends first.
    assert first in (b"show: <x\n>\nsame: x\n", b"same: x\nshow: <x\n>\n")
    assert second in (b"show: <y\n>\nsame: y\n", b"same: y\nshow: <y\n>\n")


def test_stripped_lines_lose_line_feeds_only(crew):
    assert run(OURS, *at(crew), "-f", "show", "-N", stdin=b"a\n\n\0b\r\nc") == (0, b"<a>\n<>\n<\0b\r>\n<c>\n", "")


def test_line_may_have_any_length(crew):
    stdin = b"x" * 100_000 + b"\n\0\n"
    assert run(OURS, *at(crew), "-f", "same", "-n", stdin=stdin) == (0, stdin, "")


def test_line_is_submitted_as_soon_as_it_is_there(crew):
    process = subprocess.Popen([*OURS, *at(crew), "-f", "same", "-n"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        assert process.stdout.readline() == line
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    process.stdout.close()


def test_large_binary_workload_comes_back_unchanged(crew):
    workload = os.urandom(20_000_000)
    assert run(OURS, *at(crew), "-f", "same", stdin=workload) == (0, workload, "")


def test_parts_are_printed_as_they_arrive(address):
    gate = threading.Event()

    def in_parts(wire, handle, workload):
        wire.send(WORK_DATA, handle, b"first\n")
        assert gate.wait(DEADLINE_S)
        return b"rest\n"

    with Crew(address, {b"in parts": in_parts}):
        process = subprocess.Popen([*OURS, *at(address), "-f", "in parts", "-s"], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"first\n"
        gate.set()
        assert process.communicate(timeout=DEADLINE_S)[0] == b"rest\n"
        assert process.returncode == 0


def test_warning_goes_to_stderr(crew):
    assert run(OURS, *at(crew), "-f", "parts", "-P", "x") == (0, b"parts: first parts: second\nparts: result\n", "parts: careful\n")


def test_many_background_jobs_all_arrive_in_order(address):
    lines = [b"%d\n" % number for number in range(500)]
    assert run(OURS, *at(address), "-f", "f", "-b", "-n", stdin=b"".join(lines)) == (0, b"", "")
    with Wire(address) as wire:
        wire.can_do(b"f")
        assert [wire.grab()[2] for _ in lines] == lines


@pytest.mark.parametrize("option", ["--delay", "--epoch"])
def test_delayed_job_is_not_due_yet(address, option):
    seconds = 1000 + (time.time() if option == "--epoch" else 0)
    assert run(OURS, *at(address), "-f", "f", option, "%.1f" % seconds, "x") == (0, b"", "")
    with Wire(address) as wire:
        wire.can_do(b"f")
        wire.send(9)
        assert wire.receive()[0] == 10
    assert status(address)["f"][0] == 1


def test_epoch_that_has_passed_is_due_at_once(crew):
    assert run(OURS, *at(crew), "-f", "show", "--epoch", "1000", "--wait", "x") == (0, b"", "")


def test_reducer_is_told_to_the_worker(address):
    with Wire(address) as worker:
        worker.can_do(b"map")
        assert run(OURS, *at(address), "-b", "-f", "map", "--reducer", "sum", "x")[0] == 0
        worker.send(GRAB_JOB_ALL)
        _, body = worker.receive()
    assert body.split(b"\0")[1] == b"map" and body.split(b"\0")[3:] == [b"sum", b"x"]


def test_hash_as_unique_makes_equal_workloads_one_job(address):
    run(OURS, *at(address), "-b", "-f", "f", "-u", "#", "same", "same", "other")
    assert status(address)["f"][0] == 2


def test_unique_that_is_too_long_is_refused(address):
    code, out, err = run(OURS, *at(address), "-f", "f", "-u", "u" * 65, "x")
    assert (code, out, err.count("\n")) == (1, b"", 1) and "64 bytes" in err


@pytest.mark.parametrize("retries, code", [("1", 1), ("2", 0)])
def test_retries_submit_a_failed_job_again(address, retries, code):
    calls = []

    def fails_twice(wire, handle, workload):
        calls.append(handle)
        if len(calls) > 2:
            return b"at last\n"
        wire.send(WORK_FAIL, handle)

    with Crew(address, {b"f": fails_twice}):
        done = run(OURS, *at(address), "-f", "f", "--retries", retries, "x")
    assert done[0] == code and len(calls) == int(retries) + 1
    assert done[1] == (b"" if code else b"at last\n")


def test_daemon_reads_its_workload_first_and_writes_its_pid(address, tmp_path):
    pid_file = tmp_path / "pid"
    done = run(OURS, *at(address), "-d", "-i", str(pid_file), "-f", "f", stdin=b"workload")
    assert done == (0, b"", "")
    with Wire(address) as wire:
        wire.can_do(b"f")
        handle, _, workload = wire.grab()
        assert workload == b"workload"
        assert int(pid_file.read_text()) > 1
        wire.send(WORK_COMPLETE, handle, b"nobody reads this")
    wait_until(lambda: not pid_file.exists(), "the client has left")


# -- the client: servers -----------------------------------------------------------------------


def port_of(address):
    return "%s:%d" % address


def test_servers_may_be_several_and_one_may_be_down(crew):
    down = port_of(free_address())
    for hosts in (["-h", down, "-h", port_of(crew)], ["-h", "%s,%s" % (down, port_of(crew))], ["-p", str(crew[1]), "-h", down, "-h", "127.0.0.1"]):
        for _ in range(2):
            assert run(OURS, *hosts, "-f", "show", "x") == (0, b"<x>\n", "")


def test_jobs_go_to_servers_in_turn(address):
    with Server(port=0) as other:
        hosts = "%s,%s" % (port_of(address), port_of(other.address))
        assert run(OURS, "-h", hosts, "-f", "f", "-b", "1", "2", "3", "4")[0] == 0
        assert status(address)["f"][0] == status(other.address)["f"][0] == 2


@pytest.mark.parametrize("name", ["GEARMAN_SERVER", "GEARMAN_SERVERS"])
def test_servers_of_the_environment_count_without_a_host(crew, name):
    assert run(OURS, "-f", "show", "x", **{name: port_of(crew)}) == (0, b"<x>\n", "")
    assert run(OURS, "-p", str(crew[1]), "-f", "show", "x", **{name: "127.0.0.1:1"}) == (0, b"<x>\n", "")
    assert run(OURS, *at(crew), "-f", "show", "x", **{name: "no.such.host.invalid"}) == (0, b"<x>\n", "")


def test_server_that_is_not_there_is_named():
    host, port = free_address()
    code, out, err = run(OURS, *at((host, port)), "-f", "f", "x")
    assert (code, out, err.count("\n")) == (1, b"", 1)
    assert "function f" in err and "%s:%d: cannot connect" % (host, port) in err


def test_server_that_goes_while_a_job_runs_is_named():
    def script(connection, number):
        while connection.receive()[0] != SUBMIT_JOB:
            pass
        connection.send(27, b"exceptions")
        connection.send(JOB_CREATED, b"H:x:1")
        connection.send(WORK_DATA, b"H:x:1", b"so far\n")
        connection.cut()

    with ScriptedServer(script) as server:
        code, out, err = run(OURS, *at(server.address), "-f", "f", "x")
    assert (code, out, err.count("\n")) == (1, b"so far\n", 1)
    assert "function f, job H:x:1: %s: lost" % port_of(server.address) in err


def test_server_that_stops_while_a_job_runs_is_named(tmp_path):
    server = Server(port=0).start()
    client = subprocess.Popen([*OURS, *at(server.address), "-f", "f", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: "f" in status(server.address), "the job is there")
    server.stop()
    out, err = client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 1 and out == b"" and err.count(b"\n") == 1 and port_of(server.address).encode() in err


def test_refusal_of_the_server_is_told(address):
    with Wire(address) as wire:
        wire.ask("maxqueue f 1")
        wire.submit(b"f", kind=SUBMIT_JOB_BG)
        code, out, err = run(OURS, *at(address), "-b", "-f", "f", "x")
    assert (code, out, err.count("\n")) == (1, b"", 1)
    assert "function f" in err and "QUEUE_ERROR" in err and port_of(address) in err


def test_failed_job_is_told_with_function_and_server(crew):
    code, out, err = run(OURS, *at(crew), "-f", "fails", "x")
    assert (code, out) == (1, b"so far\n")
    assert re.fullmatch(r"gearman: %s: function fails, job H:\S+ failed\n" % port_of(crew), err)


def test_exception_is_one_line(crew):
    code, out, err = run(OURS, *at(crew), "-f", "raises", "x")
    assert (code, out) == (1, b"")
    assert re.fullmatch(r"gearman: %s: function raises, job H:\S+ raised an exception: line 1 line 2\n" % port_of(crew), err)


def test_failed_job_does_not_keep_others_back(crew):
    code, out, err = run(OURS, *at(crew), "-f", "fails", "-f", "show", "x", "y")
    assert (code, out.count(b"<x>"), out.count(b"<y>"), err.count("\n")) == (1, 1, 1, 2)


def test_timeout_counts_silence_not_the_whole_job(address):
    """News come often, beside a timeout that a pause of a busy machine does not reach; the job takes longer."""

    def counts_on(wire, handle, workload):
        for number in range(1, 33):
            time.sleep(0.1)
            wire.send(WORK_STATUS, handle, b"%d" % number, b"32")
        return b"counted\n"

    with Crew(address, {b"f": counts_on}):
        assert run(OURS, *at(address), "-f", "f", "-t", "3000", "x") == (0, b"counted\n", "")


def test_timeout_without_news_is_status_1(address):
    began_at = time.monotonic()
    # Both jobs have their handles by then.
    code, out, err = run(OURS, *at(address), "-t", "2000", "-f", "f", "-f", "g", "x")
    assert (code, out, err.count("\n")) == (1, b"", 2) and time.monotonic() - began_at < 10
    assert "function f, job H:" in err and "2000 ms" in err and port_of(address) in err


def test_timeout_of_a_server_that_does_not_answer():
    def script(connection, number):
        while True:
            connection.receive()

    with ScriptedServer(script) as server:
        code, _, err = run(OURS, *at(server.address), "-t", "300", "-f", "f", "x")
    assert code == 1 and err.count("\n") == 1 and port_of(server.address) in err


# -- the client: stdin, stdout, signals ----------------------------------------------------------


def test_stdin_is_not_read_without_need(crew):
    reader, writer = os.pipe()
    try:
        for arguments in (["-s"], ["argument"]):
            done = subprocess.run([*OURS, *at(crew), "-f", "show", *arguments], stdin=reader, stdout=subprocess.PIPE, timeout=60)
            assert done.returncode == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_closed_stdin_is_a_line():
    code, out, err = shell("$gearman -f f <&-")
    assert (code, out) == (1, b"") and "standard input is closed" in err


def test_closed_pipe_is_quiet(crew):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*OURS, *at(crew), "-f", "show", "x"], stdout=writer, stderr=subprocess.PIPE, timeout=60, env=environment())
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_closed_stdout_is_a_line(crew):
    code, out, err = shell("$gearman -p %d -f show x >&-" % crew[1])
    assert (code, err.count("\n")) == (1, 1) and "standard output is closed" in err


def test_full_stdout_is_a_line(crew):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    code, _, err = shell("$gearman -p %d -f show x >/dev/full" % crew[1])
    assert code == 1 and err == "gearman: cannot write to standard output: No space left on device\n"


def test_closed_stderr_is_no_matter(crew):
    assert shell("$gearman -p %d -f fails x 2>&-" % crew[1])[:2] == (1, b"so far\n")


def test_interrupt_ends_a_client_by_that_signal_without_a_word(address):
    process = subprocess.Popen([*OURS, *at(address), "-f", "f", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: "f" in status(address), "the job is there")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=DEADLINE_S) == (b"", b"")
    assert process.returncode == -signal.SIGINT


# -- questions ----------------------------------------------------------------------------------


def test_status_tells_queued_running_and_unknown(address):
    with Wire(address) as wire:
        first, second = (wire.submit(b"f", unique=unique, kind=SUBMIT_JOB_BG) for unique in (b"u1", b"u2"))
        wire.can_do(b"f")
        assert wire.grab()[0] == first
        wire.send(WORK_STATUS, first, b"3", b"10")
        wire.echo()
        names = first.decode(), second.decode()
        told = b"%s\trunning\t3/10\n%s\tqueued\t0/0\n" % (first, second)
        assert run(OURS, *at(address), "--status", *names) == (0, told, "")
        assert run(OURS, *at(address), "--status", "H:no:1", names[1]) == (1, b"H:no:1\tunknown\n%s\tqueued\t0/0\n" % second, "")
        told = b"u1\trunning\t3/10\nno\tunknown\n"
        assert run(OURS, *at(address), "--unique-status", "u1", "no") == (1, told, "")


def test_ping_tells_of_each_server(address):
    down = port_of(free_address())
    code, out, err = run(OURS, "-h", down, "-h", port_of(address), "--ping")
    assert code == 1 and err.count("\n") == 1 and down in err
    assert re.fullmatch(rb"%s\t\d+\.\d{3} ms\n" % port_of(address).encode(), out)
    assert run(OURS, *at(address), "--ping")[0] == 0


def test_wait_with_background_lasts_as_long_as_the_job(crew):
    began_at = time.monotonic()
    assert run(OURS, *at(crew), "-b", "--wait", "-f", "counts", "0.2") == (0, b"", "")
    assert time.monotonic() - began_at > 1.0


def test_wait_for_a_handle(address):
    with Wire(address) as wire:
        handle = wire.submit(b"f", kind=SUBMIT_JOB_BG)
        # The first answer has come by then.
        code, out, err = run(OURS, *at(address), "--wait", handle.decode(), "-t", "2000")
        assert (code, out) == (1, b"") and handle.decode() in err and err.count("\n") == 1
        waiting = subprocess.Popen([*OURS, *at(address), "--wait", handle.decode(), "--progress"], stderr=subprocess.PIPE)
        wire.can_do(b"f")
        wire.grab()
        wire.send(WORK_STATUS, handle, b"1", b"2")
        assert waiting.stderr.readline() == b"1/2\n"
        assert waiting.poll() is None
        wire.send(WORK_COMPLETE, handle, b"")
        assert waiting.wait(DEADLINE_S) == 0
        waiting.stderr.close()
    assert run(OURS, *at(address), "--wait", handle.decode()) == (0, b"", "")


def test_wait_for_a_job_whose_server_goes(address):
    with Wire(address) as wire:
        handle = wire.submit(b"f", kind=SUBMIT_JOB_BG).decode()
    code, out, err = run(OURS, *at(free_address()), "--wait", handle)
    assert (code, out, err.count("\n")) == (1, b"", 1)


# -- progress -------------------------------------------------------------------------------------


def on_a_terminal(columns, *arguments, stdout=None, program=OURS, **more):
    """Exit status, and what appears on a terminal that is stderr, and stdout unless that is given."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*program, *arguments], stdin=subprocess.DEVNULL, stdout=stdout or slave, stderr=slave, env=environment(**{"TERM": "xterm", **more})
    )
    os.close(slave)
    seen = b""
    try:
        while select.select([master], [], [], DEADLINE_S)[0]:
            data = os.read(master, 4096)
            if not data:
                break
            seen += data
    except OSError:
        pass  # The last one to have it open has gone.
    os.close(master)
    return process.wait(DEADLINE_S), seen.decode()


@pytest.mark.parametrize("columns", [80, 40])
def test_slow_job_has_a_bar_that_fits_and_is_erased(crew, tmp_path, columns):
    with open(str(tmp_path / "out"), "w+b") as out:
        code, seen = on_a_terminal(columns, *at(crew), "-f", "counts", "0.2", stdout=out)
        out.seek(0)
        assert (code, out.read()) == (0, b"counted\n")
    drawn = [line for line in re.split(r"\r|\x1b\[K", seen) if line]
    assert len(drawn) >= 3 and all(line.startswith("counts [") for line in drawn)
    assert drawn[-1].endswith("] 100% 5/5") and "-" not in drawn[-1]
    assert all(len(line) == columns - 1 for line in drawn)
    assert seen.endswith("\r\x1b[K") and "\n" not in seen


def test_bar_gives_way_to_results_on_the_same_terminal(address):
    def talks(wire, handle, workload):
        for number in range(1, 4):
            time.sleep(0.3)
            wire.send(WORK_STATUS, handle, b"%d" % number, b"3")
            wire.send(WORK_DATA, handle, b"line %d\n" % number)
        return b"no line feed"

    with Crew(address, {b"talks": talks}):
        code, seen = on_a_terminal(80, *at(address), "-f", "talks", "x")
    assert code == 0
    # As the terminal shows it in the end.
    lines = [re.split(r"\r\x1b\[K", line)[-1].rstrip("\r") for line in seen.split("\n")]
    assert lines == ["line 1", "line 2", "line 3", "no line feed"]
    assert "talks [" in seen


def test_fast_job_has_no_bar(crew):
    """With more time until a job counts as slow than a busy machine takes."""
    patient = "import gearmand.console as console, sys; console.SLOW_S = 20; from gearmand.gearman import main; sys.exit(main())"
    program = [sys.executable, "-c", patient]
    assert on_a_terminal(80, *at(crew), "-f", "counts", "0.01", program=program, PYTHONPATH=ROOT) == (0, "counted\r\n")


@pytest.mark.parametrize("options, more", [(["-q"], {}), (["--quiet"], {}), ([], {"TERM": "dumb"})])
def test_no_bar_where_it_is_not_wanted_or_possible(crew, options, more):
    assert on_a_terminal(80, *at(crew), *options, "-f", "counts", "0.15", **more) == (0, "counted\r\n")


def test_progress_without_a_terminal_is_lines_where_asked_for(crew):
    assert run(OURS, *at(crew), "-f", "counts", "0.01") == (0, b"counted\n", "")
    assert run(OURS, *at(crew), "--progress", "-q", "-f", "counts", "0.01") == (0, b"counted\n", "")
    lines = "".join("%d/5\n" % number for number in range(1, 6))
    assert run(OURS, *at(crew), "--progress", "-f", "counts", "0.01") == (0, b"counted\n", lines)
    lines = "".join("counts: %d/5\n" % number for number in range(1, 6))
    assert run(OURS, *at(crew), "--progress", "-P", "-f", "counts", "0.01") == (0, b"counts: counted\n", lines)


@pytest.mark.parametrize(
    "function, numerator, denominator, width, expected",
    [
        ("f", 1, 2, 21, "f [####----]  50% 1/2"),
        ("f", 0, 2, 21, "f [--------]   0% 0/2"),
        ("f", 9, 2, 21, "f [########] 100% 9/2"),
        ("f", 7, 0, 20, "f 7"),
        ("f", 1, 2, 12, "f  50% 1/2"),
        ("a long name", 1, 2, 24, "a long \u2026 [##--]  50% 1/2"),
        ("\u4e16\u754c\u4e16\u754c", 1, 2, 30, None),
        ("bad\n", 1, 2, 30, None),
        ("f", 1, 2, 5, None),
        ("f", 123456789, 1234567890, 40, None),
    ],
)
def test_bar_fits(function, numerator, denominator, width, expected):
    line = bar(function, numerator, denominator, width)
    assert display_width(line) <= width and line.isprintable()
    assert expected in (None, line)


# -- the worker -----------------------------------------------------------------------------------


def test_worker_can_do_several_functions(address, workers):
    workers.start(OURS, address, "-f", "g", "--", "cat")
    with Wire(address) as wire:
        for function in (b"f", b"g"):
            assert ended(wire, function, b"x") == [(WORK_COMPLETE, b"x")]


def test_worker_takes_jobs_of_several_servers_with_one_down(address, workers):
    with Server(port=0) as other:
        workers.start(OURS, address, "-h", port_of(free_address()), "-h", port_of(other.address), "--", "cat")
        wait_for_workers(other.address, "f")
        for each in (address, other.address):
            with Wire(each) as wire:
                assert ended(wire, workload=b"x") == [(WORK_COMPLETE, b"x")]


def test_worker_sends_each_line_once(address, workers):
    workers.start(OURS, address, "-n", "--", "cat")
    with Wire(address) as wire:
        reports = ended(wire, workload=b"a\n\nb\0\nc")
    assert reports == [*((WORK_DATA, line) for line in (b"a\n", b"\n", b"b\0\n", b"c")), (WORK_COMPLETE, b"")]


def test_worker_strips_line_feeds_only(address, workers):
    workers.start(OURS, address, "-N", "--", "cat")
    with Wire(address) as wire:
        reports = ended(wire, workload=b"a\n\nb\r\nc")
    assert reports == [*((WORK_DATA, line) for line in (b"a", b"", b"b\r", b"c")), (WORK_COMPLETE, b"")]


def test_worker_sends_a_line_as_soon_as_it_is_there(address, workers, tmp_path):
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    workers.start(OURS, address, "-n", "--", "sh", "-c", "echo one; printf tw; read x <%s; echo o" % gate)
    with Wire(address) as wire:
        handle = wire.submit(b"f")
        assert wire.expect(WORK_DATA) == [handle, b"one\n"]
        with open(gate, "w") as go:
            go.write("on\n")
        assert wire.expect(WORK_DATA) == [handle, b"two\n"]
        assert wire.expect(WORK_COMPLETE) == [handle, b""]


@pytest.mark.parametrize("mode", [[], ["-n"]], ids=["whole", "lines"])
def test_large_workload_and_result_do_not_wait_for_each_other(address, workers, mode):
    workers.start(OURS, address, *mode, "--", "cat")
    workload = b"".join(b"%d\n" % number for number in range(400_000)) if mode else os.urandom(20_000_000)
    assert run(OURS, *at(address), "-f", "f", stdin=workload) == (0, workload, "")


def test_line_without_an_end_is_sent_in_one_part(address, workers):
    workers.start(OURS, address, "-n", "--", "cat")
    with Wire(address) as wire:
        workload = b"x" * 5_000_000
        assert ended(wire, workload=workload) == [(WORK_DATA, workload), (WORK_COMPLETE, b"")]


def test_command_need_not_read_the_workload(address, workers):
    workers.start(OURS, address, "--", "echo", "hello")
    with Wire(address) as wire:
        assert ended(wire, workload=BIG) == [(WORK_COMPLETE, b"hello\n")]
        assert ended(wire) == [(WORK_COMPLETE, b"hello\n")]
    assert workers.errors == ""


def test_command_that_closes_stdout_early_still_gets_its_workload(address, workers, tmp_path):
    copy = tmp_path / "copy"
    workers.start(OURS, address, "--", "sh", "-c", "exec >&-; cat >%s" % copy)
    with Wire(address) as wire:
        assert ended(wire, workload=BIG) == [(WORK_COMPLETE, b"")]
    assert copy.read_bytes() == BIG


@pytest.mark.parametrize("command, how", [("cat; exit 3", "status 3"), ("cat; kill -9 $$", "signal 9")])
def test_command_that_fails_fails_the_job(address, workers, command, how):
    workers.start(OURS, address, "--", "sh", "-c", command)
    with Wire(address) as wire:
        assert ended(wire, workload=b"x") == [(WORK_DATA, b"x"), (WORK_FAIL, b"")]
    assert re.fullmatch(r"gearman: %s: job H:\S+ of f failed: sh .*%s\n" % (port_of(address), how), workers.errors)


def test_stderr_of_the_command_is_the_workers(address, workers):
    workers.start(OURS, address, "--", "sh", "-c", "echo careful >&2")
    with Wire(address) as wire:
        ended(wire)
    assert workers.errors == "careful\n"


def test_command_that_does_not_exist_keeps_the_worker_from_starting(address):
    code, out, err = run(OURS, *at(address), "-w", "-f", "f", "--", "/no/such/command")
    assert (code, out, err) == (1, b"", "gearman: /no/such/command: no such command can be run\n")


def test_command_that_vanishes_fails_the_job(address, workers, tmp_path):
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\ncat\n")
    command.chmod(0o755)
    workers.start(OURS, address, "--", str(command))
    with Wire(address) as wire:
        assert ended(wire, workload=b"x") == [(WORK_COMPLETE, b"x")]
        command.unlink()
        assert ended(wire, workload=b"x") == [(WORK_FAIL, b"")]
    assert "No such file or directory" in workers.errors


def test_worker_whose_stdout_is_closed_leaves_with_status_1(address, workers):
    reader, writer = os.pipe()
    worker = workers.start(OURS, address, stdout=writer)
    os.close(writer)
    os.close(reader)
    with Wire(address) as wire:
        assert ended(wire, workload=b"x") == [(WORK_FAIL, b"")]
    assert worker.wait(DEADLINE_S) == 1


def test_verbose_worker_logs_its_jobs(address, workers):
    workers.start(OURS, address, "-v", "--", "cat")
    with Wire(address) as wire:
        ended(wire, workload=b"1234")
    assert re.search(r"(?m)^gearman: %s: job H:\S+ of f begins, 4 bytes$" % port_of(address), workers.errors)


def processor_s(pid):
    with open("/proc/%d/stat" % pid) as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_worker_comes_back_when_its_server_does_and_waits_quietly(workers):
    address = free_address()
    worker = workers.start(OURS, address, "--", "cat", known=False)
    wait_until(lambda: "trying again" in workers.errors, "it has tried")
    began_s = processor_s(worker.pid) if sys.platform == "linux" else 0
    time.sleep(1.5)
    if sys.platform == "linux":
        assert processor_s(worker.pid) - began_s < 0.3
    assert workers.errors.count("\n") == 1 and port_of(address) in workers.errors
    for _ in range(2):
        with Server(listen="127.0.0.1", port=address[1]):
            wait_for_workers(address, "f")
            with Wire(address) as wire:
                assert ended(wire, workload=b"x") == [(WORK_COMPLETE, b"x")]
    assert worker.poll() is None


def test_job_whose_server_is_lost_is_run_to_its_end(workers, tmp_path):
    gate, begun, done = str(tmp_path / "gate"), tmp_path / "begun", tmp_path / "done"
    os.mkfifo(gate)
    server = Server(port=0).start()
    try:
        worker = workers.start(OURS, server.address, "--", "sh", "-c", ": >%s; read x <%s; echo late; : >%s" % (begun, gate, done))
        with Wire(server.address) as wire:
            wire.submit(b"f", kind=SUBMIT_JOB_BG)
            # The server says so before its worker knows.
            wait_until(begun.exists, "the job runs")
    finally:
        server.stop()
    with open(gate, "w") as go:
        go.write("on\n")
    wait_until(done.exists, "the command has ended")
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_worker_after_its_job(address, workers, tmp_path, number):
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    worker = workers.start(OURS, address, "--", "sh", "-c", "read x <%s; echo done" % gate)
    with Wire(address) as wire:
        handle = wire.submit(b"f")
        wait_until(lambda: status(address)["f"][1], "the job runs")
        worker.send_signal(number)
        time.sleep(0.2)
        assert worker.poll() is None
        with open(gate, "w") as go:
            go.write("on\n")
        assert wire.expect(WORK_COMPLETE) == [handle, b"done\n"]
    assert worker.wait(DEADLINE_S) == 0


def running(pid):
    """Nobody may have asked yet how an orphan has ended: such a one runs no more."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def rests(pid):
    """How often its main thread has gone to sleep."""
    with open("/proc/%d/status" % pid) as file:
        return int(re.search(r"(?m)^voluntary_ctxt_switches:\s*(\d+)$", file.read()).group(1))


def send_and_see_through(process, number):
    """A signal, until it has been heard: two that come before the process runs again would be one."""
    before = rests(process.pid) if sys.platform == "linux" else 0
    process.send_signal(number)
    if sys.platform == "linux":
        wait_until(lambda: rests(process.pid) > before, "it has woken, and sleeps again")
    time.sleep(0.2)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGHUP,)])
def test_second_signal_ends_worker_and_command_and_gives_the_job_back(address, workers, tmp_path, numbers):
    pid_file = tmp_path / "pid"
    worker = workers.start(OURS, address, "--", "sh", "-c", "echo $$ >%s.new; mv %s.new %s; sleep 60" % ((pid_file,) * 3))
    with Wire(address) as wire:
        handle = wire.submit(b"f")
        wait_until(pid_file.exists, "the command runs")
        command = int(pid_file.read_text())
        for number in numbers[:-1]:
            send_and_see_through(worker, number)
        assert worker.poll() is None
        worker.send_signal(numbers[-1])
        assert worker.wait(DEADLINE_S) == -numbers[-1]
        wait_until(lambda: not running(command), "the command has ended")
        wire.can_do(b"f")
        assert wire.grab()[0] == handle


def test_interrupt_of_a_terminal_does_not_reach_the_command(address, workers, tmp_path):
    """As a terminal does it: the signal goes to the whole group."""
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    arguments = [*OURS, *at(address), "-w", "-f", "f", "--", "sh", "-c", "read x <%s; echo done" % gate]
    worker = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for_workers(address, "f")
        with Wire(address) as wire:
            handle = wire.submit(b"f")
            with open(gate, "w") as go:  # Which waits for the command to read.
                os.killpg(worker.pid, signal.SIGINT)
                go.write("on\n")
            assert wire.expect(WORK_COMPLETE) == [handle, b"done\n"]
        assert worker.wait(DEADLINE_S) == 0
    finally:
        worker.kill()
        worker.wait(DEADLINE_S)


def test_concurrent_jobs_run_at_once(address, workers, tmp_path):
    """Two commands that need each other."""
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    os.mkfifo(one)
    os.mkfifo(other)
    workers.start(OURS, address, "--concurrency", "2", "--", "sh", "-c", "read a; read b <$a; echo $b")
    with Wire(address) as wire, Wire(address) as second:
        handle = wire.submit(b"f", one.encode() + b"\n")
        second_handle = second.submit(b"f", other.encode() + b"\n")
        wait_until(lambda: status(address)["f"][1] == 2, "both run")
        for gate, text in ((one, "1\n"), (other, "2\n")):
            with open(gate, "w") as go:
                go.write(text)
        assert wire.expect(WORK_COMPLETE) == [handle, b"1\n"]
        assert second.expect(WORK_COMPLETE) == [second_handle, b"2\n"]


def test_processes_work_and_end_together(address, workers):
    worker = workers.start(OURS, address, "--processes", "2", "--", "sh", "-c", "echo $PPID")
    wait_for_workers(address, "f", 2)
    with Wire(address) as wire:
        (kind, parent), = ended(wire)
    assert kind == WORK_COMPLETE and int(parent) != worker.pid
    worker.terminate()
    assert worker.wait(DEADLINE_S) == 0
    wait_until(lambda: status(address)["f"][2] == 0, "no process is left")


def test_worker_with_count_and_timeout_leaves_when_there_is_no_job(address, workers):
    # It may have left before anybody has seen it.
    worker = workers.start(OURS, address, "-c", "5", "-t", "300", "--", "cat", known=False)
    assert worker.wait(DEADLINE_S) == 0
    wait_until(lambda: status(address).get("f") == (0, 0, 0), "it was there, and has left")


def test_worker_with_a_timeout_alone_stays(address, workers):
    worker = workers.start(OURS, address, "-t", "100", "--", "cat")
    time.sleep(0.5)
    with Wire(address) as wire:
        assert ended(wire, workload=b"x") == [(WORK_COMPLETE, b"x")]
    assert worker.poll() is None and workers.errors == ""


def test_daemon_works_where_it_was_started_and_removes_its_pid_file(address, tmp_path):
    pid_file, script = tmp_path / "pid", tmp_path / "script"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o755)
    arguments = [*OURS, *at(address), "-d", "-i", "pid", "-w", "-f", "f", "./script"]
    done = subprocess.run(arguments, cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    wait_for_workers(address, "f")
    pid = int(pid_file.read_text())
    try:
        with Wire(address) as wire:
            assert ended(wire) == [(WORK_COMPLETE, os.path.realpath(str(tmp_path)).encode() + b"\n")]
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pid_file.exists(), "the worker has ended")


# -- the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((), "no function is given"),
        (("x",), "no function is given"),
        (("-w", "cat"), "no function is given"),
        (("-f",), "-f requires argument"),
        (("-f", "", "x"), "a name"),
        (("--bogus",), "--bogus"),
        (("-f", "f", "-Z"), "-Z"),
        (("-w", "-f", "f", "wc", "-l"), "--"),
        (("-f", "f", "--st"), "--st"),
        (("--ssl-name", "n", "-f", "f", "x"), "--ssl-name is of no use without --ssl"),
        (("-S", "--ssl-ca-file", "/nonexistent/ca", "-f", "f", "x"), "/nonexistent/ca"),
        (("-f", "f", "-t", "soon", "x"), "'soon'"),
        (("-f", "f", "-t", "nan", "x"), "'nan'"),
        (("-f", "f", "-c", "-1", "x"), "'-1'"),
        (("-f", "f", "-p", "x", "x"), "'x'"),
        (("-f", "f", "-p", "70000", "x"), "70000"),
        (("-f", "f", "-h", ",", "x"), "no server"),
        (("-f", "f", "-h", "[::1", "x"), "[::1"),
        (("-f", "f", "--delay", "-1", "x"), "'-1'"),
        (("-f", "f", "--delay", "1", "--epoch", "1", "x"), "--epoch and --delay"),
        (("-f", "f", "--delay", "1", "-I", "x"), "--delay and --high"),
        (("-f", "f", "--reducer", "r", "-L", "x"), "--reducer and --low"),
        (("-f", "f", "--wait", "x"), "--background"),
        (("-f", "f", "--ping"), "--ping"),
        (("--status", "--ping", "x"), "--ping"),
        (("--status",), "handles"),
        (("--unique-status",), "uniques"),
        (("--wait",), "handles"),
        (("-f", "f", "--concurrency", "2", "x"), "--concurrency"),
        (("-w", "-f", "f", "--delay", "2"), "--delay"),
        (("-w", "-f", "f", "--concurrency", "0"), "'0'"),
        (("-w", "-f", "f", "-c", "1", "--processes", "2", "cat"), "--count and --processes"),
        (("-w", "-f", "f", "--processes", "2"), "--processes"),
        (("-f", "f", "-i", "/nonexistent/pid", "x"), "/nonexistent/pid"),
        (("-w", "-f", "f", "-i", "/nonexistent/pid", "cat"), "/nonexistent/pid"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_1(arguments, named):
    code, out, err = run(OURS, *arguments)
    assert (code, out, err.count("\n")) == (1, b"", 1)
    assert err.startswith("gearman: ") and named in err


def test_every_option_of_the_c_tool_is_there():
    require_c_tool()
    letters = set(re.findall(r"(?m)^\t-(\w)", run(C_TOOL, "-H")[2]))
    assert len(letters) == 18
    assert letters <= {option.short for option in ROWS.values()}


@pytest.mark.parametrize("option", ["-H", "--help"])
def test_help_goes_to_stdout(option):
    assert run(OURS, option) == (0, help_text().encode() + b"\n", "")


def test_help_fits_80_columns():
    assert max(map(len, help_text().splitlines())) < 80


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option):
    code, out, _ = run(OURS, option)
    assert code == 0 and re.fullmatch(rb"gearman \d+\.\d+\.\d+\n", out)


def test_long_options_may_be_abbreviated(crew):
    assert run(OURS, "--hos", "127.0.0.1", "--por=%d" % crew[1], "--func", "show", "--pre", "x") == (0, b"show: <x>\n", "")


def test_module_runs_as_the_command(crew):
    program = [sys.executable, "-m", "gearmand.gearman"]
    assert run(program, *at(crew), "-f", "show", "x", PYTHONPATH=ROOT) == (0, b"<x>\n", "")


def test_name_that_is_no_utf_8_goes_through_as_it_is(address):
    with Wire(address) as wire:
        wire.can_do(b"\xff\xfe")
        assert run([os.fsencode(word) for word in OURS], *at(address), "-b", "-f", b"\xff\xfe", b"\xfd")[0] == 0
        assert wire.grab()[1:] == (b"\xff\xfe", b"\xfd")


def test_client_imports_no_worker_and_no_server():
    code = "import sys, gearmand.gearman, gearmand.gearman_client; print(*sys.modules)"
    imported = run([sys.executable, "-S", "-c"], code, PYTHONPATH=ROOT)[1].decode().split()
    unwanted = {"gearmand.worker", "gearmand.gearman_worker", "gearmand.server", "gearmand.daemon", "subprocess", "argparse"}
    assert unwanted.isdisjoint(imported)
