"""A worker of gear (PyPI) for the functions that the interoperation tests use: HOST PORT."""

import sys

import gear

host, port = sys.argv[1:]
worker = gear.Worker("gear-worker")
worker.addServer(host, int(port))
worker.waitForServer()
for name in ("upper", "fail", "raise", "talk"):
    worker.registerFunction(name)
while True:
    job = worker.getJob()
    if job.name == "upper":
        job.sendWorkComplete(job.arguments.upper())
    elif job.name == "fail":
        job.sendWorkFail()
    elif job.name == "raise":
        job.sendWorkException(b"told to")
    else:
        job.sendWorkData(b"part of " + job.arguments)
        job.sendWorkWarning(b"careful")
        job.sendWorkStatus(1, 2)
        job.sendWorkComplete(b"done")
