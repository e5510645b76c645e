"""Which certificates TLS uses, at either end: files to contexts, sockets to channels. Knows no packet.

TLS 1.2 is the oldest version that is spoken. This room, and all of OpenSSL with
it, is loaded only where TLS is asked for.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, Dict, NamedTuple, Optional

from gearmand.channel import Channel
from gearmand.errors import ConfigError

ANY_NAME = "*"


class Tls(NamedTuple):
    """What the library needs to speak TLS with a job server; all of it may be left out.

    `ca_file`: the certificates that can have signed the server's (PEM); by
    default those that the system trusts. `certificate` and `key`: this end's
    own, where the server wants one; without a `key` it is in the file of the
    certificate. `name`: what the server's certificate must be for, by default
    the host of its address, a name or an IP address; "*": any name, as long as
    the signature is good.
    """

    ca_file: Optional[str] = None
    certificate: Optional[str] = None
    key: Optional[str] = None
    name: Optional[str] = None


def of_environment() -> Tls:
    """The files that the C tools and libgearman would use, by the same environment variables."""
    names = ("GEARMAND_CA_CERTIFICATE", "GEARMAN_CLIENT_PEM", "GEARMAN_CLIENT_KEY")
    return Tls(*[os.environ.get(name) or None for name in names])


def of_options(given: Dict[str, Any]) -> Tls:
    """What the commands' options say, by their long names; the environment says the rest. ConfigError: --ssl is not among them."""
    if "ssl" not in given:
        raise ConfigError("--%s is of no use without --ssl" % next(name for name in given if name.startswith("ssl-")))
    elsewhere = of_environment()
    # A key belongs to the certificate that is named along with it.
    key = None if "ssl-certificate" in given else elsewhere.key
    return Tls(
        given.get("ssl-ca-file", elsewhere.ca_file),
        given.get("ssl-certificate", elsewhere.certificate),
        given.get("ssl-key", key),
        given.get("ssl-name"),
    )


class ServerSide:
    """The job server's end: its certificate and, where there is a `ca_file`, the demand that clients have one from there.

    Reading the files again with `reload` counts for connections to come.
    ConfigError: a file cannot be used. Threads: any.
    """

    def __init__(self, certificate: str, key: Optional[str], ca_file: Optional[str]) -> None:
        self._files = (ca_file, certificate, key)
        self.reload()

    def reload(self) -> None:
        """ConfigError: a file cannot be used; all is as before then."""
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        # A session that is resumed would bring an old verification along, and
        # saves little where connections last.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        _load(context, *self._files)
        if self._files[0] is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        self._context = context

    def channel(self, sock: socket.socket) -> Channel:
        return Channel(sock, self._context, True)


class ClientSide:
    """The library's end: see `Tls`."""

    def __init__(self, context: ssl.SSLContext, name: Optional[str]) -> None:
        self._context = context
        self._name = name

    def channel(self, sock: socket.socket, host: str, timeout_s: Optional[float]) -> Channel:
        """A channel on which the handshake is done. OSError: it cannot be done within the timeout; ValueError: no such host."""
        name = host if self._name in (None, ANY_NAME) else self._name
        channel = Channel(sock, self._context, False, name)
        channel.handshake(timeout_s)
        return channel


def client_side(tls: Any) -> ClientSide:
    """From a `Tls`, an `ssl.SSLContext`, which is used as it is, or True: the files that the environment names. ConfigError."""
    if isinstance(tls, ClientSide):
        return tls
    if isinstance(tls, ssl.SSLContext):
        return ClientSide(tls, None)
    if tls is True:
        tls = of_environment()
    if not isinstance(tls, Tls):
        raise ConfigError("tls: expected True, a Tls or an ssl.SSLContext, got %r" % (tls,))
    if tls.key is not None and tls.certificate is None:
        raise ConfigError("TLS: the key %s is of no use without a certificate" % tls.key)
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = tls.name != ANY_NAME
    _load(context, tls.ca_file, tls.certificate, tls.key)
    if tls.ca_file is None:
        context.load_default_certs()
    return ClientSide(context, tls.name)


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    return context


def _load(context: ssl.SSLContext, ca_file: Optional[str], certificate: Optional[str], key: Optional[str]) -> None:
    """ConfigError: says which file cannot be used, and why."""
    _check("CA file", ca_file, b"CERTIFICATE-----")
    _check("certificate", certificate, b"CERTIFICATE-----")
    _check("key", key or certificate, b"PRIVATE KEY-----")
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError as error:
            raise ConfigError("TLS: the CA file %s cannot be used: %s" % (ca_file, _reason(error))) from None
    if certificate is None:
        return

    def ask_for_password() -> str:
        raise ConfigError("TLS: the key %s is encrypted, and there is nobody to ask for the password" % (key or certificate))

    try:
        context.load_cert_chain(certificate, key, ask_for_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError("TLS: the key %s does not belong to the certificate %s" % (key or certificate, certificate)) from None
        raise ConfigError(
            "TLS: the certificate %s with the key %s cannot be used: %s" % (certificate, key or certificate, _reason(error))
        ) from None


def _check(what: str, path: Optional[str], mark: bytes) -> None:
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            found = mark in file.read()
    except (OSError, ValueError) as error:
        raise ConfigError("TLS: the %s %s cannot be read: %s" % (what, path, getattr(error, "strerror", None) or error)) from None
    if not found:
        raise ConfigError("TLS: the %s %s cannot be used: there is no %s in PEM format in it" % (what, path, "key" if what == "key" else "certificate"))


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
