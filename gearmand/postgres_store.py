"""The store in a PostgreSQL database, by way of psycopg 3.

Tables named after the one that the C server uses, T:

    T_jobs     the rows
    T_settings what has been set for functions, and the like
    T_owner    the server that has the queue
    T          the C server's own, if there is one: its rows are taken over at the start

The lock is an advisory one of the session, its number made of T_owner's; so it
does not hold through a pooler that shares sessions. What a commit survives is
what the database's own settings make it.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any, Dict, List, Sequence, Tuple

from gearmand.c_queue import row_of_c
from gearmand.errors import ConfigError
from gearmand.remote_store import (
    CONNECTING_S, LOCK_S, NOT_STORABLE, OUSTED, PORTION_ROWS, TAKEN, RemoteStore, Taken, driver, pieces_of,
)  # fmt: skip
from gearmand.rows import Row, Setting
from gearmand.store import Numbers, Work, ranges_of

_VERSION = 1
_LOCK_SPACE = 0x6765_6172  # "gear"
_STATEMENT_BYTES = 16 * 2**20
_LONG_RANGE = 100

_CREATE = """
CREATE TABLE IF NOT EXISTS {t}_jobs (number bigint PRIMARY KEY, handle bytea NOT NULL, function bytea NOT NULL,
 uniq bytea NOT NULL, workload bytea NOT NULL, priority smallint NOT NULL, due bigint, submitted double precision NOT NULL,
 retries bigint NOT NULL, reducer bytea);
CREATE TABLE IF NOT EXISTS {t}_settings (key bytea NOT NULL, value text);
CREATE UNIQUE INDEX IF NOT EXISTS {t}_settings_key ON {t}_settings (sha256(key));
CREATE TABLE IF NOT EXISTS {t}_owner (one smallint PRIMARY KEY, version integer NOT NULL, owner text NOT NULL)
"""
_COLUMNS = "number, handle, function, uniq, workload, priority, due, submitted, retries, reducer"
_ADD = """INSERT INTO {t}_jobs (%s) SELECT * FROM unnest(%%b::bigint[], %%b::bytea[], %%b::bytea[], %%b::bytea[], %%b::bytea[],
 %%b::smallint[], %%b::bigint[], %%b::double precision[], %%b::bigint[], %%b::bytea[])
 ON CONFLICT (number) DO UPDATE SET (%s) = (%s)""" % (
    _COLUMNS, _COLUMNS, ", ".join("excluded." + column for column in _COLUMNS.split(", ")),
)  # fmt: skip
_CHANGE = """UPDATE {t}_jobs AS job SET handle = new.handle, retries = new.retries, priority = new.priority,
 due = COALESCE(new.due, job.due)
 FROM unnest(%b::bigint[], %b::bytea[], %b::bigint[], %b::smallint[], %b::bigint[]) AS new (number, handle, retries, priority, due)
 WHERE job.number = new.number"""
_REMOVE = "DELETE FROM {t}_jobs WHERE number = ANY(%b::bigint[])"
_REMOVE_RANGE = "DELETE FROM {t}_jobs WHERE number BETWEEN %b::bigint AND %b::bigint"
_SET = """INSERT INTO {t}_settings (key, value) VALUES (%b, %b)
 ON CONFLICT (sha256(key)) DO UPDATE SET value = excluded.value"""
_LOCK = "pg_try_advisory_lock((%d::bigint << 32) | '{t}_owner'::regclass::oid::bigint)" % _LOCK_SPACE
# What C has sent, whatever the database takes it for.
_OF_C = """DELETE FROM {t} RETURNING convert_to(unique_key, getdatabaseencoding()),
 convert_to(function_name, getdatabaseencoding()), priority, data, when_to_run"""

# Nothing here is meant to look at a whole table; a network that is gone is
# found out by the database too, and the lock is free then.
_SETTINGS = {
    "client_min_messages": "warning",
    "enable_seqscan": "off",
    "lock_timeout": "10s",
    "statement_timeout": "0",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_CONNECTION = {
    "connect_timeout": CONNECTING_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Does not work: tcp_user_timeout. It ends the connection to a database that is busy with the first part of a large
    # transaction, and takes no more of it meanwhile.
}


class PostgresStore(RemoteStore):
    """`conninfo`: libpq's connection string or URL. ConfigError: it cannot be used."""

    def __init__(self, conninfo: str, table: str = "queue") -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", table):
            raise ConfigError("--libpq-table: expected a name of up to 40 letters, digits and _, got %r" % table)
        self._driver = driver("psycopg", "postgres")
        given = self._parsed(conninfo)
        where = "postgresql://%s@%s:%s/%s" % tuple(given.get(key, "") for key in ("user", "host", "port", "dbname"))
        super().__init__(where, [given.get("password", "")])
        self._errors = (self._driver.Error, *NOT_STORABLE)
        self._parameters = {**_CONNECTION, **given, "application_name": "gearmand " + self.identity}
        self._sql = {name: text.format(t=table) for name, text in _STATEMENTS.items()}
        self._table = table
        self._open()

    def _parsed(self, conninfo: str) -> Dict[str, str]:
        try:
            return dict(self._driver.conninfo.conninfo_to_dict(conninfo))
        except self._driver.Error:
            # Its message has pieces of the text, which may be those of a password.
            raise ConfigError("--queue: not a connection string or URL of PostgreSQL") from None

    # -- the connection ------------------------------------------------------------------

    def _connect(self, first: bool) -> None:
        self._connection = self._driver.connect(autocommit=True, **self._parameters)
        info = self._connection.info
        self.where = "postgresql://%s@%s:%s/%s" % (info.user, info.host, info.port, info.dbname)
        self._can_pipeline = self._driver.Pipeline.is_supported()
        self._connection.execute("SELECT " + ", ".join("set_config('%s', '%s', false)" % setting for setting in _SETTINGS.items()))
        # Only where it is needed: it takes the right to make tables.
        if not all(self._one("SELECT to_regclass(%s)", self._table + each) for each in ("_jobs", "_settings", "_owner")):
            self._create()
        self._lock(LOCK_S if first else 0.0)
        version = self._one("SELECT max(version) FROM %s_owner" % self._table)
        if version is not None and version > _VERSION:
            raise ConfigError("--queue: %s was made by a later version of gearmand: use that one" % self.where)
        claim = "UPDATE SET version = excluded.version, owner = excluded.owner" if first else "NOTHING"
        self._connection.execute(
            "INSERT INTO %s_owner VALUES (1, %%s, %%s) ON CONFLICT (one) DO %s" % (self._table, claim), (_VERSION, self.identity)
        )
        if self._one("SELECT owner FROM %s_owner" % self._table) != self.identity:
            raise Taken(OUSTED)

    def _create(self) -> None:
        try:
            self._connection.execute(self._sql["create"])
        except self._driver.errors.UniqueViolation:
            # Another server makes them at this very moment.
            self._connection.execute(self._sql["create"])

    def _lock(self, waiting_s: float) -> None:
        began = time.monotonic()
        ends_at = began + waiting_s
        while not self._one(self._sql["lock"]):
            # Our own session, if the database does not know yet that it is over.
            ours = self._connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()",
                ("gearmand " + self.identity,),
            )
            if ours.fetchall():
                ends_at = max(ends_at, began + LOCK_S)
            if time.monotonic() > ends_at:
                raise Taken(TAKEN)
            time.sleep(0.05)

    def _one(self, query: str, *arguments: Any) -> Any:
        return self._connection.execute(query, arguments).fetchone()[0]

    def _disconnect(self) -> None:
        self._connection.close()

    def _descriptor(self) -> int:
        descriptor: int = self._connection.pgconn.socket
        return descriptor

    def _is_lost(self, error: Exception) -> bool:
        # The latter: the database stops or starts, or is the copy of another that took its place.
        state = getattr(error, "sqlstate", None) or ""
        if not state and isinstance(error, (self._driver.OperationalError, self._driver.InterfaceError)):
            # Not the database's: the connection went, or is left in a state
            # that nothing comes out of ("cannot exit pipeline mode while busy").
            return True
        return self._connection.closed or state.startswith("57P") or state in ("25006", "40001", "40P01")

    def _is_of_a_value(self, error: Exception) -> bool:
        # The latter: the driver's own, which the database has not seen.
        return super()._is_of_a_value(error) or isinstance(error, self._driver.ProgrammingError) and error.sqlstate is None

    def _roll_back(self) -> None:
        self._connection.rollback()

    def _beat(self) -> None:
        self._connection.execute("")

    # -- transactions ----------------------------------------------------------------------

    def _transact(self, work: Work) -> None:
        pieces = pieces_of(work.added, _STATEMENT_BYTES)
        with contextlib.ExitStack() as stack:
            # A statement alone is a transaction of its own, at half the cost of one that has to be said to be.
            if len(pieces) > 1 or work.changed or work.removed or work.settings:
                if self._can_pipeline:
                    # One round trip, the COMMIT included.
                    stack.enter_context(self._connection.pipeline())
                stack.enter_context(self._connection.transaction())
            with self._connection.cursor() as cursor:
                self._add(cursor, pieces)
                if work.changed:
                    cursor.execute(self._sql["change"], tuple(map(list, zip(*work.changed))))
                self._remove(cursor, work.removed)
                for setting in work.settings:
                    cursor.execute(self._sql["set"], setting)
                if any(setting.value is None for setting in work.settings):
                    cursor.execute(self._sql["forget"])

    def _add(self, cursor: Any, pieces: Sequence[Sequence[Row]]) -> None:
        for together in pieces:
            columns = list(map(list, zip(*together)))
            columns[4] = list(map(bytes, columns[4]))
            cursor.execute(self._sql["add"], columns)

    def _remove(self, cursor: Any, numbers: Sequence[int]) -> None:
        single: List[int] = []
        for first, last in ranges_of(numbers):
            if last - first < _LONG_RANGE:
                single.extend(range(first, last + 1))
            else:
                cursor.execute(self._sql["remove range"], (first, last))
        if single:
            cursor.execute(self._sql["remove"], (single,))

    def _sizes_after(self, number: int) -> List[Tuple[int, int]]:
        return self._connection.execute(self._sql["sizes"], (number, PORTION_ROWS)).fetchall()

    def _read_rows(self, numbers: Sequence[int]) -> List[Row]:
        with self._connection.cursor(binary=True) as cursor:
            return [Row(*row) for row in cursor.execute(self._sql["rows"], (list(numbers),))]

    def _read_settings(self) -> List[Setting]:
        return [Setting(*row) for row in self._connection.execute(self._sql["settings"])]

    def _take_over(self, numbers: Numbers) -> List[Row]:
        if self._one("SELECT to_regclass(%s)", self._table) is None:
            return []
        with self._connection.transaction(), self._connection.cursor() as cursor:
            try:
                # In one statement, so that nothing is removed that a C server which still runs adds.
                found = cursor.execute(self._sql["of_c"]).fetchall()
            except (self._driver.errors.UndefinedColumn, self._driver.errors.UndefinedFunction) as error:
                text = "--queue: table %s of %s is not a queue of the C server: %s"
                raise ConfigError(text % (self._table, self.where, self._said(error))) from None
            rows = [row_of_c(*numbers(), *columns) for columns in found]
            self._add(cursor, pieces_of(rows, _STATEMENT_BYTES))
        return rows


_STATEMENTS = {
    "create": _CREATE,
    "lock": "SELECT " + _LOCK,
    "add": _ADD,
    "change": _CHANGE,
    "remove": _REMOVE,
    "remove range": _REMOVE_RANGE,
    "set": _SET,
    "sizes": "SELECT number, octet_length(workload) FROM {t}_jobs WHERE number > %b::bigint ORDER BY number LIMIT %b::bigint",
    "rows": "SELECT " + _COLUMNS + " FROM {t}_jobs WHERE number = ANY(%b::bigint[])",
    "settings": "SELECT key, value FROM {t}_settings",
    "forget": "DELETE FROM {t}_settings WHERE value IS NULL",
    "of_c": _OF_C,
}
