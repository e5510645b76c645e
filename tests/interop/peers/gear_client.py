"""A client of gear (PyPI): HOST PORT MODE FUNCTION, the workload on standard input.

Prints what happens to the job, one event a line, data in hexadecimal.
"""

import sys
import threading

import gear

over = threading.Event()


def say(*words):
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


class Client(gear.Client):
    def handleWorkData(self, packet):
        say("DATA", packet.getArgument(1, True).hex())
        return super().handleWorkData(packet)

    def handleWorkWarning(self, packet):
        say("WARNING", packet.getArgument(1, True).hex())
        return super().handleWorkWarning(packet)

    def handleWorkStatus(self, packet):
        say("STATUS", packet.getArgument(1).decode(), packet.getArgument(2).decode())
        return super().handleWorkStatus(packet)

    def handleWorkComplete(self, packet):
        say("COMPLETE", packet.getArgument(1, True).hex())
        super().handleWorkComplete(packet)
        over.set()

    def handleWorkFail(self, packet):
        say("FAIL")
        super().handleWorkFail(packet)
        over.set()

    def handleWorkException(self, packet):
        say("EXCEPTION", packet.getArgument(1, True).hex())
        super().handleWorkException(packet)
        over.set()

    def handleStatusRes(self, packet):
        job = super().handleStatusRes(packet)
        say("KNOWN", str(int(job.known)), str(int(job.running)))
        over.set()


host, port, mode, function = sys.argv[1:]
client = Client("gear-client")
client.addServer(host, int(port))
client.waitForServer()
assert client.setOption("exceptions")
precedence = {"high": gear.PRECEDENCE_HIGH, "low": gear.PRECEDENCE_LOW}.get(mode, gear.PRECEDENCE_NORMAL)
job = gear.Job(function, sys.stdin.buffer.read())
client.submitJob(job, background=mode == "background", precedence=precedence)
if mode == "background":
    say("CREATED", job.handle.decode())
    # A background job's status can be asked for while the client still knows it.
    job.connection.related_jobs[job.handle] = job
    job.connection.sendPacket(gear.Packet(gear.constants.REQ, gear.constants.GET_STATUS, job.handle))
assert over.wait(20), "the job did not end"
client.shutdown()
