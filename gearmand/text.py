"""Lines of the administrative protocol: bytes to words, rows to bytes (specification: "Administrative Protocol").

Answers that carry data end in a line feed, and tables in a line with a full
stop; the short ones, OK and ERR, end in carriage return and line feed. That is
how the C server has it, and its users' programs count on it.
"""

from __future__ import annotations

from typing import Iterable, List, Sequence

MOST_WORDS = 10

OK = b"OK\r\n"
END_OF_TABLE = b".\n"


def words(line: bytes) -> List[bytes]:
    """The words of a line, without its carriage return. A line that begins with a blank has an empty first word."""
    line = line[:-1] if line.endswith(b"\r") else line
    found = line.split()
    return [b"", *found] if line[:1].isspace() else found


def data(value: bytes) -> bytes:
    """A positive answer with one value."""
    return b"OK %s\n" % value


def error(code: str, text: str = "") -> bytes:
    """A negative answer: the code, and the text with its blanks as plus signs."""
    return " ".join(filter(None, ("ERR", code, text.replace(" ", "+")))).encode("utf-8", "surrogateescape") + b"\r\n"


def incomplete(name: bytes) -> bytes:
    """Of a command whose words are too few, or too many; `name` is as the peer wrote it."""
    return error("INVALID_ARGUMENTS", "An incomplete set of arguments was sent to this command " + name.decode("latin-1"))


def rows(table: Iterable[Sequence[object]]) -> bytes:
    """Rows of tab-separated columns, without the table's end."""
    return b"".join([b"\t".join([cell if isinstance(cell, bytes) else str(cell).encode() for cell in row]) + b"\n" for row in table])
