"""Every setting once: name, type, unit, default, bounds, help.

The command line, the configuration file, `Server(...)`, the man page and the
README's table are made from `OPTIONS` or checked against it by a test.
"""

from __future__ import annotations

import re
from typing import Any, Dict, NamedTuple, Tuple

from gearmand.errors import ConfigError

LEVELS = {
    "FATAL": 50,
    "ALERT": 50,
    "CRITICAL": 50,
    "ERROR": 40,
    "WARNING": 30,
    "NOTICE": 25,
    "INFO": 20,
    "DEBUG": 10,
}
"""The C server's levels as `logging` levels."""
NOTICE = LEVELS["NOTICE"]

_HTTP_PORT = 8080
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


class Option(NamedTuple):
    name: str
    short: str
    kind: str
    """flag, text, list, number, size (bytes), seconds, level."""
    default: Any
    value: str
    """What stands for the value in the help."""
    help: str
    section: str = "General"
    lowest: float = 0
    highest: float = 2**31 - 1
    effect: bool = True
    """Whether it does anything; one that does not is accepted because the C server has it."""

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")


def _flag(name: str, short: str, help: str, section: str = "General", effect: bool = True) -> Option:
    return Option(name, short, "flag", False, "", help, section, effect=effect)


OPTIONS: Tuple[Option, ...] = (
    Option("listen", "L", "list", (), "ADDRESS", "Address to listen on, IPv4 or IPv6, by number or name, or unix:PATH for a Unix-domain socket, with a slash in PATH; may be given several times. Default: every address of the machine."),
    Option("port", "p", "number", 4730, "PORT", "Port to listen on; 0 takes a free one. The environment variable GEARMAND_PORT is the default where it is set.", highest=65535),
    Option("backlog", "b", "number", 1024, "N", "How many connections may wait to be accepted.", lowest=1, highest=65535),
    _flag("daemon", "d", "Detach and run in the background."),
    Option("pid-file", "P", "text", None, "FILE", "File to write the process id to; removed at the end."),
    Option("user", "u", "text", None, "USER", "User to become once the sockets and files are open. Only root can."),
    _flag("takeover", "", "Take over from the server that runs, if one does: its listening sockets, its background jobs, its pid file. It finishes what runs there and ends. --listen and --port are those of the server that runs."),
    Option("takeover-socket", "", "text", None, "FILE", "Socket by which a later server takes over from this one, and this one from an earlier one. Default: the pid file's name with .takeover behind it; without a pid file there is none."),
    Option("file-descriptors", "f", "number", None, "N", "How many files and sockets the process may have open. Default: as many as the user is allowed.", lowest=16),
    Option("config-file", "", "text", None, "FILE", "File with further options, written as on the command line and separated by white space or line ends; # begins a comment. @FILE does the same. The command line wins. Default: /etc/gearmand.conf, where it exists."),
    _flag("check-args", "", "Read the options, say what is wrong with them, and leave."),
    _flag("help", "h", "Print this and leave."),
    _flag("version", "V", "Print the version and leave."),
    Option("log-file", "l", "text", None, "FILE", "File to log to, stderr, or none. Default: stderr, and /var/log/gearmand.log with --daemon.", "Log"),
    _flag("syslog", "", "Log to syslog.", "Log"),
    Option("verbose", "", "level", "NOTICE", "LEVEL", "How much to log: FATAL, ALERT, CRITICAL, ERROR, WARNING, NOTICE, INFO or DEBUG.", "Log"),
    Option("log-format", "", "text", "text", "text|json", "What a line of the log looks like: text, or one JSON object a line.", "Log"),
    Option("job-retries", "j", "number", -1, "N", "How many attempts a job gets, in all, when workers die or time out; then it fails. 0 and 1: one. -1: any number.", "Jobs", lowest=-1),
    Option("worker-wakeup", "w", "number", 1, "N", "How many sleeping workers to wake for each new job; 0: all of them. When none of them grabs within the grace time, more are woken.", "Jobs"),
    Option("wakeup-grace", "", "seconds", 1.0, "SECONDS", "How long a woken worker may take to grab before the next one is woken too.", "Jobs", lowest=0.01),
    Option("grab-linger", "", "seconds", 0.005, "SECONDS", "How long the grab of a busy worker may wait for a job before it is told that there is none; this spares it the sleep and the wake-up. 0: not at all.", "Jobs", highest=1),
    _flag("round-robin", "R", "Serve a worker's functions in turn. It is always so; see --function-order.", "Jobs", effect=False),
    _flag("function-order", "", "Serve a worker's functions in the order in which its library registered them, each until it is empty, instead of in turn. (On the wire that is the latest CAN_DO first, because libgearman sends them backwards.)", "Jobs"),
    Option("job-handle-prefix", "", "text", None, "PREFIX", "What job handles begin with. Default: H: and the host's name.", "Jobs"),
    _flag("exceptions", "", "Send WORK_EXCEPTION to every client, as if each had asked for it.", "Jobs"),
    Option("timeout-unit", "", "text", "ms", "ms|s", "The unit of the timeout in CAN_DO_TIMEOUT: ms, or s for workers written for the Perl server or for a C server before 1.1.19.", "Jobs"),
    Option("minimum-timeout", "", "seconds", 1.0, "SECONDS", "What a shorter timeout of a worker is raised to.", "Jobs"),
    _flag("timeout-fails", "", "A job whose worker takes too long fails, instead of being given to another.", "Jobs"),
    _flag("reports-extend-timeout", "", "Each report on a job gives its worker the whole timeout again.", "Jobs"),
    Option("max-packet", "", "size", 256 * 1024**2, "BYTES", "Largest packet; a peer that announces a larger one is closed. 0: no bound.", "Limits", highest=2**32 - 1),
    Option("max-line", "", "size", 8192, "BYTES", "Longest administrative line. 0: no bound.", "Limits"),
    Option("max-unsent", "", "size", 256 * 1024**2, "BYTES", "How much may wait to be sent to one peer, beyond the first packet; over it the peer is closed. 0: no bound.", "Limits", highest=2**62),
    Option("max-unsent-total", "", "size", None, "BYTES", "How much may wait for all peers together; over it the peer with most is closed. 0: no bound. Default: a quarter of the machine's memory.", "Limits", highest=2**62),
    Option("unread-timeout", "", "seconds", 60.0, "SECONDS", "A peer that takes no byte for so long while something waits for it is closed. 0: never.", "Limits"),
    Option("partial-timeout", "", "seconds", 60.0, "SECONDS", "A peer that sends no byte for so long in the middle of a packet or a line is closed. 0: never.", "Limits"),
    Option("max-connections", "", "number", None, "N", "How many connections there may be; further ones are closed at once. 0: no bound. Default: what the descriptors allow.", "Limits"),
    Option("max-connections-per-address", "", "number", None, "N", "How many of them one address may have; further ones are closed at once. An IPv6 address counts as its network of 64 bits, here and below. 0: no bound. Default: all but 32 of --max-connections, or all but a tenth of few, so that one address cannot shut the others out.", "Limits"),
    Option("max-connection-rate", "", "number", 2000, "N", "How many new connections a second one address may make, and ten times as many at once; further ones are closed at once. 0: no bound.", "Limits"),
    Option("max-submission-rate", "", "number", 0, "N", "How many jobs a second one address may submit, and ten times as many at once; further ones get ERROR RATE_LIMITED. 0: no bound.", "Limits"),
    Option("max-jobs-per-address", "", "number", 0, "N", "How many unfinished jobs there may be that one address has submitted; further ones get ERROR QUEUE_ERROR. 0: no bound.", "Limits"),
    Option("max-jobs-per-function", "", "number", 0, "N", "How many jobs, queued and running, a function may have for which maxqueue has set nothing else; further ones get ERROR QUEUE_ERROR. 0: no bound.", "Limits"),
    Option("max-jobs-memory", "", "size", None, "BYTES", "How much the jobs in memory may take; over it new ones get ERROR QUEUE_ERROR. 0: no bound. Default: half of the machine's memory.", "Limits", highest=2**62),
    Option("max-results-memory", "", "size", 64 * 1024**2, "BYTES", "How much the results may take that are kept where a function's policy has keep_s; the oldest ones go. 0: none is kept.", "Limits", highest=2**62),
    Option("max-abilities", "", "number", 10_000, "N", "How many functions one worker may say that it can do; a further CAN_DO gets ERROR LIMIT_REACHED. 0: no bound.", "Limits"),
    Option("max-abilities-total", "", "number", 1_000_000, "N", "The same for all workers together.", "Limits"),
    Option("max-limited-functions", "", "number", 100_000, "N", "For how many functions a limit (maxqueue) or a policy may be set. 0: no bound.", "Limits"),
    Option("max-partial-total", "", "size", None, "BYTES", "How much of packets that have not come whole may be kept of all peers together; over it the peer with most is closed. 0: no bound. Default: a quarter of the machine's memory.", "Limits", highest=2**62),
    Option("acl", "", "text", None, "FILE", "File that says who may submit jobs, do them and administer, by certificate, token or address; the man page describes it. HUP reads it again. Default: everybody may do everything.", "Access"),
    _flag("admin-loopback", "", "Take administrative commands that change something from this machine alone: from its loopback addresses and Unix sockets.", "Access"),
    _flag("keepalive", "", "Let the kernel find out about peers that have vanished (SO_KEEPALIVE). It always does.", "Network", effect=False),
    Option("keepalive-idle", "", "number", 300, "SECONDS", "Silence of a peer before the kernel asks whether it is still there. -1: the system's value.", "Network", lowest=-1, highest=32767),
    Option("keepalive-interval", "", "number", 60, "SECONDS", "Time between the kernel's questions. -1: the system's value.", "Network", lowest=-1, highest=32767),
    Option("keepalive-count", "", "number", 5, "N", "How many of them go unanswered before the peer is given up. -1: the system's value.", "Network", lowest=-1, highest=127),
    Option("handler-cpu", "", "text", "auto", "auto|none|N", "The processor on which the threads that serve connections run: threads that share an interpreter lock lose time on several. auto chooses one of those that the process may use, and another one when other processes keep that busy; none leaves it to the system.", "Network"),
    Option("http-port", "", "number", None, "PORT", "Port for HTTP: jobs as in the C server, a JSON API, metrics; 0 takes a free one. With --ssl it speaks TLS. Default: none, and 8080 with --protocol=http.", "HTTP", highest=65535),
    Option("https-port", "", "number", None, "PORT", "Port for HTTP over TLS, with --ssl-certificate and the rest of its options; 0 takes a free one.", "HTTP", highest=65535),
    Option("protocol", "r", "text", None, "http", "A further protocol to speak; http is the only one.", "HTTP"),
    Option("http-listen", "", "list", (), "ADDRESS", "Address to listen on for HTTP; may be given several times. Default: those of --listen.", "HTTP"),
    Option("http-host", "", "list", (), "NAME", "A name of this server, as it stands in addresses of HTTP; may be given several times. IP addresses, names without a dot and names that end in .local or .internal are taken without it; with * any is, and then any page in a browser may be able to ask and to do everything.", "HTTP"),
    Option("unix-mode", "", "text", "0600", "MODE", "Who may connect to the sockets of --listen unix:PATH, as the mode of a file: 0660 is their owner and group, 0666 everybody.", "Network"),
    Option("unix-group", "", "text", None, "GROUP", "The group of these sockets. Default: that of --user, or the server's own.", "Network"),
    _flag("ssl", "", "Speak TLS, 1.2 or newer, on --port, and nothing else there.", "TLS"),
    Option("ssl-port", "", "number", None, "PORT", "Speak TLS on this port, on each address, beside plain text on --port; 0 takes a free one.", "TLS", highest=65535),
    Option("ssl-certificate", "", "text", None, "FILE", "The server's certificate, and those between it and its CA, in PEM format. The environment variable GEARMAND_SERVER_PEM is the default where it is set.", "TLS"),
    Option("ssl-key", "", "text", None, "FILE", "The key of the certificate, not encrypted. The environment variable GEARMAND_SERVER_KEY is the default where it is set, else it is in the file of the certificate.", "TLS"),
    Option("ssl-ca-file", "", "text", None, "FILE", "Have clients and workers show a certificate that one of the CA certificates in this file has signed; nobody else is served. The environment variable GEARMAND_CA_CERTIFICATE is the default where it is set.", "TLS"),
    Option("ssl-handshake-timeout", "", "seconds", 30.0, "SECONDS", "How long a peer may take to begin TLS. 0: for ever.", "TLS"),
    Option("queue", "", "text", None, "FILE|URL", "Where background jobs are kept, so that they survive the server: a file, or a database as postgresql://USER:PASSWORD@HOST:PORT/DB, mysql://USER:PASSWORD@HOST:PORT/DB or redis://:PASSWORD@HOST:PORT/DB. The short form of the options below.", "Storage"),
    Option("queue-type", "q", "text", "builtin", "TYPE", "Where background jobs are kept. builtin: in memory; libsqlite3: in a file; Postgres, MySQL, redis: in a database server.", "Storage"),
    Option("libsqlite3-db", "", "text", None, "FILE", "The file. Jobs that a C server has left in it are taken over.", "Storage"),
    Option("libsqlite3-table", "", "text", "gearman_queue", "TABLE", "The table of the C server in that file; those of this server begin with its name.", "Storage"),
    Option("libpq-conninfo", "", "text", None, "TEXT", "How to connect to PostgreSQL, as its library libpq has it: a string such as host=HOST dbname=DB user=USER, or a URL. Default: what its environment variables say.", "Storage"),
    Option("libpq-table", "", "text", "queue", "TABLE", "The table of the C server in PostgreSQL; those of this server begin with its name.", "Storage"),
    Option("mysql-host", "", "text", "localhost", "HOST", "The host of MySQL or MariaDB; localhost is its local socket, where there is one.", "Storage"),
    Option("mysql-port", "", "number", 3306, "PORT", "The port of MySQL.", "Storage", lowest=1, highest=65535),
    Option("mysql-user", "", "text", None, "USER", "The user in MySQL.", "Storage"),
    Option("mysql-password", "", "text", None, "PASSWORD", "The password of the user in MySQL; every user of the machine may see command lines, so put it in a configuration file.", "Storage"),
    Option("mysql-db", "", "text", None, "DB", "The database in MySQL.", "Storage"),
    Option("mysql-table", "", "text", "gearman_queue", "TABLE", "The table of the C server in MySQL; those of this server begin with its name.", "Storage"),
    Option("redis-server", "", "text", "127.0.0.1", "HOST", "The host of Redis.", "Storage"),
    Option("redis-port", "", "number", 6379, "PORT", "The port of Redis.", "Storage", lowest=1, highest=65535),
    Option("redis-password", "", "text", None, "PASSWORD", "The password of Redis; every user of the machine may see command lines, so put it in a configuration file.", "Storage"),
    Option("redis-prefix", "", "text", "_gear_", "PREFIX", "What the keys of the C server begin with; those of this server have it in their names.", "Storage"),
    Option("queue-memory", "", "size", None, "BYTES", "How much the jobs of a stored queue may take in memory; those beyond wait in the store alone until it is nearly their turn. 0: any amount. Default: a quarter of the machine's memory.", "Storage", highest=2**62),
    Option("durability", "", "text", "full", "full|normal|off", "What an accepted background job survives. full: the end of the server and of the machine; normal: the end of the server; off: the same, but after the end of the machine the file may be damaged.", "Storage"),
    Option("export", "", "text", None, "FILE", "Write the jobs that are kept to a file (- is stdout), one JSON object a line, and leave. The server must not run.", "Storage"),
    Option("import", "", "text", None, "FILE", "Add the jobs of such a file (- is stdin), or of a C server's SQLite file, to those that are kept, and leave. The server must not run.", "Storage"),
    _flag("store-queue-on-shutdown", "", "Jobs are stored when they are accepted, always.", "Accepted for the C server's sake", effect=False),
    _flag("coredump", "", "Let the system write a core file when the interpreter crashes.", "Accepted for the C server's sake"),
    Option("threads", "t", "number", 4, "N", "Every connection has a thread of its own.", "Accepted for the C server's sake", effect=False),
    Option("hashtable-buckets", "", "number", 991, "N", "Tables grow by themselves.", "Accepted for the C server's sake", effect=False),
)  # fmt: skip

QUEUE_TYPES = ("builtin", "libsqlite3", "postgres", "mysql", "redis")
"""In small letters; any will do."""

TLS_OPTIONS = ("ssl", "ssl_port", "https_port")
"""With one of these the server speaks TLS."""

BY_NAME: Dict[str, Option] = {option.name: option for option in OPTIONS}


def default_text(option: Option) -> str:
    """The default as a person would write it; empty where there is none, or where the help tells of it."""
    if option.kind == "flag":
        return "off"
    if option.default in (None, ()):
        return ""
    if option.kind == "size":
        for unit in ("G", "M", "K"):
            if option.default and option.default % _UNITS[unit] == 0:
                return "%d%s" % (option.default // _UNITS[unit], unit)
    if option.kind == "seconds":
        return "%g" % option.default
    return str(option.default)


def shown(name: str, value: Any) -> Any:
    """The value of an option as it may be shown: without passwords."""
    if value is None or not isinstance(value, str):
        return value
    if name in ("mysql-password", "redis-password", "libpq-conninfo"):
        return "***"
    return re.sub(r"(?s)^([a-z]+://).*@", r"\1***@", value) if name == "queue" else value


class Config:
    """A value for every option, by its name with underscores; ConfigError where one cannot be used.

    Values may be of the option's type or the text that the command line has.
    """

    def __init__(self, **values: Any) -> None:
        for option in OPTIONS:
            setattr(self, option.attribute, option.default)
        for name, value in values.items():
            option = BY_NAME.get(name.replace("_", "-"))
            if option is None:
                raise ConfigError("there is no option %s" % name)
            setattr(self, option.attribute, value_of(option, value))
        self._check_together()

    def __repr__(self) -> str:
        values = {option: getattr(self, option.attribute) for option in OPTIONS}
        changed = ["%s=%r" % (o.attribute, shown(o.name, value)) for o, value in values.items() if value != o.default]
        return "Config(%s)" % ", ".join(changed)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError("there is no option %s" % name)

    def _check_together(self) -> None:
        if self.timeout_unit not in ("ms", "s"):
            raise _bad("timeout-unit", self.timeout_unit, "ms or s")
        if self.queue_type.lower() not in QUEUE_TYPES:
            raise _bad("queue-type", self.queue_type, "builtin, libsqlite3, Postgres, MySQL or redis")
        if self.protocol not in (None, "http"):
            raise _bad("protocol", self.protocol, "http")
        if self.protocol == "http" and self.http_port is None:
            self.http_port = _HTTP_PORT
        if self.durability not in ("full", "normal", "off"):
            raise _bad("durability", self.durability, "full, normal or off")
        if self.log_format not in ("text", "json"):
            raise _bad("log-format", self.log_format, "text or json")
        if self.takeover and self.takeover_path is None:
            raise ConfigError("--takeover needs the --pid-file or the --takeover-socket of the server that runs")
        if self.acl == "":
            raise ConfigError("--acl: the name of a file must follow")
        if self.queue == "" or self.libsqlite3_db == "":
            raise ConfigError("--queue: the name of a file must follow")
        if self.queue_type.lower() == "libsqlite3" and self.queue is None and self.libsqlite3_db is None:
            raise ConfigError("--queue-type=libsqlite3 needs --libsqlite3-db FILE")
        if not re.fullmatch(r"auto|none|[0-9]{1,5}", self.handler_cpu):
            raise _bad("handler-cpu", self.handler_cpu, "auto, none or the number of a processor")
        if not re.fullmatch(r"0?[0-7]{3}", self.unix_mode):
            raise _bad("unix-mode", self.unix_mode, "three octal digits, as in 0660")
        self._check_tls()
        prefix = self.job_handle_prefix
        if prefix is not None and (not prefix or not prefix.isprintable() or len(prefix.encode()) > 40 or " " in prefix):
            raise _bad("job-handle-prefix", prefix, "1 to 40 bytes without blanks")


    @property
    def takeover_path(self) -> Optional[str]:
        """Of the socket for --takeover; `None`: there is none."""
        if self.takeover_socket is not None:
            return self.takeover_socket
        return None if self.pid_file is None else self.pid_file + ".takeover"

    def _check_tls(self) -> None:
        if self.ssl and self.ssl_port is not None:
            raise ConfigError("--ssl has --port speak TLS, --ssl-port speaks TLS beside a plain --port: one of them at a time")
        speaks = [name for name in TLS_OPTIONS if getattr(self, name) is not BY_NAME[name.replace("_", "-")].default]
        if speaks and not self.ssl_certificate:
            raise ConfigError("--%s needs --ssl-certificate FILE" % speaks[0].replace("_", "-"))
        for name in ("ssl-certificate", "ssl-key", "ssl-ca-file"):
            # The operator believes that TLS is spoken.
            if not speaks and getattr(self, name.replace("-", "_")) is not None:
                raise ConfigError("--%s is of no use without --ssl, --ssl-port or --https-port" % name)


def _bad(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError("--%s: expected %s, got %r" % (name, expected, shown(name, value)))


def value_of(option: Option, value: Any) -> Any:
    """The value of an option from the text for it, or from a value of its type."""
    if value is None and option.default is None:
        return None
    return _KINDS[option.kind](option, value)


def _flag_of(option: Option, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(option.name, value, "no value")
    return value


def _text_of(option: Option, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _bad(option.name, value, "a text")
    return value


def _list_of(option: Option, value: Any) -> Tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        value = [value]
    return tuple(_text_of(option, item) for item in value)


def _number_of(option: Option, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value):
        value = int(value)
    return _bounded(option, value, int, "a whole number")


def _size_of(option: Option, value: Any) -> int:
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,20})([KMG]?)", value)
        value = int(found.group(1)) * _UNITS[found.group(2)] if found else value
    return _bounded(option, value, int, "a number of bytes (K, M and G may follow it)")


def _seconds_of(option: Option, value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(\.[0-9]{0,9})?", value):
        value = float(value)
    return _bounded(option, value, (int, float), "a number of seconds")


def _bounded(option: Option, value: Any, types: Any, what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, types) or not option.lowest <= value <= option.highest:
        raise _bad(option.name, value, "%s from %g to %d" % (what, option.lowest, option.highest))
    return value


def _level_of(option: Option, value: Any) -> str:
    if not isinstance(value, str) or value.upper() not in LEVELS:
        raise _bad(option.name, value, "one of " + ", ".join(LEVELS))
    return value.upper()


_KINDS = {
    "flag": _flag_of,
    "text": _text_of,
    "list": _list_of,
    "number": _number_of,
    "size": _size_of,
    "seconds": _seconds_of,
    "level": _level_of,
}
