"""The documents say what the program does: options, commands, rooms, version."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader

import pytest

import gearmand
import gearmand.worker
from gearmand import admin_steering, gearadmin, gearman, tables, text_commands, top
from gearmand.config import OPTIONS
from gearmand.policy import Policy

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(ROOT, "scripts"))

from benchmark import command  # noqa: E402

PACKAGE = os.path.join(ROOT, "gearmand")
NAMES = [option.name for option in OPTIONS]
GEARADMIN = [*gearadmin.OPTIONS, *gearadmin.COMMANDS]


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def load_make_docs():
    loader = SourceFileLoader("make_docs", os.path.join(ROOT, "scripts", "make-docs"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_docs", loader))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


make_docs = load_make_docs()


def squeezed(text):
    """Without white space, because the help and the man page are free to wrap lines."""
    return re.sub(r"\s+", "", text)


def gearmand_run(*arguments):
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": ROOT}
    environment.pop("GEARMAND_PORT", None)
    return subprocess.run(
        [sys.executable, "-m", "gearmand", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def help_text():
    ran = gearmand_run("--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


# -- options -------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(make_docs.DOCUMENTS))
def test_document_with_generated_options_is_up_to_date(name):
    text = read(name)
    assert make_docs.updated(name, text) == text, "run scripts/make-docs"


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_help_option_has_names_help_and_default(option, help_text):
    squeezed_help = squeezed(help_text)
    assert re.search(r"(?m)^\s*(-\w, )?--%s\b(?!-)" % re.escape(option.name), help_text)
    if option.short:
        assert re.search(r"(?m)^\s*-%s\b" % option.short, help_text)
    assert squeezed(option.help) in squeezed_help
    default = make_docs.default_text(option)
    if option.kind != "flag" and default:
        after = squeezed_help.split(squeezed(option.help), 1)[1]
        assert default in after[: len(default) + 20]


def test_help_has_no_further_options(help_text):
    assert set(re.findall(r"(?m)^\s*(?:-\w, )?--([a-z0-9-]+)", help_text)) == set(NAMES)


def test_option_names_are_unique():
    shorts = [option.short for option in OPTIONS if option.short]
    assert len(set(NAMES)) == len(NAMES)
    assert len(set(shorts)) == len(shorts)


def test_readme_names_every_option_without_effect():
    paragraph = re.search(r"\*\*Accepted without effect\*\*.*?\*\*Not accepted\*\*", read("README.md"), re.S).group()
    assert set(re.findall(r"`--([a-z-]+)`", paragraph)) == {option.name for option in OPTIONS if not option.effect}


@pytest.mark.parametrize("name", ["README.md", "man/gearmand.8"])
def test_document_names_no_unknown_option(name):
    known = set(NAMES)
    text = read(name).replace("\\-", "-")
    if name == "README.md":
        known |= set(gearman.ROWS) | {row.name for row in GEARADMIN} | {option[2:] for option in worker_options() | bench_options()}
        # Of other programs, or said not to be accepted.
        known |= {"mysql-host", "exec", "pidfile"}
    named = re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", text)
    assert set(named) - known == set()


def bench_options():
    return {option for action in command._parser()._actions for option in action.option_strings}


def test_readme_names_only_options_that_the_benchmark_has():
    section = read("README.md").split("## Speed\n")[1].split("\n## ")[0]
    assert set(re.findall(r"--[a-z][a-z-]*", section)) <= bench_options()


def worker_options():
    return {option for action in gearmand.worker._parser()._actions for option in action.option_strings}


# -- administrative commands -----------------------------------------------------


def usages():
    return {command.usage for command in text_commands.COMMANDS.values()}


def test_man_page_has_exactly_the_administrative_commands():
    section = read("man/gearmand.8").split(".SH ADMINISTRATIVE COMMANDS\n")[1].split("\n.SH ")[0]
    assert set(re.findall(r"(?m)^\.TP\n\.B (.*)$", section)) == usages()


def test_readme_has_exactly_the_administrative_commands():
    section = read("README.md").split("## Administrative commands\n")[1].split("\n## ")[0]
    named = {name.replace("\\|", "|") for name in re.findall(r"(?m)^\| `(.*?)` \|", section)}
    # One of them is two in the README, for the reader's sake.
    split = {"show jobs", "show unique jobs"}
    assert (named - split) | {"show [unique] jobs"} == usages()
    assert split < named


# -- gearadmin ---------------------------------------------------------------------


def gearadmin_man_page():
    return re.sub(r"\\f[BIR]", "", read("man/gearadmin.1")).replace("\\-", "-").replace("\\&", "")


def test_gearadmin_man_page_has_exactly_its_options_and_commands_in_order():
    sections = gearadmin_man_page().split(".SH OPTIONS\n")[1].split("\n.SH WATCHING")[0]
    short = {option.name: "-%s, " % option.short for option in gearadmin.OPTIONS if option.short}
    rows = ["%s--%s%s" % (short.get(row.name, ""), row.name, row.value and " " + row.value) for row in GEARADMIN]
    assert re.findall(r"(?m)^\.TP\n(-.*)$", sections) == rows


@pytest.mark.parametrize("row", GEARADMIN, ids=lambda row: row.name)
def test_gearadmin_help_and_man_page_say_the_same_of_an_option(row):
    assert squeezed(row.help) in squeezed(gearadmin_man_page().split("--%s" % row.name, 1)[1])
    assert re.search(r"(?m)^  (-\w, )?--%s( |$)" % row.name, gearadmin.help_text())
    assert squeezed(row.help) in squeezed(gearadmin.help_text())


def test_gearadmin_man_page_has_every_column_of_top():
    section = gearadmin_man_page().split(".SH WATCHING\n")[1].split("\n.SH ")[0]
    assert set(re.findall(r"\b(?!TERM|TP|PP|BR)[A-Z]{2,}(?:/S)?\b", section)) == set(top.COLUMNS)


def test_gearadmin_man_page_has_every_member_of_json():
    section = gearadmin_man_page().split(".SH JSON\n")[1].split("\n.SH ")[0]
    rows = [tables.FunctionStatus, tables.PriorityStatus, tables.WorkerStatus, tables.ClientStatus, tables.ClientJob]
    rows += [tables.JobStatus, tables.ShownJob, tables.AclEntry, top.FunctionRow]
    rows += [admin_steering.WaitingJob, admin_steering.BuriedJob, admin_steering.KeptResult, admin_steering.RecurringJob, Policy]
    members = {field for row in rows for field in row._fields} | {"server", "time", "functions", "error", "queued"}
    assert members <= set(re.findall(r"\w+", section))


def test_gearadmin_man_page_names_no_unknown_option():
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", gearadmin_man_page()))
    assert named <= {row.name for row in GEARADMIN}


# -- gearman -----------------------------------------------------------------------


GEARMAN = [option for _, options in gearman.SECTIONS for option in options]


def gearman_man_page():
    return re.sub(r"\\f[BIR]", "", read("man/gearman.1")).replace("\\-", "-").replace("\\&", "")


def test_gearman_man_page_has_exactly_its_sections_and_options_in_order():
    options = gearman_man_page().split(".SH OPTIONS\n")[1].split("\n.SH ")[0]
    rows = []
    for title, section in gearman.SECTIONS:
        rows += [".SS " + title, *(", ".join(option.names) + (option.value and " " + option.value) for option in section)]
    assert re.findall(r"(?m)^(\.SS .*|(?<=\.TP\n)-.*)$", options) == rows


@pytest.mark.parametrize("option", GEARMAN, ids=lambda option: option.name)
def test_gearman_help_and_man_page_say_the_same_of_an_option(option):
    named = ", ".join(option.names) + (option.value and " " + option.value)
    assert squeezed(named + option.help) in squeezed(gearman_man_page())
    assert squeezed(named + option.help) in squeezed(gearman.help_text())


def test_gearman_man_page_names_no_unknown_option():
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", gearman_man_page()))
    assert named <= set(gearman.ROWS)


@pytest.mark.parametrize("options", [gearman.ROWS, [row.name for row in GEARADMIN]], ids=["gearman", "gearadmin"])
def test_readme_names_only_options_that_the_command_has(options):
    section = read("README.md").split("## The commands gearman and gearadmin\n")[1].split("\n## ")[0]
    of_gearman, of_gearadmin = section.split("`gearadmin` asks")
    part = of_gearman if options is gearman.ROWS else of_gearadmin
    assert set(re.findall(r"`--([a-z-]+)`", part)) <= set(options)


def test_readme_has_every_exception_of_the_library():
    section = read("README.md").split("### Errors\n")[1].split("\n### ")[0]
    named = set(re.findall(r"(?m)^\| `(\w+)` \|", section))
    public = {name for name in gearmand.__all__ if isinstance(getattr(gearmand, name), type) and issubclass(getattr(gearmand, name), Exception)}
    assert named == public - {"GearmandError", "JobError"}


# -- rooms -----------------------------------------------------------------------


def rooms():
    """By room: what its row in CONTRIBUTING.md allows it to import."""
    section = read("CONTRIBUTING.md").split("## The house\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?m)^\| `(\w+)` \| [^|]+ \| ([\w ]*)\| [^|]+ \|$", section)
    return {name: set(allowed.split()) for name, allowed in rows}


def modules():
    return {name[:-3] for name in os.listdir(PACKAGE) if name.endswith(".py")}


def test_contributing_has_exactly_the_rooms_that_exist():
    assert set(rooms()) == modules()


def imported(tree):
    """The rooms that a module imports, also inside functions; not those for annotations alone."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            if node.module == "gearmand":
                found.update(alias.name for alias in node.names)
            elif node.module and node.module.startswith("gearmand."):
                found.add(node.module.split(".")[1])
            assert not node.level, "relative imports escape this test"
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gearmand."))
        found |= imported(node)
    return found


@pytest.mark.parametrize("name", sorted(modules()))
def test_room_imports_only_what_its_row_allows(name):
    tree = ast.parse(read(os.path.join("gearmand", name + ".py")))
    assert imported(tree) <= rooms()[name]


def test_room_imports_only_the_standard_library_from_outside():
    allowed = getattr(sys, "stdlib_module_names", None)
    if allowed is None:
        pytest.skip("this Python does not tell what its standard library has")
    for name in modules():
        for node in ast.walk(ast.parse(read(os.path.join("gearmand", name + ".py")))):
            outside = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert {module.split(".")[0] for module in outside} <= set(allowed) | {"gearmand"}, name


def test_tour_of_the_package_names_every_room():
    toured = set(re.findall(r"\w+", gearmand.__doc__.split("in reading order.")[1]))
    assert modules() - {"__init__", "__main__"} - toured == set()


# -- version ---------------------------------------------------------------------


def test_changes_begin_with_the_version():
    assert re.search(r"(?m)^## (.*)$", read("CHANGES.md")).group(1) == gearmand.__version__


@pytest.mark.parametrize("name", ["man/gearmand.8", "man/gearadmin.1", "man/gearman.1"])
def test_man_page_has_the_version(name):
    assert '"gearmand %s"' % gearmand.__version__ in read(name).splitlines()[0]


def test_version_option_prints_the_version():
    ran = gearmand_run("--version")
    assert ran.returncode == 0
    assert gearmand.__version__ in ran.stdout
