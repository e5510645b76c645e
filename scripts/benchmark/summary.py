"""Runs to medians, spread and ratios; the table, and what goes to JSON."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from benchmark.crew import Run
from benchmark.loads import Load
from benchmark.servers import Server

BUSY = 0.9
"""A driver that runs, or waits for a processor, more than this part of its time measures itself."""
AS_FAST_AS_SINK = 0.9
"""So does one that gets no more out of the sink."""
OF_ROUND_TRIP = 0.1
"""With one client nothing overlaps, because all that is in flight comes and goes together: the driver's own time is a
part of each round trip. From this part on it is worth a note."""
QUIET = 0.1
"""A machine that does other things for more than this part of its time tells nobody how fast a server is."""


class Result(NamedTuple):
    """What one server did with one load: runs, without the first; or what went wrong."""

    server: Server
    load: Load
    runs: List[Run]
    fault: str = ""

    def median(self, name: str) -> Optional[float]:
        values = [getattr(run, name) for run in self.runs]
        return None if not values or None in values else statistics.median(values)

    @property
    def rate(self) -> float:
        return self.median("rate") or 0.0

    @property
    def spread(self) -> float:
        """From the lowest rate to the highest, as a part of the median."""
        rates = [run.rate for run in self.runs]
        return (max(rates) - min(rates)) / self.rate if rates else 0.0


Results = Sequence[Result]


def of(results: Results, load: Load, name: str) -> Optional[Result]:
    return next((one for one in results if one.load == load and one.server.name == name and one.runs), None)


def limited_by_driver(result: Result, results: Results) -> str:
    """Why the figure says more about the driver than about the server; empty: it does not."""
    if not result.runs or result.server.name == "sink":
        return ""
    if (result.median("busy_share") or 0) > BUSY:
        return "driver-limited: it was busy %.0f %% of the time" % (100 * (result.median("busy_share") or 0))
    sink = of(results, result.load, "sink")
    if sink and quiet(sink) and quiet(result) and result.rate > AS_FAST_AS_SINK * sink.rate:
        return "driver-limited: the driver does not get more out of the sink, %s/s" % count(sink.rate)
    own_us, trip_us = (result.median("driver_us_per_job") or 0.0) * result.load.depth, result.median("p50_us")
    if result.load.clients == 1 and trip_us and own_us > OF_ROUND_TRIP * trip_us:
        return "driver-limited in part: up to %.0f us of each round trip are the driver's own" % own_us
    return ""


def quiet(result: Result) -> bool:
    return (result.median("others_share") or 0) <= QUIET


def notes(result: Result, results: Results) -> List[str]:
    found = [result.fault, limited_by_driver(result, results)]
    if result.runs and result.median("jobs") != result.load.jobs:
        found.append("stopped after %.1f s, %s jobs" % (result.median("seconds") or 0, count(result.median("jobs") or 0)))
    alone = next((one for one in results if str(one.load) == "sync" and one.server.name == result.server.name and one.runs), None)
    if result.load.mode == "idle" and result.runs and alone:
        found.append("%.2f of its rate without idle workers" % (result.rate / alone.rate))
    return [note for note in found if note]


def ratio(result: Result, results: Results, reference: str, name: str = "rate") -> Optional[float]:
    other = of(results, result.load, reference)
    value, its = result.median(name), other and other.median(name)
    return value / its if value and its else None


# -- the table -------------------------------------------------------------------


def count(number: float) -> str:
    return "{:,.0f}".format(number)


def _cells(result: Result, results: Results, reference: str) -> List[str]:
    def cell(name: str, form: str = "{:,.0f}", scale: float = 1.0) -> str:
        value = result.median(name)
        return "-" if value is None else form.format(value * scale)

    def against(name: str) -> str:
        value = ratio(result, results, reference, name)
        return "-" if value is None else "%.2f" % value

    return [
        "  " + result.server.name, count(result.rate), "%.0f %%" % (100 * result.spread), against("rate"),
        cell("p50_us"), cell("p99_us"), against("p99_us"),
        cell("server_us_per_job", "{:,.1f}"), cell("driver_us_per_job", "{:,.1f}"), cell("busy_share", "{:.0f} %", 100),
        cell("others_share", "{:.0f} %", 100),
    ]  # fmt: skip


HEAD = ["", "jobs/s", "spread", "of {}", "p50 us", "p99 us", "of {}", "server us", "driver us", "busy", "others"]
WIDTHS = [8, 10, 7, 7, 9, 9, 7, 9, 9, 5, 6]


def _line(cells: Sequence[str]) -> str:
    return " ".join([cells[0].ljust(WIDTHS[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], WIDTHS[1:]))])


def heading(reference: str) -> str:
    return _line([cell.format(reference) for cell in HEAD])


def block(load: Load, results: Results, reference: str) -> str:
    """What there is of one load: a line for each server, and below it what there is to be noted."""
    lines = [str(load)]
    for one in results:
        if one.load == load:
            lines.append(_line(_cells(one, results, reference)) if one.runs else "  " + one.server.name)
            lines += ["             " + note for note in notes(one, results)]
    return "\n".join(lines)


LEGEND = """\
jobs/s: median of the runs. spread: from the slowest run to the fastest, as a part of the median. of %s: ratio of medians.
p50, p99: from a request to its end, as its client sees it. server us, driver us: processor time for each job.
busy: how much of its time the driver ran, or waited for a processor. others: how much of all processors' time other programs took.
"""


def warning(results: Results) -> str:
    """What the reader has to know of all figures."""
    loud = [one.median("others_share") or 0 for one in results if not quiet(one)]
    if not loud:
        return ""
    most = 100 * max(loud)
    return "The machine was not quiet: other programs took up to %.0f %% of it. The figures are not the servers' alone.\n" % most


# -- JSON ------------------------------------------------------------------------


def machine() -> Dict[str, Any]:
    return {
        "processors": len(os.sched_getaffinity(0)),
        "model": _processor_model(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "load_average": list(os.getloadavg()),
    }


def _processor_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), platform.machine())
    except OSError:
        return platform.machine()


def document(results: Results, reference: str, processes: int, begun: str) -> Dict[str, Any]:
    """Everything that was measured, as plain data."""
    servers = {one.server.name: one.server for one in results}
    return {
        "format": 1,
        "begun": begun,
        "machine": machine(),
        "driver": {"python": sys.version.split()[0], "processes": processes},
        "reference": reference,
        "servers": [{"name": one.name, "version": one.version, "command": one.command} for one in servers.values()],
        "results": [
            {
                "load": str(one.load),
                **one.load._asdict(),
                "server": one.server.name,
                "rate": one.rate or None,
                "spread": one.spread,
                "ratio": ratio(one, results, reference),
                "p50_us": one.median("p50_us"),
                "p99_us": one.median("p99_us"),
                "p99_ratio": ratio(one, results, reference, "p99_us"),
                "server_us_per_job": one.median("server_us_per_job"),
                "driver_us_per_job": one.median("driver_us_per_job"),
                "busy_share": one.median("busy_share"),
                "others_share": one.median("others_share"),
                "driver_limited": bool(limited_by_driver(one, results)),
                "fault": one.fault or None,
                "notes": notes(one, results),
                "runs": [dict(run._asdict()) for run in one.runs],
            }
            for one in results
        ],
    }
