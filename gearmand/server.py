"""The server as a whole, and as an object to embed.

    accept threads (one an address)        see `listener`
    handler threads (one a connection)     see `listener`
    flusher thread                         see `flusher`
    clock thread                           `Broker.run_clock`

A server touches no signal, no global logging set-up and no working directory;
all that it started has ended when `stop` returns.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from gearmand import audit, caller, text_commands
from gearmand.broker import Broker
from gearmand.complaints import INTERVAL_S, Complaints
from gearmand.config import LEVELS, NOTICE, Config
from gearmand.errors import ConfigError, StoreError
from gearmand.flusher import Flusher
from gearmand.handover import Estate, call_back, take_in, take_stored
from gearmand.jobs import Priority
from gearmand.keeper import Keeper
from gearmand.listener import Passed, address_text, listen
from gearmand.registry import Registry
from gearmand.revival import awake, restore
from gearmand.store import Store, Work
from gearmand.stores import open_store
from gearmand.version import VERSION

_HANDLE_BYTES = 63
# How long handlers may take to notice that their sockets are shut down, and
# how long the last results may take to leave.
_ENDING_S = 10.0
_SPARE_DESCRIPTORS = 32


class Server:
    """A job server inside this process.

        with Server(port=0) as server:
            host, port = server.address

    Options are those of the command line, by name with underscores
    (`config.OPTIONS`); unless `listen` says otherwise it listens on 127.0.0.1
    alone. ConfigError: an option cannot be used, or an address not be bound.

    `on_shutdown(graceful)` is called by a handler thread when a peer sends the
    command `shutdown`, and must return soon; by default the server stops.

    `on_events(events)` is called after each turn in which something became of
    jobs, by the thread whose turn it was, with `audit.Event`s, and must return
    soon; by default they are logged, where the log takes INFO. `sockets`, that
    listen already, take the place of addresses.

    Threads: any may call any method. The constructor binds, so that a port in
    use is known before anything runs; `start` starts the threads.
    """

    def __init__(
        self,
        config: Optional[Config] = None,
        on_shutdown: Optional[Callable[[bool], None]] = None,
        on_events: Optional[Callable[[List[audit.Event]], None]] = None,
        sockets: Sequence[Passed] = (),
        **options: Any,
    ) -> None:
        if config is None:
            config = Config(**{"listen": ("127.0.0.1",), **options})
        elif options:
            raise TypeError("either a Config or options, not both")
        self.config = config
        self.log = logging.getLogger("gearmand")
        self.complaints = Complaints(self.log)
        self.cpu = _handler_cpu(config.handler_cpu)
        self.most_connections = _most_connections(config.max_connections)
        self.broker = Broker(_registry(config), time.monotonic, time.time)
        self.stopping = False
        self._stop_lock = threading.Lock()
        self._stopped = threading.Event()
        # Guarded by a lock of their own.
        self._handlers: Dict[threading.Thread, None] = {}
        self._handlers_lock = threading.Lock()
        self._listeners = listen(self, sockets)
        self._on_events = on_events
        self.where_stored: Optional[str] = None
        self.flusher = Flusher(config.unread_timeout, _share_of_memory(config.max_unsent_total))
        self.control = text_commands.Control(
            self.broker, VERSION, config.verbose, on_shutdown or self._stop_in_a_thread
        )
        self._threads: List[threading.Thread] = []
        self._started = False

    # -- life ------------------------------------------------------------------

    @property
    def addresses(self) -> List[Tuple[str, int]]:
        """Host and port of every listening socket."""
        return [listener.server_address[:2] for listener in self._listeners]

    @property
    def address(self) -> Tuple[str, int]:
        """Host and port of the first listening socket."""
        return self.addresses[0]

    def start(self, take: Optional[Callable[[], Estate]] = None) -> "Server":
        """Take back what the store has kept, and begin to serve.

        `take`: returns what an earlier server leaves, which from then on does
        not serve any more. ConfigError: the store cannot be used; the server has stopped then.
        RuntimeError: it has been started or stopped before.
        """
        if self._started or self.stopping:
            raise RuntimeError("a Server can be started once: make another one")
        try:
            self._open_store(None if take is None else take())
        except (ConfigError, StoreError) as error:
            self.stop()
            raise ConfigError(str(error)) from None
        self._started = True
        self._begin_audit()
        self.flusher.start()
        self._start_thread("gearmand-clock", self._run_clock)
        self._accept()
        where = ", ".join(address_text(address) for address in self.addresses)
        cpu = "" if self.cpu is None else "; its handlers run on processor %d" % self.cpu
        self.log.log(NOTICE, "gearmand %s listens on %s%s", VERSION, where, cpu)
        return self

    def stop(self, graceful: bool = False, timeout_s: Optional[float] = None) -> None:
        """Stop, and return when nothing of the server runs any more.

        Graceful: no new connections and jobs, but what runs may finish, and
        what is queued is still given out as long as a connected worker can do
        it; for `timeout_s` at most (`None`: however long it takes). Another
        thread that calls `stop()` meanwhile ends that at once. In-process
        callers that still wait get JobLost.
        """
        if graceful:
            self._drain(timeout_s)
        self._halt()
        with self._stop_lock:
            if not self._stopped.is_set():
                self._end()
                if self._started:
                    self.log.log(NOTICE, "gearmand has stopped")
                self._stopped.set()

    def wait(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until the server has stopped; False: it has not within the timeout."""
        return self._stopped.wait(timeout_s)

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- another server takes over: see `takeover` --------------------------------

    def share_sockets(self) -> List[Passed]:
        """Those that listen, for another process."""
        for listener in self._listeners:
            listener.shared = True
        return [Passed(listener.socket, listener.kind) for listener in self._listeners]

    def pause_accepting(self) -> None:
        """Until `resume`. Connections wait."""
        pausing = [threading.Thread(target=listener.pause, name="gearmand-pause") for listener in self._listeners]
        for thread in pausing:
            thread.start()
        for thread in pausing:
            thread.join()

    def close_listeners(self) -> None:
        """After `pause_accepting`: another process listens."""
        for listener in self._listeners:
            listener.server_close()
        self._listeners = []

    def resume(self, estate: Estate) -> None:
        """Take back what was left to another server. ConfigError: it cannot be."""
        self._open_store(estate, True)
        with self.broker.lock:
            call_back(self.broker.registry)
            if self.where_stored is None:
                self.broker.keeper = None
        self._accept()

    def _accept(self) -> None:
        for listener in self._listeners:
            self._start_thread("gearmand-accept", listener.run)

    def _start_thread(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _begin_audit(self) -> None:
        if self._on_events is None and self.log.isEnabledFor(logging.INFO):
            self._on_events = self._log_events
        if self._on_events is not None:
            self.broker.on_events = self._on_events
            self.broker.registry.events = []

    def _log_events(self, events: List[audit.Event]) -> None:
        for event in events:
            self.log.info("%s", audit.as_text(event), extra={"event": audit.as_dict(event)})

    def _open_store(self, estate: Optional[Estate] = None, still_ours: bool = False) -> None:
        """`estate`: of an earlier server; or of this one, which it was `still_ours`."""
        store = open_store(self.config)
        self.where_stored = None if store is None else store.where
        if estate is not None and estate.where not in (None, self.where_stored):
            raise ConfigError("the server that runs keeps its queue in %s: keep it there" % estate.where)
        if store is None:
            if estate is not None:
                self.broker.turn(take_in, estate, still_ours)
            return
        if estate is not None and estate.where is None:
            _store_estate(store, estate)
        count = self.broker.turn(take_stored, store.load(), estate, still_ours)
        self.log.log(NOTICE, "%s: %d jobs have been kept", store.where, count)
        self._keep_in(store)

    def _keep_in(self, store: Store) -> None:
        registry = self.broker.registry
        # Its rows get numbers after all those that there are.
        taken_over = store.take_over(lambda: registry.handles.reserve(1)[0])
        for row in taken_over:
            restore(registry, row)
        if taken_over:
            self.log.log(NOTICE, "%s: %d jobs of a C server were taken over", store.where, len(taken_over))
        # After the jobs, which were accepted whatever the limits are now.
        for limits in store.load_limits():
            registry.functions.limit_queue(limits.function, list(limits[1:]))
        registry.stored = True
        keeper = Keeper(
            store,
            lambda error: self.complaints.say(LEVELS["ERROR"], "jobs not stored", "%s", error),
            lambda wanted, rows: self.broker.turn(awake, wanted, rows),
        )
        keeper.start()
        self.broker.keeper = keeper
        # Those that lie in the store and should not.
        self.broker.turn(lambda registry: None)

    def _run_clock(self) -> None:
        self.broker.run_clock(lambda: self.stopping, INTERVAL_S, self.complaints.sum_up)

    def _stop_in_a_thread(self, graceful: bool) -> None:
        threading.Thread(target=self.stop, args=(graceful,), name="gearmand-stop", daemon=True).start()

    def _drain(self, timeout_s: Optional[float]) -> None:
        """Wait until nothing runs and nothing could, and until the last results have left."""
        broker = self.broker
        with broker.lock:
            broker.registry.draining = True
        self._close_listeners()
        with broker.lock:
            broker.drained.wait_for(lambda: self.stopping or broker.registry.drained, timeout_s)
        ends_at = time.monotonic() + _ENDING_S
        while self._unsent() and not self.stopping and time.monotonic() < ends_at:
            time.sleep(0.02)

    def _unsent(self) -> bool:
        with self.broker.lock:
            return any(peer.outbox and peer.why_aborted is None for peer in self.broker.peers)

    def _halt(self) -> None:
        """Tell every thread that waits under the lock."""
        broker = self.broker
        with broker.lock:
            self.stopping = True
            broker.due.notify_all()
            broker.drained.notify_all()
            broker.stopped = True
            for waiting in broker.callers:
                waiting.lose()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            if self._started:
                listener.stop()
            listener.server_close()

    def _end(self) -> None:
        """End every thread and close every socket."""
        self._close_listeners()
        with self.broker.lock:
            peers = list(self.broker.peers)
        for peer in peers:
            peer.abort("the server stops")
        with self._handlers_lock:
            threads = [*self._threads, *self._handlers]
        ends_at = time.monotonic() + _ENDING_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends_at - time.monotonic()))
        self.flusher.stop()
        if self.broker.keeper is not None:
            self.broker.keeper.stop()

    # -- handlers: see `listener` ----------------------------------------------

    def add_handler(self, thread: threading.Thread) -> None:
        with self._handlers_lock:
            self._handlers[thread] = None

    def remove_handler(self, thread: threading.Thread) -> None:
        with self._handlers_lock:
            del self._handlers[thread]

    @property
    def connections(self) -> int:
        """How many connections have a handler."""
        with self._handlers_lock:
            return len(self._handlers)

    # -- jobs of this process ----------------------------------------------------

    def submit(
        self,
        function: str,
        workload: bytes = b"",
        unique: bytes = b"",
        priority: Priority = Priority.NORMAL,
        background: bool = False,
        timeout_s: Optional[float] = None,
        on_data: caller.OnData = None,
        on_warning: caller.OnData = None,
        on_status: caller.OnStatus = None,
    ) -> Any:
        """Submit a job without a connection.

        In the foreground: wait until it ends and return its result (bytes).
        `on_data(bytes)`, `on_warning(bytes)` and `on_status(numerator,
        denominator)` are called in this thread as the worker reports. Raises
        JobFailed, JobException (with the worker's data), JobTimeout after
        `timeout_s`, JobLost when the server stops or has stopped, JobRefused.

        In the background: return its handle (str) at once. Raises JobRefused;
        JobLost where the server has stopped.
        """
        if background:
            return caller.submit_in_background(self.broker, function, workload, unique, priority)
        return caller.run(
            self.broker, function, workload, unique, priority, timeout_s, on_data, on_warning, on_status
        )


def _store_estate(store: Store, estate: Estate) -> None:
    """Store what another server's memory had. ConfigError: it would replace what is stored already."""
    rows = [*estate.moved, *(row for row in estate.held.values() if row is not None)]
    taken = {row.number for row in store.load()} if rows else set()
    if any(row.number in taken for row in rows):
        raise ConfigError("%s has jobs already, of the same numbers as those of the server that runs" % store.where)
    store.commit(Work(rows, (), (), estate.limits))


# -- what the configuration leaves to the machine ------------------------------------


def handle_prefix(config: Config) -> bytes:
    """What comes before the number of a job handle."""
    prefix = config.job_handle_prefix or "H:" + socket.gethostname()
    return prefix.encode("utf-8", "replace")[: _HANDLE_BYTES - 21]


def _registry(config: Config) -> Registry:
    first_number = time.time_ns() // 1000
    return Registry(
        handle_prefix(config),
        first_number,
        attempts=None if config.job_retries < 0 else max(1, config.job_retries),
        wakeups=config.worker_wakeup,
        grace_s=config.wakeup_grace,
        linger_s=config.grab_linger,
        timeout_unit_s=1.0 if config.timeout_unit == "s" else 0.001,
        minimum_timeout_s=config.minimum_timeout,
        timeout_fails=config.timeout_fails,
        reports_extend=config.reports_extend_timeout,
        newest_first=config.function_order,
        kept_bytes=_share_of_memory(config.queue_memory),
    )


def _handler_cpu(choice: str) -> Optional[int]:
    """On which processor the handlers run; `None`: wherever the system likes.

    Threads that share the interpreter lock hand it from processor to processor
    with every system call; on one they run up to three times as fast.
    """
    if choice == "none" or not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if choice != "auto":
        if int(choice) not in allowed:
            raise ConfigError("--handler-cpu: this process may not use processor %s, only %s" % (choice, allowed))
        return int(choice)
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    # Several servers on one machine should not all choose the same one.
    return allowed[os.getpid() % len(allowed)]


def _most_connections(option: Optional[int]) -> int:
    if option is not None:
        return option
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else max(1, soft - _SPARE_DESCRIPTORS)


def _share_of_memory(option: Optional[int]) -> int:
    if option is not None:
        return option
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
