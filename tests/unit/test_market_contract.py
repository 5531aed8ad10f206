"""The contract's document: made the same by both, two proofs in order, checked by itself (04 §10)."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hive_shared import vc
from hive_shared.canonical import decode_object, encode
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import InvalidParams
from hive_shared.machine import problems
from hive_shared.market import contract_machine as machine
from hive_shared.market.contract import (
    SIGNING_S,
    Contract,
    build,
    check_contract,
    check_proofs,
    contract_hash,
    read_contract,
    sign,
    verify_contract,
)
from hive_shared.market.contract_machine import CONTRACTS, ContractEffect, ContractEvent, ContractState

from tests.market_terms import terms

NOW = 1_800_000_000
OPERATOR, ADVISOR, STRANGER = (Secret(bytes([n]) * 32) for n in (7, 8, 9))
CONTRACT = Contract(
    contract_id="6f1d8a34-3c1f-4f0e-9b52-0d9a4a3f6c11",
    operator_key=xonly_pubkey(OPERATOR),
    advisor_key=xonly_pubkey(ADVISOR),
    credential_ref="0b6e4a52-9a0e-4f7b-8a55-0f4f9c2f1d22",
    salt="5a" * 32,
    node_ids=("02" + "cd" * 32,),
    valid_from=NOW,
)


def document(**parts: Any) -> dict[str, Any]:
    return build(CONTRACT, terms(**parts))


def signed() -> dict[str, Any]:
    return sign(sign(document(), OPERATOR, NOW), ADVISOR, NOW + 3_600)


def test_the_table_is_sound() -> None:
    assert problems(CONTRACTS, initial=machine.INITIAL, final=machine.FINAL, outcomes=machine.OUTCOMES) == []


def test_a_credential_follows_two_signatures_and_nothing_else() -> None:
    issuing = [key for key, step in CONTRACTS.items() if step.do is ContractEffect.ISSUE]
    assert issuing == [(ContractState.SIGNING, ContractEvent.ON_SIGNED)]
    assert not {step.to for (state, _), step in CONTRACTS.items() if state in machine.UNSIGNED} & {
        ContractState.ACTIVE,
        ContractState.TRIAL,
    }


def test_what_is_built_is_read_back_and_says_what_was_agreed() -> None:
    made = document(duration={"trialDays": 7, "fullTermDays": 30})
    assert read_contract(made) == CONTRACT
    assert check_contract(made, terms(duration={"trialDays": 7, "fullTermDays": 30})) == CONTRACT
    assert made["credentialSubject"]["duration"] == {
        "trialStart": vc.moment(NOW),
        "trialEnd": vc.moment(NOW + 7 * 86_400),
        "fullTermStart": vc.moment(NOW + 7 * 86_400),
        "fullTermEnd": vc.moment(NOW + 37 * 86_400),
        "noticePeriodDays": 7,
        "autoRenew": False,
    }
    assert "nodeInfo" not in encode(made).decode()
    members = build(CONTRACT, terms(), members=True)
    assert members["credentialSubject"]["compensation"]["settlementType"] == "Type 9 (Advisor Fee Settlement)"
    assert check_contract(members, terms()) == CONTRACT


def test_both_proofs_are_over_the_same_content() -> None:
    made = signed()
    assert contract_hash(made) == contract_hash(document())
    check_proofs(made, CONTRACT.operator_key, CONTRACT.advisor_key)
    assert verify_contract(decode_object(encode(made), floats=True)) == CONTRACT
    check_proofs(sign(document(), OPERATOR, NOW), CONTRACT.operator_key)


def test_proofs_of_others_in_another_order_or_number_do_not_count() -> None:
    once = sign(document(), OPERATOR, NOW)
    for wrong in (
        once,
        sign(sign(document(), ADVISOR, NOW), OPERATOR, NOW),
        sign(once, STRANGER, NOW),
        sign(once, OPERATOR, NOW),
        sign(signed(), STRANGER, NOW),
        document(),
        sign(once, ADVISOR, NOW + SIGNING_S + 2 * 86_400),
    ):
        with pytest.raises(InvalidParams):
            verify_contract(wrong)


_CHANGES: list[tuple[tuple[str, ...], Any, str]] = [
    (("credentialSubject", "compensation", "perActionSats"), 33, "compensation.perActionSats"),
    (("credentialSubject", "scope", "permissionTier"), "admin", "scope.permissionTier"),
    (("credentialSubject", "duration", "fullTermEnd"), vc.moment(NOW + 1), "duration.fullTermEnd"),
    (("credentialSubject", "extra"), 1, "credentialSubject.extra"),
    (("credentialSubject", "salt"), "5A" * 32, "salt"),
    (("credentialSubject", "salt"), None, "salt"),
    (("credentialSubject", "contractId"), "x", "contractId"),
    (("credentialSubject", "scope", "nodeIds"), [], "nodeIds"),
    (("credentialSubject", "scope", "nodeIds"), ["02" + "cd" * 32] * 2, "nodeIds"),
    (("credentialSubject",), [], "credentialSubject"),
    (("issuer",), "did:cid:abc", "issuer"),
    (("type",), ["VerifiableCredential"], "type"),
    (("validUntil",), vc.moment(NOW + 1), "validUntil"),
    (("validFrom",), "soon", "validFrom"),
]


@pytest.mark.parametrize(("path", "value", "said"), _CHANGES, ids=[".".join(path) for path, _, _ in _CHANGES])
def test_a_contract_that_says_something_else_is_refused_by_name(
    path: tuple[str, ...], value: Any, said: str
) -> None:
    made = copy.deepcopy(document())
    inside: Any = made
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    with pytest.raises(InvalidParams, match=re.escape(said)):
        check_contract(made, terms())
    tampered = copy.deepcopy(signed())
    inside = tampered
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    with pytest.raises(InvalidParams):
        verify_contract(tampered)
