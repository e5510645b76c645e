"""What is due when: a heap of deadlines, any of which can be called off. Knows no clock.

Called-off entries stay in the heap until they come up or until they are the
majority; then the heap is rebuilt. So a timeout of an hour on jobs that take a
millisecond does not keep an hour's worth of them.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, Iterator, List, Optional

_DUE, _NUMBER, _ITEM = range(3)


class Deadlines:
    """Items in the order in which they are due; equal times in the order in which they were added."""

    def __init__(self) -> None:
        self._heap: List[list[Any]] = []
        self._numbers = itertools.count()
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def add(self, due: float, item: Any) -> list[Any]:
        """Note that `item` is due at `due` and return the entry, the only key to call it off."""
        entry = [due, next(self._numbers), item]
        heapq.heappush(self._heap, entry)
        return entry

    def call_off(self, entry: list[Any]) -> None:
        """Forget an entry that has not come up yet."""
        entry[_ITEM] = None
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [kept for kept in self._heap if kept[_ITEM] is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def next_due(self) -> Optional[float]:
        """When to look again; never later than the first item is due. `None`: nothing is waiting."""
        return self._heap[0][_DUE] if self._heap else None

    def pop_due(self, now: float) -> Iterator[Any]:
        """Take out and yield what is due at `now`. Entries may be added and called off meanwhile."""
        while self._heap and self._heap[0][_DUE] <= now:
            item = heapq.heappop(self._heap)[_ITEM]
            if item is None:
                self._dead -= 1
            else:
                yield item

    def items(self) -> List[Any]:
        """All items that wait, in no order."""
        return [entry[_ITEM] for entry in self._heap if entry[_ITEM] is not None]
