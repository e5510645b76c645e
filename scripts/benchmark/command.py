"""argv, and the alternation: every server in its turn, load by load."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from typing import Dict, List, Optional

from benchmark import loads, picture, summary
from benchmark.crew import Run, measure
from benchmark.links import Fault
from benchmark.loads import Load
from benchmark.servers import NAMES, Running, Server, given, installed, introduced
from benchmark.summary import Result

ABOUT = """\
Measures this server beside the Gearman servers that are installed, with the same loads, in the same minutes.

Each run has a server that was just started, on a port of 127.0.0.1; servers take turns, and the first run
of each is dropped. Loads and the letters of their options:

%s
    -c clients  -w workers  -d requests in flight of each client  -s bytes of workload  -i idle workers  -n jobs
"""
FURTHER = "a further one, with {port} in its command: --server 'old=python3.8 -m gearmand -L 127.0.0.1 -p {port}'"
STOPPED = "a run is stopped after so long, and what is done till then counts (default: 5; 2 with --quick)"
PROCESSES = "processes of the driver (default: one less than there are processors, at most 4; here %(default)s)"
PORT = "of the servers, one after the other; none that the system gives to connections (default: a free one for each run)"
FILL_S = 60.0
FILL = Load("bg", clients=4, depth=32)


def main(arguments: Optional[List[str]] = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.picture and not picture.available():
        parser.error("--picture needs matplotlib: pip install 'gearmand[bench]'")
    try:
        servers = _chosen(options)
        chosen = loads.named(options.loads, options.quick) if options.loads else loads.table(options.quick)
    except ValueError as error:
        parser.error(str(error))
    _raise_limit_of_files()
    try:
        return _Bench(options, chosen).run(servers)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    modes = (loads.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    parser = argparse.ArgumentParser(
        prog="bench", description=ABOUT % modes, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer jobs and three runs: a first look, in a few minutes")
    add("--runs", type=_above_zero, metavar="N", help="runs that count, of each server with each load (default: 5; 3 with --quick)")
    add("--loads", metavar="LOAD,...", help="the loads (default: all of the table): --loads 'sync,sync -c 8 -w 8 -d 32'")
    add("--servers", metavar="NAME,...", help="the servers, of: %s (default: those that are installed)" % ", ".join(NAMES))
    add("--server", action="append", default=[], metavar="NAME=COMMAND", help=FURTHER)
    add("--reference", metavar="NAME", help="the server that ratios are of (default: c where it is measured, else the first)")
    add("--port", type=_above_zero, metavar="PORT", help=PORT)
    add("--seconds", type=_above_zero, metavar="N", help=STOPPED)
    add("--processes", type=_above_zero, default=default_processes(), metavar="N", help=PROCESSES)
    add("--json", metavar="FILE", help="write all figures of all runs to a file")
    add("--picture", metavar="FILE", help="draw rate against load; needs matplotlib")
    return parser


def _above_zero(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("a number above zero, not %r" % text)
    return int(text)


def default_processes() -> int:
    """The server wants a processor for itself; more processes than processors cost switches between them."""
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1))


def _chosen(options: argparse.Namespace) -> List[Server]:
    there = installed()
    further = {server.name: server for server in map(given, options.server)}
    names = options.servers.split(",") if options.servers else list(there)
    for name in names:
        if name not in there and name not in further:
            raise ValueError("server %s is not installed" % name if name in NAMES else "there is no server %r" % name)
    servers = {name: further.get(name) or there[name] for name in names}
    servers.update(further)
    if options.reference and options.reference not in servers:
        raise ValueError("--reference %s is not measured; there are %s" % (options.reference, ", ".join(servers)))
    return list(servers.values())


def _raise_limit_of_files() -> None:
    """As far as the system lets us; the servers inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Bench:
    def __init__(self, options: argparse.Namespace, chosen: List[Load]) -> None:
        self._options = options
        self._loads = chosen
        self._runs = options.runs or (3 if options.quick else 5)
        self._seconds = options.seconds or (2 if options.quick else 5)
        self._results: List[Result] = []
        self._faults = 0
        self._begun = time.strftime("%Y-%m-%d %H:%M:%S")

    def run(self, servers: List[Server]) -> int:
        ready = []
        for server in servers:
            try:
                ready.append(introduced(server, self._options.port))
                print("%-8s %s" % (server.name, ready[-1].version))
            except Fault as fault:
                self._faults += 1
                print("%-8s left out: %s" % (server.name, fault))
        if not ready:
            return 1
        names = [server.name for server in ready]
        reference = self._options.reference
        if reference not in names:
            reference = "c" if "c" in names else names[0]
        print("%d runs of each, after one that is dropped; driver: Python %s, processes: %d\n" % (
            self._runs, sys.version.split()[0], self._options.processes))  # fmt: skip
        print(summary.heading(reference))
        for load in self._loads:
            self._results += self._alternate(load, ready)
            self._show("")
            print(summary.block(load, self._results, reference), flush=True)
            self._write(reference)
        print()
        print(summary.LEGEND % reference + summary.warning(self._results), end="")
        return 1 if self._faults else 0

    def _alternate(self, load: Load, servers: List[Server]) -> List[Result]:
        runs: Dict[str, List[Run]] = {server.name: [] for server in servers}
        faults: Dict[str, str] = {}
        for number in range(self._runs + 1):
            # Now forwards, now backwards: nobody has always the same one before it.
            for server in servers if number % 2 == 0 else servers[::-1]:
                if server.name in faults:
                    continue
                self._show("%s: run %d of %d, %s" % (load, number, self._runs, server.name))
                try:
                    run = self._one(load, server)
                except Fault as fault:
                    faults[server.name] = "failed: %s" % fault
                    self._faults += 1
                    continue
                if number:
                    runs[server.name].append(run)
        return [Result(server, load, runs[server.name], faults.get(server.name, "")) for server in servers]

    def _one(self, load: Load, server: Server) -> Run:
        options = self._options
        with Running(server, options.port) as running:
            try:
                if load.mode == "drain":
                    self._fill(load, running)
                return measure(running.address, load, server.grab, self._seconds, options.processes, running.cpu_s)
            except Fault as fault:
                end = running.end()
                raise Fault("%s (%s)" % (fault, end) if end else str(fault)) from None

    def _fill(self, load: Load, running: Running) -> None:
        fill = FILL._replace(bytes=load.bytes, jobs=load.jobs)
        filled = measure(running.address, fill, running.server.grab, FILL_S, self._options.processes, running.cpu_s)
        if filled.jobs < load.jobs:
            raise Fault("only %s jobs could be submitted in %g s" % (summary.count(filled.jobs), FILL_S))

    def _write(self, reference: str) -> None:
        """After each load, so that what has been measured is not lost."""
        options = self._options
        if options.json:
            document = summary.document(self._results, reference, options.processes, self._begun)
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
                file.write("\n")
        if options.picture:
            picture.draw(self._results, options.picture, "Gearman servers, %s" % self._begun)

    def _show(self, what: str) -> None:
        if sys.stderr.isatty():
            print("\r%s\x1b[K" % what, end="", file=sys.stderr, flush=True)
