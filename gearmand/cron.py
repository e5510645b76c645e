"""The five fields of a crontab: text to times of the calendar. Pure.

    minute hour day-of-month month day-of-week

Each is `*`, a number, a range `1-5`, a list of those `1,3,8-10`; `*` and a range
take a step, `*/15`. Months and days of the week have names of three letters,
0 and 7 are Sunday.

As in cron(8) a day has to match one of its two fields where both are
restricted, and otherwise both; one that begins with `*` is not restricted.
Where the hour is restricted, each time of a day comes once even when the clock
changes (see `Times.once`); otherwise the clock is followed as it goes.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Set, Tuple

from gearmand.schedule import HORIZON_YEARS, ScheduleError, Times, first_time


class _Field(NamedTuple):
    name: str
    lowest: int
    highest: int
    names: Dict[str, int] = {}


def _numbered(names: str, first: int) -> Dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), first)}


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _numbered("jan feb mar apr may jun jul aug sep oct nov dec", 1)),
    _Field("day of week", 0, 7, _numbered("sun mon tue wed thu fri sat", 0)),
)
MOST_BYTES = 512
_SUNDAY = 7


def parse(text: str) -> Times:
    """ScheduleError: what is wrong with a field, or that they never meet."""
    words = text.split()
    if len(words) != len(_FIELDS) or len(text) > MOST_BYTES:
        raise ScheduleError(
            "expected minute, hour, day of month, month and day of week, in %d characters at most, got %s" % (MOST_BYTES, ascii(text[:64]))
        )
    minutes, hours, days, months, weekdays = (_parse_field(field, word.lower()) for field, word in zip(_FIELDS, words))
    # Monday is 0 for `Times`.
    weekdays = {(day - 1) % 7 for day in weekdays}
    either = not (words[2].startswith("*") or words[4].startswith("*"))

    def is_day(day: int, weekday: int) -> bool:
        return (day in days or weekday in weekdays) if either else (day in days and weekday in weekdays)

    times = Times(sorted(minutes), sorted(hours), sorted(months), is_day, not words[1].startswith("*"))
    # Any leap year does: what comes in none within the horizon comes never.
    if first_time(times, 0) is None:
        raise ScheduleError("%s: no such day within %d years" % (text, HORIZON_YEARS))
    return times


def _parse_field(field: _Field, word: str) -> Set[int]:
    found: Set[int] = set()
    for part in word.split(","):
        span, slash, step = part.partition("/")
        if slash and "-" not in span and span != "*":
            raise _wrong(field, part, "a step follows * or a range")
        first, last = _span(field, span, part)
        found.update(range(first, last + 1, _step(field, step, part) if slash else 1))
    return found


def _span(field: _Field, span: str, part: str) -> Tuple[int, int]:
    if span == "*":
        return field.lowest, field.highest
    ends: List[int] = [_number(field, end, part) for end in span.split("-", 1)]
    first, last = ends[0], ends[-1]
    if first > last == 0 and field.names:
        last = _SUNDAY
    if first > last:
        raise _wrong(field, part, "a range ends after its beginning")
    return first, last


def _number(field: _Field, word: str, part: str) -> int:
    if word in field.names:
        return field.names[word]
    if re.fullmatch("[0-9]{1,4}", word) and field.lowest <= int(word) <= field.highest:
        return int(word)
    names = " or a name from %s to %s" % (list(field.names)[0], list(field.names)[-1]) if field.names else ""
    raise _wrong(field, part, "a number from %d to %d%s, * for any, ranges, lists and steps" % (field.lowest, field.highest, names))


def _step(field: _Field, word: str, part: str) -> int:
    if re.fullmatch("[0-9]{1,4}", word) and 1 <= int(word) <= field.highest:
        return int(word)
    raise _wrong(field, part, "a step is a number from 1 to %d" % field.highest)


def _wrong(field: _Field, part: str, expected: str) -> ScheduleError:
    return ScheduleError("%s: got %s; expected: %s" % (field.name, ascii(part[:32]), expected))
