"""Where job servers are: `host`, `host:port`, `[v6]:port`, `unix:PATH`, or a pair. Knows no socket.

The path of a Unix-domain socket has a slash in it: `unix:/run/gearmand.sock`, `unix:./test.sock`.

`GEARMAN_SERVERS` (libgearman's, several separated by commas) and then
`GEARMAN_SERVER` (the C tool's) are the default where they are set.
"""

from __future__ import annotations

import os
from typing import Iterable, List, NamedTuple, Optional, Tuple, Union

from gearmand.errors import ConfigError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4730

AddressLike = Union[str, Tuple[str, int]]


_UNIX = "unix:"


def unix_path(text: str) -> Optional[str]:
    """The path in `unix:PATH`; `None`: it is no such address."""
    return text[len(_UNIX) :] if text.startswith(_UNIX) and "/" in text else None


class Address(NamedTuple):
    """Of a Unix-domain socket: `unix:PATH` as the host, and port 0."""

    host: str
    port: int

    @property
    def path(self) -> Optional[str]:
        return unix_path(self.host)

    def __str__(self) -> str:
        if self.path is not None:
            return self.host
        return "%s:%d" % ("[%s]" % self.host if ":" in self.host else self.host, self.port)


def parse(text: AddressLike, port: int = DEFAULT_PORT) -> Address:
    """One address; `port` where it names none and could. ConfigError: it is none."""
    if not isinstance(text, str):
        try:
            host, port = text
            return _checked(host, port, text)
        except (TypeError, ValueError):
            raise ConfigError("server %r: expected host:port, unix:PATH, or a pair of host and port" % (text,)) from None
    host, colon, number = text.strip(), "", ""
    if unix_path(host) is not None:
        return _checked(host, 0, text)
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError("server %r: expected [address]:port" % text)
        colon, number = rest[:1], rest[1:]
    elif host.count(":") == 1:
        host, colon, number = host.partition(":")
    # Else an IPv6 address without a port has several colons.
    return _checked(host or DEFAULT_HOST, number if colon else port, text)


def parse_all(servers: Union[None, AddressLike, Iterable[AddressLike]]) -> List[Address]:
    """Each address once, in order. `None`: those of the environment, else the local server.

    A string may hold several, separated by commas; a pair of a host and a
    number is one address. ConfigError: one of them is none, or there are none.
    """
    if servers is None:
        servers = os.environ.get("GEARMAN_SERVERS") or os.environ.get("GEARMAN_SERVER") or DEFAULT_HOST
    if isinstance(servers, str):
        servers = [name for name in servers.split(",") if name.strip()]
    elif isinstance(servers, tuple) and len(servers) == 2 and isinstance(servers[1], int):
        servers = [servers]
    elif not isinstance(servers, Iterable):
        raise ConfigError("servers %r: expected host:port, or several of them" % (servers,))
    addresses = list(dict.fromkeys(parse(server) for server in servers))
    if not addresses:
        raise ConfigError("no server is named: expected host:port, or several of them")
    return addresses


def _checked(host: object, port: object, text: object) -> Address:
    if not isinstance(host, str) or not host:
        raise ConfigError("server %r: %r is no host" % (text, host))
    if unix_path(host) is not None:
        return Address(host, 0)
    # Not everything that `int` takes: it reads " 1", "+1" and "1_0", and 1 in True and in 1.5.
    digits = str(port) if isinstance(port, (int, str)) else ""
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else -1
    if not 0 < number < 65536:
        raise ConfigError("server %r: expected a port from 1 to 65535, got %r" % (text, port))
    return Address(host, number)
