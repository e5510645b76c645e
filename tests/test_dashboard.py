"""The dashboard: what is served at /, and what a real browser makes of it (skipped where Chromium is not installed)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from browser import CHROMEDRIVER, CHROMIUM, ENTER, ESCAPE, LEFT, SPACE, TAB, Browser
from gearmand import Server, api, dashboard_page
from gearmand.answers import json_answer
from gearmand.api_fields import Field
from gearmand.errors import Refusal
from web import Api
from wire import (
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH_BG,
    WORK_COMPLETE,
    WORK_EXCEPTION,
    WORK_STATUS,
    Wire,
    status,
    wait_until,
)

FILES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "gearmand", "dashboard")
TRACEBACK = b"Traceback (most recent call last):\n  File \"/srv/worker.py\", line 41\nOSError: cannot identify 'cat.jpg'"
HOSTILE = [
    b"<img src=x onerror=document.title='owned'>",
    b"\"><script>document.title='owned'</script>",
    b"javascript:document.title='owned'",
    b"{{constructor.constructor('document.title=1')()}}",
    b"\xff\xfe<b>",
    "\u202egnp.exe".encode(),
    b"a/b?c#d%2e%00",
    b"..",
    b"__proto__",
    b"constructor",
]  # fmt: skip


@pytest.fixture
def server():
    with Server(port=0, http_port=0) as server:
        yield server


# -- without a browser ---------------------------------------------------------------


def test_page_is_html_that_no_other_page_may_frame_and_that_may_run_nothing_else(server):
    with Api(server) as asked:
        status, headers, body = asked.raw("GET", "/")
        head_status, head_headers, nothing = asked.raw("HEAD", "/")
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/html; charset=utf-8", "no-store")
    assert (head_status, head_headers["content-length"], nothing) == (200, str(len(body)), b"")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["frame-ancestors"], policy["connect-src"]) == ("'none'", "'none'", "'self'")
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    for name, tag in (("style-src", b"style"), ("script-src", b"script")):
        (text,) = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), body, re.S)
        assert policy[name] == "'sha256-%s'" % base64.b64encode(hashlib.sha256(text).digest()).decode()


def test_page_is_whole_and_names_no_other_host():
    html, _ = dashboard_page.page()
    for name in os.listdir(FILES):
        with open(os.path.join(FILES, name), "rb") as file:
            assert name == "index.html" or file.read() in html
    assert set(re.findall(rb"https?://[^\s\"')]+", html)) == {b"http://www.w3.org/2000/svg"}
    assert not re.search(rb"<(link|script|img|iframe)[^>]* (src|href)=\"(?!data:)", html)


def test_script_makes_no_html_of_text():
    html, _ = dashboard_page.page()
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", html)


def test_files_of_the_one_script_declare_no_name_twice():
    html, _ = dashboard_page.page()
    names = re.findall(rb"(?m)^(?:async )?(?:function\*?|const|let|class) (\w+)", html)
    assert len(names) > 100 and len(names) == len(set(names))


def test_page_takes_only_get_and_head(server):
    with Api(server) as asked:
        for method in ("POST", "PUT", "DELETE"):
            assert asked.raw(method, "/")[0] == 405


def test_page_is_open_without_rights_but_not_under_a_name_that_anybody_might_own(tmp_path):
    (tmp_path / "acl").write_text("default deny\n")
    with Server(port=0, http_port=0, acl=str(tmp_path / "acl")) as server, Api(server) as asked:
        assert asked.raw("GET", "/")[0] == 200
        assert asked.raw("GET", "/", headers={"Host": "evil.example"})[0] == 421
        assert asked.raw("GET", "/", headers={"Authorization": "Bearer none"})[0] == 401


def test_functions_are_still_jobs_as_in_the_c_server(server):
    with Api(server) as asked:
        assert asked.raw("POST", "/index.html", b"", {"X-Gearman-Background": "true"})[0] == 200
    assert status(server.address) == {"index.html": (1, 0, 0)}


# -- with a browser ----------------------------------------------------------------------

@pytest.fixture(scope="module")
def window():
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("there is no chromium with its chromedriver")
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(window):
    """A page without tokens, searches and errors of an earlier test, on a wide screen."""
    window.open("about:blank")
    window.resize(1280, 900)
    window.log("browser"), window.log("performance")
    yield window
    try:
        window.run("sessionStorage.clear(); localStorage.clear()")
    except Exception:
        pass  # It is on no page.
    window.open("about:blank")


def url(server, place=""):
    return "http://%s:%d/%s" % (*server.http_addresses[0], place)


NAMES = "return [...document.querySelectorAll(arguments[0] + ' tr')].map((each) => each.querySelector('a').innerText)"
"""The functions in the rows of a table."""


def look(server):
    """Write the history on."""
    server.web._look_at = 0.0
    server.web.look()


def errors(browser):
    return [entry["message"] for entry in browser.log("browser") if entry["level"] == "SEVERE"]


def test_empty_server_says_that_nothing_is_wrong(server, browser):
    browser.open(url(server))
    browser.wait_for("Ready", "#state")
    browser.wait_for("There are no functions yet")
    browser.wait_for("Nothing: every function")
    browser.wait_for("Submit a job", "#tools")
    assert "gearmand" in browser.run("return document.title")
    assert errors(browser) == []


def test_few_functions_show_what_is_wrong_their_depth_and_charts(server, browser):
    with Wire(server.address) as wire, Wire(server.address) as worker:
        worker.can_do(b"resize")
        for kind in (SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG):
            wire.submit(b"resize", kind=kind)
        for _ in range(3):
            wire.submit(b"mail", kind=SUBMIT_JOB_BG)
        wire.ask("create function\tidle")
        look(server), look(server)
        browser.open(url(server))
        browser.wait_for("3 jobs wait, and nobody can do them", ".troubles")
        assert browser.text(".troubles li:first-child .word") == "no worker"
        rows = "section[aria-label=Functions] tbody"
        browser.wait_for("1 high", rows)
        assert browser.run(NAMES, rows) == ["mail", "resize", "idle"]
        browser.wait_until("return document.querySelectorAll('svg.spark').length === 2")
        browser.wait_until("return document.querySelectorAll('.chart path.line').length === 7")
        label = browser.run("return document.querySelector('.chart svg').getAttribute('aria-label')")
        assert label.startswith("Depth of all functions, the last hour. queued: now 5, most 5; running: now 0")
    assert errors(browser) == []


def test_many_functions_are_shown_a_page_at_a_time_searched_and_sorted(server, browser):
    with Wire(server.address) as wire:
        wire.send_raw(b"".join(b"create function f%04d\n" % number for number in range(2000)))
        wait_until(lambda: len(server.broker.registry.functions) == 2000, "they are there")
    with Wire(server.address) as wire:
        for number in (7, 1500, 1500):
            wire.submit(b"f%04d" % number, kind=SUBMIT_JOB_BG)
    rows = "section[aria-label=Functions] tbody"
    browser.open(url(server))
    browser.wait_for("1–50 of 2,000")
    shown = browser.run(NAMES, rows)
    assert shown[:3] == ["f1500", "f0007", "f0000"] and len(shown) == 50
    browser.click("section[aria-label=Functions] .pager button", "Next")
    browser.wait_for("51–100 of 2,000")
    browser.click("section[aria-label=Functions] thead button", "Function")
    browser.wait_until("return document.querySelector(arguments[0] + ' a').innerText === 'f0000'", rows)
    browser.click("section[aria-label=Functions] thead button", "Function")
    browser.wait_until("return document.querySelector(arguments[0] + ' a').innerText === 'f1999'", rows)
    assert browser.run("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
    browser.type("section[aria-label=Functions] input", "f150")
    browser.wait_for("10 of 2,000")
    assert browser.run(NAMES, rows) == ["f150%d" % number for number in range(9, -1, -1)]
    # Bringing the page up to date is quick, whenever nothing interrupts it, and keeps its nodes.
    took_ms = browser.run(
        "window.kept = document.querySelector(arguments[0] + ' tr'); return [1, 2, 3, 4, 5].map(() => { const began = performance.now();"
        " takeFunctions({functions: data('functions'), truncated: false}); feeds.get('functions').version++;"
        " paintHead(); view.update(); return performance.now() - began; })", rows
    )
    assert min(took_ms) < 500
    assert browser.run("return window.kept === document.querySelector(arguments[0] + ' tr')", rows)


def test_function_opens_with_charts_jobs_histograms_and_failures(server, browser):
    with Wire(server.address) as wire, Wire(server.address) as worker:
        worker.can_do(b"resize")
        wire.submit(b"resize", kind=SUBMIT_JOB_BG)
        worker.send(WORK_EXCEPTION, worker.grab()[0], TRACEBACK)
        wire.submit(b"resize", unique=b"some-unique", kind=SUBMIT_JOB_BG)
        handle = worker.grab()[0]
        worker.send(WORK_STATUS, handle, b"3", b"4")
        worker.echo()
        wire.submit(b"resize", kind=SUBMIT_JOB_BG)
        look(server), look(server)
        browser.open(url(server))
        browser.wait_for("cannot identify 'cat.jpg'", ".troubles")
        browser.click("section[aria-label=Functions] tbody a", "resize")
        browser.wait_for("75 % (3/4)", "section[aria-label=Jobs]")
        browser.wait_until("return document.querySelector('section[aria-label=Jobs] progress:not([hidden])').value === 0.75")
        for said in (handle.decode(), "some-unique", "running", "queued"):
            assert said in browser.text("section[aria-label=Jobs]")
        browser.wait_for("OSError: cannot identify 'cat.jpg'", "section[aria-label=Failures]")
        assert "worker.py" not in browser.text("section[aria-label=Failures]")
        browser.click("section[aria-label=Failures] summary")
        browser.wait_for('File "/srv/worker.py", line 41', "section[aria-label=Failures]")
        # Its words are there before it is shown.
        browser.wait_until("return [...document.querySelectorAll('.measure')].some((each) => each.getBoundingClientRect().width > 100)")
        assert "waited" in browser.text("section[aria-label='How long']")
        # A chart can be walked through with keys, and read as a table.
        browser.wait_until("return document.querySelector('.chart path.line')")
        browser.run("document.querySelector('.chart svg').focus()")
        browser.press(LEFT)
        assert re.match(r"Depth at \d\d:\d\d:\d\d: queued 1, running 1$", browser.focused())
        browser.click(".chart details summary")
        browser.wait_until("return document.querySelectorAll('.chart tbody tr').length >= 2")
        # What was opened stays open when the page is brought up to date.
        time.sleep(2.5)
        assert browser.run("return document.querySelector('section[aria-label=Failures] details').open")
    assert errors(browser) == []


def test_workers_clients_jobs_and_failures_have_their_views(server, browser):
    with Wire(server.address) as wire, Wire(server.address) as worker:
        worker.can_do(b"resize", b"mail")
        handle = wire.submit(b"resize")
        worker.grab()
        worker.send(WORK_STATUS, handle, b"1", b"2")
        worker.echo()
        browser.open(url(server))
        for name, said in (("Jobs", handle.decode()), ("Workers", "50 % (1/2)"), ("Clients", "running for"), ("Failures", "No job has failed")):
            browser.click("nav a", name)
            browser.wait_for(said, "main")
            assert browser.run("return document.querySelector('nav a[aria-current=page]').innerText") == name
        assert browser.run("return document.activeElement.id") == "main"


def test_job_is_cancelled_once_it_is_confirmed_and_the_page_says_so(server, browser):
    with Wire(server.address) as wire:
        handle = wire.submit(b"mail", kind=SUBMIT_JOB_BG).decode()
    browser.open(url(server, "#/function/mail"))
    browser.click("[data-action=cancel]")
    browser.wait_for("Cancel job %s?" % handle, "dialog")
    assert "it is queued: it is taken off the books" in browser.text("dialog")
    browser.click("dialog button", "Back")
    assert status(server.address)["mail"] == (1, 0, 0)
    browser.click("[data-action=cancel]")
    browser.click("dialog button", "Cancel the job")
    browser.wait_for("Cancelled job %s of mail." % handle, "#notices")
    assert status(server.address)["mail"] == (0, 0, 0)
    browser.wait_for("There are no unfinished jobs in memory.", "section[aria-label=Jobs]")


def test_what_the_server_refuses_is_said_in_the_dialog(server, browser):
    with Wire(server.address) as wire:
        wire.submit(b"mail", kind=SUBMIT_JOB_BG)
    browser.open(url(server, "#/function/mail"))
    browser.click("[data-action=drop]")
    browser.wait_for("the server will refuse this", "dialog")
    browser.click("dialog button", "Drop")
    browser.wait_for("It was not done. The function has workers or unfinished jobs.", "dialog [role=alert]")
    assert browser.run("return document.getElementById('dialog').open")


def test_limits_are_set_and_taken_away(server, browser):
    with Wire(server.address) as wire:
        wire.submit(b"mail", kind=SUBMIT_JOB_BG)
    browser.open(url(server, "#/function/mail"))
    browser.click("[data-action=limits]")
    browser.type("dialog input[name=normal]", "1")
    browser.click("dialog button", "Set the limits")
    browser.wait_for("Limits of mail: high none, normal 1, low none.", "#notices")
    browser.wait_for("full: new jobs of normal priority are refused", "main")
    with Api(server) as asked:
        assert asked.get("/functions/mail")["limits"] == {"high": None, "normal": 1, "low": None}


def test_job_is_submitted_and_its_result_shown(server, browser):
    with Wire(server.address) as worker:
        worker.can_do(b"wc")
        browser.open(url(server, "#/function/wc"))
        browser.click("main [data-action=submit]")
        browser.type("dialog textarea", "a <b>c</b>")
        browser.click("dialog button", "Submit")
        handle, _, workload = worker.grab()
        worker.send(WORK_COMPLETE, handle, b"<i>3</i> \xff")
        browser.wait_for("<i>3</i> \\xff", "dialog")
        browser.click("dialog button", "Close")
    assert workload == b"a <b>c</b>"
    assert not browser.run("return document.getElementById('dialog').open")


def test_everything_can_be_done_with_the_keyboard(server, browser):
    with Wire(server.address) as wire:
        handle = wire.submit(b"mail", kind=SUBMIT_JOB_BG).decode()
    browser.open(url(server))
    browser.wait_for("mail", "section[aria-label=Functions]")

    def tab_to(label, most=60):
        for _ in range(most):
            browser.press(TAB)
            if browser.focused() == label:
                return
        raise AssertionError("TAB does not come to %r" % label)

    browser.press(TAB)
    assert browser.focused() == "To the content"
    tab_to("Failures")
    browser.press(ENTER)
    browser.wait_for("Recent failures", "main")
    browser.press("/")
    assert browser.focused() == "Search Recent failures"
    browser.open(url(server, "#/function/mail"))
    browser.wait_for(handle, "section[aria-label=Jobs]")
    browser.run("document.querySelector('section[aria-label=Jobs] input').focus()")
    tab_to("Cancel job " + handle)
    browser.press(SPACE)
    browser.wait_for("Cancel job", "dialog")
    assert browser.focused() == "Back"
    browser.press(ESCAPE)
    browser.wait_until("return !document.getElementById('dialog').open")
    assert browser.focused() == "Cancel job " + handle
    browser.press(ENTER)
    browser.wait_for("Cancel job", "dialog")
    browser.press(TAB)
    assert browser.focused() == "Cancel the job"
    browser.press(ENTER)
    browser.wait_for("Cancelled job " + handle, "#notices")


@pytest.fixture
def guarded(tmp_path):
    (tmp_path / "acl").write_text("default deny\ntoken:reader admin status,jobs,workers,version\ntoken:boss admin *\ntoken:boss submit *\n")
    with Server(port=0, http_port=0, acl=str(tmp_path / "acl")) as server:
        yield server


def status_of_jobs(server):
    return sum(function.jobs for function in server.broker.registry.functions.values())


def use_token(browser, token):
    browser.click("#tools button", "Token")
    browser.type("dialog input[name=token]", token)
    browser.click("dialog button", "Use this token")


def test_access_list_says_what_is_shown_and_which_actions_there_are(guarded, browser):
    with Api(guarded, {"Authorization": "Bearer boss"}) as boss:
        handle = boss("POST", "/jobs", {"function": "mail", "background": True})["handle"]
    browser.open(url(guarded, "#/function/mail"))
    browser.wait_for("The access list does not allow you this command. A token may: press Token.", "main")
    use_token(browser, "wrong")
    browser.wait_for("The token is not in the access list, and has been forgotten.", "#notices")
    use_token(browser, "reader")
    browser.wait_for(handle, "section[aria-label=Jobs]")
    press = "[data-action=cancel]"
    # Until the server has said what it can do, that is what the title is about.
    disallowed = "const it = document.querySelector(arguments[0]); return it && it.getAttribute('aria-disabled') === 'true' && it.title === arguments[1]"
    browser.wait_until(disallowed, press, "The access list does not allow you this command")
    browser.click(press)
    browser.wait_for("Cancel: The access list does not allow you this command", "#notices")
    assert not browser.run("return document.getElementById('dialog').open")
    use_token(browser, "boss")
    browser.wait_until("const it = document.querySelector(arguments[0]); return it && !it.hasAttribute('aria-disabled')", press)
    assert browser.run("return sessionStorage.length + ' ' + localStorage.length") == "1 0"


def test_token_is_not_forgotten_for_what_is_said_late_about_an_earlier_one(guarded, browser):
    browser.open(url(guarded))
    browser.wait_for("The access list does not allow you this command", "main")
    late = "useToken('wrong', ''); const late = call('GET', API).catch((error) => error.status); useToken('reader', ''); return late.then((status) => [status, token])"
    assert browser.run(late) == [401, "reader"]
    browser.wait_for("There are no functions yet")
    assert "forgotten" not in browser.text("#notices")


def test_action_that_is_refused_when_it_is_tried_says_why_and_is_offered_no_more(guarded, browser, tmp_path):
    with Api(guarded, {"Authorization": "Bearer boss"}) as boss:
        boss("POST", "/jobs", {"function": "mail", "background": True})
    browser.open(url(guarded, "#/function/mail"))
    use_token(browser, "boss")
    browser.click("[data-action=cancel]")
    (tmp_path / "acl").write_text("default deny\ntoken:boss admin status,jobs,version\n")
    guarded.reload()
    browser.click("dialog button", "Cancel the job")
    browser.wait_for("It was not done. The access list does not allow you this command.", "dialog [role=alert]")
    browser.press(ESCAPE)
    browser.wait_until("return document.querySelector('[data-action=cancel]').getAttribute('aria-disabled') === 'true'")
    assert status_of_jobs(guarded) == 1


def test_server_that_is_gone_is_said_to_be_and_found_again(browser):
    with Server(port=0, http_port=0) as server:
        with Wire(server.address) as wire:
            wire.submit(b"mail", kind=SUBMIT_JOB_BG)
        port = server.http_addresses[0][1]
        browser.open(url(server))
        browser.wait_for("mail", "section[aria-label=Functions]")
    browser.wait_for("Unreachable", "#state")
    browser.wait_for("The server does not answer since", "#banner")
    assert "mail" in browser.text("section[aria-label=Functions]")
    assert browser.run("return document.querySelector('[data-action=drain]').title") == "The server does not answer."
    assert browser.run("return document.title").startswith("✖")
    with Server(port=0, http_port=port):
        browser.wait_for("Ready", "#state")
        browser.wait_for("There are no functions yet")


def test_server_is_stopped_gracefully(browser):
    stopped = []
    with Server(port=0, http_port=0, on_shutdown=stopped.append) as server:
        browser.open(url(server))
        browser.click("[data-action=drain]")
        browser.wait_for("It stops when its work is done", "dialog")
        browser.click("dialog button", "Drain")
        browser.wait_for("The server takes no new jobs.", "#notices")
        wait_until(lambda: stopped == [True], "it is told to stop")


def test_hostile_names_are_text_and_nothing_else(server, browser):
    with Wire(server.address) as wire, Wire(server.address) as worker:
        worker.can_do(*HOSTILE)
        for name in HOSTILE:
            wire.submit(name, name, b"<u>" + name[:50], SUBMIT_JOB_BG)
            wire.submit(name, name, b"", SUBMIT_JOB_BG)
        for _ in HOSTILE:
            handle, function, _ = worker.grab()
            worker.send(WORK_EXCEPTION, handle, function)
        look(server)
        browser.open(url(server))
        for shown in (HOSTILE[0].decode(), "\\xff\\xfe<b>", "\\u202egnp.exe"):
            browser.wait_for(shown, "section[aria-label=Functions]")
        count = browser.run("return document.querySelectorAll('section[aria-label=Functions] tbody tr').length")
        assert count == len(HOSTILE)
        for place in ("jobs", "workers", "clients", "failures", *("function/" + row["id"] for row in Api(server).get("/functions")["functions"])):
            browser.open(url(server, "#/" + place))
            browser.wait_until("return [...view.feeds].every((name) => data(name) || !feeds.get(name).path())")
        browser.open(url(server, "#/function/%FF%FE%3Cb%3E"))
        browser.click("[data-action=cancel]")
        browser.click("dialog button", "Cancel the job")
        browser.wait_for("of \\xff\\xfe<b>.", "#notices")
    assert "owned" not in browser.run("return document.title")
    assert browser.run("return document.querySelectorAll('main img, main script, main b b, main u').length") == 0
    assert [message for message in errors(browser) if "404" not in message] == []


@pytest.mark.parametrize("name", [b".", b"..", b"a/../b", b"a\\b", b"-"])
def test_function_that_no_path_can_name_is_shown_and_changed(server, browser, name):
    with Wire(server.address) as wire:
        wire.submit(name, kind=SUBMIT_JOB_BG, workload=b"the work")
        # That is another one.
        wire.submit(b"x", kind=SUBMIT_JOB_BG)
        browser.open(url(server))
        browser.click("section[aria-label=Functions] tbody a", name.decode())
        browser.wait_until("return data('function') && data('function').submitted === 1")
        browser.click("[data-action=peek]")
        browser.click("dialog button", "Show")
        browser.wait_for("the work", "dialog")
        browser.click("dialog button", "Close")
        browser.click("[data-action=policy]")
        browser.type("dialog input[name=attempts]", "3")
        browser.click("dialog button", "Set the policy")
        browser.wait_for("attempts 3", "#notices")
        for action, press, said in (("pause", "Pause", "Paused"), ("purge", "Purge", "Purged 1 job of"), ("resume", "Resume", "Resumed"), ("drop", "Drop", "Dropped")):
            if action == "drop":
                # Afterwards the page may ask once more for what has been dropped.
                assert errors(browser) == []
            browser.click("[data-action=%s]" % action)
            browser.click("dialog button", press)
            browser.wait_for("%s %s." % (said, name.decode()), "#notices")
        assert status(server.address) == {"x": (1, 0, 0)}


# -- recurring jobs ----------------------------------------------------------------------


def recur(server, name, **values):
    with Api(server) as asked:
        return asked("PUT", "/recurring/" + name, {"function": "f", "cron": "0 0 1 1 *", **values})


def recurring_of(server, name):
    with Api(server) as asked:
        return asked.get("/recurring/" + name)


def test_recurring_job_is_added_changed_and_removed(server, browser):
    browser.open(url(server, "#/recurring"))
    browser.wait_for("There are no recurring jobs")
    browser.click("[data-action=add]", "Add a recurring job")
    browser.wait_for("whether a client is there or not", "dialog")
    for name, text in (("name", "night"), ("function", "re/port"), ("cron", "61 2 * * mon-fri"), ("workload", "all\nof it")):
        browser.type("dialog [name=%s]" % name, text)
    browser.click("dialog button", "Add")
    browser.wait_for("It was not done. Minute: got '61'", "dialog [role=alert]")
    browser.type("dialog [name=cron]", "30 2 * * mon-fri")
    browser.click("dialog button", "Add")
    browser.wait_for("Added recurring job night. It is due in ", "#notices")
    found = recurring_of(server, "night")
    assert [found[each] for each in ("function", "cron", "workload", "unique", "priority")] == ["re/port", "30 2 * * mon-fri", "all\nof it", "night", "normal"]
    rows = "section[aria-label='Recurring jobs'] tbody"
    browser.wait_for("30 2 * * mon-fri", rows)
    assert browser.run("return document.querySelector(arguments[0] + ' a').getAttribute('href')", rows) == "#/function/re%2Fport"
    browser.click("[data-action=change]")
    browser.wait_for("Change recurring job night", "dialog")
    assert browser.run("return ['function', 'cron', 'workload', 'unique', 'priority', 'each_alone'].map((name) => { const it = document.querySelector('dialog [name=' + name + ']'); return it.type === 'checkbox' ? it.checked : it.value; })") == [
        "re/port", "30 2 * * mon-fri", "all\nof it", "", "normal", False,
    ]  # fmt: skip
    browser.type("dialog [name=cron]", "*/15 * * * *")
    browser.run("document.querySelector('dialog select').value = 'low'; document.querySelector('dialog [name=each_alone]').checked = true")
    browser.click("dialog button", "Change")
    browser.wait_for("Changed recurring job night. It is due in ", "#notices")
    browser.wait_for("*/15 * * * *", rows)
    found = recurring_of(server, "night")
    assert [found[each] for each in ("cron", "workload", "unique", "priority")] == ["*/15 * * * *", "all\nof it", "", "low"]
    browser.click("[data-action=remove]")
    browser.wait_for("Remove recurring job night?", "dialog")
    browser.click("dialog button", "Back")
    assert recurring_of(server, "night")
    browser.click("[data-action=remove]")
    browser.click("dialog button", "Remove")
    browser.wait_for("Removed recurring job night.", "#notices")
    browser.wait_for("There are no recurring jobs")
    assert [message for message in errors(browser) if "400" not in message] == []


def test_what_is_not_touched_of_a_recurring_job_stays_as_it_is(server, browser):
    workload, name = {"base64": "/wAB"}, {"base64": "/2Y="}
    before = recur(server, "n%25", function=name, workload=workload, unique="\u202eu")
    browser.open(url(server, "#/recurring"))
    browser.click("[data-action=change]")
    browser.type("dialog [name=cron]", "0 0 2 1 *")
    browser.click("dialog button", "Change")
    browser.wait_for("Changed recurring job n%.", "#notices")
    after = recurring_of(server, "n%25")
    assert after == {**before, "cron": "0 0 2 1 *", "next_s": after["next_s"]} and after["next_s"] > before["next_s"]
    browser.click("[data-action=change]")
    browser.type("dialog [name=workload]", "text now")
    browser.click("dialog button", "Change")
    browser.wait_until("return data('recurring')[0].workload_bytes === 8")
    assert recurring_of(server, "n%25")["workload"] == "text now"


def test_recurring_job_of_a_name_that_there_is_replaces_nothing(server, browser):
    recur(server, "..%2F", workload="kept")
    browser.open(url(server, "#/recurring"))
    browser.wait_for("../", "section[aria-label='Recurring jobs'] tbody")
    browser.click("[data-action=add]")
    for name, text in (("name", "../"), ("function", "g"), ("cron", "0 0 1 1 *")):
        browser.type("dialog [name=%s]" % name, text)
    browser.click("dialog button", "Add")
    browser.wait_for("There is a recurring job of that name", "dialog [role=alert]")
    assert recurring_of(server, "..%2F")["function"] == "f"
    browser.click("dialog button", "Back")
    browser.click("[data-action=remove]")
    browser.click("dialog button", "Remove")
    browser.wait_for("Removed recurring job ../.", "#notices")


def test_what_became_of_recurring_jobs_is_seen_and_searched(server, browser):
    for number in range(60):
        recur(server, "job-%d" % number, cron="0 %d 1 1 *" % (number % 24))

    def note(registry):
        entries = registry.recurring.entries
        for name, outcome in ((b"job-7", Refusal(b"QUEUE_ERROR", b"it is full")), (b"job-9", b"H:x:1")):
            entries[name].last_s, entries[name].outcome = int(time.time()) - 3670, outcome

    server.broker.turn(note)
    with Wire(server.address) as wire:
        wire.ask("create function f")
    browser.open(url(server, "#/recurring"))
    browser.wait_for("1–50 of 60")
    names = "return [...document.querySelectorAll(arguments[0] + ' tr')].map((each) => each.firstChild.innerText)"
    rows = "section[aria-label='Recurring jobs'] tbody"
    assert browser.run(names, rows)[:3] == ["job-0", "job-24", "job-48"]
    browser.run("const it = document.querySelector('main select'); it.selectedIndex = 1; it.dispatchEvent(new Event('change'))")
    browser.wait_for("QUEUE_ERROR: it is full", rows)
    assert browser.run(names, rows) == ["job-7"] and "1 h 1 m ago" in browser.text(rows)
    browser.run("const it = document.querySelector('main select'); it.selectedIndex = 0; it.dispatchEvent(new Event('change'))")
    browser.type("main input[type=search]", "h:x:1")
    browser.wait_for("job H:x:1", rows)
    browser.open(url(server, "#/function/f"))
    browser.wait_for("1–50 of 60", "section[aria-label='Its recurring jobs']")


def test_recurring_jobs_are_shown_and_changed_as_far_as_the_access_list_allows(guarded, browser, tmp_path):
    with Api(guarded, {"Authorization": "Bearer boss"}) as boss:
        boss("PUT", "/recurring/night", {"function": "f", "cron": "0 0 1 1 *"})
    browser.open(url(guarded, "#/recurring"))
    browser.wait_for("The access list does not allow you this command. A token may: press Token.", "main")
    (tmp_path / "acl").write_text("default deny\ntoken:reader admin status,jobs,version,recurring\ntoken:boss admin *\n")
    guarded.reload()
    use_token(browser, "reader")
    browser.wait_for("night", "section[aria-label='Recurring jobs'] tbody")
    for action in ("add", "change", "remove"):
        browser.wait_until("return document.querySelector('main [data-action=%s]').getAttribute('aria-disabled') === 'true'" % action)
        browser.click("main [data-action=%s]" % action)
        assert not browser.run("return document.getElementById('dialog').open")
    use_token(browser, "boss")
    browser.wait_until("const it = document.querySelector('[data-action=remove]'); return it && !it.hasAttribute('aria-disabled')")


# -- below a path, and on a phone -----------------------------------------------------------


class _Proxying(BaseHTTPRequestHandler):
    """Passes on what is below a prefix, without it, as reverse proxies do; the Host header stays. One request a connection."""

    def _pass_on(self):
        prefix, upstream = self.server.prefix, http.client.HTTPConnection(*self.server.upstream, timeout=10)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        if not self.path.startswith(prefix + "/"):
            return self._answer(404, [], b"not here")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "content-length")}
        upstream.request(self.command, self.path[len(prefix) :], body, headers)
        answer = upstream.getresponse()
        dropped = ("connection", "content-length", "transfer-encoding", "date", "server")
        self._answer(answer.status, [each for each in answer.getheaders() if each[0].lower() not in dropped], answer.read())
        upstream.close()

    def _answer(self, status, headers, body):
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def below(server, prefix):
    """A reverse proxy that has the server below a path; its address."""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxying)
    proxy.daemon_threads = True
    proxy.prefix, proxy.upstream = prefix, server.http_addresses[0]
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield "http://%s:%d%s/" % (*proxy.server_address, prefix)
    finally:
        proxy.shutdown()
        thread.join(10)
        proxy.server_close()


def test_page_works_below_a_path_of_a_reverse_proxy(server, browser):
    with Wire(server.address) as wire, below(server, "/some/gearman") as place:
        handle = wire.submit(b"mail", kind=SUBMIT_JOB_BG).decode()
        browser.open(place)
        browser.wait_for("Ready", "#state")
        browser.click("section[aria-label=Functions] tbody a", "mail")
        browser.wait_until("return data('function') && data('function.history') && data('function.failures') && data('recurring') !== null")
        browser.click("section[aria-label=Jobs] [data-action=cancel]")
        browser.click("dialog button", "Cancel the job")
        browser.wait_for("Cancelled job %s of mail." % handle, "#notices")
        browser.click("nav a", "Recurring")
        browser.click("[data-action=add]")
        for name, text in (("name", "night"), ("function", "f"), ("cron", "0 0 1 1 *")):
            browser.type("dialog [name=%s]" % name, text)
        browser.click("dialog button", "Add")
        browser.wait_for("Added recurring job night.", "#notices")
        use_token(browser, "this-servers")
        assert browser.run("return Object.keys(sessionStorage)") == ["gearmand.token/some/gearman"]
        asked = [each for each in browser.requests() if not each.startswith(("data:", "about:", "chrome:"))]
        assert len(asked) > 5 and [each for each in asked if not each.startswith(place)] == []
        assert errors(browser) == []
        browser.open("about:blank")


def test_tables_fit_a_phone_without_scrolling_sideways(server, browser):
    long = b"a-name-that-is-long-and-has-no-blank-" * 3
    with Wire(server.address) as wire, Wire(server.address) as waiting, Wire(server.address) as worker:
        worker.can_do(b"resize", long)
        for name in (b"resize", long):
            wire.submit(name, kind=SUBMIT_JOB_BG)
            worker.send(WORK_EXCEPTION, worker.grab()[0], TRACEBACK + b"x" * 300)
            with_unique = waiting.submit(name, name[:60]) if name == long else wire.submit(name, name[:60], kind=SUBMIT_JOB_BG)
            worker.grab()
            worker.send(WORK_STATUS, with_unique, b"123456", b"9876543")
        worker.echo()
        for name in (b"resize", long) * 3:
            wire.submit(name, kind=SUBMIT_JOB_HIGH_BG)
        recur(server, "n" * 64, function=long.decode(), cron="%s 2 * jan,feb,mar,apr,may,jun,jul *" % ",".join(map(str, range(60))))
        recur(server, "night")
        look(server)
        browser.resize(390, 844)
        too_wide = (
            "return [...document.querySelectorAll('.scroll')].filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth)"
            ".map((each) => each.getAttribute('aria-label') + ' ' + each.scrollWidth)"
        )
        places = {"": "resize", "jobs": "queued", "workers": "Cancel", "clients": "running", "failures": "exception", "recurring": "night", "function/" + long.decode(): "Cancel"}
        for place, said in places.items():
            browser.open("about:blank")
            browser.open(url(server, "#/" + place))
            browser.wait_for(said, "table.stack tbody, table.numbered tbody")
            assert browser.run(too_wide) == [], place
            assert browser.run("return document.documentElement.scrollWidth") <= 390, place
        # It is a table for those who do not see it, and can be sorted.
        browser.open(url(server, "#/recurring"))
        browser.wait_for("night", "main tbody")
        assert browser.run("return [...document.querySelector('main tbody tr').children].map((each) => each.getAttribute('role'))")[:2] == ["rowheader", "cell"]
        browser.click("main thead button", "Name")
        browser.wait_until("return document.querySelector('main tbody th').innerText === 'night'")


def test_page_asks_no_other_host(server, browser):
    browser.open(url(server))
    browser.wait_for("Ready", "#state")
    browser.wait_until("return data('histories') !== null && data('workers') !== null")
    asked = [each for each in browser.requests() if not each.startswith(("data:", "about:", "chrome:"))]
    assert len(asked) > 5 and [each for each in asked if not each.startswith(url(server))] == []
    assert not [each for each in asked if "favicon" in each]


def test_page_fits_a_phone_and_has_a_light_and_a_dark_dress(server, browser):
    with Wire(server.address) as wire:
        wire.submit(b"a-name-that-is-long-and-has-no-blank-" * 3, kind=SUBMIT_JOB_BG)
    colours = set()
    for dark in (False, True):
        browser.resize(390, 844, dark)
        browser.open("about:blank")
        for place in ("", "#/jobs", "#/workers", "#/failures", "#/function/" + "a-name-that-is-long-and-has-no-blank-" * 3):
            browser.open(url(server, place))
            browser.wait_for("Ready", "#state")
            assert browser.run("return document.documentElement.scrollWidth") <= 390, place
        colours.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    browser.run("const it = document.querySelector('select[aria-label=\"Light or dark\"]'); it.value = 'light'; it.dispatchEvent(new Event('change'))")
    assert browser.run("return document.documentElement.dataset.theme") == "light"


def test_operations_that_a_later_version_has_are_offered(monkeypatch, browser):
    asked = []

    def act(scene, asker, values):
        asked.append(values)
        return json_answer({"purged": 2})

    field = Field("function", "name", "", True)
    more = api.Operation("POST", "/functions/{function}/purge", "purge", "End what waits.", act, (field, Field("priority", "high|normal|low", "Of this priority alone.")))
    monkeypatch.setattr(api, "OPERATIONS", (*(each for each in api.OPERATIONS if not each.path.endswith("/purge")), more))
    with Server(port=0, http_port=0) as server:
        with Wire(server.address) as wire:
            wire.submit(b"mail", kind=SUBMIT_JOB_BG)
        browser.open(url(server, "#/function/mail"))
        browser.click("[data-action=purge]")
        browser.wait_for("1 job waits in its queue. Purged jobs are gone", "dialog")
        browser.run("document.querySelector('dialog select').value = 'low'")
        browser.click("dialog button", "Purge")
        browser.wait_for("Purged 2 jobs of mail.", "#notices")
    assert asked == [{"function": b"mail", "priority": "low"}]
