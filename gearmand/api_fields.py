"""The fields of a request of the JSON API: from the path, the query and a JSON body to checked values; and values to JSON.

Bytes are text in JSON where they are UTF-8, else `{"base64": "..."}`; either
form is understood.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence
from urllib.parse import unquote_to_bytes

from gearmand.http_request import Refused

ELSEWHERE = b"-"
"""What no browser, or no proxy, lets through in a path stands in the query or the body, with this in its place."""
_DIGITS = 20
# How many lists, objects and values an object of JSON may have, and strings; that of any operation has a tenth.
_VALUES = 200
# To count what there is hundreds of thousands of takes a millisecond.
_PIECE_BYTES = 16 * 1024


class Field(NamedTuple):
    name: str
    kind: str
    """bytes, name (some bytes, no NUL), number, seconds, amount, flag, or words with | between them."""
    help: str
    required: bool = False
    default: Any = None


def invalid(text: str) -> Refused:
    return Refused(400, "INVALID_ARGUMENT", text)


def values_of(
    fields: Sequence[Field], path: Mapping[str, bytes], query: bytes, body: Optional[Mapping[str, Any]]
) -> Dict[str, Any]:
    """A value for every field, of its kind. Refused: one is missing, unknown or no such value.

    `body`: what its JSON says; `None`: there is none, and the fields are in the query.
    A part of the path that is `ELSEWHERE` leaves its field to them, where it is there.
    """
    given: Dict[str, Any] = {**_of_query(query), **(body or {})}
    path = {name: value for name, value in path.items() if value != ELSEWHERE or name not in given}
    for name in given:
        if name in path or not any(field.name == name for field in fields):
            known = ", ".join(field.name for field in fields if field.name not in path)
            raise invalid("there is no field %s here; %s" % (name[:100], "there are " + known if known else "there are none"))
    given.update(path)
    values: Dict[str, Any] = {}
    for field in fields:
        value = given.get(field.name)
        if value is None:
            if field.required and field.name not in given:
                raise invalid("the field %s is missing: %s" % (field.name, field.help))
            values[field.name] = field.default
        else:
            values[field.name] = _value(field, value)
    return values


def _of_query(query: bytes) -> Dict[str, bytes]:
    found: Dict[str, bytes] = {}
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            key = unquote_to_bytes(name).decode("latin-1")
            if key in found:
                raise invalid("the field %s is there twice" % key[:100])
            found[key] = unquote_to_bytes(value.replace(b"+", b" "))
    return found


def _value(field: Field, given: Any) -> Any:
    """`given`: of JSON, or bytes where it comes from the path or the query."""
    try:
        return (_KINDS.get(field.kind) or _word)(field, given)
    except (ValueError, KeyError, TypeError):
        wanted = _WANTED.get(field.kind, "one of " + field.kind.replace("|", ", "))
        raise invalid("%s: expected %s" % (field.name, wanted)) from None


def _bytes(field: Field, given: Any) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        return given.encode("utf-8")
    if list(given) != ["base64"]:
        raise ValueError
    return base64.b64decode(given["base64"], validate=True)


def _name(field: Field, given: Any) -> bytes:
    found = _bytes(field, given)
    if not found or b"\0" in found:
        raise ValueError
    return found


def _number(field: Field, given: Any) -> int:
    if isinstance(given, bytes) and re.fullmatch(rb"-?[0-9]{1,18}", given):
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or abs(given) >= 2**62:
        raise ValueError
    return given


def _seconds(field: Field, given: Any) -> float:
    if isinstance(given, bytes) and re.fullmatch(rb"[0-9]{1,18}(\.[0-9]{1,9})?", given):
        given = float(given)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 2**62:
        raise ValueError
    return float(given)


def _flag(field: Field, given: Any) -> bool:
    if isinstance(given, bytes):
        return {b"true": True, b"1": True, b"false": False, b"0": False}[given.lower()]
    if not isinstance(given, bool):
        raise ValueError
    return given


def _word(field: Field, given: Any) -> str:
    word = given.decode("ascii") if isinstance(given, bytes) else given
    if word not in field.kind.split("|"):
        raise ValueError
    return word


_KINDS: Dict[str, Callable[[Field, Any], Any]] = {
    "amount": _seconds,
    "bytes": _bytes,
    "name": _name,
    "number": _number,
    "seconds": _seconds,
    "flag": _flag,
}
_WANTED = {
    "bytes": 'text, or {"base64": "..."}',
    "name": 'some text without a NUL, or {"base64": "..."}',
    "number": "a whole number",
    "seconds": "a number of seconds, 0 or more",
    "amount": "a number, 0 or more",
    "flag": "true or false",
}


def from_json(body: bytes) -> Mapping[str, Any]:
    """The object that is the body of a request. Refused: it is none."""
    _check_shape(body)
    try:
        found = json.loads(body.decode("utf-8"), parse_int=_int, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # The latter not for the body's sake, see `_check_shape`.
        raise Refused(400, "INVALID_JSON", "the body is no JSON: %s" % str(error)[:200]) from None
    if not isinstance(found, dict):
        raise Refused(400, "INVALID_JSON", "the body is no JSON object")
    return found


def _check_shape(body: bytes) -> None:
    """Refused: it is too deep or too wide.

    The decoder recurses in C, as deep as the body is; Python 3.13 ends the
    process there, because a handler's stack is small. And it keeps the
    interpreter to itself. So what is counted here is counted up to the place
    where the body is no JSON as the decoder sees it.
    """
    if not _has_more(body, b'"[{,', _VALUES):
        return  # Wherever they stand.
    bare = body
    if b"\\" in body:
        bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if not _has_more(bare, b'"', 2 * _VALUES):
        outside = b"".join(bare.split(b'"')[::2])
        if not _has_more(outside, b"[{,", _VALUES):
            return
    raise Refused(400, "INVALID_JSON", "the body is deeper or wider than that of any operation")


def _has_more(text: bytes, marks: bytes, most: int) -> bool:
    """Whether there are more than `most` of some characters in it. Not all are looked at where there are a great many."""
    found = 0
    for at in range(0, len(text), _PIECE_BYTES):
        piece = text[at : at + _PIECE_BYTES]
        found += sum(map(piece.count, marks))
        if found > most:
            return True
    return False


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError("%s is no number" % name)


def to_json(value: Any, as_base64: bool = False) -> bytes:
    """`as_base64`: all bytes in that form."""
    return json.dumps(value, ensure_ascii=False, default=_base64 if as_base64 else _text_or_base64).encode("utf-8")


def _text_or_base64(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return _base64(value)


def _base64(value: bytes) -> Any:
    return {"base64": base64.b64encode(value).decode("ascii")}
