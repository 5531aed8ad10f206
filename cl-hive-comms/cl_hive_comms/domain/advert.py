"""Adverts of others as this node keeps them (docs/protocol/04-marketplace-and-nostr.md §3, §7.3, §11)."""

from __future__ import annotations

from typing import Final

import msgspec
from hive_shared import vc
from hive_shared.crypto import sha256
from hive_shared.market.offer import Offer
from hive_shared.market.profile import AGING_S, Profile
from hive_shared.market.words import version_key

DAY_S: Final = 86_400
STALE_S: Final = 90 * DAY_S
FORGET_S: Final = 120 * DAY_S
MAX_PROFILES: Final = 5_000
MAX_OFFERS: Final = 10_000
MAX_GRAVES: Final = 20_000
GRAVE_S: Final = 90 * DAY_S
"""How long what was withdrawn is remembered at least, so that an old copy of it stays dead."""
_MONTH_S: Final = 30 * DAY_S
_MAX_MONTHS: Final = 24
_MAX_POW: Final = 32
_DID_BONUS: Final = 50
_CONTRADICTION: Final = 20

LEGACY: Final = "legacy"
INCONSISTENT: Final = "inconsistent"


class CachedProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile under the id that its key proved. Times are Unix seconds.

    `profile` is without its document, which stands in the table alone.
    """

    advisor_id: str
    pubkey: str
    profile: Profile
    subject_hash: str
    event_id: str
    created_at: int
    claimed_did: str | None
    did_state: str
    status: str
    flags: tuple[str, ...]
    pow_bits: int
    first_seen: int
    last_seen: int
    relays: tuple[str, ...]
    source: str = "nostr"

    @property
    def did_proved(self) -> bool:
        """Whether a DID beside the key was proved. A key proves its own id by itself: that earns nothing."""
        return self.did_state == "verified" and vc.key_of(self.claimed_did or self.profile.subject_id) is None

    def begun(self) -> int:
        """What its age counts from."""
        return min(self.profile.valid_from, self.created_at)

    def age_days(self, now: int) -> int:
        """Full days of its age."""
        return max(0, now - self.begun()) // DAY_S

    def fresh_until(self) -> int:
        """The last second in which it is shown without being asked for."""
        return min(self.profile.valid_until - 1, self.profile.valid_from + STALE_S)

    def stale(self, now: int) -> bool:
        """Too old to be shown without being asked for."""
        return now > self.fresh_until()

    def aging(self, now: int) -> bool:
        """Older than an advisor lets it become."""
        return now - self.profile.valid_from > AGING_S

    def trust(self, now: int) -> int:
        """The trust score of §7.3, as far as it is known here: no reputation, no confirmations yet."""
        return with_months(self.worth(), self.first_seen, now)

    def worth(self) -> int:
        """The part of the trust score that time does not change."""
        score = min(self.pow_bits, _MAX_POW) + (_DID_BONUS if self.did_proved else 0)
        return score - (_CONTRADICTION if INCONSISTENT in self.flags else 0)


class CachedOffer(msgspec.Struct, frozen=True, kw_only=True):
    """An offer under the key that signed it."""

    pubkey: str
    offer: Offer
    event_id: str
    created_at: int
    pow_bits: int
    first_seen: int
    last_seen: int

    @property
    def advisor_id(self) -> str:
        """The id of its author."""
        return vc.did_of(self.pubkey)


def with_months(worth: int, first_seen: int, now: int) -> int:
    """The trust score of a profile of this worth that has been known since `first_seen`."""
    return worth + min(_MAX_MONTHS, max(0, now - first_seen) // _MONTH_S)


def newer(created_at: int, event_id: str, than: tuple[int, str]) -> bool:
    """Whether an event replaces a stored one of its address: later, or of the same second with a lower id."""
    return (created_at, than[1]) > (than[0], event_id)


def subject_hash(text: str) -> str:
    """Tells whether two documents of one version say the same: their dates and proofs may differ. `text` is
    the canonical one."""
    # Compared with hashes made here alone, so any form will do that has one text for one content.
    subject = msgspec.json.decode(text)["credentialSubject"]
    return sha256(msgspec.json.encode(subject, order="deterministic")).hex()


def version_problem(old: CachedProfile, new: Profile, new_hash: str) -> str | None:
    """Why a later profile does not replace the stored one: `version_reused`, `version_fell`, or None."""
    before, after = version_key(old.profile.version), version_key(new.version)
    if before is None or after is None or after > before:
        return None
    if after < before:
        return "version_fell"
    return None if new_hash == old.subject_hash else "version_reused"
