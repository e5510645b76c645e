"""Every conversation in `conversations/`, with this server and with the C server where there is one."""

import contextlib
import glob
import os
import re
import subprocess

import pytest

import peers
from conversation import Mismatch, hold, read
from conversations.differences import DIFFERENCES
from gearmand import Server, text_commands
from gearmand.protocol import PacketType

HERE = os.path.dirname(os.path.abspath(__file__))
CONVERSATIONS = [c for path in sorted(glob.glob(os.path.join(HERE, "conversations", "*.conv"))) for c in read(path)]
NAMES = [conversation.name for conversation in CONVERSATIONS]
STEPS = [step for conversation in CONVERSATIONS for step in conversation.steps]

# What is held once more where it goes otherwise: on a busy machine the C server
# answers NO_JOB to a worker that it has just woken for a job whose time was up.
C_RACES = "timeouts: "
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
    if not os.path.exists(peers.C_SERVER):
        pytest.skip("there is no C server to compare with: %s (Debian: gearman-job-server)" % peers.C_SERVER)
    found = subprocess.run([peers.C_SERVER, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10)
    match = re.search(r"gearmand (\d+\.\d+\.\d+)", found.stdout.decode("latin-1"))
    return match.group(1) if match else "unknown"


@pytest.fixture
def c_server(c_version, tmp_path):
    """Starts C servers, by a function of their options; all have ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(options):
            given = ["--" + name.replace("_", "-") + ("" if v is True else "=" + v) for name, v in options.items()]
            return stack.enter_context(peers.c_server(tmp_path, "-R", *given))

        yield start


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=NAMES)
def test_conversation_with_the_c_server_goes_as_written_where_no_difference_is_known(conversation, c_version, c_server):
    reason = DIFFERENCES.get(conversation.name)
    if reason is None:
        try:
            hold(conversation, c_server(conversation.options), C_TIMEOUT_S)
        except Mismatch:
            if not conversation.name.startswith(C_RACES):
                raise
            hold(conversation, c_server(conversation.options), C_TIMEOUT_S)
        return
    try:
        hold(conversation, c_server(conversation.options), C_DIFFERS_TIMEOUT_S)
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
