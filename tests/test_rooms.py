"""The house: which room may import which, which may touch the outside, and how large a room may be.

Imports are read from the source, those inside functions too; what stands under
`if TYPE_CHECKING:` is for annotations only and does not count.
"""

from __future__ import annotations

import ast
import pathlib

import pytest

HOUSE = pathlib.Path(__file__).resolve().parent.parent / "gearmand"
ROOMS = sorted(path.stem for path in HOUSE.glob("*.py"))

MOST_LINES = 500
MOST_LINES_OF_A_FUNCTION = 60

RULES = {room: set(allowed.split()) for room, allowed in {
    # room: what it may import of gearmand, each room only from those above it
    # but for __init__, which names the public ones.
    "errors": "",
    "version": "",
    "config": "errors",
    "protocol": "errors",
    "text": "",
    "access": "errors",
    "limits": "",
    "addresses": "errors",
    "tokens": "errors protocol",
    "encoders": "errors",
    "channel": "errors",
    "tls": "channel errors",
    "connection": "addresses errors protocol tls",
    "schedule": "",
    "cron": "schedule",
    "jobs": "",
    "audit": "",
    "rows": "errors",
    "rules": "",
    "dormant": "",
    "store": "rows",
    "c_queue": "rows",
    "files": "errors",
    "sqlite_store": "c_queue errors files rows store",
    "remote_store": "errors rows store",
    "postgres_store": "c_queue errors remote_store rows store",
    "mysql_store": "c_queue errors remote_store rows store",
    "redis_store": "c_queue errors remote_store rows store",
    "policy": "rows",
    "stores": "config errors jobs mysql_store policy postgres_store redis_store rows sqlite_store store",
    "tally": "",
    "keeper": "dormant errors rows store tally",
    "functions": "jobs policy tally",
    "parties": "jobs",
    "deadlines": "",
    "uniques": "functions jobs",
    "plain": "functions",
    "wakeups": "functions jobs parties protocol",
    "recurring": "cron deadlines errors rows schedule",
    "results": "jobs",
    "books": "audit deadlines dormant functions jobs limits parties plain policy protocol recurring results rows rules tally uniques wakeups",
    "registry": "audit books dormant errors functions jobs parties protocol rows rules uniques",
    "revival": "audit books dormant errors functions jobs parties registry rows uniques",
    "steering": "audit dormant functions jobs parties policy recurring registry revival rows",
    "handover": "dormant functions jobs parties policy protocol recurring registry revival rows steering",
    "gate": "access errors limits",
    "peer": "parties protocol",
    "flusher": "peer",
    "yielding": "",
    "courier": "peer yielding",
    "placement": "errors",
    "broker": "audit courier errors jobs keeper parties peer registry revival rows steering yielding",
    "halves": "peer",
    "gatekeeper": "access broker errors gate limits peer protocol registry",
    "caller": "broker errors gate jobs parties protocol registry revival rows",
    "recurrence": "broker caller recurring",
    "volleys": "dormant functions jobs parties protocol registry",
    "packet_commands": "errors gate handover jobs parties protocol registry revival rows schedule volleys",
    "rounds": "dormant jobs packet_commands parties protocol registry",
    "operations": "broker jobs parties policy recurring registry results revival steering",
    "recurring_commands": "errors operations recurring text",
    "steering_commands": "operations text",
    "text_commands": "access broker errors functions gate gatekeeper jobs operations peer recurring_commands registry steering_commands text",
    "complaints": "",
    "socket_file": "errors",
    "listener": "config errors packet_commands peer protocol rounds socket_file text_commands yielding",
    "figures": "functions jobs parties policy registry revival tally",
    "history": "functions tally",
    "http_request": "",
    "http_connection": "http_request yielding",
    "waiter": "broker caller errors gate jobs protocol registry revival rows",
    "json_bodies": "http_request yielding",
    "api_fields": "http_request json_bodies",
    "answers": "broker caller errors gate http_request json_bodies rows waiter",
    "api_jobs": "answers api_fields errors http_request jobs json_bodies packet_commands protocol results rows waiter",
    "api_recurring": "answers api_fields errors http_request operations recurring",
    "api": "answers api_fields api_jobs api_recurring figures functions history http_request jobs json_bodies operations registry results tally text_commands",
    "c_http": "answers api_fields errors http_request jobs packet_commands protocol rows",
    "metrics": "broker figures functions tally",
    "dashboard_page": "",
    "web": "answers api dashboard_page history http_connection metrics registry text_commands waiter yielding",
    "web_handler": "answers api api_fields c_http config errors http_connection http_request json_bodies listener waiter web yielding",
    "binding": "addresses errors listener socket_file web_handler",
    "loading": "broker config errors handover keeper recurring registry revival steering store stores",
    "server": "audit binding broker caller complaints config errors flusher gatekeeper halves handover history jobs limits listener loading placement"
    " recurrence registry text_commands tls version web",
    "submitted": "errors protocol",
    "link": "addresses connection errors protocol submitted",
    "later": "deadlines",
    "kept": "encoders errors link protocol submitted",
    "client": "addresses connection encoders errors jobs kept later link protocol submitted tokens",
    "tasks": "client deadlines errors submitted",
    "tables": "",
    "admin_steering": "errors",
    "admin": "addresses admin_steering connection errors protocol tables tokens",
    "compat_names": "addresses connection encoders errors tls",
    "compat_client": "client compat_names errors submitted",
    "compat_worker": "compat_names connection errors protocol",
    "compat_admin": "admin compat_names errors",
    "compat": "compat_admin compat_client compat_names compat_worker",
    "screen": "",
    "top": "admin errors screen tables",
    "gearadmin_commands": "admin errors",
    "gearadmin": "addresses admin errors gearadmin_commands screen tls tokens top version",
    "console": "errors screen",
    "gearman_client": "addresses client console errors submitted",
    "waker": "",
    "assigned": "connection errors protocol",
    "station": "addresses connection errors protocol",
    "shift": "addresses assigned connection errors protocol tokens",
    "lane": "assigned connection errors protocol shift station waker",
    "workforce": "errors waker",
    "worker": "addresses assigned connection encoders errors lane protocol shift tokens workforce",
    "daemon": "errors",
    "log": "audit config errors files",
    "systemd": "errors",
    "dump": "config functions registry server",
    "takeover": "binding config errors handover policy registry rows server socket_file",
    "gearman_worker": "addresses assigned console errors worker",
    "gearman": "addresses console daemon errors files gearman_client gearman_worker tls tokens version",
    "cli": "binding config daemon dump errors files log server stores systemd takeover version",
    "__main__": "cli",
    "__init__": "version",
}.items()}  # fmt: skip

EFFECTS = set(
    "_thread argparse asyncio atexit concurrent contextvars ctypes errno faulthandler fcntl gc getpass glob grp http io"
    " logging mmap multiprocessing os pathlib pwd queue random resource sched secrets select selectors shutil signal socket"
    " socketserver sqlite3 ssl subprocess sys syslog tempfile threading time traceback urllib uuid warnings weakref".split()
)
"""Modules of the standard library through which the outside can be seen or changed."""

ALLOWED_EFFECTS = {room: set(allowed.split()) for room, allowed in {
    "addresses": "os",
    "channel": "os select socket ssl threading time",
    "tls": "os socket ssl",
    "connection": "select socket time",
    "tokens": "os",
    "submitted": "concurrent logging os threading time",
    "link": "threading time",
    "later": "logging threading time",
    "client": "os time weakref",
    "tasks": "queue time",
    "c_queue": "time",
    "sqlite_store": "os sqlite3",
    "remote_store": "os socket threading time weakref",
    "postgres_store": "time",
    "mysql_store": "os",
    "redis_store": "time",
    "stores": "os sys time urllib",
    "keeper": "threading time",
    "schedule": "time",  # the time zone; the time itself is given to it
    "peer": "socket threading time",
    "flusher": "fcntl queue select socket threading time",
    "courier": "collections queue threading time",
    "placement": "os sys threading time",
    "yielding": "ctypes os random sys threading time",
    "broker": "threading",
    "halves": "threading",
    "gatekeeper": "os tempfile threading",
    "caller": "threading time",
    "text_commands": "os threading",
    "complaints": "logging threading time",
    "socket_file": "fcntl grp os socket",
    "listener": "errno os select socket socketserver threading time",
    "figures": "urllib",
    "http_request": "urllib",
    "http_connection": "os select socket time",
    "waiter": "time",
    "json_bodies": "os",
    "api_fields": "urllib",
    "api_jobs": "time",
    "api": "os",
    "c_http": "urllib",
    "metrics": "os threading time",
    "web": "socket time",
    "web_handler": "http io",
    "server": "logging os resource socket threading time",
    "waker": "socket",
    "assigned": "logging",
    "station": "threading",
    "shift": "logging time",
    "lane": "logging select time",
    "workforce": "logging os select signal sys threading time",
    "worker": "argparse logging os sys threading time",
    "daemon": "faulthandler gc os pwd resource signal sys threading",
    "files": "errno os pwd",
    "binding": "errno socket",
    "loading": "logging",
    "log": "logging os pwd queue sys threading time",
    "systemd": "os socket threading time",
    "dump": "os sys threading traceback",
    "takeover": "os queue socket threading time",
    "cli": "argparse gc os pathlib signal socket sys threading",
    "__main__": "sys",
    "admin": "os threading time weakref",
    "compat_client": "logging os threading time",
    "compat_worker": "logging random select sys time",
    "compat_admin": "time",
    "compat": "sys",
    "screen": "os select signal sys time",
    "top": "os sys time",
    "gearadmin": "argparse errno os socket sys",
    "console": "os sys time",
    "gearman_client": "os queue sys time",
    "gearman_worker": "logging os select shutil signal subprocess sys threading time",
    "gearman": "os signal sys",
}.items()}  # fmt: skip
"""A room that is not here touches nothing."""


def tree_of(room):
    return ast.parse((HOUSE / (room + ".py")).read_text(encoding="utf-8"))


def is_for_annotations(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(node):
    """The dotted names that are imported anywhere below `node`, as `import` and `from` see them."""
    for child in ast.iter_child_nodes(node):
        if is_for_annotations(child):
            yield from imports_of(ast.Module(child.orelse, []))
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "line %d: imports are written in full" % child.lineno
            if child.module == "gearmand":
                for alias in child.names:
                    yield "gearmand." + alias.name
            else:
                yield child.module
        else:
            yield from imports_of(child)


def rooms_that(room):
    """The rooms that `room` imports."""
    names = [name.split(".") for name in imports_of(tree_of(room))]
    return {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "gearmand"}


def test_every_room_has_its_rule():
    assert ROOMS == sorted(RULES)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_the_rooms_that_it_may(room):
    assert rooms_that(room) <= RULES[room]


@pytest.mark.parametrize("room", ROOMS)
def test_room_reaches_the_outside_only_where_it_may(room):
    found = {name.split(".")[0] for name in imports_of(tree_of(room))} & EFFECTS
    assert found <= ALLOWED_EFFECTS.get(room, set())


def test_rules_lead_one_way():
    order = list(RULES)
    for room, allowed in RULES.items():
        assert all(order.index(other) < order.index(room) for other in allowed), room


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_not_too_long(room):
    assert len((HOUSE / (room + ".py")).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("room", ROOMS)
def test_functions_of_a_room_are_not_too_long(room):
    def first_line(node):
        return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])

    functions = [node for node in ast.walk(tree_of(room)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = [node.name for node in functions if node.end_lineno - first_line(node) + 1 > MOST_LINES_OF_A_FUNCTION]
    assert long == []


# -- the test itself --------------------------------------------------------------------


def test_imports_inside_functions_count_and_those_for_annotations_do_not():
    source = """
import a
from gearmand import b, c
from gearmand.d import E
if TYPE_CHECKING:
    import f
else:
    import g
def function():
    try:
        import h.i
    except ImportError:
        from j import k
"""
    names = ["a", "gearmand.b", "gearmand.c", "gearmand.d", "g", "h.i", "j"]
    assert list(imports_of(ast.parse(source))) == names
