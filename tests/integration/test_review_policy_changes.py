"""Changes of the policy that meet each other (docs/protocol/08-client-and-plugins.md §5.4)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.policy_service import Limits, PolicyService
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.storage import policy_store
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.state_store import StateStore
from hive_shared import crypto
from hive_shared.store import Db
from pipeline_world import HSM_KEY, NODE_ID, NOW, Keys

MIGRATIONS = Path(policy_store.__file__).parent / "migrations"


async def zbase(text: str) -> str:
    return crypto.cln_sign_message(HSM_KEY, text)


class Operator:
    """The policy of one node and its clock."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.db = Db.open(path / "comms.db", MIGRATIONS)
        receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            Keys(),
            node_id=lambda: NODE_ID,
            node_keys=lambda: (Keys.pubkey,),
            signmessage=zbase,
            now=lambda: self.now,
        )
        alerts = AlertService(self.db, StateStore(), now=lambda: self.now, log=lambda *_, **__: None)
        self.alerts = alerts
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            receipts=receipts,
            alerts=alerts,
            limits=lambda: Limits(24, 4),
            now=lambda: self.now,
            random_bytes=bytes,
            log=lambda *_, **__: None,
        )

    @property
    def protected(self) -> frozenset[str]:
        return self.policy.snapshot().settings(self.now).protected_channels


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    made = Operator(tmp_path)
    await made.policy.load("moderate", "")
    yield made
    made.db.close()


async def test_two_protections_at_once_both_hold(operator: Operator) -> None:
    channels = [f"{n}x1x0" for n in range(1, 6)]
    await asyncio.gather(
        *(operator.policy.extend_list("protected_channels", [name], add=True) for name in channels)
    )
    assert operator.protected == frozenset(channels)
    await operator.policy.load("moderate", "")
    assert operator.protected == frozenset(channels)


async def test_acceptance_08_07_an_override_expires_while_the_plugin_is_down(
    operator: Operator, tmp_path: Path
) -> None:
    await operator.policy.override({"max_danger": 7}, "1h")
    assert operator.policy.snapshot().settings(operator.now).max_danger == 7
    operator.db.close()
    early = Operator(tmp_path)
    early.now = NOW + 3_599
    await early.policy.load("moderate", "")
    assert early.policy.snapshot().settings(early.now).max_danger == 7, "it is kept over a restart"
    early.db.close()
    late = Operator(tmp_path)
    late.now = NOW + 3_600
    await late.policy.load("moderate", "")
    # Before any loop has run: the clock alone ends it.
    assert late.policy.snapshot().settings(late.now).max_danger == 6
    await late.policy.expire_overrides()
    assert cast("object", late.policy.snapshot().override) is None
    late.db.close()


async def test_an_override_that_runs_out_does_not_undo_a_protection(operator: Operator) -> None:
    await operator.policy.override({"max_danger": 5}, "1h")
    operator.now += 3_600
    await asyncio.gather(
        operator.policy.expire_overrides(),
        operator.policy.extend_list("protected_channels", ["7x1x0"], add=True),
        operator.policy.add_rule({"id": "r", "match": {"days": ["sun"]}, "effect": "deny"}),
    )
    await operator.policy.load("moderate", "")
    assert operator.protected == frozenset({"7x1x0"})
    assert [rule.id for rule in operator.policy.snapshot().rules] == ["r"]
    assert cast("object", operator.policy.snapshot().override) is None


async def test_another_time_zone_says_which_rules_it_moves(operator: Operator) -> None:
    async def told() -> list[str]:
        return [alert.text for alert in await operator.alerts.recent()]

    hours = {"start": "23:00", "end": "07:00"}
    await operator.policy.add_rule({"id": "sunday", "match": {"days": ["sun"]}, "effect": "deny"})
    await operator.policy.add_rule({"id": "always", "match": {"danger_gte": 4}, "effect": "confirm"})
    await operator.policy.set({"time_restrictions": {"quiet_hours": {**hours, "timezone": "UTC"}}})
    assert await told() == []
    await operator.policy.set({"time_restrictions": {"quiet_hours": {**hours, "timezone": "Asia/Tokyo"}}})
    (text,) = await told()
    assert "rule sunday, now in Asia/Tokyo" in text and "always" not in text
