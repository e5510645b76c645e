"""How the registry treats jobs and workers, where the operator has a choice."""

from __future__ import annotations

from typing import NamedTuple, Optional


class Rules(NamedTuple):
    attempts: Optional[int] = None
    """How many times a job is given out before it fails; `None`: any number."""
    wakeups: int = 1
    """How many sleepers one new job wakes; 0: all of them."""
    grace_s: float = 1.0
    """After how long a woken party that has not grabbed no longer counts."""
    linger_s: float = 0.005
    """How long a grab may linger; 0: not at all."""
    timeout_unit_s: float = 0.001
    """The unit of CAN_DO_TIMEOUT."""
    minimum_timeout_s: float = 1.0
    """What a shorter timeout is raised to."""
    timeout_fails: bool = False
    """A timeout is a WORK_FAIL, not another attempt."""
    reports_extend: bool = False
    """A report restarts the timeout."""
    newest_first: bool = False
    """A party's newest ability is always served first, instead of all in turn."""
    most_bytes: int = 2**62
    """How much the jobs in memory may take, so that another one is accepted: what is left of it is `Registry.room`."""
    most_abilities: int = 2**62
    """Of one party."""
    most_abilities_in_all: int = 2**62
    most_jobs: Optional[int] = None
    """How many a function may have that has no limit of its own; `None`: any number."""
    most_limited: int = 2**62
    """How many functions may have a limit of their own."""
    result_bytes: int = 64 * 1024**2
    """How much results that are kept may take."""
    kept_bytes: int = 0
    """How much stored jobs may take in memory; 0: any amount."""
