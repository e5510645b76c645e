"""When a SUBMIT_JOB_SCHED is due: cron-like fields to a time (specification: "SUBMIT_JOB_SCHED").

Local time, as the machine has it. Pure but for the time zone.
"""

from __future__ import annotations

import calendar
import re
import time
from typing import List, NamedTuple, Optional, Sequence, Tuple

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


def next_time(fields: Sequence[Optional[int]], epoch_s: float) -> int:
    """The first minute boundary after `epoch_s` at which all fields match, in seconds since 1970.

    A local time that the clock skips in spring does not match; one that it
    repeats in autumn matches twice. ScheduleError: never within
    `HORIZON_YEARS`.
    """
    day_of_month, month, day_of_week = fields[2:]
    start = time.localtime(epoch_s)
    for year in range(start.tm_year, start.tm_year + HORIZON_YEARS + 1):
        for in_month in range(1, 13) if month is None else (month,):
            last_day = calendar.monthrange(year, in_month)[1]
            for day in range(1, last_day + 1) if day_of_month is None else (day_of_month,):
                if day > last_day or (year, in_month, day) < start[:3]:
                    continue
                if day_of_week not in (None, calendar.weekday(year, in_month, day)):
                    continue
                due_s = _first_on((year, in_month, day), fields, epoch_s)
                if due_s is not None:
                    return due_s
    raise ScheduleError("%s: no such day within %d years" % (_describe(fields), HORIZON_YEARS))


def _first_on(date: Tuple[int, int, int], fields: Sequence[Optional[int]], epoch_s: float) -> Optional[int]:
    """The first matching time of one day that lies after `epoch_s`."""
    minute, hour = fields[:2]
    times = [
        date + (an_hour, a_minute)
        for an_hour in (range(24) if hour is None else (hour,))
        for a_minute in (range(60) if minute is None else (minute,))
    ]
    # A day on which the clock is put forward or back has its times twice over:
    # once as summer time, once as winter time, of which those count that exist.
    offsets = {time.localtime(time.mktime(date + (an_hour, 0, 0, -1, -1, -1))).tm_gmtoff for an_hour in (0, 24)}
    found = (_first_of(times, is_summer, epoch_s) for is_summer in ((-1,) if len(offsets) == 1 else (1, 0)))
    return min((due_s for due_s in found if due_s is not None), default=None)


def _first_of(times: Sequence[Tuple[int, ...]], is_summer: int, epoch_s: float) -> Optional[int]:
    for wanted in times:
        due_s = int(time.mktime(wanted + (0, -1, -1, is_summer)))
        if due_s > epoch_s and time.localtime(due_s)[:5] == wanted:
            return due_s
    return None


def _describe(fields: Sequence[Optional[int]]) -> str:
    return ", ".join("%s %d" % (field.name, value) for field, value in zip(FIELDS, fields) if value is not None)
