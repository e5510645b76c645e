"""Unix-domain sockets: server, library and commands."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest

from gearmand import Admin, Client, ConfigError, JobLost, Server, ServerLost, Worker
from gearmand.socket_file import SocketFile
from wire import DEADLINE_S, ECHO_REQ, ECHO_RES, SUBMIT_JOB_BG, WORK_COMPLETE, WORK_DATA, Wire, packet, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "g.sock")


@pytest.fixture
def server(path):
    with Server(listen=["unix:" + path]) as server:
        yield server


class Local(Wire):
    """A Wire to a Unix-domain socket."""

    def __init__(self, path, timeout_s=DEADLINE_S):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)
        self.buffer = b""


def reverse(job):
    return job.workload[::-1]


# -- the server ----------------------------------------------------------------------


def test_server_on_a_unix_socket_alone_opens_no_port(server, path):
    assert server.addresses == ["unix:" + path] and server.address == "unix:" + path


def test_server_on_a_unix_socket_and_a_port_shares_its_jobs(path):
    with Server(port=0, listen=["unix:" + path, "127.0.0.1"]) as server:
        assert server.addresses[1] == "unix:" + path
        with Wire(server.address) as client, Local(path) as worker:
            worker.can_do(b"f")
            handle = client.submit(b"f", b"work")
            assert worker.grab() == (handle, b"f", b"work")
            worker.send(WORK_COMPLETE, handle, b"done")
            assert client.expect(WORK_COMPLETE) == [handle, b"done"]


def test_admin_tables_show_the_process_of_a_local_peer(server, path):
    me = "unix:%d" % os.getpid()
    with Local(path) as worker, Admin(server.address) as admin:
        worker.can_do(b"f")
        assert [(row.address, row.functions) for row in admin.workers()] == [(me, []), (me, ["f"])]
        assert [row.address for row in admin.clients()] == [me, me]


def test_large_packets_cross_a_unix_socket(server, path):
    data = os.urandom(3 * 1024 * 1024)
    with Local(path) as peer:
        threading.Thread(target=peer.send, args=(ECHO_REQ, data)).start()
        assert peer.receive() == (ECHO_RES, data)


def test_peer_that_has_said_its_last_word_gets_its_answers(server, path):
    with Local(path) as peer:
        peer.send(ECHO_REQ, b"x" * 1000000)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.receive() == (ECHO_RES, b"x" * 1000000)
        assert peer.is_closed()


def test_peer_that_never_reads_is_closed_after_unread_timeout(path):
    with Server(listen=["unix:" + path], unread_timeout=0.3) as server, Local(path) as client, Local(path) as worker:
        worker.can_do(b"f")
        client.submit(b"f")
        handle = worker.grab()[0]
        for _ in range(100):
            worker.send(WORK_DATA, handle, b"x" * 65536)
        worker.echo()
        wait_until(lambda: server.connections == 1, "the one that does not read is gone")


def test_peer_silent_in_the_middle_of_a_packet_is_closed(path):
    with Server(listen=["unix:" + path], partial_timeout=0.2), Local(path) as peer:
        peer.send_raw(packet(ECHO_REQ, b"x" * 100)[:50])
        assert peer.is_closed()


# -- its file ------------------------------------------------------------------------


def mode_of(path):
    found = os.lstat(path)
    assert stat.S_ISSOCK(found.st_mode)
    return stat.S_IMODE(found.st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", ["0600", "0660", "666"])
def test_file_has_the_mode_whatever_the_umask(path, mode, umask):
    before = os.umask(umask)
    try:
        with Server(listen=["unix:" + path], unix_mode=mode):
            assert mode_of(path) == int(mode, 8)
    finally:
        os.umask(before)


def test_file_is_open_to_its_owner_alone_by_default(server, path):
    assert mode_of(path) == 0o600


def test_file_has_the_group(path):
    import grp

    group = grp.getgrgid(os.getgid()).gr_name
    with Server(listen=["unix:" + path], unix_group=group):
        assert os.lstat(path).st_gid == os.getgid()
    with pytest.raises(ConfigError, match="--unix-group: there is no group 'nobody of that name'"):
        Server(listen=["unix:" + path], unix_group="nobody of that name")


def test_file_is_removed_when_the_server_stops(server, path):
    server.stop()
    assert not os.path.lexists(path)


def test_file_is_removed_at_the_beginning_of_a_graceful_stop(server, path):
    with Local(path) as worker:
        worker.can_do(b"f")
        server.submit("f", background=True)
        handle = worker.grab()[0]
        stop = threading.Thread(target=server.stop, kwargs={"graceful": True})
        stop.start()
        wait_until(lambda: not os.path.lexists(path), "the file is gone")
        worker.send(WORK_COMPLETE, handle, b"")
        stop.join(DEADLINE_S)
        assert not stop.is_alive()


def test_file_of_another_is_not_removed(server, path):
    os.unlink(path)
    with open(path, "w"):
        pass
    server.stop()
    assert os.path.exists(path)


def test_file_that_a_killed_server_has_left_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with Server(listen=["unix:" + path]), Local(path) as peer:
        peer.echo()


def test_socket_at_which_somebody_answers_is_left_alone(server, path):
    with pytest.raises(ConfigError, match="cannot listen on unix:%s: a server answers there" % path):
        Server(listen=["unix:" + path])
    with Local(path) as peer:
        peer.echo()


@contextlib.contextmanager
def full_backlog(path):
    """A server there that accepts nobody."""
    with contextlib.ExitStack() as stack:
        busy, *callers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4)]
        busy.bind(path)
        busy.listen(0)
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(path)
        yield


def test_socket_whose_backlog_is_full_is_left_alone(path):
    with full_backlog(path):
        with pytest.raises(ConfigError, match="a server answers there"):
            Server(listen=["unix:" + path])
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory"])
def test_anything_that_is_no_socket_is_left_alone(path, kind, tmp_path):
    target = tmp_path / "target"
    if kind == "file":
        with open(path, "w"):
            pass
    elif kind == "directory":
        os.mkdir(path)
    else:
        if kind == "link":
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(target))
        os.symlink(str(target), path)
    with pytest.raises(ConfigError, match="it is no socket"):
        Server(listen=["unix:" + path])
    assert os.path.lexists(path) and target.exists() == (kind == "link")


@pytest.mark.parametrize("name, said", [("nowhere/g.sock", "No such file"), ("x" * 200, "too long")])
def test_path_that_cannot_be_is_refused(tmp_path, name, said):
    with pytest.raises(ConfigError, match="cannot listen on unix:.*%s" % said):
        Server(listen=["unix:%s/%s" % (tmp_path, name)])


def test_server_that_cannot_listen_leaves_no_file_and_no_descriptor(path, tmp_path):
    gc.collect()  # What other tests have left is not closed meanwhile.
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError):
        Server(port=0, listen=["127.0.0.1", "unix:" + path, "unix:/nonexistent/x"])
    assert not os.path.lexists(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_of_many_servers_that_find_a_stale_file_one_listens(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    servers, start = [], threading.Barrier(8)

    def begin():
        start.wait(DEADLINE_S)
        try:
            servers.append(Server(listen=["unix:" + path]))
        except ConfigError:
            pass

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(servers) == 1
    with servers[0], Local(path) as peer:
        peer.echo()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_file_is_given_to_the_user_that_the_process_becomes(path):
    with Server(listen=["unix:" + path], unix_mode="0660") as server:
        server.give_to(65534, 65534)
        found = os.lstat(path)
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65534, 0o660)


def test_file_that_somebody_has_replaced_is_not_given_away(path):
    file = SocketFile(path, 0o600, None)
    with socket.socket(socket.AF_UNIX) as sock:
        file.listen(sock, 5)
        os.unlink(path)
        os.symlink("/etc/passwd", path)
        with pytest.raises(ConfigError, match="cannot give"):
            file.give_to(os.getuid(), os.getgid())


# -- the library ---------------------------------------------------------------------


def test_client_worker_and_admin_speak_over_a_unix_socket(server):
    worker = Worker(server.address)
    worker.register("reverse", reverse)
    with worker, Client([server.address]) as client, Admin(server.address) as admin:
        assert client.run("reverse", b"abc", timeout_s=DEADLINE_S) == b"cba"
        assert client.servers == [server.address]
        assert admin.ping() < DEADLINE_S


def test_address_in_the_environment(server, monkeypatch):
    monkeypatch.setenv("GEARMAN_SERVERS", server.address)
    with Admin() as admin:
        assert admin.getpid() == os.getpid()


def test_client_of_a_socket_that_is_not_there_says_so(path):
    with pytest.raises(ServerLost, match="unix:%s: cannot connect: No such file" % path):
        Admin("unix:" + path).version()
    with Client("unix:" + path) as client, pytest.raises(JobLost, match="unix:%s" % path):
        client.run("f")


def test_client_waits_for_a_backlog_that_is_full_and_gives_up(path):
    with full_backlog(path):
        with pytest.raises(ServerLost, match="timed out"):
            Admin("unix:" + path, timeout_s=0.3).version()


def test_tls_is_not_spoken_over_a_unix_socket(server):
    with Admin(server.address, tls=True) as admin:
        assert admin.getpid() == os.getpid()


def test_fork_of_a_client_uses_a_connection_of_its_own(server):
    worker = Worker(server.address)
    worker.register("reverse", reverse)
    with worker, Client(server.address) as client:
        assert client.run("reverse", b"one", timeout_s=DEADLINE_S) == b"eno"
        child = os.fork()
        if not child:
            os._exit(0 if client.run("reverse", b"two", timeout_s=DEADLINE_S) == b"owt" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.run("reverse", b"three", timeout_s=DEADLINE_S) == b"eerht"


# -- the commands --------------------------------------------------------------------


def run(module, *words, data=b""):
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(
        [sys.executable, "-m", module, *words], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=60
    )


def test_commands_speak_over_a_unix_socket(server):
    submitted = run("gearmand.gearman", "-h", server.address, "-p", "99", "-b", "-f", "f", data=b"work")
    assert (submitted.returncode, submitted.stderr) == (0, b"")
    shown = run("gearmand.gearadmin", "-h", server.address, "--status")
    assert (shown.returncode, shown.stdout) == (0, b"f\t1\t0\t0\n.\n")
    ran = run("gearmand.gearman", "-h", server.address, "-w", "-c", "1", "-f", "f")
    assert (ran.returncode, ran.stdout) == (0, b"work")


def test_server_command_makes_the_file_says_so_and_removes_it(tmp_path):
    command = [sys.executable, "-m", "gearmand", "-L", "unix:./g.sock", "--unix-mode", "0660"]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    process = subprocess.Popen(command, cwd=str(tmp_path), env=environment, stderr=subprocess.PIPE, universal_newlines=True)
    path = str(tmp_path / "g.sock")
    try:
        assert "listens on unix:%s" % path in process.stderr.readline()
        assert mode_of(path) == 0o660
        with Local(path) as client:
            client.submit(b"f", kind=SUBMIT_JOB_BG)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
        assert os.path.lexists(path)
        process = subprocess.Popen(command, cwd=str(tmp_path), env=environment, stderr=subprocess.PIPE, universal_newlines=True)
        assert "listens on" in process.stderr.readline()
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, os.path.lexists(path)) == (0, False)
    finally:
        process.kill()
        process.communicate()
