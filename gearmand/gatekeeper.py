"""Who may come in, and with which gate; and the access list, with its file. Decides nothing: see `access`, `limits`, `gate`.

The file is read at the start and by `reread`, and written by `change`: whole,
beside the old one, which it then replaces; so its directory has to be
writable. Comments stay, but for one at the end of a rule that changes.

Whoever is connected lives by the new list at once: a worker loses what it may
do no longer. What it may do only now, it has to ask for again.

Threads: any. Its lock, `_changing`, is held from reading the list to having
replaced it, so that of two changes none is lost; the accounts and `policy` are
read with the broker's lock.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from typing import Callable, List, Optional, Sequence

from gearmand.access import WORK, AccessList, parse
from gearmand.broker import Broker
from gearmand.errors import ConfigError, permission_denied
from gearmand.gate import Gate, Policy
from gearmand.limits import Accounts, Bounds
from gearmand.peer import Peer
from gearmand.protocol import PacketType
from gearmand.registry import Registry

_PEERS_A_TURN = 100


class Gatekeeper:
    """`path`: the access list's file; `None`: everybody may do everything. `log`: what has changed. ConfigError: it cannot be used."""

    def __init__(
        self, broker: Broker, path: Optional[str], bounds: Bounds, changes_are_local: bool, log: Callable[[str], None]
    ) -> None:
        self._broker = broker
        self._log = log
        # The process may move to another directory. And a link stays one.
        self._path = None if path is None else os.path.realpath(path)
        self._changing = threading.Lock()
        self._accounts = Accounts(bounds)
        self.policy = Policy(None if self._path is None else _read(self._path), bounds, changes_are_local)

    # -- connections ---------------------------------------------------------------

    def admit(self, host: str) -> Optional[str]:
        """A connection from there counts from now on; why not, where it may not be. `dismiss` for each that was admitted."""
        return self._broker.turn(lambda registry: self._accounts.enter(host, registry.now))

    def dismiss(self, host: str) -> None:
        self._broker.turn(lambda registry: self._accounts.leave(host))

    def give_gate(self, peer: Peer) -> None:
        """A gate for a peer that has entered, where it needs one."""
        if self.policy.asks:
            self._broker.turn(self._give_gate, peer)

    def _give_gate(self, registry: Registry, peer: Peer) -> None:
        # With the lock: a change of the list comes before this, or finds the gate.
        peer.gate = Gate(self.policy, peer.address, peer.host, peer.common_name, self._accounts.of(peer.host))

    # -- the list --------------------------------------------------------------------

    def reread(self) -> None:
        """Read the file again, where there is one. ConfigError: it cannot be used; the old list stays."""
        if self._path is None:
            return
        with self._changing:
            self._install(_read(self._path))
        self._log("the access list has been read again")

    def change(self, edit: Callable[[AccessList], AccessList], what: str) -> None:
        """Change the list and its file. ConfigError: that cannot be written, and nothing has changed; ValueError: what `edit` raises.

        `what`: who changes what, for the log.
        """
        assert self._path is not None and self.policy.access is not None
        with self._changing:
            access = edit(self.policy.access)
            _write(self._path, access.text)
            self._install(access)
        self._log(what)

    def _install(self, access: AccessList) -> None:
        peers: List[Peer] = self._broker.turn(self._replace, access)
        for at in range(0, len(peers), _PEERS_A_TURN):
            self._broker.turn(self._review, peers[at : at + _PEERS_A_TURN])

    def _replace(self, registry: Registry, access: AccessList) -> List[Peer]:
        self.policy.access = access
        return list(self._broker.peers)

    def _review(self, registry: Registry, peers: Sequence[Peer]) -> None:
        for peer in peers:
            gate = peer.gate
            if gate is None or peer not in self._broker.peers:
                continue
            gate.renew()
            rights = gate.rights
            for function in [function.name for function in peer.abilities]:
                if rights is not None and not rights.may(WORK, function):
                    if peer.lingering is not None:
                        registry.end_linger(peer)
                    registry.cant_do(peer, function)
                    peer.post(PacketType.ERROR, b"\0".join(permission_denied(b"work for", function)))


def _read(path: str) -> AccessList:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return parse(file.read(), path)
    except OSError as error:
        raise ConfigError("--acl: cannot read %s: %s" % (path, error.strerror)) from None


def _write(path: str, text: str) -> None:
    """Replace the file's contents, all or nothing; its mode stays."""
    beside: Optional[str] = None
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        descriptor, beside = tempfile.mkstemp(prefix=".%s-" % os.path.basename(path), dir=os.path.dirname(path))
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except OSError as error:
        if beside is not None and os.path.exists(beside):
            os.unlink(beside)
        raise ConfigError("cannot write %s: %s" % (path, error.strerror)) from None
