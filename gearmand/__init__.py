"""Gearman in pure Python: a job server that replaces the C gearmand, and can be embedded.

The rooms, in reading order:

    errors, version, config     what goes wrong, which version, every setting
    protocol, text, schedule    bytes to packets, lines, and due times
    jobs, functions, parties    one job, one function, one party
    deadlines, uniques          two indexes
    wakeups                     who is awake for what
    registry                    all of them: decides
    peer, flusher               one connected peer, and the sending of what its socket would not take
    broker                      the one lock
    caller                      one in-process caller
    packet_commands, text_commands    what each packet and each line asks for
    complaints                  a log that cannot be flooded
    listener, server            sockets and threads; the embeddable Server
    daemon, cli                 the process, its command line
"""

from gearmand.config import Config
from gearmand.errors import (
    ConfigError,
    GearmandError,
    JobError,
    JobException,
    JobFailed,
    JobLost,
    JobRefused,
    JobTimeout,
)
from gearmand.jobs import Priority
from gearmand.server import Server
from gearmand.version import VERSION

__version__ = VERSION
__all__ = [
    "Config",
    "ConfigError",
    "GearmandError",
    "JobError",
    "JobException",
    "JobFailed",
    "JobLost",
    "JobRefused",
    "JobTimeout",
    "Priority",
    "Server",
]
