"""How the policy of a backup joins the node's, with every combination of timed overrides
(docs/protocol/08-client-and-plugins.md §8.4, docs/decisions/0311-timed-overrides-in-a-restore.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backup_world import WORD, BackupWorld
from cl_hive_comms.domain.backup import Row
from cl_hive_comms.domain.policy_document import canonical_text, merged, preset_document
from cl_hive_comms.domain.policy_rules import Override, parse_rule
from cl_hive_comms.services.restore_parts import Outcome
from cl_hive_comms.services.restore_policy import restore_policy
from cl_hive_comms.storage.policy_store import PolicyStore
from pipeline_world import NOW
from policy_world import Operator

HOUR = 3_600
SAID = {
    "earlier": Override("b" * 16, {"max_danger": 7}, NOW - 60, NOW + HOUR),
    "later": Override("b" * 16, {"max_danger": 7}, NOW + 5, NOW + HOUR),
    "over": Override("b" * 16, {"max_danger": 7}, NOW - HOUR, NOW + 30),
}
"""The backup's override, beside the node's that begins at NOW; the restore is at NOW + 60."""


def rows(
    override: Override | None = None, *, at: int = NOW + 30, preset: str = "moderate", rules: int = 0
) -> list[Row]:
    """The part policy of a backup."""
    text = canonical_text(preset_document(preset))
    found = [Row("policy", "comms_policy", {"document": text, "updated_at": at})]
    for number in range(rules):
        rule = parse_rule({"id": f"r{number}", "match": {"danger_gte": 3}, "effect": "confirm"})
        doc = {"rule": rule.to_doc(), "source": "operator"}
        found.append(Row("policy", "comms_policy_rules", doc))
    if override is not None:
        doc = {
            "id": override.id,
            "values": dict(override.values),
            "starts_at": override.starts_at,
            "expires_at": override.expires_at,
        }
        found.append(Row("policy", "comms_policy_overrides", doc))
    return found


async def restore(world: Operator, backup: list[Row], *, replace: bool) -> Outcome:
    async with world.policy.restoring():

        def body(tx: object) -> Outcome:
            outcome, taken = restore_policy(
                tx,  # type: ignore[arg-type]
                PolicyStore(),
                backup,
                replace=replace,
                by_file=world.policy.source == "file",
                now=world.now,
            )
            if taken is not None:
                world.record.followed(tx, "restore", before=taken.before, after=taken.after)  # type: ignore[arg-type]
            return outcome

        return await world.db.write(body)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Operator]:
    world = Operator(tmp_path)
    await world.policy.load("moderate", "")
    # Not as the first start left it.
    await world.policy.set({"min_fee_ppm": 1})
    yield world
    world.db.close()


def in_force(world: Operator) -> str:
    override = world.policy.snapshot().active_override(world.now)
    return "none" if override is None else ("said" if override.id == "b" * 16 else "own")


TABLE = [
    # (node, backup, mode, whose policy is newer) -> in force afterwards
    *((own, said, "merge", "node", own) for own in ("none", "own") for said in ("none", *SAID)),
    ("none", "none", "merge", "backup", "none"),
    ("none", "earlier", "merge", "backup", "said"),
    ("none", "later", "merge", "backup", "said"),
    ("none", "over", "merge", "backup", "none"),
    ("own", "none", "merge", "backup", "own"),
    ("own", "earlier", "merge", "backup", "own"),
    ("own", "later", "merge", "backup", "said"),
    ("own", "over", "merge", "backup", "own"),
    *(
        (own, said, "replace", newer, "said" if said in ("earlier", "later") else "none")
        for own in ("none", "own")
        for said in ("none", *SAID)
        for newer in ("node", "backup")
    ),
]


@pytest.mark.parametrize(("own", "said", "mode", "newer", "after"), TABLE)
async def test_every_combination_of_timed_overrides(
    node: Operator, own: str, said: str, mode: str, newer: str, after: str
) -> None:
    if own == "own":
        await node.policy.override({"max_danger": 4}, "2h")
    node.now += 60
    receipts = len(await node.recorded("policy_followed"))
    backup = rows(SAID.get(said), at=NOW + 30 if newer == "backup" else NOW - 30)
    outcome = await restore(node, backup, replace=mode == "replace")
    assert in_force(node) == after
    danger = {"none": 6, "own": 4, "said": 7}
    assert node.policy.snapshot().settings(node.now).max_danger == danger[after]
    taken = mode == "replace" or newer == "backup"
    # The result tells the truth: rows that came into force, and why the others did not.
    begun = taken and after == "said"
    assert (outcome.found, outcome.restored) == (len(backup), taken + begun if taken else 0)
    assert outcome.kept == outcome.found - outcome.restored
    assert ("timed override is not begun" in outcome.note) == (taken and said != "none" and not begun)
    lost = own == "own" and after != "own"
    assert ("this node's timed override ends" in outcome.note) == lost
    # Never silently: one receipt for a change, an alert where more is allowed than before.
    was = danger[own]
    followed = (await node.recorded("policy_followed"))[receipts:]
    assert len(followed) == taken
    if taken:
        assert ("timed override" in followed[0]["differs"]) == (after != own)
        assert followed[0]["source"] == "restore"
    assert any("max_danger" in text for text in await node.told()) == (danger[after] > was)
    assert ("it allows more" in outcome.note) == any("restored backup" in t for t in await node.told())
    # As the tables say it, so does a restart.
    await node.policy.load("moderate", "")
    assert in_force(node) == after


@pytest.mark.parametrize("mode", ["merge", "replace"])
async def test_what_the_operator_ended_here_does_not_begin_again(node: Operator, mode: str) -> None:
    own = await node.policy.override({"max_danger": 7}, "2h")
    backup = rows(own, at=NOW + 30)
    await node.policy.clear()
    node.now += 60
    outcome = await restore(node, backup, replace=mode == "replace")
    assert in_force(node) == "none" and "ended here by hand" in outcome.note


@pytest.mark.parametrize(("mode", "begins"), [("merge", False), ("replace", True)])
async def test_what_another_override_replaced_begins_again_only_with_replace(
    node: Operator, mode: str, begins: bool
) -> None:
    first = await node.policy.override({"max_danger": 7}, "2h")
    second = await node.policy.override({"max_danger": 5}, "2h")
    node.now += 60
    outcome = await restore(node, rows(first, at=NOW + 30), replace=mode == "replace")
    override = node.policy.snapshot().override
    assert override is not None and override.id == (first if begins else second).id
    assert ("not begun" in outcome.note) is not begins


@pytest.mark.parametrize("mode", ["merge", "replace"])
async def test_the_same_policy_again_changes_and_tells_nothing(node: Operator, mode: str) -> None:
    node.now += 60
    backup = rows(SAID["earlier"], rules=2)
    first = await restore(node, backup, replace=True)
    assert (first.found, first.restored, first.kept) == (4, 4, 0)
    version = node.policy.snapshot().version
    again = await restore(node, [*rows(at=NOW + HOUR), *backup[1:]], replace=mode == "replace")
    assert (again.restored, again.kept) == (0, 4)
    assert node.policy.snapshot().version == version
    assert len(await node.recorded("policy_followed")) == 1


async def test_an_override_that_ran_out_unnoticed_is_none(node: Operator) -> None:
    await node.policy.override({"max_danger": 4}, "1h")
    node.now += HOUR
    later = Override("b" * 16, {"max_danger": 7}, NOW - 60, NOW + 2 * HOUR)
    outcome = await restore(node, rows(later), replace=False)
    assert in_force(node) == "said" and "ends" not in outcome.note


async def test_rules_that_a_restore_takes_away_are_named(node: Operator) -> None:
    await node.policy.add_rule({"id": "mine", "match": {}, "effect": "deny"})
    await node.policy.add_rule({"id": "theirs", "match": {}, "effect": "deny"}, source="cl-hive")
    node.now += 60
    outcome = await restore(node, rows(rules=1), replace=True)
    for name in ("rule mine", "rule theirs"):
        assert name in outcome.note and name in (await node.told())[0]
    assert [rule.id for rule in node.policy.snapshot().rules] == ["r0"]


async def test_of_very_many_rules_the_first_are_named(node: Operator) -> None:
    for number in range(150):
        await node.policy.add_rule({"id": f"mine{number:03}", "match": {}, "effect": "deny"})
    node.now += 60
    outcome = await restore(node, rows(), replace=True)
    for text in (outcome.note, (await node.told())[0]):
        assert "rule mine018 and 131 more" in text and "mine019" not in text
    (said,) = await node.recorded("policy_followed")
    # Beside the rules the key that the fixture set.
    assert (len(said["differs"]), said["differs"][-1]) == (101, "and 51 more")


async def test_where_a_file_is_the_document_rules_and_override_are_restored(
    node: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "policy.json"
    text = canonical_text(merged(preset_document("conservative"), {"max_danger": 3}))
    file.write_text(text)
    await node.policy.reload_file(str(file))
    node.now += 60
    outcome = await restore(node, rows(SAID["earlier"], preset="aggressive", rules=1), replace=True)
    assert (outcome.found, outcome.restored, outcome.kept) == (3, 2, 1)
    assert "the policy file stays the document" in outcome.note
    snapshot = node.policy.snapshot()
    assert canonical_text(snapshot.document) == text and [rule.id for rule in snapshot.rules] == ["r0"]
    # A file that turned bad while we run keeps its last good document over a restore.
    file.write_text("{")
    await node.policy.watch_file()
    await restore(node, rows(preset="aggressive"), replace=True)
    assert node.policy.snapshot().locked is None and node.policy.file_problem is not None
    assert canonical_text(node.policy.snapshot().document) == text
    # One that was bad at the start leaves only reading, before and after.
    await node.policy.load("moderate", str(file))
    await restore(node, rows(preset="aggressive", rules=1), replace=True)
    assert node.policy.snapshot().locked is not None


async def test_a_change_beside_a_restore_is_neither_lost_nor_undoes_it(node: Operator) -> None:
    node.now += 60
    backup = rows(SAID["earlier"], preset="aggressive", rules=1)
    await asyncio.gather(
        node.policy.set({"min_fee_ppm": 2}),
        restore(node, backup, replace=True),
        node.policy.set({"max_fee_ppm": 900}),
        node.policy.add_rule({"id": "mine", "match": {}, "effect": "deny"}),
    )
    snapshot = node.policy.snapshot()
    assert (snapshot.preset, snapshot.document.overrides) == ("aggressive", {"max_fee_ppm": 900})
    assert [rule.id for rule in snapshot.rules] == ["r0", "mine"] and in_force(node) == "said"
    await node.policy.load("moderate", "")
    assert node.policy.snapshot() == snapshot


@pytest.mark.parametrize("what", ["document", "rule", "override"])
async def test_what_cannot_be_read_is_refused_whole(node: Operator, what: str) -> None:
    backup = rows(SAID["earlier"], rules=1)
    place = {"document": 0, "rule": 1, "override": 2}[what]
    wrong = {"document": {"document": "{"}, "rule": {"rule": {"id": "x"}}, "override": {"values": {"x": 1}}}
    backup[place] = Row("policy", backup[place].table, {**backup[place].values, **wrong[what]})
    before = node.policy.snapshot()
    outcome = await restore(node, backup, replace=True)
    assert outcome.restored == 0 and "cannot be read" in outcome.note
    assert node.policy.snapshot() == before


async def test_a_dry_run_says_the_same_and_tells_nobody(tmp_path: Path) -> None:
    """Through the file and the whole restore."""
    world = BackupWorld(tmp_path)
    await world.start()
    await world.policy.load("moderate", "")
    await world.policy.override({"max_danger": 7}, "2h")
    await world.backups.backup(tmp_path / "a.backup", WORD)
    await world.policy.set_preset("conservative")
    await world.policy.override({"max_danger": 2}, "1h")
    world.alerts._log = world._note
    before = await world.rows("management_receipts"), await world.rows("comms_alerts"), len(world.log)
    shown = await world.restored(tmp_path / "a.backup", replace=True, dry_run=True)
    now = await world.rows("management_receipts"), await world.rows("comms_alerts"), len(world.log)
    assert now == before
    assert world.policy.snapshot().settings(world.now).max_danger == 2
    done = await world.restored(tmp_path / "a.backup", replace=True)
    assert done == shown and "it allows more" in done["policy"].note
    assert world.policy.snapshot().settings(world.now).max_danger == 7
    (alert,) = [row for row in await world.rows("comms_alerts") if "restored backup" in row["text"]]
    assert alert["code"] == "policy_loosened" and "max_danger" in alert["text"]
    actions = [row["action"] for row in await world.rows("management_receipts")]
    assert {"policy_followed", "restore"} <= set(actions)
    world.db.close()
