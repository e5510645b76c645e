"""The names and signatures of python-gearman 2, so that its applications run by changing an import.

    from gearmand import compat as gearman
    from gearmand.compat.errors import ServerUnavailable

    client = gearman.GearmanClient(["localhost:4730"])
    request = client.submit_job("reverse", "stressed")
    print(request.state, request.result)

What its modules were called works after `gearmand.compat.` too: admin_client,
client, connection, connection_manager, constants, errors, job, worker.

ConnectionError shadows a builtin here, as it does there; `import *` leaves it out.

Text and bytes, as in gearman3, its port to Python 3: whatever comes from the
wire is `bytes`, that is workloads, results, updates, handles, and a worker's
`job.unique`. A `str` that is given is sent as UTF-8, and so is what a
`data_encoder` makes; `data_encoder = "text"` makes all of it `str` (see
`encoders`). A worker's `job.task` is as it was registered, and what the
administrative client returns is `str`.

Where it differs from python-gearman, and from gearman3 on Python 3:

- A job goes to the server that its unique belongs to (see `client`), not to
  any one. Its `handle` and `connection` are known once that server has it.
- `exception` holds what a worker said; there no client asks the server for it.
- A job that a server refuses, as when a queue is full, becomes JOB_FAILED;
  there it stays JOB_PENDING for ever.
- A job that a server had, and that is lost while it is submitted, becomes
  JOB_UNKNOWN; there it may be submitted again.
- Waiting for requests that are complete raises nothing, whatever has become of
  the connections.
- A workload or a result that the encoder cannot take is an exception of the
  job, so the job fails; there it ends the worker. `None` is sent as nothing.
- A server that goes ends `work` only where no other one is connected, also
  when it goes in the middle of a job.
- `after_job` is called once after each job; there also after later polls.
- Functions may be registered as `str` or `bytes`; in gearman3 as `bytes` only.
- The administrative client and `status["known"]` and `["running"]` work, which
  they do not in gearman3. `get_version` and `get_pid` begin with OK whatever
  the server; a refused shutdown raises ProtocolError.
- Connecting takes 5 seconds at most, and sending waits 30 for a server that
  takes nothing; the `poll_timeout` of the `send_job_...` has no effect.

- The servers of one client speak TLS all with the same files, or none does.
  A host that is a dict with one of keyfile, certfile and ca_certs asks for it;
  there all three must be in it, and it is plain text otherwise.

What was behind these names, handlers of packets and the like, is not here.
"""

from __future__ import annotations

import sys

from gearmand import compat_admin as admin_client
from gearmand import compat_client as client
from gearmand import compat_names as connection
from gearmand import compat_worker as worker
from gearmand.compat_admin import GearmanAdminClient
from gearmand.compat_client import GearmanClient
from gearmand.compat_names import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NONE,
    ConnectionError,
    DataEncoder,
    ExceededConnectionAttempts,
    GearmanConnection,
    GearmanError,
    GearmanJob,
    GearmanJobRequest,
    InvalidAdminClientState,
    InvalidClientState,
    InvalidWorkerState,
    NoopEncoder,
    ProtocolError,
    ServerUnavailable,
    UnknownCommandError,
)
from gearmand.compat_worker import GearmanWorker

connection_manager = constants = errors = job = connection

__all__ = [
    "JOB_COMPLETE",
    "JOB_CREATED",
    "JOB_FAILED",
    "JOB_PENDING",
    "JOB_UNKNOWN",
    "PRIORITY_HIGH",
    "PRIORITY_LOW",
    "PRIORITY_NONE",
    "DataEncoder",
    "ExceededConnectionAttempts",
    "GearmanAdminClient",
    "GearmanClient",
    "GearmanConnection",
    "GearmanError",
    "GearmanJob",
    "GearmanJobRequest",
    "GearmanWorker",
    "InvalidAdminClientState",
    "InvalidClientState",
    "InvalidWorkerState",
    "NoopEncoder",
    "ProtocolError",
    "ServerUnavailable",
    "UnknownCommandError",
]

# As `os` does with `os.path`: a module that is no package, with names that can be imported from.
for _name in ("admin_client", "client", "connection", "connection_manager", "constants", "errors", "job", "worker"):
    sys.modules["gearmand.compat." + _name] = globals()[_name]
