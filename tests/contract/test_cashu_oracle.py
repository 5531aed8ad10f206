"""Ecash library beside nutshell's own primitives in the mint's environment, the same numbers both ways."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cashu_mint import PaperMint
from hive_devnet.mint import mint_environment, mint_installed
from hive_shared.cashu import curve
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.secrets import build_secret, htlc
from hive_shared.crypto import Secret

pytestmark = pytest.mark.skipif(not mint_installed(), reason="the mint's environment is not installed")
MINT = PaperMint(seed="oracle", amounts=(1, 8))
KEY = hashlib.sha256(b"oracle/8").digest()


def secrets_of_all_kinds() -> list[str]:
    alice, bob = (public_key(Secret(bytes([number]) * 32)) for number in (1, 2))
    locks = [
        build_secret(htlc("ab" * 32, alice, locktime=1_900_000_000 + n, refund=bob), f"{n:032x}")
        for n in range(4)
    ]
    return [*locks, "", "plain", "ü⚡", *(f"{n:064x}" for n in range(12))]


def ask(environment: Path, script: Path, question: object) -> Any:
    done = subprocess.run(
        [environment / "bin" / "python", script],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


def test_nutshell_makes_and_takes_what_we_do() -> None:
    cases: list[dict[str, Any]] = []
    for secret in secrets_of_all_kinds():
        r = hashlib.sha256(b"r" + secret.encode()).digest()
        proof = MINT.proof(8, secret)
        assert proof.dleq is not None
        dleq = {"C": proof.C, "e": proof.dleq.e, "s": proof.dleq.s}
        cases.append({"secret": secret, "r": r.hex(), "mint_key": KEY.hex(), "dleq": dleq})
    answers = ask(mint_environment(), Path(__file__).with_name("nutshell_oracle.py"), cases)
    for case, found in zip(cases, answers, strict=True):
        secret, r = case["secret"], bytes.fromhex(case["r"])
        assert found["A"] == MINT.keyset.key(8)
        assert found["Y"] == curve.y_of(secret)
        assert found["B_"] == curve.blind(secret, r)
        assert found["C"] == curve.unblind(found["C_"], r, found["A"]) == case["dleq"]["C"]
        assert curve.verify_dleq(found["A"], found["B_"], found["C_"], found["e"], found["s"])
        assert curve.verify_proof_dleq(found["A"], secret, found["C"], found["e"], found["s"], case["r"])
        assert found["takes"] is True
    altered = [{**case, "dleq": {**case["dleq"], "s": case["dleq"]["e"]}} for case in cases[:3]]
    script = Path(__file__).with_name("nutshell_oracle.py")
    assert [each["takes"] for each in ask(mint_environment(), script, altered)] == [False] * 3
