"""Recurring jobs through the JSON API: rows of the table in `api`."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List

from gearmand import operations
from gearmand.answers import Answer, Asker, json_answer
from gearmand.api_fields import invalid
from gearmand.errors import Refusal
from gearmand.http_request import Refused
from gearmand.recurring import Entry

Values = Dict[str, Any]


def rows(scene: Any, workloads: bool) -> Iterable[List[Any]]:
    """All of them, in pieces; with their workloads, or without."""
    found: Iterable[List[Any]] = scene.control.broker.rows(
        lambda registry: registry.recurring.entries.values(), _shown if workloads else _shown_shortly
    )
    return found


def _shown_shortly(entry: Entry) -> Dict[str, Any]:
    found = _shown(entry)
    del found["workload"]
    return found


def _shown(entry: Entry) -> Dict[str, Any]:
    outcome = entry.outcome
    return {
        **entry.job._asdict(),
        "workload_bytes": len(entry.job.workload),
        "priority": operations.PRIORITIES[entry.job.priority],
        "next_s": entry.next_s,
        "last_s": entry.last_s,
        "handle": outcome if isinstance(outcome, bytes) else None,
        "refused": outcome._asdict() if isinstance(outcome, Refusal) else None,
    }


def put(scene: Any, asker: Asker, values: Values) -> Answer:
    broker, name = scene.control.broker, values["name"]
    priority = operations.PRIORITIES.index(values["priority"])
    cron = values["cron"].decode("utf-8", "backslashreplace")
    try:
        done = operations.put_recurring(broker, name, values["function"], cron, values["workload"], values["unique"], priority)
    except ValueError as error:
        raise invalid(str(error)) from None
    if not done:
        raise Refused(409, "LIMIT_REACHED", operations.NO_MORE_RECURRING)
    return _one(scene, name)


def show(scene: Any, asker: Asker, values: Values) -> Answer:
    return _one(scene, values["name"])


def _one(scene: Any, name: bytes) -> Answer:
    def look(registry: Any) -> Any:
        entry = registry.recurring.entries.get(name)
        return None if entry is None else _shown(entry)

    found = scene.control.broker.turn(look)
    if found is None:
        raise _none()
    return json_answer(found)


def remove(scene: Any, asker: Asker, values: Values) -> Answer:
    if not operations.remove_recurring(scene.control.broker, values["name"]):
        raise _none()
    return json_answer({"removed": values["name"]})


def _none() -> Refused:
    return Refused(404, "UNKNOWN_RECURRING", "there is no recurring job of that name")
