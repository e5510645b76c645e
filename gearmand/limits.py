"""What one address may take, and what all peers together: connections, jobs, abilities, and how fast. Decides; the time is given to it.

An IPv6 address counts as its network of 64 bits, which is what one customer
has; all peers of Unix sockets count as one address.

What is known of an address is forgotten once it has neither connections nor
jobs and `IDLE_ACCOUNTS` others have been idle for less long.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Dict, NamedTuple, Optional

BURST_S = 10.0
"""How many seconds' worth may come at once, where a number a second is the limit."""
IDLE_ACCOUNTS = 10_000


class Bounds(NamedTuple):
    """Of one address; 0: no bound."""

    connections: int = 0
    connection_rate: int = 0
    """New connections a second."""
    submission_rate: int = 0
    """Submissions a second."""
    jobs: int = 0
    """Unfinished jobs."""


class Bucket:
    """Holds what has come of late, and leaks `rate` a second."""

    __slots__ = ("_level", "_at")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def take(self, now: float, rate: float) -> bool:
        """Whether one more may come, which then has."""
        level = max(0.0, self._level - (now - self._at) * rate)
        self._at = now
        fits = level + 1 <= rate * BURST_S
        self._level = level + 1 if fits else level
        return fits


class Account:
    """What is known of one address."""

    __slots__ = ("connections", "jobs", "connecting", "submitting")

    def __init__(self) -> None:
        self.connections = 0
        self.jobs = 0
        self.connecting = Bucket()
        self.submitting = Bucket()


class Accounts:
    """By address. Threads: with the broker's lock."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._accounts: Dict[str, Account] = {}
        # Oldest first. One may have become busy since; whoever takes it out looks.
        self._idle: "OrderedDict[str, None]" = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, host: str, now: float) -> Optional[str]:
        """One more connection from there; why not, where that is over a bound."""
        name = account_name(host)
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account()
        bounds = self.bounds
        refusal = None
        if bounds.connections and account.connections >= bounds.connections:
            refusal = "it has %d connections already (--max-connections-per-address)" % account.connections
        elif bounds.connection_rate and not account.connecting.take(now, bounds.connection_rate):
            refusal = "it connects more than %d times a second (--max-connection-rate)" % bounds.connection_rate
        else:
            account.connections += 1
        self._note_if_idle(name, account)
        return refusal

    def leave(self, host: str) -> None:
        """One connection less."""
        name = account_name(host)
        account = self._accounts[name]
        account.connections -= 1
        self._note_if_idle(name, account)

    def of(self, host: str) -> Account:
        """Of a host that is connected."""
        return self._accounts[account_name(host)]

    def _note_if_idle(self, name: str, account: Account) -> None:
        if account.connections:
            return
        self._idle[name] = None
        self._idle.move_to_end(name)
        if len(self._idle) > IDLE_ACCOUNTS:
            oldest, _ = self._idle.popitem(last=False)
            account = self._accounts[oldest]
            if not account.connections and not account.jobs:
                del self._accounts[oldest]
            elif account.jobs:
                self._idle[oldest] = None


class Load:
    """What all abilities together take, and on whose account jobs are. Threads: with the broker's lock."""

    __slots__ = ("abilities", "owners", "_most_abilities", "_most_in_all")

    def __init__(self, most_abilities: int, most_abilities_in_all: int) -> None:
        self.abilities = 0
        self.owners: Dict[bytes, Account] = {}
        """Of jobs that count for an address, by their handles."""
        self._most_abilities = most_abilities
        self._most_in_all = most_abilities_in_all

    def takes_ability(self, count: int) -> bool:
        """Whether a party that has so many may have one more."""
        return count < self._most_abilities and self.abilities < self._most_in_all

    def own(self, account: Account, handle: bytes) -> None:
        """The job counts for the account until it ends, unless it is somebody's already."""
        if handle not in self.owners:
            self.owners[handle] = account
            account.jobs += 1

    def disown(self, handle: bytes) -> None:
        """The job has ended."""
        account = self.owners.pop(handle, None)
        if account is not None:
            account.jobs -= 1


def account_name(host: str) -> str:
    """What an address is known by; "" for all that is no address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if address.version == 4:
        return host
    mapped = address.ipv4_mapped  # type: ignore[union-attr]
    return str(mapped) if mapped is not None else str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
