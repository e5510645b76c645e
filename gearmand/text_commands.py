"""What each administrative command does: one table, and a short function for each row.

A function takes the control, the line's words (the command's own name first)
and returns the answer, or yields a long one in pieces. No lock is held; what
needs the registry takes a turn.

The C server's commands answer byte for byte as it does; `jobs`, `clients` and
`shutdown` are those of the Perl server, `acl` is that of gear's.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Union

from gearmand import operations, recurring_commands, steering_commands, text
from gearmand.access import ADMIN, GRANT, SUBMIT, WORK, AccessList, mask, subject_of
from gearmand.broker import Broker
from gearmand.errors import ConfigError, StoreError, not_settled
from gearmand.functions import Function
from gearmand.gate import Gate
from gearmand.gatekeeper import Gatekeeper
from gearmand.jobs import ENDED, Job
from gearmand.peer import Peer
from gearmand.registry import Registry


class ThenAct(NamedTuple):
    """Answer first, then act, with no lock held: the connection may not outlive the act."""

    answer: bytes
    act: Callable[[], None]


Answer = Union[bytes, ThenAct, Iterable[bytes]]


class Control(NamedTuple):
    """What the commands may use of the server."""

    broker: Broker
    version: str
    level_name: str
    shut_down: Callable[[bool], None]
    """Begin to stop, gracefully or at once; returns without waiting."""
    gatekeeper: Optional[Gatekeeper] = None
    gate: Optional[Gate] = None
    """Of the peer that asks, where it has one."""
    asking: Optional[Peer] = None
    """Who that is."""


class Command(NamedTuple):
    usage: str
    act: Callable[[Control, List[bytes]], Answer]
    changes: bool = False
    """Whether it changes something."""
    asks_itself: bool = False
    """Whether it finds out by itself what the peer may."""


# Formatting tables is all computation. One at a time, they cannot take the
# interpreter from the handlers in numbers. Nothing is sent while it is held.
_one_table_at_a_time = threading.Lock()


def answer(control: Control, line: bytes, gate: Optional[Gate] = None) -> Iterable[bytes]:
    """The answer to a line, in pieces; the first one when the line's work is done. `gate`: that of the peer that asks."""
    reply = reply_to(control, line, gate)
    if isinstance(reply, bytes):
        yield reply
    elif isinstance(reply, ThenAct):
        yield reply.answer
        reply.act()
    else:
        yield from one_at_a_time(reply)


def one_at_a_time(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same pieces; while one of them is made, no piece of another table is."""
    rest = iter(pieces)
    while True:
        with _one_table_at_a_time:
            piece = next(rest, None)
        if piece is None:
            return
        yield piece


def reply_to(control: Control, line: bytes, gate: Optional[Gate] = None) -> Answer:
    """Do what a line says, as far as it needs no reader of the answer."""
    found = text.words(line)
    name = found[0] if found else b""
    command = COMMANDS.get(name.decode("latin-1").lower())
    if len(found) > text.MOST_WORDS:
        return text.error("INVALID_ARGUMENTS", "Too many arguments")
    if command is None:
        return _unknown(name)
    why = None if gate is None or command.asks_itself else gate.command(name.lower(), command.changes)
    if why is not None:
        return text.error("PERMISSION_DENIED", why)
    try:
        return command.act(control._replace(gate=gate), found)
    except StoreError as error:
        return text.error("NOT_STORED", not_settled(error))


def _unknown(name: bytes) -> bytes:
    return text.error("UNKNOWN_COMMAND", "Unknown server command" + name.decode("utf-8", "surrogateescape"))


def _is(word: bytes, expected: bytes) -> bool:
    return word.lower() == expected


# -- what there is -----------------------------------------------------------------


def _table(control: Control, items: Callable[[Registry], Iterable[Any]], row: Callable[[Any], Any]) -> Iterable[bytes]:
    for rows in control.broker.rows(items, row):
        yield text.rows(rows)
    yield text.END_OF_TABLE


def _table_of_jobs(control: Control, row: Callable[[Job], Any]) -> Iterable[bytes]:
    for rows in control.broker.rows(lambda registry: registry.jobs.values(), row):
        yield text.rows(rows)
    for rows in control.broker.rows_of_plain(row):
        yield text.rows(rows)
    yield text.END_OF_TABLE


def _functions(registry: Registry) -> Iterable[Function]:
    return registry.functions.values()


def _status(control: Control, words: List[bytes]) -> Answer:
    def row(function: Function) -> Sequence[object]:
        return function.name, function.jobs, function.running, len(function.workers)

    return _table(control, _functions, row)


def _priority_status(control: Control, words: List[bytes]) -> Answer:
    def row(function: Function) -> Sequence[object]:
        dormant = control.broker.registry.dormant
        high, normal, low = (queue.live + dormant.count(function, at) for at, queue in enumerate(function.queues))
        return function.name, high, normal + function.scheduled, low, len(function.workers)

    return _table(control, _functions, row)


def _workers(control: Control, words: List[bytes]) -> Answer:
    def row(peer: Peer) -> Optional[Sequence[object]]:
        if peer.closed:
            return None
        names = [peer.by_index[index].name for index in sorted(peer.by_index)]
        # Of a local process its number is all there is.
        host = peer.address if peer.address.startswith("unix:") else peer.address.rpartition(":")[0].strip("[]")
        return (b" ".join([b"%d %b %b :" % (peer.fileno, host.encode(), peer.client_id), *names]),)

    return _table(control, lambda registry: reversed(control.broker.peers), row)


def _clients(control: Control, words: List[bytes]) -> Answer:
    def row(peer: Peer) -> Sequence[object]:
        lines = [peer.address.encode()]
        lines += [b"\t%b\t%b\t%b" % (job.function.name, job.unique, _worker_address(job)) for job in peer.listening]
        return (b"\n".join(lines),)

    return _table(control, lambda registry: control.broker.peers, row)


def _jobs(control: Control, words: List[bytes]) -> Answer:
    def row(job: Job) -> Optional[Sequence[object]]:
        if job.state is ENDED:
            return None
        listeners = sum(job.listeners.values()) if job.listeners else 0
        return job.function.name, job.unique, _worker_address(job), listeners

    return _table_of_jobs(control, row)


def _worker_address(job: Job) -> bytes:
    return job.worker.address.encode() if isinstance(job.worker, Peer) else b"-"


def _show(control: Control, words: List[bytes]) -> Answer:
    what = [word.lower() for word in words[1:]]
    if not what:
        return _unknown(words[0])
    if what == [b"jobs"]:
        return _table_of_jobs(control, _job_row)
    if what == [b"unique", b"jobs"]:
        return _table_of_jobs(control, _unique_row)
    return text.error("UNKNOWN_SHOW_ARGUMENTS")


def _job_row(job: Job) -> Optional[Sequence[object]]:
    # Handle, retries, ignored, persisted: the C server has 1 there for background jobs even when it stores none.
    return None if job.state is ENDED else (job.handle, job.retries, int(not job.wanted), int(job.background))


def _unique_row(job: Job) -> Optional[Sequence[object]]:
    return None if job.state is ENDED else (job.unique,)


def _version(control: Control, words: List[bytes]) -> Answer:
    return text.data(control.version.encode())


def _getpid(control: Control, words: List[bytes]) -> Answer:
    return text.data(b"%d" % os.getpid())


def _verbose(control: Control, words: List[bytes]) -> Answer:
    return text.data(control.level_name.encode())


def _help(control: Control, words: List[bytes]) -> Answer:
    return b"".join(b"%b\n" % command.usage.encode() for command in COMMANDS.values()) + text.END_OF_TABLE


# -- the access list -------------------------------------------------------------------
# These are those of gear's server; it says register for work, and invoke for submit.

_WHAT = {b"register": WORK, b"invoke": SUBMIT, **{what.encode(): what for what in (WORK, SUBMIT, ADMIN, GRANT)}}


def _acl(control: Control, words: List[bytes]) -> Answer:
    gatekeeper, gate = control.gatekeeper, control.gate
    verb = words[1].lower() if len(words) > 1 else b""
    if verb not in (b"list", b"grant", b"revoke", b"self-revoke"):
        return text.incomplete(words[0])
    access = None if gatekeeper is None else gatekeeper.policy.access
    if access is None or gate is None:
        return text.error("ACL_DISABLED")
    if verb == b"list":
        why = gate.command(b"acl", False)
        return _acl_table(access) if why is None else text.error("PERMISSION_DENIED", why)
    return _acl_change(control, verb, words)


def _acl_table(access: AccessList) -> Answer:
    rows = []
    for subject, may in access.table():
        register, invoke, admin = (may.get(what, "None") for what in (WORK, SUBMIT, ADMIN))
        row = "%s\tregister=%s\tinvoke=%s\tgrant=%s\tadmin=%s" % (subject, register, invoke, GRANT in may, admin)
        rows.append([row.encode("utf-8", "surrogateescape")])
    return text.rows(rows) + text.END_OF_TABLE


def _acl_change(control: Control, verb: bytes, words: List[bytes]) -> Answer:
    gatekeeper, gate = control.gatekeeper, control.gate
    assert gatekeeper is not None and gate is not None
    what = words[2].lower() if len(words) > 2 else b""
    if what not in _WHAT and (what != b"all" or verb == b"grant"):
        return text.error("UNKNOWN_ACL_VERB")
    more = [word.decode("utf-8", "surrogateescape") for word in words[3:]]
    if len(more) != {b"grant": 1 + (what != b"grant"), b"revoke": 1, b"self-revoke": 0}[verb]:
        return text.incomplete(words[0])
    try:
        subjects = gate.subjects if verb == b"self-revoke" else [subject_of(more[0], True)]
        if not subjects:
            raise ValueError("You have neither a certificate nor a token")
        own = verb != b"grant" and set(subjects) <= set(gate.subjects)
        why = None if own and not gate.is_far else gate.command(b"acl " + verb, True, GRANT)
        if why is not None:
            return text.error("PERMISSION_DENIED", why)
        # Escaped: it goes to the log.
        done = "%s: acl %s" % (gate.who, " ".join(mask(repr(word)[2:-1]) for word in words[1:]))
        if verb == b"grant":
            gatekeeper.change(lambda access: access.granted(subjects[0], _WHAT[what], "".join(more[1:])), done)
        else:
            gatekeeper.change(lambda access: access.revoked(subjects, _WHAT.get(what)), done)
    except (ValueError, ConfigError) as error:
        return text.error("UNABLE", str(error))
    return text.OK


# -- what changes something ----------------------------------------------------------


def _cancel(control: Control, words: List[bytes]) -> Answer:
    if len(words) < 3:
        return _unknown(words[0])
    if len(words) != 3 or not _is(words[1], b"job"):
        return text.error("UNKNOWN_ERROR")
    return text.OK if operations.cancel_job(control.broker, words[2], control.asking) else text.error("UNKNOWN_JOB")


def _create(control: Control, words: List[bytes]) -> Answer:
    if len(words) != 3 or not _is(words[1], b"function"):
        return text.incomplete(words[0])
    operations.create_function(control.broker, words[2])
    return text.OK


def _drop(control: Control, words: List[bytes]) -> Answer:
    if len(words) != 3 or not _is(words[1], b"function"):
        return text.incomplete(words[0])
    dropped = operations.drop_function(control.broker, words[2])
    if dropped is None:
        return b"ERR function not found\r\n"
    return text.OK if dropped else b"ERR there are still connected workers or executing clients\r\n"


def _max_queue(control: Control, words: List[bytes]) -> Answer:
    if len(words) < 2:
        return text.incomplete(words[0])
    given = [_limit(word) for word in words[2:]]
    limits = given * 3 if len(given) == 1 else (given + [None, None, None])[:3]
    if not operations.limit_function(control.broker, words[1], limits):
        return text.error("LIMIT_REACHED", "Something is set for as many functions as may be")
    return text.OK


def _limit(word: bytes) -> Optional[int]:
    found = re.match(rb"[+-]?[0-9]{1,18}", word)
    number = int(found.group()) if found else 0
    return number if number > 0 else None


def _drain(control: Control, words: List[bytes]) -> Answer:
    if len(words) != 1:
        return text.incomplete(words[0])
    return ThenAct(text.OK, lambda: control.shut_down(True))


def _shutdown(control: Control, words: List[bytes]) -> Answer:
    graceful = len(words) == 2 and _is(words[1], b"graceful")
    if len(words) > 1 and not graceful:
        return b"ERR unknown_args Unknown+arguments+to+server+command\r\n"
    return ThenAct(b"OK\n", lambda: control.shut_down(graceful))


COMMANDS: Dict[str, Command] = {
    "status": Command("status", _status),
    "prioritystatus": Command("prioritystatus", _priority_status),
    "workers": Command("workers", _workers),
    "clients": Command("clients", _clients),
    "jobs": Command("jobs", _jobs),
    "show": Command("show [unique] jobs", _show),
    "cancel": Command("cancel job HANDLE", _cancel, True),
    "create": Command("create function FUNCTION", _create, True),
    "drop": Command("drop function FUNCTION", _drop, True),
    "maxqueue": Command("maxqueue FUNCTION [LIMIT | HIGH NORMAL LOW]", _max_queue, True),
    "pause": Command("pause function FUNCTION", steering_commands.pause, True),
    "resume": Command("resume function FUNCTION", steering_commands.pause, True),
    "policy": Command("policy FUNCTION [NAME=VALUE...]", steering_commands.policy, True),
    "purge": Command("purge FUNCTION [high | normal | low]", steering_commands.purge, True),
    "peek": Command("peek FUNCTION [COUNT]", steering_commands.peek),
    "reprioritise": Command("reprioritise job HANDLE high | normal | low", steering_commands.reprioritise, True),
    "buried": Command("buried FUNCTION [COUNT]", steering_commands.buried),
    "kick": Command("kick FUNCTION [COUNT]", steering_commands.kick, True),
    "discard": Command("discard FUNCTION [COUNT]", steering_commands.kick, True),
    "result": Command("result job HANDLE | unique FUNCTION UNIQUE", steering_commands.result, asks_itself=True),
    "recurring": Command("recurring", recurring_commands.show),
    "recur": Command("recur NAME FUNCTION MINUTE HOUR DAY MONTH WEEKDAY [NAME=VALUE...]", recurring_commands.put, True),
    "unrecur": Command("unrecur NAME", recurring_commands.remove, True),
    "drain": Command("drain", _drain, True),
    "acl": Command("acl list | grant WHAT SUBJECT [PATTERNS] | revoke WHAT SUBJECT | self-revoke WHAT", _acl, True, True),
    "verbose": Command("verbose", _verbose),
    "version": Command("version", _version),
    "getpid": Command("getpid", _getpid),
    "help": Command("help", _help),
    "shutdown": Command("shutdown [graceful]", _shutdown, True),
}
