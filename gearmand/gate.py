"""What stands between one peer and what it asks for: who it is, what it may, how much it may take. Decides.

A peer has a gate only where there is something to decide: an access list, a
bound on an address's jobs or submissions, or commands that are for this
machine alone. What is refused is noted in `refused`, for whoever may log.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from gearmand.access import ADMIN, SUBMIT, WORK, AccessList, Rights, address_of, mask, subject_of_name
from gearmand.errors import RATE_LIMITED, TOO_MANY_JOBS, WRONG_TOKEN, Refusal, permission_denied
from gearmand.limits import Account, Bounds, Load

MOST_WRONG_TOKENS = 3
_SHOWN_BYTES = 64


class Policy:
    """What all gates of a server go by. `access` is replaced as a whole, and `None` where there is no list."""

    __slots__ = ("access", "bounds", "changes_are_local")

    def __init__(self, access: Optional[AccessList], bounds: Bounds, changes_are_local: bool) -> None:
        self.access = access
        self.bounds = bounds
        self.changes_are_local = changes_are_local

    @property
    def asks(self) -> bool:
        """Whether peers need gates."""
        return self.access is not None or self.changes_are_local or bool(self.bounds.submission_rate or self.bounds.jobs)


class Gate:
    """Threads: that of the peer's handler, with the broker's lock or without; `renew` and `end` of jobs with the lock."""

    __slots__ = ("address", "common_name", "token", "rights", "refused", "given_up", "_policy", "_host", "_account", "_wrong_tokens")

    def __init__(self, policy: Policy, address: str, host: str, common_name: Optional[str], account: Account) -> None:
        self.address = address
        self.common_name = common_name
        self.token: Optional[str] = None
        """The subject of the token that it has presented."""
        self.rights: Optional[Rights] = None
        self.refused: List[Tuple[str, str]] = []
        """What has been refused and not logged yet: the kind of complaint, and its text."""
        self.given_up = False
        """Whether its connection is to end once it has been answered."""
        self._policy = policy
        self._host = host
        self._account = account
        self._wrong_tokens = 0
        self.renew()

    @property
    def subjects(self) -> List[str]:
        """Those that are its own: none that it shares with an address."""
        name = [] if self.common_name is None else [subject_of_name(self.common_name)]
        return name if self.token is None else [*name, self.token]

    @property
    def who(self) -> str:
        subjects = ", ".join(map(mask, self.subjects))
        return "%s (%s)" % (self.address, subjects) if subjects else self.address

    @property
    def is_far(self) -> bool:
        """Whether commands that change something are not taken from where it is."""
        address = address_of(self._host) if self._policy.changes_are_local else None
        return address is not None and not address.is_loopback

    def renew(self) -> None:
        """The access list, or what is known of the peer, has changed."""
        access = self._policy.access
        self.rights = None if access is None else access.rights(self.common_name, self.token, self._host)

    def present(self, token: bytes) -> Optional[Refusal]:
        """The peer presents a token: from now on it has its rights too."""
        access = self._policy.access
        found = None if self.given_up or access is None else access.find_token(token)
        if found is not None:
            self.token = found
            self.renew()
            return None
        self._wrong_tokens += 1
        self.given_up = self._wrong_tokens >= MOST_WRONG_TOKENS
        self._note("wrong tokens", "presented a token that is not in the access list")
        return WRONG_TOKEN

    # -- what it asks for --------------------------------------------------------

    def submit(self, now: float, function: bytes) -> Optional[Refusal]:
        """Why it may not submit a job of this function now."""
        rights = self.rights
        if rights is not None and not rights.may_submit(function):
            return self._deny(SUBMIT, function)
        bounds = self._policy.bounds
        account = self._account
        if bounds.jobs and account.jobs >= bounds.jobs:
            return self._stop(TOO_MANY_JOBS, "has %d unfinished jobs (--max-jobs-per-address)" % account.jobs)
        if bounds.submission_rate and not account.submitting.take(now, bounds.submission_rate):
            return self._stop(RATE_LIMITED, "submits more than %d jobs a second (--max-submission-rate)" % bounds.submission_rate)
        return None

    def own(self, load: Load, handle: bytes) -> None:
        """A job was made, or joined, on its behalf."""
        if self._policy.bounds.jobs:
            load.own(self._account, handle)

    def work(self, function: bytes) -> Optional[Refusal]:
        """Why it may not do jobs of this function."""
        rights = self.rights
        return self._deny(WORK, function) if rights is not None and not rights.may(WORK, function) else None

    def see(self, function: bytes) -> Optional[str]:
        """Why it may see nothing of this function's jobs: it may neither submit them nor see everybody's, by the command `jobs`."""
        rights = self.rights
        if rights is None or rights.may_submit(function) or rights.may(ADMIN, b"jobs"):
            return None
        self._note("access refused", "may not see jobs of %s" % _shown(function))
        return "The access list does not allow you to see jobs of this function"

    def command(self, name: bytes, changes: bool, what: str = ADMIN) -> Optional[str]:
        """Why it may not use an administrative command; `changes`: whether that changes something."""
        why = self.why_not(name, changes, what)
        if why is not None:
            self._note("access refused", "may not use the administrative command %s" % _shown(name))
        return why

    def why_not(self, name: bytes, changes: bool, what: str = ADMIN) -> Optional[str]:
        """The same, of a command that it has not tried."""
        if changes and self.is_far:
            return "This command is taken from this machine alone"
        if self.rights is not None and not self.rights.may(what, name):
            return "The access list does not allow you this command"
        return None

    # -- what was refused -----------------------------------------------------------

    def take(self) -> List[Tuple[str, str]]:
        """What has been refused since the last time."""
        refused, self.refused = self.refused, []
        return refused

    def _deny(self, what: str, function: bytes) -> Refusal:
        self._note("access refused", "may not %s %s" % (what, _shown(function)))
        return permission_denied(b"submit" if what == SUBMIT else b"work for", function[:_SHOWN_BYTES])

    def _stop(self, refusal: Refusal, what: str) -> Refusal:
        self._note("submissions over a limit", what)
        return refusal

    def _note(self, kind: str, what: str) -> None:
        self.refused.append((kind, "%s %s" % (self.who, what)))


def _shown(name: bytes) -> str:
    # Escaped: it is the peer's, and goes to the log.
    return repr(name[:_SHOWN_BYTES])[1:]
