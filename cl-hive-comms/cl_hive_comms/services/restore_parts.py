"""How each part of a backup joins what a node has (docs/protocol/08-client-and-plugins.md §8.4): newer data
stays unless `replace`, and nothing a revocation ended begins again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.store import Tx

from ..domain.advisor import Alias
from ..domain.payment import RESTORED_FACT
from .ports_backup import AdvisorTables, GossipTables, Tables


class Outcome(msgspec.Struct, frozen=True):
    """What became of a part: rows in the backup, taken in, and left as they are here."""

    part: str
    found: int
    restored: int = 0
    kept: int = 0
    note: str = ""


def restore_credentials(
    tx: Tx, tables: Tables, rows: Mapping[str, Sequence[dict[str, Any]]], replace: bool
) -> Outcome:
    """Advisors, credentials, what other nodes told of them, and burned nonces; a nonce counter only ever
    rises."""
    store = tables.advisors
    told = rows["comms_gossip_credentials"]
    restored = sum(tables.gossip.put_raw_gossip(tx, row) for row in told)
    kept = len(told) - restored
    refused = []
    advisors, credentials = store.raw_advisors(tx), store.raw_credentials(tx)
    for advisor in rows["comms_advisors"]:
        verdict = _advisor(tx, store, advisors, advisor, replace)
        if verdict is None:
            restored += 1
        else:
            kept += 1
            if verdict:
                refused.append(verdict)
    known = {row["advisor_id"] for row in advisors}
    for backed_up in rows["comms_credentials"]:
        credential = _as_its_issuer_left_it(tx, tables.gossip, backed_up)
        if credential["advisor_id"] in known and _credential(tx, store, credentials, credential, replace):
            restored += 1
        else:
            kept += 1
    for counter in rows["comms_replay"]:
        nonce, seq = int(counter["last_nonce"]), int(counter["last_seq"])
        if tables.counters.raise_counters(tx, counter["sender_key"], nonce, seq):
            restored += 1
        else:
            kept += 1
    note = "; ".join(refused)
    if restored and not note:
        note = "check hive-mgmt-credential-list: what was revoked after the backup is active again"
    return Outcome("credentials", sum(map(len, rows.values())), restored, kept, note)


def restore_payments(
    tx: Tx, tables: Tables, rows: Mapping[str, Sequence[dict[str, Any]]], now: int
) -> Outcome:
    """Payments and subscriptions that this node does not know. A copy may be older than what was paid since:
    the node is asked for that from now on, before an offer is paid or money is sent without an invoice."""
    tables.facts.put(tx, RESTORED_FACT, str(now), now)
    restored = sum(tables.payments.put_raw_payment(tx, row) for row in rows["comms_payments"])
    note = "payments without an end are looked up at the node" if restored else ""
    restored += sum(tables.subscriptions.put_raw_subscription(tx, row) for row in rows["comms_subscriptions"])
    count = sum(map(len, rows.values()))
    return Outcome("payments", count, restored, count - restored, note)


def _as_its_issuer_left_it(tx: Tx, gossip: GossipTables, row: dict[str, Any]) -> dict[str, Any]:
    # A backup may be older than the issuer's own revocation, which gossip brought.
    end = gossip.end_of(tx, row["issuer_id"], row["credential_id"])
    if end is None or row["status"] != "active":
        return row
    return {**row, "status": "revoked", "revoked_at": end[0], "revocation_reason": end[1]}


def _advisor(
    tx: Tx, store: AdvisorTables, own: list[dict[str, object]], row: dict[str, Any], replace: bool
) -> str | None:
    """None when it was taken in; else why not, empty when this node simply has it."""
    for other in own:
        if other["advisor_id"] == row["advisor_id"]:
            if not replace or other["status"] != "active":
                return ""
            row = {**row, "number": other["number"]}
        elif any(row[name] is not None and row[name] == other[name] for name in ("npub", "did")):
            return f"{row['display_name']!a} was authorised anew here and keeps that credential"
    taken = {other["number"] for other in own if other["advisor_id"] != row["advisor_id"]}
    if row["number"] in taken:
        row = {**row, "number": store.next_number(tx)}
    store.put_raw_advisor(tx, row)
    own[:] = [*(other for other in own if other["advisor_id"] != row["advisor_id"]), row]
    return None


def _credential(
    tx: Tx, store: AdvisorTables, own: list[dict[str, object]], row: dict[str, Any], replace: bool
) -> bool:
    same = next((other for other in own if other["credential_id"] == row["credential_id"]), None)
    if same is not None and (not replace or same["status"] != "active"):
        return False
    newer = next(
        (
            other
            for other in own
            if other["advisor_id"] == row["advisor_id"]
            and other["status"] == "active"
            and other["credential_id"] != row["credential_id"]
        ),
        None,
    )
    if newer is not None and row["status"] == "active":
        row = {**row, "status": "superseded", "superseded_by": newer["credential_id"]}
    store.put_raw_credential(tx, row)
    own[:] = [*(other for other in own if other["credential_id"] != row["credential_id"]), row]
    return True


def restore_aliases(tx: Tx, store: AdvisorTables, rows: Sequence[dict[str, Any]], replace: bool) -> Outcome:
    """Local names; one that exists here keeps its meaning unless `replace`."""
    own = {alias.key: alias for alias in store.aliases(tx)}
    restored = 0
    for values in rows:
        alias = Alias(**values)
        if alias.key in own and not replace:
            continue
        store.put_alias(tx, alias)
        restored += 1
    return Outcome("aliases", len(rows), restored, len(rows) - restored)


def names(value: object, what: str) -> tuple[str, ...]:
    """Part names from a list or from text with commas. Raises InvalidParams."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InvalidParams(f"{what} is a list of part names, or text with commas between them")
    return tuple(part.strip() for part in parts if part.strip())
