"""Escrow tickets for tests: terms as both sides would write them, and the tokens of an honest payer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
STRANGER = public_key(Secret(b"\x44" * 32))


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


def edit(**tags: list[str] | None) -> Callable[[str], str]:
    """Another condition with the same nonce: tags set, added or taken away."""

    def change(secret: str) -> str:
        kind, body = json.loads(secret)
        kept = [[name, *values] for name, *values in body["tags"] if name not in tags]
        body["tags"] = [*kept, *([name, *values] for name, values in tags.items() if values is not None)]
        return json.dumps([kind, body], separators=(",", ":"))

    return change


def as_p2pk_with_hash(secret: str) -> str:
    """The older form: a key to pay to and the hash as a tag, which mints pass over."""
    _, body = json.loads(secret)
    tags = [["hash", body["data"]], *([n, *v] for n, *v in body["tags"] if n != "pubkeys")]
    key = public_key(LOCK_KEY)
    return json.dumps(["P2PK", {"nonce": body["nonce"], "data": key, "tags": tags}], separators=(",", ":"))


SECRET_VARIANTS: list[tuple[str, str, Callable[[str], str]]] = [
    # What is wrong, the reason it is refused for, and how an honest secret becomes it.
    ("hand-made P2PK with a hash tag", "unknown_tag", as_p2pk_with_hash),
    ("other refund key", "refund", edit(refund=[STRANGER])),
    ("no refund key", "refund", edit(refund=None)),
    ("second refund key", "refund", edit(refund=[public_key(REFUND_KEY), STRANGER])),
    ("extra pubkey", "pubkeys", edit(pubkeys=[public_key(LOCK_KEY), STRANGER])),
    ("another's pubkey", "pubkeys", edit(pubkeys=[STRANGER])),
    ("no pubkey", "pubkeys", edit(pubkeys=None)),
    ("n_sigs=2", "n_sigs", edit(n_sigs=["2"])),
    ("n_sigs=1", "n_sigs", edit(n_sigs=["1"])),
    ("n_sigs_refund=1", "n_sigs", edit(n_sigs_refund=["1"])),
    ("SIG_ALL", "sigflag", edit(sigflag=["SIG_ALL"])),
    ("SIG_INPUTS spelt out", "sigflag", edit(sigflag=["SIG_INPUTS"])),
    (
        "duplicate tag",
        "duplicate_tag",
        lambda text: text.replace('["refund"', f'["locktime","{NOW + 7_200}"],["refund"'),
    ),
    ("duplicate JSON key", "duplicate_key", lambda text: text.replace('"data"', '"data":"00","data"', 1)),
    ("locktime abc", "locktime", edit(locktime=["abc"])),
    ("locktime one second early", "locktime", edit(locktime=[str(NOW + 7_199)])),
    ("no locktime", "locktime", edit(locktime=None)),
    ("600 characters", "secret_length", lambda text: text[:-2] + " " * (600 - len(text)) + text[-2:]),
    ("other hash", "hash", lambda text: text.replace(json.loads(text)[1]["data"], "ab" * 32)),
    ("wrong nonce", "nonce", lambda text: text.replace(json.loads(text)[1]["nonce"], "ab" * 16)),
    ("tags in another order", "form", edit(locktime=[str(NOW + 7_200)])),
    ("a space", "form", lambda text: text.replace(",", ", ", 1)),
    ("plain secret", "secret_form", lambda text: "ab" * 32),
]
