"""Access control: the list and its rules, what a server with one does, and the commands that change it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from certificates import certificates
from gearmand import Admin, AdminRefused, Client, ConfigError, JobRefused, Server, ServerLost, Worker, operations
from gearmand.access import Rights, Rule, address_of, mask, parse, subject_of, subject_of_name, test_of as matcher_of
from gearmand.limits import Account, Bounds
from gearmand.gate import Gate, Policy
from peers import ScriptedServer
from web import Api
from wire import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GRAB_JOB,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    WORK_COMPLETE,
    WORK_FAIL,
    Wire,
    packet,
    status,
    wait_until,
)

TOKEN = "0123456789abcdef"
OTHER = "fedcba9876543210"


def digest(token):
    return "token-sha256:" + hashlib.sha256(token.encode()).hexdigest()


def listed(*lines):
    return parse("\n".join(("default deny",) + lines) + "\n", "acl")


def may(access, what, name, common_name=None, token=None, host="192.0.2.1"):
    found = None if token is None else access.find_token(token.encode())
    return access.rights(common_name, found, host).may(what, name)


# -- patterns --------------------------------------------------------------------


MATCHES = [
    ("resize", "resize", True),
    ("resize", "resize2", False),
    ("resize", "aresize", False),
    ("*", "", True),
    ("*", "a\nb", True),
    ("a*", "a", True),
    ("a*", "ba", False),
    ("*a", "ba", True),
    ("*a", "bab", False),
    ("a*b", "ab", True),
    ("a*b", "axxb", True),
    ("a*b", "axxbc", False),
    ("*a*b*", "xaxbx", True),
    ("*a*b*", "xbxax", False),
    ("a**b", "axb", True),
    ("*aab", "aaab", True),
    ("*ab*b", "ab", False),
    ("a?", "ab", True),
    ("a?", "a", False),
    ("[ab]c", "bc", True),
    ("[ab]c", "cc", False),
    ("[!ab]c", "cc", True),
    ("[!ab]c", "ac", False),
    ("[a-c]", "b", True),
    ("[]]", "]", True),
    ("[^a]", "^", True),
    ("[^a]", "b", False),
    ("[ab", "[ab", True),
    ("a.b", "axb", False),
    ("a+", "aa", False),
    ("(x)", "(x)", True),
    ("A", "a", False),
]


@pytest.mark.parametrize("pattern, name, expected", MATCHES)
def test_pattern_matches_as_a_shell_s(pattern, name, expected):
    assert bool(matcher_of(pattern)(name)) == expected


def test_pattern_of_many_stars_is_decided_at_once():
    test = matcher_of("*a" * 12 + "*b")
    began_s = time.thread_time()
    assert not test("a" * 8192 + "c")
    assert time.thread_time() - began_s < 1


@pytest.mark.parametrize("pattern", ["", "a,", ",a", ".*", "build:.*", "^a", "a$", r"a\d", "a.+", "[z-a]"])
def test_pattern_that_is_none_is_refused(pattern):
    with pytest.raises(ConfigError, match="^--acl: acl:2: "):
        listed("cn:a submit " + (pattern or ","))


# -- the list --------------------------------------------------------------------------


def test_rule_allows_what_it_says_and_nothing_else():
    access = listed("cn:a submit resize,thumb-*", "cn:a admin status")
    assert may(access, "submit", b"resize", "a") and may(access, "submit", b"thumb-1", "a")
    assert not may(access, "submit", b"other", "a") and not may(access, "work", b"resize", "a")
    assert may(access, "admin", b"status", "a") and not may(access, "admin", b"shutdown", "a")
    assert not may(access, "submit", b"resize", "b") and not may(access, "submit", b"resize")


def test_rules_of_all_subjects_of_a_peer_add_up():
    access = listed("cn:a submit x", "address:192.0.2.0/24 submit y", "token:%s submit z" % TOKEN, "cn:a submit w")
    for name in (b"x", b"y", b"z", b"w"):
        assert may(access, "submit", name, "a", TOKEN)
    assert not may(access, "submit", b"v", "a", TOKEN)
    assert not may(access, "submit", b"z", "a", OTHER)


@pytest.mark.parametrize("default, expected", [("deny", False), ("allow", True)])
def test_default_decides_for_a_peer_without_a_rule_alone(default, expected):
    access = parse("cn:a submit x\ndefault %s # of all\n" % default, "acl")
    assert may(access, "submit", b"y", "b") == may(access, "grant", b"") == expected
    assert not may(access, "submit", b"y", "a")


def test_rule_none_takes_the_default_away():
    access = parse("default allow\naddress:10.6.6.0/24 none\n", "acl")
    assert not may(access, "submit", b"x", host="10.6.6.6")
    assert may(access, "submit", b"x", host="10.6.7.6")


HOSTS = [
    ("address:10.0.0.0/8", "10.255.0.1", True),
    ("address:10.0.0.0/8", "11.0.0.1", False),
    ("address:192.0.2.7", "192.0.2.7", True),
    ("address:2001:db8::/32", "2001:db8::1", True),
    ("address:2001:db8::/32", "192.0.2.7", False),
    ("address:fe80::/10", "fe80::1%eth0", True),
    ("address:10.0.0.0/8", "::ffff:10.1.1.1", True),
    ("address:unix", "", True),
    ("address:unix", "127.0.0.1", False),
    ("address:0.0.0.0/0", "", False),
]


@pytest.mark.parametrize("subject, host, expected", HOSTS)
def test_address_is_in_its_networks(subject, host, expected):
    assert may(listed(subject + " submit *"), "submit", b"x", host=host) == expected


def test_common_name_with_blanks_is_one_word():
    access = listed("cn:Jos%C3%A9%20the%201%25 submit *")
    assert may(access, "submit", b"x", "José the 1%")
    assert listed("cn:%41 submit *").rights("A", None, "").may("submit", b"x")


def test_token_is_found_by_itself_and_by_its_digest_and_not_kept():
    for rule in ("token:%s submit *" % TOKEN, digest(TOKEN).upper().replace("TOKEN-SHA256", "token-sha256") + " submit *"):
        access = listed(rule)
        assert access.find_token(TOKEN.encode()) == digest(TOKEN)
        assert access.find_token(OTHER.encode()) is None and access.find_token(b"") is None
        assert TOKEN not in repr(access.table())


BAD = [
    ("", "acl:1: expected a line `default deny`"),
    ("cn:a submit x", "acl:2: expected a line `default deny`"),
    ("default maybe", "acl:1: expected `default deny` or"),
    ("default deny\ndefault allow", "acl:2: expected `default deny` or .*, once"),
    ("default deny\n\n# c\ncn:a", "acl:4: expected SUBJECT submit"),
    ("default deny\ncn:a submit", "acl:2: expected patterns"),
    ("default deny\ncn:a submit a b", "acl:2: expected SUBJECT submit"),
    ("default deny\ncn:a grant x", "acl:2: expected nothing after grant"),
    ("default deny\ncn:a none x", "acl:2: expected nothing after none"),
    ("default deny\ncn:a sumbit x", "acl:2: expected SUBJECT submit"),
    ("default deny\na submit x", "acl:2: expected cn:NAME"),
    ("default deny\ncn: submit x", "acl:2: expected cn:NAME"),
    ("default deny\naddress:10.0.0.1/8 submit x", "acl:2: expected a network .* host bits"),
    ("default deny\naddress:somewhere submit x", "acl:2: expected a network"),
    ("default deny\ntoken-sha256:12 submit x", "acl:2: expected 64 hexadecimal digits"),
]


@pytest.mark.parametrize("text, expected", BAD)
def test_list_that_is_wrong_is_refused_with_its_line(text, expected):
    with pytest.raises(ConfigError, match="^--acl: " + expected):
        parse(text, "acl")


@pytest.mark.parametrize("line", ["token:%s sumbit x", "submit token:%s x", "tokem:%s submit x", "token:%s submit", "token:%s submit .*"])
def test_complaint_about_a_list_shows_no_token(line):
    with pytest.raises(ConfigError) as raised:
        listed(line % TOKEN)
    assert TOKEN not in str(raised.value)


def test_grant_replaces_the_kind_and_keeps_comments_and_the_rest():
    access = parse("# one\ndefault deny\ncn:a submit x # old\ncn:a work w\ncn:a submit y\n# two\ncn:b submit z\n", "acl")
    access = access.granted("a", "submit", "new*")
    assert access.text == "# one\ndefault deny\ncn:a work w\ncn:a submit new*\n# two\ncn:b submit z\n"
    access = access.granted(digest(OTHER), "grant", "")
    assert access.text.endswith("cn:b submit z\n%s grant\n" % digest(OTHER))
    assert parse(access.text, "acl").table() == access.table()


def test_grant_of_a_token_writes_its_digest():
    assert listed().granted("token:" + TOKEN, "work", "*").text == "default deny\n%s work *\n" % digest(TOKEN)


def test_grant_ends_none():
    assert parse("default allow\ncn:a none\n", "acl").granted("a", "work", "x").text == "default allow\ncn:a work x\n"


def test_revoke_takes_one_kind_or_all():
    access = listed("cn:a submit x", "cn:a work x", "cn:b submit x", "# end")
    assert access.revoked(["a"], "submit").text == "default deny\ncn:a work x\ncn:b submit x\n# end\n"
    assert access.revoked(["cn:a", "nobody"], None).text == "default deny\ncn:b submit x\n# end\n"


def test_revoke_of_the_last_rule_does_not_give_the_default():
    access = parse("default allow\ncn:a submit x\n", "acl").revoked(["a", "b"], None)
    assert access.text == "default allow\ncn:a none\n"
    assert not may(access, "submit", b"x", "a") and may(access, "submit", b"x", "b")


@pytest.mark.parametrize("subject", ["", "x:y", "address:nowhere", "token-sha256:1"])
def test_change_for_what_is_no_subject_is_refused(subject):
    with pytest.raises(ValueError):
        listed().granted(subject, "submit", "x")


def test_words_for_the_log_hide_tokens():
    assert [mask(word) for word in ("token:secret", "tokn:secret", "cn:a", digest("a"))] == [
        "token:***", "tokn:***", "cn:a", digest("a")[:21] + "...",
    ]  # fmt: skip
    assert subject_of("a", True) == "cn:a" and subject_of_name("a\nb") == "cn:a%0Ab"
    assert address_of("nowhere") is None


def test_rights_remember_a_bounded_number_of_decisions():
    rights = Rights([Rule("cn:a", "submit", ("f*",))], False)
    for number in range(10_000):
        assert rights.may_submit(b"f%d" % number) and not rights.may_submit(b"g%d" % number)
        assert rights.may_submit(b"f" * 5000)
    assert len(rights._known) <= 256


# -- the gate ----------------------------------------------------------------------


def gate_at(host, access=None, bounds=Bounds(), local=False):
    return Gate(Policy(access, bounds, local), host + ":1", host, None, Account())


@pytest.mark.parametrize("host, far", [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("unix", False), ("192.0.2.1", True), ("::2", True)])
def test_commands_that_change_something_are_taken_from_this_machine(host, far):
    gate = gate_at(host, local=True)
    assert (gate.command(b"shutdown", True) is not None) == far
    assert gate.command(b"status", False) is None
    assert len(gate.take()) == far and not gate.take()
    assert gate_at(host).command(b"shutdown", True) is None


@pytest.mark.parametrize("policy, asks", [
    (Policy(None, Bounds(), False), False),
    (Policy(None, Bounds(connections=5, connection_rate=5), False), False),
    (Policy(None, Bounds(jobs=1), False), True),
    (Policy(None, Bounds(submission_rate=1), False), True),
    (Policy(None, Bounds(), True), True),
    (Policy(listed(), Bounds(), False), True),
])  # fmt: skip
def test_peers_need_gates_only_where_there_is_something_to_decide(policy, asks):
    assert policy.asks == asks


# -- the server --------------------------------------------------------------------------


class Guarded:
    """A server with a list of these lines, which may be changed."""

    def __init__(self, path, lines, **options):
        self.path = str(path)
        self.write(*lines)
        self.server = Server(port=0, acl=self.path, **options).start()
        self.address = self.server.address

    def write(self, *lines):
        with open(self.path, "w") as file:
            file.write("\n".join(lines) + "\n")

    def read(self):
        with open(self.path) as file:
            return file.read()

    def present(self, token=TOKEN):
        wire = Wire(self.address)
        wire.send(OPTION_REQ, b"token:" + token.encode())
        assert wire.receive() == (OPTION_RES, b"token")
        return wire


@pytest.fixture
def guard(tmp_path):
    servers = []

    def guard(*lines, **options):
        guarded = Guarded(tmp_path / "acl", ("default deny",) + lines, **options)
        servers.append(guarded.server)
        return guarded

    yield guard
    for server in servers:
        server.stop()


def denied(wire):
    kind, body = wire.receive()
    assert kind == ERROR, (kind, body)
    code, text = body.split(b"\0")
    assert code == b"PERMISSION_DENIED"
    return text


SUBMISSIONS = [
    packet(SUBMIT_JOB, b"f", b"", b""),
    packet(SUBMIT_JOB_BG, b"f", b"", b""),
    packet(SUBMIT_JOB_EPOCH, b"f", b"", b"0", b""),
    packet(35, b"f", b"", b"", b"", b"", b"", b"", b""),
    packet(37, b"f", b"", b"r", b""),
    packet(38, b"f", b"", b"r", b""),
]


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "stored"])
@pytest.mark.parametrize("submission", SUBMISSIONS, ids=lambda raw: str(raw[7]))
def test_submission_that_is_not_allowed_is_refused_and_leaves_nothing(guard, tmp_path, submission, stored):
    options = {"queue": str(tmp_path / "queue.db")} if stored else {}
    guarded = guard("address:127.0.0.1 submit other", "address:127.0.0.1 admin status", **options)
    with Wire(guarded.address) as wire:
        wire.send_raw(submission * 2)
        assert denied(wire) == denied(wire) == b"The access list does not allow you to submit f"
        wire.submit(b"other", kind=SUBMIT_JOB_BG)
        wire.echo()
    assert status(guarded.address) == {"other": (1, 0, 0)}


def test_can_do_that_is_not_allowed_is_refused_and_grabs_nothing(guard):
    guarded = guard("address:127.0.0.1 work good", "token:%s submit *" % TOKEN)
    with Wire(guarded.address) as worker, guarded.present() as client:
        worker.send(CAN_DO, b"bad")
        assert denied(worker) == b"The access list does not allow you to work for bad"
        worker.send(CAN_DO_TIMEOUT, b"bad", b"1000")
        denied(worker)
        worker.can_do(b"good")
        client.submit(b"bad", kind=SUBMIT_JOB_BG)
        worker.send(GRAB_JOB)
        assert worker.receive()[0] == NO_JOB
        client.submit(b"good", b"work", kind=SUBMIT_JOB_BG)
        assert worker.grab()[1:] == (b"good", b"work")


def test_commands_that_are_not_allowed_are_refused_by_their_first_word(guard):
    guarded = guard("address:127.0.0.1 admin status,show,getpid")
    with Wire(guarded.address) as wire:
        assert wire.table("status") == [] and wire.table("show jobs") == [] and wire.ask("GETPID").startswith("OK ")
        for command in ("version", "workers", "shutdown", "maxqueue f 1", "cancel job H:1", "acl list", "acl grant work a b"):
            assert wire.ask(command).startswith("ERR PERMISSION_DENIED The+access+list+does+not+allow+you"), command
        assert wire.ask("nothing").startswith("ERR UNKNOWN_COMMAND")
        wire.echo()


SIGHT = (
    "token:own submit f*",
    "token:peeks admin peek,buried,policy,result",
    "token:peeks submit f*",
    "token:jobs admin jobs,peek,buried",
    "token:boss admin *",
    "token:works work *",
    "token:works submit *",
)
SEEN = {
    # Who: of the functions f and g, whether he may peek, see buried jobs, see results.
    "nobody": ("--", "--", "--"),
    "own": ("--", "--", "f-"),
    "peeks": ("f-", "f-", "f-"),
    "jobs": ("fg", "fg", "fg"),
    "boss": ("fg", "fg", "fg"),
}


def seen_by_line(server, token, path, line):
    with Wire(server.address) as wire:
        if token != "nobody":
            wire.send(OPTION_REQ, b"token:" + token.encode())
            assert wire.receive() == (OPTION_RES, b"token")
        # The first line of a table, or all of another answer.
        return not wire.ask(line).startswith("ERR PERMISSION_DENIED")


def seen_by_json(server, token, path, line):
    with Api(server, {} if token == "nobody" else {"Authorization": "Bearer " + token}) as asked:
        return asked.raw("GET", "/api/v1" + path)[0] != 403


def seen_by_a_line_in_json(server, token, path, line):
    with Api(server, {} if token == "nobody" else {"Authorization": "Bearer " + token}) as asked:
        body = json.dumps({"line": line})
        return asked.raw("POST", "/api/v1/command", body, {"Content-Type": "application/json"})[0] != 403


@pytest.mark.parametrize("sees", [seen_by_line, seen_by_json, seen_by_a_line_in_json])
@pytest.mark.parametrize("token", SEEN)
def test_jobs_of_a_function_are_seen_by_who_may_submit_them_or_see_everybody_s(guard, token, sees):
    guarded = guard(*SIGHT, http_port=0)
    with guarded.present("boss"), guarded.present("works") as worker:
        handles = {}
        for function in (b"f1", b"g"):
            operations.change_policy(guarded.server.broker, function, {"attempts": 1, "keep_s": 60})
            worker.can_do(function)
            handles[function] = worker.submit(function, unique=b"u", kind=SUBMIT_JOB_BG).decode()
            worker.send(WORK_FAIL, worker.grab()[0])
        worker.echo()
        asked = []
        for path, line in (("/functions/%s/peek", "peek %s"), ("/functions/%s/buried", "buried %s")):
            asked.append([(path % name, line % name) for name in ("f1", "g")])
        results = [("/jobs/%s/result" % handle, "result job %s" % handle) for handle in handles.values()]
        asked.append(results)
        found = tuple("".join(name if sees(guarded.server, token, *way) else "-" for name, way in zip("fg", ways)) for ways in asked)
        assert found == SEEN[token]
        by_unique = [("/functions/%s/results/u" % name, "result unique %s u" % name) for name in ("f1", "g")]
        assert "".join(name if sees(guarded.server, token, *way) else "-" for name, way in zip("fg", by_unique)) == SEEN[token][2]


def test_look_at_jobs_that_is_refused_is_logged(guard, caplog):
    guarded = guard(*SIGHT)
    with guarded.present("peeks") as wire:
        assert wire.ask("peek g") == "ERR PERMISSION_DENIED The+access+list+does+not+allow+you+to+see+jobs+of+this+function"
        assert wire.table("peek f1") == []
    wait_until(lambda: any("may not see jobs of 'g'" in record.getMessage() for record in caplog.records), "it is in the log")


def test_what_is_refused_is_logged_with_who_and_what(guard, caplog):
    guarded = guard("token:%s work a" % TOKEN)
    with guarded.present() as wire, caplog.at_level(logging.WARNING, "gearmand"):
        port = wire.socket.getsockname()[1]
        wire.send(CAN_DO, b"b\n")
        denied(wire)
        for _ in range(300):
            wire.send(SUBMIT_JOB, b"c", b"", b"workload")
            denied(wire)
        wire.echo()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["127.0.0.1:%d (%s...) may not work '%s'" % (port, digest(TOKEN)[:21], r"b\n")]
    assert guarded.server.complaints._kinds["access refused"][1] == 300


def test_certificate_s_common_name_counts(guard):
    files = certificates()
    rules = ("cn:worker%201 submit f", "cn:worker%201 grant", "address:127.0.0.1 work f")
    guarded = guard(*rules, ssl_port=0, **files.of_strict_server)
    address = guarded.server.tls_addresses[0]
    with Client(address, tls=files.tls) as client, Wire(guarded.address) as plain, Admin(address, tls=files.tls) as admin:
        client.submit_background("f", timeout_s=10)
        with pytest.raises(JobRefused):
            client.submit_background("g", timeout_s=10)
        plain.send(SUBMIT_JOB_BG, b"f", b"", b"")
        denied(plain)
        plain.can_do(b"f")
        admin.acl_grant("invoke", "worker%201", "g")
        client.submit_background("g", timeout_s=10)
        admin.acl_self_revoke("all")
        with pytest.raises(JobRefused):
            client.submit_background("g", timeout_s=10)
    assert guarded.read() == "default deny\naddress:127.0.0.1 work f\n"


def test_peers_of_a_unix_socket_are_one_address(guard, tmp_path):
    path = "unix:%s" % (tmp_path / "socket")
    guarded = guard("address:unix submit f", "address:unix admin status", listen=[path, "127.0.0.1"], max_connections_per_address=2)
    with Client(path) as client, Admin(path) as admin, Wire(guarded.address) as far:
        client.submit_background("f", timeout_s=10)
        assert [row.total for row in admin.status()] == [1]
        far.send(SUBMIT_JOB_BG, b"f", b"", b"")
        denied(far)
        with Admin(path) as third, pytest.raises(ServerLost):
            third.status()


# -- tokens ------------------------------------------------------------------------------


def test_token_gives_its_rights_and_the_last_right_one_counts(guard):
    guarded = guard("token:%s submit a" % TOKEN, "token:%s submit b" % OTHER)
    with guarded.present() as wire:
        wire.submit(b"a", kind=SUBMIT_JOB_BG)
        wire.send(OPTION_REQ, b"token:" + OTHER.encode())
        assert wire.receive() == (OPTION_RES, b"token")
        wire.submit(b"b", kind=SUBMIT_JOB_BG)
        wire.send(SUBMIT_JOB_BG, b"a", b"", b"")
        denied(wire)


def test_wrong_token_is_refused_and_the_third_closes_the_connection(guard, caplog):
    guarded = guard("address:127.0.0.1 submit f", "token:%s work a" % TOKEN)
    with Wire(guarded.address) as wire, caplog.at_level(logging.DEBUG, "gearmand"):
        for _ in range(2):
            wire.send(OPTION_REQ, b"token:guess-of-mine")
            assert denied(wire) == b"The access list does not have this token"
            wire.submit(b"f", kind=SUBMIT_JOB_BG)
        wire.send(OPTION_REQ, b"token:guess-of-mine")
        denied(wire)
        assert wire.is_closed()
    wait_until(lambda: "wrong tokens" in guarded.server.complaints._kinds, "a complaint")
    assert "presented a token that is not in the access list" in caplog.text
    assert "guess-of-mine" not in caplog.text and TOKEN not in caplog.text


def test_guesses_beyond_the_third_are_not_looked_at(guard):
    guarded = guard("token:%s submit *" % TOKEN)
    with Wire(guarded.address) as wire:
        guesses = b"".join(packet(OPTION_REQ, b"token:%d" % number) for number in range(1000))
        wire.send_raw(guesses + packet(OPTION_REQ, b"token:" + TOKEN.encode()) + packet(SUBMIT_JOB_BG, b"f", b"", b""))
        kinds = set()
        try:
            while True:
                kinds.add(wire.receive()[0])
        except Exception as error:
            assert type(error).__name__ == "Closed"
    assert kinds == {ERROR}


def test_brute_force_leaves_others_served_and_one_log_line(guard, caplog):
    guarded = guard("token:%s submit *" % TOKEN)
    with guarded.present() as good, caplog.at_level(logging.WARNING, "gearmand"):
        def guess():
            for number in range(100):
                with Wire(guarded.address) as wire:
                    wire.send_raw(b"".join(packet(OPTION_REQ, b"token:%d-%d" % (number, each)) for each in range(3)))
                    assert wire.is_closed()

        threads = [threading.Thread(target=guess) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            good.submit(b"f", kind=SUBMIT_JOB_BG)
        for thread in threads:
            thread.join()
    wait_until(lambda: guarded.server.connections == 0, "an end of all connections")
    assert len(caplog.records) == 1
    assert guarded.server.complaints._kinds["wrong tokens"][1] == 4 * 100 * 3 - 1


@pytest.mark.parametrize("options", [{}, {"max_jobs_per_address": 5}])
def test_server_without_a_list_knows_no_tokens_and_no_acl_commands(options):
    with Server(port=0, **options) as server, Wire(server.address) as wire:
        wire.send(OPTION_REQ, b"token:" + TOKEN.encode())
        assert wire.receive() == (ERROR, b"UNKNOWN_OPTION\0Server does not recognize given option")
        for command in ("acl list", "acl grant grant a", "acl self-revoke all"):
            assert wire.ask(command) == "ERR ACL_DISABLED"
        assert wire.ask("acl").startswith("ERR INVALID_ARGUMENTS")


# -- the commands of gear's server -----------------------------------------------------------


RULES = ("# of the test", "token:%s grant" % TOKEN, "token:%s admin acl,status" % TOKEN, "token:%s work a" % OTHER)


def test_acl_list_is_gear_s_table_with_one_more_column(guard):
    guarded = guard(*RULES, "cn:x submit a,b*")
    with guarded.present() as wire:
        assert sorted(wire.table("acl list")) == sorted([
            "cn:x\tregister=None\tinvoke=a,b*\tgrant=False\tadmin=None",
            "%s\tregister=None\tinvoke=None\tgrant=True\tadmin=acl,status" % digest(TOKEN),
            "%s\tregister=a\tinvoke=None\tgrant=False\tadmin=None" % digest(OTHER),
        ])  # fmt: skip


def test_acl_grant_and_revoke_count_at_once_and_are_in_the_file(guard):
    guarded = guard(*RULES)
    os.chmod(guarded.path, 0o640)
    with guarded.present() as admin, guarded.present(OTHER) as peer:
        peer.send(SUBMIT_JOB_BG, b"f", b"", b"")
        denied(peer)
        assert admin.ask("acl grant invoke %s f*" % digest(OTHER)) == "OK"
        peer.submit(b"f", kind=SUBMIT_JOB_BG)
        assert guarded.read().endswith("token:%s work a\n%s submit f*\n" % (OTHER, digest(OTHER)))
        assert guarded.read().startswith("default deny\n# of the test\n")
        assert admin.ask("acl revoke submit %s" % digest(OTHER)) == "OK"
        peer.send(SUBMIT_JOB_BG, b"f", b"", b"")
        denied(peer)
        assert "submit" not in guarded.read()
    assert os.stat(guarded.path).st_mode & 0o777 == 0o640
    assert os.listdir(os.path.dirname(guarded.path)) == ["acl"]


def test_change_is_logged_with_who_and_what_and_without_tokens(guard, caplog):
    guarded = guard(*RULES)
    with guarded.present() as admin, caplog.at_level(logging.INFO, "gearmand"):
        who = "127.0.0.1:%d (%s...)" % (admin.socket.getsockname()[1], digest(TOKEN)[:21])
        assert admin.ask("acl grant invoke token:SECRET f*") == "OK"
        assert admin.ask("acl revoke all x") == "OK"
    assert [record.getMessage() for record in caplog.records if "acl" in record.getMessage()] == [
        who + ": acl grant invoke token:*** f*",
        who + ": acl revoke all x",
    ]


def test_worker_that_loses_a_right_grabs_no_more_and_hears_of_it(guard):
    guarded = guard(*RULES, "token:%s submit a" % TOKEN)
    with guarded.present() as admin, guarded.present(OTHER) as worker:
        worker.can_do(b"a")
        worker.send(PRE_SLEEP)
        worker.echo()
        assert admin.ask("acl revoke register %s" % digest(OTHER)) == "OK"
        denied(worker)
        admin.submit(b"a", kind=SUBMIT_JOB_BG)
        worker.send(GRAB_JOB)
        assert worker.receive()[0] == NO_JOB
        assert status_of(admin, "a") == "a\t1\t0\t0"


def status_of(wire, function):
    return next(line for line in wire.table("status") if line.startswith(function + "\t"))


def its_grab_lingers(guarded, admin, worker):
    """That of a worker that was woken while it had hardly slept. False: a second had passed, and it is answered."""
    worker.send(PRE_SLEEP)
    worker.echo()
    admin.submit(b"a", kind=SUBMIT_JOB_BG)
    assert worker.receive()[0] == NOOP
    worker.send(WORK_COMPLETE, worker.grab()[0], b"")
    worker.send(GRAB_JOB)

    def lingers():
        return any(peer.lingering for peer in list(guarded.server.broker.peers))

    wait_until(lambda: lingers() or select.select([worker.socket], [], [], 0)[0], "a grab that lingers, or its answer")
    return lingers()


def test_worker_that_lingers_and_loses_its_right_is_answered_in_order(guard):
    guarded = guard(*RULES, "token:%s submit a" % TOKEN, grab_linger=1.0)
    with guarded.present() as admin, guarded.present(OTHER) as worker:
        worker.can_do(b"a")
        while not its_grab_lingers(guarded, admin, worker):
            assert worker.receive()[0] == NO_JOB
        assert admin.ask("acl revoke register %s" % digest(OTHER)) == "OK"
        assert [worker.receive()[0], worker.receive()[0]] == [NO_JOB, ERROR]


def test_change_needs_the_right_to_grant(guard):
    guarded = guard(*RULES, "token:%s admin *" % OTHER)
    with guarded.present(OTHER) as wire:
        assert wire.table("acl list")
        for command in ("acl grant work a *", "acl grant grant a", "acl revoke all %s" % digest(TOKEN)):
            assert wire.ask(command).startswith("ERR PERMISSION_DENIED"), command
    assert "cn:a" not in guarded.read()


def test_anybody_may_revoke_what_is_its_own(guard):
    guarded = guard(*RULES)
    with guarded.present(OTHER) as wire:
        assert wire.ask("acl revoke register %s" % digest(OTHER)) == "OK"
        assert OTHER not in guarded.read()
    with guarded.present() as wire:
        assert wire.ask("acl self-revoke grant") == "OK"
        assert wire.ask("acl grant work a *").startswith("ERR PERMISSION_DENIED")
        assert wire.ask("acl self-revoke all") == "OK"
        assert wire.ask("status").startswith("ERR PERMISSION_DENIED")
    assert guarded.read() == "default deny\n# of the test\n"


WRONG = [
    ("acl", "ERR INVALID_ARGUMENTS "),
    ("acl nothing", "ERR INVALID_ARGUMENTS "),
    ("acl grant", "ERR UNKNOWN_ACL_VERB"),
    ("acl grant all a", "ERR UNKNOWN_ACL_VERB"),
    ("acl revoke nothing a", "ERR UNKNOWN_ACL_VERB"),
    ("acl grant work a", "ERR INVALID_ARGUMENTS "),
    ("acl grant grant a b", "ERR INVALID_ARGUMENTS "),
    ("acl revoke all", "ERR INVALID_ARGUMENTS "),
    ("acl self-revoke all a", "ERR INVALID_ARGUMENTS "),
    ("acl grant work a build:.*", "ERR UNABLE expected+a+pattern"),
    ("acl grant work address:x *", "ERR UNABLE expected+a+network"),
    ("acl revoke all x:y", "ERR UNABLE expected+cn:NAME"),
]


@pytest.mark.parametrize("command, expected", WRONG)
def test_acl_command_that_is_wrong_changes_nothing(guard, command, expected):
    guarded = guard(*RULES)
    before = guarded.read()
    with guarded.present() as wire:
        assert wire.ask(command).startswith(expected)
    assert guarded.read() == before


def test_self_revoke_without_a_certificate_and_a_token_has_nothing_to_revoke(guard):
    guarded = guard("address:127.0.0.1 admin *")
    with Wire(guarded.address) as wire:
        assert wire.ask("acl self-revoke all") == "ERR UNABLE You+have+neither+a+certificate+nor+a+token"


def test_file_that_cannot_be_written_leaves_everything(guard):
    guarded = guard(*RULES)
    os.remove(guarded.path)
    with guarded.present() as wire:
        assert wire.ask("acl grant work a *") == "ERR UNABLE cannot+write+%s:+No+such+file+or+directory" % guarded.path
        assert "cn:a" not in str(wire.table("acl list"))


def test_file_that_cannot_be_replaced_leaves_nothing_behind(guard, monkeypatch):
    guarded = guard(*RULES)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with guarded.present() as wire:
        assert wire.ask("acl grant work a *").startswith("ERR UNABLE cannot+write")
    assert os.listdir(os.path.dirname(guarded.path)) == ["acl"]


def test_link_to_the_file_stays_a_link(guard, tmp_path):
    guarded = guard(*RULES)
    os.symlink(guarded.path, str(tmp_path / "link"))
    with Server(port=0, acl=str(tmp_path / "link")) as server, Admin(server.address, token=TOKEN) as admin:
        admin.acl_grant("work", "a", "*")
    assert os.path.islink(str(tmp_path / "link")) and "cn:a work *" in guarded.read()


def test_changes_at_the_same_time_are_all_there(guard):
    guarded = guard(*RULES)
    barrier = threading.Barrier(4)

    def grant(name):
        with Admin(guarded.address, token=TOKEN) as admin:
            barrier.wait(10)
            for number in range(10):
                admin.acl_grant("work", "%s%d" % (name, number), "*")

    threads = [threading.Thread(target=grant, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert guarded.read().count(" work *\n") == 40


# -- reading again ---------------------------------------------------------------------------


def test_reread_takes_the_new_rules_for_whoever_is_connected(guard, caplog):
    guarded = guard(*RULES)
    with guarded.present(OTHER) as worker, Wire(guarded.address) as client:
        worker.can_do(b"a")
        guarded.write("default deny", "address:127.0.0.1 submit a")
        with caplog.at_level(logging.INFO, "gearmand"):
            guarded.server.reload()
        assert "the access list has been read again" in caplog.text
        denied(worker)
        client.submit(b"a", kind=SUBMIT_JOB_BG)


def test_bad_file_at_reread_is_logged_and_the_old_rules_stay(guard, caplog):
    guarded = guard(*RULES)
    with guarded.present(OTHER) as worker:
        guarded.write("default deny", "cn:a work .*")
        guarded.server.reload()
        assert "--acl: %s:2: expected a pattern" % guarded.path in caplog.text
        os.remove(guarded.path)
        guarded.server.reload()
        assert "--acl: cannot read %s: No such file" % guarded.path in caplog.text
        worker.can_do(b"a")


def test_reread_without_a_list_does_nothing():
    with Server(port=0) as server:
        server.reload()
        with Wire(server.address) as wire:
            wire.echo()


def gearmand(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "gearmand", "--listen", "127.0.0.1", "--port", "0", *arguments],
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(__file__)))},
        stderr=subprocess.PIPE, universal_newlines=True,
    )  # fmt: skip


def test_bad_list_keeps_the_server_from_starting(tmp_path):
    path = tmp_path / "acl"
    path.write_text("default deny\ncn:a wrok *\n")
    process = gearmand("--acl", str(path))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "gearmand: --acl: %s:2: expected SUBJECT submit|work|admin PATTERN,... or SUBJECT grant|none, got cn:a wrok *\n" % path


def test_list_that_is_not_there_keeps_the_server_from_starting(tmp_path):
    with pytest.raises(ConfigError, match="--acl: cannot read .*nothing: No such file"):
        Server(port=0, acl=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="--acl: the name of a file must follow"):
        Server(port=0, acl="")


def test_hang_up_reads_the_list_again(tmp_path):
    path = tmp_path / "acl"
    path.write_text("default deny\n")
    process = gearmand("--acl", str(path))
    try:
        line = process.stderr.readline()
        address = ("127.0.0.1", int(line.split("127.0.0.1:")[1].split(";")[0]))
        with Wire(address) as wire:
            wire.send(SUBMIT_JOB_BG, b"f", b"", b"")
            denied(wire)
            path.write_text("default allow\n")
            process.send_signal(signal.SIGHUP)
            while "read again" not in process.stderr.readline():
                pass
            wire.submit(b"f", kind=SUBMIT_JOB_BG)
    finally:
        process.terminate()
        process.communicate(timeout=30)


# -- this machine alone --------------------------------------------------------------------------


def test_admin_loopback_takes_changes_from_loopback(monkeypatch):
    with Server(port=0, admin_loopback=True) as server:
        with Wire(server.address) as wire:
            assert wire.ask("create function f") == "OK"
        monkeypatch.setattr("gearmand.peer.Peer.host", property(lambda peer: "192.0.2.1"))
        monkeypatch.setattr(server.gatekeeper._accounts, "of", lambda host: Account())
        with Wire(server.address) as wire:
            for command in ("create function g", "drop function f", "maxqueue f 1", "cancel job H:1", "shutdown"):
                assert wire.ask(command) == "ERR PERMISSION_DENIED This+command+is+taken+from+this+machine+alone"
            assert wire.table("status") == ["f\t0\t0\t0"]
            wire.submit(b"f", kind=SUBMIT_JOB_BG)


# -- the library -----------------------------------------------------------------------------------


FOR_LIBRARY = (
    "token:%s submit *" % TOKEN,
    "token:%s work *" % TOKEN,
    "token:%s admin *" % TOKEN,
    "token:%s grant" % TOKEN,
)


def test_client_and_worker_with_a_token_work(guard):
    guarded = guard(*FOR_LIBRARY)
    worker = Worker(guarded.address, token=TOKEN)
    worker.register("reverse", lambda job: job.workload[::-1])
    with worker, Client(guarded.address, token=TOKEN) as client:
        assert client.run("reverse", b"abc", timeout_s=10) == b"cba"


def test_client_with_a_wrong_token_warns_and_is_refused(guard, caplog):
    guarded = guard(*FOR_LIBRARY)
    with Client(guarded.address, token="wrong-token") as client:
        with pytest.raises(JobRefused, match="PERMISSION_DENIED"):
            client.run("reverse", b"abc", timeout_s=10)
    assert "the token was refused: PERMISSION_DENIED: The access list does not have this token" in caplog.text
    assert "wrong-token" not in caplog.text


def test_admin_has_the_commands_of_the_list(guard):
    guarded = guard(*FOR_LIBRARY)
    with Admin(guarded.address, token=TOKEN) as admin:
        admin.acl_grant("work", "mail.example.org", "a,b*")
        admin.acl_grant("grant", "mail.example.org")
        entry, own = admin.acl_list()
        assert entry == ("cn:mail.example.org", "a,b*", None, None, True)
        assert own == (digest(TOKEN), "*", "*", "*", True)
        admin.acl_revoke("grant", "mail.example.org")
        assert not admin.acl_list()[0].grant
        with pytest.raises(AdminRefused) as raised:
            admin.acl_grant("work", "token:" + OTHER, ".*")
        assert raised.value.code == "UNABLE" and OTHER not in str(raised.value)
        admin.acl_self_revoke("all")
        with pytest.raises(AdminRefused) as raised:
            admin.status()
        assert raised.value.code == "PERMISSION_DENIED"


def test_admin_with_a_wrong_token_is_refused(guard):
    guarded = guard(*FOR_LIBRARY)
    with Admin(guarded.address, token="wrong-token") as admin, pytest.raises(AdminRefused) as raised:
        admin.status()
    assert raised.value.code == "PERMISSION_DENIED" and "wrong-token" not in str(raised.value)


@pytest.mark.parametrize("make", [Client, Worker, Admin])
@pytest.mark.parametrize("token", ["", "a b", b"a\0", "a\n", 5])
def test_token_that_cannot_be_one_is_refused_and_not_shown(make, token):
    with pytest.raises(ConfigError, match="^token: expected a text that is not empty, without blanks and NUL$"):
        make("127.0.0.1:1", token=token)


def test_every_connection_begins_with_the_token():
    firsts = []

    def script(connection, number):
        kind, body = connection.receive()
        firsts.append((kind, body))
        connection.send(OPTION_RES, b"token")
        while True:
            kind, body = connection.receive()
            if kind == ECHO_REQ:
                connection.send(ECHO_RES, body)
            elif kind == OPTION_REQ:
                connection.send(OPTION_RES, body)
            elif kind == GRAB_JOB or kind == 30:
                connection.send(NO_JOB)

    with ScriptedServer(script) as server:
        with Client(server.address, token=TOKEN) as client:
            client.echo()
        with Admin(server.address, token=TOKEN) as admin:
            admin.ping()
        worker = Worker(server.address, token=TOKEN.encode(), client_id="w")
        worker.register("f", print)
        with worker:
            wait_until(lambda: len(firsts) == 3, "three connections")
    assert firsts == [(OPTION_REQ, b"token:" + TOKEN.encode())] * 3


# -- the commands ------------------------------------------------------------------------------------


def run(module, guarded, *arguments, variable=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GEARMAN")}
    environment.update(PYTHONPATH=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if variable is not None:
        environment["GEARMAN_TOKEN"] = variable
    return subprocess.run(
        [sys.executable, "-m", "gearmand." + module, "-h", "%s:%d" % guarded.address, *arguments],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=30,
    )  # fmt: skip


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\nanything\n")
    return str(path)


def test_commands_take_the_token_from_a_file_or_the_environment(guard, token_file):
    guarded = guard(*FOR_LIBRARY)
    assert run("gearadmin", guarded, "--status").stdout == ""
    assert run("gearadmin", guarded, "--status", "--token-file", token_file).stdout == ".\n"
    assert run("gearadmin", guarded, "--status", variable=TOKEN).stdout == ".\n"
    assert run("gearman", guarded, "-f", "f", "-b", "x").returncode == 1
    assert run("gearman", guarded, "-f", "f", "-b", "x", "--token-file", token_file).returncode == 0
    worked = run("gearman", guarded, "-w", "-f", "f", "-c", "1", variable=TOKEN)
    assert (worked.returncode, worked.stdout) == (0, "x")


def test_token_file_that_cannot_be_used_is_one_line(guard, tmp_path):
    guarded = guard(*FOR_LIBRARY)
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for module, command in (("gearman", ("-f", "f", "-b", "x")), ("gearadmin", ("--status",))):
        ran = run(module, guarded, *command, "--token-file", str(empty))
        assert (ran.returncode, ran.stderr) == (1, "%s: --token-file: the first line of %s is empty\n" % (module, empty))
        ran = run(module, guarded, *command, "--token-file", str(tmp_path / "nothing"))
        assert "--token-file: cannot read" in ran.stderr


def test_gearadmin_changes_the_list(guard, token_file):
    guarded = guard(*FOR_LIBRARY)

    def acl(*arguments):
        ran = run("gearadmin", guarded, "--token-file", token_file, *arguments)
        return ran.returncode, ran.stdout, ran.stderr

    assert acl("--acl-grant", "work", "a", "x*") == (0, "OK\n", "")
    assert acl("--acl-grant", "grant", "a") == (0, "OK\n", "")
    assert acl("--acl-list")[1].splitlines()[0] == "cn:a\tregister=x*\tinvoke=None\tgrant=True\tadmin=None"
    assert '"subject": "cn:a", "work": "x*", "submit": null, "admin": null, "grant": true' in acl("--acl-list", "--json")[1]
    assert acl("--acl-revoke", "all", "a") == (0, "OK\n", "")
    assert acl("--acl-self-revoke", "grant") == (0, "OK\n", "")
    status, out, err = acl("--acl-grant", "work", "a", "x*")
    assert (status, out) == (1, "") and "PERMISSION_DENIED" in err
    assert acl("--acl-grant", "work", "a")[0] == 1 and acl("--acl-grant", "grant", "a", "b")[0] == 1


def test_worker_of_a_module_takes_the_token(guard, tmp_path, token_file):
    guarded = guard(*FOR_LIBRARY)
    (tmp_path / "tasks.py").write_text("def upper(job):\n    return job.workload.upper()\n")
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}
    process = subprocess.Popen(
        [sys.executable, "-m", "gearmand.worker", "tasks", "--servers", "%s:%d" % guarded.address, "--token-file", token_file],
        cwd=str(tmp_path), env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with Client(guarded.address, token=TOKEN) as client:
            assert client.run("upper", b"a", timeout_s=30) == b"A"
    finally:
        process.terminate()
        process.wait(30)


