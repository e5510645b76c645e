"""Gearman in pure Python: a job server that replaces the C gearmand and can be embedded; client, worker and administration.

The rooms, in reading order. The job server:

    errors, version, config     what goes wrong, which version, every setting
    protocol, text              bytes to packets, and to lines
    schedule, cron              times of the calendar, and the fields that say which
    audit                       what becomes of jobs, in words
    access, limits              who may do what; what one address, and all, may take
    tally, policy               what is counted of one function, what was set for it
    jobs, functions, parties    one job, one function, one party
    deadlines, uniques          two indexes
    rows, rules, dormant        one stored job; the operator's choices; jobs that lie in the store alone
    store, sqlite_store         the contract of a store; the one in a file
    remote_store, postgres_store, mysql_store, redis_store    those in database servers
    c_queue, stores, keeper     what a C server has left; which store; the committing thread
    plain                       jobs of which nothing is asked while they wait
    wakeups                     who is awake for what
    recurring                   jobs that come again and again
    books                       the tables of all of them, and the moves of one job
    registry                    decides
    revival                     jobs that are no Job yet
    results                     results of background jobs, for a time
    steering                    what an operator does with functions and jobs
    handover                    what a server leaves to its successor
    gate                        what stands between one peer and what it asks for
    peer, flusher, courier      one connected peer; the sending of what its socket would not take, and of results by the dozen
    placement, yielding         on which processor the handlers run; and giving it up to others
    broker                      the one lock
    halves, gatekeeper          halves of packets; who comes in with which gate, the access list's file
    caller, recurrence          one in-process caller; the thread that submits recurring jobs
    operations                  what an administrator can change
    volleys                     packets of one kind that came at once
    rounds                      a worker's result and its next grab, which came together
    packet_commands             what each packet asks for
    text_commands, steering_commands, recurring_commands    what each line asks for
    complaints                  a log that cannot be flooded
    socket_file                 the file of a Unix-domain socket
    listener                    connections, each with a thread of its own

HTTP, which is loaded where it is asked for:

    http_request, http_connection    bytes to requests, and off a socket
    figures, history, metrics   what there is to see, now and of the last hour; for Prometheus
    waiter                      one client that waits for a job
    json_bodies                 JSON, a piece at a time
    api_fields, answers         values of requests; what they are answered with
    c_http, api_jobs, api_recurring, api    jobs as in C; the JSON API
    dashboard_page              the page at /, made of the files in dashboard/
    web, web_handler            what handlers share; one connection

The server, and the process:

    binding, loading            where it listens; what comes before it serves
    server                      the embeddable Server
    daemon, files, log, systemd the process: its user, its files, its log, its supervisor
    dump, takeover              what it does just now; how a later one takes over
    cli                         its command line

Both ends:

    channel, tls                TLS over a socket; which certificates it uses

The other ends, which know nothing of the server's rooms:

    addresses, encoders, tokens    where servers are; objects to workloads; what a server asks for
    connection                  one blocking connection
    submitted, link, later      a client's job, its connection to one server, its second tries
    kept, client, tasks         results that a server keeps; the client; tasks and task sets
    assigned                    a worker's job
    waker, station, shift, lane     a worker's threads, each with a connection to every server
    workforce, worker           its processes; the worker
    tables, admin_steering, admin    the administrative commands
    compat, compat_names, compat_client, compat_worker, compat_admin    the names of python-gearman
    screen, console             what the commands below write to a terminal
    top, gearadmin_commands, gearadmin    the command gearadmin, with what it shows again and again
    gearman, gearman_client, gearman_worker     the command of that name
"""

import importlib
from typing import TYPE_CHECKING, Any

from gearmand.version import VERSION

if TYPE_CHECKING:
    from gearmand.admin import Admin
    from gearmand.assigned import AssignedJob
    from gearmand.client import Client, HandleStatus
    from gearmand.config import Config
    from gearmand.errors import (
        AdminRefused,
        ConfigError,
        GearmandError,
        JobError,
        JobException,
        JobFailed,
        JobLost,
        JobRefused,
        JobTimeout,
        NoResult,
        ServerLost,
    )
    from gearmand.jobs import Priority
    from gearmand.server import Server
    from gearmand.submitted import SubmittedJob
    from gearmand.tasks import Task, TaskSet
    from gearmand.tls import Tls
    from gearmand.worker import Worker

__version__ = VERSION

_ROOMS = {
    "admin": "Admin",
    "assigned": "AssignedJob",
    "client": "Client HandleStatus",
    "config": "Config",
    "errors": "AdminRefused ConfigError GearmandError JobError JobException JobFailed JobLost JobRefused JobTimeout NoResult ServerLost",
    "jobs": "Priority",
    "server": "Server",
    "submitted": "SubmittedJob",
    "tasks": "Task TaskSet",
    "tls": "Tls",
    "worker": "Worker",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    # Each name brings its room when it is first asked for: a client need not
    # import a server (measured: 40 ms of start-up).
    if name not in _ROOM_OF:
        raise AttributeError("module 'gearmand' has no attribute %r" % name)
    value = getattr(importlib.import_module("gearmand." + _ROOM_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> Any:
    return sorted(set(globals()) | set(__all__))
