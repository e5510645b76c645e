"""A stored job as a line of JSON."""

from __future__ import annotations

import json

import pytest

from gearmand.errors import ConfigError
from gearmand.rows import Change, Notes, Row, Submission, from_json, to_json

PLAIN = Row(7, b"H:host:7", b"resize", b"u", b"work", 1, None, 1700000000.25, 0, None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"workload": b""},
        {"unique": b"-", "function": b"with space"},
        {"workload": bytes(range(256))},
        {"workload": b"a\0b\r\n\x0b\x1c\xe2\x80\xa8\"\\"},
        {"workload": "größe 😀".encode()},
        {"workload": b"\xed\xa0\x80"},
        {"function": b"\xff", "unique": b"\xfe\0", "handle": b"\x80"},
        {"priority": 0, "due_s": 2**63 - 1, "retries": 3, "reducer": b"r\xff"},
        {"priority": 2, "due_s": 0, "reducer": b""},
        {"submitted_s": 5, "number": 2**63 - 1},
        {"workload": b"x" * 1_000_000},
    ],
)
def test_json_is_one_line_that_becomes_the_same_row(changes):
    row = PLAIN._replace(**changes)
    line = to_json(row)
    assert "\n" not in line
    assert from_json(line) == row
    assert from_json(line + "\n") == row


def test_json_of_a_view_is_that_of_its_bytes():
    assert from_json(to_json(PLAIN._replace(workload=memoryview(b"head\0work")[5:]))) == PLAIN


def test_json_of_text_is_text_and_of_bytes_base64():
    values = json.loads(to_json(PLAIN._replace(function="größe".encode(), workload=b"\xff")))
    assert (values["function"], values["workload"], values["reducer"]) == ("größe", {"base64": "/w=="}, None)


def line_with(**changes):
    return json.dumps({**json.loads(to_json(PLAIN)), **changes})


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "",
        "[]",
        "7",
        "null",
        '"text"',
        "{}",
        to_json(PLAIN)[:-1],
        line_with(stray=1),
        line_with(priority=3),
        line_with(priority=-1),
        line_with(priority="1"),
        line_with(number=None),
        line_with(number=1.5),
        line_with(number="7"),
        line_with(number=2**63),
        line_with(due_s=-(2**63) - 1),
        line_with(due_s=2**80),
        line_with(due_s=1.5),
        line_with(retries=None),
        line_with(retries=2**63),
        line_with(submitted_s=None),
        line_with(submitted_s=[]),
        line_with(submitted_s="1"),
        line_with(submitted_s=True),
        line_with(handle=None),
        line_with(workload=None),
        line_with(workload=5),
        line_with(workload=["a"]),
        line_with(workload={"base64": "?"}),
        line_with(workload={"base64": 5}),
        line_with(workload={"hex": "00"}),
        line_with(reducer=5),
        line_with(function="\ud800"),
    ],
)
def test_wrong_line_is_refused_with_its_text(line):
    with pytest.raises(ConfigError) as caught:
        from_json(line)
    assert "no stored job" in str(caught.value) and str(caught.value).endswith(line[:200])


def test_wrong_line_that_is_long_is_refused_with_its_beginning():
    with pytest.raises(ConfigError) as caught:
        from_json("x" * 10_000 + "\n")
    assert str(caught.value).endswith("x" * 200) and len(str(caught.value)) < 400


def test_submission_becomes_a_row_that_has_not_been_tried():
    row = Submission(b"f", b"u", b"w", 2, 99, b"r").row(7, b"H:7", 5.5)
    assert row == Row(7, b"H:7", b"f", b"u", b"w", 2, 99, 5.5, 0, b"r")


def test_notes_are_true_when_there_is_something_to_say():
    notes = Notes()
    assert not notes
    notes.removed.append(1)
    assert notes


def test_notes_of_a_job_name_each_of_its_rows():
    class Job:
        handle, retries, priority, due_s, rows = b"H:1", 2, 1, 9, (1, 5)

    notes = Notes()
    notes.differs(Job)
    assert notes.changed == [Change(1, b"H:1", 2, 1, 9), Change(5, b"H:1", 2, 1, 9)]
