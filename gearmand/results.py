"""Results of background jobs, kept for a time and within a bound. Pure; knows no job."""

from __future__ import annotations

from collections import OrderedDict
from typing import Dict, NamedTuple, Optional, Tuple

from gearmand.jobs import Workload

_OVERHEAD_BYTES = 500


class Result(NamedTuple):
    """What a background job has ended with. Data that was sent before the end is not kept."""

    handle: bytes
    function: bytes
    unique: bytes
    how: str
    """complete, fail or exception."""
    data: bytes
    epoch_s: float
    """When it ended, since 1970."""
    until: float
    """Kept until then (monotonic)."""


class Results:
    """`most_bytes`: beyond that the oldest ones go."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.bytes = 0
        # Oldest first; and by function and unique the latest one's handle.
        self._results: "OrderedDict[bytes, Result]" = OrderedDict()
        self._by_unique: Dict[Tuple[bytes, bytes], bytes] = {}

    def __len__(self) -> int:
        return len(self._results)

    def keep(self, handle: bytes, function: bytes, unique: bytes, how: str, data: Workload, epoch_s: float, now: float, for_s: float) -> None:
        if _OVERHEAD_BYTES + len(data) > self._most_bytes:
            return
        self._forget(handle)
        self._results[handle] = Result(handle, function, unique, how, bytes(data), epoch_s, now + for_s)
        self.bytes += _OVERHEAD_BYTES + len(data)
        if unique:
            self._by_unique[function, unique] = handle
        while self._results:
            oldest = next(iter(self._results.values()))
            if self.bytes <= self._most_bytes and oldest.until > now:
                break
            self._forget(oldest.handle)

    def find(self, handle: bytes, now: float) -> Optional[Result]:
        """`None`: there is none, or not any more."""
        found = self._results.get(handle)
        if found is not None and found.until <= now:
            self._forget(handle)
            return None
        return found

    def of_unique(self, function: bytes, unique: bytes, now: float) -> Optional[Result]:
        """The latest one of that function and unique."""
        handle = self._by_unique.get((function, unique))
        return None if handle is None else self.find(handle, now)

    def _forget(self, handle: bytes) -> None:
        result = self._results.pop(handle, None)
        if result is None:
            return
        self.bytes -= _OVERHEAD_BYTES + len(result.data)
        if self._by_unique.get((result.function, result.unique)) == handle:
            del self._by_unique[result.function, result.unique]
