"""Self-checks of identity, channels to the outside, rules and records
(docs/protocol/08-client-and-plugins.md §8.6)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.cashu.mints import MintRole, MintRow
from hive_shared.cashu.wallet_service import WalletService
from hive_shared.crypto import xonly_pubkey
from hive_shared.siblings import SiblingHub
from hive_shared.store import Db

from cl_hive_comms.domain.relay_sets import LOW_REDUNDANCY
from cl_hive_comms.domain.selfcheck import (
    BACKUP_PARTS,
    MANY_WAITING,
    RECEIPTS,
    Check,
    backup_check,
    fail,
    ok,
    warn,
)
from cl_hive_comms.services.backup_service import LAST_BACKUP
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Clock, FactStore
from cl_hive_comms.services.ports_status import Options
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.spend_report import Unresolved

_NAMED: Final = 3
_LONG_S: Final = 3_600
"""What the wallet began so long ago and has no end of is told."""
_LOOK: Final = "compare with listpays (label hive:<id>) and listtransactions; nothing is sent again by itself"


class Hive(msgspec.Struct, frozen=True):
    """What is looked at."""

    db: Db
    facts: FactStore
    options: Callable[[], Options]
    identity: IdentityService
    policy: PolicyService
    receipts: ReceiptService
    last_receipt: Callable[[], Awaitable[int]]
    messenger: Messenger
    nostr: Callable[[], Mapping[str, Any]]
    rest_url: Callable[[], Awaitable[str | None]]
    rune_warnings: Callable[[], list[str]]
    siblings: SiblingHub
    kill_switch: KillSwitch
    unresolved: Callable[[], Awaitable[Sequence[Unresolved]]]
    advisors: Callable[[], int]
    mints: Callable[[], Sequence[MintRow]]
    ecash: Callable[[], WalletService | None]
    now: Clock


class HiveChecks:
    """Checks of what is ours."""

    def __init__(self, hive: Hive) -> None:
        self._h = hive

    def all(self) -> Mapping[str, Callable[[], Awaitable[Check]]]:
        """The checks by id."""
        return {
            "key": self._key,
            "relays": self._relays,
            "clnrest": self._clnrest,
            "runes": self._runes,
            "siblings": self._siblings,
            "policy": self._policy,
            "options": self._options,
            "mints": self._mints,
            "proofs": self._proofs,
            "receipts": self._receipts,
            "payments": self._payments,
            "outbox": self._outbox,
            "backup": self._backup,
            "emergency": self._emergency,
        }

    async def _key(self) -> Check:
        if xonly_pubkey(self._h.identity.secret()) != self._h.identity.pubkey:
            return fail("key", "the stored key does not match the npub", "restore a backup")
        if self._h.identity.warnings:
            return warn("key", "; ".join(self._h.identity.warnings), "remove the option")
        return ok("key", self._h.identity.npub)

    async def _relays(self) -> Check:
        nostr, sets = self._h.nostr(), self._h.options().relay_sets
        wanted, connected = len(sets.inbox), nostr["connected"]
        if (offline := nostr.get("reason")) is not None:
            return fail(
                "relays", str(offline), "set the node's proxy option, or another hive-comms-nostr-privacy"
            )
        if not wanted:
            return warn("relays", "no relay is set", "set hive-comms-nostr-relays")
        if not connected:
            return fail("relays", f"none of {wanted} relays is connected", "see hive-comms-transports")
        if connected < 2:
            return warn("relays", "only one relay is connected", "add a second relay")
        if (problem := sets.too_many()) is not None:
            return warn("relays", problem, "remove some")
        if (copies := nostr["advert_relays"]) < 3:
            return ok(
                "relays", f"{connected} connected; {LOW_REDUNDANCY}: adverts go to {copies} relays of 3"
            )
        return ok("relays", f"{connected} connected")

    async def _clnrest(self) -> Check:
        if not self._h.options().get("rest-enabled"):
            return ok("clnrest", "switched off")
        url = await self._h.rest_url()
        if url is None:
            return warn("clnrest", "clnrest is not running", "set clnrest-port")
        return ok("clnrest", url)

    async def _runes(self) -> Check:
        if owed := self._h.rune_warnings():
            return warn("runes", "; ".join(owed), "the node refuses createrune or blacklistrune: see its log")
        return ok("runes", "none waits to be made or blacklisted")

    async def _siblings(self) -> Check:
        bad = [row for row in self._h.siblings.status() if row.get("error")]
        if bad:
            text = "; ".join(f"{row['plugin']}: {row['error']}" for row in bad)
            return warn("siblings", text[:300], "restart that plugin, or install the same release")
        return ok("siblings", self._h.siblings.combo())

    async def _policy(self) -> Check:
        locked = self._h.policy.snapshot().locked
        if locked is not None:
            return fail("policy", locked, "repair the document, or hive-client-policy action=reset")
        if self._h.policy.file_problem is not None:
            return warn("policy", self._h.policy.file_problem, "repair the file")
        return ok("policy", self._h.policy.snapshot().preset)

    async def _options(self) -> Check:
        unserved = self._h.options().unserved()
        if unserved:
            text = f"set but not served by this version: {', '.join(unserved)}"
            return warn("options", text[:300], "remove them, nothing reads them yet")
        if ignored := self._h.options().ignored():
            return warn("options", f"set and ignored: {', '.join(ignored)}", "remove them")
        return ok("options", "all that are set are served")

    async def _mints(self) -> Check:
        named = [row for row in self._h.mints() if row.role is not MintRole.FORMER]
        if not named:
            return ok("mints", "none is set")
        bad = [f"{row.url} {row.status.value}: {row.last_error}" for row in named if row.last_error]
        if bad:
            return warn("mints", "; ".join(bad), "`hive-client-wallet action=mints` shows each; name another")
        unchecked = [row.url for row in named if not row.checked_at]
        return ok("mints", f"{len(named)} set" + (f", {len(unchecked)} not checked yet" if unchecked else ""))

    async def _proofs(self) -> Check:
        if (wallet := self._h.ecash()) is None:
            return ok("proofs", "this node derives no keys for ecash")
        balances = await wallet.balance()
        held = {name: sum(row[name] for row in balances.values()) for name in ("proofs", "quarantined")}
        if lasting := await wallet.lasting(_LONG_S):
            named = "; ".join(
                f"{op.kind.value} of {op.amount_sats} sat at {op.mint_url}: {op.error or op.state.value}"
                for op in lasting[:_NAMED]
            )
            more = f"; and {len(lasting) - _NAMED} more" if len(lasting) > _NAMED else ""
            text = f"{len(lasting)} operations have had no end for an hour: {named}{more}"
            return warn("proofs", text, "`hive-client-wallet action=ops` shows them; they go on")
        if held["quarantined"]:
            text = f"{held['quarantined']} sat wait for their mint's word on whether they are unspent"
            return warn("proofs", text, "`hive-client-wallet action=mints` says which mint does not answer")
        return ok("proofs", f"{held['proofs']} held")

    async def _payments(self) -> Check:
        found = await self._h.unresolved()
        if not found:
            return ok("payments", "none without a known end")
        named = "; ".join(f"{each.action} {each.command_id} {each.state}" for each in found[:_NAMED])
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return warn("payments", f"{len(found)} without a known end: {named}{more}", _LOOK)

    async def _receipts(self) -> Check:
        last = await self._h.last_receipt()
        if not last:
            return ok("receipts", "none yet")
        report = await self._h.receipts.verify(max(1, last - RECEIPTS + 1), last)
        if not report.ok:
            text = f"receipt {report.first_bad}: {report.reason}"
            return fail("receipts", text, "the record was altered: keep the file, restore a backup")
        return ok("receipts", f"{report.checked} verified")

    async def _outbox(self) -> Check:
        status = await self._h.messenger.status()
        waiting = status["queue"]
        if isinstance(waiting, int) and waiting > MANY_WAITING:
            return warn("outbox", f"{waiting} messages wait", "see hive-comms-transports")
        return ok("outbox", f"{waiting} waiting")

    async def _backup(self) -> Check:
        text = await self._h.db.read(lambda tx: self._h.facts.get(tx, LAST_BACKUP))
        stakes = {
            "identity": not self._h.identity.ring.current.origin.startswith("derived:"),
            "credentials": self._h.advisors() > 0,
            "receipts": await self._h.last_receipt() > 0,
            # The first version is what the preset gives.
            "policy": self._h.policy.snapshot().version > 1,
        }
        at_stake = [part for part in BACKUP_PARTS if stakes[part]]
        return backup_check(json.loads(text or "{}"), at_stake=at_stake, now=self._h.now())

    async def _emergency(self) -> Check:
        if self._h.kill_switch.engaged():
            how = "hive-client-emergency-stop action=status shows it and gives the token to release it"
            return warn("emergency", "the emergency stop is engaged", how)
        return ok("emergency", "not engaged")
