"""What each packet type asks of the registry: one table, and a short function for each row.

A function takes the registry, the peer that sent the packet, the body as it
came and then the body's arguments. It returns `None`, or why it refuses; a
refusal goes back as an ERROR packet and the connection stays. The broker's lock
is held throughout, so nothing here waits, sends or logs.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

from gearmand import errors, handover, schedule, volleys
from gearmand.errors import Refusal, invalid_argument
from gearmand.gate import Gate
from gearmand.jobs import Job, Priority
from gearmand.parties import Assign, Party
from gearmand.protocol import ARGUMENTS, RESPONSE_MAGIC, TEXT_LINE, Body, Event, PacketType, split
from gearmand.registry import Registry
from gearmand.revival import Kept, admit, pass_on, status_of, status_of_job, waits
from gearmand.rows import Row, Submission

HIGH, NORMAL, LOW = (int(priority) for priority in Priority)

# As plain numbers, because the busiest functions post them (an attribute of an
# enumeration costs 60 ns on Python 3.8).
JOB_CREATED = int(PacketType.JOB_CREATED)
NO_JOB = int(PacketType.NO_JOB)
JOB_ASSIGN = int(PacketType.JOB_ASSIGN)
JOB_ASSIGN_UNIQ = int(PacketType.JOB_ASSIGN_UNIQ)
WORK_COMPLETE = int(PacketType.WORK_COMPLETE)
ECHO_RES = int(PacketType.ECHO_RES)

PACKETS_A_TURN = 32
"""How many packets of one peer are served in one turn and answered together: few, so that it reads the first answers
and sends more while the next are made (measured, `echo -d 64`: a quarter more than with 200)."""

PACKETS_A_COMMIT = 200
"""The same where background jobs are stored: those of one turn are in one transaction."""

TOKEN = b"token:"
"""What an OPTION_REQ begins with that presents a token: an extension of this server's."""

OPTIONS = {b"exceptions": "exceptions", b"cancellations": "cancellations"}
"""What else an OPTION_REQ may ask for: the party's attribute. A worker gets WORK_FAIL for a job that it runs and that was
cancelled, where it has asked for cancellations, which is an extension too."""

UNIQUE_BYTES = 64
FUNCTION_BYTES = 8192
HANDLE_BYTES = 63
CLIENT_ID_BYTES = 127
# What is looked at of a number, and of the arguments of a packet without data,
# however long they are: more than any bound of theirs.
_NUMBER_BYTES = 64
_ENDS = frozenset(map(int, (PacketType.WORK_COMPLETE, PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION)))
_SMALL_BYTES = 2 * FUNCTION_BYTES
_AS_GOOD_AS_NONE_S = 10 * 365 * 86400

Result = Optional[Refusal]


# How many arguments; whether the last one is data of any size, not to be
# copied; what to do. (A plain tuple, because one with names takes twice as
# long to take apart.)
Command = Tuple[int, bool, Callable[..., Result]]


def serve(
    registry: Registry, peer: Party, events: Sequence[Event], start: int, kept: Mapping[int, Kept] = {}, most: int = PACKETS_A_TURN
) -> int:
    """Do what packets ask, in order, from `events[start]` on; return where it stopped.

    That is at the end, before a line of text, after `most` of them, or before
    what is for another server to take or to answer.
    `kept`: what the store has made of `submissions`, by their places.
    """
    if registry.events is not None:
        registry.asking = peer
    elsewhere = registry.handed_over or (bool(kept) and None in kept.values())
    end = min(len(events), start + most)
    if end - start >= volleys.LEAST and not (kept or elsewhere):
        start = volleys.serve(registry, peer, events, start, end)
    for at in range(start, end):
        kind, body = events[at]
        if elsewhere:
            if isinstance(kept.get(at), Row):
                peer.post(JOB_CREATED, pass_on(registry, kept[at]))
                continue
            if handover.is_for_the_new_one(registry, peer, kind, body):
                return at
        if peer.lingering is not None:
            registry.end_linger(peer)
        if kept and at in kept:
            refusal: Result = _submit_kept(registry, peer, kept[at])
        elif kind in COMMANDS:
            count, bulky, act = COMMANDS[kind]
            if not count:
                refusal = act(registry, peer, body)
            else:
                if type(body) is bytes:
                    arguments = body.split(b"\0", count - 1)
                else:
                    arguments = split(body if bulky else bytes(body[:_SMALL_BYTES]), count)
                if len(arguments) == count:
                    refusal = act(registry, peer, body, *arguments)
                else:
                    refusal = _too_few(kind, len(arguments))
        elif kind == TEXT_LINE:
            return at
        else:
            refusal = errors.INVALID_MAGIC if kind == RESPONSE_MAGIC else errors.INVALID_COMMAND
        if refusal is not None:
            peer.post(PacketType.ERROR, b"\0".join(refusal))
    return end


def _too_few(kind: int, got: int) -> Refusal:
    text = "%s: expected %d arguments, got %d" % (PacketType(kind).name, len(ARGUMENTS[kind]), got)
    return invalid_argument(text.encode())


def _integer(raw: Body) -> int:
    """The number that `raw` begins with, as C's strtoll reads it; 0 where it begins with none."""
    found = re.match(rb"\s*([+-]?[0-9]{1,40})", raw[:_NUMBER_BYTES])
    return int(found.group(1)) if found else 0


# -- clients -------------------------------------------------------------------


Parsed = Union[Submission, Refusal]


def submissions(events: Sequence[Event], start: int, epoch_s: float) -> Tuple[Dict[int, Submission], int]:
    """The background jobs that the next `serve` of these events submits, by their place in them, and its `most`.

    What is refused as it stands is not among them: `serve` says so. They are
    accepted before anything of that turn is done; so a unique does not go with
    the end of a job before it, which it would still join.
    """
    found: Dict[int, Submission] = {}
    has_end = False
    for at in range(start, min(len(events), start + PACKETS_A_COMMIT)):
        kind, body = events[at]
        if kind in BACKGROUND:
            arguments = split(body, len(ARGUMENTS[kind]))
            if len(arguments) == len(ARGUMENTS[kind]):
                parsed = BACKGROUND[kind](epoch_s, *arguments)
                if isinstance(parsed, Submission):
                    if has_end and parsed.unique:
                        return found, at - start
                    found[at] = parsed
        elif kind == TEXT_LINE:
            break
        elif kind in _ENDS:
            has_end = True
    return found, PACKETS_A_COMMIT


def not_allowed(registry: Registry, gate: Gate, wanted: Mapping[int, Submission]) -> Dict[int, Refusal]:
    """Why the peer may not submit some of these."""
    refusals = {at: gate.submit(registry.now, submission.function) for at, submission in wanted.items()}
    return {at: refusal for at, refusal in refusals.items() if refusal is not None}


def _submit_kept(registry: Registry, peer: Party, kept: Kept) -> Result:
    if not isinstance(kept, Row):
        return kept or errors.SHUTTING_DOWN
    handle = admit(registry, kept)
    if peer.gate is not None and (handle in registry.jobs or waits(registry, handle)):
        peer.gate.own(registry.load, handle)
    peer.post(JOB_CREATED, handle)
    return None


def _submit(priority: int) -> Callable[..., Result]:
    def submit(registry: Registry, peer: Party, body: Body, function: bytes, unique: bytes, workload: Body) -> Result:
        if len(unique) > UNIQUE_BYTES:
            return errors.UNIQUE_TOO_LARGE
        if len(function) > FUNCTION_BYTES:
            return errors.FUNCTION_TOO_LARGE
        if peer.gate is not None:
            return _submit_gated(registry, peer.gate, peer, peer, Submission(function, unique, workload, priority))
        return _created(peer, registry.submit(peer, function, unique, workload, priority))

    return submit


def _submit_gated(registry: Registry, gate: Gate, peer: Party, listener: Optional[Party], submission: Submission) -> Result:
    function, unique, workload, priority, due_s, reducer = submission
    refusal = gate.submit(registry.now, function)
    if refusal is not None:
        return refusal
    job = registry.submit(listener, function, unique, workload, priority, due_s, reducer)
    if isinstance(job, Job):
        gate.own(registry.load, job.handle)
    return _created(peer, job)


def _submit_plain(priority: int, kind: int) -> Callable[..., Result]:
    submit_any = _submit_background(kind)

    def submit(registry: Registry, peer: Party, body: Body, function: bytes, unique: bytes, workload: Body) -> Result:
        if unique or type(workload) is not bytes or len(function) > FUNCTION_BYTES:
            return submit_any(registry, peer, body, function, unique, workload)
        gate = peer.gate
        if gate is not None:
            refusal = gate.submit(registry.now, function)
            if refusal is not None:
                return refusal
        handle = registry.submit_plain(function, workload, priority)
        if type(handle) is not bytes:
            return handle
        if gate is not None:
            gate.own(registry.load, handle)
        peer.post(JOB_CREATED, handle)
        return None

    return submit


def _submit_background(kind: int) -> Callable[..., Result]:
    def submit(registry: Registry, peer: Party, body: Body, *arguments: Any) -> Result:
        parsed = BACKGROUND[kind](registry.epoch_s, *arguments)
        if isinstance(parsed, Refusal):
            return parsed
        if peer.gate is not None:
            return _submit_gated(registry, peer.gate, peer, None, parsed)
        function, unique, workload, priority, due_s, reducer = parsed
        return _created(peer, registry.submit(None, function, unique, workload, priority, due_s, reducer))

    return submit


def _created(peer: Party, job: Union[Job, Refusal]) -> Result:
    if isinstance(job, Refusal):
        return job
    peer.post(JOB_CREATED, job.handle)
    return None


def _background(priority: int) -> Callable[..., Parsed]:
    def parse(epoch_s: float, function: bytes, unique: bytes, workload: Body) -> Parsed:
        return checked(Submission(function, unique, workload, priority))

    return parse


def checked(submission: Submission) -> Parsed:
    """The same, or why it is refused as it stands."""
    if len(submission.unique) > UNIQUE_BYTES:
        return errors.UNIQUE_TOO_LARGE
    if len(submission.function) > FUNCTION_BYTES:
        return errors.FUNCTION_TOO_LARGE
    return submission


def _epoch(epoch_s: float, function: bytes, unique: bytes, epoch: bytes, workload: Body) -> Parsed:
    due_s = _integer(epoch)
    if abs(due_s) >= 2**63:
        return invalid_argument(b"epoch: expected seconds since 1970 below 2^63, got " + epoch[:64])
    return checked(Submission(function, unique, workload, NORMAL, due_s if due_s > epoch_s else None))


def _sched(epoch_s: float, function: bytes, unique: bytes, *rest: Any) -> Parsed:
    *fields, workload = rest
    try:
        due_s = schedule.next_time(schedule.parse(fields), epoch_s)
    except schedule.ScheduleError as error:
        return invalid_argument(str(error).encode())
    return checked(Submission(function, unique, workload, NORMAL, due_s))


def _reduce(epoch_s: float, function: bytes, unique: bytes, reducer: bytes, rest: Body) -> Parsed:
    if len(reducer) > UNIQUE_BYTES:
        return errors.UNIQUE_TOO_LARGE
    # The specification has the workload here, libgearman an aggregator and
    # then the workload.
    return checked(Submission(function, unique, split(rest, 2)[-1], NORMAL, reducer=reducer))


def _submit_reduce(registry: Registry, peer: Party, body: Body, *arguments: Any) -> Result:
    parsed = _reduce(registry.epoch_s, *arguments)
    if isinstance(parsed, Refusal):
        return parsed
    if peer.gate is not None:
        return _submit_gated(registry, peer.gate, peer, peer, parsed)
    job = registry.submit(peer, parsed.function, parsed.unique, parsed.workload, NORMAL, reducer=parsed.reducer)
    return _created(peer, job)


BACKGROUND: Dict[int, Callable[..., Parsed]] = {
    PacketType.SUBMIT_JOB_BG: _background(NORMAL),
    PacketType.SUBMIT_JOB_HIGH_BG: _background(HIGH),
    PacketType.SUBMIT_JOB_LOW_BG: _background(LOW),
    PacketType.SUBMIT_JOB_EPOCH: _epoch,
    PacketType.SUBMIT_JOB_SCHED: _sched,
    PacketType.SUBMIT_REDUCE_JOB_BACKGROUND: _reduce,
}
"""By packet type: what its arguments, after the time, ask for. These are the jobs that a store keeps."""


def _get_status(registry: Registry, peer: Party, body: Body, handle: bytes) -> Result:
    handle = handle.rstrip(b"\0")
    peer.post(PacketType.STATUS_RES, b"\0".join((handle, *status_of(registry, handle))))
    return None


def _get_status_unique(registry: Registry, peer: Party, body: Body, unique: bytes) -> Result:
    unique = unique.rstrip(b"\0")
    if len(unique) > UNIQUE_BYTES:
        return errors.UNIQUE_TOO_LARGE
    job = registry.uniques.newest(unique)
    listeners = sum(job.listeners.values()) if job is not None and job.listeners else 0
    peer.post(PacketType.STATUS_RES_UNIQUE, b"\0".join((unique, *status_of_job(job), b"%d" % listeners)))
    return None


def _option(registry: Registry, peer: Party, body: Body, option: bytes) -> Result:
    if option.startswith(TOKEN):
        return _present(peer, option[len(TOKEN) :].rstrip(b"\0"))
    name = option.rstrip(b"\0").lower()
    if name not in OPTIONS:
        return errors.UNKNOWN_OPTION
    setattr(peer, OPTIONS[name], True)
    peer.post(PacketType.OPTION_RES, body)
    return None


def _present(peer: Party, token: bytes) -> Result:
    if peer.gate is None or peer.gate.rights is None:
        return errors.UNKNOWN_OPTION  # There is no access list.
    refusal = peer.gate.present(token)
    if refusal is None:
        peer.post(PacketType.OPTION_RES, b"token")
    return refusal


# -- workers -------------------------------------------------------------------


def _can_do(registry: Registry, peer: Party, body: Body, function: bytes) -> Result:
    if len(function) > FUNCTION_BYTES:
        return errors.FUNCTION_TOO_LARGE
    refusal = _may_work(registry, peer, function)
    if refusal is None:
        registry.can_do(peer, function)
    return refusal


def _can_do_timeout(registry: Registry, peer: Party, body: Body, function: bytes, timeout: bytes) -> Result:
    if len(function) > FUNCTION_BYTES:
        return errors.FUNCTION_TOO_LARGE
    timeout_s = _integer(timeout) * registry.timeout_unit_s
    refusal = _may_work(registry, peer, function)
    if refusal is None:
        registry.can_do(peer, function, timeout_s if 0 < timeout_s < _AS_GOOD_AS_NONE_S else None)
    return refusal


def _may_work(registry: Registry, peer: Party, function: bytes) -> Result:
    """Why it may not: it is not allowed to, or there are too many abilities and this is a new one."""
    refusal = None if peer.gate is None else peer.gate.work(function)
    if refusal is None and not registry.load.takes_ability(len(peer.abilities)):
        is_new = registry.functions.get(function) not in peer.abilities
        return errors.TOO_MANY_ABILITIES if is_new else None
    return refusal


def _cant_do(registry: Registry, peer: Party, body: Body, function: bytes) -> Result:
    registry.cant_do(peer, function)
    return None


def _reset_abilities(registry: Registry, peer: Party, body: Body) -> Result:
    registry.reset_abilities(peer)
    return None


def _pre_sleep(registry: Registry, peer: Party, body: Body) -> Result:
    registry.sleep(peer)
    return None


def _ignore(registry: Registry, peer: Party, body: Body) -> Result:
    return None


def _grab_job(assign: Assign) -> Callable[..., Result]:
    def grab(registry: Registry, peer: Party, body: Body) -> Result:
        job = registry.grab(peer)
        if job is not None:
            assign(peer, job)
        elif not registry.linger(peer, assign):
            peer.post(NO_JOB, b"")
        return None

    return grab


def _assign(peer: Party, job: Job) -> None:
    peer.post(JOB_ASSIGN, b"%b\0%b\0" % (job.handle, job.function.name), job.workload)


def _assign_uniq(peer: Party, job: Job) -> None:
    head = b"%b\0%b\0%b\0" % (job.handle, job.function.name, job.unique)
    peer.post(JOB_ASSIGN_UNIQ, head, job.workload)


def _assign_all(peer: Party, job: Job) -> None:
    if job.reducer is None:
        _assign_uniq(peer, job)
        return
    head = b"%b\0%b\0%b\0%b\0" % (job.handle, job.function.name, job.unique, job.reducer)
    peer.post(PacketType.JOB_ASSIGN_ALL, head, job.workload)


ASSIGNS: Dict[PacketType, Assign] = {PacketType.GRAB_JOB: _assign, PacketType.GRAB_JOB_UNIQ: _assign_uniq, PacketType.GRAB_JOB_ALL: _assign_all}
"""By packet type: how the job is given that is asked for."""


def _relay(kind: int) -> Callable[..., Result]:
    kind = int(kind)

    def relay(registry: Registry, peer: Party, body: Body, handle: bytes, data: Body) -> Result:
        return None if registry.relay(peer, handle, kind, body) else errors.DATA_WITHOUT_JOB

    return relay


def _work_status(registry: Registry, peer: Party, body: Body, handle: bytes, numerator: bytes, denominator: bytes) -> Result:
    progress = (_integer(numerator) & 0xFFFFFFFF, _integer(denominator) & 0xFFFFFFFF)
    known = registry.progress(peer, handle, *progress, PacketType.WORK_STATUS, body)
    return None if known else errors.RESULT_WITHOUT_JOB


def _work_complete(registry: Registry, peer: Party, body: Body, handle: bytes, data: Body) -> Result:
    return None if registry.finish(peer, handle, WORK_COMPLETE, body) else errors.RESULT_WITHOUT_JOB


def _work_fail(registry: Registry, peer: Party, body: Body, handle: bytes) -> Result:
    handle = bytes(handle).rstrip(b"\0")
    if len(handle) > HANDLE_BYTES:
        return errors.HANDLE_TOO_LARGE
    return None if registry.finish(peer, handle, PacketType.WORK_FAIL, handle) else errors.RESULT_WITHOUT_JOB


def _work_exception(registry: Registry, peer: Party, body: Body, handle: bytes, data: Body) -> Result:
    return None if registry.finish_with_exception(peer, handle, body) else errors.EXCEPTION_WITHOUT_JOB


# -- both ----------------------------------------------------------------------


def _echo(registry: Registry, peer: Party, body: Body, data: Body) -> Result:
    peer.post(ECHO_RES, body)
    return None


def _set_client_id(registry: Registry, peer: Party, body: Body, client_id: Body) -> Result:
    peer.client_id = bytes(client_id[:CLIENT_ID_BYTES]).split(b"\0", 1)[0]
    return None


_ACTS: Dict[PacketType, Callable[..., Result]] = {
    PacketType.CAN_DO: _can_do,
    PacketType.CANT_DO: _cant_do,
    PacketType.RESET_ABILITIES: _reset_abilities,
    PacketType.PRE_SLEEP: _pre_sleep,
    PacketType.SUBMIT_JOB: _submit(NORMAL),
    PacketType.WORK_STATUS: _work_status,
    PacketType.WORK_COMPLETE: _work_complete,
    PacketType.WORK_FAIL: _work_fail,
    PacketType.GET_STATUS: _get_status,
    PacketType.ECHO_REQ: _echo,
    PacketType.SUBMIT_JOB_HIGH: _submit(HIGH),
    PacketType.SET_CLIENT_ID: _set_client_id,
    PacketType.CAN_DO_TIMEOUT: _can_do_timeout,
    # Accepted and without effect: client libraries that send it still wait for a NOOP.
    PacketType.ALL_YOURS: _ignore,
    PacketType.WORK_EXCEPTION: _work_exception,
    PacketType.OPTION_REQ: _option,
    PacketType.WORK_DATA: _relay(PacketType.WORK_DATA),
    PacketType.WORK_WARNING: _relay(PacketType.WORK_WARNING),
    PacketType.SUBMIT_JOB_LOW: _submit(LOW),
    PacketType.SUBMIT_REDUCE_JOB: _submit_reduce,
    PacketType.GET_STATUS_UNIQUE: _get_status_unique,
    **{kind: _grab_job(assign) for kind, assign in ASSIGNS.items()},
    **{PacketType(kind): _submit_background(kind) for kind in BACKGROUND},
    PacketType.SUBMIT_JOB_BG: _submit_plain(NORMAL, PacketType.SUBMIT_JOB_BG),
    PacketType.SUBMIT_JOB_HIGH_BG: _submit_plain(HIGH, PacketType.SUBMIT_JOB_HIGH_BG),
    PacketType.SUBMIT_JOB_LOW_BG: _submit_plain(LOW, PacketType.SUBMIT_JOB_LOW_BG),
}

COMMANDS: Dict[int, Command] = {
    int(kind): (len(ARGUMENTS[kind]), ARGUMENTS[kind][-1:] in (("workload",), ("data",)), act)
    for kind, act in _ACTS.items()
}
"""By packet type. A type that is not here is one that only a server sends, or none at all."""
