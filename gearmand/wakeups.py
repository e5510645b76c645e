"""Who is awake for what: wakes sleepers, and sees that each wake-up is used. Knows no clock and no lock.

A woken party holds a claim: it is about to grab a job of the function that it
was woken for. The claim ends when it grabs, leaves or can no longer do the
function, or after the grace time; wherever it did not take such a job, the
claim passes on to the next sleeper. So one job wakes one party, not all of
them, and yet no job waits for a party that does not come.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Optional, Tuple

from gearmand.functions import Function
from gearmand.parties import Party
from gearmand.protocol import PacketType

NOOP = int(PacketType.NOOP)


class Wakeups:
    """`a_job`: how many sleepers one job wakes, 0: all. `grace_s`: how long a claim holds."""

    def __init__(self, a_job: int, grace_s: float) -> None:
        self._a_job = a_job
        self._grace_s = grace_s
        # When it ends, whose it is, and the number of it: a party's claim
        # with another number is a later one.
        self._claims: Deque[Tuple[float, Party, int]] = deque()
        # Set when there is something to wait for again.
        self.sooner = False

    def wake(self, function: Function, now: float) -> None:
        """Wake as many of the function's sleepers as one job wakes."""
        sleepers = function.sleepers
        wanted = self._a_job or len(sleepers)
        while sleepers and wanted:
            party, _ = sleepers.popitem()
            party.unslept[function] = None
            if party.asleep:
                self.rouse(party, function, now)
                wanted -= 1

    def rouse(self, party: Party, function: Function, now: float) -> None:
        """Wake one party, which is asleep, for the function."""
        party.asleep = False
        party.claim = function
        party.claim_number += 1
        function.claims += 1
        if not self._claims:
            self.sooner = True
        self._claims.append((now + self._grace_s, party, party.claim_number))
        party.post(NOOP, b"")

    def end_claim(self, party: Party) -> None:
        """The party, which has a claim, has it no longer."""
        assert party.claim is not None
        party.claim.claims -= 1
        party.claim = None

    def pass_on(self, function: Function, now: float) -> None:
        """After a claim's end: wake another sleeper where more jobs are queued than parties awake for them."""
        if function.sleepers and function.queued > function.claims:
            self.wake(function, now)

    def expire(self, now: float) -> None:
        """Pass on the claims whose grace time is over."""
        claims = self._claims
        while claims and claims[0][0] <= now:
            _, party, number = claims.popleft()
            function = party.claim
            if function is not None and party.claim_number == number:
                self.end_claim(party)
                self.pass_on(function, now)

    def next_due(self) -> Optional[float]:
        """When `expire` should be called; `None`: nobody is awake."""
        return self._claims[0][0] if self._claims else None
