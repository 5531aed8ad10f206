"""Profiles and offers for tests of the market."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.market import market_events, offer, profile
from hive_shared.market.profile import Profile
from hive_shared.nostr.event import Event, build

AT = 1_770_000_000


def key(number: int) -> Secret:
    """A private key of a small number."""
    return Secret(number.to_bytes(32, "big"))


def subject(**changes: Any) -> dict[str, Any]:
    """The fields of a profile's subject; fields given as None are left out."""
    fields: dict[str, Any] = {
        "displayName": "Hex Fleet Advisor",
        "version": "1.0.0",
        "capabilities": {"primary": ["fee-optimization"], "secondary": ["expansion-planning"]},
        "supportedSchemas": ["hive:fee-policy/v1", "hive:monitor/v1"],
        "pricing": {
            "models": [{"type": "subscription", "monthlyRate": 5000, "currency": "sats"}],
            "acceptedPayment": ["bolt11", "cashu"],
        },
        "availability": {
            "maxNodes": 50,
            "currentLoad": 10,
            "acceptingNewClients": True,
            "responseTimeSla": "5m",
            "uptimeTarget": 99.5,
        },
        "specializations": ["high-volume-routing"],
        "trialTerms": {"available": True, "durationDays": 14, "flatFeeSats": 1000},
    } | changes
    return {name: value for name, value in fields.items() if value is not None}


def a_profile(secret: Secret, now: int = AT, **changes: Any) -> Profile:
    """A signed profile."""
    identity = f"urn:uuid:{uuid.UUID(int=now)}"
    return profile.build(subject(**changes), secret, identity=identity, now=now)


def profile_event(secret: Secret, now: int = AT, *, at: int | None = None, **changes: Any) -> Event:
    """The event of a profile valid from `now`, published at `at`."""
    unsigned = market_events.profile_event(a_profile(secret, now, **changes), pubkey=xonly_pubkey(secret))
    return build(secret, *unsigned, created_at=now if at is None else at)


def offer_event(secret: Secret, now: int = AT, **fields: Any) -> Event:
    """The event of an offer."""
    document: Mapping[str, Any] = {
        "capabilities": ["fee-optimization"],
        "pricing_model": "subscription",
        "price_sats": 5000,
    } | fields
    made = offer.draft(document, offer_id="offer-7f3c", now=now)
    return build(secret, *market_events.offer_event(made, pubkey=xonly_pubkey(secret)), created_at=now)


def changed(event: Event, secret: Secret, **fields: Any) -> Event:
    """The event with other fields, signed anew; `drop` names tags to leave out, `add` tags to put in."""
    dropped, added = fields.pop("drop", ()), fields.pop("add", ())
    tags = [list(tag) for tag in event.tags if tag[0] not in dropped] + [list(tag) for tag in added]
    content, at = fields.pop("content", event.content), fields.pop("created_at", event.created_at)
    return build(secret, fields.pop("kind", event.kind), tags, content, at)
