"""A row that cannot be read is named in its list, which shows the others, page by page
(docs/decisions/0698-a-bad-row-of-a-list.md)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cl_hive.commands.escrow_calls import EscrowCalls
from cl_hive_comms.commands.escrow import EscrowCommands
from cl_hive_comms.commands.payments import PaymentCommands
from cl_hive_comms.domain.payment_machine import State
from escrow_tables import ticket_rows
from hive_shared.cashu.escrow_rows import TicketQuery, with_items
from hive_shared.crypto import Sealer, Secret
from hive_shared.runtime_spec import MethodSpec, parse_params
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from paying_world import PayingWorld

ESCROW = Path(__file__).parents[2] / "cl-hive-comms/cl_hive_comms/storage/migrations/0031_escrow.sql"
NOBODY: Any = SimpleNamespace(find=lambda _: None)


async def pages(spec: MethodSpec, **given: Any) -> list[dict[str, Any]]:
    """Every page of one entry, until there is none."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    for _ in range(9):
        page = await spec.handler(parse_params(spec, {**given, **cursor, "limit": 1}))
        found += page["items"]
        if "next_cursor" not in page:
            return found
        cursor = {"cursor": page["next_cursor"]}
    raise AssertionError("the pages have no end")


async def test_payments(tmp_path: Path) -> None:
    world = PayingWorld(tmp_path)
    for word in ("a", "b", "c"):
        world.now += 1
        await world.service.pay(world.order(world.bill(word)))
    first, bad, last = world.stored()
    await world.db.write(
        lambda tx: tx.execute(
            "UPDATE comms_payments SET target_enc = x'00', state = ? WHERE payment_id = ?",
            (State.UNKNOWN.value, bad.payment_id),
        )
    )
    commands = PaymentCommands(*[lambda: None] * 6, lambda: NOBODY)  # type: ignore[arg-type]
    commands._history = lambda: world.history
    spec = next(each for each in commands.specs() if each.name == "hive-client-payments")
    found = await pages(spec, action="history")
    assert [row["payment_id"] for row in found] == [each.payment_id for each in (last, bad, first)]
    named = {"payment_id": bad.payment_id, "created_at": bad.created_at, "unreadable": "seal_broken"}
    assert found[1] == named and "unreadable" not in found[0]
    summary = await spec.handler(parse_params(spec, {}))
    assert summary["open"] == [named] and summary["owed"] == []
    world.now += 86_400
    assert [row.state for row in await world.history.unresolved()] == ["unreadable"]


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE comms_escrow_tickets SET terms_json = '{}' WHERE ticket_id = ?",
        "UPDATE comms_escrow_items SET cond_json = '{' WHERE ticket_id = ?",
    ],
    ids=["terms", "item"],
)
async def test_tickets_of_node_and_fleet(harm: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.executescript(ESCROW.read_text())
    store = EscrowStore(Sealer({1: Secret(bytes(32))}, 1), NODE_TICKETS)
    names = [f"{number:032x}" for number in range(3)]
    for number, name in enumerate(names):
        store.add_ticket(connection, *ticket_rows(1_000 + number, ticket_id=name))
    connection.execute(harm, (names[1],))

    async def tickets(query: TicketQuery) -> Any:
        return with_items(store, connection, query)

    service: Any = SimpleNamespace(tickets=tickets)
    commands = EscrowCommands(
        lambda: service, lambda: NOBODY, lambda: NOBODY, lambda: NOBODY, lambda _: "", lambda: 3
    )
    (spec,) = commands.specs()
    found = (await pages(spec, action="list"))[:3]
    assert [row["ticket_id"] for row in found] == names[::-1]
    assert (found[1]["created_at"], "unreadable" in found[1]) == (1_001, True)
    assert [row.get("amount_sats") for row in found] == [100, None, 100]
    calls, cursor = EscrowCalls(service, NOBODY), None
    for name in names[::-1]:
        page = await calls.list({"cursor": cursor, "limit": 1, "status": None, "agent_id": None})
        assert page["items"][0]["ticket_id"] == name
        assert ("unreadable" in page["items"][0]) == (name == names[1])
        cursor = page.get("next_cursor")
    assert cursor is None
    connection.close()
