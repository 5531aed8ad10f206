"""The mints an operator named, and which of them takes the next lock
(docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from .mint_caps import NO_CAPS, PROBE_VALID_S, Caps

FAILURES_TO_REPLACE: Final = 3
"""Checks in a row without an answer after which a backup takes new locks."""


class MintRole(StrEnum):
    """What the options say of a mint; FORMER: they named it once."""

    PRIMARY = "primary"
    BACKUP = "backup"
    FORMER = "former"


class MintStatus(StrEnum):
    """PROBATION: healthy, not yet seen to do what it says. DISABLED: no new locks there."""

    TRUSTED = "trusted"
    PROBATION = "probation"
    DISABLED = "disabled"


class MintRow(msgspec.Struct, frozen=True):
    """What is known of one mint. Times in Unix seconds, 0: never; `skew_s` its clock minus ours; `failures`
    checks in a row that got no answer; `last_error` why it is disabled or failed last, empty when all is
    well."""

    url: str
    role: MintRole
    status: MintStatus
    added_at: int
    version: str = ""
    info_json: str = "{}"
    caps: Caps = NO_CAPS
    probed_version: str = ""
    probe_at: int = 0
    skew_s: int | None = None
    failures: int = 0
    checked_at: int = 0
    last_ok_at: int = 0
    last_error: str = ""

    @property
    def disabled(self) -> bool:
        """Whether a check found a problem, or an answer was false."""
        return self.status is MintStatus.DISABLED

    def probe_due(self, now: int) -> bool:
        """Whether a probe has to come before the next lock: none yet, another version, 30 days old."""
        return (
            not self.probe_at or self.probed_version != self.version or now >= self.probe_at + PROBE_VALID_S
        )


class Offer(msgspec.Struct, frozen=True):
    """A mint as it stands for one lock: `fee_ppk` of the keyset that would be used (None: none outlives the
    lock), what it holds for us already (sat), whether calls go through."""

    row: MintRow
    fee_ppk: int | None
    open: bool
    locked_sats: int


class Wish(msgspec.Struct, frozen=True):
    """What a lock needs: its face (sat), whom the payee and the contract accept (None: any of ours), the
    preferred mint, and whether several keys sign it (and all outputs with it)."""

    face_sats: int
    accepted: frozenset[str] | None = None
    preferred: str = ""
    multisig: bool = False
    sigall: bool = False


def objection(offer: Offer, wish: Wish, *, max_locked_sats: int, now: int) -> str | None:
    """Why this mint does not take this lock, in a sentence part; None when it does."""
    row = offer.row
    if wish.accepted is not None and row.url not in wish.accepted:
        return "the other side does not accept it"
    if row.status is MintStatus.DISABLED:
        return f"disabled: {row.last_error}"
    if row.failures >= FAILURES_TO_REPLACE or not offer.open:
        return f"not answering: {row.last_error or 'its breaker is open'}"
    if row.probe_due(now):
        return "not probed"
    if not row.caps.tickets:
        return "its probe failed"
    if row.status is MintStatus.PROBATION:
        return "not probed"
    if (wish.multisig and not row.caps.multisig) or (wish.sigall and not row.caps.sigall):
        return "its probe shows no locks of several signers"
    if offer.fee_ppk is None:
        return "its keysets end before the lock"
    if offer.locked_sats + wish.face_sats > max_locked_sats:
        return f"{offer.locked_sats} sat are locked there, at most {max_locked_sats} may be"
    return None


def in_order(offers: Sequence[Offer], wish: Wish) -> list[Offer]:
    """Preferred, then primary, then backups; then the lowest fee, then the address."""
    rank = {MintRole.PRIMARY: 1, MintRole.BACKUP: 2, MintRole.FORMER: 3}

    def key(offer: Offer) -> tuple[int, int, str]:
        place = 0 if offer.row.url == wish.preferred else rank[offer.row.role]
        return place, offer.fee_ppk or 0, offer.row.url

    return sorted(offers, key=key)
