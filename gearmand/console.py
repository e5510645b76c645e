"""What the command gearman writes: results to stdout, everything else to stderr, and how far its jobs are.

On a terminal that is one line, drawn over and over and erased before anything
else is written there. It appears for what takes more than half a second.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Optional, Tuple

from gearmand.errors import GearmandError

SLOW_S = 0.5

_NARROWEST_BAR = 4


class Console:
    """`prefix`: a function's name goes before each result and each part of one.

    `progress`: True, also where stderr is no terminal, as lines; False, not at
    all; `None`: on a terminal. Threads: one.

    What cannot be written to stdout raises BrokenPipeError where nobody reads
    it any more, else GearmandError. What cannot be written to stderr is lost.
    """

    def __init__(self, prefix: bool = False, progress: Optional[bool] = None) -> None:
        self._prefix = prefix
        self._draws = progress is not False and _is_terminal(sys.stderr)
        self._tells = bool(progress) and not self._draws
        # Whether results appear where the progress does.
        self._shares = self._draws and _is_terminal(sys.stdout)
        self._in_a_line = False
        self._began_at = 0.0
        self._newest: Optional[Tuple[str, int, int]] = None
        self._due = False
        self._drawn = False

    # -- results -----------------------------------------------------------------

    def result(self, function: str, data: bytes) -> None:
        """A result, or a part of one."""
        self.write(self._named(function) + data)

    def say(self, text: str) -> None:
        self.write(_bytes(text + "\n"))

    def write(self, data: bytes) -> None:
        if sys.stdout is None:
            raise GearmandError("standard output is closed")
        if self._shares:
            self.clear()
            self._in_a_line = data[-1:] not in (b"", b"\n") or (self._in_a_line and not data)
        # Not through `sys.stdout`, which would keep what could not be written and try again at the end.
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(1, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise GearmandError("cannot write to standard output: %s" % error.strerror) from None

    # -- everything else -----------------------------------------------------------

    def warning(self, function: str, data: bytes) -> None:
        """What a worker warns of, as it is."""
        self._tell(self._named(function) + data)

    def complain(self, what: object) -> None:
        """One line that says what is wrong."""
        from gearmand.screen import printable  # Seldom needed.

        self._tell(b"gearman: %s\n" % _bytes(printable(" ".join(str(what).split()))))

    def _tell(self, data: bytes) -> None:
        self.clear()
        self._put(data)

    @staticmethod
    def _put(data: bytes) -> None:
        if sys.stderr is None:
            return
        try:
            os.write(2, data)
        except OSError:
            pass

    def _named(self, function: str) -> bytes:
        return _bytes(function) + b": " if self._prefix else b""

    # -- progress ------------------------------------------------------------------

    def begin(self) -> None:
        """A job begins: half a second from now it is a slow one."""
        self._began_at = time.monotonic()
        self._newest = None
        self._due = False

    def status(self, function: str, numerator: int, denominator: int) -> None:
        """How far a job is."""
        if self._tells:
            self._tell(self._named(function) + b"%d/%d\n" % (numerator, denominator))
        elif self._draws:
            self._newest = (function, numerator, denominator)
            self._due = True

    def tick(self) -> Optional[float]:
        """Draw what is to be seen by now. Returns how many seconds later there is more to draw; `None`: not by itself."""
        if not self._due or self._newest is None or self._in_a_line:
            return None
        left_s = self._began_at + SLOW_S - time.monotonic()
        if left_s > 0:
            return left_s
        width = _columns() - 1  # What stands in the last column makes some terminals begin a new line.
        line = bar(*self._newest, width).encode(sys.stderr.encoding or "ascii", "replace")
        self._put(b"\r" + line + b"\x1b[K")
        self._drawn, self._due = True, False
        return None

    def clear(self) -> None:
        """Erase what is drawn; the next `tick` draws it again."""
        if self._drawn:
            self._drawn, self._due = False, True
            self._put(b"\r\x1b[K")


def bar(function: str, numerator: int, denominator: int, width: int) -> str:
    """How far a job is, in at most `width` columns: its function, a bar where there is room, per cent, and the numbers."""
    from gearmand.screen import display_width, fitted, printable  # For those who see it.

    if denominator <= 0:
        return fitted("%s %d" % (printable(function), numerator), width).rstrip()
    share = min(max(numerator / denominator, 0.0), 1.0)
    numbers = "%3d%% %d/%d" % (int(share * 100), numerator, denominator)
    name = printable(function)
    if display_width(name) > width // 3:
        name = fitted(name, width // 3)
    room = width - display_width(name) - len(numbers) - len(" [] ")
    if room < _NARROWEST_BAR:
        return fitted("%s %s" % (name, numbers), width).rstrip()
    filled = int(share * room)
    return "%s [%s%s] %s" % (name, "#" * filled, "-" * (room - filled), numbers)


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
