"""Words of a line, and the forms of an answer."""

from __future__ import annotations

import pytest

from gearmand import text


@pytest.mark.parametrize(
    "line, words",
    [
        (b"status", [b"status"]),
        (b"status\r", [b"status"]),
        (b"maxqueue f 1 2 3", [b"maxqueue", b"f", b"1", b"2", b"3"]),
        (b"maxqueue   f\t1 ", [b"maxqueue", b"f", b"1"]),
        (b"", []),
        (b"\r", []),
        (b" status", [b"", b"status"]),
        (b"\tstatus", [b"", b"status"]),
        (b"   ", [b""]),
        (b"a\0b c", [b"a\0b", b"c"]),
        (b"\xff\xfe", [b"\xff\xfe"]),
    ],
)
def test_words_of_a_line(line, words):
    assert text.words(line) == words


def test_data_ends_in_a_line_feed():
    assert text.data(b"1.0") == b"OK 1.0\n"


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("UNKNOWN_JOB",), b"ERR UNKNOWN_JOB\r\n"),
        (("INVALID_ARGUMENTS", "Too many arguments"), b"ERR INVALID_ARGUMENTS Too+many+arguments\r\n"),
        (("CODE", "caf\u00e9"), b"ERR CODE caf\xc3\xa9\r\n"),
        (("CODE", b"\xff".decode("utf-8", "surrogateescape")), b"ERR CODE \xff\r\n"),
    ],
)
def test_error_has_plus_signs_for_blanks(arguments, line):
    assert text.error(*arguments) == line


@pytest.mark.parametrize(
    "table, lines",
    [
        ([], b""),
        ([(b"f", 1, 0, 2)], b"f\t1\t0\t2\n"),
        ([(b"f", 1), (b"g", -2)], b"f\t1\ng\t-2\n"),
        ([(b"\xff",)], b"\xff\n"),
    ],
)
def test_rows_are_columns_apart_by_tabs(table, lines):
    assert text.rows(table) == lines


def test_short_answers_end_in_carriage_return_and_tables_in_a_full_stop():
    assert (text.OK, text.END_OF_TABLE) == (b"OK\r\n", b".\n")
