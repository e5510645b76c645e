"""The command gearadmin as a process: beside the C tool, on terminals and pipes, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from gearmand import Server
from gearmand.gearadmin import COMMANDS, OPTIONS, main
from gearmand.screen import display_width, fitted, printable, table
from peers import ScriptedServer, c_server, foreign, free_address
from wire import DEADLINE_S, ERROR, SET_CLIENT_ID, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, WORK_COMPLETE, WORK_EXCEPTION, WORK_FAIL, Wire, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = [sys.executable, os.path.join(ROOT, "scripts", "gearadmin")]
C_TOOL = foreign("/usr/bin/gearadmin")


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("GEARMAN_SERVER", "GEARMAN_SERVERS", "TERM")}
    return {**kept, "PYTHONIOENCODING": "utf-8", **more}


def run(program, *arguments, **more):
    done = subprocess.run(
        [*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env=environment(**more)
    )
    return done.returncode, done.stdout, done.stderr.decode()


def at(address):
    return ["-h", address[0], "-p", str(address[1])]


def ours(address, *arguments):
    """Status and what is printed; nothing may be on standard error."""
    status, out, err = run(OURS, *at(address), *arguments)
    assert err == ""
    return status, out


@pytest.fixture(autouse=True)
def interrupts_are_not_ignored():
    """A shell starts what runs in the background so that SIGINT is ignored; that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


@pytest.fixture
def wire(server):
    with Wire(server.address) as wire:
        yield wire


# -- beside the C tool ---------------------------------------------------------------


@pytest.fixture(params=["this server", "the C server"])
def address(request, tmp_path):
    if not os.path.exists(C_TOOL):
        pytest.skip("there is no C tool to compare with: %s (Debian: gearman-tools)" % C_TOOL)
    if request.param == "this server":
        with Server(port=0) as server:
            yield server.address
    else:
        with c_server(tmp_path) as address:
            yield address


@pytest.fixture
def busy(address):
    """Something in every table, names with blanks and umlauts among them."""
    with Wire(address) as worker, Wire(address) as client:
        worker.send(SET_CLIENT_ID, b"resizer")
        worker.can_do(b"f", "größe".encode())
        client.submit(b"f", unique=b"u v")
        client.submit(b"f", kind=SUBMIT_JOB_BG)
        client.submit(b"with space", unique=b"w", kind=SUBMIT_JOB_HIGH_BG)
        worker.grab()
        client.echo()
        yield address


def assert_same(address, *arguments):
    def both():
        c_status, c_out, _ = run([C_TOOL], *at(address), *arguments)
        status, out, _ = run(OURS, *at(address), *arguments)
        return (status, out) == (c_status, c_out) and (status, out)

    # The C server lists connections for a while after their end, in `workers`.
    return wait_until(both, "both say the same of " + " ".join(arguments))


READING = ["getpid", "server-version", "server-verbose", "show-jobs", "show-unique-jobs", "status", "priority-status", "workers"]


@pytest.mark.parametrize("option", READING)
def test_reading_option_prints_what_the_c_tool_prints(busy, option):
    status, out = assert_same(busy, "--" + option)
    assert status == 0 and out.endswith(b"\n")


@pytest.mark.parametrize("option", READING)
def test_reading_option_prints_what_the_c_tool_prints_of_an_idle_server(address, option):
    assert_same(address, "--" + option)


def test_all_reading_options_are_carried_out_in_the_c_tools_order(busy):
    status, out = assert_same(busy, *["--" + option for option in READING])
    assert out.count(b"\n.\n") == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("--create-function", "f"),
        ("--create-function=f", "--status"),
        ("--drop-function", "größe"),
        ("--drop-function", "no", "--getpid"),
        ("--drop-function", "taken"),
        ("--cancel-job", "H:no:1"),
        ("--cancel-job", "H:no:1", "--create-function", "f", "--drop-function", "f", "--status"),
    ],
)
def test_changing_option_prints_what_the_c_tool_prints(address, arguments):
    results = []
    with Wire(address) as worker:
        worker.can_do(b"taken")
        for program in ([C_TOOL], OURS):
            worker.ask("create function größe\r")
            status, out, err = run(program, *at(address), *arguments)
            results.append((status, out, bool(err)))
            worker.ask("drop function f\r")
    assert results[0] == results[1]


def test_cancelled_job_is_gone_with_both_tools(address):
    with Wire(address) as client:
        for program in ([C_TOOL], OURS):
            handle = client.submit(b"f").decode()
            assert run(program, *at(address), "--cancel-job", handle) == (0, b"OK\n", "")
            assert client.expect(WORK_FAIL) == [handle.encode()]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--bogus",),
        ("--port",),
        ("--create-function",),
        ("--status=1",),
        ("--status", "--status"),
        ("--host=", "--status"),
        ("--create-function=",),
        ("--s",),
        ("--status", "-p", "no-such-service"),
        ("--status", "-p", "1", "-h", "127.0.0.1"),
        ("--status", "-p", "99999", "-h", "127.0.0.1"),
        ("--status", "-h", "no.such.host.invalid"),
    ],
)
def test_error_has_the_c_tools_status(arguments):
    if not os.path.exists(C_TOOL):
        pytest.skip("there is no C tool to compare with: %s (Debian: gearman-tools)" % C_TOOL)
    status, out, err = run(OURS, *arguments)
    assert run([C_TOOL], *arguments)[0] == status == 1
    assert out == b"" and err.startswith("gearadmin: ") and err.count("\n") == 1


@pytest.mark.parametrize("abbreviation", ["--stat", "--getp", "--server-verb", "--show-u", "--pri", "--wor"])
def test_abbreviation_that_the_c_tool_takes_is_taken(address, abbreviation):
    assert_same(address, abbreviation)


def test_every_option_of_the_c_tool_is_there():
    if not os.path.exists(C_TOOL):
        pytest.skip("there is no C tool to compare with: %s (Debian: gearman-tools)" % C_TOOL)
    found = re.findall(rb"(?m)^  (?:-(\w) \[ )?--([\w-]+)", run([C_TOOL], "--help")[1])
    rows = {row.name: getattr(row, "short", "") for row in [*OPTIONS, *COMMANDS]}
    assert len(found) == 15
    for short, name in found:
        assert rows[name.decode()] == short.decode()


# -- what the C tool does not have -------------------------------------------------------


def test_jobs_and_clients_are_printed_as_the_server_sends_them(server, wire):
    wire.submit("größe".encode(), unique=b"u v")
    assert ours(server.address, "--jobs") == (0, "größe\tu v\t-\t1\n.\n".encode())
    assert b"\n\tgr\xc3\xb6\xc3\x9fe\tu v\t-\n" in ours(server.address, "--clients")[1]


def test_maxqueue_bounds_the_function(server, wire):
    assert ours(server.address, "--maxqueue", "f", "1") == (0, b"OK\n")
    assert ours(server.address, "--maxqueue", "g", "1", "2", "3") == (0, b"OK\n")
    for function, taken in ((b"f", 1), (b"g", 2)):
        for _ in range(taken):
            wire.submit(function, kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB_BG, function, b"", b"")
        assert wire.expect(ERROR)[0] == b"QUEUE_ERROR"
    assert ours(server.address, "--maxqueue", "f") == (0, b"OK\n")
    wire.submit(b"f", kind=SUBMIT_JOB_BG)


@pytest.mark.parametrize("arguments", [["--shutdown"], ["--shutdown", "graceful"], ["--shutdown=graceful"], ["--shutdown-graceful"]])
def test_shutdown_stops_the_server(arguments):
    asked = []
    with Server(port=0, on_shutdown=asked.append) as server:
        assert ours(server.address, *arguments) == (0, b"OK\n")
        wait_until(lambda: asked, "the server is asked to stop")
    assert asked == [arguments != ["--shutdown"]]


def test_wait_until_idle(server, wire):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    status, out, err = run(OURS, *at(server.address), "--wait-until-idle", "--timeout", "0.3")
    assert (status, out) == (1, b"") and "%s:%d" % server.address in err and "0.3 s" in err
    assert ours(server.address, "--wait-until-idle", "other", "--getpid") == (0, b"%d\n" % os.getpid())


def test_host_may_name_the_port_and_environment_the_host(server):
    address = "%s:%d" % server.address
    expected = b"%d\n" % os.getpid()
    assert run(OURS, "-h", address, "--getpid")[:2] == (0, expected)
    assert run(OURS, "--getpid", GEARMAN_SERVER=address)[:2] == (0, expected)
    assert run(OURS, "--getpid", "-p", str(server.address[1]), GEARMAN_SERVERS="127.0.0.1:1")[:2] == (0, expected)


def test_several_servers_are_named_and_one_that_fails_does_not_keep_the_others_back(server):
    lost = "%s:%d" % free_address()
    live = "%s:%d" % server.address
    status, out, err = run(OURS, "-h", lost, "-h", live, "-h", live, "--status")
    assert (status, out.decode()) == (1, "==> %s <==\n==> %s <==\n.\n" % (lost, live))
    assert err == "gearadmin: %s: cannot connect: Connection refused\n" % lost


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["stray", "--status"], "stray"),
        (["--maxqueue", "f", "many"], "many"),
        (["--maxqueue", "f", "1", "2"], "three"),
        (["--shutdown", "now"], "now"),
        (["--watch", "0"], "'0'"),
        (["--timeout", "soon", "--status"], "soon"),
        (["--timeout", "-1", "--status"], "-1"),
        (["--interval", "0", "--top"], "'0'"),
        (["--count", "0", "--top"], "'0'"),
        (["--count", "some", "--top"], "some"),
        (["--sort", "size", "--top"], "change/s"),
        (["--sort", "queued", "--status"], "--top"),
        (["--create-function", "two words"], "two words"),
        (["-h", "[::1", "--status"], "[::1"),
    ],
)
def test_wrong_argument_is_one_line_that_names_it(server, arguments, named):
    status, out, err = run(OURS, "-p", str(server.address[1]), *arguments)
    assert (status, out, err.count("\n")) == (1, b"", 1)
    assert named in err
    assert server.address and not server.broker.registry.functions


def test_help_and_version():
    assert run(OURS, "--help")[1].startswith(b"usage: gearadmin ")
    assert re.match(rb"gearadmin \d", run(OURS, "--version")[1])


# -- JSON ----------------------------------------------------------------------------


def test_json_has_every_reading_command(server, wire):
    wire.submit("größe".encode(), unique=b"u\xff")
    # That of an access list has tests of its own: this server has none.
    reading = [*READING, "jobs", "clients"]
    status, out = ours(server.address, "--json", *["--" + name for name in reading])
    assert status == 0
    found = json.loads(out)
    assert set(found) == {"server"} | {name.replace("-", "_") for name in reading}
    assert found["server"] == "%s:%d" % server.address
    assert found["getpid"] == os.getpid()
    assert found["status"] == [{"function": "größe", "total": 1, "running": 0, "workers": 0, "queued": 1}]
    assert found["priority_status"] == [{"function": "größe", "high": 0, "normal": 1, "low": 0, "workers": 0, "queued": 1}]
    assert found["jobs"] == [{"function": "größe", "unique": "u\udcff", "worker": None, "listeners": 1}]
    assert {"function": "größe", "unique": "u\udcff", "worker": None} in [job for row in found["clients"] for job in row["jobs"]]
    assert {frozenset(row) for row in found["workers"]} == {frozenset(("fd", "address", "client_id", "functions"))}
    assert [row["persisted"] for row in found["show_jobs"]] == [False]
    assert found["show_unique_jobs"] == ["u\udcff"]


def test_json_has_errors_where_something_failed():
    def script(connection, number):
        while True:
            while b"\n" not in connection.buffer:
                connection._more()
            line, _, connection.buffer = connection.buffer.partition(b"\n")
            connection.send_raw(b".\n" if b"status" in line else b"ERR UNKNOWN_COMMAND Unknown+server+command\r\n")

    lost = "%s:%d" % free_address()
    with ScriptedServer(script) as server:
        status, out, err = run(OURS, "-h", "%s:%d" % server.address, "-h", lost, "--json", "--getpid", "--status")
    one, two = map(json.loads, out.splitlines())
    assert (status, err.count("\n")) == (1, 2)
    assert one["status"] == [] and "UNKNOWN_COMMAND" in one["getpid"]["error"] and set(one["getpid"]) == {"error"}
    assert two == {"server": lost, "error": "%s: cannot connect: Connection refused" % lost}


CHANGING = {
    "wait-until-idle": [],
    "create-function": ["new"],
    "drop-function": ["old"],
    "maxqueue": ["f", "1"],
    "cancel-job": ["H:unknown:1"],
    "acl-grant": ["submit", "token:x", "f"],
    "acl-revoke": ["submit", "token:x"],
    "acl-self-revoke": ["submit"],
    "pause": ["f"],
    "resume": ["f"],
    "policy": ["f", "attempts=3"],
    "purge": ["f"],
    "peek": ["f"],
    "reprioritise": ["H:unknown:1", "high"],
    "buried": ["f"],
    "kick": ["f"],
    "discard": ["f", "2"],
    "result": ["H:unknown:1"],
    "recurring": [],
    "recur": ["n", "f", "*", "*", "*", "*", "*"],
    "unrecur": ["n"],
    "drain": [],
    "shutdown": [],
    "shutdown-graceful": [],
}
STEERING = ["pause", "resume", "policy", "purge", "peek", "reprioritise", "buried", "kick", "discard", "result", "recurring", "recur", "unrecur", "drain"]


def test_json_knows_every_command():
    assert {command.name for command in COMMANDS} == {*CHANGING, *READING, "jobs", "clients", "acl-list"}


@pytest.mark.parametrize("words", [["wait-until-idle"], ["create-function", "g"], ["drop-function", "f"], ["maxqueue", "f", "1"], ["shutdown"], ["shutdown-graceful"]], ids=lambda words: words[0])
def test_json_of_a_command_that_changes_something_is_true(words):
    with Server(port=0, on_shutdown=lambda graceful: None) as server:
        with Wire(server.address) as wire:
            wire.ask("create function f\r")
        status, out = ours(server.address, "--json", "--" + words[0], *words[1:])
        assert (status, json.loads(out)) == (0, {"server": "%s:%d" % server.address, words[0].replace("-", "_"): True})


def test_json_of_cancel_job_is_true_or_an_error(server, wire):
    handle = wire.submit(b"f", kind=SUBMIT_JOB_BG).decode()
    assert json.loads(ours(server.address, "--json", "--cancel-job", handle)[1])["cancel_job"] is True
    status, out, err = run(OURS, *at(server.address), "--json", "--cancel-job", handle, "--status")
    found = json.loads(out)
    assert (status, err.count("\n")) == (1, 1)
    assert handle in found["cancel_job"]["error"] and [row["function"] for row in found["status"]] == ["f"]


def test_json_of_a_server_that_is_not_idle_has_nothing_of_what_would_follow(server, wire):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    status, out, err = run(OURS, *at(server.address), "--json", "--wait-until-idle", "--timeout", "0.2", "--drop-function", "f")
    found = json.loads(out)
    assert (status, set(found), err.count("\n")) == (1, {"server", "error"}, 1) and "0.2 s" in found["error"]


@pytest.mark.parametrize("name", [*READING, "jobs", "clients", "acl-list", *CHANGING])
def test_json_with_the_c_server_has_an_answer_or_an_error(tmp_path, name):
    unknown = {"jobs", "clients", "acl-list", "acl-grant", "acl-revoke", "acl-self-revoke", "shutdown", "shutdown-graceful", *STEERING}
    with c_server(tmp_path) as address:
        with Wire(address) as wire:
            wire.ask("create function old\r")
        status, out, err = run(OURS, *at(address), "--json", "--" + name, *CHANGING.get(name, []))
    found = json.loads(out)
    # At so many words it closes the connection.
    answer = found if name == "recur" and found.pop("server") else found[name.replace("-", "_")]
    refused = name in unknown or name == "cancel-job"
    assert (status, err.count("\n")) == (int(refused), int(refused))
    assert isinstance(answer, dict) and set(answer) == {"error"} if refused else answer is True or name in READING


# -- servers that misbehave --------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, why",
    [(None, "0.3 s"), (b"f\t1\t0\t0\ng\t", "closed"), (b"\0RES\0\0\0\x06\0\0\0\0", "cannot read"), (b"\0HTTP/1.1 400", "Gearman")],
)
def test_server_that_misbehaves_is_one_line_that_names_it(answer, why):
    def script(connection, number):
        if answer is None:
            connection.is_closed()
        else:
            connection._more()
            connection.send_raw(answer)

    with ScriptedServer(script) as server:
        # The others are heard, however long that takes.
        timeout = ["--timeout", "0.3"] if answer is None else []
        status, out, err = run(OURS, *at(server.address), "--status", *timeout)
        assert (status, out, err.count("\n")) == (1, b"", 1)
        assert "%s:%d" % server.address in err and why in err


def test_refusal_of_a_command_that_the_c_tool_lacks_is_status_1(tmp_path):
    with c_server(tmp_path) as address:
        status, out, err = run(OURS, *at(address), "--jobs", "--status")
    assert (status, out) == (1, b".\n")
    assert err == "gearadmin: %s:%d: jobs: UNKNOWN_COMMAND Unknown server commandjobs\n" % address


def test_what_a_server_says_cannot_steer_the_terminal():
    def script(connection, number):
        connection._more()
        connection.send_raw(b"ERR X \x1b[2J\x07\r\n")
        connection.is_closed()

    with ScriptedServer(script) as server:
        _, _, err = run(OURS, *at(server.address), "--status")
    assert "\x1b" not in err and "\x07" not in err


def test_broken_pipe_is_quiet(server, wire):
    for number in range(3000):
        wire.send(SUBMIT_JOB_BG, b"f%d" % number, b"", b"")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*OURS, *at(server.address), "--status", "--show-jobs"], stdout=writing, stderr=subprocess.PIPE, timeout=60, env=environment()
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_is_one_line(server):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*OURS, *at(server.address), "--getpid"], stdout=full, stderr=subprocess.PIPE, timeout=60, env=environment())
    assert (done.returncode, done.stderr) == (1, b"gearadmin: cannot write: No space left on device\n")


def test_closed_standard_output_is_one_line(server):
    status, _, err = run(["sh", "-c", 'exec "$@" >&-', "sh", *OURS], *at(server.address), "--getpid")
    assert (status, err) == (1, "gearadmin: cannot write: Bad file descriptor\n")


def test_interrupt_while_waiting_is_quiet(server, wire):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    process = subprocess.Popen([*OURS, *at(server.address), "--getpid", "--wait-until-idle"], stderr=subprocess.PIPE, env=environment())
    wait_until(lambda: server.connections == 2, "it asks")
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=DEADLINE_S)[1], process.returncode) == (b"", 130)


def test_main_in_process_returns_the_status(server, capfdbinary):
    assert main([*at(server.address), "--getpid"]) == 0
    assert main([]) == 1
    assert capfdbinary.readouterr().out == b"%d\n" % os.getpid()


# -- watching ------------------------------------------------------------------------


class Terminal:
    """gearadmin on a terminal of its own; `screen()` is what stands there, as lines; `before`: how it was set."""

    def __init__(self, columns, lines, *arguments, redirection="", program=OURS, **more):
        self.fd, inside = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.fd)
        self.output = ""
        # Not pty.fork: this process has threads.
        become_its_owner = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", become_its_owner, "/bin/sh", "-c", 'exec "$@" %s' % redirection, "sh", *program, *arguments],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True, env=environment(**{"TERM": "xterm", **more}),
        )  # fmt: skip
        os.close(inside)

    def resize(self, columns, lines):
        self.size = columns, lines
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key):
        os.write(self.fd, key)

    def read(self, wait_s=0.1):
        """Whatever it has written. False: it has ended."""
        while select.select([self.fd], [], [], wait_s)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.output += data.decode()
        return True

    def screen(self):
        self.read()
        drawn = self.output.rpartition("\x1b[1;1H")[2]
        if "\x1b[J" not in drawn:
            return []
        drawn = drawn.partition("\x1b[J")[0]
        return re.sub(r"\x1b\[\d+;1H", "\n", drawn).replace("\x1b[K", "").split("\n")

    def wait_for(self, what):
        return wait_until(lambda: re.search(what, "\n".join(self.screen())), what).group()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            os.close(self.fd)

    def interrupted(self):
        """Press Ctrl-C, as a person does: again where nothing has happened for some seconds."""
        for _ in range(3):
            self.press(b"\x03")
            ends_at = time.monotonic() + 5
            while time.monotonic() < ends_at:
                if not self.read():
                    return self.end()
        raise AssertionError("Ctrl-C does not end it")

    def end(self):
        """Wait until it has ended, and return its status."""
        while self.read():
            pass
        os.close(self.fd)
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def on_terminal():
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Terminal(*arguments, **options))


LEAVES = "\x1b[?25h\x1b[?1049l"


@pytest.mark.parametrize("columns, expected", [(80, "FUNCTION .*QUEUED  RUNNING  WORKERS  CHANGE/S  HIGH  NORMAL  LOW"), (40, "FUNCTION .*QUEUED  RUNNING  WORKERS")])
@pytest.mark.parametrize("end", ["q", "\x03"])
def test_watch_on_a_terminal_fits_it_and_ends_cleanly(on_terminal, server, wire, columns, expected, end):
    for number in range(30):
        wire.submit(b"function %d with a rather long name" % number, kind=SUBMIT_JOB_BG)
    wire.submit("größe 大小".encode(), kind=SUBMIT_JOB_BG)
    wire.submit("größe 大小".encode(), kind=SUBMIT_JOB_BG)
    terminal = on_terminal(columns, 12, *at(server.address), "--watch", "0.1")
    terminal.wait_for(expected)
    screen = terminal.screen()
    assert len(screen) == 12 and max(map(display_width, screen)) < columns
    assert screen[0].split()[1:4] == ["by", "queued", "q:"] and screen[1].split()[0] == "%s:%d" % server.address
    assert screen[3].split()[:2] == ["größe", "大小"] and screen[-1] == "and 23 more"
    assert "…" in screen[4] and ("with a" in screen[4]) == (columns == 80)
    wire.submit(b"new", kind=SUBMIT_JOB_BG)
    terminal.wait_for("and 24 more")
    if end == "\x03":
        assert terminal.interrupted() == 0
    else:
        terminal.press(end.encode())
        assert terminal.end() == 0
    assert terminal.output.rstrip("^C").endswith(LEAVES)
    assert "Traceback" not in terminal.output


def test_watch_follows_the_size_of_the_terminal(on_terminal, server, wire):
    wire.submit(b"f" * 60, kind=SUBMIT_JOB_BG)
    terminal = on_terminal(120, 10, *at(server.address), "--watch", "60")
    terminal.wait_for("f{60}.*1")
    terminal.resize(40, 10)
    terminal.wait_for("f{11}…")
    terminal.press(b"q")
    assert terminal.end() == 0


def test_watch_on_a_terminal_outlives_its_server(on_terminal):
    host, port = free_address()
    with Server(port=port) as server:
        server.submit("one", background=True)
        terminal = on_terminal(80, 10, *at((host, port)), "--watch", "0.1")
        terminal.wait_for("one")
    terminal.wait_for("Connection refused")
    with Server(port=port) as server:
        server.submit("two", background=True)
        terminal.wait_for("two")
        terminal.press(b"q")
        assert terminal.end() == 0


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"])
def test_watch_on_a_terminal_without_keys_ends_with_an_interrupt(on_terminal, server, redirection):
    terminal = on_terminal(80, 10, *at(server.address), "--watch", "0.1", redirection=redirection)
    terminal.wait_for("FUNCTION")
    assert terminal.interrupted() == 0
    assert terminal.output.rstrip("^C").endswith(LEAVES)


def test_watch_ended_by_sigterm_leaves_the_terminal_as_it_was(on_terminal, server):
    terminal = on_terminal(80, 10, *at(server.address), "--watch")
    terminal.wait_for("FUNCTION")
    assert termios.tcgetattr(terminal.fd) != terminal.before
    terminal.process.terminate()
    wait_until(lambda: not terminal.read() or LEAVES in terminal.output, "it leaves")
    assert terminal.end() == 128 + signal.SIGTERM
    assert terminal.output.endswith(LEAVES)


def test_watch_of_several_servers_shares_the_terminal(on_terminal, server):
    with Server(port=0) as other:
        server.submit("one", background=True)
        other.submit("two", background=True)
        terminal = on_terminal(80, 20, "-h", "%s:%d" % server.address, "-h", "%s:%d" % other.address, "--watch")
        terminal.wait_for(r"(?s)%d.*one.*%d.*two" % (server.address[1], other.address[1]))
        terminal.press(b"q")
        assert terminal.end() == 0


def test_watch_on_a_dumb_terminal_has_no_escapes(on_terminal, server):
    terminal = on_terminal(80, 20, *at(server.address), "--watch", "0.1", TERM="dumb")
    wait_until(lambda: terminal.read() and terminal.output.count("FUNCTION") > 2, "three tables")
    assert terminal.interrupted() == 0
    assert "\x1b" not in terminal.output


def watched(server, count, *arguments):
    """What it writes into a pipe until it has written so many lines, and its status after SIGINT."""
    process = subprocess.Popen([*OURS, *at(server.address), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    lines = [process.stdout.readline().decode() for _ in range(count)]
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=DEADLINE_S)
    assert err == b""
    return lines, process.returncode


def test_watch_into_a_pipe_prints_one_table_after_the_other(server, wire):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    lines, status = watched(server, 8, "--watch", "0.1")
    assert status == 0
    assert lines[0].startswith("%s:%d  20" % server.address)
    titles = ["FUNCTION", "QUEUED", "RUNNING", "WORKERS", "CHANGE/S", "HIGH", "NORMAL", "LOW"]
    assert [line.split() for line in lines[1:3]] == [titles, ["f", "1", "0", "0", "0", "1", "0"]]
    assert lines[3] == "\n" and lines[6].split() == ["f", "1", "0", "0", "+0.0", "0", "1", "0"]


def test_watch_as_json_prints_one_object_each_time(server, wire):
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    lines, status = watched(server, 2, "--watch", "0.1", "--json")
    one, two = map(json.loads, lines)
    row = {"function": "f", "total": 1, "running": 0, "workers": 0, "queued": 1, "high": 0, "normal": 1, "low": 0}
    assert status == 0
    assert one["functions"] == [{**row, "rate": None}] and two["functions"] == [{**row, "rate": 0.0}]
    assert one["server"] == "%s:%d" % server.address and two["time"] > one["time"]


def test_top_into_a_pipe_outlives_its_server():
    host, port = free_address()
    words = [*OURS, *at((host, port)), "--top", "--interval", "0.1"]
    with Server(port=port):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        assert process.stdout.readline().decode().endswith("functions: 0, queued: 0, running: 0\n")
    assert any(b"Connection refused" in line for line in process.stdout)
    with Server(port=port) as server:
        server.submit("f", background=True)
        assert any(b"functions: 1" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=DEADLINE_S)[1], process.returncode) == (b"", 0)


def top(address, *arguments):
    """What it prints, as words of lines."""
    return [line.split() for line in ours(address, "--top", "--interval", "0.1", *arguments)[1].decode().splitlines()]


@pytest.fixture
def three(address):
    """Three, two and one jobs queued of c, a and b, and one of b running, with this server and the C one."""
    with Wire(address) as worker, Wire(address) as client:
        worker.send(SET_CLIENT_ID, b"resizer")
        worker.can_do(b"a", b"b")
        for function, count in ((b"a", 2), (b"b", 2), (b"c", 3)):
            for _ in range(count):
                client.submit(function, kind=SUBMIT_JOB_HIGH_BG if function == b"b" else SUBMIT_JOB_BG)
        worker.grab()
        client.echo()
        yield address


def test_top_prints_as_many_screens_as_it_is_asked_for(three):
    lines = top(three, "--count", "2")
    assert len(lines) == 12 and lines[5] == lines[11] == []
    assert lines[0][3:] == ["functions:", "3,", "queued:", "6,", "running:", "1"]
    assert lines[6][3:] == ["functions:", "3,", "queued:", "6,", "running:", "1,", "change:", "+0.0/s"]
    assert lines[2] == ["c", "3", "0", "0", "0", "3", "0"] and lines[8] == ["c", "3", "0", "0", "+0.0", "0", "3", "0"]


@pytest.mark.parametrize(
    "column, expected", [("function", "abc"), ("queued", "cba"), ("running", "bca"), ("workers", "bac"), ("HIGH", "bca"), ("normal", "cab")]
)
def test_top_orders_by_the_column_that_is_named(address, column, expected):
    with Wire(address) as worker, Wire(address) as client:
        for function, kind, count in ((b"c", SUBMIT_JOB_BG, 3), (b"b", SUBMIT_JOB_HIGH_BG, 3), (b"a", SUBMIT_JOB_BG, 1)):
            for _ in range(count):
                client.submit(function, kind=kind)
        worker.can_do(b"b")
        worker.grab()
        worker.can_do(b"a")
        worker.echo()
        lines = top(address, "--count", "1", "--sort", column)
    assert "".join(line[0] for line in lines[2:5]) == expected


def test_top_ordered_by_a_column_of_the_connections_shows_them(three):
    lines = top(three, "--count", "1", "--sort", "abilities")
    assert lines[1] == ["ABILITIES", "ADDRESS", "ID", "FD"] and lines[0][-3:] == ["with", "abilities:", "1"]
    (worker,) = [line for line in lines if "resizer" in line]
    assert sorted(worker[:2]) == ["a", "b"] and worker[-3:-1] == ["127.0.0.1", "resizer"]
    status, out = ours(three, "--top", "--count", "1", "--sort", "id", "--json")
    (worker,) = [row for row in json.loads(out)["workers"] if row["client_id"] == "resizer"]
    assert set(worker) == {"fd", "address", "client_id", "functions"} and sorted(worker["functions"]) == ["a", "b"]


def test_top_shows_how_fast_the_number_of_jobs_changes(server, wire):
    process = subprocess.Popen(
        [*OURS, *at(server.address), "--top", "--interval", "0.2", "--json"], stdout=subprocess.PIPE, env=environment()
    )
    process.stdout.readline()
    wire.submit(b"f", kind=SUBMIT_JOB_BG)
    rates = (json.loads(line)["functions"][0]["rate"] for line in process.stdout if b'"rate"' in line)
    assert 0 < next(rate for rate in rates if rate) <= 5.5
    wire.can_do(b"f")
    handle = wire.grab()[0]
    wire.send(WORK_COMPLETE, handle, b"")
    assert any(rate < 0 for rate in rates)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)


def test_top_of_a_server_that_knows_status_alone_leaves_priorities_empty():
    def script(connection, number):
        while True:
            while b"\n" not in connection.buffer:
                connection._more()
            line, _, connection.buffer = connection.buffer.partition(b"\n")
            connection.send_raw(b"f\t3\t1\t2\n.\n" if line.strip() == b"status" else b"ERR unknown_command Unknown+server+command\r\n")

    with ScriptedServer(script) as server:
        assert top(server.address, "--count", "1")[2] == ["f", "2", "1", "2"]
        (row,) = json.loads(ours(server.address, "--top", "--count", "1", "--json")[1])["functions"]
        status, out, err = run(OURS, *at(server.address), "--top", "--count", "1", "--sort", "address")
    assert (row["high"], row["normal"], row["low"], row["queued"]) == (None, None, None, 2)
    assert (status, err) == (1, "") and b"workers: unknown_command" in out


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_top_that_lacks_a_server_in_its_last_screen_has_status_1(server, more):
    lost = "%s:%d" % free_address()
    live = "%s:%d" % server.address
    status, out, err = run(OURS, "-h", lost, "-h", live, "--top", "--interval", "0.1", "--count", "2", *more)
    assert (status, err) == (1, "")
    assert out.count(b"Connection refused") == 2 and out.count(live.encode()) == 2
    assert more or out.count(b"\n\n") == 4 and b"\n\n\n" not in out
    if more:
        lines = [json.loads(line) for line in out.splitlines()]
        assert [set(line) for line in lines] == 2 * [{"server", "time", "error"}, {"server", "time", "functions"}]


def test_top_keys_choose_what_is_shown(on_terminal, three):
    terminal = on_terminal(80, 24, *at(three), "--top", "--interval", "0.3")
    terminal.wait_for(r"by queued .*\n.*\n.*\nc .*\na .*\nb ")
    terminal.press(b"\x1b[D")
    terminal.wait_for(r"by function .*\n.*\n.*\na .*\nb .*\nc ")
    terminal.press(b"r")
    terminal.wait_for(r"by function .*\n.*\n.*\nc .*\nb .*\na ")
    terminal.press(b"\x1b[6~\x1b[A")
    terminal.wait_for(r"LOW\nb .*\na .*\Z")
    terminal.press(b"\x1b[5~\x1bOC\x1bOC\x1b[5mx")
    terminal.wait_for(r"by running .*\n.*\n.*\nb .*\n")
    terminal.press(b"W")
    terminal.wait_for(r"by abilities .*w: functions[^\0]*ABILITIES +ADDRESS +ID +FD[^\0]*resizer")
    terminal.press(b"\x1b[D")
    terminal.wait_for("by fd ")
    terminal.press(b"w")
    terminal.wait_for("by running .*w: workers")
    terminal.press(b"Q")
    assert terminal.end() == 0


def test_top_on_a_terminal_ends_after_its_screens(on_terminal, server):
    terminal = on_terminal(80, 24, *at(server.address), "--top", "--interval", "0.1", "--count", "2")
    assert terminal.end() == 0
    assert terminal.output.count("FUNCTION") == 2 and terminal.output.endswith(LEAVES)


def test_top_leaves_the_terminal_as_it_was_when_its_output_fails(on_terminal, server):
    """An exception in the midst of it, from outside."""
    fail = "import gearmand.top as top, sys; top.Top.lines = lambda *_: 1 / 0; from gearmand.gearadmin import main; sys.exit(main())"
    terminal = on_terminal(80, 24, "--top", *at(server.address), program=[sys.executable, "-c", fail], PYTHONPATH=ROOT)
    wait_until(lambda: not terminal.read() or "ZeroDivisionError" in terminal.output, "it fails")
    assert LEAVES in terminal.output and termios.tcgetattr(terminal.fd) == terminal.before
    assert terminal.end() == 1


# -- tables that fit ---------------------------------------------------------------------


TITLES = ("NAME", "ONE", "TWO")


@pytest.mark.parametrize("height", [1, 2, 3, 5, 10])
def test_table_stays_within_its_width_and_height(height):
    rows = [("大小 %d with a long name" % number, "1" * number, "2") for number in range(6)]
    for width in range(1, 60):
        lines = table(TITLES, rows, width, height)
        assert len(lines) <= height
        assert all(display_width(line) <= width for line in lines)


def test_table_with_room_is_whole():
    assert table(TITLES, [("a", "1", ""), ("größe", "12", "3")], 80, 3) == ["NAME   ONE  TWO", "a        1", "größe   12    3"]


def test_table_without_rows_has_its_titles():
    assert table(TITLES, [], 80, 10) == ["NAME  ONE  TWO"]


@pytest.mark.parametrize("text, width, expected", [("ab", 3, "ab "), ("abcd", 3, "ab…"), ("大小", 3, "大…"), ("大小", 2, "… "), ("e\u0301x", 2, "e\u0301x"), ("ab", 0, "")])
def test_fitted(text, width, expected):
    assert fitted(text, width) == expected
    assert display_width(fitted(text, width)) == width


def test_printable_has_nothing_that_a_terminal_obeys():
    assert printable("a\x1b[2J\n\udcffö") == "a\ufffd[2J\ufffd\ufffdö"


# -- steering ----------------------------------------------------------------------------


def test_steering_prints_what_the_server_says_and_json_has_it_parsed(server, wire):
    handles = [wire.submit(b"f", kind=SUBMIT_JOB_BG, workload=b"w\n%d" % number).decode() for number in range(3)]
    def ask(*words):
        status, out = ours(server.address, *words)
        return status, out.decode()

    one = [ask(*words.split()) for words in ("--pause f", "--policy f attempts=1", "--reprioritise %s high" % handles[2])]
    assert [status for status, _ in one] == [0, 0, 0] and one[0][1] == one[2][1] == "OK\n"
    assert "paused\ttrue\n" in one[1][1] and "attempts\t1\n" in one[1][1]
    status, out = ask("--peek", "f", "2")
    rows = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and [row[0] for row in rows] == [handles[2], handles[0], "."] and rows[0][6] == '"w\\n2"'
    found = json.loads(ask("--json", "--peek", "f", "--policy", "f")[1])
    assert [row["beginning"] for row in found["peek"]] == ["w\n2", "w\n0", "w\n1"] and found["peek"][0]["priority"] == "high"
    assert found["policy"]["paused"] is True and found["policy"]["rate"] is None
    ask("--resume", "f", "--policy", "f", "keep_s=60")
    wire.can_do(b"f")
    for _ in range(2):
        wire.send(WORK_EXCEPTION, wire.grab()[0], "zu spät".encode())
    wire.send(WORK_COMPLETE, wire.grab()[0], b"42")
    wire.echo()
    assert ask("--result", handles[1]) == (0, "42\n")
    assert [row["why"] for row in json.loads(ask("--json", "--buried", "f")[1])["buried"]] == ["zu spät"] * 2
    assert ask("--kick", "f", "1") == (0, "1\n") and ask("--discard", "f") == (0, "1\n")
    assert json.loads(ask("--json", "--purge", "f", "low")[1])["purge"] == 0
    assert ask("--purge", "f", "normal") == (0, "0\n") and ask("--purge", "f") == (0, "1\n")


@pytest.mark.parametrize("words, wanted", [
    (["--policy", "f", "attempts"], "NAME=VALUE"), (["--policy", "f", "attempts=x"], "NAME=VALUE"), (["--purge", "f", "middle"], "high, normal or low"),
    (["--recur", "n", "f", "*", "*", "*", "*"], "five fields"), (["--recur", "n", "f", *"*****", "x=1"], "workload="),
    (["--recur", "n", "f", *"*****", "priority=x"], "high, normal or low"), (["--recur", "n", "f", *"*****", "unique=a", "unique=b"], "each once"),
    (["--recur", "n", "f", *"*****", "unique=a", "workload=b", "priority=low"], "two of workload"),
    (["--reprioritise", "H:1", "x"], "high, normal or low"), (["--peek", "f", "x"], "a number"), (["--result", "a", "b", "c"], "a handle"),
])  # fmt: skip
def test_steering_with_a_wrong_word_sends_nothing(words, wanted):
    status, out, err = run(OURS, *at(free_address()), *words)
    assert (status, out) == (1, b"") and wanted in err


def test_recurring_jobs_are_set_listed_and_removed(server):
    words = ["--recur", "n", "f", "30", "2", "*", "*", "mon-fri", "workload=a = b", "priority=low"]
    assert ours(server.address, *words) == (0, b"OK\n")
    (row,) = json.loads(ours(server.address, "--json", "--recurring")[1])["recurring"]
    assert [row[name] for name in ("name", "function", "cron", "priority", "unique", "last_s", "handle", "refused", "beginning")] == [
        "n", "f", "30 2 * * mon-fri", "low", "n", None, None, None, "a = b",
    ]  # fmt: skip
    text = "n\tf\t30 2 * * mon-fri\tlow\tn\t%d\t-\t-\t-\t5\t\"a = b\"\n.\n" % row["next_s"]
    assert ours(server.address, "--recurring") == (0, text.encode())
    assert json.loads(ours(server.address, "--json", "--unrecur", "n")[1])["unrecur"] is True
    status, out, err = run(OURS, *at(server.address), "--unrecur", "n")
    assert (status, out) == (1, b"") and "UNKNOWN_RECURRING" in err
    assert ours(server.address, "--recurring") == (0, b".\n")
