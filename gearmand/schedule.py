"""When something is due that comes at times of the calendar; and the fields of a SUBMIT_JOB_SCHED (specification: "SUBMIT_JOB_SCHED").

Local time, as the machine has it. Pure but for the time zone. The fields of a crontab are in `cron`.
"""

from __future__ import annotations

import calendar
import re
import time
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

HORIZON_YEARS = 8
"""29 February can be eight years away."""


class Field(NamedTuple):
    name: str
    lowest: int
    highest: int


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12),
    Field("day of week", 0, 6),
)
"""The packet's order. Day of week: 0 is Monday."""


class ScheduleError(ValueError):
    """A field that cannot be used, or fields that never meet."""


def parse(arguments: Sequence[bytes]) -> List[Optional[int]]:
    """One number a field; `None` for any (empty or `*`). ScheduleError names the field and what it may be."""
    return [_parse_field(field, raw) for field, raw in zip(FIELDS, arguments)]


def _parse_field(field: Field, raw: bytes) -> Optional[int]:
    if raw in (b"", b"*"):
        return None
    if re.fullmatch(rb"[0-9]{1,4}", raw) and field.lowest <= int(raw) <= field.highest:
        return int(raw)
    raise ScheduleError(
        "%s: expected a number from %d to %d, or nothing or * for any, got %s"
        % (field.name, field.lowest, field.highest, ascii(raw[:32].decode("latin-1")))
    )


class Times(NamedTuple):
    """Times of the calendar, each of the sequences in order."""

    minutes: Sequence[int]
    hours: Sequence[int]
    months: Sequence[int]
    is_day: Callable[[int, int], bool]
    """Of the day of the month and that of the week (0 is Monday)."""
    once: bool = False
    """What becomes of a day on which the clock changes. True: each time comes once on it, one that the clock skips as
    much later as it is put forward, one that it repeats when it is first. False: one that is skipped does not come,
    one that is repeated comes twice."""


def next_time(fields: Sequence[Optional[int]], epoch_s: float) -> int:
    """The first minute boundary after `epoch_s` at which all fields match, in seconds since 1970.

    A local time that the clock skips in spring does not match; one that it
    repeats in autumn matches twice. ScheduleError: never within
    `HORIZON_YEARS`.
    """
    minutes, hours, _, months, _ = (
        range(field.lowest, field.highest + 1) if value is None else (value,) for field, value in zip(FIELDS, fields)
    )
    _, _, day_of_month, _, day_of_week = fields
    is_day = lambda day, weekday: day_of_month in (None, day) and day_of_week in (None, weekday)  # noqa: E731
    due_s = first_time(Times(minutes, hours, months, is_day), epoch_s)
    if due_s is None:
        raise ScheduleError("%s: no such day within %d years" % (_describe(fields), HORIZON_YEARS))
    return due_s


def first_time(times: Times, epoch_s: float) -> Optional[int]:
    """The first of them after `epoch_s`, in seconds since 1970. `None`: there is none within `HORIZON_YEARS`."""
    start = time.localtime(epoch_s)
    for year in range(start.tm_year, start.tm_year + HORIZON_YEARS + 1):
        for month in times.months:
            if (year, month) < start[:2]:
                continue
            first_weekday, last_day = calendar.monthrange(year, month)
            for day in range(1, last_day + 1):
                if (year, month, day) >= start[:3] and times.is_day(day, (first_weekday + day - 1) % 7):
                    due_s = _first_on((year, month, day), times, epoch_s, start[:5])
                    if due_s is not None:
                        return due_s
    return None


def _first_on(date: Tuple[int, int, int], times: Times, epoch_s: float, start: Tuple[int, ...]) -> Optional[int]:
    """The first time of one day that lies after `epoch_s`, which is `start` by the clock."""
    all_day = (date + (hour, minute) for hour in times.hours for minute in times.minutes)
    offsets = {time.localtime(time.mktime(date + (hour, 0, 0, -1, -1, -1))).tm_gmtoff for hour in (0, 24)}
    if len(offsets) == 1:
        found = (due_s for wanted in all_day if wanted >= start for due_s in _moments(wanted, (-1,)))
        return next((due_s for due_s in found if due_s > epoch_s), None)
    # A day on which the clock is put forward or back has its times twice over:
    # once as summer time, once as winter time, of which those count that exist.
    moments = (_once(wanted) if times.once else _moments(wanted, (1, 0)) for wanted in all_day)
    return min((due_s for each in moments for due_s in each if due_s > epoch_s), default=None)


def _moments(wanted: Tuple[int, ...], seasons: Sequence[int]) -> Iterator[int]:
    for is_summer in seasons:
        due_s = int(time.mktime(wanted + (0, -1, -1, is_summer)))
        if time.localtime(due_s)[:5] == wanted:
            yield due_s


def _once(wanted: Tuple[int, ...]) -> Sequence[int]:
    found = sorted(_moments(wanted, (1, 0)))
    # One that is skipped is counted as if it were still winter.
    return found[:1] or [int(time.mktime(wanted + (0, -1, -1, 0)))]


def _describe(fields: Sequence[Optional[int]]) -> str:
    return ", ".join("%s %d" % (field.name, value) for field, value in zip(FIELDS, fields) if value is not None)
