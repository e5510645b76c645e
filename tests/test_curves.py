"""scripts/curves: every operation is there, and none of them grows with what the server holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif("GEARMAND_TEST_WITHOUT_PEERS" in os.environ, reason="once, whatever Python the server runs on")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "scripts", "curves")


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)


def test_no_operation_grows_with_what_there_is():
    done = run("--most", "10000", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 8
    for operation, figures in found.items():
        assert list(figures) == ["1", "10", "100", "1000", "10000"]
        # One that looks at all of them would take thousands of times as long; a busy machine some.
        assert figures["10000"] < 50 * min(figures.values()), (operation, figures)


def test_table_is_for_a_person():
    done = run("--most", "1")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 9 and lines[0].split() == ["microseconds", "for", "1", "growth"]
    assert all(line.split()[-1] == "1.0" for line in lines[1:])


def test_number_that_is_none_is_refused():
    done = run("--most", "0")
    assert done.returncode == 2 and b"expected a whole number from 1, got 0" in done.stderr
