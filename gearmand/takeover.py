"""A later version takes over from the server that runs: the socket by which they talk, and both its ends.

    new                                          old
    knock             {"takeover": 1}      ───▶
                                           ◀───  its listening sockets, where its queue is
    take              {"take": true}       ───▶  stops accepting, closes its store
                                           ◀───  the estate (see `handover`)
    opens the store, serves
    serves            {"serves": true}     ───▶  closes its listening sockets
    follow                                 ◀───  what becomes of the jobs that still run there
                                           ◀───  {"done": true}; ends

Each message is a line of JSON; the sockets come with the first answer. Until
the new one serves the old one can go on, which it does when it hears no more:
a new version that cannot start costs nothing but a pause.

Only root and the server's own user may talk, in both directions (SO_PEERCRED).

Threads: `gearmand-takeover` is the old server's, `gearmand-predecessor` the new
one's. `Successor.note` is called by any, with no lock held.
"""

from __future__ import annotations

import array
import collections
import json
import os
import queue
import socket
import struct
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from gearmand import handover
from gearmand.binding import Passed
from gearmand.config import LEVELS, NOTICE
from gearmand.errors import ConfigError, StoreError
from gearmand.handover import Estate, Gone
from gearmand.policy import Burial
from gearmand.registry import Registry
from gearmand.rows import Change, Notes, Row, Setting, from_object, to_json
from gearmand.server import Server
from gearmand.socket_file import SocketFile

_PROTOCOL = 1
_ANSWER_S = 10.0
# How long the new one may take from its first word to the next.
_PREPARING_S = 60.0
# A queue of millions takes a while to be moved, and a database to be loaded.
_MOVING_S = 3600.0
_LOOK_S = 0.05
# How long a peer may take to close its end.
_CLOSING_S = 2.0
_RECEIVE_BYTES = 256 * 1024
_MOST_SOCKETS = 64
_ROWS_AT_ONCE = 500
_ANOTHERS = "another server has the queue now"


class _Lines:
    """One end: messages, and sockets that come with the first. OSError, ValueError: the other end does not keep to it."""

    def __init__(self, sock: socket.socket, users: Set[int]) -> None:
        self._socket = sock
        # Of what has been received: whole lines, and the beginning of the next.
        self._whole: Deque[bytes] = collections.deque()
        self._rest: List[bytes] = []
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in users:
            sock.close()
            raise PermissionError(1, "process %d is of user %d, and may not" % (pid, uid))

    def send(self, sockets: Sequence[socket.socket] = (), **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        if sockets:
            descriptors = array.array("i", [sock.fileno() for sock in sockets])
            sent = self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            data = data[sent:]
        self._socket.sendall(data)

    def send_lines(self, lines: Iterator[str]) -> None:
        piece: List[str] = []
        for line in lines:
            piece.append(line)
            if len(piece) >= _ROWS_AT_ONCE:
                self._socket.sendall("".join(piece).encode())
                piece.clear()
        self._socket.sendall("".join(piece).encode())

    def receive(self, longest_s: Optional[float] = None) -> Optional[Dict[str, Any]]:
        """The next message; `None`: there is none, because the other end has gone. OSError: nor in that time."""
        self._socket.settimeout(longest_s)
        while not self._whole:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                return None
            self._take(data)
        found = json.loads(self._whole.popleft())
        if not isinstance(found, dict):
            raise ValueError("no message: %r" % found)
        return found

    def receive_with_sockets(self) -> Tuple[Dict[str, Any], List[socket.socket]]:
        self._socket.settimeout(_ANSWER_S)
        data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE_BYTES, socket.CMSG_SPACE(_MOST_SOCKETS * array.array("i").itemsize))
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in sockets:
            sock.setblocking(True)
        self._take(data)
        return self.receive(_ANSWER_S) or {}, sockets

    def _take(self, data: bytes) -> None:
        first, *more = data.split(b"\n")
        self._rest.append(first)
        if more:
            self._whole.append(b"".join(self._rest))
            self._whole.extend(more[:-1])
            self._rest = [more[-1]]

    def close(self) -> None:
        self._socket.close()


# -- the old server -----------------------------------------------------------------


class Successor:
    """Stands in the keeper's place when the store is another server's: notes go there, nothing is kept."""

    def __init__(self) -> None:
        self._notes: "queue.SimpleQueue[Notes]" = queue.SimpleQueue()

    def note(self, notes: Notes) -> bool:
        self._notes.put(notes)
        return True

    def taken(self) -> List[int]:
        """The numbers of the rows that are to be removed, since the last time."""
        found: List[int] = []
        while not self._notes.empty():
            found += self._notes.get().removed
        return found

    def keep(self, rows: Sequence[Row]) -> Dict[int, StoreError]:
        return dict.fromkeys([row.number for row in rows], StoreError(_ANOTHERS))

    def settle(self) -> None:
        raise StoreError(_ANOTHERS)

    def stop(self, longest_s: float) -> int:
        return 0


class Door:
    """Where a successor knocks. `done`: called when it has taken over and everything that ran here has ended."""

    def __init__(self, server: Server, path: str, done: Callable[[], None]) -> None:
        self._server = server
        self._file = SocketFile(path, 0o600, None)
        self._done = done
        self._listen()

    def _listen(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._file.listen(self._socket, 1)
        except BaseException:
            self._socket.close()
            raise

    def open(self) -> None:
        threading.Thread(target=self._run, name="gearmand-takeover", daemon=True).start()

    def close(self) -> None:
        self._file.remove()
        self._socket.close()

    def _run(self) -> None:
        log = self._server.log
        while not self._server.stopping:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            try:
                lines = _Lines(sock, {0, os.geteuid()})
                if self._serve(lines):
                    return
            except (OSError, ValueError) as error:
                log.error("takeover: %s", error)
            finally:
                sock.close()

    def _serve(self, lines: _Lines) -> bool:
        """Whether the other server has taken over, and this one is done."""
        server = self._server
        hello = lines.receive(_ANSWER_S)
        if hello is None or hello.get("takeover") != _PROTOCOL:
            raise ValueError("expected {\"takeover\": %d}, got %r" % (_PROTOCOL, hello))
        refusal = self._refusal()
        if refusal is not None:
            lines.send(refused=refusal)
            return False
        passed = server.share_sockets()
        kinds = [[each.kind, each.has_file] for each in passed]
        lines.send([each.sock for each in passed], takeover=_PROTOCOL, pid=os.getpid(), where=server.where_stored, kinds=kinds)
        if lines.receive(_PREPARING_S) is None:
            return False
        began_at = time.monotonic()
        successor = Successor()
        server.pause_accepting()
        estate, keeper = server.broker.turn(_let_go, server.broker, successor)
        if keeper is not None:
            keeper.stop(_MOVING_S)
        self.close()
        if not self._hand_over(lines, estate):
            return not self._resume(estate, successor)
        server.let_listeners_go()
        server.log.log(NOTICE, "another server has taken over after %.3f s", time.monotonic() - began_at)
        self._see_out(lines, successor)
        self._done()
        return True

    def _refusal(self) -> Optional[str]:
        with self._server.broker.lock:
            registry = self._server.broker.registry
            if registry.draining or self._server.stopping:
                return "it is stopping"
            if registry.elsewhere:
                return "%d jobs still run at the server before it" % len(registry.elsewhere)
        return None

    def _hand_over(self, lines: _Lines, estate: Estate) -> bool:
        try:
            lines.send_lines(_lines_of(estate))
            lines.send(yours=True)
            return lines.receive(_MOVING_S) is not None
        except (OSError, ValueError) as error:
            self._server.log.error("takeover: %s", error)
            return False

    def _resume(self, estate: Estate, successor: Successor) -> bool:
        """The other server has not come up, so this one goes on. False: it cannot."""
        server = self._server
        server.log.error("takeover: the other server did not come up; this one goes on")
        try:
            server.resume(estate._replace(where=server.where_stored))
            ended = successor.taken()
            if server.where_stored is not None:
                server.broker.turn(lambda registry: registry.notes.removed.extend(ended))
            self._listen()
            return True
        except (ConfigError, StoreError, OSError) as error:
            server.log.log(LEVELS["CRITICAL"], "takeover: this server cannot go on either: %s", error)
            self._done()
            return False

    def _see_out(self, lines: _Lines, successor: Successor) -> None:
        """Until nothing runs and nobody is connected any more."""
        server, tells = self._server, True
        while not server.stopping:
            gone = server.broker.turn(handover.let_go_later)
            there = server.broker.turn(_dismiss, server.broker) or server.answers_http
            removed = successor.taken()
            try:
                if tells and (removed or gone.changes):
                    lines.send(removed=removed, **_message_of(gone))
                if tells and not there:
                    lines.send(done=True)
            except OSError as error:
                tells = False
                server.log.error("takeover: the other server has gone: %s", error)
            if not there:
                return
            time.sleep(_LOOK_S)


def _let_go(registry: Registry, broker: Any, successor: Successor) -> Tuple[Estate, Any]:
    keeper, broker.keeper = broker.keeper, successor
    return handover.let_go(registry), keeper


def _dismiss(registry: Registry, broker: Any) -> int:
    """Dismiss whoever is done. Returns how many are still there, or run."""
    for peer in broker.peers:
        if peer.dismissed_at:
            if registry.now - peer.dismissed_at > _CLOSING_S:
                peer.dismiss()
        elif not peer.waiting_bytes and handover.is_done(registry, peer):
            peer.dismiss()
    for caller in broker.callers:
        if handover.is_done(registry, caller):
            caller.lose()
    return len(broker.peers) + len(broker.callers) + registry.running


def _message_of(gone: Gone) -> Dict[str, Any]:
    buried = [[number, burial.epoch_s, burial.why.decode("latin-1")] for number, burial in gone.burials.items()]
    return {"back": [[each.number, each.handle.decode("latin-1"), *each[2:]] for each in gone.changes], "buried": buried}


def _gone_of(message: Dict[str, Any]) -> Gone:
    changes = [Change(number, handle.encode("latin-1"), *rest) for number, handle, *rest in message["back"]]
    return Gone(changes, {number: Burial(epoch_s, why.encode("latin-1")) for number, epoch_s, why in message.get("buried", ())})


def _lines_of(estate: Estate) -> Iterator[str]:
    recurring = {name.decode("latin-1"): next_s for name, next_s in estate.recurring.items()}
    yield json.dumps({"next": estate.next_number, "recurring": recurring}) + "\n"
    for number, row in estate.held.items():
        yield '{"held": %d, "row": %s}\n' % (number, "null" if row is None else to_json(row))
    for row in estate.moved:
        yield '{"moved": %s}\n' % to_json(row)
    for setting in estate.settings:
        yield json.dumps({"setting": [setting.key.decode("latin-1"), setting.value]}) + "\n"


# -- the new server -------------------------------------------------------------------


class Predecessor:
    """The server that runs, as its successor sees it. ConfigError: it cannot be taken over."""

    def __init__(self, lines: _Lines, answer: Dict[str, Any], sockets: List[socket.socket]) -> None:
        if "refused" in answer or answer.get("takeover") != _PROTOCOL or len(sockets) != len(answer.get("kinds", ())):
            raise ConfigError("--takeover: the server that runs refuses: %s" % answer.get("refused", "it is of another version"))
        self._lines = lines
        self.pid: int = answer["pid"]
        self.where: Optional[str] = answer["where"]
        self.sockets = [Passed(sock, *kind) for sock, kind in zip(sockets, answer["kinds"])]

    def take(self) -> Estate:
        """Have its estate. It serves nobody until `serves`, and goes on after `leave`."""
        try:
            self._lines.send(take=True)
            return self._receive()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError("--takeover: the server that runs does not hand over: %s" % error)

    def _receive(self) -> Estate:
        next_number = 0
        held: Dict[int, Optional[Row]] = {}
        moved: List[Row] = []
        settings: List[Setting] = []
        recurring: Dict[bytes, int] = {}
        while True:
            message = self._lines.receive(_MOVING_S)
            if message is None:
                raise ValueError("it has gone")
            if "yours" in message:
                return Estate(next_number, held, moved, settings, self.where, recurring)
            if "next" in message:
                next_number = message["next"]
                recurring = {name.encode("latin-1"): next_s for name, next_s in message.get("recurring", {}).items()}
            elif "held" in message:
                held[message["held"]] = None if message["row"] is None else from_object(message["row"])
            elif "moved" in message:
                moved.append(from_object(message["moved"]))
            else:
                key, value = message["setting"]
                settings.append(Setting(key.encode("latin-1"), value))

    def serves(self, server: Server) -> None:
        """This server serves now. What becomes of the jobs that run at the old one is followed from now on."""
        self._lines.send(serves=True)
        server.log.log(NOTICE, "took over from process %d", self.pid)
        threading.Thread(target=self._follow, args=(server,), name="gearmand-predecessor", daemon=True).start()

    def leave(self) -> None:
        """Not to take over after all: the old one goes on."""
        self._lines.close()

    def _follow(self, server: Server) -> None:
        broker = server.broker
        try:
            while True:
                message = self._lines.receive()
                if message is None or "done" in message:
                    break
                broker.turn(_learn, message["removed"], _gone_of(message))
        except (OSError, ValueError, KeyError, TypeError) as error:
            server.log.error("takeover: %s", error)
        left = broker.turn(handover.take_back_all)
        self._lines.close()
        if not server.stopping:
            server.log.log(NOTICE, "process %d, which ran before, has ended; %d of its jobs wait again", self.pid, left)


def _learn(registry: Registry, removed: Sequence[int], gone: Gone) -> None:
    for change in gone.changes:
        handover.take_back(registry, change, gone.burials.get(change.number))
    for number in removed:
        handover.settle(registry, number)


def knock(path: str, user_id: Optional[int]) -> Optional[Predecessor]:
    """The server that runs, by its socket; `None`: there is none. ConfigError: it cannot be taken over."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_ANSWER_S)
    try:
        sock.connect(os.path.abspath(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise ConfigError("--takeover: cannot connect to %s: %s" % (path, error.strerror or error))
    try:
        lines = _Lines(sock, {0, os.geteuid()} if user_id is None else {0, os.geteuid(), user_id})
        lines.send(takeover=_PROTOCOL)
        answer, sockets = lines.receive_with_sockets()
        return Predecessor(lines, answer, sockets)
    except (OSError, ValueError) as error:
        sock.close()
        raise ConfigError("--takeover: the server that runs does not answer: %s" % error)
