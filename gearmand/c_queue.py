"""Rows of the queue of a C server: what its tables in SQLite, PostgreSQL and MySQL, and its keys in Redis, have in common."""

from __future__ import annotations

import time
from typing import Any

from gearmand.rows import Row


def row_of_c(number: int, handle: bytes, unique: Any, function: Any, priority: Any, data: Any, due: Any) -> Row:
    """A row of its table. It stores an empty workload as NULL, and no due time as 0."""
    return Row(
        number, handle, _blob(function), _blob(unique), _blob(data), priority if priority in (0, 1, 2) else 1,
        int(due) if due else None, time.time(), 0, None,
    )  # fmt: skip


def _blob(value: Any) -> bytes:
    if value is None:
        return b""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
