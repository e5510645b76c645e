"""Our own library's client: HOST PORT MODE FUNCTION, the workload on standard input.

Prints what happens to the job, one event a line, data in hexadecimal.
"""

import sys

from gearmand import Client, JobException, JobFailed


def say(*words):
    print(*words, flush=True)


host, port, mode, function = sys.argv[1:]
workload = sys.stdin.buffer.read()
with Client((host, int(port)), client_id="library-client") as client:
    if mode == "background":
        handle = client.submit_background(function, workload, timeout_s=20)
        say("CREATED", handle)
        # Nobody can do it, so its status stays what it is.
        status = client.status(handle)
        say("KNOWN", int(status.known), int(status.running))
        sys.exit()
    job = client.submit(function, workload, priority=mode)
    for kind, value in job.updates(timeout_s=20):
        say(kind.upper(), *(value if kind == "status" else (value.hex(),)))
    try:
        say("COMPLETE", job.result(timeout=20).hex())
    except JobFailed:
        say("FAIL")
    except JobException as error:
        say("EXCEPTION", error.data.hex())
