"""Bodies of JSON to values, and values to JSON, a piece at a time where they are long.

The decoder and the encoder of the standard library keep the interpreter lock
from the first byte to the last, for 2 to 12 ms of each MiB, in which nobody's
job goes on. So they never see a long string:

    body ──▶ the rest, with a name in place of each ──▶ decoder ──▶ values
      └────▶ long strings ──▶ [a piece, others have their turns]* ────▶ ┘

and values become JSON by the same way back. (Measured, a body of 64 MiB: the
lock is held for 0.2 ms at a time instead of 200 to 700.)

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
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from gearmand.http_request import Refused
from gearmand.yielding import let_others_run

# How many lists, objects and values an object of JSON may have, half as many as strings, and how much of it may stand outside
# of strings; that of any operation has a tenth.
_VALUES = 200
_BARE_BYTES = 16 * 1024
_DIGITS = 20
# Longer strings are no business of the decoder's.
_LONG_BYTES = 256
# A multiple of 3 and of 4: base64 is made and read in such pieces too.
_PIECE_BYTES = 12 * 1024
# Nobody else can know it, so no string begins with it that stands in a body.
_MARK = os.urandom(16).hex()
# As much of a string as there is: whole characters and escapes, and of two escapes that are one character both.
_CHARACTERS = re.compile(
    rb'(?:[^"\\\x80-\xff]+|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|\\[^u]'
    rb"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*",
    re.DOTALL,
)


# -- bodies to values --------------------------------------------------------------


def from_json(body: bytes) -> Mapping[str, Any]:
    """The object that is the body of a request; where a string in it is long, its UTF-8. Refused: it is none."""
    long_strings: List[bytes] = []
    try:
        rest = _without_long_strings(body, long_strings)
        by_name = {"%s%d" % (_MARK, number): string for number, string in enumerate(long_strings)}

        def with_long_strings(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
            if any(name in by_name for name, _ in pairs):
                raise ValueError("a field has a name of more than %d bytes" % _LONG_BYTES)
            return {name: by_name.get(value, value) if isinstance(value, str) else value for name, value in pairs}

        found = json.loads(rest.decode("utf-8"), object_pairs_hook=with_long_strings, parse_int=_int, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # The latter not for the body's sake, which is not deep.
        why = error.msg if long_strings and isinstance(error, json.JSONDecodeError) else str(error)
        raise Refused(400, "INVALID_JSON", "the body is no JSON: %s" % why[:200]) from None
    if not isinstance(found, dict):
        raise Refused(400, "INVALID_JSON", "the body is no JSON object")
    return found


def _without_long_strings(body: bytes, long_strings: List[bytes]) -> bytes:
    """The body, a name in place of each long string. Refused: it is too deep or too wide. ValueError: a string is broken."""
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
            pieces.append(b'"%b%d"' % (_MARK.encode(), len(long_strings)))
            string, end = _long_string(body, start + 1)
            long_strings.append(string)
        at = end + 1


def _long_string(body: bytes, start: int) -> Tuple[bytes, int]:
    """The string that begins there, as UTF-8, and where its closing quote stands. ValueError: it is broken."""
    found: List[bytes] = []
    at = start
    while body[at : at + 1] != b'"':
        piece = _CHARACTERS.match(body, at, at + _PIECE_BYTES).group()  # type: ignore[union-attr]
        if not piece:
            raise ValueError("the string that begins at byte %d is broken at byte %d" % (start, at))
        found.append(json.loads(b'"%b"' % piece).encode("utf-8"))
        at += len(piece)
        let_others_run()
    return b"".join(found), at


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError("%s is no number" % name)


def from_base64(text: Any) -> bytes:
    """`text`: a string of `from_json`. ValueError, TypeError: it is none, or no base64."""
    if isinstance(text, str):
        text = text.encode("ascii")
    found: List[bytes] = []
    for at in range(0, len(text), _PIECE_BYTES):
        piece = text[at : at + _PIECE_BYTES]
        if at + _PIECE_BYTES < len(text) and b"=" in piece:
            raise ValueError("it goes on behind its end")
        found.append(base64.b64decode(piece, validate=True))
        let_others_run()
    return b"".join(found)


# -- values to JSON -----------------------------------------------------------------


def to_json(value: Any, as_base64: bool = False) -> bytes:
    """`as_base64`: all bytes in that form."""
    long_ones: List[bytes] = []

    def of_bytes(data: bytes) -> Any:
        if len(data) > _PIECE_BYTES:
            long_ones.append(data)
            return _MARK
        return _base64(data) if as_base64 else _text_or_base64(data)

    text = json.dumps(value, ensure_ascii=False, default=of_bytes).encode("utf-8")
    if not long_ones:
        return text
    first, *others = text.split(b'"%b"' % _MARK.encode())
    pieces = [first]
    for data, between in zip(long_ones, others):
        pieces += _long_base64(data) if as_base64 else _long_text(data) or _long_base64(data)
        pieces.append(between)
    return b"".join(pieces)


def _long_text(data: bytes) -> List[bytes]:
    """Empty: it is no UTF-8."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    pieces = [b'"']
    try:
        for at in range(0, len(data), _PIECE_BYTES):
            text = decode(data[at : at + _PIECE_BYTES], at + _PIECE_BYTES >= len(data))
            pieces.append(json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8"))
            let_others_run()
    except UnicodeDecodeError:
        return []
    pieces.append(b'"')
    return pieces


def _long_base64(data: bytes) -> List[bytes]:
    pieces = [b'{"base64": "']
    for at in range(0, len(data), _PIECE_BYTES):
        pieces.append(base64.b64encode(data[at : at + _PIECE_BYTES]))
        let_others_run()
    pieces.append(b'"}')
    return pieces


def _text_or_base64(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return _base64(value)


def _base64(value: bytes) -> Any:
    return {"base64": base64.b64encode(value).decode("ascii")}
