"""The process: log set-up, pid file, user, descriptors, detaching, signals. Knows no job and no socket."""

from __future__ import annotations

import faulthandler
import gc
import logging
import logging.handlers
import os
import pwd
import queue
import resource
import signal
import sys
import threading
from typing import Any, Callable, Optional

from gearmand.config import LEVELS, Config
from gearmand.errors import ConfigError

DEFAULT_LOG_FILE = "/var/log/gearmand.log"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_SWITCH_INTERVAL_S = 0.0005
_STACK_BYTES = 512 * 1024
_QUEUED_RECORDS = 10_000


class _ReopeningFile(logging.FileHandler):
    """A log file that is opened again on demand, after somebody has moved it away."""

    def reopen(self) -> None:
        """OSError: it cannot be opened; the old one stays."""
        with self.lock:  # type: ignore[union-attr]
            old, self.stream = self.stream, self._open()
            old.close()


class _Queueing(logging.handlers.QueueHandler):
    """Hands records to the log's own thread; drops them when that is stuck, rather than stop the server."""

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            pass


class Log:
    """The `gearmand` logger's way to stderr, a file or syslog, through a thread of its own.

    So a full pipe or a slow disk behind the log holds no handler up. The file
    is opened by the constructor (ConfigError); the thread starts with `start`,
    after the process has detached.
    """

    def __init__(self, config: Config) -> None:
        for name, level in LEVELS.items():
            logging.addLevelName(level, name)
        logging.addLevelName(LEVELS["CRITICAL"], "CRITICAL")
        logging.raiseExceptions = False
        self._target = _target(config)
        self._target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._queue: "queue.Queue[Any]" = queue.Queue(_QUEUED_RECORDS)
        self._listener = logging.handlers.QueueListener(self._queue, self._target)
        logger = logging.getLogger("gearmand")
        logger.propagate = False
        logger.setLevel(LEVELS[config.verbose])
        logger.addHandler(_Queueing(self._queue))

    def start(self) -> None:
        self._listener.start()

    def stop(self) -> None:
        """Write what is left, for two seconds at most."""
        stopper = threading.Thread(target=self._listener.stop, name="gearmand-log-stop", daemon=True)
        stopper.start()
        stopper.join(2.0)

    def reopen(self) -> None:
        if isinstance(self._target, _ReopeningFile):
            try:
                self._target.reopen()
            except OSError as error:
                logging.getLogger("gearmand").error(
                    "cannot open %s again: %s; the log goes on where it was", self._target.baseFilename, error.strerror
                )


def _target(config: Config) -> logging.Handler:
    if config.syslog:
        address = next((path for path in ("/dev/log", "/var/run/syslog") if os.path.exists(path)), ("localhost", 514))
        handler = logging.handlers.SysLogHandler(address, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.ident = "gearmand: "
        return handler
    name = config.log_file or (DEFAULT_LOG_FILE if config.daemon else "stderr")
    if name == "stderr":
        return logging.StreamHandler(sys.stderr)
    if name == "none":
        return logging.NullHandler()
    try:
        return _ReopeningFile(os.path.abspath(name))
    except OSError as error:
        raise ConfigError("--log-file: cannot write %s: %s" % (name, error.strerror))


class PidFile:
    """Written once the process has its final id, removed at the end. ConfigError: it cannot be written."""

    def __init__(self, path: Optional[str]) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._descriptor: Optional[int] = None
        if self._path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self._descriptor = os.open(self._path, flags, 0o644)
            except OSError as error:
                raise ConfigError("--pid-file: cannot write %s: %s" % (path, error.strerror))

    def write(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d\n" % os.getpid())
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass  # The user that the process has become may not; the next start overwrites it.


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


def detach() -> None:
    """Go on in the background, in a session of its own, with nothing of the terminal."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def block_signals() -> None:
    """Keep the signals for `serve_signals`. Before any thread starts, so that none takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def serve_signals(stop_gracefully: Callable[[], None], reopen_log: Callable[[], None]) -> None:
    """Wait for signals and return when the process should end at once: TERM, INT, or USR1 for the second time."""
    draining = False
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGHUP:
            reopen_log()
        elif number == signal.SIGUSR1 and not draining:
            draining = True
            threading.Thread(target=stop_gracefully, name="gearmand-drain", daemon=True).start()
        else:
            return


def end(graceful: bool) -> None:
    """What the command `shutdown` does: the same as the signal."""
    os.kill(os.getpid(), signal.SIGUSR1 if graceful else signal.SIGTERM)
