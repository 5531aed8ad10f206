"""Advisors and their credentials as this node keeps them (docs/protocol/02-fleet-management.md §2, §11)."""

from fractions import Fraction

import msgspec
from hive_shared.credential import Credential

MAX_LIVE_CREDENTIALS = 1_000
"""Live credentials of a node (docs/protocol/02 §2.5); expired and revoked ones do not count."""
GOSSIP = "gossip"
"""Source of what came from other nodes, not from this one's operator."""
GOSSIP_TRUST = Fraction(1, 2)
"""Of an agent that another node hired for us, whatever its credential says (docs/protocol/02 §2.1)."""
DAY_S = 86_400
MAX_DAYS = 730


class Advisor(msgspec.Struct, frozen=True):
    """One row of comms_advisors; `pubkey` is the x-only key in hex, `number` makes `advisor-N`."""

    advisor_id: str
    number: int
    pubkey: str | None
    did: str | None
    display_name: str
    status: str
    access_template: str
    created_at: int
    updated_at: int
    daily_limit_sats: int | None = None
    note: str = ""
    source: str = "operator"
    revoked_at: int | None = None
    reason: str | None = None

    @property
    def active(self) -> bool:
        """Whether the operator has not revoked it."""
        return self.status == "active"


class CredentialRow(msgspec.Struct, frozen=True):
    """One row of comms_credentials: the signed document and what happened to it here.

    `trust_pinned`: the operator chose the trust at issue, and history does not move it (docs/decisions/0202).
    `source`: `operator`, or `gossip` for one of a trusted issuer (domain.gossip). `vc`: the W3C form of one
    that cl-hive-archon issued (format `vc`), as JSON text; `check_at` (Unix s) and `check_status` are what
    archon, or over gossip the issuer, said of it last.
    """

    credential: Credential
    advisor_id: str
    format: str
    status: str
    source: str
    created_at: int
    superseded_by: str | None = None
    rune_id: str | None = None
    trust_pinned: bool = False
    acked_at: int | None = None
    revoked_at: int | None = None
    revocation_reason: str | None = None
    vc: str | None = None
    check_at: int | None = None
    check_status: str | None = None

    @property
    def credential_id(self) -> str:
        """Id of the document."""
        return self.credential.credential_id

    @property
    def agent_key(self) -> str:
        """The key that signs commands under this credential."""
        return self.credential.agent_key

    @property
    def trust(self) -> Fraction:
        """Trust put in the agent, 0.5 to 2: by the operator, not by whoever else issued the credential."""
        return GOSSIP_TRUST if self.source == GOSSIP else self.credential.trust

    def live(self, now: int) -> bool:
        """Whether commands under it may be accepted now, as far as this table knows."""
        return self.status == "active" and self.credential.valid_at(now)


class Alias(msgspec.Struct, frozen=True):
    """A name the operator gave: `key` is its case-folded form, `target` an advisor id or `node`."""

    key: str
    alias: str
    target: str
    created_at: int


def days_left(valid_until: int, now: int) -> int:
    """Whole days until a credential ends, 0 when it has."""
    return max(0, -(-(valid_until - now) // DAY_S))
