"""A server, and the foreign peers of one test."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foreign import Processes
from gearmand import Server
from peers import c_server


@pytest.fixture
def server(request, tmp_path):
    """This server; where a test's parameter says so, a C server."""
    if getattr(request, "param", "gearmand") == "c-server":
        with c_server(tmp_path) as address:
            yield SimpleNamespace(address=address)
    else:
        with Server(port=0) as server:
            yield server


@pytest.fixture
def processes(server, tmp_path):
    processes = Processes(server.address, str(tmp_path))
    yield processes
    processes.end()
