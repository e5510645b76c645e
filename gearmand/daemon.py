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
import stat
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
_LAST_WORDS_S = 2.0


class _ReopeningFile(logging.FileHandler):
    """A log file that is opened again on demand, after somebody has moved it away."""

    def reopen(self) -> None:
        """OSError: it cannot be opened; the old one stays."""
        with self.lock:  # type: ignore[union-attr]
            old, self.stream = self.stream, self._open()
            old.close()


class _Queueing(logging.handlers.QueueHandler):
    """Hands records to the log's own thread; drops and counts them when that is stuck, rather than stop the server."""

    _dropped = 0

    def enqueue(self, record: Any) -> None:
        try:
            if self._dropped:
                self.queue.put_nowait(_missing(self._dropped))
                self._dropped = 0
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1


def _missing(count: int) -> logging.LogRecord:
    text = "%d lines are missing here: the log could not be written" % count
    return logging.LogRecord("gearmand", LEVELS["WARNING"], "", 0, text, None, None)


class _Writer(logging.handlers.QueueListener):
    """The log's own thread."""

    def enqueue_sentinel(self) -> None:
        self.queue.put(self._sentinel)  # type: ignore[attr-defined]

    def handle(self, record: Any) -> None:
        if record is not _REOPEN:
            super().handle(record)
            return
        for handler in self.handlers:
            if isinstance(handler, _ReopeningFile):
                self._reopen(handler)

    def _reopen(self, handler: _ReopeningFile) -> None:
        try:
            handler.reopen()
        except OSError as error:
            logging.getLogger("gearmand").error(
                "cannot open %s again: %s; the log goes on where it was", handler.baseFilename, error.strerror
            )


_REOPEN = object()


class Log:
    """The `gearmand` logger's way to stderr, a file or syslog, through a thread of its own.

    So a full pipe or a slow disk behind the log holds nobody up. The file is
    opened by the constructor (ConfigError); the thread starts with `start`,
    after the process has detached.
    """

    def __init__(self, config: Config) -> None:
        for name, level in LEVELS.items():
            logging.addLevelName(level, name)
        logging.addLevelName(LEVELS["CRITICAL"], "CRITICAL")
        logging.raiseExceptions = False
        self._target = _target(config)
        # The syslog has a time and a level of its own.
        form = "%(message)s" if config.syslog else "%(asctime)s %(levelname)s %(message)s"
        self._target.setFormatter(logging.Formatter(form))
        self._handler = _Queueing(queue.Queue(_QUEUED_RECORDS))
        self._writer = _Writer(self._handler.queue, self._target)
        logger = logging.getLogger("gearmand")
        logger.propagate = False
        logger.setLevel(LEVELS[config.verbose])
        logger.addHandler(self._handler)

    def give_to(self, user: Optional[pwd.struct_passwd]) -> None:
        """Let the user whom the process becomes open the file again."""
        if user is not None and os.geteuid() == 0 and isinstance(self._target, _ReopeningFile):
            os.fchown(self._target.stream.fileno(), user.pw_uid, user.pw_gid)

    def start(self) -> None:
        self._writer.start()

    def stop(self) -> bool:
        """Write what is left, for two seconds at most; False: it could not be written, and a thread is stuck with it."""
        stopper = threading.Thread(target=self._writer.stop, name="gearmand-log-stop", daemon=True)
        stopper.start()
        stopper.join(_LAST_WORDS_S)
        return not stopper.is_alive()

    def reopen(self) -> None:
        """Open the file again, once what was logged before has been written."""
        self._handler.enqueue(_REOPEN)


class _Syslog(logging.handlers.SysLogHandler):
    priority_map = {
        "DEBUG": "debug", "INFO": "info", "NOTICE": "notice", "WARNING": "warning",
        "ERROR": "err", "CRITICAL": "crit", "ALERT": "alert", "FATAL": "emerg",
    }  # fmt: skip

    def format(self, record: logging.LogRecord) -> str:
        return "gearmand[%d]: %s" % (os.getpid(), super().format(record))


def _target(config: Config) -> logging.Handler:
    if config.syslog:
        address = next((path for path in ("/dev/log", "/var/run/syslog") if os.path.exists(path)), ("localhost", 514))
        return _Syslog(address, logging.handlers.SysLogHandler.LOG_DAEMON)
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
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                os.close(self._descriptor)
                raise ConfigError("--pid-file: %s is no ordinary file" % path)

    def write(self) -> None:
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d\n" % os.getpid())
        except OSError as error:
            self.remove()
            raise ConfigError("--pid-file: cannot write %s: %s" % (self._path, error.strerror))
        finally:
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


def serve_signals(stop_gracefully: Callable[[], None], hang_up: Callable[[], None]) -> None:
    """Wait for signals and return when the process should end at once: TERM, INT, or USR1 for the second time."""
    draining = False
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGHUP:
            hang_up()
        elif number == signal.SIGUSR1 and not draining:
            draining = True
            threading.Thread(target=stop_gracefully, name="gearmand-drain", daemon=True).start()
        else:
            return


def end(graceful: bool) -> None:
    """What the command `shutdown` does: the same as the signal."""
    os.kill(os.getpid(), signal.SIGUSR1 if graceful else signal.SIGTERM)
