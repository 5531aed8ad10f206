"""Every refusal of the suite as one tree; numbers and slugs of docs/protocol/08-client-and-plugins.md §4.

    HiveError
    ├── InvalidParams            -32602  ├── Unsupported             4013
    ├── NotFound                   4001  ├── PaymentFailed           4014
    ├── Ambiguous                  4002  ├── Conflict                4015
    ├── Unauthorized               4003  ├── Capacity                4016
    ├── PolicyDenied               4004  ├── TransportUnavailable    4017
    ├── ConfirmationRequired       4005  ├── CredentialInvalid       4018
    ├── BudgetExhausted            4006  ├── CredentialUnverifiable  4019
    ├── RateLimited                4007  ├── Internal                4020
    ├── Replay                     4008  ├── Busy                    4021
    ├── ClockSkew                  4009  ├── VersionIncompatible     4022
    ├── SiblingUnavailable         4010  ├── NotMember               4023
    ├── FeatureDisabled            4011  └── GovernanceRequired      4024
    └── EmergencyStop              4012

There are no other numbers. A sheet's finer symbol (`stale_timestamp`, `policy_blocked`) is the *reason*:
on local RPC it stands in `data.reason` and after the slug, in the remote envelope it is `error.slug`
(docs/protocol/02-fleet-management.md §7.2). Modules may derive narrower classes (a decode error is an
InvalidParams); the number stays that of the class in the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from .canonical import JsonValue


class HiveError(Exception):
    """Root of everything we refuse on purpose: a slug, its number, and a sentence for a human.

    `detail` says what was wrong, with which value, and what to do. `reason` is the finer symbol of a
    domain sheet. `data` is machine-readable context; it never holds paths, secrets or raw texts of the
    node (docs/protocol/02-fleet-management.md §7.2).
    """

    slug: ClassVar[str]
    code: ClassVar[int]

    def __init__(
        self, detail: str, *, reason: str | None = None, data: Mapping[str, JsonValue] | None = None
    ) -> None:
        self.detail = detail
        self.reason = reason
        self.data: dict[str, JsonValue] = dict(data or {})
        if reason is not None:
            self.data["reason"] = reason
        # A symbol that equals its class slug ("busy") would only repeat itself in the text.
        finer = reason if reason != self.slug else None
        super().__init__(f"{self.slug}: {finer}: {detail}" if finer else f"{self.slug}: {detail}")

    @property
    def symbol(self) -> str:
        """The finest name we have: the reason, else the slug. `error.slug` of the remote envelope."""
        return self.reason or self.slug


class InvalidParams(HiveError):
    """A parameter or document is malformed, of the wrong type, out of range or unknown."""

    slug, code = "invalid_params", -32602


class NotFound(HiveError):
    """The named object does not exist here."""

    slug, code = "not_found", 4001


class Ambiguous(HiveError):
    """A name matches several objects; `data.candidates` lists them."""

    slug, code = "ambiguous", 4002


class Unauthorized(HiveError):
    """The caller is not who it must be: unknown key, bad signature, refused rune."""

    slug, code = "unauthorized", 4003


class PolicyDenied(HiveError):
    """The operator's policy says no; `data.rule` names the rule where one decided."""

    slug, code = "policy_denied", 4004


class ConfirmationRequired(HiveError):
    """Held for a human; `data.action_id` is what to approve or reject."""

    slug, code = "confirmation_required", 4005


class BudgetExhausted(HiveError):
    """A spending limit would be passed."""

    slug, code = "budget_exhausted", 4006


class RateLimited(HiveError):
    """Too many requests in a window; `data.retry_after` (seconds) where known."""

    slug, code = "rate_limited", 4007


class Replay(HiveError):
    """A nonce or message that was used before."""

    slug, code = "replay", 4008


class ClockSkew(HiveError):
    """A timestamp outside the accepted window around our clock."""

    slug, code = "clock_skew", 4009


class SiblingUnavailable(HiveError):
    """The call needs another of the three plugins, which is absent, too old or failing."""

    slug, code = "sibling_unavailable", 4010


class FeatureDisabled(HiveError):
    """Switched off by an option; `data.option` names it where one does."""

    slug, code = "feature_disabled", 4011


class EmergencyStop(HiveError):
    """The kill switch is engaged."""

    slug, code = "emergency_stop", 4012


class Unsupported(HiveError):
    """Known to the protocol, but this version or this node does not do it."""

    slug, code = "unsupported", 4013


class PaymentFailed(HiveError):
    """A payment was missing, refused or did not go through."""

    slug, code = "payment_failed", 4014


class Conflict(HiveError):
    """The object is in a state, or held by somebody, that excludes this step."""

    slug, code = "conflict", 4015


class Capacity(HiveError):
    """A table, queue or count is full."""

    slug, code = "capacity", 4016


class TransportUnavailable(HiveError):
    """No relay, gateway or other carrier could take or bring the message."""

    slug, code = "transport_unavailable", 4017


class CredentialInvalid(HiveError):
    """The credential is expired, revoked, of another issuer, or does not allow this."""

    slug, code = "credential_invalid", 4018


class CredentialUnverifiable(HiveError):
    """The credential could not be checked now; neither good nor bad."""

    slug, code = "credential_unverifiable", 4019


class Internal(HiveError):
    """Our side or the node failed; the request may have been fine."""

    slug, code = "internal", 4020


class Busy(HiveError):
    """Starting, stopping or overloaded: the same request may succeed later."""

    slug, code = "busy", 4021


class VersionIncompatible(HiveError):
    """The two sides share no protocol version."""

    slug, code = "version_incompatible", 4022


class NotMember(HiveError):
    """Only members of the fleet may do this."""

    slug, code = "not_member", 4023


class GovernanceRequired(HiveError):
    """The fleet has to vote first."""

    slug, code = "governance_required", 4024


_CLASSES: Final[Mapping[int, type[HiveError]]] = MappingProxyType(
    {cls.code: cls for cls in HiveError.__subclasses__()}
)

# docs/protocol/02-fleet-management.md §7.2, class by class; a test holds this to the sheet's text.
_SYMBOLS_OF: Final[Mapping[type[HiveError], str]] = {
    InvalidParams: "malformed too_large unsupported_version wrong_node invalid_params",
    Unauthorized: "unauthorized bad_signature rune_rejected unsupported_encryption",
    ClockSkew: "stale_timestamp",
    CredentialInvalid: (
        "credential_expired credential_not_yet_valid credential_revoked credential_superseded"
        " issuer_untrusted tier_insufficient permission_denied schema_not_allowed constraint_violated"
    ),
    CredentialUnverifiable: "revocation_unverifiable",
    Replay: "nonce_too_low nonce_reuse",
    RateLimited: "rate_limited daily_cap",
    Unsupported: "unsupported_schema unsupported_action requires_restart",
    PolicyDenied: (
        "policy_blocked protected_channel forbidden_peer quiet_hours approval_rejected approval_expired"
        " multisig_not_configured"
    ),
    Conflict: "cooldown conflict_held stale_state",
    PaymentFailed: "payment_required payment_invalid payment_replayed mint_untrusted escrow_required",
    BudgetExhausted: "budget_exhausted",
    EmergencyStop: "emergency_stop",
    Busy: "busy",
    Internal: "node_error timeout indeterminate receipt_store_unavailable shutting_down",
    ConfirmationRequired: "confirmation_required",
}

SYMBOLS: Final[Mapping[str, type[HiveError]]] = MappingProxyType(
    {symbol: cls for cls, symbols in _SYMBOLS_OF.items() for symbol in symbols.split()}
)
"""Symbol of docs/protocol/02-fleet-management.md §7.2 -> the class whose number it travels under."""

_STATUS_ERROR: Final = frozenset({Unsupported.code, Internal.code, Busy.code})


def from_symbol(symbol: str, detail: str, **data: JsonValue) -> HiveError:
    """The error of a symbol of 02 §7.2, with that symbol as its reason.

    Raises KeyError for a symbol the sheet does not list: a misspelt symbol is our bug and must not
    reach a remote side.
    """
    return SYMBOLS[symbol](detail, reason=symbol, data=data)


def by_code(code: int) -> type[HiveError]:
    """The class of a number of 08 §4; raises KeyError for any other number."""
    return _CLASSES[code]


def envelope_status(error: HiveError) -> int:
    """Status of the response envelope (02 §7.2): 2 (error) for 4013, 4020 and 4021, else 1 (rejected)."""
    return 2 if error.code in _STATUS_ERROR else 1
