"""Cron-like fields to due times, in several time zones."""

from __future__ import annotations

import calendar
import os
import random
import time

import pytest

from gearmand.schedule import FIELDS, HORIZON_YEARS, ScheduleError, next_time, parse

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
NEW_YORK = "EST5EDT,M3.2.0,M11.1.0"
# Clocks change at midnight, so that a day begins at one or ends twice.
MIDNIGHT = "XST3XDT,M11.1.0/0,M2.3.0/0"


@pytest.fixture
def zone():
    """A function that sets the time zone until the test ends."""
    before = os.environ.get("TZ")

    def set_zone(name):
        os.environ["TZ"] = name
        time.tzset()

    set_zone("UTC0")
    yield set_zone
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def utc(*date_and_time):
    return calendar.timegm(date_and_time + (0,) * (6 - len(date_and_time)))


def due(text, epoch_s):
    """Fields as in a crontab: minute, hour, day of month, month, day of week."""
    return next_time(parse([field.encode() for field in text.split()]), epoch_s)


# -- fields -----------------------------------------------------------------------


def test_parse_takes_empty_and_star_as_any():
    assert parse([b"", b"*", b"", b"*", b""]) == [None] * 5


def test_parse_takes_numbers():
    assert parse([b"0", b"23", b"31", b"12", b"6"]) == [0, 23, 31, 12, 6]


def test_parse_takes_leading_zeros():
    assert parse([b"05", b"", b"", b"007", b""]) == [5, None, None, 7, None]


@pytest.mark.parametrize("at", range(5))
def test_parse_takes_a_fields_bounds_and_nothing_beyond(at):
    for value, fits in ((FIELDS[at].lowest, True), (FIELDS[at].highest, True), (FIELDS[at].highest + 1, False)):
        fields = [b""] * 5
        fields[at] = b"%d" % value
        if fits:
            assert parse(fields)[at] == value
        else:
            with pytest.raises(ScheduleError, match="^%s: expected a number from" % FIELDS[at].name):
                parse(fields)


@pytest.mark.parametrize("raw", [b"-1", b"+1", b" 1", b"1 ", b"1,2", b"*/5", b"1-3", b"x", b"1.0", b"\xff", b"\xb2", b"99999", b"1\n"])
def test_parse_refuses_what_is_no_number(raw):
    with pytest.raises(ScheduleError, match="^minute: "):
        parse([raw, b"", b"", b"", b""])


@pytest.mark.parametrize("at", [2, 3])
def test_parse_refuses_day_and_month_zero(at):
    fields = [b""] * 5
    fields[at] = b"0"
    with pytest.raises(ScheduleError):
        parse(fields)


# -- times ------------------------------------------------------------------------

NOON = utc(2024, 5, 15, 12, 0)  # A Wednesday.


@pytest.mark.parametrize(
    "fields, expected",
    [
        ("* * * * *", utc(2024, 5, 15, 12, 1)),
        ("0 * * * *", utc(2024, 5, 15, 13, 0)),
        ("30 * * * *", utc(2024, 5, 15, 12, 30)),
        ("0 12 * * *", utc(2024, 5, 16, 12, 0)),
        ("59 11 * * *", utc(2024, 5, 16, 11, 59)),
        ("* 11 * * *", utc(2024, 5, 16, 11, 0)),
        ("* 12 * * *", utc(2024, 5, 15, 12, 1)),
        ("0 0 1 * *", utc(2024, 6, 1)),
        ("0 0 31 * *", utc(2024, 5, 31)),
        ("0 0 31 6 *", None),
        ("0 0 30 2 *", None),
        ("0 0 31 2 *", None),
        ("* * 1 1 *", utc(2025, 1, 1)),
        ("* * * 5 *", utc(2024, 5, 15, 12, 1)),
        ("* * * 4 *", utc(2025, 4, 1)),
        ("0 0 * * 0", utc(2024, 5, 20)),
        ("0 0 * * 2", utc(2024, 5, 22)),
        ("* * * * 2", utc(2024, 5, 15, 12, 1)),
        ("0 0 * * 6", utc(2024, 5, 19)),
        ("0 0 13 * 4", utc(2024, 9, 13)),
        ("0 0 29 2 *", utc(2028, 2, 29)),
        ("59 23 31 12 *", utc(2024, 12, 31, 23, 59)),
    ],
)
def test_next_time_is_the_first_at_which_all_fields_match(zone, fields, expected):
    if expected is None:
        with pytest.raises(ScheduleError, match="no such day within %d years" % HORIZON_YEARS):
            due(fields, NOON)
    else:
        assert due(fields, NOON) == expected


@pytest.mark.parametrize("passed", [0, 0.001, 1, 59.999])
def test_next_time_is_a_minute_boundary_after_now(zone, passed):
    assert due("* * * * *", NOON + passed) == NOON + 60


def test_next_time_just_before_a_match_is_that_match(zone):
    assert due("0 12 * * *", NOON - 0.001) == NOON


def test_next_time_of_29_february_over_a_century_without_is_eight_years_away(zone):
    assert due("0 0 29 2 *", utc(2096, 3, 1)) == utc(2104, 2, 29)


def test_next_time_of_29_february_on_that_day_is_today(zone):
    assert due("0 13 29 2 *", utc(2024, 2, 29, 12)) == utc(2024, 2, 29, 13)


def test_next_time_of_no_such_day_names_the_fields(zone):
    with pytest.raises(ScheduleError, match="^minute 5, day of month 31, month 4: "):
        due("5 * 31 4 *", NOON)


def test_next_time_at_the_end_of_a_year_is_in_the_next(zone):
    assert due("* * * * *", utc(2024, 12, 31, 23, 59, 30)) == utc(2025, 1, 1)


# -- local time ---------------------------------------------------------------------


def test_next_time_is_local(zone):
    zone(BERLIN)
    assert due("0 12 * * *", NOON) == utc(2024, 5, 16, 10, 0)


def test_next_time_takes_the_local_day_of_week(zone):
    zone(NEW_YORK)
    # Thursday in UTC, still Wednesday in New York.
    assert due("* * * * 2", utc(2024, 5, 16, 2, 0)) == utc(2024, 5, 16, 2, 1)


@pytest.mark.parametrize(
    "fields, after, expected",
    [
        pytest.param("30 2 * * *", (2024, 3, 30, 12), (2024, 4, 1, 0, 30), id="skipped hour is not matched"),
        pytest.param("30 1 31 3 *", (2024, 3, 30, 12), (2024, 3, 31, 0, 30), id="before the gap"),
        pytest.param("0 3 31 3 *", (2024, 3, 30, 12), (2024, 3, 31, 1, 0), id="at the end of the gap"),
        pytest.param("* * * * *", (2024, 3, 31, 0, 59), (2024, 3, 31, 1, 0), id="minute by minute over the gap"),
        pytest.param("30 * 31 3 *", (2024, 3, 31, 0, 30), (2024, 3, 31, 1, 30), id="hour by hour over the gap"),
        pytest.param("30 2 * * *", (2024, 10, 26, 12), (2024, 10, 27, 0, 30), id="repeated hour, first time"),
        pytest.param("30 2 * * *", (2024, 10, 27, 0, 30), (2024, 10, 27, 1, 30), id="repeated hour, second time"),
        pytest.param("30 2 * * *", (2024, 10, 27, 1, 30), (2024, 10, 28, 1, 30), id="repeated hour is over"),
        pytest.param("0 3 27 10 *", (2024, 10, 26, 12), (2024, 10, 27, 2, 0), id="after the repeated hour"),
        pytest.param("* * * * *", (2024, 10, 27, 0, 59), (2024, 10, 27, 1, 0), id="minute by minute into the repeated hour"),
        pytest.param("0 * * * *", (2024, 10, 27, 0, 0), (2024, 10, 27, 1, 0), id="hour by hour into the repeated hour"),
        pytest.param("30 2 31 3 *", (2024, 3, 30, 12), (2025, 3, 31, 0, 30), id="skipped hour of a date, next year"),
    ],
)
def test_next_time_on_a_day_when_the_clock_changes(zone, fields, after, expected):
    zone(BERLIN)
    assert due(fields, utc(*after)) == utc(*expected)


@pytest.mark.parametrize("name", ["UTC0", BERLIN, NEW_YORK, MIDNIGHT])
@pytest.mark.parametrize("seed", range(4))
def test_next_time_agrees_with_trying_every_minute(zone, name, seed):
    zone(name)
    chance = random.Random(seed)
    changes = [utc(2024, 3, 31), utc(2024, 10, 27), utc(2024, 3, 10), utc(2024, 11, 3), utc(2024, 2, 18), utc(2024, 5, 15)]
    for start in changes:
        epoch_s = start - 86400 + chance.randrange(2 * 86400)
        fields = [chance.choice([None, 0, 30]), chance.choice([None, 0, 1, 2, 3, 23]), None, None, None]
        minute_s = epoch_s // 60 * 60 + 60
        while True:
            at = time.localtime(minute_s)
            if fields[0] in (None, at.tm_min) and fields[1] in (None, at.tm_hour):
                break
            minute_s += 60
        assert next_time(fields, epoch_s) == minute_s
