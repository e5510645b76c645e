"""One listening socket, and the handler thread of each connection that it accepts.

    accept thread   Listener.run: accepts, starts a handler thread
    handler thread  Handler.handle: receive, decode, serve, send what fits

Both belong to a `Server`, their `owner`, which holds what they share.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import socketserver
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from gearmand import packet_commands, text_commands
from gearmand.config import LEVELS, Config
from gearmand.errors import ConfigError, HandedOver, StoreError, not_stored
from gearmand.peer import Peer
from gearmand.protocol import TEXT_LINE, Decoder, Event

if TYPE_CHECKING:
    from gearmand.server import Server

_RECEIVE_BYTES = 64 * 1024
# As long as a peer sends no more at a time. It costs a waiting handler that
# much memory, and 4 KB where it is more than that.
_FEW_BYTES = 1024
# Now and then between the turns of one peer that has sent a great many small
# packets: long enough for other handlers to have theirs.
_PAUSE_S = 0.0005
_PACKETS_A_PAUSE = 200
# How much a peer may leave unread before what it sends is left unread too.
_UNREAD_BYTES = 16 * 1024**2
# How often a submission that another server should take is looked at again.
_LOOK_S = 0.02
# For how long the last answers to a peer that has stopped sending are kept.
_LINGER_S = 5.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def address_text(address: Any) -> str:
    """`host:port`, the host in brackets where it has colons itself."""
    host, port = address[:2]
    return "%s:%d" % ("[%s]" % host if ":" in host else host, port)


class Passed(NamedTuple):
    """A socket that listens already, made by another process."""

    sock: socket.socket
    kind: str = "plain"
    """What is spoken there."""


class Listener(socketserver.ThreadingTCPServer):
    """Listens on one address from its construction on, or on a socket that does so already. OSError: it cannot."""

    allow_reuse_address = True
    daemon_threads = True
    # The owner joins the handlers, after it has shut their sockets down.
    block_on_close = False

    kind = "plain"

    def __init__(self, owner: "Server", family: int, address: Tuple[Any, ...], passed: Optional[Passed] = None) -> None:
        self.owner = owner
        self.address_family = family
        self.request_queue_size = owner.config.backlog
        self._stopped = threading.Event()
        # Whether other processes have the socket too.
        self.shared = passed is not None
        super().__init__(address, Handler, bind_and_activate=passed is None)
        if passed is not None:
            self.socket.close()
            self.socket = passed.sock

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def run(self) -> None:
        """The accept thread: accept until `stop`."""
        if self.owner.cpu is not None:
            # For this thread, and for those that it starts. As batch threads
            # they do not preempt each other on their processor: one that is
            # woken while another computes would only wait for its interpreter
            # lock (measured: 5 to 15 % more jobs a second).
            try:
                os.sched_setaffinity(0, {self.owner.cpu})
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            except OSError as error:
                # A container may forbid it: slower, not out of order.
                self.owner.complaints.say(
                    LEVELS["WARNING"], "processors", "cannot place handlers on processor %d: %s", self.owner.cpu, error.strerror
                )
        self.serve_forever()

    def pause(self) -> None:
        """End `run`, which must have been started; the socket goes on listening, here or in another process."""
        self.shutdown()

    def stop(self) -> None:
        """End `run`, which must have been started, and the listening."""
        self._stopped.set()
        if not self.shared:
            try:
                # Wakes the selector at once; elsewhere than on Linux it wakes
                # by itself within half a second.
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.shutdown()

    def get_request(self) -> Tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self.owner.complaints.say(
                    LEVELS["ERROR"], "connections not accepted", "cannot accept a connection: %s", error.strerror
                )
                # The connection stays in the backlog: without a pause this
                # would be tried again at once and for ever.
                self._stopped.wait(0.1)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        owner = self.owner
        if not owner.most_connections or owner.connections < owner.most_connections:
            return True
        owner.complaints.say(
            LEVELS["WARNING"],
            "connections over the limit",
            "%s: closed, there are %d connections already (--max-connections)",
            address_text(client_address),
            owner.most_connections,
        )
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        name = "gearmand " + address_text(client_address)
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name=name, daemon=True
        )
        self.owner.add_handler(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self.owner.remove_handler(thread)
            self.owner.complaints.say(LEVELS["ERROR"], "connections without a thread", "%s: %s", name, error)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.owner.remove_handler(threading.current_thread())

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.owner.complaints.say(
            LEVELS["ERROR"], "errors of this server", "%s: closed by an error of this server", address_text(client_address),
            exc_info=True,
        )  # fmt: skip


class Handler(socketserver.BaseRequestHandler):
    """One connection, from its acceptance to its end, in its own thread."""

    server: Listener

    def setup(self) -> None:
        self.owner = self.server.owner
        config = self.owner.config
        _set_options(self.request, config)
        self.decoder = Decoder(config.max_packet, config.max_line)
        self.peer = Peer(
            self.request,
            address_text(self.client_address),
            self.owner.broker.touched,
            self.owner.flusher.add,
            config.max_unsent,
            config.exceptions,
        )
        self.owner.log.info("%s: connected", self.peer.address)
        self.owner.broker.enter(self.peer)

    def finish(self) -> None:
        peer = self.peer
        if peer.lingering is not None:
            self.owner.broker.turn(lambda registry: registry.end_linger(peer))
        if peer.outbox and peer.why_aborted is None:
            self._wait_until_read(0, _LINGER_S)
        self.owner.broker.leave(peer)
        if peer.why_aborted is not None and not peer.dismissed_at and not self.owner.stopping:
            self._complain("peers given up", peer.why_aborted)
        peer.close()
        self.owner.log.info("%s: gone", peer.address)

    def handle(self) -> None:
        decoder, peer = self.decoder, self.peer
        receive, receive_into = self.request.recv, self.request.recv_into
        most = _FEW_BYTES
        while not self.owner.stopping:
            room = decoder.room()
            try:
                if room is None:
                    data = receive(most)
                    if not data:
                        return
                    most = _RECEIVE_BYTES if len(data) >= _FEW_BYTES else _FEW_BYTES
                    events = decoder.feed(data)
                else:
                    count = receive_into(room)
                    if not count:
                        return
                    events = decoder.filled(count)
            except BlockingIOError:
                # The partial timeout has passed without a byte.
                if decoder.partial:
                    self._complain("peers silent in the middle of a packet", "half a packet, and no byte for %g s" % self.owner.config.partial_timeout)
                    return
                continue
            except OSError:
                return
            if events:
                self._serve(events)
                if peer.dismissed_at:
                    return
            if decoder.failure is not None:
                self._complain("peers that do not speak Gearman", str(decoder.failure))
                return
            if peer.backed_up and peer.waiting_bytes > _UNREAD_BYTES:
                self._wait_until_read(_UNREAD_BYTES // 2)

    def _serve(self, events: Sequence[Event]) -> None:
        broker = self.owner.broker
        at = 0
        pause_at = _PACKETS_A_PAUSE
        while True:
            before = at
            if broker.keeper is None:
                at = broker.turn(packet_commands.serve, self.peer, events, at)
            else:
                kept = self._keep(events, at)
                at = broker.turn(packet_commands.serve, self.peer, events, at, kept, packet_commands.PACKETS_A_COMMIT)
            if at == len(events) or self.peer.why_aborted is not None:
                return
            if events[at][0] == TEXT_LINE:
                self._answer(events[at][1])
                at += 1
                if at == len(events):
                    return
            elif at == before:
                # A submission, for another server to accept once what runs here
                # for this peer has ended.
                if self.peer.dismissed_at or self.owner.stopping:
                    return
                time.sleep(_LOOK_S)
            elif at >= pause_at:
                pause_at = at + _PACKETS_A_PAUSE
                time.sleep(_PAUSE_S)

    def _keep(self, events: Sequence[Event], at: int) -> Optional[Mapping[int, packet_commands.Kept]]:
        """Store the background jobs of the next turn: by their places, their rows, or why they are refused.

        `None`: another server has the store.
        """
        wanted = packet_commands.submissions(events, at, time.time())
        if not wanted:
            return {}
        try:
            return dict(zip(wanted, self.owner.broker.keep(list(wanted.values()))))
        except HandedOver:
            return None
        except StoreError as error:
            return dict.fromkeys(wanted, not_stored(error))

    def _answer(self, line: bytes) -> None:
        peer = self.peer
        for piece in text_commands.answer(self.owner.control._replace(asking=peer), line):
            self.owner.broker.turn(lambda registry: peer.post_text(piece))
            if peer.backed_up and peer.waiting_bytes > _UNREAD_BYTES:
                self._wait_until_read(_UNREAD_BYTES // 2)
            if peer.why_aborted is not None:
                return

    def _wait_until_read(self, enough_bytes: int, longest_s: float = float("inf")) -> None:
        """Wait until no more than that waits for the peer, or it is given up. The flusher does the sending."""
        peer = self.peer
        ends_at = time.monotonic() + longest_s
        while peer.outbox and peer.waiting_bytes > enough_bytes and peer.why_aborted is None:
            if time.monotonic() > ends_at or self.owner.stopping:
                return
            poll = select.poll()
            poll.register(peer.fileno, select.POLLOUT)
            if any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(1000)):
                return
            time.sleep(_PAUSE_S)

    def _complain(self, kind: str, why: str) -> None:
        self.owner.complaints.say(LEVELS["WARNING"], kind, "%s: closed: %s", self.peer.address, why)


def _set_options(sock: socket.socket, config: Config) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", config.keepalive_idle),
        ("TCP_KEEPINTVL", config.keepalive_interval),
        ("TCP_KEEPCNT", config.keepalive_count),
    ):
        if value > 0 and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if config.partial_timeout:
        # A receive timeout of the kernel's own: Python's would cost a poll
        # before each receive.
        whole, fraction = divmod(config.partial_timeout, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(whole), int(fraction * 1e6)))


def listen(owner: "Server", passed: Sequence[Passed] = ()) -> List[Listener]:
    """A listener for every socket that was passed, else for every address that the configuration names. ConfigError."""
    listeners: List[Listener] = [_listen_at(owner, each) for each in passed]
    if passed:
        return listeners
    try:
        port = owner.config.port
        for name in owner.config.listen or (None,):
            before = len(listeners)
            skipped: List[OSError] = []
            for family, address in _resolve(name, port):
                try:
                    # Where any port will do, the first one's is everybody's.
                    listeners.append(Listener(owner, family, (address[0], port, *address[2:])))
                except OSError as error:
                    # A name may stand for an address of a family that this
                    # machine does not have.
                    if error.errno not in _NO_SUCH_FAMILY:
                        raise _cannot_listen(address, error)
                    skipped.append(error)
                if not port and listeners:
                    port = listeners[0].server_address[1]
            if len(listeners) == before:
                raise _cannot_listen((name or "*", port), skipped[0])
    except ConfigError:
        for listener in listeners:
            listener.server_close()
        raise
    return listeners


def _listen_at(owner: "Server", passed: Passed) -> Listener:
    sock = passed.sock
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM or passed.kind != Listener.kind:
        raise ConfigError("a socket was passed that is none of TCP: %s" % sock)
    return Listener(owner, sock.family, sock.getsockname(), passed)


def _resolve(name: Any, port: int) -> List[Tuple[int, Tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError("--listen: cannot resolve %r: %s" % (name, getattr(error, "strerror", None) or error))
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _cannot_listen(address: Any, error: OSError) -> ConfigError:
    return ConfigError("cannot listen on %s: %s" % (address_text(address), error.strerror or error))
