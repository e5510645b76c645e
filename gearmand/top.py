"""What gearadmin --top shows again and again: the functions of job servers, or their connections.

It asks only what the C server knows too, and leaves empty what a server lacks.
The protocol does not tell how many jobs have come or ended, only how many there
are; so what is shown of rates is how fast that number changes.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from gearmand.admin import Admin, Snapshot
from gearmand.errors import AdminRefused, ServerLost
from gearmand.screen import Screen, fitted, printable, table
from gearmand.tables import PriorityStatus


class FunctionRow(NamedTuple):
    """A row of `status`, of `prioritystatus` where the server knows it, and how much `total` has changed, per second."""

    function: str
    total: int
    running: int
    workers: int
    queued: int
    rate: Optional[float]
    high: Optional[int]
    normal: Optional[int]
    low: Optional[int]


class Sight(NamedTuple):
    """What one server has told at one time, in seconds since 1970. Rows that are equal in the chosen column keep this order.

    `error`: why it has told nothing.
    """

    time: float
    summary: str
    rows: Sequence[Any]
    snapshot: Optional[Snapshot] = None
    error: str = ""


class View(NamedTuple):
    """`ask` takes what has been seen before, if anything. `columns`: by title, which field of a row; `first`: the one to begin with."""

    name: str
    ask: Callable[[Admin, Optional[Sight]], Sight]
    first: str
    columns: Dict[str, str]


def _functions(admin: Admin, before: Optional[Sight]) -> Sight:
    snapshot = admin.snapshot(before and before.snapshot)
    try:
        priorities = {row.function: row for row in admin.priority_status()}
    except AdminRefused:
        priorities = {}
    rows = [_function(row, snapshot, priorities) for row in sorted(snapshot.functions, key=lambda row: (-row.total, row.function))]
    summary = "functions: %d, queued: %d, running: %d" % (len(rows), sum(row.queued for row in rows), sum(row.running for row in rows))
    if snapshot.rates:
        summary += ", change: %+.1f/s" % sum(snapshot.rates.values())
    return Sight(snapshot.time, summary, rows, snapshot)


def _function(row: Any, snapshot: Snapshot, priorities: Dict[str, PriorityStatus]) -> FunctionRow:
    queued = priorities.get(row.function)
    high, normal, low = (queued.high, queued.normal, queued.low) if queued else (None, None, None)
    return FunctionRow(*row, row.queued, snapshot.rates.get(row.function), high, normal, low)


def _connections(admin: Admin, before: Optional[Sight]) -> Sight:
    rows = admin.workers()
    able = sum(bool(row.functions) for row in rows)
    return Sight(time.time(), "connections: %d, with abilities: %d" % (len(rows), able), rows)


VIEWS = [
    View(
        "functions", _functions, "QUEUED",
        {
            "FUNCTION": "function", "QUEUED": "queued", "RUNNING": "running", "WORKERS": "workers",
            "CHANGE/S": "rate", "HIGH": "high", "NORMAL": "normal", "LOW": "low",
        },
    ),
    View("workers", _connections, "ABILITIES", {"ABILITIES": "functions", "ADDRESS": "address", "ID": "client_id", "FD": "fd"}),
]  # fmt: skip
"""The first columns go last where there is no room. No title is in two views."""

COLUMNS = [title for view in VIEWS for title in view.columns]

DEFAULT_COLUMN = VIEWS[0].first


class Top:
    """Which servers are shown, and how: which view, ordered by which column, from which row on.

    Threads: one.
    """

    def __init__(self, admins: List[Admin], column: str = DEFAULT_COLUMN) -> None:
        self._admins = admins
        # The shown one first.
        self._views = sorted(VIEWS, key=lambda view: column not in view.columns)
        self._column = {view.name: view.first for view in VIEWS}
        self._column[self._view.name] = column
        self._reversed = False
        self._skipped = 0
        self._seen: Dict[Tuple[str, Admin], Sight] = {}

    @property
    def _view(self) -> View:
        return self._views[0]

    @property
    def _title(self) -> str:
        """Of the column that rows are ordered by."""
        return self._column[self._view.name]

    def _sights(self) -> List[Tuple[Admin, Sight]]:
        return [(admin, self._seen[self._view.name, admin]) for admin in self._admins]

    # -- asking ------------------------------------------------------------------

    def ask(self) -> None:
        """Ask every server what the view shows. One that fails is asked again the next time."""
        for admin in self._admins:
            key = self._view.name, admin
            try:
                self._seen[key] = self._view.ask(admin, self._seen.get(key))
            except (AdminRefused, ServerLost) as error:
                self._seen[key] = Sight(time.time(), "", [], error=str(error))

    @property
    def failed(self) -> bool:
        return any(sight.error for _, sight in self._sights())

    # -- keys --------------------------------------------------------------------

    def press(self, key: str) -> bool:
        """True: the view is another one, which has to be asked for."""
        before = self._view
        if key in _KEYS:
            _KEYS[key](self)
        return self._view is not before

    def _switch(self) -> None:
        self._views = self._views[::-1]
        self._skipped, self._reversed = 0, False

    def _reverse(self) -> None:
        self._reversed = not self._reversed

    def _choose(self, step: int) -> None:
        titles = list(self._view.columns)
        self._column[self._view.name] = titles[(titles.index(self._title) + step) % len(titles)]
        self._reversed = False

    def _scroll(self, step: int) -> None:
        last = max(0, *(len(sight.rows) - 1 for _, sight in self._sights()))
        self._skipped = max(0, min(self._skipped + step, last))

    # -- showing -----------------------------------------------------------------

    def lines(self, width: int, height: int) -> List[str]:
        """What fills a terminal: the keys, then for each server a title and its table."""
        heading = time.strftime("%H:%M:%S"), self._title.lower(), self._views[1].name
        found = ["%s  by %s  q: quit  w: %s  arrows: column, rows  r: reverse" % heading]
        room = max(1, (height - 1) // len(self._admins) - 1)
        for admin, sight in self._sights():
            found += ["%s  %s" % (admin.address, sight.summary), *self._body(sight, width, room)]
        return [fitted(line, width).rstrip() for line in found[:height]]

    def text(self) -> str:
        """For each server a title with the time, its whole table, and an empty line."""
        found = ""
        for admin, sight in self._sights():
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(sight.time))
            title = "%s  %s  %s" % (admin.address, at, sight.summary)
            found += "\n".join([title.rstrip(), *self._body(sight, sys.maxsize, sys.maxsize), "", ""])
        return found

    def json(self) -> str:
        """For each server an object, on a line of its own."""
        found = ""
        for admin, sight in self._sights():
            rows = {self._view.name: [row._asdict() for row in self._ordered(sight.rows)]}
            told = {"error": sight.error} if sight.error else rows
            found += json.dumps({"server": str(admin.address), "time": sight.time, **told}) + "\n"
        return found

    def _body(self, sight: Sight, width: int, height: int) -> List[str]:
        if sight.error:
            return [printable(sight.error)]
        fields = self._view.columns.values()
        rows = [[_cell(getattr(row, field)) for field in fields] for row in self._ordered(sight.rows)]
        return table(list(self._view.columns), rows[self._skipped :], width, height)

    def _ordered(self, rows: Sequence[Any]) -> List[Any]:
        field = self._view.columns[self._title]
        return sorted(rows, key=lambda row: _rank(getattr(row, field)), reverse=self._reversed)


_KEYS: Dict[str, Callable[[Top], None]] = {
    "w": Top._switch,
    "r": Top._reverse,
    "left": lambda top: top._choose(-1),
    "right": lambda top: top._choose(1),
    "up": lambda top: top._scroll(-1),
    "down": lambda top: top._scroll(1),
    "page up": lambda top: top._scroll(-10),
    "page down": lambda top: top._scroll(10),
}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "%+.1f" % value
    return " ".join(value) or "-" if isinstance(value, list) else "" if value is None else str(value)


def _rank(value: Any) -> Any:
    """Names from the first one on, numbers from the greatest one on."""
    return value if isinstance(value, (str, list)) else -(value or 0)


# -- again and again ---------------------------------------------------------------


def show(top: Top, interval_s: float, count: Optional[int], as_json: bool, write: Callable[[str], None]) -> int:
    """So many screens, else until Ctrl-C, or q on a terminal, ends it. Returns 1 where a server failed in the last of `count`, else 0."""
    on_screen = not as_json and sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        if on_screen:
            _on_screen(top, interval_s, count)
        else:
            _in_lines(top, interval_s, count, lambda: write(top.json() if as_json else top.text()))
    except KeyboardInterrupt:
        return 0
    return int(top.failed)


def _rounds(count: Optional[int]) -> Iterable[int]:
    return itertools.count() if count is None else range(count)


def _in_lines(top: Top, interval_s: float, count: Optional[int], write: Callable[[], None]) -> None:
    for number in _rounds(count):
        if number:
            time.sleep(interval_s)
        top.ask()
        write()


def _on_screen(top: Top, interval_s: float, count: Optional[int]) -> None:
    with Screen() as screen:
        for _ in _rounds(count):
            top.ask()
            ends_at = time.monotonic() + interval_s
            key = screen.show(top.lines, interval_s)
            while key not in ("", "q") and not top.press(key):
                key = screen.show(top.lines, ends_at - time.monotonic())
            if key == "q":
                raise KeyboardInterrupt  # It ends as with Ctrl-C.
