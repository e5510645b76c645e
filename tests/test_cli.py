"""The command line as a process: what it says, when it leaves, and what it leaves behind."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from peers import free_address
from wire import status, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def command(*arguments):
    return [sys.executable, "-m", "gearmand", *arguments]


def run(*arguments, **environment):
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env={**environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=30,
    )


def free_port():
    return free_address()[1]


def answers(port):
    try:
        status(("127.0.0.1", port))
        return True
    except OSError:
        return False


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("-vvv",), "-vvv"),
        (("stray",), "stray"),
        (("--por=1",), "--por=1"),
        (("--port=99999",), "99999"),
        (("--port", "x"), "'x'"),
        (("--threads=",), "--threads"),
        (("--verbose=LOUD",), "LOUD"),
        (("--queue-type=other",), "other"),
        (("--config-file=/nonexistent/conf",), "/nonexistent/conf"),
        (("@/nonexistent/conf",), "/nonexistent/conf"),
        (("--user=no-such-user",), "no-such-user"),
        (("-p", "0", "-L", "127.0.0.1", "--pid-file=/nonexistent/pid"), "/nonexistent/pid"),
        (("-p", "0", "-L", "127.0.0.1", "--log-file=/nonexistent/log"), "/nonexistent/log"),
    ],
)
def test_wrong_argument_is_one_line_that_names_it_and_status_1(arguments, named):
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert named in done.stderr


def test_port_in_use_is_one_line_and_status_1():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("-L", "127.0.0.1", "-p", str(port))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "127.0.0.1:%d" % port in done.stderr


def test_check_args_with_an_empty_environment_does_nothing(tmp_path):
    pid_file = tmp_path / "pid"
    done = run("--check-args", "--version", "--daemon", "-j", "-1", "--pid-file=%s" % pid_file)
    assert (done.returncode, done.stdout, done.stderr, pid_file.exists()) == (0, "", "", False)


def test_config_file_gives_way_to_the_command_line(tmp_path):
    file = tmp_path / "conf"
    file.write_text("--port=70000 # too large\n--verbose\nINFO\n")
    assert run("--check-args", "@%s" % file, "--port=1").returncode == 0
    assert run("--check-args", "--config-file=%s" % file).returncode == 1


def test_port_of_the_environment_is_checked():
    done = run("--check-args", GEARMAND_PORT="much")
    assert done.returncode == 1 and "GEARMAND_PORT" in done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGUSR1, 0)])
def test_signal_ends_the_process_with_status_0(tmp_path, number, code):
    pid_file = tmp_path / "pid"
    port = free_port()
    arguments = command("-L", "127.0.0.1", "-p", str(port), "-P", str(pid_file), "-l", "none")
    process = subprocess.Popen(arguments, cwd=ROOT, env={})
    try:
        wait_until(lambda: answers(port), "the server answers")
        assert int(pid_file.read_text()) == process.pid
        process.send_signal(number)
        assert process.wait(15) == code
        assert not pid_file.exists()
    finally:
        process.kill()
        process.wait()


def test_daemon_detaches_reopens_its_log_and_stops(tmp_path):
    pid_file, log = tmp_path / "pid", tmp_path / "log"
    port = free_port()
    done = run("-d", "-L", "127.0.0.1", "-p", str(port), "-P", str(pid_file), "-l", str(log))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: answers(port), "the server answers")
    pid = int(pid_file.read_text())
    try:
        wait_until(lambda: "listens on 127.0.0.1:%d" % port in log.read_text(), "the log says so")
        log.rename(tmp_path / "old")
        os.kill(pid, signal.SIGHUP)
        wait_until(log.exists, "the log is reopened")
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pid_file.exists(), "the daemon has ended")


def test_log_that_cannot_be_reopened_goes_on_where_it_was(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    port = free_port()
    arguments = command("-L", "127.0.0.1", "-p", str(port), "-l", str(directory / "log"))
    process = subprocess.Popen(arguments, cwd=ROOT, env={})
    try:
        wait_until(lambda: answers(port), "the server answers")
        directory.rename(tmp_path / "moved")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "cannot open" in (tmp_path / "moved" / "log").read_text(), "it says so in the old log")
        assert answers(port)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_daemon_returns_when_it_serves(tmp_path):
    for number in range(5):
        pid_file = tmp_path / ("pid%d" % number)
        port = free_port()
        assert run("-d", "-L", "127.0.0.1", "-p", str(port), "-P", str(pid_file), "-l", "none").returncode == 0
        assert answers(port)
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: not pid_file.exists(), "the daemon has ended")


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", "<&-"])
def test_daemon_with_closed_standard_descriptors_serves_and_logs(tmp_path, closed):
    pid_file, log = tmp_path / "pid", tmp_path / "log"
    port = free_port()
    arguments = command("-d", "-L", "127.0.0.1", "-p", str(port), "-P", str(pid_file), "-l", str(log))
    subprocess.run(["sh", "-c", " ".join(map(str, arguments)) + " " + closed], cwd=ROOT, check=True, timeout=20)
    assert answers(port)
    wait_until(lambda: "listens" in log.read_text(), "the log says so")
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    wait_until(lambda: not pid_file.exists(), "the daemon has ended")


def test_term_ends_a_server_whose_stderr_nobody_reads(tmp_path):
    port = free_port()
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    try:
        while True:
            os.write(mouth, bytes(4096))
    except BlockingIOError:
        os.set_blocking(mouth, True)
    process = subprocess.Popen(command("-L", "127.0.0.1", "-p", str(port)), cwd=ROOT, env={}, stderr=mouth)
    try:
        wait_until(lambda: answers(port), "the server answers")
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ear)
        os.close(mouth)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_log_of_another_user_is_reopened():
    # Below pytest's own directory no other user can go.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        check_log_of_another_user(pathlib.Path(directory) / "log")


def check_log_of_another_user(log):
    port = free_port()
    arguments = command("-u", "nobody", "-L", "127.0.0.1", "-p", str(port), "-l", str(log))
    process = subprocess.Popen(arguments, cwd=ROOT, env={}, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port), "the server answers")
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(15) == 0
        assert "has stopped" in log.read_text() and "cannot open" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_pid_file_that_is_no_file_is_refused():
    done = run("-L", "127.0.0.1", "-p", str(free_port()), "-P", "/dev/null")
    assert (done.returncode, done.stderr) == (1, "gearmand: --pid-file: /dev/null is no ordinary file\n")
