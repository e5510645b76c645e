"""A headless Chromium, driven by the W3C WebDriver protocol that chromedriver speaks."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
import tempfile

from peers import foreign, free_address
from wire import DEADLINE_S, wait_until

CHROMIUM = shutil.which(foreign("chromium"))
CHROMEDRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
).split()

# Keys as the protocol writes them.
TAB, ENTER, ESCAPE, SPACE, LEFT = "\ue004", "\ue007", "\ue00c", " ", "\ue012"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class WebDriverError(Exception):
    pass


class Browser:
    """One browser with one window. Elements are named by selectors of CSS, and looked for until they are there."""

    def __init__(self):
        self._profile = tempfile.mkdtemp(prefix="gearmand-browser-")
        address = free_address()
        self._driver = subprocess.Popen(
            [CHROMEDRIVER, "--port=%d" % address[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._connection = http.client.HTTPConnection(*address, timeout=60)
        self._session = ""
        try:
            wait_until(self._is_up, "chromedriver answers")
            options = {"args": [*ARGUMENTS, "--user-data-dir=" + self._profile], "binary": CHROMIUM}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
            found = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = "/session/" + found["sessionId"]
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        try:
            if self._session:
                self._ask("DELETE", "")
        finally:
            self._connection.close()
            self._driver.terminate()
            self._driver.wait(DEADLINE_S)
            shutil.rmtree(self._profile, ignore_errors=True)

    def _is_up(self):
        try:
            return self._ask("GET", "/status")["ready"]
        except OSError:
            self._connection.close()
            return False

    def _ask(self, method, path, fields=None):
        body = None if method != "POST" else json.dumps(fields or {})
        self._connection.request(method, self._session + path, body, {"Content-Type": "application/json"})
        found = json.loads(self._connection.getresponse().read().decode("utf-8"))["value"]
        if isinstance(found, dict) and "error" in found:
            raise WebDriverError("%s: %s" % (found["error"], found["message"]))
        return found

    # -- what there is to see ------------------------------------------------------------

    def open(self, url):
        self._ask("POST", "/url", {"url": url})

    def resize(self, width, height, dark=False):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def command(self, name, **parameters):
        """A command of Chromium's own protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def run(self, script, *arguments):
        """What a script returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector="body"):
        """What can be read there now; nothing where there is no such element."""
        return self.run("const found = document.querySelector(arguments[0]); return found ? found.innerText : ''", selector)

    def wait_for(self, text, selector="body"):
        def is_there():
            return text in self.text(selector)

        try:
            wait_until(is_there, text)
        except AssertionError:
            raise AssertionError("%r does not come in %s: %r" % (text, selector, self.text(selector)[:3000])) from None

    def wait_until(self, script, *arguments):
        """Until the script returns what counts as true; that."""
        return wait_until(lambda: self.run(script, *arguments), script)

    def focused(self):
        """The text, or the label, of what has the focus."""
        return self.run("const it = document.activeElement; return it.getAttribute('aria-label') || it.innerText || it.id || it.tagName")

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._ask("GET", "/screenshot")))

    def log(self, kind):
        """What has been logged since the last time: `browser`, the console; `performance`, the network."""
        return self._ask("POST", "/se/log", {"type": kind})

    def requests(self):
        """The URLs that have been asked for since the last time."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    # -- what is done ----------------------------------------------------------------------

    def _find(self, selector, text):
        script = (
            "const it = [...document.querySelectorAll(arguments[0])].find((each) => each.checkVisibility() &&"
            " (!arguments[1] || each.innerText.trim() === arguments[1])); if (it) it.scrollIntoView({block: 'nearest'}); return it || null"
        )
        try:
            found = wait_until(lambda: self.run(script, selector, text), "%s %s" % (selector, text or ""))
        except AssertionError:
            raise AssertionError("there is no %s %s: %r" % (selector, text or "", self.text()[:3000])) from None
        return "/element/" + found[_ELEMENT]

    def click(self, selector, text=None):
        """As a person does: what lies behind something else, or moves away, cannot be clicked."""
        self._ask("POST", self._find(selector, text) + "/click")

    def type(self, selector, text):
        """In place of what is there."""
        element = self._find(selector, None)
        self._ask("POST", element + "/clear")
        self._ask("POST", element + "/value", {"text": text})

    def press(self, *keys):
        """Keys, one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})
