"""What each command of gearadmin asks a server, prints, and gives as an object: the table of them.

The row of a command is made by one of the short functions before it: of a
table, a value, a change. What is on the command line is checked before anything
is sent.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from gearmand.admin import Admin
from gearmand.errors import AdminRefused, GearmandError


class NotIdle(GearmandError):
    """The server, or the function, still has jobs when the time is over."""


_Act = Callable[[Admin, Any], Any]


class Command(NamedTuple):
    """One option that asks the server something.

    `text` takes the Admin and the option's value, and returns what is printed.
    `data` returns the same as an object, for --json: True where there is
    nothing to read. `check` makes the value from what was given, or raises
    ValueError. `refusal_status`: the exit status when the server refuses it.
    """

    name: str
    value: str
    help: str
    text: Callable[[Admin, Any], str]
    data: _Act
    nargs: Any = None
    check: Optional[Callable[[Any], Any]] = None
    # The C tool says that the server refused on standard error alone, and its
    # users' scripts may count on that.
    refusal_status: int = 0


def _table(command: str, read: Callable[[Admin], Any]) -> Tuple[_Act, _Act]:
    return lambda admin, _: admin.table(command).decode("utf-8", "surrogateescape") + ".\n", lambda admin, _: read(admin)


def _value(command: str, read: Callable[[Admin], Any]) -> Tuple[_Act, _Act]:
    return lambda admin, _: admin.value(command) + "\n", lambda admin, _: read(admin)


def _done(act: Callable[[Admin, Any], None], text: str = "OK\n") -> Tuple[_Act, _Act]:
    return lambda admin, value: act(admin, value) or text, lambda admin, value: act(admin, value) or True


def _rows_of(command: str, read: _Act) -> Tuple[_Act, _Act]:
    """Of a table that is asked for with words."""

    def text(admin: Admin, words: List[Any]) -> str:
        return admin.table(" ".join([command, *map(str, words)])).decode("utf-8", "surrogateescape") + ".\n"

    return text, read


def _number_of(act: _Act) -> Tuple[_Act, _Act]:
    return lambda admin, words: "%d\n" % act(admin, words), act


def _result(admin: Admin, words: List[str]) -> Any:
    found = admin.result(*words) if len(words) == 1 else admin.result_of_unique(*words)
    if found is None:
        text = "it has not ended, or its result is not kept"
        raise AdminRefused("%s: result %s: %s" % (admin.address, " ".join(words), text), "NO_RESULT", text)
    return found._replace(data=found.data.decode("utf-8", "surrogateescape"))


def _wait(admin: Admin, wait: Tuple[Optional[str], Optional[float]]) -> None:
    if not admin.wait_until_idle(*wait):
        raise NotIdle("%s: %s still has jobs after %g s" % (admin.address, wait[0] or "the server", wait[1] or 0))


def _queue_limits(words: List[str]) -> List[Any]:
    if len(words) not in (1, 2, 4):
        raise ValueError("a function, and one limit, three of them or none")
    return [words[0], *[number(word, int) for word in words[1:]]]


def _policy(words: List[str]) -> List[Any]:
    try:
        pairs = [word.split("=") for word in words[1:]]
        return [words[0], {name.replace("-", "_"): None if value == "none" else json.loads(value) for name, value in pairs}]
    except ValueError:
        raise ValueError("a function, and NAME=VALUE, the value a number, true, false or none") from None


def _with_priority(words: List[str]) -> List[str]:
    if len(words) > 2 or len(words) == 2 and words[1] not in ("high", "normal", "low"):
        raise ValueError("what it is about, and high, normal or low")
    return words


def _with_count(words: List[str]) -> List[Any]:
    if len(words) > 2:
        raise ValueError("a function, and how many")
    return [words[0], *[number(word, int) for word in words[1:]]]


def _with_unique(words: List[str]) -> List[str]:
    if len(words) > 2:
        raise ValueError("a handle, or a function and a unique")
    return words


def _recur(words: List[str]) -> Dict[str, Any]:
    values: Dict[str, Any] = dict(zip(("name", "function"), words), cron=" ".join(words[_CRON]))
    for word in words[_CRON.stop :]:
        name, equals, value = word.partition("=")
        if not equals or name not in ("workload", "unique", "priority") or name in values:
            raise ValueError(_RECUR)
        values[name] = value
    if len(words) < _CRON.stop or values.get("priority", "normal") not in ("high", "normal", "low"):
        raise ValueError(_RECUR)
    return values


_CRON = slice(2, 7)
_RECUR = "a name, a function, five fields as in a crontab, and perhaps workload=, unique= and priority=high, normal or low, each once"


def _grant(words: List[str]) -> List[str]:
    if len(words) not in (2, 3) or (len(words) == 2) != (words[0] == "grant"):
        raise ValueError("submit, work or admin, a subject and patterns; or grant and a subject")
    return words


def _way_to_stop(word: str) -> bool:
    if word not in ("", "graceful"):
        raise ValueError("graceful, or nothing")
    return bool(word)


def number(word: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(word)
    except ValueError:
        raise ValueError("a number") from None


COMMANDS = [
    Command(
        "wait-until-idle", "[FUNCTION]", "Wait until the function, or every one, has no jobs, queued or running. --timeout bounds it.",
        *_done(_wait, ""), nargs="?", refusal_status=1,
    ),
    Command("getpid", "", "The server's process id.", *_value("getpid", Admin.getpid)),
    Command("create-function", "FUNCTION", "List a function before it is used.", *_done(Admin.create_function)),
    Command("drop-function", "FUNCTION", "Forget a function without workers and jobs.", *_done(Admin.drop_function)),
    Command(
        "maxqueue", "FUNCTION [LIMIT | HIGH NORMAL LOW]",
        "Have new jobs of the function refused while it has that many; no limit or 0: all are taken.",
        *_done(lambda admin, value: admin.max_queue(*value)), nargs="+", check=_queue_limits, refusal_status=1,
    ),
    Command("show-jobs", "", "Every job: handle, retries, whether nobody wants it, whether it is stored.", *_table("show jobs", Admin.show_jobs)),
    Command("show-unique-jobs", "", "The unique of every job.", *_table("show unique jobs", Admin.show_unique_jobs)),
    Command("cancel-job", "HANDLE", "End a job; whoever waits for it is told that it failed.", *_done(Admin.cancel_job)),
    Command("server-verbose", "", "How much the server logs.", *_value("verbose", Admin.verbose)),
    Command("server-version", "", "The server's version.", *_value("version", Admin.version)),
    Command("workers", "", "Every connection: descriptor, address, client id, functions that it can do.", *_table("workers", Admin.workers)),
    Command(
        "priority-status", "", "Every function: queued jobs of high, normal and low priority, workers.",
        *_table("prioritystatus", Admin.priority_status),
    ),
    Command("status", "", "Every function: its jobs, how many of them run, its workers.", *_table("status", Admin.status)),
    Command(
        "jobs", "", "Every job: function, unique, its worker, how many wait for it. The C server does not know this.",
        *_table("jobs", Admin.jobs), refusal_status=1,
    ),
    Command(
        "clients", "", "Every connection, with the jobs that it waits for. The C server does not know this.",
        *_table("clients", Admin.clients), refusal_status=1,
    ),
    Command(
        "acl-list", "", "Every subject of the access list, and what it may. The C server has no such list.",
        *_table("acl list", Admin.acl_list), refusal_status=1,
    ),
    Command(
        "acl-grant", "WHAT SUBJECT [PATTERNS]",
        "Let a subject submit, work or admin what the patterns say, or change the list (grant), instead of what it might before.",
        *_done(lambda admin, words: admin.acl_grant(*words)), nargs="+", check=_grant, refusal_status=1,
    ),
    Command(
        "acl-revoke", "WHAT SUBJECT", "Take submit, work, admin, grant or all of it from a subject.",
        *_done(lambda admin, words: admin.acl_revoke(*words)), nargs=2, refusal_status=1,
    ),
    Command(
        "acl-self-revoke", "WHAT", "Do without it from now on, by the token of this command.",
        *_done(Admin.acl_self_revoke), refusal_status=1,
    ),
    Command("pause", "FUNCTION", "Give out no jobs of the function; they are accepted, and wait. The C server knows neither this nor the next ones, up to --drain.", *_done(Admin.pause), refusal_status=1),
    Command("resume", "FUNCTION", "Give them out again.", *_done(Admin.resume), refusal_status=1),
    Command(
        "policy", "FUNCTION [NAME=VALUE...]", "Show, or change, how the function's jobs are given out and tried again.",
        lambda admin, value: "".join("%s\t%s\n" % (name, json.dumps(each)) for name, each in admin.policy(value[0], **value[1]).items()),
        lambda admin, value: admin.policy(value[0], **value[1]), nargs="+", check=_policy, refusal_status=1,
    ),
    Command(
        "purge", "FUNCTION [PRIORITY]", "Cancel the function's jobs that wait; prints how many.",
        *_number_of(lambda admin, words: admin.purge(*words)), nargs="+", check=_with_priority, refusal_status=1,
    ),
    Command(
        "peek", "FUNCTION [COUNT]", "The first jobs that wait: handle, unique, priority, retries, seconds, bytes, the beginning of the workload.",
        *_rows_of("peek", lambda admin, words: admin.peek(*words)), nargs="+", check=_with_count, refusal_status=1,
    ),
    Command(
        "reprioritise", "HANDLE PRIORITY", "Move a job that waits to another priority: high, normal or low.",
        *_done(lambda admin, words: admin.reprioritise(*words)), nargs=2, check=_with_priority, refusal_status=1,
    ),
    Command(
        "buried", "FUNCTION [COUNT]", "The jobs that have used their attempts up: handle, unique, since when, bytes, the last exception.",
        *_rows_of("buried", lambda admin, words: admin.buried(*words)), nargs="+", check=_with_count, refusal_status=1,
    ),
    Command(
        "kick", "FUNCTION [COUNT]", "Have buried jobs wait again, with all their attempts; prints how many.",
        *_number_of(lambda admin, words: admin.kick(*words)), nargs="+", check=_with_count, refusal_status=1,
    ),
    Command(
        "discard", "FUNCTION [COUNT]", "End buried jobs; prints how many.",
        *_number_of(lambda admin, words: admin.discard(*words)), nargs="+", check=_with_count, refusal_status=1,
    ),
    Command(
        "result", "HANDLE | FUNCTION UNIQUE", "The result of a background job, where it is kept.",
        lambda admin, words: _result(admin, words).data + "\n", _result, nargs="+", check=_with_unique, refusal_status=1,
    ),
    Command(
        "recurring", "", "Every recurring job: name, function, times, priority, unique, when it is due, when it last was, the handle that it got then, why it was refused, bytes, the beginning of the workload.",
        *_table("recurring", Admin.recurring), refusal_status=1,
    ),
    Command(
        "recur", "NAME FUNCTION MINUTE HOUR DAY MONTH WEEKDAY [NAME=VALUE...]",
        "Have the server submit a background job of the function at these times, in the place of the recurring job of that name. Further words are workload=TEXT, unique=TEXT and priority=high, normal or low.",
        *_done(lambda admin, values: admin.recur(**values)), nargs="+", check=_recur, refusal_status=1,
    ),
    Command("unrecur", "NAME", "Have it submitted no more; what was submitted stays.", *_done(Admin.unrecur), refusal_status=1),
    Command("drain", "", "Take no new jobs, finish those that there are, and stop.", *_done(lambda admin, _: admin.drain()), refusal_status=1),
    Command(
        "shutdown-graceful", "", "The same as --shutdown graceful.",
        *_done(lambda admin, _: admin.shutdown(graceful=True)), refusal_status=1,
    ),
    Command(
        "shutdown", "[graceful]", "Stop the server, at once or when its work is done. The C server does not know this.",
        *_done(Admin.shutdown), nargs="?", check=_way_to_stop, refusal_status=1,
    ),
]  # fmt: skip
"""In the order in which they are carried out, whatever their order on the command line: that of the C tool."""
