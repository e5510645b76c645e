"""The night's run: a short night, and that it would notice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader

import pytest

from peers import free_address

pytestmark = pytest.mark.skipif("GEARMAND_TEST_WITHOUT_PEERS" in os.environ, reason="once, whatever Python the server runs on")

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts", "night")


def load():
    loader = SourceFileLoader("night", SCRIPT)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("night", loader))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


@pytest.mark.timeout(180)
def test_short_night_loses_nothing_and_counts_right():
    ports = [str(free_address()[1]) for _ in range(2)]
    done = subprocess.run([sys.executable, SCRIPT, "--minutes", "0.1", "--ports", *ports], stdout=subprocess.PIPE, timeout=170)
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    assert "2 lives" in shown and "DIFFERS" not in shown and "PROBLEM" not in shown


def test_ledger_expects_what_was_reported():
    night = load()
    ledger = night.Ledger()
    ledger.lives.append(night.Life())
    for handle in ("a", "b", "b", "c"):
        ledger.acknowledge(0, "failing", handle, True)
    for handle, kinds in {
        "a": [night.WORK_COMPLETE],
        "b": [night.WORK_EXCEPTION] * 3,
        "c": [night.WORK_FAIL, night.WORK_COMPLETE],
    }.items():
        for kind in kinds:
            ledger.assign(0, "failing", handle)
            ledger.report(0, "failing", handle, kind)
    ledger.kick(0, "failing", "b")
    ledger.assign(0, "failing", "b")
    ledger.report(0, "failing", "b", night.WORK_COMPLETE)
    assert ledger.expected("failing") == {
        "submitted": 3, "coalesced": 1, "assigned": 7, "retried": 3, "completed": 3, "reported": 7, "failed": 0, "exceptions": 1,
        "ever_buried": 1,
    }  # fmt: skip


def test_difference_fails_the_run(tmp_path, capsys):
    night = load()

    class Options:
        seed, minutes, directory, ports = 1, 1.0, str(tmp_path), None

    run = night.Night(Options)
    assert run.check_counts("steady", "completed", 3, 3, 3) is None and not run.ledger.problems
    run.check_counts("steady", "completed", 3, 3, 4)
    run.ledger.promised.add("H:x:1")
    run.ledger.functions["H:x:1"] = "steady"
    assert not run.sum_up(1.0)
    shown = capsys.readouterr().out
    assert "DIFFERS" in shown and "completed of steady: 3 in the ledger, 4 in api" in shown and "job H:x:1 of steady was acknowledged and is lost" in shown
