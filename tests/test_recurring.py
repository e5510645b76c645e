"""Recurring jobs: fields of a crontab, the table without a thread; then set by line and by HTTP, at a server whose calendar stands still."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import time

import pytest

from gearmand import Server, cron, handover, operations, recurring, steering, takeover
from gearmand.recurring import LATE_S, MOST, MOST_WORKLOAD_BYTES, Recurring
from gearmand.registry import Registry
from gearmand.rows import Setting
from gearmand.schedule import ScheduleError, first_time
from test_registry import make
from test_schedule import BERLIN, MIDNIGHT, NEW_YORK, NOON, utc, zone  # noqa: F401
from web import Api, OverHttp
from wire import Wire, wait_until

# -- fields --------------------------------------------------------------------------


def due(text, epoch_s):
    return first_time(cron.parse(text), epoch_s)


@pytest.mark.parametrize("text, expected", [
    ("* * * * *", (2024, 5, 15, 12, 1)),
    ("*/15 * * * *", (2024, 5, 15, 12, 15)),
    ("7,5-6 13 * * *", (2024, 5, 15, 13, 5)),
    ("10-50/20 * * * *", (2024, 5, 15, 12, 10)),
    ("0 4 * * *", (2024, 5, 16, 4, 0)),
    ("0 0 * JUN-aug *", (2024, 6, 1)),
    ("0 0 * jan,12 *", (2024, 12, 1)),
    ("0 0 * * sun", (2024, 5, 19)),
    ("0 0 * * 0", (2024, 5, 19)),
    ("0 0 * * 7", (2024, 5, 19)),
    ("0 0 * * 1", (2024, 5, 20)),
    ("0 0 * * Fri-Sun", (2024, 5, 17)),
    ("0 0 * * 6-7", (2024, 5, 18)),
    ("0 0 20 * fri", (2024, 5, 17)),
    ("0 0 16 * fri", (2024, 5, 16)),
    ("0 0 */2 * fri", (2024, 5, 17)),
    ("0 0 */3 * fri", (2024, 5, 31)),
    ("0 0 13 * */5", (2024, 9, 13)),
    ("0 0 29 2 *", (2028, 2, 29)),
])  # fmt: skip
def test_fields_are_those_of_a_crontab(zone, text, expected):  # noqa: F811
    assert due(text, NOON) == utc(*expected)


@pytest.mark.parametrize("text, what", [
    ("", "expected minute, hour, day of month, month and day of week"), ("* * * *", "expected minute"), ("* * * * * *", "expected minute"),
    ("60 * * * *", "minute: got '60'; expected: a number from 0 to 59"), ("* 24 * * *", "hour: "), ("* * 0 * *", "day of month: got '0'"),
    ("* * * 13 *", "month: .* or a name from jan to dec"), ("* * * * 8", "day of week: .* or a name from sun to sat"), ("* * * * monday", "day of week"),
    ("5-1 * * * *", "minute: got '5-1'; expected: a range ends after its beginning"), ("5-0 * * * *", "minute"), ("5/2 * * * *", "a step follows"),
    ("*/0 * * * *", "a step is a number from 1 to 59"), ("*/x * * * *", "a step"), ("*/60 * * * *", "a step"), ("1,,2 * * * *", "minute: got ''"),
    (", * * * *", "minute"), ("- * * * *", "minute"), ("1-2-3 * * * *", "minute"), ("*-3 * * * *", "minute"), ("1 \xb2 * * *", "hour"),
    ("-1 * * * *", "minute"), ("@daily", "expected minute"), ("0 0 30 2 *", "0 0 30 2 \\*: no such day"), ("0 0 31 4,6 *", "no such day"),
    ("%s * * * *" % ",".join(["1"] * 300), "expected minute"),
])  # fmt: skip
def test_fields_that_are_wrong_are_named(text, what):
    with pytest.raises(ScheduleError, match="^" + what if what.endswith("week") else what):
        cron.parse(text)


def random_field(chance, lowest, highest):
    """Its text, its numbers, and whether it is restricted."""
    kind = chance.randrange(5)
    if kind == 0:
        return "*", set(range(lowest, highest + 1)), False
    if kind == 1:
        step = chance.randrange(1, highest)
        return "*/%d" % step, set(range(lowest, highest + 1, step)), False
    parts, numbers = [], set()
    for _ in range(chance.randrange(1, 4)):
        first, last = sorted(chance.randrange(lowest, highest + 1) for _ in range(2))
        step = chance.randrange(1, 4)
        text, found = chance.choice([
            (str(first), {first}), ("%d-%d" % (first, last), set(range(first, last + 1))),
            ("%d-%d/%d" % (first, last, step), set(range(first, last + 1, step))),
        ])  # fmt: skip
        parts.append(text)
        numbers |= found
    return ",".join(parts), numbers, True


def labels(minute_s, once):
    """What the clock shows then, as the fields are to see it."""
    now, before = (time.localtime(at).tm_gmtoff for at in (minute_s, minute_s - 3600))
    if once and before > now:
        return []
    return [time.gmtime(minute_s + offset) for offset in ({now, before} if once else {now})]


@pytest.mark.parametrize("name", ["UTC0", BERLIN, NEW_YORK, MIDNIGHT])
@pytest.mark.parametrize("seed", range(12))
def test_next_time_agrees_with_trying_every_minute(zone, name, seed):  # noqa: F811
    zone(name)
    chance = random.Random(seed)
    around = chance.choice([utc(2024, 3, 31), utc(2024, 10, 27), utc(2024, 3, 10), utc(2024, 11, 3), utc(2024, 2, 18), utc(2024, 5, 15)])
    epoch_s = around - 86400 + chance.randrange(2 * 86400)
    fields = [random_field(chance, *bounds) for bounds in ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))]
    if chance.random() < 0.7:
        fields[2 + chance.randrange(3)] = ("*", set(range(32)), False)
    (_, minutes, _), (_, hours, once), (_, days, by_day), (_, months, _), (_, weekdays, by_weekday) = fields

    def matches(at):
        day, weekday = at.tm_mday in days, bool({(at.tm_wday + 1) % 7, at.tm_wday + 1} & weekdays)
        is_day = (day or weekday) if by_day and by_weekday else (day and weekday)
        return at.tm_min in minutes and at.tm_hour in hours and at.tm_mon in months and is_day

    text = " ".join(field for field, _, _ in fields)
    try:
        found = due(text, epoch_s)
    except ScheduleError:
        found = None
    first = int(epoch_s) // 60 * 60 + 60
    last = first + 40 * 86400
    expected = next((each for each in range(first, last, 60) if any(map(matches, labels(each, once)))), None)
    assert found == expected or (expected is None and (found is None or found >= last)), text


@pytest.mark.parametrize("text, after, expected", [
    pytest.param("30 2 * * *", (2024, 3, 30, 12), (2024, 3, 31, 1, 30), id="time that is skipped comes as much later"),
    pytest.param("30 2 * * *", (2024, 3, 31, 1, 30), (2024, 4, 1, 0, 30), id="and the next day as ever"),
    pytest.param("0 3 * * *", (2024, 3, 30, 12), (2024, 3, 31, 1, 0), id="end of the gap"),
    pytest.param("30 2 * * *", (2024, 10, 26, 12), (2024, 10, 27, 0, 30), id="time that is repeated comes first"),
    pytest.param("30 2 * * *", (2024, 10, 27, 0, 30), (2024, 10, 28, 1, 30), id="and not again"),
    pytest.param("30 * * * *", (2024, 3, 31, 0, 30), (2024, 3, 31, 1, 30), id="every hour over the gap"),
    pytest.param("30 * * * *", (2024, 10, 27, 0, 30), (2024, 10, 27, 1, 30), id="every hour, the repeated one too"),
    pytest.param("0 */2 * * *", (2024, 3, 30, 23), (2024, 3, 31, 2, 0), id="every two hours, of which one is skipped"),
])  # fmt: skip
def test_day_on_which_the_clock_changes_has_each_time_once_unless_the_hour_is_any(zone, text, after, expected):  # noqa: F811
    zone(BERLIN)
    assert due(text, utc(*after)) == utc(*expected)


# -- the table -----------------------------------------------------------------------


def job(name=b"n", text="* * * * *", **more):
    values = dict(function=b"f", cron=text, workload=b"w", unique=b"u", priority=1)
    return Recurring(name=name, **{**values, **more})


def put(registry, *arguments, **more):
    one = job(*arguments, **more)
    assert recurring.put(registry, one, recurring.checked(one))
    return registry.recurring.entries[one.name]


def at(epoch_s=NOON):
    registry = make()
    registry.epoch_s = epoch_s
    return registry


def test_job_is_due_again_and_again_and_not_while_it_is_submitted(zone):  # noqa: F811
    registry = at()
    entry = put(registry)
    assert recurring.due(registry) == [] and registry.recurring.next_due() == NOON + 60
    registry.epoch_s = NOON + 61
    assert recurring.due(registry) == [entry] and recurring.due(registry) == []
    recurring.done(registry, entry, b"H:1")
    assert (entry.last_s, entry.outcome, entry.next_s) == (NOON + 60, b"H:1", NOON + 120)


def test_removed_and_replaced_jobs_are_not_due(zone):  # noqa: F811
    registry = at()
    first, _ = put(registry), put(registry, b"m")
    registry.epoch_s += 60
    assert len(recurring.due(registry)) == 2
    second = put(registry, text="0 * * * *")
    assert recurring.remove(registry, b"m") and not recurring.remove(registry, b"m")
    recurring.done(registry, first, b"H:1")
    assert list(registry.recurring.entries.values()) == [second] and second.next_s == NOON + 3600
    assert registry.recurring.next_due() == NOON + 3600


def test_time_that_is_seen_late_is_not_made_up_for(zone):  # noqa: F811
    registry = at()
    entry = put(registry)
    registry.epoch_s = NOON + 60 + LATE_S + 1
    assert recurring.due(registry) == []
    assert entry.outcome.code == b"MISSED" and entry.next_s == NOON + 720


def test_clock_that_is_put_back_is_followed(zone):  # noqa: F811
    registry = at()
    entry = put(registry)
    recurring.due(registry)
    registry.epoch_s = NOON - 86400
    assert recurring.due(registry) == [] and entry.next_s == NOON - 86400 + 60


def test_there_is_a_bound_on_how_many(zone):  # noqa: F811
    registry = at()
    times = cron.parse("0 0 * * *")
    for number in range(MOST):
        assert recurring.put(registry, job(b"%d" % number), times)
    assert not recurring.put(registry, job(b"more"), times) and recurring.put(registry, job(b"0"), times)


@pytest.mark.parametrize("values, what", [
    ({"name": b""}, "name: expected 1 to 64 bytes, got 0"), ({"name": b"n" * 65}, "name: "), ({"name": b"a b"}, "name: expected neither"),
    ({"name": b"a\n"}, "name"), ({"function": b""}, "function"), ({"function": b"f\0"}, "function: expected no NUL"), ({"unique": b"u" * 65}, "unique"),
    ({"unique": b"\0"}, "unique: expected no NUL"), ({"workload": bytes(MOST_WORKLOAD_BYTES + 1)}, "workload"), ({"priority": 3}, "priority"),
    ({"text": "x"}, "minute"),
])  # fmt: skip
def test_wrong_value_is_named(values, what):
    with pytest.raises(ValueError, match=what):
        recurring.checked(job(**values))


def test_job_is_written_down_and_read():
    one = job(b"\xff", function=b"\xfe f", workload=bytes(range(256)), unique=b"")
    setting = recurring.setting_of(one)
    assert setting.key == b"recurring:\xff" and setting.value.isascii()
    assert recurring.to_recurring(setting)[0] == one


@pytest.mark.parametrize("change", [
    "[]", "{", "{}", '{"cron": 1}', None, {"cron": "x"}, {"cron": 5}, {"priority": 7}, {"priority": None}, {"more": 1}, {"workload": 1}, {"function": None},
])  # fmt: skip
def test_damaged_setting_is_named(change):
    value = change
    if isinstance(change, dict):
        value = json.dumps({**json.loads(recurring.setting_of(job()).value), **change})
    with pytest.raises(ValueError, match="the setting b'recurring:n' is damaged"):
        steering.restored([Setting(b"recurring:n", value)])


# -- taken over ----------------------------------------------------------------------


class Told:
    """The lines of an estate, at the other end."""

    def __init__(self, lines):
        self.messages = [*map(json.loads, lines), {"yours": True}]

    def receive(self, longest_s):
        return self.messages.pop(0)


def test_successor_submits_what_was_due_while_it_took_over(zone):  # noqa: F811
    old = at()
    entry = put(old, b"\xffn", workload=b"\xff")
    put(old, b"later", "0 13 * * *")
    old.epoch_s = NOON + 60.5
    recurring.due(old)
    estate = handover.let_go(old)
    assert not old.recurring.entries and old.recurring.next_due() is None
    recurring.done(old, entry, b"H:1")
    assert old.recurring.next_due() is None
    predecessor = takeover.Predecessor.__new__(takeover.Predecessor)
    predecessor._lines, predecessor.where = Told(takeover._lines_of(estate)), None
    new = Registry(b"H:new", 1)
    new.epoch_s = NOON + 63
    handover.take_in(new, predecessor._receive(), False)
    assert [each.job.name for each in recurring.due(new)] == [b"\xffn"]
    assert {name: (each.job, each.next_s) for name, each in new.recurring.entries.items()} == {
        b"\xffn": (entry.job, NOON + 60), b"later": (job(b"later", "0 13 * * *"), NOON + 3600)
    }  # fmt: skip


def test_estate_of_a_server_with_a_store_says_when_they_are_due(zone):  # noqa: F811
    old = at()
    old.stored = True
    put(old)
    estate = handover.let_go(old)
    assert (estate.settings, estate.recurring) == ([], {b"n": NOON + 60})


# -- by both ways in -----------------------------------------------------------------


class Calendar:
    """A clock that stands still until it is set."""

    def __init__(self, epoch_s=NOON):
        self.now = epoch_s

    def __call__(self):
        return self.now

    def set(self, server, epoch_s):
        with server.broker.lock:
            self.now = epoch_s
            server.broker.recurs.notify()


@contextlib.contextmanager
def serving(calendar, **options):
    server = Server(port=0, http_port=0, **options)
    server.broker._wall_clock = calendar
    with server:
        yield server


class ByLine:
    def __init__(self, server):
        self.wire = Wire(server.address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def put(self, name, text, workload=b"", priority="normal", **unique):
        words = ["priority=" + priority, "base64=" + base64.b64encode(workload).decode()]
        words = ["unique=" + unique["unique"]] if unique else words
        return self.wire.ask(" ".join(["recur", name, "f", text, *words]))

    def remove(self, name):
        return self.wire.ask("unrecur " + name)

    def rows(self):
        found = {}
        for line in self.wire.table("recurring"):
            name, function, text, priority, unique, next_s, last_s, handle, refused, size, workload = line.split("\t")
            assert (function, int(size)) == ("f", len(json.loads(workload)))
            last_s, handle, code = (None if each == "-" else each for each in (last_s, handle, refused.split(":")[0]))
            found[name] = (text, priority, unique, int(next_s), last_s and int(last_s), handle, code)
        return found


class ByHttp(OverHttp):
    def put(self, name, text, workload=b"", priority="normal", **unique):
        self.api("PUT", "/recurring/" + name, {"function": "f", "cron": text, "workload": workload.decode(), "priority": priority, **unique})
        return "OK"

    def remove(self, name):
        assert self.api("DELETE", "/recurring/" + name) == {"removed": name}
        return "OK"

    def rows(self):
        found = {}
        for row in self.api.get("/recurring")["recurring"]:
            assert row["function"] == "f"
            code = row["refused"] and row["refused"]["code"]
            found[row["name"]] = tuple(row[each] for each in ("cron", "priority", "unique", "next_s", "last_s", "handle")) + (code,)
        return found


@pytest.mark.parametrize("way", [ByLine, ByHttp])
def test_job_is_set_submitted_listed_and_removed(zone, way):  # noqa: F811
    calendar = Calendar()
    with serving(calendar) as server, way(server) as asked, Wire(server.address) as wire:
        wire.can_do(b"f")
        assert asked.put("night", "*/5  * * * *", b"w", "high") == "OK"
        assert asked.put("other", "0 4 * * *") == "OK"
        assert asked.rows() == {
            "night": ("*/5 * * * *", "high", "night", NOON + 300, None, None, None),
            "other": ("0 4 * * *", "normal", "other", NOON + 16 * 3600, None, None, None),
        }
        calendar.set(server, NOON + 299)
        assert server.broker.turn(lambda registry: not registry.jobs)
        calendar.set(server, NOON + 300)
        wait_until(lambda: asked.rows()["night"][3] == NOON + 600, "it has been submitted")
        handle, function, workload = wire.grab()
        assert (function, workload) == (b"f", b"w")
        assert asked.rows()["night"][4:] == (NOON + 300, handle.decode(), None)
        assert asked.remove("night") == "OK" and list(asked.rows()) == ["other"]


@pytest.mark.parametrize("way", [ByLine, ByHttp])
@pytest.mark.parametrize("unique, jobs", [({}, 1), ({"unique": "u"}, 1), ({"unique": ""}, 3)])
def test_unfinished_job_takes_the_next_ones_in_unless_the_unique_is_empty(zone, way, unique, jobs):  # noqa: F811
    calendar = Calendar()
    with serving(calendar) as server, way(server) as asked:
        asked.put("n", "* * * * *", **unique)
        for minute in (1, 2, 3):
            calendar.set(server, NOON + 60 * minute)
            wait_until(lambda: asked.rows()["n"][4] == NOON + 60 * minute, "it has been submitted")
        assert server.broker.turn(lambda registry: registry.functions[b"f"].jobs) == jobs


@pytest.mark.parametrize("way", [ByLine, ByHttp])
def test_refusal_is_shown_until_a_submission_is_taken(zone, way):  # noqa: F811
    calendar = Calendar()
    with serving(calendar) as server, way(server) as asked, Wire(server.address) as wire:
        operations.limit_function(server.broker, b"f", [1, 1, 1])
        other = wire.submit(b"f", kind=18)
        asked.put("n", "* * * * *")
        calendar.set(server, NOON + 60)
        wait_until(lambda: asked.rows()["n"][3] == NOON + 120, "it has been due")
        assert asked.rows()["n"][4:] == (NOON + 60, None, "QUEUE_ERROR")
        assert operations.cancel_job(server.broker, other)
        calendar.set(server, NOON + 120)
        wait_until(lambda: asked.rows()["n"][5] is not None, "it is taken")
        assert asked.rows()["n"][6] is None


@pytest.mark.parametrize("way", [ByLine, ByHttp])
def test_job_survives_a_restart_and_what_was_missed_is_not_made_up_for(zone, way, tmp_path):  # noqa: F811
    options, calendar = {"queue": str(tmp_path / "queue")}, Calendar()
    with serving(calendar, **options) as server, way(server) as asked:
        asked.put("n", "*/5 * * * *", b"w", "low")
        asked.put("gone", "* * * * *")
        calendar.set(server, NOON + 60)
        wait_until(lambda: asked.rows()["gone"][5] is not None, "it has been stored and submitted")
        asked.remove("gone")
    calendar = Calendar(NOON + 3630)
    with serving(calendar, **options) as server, way(server) as asked:
        assert asked.rows() == {"n": ("*/5 * * * *", "low", "n", NOON + 3900, None, None, None)}
        calendar.set(server, NOON + 3901)
        wait_until(lambda: asked.rows()["n"][5] is not None, "it is submitted")
        handle = asked.rows()["n"][5]
    with serving(calendar, **options) as server, Wire(server.address) as wire:
        wire.can_do(b"f")
        assert {wire.grab()[0].decode() for _ in range(2)} > {handle}


def test_server_goes_on_when_nobody_takes_over(zone):  # noqa: F811
    calendar = Calendar()
    with serving(calendar) as server, ByLine(server) as asked:
        asked.put("n", "* * * * *")
        server.pause_accepting()
        estate = server.broker.turn(handover.let_go)
        calendar.set(server, NOON + 60)
        assert asked.rows() == {}
        server.resume(estate)
        wait_until(lambda: asked.rows()["n"][5] is not None, "it is submitted")


def test_one_of_them_can_be_asked_for_by_name(zone):  # noqa: F811
    with serving(Calendar()) as server, Api(server) as asked:
        body = {"function": "f", "cron": "0 4 * * *", "workload": {"base64": "/w=="}, "priority": "low"}
        row = {"name": "n", "unique": "n", "workload_bytes": 1, "next_s": NOON + 16 * 3600, "last_s": None, "handle": None, "refused": None, **body}
        assert asked("PUT", "/recurring/n", body) == asked.get("/recurring/n") == row
        assert asked.get("/recurring") == {"recurring": [row], "truncated": False}
        del row["workload"]
        assert asked.get("/recurring?workloads=false") == {"recurring": [row], "truncated": False}


def test_server_submits_by_the_clock_of_the_machine():
    with Server(port=0) as server, ByLine(server) as asked:
        before = time.time()
        asked.put("n", "* * * * *")
        assert before < asked.rows()["n"][3] <= before + 61


@pytest.mark.parametrize("line, answer", [
    ("recur n f * * * *", "ERR INVALID_ARGUMENTS An+incomplete"), ("recur n f 60 * * * *", "ERR INVALID_ARGUMENTS minute:+got+'60'"),
    ("recur n f * * * * * x", "ERR INVALID_ARGUMENTS expected+one+of+workload="), ("recur n f * * * * * priority=x", "ERR INVALID_ARGUMENTS priority:"),
    ("recur n f * * * * * base64=x", "ERR INVALID_ARGUMENTS base64:"), ("recur n f * * * * * unique=%s" % ("u" * 65), "ERR INVALID_ARGUMENTS unique:"),
    ("unrecur n", "ERR UNKNOWN_RECURRING"), ("unrecur", "ERR INVALID_ARGUMENTS"), ("recurring x", "ERR INVALID_ARGUMENTS"),
    ("recur n f * * * * * workload=a workload=b", "ERR INVALID_ARGUMENTS workload:+it+is+given+twice"),
])  # fmt: skip
def test_line_that_cannot_be_used_is_refused(line, answer):
    with Server(port=0) as server, Wire(server.address) as wire:
        assert wire.ask(line).startswith(answer)


@pytest.mark.parametrize("body, status, code", [
    ({"function": "f"}, 400, "INVALID_ARGUMENT"), ({"function": "f", "cron": "x"}, 400, "INVALID_ARGUMENT"),
    ({"cron": "* * * * *"}, 400, "INVALID_ARGUMENT"), ({"function": "f", "cron": "* * * * *", "workload": "w" * 65537}, 400, "INVALID_ARGUMENT"),
])  # fmt: skip
def test_request_that_cannot_be_used_is_refused(body, status, code):
    with Server(port=0, http_port=0) as server, Api(server) as asked:
        assert asked("PUT", "/recurring/n", body, status)["error"]["code"] == code
        for method in ("GET", "DELETE"):
            assert asked(method, "/recurring/n", None, 404)["error"]["code"] == "UNKNOWN_RECURRING"


def test_one_more_than_there_may_be_is_refused(monkeypatch):
    monkeypatch.setattr(recurring, "MOST", 1)
    with Server(port=0, http_port=0) as server, Api(server) as asked, Wire(server.address) as wire:
        assert wire.ask("recur n f * * * * *") == "OK" == wire.ask("recur n f 0 * * * *")
        assert wire.ask("recur m f * * * * *").startswith("ERR LIMIT_REACHED")
        assert asked("PUT", "/recurring/m", {"function": "f", "cron": "* * * * *"}, 409)["error"]["code"] == "LIMIT_REACHED"


def test_commands_need_the_right_to_them(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("default deny\ntoken:one admin recurring\ntoken:two admin recur*\n")
    with Server(port=0, http_port=0, acl=str(acl)) as server:
        body = {"function": "f", "cron": "* * * * *"}
        for token, status in (("one", 403), ("two", 200)):
            with Api(server, {"Authorization": "Bearer " + token}) as asked:
                asked.get("/recurring")
                asked("PUT", "/recurring/n", body, status)
                asked("DELETE", "/recurring/n", None, 403)
