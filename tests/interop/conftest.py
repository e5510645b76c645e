"""A server, and the foreign peers of one test."""

from __future__ import annotations

import pytest

from foreign import Processes
from gearmand import Server


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


@pytest.fixture
def processes(server, tmp_path):
    processes = Processes(server.address, str(tmp_path))
    yield processes
    processes.end()
