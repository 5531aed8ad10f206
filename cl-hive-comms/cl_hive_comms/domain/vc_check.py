"""What cl-hive-archon says of a verifiable credential, and how long its word lasts
(docs/protocol/02-fleet-management.md §2.5 "Revocation check"; 08 §1.2, §3.4; 09 §6.3).

Pure: the answer of `hive-archon-verify-credential` in, a finding or the exact refusal out. Whatever is not
clearly good is no permission.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.errors import CredentialInvalid, CredentialUnverifiable, HiveError, from_symbol

CHECK_TTL_S: Final = 3_600
"""A revocation check honours a credential for this long, also when archon is gone meanwhile."""
REFRESH_AFTER_S: Final = CHECK_TTL_S // 2
_AHEAD_S: Final = 300

GOOD: Final = "good"
REVOKED: Final = "revoked"

# Reasons of archon that have a symbol of their own in 02 §7.2.
_SYMBOLS: Final[Mapping[str, str]] = {
    "revoked": "credential_revoked",
    "deactivated": "credential_revoked",
    "tombstoned": "credential_revoked",
    "credential_revoked": "credential_revoked",
    "expired": "credential_expired",
    "credential_expired": "credential_expired",
    "not_yet_valid": "credential_not_yet_valid",
    "credential_not_yet_valid": "credential_not_yet_valid",
    "issuer_untrusted": "issuer_untrusted",
    "schema_not_allowed": "schema_not_allowed",
    "permission_denied": "permission_denied",
    "tier_insufficient": "tier_insufficient",
    "constraint_violated": "constraint_violated",
}
_UNDECIDED: Final = frozenset({"credential_unverifiable", "revocation_unverifiable", "unverifiable"})


class Check(msgspec.Struct, frozen=True):
    """When the credential's revocation was looked up last (Unix s), and what was found: good or revoked."""

    at: int
    status: str

    def holds(self, now: int) -> bool:
        """Whether it still honours the credential. One from the future is none: a clock was set back."""
        return self.status == GOOD and -_AHEAD_S <= now - self.at < CHECK_TTL_S

    def due(self, now: int) -> bool:
        """Whether it is time to ask again, before it ends."""
        return self.status == GOOD and not 0 <= now - self.at < REFRESH_AFTER_S


class Expected(msgspec.Struct, frozen=True):
    """What the answer must be about: the agent, its command key, whose word counts here (None: nobody's)."""

    subject: str
    agent_key: str
    issuer: str | None


def finding(answer: Mapping[str, Any], expected: Expected, now: int) -> Check:
    """The finding of an answer: good or revoked.

    Raises CredentialInvalid when the credential is bad otherwise, CredentialUnverifiable when the answer
    does not tell.
    """
    revocation = answer.get("revocation")
    told = revocation if isinstance(revocation, Mapping) else {}
    if told.get("status") == REVOKED or _symbol(answer) == "credential_revoked":
        return Check(now, REVOKED)
    if answer.get("valid") is not True:
        raise _bad(answer)
    _check_parties(answer, expected)
    until = answer.get("valid_until")
    if isinstance(until, bool) or not isinstance(until, int):
        raise _unclear("it does not say until when the credential is valid")
    if now >= until:
        raise from_symbol("credential_expired", f"the credential expired at {until}")
    at = told.get("checked_at")
    if told.get("status") != GOOD or isinstance(at, bool) or not isinstance(at, int):
        raise revocation_unknown("cl-hive-archon could not look up its revocation")
    if now - at >= CHECK_TTL_S:
        raise revocation_unknown(f"its revocation was looked up {now - at} s ago; the limit is {CHECK_TTL_S}")
    return Check(min(at, now), GOOD)


def never_checked(why: str) -> HiveError:
    """The refusal of a credential that cl-hive-archon never found good."""
    return CredentialUnverifiable(
        f"{why}; ask the operator for a credential signed by the node itself",
        reason="credential_unverifiable",
    )


def revocation_unknown(why: str) -> HiveError:
    """The refusal of a credential that was good, too long ago."""
    return from_symbol("revocation_unverifiable", f"{why}; nothing runs under this credential until it is")


def revoked() -> HiveError:
    """The refusal of a credential whose issuer took it back."""
    return from_symbol("credential_revoked", "the issuer revoked this credential")


def _check_parties(answer: Mapping[str, Any], expected: Expected) -> None:
    if answer.get("subject") != expected.subject:
        raise CredentialInvalid("the credential is about somebody else", reason="credential_invalid")
    key = answer.get("npub")
    if key is not None and key != expected.agent_key:
        raise CredentialInvalid(
            "the agent's DID is bound to another command key now; ask the operator for a new credential",
            reason="credential_invalid",
        )
    if expected.issuer is None or answer.get("issuer") != expected.issuer:
        raise from_symbol("issuer_untrusted", f"the issuer {_text(answer.get('issuer'))} is not trusted here")


def _symbol(answer: Mapping[str, Any]) -> str | None:
    reason = answer.get("reason")
    return None if answer.get("valid") is True or not isinstance(reason, str) else _SYMBOLS.get(reason)


def _bad(answer: Mapping[str, Any]) -> HiveError:
    reason, symbol = answer.get("reason"), _symbol(answer)
    if symbol is not None:
        return from_symbol(
            symbol, f"cl-hive-archon found the credential {symbol.removeprefix('credential_')}"
        )
    if answer.get("valid") is not False or (isinstance(reason, str) and reason in _UNDECIDED):
        return _unclear(f"its answer is {_text(reason)}")
    return CredentialInvalid(
        f"cl-hive-archon refused the credential: {_text(reason)}", reason="credential_invalid"
    )


def _unclear(why: str) -> HiveError:
    return never_checked(f"cl-hive-archon did not verify the credential: {why}")


def _text(value: object) -> str:
    # Written by another process: shown, but neither long nor with control characters.
    return ascii(value)[:80]
