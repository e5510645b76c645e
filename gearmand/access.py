"""Access control: rules, and what they let a peer do. Decides; knows no file, socket, lock or clock.

The text of a list has one rule a line:

    default deny                            # what subjects without a rule may do: nothing (deny) or all (allow)
    cn:mail.example.org     submit  resize,thumb-*
    token-sha256:9F86...    work    *
    address:10.0.0.0/8      admin   status,workers
    cn:operator             grant
    address:10.6.6.0/24     none

A subject is the common name of a certificate, a token, or a network of
addresses; `address:unix` is every peer of a Unix socket. `submit` and `work`
are of functions, `admin` of administrative commands by their first words;
`grant` lets the subject change the list, and `none` lets it do nothing.
Patterns are those of a shell (`*`, `?`, `[abc]`, `[!abc]`), several separated
by commas.

A peer may do what any of its subjects may. One that has no subject with a rule
may do what `default` says, which every list must. Of a token the list holds
the SHA-256 alone once it has been read.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from gearmand.errors import ConfigError

SUBMIT, WORK, ADMIN, GRANT, NONE = WHATS = ("submit", "work", "admin", "grant", "none")
UNIX = "address:unix"

_TOKEN, _DIGEST, _NAME, _ADDRESS = "token:", "token-sha256:", "cn:", "address:"
_SHOWN_DIGITS = 8
# How many decisions a peer's rights remember, and of names up to which length:
# enough for any client, and little memory where names are made up.
_REMEMBERED = 256
_REMEMBERED_BYTES = 128

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Test = Callable[[str], object]


class Rule(NamedTuple):
    subject: str
    """In the form that `subject_of` returns."""
    what: str
    patterns: Tuple[str, ...]


class Line(NamedTuple):
    """A line of a list; a comment has no rule."""

    text: str
    rule: Optional[Rule]


# -- one peer ------------------------------------------------------------------------


class Rights:
    """What one peer may do. Threads: that of the peer's handler alone, because it remembers."""

    __slots__ = ("_tests", "_everything", "_known")

    def __init__(self, rules: Sequence[Rule], everything: bool) -> None:
        """Everything, or what the rules say."""
        self._everything = everything
        self._tests: Dict[str, List[Test]] = {what: [] for what in WHATS}
        for rule in rules:
            self._tests[rule.what] += [test_of(pattern) for pattern in rule.patterns]
        self._known: Dict[bytes, bool] = {}

    def may_submit(self, function: bytes) -> bool:
        known = self._known.get(function)
        return self._decide(function) if known is None else known

    def _decide(self, function: bytes) -> bool:
        decision = self.may(SUBMIT, function)
        if len(function) <= _REMEMBERED_BYTES:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[function] = decision
        return decision

    def may(self, what: str, name: bytes = b"") -> bool:
        text = name.decode("utf-8", "surrogateescape")
        return self._everything or any(test(text) for test in self._tests[what])


# -- the list --------------------------------------------------------------------------


class AccessList:
    """All rules, in the order of their lines. It never changes: `granted` and `revoked` return another one."""

    def __init__(self, lines: Sequence[Line], allows: bool) -> None:
        self.lines = tuple(lines)
        self.allows = allows
        self._rules: Dict[str, List[Rule]] = {}
        for _, rule in self.lines:
            if rule is not None:
                self._rules.setdefault(rule.subject, []).append(rule)
        subjects = [subject for subject in self._rules if subject.startswith(_ADDRESS) and subject != UNIX]
        self._networks = [(ipaddress.ip_network(subject[len(_ADDRESS) :]), subject) for subject in subjects]
        self._digests = [subject for subject in self._rules if subject.startswith(_DIGEST)]

    @property
    def text(self) -> str:
        return "".join(line.text + "\n" for line in self.lines)

    def rights(self, common_name: Optional[str], token: Optional[str], host: str) -> Rights:
        """Of the peer at `host` ("" for a Unix socket) with that certificate and the token that `find_token` has found."""
        subjects = self._subjects_at(host)
        if common_name is not None:
            subjects.append(subject_of_name(common_name))
        if token is not None:
            subjects.append(token)
        rules = [rule for subject in subjects for rule in self._rules.get(subject, ())]
        return Rights(rules, not rules and self.allows)

    def _subjects_at(self, host: str) -> List[str]:
        address = address_of(host)
        if address is None:
            return [UNIX]
        return [subject for network, subject in self._networks if address in network]

    def find_token(self, token: bytes) -> Optional[str]:
        """The subject of a token that a peer presents. It takes as long whether there is one or not."""
        presented = _digest(token)
        found = None
        for subject in self._digests:
            if hmac.compare_digest(subject, presented):
                found = subject
        return found

    def table(self) -> List[Tuple[str, Dict[str, str]]]:
        """By subject, sorted: by what it may, the patterns as they stand in a rule."""
        rows: List[Tuple[str, Dict[str, str]]] = []
        for subject, rules in sorted(self._rules.items()):
            patterns: Dict[str, List[str]] = {}
            for rule in rules:
                patterns.setdefault(rule.what, []).extend(rule.patterns)
            rows.append((subject, {what: ",".join(found) for what, found in patterns.items()}))
        return rows

    def granted(self, subject: str, what: str, patterns: str) -> "AccessList":
        """With this instead of what the subject may of that kind, after its other rules. ValueError: it cannot be said so."""
        rule = Rule(subject_of(subject, True), what, patterns_of(what, patterns))
        line = Line(" ".join([rule.subject, what, *([patterns] if patterns else [])]), rule)
        lines: List[Line] = []
        at = None
        for old in self.lines:
            same = old.rule is not None and old.rule.subject == rule.subject
            if not same or old.rule.what not in (what, NONE):  # type: ignore[union-attr]
                lines.append(old)
            at = len(lines) if same else at
        lines.insert(len(lines) if at is None else at, line)
        return AccessList(lines, self.allows)

    def revoked(self, subjects: Sequence[str], what: Optional[str]) -> "AccessList":
        """Without what they may of that kind; `None`: of any. ValueError: one is no subject.

        Where the default is to allow everything, one that is left without a
        rule gets `none`: to lose a right may not give it all of them.
        """
        less = {subject_of(subject, True) for subject in subjects}
        kept = [line for line in self.lines if line.rule is None or line.rule.subject not in less or what not in (None, line.rule.what)]
        if self.allows:
            less -= {line.rule.subject for line in kept if line.rule is not None}
            kept += [Line("%s %s" % (subject, NONE), Rule(subject, NONE, ())) for subject in sorted(less & set(self._rules))]
        return AccessList(kept, self.allows)


def parse(text: str, name: str) -> AccessList:
    """The list in the text of the file `name`. ConfigError: which line, and what is wrong with it."""
    lines: List[Line] = []
    default: Optional[str] = None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()
            if words[:1] == ["default"]:
                if words not in (["default", "deny"], ["default", "allow"]) or default is not None:
                    raise ValueError("expected `default deny` or `default allow`, once")
                default = words[1]
                words = []
            lines.append(Line(line, _rule(words) if words else None))
        except ValueError as error:
            raise ConfigError("--acl: %s:%d: %s" % (name, number, error)) from None
    if default is None:
        raise ConfigError("--acl: %s:%d: expected a line `default deny` or `default allow`" % (name, len(lines) + 1))
    return AccessList(lines, default == "allow")


def _rule(words: List[str]) -> Rule:
    if len(words) < 2 or len(words) > 3 or words[1] not in WHATS:
        got = " ".join(map(mask, words))
        raise ValueError("expected SUBJECT submit|work|admin PATTERN,... or SUBJECT grant|none, got %s" % got)
    return Rule(subject_of(words[0]), words[1], patterns_of(words[1], "".join(words[2:])))


# -- words -----------------------------------------------------------------------------


def subject_of(word: str, bare: bool = False) -> str:
    """The one form that stands for a subject. `bare`: a word without a colon is a common name. ValueError: it is no subject."""
    if word.startswith(_TOKEN) and word != _TOKEN:
        return _digest(word[len(_TOKEN) :].encode("utf-8", "surrogateescape"))
    if word.startswith(_DIGEST):
        if not re.fullmatch("[0-9a-fA-F]{64}", word[len(_DIGEST) :]):
            raise ValueError("expected 64 hexadecimal digits after token-sha256:")
        return word.lower()
    if word.startswith(_ADDRESS):
        return word if word == UNIX else _ADDRESS + str(_network(word[len(_ADDRESS) :]))
    if word.startswith(_NAME) and word != _NAME:
        raw = word[len(_NAME) :].encode("utf-8", "surrogateescape")
        raw = re.sub(rb"%([0-9a-fA-F]{2})", lambda found: bytes.fromhex(found.group(1).decode()), raw)
        return subject_of_name(raw.decode("utf-8", "surrogateescape"))
    if bare and word and ":" not in word:
        return subject_of(_NAME + word)
    raise ValueError("expected cn:NAME, token-sha256:HEX, token:TOKEN, address:NETWORK or address:unix, got %s" % mask(word))


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError("expected a network such as 10.0.0.0/8 or ::1 after address: %s" % error) from None


def address_of(host: str) -> Optional[Address]:
    """`None`: it is no address, so a Unix socket's."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def patterns_of(what: str, word: str) -> Tuple[str, ...]:
    """The patterns in a word. ValueError: they are none."""
    if what in (GRANT, NONE):
        if word:
            raise ValueError("expected nothing after %s" % what)
        return ("*",) if what == GRANT else ()
    patterns = tuple(word.split(","))
    if not all(patterns):
        raise ValueError("expected patterns separated by commas after %s, got %r" % (what, word))
    for pattern in patterns:
        # What gear's users may write; it would match nothing, silently.
        if re.search(r"\.[*+]|^\^|\$$|\\", pattern):
            raise ValueError("expected a pattern such as `name` or `name*`, got the regular expression %s" % pattern)
        test_of(pattern)
    return patterns


def test_of(pattern: str) -> Test:
    """Whether a whole text matches a shell's pattern, in time that does not explode with the number of its stars.

    Not `fnmatch`: before Python 3.9 it backtracks over every star.
    """
    parts = [""]
    for token in re.findall(r"\*+|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL):
        if token[0] == "*":
            parts.append("")
        elif token == "?":
            parts[-1] += "."
        elif token[0] == "[" and len(token) > 1:
            negated = token[1] == "!"
            inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", token[1 + negated : -1])
            parts[-1] += "[%s%s]" % ("^" if negated else "", inside)
        else:
            parts[-1] += re.escape(token)
    # Each star takes as little as it can, and what it has taken is final.
    middle = "".join("(?=(?P<s%d>.*?%s))(?P=s%d)" % (at, part, at) for at, part in enumerate(parts[1:-1]))
    last = ".*" + parts[-1] if len(parts) > 1 else ""
    try:
        return re.compile(parts[0] + middle + last, re.DOTALL).fullmatch
    except re.error as error:
        raise ValueError("%s is no pattern: %s" % (pattern, error)) from None


def mask(word: str) -> str:
    """A word as it may be logged: of a digest its beginning, and nothing of what might be a token."""
    if word.startswith(_DIGEST):
        return word[: len(_DIGEST) + _SHOWN_DIGITS] + "..."
    kind, colon, _ = word.partition(":")
    return kind + ":***" if colon and kind + colon not in (_NAME, _ADDRESS) else word


def _digest(token: bytes) -> str:
    return _DIGEST + hashlib.sha256(token).hexdigest()


def subject_of_name(name: str) -> str:
    """The subject of a common name: what is no printable ASCII, blanks and percent signs stand as %20 and the like."""
    raw = name.encode("utf-8", "surrogateescape")
    return _NAME + re.sub(rb"[^!-$&-~]", lambda found: b"%%%02X" % found.group()[0], raw).decode()
