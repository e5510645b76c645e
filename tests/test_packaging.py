"""What is made of a checkout: wheel, sdist, zip archive, Debian package; and the files of its service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from gearmand.cli import parse
from gearmand.version import VERSION
from peers import free_address
from wire import Wire, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPTS = os.path.join(ROOT, "scripts")
COMMANDS = ("gearmand", "gearman", "gearadmin")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "GEARMAN"))}


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=300, **{"env": CLEAN, **options}
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# -- wheel, sdist, zip archive ---------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What is under version control, so that nothing else slips in."""
    directory = tmp_path_factory.mktemp("checkout")
    try:
        names = subprocess.check_output(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no git here, or no checkout")
    for name in filter(None, names.decode().split("\0")):
        if os.path.exists(os.path.join(ROOT, name)):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(os.path.join(ROOT, name), str(directory / name))
    return directory


def build(kind, source, out):
    """What pip does with pyproject.toml, without its network."""
    pytest.importorskip("setuptools")
    code = "import sys; from setuptools import build_meta; print(build_meta.build_%s(sys.argv[1]))" % kind
    run(sys.executable, "-c", code, out, cwd=str(source))
    (found,) = os.listdir(str(out))
    return out / found


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    return build("sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Made of the sdist, which so must have all that it takes."""
    directory = tmp_path_factory.mktemp("unpacked")
    run("tar", "-xf", sdist, "-C", directory)
    (source,) = directory.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A clean virtual environment with the wheel in it."""
    directory = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", directory)
    run(directory / "bin" / "python", "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel)
    return directory


def test_sdist_has_tests_scripts_and_man_pages(sdist):
    with tarfile.open(str(sdist)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"man/gearmand.8", "scripts/test", "scripts/build-deb", "scripts/gearmand.service", "tests/test_packaging.py", "Dockerfile", "CHANGES.md"} <= names
    assert not [name for name in names if "__pycache__" in name or ".venv" in name]


def package_files():
    """The rooms, and the dashboard's files."""
    rooms = {name for name in os.listdir(os.path.join(ROOT, "gearmand")) if name.endswith(".py")}
    return rooms | {"dashboard/" + name for name in os.listdir(os.path.join(ROOT, "gearmand", "dashboard"))}


def test_wheel_has_every_room_and_the_dashboard_and_needs_nothing(wheel):
    with zipfile.ZipFile(str(wheel)) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith("METADATA")]
    assert package_files() == {name.partition("/")[2] for name in names if name.startswith("gearmand/")}
    assert not re.search(r"(?m)^Requires-Dist: (?!.*extra)", metadata)
    assert wheel.name == "gearmand-%s-py3-none-any.whl" % VERSION


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_command_says_its_version(installed, command):
    assert VERSION in run(installed / "bin" / command, "--version", cwd="/")


def test_installed_man_pages_are_where_man_looks(installed):
    for page in ("man8/gearmand.8", "man1/gearman.1", "man1/gearadmin.1"):
        assert (installed / "share" / "man" / page).exists()


def check_server(*command, gearadmin):
    address = free_address()
    process = subprocess.Popen([*map(str, command), "-L", "127.0.0.1", "-p", str(address[1]), "-l", "none"], cwd="/", env=CLEAN)
    try:
        wait_until(lambda: subprocess.run([*map(str, gearadmin), "-p", str(address[1]), "--getpid"], cwd="/", env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE).returncode == 0, "it answers")
        with Wire(address) as wire:
            assert wire.ask("version") == "OK " + VERSION
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_installed_server_serves(installed):
    check_server(installed / "bin" / "gearmand", gearadmin=[installed / "bin" / "gearadmin"])


def test_installed_package_is_a_library(installed):
    code = "import gearmand; s = gearmand.Server(port=0).start(); print(gearmand.Client('127.0.0.1:%d' % s.address[1]).submit_background('f')); s.stop()"
    assert run(installed / "bin" / "python", "-c", code, cwd="/").startswith("H:")


def test_zip_archive_serves_and_has_the_commands(checkout):
    """As the README makes it."""
    making = re.search(r"```sh\n(mkdir -p app.*?)python3 gearmand.pyz\n```", read("README.md"), re.S).group(1)
    run("bash", "-ec", making.replace("python3", sys.executable), cwd=str(checkout))
    archive = checkout / "gearmand.pyz"
    gearadmin = ["env", "PYTHONPATH=%s" % archive, sys.executable, "-m", "gearmand.gearadmin"]
    check_server(sys.executable, archive, gearadmin=gearadmin)
    code = "from gearmand.dashboard_page import page; print(len(page()[0]))"
    assert int(run(sys.executable, "-c", code, cwd="/", env={**CLEAN, "PYTHONPATH": str(archive)})) > 10_000
    done = subprocess.run([sys.executable, str(archive), "--no-such-option"], stderr=subprocess.PIPE, env=CLEAN, cwd="/")
    assert done.returncode == 1 and b"--no-such-option" in done.stderr


# -- the files of the service --------------------------------------------------------------


def test_default_file_has_options_that_there_are():
    (words,) = re.findall(r'(?m)^PARAMS="(.*)"$', read("scripts", "gearmand.default"))
    config = parse(words.split(), {})
    assert config.queue == "/var/lib/gearmand/queue.db" and config.listen == ("localhost",)


def test_service_starts_the_server_with_options_that_there_are():
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", read("scripts", "gearmand.service"))
    words = command.split()
    assert words[0] == "/usr/sbin/gearmand" and words[-1] == "$PARAMS"
    assert parse(words[1:-1], {}).pid_file == "/run/gearmand/gearmand.pid"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("unit", ["gearmand.service", "gearmand.socket"])
def test_unit_is_one_that_systemd_understands(tmp_path, unit):
    for name in ("gearmand.service", "gearmand.socket"):
        text = read("scripts", name).replace("/usr/sbin/gearmand", "/bin/true").replace("User=gearmand\nGroup=gearmand\n", "")
        (tmp_path / name).write_text(text)
    (tmp_path / "man").mkdir()
    said = run("systemd-analyze", "verify", "--man=no", tmp_path / unit)
    assert [line for line in said.splitlines() if "gearmand" in line] == []


@pytest.mark.parametrize("script", ["build-deb", "gearmand.init", "test"])
def test_script_is_one_that_the_shell_understands(script):
    first = read("scripts", script).splitlines()[0]
    run("sh" if first.endswith("/sh") else "bash", "-n", os.path.join(SCRIPTS, script))


def test_image_copies_only_what_there_is_and_nothing_that_is_left_out():
    left_in = [line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")]
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", read("Dockerfile"))
    for name in " ".join(copied).split():
        assert os.path.exists(os.path.join(ROOT, name))
        assert any(pattern == name or pattern.startswith(name + "/") for pattern in left_in), name
    (entry,) = re.findall(r"(?m)^ENTRYPOINT \[(.*)\]$", read("Dockerfile"))
    assert parse([word.strip(' "') for word in entry.split(",")][1:], {}).queue == "/var/lib/gearmand/queue.db"


def test_server_that_is_the_first_process_hears_its_signals(tmp_path):
    """As in a container."""
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "gearmand", "-L", "127.0.0.1", "-p", "0", "-l", str(tmp_path / "log")]
    if subprocess.run(["unshare", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no processes of our own here")
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until(lambda: (tmp_path / "log").exists() and "listens" in (tmp_path / "log").read_text(), "it serves")
        child = run("ps", "-o", "pid=", "--ppid", process.pid).strip()
        os.kill(int(child), 10)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


# -- the Debian package ---------------------------------------------------------------------

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb")


def build_deb(directory, version=None):
    return run(os.path.join(SCRIPTS, "build-deb"), directory, env={**CLEAN, **({"VERSION": version} if version else {})}).strip()


@needs_dpkg
def test_package_has_every_room_command_and_file_of_the_service(tmp_path):
    package = build_deb(tmp_path)
    assert os.path.basename(package) == "python3-gearmand_%s_all.deb" % VERSION
    names = {line.split(maxsplit=5)[5].lstrip(".") for line in run("dpkg-deb", "-c", package).splitlines()}
    for name in package_files():
        assert "/usr/lib/python3/dist-packages/gearmand/" + name in names
    assert {
        "/usr/sbin/gearmand", "/usr/bin/gearman", "/usr/bin/gearadmin", "/etc/init.d/gearmand", "/etc/default/gearmand",
        "/etc/logrotate.d/gearmand", "/lib/systemd/system/gearmand.service", "/lib/systemd/system/gearmand.socket",
        "/usr/share/man/man8/gearmand.8.gz",
    } <= names  # fmt: skip
    assert not [name for name in names if "pycache" in name]
    owners = {line.split()[1] for line in run("dpkg-deb", "-c", package).splitlines()}
    assert owners == {"root/root"}


@needs_dpkg
def test_package_of_the_same_checkout_is_the_same(tmp_path):
    first, second = (open(build_deb(tmp_path / name), "rb").read() for name in ("1", "2"))
    assert first == second


@needs_dpkg
def test_scripts_of_the_package_are_ones_that_the_shell_understands(tmp_path):
    run("dpkg-deb", "-e", build_deb(tmp_path), tmp_path / "control")
    for name in ("postinst", "prerm", "postrm"):
        run("sh", "-n", tmp_path / "control" / name)


@needs_dpkg
@pytest.mark.skipif(os.getuid() != 0, reason="only root can install packages")
@pytest.mark.skipif("GEARMAND_TEST_WITHOUT_PEERS" in os.environ, reason="it takes Debian's own Python, whichever runs the tests")
@pytest.mark.skipif(not os.path.exists("/usr/bin/py3compile"), reason="this Debian has no Python of its own")
@pytest.mark.timeout(300)
def test_package_installs_starts_upgrades_stops_and_purges(tmp_path):
    for version in ("1.0.0", "1.0.1"):
        build_deb(tmp_path, version)
    script = tmp_path / "script"
    script.write_text(read("tests", "data", "life-of-the-package"))
    done = subprocess.run(
        ["bash", os.path.join(ROOT, "tests", "data", "in-another-root"), str(script)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=280, env=CLEAN,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no root of our own here: %s" % done.stdout[-300:])
    assert done.returncode == 0 and done.stdout.endswith("== well\n"), done.stdout
