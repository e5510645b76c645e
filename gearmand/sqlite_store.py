"""The store in a file: SQLite, of the standard library.

The file has three tables, named after the one that the C server uses, T:

    T_jobs     the rows
    T_settings what has been set for functions, and the like
    T          the C server's own, if there is one: its rows are taken over at the start

Write-ahead log; how hard a commit waits for the disk is the operator's choice
(`--durability`). The file is locked for as long as it is open, so that two
servers cannot work on one queue.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from gearmand import files
from gearmand.c_queue import row_of_c
from gearmand.errors import ConfigError, StoreError, Unstorable
from gearmand.rows import Row, Setting, whole
from gearmand.store import Numbers, Store, Work, ranges_of

SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL", "off": "OFF"}
"""`--durability`. full: survives the machine's end; normal: survives the server's; off: survives the server's too,
but the machine's end may leave no file that can be read."""

_APPLICATION = 0x6765_6172  # "gear"
_VERSION = 1
_INCREMENTAL = 2
_LOCKED_S = 2.0
_PAGES_A_TIME = 2000
_SHRINK_PAGES = 256

# What comes of a value that is too large, or of a type that it does not know: which one depends on Python's version.
_OF_A_VALUE = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, ValueError, TypeError, OverflowError)

_COLUMNS = "number, handle, function, uniq, workload, priority, due, submitted, retries, reducer"


class SqliteStore(Store):
    """Opens or makes the file. ConfigError: it cannot be used, and what to do about it."""

    _option = "--queue"

    def __init__(self, path: str, table: str = "gearman_queue", durability: str = "full") -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table):
            raise ConfigError("--libsqlite3-table: expected a name of letters, digits and _, got %r" % table)
        self.where = path
        self._path = os.path.abspath(path)
        self._table = table
        try:
            self._make(path)
            self._connection = sqlite3.connect(path, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False)
            try:
                self._connection.text_factory = bytes
                self._open(path, SYNCHRONOUS[durability])
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise ConfigError(_refusal(self._option, path, error)) from None
        except OSError as error:
            raise ConfigError("%s: cannot open %s: %s" % (self._option, path, error.strerror)) from None

    def _make(self, path: str) -> None:
        if os.path.islink(path) and not files.is_guarded(path):
            raise ConfigError("--queue: %s is a link, in a directory that others than root may write: name its target" % path)
        try:
            # Made by ourselves, so that nobody else may read it.
            os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            # Does not work: opening it here to see whether we may. Closing it again would let go of every lock
            # that this process has on it.
            if os.path.isdir(path):
                raise ConfigError("--queue: cannot open %s: it is a directory" % path) from None
            if not os.access(path, os.R_OK | os.W_OK):
                raise ConfigError("--queue: cannot open %s: check its owner and mode" % path) from None

    def _open(self, path: str, synchronous: str) -> None:
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = %s" % synchronous)
        execute("BEGIN IMMEDIATE")
        self._check_version(path)
        execute(
            "CREATE TABLE IF NOT EXISTS %s_jobs (number INTEGER PRIMARY KEY, handle BLOB, function BLOB, uniq BLOB,"
            " workload BLOB, priority INTEGER, due INTEGER, submitted REAL, retries INTEGER, reducer BLOB)" % self._table
        )
        execute(
            "CREATE TABLE IF NOT EXISTS %s_settings (key BLOB PRIMARY KEY, value TEXT)" % self._table
        )
        execute("SELECT %s FROM %s_jobs LIMIT 0" % (_COLUMNS, self._table))
        execute("COMMIT")
        # A file that another program has made gives nothing back before all of it is written anew.
        self._can_shrink = execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL
        # The whole file is looked at once, so that damage is found now and not in the middle of the night.
        found = execute("PRAGMA quick_check(1)").fetchone()[0]
        if found not in (b"ok", "ok"):
            text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
            raise sqlite3.DatabaseError(text.splitlines()[-1])
        self._files = (path, os.path.realpath(path) + "-wal")
        self._identities = [_identity(name) for name in self._files]

    def _check_version(self, path: str) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        ours = application == _APPLICATION
        if ours and version > _VERSION:
            raise ConfigError("--queue: %s was made by a later version of gearmand: use that one" % path)
        if not ours:
            if application or version:
                raise ConfigError("--queue: %s is the database of another program: use another file" % path)
            self._connection.execute("PRAGMA application_id = %d" % _APPLICATION)
        self._connection.execute("PRAGMA user_version = %d" % _VERSION)

    # -- at the start ------------------------------------------------------------

    def load(self) -> Iterator[Row]:
        try:
            for row in self._connection.execute("SELECT %s FROM %s_jobs ORDER BY number" % (_COLUMNS, self._table)):
                yield whole(row, self.where)
        except sqlite3.Error as error:
            raise StoreError("%s: %s" % (self.where, error)) from None

    def load_settings(self) -> List[Setting]:
        try:
            found = self._connection.execute("SELECT key, value FROM %s_settings" % self._table).fetchall()
        except sqlite3.Error as error:
            raise StoreError("%s: %s" % (self.where, error)) from None
        return [Setting(key, value.decode("ascii")) for key, value in found]

    def take_over(self, numbers: Numbers) -> List[Row]:
        rows = self.rows_of_c(numbers)
        if rows:
            try:
                with self._transaction() as execute:
                    self._add(rows)
                    execute("DELETE FROM %s" % self._table)
            except sqlite3.Error as error:
                raise StoreError("%s: %s" % (self.where, error)) from None
        return rows

    def rows_of_c(self, numbers: Numbers) -> List[Row]:
        """What the C server's table has. ConfigError: it is not the C server's."""
        execute = self._connection.execute
        try:
            if execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (self._table,)).fetchone() is None:
                return []
            found = execute(
                "SELECT unique_key, function_name, priority, data, when_to_run FROM %s ORDER BY rowid" % self._table
            ).fetchall()
            return [row_of_c(*numbers(), *columns) for columns in found]
        except (sqlite3.Error, ValueError, TypeError) as error:
            what = (self._option, self._table, self.where, error)
            raise ConfigError("%s: table %s of %s is not a queue of the C server: %s" % what) from None

    # -- ever after ----------------------------------------------------------------

    def commit(self, work: Work) -> None:
        try:
            self._check_identity()
            with self._transaction():
                self._add(work.added)
                self._connection.executemany(
                    "UPDATE %s_jobs SET handle = ?2, retries = ?3, priority = ?4, due = COALESCE(?5, due) WHERE number = ?1" % self._table,
                    work.changed,
                )
                self._connection.executemany(
                    "DELETE FROM %s_jobs WHERE number BETWEEN ? AND ?" % self._table, ranges_of(work.removed)
                )
                self._connection.executemany("INSERT OR REPLACE INTO %s_settings VALUES (?, ?)" % self._table, work.settings)
                if any(setting.value is None for setting in work.settings):
                    self._connection.execute("DELETE FROM %s_settings WHERE value IS NULL" % self._table)
        except _OF_A_VALUE as error:
            raise Unstorable("%s: %s" % (self.where, error)) from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError("%s: %s" % (self.where, error)) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Callable[..., Any]]:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            yield execute
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def _add(self, rows: Any) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO %s_jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)" % self._table, rows)

    def _check_identity(self) -> None:
        """SQLite goes on writing to files that have been removed or replaced: nothing of that would survive."""
        for name, identity in zip(self._files, self._identities):
            if _identity(name) != identity:
                raise OSError("%s has been removed or replaced: put it back, or restart the server" % name)

    def fetch(self, numbers: Sequence[int]) -> List[Row]:
        query = "SELECT %s FROM %s_jobs WHERE number BETWEEN ? AND ?" % (_COLUMNS, self._table)
        try:
            found = {row[0]: whole(row, self.where) for first, last in ranges_of(numbers) for row in self._connection.execute(query, (first, last))}
        except sqlite3.Error as error:
            raise StoreError("%s: %s" % (self.where, error)) from None
        return [found[number] for number in numbers if number in found]

    def shrink(self) -> bool:
        if not self._can_shrink:
            return False
        try:
            free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            if free < _SHRINK_PAGES:
                return False
            # Does not work: `execute`, which on Python 3.11 and older takes one step of it, one page.
            self._connection.executescript("PRAGMA incremental_vacuum(%d)" % _PAGES_A_TIME)
            return True
        except sqlite3.Error:
            return False

    def size_bytes(self) -> Optional[int]:
        # The file, and its write-ahead log while there is one.
        return sum(os.stat(path).st_size for path in (self._path, self._path + "-wal") if os.path.exists(path))

    def close(self) -> None:
        self._connection.close()


class SqliteSource(SqliteStore):
    """A file whose jobs are read and that stays as it is, ours or a C server's. ConfigError: it cannot be read, or has none."""

    _option = "--import"

    def _make(self, path: str) -> None:
        pass

    def _open(self, path: str, synchronous: str) -> None:
        tables = {name.decode() for name, in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        self._is_ours = self._table + "_jobs" in tables
        if not self._is_ours and self._table not in tables:
            raise ConfigError("--import: %s has no table %s or %s_jobs: there is no queue in it" % (path, self._table, self._table))

    def load(self) -> Iterator[Row]:
        return super().load() if self._is_ours else iter(())

    def load_settings(self) -> List[Setting]:
        return super().load_settings() if self._is_ours else []


def _identity(path: str) -> Tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


_REFUSALS: Dict[str, str] = {
    "locked": "another process uses it: stop that one, or use another file",
    "malformed": "it is damaged: move it away and start with an empty queue, or restore a copy"
    " (sqlite3 FILE .recover may save what is left)",
    "not a database": "it is no SQLite file, or damaged: move it away and start with an empty queue, or restore a copy",
    "readonly": "it cannot be written: check its owner and mode, and its directory's",
}


def _refusal(option: str, path: str, error: sqlite3.Error) -> str:
    remedy: Optional[str] = next((text for word, text in _REFUSALS.items() if word in str(error)), None)
    if remedy is None and isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        remedy = _REFUSALS["malformed"]
    return "%s: cannot use %s: %s%s" % (option, path, error, "" if remedy is None else ": " + remedy)
