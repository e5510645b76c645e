"""The rows of administrative tables, as a person reads them and as they stand on the wire.

Names are `str`; see `admin` for what that means.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Pattern


class FunctionStatus(NamedTuple):
    """A row of `status`. `total`: jobs queued and running; `workers`: how many can do the function, busy or not."""

    function: str
    total: int
    running: int
    workers: int

    @property
    def queued(self) -> int:
        return max(0, self.total - self.running)


class PriorityStatus(NamedTuple):
    """A row of `prioritystatus`: how many jobs of each priority are queued; running ones do not count."""

    function: str
    high: int
    normal: int
    low: int
    workers: int

    @property
    def queued(self) -> int:
        return self.high + self.normal + self.low


class WorkerStatus(NamedTuple):
    """A row of `workers`: any connection, with the functions that it can do. A `client_id` never set is "-"."""

    fd: int
    address: str
    client_id: str
    functions: List[str]


class ClientJob(NamedTuple):
    """A job that a client waits for; `worker`: the address of the one that runs it, `None` while it is queued."""

    function: str
    unique: str
    worker: Optional[str]


class ClientStatus(NamedTuple):
    """A connection in `clients`, with the jobs that it waits for."""

    address: str
    jobs: List[ClientJob]


class JobStatus(NamedTuple):
    """A row of `jobs`. `worker`: the address of the one that runs it; `listeners`: how many clients wait for it."""

    function: str
    unique: str
    worker: Optional[str]
    listeners: int


class AclEntry(NamedTuple):
    """A row of `acl list`: what a subject may, as patterns separated by commas (gear's server: regular expressions); `None`: nothing."""

    subject: str
    work: Optional[str]
    submit: Optional[str]
    admin: Optional[str]
    """gear's server has none: `None`."""
    grant: bool
    """Whether it may change the list."""


class ShownJob(NamedTuple):
    """A row of `show jobs`. `ignored`: nobody wants the job any more; `persisted`: it is stored, or could be."""

    handle: str
    retries: int
    ignored: bool
    persisted: bool


class Snapshot(NamedTuple):
    """All functions at one time, in seconds since 1970.

    `rates`: by function, how much `total` has grown since the snapshot before,
    per second: jobs that came less jobs that ended. Empty in the first one.
    """

    time: float
    functions: List[FunctionStatus]
    rates: Dict[str, float]


def _row(pattern: bytes) -> Pattern[bytes]:
    # With DOTALL a name may have a line feed in it: a row ends where its last
    # columns are what they have to be.
    return re.compile(pattern, re.DOTALL)


STATUS_ROW = _row(rb"(.*?)\t(-?\d+)\t(-?\d+)\t(-?\d+)\n")
PRIORITY_ROW = _row(rb"(.*?)\t(-?\d+)\t(-?\d+)\t(-?\d+)\t(-?\d+)\n")
WORKER_ROW = _row(rb"(\d+) (\S+) (.*?) :(.*?)\n(?=\d+ \S+ |\Z)")
CLIENT_ROW = _row(rb"(\S*)\n|\t(.*?)\t(.*?)\t(\S+)\n")
JOB_ROW = _row(rb"(.*?)\t(.*?)\t(\S+)\t(\d+)\n")
ACL_ROW = _row(rb"([^\n]*?)\tregister=(.*?)\tinvoke=(.*?)\tgrant=(True|False)(?:\tadmin=([^\n]*))?\n")
SHOWN_ROW = _row(rb"(.*?)\t(\d+)\t(\d+)\t(\d+)\n")
