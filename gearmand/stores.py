"""Which store the settings ask for, and moving a queue from one to another by way of a file."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, TextIO, Tuple

from gearmand import mysql_store, redis_store
from gearmand.config import Config
from gearmand.errors import ConfigError
from gearmand.jobs import Handles
from gearmand.policy import BURIED, Burial, of_burial, to_burial
from gearmand.postgres_store import PostgresStore
from gearmand.rows import Row, Setting, from_json, to_json
from gearmand.sqlite_store import SqliteSource, SqliteStore
from gearmand.store import Store, Work

_AT_ONCE = 10_000


def open_store(config: Config) -> Optional[Store]:
    """The store; `None`: jobs are in memory only. ConfigError: it cannot be used."""
    url = None if config.queue is None else re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", config.queue)
    if url is not None:
        opener = _OF_SCHEME.get(url.group(1).lower())
        if opener is None:
            raise ConfigError("--queue: expected a file, postgresql://, mysql:// or redis://, got %s" % url.group())
        return opener(config, _Url(config.queue))
    kind = "libsqlite3" if config.queue is not None else config.queue_type.lower()
    return _OF_TYPE[kind](config)


def _open_sqlite(config: Config) -> Store:
    path = config.queue if config.queue is not None else config.libsqlite3_db
    if path is None:
        raise ConfigError("--queue-type=libsqlite3 needs --libsqlite3-db FILE")
    return SqliteStore(os.path.abspath(path), config.libsqlite3_table, config.durability)


class _Url:
    """The parts of a database's address. ConfigError, which does not repeat it: there may be a password in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            found = urllib.parse.urlsplit(text)
        except ValueError:
            raise ConfigError("--queue: the URL is not understood; an address of IPv6 stands in brackets") from None
        if found.netloc.count("@") > 1 or "@" in found.path + found.query + found.fragment:
            raise ConfigError("--queue: in a URL's user and password, write @ as %40, / as %2F, : as %3A, # as %23 and ? as %3F")
        self.scheme = found.scheme
        self.user, self.password = (urllib.parse.unquote(each or "") for each in (found.username, found.password))
        self.database = urllib.parse.unquote(found.path[1:])
        self.more = dict(urllib.parse.parse_qsl(found.query))
        self._found = found

    def place(self, host: str, port: int) -> Tuple[str, int]:
        """Host and port, or those given."""
        try:
            return self._found.hostname or host, self._found.port or port
        except ValueError:
            raise ConfigError("--queue: after the host of a URL comes the port, a number up to 65535") from None


def _open_postgres(config: Config, url: Optional[_Url] = None) -> Store:
    conninfo = url.text if url is not None else config.libpq_conninfo or ""
    return PostgresStore(conninfo, config.libpq_table)


def _open_mysql(config: Config, url: Optional[_Url] = None) -> Store:
    if url is not None:
        ca_file = url.more.pop("ssl_ca", None)
        if url.more:
            raise ConfigError("--queue: of what may follow the ? in a URL of MySQL there is ssl_ca=FILE alone")
        address = mysql_store.Address(*url.place("localhost", 3306), url.user, url.password, url.database, ca_file)
    else:
        address = mysql_store.Address(
            config.mysql_host, config.mysql_port, config.mysql_user or "", config.mysql_password or "", config.mysql_db or ""
        )
    return mysql_store.MysqlStore(address, config.mysql_table)


def _open_redis(config: Config, url: Optional[_Url] = None) -> Store:
    address = redis_store.Address(config.redis_server, config.redis_port, "", config.redis_password or "")
    if url is not None:
        ca_file = url.more.pop("ssl_ca", None) if url.scheme == "rediss" else None
        if not re.fullmatch(r"[0-9]{0,5}", url.database) or url.more:
            raise ConfigError("--queue: a URL of Redis ends with the database's number, or after the port; rediss:// may have ?ssl_ca=FILE")
        address = redis_store.Address(
            *url.place("127.0.0.1", 6379), url.user, url.password, int(url.database or 0), url.scheme == "rediss", ca_file
        )
    return redis_store.RedisStore(address, config.redis_prefix)


_OF_TYPE: Dict[str, Callable[[Config], Optional[Store]]] = {
    "builtin": lambda config: None,
    "libsqlite3": _open_sqlite,
    "postgres": _open_postgres,
    "mysql": _open_mysql,
    "redis": _open_redis,
}
_OF_SCHEME: Dict[str, Callable[[Config, _Url], Store]] = {
    "postgresql": _open_postgres,
    "postgres": _open_postgres,
    "mysql": _open_mysql,
    "mariadb": _open_mysql,
    "redis": _open_redis,
    "rediss": _open_redis,
}


def export_to(store: Store, name: str) -> int:
    """Write every row to a file, `-`: to stdout; one JSON object a line. Returns how many. ConfigError, StoreError."""
    count = 0
    if name != "-" and os.path.exists(name) and os.path.exists(store.where) and os.path.samefile(name, store.where):
        raise ConfigError("--export: %s is the queue itself: name another file" % name)
    with _opened("--export", name, "w", sys.stdout) as file:
        for setting in store.load_settings():
            file.write(_setting_line(setting))
        for count, row in enumerate(store.load(), 1):
            file.write(to_json(row) + "\n")
    return count


def import_from(store: Store, name: str, table: str, prefix: bytes) -> int:
    """Add to a store what `export_to` has written, or the rows of a C server's SQLite file. Returns how many.

    Numbers and handles that the store has already are given anew, so nothing is overwritten. ConfigError, StoreError.
    """
    taken, known = set(), set()
    for row in store.load():
        taken.add(row.number)
        known.add(row.handle)
    # Several rows of one job have one handle, and keep having one.
    renamed: Dict[bytes, bytes] = {}
    first = max([time.time_ns() // 1000, *taken]) + 1
    handles = Handles(prefix, first)
    count = 0
    buried: Dict[int, Burial] = {}
    for rows, settings in _pieces(name, table, handles):
        # Before the rows that they are of, whose numbers may become others.
        buried.update(_burials_of(settings))
        settings = [setting for setting in settings if not setting.key.startswith(BURIED)]
        free = []
        for row in rows:
            was, handle = row.number, row.handle
            number = was
            if number in taken or handle in known:
                new = handles.reserve(1)[0]
                number = new[0] if number in taken else number
                handle = renamed.setdefault(handle, new[1]) if handle in known else handle
                row = row._replace(number=number, handle=handle)
            taken.add(number)
            free.append(row)
            if was in buried:
                settings.append(of_burial(number, buried[was]))
        store.commit(Work(free, (), (), settings))
        count += len(free)
    return count


def _burials_of(settings: Sequence[Setting]) -> List[Tuple[int, Burial]]:
    try:
        return [to_burial(setting) for setting in settings if setting.key.startswith(BURIED)]
    except ValueError as error:
        raise ConfigError("a setting of a buried job is damaged: %s" % error) from None


def _pieces(name: str, table: str, handles: Handles) -> Iterator[Tuple[List[Row], List[Setting]]]:
    if name != "-" and _is_sqlite(name):
        source = SqliteSource(os.path.abspath(name), table)
        try:
            yield list(source.rows_of_c(lambda: handles.reserve(1)[0])), []
            yield list(source.load()), source.load_settings()
        finally:
            source.close()
        return
    rows: List[Row] = []
    settings: List[Setting] = []
    with _opened("--import", name, "r", sys.stdin) as file:
        for line in file:
            if line.startswith('{"setting"'):
                settings.append(_setting_of(line))
            elif line.strip():
                rows.append(from_json(line))
            if len(rows) >= _AT_ONCE:
                yield rows, settings
                rows, settings = [], []
    yield rows, settings


def _setting_line(setting: Setting) -> str:
    return json.dumps({"setting": [setting.key.decode("utf-8", "surrogateescape"), setting.value]}) + "\n"


def _setting_of(line: str) -> Setting:
    try:
        key, value = json.loads(line)["setting"]
        json.loads(value)
        return Setting(key.encode("utf-8", "surrogateescape"), value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("no setting: %s: %s" % (error, line[:200].rstrip())) from None


def _is_sqlite(name: str) -> bool:
    try:
        with open(name, "rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise ConfigError("--import: cannot read %s: %s" % (name, error.strerror)) from None


class _opened:
    """A file, or a standard one that stays open; UTF-8, whatever the locale. ConfigError: it cannot be opened, read or written."""

    def __init__(self, option: str, name: str, mode: str, standard: TextIO) -> None:
        self._option = option
        self._name = name
        try:
            which: Any = standard.fileno() if name == "-" else name
            self._file = open(which, mode, encoding="utf-8", errors="surrogateescape", closefd=name != "-")
        except OSError as error:
            raise self._cannot("open", error) from None
        self._doing = "read" if mode == "r" else "write"

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            self._file.close()
        except OSError as failed:
            raise self._cannot(self._doing, failed) from None
        if isinstance(error, OSError):
            raise self._cannot(self._doing, error) from None

    def _cannot(self, do: str, error: OSError) -> ConfigError:
        return ConfigError("%s: cannot %s %s: %s" % (self._option, do, self._name, error.strerror))
