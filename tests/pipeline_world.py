"""A command pipeline over a real database and a small node that can misbehave, for tests."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from cl_hive_comms.domain.access_fee import AccessTerms
from cl_hive_comms.domain.compensation import PayTerms
from cl_hive_comms.domain.emergency import ENGAGED
from cl_hive_comms.domain.handoff import Handoff
from cl_hive_comms.domain.payment_limits import Limits
from cl_hive_comms.domain.policy import PolicySnapshot
from cl_hive_comms.domain.policy_document import parse_document, preset_document
from cl_hive_comms.services.command_capabilities import About
from cl_hive_comms.services.command_pipeline import Pipeline, PipelineParts, build_pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.intake import Ingress
from cl_hive_comms.services.node_backups import NodeBackups
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.trust_service import TrustService
from cl_hive_comms.storage import command_store
from cl_hive_comms.storage.access_store import AccessStore
from cl_hive_comms.storage.channel_name_store import ChannelNameStore
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.config_store import ConfigStore
from cl_hive_comms.storage.fee_store import FeeStore
from cl_hive_comms.storage.htlc_seen_store import HtlcSeenStore
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.presence_store import PresenceStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.report_store import ReportStore
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore
from cl_hive_comms.storage.spend_store import SpendStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore
from cl_hive_comms.storage.trust_store import TrustStore
from hive_shared import credential as credentials
from hive_shared import crypto, envelope
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue, encode
from hive_shared.credential import Credential
from hive_shared.credential_scope import TEMPLATES
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import EmergencyStop, HiveError, from_symbol
from hive_shared.registry import Tier
from hive_shared.sealed_file import written
from hive_shared.store import Db, Tx
from msgspec.structs import replace
from pipeline_node import HSM_KEY, NODE_ID, NOW, NodeFake, node_id_of

MIGRATIONS = Path(command_store.__file__).parent / "migrations"
NODE_KEY = Secret((5).to_bytes(32, "big"))
AGENT_KEY = Secret((3).to_bytes(32, "big"))
SEALER = Sealer({1: Secret(b"s" * 32)}, 1)
OTHER_KEY = Secret((11).to_bytes(32, "big"))


@cache
def migrated() -> bytes:
    """A database with all its tables: making one syncs the disk at every migration."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "empty.db"
        Db.open(path, MIGRATIONS).close()
        return path.read_bytes()


class Crash(BaseException):
    """The process dies here."""


class View(msgspec.Struct, frozen=True):
    credential: Credential
    advisor_id: str
    status: str = "active"
    superseded_by: str | None = None
    trust_pinned: bool = False
    vc: str | None = None

    @property
    def trust(self) -> Fraction:
        return self.credential.trust


class CredentialsFake:
    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self.strangers_asked = 0
        self.approvers: set[str] = set()
        self.since: dict[str, int] = {}

    def add(self, view: View) -> None:
        self.views[view.credential.credential_id] = view

    async def current(self, credential_id: str) -> View | None:
        return self.views.get(credential_id)

    def standing(self, tx: Tx, credential_id: str) -> str | None:
        view = self.views.get(credential_id)
        return None if view is None else view.status

    def knows(self, sender_key: str) -> bool:
        self.strangers_asked += 1
        issued = (view.credential.agent_key for view in self.views.values())
        return sender_key in self.approvers or sender_key in issued


class Archon:
    """Finds every credential good until told to refuse."""

    def __init__(self) -> None:
        self.refuses: HiveError | None = None
        self.asked: list[tuple[str, str, str]] = []

    async def verify(self, credential_id: str, schema: str, action: str) -> None:
        self.asked.append((credential_id, schema, action))
        if self.refuses is not None:
            raise self.refuses


class Revoking:
    """Ends the credentials of a CredentialsFake."""

    def __init__(self, credentials: CredentialsFake) -> None:
        self.credentials = credentials
        self.reasons: list[str] = []

    def active(self) -> tuple[str, ...]:
        return tuple(key for key, view in self.credentials.views.items() if view.status == "active")

    async def revoke_all(self, reason: str) -> int:
        self.reasons.append(reason)
        ended = self.active()
        for key in ended:
            self.credentials.views[key] = replace(self.credentials.views[key], status="revoked")
        return len(ended)


class Policies:
    def __init__(self, preset: str) -> None:
        self.now = PolicySnapshot(1, preset, preset_document(preset))

    def snapshot(self) -> PolicySnapshot:
        return self.now

    def override(self, preset: str, **overrides: JsonValue) -> None:
        document = parse_document({"policy_version": 1, "preset": preset, "overrides": overrides})
        self.now = PolicySnapshot(self.now.version + 1, preset, document)


class Stops:
    """What an emergency stop of tests raises: as services.kill_switch does."""

    def engaged(self) -> bool:
        raise NotImplementedError

    def check(self) -> None:
        if self.engaged():
            raise EmergencyStop(ENGAGED)


@dataclass
class Switch(Stops):
    on: bool = False
    drain: bool = False

    def engaged(self) -> bool:
        return self.on

    def draining(self) -> bool:
        return self.drain


@dataclass
class Outside:
    """What the pipeline tells others."""

    alerts: list[tuple[Level, str, str]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    kicks: int = 0
    waiting: tuple[int, int] = (0, 0)

    def queued(self, tx: Tx, recipient: str) -> tuple[int, int]:
        return self.waiting

    def raise_in(self, tx: Tx, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        self.alerts.append((level, code, text))

    def enqueue(self, tx: Tx, **message: Any) -> None:
        self.sent.append(message)

    def kick(self) -> None:
        self.kicks += 1

    async def credential_ack(self, credential_id: str, sender_key: str, accepted: bool) -> bool:
        return True

    async def resend_credential(self, credential_id: str) -> None:
        self.kicks += 0


class HandoffsFake:
    """Handoffs that a test began, by the world's clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.running: list[Handoff] = []

    def check_write(self, advisor_id: str) -> None:
        for each in self.running:
            if why := each.refusal(advisor_id, self._world.now):
                raise from_symbol("permission_denied", why)

    def gives_way(self, advisor_id: str, other: str) -> bool:
        return any((each.incoming, each.outgoing) == (advisor_id, other) for each in self.running)


class Keys:
    pubkey = crypto.xonly_pubkey(NODE_KEY)

    def secret(self) -> Secret:
        return NODE_KEY


def issue(
    agent: Secret = AGENT_KEY,
    template: str = "fee_optimization",
    *,
    tier: Tier | None = None,
    constraints: Mapping[str, JsonValue] | None = None,
    coordination: Mapping[str, JsonValue] | None = None,
    trust: Fraction = Fraction(1),
    number: int = 1,
    valid: tuple[int, int] = (NOW - 1_000, NOW + 30 * 86_400),
    issuer: Secret = HSM_KEY,
    schemas: tuple[str, ...] | None = None,
    access: Mapping[str, JsonValue] | None = None,
    compensation: Mapping[str, JsonValue] | None = None,
) -> Credential:
    """A credential that the node's Lightning key signed; `schemas` in place of the template's."""
    chosen = TEMPLATES[template]
    chosen = chosen if schemas is None else replace(chosen, schemas=schemas)
    unsigned = credentials.new(
        credential_id=f"00000000-0000-4000-8000-{number:012x}",
        node_id=NODE_ID,
        issuer_id=node_id_of(issuer),
        agent_key=crypto.xonly_pubkey(agent),
        template=chosen if tier is None else replace(chosen, tier=tier),
        constraints=constraints,
        coordination=coordination,
        access=access,
        compensation=compensation,
        trust=trust,
        valid_from=valid[0],
        valid_until=valid[1],
    )
    return credentials.with_signature(
        unsigned, crypto.cln_sign_message(issuer, credentials.signing_text(unsigned))
    )


class World:
    """One node with the pipeline; `restart` builds the pipeline anew over the same file."""

    def __init__(self, directory: Path, *, preset: str = "moderate", channels: int = 4) -> None:
        self.path = directory / "comms.db"
        self.now = NOW
        self.ms = NOW * 1_000
        self.node = NodeFake(channels)
        self.credentials = CredentialsFake()
        self.revoking = Revoking(self.credentials)
        self.policies = Policies(preset)
        self.handoffs = HandoffsFake(self)
        self.supervised = True
        self.access_terms = AccessTerms()
        self.pay_terms = PayTerms()
        self.limits_now = Limits(50_000, 200_000, 25_000, 0, 10_000)
        self.switch = Switch()
        self.archon = Archon()
        self.out = Outside()
        self.log: list[tuple[str, str, dict[str, object]]] = []
        self.crash_at: str | None = None
        self.nonces = itertools.count(1)
        self.random = itertools.count(1)
        self.operator_key: str | None = crypto.xonly_pubkey(OTHER_KEY)
        self.backups = NodeBackups(
            directory / "backup",
            self._own_backup,
            lambda: self.operator_key,
            lambda n: next(self.random).to_bytes(n, "big"),
        )
        self.credentials.add(View(issue(), "adv-1"))
        directory.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.path.write_bytes(migrated())
        self.db = self._open()
        self.pipeline = self._build()

    def _open(self) -> Db:
        return Db.open(self.path, MIGRATIONS)

    def _build(self) -> Pipeline:
        self.receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            Keys(),
            node_id=lambda: NODE_ID,
            node_keys=lambda: (Keys.pubkey,),
            signmessage=self.node.signmessage,
            now=lambda: self.now,
        )
        self.push = CommandPush(CommandStore(), Keys(), self.out, lambda: self.now)
        self.limits = PaymentLimits(
            *(self.db, PaymentStore(SEALER), LockStore(SEALER), self.out),
            limits=lambda: self.limits_now,
            advisor_daily=lambda _advisor: None,
            now=lambda: self.now,
        )
        return build_pipeline(
            PipelineParts(
                db=self.db,
                commands=SealedCommandStore(SEALER),
                fees=FeeStore(),
                saved=SavedChannelStore(),
                settings=ConfigStore(),
                htlcs=HtlcSeenStore(),
                names=ChannelNameStore(),
                spends=SpendStore(),
                telemetry_rows=TelemetryStore(),
                presence_rows=PresenceStore(),
                report_rows=ReportStore(),
                revoking=self.revoking,
                backups=self.backups,
                receipt_rows=ReceiptStore(),
                access_rows=AccessStore(),
                payment_rows=PaymentStore(SEALER),
                payment_limits=self.limits,
                pay_terms=lambda: self.pay_terms,
                receipts=self.receipts,
                push=self.push,
                identity=Keys(),
                credentials=self.credentials,
                verify_credential=self.archon.verify,
                policies=self.policies,
                handoffs=self.handoffs,
                kill_switch=self.switch,
                alerts=self.out,
                messages=self.out,
                acknowledgements=self.out,
                trust=TrustService(
                    self.db, TrustStore(), known_since=self.credentials.since.get, now=lambda: self.now
                ),
                node=self.node,
                state_key=b"k" * 32,
                access_key=Secret(b"a" * 32),
                access_terms=lambda: self.access_terms,
                node_id=NODE_ID,
                network="regtest",
                about=lambda: About(
                    "0.1.0", Keys.pubkey, NODE_ID, "regtest", ("nostr_dm", "rest"), ("wss://r",), 300
                ),
                trusted_issuers=lambda: (),
                max_skew_s=lambda: 300,
                supervised=lambda: self.supervised,
                now=lambda: self.now,
                now_ms=lambda: self.ms,
                random_bytes=lambda n: next(self.random).to_bytes(n, "big"),
                log=lambda level, event, **fields: self.log.append((level, event, fields)),
                fault=self._fault,
                window_ms=50,
                swap_rpcs=self.swap_rpcs,
            )
        )

    def swap_rpcs(self) -> tuple[str, str]:
        """The methods configured for swaps out and in."""
        return "", ""

    @staticmethod
    async def _own_backup(path: Path, passphrase: Secret) -> None:
        """Stands for the service that writes this plugin's rows, which needs a whole plugin."""
        with written(path, None, os.urandom) as out:
            out.write(b"rows")

    async def _fault(self, point: str) -> None:
        if point == self.crash_at:
            self.crash_at = None
            raise Crash(point)

    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.ms += seconds * 1_000

    def restart(self) -> None:
        """The process ended and is back: nothing in memory is left."""
        self.db.close()
        self.db = self._open()
        self.pipeline = self._build()

    def close(self) -> None:
        self.db.close()

    # -- commands ---------------------------------------------------------------------------------

    def envelope(
        self,
        schema: str,
        action: str,
        params: JsonValue,
        *,
        agent: Secret = AGENT_KEY,
        credential: int | dict[str, JsonValue] | None = 1,
        nonce: int | None = None,
        **changes: JsonValue,
    ) -> dict[str, JsonValue]:
        """A signed command; `changes` replace fields before signing."""
        doc: dict[str, JsonValue] = {
            "v": 1,
            "schema_type": schema,
            "schema_payload": {"action": action, "params": params},
            "payment_proof": {"method": "none"},
            "nonce": envelope.nonce_json(next(self.nonces) if nonce is None else nonce),
            "timestamp": self.now,
            "node": Keys.pubkey,
            "sender": crypto.xonly_pubkey(agent),
        }
        if isinstance(credential, dict):
            doc["credential"] = credential
        elif credential is not None:
            doc["credential"] = {"credential_id": f"00000000-0000-4000-8000-{credential:012x}"}
        return envelope.sign_command(agent, {**doc, **changes})

    async def handle(
        self, doc: Mapping[str, JsonValue] | bytes, *, transport: str = "local", sender: str | None = None
    ) -> dict[str, Any] | None:
        """Run one envelope through the pipeline; checks the response's signature."""
        raw = doc if isinstance(doc, bytes) else encode(dict(doc))
        who = sender or (str(doc["sender"]) if not isinstance(doc, bytes) else crypto.xonly_pubkey(AGENT_KEY))
        ingress = Ingress(transport, who, f"m{next(self.random)}", self.now)
        response: dict[str, Any] | None = await self.pipeline.commands.handle(raw, ingress)
        assert response is None or envelope.verify_response(response, Keys.pubkey)
        return response

    async def ask(self, schema: str, action: str, params: JsonValue, **options: Any) -> dict[str, Any]:
        """Sign, send and get the answer."""
        transport = options.pop("transport", "local")
        response = await self.handle(self.envelope(schema, action, params, **options), transport=transport)
        assert response is not None
        return response

    async def set_fee(self, ppm: int, channel: str = "101x1x0", **options: Any) -> dict[str, Any]:
        """`set_single` of a rate."""
        return await self.ask(
            "hive:fee-policy/v1", "set_single", {"channel_id": channel, "fee_ppm": ppm}, **options
        )

    async def docs(self) -> list[dict[str, Any]]:
        """All receipts, oldest first."""
        rows = await self.db.read(lambda tx: ReceiptStore().after(tx, 0, 1_000))
        return [dict(self.receipts.document(row)) for row in rows]

    async def state(self, command_id: str) -> str:
        """Stored state of a command."""
        row = await self.db.read(lambda tx: CommandStore().get(tx, command_id))
        assert row is not None
        return row.state

    @property
    def setchannels(self) -> int:
        """How often the node was told to change a channel."""
        return self.node.calls.count("setchannel")


def slug(response: Mapping[str, Any] | None) -> str | None:
    """Symbol of a response's error."""
    assert response is not None
    error = response.get("error")
    return None if error is None else str(error["slug"])
