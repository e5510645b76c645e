"""What each packet type is answered. A party is a list of what it was posted."""

from __future__ import annotations

import pytest

from gearmand import errors
from gearmand.packet_commands import COMMANDS, PACKETS_A_TURN, serve
from gearmand.parties import Party
from gearmand.protocol import ARGUMENTS, RESPONSE_HEADS, RESPONSE_MAGIC, TEXT_LINE, Decoder, PacketType, packed_size
from gearmand.registry import Registry

T = PacketType
INVALID_COMMAND = (T.ERROR, b"INVALID_COMMAND\0Command not expected")
UNIQUE_TOO_LARGE = (T.ERROR, b"ARGUMENT_TOO_LARGE\0Unique value too large")
FUNCTION_TOO_LARGE = (T.ERROR, b"ARGUMENT_TOO_LARGE\0Function name too large")


class Fake(Party):
    def __init__(self):
        super().__init__()
        self.got = []
        self.wire = b""

    def post(self, kind, body, tail=b""):
        packet = bytes(body) + bytes(tail)
        self.got.append((PacketType(kind), packet))
        self.wire += RESPONSE_HEADS[kind] + packed_size(len(packet)) + packet


def make():
    registry = Registry(b"H:lap", 1)
    registry.epoch_s = 1_700_000_000.0
    return registry


def say(registry, party, kind, *arguments):
    """Serve one packet and take what was posted for it."""
    body = b"\0".join(arguments)
    assert serve(registry, party, [(kind, body)], 0) == 1
    got, party.got = party.got, []
    return got


def running(registry, worker, client=None, unique=b"u"):
    """The handle of a job that the worker runs, posted to nobody yet."""
    job = registry.submit(client, b"f", unique, b"w")
    registry.can_do(worker, b"f")
    assert registry.grab(worker) is job
    return job.handle


def test_specification_example_is_served_byte_for_byte():
    registry, client, worker = make(), Fake(), Fake()

    def hear(party, dump):
        decoder = Decoder(0, 0)
        events = decoder.feed(bytes.fromhex(dump))
        serve(registry, party, events, 0)
        said = client.wire, worker.wire
        client.wire = worker.wire = b""
        return said

    assert hear(worker, "00524551 00000001 00000007 72657665727365") == (b"", b"")
    assert hear(worker, "00524551 00000009 00000000") == (b"", bytes.fromhex("00524553 0000000a 00000000"))
    assert hear(worker, "00524551 00000004 00000000") == (b"", b"")
    assert hear(client, "00524551 00000007 0000000d 7265766572736500 00 74657374") == (
        bytes.fromhex("00524553 00000008 00000007 483a6c61703a31"),
        bytes.fromhex("00524553 00000006 00000000"),
    )
    assert hear(worker, "00524551 00000009 00000000") == (
        b"",
        bytes.fromhex("00524553 0000000b 00000014 483a6c61703a3100 7265766572736500 74657374"),
    )
    assert hear(worker, "00524551 0000000d 0000000c 483a6c61703a3100 74736574") == (
        bytes.fromhex("00524553 0000000d 0000000c 483a6c61703a3100 74736574"),
        b"",
    )


# -- what cannot be served --------------------------------------------------------

SERVED = sorted(COMMANDS)
FROM_SERVERS = [5, 6, 8, 10, 11, 17, 19, 20, 27, 31, 40, 42]


def test_table_has_every_type_that_a_peer_may_send():
    assert SERVED == sorted(set(range(1, 43)) - set(FROM_SERVERS))


@pytest.mark.parametrize("kind", FROM_SERVERS + [0, 43, 1000, 2**31, 2**32 - 1])
def test_type_that_no_peer_may_send_is_refused(kind):
    party = Fake()
    assert say(make(), party, kind, b"x") == [INVALID_COMMAND]


def test_servers_magic_is_refused():
    assert say(make(), Fake(), RESPONSE_MAGIC, b"x") == [(T.ERROR, b"INVALID_MAGIC\0Request magic expected")]


@pytest.mark.parametrize("kind", [kind for kind in SERVED if len(ARGUMENTS[kind]) > 1])
@pytest.mark.parametrize("as_view", [False, True])
def test_too_few_arguments_are_refused_with_their_number(kind, as_view):
    wanted = len(ARGUMENTS[kind])
    for got in range(1, wanted):
        party = Fake()
        body = b"\0".join([b"1"] * got)
        serve(make(), party, [(kind, memoryview(bytearray(body)) if as_view else body)], 0)
        text = "%s: expected %d arguments, got %d" % (PacketType(kind).name, wanted, got)
        assert party.got == [(T.ERROR, b"INVALID_ARGUMENT\0" + text.encode())]


@pytest.mark.parametrize("kind", [T.PRE_SLEEP, T.GRAB_JOB, T.GRAB_JOB_UNIQ, T.GRAB_JOB_ALL, T.RESET_ABILITIES, T.ALL_YOURS])
def test_data_on_a_type_without_arguments_is_ignored(kind):
    assert all(kind != T.ERROR for kind, _ in say(make(), Fake(), kind, b"junk", b"more"))


# -- turns ----------------------------------------------------------------------------


def test_serve_stops_before_a_line():
    party = Fake()
    events = [(T.ECHO_REQ, b"1"), (TEXT_LINE, b"status"), (T.ECHO_REQ, b"2")]
    assert serve(make(), party, events, 0) == 1
    assert party.got == [(T.ECHO_RES, b"1")]


def test_serve_begins_where_it_is_told():
    party = Fake()
    events = [(T.ECHO_REQ, b"1"), (TEXT_LINE, b"status"), (T.ECHO_REQ, b"2")]
    assert serve(make(), party, events, 2) == 3
    assert party.got == [(T.ECHO_RES, b"2")]


def test_serve_stops_after_a_turn():
    party = Fake()
    events = [(T.ECHO_REQ, b"")] * (PACKETS_A_TURN + 5)
    assert serve(make(), party, events, 0) == PACKETS_A_TURN
    assert serve(make(), party, events, PACKETS_A_TURN) == len(events)
    assert len(party.got) == len(events)


# -- submission -------------------------------------------------------------------------

SUBMITS = [
    (T.SUBMIT_JOB, 1, False),
    (T.SUBMIT_JOB_BG, 1, True),
    (T.SUBMIT_JOB_HIGH, 0, False),
    (T.SUBMIT_JOB_HIGH_BG, 0, True),
    (T.SUBMIT_JOB_LOW, 2, False),
    (T.SUBMIT_JOB_LOW_BG, 2, True),
]


@pytest.mark.parametrize("kind, priority, is_background", SUBMITS)
def test_submit_creates_a_job_of_its_priority_and_kind(kind, priority, is_background):
    registry, client = make(), Fake()
    assert say(registry, client, kind, b"f", b"u", b"work\0load") == [(T.JOB_CREATED, b"H:lap:1")]
    job = registry.jobs[b"H:lap:1"]
    assert (job.function.name, job.unique, job.workload) == (b"f", b"u", b"work\0load")
    assert (job.priority, job.background) == (priority, is_background)
    assert (client in (job.listeners or {})) == (not is_background)


# Every type that makes a job, with what stands between unique and workload.
MAKERS = [(kind, []) for kind, _, _ in SUBMITS] + [
    (T.SUBMIT_JOB_EPOCH, [b"0"]),
    (T.SUBMIT_JOB_SCHED, [b"*"] * 5),
    (T.SUBMIT_REDUCE_JOB, [b"r"]),
    (T.SUBMIT_REDUCE_JOB_BACKGROUND, [b"r"]),
]


@pytest.mark.parametrize("kind, middle", MAKERS)
def test_submit_with_unique_of_64_bytes_is_accepted(kind, middle):
    assert say(make(), Fake(), kind, b"f", b"u" * 64, *middle, b"w") == [(T.JOB_CREATED, b"H:lap:1")]


@pytest.mark.parametrize("kind, middle", MAKERS)
def test_submit_with_unique_of_65_bytes_is_refused(kind, middle):
    assert say(make(), Fake(), kind, b"f", b"u" * 65, *middle, b"w") == [UNIQUE_TOO_LARGE]


@pytest.mark.parametrize("kind, middle", MAKERS)
def test_submit_with_too_long_function_is_refused(kind, middle):
    assert say(make(), Fake(), kind, b"f" * 8193, b"u", *middle, b"w") == [FUNCTION_TOO_LARGE]


@pytest.mark.parametrize("kind, middle", MAKERS)
def test_submit_while_draining_is_refused(kind, middle):
    registry = make()
    registry.draining = True
    assert say(registry, Fake(), kind, b"f", b"u", *middle, b"w") == [(T.ERROR, b"\0".join(errors.SHUTTING_DOWN))]


@pytest.mark.parametrize("kind, middle", MAKERS)
def test_submit_over_the_queue_limit_is_refused(kind, middle):
    registry = make()
    registry.functions.limit_queue(b"f", [0, 0, 0])
    assert say(registry, Fake(), kind, b"f", b"", *middle, b"w") == [(T.ERROR, b"QUEUE_ERROR\0Job queue is full")]


@pytest.mark.parametrize("kind, middle", MAKERS)
@pytest.mark.parametrize("name", [b"", b"\xff\xfe", b"f" * 8192])
def test_submit_with_any_function_name_is_accepted(kind, middle, name):
    assert say(make(), Fake(), kind, name, b"", *middle, b"w") == [(T.JOB_CREATED, b"H:lap:1")]


@pytest.mark.parametrize(
    "epoch, due_s",
    [
        (b"1700000100", 1_700_000_100),
        (b"  +1700000100", 1_700_000_100),
        (b"1700000100abc", 1_700_000_100),
        (b"1700000100.9", 1_700_000_100),
        (b"9223372036854775807", 2**63 - 1),
        (b"1700000000", None),
        (b"1699999999", None),
        (b"0", None),
        (b"-5", None),
        (b"", None),
        (b"abc", None),
        (b"0x7fffffff", None),
        (b"--5", None),
    ],
)
def test_submit_epoch_reads_the_number_in_front(epoch, due_s):
    registry = make()
    say(registry, Fake(), T.SUBMIT_JOB_EPOCH, b"f", b"u", epoch, b"w")
    waiting = registry.functions[b"f"].scheduled
    assert waiting == (due_s is not None)
    if due_s is not None:
        assert registry._due.next_due() == due_s


@pytest.mark.parametrize("epoch", [b"9223372036854775808", b"9" * 30, b"-" + b"9" * 30])
def test_submit_epoch_out_of_range_is_refused(epoch):
    ((kind, body),) = say(make(), Fake(), T.SUBMIT_JOB_EPOCH, b"f", b"u", epoch, b"w")
    assert kind == T.ERROR and body.startswith(b"INVALID_ARGUMENT\0epoch: ")


@pytest.mark.parametrize("kind, middle", [(T.SUBMIT_JOB_EPOCH, [b"0"]), (T.SUBMIT_JOB_SCHED, [b""] * 5)])
def test_submit_later_is_background_of_normal_priority(kind, middle):
    registry = make()
    say(registry, Fake(), kind, b"f", b"u", *middle, b"w\0x")
    job = registry.jobs[b"H:lap:1"]
    assert (job.background, job.priority, job.workload) == (True, 1, b"w\0x")


def test_submit_sched_waits_for_the_next_minute():
    registry = make()
    say(registry, Fake(), T.SUBMIT_JOB_SCHED, b"f", b"u", b"*", b"", b"*", b"", b"*", b"w")
    assert registry._due.next_due() == 1_700_000_040


@pytest.mark.parametrize(
    "at, value, name",
    [
        (0, b"60", b"minute"),
        (1, b"24", b"hour"),
        (2, b"0", b"day of month"),
        (2, b"32", b"day of month"),
        (3, b"13", b"month"),
        (4, b"7", b"day of week"),
        (0, b"x", b"minute"),
        (1, b"-1", b"hour"),
        (4, b"1,2", b"day of week"),
        (0, b"\xff", b"minute"),
    ],
)
def test_submit_sched_with_a_bad_field_is_refused_by_its_name(at, value, name):
    fields = [b"*"] * 5
    fields[at] = value
    registry = make()
    ((kind, body),) = say(registry, Fake(), T.SUBMIT_JOB_SCHED, b"f", b"u", *fields, b"w")
    assert kind == T.ERROR and body.startswith(b"INVALID_ARGUMENT\0" + name + b":")
    assert not registry.jobs


def test_submit_sched_that_never_comes_is_refused():
    ((kind, body),) = say(make(), Fake(), T.SUBMIT_JOB_SCHED, b"f", b"u", b"", b"", b"31", b"2", b"", b"w")
    assert kind == T.ERROR and body.startswith(b"INVALID_ARGUMENT\0day of month 31, month 2")


REDUCE_FORMS = [
    ([b"r", b"work"], b"work"),
    ([b"r", b""], b""),
    ([b"r", b"", b"work"], b"work"),
    ([b"r", b"aggregator", b"work"], b"work"),
    ([b"r", b"", b"work", b"load"], b"work\0load"),
    ([b"r", b"", b""], b""),
]


@pytest.mark.parametrize("rest, workload", REDUCE_FORMS)
@pytest.mark.parametrize("kind", [T.SUBMIT_REDUCE_JOB, T.SUBMIT_REDUCE_JOB_BACKGROUND])
def test_submit_reduce_takes_both_forms(kind, rest, workload):
    registry = make()
    assert say(registry, Fake(), kind, b"f", b"u", *rest) == [(T.JOB_CREATED, b"H:lap:1")]
    job = registry.jobs[b"H:lap:1"]
    assert (job.reducer, job.workload, job.priority) == (b"r", workload, 1)
    assert job.background == (kind == T.SUBMIT_REDUCE_JOB_BACKGROUND)


@pytest.mark.parametrize("rest, workload", REDUCE_FORMS)
def test_submit_reduce_of_a_large_packet_takes_both_forms(rest, workload):
    registry = make()
    body = memoryview(bytearray(b"\0".join([b"function", b"u", *rest])))
    serve(registry, Fake(), [(T.SUBMIT_REDUCE_JOB, body)], 0)
    assert registry.jobs[b"H:lap:1"].workload == workload


def test_submit_reduce_with_too_long_reducer_is_refused():
    assert say(make(), Fake(), T.SUBMIT_REDUCE_JOB, b"f", b"u", b"r" * 65, b"w") == [UNIQUE_TOO_LARGE]


# -- asking -----------------------------------------------------------------------------


def test_get_status_of_unknown_job_is_all_zero():
    assert say(make(), Fake(), T.GET_STATUS, b"H:lap:9") == [(T.STATUS_RES, b"H:lap:9\x000\x000\x000\x000")]


def test_get_status_of_queued_job_is_known_and_not_running():
    registry = make()
    registry.submit(None, b"f", b"", b"w")
    assert say(registry, Fake(), T.GET_STATUS, b"H:lap:1") == [(T.STATUS_RES, b"H:lap:1\x001\x000\x000\x000")]


def test_get_status_of_running_job_has_its_progress():
    registry, worker = make(), Fake()
    handle = running(registry, worker)
    say(registry, worker, T.WORK_STATUS, handle, b"3", b"4")
    assert say(registry, Fake(), T.GET_STATUS, handle) == [(T.STATUS_RES, handle + b"\x001\x001\x003\x004")]


def test_get_status_with_trailing_nul_is_answered_without():
    registry = make()
    registry.submit(None, b"f", b"", b"w")
    assert say(registry, Fake(), T.GET_STATUS, b"H:lap:1", b"") == [(T.STATUS_RES, b"H:lap:1\x001\x000\x000\x000")]


def test_get_status_unique_of_unknown_job_is_all_zero():
    assert say(make(), Fake(), T.GET_STATUS_UNIQUE, b"u") == [(T.STATUS_RES_UNIQUE, b"u\x000\x000\x000\x000\x000")]


def test_get_status_unique_counts_listeners_as_often_as_they_listen():
    registry, client = make(), Fake()
    for listener in (client, client, Fake()):
        registry.submit(listener, b"f", b"u", b"w")
    assert say(registry, Fake(), T.GET_STATUS_UNIQUE, b"u") == [(T.STATUS_RES_UNIQUE, b"u\x001\x000\x000\x000\x003")]


def test_get_status_unique_finds_the_newest_of_any_function():
    registry, worker = make(), Fake()
    running(registry, worker, unique=b"u")
    registry.submit(None, b"g", b"u", b"w")
    assert say(registry, Fake(), T.GET_STATUS_UNIQUE, b"u") == [(T.STATUS_RES_UNIQUE, b"u\x001\x000\x000\x000\x000")]


@pytest.mark.parametrize("unique", [b"", b"-"])
def test_get_status_unique_of_what_does_not_name_a_job_is_unknown(unique):
    registry = make()
    registry.submit(None, b"f", unique, b"w")
    assert say(registry, Fake(), T.GET_STATUS_UNIQUE, unique) == [(T.STATUS_RES_UNIQUE, unique + b"\x000\x000\x000\x000\x000")]


def test_get_status_unique_too_long_is_refused():
    assert say(make(), Fake(), T.GET_STATUS_UNIQUE, b"u" * 65) == [UNIQUE_TOO_LARGE]


@pytest.mark.parametrize("option", [b"exceptions", b"EXCEPTIONS", b"exceptions\0"])
def test_option_exceptions_is_echoed_as_it_came_and_set(option):
    party = Fake()
    assert say(make(), party, T.OPTION_REQ, option) == [(T.OPTION_RES, option)]
    assert party.exceptions


@pytest.mark.parametrize("option", [b"", b"exception", b"exceptionsx", b" exceptions"])
def test_option_unknown_is_refused(option):
    party = Fake()
    expected = [(T.ERROR, b"UNKNOWN_OPTION\0Server does not recognize given option")]
    assert say(make(), party, T.OPTION_REQ, option) == expected
    assert not party.exceptions


@pytest.mark.parametrize("data", [b"", b"x", b"\0", b"a\0b\n"])
def test_echo_returns_the_same_bytes(data):
    assert say(make(), Fake(), T.ECHO_REQ, data) == [(T.ECHO_RES, data)]


@pytest.mark.parametrize(
    "raw, kept",
    [(b"me", b"me"), (b"", b""), (b"a b", b"a b"), (b"x" * 127, b"x" * 127), (b"x" * 200, b"x" * 127), (b"a\0b", b"a")],
)
def test_client_id_is_cut(raw, kept):
    party = Fake()
    assert say(make(), party, T.SET_CLIENT_ID, raw) == []
    assert party.client_id == kept


def test_client_id_not_set_is_a_dash():
    assert Fake().client_id == b"-"


# -- workers ------------------------------------------------------------------------------


def test_can_do_answers_nothing_and_registers():
    registry, party = make(), Fake()
    assert say(registry, party, T.CAN_DO, b"f") == []
    assert party in registry.functions[b"f"].workers


@pytest.mark.parametrize("kind, rest", [(T.CAN_DO, []), (T.CAN_DO_TIMEOUT, [b"1000"])])
def test_can_do_with_too_long_function_is_refused(kind, rest):
    assert say(make(), Fake(), kind, b"f" * 8193, *rest) == [FUNCTION_TOO_LARGE]


@pytest.mark.parametrize(
    "raw, timeout_s",
    [
        (b"5000", 5.0),
        (b"1500", 1.5),
        (b"1000", 1.0),
        (b"999", 1.0),
        (b"1", 1.0),
        (b"5000abc", 5.0),
        (b"0", None),
        (b"-1", None),
        (b"", None),
        (b"abc", None),
        (b"99999999999999999999", None),
        (b"9" * 100, None),
    ],
)
def test_can_do_timeout_is_in_milliseconds_and_at_least_a_second(raw, timeout_s):
    registry, party = make(), Fake()
    assert say(registry, party, T.CAN_DO_TIMEOUT, b"f", raw) == []
    assert party.abilities[registry.functions[b"f"]].timeout_s == timeout_s


def test_can_do_timeout_in_seconds_where_configured():
    registry, party = Registry(b"H", 1, timeout_unit_s=1.0), Fake()
    say(registry, party, T.CAN_DO_TIMEOUT, b"f", b"5")
    assert party.abilities[registry.functions[b"f"]].timeout_s == 5.0


def test_can_do_removes_the_timeout():
    registry, party = make(), Fake()
    say(registry, party, T.CAN_DO_TIMEOUT, b"f", b"5000")
    say(registry, party, T.CAN_DO, b"f")
    assert party.abilities[registry.functions[b"f"]].timeout_s is None


@pytest.mark.parametrize("kind, arguments", [(T.CANT_DO, [b"f"]), (T.RESET_ABILITIES, [])])
def test_withdrawal_answers_nothing_and_withdraws(kind, arguments):
    registry, party = make(), Fake()
    registry.can_do(party, b"f")
    assert say(registry, party, kind, *arguments) == []
    assert not party.abilities


def test_pre_sleep_with_a_job_waiting_is_answered_noop():
    registry, party = make(), Fake()
    registry.submit(None, b"f", b"", b"w")
    registry.can_do(party, b"f")
    assert say(registry, party, T.PRE_SLEEP) == [(T.NOOP, b"")]


def test_pre_sleep_without_a_job_is_answered_nothing():
    assert say(make(), Fake(), T.PRE_SLEEP) == []


def test_all_yours_is_answered_nothing():
    assert say(make(), Fake(), T.ALL_YOURS) == []


@pytest.mark.parametrize("kind", [T.GRAB_JOB, T.GRAB_JOB_UNIQ, T.GRAB_JOB_ALL])
def test_grab_of_nothing_is_answered_no_job(kind):
    assert say(make(), Fake(), kind) == [(T.NO_JOB, b"")]


@pytest.mark.parametrize(
    "kind, reducer, answer",
    [
        (T.GRAB_JOB, None, (T.JOB_ASSIGN, b"H:lap:1\0f\0w\0x")),
        (T.GRAB_JOB, b"r", (T.JOB_ASSIGN, b"H:lap:1\0f\0w\0x")),
        (T.GRAB_JOB_UNIQ, None, (T.JOB_ASSIGN_UNIQ, b"H:lap:1\0f\0u\0w\0x")),
        (T.GRAB_JOB_UNIQ, b"r", (T.JOB_ASSIGN_UNIQ, b"H:lap:1\0f\0u\0w\0x")),
        (T.GRAB_JOB_ALL, None, (T.JOB_ASSIGN_UNIQ, b"H:lap:1\0f\0u\0w\0x")),
        (T.GRAB_JOB_ALL, b"r", (T.JOB_ASSIGN_ALL, b"H:lap:1\0f\0u\0r\0w\0x")),
        (T.GRAB_JOB_ALL, b"", (T.JOB_ASSIGN_ALL, b"H:lap:1\0f\0u\0\0w\0x")),
    ],
)
def test_grab_is_answered_in_its_own_form(kind, reducer, answer):
    registry, party = make(), Fake()
    registry.submit(None, b"f", b"u", b"w\0x", reducer=reducer)
    registry.can_do(party, b"f")
    assert say(registry, party, kind) == [answer]


# -- reports ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [T.WORK_DATA, T.WORK_WARNING, T.WORK_COMPLETE])
def test_report_reaches_the_listener_as_it_came(kind):
    registry, client, worker = make(), Fake(), Fake()
    handle = running(registry, worker, client)
    assert say(registry, worker, kind, handle, b"a\0b") == []
    assert client.got == [(kind, handle + b"\0a\0b")]


@pytest.mark.parametrize("kind", [T.WORK_DATA, T.WORK_WARNING, T.WORK_COMPLETE, T.WORK_EXCEPTION])
def test_large_report_reaches_the_listener_as_it_came(kind):
    registry, client, worker = make(), Fake(), Fake()
    client.exceptions = True
    handle = running(registry, worker, client)
    serve(registry, worker, [(kind, memoryview(bytearray(handle + b"\0a\0b")))], 0)
    assert client.got == [(kind, handle + b"\0a\0b")]


@pytest.mark.parametrize("raw", [b"H:lap:1", b"H:lap:1\0", b"H:lap:1\0\0"])
def test_work_fail_reaches_the_listener_without_a_nul(raw):
    registry, client, worker = make(), Fake(), Fake()
    running(registry, worker, client)
    assert say(registry, worker, T.WORK_FAIL, raw) == []
    assert client.got == [(T.WORK_FAIL, b"H:lap:1")]


def test_work_exception_without_the_option_is_a_failure_without_a_nul():
    registry, client, worker = make(), Fake(), Fake()
    handle = running(registry, worker, client)
    assert say(registry, worker, T.WORK_EXCEPTION, handle, b"x") == []
    assert client.got == [(T.WORK_FAIL, handle)]


def test_work_fail_after_work_exception_is_answered_nothing():
    registry, worker = make(), Fake()
    handle = running(registry, worker, Fake())
    say(registry, worker, T.WORK_EXCEPTION, handle, b"x")
    assert say(registry, worker, T.WORK_FAIL, handle) == []


@pytest.mark.parametrize(
    "numerator, denominator, read",
    [
        (b"1", b"2", (1, 2)),
        (b" 7", b"+8", (7, 8)),
        (b"-1", b"1", (4294967295, 1)),
        (b"0.5", b"1.0", (0, 1)),
        (b"abc", b"", (0, 0)),
        (b"12abc", b"100%", (12, 100)),
        (b"9" * 60, b"1", (int("9" * 40) & 0xFFFFFFFF, 1)),
    ],
)
def test_work_status_reads_numbers_and_forwards_what_came(numerator, denominator, read):
    registry, client, worker = make(), Fake(), Fake()
    handle = running(registry, worker, client)
    assert say(registry, worker, T.WORK_STATUS, handle, numerator, denominator) == []
    job = registry.jobs[handle]
    assert (job.numerator, job.denominator) == read
    assert client.got == [(T.WORK_STATUS, b"\0".join((handle, numerator, denominator)))]


@pytest.mark.parametrize(
    "kind, rest, text",
    [
        (T.WORK_DATA, [b"x"], b"Job does not exist on server"),
        (T.WORK_WARNING, [b"x"], b"Job does not exist on server"),
        (T.WORK_STATUS, [b"1", b"2"], b"Job given in work result not found"),
        (T.WORK_COMPLETE, [b"x"], b"Job given in work result not found"),
        (T.WORK_FAIL, [], b"Job given in work result not found"),
        (T.WORK_EXCEPTION, [b"x"], b"An exception was received for a job that does not exist"),
    ],
)
def test_report_of_anothers_job_is_refused(kind, rest, text):
    registry, worker, other = make(), Fake(), Fake()
    handle = running(registry, worker)
    assert say(registry, other, kind, handle, *rest) == [(T.ERROR, b"JOB_NOT_FOUND\0" + text)]
    assert handle in worker.running


def test_work_fail_with_too_long_handle_is_refused():
    ((kind, body),) = say(make(), Fake(), T.WORK_FAIL, b"h" * 64)
    assert (kind, body) == (T.ERROR, b"\0".join(errors.HANDLE_TOO_LARGE))


# -- grabs that linger -----------------------------------------------------------


def lingering(registry, kind=T.GRAB_JOB):
    """A worker whose GRAB_JOB is not answered yet."""
    worker = Fake()
    for packet in [(T.CAN_DO, b"f"), (T.PRE_SLEEP,)]:
        say(registry, worker, *packet)
    job = registry.submit(None, b"f", b"", b"w")
    assert worker.got == [(T.NOOP, b"")]
    worker.got = []
    say(registry, worker, kind)
    assert say(registry, worker, T.WORK_COMPLETE, job.handle, b"") == []
    assert say(registry, worker, kind) == []
    return worker


@pytest.mark.parametrize(
    "kind, reducer, answer",
    [
        (T.GRAB_JOB, None, (T.JOB_ASSIGN, b"%b\0f\0w")),
        (T.GRAB_JOB_UNIQ, None, (T.JOB_ASSIGN_UNIQ, b"%b\0f\0u\0w")),
        (T.GRAB_JOB_ALL, None, (T.JOB_ASSIGN_UNIQ, b"%b\0f\0u\0w")),
        (T.GRAB_JOB_ALL, b"r", (T.JOB_ASSIGN_ALL, b"%b\0f\0u\0r\0w")),
    ],
)
def test_grab_that_lingers_is_answered_in_its_own_form(kind, reducer, answer):
    registry = make()
    worker = lingering(registry, kind)
    job = registry.submit(None, b"f", b"u", b"w", reducer=reducer)
    assert worker.got == [(answer[0], answer[1] % job.handle)]


def test_grab_that_lingers_is_answered_before_the_next_packet():
    registry = make()
    worker = lingering(registry)
    assert say(registry, worker, T.ECHO_REQ, b"x") == [(T.NO_JOB, b""), (T.ECHO_RES, b"x")]


def test_grab_that_lingers_is_answered_before_a_packet_received_with_it():
    registry = make()
    worker = lingering(registry)
    worker.got = []
    serve(registry, worker, [(T.GRAB_JOB, b""), (T.ECHO_REQ, b"x")], 0)
    assert worker.got == [(T.NO_JOB, b""), (T.NO_JOB, b""), (T.ECHO_RES, b"x")]


def test_grab_that_lingers_is_answered_before_a_line_of_text():
    registry = make()
    worker = lingering(registry)
    assert serve(registry, worker, [(TEXT_LINE, b"version")], 0) == 0
    assert worker.got == [(T.NO_JOB, b"")]
