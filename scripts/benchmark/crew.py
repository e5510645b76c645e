"""The driver's processes together: one load, one run, against one server."""

from __future__ import annotations

import multiprocessing
import os
import time
from array import array
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from benchmark.driver import START_S, Figures, drive
from benchmark.links import Fault
from benchmark.loads import Load

GRACE_S = 20.0
"""How much longer than it may a driver can take to say something."""


class Run(NamedTuple):
    """What one run has measured. Times of jobs are what their clients saw; None where there are no clients."""

    jobs: int
    seconds: float
    rate: float
    p50_us: Optional[float]
    p99_us: Optional[float]
    max_us: Optional[float]
    busy_share: float
    """How much of its time the busiest of the driver's processes ran, or could have if others had not."""
    driver_us_per_job: float
    server_us_per_job: Optional[float]
    others_share: Optional[float]
    """How much of all processors' time went to other programs."""


class Member(NamedTuple):
    process: Any
    control: Connection


def shares(load: Load, processes: int) -> List[Load]:
    """The load, dealt to so many processes or as many as it has a use for."""
    dealt = load.clients if not load.has_workers else load.workers if not load.has_clients else max(load.clients, load.workers)
    processes = max(1, min(processes, dealt))

    def share(number: int, of: int) -> int:
        return of // processes + (number < of % processes)

    parts = [
        load._replace(clients=share(i, load.clients), workers=share(i, load.workers), idle=share(i, load.idle))
        for i in range(processes)
    ]
    lead = [part.clients if load.has_clients else part.workers for part in parts]
    ends = [load.jobs * sum(lead[: i + 1]) // sum(lead) for i in range(processes)]
    return [part._replace(jobs=end - start) for part, start, end in zip(parts, [0, *ends], ends)]


def measure(
    address: Tuple[str, int], load: Load, grab: int, seconds: float, processes: int, server_cpu_s: Callable[[], Optional[float]]
) -> Run:
    """One run. Raises Fault."""
    members = [_start(address, share, grab, seconds) for share in shares(load, processes)]
    try:
        _hear(members, "ready", START_S)
        before = time.monotonic(), server_cpu_s(), busy_s()
        _tell(members, "begin")
        _hear(members, "done", seconds)
        after = time.monotonic(), server_cpu_s(), busy_s()
        _tell(members, "end")
        figures = list(_hear(members, "figures", 0).values())
    finally:
        _end(members)
    spent = [None if one is None or two is None else two - one for one, two in zip(before, after)]
    return _run(figures, *spent)


def _start(address: Tuple[str, int], load: Load, grab: int, seconds: float) -> Member:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=drive, args=(address, load, grab, seconds, theirs), name="bench-driver", daemon=True)
    process.start()
    theirs.close()
    return Member(process, ours)


def _tell(members: List[Member], word: str) -> None:
    for member in members:
        try:
            member.control.send(word)
        except OSError:
            # What it has said before it ended will be heard.
            pass


def _hear(members: List[Member], word: str, seconds: float) -> Dict[Connection, Any]:
    """Until each member has said `word`. Returns what it said with it."""
    ends_at = time.monotonic() + seconds + GRACE_S
    waiting = [member.control for member in members]
    heard: Dict[Connection, Any] = {}
    while len(heard) < len(members):
        ready = wait([control for control in waiting if control not in heard], max(0.0, ends_at - time.monotonic()))
        if not ready:
            raise Fault("a process of the driver did not say %r in time" % word)
        for control in ready:
            try:
                said, *rest = control.recv()
            except (EOFError, OSError):
                raise Fault("a process of the driver ended without a word") from None
            if said != word:
                raise Fault(rest[0] if said == "fault" else "a process of the driver said %r, not %r" % (said, word))
            heard[control] = rest[0] if rest else None
    return heard


def _end(members: List[Member]) -> None:
    for member in members:
        member.control.close()
    for member in members:
        member.process.join(1)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()


def _run(figures: List[Figures], wall_s: Any, server_s: Optional[float], all_s: Optional[float]) -> Run:
    jobs = sum(one.jobs for one in figures)
    seconds = max(one.ended_at for one in figures) - min(one.begun_at for one in figures)
    if not jobs or seconds <= 0:
        raise Fault("the server did not finish a job in %.1f s" % seconds)
    took = array("d")
    for one in figures:
        took.frombytes(one.took_s)
    ordered = sorted(took)
    driver_s = sum(one.cpu_s for one in figures)
    return Run(
        jobs,
        seconds,
        jobs / seconds,
        percentile_us(ordered, 0.5),
        percentile_us(ordered, 0.99),
        percentile_us(ordered, 1.0),
        max(one.busy_share for one in figures),
        driver_s / jobs * 1e6,
        None if server_s is None else server_s / jobs * 1e6,
        None if server_s is None or all_s is None else others_share(all_s - server_s - driver_s, wall_s),
    )


def percentile_us(ordered: Sequence[float], part: float) -> Optional[float]:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1e6 if ordered else None


def others_share(spent_s: float, wall_s: float) -> float:
    return min(1.0, max(0.0, spent_s / (wall_s * (os.cpu_count() or 1))))


def cpu_s_of(pid: int) -> Optional[float]:
    """What a process has spent of the processors; None where the system does not tell."""
    try:
        with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_s() -> Optional[float]:
    """What all processes together have spent of the processors, with what the kernel and the host took."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
