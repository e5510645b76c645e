"""What holds for every test: no thread outlives it, no exception in a thread is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# A shell that starts this in the background has INT ignored, here and in every
# process that a test starts; nohup, HUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_ENDING_S = 5.0


@pytest.fixture(autouse=True)
def threads_end_and_lose_nothing():
    """Fails the test if a thread that it started still runs, or ended with an exception."""
    lost = []
    hook = threading.excepthook
    before = set(threading.enumerate())

    def remember(arguments):
        lost.append("%s: %r" % (arguments.thread, arguments.exc_value))
        hook(arguments)

    threading.excepthook = remember
    try:
        yield
    finally:
        threading.excepthook = hook
    assert not lost, "exceptions in threads: %s" % lost
    ends_at = time.monotonic() + _ENDING_S
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, ends_at - time.monotonic()))
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left, "threads left behind: %s" % left


@pytest.fixture
def start():
    """Starts a server with options; it is stopped with the test."""
    from gearmand import Server  # Only where it is used: coverage begins before.

    servers = []

    def start(**options):
        server = Server(port=0, **options).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
