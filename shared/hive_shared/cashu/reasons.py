"""Why something of a stranger's ecash is not accepted: a short name for programs, a sentence for people.

Two families (docs/protocol/03-escrow-and-payments.md §9): what a token, secret, witness or terms says
(`token_invalid(<check>)`), and what a mint answered (`mint_nonconformant`).
"""

from __future__ import annotations

from hive_shared.errors import PaymentFailed


class TokenInvalid(PaymentFailed):
    """Ecash, or the terms it travels with, that we do not take; `check` names what it failed.

    Nothing was sent to a mint and nothing was stored when this is raised.
    """

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(detail, reason=f"token_invalid({check})", data={"check": check})
        self.check = check


class MintNonconformant(PaymentFailed):
    """A mint's answer that no correct mint gives; what it said is not acted on (03 §4.2)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, reason="mint_nonconformant")


class TokenSpent(PaymentFailed):
    """Ecash that is spent, or being spent, already."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, reason="token_spent")
