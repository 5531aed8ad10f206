"""Runs inside the mint's own environment: what nutshell's primitives make of the numbers it is given."""

from __future__ import annotations

import json
import sys
from typing import Any

from cashu.core.crypto import b_dhke
from cashu.core.crypto.secp import PrivateKey, PublicKey


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """Blind, sign, unblind and check one secret as wallet and mint of nutshell do."""
    secret, mint = case["secret"], PrivateKey(bytes.fromhex(case["mint_key"]))
    r = PrivateKey(bytes.fromhex(case["r"]))
    blinded, _ = b_dhke.step1_alice(secret, r)
    signature, e, s = b_dhke.step2_bob(blinded, mint)
    c = b_dhke.step3_alice(signature, r, mint.public_key)
    given = case["dleq"]
    return {
        "A": mint.public_key.format().hex(),
        "Y": b_dhke.hash_to_curve(secret.encode()).format().hex(),
        "B_": blinded.format().hex(),
        "C_": signature.format().hex(),
        "C": c.format().hex(),
        "e": e.to_hex(),
        "s": s.to_hex(),
        "takes": b_dhke.carol_verify_dleq(
            secret,
            r,
            PublicKey(bytes.fromhex(given["C"])),
            PrivateKey(bytes.fromhex(given["e"])),
            PrivateKey(bytes.fromhex(given["s"])),
            mint.public_key,
        ),
    }


def rewritten(text: str) -> str:
    """The token as nutshell reads it and writes it again, with its DLEQ proofs."""
    from cashu.core.base import TokenV3, TokenV4

    kind = TokenV4 if text.startswith("cashuB") else TokenV3
    return kind.deserialize(text).serialize(include_dleq=True)


if __name__ == "__main__":
    question = json.load(sys.stdin)
    found = {
        "cases": [answer(case) for case in question.get("cases", [])],
        "tokens": [rewritten(text) for text in question.get("tokens", [])],
    }
    json.dump(found, sys.stdout)
