"""What the stores in database servers have in common: the connection, which may be lost, and that a queue has one server.

    commit ──▶ connected? ──▶ the kind's own transaction ──▶ done
                   ▲                    │ lost
                   └── wait, connect ◀──┘                    for some seconds, then StoreError

All that a transaction does can be done twice, so one whose outcome is unknown,
because the connection broke at its end, is done again. Where that never
succeeded, the rows of it may be there all the same: they are *doubtful*, and
the next transaction removes them, because whoever submitted them was told that
they are not stored.

One server works on a queue. It holds the database's lock for as long as its
connection lasts, and has its identity written beside the rows. When the
connection is made anew the lock is taken anew, and the identity tells whether
another server has had the queue meanwhile. If so this one is *ousted*: it
knows nothing of what the other has done, and stores no more.

A kind has `_connect`, `_transact`, `_read_rows` and so on, below; it raises
what its driver raises.

Threads: the one that uses the store, and `gearmand-store`. The latter looks
after the connection while nothing is asked of it, so that neither it nor the
lock ends of silence; and it severs the connection when the database takes
longer than what it was asked explains, which the timeouts of drivers cannot
know. `_using` guards the connection.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import threading
import time
import weakref
from typing import Any, Callable, Iterator, List, Optional, Sequence, Set, Tuple, TypeVar

from gearmand.errors import ConfigError, StoreError, Unstorable
from gearmand.rows import Row, Setting, whole
from gearmand.store import Numbers, Store, Work

Result = TypeVar("Result")

TRYING_S = 10.0
"""How long a transaction is tried."""
CONNECTING_S = 3
"""How long one attempt to connect may take."""
HUNG_S = 10.0
"""How long the database may keep silent in a transaction, beyond what its size explains."""
LOCK_S = 8.0
"""How long a start waits for the lock of a server that has just ended, maybe in the middle of a large transaction."""

OUSTED = "another gearmand has worked on this queue meanwhile: restart this one"
TAKEN = "another gearmand works on this queue: stop that one, or use another table"

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LOOK_S = 0.5
_BYTES_PER_S = 2**20
_READING_S = 60.0
_PORTION_BYTES = 16 * 2**20
PORTION_ROWS = 5000


NOT_STORABLE = (OSError, ValueError, TypeError, OverflowError)
"""What comes of values that a database cannot take."""


class Taken(Exception):
    """The queue is not this server's: another has it."""


def driver(module: str, extra: str) -> Any:
    """A module of a database's driver. ConfigError: it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        said = " ".join(str(error).split())
        raise ConfigError("--queue: %s: pip install gearmand[%s]" % (said, extra)) from None


class RemoteStore(Store):
    """`hidden`: what no message may contain. The kind's constructor calls `_open` at its end."""

    beat_s = 3.0
    """How often the connection is looked after."""

    _connection: Any = None
    _driver: Any

    def __init__(self, where: str, hidden: Sequence[str] = ()) -> None:
        self.where = where
        self.identity = os.urandom(8).hex()
        # What the driver raises.
        self._errors: Tuple[Any, ...] = NOT_STORABLE
        self._hidden = [each for each in hidden if each]
        self._using = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=_look_after, args=(weakref.ref(self), self._closing), name="gearmand-store", daemon=True
        )
        self._doubtful: Set[int] = set()
        self._ousted = False
        # By when what is under way should have ended; when the connection was last used.
        self._hung_at: Optional[float] = None
        self._used_at = time.monotonic()

    # -- what each kind does its own way ---------------------------------------------

    def _connect(self, first: bool) -> None:
        """Connect and take the lock; `first`: write down `identity`, else compare with it. Taken."""
        raise NotImplementedError

    def _disconnect(self) -> None:
        raise NotImplementedError

    def _is_lost(self, error: Exception) -> bool:
        """Whether a new connection may help."""
        raise NotImplementedError

    def _is_of_a_value(self, error: Exception) -> bool:
        """Whether it comes of a value that the database, or its driver, cannot take."""
        return isinstance(error, (*NOT_STORABLE, self._driver.DataError)) and not isinstance(error, OSError)

    def _roll_back(self) -> None:
        """Make the connection usable after an error that was no loss."""

    def _transact(self, work: Work) -> None:
        raise NotImplementedError

    def _beat(self) -> None:
        """Make sure that the connection is there, and the lock."""
        raise NotImplementedError

    def _sizes_after(self, number: int) -> List[Tuple[int, int]]:
        """The next `PORTION_ROWS` rows' numbers, in order, and how large their workloads are."""
        raise NotImplementedError

    def _read_rows(self, numbers: Sequence[int]) -> List[Row]:
        """In any order."""
        raise NotImplementedError

    def _read_settings(self) -> List[Setting]:
        raise NotImplementedError

    def _take_over(self, numbers: Numbers) -> List[Row]:
        raise NotImplementedError

    def _descriptor(self) -> int:
        """That of the connection's socket."""
        raise NotImplementedError

    # -- the contract --------------------------------------------------------------------

    def load(self) -> Iterator[Row]:
        last = -(2**63)
        while True:
            sizes = self._do(self._sizes_after, last, allowed_s=_READING_S)
            if not sizes:
                return
            for numbers in _portions(sizes):
                yield from self.fetch(numbers)
            last = sizes[-1][0]

    def fetch(self, numbers: Sequence[int]) -> List[Row]:
        if not numbers:
            return []
        found = {row.number: whole(row, self.where) for row in self._do(self._read_rows, numbers, allowed_s=_READING_S)}
        return [found[number] for number in numbers if number in found]

    def load_settings(self) -> List[Setting]:
        return self._do(self._read_settings)

    def take_over(self, numbers: Numbers) -> List[Row]:
        # Once: had it been done before the connection broke, a second time would find nothing and return nothing.
        return self._do(self._take_over, numbers, allowed_s=_READING_S, trying_s=0.0)

    def commit(self, work: Work) -> None:
        added = {row.number: row for row in work.added}
        changed = {change.number: change for change in work.changed}
        settings = {setting.key: setting for setting in work.settings}

        def transact() -> None:
            doubtful = self._doubtful.difference(added)
            removed = [*doubtful, *work.removed] if doubtful else work.removed
            try:
                self._transact(Work(list(added.values()), list(changed.values()), removed, list(settings.values())))
            except Exception as error:
                if not isinstance(error, self._errors) or self._is_lost(error):
                    self._doubtful.update(added)
                raise
            self._doubtful.clear()

        size = sum(len(row.workload) for row in added.values())
        self._do(transact, allowed_s=HUNG_S + size / _BYTES_PER_S)

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(HUNG_S)
            if self._thread.is_alive():
                self._sever()
                self._thread.join()
        with self._held():
            if self._connection is not None:
                self._disconnect_quietly()

    # -- the connection ------------------------------------------------------------------

    def _sever(self) -> None:
        """End the connection under a thread that waits for the database."""
        with contextlib.suppress(AttributeError, OSError, ValueError, *self._errors):
            with socket.socket(fileno=os.dup(self._descriptor())) as ours:
                ours.shutdown(socket.SHUT_RDWR)

    def _open(self) -> None:
        """Connect for the first time. ConfigError."""
        try:
            self._connect(True)
        except ConfigError:
            self._disconnect_quietly()
            raise
        except Taken as taken:
            self._disconnect_quietly()
            raise ConfigError("--queue: %s: %s" % (self.where, taken)) from None
        except self._errors as error:
            self._disconnect_quietly()
            raise ConfigError("--queue: cannot use %s: %s" % (self.where, self._said(error))) from None
        self._thread.start()

    def _do(
        self, action: Callable[..., Result], *arguments: Any, allowed_s: Optional[float] = None, trying_s: Optional[float] = None
    ) -> Result:
        """Return `action(*arguments)`, tried again on a new connection where one is lost. StoreError."""
        ends_at = time.monotonic() + (TRYING_S if trying_s is None else trying_s)
        # A database that has dropped the connection is there again, mostly.
        pause_s = 0.0
        with self._held():
            while True:
                try:
                    self._hung_at = time.monotonic() + CONNECTING_S + LOCK_S + HUNG_S
                    self._connect_again()
                    self._hung_at = time.monotonic() + (HUNG_S if allowed_s is None else allowed_s)
                    return action(*arguments)
                except Taken as taken:
                    raise StoreError("%s: %s" % (self.where, taken)) from None
                except self._errors as error:
                    if not self._is_over(error) or time.monotonic() + pause_s > ends_at:
                        kind = Unstorable if self._is_of_a_value(error) else StoreError
                        raise kind("%s: %s" % (self.where, self._said(error))) from None
                except Exception:
                    # Whatever it is, a MemoryError say: nobody knows what the connection is in the middle of.
                    self._disconnect_quietly()
                    raise
                finally:
                    self._hung_at = None
                    self._used_at = time.monotonic()
                time.sleep(pause_s)
                pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _connect_again(self) -> None:
        if self._ousted:
            raise Taken(OUSTED)
        if self._connection is None:
            try:
                self._connect(False)
            except BaseException as error:
                self._ousted = isinstance(error, Taken) and str(error) == OUSTED
                self._disconnect_quietly()
                if isinstance(error, ConfigError):
                    raise Taken(str(error)) from None
                raise

    def _is_over(self, error: Exception) -> bool:
        """Whether the connection is lost, which it is then let go of; else it can be used on."""
        if self._connection is not None and not self._is_lost(error):
            try:
                self._roll_back()
                return False
            except self._errors:
                self._disconnect_quietly()
                return False
        self._disconnect_quietly()
        return True

    def _disconnect_quietly(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*self._errors):
                self._disconnect()
            self._connection = None

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if not self._using.acquire(timeout=HUNG_S):
            self._sever()
            self._using.acquire()
        try:
            yield
        finally:
            self._using.release()

    def __del__(self) -> None:
        # Whoever forgets a store lets go of the queue.
        if self._connection is not None:
            self._closing.set()
            self._disconnect_quietly()

    def look_after(self) -> None:
        """What the thread `gearmand-store` does every `_LOOK_S`."""
        now = time.monotonic()
        hung_at = self._hung_at
        if hung_at is not None and now > hung_at:
            self._sever()
        elif now - self._used_at >= self.beat_s and self._using.acquire(blocking=False):
            try:
                self._look_once()
            finally:
                self._used_at = time.monotonic()
                self._using.release()

    def _look_once(self) -> None:
        # Whatever goes wrong here, the next commit meets and tells of.
        try:
            self._connect_again()
            self._beat()
            if self._doubtful:
                self._transact(Work((), (), list(self._doubtful), ()))
                self._doubtful.clear()
        except Taken:
            pass
        except Exception as error:
            if not isinstance(error, self._errors):
                self._disconnect_quietly()
            elif self._is_over(error):
                # At once, because the lock is free.
                with contextlib.suppress(Taken, *self._errors):
                    self._connect_again()

    def _said(self, error: BaseException) -> str:
        """The message of an exception, in one line, without what is hidden."""
        text = " ".join(str(error).split()) or type(error).__name__
        for each in self._hidden:
            text = text.replace(each, "***")
        return text


def _look_after(reference: "weakref.ref[RemoteStore]", closing: threading.Event) -> None:
    while not closing.wait(_LOOK_S):
        store = reference()
        if store is None:
            return
        store.look_after()
        del store


def _portions(sizes: Sequence[Tuple[int, int]]) -> Iterator[List[int]]:
    """Numbers of rows that are read together."""
    numbers: List[int] = []
    together = 0
    for number, size in sizes:
        if numbers and together + size > _PORTION_BYTES:
            yield numbers
            numbers, together = [], 0
        numbers.append(number)
        together += size
    yield numbers


def pieces_of(rows: Sequence[Row], most_bytes: int) -> List[List[Row]]:
    """Rows that go together; none is left out."""
    pieces: List[List[Row]] = []
    room = 0
    for row in rows:
        room -= len(row.workload)
        if not pieces or room < 0 or len(pieces[-1]) == PORTION_ROWS:
            pieces.append([])
            room = most_bytes - len(row.workload)
        pieces[-1].append(row)
    return pieces
