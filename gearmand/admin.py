"""The administrative commands of a job server, parsed. Knows lines and tables, nothing of jobs' lives.

    from gearmand import Admin

    with Admin("127.0.0.1:4730") as admin:
        for function in admin.status():
            print(function.function, function.queued, function.running, function.workers)

It speaks to this server, to the C server and to the Perl server; a command that
a server lacks raises AdminRefused with what it said. Every method that asks the
server raises AdminRefused and ServerLost.

Names are `str`; bytes that are no UTF-8 are surrogates, as in file names. The
protocol's words are separated by blanks, so a command cannot name a function
with a blank in it, though the tables may show one. Where a table's format
leaves open what a blank, a tab or a line feed in a name means, the method says
how it is read.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Optional, Pattern, Sequence, Tuple, Union

from gearmand.addresses import AddressLike, parse, parse_all
from gearmand.admin_steering import Steering
from gearmand.connection import Connection, tls_of
from gearmand.errors import AdminRefused, ConfigError, ServerLost
from gearmand.protocol import TEXT_LINE, Body, Event, PacketType, pack
from gearmand.tables import (
    ACL_ROW,
    CLIENT_ROW,
    JOB_ROW,
    PRIORITY_ROW,
    SHOWN_ROW,
    STATUS_ROW,
    WORKER_ROW,
    AclEntry,
    ClientJob,
    ClientStatus,
    FunctionStatus,
    JobStatus,
    PriorityStatus,
    ShownJob,
    Snapshot,
    WorkerStatus,
)
from gearmand.tokens import packet_of

_END_OF_TABLE = (TEXT_LINE, b".")
# However little time is left, a server that is there can answer.
_SHORTEST_S = 1.0

_admins: "weakref.WeakSet[Admin]" = weakref.WeakSet()


class Admin(Steering):
    """`server`: see `addresses.parse`; by default the first one of the environment, else 127.0.0.1:4730.

    `timeout_s`: how long connecting and one whole answer may take together;
    `None`: any time. `token`: presented to the server before anything else;
    AdminRefused where it does not take it. Nothing is connected before the
    first command. A connection that has ended while it was idle is made anew;
    one whose answer did not come in time is given up, because its answers
    would be out of step.

    Threads: any number may share it; one command is under way at a time. A
    process that forks may use it on both sides: the child connects anew.

    ConfigError: `server` is no address, or a name cannot be said in a command.
    """

    def __init__(
        self,
        server: Optional[AddressLike] = None,
        timeout_s: Optional[float] = 10.0,
        *,
        tls: Any = None,
        token: Union[None, str, bytes] = None,
    ) -> None:
        self.address = parse_all(None)[0] if server is None else parse(server)
        self.timeout_s = timeout_s
        self._tls = tls_of(tls)
        self._greeting = packet_of(token)
        # Guards the connection, from the request to the end of its answer.
        self._lock = threading.Lock()
        self._connection: Optional[Connection] = None
        _admins.add(self)

    def __enter__(self) -> "Admin":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Admin of %s>" % (self.address,)

    def close(self) -> None:
        """End the connection, after the command under way; a further command makes a new one."""
        with self._lock:
            self._drop()

    # -- what there is -----------------------------------------------------------

    def status(self) -> List[FunctionStatus]:
        """Every function that the server knows; with the Perl server those that have jobs or workers."""
        return self._status(None)

    def _status(self, longest_s: Optional[float]) -> List[FunctionStatus]:
        rows = self._rows("status", STATUS_ROW, longest_s)
        return [FunctionStatus(_text(name), *map(int, counts)) for name, *counts in rows]

    def priority_status(self) -> List[PriorityStatus]:
        """Every function, its queued jobs by priority. The Perl server has no such command."""
        rows = self._rows("prioritystatus", PRIORITY_ROW)
        return [PriorityStatus(_text(name), *map(int, counts)) for name, *counts in rows]

    def workers(self) -> List[WorkerStatus]:
        """Every connection, this one included, with the functions that it can do.

        A client id may have blanks in it; it ends before the first " :". A
        function with a blank in it reads as several: `status` has its name.
        """
        rows = self._rows("workers", WORKER_ROW)
        return [
            WorkerStatus(int(fd), _text(address), _text(client_id), [_text(name) for name in names.split(b" ") if name])
            for fd, address, client_id, names in rows
        ]

    def clients(self) -> List[ClientStatus]:
        """Every connection, with the jobs that it waits for. The C server has no such command.

        A function ends at the first tab of its line, so its name has none; a unique may have one.
        """
        found: List[ClientStatus] = []
        for address, function, unique, worker in self._rows("clients", CLIENT_ROW):
            if address is not None:
                found.append(ClientStatus(_text(address), []))
            elif not found:
                raise self._garbage("clients", function)
            else:
                found[-1].jobs.append(ClientJob(_text(function), _text(unique), _worker(worker)))
        return found

    def jobs(self) -> List[JobStatus]:
        """Every job, queued or running. The C server has no such command. Tabs as with `clients`."""
        rows = self._rows("jobs", JOB_ROW)
        return [
            JobStatus(_text(function), _text(unique), _worker(worker), int(listeners))
            for function, unique, worker, listeners in rows
        ]

    def show_jobs(self) -> List[ShownJob]:
        """The handle of every job. The Perl server has no such command."""
        rows = self._rows("show jobs", SHOWN_ROW)
        return [
            ShownJob(_text(handle), int(retries), ignored != b"0", persisted != b"0")
            for handle, retries, ignored, persisted in rows
        ]

    def show_unique_jobs(self) -> List[str]:
        """The unique of every job, empty where it has none. One with a line feed in it reads as two.

        The Perl server has no such command.
        """
        return [_text(line) for line in self.table("show unique jobs").split(b"\n")[:-1]]

    def version(self) -> str:
        return self.value("version")

    def verbose(self) -> str:
        """How much the server logs, as the name of a level. The Perl server has no such command."""
        return self.value("verbose")

    def getpid(self) -> int:
        """The server's process id. The Perl server has no such command."""
        pid = self.value("getpid")
        if not pid.isdigit():
            raise self._garbage("getpid", pid.encode("utf-8", "surrogateescape"))
        return int(pid)

    def help(self) -> List[str]:
        """The server's commands with their arguments, one each. Only this server has this one."""
        return [_text(line) for line in self.table("help").split(b"\n")[:-1]]

    # -- what changes something ----------------------------------------------------

    def cancel_job(self, handle: str) -> None:
        """Take a job off the server's books; whoever waits for it is told that it failed. C: while it is queued."""
        self._do("cancel", "job", handle)

    def create_function(self, function: str) -> None:
        """Have a function listed before anyone uses it."""
        self._do("create", "function", function)

    def drop_function(self, function: str) -> None:
        """Forget a function; refused while it has workers or running jobs (this server: any jobs)."""
        self._do("drop", "function", function)

    def max_queue(self, function: str, *limits: int) -> None:
        """Refuse new jobs of a function while it has so many.

        One limit for all priorities, three for high, normal and low; none, or
        0: no limit. The C server forgets it for a function not seen yet; the
        Perl server heeds the first one alone, and has 0 mean none at all.
        """
        if len(limits) not in (0, 1, 3):
            raise ConfigError("maxqueue: expected no limit, one, or three for high, normal and low, got %d" % len(limits))
        self._do("maxqueue", function, *["%d" % limit for limit in limits])

    def shutdown(self, graceful: bool = False) -> None:
        """Stop the server, at once or when what runs has ended. The C server has no such command."""
        self._do("shutdown", *["graceful"] * graceful)

    # -- the access list -------------------------------------------------------------

    def acl_list(self) -> List[AclEntry]:
        """Every subject with a rule. Only this server and gear's know the commands of an access list."""
        entries = []
        for subject, work, submit, grant, admin in self._rows("acl list", ACL_ROW):
            texts = [None if patterns in (None, b"None") else _text(patterns) for patterns in (work, submit, admin)]
            entries.append(AclEntry(_text(subject), texts[0], texts[1], texts[2], grant == b"True"))
        return entries

    def acl_grant(self, what: str, subject: str, patterns: str = "") -> None:
        """Let a subject submit, work or admin what the patterns say, or change the list (grant), instead of what it might before.

        A subject without a colon is the common name of a certificate. gear's
        server has register and invoke for work and submit, and regular
        expressions for patterns.
        """
        self._do("acl", "grant", what, subject, *[patterns] * bool(patterns))

    def acl_revoke(self, what: str, subject: str) -> None:
        """Take that from a subject again: submit, work, admin, grant or all."""
        self._do("acl", "revoke", what, subject)

    def acl_self_revoke(self, what: str) -> None:
        """Do without it from now on, by the certificate and the token of this connection."""
        self._do("acl", "self-revoke", what)

    # -- over some time ------------------------------------------------------------

    def ping(self) -> float:
        """How many seconds the server takes to answer an ECHO_REQ, once there is a connection."""
        self._echo()
        began_at = time.monotonic()
        self._echo()
        return time.monotonic() - began_at

    def _echo(self) -> None:
        event = self._ask(pack(PacketType.ECHO_REQ, b"ping"), bool)[0]
        if event != (PacketType.ECHO_RES, b"ping"):
            raise self._garbage("ECHO_REQ", event[1])

    def wait_until_idle(
        self, function: Optional[str] = None, timeout_s: Optional[float] = None, interval_s: float = 0.2
    ) -> bool:
        """Wait until the function, or every one, has no queued and no running jobs; delayed jobs count.

        It asks every `interval_s`; a function that the server does not know is
        idle. False: not so within `timeout_s` (`None`: however long it takes).
        ServerLost also when the server says nothing in that time, or in a second where it is less.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            longest_s = None if deadline is None else max(_SHORTEST_S, deadline - time.monotonic())
            if not any(row.total for row in self._status(longest_s) if function in (None, row.function)):
                return True
            left_s = interval_s if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(interval_s, left_s))

    def snapshot(self, before: Optional[Snapshot] = None) -> Snapshot:
        """`status` with the time, and with rates where there is one `before`."""
        functions = self.status()
        epoch_s = time.time()
        rates: Dict[str, float] = {}
        if before is not None and epoch_s > before.time:
            totals = {row.function: row.total for row in before.functions}
            for row in functions:
                rates[row.function] = (row.total - totals.get(row.function, 0)) / (epoch_s - before.time)
        return Snapshot(epoch_s, functions, rates)

    def watch(self, interval_s: float = 1.0) -> Iterator[Snapshot]:
        """A snapshot now, and one after each `interval_s`, for ever. It ends with ServerLost."""
        snapshot = None
        while True:
            snapshot = self.snapshot(snapshot)
            yield snapshot
            time.sleep(interval_s)

    # -- any command -----------------------------------------------------------------

    def table(self, command: str) -> bytes:
        """The rows of a command that answers with a table: the server's own bytes, without the table's end.

        A row that looks like the end, such as a unique ".", is taken for it
        where the network happens to cut the answer after it.
        """
        return self._table(command, None)

    def _table(self, command: str, longest_s: Optional[float]) -> bytes:
        lines = self._lines(command.split(), _is_whole_table, longest_s=longest_s)
        if lines[0].startswith(b"ERR ") and lines[0].endswith(b"\r"):
            raise self._refused(command, lines[0])
        return b"".join([line + b"\n" for line in lines[:-1]])

    def value(self, command: str) -> str:
        """What a command answers in one line, without the OK before it."""
        return _text(self._short(command.split()))

    def _do(self, *words: str) -> None:
        """A command that changes something: OK and no value."""
        answer = self._short(words, again=False)
        if answer:
            raise self._garbage(" ".join(words), answer)

    def _rows(self, command: str, pattern: Pattern[bytes], longest_s: Optional[float] = None) -> Iterator[Tuple[Any, ...]]:
        body = self._table(command, longest_s)
        at = 0
        while at < len(body):
            found = pattern.match(body, at)
            if found is None:
                raise self._garbage(command, body[at:].partition(b"\n")[0])
            yield found.groups()
            at = found.end()

    def _short(self, words: Sequence[str], again: bool = True) -> bytes:
        lines = self._lines(words, bool, again)
        if len(lines) > 1:
            raise self._garbage(" ".join(words), b"\n".join(lines))
        line = lines[0].rstrip(b"\r")
        if line.split(b" ")[0] == b"ERR":
            raise self._refused(" ".join(words), line)
        # The Perl server says its version without an OK.
        return b"" if line == b"OK" else line[3:] if line.startswith(b"OK ") else line

    # -- requests and answers ----------------------------------------------------------

    def _lines(
        self, words: Sequence[str], is_whole: Callable[[List[Event]], bool], again: bool = True, longest_s: Optional[float] = None
    ) -> List[bytes]:
        # The C server's `create function` cuts off two bytes, whatever they are.
        events = self._ask(b" ".join([_word(word) for word in words]) + b"\r\n", is_whole, again, longest_s)
        if events[0][0] != TEXT_LINE:
            raise self._garbage(" ".join(words), b"a packet")
        return [bytes(line) for _, line in events]

    def _ask(
        self, request: bytes, is_whole: Callable[[List[Event]], bool], again: bool = True, longest_s: Optional[float] = None
    ) -> List[Event]:
        """Send a request and return its answer; the connection is one that was idle, or a new one.

        `again`: when the idle one turns out to have ended, ask a second time,
        though the server may have heard the first. Never after a timeout,
        which is the Admin's, or `longest_s` where that is less.
        """
        timeout_s = min((each for each in (self.timeout_s, longest_s) if each is not None), default=None)
        with self._lock:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            if self._connection is not None and not self._connection.silent_and_open:
                self._drop()
            was_idle = self._connection is not None
            try:
                return self._exchange(request, is_whole, deadline)
            except TimeoutError:
                raise ServerLost("%s: no answer within %g s" % (self.address, timeout_s), str(self.address)) from None
            except ServerLost:
                if not (was_idle and again):
                    raise
            return self._exchange(request, is_whole, deadline)

    def _exchange(self, request: bytes, is_whole: Callable[[List[Event]], bool], deadline: Optional[float]) -> List[Event]:
        """Only a whole answer leaves a connection for the next request. ServerLost, TimeoutError."""
        connection = self._connection or self._connect(deadline)
        self._connection = None
        events: List[Event] = []
        try:
            connection.send(request)
            while not is_whole(events):
                events += connection.receive_some(deadline)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return events

    def _connect(self, deadline: Optional[float]) -> Connection:
        left_s = None if deadline is None else max(0.001, deadline - time.monotonic())
        connection = Connection(self.address, left_s, self.timeout_s, tls=self._tls)
        if self._greeting:
            try:
                self._present(connection, deadline)
            except BaseException:
                connection.close()
                raise
        return connection

    def _present(self, connection: Connection, deadline: Optional[float]) -> None:
        """The token. AdminRefused, ServerLost, TimeoutError."""
        connection.send(self._greeting)
        kind, body = connection.receive_some(deadline)[0]
        if kind != PacketType.OPTION_RES:
            code, _, text = bytes(body).decode("utf-8", "replace").partition("\0")
            raise AdminRefused("%s: the token was refused: %s: %s" % (self.address, code, text), code, text, str(self.address))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _forget(self) -> None:
        """In the child of a fork: the connection is the parent's, and the lock may be held by a thread of his."""
        self._lock = threading.Lock()
        self._drop()

    def _refused(self, command: str, line: bytes) -> AdminRefused:
        code, text = _code_and_text(_text(line.rstrip(b"\r")))
        said = " ".join(filter(None, (code, text)))
        return AdminRefused("%s: %s: %s" % (self.address, _shown(command), said), code, text, str(self.address))

    def _garbage(self, command: str, answer: Body) -> ServerLost:
        self.close()
        what = "%s: cannot read its answer to %s: %r" % (self.address, _shown(command), bytes(answer[:80]))
        return ServerLost(what, str(self.address))


def _forget_all() -> None:
    for admin in list(_admins):
        admin._forget()


os.register_at_fork(after_in_child=_forget_all)


def _is_whole_table(events: List[Event]) -> bool:
    """A table, or a refusal: it ends in a carriage return, which no row does (a unique may begin with ERR)."""
    if not events:
        return False
    kind, first = events[0]
    refused = bytes(first[:4]) == b"ERR " and bytes(first[-1:]) == b"\r"
    return kind != TEXT_LINE or refused or events[-1] == _END_OF_TABLE


def _code_and_text(line: str) -> Tuple[str, str]:
    """ERR and a code, and perhaps a text with plus signs for its blanks; a text with blanks has no code before it."""
    words = line.split()[1:]
    if len(words) > 2:
        return "", " ".join(words)
    code, text = (words + ["", ""])[:2]
    return code, text.replace("+", " ")


def _word(word: str) -> bytes:
    if not word or word.split() != [word] or "\0" in word:
        raise ConfigError("%r: expected one word, because blanks separate the words of an administrative command" % (word,))
    return word.encode("utf-8", "surrogateescape")


def _shown(command: str) -> str:
    """Without a token, because what went wrong may be logged."""
    return re.sub(r"\btoken:\S+", "token:***", command)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _worker(address: bytes) -> Optional[str]:
    return None if address == b"-" else _text(address)
