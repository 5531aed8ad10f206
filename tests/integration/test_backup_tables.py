"""Every table is in a backup or left out for a reason, and what is in one comes back as it was
(docs/protocol/08-client-and-plugins.md §8.4, docs/decisions/0292-what-a-backup-holds.md)."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backup_world import SEALER, WORD, BackupWorld
from cl_hive_comms.domain.backup import PARTS, TABLES
from cl_hive_comms.domain.cashu_lock import LockRow, Role
from cl_hive_comms.domain.engagement import Engagement, MarketMessage
from cl_hive_comms.domain.legacy_record import Segment
from cl_hive_comms.domain.payment import Payment, Target
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.domain.policy_document import canonical_text, preset_document
from cl_hive_comms.domain.policy_rules import Override, parse_rule
from cl_hive_comms.services.advisor_service import Hire
from cl_hive_comms.services.forwarding_freeze import REASON
from cl_hive_comms.services.receipt_service import operator_event
from cl_hive_comms.storage.contract_store import ContractStore
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.policy_store import PolicyStore
from escrow_tables import secret_row, ticket_rows
from hiring_world import HSM, MIGRATIONS, NODE_ID, NOW
from hive_shared import receipts
from hive_shared.canonical import encode
from hive_shared.cashu.escrow_rows import DisputeRow, DisputeState, Side
from hive_shared.cashu.journal import Op, OpBody, OpKind, OpState, OwnProof, PlannedOutput, ProofStatus
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.outputs import Output
from hive_shared.cashu.secrets import htlc
from hive_shared.cashu.wire import Dleq, Proof
from hive_shared.crypto import Secret, cln_sign_message, schnorr_sign, sha256, xonly_pubkey
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.market import negotiation
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.negotiation import Negotiation, Round
from hive_shared.market.negotiation_machine import ThreadState
from hive_shared.nostr.keys import npub_encode
from hive_shared.sealed_file import SealedFileError
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_ECASH, NODE_TICKETS
from market_terms import terms
from msgspec.structs import astuple, replace

AGENT = xonly_pubkey(Secret(b"\x03" * 32))
MINT = "https://mint.example"
LEFT_OUT = {
    "comms_l402_tokens": "an old copy would count fees as unused that were used since",
    "comms_access_uses": "belongs to comms_l402_tokens and to commands, which are not continued",
    "comms_ecash_fees": "belongs to commands, which are not continued; a swap's value comes into the wallet",
    "comms_ecash_fee_proofs": "belongs to comms_ecash_fees; the mint knows what was spent",
    "comms_escrow_received": "tickets not accepted yet: their payer hands them over again, or has them back",
    "comms_escrow_parts": "belongs to comms_escrow_received",
    "nostr_state": "its keys are in the part identity, unsealed; relay times and own lists are made again",
    "comms_cashu_mints": "the options name them; they are checked and probed again",
    "comms_cashu_keysets": "read from the mints again",
    "comms_outbox": "messages under way: stale after a restore, credentials are offered again",
    "comms_inbox": "identical messages are recognised by their nonces, which are backed up",
    "comms_alerts": "read or lost; what they were about is in the receipts",
    "comms_commands": "the record of what came of them is in the receipts; none is continued on another disk",
    "comms_pending": "waiting commands are judged by the moment: the agent asks again",
    "comms_approvals": "votes on waiting commands",
    "comms_responses": "answers for repeats within seven days; the nonce refuses the repeat",
    "comms_fee_history": "24 hours of fee changes: the node's own fees are the reference again",
    "comms_config_history": "a day of changes: the settings themselves are with the node and its plugins",
    "comms_action_counters": "counters of at most a day; they begin anew",
    "comms_channel_names": "noted again; a channel that comes back with another name is named by its id",
    "comms_htlc_seen": "of HTLCs in flight, which no restored channel has",
    "comms_telemetry": "an agent subscribes again; its figures would go on under numbers it has seen",
    "marketplace_profiles": "adverts of others: the relays have them",
    "marketplace_capabilities": "belongs to marketplace_profiles",
    "marketplace_offers": "adverts of others: the relays have them",
    "marketplace_tombstones": "the relays have them",
    "marketplace_trial_verdicts": "each is a receipt with its summary",
    "comms_pings": "of the hours that the lost node ran",
    "comms_reports": "sent to those who asked for them; the receipts say what was done",
    "comms_baselines": "measured again from the node's forwards; those of trials come back with the trials",
    "comms_spend": "spends of the last day; they begin anew",
    "comms_payment_sums": "made again of the payments",
    "comms_receipt_seals": "made again by the hourly loop",
    "comms_setup": "sessions of half an hour",
    "comms_transports": "registered anew by the plugins that serve them",
    "comms_handlers": "registered anew by the plugins that serve them",
}


def tables() -> set[str]:
    connection = sqlite3.connect(":memory:")
    for file in sorted(MIGRATIONS.glob("*.sql")):
        connection.executescript(file.read_text())
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.close()
    return {name for (name,) in rows if not name.startswith("sqlite_")}


def test_every_table_is_backed_up_or_left_out_for_a_reason() -> None:
    held = {name for names in TABLES.values() for name in names} - {"keys"}
    assert held | set(LEFT_OUT) == tables(), held ^ set(LEFT_OUT) ^ tables()
    assert not held & set(LEFT_OUT)
    page = Path("docs/decisions/0292-what-a-backup-holds.md")
    text = (Path(__file__).parents[2] / page).read_text()
    for name in LEFT_OUT:
        assert f"`{name}`" in text, f"{page} does not say why {name} is left out"


def closed(at: int, digests: list[str], node: Secret) -> Segment:
    """The checkpoint over legacy receipts, as a migration signs it."""
    unsigned = Segment(at, 1, len(digests), receipts.merkle_root(digests), digests[-1], "", "")
    text = unsigned.signed_text()
    return replace(
        unsigned,
        node_signature=schnorr_sign(node, sha256(text.encode())),
        hsm_signature=cln_sign_message(HSM, text),
    )


def ecash(tx: sqlite3.Connection) -> None:
    """A proof and a fund operation under way."""
    store = CashuStore(SEALER, NODE_ECASH)
    point, scalar = "02" + "ab" * 32, "cd" * 32
    proof = Proof(64, "00" + "ef" * 7, "secret", point, dleq=Dleq(scalar, scalar, scalar))
    store.add_proofs(tx, MINT, [OwnProof(point, proof, 7)], ProofStatus.UNSPENT, "op0", NOW)
    store.take_counters(tx, MINT, proof.id, 8)
    planned = PlannedOutput(Output(64, proof.id, "other", b"r" * 32, point), "keep", 6)
    op = Op(
        **{"op_id": "op1", "idempotency_key": "k", "content": "c", "owner": "comms", "kind": OpKind.FUND},
        **{"mint_url": MINT, "state": OpState.PREPARED, "inputs": (), "amount_sats": 64, "fee_sats": 0},
        **{"created_at": NOW, "updated_at": NOW, "quote_id": "q", "quote_key": b"k" * 32, "payment_id": "p"},
        body=OpBody(outputs=(planned,), invoice="lnbcrt1"),
    )
    store.add_op(tx, op)
    given = LockRow(
        *("a1" * 16, "comms", "ticket", Role.PAYER, MINT, proof.id, 60, 64),
        *(htlc("ab" * 32, point, locktime=NOW + 9_000, refund=point), "ticket", "cd" * 32, 0, 0, (point,)),
        *(LockState.LOCKED, "comms:k", "c", NOW, NOW, 0, "cashuBtoken", "ef" * 32),
        budget="advisor",
        counted_sats=64,
    )
    LockStore(SEALER).insert(tx, given)


def tickets(tx: sqlite3.Connection) -> None:
    """A disputed ticket with its preimage."""
    store = EscrowStore(SEALER, NODE_TICKETS)
    ticket, items = ticket_rows(NOW)
    store.add_secrets(tx, [secret_row(NOW)])
    store.add_ticket(tx, ticket, items)
    store.bind_secrets(tx, ticket.ticket_id, {0: str(items[0].hash)})
    evidence = {"evidence_hashes": ["sha256:" + "ab" * 32]}
    told = DisputeRow(
        "ef" * 16, ticket.ticket_id, 0, Side.PAYEE, "done", evidence, DisputeState.OPEN, NOW, NOW
    )
    store.add_dispute(tx, told)


def wallet_content(tx: sqlite3.Connection) -> tuple[list[object], ...]:
    """What is sealed, in clear."""
    store = CashuStore(SEALER, NODE_ECASH)
    # How long a lock is held is another after a restore, and compared apart.
    locks = [{**raw, "refund_hold_until": 0} for raw in LockStore(SEALER).raw_locks(tx)]
    tickets = EscrowStore(SEALER, NODE_TICKETS).raw_rows(tx)
    return list(store.raw_proofs(tx)), list(store.raw_ops(tx)), list(locks), list(tickets)


async def paid(world: BackupWorld, at: int) -> None:
    """One payment with its proof and one without an end."""
    store, target = PaymentStore(SEALER), Target("lnbcrt1x", "lnbcrt1x", note="for March")
    base = Payment(
        *("a" * 32, "client:1", "00" * 32, "adv", "advisor", "bolt11", "fee", "out", 5_000, 5_000),
        *(State.SETTLED, target, "hive:1", at, at),
        counted_sats=6,
        payment_hash="ab" * 32,
        preimage="cd" * 32,
    )
    ids = {"payment_id": "b" * 32, "key": "client:2", "label": "hive:2", "payment_hash": "ef" * 32}
    late = replace(base, state=State.UNKNOWN, preimage=None, sent_index=7, sent_at=at, **ids)
    for row in (base, late):
        await world.db.write(lambda tx, row=row: store.insert(tx, row))


def contract(tx: sqlite3.Connection, at: int) -> None:
    """A contract that was proposed, and the proposal."""
    key = xonly_pubkey(Secret(b"\x04" * 32))
    ids = ("6f1d8a34-3c1f-4f0e-9b52-0d9a4a3f6c11", "0b6e4a52-9a0e-4f7b-8a55-0f4f9c2f1d22")
    first = Round(0, negotiation.Side.OPERATOR, terms(), "ab" * 32, at + 9)
    thread = Negotiation(ids[0], (first,), ThreadState.ADVISORS_TURN)
    row = Engagement(
        **{"contract_id": ids[0], "thread_id": ids[1], "peer_pubkey": key, "advisor_did": f"did:nostr:{key}"},
        **{"advisor_name": "Hex", "operator_id": "did:nostr:me", "node_id": NODE_ID, "thread": thread},
        **{"status": ContractState.PROPOSED, "created_at": at, "updated_at": at},
    )
    ContractStore().add(tx, row)
    said = MarketMessage(
        **{"msg_id": "m", "thread_id": ids[1], "direction": "out", "seq": 1, "verb": "contract_proposal"},
        **{"body": {"terms": terms()}, "sig": "cd" * 64, "sent_at": at, "expires_at": at, "state": "sent"},
    )
    ContractStore().add_message(tx, said)


def without_seals(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if not name.endswith("_enc")}


async def filled(directory: Path) -> BackupWorld:
    """A node with something in every table that is backed up."""
    directory.mkdir(parents=True)
    world = BackupWorld(directory)
    await world.start()
    hired = await world.service.authorize(Hire(AGENT, "fees", trial_days=14))
    await world.aliases.set("fee doctor", npub_encode(AGENT))
    at = world.now

    def policy(tx: sqlite3.Connection) -> None:
        store = PolicyStore()
        store.save(tx, canonical_text(preset_document("conservative")), at)
        store.add_rule(tx, parse_rule({"id": "r1", "match": {}, "effect": "deny", "note": "no"}), at)
        store.begin_override(tx, Override("o1", {"max_danger": 6}, at, 4_000_000_000), at)

    await world.db.write(policy)
    legacy: list[tuple[object, ...]] = []
    for seq in (1, 2):
        text = encode({"executed_at": at, "receipt_id": f"r{seq}", "schema_id": "hive:x/v1"}).decode()
        legacy.append((seq, f"r{seq}", at, "hive:x/v1", sha256(text.encode()).hex(), text))
    await paid(world, at)
    await world.db.write(lambda tx: contract(tx, at))
    closing = closed(at, [str(row[4]) for row in legacy], world.identity.secret())
    # Larger than a management document, and full of what JSON has to escape.
    row = json.dumps({"status": "\u0007" * 300_000})
    await world.db.write(ecash)
    await world.db.write(tickets)
    await world.run(
        ("INSERT INTO comms_replay (sender_key, last_nonce, last_seq) VALUES (?, ?, 7)", ("ab" * 32, 2**62)),
        ("INSERT INTO comms_trust_days VALUES (?, ?, 5, 4, 1)", (hired.row.advisor_id, at // 86_400)),
        ("INSERT INTO comms_receipt_acks VALUES (1, ?, ?, ?)", ("ab" * 32, "cd" * 64, at)),
        ("INSERT INTO comms_migrations VALUES (1, ?, 'ff', '{}', ?, ?, ?, ?, ?, ?)", astuple(closing)),
        *(("INSERT INTO comms_legacy_receipts VALUES (?, ?, ?, ?, ?, ?)", each) for each in legacy),
        ("INSERT INTO comms_legacy_rows VALUES ('liquidity_leases', 'k', 'dd', 1, ?)", (row,)),
        ("INSERT INTO comms_gossip_credentials VALUES ('02', 'c1', NULL, ?, ?, ?, 'over')", (at, 4 * at, at)),
        ("INSERT INTO comms_saved_channel VALUES ('aa', ?, '1x1x1', 1, 990, ?, ?)", (REASON, at, at)),
        ("INSERT INTO comms_saved_channel VALUES ('bb', 'all', '2x1x1', 0, 880, ?, ?)", (at, at)),
        (
            "INSERT INTO comms_subscriptions VALUES ('s', 'a', 'bolt12', 'lno1x', '1 months', 5, ?, 'active',"
            " 1, 2, 'hive:s', NULL, ?, ?, 'why', ?, ?, 'c', 1, 5, NULL)",
            (at, at, at + 60, at, at),
        ),
        ("INSERT INTO marketplace_blocklist VALUES (?, 'spam', NULL)", ("cd" * 32,)),
        ("INSERT INTO comms_timers VALUES ('t', 'fee_anchor', '1x1x1', ?, '{}', NULL)", (at + 60,)),
    )
    world.now += 7_200
    await world.receipts.hourly_roots()
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[BackupWorld]:
    made = await filled(tmp_path / "node")
    yield made
    made.db.close()


async def wiped(tmp_path: Path, now: int) -> BackupWorld:
    """The same node on a new disk."""
    directory = tmp_path / "new"
    directory.mkdir()
    fresh = BackupWorld(directory)
    # No channels: the sweep of a stop that is restored finds nothing to freeze.
    fresh.channels.rows.clear()
    fresh.now = now
    await fresh.start()
    return fresh


# Of comms_state single facts are held: test_restore_stop, test_restore_handoffs.
HELD = sorted({name for names in TABLES.values() for name in names} - {"keys", "comms_state"})


async def test_acceptance_08_18_everything_in_a_backup_comes_back_as_it_was(
    world: BackupWorld, tmp_path: Path
) -> None:
    before = {name: await world.rows(name) for name in HELD}
    assert all(before.values()), [name for name, rows in before.items() if not rows]
    done = await world.backups.backup(tmp_path / "a.backup", WORD)
    assert set(done.manifest) == set(PARTS)
    fresh = await wiped(tmp_path, world.now)
    shown = await fresh.restored(tmp_path / "a.backup", dry_run=True)
    assert not any([await fresh.rows(name) for name in HELD]), "a dry run writes nothing"
    outcomes = await fresh.restored(tmp_path / "a.backup")
    assert outcomes == shown
    assert "1 channels that a stop had frozen stay frozen" in outcomes["channels"].note
    for name in HELD:
        after = await fresh.rows(name)
        if name == "management_receipts":
            # The restore itself is on the record.
            after = sorted(after, key=lambda row: row["receipt_id"])
            assert [row["action"] for row in after[len(before[name]) :]] == [
                "policy_followed",
                "emergency_engage",
                "restore",
            ]
            del after[len(before[name]) :]
            assert after == sorted(before[name], key=lambda row: row["receipt_id"])
        elif name in ("comms_policy", "comms_policy_rules", "comms_policy_overrides", "comms_saved_channel"):
            times = ("created_at", "updated_at", "saved_at", "frozen_at", "version")
            assert [{k: v for k, v in row.items() if k not in times} for row in after] == [
                {k: v for k, v in row.items() if k not in times} for row in before[name]
            ], name
        elif name in ("comms_cashu_proofs", "comms_cashu_ops", "comms_escrow_secrets"):
            # Sealed anew each time; what counts again only the mint says.
            sealed = ("secret_enc", "c_enc", "dleq_enc", "outputs_enc", "quote_key_enc", "state", "origin_op")
            assert [{k: v for k, v in row.items() if k not in sealed} for row in after] == [
                {k: v for k, v in row.items() if k not in sealed} for row in before[name]
            ], name
            assert await fresh.db.read(wallet_content) == await world.db.read(wallet_content)
            assert [row["state"] for row in await fresh.rows("comms_cashu_proofs")] == ["quarantined"]
        elif name == "comms_payments":
            # Sealed anew; what is in them is compared below.
            assert [without_seals(row) for row in after] == [without_seals(row) for row in before[name]]
        elif name == "comms_cashu_locks":
            held = [
                {**without_seals(row), "refund_hold_until": row["locktime"] + 86_400} for row in before[name]
            ]
            assert [without_seals(row) for row in after] == held
        else:
            assert after == before[name], name
    stored = PaymentStore(SEALER).raw_payments
    assert fresh.db.peek(lambda tx: list(stored(tx))) == world.db.peek(lambda tx: list(stored(tx)))
    assert await fresh.rows("comms_payment_sums") == await world.rows("comms_payment_sums")
    assert (await fresh.receipts.verify()).ok
    again = await fresh.restored(tmp_path / "a.backup")
    assert not any(outcome.restored for outcome in again.values()), again
    fresh.db.close()


async def test_legacy_receipts_that_were_changed_are_refused_and_the_rest_is_taken(
    world: BackupWorld, tmp_path: Path
) -> None:
    await world.run(
        ("DROP TRIGGER comms_legacy_receipts_no_update", ()),
        ("UPDATE comms_legacy_receipts SET schema_id = 'hive:other/v1' WHERE seq = 2", ()),
    )
    await world.backups.backup(tmp_path / "a.backup", WORD)
    fresh = await wiped(tmp_path, world.now)
    outcomes = await fresh.restored(tmp_path / "a.backup")
    assert "column of legacy receipt 2" in outcomes["receipts"].note
    for name in ("comms_migrations", "comms_legacy_receipts", "comms_legacy_rows"):
        assert await fresh.rows(name) == []
    assert await fresh.rows("marketplace_trials")
    fresh.db.close()


async def test_a_node_that_went_on_keeps_its_channels(world: BackupWorld, tmp_path: Path) -> None:
    await world.backups.backup(tmp_path / "a.backup", WORD)
    await world.run(("DELETE FROM comms_saved_channel", ()), ("UPDATE comms_timers SET done_at = due", ()))
    await world.db.write(lambda tx: world.receipts.append(tx, operator_event("emergency_release")))
    outcomes = await world.restored(tmp_path / "a.backup")
    assert (outcomes["channels"].restored, outcomes["channels"].kept) == (0, 3)
    assert await world.rows("comms_saved_channel") == []
    # Asked to, it takes them; the timer that fired stays fired.
    outcomes = await world.restored(tmp_path / "a.backup", replace=True)
    assert (outcomes["channels"].restored, outcomes["channels"].kept) == (2, 1)
    (timer,) = await world.rows("comms_timers")
    assert timer["done_at"] is not None


async def test_a_backup_is_refused_whole_wherever_it_is_cut_or_changed(
    world: BackupWorld, tmp_path: Path
) -> None:
    path = tmp_path / "a.backup"
    await world.backups.backup(path, WORD)
    data = path.read_bytes()
    fresh = await wiped(tmp_path, world.now)
    size = len(data)
    changed = [data[:at] for at in (0, 7, 60, size // 3, size - 40, size - 1)] + [data + b"x"]
    for at in (0, 20, size // 2, size - 1):
        changed.append(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for number, content in enumerate(changed):
        path.write_bytes(content)
        with pytest.raises(SealedFileError):
            await fresh.restored(path)
        assert not any([await fresh.rows(name) for name in HELD]), number
    path.write_bytes(data)
    with pytest.raises(SealedFileError):
        await fresh.restores.restore(path, Secret(b"another passphrase"), dry_run=False)
    _, stranger = fresh.composed("02" + "ab" * 32)
    with pytest.raises(Conflict, match="can only be restored on its own node"):
        await stranger.restore(path, WORD, dry_run=False)
    assert not any([await fresh.rows(name) for name in HELD])
    fresh.db.close()


async def test_no_room_for_a_backup_leaves_no_file(world: BackupWorld, tmp_path: Path) -> None:
    directory = tmp_path / "full"
    directory.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InvalidParams):
            await world.backups.backup(directory / "a.backup", WORD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(directory.iterdir()) == []
    assert (await world.backups.backup(directory / "a.backup", WORD)).path.exists()


async def test_what_its_issuer_revoked_after_the_backup_stays_revoked(
    world: BackupWorld, tmp_path: Path
) -> None:
    (row,) = [each for each in world.credentials.rows() if each.status == "active"]
    await world.backups.backup(tmp_path / "a.backup", WORD)
    fresh = await wiped(tmp_path, world.now)
    # Gossip brought the revocation back before the operator restored.
    told = (NODE_ID, row.credential_id, NOW, 2 * NOW, NOW + 5, "over")
    await fresh.run(("INSERT INTO comms_gossip_credentials VALUES (?, ?, NULL, ?, ?, ?, ?)", told))
    await fresh.restored(tmp_path / "a.backup")
    await fresh.credentials.load()
    (back,) = fresh.credentials.rows()
    assert (back.credential_id, back.status) == (row.credential_id, "revoked")
    assert (back.revoked_at, back.revocation_reason) == (NOW + 5, "over")
    fresh.db.close()
