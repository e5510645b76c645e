"""Debian's gearman and gearadmin against the server: every option of gearadmin, and a real file."""

import os
import re
import sysconfig

import pytest

import gearmand
from foreign import require
from wire import SUBMIT_JOB_BG, WORK_COMPLETE, Wire, wait_for_workers, wait_until


@pytest.fixture
def gearadmin(server, processes):
    require("c")

    def run(*options):
        done = processes.run(["gearadmin", "-h", processes.host, "-p", processes.port, *options])
        return done.returncode, done.stdout.decode()

    return run


@pytest.fixture
def queued(server):
    """One queued background job: its handle."""
    with Wire(server.address) as wire:
        yield wire.submit(b"print", b"data", unique=b"u-1", kind=SUBMIT_JOB_BG).decode()


def test_gearadmin_status(gearadmin, queued):
    assert gearadmin("--status") == (0, "print\t1\t0\t0\n.\n")


def test_gearadmin_priority_status(gearadmin, queued):
    assert gearadmin("--priority-status") == (0, "print\t0\t1\t0\t0\n.\n")


def test_gearadmin_workers(server, gearadmin):
    with Wire(server.address) as wire:
        wire.send(22, b"me")
        wire.can_do(b"print")
        code, lines = gearadmin("--workers")
    assert code == 0
    assert re.search(r"^\d+ 127\.0\.0\.1 me : print$", lines, re.M), lines
    assert lines.endswith("\n.\n")


def test_gearadmin_show_jobs(gearadmin, queued):
    assert gearadmin("--show-jobs") == (0, "%s\t0\t0\t1\n.\n" % queued)


def test_gearadmin_show_unique_jobs(gearadmin, queued):
    assert gearadmin("--show-unique-jobs") == (0, "u-1\n.\n")


def test_gearadmin_getpid(gearadmin):
    code, said = gearadmin("--getpid")
    assert code == 0
    assert str(os.getpid()) in said.split()


def test_gearadmin_server_version(gearadmin):
    code, said = gearadmin("--server-version")
    assert code == 0
    assert gearmand.__version__ in said.split()


def test_gearadmin_server_verbose(gearadmin):
    code, said = gearadmin("--server-verbose")
    assert code == 0
    assert "NOTICE" in said.split()


def test_gearadmin_create_function(gearadmin):
    assert gearadmin("--create-function", "made")[0] == 0
    assert gearadmin("--status") == (0, "made\t0\t0\t0\n.\n")


def test_gearadmin_drop_function(gearadmin):
    gearadmin("--create-function", "made")
    assert gearadmin("--drop-function", "made")[0] == 0
    assert gearadmin("--status") == (0, ".\n")


# It says what went wrong, and exits with 0 all the same.
def test_gearadmin_drop_of_a_function_in_use_is_refused(gearadmin, processes, queued):
    gearadmin("--drop-function", "print")
    assert "there are still connected workers or executing clients" in processes.errors()
    assert gearadmin("--status") == (0, "print\t1\t0\t0\n.\n")


def test_gearadmin_cancel_job(gearadmin, queued):
    assert gearadmin("--cancel-job", queued)[0] == 0
    assert gearadmin("--status") == (0, "print\t0\t0\t0\n.\n")


def test_gearadmin_cancel_of_an_unknown_job_is_refused(gearadmin, processes):
    gearadmin("--cancel-job", "H:nowhere:1")
    assert "UNKNOWN_JOB" in processes.errors()


_REAL_BYTES = 3 * 1024**2


def _real_file(tmp_path):
    """Some megabytes of source text: the standard library, one module after the other.

    Not all of it: the time that C's gearman takes to read what is piped to it grows with the square of that.
    """
    library = sysconfig.get_path("stdlib")
    path = str(tmp_path / "library.txt")
    lines = 0
    with open(path, "wb") as out:
        for name in sorted(os.listdir(library)):
            if name.endswith(".py"):
                with open(os.path.join(library, name), "rb") as source:
                    text = source.read()
                out.write(text)
                lines += text.count(b"\n")
                if out.tell() > _REAL_BYTES:
                    break
    return path, lines


def test_gearman_counts_the_lines_of_a_real_file(processes, tmp_path):
    path, lines = _real_file(tmp_path)
    assert os.path.getsize(path) > _REAL_BYTES
    processes.worker("c", "wc")
    with open(path, "rb") as source:
        assert processes.client("c", "normal", "wc", source.read()) == [("COMPLETE", b"%d\n" % lines)]


def test_gearman_with_a_unique_job_per_line(processes):
    processes.worker("c", "upper")
    done = processes.run(
        ["gearman", "-h", processes.host, "-p", processes.port, "-f", "upper", "-n"],
        b"".join(b"line %d\n" % number for number in range(50)),
    )
    assert done.stdout == b"".join(b"LINE %d\n" % number for number in range(50))


def test_gearman_worker_that_is_killed_gives_its_job_back(server, processes, tmp_path):
    """The first worker's command kills its worker; the next one finds the job."""
    require("c")
    common = ["gearman", "-h", processes.host, "-p", processes.port]
    killer = processes.start(common + ["-w", "-f", "wc", "--", "sh", "-c", "kill -9 $PPID; sleep 60 & kill $!"])
    wait_for_workers(server.address, "wc")
    with Wire(server.address) as client:
        client.submit(b"wc", b"a\nb\n")
        wait_until(lambda: killer.poll() is not None, "the worker died")
        processes.worker("c", "wc")
        assert client.expect(WORK_COMPLETE)[1] == b"2\n"
