"""adv_profile, adv_offers, adv_market_events."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from hive_shared.store import Tx

from hive_advisor.domain.advert import OwnEvent, OwnOffer, OwnProfile

_AT_ONCE: Final = 100


class AdvertStore:
    """Our profile, offers and events. Methods join the caller's transaction."""

    def profile(self, tx: Tx) -> OwnProfile | None:
        """The profile, published or not."""
        row = tx.execute("SELECT * FROM adv_profile").fetchone()
        if row is None:
            return None
        return OwnProfile(
            draft=json.loads(row["draft_json"]),
            status=row["status"],
            updated=row["updated"],
            load=row["load"],
            version=row["version"],
            signed_at=row["signed_at"],
            valid_until=row["valid_until"],
        )

    def put_profile(self, tx: Tx, profile: OwnProfile) -> None:
        """Store the profile."""
        tx.execute(
            "INSERT INTO adv_profile (number, draft_json, status, load, version, signed_at, valid_until,"
            " updated) VALUES (1,?,?,?,?,?,?,?)"
            " ON CONFLICT (number) DO UPDATE SET draft_json = excluded.draft_json, status = excluded.status,"
            " load = excluded.load, version = excluded.version, signed_at = excluded.signed_at,"
            " valid_until = excluded.valid_until, updated = excluded.updated",
            (
                json.dumps(profile.draft),
                profile.status,
                profile.load,
                profile.version,
                profile.signed_at,
                profile.valid_until,
                profile.updated,
            ),
        )

    def offers(self, tx: Tx) -> list[OwnOffer]:
        """Offers, the newest first."""
        rows = tx.execute("SELECT * FROM adv_offers ORDER BY created DESC, offer_id LIMIT 500")
        return [_offer(row) for row in rows]

    def offer(self, tx: Tx, offer_id: str) -> OwnOffer | None:
        """One offer."""
        row = tx.execute("SELECT * FROM adv_offers WHERE offer_id = ?", (offer_id,)).fetchone()
        return None if row is None else _offer(row)

    def put_offer(self, tx: Tx, offer: OwnOffer) -> None:
        """Store an offer, new or changed."""
        tx.execute(
            "INSERT INTO adv_offers (offer_id, draft_json, status, expires_at, created, updated)"
            " VALUES (?,?,?,?,?,?) ON CONFLICT (offer_id) DO UPDATE SET draft_json = excluded.draft_json,"
            " status = excluded.status, expires_at = excluded.expires_at, updated = excluded.updated",
            (
                offer.offer_id,
                json.dumps(offer.draft),
                offer.status,
                offer.expires_at,
                offer.created,
                offer.updated,
            ),
        )

    # -- events ----------------------------------------------------------------------------------------

    def event(self, tx: Tx, event_id: str) -> OwnEvent | None:
        """One event."""
        row = tx.execute("SELECT * FROM adv_market_events WHERE event_id = ?", (event_id,)).fetchone()
        return None if row is None else _event(row)

    def newest(self, tx: Tx, address: str) -> OwnEvent | None:
        """The last event of an address."""
        row = tx.execute(
            "SELECT * FROM adv_market_events WHERE address = ? ORDER BY created_at DESC, rowid DESC LIMIT 1",
            (address,),
        ).fetchone()
        return None if row is None else _event(row)

    def versions(self, tx: Tx, address: str) -> list[str]:
        """The ids of all events of an address, the newest first, as many as a deletion can name."""
        rows = tx.execute(
            "SELECT event_id FROM adv_market_events WHERE address = ? ORDER BY created_at DESC LIMIT 90",
            (address,),
        )
        return [str(row["event_id"]) for row in rows]

    def published_since(self, tx: Tx, kind: int, since: int) -> list[int]:
        """When adverts of a kind were published after a time, the oldest first."""
        rows = tx.execute(
            "SELECT created FROM adv_market_events WHERE kind = ? AND purpose = 'publish' AND created > ?"
            " ORDER BY created",
            (kind, since),
        )
        return [int(row["created"]) for row in rows]

    def due(self, tx: Tx, now: int) -> list[OwnEvent]:
        """Events that go to relays now."""
        rows = tx.execute(
            "SELECT * FROM adv_market_events WHERE state IN ('sending', 'partial', 'sent') AND next_at <= ?"
            " ORDER BY created_at, rowid LIMIT ?",
            (now, _AT_ONCE),
        )
        return [_event(row) for row in rows]

    def add_event(self, tx: Tx, address: str, event: OwnEvent) -> None:
        """Keep an event; earlier ones of its address are sent no more."""
        tx.execute("UPDATE adv_market_events SET state = 'superseded' WHERE address = ?", (address,))
        tx.execute(
            "INSERT INTO adv_market_events (event_id, address, kind, d, created_at, json, purpose, state,"
            " relays_json, minimum, tries, next_at, until, created) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                event.event_id,
                address,
                event.kind,
                event.d,
                event.created_at,
                json.dumps(event.document),
                event.purpose,
                event.state,
                json.dumps(dict(event.relays)),
                event.minimum,
                event.tries,
                event.next_at,
                event.until,
                event.created,
            ),
        )

    def set_event(self, tx: Tx, event: OwnEvent) -> None:
        """What relays said to an event; nothing where a newer one took its place."""
        tx.execute(
            "UPDATE adv_market_events SET state = ?, relays_json = ?, tries = ?, next_at = ?"
            " WHERE event_id = ? AND state <> 'superseded'",
            (event.state, json.dumps(dict(event.relays)), event.tries, event.next_at, event.event_id),
        )


def _offer(row: sqlite3.Row) -> OwnOffer:
    return OwnOffer(
        offer_id=row["offer_id"],
        draft=json.loads(row["draft_json"]),
        status=row["status"],
        expires_at=row["expires_at"],
        created=row["created"],
        updated=row["updated"],
    )


def _event(row: sqlite3.Row) -> OwnEvent:
    return OwnEvent(
        event_id=row["event_id"],
        kind=row["kind"],
        d=row["d"],
        created_at=row["created_at"],
        document=json.loads(row["json"]),
        purpose=row["purpose"],
        state=row["state"],
        relays=json.loads(row["relays_json"]),
        minimum=row["minimum"],
        next_at=row["next_at"],
        until=row["until"],
        created=row["created"],
        tries=row["tries"],
    )
