"""The JSON API: one table of operations, and a short function for each row.

A function takes the scene, the asker and the values of the operation's fields,
and returns an Answer. No lock is
held; what needs the registry takes a turn. What changes something is in
`operations`, so that the administrative protocol reaches the same functions.

A new operation: a function there, a row here, and its line in docs/http.md.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gearmand import api_recurring, figures, operations, text_commands
from gearmand.api_fields import Field, invalid
from gearmand.answers import Answer, Asker, json_answer
from gearmand.api_jobs import kept_result, result_of, submit
from gearmand.functions import Function
from gearmand.history import STEP_S, History
from gearmand.http_request import Refused
from gearmand.jobs import ENDED, Job
from gearmand.json_bodies import to_json
from gearmand.registry import Registry
from gearmand.results import Result
from gearmand.tally import BOUNDS_S
from gearmand.text_commands import Control

VERSION = "/api/v1"
_SERIES_A_TURN = 50
_MOST_ROWS = 1_000_000
_MOST_WAIT_S = 3600.0


class Scene(NamedTuple):
    """What the operations may use of the server."""

    control: Control
    history: History
    facts: Callable[[], Dict[str, Any]]
    """The server's own figures."""


Values = Dict[str, Any]


class Operation(NamedTuple):
    method: str
    path: str
    """Below VERSION; a part in braces is a field."""
    command: str
    """The administrative command that the asker must be allowed; empty: it finds out by itself."""
    help: str
    act: Callable[[Scene, Asker, Values], Answer]
    fields: Tuple[Field, ...] = ()


# -- functions -------------------------------------------------------------------


def _shown(function: Dict[str, Any], histograms: bool) -> Dict[str, Any]:
    for name in ("waits", "runs"):
        buckets, sum_s = function[name]
        function[name] = {"count": sum(buckets), "sum_s": round(sum_s, 6)}
        if histograms:
            function[name]["buckets"] = buckets
    return function


def _functions(scene: Scene, asker: Asker, values: Values) -> Answer:
    registry = scene.control.broker.registry

    def row(function: Function) -> Any:
        return _shown(figures.of_function(registry, function), values["histograms"])

    head = {"bounds_s": BOUNDS_S} if values["histograms"] else {}
    return _table("functions", scene.control.broker.rows(lambda registry: registry.functions.values(), row), values, head)


def _function(scene: Scene, asker: Asker, values: Values) -> Answer:
    def look(registry: Registry) -> Optional[Dict[str, Any]]:
        function = registry.functions.get(values["function"])
        return None if function is None else figures.of_function(registry, function)

    found = scene.control.broker.turn(look)
    if found is None:
        raise _no_function()
    return json_answer({**_shown(found, True), "bounds_s": BOUNDS_S})


def _create(scene: Scene, asker: Asker, values: Values) -> Answer:
    operations.create_function(scene.control.broker, values["function"])
    return _function(scene, asker, values)


def _drop(scene: Scene, asker: Asker, values: Values) -> Answer:
    dropped = operations.drop_function(scene.control.broker, values["function"])
    if dropped is None:
        raise _no_function()
    if not dropped:
        raise Refused(409, "FUNCTION_IN_USE", "the function has workers or unfinished jobs")
    return json_answer({"dropped": values["function"]})


def _limit(scene: Scene, asker: Asker, values: Values) -> Answer:
    limits = [values[name] for name in figures.PRIORITIES]
    if any(limit is not None and limit < 1 for limit in limits):
        raise invalid("a limit is a whole number from 1, or null for none")
    if not operations.limit_function(scene.control.broker, values["function"], limits):
        raise Refused(409, "LIMIT_REACHED", "something is set for as many functions as may be")
    return _function(scene, asker, values)


def _policy(scene: Scene, asker: Asker, values: Values) -> Answer:
    return _changed(scene, asker, values, {name: values[name] for name in _SETTINGS})


def _pause(scene: Scene, asker: Asker, values: Values) -> Answer:
    return _changed(scene, asker, values, {"paused": True})


def _resume(scene: Scene, asker: Asker, values: Values) -> Answer:
    return _changed(scene, asker, values, {"paused": False})


def _changed(scene: Scene, asker: Asker, values: Values, changed: Dict[str, Any]) -> Answer:
    try:
        operations.change_policy(scene.control.broker, values["function"], changed)
    except ValueError as error:
        raise invalid(str(error)) from None
    return _function(scene, asker, values)


def _purge(scene: Scene, asker: Asker, values: Values) -> Answer:
    priority = None if values["priority"] is None else operations.PRIORITIES.index(values["priority"])
    return json_answer({"purged": operations.purge(scene.control.broker, values["function"], priority)})


def _peek(scene: Scene, asker: Asker, values: Values) -> Answer:
    asker.need_to_see(values["function"])
    found = operations.peek(scene.control.broker, values["function"], _some(values))
    rows = [
        {**job._asdict(), "priority": operations.PRIORITIES[job.priority], "workload": bytes(job.workload[:_SHOWN_BYTES]), "workload_bytes": len(job.workload)}
        for job in found
    ]
    return json_answer({"jobs": rows}, as_base64=values["base64"])


def _buried(scene: Scene, asker: Asker, values: Values) -> Answer:
    asker.need_to_see(values["function"])
    found = operations.buried(scene.control.broker, values["function"], _some(values))
    rows = [{**job._asdict(), "workload": bytes(job.workload[:_SHOWN_BYTES]), "workload_bytes": len(job.workload)} for job in found]
    return json_answer({"jobs": rows}, as_base64=values["base64"])


def _kick(scene: Scene, asker: Asker, values: Values) -> Answer:
    return json_answer({"kicked": operations.kick(scene.control.broker, values["function"], values["count"])})


def _discard(scene: Scene, asker: Asker, values: Values) -> Answer:
    return json_answer({"discarded": operations.discard(scene.control.broker, values["function"], values["count"])})


def _some(values: Values) -> int:
    if not 1 <= values["count"] <= _MOST_SHOWN:
        raise invalid("count: expected a whole number from 1 to %d" % _MOST_SHOWN)
    count: int = values["count"]
    return count


_SETTINGS = ("most_running", "rate", "attempts", "backoff_s", "expiry_s", "keep_s")
_SHOWN_BYTES = 4096
_MOST_SHOWN = 1000
_EVERY = 10**9


def _no_function() -> Refused:
    return Refused(404, "UNKNOWN_FUNCTION", "there is no function of that name")


# -- history ---------------------------------------------------------------------


def _history(scene: Scene, asker: Asker, values: Values) -> Answer:
    since_s = values["since"]

    def look(registry: Registry) -> Dict[str, Any]:
        history = scene.history
        return {"step_s": STEP_S, "times": history.times(since_s), **history.columns(values["function"], since_s)}

    return json_answer(scene.control.broker.turn(look))


def _histories(scene: Scene, asker: Asker, values: Values) -> Answer:
    history, turn = scene.history, scene.control.broker.turn
    since_s = values["since"]

    def pieces() -> Iterator[List[Any]]:
        names = turn(lambda registry: history.names)
        for at in range(0, len(names), _SERIES_A_TURN):
            some = names[at : at + _SERIES_A_TURN]
            yield turn(lambda registry: [{"function": name, **history.columns(name, since_s)} for name in some])

    head = turn(lambda registry: {"step_s": STEP_S, "times": history.times(since_s)})
    return _table("functions", pieces(), values, head)


def _failures(scene: Scene, asker: Asker, values: Values) -> Answer:
    wanted = values["function"]

    def look(registry: Registry) -> List[Any]:
        return [each._asdict() for each in reversed(registry.failures) if wanted in (None, each.function)]

    return json_answer({"failures": scene.control.broker.turn(look)})


# -- jobs ------------------------------------------------------------------------


def _jobs(scene: Scene, asker: Asker, values: Values) -> Answer:
    broker = scene.control.broker
    registry = broker.registry
    function, state = values["function"], values["state"]

    def row(job: Job) -> Any:
        if job.state is ENDED or function not in (None, job.function.name):
            return None
        found = figures.of_job(registry, job)
        return found if state in (None, found["state"]) else None

    def pieces() -> Iterator[List[Any]]:
        yield from broker.rows(lambda registry: registry.jobs.values(), row)
        for rows in broker.rows_of_plain(row):
            yield [each for each in rows if each is not None]

    return _table("jobs", pieces(), values, {})


def _job(scene: Scene, asker: Asker, values: Values) -> Answer:
    found = scene.control.broker.turn(figures.of_handle, values["handle"])
    return _shown_job(asker, found, "handle")


def _unique(scene: Scene, asker: Asker, values: Values) -> Answer:
    def look(registry: Registry) -> Optional[Dict[str, Any]]:
        job = registry.uniques.newest(values["unique"])
        return None if job is None else figures.of_job(registry, job)

    found = scene.control.broker.turn(look)
    return _shown_job(asker, found, "unique")


def _result(scene: Scene, asker: Asker, values: Values) -> Answer:
    handle, look = values["handle"], scene.control.broker.turn
    job = look(figures.of_handle, handle)
    kept = operations.result(scene.control.broker, handle) if job is not None and job["state"] == "buried" else None
    if job is None or kept is not None:
        return _kept(asker, kept or operations.result(scene.control.broker, handle), values)
    asker.need_to_see(job["function"])
    found = result_of(asker, handle, min(values["wait_s"], _MOST_WAIT_S), values["base64"])
    return json_answer(look(figures.of_handle, handle) or job, 202) if found is None else found


def _unique_result(scene: Scene, asker: Asker, values: Values) -> Answer:
    return _kept(asker, operations.result_of_unique(scene.control.broker, values["function"], values["unique"]), values)


def _kept(asker: Asker, result: Optional[Result], values: Values) -> Answer:
    if result is None:
        raise _no_job("handle")
    asker.need_to_see(result.function)
    return kept_result(result, values["base64"])


def _cancel(scene: Scene, asker: Asker, values: Values) -> Answer:
    if not operations.cancel_job(scene.control.broker, values["handle"]):
        raise _no_job("handle")
    return json_answer({"cancelled": values["handle"]})


def _reprioritise(scene: Scene, asker: Asker, values: Values) -> Answer:
    moved = operations.reprioritise(scene.control.broker, values["handle"], operations.PRIORITIES.index(values["priority"]))
    if moved is None:
        raise _no_job("handle")
    if not moved:
        raise Refused(409, "JOB_NOT_WAITING", "the job runs, or lies in the store alone")
    return json_answer({"handle": values["handle"], "priority": values["priority"]})


def _shown_job(asker: Asker, found: Optional[Dict[str, Any]], what: str) -> Answer:
    if found is None:
        raise _no_job(what)
    asker.need_to_see(found["function"])
    return json_answer(found)


def _no_job(what: str) -> Refused:
    return Refused(404, "UNKNOWN_JOB", "there is no unfinished job of that %s: it has ended, or never was" % what)


def _recurring(scene: Scene, asker: Asker, values: Values) -> Answer:
    return _table("recurring", api_recurring.rows(scene, values["workloads"]), values, {})


# -- the server ------------------------------------------------------------------


def _workers(scene: Scene, asker: Asker, values: Values) -> Answer:
    registry = scene.control.broker.registry

    def row(peer: Any) -> Any:
        return figures.of_peer(registry, peer) if peer.by_index or peer.running else None

    return _table("workers", scene.control.broker.rows(lambda registry: scene.control.broker.peers, row), values, {})


def _clients(scene: Scene, asker: Asker, values: Values) -> Answer:
    broker = scene.control.broker

    def row(party: Any) -> Any:
        return figures.of_peer(broker.registry, party) if party.listening or not party.by_index else None

    return _table("clients", broker.rows(lambda registry: [*broker.peers, *broker.callers], row), values, {})


def _server(scene: Scene, asker: Asker, values: Values) -> Answer:
    control = scene.control
    return json_answer({"version": control.version, "pid": os.getpid(), "verbose": control.level_name, **scene.facts()})


def _operations(scene: Scene, asker: Asker, values: Values) -> Answer:
    rows = [
        {
            "method": each.method,
            "path": VERSION + each.path,
            "command": each.command,
            "help": each.help,
            "refused": asker.why_not(each.command, each.method != "GET") if each.command else None,
            "fields": [field._asdict() for field in each.fields],
        }
        for each in OPERATIONS
    ]
    return json_answer({"operations": rows})


def _shutdown(scene: Scene, asker: Asker, values: Values) -> Answer:
    graceful = values["graceful"]
    return json_answer({"stopping": "gracefully" if graceful else "at once"}, 202, then=lambda: scene.control.shut_down(graceful))


def _drain(scene: Scene, asker: Asker, values: Values) -> Answer:
    return _shutdown(scene, asker, {"graceful": True})


def _command(scene: Scene, asker: Asker, values: Values) -> Answer:
    line = values["line"]
    if len(line) > _LINE_BYTES or b"\n" in line:
        raise invalid("line: expected one line of at most %d bytes" % _LINE_BYTES)
    reply = text_commands.reply_to(scene.control, line, asker.gate)
    if isinstance(reply, text_commands.ThenAct):
        return Answer(200, _TEXT, reply.answer, reply.act)
    if not isinstance(reply, bytes):
        return Answer(200, _TEXT, text_commands.one_at_a_time(reply))
    if reply.startswith(b"ERR "):
        denied = reply.startswith(b"ERR PERMISSION_DENIED")
        text = reply[4:].decode("utf-8", "replace").strip().replace("+", " ")
        raise Refused(403 if denied else 400, "PERMISSION_DENIED" if denied else "COMMAND_FAILED", text)
    return Answer(200, _TEXT, reply)


_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_LINE_BYTES = 8192


# -- tables ----------------------------------------------------------------------


def _table(name: str, pieces: Iterable[Sequence[Any]], values: Values, head: Dict[str, Any]) -> Answer:
    """An object with a list of many rows, written as they come."""
    most = values["limit"]
    if not 1 <= most <= _MOST_ROWS:
        raise invalid("limit: expected a whole number from 1 to %d" % _MOST_ROWS)

    def lines() -> Iterator[bytes]:
        start = to_json(head)[:-1]
        yield start + (b", " if head else b"") + to_json(name) + b": ["
        count = 0
        more = False
        for rows in pieces:
            more = count + len(rows) > most
            written = [to_json(row) for row in rows[: most - count]]
            if written:
                yield (b",\n" if count else b"\n") + b",\n".join(written)
            count += len(written)
            if more:
                break
        yield b'\n], "truncated": %s}\n' % to_json(more)

    return Answer(200, {"Content-Type": "application/json"}, text_commands.one_at_a_time(lines()))


# -- the table -------------------------------------------------------------------

_FUNCTION = Field("function", "name", "The function.", True)
_HANDLE = Field("handle", "name", "The job's handle.", True)
_SINCE = Field("since", "seconds", "Only what is later than that, in seconds since 1970.", default=0.0)
_LIMIT = Field("limit", "number", "How many rows at most; truncated says whether there are more.", default=1000)
_BASE64 = Field("base64", "flag", "Write all bytes of the answer as base64.", default=False)
_COUNT = Field("count", "number", "How many at most.", default=10)
_MANY = Field("count", "number", "How many at most; default: all.", default=_EVERY)
_NAME = Field("name", "name", "The recurring job.", True)
_OF = Field("function", "name", "Of this function alone.")

OPERATIONS: Tuple[Operation, ...] = (
    Operation("GET", "", "", "These operations; refused says why the asker may not do one.", _operations),
    Operation("GET", "/server", "version", "The server: version, process, connections, memory, store.", _server),
    Operation("GET", "/functions", "status", "Every function: its jobs by priority and state, its workers, its oldest job, what has become of its jobs.", _functions, (
        Field("histograms", "flag", "With how many jobs have waited and run how long.", default=False), _LIMIT)),
    Operation("GET", "/functions/{function}", "status", "One function, with histograms.", _function, (_FUNCTION,)),
    Operation("PUT", "/functions/{function}", "create", "List a function before it is used.", _create, (_FUNCTION,)),
    Operation("DELETE", "/functions/{function}", "drop", "Forget a function without workers and jobs.", _drop, (_FUNCTION,)),
    Operation("PUT", "/functions/{function}/limits", "maxqueue", "Refuse new jobs while the function has that many.", _limit, (
        _FUNCTION,
        Field("high", "number", "The limit of jobs of high priority; null: none."),
        Field("normal", "number", "That of normal priority."),
        Field("low", "number", "That of low priority."))),
    Operation("PUT", "/functions/{function}/policy", "policy", "Set how the function's jobs are given out and tried again; what is left out is not set any more.", _policy, (
        _FUNCTION,
        Field("most_running", "number", "How many of its jobs may run at once; null: any number."),
        Field("rate", "amount", "How many of its jobs are given out a second; null: as many as are asked for."),
        Field("attempts", "number", "How often a job that fails, or whose worker is lost, is given out; then it is buried, if it is a background job. Null: --job-retries holds, and a failure is the end."),
        Field("backoff_s", "seconds", "How long it waits before the second attempt; twice as long before each further one, an hour at most. Null: not at all."),
        Field("expiry_s", "seconds", "How long a job may wait; then it fails. Null: for ever."),
        Field("keep_s", "seconds", "For how long the results of background jobs are kept. Null: not at all."))),
    Operation("POST", "/functions/{function}/pause", "pause", "Give out no jobs of the function; they are accepted, and wait.", _pause, (_FUNCTION,)),
    Operation("POST", "/functions/{function}/resume", "resume", "Give out the function's jobs again.", _resume, (_FUNCTION,)),
    Operation("POST", "/functions/{function}/purge", "purge", "Cancel the function's jobs that wait.", _purge, (
        _FUNCTION, Field("priority", "high|normal|low", "Those of this priority alone."))),
    Operation("GET", "/functions/{function}/peek", "peek", "The first jobs that wait, in the order of service, with the beginning of their workloads.", _peek, (
        _FUNCTION, _COUNT, _BASE64)),
    Operation("GET", "/functions/{function}/buried", "buried", "The jobs that have used their attempts up, oldest first, with the last exception.", _buried, (
        _FUNCTION, _COUNT, _BASE64)),
    Operation("POST", "/functions/{function}/kick", "kick", "Have buried jobs wait again, the oldest first.", _kick, (_FUNCTION, _MANY)),
    Operation("POST", "/functions/{function}/discard", "discard", "End buried jobs, the oldest first.", _discard, (_FUNCTION, _MANY)),
    Operation("GET", "/functions/{function}/history", "status", "The last hour of a function: depth, rate and latency.", _history, (_FUNCTION, _SINCE)),
    Operation("GET", "/history", "status", "The last hour of all functions together.", _history, (_OF, _SINCE)),
    Operation("GET", "/histories", "status", "The last hour of each function that was busy in it.", _histories, (_SINCE, _LIMIT)),
    Operation("GET", "/failures", "jobs", "The latest jobs that failed, with what their workers said; newest first.", _failures, (_OF,)),
    Operation("POST", "/jobs", "", "Submit a job, and wait for its result unless it is a background job.", submit, (
        _FUNCTION,
        Field("workload", "bytes", "The workload.", default=b""),
        Field("unique", "bytes", "By what jobs of one function coalesce.", default=b""),
        Field("priority", "high|normal|low", "The priority.", default="normal"),
        Field("background", "flag", "Answer as soon as the job is accepted.", default=False),
        Field("epoch", "number", "When it may run, in seconds since 1970; makes it a background job."),
        Field("delay_s", "seconds", "In how many seconds it may run; makes it a background job."),
        Field("reducer", "name", "The reducer of a reduce job."),
        Field("timeout_s", "seconds", "How long to wait for the result; the job is abandoned then. Default: as long as it takes."),
        Field("stream", "flag", "Answer with a line of JSON for each report of the worker, as it comes.", default=False),
        _BASE64)),
    Operation("GET", "/jobs", "jobs", "The unfinished jobs, but for stored ones that are not in memory.", _jobs, (
        _OF, Field("state", "scheduled|queued|running|buried", "Of this state alone."), _LIMIT)),
    Operation("GET", "/jobs/{handle}", "", "The status of an unfinished job.", _job, (_HANDLE,)),
    Operation("GET", "/jobs/{handle}/result", "", "Wait for the end of an unfinished job, or have the result of a background job that is kept. 202 with its status: it has not ended in time.", _result, (
        _HANDLE, Field("wait_s", "seconds", "How long to wait, an hour at most.", default=30.0), _BASE64)),
    Operation("GET", "/functions/{function}/results/{unique}", "", "What the latest background job of a unique has ended with, where that is kept.", _unique_result, (
        _FUNCTION, Field("unique", "name", "The unique.", True), _BASE64)),
    Operation("DELETE", "/jobs/{handle}", "cancel", "End a job; whoever waits for it gets WORK_FAIL.", _cancel, (_HANDLE,)),
    Operation("POST", "/jobs/{handle}/priority", "reprioritise", "Move a job that waits to another priority.", _reprioritise, (
        _HANDLE, Field("priority", "high|normal|low", "Which one.", True))),
    Operation("GET", "/uniques/{unique}", "", "The status of the unfinished job of a unique, whatever its function.", _unique, (
        Field("unique", "name", "The unique.", True),)),
    Operation("GET", "/recurring", "recurring", "The recurring jobs: when each is due, when it last was, and the handle that it got then or why it was refused.", _recurring, (
        Field("workloads", "flag", "With their workloads.", default=True), _LIMIT)),
    Operation("GET", "/recurring/{name}", "recurring", "One of them.", api_recurring.show, (_NAME,)),
    Operation("PUT", "/recurring/{name}", "recur", "Have a background job submitted again and again, instead of what was set under that name.", api_recurring.put, (
        _NAME,
        _FUNCTION,
        Field("cron", "name", "When: minute, hour, day of the month, month and day of the week, as in a crontab, in local time.", True),
        Field("workload", "bytes", "The workload.", default=b""),
        Field("unique", "bytes", "By what it coalesces with one that is unfinished; empty: it does not. Default: the name."),
        Field("priority", "high|normal|low", "The priority.", default="normal"))),
    Operation("DELETE", "/recurring/{name}", "unrecur", "Submit it no more.", api_recurring.remove, (_NAME,)),
    Operation("GET", "/workers", "workers", "The connections that can do functions, with the jobs that they run.", _workers, (_LIMIT,)),
    Operation("GET", "/clients", "clients", "The other connections, and all that wait for jobs.", _clients, (_LIMIT,)),
    Operation("POST", "/shutdown", "shutdown", "Stop the server.", _shutdown, (
        Field("graceful", "flag", "When its work is done, not at once.", default=False),)),
    Operation("POST", "/drain", "drain", "Take no new jobs, finish those that there are, and stop.", _drain),
    Operation("POST", "/command", "", "Any command of the administrative protocol, answered in plain text.", _command, (
        Field("line", "name", "The command as one line.", True),)),
)  # fmt: skip
