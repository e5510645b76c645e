"""Complaints by the thousand: the first is logged, the rest are counted."""

from __future__ import annotations

import logging

import pytest

from gearmand import complaints
from gearmand.complaints import INTERVAL_S, Complaints


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Log:
    """Stands for a logger: remembers levels and texts."""

    def __init__(self):
        self.lines = []

    def log(self, level, message, *arguments, exc_info=False):
        self.lines.append((level, message % arguments if arguments else message))

    def take(self):
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(complaints, "time", clock)
    return clock


@pytest.fixture
def log():
    return Log()


def test_first_of_a_kind_is_logged(clock, log):
    Complaints(log).say(logging.WARNING, "kind", "peer %s: %d", "a", 1)
    assert log.lines == [(logging.WARNING, "peer a: 1")]


def test_first_of_a_kind_right_after_start_of_the_machine_is_logged(clock, log):
    clock.now = 0.0
    Complaints(log).say(logging.WARNING, "kind", "text")
    assert len(log.lines) == 1


def test_further_ones_within_the_interval_are_held_back(clock, log):
    told = Complaints(log)
    for _ in range(1000):
        told.say(logging.WARNING, "kind", "text")
        clock.now += (INTERVAL_S - 1) / 1000
    assert len(log.lines) == 1


def test_another_kind_is_logged(clock, log):
    told = Complaints(log)
    told.say(logging.WARNING, "one", "text")
    told.say(logging.ERROR, "two", "other")
    assert log.lines == [(logging.WARNING, "text"), (logging.ERROR, "other")]


def test_after_the_interval_the_count_and_the_next_are_logged(clock, log):
    told = Complaints(log)
    for _ in range(4):
        told.say(logging.WARNING, "kind", "text")
    log.take()
    clock.now += INTERVAL_S
    told.say(logging.WARNING, "kind", "again")
    assert log.lines == [(logging.WARNING, "kind: 3 more times in the last minute"), (logging.WARNING, "again")]


def test_after_the_interval_without_others_only_the_next_is_logged(clock, log):
    told = Complaints(log)
    told.say(logging.WARNING, "kind", "text")
    log.take()
    clock.now += INTERVAL_S
    told.say(logging.WARNING, "kind", "again")
    assert log.lines == [(logging.WARNING, "again")]


def test_sum_up_before_the_interval_logs_nothing_and_stays_open(clock, log):
    told = Complaints(log)
    told.say(logging.WARNING, "kind", "text")
    told.say(logging.WARNING, "kind", "text")
    log.take()
    clock.now += INTERVAL_S - 0.1
    assert told.sum_up() is True
    assert log.lines == []


def test_sum_up_after_the_interval_logs_the_count_once(clock, log):
    told = Complaints(log)
    for _ in range(3):
        told.say(logging.ERROR, "kind", "text")
    log.take()
    clock.now += INTERVAL_S
    assert told.sum_up() is False
    assert log.take() == [(logging.WARNING, "kind: 2 more times in the last minute")]
    assert told.sum_up() is False
    assert log.lines == []


def test_sum_up_of_a_single_complaint_logs_nothing(clock, log):
    told = Complaints(log)
    told.say(logging.WARNING, "kind", "text")
    log.take()
    clock.now += INTERVAL_S
    assert told.sum_up() is False
    assert log.lines == []


def test_sum_up_of_two_kinds_ends_only_the_older(clock, log):
    told = Complaints(log)
    for kind in ("old", "old", "new", "new"):
        clock.now += INTERVAL_S / 2 if kind == "new" else 0
        told.say(logging.WARNING, kind, "text")
    log.take()
    clock.now += 1
    assert told.sum_up() is True
    assert log.lines == [(logging.WARNING, "old: 1 more times in the last minute")]


def test_exception_is_passed_to_the_log(clock, caplog):
    try:
        raise ValueError("reason")
    except ValueError:
        Complaints(logging.getLogger("gearmand.test")).say(logging.ERROR, "kind", "text", exc_info=True)
    assert "ValueError: reason" in caplog.text
