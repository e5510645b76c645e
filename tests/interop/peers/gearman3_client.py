"""A client of gearman3 (PyPI): HOST PORT MODE FUNCTION, the workload on standard input.

Prints what became of the job, one event a line, data in hexadecimal.
"""

import sys

import gearman


def hexadecimal(data):
    return (data if isinstance(data, bytes) else data.encode("latin-1")).hex()


host, port, mode, function = sys.argv[1:]
client = gearman.GearmanClient(["%s:%s" % (host, port)])
workload = sys.stdin.buffer.read().decode("latin-1")
priority = {"high": gearman.PRIORITY_HIGH, "low": gearman.PRIORITY_LOW}.get(mode, gearman.PRIORITY_NONE)
if mode == "background":
    request = client.submit_job(function, workload, background=True, wait_until_complete=False)
    client.wait_until_jobs_accepted([request])
    # Not its status: the library compares bytes with text and calls every job unknown.
    print("CREATED", request.job.handle.decode())
    sys.exit()
request = client.submit_job(function, workload, priority=priority, poll_timeout=20)
for data in request.data_updates:
    print("DATA", hexadecimal(data))
for data in request.warning_updates:
    print("WARNING", hexadecimal(data))
if request.status:
    print("STATUS", request.status["numerator"], request.status["denominator"])
if request.state == gearman.JOB_COMPLETE:
    print("COMPLETE", hexadecimal(request.result))
elif request.state == gearman.JOB_FAILED:
    print("FAIL")
