"""Objects to bytes and back."""

import pytest

from gearmand.encoders import BY_NAME, encoder_of
from gearmand.errors import ConfigError


@pytest.mark.parametrize(
    "name, value, data",
    [
        ("bytes", b"\0\xff", b"\0\xff"),
        ("text", "grün", "grün".encode()),
        ("text", "\udcff", b"\xff"),
        ("json", {"a": [1, None, "ü"]}, b'{"a":[1,null,"\\u00fc"]}'),
    ],
)
def test_object_goes_to_bytes_and_back(name, value, data):
    encoder = encoder_of(name)
    assert encoder.encode(value) == data
    assert encoder.decode(data) == value


def test_pickle_takes_any_object():
    encoder = encoder_of("pickle")
    assert encoder.decode(encoder.encode({(1, 2): {3}})) == {(1, 2): {3}}


@pytest.mark.parametrize("value, data", [("ä", "ä".encode()), (bytearray(b"a"), b"a"), (memoryview(b"a"), b"a"), (None, b"")])
def test_bytes_takes_what_is_as_good_as_bytes(value, data):
    assert encoder_of(None).encode(value) == data


@pytest.mark.parametrize("name, value", [("bytes", 5), ("bytes", {}), ("text", b"x"), ("json", b"x"), ("json", {1, 2})])
def test_object_that_does_not_fit_is_a_type_error(name, value):
    with pytest.raises(TypeError):
        encoder_of(name).encode(value)


@pytest.mark.parametrize("name, nothing", [("bytes", b""), ("text", ""), ("json", None), ("pickle", None)])
def test_nothing_decodes_to_nothing(name, nothing):
    assert encoder_of(name).decode(b"") == nothing


def test_encoder_of_ones_own():
    class Mine:
        def encode(self, value):
            return b"%d" % value

        def decode(self, data):
            return int(data)

    mine = Mine()
    assert encoder_of(mine) is mine


@pytest.mark.parametrize("wrong", ["yaml", object(), 5])
def test_what_is_no_encoder_is_told(wrong):
    with pytest.raises(ConfigError, match="encode"):
        encoder_of(wrong)


def test_every_encoder_has_a_name():
    assert set(BY_NAME) == {"bytes", "text", "json", "pickle"}
