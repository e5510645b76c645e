"""What a server has to do before it serves: the jobs of its store, and of a server before it."""

from __future__ import annotations

import logging
from typing import Callable, Optional

from gearmand import recurring
from gearmand.broker import Broker
from gearmand.config import NOTICE, Config
from gearmand.errors import ConfigError, StoreError
from gearmand.handover import Estate, take_in, take_stored
from gearmand.keeper import Keeper
from gearmand.registry import Registry
from gearmand.revival import awake, restore
from gearmand.steering import restore_functions, restored
from gearmand.store import Store, Work
from gearmand.stores import open_store


def load(
    broker: Broker,
    config: Config,
    log: logging.Logger,
    complain: Callable[[StoreError], None],
    estate: Optional[Estate],
    still_ours: bool,
) -> Optional[str]:
    """Open the store and take back what it has, or what the estate has. Returns what the store is called; `None`: there is none.

    `estate`: of an earlier server; or of this one, which it was `still_ours`.
    `complain`: told what cannot be stored later. ConfigError, StoreError.
    """
    store = open_store(config)
    where = None if store is None else store.where
    try:
        if estate is not None and estate.where not in (None, where):
            raise ConfigError("the server that runs keeps its queue in %s: keep it there" % estate.where)
        if store is None:
            if estate is not None:
                broker.turn(take_in, estate, still_ours)
            return None
        if estate is not None and estate.where is None:
            _store_estate(store, estate)
        broker.turn(_restore, store, log, estate, still_ours)
    except BaseException:
        if store is not None:
            store.close()
        raise
    keeper = Keeper(store, complain, lambda wanted, rows: broker.turn(awake, wanted, rows))
    keeper.start()
    broker.keeper = keeper
    # Those that lie in the store and should not.
    broker.turn(lambda registry: None)
    return where


def _restore(registry: Registry, store: Store, log: logging.Logger, estate: Optional[Estate], still_ours: bool) -> None:
    try:
        found = restored(store.load_settings())
    except ValueError as error:
        raise StoreError("%s: %s" % (store.where, error)) from None
    count = take_stored(registry, store.load(), found.burials, estate, still_ours)
    # Its rows get numbers after all those that there are.
    taken_over = store.take_over(lambda: registry.handles.reserve(1)[0])
    for row in taken_over:
        restore(registry, row)
    restore_functions(registry, found.functions)
    recurring.restore(registry, found.recurring, {} if estate is None else estate.recurring)
    registry.stored = True
    log.log(NOTICE, "%s: %d jobs have been kept", store.where, count)
    if taken_over:
        log.log(NOTICE, "%s: %d jobs of a C server were taken over", store.where, len(taken_over))


def _store_estate(store: Store, estate: Estate) -> None:
    """Store what another server's memory had. ConfigError: it would replace what is stored already."""
    rows = [*estate.moved, *(row for row in estate.held.values() if row is not None)]
    taken = {row.number for row in store.load()} if rows else set()
    if any(row.number in taken for row in rows):
        raise ConfigError("%s has jobs already, of the same numbers as those of the server that runs" % store.where)
    store.commit(Work(rows, (), (), estate.settings))
