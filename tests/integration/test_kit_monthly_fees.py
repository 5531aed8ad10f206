"""Invoices of a monthly fee that a node asks the kit for: of its own agreements, the agreed amount, one each
period (docs/protocol/11-advisor-kit.md §8, §15.10; docs/decisions/0641)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hire_world import Operator
from hive_advisor.advisor import Advisor
from hive_advisor.config import ReceiveConfig
from hive_shared import credential as credentials
from hive_shared import vc
from hive_shared.bolt11 import read_invoice
from hive_shared.crypto import cln_sign_message
from hive_shared.market import messages
from hive_shared.market.dues import PERIOD_S
from hive_shared.registry import Tier
from kit_world import KitWorld
from payer_world import Payer, opened, settled
from pocket_wallet import PocketWallet

FEE_SATS = 5_000
MONTHLY = {"model": "subscription", "baseMonthlySats": FEE_SATS, "acceptedMethods": ["cashu", "bolt11"]}
DAY_S = 86_400


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    made = KitWorld(tmp_path)
    made.settings = {"receive": ReceiveConfig("cln", cln="pocket")}
    return made


@pytest.fixture
def payer(world: KitWorld) -> Payer:
    return Payer(world)


@pytest.fixture
def pocket(world: KitWorld) -> PocketWallet:
    return PocketWallet(world.now, world.point)


@pytest_asyncio.fixture
async def kit(world: KitWorld, payer: Payer, pocket: PocketWallet) -> AsyncIterator[Advisor]:
    async with opened(world, payer, pocket) as kit:
        yield kit


async def hired(world: KitWorld, kit: Advisor, **compensation: Any) -> Operator:
    """Under contract since now, for 45 days: one whole month and half of another."""
    duration = {"trialDays": 0, "fullTermDays": 45, "noticePeriodDays": 7, "autoRenew": False}
    operator = Operator(world, compensation={**MONTHLY, **compensation}, duration=duration)
    await operator.say(kit, operator.proposal(kit))
    await kit.market.negotiations.accept(operator.contract_id, sign=False)
    await operator.say(kit, operator.sign(kit))
    await kit.market.contracts.sign(operator.contract_id)
    await operator.authorise(kit)
    return operator


async def asked(kit: Advisor, payer: Payer, context: str, start: int, **changes: Any) -> tuple[str, Any]:
    """The kit's answer to a request for a period: verb and body."""
    given = {
        "command_id": None,
        "contract_id": context,
        "purpose": "period",
        "period_start": start,
        "amount_sats": FEE_SATS,
        "idempotency_key": f"period:{start}",
        **changes,
    }
    await payer.ask(kit, context, **given)
    return _answers(kit, payer)[-1]


def _answers(kit: Advisor, payer: Payer) -> list[tuple[str, dict[str, Any]]]:
    return [each for each in payer.said(kit) if each[0] in ("invoice", "error")]


def begun(operator: Operator) -> int:
    return vc.unix(operator.contract["validFrom"], "validFrom")


async def test_a_contracts_fee_is_invoiced_once_each_period_and_paid_by_its_preimage(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    operator = await hired(world, kit)
    start = begun(operator)
    verb, first = await asked(kit, payer, operator.contract_id, start)
    assert verb == "invoice" and first["idempotency_key"] == f"period:{start}"
    assert read_invoice(first["bolt11"]).amount_msat == FEE_SATS * 1_000
    # Asked again, whatever the key: the same invoice.
    for key in (f"period:{start}", "another"):
        assert (await asked(kit, payer, operator.contract_id, start, idempotency_key=key))[1][
            "bolt11"
        ] == first["bolt11"]
    (earning,) = await kit.money.earnings.listed(10)
    assert (earning.contract_id, earning.period_start, earning.purpose) == (
        *(operator.contract_id, start, "period"),
    )
    world.ahead += 2 * 3_600
    await kit.money.tick()
    assert (await kit.money.earnings.listed(10))[0].state == "invoiced", "no command has to be there for it"
    pocket.pay_in(first["bolt11"])
    await kit.money.earnings.received(earning.payment_hash)
    assert (await kit.money.earnings.listed(10))[0].state == "paid"
    verb, told = await asked(kit, payer, operator.contract_id, start, idempotency_key="late")
    assert (verb, told["code"]) == ("error", "already_paid")
    # The half month at the end costs half.
    world.ahead += PERIOD_S
    last = {"purpose": "prorated", "amount_sats": FEE_SATS // 2}
    verb, second = await asked(kit, payer, operator.contract_id, start + PERIOD_S, **last)
    assert (verb, second["amount_sats"]) == ("invoice", FEE_SATS // 2)
    assert len(await kit.money.earnings.listed(10)) == 2


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("amount_mismatch", {"amount_sats": FEE_SATS + 1}),
        ("amount_mismatch", {"amount_sats": FEE_SATS - 1, "purpose": "prorated"}),
        ("invalid_params", {"purpose": "bonus"}),
        ("invalid_params", {"purpose": "prorated"}),
        ("invalid_params", {"period_start": None}),
        ("invalid_params", {"shift": -DAY_S}),
        ("invalid_params", {"shift": 32 * DAY_S}),
        ("invalid_params", {"shift": 46 * DAY_S}),
        ("not_found", {"contract_id": "00000000-0000-4000-8000-0000000000ff"}),
    ],
)
async def test_what_was_not_agreed_gets_no_invoice(
    world: KitWorld, kit: Advisor, payer: Payer, code: str, changes: dict[str, Any]
) -> None:
    operator = await hired(world, kit)
    start = begun(operator) + changes.pop("shift", 0)
    verb, told = await asked(kit, payer, operator.contract_id, start, **changes)
    assert (verb, told["code"]) == ("error", code)
    assert await kit.money.earnings.listed(10) == []


async def test_a_period_is_not_invoiced_twice_by_another_begin(
    world: KitWorld, kit: Advisor, payer: Payer
) -> None:
    operator = await hired(world, kit)
    start = begun(operator)
    await asked(kit, payer, operator.contract_id, start)
    for moved in (1, 10 * DAY_S):
        found = {"purpose": "period", "idempotency_key": f"moved {moved}".replace(" ", "-")}
        verb, told = await asked(kit, payer, operator.contract_id, start + moved, **found)
        assert (verb, told["code"]) == ("error", "already_invoiced"), moved
    verb, told = await asked(
        kit, payer, operator.contract_id, start + PERIOD_S, idempotency_key=f"period:{start}"
    )
    assert verb == "error"
    assert len(await kit.money.earnings.listed(10)) == 1


async def test_a_contract_without_bolt11_or_one_that_ended_owes_no_invoice(
    world: KitWorld, kit: Advisor, payer: Payer
) -> None:
    operator = await hired(world, kit, acceptedMethods=["cashu"])
    verb, told = await asked(kit, payer, operator.contract_id, begun(operator))
    assert (verb, told["code"]) == ("error", "amount_mismatch")
    await operator.say(kit, messages.EmergencyTermination(operator.contract_id, "done"))
    verb, told = await asked(kit, payer, operator.contract_id, begun(operator), idempotency_key="two")
    assert (verb, told["code"]) == ("error", "conflict")
    assert await kit.money.earnings.listed(10) == []


async def test_a_credential_without_a_contract_says_its_fee_itself(
    world: KitWorld, kit: Advisor, payer: Payer
) -> None:
    now, node = world.now(), world.node
    pay = {"model": "subscription", "base_monthly_sats": FEE_SATS, "rate_sats": 0}
    made = credentials.new(
        template=credentials.Template("custom", (), Tier.STANDARD, ("hive:monitor/*",), {}),
        credential_id="00000000-0000-4000-8000-0000000000dd",
        node_id=node.node_id,
        agent_key=kit.pubkey,
        valid_from=now,
        valid_until=now + 90 * DAY_S,
        compensation=pay,
    )
    text = cln_sign_message(node.hsm, credentials.signing_text(made))
    document = dict(credentials.to_doc(credentials.with_signature(made, text)))
    await world.push(kit, node.offer(kit.pubkey, credential=document))
    (client,) = await kit.clients.all()
    verb, told = await asked(kit, payer, made.credential_id, now)
    assert (verb, told["code"]) == ("error", "conflict"), "not accepted yet"
    await kit.clients.accept(client, "alice")
    verb, invoice = await asked(kit, payer, made.credential_id, now)
    assert (verb, invoice["amount_sats"]) == ("invoice", FEE_SATS)


async def test_a_wallet_that_is_away_delays_the_invoice_and_none_is_made_twice(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    operator = await hired(world, kit)
    start = begun(operator)
    pocket.works = False
    await payer.ask(
        *(kit, ""),
        **{"command_id": None, "contract_id": operator.contract_id, "purpose": "period"},
        **{"period_start": start, "amount_sats": FEE_SATS},
    )
    assert _answers(kit, payer) == []
    pocket.works = True
    await kit.money.tick()
    await settled(kit)
    assert [verb for verb, _ in _answers(kit, payer)] == ["invoice"] and len(pocket.invoices) == 1
