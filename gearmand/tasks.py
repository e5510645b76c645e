"""Tasks and task sets: describe jobs first, run them all, be called back.

    from gearmand import Client, Task, TaskSet

    client = Client("127.0.0.1:4730")
    task = Task("reverse_string", "The string to reverse")
    task.on_complete(lambda result: print(result))
    tasks = TaskSet(client)
    tasks.add(task)
    tasks.wait(86400)

The tasks of a set run in parallel. Callbacks are called in the thread that
waits, one at a time.
"""

from __future__ import annotations

import queue
import time
from typing import Any, Callable, Dict, List, Optional

from gearmand.client import Client
from gearmand.deadlines import Deadlines
from gearmand.errors import ConfigError
from gearmand.submitted import CALLBACKS, SubmittedJob, deadline_of

Callback = Callable[..., Any]


class Task:
    """A job to be. `options`: those of `Client.submit`; its callbacks too, or by the methods of their names.

    `retry_count`: how many times it is submitted again when it fails.
    `timeout_s`: from its submission to its end, retries included;
    `try_timeout_s`: for one try. A task that takes longer has failed.

    Afterwards `result` holds what it completed with, and `error` why it did
    not (`None`: it did, or has not ended). Then it may be added to a set again.
    """

    def __init__(
        self,
        function: str,
        workload: Any = b"",
        *,
        retry_count: int = 0,
        timeout_s: Optional[float] = None,
        try_timeout_s: Optional[float] = None,
        **options: Any,
    ) -> None:
        self.function = function
        self.workload = workload
        self.retry_count = retry_count
        self.timeout_s = timeout_s
        self.try_timeout_s = try_timeout_s
        self.callbacks: Dict[str, Callback] = {}
        for kind in CALLBACKS:
            callback = options.pop("on_" + kind, None)
            if callback is not None:
                self._on(kind, callback)
        self.options = options
        self.reset_state()

    def reset_state(self) -> None:
        """As if it had never been added to a set, which does this itself."""
        self.retries_done = 0
        self.tries = 0
        self.job: Optional[SubmittedJob] = None
        self.result: Any = None
        self.error: Optional[BaseException] = None
        self.done = False

    def __repr__(self) -> str:
        return "<Task %s, %s>" % (self.function, "done" if self.done else "not done")

    @property
    def successful(self) -> bool:
        return self.done and self.error is None

    @property
    def handle(self) -> Optional[str]:
        return None if self.job is None else self.job.handle

    def schedule(self, at: Any) -> "Task":
        """Not before `at`: seconds since 1970, or a datetime. It becomes a background job."""
        self.options["at"] = at
        return self

    def on_created(self, callback: Callback) -> "Task":
        """`callback(job)`: the server has it."""
        return self._on("created", callback)

    def on_data(self, callback: Callback) -> "Task":
        """`callback(data)`: to be set before the task is added to a set; else the data is kept, in `job.data`."""
        return self._on("data", callback)

    def on_warning(self, callback: Callback) -> "Task":
        """`callback(data)`"""
        return self._on("warning", callback)

    def on_status(self, callback: Callback) -> "Task":
        """`callback(numerator, denominator)`"""
        return self._on("status", callback)

    def on_complete(self, callback: Callback) -> "Task":
        """`callback(result)`"""
        return self._on("complete", callback)

    def on_fail(self, callback: Callback) -> "Task":
        """`callback()`: no result, and no try left."""
        return self._on("fail", callback)

    def on_exception(self, callback: Callback) -> "Task":
        """`callback(bytes)`: what the worker said of it. Without it, an exception is a fail."""
        return self._on("exception", callback)

    def on_retry(self, callback: Callback) -> "Task":
        """`callback(count)`: it is about to be submitted again."""
        return self._on("retry", callback)

    def _on(self, kind: str, callback: Callback) -> "Task":
        if not callable(callback):
            raise ConfigError("on_%s: %r cannot be called" % (kind, callback))
        self.callbacks[kind] = callback
        return self


class TaskSet:
    """Tasks that run in parallel on one client. One thread adds and waits."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.tasks: List[Task] = []
        # What has happened: a function to call in the thread that waits.
        self._news: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
        # When a task is over for good, or its try: the task, and the number of
        # the try or `None`.
        self._deadlines = Deadlines()
        self._open = 0

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, task: Task) -> Task:
        """Submit the task. ConfigError: it is under way already; ConfigError, TypeError: its options or its workload cannot be used."""
        if task.job is not None and not task.done:
            raise ConfigError("%r is under way already: it can be added again once it has ended" % task)
        task.reset_state()
        self._submit(task)
        self.tasks.append(task)
        self._open += 1
        if task.timeout_s is not None:
            self._deadlines.add(time.monotonic() + task.timeout_s, (task, None))
        return task

    add_task = add

    def add_all(self, tasks: Any) -> None:
        for task in tasks:
            self.add(task)

    def wait(self, timeout_s: Optional[float] = None) -> bool:
        """Wait until every task has ended, calling back meanwhile. False: `timeout_s` was over first; it can be called again.

        What a callback raises ends the wait and reaches the caller.
        """
        deadline = deadline_of(timeout_s)
        while self._open:
            now = time.monotonic()
            self._give_up(now)
            dues = [due for due in (deadline, self._deadlines.next_due()) if due is not None]
            if deadline is not None and now >= deadline:
                return False
            if not self._open:
                break
            try:
                news = self._news.get(timeout=max(0.0, min(dues) - now) if dues else None)
            except queue.Empty:
                continue
            news()
        return True

    def cancel(self) -> None:
        """Give up all tasks that have not ended: no callback is called any more. The servers go on with them."""
        for task in self.tasks:
            if not task.done:
                task.done = True
                if task.job is not None:
                    task.job.cancel()
        self._open = 0
        self._deadlines = Deadlines()
        self._news = queue.SimpleQueue()

    # -- one task's way ----------------------------------------------------------

    def _submit(self, task: Task) -> None:
        kinds = ("created", "warning", "status", "retry", *(["data"] if "data" in task.callbacks else []))
        relays = {"on_" + kind: self._relay(task, kind) for kind in kinds}
        retries = task.retry_count - task.retries_done
        job = self._client.submit(task.function, task.workload, retries=retries, **relays, **task.options)
        task.job = job
        self._begin_try(task)
        news = self._news
        job.add_done_callback(lambda job: news.put(lambda: self._ended(task, job)))

    def _begin_try(self, task: Task) -> None:
        if task.try_timeout_s is not None:
            self._deadlines.add(time.monotonic() + task.try_timeout_s, (task, task.tries))
            task.tries += 1

    def _relay(self, task: Task, kind: str) -> Callback:
        news = self._news
        act = self._retried if kind == "retry" else self._call

        def relay(*arguments: Any) -> None:
            if kind in task.callbacks or kind == "retry":
                news.put(lambda: None if task.done else act(task, kind, *arguments))

        return relay

    def _retried(self, task: Task, kind: str, count: int) -> None:
        task.retries_done += 1
        self._begin_try(task)
        self._call(task, kind, task.retries_done)

    def _ended(self, task: Task, job: SubmittedJob) -> None:
        if task.done or job is not task.job or job.cancelled():
            return
        error = job.exception()
        if error is None:
            task.result = job.result()
            self._end(task, "complete", task.result)
        else:
            self._fail(task, error)

    def _fail(self, task: Task, error: BaseException) -> None:
        task.error = error
        data = getattr(error, "data", None)
        if data is not None and "exception" in task.callbacks:
            self._end(task, "exception", data)
        else:
            self._end(task, "fail")

    def _end(self, task: Task, kind: str, *arguments: Any) -> None:
        task.done = True
        self._open -= 1
        self._call(task, kind, *arguments)

    def _call(self, task: Task, kind: str, *arguments: Any) -> None:
        callback = task.callbacks.get(kind)
        if callback is not None:
            callback(*arguments)

    # -- timeouts ------------------------------------------------------------------

    def _give_up(self, now: float) -> None:
        for task, number in self._deadlines.pop_due(now):
            if task.done or (number is not None and number != task.tries - 1):
                continue  # It has ended, or is at a later try.
            job = task.job
            job.cancel()
            if number is None:
                self._fail(task, job.too_late(task.timeout_s))
            elif task.retries_done < task.retry_count:
                task.retries_done += 1
                self._call(task, "retry", task.retries_done)
                if not task.done:
                    self._submit(task)
            else:
                self._fail(task, job.too_late(task.try_timeout_s))
