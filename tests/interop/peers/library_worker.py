"""Our own library's worker of the functions that the interoperation tests use: HOST PORT."""

import os
import sys
import time

from gearmand import JobFailed, Worker

host, port = sys.argv[1:]
worker = Worker((host, int(port)), client_id="library-worker")


@worker.register("upper")
def upper(job):
    return job.workload.upper()


@worker.register("fail")
def fail(job):
    raise JobFailed("told to")


@worker.register("raise")
def raise_(job):
    raise ValueError("told to")


@worker.register("talk")
def talk(job):
    yield b"part of " + job.workload
    job.send_warning(b"careful")
    job.send_status(1, 2)
    return b"done"


@worker.register("until")
def until(job):
    while not os.path.exists(job.workload):
        time.sleep(0.02)
    return b"done"


worker.work(handle_signals=True)
