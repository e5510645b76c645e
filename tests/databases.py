"""Database servers of the tests' own: in a temporary directory, on a free port of 127.0.0.1, as an unprivileged user.

They do not wait for the disk, because what no test can do is to take the power from the machine; all else is as it comes.

They are made when they are first asked for and stopped when the session ends.
Where a server or its driver is not installed, whoever asks is skipped.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

import pytest

from peers import free_address
from wire import wait_until

PASSWORD = "s3cret@:/#?"
READY_S = 30.0

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *glob.glob("/usr/lib/postgresql/*/bin")])


def free_port():
    return free_address()[1]


def _state_of(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def as_nobody():
    """In the child: databases refuse to be run by root."""
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)


def state_of(pid):
    """Its state and its parent."""
    with open("/proc/%d/stat" % pid) as file:
        state, parent = file.read().rpartition(")")[2].split()[:2]
    return state, int(parent)


def runs(pid):
    try:
        return state_of(pid)[0] != "Z"
    except OSError:
        return False


def children_of(parent):
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if state_of(int(name))[1] == parent:
                children.append(int(name))
    return children


class Database:
    """One server. `kill` and `start`: as if its machine had crashed, but for what the system has not written yet."""

    kind = driver = ""
    programs = ()

    def __init__(self):
        pytest.importorskip(self.driver, reason="needs the Python package %s" % self.driver)
        self.found = {name: shutil.which(name, path=_PATH) for name in self.programs}
        for name, path in self.found.items():
            if path is None:
                pytest.skip("needs the program %s" % name)
        self.module = importlib.import_module(self.driver)
        self.directory = tempfile.mkdtemp(prefix="gearmand-%s-" % self.kind)
        if os.getuid() == 0:
            shutil.chown(self.directory, "nobody")
        self.port = free_port()
        self.process = None
        self.log = open(os.path.join(self.directory, "log"), "wb")
        self.make()
        self.start()

    def run(self, *command):
        made = subprocess.run(
            [str(word) for word in command], preexec_fn=as_nobody, cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=READY_S,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout.decode()

    def start(self):
        self.process = subprocess.Popen(
            [str(word) for word in self.command()], preexec_fn=as_nobody, cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        ends_at = time.monotonic() + READY_S
        while True:
            try:
                self.look()
                return
            except self.module.Error if hasattr(self.module, "Error") else self.module.RedisError:
                assert self.process.poll() is None and time.monotonic() < ends_at, "it does not start: " + self.text_of_log()
                time.sleep(0.02)

    def text_of_log(self):
        with open(self.log.name, "rb") as file:
            return file.read().decode("utf-8", "replace")[-2000:]

    def signal(self, number):
        """To the server and all of its processes, which PostgreSQL gives sessions of their own."""
        pids = [self.process.pid, *children_of(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            wait_until(lambda: all(_state_of(pid) in "TZ" for pid in pids), "it has stopped")
        return pids

    def kill(self):
        pids = self.signal(signal.SIGKILL)
        self.process.wait(READY_S)
        ends_at = time.monotonic() + READY_S
        while any(map(runs, pids)):
            assert time.monotonic() < ends_at, "it does not end"
            time.sleep(0.01)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, port=None, password=PASSWORD):
        return self.form % (urllib.parse.quote(password, safe=""), port or self.port)

    def make(self):
        """What is made once."""

    def command(self):
        raise NotImplementedError

    def look(self):
        """Raises the driver's exception while it does not serve."""
        raise NotImplementedError

    def cut(self):
        """End every connection but our own."""
        raise NotImplementedError


class Postgres(Database):
    kind, driver = "postgres", "psycopg"
    programs = ("initdb", "postgres")
    form = "postgresql://gear:%s@127.0.0.1:%d/postgres"

    def make(self):
        password = os.path.join(self.directory, "password")
        with open(password, "w") as file:
            file.write(PASSWORD)
        self.run(
            self.found["initdb"], "--no-sync", "-D", "data", "-U", "gear", "-A", "scram-sha-256", "--pwfile", password,
            "--no-locale", "-E", "UTF8",
        )  # fmt: skip

    def command(self):
        return [
            self.found["postgres"], "-D", "data", "-h", "127.0.0.1", "-p", self.port, "-k", self.directory, "-c", "fsync=off",
        ]  # fmt: skip

    def query(self, text, *arguments):
        with self.module.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(text, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def look(self):
        self.query("SELECT 1")

    def cut(self):
        self.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")


class Mysql(Database):
    kind, driver = "mysql", "pymysql"
    programs = ("mariadbd", "mariadb-install-db")
    form = "mysql://gear:%s@127.0.0.1:%d/gear"

    def make(self):
        self.run(
            self.found["mariadb-install-db"], "--no-defaults", "--datadir=" + os.path.join(self.directory, "data"),
            "--auth-root-authentication-method=normal", "--skip-test-db", "--tmpdir=" + self.directory,
        )  # fmt: skip
        with open(os.path.join(self.directory, "users"), "w") as file:
            file.write("CREATE DATABASE IF NOT EXISTS gear;\nCREATE USER IF NOT EXISTS gear IDENTIFIED BY '%s';\n" % PASSWORD)
            file.write("GRANT ALL ON gear.* TO gear;\n")

    def command(self):
        return [
            self.found["mariadbd"], "--no-defaults", "--datadir=" + os.path.join(self.directory, "data"),
            "--bind-address=127.0.0.1", "--port=%d" % self.port, "--socket=" + os.path.join(self.directory, "socket"),
            "--init-file=" + os.path.join(self.directory, "users"), "--innodb-buffer-pool-size=32M", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite",
            # Its own: each that starts throws away what it finds of others in /tmp.
            "--tmpdir=" + self.directory,
        ]  # fmt: skip

    def connect(self, user="gear", password=PASSWORD):
        return self.module.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, database="gear", autocommit=True, charset="utf8mb4"
        )

    def query(self, text, *arguments, **how):
        with contextlib.closing(self.connect(**how)) as connection, connection.cursor() as cursor:
            cursor.execute(text, arguments or None)
            return cursor.fetchall()

    def look(self):
        self.query("SELECT 1")

    def cut(self):
        with contextlib.closing(self.connect("root", "")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'gear'")
            for (number,) in cursor.fetchall():
                with contextlib.suppress(self.module.Error):
                    cursor.execute("KILL %d" % number)


class Redis(Database):
    kind, driver = "redis", "redis"
    programs = ("redis-server",)
    form = "redis://:%s@127.0.0.1:%d/1"

    def command(self):
        return [
            self.found["redis-server"], "--port", self.port, "--bind", "127.0.0.1", "--dir", self.directory,
            "--appendonly", "yes", "--appendfsync", "no", "--requirepass", PASSWORD, "--save", "",
        ]  # fmt: skip

    @property
    def client(self):
        return self.module.Redis(host="127.0.0.1", port=self.port, db=1, password=PASSWORD)

    def look(self):
        with contextlib.closing(self.client) as client:
            client.ping()

    def cut(self):
        with contextlib.closing(self.client) as client:
            client.client_kill_filter(_type="normal", skipme=True)


KINDS = {kind.kind: kind for kind in (Postgres, Mysql, Redis)}

_running = {}


def running(kind):
    """The server of that kind, made where it is not yet there."""
    if kind not in _running:
        _running[kind] = KINDS[kind]()
    return _running[kind]


def close_all():
    while _running:
        _running.popitem()[1].close()


_PIECE = 1 << 16


class Proxy:
    """Between a store and its database, on a port of its own: can lose an answer, refuse to connect, and rest.

    `rests_s`: how long it waits, once, after the first large piece of what is sent to the database.
    """

    def __init__(self, port):
        self._to = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0)) if hasattr(socket, "create_server") else None
        self.port = self._listening.getsockname()[1]
        self.loses_answer = threading.Event()
        self.lost = threading.Event()
        self.refuses = False
        self.rests_s = 0.0
        self.accepted = 0
        self._sockets = []
        self._threads = []
        self._start(self._accept)

    def _start(self, run, *arguments):
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                ours, _ = self._listening.accept()
            except OSError:
                return
            if self.refuses:
                ours.close()
                continue
            try:
                theirs = socket.create_connection(self._to)
            except OSError:
                ours.close()
                continue
            self.accepted += 1
            self._sockets += [ours, theirs]
            self._start(self._pass, ours, theirs, False)
            self._start(self._pass, theirs, ours, True)

    def _pass(self, source, target, is_answer):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(_PIECE)
                if not data:
                    break
                if is_answer and self.loses_answer.is_set():
                    self.loses_answer.clear()
                    self.lost.set()
                    break
                target.sendall(data)
                if not is_answer and len(data) == _PIECE:
                    rests_s, self.rests_s = self.rests_s, 0.0
                    time.sleep(rests_s)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        for each in [self._listening, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()
