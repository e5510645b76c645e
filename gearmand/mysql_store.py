"""The store in a MySQL or MariaDB database, by way of PyMySQL.

Tables named after the one that the C server uses, T:

    T_jobs     the rows
    T_settings what has been set for functions, and the like
    T_owner    the server that has the queue
    T          the C server's own, if there is one: its rows are taken over at the start

The lock is one of GET_LOCK, which each node of a cluster has for itself. What
a commit survives is what the database's own settings make it.

A transaction is one packet of several statements, so one round trip, unless it
is larger than max_allowed_packet. The statements are made here, as bytes:
PyMySQL would make text of every workload first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gearmand.c_queue import row_of_c
from gearmand.errors import ConfigError
from gearmand.remote_store import CONNECTING_S, HUNG_S, LOCK_S, NOT_STORABLE, OUSTED, PORTION_ROWS, TAKEN, RemoteStore, Taken, driver
from gearmand.rows import Row, Setting
from gearmand.store import Numbers, Work, ranges_of

_VERSION = 1
_NUMBERS_A_STATEMENT = 5000
_SPARE_BYTES = 1024

_CREATE = (
    """CREATE TABLE IF NOT EXISTS {t}_jobs (number BIGINT PRIMARY KEY, handle BLOB NOT NULL, `function` BLOB NOT NULL,
 uniq BLOB NOT NULL, workload LONGBLOB NOT NULL, priority SMALLINT NOT NULL, due BIGINT, submitted DOUBLE NOT NULL,
 retries BIGINT NOT NULL, reducer BLOB) ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS {t}_settings (id BINARY(32) PRIMARY KEY, name BLOB NOT NULL, value MEDIUMBLOB)
 ENGINE=InnoDB""",
    """CREATE TABLE IF NOT EXISTS {t}_owner (one SMALLINT PRIMARY KEY, version INT NOT NULL, owner VARCHAR(64) NOT NULL)
 ENGINE=InnoDB""",
)
_COLUMNS = "number, handle, `function`, uniq, workload, priority, due, submitted, retries, reducer"
# NO_BACKSLASH_ESCAPES must be off, see `_quoted`. A session of a machine that
# is gone ends soon, and the lock is free then.
_SETTINGS = "SET SESSION sql_mode = 'STRICT_ALL_TABLES', wait_timeout = 60, innodb_lock_wait_timeout = 10, autocommit = 1"

_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")

_NO_COLUMN = 1054
# The database stops, killed us, cannot be reached, has gone; a lock was waited
# for too long, or was part of a deadlock; it can only be read just now.
_LOSSES = {1053, 1205, 1213, 1290, 1836, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}


class Address(NamedTuple):
    host: str = "localhost"
    port: int = 3306
    user: str = ""
    password: str = ""
    database: str = ""
    ca_file: Optional[str] = None
    """What the database's certificate is checked with; `None`: no TLS."""


class MysqlStore(RemoteStore):
    """ConfigError: it cannot be used."""

    def __init__(self, address: Address, table: str = "gearman_queue") -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,49}", table):
            raise ConfigError("--mysql-table: expected a name of up to 50 letters, digits and _, got %r" % table)
        self._driver = driver("pymysql", "mysql")
        where = "mysql://%s@%s:%d/%s" % (address.user, address.host, address.port, address.database)
        super().__init__(where, [address.password])
        # RuntimeError: a package for a kind of password is missing.
        self._errors = (self._driver.Error, *NOT_STORABLE, RuntimeError)
        self._address = address
        self._table = table
        self._session = 0
        self._open()

    # -- the connection ------------------------------------------------------------------

    def _connect(self, first: bool) -> None:
        address = self._address
        how: Dict[str, Any] = {"host": address.host, "port": address.port}
        # As the C library does: this name is the local socket.
        local = next(filter(os.path.exists, _SOCKETS), None) if address.host == "localhost" else None
        if local is not None:
            how["unix_socket"] = local
        if address.ca_file is not None:
            how["ssl"] = {"ca": address.ca_file}
        self._connection = self._driver.connect(
            user=address.user or None, password=address.password, database=address.database or None, charset="utf8mb4",
            init_command=_SETTINGS, autocommit=None, connect_timeout=CONNECTING_S, read_timeout=HUNG_S, write_timeout=HUNG_S,
            client_flag=self._driver.constants.CLIENT.MULTI_STATEMENTS, **how,
        )  # fmt: skip
        ((self._packet_bytes, database),) = self._run(b"SELECT @@max_allowed_packet, DATABASE()")
        if database is None:
            raise ConfigError("--queue: %s names no database" % self.where)
        # Only where it is needed: it takes the right to make tables.
        names = ",".join("'%s_%s'" % (self._table, each) for each in ("jobs", "settings", "owner"))
        there = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN (%s)" % names
        if _first_of(self._run(there.encode())) < len(_CREATE):
            for statement in _CREATE:
                self._run(statement.format(t=self._table).encode())
        self._lock(LOCK_S if first else 0.0, database)
        self._check_owner(first)
        # Those timeouts were for connecting; from now on the connection is severed when it is time.
        self._connection._read_timeout = self._connection._write_timeout = None

    def _lock(self, waiting_s: float, database: str) -> None:
        name = "gearmand " + hashlib.sha1(("%s.%s" % (database, self._table)).encode()).hexdigest()
        if self._session and not _first_of(self._run(b"SELECT IS_FREE_LOCK('%s')" % name.encode())):
            # Our own session, if the database does not know yet that it is over.
            if _first_of(self._run(b"SELECT IS_USED_LOCK('%s')" % name.encode())) == self._session:
                with contextlib.suppress(self._driver.Error):
                    self._run(b"KILL %d" % self._session)
            waiting_s = LOCK_S
        if not _first_of(self._run(b"SELECT GET_LOCK('%s', %a)" % (name.encode(), waiting_s))):
            raise Taken(TAKEN)
        self._session = self._connection.thread_id()

    def _check_owner(self, first: bool) -> None:
        owner = self._table.encode() + b"_owner"
        version = _first_of(self._run(b"SELECT MAX(version) FROM " + owner))
        if version is not None and version > _VERSION:
            raise ConfigError("--queue: %s was made by a later version of gearmand: use that one" % self.where)
        ours = (b"REPLACE" if first else b"INSERT IGNORE", owner, _VERSION, self.identity.encode())
        self._run(b"%s INTO %s VALUES (1, %d, '%s')" % ours)
        if _first_of(self._run(b"SELECT owner FROM " + owner)) != self.identity:
            raise Taken(OUSTED)

    def _disconnect(self) -> None:
        self._connection.close()

    def _descriptor(self) -> int:
        descriptor: int = self._connection._sock.fileno()
        return descriptor

    def _is_lost(self, error: Exception) -> bool:
        code = error.args[0] if error.args else 0
        return isinstance(error, (OSError, self._driver.InterfaceError)) or code in _LOSSES

    def _roll_back(self) -> None:
        self._run(b"ROLLBACK")

    def _beat(self) -> None:
        self._connection.ping(reconnect=False)

    def _run(self, query: bytes) -> Sequence[Any]:
        """Send statements, and return what the last one found."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            found: Sequence[Any] = cursor.fetchall()
            while cursor.nextset():
                found = cursor.fetchall()
            return found

    # -- transactions ----------------------------------------------------------------------

    def _transact(self, work: Work) -> None:
        self._send([b"START TRANSACTION", *self._adding(work.added), *self._rest(work), b"COMMIT"])

    def _send(self, statements: Sequence[bytes]) -> None:
        together: List[bytes] = []
        size = 0
        for statement in statements:
            if together and size + len(statement) > self._packet_bytes - _SPARE_BYTES:
                self._run(b";".join(together))
                together, size = [], 0
            together.append(statement)
            size += len(statement) + 1
        self._run(b";".join(together))

    def _adding(self, rows: Sequence[Row]) -> Iterator[bytes]:
        head = b"REPLACE INTO %s_jobs VALUES " % self._table.encode()
        values: List[bytes] = []
        size = 0
        most = self._packet_bytes - 2 * _SPARE_BYTES
        for row in rows:
            value = _values(row)
            if len(value) > most:
                # The database would close the connection.
                raise ValueError("a job of %d bytes is over its max_allowed_packet of %d" % (len(value), self._packet_bytes))
            if values and size + len(value) > most:
                yield head + b",".join(values)
                values, size = [], 0
            values.append(value)
            size += len(value) + 1
        if values:
            yield head + b",".join(values)

    def _rest(self, work: Work) -> Iterator[bytes]:
        table = self._table.encode()
        for change in work.changed:
            due = b"due" if change.due_s is None else b"%d" % change.due_s
            changed = (table, _quoted(change.handle), change.retries, change.priority, due, change.number)
            yield b"UPDATE %s_jobs SET handle = %s, retries = %d, priority = %d, due = %s WHERE number = %d" % changed
        for where in _places(work.removed):
            yield b"DELETE FROM %s_jobs WHERE %s" % (table, where)
        for key, value in work.settings:
            if value is None:
                yield b"DELETE FROM %s_settings WHERE id = %s" % (table, _id(key))
            else:
                yield b"REPLACE INTO %s_settings VALUES (%s, %s, %s)" % (table, _id(key), _quoted(key), _quoted(value.encode()))

    def _sizes_after(self, number: int) -> List[Tuple[int, int]]:
        query = b"SELECT number, LENGTH(workload) FROM %s_jobs WHERE number > %d ORDER BY number LIMIT %d"
        return list(self._run(query % (self._table.encode(), number, PORTION_ROWS)))

    def _read_rows(self, numbers: Sequence[int]) -> List[Row]:
        query = b"SELECT %s FROM %s_jobs WHERE %s"
        found: List[Row] = []
        for where in _places(numbers):
            found += [Row(*row) for row in self._run(query % (_COLUMNS.encode(), self._table.encode(), where))]
        return found

    def _read_settings(self) -> List[Setting]:
        found = self._run(b"SELECT name, value FROM %s_settings" % self._table.encode())
        return [Setting(key, value.decode("ascii")) for key, value in found]

    def _take_over(self, numbers: Numbers) -> List[Row]:
        table = self._table.encode()
        engine = self._run(b"SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '%s'" % table)
        if not engine:
            return []
        # Locked, so that nothing is removed that a C server which still runs adds.
        self._run(b"START TRANSACTION")
        try:
            found = self._run(
                b"SELECT CAST(unique_key AS BINARY), CAST(function_name AS BINARY), priority, data, when_to_run FROM %s FOR UPDATE" % table
            )
        except self._driver.Error as error:
            if error.args[0] == _NO_COLUMN:
                text = "--queue: table %s of %s is not a queue of the C server: %s"
                raise ConfigError(text % (self._table, self.where, self._said(error))) from None
            raise
        rows = [row_of_c(*numbers(), *columns) for columns in found]
        # A table without transactions: rather twice than not at all.
        between = [] if engine[0][0] == "InnoDB" else [b"COMMIT"]
        self._send([*self._adding(rows), *between, b"DELETE FROM " + table, b"COMMIT"])
        return rows


def _first_of(rows: Sequence[Any]) -> Any:
    return rows[0][0]


def _values(row: Row) -> bytes:
    return b"(%d,%s,%s,%s,%s,%d,%s,%a,%d,%s)" % (
        row.number, _quoted(row.handle), _quoted(row.function), _quoted(row.unique), _quoted(row.workload), row.priority,
        _number(row.due_s), float(row.submitted_s), row.retries, b"NULL" if row.reducer is None else _quoted(row.reducer),
    )  # fmt: skip


def _quoted(value: Any) -> bytes:
    return b"_binary'%s'" % bytes(value).replace(b"\\", b"\\\\").replace(b"'", b"\\'")


def _id(key: bytes) -> bytes:
    return _quoted(hashlib.sha256(key).digest())


def _number(value: Optional[int]) -> bytes:
    return b"NULL" if value is None else b"%d" % value


def _places(numbers: Sequence[int]) -> Iterator[bytes]:
    """Conditions that rows of these numbers meet."""
    ranges = ranges_of(numbers)
    for at in range(0, len(ranges), _NUMBERS_A_STATEMENT):
        piece = ranges[at : at + _NUMBERS_A_STATEMENT]
        alone = [b"%d" % first for first, last in piece if first == last]
        places = [b"number BETWEEN %d AND %d" % (first, last) for first, last in piece if first != last]
        if alone:
            places.append(b"number IN (%s)" % b",".join(alone))
        yield b" OR ".join(places)
