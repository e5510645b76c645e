"""Heads of requests: what is understood, and what is refused because two readers might understand it differently."""

from __future__ import annotations

import random

import pytest

from gearmand.http_request import HEAD_BYTES, Refused, check_host, check_origin, chunk_size, parse


def head(*lines):
    return b"\r\n".join(lines)


GET = b"GET / HTTP/1.1"
HOST = b"Host: h"


def status_of(data):
    with pytest.raises(Refused) as caught:
        parse(data)
    return caught.value.status


def test_request_is_its_method_path_query_and_headers():
    request = parse(head(b"POST /a/b%20c?x=1&y HTTP/1.1", b"HOST: h:80", b"Content-Length: 12", b"x-a: \t1 ", b"X-A:2"))
    assert (request.method, request.path, request.query, request.is_old) == ("POST", b"/a/b%20c", b"x=1&y", False)
    assert request.fields == {"host": "h:80", "content-length": "12", "x-a": "1, 2"}
    assert (request.length, request.segments) == (12, [b"a", b"b c"])


@pytest.mark.parametrize("version, connection, keeps", [
    (b"1.1", b"", True),
    (b"1.1", b"close", False),
    (b"1.1", b"Keep-Alive, Close", False),
    (b"1.0", b"", False),
    (b"1.0", b"Keep-Alive", True),
])  # fmt: skip
def test_connection_is_kept_as_version_and_header_say(version, connection, keeps):
    assert parse(head(b"GET / HTTP/" + version, HOST, b"Connection: " + connection)).keeps_alive is keeps


def test_request_without_host_is_one_of_http_1_0_alone():
    assert parse(b"GET / HTTP/1.0").is_old
    assert status_of(b"GET / HTTP/1.1") == 400


def test_target_may_name_the_host_that_the_header_names():
    assert parse(head(b"GET http://h/a?b HTTP/1.1", HOST)).path == b"/a"
    assert parse(head(b"GET http://h HTTP/1.1", HOST)).path == b"/"
    assert status_of(head(b"GET http://other/a HTTP/1.1", HOST)) == 400
    assert status_of(head(b"GET https://h/a HTTP/1.1", HOST)) == 400


@pytest.mark.parametrize("first", [
    b"", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET /a b HTTP/1.1", b"G(T / HTTP/1.1",
    b"GET a HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1.10", b"GET / HTTP/11", b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1",
    b"GET\t/\tHTTP/1.1", b"\x16\x03\x01", b"\0REQ\0\0\0\x07",
])  # fmt: skip
def test_first_line_that_is_none_is_refused(first):
    assert status_of(head(first, HOST)) == 400


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.1"])
def test_other_versions_are_refused(version):
    assert status_of(head(b"GET / " + version, HOST)) == 505


@pytest.mark.parametrize("line", [
    b"no colon", b": no name", b"Name : blank before the colon", b" folded", b"\tfolded", b"N\xc3\xa4me: x", b"A: b\x00c", b"A: b\x0bc",
    b"A(b): c", b"",
])  # fmt: skip
def test_header_that_is_none_is_refused(line):
    assert status_of(head(GET, HOST, line, b"Last: 1")) == 400


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\nHost: h", b"GET / HTTP/1.1\r\nHost: h\nX: y", b"GET / HTTP/1.1\rHost: h", b"GET / HTTP/1.1\r\nHost: h\r",
    b"GET / HTTP/1.1\r\nHost: h\r\r\nX: y",
])  # fmt: skip
def test_lines_with_another_end_are_refused(data):
    assert status_of(data) == 400


@pytest.mark.parametrize("lines", [
    (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    (b"Content-Length: 5", b"Content-Length: 6"),
    (b"Content-Length: 5", b"Content-Length: 5"),
    (b"Content-Length: 5, 5",),
    (b"Content-Length: +5",),
    (b"Content-Length: -5",),
    (b"Content-Length: 0x5",),
    (b"Content-Length: 5 5",),
    (b"Content-Length: 1_0",),
    (b"Content-Length: \xb2",),
    (b"Content-Length:",),
    (b"Content-Length: 99999999999999999999",),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    (b"Host: other",),
])  # fmt: skip
def test_request_whose_end_or_host_is_in_doubt_is_refused(lines):
    assert status_of(head(b"POST / HTTP/1.1", HOST, *lines)) == 400


@pytest.mark.parametrize("coding", [b"identity", b"gzip", b"gzip, chunked", b"chunked, chunked", b"chunked;q=1", b"xchunked", b"\"chunked\""])
def test_transfer_coding_that_is_not_chunked_is_refused(coding):
    assert status_of(head(b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: " + coding)) == 501


def test_http_1_0_has_no_chunks():
    assert status_of(head(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked")) == 400


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"a@b", b"a,b", b"h:", b"h:port", b"h:123456", b"[::1", b"h%41"])
def test_host_that_is_none_is_refused(host):
    assert status_of(head(GET, b"Host: " + host)) == 400


def test_expectation_other_than_100_continue_is_refused():
    assert parse(head(b"POST / HTTP/1.1", HOST, b"Expect: 100-Continue")).fields["expect"] == "100-Continue"
    assert status_of(head(b"POST / HTTP/1.1", HOST, b"Expect: more")) == 417


def test_more_than_100_headers_are_refused():
    assert parse(head(GET, HOST, *[b"A: b"] * 99)).fields["a"].count("b") == 99
    assert status_of(head(GET, HOST, *[b"A: b"] * 100)) == 431


@pytest.mark.parametrize("line, size", [(b"0", 0), (b"1f", 31), (b"1F;name=value", 31), (b"00000000000000a ; x", 10)])
def test_size_of_a_chunk(line, size):
    assert chunk_size(line) == size


@pytest.mark.parametrize("line", [b"", b"g", b"0x1", b"-1", b"+1", b" 1", b"1 1", b"1,1", b"f" * 16, b"1;\x00", b"1\n"])
def test_size_of_a_chunk_that_is_none_is_refused(line):
    with pytest.raises(Refused):
        chunk_size(line)


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_are_a_request_or_refused(seed):
    """Whatever arrives, `parse` returns a request or raises Refused."""
    chance = random.Random(seed)
    words = [b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b":", b"Host", b"Content-Length", b"Transfer-Encoding",
             b"chunked", b"5", b",", b"\t", b"\0", b"\xff", b"%", b"?", b"http://", b"Expect", b"100-continue"]  # fmt: skip
    for _ in range(3000):
        data = b"".join(chance.choice(words) for _ in range(chance.randrange(30)))
        if chance.random() < 0.5:
            data = head(b"POST /f HTTP/1.1", b"Host: h", data)
        try:
            request = parse(data)
        except Refused as error:
            assert 400 <= error.status < 600
        else:
            assert request.path[:1] in (b"/", b"*") and (request.length is None or request.length >= 0)
            assert not {"content-length", "transfer-encoding"} <= set(request.fields)


# -- browsers ------------------------------------------------------------------


def asked(*lines):
    return parse(head(b"POST /x HTTP/1.1", *lines))


@pytest.mark.parametrize("host", [
    "127.0.0.1", "127.0.0.1:8080", "10.1.2.3", "[::1]:8080", "localhost:1", "LOCALHOST", "gearmand", "gearmand:8080", "x.localhost",
    "queue.default.svc.cluster.local", "ip-10-0-0-1.ec2.internal:80", "known.example.org", "known.example.org.:80",
])  # fmt: skip
def test_host_that_nobody_else_can_own_is_taken(host):
    check_host(asked(b"Host: " + host.encode()), {"known.example.org"})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "1.2.3", "localhost.evil.example", "local.example"])
def test_host_that_anybody_may_own_is_refused(host):
    with pytest.raises(Refused) as caught:
        check_host(asked(b"Host: " + host.encode()), {"known.example.org"})
    assert caught.value.status == 421 and "--http-host" in caught.value.text
    check_host(asked(b"Host: " + host.encode()), {"*"})


@pytest.mark.parametrize("lines", [
    (), (b"Origin: http://h",), (b"Origin: https://H",), (b"Sec-Fetch-Site: same-origin",), (b"Sec-Fetch-Site: none",),
])  # fmt: skip
def test_request_of_no_page_or_our_own_is_taken(lines):
    check_origin(asked(b"Host: h", *lines))


@pytest.mark.parametrize("lines", [
    (b"Origin: http://other",), (b"Origin: http://h:81",), (b"Origin: null",), (b"Origin:",), (b"Sec-Fetch-Site: cross-site",),
    (b"Sec-Fetch-Site: same-site",), (b"Origin: http://h", b"Sec-Fetch-Site: cross-site"),
])  # fmt: skip
def test_request_of_another_page_is_refused(lines):
    with pytest.raises(Refused) as caught:
        check_origin(asked(b"Host: h", *lines))
    assert caught.value.status == 403


def test_head_has_a_bound():
    assert HEAD_BYTES == 16384
