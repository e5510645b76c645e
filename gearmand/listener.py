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
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple

from gearmand import packet_commands, rounds, text_commands
from gearmand.config import LEVELS, Config
from gearmand.errors import TlsFailure
from gearmand.peer import Peer
from gearmand.protocol import TEXT_LINE, Decoder, Event
from gearmand.socket_file import SocketFile
from gearmand.yielding import let_others_run, pace

if TYPE_CHECKING:
    from gearmand.channel import Channel
    from gearmand.gate import Gate
    from gearmand.revival import Kept
    from gearmand.rows import Submission
    from gearmand.server import Server
    from gearmand.tls import ServerSide

_RECEIVE_BYTES = 64 * 1024
# As long as a peer sends no more at a time. It costs a waiting handler that
# much memory; up to here it is Python's own allocator that gives it. (Measured:
# a receive of 60 bytes 0.1 us less than with 1024.)
_FEW_BYTES = 464
# Now and then between the turns of one peer that has sent a great many small
# packets, or asked for a large table: long enough for other handlers to have theirs.
_PAUSE_S = 0.0005
_PACKETS_A_PAUSE = 200
_LARGE_ANSWER_BYTES = 4096
# After how many bytes of a large packet others have their turns. (Measured, 20
# peers that send packets of a megabyte: the slowest hundredth of another
# client's jobs 1.7 ms instead of 17.)
_MANY_BYTES = 64 * 1024
# How much of a large packet is taken at a time. (Measured, 20 peers that have a
# megabyte echoed and do not read it: the slowest hundredth of another client's
# jobs 4 ms instead of 5.5; with half as much `sync -s 1000000` has a fifth fewer
# jobs a second, with this much 4 %.)
_PIECE_BYTES = 128 * 1024
# From how many packets at a time on a peer that waits for no job lets others
# have their turns after its own: it has more, most likely, and would go on
# until the processor is taken from it. (Measured, `bg -c 16 -d 16`: a tenth more
# jobs a second, and the slowest hundredth 1.6 ms instead of 20.)
_PIPELINED = 8
# How much a peer may leave unread before what it sends is left unread too.
_UNREAD_BYTES = 16 * 1024**2
# How often a submission that another server should take is looked at again.
_LOOK_S = 0.02
# For how long the last answers to a peer that has stopped sending are kept.
_LINGER_S = 5.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def host_of(address: Any) -> str:
    """The address of a peer, without its port; empty for a Unix socket."""
    return "" if isinstance(address, str) or address[0] == "unix" else str(address[0])


def address_text(address: Any) -> str:
    """`host:port`, the host in brackets where it has colons itself; `unix:PATH` of a socket, `unix:PROCESS` of who has connected to it."""
    if isinstance(address, str):
        return "unix:" + address
    host, port = address[:2]
    return "%s:%d" % ("[%s]" % host if ":" in host else host, port)


class Listener(socketserver.ThreadingTCPServer):
    """Listens on one address from its construction on, or on a Unix-domain socket. OSError, ConfigError: it cannot.

    `tls`: whose TLS is spoken there; `None`: plain text. `passed`: a socket
    that listens there already.
    """

    allow_reuse_address = True
    daemon_threads = True
    # The owner joins the handlers, after it has shut their sockets down.
    block_on_close = False

    def __init__(
        self,
        owner: "Server",
        kind: str,
        handler: Any,
        family: int,
        address: Any,
        socket_file: Optional[SocketFile] = None,
        passed: Optional[socket.socket] = None,
    ) -> None:
        self.owner = owner
        # What is spoken there: plain, tls, http or https.
        self.kind = kind
        self.tls = owner.tls if kind in ("tls", "https") else None
        self.socket_file = socket_file
        self.address_family = family
        self.request_queue_size = owner.config.backlog
        self._stopped = threading.Event()
        # Whether other processes have the socket too.
        self.shared = passed is not None
        super().__init__(address, handler, bind_and_activate=passed is None)
        if passed is not None:
            self.socket.close()
            self.socket = passed

    def server_bind(self) -> None:
        if self.socket_file is not None:
            self.socket_file.listen(self.socket, self.request_queue_size)
            self.server_address = self.socket_file.path  # type: ignore[assignment]
            return
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def server_close(self) -> None:
        if self.socket_file is not None:
            self.socket_file.remove()
        super().server_close()

    def run(self) -> None:
        """The accept thread: accept until `stop`."""
        self.owner.placement.place()
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

    def let_go(self) -> None:
        """After `pause`: it is another process's alone."""
        if self.socket_file is not None:
            self.socket_file.let_go()
        self.server_close()

    def get_request(self) -> Tuple[socket.socket, Any]:
        try:
            request, address = super().get_request()
            self._set_options(request)
            return request, ("unix", _process_of(request)) if self.address_family == socket.AF_UNIX else address
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self.owner.complaints.say(
                    LEVELS["ERROR"], "connections not accepted", "cannot accept a connection: %s", error.strerror
                )
                # The connection stays in the backlog: without a pause this
                # would be tried again at once and for ever.
                self._stopped.wait(0.1)
            raise

    def _set_options(self, request: socket.socket) -> None:
        """The system's own timeouts of a connection. Set before its handler runs, whose stack would grow by a page of it for good."""
        config = self.owner.config
        if self.address_family != socket.AF_UNIX:
            _set_tcp_options(request, config)
        if config.partial_timeout:
            # A receive timeout of the kernel's own: Python's would cost a poll
            # before each receive.
            whole, fraction = divmod(config.partial_timeout, 1)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(whole), int(fraction * 1e6)))

    def verify_request(self, request: Any, client_address: Any) -> bool:
        owner = self.owner
        if owner.most_connections and owner.connections >= owner.most_connections:
            why: Optional[str] = "there are %d connections already (--max-connections)" % owner.most_connections
        else:
            why = owner.gatekeeper.admit(host_of(client_address))
        if why is not None:
            kind = "connections over the limit"
            owner.complaints.say(LEVELS["WARNING"], kind, "%s: closed, %s", address_text(client_address), why)
        return why is None

    def process_request(self, request: Any, client_address: Any) -> None:
        name = "gearmand " + address_text(client_address)
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), name=name, daemon=True
        )
        self.owner.add_handler(thread, request)
        try:
            thread.start()
            # To it, so that of many who come at once each is served before the
            # next one comes. (Measured with `Broker.leave`: 3 ms instead of 10.)
            let_others_run()
        except RuntimeError as error:
            self.owner.remove_handler(thread)
            self.owner.gatekeeper.dismiss(host_of(client_address))
            self.owner.complaints.say(LEVELS["ERROR"], "connections without a thread", "%s: %s", name, error)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.owner.remove_handler(threading.current_thread())
            self.owner.gatekeeper.dismiss(host_of(client_address))

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
        self.decoder = Decoder(config.max_packet, config.max_line)
        tls = self.server.tls
        self.channel: "Optional[Channel]" = None if tls is None else tls.channel(self.request)
        self.peer = Peer(
            self.channel or self.request,
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
        self.owner.halves.note(peer, 0)
        if peer.lingering is not None:
            self.owner.broker.turn(lambda registry: registry.end_linger(peer))
        # Not its outbox: what is being sent just now is in neither place.
        if peer.waiting_bytes and peer.why_aborted is None:
            self._wait_until_read(0, _LINGER_S)
        self.owner.broker.leave(peer)
        if peer.why_aborted is not None and not peer.dismissed_at and not self.owner.stopping:
            self._complain("peers given up", peer.why_aborted)
        peer.close()
        self.owner.log.info("%s: gone", peer.address)

    def handle(self) -> None:
        if self.channel is not None and not self._shake_hands(self.channel):
            return
        # Not before: its certificate may be what opens the gate.
        self.owner.gatekeeper.give_gate(self.peer)
        decoder, peer, gate = self.decoder, self.peer, self.peer.gate
        held, crumbs, most = 0, 0, _FEW_BYTES
        broker = self.owner.broker
        receive, receive_into = peer.socket.recv, peer.socket.recv_into
        longest_round = self.owner.config.max_packet or _RECEIVE_BYTES
        while not self.owner.stopping:
            room = decoder.room() if held else None
            try:
                if room is None:
                    data = receive(most)
                    count = len(data)
                    most = _RECEIVE_BYTES if count >= _FEW_BYTES else _FEW_BYTES
                else:
                    count = receive_into(room[:_PIECE_BYTES])
            except BlockingIOError:
                if self._owes_the_rest():
                    return
                continue
            except TlsFailure as failure:
                self._complain("peers that break TLS", str(failure))
                return
            except OSError:
                return
            if not count:
                return
            peer.received_bytes += count
            if room is not None:
                events = decoder.filled(count)
                if count >= _MANY_BYTES:
                    let_others_run()
            elif (data.startswith(rounds.BEGINNING) and data.endswith(rounds.ENDS) and not (held or peer.backed_up) and count <= longest_round
                    and broker.brief_turn(rounds.serve, peer, data)):  # fmt: skip
                crumbs = 0
                continue
            else:
                events = decoder.feed(data)
            if decoder.held != held:
                held = self.owner.halves.note(peer, decoder.held)
            if not events:
                crumbs = pace(crumbs, count)
            else:
                crumbs = 0
                peer.pipelines = len(events) >= _PIPELINED and not peer.listening
                self._serve(events)
                if peer.pipelines:
                    let_others_run()
                if gate is not None and gate.refused and self._tell_refused(gate):
                    return
                if peer.dismissed_at:
                    return
            if decoder.failure is not None:
                self._complain("peers that do not speak Gearman", str(decoder.failure))
                return
            if peer.backed_up and peer.waiting_bytes > _UNREAD_BYTES:
                self._wait_until_read(_UNREAD_BYTES // 2)

    def _owes_the_rest(self) -> bool:
        """Whether the peer has begun something, now that the partial timeout has passed without a byte."""
        owes = self.decoder.partial or self.channel is not None and self.channel.partial
        if owes:
            self._complain("peers silent in the middle of a packet", "half a packet, and no byte for %g s" % self.owner.config.partial_timeout)
        return owes

    def _shake_hands(self, channel: "Channel") -> bool:
        """Begin TLS. False: the connection is over."""
        try:
            channel.handshake(self.owner.config.ssl_handshake_timeout or None)
        except TlsFailure as failure:
            if self.peer.why_aborted is None:
                self._complain("TLS: %s" % str(failure).partition(":")[0], str(failure))
            return False
        except OSError:
            return False
        name = self.peer.common_name = channel.common_name
        self.owner.log.info("%s: speaks %s%s", self.peer.address, channel.version, "" if name is None else " as %r" % name)
        return True

    def _serve(self, events: Sequence[Event]) -> None:
        broker = self.owner.broker
        at = 0
        pause_at = _PACKETS_A_PAUSE
        while True:
            before = at
            if broker.keeper is None:
                at = broker.turn(packet_commands.serve, self.peer, events, at)
            else:
                wanted, most = packet_commands.submissions(events, at, time.time())
                kept = self._keep(wanted) if wanted else {}
                at = broker.turn(packet_commands.serve, self.peer, events, at, kept, most)
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

    def _keep(self, wanted: Dict[int, Submission]) -> Dict[int, Kept]:
        """Store background jobs: by their places, their rows, or why they are refused."""
        broker, gate = self.owner.broker, self.peer.gate
        kept: Dict[int, Kept] = {}
        if gate is not None:
            # Before they are stored, not after.
            kept.update(broker.turn(packet_commands.not_allowed, gate, wanted))
            wanted = {at: submission for at, submission in wanted.items() if at not in kept}
        if wanted:
            kept.update(zip(wanted, broker.keep(list(wanted.values()))))
        return kept

    def _answer(self, line: bytes) -> None:
        peer = self.peer
        for piece in text_commands.answer(self.owner.control._replace(asking=peer), line, peer.gate):
            self.owner.broker.turn(lambda registry: peer.post_text(piece))
            if peer.backed_up and peer.waiting_bytes > _UNREAD_BYTES:
                self._wait_until_read(_UNREAD_BYTES // 2)
            if peer.why_aborted is not None:
                return
            if len(piece) > _LARGE_ANSWER_BYTES:
                # More of it is all computation.
                time.sleep(_PAUSE_S)

    def _wait_until_read(self, enough_bytes: int, longest_s: float = float("inf")) -> None:
        """Wait until no more than that waits for the peer, or it is given up. The flusher does the sending."""
        peer = self.peer
        ends_at = time.monotonic() + longest_s
        while peer.waiting_bytes > enough_bytes and peer.why_aborted is None:
            if time.monotonic() > ends_at or self.owner.stopping:
                return
            poll = select.poll()
            poll.register(peer.fileno, select.POLLOUT)
            if any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(1000)):
                return
            time.sleep(_PAUSE_S)

    def _tell_refused(self, gate: Gate) -> bool:
        """Log what was refused. Returns whether the peer is to be given up."""
        for kind, what in gate.take():
            self.owner.complaints.say(LEVELS["WARNING"], kind, "%s", what)
        return gate.given_up

    def _complain(self, kind: str, why: str) -> None:
        self.owner.complaints.say(LEVELS["WARNING"], kind, "%s: closed: %s", self.peer.address, why)


def _set_tcp_options(sock: socket.socket, config: Config) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", config.keepalive_idle),
        ("TCP_KEEPINTVL", config.keepalive_interval),
        ("TCP_KEEPCNT", config.keepalive_count),
    ):
        if value > 0 and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _process_of(sock: socket.socket) -> int:
    """The number of the process that has connected to a Unix-domain socket; 0: it cannot be seen from here."""
    return struct.unpack("@3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
