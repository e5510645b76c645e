"""JSON a piece at a time: what the standard library makes of a body in one go, whatever stands where the pieces end."""

from __future__ import annotations

import base64
import json
import random

import pytest

from gearmand import json_bodies
from gearmand.api_fields import Field, values_of
from gearmand.http_request import Refused
from gearmand.json_bodies import from_base64, from_json, to_json

PIECE = json_bodies._PIECE_BYTES
LONG = json_bodies._LONG_BYTES
FIELDS = [Field("workload", "bytes", "")]


def workload_of(body):
    return values_of(FIELDS, {}, b"", from_json(body))["workload"]


# -- shape -----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [
    b"[" * 100_000, b'{"a":' * 100_000, b'{"a": "\\"", "b": ' + b"[" * 5000, b'{"a": "\\\\", "b": ' + b"[" * 5000, b'["' + b'","' * 5000,
    b'{"a": [' + b"1," * 5000 + b"1]}", b'{"workload": "' + b"[" * 5000 + b'", "a": ' + b"[" * 5000, b'{"a": ' + b" " * 20_000 + b"1}",
    b'{"a": ' + b"9" * 200_000 + b"}", b'"a"' * 5000,
])  # fmt: skip
def test_body_that_is_deep_or_wide_never_comes_to_the_decoder(body, monkeypatch):
    loads = json.loads
    monkeypatch.setattr(json_bodies.json, "loads", lambda text, **options: loads(text) if text[:1] == b'"' else pytest.fail("it came"))
    with pytest.raises(Refused, match="deeper or wider"):
        from_json(body)


@pytest.mark.parametrize("apart", [1, 70])
def test_shape_of_a_body_is_counted_to_the_end_wherever_its_values_stand(apart):
    values = json_bodies._VALUES

    def body(count):
        # Lists in lists, with blanks between them.
        return b'{"a": [' + (b" " * apart).join([b"["] * count) + b"]" * count + b"]}"

    inside = from_json(body(values - 4))
    assert json.dumps(inside).count("[") == values - 3
    with pytest.raises(Refused, match="deeper or wider"):
        from_json(body(values + 1))


@pytest.mark.parametrize("workload", ["[" * 5000, '{"a": "b\\\\"}' * 1000, '"' * 5000, "\\" * 5001, ",,{{[[" * 5000])
def test_workload_may_be_like_json_itself(workload):
    body = json.dumps({"workload": workload, "base64": True}).encode()
    assert from_json(body) == {"workload": workload.encode(), "base64": True}


def test_body_may_have_as_many_strings_and_lists_as_there_are_bounds_for():
    strings = b"{%b}" % b", ".join(b'"%d": "%b"' % (number, b"x" * 60) for number in range(json_bodies._VALUES - 1))
    assert len(from_json(strings)) == json_bodies._VALUES - 1
    with pytest.raises(Refused, match="deeper or wider"):
        from_json(b"{" * (json_bodies._VALUES + 1))


# -- bodies to values ------------------------------------------------------------------


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("first", [LONG, PIECE, 2 * PIECE])
def test_string_is_whole_wherever_a_piece_of_it_ends(first, ascii_only):
    for before in range(first - 60, first + 4):
        text = "x" * before + "\U0010ffff\U0001f600\u20ac\xe4\n\\\\\"/\x00\U0010ffff" + "y" * (before % 7)
        body = json.dumps({"function": "f", "workload": text, "unique": "u"}, ensure_ascii=ascii_only).encode()
        assert workload_of(json.dumps({"workload": text}, ensure_ascii=ascii_only).encode()) == text.encode()
        assert workload_of(json.dumps({"workload": text}).replace("\\ud83d\\ude00", "\\uD83D\\uDE00").encode()) == text.encode()
        found = from_json(body)
        assert list(found) == ["function", "workload", "unique"] and found["function"] == "f" and found["unique"] == "u"


@pytest.mark.parametrize("seed", range(4))
def test_body_is_read_as_the_standard_library_reads_it_damaged_or_not(seed):
    choose = random.Random(seed)
    characters = ["a", "b" * 50, '"', "\\", "\n", "\x1f", "\xe4", "\u20ac", "\U0001f600", "[{,:]}", "\\u0041", " "]
    for _ in range(400):
        texts = ["".join(choose.choices(characters, k=choose.choice((3, 30, 600)))) for _ in range(3)]
        given = {"a": texts[0], "b": {"base64": texts[1]}, "c": [1, None, True, 1.5, texts[2][:5]], "d": -7}
        body = bytearray(json.dumps(given, ensure_ascii=choose.random() < 0.5).encode())
        for _ in range(choose.choice((0, 0, 1, 3))):
            body[choose.randrange(len(body))] = choose.choice(b'"\\u{}[],:x \n\xe4')
        try:
            expected = json.loads(bytes(body))
            expected = json.loads(json.dumps(expected, ensure_ascii=False).encode()) if isinstance(expected, dict) else None
        except ValueError:
            expected = None
        try:
            found = from_json(bytes(body))
        except Refused:
            assert expected is None, bytes(body)
        else:
            assert json.loads(to_json(found)) == expected or expected is None and "\\ud" in repr(found), bytes(body)


@pytest.mark.parametrize("inside", [
    b"\n", b"\xff", b"\\x", b"\\u12", b"\\u12G4", b"\\ud800", b"\\ud83dabcdef", b"\\ud83d\\u0041", b"\xe2\x82", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc3",
])  # fmt: skip
def test_long_string_that_is_broken_is_refused(inside):
    for before in (LONG, PIECE - 1, PIECE - 3, PIECE + 5):
        for body in (b'{"workload": "%b%bend"}', b'{"workload": "%b%b"}', b'{"workload": "%b%b'):
            with pytest.raises(Refused, match="no JSON"):
                from_json(body % (b"x" * before, inside))


def test_long_string_without_an_end_is_refused_with_its_place():
    for end in (b"", b"\\", b"\\u00"):
        with pytest.raises(Refused, match="the string that begins at byte 14 is broken from byte 5014 on"):
            from_json(b'{"workload": "' + b"x" * 5000 + end)


def test_long_name_is_refused():
    with pytest.raises(Refused, match="a name of more than 64 bytes"):
        from_json(b'{"%b": 1}' % (b"x" * 300))
    assert from_json(b'{"%b": 1}' % (b"x" * 64)) == {"x" * 64: 1}


@pytest.mark.parametrize("rest, why", [
    (b", x}", "Expecting property name enclosed in double quotes"), (b', "a": "\n"}', "Invalid control character"), (b"}\xff", "invalid start byte"), (b', "a": nul}', "Expecting value"),
])  # fmt: skip
def test_complaint_about_a_body_with_a_long_string_has_no_place_of_another_body(rest, why):
    with pytest.raises(Refused, match="no JSON: .*" + why) as refused:
        from_json(b'{"workload": "%b"' % (b"x" * 5000) + rest)
    assert "char " not in refused.value.text and "position" not in refused.value.text


def test_long_strings_of_lists_are_there():
    text = "x" * 300
    assert from_json(json.dumps({"a": [text, 1, [text, {"b": text}], "short"]}).encode()) == {"a": [text.encode(), 1, [text.encode(), {"b": text.encode()}], "short"]}


def test_long_string_is_no_word_and_no_name():
    fields = [Field("flag", "flag", ""), Field("word", "x|y", ""), Field("number", "number", ""), Field("seconds", "seconds", ""), Field("name", "name", "")]
    for field in fields:
        for text in ("true" + " " * 300, "x" * 100_000, "1" * 300_000, "y" + "\0" * 100):
            if not (field.kind == "name" and "\0" not in text and len(text) < 65_536):
                with pytest.raises(Refused, match=field.name + ": expected"):
                    values_of([field], {}, b"", from_json(json.dumps({field.name: text}).encode()))


class Taken:
    """In the place of Breaks: how many might have been taken."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        return self

    def take(self):
        self.count += 1


def test_decoder_sees_no_long_string_and_breaks_come_between_its_pieces(monkeypatch):
    seen, breaks = [], Taken()
    loads = json.loads
    monkeypatch.setattr(json_bodies.json, "loads", lambda text, **options: (seen.append(len(text)), loads(text, **options))[1])
    monkeypatch.setattr(json_bodies, "Breaks", breaks)
    workload = bytes(range(1, 128)) * 10_000
    assert workload_of(json.dumps({"workload": workload.decode()}).encode()) == workload
    assert max(seen) <= PIECE + 2 <= 16_384 and breaks.count >= len(workload) // PIECE
    breaks.count = 0
    assert workload_of(b'{"workload": {"base64": "%b"}}' % base64.b64encode(workload)) == workload
    assert breaks.count >= 2 * len(workload) // PIECE
    breaks.count = 0
    from_json(b"{%b}" % b", ".join(b'"%d": "%b"' % (number, b"\\n" * 30) for number in range(150)))
    assert breaks.count >= 150


def test_base64_ends_where_it_is_padded():
    text = base64.b64encode(bytes(3 * PIECE)).decode()
    assert from_base64(text) == from_base64(text.encode()) == bytes(3 * PIECE)
    assert from_base64(text + "AA==") == bytes(3 * PIECE + 1)
    for wrong in (text[: PIECE - 4] + "AA==" + text, text + "AA==AAAA", text + "A", text + "AA=", text[:100] + "!" + text, text + "\xe4"):
        with pytest.raises(ValueError):
            from_base64(wrong)
    for wrong in (None, 5, ["AAAA"], True, [], {}, {"a": 1}, bytearray(b"AAAA")):
        with pytest.raises(TypeError):
            from_base64(wrong)


# -- values to JSON ---------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    b"text" * PIECE, "\xe4\u20ac\U0001f600\"\\\n\0".encode() * PIECE, b"\xff" + bytes(3 * PIECE), b"x" * 3 * PIECE + b"\xc3", b"x" * (PIECE - 1) + b"\xe2\x82\xac" * 5,
    b"x" * PIECE, b"x" * (PIECE + 1), bytes(PIECE + 2),
])  # fmt: skip
def test_long_bytes_are_the_same_json_as_short_ones(data):
    value = {"handle": b"H", "result": data, "data": [data, b"short", b"\xff"], "n": None}
    assert to_json(value) == json.dumps(value, ensure_ascii=False, default=json_bodies._text_or_base64).encode()
    assert to_json(value, True) == json.dumps(value, ensure_ascii=False, default=json_bodies._base64).encode()
    assert workload_of(to_json({"workload": data})) == workload_of(to_json({"workload": data}, True)) == data


def test_views_and_a_great_many_bytes_of_some_length_are_json_too():
    large = bytes(range(256)) * 500
    value = {"result": memoryview(large), "data": [memoryview(b"ab")[1:]] + [b"x" * 100] * 5000}
    expected = {"result": {"base64": base64.b64encode(large).decode()}, "data": ["b"] + ["x" * 100] * 5000}
    assert json.loads(to_json(value)) == expected


def test_encoder_has_breaks(monkeypatch):
    breaks = Taken()
    monkeypatch.setattr(json_bodies, "Breaks", breaks)
    for as_base64 in (False, True):
        to_json({"result": bytes(100 * PIECE), "data": [b"x" * (LONG + 1)] * 50}, as_base64)
    assert breaks.count == 300


def test_answer_ends_as_is_wanted_and_may_quote_what_is_no_text():
    assert to_json({"a": b"x"}, end=b"\n") == b'{"a": "x"}\n' and to_json([b"x" * 1000], end=b"\n") == b'["%b"]\n' % (b"x" * 1000)
    assert json.loads(to_json({"text": "there is no field \udc00"})) == {"text": "there is no field \udc00"}
