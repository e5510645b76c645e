"""What the server is doing at this moment, as text for a person: its state, and where every thread stands."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Dict, Iterator, List

from gearmand.config import Config
from gearmand.functions import Function
from gearmand.registry import Registry
from gearmand.server import Server

_LOCK_S = 2.0
_FUNCTIONS = 50
_NAMES = 5


def dump(server: Server, config: Config) -> str:
    """Takes the broker's lock for a moment; where it is not to be had, says so and goes on."""
    return "\n".join(["what this server does now:", *_state(server, config), "", *_stacks()])


def _state(server: Server, config: Config) -> Iterator[str]:
    broker = server.broker
    yield repr(config)
    yield "%d descriptors, %d threads, %d connections" % (
        len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        threading.active_count(),
        server.connections,
    )
    if not broker.lock.acquire(timeout=_LOCK_S):
        yield "the registry's lock was not to be had within %g s" % _LOCK_S
        return
    try:
        unsent = sum(peer.waiting_bytes for peer in broker.peers)
        asleep = sum(peer.asleep for peer in broker.peers)
        registry, functions = broker.registry, list(broker.registry.functions.values())
        functions = sorted(functions, key=lambda function: -function.jobs)[:_FUNCTIONS]
        rows = [_row(registry, function) for function in functions]
        jobs = len(registry.jobs), len(registry.plain), registry.running
        stored = registry.dormant.bytes if registry.stored else None
        count, draining = len(registry.functions), registry.draining
    finally:
        broker.lock.release()
    yield "%d peers, %d of them asleep, %d bytes wait to be sent" % (len(broker.peers), asleep, unsent)
    yield "%d jobs, and %d plain ones; %d run%s" % (*jobs, "; draining" if draining else "")
    if stored is not None:
        yield "the jobs of the store take %d bytes of memory" % stored
    yield "%d functions; queued, scheduled, running, workers, sleepers, woken:" % count
    yield from rows
    if count > len(rows):
        yield "    ..."


def _row(registry: Registry, function: Function) -> str:
    name = function.name.decode("utf-8", "backslashreplace")
    dormant = sum(registry.dormant.count(function, priority) for priority in range(len(function.queues)))
    numbers = (function.queued + dormant, function.scheduled, function.running, len(function.workers), len(function.sleepers), function.claims)
    return "    %r: %d %d %d %d %d %d" % (name, *numbers)


def _stacks() -> Iterator[str]:
    """Of every thread; those that stand at the same place together."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    at: Dict[str, List[str]] = {}
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame)).rstrip()
        at.setdefault(stack, []).append(names.get(ident, "a thread"))
    for stack, who in sorted(at.items(), key=lambda found: -len(found[1])):
        more = ", ..." if len(who) > _NAMES else ""
        yield "%d thread%s: %s%s" % (len(who), "s" * (len(who) > 1), ", ".join(sorted(who)[:_NAMES]), more)
        yield stack
        yield ""
