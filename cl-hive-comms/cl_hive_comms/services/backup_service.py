"""Writing backups (docs/protocol/08-client-and-plugins.md §8.4): one sealed file, nothing of it needs
`hsm_secret` to be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret
from hive_shared.sealed_file import written
from hive_shared.store import Tx
from msgspec.structs import asdict

from ..domain.backup import Head, Row, Tally, chosen, manifest_line, row_line
from ..domain.handoff import FACT as HANDOFF_FACT
from ..domain.receipt_checkpoint import PRUNE
from .kill_switch import EMERGENCY_FACT
from .ports_backup import Keys, Tables
from .ports_commands import Database
from .ports_identity import FactStore
from .receipt_service import ReceiptService
from .restore_wallet import KEY_FACTS

_ALL_ROOTS: Final = 1_000_000
LAST_BACKUP: Final = "last_backup"
"""Fact: {part: Unix seconds} of the newest backup the operator had written."""


class Backup(msgspec.Struct, frozen=True):
    """A backup that was written: its file, SHA-256 and the manifest {part: {count, sha256}}."""

    path: Path
    sha256: str
    created_at: int
    manifest: dict[str, JsonValue]


class BackupService:
    """Reads every part in one snapshot and writes it to a new file."""

    def __init__(
        self,
        db: Database,
        tables: Tables,
        identity: Keys,
        receipts: ReceiptService,
        facts: FactStore,
        *,
        node_id: str,
        network: str,
        version: str,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._db, self._t, self._identity, self._receipts = db, tables, identity, receipts
        self._facts = facts
        self._node_id, self._network, self._version = node_id, network, version
        self._now, self._random_bytes = now, random_bytes

    async def backup(self, path: Path, passphrase: Secret, components: Sequence[str] = ()) -> Backup:
        """Write the parts (all by default). Raises InvalidParams when the path is relative, taken or cannot
        be written, or a part is unknown."""
        parts = chosen(components)
        return await self._db.read(lambda tx: self._write(tx, path, passphrase, parts))

    async def note(self, done: Backup) -> None:
        """Remember that the operator has this backup, for the self-check."""

        def body(tx: Tx) -> None:
            taken = json.loads(self._facts.get(tx, LAST_BACKUP) or "{}")
            taken |= dict.fromkeys(done.manifest, done.created_at)
            self._facts.put(tx, LAST_BACKUP, json.dumps(taken), done.created_at)

        await self._db.write(body)

    def _write(self, tx: Tx, path: Path, passphrase: Secret, parts: Sequence[str]) -> Backup:
        head = Head(self._node_id, self._network, self._identity.npub, self._now(), self._version)
        tallies = {part: Tally() for part in parts}
        with written(path, passphrase, self._random_bytes) as out:
            out.write(head.to_line())
            for part in parts:
                for table, values in _READERS[part](self, tx):
                    line = row_line(Row(part, table, values))
                    tallies[part].add(line)
                    out.write(line + b"\n")
            kept = {part: tally for part, tally in tallies.items() if tally.count}
            out.write(manifest_line(kept))
        manifest: dict[str, JsonValue] = {part: tally.to_doc() for part, tally in tallies.items()}
        return Backup(path, out.sha256, head.created_at, manifest)

    def _keys(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        secrets = {key: secret.reveal().hex() for key, secret in self._identity.readable_secrets().items()}
        yield "keys", {"ring": self._identity.ring.to_bytes().decode(), "secrets": secrets}

    def _credentials(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in self._t.advisors.raw_advisors(tx):
            yield "comms_advisors", row
        for row in self._t.advisors.raw_credentials(tx):
            yield "comms_credentials", row
        for sender_key, nonce, seq in self._t.counters.counters(tx):
            # Text: a nonce may be beyond what JSON numbers hold exactly.
            yield "comms_replay", {"sender_key": sender_key, "last_nonce": str(nonce), "last_seq": seq}
        for row in self._t.gossip.raw_gossip(tx):
            yield "comms_gossip_credentials", row
        for row in self._t.trust.raw_days(tx):
            yield "comms_trust_days", row
        for row in self._t.trials.raw_trials(tx):
            yield "marketplace_trials", row
        yield from self._t.contracts.raw_rows(tx)
        for ref, reason, until in self._t.adverts.blocked(tx):
            yield "marketplace_blocklist", {"ref": ref, "reason": reason, "until": until}
        for key, text in sorted(self._facts.with_prefix(tx, HANDOFF_FACT).items()):
            yield "comms_state", {"key": key, "value": text}

    def _chain(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        for root in self._t.receipts.checkpoints(tx):
            yield "comms_receipt_roots", asdict(root)
        for receipt in self._t.receipts.walk(tx, 1, self._receipts.end(tx).receipt_id):
            yield "management_receipts", receipt._asdict()
        for root in self._t.receipts.roots(tx, 0, _ALL_ROOTS):
            if root.kind != PRUNE:
                yield "comms_receipt_roots", asdict(root)
        for ack in self._t.receipts.all_acks(tx):
            yield "comms_receipt_acks", asdict(ack)
        for row in self._t.legacy.raw_migrations(tx):
            yield "comms_migrations", row
        for legacy in self._t.legacy.walk(tx):
            yield "comms_legacy_receipts", asdict(legacy)
        for row in self._t.legacy.raw_rows(tx):
            yield "comms_legacy_rows", row

    def _payments(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in self._t.payments.raw_payments(tx):
            yield "comms_payments", row
        for row in self._t.subscriptions.raw_subscriptions(tx):
            yield "comms_subscriptions", row

    def _policy(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        stored = self._t.policy.load(tx)
        if stored.document is None:
            return
        yield "comms_policy", {"document": stored.document, "updated_at": self._t.policy.changed_at(tx)}
        for rule in stored.rules:
            yield "comms_policy_rules", {"rule": rule.to_doc(), "source": rule.source}
        if (override := stored.override) is not None:
            yield (
                "comms_policy_overrides",
                {
                    "id": override.id,
                    "values": dict(override.values),
                    "starts_at": override.starts_at,
                    "expires_at": override.expires_at,
                },
            )

    def _aliases(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        for alias in self._t.advisors.aliases(tx):
            yield "comms_aliases", asdict(alias)

    def _wallet(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in self._t.wallet.raw_proofs(tx):
            yield "comms_cashu_proofs", row
        for mint_url, keyset_id, least in self._t.wallet.counters(tx):
            yield "comms_cashu_counters", {"mint_url": mint_url, "keyset_id": keyset_id, "next": least}
        for row in self._t.wallet.raw_ops(tx):
            yield "comms_cashu_ops", row
        for row in self._t.locks.raw_locks(tx):
            yield "comms_cashu_locks", row
        yield from self._t.tickets.raw_rows(tx)
        for prefix in KEY_FACTS:
            for key, text in sorted(self._facts.with_prefix(tx, prefix).items()):
                yield "comms_state", {"key": key, "value": text}

    def _channels(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        for hold in self._t.saved.holds(tx):
            yield "comms_saved_channel", msgspec.to_builtins(hold)
        for timer in self._t.timers.timers(tx):
            yield "comms_timers", asdict(timer)
        if (stop := self._facts.get(tx, EMERGENCY_FACT)) is not None:
            yield "comms_state", {"key": EMERGENCY_FACT, "value": stop}


_READERS: Final[dict[str, Callable[[BackupService, Tx], Iterator[tuple[str, dict[str, Any]]]]]] = {
    "identity": BackupService._keys,
    "credentials": BackupService._credentials,
    "receipts": BackupService._chain,
    "escrow": BackupService._wallet,
    "payments": BackupService._payments,
    "policy": BackupService._policy,
    "aliases": BackupService._aliases,
    "channels": BackupService._channels,
}
