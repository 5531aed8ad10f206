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
from hive_shared.cashu.token import Token, decode_token, encode_token, encode_v3
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


def ask(home: Path, **question: object) -> Any:
    done = subprocess.run(
        [mint_environment() / "bin" / "python", Path(__file__).with_name("nutshell_oracle.py")],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=home,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "CASHU_DIR": str(home)},
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


def test_nutshell_makes_and_takes_what_we_do(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = []
    for secret in secrets_of_all_kinds():
        r = hashlib.sha256(b"r" + secret.encode()).digest()
        proof = MINT.proof(8, secret)
        assert proof.dleq is not None
        dleq = {"C": proof.C, "e": proof.dleq.e, "s": proof.dleq.s}
        cases.append({"secret": secret, "r": r.hex(), "mint_key": KEY.hex(), "dleq": dleq})
    altered = [{**case, "dleq": {**case["dleq"], "s": case["dleq"]["e"]}} for case in cases[:3]]
    answers = ask(tmp_path, cases=[*cases, *altered])["cases"]
    assert [each["takes"] for each in answers[len(cases) :]] == [False] * 3
    for case, found in zip(cases, answers, strict=False):
        secret, r = case["secret"], bytes.fromhex(case["r"])
        assert found["A"] == MINT.keyset.key(8)
        assert found["Y"] == curve.y_of(secret)
        assert found["B_"] == curve.blind(secret, r)
        assert found["C"] == curve.unblind(found["C_"], r, found["A"]) == case["dleq"]["C"]
        assert curve.verify_dleq(found["A"], found["B_"], found["C_"], found["e"], found["s"])
        assert curve.verify_proof_dleq(found["A"], secret, found["C"], found["e"], found["s"], case["r"])
        assert found["takes"] is True


def test_nutshell_reads_our_tokens_and_we_read_its(tmp_path: Path) -> None:
    proofs = tuple(MINT.proof(amount, f"secret {amount}") for amount in (1, 8))
    tokens = [Token("https://mint.example", proofs, memo) for memo in (None, "thanks ⚡")]
    theirs = ask(tmp_path, tokens=[write(each) for each in tokens for write in (encode_token, encode_v3)])[
        "tokens"
    ]
    assert [text[:6] for text in theirs] == ["cashuB", "cashuA"] * 2
    assert [decode_token(text) for text in theirs] == [each for each in tokens for _ in range(2)]
