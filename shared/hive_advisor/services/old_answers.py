"""Preimages of answers that an earlier version kept in clear (docs/protocol/11-advisor-kit.md §12)."""

from __future__ import annotations

from typing import Final, Protocol

from hive_shared.store import Db, Tx

from hive_advisor.services.ports import ClientRows

_SEALED: Final = "preimages_sealed"
_AT_ONCE: Final = 200


class ClearAnswers(Protocol):
    """storage.command_store.CommandStore, where the methods are described."""

    def seal_old(self, tx: Tx, limit: int) -> int: ...
    def has_sealed(self, tx: Tx) -> bool: ...


async def seal_old_answers(db: Db, rows: ClearAnswers, meta: ClientRows) -> None:
    """Seal them, once in the life of a profile, and write the file anew without what stood there. Begins
    again where it was interrupted."""
    if await db.read(lambda tx: meta.meta(tx, _SEALED)) is not None:
        return
    while await db.write(lambda tx: rows.seal_old(tx, _AT_ONCE)):
        pass
    if await db.read(rows.has_sealed):
        await db.compact()
    await db.write(lambda tx: meta.set_meta(tx, _SEALED, "1"))
