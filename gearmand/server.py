"""The server as a whole, and as an object to embed.

    accept threads (one an address)        see `listener`
    handler threads (one a connection)     see `listener`
    flusher thread                         see `flusher`
    clock thread                           `Broker.run_clock`

A server touches no signal, no global logging set-up and no working directory;
all that it started has ended when `stop` returns, but for the committing
thread where the store does not answer (see `keeper`).
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple, Union

from gearmand import caller, text_commands
from gearmand.broker import Broker
from gearmand.complaints import INTERVAL_S, Complaints
from gearmand.config import LEVELS, NOTICE, Config
from gearmand.errors import ConfigError, StoreError
from gearmand.flusher import Flusher
from gearmand.gatekeeper import Gatekeeper
from gearmand.halves import Halves
from gearmand.history import STEP_S
from gearmand.jobs import Priority
from gearmand.keeper import Keeper
from gearmand.limits import Bounds
from gearmand.listener import Listener, address_text, listen, listen_for_http
from gearmand.registry import Registry
from gearmand.revival import awake, restore
from gearmand.store import Store
from gearmand.stores import open_store
from gearmand.version import VERSION

if TYPE_CHECKING:
    from gearmand.tls import ServerSide
    from gearmand.web import Web

_HANDLE_BYTES = 63
# How long handlers may take to notice that their sockets are shut down, and
# how long the last results may take to leave.
_ENDING_S = 10.0
# How long the store may take to commit what is left.
_LAST_COMMIT_S = 10.0
_SPARE_DESCRIPTORS = 32
# Connections that one address leaves to the others.
_SPARE_CONNECTIONS = 32
_NO_BOUND = 2**62


class Server:
    """A job server inside this process.

        with Server(port=0) as server:
            host, port = server.address

    Options are those of the command line, by name with underscores
    (`config.OPTIONS`); unless `listen` says otherwise it listens on 127.0.0.1
    alone. ConfigError: an option cannot be used, or an address not be bound.

    `on_shutdown(graceful)` is called by a handler thread when a peer sends the
    command `shutdown`, and must return soon; by default the server stops.

    Threads: any may call any method. The constructor binds, so that a port in
    use is known before anything runs; `start` starts the threads.
    """

    def __init__(
        self,
        config: Optional[Config] = None,
        on_shutdown: Optional[Callable[[bool], None]] = None,
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
        self.gatekeeper = Gatekeeper(
            self.broker, config.acl, _bounds(config, self.most_connections), config.admin_loopback,
            lambda what: self.log.log(NOTICE, "%s", what),
        )  # fmt: skip
        self.halves = Halves(_share_of_memory(config.max_partial_total))
        self.stopping = False
        self._threads: List[threading.Thread] = []
        self._started = False
        self._stop_lock = threading.Lock()
        self._stopped = threading.Event()
        # Guarded by a lock of their own.
        self._handlers: Dict[threading.Thread, socket.socket] = {}
        self._handlers_lock = threading.Lock()
        self.tls = _server_side(config)
        self._listeners = listen(self)
        self.flusher = Flusher(config.unread_timeout, _share_of_memory(config.max_unsent_total))
        self.control = text_commands.Control(
            self.broker, VERSION, config.verbose, on_shutdown or self._stop_in_a_thread, self.gatekeeper
        )
        self.web: "Optional[Web]" = None
        self._web_listeners: List[Listener] = []
        if config.http_port is not None or config.https_port is not None:
            self._open_web()

    # -- life ------------------------------------------------------------------

    @property
    def addresses(self) -> List[Union[Tuple[str, int], str]]:
        """Host and port of every listening socket, `unix:PATH` of a Unix-domain one."""
        return [_address_of(listener) for listener in self._listeners]

    @property
    def address(self) -> Any:
        """The first of them: of plain text where that is spoken, else of TLS; a Unix-domain socket where there are no others."""
        return self.addresses[0]

    @property
    def http_addresses(self) -> List[Tuple[str, int]]:
        """Host and port of every socket that listens for HTTP; those of TLS last."""
        return [_address_of(listener) for listener in self._web_listeners]  # type: ignore[misc]

    @property
    def tls_addresses(self) -> List[Union[Tuple[str, int], str]]:
        """Those of them where TLS is spoken."""
        return [_address_of(listener) for listener in self._listeners if listener.tls is not None]

    def give_to(self, uid: int, gid: int) -> None:
        """Make the files of Unix-domain sockets a user's, as root, before the process becomes that user. ConfigError."""
        for listener in self._listeners:
            if listener.socket_file is not None:
                listener.socket_file.give_to(uid, gid)

    def reload(self) -> None:
        """Read the certificates again, for connections to come, and the access list's file. What cannot be used is logged, and stays as it was."""
        try:
            if self.tls is not None:
                self.tls.reload()
                self.log.log(NOTICE, "the certificates have been read again")
        except ConfigError as error:
            self.log.error("%s; the certificates are what they were", error)
        try:
            self.gatekeeper.reread()
        except ConfigError as error:
            self.log.error("%s; the old access list stays", error)

    def start(self) -> "Server":
        """Take back what the store has kept, and begin to serve.

        ConfigError: the store cannot be used; the server has stopped then.
        RuntimeError: it has been started or stopped before.
        """
        if self._started or self.stopping:
            raise RuntimeError("a Server can be started once: make another one")
        try:
            self._open_store()
        except (ConfigError, StoreError) as error:
            self.stop()
            raise error if isinstance(error, ConfigError) else ConfigError("--queue: %s" % error) from None
        self._started = True
        self.flusher.start()
        self._start_thread("gearmand-clock", self._run_clock)
        for listener in [*self._listeners, *self._web_listeners]:
            self._start_thread("gearmand-accept", listener.run)
        where = ", ".join(map(_text_of, self._listeners))
        if self._web_listeners:
            where += "; for HTTP on " + ", ".join(map(_text_of, self._web_listeners))
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

    def _start_thread(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _open_store(self) -> None:
        store = open_store(self.config)
        if store is None:
            return
        try:
            self._restore(store)
        except BaseException:
            store.close()
            raise
        keeper = Keeper(
            store,
            lambda error: self.complaints.say(LEVELS["ERROR"], "jobs not stored", "%s", error),
            lambda wanted, rows: self.broker.turn(awake, wanted, rows),
        )
        keeper.start()
        self.broker.keeper = keeper
        # Those that lie in the store and should not.
        self.broker.turn(lambda registry: None)

    def _open_web(self) -> None:
        # Loaded where it is needed alone: http.server brings a good deal along.
        from gearmand.web import Web
        from gearmand.web_handler import WebHandler

        try:
            self._web_listeners = listen_for_http(self, WebHandler)
        except ConfigError:
            self._close_listeners()
            raise
        self.web = Web(self)

    def _restore(self, store: Store) -> None:
        registry = self.broker.registry
        registry.now, registry.epoch_s = time.monotonic(), time.time()
        count = 0
        for count, row in enumerate(store.load(), 1):
            restore(registry, row)
        # Its rows get numbers after all those that there are.
        taken_over = store.take_over(lambda: registry.handles.reserve(1)[0])
        for row in taken_over:
            restore(registry, row)
        # After the jobs, which were accepted whatever the limits are now.
        for limits in store.load_limits():
            registry.functions.limit_queue(limits.function, list(limits[1:]))
        registry.stored = True
        self.log.log(NOTICE, "%s: %d jobs have been kept", store.where, count)
        if taken_over:
            self.log.log(NOTICE, "%s: %d jobs of a C server were taken over", store.where, len(taken_over))

    def _run_clock(self) -> None:
        if self.web is None:
            self.broker.run_clock(lambda: self.stopping, INTERVAL_S, self.complaints.sum_up)
        else:
            self.broker.run_clock(lambda: self.stopping, STEP_S, self._look)

    def _look(self) -> None:
        assert self.web is not None
        self.complaints.sum_up()
        self.web.look()

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
            if self.web is not None and self.web.unsent():
                return True
            return any(peer.waiting_bytes and peer.why_aborted is None for peer in self.broker.peers)

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
        for listener in [*self._listeners, *self._web_listeners]:
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
            sockets = list(self._handlers.values())
        for sock in sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It has gone by itself.
        ends_at = time.monotonic() + _ENDING_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends_at - time.monotonic()))
        self.flusher.stop()
        if self.broker.keeper is not None:
            left = self.broker.keeper.stop(_LAST_COMMIT_S)
            if left:
                self.log.warning("changes of the queue that were not stored: %d; jobs that have ended may be there again", left)

    # -- handlers: see `listener` ----------------------------------------------

    def add_handler(self, thread: threading.Thread, sock: socket.socket) -> None:
        with self._handlers_lock:
            self._handlers[thread] = sock

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
        most_bytes=_share_of_memory(config.max_jobs_memory, 2) or _NO_BOUND,
        most_abilities=config.max_abilities or _NO_BOUND,
        most_abilities_in_all=config.max_abilities_total or _NO_BOUND,
        most_jobs=config.max_jobs_per_function or None,
        most_limited=config.max_limited_functions or _NO_BOUND,
        kept_bytes=_share_of_memory(config.queue_memory),
    )


def _server_side(config: Config) -> "Optional[ServerSide]":
    if not config.ssl and config.ssl_port is None and config.https_port is None:
        return None
    # Loaded where it is needed alone (measured: 8 ms).
    from gearmand.tls import ServerSide

    return ServerSide(config.ssl_certificate, config.ssl_key, config.ssl_ca_file)


def _text_of(listener: Listener) -> str:
    return address_text(listener.server_address) + " (TLS)" * (listener.tls is not None)


def _address_of(listener: Listener) -> Union[Tuple[str, int], str]:
    address: Any = listener.server_address
    return address_text(address) if isinstance(address, str) else address[:2]


def _bounds(config: Config, most_connections: int) -> Bounds:
    """What one address may take."""
    connections = config.max_connections_per_address
    if connections is None:
        connections = most_connections - min(_SPARE_CONNECTIONS, most_connections // 10)
    return Bounds(connections, config.max_connection_rate, config.max_submission_rate, config.max_jobs_per_address)


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


def _share_of_memory(option: Optional[int], part: int = 4) -> int:
    if option is not None:
        return option
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // part
