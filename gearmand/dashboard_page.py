"""The dashboard as one page, made of the files in `dashboard/`, and what a browser may do with it. Knows nothing of the server.

The page holds no data: its script asks the JSON API, with the rights of whoever
looks at it. Style and script stand in the page, and the Content-Security-Policy
names their hashes, so that nothing else runs, whatever a job is called; what
would make HTML of text is refused by the browser (trusted types).
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil
from functools import lru_cache
from typing import Dict, Tuple

SCRIPTS = ("text", "feeds", "troubles", "tables", "charts", "actions", "columns", "views", "page")
"""In the order in which they stand in the page's one script."""


@lru_cache(maxsize=None)
def page() -> Tuple[bytes, Dict[str, str]]:
    """Its HTML, and the headers that go with it."""
    style = _file("style.css")
    script = b"\n".join(_file(name + ".js") for name in SCRIPTS)
    html = _file("index.html").replace(b"/* style.css */", style).replace(b"/* scripts */", script)
    policy = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return html, {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join("%s %s" % each for each in policy.items()),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def _file(name: str) -> bytes:
    # Works in a zip archive too.
    data = pkgutil.get_data("gearmand", "dashboard/" + name)
    assert data is not None
    return data


def _hash(text: bytes) -> str:
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text).digest()).decode("ascii")
