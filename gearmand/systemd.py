"""What systemd and a service say to each other: sockets passed, readiness, the watchdog. Without its library."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Callable, List, MutableMapping, Optional, Tuple

from gearmand.errors import ConfigError

_FIRST_SOCKET = 3


def sockets(environ: MutableMapping[str, str]) -> List[Tuple[socket.socket, str]]:
    """The listening sockets that systemd has passed to this process, and their names; they are taken from the environment. ConfigError."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for at in range(int(count)):
        descriptor = _FIRST_SOCKET + at
        os.set_inheritable(descriptor, False)
        try:
            sock = socket.socket(fileno=descriptor)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ConfigError("LISTEN_FDS: descriptor %d is no socket: %s" % (descriptor, error.strerror))
        if not listens:
            raise ConfigError("LISTEN_FDS: descriptor %d is a socket that does not listen" % descriptor)
        sock.setblocking(True)
        found.append((sock, names[at] if at < len(names) else ""))
    return found


class Notifier:
    """Says to systemd how the service is, where it wants to know (NOTIFY_SOCKET). What cannot be said is not said."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        # One that begins with @ has no file.
        self._address = "\0" + address[1:] if address[:1] == "@" else address
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self.watchdog_s: Optional[float] = None
        if usec.isdigit() and int(usec) and pid in ("", str(os.getpid())):
            self.watchdog_s = int(usec) / 1e6

    def say(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                pass

    def reloading(self) -> None:
        self.say("RELOADING=1", "MONOTONIC_USEC=%d" % (time.monotonic() * 1e6))

    def watch(self, look: Callable[[], bool]) -> None:
        """Tell the watchdog, twice in its time, that `look` has returned; not while it hangs, nor once it is false."""
        if self.watchdog_s is not None:
            threading.Thread(target=self._watch, args=(look, self.watchdog_s), name="gearmand-watchdog", daemon=True).start()

    def _watch(self, look: Callable[[], bool], watchdog_s: float) -> None:
        while look():
            self.say("WATCHDOG=1")
            time.sleep(watchdog_s / 2)
