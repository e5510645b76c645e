"""The abuse run ends, and each abuse leaves the server and the good client as they were. How fast is for quiet machines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from peers import free_address

pytestmark = pytest.mark.skipif("GEARMAND_TEST_WITHOUT_PEERS" in os.environ, reason="once, whatever Python the server runs on")

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts", "abuse")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="tells threads and descriptors on Linux only")
@pytest.mark.timeout(180)
def test_abuses_leave_nothing_behind():
    names = ["garbage", "oversized", "storm", "silent_tls", "flood_of_tables", "descriptors"]
    names += ["http_half_chunks", "http_never_reads", "http_jobs_left", "http_deep_json"]
    only = [word for name in names for word in ("--only", name)]
    ports = [str(free_address()[1]) for _ in range(3)]
    done = subprocess.run([sys.executable, SCRIPT, "--seconds", "0.5", "--ports", *ports, *only], stdout=subprocess.PIPE, timeout=170)
    lines = done.stdout.decode().splitlines()
    verdicts = {line.split()[0]: line.split(None, 5)[5] for line in lines[2:]}
    assert sorted(verdicts) == sorted(names)
    assert set(verdicts.values()) <= {"passed", "slow"}
    assert done.returncode == ("slow" in verdicts.values())
