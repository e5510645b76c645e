"""A worker of gearman3 (PyPI) for the functions that the interoperation tests use: HOST PORT."""

# The library compares the names in JOB_ASSIGN, which are bytes, with those registered.
import sys

import gearman

host, port = sys.argv[1:]


def upper(worker, job):
    return job.data.upper()


def fail(worker, job):
    raise ValueError("becomes WORK_FAIL")


class Worker(gearman.GearmanWorker):
    """Its `raise` sends WORK_EXCEPTION and then WORK_FAIL, as the library always does."""

    def on_job_exception(self, job, exc_info):
        if job.task == b"raise":
            self.send_job_exception(job, b"told to")
            return False
        return super().on_job_exception(job, exc_info)


def talk(worker, job):
    worker.send_job_data(job, b"part of " + job.data)
    worker.send_job_warning(job, b"careful")
    worker.send_job_status(job, 1, 2)
    return b"done"


worker = Worker(["%s:%s" % (host, port)])
worker.set_client_id("gearman3-worker")
worker.register_task(b"upper", upper)
worker.register_task(b"fail", fail)
worker.register_task(b"raise", fail)
worker.register_task(b"talk", talk)
worker.work()
