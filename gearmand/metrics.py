"""Metrics for Prometheus, in its text format: two tables of what there is, and how it is written down.

Samples of one metric have to stand together, so the figures of all functions
are taken first, a few a turn, and written afterwards.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from gearmand import figures
from gearmand.broker import Broker
from gearmand.functions import Function
from gearmand.tally import BOUNDS_S

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FUNCTIONS = 5000
"""Of how many functions there are metrics: those that were seen first, so that they stay the same ones."""
# (Measured, 20 clients that ask and do not read: the slowest hundredth of other clients' jobs 1.3 ms, with 200 lines 3 to 9.)
_LINES_A_PIECE = 20

Figures = Dict[str, Any]


class Metric(NamedTuple):
    name: str
    kind: str
    """counter, gauge or histogram."""
    help: str
    value: Callable[[Figures], Any]
    """Of a function's figures, or of the server's. A number; the buckets and the sum of a histogram; a dictionary of
    numbers by the value of `label`; `None`: there is none."""
    label: str = ""


def _of(*names: str) -> Callable[[Figures], Any]:
    def value(found: Figures) -> Any:
        for name in names:
            found = found.get(name)  # type: ignore[assignment]
            if found is None:
                return None
        return found

    return value


OF_FUNCTIONS: Tuple[Metric, ...] = (
    Metric("gearmand_jobs_queued", "gauge", "Jobs that a worker could take now.", _of("queued"), "priority"),
    Metric("gearmand_jobs_scheduled", "gauge", "Jobs that wait for their due time.", _of("scheduled")),
    Metric("gearmand_jobs_buried", "gauge", "Jobs that have used their attempts up, and wait for a person.", _of("buried")),
    Metric("gearmand_function_paused", "gauge", "1 while none of its jobs is given out, because it was paused.", lambda found: int(found["paused"])),
    Metric("gearmand_jobs_running", "gauge", "Jobs that a worker has.", _of("running")),
    Metric("gearmand_workers", "gauge", "Connections that can do the function.", _of("workers")),
    Metric("gearmand_oldest_job_age_seconds", "gauge", "For how long the oldest queued job has been in its queue; 0 where there is none.", lambda found: found["oldest_s"] or 0.0),
    Metric("gearmand_jobs_submitted_total", "counter", "Jobs accepted. Those that were in the store at the start are not among them.", _of("submitted")),
    Metric("gearmand_jobs_coalesced_total", "counter", "Submissions that joined an unfinished job.", _of("coalesced")),
    Metric("gearmand_jobs_completed_total", "counter", "Jobs that ended with WORK_COMPLETE.", _of("completed")),
    Metric("gearmand_jobs_failed_total", "counter", "Jobs that ended with WORK_FAIL, or whose attempts were used up.", _of("failed")),
    Metric("gearmand_jobs_exceptions_total", "counter", "Jobs that ended with WORK_EXCEPTION.", _of("exceptions")),
    Metric("gearmand_jobs_cancelled_total", "counter", "Jobs that were cancelled.", _of("cancelled")),
    Metric("gearmand_jobs_abandoned_total", "counter", "Foreground jobs that ended because nobody waited for them any more.", _of("abandoned")),
    Metric("gearmand_jobs_retried_total", "counter", "How often a job was queued again, because its worker was gone or too late, or had failed and attempts were left.", _of("retried")),
    Metric("gearmand_jobs_timed_out_total", "counter", "How often a worker took longer than its timeout.", _of("timed_out")),
    Metric("gearmand_jobs_expired_total", "counter", "Jobs that ended because they had waited for too long.", _of("expired")),
    Metric("gearmand_jobs_given_up_total", "counter", "Jobs that have used their attempts up; each is among those that failed or raised an exception.", _of("ever_buried")),
    Metric("gearmand_job_wait_seconds", "histogram", "How long jobs were in their queue before a worker took them.", _of("waits")),
    Metric("gearmand_job_run_seconds", "histogram", "How long workers took from there to the result.", _of("runs")),
)  # fmt: skip
"""Each with the label function."""

OF_SERVER: Tuple[Metric, ...] = (
    Metric("gearmand_build_info", "gauge", "1, with the version as a label.", lambda found: {found["version"]: 1}, "version"),
    Metric("gearmand_start_time_seconds", "gauge", "When the server started, in seconds since 1970.", _of("started_s")),
    Metric("gearmand_draining", "gauge", "1 while the server takes no new jobs, because it is to stop.", lambda found: int(found["draining"])),
    Metric("gearmand_functions", "gauge", "Functions that are known.", _of("functions")),
    Metric("gearmand_functions_without_metrics", "gauge", "Functions beyond those that have metrics.", _of("functions_without_metrics")),
    Metric("gearmand_connections", "gauge", "Connections now.", _of("connections"), "protocol"),
    Metric("gearmand_connections_opened_total", "counter", "Connections since the start.", _of("connections_opened"), "protocol"),
    Metric("gearmand_received_bytes_total", "counter", "Bytes that clients and workers have sent.", _of("received_bytes"), "protocol"),
    Metric("gearmand_sent_bytes_total", "counter", "Bytes that were sent to clients and workers.", _of("sent_bytes"), "protocol"),
    Metric("gearmand_outbox_bytes", "gauge", "Bytes that wait to be sent to clients and workers.", _of("outbox_bytes")),
    Metric("gearmand_http_requests_total", "counter", "Requests of HTTP, by the status of the answer.", _of("http_requests"), "status"),
    Metric("gearmand_threads", "gauge", "Threads of the process that Python has started.", _of("threads")),
    Metric("gearmand_memory_bytes", "gauge", "Memory of the process that is in use (resident).", _of("memory_bytes")),
    Metric("gearmand_cpu_seconds_total", "counter", "Processor time of the process.", _of("cpu_s")),
    Metric("gearmand_open_descriptors", "gauge", "Files and sockets that the process has open.", _of("open_descriptors")),
    Metric("gearmand_store_commit_seconds", "histogram", "How long transactions of the store took.", _of("store", "commits")),
    Metric("gearmand_store_commit_failures_total", "counter", "Transactions of the store that failed.", _of("store", "failures")),
    Metric("gearmand_store_waiting", "gauge", "Rows, ends and changes that wait for the next transaction.", _of("store", "waiting")),
    Metric("gearmand_store_size_bytes", "gauge", "Size of the store, where it is a file.", _of("store", "size_bytes")),
)  # fmt: skip


# -- what is written -----------------------------------------------------------------


def exposition(broker: Broker, server: Figures) -> Iterator[bytes]:
    """All metrics, in pieces. `server`: its own figures."""
    registry = broker.registry

    def row(function: Function) -> Figures:
        return figures.of_function(registry, function)

    # By the label: two names that are no UTF-8 may have the same, and Prometheus takes no sample twice.
    taken: Dict[str, Figures] = {}
    for rows in broker.rows(lambda registry: list(registry.functions.values())[:FUNCTIONS], row):
        taken.update(('function="%s"' % _label(found["function"]), found) for found in rows)
    without = max(0, server["functions"] - FUNCTIONS)
    yield from _pieces(OF_SERVER, [("", {**server, "functions_without_metrics": without})])
    yield from _pieces(OF_FUNCTIONS, list(taken.items()))


def _pieces(metrics: Sequence[Metric], rows: Sequence[Tuple[str, Figures]]) -> Iterator[bytes]:
    lines: List[str] = []
    for metric in metrics:
        head = ["# HELP %s %s" % (metric.name, metric.help), "# TYPE %s %s" % (metric.name, metric.kind)]
        for labels, found in rows:
            value = metric.value(found)
            if value is not None:
                lines += head + _samples(metric, labels, value)
                head = []
            if len(lines) >= _LINES_A_PIECE:
                yield ("\n".join(lines) + "\n").encode("utf-8")
                lines = []
    yield ("\n".join(lines) + "\n").encode("utf-8")


def _samples(metric: Metric, labels: str, value: Any) -> List[str]:
    name = metric.name
    if metric.kind == "histogram":
        return _histogram(name, labels, *value)
    if not metric.label:
        return ["%s%s %s" % (name, "{%s}" % labels if labels else "", _number(value))]
    before = labels + "," if labels else ""
    return ['%s{%s%s="%s"} %s' % (name, before, metric.label, key, _number(each)) for key, each in value.items()]


def _histogram(name: str, labels: str, buckets: Sequence[int], sum_s: float) -> List[str]:
    before = labels + "," if labels else ""
    lines = []
    count = 0
    for bound, more in zip((*BOUNDS_S, "+Inf"), buckets):
        count += more
        lines.append('%s_bucket{%sle="%s"} %d' % (name, before, bound, count))
    after = "{%s}" % labels if labels else ""
    return [*lines, "%s_sum%s %s" % (name, after, _number(sum_s)), "%s_count%s %d" % (name, after, count)]


def _number(value: Any) -> str:
    return repr(round(value, 6)) if isinstance(value, float) else str(value)


def _label(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# -- the process ---------------------------------------------------------------------


def of_process() -> Figures:
    """What the system says of this process; what it does not say is left out."""
    found: Figures = {"threads": threading.active_count(), "cpu_s": time.process_time()}
    try:
        with open("/proc/self/statm", "rb") as file:
            found["memory_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found["open_descriptors"] = len(os.listdir("/proc/self/fd"))
    except OSError:
        pass
    return found
