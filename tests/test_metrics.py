"""What is counted of jobs, and how Prometheus reads it: by the official parser, where that is installed."""

from __future__ import annotations

import json
import os
import re
import time

import pytest

from gearmand import Server, metrics
from gearmand.jobs import Priority
from gearmand.metrics import OF_FUNCTIONS, OF_SERVER, exposition
from gearmand.parties import Party
from gearmand.registry import Registry
from gearmand.tally import BOUNDS_S, Histogram
from gearmand import figures, revival
from test_http import get
from web import exchange
from wire import PRE_SLEEP, SUBMIT_JOB_BG, WORK_COMPLETE, WORK_EXCEPTION, WORK_FAIL, Wire, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMPLETE, FAIL = 13, 14


class Anybody(Party):
    def post(self, kind, body, tail=b""):
        pass


@pytest.fixture
def registry():
    registry = Registry(b"H:x", 1, attempts=2)
    registry.now, registry.epoch_s = 100.0, 1_000_000.0
    return registry


@pytest.fixture
def worker(registry):
    worker = Anybody()
    registry.can_do(worker, b"f")
    return worker


def of(registry, name=b"f"):
    return figures.of_function(registry, registry.functions[name])


def counts(registry, name=b"f"):
    """What is not zero."""
    names = ("submitted", "coalesced", "completed", "failed", "exceptions", "cancelled", "abandoned", "retried", "timed_out")
    found = of(registry, name)
    return {each: found[each] for each in names if found[each]}


def submit(registry, plain=False, **options):
    if plain:
        return registry.submit_plain(b"f", b"w")
    return registry.submit(options.pop("listener", None), b"f", options.pop("unique", b""), b"w", **options)


# -- what is counted -----------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False])
def test_job_is_counted_when_it_is_accepted_and_when_it_ends(registry, worker, plain):
    submit(registry, plain)
    assert counts(registry) == {"submitted": 1}
    registry.finish(worker, registry.grab(worker).handle, COMPLETE, b"")
    assert counts(registry) == {"submitted": 1, "completed": 1}
    submit(registry, plain)
    registry.finish(worker, registry.grab(worker).handle, FAIL, b"")
    submit(registry, plain)
    registry.finish_with_exception(worker, registry.grab(worker).handle, b"h\0text")
    submit(registry, plain)
    assert revival.cancel(registry, registry.handles.of(4))
    assert counts(registry) == {"submitted": 4, "completed": 1, "failed": 1, "exceptions": 1, "cancelled": 1}


def test_submission_that_joins_a_job_or_is_refused_is_no_job(registry):
    for _ in range(3):
        submit(registry, unique=b"u")
    assert counts(registry) == {"submitted": 1, "coalesced": 2}
    registry.functions.limit_queue(b"f", [1, 1, 1])
    submit(registry)
    submit(registry, plain=True)
    assert counts(registry) == {"submitted": 1, "coalesced": 2}


def test_job_that_nobody_waits_for_is_abandoned(registry):
    client = Anybody()
    submit(registry, listener=client)
    registry.leave(client)
    assert counts(registry) == {"submitted": 1, "abandoned": 1}


def test_job_whose_worker_goes_is_retried_and_at_last_fails(registry, worker):
    submit(registry)
    for _ in range(2):
        registry.grab(worker)
        registry.leave(worker)
        registry.can_do(worker, b"f")
    assert counts(registry) == {"submitted": 1, "retried": 1, "failed": 1}
    assert registry.failures[-1].data == b"its attempts were used up: 2"


def test_worker_that_takes_too_long_is_counted(registry):
    worker = Anybody()
    registry.can_do(worker, b"f", 5.0)
    submit(registry)
    registry.grab(worker)
    registry.now += 6
    registry.tick()
    assert counts(registry) == {"submitted": 1, "retried": 1, "timed_out": 1}


def test_jobs_of_a_store_are_not_submitted_again_and_their_age_is_their_own(registry):
    from gearmand.rows import Row

    for number in range(3):
        unique = b"u" if number else b""
        revival.restore(registry, Row(number, b"H:x:%d" % min(number, 1), b"f", unique, b"w", Priority.NORMAL, None, 1_000_000.0 - 60, 0, None))
    assert counts(registry) == {} and of(registry)["queued"]["normal"] == 2
    assert of(registry)["oldest_s"] == 60.0


@pytest.mark.parametrize("plain", [True, False])
def test_wait_and_run_times_are_those_of_the_clock(registry, worker, plain):
    submit(registry, plain)
    registry.now += 3
    job = registry.grab(worker)
    registry.now += 0.02
    registry.finish(worker, job.handle, COMPLETE, b"")
    found = of(registry)
    assert (found["waits"][1], round(found["runs"][1], 9)) == (3.0, 0.02)
    assert found["waits"][0].index(1) == BOUNDS_S.index(5.0) and found["runs"][0].index(1) == BOUNDS_S.index(0.05)


def test_job_that_is_due_later_waits_from_then_on(registry, worker):
    submit(registry, due_s=1_000_010)
    assert of(registry)["oldest_s"] is None
    registry.now, registry.epoch_s = 111.0, 1_000_011.0
    registry.tick()
    registry.now += 2
    assert of(registry)["oldest_s"] == 2.0


def test_oldest_job_is_the_first_of_all_queues_that_is_alive(registry, worker):
    handles = []
    for priority in (2, 1, 0, 1):
        handles.append(registry.submit(None, b"f", b"u%d" % len(handles), b"", priority).handle)
        registry.now += 1
    handles.append(registry.submit_plain(b"f", b"", 1))
    assert of(registry)["oldest_s"] == 4.0
    for expected, handle in zip((3.0, 2.0, 1.0, 0.0, None), handles):
        assert revival.cancel(registry, handle)
        assert of(registry)["oldest_s"] == expected


def test_histogram_has_a_bucket_for_each_bound_and_one_beyond():
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1], BOUNDS_S[-1] + 1):
        histogram.add(seconds)
    assert histogram.buckets[:2] == [2, 1] and histogram.buckets[-2:] == [1, 1]
    assert histogram.count == 5


# -- what is written -------------------------------------------------------------------


@pytest.fixture
def server():
    with Server(port=0, http_port=0) as server:
        yield server


def scraped(server):
    """Samples by name and labels, as the official parser has them."""
    parser = pytest.importorskip("prometheus_client.parser")
    status, headers, body = exchange(server.http_addresses[0], get(b"/metrics"))
    assert (status, headers["content-type"]) == (200, metrics.CONTENT_TYPE)
    families = list(parser.text_string_to_metric_families(body.decode("utf-8")))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
    found = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def of_function(found, name, function="f", **labels):
    return found[("gearmand_" + name, *sorted({"function": function, **labels}.items()))]


def test_figures_of_a_function_are_those_of_its_jobs(server):
    with Wire(server.address) as worker, Wire(server.address) as client:
        worker.can_do(b"f")
        for end in ((WORK_COMPLETE, b""), (WORK_COMPLETE, b""), (WORK_FAIL,), (WORK_EXCEPTION, b"")):
            client.submit(b"f", kind=SUBMIT_JOB_BG)
            worker.send(end[0], worker.grab()[0], *end[1:])
        client.submit(b"f", kind=SUBMIT_JOB_BG)
        worker.grab()
        for kind in (32, 34, 34):
            client.submit(b"f", kind=kind)
        found = scraped(server)
    assert of_function(found, "jobs_submitted_total") == 8
    assert [of_function(found, "jobs_%s_total" % name) for name in ("completed", "failed", "exceptions", "cancelled")] == [2, 1, 1, 0]
    assert [of_function(found, "jobs_queued", priority=name) for name in ("high", "normal", "low")] == [1, 0, 2]
    assert (of_function(found, "jobs_running"), of_function(found, "workers")) == (1, 1)
    assert 0 < of_function(found, "oldest_job_age_seconds") < 20
    assert (of_function(found, "job_wait_seconds_count"), of_function(found, "job_run_seconds_count")) == (5, 4)
    assert of_function(found, "job_wait_seconds_bucket", le="+Inf") == 5
    buckets = [of_function(found, "job_wait_seconds_bucket", le=str(bound)) for bound in BOUNDS_S]
    assert buckets == sorted(buckets)


def test_figures_of_the_server_are_there(server):
    with Wire(server.address) as wire:
        wire.echo(b"x" * 1000)
        # An answer may be there before it is counted.
        wait_until(lambda: next(iter(server.broker.peers)).sent_bytes == 1012, "it is counted")
        found = scraped(server)
    assert found["gearmand_connections", ("protocol", "gearman")] == found["gearmand_connections", ("protocol", "http")] == 1
    assert found["gearmand_received_bytes_total", ("protocol", "gearman")] == found["gearmand_sent_bytes_total", ("protocol", "gearman")] == 1012
    assert found["gearmand_build_info", ("version", server.control.version)] == 1
    assert found["gearmand_memory_bytes",] > 1e6 and found["gearmand_threads",] >= 4 and found["gearmand_cpu_seconds_total",] > 0
    assert abs(found["gearmand_start_time_seconds",] - time.time()) < 60
    assert found["gearmand_outbox_bytes",] == found["gearmand_draining",] == 0
    wait_until(lambda: not server.broker.peers, "the connection is gone")
    counted = ("gearmand_http_requests_total", ("status", "200"))
    wait_until(lambda: counted in scraped(server), "the first request is counted")
    found = scraped(server)
    assert found["gearmand_connections", ("protocol", "gearman")] == 0
    assert found["gearmand_received_bytes_total", ("protocol", "gearman")] == 1012
    assert found["gearmand_connections_opened_total", ("protocol", "gearman")] == 1
    assert found[counted] >= 1


def test_figures_of_a_store_are_there(tmp_path):
    with Server(port=0, http_port=0, queue=str(tmp_path / "queue.db")) as server, Wire(server.address) as wire:
        wire.submit(b"f", b"x" * 100_000, kind=SUBMIT_JOB_BG)
        found = scraped(server)
        assert found["gearmand_store_commit_seconds_count",] >= 1
        assert found["gearmand_store_commit_failures_total",] == 0
        assert found["gearmand_store_size_bytes",] > 100_000
    with Server(port=0, http_port=0) as server:
        assert not [name for name, *_ in scraped(server) if "store" in name]


def test_unsent_bytes_are_counted():
    with Server(port=0, http_port=0) as server, Wire(server.address, receive_buffer=4096) as wire:
        wire.send(16, b"x" * 20_000_000)
        wait_until(lambda: scraped(server)["gearmand_outbox_bytes",] > 1_000_000, "they wait")


@pytest.mark.parametrize("names", [[b'a"b\\c', "ä{}".encode(), b"\xff\xfe", b"\r\t", b"=,", b"a\nb"], [b"\xff", b"\\xff", rb"\\xff"]])
def test_names_of_functions_are_escaped_and_no_sample_is_there_twice(server, names):
    for name in names:
        server.broker.turn(lambda registry: registry.functions[name])
    labels = {dict(labels)["function"] for name, *labels in scraped(server) if name == "gearmand_workers"}
    assert {name.decode("utf-8", "backslashreplace") for name in names} == labels


def test_functions_beyond_the_bound_have_no_metrics_and_are_counted(server, monkeypatch):
    monkeypatch.setattr(metrics, "FUNCTIONS", 3)
    for number in range(5):
        server.broker.turn(lambda registry: registry.functions[b"%d" % number])
    found = scraped(server)
    assert {dict(labels)["function"] for name, *labels in found if name == "gearmand_workers"} == {"0", "1", "2"}
    assert (found["gearmand_functions",], found["gearmand_functions_without_metrics",]) == (5, 2)


def test_many_functions_come_in_pieces(server):
    for number in range(2000):
        server.broker.turn(lambda registry: registry.functions[b"%d" % number].counted())
    pieces = list(exposition(server.broker, server.web.facts()))
    assert len(pieces) > 20 and max(map(len, pieces)) < 400_000
    assert len(re.findall(rb"(?m)^gearmand_workers\{", b"".join(pieces))) == 2000


def test_metrics_have_the_usual_names():
    names = [metric.name for metric in (*OF_FUNCTIONS, *OF_SERVER)]
    assert len(set(names)) == len(names)
    for metric in (*OF_FUNCTIONS, *OF_SERVER):
        assert re.fullmatch(r"gearmand_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith(".")


# -- scripts ---------------------------------------------------------------------------


KNOWN = {name + end for name in [metric.name for metric in (*OF_FUNCTIONS, *OF_SERVER)] for end in ("", "_bucket", "_sum", "_count")}


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "prometheus-alerts.yml"])
def test_script_names_only_metrics_that_there_are(name):
    with open(os.path.join(ROOT, "scripts", name), encoding="utf-8") as file:
        text = file.read()
    named = set(re.findall(r"\bgearmand_[a-z_]+", text))
    assert len(named) > 5 and named <= KNOWN
    for histogram in re.findall(r"\b(gearmand_[a-z_]+)_bucket", text):
        assert histogram in {metric.name for metric in (*OF_FUNCTIONS, *OF_SERVER) if metric.kind == "histogram"}


def test_dashboard_is_json_whose_panels_do_not_overlap():
    with open(os.path.join(ROOT, "scripts", "grafana-dashboard.json"), encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")


def test_worker_that_sleeps_is_a_worker_still(server):
    with Wire(server.address) as worker:
        worker.can_do(b"f")
        worker.send(PRE_SLEEP)
        worker.echo()
        assert of_function(scraped(server), "workers") == 1
