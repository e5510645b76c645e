"""Files that are opened while the process may be root: modes, and links that somebody has put there."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile

import pytest

from gearmand import daemon, files
from gearmand.errors import ConfigError
from gearmand.files import PidFile
from gearmand.sqlite_store import SqliteStore
from wire import Wire, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def mode_of(path):
    return stat.S_IMODE(os.lstat(str(path)).st_mode)


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


# -- pid files ---------------------------------------------------------------------------


def test_pid_file_is_written_in_one_step_readable_and_removed(tmp_path, no_umask):
    path = tmp_path / "pid"
    file = PidFile(str(path))
    assert not path.exists()
    file.write()
    assert path.read_text() == "%d\n" % os.getpid() and mode_of(path) == 0o644
    assert os.listdir(str(tmp_path)) == ["pid"]
    file.remove()
    file.remove()
    assert os.listdir(str(tmp_path)) == []


def test_pid_file_that_was_never_written_leaves_nothing(tmp_path):
    (tmp_path / "pid").write_text("1\n")
    PidFile(str(tmp_path / "pid")).remove()
    assert os.listdir(str(tmp_path)) == ["pid"] and (tmp_path / "pid").read_text() == "1\n"


def test_pid_file_of_another_process_is_not_removed(tmp_path):
    path = tmp_path / "pid"
    file = PidFile(str(path))
    file.write()
    path.write_text("1\n")
    file.remove()
    assert path.read_text() == "1\n"


def test_pid_file_can_be_written_again_with_another_process(tmp_path):
    file = PidFile(str(tmp_path / "pid"))
    file.write()
    file.write(12)
    assert (tmp_path / "pid").read_text() == "12\n"
    file.remove()
    assert (tmp_path / "pid").read_text() == "12\n"


def test_pid_file_takes_the_place_of_a_file_with_another_name_and_leaves_that_alone(tmp_path):
    (tmp_path / "secret").write_text("secret")
    os.link(str(tmp_path / "secret"), str(tmp_path / "pid"))
    file = PidFile(str(tmp_path / "pid"))
    file.write()
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "pid").read_text() == "%d\n" % os.getpid()
    file.remove()


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "fifo", "socket"])
def test_pid_file_that_is_something_else_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "pid"
    (tmp_path / "secret").write_text("secret")
    if kind == "link":
        path.symlink_to(tmp_path / "secret")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(str(path))
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    with pytest.raises(ConfigError, match="no ordinary file"):
        PidFile(str(path))
    assert (tmp_path / "secret").read_text() == "secret" and not (tmp_path / "nowhere").exists()


def test_pid_file_with_a_link_at_its_temporary_name_does_not_follow_it(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / ("pid.%d" % os.getpid())).symlink_to(tmp_path / "secret")
    file = PidFile(str(tmp_path / "pid"))
    file.write()
    assert (tmp_path / "secret").read_text() == "secret"
    file.remove()


def run_as_nobody(code, *arguments):
    """In a directory where nobody may go, with this interpreter's modules loaded already."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            code(*arguments)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def public():
    """A directory of root's that everybody can look into: pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield directory


@needs_root
def test_pid_file_in_a_directory_of_root_is_written_where_it_stands(public):
    path = os.path.join(public, "pid")
    with open(path, "w") as file:
        file.write("something longer than a pid\n" * 3)
    os.chown(path, 65534, 65534)

    def check():
        file = PidFile(path)
        file.write()
        with open(path) as written:
            assert written.read() == "%d\n" % os.getpid()
        file.remove()

    run_as_nobody(check)
    assert os.path.exists(path)


@needs_root
def test_pid_file_that_cannot_be_made_is_refused(public):
    def check():
        with pytest.raises(ConfigError, match="cannot write"):
            PidFile(os.path.join(public, "pid"))

    run_as_nobody(check)


@needs_root
def test_pid_file_with_another_name_is_not_written_where_it_stands(public):
    path = os.path.join(public, "pid")
    for name in ("pid", "other"):
        if name == "pid":
            open(path, "w").close()
            os.chown(path, 65534, 65534)
        else:
            os.link(path, os.path.join(public, name))

    def check():
        with pytest.raises(ConfigError, match="with one name"):
            PidFile(path)

    run_as_nobody(check)


# -- logs ---------------------------------------------------------------------------------


@pytest.fixture
def theirs():
    """A directory that another user may write."""
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, 65534, 65534)
        os.chmod(directory, 0o755)
        yield directory


@needs_root
def test_log_in_anothers_directory_follows_no_link(theirs):
    path = os.path.join(theirs, "log")
    os.symlink("/nonexistent-target", path)
    with pytest.raises(OSError, match="it is a link"):
        files.open_log(path)


@needs_root
@pytest.mark.parametrize("kind", ["second name", "fifo"])
def test_log_in_anothers_directory_is_an_ordinary_file(theirs, public, kind):
    path = os.path.join(theirs, "log")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        secret = os.path.join(public, "secret")
        open(secret, "w").close()
        os.link(secret, path)
    with pytest.raises(OSError):
        files.open_log(path)


@needs_root
def test_log_in_anothers_directory_is_made_and_given(theirs):
    path = os.path.join(theirs, "log")
    with files.open_log(path) as file:
        files.give(file.fileno(), pwd.getpwnam("nobody"))
        file.write("x\n")
    assert os.stat(path).st_uid == pwd.getpwnam("nobody").pw_uid


@needs_root
def test_log_in_roots_directory_may_be_a_link(public, tmp_path):
    if not files._is_roots_alone(public):
        pytest.skip("others may write on the way to temporary directories here")
    os.symlink(str(tmp_path / "log"), os.path.join(public, "log"))
    with files.open_log(os.path.join(public, "log")) as file:
        file.write("x\n")
    assert (tmp_path / "log").read_text() == "x\n"


@needs_root
def test_queue_in_anothers_directory_is_no_link(theirs, public):
    path = os.path.join(theirs, "queue")
    os.symlink(os.path.join(public, "target"), path)
    with pytest.raises(ConfigError, match="name its target"):
        SqliteStore(path)
    assert os.listdir(public) == []


@needs_root
def test_log_with_another_name_is_not_given_away(public):
    path = os.path.join(public, "log")
    with files.open_log(path) as file:
        os.link(path, path + "2")
        files.give(file.fileno(), pwd.getpwnam("nobody"))
    assert os.stat(path).st_uid == 0


@needs_root
def test_directory_below_anothers_is_not_roots_alone(theirs, public):
    below = os.path.join(theirs, "below")
    os.mkdir(below)
    assert not files._is_roots_alone(below)
    os.chmod(public, 0o1777)
    assert not files._is_roots_alone(public)
    assert files._is_roots_alone("/")


def test_log_of_who_is_not_root_is_opened_as_always(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with files.open_log(str(tmp_path / "log")) as file:
        file.write("\udcff\n")
    assert (tmp_path / "target").read_text() == "\\udcff\n"


# -- the user ---------------------------------------------------------------------------------


@needs_root
def test_every_thread_is_the_users_before_a_byte_is_read(tmp_path):
    """What was sent before the server was there is read by the user, who is nobody's superuser."""
    trace = tmp_path / "trace"
    if subprocess.run(["strace", "-V"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("there is no strace")
    command = ["strace", "-f", "-o", str(trace), "-e", "trace=setuid,setgid,setgroups,accept,accept4,recvfrom,recvmsg,bind,listen"]
    command += [sys.executable, "-m", "gearmand", "-L", "127.0.0.1", "-p", "0", "-u", "nobody", "-l", str(tmp_path / "log")]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until(lambda: (tmp_path / "log").exists() and "listens on" in (tmp_path / "log").read_text(), "it serves")
        port = int((tmp_path / "log").read_text().split("127.0.0.1:")[1].split(";")[0])
        with Wire(("127.0.0.1", port)) as wire:
            pid = int(wire.ask("getpid").split()[1])
            for thread in os.listdir("/proc/%d/task" % pid):
                with open("/proc/%d/task/%s/status" % (pid, thread)) as file:
                    fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
                assert set(fields["Uid"].split()) == {str(pwd.getpwnam("nobody").pw_uid)}
                assert "0" not in fields["Groups"].split() and int(fields["CapEff"], 16) == 0
        os.kill(pid, signal.SIGTERM)
    finally:
        process.wait(20)
    calls = [line.split("(")[0].split()[-1] for line in trace.read_text().splitlines() if "(" in line]
    first_read = min(calls.index(name) for name in ("accept4", "recvfrom") if name in calls)
    assert calls.index("bind") < calls.index("setgroups") < calls.index("setgid") < calls.index("setuid") < first_read


@needs_root
def test_queue_of_a_server_that_becomes_another_user_is_that_users_alone(theirs):
    queue = os.path.join(theirs, "queue")
    log = os.path.join(theirs, "log")
    process = subprocess.Popen(
        [sys.executable, "-m", "gearmand", "-L", "127.0.0.1", "-p", "0", "-u", "nobody", "-l", log, "--queue", queue, "-P", os.path.join(theirs, "pid")],
        cwd=ROOT, preexec_fn=lambda: os.umask(0) and None,
    )  # fmt: skip
    try:
        wait_until(lambda: os.path.exists(log) and "listens on" in open(log).read(), "it serves")
        nobody = pwd.getpwnam("nobody").pw_uid
        for name, mode in (("queue", 0o600), ("queue-wal", 0o600), ("pid", 0o644), ("pid.takeover", 0o600)):
            found = os.lstat(os.path.join(theirs, name))
            assert stat.S_IMODE(found.st_mode) == mode, name
            assert found.st_uid == (0 if name == "pid" else nobody), name
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert sorted(os.listdir(theirs)) == ["log", "queue"]


def test_user_who_is_the_same_stays_the_same():
    daemon.become(None)
    daemon.become(pwd.getpwuid(os.getuid()))
