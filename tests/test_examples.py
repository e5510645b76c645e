"""Every example of the README and of the docstrings is run; one that is new has to say here how, or why not.

An example runs as a process of its own, in an empty directory, against an
embedded server for each address that it names. What its lines print is what
the comments behind them say.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest

from gearmand import Server, Tls, Worker
from peers import Crew, free_address
from wire import SUBMIT_JOB_BG, WORK_COMPLETE, WORK_DATA, WORK_EXCEPTION, WORK_FAIL, WORK_STATUS, Wire, status, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = os.path.join(ROOT, "gearmand")
DEADLINE_S = 20

# Written in an example for the server, and for the second one.
_PORT = re.compile(r"(?<![\d.])(127\.0\.0\.1|localhost)([:/])(473\d)\b")


class Example(NamedTuple):
    where: str
    """A heading of the README, or a module; with a number where there are several."""
    language: str
    """That of the fence; "indented" where there is none."""
    text: str


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


# -- finding -----------------------------------------------------------------------


def numbered(found):
    """Examples with different names: the second one under a heading gets a 2."""
    counts = {}
    for where, language, text in found:
        counts[where] = counts.get(where, 0) + 1
        yield Example(where if counts[where] == 1 else "%s %d" % (where, counts[where]), language, text)


def in_readme(text):
    """Fenced and indented blocks, under the headings that they stand."""
    heading, language, block = "", None, []
    for line in [*text.splitlines(), "end"]:
        if language not in (None, "indented"):
            if line.startswith("```"):
                yield heading, language, "\n".join(block) + "\n"
                language, block = None, []
            else:
                block.append(line)
            continue
        if line.startswith("    ") or (language and not line):
            language = "indented"
            block.append(line[4:])
            continue
        if language:
            yield heading, language, "\n".join(block).rstrip() + "\n"
            language, block = None, []
        if line.startswith("```"):
            language = line[3:].strip() or "none"
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert language is None, "a fence is not closed"


def in_docstring(text):
    """Indented blocks that are Python, and do something."""
    block = []
    for line in [*textwrap.dedent(text).splitlines(), "end"]:
        if line.startswith("    ") or (block and not line):
            block.append(line[4:])
        elif block:
            source = "\n".join(block).rstrip() + "\n"
            if is_python(source):
                yield source
            block = []


def is_python(source):
    if re.search(r"(?m)^\s*(from gearmand|import gearmand)\b", source):
        return True
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call) for node in ast.walk(tree))


def in_docstrings():
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for name in sorted(os.listdir(PACKAGE)):
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(read(os.path.join("gearmand", name)))):
            if isinstance(node, documented) and ast.get_docstring(node):
                for source in in_docstring(ast.get_docstring(node)):
                    yield name, "python", source


README = list(numbered(in_readme(read("README.md"))))
DOCSTRINGS = list(numbered(in_docstrings()))
PYTHON = [example for example in README if example.language == "python"] + DOCSTRINGS
SHELL = [example for example in README if example.language != "python"]


def readme_example(where):
    (found,) = [example for example in README if example.where == where]
    return found.text


# -- running -----------------------------------------------------------------------


class Stage:
    """Where one example runs: a directory, servers by the ports that examples name, processes."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.addresses = {}
        self._stack = contextlib.ExitStack()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("GEARMAN")}
        self.environment.update(PYTHONPATH=ROOT, PYTHONUNBUFFERED="1", NO_COLOR="1")
        self._use_our_commands()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    def _use_our_commands(self):
        """As in a clone; first on the path are this Python, and our own gearman and gearadmin."""
        os.symlink(os.path.join(ROOT, "scripts"), os.path.join(self.directory, "scripts"))
        os.symlink(os.path.join(ROOT, "README.md"), os.path.join(self.directory, "README.md"))
        commands = os.path.join(self.directory, "bin")
        os.makedirs(commands)
        for name, words in (("python3", ""), ("gearman", "-m gearmand.gearman"), ("gearadmin", "-m gearmand.gearadmin")):
            path = os.path.join(commands, name)
            with open(path, "w") as file:
                file.write('#!/bin/sh\nexec "%s" %s "$@"\n' % (sys.executable, words))
            os.chmod(path, 0o755)
        self.environment["PATH"] = commands + os.pathsep + os.environ["PATH"]

    def server(self, port="4730"):
        """The embedded server that stands for this port; also what `GEARMAN_SERVERS` says, the first one."""
        if port not in self.addresses:
            server = self._stack.enter_context(Server(port=0))
            self.addresses[port] = server.address
            self.environment.setdefault("GEARMAN_SERVERS", "%s:%d" % server.address)
        return self.addresses[port]

    def staged(self, text):
        """The text with the ports of embedded servers."""
        text = _PORT.sub(lambda found: "%s%s%d" % (found.group(1), found.group(2), self.server(found.group(3))[1]), text)
        assert not re.search(r"\b473\d\b", text), "a server that the test does not replace: %s" % text
        self.server()
        return text

    def crew(self, functions, port="4730"):
        self._stack.enter_context(Crew(self.server(port), functions))

    def file(self, name, text):
        with open(os.path.join(self.directory, name), "w") as file:
            file.write(text)

    def start(self, command):
        """In a session of its own, which ends with the test."""
        process = subprocess.Popen(
            command, cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
        )  # fmt: skip
        self._stack.callback(self._end, process)
        return process

    def start_python(self, text, name="example.py"):
        self.file(name, self.staged(text))
        return self.start([sys.executable, name])

    def start_shell(self, text):
        return self.start(["bash", "-e", "-c", text])

    def _end(self, process):
        # Its session may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)

    def finished(self, process):
        """What it has printed, once it has ended well."""
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0 and err == "", (process.returncode, out, err)
        return out

    def wait_for_door(self, line):
        """Until a server can be taken over, where a command wants that."""
        door = os.path.join(self.directory, "run", "gearmand.pid.takeover")
        return "--takeover" not in line or wait_until(lambda: os.path.exists(door), "it can be taken over")

    def workers(self, function, count=1):
        try:
            wait_until(lambda: status(self.server()).get(function, (0, 0, 0))[2] >= count, "%d workers of %s" % (count, function))
        except AssertionError:
            with Wire(self.server()) as wire:
                raise AssertionError(wire.table("workers")) from None

    def does(self, function, workload):
        """What a client sees of a job: pairs of a packet's type and its arguments after the handle."""
        events = []
        with Wire(self.server()) as wire:
            wire.send(26, b"exceptions")
            wire.receive()
            wire.submit(function, workload)
            while not events or events[-1][0] not in (WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION):
                kind, body = wire.receive()
                events.append((kind, body.split(b"\0", 1)[1] if b"\0" in body else b""))
        return events

    def stop(self, process):
        """Have a worker stop as `handle_signals` promises, or as a program without it does."""
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode in (0, -signal.SIGTERM)
        return process.returncode


@pytest.fixture
def stage(tmp_path):
    with Stage(tmp_path) as stage:
        yield stage


def reverse(wire, handle, workload):
    return workload[::-1]


def resize(wire, handle, workload):
    wire.send(WORK_STATUS, handle, b"1", b"2")
    return b""


CREW = {b"reverse": reverse, b"reverse_string": reverse, b"resize": resize}


def said(text):
    """What the comments behind a text's prints say."""
    return re.findall(r"(?m)^\s*print\(.*\)\s+# (.*)$", text)


def client(stage, text, *, prints=None, beside=None):
    """An example that ends: with the crew on all servers that it names, and another example as the worker.

    `prints`: everything, where the comments do not say it.
    """
    if beside is not None:
        worker = stage.start_python(readme_example(beside), "beside.py")
        wait_until(lambda: status(stage.server()), "the other example works")
    else:
        stage.staged(text)
        for port in list(stage.addresses):
            stage.crew(CREW, port)
    printed = stage.finished(stage.start_python(text)).splitlines()
    if prints is not None:
        assert printed == prints
    assert [line for line in printed if line in said(text)] == said(text), printed
    if beside is not None:
        stage.stop(worker)
    return printed


def worker(stage, text, function, jobs, *, count=1, status=-signal.SIGTERM):
    """An example that works until it is ended: `jobs` are workloads, and what comes of them."""
    process = stage.start_python(text)
    stage.workers(function, count)
    for workload, events in jobs.items():
        assert stage.does(function.encode(), workload) == events
    assert stage.stop(process) == status


REVERSES = {b"stressed": [(WORK_COMPLETE, b"desserts")]}

# -- the Python ones -----------------------------------------------------------------


def run_server(stage, text):
    stage.finished(stage.start_python(text + "\nassert port and handle.startswith('H:')\n"))


def run_many_jobs(stage, text):
    printed = client(stage, text)
    assert sorted(line.split()[1] for line in printed) == ["b'desserts'", "b'evil'", "b'reward'"]
    assert all(line.startswith("H:") for line in printed)


def run_split(stage, text):
    splits = [(WORK_DATA, b"a"), (WORK_STATUS, b"1\0002"), (WORK_DATA, b"b"), (WORK_STATUS, b"2\0002"), (WORK_COMPLETE, b"2 words")]
    worker(stage, text, "split", {b"a b": splits, b"": [(WORK_FAIL, b"")]})


def run_split_client(stage, text):
    updates = ["data b'one'", "status (1, 2)", "data b'two'", "status (2, 2)"]
    prints = ["b'one'", "b'two'", *updates, "b'2 words'"]
    client(stage, text, prints=prints, beside="Data, warnings and status, as they arrive")


def run_background(stage, text):
    printed = client(stage, text)
    assert printed[1:] == ["True"]
    assert re.match(r"(True|False) (True|False) \d \d$", printed[0])
    # The delayed one is there still.
    assert status(stage.server())["resize"][:2] == (1, 0)


def run_kept_result(stage, text):
    with Wire(stage.server()) as wire:
        wire.table("policy reverse keep_s=60")
    client(stage, text, prints=["b'desserts'", "b'desserts'"])


def run_admin(stage, text):
    with Wire(stage.server()) as wire:
        wire.submit(b"resize", b"cat.jpg", kind=SUBMIT_JOB_BG)
        printed = stage.finished(stage.start_python(text)).splitlines()
        assert printed == ["resize 1 0 0", "True"]
        for _ in range(1000):
            wire.submit(b"resize", b"cat.jpg", kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB_BG, b"resize", b"", b"cat.jpg")
        assert b"QUEUE_ERROR" in wire.receive()[1]


def run_test(stage, text):
    stage.finished(stage.start_python(text + "\ntest_reverse()\n"))


def run_compat_docstring(stage, text):
    client(stage, text, prints=["COMPLETE b'desserts'"])


def run_admin_docstring(stage, text):
    with Wire(stage.server()) as wire:
        wire.submit(b"resize", b"cat.jpg", kind=SUBMIT_JOB_BG)
        assert stage.finished(stage.start_python(text)) == "resize 1 0 0\n"


def run_tasks_module(stage, text):
    stage.file("tasks.py", text)
    check = "import tasks, types\nassert tasks.upper(types.SimpleNamespace(workload=b'a')) == b'A'\n"
    stage.finished(stage.start_python(check))


def run_json_worker(stage, text):
    events = [(WORK_COMPLETE, b'{"sum":6}')]
    worker(stage, text, "add", {json.dumps({"numbers": [1, 2, 3]}).encode(): events})


def run_over_tls(stage, text):
    """With the certificates of the other example, and a server that demands them."""
    run_certificates(stage, readme_example("TLS, and local sockets 2"))
    path = lambda name: os.path.join(stage.directory, name)
    files = {"ssl_certificate": path("server.pem"), "ssl_key": path("server.key"), "ssl_ca_file": path("ca.pem")}
    with Server(port=0, ssl=True, **files) as server:
        stage.addresses["4731"] = server.address
        worker = Worker(server.address, tls=Tls(path("ca.pem"), path("client.pem"), path("client.key")))
        worker.register("reverse", lambda job: job.workload[::-1])
        with worker:
            assert stage.finished(stage.start_python(text)).splitlines() == said(text)


TASK_SET_PRINTS = [repr("The string to reverse".encode()[::-1])]

RUNS = {
    "The server inside a Python program": run_server,
    "Client": client,
    "Worker": lambda stage, text: worker(stage, text, "reverse", REVERSES),
    "Many jobs at once": run_many_jobs,
    "Data, warnings and status, as they arrive": run_split,
    "Data, warnings and status, as they arrive 2": run_split_client,
    "Background jobs": run_background,
    "Background jobs 2": run_kept_result,
    "Task sets": lambda stage, text: client(stage, text, prints=TASK_SET_PRINTS),
    "Objects instead of bytes": run_json_worker,
    "Objects instead of bytes 2": lambda stage, text: client(stage, text, beside="Objects instead of bytes"),
    "Several servers, and retries": client,
    "Workers in threads and processes": lambda stage, text: worker(stage, text, "reverse", REVERSES, count=8, status=0),
    "Workers in threads and processes 2": run_tasks_module,
    "Over TLS": run_over_tls,
    "Administration": run_admin,
    "In a test": run_test,
    "From python-gearman": client,
    "admin.py": run_admin_docstring,
    "client.py": lambda stage, text: client(stage, text, prints=["b'desserts'"]),
    "compat.py": run_compat_docstring,
    "server.py": lambda stage, text: run_test(stage, "from gearmand import *\n" + text + "\ndef test_reverse(): assert port"),
    "tasks.py": lambda stage, text: client(stage, text, prints=TASK_SET_PRINTS),
    "worker.py": lambda stage, text: worker(stage, text, "reverse", REVERSES),
}


@pytest.mark.parametrize("example", PYTHON, ids=lambda example: example.where)
def test_python_example_runs(stage, example):
    assert example.where in RUNS, "say in RUNS how it is run:\n%s" % example.text
    RUNS[example.where](stage, example.text)


def test_python_examples_are_all_there():
    assert set(RUNS) == {example.where for example in PYTHON}


def test_task_set_of_the_readme_is_that_of_the_docstring():
    (docstring,) = [example.text for example in DOCSTRINGS if example.where == "tasks.py"]
    assert docstring == readme_example("Task sets")


# -- the others ------------------------------------------------------------------------


def run_server_in_the_foreground(stage, text):
    stage.environment["GEARMAND_PORT"] = "0"
    process = stage.start_shell("exec " + text)
    lines = [process.stderr.readline()]
    while " listens on " not in lines[-1]:
        assert lines[-1], lines
        lines.append(process.stderr.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


# Instead of a pause that a busy machine's server may need longer than.
UNTIL_IT_LISTENS = "until (exec 3<>/dev/tcp/127.0.0.1/$GEARMAND_PORT) 2>/dev/null; do sleep 0.05; done"


def run_first_job(stage, text):
    assert text.count("sleep 1") == 1
    text = text.replace("sleep 1", UNTIL_IT_LISTENS)
    _, port = free_address()
    stage.environment.update(GEARMAND_PORT=str(port), GEARMAN_SERVERS="127.0.0.1:%d" % port)
    out, err = stage.start_shell(text).communicate(timeout=DEADLINE_S)
    lines = read("README.md").count("\n")
    assert [line.split() for line in out.splitlines()] == [[str(lines)], ["wc", "0", "0", "1"], ["."]], (out, err)


def run_packet_by_hand(stage, text):
    out = stage.finished(stage.start_shell(stage.staged(text)))
    assert "R   E   S  \\0  \\0  \\0  \\b" in out
    assert re.search(r"(?m)^wc\t1\t0\t0$", out)


def run_lines_of_recurring_jobs(stage, text):
    with Server(port=0) as server, Wire(server.address) as wire:
        for line in text.splitlines():
            if line == "recurring":
                assert [row.split("\t")[0] for row in wire.table(line)] == ["nightly-report", "sweep"]
            else:
                assert wire.ask(line) == "OK"


def run_gearadmin_recurring(stage, text):
    stage.crew({b"cleanup": reverse})
    setting, listing, removing = text.splitlines()
    assert stage.finished(stage.start_shell(setting)) == "OK\n"
    (row,) = json.loads(stage.finished(stage.start_shell(listing)))["recurring"]
    assert (row["cron"], row["priority"], row["beginning"]) == ("*/15 * * * *", "low", "all of it")
    assert stage.finished(stage.start_shell(removing)) == "OK\n"


def run_worker_of_a_module(stage, text):
    stage.file("tasks.py", readme_example("Workers in threads and processes 2"))
    process = stage.start_shell("exec " + stage.staged(text))
    stage.workers("upper", 8)
    assert stage.does(b"upper", b"a") == [(WORK_COMPLETE, b"A")]
    assert stage.does(b"reverse", b"ab") == [(WORK_COMPLETE, b"ba")]
    assert stage.stop(process) == 0


def run_gearman(stage, text):
    done = []
    stage.crew({b"wc": lambda wire, handle, workload: done.append(workload) or b"1"})
    assert stage.finished(stage.start_shell(text)) == "done\n"
    assert done == [b"some text"]


def run_gearadmin(stage, text):
    stage.crew({b"wc": reverse})
    shown = json.loads(stage.finished(stage.start_shell(text)))
    assert shown["status"] == [{"function": "wc", "total": 0, "running": 0, "workers": 1, "queued": 0}]


def run_server_with_a_queue(stage, text):
    directory = "/var/lib/gearman/"
    assert directory in text
    run_server_in_the_foreground(stage, text.replace(directory, stage.directory + "/"))
    assert os.path.getsize(os.path.join(stage.directory, "queue.db"))


def run_gearadmin_top(stage, text):
    stage.crew({b"wc": reverse})
    screens = stage.finished(stage.start_shell(text)).split("\n\n")
    assert [screen.splitlines()[2].split()[:4] for screen in screens[:2]] == 2 * [["wc", "0", "0", "1"]] and screens[2:] == [""]


def run_server_with_a_list(stage, text):
    """With a port of its own, on this machine alone; and then a client with the token that the example made."""
    assert "/etc/gearmand.acl" in text
    _, port = free_address()
    stage.environment["GEARMAND_PORT"] = str(port)
    text = text.replace("/etc/", stage.directory + "/").replace("--acl", "--listen 127.0.0.1 --acl")
    process = stage.start_shell(text.replace("python3", 'echo "$token"\nexec python3'))
    stage.file("token", process.stdout.readline())
    while " listens on " not in process.stderr.readline():
        assert process.poll() is None
    gearman = "gearman -h 127.0.0.1:%d -b -f %%s x" % port
    stage.finished(stage.start_shell(gearman % "thumb-1" + " --token-file token"))
    stage.finished(stage.start_shell("! " + gearman % "thumb-1" + " 2>&1"))
    stage.finished(stage.start_shell("! " + gearman % "other" + " --token-file token 2>&1"))
    assert stage.finished(stage.start_shell("gearadmin -h 127.0.0.1:%d --status" % port)).startswith("thumb-1\t1")


def run_check_of_arguments(stage, text):
    """Servers that are not there: the command line is read, and no more."""
    stage.finished(stage.start_shell(re.sub(r"(?m)$(?<=.)", " --check-args", text)))


def run_certificates(stage, text):
    found = shutil.which("openssl") and subprocess.run(["openssl", "version"], stdout=subprocess.PIPE, universal_newlines=True).stdout
    if not found or not re.match(r"OpenSSL [3-9]", found):
        pytest.skip("there is no openssl 3: %s" % found)
    process = stage.start_shell(text + "openssl verify -CAfile ca.pem server.pem client.pem\n")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0 and out == "server.pem: OK\nclient.pem: OK\n", (out, err)


def run_bench(stage, text):
    """With one load of few jobs, so that it takes no minutes."""
    shorter = " --runs 1 --servers this --loads 'echo -n 50'"
    assert "jobs/s" in stage.finished(stage.start_shell(re.sub(r"(?m)\s+#.*$", shorter, text)))
    with open(os.path.join(stage.directory, "bench.json")) as file:
        assert json.load(file)["results"][0]["rate"] > 0


def run_http(stage, text):
    """With ports of its own, on this machine alone, and a worker for the job."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    start, *asked = text.splitlines()
    (_, port), (_, http_port) = free_address(), free_address()
    stage.environment["GEARMAND_PORT"] = str(port)
    process = stage.start_shell("exec %s --listen 127.0.0.1" % re.sub(r"\s+#.*", "", start).replace("8080", str(http_port)))
    while " listens on " not in process.stderr.readline():
        assert process.poll() is None
    worker = Worker("127.0.0.1:%d" % port)
    worker.register("wc", lambda job: b"%d" % len(job.workload))
    with worker:
        job, functions, metrics = [stage.finished(stage.start_shell(re.sub(r"\s+#.*", " -sS", line).replace("8080", str(http_port)))) for line in asked]
    assert job == "9"
    assert json.loads(functions)["functions"][0]["function"] == "wc"
    assert 'gearmand_jobs_completed_total{function="wc"} 1' in metrics


def run_zip_archive(stage, text):
    """Made of this checkout, in a directory of its own."""
    making, running = text.rsplit("\n", 2)[:2]
    stage.finished(stage.start_shell(making.replace("gearmand ", ROOT + "/gearmand ").replace("gearmand/__main__", ROOT + "/gearmand/__main__")))
    run_server_in_the_foreground(stage, running)


def run_gearadmin_steering(stage, text):
    stage.crew({b"resize": reverse})
    for line in text.splitlines():
        assert "most_running\t8\n" in stage.finished(stage.start_shell(line))


def run_takeover(stage, text):
    _, port = free_address()
    stage.environment["GEARMAND_PORT"] = str(port)
    os.mkdir(os.path.join(stage.directory, "run"))
    for directory, ours in (("/run/gearmand/", "/run/"), ("/var/lib/gearmand/", "/")):
        assert directory in text
        text = text.replace(directory, stage.directory + ours)
    first, second = (stage.start_shell("exec python3 -m " + line) for line in text.splitlines() if stage.wait_for_door(line))
    first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 0 and second.poll() is None


SHELL_RUNS = {
    "As a service": run_zip_archive,
    "A new version without a gap": run_takeover,
    "HTTP, metrics": run_http,
    "Two commands": run_server_in_the_foreground,
    "A queue that survives": run_server_with_a_queue,
    "A queue that survives 2": run_check_of_arguments,
    "TLS, and local sockets": run_check_of_arguments,
    "TLS, and local sockets 2": run_certificates,
    "Who may do what": run_server_with_a_list,
    "A first job": run_first_job,
    # With ours under the names of the C tools; those themselves run in tests/interop.
    "A first job 2": run_first_job,
    "A first job 3": run_packet_by_hand,
    "Steering": run_gearadmin_steering,
    "Recurring jobs": run_lines_of_recurring_jobs,
    "Recurring jobs 2": run_gearadmin_recurring,
    "Workers in threads and processes 3": run_worker_of_a_module,
    "The commands gearman and gearadmin": run_gearman,
    "The commands gearman and gearadmin 2": run_gearadmin,
    "The commands gearman and gearadmin 3": run_gearadmin_top,
    "Speed": run_bench,
}

NOT_RUN = {
    "The log": "a line of the log",
    "Two commands 2": "it would run these tests",
    "In place of the C gearmand": "a unit of systemd, and needs a system that runs it",
}


@pytest.mark.parametrize("example", SHELL, ids=lambda example: example.where)
def test_shell_example_runs(stage, example):
    if example.where in NOT_RUN:
        return
    assert example.where in SHELL_RUNS, "say in SHELL_RUNS how it is run, or in NOT_RUN why not:\n%s" % example.text
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    SHELL_RUNS[example.where](stage, example.text)


@pytest.mark.parametrize("name", ["gearman", "gearadmin"])
def test_command_runs_as_a_module(stage, name):
    assert stage.finished(stage.start_shell("python3 -m gearmand.%s --version" % name)).startswith(name)


def test_shell_examples_are_all_there():
    assert not set(SHELL_RUNS) & set(NOT_RUN)
    assert set(SHELL_RUNS) | set(NOT_RUN) == {example.where for example in SHELL}


# -- the finding itself ------------------------------------------------------------------


def test_blocks_of_a_document_are_found_with_their_headings():
    text = "# A\n\ntext\n\n    one\n\n    two\n\n## B\n```python\nx = 1\n\n    y\n```\n```\nz\n```\n"
    assert list(numbered(in_readme(text))) == [
        ("A", "indented", "one\n\ntwo\n"),
        ("B", "python", "x = 1\n\n    y\n"),
        ("B 2", "none", "z\n"),
    ]


def test_blocks_of_a_docstring_are_found_where_they_are_python():
    text = "One.\n\n    from gearmand import (\n\nTwo\n\n    a ──▶ b\n    left   right\n\nThree\n\n    f(x)\n\n    g\n"
    assert list(in_docstring(text)) == ["from gearmand import (\n", "f(x)\n\ng\n"]


def test_examples_of_the_package_are_found_where_a_search_finds_them():
    naming = set()
    for name in os.listdir(PACKAGE):
        if name.endswith(".py") and re.search(r"(?m)^ {4,}(from gearmand import [A-Z]|from gearmand import compat)", read("gearmand/" + name)):
            naming.add(name)
    assert naming - {"__init__.py"} <= {example.where for example in DOCSTRINGS}


def test_no_example_takes_the_server_s_own_port(stage):
    for example in PYTHON:
        assert not re.search(r"\b4730\b", stage.staged(example.text))
    assert all(address[1] != 4730 for address in stage.addresses.values())
