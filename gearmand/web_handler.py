"""One connection of HTTP: where its requests go, who asks, and what is sent.

    /api/v1/...                        an operation of the JSON API    see `api`
    /, /metrics, /healthz and the like a page                          see `web`
    /FUNCTION                          a job, as in the C server       see `c_http`

Threads: a `WebHandler` by its connection's own thread.
"""

from __future__ import annotations

import http.server
import io
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Tuple

from gearmand import api, c_http, http_request
from gearmand.answers import Answer, Asker, error_answer, not_ended
from gearmand.api_fields import values_of
from gearmand.config import LEVELS
from gearmand.errors import JobLost, JobTimeout, StoreError, TlsFailure, not_settled
from gearmand.http_connection import Bounds, Gone, HttpConnection
from gearmand.http_request import Refused, Request
from gearmand.json_bodies import Bytes, from_json
from gearmand.listener import Listener, address_text, host_of
from gearmand.waiter import Abandoned, Waiter
from gearmand.web import PAGES, Web
from gearmand.yielding import let_others_run

if TYPE_CHECKING:
    from gearmand.channel import Channel
    from gearmand.gate import Gate

# As much of an answer leaves with its head.
_JOIN_BYTES = 32 * 1024
# What a request counts as whose client has gone before the answer.
_CLIENT_GONE = 499
# No page may run, frame or keep what is answered here.
_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class WebHandler(http.server.BaseHTTPRequestHandler):
    """One connection, from its acceptance to its end, in its own thread."""

    server: Listener
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.owner = self.server.owner
        assert self.owner.web is not None
        self.web: Web = self.owner.web
        config = self.owner.config
        self.address = address_text(self.client_address)
        tls = self.server.tls
        self.tls: "Optional[Channel]" = None if tls is None else tls.channel(self.request)
        bounds = Bounds(config.partial_timeout, config.unread_timeout, config.max_packet)
        self.channel = HttpConnection(self.request, self.tls, bounds, self.owner.halves.note, self.web.turnstile)
        self.gate: Optional[Gate] = None
        self.web.enter(self.channel)

    def finish(self) -> None:
        self.web.leave(self.channel)

    def handle(self) -> None:
        if self.tls is not None and not self._shake_hands(self.tls):
            return
        try:
            while not self.owner.stopping and self._serve_one():
                pass
            self.channel.finish()
        except Gone:
            pass

    def _shake_hands(self, tls: "Channel") -> bool:
        """Begin TLS. False: the connection is over."""
        try:
            tls.handshake(self.owner.config.ssl_handshake_timeout or None)
            return True
        except TlsFailure as failure:
            self._complain("TLS: %s" % str(failure).partition(":")[0], "%s: closed: %s" % (self.address, failure))
        except OSError:
            pass
        return False

    def _complain(self, kind: str, what: str) -> None:
        self.owner.complaints.say(LEVELS["WARNING"], kind, "%s", what)

    def _serve_one(self) -> bool:
        """One request. False: it was the last one. Gone."""
        self.old_client = True
        self.command = ""
        try:
            request = self.channel.next_request()
        except Refused as error:
            self.owner.log.debug("%s: %s", self.address, error.text)
            self.close_connection = True
            self._send(error_answer(error))
            return False
        if request is None:
            return False
        self.command = request.method
        self.old_client = request.is_old
        self.close_connection = not request.keeps_alive
        self.web.begin()
        status = _CLIENT_GONE
        try:
            status = self._answer(request)
        finally:
            self.web.end(status)
            for kind, what in [] if self.gate is None else self.gate.take():
                self._complain(kind, what)
        self.owner.log.debug("%s: %s %r: %d", self.address, request.method, request.path[:200], status)
        return not self.close_connection

    def _answer(self, request: Request) -> int:
        """Returns the status. Gone."""
        try:
            answer = self._answer_of(request)
        except Refused as error:
            answer = error_answer(error)
        except (JobTimeout, JobLost) as error:
            answer = error_answer(not_ended(error))
        except StoreError as error:
            answer = error_answer(Refused(507, "NOT_STORED", not_settled(error)))
        except Abandoned:
            raise Gone from None
        except Gone:
            raise
        except Exception:
            self.close_connection = True
            self._send(error_answer(Refused(500, "INTERNAL_ERROR", "an error of this server; its log has more")))
            raise
        if self.channel.has_body_left or self.owner.stopping or self.owner.broker.registry.draining:
            self.close_connection = True
        self._send(answer)
        # Whoever sends the next requests with this one would keep the processor, and each of the others wait for it at each of
        # its steps. (Measured, 500 requests at a time: the slowest hundredth of other clients' jobs 0.6 ms instead of 200.)
        let_others_run()
        if answer.then is not None:
            answer.then()
        return answer.status

    # -- where it goes -------------------------------------------------------------------

    def _answer_of(self, request: Request) -> Answer:
        page = PAGES.get(request.path)
        if page is None or not page.any_host:
            http_request.check_host(request, self.web.names)
            self._identify(request)
        if request.method == "OPTIONS":
            return Answer(204, {"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"}, b"")
        if page is not None:
            _check_method(request, ("GET", "HEAD"))
            if page.command:
                self._asker().need(page.command, False)
            return page.act(self.web)
        if request.path == b"/api" or request.path.startswith(b"/api/"):
            return self._operate(request)
        _check_method(request, c_http.METHODS)
        http_request.check_origin(request)
        return c_http.submit(self._asker(), request, self._whole_body())

    def _operate(self, request: Request) -> Answer:
        operation, path = _operation_of(request)
        reads = operation.method == "GET"
        if not reads:
            http_request.check_origin(request)
        asker = self._asker()
        if operation.command:
            asker.need(operation.command, not reads)
        body = None if reads else self._json_body(request)
        return operation.act(self.web.scene, asker, values_of(operation.fields, path, request.query, body))

    def _identify(self, request: Request) -> None:
        """Find out who asks, where that matters. Refused: with a token that is none."""
        name = None if self.tls is None else self.tls.common_name
        self.gate = self.owner.gatekeeper.gate_for(self.address, host_of(self.client_address), name)
        kind, _, token = request.fields.get("authorization", "").partition(" ")
        if self.gate is None or self.gate.rights is None or kind.lower() != "bearer":
            return
        refusal = self.gate.present(token.strip().encode("latin-1"))
        if refusal is not None:
            # Whoever tries many has to connect for each.
            self.close_connection = True
            raise Refused(401, "PERMISSION_DENIED", refusal.text.decode(), {"WWW-Authenticate": "Bearer"})

    def _json_body(self, request: Request) -> Optional[Mapping[str, Any]]:
        """`None`: there is none."""
        if request.length == 0:
            return None
        if request.fields.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "NOT_JSON", "expected a body of the Content-Type application/json")
        return from_json(self._whole_body())

    def _whole_body(self) -> bytes:
        try:
            body = self.channel.body()
            let_others_run()
            return body
        except Refused:
            self.close_connection = True
            raise

    def _asker(self) -> Asker:
        broker, config = self.owner.broker, self.owner.config

        def waiter(timeout_s: Optional[float]) -> Waiter:
            return Waiter(broker, self.address, timeout_s, config.max_unsent, self.channel.is_gone)

        return Asker(broker, waiter, self.gate)

    # -- what is sent --------------------------------------------------------------------

    def _send(self, answer: Answer) -> None:
        """Gone: the client, or an answer that cannot be finished any more."""
        body = answer.body
        if isinstance(body, (bytes, memoryview)):
            head = self._head(answer, len(body))
            if self.command == "HEAD":
                body = b""
            self.channel.write(head + body[:_JOIN_BYTES])
            if len(body) > _JOIN_BYTES:
                self.channel.write(memoryview(body)[_JOIN_BYTES:])
            return
        try:
            self._send_pieces(answer, body)
        finally:
            # It may hold on to a job.
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _send_pieces(self, answer: Answer, body: Iterator[Bytes]) -> None:
        try:
            first = next(body, b"")
        except Refused as error:
            self._send(error_answer(error))
            return
        self.channel.write(self._head(answer, None))
        if self.command == "HEAD":
            return
        try:
            self._send_piece(first)
            for piece in body:
                self._send_piece(piece)
                let_others_run()
        except (Refused, Abandoned):
            # The client must not take what it has for all.
            self.channel.reset()
            raise Gone from None
        if not self.old_client:
            self.channel.write(b"0\r\n\r\n")

    def _send_piece(self, piece: Bytes) -> None:
        if not piece:
            return
        head, tail = (b"", b"") if self.old_client else (b"%x\r\n" % len(piece), b"\r\n")
        if len(piece) <= _JOIN_BYTES:
            self.channel.write(b"".join((head, piece, tail)))
        else:
            for part in (head, piece, tail):
                self.channel.write(part)

    def _head(self, answer: Answer, length: Optional[int]) -> bytes:
        """`length`: of the body; `None`: it comes in pieces."""
        if length is None and self.old_client:
            self.close_connection = True
        self.wfile = io.BytesIO()
        self.send_response(answer.status)
        for name, value in {**_ALWAYS, **answer.headers}.items():
            self.send_header(name, value)
        if length is None and not self.old_client:
            self.send_header("Transfer-Encoding", "chunked")
        elif length is not None and answer.status != 204:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        return self.wfile.getvalue()

    # -- of http.server -------------------------------------------------------------------

    request_version = "HTTP/1.1"

    def version_string(self) -> str:
        return "Gearman/" + self.owner.control.version

    def log_request(self, *arguments: Any) -> None:
        """Nothing: see `_serve_one`."""


def _check_method(request: Request, allowed: Tuple[str, ...]) -> None:
    if request.method not in allowed:
        known = request.method in _METHODS
        text = "%s cannot be used here" % request.method if known else "there is no method %s" % request.method[:50]
        raise Refused(405 if known else 501, "METHOD_NOT_ALLOWED", text, {"Allow": ", ".join((*allowed, "OPTIONS"))})


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH")


def _operation_of(request: Request) -> Tuple[api.Operation, Dict[str, bytes]]:
    """The operation, and the fields that its path has. Refused: there is none."""
    method = "GET" if request.method == "HEAD" else request.method
    allowed: List[str] = []
    for operation in api.OPERATIONS:
        path = _match(operation.path, request.segments)
        if path is not None:
            if operation.method == method:
                return operation, path
            allowed.append(operation.method)
    if not allowed:
        raise Refused(404, "NOT_FOUND", "there is no such operation; GET %s lists them" % api.VERSION)
    _check_method(request, tuple(allowed + ["HEAD"] * ("GET" in allowed)))
    raise AssertionError("no method is missing")


def _match(path: str, segments: List[bytes]) -> Optional[Dict[str, bytes]]:
    expected = (api.VERSION + path)[1:].split("/")
    if len(expected) != len(segments):
        return None
    found: Dict[str, bytes] = {}
    for part, segment in zip(expected, segments):
        if part.startswith("{"):
            found[part[1:-1]] = segment
        elif part.encode() != segment:
            return None
    return found
