"""Results of background jobs, which a server keeps where their function's policy says so: a part of `Client`.

    status, result ──▶ a server ──▶ known? kept?     the job has ended so; it has not; nobody knows of it

Both questions go in one piece over the client's own connection, the second as a
line of the administrative protocol. In this order: a job that ends between two
answers is found by the second.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Iterable, List, NamedTuple, Optional, Sequence, Union

from gearmand.encoders import encoder_of
from gearmand.errors import AdminRefused, ConfigError, JobException, JobFailed, JobTimeout, NoResult, ServerLost
from gearmand.link import Link
from gearmand.protocol import TEXT_LINE, PacketType, pack
from gearmand.submitted import SubmittedJob, too_late

_STATUS = {
    "job": (PacketType.GET_STATUS, PacketType.STATUS_RES),
    "unique": (PacketType.GET_STATUS_UNIQUE, PacketType.STATUS_RES_UNIQUE),
}
# A server that does not know the question keeps none.
_NONE = ("NO_RESULT", "UNKNOWN_COMMAND")


class Asked(NamedTuple):
    """A job whose result is asked for."""

    kind: str
    """By what it is named: job (its handle) or unique."""
    words: Sequence[bytes]
    """These of the command; the last one names the job."""
    function: str
    """As far as it is known."""
    encoder: Any

    @property
    def text(self) -> str:
        name = self.words[-1].decode("utf-8", "replace")
        return ("function %s, " % self.function if self.function else "") + "%s %s" % (self.kind, name)

    @property
    def handle(self) -> Optional[str]:
        return _text(self.words[-1]) if self.kind == "job" else None


class Kept:
    """The part of `Client`; what it needs of it is there."""

    if TYPE_CHECKING:
        _encoder: Any
        _encoders: Any
        _prefix: str
        _links: List[Link]

        def _in_order(self, affinity: bytes) -> List[Link]: ...
        def _answers(self, link: Link, kinds: Sequence[int], packets: bytes, timeout_s: Optional[float]) -> List[bytes]: ...

    def result(self, job: Union[str, bytes, SubmittedJob], timeout_s: Optional[float] = 10.0, *, encoder: Any = None) -> Any:
        """What a background job has completed with, where the policy of its function has it kept (keep_s); it waits for no job.

        JobFailed, JobException: so it has ended. JobTimeout: it has not ended.
        NoResult: no server knows the job or its result. ServerLost: one that
        might know cannot be asked, or does not answer within `timeout_s`.
        AdminRefused: a server with an access list does not let this client see
        jobs of the function. What was sent before the end is not kept. A handle does not
        tell the function: `encoder` is the client's, unless it is given, or
        the job is one of `submit`. Several servers are asked in turn.
        """
        if isinstance(job, SubmittedJob):
            taken = job.result(timeout_s)  # A background job has a handle then.
            if not job.background:
                return taken
            asked = Asked("job", [_word(job.handle)], job.function, job.encoder if encoder is None else encoder_of(encoder))
            return self._kept(asked, [link for link in self._links if str(link.address) == job.server], timeout_s)
        asked = Asked("job", [_word(job)], "", self._encoder if encoder is None else encoder_of(encoder))
        return self._kept(asked, self._links, timeout_s)

    def result_of_unique(
        self, function: Union[str, bytes], unique: Union[str, bytes], timeout_s: Optional[float] = 10.0, *, encoder: Any = None
    ) -> Any:
        """The same of the latest job of a function and unique that has ended; a later one may be under way.

        JobTimeout: none has ended, and there is a job of that unique, of
        whatever function. ConfigError: a blank or a line feed in one of them,
        with which no line of the protocol can be written.
        """
        name = function if isinstance(function, str) else _text(bytes(function))
        decoder = self._encoders.get(name, self._encoder) if encoder is None else encoder_of(encoder)
        asked = Asked("unique", [_word(self._prefix + name), _word(unique)], name, decoder)
        # It went to the first of them, unless that was away.
        return self._kept(asked, self._in_order(asked.words[-1]), timeout_s)

    def _kept(self, asked: Asked, links: Iterable[Link], timeout_s: Optional[float]) -> Any:
        lost: Optional[ServerLost] = None
        line = b" ".join([b"result", asked.kind.encode(), *asked.words]) + b"\r\n"
        ask, answer = _STATUS[asked.kind]
        for link in links:
            try:
                status, said = self._answers(link, [answer, TEXT_LINE], pack(ask, asked.words[-1]) + line, timeout_s)
            except ServerLost as error:
                lost = lost or error
                continue
            if said.startswith(b"OK "):
                return _outcome(asked, said.split(b"\r")[0], str(link.address))
            code = _text(said).split()[1:2]
            if not code or code[0].upper() not in _NONE:
                raise _refused(asked, said, str(link.address))
            if status.split(b"\0")[1] == b"1":
                raise too_late("%s has not ended" % asked.text, asked.function, asked.handle, str(link.address))
        if lost is not None:
            raise lost
        text = "%s: no server knows it, or what it has ended with: that is not kept, or not any more, or it never was" % asked.text
        raise NoResult(text, asked.function, asked.handle)


def _outcome(asked: Asked, line: bytes, server: str) -> Any:
    _, handle, how, _, *data = line.split(b" ")
    found = base64.b64decode(data[0]) if data else b""
    job = (asked.function, _text(handle))
    if how == b"complete":
        return asked.encoder.decode(found)
    if how == b"exception":
        text = "%s raised an exception: %s" % (asked.text, found[:500].decode("utf-8", "replace"))
        raise JobException(text, *job, found, server)
    raise JobFailed("%s failed" % asked.text, *job, server)


def _refused(asked: Asked, line: bytes, server: str) -> AdminRefused:
    code, _, text = _text(line.rstrip(b"\r")).partition(" ")[2].partition(" ")
    text = text.replace("+", " ")
    return AdminRefused("%s: %s: %s %s" % (server, asked.text, code, text), code, text, server)


def _word(word: Union[None, str, bytes]) -> bytes:
    raw = word.encode("utf-8", "surrogateescape") if isinstance(word, str) else bytes(word or b"")
    if raw.split() != [raw] or b"\0" in raw:
        raise ConfigError("%r: expected one word, because blanks separate the words of an administrative command" % (word,))
    return raw


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
