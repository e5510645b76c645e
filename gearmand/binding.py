"""The listeners of a server: at every address that its configuration names, or on sockets that were passed to it.

A listener is of a kind, which says what is spoken there:

    plain, tls     packets and lines, on TCP or a Unix-domain socket
    http, https    HTTP, on TCP
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, List, NamedTuple, Sequence, Tuple

from gearmand.addresses import unix_path
from gearmand.errors import ConfigError
from gearmand.listener import Handler, Listener, address_text
from gearmand.socket_file import SocketFile

if TYPE_CHECKING:
    from gearmand.server import Server

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Passed(NamedTuple):
    """A socket that listens already, made by another process."""

    sock: socket.socket
    kind: str
    """What is spoken there."""
    has_file: bool = False
    """Whether it is a Unix-domain socket whose file is this server's to remove."""


def listen_on(owner: "Server", passed: Sequence[Passed]) -> List[Listener]:
    """A listener for every socket that was passed; and those for HTTP that are configured, where none of them is for that.

    ConfigError: one of them cannot be used.
    """
    listeners = [_listen_on(owner, each) for each in passed]
    if not any(listener.kind in ("http", "https") for listener in listeners):
        with _Gathering(listeners):
            _listen_for_http(owner, listeners)
    return listeners


def _listen_on(owner: "Server", passed: Passed) -> Listener:
    sock, kind, has_file = passed
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    where = sock.getsockname()
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        raise ConfigError("a socket was passed that is none of TCP nor a Unix-domain one: %s" % sock)
    if kind in ("tls", "https") and owner.tls is None:
        raise ConfigError("a socket for TLS was passed, %s: a certificate is needed, --ssl-certificate" % address_text(where))
    file = None
    if has_file:
        file = SocketFile(where, int(owner.config.unix_mode, 8), owner.config.unix_group)
        file.adopt()
    return Listener(owner, kind, _handler(kind), sock.family, where, file, sock)


def listen(owner: "Server") -> List[Listener]:
    """A listener for every address that the configuration names. ConfigError: one of them cannot be bound.

    Those of plain TCP first, then those of TLS, then Unix-domain sockets, then those for HTTP.
    """
    config = owner.config
    listeners: List[Listener] = []
    paths = [path for path in map(unix_path, config.listen) if path is not None]
    names = [name for name in config.listen if unix_path(name) is None] or [None] * (not paths)
    with _Gathering(listeners):
        _listen_on_port(owner, "tls" if config.ssl else "plain", names, config.port, listeners)
        if config.ssl_port is not None:
            _listen_on_port(owner, "tls", names, config.ssl_port, listeners)
        for path in paths:
            file = SocketFile(path, int(config.unix_mode, 8), config.unix_group)
            listeners.append(Listener(owner, "plain", Handler, socket.AF_UNIX, file.path, file))
        _listen_for_http(owner, listeners)
    return listeners


def _listen_for_http(owner: "Server", listeners: List[Listener]) -> None:
    config = owner.config
    beside = [name for name in config.listen if unix_path(name) is None] or ["127.0.0.1"] * bool(config.listen)
    names = config.http_listen or beside or [None]
    if config.http_port is not None:
        _listen_on_port(owner, "https" if config.ssl else "http", names, config.http_port, listeners)
    if config.https_port is not None:
        _listen_on_port(owner, "https", names, config.https_port, listeners)


class _Gathering:
    """Listeners are being added to a list; they are closed if not all can be."""

    def __init__(self, listeners: List[Listener]) -> None:
        self._listeners = listeners

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            for listener in self._listeners:
                listener.server_close()


def _handler(kind: str) -> Any:
    """The class of its handlers."""
    if kind in ("plain", "tls"):
        return Handler
    # Loaded where it is needed alone: http.server brings a good deal along.
    from gearmand.web_handler import WebHandler

    return WebHandler


def _listen_on_port(owner: "Server", kind: str, names: Sequence[Any], port: int, listeners: List[Listener]) -> None:
    first = len(listeners)
    for name in names:
        before = len(listeners)
        skipped: List[OSError] = []
        for family, address in _resolve(name, port):
            try:
                # Where any port will do, the first one's is everybody's.
                listeners.append(Listener(owner, kind, _handler(kind), family, (address[0], port, *address[2:])))
            except OSError as error:
                # A name may stand for an address of a family that this
                # machine does not have.
                if error.errno not in _NO_SUCH_FAMILY:
                    raise _cannot_listen(address, error)
                skipped.append(error)
            if not port and len(listeners) > first:
                port = listeners[first].server_address[1]
        if len(listeners) == before:
            raise _cannot_listen((name or "*", port), skipped[0])


def _resolve(name: Any, port: int) -> List[Tuple[int, Tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError("--listen: cannot resolve %r: %s" % (name, getattr(error, "strerror", None) or error))
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _cannot_listen(address: Any, error: OSError) -> ConfigError:
    return ConfigError("cannot listen on %s: %s" % (address_text(address), error.strerror or error))
