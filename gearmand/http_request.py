"""Bytes of HTTP/1.0 and 1.1 to requests (RFC 9112), and which of them a browser was made to send. Knows no socket.

Whatever two readers might understand differently is refused, so that nothing
can be smuggled past a proxy: a bare line feed, a folded header, a blank before
a colon, two lengths, a length beside a transfer coding.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple
from urllib.parse import unquote_to_bytes

HEAD_BYTES = 16 * 1024
"""Longest head of a request, and longest trailer of a body."""
FIELDS = 100
CHUNK_LINE_BYTES = 256

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
# No controls and no blanks; bytes beyond ASCII are taken as they are.
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
# Several of one kind cannot be told from an attack.
_SINGLE = ("host", "content-length", "transfer-encoding", "content-type", "origin", "expect", "authorization")
# Names that no name server of the outside gives out (RFC 6761, RFC 6762, ICANN).
_PRIVATE = (".localhost", ".local", ".internal")


class Refused(Exception):
    """A request that is not served: the status that says so, a code and a text. The connection closes where framing may be lost."""

    def __init__(self, status: int, code: str, text: str, headers: Optional[Dict[str, str]] = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers or {}


def _bad(text: str) -> Refused:
    return Refused(400, "BAD_REQUEST", text)


class Request(NamedTuple):
    """The head of a request."""

    method: str
    path: bytes
    """Still percent-encoded."""
    query: bytes
    is_old: bool
    """HTTP/1.0."""
    fields: Dict[str, str]
    """By name in small letters; those that come several times are joined with commas."""
    length: Optional[int]
    """Of the body; `None`: it comes in chunks."""

    @property
    def keeps_alive(self) -> bool:
        words = [word.strip().lower() for word in self.fields.get("connection", "").split(",")]
        return "keep-alive" in words if self.is_old else "close" not in words

    @property
    def segments(self) -> List[bytes]:
        """Of the path, without the first slash, decoded one by one."""
        return [unquote_to_bytes(segment) for segment in self.path[1:].split(b"/")]


def parse(head: bytes) -> Request:
    """The request whose head that is, up to and without the blank line. Refused: it is none, or cannot be served."""
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise _bad("lines end in carriage return and line feed")
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not _TARGET.fullmatch(words[1]):
        raise _bad("expected METHOD TARGET HTTP/1.1 in the first line")
    version = re.fullmatch(rb"HTTP/([0-9])\.([0-9])", words[2])
    if version is None:
        raise _bad("expected METHOD TARGET HTTP/1.1 in the first line")
    if version.group(1) != b"1":
        raise Refused(505, "VERSION_NOT_SUPPORTED", "this server speaks HTTP/1.0 and HTTP/1.1")
    is_old = version.group(2) == b"0"
    fields = _fields(lines)
    target = _origin_form(words[1], fields)
    if not is_old and "host" not in fields:
        raise _bad("a request of HTTP/1.1 needs a Host header")
    if "host" in fields and fields["host"] and not _HOST.fullmatch(fields["host"]):
        raise _bad("the Host header is no host")
    expected = fields.get("expect")
    if expected is not None and expected.lower() != "100-continue":
        raise Refused(417, "EXPECTATION_FAILED", "nothing can be expected but 100-continue")
    path, _, query = target.partition(b"?")
    return Request(words[0].decode(), path, query, is_old, fields, _length(fields, is_old))


def _fields(lines: Iterable[bytes]) -> Dict[str, str]:
    fields: Dict[str, str] = {}
    for count, line in enumerate(lines):
        if count == FIELDS:
            raise Refused(431, "HEADERS_TOO_LARGE", "more than %d headers" % FIELDS)
        name, value = field_of(line)
        if name not in fields:
            fields[name] = value
        elif name in _SINGLE:
            raise _bad("there are two headers %s" % name)
        else:
            fields[name] += ", " + value
    return fields


def field_of(line: bytes) -> Tuple[str, str]:
    """The name, in small letters, and the value of a header or a trailer. Refused: it is none."""
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        raise _bad("expected NAME: VALUE in a header")
    return name.decode().lower(), value.strip(b" \t").decode("latin-1")


def _origin_form(target: bytes, fields: Dict[str, str]) -> bytes:
    """The target from its path on; one that names a host must name that of the Host header."""
    if target[:1] == b"/" or target == b"*":
        return target
    found = re.fullmatch(rb"http://([^/?#@]+)(.*)", target, re.I)
    if found is None or b"#" in target:
        raise _bad("expected a target that begins with a slash")
    if found.group(1).decode("latin-1").lower() != fields.get("host", "").lower():
        raise _bad("the target and the Host header name different hosts")
    return found.group(2) if found.group(2)[:1] == b"/" else b"/" + found.group(2)


def _length(fields: Dict[str, str], is_old: bool) -> Optional[int]:
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise _bad("a body has a Content-Length or a Transfer-Encoding, not both")
        if is_old:
            raise _bad("HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != "chunked":
            raise Refused(501, "NOT_IMPLEMENTED", "there is no Transfer-Encoding but chunked")
        return None
    if length is None:
        return 0
    if not re.fullmatch("[0-9]{1,18}", length, re.ASCII):
        raise _bad("the Content-Length is no number")
    return int(length)


def chunk_size(line: bytes) -> int:
    """The size that a line says before a chunk. Refused: it says none."""
    found = _CHUNK.fullmatch(line)
    if found is None:
        raise _bad("expected the size of a chunk")
    return int(found.group(1), 16)


# -- browsers --------------------------------------------------------------------


def check_host(request: Request, known: Iterable[str]) -> None:
    """Refused: the Host is a name that anybody might own.

    A page of such a name whose address has been changed to ours could read and
    do everything (DNS rebinding). Addresses, names without a dot and names that
    no public name server knows cannot be changed so. `known`: others that are
    ours; `*`: any.
    """
    host = re.sub(r":[0-9]*$", "", request.fields.get("host", "")).lower().rstrip(".")
    if "." not in host or host.endswith(_PRIVATE) or host in known or "*" in known or _is_address(host):
        return
    text = "the host %s is not known to be this server; --http-host %s makes it so" % (host, host)
    raise Refused(421, "UNKNOWN_HOST", text)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
        return True
    except ValueError:
        return False


def check_origin(request: Request) -> None:
    """Refused: a page of somebody else has made a browser send this.

    Browsers say whose page asks, in Origin or in Sec-Fetch-Site, with all that
    can change something but a plain GET. No other program sends these.
    """
    fields = request.fields
    origin, site = fields.get("origin"), fields.get("sec-fetch-site", "none")
    foreign = origin is not None and origin.partition("://")[2].lower() != fields.get("host", "").lower()
    if foreign or site not in ("none", "same-origin"):
        raise Refused(403, "FOREIGN_ORIGIN", "requests of pages of other origins are refused")


def is_from_a_browser(request: Request) -> bool:
    """Whether a plain GET may have been sent by an image or a link: see `check_origin`."""
    return request.fields.get("user-agent", "").startswith("Mozilla/")
