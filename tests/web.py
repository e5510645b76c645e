"""A small HTTP client over a raw socket, which sends exactly what it is told; and one that knows JSON."""

from __future__ import annotations

import http.client
import json
import socket

from wire import DEADLINE_S, ends


class Raw:
    """One connection."""

    def __init__(self, address, timeout_s=DEADLINE_S):
        self.socket = socket.create_connection(address, timeout_s)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        data = self.socket.recv(65536)
        assert data, "the server has closed the connection after %r" % self.buffer[-200:]
        self.buffer += data

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def _take(self, count):
        while len(self.buffer) < count:
            self._more()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def answer(self, has_body=True):
        """The next answer: status, headers in small letters, body."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        status = int(head[0].split()[1])
        if not has_body or status in (100, 204):
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = int(self._until(b"\r\n"), 16)
                body += self._take(size)
                assert self._take(2) == b"\r\n"
                if not size:
                    return status, headers, body
        if "content-length" in headers:
            return status, headers, self._take(int(headers["content-length"]))
        return status, headers, self.rest()

    def rest(self):
        """Everything until the server closes."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                raise ConnectionResetError("after %r" % self.buffer[-200:]) from None
            if not data:
                found, self.buffer = self.buffer, b""
                return found
            self.buffer += data

    def is_closed(self):
        return ends(self.socket)


def exchange(address, data):
    """The answer to bytes as they are."""
    with Raw(address) as raw:
        raw.send(data)
        return raw.answer()


class Api:
    """The JSON API of a server, over one connection."""

    def __init__(self, server, headers=()):
        self.connection = http.client.HTTPConnection(*server.http_addresses[0], timeout=DEADLINE_S)
        self.headers = dict(headers)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.connection.close()

    def raw(self, method, path, body=None, headers=()):
        """Status, headers, body."""
        self.connection.request(method, path, body, {**self.headers, **dict(headers)})
        answer = self.connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def __call__(self, method, path, body=None, status=None):
        """The JSON of an answer, whose status must be that; by default one below 300."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        text = None if body is None else json.dumps(body)
        got, _, answer = self.raw(method, "/api/v1" + path, text, headers)
        assert got == status if status else got < 300, (got, answer)
        return json.loads(answer.decode("utf-8"))

    def get(self, path):
        return self("GET", path)


class OverHttp:
    """One of several ways to ask a server for the same, as a context: by the JSON API."""

    def __init__(self, server):
        self.api = Api(server)

    def __enter__(self):
        self.api.__enter__()
        return self

    def __exit__(self, *exc_info):
        self.api.__exit__(*exc_info)
