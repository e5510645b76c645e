"""The command gearadmin: argv to administrative commands, their answers to a terminal, a pipe or JSON.

It takes the place of the C tool of that name: what its options print, in which
order they act and which exit status they leave is the same. `gearadmin_commands`
has all that ask a server, in that order; `man/gearadmin.1` says the rest.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import socket
import sys
import textwrap
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

from gearmand.addresses import Address, parse, parse_all
from gearmand.admin import Admin
from gearmand.errors import AdminRefused, ConfigError, GearmandError, ServerLost
from gearmand.gearadmin_commands import COMMANDS, Command, NotIdle, number
from gearmand.screen import printable
from gearmand.tokens import find
from gearmand.top import COLUMNS, DEFAULT_COLUMN, Top, show
from gearmand.version import VERSION

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_INTERVAL_S = 2.0
_LINE_WIDTH = 79


# -- argv --------------------------------------------------------------------------


class Option(NamedTuple):
    """An option that says where, or how."""

    name: str
    short: str
    value: str
    help: str
    nargs: Any = None
    check: Optional[Callable[[Any], Any]] = None


def _watch_interval(word: str) -> float:
    return _interval(word or "1")


def _interval(word: str) -> float:
    seconds = number(word, float)
    if not 0 < seconds < 1e9:
        raise ValueError("a number of seconds above 0")
    return seconds


def _seconds(word: str) -> float:
    seconds = number(word, float)
    if not 0 <= seconds < 1e9:
        raise ValueError("a number of seconds")
    return seconds


def _count(word: str) -> int:
    count: int = number(word, int)
    if count < 1:
        raise ValueError("a number of screens above 0")
    return count


def _column(word: str) -> str:
    if word.upper() not in COLUMNS:
        raise ValueError("the title of a column, one of " + ", ".join(COLUMNS).lower())
    return word.upper()


OPTIONS = [
    Option("host", "h", "HOST", "The server, HOST, HOST:PORT or unix:PATH; may be given several times. Default: GEARMAN_SERVERS or GEARMAN_SERVER in the environment, the first one there, else 127.0.0.1."),
    Option("port", "p", "PORT", "The port where HOST has none, a number or a service's name. Default: 4730."),
    Option("timeout", "", "SECONDS", "How long the server may take for each answer (default: 10), or --wait-until-idle in all (default: for ever). 0: for ever.", check=_seconds),
    Option("json", "", "", "Print one JSON object for each server, on a line of its own, with what each command answers."),
    Option("top", "", "", "Show the functions, their jobs and workers, and how fast that changes, again and again. On a terminal keys choose what is shown; q ends it."),
    Option("interval", "", "SECONDS", "With --top: every so many seconds (default: 2).", check=_interval),
    Option("count", "", "N", "With --top: end after so many screens.", check=_count),
    Option("sort", "", "COLUMN", "With --top: order by the column with this title (default: queued), of the functions or of the connections.", check=_column),
    Option("watch", "", "[SECONDS]", "The same as --top --interval SECONDS (default: 1).", nargs="?", check=_watch_interval),
    Option("token-file", "", "FILE", "The first line of the file is a token, which is presented to the server; see gearmand(8). Default: GEARMAN_TOKEN in the environment, where it is set."),
    Option("ssl", "S", "", "Speak TLS with the server, but for Unix-domain sockets."),
    Option("ssl-ca-file", "", "FILE", "The certificates, in PEM format, one of which has to have signed a server's. Default: GEARMAND_CA_CERTIFICATE in the environment, else those that the system trusts."),
    Option("ssl-certificate", "", "FILE", "The certificate to show to servers that ask for one. Default: GEARMAN_CLIENT_PEM in the environment."),
    Option("ssl-key", "", "FILE", "Its key, not encrypted. Default: GEARMAN_CLIENT_KEY in the environment, else it is in the file of the certificate."),
    Option("ssl-name", "", "NAME", "The name that a server's certificate has to be for, *: any. Default: the server's HOST."),
    Option("help", "", "", "Print this and leave."),
    Option("version", "V", "", "Print the version of gearadmin and leave."),
]  # fmt: skip


class _Once(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Optional[str] = None) -> None:
        if hasattr(namespace, self.dest):
            parser.error("%s is given more than once" % option_string)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message + "; --help lists what there is")


def _parse(arguments: Sequence[str]) -> Dict[str, Any]:
    """By name, what was given. ConfigError. Abbreviations are accepted, because the C tool does."""
    parser = _Parser(prog="gearadmin", add_help=False, argument_default=argparse.SUPPRESS)
    rows: List[Any] = [*OPTIONS, *COMMANDS]
    for row in rows:
        action: Any = "append" if row.name == "host" else _Once
        nargs = row.nargs if row.value else 0
        parser.add_argument(*_names(row), dest=row.name, action=action, nargs=nargs, **({"const": ""} if nargs == "?" else {}))
    given = vars(parser.parse_args(arguments))
    for row in rows:
        if row.check is not None and row.name in given:
            try:
                given[row.name] = row.check(given[row.name])
            except ValueError as error:
                raise ConfigError("--%s: expected %s, got %r" % (row.name, error, given[row.name])) from None
    return given


def _names(row: Any) -> List[str]:
    short = getattr(row, "short", "")
    return ["-" + short] * bool(short) + ["--" + row.name]


def help_text() -> str:
    lines = ["usage: gearadmin [OPTION ...] COMMAND ...", "", "Asks and administers Gearman job servers."]
    for title, rows in (("Options", OPTIONS), ("Commands, carried out in this order", COMMANDS)):
        lines += ["", title + ":"]
        for row in rows:  # type: ignore[attr-defined]
            lines.append("  " + ", ".join(_names(row)) + " " * bool(row.value) + row.value)
            lines += textwrap.wrap(row.help, _LINE_WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _addresses(given: Dict[str, Any]) -> List[Address]:
    port = _port(given["port"]) if "port" in given else None
    if "host" in given:
        return list(dict.fromkeys(parse(host, *[port] * (port is not None)) for host in given["host"]))
    address = parse_all(None)[0]
    return [address if port is None else parse((address.host, port))]


def _port(name: str) -> int:
    try:
        return int(name) if name.isdigit() else socket.getservbyname(name, "tcp")
    except OSError:
        raise ConfigError("--port: expected a number or the name of a service, got %r" % name) from None


# -- main --------------------------------------------------------------------------


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Carry out a command line. Returns the exit status: 0, 1 (it failed), or 130 (interrupted)."""
    try:
        return _run(_parse(sys.argv[1:] if arguments is None else arguments))
    except GearmandError as error:
        return _complain(error)
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered goes nowhere, silently.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _complain("cannot write: %s" % error.strerror)


def _run(given: Dict[str, Any]) -> int:
    for name, text in (("help", help_text()), ("version", "gearadmin %s\n" % VERSION)):
        if name in given:
            _write(text)
            return 0
    commands = [command for command in COMMANDS if command.name in given]
    if "watch" in given:
        given = {"top": True, "interval": given["watch"], **given}
    for name in ("interval", "count", "sort"):
        if name in given and "top" not in given:
            raise ConfigError("--%s: expected --top too" % name)
    if not commands and "top" not in given:
        raise ConfigError("no command is given; --help lists what there is")
    timeout_s = given.get("timeout", DEFAULT_TIMEOUT_S) or None
    if "wait-until-idle" in given:
        given["wait-until-idle"] = (given["wait-until-idle"] or None, given.get("timeout") or None)
    token = find(given.get("token-file"))
    tls = None
    if any(name.startswith("ssl") for name in given):
        from gearmand.tls import of_options

        tls = of_options(given)
    admins = [Admin(address, timeout_s, tls=tls, token=token) for address in _addresses(given)]
    if "json" in given:
        status = max(_print_json(admin, commands, given) for admin in admins)
    else:
        status = max(_print_text(admin, commands, given, len(admins) > 1) for admin in admins)
    if "top" in given and not status:
        top = Top(admins, given.get("sort", DEFAULT_COLUMN))
        status = show(top, given.get("interval", DEFAULT_INTERVAL_S), given.get("count"), "json" in given, _write)
    return status


def _print_text(admin: Admin, commands: List[Command], given: Dict[str, Any], named: bool) -> int:
    """Carry out the commands at one server. A refused one does not keep the others back, a lost server does."""
    status = 0
    if named and commands:
        _write("==> %s <==\n" % (admin.address,))
    for command in commands:
        try:
            _write(command.text(admin, given[command.name]))
        except AdminRefused as error:
            _complain(error)
            status = max(status, command.refusal_status)
        except (ServerLost, NotIdle) as error:
            return _complain(error)
    return status


def _print_json(admin: Admin, commands: List[Command], given: Dict[str, Any]) -> int:
    """The same as one object: a member for each command, and `error` where the server was lost."""
    status = 0
    found: Dict[str, Any] = {"server": str(admin.address)}
    for command in commands:
        name = command.name.replace("-", "_")
        try:
            found[name] = _plain(command.data(admin, given[command.name]))
        except AdminRefused as error:
            status = _complain(error)
            found[name] = {"error": str(error)}
        except (ServerLost, NotIdle) as error:
            status = _complain(error)
            found["error"] = str(error)
            break
    if commands:
        _write(json.dumps(found) + "\n")
    return status


def _plain(value: Any) -> Any:
    """Named tuples to dictionaries."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not hasattr(value, "_asdict"):
        return value
    found = {name: _plain(each) for name, each in value._asdict().items()}
    if hasattr(value, "queued"):
        found["queued"] = value.queued
    return found


def _write(text: str) -> None:
    # The server's bytes as they are, whatever the terminal's encoding.
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def _complain(what: Any) -> int:
    print("gearadmin: %s" % printable(str(what)), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
