"""Access control beside gear, whose commands it has: its client at this server, and the library at its server."""

from __future__ import annotations

import subprocess

import pytest

from foreign import gear_python, require
from gearmand import Admin, AdminRefused, Server
from wire import SUBMIT_JOB_BG, Wire, wait_until

CLIENT = r"""
import logging, sys, gear
class Table(gear.AdminRequest):
    command = b"acl list"
class Line(gear.CancelJobAdminRequest):
    def __init__(self, *words):
        gear.AdminRequest.__init__(self, *words)
    command = b"acl"
client = gear.Client()
client.addServer("127.0.0.1", int(sys.argv[1]))
client.waitForServer()
server = client.active_connections[0]
for words in ("grant register worker build*", "grant invoke worker *", "grant grant worker", "revoke grant worker", "grant what worker x", "self-revoke all"):
    request = Line(*words.encode().split())
    server.sendAdminRequest(request, 10)
    print(request.response)
request = Table()
server.sendAdminRequest(request, 10)
print(request.response.decode(), end="")
job = gear.Job(b"secret", b"")
try:
    client.submitJob(job, timeout=20)
except Exception as error:
    print(type(error).__name__)
job = gear.Job(b"build-1", b"")
client.submitJob(job, background=True, timeout=10)
print("handle", bool(job.handle))
client.shutdown()
"""

WORKER = r"""
import sys, gear
worker = gear.Worker("w")
worker.addServer("127.0.0.1", int(sys.argv[1]))
worker.waitForServer()
worker.registerFunction("build-1")
job = worker.getJob()
print(job.name, job.arguments.decode(), flush=True)
job.sendWorkComplete(b"")
worker.shutdown()
"""

SERVER = r"""
import sys, gear
acl = gear.ACL()
acl.add(gear.ACLEntry("worker", register="build:.*"))
acl.add(gear.ACLEntry("zuul", invoke=".*", grant=True))
server = gear.Server(0, host="127.0.0.1", acl=acl)
print(server.port, flush=True)
sys.stdin.read()
server.shutdown()
"""


def run(script, *arguments):
    return subprocess.Popen(
        [gear_python(), "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
    )  # fmt: skip


@pytest.fixture
def guarded(tmp_path):
    require("gear")
    path = tmp_path / "acl"
    path.write_text(
        "default deny\naddress:127.0.0.1 grant\naddress:127.0.0.1 admin acl\n"
        "address:127.0.0.1 submit build*\naddress:127.0.0.1 work build*\n"
    )
    with Server(port=0, acl=str(path)) as server:
        yield server


def test_client_of_gear_changes_the_list_and_is_refused_a_job(guarded):
    out, err = run(CLIENT, guarded.address[1]).communicate(timeout=60)
    assert out.splitlines() == [
        r"b'OK\r\n'", r"b'OK\r\n'", r"b'OK\r\n'", r"b'OK\r\n'",
        r"b'ERR UNKNOWN_ACL_VERB\r\n'",
        r"b'ERR UNABLE You+have+neither+a+certificate+nor+a+token\r\n'",
        "address:127.0.0.1/32\tregister=build*\tinvoke=build*\tgrant=True\tadmin=acl",
        "cn:worker\tregister=build*\tinvoke=*\tgrant=False\tadmin=None",
        ".",
        "GearmanError",
        "handle True",
    ], err  # fmt: skip


# One that is refused a function takes the ERROR for the end of its connection, and makes another.
def test_worker_of_gear_does_what_it_may(guarded):
    process = run(WORKER, guarded.address[1])
    try:
        with Wire(guarded.address) as wire:
            wire.submit(b"build-1", b"work", kind=SUBMIT_JOB_BG)
            assert process.stdout.readline() == "build-1 work\n"
            wait_until(lambda: not guarded.broker.registry.jobs, "the job's end")
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_library_reads_the_list_of_gear_s_server():
    require("gear")
    process = run(SERVER)
    try:
        port = int(process.stdout.readline())
        with Admin(("127.0.0.1", port)) as admin:
            assert admin.acl_list() == [("worker", "build:.*", None, None, False), ("zuul", None, ".*", None, True)]
            with pytest.raises(AdminRefused) as raised:
                admin.acl_grant("register", "worker", ".*")
            assert raised.value.code in ("PERMISSION_DENIED", "UNKNOWN_ACL_VERB")
    finally:
        process.kill()
        process.communicate(timeout=30)
