"""The advisor's own L402 gate (docs/protocol/11-advisor-kit.md §8; 03 §7.5)."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from coincurve import PrivateKey
from hive_advisor.l402_gate import L402Gate
from hive_devnet.embedded import bolt11 as codec
from hive_shared import l402
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError, InvalidParams

KEY = PrivateKey((5).to_bytes(32, "big"))
NOW = 1_770_000_000


class Shop:
    """A wallet whose n-th invoice is paid by the hash of n, and a count of uses."""

    def __init__(self, factor: int = 1) -> None:
        self.made, self.factor, self.now = 0, factor, NOW
        self.uses: Counter[str] = Counter()
        self.gate = L402Gate(
            Secret(b"k" * 32),
            invoice=self.invoice,
            take=self.take,
            random_bytes=lambda size: bytes([self.made]) * size,
            now=lambda: self.now,
        )

    async def invoice(self, amount_sats: int, description: str) -> str:
        self.made += 1
        made = codec.Invoice(
            payee=KEY.public_key.format().hex(),
            payment_hash=hashlib.sha256(self.preimage(self.made)).hexdigest(),
            payment_secret="cd" * 32,
            created_at=self.now,
            amount_msat=amount_sats * 1_000 * self.factor,
            description=description,
        )
        return codec.encode_invoice(made, lambda digest: KEY.sign_recoverable(digest, hasher=None))

    @staticmethod
    def preimage(number: int) -> bytes:
        return hashlib.sha256(b"%d" % number).digest()

    async def take(self, token_id: str, limit: int) -> bool:
        if self.uses[token_id] >= limit:
            return False
        self.uses[token_id] += 1
        return True

    async def paid(self, *caveats: str) -> str:
        """The authorization of a token that was paid for."""
        challenge = await self.gate.challenge(100, caveats)
        macaroon, _ = l402.read_challenge(challenge.header)
        return l402.authorization_header(macaroon, self.preimage(self.made).hex())


async def test_a_paid_token_lets_in_as_often_as_it_says() -> None:
    shop = Shop()
    header = await shop.paid("max_actions=2", "agent=me")
    for _ in range(2):
        assert (await shop.gate.verify(header, {"agent": "me"})).rights.max_actions == 2
    with pytest.raises(HiveError) as used:
        await shop.gate.verify(header, {"agent": "me"})
    assert used.value.symbol == "payment_required"


@pytest.mark.parametrize(
    "caveat", ["agent=you", "contract=c", "schemas=hive:*", "tier=monitor", "max_danger=1"]
)
async def test_what_the_gate_cannot_keep_to_is_refused_and_uses_nothing_up(caveat: str) -> None:
    shop = Shop()
    macaroon, preimage = l402.read_authorization(await shop.paid("max_actions=1"))
    narrowed = l402.decode(macaroon).with_caveats(caveat).text()
    with pytest.raises(HiveError) as refused:
        await shop.gate.verify(l402.authorization_header(narrowed, preimage), {"agent": "me"})
    assert refused.value.symbol == "payment_invalid" and not shop.uses


async def test_forged_unpaid_and_expired_tokens_are_refused() -> None:
    shop = Shop()
    header = await shop.paid(f"expires={NOW + 60}")
    macaroon, preimage = l402.read_authorization(header)
    stranger = L402Gate(
        Secret(b"x" * 32),
        invoice=shop.invoice,
        take=shop.take,
        random_bytes=lambda size: b"r" * size,
        now=lambda: NOW,
    )
    for gate, given in (
        (stranger, header),
        (shop.gate, l402.authorization_header(macaroon, "07" * 32)),
        (shop.gate, "Bearer token"),
    ):
        with pytest.raises(HiveError) as refused:
            await gate.verify(given)
        assert refused.value.symbol == "payment_invalid"
    await shop.gate.verify(l402.authorization_header(macaroon, preimage))
    shop.now += 60
    with pytest.raises(HiveError, match="expired"):
        await shop.gate.verify(header)


async def test_a_token_without_end_a_free_one_and_a_wallet_that_asks_for_more_are_not_sold() -> None:
    with pytest.raises(InvalidParams, match="for ever"):
        await Shop().gate.challenge(100, ("agent=me",))
    with pytest.raises(InvalidParams, match="needs no gate"):
        await Shop().gate.challenge(0, ("max_actions=1",))
    with pytest.raises(InvalidParams, match="200000 msat"):
        await Shop(factor=2).gate.challenge(100, ("max_actions=1",))
