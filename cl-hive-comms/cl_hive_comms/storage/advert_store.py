"""Sole writer of marketplace_profiles, _capabilities, _offers, _tombstones and _blocklist
(docs/protocol/04-marketplace-and-nostr.md §11)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec
from hive_shared.canonical import encode
from hive_shared.market.offer import Offer
from hive_shared.market.profile import kept
from hive_shared.store import Tx

from cl_hive_comms.domain.advert import CachedOffer, CachedProfile, subject_hash

_LEVELS: Final = ("primary", "secondary", "experimental")


class AdvertStore:
    """Adverts of others, what was withdrawn, and whom the operator blocked."""

    # -- profiles ------------------------------------------------------------------------------------

    def put_profile(self, tx: Tx, row: CachedProfile, text: str) -> None:
        """Keep a profile in the place of its id's earlier one; `text` is its document."""
        profile = row.profile
        tx.execute(
            "INSERT OR REPLACE INTO marketplace_profiles (advisor_did, profile_json, nostr_pubkey, version,"
            " capabilities_json, pricing_json, last_seen, source, claimed_did, did_state, event_id,"
            " created_at, valid_until, name, trust_score, pow_bits, first_seen, relays_json, flags, status)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.advisor_id,
                text,
                row.pubkey,
                profile.version,
                encode(list(profile.capabilities)).decode(),
                encode(msgspec.to_builtins(profile.prices)).decode(),
                row.last_seen,
                row.source,
                row.claimed_did,
                row.did_state,
                row.event_id,
                row.created_at,
                profile.valid_until,
                profile.name,
                row.trust(row.last_seen),
                row.pow_bits,
                row.first_seen,
                encode(list(row.relays)).decode(),
                ",".join(row.flags),
                row.status,
            ),
        )
        tx.execute("DELETE FROM marketplace_capabilities WHERE advisor_did = ?", (row.advisor_id,))
        tx.executemany(
            "INSERT OR IGNORE INTO marketplace_capabilities (advisor_did, capability, level)"
            " VALUES (?, ?, ?)",
            [(row.advisor_id, one, level) for level in _LEVELS for one in getattr(profile, level)],
        )

    def drop_profile(self, tx: Tx, advisor_id: str) -> None:
        """Forget a profile."""
        tx.execute("DELETE FROM marketplace_capabilities WHERE advisor_did = ?", (advisor_id,))
        tx.execute("DELETE FROM marketplace_profiles WHERE advisor_did = ?", (advisor_id,))

    def profiles(self, tx: Tx) -> list[CachedProfile]:
        """All of them, without their documents."""
        return [_profile(row) for row in tx.execute("SELECT * FROM marketplace_profiles")]

    def document(self, tx: Tx, advisor_id: str) -> str | None:
        """The document of a profile."""
        row = tx.execute(
            "SELECT profile_json FROM marketplace_profiles WHERE advisor_did = ?", (advisor_id,)
        ).fetchone()
        return None if row is None else str(row["profile_json"])

    # -- offers --------------------------------------------------------------------------------------

    def put_offer(self, tx: Tx, row: CachedOffer) -> None:
        """Keep an offer in the place of its earlier version."""
        offer = row.offer
        tx.execute(
            "INSERT OR REPLACE INTO marketplace_offers (pubkey, offer_id, advisor_did, event_id, created_at,"
            " expires_at, capabilities_json, pricing_model, price_sats, price_period, performance_pct,"
            " trial_days, max_channels, min_node_capacity, sla_response_s, sla_uptime, methods_json, content,"
            " origin, status, trust_score, pow_bits, first_seen, last_seen)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'remote', ?, ?, ?, ?, ?)",
            (
                row.pubkey,
                offer.offer_id,
                row.advisor_id,
                row.event_id,
                row.created_at,
                offer.expires_at,
                encode(list(offer.capabilities)).decode(),
                offer.pricing_model,
                offer.price_sats,
                offer.period,
                offer.performance_pct,
                offer.trial_days,
                offer.max_channels,
                offer.min_node_capacity,
                offer.sla_response_s,
                offer.sla_uptime,
                encode(list(offer.methods)).decode(),
                offer.description,
                offer.status,
                row.pow_bits,
                row.pow_bits,
                row.first_seen,
                row.last_seen,
            ),
        )

    def drop_offer(self, tx: Tx, pubkey: str, offer_id: str) -> None:
        """Forget an offer."""
        tx.execute("DELETE FROM marketplace_offers WHERE pubkey = ? AND offer_id = ?", (pubkey, offer_id))

    def offers(self, tx: Tx) -> list[CachedOffer]:
        """All of them."""
        return [_offer(row) for row in tx.execute("SELECT * FROM marketplace_offers")]

    # -- what ended ----------------------------------------------------------------------------------

    def put_grave(self, tx: Tx, ref: str, pubkey: str, deleted_at: int) -> None:
        """Remember that an event (its id) or an address up to a time was withdrawn."""
        tx.execute(
            "INSERT OR REPLACE INTO marketplace_tombstones (ref, pubkey, deleted_at) VALUES (?, ?, ?)",
            (ref, pubkey, deleted_at),
        )

    def drop_grave(self, tx: Tx, ref: str) -> None:
        """Forget it."""
        tx.execute("DELETE FROM marketplace_tombstones WHERE ref = ?", (ref,))

    def graves(self, tx: Tx) -> Iterator[tuple[str, str, int]]:
        """All of them, oldest first: ref, pubkey, time."""
        for row in tx.execute("SELECT * FROM marketplace_tombstones ORDER BY deleted_at"):
            yield row["ref"], row["pubkey"], row["deleted_at"]

    # -- blocked -------------------------------------------------------------------------------------

    def block(self, tx: Tx, ref: str, reason: str, until: int | None) -> None:
        """Block a key; `until` None is for good."""
        tx.execute(
            "INSERT OR REPLACE INTO marketplace_blocklist (ref, reason, until) VALUES (?, ?, ?)",
            (ref, reason, until),
        )

    def unblock(self, tx: Tx, ref: str) -> None:
        """Lift it."""
        tx.execute("DELETE FROM marketplace_blocklist WHERE ref = ?", (ref,))

    def blocked(self, tx: Tx) -> Iterator[tuple[str, str, int | None]]:
        """All of them: ref, reason, until."""
        for row in tx.execute("SELECT * FROM marketplace_blocklist ORDER BY ref"):
            yield row["ref"], row["reason"], row["until"]


def _profile(row: sqlite3.Row) -> CachedProfile:
    profile = kept(row["profile_json"])
    return CachedProfile(
        advisor_id=row["advisor_did"],
        pubkey=row["nostr_pubkey"],
        profile=msgspec.structs.replace(profile, document={}),
        subject_hash=subject_hash(row["profile_json"]),
        event_id=row["event_id"],
        created_at=row["created_at"],
        claimed_did=row["claimed_did"],
        did_state=row["did_state"],
        status=row["status"],
        flags=tuple(flag for flag in row["flags"].split(",") if flag),
        pow_bits=row["pow_bits"],
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
        relays=tuple(json.loads(row["relays_json"])),
        source=row["source"],
    )


def _offer(row: sqlite3.Row) -> CachedOffer:
    offer = Offer(
        offer_id=row["offer_id"],
        capabilities=tuple(json.loads(row["capabilities_json"])),
        pricing_model=row["pricing_model"],
        price_sats=row["price_sats"],
        period=row["price_period"],
        performance_pct=row["performance_pct"],
        trial_days=row["trial_days"],
        max_channels=row["max_channels"],
        min_node_capacity=row["min_node_capacity"],
        sla_response_s=row["sla_response_s"],
        sla_uptime=row["sla_uptime"],
        methods=tuple(json.loads(row["methods_json"])),
        description=row["content"],
        status=row["status"],
        expires_at=row["expires_at"],
    )
    return CachedOffer(
        pubkey=row["pubkey"],
        offer=offer,
        event_id=row["event_id"],
        created_at=row["created_at"],
        pow_bits=row["pow_bits"],
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
    )
