"""Complaints that may come by the thousand: the first of a kind is logged, the rest are counted and summed up.

Threads: any. Its lock guards the counts and is not held while logging.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Dict, List, Tuple

INTERVAL_S = 60.0


class Complaints:
    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        # kind: when it was last logged, and how often it was held back since.
        self._kinds: Dict[str, Tuple[float, int]] = {}

    def say(self, level: int, kind: str, message: str, *arguments: object, exc_info: bool = False) -> None:
        """Log a message, unless one of its kind was logged less than a minute ago."""
        now = time.monotonic()
        with self._lock:
            since, held_back = self._kinds.get(kind, (-INTERVAL_S, 0))
            fresh = now - since >= INTERVAL_S
            self._kinds[kind] = (now, 0) if fresh else (since, held_back + 1)
        if fresh:
            if held_back:
                self._sum_up(level, kind, held_back)
            self._log.log(level, message, *arguments, exc_info=exc_info)

    def sum_up(self) -> bool:
        """Log the counts of kinds whose minute is over. Returns whether any count is still open."""
        now = time.monotonic()
        done: List[Tuple[str, int]] = []
        with self._lock:
            for kind, (since, held_back) in list(self._kinds.items()):
                if now - since >= INTERVAL_S:
                    del self._kinds[kind]
                    if held_back:
                        done.append((kind, held_back))
            still_open = bool(self._kinds)
        for kind, held_back in done:
            self._sum_up(logging.WARNING, kind, held_back)
        return still_open

    def _sum_up(self, level: int, kind: str, held_back: int) -> None:
        self._log.log(level, "%s: %d more times in the last minute", kind, held_back)
