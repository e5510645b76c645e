"""The log: what a line looks like, the audit of jobs, the dump."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from gearmand import Server, audit, log
from gearmand.config import Config
from wire import CAN_DO_TIMEOUT, SUBMIT_JOB_BG, WORK_COMPLETE, WORK_EXCEPTION, WORK_FAIL, Wire, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECRET = b"the-workload-itself"


# -- what becomes of jobs -----------------------------------------------------------


class Audited:
    """A server, and the events of its jobs as objects."""

    def __init__(self, **options):
        self.events = []
        self.server = Server(port=0, on_events=self.events.extend, **options)

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop()

    def wire(self):
        return Wire(self.server.address)

    def seen(self, handle=None):
        """What has become of a job, or of all."""
        found = sorted(list(self.events), key=lambda event: event[1])
        return [event[0] for event in found if handle is None or event[2] == handle]

    def wait_for(self, handle, *whats):
        # In the order of their times: threads may tell of their turns in another.
        wait_until(lambda: sorted(self.seen(handle)) == sorted(whats), "%s, not %s" % (whats, self.seen(handle)))

    def one(self, what):
        (found,) = [audit.as_dict(event) for event in self.events if event[0] == what]
        return found


@pytest.fixture
def audited():
    with Audited(handler_cpu="none") as audited:
        yield audited


def address_of(wire):
    return "%s:%d" % wire.socket.getsockname()


def test_foreground_job_is_accepted_assigned_and_completed(audited):
    with audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f", SECRET, b"u")
        worker.can_do(b"f")
        assert worker.grab()[0] == handle
        worker.send(WORK_COMPLETE, handle, SECRET)
        assert client.receive()[0] == WORK_COMPLETE
        audited.wait_for(handle, "accepted", "assigned", "completed")
        accepted, assigned, completed = map(audited.one, ("accepted", "assigned", "completed"))
        for event in (accepted, assigned, completed):
            assert (event["handle"], event["function"], event["unique"]) == (handle.decode(), "f", "u")
        assert [event["peer"] for event in (accepted, assigned, completed)] == [
            address_of(client), address_of(worker), address_of(worker)
        ]  # fmt: skip
        assert "waited_s" not in accepted and 0 < assigned["waited_s"] < 20 and 0 < completed["ran_s"] < 20
    assert SECRET.decode() not in "".join(map(audit.as_text, audited.events))


def test_plain_job_is_accepted_assigned_and_completed_with_its_times(audited):
    with audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f", SECRET, kind=SUBMIT_JOB_BG)
        worker.can_do(b"f")
        worker.grab()
        worker.send(WORK_COMPLETE, handle, b"")
        audited.wait_for(handle, "accepted", "assigned", "completed")
        assert audited.one("accepted")["peer"] == address_of(client)
        assert audited.one("assigned")["waited_s"] > 0


@pytest.mark.parametrize("kind, arguments", [(WORK_FAIL, ()), (WORK_EXCEPTION, (SECRET,))])
def test_job_that_fails_is_failed(audited, kind, arguments):
    with audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f")
        worker.can_do(b"f")
        worker.grab()
        worker.send(kind, handle, *arguments)
        audited.wait_for(handle, "accepted", "assigned", "failed")


def test_job_whose_worker_leaves_is_requeued_by_that_worker(audited):
    with audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f")
        worker.can_do(b"f")
        worker.grab()
        where = address_of(worker)
        worker.close()
        audited.wait_for(handle, "accepted", "assigned", "requeued")
        assert audited.one("requeued")["peer"] == where and audited.one("requeued")["ran_s"] > 0


def test_job_without_further_attempts_is_failed():
    with Audited(job_retries=1) as audited, audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f")
        worker.can_do(b"f")
        worker.grab()
        worker.close()
        audited.wait_for(handle, "accepted", "assigned", "failed")


@pytest.mark.parametrize("fails, then", [(False, "requeued"), (True, "failed")])
def test_job_whose_worker_takes_too_long_is_timed_out(fails, then):
    with Audited(timeout_fails=fails, minimum_timeout=0.05) as audited, audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f")
        worker.send(CAN_DO_TIMEOUT, b"f", b"50")
        worker.grab()
        audited.wait_for(handle, "accepted", "assigned", "timed out", then)
        assert audited.one("timed out")["ran_s"] >= 0.05


def test_submission_that_joins_a_job_is_coalesced(audited):
    with audited.wire() as client, audited.wire() as other:
        handle = client.submit(b"f", b"", b"u")
        assert other.submit(b"f", b"", b"u") == handle
        audited.wait_for(handle, "accepted", "coalesced")
        assert audited.one("coalesced")["peer"] == address_of(other)


@pytest.mark.parametrize("unique", [b"", b"u"])
def test_job_that_is_cancelled_is_so_by_who_said_it(audited, unique):
    with audited.wire() as client, audited.wire() as admin:
        handle = client.submit(b"f", b"", unique, kind=SUBMIT_JOB_BG)
        assert admin.ask("cancel job " + handle.decode()) == "OK"
        audited.wait_for(handle, "accepted", "cancelled")
        assert audited.one("cancelled")["peer"] == address_of(admin) and audited.one("cancelled")["waited_s"] > 0


def test_cancelling_what_is_not_there_is_no_event(audited):
    with audited.wire() as admin:
        assert admin.ask("cancel job H:x:1").startswith("ERR")
    assert audited.events == []


def test_dormant_job_is_accepted_and_cancelled(tmp_path):
    with Audited(queue=str(tmp_path / "queue"), queue_memory=1000) as audited, audited.wire() as client:
        handles = [client.submit(b"f", b"x" * 1000, kind=SUBMIT_JOB_BG) for _ in range(4)]
        assert client.ask("cancel job " + handles[-1].decode()) == "OK"
        audited.wait_for(handles[-1], "accepted", "cancelled")


def test_job_that_nobody_waits_for_any_more_is_abandoned(audited):
    with audited.wire() as client:
        handle = client.submit(b"f")
    audited.wait_for(handle, "accepted", "abandoned")


def test_running_job_that_nobody_waits_for_is_abandoned_when_its_worker_leaves(audited):
    with audited.wire() as client, audited.wire() as worker:
        handle = client.submit(b"f")
        worker.can_do(b"f")
        worker.grab()
        client.close()
        wait_until(lambda: not any(peer.listening for peer in audited.server.broker.peers), "the client is gone")
        worker.close()
        audited.wait_for(handle, "accepted", "assigned", "abandoned")


def test_job_of_the_server_itself_has_no_peer(audited):
    handle = audited.server.submit("f", background=True)
    audited.wait_for(handle.encode(), "accepted")
    assert audited.one("accepted")["peer"] is None


def test_jobs_are_audited_where_the_log_takes_info_and_only_there(caplog):
    for level, wanted in ((logging.WARNING, 0), (logging.INFO, 1)):
        with caplog.at_level(level, "gearmand"), Server(port=0) as server:
            assert (server.broker.registry.events is not None) == bool(wanted)
            server.submit("f", background=True)
        found = [record for record in caplog.records if hasattr(record, "event")]
        assert len(found) == wanted
    assert found[0].event["event"] == "accepted" and "accepted function=f" in found[0].getMessage()


def test_jobs_from_before_the_start_are_audited_with_the_time_that_they_waited_at_both_servers(tmp_path):
    with Server(port=0, queue=str(tmp_path / "queue")) as server:
        submitted_s = time.time()
        handle = server.submit("f", background=True).encode()
    time.sleep(0.2)
    with Audited(queue=str(tmp_path / "queue")) as audited, audited.wire() as worker:
        worker.can_do(b"f")
        worker.grab()
        audited.wait_for(handle, "assigned")
        assert 0.2 <= audited.one("assigned")["waited_s"] <= time.time() - submitted_s


# -- what a line looks like ---------------------------------------------------------


@pytest.mark.parametrize(
    "name, word",
    [
        (b"resize", "resize"),
        (b"a b", '"a b"'),
        (b"a=b", '"a=b"'),
        (b'"', '"\\""'),
        (b"a\nb", '"a\\nb"'),
        (b"\xff", '"\\\\xff"'),
        ("ü".encode(), '"\\u00fc"'),
        (b"\x1b[2J", '"\\u001b[2J"'),
    ],
)
def test_name_in_a_line_stays_one_word_of_one_line(name, word):
    text = audit.as_text((audit.ACCEPTED, 0.0, b"H:1", name, name, None, None, False))
    assert text == "job H:1 accepted function=%s unique=%s" % (word, word)
    assert audit.as_dict((audit.ACCEPTED, 0.0, b"H:1", name, b"", None, None, False))["function"] == name.decode("utf-8", "backslashreplace")


class Lines:
    """A log that goes to a file."""

    def __init__(self, tmp_path, **options):
        self.path = tmp_path / "log"
        self.logger = logging.getLogger("gearmand")
        before = (self.logger.level, self.logger.propagate, list(self.logger.handlers), logging.raiseExceptions)
        self.log = log.Log(Config(log_file=str(self.path), **options))
        self.before = before

    def __enter__(self):
        self.log.start()
        return self

    def __exit__(self, *_):
        assert self.log.stop()
        for handler in set(self.logger.handlers) - set(self.before[2]):
            self.logger.removeHandler(handler)
        self.logger.level, self.logger.propagate = self.before[:2]
        logging.raiseExceptions = self.before[3]
        self.logger.setLevel(self.before[0])
        self.log._target.close()

    def written(self):
        return self.path.read_text().splitlines()


EVENT = (audit.ASSIGNED, 1700000000.25, b"H:1", b"f", b"u", None, 0.5, False)


def test_json_line_has_the_documented_members(tmp_path):
    with Lines(tmp_path, log_format="json", verbose="INFO") as lines:
        lines.logger.warning("%s said:\n%r", "who", "what")
        lines.log.write_events([EVENT, EVENT])
        wait_until(lambda: len(lines.written()) == 3, "all is written")
        first, second, third = map(json.loads, lines.written())
    assert set(first) == {"time", "level", "message"}
    assert (first["level"], first["message"]) == ("WARNING", "who said:\n'what'")
    assert second == third == {
        "time": "2023-11-14T22:13:20.250000Z", "level": "INFO", "event": "assigned", "handle": "H:1", "function": "f",
        "unique": "u", "peer": None, "waited_s": 0.5,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert abs(time.time() - time.mktime(time.strptime(first["time"][:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 90000


def test_json_line_of_an_error_has_its_traceback(tmp_path):
    with Lines(tmp_path, log_format="json") as lines:
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            lines.logger.exception("it is")
        wait_until(lambda: lines.written(), "it is written")
        (line,) = lines.written()
    assert json.loads(line)["message"] == "it is" and "RuntimeError: broken" in json.loads(line)["traceback"]


def test_text_line_of_an_error_is_followed_by_its_traceback(tmp_path):
    with Lines(tmp_path) as lines:
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            lines.logger.exception("it is")
        wait_until(lambda: "RuntimeError: broken" in lines.written(), "it is written")
        assert re.fullmatch(r"[\d-]{10} [\d:]{8},\d{3} ERROR it is", lines.written()[0])


def test_text_line_of_an_event_looks_like_the_others(tmp_path):
    with Lines(tmp_path, verbose="INFO") as lines:
        lines.log.write_events([EVENT])
        wait_until(lambda: lines.written(), "it is written")
        (line,) = lines.written()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(EVENT[1]))
    assert line == when + ",250 INFO job H:1 assigned function=f unique=u waited_s=0.500000"


def test_dump_is_written_whatever_the_level(tmp_path):
    with Lines(tmp_path, verbose="FATAL") as lines:
        lines.log.write_always("so it is")
        wait_until(lambda: lines.written(), "it is written")
        assert lines.written()[0].endswith("NOTICE so it is")


def test_events_that_cannot_be_written_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "_GATHERED_TURNS", 3)
    lines = Lines(tmp_path, verbose="INFO")
    for _ in range(5):
        lines.log.write_events([EVENT, EVENT])
    with lines:
        lines.logger.error("later")
        wait_until(lambda: any("later" in line for line in lines.written()), "it is written")
        assert sum("assigned" in line for line in lines.written()) == 6
        assert any("4 lines are missing here" in line for line in lines.written())


def test_events_for_the_syslog_are_a_message_each(tmp_path):
    sent = []

    class Spy(log._SyslogSocket):
        def __init__(self):
            logging.Handler.__init__(self)
            self.setFormatter(log._Syslog())

        def send_one(self, record):
            sent.append(self.format(record))

    spy = Spy()
    spy.send = spy.send_one
    original = logging.handlers.SysLogHandler.emit
    try:
        logging.handlers.SysLogHandler.emit = lambda self, record: self.send(record)
        spy.emit(log._record(logging.INFO, log._Lines("\n".join(spy.formatter.lines([EVENT, EVENT])))))
        spy.emit(log._record(logging.INFO, "other"))
    finally:
        logging.handlers.SysLogHandler.emit = original
    assert sent == ["gearmand[%d]: job H:1 assigned function=f unique=u waited_s=0.500000" % os.getpid()] * 2 + [
        "gearmand[%d]: other" % os.getpid()
    ]


# -- the process ------------------------------------------------------------------------


class Process:
    def __init__(self, tmp_path, *options):
        self.log = tmp_path / "log"
        command = [sys.executable, "-m", "gearmand", "-L", "127.0.0.1", "-p", "0", "-l", str(self.log), *options]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ})
        wait_until(lambda: self.log.exists() and "listens on" in self.log.read_text(), "it listens")
        self.address = ("127.0.0.1", int(re.search(r"listens on 127\.0\.0\.1:(\d+)", self.log.read_text()).group(1)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(15) == 0


def test_process_audits_every_job_as_json_and_no_workload(tmp_path):
    with Process(tmp_path, "--verbose=INFO", "--log-format=json") as process:
        with Wire(process.address) as client, Wire(process.address) as worker:
            worker.can_do(b"f")
            handles = [client.submit(b"f", SECRET, kind=SUBMIT_JOB_BG) for _ in range(500)]
            for _ in handles:
                handle, _, _ = worker.grab()
                worker.send(WORK_COMPLETE, handle, SECRET)
            worker.echo()
        # At its end it writes for two seconds at most.
        wait_until(lambda: process.log.read_text().count('"event"') == 3 * len(handles), "all is written")
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    of = {}
    for line in lines:
        if "event" in line:
            of.setdefault(line["handle"], []).append((line["time"], line["event"]))
    assert set(of) == {handle.decode() for handle in handles}
    assert all(sorted(what for _, what in found) == ["accepted", "assigned", "completed"] for found in of.values())
    assert SECRET.decode() not in process.log.read_text()


@pytest.mark.parametrize("form", ["text", "json"])
def test_usr2_dumps_the_state_and_every_thread(tmp_path, form):
    with Process(tmp_path, "--log-format", form) as process:
        with Wire(process.address) as client:
            client.submit(b"f")
            client.submit(b"g", kind=SUBMIT_JOB_BG)
            process.process.send_signal(signal.SIGUSR2)
            wait_until(lambda: "MainThread" in process.log.read_text(), "it is written")
            client.echo()
    text = process.log.read_text()
    if form == "json":
        (text,) = [json.loads(line)["message"] for line in text.splitlines() if "what this server does now" in line]
    for wanted in ("what this server does now", "1 jobs, and 1 plain ones; 0 run", "'f': 1 0 0 0 0 0", "gearmand-clock", "run_clock", "Config("):
        assert wanted in text


def test_usr2_while_the_lock_is_taken_says_so_and_dumps_the_threads(monkeypatch):
    from gearmand import dump

    monkeypatch.setattr(dump, "_LOCK_S", 0.05)
    with Server(port=0) as server, server.broker.lock:
        text = dump.dump(server, Config())
    assert "lock was not to be had" in text and "gearmand-accept" in text


def test_dump_leaves_out_what_is_too_much(monkeypatch):
    from gearmand import dump

    monkeypatch.setattr(dump, "_FUNCTIONS", 2)
    with Server(port=0) as server:
        for name in "abc":
            server.submit(name, background=True)
        text = dump.dump(server, Config())
    assert "3 functions" in text and "    ..." in text


def test_dump_of_a_stored_queue_says_what_it_takes(tmp_path):
    from gearmand import dump

    with Server(port=0, queue=str(tmp_path / "queue")) as server:
        server.submit("f", background=True)
        assert "jobs of the store take 500 bytes" in dump.dump(server, Config())
