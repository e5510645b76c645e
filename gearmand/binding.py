"""The listeners of a server: at every address that its configuration names, or on sockets that were passed to it."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Sequence, Tuple

from gearmand.addresses import unix_path
from gearmand.errors import ConfigError
from gearmand.listener import Listener, address_text
from gearmand.socket_file import SocketFile

if TYPE_CHECKING:
    from gearmand.server import Server
    from gearmand.tls import ServerSide

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Passed(NamedTuple):
    """A socket that listens already, made by another process."""

    sock: socket.socket
    kind: str
    """What is spoken there: plain or tls."""
    has_file: bool = False
    """Whether it is a Unix-domain socket whose file is this server's to remove."""


def listen_on(owner: "Server", passed: Sequence[Passed]) -> List[Listener]:
    """A listener for every socket that was passed. ConfigError: one of them cannot be used."""
    return [_listen_on(owner, each) for each in passed]


def _listen_on(owner: "Server", passed: Passed) -> Listener:
    sock, kind, has_file = passed
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    where = sock.getsockname()
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        raise ConfigError("a socket was passed that is none of TCP nor a Unix-domain one: %s" % sock)
    if kind == "tls" and owner.tls is None:
        raise ConfigError("a socket for TLS was passed, %s: --ssl or --ssl-port is needed" % address_text(where))
    file = None
    if has_file:
        file = SocketFile(where, int(owner.config.unix_mode, 8), owner.config.unix_group)
        file.adopt()
    return Listener(owner, sock.family, where, owner.tls if kind == "tls" else None, file, sock)


def listen(owner: "Server") -> List[Listener]:
    """A listener for every address that the configuration names. ConfigError: one of them cannot be bound.

    Those of plain TCP first, then those of TLS, then Unix-domain sockets.
    """
    config = owner.config
    listeners: List[Listener] = []
    paths = [path for path in map(unix_path, config.listen) if path is not None]
    names = [name for name in config.listen if unix_path(name) is None] or [None] * (not paths)
    try:
        _listen_on_port(owner, names, config.port, owner.tls if config.ssl else None, listeners)
        if config.ssl_port is not None:
            _listen_on_port(owner, names, config.ssl_port, owner.tls, listeners)
        for path in paths:
            file = SocketFile(path, int(config.unix_mode, 8), config.unix_group)
            listeners.append(Listener(owner, socket.AF_UNIX, file.path, None, file))
    except ConfigError:
        for listener in listeners:
            listener.server_close()
        raise
    return listeners


def _listen_on_port(owner: "Server", names: Sequence[Any], port: int, tls: "Optional[ServerSide]", listeners: List[Listener]) -> None:
    first = len(listeners)
    for name in names:
        before = len(listeners)
        skipped: List[OSError] = []
        for family, address in _resolve(name, port):
            try:
                # Where any port will do, the first one's is everybody's.
                listeners.append(Listener(owner, family, (address[0], port, *address[2:]), tls))
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
