"""What a record keeps of a secret (docs/protocol/02-fleet-management.md §9.1, §15.25)."""

from __future__ import annotations

import hashlib

import pytest
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret
from hive_shared.hidden import NAMES, hidden, hidden_text
from hive_shared.nostr.keys import nsec_encode

NSEC = nsec_encode(Secret(b"\x07" * 32))
TOKEN = "cashuBo2F0gaJhaUgA_9SLj17PgGFwgaNhYQFhc3hA" + "x" * 40


def kept(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_acceptance_02_25_fields_that_name_a_secret_are_hashed(name: str) -> None:
    value: JsonValue = {"a": [{name: "s3cret", name.upper(): "other", "fee_ppm": 150}], name: 7}
    assert hidden(value) == {
        "a": [{name: kept("s3cret"), name.upper(): kept("other"), "fee_ppm": 150}],
        name: 7,
    }


@pytest.mark.parametrize("secret", [NSEC, NSEC.upper(), TOKEN])
def test_acceptance_02_25_secrets_inside_texts_are_hashed(secret: str) -> None:
    assert hidden_text(f"my key is {secret}, thanks") == f"my key is {kept(secret)}, thanks"
    value: JsonValue = {"reason": [f"x{secret}"], secret: None}
    assert secret not in encode(hidden(value)).decode()


def test_what_is_no_secret_stays_as_it_is() -> None:
    value: JsonValue = {
        **{"channel_id": "1x1x1", "payment_hash": "ab" * 32, "reason": "seed round", "state_hash": "cd" * 32},
        **{
            "tokens": 3,
            "preimage_released": False,
            "npub": "npub1" + "q" * 58,
            "none": None,
            "list": [1, 2.5],
        },
    }
    assert hidden(value) == value
