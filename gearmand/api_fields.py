"""The fields of a request of the JSON API: from the path, the query and a JSON body to checked values."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence
from urllib.parse import unquote_to_bytes

from gearmand.http_request import Refused
from gearmand.json_bodies import from_base64

ELSEWHERE = b"-"
"""What no browser, or no proxy, lets through in a path stands in the query or the body, with this in its place."""
# No word has as many, and no name of anything: they are not looked at any further.
_WORD_BYTES = 32
_NAME_BYTES = 64 * 1024


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
    return from_base64(given["base64"])


def _name(field: Field, given: Any) -> bytes:
    found = _bytes(field, given)
    if not found or len(found) > _NAME_BYTES or b"\0" in found:
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
        return {b"true": True, b"1": True, b"false": False, b"0": False}[given[:_WORD_BYTES].lower()]
    if not isinstance(given, bool):
        raise ValueError
    return given


def _word(field: Field, given: Any) -> str:
    word = given[:_WORD_BYTES].decode("ascii") if isinstance(given, bytes) else given
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
    "name": 'some text without a NUL, or {"base64": "..."}; %d bytes at most' % _NAME_BYTES,
    "number": "a whole number",
    "seconds": "a number of seconds, 0 or more",
    "amount": "a number, 0 or more",
    "flag": "true or false",
}
