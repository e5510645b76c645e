"""A token of an access list, as whoever connects has it: where a command finds it, and the packet that presents it."""

from __future__ import annotations

import os
from typing import Optional, Union

from gearmand.errors import ConfigError
from gearmand.protocol import PacketType, pack

VARIABLE = "GEARMAN_TOKEN"


def packet_of(token: Union[None, str, bytes]) -> bytes:
    """What to send first on a connection; nothing where there is no token. ConfigError: it cannot be one, and is not shown."""
    if token is None:
        return b""
    raw = token.encode("utf-8", "surrogateescape") if isinstance(token, str) else token
    if not isinstance(raw, bytes) or not raw or raw.split() != [raw] or b"\0" in raw:
        raise ConfigError("token: expected a text that is not empty, without blanks and NUL")
    return pack(PacketType.OPTION_REQ, b"token:" + raw)


def find(path: Optional[str]) -> Optional[str]:
    """The token of a command: the first line of the file, else that of the environment; `None`: there is none. ConfigError."""
    if path is None:
        return os.environ.get(VARIABLE) or None
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            token = file.readline().strip()
    except OSError as error:
        raise ConfigError("--token-file: cannot read %s: %s" % (path, error.strerror)) from None
    if not token:
        raise ConfigError("--token-file: the first line of %s is empty" % path)
    return token
