"""Worker processes, forked beforehand, each replaced when it ends; and the signals that stop a worker.

A child lives as long as a pipe that only its parent holds open. The parent
closes it to have the child stop, and when the parent dies, however it dies, it
closes too: so none is orphaned. The children's ends come as SIGCHLD.

No thread is started in the parent, because a process with threads forks at the
risk of a lock held for ever in the child.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterable, NoReturn, Optional

from gearmand.errors import GearmandError
from gearmand.waker import Waker

LOG = logging.getLogger("gearmand.worker")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BLOCKED = (*STOP_SIGNALS, signal.SIGCHLD)

# A child that fails sooner than this is not replaced at once.
_SHORT_LIFE_S = 1.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0


def require_main_thread() -> None:
    """GearmandError: this is another one."""
    if threading.current_thread() is not threading.main_thread():
        raise GearmandError("signals and processes need the main thread, this is %s" % threading.current_thread().name)


def no_action(number: int, frame: Any) -> None:
    """A handler of a signal that is only to wake the thread that polls."""


class Signals:
    """While the `with` block runs, signals have handlers, and wake whoever polls `waker`. In the main thread only.

    The waker is what makes a signal heard that comes just before the poll.
    """

    def __init__(self, handlers: Dict[int, Callable[[int, Any], None]], waker: Waker) -> None:
        self._handlers = handlers
        self._waker = waker
        self._former: Dict[int, Any] = {}
        self._former_fd = -1

    def __enter__(self) -> "Signals":
        self._former_fd = signal.set_wakeup_fd(self._waker.signal_fd, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            self._former[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.give_back(list(self._former))
        try:
            signal.set_wakeup_fd(self._former_fd)
        except (ValueError, OSError):
            signal.set_wakeup_fd(-1)  # It was closed meanwhile.

    def give_back(self, numbers: Iterable[int]) -> None:
        """These signals do again what they did before."""
        for number in numbers:
            former = self._former.pop(number, None)
            if former is not None:
                signal.signal(number, former)


def stopping_signals(stop: Callable[[], None], waker: Waker, *further: int) -> Signals:
    """TERM and INT call `stop`, the first time; then they do again what they did before. The further ones only wake."""

    def handle(number: int, frame: Any) -> None:
        signals.give_back(STOP_SIGNALS)
        stop()

    handlers: Dict[int, Callable[[int, Any], None]] = dict.fromkeys(STOP_SIGNALS, handle)
    signals = Signals({**handlers, **dict.fromkeys(further, no_action)}, waker)
    return signals


class _Process:
    """One place in the workforce, and the child that holds it now, if any."""

    def __init__(self) -> None:
        self.pid: Optional[int] = None
        self.life: Optional[int] = None
        """The end of the child's pipe that the parent holds."""
        self.started_at = 0.0
        self.pause_s = _FIRST_PAUSE_S
        self.due_at = 0.0
        """When the place is to be taken again, where it is free (monotonic)."""

    def end_life(self) -> None:
        if self.life is not None:
            os.close(self.life)
            self.life = None


class Workforce:
    """`count` children that each do `work()` and, told by signal or by the parent, `stop()`.

    `run` belongs to the main thread; any thread and any signal handler may
    call `stop`. `stop_timeout_s`: how long children may take to end before
    they are killed; `None`: as long as their jobs take.
    """

    def __init__(
        self, count: int, work: Callable[[], None], stop_child: Callable[[], None], stop_timeout_s: Optional[float]
    ) -> None:
        self._processes = [_Process() for _ in range(count)]
        self._work = work
        self._stop_child = stop_child
        self._stop_timeout_s = stop_timeout_s
        self._waker = Waker()
        self._poll = select.poll()
        self._poll.register(self._waker, select.POLLIN)
        self.stopping = False

    def stop(self) -> None:
        """Returns at once; `run` returns once every child has ended after the jobs that it has."""
        self.stopping = True
        self._waker.wake()

    def run(self, ends_at: Optional[float], handle_signals: bool) -> None:
        """Returns after `stop`, or at `ends_at` (monotonic). OSError: the system cannot make that many processes."""
        if handle_signals:
            signals = stopping_signals(self.stop, self._waker, signal.SIGCHLD)
        else:
            signals = Signals({signal.SIGCHLD: no_action}, self._waker)
        try:
            with signals:
                try:
                    for process in self._processes:
                        self._fork(process)
                    self._keep_up(ends_at)
                    self._let_end()
                finally:
                    self._kill()
                    self._reap_all()
        finally:
            self._waker.close()

    # -- the parent ----------------------------------------------------------------

    def _keep_up(self, ends_at: Optional[float]) -> None:
        """Replace whoever ends."""
        while not self.stopping:
            now = time.monotonic()
            if ends_at is not None and now >= ends_at:
                return
            for process in self._processes:
                self._reap(process)
                if process.pid is None and process.due_at <= now:
                    self._replace(process)
            dues = [process.due_at for process in self._processes if process.pid is None]
            self._wait_until(min(dues + ([] if ends_at is None else [ends_at]), default=None))

    def _let_end(self) -> None:
        """Have the children end, and wait for it."""
        for process in self._processes:
            process.end_life()
        kill_at = None if self._stop_timeout_s is None else time.monotonic() + self._stop_timeout_s
        while any(process.pid is not None for process in self._processes):
            for process in self._processes:
                self._reap(process)
            if kill_at is not None and time.monotonic() >= kill_at:
                self._kill()
                return
            if any(process.pid is not None for process in self._processes):
                self._wait_until(kill_at)

    def _wait_until(self, at: Optional[float]) -> None:
        if self._poll.poll(None if at is None else max(0.0, at - time.monotonic()) * 1000):
            self._waker.drain()

    def _kill(self) -> None:
        for process in self._processes:
            process.end_life()
            if process.pid is not None:
                LOG.warning("worker process %d is killed", process.pid)
                os.kill(process.pid, signal.SIGKILL)

    def _reap_all(self) -> None:
        for process in self._processes:
            self._reap(process, 0)

    def _reap(self, process: _Process, options: int = os.WNOHANG) -> None:
        """Note the end of a child, where it has ended."""
        if process.pid is None:
            return
        try:
            pid, status = os.waitpid(process.pid, options)
        except ChildProcessError:
            pid, status = process.pid, 0  # Somebody else has waited for it.
        if not pid:
            return
        now = time.monotonic()
        process.pid = None
        process.end_life()
        if status == 0 or now - process.started_at >= _SHORT_LIFE_S:
            process.pause_s = _FIRST_PAUSE_S
            process.due_at = now
        else:
            process.due_at = now + process.pause_s
            process.pause_s = min(2 * process.pause_s, _LONGEST_PAUSE_S)
        if status:
            LOG.warning("worker process %d %s", pid, _how(status))

    def _replace(self, process: _Process) -> None:
        try:
            self._fork(process)
        except OSError as error:
            LOG.warning("no worker process can be started: %s; trying again in %g s", error, process.pause_s)
            process.due_at = time.monotonic() + process.pause_s
            process.pause_s = min(2 * process.pause_s, _LONGEST_PAUSE_S)

    def _fork(self, process: _Process) -> None:
        # What is buffered would be written by both.
        _flush()
        alive, life = os.pipe()
        # A signal that comes before the child has its own handlers waits.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            pid = os.fork()
            if not pid:
                process.life = life
                self._be_child(alive)
            # Before a signal can end this, or nobody would see to the child.
            process.pid, process.life, process.started_at = pid, life, time.monotonic()
        except OSError:
            os.close(life)
            raise
        finally:
            os.close(alive)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        LOG.debug("worker process %d starts", pid)

    # -- the child -----------------------------------------------------------------

    def _be_child(self, alive: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, lambda number, frame: self._stop_child())
            # A terminal sends INT to parent and children alike; the parent decides.
            signal.signal(signal.SIGINT, no_action)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
            self._waker.close()
            for process in self._processes:
                # A sister would not see the end of a pipe that is open here.
                process.end_life()
            threading.Thread(target=self._watch, args=(alive,), name="gearmand-parent", daemon=True).start()
            self._work()
            status = 0
        except BaseException:
            LOG.exception("worker process %d ends with an exception", os.getpid())
        finally:
            _flush()
            os._exit(status)

    def _watch(self, alive: int) -> None:
        os.read(alive, 1)
        self._stop_child()


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "was ended by signal %d" % os.WTERMSIG(status)
    return "ended with status %d" % os.WEXITSTATUS(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # There is none, or nobody reads it.
