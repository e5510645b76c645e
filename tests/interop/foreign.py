"""Foreign clients and workers as processes, and our own, each behind the same small face."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from wire import DEADLINE_S, wait_for_workers

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

FOREIGN = ("c", "perl", "php", "gear", "gearman3")
NODE = {"node": "gearman", "node-gearman": "node-gearman"}
"""Workers alone; and of which package."""
OURS = ("library", "command")


def _succeeds(command):
    try:
        return subprocess.run(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    except OSError:
        return False


def _missing(kind):
    """What to install for a kind of peer; `None`: it is there."""
    if kind == "c":
        if not (shutil.which("gearman") and shutil.which("gearadmin")):
            return "no gearman or gearadmin on the path: install Debian's gearman-tools"
    elif kind == "perl":
        if not _succeeds(["perl", "-MGearman::Client", "-MGearman::Worker", "-e1"]):
            return "no Gearman::Client for perl: install Debian's libgearman-client-perl"
    elif kind == "php":
        if not _succeeds(["php", "-r", "new GearmanClient(); new GearmanWorker();"]):
            return "no GearmanClient for php: install Debian's php-cli and php-gearman"
    elif kind == "gear":
        if not _succeeds([gear_python(), "-c", "import gear; gear.Worker"]):
            return "no gear: pip install gear, and name its interpreter in GEARMAND_TEST_GEAR_PYTHON"
    elif kind == "gearman3":
        if not gearman3_python():
            return "no gearman3: pip install gearman3 for Python 3.8 and name that in GEARMAND_TEST_GEARMAN3_PYTHON"
        if not _succeeds([gearman3_python(), "-c", "import gearman; gearman.GearmanWorker"]):
            return "GEARMAND_TEST_GEARMAN3_PYTHON does not have gearman3: pip install gearman3 for Python 3.8"
    elif kind in NODE:
        if not _succeeds(["node", "-e", "0"]):
            return "no node on the path: install Node.js, and npm"
        if not _succeeds(["node", "-e", "require(%r)" % NODE[kind]]):
            return "no %s for node: npm install it, and name its node_modules in GEARMAND_TEST_NODE_MODULES" % NODE[kind]
    return None


def gear_python():
    return os.environ.get("GEARMAND_TEST_GEAR_PYTHON") or sys.executable


def gearman3_python():
    return os.environ.get("GEARMAND_TEST_GEARMAN3_PYTHON")


def _environment():
    """Of a foreign process: our own ones are found without being installed."""
    modules = os.environ.get("GEARMAND_TEST_NODE_MODULES") or os.path.join(ROOT, ".venv-peer-node", "node_modules")
    return {**os.environ, "PYTHONPATH": ROOT, "NODE_PATH": modules}


_known_missing = {}


def require(kind):
    if os.environ.get("GEARMAND_TEST_WITHOUT_PEERS") and kind not in OURS:
        pytest.skip("without foreign peers, as GEARMAND_TEST_WITHOUT_PEERS says")
    if kind not in _known_missing:
        _known_missing[kind] = _missing(kind)
    if _known_missing[kind]:
        pytest.skip(_known_missing[kind])


def _script(kind, role):
    command = {
        "perl": ["perl", "%s/perl_%s.pl"],
        "php": ["php", "%s/php_%s.php"],
        "gear": [gear_python(), "%s/gear_%s.py"],
        "gearman3": [gearman3_python(), "%s/gearman3_%s.py"],
        "library": [sys.executable, "%s/library_%s.py"],
        "node": ["node", "%s/node_%s.js"],
        "node-gearman": ["node", "%s/node_gearman_%s.js"],
    }[kind]
    return [command[0], command[1] % (PEERS, role)]


_GEARMAN = {"c": ["gearman"], "command": [sys.executable, "-m", "gearmand.gearman"]}
_PRIORITY = {"high": ["-I"], "low": ["-L"], "normal": [], "background": ["-b"]}
_UNTIL = 'file=$(cat); while [ ! -e "$file" ]; do sleep 0.02; done; printf done'
_COMMANDS = {"upper": ["tr", "a-z", "A-Z"], "fail": ["false"], "wc": ["wc", "-l"], "until": ["sh", "-c", _UNTIL]}


class Processes:
    """Starts foreign peers of one server and ends them, by pid, with the test."""

    def __init__(self, address, directory):
        self.host, self.port = address[0], str(address[1])
        self.address = address
        # The C tools complain by the megabyte once the server has gone.
        self._errors = open(os.path.join(directory, "stderr"), "w+")
        self._running = []
        self._environment = _environment()

    def start(self, command):
        process = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors
        )
        self._running.append(process)
        return process

    def worker(self, kind, *functions):
        """A worker of these functions, known to the server on return."""
        require(kind)
        if kind in _GEARMAN:
            for function in functions:
                self.start([*self._gearman(kind), "-w", "-f", function, "--", *_COMMANDS[function]])
        else:
            self.start(_script(kind, "worker") + [self.host, self.port])
        for function in functions:
            wait_for_workers(self.address, function)

    def client(self, kind, mode, function, workload):
        """What a client sees of one job: a list of (event, data)."""
        require(kind)
        if kind in _GEARMAN:
            return self._gearman_client(kind, mode, function, workload)
        done = self.run(_script(kind, "client") + [self.host, self.port, mode, function], workload)
        assert done.returncode == 0, (done, self.errors())
        events = [line.split(" ", 1) for line in done.stdout.decode().splitlines()]
        plain = ("STATUS", "CREATED", "KNOWN")
        return [(e[0], "" if len(e) < 2 else e[1] if e[0] in plain else bytes.fromhex(e[1])) for e in events]

    def _gearman(self, kind):
        return [*_GEARMAN[kind], "-h", self.host, "-p", self.port]

    def _gearman_client(self, kind, mode, function, workload):
        """The C tool, or our command of the same name."""
        done = self.run([*self._gearman(kind), "-f", function, *_PRIORITY[mode]], workload)
        if done.returncode:
            return [("FAIL", "")]
        return [] if mode == "background" else [("COMPLETE", done.stdout)]

    def run(self, command, workload=b""):
        return subprocess.run(
            command, env=self._environment, input=workload, stdout=subprocess.PIPE, stderr=self._errors, timeout=DEADLINE_S + 5
        )

    def errors(self):
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read(4000)

    def end(self):
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait(DEADLINE_S)
        self._errors.close()
