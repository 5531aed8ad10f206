"""The mints on this node's adapters; part of the composition root."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.mint_ports import MintSettings
from hive_shared.mint_http import Mints
from hive_shared.runtime_spec import InitInfo
from hive_shared.storage.families import NODE_ECASH
from hive_shared.storage.mint_store import MintStore
from hive_shared.store import Db

from cl_hive_comms.options import PREFIX, Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.ports_identity import Log

MINT_OPTIONS = frozenset({f"{PREFIX}escrow-mint", f"{PREFIX}escrow-backup-mints"})
"""A change of one of them is followed at once."""


class MintParts(msgspec.Struct, frozen=True):
    """The ways to the mints, and what is known of them."""

    connections: Mints
    book: MintBookService


def mint_settings(config: Config) -> MintSettings:
    """The operator's options about mints."""
    return MintSettings(
        primary=config.get("escrow-mint"),
        backups=config.get("escrow-backup-mints"),
        health_interval_s=config.get("mint-health-interval"),
    )


def compose_mints(
    *, db: Db, info: InitInfo, config: Callable[[], Config], alerts: AlertService, log: Log
) -> MintParts:
    """Both; `config` is asked at every use, so that options apply at once."""
    connections = Mints(
        jitter=lambda: int.from_bytes(os.urandom(4)) / 2**32,
        proxy=info.proxy,
        only_onion=not info.always_use_proxy,
    )
    book = MintBookService(
        db,
        MintStore(NODE_ECASH),
        connections,
        settings=lambda: mint_settings(config()),
        alerts=alerts,
        now=unix_now,
        log=log,
    )
    return MintParts(connections, book)
