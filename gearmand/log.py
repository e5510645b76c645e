"""The log of the process: where it goes, what a line looks like, and the thread that writes it.

Threads: any may log; the log's own thread alone writes. What cannot be
written is counted and dropped, so that a full pipe or a slow disk behind the
log holds nobody up.
"""

from __future__ import annotations

import collections
import json
import logging
import logging.handlers
import os
import pwd
import queue
import sys
import threading
import time
from typing import Any, Callable, Deque, List, Optional, Sequence

from gearmand import audit, files
from gearmand.config import LEVELS, NOTICE, Config
from gearmand.errors import ConfigError

DEFAULT_LOG_FILE = "/var/log/gearmand.log"
_QUEUED_RECORDS = 10_000
_LAST_WORDS_S = 2.0
_REOPEN = object()
# Events are written many at a time: waking the log's thread for each turn
# costs more than all the rest (measured: two thirds of all jobs a second).
_GATHER_S = 0.1
_GATHERED = object()
_GATHERED_TURNS = 200_000


# -- what a line looks like ------------------------------------------------------


class _Form(logging.Formatter):
    """A record as text, a `_Lines` as it is."""

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg) if isinstance(record.msg, _Lines) else super().format(record)

    def lines(self, events: Sequence[audit.Event]) -> List[str]:
        raise NotImplementedError


class _Lines(str):
    """Lines that are complete already."""


class _Text(_Form):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._second = _Second(lambda second: time.strftime(self.default_time_format, time.localtime(second)))

    def lines(self, events: Sequence[audit.Event]) -> List[str]:
        # All events of a turn have one time.
        epoch_s = events[0][1]
        head = "%s,%03d INFO " % (self._second.text(epoch_s), epoch_s % 1 * 1000)
        return [head + audit.as_text(event) for event in events]


class _Syslog(_Form):
    """The syslog has a time and a level of its own."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def lines(self, events: Sequence[audit.Event]) -> List[str]:
        return [audit.as_text(event) for event in events]


class _Json(_Form):
    """One object a line: time and level; message, and traceback where there is one, or the members of an event."""

    def __init__(self) -> None:
        super().__init__()
        self._second = _Second(lambda second: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, _Lines):
            return str(record.msg)
        values = {"time": self._time(record.created), "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)

    def lines(self, events: Sequence[audit.Event]) -> List[str]:
        head = '{"time": "%s", "level": "INFO", ' % self._time(events[0][1])
        return ["%s%s}" % (head, audit.as_json(event)) for event in events]

    def _time(self, epoch_s: float) -> str:
        """As RFC 3339 has it, in UTC."""
        return "%s.%06dZ" % (self._second.text(epoch_s), epoch_s % 1 * 1e6)


class _Second:
    """The text for a second, which is made once for all that happens in it. Any thread."""

    def __init__(self, make: Callable[[int], str]) -> None:
        self._make = make
        self._last = (-1, "")

    def text(self, epoch_s: float) -> str:
        second, text = self._last
        if second != int(epoch_s):
            second = int(epoch_s)
            text = self._make(second)
            self._last = (second, text)
        return text


# -- where it goes -----------------------------------------------------------------


class _ReopeningFile(logging.FileHandler):
    """A log file that is opened again on demand, after somebody has moved it away."""

    def _open(self) -> Any:
        return files.open_log(self.baseFilename)

    def reopen(self) -> None:
        """OSError: it cannot be opened; the old one stays."""
        with self.lock:  # type: ignore[union-attr]
            old, self.stream = self.stream, self._open()
            old.close()


class _SyslogSocket(logging.handlers.SysLogHandler):
    priority_map = {
        "DEBUG": "debug", "INFO": "info", "NOTICE": "notice", "WARNING": "warning",
        "ERROR": "err", "CRITICAL": "crit", "ALERT": "alert", "FATAL": "emerg",
    }  # fmt: skip

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.msg, _Lines):
            super().emit(record)
            return
        for line in record.msg.split("\n"):
            super().emit(_record(record.levelno, _Lines(line)))

    def format(self, record: logging.LogRecord) -> str:
        return "gearmand[%d]: %s" % (os.getpid(), super().format(record))


def _target(config: Config) -> logging.Handler:
    if config.syslog:
        address = next((path for path in ("/dev/log", "/var/run/syslog") if os.path.exists(path)), ("localhost", 514))
        return _SyslogSocket(address, logging.handlers.SysLogHandler.LOG_DAEMON)
    name = config.log_file or (DEFAULT_LOG_FILE if config.daemon else "stderr")
    if name == "stderr":
        return logging.StreamHandler(sys.stderr)
    if name == "none":
        return logging.NullHandler()
    try:
        return _ReopeningFile(os.path.abspath(name))
    except OSError as error:
        raise ConfigError("--log-file: cannot write %s: %s" % (name, error.strerror or error))


# -- who writes it ------------------------------------------------------------------


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

    def lose(self, count: int) -> None:
        self._dropped += count

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Its words as they are now; its traceback is the formatter's to write."""
        record.msg, record.args = record.getMessage(), None
        return record


def _record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("gearmand", level, "", 0, message, None, None)


def _missing(count: int) -> logging.LogRecord:
    return _record(LEVELS["WARNING"], "%d lines are missing here: the log could not be written" % count)


class _Writer(logging.handlers.QueueListener):
    """The log's own thread."""

    def __init__(self, records: Any, target: logging.Handler) -> None:
        super().__init__(records, target)
        # Lines of events, appended by any thread, until they are written; and
        # whether whoever appends must say so.
        self.gathered: Deque[List[str]] = collections.deque()
        self.unaware = True

    def enqueue_sentinel(self) -> None:
        self.queue.put(self._sentinel)  # type: ignore[attr-defined]

    def handle(self, record: Any) -> None:
        if record is _GATHERED:
            time.sleep(_GATHER_S)
            self._write_gathered()
            return
        if record is not _REOPEN:
            super().handle(record)
            return
        for handler in self.handlers:
            if isinstance(handler, _ReopeningFile):
                self._reopen(handler)

    def _write_gathered(self) -> None:
        lines: List[str] = []
        while self.gathered or not self.unaware:
            # In this order: what is appended now is either seen here or said.
            self.unaware = not self.gathered
            while self.gathered:
                lines += self.gathered.popleft()
        if lines:
            super().handle(_record(logging.INFO, _Lines("\n".join(lines))))

    def _reopen(self, handler: _ReopeningFile) -> None:
        try:
            handler.reopen()
        except OSError as error:
            logging.getLogger("gearmand").error(
                "cannot open %s again: %s; the log goes on where it was", handler.baseFilename, error.strerror or error
            )


class Log:
    """The `gearmand` logger's way to stderr, a file or syslog.

    The file is opened by the constructor (ConfigError); the thread starts
    with `start`, after the process has detached.
    """

    def __init__(self, config: Config) -> None:
        for name, level in LEVELS.items():
            logging.addLevelName(level, name)
        logging.addLevelName(LEVELS["CRITICAL"], "CRITICAL")
        logging.raiseExceptions = False
        self._target = _target(config)
        self._form: _Form = _Json() if config.log_format == "json" else _Syslog() if config.syslog else _Text()
        self._target.setFormatter(self._form)
        self._handler = _Queueing(queue.Queue(_QUEUED_RECORDS))
        self._writer = _Writer(self._handler.queue, self._target)
        logger = logging.getLogger("gearmand")
        logger.propagate = False
        logger.setLevel(LEVELS[config.verbose])
        logger.addHandler(self._handler)
        self.audits = logger.isEnabledFor(logging.INFO)

    def write_events(self, events: Sequence[audit.Event]) -> None:
        """Log what became of jobs in one turn. The lines are made here, not by the log's thread: whoever causes many pays for them."""
        writer = self._writer
        if len(writer.gathered) >= _GATHERED_TURNS:
            self._handler.lose(len(events))
            return
        writer.gathered.append(self._form.lines(events))
        if writer.unaware:
            writer.unaware = False
            self._handler.enqueue(_GATHERED)

    def write_always(self, message: str) -> None:
        """Log what somebody has asked for, whatever the level of the log is."""
        self._handler.enqueue(_record(NOTICE, message))

    def give_to(self, user: Optional[pwd.struct_passwd]) -> None:
        """Let the user whom the process becomes open the file again."""
        if user is not None and os.geteuid() == 0 and isinstance(self._target, _ReopeningFile):
            files.give(self._target.stream.fileno(), user)

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
