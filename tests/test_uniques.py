"""Keys of coalescing, and the index by them."""

from __future__ import annotations

import pytest

from gearmand.functions import Function
from gearmand.jobs import Job, Priority
from gearmand.uniques import Uniques, key_of

F, G, H = Function(b"f"), Function(b"g"), Function(b"h")


def job_of(function: Function) -> Job:
    return Job(b"H:1", function, b"u", b"", Priority.NORMAL, True, None)


@pytest.mark.parametrize("unique, workload", [(b"", b""), (b"", b"x"), (b"-", b""), (b"-", memoryview(b""))])
def test_key_of_what_never_coalesces_is_none(unique, workload):
    assert key_of(unique, workload) is None


@pytest.mark.parametrize("unique", [b"u", b"#", b"--", b"u" * 64])
def test_key_of_a_unique_does_not_depend_on_the_workload(unique):
    assert key_of(unique, b"a") == key_of(unique, b"b") is not None


def test_key_of_dash_is_the_workload():
    assert key_of(b"-", b"a") == key_of(b"-", memoryview(bytearray(b"a"))) != key_of(b"-", b"b")


def test_key_of_dash_is_no_unique():
    assert key_of(b"-", b"u") != key_of(b"u", b"")


def test_find_of_nothing_is_none():
    assert Uniques().find(b"u", F) is None
    assert Uniques().newest(b"u") is None


def test_find_gives_the_job_of_the_function():
    uniques, job = Uniques(), job_of(F)
    uniques.add(b"u", job)
    assert uniques.find(b"u", F) is job
    assert uniques.find(b"u", G) is None
    assert uniques.find(b"v", F) is None


def test_jobs_of_one_key_are_found_by_their_functions():
    uniques = Uniques()
    jobs = [job_of(function) for function in (F, G, H)]
    for job in jobs:
        uniques.add(b"u", job)
    assert [uniques.find(b"u", function) for function in (F, G, H)] == jobs
    assert len(uniques) == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_newest_is_the_job_added_last(count):
    uniques = Uniques()
    jobs = [job_of(function) for function in (F, G, H)[:count]]
    for job in jobs:
        uniques.add(b"u", job)
    assert uniques.newest(b"u") is jobs[-1]


def test_newest_after_its_removal_is_the_one_before():
    uniques = Uniques()
    jobs = [job_of(function) for function in (F, G, H)]
    for job in jobs:
        uniques.add(b"u", job)
    uniques.remove(b"u", jobs[2])
    assert uniques.newest(b"u") is jobs[1]


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("second", [0, 1])
def test_removed_jobs_are_forgotten_in_any_order(first, second):
    uniques = Uniques()
    jobs = [job_of(function) for function in (F, G, H)]
    for job in jobs:
        uniques.add(b"u", job)
    for at in (first, second, 0):
        job = jobs.pop(at)
        uniques.remove(b"u", job)
        assert uniques.find(b"u", job.function) is None
        assert [uniques.find(b"u", left.function) for left in jobs] == jobs
        assert len(uniques) == len(jobs)
    assert uniques._jobs == {}
