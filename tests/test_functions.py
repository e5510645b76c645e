"""A function's queues: first in first out, and what leaves from the middle."""

from __future__ import annotations

import random

import pytest

from gearmand.functions import Function, Functions, Queue
from gearmand.jobs import END, QUEUED, Job, Priority


def job_of(number: int, retries: int = 0) -> Job:
    job = Job(b"H:%d" % number, Function(b"f"), b"", b"", Priority.NORMAL, True, None)
    job.retries = retries
    return job


def leave(queue: Queue, job: Job) -> None:
    job.state = END[job.state]
    queue.remove(job)


def test_pop_takes_the_first():
    queue = Queue()
    jobs = [job_of(number) for number in range(3)]
    for job in jobs:
        queue.push(job)
    assert [queue.pop() for _ in jobs] == jobs
    assert queue.live == 0


def test_pop_of_an_empty_queue_raises_index_error():
    with pytest.raises(IndexError):
        Queue().pop()


def test_pop_of_a_queue_of_dead_entries_raises_index_error():
    queue, job = Queue(), job_of(1)
    queue.push(job)
    leave(queue, job)
    with pytest.raises(IndexError):
        queue.pop()


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_removed_job_is_passed_over(retries, at):
    queue = Queue()
    jobs = [job_of(number, retries) for number in range(3)]
    for job in jobs:
        queue.push(job)
    leave(queue, jobs.pop(at))
    assert (queue.live, list(queue)) == (2, jobs)
    assert [queue.pop(), queue.pop()] == jobs


def test_job_that_came_back_can_be_taken_out_and_come_back_at_the_tail():
    queue, back, other = Queue(), job_of(1, retries=1), job_of(2)
    queue.push(back)
    queue.push(other)
    queue.remove(back)
    queue.push(back)
    assert queue.live == 2
    assert [queue.pop(), queue.pop()] == [other, back]


def test_popped_job_has_no_entry():
    queue, job = Queue(), job_of(1, retries=1)
    queue.push(job)
    assert queue.pop().entry is None


def test_dead_entries_are_forgotten_once_they_are_the_majority():
    queue = Queue()
    stays = job_of(0)
    queue.push(stays)
    for number in range(1, 5000):
        job = job_of(number)
        queue.push(job)
        leave(queue, job)
    assert len(queue._entries) < 200
    assert list(queue) == [stays]


@pytest.mark.parametrize("seed", range(5))
def test_random_use_agrees_with_a_list(seed):
    chance = random.Random(seed)
    queue, plain = Queue(), []
    for number in range(3000):
        move = chance.random()
        if move < 0.45 or not plain:
            job = job_of(number, chance.choice([0, 0, 1]))
            queue.push(job)
            plain.append(job)
        elif move < 0.6:
            assert queue.pop() is plain.pop(0)
        elif move < 0.9:
            leave(queue, plain.pop(chance.randrange(len(plain))))
        else:
            back = [job for job in plain if job.retries]
            if back:
                job = chance.choice(back)
                queue.remove(job)
                queue.push(job)
                plain.remove(job)
                plain.append(job)
        assert queue.live == len(plain)
        assert list(queue) == plain


def test_function_queued_counts_every_priority():
    function = Function(b"f")
    for queue, times in zip(function.queues, (1, 2, 4)):
        for number in range(times):
            queue.push(job_of(number))
    assert function.queued == 7


@pytest.mark.parametrize("most_jobs, limits, limited", [
    (None, [None, None, None], False), (None, [None, 0, None], True), (None, [5, 5, 5], True),
    (5, [5, 5, 5], False), (5, [None, None, None], True),
])  # fmt: skip
def test_function_is_limited_by_limits_other_than_those_of_all(most_jobs, limits, limited):
    functions = Functions(most_jobs)
    assert functions[b"f"].limits == [most_jobs] * 3 and not functions[b"f"].limited
    assert functions.limit_queue(b"f", limits)
    assert (functions[b"f"].limits, functions[b"f"].limited) == (limits, limited)


def test_repr_names_handle_function_and_state():
    function = Function(b"re\xffverse")
    job = Job(b"H:1", function, b"", b"", Priority.HIGH, True, None)
    assert repr(job) == "<Job H:1 re\\xffverse QUEUED>"
    assert repr(function) == "<Function re\\xffverse>"


@pytest.mark.parametrize("is_background, listeners, wanted", [(True, None, True), (False, {1: 1}, True), (False, None, False)])
def test_job_is_wanted_in_the_background_or_by_a_listener(is_background, listeners, wanted):
    job = Job(b"H:1", Function(b"f"), b"", b"", Priority.HIGH, is_background, None)
    job.listeners = listeners
    assert job.wanted == wanted


def test_job_begins_queued():
    assert job_of(1).state is QUEUED
