"""The server as a whole, and as an object to embed.

    accept threads (one an address)        see `listener`
    handler threads (one a connection)     see `listener`
    flusher and courier threads            see `flusher`, `courier`
    clock thread                           `Broker.run_clock`

A server touches no signal, no global logging set-up and no working directory;
all that it started has ended when `stop` returns, but for the committing
thread where the store does not answer (see `keeper`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from gearmand import audit, caller, recurrence, text_commands
from gearmand.binding import Passed, listen, listen_on
from gearmand.broker import Broker
from gearmand.complaints import INTERVAL_S, Complaints
from gearmand.config import LEVELS, NOTICE, Config
from gearmand.errors import ConfigError, StoreError
from gearmand.flusher import Flusher
from gearmand.gatekeeper import Gatekeeper
from gearmand.halves import Halves
from gearmand.handover import Estate, call_back
from gearmand.history import STEP_S
from gearmand.jobs import Priority
from gearmand.limits import Bounds
from gearmand.listener import Listener, address_text
from gearmand.loading import load
from gearmand.placement import Placement
from gearmand.registry import Registry
from gearmand.version import VERSION

if TYPE_CHECKING:
    from gearmand.peer import Peer
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
_SPOKEN = {"plain": "", "tls": " (TLS)", "http": " (HTTP)", "https": " (HTTPS)"}


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
        self.placement = Placement(config.handler_cpu, self._complain_of_processors, self._say_where)
        self.most_connections = _most_connections(config.max_connections)
        self.broker = Broker(_registry(config), time.monotonic, time.time, self.placement.place)
        self.broker.courier.on_error = self._complain_of_sending
        self.gatekeeper = Gatekeeper(
            self.broker, config.acl, _bounds(config, self.most_connections), config.admin_loopback,
            lambda what: self.log.log(NOTICE, "%s", what),
        )  # fmt: skip
        self.halves = Halves(_share_of_memory(config.max_partial_total))
        self.stopping = False
        self._halted = threading.Event()
        self._threads: List[threading.Thread] = []
        self._started = False
        self._stop_lock = threading.Lock()
        self._stopped = threading.Event()
        # Guarded by a lock of their own.
        self._handlers: Dict[threading.Thread, socket.socket] = {}
        self._handlers_lock = threading.Lock()
        self.tls = _server_side(config)
        self._listeners = listen_on(self, sockets) if sockets else listen(self)
        self._on_events = on_events
        # What the store is called, where there is one.
        self.where_stored: Optional[str] = None
        self.flusher = Flusher(config.unread_timeout, _share_of_memory(config.max_unsent_total))
        self.control = text_commands.Control(
            self.broker, VERSION, config.verbose, on_shutdown or self._stop_in_a_thread, self.gatekeeper
        )
        self.web: "Optional[Web]" = None
        if self.http_addresses:
            self._open_web()

    # -- life ------------------------------------------------------------------

    @property
    def addresses(self) -> List[Union[Tuple[str, int], str]]:
        """Host and port of every listening socket, `unix:PATH` of a Unix-domain one."""
        return [_address_of(listener) for listener in self._listeners if listener.kind in ("plain", "tls")]

    @property
    def address(self) -> Any:
        """The first of them: of plain text where that is spoken, else of TLS; a Unix-domain socket where there are no others."""
        return self.addresses[0]

    @property
    def http_addresses(self) -> List[Tuple[str, int]]:
        """Host and port of every socket that listens for HTTP; those of TLS last."""
        return [_address_of(listener) for listener in self._listeners if listener.kind in ("http", "https")]  # type: ignore[misc]

    @property
    def tls_addresses(self) -> List[Union[Tuple[str, int], str]]:
        """Those of them where TLS is spoken."""
        return [_address_of(listener) for listener in self._listeners if listener.kind == "tls"]

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

    def start(self, take: Optional[Callable[[], Estate]] = None) -> "Server":
        """Take back what the store has kept, and begin to serve.

        `take`: returns what an earlier server leaves, which from then on does
        not serve any more. ConfigError: the store cannot be used; the server has stopped then.
        RuntimeError: it has been started or stopped before.
        """
        if self._started or self.stopping:
            raise RuntimeError("a Server can be started once: make another one")
        try:
            self._load(None if take is None else take())
        except (ConfigError, StoreError) as error:
            self.stop()
            raise error if isinstance(error, ConfigError) else ConfigError("--queue: %s" % error) from None
        self._started = True
        self._begin_audit()
        self.flusher.start()
        self.broker.courier.start()
        self._start_thread("gearmand-clock", self._run_clock)
        self._start_thread("gearmand-recurring", lambda: recurrence.run(self.broker, lambda: self.stopping))
        self._start_thread("gearmand-placement", lambda: self.placement.follow(self._halted.wait))
        self._accept()
        cpu = "" if self.placement.cpu is None else "; its handlers run on processor %d" % self.placement.cpu
        self.log.log(NOTICE, "gearmand %s listens on %s%s", VERSION, ", ".join(map(_text_of, self._listeners)), cpu)
        return self

    def stop(self, graceful: bool = False, timeout_s: Optional[float] = None) -> None:
        """Stop, and return when nothing of the server runs any more.

        Graceful: no new connections and jobs, but what runs may finish, and
        what is queued is still given out as long as a connected worker can do
        it, jobs that back off too where there is no store; for `timeout_s` at
        most (`None`: however long it takes). Another thread that calls `stop()`
        meanwhile ends that at once. In-process callers that still wait get JobLost.
        """
        if graceful:
            self._drain(timeout_s)
        self._halt()
        with self._stop_lock:
            if not self._stopped.is_set():
                self._end()
                lost = self.broker.turn(lambda registry: registry.lost)
                if self._started:
                    self.log.log(NOTICE, "gearmand has stopped%s", "; %d unfinished jobs are lost with it" % lost if lost else "")
                self._stopped.set()

    def wait(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until the server has stopped; False: it has not within the timeout."""
        return self._stopped.wait(timeout_s)

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _accept(self) -> None:
        for listener in self._listeners:
            self._start_thread("gearmand-accept", listener.run)

    def _start_thread(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _complain_of_processors(self, what: str) -> None:
        self.complaints.say(LEVELS["WARNING"], "processors", "%s", what)

    def _complain_of_sending(self, peer: Peer) -> None:
        self.complaints.say(LEVELS["ERROR"], "errors of this server", "%s: sending to it failed", peer.address, exc_info=True)

    def _say_where(self, cpu: int) -> None:
        self.log.log(NOTICE, "its handlers run on processor %d now; others kept theirs busy", cpu)

    def _load(self, estate: Optional[Estate], still_ours: bool = False) -> None:
        complain = lambda error: self.complaints.say(LEVELS["ERROR"], "jobs not stored", "%s", error)  # noqa: E731
        self.where_stored = load(self.broker, self.config, self.log, complain, estate, still_ours)

    def _open_web(self) -> None:
        # Loaded where it is needed alone, as its handlers are.
        from gearmand.web import Web

        self.web = Web(self)

    def _begin_audit(self) -> None:
        if self._on_events is None and self.log.isEnabledFor(logging.INFO):
            self._on_events = self._log_events
        if self._on_events is not None:
            self.broker.on_events = self._on_events
            self.broker.registry.events = []

    def _log_events(self, events: List[audit.Event]) -> None:
        for event in events:
            self.log.info("%s", audit.as_text(event), extra={"event": audit.as_dict(event)})

    # -- another server takes over: see `takeover` --------------------------------

    def share_sockets(self) -> List[Passed]:
        """Those that listen, for another process."""
        for listener in self._listeners:
            listener.shared = True
        return [Passed(each.socket, each.kind, each.socket_file is not None) for each in self._listeners]

    def pause_accepting(self) -> None:
        """Until `resume`. Connections wait."""
        pausing = [threading.Thread(target=listener.pause, name="gearmand-pause") for listener in self._listeners]
        for thread in pausing:
            thread.start()
        for thread in pausing:
            thread.join()

    def let_listeners_go(self) -> None:
        """After `pause_accepting`: another process listens."""
        for listener in self._listeners:
            listener.let_go()
        self._listeners = []

    @property
    def answers_http(self) -> bool:
        """Whether a request of HTTP has not been answered yet."""
        with self.broker.lock:
            return self.web is not None and self.web.answering

    def resume(self, estate: Estate) -> None:
        """Take back what was left to another server. ConfigError, StoreError: it cannot be."""
        self._load(estate, True)
        with self.broker.lock:
            call_back(self.broker.registry)
            if self.where_stored is None:
                self.broker.keeper = None
            self.broker.recurs.notify()
        self._accept()

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
            self._halted.set()
            for condition in (broker.due, broker.drained, broker.recurs):
                condition.notify_all()
            broker.stopped = True
            for waiting in broker.callers:
                waiting.lose()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            if self._started:
                listener.stop()
            elif listener.shared:
                listener.let_go()
                continue
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
            with contextlib.suppress(OSError):  # It may have gone by itself.
                sock.shutdown(socket.SHUT_RDWR)
        ends_at = time.monotonic() + _ENDING_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends_at - time.monotonic()))
        self.broker.courier.stop()
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
        return caller.run(self.broker, function, workload, unique, priority, timeout_s, on_data, on_warning, on_status)


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
        result_bytes=config.max_results_memory,
        kept_bytes=_share_of_memory(config.queue_memory),
    )


def _server_side(config: Config) -> "Optional[ServerSide]":
    if not config.ssl and config.ssl_port is None and config.https_port is None:
        return None
    # Loaded where it is needed alone (measured: 8 ms).
    from gearmand.tls import ServerSide

    return ServerSide(config.ssl_certificate, config.ssl_key, config.ssl_ca_file)


def _text_of(listener: Listener) -> str:
    return address_text(listener.server_address) + _SPOKEN[listener.kind]


def _address_of(listener: Listener) -> Union[Tuple[str, int], str]:
    address: Any = listener.server_address
    return address_text(address) if isinstance(address, str) else address[:2]


def _bounds(config: Config, most_connections: int) -> Bounds:
    """What one address may take."""
    connections = config.max_connections_per_address
    if connections is None:
        connections = most_connections - min(_SPARE_CONNECTIONS, most_connections // 10)
    return Bounds(connections, config.max_connection_rate, config.max_submission_rate, config.max_jobs_per_address)


def _most_connections(option: Optional[int]) -> int:
    if option is not None:
        return option
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else max(1, soft - _SPARE_DESCRIPTORS)


def _share_of_memory(option: Optional[int], part: int = 4) -> int:
    if option is not None:
        return option
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // part
