"""The worker: does jobs for one or several job servers, in threads and in processes.

    from gearmand import Worker

    worker = Worker("127.0.0.1:4730")

    @worker.register("reverse")
    def reverse(job):
        return job.workload[::-1]

    worker.work()

or, with that in the file tasks.py, from a shell: `python3 -m gearmand.worker tasks:worker`.

What is registered is called with an `AssignedJob`, and returns the job's
result; a generator yields parts of it, which are sent as they come. An
exception becomes WORK_EXCEPTION, JobFailed becomes WORK_FAIL, and the worker
goes on. A server that cannot be reached, or goes, is tried again until it is
there: after 0.1 s, and then more and more seldom, up to every 30 s.

A worker that works must not be forked; one that has not started may be.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import sys
import threading
import time
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Dict, Iterable, List, Optional, Sequence, Union

from gearmand.addresses import Address, AddressLike, parse_all
from gearmand.assigned import Ability, AssignedJob
from gearmand.connection import tls_of
from gearmand.encoders import encoder_of
from gearmand.errors import ConfigError, GearmandError, ServerLost
from gearmand.lane import Lane
from gearmand.protocol import PacketType, pack
from gearmand.shift import Hooks, Shift, StopIf
from gearmand.tokens import find, packet_of
from gearmand.workforce import Signals, Workforce, require_main_thread, stopping_signals

LOG = logging.getLogger("gearmand.worker")

Call = Callable[[AssignedJob], Any]


class Worker:
    """`servers`: see `addresses.parse_all`. `encoder`: for workloads and results, see `encoders`.

    `concurrency`: how many jobs at once, each in a thread of its own; to every server each thread is a worker.
    `processes`: how many processes are forked to do that, 0: none, it is done here. `client_id`: what the
    administrative command `workers` shows. `tls`: a `Tls`, an `ssl.SSLContext`, or True for the files that the
    environment names: speak TLS. `token`: for `--acl`. `cancellations`: have `job.cancelled` tell, where the server
    is this one.

    `max_jobs`, `max_age_s`: when a process has begun that many jobs, or is that old, it is replaced, and without
    processes `work` returns; several threads may begin a few more. `connect_timeout_s`: for one address of a server;
    `io_timeout_s`: how long a server may take to answer a GRAB_JOB, or no byte of what is sent, before it is taken
    for lost, `None`: for ever. `stop_timeout_s`: how long processes that are to stop may take before they are killed,
    `None`: as long as their jobs take.

    Hooks are called in the thread where it happens, and an exception in one is logged: `on_connect(server)`;
    `on_disconnect(server, error)`, `None` for an error when the worker stops; `on_job_start(job)`; then, unless its
    server was lost, one of `on_job_complete(job, result)`, `on_job_fail(job)`, `on_job_exception(job, error)`;
    `after_job(job)`; `on_idle()` when a thread has nothing to do after a job, or at first.

    Nothing is connected or started before `work` or `start`. ConfigError: a value cannot be used. Threads: any may
    call any method.
    """

    servers: List[Address]
    client_id: Optional[bytes]
    token: Union[None, str, bytes]
    encoder: Any
    tls: Any
    cancellations: bool
    concurrency: int
    processes: int
    max_jobs: Optional[int]
    max_age_s: Optional[float]
    connect_timeout_s: float
    io_timeout_s: Optional[float]
    stop_timeout_s: Optional[float]

    def __init__(
        self,
        servers: Union[None, AddressLike, Iterable[AddressLike]] = None,
        *,
        client_id: Union[None, str, bytes] = None,
        token: Union[None, str, bytes] = None,
        encoder: Any = None,
        tls: Any = None,
        cancellations: bool = False,
        concurrency: int = 1,
        processes: int = 0,
        max_jobs: Optional[int] = None,
        max_age_s: Optional[float] = None,
        connect_timeout_s: float = 5.0,
        io_timeout_s: Optional[float] = 30.0,
        stop_timeout_s: Optional[float] = None,
        on_connect: Optional[Callable[[str], Any]] = None,
        on_disconnect: Optional[Callable[[str, Optional[ServerLost]], Any]] = None,
        on_job_start: Optional[Callable[[AssignedJob], Any]] = None,
        on_job_complete: Optional[Callable[[AssignedJob, Any], Any]] = None,
        on_job_fail: Optional[Callable[[AssignedJob], Any]] = None,
        on_job_exception: Optional[Callable[[AssignedJob, BaseException], Any]] = None,
        after_job: Optional[Callable[[AssignedJob], Any]] = None,
        on_idle: Optional[Callable[[], Any]] = None,
    ) -> None:
        self.configure(
            servers=servers, client_id=client_id, token=token, encoder=encoder, tls=tls, cancellations=cancellations,
            concurrency=concurrency, processes=processes, max_jobs=max_jobs, max_age_s=max_age_s, connect_timeout_s=connect_timeout_s,
            io_timeout_s=io_timeout_s, stop_timeout_s=stop_timeout_s,
        )  # fmt: skip
        self._hooks = Hooks(
            on_connect, on_disconnect, on_job_start, on_job_complete, on_job_fail, on_job_exception, after_job, on_idle
        )
        # Guards changes of `_abilities` and of whether it works.
        self._lock = threading.Lock()
        self._abilities: Dict[bytes, Ability] = {}
        self._working: Union[None, Shift, Workforce] = None
        self._threads: List[threading.Thread] = []
        self._lanes_left = 0
        self._stop_asked = False
        self._bug: Optional[BaseException] = None

    def __repr__(self) -> str:
        return "<Worker of %s for %s>" % (", ".join(self.functions), ", ".join(map(str, self.servers)))

    def configure(self, **settings: Any) -> None:
        """Change settings by the names that the constructor has for them, hooks excepted. They count from the next start on."""
        for name, value in settings.items():
            if name not in _SETTINGS:
                raise TypeError("a worker has no setting %r" % name)
            setattr(self, name, _SETTINGS[name](name, value))

    # -- functions -----------------------------------------------------------------

    @property
    def functions(self) -> List[str]:
        return [ability.function for ability in self._abilities.values()]

    def register(
        self, function: Union[str, bytes], call: Optional[Call] = None, *, timeout_s: Optional[float] = None, encoder: Any = None
    ) -> Any:
        """Have `call(job)` do the jobs of this function; returns `call`. Without it, a decorator.

        `timeout_s`: the server takes the job for failed after that time.
        `encoder`: instead of the worker's. A worker that works tells its
        servers at once; processes that run already do not hear of it, so that
        raises GearmandError.
        """
        if call is None:
            return lambda decorated: self.register(function, decorated, timeout_s=timeout_s, encoder=encoder)
        if not callable(call):
            raise ConfigError("function %r: %r cannot be called" % (function, call))
        name = _function_name(function)
        if timeout_s is None:
            announcement = pack(PacketType.CAN_DO, name)
        else:
            _seconds("timeout_s of function %r" % function, timeout_s)
            announcement = pack(PacketType.CAN_DO_TIMEOUT, name, b"%d" % max(1, round(timeout_s * 1000)))
        text = name.decode("utf-8", "surrogateescape")
        ability = Ability(text, call, self.encoder if encoder is None else encoder_of(encoder), announcement)
        self._change_abilities(lambda abilities: abilities.__setitem__(name, ability))
        return call

    def unregister(self, function: Union[str, bytes]) -> None:
        """Do no further jobs of it; one that is on its way fails. Nothing happens where it is not registered."""
        name = _function_name(function)
        self._change_abilities(lambda abilities: abilities.pop(name, None))

    def _change_abilities(self, change: Callable[[Dict[bytes, Ability]], Any]) -> None:
        with self._lock:
            working = self._working
            if isinstance(working, Workforce):
                raise GearmandError("the processes of this worker run already: register its functions before")
            abilities = dict(self._abilities)
            change(abilities)
            self._abilities = abilities
            if working is not None:
                working.abilities = abilities
                working.notify()

    # -- life ------------------------------------------------------------------------

    def work(self, timeout_s: Optional[float] = None, *, stop_if: Optional[StopIf] = None, handle_signals: bool = False) -> None:
        """Work until `stop`, for `timeout_s` at most, and finish the jobs that have begun. The first job runs in this thread.

        `stop_if(idle, last_job_at)` is asked after each job, and while there
        is nothing to do at least once a second; what is true stops the worker.
        `idle`: no thread has a job, and every server that is there has none;
        `last_job_at`: when the last one ended (monotonic), `None` before that.
        `handle_signals`: TERM and INT stop it, the second one does what it did
        before; the handlers are restored. Signals and processes need the main
        thread, and with processes SIGCHLD is the worker's.

        With processes, `stop_if`, `max_jobs`, `max_age_s`, and `stop` where a
        job calls it, end one process, which is replaced. GearmandError: it works already, or this is
        not the main thread where it must be.
        """
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        if self.processes or handle_signals:
            require_main_thread()
        if self.processes:
            self._work_in_processes(ends_at, stop_if, handle_signals)
        else:
            shift = self._begin(ends_at, stop_if)
            self._work_in_threads(shift, stopping_signals(shift.stop, shift.lanes[0].waker) if handle_signals else nullcontext())

    def start(self) -> "Worker":
        """Work in threads of its own until `stop`. Returns at once. GearmandError: it works already, or has processes."""
        if self.processes:
            raise GearmandError("a worker with processes works in the main thread alone: call work()")
        self._stop_asked = False
        shift = self._begin(None, None)
        self._start_threads(shift, shift.lanes)
        return self

    def stop(self) -> None:
        """Have it stop after the jobs that have begun. Returns at once; for any thread and for signal handlers.

        Where it does not work, the next `work` returns at once.
        """
        self._stop_asked = True
        working = self._working
        if working is not None:
            working.stop()

    def join(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until a worker that was started has stopped; False: it has not within the timeout."""
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        threads = list(self._threads)
        for thread in threads:
            thread.join(None if ends_at is None else max(0.0, ends_at - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def __enter__(self) -> "Worker":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self.join()
        self._stop_asked = False

    # -- inside -----------------------------------------------------------------------

    def _begin(self, ends_at: Optional[float], stop_if: Optional[StopIf]) -> Shift:
        """From now on it works, until the last of its lanes has run."""
        if self.max_age_s is not None:
            old_at = time.monotonic() + self.max_age_s
            ends_at = old_at if ends_at is None else min(ends_at, old_at)
        with self._lock:
            self._require_idle()
            shift = Shift(
                self.servers, self.client_id, self.connect_timeout_s, self.io_timeout_s, self._abilities, self._hooks, self.tls,
                self.token, self.cancellations,
            )  # fmt: skip
            shift.most_jobs, shift.ends_at, shift.stop_if = self.max_jobs, ends_at, stop_if
            shift.lanes = [Lane(shift) for _ in range(self.concurrency)]
            self._lanes_left = self.concurrency
            self._working, self._threads, self._bug = shift, [], None
        # Asked before it was there to be stopped.
        if self._stop_asked:
            shift.stop()
        return shift

    def _require_idle(self) -> None:
        if self._working is not None:
            raise GearmandError("this worker works already")

    def _end(self) -> None:
        self._working = None
        self._stop_asked = False

    def _work_in_threads(self, shift: Shift, signals: ContextManager[Any]) -> None:
        """The first lane in this thread, the others in threads of their own."""
        try:
            with signals:
                try:
                    self._start_threads(shift, shift.lanes[1:])
                    self._run(shift, shift.lanes[0])
                finally:
                    shift.stop()
                    self.join()
        finally:
            # Not before the signals have let go of it.
            shift.lanes[0].waker.close()
        if self._bug is not None:
            raise self._bug

    def _start_threads(self, shift: Shift, lanes: Sequence[Lane]) -> None:
        threadless = list(shift.lanes)
        try:
            for lane in lanes:
                name = "gearmand-worker-%d" % (shift.lanes.index(lane) + 1)
                thread = threading.Thread(target=self._run_in_thread, args=(shift, lane), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
                threadless.remove(lane)
        except RuntimeError:
            shift.stop()
            for lane in threadless:
                self._run_in_thread(shift, lane)  # Which ends at once.
            raise

    def _run_in_thread(self, shift: Shift, lane: Lane) -> None:
        try:
            self._run(shift, lane)
        finally:
            lane.waker.close()

    def _run(self, shift: Shift, lane: Lane) -> None:
        try:
            lane.run()
        except Exception as error:
            LOG.exception("a bug of gearmand's own; the worker stops")
            self._bug = error
            shift.stop()
        finally:
            with self._lock:
                self._lanes_left -= 1
                if not self._lanes_left:
                    self._end()

    def _work_in_processes(self, ends_at: Optional[float], stop_if: Optional[StopIf], handle_signals: bool) -> None:
        with self._lock:
            self._require_idle()
            workforce = Workforce(self.processes, lambda: self._work_as_child(stop_if), self.stop, self.stop_timeout_s)
            self._working = workforce
        if self._stop_asked:
            workforce.stop()
        try:
            workforce.run(ends_at, handle_signals)
        finally:
            with self._lock:
                self._end()

    def _work_as_child(self, stop_if: Optional[StopIf]) -> None:
        # The parent's may be held, by a thread that is not here.
        self._lock = threading.Lock()
        self._working = None
        shift = self._begin(None, stop_if)
        self._work_in_threads(shift, Signals({}, shift.lanes[0].waker))


# -- checks -------------------------------------------------------------------------


def _function_name(function: Union[str, bytes]) -> bytes:
    name = function.encode("utf-8", "surrogateescape") if isinstance(function, str) else bytes(function)
    if not name or b"\0" in name:
        raise ConfigError("function %r: expected a name that is not empty and has no NUL" % (function,))
    return name


def _count(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError("%s: expected a whole number from %d on, got %r" % (name, least, value))
        return value

    return check


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise ConfigError("%s: expected a number of seconds above 0, got %r" % (name, value))
    return value


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _client_id(name: str, value: Any) -> bytes:
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if not isinstance(raw, bytes) or b"\0" in raw:
        raise ConfigError("%s: expected a text without NUL, got %r" % (name, value))
    return raw


_SETTINGS: Dict[str, Callable[[str, Any], Any]] = {
    "servers": lambda name, value: parse_all(value),
    "client_id": _or_none(_client_id),
    "token": lambda name, value: (packet_of(value), value)[1],
    "encoder": lambda name, value: encoder_of(value),
    "tls": lambda name, value: tls_of(value),
    "cancellations": lambda name, value: bool(value),
    "concurrency": _count(1),
    "processes": _count(0),
    "max_jobs": _or_none(_count(1)),
    "max_age_s": _or_none(_seconds),
    "connect_timeout_s": _seconds,
    "io_timeout_s": _or_none(_seconds),
    "stop_timeout_s": _or_none(_seconds),
}
"""By name: what makes of a value the one that is used. ConfigError: it cannot be used."""


# -- the command line ------------------------------------------------------------------


_WHAT = """\
MODULE:OBJECT is a Worker; or a callable, which is registered under its own
name; or a dictionary of callables by function. MODULE alone: every public
function that the module defines, by its own name. The module is looked for
in the current directory first. A Worker keeps its own settings where no
option says otherwise. TERM and INT stop it after the jobs that have begun."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m gearmand.worker",
        description="Gearman worker.",
        epilog=_WHAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("what", metavar="MODULE:OBJECT", help="what does the jobs: see below")
    parser.add_argument("--servers", metavar="HOST:PORT,...", help="the job servers (default: GEARMAN_SERVERS, else 127.0.0.1:4730)")
    parser.add_argument("--tls", action="store_true", help="speak TLS, with the files that the environment names (see gearman(1))")
    parser.add_argument("--concurrency", metavar="N", type=int, help="how many threads a process has (default: 1)")
    parser.add_argument("--processes", metavar="N", type=int, help="how many processes, 0: only this one (default: 0)")
    parser.add_argument("--client-id", metavar="TEXT", help="what the administrative command workers shows")
    parser.add_argument("--token-file", metavar="FILE", help="its first line is presented to every server (default: GEARMAN_TOKEN, where it is set)")
    parser.add_argument("--encoder", metavar="NAME", help="of workloads and results: bytes, text, json or pickle (default: bytes)")
    parser.add_argument("--max-jobs", metavar="N", type=int, help="after how many jobs a process is replaced, or this one ends")
    parser.add_argument("--max-age", metavar="SECONDS", type=float, dest="max_age_s", help="the same, after a time")
    parser.add_argument(
        "--stop-timeout", metavar="SECONDS", type=float, dest="stop_timeout_s", help="kill processes that take longer to stop"
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more; twice: everything")
    return parser


def _found(what: str) -> Any:
    """The object of MODULE:OBJECT. ConfigError: there is none."""
    module_name, colon, path = what.partition(":")
    if not module_name or (colon and not path):
        raise ConfigError("%r: expected MODULE:OBJECT, or MODULE" % what)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        LOG.debug("cannot import %s", module_name, exc_info=True)
        raise ConfigError("cannot import %s: %s: %s" % (module_name, type(error).__name__, error)) from error
    for name in path.split(".") if path else ():
        if not hasattr(found, name):
            raise ConfigError("%s: there is no %r in %r" % (what, name, found))
        found = getattr(found, name)
    return found


def _worker_of(found: Any, settings: Dict[str, Any]) -> Worker:
    """A worker that does what was found. ConfigError: that is nothing to do."""
    if isinstance(found, Worker):
        found.configure(**settings)
        return found
    worker = Worker(**settings)
    if inspect.ismodule(found):
        own = {name: each for name, each in vars(found).items() if inspect.isfunction(each) and each.__module__ == found.__name__}
        found = {name: each for name, each in own.items() if not name.startswith("_")}
    elif callable(found) and hasattr(found, "__name__"):
        found = {found.__name__: found}
    if not isinstance(found, dict) or not found:
        raise ConfigError("expected a Worker, a callable, a dictionary of callables or a module of functions, got %r" % (found,))
    for function, call in found.items():
        worker.register(function, call)
    return worker


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the worker of a command line until a signal ends it. Returns the exit status: 0, 1, or 130 after a second Ctrl-C; 2: SystemExit, for usage."""
    settings = vars(_parser().parse_args(arguments))
    what, verbose = settings.pop("what"), settings.pop("verbose")
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(asctime)s %(process)d %(threadName)s %(levelname)s %(message)s")
    try:
        token = find(settings.pop("token_file", None))
        settings.update({"token": token} if token is not None else {})
        _worker_of(_found(what), settings).work(handle_signals=True)
    except (GearmandError, OSError) as error:
        print("gearmand.worker: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # Under its own name, so that there is one class Worker.
    sys.exit(importlib.import_module("gearmand.worker").main())
