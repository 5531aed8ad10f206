"""When a hire is agreed to without a human: the limits of `[auto]` (docs/protocol/11-advisor-kit.md §7)."""

from __future__ import annotations

from typing import Final

import msgspec
from hive_shared.market.dues import monthly_of_terms, takes_bolt11
from hive_shared.market.terms import Terms
from msgspec import UNSET
from msgspec.structs import asdict

TIERS: Final = ("monitor", "standard", "advanced", "admin")


class AutoHire(msgspec.Struct, frozen=True):
    """What is agreed to unasked: no less than `min_monthly_sats` by a model that pays by the month and
    by bolt11 (0 asks for neither), and `min_trial_sats` where there is a trial, at most `max_nodes` contracts
    at a time, these tiers and capabilities, payment in ecash of these mints."""

    min_monthly_sats: int
    max_nodes: int
    tiers: tuple[str, ...]
    capabilities: tuple[str, ...]
    min_trial_sats: int = 0
    mints: tuple[str, ...] = ()


def objection(limits: AutoHire | None, terms: Terms, running: int) -> str:
    """Why a human has to decide; empty where none has to. `running`: contracts that have not ended."""
    if limits is None:
        return "[auto] agrees to nothing"
    pay, scope = terms.compensation, terms.scope
    monthly = monthly_of_terms(asdict(pay))
    trial = 0 if pay.trialFlatFeeSats is UNSET else pay.trialFlatFeeSats
    if monthly < limits.min_monthly_sats:
        by = f" by model {pay.model}" if pay.baseMonthlySats is not UNSET and not monthly else ""
        return f"{monthly} sat a month{by}, less than min_monthly_sats {limits.min_monthly_sats}"
    if limits.min_monthly_sats and not takes_bolt11(pay.acceptedMethods):
        ways = ", ".join(pay.acceptedMethods)
        return f"the monthly fee is paid by {ways} only, for which no invoice of yours asks"
    if terms.duration.trialDays and trial < limits.min_trial_sats:
        return f"{trial} sat for the trial, less than min_trial_sats {limits.min_trial_sats}"
    if running >= limits.max_nodes:
        return f"{running} contracts run already, max_nodes is {limits.max_nodes}"
    if scope.permissionTier not in limits.tiers:
        return f"tier {scope.permissionTier} is not in tiers"
    other = sorted(set(scope.capabilities) - set(limits.capabilities))
    if other:
        return f"capability {other[0]} is not in capabilities"
    if pay.escrowMint is not UNSET and pay.escrowMint not in limits.mints:
        return f"mint {pay.escrowMint} is not in mints"
    return ""
