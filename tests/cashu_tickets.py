"""Escrow tickets for tests: terms as both sides would write them, and the tokens of an honest payer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cashu_mint import PaperMint
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.outputs import finish
from hive_shared.cashu.terms import Terms, decode_terms, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket import CheckedTicket, check_ticket, lock_outputs
from hive_shared.cashu.token import Token
from hive_shared.cashu.wire import Proof
from hive_shared.crypto import Secret, sha256, xonly_pubkey

NOW = 1_800_000_000
URL = "https://mint.example"
PAYER, PAYEE, NODE = (Secret(bytes([number]) * 32) for number in (11, 12, 13))
LOCK_KEY, REFUND_KEY = Secret(b"\x21" * 32), Secret(b"\x22" * 32)
LOCK_SEED = Secret(b"\x33" * 64)


def preimage(item: int) -> bytes:
    """The preimage of an item of these tickets."""
    return sha256(b"preimage %d" % item)


def item(i: int, amount_sats: int, **changes: Any) -> dict[str, Any]:
    """One item: an hour for the work, an hour to redeem."""
    return {
        "i": i,
        "label": f"part {i}",
        "amount_sats": amount_sats,
        "hash": sha256(preimage(i)).hex(),
        "deadline": NOW + 3_600,
        "locktime": NOW + 7_200,
        "cond": {},
        **changes,
    }


def document(items: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """Terms as an object, a single ticket or a batch by the number of items."""
    node = public_key(NODE)
    return {
        "v": 1,
        "ticket_id": "ab" * 16,
        "type": "single" if len(items) == 1 else "batch",
        "mode": "task",
        "payer": {"id": xonly_pubkey(PAYER), "refund_pubkey": public_key(REFUND_KEY)},
        "payee": {"id": xonly_pubkey(PAYEE), "lock_pubkey": public_key(LOCK_KEY)},
        "verifier": {"id": xonly_pubkey(PAYER), "node_id": node},
        "node_id": node,
        "unit": "sat",
        "mints": [{"url": URL, "permille": 1_000}],
        "items": list(items),
        "schema": "hive:fee-policy/v1",
        "task_params_hash": "sha256:" + "cd" * 32,
        "danger": 5,
        "issued_at": NOW,
        "salt": "ef" * 16,
        **changes,
    }


@dataclass
class PaperTicket:
    """A ticket as an honest payer makes it at mints that are paper."""

    terms: Terms
    mints: dict[str, PaperMint]
    proofs: dict[str, list[Proof]] = field(default_factory=dict)

    @classmethod
    def make(cls, document_: Mapping[str, Any], *, input_fee_ppk: int = 0, version: int = 1) -> PaperTicket:
        """Lock every share of every item."""
        terms = decode_terms(document_)
        mints = {
            mint.url: PaperMint(seed=mint.url, input_fee_ppk=input_fee_ppk, version=version)
            for mint in terms.mints
        }
        made = cls(terms, mints)
        for number, mint in enumerate(terms.mints):
            paper = mints[mint.url]
            outputs = [
                each
                for part in terms.items
                for each in lock_outputs(terms, part.i, number, paper.keyset, LOCK_SEED)
            ]
            signatures = [paper.sign(each.message) for each in outputs]
            made.proofs[mint.url] = list(finish(outputs, signatures, paper.keysets))
        return made

    @property
    def signature(self) -> str:
        """The payer's on these terms."""
        return sign_text(PAYER, terms_text(terms_hash(self.terms)))

    def tokens(self) -> list[Token]:
        """One per mint."""
        return [Token(url, tuple(proofs)) for url, proofs in self.proofs.items()]

    def replace_secret(self, secret: str, at: int = 0) -> None:
        """Put a proof with another secret in the place of one, signed by the same mint."""
        url = next(iter(self.proofs))
        self.proofs[url][at] = self.mints[url].proof(self.proofs[url][at].amount, secret)

    def change(self, at: int = 0, **fields: Any) -> None:
        """Alter one proof of the first mint."""
        proofs = next(iter(self.proofs.values()))
        proofs[at] = msgspec.structs.replace(proofs[at], **fields)

    def known(self) -> dict[str, dict[str, Keyset]]:
        """The mints as the payee knows them."""
        return {url: mint.keysets for url, mint in self.mints.items()}

    def check(self, **changes: Any) -> CheckedTicket:
        """What the payee makes of it."""
        given: dict[str, Any] = {
            "payer_signature": self.signature,
            "tokens": self.tokens(),
            "payer_id": xonly_pubkey(PAYER),
            "payee_id": xonly_pubkey(PAYEE),
            "lock_pubkey": public_key(LOCK_KEY),
            "mints": self.known(),
            "seen_ys": frozenset(),
            "now_s": NOW,
            **changes,
        }
        return check_ticket(self.terms, given.pop("payer_signature"), given.pop("tokens"), **given)
