"""What is measured. A load is a mode and numbers:

    sync    clients x depth foreground jobs in flight; each worker answers with the workload
    bg      background jobs, no workers
    drain   workers empty a queue of background jobs
    echo    ECHO_REQ in flight
    idle    sync, beside idle workers of another function
    herd    sync, beside idle workers of the same function

It is written as on a command line: sync -c 8 -w 8 -d 32.
"""

from __future__ import annotations

from typing import List, NamedTuple

JOBS = 10000
MODES = ("sync", "bg", "drain", "echo", "idle", "herd")


class Load(NamedTuple):
    mode: str
    clients: int = 1
    workers: int = 1
    depth: int = 1
    bytes: int = 64
    idle: int = 0
    jobs: int = JOBS

    def __str__(self) -> str:
        text = self.mode
        for letter, name in LETTERS.items():
            value = getattr(self, name)
            # The number of jobs says how long to measure; of drain alone it is the load itself.
            if value != Load._field_defaults[name] and letter != "n" or letter == "n" and self.mode == "drain":
                text += " -%s %d" % (letter, value)
        return text

    @property
    def has_clients(self) -> bool:
        return self.mode != "drain"

    @property
    def has_workers(self) -> bool:
        return self.mode not in ("bg", "echo")


LETTERS = {"c": "clients", "w": "workers", "d": "depth", "s": "bytes", "i": "idle", "n": "jobs"}

LOADS = (
    # load                       jobs, at most    with --quick; 0: left out
    ("sync", 20000, 4000),
    ("sync -c 8 -w 8", 40000, 8000),
    ("sync -c 8 -w 8 -d 32", 80000, 16000),
    ("sync -c 100 -w 100", 40000, 8000),
    ("echo", 40000, 10000),
    ("echo -d 64", 1000000, 200000),
    ("bg -d 64", 500000, 100000),
    ("bg -c 16 -d 16", 500000, 100000),
    ("drain -w 8", 100000, 20000),
    ("drain -w 8", 1000000, 0),
    ("herd -i 1000", 20000, 4000),
    ("idle -i 10000", 20000, 4000),
    ("sync -c 4 -w 4 -s 1000000", 2000, 400),
)


def parse(line: str) -> Load:
    """A load from its line. ValueError says what is wrong with it."""
    mode, *words = line.split() or [""]
    if mode not in MODES:
        raise ValueError("there is no load %r; there are %s" % (mode, ", ".join(MODES)))
    if len(words) % 2:
        raise ValueError("load %r: an option without its number" % line)
    numbers = {}
    for option, text in zip(words[::2], words[1::2]):
        name = LETTERS.get(option[1:]) if option.startswith("-") else None
        if name is None:
            raise ValueError("load %r: there is no option %s; there are -%s" % (line, option, ", -".join(LETTERS)))
        if not text.isdigit() or name not in ("idle", "bytes") and not int(text):
            raise ValueError("load %r: %s wants a number above zero, not %r" % (line, option, text))
        numbers[name] = int(text)
    return Load(mode, **numbers)


def table(quick: bool) -> List[Load]:
    rows = [(parse(line), few if quick else many) for line, many, few in LOADS]
    return [load._replace(jobs=jobs) for load, jobs in rows if jobs]


def named(lines: str, quick: bool) -> List[Load]:
    """Loads from lines with commas between them. One of the table has its number of jobs from there."""
    known = {load._replace(jobs=JOBS if load.has_clients else load.jobs): load for load in table(quick)}
    return [known.get(load, load) for load in map(parse, lines.split(","))]
