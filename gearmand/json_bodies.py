"""Bodies of JSON to values, and values to JSON, a piece at a time where they are long.

The decoder and the encoder of the standard library keep the interpreter lock
from the first byte to the last, for 2 to 12 ms of each MiB, in which nobody's
job goes on. So they never see a long string:

    body ──▶ the rest, a number in place of each ──▶ decoder ──▶ values
      └────▶ long strings ──▶ [a piece, a break]* ──────────────▶ ┘

and values become JSON by the same way back. (Measured, bodies of 64 MiB, one
after the other: the slowest hundredth of another client's jobs 2 to 7 ms
instead of 70 to 400. What is left is the system's, which takes the memory back,
and before Python 3.10 the joining of the pieces.)

Nor does the decoder see what is deep or wide: it recurses in C, as deep as the
body is, and Python 3.13 ends the process there, because a handler's stack is
small.

Bytes are text in JSON where they are UTF-8, else `{"base64": "..."}`; either
form is understood. Source of the syntax: RFC 8259.
"""

from __future__ import annotations

import base64
import codecs
import json
import os
import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from gearmand.http_request import Refused
from gearmand.yielding import Breaks

# How many lists, objects and values an object of JSON may have, twice as many strings, and how much of it may stand outside of
# strings; that of any operation has a tenth.
_VALUES = 200
_BARE_BYTES = 16 * 1024
_DIGITS = 20
# Longer strings, and longer bytes, are no business of the decoder's and the encoder's.
_LONG_BYTES = 64
# A multiple of 3 and of 4: base64 is made and read in such pieces too.
_PIECE_BYTES = 12 * 1024
# As much of a string as there is: whole characters and escapes, and of two escapes that are one character both.
_CHARACTERS = re.compile(
    rb'(?:[^"\\\x80-\xff]+|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|\\[^u]'
    rb"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*"
)
# What stands for long bytes until the encoder is done. Nobody else can know it.
_MARK = os.urandom(16).hex()

Bytes = Union[bytes, memoryview]


# -- bodies to values --------------------------------------------------------------


def from_json(body: bytes) -> Mapping[str, Any]:
    """The object that is the body of a request; a string in it that is long as its UTF-8. Refused: it is none."""
    long_strings: List[bytes] = []

    def whole(value: Any) -> Any:
        # No other string that the decoder sees has as many characters.
        if isinstance(value, str) and len(value) > _LONG_BYTES:
            return long_strings[int(value)]
        return [whole(each) for each in value] if isinstance(value, list) else value

    def whole_object(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
        if any(len(name) > _LONG_BYTES for name, _ in pairs):
            raise ValueError("a field has a name of more than %d bytes" % _LONG_BYTES)
        return {name: whole(value) for name, value in pairs}

    try:
        rest = _without_long_strings(body, long_strings)
        found = json.loads(rest.decode("utf-8"), object_pairs_hook=whole_object, parse_int=_int, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # The latter not for the body's sake, which is not deep.
        raise Refused(400, "INVALID_JSON", "the body is no JSON: %s" % _why(error, bool(long_strings))[:200]) from None
    if not isinstance(found, dict):
        raise Refused(400, "INVALID_JSON", "the body is no JSON object")
    return found


def _without_long_strings(body: bytes, long_strings: List[bytes]) -> bytes:
    """The body, in place of each long string its number. Refused: it is too deep or too wide. ValueError: a string is broken."""
    breaks = Breaks()
    pieces: List[bytes] = []
    at = bare = values = 0
    while True:
        start = body.find(b'"', at, at + _BARE_BYTES + 1)
        outside = body[at : at + _BARE_BYTES + 1 if start < 0 else start]
        bare += len(outside)
        values += sum(map(outside.count, b"[{,"))
        if bare > _BARE_BYTES or values > _VALUES or len(pieces) > 4 * _VALUES:
            raise Refused(400, "INVALID_JSON", "the body is deeper or wider than that of any operation")
        pieces.append(outside)
        if start < 0:
            return b"".join(pieces)
        end = _CHARACTERS.match(body, start + 1, start + 1 + _LONG_BYTES).end()  # type: ignore[union-attr]
        if body[end : end + 1] == b'"':
            pieces.append(body[start : end + 1])
        else:
            pieces.append(b'"%0*d"' % (_LONG_BYTES + 1, len(long_strings)))
            string, end = _long_string(body, start + 1, breaks)
            long_strings.append(string)
        at = end + 1
        breaks.take()


def _long_string(body: bytes, start: int, breaks: Breaks) -> Tuple[bytes, int]:
    """The string that begins there, as UTF-8, and where its closing quote stands. ValueError: it is broken."""
    found: List[bytes] = []
    at = start
    while body[at : at + 1] != b'"':
        piece = _CHARACTERS.match(body, at, at + _PIECE_BYTES).group()  # type: ignore[union-attr]
        try:
            found.append(json.loads(b'"%b"' % piece).encode("utf-8"))
        except ValueError:
            piece = b""
        if not piece:
            raise ValueError("the string that begins at byte %d is broken from byte %d on, or has no end" % (start, at))
        at += len(piece)
        breaks.take()
    return b"".join(found), at


def _why(error: Exception, elsewhere: bool) -> str:
    """`elsewhere`: where the decoder has found it is no place in the body."""
    if elsewhere and isinstance(error, json.JSONDecodeError):
        return error.msg.rpartition(" at")[0] or error.msg
    return error.reason if elsewhere and isinstance(error, UnicodeError) else str(error)  # type: ignore[attr-defined]


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError("%s is no number" % name)


def from_base64(text: Any) -> bytes:
    """`text`: a string as `from_json` has it. TypeError: it is none. ValueError: it is no base64."""
    if isinstance(text, str):
        text = text.encode("ascii")
    if not isinstance(text, bytes):
        raise TypeError("expected a string, got a %s" % type(text).__name__)
    breaks = Breaks()
    found: List[bytes] = []
    for at in range(0, len(text), _PIECE_BYTES):
        piece = text[at : at + _PIECE_BYTES]
        if at + _PIECE_BYTES < len(text) and b"=" in piece:
            raise ValueError("it goes on behind its end")
        found.append(base64.b64decode(piece, validate=True))
        breaks.take()
    return b"".join(found)


# -- values to JSON -----------------------------------------------------------------


def to_json(value: Any, as_base64: bool = False, end: bytes = b"") -> bytes:
    """`as_base64`: all bytes in that form. `end`: what comes behind."""
    long_ones: List[Bytes] = []

    def of_bytes(data: Bytes) -> Any:
        if len(data) > _LONG_BYTES:
            long_ones.append(data)
            return _MARK
        return _base64(bytes(data)) if as_base64 else _text_or_base64(bytes(data))

    # A name that is no text is quoted in an answer too.
    text = json.dumps(value, ensure_ascii=False, default=of_bytes).encode("utf-8", "backslashreplace")
    if not long_ones:
        return text + end
    breaks = Breaks()
    first, *others = text.split(b'"%b"' % _MARK.encode())
    pieces = [first]
    for data, between in zip(long_ones, others):
        pieces += _long_base64(data, breaks) if as_base64 else _long_text(data, breaks) or _long_base64(data, breaks)
        pieces.append(between)
    return b"".join([*pieces, end])


def _long_text(data: Bytes, breaks: Breaks) -> List[bytes]:
    """Empty: it is no UTF-8."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    pieces = [b'"']
    try:
        for at in range(0, len(data), _PIECE_BYTES):
            text = decode(data[at : at + _PIECE_BYTES], at + _PIECE_BYTES >= len(data))
            pieces.append(json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8"))
            breaks.take()
    except UnicodeDecodeError:
        return []
    pieces.append(b'"')
    return pieces


def _long_base64(data: Bytes, breaks: Breaks) -> List[bytes]:
    pieces = [b'{"base64": "']
    for at in range(0, len(data), _PIECE_BYTES):
        pieces.append(base64.b64encode(data[at : at + _PIECE_BYTES]))
        breaks.take()
    pieces.append(b'"}')
    return pieces


def _text_or_base64(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return _base64(value)


def _base64(value: bytes) -> Any:
    return {"base64": base64.b64encode(value).decode("ascii")}
