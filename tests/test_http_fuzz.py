"""Requests that chance has made or damaged, in pieces that chance has cut, beside a strict reader of a few lines.

What the server's reader takes is what the strict one takes: the same requests
with the same bodies, and the same end. What it does not take is Refused or
Gone, and nothing else ever comes out of it.
"""

from __future__ import annotations

import random
import re
import socket
import time

import pytest

from gearmand import http_connection, yielding
from gearmand.http_connection import Bounds, Gone, HttpConnection
from gearmand.http_request import HEAD_BYTES, Refused, parse
from gearmand.yielding import Breaks, Turnstile

LIMIT_BYTES = 3000


@pytest.fixture(autouse=True)
def crumbs_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(yielding, "_PAUSES_S", (0.0,))


class Pieces:
    """A socket that gives out what it was given, as it was cut, and then is closed."""

    def __init__(self, pieces):
        self.pieces = [piece for piece in pieces if piece]
        self.sent = b""

    def settimeout(self, timeout_s):
        pass

    def recv(self, most):
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > most:
            self.pieces.insert(0, piece[most:])
        return piece[:most]

    def send(self, data):
        self.sent += bytes(data)
        return len(data)


def read_all(pieces):
    """The requests with their bodies, and how it ended: `end`, `gone` or the status of the refusal."""
    held = []
    connection = HttpConnection(Pieces(pieces), None, Bounds(0, 0, LIMIT_BYTES), lambda _, count: held.append(count), Turnstile(Breaks()))
    found = []
    try:
        while True:
            request = connection.next_request()
            if request is None:
                return found, "end"
            assert request.length is None or request.length >= 0
            body = connection.body()
            assert request.length in (None, len(body)) and len(body) <= LIMIT_BYTES
            assert not held or held[-1] == 0
            found.append((request.method, request.path, request.query, body))
    except Refused as error:
        assert error.status in (400, 408, 413, 417, 431, 501, 505) and error.text
        return found, error.status
    except Gone:
        return found, "gone"


def test_body_in_a_great_many_small_chunks_costs_little_and_others_run_after_each(monkeypatch):
    """In processor time: how long it takes is up to the others, which each time may be whole turns of other processes."""
    turns = []
    monkeypatch.setattr(http_connection, "let_others_run", lambda: turns.append(None))
    whole = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50000 + b"0\r\n\r\n"
    connection = HttpConnection(Pieces([whole]), None, Bounds(0, 0, 10**6), lambda *_: None, Turnstile(Breaks()))
    connection.next_request()
    began_s = time.thread_time()
    assert connection.body() == b"x" * 50000
    assert time.thread_time() - began_s < 2.0
    assert len(turns) == 50000


# -- the strict reader --------------------------------------------------------------
#
# It is written from RFC 9112 alone, for a whole stream at once, and says no to everything that the RFC lets a server say no to.

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
LINE = re.compile(rb"(%b) ([^\x00-\x20\x7f]+) HTTP/1\.([0-9])" % TOKEN)
FIELD = re.compile(rb"(%b):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*" % TOKEN)
CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
ONCE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"origin", b"expect", b"authorization")


class No(Exception):
    """Not a request that two readers would understand alike; or not all of one."""


def line_of(stream, at):
    end = stream.find(b"\r\n", at)
    if end < 0:
        raise No
    line = stream[at:end]
    if b"\n" in line or b"\r" in line:
        raise No
    return line, end + 2


def strict(stream):
    """The requests with their bodies, and whether all of the stream was understood."""
    found, at = [], 0
    try:
        while True:
            while stream.startswith(b"\r\n", at):
                at += 2
            if at == len(stream):
                return found, True
            request, at = strict_one(stream, at)
            found.append(request)
    except No:
        return found, False


def strict_one(stream, at):
    begins_at = at
    line, at = line_of(stream, at)
    first = LINE.fullmatch(line)
    fields = []
    while True:
        line, at = line_of(stream, at)
        if not line:
            break
        field = FIELD.fullmatch(line)
        if field is None:
            raise No
        fields.append((field.group(1).lower(), field.group(2)))
    if first is None or len(fields) > 100 or at - 4 - begins_at > HEAD_BYTES:
        raise No
    names = [name for name, _ in fields]
    known = dict(fields)
    if any(names.count(name) > 1 for name in ONCE) or any(len(name) > 256 for name in (*names, first.group(1))):
        raise No
    is_old = first.group(3) == b"0"
    path, query = target_of(first.group(2), known)
    if known.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise No
    if (b"host" not in known and not is_old) or not re.fullmatch(rb"|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", known.get(b"host", b"")):
        raise No
    body, at = strict_body(stream, at, known, is_old)
    return (first.group(1).decode(), path, query, body), at


def target_of(target, known):
    if target.lower().startswith(b"http://"):
        end = min(at for at in (target.find(mark, 7) for mark in (b"/", b"?")) if at >= 0) if re.search(rb"[/?]", target[7:]) else len(target)
        if b"#" in target or b"@" in target[7:end] or end == 7 or target[7:end].lower() != known.get(b"host", b"").lower():
            raise No
        target = target[end:] if target[end : end + 1] == b"/" else b"/" + target[end:]
    elif target[:1] != b"/" and target != b"*":
        raise No
    path, _, query = target.partition(b"?")
    return path, query


def strict_body(stream, at, known, is_old):
    length = known.get(b"content-length")
    if b"transfer-encoding" in known:
        if length is not None or is_old or known[b"transfer-encoding"].lower() != b"chunked":
            raise No
        return strict_chunks(stream, at)
    if length is None:
        return b"", at
    if not re.fullmatch(rb"[0-9]{1,18}", length) or int(length) > LIMIT_BYTES or at + int(length) > len(stream):
        raise No
    return stream[at : at + int(length)], at + int(length)


def strict_chunks(stream, at):
    body = b""
    while True:
        end = stream.find(b"\r\n", at)
        size = None if end < 0 else CHUNK.fullmatch(stream[at:end])
        if size is None or end - at > 256:
            raise No
        count = int(size.group(1), 16)
        at = end + 2
        if not count:
            break
        if len(body) + count > LIMIT_BYTES or stream[at + count : at + count + 2] != b"\r\n":
            raise No
        body += stream[at : at + count]
        at += count + 2
    begins_at = at
    while True:
        end = stream.find(b"\r\n", at)
        if end < 0 or end - begins_at > HEAD_BYTES:
            raise No
        if end == at:
            return body, at + 2
        if not FIELD.fullmatch(stream[at:end]):
            raise No
        at = end + 2


# -- what chance makes ---------------------------------------------------------------


def good(chance):
    """A request that any reader takes, and what it is."""
    method = chance.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))
    path = b"/" + bytes(chance.choice(b"abc/%2-_~\xe9") for _ in range(chance.randrange(12)))
    query = bytes(chance.choice(b"a=&1?") for _ in range(chance.randrange(6)))
    body = bytes(chance.choice(b"\r\n\0aG:0 ") for _ in range(chance.choice((0, 0, 1, 5, 40, 900))))
    lines = [b"%b %b%b HTTP/1.1" % (method.encode(), path, b"?" + query if query else b""), b"Host: h:80"]
    lines += [b"X-%d:%b" % (number, chance.choice((b"", b" ", b" a", b"\tb c\t", b": \xff"))) for number in range(chance.randrange(4))]
    framed, raw = framing(chance, body)
    lines += framed
    lines[2:] = chance.sample(lines[2:], len(lines) - 2)
    stream = b"\r\n" * (chance.random() < 0.1) + b"\r\n".join(lines) + b"\r\n\r\n" + raw
    return stream, (method, path, query, body)


def framing(chance, body):
    what = chance.random()
    if not body and what < 0.5:
        return [], b""
    expected = [b"Expect: 100-continue"] if chance.random() < 0.1 else []
    if what < 0.75:
        return [*expected, chance.choice((b"Content-Length: %d", b"content-length:%06d")) % len(body)], body
    raw = b""
    at = 0
    while at < len(body):
        piece = body[at : at + chance.choice((1, 3, 16, 400))]
        at += len(piece)
        raw += chance.choice((b"%x", b"%X", b"0%x", b"%x ;a=b", b'%x;a="b"')) % len(piece) + b"\r\n" + piece + b"\r\n"
    trailer = chance.choice((b"", b"", b"X: y\r\n", b"Content-Length: 5\r\nA: b\r\n"))
    return [*expected, chance.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked "))], raw + b"0\r\n" + trailer + b"\r\n"


CRUMBS = (
    b"\n", b"\r", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\x0b", b"\xff", b",", b";", b"0", b"-", b"+", b"0x", b"_", b"ffffffff",
    b"fffffffffffffff", b"ffffffffffffffffff", b"-1", b"\r\n ", b"\r\n\t", b" :", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.0",
    b"HTTP/2.0", b"\r\nContent-Length: 5", b"\r\nContent-Length: 5\r\nContent-Length: 6", b"\r\nContent-Length: 5, 5",
    b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding : chunked", b"\r\nTransfer-Encoding:\x0bchunked", b"\nTransfer-Encoding: chunked",
    b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", b"\r\nTransfer-Encoding: gzip, chunked", b"\r\nX: y\r\n Transfer-Encoding: chunked",
    b"\r\nContent-Length: -1", b"\r\nContent-Length: 99999999999999999999", b"\r\nHost: two", b"0\r\n\r\n", b"5\r\nhello\r\n", b"http://h:80",
)  # fmt: skip


def damaged(chance, stream):
    """With a crumb put in, a piece taken out or doubled, or a bit turned, mostly in the first part."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        ends = [found.end() for found in re.finditer(rb"\r\n|:|[0-9a-f]+", stream)] or [0]
        at = chance.choice(ends) - chance.choice((0, 0, 1, 2)) if chance.random() < 0.7 else chance.randrange(len(stream) + 1)
        at = max(0, at)
        what = chance.random()
        if what < 0.6:
            stream = stream[:at] + chance.choice(CRUMBS) + stream[at:]
        elif what < 0.75:
            stream = stream[:at] + stream[at + chance.choice((1, 1, 2, 10)) :]
        elif what < 0.85:
            stream = stream[: at + 10] + stream[at:]
        elif stream:
            at = min(at, len(stream) - 1)
            stream = stream[:at] + bytes([stream[at] ^ 1 << chance.randrange(8)]) + stream[at + 1 :]
    return stream


def cut(chance, stream):
    """In pieces: each byte for itself, at some places, or not at all."""
    what = chance.random()
    if what < 0.2:
        return [stream[at : at + 1] for at in range(len(stream))]
    places = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.randrange(8))) if what < 0.8 else []
    return [stream[begin:end] for begin, end in zip([0, *places], [*places, len(stream)])]


def agree(stream, pieces):
    """The server's reader and the strict one read the same."""
    ours, how = read_all(pieces)
    theirs, whole = strict(stream)
    assert ours == theirs and (how == "end") is whole, "%r: %r %r, not %r %r" % (stream, ours, how, theirs, whole)


# -- the tests -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_good_requests_come_out_as_they_went_in_however_they_are_cut(seed):
    chance = random.Random("good %d" % seed)
    for _ in range(200):
        made = [good(chance) for _ in range(chance.choice((1, 2, 5)))]
        stream = b"".join(raw for raw, _ in made)
        expected = [what for _, what in made]
        assert read_all(cut(chance, stream)) == (expected, "end")
        # The strict reader is no stricter than that.
        assert strict(stream) == (expected, True)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_requests_are_read_as_a_strict_reader_reads_them(seed):
    chance = random.Random("damaged %d" % seed)
    for _ in range(700):
        stream = damaged(chance, good(chance)[0]) + good(chance)[0]
        agree(stream, cut(chance, stream))


@pytest.mark.parametrize("seed", range(4))
def test_random_words_are_read_as_a_strict_reader_reads_them(seed):
    chance = random.Random("words %d" % seed)
    words = (*CRUMBS, b"GET", b"POST", b" ", b"/", b" HTTP/1.1\r\n", b"Host: h\r\n", b"\r\n", b"1", b"a", b"Expect: 100-continue\r\n")
    for _ in range(1500):
        stream = b"".join(chance.choice(words) for _ in range(chance.randrange(30)))
        if chance.random() < 0.7:
            stream = b"POST /f HTTP/1.1\r\nHost: h\r\n" + stream
        agree(stream, cut(chance, stream))


@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_are_refused(seed):
    chance = random.Random("bytes %d" % seed)
    for _ in range(300):
        stream = bytes(chance.randrange(256) for _ in range(chance.randrange(300)))
        agree(stream, cut(chance, stream))


@pytest.mark.parametrize("size", [HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + 5, 3 * HEAD_BYTES])
def test_bound_of_a_head_is_the_same_however_it_is_cut(size):
    chance = random.Random(size)
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX: "
    stream = head + b"x" * (size - len(head)) + b"\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n"
    for pieces in ([stream], cut(chance, stream), [stream[:size], stream[size:]], [stream[: size + 3], stream[size + 3 :]]):
        found, how = read_all(list(pieces))
        assert (len(found), how) == ((2, "end") if size <= HEAD_BYTES else (0, 431))


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("lines, body", [
    (b"Content-Length: 0\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 0", b"0\r\n\r\n"),
    (b"Content-Length: 0\r\nContent-Length: 35", b""),
    (b"Content-Length: 0, 35", b""),
    (b"Content-Length : 35", b""),
    (b"X: y\nContent-Length: 35", b""),
    (b"X: y\rContent-Length: 35", b""),
    (b"X: y\r\n Content-Length: 35", b""),
    (b"Content-Length:\r\n 35", b""),
    (b"Content-Length: -35", b""),
    (b"Content-Length: 0x23", b""),
    (b"Transfer-Encoding: chunked", b"0\n\n"),
    (b"Transfer-Encoding: chunked", b"-1\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"+0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0x0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"10000000000000000\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"1\r\nxx\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"1\r\nx0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"1;\n\r\nx\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0\r\nX: y\n\n\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0\r\n\n\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0\r\nno colon\r\n\r\n"),
    (b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n"),
])  # fmt: skip
def test_second_request_behind_one_whose_end_is_in_doubt_is_never_read(lines, body):
    chance = random.Random(1)
    stream = b"POST /f HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n\r\n" + body + SMUGGLED
    for _ in range(20):
        found, how = read_all(cut(chance, stream))
        assert not found and how in (400, 413, 501)


@pytest.mark.parametrize("seed", range(4))
def test_parse_raises_nothing_but_refused(seed):
    chance = random.Random("parse %d" % seed)
    for _ in range(1500):
        head = damaged(chance, good(chance)[0]).partition(b"\r\n\r\n")[0]
        try:
            parse(head).segments
        except Refused:
            pass


def test_socket_that_times_out_is_a_refusal_within_a_request_and_an_end_before_it():
    class Slow(Pieces):
        def recv(self, most):
            if not self.pieces:
                raise socket.timeout
            return super().recv(most)

    whole = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    for end in range(len(whole)):
        connection = HttpConnection(Slow([whole[:end]]), None, Bounds(1, 1, LIMIT_BYTES), lambda *_: None, Turnstile(Breaks()))
        if not end:
            assert connection.next_request() is None
            continue
        with pytest.raises(Refused) as caught:
            connection.next_request()
            connection.body()
        assert caught.value.status == 408
