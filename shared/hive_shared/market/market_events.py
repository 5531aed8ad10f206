"""Nostr events of the advisor family: profiles, offers, their end (04 §4.1 to §4.3, §5.2, §5.3).

Builders give kind, tags and content without the `nonce` tag: who publishes mines it, then signs. Readers take
events whose id and signature hold, and refuse by InvalidParams with a named reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from .. import vc
from ..errors import InvalidParams
from ..nostr.event import Event
from . import profile as profiles
from . import words
from .offer import MAX_CONTENT_BYTES, MAX_DAYS, OFFER_ID, PERIODS, Offer
from .profile import Profile

PROFILE: Final = 38380
OFFER: Final = 38381
RFP: Final = 38382
CONFIRMATION: Final = 38383
DELETION: Final = 5
ADVERTS: Final = (PROFILE, OFFER)
"""The kinds that are read so far."""
TOPICS: Final = {PROFILE: "hive-advisor", OFFER: "hive-advisor-offer"}
LEGACY_TOPIC: Final = "hive-advisor-profile"
POW_BITS: Final = {PROFILE: 20, OFFER: 20}
STATUSES: Final = ("active", "paused", "filled", "withdrawn")
_MODEL_OF_TAG: Final = {tag: model for model, tag in words.PRICING_TAGS.items()}
_SLACK_S: Final = 86_400
_MAX_ALT: Final = 200
_MAX_D_BYTES: Final = 256
_MAX_SHOWN: Final = 31
"""Values of one tag beside its name: what every reader takes (04 §4.2)."""

Unsigned = tuple[int, list[list[str]], str]
"""Kind, tags and content of an event that is still to be mined and signed."""


class ProfileAdvert(msgspec.Struct, frozen=True, kw_only=True):
    """A profile as an event carries it.

    `prover` is the Nostr key that proved the document, None when only archon can say. `did_state`: `verified`
    when the id is that of the event's key, `failed` when it is another Nostr key's, `unverified` when archon
    has to say.
    """

    event: Event
    profile: Profile
    prover: str | None
    did_state: str
    status: str
    flags: tuple[str, ...]

    @property
    def advisor_id(self) -> str:
        """The id under which the profile is kept: never one that was only claimed."""
        return vc.did_of(self.event.pubkey)

    @property
    def claimed_did(self) -> str | None:
        """The id that the document claims, where it is another."""
        return None if self.did_state == "verified" else self.profile.subject_id


class OfferAdvert(msgspec.Struct, frozen=True, kw_only=True):
    """An offer as an event carries it."""

    event: Event
    offer: Offer


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """The last word on an address: what it was about is withdrawn."""

    event: Event
    d: str


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """What an author takes back: ids, and (kind, d) of addresses up to the time of the event."""

    event: Event
    ids: tuple[str, ...]
    addresses: tuple[tuple[int, str], ...]


# -- writing -----------------------------------------------------------------------------------------------


def profile_event(
    profile: Profile,
    *,
    pubkey: str,
    status: str = "active",
    tenure_days: int = 0,
    did: tuple[str, str] | None = None,
) -> Unsigned:
    """The advert of an own profile; `did` is the DID and the id of the credential that binds it."""
    shown = profile.capabilities[:_MAX_SHOWN]
    tags = [["d", profile.subject_id], *_topics(TOPICS[PROFILE], shown)]
    tags += [["name", profile.name], ["capabilities", *map(words.in_tags, shown)]]
    tags.append(["pricing-model", *dict.fromkeys(words.PRICING_TAGS[one.model] for one in profile.prices)])
    if profile.base_fee_sats is not None:
        tags.append(["base-fee-sats", str(profile.base_fee_sats)])
    if profile.share_pct:
        tags.append(["performance-pct", _number(profile.share_pct)])
    if profile.load is not None:
        tags.append(["nodes-managed", str(profile.load)])
    if profile.uptime_pct is not None:
        tags.append(["uptime", _number(profile.uptime_pct)])
    tags += [["tenure-days", str(tenure_days)], ["version", profile.version], ["status", status]]
    price = "" if profile.base_fee_sats is None else f" — from {profile.base_fee_sats} sats"
    alt = f"Lightning node advisor {profile.name} — {_list(profile.capabilities)}{price}"
    tags += [["p", pubkey], *_bound(did), ["alt", _alt(alt)]]
    return PROFILE, tags, profile.text()


def offer_event(
    offer: Offer, *, pubkey: str, profile_id: str | None = None, did: tuple[str, str] | None = None
) -> Unsigned:
    """The advert of an own offer; `profile_id` is the id of the own profile, which it refers to."""
    tags = [["d", offer.offer_id], *_topics(TOPICS[OFFER], offer.capabilities)]
    tags += [["capability", words.in_tags(one)] for one in offer.capabilities]
    tags.append(["pricing-model", words.PRICING_TAGS[offer.pricing_model]])
    tags.append(["price", str(offer.price_sats), "sat", offer.period])
    tags.append(["trial-available", "true" if offer.trial_days else "false"])
    numbers = (
        ("trial-days", offer.trial_days or None),
        ("max-channels", offer.max_channels),
        ("min-node-capacity", offer.min_node_capacity or None),
        ("sla-response-time", offer.sla_response_s),
        ("sla-uptime", offer.sla_uptime),
        ("performance-pct", offer.performance_pct),
    )
    tags += [[name, _number(value)] for name, value in numbers if value is not None]
    if offer.methods:
        tags.append(["payment-methods", *offer.methods])
    tags += [["status", offer.status], ["p", pubkey]]
    if profile_id is not None:
        tags.append(["a", f"{PROFILE}:{pubkey}:{profile_id}"])
    until = str(offer.expires_at)
    tags += [["expiration", until], ["expires", until], *_bound(did)]
    alt = f"Node management — {_list(offer.capabilities)} — {offer.price_sats} sats/{offer.period}"
    tags.append(["alt", _alt(alt)])
    return OFFER, tags, offer.description


def tombstone_event(kind: int, d: str, *, ends_at: int) -> Unsigned:
    """The event that stays in the place of a withdrawn one; `ends_at` is when that would have ended."""
    until = str(ends_at + 86_400)
    what = "profile" if kind == PROFILE else "offer"
    tags = [["d", d], ["t", TOPICS[kind]], ["t", "lightning"], ["status", "withdrawn"]]
    tags += [["expiration", until], ["expires", until], ["alt", f"Withdrawn advisor {what}"]]
    return kind, tags, ""


def deletion_event(pubkey: str, kind: int, d: str, ids: Iterable[str]) -> Unsigned:
    """The deletion of every earlier version of an address; to be signed for a second before its tombstone."""
    tags = [["e", one] for one in ids]
    tags += [["a", f"{kind}:{pubkey}:{d}"], ["k", str(kind)]]
    return DELETION, tags, "withdrawn"


def _topics(topic: str, capabilities: Sequence[str]) -> list[list[str]]:
    return [["t", topic], ["t", "lightning"], *(["t", f"advisor-{one}"] for one in capabilities)]


def _bound(did: tuple[str, str] | None) -> list[list[str]]:
    return [] if did is None else [["did", did[0]], ["did-nostr-proof", did[1]]]


def _list(capabilities: Sequence[str]) -> str:
    return ", ".join(one.replace("-", " ") for one in capabilities[:4])


def _alt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_ALT else line[: _MAX_ALT - 1] + "…"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}".rstrip("0")


# -- reading -----------------------------------------------------------------------------------------------


def read(event: Event) -> ProfileAdvert | OfferAdvert | Tombstone | Deletion:
    """What an event of the family says. Raises InvalidParams; `reason` is one of

    `foreign` (no hive topic: of somebody else who uses the kind), `kind` (not read), `d` (none, several, or
    not the one of its content), `expiration`, `tag`, `content` (the document; its own reason is in the
    sentence), `too_large`, `proof_missing`, `proof_malformed`, `proof_invalid`, `issuer_mismatch`.
    """
    if event.kind == DELETION:
        return _deletion(event)
    if event.kind not in TOPICS:
        raise InvalidParams(f"kind {event.kind} is not read", reason="kind")
    topics = event.tag_values("t")
    legacy = event.kind == PROFILE and LEGACY_TOPIC in topics
    if TOPICS[event.kind] not in topics and not legacy:
        raise InvalidParams(f"it has no topic {TOPICS[event.kind]}", reason="foreign")
    d = _d(event, legacy=event.kind == PROFILE)
    status = _status(event)
    if status == "withdrawn":
        return Tombstone(event=event, d=d)
    if event.kind == OFFER:
        return OfferAdvert(event=event, offer=_offer(event, d, status))
    return _profile(event, d, status, legacy=legacy or not d)


def _d(event: Event, *, legacy: bool) -> str:
    found = event.tag_values("d")
    if not found and legacy:
        return ""
    if len(found) != 1 or not 1 <= len(found[0].encode("utf-8", "surrogatepass")) <= _MAX_D_BYTES:
        raise InvalidParams(f"it has {len(found)} d tags; one of 1 to 256 bytes is needed", reason="d")
    return found[0]


def _status(event: Event) -> str:
    status = next(iter(event.tag_values("status")), "active")
    if status not in STATUSES:
        raise InvalidParams(f"status {status!a:.40} is not one of {', '.join(STATUSES)}", reason="tag")
    return status


def _profile(event: Event, d: str, status: str, *, legacy: bool) -> ProfileAdvert:
    try:
        profile = profiles.read(event.content)
    except InvalidParams as error:
        reason = "too_large" if error.reason == "too_large" else "content"
        raise InvalidParams(error.detail, reason=reason) from None
    if d and d != profile.subject_id:
        raise InvalidParams(f"d {d!a:.100} is not the profile's id, {profile.subject_id}", reason="d")
    prover = profiles.prover(profile)
    own = vc.key_of(profile.subject_id)
    if own is None and prover not in (None, event.pubkey):
        raise InvalidParams("it is proved by a key that is not its author's", reason="issuer_mismatch")
    state = "unverified" if own is None else "verified" if own == event.pubkey else "failed"
    flags = [*(["legacy"] if legacy else []), *(["inconsistent"] if _contradicts(event, profile) else [])]
    return ProfileAdvert(
        event=event, profile=profile, prover=prover, did_state=state, status=status, flags=tuple(flags)
    )


def _contradicts(event: Event, profile: Profile) -> bool:
    """Whether the tags say something else than the document about name, capabilities or price."""
    name = next(iter(event.tag_values("name")), profile.name)
    if words.display_name(name) != profile.name:
        return True
    named = {words.word(one) for tag in event.tags if tag[0] == "capabilities" for one in tag[1:]}
    if named and named != set(profile.capabilities[:_MAX_SHOWN]):
        return True
    price = next(iter(event.tag_values("base-fee-sats")), None)
    return price is not None and price != str(profile.base_fee_sats)


def _offer(event: Event, d: str, status: str) -> Offer:
    if not OFFER_ID.fullmatch(d):
        raise InvalidParams(f"offer id {d!a:.80} is not 1 to 64 of a-z, 0-9 and -", reason="d")
    expiration = event.expiration
    if expiration is None or not 0 < expiration - event.created_at <= MAX_DAYS * 86_400 + _SLACK_S:
        raise InvalidParams(f"an offer ends within {MAX_DAYS} days of its event", reason="expiration")
    if len(event.content.encode("utf-8", "surrogatepass")) > MAX_CONTENT_BYTES:
        raise InvalidParams(f"its text has more than {MAX_CONTENT_BYTES} bytes", reason="too_large")
    capabilities = [words.word(one) for one in event.tag_values("capability")]
    known = tuple(dict.fromkeys(one for one in capabilities if one is not None))
    if not 1 <= len(known) <= 32 or None in capabilities:
        raise InvalidParams("an offer names 1 to 32 capabilities", reason="tag")
    model = _MODEL_OF_TAG.get(next(iter(event.tag_values("pricing-model")), ""))
    if model is None:
        raise InvalidParams(f"pricing-model is not one of {', '.join(_MODEL_OF_TAG)}", reason="tag")
    price, period = _price(event)
    return Offer(
        offer_id=d,
        capabilities=known,
        pricing_model=model,
        price_sats=price,
        period=period,
        performance_pct=_percent(event, "performance-pct"),
        trial_days=_whole(event, "trial-days", 365) or 0,
        max_channels=_whole(event, "max-channels", 1_000_000),
        min_node_capacity=_whole(event, "min-node-capacity", words.MAX_SATS) or 0,
        sla_response_s=_whole(event, "sla-response-time", 30 * 86_400),
        sla_uptime=_percent(event, "sla-uptime"),
        methods=tuple(one for tag in event.tags if tag[0] == "payment-methods" for one in tag[1:])[:8],
        description=event.content,
        status="active" if status == "paused" else status,
        expires_at=expiration,
    )


def _price(event: Event) -> tuple[int, str]:
    tag = next((one for one in event.tags if one[0] == "price"), ())
    if len(tag) != 4 or tag[2] != "sat" or tag[3] not in PERIODS:
        raise InvalidParams(f"price {list(tag[1:])!a:.80} is not like 5000, sat, month", reason="tag")
    return _digits("price", tag[1], words.MAX_SATS), tag[3]


def _whole(event: Event, name: str, most: int) -> int | None:
    value = next(iter(event.tag_values(name)), None)
    return None if value is None else _digits(name, value, most)


def _digits(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16) or int(text) > most:
        raise InvalidParams(f"{name} {text!a:.40} is not an integer from 0 to {most}", reason="tag")
    return int(text)


def _percent(event: Event, name: str) -> float | None:
    value = next(iter(event.tag_values(name)), None)
    if value is None:
        return None
    plain = value.replace(".", "", 1)
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 12) or float(value) > 100:
        raise InvalidParams(f"{name} {value!a:.40} is not a number from 0 to 100", reason="tag")
    return float(value)


def _deletion(event: Event) -> Deletion:
    ids = tuple(dict.fromkeys(event.tag_values("e")))
    addresses: list[tuple[int, str]] = []
    for text in event.tag_values("a"):
        # The first two colons alone: ids of subjects hold colons themselves.
        parts = text.split(":", 2)
        if len(parts) == 3 and parts[1] == event.pubkey and parts[0] in ("38380", "38381"):
            addresses.append((int(parts[0]), parts[2]))
    if not ids and not addresses:
        raise InvalidParams("the deletion names nothing of this market", reason="tag")
    return Deletion(event=event, ids=ids, addresses=tuple(dict.fromkeys(addresses)))
