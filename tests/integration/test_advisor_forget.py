"""Forgetting a client: what is kept of it goes, receipts and evidence stay and verify
(docs/protocol/11-advisor-kit.md §14). No relay, one process."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from hive_advisor.advisor import MIGRATIONS
from hive_shared.errors import Conflict
from hive_shared.store import Tx
from kit_world import KitWorld, run_fee

KEPT = {"adv_clients", "adv_credentials", "adv_receipts", "adv_evidence", "adv_counters"}
# Of every client, or found by something else than the client's id.
OF_ALL = {
    *("adv_meta", "adv_events", "adv_audit", "adv_approvals", "adv_questions", "adv_batches"),
    *("adv_inbox", "adv_runes", "adv_checkpoints", "adv_ping_answers", "adv_ways"),
    *("adv_cashu_proofs", "adv_cashu_ops", "adv_cashu_counters", "adv_cashu_mints", "adv_cashu_keysets"),
    *("adv_cashu_locks", "adv_cashu_lock_ys", "adv_token_ys"),
    *("adv_tickets", "adv_ticket_parts", "adv_ticket_items", "adv_ticket_disputes"),
    *("adv_threads", "adv_messages", "adv_contracts", "adv_profile", "adv_offers", "adv_market_events"),
}


def tables() -> dict[str, set[str]]:
    """Columns by table, as the migrations leave them."""
    connection = sqlite3.connect(":memory:")
    for file in sorted(MIGRATIONS.glob("*.sql")):
        connection.executescript(file.read_text(encoding="utf-8"))
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
        for name in names
        if name.startswith("adv_")
    }


async def test_every_table_of_a_client_is_erased_or_kept_on_purpose(tmp_path: Path) -> None:
    world, told = KitWorld(tmp_path), []
    async with world.open() as kit:
        client = await world.hired(kit)
        world.ahead = 400 * 86_400
        kit._db._connection.set_trace_callback(told.append)
        await kit.forgetting.forget(client)
        kit._db._connection.set_trace_callback(None)
    erased = {line.split()[2] for line in told if line.startswith("DELETE FROM adv_")}
    found = tables()
    assert {name for name, columns in found.items() if "client_id" in columns} == KEPT | (erased - OF_ALL)
    assert found.keys() - KEPT - erased <= OF_ALL
    assert {"adv_questions", "adv_inbox", "adv_runes"} <= erased


async def test_a_client_is_forgotten_once_its_credential_has_ended(tmp_path: Path) -> None:
    world = KitWorld(tmp_path)
    async with world.open() as kit:
        client = await world.hired(kit)
        await run_fee(kit)
        await kit.journal.decide(client, "fee", "103x1x0", "to try")
        await kit.pump()
        with pytest.raises(Conflict, match="still has a valid credential"):
            await kit.forgetting.forget(client)
        assert len(await kit.commands.listed(client, None, 50)) > 0
        (credential,) = await kit.clients.credentials(client)
        world.ahead = credential.valid_until - world.now() + 5

        def under_way(tx: Tx, state: str) -> None:
            tx.execute("UPDATE adv_commands SET state = ? WHERE schema = 'hive:fee-policy/v1'", (state,))

        await kit._db.write(lambda tx: under_way(tx, "pending"))
        with pytest.raises(Conflict, match="1 commands to 'alice' have no end yet"):
            await kit.forgetting.forget(client)
        await kit._db.write(lambda tx: under_way(tx, "done"))
        assert await kit.forgetting.forget(client) >= 3
        left = await kit.clients.named("alice")
        assert (left.state, left.remote_name, left.relays) == ("ended", "", ())
        assert await kit.commands.listed(client, None, 50) == []
        assert await kit.journal.decisions(client, False, 10) == []
        (receipt,) = await kit.receipts.every(left)
        assert json.loads(json.dumps(receipt.document))["action"] == "set_single"
        assert (await kit.receipts.verify(left))["ok"]
        assert (await kit.delivery.routes(left)).socket_path is None
        assert "forgotten" in [event.kind for event in await kit.past_events(0, 500)]
        assert await kit._db.read(kit._command_rows.open) == []
    world.ahead = 0
    async with world.open() as kit:
        await kit.pump()
        # It may offer itself again.
        again = await world.hired(kit)
        assert again.client_id == client.client_id
