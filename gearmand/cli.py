"""The command line: arguments, environment and configuration file to a Config, and a Config to a running server."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import Any, Dict, List, NoReturn, Optional, Sequence

from gearmand import daemon, systemd
from gearmand.binding import Passed
from gearmand.config import BY_NAME, OPTIONS, TLS_OPTIONS, Config, Option, default_text, value_of
from gearmand.dump import dump
from gearmand.errors import ConfigError, StoreError
from gearmand.files import PidFile
from gearmand.log import Log
from gearmand.server import Server, handle_prefix
from gearmand.stores import export_to, import_from, open_store
from gearmand.takeover import Door, Predecessor, knock
from gearmand.version import VERSION

DEFAULT_CONFIG_FILE = "/etc/gearmand.conf"

TLS_ENVIRONMENT = {
    "ssl_ca_file": "GEARMAND_CA_CERTIFICATE",
    "ssl_certificate": "GEARMAND_SERVER_PEM",
    "ssl_key": "GEARMAND_SERVER_KEY",
}
"""The C server's, for these options where TLS is spoken."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class _Formatter(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`-p, --port PORT`, as Python 3.13 has it; older ones say PORT twice."""
        value = "" if action.nargs == 0 else " %s" % action.metavar
        return ", ".join(action.option_strings) + value


def make_parser() -> argparse.ArgumentParser:
    """A parser whose results hold text alone, and only for the options that were given."""
    parser = _Parser(
        prog="gearmand",
        usage="gearmand [OPTION ...]",
        description="Gearman job server.",
        add_help=False,
        formatter_class=_Formatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups: Dict[str, Any] = {}
    for option in OPTIONS:
        if option.section not in groups:
            groups[option.section] = parser.add_argument_group(option.section)
        names = ["--" + option.name]
        if option.short:
            names.insert(0, "-" + option.short)
        if option.kind == "flag":
            groups[option.section].add_argument(*names, action="store_true", help=_help(option))
        else:
            action = "append" if option.kind == "list" else "store"
            groups[option.section].add_argument(*names, metavar=option.value, action=action, help=_help(option))
    return parser


def _help(option: Option) -> str:
    default = "" if option.kind == "flag" else default_text(option)
    return (option.help + (default and " (default: %s)" % default)).replace("%", "%%")


def parse(arguments: Sequence[str], environ: Dict[str, str]) -> Config:
    """The settings of a start: command line before configuration file before environment. ConfigError."""
    parser = make_parser()
    given, files = _given(parser, arguments)
    named = [*files, *([given["config_file"]] if "config_file" in given else [])]
    if not named and os.path.exists(DEFAULT_CONFIG_FILE):
        named = [DEFAULT_CONFIG_FILE]
    for name in named:
        from_file, further = _given(parser, _words(name))
        if further or "config_file" in from_file:
            raise ConfigError("--config-file: %s names another configuration file; one cannot contain another" % name)
        given = {**from_file, **given}
    if "port" not in given and environ.get("GEARMAND_PORT"):
        try:
            value_of(BY_NAME["port"], environ["GEARMAND_PORT"])
        except ConfigError as error:
            raise ConfigError("environment variable GEARMAND_PORT: %s" % str(error).replace("--port: ", ""))
        given["port"] = environ["GEARMAND_PORT"]
    if any(name in given for name in TLS_OPTIONS):
        for option, variable in TLS_ENVIRONMENT.items():
            if environ.get(variable):
                given.setdefault(option, environ[variable])
    return Config(**given)


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> Any:
    """The options that the words give, and the files that they name with @."""
    files = [word[1:] for word in words if word.startswith("@") and len(word) > 1]
    given, left = parser.parse_known_args([word for word in words if not (word.startswith("@") and len(word) > 1)])
    if left:
        raise ConfigError("there is no option %s; --help lists what there is" % left[0])
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--") and equals and not value:
            raise ConfigError("%s: a value must follow the equal sign" % name)
    return vars(given), files


def _words(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [word for line in file for word in line.partition("#")[0].split()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--config-file: cannot read %s: %s" % (path, getattr(error, "strerror", None) or error))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the server of a command line until a signal or a command ends it. Returns the exit status, 0 or 1."""
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments, dict(os.environ))
        if config.check_args:
            return 0
        if config.help:
            print(make_parser().format_help(), end="")
            return 0
        if config.version:
            print("gearmand %s" % VERSION)
            return 0
        return _run(config)
    except ConfigError as error:
        print("gearmand: %s" % error, file=sys.stderr)
        return 1


def _run(config: Config) -> int:
    """Serve. What can fail does so before the process says that it is ready; no thread starts before it has detached."""
    daemon.open_standard_descriptors()
    if config.export is not None or getattr(config, "import") is not None:
        return _move_queue(config)
    passed = [Passed(sock, _kind(config, sock, name)) for sock, name in systemd.sockets(os.environ)]
    notifier = systemd.Notifier(os.environ)
    user = daemon.find_user(config.user)
    daemon.limit_descriptors(config.file_descriptors)
    if config.coredump:
        daemon.allow_core()
    log = Log(config)
    predecessor = _predecessor(config, None if user is None else user.pw_uid)
    if predecessor is not None:
        passed = predecessor.sockets
    on_events = log.write_events if log.audits else None
    server = Server(config, on_shutdown=daemon.end, on_events=on_events, sockets=passed)
    try:
        pid_file = PidFile(config.pid_file)
        daemon.block_signals()
        detached = daemon.Detached() if config.daemon else None
        pid_file.write()
        if user is not None and os.geteuid() == 0:
            server.give_to(user.pw_uid, user.pw_gid)
    except ConfigError:
        server.stop()
        raise
    log.give_to(user)
    daemon.become(user)
    daemon.tune()
    log.start()
    door = _start(config, server, pid_file, predecessor)
    if detached is not None:
        detached.ready()
    notifier.say("READY=1", "MAINPID=%d" % os.getpid())
    notifier.watch(lambda: server.broker.turn(lambda registry: not server.stopping))
    _serve_signals(config, server, log, notifier)
    server.stop()
    pid_file.remove()
    if door is not None:
        door.close()
    if not log.stop():
        # The interpreter's own end would wait for the thread that is stuck.
        os._exit(0)
    return 0


def _kind(config: Config, sock: socket.socket, name: str) -> str:
    """What is spoken at a socket that systemd has passed under a name."""
    if sock.family == socket.AF_UNIX:
        return "plain"
    if name in ("http", "https"):
        return "https" if config.ssl else name
    return "tls" if config.ssl or name == "tls" else "plain"


def _predecessor(config: Config, user_id: Optional[int]) -> Optional[Predecessor]:
    if not config.takeover or config.takeover_path is None:
        return None
    return knock(config.takeover_path, user_id)


def _start(config: Config, server: Server, pid_file: PidFile, predecessor: Optional[Predecessor]) -> Optional[Door]:
    """Begin to serve, in the place of the predecessor where there is one. ConfigError; the predecessor goes on then."""
    # There whenever somebody can know of this server, but no sooner than the
    # predecessor's has gone.
    door = _door(config, server) if predecessor is None else None
    try:
        server.start(None if predecessor is None else predecessor.take)
    except ConfigError:
        if door is not None:
            door.close()
        if predecessor is None:
            pid_file.remove()
        else:
            pid_file.write(predecessor.pid)
            predecessor.leave()
        raise
    if predecessor is not None:
        door = _door(config, server)
        predecessor.serves(server)
    if door is not None:
        door.open()
    return door


def _door(config: Config, server: Server) -> Optional[Door]:
    if config.takeover_path is None:
        return None
    try:
        return Door(server, config.takeover_path, lambda: daemon.end(graceful=False))
    except ConfigError as error:
        # The queue is served all the same.
        server.log.warning("no later server can take over from this one: %s", error)
        return None


def _serve_signals(config: Config, server: Server, log: Log, notifier: systemd.Notifier) -> None:
    """Until the process is to end."""

    def stop_gracefully() -> None:
        notifier.say("STOPPING=1")
        server.stop(graceful=True)
        daemon.end(graceful=False)

    def hang_up() -> None:
        notifier.reloading()
        log.reopen()
        server.reload()
        notifier.say("READY=1")

    daemon.serve_signals(stop_gracefully, hang_up, lambda: log.write_always(dump(server, config)))
    notifier.say("STOPPING=1")


def _move_queue(config: Config) -> int:
    """`--export` and `--import`."""
    store = open_store(config)
    if store is None:
        raise ConfigError("--export and --import need the queue: name it with --queue FILE")
    try:
        if config.export is not None:
            count, name, done = export_to(store, config.export), config.export, "written to"
        else:
            name, done = getattr(config, "import"), "read from"
            count = import_from(store, name, config.libsqlite3_table, handle_prefix(config))
        print("gearmand: %s: %d jobs %s %s" % (store.where, count, done, name), file=sys.stderr)
        return 0
    except StoreError as error:
        raise ConfigError(str(error))
    finally:
        store.close()
