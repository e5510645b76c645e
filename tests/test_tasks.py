"""Tasks and task sets."""

from __future__ import annotations

import threading
import time

import pytest

import peers
import test_client
from gearmand import Client, Server, Task, TaskSet
from gearmand.errors import ConfigError, JobException, JobFailed, JobTimeout
from peers import Crew
from wire import wait_until

KINDS = ("created", "data", "warning", "status", "complete", "fail", "exception", "retry")
FUNCTIONS = dict(test_client.FUNCTIONS)
FUNCTIONS[b"reverse_string"] = test_client.reverse


@pytest.fixture
def server():
    with Server(port=0) as server, Crew(server.address, FUNCTIONS, count=3):
        yield server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture
def tasks(client):
    return TaskSet(client)


def noting(called, *kinds):
    return {"on_" + kind: lambda *arguments, kind=kind: called.append((kind, *arguments)) for kind in kinds}


def test_the_well_known_example(server):
    printed = []
    client = Client("127.0.0.1:%d" % server.address[1])
    task = Task("reverse_string", "The string to reverse")
    task.on_complete(lambda result: printed.append(result))
    tasks = TaskSet(client)
    tasks.add(task)
    assert tasks.wait(86400)
    client.close()
    assert printed == [b"esrever ot gnirts ehT"]


def test_task_knows_its_result(tasks):
    task = tasks.add(Task("reverse", b"ab"))
    assert (task.done, task.successful) == (False, False)
    assert tasks.wait(20)
    assert (task.done, task.successful, task.result, task.error) == (True, True, b"ba", None)
    assert task.handle.startswith("H:")


def test_callbacks_are_called_in_the_waiting_thread_in_order(tasks):
    called = []
    threads = set()
    task = Task("talk", **noting(called, *KINDS))
    task.on_data(lambda data: threads.add(threading.current_thread()) or called.append(("data", data)))
    tasks.add(task)
    assert tasks.wait(20)
    assert called == [
        ("created", task.job),
        ("data", b"one"),
        ("warning", b"careful"),
        ("status", 1, 2),
        ("data", b"two"),
        ("complete", b"end"),
    ]
    assert threads == {threading.current_thread()}


def test_tasks_of_a_set_run_in_parallel(client, server):
    barrier = threading.Barrier(3, timeout=20)

    def meet(worker, handle, workload):
        barrier.wait()
        return b"met"

    with Crew(server.address, {b"meet": meet}, count=3):
        tasks = TaskSet(client)
        tasks.add_all(Task("meet") for _ in range(3))
        assert tasks.wait(20)
    assert [task.result for task in tasks.tasks] == [b"met"] * 3 and len(tasks) == 3


@pytest.mark.parametrize(
    "function, kinds, expected, error",
    [
        ("fail", KINDS[4:], [("fail",)], JobFailed),
        ("explode", KINDS[4:], [("exception", b"it broke")], JobException),
        ("explode", ("fail",), [("fail",)], JobException),
    ],
)
def test_task_that_does_not_complete(tasks, function, kinds, expected, error):
    called = []
    task = tasks.add(Task(function, **noting(called, *kinds)))
    assert tasks.wait(20)
    assert called == expected
    assert isinstance(task.error, error) and not task.successful


def test_task_is_retried_and_then_fails(tasks):
    called = []
    tasks.add(Task("fail", retry_count=2, **noting(called, "retry", "fail")))
    assert tasks.wait(20)
    assert called == [("retry", 1), ("retry", 2), ("fail",)]


def test_task_that_is_retried_may_complete(client, server):
    tries = []

    def third_time(worker, handle, workload):
        tries.append(1)
        return b"done" if len(tries) == 3 else test_client.fail(worker, handle, workload)

    with Crew(server.address, {b"third": third_time}):
        tasks = TaskSet(client)
        task = tasks.add(Task("third", retry_count=5))
        assert tasks.wait(20)
    assert (task.result, task.retries_done) == (b"done", 2)


def test_wait_returns_false_when_its_time_is_over_and_may_be_called_again(tasks):
    tasks.add(Task("nobody"))
    done = tasks.add(Task("reverse", b"ab"))
    assert not tasks.wait(0.05)
    wait_until(lambda: tasks.wait(0.05) or done.done, "one of them has ended")
    assert done.done
    assert not tasks.wait(0.01)


def test_wait_without_tasks_returns_at_once(tasks):
    assert tasks.wait()


def test_task_takes_too_long(tasks):
    called = []
    task = tasks.add(Task("nobody", timeout_s=0.05, retry_count=3, **noting(called, "fail", "retry")))
    assert tasks.wait(20)
    assert called == [("fail",)]
    assert isinstance(task.error, JobTimeout)


def test_try_takes_too_long(tasks):
    called = []
    tasks.add(Task("nobody", try_timeout_s=0.02, retry_count=2, **noting(called, "fail", "retry")))
    assert tasks.wait(20)
    assert called == [("retry", 1), ("retry", 2), ("fail",)]


def test_timeouts_end_with_the_task(tasks):
    task = tasks.add(Task("reverse", timeout_s=60, try_timeout_s=60))
    tasks.add(Task("nobody", timeout_s=60))
    wait_until(lambda: tasks.wait(0.05) or task.done, "it has ended")
    # As if the minute had passed.
    tasks._give_up(time.monotonic() + 61)
    assert tasks.wait(20)
    assert task.successful


def test_background_task_completes_when_the_server_has_it(tasks):
    called = []
    task = tasks.add(Task("nobody", background=True, **noting(called, "created", "complete")))
    assert tasks.wait(20)
    assert called == [("created", task.job), ("complete", task.handle)]


def test_scheduled_task_is_a_background_job_of_later(tasks, client):
    task = Task("reverse").schedule(time.time() + 3600)
    tasks.add(task)
    assert tasks.wait(20)
    assert client.status(task.handle).known


def test_cancelled_tasks_call_nothing(tasks):
    called = []
    tasks.add(Task("nobody", **noting(called, *KINDS)))
    tasks.cancel()
    assert tasks.wait(20)
    assert called == []


def test_callback_that_raises_ends_the_wait_and_not_the_set(tasks):
    task = tasks.add(Task("reverse", b"ab", on_complete=lambda result: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        tasks.wait(20)
    assert task.done and tasks.wait(20)


def test_callback_may_add_a_task(tasks):
    added = []
    tasks.add(Task("reverse", b"ab").on_complete(lambda result: added.append(tasks.add(Task("reverse", result)))))
    assert tasks.wait(20)
    assert added[0].result == b"ab"


def test_task_that_has_ended_begins_anew_in_a_set(client, tasks):
    counts = []
    task = tasks.add(Task("fail", retry_count=1, on_retry=counts.append))
    assert tasks.wait(20)
    other = TaskSet(client)
    assert other.add(task) is task
    assert (task.done, task.error, task.retries_done) == (False, None, 0)
    assert other.wait(20)
    assert (counts, task.retries_done) == ([1, 1], 1)
    assert isinstance(task.error, JobFailed)


def test_task_that_is_under_way_is_not_added_again(client, tasks):
    task = tasks.add(Task("reverse", b"ab"))
    other = TaskSet(client)
    for again in (tasks, other):
        with pytest.raises(ConfigError, match="<Task reverse, not done> is under way already"):
            again.add(task)
    assert other.wait(0) and tasks.wait(20)
    assert task.result == b"ba"
    # One that was given up may be.
    given_up = tasks.add(Task("nobody"))
    tasks.cancel()
    given_up.function = "reverse"
    tasks.add(given_up)
    assert tasks.wait(20) and given_up.successful


def test_callback_must_be_callable():
    with pytest.raises(ConfigError, match="on_fail: 5"):
        Task("f").on_fail(5)


def test_wrong_option_is_told_when_the_task_is_added(tasks):
    with pytest.raises(ConfigError, match="no option colour"):
        tasks.add(Task("f", colour=1))
    assert tasks.wait(0)


def test_callback_may_cancel_the_set_while_tasks_are_given_up(tasks):
    called = []
    for _ in range(2):
        tasks.add(Task("nobody", timeout_s=0.02, on_fail=lambda: (called.append(1), tasks.cancel())))
        tasks.add(Task("nobody", try_timeout_s=0.02, retry_count=3, on_retry=lambda count: tasks.cancel()))
    assert tasks.wait(20)
    assert len(called) <= 1


def test_retries_wait_for_a_server_that_is_not_there():
    address = peers.free_address()
    with Client(address) as client:
        tasks = TaskSet(client)
        task = tasks.add(Task("reverse", b"ab", retry_count=50))
        assert not tasks.wait(0.1)
        with Server(port=address[1]), Crew(address, FUNCTIONS):
            assert tasks.wait(20)
    assert task.result == b"ba" and 0 < task.retries_done < 10
