"""The command gearman: argv to jobs of a client, to a worker, or to questions about jobs and servers.

It takes the place of the C tool: its options mean the same, and what they
print to stdout and their exit status are the same wherever they work there.

What each use needs is imported by it alone: a client need not wait for what a
worker imports.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import signal
import sys
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from gearmand.addresses import DEFAULT_PORT, Address, parse, parse_all
from gearmand.console import Console
from gearmand.errors import ConfigError, GearmandError
from gearmand.tokens import find
from gearmand.version import VERSION


def _text(word: str) -> str:
    """Names travel as UTF-8, or as the bytes that they are, whatever the locale."""
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def _name(word: str) -> str:
    if not word:
        raise ValueError("a name")
    return _text(word)


def _milliseconds(word: str) -> Optional[float]:
    number = _number(word)
    return number / 1000 if number > 0 else None


def _seconds(word: str) -> float:
    number = _number(word)
    if number < 0:
        raise ValueError("a number of seconds")
    return number


def _number(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = float("nan")
    if not -1e12 < number < 1e12:
        raise ValueError("a number")
    return number


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ValueError("a whole number, 0 or more")
    return int(word)


def _some(word: str) -> int:
    if not _count(word):
        raise ValueError("a whole number, 1 or more")
    return int(word)


class Option(NamedTuple):
    """`value`: what the help shows for it; without it the option is a flag. `check`: the value's text to the value, or ValueError.

    `uses`: what it can be given for, see `_use_of`. Those that the C tool has
    can be given for everything, and are ignored where they mean nothing.
    """

    name: str
    short: str
    value: str
    help: str
    check: Callable[[str], Any] = str
    repeats: bool = False
    uses: str = ""

    @property
    def names(self) -> List[str]:
        return ["-" + self.short] * bool(self.short) + ["--" + self.name]


COMMON = [
    Option("function", "f", "FUNCTION", "The function; may be given several times. Each gets a job with the workload, or the worker can do all of them.", _name, True),
    Option("host", "h", "HOST", "A server, HOST, HOST:PORT or unix:PATH; may be given several times, or several separated by commas. Default: GEARMAN_SERVERS or GEARMAN_SERVER in the environment, else 127.0.0.1.", str, True),
    Option("port", "p", "PORT", "The port where HOST has none. Default: 4730."),
    Option("timeout", "t", "MS", "For how many milliseconds a client waits for news of its jobs, or of a connection; with --wait, for the end of each job; with --count, how long a worker waits for a job before it leaves. 0 or less: for ever.", _milliseconds),
    Option("pid-file", "i", "FILE", "File to write the process id to; removed at the end."),
    Option("daemon", "d", "", "Detach and run in the background, with nothing of the terminal: results go nowhere. A client reads its workloads before that."),
    Option("token-file", "", "FILE", "The first line of the file is a token, which is presented to every server; see gearmand(8). Default: GEARMAN_TOKEN in the environment, where it is set."),
    Option("ssl", "S", "", "Speak TLS with the servers, but for Unix-domain sockets."),
    Option("ssl-ca-file", "", "FILE", "The certificates, in PEM format, one of which has to have signed a server's. Default: GEARMAND_CA_CERTIFICATE in the environment, else those that the system trusts."),
    Option("ssl-certificate", "", "FILE", "The certificate to show to servers that ask for one. Default: GEARMAN_CLIENT_PEM in the environment."),
    Option("ssl-key", "", "FILE", "Its key, not encrypted. Default: GEARMAN_CLIENT_KEY in the environment, else it is in the file of the certificate."),
    Option("ssl-name", "", "NAME", "The name that a server's certificate has to be for, *: any. Default: the server's HOST."),
    Option("verbose", "v", "", "Client: print the handle of each job to standard output. Worker: log each job to standard error."),
    Option("help", "H", "", "Print this and leave."),
    Option("version", "V", "", "Print the version and leave."),
]  # fmt: skip

CLIENT = [
    Option("background", "b", "", "Do not wait for the jobs: the server keeps them, their results go nowhere."),
    Option("high", "I", "", "Jobs of high priority."),
    Option("low", "L", "", "Jobs of low priority."),
    Option("lines", "n", "", "A job for each line of standard input, one after the other."),
    Option("stripped-lines", "N", "", "The same, without the line feeds."),
    Option("prefix", "P", "", "Print the function and a colon before each result and each part of one."),
    Option("no-input", "s", "", "Do not read standard input: without arguments the workload is empty."),
    Option("unique", "u", "UNIQUE", "Jobs of one function and unique are one job as long as it has not ended. - stands for the workload, # for a hash of it.", _text),
    Option("epoch", "", "SECONDS", "Background jobs, not to begin before this time, in seconds since 1970.", _seconds, uses="function"),
    Option("delay", "", "SECONDS", "Background jobs, not to begin before so many seconds from now.", _seconds, uses="function"),
    Option("reducer", "", "FUNCTION", "Reduce jobs, with this function as their reducer.", _name, uses="function"),
    Option("retries", "", "N", "Submit a job that fails, or whose server is lost, so many times again. What was printed stays printed.", _count, uses="function"),
    Option("progress", "", "", "Print how far jobs are as lines N/D to standard error where that is no terminal. On a terminal a bar is drawn anyway, for jobs that take more than half a second.", uses="function wait"),
    Option("quiet", "q", "", "Show nothing of how far jobs are.", uses="function wait"),
]  # fmt: skip

QUESTIONS = [
    Option("wait", "", "", "Wait until no server knows the background jobs whose handles are given as arguments; with --background, --epoch or --delay, the jobs that are submitted.", uses="function wait"),
    Option("status", "", "", "Print for each handle that is given as an argument: handle, unknown, queued or running, and N/D.", uses="status"),
    Option("unique-status", "", "", "The same for uniques. Servers that are not as new as the C server 1.1.20 may not know this.", uses="unique-status"),
    Option("ping", "", "", "Print how long each server takes to answer.", uses="ping"),
]  # fmt: skip

WORKER = [
    Option("worker", "w", "", "Be a worker. What follows the options, after --, is a command with its arguments, run anew for each job: it reads the workload and prints the result. Without one, the worker prints the workloads."),
    Option("count", "c", "N", "Leave after so many jobs; with --concurrency, that many at once may make it a few more. 0: never.", _count),
    Option("lines", "n", "", "Send each line of the command's output as it comes, as a part of the result."),
    Option("stripped-lines", "N", "", "The same, without the line feeds."),
    Option("concurrency", "", "N", "How many jobs at once. Default: 1.", _some, uses="worker"),
    Option("processes", "", "N", "How many processes do that each. Default: this one.", _count, uses="worker"),
]  # fmt: skip

SECTIONS = [
    ("Options of clients and workers", COMMON),
    ("Client", CLIENT),
    ("Client, instead of jobs", QUESTIONS),
    ("Worker", WORKER),
]
ROWS = {option.name: option for _, options in SECTIONS for option in options}

_WIDTH = 79


def help_text() -> str:
    import textwrap

    lines = ["usage: gearman [OPTION ...] [WORKLOAD ...]", "       gearman -w [OPTION ...] [--] [COMMAND [ARGUMENT ...]]", ""]
    lines += ["Submits jobs to Gearman job servers, or does them.", "Without a WORKLOAD, standard input is the workload."]
    for title, options in SECTIONS:
        lines += ["", title + ":"]
        for option in options:
            lines.append("  " + ", ".join(option.names) + " " * bool(option.value) + option.value)
            lines += textwrap.wrap(option.help, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines)


# -- argv --------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str]) -> Dict[str, Any]:
    """What is given, by long names; of an option that is given twice the last counts. `arguments`: what is no option. ConfigError.

    As with the C tool, options may follow arguments, up to --. Not argparse:
    what it makes of -- differs between versions of Python.
    """
    shorts = "".join(option.short + ":" * bool(option.value) for option in ROWS.values() if option.short)
    longs = [option.name + "=" * bool(option.value) for option in ROWS.values()]
    names = {name: option for option in ROWS.values() for name in option.names}
    try:
        words, rest = getopt.gnu_getopt(list(arguments), shorts, longs)
    except getopt.GetoptError as error:
        raise ConfigError("%s; --help lists what there is, and what follows -- is no option" % error) from None
    given: Dict[str, Any] = {"arguments": rest}
    for word, text in words:
        option = names[word]
        try:
            value = option.check(text)
        except ValueError as error:
            raise ConfigError("%s: expected %s, got %r" % (word, error, text)) from None
        # Taken out, so that the last one given is the last one here.
        earlier = given.pop(option.name, [])
        given[option.name] = [*earlier, value] if option.repeats else value
    return given


def _use_of(given: Dict[str, Any]) -> str:
    """worker, function (that is, to submit jobs), or the name of a question. ConfigError: none is named, or options do not go together."""
    questions = [option.name for option in QUESTIONS if option.name in given]
    use = next((name for name in ("worker", "function", *questions) if name in given), None)
    if use is None or (use == "worker" and "function" not in given):
        raise ConfigError("no function is given: -f FUNCTION; --help lists what there is")
    for name in given:
        if name in ROWS and ROWS[name].uses and use not in ROWS[name].uses.split():
            raise ConfigError("--%s means nothing together with --%s" % (name, use))
    if use in ("wait", "status", "unique-status") and not given["arguments"]:
        raise ConfigError("--%s: expected %s as arguments" % (use, "uniques" if use == "unique-status" else "handles"))
    if given.get("processes") and given.get("count"):
        raise ConfigError("--count and --processes: processes are replaced, so the worker would not leave")
    if use == "function":
        _check_jobs(given)
    return use


def _check_jobs(given: Dict[str, Any]) -> None:
    """ConfigError: there are no such jobs."""
    if "wait" in given and not any(name in given for name in ("background", "epoch", "delay")):
        raise ConfigError("--wait: only background jobs are waited for, see --background")
    kinds = [name for name in ("epoch", "delay", "reducer") if name in given]
    kinds += [name for name in ("high", "low") if name in given][:1]
    if len(kinds) > 1:
        raise ConfigError("--%s and --%s: the protocol has no such jobs" % tuple(kinds[:2]))


def _addresses(given: Dict[str, Any]) -> List[Address]:
    hosts = [host for text in given.get("host", []) for host in text.split(",") if host.strip()]
    if hosts or "host" in given:
        # A pair of nothing is what `parse_all` refuses.
        return list(dict.fromkeys(parse(host, given.get("port", DEFAULT_PORT)) for host in hosts)) or parse_all([])
    addresses = parse_all(None)
    # A Unix-domain socket has no port, and stays as it is.
    return [parse((address.host, given["port"])) for address in addresses] if "port" in given else addresses


# -- main --------------------------------------------------------------------------


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Carry out a command line. Returns the exit status, 0 or 1; Ctrl-C ends the process as if nothing caught it."""
    console = Console()
    try:
        given = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        console = Console("prefix" in given, False if "quiet" in given else True if "progress" in given else None)
        return _run(given, console)
    except GearmandError as error:
        console.complain(error)
    except BrokenPipeError:
        pass  # Whoever read the results has seen enough.
    except KeyboardInterrupt:
        console.clear()
        # So that a shell's loop around it ends too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 1


def _run(given: Dict[str, Any], console: Console) -> int:
    for name, text in (("help", help_text), ("version", lambda: "gearman %s" % VERSION)):
        if name in given:
            console.say(text())
            return 0
    use = _use_of(given)
    if any(name.startswith("ssl") for name in given):
        from gearmand.tls import of_options

        given["tls"] = of_options(given)
    given["token"] = find(given.get("token-file"))
    addresses = _addresses(given)
    if use == "worker":
        return _work(given, addresses, console)
    if use == "function":
        return _submit(given, addresses, console)
    return _ask(use, given, addresses, console)


def _work(given: Dict[str, Any], addresses: List[Address], console: Console) -> int:
    from gearmand import gearman_worker

    with _process(given):
        return gearman_worker.run_worker(given, addresses, console)


def _submit(given: Dict[str, Any], addresses: List[Address], console: Console) -> int:
    from gearmand import gearman_client

    loads = gearman_client.workloads(given)
    if "daemon" in given:
        loads = iter(list(loads))
    with _process(given), gearman_client.make_client(given, addresses) as client:
        return gearman_client.run_jobs(client, given, console, loads)


def _ask(question: str, given: Dict[str, Any], addresses: List[Address], console: Console) -> int:
    from gearmand import gearman_client

    ask = gearman_client.QUESTIONS[question]
    with _process(given), gearman_client.make_client(given, addresses) as client:
        return 0 if ask(client, given, console) else 1


@contextlib.contextmanager
def _process(given: Dict[str, Any]) -> Iterator[None]:
    """With a pid file, and in the background, where that is asked for. ConfigError: the file cannot be written."""
    if "pid-file" not in given and "daemon" not in given:
        yield
        return
    from gearmand import daemon, files

    pid_file = files.PidFile(given.get("pid-file"))
    directory = os.getcwd()
    detached = daemon.Detached() if "daemon" in given else None
    # A worker's command, and the files that it uses, may be named from here.
    os.chdir(directory)
    pid_file.write()
    if detached is not None:
        detached.ready()
    try:
        yield
    finally:
        pid_file.remove()


if __name__ == "__main__":
    sys.exit(main())
