"""Plain jobs: in their queues in order, findable by number, and Jobs once they are grabbed."""

from __future__ import annotations

import pytest

from gearmand import revival
from gearmand.errors import QUEUE_FULL, SHUTTING_DOWN
from gearmand.functions import Queue
from gearmand.jobs import RUNNING, Priority
from gearmand.parties import Party
from gearmand.plain import Plain
from gearmand.registry import Registry
from gearmand.rows import Row

PIECE = 1024


class Fake(Party):
    def post(self, kind, body, tail=b""):
        pass


def grabbed(registry, function=b"f"):
    party = Fake()
    registry.can_do(party, function)
    return registry.grab(party)


def test_plain_jobs_are_first_in_first_out_among_others():
    registry = Registry(b"H", 1)
    registry.submit_plain(b"f", b"1")
    registry.submit(None, b"f", b"u", b"2")
    registry.submit_plain(b"f", b"3")
    registry.submit_plain(b"f", b"0", Priority.HIGH)
    assert [grabbed(registry).workload for _ in range(4)] == [b"0", b"1", b"2", b"3"]


def test_grabbed_plain_job_is_a_running_background_job():
    registry = Registry(b"H", 7)
    assert registry.submit_plain(b"f", b"w", Priority.LOW) == b"H:7"
    assert not registry.jobs and len(registry.plain) == 1
    job = grabbed(registry)
    assert (job.handle, job.unique, job.priority, job.background, job.state) == (b"H:7", b"", Priority.LOW, True, RUNNING)
    assert registry.jobs == {b"H:7": job} and not len(registry.plain) and not job.rows


def test_plain_job_has_the_row_of_its_number_where_there_is_a_store():
    registry = Registry(b"H", 1)
    registry.stored = True
    row = Row(5, b"H:5", b"f", b"", b"w", Priority.NORMAL, None, 0.0, 0, None)
    assert revival.submit_row(registry, row) == b"H:5" and len(registry.plain) == 1
    assert grabbed(registry).rows == (5,)


@pytest.mark.parametrize(
    "different", [{"unique": b"u"}, {"due_s": 10}, {"retries": 1}, {"reducer": b"r"}, {"handle": b"other:5"}, {"workload": memoryview(b"w")}]
)
def test_row_of_which_more_is_known_is_no_plain_job(different):
    registry = Registry(b"H", 1)
    row = Row(5, b"H:5", b"f", b"", b"w", Priority.NORMAL, None, 0.0, 0, None)._replace(**different)
    job = revival.submit_row(registry, row)
    assert registry.jobs == {row.handle: job} and not len(registry.plain)


def test_plain_job_is_refused_where_the_queue_is_full_or_the_server_drains():
    registry = Registry(b"H", 1)
    registry.functions.limit_queue(b"f", [None, 1, None])
    registry.submit_plain(b"f", b"1")
    assert registry.submit_plain(b"f", b"2") is QUEUE_FULL
    registry.draining = True
    assert registry.submit_plain(b"g", b"3") is SHUTTING_DOWN
    assert len(registry.plain) == 1 and registry.functions[b"f"].jobs == 1


def test_cancelled_plain_job_is_unknown_and_never_grabbed():
    registry = Registry(b"H", 1)
    handles = [registry.submit_plain(b"f", b"%d" % number) for number in range(3)]
    assert revival.waits(registry, handles[1]) and revival.cancel(registry, handles[1])
    assert not revival.waits(registry, handles[1]) and not revival.cancel(registry, handles[1])
    assert (registry.functions[b"f"].jobs, registry.functions[b"f"].queued) == (2, 2)
    assert [grabbed(registry).workload for _ in range(2)] == [b"0", b"2"]
    assert grabbed(registry) is None


def test_queue_forgets_plain_jobs_that_have_left_from_its_middle():
    plain, queue = Plain(), Queue()
    for number in range(1000):
        plain.add(number, b"", queue)
    for number in range(1, 1000):
        plain.remove(number)
    assert queue.live == 1 and len(queue._entries) < 100
    assert queue.pop()[0] == 0
    with pytest.raises(IndexError):
        queue.pop()
    assert not queue._gone and len(plain) == 1


def test_pieces_come_and_go_with_their_jobs():
    plain, queue = Plain(), Queue()
    numbers = [0, PIECE - 1, PIECE, 5 * PIECE, 2**60]
    for number in numbers:
        plain.add(number, b"%d" % number, queue)
    assert [entry[0] for at in plain.pieces() for entry in plain.piece(at)] == numbers
    assert len(plain.pieces()) == 4 and plain.find(PIECE)[1] == b"%d" % PIECE and plain.find(1) is None
    for number in numbers:
        assert queue.pop()[0] == number
        plain.forget(number)
    assert plain.pieces() == [] and plain.piece(0) == [] and plain.find(0) is None and plain.remove(0) is None
