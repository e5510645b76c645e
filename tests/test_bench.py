"""scripts/bench: each load runs, faults of servers are reported, and what is written has the documented fields."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(ROOT, "scripts"))

from benchmark import crew, loads, picture, servers, summary  # noqa: E402
from benchmark.crew import Run  # noqa: E402
from benchmark.links import Fault  # noqa: E402
from benchmark.loads import Load  # noqa: E402
from benchmark.servers import Running, Server  # noqa: E402
from benchmark.summary import Result  # noqa: E402
from gearmand.protocol import PacketType  # noqa: E402
from peers import free_address  # noqa: E402
from wire import DEADLINE_S  # noqa: E402

pytestmark = pytest.mark.skipif("GEARMAND_TEST_WITHOUT_PEERS" in os.environ, reason="once, whatever Python the server runs on")

OWN = servers.installed()["this"]
SINK = servers.installed()["sink"]
TINY = {
    "sync": "sync -n 50",
    "sync with many": "sync -c 5 -w 3 -d 4 -n 200",
    "sync of large workloads": "sync -c 2 -w 2 -s 300000 -n 20",
    "sync of empty workloads": "sync -s 0 -n 20",
    "bg": "bg -c 2 -d 8 -n 300",
    "drain": "drain -w 3 -n 300",
    "echo": "echo -c 2 -d 8 -n 300",
    "echo of large data": "echo -d 2 -s 300000 -n 20",
    "idle": "idle -i 20 -n 50",
    "herd": "herd -i 20 -n 50",
}


@pytest.fixture(autouse=True)
def ports_of_this_run(monkeypatch):
    """So that no other run of the tests has a server there."""
    monkeypatch.setattr(servers, "_free_address", free_address)


def measured(server, load, processes=1, grab=PacketType.GRAB_JOB):
    with Running(server) as running:
        if load.mode == "drain":
            filled = crew.measure(running.address, Load("bg", depth=8, jobs=load.jobs), grab, 20, 1, running.cpu_s)
            assert filled.jobs == load.jobs
        return crew.measure(running.address, load, grab, 20, processes, running.cpu_s)


# -- loads ---------------------------------------------------------------------


@pytest.mark.parametrize("server", [OWN, SINK], ids=lambda server: server.name)
@pytest.mark.parametrize("line", TINY.values(), ids=TINY)
def test_load_of_few_jobs_is_measured(server, line):
    load = loads.parse(line)
    run = measured(server, load)
    assert run.jobs == load.jobs
    assert run.rate == pytest.approx(run.jobs / run.seconds)
    assert 0 <= run.busy_share and 0 < run.driver_us_per_job
    if load.mode == "drain":
        assert run.p50_us is None
    else:
        assert 0 < run.p50_us <= run.p99_us <= run.max_us


@pytest.mark.parametrize("line", ["sync -c 3 -w 2 -n 100", "drain -w 3 -n 300", "echo -c 3 -n 100"])
def test_several_processes_do_the_jobs_together(line):
    load = loads.parse(line)
    assert measured(OWN, load, processes=2).jobs == load.jobs


def test_grab_job_uniq_is_used_where_it_is_asked_for():
    assert measured(OWN, loads.parse("sync -n 50"), grab=PacketType.GRAB_JOB_UNIQ).jobs == 50


@pytest.mark.parametrize("line", ["sync -c 3 -w 8 -i 5 -n 100", "drain -w 5 -n 99", "bg -c 4 -n 10", "sync -n 10"])
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_add_up_to_the_load(line, processes):
    load = loads.parse(line)
    parts = crew.shares(load, processes)
    assert len(parts) <= processes
    for name in ("clients", "workers", "idle"):
        assert sum(getattr(part, name) for part in parts) == getattr(load, name)
    assert sum(part.jobs for part in parts) == load.jobs
    for part in parts:
        assert part._replace(clients=0, workers=0, idle=0, jobs=0) == load._replace(clients=0, workers=0, idle=0, jobs=0)


@pytest.mark.parametrize("line", [line for line, _, _ in loads.LOADS])
def test_load_of_the_table_is_written_as_it_is_read(line):
    load = loads.parse(line)
    assert loads.parse(str(load)) == load
    assert sorted(str(load._replace(jobs=loads.JOBS)).replace(" -n 10000", "").split()) == sorted(line.split())


def test_load_that_is_named_has_its_jobs_from_the_table():
    assert loads.named("echo -d 64,sync -n 7", quick=False) == [Load("echo", depth=64, jobs=1000000), Load("sync", jobs=7)]


@pytest.mark.parametrize("line", ["", "run", "sync -c", "sync -x 3", "sync -c none", "sync -c 0", "sync 8"])
def test_load_that_is_none_is_refused_in_words(line):
    with pytest.raises(ValueError, match="load"):
        loads.parse(line)


# -- faults ---------------------------------------------------------------------

ANSWERING = """
import socket, sys

NO_JOB = b"\\0RES\\0\\0\\0\\x0a\\0\\0\\0\\0"
FULL = b"\\0RES\\0\\0\\0\\x13\\0\\0\\0\\x0aFULL\\0it is"
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
kept = []
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    try:
        asked = connection.recv(65536)
        %s
    except OSError:
        pass
"""
WRONG = {
    "sends no packet": ("echo", "connection.sendall(b'hello, world')", "did not echo"),
    "echoes something else": ("echo", "connection.sendall(b'\\0RES\\0\\0\\0\\x11\\0\\0\\0\\x40' + b'y' * 64)", "did not echo"),
    "refuses a job with an ERROR": ("sync", "connection.sendall(NO_JOB if asked[7:8] == b'\\1' else FULL)", "ERROR 'FULL it is'"),
    "refuses with an ERROR": ("bg", "connection.sendall(FULL)", "ERROR 'FULL it is'"),
    "speaks no Gearman": ("bg", "asked and connection.sendall(b'HTTP/1.1 400 Bad Request')", "no packet: b'HTTP"),
    "gives a job that nobody asked for": ("sync", "asked and connection.sendall(b'\\0RES\\0\\0\\0\\x0b\\0\\0\\0\\x08H:1\\0f\\0yz')", "JOB_ASSIGN"),
    "closes": ("sync", "asked and connection.close()", "closed a connection|connection to the server failed"),
    "dies": ("sync", "if asked: print('out of luck'); sys.exit(3)", r"exit status 3, last words: out of luck"),
}


def serving(answer):
    return Server("other", [sys.executable, "-u", "-c", ANSWERING % answer, "{port}"])


@pytest.mark.parametrize("line, answer, expected", WRONG.values(), ids=WRONG)
def test_server_that_does_wrong_is_reported(line, answer, expected):
    with Running(serving(answer)) as running:
        with pytest.raises(Fault) as caught:
            crew.measure(running.address, loads.parse(line), PacketType.GRAB_JOB, 20, 1, running.cpu_s)
        end = running.end(DEADLINE_S if "exit status" in expected else 0)
        assert re.search(expected, "%s (%s)" % (caught.value, end))


def test_server_that_says_nothing_is_reported(monkeypatch):
    monkeypatch.setattr("benchmark.driver.SILENCE_S", 0.5)
    with Running(serving("pass")) as running:
        with pytest.raises(Fault, match="said nothing for 0.5 s, after 0 jobs"):
            crew.measure(running.address, Load("echo"), PacketType.GRAB_JOB, 20, 1, running.cpu_s)


def test_server_that_is_gone_is_reported():
    with Running(OWN) as running:
        address = running.address
    with pytest.raises(Fault, match="connection to the server failed"):
        crew.measure(address, Load("echo"), PacketType.GRAB_JOB, 20, 1, lambda: None)


@pytest.mark.parametrize(
    "command, expected",
    [
        (["/nowhere/gearmand", "{port}"], "cannot run /nowhere/gearmand"),
        ([sys.executable, "-c", "raise SystemExit('no port {port} for you')"], "does not start: exit status 1, last words: no port"),
    ],
)
def test_server_that_does_not_start_is_reported(command, expected):
    with pytest.raises(Fault, match=expected):
        Running(Server("other", command)).__enter__()


def test_run_is_stopped_when_its_time_is_over():
    with Running(OWN) as running:
        run = crew.measure(running.address, Load("echo", jobs=100000000), PacketType.GRAB_JOB, 0.3, 1, running.cpu_s)
    assert 0 < run.jobs < 100000000
    assert 0.3 <= run.seconds < 15  # All of them take minutes.


# -- figures ----------------------------------------------------------------------


def result(name, *rates, load=None, **fields):
    load = load or Load("sync", clients=8)
    run = Run(load.jobs, 1.0, 0.0, 100.0, 200.0, 300.0, 0.5, 20.0, 10.0, 0.0)._replace(**fields)
    return Result(Server(name, ["x"]), load, [run._replace(rate=float(rate)) for rate in rates])


def test_result_has_median_spread_and_ratio():
    ours, theirs = result("this", 90, 100, 130), result("c", 200)
    assert ours.rate == 100
    assert ours.spread == pytest.approx(0.4)
    assert summary.ratio(ours, [ours, theirs], "c") == 0.5
    assert summary.ratio(ours, [ours], "c") is None


@pytest.mark.parametrize(
    "ours, sink, said",
    [
        (result("this", 100), result("sink", 200), ""),
        (result("this", 100, busy_share=0.95), result("sink", 200), "it was busy 95 %"),
        (result("this", 100), result("sink", 105), "does not get more out of the sink"),
        (result("this", 100, others_share=0.5), result("sink", 105), ""),
        (result("this", 100, load=Load("sync")), result("sink", 200, load=Load("sync")), "some 20 us of each round trip"),
    ],
)
def test_figure_that_the_driver_limits_is_marked(ours, sink, said):
    marked = summary.limited_by_driver(ours, [ours, sink])
    assert bool(marked) == bool(said) and said in marked


def test_idle_workers_are_compared_with_none():
    idle = result("this", 90, load=Load("idle", idle=1000))
    assert "0.90 of its rate without idle workers" in summary.notes(idle, [idle, result("this", 100, load=Load("sync"))])


def test_machine_that_was_not_quiet_is_said():
    assert "up to 40 %" in summary.warning([result("this", 100, others_share=0.4), result("c", 100)])
    assert summary.warning([result("this", 100)]) == ""


# -- the command --------------------------------------------------------------------


def bench(*arguments):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, "scripts", "bench"), "--port", str(free_address()[1]), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=100,
    )


RESULT_FIELDS = {
    *Load._fields, "load", "server", "rate", "spread", "ratio", "p50_us", "p99_us", "p99_ratio", "server_us_per_job", "driver_us_per_job",
    "busy_share", "others_share", "driver_limited", "fault", "notes", "runs",
}  # fmt: skip


def test_bench_prints_a_table_and_writes_json(tmp_path):
    file = tmp_path / "bench.json"
    ran = bench("--runs", "2", "--servers", "this,sink", "--loads", "sync -n 50,echo -d 4 -n 100", "--json", str(file))
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("this     gearmand ") and "Python %d.%d" % sys.version_info[:2] in lines[0]
    assert [line for line in lines if line.startswith(("sync", "echo"))] == ["sync", "echo -d 4"]
    assert sum(line.startswith("  this ") for line in lines) == sum(line.startswith("  sink ") for line in lines) == 2
    written = json.loads(file.read_text())
    assert set(written) == {"format", "begun", "machine", "driver", "reference", "servers", "results"}
    assert [(one["name"], bool(one["version"])) for one in written["servers"]] == [("this", True), ("sink", True)]
    assert [(one["load"], one["server"]) for one in written["results"]] == [
        ("sync", "this"), ("sync", "sink"), ("echo -d 4", "this"), ("echo -d 4", "sink"),
    ]  # fmt: skip
    for one in written["results"]:
        assert set(one) == RESULT_FIELDS
        assert len(one["runs"]) == 2 and set(one["runs"][0]) == set(Run._fields)
        assert one["fault"] is None and one["rate"] > 0


def test_bench_goes_on_beside_a_server_that_fails(tmp_path):
    file = tmp_path / "bench.json"
    script = tmp_path / "failing"
    script.write_text(ANSWERING % "if asked.startswith(b'\\0'): sys.exit('it broke')\n        connection.close()")
    broken = "broken=%s %s {port}" % (sys.executable, script)
    ran = bench("--runs", "1", "--servers", "this", "--server", broken, "--loads", "echo -n 50", "--json", str(file))
    assert ran.returncode == 1
    assert "  this " in ran.stdout and "failed: " in ran.stdout and "it broke" in ran.stdout
    assert [one["fault"] is None for one in json.loads(file.read_text())["results"]] == [True, False]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--loads", "nothing"], "there is no load 'nothing'"),
        (["--servers", "nobody"], "there is no server 'nobody'"),
        (["--server", "name"], "NAME=COMMAND"),
        (["--runs", "0"], "above zero"),
        (["--servers", "this", "--reference", "c"], "c is not measured"),
    ],
)
def test_bench_refuses_what_it_does_not_know(arguments, expected):
    ran = bench(*arguments)
    assert ran.returncode == 2 and expected in ran.stderr


def test_picture_is_drawn(tmp_path):
    if not picture.available():
        pytest.skip("there is no matplotlib")
    file = tmp_path / "bench.png"
    picture.draw([result("this", 90, 100), result("c", 200), result("sink", 300)], str(file), "Gearman servers")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_picture_without_matplotlib_is_refused_in_words():
    if picture.available():
        pytest.skip("there is matplotlib")
    ran = bench("--picture", "bench.png")
    assert ran.returncode == 2 and "gearmand[bench]" in ran.stderr
