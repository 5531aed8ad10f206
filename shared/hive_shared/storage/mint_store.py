"""Sole writer of the mints that are trusted and of their keysets (docs/protocol/03 §8): of the node's
(comms_cashu_*) and of the advisor kit's (adv_cashu_*), each in a database of its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from ..cashu.keysets import Keyset, keyset
from ..cashu.mint_caps import Caps
from ..cashu.mints import MintRole, MintRow, MintStatus
from ..store import Tx

MAX_UNLISTED: Final = 512
"""Keysets of one mint that are kept after it stopped listing them: more than any mint makes while a lock
lasts."""


class _Probed(msgspec.Struct, frozen=True):
    caps: Caps = Caps()
    version: str = ""


class MintStore:
    """The operator's mints and their keysets. `family` is what the names of its tables begin with:
    "comms_cashu" or "adv_cashu"."""

    def __init__(self, family: str) -> None:
        self._mints, self._keysets = f"{family}_mints", f"{family}_keysets"

    def mints(self, tx: Tx) -> dict[str, MintRow]:
        """All that were ever named, by address."""
        rows = tx.execute(f"SELECT * FROM {self._mints} ORDER BY added_at, mint_url")
        return {row["mint_url"]: _mint(row) for row in rows}

    def mint(self, tx: Tx, url: str) -> MintRow | None:
        """One of them."""
        row = tx.execute(f"SELECT * FROM {self._mints} WHERE mint_url = ?", (url,)).fetchone()
        return None if row is None else _mint(row)

    def put_mint(self, tx: Tx, row: MintRow) -> None:
        """Store what is known of it now."""
        tx.execute(
            f"INSERT INTO {self._mints} (mint_url, role, status, version, info_json, caps_json, probe_at,"
            " skew_s, failures, checked_at, last_ok_at, last_error, added_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (mint_url) DO UPDATE SET"
            " role = excluded.role, status = excluded.status, version = excluded.version,"
            " info_json = excluded.info_json, caps_json = excluded.caps_json, probe_at = excluded.probe_at,"
            " skew_s = excluded.skew_s, failures = excluded.failures, checked_at = excluded.checked_at,"
            " last_ok_at = excluded.last_ok_at, last_error = excluded.last_error",
            (
                *(row.url, row.role.value, row.status.value, row.version, row.info_json),
                msgspec.json.encode(_Probed(row.caps, row.probed_version)).decode(),
                *(row.probe_at, row.skew_s, row.failures, row.checked_at, row.last_ok_at),
                *(row.last_error, row.added_at),
            ),
        )

    def keysets(self, tx: Tx, url: str) -> dict[str, Keyset]:
        """The keysets of a mint by id, each id checked against its keys again; also those that it does not
        list any more."""
        rows = tx.execute(f"SELECT * FROM {self._keysets} WHERE mint_url = ? ORDER BY keyset_id", (url,))
        return {row["keyset_id"]: _keyset(row) for row in rows}

    def put_keyset(self, tx: Tx, url: str, known: Keyset, now: int) -> None:
        """Store a keyset, or what changed of it; its keys stay."""
        tx.execute(
            f"INSERT INTO {self._keysets} (mint_url, keyset_id, unit, active, input_fee_ppk, final_expiry,"
            " keys_json, first_seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (mint_url, keyset_id) DO UPDATE SET active = excluded.active,"
            " input_fee_ppk = excluded.input_fee_ppk, final_expiry = excluded.final_expiry,"
            " unlisted_at = NULL",
            (
                *(url, known.id, known.unit, int(known.active), known.input_fee_ppk, known.final_expiry),
                *(_keys_json(known.keys), now),
            ),
        )

    def unlist_keysets(self, tx: Tx, url: str, listed: Collection[str], now: int) -> None:
        """Mark the keysets that a mint does not list any more; of those the 512 marked last are kept."""
        marks = ", ".join("?" * len(listed))
        tx.execute(
            f"UPDATE {self._keysets} SET unlisted_at = ?, active = 0 WHERE mint_url = ?"
            f" AND unlisted_at IS NULL AND keyset_id NOT IN ({marks})",
            (now, url, *listed),
        )
        tx.execute(
            f"DELETE FROM {self._keysets} WHERE mint_url = ? AND keyset_id IN (SELECT keyset_id FROM"
            f" {self._keysets} WHERE mint_url = ? AND unlisted_at IS NOT NULL"
            " ORDER BY unlisted_at DESC, keyset_id LIMIT -1 OFFSET ?)",
            (url, url, MAX_UNLISTED),
        )

    def other_keys(self, tx: Tx, url: str, known: Keyset) -> list[str]:
        """The mints at which the same id stands for other keys."""
        rows = tx.execute(
            f"SELECT mint_url FROM {self._keysets}"
            " WHERE keyset_id = ? AND mint_url <> ? AND keys_json <> ? ORDER BY mint_url",
            (known.id, url, _keys_json(known.keys)),
        )
        return [row["mint_url"] for row in rows]


def _mint(row: sqlite3.Row) -> MintRow:
    probed = msgspec.json.decode(row["caps_json"], type=_Probed)
    return MintRow(
        url=row["mint_url"],
        role=MintRole(row["role"]),
        status=MintStatus(row["status"]),
        added_at=row["added_at"],
        version=row["version"],
        info_json=row["info_json"],
        caps=probed.caps,
        probed_version=probed.version,
        probe_at=row["probe_at"],
        skew_s=row["skew_s"],
        failures=row["failures"],
        checked_at=row["checked_at"],
        last_ok_at=row["last_ok_at"],
        last_error=row["last_error"],
    )


def _keys_json(keys: Mapping[int, str]) -> str:
    return json.dumps({str(amount): keys[amount] for amount in sorted(keys)}, separators=(",", ":"))


def _keyset(row: sqlite3.Row) -> Keyset:
    keys = {int(amount): key for amount, key in json.loads(row["keys_json"]).items()}
    known = keyset(
        row["keyset_id"],
        row["unit"],
        keys,
        active=bool(row["active"]),
        input_fee_ppk=row["input_fee_ppk"],
        final_expiry=row["final_expiry"],
    )
    return replace(known, listed=row["unlisted_at"] is None)
