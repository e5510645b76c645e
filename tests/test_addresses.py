"""Text to addresses."""

import pytest

from gearmand.addresses import Address, parse, parse_all
from gearmand.errors import ConfigError


@pytest.mark.parametrize(
    "given, expected",
    [
        ("host", ("host", 4730)),
        ("host:1", ("host", 1)),
        (" host:1 ", ("host", 1)),
        (":4731", ("127.0.0.1", 4731)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 4730)),
        ("::1", ("::1", 4730)),
        (("host", 5), ("host", 5)),
        (["::1", "5"], ("::1", 5)),
    ],
)
def test_address_is_read(given, expected):
    assert parse(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "host:", "host:x", "host:0", "host:65536", "host:-1", "host:+1", "host:1_0", "host:\uff11", "host:" + "1" * 5000, "[::1", "[::1]7",
        ("host",), ("host", True), ("host", 1.5), ("host", b"1"), ("", 5), (5, 5), 7, None,
    ],
)  # fmt: skip
def test_wrong_address_is_told(given):
    with pytest.raises(ConfigError) as caught:
        parse(given)
    assert repr(given) in str(caught.value)


def test_address_reads_as_it_is_written():
    assert [str(parse(text)) for text in ("host:1", "[::1]:2")] == ["host:1", "[::1]:2"]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("a,b:1", [("a", 4730), ("b", 1)]),
        ("a, ,a:4730,", [("a", 4730)]),
        (("a", 1), [("a", 1)]),
        (("a", "b"), [("a", 4730), ("b", 4730)]),
        (["a", ("b", 2)], [("a", 4730), ("b", 2)]),
        ([Address("a", 1)], [("a", 1)]),
    ],
)
def test_several_addresses_are_read(given, expected):
    assert parse_all(given) == expected


@pytest.mark.parametrize("given", ["", " , ", [], ()])
def test_no_address_is_told(given):
    with pytest.raises(ConfigError, match="no server is named"):
        parse_all(given)


def test_what_holds_no_addresses_is_told():
    with pytest.raises(ConfigError, match="servers 4730: expected host:port, or several of them"):
        parse_all(4730)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, [("127.0.0.1", 4730)]),
        ({"GEARMAN_SERVERS": "a:1,b"}, [("a", 1), ("b", 4730)]),
        ({"GEARMAN_SERVER": "c:3"}, [("c", 3)]),
        ({"GEARMAN_SERVER": "c", "GEARMAN_SERVERS": "a"}, [("a", 4730)]),
    ],
)
def test_addresses_of_the_environment_are_the_default(monkeypatch, environment, expected):
    for name in ("GEARMAN_SERVER", "GEARMAN_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse_all(None) == expected


@pytest.mark.parametrize("text", ["unix:/run/g.sock", " unix:/run/g.sock ", ("unix:/run/g.sock", 0), ("unix:/run/g.sock", 4730)])
def test_unix_address_has_a_path_and_no_port(text):
    address = parse(text, 99)
    assert address == ("unix:/run/g.sock", 0)
    assert (str(address), address.path) == ("unix:/run/g.sock", "/run/g.sock")
    assert parse(str(address)) == parse(tuple(address)) == address


def test_unix_address_without_a_slash_is_a_host():
    assert parse("unix:99") == ("unix", 99)
    assert parse("unix:99").path is None


def test_unix_addresses_stand_among_others():
    assert [str(each) for each in parse_all("a:1,unix:./b c:d,e")] == ["a:1", "unix:./b c:d", "e:4730"]
