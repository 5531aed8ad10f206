"""The services that hire and dismiss, over a real database, with a clock and a node of the test's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_runes import AdvisorRunes
from cl_hive_comms.services.advisor_service import AdvisorService, Ports
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.contract_service import ContractService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.gossip_credentials import GossipCredentials
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.trial_measure import TrialMeasure
from cl_hive_comms.storage.advisor_record_store import AdvisorRecordStore
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.gossip_store import GossipStore
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from cl_hive_comms.storage.presence_store import PresenceStore
from cl_hive_comms.storage.push_store import PushStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore
from cl_hive_comms.storage.transport_store import OutboxStore
from coincurve import PrivateKey
from hive_shared.cln import ClnError, ClnLost
from hive_shared.crypto import Sealer, Secret, cln_sign_message
from hive_shared.store import Db

MIGRATIONS = Path(__file__).parents[1] / "cl-hive-comms" / "cl_hive_comms" / "storage" / "migrations"
NOW = 1_770_000_000
HSM = Secret(b"\x11" * 32)
NODE_ID = PrivateKey(HSM.reveal()).public_key.format().hex()


class Runes:
    """clnrest's side."""

    def __init__(self) -> None:
        self.made = 0
        self.blacklisted: list[str] = []
        self.reachable = True

    async def offer(self, agent_key: str) -> tuple[str | None, Mapping[str, Any]] | None:
        if not self.reachable:
            raise ClnLost("createrune", "no answer")
        self.made += 1
        return str(self.made), {"url": "https://127.0.0.1:3010", "rune": f"rune-{self.made}"}

    async def blacklist(self, rune_ids: Sequence[str]) -> bool:
        if self.reachable:
            self.blacklisted += rune_ids
        return self.reachable


class Signer:
    async def signmessage(self, text: str) -> str:
        return cln_sign_message(HSM, text)


class Commands:
    def cancel_in(self, tx: Any, advisor_id: str, reason: str) -> int:
        return 3


def _quiet(level: str, event: str, /, **fields: object) -> None:
    return None


class Books:
    """The node's forwards and channels. `forwards` are (received_time, fee_msat); `down` answers nothing."""

    def __init__(self) -> None:
        self.forwards: list[tuple[int, int]] = []
        self.rebalances: list[tuple[int, int]] = []
        self.down = self.without_bookkeeper = False

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        given: Mapping[str, Any] = params or {}
        if self.down or (method.startswith("bkpr-") and self.without_bookkeeper):
            raise ClnError(method, -32601, "Unknown command")
        if method == "bkpr-listincome":
            inside = [row for row in self.rebalances if given["start_time"] <= row[0] <= given["end_time"]]
            return {"income_events": [{"tag": "rebalance_fee", "debit_msat": cost} for _, cost in inside]}
        assert method == "listforwards", method
        rows = [
            {
                "created_index": n,
                "received_time": at,
                "fee_msat": fee,
                "out_msat": 1_000_000,
                "status": "settled",
            }
            for n, (at, fee) in enumerate(sorted(self.forwards), 1)
        ]
        return {"forwards": rows[given["start"] - 1 :][: given["limit"]]}

    async def listpeerchannels(self, *_: object) -> list[dict[str, Any]]:
        if self.down:
            raise ClnLost("listpeerchannels", "gone")
        return [{"state": "CHANNELD_NORMAL", "total_msat": 1_000_000_000, "to_us_msat": 400_000_000}]


class HiringWorld:
    """`now` is the clock; `build` makes the services anew over the same file, as a restart does."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, NOW
        self.runes, self.facts, self.books = Runes(), StateStore(), Books()
        self.random = iter(range(1, 1_000_000))
        self.log: list[tuple[str, str]] = []
        self.trusted: tuple[str, ...] = ()
        self.build()

    def _note(self, level: str, event: str, /, **fields: object) -> None:
        self.log.append((level, event))

    def build(self) -> None:
        self.db = Db.open(self.path / "comms.db", MIGRATIONS)
        now = lambda: self.now  # noqa: E731
        random = self.random
        self.sealer = sealer = Sealer({1: Secret(bytes(32))}, 1)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            sealer,
            makesecret=self._secret,
            now=now,
            random_bytes=lambda n: next(random).to_bytes(n, "big"),
            log=_quiet,
        )
        self.credentials = credentials = CredentialService(self.db, AdvisorStore(), now=now)
        self.aliases = aliases = AliasService(self.db, AdvisorStore(), credentials, now=now)
        self.receipts = receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            self.identity,
            node_id=lambda: NODE_ID,
            node_keys=lambda: (self.identity.pubkey,),
            signmessage=Signer().signmessage,
            now=now,
        )
        self.messenger = messenger = Messenger(
            self.db,
            OutboxStore(sealer),
            self.identity,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            now=now,
            log=_quiet,
        )
        self.alerts = alerts = AlertService(self.db, StateStore(), now=now, log=_quiet)
        self.offers = offers = AdvisorOffers(
            self.db,
            self.facts,
            identity=self.identity,
            credentials=credentials,
            push=CommandPush(PushStore(sealer), self.identity, messenger, now),
            messenger=messenger,
            receipts=receipts,
            alerts=alerts,
            signer=Signer(),
            node={"node_id": NODE_ID, "network": "regtest"},
            relays=lambda: ("wss://r.example",),
            max_skew_s=lambda: 300,
            now=now,
        )
        self.contracts = ContractService(
            self.db,
            MarketplaceStore(),
            AdvisorRecordStore(),
            PresenceStore(),
            measure=TrialMeasure(self.books),  # type: ignore[arg-type]
            credentials=credentials,
            receipts=receipts,
            alerts=alerts,
            node_id=NODE_ID,
            now=now,
            random_bytes=lambda n: next(random).to_bytes(n, "big"),
            log=self._note,
        )
        self.keeper = AdvisorRunes(
            self.db,
            self.facts,
            AdvisorStore(),
            self.runes,
            credentials=credentials,
            offers=offers,
            messenger=messenger,
            now=now,
            log=self._note,
        )
        offers.trial_of = self.contracts.trial_of
        self.kill_switch = KillSwitch(self.db, self.facts, self.path / "hive", now=now)
        ports = Ports(
            db=self.db,
            store=AdvisorStore(),
            credentials=credentials,
            aliases=aliases,
            offers=offers,
            trials=self.contracts,
            receipts=receipts,
            alerts=alerts,
            messenger=messenger,
            runes=self.keeper,
            signer=Signer(),
            kill_switch=self.kill_switch,
            commands=Commands,
            telemetry=TelemetryStore(),
            node_id=NODE_ID,
            now=now,
            random_bytes=lambda n: next(random).to_bytes(n, "big"),
            log=_quiet,
        )
        self.service = AdvisorService(ports)
        self.gossip = GossipCredentials(ports, self.service, GossipStore(), trusted=lambda: self.trusted)
        self.contracts.drop_rune = self.service.drop_rune_in

    async def _secret(self, text: str) -> bytes:
        return b"\x05" * 32

    async def start(self) -> HiringWorld:
        """What the plugin's start loads."""
        await self.identity.load_or_create()
        await self.credentials.load()
        await self.aliases.load()
        return self

    async def restart(self, **later: int) -> None:
        """The process ended and is back, `seconds` later."""
        self.db.close()
        self.now += later.get("seconds", 0)
        self.build()
        await self.start()
