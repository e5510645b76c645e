"""Bytes to packets and packets to bytes.

Every case is fed whole, byte by byte, and with more bytes after it: the events are the same.
"""

from __future__ import annotations

import random
import struct
from typing import List, Tuple

import pytest

from gearmand.errors import ProtocolError
from gearmand.protocol import ARGUMENTS, RESPONSE_HEADS, RESPONSE_MAGIC, TEXT_LINE, Decoder, PacketType, pack, packed_size, split

LIMIT = 1024 * 1024
LINE = 64

Events = List[Tuple[int, bytes]]


def decoder(limit_bytes: int = LIMIT, line_bytes: int = LINE) -> Decoder:
    return Decoder(limit_bytes, line_bytes)


def deliver(target: Decoder, data: bytes, cuts: List[int]) -> Events:
    """Hand `data` over as a connection does, in pieces that end at `cuts`."""
    events: Events = []
    at = 0
    for end in [*cuts, len(data)]:
        while at < end and target.failure is None:
            room = target.room()
            if room is None:
                found = target.feed(data[at:end])
                at = end
            else:
                count = min(len(room), end - at)
                room[:count] = data[at : at + count]
                at += count
                found = target.filled(count)
            events += [(kind, bytes(body)) for kind, body in found]
    return events


def every_byte(data: bytes) -> List[int]:
    return list(range(1, len(data)))


# The worked example of the specification ("Binary Packet", "Example"), as its
# hexadecimal dump has it: who speaks, the bytes, the type, the arguments.
EXAMPLE = [
    ("worker", "00 52 45 51  00 00 00 01  00 00 00 07  72 65 76 65 72 73 65", PacketType.CAN_DO, [b"reverse"]),
    ("worker", "00 52 45 51  00 00 00 09  00 00 00 00", PacketType.GRAB_JOB, []),
    ("server", "00 52 45 53  00 00 00 0a  00 00 00 00", PacketType.NO_JOB, []),
    ("worker", "00 52 45 51  00 00 00 04  00 00 00 00", PacketType.PRE_SLEEP, []),
    (
        "client",
        "00 52 45 51  00 00 00 07  00 00 00 0d  72 65 76 65 72 73 65 00  00  74 65 73 74",
        PacketType.SUBMIT_JOB,
        [b"reverse", b"", b"test"],
    ),
    ("server", "00 52 45 53  00 00 00 08  00 00 00 07  48 3a 6c 61 70 3a 31", PacketType.JOB_CREATED, [b"H:lap:1"]),
    ("server", "00 52 45 53  00 00 00 06  00 00 00 00", PacketType.NOOP, []),
    ("worker", "00 52 45 51  00 00 00 09  00 00 00 00", PacketType.GRAB_JOB, []),
    (
        "server",
        "00 52 45 53  00 00 00 0b  00 00 00 14  48 3a 6c 61 70 3a 31 00  72 65 76 65 72 73 65 00  74 65 73 74",
        PacketType.JOB_ASSIGN,
        [b"H:lap:1", b"reverse", b"test"],
    ),
    (
        "worker",
        "00 52 45 51  00 00 00 0d  00 00 00 0c  48 3a 6c 61 70 3a 31 00  74 73 65 74",
        PacketType.WORK_COMPLETE,
        [b"H:lap:1", b"tset"],
    ),
    (
        "server",
        "00 52 45 53  00 00 00 0d  00 00 00 0c  48 3a 6c 61 70 3a 31 00  74 73 65 74",
        PacketType.WORK_COMPLETE,
        [b"H:lap:1", b"tset"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("speaker, dump, kind, arguments", EXAMPLE)
def test_specification_example_is_read_and_written_byte_for_byte(speaker, dump, kind, arguments):
    wire = bytes.fromhex(dump)
    body = b"\0".join(arguments)
    if speaker == "server":
        assert RESPONSE_HEADS[kind] + packed_size(len(body)) + body == wire
    else:
        assert decoder().feed(wire) == [(kind, body)]
        assert pack(kind, *arguments) == wire
        assert split(body, max(1, len(ARGUMENTS[kind]))) == (arguments or [b""])


# -- golden packets ------------------------------------------------------------

GOLDEN = [
    pytest.param(pack(PacketType.PRE_SLEEP), [(PacketType.PRE_SLEEP, b"")], id="no arguments"),
    pytest.param(pack(PacketType.ECHO_REQ, b""), [(PacketType.ECHO_REQ, b"")], id="empty argument"),
    pytest.param(
        pack(PacketType.SUBMIT_JOB, b"f", b"u", b"a\0b\nc"), [(PacketType.SUBMIT_JOB, b"f\0u\0a\0b\nc")], id="data with NULs"
    ),
    pytest.param(
        pack(PacketType.ECHO_REQ, b"\0REQ\0RES"), [(PacketType.ECHO_REQ, b"\0REQ\0RES")], id="data that looks like a header"
    ),
    pytest.param(pack(0, b"x"), [(0, b"x")], id="type zero"),
    pytest.param(pack(43, b"x"), [(43, b"x")], id="type one too high"),
    pytest.param(pack(2**31, b"x"), [(2**31, b"x")], id="type 2^31"),
    pytest.param(pack(2**32 - 1), [(2**32 - 1, b"")], id="highest type"),
    pytest.param(pack(PacketType.NOOP, magic=b"\0RES"), [(RESPONSE_MAGIC, b"")], id="a server's magic"),
    pytest.param(
        pack(PacketType.WORK_DATA, b"h", b"x", magic=b"\0RES"), [(RESPONSE_MAGIC, b"h\0x")], id="a server's magic and a body"
    ),
    pytest.param(b"status\n", [(TEXT_LINE, b"status")], id="line"),
    pytest.param(b"status\r\n", [(TEXT_LINE, b"status\r")], id="line with carriage return"),
    pytest.param(b"\n", [(TEXT_LINE, b"")], id="empty line"),
    pytest.param(b"a\0b\n", [(TEXT_LINE, b"a\0b")], id="line with a NUL"),
    pytest.param(b"\xff\xfe\n", [(TEXT_LINE, b"\xff\xfe")], id="line that is no ASCII"),
    pytest.param(
        b"version\n" + pack(PacketType.GRAB_JOB) + b"status\nworkers\n" + pack(PacketType.ECHO_REQ, b"x\n"),
        [
            (TEXT_LINE, b"version"),
            (PacketType.GRAB_JOB, b""),
            (TEXT_LINE, b"status"),
            (TEXT_LINE, b"workers"),
            (PacketType.ECHO_REQ, b"x\n"),
        ],
        id="lines and packets",
    ),
    pytest.param(
        pack(PacketType.WORK_COMPLETE, b"h", b"x" * 5000) + pack(PacketType.GRAB_JOB),
        [(PacketType.WORK_COMPLETE, b"h\0" + b"x" * 5000), (PacketType.GRAB_JOB, b"")],
        id="two packets",
    ),
]


@pytest.mark.parametrize("wire, events", GOLDEN)
def test_decoder_fed_whole_yields_events(wire, events):
    assert decoder().feed(wire) == events


@pytest.mark.parametrize("wire, events", GOLDEN)
def test_decoder_fed_byte_by_byte_yields_same_events(wire, events):
    assert deliver(decoder(), wire, every_byte(wire)) == events


@pytest.mark.parametrize("wire, events", GOLDEN)
@pytest.mark.parametrize("trailing", [b"\0", b"\0REQ\0\0\0\x01\0\0\0\x05abc", b"unfinished"])
def test_decoder_fed_with_trailing_bytes_yields_same_events_and_owes_the_rest(wire, events, trailing):
    target = decoder()
    assert target.feed(wire + trailing) == events
    assert target.partial


@pytest.mark.parametrize("wire, events", GOLDEN)
def test_decoder_after_whole_packets_owes_nothing(wire, events):
    target = decoder()
    target.feed(wire)
    assert not target.partial


@pytest.mark.parametrize("wire, events", GOLDEN)
def test_decoder_of_packet_without_its_last_byte_yields_all_but_the_last(wire, events):
    assert decoder().feed(wire[:-1]) == events[:-1]


def test_decoder_fed_nothing_yields_nothing():
    target = decoder()
    assert target.feed(b"") == []
    assert not target.partial


def test_every_type_between_1_and_42_but_unused_has_arguments():
    assert set(ARGUMENTS) == set(range(1, 43)) - {PacketType.UNUSED}


# -- large packets -------------------------------------------------------------

LARGE = [128 * 1024 - 1, 128 * 1024, 512 * 1024, 512 * 1024 + 1, LIMIT - 1, LIMIT]


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("piece", [65536, 4096 + 7])
def test_large_packet_in_pieces_arrives_whole_and_leaves_what_follows(size, piece):
    body = random.Random(size).getrandbits(8 * size).to_bytes(size, "big")
    wire = pack(PacketType.ECHO_REQ, body) + b"status\n"
    target = decoder()
    assert deliver(target, wire, list(range(piece, len(wire), piece))) == [(PacketType.ECHO_REQ, body), (TEXT_LINE, b"status")]
    assert not target.partial


def test_large_packet_fed_whole_is_one_event():
    body = b"x" * LIMIT
    assert decoder().feed(pack(PacketType.ECHO_REQ, body)) == [(PacketType.ECHO_REQ, body)]


def test_large_packet_with_events_before_it_yields_them_first():
    target = decoder()
    assert target.feed(b"version\n" + pack(PacketType.ECHO_REQ, b"x" * LIMIT)[:20]) == [(TEXT_LINE, b"version")]
    assert target.room() is not None


def test_large_packet_of_a_servers_magic_is_response_magic():
    wire = pack(PacketType.WORK_DATA, b"h", b"x" * 300_000, magic=b"\0RES")
    assert [kind for kind, _ in deliver(decoder(), wire, [100, 200_000])] == [RESPONSE_MAGIC]


def test_large_packet_begun_is_partial():
    target = decoder()
    target.feed(pack(PacketType.ECHO_REQ, b"x" * 200_000)[:12])
    assert target.partial


def test_room_without_large_packet_is_none():
    target = decoder()
    target.feed(pack(PacketType.ECHO_REQ, b"x" * 1000)[:-1])
    assert target.room() is None


def test_room_never_reaches_beyond_the_packets_end():
    target = decoder()
    wire = pack(PacketType.ECHO_REQ, b"x" * 200_000)
    target.feed(wire[:100_000])
    assert len(target.room()) == len(wire) - 100_000


def test_room_of_packet_that_has_not_arrived_is_a_small_part_of_it():
    target = decoder(2**32 - 1)
    target.feed(struct.pack(">4sII", b"\0REQ", PacketType.ECHO_REQ, 2**32 - 1))
    assert 0 < len(target.room()) <= 512 * 1024


def test_room_that_was_filled_doubles():
    target = decoder(64 * LIMIT)
    target.feed(struct.pack(">4sII", b"\0REQ", PacketType.ECHO_REQ, 64 * LIMIT))
    first = len(target.room())
    target.filled(first)
    assert len(target.room()) == first


# -- limits ----------------------------------------------------------------------


def header(size: int, magic: bytes = b"\0REQ", kind: int = PacketType.ECHO_REQ) -> bytes:
    return struct.pack(">4sII", magic, kind, size)


@pytest.mark.parametrize("size", [101, 2**31, 2**32 - 12, 2**32 - 1])
def test_packet_over_the_limit_fails_at_its_header_and_allocates_nothing(size):
    target = decoder(limit_bytes=100)
    assert target.feed(header(size)) == []
    assert isinstance(target.failure, ProtocolError)
    assert target.room() is None
    assert not target.partial


def test_packet_of_the_limit_is_accepted():
    assert decoder(limit_bytes=100).feed(header(100) + b"x" * 100) == [(PacketType.ECHO_REQ, b"x" * 100)]


def test_packet_over_the_limit_by_a_servers_magic_fails():
    target = decoder(limit_bytes=100)
    target.feed(header(101, b"\0RES"))
    assert target.failure is not None


def test_packet_without_limit_may_be_of_any_size():
    target = decoder(limit_bytes=0)
    target.feed(header(2**32 - 1))
    assert target.failure is None


def test_packets_before_a_failure_are_yielded():
    target = decoder(limit_bytes=100)
    assert target.feed(b"version\n" + pack(PacketType.ECHO_REQ, b"x") + header(101)) == [
        (TEXT_LINE, b"version"),
        (PacketType.ECHO_REQ, b"x"),
    ]
    assert target.failure is not None


@pytest.mark.parametrize("length, fails", [(LINE - 1, False), (LINE, True)])
@pytest.mark.parametrize("by_bytes", [False, True])
def test_line_fails_when_longer_than_allowed_with_its_end(length, fails, by_bytes):
    target = decoder()
    wire = b"a" * length + b"\n"
    events = deliver(target, wire, every_byte(wire) if by_bytes else [])
    assert (target.failure is not None) == fails
    assert events == ([] if fails else [(TEXT_LINE, b"a" * length)])


def test_line_without_end_fails_once_it_cannot_end_in_time():
    target = decoder()
    target.feed(b"a" * (LINE - 1))
    assert target.failure is None
    target.feed(b"a")
    assert target.failure is not None


def test_line_without_limit_may_be_long():
    assert decoder(line_bytes=0).feed(b"a" * 100_000 + b"\n") == [(TEXT_LINE, b"a" * 100_000)]


@pytest.mark.parametrize(
    "magic", [b"\0REX", b"\0RER", b"\0\0\0\0", b"\0req", b"\0\xff\xff\xff", b"\0SER", b"\0RE\0"]
)  # fmt: skip
def test_bad_magic_fails(magic):
    target = decoder()
    assert target.feed(header(0, magic)) == []
    assert isinstance(target.failure, ProtocolError)


def test_decoder_that_has_failed_yields_nothing_more():
    target = decoder()
    target.feed(header(0, b"\0BAD"))
    assert target.feed(b"version\n" + pack(PacketType.GRAB_JOB)) == []
    assert target.failure is not None


# -- arguments -----------------------------------------------------------------

SPLITS = [
    (b"", 1, [b""]),
    (b"a", 1, [b"a"]),
    (b"a\0b", 1, [b"a\0b"]),
    (b"a\0b", 2, [b"a", b"b"]),
    (b"a\0b\0c", 2, [b"a", b"b\0c"]),
    (b"\0\0", 3, [b"", b"", b""]),
    (b"f\0u\0", 3, [b"f", b"u", b""]),
    (b"f\0u", 3, [b"f", b"u"]),
    (b"", 3, [b""]),
    (b"abc", 2, [b"abc"]),
]


@pytest.mark.parametrize("body, count, arguments", SPLITS)
def test_split_of_bytes_gives_arguments(body, count, arguments):
    assert split(body, count) == arguments


@pytest.mark.parametrize("body, count, arguments", SPLITS)
def test_split_of_memoryview_gives_the_same_arguments(body, count, arguments):
    assert split(memoryview(bytearray(body)), count) == arguments


@pytest.mark.parametrize("body, count, arguments", SPLITS)
def test_split_of_the_last_argument_of_a_memoryview_gives_the_same_arguments(body, count, arguments):
    *_, last = split(memoryview(bytearray(b"first\0second\0" + body)), 3)
    assert split(last, count) == arguments


def test_split_of_memoryview_copies_all_but_the_last_argument():
    *others, last = split(memoryview(bytearray(b"f\0u\0workload")), 3)
    assert [type(argument) for argument in others] == [bytes, bytes]
    assert isinstance(last, memoryview)


# -- whatever arrives ----------------------------------------------------------


def some_bytes(chance: random.Random) -> bytes:
    """A stream of packets and lines, good and bad, a large one now and then."""
    pieces = []
    for _ in range(chance.randrange(1, 8)):
        size = chance.choice([0, 1, 5, 40, 300])
        data = chance.getrandbits(8 * size + 1).to_bytes(size + 1, "big")[1:]
        makers = {
            "request": lambda: pack(chance.randrange(50), data),
            "response": lambda: pack(chance.randrange(50), b"h", data, magic=b"\0RES"),
            "line": lambda: b"a" * chance.randrange(LINE - 1) + b"\n",
            "any line": lambda: data + b"\n",
            "large": lambda: pack(PacketType.ECHO_REQ, data * 500),
            "cut large": lambda: pack(PacketType.ECHO_REQ, data * 500)[: chance.randrange(150_000)],
            "header": lambda: header(chance.getrandbits(32)),
            "magic": lambda: b"\0REQ",
            "noise": lambda: b"\0" + data,
        }
        names = list(makers)
        pieces.append(makers[chance.choices(names, [5, 2, 5, 1, 1, 0.5, 0.2, 0.5, 0.3])[0]]())
    return b"".join(pieces)


@pytest.mark.parametrize("seed", range(300))
def test_decoder_of_whatever_arrives_however_cut_yields_the_same_or_fails_and_never_raises(seed):
    chance = random.Random(seed)
    wire = some_bytes(chance)
    whole = decoder(limit_bytes=160_000)
    expected = deliver(whole, wire, [])
    for _ in range(3):
        cuts = sorted(chance.randrange(len(wire)) for _ in range(chance.randrange(12))) if wire else []
        cut = decoder(limit_bytes=160_000)
        assert deliver(cut, wire, cuts) == expected
        assert (cut.failure is None) == (whole.failure is None)
        assert cut.partial == whole.partial or cut.failure is not None
