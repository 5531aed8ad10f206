"""What a macaroon's caveats allow, rule by rule (docs/protocol/03-escrow-and-payments.md §7.5).

A presenter that is not the one named is stopped earlier as well, by the row of its token; these rules hold
without it.
"""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.access_proof import check_rights
from hive_shared import l402
from hive_shared.errors import PaymentFailed
from hive_shared.registry import Tier

NODE, AGENT, CREDENTIAL = "02" + "11" * 32, "22" * 32, "c-1"
SOLD = (f"node={NODE}", f"agent={AGENT}", f"credential={CREDENTIAL}", "tier=standard", "expires=2000000000")
CASE: dict[str, Any] = {
    "node_id": NODE,
    "agents": (AGENT, "did:cid:agent"),
    "credentials": (CREDENTIAL, "c-0"),
    "tier": Tier.STANDARD,
    "action": ("hive:fee-policy/v1", "set_single", ("hive:fee-policy/set_single",)),
    "danger": 3,
    "now": 1_900_000_000,
}


def test_what_was_sold_is_allowed_to_whom_it_was_sold() -> None:
    check_rights(l402.rights_of(SOLD), **CASE)
    check_rights(l402.rights_of(SOLD), **{**CASE, "credentials": ("c-2", CREDENTIAL)})
    check_rights(l402.rights_of(()), **CASE)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"node_id": "03" + "11" * 32}, "for another node"),
        ({"agents": ("33" * 32,)}, "for another agent"),
        ({"credentials": ("c-0", "c-2")}, "for another credential"),
        ({"tier": Tier.ADVANCED}, "for tier standard"),
        ({"now": 2_000_000_000}, "expired at 2000000000"),
    ],
)
def test_what_was_sold_to_somebody_else_or_for_less_is_refused(case: dict[str, Any], told: str) -> None:
    with pytest.raises(PaymentFailed, match=told):
        check_rights(l402.rights_of(SOLD), **{**CASE, **case})
