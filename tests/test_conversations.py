"""Every conversation in `conversations/`, with this server and with the C server where there is one."""

import glob
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conversation import Mismatch, hold, read
from conversations.differences import DIFFERENCES
from gearmand import Server, text_commands
from gearmand.protocol import PacketType

HERE = os.path.dirname(os.path.abspath(__file__))
CONVERSATIONS = [c for path in sorted(glob.glob(os.path.join(HERE, "conversations", "*.conv"))) for c in read(path)]
NAMES = [conversation.name for conversation in CONVERSATIONS]
STEPS = [step for conversation in CONVERSATIONS for step in conversation.steps]

C_SERVER = "/usr/sbin/gearmand"
C_TIMEOUT_S = 5.0
# Where it is known to stay silent.
C_DIFFERS_TIMEOUT_S = 2.0
C_VERSION = "1.1.20"
"""The version that `DIFFERENCES` was checked against."""


# -- with this server ----------------------------------------------------------------


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=NAMES)
def test_conversation_with_this_server_goes_as_written(conversation):
    with Server(port=0, **conversation.options) as server:
        hold(conversation, server.address)


# -- with the C server ---------------------------------------------------------------


@pytest.fixture(scope="session")
def c_version():
    if not os.path.exists(C_SERVER):
        pytest.skip("there is no C server to compare with: %s (Debian: gearman-job-server)" % C_SERVER)
    found = subprocess.run([C_SERVER, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10)
    match = re.search(r"gearmand (\d+\.\d+\.\d+)", found.stdout.decode("latin-1"))
    return match.group(1) if match else "unknown"


def listens(port):
    """Asked of the system: the C server lists a connection that only tried it for a while after its end."""
    with open("/proc/net/tcp") as sockets:
        rows = [line.split() for line in sockets][1:]
    return any(row[1].endswith(":%04X" % port) and row[3] == "0A" for row in rows)


@pytest.fixture
def c_server(c_version, tmp_path):
    """Starts C servers, by a function of their options; all have ended with the test."""
    processes = []

    def start(options):
        given = ["--" + name.replace("_", "-") + ("" if v is True else "=" + v) for name, v in options.items()]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = free.getsockname()
        command = [C_SERVER, "-L", "127.0.0.1", "-p", str(address[1]), "-l", "none", "-R", "-P", str(tmp_path / "pid")]
        if os.getuid() == 0:
            command += ["-u", "root"]
        process = subprocess.Popen(command + given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        processes.append(process)
        ends_at = time.monotonic() + 10
        while not listens(address[1]):
            assert process.poll() is None and time.monotonic() < ends_at, "the C server does not start"
            os.sched_yield()
        return address

    yield start
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=NAMES)
def test_conversation_with_the_c_server_goes_as_written_where_no_difference_is_known(conversation, c_version, c_server):
    reason = DIFFERENCES.get(conversation.name)
    address = c_server(conversation.options)
    if reason is None:
        hold(conversation, address, C_TIMEOUT_S)
        return
    try:
        hold(conversation, address, C_DIFFERS_TIMEOUT_S)
    except Mismatch as mismatch:
        pytest.xfail("%s\n%s" % (reason, mismatch))
    if c_version == C_VERSION:
        pytest.fail("no difference any more; the table says: " + reason)


# -- nothing forgotten ---------------------------------------------------------------


@pytest.mark.parametrize("kind", PacketType, ids=lambda kind: kind.name)
def test_every_packet_type_is_spoken_of(kind):
    assert any(re.search(r" [CS]: (RES |eventually )?%s( |$)" % kind.name, line) for _, line, *_ in STEPS)


@pytest.mark.parametrize("name", sorted(text_commands.COMMANDS))
def test_every_command_is_given(name):
    assert any(re.search(r' C: text "(.*\\n)?%s[ \\]' % name, line) for _, line, *_ in STEPS)


def test_every_known_difference_names_a_conversation():
    assert set(DIFFERENCES) <= set(NAMES)


def test_every_conversation_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(NAMES)
