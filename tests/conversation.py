"""Conversations with a server, written as text that reads like the specification.

    == a job from one end to the other
    worker C: CAN_DO reverse
    client C: SUBMIT_JOB reverse|u1|hello
    client S: JOB_CREATED $h
    worker C: GRAB_JOB
    worker S: JOB_ASSIGN $h|reverse|hello

A line is a peer, who speaks (`C:` the peer, `S:` the server) and what is said.
Peers connect when they are first named. A peer says

    NAME arguments          a packet; `|` stands for the NUL between arguments
    TYPE number arguments   a packet of any type
    RES NAME arguments      a packet with the magic of responses
    text "line\\n"           administrative commands, byte for byte
    raw "bytes"             any bytes: perhaps half a packet
    close                   nothing more: it closes its connection

and the server

    NAME arguments          a packet
    text "OK\\r\\n"           as many lines as these, byte for byte
    table "a\\t1\\n.\\n"       lines as far as the full stop, in any order
    eventually ...          a packet or a table, asking again until it comes
    nothing                 no byte
    closed                  the end of the connection

`$name` binds at first sight and compares afterwards; `$_` is anything. `\\0`,
`\\n`, `\\r`, `\\t`, `\\\\`, `\\|`, `\\$` and `\\xHH` are bytes, `{x*65}` is 65 times
x. Bound from the start: `$past`, `$soon` (in two seconds) and `$later` (in a
day), each in seconds since 1970. `server: name=value flag` after the title are
options of the server. Lines that begin with # are comments.

Time plays no part: before another peer speaks, and before `nothing`, each one
that spoke sends an ECHO_REQ and has its answer, so that what it said has been
served (it cannot after `raw`). What a peer says in successive lines leaves in
one piece. In the end nothing may have arrived that was not expected.
"""

import os
import re
import socket
import struct
import time

from gearmand.protocol import PacketType

_HEADER = struct.Struct(">4sII")
_LINE = re.compile(r"(\w+) +([CS]): (\S+) ?(.*)")
_TOKEN = re.compile(r"\\x([0-9A-Fa-f]{2})|\\(.)|\$(\w+)|\{(.)\*(\d+)\}|(\|)")
_ESCAPES = {"0": b"\0", "n": b"\n", "r": b"\r", "t": b"\t"}
_NAMES = {kind.name: int(kind) for kind in PacketType}
CLOSED = ("closed",)


class Mismatch(AssertionError):
    """The server did not say what it should have."""


class Conversation:
    def __init__(self, name):
        self.name = name
        self.options = {}
        self.steps = []

    def __repr__(self):
        return self.name


def read(path):
    """The conversations of a file; each is called `topic: title`."""
    topic = os.path.splitext(os.path.basename(path))[0]
    conversations = []
    with open(path, encoding="ascii") as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\n")
            if line.startswith("== "):
                conversations.append(Conversation("%s: %s" % (topic, line[3:])))
            elif line.startswith("server: "):
                for word in line.split()[1:]:
                    option, given, value = word.partition("=")
                    conversations[-1].options[option] = value if given else True
            elif line and not line.startswith("#"):
                found = _LINE.fullmatch(line)
                if not found:
                    raise ValueError("%s:%d: not understood: %s" % (path, number, line))
                conversations[-1].steps.append((number, line, *found.groups()))
    return conversations


def hold(conversation, address, timeout_s=5.0):
    """Hold the conversation with the server at `address`. Mismatch: it went otherwise."""
    talk = _Talk(address, timeout_s)
    try:
        for number, line, name, side, verb, rest in conversation.steps:
            try:
                (talk.say if side == "C" else talk.hear)(talk.peer(name), verb, rest)
            except (Mismatch, OSError) as error:
                raise Mismatch("%s, line %d: %s\n%s" % (conversation.name, number, line, error)) from None
        try:
            for peer in list(talk.peers.values()):
                talk.hear(peer, "nothing", "")
        except Mismatch as error:
            raise Mismatch("%s, at its end: %s" % (conversation.name, error)) from None
    finally:
        talk.end()


class _Talk:
    def __init__(self, address, timeout_s):
        self.address = address
        self.timeout_s = timeout_s
        self.peers = {}
        now = int(time.time())
        self.bound = {name: b"%d" % (now + s) for name, s in (("past", -60), ("soon", 2), ("later", 86400))}

    def peer(self, name):
        if name not in self.peers:
            self.settle(None)
            self.peers[name] = _Peer(name, self.address, self.timeout_s)
        return self.peers[name]

    def end(self):
        for peer in self.peers.values():
            peer.socket.close()

    def settle(self, but):
        for peer in self.peers.values():
            if peer is not but:
                peer.settle()

    def say(self, peer, verb, rest):
        self.settle(peer)
        if verb == "close":
            peer.close()
        elif verb in ("text", "raw"):
            peer.say(self.fill(_unquoted(rest)), whole=verb == "text")
        else:
            magic = b"\0REQ"
            if verb == "RES":
                magic = b"\0RES"
                verb, _, rest = rest.partition(" ")
            if verb == "TYPE":
                verb, _, rest = rest.partition(" ")
                kind = int(verb)
            else:
                kind = _NAMES[verb]
            body = self.fill(rest, b"\0")
            peer.say(_HEADER.pack(magic, kind, len(body)) + body)

    def hear(self, peer, verb, rest):
        self.settle(peer)
        peer.flush()
        if verb == "nothing":
            peer.settle(again=True)
            if peer.inbox and peer.inbox != [CLOSED]:
                raise Mismatch("%s has got %r" % (peer.name, peer.inbox))
        elif verb == "eventually":
            self.hear_eventually(peer, *rest.split(" ", 1))
        else:
            self.hear_once(peer, verb, rest)

    def hear_eventually(self, peer, verb, rest):
        ends_at = time.monotonic() + self.timeout_s
        while True:
            try:
                return self.hear_once(peer, verb, rest)
            except Mismatch:
                if time.monotonic() > ends_at:
                    raise
            peer.say(peer.said)
            peer.flush()

    def hear_once(self, peer, verb, rest):
        if verb == "closed":
            expected, got = CLOSED, peer.receive()
            matches = got == CLOSED
            if matches:
                peer.inbox.append(CLOSED)
        elif verb == "text":
            expected = _unquoted(rest)
            got = b"".join(peer.receive_line() for _ in range(expected.count("\\n")))
            matches = self.match(expected, got)
        elif verb == "table":
            expected = re.findall(r".*?\\n", _unquoted(rest))
            got = peer.receive_table()
            matches = len(expected) == len(got) and self.match_rows(expected, got)
        else:
            expected = (verb, rest)
            got = peer.receive()
            matches = got[0] == verb and self.match(rest, got[1], b"\0")
        if not matches:
            raise Mismatch("%s has got %r\ninstead of %r" % (peer.name, got, expected))

    def fill(self, template, pipe=b"|"):
        return b"".join(self.bound[part] if isinstance(part, str) else part for part in _parts(template, pipe))

    def match(self, template, data, pipe=b"|"):
        pattern, names = b"", []
        for part in _parts(template, pipe):
            if isinstance(part, bytes):
                pattern += re.escape(part)
            elif part in self.bound:
                pattern += re.escape(self.bound[part])
            elif part in names:
                pattern += b"(?P=_%s)" % part.encode()
            elif part == "_":
                pattern += rb"[^\0\s]*"
            else:
                pattern += rb"(?P<_%s>[^\0\s]*)" % part.encode()
                names.append(part)
        found = re.fullmatch(pattern, data, re.DOTALL)
        if found:
            self.bound.update((name[1:], value) for name, value in found.groupdict().items())
        return bool(found)

    def match_rows(self, templates, rows):
        """Whether each row matches one of the templates, in any order."""
        if not templates:
            return True
        before = dict(self.bound)
        for at, row in enumerate(rows):
            if self.match(templates[0], row) and self.match_rows(templates[1:], rows[:at] + rows[at + 1 :]):
                return True
            self.bound = dict(before)
        return False


class _Peer:
    def __init__(self, name, address, timeout_s):
        self.name = name
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout_s = timeout_s
        self.inbox = []
        self.said = b""
        self._outgoing = b""
        self._incoming = b""
        self._settled = True
        self._raw = False
        self._echoes = 0

    def say(self, data, whole=True):
        self._outgoing += data
        self.said = data
        # An ECHO_REQ can only follow something whole.
        self._raw = not whole
        self._settled = False

    def flush(self):
        data, self._outgoing = self._outgoing, b""
        if data:
            self.socket.sendall(data)

    def close(self):
        self.settle()
        self.socket.close()
        self.inbox.append(CLOSED)

    def settle(self, again=False):
        """Return when the server has served all that was said, or (`again`) all that anybody said."""
        try:
            self.flush()
            if self._raw or self._settled and not again or CLOSED in self.inbox:
                return
            self._settled = True
            self._echoes += 1
            token = b"\xffsettle %d" % self._echoes
            self.socket.sendall(_HEADER.pack(b"\0REQ", PacketType.ECHO_REQ, len(token)) + token)
        except OSError:
            return
        seen = []
        while True:
            item = self.receive()
            if item == ("ECHO_RES", token):
                break
            seen.append(item)
            if item == CLOSED:
                break
        self.inbox[:0] = seen

    def receive_line(self):
        kind, *data = self.receive()
        if kind != "line":
            raise Mismatch("%s has got %r instead of a line" % (self.name, (kind, *data)))
        return data[0]

    def receive_table(self):
        lines = []
        while not lines or not lines[-1].startswith((b".\n", b"ERR ")):
            lines.append(self.receive_line())
        return lines

    def receive(self):
        """The next thing that came or comes: a packet, a line, or the end."""
        if self.inbox:
            return self.inbox.pop(0)
        ends_at = time.monotonic() + self.timeout_s
        while True:
            item = self._item()
            if item:
                return item
            try:
                self.socket.settimeout(max(0.001, ends_at - time.monotonic()))
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            except socket.timeout:
                raise Mismatch("%s waits in vain; so far %r" % (self.name, self._incoming)) from None
            if not data:
                return CLOSED
            self._incoming += data

    def _item(self):
        data = self._incoming
        if not data:
            return None
        if data[0]:
            line, newline, self._incoming = data.partition(b"\n")
            if newline:
                return ("line", line + newline)
            self._incoming = data
            return None
        if len(data) < _HEADER.size:
            return None
        magic, kind, size = _HEADER.unpack_from(data)
        if magic != b"\0RES":
            raise Mismatch("%s has got no packet: %r" % (self.name, data))
        end = _HEADER.size + size
        if len(data) < end:
            return None
        self._incoming = data[end:]
        return (PacketType(kind).name, data[_HEADER.size : end])


def _parts(template, pipe):
    """Bytes, and names of variables (str)."""
    at = 0
    for found in _TOKEN.finditer(template):
        yield template[at : found.start()].encode()
        at = found.end()
        hexadecimal, escape, name, repeated, times, separator = found.groups()
        if hexadecimal:
            yield bytes([int(hexadecimal, 16)])
        elif escape:
            yield _ESCAPES.get(escape, escape.encode())
        elif name:
            yield name
        elif repeated:
            yield repeated.encode() * int(times)
        else:
            yield pipe
    yield template[at:].encode()


def _unquoted(text):
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ValueError("not in quotes: %s" % text)
    return text[1:-1]
