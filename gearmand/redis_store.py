"""The store in a Redis database, by way of redis-py.

Keys named after the prefix of those that the C server uses, P:

    gearmand:P:jobs      number ─▶ the row: a line of numbers, among them how long each of the bytes after it is; those bytes
    gearmand:P:changes   number ─▶ what has become different of it
    gearmand:P:settings  what has been set for functions, and the like
    gearmand:P:owner     the server that has the queue
    gearmand:P:lock      the same, for as long as that server is there
    P-FUNCTION-UNIQUE    the C server's own: taken over at the start

A transaction is one script: it does nothing where the lock or the queue is
another's, else it prolongs the lock. Large transactions are several, because
a script is held in memory, twice, and limited: the last one has all but the
first rows. What a commit survives is what the database's own `appendonly` and
`appendfsync` make it.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import re
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gearmand.c_queue import row_of_c
from gearmand.errors import ConfigError, StoreError
from gearmand.remote_store import (
    CONNECTING_S, HUNG_S, NOT_STORABLE, OUSTED, PORTION_ROWS, TAKEN, RemoteStore, Taken, driver, pieces_of,
)  # fmt: skip
from gearmand.rows import Change, Row, Setting
from gearmand.store import Numbers, Work

EXPIRY_S = 10.0
"""How long the lock outlives a server that has been killed."""

_LOOK_S = 0.1
_SCRIPT_BYTES = 64 * 2**20

_OWNED = """
local holder, owner = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return 'owner' end
if holder and holder ~= ARGV[1] then return 'lock' end
"""
# ARGV: identity, expiry; how many arguments are rows, changes and settings;
# numbers to remove; rows, changes, settings. KEYS: lock, owner, jobs, changes,
# settings, what C has left.
_COMMIT = (
    _OWNED
    + """
local removed, changed = {}, redis.call('EXISTS', KEYS[4]) == 1
local function remove()
  if #removed == 0 then return end
  redis.call('HDEL', KEYS[3], unpack(removed))
  if changed then redis.call('HDEL', KEYS[4], unpack(removed)) end
  removed = {}
end
local function remove_all()
  for number in string.gmatch(ARGV[6], '-?%d+') do
    removed[#removed + 1] = number
    if #removed == 1000 then remove() end
  end
  remove()
end
local claimed = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if claimed.err then
  -- Its memory is full: nothing is added, but what has ended goes, which makes room. After a command that takes no room
  -- it refuses nothing more.
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  if ARGV[3] ~= '0' then remove_all() return claimed end
end
redis.call('SET', KEYS[2], ARGV[1])
local at = 7
local function each(key, command, step)
  local last = at + tonumber(ARGV[key]) - 1
  while at <= last do
    local stop = math.min(at + step - 1, last)
    command(unpack(ARGV, at, stop))
    at = stop + 1
  end
end
each(3, function(...) redis.call('HSET', KEYS[3], ...) end, 1000)
each(4, function(number, change)
  if redis.call('HEXISTS', KEYS[3], number) == 1 then redis.call('HSET', KEYS[4], number, change) end
end, 2)
each(5, function(key, value)
  if value == '' then redis.call('HDEL', KEYS[5], key) else redis.call('HSET', KEYS[5], key, value) end
end, 2)
changed = redis.call('EXISTS', KEYS[4]) == 1
remove_all()
for at = 6, #KEYS do redis.call('DEL', KEYS[at]) end
return 'done'
"""
)
_SIZES = """
local sizes = {}
for number in string.gmatch(ARGV[1], '-?%d+') do sizes[#sizes + 1] = redis.call('HSTRLEN', KEYS[1], number) end
return sizes
"""
_LET_GO = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

# A unique that libgearman has made up.
_UUID = re.compile(rb"-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")


class Address(NamedTuple):
    host: str = "127.0.0.1"
    port: int = 6379
    user: str = ""
    password: str = ""
    database: int = 0
    tls: bool = False
    ca_file: Optional[str] = None
    """What the database's certificate is checked with; `None`: what the system trusts."""


class RedisStore(RemoteStore):
    """ConfigError: it cannot be used."""

    def __init__(self, address: Address, prefix: str = "_gear_") -> None:
        self._driver = driver("redis", "redis")
        scheme = "rediss" if address.tls else "redis"
        super().__init__("%s://%s:%d/%d" % (scheme, address.host, address.port, address.database), [address.password])
        self._errors = (self._driver.RedisError, *NOT_STORABLE)
        self._address = address
        self._prefix = prefix.encode()
        names = ("lock", "owner", "jobs", "changes", "settings")
        self._keys = [b"gearmand:%s:%s" % (self._prefix, name.encode()) for name in names]
        self._lock_key, self._owner_key, self._jobs, self._changes, self._settings = self._keys
        self._listed: List[int] = []
        self._open()

    # -- the connection ------------------------------------------------------------------

    def _connect(self, first: bool) -> None:
        address = self._address
        # Trying again is `RemoteStore`'s.
        never = driver("redis.retry", "redis").Retry(driver("redis.backoff", "redis").NoBackoff(), 0)
        # Only later versions of the driver check the name by themselves.
        tls: Dict[str, Any] = {"ssl_ca_certs": address.ca_file, "ssl_check_hostname": True} if address.tls else {}
        self._connection = self._driver.Redis(
            host=address.host, port=address.port, db=address.database, username=address.user or None,
            password=address.password or None, ssl=address.tls, socket_connect_timeout=CONNECTING_S, socket_timeout=HUNG_S,
            socket_keepalive=True, single_connection_client=True, retry=never, **tls,
        )  # fmt: skip
        self._script = self._connection.register_script(_COMMIT)
        if first:
            self._check_eviction()
            self._lock()
            self._connection.set(self._owner_key, self.identity)
        self._beat()
        # That timeout was for connecting; from now on the connection is severed when it is time.
        self._connection.connection._sock.settimeout(None)

    def _lock(self) -> None:
        """Take the lock, when the server that has it is there no more: one that is prolongs it."""
        expiry_ms = int(1000 * EXPIRY_S)
        left_ms = expiry_ms
        while not self._connection.set(self._lock_key, self.identity, nx=True, px=expiry_ms):
            now_ms = self._connection.pttl(self._lock_key)
            if now_ms == -1 or now_ms > left_ms:
                raise Taken(TAKEN.replace("table", "prefix"))
            left_ms = now_ms if now_ms >= 0 else left_ms
            time.sleep(_LOOK_S)

    def _check_eviction(self) -> None:
        try:
            memory = self._connection.info("memory")
        except self._driver.ResponseError:
            return  # We may not ask.
        policy = str(memory.get("maxmemory_policy", ""))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            text = "--queue: %s throws keys away when its memory is full, and so every job (maxmemory-policy %s): set it to noeviction"
            raise ConfigError(text % (self.where, policy))

    def _descriptor(self) -> int:
        descriptor: int = self._connection.connection._sock.fileno()
        return descriptor

    def _disconnect(self) -> None:
        with contextlib.suppress(*self._errors):
            # Of no use where the connection is lost; else the next server need not wait.
            if self._closing.is_set():
                self._connection.eval(_LET_GO, 1, self._lock_key, self.identity)
        self._connection.close()
        self._connection.connection_pool.disconnect()

    def _is_lost(self, error: Exception) -> bool:
        # The latter: the database is the copy of another, and about to take its place.
        return isinstance(error, (OSError, self._driver.ConnectionError, self._driver.TimeoutError, self._driver.ReadOnlyError))

    def _beat(self) -> None:
        self._transact(Work((), (), (), ()))

    # -- transactions ----------------------------------------------------------------------

    def _transact(self, work: Work) -> None:
        *before, last = pieces_of(work.added, _SCRIPT_BYTES) or [[]]
        try:
            for rows in before:
                self._commit_script(Work(rows, (), (), ()))
            self._commit_script(work._replace(added=last))
        except BaseException:
            if before:
                self._doubtful.update(row.number for row in work.added)
            raise

    def _commit_script(self, work: Work, further_keys: Sequence[bytes] = ()) -> None:
        rows = [part for row in work.added for part in (row.number, _text_of(row))]
        changes = [part for each in work.changed for part in (each.number, _text_of_change(each))]
        settings = [part for each in work.settings for part in (each.key, each.value or "")]
        arguments = [self.identity, int(1000 * EXPIRY_S), len(rows), len(changes), len(settings)]
        removed = " ".join(map(str, work.removed))
        found = self._script([*self._keys, *further_keys], [*arguments, removed, *rows, *changes, *settings])
        if found != b"done":
            raise Taken(OUSTED if found == b"owner" else TAKEN)

    def _sizes_after(self, number: int) -> List[Tuple[int, int]]:
        if number < 0 or not self._listed:
            self._listed = sorted(map(int, self._connection.hkeys(self._jobs)))
        at = bisect.bisect_right(self._listed, number)
        numbers = self._listed[at : at + PORTION_ROWS]
        if not numbers:
            self._listed = []
            return []
        return list(zip(numbers, self._connection.eval(_SIZES, 1, self._jobs, " ".join(map(str, numbers)))))

    def _read_rows(self, numbers: Sequence[int]) -> List[Row]:
        # Does not work: as a transaction. It is refused while the memory is full, as if it needed any; and none but us writes.
        with self._connection.pipeline(transaction=False) as pipeline:
            pipeline.hmget(self._jobs, numbers)
            pipeline.hmget(self._changes, numbers)
            found, changes = pipeline.execute()
        rows = []
        for text, change in zip(found, changes):
            if text is not None:
                row = self._row_of(text)
                if change is not None:
                    row = _changed(row, change)
                rows.append(row)
        return rows

    def _row_of(self, text: bytes) -> Row:
        try:
            return _row_of(text)
        except ValueError as error:
            raise StoreError("%s: a row is damaged, %r: %s: correct or remove it" % (self.where, text[:100], error)) from None

    def _read_settings(self) -> List[Setting]:
        return [Setting(key, value.decode("ascii")) for key, value in self._connection.hgetall(self._settings).items()]

    def _take_over(self, numbers: Numbers) -> List[Row]:
        pattern = re.sub(rb"([*?\[\]\\^-])", rb"\\\1", self._prefix) + b"-*"
        keys = sorted(set(self._connection.scan_iter(match=pattern, count=1000)))
        rows: List[Row] = []
        for at in range(0, len(keys), PORTION_ROWS):
            found = dict(self._of_c(keys[at : at + PORTION_ROWS]))
            taken = iter(found)
            portion = [self._row_of_c(numbers, key, *values) for key, values in found.items()]
            # In pieces: should the start fail at a later one, the earlier ones have been taken over.
            for piece in pieces_of(portion, _SCRIPT_BYTES):
                self._commit_script(Work(piece, (), (), ()), list(itertools.islice(taken, len(piece))))
            rows += portion
        return rows

    def _row_of_c(self, numbers: Numbers, key: bytes, data: Any, priority: Any) -> Row:
        function, unique = _names_of(key[len(self._prefix) + 1 :])
        return row_of_c(*numbers(), unique, function, int(priority or 1), data, None)

    def _of_c(self, keys: Sequence[bytes]) -> Iterator[Tuple[bytes, Any]]:
        """Keys with data and priority; C stores no delayed jobs. Older versions of it store the data alone."""
        with self._connection.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.type(key)
            kinds = pipeline.execute()
            wanted = [(key, kind) for key, kind in zip(keys, kinds) if kind in (b"hash", b"string")]
            for key, kind in wanted:
                pipeline.hmget(key, "data", "priority") if kind == b"hash" else pipeline.get(key)
            for (key, kind), values in zip(wanted, pipeline.execute()):
                yield key, values if kind == b"hash" else (values, None)


def _text_of(row: Row) -> bytes:
    number, handle, function, unique, workload, priority, due_s, submitted_s, retries, reducer = row
    has_reducer = -1 if reducer is None else len(reducer)
    due = b"-" if due_s is None else b"%d" % due_s
    head = (number, priority, retries, due, float(submitted_s), len(handle), len(function), len(unique), has_reducer)
    return b"%d %d %d %s %a %d %d %d %d\n%s%s%s%s%s" % (*head, handle, function, unique, reducer or b"", workload)


def _text_of_change(change: Change) -> bytes:
    due = b"" if change.due_s is None else b"@%d" % change.due_s
    return b"%d%s %d %s" % (change.retries, due, change.priority, change.handle)


def _changed(row: Row, text: bytes) -> Row:
    tried, priority, handle = text.split(b" ", 2)
    retries, _, due = tried.partition(b"@")
    return row._replace(retries=int(retries), priority=int(priority), handle=handle, due_s=int(due) if due else row.due_s)


def _row_of(text: bytes) -> Row:
    """ValueError: it is none."""
    at = text.index(b"\n") + 1
    number, priority, retries, due, submitted, *sizes = text[:at].split()
    parts = []
    for size in map(int, sizes):
        parts.append(text[at : at + size] if size >= 0 else None)
        at += max(size, 0)
    handle, function, unique, reducer = parts
    due_s = None if due == b"-" else int(due)
    return Row(int(number), handle, function, unique, text[at:], int(priority), due_s, float(submitted), int(retries), reducer)


def _names_of(text: bytes) -> Tuple[bytes, bytes]:
    """Function and unique. C separates them by a hyphen, which both may have too: a unique that its library made up is
    recognised; else it is the first hyphen, as in C."""
    found = _UUID.search(text)
    if found:
        return text[: found.start()], found.group(1)
    function, _, unique = text.partition(b"-")
    return function, unique
