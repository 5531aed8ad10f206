"""Access by the period: an offer of one's own, its invoice bound to who paid it, good until its period ends
(docs/protocol/02-fleet-management.md §8; docs/decisions/0563)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from access_world import Selling, preimage_of
from cl_hive_comms.domain.recurrence import DAY_S
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError


class ByPeriod(Selling):
    """The node makes offers and knows what was paid to them."""

    def __init__(self, directory: Path, methods: tuple[str, ...] = ("bolt11", "l402", "bolt12")) -> None:
        super().__init__(directory, methods, model="subscription")
        self.offers: dict[str, dict[str, Any]] = {}
        self.disabled = False
        self.node.answers |= {"offer": self._offer, "listoffers": self._listoffers, "decode": self._decode}

    def _offer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self.disabled:
            raise ClnError("offer", 1000, "Already exists, but isn't active")
        offer_id = hashlib.sha256(str(sorted(params.items())).encode()).hexdigest()
        self.offers[offer_id] = {**params, "offer_id": offer_id, "bolt12": f"lno1{offer_id[:8]}"}
        return self.offers[offer_id]

    def _listoffers(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"offers": [row for row in self.offers.values() if row["offer_id"] == params["offer_id"]]}

    def _decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        (row,) = [row for row in self.invoices.values() if row["bolt12"] == params["string"]]
        return {
            "type": "bolt12 invoice",
            "valid": True,
            "invoice_payment_hash": row["payment_hash"],
            "invoice_amount_msat": row["amount_msat"],
            "invoice_created_at": self.now,
            "invreq_recurrence_counter": row["counter"],
            "invoice_recurrence_basetime": row["base"],
            "offer_recurrence": {"time_unit": 1, "period": 30, "compulsory_field": True},
        }

    def period(self, offer: str, counter: int = 0, base: int | None = None, paid: bool = True) -> str:
        """Somebody pays a period of an offer; the preimage."""
        (row,) = [row for row in self.offers.values() if row["bolt12"] == offer]
        label = f"{row['offer_id']}-{counter}-{len(self.invoices)}"
        self.invoices[label] = {
            "label": label,
            "payment_hash": hashlib.sha256(preimage_of(label)).hexdigest(),
            "status": "paid" if paid else "unpaid",
            "amount_msat": row["amount"],
            "amount_received_msat": row["amount"],
            "bolt12": f"lni1{len(self.invoices)}",
            "local_offer_id": row["offer_id"],
            "counter": counter,
            "base": self.now if base is None else base,
        }
        return preimage_of(label).hex()


@pytest.fixture
def world(tmp_path: Path) -> ByPeriod:
    return ByPeriod(tmp_path)


def _proof(preimage: str) -> dict[str, JsonValue]:
    return {"method": "bolt12", "preimage": preimage}


async def test_a_period_is_asked_for_paid_and_good_to_its_end(world: ByPeriod) -> None:
    told = await world.asked()
    assert (told["price_sats"], told["methods"]) == (1_000, ["bolt12"])
    assert (told["bolt12"]["amount_sats"], told["bolt12"]["period"]) == (1_000, "30 days")
    assert (await world.asked())["bolt12"] == told["bolt12"], "no second offer"
    preimage = world.period(told["bolt12"]["offer"], base=world.now - 20 * DAY_S)
    done = await world.set_fee(101, payment_proof=_proof(preimage))
    assert done["status"] == 0, done
    assert done["receipt"]["payment"]["method"] == "bolt12"
    world.now += 3_600
    for proof in ({"method": "subscription"}, {"method": "none"}, _proof(preimage)):
        again = await world.set_fee(102, "102x1x0", payment_proof=proof)
        assert again["status"] == 0, again
        world.now += 3_600
    assert world.uses() == [4]
    income = world.row("SELECT kind, amount_msat, state, bound_to FROM comms_payments")
    assert tuple(income)[:3] == ("bolt12", 1_000_000, "settled")
    world.now += 10 * DAY_S
    ended = await world.set_fee(103, payment_proof=_proof(preimage))
    assert "the period that was paid ended at" in ended["error"]["message"]
    assert (await world.asked())["bolt12"] == told["bolt12"]
    following = world.period(told["bolt12"]["offer"], 1, world.now - 30 * DAY_S)
    assert (await world.set_fee(104, payment_proof=_proof(following)))["status"] == 0


async def test_what_does_not_prove_a_period_of_ones_own(world: ByPeriod) -> None:
    offer = (await world.asked())["bolt12"]["offer"]
    unpaid = world.period(offer, paid=False)
    world.offers["ff" * 32] = {
        **next(iter(world.offers.values())),
        "offer_id": "ff" * 32,
        "bolt12": "lno1other",
        "label": "hive:access:" + "ab" * 32,
    }
    others, late = world.period("lno1other"), world.period(offer, base=world.now - 31 * DAY_S)
    for preimage, said in ((unpaid, "no paid invoice"), (others, "no paid invoice"), (late, "ended at")):
        refused = await world.set_fee(101, payment_proof=_proof(preimage))
        assert refused["error"]["slug"] == "payment_invalid", refused
        assert said in refused["error"]["message"], refused
    wrong = await world.set_fee(101, payment_proof={"method": "bolt11", "preimage": unpaid})
    assert "use bolt12 or subscription" in wrong["error"]["message"]
    mixed = await world.set_fee(101, payment_proof={**_proof(unpaid), "payment_hash": "00" * 32})
    assert "not that of payment_hash" in mixed["error"]["message"]
    assert world.uses() == [0], "what had ended is remembered, and bought nothing"


async def test_without_offers_there_is_no_way_to_pay(tmp_path: Path) -> None:
    world = ByPeriod(tmp_path, ("bolt11", "l402"))
    assert (await world.asked())["methods"] == []
    assert world.offers == {}


async def test_an_offer_that_the_operator_ended_is_told(world: ByPeriod) -> None:
    world.disabled = True
    refused = await world.set_fee(101)
    assert refused["error"]["slug"] == "payment_required"
    assert "ended the offer" in refused["error"]["message"]


async def test_what_costs_nothing_stays_free(world: ByPeriod) -> None:
    for method in ("none", "subscription"):
        got = await world.ask("hive:monitor/v1", "channel_list", {}, payment_proof={"method": method})
        assert got["status"] == 0, got
