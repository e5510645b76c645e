"""Who is measured: what is installed, how it is started, which version it says it is.

A server is started anew for each run, on a port of 127.0.0.1, and killed after
it. Only processes that were started here are ended.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Dict, List, NamedTuple, Optional, Tuple

from benchmark.crew import cpu_s_of
from benchmark.links import Fault, packet
from gearmand.protocol import PacketType
from gearmand.version import VERSION

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
START_S = 20.0
ANSWER_S = 2.0
END_S = 5.0


class Server(NamedTuple):
    name: str
    command: List[str]
    """With {port} where the port belongs."""
    version: str = ""
    grab: int = int(PacketType.GRAB_JOB)
    """geard knows GRAB_JOB_UNIQ only."""


OWN = ["-m", "gearmand", "-L", "127.0.0.1", "-p", "{port}", "-l", "none"]
C_OPTIONS = ["-L", "127.0.0.1", "-p", "{port}", "-l", "stderr"]
PERL_OPTIONS = ["-L", "127.0.0.1", "-p", "{port}"]
GEARD_OPTIONS = ["-d", "--listen-address", "127.0.0.1", "-p", "{port}", "--log-config", os.path.join(HERE, "geard.conf")]
NAMES = ("this", "c", "perl", "geard", "sink")
TITLES = {"c": "C gearmand", "perl": "Gearman::Server"}


def installed() -> Dict[str, Server]:
    """By name: this server, the sink, and the peers that there are."""
    commands: Dict[str, List[str]] = {"this": [sys.executable, *OWN]}
    for path in _found("gearmand"):
        kind = _kind(path)
        if kind == "c":
            commands.setdefault("c", [path, *(["-u", "root"] if os.getuid() == 0 else []), *C_OPTIONS])
        elif kind == "perl":
            commands.setdefault("perl", [path, *PERL_OPTIONS])
    for path in _found("geard"):
        commands.setdefault("geard", [path, *GEARD_OPTIONS])
    commands["sink"] = [sys.executable, "-m", "benchmark.sink", "{port}"]
    return {name: Server(name, command) for name, command in commands.items()}


def _found(program: str) -> List[str]:
    directories = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
    found = [shutil.which(os.path.join(directory, program)) for directory in directories if directory]
    return list(dict.fromkeys(path for path in found if path))


def _kind(path: str) -> str:
    """The servers of C, Perl and Python have the same name."""
    with open(path, "rb") as file:
        beginning = file.read(100)
    first = beginning.partition(b"\n")[0]
    return "c" if beginning.startswith(b"\x7fELF") else "perl" if b"perl" in first else ""


def given(text: str) -> Server:
    """A server from NAME=COMMAND. ValueError says what is wrong."""
    name, _, line = text.partition("=")
    command = shlex.split(line)
    if not name or not command or not any("{port}" in word for word in command):
        raise ValueError("a server is NAME=COMMAND with {port} in the command, not %r" % text)
    return Server(name, command)


def introduced(server: Server, port: Optional[int] = None) -> Server:
    """With its version, and with the grab that it knows: asked of itself. Raises Fault."""
    if server.name == "sink":
        return server._replace(version="no server: shows how fast the driver is")
    with Running(server, port) as running:
        said = _ask(running.address, b"version\n")
        version = said.decode("ascii", "replace").strip().replace("OK ", "")
        if not _ask(running.address, packet(PacketType.GRAB_JOB)).startswith(packet(PacketType.NO_JOB, b"", b"\0RES")):
            server = server._replace(grab=int(PacketType.GRAB_JOB_UNIQ))
    if server.name == "this":
        version = "gearmand %s, Python %s" % (VERSION, sys.version.split()[0])
    elif version:
        version = (TITLES.get(server.name, "") + " " + version).strip()
    return server._replace(version=version or _printed_version(server.command[0]) or "of unknown version")


def _ask(address: Tuple[str, int], request: bytes) -> bytes:
    """The beginning of its answer; nothing, where it gives none."""
    try:
        with socket.create_connection(address, ANSWER_S) as asking:
            asking.sendall(request)
            return asking.recv(1000)
    except OSError:
        return b""


def _printed_version(program: str) -> str:
    try:
        ran = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.decode("utf-8", "replace").strip().partition("\n")[0]


class Running:
    """A server that runs, as a context. Raises Fault where it does not start. `port`: by default a free one."""

    def __init__(self, server: Server, port: Optional[int] = None) -> None:
        self.server = server
        self.address = _free_address() if port is None else ("127.0.0.1", port)
        self._process: Any = None
        self._output: IO[bytes] = tempfile.TemporaryFile()

    def __enter__(self) -> Running:
        command = [word.replace("{port}", str(self.address[1])) for word in self.server.command]
        paths = [ROOT, os.path.join(ROOT, "scripts"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise Fault("cannot run %s: %s" % (command[0], error)) from None
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()

    def _wait_until_it_listens(self) -> None:
        ends_at = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None:
                raise Fault("the server does not start: %s" % self.end())
            try:
                socket.create_connection(self.address, 1).close()
                return
            except OSError:
                if time.monotonic() > ends_at:
                    raise Fault("the server does not listen after %g s" % START_S) from None
            time.sleep(0.01)

    def cpu_s(self) -> Optional[float]:
        return cpu_s_of(self._process.pid)

    def end(self, patience_s: float = END_S) -> str:
        """How it ended and the last that it said; empty while it runs."""
        # A connection may end a moment before its process does, which is long on a busy machine.
        try:
            status = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return ""
        self._output.seek(0)
        lines = self._output.read()[-10000:].decode("utf-8", "replace").strip().splitlines()
        how = "killed by signal %d" % -status if status < 0 else "exit status %d" % status
        return "%s, last words: %s" % (how, lines[-1].strip()[:200]) if lines else how


def _free_address() -> Tuple[str, int]:
    """Not one that the system gives to connections: it could give it away before the server has it."""
    while True:
        address = ("127.0.0.1", random.SystemRandom().randrange(10000, 32000))
        with socket.socket() as free:
            try:
                free.bind(address)
                return address
            except OSError:
                pass
