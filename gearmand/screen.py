"""A table that fits a terminal, and the terminal while it shows something live. Knows nothing of Gearman.

Widths are in columns of the terminal: a wide character takes two, a combining
one none.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import tty
import unicodedata
from typing import Any, Callable, List, Sequence

FIRST_WIDTH = 12
"""The last columns of a table go before the first one has less than that."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, height: int) -> List[str]:
    """At most `height` lines of `width`: the titles, then the rows, the first column to the left, the others to the right.

    Where not all rows have room, the last line says how many are left out.
    """
    shown = rows if len(rows) < height else rows[: max(0, height - 2)]
    first, *others = [[printable(cell) for cell in column] for column in zip(titles, *shown)]
    widths = [2 + max(map(display_width, column)) for column in others]
    while widths and width - sum(widths) < FIRST_WIDTH:
        widths.pop()
    first_width = max(1, min(max(map(display_width, first)), width - sum(widths)))
    lines = []
    for name, *cells in zip(first, *others):
        lines.append(fitted(name, first_width) + "".join(cell.rjust(room) for cell, room in zip(cells, widths)))
    if len(shown) < len(rows):
        lines.append("and %d more" % (len(rows) - len(shown)))
    return [fitted(line, width).rstrip() if display_width(line) > width else line.rstrip() for line in lines[:height]]


def printable(text: str) -> str:
    """Without what a terminal would obey, or could not show."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def display_width(text: str) -> int:
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fitted(text: str, width: int) -> str:
    """Filled up with blanks, or cut and marked so, until it is just `width` wide."""
    missing = width - display_width(text)
    if missing >= 0:
        return text + " " * missing
    kept, left = "", width - 1
    for char in text:
        left -= _char_width(char)
        if left < 0:
            break
        kept += char
    return fitted(kept + "\N{HORIZONTAL ELLIPSIS}" * (width > 0), width)


KEYS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left", "\x1b[5~": "page up", "\x1b[6~": "page down"}
"""What a terminal sends for keys that are no characters; some send O for the bracket."""

_ONE_KEY = re.compile(rb"\x1b[\[O][0-9;]*.|.", re.DOTALL)


class Screen:
    """The terminal of stdin and stdout, for as long as the `with` lasts; it is left as it was found, after SIGTERM too."""

    _LOOK_S = 0.2
    """How often it is asked for its size."""

    def __enter__(self) -> "Screen":
        self._input = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._keys = self._input is not None
        self._typed = b""
        self._interrupted = False
        self._on_term = signal.signal(signal.SIGTERM, self._end)
        self._on_int = signal.getsignal(signal.SIGINT)
        if self._on_int is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
        if self._input is not None:
            self._mode = termios.tcgetattr(self._input)
            tty.setcbreak(self._input)
            # Else Ctrl-C may throw away what is written on leaving.
            mode = termios.tcgetattr(self._input)
            mode[3] |= termios.NOFLSH
            termios.tcsetattr(self._input, termios.TCSANOW, mode)
        self._write("\x1b[?1049h\x1b[?25l")  # A screen of its own, without a cursor.
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._write("\x1b[?25h\x1b[?1049l")
        finally:
            if self._input is not None:
                termios.tcsetattr(self._input, termios.TCSADRAIN, self._mode)
            signal.signal(signal.SIGTERM, self._on_term)
            if self._on_int is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._on_int)

    def _interrupt(self, number: int, frame: Any) -> None:
        # An exception that is raised in a finalizer goes nowhere.
        self._interrupted = True
        raise KeyboardInterrupt

    @staticmethod
    def _end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    def show(self, lines: Callable[[int, int], List[str]], seconds: float) -> str:
        """Show what `lines` returns for a width and a height, anew when they change, until a key is pressed or the time is over.

        Returns the key, in lower case or by its name in `KEYS`; empty: the time is over.
        """
        ends_at = time.monotonic() + seconds
        drawn_for = None
        while True:
            if self._interrupted:
                raise KeyboardInterrupt
            size = os.get_terminal_size(sys.stdout.fileno())
            if size != drawn_for:
                drawn_for = size
                # What stands in the last column of all makes some terminals lose it.
                self._draw(lines(size.columns - 1, size.lines))
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return ""
            key = self._key(min(left_s, self._LOOK_S))
            if key:
                return key

    def _draw(self, lines: List[str]) -> None:
        # Each line is put at its place: a line feed in the last one would scroll.
        self._write("".join("\x1b[%d;1H%s\x1b[K" % (number, line) for number, line in enumerate(lines, 1)) + "\x1b[J")

    def _key(self, wait_s: float) -> str:
        if not self._typed:
            self._read(wait_s)
        if not self._typed:
            return ""
        pressed = _ONE_KEY.match(self._typed)
        assert pressed is not None
        self._typed = self._typed[pressed.end() :]
        key = pressed.group().decode("latin-1")
        return KEYS.get(key.replace("\x1bO", "\x1b["), key.lower())

    def _read(self, wait_s: float) -> None:
        if self._input is None or not self._keys:
            time.sleep(wait_s)
        elif select.select([self._input], [], [], wait_s)[0]:
            self._typed = os.read(self._input, 64)
            self._keys = bool(self._typed)

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "ascii", "replace"))
        sys.stdout.buffer.flush()
