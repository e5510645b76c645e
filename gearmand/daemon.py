"""The process: user, descriptors, detaching, signals. Knows no job and no socket."""

from __future__ import annotations

import faulthandler
import gc
import os
import pwd
import resource
import signal
import sys
import threading
from typing import Callable, Optional

from gearmand.errors import ConfigError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_SWITCH_INTERVAL_S = 0.0005
_STACK_BYTES = 512 * 1024


def find_user(name: Optional[str]) -> Optional[pwd.struct_passwd]:
    """The user to become. ConfigError: there is none of that name, or this process may not become it."""
    if name is None:
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError("--user: there is no user %r" % name)
    if os.geteuid() not in (0, user.pw_uid):
        raise ConfigError("--user: only root can become user %r" % name)
    return user


def become(user: Optional[pwd.struct_passwd]) -> None:
    """Give up the rights of root, for good."""
    if user is None or os.geteuid() != 0 or user.pw_uid == 0:
        return
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def limit_descriptors(wanted: Optional[int]) -> None:
    """Allow `wanted` descriptors, by default as many as may be. ConfigError: the system does not allow that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if wanted is None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        else:
            raised = hard if hard == resource.RLIM_INFINITY or hard >= wanted else wanted
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, raised))
    except (ValueError, OSError) as error:
        if wanted is not None:
            raise ConfigError("--file-descriptors: cannot have %d, the limit is %d: %s" % (wanted, hard, error))


def allow_core() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def tune() -> None:
    """Set the interpreter up for a process that is nothing but this server.

    A short switch interval keeps handlers waiting less for one that computes.
    The registry makes no reference cycles that it does not undo, so the
    collector has little to find and would walk a million queued jobs for it.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    threading.stack_size(_STACK_BYTES)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        faulthandler.enable()
    except (AttributeError, ValueError, RuntimeError, OSError):
        pass  # stderr is closed: no report of a crash then.


def open_standard_descriptors() -> None:
    """Open 0, 1 and 2 where the parent has closed them, before a socket or a file of ours gets such a number."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


class Detached:
    """This process from now on: in the background, in a session of its own.

    The process that was started ends with status 0 when `ready` is called,
    with 1 if this one ends before; until then both have its terminal.
    """

    def __init__(self) -> None:
        ear, self._bell = os.pipe()
        if os.fork():
            os.close(self._bell)
            os._exit(0 if os.read(ear, 1) else 1)
        os.close(ear)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")

    def ready(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        if null > 2:
            os.close(null)
        os.write(self._bell, b"1")
        os.close(self._bell)


def block_signals() -> None:
    """Keep the signals for `serve_signals`. Before any thread starts, so that none takes them, and before the pid is known."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def serve_signals(stop_gracefully: Callable[[], None], hang_up: Callable[[], None], dump: Callable[[], None]) -> None:
    """Wait for signals and return when the process should end at once: TERM, INT, or USR1 for the second time."""
    draining = False
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGHUP:
            hang_up()
        elif number == signal.SIGUSR2:
            dump()
        elif number == signal.SIGUSR1 and not draining:
            draining = True
            threading.Thread(target=stop_gracefully, name="gearmand-drain", daemon=True).start()
        else:
            return


def end(graceful: bool) -> None:
    """What the command `shutdown` does: the same as the signal."""
    os.kill(os.getpid(), signal.SIGUSR1 if graceful else signal.SIGTERM)
