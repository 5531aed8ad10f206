"""Runes of advisors: made with the credential, blacklisted with its end, retried until it worked
(Protocol 02 §2.5, §6.3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.advisor_service import AdvisorService, Ports
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.push_store import PushStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.transport_store import OutboxStore
from coincurve import PrivateKey
from hive_shared.crypto import Sealer, Secret, cln_sign_message, xonly_pubkey
from hive_shared.store import Db, StoreError

MIGRATIONS = Path(__file__).parents[2] / "cl-hive-comms" / "cl_hive_comms" / "storage" / "migrations"
HSM = Secret(b"\x11" * 32)
NODE_ID = PrivateKey(HSM.reveal()).public_key.format().hex()
AGENT = xonly_pubkey(Secret(b"\x22" * 32))


class Runes:
    """clnrest's side."""

    def __init__(self) -> None:
        self.made = 0
        self.blacklisted: list[str] = []
        self.reachable = True

    async def offer(self, agent_key: str) -> tuple[str, Mapping[str, Any]] | None:
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


class World:
    def __init__(self, path: Path) -> None:
        self.db = Db.open(path / "comms.db", MIGRATIONS)
        self.runes, self.facts = Runes(), StateStore()
        now = lambda: 1_770_000_000  # noqa: E731
        random = iter(range(1, 10_000))
        sealer = Sealer({1: Secret(bytes(32))}, 1)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            sealer,
            makesecret=self._secret,
            now=now,
            random_bytes=lambda n: next(random).to_bytes(n, "big"),
            log=_quiet,
        )
        credentials = CredentialService(self.db, AdvisorStore(), now=now)
        aliases = AliasService(self.db, AdvisorStore(), credentials, now=now)
        receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            self.identity,
            node_id=lambda: NODE_ID,
            node_keys=lambda: (self.identity.pubkey,),
            signmessage=Signer().signmessage,
            now=now,
        )
        messenger = Messenger(
            self.db,
            OutboxStore(sealer),
            self.identity,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            now=now,
            log=_quiet,
        )
        alerts = AlertService(self.db, StateStore(), now=now, log=_quiet)
        offers = AdvisorOffers(
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
        self.service = AdvisorService(
            Ports(
                db=self.db,
                store=AdvisorStore(),
                facts=self.facts,
                credentials=credentials,
                aliases=aliases,
                offers=offers,
                receipts=receipts,
                alerts=alerts,
                messenger=messenger,
                runes=self.runes,
                signer=Signer(),
                kill_switch=KillSwitch(self.db, self.facts, path / "hive", now=now),
                commands=Commands,
                node_id=NODE_ID,
                now=now,
                random_bytes=lambda n: next(random).to_bytes(n, "big"),
                log=_quiet,
            )
        )

    async def _secret(self, text: str) -> bytes:
        return b"\x05" * 32


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.identity.load_or_create()
    return made


async def test_a_renewed_credential_has_a_new_rune_and_the_old_one_is_blacklisted(world: World) -> None:
    first = await world.service.authorize(Hire(AGENT, "fees"))
    second = await world.service.authorize(Hire(AGENT, "fees"))
    assert (first.row.rune_id, second.row.rune_id) == ("1", "2")
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_revocation_counts_what_was_cancelled_and_blacklists_the_rune(world: World) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    done = await world.service.revoke("advisor-1", "enough")
    assert (done.cancelled, done.rune_blacklisted, world.runes.blacklisted) == (3, True, ["1"])
    world.db.close()


async def test_a_rune_that_could_not_be_blacklisted_is_tried_again(world: World) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    world.runes.reachable = False
    done = await world.service.revoke("advisor-1", "")
    assert not done.rune_blacklisted
    assert not await world.service.blacklist_pending()
    world.runes.reachable = True
    assert await world.service.blacklist_pending()
    assert world.runes.blacklisted == ["1"]
    await world.service.blacklist_pending()
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_a_rune_of_a_hire_that_could_not_be_stored_is_blacklisted_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(AdvisorStore, "add_credential", broken)
    with pytest.raises(StoreError):
        await world.service.authorize(Hire(AGENT, "fees"))
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_the_rune_itself_is_in_no_readable_column(world: World, tmp_path: Path) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    world.db.close()
    stored = (tmp_path / "comms.db").read_bytes()
    assert b"rune-1" not in stored
